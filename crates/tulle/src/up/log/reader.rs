//! Reads the log: what services have said, in the order of time, and what they go on to say.
//!
//! A part that was begun is read to its end whatever becomes of its name: it is held open, and found again among the others
//! by its inode. Nothing is held in memory but a line of each service.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files::{self, PARTS};
use super::lines::Lines;
use super::record::Record;

/// After so many lines it is looked whether others have something to say.
const LOOK: u32 = 256;

/// Which lines are wanted. Times are as records have them.
#[derive(Debug, Clone, Default)]
pub struct LogWish {
    pub since: Option<String>,
    pub until: Option<String>,
    /// The last so many of each service.
    pub tail: Option<usize>,
    /// Reading goes on where the files end now.
    pub follow: bool,
}

impl LogWish {
    fn is_in(&self, record: &Record<'_>) -> bool {
        self.since.as_deref().is_none_or(|since| &*record.time >= since)
            && self.until.as_deref().is_none_or(|until| &*record.time <= until)
    }
}

/// A service, and those of its processes that are wanted: all where none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedLog {
    pub service: String,
    pub replicas: BTreeSet<String>,
}

/// Lines that should be there, and are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub service: String,
    pub lines: u64,
    /// Older ones than are kept. Otherwise who reads was too slow.
    pub is_old: bool,
}

/// The lines of several services, in the order of time.
pub struct Merged {
    folder: PathBuf,
    wish: LogWish,
    cursors: Vec<Cursor>,
    /// The time of the next line of a service.
    next: BinaryHeap<Reverse<(String, usize)>>,
    /// Those of whom there was nothing to read.
    dry: Vec<usize>,
    /// How many lines ago they were looked at.
    looked: u32,
    gaps: Vec<Gap>,
}

impl Merged {
    pub fn open(folder: &Path, wanted: Vec<WantedLog>, wish: LogWish) -> io::Result<Self> {
        let mut merged = Self {
            folder: folder.to_owned(),
            wish,
            cursors: Vec::new(),
            next: BinaryHeap::new(),
            dry: Vec::new(),
            looked: 0,
            gaps: Vec::new(),
        };
        wanted.into_iter().try_for_each(|wanted| merged.add(wanted))?;
        Ok(merged)
    }

    /// Has the lines of one more service.
    pub fn add(&mut self, wanted: WantedLog) -> io::Result<()> {
        let cursor = Cursor::open(&self.folder, wanted, &self.wish, &mut self.gaps)?;
        self.dry.push(self.cursors.len());
        self.cursors.push(cursor);
        Ok(())
    }

    pub fn has(&self, service: &str) -> bool {
        self.cursors.iter().any(|cursor| cursor.wanted.service == service)
    }

    /// The next line and whose it is; `None` where there is none, or none yet.
    pub fn next(&mut self) -> io::Result<Option<(&str, Record<'static>)>> {
        self.looked += 1;
        // One that says much does not keep the others from being heard.
        if self.next.is_empty() || self.looked >= LOOK {
            self.looked = 0;
            for index in std::mem::take(&mut self.dry) {
                self.read_on(index)?;
            }
        }
        let Some(Reverse((_, index))) = self.next.pop() else { return Ok(None) };
        let record = self.cursors[index].head.take();
        self.read_on(index)?;
        Ok(record.map(|record| (&*self.cursors[index].wanted.service, record)))
    }

    /// What was found to be missing since the last call.
    pub fn gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.gaps)
    }

    fn read_on(&mut self, index: usize) -> io::Result<()> {
        let cursor = &mut self.cursors[index];
        cursor.advance(&self.folder, &self.wish, &mut self.gaps)?;
        match &cursor.head {
            Some(head) => self.next.push(Reverse((head.time.clone().into_owned(), index))),
            None => self.dry.push(index),
        }
        Ok(())
    }
}

/// Where reading of a service is.
struct Cursor {
    wanted: WantedLog,
    lines: Option<Lines>,
    /// The parts after it.
    parts: VecDeque<Part>,
    head: Option<Record<'static>>,
    /// The number of the next line.
    number: u64,
    /// Another part has taken its name: nothing is added to it any more.
    is_complete: bool,
}

impl Cursor {
    fn open(folder: &Path, wanted: WantedLog, wish: &LogWish, gaps: &mut Vec<Gap>) -> io::Result<Self> {
        let mut parts = open_parts(folder, &wanted.service)?;
        let oldest = parts.front().map_or(0, |part| part.first);
        let mut cursor =
            Self { wanted, lines: None, parts: VecDeque::new(), head: None, number: 0, is_complete: false };
        let is_whole = match wish.tail {
            Some(most) => cursor.begin_at_tail(&mut parts, wish, most)?,
            None => cursor.begin_since(&mut parts, wish)?,
        };
        cursor.parts = parts;
        if is_whole && oldest > 0 {
            gaps.push(Gap { service: cursor.wanted.service.clone(), lines: oldest, is_old: true });
        }
        Ok(cursor)
    }

    /// Leaves out parts that end before what is wanted begins. Returns whether none was left out.
    fn begin_since(&self, parts: &mut VecDeque<Part>, wish: &LogWish) -> io::Result<bool> {
        let Some(since) = &wish.since else { return Ok(true) };
        let mut begins_before = 0;
        for (index, part) in parts.iter().enumerate() {
            if part.first_time()?.is_some_and(|first| first < *since) {
                begins_before = index + 1;
            }
        }
        parts.drain(..begins_before.saturating_sub(1));
        Ok(begins_before == 0)
    }

    /// Begins where the last `most` lines that are wanted do. Returns whether there are fewer, and no time is asked for.
    fn begin_at_tail(&mut self, parts: &mut VecDeque<Part>, wish: &LogWish, most: usize) -> io::Result<bool> {
        let mut left = most;
        for index in (0..parts.len()).rev() {
            let part = &parts[index];
            let mut lines = Lines::new(part.file.try_clone()?, 0, part.size);
            let mut number = part.first;
            // Where the last lines begin, with their numbers.
            let mut last = VecDeque::new();
            loop {
                let at = lines.position();
                let Some(line) = lines.next()? else { break };
                if files::is_header(line) {
                    continue;
                }
                if self.is_wanted(line, wish).is_some() {
                    last.push_back((at, number));
                    if last.len() > left {
                        last.pop_front();
                    }
                }
                number += 1;
            }
            left -= last.len();
            if left == 0 {
                let (at, number) = last.front().copied().unwrap_or((lines.position(), number));
                parts.drain(..index);
                if let Some(part) = parts.pop_front() {
                    self.lines = Some(part.lines(at, wish));
                    self.number = number;
                }
                return Ok(false);
            }
        }
        Ok(wish.since.is_none())
    }

    fn is_wanted<'l>(&self, line: &'l [u8], wish: &LogWish) -> Option<Record<'l>> {
        let replicas = &self.wanted.replicas;
        Record::parse(line)
            .filter(|record| replicas.is_empty() || replicas.contains(&*record.replica))
            .filter(|record| wish.is_in(record))
    }

    /// Reads the next line that is wanted, where there is one now.
    fn advance(&mut self, folder: &Path, wish: &LogWish, gaps: &mut Vec<Gap>) -> io::Result<()> {
        loop {
            while let Some(mut lines) = self.lines.take() {
                let Some(line) = lines.next()? else {
                    self.lines = Some(lines);
                    break;
                };
                self.number += u64::from(!files::is_header(line));
                let record = self.is_wanted(line, wish).map(Record::into_owned);
                self.lines = Some(lines);
                if record.is_some() {
                    self.head = record;
                    return Ok(());
                }
            }
            if let Some(part) = self.parts.pop_front() {
                self.number = part.first;
                self.lines = Some(part.lines(0, wish));
                self.is_complete = false;
            } else if !wish.follow || !self.follow(folder, gaps)? {
                return Ok(());
            }
        }
    }

    /// Looks for what came after the part that was read; `false` where nothing has.
    fn follow(&mut self, folder: &Path, gaps: &mut Vec<Gap>) -> io::Result<bool> {
        let service = &self.wanted.service;
        let Some(lines) = &mut self.lines else {
            self.parts = open_parts(folder, service)?;
            return Ok(!self.parts.is_empty());
        };
        let inode = lines.file.metadata()?.ino();
        let latest = match fs::metadata(files::path(folder, service, 0)) {
            Ok(latest) => latest.ino(),
            // It is about to be made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if latest == inode {
            lines.notice_emptied()?;
            return Ok(false);
        }
        if !std::mem::replace(&mut self.is_complete, true) {
            // Between the last look and its new name something may have come.
            return Ok(true);
        }
        let mut parts = open_parts(folder, service)?;
        match parts.iter().position(|part| part.inode == inode) {
            Some(index) => drop(parts.drain(..=index)),
            None => {
                let first = parts.front().map_or(0, |part| part.first);
                let missing = first.saturating_sub(self.number);
                if missing > 0 {
                    gaps.push(Gap { service: service.clone(), lines: missing, is_old: false });
                }
            }
        }
        self.parts = parts;
        Ok(!self.parts.is_empty())
    }
}

struct Part {
    file: File,
    inode: u64,
    /// The number of its first line.
    first: u64,
    /// When it was opened.
    size: u64,
}

impl Part {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let first = files::first_line(&file);
        Ok(Self { file, inode: metadata.ino(), first, size: metadata.len() })
    }

    fn first_time(&self) -> io::Result<Option<String>> {
        let mut lines = Lines::new(self.file.try_clone()?, 0, self.size);
        while let Some(line) = lines.next()? {
            if let Some(record) = Record::parse(line) {
                return Ok(Some(record.time.into_owned()));
            }
        }
        Ok(None)
    }

    fn lines(self, at: u64, wish: &LogWish) -> Lines {
        // Who does not follow would never be done with a service that says much.
        let limit = if wish.follow { u64::MAX } else { self.size };
        Lines::new(self.file, at, limit)
    }
}

/// The parts of a service, the oldest first.
fn open_parts(folder: &Path, service: &str) -> io::Result<VecDeque<Part>> {
    // Where they get new names meanwhile, one of them may be missed.
    const TRIES: usize = 100;
    let mut parts = VecDeque::new();
    for _ in 0..TRIES {
        parts.clear();
        for part in (0..PARTS).rev() {
            match Part::open(&files::path(folder, service, part)) {
                Ok(part) => parts.push_back(part),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let latest = fs::metadata(files::path(folder, service, 0)).ok().map(|latest| latest.ino());
        if latest == parts.back().map(|part| part.inode) {
            break;
        }
    }
    Ok(parts)
}

/// The processes of a service that have said something.
pub fn replicas(folder: &Path, service: &str) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for part in open_parts(folder, service)? {
        let size = part.size;
        let mut lines = Lines::new(part.file, 0, size);
        while let Some(line) = lines.next()? {
            if let Some(record) = Record::parse(line)
                && !names.contains(&*record.replica)
            {
                names.insert(record.replica.into_owned());
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::record::{Said, rest, time};
    use super::super::writer::Writer;
    use super::*;

    struct Logged {
        home: tempfile::TempDir,
        writer: Writer,
    }

    const PART: u64 = 2048;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_772_355_600 + second).unwrap()
    }

    impl Logged {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let writer = Writer::new(home.path(), PART);
            Self { home, writer }
        }

        fn say(&mut self, service: &str, replica: &str, second: i64) {
            let line = rest(replica, Said::Output, &format!("{replica} {second}"));
            self.writer.append(service, at(second), &line);
            self.writer.flush();
        }

        fn open(&self, services: &[&str], wish: LogWish) -> Merged {
            let wanted = services.iter().map(|service| {
                let (service, replicas) = service.split_once('/').unwrap_or((service, ""));
                let replicas = replicas.split(' ').filter(|r| !r.is_empty()).map(str::to_owned).collect();
                WantedLog { service: service.to_owned(), replicas }
            });
            Merged::open(self.home.path(), wanted.collect(), wish).unwrap()
        }

        fn read(&self, services: &[&str], wish: LogWish) -> Vec<String> {
            texts(&mut self.open(services, wish))
        }
    }

    fn texts(merged: &mut Merged) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some((_, record)) = merged.next().unwrap() {
            texts.push(record.text.into_owned());
        }
        texts
    }

    fn three() -> Logged {
        let mut logged = Logged::new();
        for second in 0..4 {
            logged.say("web", &format!("web-{}", second % 2), 3 * second);
            logged.say("api", "api", 3 * second + 1);
        }
        logged
    }

    #[test]
    fn services_are_merged_by_time() {
        let logged = three();
        let all = ["web-0 0", "api 1", "web-1 3", "api 4", "web-0 6", "api 7", "web-1 9", "api 10"];
        assert_eq!(logged.read(&["web", "api"], LogWish::default()), all);
        assert_eq!(
            logged.read(&["web/web-1", "api"], LogWish::default()),
            ["api 1", "web-1 3", "api 4", "api 7", "web-1 9", "api 10"]
        );
        assert_eq!(
            replicas(logged.home.path(), "web").unwrap().into_iter().collect::<Vec<_>>(),
            ["web-0", "web-1"]
        );
    }

    #[test]
    fn what_is_asked_for_is_what_comes() {
        let logged = three();
        let wish = |since: Option<i64>, until: Option<i64>, tail| LogWish {
            since: since.map(|second| time(at(second))),
            until: until.map(|second| time(at(second))),
            tail,
            follow: false,
        };
        let read = |services: &[&str], wish| logged.read(services, wish);
        assert_eq!(
            read(&["web", "api"], wish(Some(6), None, None)),
            ["web-0 6", "api 7", "web-1 9", "api 10"]
        );
        assert_eq!(read(&["web", "api"], wish(Some(4), Some(6), None)), ["api 4", "web-0 6"]);
        assert_eq!(read(&["web", "api"], wish(None, None, Some(1))), ["web-1 9", "api 10"]);
        assert_eq!(read(&["web/web-0"], wish(None, None, Some(1))), ["web-0 6"]);
        assert_eq!(read(&["web"], wish(None, Some(6), Some(1))), ["web-0 6"]);
        assert_eq!(read(&["web"], wish(None, None, Some(0))), [""; 0]);
        assert_eq!(read(&["web"], wish(Some(100), None, None)), [""; 0]);
    }

    #[test]
    fn what_is_gone_is_counted() {
        let mut logged = Logged::new();
        (0..1000).for_each(|second| logged.say("web", "web", second));
        let mut merged = logged.open(&["web"], LogWish::default());
        let gone = 1000 - texts(&mut merged).len() as u64;
        let gap = Gap { service: "web".to_owned(), lines: gone, is_old: true };
        assert!(gone > 0);
        assert_eq!(merged.gaps(), std::slice::from_ref(&gap));
        for (wish, is_told) in [
            (LogWish { tail: Some(10), ..LogWish::default() }, false),
            (LogWish { tail: Some(1000), ..LogWish::default() }, true),
            (LogWish { since: Some(time(at(990))), ..LogWish::default() }, false),
            (LogWish { since: Some(time(at(1))), ..LogWish::default() }, true),
        ] {
            let mut merged = logged.open(&["web"], wish.clone());
            assert_eq!(merged.gaps().contains(&gap), is_told, "{wish:?}");
            let lines = texts(&mut merged);
            assert_eq!(lines.last().unwrap(), "web 999");
            assert!(wish.tail.is_none_or(|tail| lines.len() == tail.min(1000 - gone as usize)), "{wish:?}");
            assert!(wish.since.is_none() || is_told || lines.len() == 10, "{wish:?}");
        }
    }

    #[test]
    fn who_follows_misses_nothing() {
        let follow = |tail| LogWish { follow: true, tail, ..LogWish::default() };
        let mut logged = Logged::new();
        logged.say("web", "web", 0);
        let mut all = logged.open(&["web"], follow(None));
        let mut late = logged.open(&["web"], follow(Some(0)));
        let mut slow = logged.open(&["web"], follow(None));
        assert_eq!((texts(&mut all).len(), texts(&mut late).len(), texts(&mut slow).len()), (1, 0, 1));
        let mut second = 1;
        let per_part = PART as usize / "2026-03-01T09:00:00.000123Z web o web 1234 ".len();
        // One line at a time, over several parts; then three parts at once.
        for lines in [vec![1; 200], vec![per_part * 3]].concat() {
            let expected: Vec<_> = (second..second + lines).map(|second| format!("web {second}")).collect();
            (second..second + lines).for_each(|second| logged.say("web", "web", second as i64));
            second += lines;
            assert_eq!(texts(&mut all), expected);
            assert_eq!(texts(&mut late), expected);
        }
        assert_eq!(all.gaps(), []);
        let seen = texts(&mut slow).len();
        let missing: u64 = slow.gaps().iter().map(|gap| gap.lines).sum();
        assert_eq!(seen + missing as usize, second - 1, "what was missed is counted");
        assert!(missing > 0);
    }

    #[test]
    fn who_follows_hears_of_new_services_and_half_lines_only_once() {
        use std::io::Write;
        let mut logged = Logged::new();
        logged.say("web", "web", 0);
        let mut merged = logged.open(&["web"], LogWish { follow: true, ..LogWish::default() });
        assert_eq!(texts(&mut merged), ["web 0"]);
        logged.say("api", "api", 1);
        assert!(!merged.has("api"));
        merged.add(WantedLog { service: "api".to_owned(), ..WantedLog::default() }).unwrap();
        assert_eq!(texts(&mut merged), ["api 1"]);

        let path = files::path(logged.home.path(), "web", 0);
        let mut file = File::options().append(true).open(path).unwrap();
        write!(file, "{} web o ha", time(at(2))).unwrap();
        assert_eq!(texts(&mut merged), [""; 0]);
        writeln!(file, "lf").unwrap();
        assert_eq!(texts(&mut merged), ["half"]);
    }
}
