//! How a worker accepts connections, and who serves them.

mod shutter;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tulle_model::detect::{self, Detected};

use crate::budget::{Account, Payer, Seat, Shed, cost};
use crate::descriptors::Spare;
use crate::http::serve_http2;
use crate::metrics::Rejection;
use crate::reset::Reset;
use crate::sockets::{BACKLOG, Purpose};
use crate::worker::Worker;
use crate::{link, outbound, plain_inbound};

use self::shutter::Shutter;

pub(crate) use self::shutter::Slot;

/// How long a worker waits when it cannot accept, and does not know why.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a refused connection is kept, to tell a client of HTTP/2 why.
const FAREWELL: Duration = Duration::from_millis(200);

/// Accepts until `stop`; then takes what the kernel has already accepted, so that nobody who is
/// connected is turned away, and closes the listener.
pub(crate) async fn accept(worker: Rc<Worker>, slot: Rc<Slot>, purpose: Purpose, stop: CancellationToken) {
    let account = worker.local.accounts.of(&match &purpose {
        Purpose::Links => Payer::Handshakes,
        Purpose::Outbound { workload, .. } => Payer::Workload(workload.clone()),
        Purpose::Inbound { .. } | Purpose::Published { .. } => Payer::Outside,
    });
    // It takes a descriptor itself.
    let _seat = account.certain_seat(0);
    let mut spare = Spare::new();
    let mut shutter = Shutter::new(slot, &purpose, &worker.local.state);
    // Once, not once for each connection: to begin to wait for it, and to end that, takes a lock.
    let mut stopped = pin!(stop.cancelled());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = shutter.accept() => accepted,
        };
        match accepted {
            Ok((tcp, address)) => serve(&worker, &account, tcp, address, &purpose),
            Err(error) if is_of_one_connection(&error) => {}
            // It is told at once, and the others behind it are not kept waiting.
            Err(error) if Spare::is_wanted(&error) && spare.turn_away(shutter.slot()).await => {
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
    // As many as may have been waiting; where the sockets go on elsewhere, others come behind them.
    for _ in 0..BACKLOG {
        match shutter.slot().take_waiting() {
            Ok((tcp, address)) => serve(&worker, &account, tcp, address, &purpose),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => {}
        }
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
        Purpose::Outbound { .. } | Purpose::Inbound { .. } | Purpose::Published { .. } => cost::CONNECTION,
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
        Purpose::Published { service, port } => {
            let connection = outbound::serve_published(worker.clone(), service.clone(), *port, tcp, address);
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::sockets::Sockets;
    use crate::state::NodeState;

    /// More than a task may do in one turn, and before the runtime has heard of any.
    #[tokio::test(flavor = "local")]
    async fn all_whom_the_kernel_has_accepted_are_taken_at_the_end() {
        const CLIENTS: u64 = 500;
        let worker = Worker::idle("n1", NodeState::default());
        let sockets = Sockets::bind(Purpose::Links, (Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap();
        let address = sockets.address();
        let slot = Slot::new(sockets.deal(1).unwrap().remove(0).remove(0)).unwrap();
        let _clients: Vec<_> = (0..CLIENTS).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let stop = CancellationToken::new();
        stop.cancel();
        tokio::task::spawn_local(accept(worker.clone(), Rc::new(slot), Purpose::Links, stop)).await.unwrap();
        assert_eq!(worker.local.metrics.counts().downstream_connections.get(), CLIENTS);
    }
}
