//! The file under the database, on disks that may be full or that may only be read.
//!
//! A *reserve* lies beside the store: blocks that are given back when a write of the database finds
//! no room, so that what deletes (and a start) goes on where the disk is full. What adds does not
//! touch it: the writer asks for room first ([`free`]). It is filled again when there is room for it
//! and as much again.
//!
//! Where the file cannot be written at all, the database is opened on an *image*: it reads the file,
//! and what it writes (its own repairs) stays in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;
use redb::StorageBackend;

/// How large the reserve is at least and at most, in bytes; between them it is a 32nd of the disk.
const LEAST_RESERVE: u64 = 256 << 10;
const LARGEST_RESERVE: u64 = 8 << 20;
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
pub(super) fn free(folder: &Path) -> u64 {
    statvfs(folder).map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Room that is given back in need.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    size: u64,
    whole: AtomicBool,
}

impl Reserve {
    /// The reserve of the store at `store`. It may have to be filled.
    pub(super) fn open(store: &Path) -> Self {
        let folder = store.parent().unwrap_or(Path::new("."));
        let total = statvfs(folder).map_or(u64::MAX, |d| d.blocks().saturating_mul(d.fragment_size()));
        let size = (total / 32).clamp(LEAST_RESERVE, LARGEST_RESERVE);
        let path = store.with_extension("reserve");
        // Of another size, it is as good.
        let whole = fs::metadata(&path).is_ok_and(|there| there.len() >= LEAST_RESERVE);
        Self { path, size, whole: AtomicBool::new(whole) }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Gives the room back to the disk; false where there is none to give.
    fn spend(&self) -> bool {
        self.whole.swap(false, Ordering::AcqRel) && fs::remove_file(&self.path).is_ok()
    }

    /// Fills it, if there is room for it and as much again.
    pub(super) fn refill(&self) -> io::Result<()> {
        if self.is_whole() {
            return Ok(());
        }
        if free(self.path.parent().unwrap_or(Path::new("."))) < 2 * self.size {
            return Err(ErrorKind::StorageFull.into());
        }
        let filled = self.fill();
        match filled {
            Ok(()) => self.whole.store(true, Ordering::Release),
            Err(_) => drop(fs::remove_file(&self.path)),
        }
        filled
    }

    fn fill(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.size as i64) {
            Err(nix::errno::Errno::EOPNOTSUPP) => {
                // Bytes that no disk can make smaller.
                for _ in 0..self.size / CHUNK {
                    file.write_all(&rand::random::<[u8; CHUNK as usize]>())?;
                }
            }
            result => result?,
        }
        file.sync_all()
    }
}

/// What the database takes for its file.
#[derive(Debug)]
pub(super) struct Disk {
    file: Arc<File>,
    reserve: Option<Arc<Reserve>>,
    image: Option<Mutex<Image>>,
    /// Another one has taken its place: it writes no more.
    retired: Arc<AtomicBool>,
}

/// What was written in memory only.
#[derive(Debug)]
struct Image {
    chunks: BTreeMap<u64, Box<[u8; CHUNK as usize]>>,
    len: u64,
}

impl Disk {
    pub(super) fn writable(file: Arc<File>, reserve: Arc<Reserve>) -> Self {
        Self { file, reserve: Some(reserve), image: None, retired: Arc::default() }
    }

    /// Writes nothing to the file.
    pub(super) fn image(file: Arc<File>) -> io::Result<Self> {
        let image = Image { chunks: BTreeMap::new(), len: file.metadata()?.len() };
        Ok(Self { file, reserve: None, image: Some(Mutex::new(image)), retired: Arc::default() })
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
        match write() {
            Err(error) if is_full(&error) && self.reserve.as_ref().is_some_and(|r| r.spend()) => {
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
                None => read_padded(file, at, part)?,
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
            let chunk = match self.chunks.entry(index) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(none) => {
                    let mut chunk = Box::new([0; CHUNK as usize]);
                    read_padded(file, index * CHUNK, &mut chunk[..])?;
                    none.insert(chunk)
                }
            };
            chunk[within..within + length].copy_from_slice(part);
            at += length as u64;
            data = rest;
        }
        self.len = self.len.max(at);
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        // What is cut off reads as zeros if the image grows again.
        for chunk in len.div_ceil(CHUNK)..self.len.div_ceil(CHUNK) {
            self.chunks.insert(chunk, Box::new([0; CHUNK as usize]));
        }
        self.len = len;
    }
}

/// Reads; what lies behind the end of the file is zeros.
fn read_padded(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out[done..].fill(0);
    Ok(())
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        match &self.image {
            Some(image) => Ok(image.lock().len),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
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
        let disk = Disk::image(Arc::new(File::open(&path).unwrap())).unwrap();
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
        disk.set_len(8192).unwrap();
        disk.set_len(20_000).unwrap();
        assert_eq!(read(8192, 11_808).unwrap(), vec![0; 11_808], "what was cut off");
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
