//! Applications that serve one connection after the other. Between two requests such a process waits for
//! more on the connection that it serves, and nobody else gets an answer while a pool keeps that one idle.
//! So who waits for the first answer of a new connection asks all workers to let go of theirs.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::timeout;

/// How long a new connection's first answer is awaited before the others are asked to make room; twice
/// as long each time, for most that take so long are just slow.
const FIRST_PATIENCE: Duration = Duration::from_millis(50);
/// Idle connections are closed anyway after about this time.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

/// An address is the same process for every worker of this one.
static WAITING: LazyLock<broadcast::Sender<SocketAddr>> = LazyLock::new(|| broadcast::channel(64).0);

/// Addresses of which connections should not be kept that were opened before now.
pub fn waiting() -> broadcast::Receiver<SocketAddr> {
    WAITING.subscribe()
}

/// Waits for the first answer of a new connection to `address`.
pub async fn first_answer<T>(address: SocketAddr, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    let mut patience = FIRST_PATIENCE;
    while patience <= LAST_PATIENCE {
        match timeout(patience, &mut answer).await {
            Ok(answer) => return answer,
            // Nobody keeps a connection where nobody listens.
            Err(_) => drop(WAITING.send(address)),
        }
        patience *= 2;
    }
    answer.await
}
