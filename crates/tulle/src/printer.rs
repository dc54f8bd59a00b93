//! Output that a mesh does not stop for. A terminal that was paused, or a pipe that is not read, stops who writes to
//! it; so a thread of its own does the writing.
//!
//! What must not wait (the log of threads that serve traffic, the mesh's own lines) is dropped and counted where
//! there is no room for it. Lines of services wait for room, as they would for a pipe of their own: into a file, or to
//! a reader however slow, nothing is lost. Only where nothing at all is taken for a while they are dropped, too.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::room::{Room, RoomTaken};

/// How long who reads our output may take nothing of the last of it.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// How many bytes of what waits for room there may be, and how many of what does not.
const ROOM: usize = 4 << 20;
/// What a line takes of them beside its text.
const LINE: usize = 96;
/// So much is written at a time: a writer that is slow is seen to go on.
const CHUNK: usize = 4096;
/// How often [`Printer::finished`] looks.
const LOOK: Duration = Duration::from_millis(5);

enum Piece {
    Text(Vec<u8>, OwnedSemaphorePermit),
    /// Answered once all that came before is written.
    Written(Sender<()>),
}

/// Hands text to a thread that writes it.
pub struct Printer {
    queue: Sender<Piece>,
    /// For what waits for it.
    room: Room,
    /// For what does not.
    reserve: Room,
    taken: Arc<RoomTaken>,
    missing: Arc<Missing>,
    /// Lines are offered to somebody who takes too few of them.
    is_behind: AtomicBool,
}

/// Lines that were dropped since the reader was last told.
struct Missing {
    lines: AtomicU64,
    /// What is said of them.
    why: &'static str,
}

impl Missing {
    /// What the reader is to be told.
    fn note(&self) -> Option<String> {
        let lines = self.lines.swap(0, Ordering::Relaxed);
        let are = if lines == 1 { "line is" } else { "lines are" };
        (lines > 0).then(|| format!("({lines} {are} missing here: {})\n", self.why))
    }
}

impl Printer {
    /// Writes to `output` for as long as the printer lives.
    pub fn new(output: impl Write + Send + 'static) -> Self {
        Self::patient(output, LAST_WORDS, "nobody took them in time")
    }

    /// The same, where [`Printer::deliver`] waits for a reader that takes nothing for as long as `patience`, and `why` is
    /// said of lines that are missing.
    pub fn patient(output: impl Write + Send + 'static, patience: Duration, why: &'static str) -> Self {
        let (queue, pieces) = channel();
        let taken = Arc::<RoomTaken>::default();
        let missing = Arc::new(Missing { lines: AtomicU64::default(), why });
        let thread = thread::Builder::new().name("tulle-printer".to_owned());
        let (written, told) = (taken.clone(), missing.clone());
        // Where no thread can be started, nothing else works either, and says so.
        let _ = thread.spawn(move || write(output, &pieces, &written, &told));
        let room = || Room::new(ROOM, patience, &taken);
        let (room, reserve) = (room(), room());
        Self { queue, room, reserve, taken, missing, is_behind: AtomicBool::new(false) }
    }

    /// As [`Printer::print`], with a line break.
    pub fn say(&self, line: &str) {
        self.print(format!("{line}\n").into_bytes());
    }

    /// Writes a text soon, or never. It never waits.
    pub fn print(&self, text: Vec<u8>) {
        let room = self.reserve.try_take(text.len() + LINE);
        self.enqueue(text, room);
    }

    /// Writes a line, and waits for room as long as who reads takes anything at all.
    pub async fn deliver(&self, line: Vec<u8>) {
        let room = self.room.take(line.len() + LINE).await;
        self.enqueue(line, room);
    }

    /// Writes a line soon, or never, in the room of those that wait. Who has fallen behind gets none until half of it is
    /// free: a few long gaps are better to read than many short ones.
    pub fn offer(&self, line: Vec<u8>) {
        let is_behind = self.is_behind.load(Ordering::Relaxed) && !self.room.is_half_free();
        let room = if is_behind { None } else { self.room.try_take(line.len() + LINE) };
        self.is_behind.store(room.is_none(), Ordering::Relaxed);
        self.enqueue(line, room);
    }

    fn enqueue(&self, text: Vec<u8>, room: Option<OwnedSemaphorePermit>) {
        let Some(room) = room else {
            self.missing.lines.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let text = match self.missing.note() {
            None => text,
            Some(note) => [note.as_bytes(), &text].concat(),
        };
        // Where the thread is gone, so is all output.
        let _ = self.queue.send(Piece::Text(text, room));
    }

    /// Waits until all is written, but no longer than nothing is for as long as `patience`.
    pub fn finish(&self, patience: Duration) {
        let (written, mut end) = (self.all_written(), End::new(self, patience));
        while let Err(RecvTimeoutError::Timeout) = written.recv_timeout(LOOK) {
            if end.has_come(self) {
                return;
            }
        }
    }

    /// The same, for who has something else to wait for.
    pub async fn finished(&self, patience: Duration) {
        let (written, mut end) = (self.all_written(), End::new(self, patience));
        while let Err(TryRecvError::Empty) = written.try_recv() {
            if end.has_come(self) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn all_written(&self) -> Receiver<()> {
        let (answer, written) = channel();
        let _ = self.queue.send(Piece::Written(answer));
        written
    }
}

/// When patience ends with who takes nothing.
struct End {
    patience: Duration,
    written: u64,
    since: Instant,
}

impl End {
    fn new(printer: &Printer, patience: Duration) -> Self {
        let written = printer.taken.times();
        Self { patience, written, since: Instant::now() }
    }

    fn has_come(&mut self, printer: &Printer) -> bool {
        let written = printer.taken.times();
        if written != self.written {
            (self.written, self.since) = (written, Instant::now());
        }
        self.since.elapsed() >= self.patience
    }
}

fn write(output: impl Write, pieces: &Receiver<Piece>, taken: &RoomTaken, missing: &Missing) {
    let mut writing = Writing { output, taken, missing, has_failed: false };
    loop {
        let piece = match pieces.try_recv() {
            Ok(piece) => piece,
            Err(TryRecvError::Empty) => {
                // Nobody may say anything more for long.
                if let Some(note) = missing.note() {
                    writing.write(note.as_bytes());
                }
                let Ok(piece) = pieces.recv() else { return };
                piece
            }
            Err(TryRecvError::Disconnected) => return,
        };
        match piece {
            Piece::Text(text, _room) => writing.write(&text),
            Piece::Written(answer) => {
                let _ = answer.send(());
            }
        }
    }
}

struct Writing<'a, W> {
    output: W,
    taken: &'a RoomTaken,
    missing: &'a Missing,
    has_failed: bool,
}

impl<W: Write> Writing<'_, W> {
    fn write(&mut self, text: &[u8]) {
        let mut chunks = text.chunks(CHUNK);
        let written =
            chunks.try_for_each(|chunk| self.output.write_all(chunk).inspect(|()| self.taken.note()));
        match written.and_then(|()| self.output.flush()) {
            Ok(()) => self.has_failed = false,
            // Services go on when nobody looks (`| head`, a terminal that is closed).
            Err(error) if error.kind() == ErrorKind::BrokenPipe || is_hang_up(&error) => {}
            Err(error) => {
                self.missing.lines.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.has_failed, true) {
                    crate::output::note(&format!("what is printed is lost: {error}"));
                }
            }
        }
    }
}

/// What a terminal that is gone answers with.
fn is_hang_up(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EIO as i32)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes while it is open.
    #[derive(Clone, Default)]
    struct Gated {
        open: Arc<AtomicBool>,
        written: Arc<Mutex<Vec<u8>>>,
        pause: Duration,
    }

    impl Write for Gated {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            while !self.open.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(self.pause);
            self.written.lock().expect("no panic").extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn text(output: &Gated) -> String {
        String::from_utf8(output.written.lock().expect("no panic").clone()).expect("text")
    }

    const LENGTH: usize = 16 << 10;
    const LINES: usize = 3 * ROOM / LENGTH;

    fn line(number: usize) -> Vec<u8> {
        format!("{number:>width$}\n", width = LENGTH - 1).into_bytes()
    }

    #[test]
    fn an_output_that_is_not_read_stops_nobody() {
        let output = Gated::default();
        let printer = Printer::new(output.clone());
        (0..LINES).for_each(|number| printer.print(line(number)));
        printer.finish(Duration::from_millis(30));

        output.open.store(true, Ordering::Release);
        printer.finish(Duration::from_secs(10));
        printer.print(b"last\n".to_vec());
        printer.finish(Duration::from_secs(10));
        let text = text(&output);
        assert!(text.trim_start().starts_with("0\n"));
        let missing = LINES - ROOM / (LENGTH + LINE);
        let end = format!("({missing} lines are missing here: nobody took them in time)\nlast\n");
        assert!(text.ends_with(&end), "{}", &text[text.len() - 200..]);
    }

    #[tokio::test]
    async fn a_slow_reader_gets_every_line() {
        // Slower than anybody has patience for, if it were for all of it.
        let output = Gated { pause: Duration::from_micros(100), ..Gated::default() };
        output.open.store(true, Ordering::Release);
        let printer = Printer::patient(output.clone(), Duration::from_millis(300), "");
        for number in 0..LINES {
            printer.deliver(line(number)).await;
        }
        printer.finished(Duration::from_secs(10)).await;
        let text = text(&output);
        assert!(text.lines().enumerate().all(|(at, line)| line.trim() == at.to_string()));
        assert_eq!(text.lines().count(), LINES);
    }

    #[tokio::test]
    async fn who_takes_nothing_is_waited_for_once() {
        let output = Gated::default();
        let printer = Printer::patient(output.clone(), Duration::from_millis(50), "late");
        let started = Instant::now();
        for number in 0..LINES {
            printer.deliver(line(number)).await;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "not for each line");
        output.open.store(true, Ordering::Release);
        printer.finished(Duration::from_secs(10)).await;
        printer.deliver(b"last\n".to_vec()).await;
        printer.finished(Duration::from_secs(10)).await;
        assert!(text(&output).ends_with(" lines are missing here: late)\nlast\n"));
    }

    #[test]
    fn what_is_offered_holds_nobody_up_and_has_long_gaps() {
        let output = Gated::default();
        let printer = Printer::patient(output.clone(), LAST_WORDS, "late");
        (0..LINES).for_each(|number| printer.offer(line(number)));
        printer.print(b"of the mesh\n".to_vec());
        output.open.store(true, Ordering::Release);
        printer.finish(Duration::from_secs(10));
        // Nothing more is said, and the gap is told of.
        let end = format!("({} lines are missing here: late)\nof the mesh\n", LINES - ROOM / (LENGTH + LINE));
        assert!(text(&output).ends_with(&end));
        printer.offer(line(LINES));
        printer.finish(Duration::from_secs(10));
        assert!(text(&output).ends_with(&format!(" {LINES}\n")));
    }
}
