//! Netlink (RFC 3549) as netfilter speaks it, and who knows sockets: sockets, messages, attributes.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use socket2::Socket;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nfgenmsg`, with which every message of netfilter begins.
const NETFILTER_HEADER: usize = 4;
/// Longer than what the kernel puts into one datagram.
const LONGEST: usize = 64 << 10;
/// How many bytes of messages may wait for who hears a multicast: what the kernel says of a table of thousands of
/// workloads that is made anew. They are taken from the kernel's memory only where they wait.
const WAITING: usize = 16 << 20;
/// Bits of an attribute's type that say how it is encoded.
const TYPE_MASK: u16 = 0x3fff;

/// A socket to netfilter.
pub(crate) struct Netfilter {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Netfilter {
    /// A socket that hears the multicast `groups` (a bit each), and waits at most for `patience`.
    pub(crate) fn open(groups: u32, patience: Duration) -> io::Result<Self> {
        Self::speaking(SockProtocol::NetlinkNetFilter, groups, patience)
    }

    /// The same to who knows the sockets of this network namespace (sock_diag(7)); its messages begin with four bytes, too.
    pub(crate) fn sockets(patience: Duration) -> io::Result<Self> {
        Self::speaking(SockProtocol::NetlinkSockDiag, 0, patience)
    }

    fn speaking(protocol: SockProtocol, groups: u32, patience: Duration) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        if groups != 0 {
            // Beyond the system's bound, where this process may; else what fits below it.
            let larger = setsockopt(&fd, sockopt::RcvBufForce, &WAITING);
            let _ = larger.or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &WAITING));
        }
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        let socket = Socket::from(fd);
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket, buffer: vec![0; LONGEST] })
    }

    pub(crate) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.socket.write_all(message)
    }

    /// The next datagram: one message or several.
    pub(crate) fn receive(&mut self) -> io::Result<&[u8]> {
        let length = self.socket.read(&mut self.buffer)?;
        Ok(&self.buffer[..length])
    }

    /// The next datagram, if it is here already.
    pub(crate) fn receive_now(&mut self) -> io::Result<&[u8]> {
        let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT)?;
        Ok(&self.buffer[..length])
    }
}

/// One message of netfilter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// `NLMSG_…`, or the subsystem and what it does.
    pub(crate) kind: u16,
    /// Who sent it or caused it: the process that asked, mostly.
    pub(crate) port: u32,
    /// The address family; 0 where the message has no netfilter header.
    pub(crate) family: u8,
    /// Attributes; the whole body of a message that is not netfilter's.
    pub(crate) body: &'a [u8],
}

/// The messages of a datagram; ends where it makes no sense.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let kind = u16_at(datagram, 4)?;
        let port = u32_at(datagram, 12)?;
        let mut body = datagram.get(HEADER..length)?;
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
        let mut family = 0;
        if i32::from(kind) >= libc::NLMSG_MIN_TYPE {
            family = *body.first()?;
            body = body.get(NETFILTER_HEADER..)?;
        }
        Some(Message { kind, port, family, body })
    })
}

/// Attributes: their type, and their value; ends where they make no sense.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A request to netfilter, without attributes yet.
pub(crate) fn request(kind: u16, flags: u16, family: u8) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([family, 0, 0, 0]);
    finish(&mut message);
    message
}

/// Adds an attribute to a request.
pub(crate) fn push(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((4 + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(aligned(message.len()), 0);
    finish(message);
}

/// Writes down how long it is.
pub(crate) fn finish(message: &mut [u8]) {
    let length = (message.len() as u32).to_ne_bytes();
    message[..4].copy_from_slice(&length);
}

/// What the kernel says of a request: `struct nlmsgerr` begins with a negated error number.
pub(crate) fn verdict(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(|code| code as i32) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = request(0x0a01, 0, 2);
        push(&mut message, 1, b"table\0");
        push(&mut message, 0x8002, &[7]);
        let twice = [message.clone(), message].concat();
        let read: Vec<_> = messages(&twice).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[1].kind, read[1].family, read[1].port), (0x0a01, 2, 0));
        assert_eq!(attribute(read[1].body, 1), Some(&b"table\0"[..]));
        assert_eq!(attribute(read[1].body, 2), Some(&[7][..]));
        assert_eq!(attribute(read[1].body, 3), None);
    }

    #[test]
    fn nonsense_ends_the_reading() {
        let mut message = request(0x0a01, 0, 2);
        push(&mut message, 1, b"x");
        for length in 0..message.len() {
            assert_eq!(messages(&message[..length]).count(), 0);
        }
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[0; 8]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0]).count(), 0);
        assert!(verdict(&[]).is_err() && verdict(&[0; 4]).is_ok());
    }
}
