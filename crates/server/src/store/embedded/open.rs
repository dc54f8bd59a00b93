//! Making and opening the database's file.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::{Database, DatabaseError, StorageError};

use super::disk::{Disk, Reserve, is_unwritable};
use super::{Place, StoreError, commit, read};

/// How long opening waits for another process, or another handle of this one, to let go of the file.
const IN_USE_PATIENCE: Duration = Duration::from_secs(1);
/// The database's page cache, in bytes.
const CACHE_BYTES: usize = 64 << 20;
const DAMAGED: &str = "the file is damaged; put the server's folder back from a backup";

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process uses the store {0}; stop that server first")]
    InUse(String),
    #[error("cannot open the store {path}: {cause}")]
    Failed { path: String, cause: String },
}

/// An open database.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) database: Database,
    /// Whether what is written goes to the file.
    pub(super) writable: bool,
    /// Set: it writes no more.
    retired: Arc<AtomicBool>,
}

impl Opened {
    fn on(disk: Disk, writable: bool) -> Result<Self, DatabaseError> {
        let retired = disk.retire();
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(disk)?;
        Ok(Self { database, writable, retired })
    }

    /// Opens the file for writing.
    pub(super) fn writable(place: &Place) -> Result<Self, DatabaseError> {
        let file = place.writable_file().map_err(StorageError::from)?;
        Self::on(Disk::writable(file, place.reserve.clone()), true)
    }

    /// Opens the file for reading.
    pub(super) fn image(place: &Place) -> Result<Self, DatabaseError> {
        let file = place.file.lock().clone();
        Self::on(Disk::image(file, place.reserve.clone()).map_err(StorageError::from)?, false)
    }

    /// Keeps it from the file, which another one is about to write.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Checks all of it: reading a damaged page would end the process later.
    fn check(&mut self, path: &Path) -> Result<(), DatabaseError> {
        if !self.database.check_integrity()? {
            tracing::warn!(
                path = %path.display(),
                "the store was damaged and is repaired; what was written last may be gone"
            );
        }
        Ok(())
    }
}

impl Place {
    fn new(path: &Path, file: Arc<File>, read_only: bool) -> Self {
        Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            read_only: AtomicBool::new(read_only),
            reserve: Arc::new(Reserve::open(path)),
        }
    }

    /// The file, which may be open for reading only, and may be written by now.
    fn writable_file(&self) -> std::io::Result<Arc<File>> {
        let mut file = self.file.lock();
        if self.read_only.load(Ordering::Acquire) {
            let writable = OpenOptions::new().read(true).write(true).open(&self.path)?;
            file.unlock()?;
            if let Err(error) = writable.try_lock() {
                let _ = file.try_lock();
                return Err(error.into());
            }
            *file = Arc::new(writable);
            self.read_only.store(false, Ordering::Release);
        }
        Ok(file.clone())
    }
}

/// Makes a store with one value in it. It is whole when it appears at `path`.
pub(super) fn create(path: &Path, key: &str, value: &[u8]) -> Result<(), OpenError> {
    let failed = |cause: String| OpenError::Failed { path: path.display().to_string(), cause };
    let new = path.with_extension("redb.new");
    let make = || -> Result<(), StoreError> {
        let io = |error: std::io::Error| StoreError::database(StorageError::from(error));
        let _ = std::fs::remove_file(&new);
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&new);
        let file = Arc::new(file.map_err(io)?);
        let place = Place::new(path, file.clone(), false);
        let opened = Opened::writable(&place).map_err(StoreError::database)?;
        commit::create_tables(&opened.database)?;
        commit::put_first(&opened.database, key, value)?;
        drop(opened);
        file.sync_all().map_err(io)?;
        std::fs::rename(&new, path).map_err(io)?;
        File::open(path.parent().unwrap_or(Path::new("."))).and_then(|f| f.sync_all()).map_err(io)
    };
    make().map_err(|error| {
        let _ = std::fs::remove_file(&new);
        failed(error.to_string())
    })
}

/// Opens the store at `path`; the error is why it cannot be written, where it can only be read.
pub(super) fn open(path: &Path) -> Result<(Opened, Place, Option<StoreError>), OpenError> {
    let failed = |cause: String| OpenError::Failed { path: path.display().to_string(), cause };
    let damaged = |cause: Option<String>| match cause {
        Some(cause) => failed(format!("{DAMAGED} ({cause})")),
        None => failed(DAMAGED.to_owned()),
    };
    let (file, unwritable) = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => (file, None),
        Err(error) if is_unwritable(&error) => {
            (File::open(path).map_err(|e| failed(e.to_string()))?, Some(error))
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    if unwritable.is_none() {
        // The store holds what only its owner may read.
        if let Err(error) = file.set_permissions(Permissions::from_mode(0o600)) {
            tracing::warn!(%error, path = %path.display(), "cannot make the store private");
        }
    }
    lock(&file, path)?;
    if file.metadata().map_err(|error| failed(error.to_string()))?.len() == 0 {
        return Err(failed("the file is empty; put the server's folder back from a backup".to_owned()));
    }
    let place = Place::new(path, Arc::new(file), unwritable.is_some());
    // The database takes the file's structure for granted until it is checked.
    let guarded = |open: &dyn Fn() -> Result<Opened, DatabaseError>| {
        catch_unwind(AssertUnwindSafe(open)).map_err(|_| damaged(None))
    };
    let mut trouble = unwritable.map(|error| StoreError::database(StorageError::from(error)));
    let mut opened = None;
    if trouble.is_none() {
        match guarded(&|| open_checked(&place))? {
            Ok(writable) => opened = Some(writable),
            Err(DatabaseError::Storage(StorageError::Io(error))) if is_unwritable(&error) => {
                trouble = Some(StoreError::database(StorageError::from(error)));
            }
            Err(DatabaseError::Storage(StorageError::Corrupted(what))) => return Err(damaged(Some(what))),
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    let opened = match opened {
        Some(opened) => opened,
        None => guarded(&|| {
            let mut image = Opened::image(&place)?;
            image.check(path)?;
            Ok(image)
        })?
        .map_err(|error| failed(error.to_string()))?,
    };
    if let Err(error) = read::latest(&opened.database) {
        return Err(failed(format!(
            "it is no store of a mesh ({error}); put the server's folder back from a backup"
        )));
    }
    if let Some(trouble) = &trouble {
        tracing::error!(path = %path.display(), "{trouble}");
    }
    Ok((opened, place, trouble))
}

/// Opens the file for writing, checks it, and gives free pages back where nobody waits for a write yet.
fn open_checked(place: &Place) -> Result<Opened, DatabaseError> {
    let mut opened = Opened::writable(place)?;
    opened.check(&place.path)?;
    if let Err(error) = opened.database.compact() {
        tracing::warn!(%error, path = %place.path.display(), "could not compact the store");
        opened.retire();
        drop(opened);
        opened = Opened::writable(place)?;
    }
    let filled = place.reserve.refill();
    if !place.reserve.is_whole() {
        tracing::warn!(path = %place.path.display(), ?filled, "there is no room for the store's reserve");
    }
    Ok(opened)
}

fn lock(file: &File, path: &Path) -> Result<(), OpenError> {
    let deadline = Instant::now() + IN_USE_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(OpenError::InUse(path.display().to_string()));
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(OpenError::Failed {
                    path: path.display().to_string(),
                    cause: format!("it cannot be locked: {error}"),
                });
            }
        }
    }
}
