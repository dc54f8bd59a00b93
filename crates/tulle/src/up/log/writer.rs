//! Writes the log: the lines of each service to files of its own, of which the oldest goes when there are enough.
//!
//! Nobody has to look at what it writes more than once: a line that was begun and could not be ended (the disk is full) is
//! left, and the next one begins below it. What could not be written is counted, and said where writing works again.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::files::{self, PARTS};
use super::record::{Said, Times, rest};

/// So much is written at a time, of one service and of all.
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 512 << 10;
/// Of more services than that, none keeps a buffer that is empty.
const MANY: usize = 64;
/// How often it is looked whether somebody has removed a file.
const LOOK: Duration = Duration::from_secs(1);

pub struct Writer {
    folder: PathBuf,
    /// The size of a part.
    part: u64,
    services: HashMap<Box<str>, Latest>,
    times: Times,
    waiting: usize,
    /// Since something cannot be written.
    is_failing: bool,
}

/// The latest part of a service.
struct Latest {
    file: Option<File>,
    size: u64,
    /// The number of the next line.
    next: u64,
    /// Its last line has no end.
    torn: bool,
    buffer: Vec<u8>,
    /// Lines in the buffer.
    lines: u64,
    lost: u64,
    looked: Instant,
}

impl Writer {
    pub fn new(folder: &Path, part: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            part,
            services: HashMap::new(),
            times: Times::default(),
            waiting: 0,
            is_failing: false,
        }
    }

    /// Takes a line; `rest` is all of it but its time.
    pub fn append(&mut self, service: &str, at: Timestamp, rest: &[u8]) {
        // Most of the time it is there, and needs no name of its own.
        if !self.services.contains_key(service) {
            let latest = Latest {
                file: None,
                size: 0,
                next: 0,
                torn: false,
                buffer: Vec::new(),
                lines: 0,
                lost: 0,
                looked: Instant::now(),
            };
            self.services.insert(service.into(), latest);
        }
        let Some(latest) = self.services.get_mut(service) else { return };
        let before = latest.buffer.len();
        self.times.append(at, &mut latest.buffer);
        latest.buffer.extend_from_slice(rest);
        latest.lines += 1;
        self.waiting += latest.buffer.len() - before;
        if latest.buffer.len() >= CHUNK {
            let service = service.to_owned();
            self.flush_one(&service);
        }
        if self.waiting >= CHUNKS {
            self.flush();
        }
    }

    /// Writes what waits.
    pub fn flush(&mut self) {
        let waits = |latest: &Latest| !latest.buffer.is_empty() || latest.lost > 0;
        let waiting = self.services.iter().filter(|(_, latest)| waits(latest));
        for service in waiting.map(|(service, _)| service.clone()).collect::<Vec<_>>() {
            self.flush_one(&service);
        }
        if self.is_failing && self.services.values().all(|latest| latest.lost == 0) {
            self.is_failing = false;
            tracing::warn!("the log in {} is written again", self.folder.display());
        }
    }

    /// Whether lines are lost that it has still to be said of.
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// Whether something waits to be written.
    pub fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    fn flush_one(&mut self, service: &str) {
        let are_many = self.services.len() > MANY;
        let Some(latest) = self.services.get_mut(service) else { return };
        self.waiting -= latest.buffer.len();
        let written = latest.write(&self.folder, self.part, service);
        // One long line makes no large buffer for ever.
        if are_many || latest.buffer.capacity() > 2 * CHUNK {
            latest.buffer = Vec::new();
        }
        if let Err(error) = written
            && !std::mem::replace(&mut self.is_failing, true)
        {
            tracing::warn!(
                "what services say cannot be written to {}, and is counted until it can: {error}",
                self.folder.display()
            );
        }
    }
}

impl Latest {
    /// Writes the buffer, which is empty then: what could not be written is counted.
    fn write(&mut self, folder: &Path, part: u64, service: &str) -> io::Result<()> {
        let outcome = self.ready(folder, part, service).and_then(|()| {
            let said = self.preface(service);
            self.write_out(&said)
        });
        if outcome.is_err() {
            // The file is asked for anew the next time: the folder may be another one then.
            self.file = None;
            self.lost += self.lines;
        }
        self.buffer.clear();
        self.lines = 0;
        outcome
    }

    /// What comes before the buffer: the head of a new part, and what is missing.
    fn preface(&self, service: &str) -> Vec<u8> {
        let mut said = Vec::new();
        if self.torn {
            said.push(b'\n');
        }
        if self.size == 0 {
            said.extend_from_slice(files::header(self.next).as_bytes());
        }
        if self.lost > 0 {
            Times::default().append(Timestamp::now(), &mut said);
            let lines = if self.lost == 1 { "line is" } else { "lines are" };
            let text = format!("({} {lines} missing here: the disk did not take them)", self.lost);
            said.extend(rest(service, Said::State, &text));
        }
        said
    }

    fn write_out(&mut self, preface: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut write = |mut bytes: &[u8], size: &mut u64| {
            let whole = bytes;
            while !bytes.is_empty() {
                match file.write(bytes) {
                    Ok(0) => return (whole.len() - bytes.len(), Err(ErrorKind::WriteZero.into())),
                    Ok(written) => {
                        bytes = &bytes[written..];
                        *size += written as u64;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return (whole.len() - bytes.len(), Err(error)),
                }
            }
            (whole.len(), Ok(()))
        };
        if !preface.is_empty() {
            let was_torn = self.torn;
            let (written, outcome) = write(preface, &mut self.size);
            if written > 0 {
                self.torn = preface[written - 1] != b'\n';
            }
            outcome?;
            self.next += u64::from(was_torn) + u64::from(self.lost > 0);
            self.lost = 0;
        }
        let (written, outcome) = write(&self.buffer, &mut self.size);
        let whole = self.buffer[..written].iter().filter(|b| **b == b'\n').count() as u64;
        if written > 0 {
            self.torn = self.buffer[written - 1] != b'\n';
        }
        self.next += whole;
        self.lines = self.lines.saturating_sub(whole);
        outcome
    }

    /// Has a file with room for the buffer.
    fn ready(&mut self, folder: &Path, part: u64, service: &str) -> io::Result<()> {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            let is_gone = |file: &File| file.metadata().is_ok_and(|file| file.nlink() == 0);
            if self.file.as_ref().is_some_and(is_gone) {
                self.file = None;
            }
        }
        if self.file.is_none() {
            self.open(folder, service)?;
        }
        if self.size > 0 && self.size + self.buffer.len() as u64 > part {
            self.file = None;
            for part in (0..PARTS - 1).rev() {
                let path = |part| files::path(folder, service, part);
                match std::fs::rename(path(part), path(part + 1)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            self.open(folder, service)?;
        }
        Ok(())
    }

    fn open(&mut self, folder: &Path, service: &str) -> io::Result<()> {
        let path = files::path(folder, service, 0);
        let open = || OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create_folder(folder)?;
                open()?
            }
            other => other?,
        };
        self.size = file.metadata()?.len();
        let mut last = [b'\n'];
        if self.size > 0 {
            file.read_at(&mut last, self.size - 1)?;
            self.next = self.next.max(files::line_after(&file)?);
        } else if self.next == 0
            && let Ok(before) = File::open(files::path(folder, service, 1))
        {
            self.next = files::line_after(&before)?;
        }
        self.torn = last != [b'\n'];
        self.file = Some(file);
        Ok(())
    }
}

/// For its owner only: services say much.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::super::files::{first_line, path};
    use super::super::record::Record;
    use super::*;

    const PART: u64 = 4096;

    fn append(writer: &mut Writer, numbers: std::ops::Range<usize>) {
        for number in numbers {
            writer.append("web", Timestamp::now(), &rest("web-0", Said::Output, &format!("line {number}")));
            writer.flush();
        }
    }

    /// The texts of all parts, the oldest first.
    fn texts(folder: &Path) -> Vec<String> {
        let parts = (0..PARTS + 3).rev().filter_map(|part| std::fs::read(path(folder, "web", part)).ok());
        let lines: Vec<_> = parts
            .flat_map(|part| part.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>())
            .collect();
        lines.iter().filter_map(|line| Record::parse(line)).map(|record| record.text.into_owned()).collect()
    }

    #[test]
    fn the_oldest_goes_and_the_rest_stays() {
        let home = tempfile::tempdir().unwrap();
        let folder = files::folder(home.path());
        let mut writer = Writer::new(&folder, PART);
        append(&mut writer, 0..600);
        // Another `up` goes on where the first has ended.
        let mut writer = Writer::new(&folder, PART);
        append(&mut writer, 600..1000);

        let texts = texts(&folder);
        let first = 1000 - texts.len();
        assert!(
            texts.iter().enumerate().all(|(at, text)| *text == format!("line {}", first + at)),
            "{texts:?}"
        );
        let sizes: Vec<_> = (0..PARTS + 3)
            .filter_map(|part| std::fs::metadata(path(&folder, "web", part)).ok())
            .map(|part| part.len())
            .collect();
        assert_eq!(sizes.len(), PARTS);
        assert!(sizes.iter().all(|size| *size <= PART) && sizes[1..].iter().all(|size| *size > PART - 64));
        let oldest = File::open(path(&folder, "web", PARTS - 1)).unwrap();
        assert_eq!(first_line(&oldest), first as u64, "what is gone is counted");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&path(&folder, "web", 0))), (0o700, 0o600));
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted() {
        let home = tempfile::tempdir().unwrap();
        let folder = files::folder(home.path());
        create_folder(&folder).unwrap();
        let latest = path(&folder, "web", 0);
        std::os::unix::fs::symlink("/dev/full", &latest).unwrap();
        let mut writer = Writer::new(&folder, PART);
        append(&mut writer, 0..7);
        assert!(writer.is_failing());
        std::fs::remove_file(&latest).unwrap();
        writer.flush();
        assert!(!writer.is_failing(), "it is said as soon as it can be");
        append(&mut writer, 7..9);
        assert_eq!(
            texts(&folder),
            ["(7 lines are missing here: the disk did not take them)", "line 7", "line 8"]
        );
    }

    #[test]
    fn a_line_that_was_begun_takes_no_other_one_along() {
        let home = tempfile::tempdir().unwrap();
        let folder = files::folder(home.path());
        append(&mut Writer::new(&folder, PART), 0..2);
        let latest = path(&folder, "web", 0);
        let whole = std::fs::read(&latest).unwrap();
        std::fs::write(&latest, &whole[..whole.len() - 3]).unwrap();
        append(&mut Writer::new(&folder, PART), 2..3);
        assert_eq!(texts(&folder), ["line 0", "line", "line 2"]);
        // Not even its time.
        std::fs::write(&latest, &whole[..whole.len() - 30]).unwrap();
        append(&mut Writer::new(&folder, PART), 2..3);
        assert_eq!(texts(&folder), ["line 0", "line 2"]);
    }

    #[test]
    fn a_file_that_is_removed_is_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let folder = files::folder(home.path());
        let mut writer = Writer::new(&folder, PART);
        append(&mut writer, 0..2);
        std::fs::remove_dir_all(&folder).unwrap();
        let long_ago = Instant::now().checked_sub(LOOK).unwrap();
        writer.services.get_mut("web").unwrap().looked = long_ago;
        append(&mut writer, 2..3);
        assert_eq!(texts(&folder), ["line 2"]);
        assert_eq!(first_line(&File::open(path(&folder, "web", 0)).unwrap()), 2);
    }

    #[test]
    fn long_lines_and_many_are_kept_whole() {
        let home = tempfile::tempdir().unwrap();
        let folder = files::folder(home.path());
        let mut writer = Writer::new(&folder, files::PART);
        let long = "é".repeat(300 << 10);
        for _ in 0..5 {
            writer.append("web", Timestamp::now(), &rest("web-0", Said::Output, &long));
        }
        for number in 0..10_000 {
            writer.append("web", Timestamp::now(), &rest("web-0", Said::Output, &number.to_string()));
        }
        assert!(writer.is_waiting());
        writer.flush();
        let texts = texts(&folder);
        assert!(texts[..5].iter().all(|text| *text == long));
        assert!(texts[5..].iter().enumerate().all(|(at, text)| *text == at.to_string()));
        assert_eq!(texts.len(), 10_005);
    }
}
