//! What a node sends elsewhere for itself: to the server, and to name servers. Where all of its network namespace is captured,
//! that has the node's mark, or it would come back to the node.

mod lookup;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream, UdpSocket, lookup_host};
use tulle_sys::mark_of_node;

/// Opens sockets, marked or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialer {
    pub marked: bool,
}

impl Dialer {
    /// A connection.
    pub async fn tcp(self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if self.marked {
            mark_of_node(&socket)?;
        }
        socket.connect(address).await
    }

    /// The addresses of `host:port`.
    pub async fn addresses(self, server: &str) -> io::Result<Vec<SocketAddr>> {
        if self.marked {
            lookup::addresses(server, self).await
        } else {
            Ok(lookup_host(server).await?.collect())
        }
    }

    /// A connection to the first address of `host:port` that takes one.
    pub async fn tcp_to(self, server: &str) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.addresses(server).await? {
            match self.tcp(address).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// A socket at a port of its own that takes datagrams of `address` alone: the kernel drops what comes from elsewhere.
    pub async fn udp(self, address: SocketAddr) -> io::Result<UdpSocket> {
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        if self.marked {
            mark_of_node(&socket)?;
        }
        socket.connect(address).await?;
        Ok(socket)
    }
}
