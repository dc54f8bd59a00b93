//! One node a home: two with one state would ruin each other's.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

/// Another node runs with the same home.
#[derive(Debug, thiserror::Error)]
#[error("another node runs with the state in {}: stop it, or set TULLE_HOME to another folder", .0.display())]
pub struct InUse(PathBuf);

/// The right to be the node of a home, for as long as it is held.
#[derive(Debug)]
pub(crate) struct HomeLock {
    /// What is locked: a file, or the folder itself where there is none and none can be made.
    path: PathBuf,
    held: Flock<OwnedFd>,
}

impl HomeLock {
    /// Takes the lock of the node whose files are in `folder`.
    ///
    /// # Errors
    /// [`InUse`] where somebody else holds it, or has put another file in its place meanwhile.
    pub fn take(folder: &Path) -> anyhow::Result<Self> {
        let mut path = folder.join("lock");
        let writing = File::options().create(true).truncate(false).write(true).open(&path);
        // On a read-only disk the file of an earlier start is as good, and the folder in its place.
        let opened = writing.or_else(|_| File::open(&path)).or_else(|e| {
            path = folder.to_owned();
            File::open(&path).map_err(|_| e)
        });
        let file = opened.with_context(|| format!("{} cannot be opened", path.display()))?;
        Self::lock(OwnedFd::from(file), path).ok_or_else(|| InUse(folder.to_owned()).into())
    }

    /// Locks what was opened at `path`, where nobody else has it. A lock on a file that is no longer there keeps
    /// nobody away: another node may hold the one that stands in its place.
    fn lock(file: OwnedFd, path: PathBuf) -> Option<Self> {
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        Some(Self { path, held }).filter(Self::is_in_force)
    }

    /// Whether what is locked still stands at its place: it does not where the home was removed or replaced.
    pub fn is_in_force(&self) -> bool {
        let held = nix::sys::stat::fstat(&*self.held).map(|stat| (stat.st_dev, stat.st_ino));
        let there = fs::metadata(&self.path).map(|file| (file.dev(), file.ino()));
        matches!((held, there), (Ok(held), Ok(there)) if held == there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_only_where_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let first = HomeLock::take(folder.path()).unwrap();
        assert!(first.is_in_force());
        assert!(HomeLock::take(folder.path()).unwrap_err().is::<InUse>());
        fs::remove_file(folder.path().join("lock")).unwrap();
        assert!(!first.is_in_force());
        let second = HomeLock::take(folder.path()).unwrap();
        assert!(second.is_in_force() && !first.is_in_force(), "it is another's now");
        drop(second);
        assert!(HomeLock::take(folder.path()).is_ok());
    }

    #[test]
    fn a_file_that_goes_between_its_opening_and_its_locking_is_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let opened = OwnedFd::from(File::create(&path).unwrap());
        fs::remove_file(&path).unwrap();
        let _other = HomeLock::take(folder.path()).unwrap();
        assert!(HomeLock::lock(opened, path).is_none());
    }
}
