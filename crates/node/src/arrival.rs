//! When something appears in a folder: who waits for a node that is started again is to know at once, not
//! at the next time that he looks.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

/// Room for some events; what they are does not matter.
const EVENTS: usize = 4096;

/// Watches a folder for new names in it.
pub struct Arrivals {
    /// `None` where the kernel does not tell (a folder that is not there, or too many watches of a user).
    events: Option<AsyncFd<File>>,
}

impl Arrivals {
    /// Watches from now on.
    #[expect(deprecated, reason = "it is for types that may change their descriptor; a File does not")]
    pub fn in_folder(folder: &Path) -> Self {
        let watch = || -> io::Result<_> {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            inotify.add_watch(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
            AsyncFd::new(File::from(OwnedFd::from(inotify)))
        };
        let watched = watch().inspect_err(|e| tracing::debug!("{} is not watched: {e}", folder.display()));
        Self { events: watched.ok() }
    }

    /// Waits until something has appeared since the last call, or `patience` is over.
    pub async fn next(&mut self, patience: Duration) {
        let Some(events) = &self.events else { return tokio::time::sleep(patience).await };
        let _ = timeout(patience, events.async_io(tokio::io::Interest::READABLE, take_all)).await;
    }
}

/// Reads until nothing is left; an error where nothing was there.
fn take_all(mut events: &File) -> io::Result<()> {
    let mut buffer = [0; EVENTS];
    let mut length = events.read(&mut buffer)?;
    while length > 0 {
        length = events.read(&mut buffer).unwrap_or(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn tells_of_new_names_at_once_and_of_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut arrivals = Arrivals::in_folder(folder.path());
        let started = Instant::now();
        std::fs::write(folder.path().join("new"), "").unwrap();
        arrivals.next(LONG).await;
        std::fs::rename(folder.path().join("new"), folder.path().join("moved")).unwrap();
        arrivals.next(LONG).await;
        assert!(started.elapsed() < LONG);
        let quiet = Instant::now();
        arrivals.next(SHORT).await;
        assert!(quiet.elapsed() >= SHORT, "nothing is new");
    }

    #[tokio::test]
    async fn without_a_folder_it_waits() {
        let started = Instant::now();
        Arrivals::in_folder(Path::new("/nonexistent")).next(SHORT).await;
        assert!(started.elapsed() >= SHORT);
    }
}
