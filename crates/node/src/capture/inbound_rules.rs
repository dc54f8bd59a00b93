//! Inbound capture: who connects to a process of a workload past the mesh is diverted to the workload's gate, a listener of
//! the proxy, by TPROXY: the connection keeps both its addresses. (`redirect` would see no client of this host: the kernel asks
//! NAT once for each connection, at its first hook, and that was on the way out.)
//!
//! | chain | hook | what for |
//! |---|---|---|
//! | `sender` | output | marks what a workload begins towards this host, so that it is known where it arrives |
//! | `enter` | after destination NAT | finds who listens there, by its cgroup, and diverts what is not the workload's own |
//!
//! Only what begins a connection is looked at, and only what this host answers; the kernel leads the rest where the
//! beginning went. Where nobody listens, or somebody else, nothing is diverted. Two come through: the workload itself, and
//! whoever has the mark of connections to processes, which no workload can keep. A workload that is not captured, where others
//! are, is entered as if nothing were; one without a gate, of which that is not known, is closed.
//!
//! A beginning may meet what is left of an earlier connection between the same ports (TIME_WAIT), which has no cgroup and is
//! led to whoever listens by now: past the gate. So it is remembered for as long whose address and port was whose.
//!
//! Workloads are told apart by their zones, in two forms: as a mark (of packets), and as a class (`meta priority`, which
//! means nothing for what arrives), as a rule can hold one of them while it looks for another.

use tulle_sys::PROCESS_MARK;
use tulle_sys::cgroup::Cgroup;

use super::entrances::Entrance;
use super::rules::{Opening, line};

/// The mark of a workload that is not open; with its number in the lower half, of one that is.
const WORKLOAD_MARK: u32 = 0x7474_0000;

/// Zones count from here. As a mark, the number is free of the bits that others are fond of, those of `kube-proxy` (0x8000,
/// 0x4000) among them, as long as there are not very many workloads.
const FIRST_ZONE: u16 = 0x8000;

/// The sets, and the chains without rules: nothing is captured.
pub(super) fn tables() -> String {
    // TIME_WAIT lasts a minute.
    let lately = "flags dynamic, timeout; timeout 2m; size 65535;";
    // nft 1.0.6 mixes the address up with the class in a map from IPv6 addresses and ports: there the two are a set, and the
    // class is found by the port alone.
    format!(
        "  map marks {{ type cgroupsv2 : mark; }}
  map receivers {{ type cgroupsv2 : classid; }}
  map gates {{ type classid : inet_service; }}
  set direct {{ type classid; }}
  set itself {{ type classid . mark; }}
  map lately4 {{ type inet_service . ipv4_addr : classid; {lately} }}
  set lately6 {{ type inet_service . classid . ipv6_addr; {lately} }}
  map lately6_ports {{ type inet_service : classid; {lately} }}
  chain sender {{
    type filter hook output priority mangle; policy accept;
  }}
  chain enter {{
    type filter hook prerouting priority dstnat + 10; policy accept;
  }}
  chain workload_mark {{ }}
  chain arrive {{ }}
  chain receive {{ }}
  chain divert {{ }}
  chain again {{ }}
  chain again6 {{ }}
"
    )
}

/// Turns it on or off, for all workloads. `node` holds their cgroups.
pub(super) fn turn(script: &mut String, table: &str, node: &Cgroup, on: bool) {
    let (node, level) = (node.level(), node.level() + 1);
    let rules: [(&str, &[&str]); 8] = [
        (
            "workload_mark",
            &[
                &format!("socket cgroupv2 level {node} @node meta mark set {WORKLOAD_MARK}"),
                &format!("meta mark set socket cgroupv2 level {level} map @marks"),
            ],
        ),
        ("again6", &["tcp dport . meta priority . ip6 daddr @lately6 goto divert", "goto refuse"]),
        (
            "again",
            &[
                "meta priority set tcp dport . ip daddr map @lately4 goto divert",
                "meta nfproto ipv6 meta priority set tcp dport map @lately6_ports goto again6",
            ],
        ),
        (
            "divert",
            &[
                "meta priority @direct accept",
                &format!("iif lo meta mark {PROCESS_MARK} accept"),
                "iif lo meta priority . meta mark @itself accept",
                "meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:meta priority map @gates accept",
                "meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:meta priority map @gates accept",
                "goto refuse",
            ],
        ),
        (
            "receive",
            &[
                "update @lately4 { tcp dport . ip daddr : meta priority }",
                "meta nfproto ipv6 update @lately6_ports { tcp dport : meta priority }",
                "update @lately6 { tcp dport . meta priority . ip6 daddr }",
                "goto divert",
            ],
        ),
        (
            "arrive",
            &[
                &format!("meta priority set socket cgroupv2 level {level} map @receivers goto receive"),
                &format!("iif lo meta mark {{ {PROCESS_MARK}, {WORKLOAD_MARK} }} accept"),
                &format!("socket cgroupv2 level {node} @node goto refuse"),
                // Somebody else listens there: what is left of a connection does not say this of itself.
                "socket wildcard <= 1 accept",
                "socket transparent <= 1 goto again",
            ],
        ),
        ("sender", &["tcp flags & (syn | ack) == syn fib daddr type local goto workload_mark"]),
        ("enter", &["tcp flags & (fin | syn | rst | ack) == syn fib daddr type local goto arrive"]),
    ];
    // Whoever leads there has to go before what it leads to.
    for (chain, _) in rules.iter().rev() {
        line(script, format_args!("flush chain inet {table} {chain}"));
    }
    for (chain, rules) in rules.iter().filter(|_| on) {
        for rule in *rules {
            line(script, format_args!("add rule inet {table} {chain} {rule}"));
        }
    }
}

/// What there is of an open workload.
pub(super) fn elements(script: &mut String, verb: &str, table: &str, cgroup: &Cgroup, opening: Opening) {
    let (group, zone) = (cgroup.nft_path(), opening.zone);
    let (mark, class) = (mark(zone), format!("0:{zone:x}"));
    line(script, format_args!("{verb} element inet {table} marks {{ \"{group}\" : {mark} }}"));
    line(script, format_args!("{verb} element inet {table} receivers {{ \"{group}\" : {class} }}"));
    line(script, format_args!("{verb} element inet {table} itself {{ {class} . {mark} }}"));
    entrance(script, verb, table, opening);
}

/// Opens (`add`) or closes (`delete`) its entrance alone, if it has one.
pub(super) fn entrance(
    script: &mut String,
    verb: &str,
    table: &str,
    Opening { zone, entrance, .. }: Opening,
) {
    match entrance {
        Entrance::Gate(port) => {
            line(script, format_args!("{verb} element inet {table} gates {{ 0:{zone:x} : {port} }}"));
            line(script, format_args!("{verb} element inet {table} listeners {{ tcp . {port} }}"));
        }
        Entrance::Direct => line(script, format_args!("{verb} element inet {table} direct {{ 0:{zone:x} }}")),
        Entrance::Closed => {}
    }
}

fn mark(zone: u16) -> u32 {
    WORKLOAD_MARK + u32::from(zone - FIRST_ZONE) + 1
}
