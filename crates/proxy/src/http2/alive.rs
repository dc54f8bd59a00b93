//! Whether the other end of a connection is still there.
//!
//! It is pinged from time to time. It is dead when it does not answer for a while and nothing else came
//! from it either: on a saturated connection an answer may be late, but window updates and data come all
//! the time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Handle;

/// Pings the peer every `interval`, when spare memory is given back too, and calls `each` before each time; returns when the peer is dead.
/// `received` counts the bytes that came from it.
pub async fn until_dead(
    connection: Handle,
    received: Rc<Cell<u64>>,
    interval: Duration,
    deadline: Duration,
    mut each: impl FnMut(),
) {
    loop {
        sleep(interval).await;
        each();
        connection.shrink();
        let mut pong = std::pin::pin!(connection.ping());
        loop {
            let before = received.get();
            match timeout(deadline, pong.as_mut()).await {
                Ok(Ok(())) => break,
                // The connection says by itself why it ended.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) if received.get() > before => each(),
                Err(_) => return,
            }
        }
    }
}
