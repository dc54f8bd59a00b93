//! Whether the other end of a link is still there.
//!
//! It is pinged every [`PING_INTERVAL`]. It is dead when it does not answer for [`PING_DEADLINE`] and
//! nothing else came from it either: on a saturated link an answer may be late, but window updates and
//! data come all the time.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::{sleep, timeout};

use super::{PING_DEADLINE, PING_INTERVAL};
use crate::http2::Handle;

/// Pings the peer, and calls `each` before each time; returns when the peer is dead. `received` counts the
/// bytes that came from it.
pub(super) async fn until_dead(link: Handle, received: Rc<Cell<u64>>, mut each: impl FnMut()) {
    loop {
        sleep(PING_INTERVAL).await;
        each();
        let mut pong = std::pin::pin!(link.ping());
        loop {
            let before = received.get();
            match timeout(PING_DEADLINE, pong.as_mut()).await {
                Ok(Ok(())) => break,
                // The connection says by itself why it ended.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) if received.get() > before => each(),
                Err(_) => return,
            }
        }
    }
}
