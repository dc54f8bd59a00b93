//! Workloads whose application is part of this process: requests that were let in are handed to it by a channel, whole and bounded.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tulle_model::identity::SpiffeId;

/// Hands requests to an application within this process, for as long as its receiver is there.
#[derive(Debug, Clone)]
pub struct InProcess {
    pub(crate) arrivals: mpsc::Sender<Arrived>,
    pub(crate) most_body: usize,
    never: Arc<[SocketAddr]>,
}

/// Which run of a Flow makes a call, and which of its tasks: for the access log.
#[derive(Debug, Clone)]
pub struct FlowStep {
    pub run: Arc<str>,
    pub task: Arc<str>,
    /// The path of the call as it may be shown, where something in it is secret.
    pub shown_path: Option<Arc<str>>,
}

/// A request that was let in.
#[derive(Debug)]
pub struct Arrived {
    /// Who asks; `None`: somebody outside of the mesh.
    pub caller: Option<SpiffeId>,
    /// The workload's port.
    pub port: u16,
    /// With an absolute URI, and no `Host`.
    pub head: Parts,
    pub body: Bytes,
    /// When there has to be an answer, where the client's route says so.
    pub end: Option<Instant>,
    /// For the answer. It is closed when nobody waits for that any more.
    pub answer: oneshot::Sender<Response<Bytes>>,
}

impl InProcess {
    /// `waiting`: how many requests may wait to be taken; more are answered 429. `most_body`: the largest body that is taken, in bytes.
    /// `never`: where the mesh's own processes listen, which its calls do not reach.
    pub fn new(
        waiting: usize,
        most_body: usize,
        never: Arc<[SocketAddr]>,
    ) -> (Self, mpsc::Receiver<Arrived>) {
        let (arrivals, receiver) = mpsc::channel(waiting.max(1));
        (Self { arrivals, most_body, never }, receiver)
    }

    /// Why its calls do not reach an address outside of the mesh, as a part of a sentence; `None`: they may. A workflow may name
    /// whatever it was given, and names resolve to whatever their owners like: what trusts this host is not to be reached so.
    pub(crate) fn kept_from(&self, address: SocketAddr) -> Option<&'static str> {
        let ip = within(address.ip());
        let is_link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if ip.is_loopback() || ip.is_unspecified() {
            return Some("is this host's own");
        }
        if is_link_local {
            return Some("is link-local");
        }
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Some("is that of many");
        }
        let is_there = |own: &SocketAddr| {
            let all = own.ip().is_unspecified() || own.ip().is_loopback();
            own.port() == address.port() && (own.ip() == ip || (all && is_of_this_host(ip)))
        };
        self.never.iter().any(is_there).then_some("is the mesh's own")
    }
}

/// The address of IPv4 that one of IPv6 leads to, where it is a form of one: mapped and compatible (RFC 4291, section 2.5.5), translated
/// (RFC 6052, RFC 8215), or 6to4 (RFC 3056).
fn within(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(ip) = ip.to_canonical() else { return ip.to_canonical() };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        [0x64, 0xff9b, 0 | 1, _, _, _, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        _ => IpAddr::V6(ip),
    }
}

/// Whether one of this host's interfaces has that address: nobody else may bind a socket to it.
fn is_of_this_host(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_kept_from_this_host_and_what_runs_the_mesh() {
        let never = ["192.0.2.7:6443", "0.0.0.0:15008"].map(|own| own.parse().unwrap());
        let (within, _arrivals) = InProcess::new(1, 1, never.into());
        for (address, is_kept) in [
            ("192.0.2.1:80", false),
            ("[2001:db8::1]:443", false),
            ("192.0.2.7:80", false),
            ("192.0.2.7:6443", true),
            ("[::ffff:192.0.2.7]:6443", true),
            ("192.0.2.1:15008", false),
            ("127.0.0.1:80", true),
            ("127.8.0.1:80", true),
            ("[::1]:80", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("0.0.0.0:80", true),
            ("[::]:80", true),
            ("169.254.169.254:80", true),
            ("[fe80::1]:80", true),
            ("[64:ff9b::a9fe:a9fe]:80", true),
            ("[64:ff9b:1::127.0.0.1]:80", true),
            ("[2002:7f00:1::]:80", true),
            ("[::127.0.0.1]:80", true),
            ("[64:ff9b::192.0.2.1]:80", false),
            ("224.0.0.1:80", true),
            ("255.255.255.255:80", true),
        ] {
            assert_eq!(within.kept_from(address.parse().unwrap()).is_some(), is_kept, "{address}");
        }
        assert!(is_of_this_host(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_of_this_host([192, 0, 2, 1].into()));
    }
}
