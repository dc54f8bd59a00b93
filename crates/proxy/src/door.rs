//! Whether the listener that stands for a port of a service takes connections. Where one could only be reset, the kernel
//! refuses it, as it refuses what goes to a closed port: programs ask whether a service is there by connecting to it.

use std::future::{Future, pending};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener};
use std::pin::Pin;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::Known;

use crate::Capture;
use crate::listener::{BACKLOG, Purpose};
use crate::state::{NodeState, StateCell};

/// The door of a listener; of those that stand for no service it is always open.
pub(crate) struct Door<'a> {
    leaf: Leaf,
    state: &'a StateCell,
    service: Option<Service<'a>>,
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
    /// Neither could be had.
    Broken,
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
        let mut door = Self { leaf: Leaf::Open(listener), state, service };
        door.look();
        door
    }

    /// The next connection. It can be given up at any time, and nothing is lost.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let Some(service) = &mut self.service else { return self.leaf.accept().await };
            let changes = tokio::select! {
                biased;
                changes = &mut service.changed => changes,
                accepted = self.leaf.accept() => return accepted,
            };
            service.changed = changed(changes);
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
        let turned = match (std::mem::replace(&mut self.leaf, Leaf::Broken), open) {
            (Leaf::Open(listener), false) => close(listener),
            (Leaf::Closed(listener), true) => reopen(listener),
            (leaf, _) => Ok(leaf),
        };
        match turned {
            Ok(leaf) => self.leaf = leaf,
            Err(e) => tracing::error!("connections to {service}, port {port}, are not taken any more: {e}"),
        }
    }
}

impl Leaf {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Open(listener) => listener.accept().await,
            Self::Closed(_) | Self::Broken => std::future::pending().await,
        }
    }
}

/// The port stays its own meanwhile: others could listen there if both had `SO_REUSEADDR`.
fn close(listener: TcpListener) -> io::Result<Leaf> {
    let listener = listener.into_std()?;
    let socket = SockRef::from(&listener);
    socket.set_reuse_address(false)?;
    socket.shutdown(Shutdown::Read)?;
    Ok(Leaf::Closed(listener))
}

fn reopen(listener: StdListener) -> io::Result<Leaf> {
    let socket = SockRef::from(&listener);
    socket.listen(BACKLOG)?;
    socket.set_reuse_address(true)?;
    Ok(Leaf::Open(TcpListener::from_std(listener)?))
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
