//! The nftables rules of a node. The chains are the same for all workloads: a workload is elements of sets and maps, so
//! it comes and goes without a change to the others, and one that nft refuses is refused alone.
//!
//! A workload that is not open is closed: what would be captured is refused, and nothing of it leaves by another way.
//!
//! | chain | hook | what for |
//! |---|---|---|
//! | `zone` | raw | puts the DNS packets of each workload into its conntrack zone: who asks is known of each packet |
//! | `closed` | before NAT | refuses what a closed workload begins |
//! | `output` | NAT | redirects to the workload's listeners |
//! | `guard` | after NAT | lets a workload reach its own listeners, and nobody else |
//! | `receiver` | input | nobody but a node's listener gets what is for one: its port may be another process's by now |
//! | `answer` | before raw | nor takes anybody else a connection up: of one that has just ended (TIME_WAIT) `receiver` sees no listener |
//!
//! TCP other than DNS stays outside of zones: the kernel's own answers for sockets that are gone (RST, the last ACK)
//! belong to no cgroup, and would miss their connection. There the guard holds off what an old entry leads astray.

use std::fmt::Write as _;

use tulle_sys::LISTENER_MARK;
use tulle_sys::cgroup::Cgroup;

/// The mesh's virtual addresses.
const VIRTUAL_ADDRESSES: &str = "127.64.0.0/10";

/// Where an open workload's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    pub outbound_port: u16,
    pub dns_port: u16,
    pub zone: u16,
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

/// The table without an open workload, in place of the one before. `node` holds the cgroups of the workloads.
pub(super) fn table(table: &str, node: &Cgroup) -> String {
    let node_level = node.level();
    let level = node_level + 1;
    format!(
        r#"{removal}table inet {table} {{
  set node {{ type cgroupsv2; elements = {{ "{node}" }}; }}
  set open {{ type cgroupsv2; }}
  map zones {{ typeof socket cgroupv2 level {level} : ct original zone; }}
  map dns {{ type cgroupsv2 : inet_service; }}
  map outbound {{ type cgroupsv2 : inet_service; }}
  set listeners {{ type inet_proto . inet_service; }}
  set callers {{ type cgroupsv2 . inet_service; }}

  chain zone {{
    type filter hook output priority raw; policy accept;
    meta l4proto {{ tcp, udp }} th dport 53 ct original zone set socket cgroupv2 level {level} map @zones
  }}
  chain closed {{
    type filter hook output priority -150; policy accept;
    tcp flags & (syn | ack) == syn socket cgroupv2 level {node_level} @node goto workload
    udp dport 53 socket cgroupv2 level {node_level} @node goto workload
  }}
  chain workload {{
    th dport 53 ct original zone 0 goto refuse
    socket cgroupv2 level {level} @open accept
    th dport 53 goto refuse
    ip daddr {VIRTUAL_ADDRESSES} goto refuse
    ip daddr 127.0.0.0/8 accept
    meta nfproto ipv4 goto refuse
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    meta l4proto {{ tcp, udp }} th dport 53 redirect to :socket cgroupv2 level {level} map @dns
    ip daddr {VIRTUAL_ADDRESSES} meta l4proto tcp redirect to :socket cgroupv2 level {level} map @outbound
    ip daddr 127.0.0.0/8 accept
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
    )
}

/// Opens a workload.
pub(super) fn open(script: &mut String, table: &str, cgroup: &Cgroup, opening: Opening) {
    elements(script, "add", table, cgroup, opening);
}

/// Closes a workload that was opened so.
pub(super) fn close(script: &mut String, table: &str, cgroup: &Cgroup, opening: Opening) {
    elements(script, "delete", table, cgroup, opening);
}

fn elements(script: &mut String, verb: &str, table: &str, cgroup: &Cgroup, opening: Opening) {
    let Opening { outbound_port, dns_port, zone } = opening;
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
}
