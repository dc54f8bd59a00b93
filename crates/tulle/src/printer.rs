//! Output that nobody waits for. A terminal that was paused, or a pipe that is not read, stops who
//! writes to it; a mesh must not stop with it, so a thread of its own does the writing, and what it
//! does not get rid of is dropped and counted.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long who reads our output may take for the last of it.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// Pieces that wait to be written. Lines are at most 8 KiB long, and most are short.
const QUEUE: usize = 4096;
/// How often [`Printer::finish`] looks for room in a full queue.
const PAUSE: Duration = Duration::from_millis(10);

enum Piece {
    Text(Vec<u8>),
    /// Answered once all that came before is written.
    Written(SyncSender<()>),
}

/// Hands text to a thread that writes it.
pub struct Printer {
    queue: SyncSender<Piece>,
    /// Since the reader was last told.
    dropped: AtomicU64,
}

impl Printer {
    /// Writes to `output` for as long as the printer lives.
    pub fn new(output: impl Write + Send + 'static) -> Self {
        let (queue, pieces) = sync_channel(QUEUE);
        let thread = thread::Builder::new().name("tulle-printer".to_owned());
        // Where no thread can be started, nothing else works either, and says so.
        let _ = thread.spawn(move || write(output, &pieces));
        Self { queue, dropped: AtomicU64::new(0) }
    }

    /// As [`Printer::print`], with a line break.
    pub fn say(&self, line: &str) {
        self.print(format!("{line}\n").into_bytes());
    }

    /// Writes a text soon, or never. It never waits.
    pub fn print(&self, text: Vec<u8>) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let note = format!("({dropped} lines were not shown: nobody read them in time)\n");
            if self.queue.try_send(Piece::Text(note.into_bytes())).is_err() {
                self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
                return;
            }
        }
        if self.queue.try_send(Piece::Text(text)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all is written, but no longer than `deadline`.
    pub fn finish(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        let (answer, written) = sync_channel(1);
        while self.queue.try_send(Piece::Written(answer.clone())).is_err() {
            if Instant::now() >= end {
                return;
            }
            thread::sleep(PAUSE);
        }
        let _ = written.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

fn write(mut output: impl Write, pieces: &Receiver<Piece>) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => {
                // Services go on when nobody looks (`| head`).
                let _ = output.write_all(&text).and_then(|()| output.flush());
            }
            Piece::Written(answer) => {
                let _ = answer.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Writes once its gate is open.
    struct Gated {
        gate: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            let _open = self.gate.lock().expect("no panic");
            self.written.lock().expect("no panic").extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_is_not_read_stops_nobody() {
        let (gate, written) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
        let printer = Printer::new(Gated { gate: gate.clone(), written: written.clone() });
        let closed = gate.lock().expect("no panic");
        for number in 0..2 * QUEUE {
            printer.print(format!("{number}\n").into_bytes());
        }
        printer.finish(Duration::from_millis(30));

        drop(closed);
        printer.finish(Duration::from_secs(10));
        printer.print(b"last\n".to_vec());
        printer.finish(Duration::from_secs(10));
        let text = String::from_utf8(written.lock().expect("no panic").clone()).expect("text");
        assert!(text.starts_with("0\n1\n2\n"), "{text}");
        assert!(text.ends_with(" lines were not shown: nobody read them in time)\nlast\n"), "{text}");
    }
}
