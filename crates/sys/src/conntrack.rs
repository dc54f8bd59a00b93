//! The kernel's memory of connections (ctnetlink, linux/netfilter/nfnetlink_conntrack.h).
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::SockRef;

use crate::netlink::{Netfilter, attribute, messages, push, request, verdict};
use crate::socket::original_destination;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const TUPLE_ZONE: u16 = 3;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const STATUS: u16 = 3;
/// Of the status: it leads elsewhere than where it was made to.
const REDIRECTED: u32 = 1 << 5;
const ID: u16 = 12;
const NESTED: u16 = 0x8000;

/// The kernel answers within the call.
const PATIENCE: Duration = Duration::from_secs(2);

/// Has the kernel forget every connection whose original direction lies in one of the zones. Returns how many
/// those were.
///
/// # Errors
/// Where it cannot be asked. What ends by itself meanwhile is no error.
pub fn forget(zones: &RangeInclusive<u16>) -> io::Result<usize> {
    let mut netlink = Netfilter::open(0, PATIENCE)?;
    // A flush that names a zone flushes everything before Linux 6.8: so they are listed, and deleted one by one.
    netlink.send(&request(GET, libc::NLM_F_DUMP as u16, libc::AF_UNSPEC as u8))?;
    let mut found = Vec::new();
    'listing: loop {
        for message in messages(netlink.receive()?) {
            match i32::from(message.kind) {
                libc::NLMSG_DONE => break 'listing,
                libc::NLMSG_ERROR => verdict(message.body)?,
                _ => found.extend(deletion(message.family, message.body, zones)),
            }
        }
    }
    for deletion in &found {
        match delete(&mut netlink, deletion) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(found.len())
}

/// Ends a TCP connection that was redirected here with a reset, and has the kernel forget where it led. It would
/// remember that for ten seconds, for whoever connects from the same port to the same address: another process of
/// the host, whose connections lead elsewhere, would be led astray (a reset of the client's own makes it forget at once).
///
/// # Errors
/// Where it was not redirected, or the kernel refuses; then it may not have ended.
pub fn reset_redirected(connection: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(connection);
    let original = original_destination(connection)?;
    let (client, own) = (socket.peer_addr()?.as_socket(), socket.local_addr()?.as_socket());
    if own == Some(original) {
        return Err(io::ErrorKind::NotConnected.into());
    }
    disconnect(connection)?;
    match client {
        Some(client) if client.is_ipv4() => forget_one(client, original),
        _ => Ok(()),
    }
}

/// Ends a connection with a reset, which has left when this returns (connect(2), `AF_UNSPEC`).
fn disconnect(connection: &impl AsFd) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the address is read only, for the length that is given, which is its own.
    match unsafe { libc::connect(connection.as_fd().as_raw_fd(), &nobody, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel forget the TCP connection that `client` made to `server`, outside of zones.
fn forget_one(client: SocketAddr, server: SocketAddr) -> io::Result<()> {
    thread_local! {
        static NETLINK: RefCell<Option<Netfilter>> = const { RefCell::new(None) };
    }
    NETLINK.with_borrow_mut(|netlink| {
        let netlink = match netlink {
            Some(netlink) => netlink,
            None => netlink.insert(Netfilter::open(0, PATIENCE)?),
        };
        delete(netlink, &about(DELETE, libc::NLM_F_ACK as u16, client, server))
    })
}

/// Has an entry deleted; an error of the kind `NotFound` where there is none.
fn delete(netlink: &mut Netfilter, deletion: &[u8]) -> io::Result<()> {
    netlink.send(deletion)?;
    messages(netlink.receive()?).try_for_each(|message| verdict(message.body))
}

/// Whether the kernel knows a TCP connection, outside of zones, as one that `client` made to `server`, and that leads there.
pub(crate) fn has_begun(netlink: &mut Netfilter, client: SocketAddr, server: SocketAddr) -> io::Result<bool> {
    netlink.send(&about(GET, 0, client, server))?;
    let Some(message) = messages(netlink.receive()?).next() else { return Ok(false) };
    if i32::from(message.kind) != libc::NLMSG_ERROR {
        return Ok(leads_from(message.body, client).unwrap_or(false));
    }
    match verdict(message.body) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(false),
    }
}

/// Whether an entry, which may be known by how its answers go, is of what `client` began, and leads where it was made to.
fn leads_from(entry: &[u8], client: SocketAddr) -> Option<bool> {
    let original = attribute(entry, TUPLE_ORIGINAL)?;
    let port = attribute(attribute(original, TUPLE_PROTOCOL)?, SOURCE_PORT)?;
    let addresses = attribute(original, TUPLE_ADDRESSES)?;
    let (source, own) = match client.ip() {
        IpAddr::V4(own) => (attribute(addresses, V4_SOURCE)?, own.octets().to_vec()),
        IpAddr::V6(own) => (attribute(addresses, V6_SOURCE)?, own.octets().to_vec()),
    };
    let status = attribute(entry, STATUS)?.try_into().ok().map(u32::from_be_bytes)?;
    Some(source == own && port == client.port().to_be_bytes() && status & REDIRECTED == 0)
}

/// A request about the TCP connection that `client` made to `server`, outside of zones. Both are of one family.
fn about(kind: u16, flags: u16, client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let nested = |kind: u16, values: &[(u16, &[u8])]| {
        let mut inner = request(0, 0, 0);
        let start = inner.len();
        values.iter().for_each(|(kind, value)| push(&mut inner, *kind, value));
        (kind | NESTED, inner.split_off(start))
    };
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (family, source, destination) = match client {
        SocketAddr::V4(_) => (libc::AF_INET, V4_SOURCE, V4_DESTINATION),
        SocketAddr::V6(_) => (libc::AF_INET6, V6_SOURCE, V6_DESTINATION),
    };
    let addresses = [octets(client), octets(server)];
    let addresses = nested(TUPLE_ADDRESSES, &[(source, &addresses[0]), (destination, &addresses[1])]);
    let ports = [client.port().to_be_bytes(), server.port().to_be_bytes()];
    let protocol = [
        (PROTOCOL_NUMBER, &[libc::IPPROTO_TCP as u8][..]),
        (SOURCE_PORT, &ports[0][..]),
        (DESTINATION_PORT, &ports[1][..]),
    ];
    let protocol = nested(TUPLE_PROTOCOL, &protocol);
    let (tuple_kind, tuple) =
        nested(TUPLE_ORIGINAL, &[(addresses.0, &addresses.1), (protocol.0, &protocol.1)]);
    let mut message = request(kind, flags, family as u8);
    push(&mut message, tuple_kind, &tuple);
    message
}

/// The request that deletes an entry, where its original direction lies in one of the zones.
fn deletion(family: u8, entry: &[u8], zones: &RangeInclusive<u16>) -> Option<Vec<u8>> {
    let original = attribute(entry, TUPLE_ORIGINAL)?;
    let zone = attribute(original, TUPLE_ZONE)?.try_into().ok().map(u16::from_be_bytes)?;
    if !zones.contains(&zone) {
        return None;
    }
    let mut message = request(DELETE, libc::NLM_F_ACK as u16, family);
    push(&mut message, TUPLE_ORIGINAL | NESTED, original);
    // Another one may have its addresses by now.
    push(&mut message, ID, attribute(entry, ID)?);
    Some(message)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_reset_leaves_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        disconnect(&server).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(reset_redirected(&server).is_err(), "nobody redirected it");
    }

    #[test]
    fn a_connection_is_named_by_its_addresses_and_ports() {
        let (client, server) = ("1.2.3.4:5".parse().unwrap(), "6.7.8.9:10".parse().unwrap());
        let message = about(DELETE, 0, client, server);
        let original = attribute(&message[20..], TUPLE_ORIGINAL).unwrap();
        let addresses = attribute(original, TUPLE_ADDRESSES).unwrap();
        let protocol = attribute(original, TUPLE_PROTOCOL).unwrap();
        assert_eq!(attribute(addresses, V4_SOURCE), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(addresses, V4_DESTINATION), Some(&[6, 7, 8, 9][..]));
        assert_eq!(attribute(protocol, SOURCE_PORT), Some(&[0, 5][..]));
        assert_eq!(attribute(protocol, DESTINATION_PORT), Some(&[0, 10][..]));
    }

    #[test]
    fn what_somebody_has_begun_is_told_from_what_came_to_him_and_what_was_led_elsewhere() {
        for [client, server] in [["1.2.3.4:5", "6.7.8.9:10"], ["[2001:db8::1]:5", "[2001:db8::2]:10"]] {
            let [client, server] = [client, server].map(|address| address.parse::<SocketAddr>().unwrap());
            let entry = |status: u32| {
                let mut message = about(GET, 0, client, server);
                push(&mut message, STATUS, &status.to_be_bytes());
                message[20..].to_vec()
            };
            // Confirmed, and seen both ways.
            assert_eq!(leads_from(&entry(0xa), client), Some(true));
            assert_eq!(leads_from(&entry(0xa), server), Some(false));
            assert_eq!(leads_from(&entry(0xa | REDIRECTED), client), Some(false));
        }
        assert_eq!(leads_from(&[], "1.2.3.4:5".parse().unwrap()), None);
    }

    #[test]
    fn entries_of_the_zones_are_deleted_and_no_others() {
        let entry = |zone: u16| {
            let mut tuple = Vec::new();
            tuple.extend([6, 0, 3, 0]);
            tuple.extend(zone.to_be_bytes());
            tuple.extend([0, 0]);
            let mut message = request(GET, 0, 2);
            push(&mut message, TUPLE_ORIGINAL | NESTED, &tuple);
            push(&mut message, ID, &[1, 2, 3, 4]);
            message[20..].to_vec()
        };
        let of = |zone| deletion(2, &entry(zone), &(40000..=40001));
        assert!(of(39999).is_none() && of(40002).is_none());
        assert!(of(40000).is_some() && of(40001).is_some());
        assert!(deletion(2, &[], &(0..=u16::MAX)).is_none());
    }
}
