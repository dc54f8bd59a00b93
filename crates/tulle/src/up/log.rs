//! What services say, kept on disk: `tulle logs` reads it, while `tulle up` runs and afterwards.
//!
//! A thread of its own writes. Lines of services wait for room in front of it, as they would for a file of their own; only
//! where the disk takes nothing at all for a while they are dropped, and counted. Lines of the mesh never wait.

pub mod files;
mod lines;
pub mod reader;
pub mod record;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use self::record::{Said, rest};
use self::writer::Writer;
use super::config::Config;
use crate::room::{Room, RoomTaken};

/// Whose the lines of the mesh are.
pub const SERVICE: &str = "tulle";

/// How many bytes of services wait to be written, and how many of the mesh.
const ROOM: usize = 1 << 20;
const RESERVE: usize = 256 << 10;
/// What a line takes of them beside its text.
const LINE: usize = 128;
/// How long the disk may take nothing until lines are dropped.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a line may wait in memory.
const FLUSH: Duration = Duration::from_millis(100);
/// How often it is tried whether a disk that was full takes lines again.
const RETRY: Duration = Duration::from_secs(1);
/// So long the lines stay of a service that is in tulle.yaml no more.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

enum Item {
    Line {
        service: Box<str>,
        at: Timestamp,
        rest: Vec<u8>,
        _room: OwnedSemaphorePermit,
    },
    /// Answered once all that came before is on disk.
    Written(oneshot::Sender<()>),
}

/// Hands lines to the thread that writes them.
pub struct Log {
    folder: PathBuf,
    /// Locked while a line gets its time, so that those of one file are in order.
    queue: Mutex<Sender<Item>>,
    room: Room,
    reserve: Room,
    /// Lines that nobody had room for.
    lost: Arc<AtomicU64>,
}

impl Log {
    /// Goes on with the files in `home`.
    pub fn start(home: &Path, config: &Config) -> std::io::Result<Self> {
        let folder = files::folder(home);
        writer::create_folder(&folder)?;
        remove_old(&folder, config);
        let (queue, items) = channel();
        let (taken, lost) = (Arc::<RoomTaken>::default(), Arc::<AtomicU64>::default());
        let room = |most| Room::new(most, PATIENCE, &taken);
        let writer = Writer::new(&folder, files::PART);
        let (room, reserve) = (room(ROOM), room(RESERVE));
        let log = Self { folder, queue: Mutex::new(queue), room, reserve, lost: lost.clone() };
        log.know(config);
        thread::Builder::new()
            .name("tulle-log".to_owned())
            .spawn(move || write(writer, &items, &taken, &lost))?;
        Ok(log)
    }

    /// Services that are described now are known to who shows what was said.
    pub fn know(&self, config: &Config) {
        // For colours and columns alone.
        let _ = files::write_services(&self.folder, &names(config));
    }

    /// Keeps a line of a process, and waits for room as long as the disk takes anything at all.
    pub async fn deliver(&self, service: &str, replica: &str, said: Said, text: &str) {
        let room = self.room.take(text.len() + LINE).await;
        self.enqueue(service, replica, said, text, room);
    }

    /// Keeps a line soon, or never. It never waits.
    pub fn print(&self, service: &str, replica: &str, text: &str) {
        let room = self.reserve.try_take(text.len() + LINE);
        self.enqueue(service, replica, Said::State, text, room);
    }

    fn enqueue(
        &self,
        service: &str,
        replica: &str,
        said: Said,
        text: &str,
        room: Option<OwnedSemaphorePermit>,
    ) {
        let Some(room) = room else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (service, rest) = (service.into(), rest(replica, said, text));
        let queue = self.queue.lock();
        let at = now();
        // Where the thread is gone, so is the log.
        let _ = queue.send(Item::Line { service, at, rest, _room: room });
    }

    /// Waits until all is on disk, but not longer than that.
    pub async fn finished(&self, patience: Duration) {
        let (answer, written) = oneshot::channel();
        let _ = self.queue.lock().send(Item::Written(answer));
        let _ = tokio::time::timeout(patience, written).await;
    }
}

/// The services of the file, each with the longest name of its processes.
pub fn names(config: &Config) -> Vec<(String, usize)> {
    let longest = |replicas: u32| match replicas {
        0 | 1 => 0,
        n => 1 + (n - 1).to_string().len(),
    };
    config.services.iter().map(|s| (s.name.clone(), s.name.len() + longest(s.replicas))).collect()
}

fn remove_old(folder: &Path, config: &Config) {
    let known = |name: &str| name == SERVICE || config.services.iter().any(|s| s.name == name);
    for name in files::services(folder).unwrap_or_default().iter().filter(|name| !known(name)) {
        let latest = std::fs::metadata(files::path(folder, name, 0)).and_then(|file| file.modified());
        let is_old = |at: SystemTime| at.elapsed().is_ok_and(|age| age > KEPT);
        if latest.is_ok_and(is_old) {
            for part in 0..files::PARTS {
                let _ = std::fs::remove_file(files::path(folder, name, part));
            }
        }
    }
}

fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or_default()
}

fn write(mut writer: Writer, items: &Receiver<Item>, taken: &RoomTaken, lost: &AtomicU64) {
    let mut flushed = Instant::now();
    loop {
        let item = match items.try_recv() {
            // It is idle.
            Err(TryRecvError::Empty) => {
                if writer.is_waiting() || writer.is_failing() || lost.load(Ordering::Relaxed) > 0 {
                    flush(&mut writer, lost);
                    flushed = Instant::now();
                }
                let wait = if writer.is_failing() { RETRY } else { Duration::MAX };
                match items.recv_timeout(wait) {
                    Ok(item) => item,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            Err(TryRecvError::Disconnected) => return flush(&mut writer, lost),
            Ok(item) => item,
        };
        match item {
            Item::Line { service, at, rest, _room } => {
                writer.append(&service, at, &rest);
                taken.note();
                if flushed.elapsed() >= FLUSH {
                    flush(&mut writer, lost);
                    flushed = Instant::now();
                }
            }
            Item::Written(answer) => {
                flush(&mut writer, lost);
                let _ = answer.send(());
            }
        }
    }
}

fn flush(writer: &mut Writer, lost: &AtomicU64) {
    let lines = lost.swap(0, Ordering::Relaxed);
    if lines > 0 {
        let text = format!("({lines} lines are missing here: the disk was too slow for them)");
        writer.append(SERVICE, now(), &rest(SERVICE, Said::State, &text));
    }
    writer.flush();
}
