//! Signals that ask a process to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for SIGTERM or SIGINT.
pub async fn terminate() {
    match Stop::new() {
        Ok(mut stop) => stop.next().await,
        // Without handlers the signals end the process, as they do by default.
        Err(_) => std::future::pending().await,
    }
}

/// SIGTERM and SIGINT, one after another.
pub struct Stop {
    term: Signal,
    interrupt: Signal,
}

impl Stop {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
