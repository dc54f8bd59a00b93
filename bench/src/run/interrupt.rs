//! Ctrl-C and SIGTERM: what was started is to be ended, and the folder of the run to be removed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes the signals from now on. Handlers rather than a mask: processes that are started would inherit a mask,
/// and not end when they are told to.
pub fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let taken = runtime
        .block_on(async { anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)) });
    let (mut interrupt, mut terminate) = taken.context("signals cannot be taken")?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if INTERRUPTED.swap(true, Ordering::Relaxed) {
                    // Whoever asks twice does not want to wait.
                    std::process::exit(130);
                }
            }
        });
    });
    Ok(())
}

/// An error once there was a signal. Everything that waits asks for it.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
