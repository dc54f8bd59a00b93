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

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long who reads our output may take nothing of the last of it.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// How many bytes of what waits for room there may be, and how many of what does not.
const ROOM: usize = 4 << 20;
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
    room: Arc<Semaphore>,
    /// For what does not.
    reserve: Arc<Semaphore>,
    progress: Arc<Progress>,
    /// How long nothing may be written before what waits is dropped.
    patience: Duration,
}

#[derive(Default)]
struct Progress {
    /// How often something was written.
    written: AtomicU64,
    /// Lines, since the reader was last told.
    dropped: AtomicU64,
    /// Nothing has been written for as long as somebody has patience.
    stalled: AtomicBool,
}

impl Printer {
    /// Writes to `output` for as long as the printer lives.
    pub fn new(output: impl Write + Send + 'static) -> Self {
        Self::patient(output, LAST_WORDS)
    }

    /// The same, where [`Printer::deliver`] waits for a reader that takes nothing for as long as `patience`.
    pub fn patient(output: impl Write + Send + 'static, patience: Duration) -> Self {
        let (queue, pieces) = channel();
        let progress = Arc::new(Progress::default());
        let thread = thread::Builder::new().name("tulle-printer".to_owned());
        let written = progress.clone();
        // Where no thread can be started, nothing else works either, and says so.
        let _ = thread.spawn(move || write(output, &pieces, &written));
        let room = || Arc::new(Semaphore::new(ROOM));
        Self { queue, room: room(), reserve: room(), progress, patience }
    }

    /// As [`Printer::print`], with a line break.
    pub fn say(&self, line: &str) {
        self.print(format!("{line}\n").into_bytes());
    }

    /// Writes a text soon, or never. It never waits.
    pub fn print(&self, text: Vec<u8>) {
        match self.reserve.clone().try_acquire_many_owned(size(&text)) {
            Ok(permit) => self.enqueue(text, permit),
            Err(_) => self.drop_line(),
        }
    }

    /// Writes a line, and waits for room as long as who reads takes anything at all.
    pub async fn deliver(&self, line: Vec<u8>) {
        let size = size(&line);
        let mut written = self.progress.written.load(Ordering::Relaxed);
        loop {
            if self.progress.stalled.load(Ordering::Relaxed) {
                return match self.room.clone().try_acquire_many_owned(size) {
                    Ok(permit) => self.enqueue(line, permit),
                    Err(_) => self.drop_line(),
                };
            }
            match tokio::time::timeout(self.patience, self.room.clone().acquire_many_owned(size)).await {
                Ok(Ok(permit)) => return self.enqueue(line, permit),
                // It is never closed.
                Ok(Err(_)) => return,
                Err(_) => {
                    let now = self.progress.written.load(Ordering::Relaxed);
                    self.progress.stalled.store(now == written, Ordering::Relaxed);
                    written = now;
                }
            }
        }
    }

    fn enqueue(&self, text: Vec<u8>, permit: OwnedSemaphorePermit) {
        let dropped = self.progress.dropped.swap(0, Ordering::Relaxed);
        let text = if dropped == 0 {
            text
        } else {
            [format!("({dropped} lines are missing here: nobody took them in time)\n").as_bytes(), &text]
                .concat()
        };
        // Where the thread is gone, so is all output.
        let _ = self.queue.send(Piece::Text(text, permit));
    }

    fn drop_line(&self) {
        self.progress.dropped.fetch_add(1, Ordering::Relaxed);
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
        let written = printer.progress.written.load(Ordering::Relaxed);
        Self { patience, written, since: Instant::now() }
    }

    fn has_come(&mut self, printer: &Printer) -> bool {
        let written = printer.progress.written.load(Ordering::Relaxed);
        if written != self.written {
            (self.written, self.since) = (written, Instant::now());
        }
        self.since.elapsed() >= self.patience
    }
}

/// What a text takes of the room; one that is larger than all of it is alone.
fn size(text: &[u8]) -> u32 {
    u32::try_from(text.len().clamp(1, ROOM)).unwrap_or(u32::MAX)
}

fn write(mut output: impl Write, pieces: &Receiver<Piece>, progress: &Progress) {
    let mut said = false;
    for piece in pieces {
        match piece {
            Piece::Text(text, _room) => {
                let wrote = |_: &()| {
                    progress.written.fetch_add(1, Ordering::Relaxed);
                    progress.stalled.store(false, Ordering::Relaxed);
                };
                let mut chunks = text.chunks(CHUNK);
                let written = chunks.try_for_each(|chunk| output.write_all(chunk).inspect(wrote));
                match written.and_then(|()| output.flush()) {
                    Ok(()) => said = false,
                    // Services go on when nobody looks (`| head`, a terminal that is closed).
                    Err(error) if error.kind() == ErrorKind::BrokenPipe || is_hang_up(&error) => {}
                    Err(error) => {
                        progress.dropped.fetch_add(1, Ordering::Relaxed);
                        if !std::mem::replace(&mut said, true) {
                            crate::output::note(&format!("what is printed is lost: {error}"));
                        }
                    }
                }
            }
            Piece::Written(answer) => {
                let _ = answer.send(());
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

    const LINE: usize = 16 << 10;
    const LINES: usize = 3 * ROOM / LINE;

    fn line(number: usize) -> Vec<u8> {
        format!("{number:>width$}\n", width = LINE - 1).into_bytes()
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
        let missing = LINES - ROOM / LINE;
        let end = format!("({missing} lines are missing here: nobody took them in time)\nlast\n");
        assert!(text.ends_with(&end), "{}", &text[text.len() - 200..]);
    }

    #[tokio::test]
    async fn a_slow_reader_gets_every_line() {
        // Slower than anybody has patience for, if it were for all of it.
        let output = Gated { pause: Duration::from_micros(100), ..Gated::default() };
        output.open.store(true, Ordering::Release);
        let printer = Printer::patient(output.clone(), Duration::from_millis(300));
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
        let printer = Printer::patient(output.clone(), Duration::from_millis(50));
        let started = Instant::now();
        for number in 0..LINES {
            printer.deliver(line(number)).await;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "not for each line");
        output.open.store(true, Ordering::Release);
        printer.finished(Duration::from_secs(10)).await;
        printer.deliver(b"last\n".to_vec()).await;
        printer.finished(Duration::from_secs(10)).await;
        assert!(text(&output).ends_with(" lines are missing here: nobody took them in time)\nlast\n"));
    }
}
