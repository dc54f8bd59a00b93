//! Whether the listener that stands for a port of a service takes connections. Where one could only be reset, the kernel
//! refuses it, as it refuses what goes to a closed port: programs ask whether a service is there by connecting to it.

use std::future::{Future, pending};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tulle_model::name::ServiceName;
use tulle_model::snapshot::Known;

use crate::config::Capture;
use crate::listener::{BACKLOG, Purpose, listening};
use crate::state::{NodeState, StateCell};

/// After how long what failed is tried again, first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The door of a listener; of those that stand for no service it is always open.
pub(crate) struct Door<'a> {
    leaf: Leaf,
    state: &'a StateCell,
    service: Option<Service<'a>>,
    /// It is not as it should be.
    again: Again,
}

/// What a door leads to.
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

enum Leaf {
    Open(TcpListener),
    /// The runtime does not know it: to it, a listener that listens no more has ended for good.
    Closed(StdListener),
    /// There is none; this is where it was.
    Lost(SocketAddr),
}

/// When what could not be done is tried again.
#[derive(Default)]
struct Again(Option<(Instant, Duration)>);

impl Again {
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

impl<'a> Door<'a> {
    /// Of a listener that was bound to a port by its number: else the kernel gives it to others while the door is closed.
    pub fn new(listener: TcpListener, purpose: &'a Purpose, state: &'a StateCell) -> Self {
        let service = match purpose {
            Purpose::Outbound { capture: Capture::Service { service, port }, .. } => {
                Some(Service { name: service, port: *port, changed: changed(state.subscribe()) })
            }
            _ => None,
        };
        let mut door = Self { leaf: Leaf::Open(listener), state, service, again: Again::default() };
        door.look();
        door
    }

    /// The next connection. It can be given up at any time, and nothing is lost.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let Some(service) = &mut self.service else { return self.leaf.accept().await };
            tokio::select! {
                biased;
                changes = &mut service.changed => service.changed = changed(changes),
                () = self.again.due() => {}
                accepted = self.leaf.accept() => return accepted,
            }
            self.look();
        }
    }

    /// The listener, while it is open.
    pub fn listener(&self) -> Option<&TcpListener> {
        match &self.leaf {
            Leaf::Open(listener) => Some(listener),
            _ => None,
        }
    }

    fn look(&mut self) {
        let Some(Service { name: service, port, .. }) = self.service else { return };
        let open = leads_somewhere(&self.state.load(), service, port);
        let Err(error) = self.leaf.turn(open) else { return self.again = Again::default() };
        let again = self.again.put_off();
        let what = if open { "are not taken" } else { "are reset, not refused" };
        tracing::error!("connections to {service}, port {port}, {what}: {error}; trying again in {again:?}");
    }
}

impl Leaf {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Open(listener) => listener.accept().await,
            Self::Closed(_) | Self::Lost(_) => pending().await,
        }
    }

    /// Opens or closes it. Where that fails nothing is lost that was there, and it can be tried again.
    fn turn(&mut self, open: bool) -> io::Result<()> {
        match self {
            Self::Open(listener) if !open => {
                let address = listener.local_addr()?;
                close(listener)?;
                if let Self::Open(listener) = std::mem::replace(self, Self::Lost(address)) {
                    *self = Self::Closed(listener.into_std()?);
                }
            }
            Self::Closed(listener) if open => *self = Self::Open(reopen(listener)?),
            Self::Lost(address) if open => *self = Self::Open(TcpListener::from_std(listening(*address)?)?),
            _ => {}
        }
        Ok(())
    }
}

/// The port stays its own meanwhile: others could listen there if both had `SO_REUSEADDR`.
fn close(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_reuse_address(false)?;
    socket.shutdown(Shutdown::Read)
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

    fn open(address: SocketAddr) -> TcpListener {
        TcpListener::from_std(listening(address).unwrap()).unwrap()
    }

    async fn expect_open(address: SocketAddr, door: &mut Door<'_>) {
        assert!(door.listener().is_some() && door.again.0.is_none());
        let client = TcpStream::connect(address).await.unwrap();
        let accepted = timeout(FIRST_PAUSE, door.accept()).await.unwrap().unwrap();
        assert_eq!(accepted.1, client.local_addr().unwrap());
    }

    /// Whoever has its address goes away; then it is bound anew, with nothing else that happens.
    #[tokio::test(start_paused = true)]
    async fn a_listener_that_was_lost_comes_back() {
        let held = StdListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let (purpose, state) = (purpose(), StateCell::new(NodeState::default()));
        let mut door = Door::new(open(free()), &purpose, &state);
        door.leaf = Leaf::Lost(address);
        door.look();
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let (due, waits) = door.again.0.unwrap();
            assert!(door.listener().is_none());
            assert_eq!(waits, Duration::from_secs(pause));
            assert!(timeout_at(due + Duration::from_millis(1), door.accept()).await.is_err());
        }
        drop(held);
        assert!(timeout(2 * LONGEST_PAUSE, door.accept()).await.is_err());
        expect_open(address, &mut door).await;
    }

    /// It keeps the socket, and with it its port.
    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_opened_is_tried_again() {
        let (purpose, state, address) = (purpose(), StateCell::new(NodeState::default()), free());
        let mut door = Door::new(open(address), &purpose, &state);
        door.leaf.turn(false).unwrap();
        // What is no listener at all, and cannot become one.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_std().unwrap();
        let good = std::mem::replace(&mut door.leaf, Leaf::Closed(OwnedFd::from(stream).into()));
        door.look();
        assert!(matches!(door.leaf, Leaf::Closed(_)) && door.again.0.is_some());
        door.leaf = good;
        assert!(TcpStream::connect(address).await.is_err());
        assert!(timeout(2 * FIRST_PAUSE, door.accept()).await.is_err());
        expect_open(address, &mut door).await;
    }
}
