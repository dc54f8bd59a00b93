//! TCP connections that processes of a cgroup, or of a network namespace, have begun past everything that could end them: the kernel is asked which there are
//! (sock_diag(7)), and ends them (SOCK_DESTROY, `CONFIG_INET_DIAG_DESTROY`), for both sides, with a reset.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::conntrack;
use crate::netlink::{Netfilter, attribute, finish, messages, request, verdict};

const DUMP: u16 = 20;
const DESTROY: u16 = 21;
/// Of `struct inet_diag_msg`, behind its first four bytes: what identifies the socket (`struct inet_diag_sockid`), and the rest.
const ID: usize = 48;
const REST: usize = 20;
const MARK: u16 = 15;
const CGROUP: u16 = 21;
/// All states of TCP (`TCP_…`, a bit each) in which a peer may be there: not TIME_WAIT, CLOSE and LISTEN.
const STATES: u32 = 0b1011_0011_0110;

/// The kernel answers within the call.
const PATIENCE: Duration = Duration::from_secs(2);

/// A socket with a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Connected {
    family: u8,
    id: Vec<u8>,
    local: SocketAddr,
    remote: SocketAddr,
    cgroup: Option<u64>,
    /// The kernel tells it to who has CAP_NET_ADMIN.
    mark: Option<u32>,
}

/// Whose connections end.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    /// Of processes in these cgroups ([`Cgroup::ids`](crate::cgroup::Cgroup::ids)).
    Cgroups(&'a BTreeSet<u64>),
    /// Of this network namespace to others, but for sockets that have one of these marks.
    NotMarked(&'a [u32]),
}

impl Whose<'_> {
    fn have(self, socket: &Connected) -> bool {
        match self {
            Self::Cgroups(cgroups) => socket.cgroup.is_some_and(|cgroup| cgroups.contains(&cgroup)),
            Self::NotMarked(marks) => {
                socket.mark.is_some_and(|mark| !marks.contains(&mark))
                    && socket.remote.ip() != socket.local.ip()
            }
        }
    }
}

/// Ends the connections that they have begun to other hosts, and that nothing redirects. What others have begun with them goes on.
/// Returns how many those were.
///
/// # Errors
/// Where the kernel cannot be asked, or does not end what it is asked to (`Unsupported`: it never does).
pub fn end(whose: Whose<'_>) -> io::Result<usize> {
    let mut sockets = Netfilter::sockets(PATIENCE)?;
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        sockets.send(&asked(DUMP, libc::NLM_F_DUMP as u16, family as u8, &[0; ID]))?;
        'listing: loop {
            for message in messages(sockets.receive()?) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => break 'listing,
                    libc::NLMSG_ERROR => verdict(message.body)?,
                    _ => found.extend(connected(message.family, message.body)),
                }
            }
        }
    }
    found.retain(|socket| whose.have(socket) && !socket.remote.ip().is_loopback());
    if found.is_empty() {
        return Ok(0);
    }
    let mut known = Netfilter::open(0, PATIENCE)?;
    let mut ended = 0;
    for socket in found {
        if !conntrack::has_begun(&mut known, socket.local, socket.remote)? {
            continue;
        }
        sockets.send(&asked(DESTROY, libc::NLM_F_ACK as u16, socket.family, &socket.id))?;
        match messages(sockets.receive()?).try_for_each(|message| verdict(message.body)) {
            Ok(()) => ended += 1,
            // It has ended by itself.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(ended)
}

/// `struct inet_diag_req_v2`.
fn asked(kind: u16, flags: u16, family: u8, id: &[u8]) -> Vec<u8> {
    let mut message = request(kind, flags, family);
    let protocol = message.len() - 3;
    message[protocol] = libc::IPPROTO_TCP as u8;
    message.extend(STATES.to_ne_bytes());
    message.extend(id);
    finish(&mut message);
    message
}

/// Reads `struct inet_diag_msg` behind its first four bytes, with its attributes.
fn connected(family: u8, body: &[u8]) -> Option<Connected> {
    let (id, rest) = body.split_at_checked(ID)?;
    let attributes = rest.get(REST..)?;
    let cgroup = attribute(attributes, CGROUP).and_then(|cgroup| cgroup.try_into().ok());
    let mark = attribute(attributes, MARK).and_then(|mark| mark.try_into().ok());
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let address = |at: usize| -> IpAddr {
        let bytes: [u8; 16] = id[at..at + 16].try_into().unwrap_or_default();
        match i32::from(family) {
            libc::AF_INET => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
            _ => Ipv6Addr::from(bytes).to_canonical(),
        }
    };
    let (local, remote) = (SocketAddr::new(address(4), port(0)), SocketAddr::new(address(20), port(2)));
    let (cgroup, mark) = (cgroup.map(u64::from_ne_bytes), mark.map(u32::from_ne_bytes));
    Some(Connected { family, id: id.to_owned(), local, remote, cgroup, mark })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// What the kernel says of a socket.
    fn message(family: i32, local: &[u8], remote: &[u8], cgroup: Option<u64>) -> Vec<u8> {
        let mut body = vec![0x1f, 0x90, 0, 80];
        for address in [local, remote] {
            body.extend(address);
            body.resize(body.len().next_multiple_of(4) + 16 - address.len(), 0);
        }
        body.resize(ID + REST, 0);
        let mut message = request(DUMP, 0, family as u8);
        message.extend(body);
        finish(&mut message);
        if let Some(cgroup) = cgroup {
            crate::netlink::push(&mut message, CGROUP, &cgroup.to_ne_bytes());
        }
        message
    }

    #[test]
    fn sockets_are_read_with_their_cgroups() {
        let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets();
        let six = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
        for (family, local, remote, expected) in [
            (libc::AF_INET, &[10, 0, 0, 1][..], &[192, 0, 2, 7][..], "10.0.0.1:8080 192.0.2.7:80"),
            (libc::AF_INET6, &mapped, &mapped, "192.0.2.7:8080 192.0.2.7:80"),
            (libc::AF_INET6, &six, &six, "[2001:db8::1]:8080 [2001:db8::1]:80"),
        ] {
            let message = message(family, local, remote, Some(7));
            let message = messages(&message).next().unwrap();
            let found = connected(message.family, message.body).unwrap();
            assert_eq!(format!("{} {}", found.local, found.remote), expected);
            assert_eq!((found.cgroup, found.mark, found.id.len()), (Some(7), None, ID));
            assert!(Whose::Cgroups(&[7].into()).have(&found) && !Whose::Cgroups(&[8].into()).have(&found));
            assert!(!Whose::NotMarked(&[]).have(&found), "nobody says which mark it has");
            let marked = Connected { mark: Some(5), ..found };
            let leaves = marked.local.ip() != marked.remote.ip();
            assert_eq!(Whose::NotMarked(&[6]).have(&marked), leaves);
            assert!(!Whose::NotMarked(&[5, 6]).have(&marked));
        }
        let none = message(libc::AF_INET, &[10, 0, 0, 1], &[192, 0, 2, 7], None);
        let whole = messages(&none).next().unwrap();
        let found = connected(whole.family, whole.body).unwrap();
        assert!(!Whose::Cgroups(&(0..99).collect()).have(&found), "it is of no cgroup");
        for length in 0..whole.body.len() {
            assert_eq!(connected(2, &whole.body[..length]), None);
        }
    }

    #[test]
    fn what_goes_to_this_host_and_what_is_of_others_goes_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for cgroups in [BTreeSet::new(), (0..1 << 12).collect()] {
            assert_eq!(end(Whose::Cgroups(&cgroups)).unwrap(), 0);
        }
        for one in [client, server] {
            assert!(one.take_error().unwrap().is_none() && one.peer_addr().is_ok());
        }
    }
}
