//! Listening sockets as a value. Whoever starts a proxy binds them ([`Sockets::bind`]) or was handed them by whoever had them
//! before ([`Sockets::given`]), and gives them to [`crate::Proxy::listen`]; [`crate::Proxy::sockets`] has them for the next one.
//!
//! There is one for each worker at the same address (`SO_REUSEPORT`), so that the kernel spreads the connections and no
//! worker waits for another.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Once;

use socket2::{Domain, Protocol, Socket, Type};
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_sys::{mark_listener, take_diverted};

use crate::config::Capture;
use crate::connect::LOCAL_CONGESTION;

pub(crate) const BACKLOG: i32 = 4096;

/// What sockets listen for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Connections that a workload makes.
    Outbound { workload: WorkloadName, capture: Capture },
    /// Links from other nodes.
    Links,
    /// What inbound capture diverts of connections to a workload's process.
    Inbound { workload: WorkloadName },
    /// Connections from outside of the mesh to a port of a service, in plain.
    Published { service: ServiceName, port: u16 },
}

/// The sockets of one address, with what they are for. Where they are dropped, connections that nobody has accepted are
/// reset; not where another process or proxy has the same sockets.
#[derive(Debug)]
pub struct Sockets {
    purpose: Purpose,
    address: SocketAddr,
    each: Vec<StdListener>,
}

/// Whether it was said that listeners cannot be marked.
static UNMARKED: Once = Once::new();

impl Sockets {
    /// Binds `count` sockets, at least one; with port 0, all to the port that the first one got.
    ///
    /// # Errors
    /// Where the port is taken. For [`Purpose::Inbound`] also where this process may not take connections to addresses of
    /// others.
    pub fn bind(purpose: Purpose, address: SocketAddr, count: usize) -> io::Result<Self> {
        if address.port() != 0 {
            // Another process of this user could hold the port in the same way, and would get a share of
            // the connections. A socket that does not share finds out.
            bound(address, false)?;
        }
        // Each is bound to the port by its number, so that it keeps it whatever becomes of it.
        let first = bound(address, true)?;
        let address = address_of(&first)?;
        let each = (0..count.max(1)).map(|_| listening(address)).collect::<io::Result<Vec<_>>>()?;
        let sockets = Self { purpose, address, each };
        sockets.mark()?;
        Ok(sockets)
    }

    /// Takes sockets that somebody else has bound, all to one address.
    ///
    /// # Errors
    /// Where there is none, where one does not listen for TCP, or at another address than the others; it is named by its place
    /// among them. Also where one cannot be marked, as with [`Sockets::bind`].
    pub fn given(purpose: Purpose, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut address = None;
        let mut each = Vec::with_capacity(descriptors.len());
        // Those that stand for a service listen only while there is somewhere to go to.
        let may_rest = matches!(purpose, Purpose::Outbound { capture: Capture::Service { .. }, .. });
        for (place, descriptor) in descriptors.into_iter().enumerate() {
            let wrong =
                |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("socket {place} {what}"));
            let socket = Socket::from(descriptor);
            let own =
                address_of(&socket).map_err(|error| wrong(&format!("has no address of IP: {error}")))?;
            let rests = may_rest && socket.peer_addr().is_err();
            if socket.r#type()? != Type::STREAM || !(rests || socket.is_listener()?) {
                return Err(wrong("does not listen for TCP"));
            }
            if *address.get_or_insert(own) != own {
                return Err(wrong(&format!("listens at {own}, not where those before it do")));
            }
            socket.set_nonblocking(true)?;
            prepare(&socket, own)?;
            each.push(socket.into());
        }
        let address =
            address.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no socket was given"))?;
        let sockets = Self { purpose, address, each };
        sockets.mark()?;
        Ok(sockets)
    }

    /// Of one worker; others have theirs at the same address.
    pub(crate) fn new(purpose: Purpose, address: SocketAddr, each: Vec<StdListener>) -> Self {
        Self { purpose, address, each }
    }

    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Marks them, and what they accept, as the node's own ([`tulle_sys::NODE_MARK`]).
    ///
    /// # Errors
    /// Where this process may not.
    pub fn mark_of_node(&self) -> io::Result<()> {
        self.each.iter().try_for_each(tulle_sys::mark_of_node)
    }

    /// The sockets themselves, for another process to be given.
    pub fn into_descriptors(self) -> Vec<OwnedFd> {
        self.each.into_iter().map(OwnedFd::from).collect()
    }

    /// Adds those of another worker at the same address.
    pub(crate) fn join(&mut self, others: Self) {
        self.each.extend(others.each);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// For each worker those that it accepts at: one at least, and each of them is some worker's, whatever the number of
    /// workers that they were made for. One that has none of its own shares another's.
    pub(crate) fn deal(self, workers: usize) -> io::Result<Vec<Vec<StdListener>>> {
        let mut dealt: Vec<Vec<StdListener>> = (0..workers).map(|_| Vec::new()).collect();
        for (worker, own) in dealt.iter_mut().enumerate().skip(self.each.len()) {
            own.push(self.each[worker % self.each.len()].try_clone()?);
        }
        for (place, socket) in self.each.into_iter().enumerate() {
            dealt[place % workers].push(socket);
        }
        Ok(dealt)
    }

    /// Sets what the rules of capture ask of them.
    fn mark(&self) -> io::Result<()> {
        if matches!(self.purpose, Purpose::Outbound { capture: Capture::Redirected, .. }) {
            // Where there are no rules that ask for it, all is well without.
            if let Err(error) = self.each.iter().try_for_each(mark_listener) {
                UNMARKED.call_once(|| {
                    tracing::warn!(
                        "listeners for captured connections cannot be marked ({error}): the rules of host capture refuse \
                         every one of them; run the node with CAP_NET_ADMIN, or with explicit capture"
                    );
                });
            }
        }
        if matches!(self.purpose, Purpose::Inbound { .. }) {
            self.each.iter().try_for_each(take_diverted)?;
        }
        Ok(())
    }
}

/// One that listens at an address, which others of this process listen at too.
pub(crate) fn listening(address: SocketAddr) -> io::Result<StdListener> {
    let socket = bound(address, true)?;
    prepare(&socket, address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets what those that are accepted inherit.
fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.ip().is_loopback() {
        let _ = socket.set_tcp_congestion(LOCAL_CONGESTION);
    }
    socket.set_tcp_nodelay(true)
}

fn address_of(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream, UdpSocket};

    use tulle_model::name::ServiceName;

    use super::*;

    fn any() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    fn of_service() -> Purpose {
        let service = ServiceName::new("default", "c");
        let workload = WorkloadName::new("default", "a");
        Purpose::Outbound { workload, capture: Capture::Service { service, port: 80 } }
    }

    /// Whatever the two numbers are, no connection waits where nobody accepts.
    #[test]
    fn every_worker_has_one_and_every_one_a_worker() {
        for (count, workers, dealt) in
            [(1, 1, &[1][..]), (2, 2, &[1, 1]), (1, 3, &[1, 1, 1]), (2, 3, &[1, 1, 1]), (5, 2, &[3, 2])]
        {
            let sockets = Sockets::bind(Purpose::Links, any(), count).unwrap();
            let clients: Vec<_> = (0..50).map(|_| TcpStream::connect(sockets.address()).unwrap()).collect();
            let of_each = sockets.deal(workers).unwrap();
            assert_eq!(of_each.iter().map(Vec::len).collect::<Vec<_>>(), dealt, "{count}, {workers}");
            let accepted =
                of_each.iter().flatten().map(|socket| socket.incoming().map_while(Result::ok).count());
            assert_eq!(accepted.sum::<usize>(), clients.len(), "{count}, {workers}");
        }
    }

    #[test]
    fn what_is_given_listens_for_tcp_at_one_address() {
        let one = || -> Vec<OwnedFd> { Sockets::bind(Purpose::Links, any(), 1).unwrap().into_descriptors() };
        let resting = || bound(any(), false).unwrap();
        let listener = StdListener::bind(any()).unwrap();
        let stream = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let unix = || std::os::unix::net::UnixStream::pair().unwrap().0;
        for (descriptors, wrong) in [
            (vec![], "no socket was given"),
            (vec![UdpSocket::bind(any()).unwrap().into()], "socket 0 does not listen for TCP"),
            (vec![resting().into()], "socket 0 does not listen for TCP"),
            (vec![stream().into()], "socket 0 does not listen for TCP"),
            (vec![unix().into()], "socket 0 has no address of IP"),
            (one().into_iter().chain(one()).collect(), "socket 1 listens at 127.0.0.1:"),
        ] {
            let error = Sockets::given(Purpose::Links, descriptors).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().starts_with(wrong), "{error}");
        }
        let bound = Sockets::bind(Purpose::Links, any(), 3).unwrap();
        let address = bound.address();
        let given = Sockets::given(Purpose::Links, bound.into_descriptors()).unwrap();
        assert_eq!((given.address(), given.into_descriptors().len()), (address, 3));
        // What stands for a service may rest, as it does while there is no endpoint.
        assert!(Sockets::given(of_service(), vec![resting().into()]).is_ok());
        assert!(Sockets::given(of_service(), vec![stream().into()]).is_err());
    }
}
