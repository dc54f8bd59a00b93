//! The nftables rules of a node. The chains are the same for all workloads: a workload is elements of sets and maps, so
//! it comes and goes without a change to the others, and one that nft refuses is refused alone.
//!
//! A workload that is not open is closed: what would be captured is refused, and nothing of it leaves by another way.
//!
//! | chain | hook | what for |
//! |---|---|---|
//! | `zone` | raw | puts the DNS packets of each workload into its conntrack zone: who asks is known of each packet |
//! | `closed` | before NAT | refuses what a closed workload begins, and what can lead nowhere ([`Destinations`]) |
//! | `output` | NAT | redirects to the workload's listeners |
//! | `guard` | after NAT | what is redirected to a listener comes from its own workload |
//! | `receiver` | input | what was redirected is for a node's listener, and nothing else is: its port may be another process's by now |
//! | `begun` | output | ends what a workload began past the proxy when it might, and may not any more |
//! | `reply` | input | counts what becomes of connections to the outside, which the proxy does not see |
//! | `answer` | before NAT | the same of who takes a connection up: of one that has just ended (TIME_WAIT) `receiver` sees no listener |
//!
//! What comes to a workload from outside of the mesh has its chains in [`inbound_rules`].
//!
//! What is known of destinations stands in sets and in chains that follow it: `virtual`, `outside`, `beyond`, `begun`. Until it
//! is known, all TCP is for the proxy to decide, and nothing else begins.
//!
//! Where what may leave the mesh is listed, or is not the same for all workloads, each is in a set (`free`, `listed`) or in none. For those
//! in `originating`, TLS is originated at the ports in `originated`.
//!
//! What is no TCP (UDP, ping) and no DNS only leaves where egress is allowed: the proxy carries none of it. Answers to what
//! came from outside do, as those of TCP. Until the policy is known, what was under way goes on.
//!
//! TCP other than DNS stays outside of zones: the kernel's own answers for sockets that are gone (RST, the last ACK)
//! belong to no cgroup, and would miss their connection. There the guard holds off what an old entry leads astray.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use tulle_model::snapshot::EgressPolicy;
use tulle_sys::cgroup::Cgroup;
use tulle_sys::{LISTENER_MARK, NODE_MARK, PROCESS_MARK};

use super::destinations::{Destinations, Leaving};
use super::entrances::Entrance;
use super::{inbound_rules, namespace_rules};

/// The mesh's virtual addresses.
const VIRTUAL_ADDRESSES: &str = "127.64.0.0/10";

/// The sets that count an open workload's connections, in the order of [`super::Counts`].
pub(super) const COUNTERS: [&str; 6] =
    ["outside_begun", "outside_answered", "outside_refused", "no_service", "no_endpoints", "egress_denied"];

/// How many elements a line of a script has.
const ELEMENTS: usize = 256;

/// Where an open workload's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    pub outbound_port: u16,
    pub dns_port: u16,
    pub zone: u16,
    /// Counts where inbound capture is on.
    pub entrance: Entrance,
    /// Counts where workloads are told apart by it.
    pub egress: Leaving,
}

/// What the name of every table of ours begins with.
const PREFIX: &str = "tulle-";

/// The table of the node with this scope.
pub(super) fn table_name(scope: &str) -> String {
    format!("{PREFIX}{scope}")
}

/// The scope of the node whose table has this name.
pub(super) fn scope_of(table: &str) -> Option<&str> {
    table.strip_prefix(PREFIX)
}

/// Declaring the table first makes the deletion succeed where there is none.
pub(super) fn removal(table: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// Whose packets the rules of a table are for, and how they are known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Extent<'a> {
    /// Those of the cgroups in this one, each a workload's.
    Cgroups(&'a Cgroup),
    /// All of the network namespace, which is one workload's, but what the node has marked as its own.
    Namespace,
}

impl Extent<'_> {
    /// What tells workloads apart, as keys of sets and maps have it. In a namespace there is one: a packet is of IPv4 or of
    /// IPv6, and both are its.
    fn key(self) -> String {
        match self {
            Self::Cgroups(node) => format!("socket cgroupv2 level {}", node.level() + 1),
            Self::Namespace => "meta nfproto".to_owned(),
        }
    }

    fn key_type(self) -> &'static str {
        match self {
            Self::Cgroups(_) => "cgroupsv2",
            Self::Namespace => "nf_proto",
        }
    }
}

/// A workload, as sets and maps know it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Member<'a> {
    Cgroup(&'a Cgroup),
    Namespace,
}

impl Member<'_> {
    fn keys(self) -> Vec<String> {
        match self {
            Self::Cgroup(cgroup) => vec![format!("\"{}\"", cgroup.nft_path())],
            Self::Namespace => ["ipv4", "ipv6"].map(str::to_owned).into(),
        }
    }
}

/// Lets pass what the node sends itself, which in a network namespace no cgroup tells apart.
fn own_of_node() -> String {
    format!("meta mark {{ {NODE_MARK}, {PROCESS_MARK} }} accept")
}

/// The same of what goes to addresses of the namespace itself.
const LOCAL: &str = "fib daddr type local accept";

/// The table without an open workload and a known destination, in place of the one before.
pub(super) fn table(table: &str, extent: Extent<'_>) -> String {
    let (key, key_type) = (extent.key(), extent.key_type());
    let counters = COUNTERS.map(|name| format!("  set {name} {{ type {key_type}; counter; }}\n")).concat();
    // What goes to the namespace's own addresses does not leave it. Neighbours and groups are the kernel's own matter.
    let own = own_of_node();
    let own_answers = format!("socket mark {{ {NODE_MARK}, {PROCESS_MARK} }} accept");
    let neighbours = "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, \
                      mld-listener-query, mld-listener-report, mld2-listener-report } accept\n    meta l4proto 2 accept";
    // Before the NAT of others: what a container's engine does with DNS, too.
    let (set, all, own, own_answers, local, neighbours, nat, inbound) = match extent {
        Extent::Cgroups(node) => {
            let set = format!("  set node {{ type cgroupsv2; elements = {{ \"{}\" }}; }}\n", node.nft_path());
            let all = format!("socket cgroupv2 level {} @node ", node.level());
            (set, all, "", "", "", "", -100, inbound_rules::tables())
        }
        Extent::Namespace => {
            let local = LOCAL;
            let inbound = namespace_rules::tables();
            (String::new(), String::new(), &*own, &*own_answers, local, neighbours, -101, inbound)
        }
    };
    format!(
        r#"{removal}table inet {table} {{
{set}  set open {{ type {key_type}; }}
  map zones {{ typeof {key} : ct original zone; }}
  map dns {{ type {key_type} : inet_service; }}
  map outbound {{ type {key_type} : inet_service; }}
  set listeners {{ type inet_proto . inet_service; }}
  set callers {{ type {key_type} . inet_service; }}
  set free {{ type {key_type}; }}
  set listed {{ type {key_type}; }}
  set originating {{ type {key_type}; }}
  set originated {{ type inet_service; }}
  set unlearned {{ type ipv4_addr; }}
  set offered {{ type ipv4_addr . inet_service; }}
  set deserted {{ type ipv4_addr . inet_service; }}
{counters}{inbound}
  chain zone {{
    type filter hook output priority raw; policy accept;
    {own}
    meta l4proto {{ tcp, udp }} th dport 53 ct original zone set {key} map @zones
  }}
  chain closed {{
    type filter hook output priority -150; policy accept;
    {own}
    tcp flags & (syn | ack) == syn {all}goto workload
    udp dport 53 {all}goto workload
    meta l4proto != tcp {all}goto datagram
  }}
  chain datagram {{
    {neighbours}
    ip daddr {VIRTUAL_ADDRESSES} goto refuse
    ct direction reply accept
    goto elsewhere
  }}
  chain workload {{
    th dport 53 ct original zone 0 goto refuse
    {key} @open goto captured
    th dport 53 goto refuse
    ip daddr {VIRTUAL_ADDRESSES} goto refuse
    goto elsewhere
  }}
  chain captured {{
    th dport 53 accept
    ip daddr {VIRTUAL_ADDRESSES} goto virtual
    goto elsewhere
  }}
  chain elsewhere {{
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
    {local}
    goto outside
  }}
  chain virtual {{
  }}
  chain outside {{
    meta l4proto tcp {key} @open accept
    ct state established accept
    goto refuse
  }}
  chain output {{
    type nat hook output priority {nat}; policy accept;
    {own}
    meta l4proto {{ tcp, udp }} th dport 53 redirect to :{key} map @dns
    ip daddr {VIRTUAL_ADDRESSES} meta l4proto tcp redirect to :{key} map @outbound
    ip daddr 127.0.0.0/8 accept
    {local}
    goto beyond
  }}
  chain beyond {{
    ip6 daddr ::1 accept
    meta l4proto tcp redirect to :{key} map @outbound
  }}
  chain guard {{
    type filter hook output priority filter; policy accept;
    tcp flags & (syn | ack) != syn accept
    ct status & dnat == 0 accept
    ip daddr 127.0.0.1 meta l4proto . th dport @listeners goto caller
    ip6 daddr ::1 meta l4proto . th dport @listeners goto caller
  }}
  chain begun {{
    type filter hook output priority filter; policy accept;
  }}
  chain caller {{
    {key} . th dport @callers accept
    goto refuse
  }}
  chain receiver {{
    type filter hook input priority filter; policy accept;
    tcp flags & (syn | ack) != syn accept
    ip daddr 127.0.0.1 meta l4proto . th dport @listeners goto received
    ip6 daddr ::1 meta l4proto . th dport @listeners goto received
  }}
  chain received {{
    ct status & dnat == dnat socket mark != {LISTENER_MARK} goto refuse
    ct status & dnat == 0 socket mark {LISTENER_MARK} goto refuse
    ct status & dnat == 0 socket transparent 1 goto refuse
  }}
  chain reply {{
    type filter hook input priority filter; policy accept;
    tcp flags & (syn | rst) == 0x0 accept
    ip saddr 127.0.0.0/8 accept
    ip6 saddr ::1 accept
    {own_answers}
    ct direction original accept
    ct status & (confirmed | dnat) != confirmed accept
    tcp flags & (syn | rst) == syn {key} @outside_answered accept
    tcp flags & rst == rst ct status & assured == 0 {key} @outside_refused accept
  }}
  chain answer {{
    type filter hook output priority -150; policy accept;
    tcp flags & (syn | ack) != syn | ack accept
    ip saddr 127.0.0.1 meta l4proto . th sport @listeners goto answered
    ip6 saddr ::1 meta l4proto . th sport @listeners goto answered
  }}
  chain answered {{
    ct status & dnat == dnat meta mark != {LISTENER_MARK} drop
    ct status & dnat == 0 meta mark {LISTENER_MARK} drop
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx port-unreachable
  }}
}}
"#,
        removal = removal(table),
    )
}

/// Takes the rules from what was known of destinations to what is known now.
pub(super) fn follow(
    script: &mut String,
    table: &str,
    extent: Extent<'_>,
    before: Option<&Destinations>,
    now: &Destinations,
) {
    let key = extent.key();
    let mut chain = |name: &str, rules: &[&str]| {
        line(script, format_args!("flush chain inet {table} {name}"));
        for rule in rules {
            line(script, format_args!("add rule inet {table} {name} {rule}"));
        }
    };
    if before.is_none() {
        let count = |set: &str| format!("{key} @{set} goto refuse");
        let deserted = format!("ip daddr . tcp dport @deserted {}", count("no_endpoints"));
        chain(
            "virtual",
            &[
                "ip daddr @unlearned accept",
                "ip daddr . tcp dport @offered accept",
                &deserted,
                &count("no_service"),
                "goto refuse",
            ],
        );
    }
    if before.is_none_or(|before| before.egress != now.egress) {
        let own = |set: &str, then: &str| format!("{key} @{set} {then}");
        let denied = own("egress_denied", "goto refuse");
        // What came from outside is no workload's doing, and what is redirected the proxy ends. A reset ends it for the other side.
        let ended = format!("ct direction original ct status & dnat != dnat {}", own("open", "goto refuse"));
        let node = own_of_node();
        let others: &[&str] = match extent {
            Extent::Cgroups(_) => &[],
            Extent::Namespace => &[&node, LOCAL],
        };
        let begun = [
            "meta l4proto != tcp accept",
            "tcp flags & rst == rst accept",
            "ip daddr 127.0.0.0/8 accept",
            "ip6 daddr ::1 accept",
            &own("free", "accept"),
            &ended,
        ];
        let begun = [others, &begun].concat();
        chain("begun", if now.egress.ends_what_anybody_began() { &begun } else { &[] });
        match now.egress.of_all() {
            Some(EgressPolicy::Allow) => {
                chain("outside", &["accept"]);
                let count = format!("meta l4proto tcp {key} @outside_begun accept");
                chain("beyond", &["ip6 daddr ::1 accept", &count]);
            }
            Some(EgressPolicy::Deny) => {
                chain("outside", &[&denied, "goto refuse"]);
                chain("beyond", &[]);
            }
            // Each workload by itself.
            Some(EgressPolicy::Listed) | None => {
                let proxied = format!("meta l4proto tcp {}", own("listed", "accept"));
                chain("outside", &[&own("free", "accept"), &proxied, &denied, "goto refuse"]);
                let redirect = format!("redirect to :{key} map @outbound");
                let to_proxy = format!("meta l4proto tcp {}", own("listed", &redirect));
                let in_tls = format!("tcp dport @originated {}", own("originating", &redirect));
                let begun = own("outside_begun", "accept");
                let count = format!("meta l4proto tcp {}", own("free", &begun));
                let originates = now.egress.originates_tls.then_some(&*in_tls);
                let rules =
                    ["ip6 daddr ::1 accept", &to_proxy].into_iter().chain(originates).chain([&*count]);
                chain("beyond", &rules.collect::<Vec<_>>());
            }
        }
    }
    let none = BTreeSet::new();
    let unlearned = before.map_or(&none, |before| &before.unlearned);
    difference(script, table, "unlearned", unlearned, &now.unlearned, |address| address.to_string());
    let none = BTreeSet::new();
    let port = |(address, port): &(Ipv4Addr, u16)| format!("{address} . {port}");
    let offered = before.map_or(&none, |before| &before.offered);
    difference(script, table, "offered", offered, &now.offered, port);
    let deserted = before.map_or(&none, |before| &before.deserted);
    difference(script, table, "deserted", deserted, &now.deserted, port);
    let none = BTreeSet::new();
    let originated = before.map_or(&none, |before| &before.originated);
    difference(script, table, "originated", originated, &now.originated, u16::to_string);
}

fn difference<T: Ord>(
    script: &mut String,
    table: &str,
    set: &str,
    before: &BTreeSet<T>,
    now: &BTreeSet<T>,
    text: impl Fn(&T) -> String,
) {
    for (verb, old, new) in [("delete", now, before), ("add", before, now)] {
        let elements: Vec<_> = new.difference(old).map(&text).collect();
        for some in elements.chunks(ELEMENTS) {
            line(script, format_args!("{verb} element inet {table} {set} {{ {} }}", some.join(", ")));
        }
    }
}

pub(super) fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(script, "{text}").expect("writing to a String cannot fail");
}

/// Opens a workload.
pub(super) fn open(script: &mut String, table: &str, member: Member<'_>, opening: Opening) {
    elements(script, "add", table, member, opening);
}

/// Closes a workload that was opened so.
pub(super) fn close(script: &mut String, table: &str, member: Member<'_>, opening: Opening) {
    elements(script, "delete", table, member, opening);
}

/// Has (`add`) what may leave of a workload go by its policy, or no longer (`delete`).
pub(super) fn egress(script: &mut String, verb: &str, table: &str, member: Member<'_>, leaving: Leaving) {
    let sets: &[&str] = match leaving {
        Leaving::Freely => &["free"],
        Leaving::InTls => &["free", "originating"],
        Leaving::Listed => &["listed"],
        Leaving::Nothing => &[],
    };
    for set in sets {
        for key in member.keys() {
            line(script, format_args!("{verb} element inet {table} {set} {{ {key} }}"));
        }
    }
}

fn elements(script: &mut String, verb: &str, table: &str, member: Member<'_>, opening: Opening) {
    let Opening { outbound_port, dns_port, zone, .. } = opening;
    let mut element = |set: &str, what: std::fmt::Arguments<'_>| {
        line(script, format_args!("{verb} element inet {table} {set} {{ {what} }}"));
    };
    for key in member.keys() {
        element("open", format_args!("{key}"));
        element("zones", format_args!("{key} : {zone}"));
        element("dns", format_args!("{key} : {dns_port}"));
        element("outbound", format_args!("{key} : {outbound_port}"));
        element("callers", format_args!("{key} . {outbound_port}, {key} . {dns_port}"));
        for counter in COUNTERS {
            // What it has counted is not needed to find it.
            let initial = if verb == "add" { " counter" } else { "" };
            element(counter, format_args!("{key}{initial}"));
        }
    }
    element("listeners", format_args!("tcp . {outbound_port}, tcp . {dns_port}, udp . {dns_port}"));
    if let Member::Cgroup(cgroup) = member {
        inbound_rules::elements(script, verb, table, cgroup, opening);
    }
    egress(script, verb, table, member, opening.egress);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tulle_model::snapshot::{MeshSettings, Snapshot};
    use tulle_proxy::state::NodeState;
    use tulle_sys::nft;

    use super::*;

    fn destinations(egress: EgressPolicy) -> Destinations {
        let mesh = MeshSettings { egress, ..MeshSettings::default() };
        let snapshot = Snapshot { mesh: Arc::new(mesh), ..Snapshot::default() };
        Destinations::of(&NodeState { snapshot: Arc::new(snapshot), ..NodeState::default() })
    }

    /// What a chain of a table does.
    fn chain<'a>(script: &'a str, name: &str) -> Vec<&'a str> {
        let lines = script.lines().map(str::trim).skip_while(|line| *line != format!("chain {name} {{"));
        lines.skip(1).take_while(|line| *line != "}").filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn all_of_a_namespace_is_captured_but_what_the_node_has_marked() {
        let text = table("t", Extent::Namespace);
        assert!(!text.contains("cgroup"), "{text}");
        for name in ["zone", "closed", "output"] {
            let rules = chain(&text, name);
            assert!(rules[0].contains(" hook output "), "{rules:?}");
            assert_eq!(rules[1], format!("meta mark {{ 1337, {PROCESS_MARK} }} accept"), "{name}");
        }
        assert_eq!(
            chain(&text, "closed")[2..],
            [
                "tcp flags & (syn | ack) == syn goto workload",
                "udp dport 53 goto workload",
                "meta l4proto != tcp goto datagram",
            ]
        );
        // Before the NAT of who made the namespace.
        assert_eq!(chain(&text, "output")[0], "type nat hook output priority -101; policy accept;");
        let own = |rules: &[&str]| rules.iter().position(|rule| *rule == "fib daddr type local accept");
        for name in ["elsewhere", "output"] {
            let rules = chain(&text, name);
            assert_eq!(own(&rules), Some(rules.len() - 2), "{rules:?}");
        }
        assert!(chain(&text, "reply").contains(&&*format!("socket mark {{ 1337, {PROCESS_MARK} }} accept")));
    }

    #[test]
    fn a_namespace_is_opened_for_packets_of_both_families() {
        let opening = Opening {
            outbound_port: 7,
            dns_port: 8,
            zone: 0x8001,
            entrance: Entrance::Closed,
            egress: Leaving::Listed,
        };
        let mut script = String::new();
        open(&mut script, "t", Member::Namespace, opening);
        for family in ["ipv4", "ipv6"] {
            for element in [
                format!("open {{ {family} }}"),
                format!("zones {{ {family} : 32769 }}"),
                format!("dns {{ {family} : 8 }}"),
                format!("outbound {{ {family} : 7 }}"),
                format!("callers {{ {family} . 7, {family} . 8 }}"),
                format!("listed {{ {family} }}"),
                format!("egress_denied {{ {family} counter }}"),
            ] {
                assert!(script.contains(&format!("add element inet t {element}\n")), "{element}: {script}");
            }
        }
    }

    /// By the kernel that there is, where this process may ask it.
    #[test]
    fn nft_takes_the_rules_of_a_namespace() {
        if !tulle_sys::is_root() {
            return;
        }
        for egress in [EgressPolicy::Allow, EgressPolicy::Listed, EgressPolicy::Deny] {
            for entrance in [None, Some(Entrance::Closed), Some(Entrance::Direct), Some(Entrance::Gate(9))] {
                let mut script = table("tulle-check", Extent::Namespace);
                follow(&mut script, "tulle-check", Extent::Namespace, None, &destinations(egress));
                namespace_rules::enter(&mut script, "tulle-check", &[15_008], entrance);
                let opening = Opening {
                    outbound_port: 7,
                    dns_port: 8,
                    zone: 0x8001,
                    entrance: Entrance::Closed,
                    egress: Leaving::InTls,
                };
                open(&mut script, "tulle-check", Member::Namespace, opening);
                close(&mut script, "tulle-check", Member::Namespace, opening);
                nft::check(&script).unwrap_or_else(|e| panic!("{e}: {script}"));
            }
        }
    }
}
