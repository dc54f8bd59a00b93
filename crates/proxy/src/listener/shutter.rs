//! Whether the listener that stands for a port of a service takes connections. Where one could only be reset, the kernel
//! refuses it, as it refuses what goes to a closed port: programs ask whether a service is there by connecting to it.

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tulle_model::name::ServiceName;
use tulle_model::snapshot::Known;

use crate::config::Capture;
use crate::descriptors::Accept;
use crate::sockets::{BACKLOG, Purpose, listening};
use crate::state::{NodeState, StateCell};

/// After how long what failed is tried again, first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Opens and closes a listener; one that stands for no service is always open.
pub(super) struct Shutter<'a> {
    slot: Rc<Slot>,
    state: &'a StateCell,
    service: Option<Service<'a>>,
    /// It is not as it should be.
    backoff: Backoff,
}

/// What is behind a shutter.
struct Service<'a> {
    name: &'a ServiceName,
    port: u16,
    changed: Changed,
}

/// Gives the receiver back when it has seen a change. One waits over all that is accepted until then: to begin to wait,
/// and to end that, takes a lock.
type Changed = Pin<Box<dyn Future<Output = watch::Receiver<u64>>>>;

fn changed(mut changes: watch::Receiver<u64>) -> Changed {
    Box::pin(async move {
        if changes.changed().await.is_err() {
            // There will be no other.
            pending::<()>().await;
        }
        changes
    })
}

/// A socket that listens, or does not for a while. Whoever accepts there shares it with whoever duplicates it.
pub(crate) struct Slot(RefCell<Socket>);

enum Socket {
    Open(TcpListener),
    /// The runtime does not know it: to it, a listener that listens no more has ended for good.
    Closed(StdListener),
    /// There is none; this is where it was.
    Lost(SocketAddr),
}

/// When what could not be done is tried again.
#[derive(Default)]
struct Backoff(Option<(Instant, Duration)>);

impl Backoff {
    /// It has failed now; how long it waits.
    fn put_off(&mut self) -> Duration {
        let pause = self.0.map_or(FIRST_PAUSE, |(_, last)| (2 * last).min(LONGEST_PAUSE));
        self.0 = Some((Instant::now() + pause, pause));
        pause
    }

    /// Waits for it; for ever where there is nothing to be tried.
    async fn due(&self) {
        match self.0 {
            Some((at, _)) => sleep_until(at).await,
            None => pending().await,
        }
    }
}

impl<'a> Shutter<'a> {
    /// Of a socket that was bound to a port by its number: else the kernel gives it to others while it is closed.
    pub fn new(slot: Rc<Slot>, purpose: &'a Purpose, state: &'a StateCell) -> Self {
        let service = match purpose {
            Purpose::Outbound { capture: Capture::Service { service, port }, .. } => {
                Some(Service { name: service, port: *port, changed: changed(state.subscribe()) })
            }
            _ => None,
        };
        let mut shutter = Self { slot, state, service, backoff: Backoff::default() };
        shutter.look();
        shutter
    }

    /// The next connection. It can be given up at any time, and nothing is lost.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let Some(service) = &mut self.service else { return self.slot.accept().await };
            tokio::select! {
                biased;
                changes = &mut service.changed => service.changed = changed(changes),
                () = self.backoff.due() => {}
                accepted = self.slot.accept() => return accepted,
            }
            self.look();
        }
    }

    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    fn look(&mut self) {
        let Some(Service { name: service, port, .. }) = self.service else { return };
        let open = leads_somewhere(&self.state.load(), service, port);
        let Err(error) = self.slot.turn(open) else { return self.backoff = Backoff::default() };
        let pause = self.backoff.put_off();
        let what = if open { "are not taken" } else { "are reset, not refused" };
        tracing::error!("connections to {service}, port {port}, {what}: {error}; trying again in {pause:?}");
    }
}

impl Slot {
    pub fn new(socket: StdListener) -> io::Result<Self> {
        // Whoever had it before may have closed it.
        let socket = match SockRef::from(&socket).is_listener()? {
            true => Socket::Open(TcpListener::from_std(socket)?),
            false => Socket::Closed(socket),
        };
        Ok(Self(RefCell::new(socket)))
    }

    /// The same socket once more; `None` where there is none at the moment.
    pub fn duplicate(&self) -> io::Result<Option<StdListener>> {
        let owned = match &*self.0.borrow() {
            Socket::Open(listener) => listener.as_fd().try_clone_to_owned()?,
            Socket::Closed(listener) => return listener.try_clone().map(Some),
            Socket::Lost(_) => return Ok(None),
        };
        Ok(Some(owned.into()))
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        match &*self.0.borrow() {
            Socket::Open(listener) => listener.poll_accept(cx),
            // Who opens it asks again.
            Socket::Closed(_) | Socket::Lost(_) => Poll::Pending,
        }
    }

    /// A connection that waits there, whether the runtime has heard of it or not.
    pub fn take_waiting(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let Socket::Open(listener) = &*self.0.borrow() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let (socket, address) = SockRef::from(listener).accept()?;
        socket.set_nonblocking(true)?;
        let address = address.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok((TcpStream::from_std(socket.into())?, address))
    }

    /// Opens or closes it. Where that fails nothing is lost that was there, and it can be tried again.
    fn turn(&self, open: bool) -> io::Result<()> {
        let socket = &mut *self.0.borrow_mut();
        match socket {
            Socket::Open(listener) if !open => {
                let address = listener.local_addr()?;
                close(listener)?;
                if let Socket::Open(listener) = std::mem::replace(socket, Socket::Lost(address)) {
                    *socket = Socket::Closed(listener.into_std()?);
                }
            }
            Socket::Closed(listener) if open => *socket = Socket::Open(reopen(listener)?),
            Socket::Lost(address) if open => {
                *socket = Socket::Open(TcpListener::from_std(listening(*address)?)?);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Accept for Slot {
    fn accept_now(&self) -> bool {
        match &*self.0.borrow() {
            Socket::Open(listener) => listener.accept_now(),
            Socket::Closed(_) | Socket::Lost(_) => false,
        }
    }
}

/// The port stays its own meanwhile: others could listen there if both had `SO_REUSEADDR`.
fn close(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_reuse_address(false)?;
    match socket.shutdown(Shutdown::Read) {
        // Another worker that shares it was faster.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        closed => closed,
    }
}

fn reopen(listener: &StdListener) -> io::Result<TcpListener> {
    let socket = SockRef::from(listener);
    socket.listen(BACKLOG)?;
    socket.set_reuse_address(true)?;
    // Another name of the same socket, which is not lost with this one.
    TcpListener::from_std(listener.try_clone()?)
}

/// Where nothing is known of the service yet, its first connection finds out.
fn leads_somewhere(state: &NodeState, service: &ServiceName, port: u16) -> bool {
    let config = match state.snapshot.services.get(service) {
        Some(Known::Present(config)) => config,
        Some(Known::Absent) => return false,
        None => return true,
    };
    config.port(port).is_some_and(|port| !config.is_deserted(port, &state.snapshot.endpoints))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use tokio::time::{timeout, timeout_at};
    use tulle_model::name::WorkloadName;

    use super::*;

    fn purpose() -> Purpose {
        let service = ServiceName::new("default", "c");
        let workload = WorkloadName::new("default", "a");
        Purpose::Outbound { workload, capture: Capture::Service { service, port: 80 } }
    }

    /// A port that is free.
    fn free() -> SocketAddr {
        StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn open(address: SocketAddr) -> Rc<Slot> {
        Rc::new(Slot::new(listening(address).unwrap()).unwrap())
    }

    fn is_open(shutter: &Shutter) -> bool {
        matches!(*shutter.slot.0.borrow(), Socket::Open(_))
    }

    async fn expect_open(address: SocketAddr, shutter: &mut Shutter<'_>) {
        assert!(is_open(shutter) && shutter.backoff.0.is_none());
        let client = TcpStream::connect(address).await.unwrap();
        let accepted = timeout(FIRST_PAUSE, shutter.accept()).await.unwrap().unwrap();
        assert_eq!(accepted.1, client.local_addr().unwrap());
    }

    /// Whoever has its address goes away; then it is bound anew, with nothing else that happens.
    #[tokio::test(start_paused = true)]
    async fn a_listener_that_was_lost_comes_back() {
        let held = StdListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let (purpose, state) = (purpose(), StateCell::new(NodeState::default()));
        let mut shutter = Shutter::new(open(free()), &purpose, &state);
        shutter.slot.0.replace(Socket::Lost(address));
        shutter.look();
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let (due, waits) = shutter.backoff.0.unwrap();
            assert!(!is_open(&shutter));
            assert_eq!(waits, Duration::from_secs(pause));
            assert!(timeout_at(due + Duration::from_millis(1), shutter.accept()).await.is_err());
        }
        drop(held);
        assert!(timeout(2 * LONGEST_PAUSE, shutter.accept()).await.is_err());
        expect_open(address, &mut shutter).await;
    }

    /// It keeps the socket, and with it its port.
    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_opened_is_tried_again() {
        let (purpose, state, address) = (purpose(), StateCell::new(NodeState::default()), free());
        let mut shutter = Shutter::new(open(address), &purpose, &state);
        shutter.slot.turn(false).unwrap();
        // What is no listener at all, and cannot become one.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_std().unwrap();
        let good = shutter.slot.0.replace(Socket::Closed(OwnedFd::from(stream).into()));
        shutter.look();
        assert!(matches!(*shutter.slot.0.borrow(), Socket::Closed(_)) && shutter.backoff.0.is_some());
        shutter.slot.0.replace(good);
        assert!(TcpStream::connect(address).await.is_err());
        assert!(timeout(2 * FIRST_PAUSE, shutter.accept()).await.is_err());
        expect_open(address, &mut shutter).await;
    }

    /// The one who had it before had closed it, or another worker that shares it does.
    #[tokio::test(start_paused = true)]
    async fn one_that_is_shared_is_closed_and_opened_by_each() {
        let (purpose, state, address) = (purpose(), StateCell::new(NodeState::default()), free());
        let first = open(address);
        let second = Slot::new(first.duplicate().unwrap().unwrap()).unwrap();
        first.turn(false).unwrap();
        second.turn(false).unwrap();
        let third = Slot::new(first.duplicate().unwrap().unwrap()).unwrap();
        drop((first, second));
        assert!(matches!(*third.0.borrow(), Socket::Closed(_)));
        assert!(TcpStream::connect(address).await.is_err());
        expect_open(address, &mut Shutter::new(Rc::new(third), &purpose, &state)).await;
    }
}
