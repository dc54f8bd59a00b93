//! Inbound capture of a network namespace: what begins a connection to it from elsewhere is diverted to its workload's gate by
//! TPROXY, as [`super::inbound_rules`] do by cgroup. What the namespace says to itself is its own matter.
//!
//! Ports of the node itself are left out; who else would listen at one of them answers nobody. Where nobody listens, nothing is
//! diverted: the port is closed. What is left of an earlier connection (TIME_WAIT) counts as somebody.

use tulle_sys::NODE_MARK;

use super::entrances::Entrance;
use super::rules::line;

/// The chains without rules: nothing is captured.
pub(super) fn tables() -> String {
    "  chain enter {
    type filter hook prerouting priority dstnat + 10; policy accept;
  }
  chain node_answer {
    type filter hook output priority -400; policy accept;
  }
  chain divert { }
"
    .to_owned()
}

/// Has what comes from elsewhere enter so; `None`: it is not captured. `own_ports` are the node's.
pub(super) fn enter(script: &mut String, table: &str, own_ports: &[u16], entrance: Option<Entrance>) {
    for chain in ["enter", "node_answer", "divert"] {
        line(script, format_args!("flush chain inet {table} {chain}"));
    }
    let Some(entrance) = entrance.filter(|entrance| *entrance != Entrance::Direct) else { return };
    let mut rule = |chain: &str, rule: &str| {
        line(script, format_args!("add rule inet {table} {chain} {rule}"));
    };
    if let Entrance::Gate(port) = entrance {
        rule("divert", &format!("meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{port} accept"));
        rule("divert", &format!("meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{port} accept"));
    }
    // Where its gate has nobody behind it, too.
    rule("divert", "reject with tcp reset");
    rule("enter", "iif lo accept");
    if !own_ports.is_empty() {
        let ports: Vec<_> = own_ports.iter().map(u16::to_string).collect();
        let ports = format!("{{ {} }}", ports.join(", "));
        rule("enter", &format!("tcp dport {ports} accept"));
        rule(
            "node_answer",
            &format!(
                "tcp flags & (syn | ack) == syn | ack tcp sport {ports} meta mark != {NODE_MARK} oif != lo drop"
            ),
        );
    }
    rule(
        "enter",
        "tcp flags & (fin | syn | rst | ack) == syn fib daddr type local socket transparent <= 1 goto divert",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(entrance: Option<Entrance>) -> Vec<String> {
        let mut script = String::new();
        enter(&mut script, "t", &[15_008, 15_020], entrance);
        let added = script.lines().filter_map(|line| line.strip_prefix("add rule inet t "));
        added.map(str::to_owned).collect()
    }

    #[test]
    fn what_comes_from_elsewhere_is_diverted_where_that_is_asked_for() {
        assert_eq!(rules(None), [""; 0]);
        assert_eq!(rules(Some(Entrance::Direct)), [""; 0]);
        let closed = rules(Some(Entrance::Closed));
        let beginning =
            "tcp flags & (fin | syn | rst | ack) == syn fib daddr type local socket transparent <= 1";
        assert_eq!(
            closed,
            [
                "divert reject with tcp reset",
                "enter iif lo accept",
                "enter tcp dport { 15008, 15020 } accept",
                "node_answer tcp flags & (syn | ack) == syn | ack tcp sport { 15008, 15020 } meta mark != 1337 oif != lo drop",
                &format!("enter {beginning} goto divert"),
            ]
        );
        let gate = rules(Some(Entrance::Gate(7)));
        assert_eq!(
            gate[..2],
            [
                "divert meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:7 accept",
                "divert meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:7 accept",
            ]
        );
        assert_eq!(gate[2..], closed);
    }
}
