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
//! | `guard` | after NAT | lets a workload reach its own listeners, and nobody else |
//! | `receiver` | input | nobody but a node's listener gets what is for one: its port may be another process's by now |
//! | `reply` | input | counts what becomes of connections to the outside, which the proxy does not see |
//! | `answer` | before raw | nor takes anybody else a connection up: of one that has just ended (TIME_WAIT) `receiver` sees no listener |
//!
//! What comes to a workload from outside of the mesh has its chains in [`inbound_rules`].
//!
//! What is known of destinations stands in sets and in three chains that follow it: `virtual`, `outside`, `beyond`. Until it
//! is known, all is for the proxy to decide.
//!
//! Where what may leave the mesh is listed, or is not the same for all workloads, each is in a set (`free`, `listed`) or in none.
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
use tulle_sys::LISTENER_MARK;
use tulle_sys::cgroup::Cgroup;

use super::destinations::Destinations;
use super::entrances::Entrance;
use super::inbound_rules;

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
    pub egress: EgressPolicy,
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

/// The table without an open workload and a known destination, in place of the one before. `node` holds the cgroups of
/// the workloads.
pub(super) fn table(table: &str, node: &Cgroup) -> String {
    let node_level = node.level();
    let level = node_level + 1;
    let counters = COUNTERS.map(|name| format!("  set {name} {{ type cgroupsv2; counter; }}\n")).concat();
    format!(
        r#"{removal}table inet {table} {{
  set node {{ type cgroupsv2; elements = {{ "{node}" }}; }}
  set open {{ type cgroupsv2; }}
  map zones {{ typeof socket cgroupv2 level {level} : ct original zone; }}
  map dns {{ type cgroupsv2 : inet_service; }}
  map outbound {{ type cgroupsv2 : inet_service; }}
  set listeners {{ type inet_proto . inet_service; }}
  set callers {{ type cgroupsv2 . inet_service; }}
  set free {{ type cgroupsv2; }}
  set listed {{ type cgroupsv2; }}
  set unlearned {{ type ipv4_addr; }}
  set offered {{ type ipv4_addr . inet_service; }}
  set deserted {{ type ipv4_addr . inet_service; }}
{counters}{inbound}
  chain zone {{
    type filter hook output priority raw; policy accept;
    meta l4proto {{ tcp, udp }} th dport 53 ct original zone set socket cgroupv2 level {level} map @zones
  }}
  chain closed {{
    type filter hook output priority -150; policy accept;
    tcp flags & (syn | ack) == syn socket cgroupv2 level {node_level} @node goto workload
    udp dport 53 socket cgroupv2 level {node_level} @node goto workload
    meta l4proto != tcp socket cgroupv2 level {node_level} @node goto datagram
  }}
  chain datagram {{
    ip daddr {VIRTUAL_ADDRESSES} goto refuse
    ct direction reply accept
    goto elsewhere
  }}
  chain workload {{
    th dport 53 ct original zone 0 goto refuse
    socket cgroupv2 level {level} @open goto captured
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
    goto outside
  }}
  chain virtual {{
  }}
  chain outside {{
    socket cgroupv2 level {level} @open accept
    ct state established accept
    meta nfproto ipv4 goto refuse
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    meta l4proto {{ tcp, udp }} th dport 53 redirect to :socket cgroupv2 level {level} map @dns
    ip daddr {VIRTUAL_ADDRESSES} meta l4proto tcp redirect to :socket cgroupv2 level {level} map @outbound
    ip daddr 127.0.0.0/8 accept
    goto beyond
  }}
  chain beyond {{
    meta nfproto ipv4 meta l4proto tcp redirect to :socket cgroupv2 level {level} map @outbound
  }}
  chain guard {{
    type filter hook output priority filter; policy accept;
    tcp flags & (syn | ack) != syn accept
    ip daddr 127.0.0.1 meta l4proto . th dport @listeners goto caller
    ip6 daddr ::1 meta l4proto . th dport @listeners goto caller
  }}
  chain caller {{
    socket cgroupv2 level {level} . th dport @callers accept
    goto refuse
  }}
  chain receiver {{
    type filter hook input priority filter; policy accept;
    tcp flags & (syn | ack) != syn accept
    ip daddr 127.0.0.1 meta l4proto . th dport @listeners socket mark != {LISTENER_MARK} goto refuse
    ip6 daddr ::1 meta l4proto . th dport @listeners socket mark != {LISTENER_MARK} goto refuse
  }}
  chain reply {{
    type filter hook input priority filter; policy accept;
    tcp flags & (syn | rst) == 0x0 accept
    ip saddr 127.0.0.0/8 accept
    ip6 saddr ::1 accept
    ct direction original accept
    ct status & (confirmed | dnat) != confirmed accept
    tcp flags & (syn | rst) == syn socket cgroupv2 level {level} @outside_answered accept
    tcp flags & rst == rst ct status & assured == 0 socket cgroupv2 level {level} @outside_refused accept
  }}
  chain answer {{
    type filter hook output priority -400; policy accept;
    tcp flags & (syn | ack) != syn | ack accept
    ip saddr 127.0.0.1 meta l4proto . th sport @listeners meta mark != {LISTENER_MARK} drop
    ip6 saddr ::1 meta l4proto . th sport @listeners meta mark != {LISTENER_MARK} drop
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx port-unreachable
  }}
}}
"#,
        removal = removal(table),
        node = node.nft_path(),
        inbound = inbound_rules::tables(),
    )
}

/// Takes the rules from what was known of destinations to what is known now. `node` holds the cgroups of the workloads.
pub(super) fn follow(
    script: &mut String,
    table: &str,
    node: &Cgroup,
    before: Option<&Destinations>,
    now: &Destinations,
) {
    let level = node.level() + 1;
    let mut chain = |name: &str, rules: &[&str]| {
        line(script, format_args!("flush chain inet {table} {name}"));
        for rule in rules {
            line(script, format_args!("add rule inet {table} {name} {rule}"));
        }
    };
    if before.is_none() {
        let count = |set: &str| format!("socket cgroupv2 level {level} @{set} goto refuse");
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
        let own = |set: &str, then: &str| format!("socket cgroupv2 level {level} @{set} {then}");
        let denied = own("egress_denied", "goto refuse");
        match now.egress.of_all() {
            Some(EgressPolicy::Allow) => {
                chain("outside", &["accept"]);
                let count = format!("meta l4proto tcp socket cgroupv2 level {level} @outside_begun accept");
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
                let to_proxy = format!("redirect to :socket cgroupv2 level {level} map @outbound");
                let to_proxy = format!("meta l4proto tcp {}", own("listed", &to_proxy));
                let begun = own("outside_begun", "accept");
                let count = format!("meta l4proto tcp {}", own("free", &begun));
                chain("beyond", &["ip6 daddr ::1 accept", &to_proxy, &count]);
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
pub(super) fn open(script: &mut String, table: &str, cgroup: &Cgroup, opening: Opening) {
    elements(script, "add", table, cgroup, opening);
}

/// Closes a workload that was opened so.
pub(super) fn close(script: &mut String, table: &str, cgroup: &Cgroup, opening: Opening) {
    elements(script, "delete", table, cgroup, opening);
}

/// Has (`add`) what may leave of a workload go by its policy, or no longer (`delete`).
pub(super) fn egress(script: &mut String, verb: &str, table: &str, cgroup: &Cgroup, policy: EgressPolicy) {
    let set = match policy {
        EgressPolicy::Allow => "free",
        EgressPolicy::Listed => "listed",
        EgressPolicy::Deny => return,
    };
    line(script, format_args!("{verb} element inet {table} {set} {{ \"{}\" }}", cgroup.nft_path()));
}

fn elements(script: &mut String, verb: &str, table: &str, cgroup: &Cgroup, opening: Opening) {
    let Opening { outbound_port, dns_port, zone, .. } = opening;
    let group = cgroup.nft_path();
    let written = write!(
        script,
        r#"{verb} element inet {table} open {{ "{group}" }}
{verb} element inet {table} zones {{ "{group}" : {zone} }}
{verb} element inet {table} dns {{ "{group}" : {dns_port} }}
{verb} element inet {table} outbound {{ "{group}" : {outbound_port} }}
{verb} element inet {table} listeners {{ tcp . {outbound_port}, tcp . {dns_port}, udp . {dns_port} }}
{verb} element inet {table} callers {{ "{group}" . {outbound_port}, "{group}" . {dns_port} }}
"#
    );
    written.expect("writing to a String cannot fail");
    inbound_rules::elements(script, verb, table, cgroup, opening);
    egress(script, verb, table, cgroup, opening.egress);
    for counter in COUNTERS {
        // What it has counted is not needed to find it.
        let initial = if verb == "add" { " counter" } else { "" };
        line(script, format_args!("{verb} element inet {table} {counter} {{ \"{group}\"{initial} }}"));
    }
}
