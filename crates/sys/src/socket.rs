//! Facts about sockets that only the kernel knows.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// The mark (`SO_MARK`) of the listeners that captured traffic is redirected to. Nobody can set one without rights over the
/// network, so who takes the port of a node that has died gets nothing: the rules look for it. It is no secret, and since
/// Linux 5.17 `CAP_NET_RAW` is enough to set it, which containers have by default: one that shares the host's network can.
pub const LISTENER_MARK: u32 = 0x74;

/// Marks a socket as such a listener.
///
/// # Errors
/// Where this process may not (`CAP_NET_ADMIN`, or since Linux 5.17 `CAP_NET_RAW`).
pub fn mark_listener(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_mark(LISTENER_MARK)
}

/// The mark of the connections that a node makes to its workloads' processes: the rules of inbound capture let them
/// through. From a workload it is worth nothing, the rules see where it comes from; to other processes of the host with rights
/// over the network it is no secret.
pub const PROCESS_MARK: u32 = 0x7475_0000;

/// Marks a connection, before it is begun, as one to a process of a workload.
///
/// # Errors
/// Where this process may not, as [`mark_listener`].
pub fn mark_to_process(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_mark(PROCESS_MARK)
}

/// The mark of what a node sends elsewhere for itself and its workload, where all of its network namespace is captured: the rules
/// let it through. The number is the field's habit (Istio's proxies in pods). It ends where the namespace does.
pub const NODE_MARK: u32 = 0x539;

/// Marks a socket, before it is used, as one of the node's own.
///
/// # Errors
/// Where this process may not, as [`mark_listener`].
pub fn mark_of_node(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_mark(NODE_MARK)
}

/// Has a listener take what the rules of inbound capture divert to it: connections to other addresses than its own
/// (`IP_TRANSPARENT`), which they keep.
///
/// # Errors
/// Where this process may not (`CAP_NET_ADMIN` or `CAP_NET_RAW`).
pub fn take_diverted(listener: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(listener);
    if socket.local_addr()?.is_ipv6() {
        socket.set_ip_transparent_v6(true)
    } else {
        socket.set_ip_transparent_v4(true)
    }
}

/// Where a connection went before netfilter redirected it here (`SO_ORIGINAL_DST`,
/// `IP6T_SO_ORIGINAL_DST`). An error where it was not redirected.
pub fn original_destination(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let address =
        if socket.local_addr()?.is_ipv6() { socket.original_dst_v6()? } else { socket.original_dst_v4()? };
    address.as_socket().ok_or_else(|| io::Error::other("the original destination is no IP address"))
}

/// The user whose process holds the other end of a TCP connection on this host: `client` is that end's
/// address, `server` this one's. `None`: no process holds it any more (sock_diag(7)).
///
/// # Errors
/// Where the kernel cannot be asked, or knows of no such connection.
fn peer_user(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
    let protocol = Protocol::from(libc::NETLINK_SOCK_DIAG);
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(DIAG_DEADLINE))?;
    socket.write_all(&diag_request(client, server))?;
    let mut answer = [0; 512];
    let length = socket.read(&mut answer)?;
    diag_answer(&answer[..length])
}

/// Whether the other end of a connection on this host is held by a process of this process's user, or of
/// root. Also `true` where nobody can tell: for root, whose children may be any user's, and where the
/// kernel does not say whose a connection is ([`knows_users`]).
pub fn is_of_same_user(connection: &impl AsFd) -> io::Result<bool> {
    let own = *OWN_USER;
    if own.is_root() || !knows_users() {
        return Ok(true);
    }
    is_of(connection, own.as_raw())
}

/// It does not change while this process serves.
static OWN_USER: LazyLock<nix::unistd::Uid> = LazyLock::new(nix::unistd::geteuid);

fn is_of(connection: &impl AsFd, user: u32) -> io::Result<bool> {
    let socket = SockRef::from(connection);
    let (peer, own) = (socket.peer_addr()?.as_socket(), socket.local_addr()?.as_socket());
    let (Some(peer), Some(own)) = (peer, own) else { return Ok(false) };
    Ok(peer_user(peer, own)?.is_some_and(|holder| holder == user || holder == 0))
}

/// Whether the kernel says whose a connection is: it may lack the means, in a sandbox for instance.
pub fn knows_users() -> bool {
    static KNOWS: LazyLock<bool> = LazyLock::new(|| {
        let look = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            peer_user(client.local_addr()?, client.peer_addr()?)
        };
        look().is_ok_and(|user| user == Some(nix::unistd::geteuid().as_raw()))
    });
    *KNOWS
}

/// The kernel answers within the call.
const DIAG_DEADLINE: Duration = Duration::from_secs(1);
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER: usize = 16;

/// `struct nlmsghdr` and `struct inet_diag_req_v2` (linux/inet_diag.h) for exactly one connection.
fn diag_request(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut body = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    // In any state.
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(client.port().to_be_bytes());
    body.extend(server.port().to_be_bytes());
    for address in [client.ip(), server.ip()] {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes = v6.octets(),
        }
        body.extend(bytes);
    }
    // Any interface, no cookie.
    body.extend(0u32.to_ne_bytes());
    body.extend([0xff; 8]);
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// `struct inet_diag_msg`: the user and the inode are its last two fields.
fn diag_answer(message: &[u8]) -> io::Result<Option<u32>> {
    let number = |at: usize| {
        let bytes = message.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or(io::ErrorKind::UnexpectedEof)
    };
    let kind = number(4)? as u16;
    if i32::from(kind) == libc::NLMSG_ERROR {
        return Err(io::Error::from_raw_os_error((number(HEADER)? as i32).saturating_neg()));
    }
    if kind != SOCK_DIAG_BY_FAMILY {
        return Err(io::Error::other("the kernel answers something else"));
    }
    let (user, inode) = (number(HEADER + 64)?, number(HEADER + 68)?);
    // What no process holds belongs to user 0.
    Ok((inode != 0).then_some(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_others_are_told_apart() {
        if !knows_users() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let own = nix::unistd::geteuid().as_raw();
        assert!(is_of(&server, own).unwrap());
        // Root may anyway.
        assert_eq!(is_of(&server, own + 1).unwrap(), own == 0);
        assert!(is_of_same_user(&server).unwrap());
    }

    #[test]
    fn the_kernel_knows_whose_a_connection_is() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, from) = listener.accept().unwrap();
            let own = nix::unistd::geteuid().as_raw();
            let user = || peer_user(from, server.local_addr().unwrap());
            assert_eq!(user().unwrap(), Some(own));
            drop(client);
            assert!(matches!(user(), Ok(None) | Err(_)), "nobody has it any more");
        }
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(peer_user(nobody, nobody).is_err());
        for length in 0..HEADER + 72 {
            assert!(diag_answer(&vec![0; length]).is_err());
        }
    }
}
