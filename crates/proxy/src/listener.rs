//! Listening sockets: one for each worker at the same address (`SO_REUSEPORT`), so that the kernel
//! spreads the connections and no worker waits for another.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use futures_util::FutureExt;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tulle_model::detect::{self, Detected};
use tulle_model::name::WorkloadName;
use tulle_sys::{mark_listener, take_diverted};

use crate::budget::{Account, Payer, Seat, Shed, cost};
use crate::config::Capture;
use crate::connect::LOCAL_CONGESTION;
use crate::descriptors::Spare;
use crate::door::Door;
use crate::http::serve_http2;
use crate::metrics::Rejection;
use crate::reset::Reset;
use crate::worker::Worker;
use crate::{link, outbound, plain_inbound};

pub(crate) const BACKLOG: i32 = 4096;
/// How long a worker waits when it cannot accept, and does not know why.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a refused connection is kept, to tell a client of HTTP/2 why.
const FAREWELL: Duration = Duration::from_millis(200);

/// What a listener is for.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    Outbound {
        workload: WorkloadName,
        capture: Capture,
    },
    Links,
    /// What inbound capture diverts of connections to a workload's process.
    Inbound {
        workload: WorkloadName,
    },
}

/// Whether it was said that listeners cannot be marked.
static UNMARKED: Once = Once::new();

/// Binds one listener for each of `count` workers; with port 0, all to the port that the first one got.
pub(crate) fn bind(address: SocketAddr, count: usize, purpose: &Purpose) -> io::Result<Vec<StdListener>> {
    if address.port() != 0 {
        // Another process of this user could hold the port in the same way, and would get a share of
        // the connections. A socket that does not share finds out.
        socket(address, false)?;
    }
    // Each is bound to the port by its number, so that it keeps it whatever becomes of it.
    let first = socket(address, true)?;
    let bound = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let listeners = (0..count).map(|_| listening(bound)).collect::<io::Result<Vec<_>>>()?;
    drop(first);
    if matches!(purpose, Purpose::Outbound { capture: Capture::Redirected, .. }) {
        // Where there are no rules that ask for it, all is well without.
        if let Err(error) = listeners.iter().try_for_each(mark_listener) {
            UNMARKED.call_once(|| {
                tracing::warn!(
                    "listeners for captured connections cannot be marked ({error}): the rules of host capture refuse \
                     every one of them; run the node with CAP_NET_ADMIN, or with explicit capture"
                );
            });
        }
    }
    if matches!(purpose, Purpose::Inbound { .. }) {
        listeners.iter().try_for_each(take_diverted)?;
    }
    Ok(listeners)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if address.ip().is_loopback() {
        // What it accepts inherits it.
        let _ = socket.set_tcp_congestion(LOCAL_CONGESTION);
    }
    Ok(socket)
}

pub(crate) fn listening(address: SocketAddr) -> io::Result<StdListener> {
    let socket = socket(address, true)?;
    // What is accepted has it from here.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until `stop`; then takes what the kernel has already accepted, so that nobody who is
/// connected is turned away, and closes the listener.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    purpose: Purpose,
    stop: CancellationToken,
) {
    let account = worker.local.accounts.of(&match &purpose {
        Purpose::Links => Payer::Handshakes,
        Purpose::Outbound { workload, .. } => Payer::Workload(workload.clone()),
        Purpose::Inbound { .. } => Payer::Outside,
    });
    // It takes a descriptor itself.
    let _seat = account.certain_seat(0);
    let mut spare = Spare::new();
    let mut door = Door::new(listener, &purpose, &worker.local.state);
    // Once, not once for each connection: to begin to wait for it, and to end that, takes a lock.
    let mut stopped = pin!(stop.cancelled());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = door.accept() => accepted,
        };
        match accepted {
            Ok((tcp, address)) => serve(&worker, &account, tcp, address, &purpose),
            Err(error) if is_of_one_connection(&error) => {}
            // It is told at once, and the others behind it are not kept waiting.
            Err(error)
                if Spare::is_wanted(&error)
                    && let Some(listener) = door.listener()
                    && spare.turn_away(listener).await =>
            {
                worker.local.metrics.counts().rejected(Rejection::Descriptors);
                if worker.local.may_warn() {
                    tracing::warn!("connection refused: {error}");
                }
            }
            Err(error) => {
                if worker.local.may_warn() {
                    tracing::warn!("cannot accept connections: {error}; trying again in {PAUSE:?}");
                }
                tokio::select! {
                    () = &mut stopped => break,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
    while let Some(Ok((tcp, address))) = door.accept().now_or_never() {
        serve(&worker, &account, tcp, address, &purpose);
    }
}

/// Errors that a connection brought along (accept(2)); the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | ConnectionRefused
            | Interrupted
            | NetworkUnreachable
            | HostUnreachable
            | NetworkDown
            | WouldBlock
    )
}

fn serve(
    worker: &Rc<Worker>,
    account: &Rc<Account>,
    mut tcp: TcpStream,
    address: SocketAddr,
    purpose: &Purpose,
) {
    let counts = worker.local.metrics.counts();
    counts.downstream_connections.add(1);
    let price = match purpose {
        Purpose::Links => cost::HANDSHAKE,
        Purpose::Outbound { .. } | Purpose::Inbound { .. } => cost::CONNECTION,
    };
    let seat = match account.seat(price) {
        Ok(seat) => seat,
        Err(shed) => {
            counts.rejected(shed.into());
            if worker.local.may_warn() {
                let payer = account.payer();
                tracing::warn!(peer = %address, %payer, reason = shed.as_str(), "connection refused: {}", shed.message());
            }
            match (purpose, worker.farewells.clone().try_acquire_owned()) {
                (Purpose::Outbound { .. }, Ok(place)) => {
                    tokio::task::spawn_local(
                        worker.local.connections.track_future(say_why(tcp, shed, place)),
                    );
                }
                _ => tcp.reset(),
            }
            return;
        }
    };
    match purpose {
        Purpose::Links => {
            let link = link::server::serve(worker.clone(), tcp, address, seat);
            tokio::task::spawn_local(worker.local.connections.track_future(Box::pin(link)));
        }
        Purpose::Outbound { workload, capture } => {
            let connection = outbound::serve(worker.clone(), workload.clone(), capture.clone(), tcp);
            tokio::task::spawn_local(
                worker.local.connections.track_future(Box::pin(seated(seat, connection))),
            );
        }
        Purpose::Inbound { workload } => {
            let connection =
                plain_inbound::serve(worker.clone(), workload.clone(), account.clone(), tcp, address);
            tokio::task::spawn_local(
                worker.local.connections.track_future(Box::pin(seated(seat, connection))),
            );
        }
    }
}

/// Tells a client that speaks HTTP/2 why it is not served, and resets any other.
async fn say_why(mut tcp: TcpStream, shed: Shed, _place: OwnedSemaphorePermit) {
    let mut first = Vec::new();
    let speaks_http2 = async {
        loop {
            match detect::detect(&first, false) {
                Detected::Http2 => return true,
                Detected::NeedMore => {}
                _ => return false,
            }
            if !tcp.read_buf(&mut first).await.is_ok_and(|length| length > 0) {
                return false;
            }
        }
    };
    if timeout(FAREWELL, speaks_http2).await.unwrap_or(false) {
        let _ = timeout(FAREWELL, serve_http2::refuse(tcp, shed.message())).await;
    } else {
        tcp.reset();
    }
}

/// A connection that has its seat until it ends.
async fn seated(_seat: Seat, connection: impl Future<Output = ()>) {
    connection.await;
}
