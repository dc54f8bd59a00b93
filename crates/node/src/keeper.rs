//! Files that could not be written (on a full disk, say) are written when they can be: the latest content
//! of each, at longer and longer intervals. The node goes on without; it needs them at its next start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;
use crate::files;

/// How long to wait before the next attempt, at first and at most.
const LEAST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Writes a node's files. Clones share what is left to be written.
#[derive(Clone)]
pub struct Keeper {
    unwritten: Arc<Unwritten>,
    _task: Arc<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct Unwritten {
    /// Held while a file is written, so that an older content never replaces a newer one.
    files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    more: Notify,
}

impl Keeper {
    /// Must be called in a runtime.
    pub fn start() -> Self {
        let unwritten = Arc::new(Unwritten::default());
        let task = tokio::spawn(retry(unwritten.clone()));
        Self { unwritten, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// Writes a file, readable by its owner only. One that cannot be written now is written later.
    /// Blocks as long as the disk does.
    pub fn keep(&self, path: &Path, content: Vec<u8>) {
        let mut files = self.unwritten.files.lock();
        files.remove(path);
        if let Err(e) = files::write_private(path, &content) {
            tracing::warn!("not kept over a restart for now, trying again later: {e}");
            files.insert(path.to_owned(), content);
            self.unwritten.more.notify_one();
        }
    }

    /// A file that this keeper writes.
    pub fn file(&self, path: PathBuf) -> KeptFile {
        KeptFile { keeper: self.clone(), path }
    }
}

/// A file and who writes it.
#[derive(Clone)]
pub struct KeptFile {
    keeper: Keeper,
    pub path: PathBuf,
}

impl KeptFile {
    /// Another file of its folder.
    pub fn beside(&self, name: &str) -> Self {
        Self { keeper: self.keeper.clone(), path: self.path.with_file_name(name) }
    }

    /// [`Keeper::keep`]
    pub fn keep(&self, content: Vec<u8>) {
        self.keeper.keep(&self.path, content);
    }
}

async fn retry(unwritten: Arc<Unwritten>) {
    let mut backoff = Backoff::new(LEAST_WAIT, LONGEST_WAIT);
    loop {
        if unwritten.files.lock().is_empty() {
            backoff.reset();
            unwritten.more.notified().await;
            continue;
        }
        backoff.wait().await;
        let unwritten = unwritten.clone();
        let writing = spawn_blocking(move || {
            let mut files = unwritten.files.lock();
            files.retain(|path, content| match files::write_private(path, content) {
                Ok(()) => {
                    tracing::info!("{} is written at last", path.display());
                    false
                }
                Err(e) => {
                    tracing::debug!("still not written: {e}");
                    true
                }
            });
        });
        let _ = writing.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_written_is_written_later_and_the_newest_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("file");
        let keeper = Keeper::start();
        keeper.keep(&path, b"one".to_vec());
        keeper.keep(&path, b"two".to_vec());
        assert!(!path.exists());
        files::create_private_folder(path.parent().unwrap()).unwrap();
        let written = async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        keeper.keep(&path, b"three".to_vec());
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert!(keeper.unwritten.files.lock().is_empty());
    }
}
