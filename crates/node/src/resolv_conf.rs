//! What resolv.conf(5) says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where it stands.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// No more servers than the C library would use (MAXNS).
const MOST_SERVERS: usize = 3;
/// Nor more domains than it would search in before there was no limit.
const MOST_DOMAINS: usize = 6;

/// The `nameserver` lines; the local machine where there are none.
pub(crate) fn name_servers(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().map(|line| line.split_whitespace());
    let addresses = words.filter_map(|mut words| {
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    let mut servers: Vec<_> = addresses.take(MOST_SERVERS).map(|a| SocketAddr::new(a, 53)).collect();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, 53).into());
    }
    servers
}

/// The domains of the last `search` or `domain` line.
pub(crate) fn search(text: &str) -> Vec<&str> {
    let mut domains = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("search" | "domain")).then(|| words.take(MOST_DOMAINS).collect())
    });
    domains.next_back().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_resolv_conf() {
        let text = "# x\nsearch a.b c.d\nnameserver 10.0.0.2\nnameserver  ::1 \nnameserver bad\nnameserver\n";
        let servers: Vec<_> = name_servers(text).iter().map(|s| s.to_string()).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[::1]:53"]);
        assert_eq!(name_servers("")[0].to_string(), "127.0.0.1:53");
        assert_eq!(search(text), ["a.b", "c.d"]);
        assert_eq!(search("search a\ndomain b\n"), ["b"]);
        assert!(search("").is_empty());
    }
}
