//! The file under the database, on disks that may be full or that may only be read.
//!
//! A *reserve* lies beside the store: blocks that are given back when a write of the database finds
//! no room, so that what deletes (and a start) goes on where the disk is full. What adds does not
//! touch it: the writer asks for room first, and does not allow it ([`Reserve::allow`]). It is filled
//! again with what is free, as far as that goes.
//!
//! Where the file cannot be written at all, the database is opened on an *image*: it reads the file,
//! and what it writes (its own repairs) stays in memory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;
use redb::StorageBackend;

/// How large the reserve is at least and at most, in bytes; between them it is a 32nd of the disk.
const LEAST_RESERVE: u64 = 256 << 10;
const LARGEST_RESERVE: u64 = 8 << 20;
/// How much of it is filled at once at least, in bytes.
const LEAST_PART: u64 = 64 << 10;
/// How much of the image is kept together, in bytes.
const CHUNK: u64 = 4096;

/// Whether an error says that there is no room (or none that the quota allows).
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether an error says that the file cannot be written now, and reading it may still work.
pub(super) fn is_unwritable(error: &io::Error) -> bool {
    is_full(error) || matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

/// How many bytes may be written on the disk of `folder`; as good as endless where it does not say.
fn free(folder: &Path) -> u64 {
    statvfs(folder).map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Room that is given back in need.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    size: u64,
    /// How much of it is there, in bytes.
    filled: AtomicU64,
    /// Whether what is written at present may have it.
    allowed: AtomicBool,
    #[cfg(test)]
    pub(super) faults: Faults,
}

/// What a test makes of the disk.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Faults {
    /// How many reads fail.
    pub(super) reads: AtomicU64,
    /// Writes fail.
    pub(super) writes: AtomicBool,
    /// No write finds room unless the reserve was given back.
    pub(super) full: AtomicBool,
    pub(super) free: AtomicU64,
    pub(super) compactions: AtomicU64,
}

impl Reserve {
    /// The reserve of the store at `store`. It may have to be filled.
    pub(super) fn open(store: &Path) -> Self {
        let folder = store.parent().unwrap_or(Path::new("."));
        let total = statvfs(folder).map_or(u64::MAX, |d| d.blocks().saturating_mul(d.fragment_size()));
        let size = (total / 32).clamp(LEAST_RESERVE, LARGEST_RESERVE) / CHUNK * CHUNK;
        let path = store.with_extension("reserve");
        let filled = fs::metadata(&path).map_or(0, |there| there.len());
        Self {
            path,
            size,
            filled: AtomicU64::new(filled),
            allowed: AtomicBool::new(true),
            #[cfg(test)]
            faults: Faults {
                reads: AtomicU64::new(0),
                writes: AtomicBool::new(false),
                full: AtomicBool::new(false),
                free: AtomicU64::new(u64::MAX),
                compactions: AtomicU64::new(0),
            },
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.filled.load(Ordering::Acquire) >= self.size
    }

    /// Sets whether what is written from now on may have it: what makes the store smaller or repairs it.
    pub(super) fn allow(&self, allowed: bool) {
        self.allowed.store(allowed, Ordering::Release);
    }

    /// How many bytes may be written on its disk.
    pub(super) fn free(&self) -> u64 {
        let free = free(self.path.parent().unwrap_or(Path::new(".")));
        #[cfg(test)]
        let free = free.min(self.faults.free.load(Ordering::Acquire));
        free
    }

    /// Gives the room back to the disk; false where there is none to give.
    fn spend(&self) -> bool {
        self.allowed.load(Ordering::Acquire)
            && self.filled.swap(0, Ordering::AcqRel) > 0
            && fs::remove_file(&self.path).is_ok()
    }

    /// Fills it as far as there is room.
    pub(super) fn refill(&self) -> io::Result<()> {
        let filled = self.filled.load(Ordering::Acquire);
        let missing = self.size.saturating_sub(filled);
        let fits = missing.min(self.free()) / CHUNK * CHUNK;
        // Each part costs a sync.
        if fits < missing.min(LEAST_PART) || missing == 0 {
            return Ok(());
        }
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.path)?;
        let done = Self::fill(&mut file, filled, fits);
        match done {
            Ok(()) => self.filled.store(filled + fits, Ordering::Release),
            // What was there stays.
            Err(_) => file.set_len(filled)?,
        }
        done
    }

    fn fill(file: &mut File, from: u64, length: u64) -> io::Result<()> {
        match fallocate(&*file, FallocateFlags::empty(), from as i64, length as i64) {
            Err(nix::errno::Errno::EOPNOTSUPP) => {
                // Bytes that no disk can make smaller.
                for at in (from..from + length).step_by(CHUNK as usize) {
                    file.write_all_at(&rand::random::<[u8; CHUNK as usize]>(), at)?;
                }
            }
            result => result?,
        }
        file.sync_all()
    }

    #[cfg(test)]
    fn fault(&self, write: bool) -> io::Result<()> {
        let faults = &self.faults;
        let fewer = |left: u64| left.checked_sub(1);
        if write && faults.writes.load(Ordering::Acquire) {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        if write && faults.full.load(Ordering::Acquire) && self.path.exists() {
            return Err(ErrorKind::StorageFull.into());
        }
        if !write && faults.reads.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok() {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        Ok(())
    }
}

/// What the database takes for its file.
#[derive(Debug)]
pub(super) struct Disk {
    file: Arc<File>,
    reserve: Arc<Reserve>,
    image: Option<Mutex<Image>>,
    /// Another one has taken its place: it writes no more.
    retired: Arc<AtomicBool>,
}

/// What was written in memory only.
#[derive(Debug)]
struct Image {
    chunks: BTreeMap<u64, Box<[u8; CHUNK as usize]>>,
    len: u64,
    /// Up to where the file counts: the least length that it was given.
    kept: u64,
}

impl Disk {
    pub(super) fn writable(file: Arc<File>, reserve: Arc<Reserve>) -> Self {
        Self { file, reserve, image: None, retired: Arc::default() }
    }

    /// Writes nothing to the file.
    pub(super) fn image(file: Arc<File>, reserve: Arc<Reserve>) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let image = Image { chunks: BTreeMap::new(), len, kept: len };
        Ok(Self { file, reserve, image: Some(Mutex::new(image)), retired: Arc::default() })
    }

    /// Set it to keep a database that was replaced from the file.
    pub(super) fn retire(&self) -> Arc<AtomicBool> {
        self.retired.clone()
    }

    fn check(&self) -> io::Result<()> {
        match self.retired.load(Ordering::Acquire) {
            true => Err(io::Error::other("the database has been opened again")),
            false => Ok(()),
        }
    }

    /// Does it again with the reserve's room, where there was none.
    fn with_reserve(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        #[cfg(test)]
        let write = || self.reserve.fault(true).and_then(|()| write());
        match write() {
            Err(error) if is_full(&error) && self.reserve.spend() => {
                tracing::warn!("the disk is full: the store uses its reserve");
                write()
            }
            result => result,
        }
    }
}

impl Image {
    fn read(&self, file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset;
        let mut out = out;
        while !out.is_empty() {
            let within = (at % CHUNK) as usize;
            let length = out.len().min(CHUNK as usize - within);
            let (part, rest) = out.split_at_mut(length);
            match self.chunks.get(&(at / CHUNK)) {
                Some(chunk) => part.copy_from_slice(&chunk[within..within + length]),
                None => self.read_file(file, at, part)?,
            }
            at += length as u64;
            out = rest;
        }
        Ok(())
    }

    fn write(&mut self, file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut at = offset;
        let mut data = data;
        while !data.is_empty() {
            let (index, within) = (at / CHUNK, (at % CHUNK) as usize);
            let length = data.len().min(CHUNK as usize - within);
            let (part, rest) = data.split_at(length);
            if !self.chunks.contains_key(&index) {
                let mut chunk = Box::new([0; CHUNK as usize]);
                self.read_file(file, index * CHUNK, &mut chunk[..])?;
                self.chunks.insert(index, chunk);
            }
            let Some(chunk) = self.chunks.get_mut(&index) else { continue };
            chunk[within..within + length].copy_from_slice(part);
            at += length as u64;
            data = rest;
        }
        self.len = self.len.max(at);
        Ok(())
    }

    /// What is cut off reads as zeros if the image grows again.
    fn set_len(&mut self, len: u64) {
        self.kept = self.kept.min(len);
        drop(self.chunks.split_off(&len.div_ceil(CHUNK)));
        if let Some(last) = self.chunks.get_mut(&(len / CHUNK)) {
            last[(len % CHUNK) as usize..].fill(0);
        }
        self.len = len;
    }

    /// Reads the file; what lies behind its end, or was cut off, is zeros.
    fn read_file(&self, file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let kept = (self.kept.saturating_sub(offset) as usize).min(out.len());
        let mut done = 0;
        while done < kept {
            match file.read_at(&mut out[done..kept], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out[done..].fill(0);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        match &self.image {
            Some(image) => Ok(image.lock().len),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        #[cfg(test)]
        self.reserve.fault(false)?;
        match &self.image {
            Some(image) => image.lock().read(&self.file, offset, out),
            None => self.file.read_exact_at(out, offset),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        match &self.image {
            Some(image) => {
                image.lock().set_len(len);
                Ok(())
            }
            None => self.with_reserve(|| self.file.set_len(len)),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        match &self.image {
            Some(_) => Ok(()),
            None => self.file.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        match &self.image {
            Some(image) => image.lock().write(&self.file, offset, data),
            None => self.with_reserve(|| self.file.write_all_at(data, offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_reads_what_was_written_and_leaves_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let before: Vec<u8> = (0..20_000u32).map(|i| i as u8).collect();
        fs::write(&path, &before).unwrap();
        let reserve = Arc::new(Reserve::open(&path));
        let disk = Disk::image(Arc::new(File::open(&path).unwrap()), reserve).unwrap();
        let mut expected = before.clone();
        let read = |offset: usize, length: usize| {
            let mut out = vec![0; length];
            disk.read(offset as u64, &mut out).map(|()| out)
        };
        for (offset, length) in [(0, 10), (4090, 20), (8192, 4096), (19_990, 10)] {
            disk.write(offset as u64, &vec![0xee; length]).unwrap();
            expected[offset..offset + length].fill(0xee);
        }
        assert_eq!(read(0, 20_000).unwrap(), expected);
        assert_eq!(read(4000, 200).unwrap(), expected[4000..4200]);
        assert!(read(19_999, 2).is_err(), "behind the end");
        disk.set_len(40_000).unwrap();
        assert_eq!(read(20_000, 20_000).unwrap(), vec![0; 20_000]);
        disk.write(30_000, &[0xee; 9000]).unwrap();
        for cut in [32_000, 8190, 3] {
            disk.set_len(cut as u64).unwrap();
            disk.set_len(40_000).unwrap();
            assert_eq!(read(0, cut).unwrap()[..3], expected[..3]);
            assert!(read(cut, 40_000 - cut).unwrap().iter().all(|&byte| byte == 0), "what was cut off");
        }
        // What is not there takes no memory.
        disk.set_len(1 << 40).unwrap();
        disk.set_len(20_000).unwrap();
        assert!(disk.image.as_ref().unwrap().lock().chunks.len() <= 1);
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_database_that_was_replaced_writes_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"0123").unwrap();
        let file = Arc::new(File::options().read(true).write(true).open(&path).unwrap());
        let disk = Disk::writable(file, Arc::new(Reserve::open(&path)));
        disk.write(0, b"a").unwrap();
        disk.retire().store(true, Ordering::Release);
        assert!(disk.write(1, b"b").is_err() && disk.set_len(0).is_err() && disk.sync_data().is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a123");
    }

    #[test]
    fn only_what_is_allowed_to_spends_the_reserve() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        fs::write(&path, b"0123").unwrap();
        let file = Arc::new(File::options().read(true).write(true).open(&path).unwrap());
        let reserve = Arc::new(Reserve::open(&path));
        reserve.refill().unwrap();
        let disk = Disk::writable(file, reserve.clone());
        reserve.faults.full.store(true, Ordering::Release);
        reserve.allow(false);
        assert!(is_full(&disk.write(0, b"a").unwrap_err()) && reserve.is_whole());
        reserve.allow(true);
        disk.write(0, b"a").unwrap();
        assert!(!reserve.is_whole() && !path.with_extension("reserve").exists());
    }

    #[test]
    fn the_reserve_is_spent_once_and_filled_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store.redb");
        let reserve = Reserve::open(&store);
        assert!(!reserve.is_whole() && !reserve.spend(), "there is none yet");
        reserve.refill().unwrap();
        assert!(Reserve::open(&store).is_whole());
        assert!(reserve.spend() && !reserve.spend());
        assert!(!Reserve::open(&store).is_whole());
        reserve.refill().unwrap();
        assert!(reserve.is_whole());
    }
}
