//! Signals that ask a process to stop.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for SIGTERM or SIGINT.
pub async fn terminate() {
    match Stop::new() {
        Ok(mut stop) => stop.next().await,
        // Without handlers the signals end the process, as they do by default.
        Err(_) => std::future::pending().await,
    }
}

/// Signals that come so close together are one wish: tools send them to a process and to its group.
const ONE_WISH: Duration = Duration::from_millis(300);

/// SIGTERM and SIGINT, one after another.
pub struct Stop {
    term: Signal,
    interrupt: Signal,
    last: Option<Instant>,
}

impl Stop {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            last: None,
        })
    }

    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.term.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if self.last.is_none_or(|last| last.elapsed() >= ONE_WISH) {
                self.last = Some(Instant::now());
                return;
            }
        }
    }
}
