//! Whole lines of a file that somebody may still write to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// So much is read at a time.
const READ: usize = 64 << 10;
/// A longer line nobody has written as one.
const LONGEST: usize = 4 << 20;

/// Gives the lines of a file, as far as they have their end.
pub struct Lines {
    pub file: File,
    /// Where the next read begins.
    at: u64,
    /// Nothing after that is read.
    limit: u64,
    buffer: Vec<u8>,
    /// Where the next line begins in the buffer.
    start: usize,
    /// So much of the buffer has no line's end from `start` on.
    searched: usize,
    /// Within a line that is too long.
    skips: bool,
}

impl Lines {
    /// The lines from `at` to `limit`.
    pub fn new(file: File, at: u64, limit: u64) -> Self {
        Self { file, at, limit, buffer: Vec::new(), start: 0, searched: 0, skips: false }
    }

    /// Where the next line begins.
    pub fn position(&self) -> u64 {
        self.at - (self.buffer.len() - self.start) as u64
    }

    /// The next line without its end; `None` where there is none yet.
    pub fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            if let Some(length) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let (start, end) = (self.start, self.searched + length);
                (self.start, self.searched) = (end + 1, end + 1);
                if !std::mem::take(&mut self.skips) {
                    return Ok(Some(&self.buffer[start..end]));
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.buffer.len() - self.start > LONGEST {
                self.skips = true;
                self.start = self.buffer.len();
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }

    /// Reads on; `false` where there is nothing.
    fn read(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        let length = self.buffer.len();
        if length == 0 {
            self.buffer.shrink_to(READ);
        }
        let most = usize::try_from(self.limit.saturating_sub(self.at)).unwrap_or(READ).min(READ);
        self.buffer.resize(length + most, 0);
        let read = self.file.read_at(&mut self.buffer[length..], self.at);
        self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
        let read = read?;
        self.at += read as u64;
        Ok(read > 0)
    }

    /// Begins anew where somebody has emptied the file.
    pub fn notice_emptied(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.at {
            self.buffer.clear();
            (self.at, self.start, self.searched, self.skips) = (0, 0, 0, false);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_is_given_once_it_is_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = file.reopen().unwrap();
        let mut lines = Lines::new(file.reopen().unwrap(), 0, u64::MAX);
        let mut next = || lines.next().unwrap().map(|line| String::from_utf8_lossy(line).into_owned());
        assert_eq!(next(), None);
        writer.write_all(b"one\n\ntw").unwrap();
        assert_eq!([next(), next(), next()], [Some("one".to_owned()), Some(String::new()), None]);
        writer.write_all(b"o\nx").unwrap();
        assert_eq!([next(), next()], [Some("two".to_owned()), None]);
        let long = "y".repeat(READ + 7);
        writer.write_all(format!("{long}\n{}\nend\n", "z".repeat(LONGEST + 2 * READ)).as_bytes()).unwrap();
        assert_eq!(next(), Some(format!("x{long}")));
        assert_eq!(next().as_deref(), Some("end"), "without the one that is too long");
        assert_eq!(next(), None);
        writer.set_len(0).unwrap();
        lines.notice_emptied().unwrap();
        file.reopen().unwrap().write_all(b"anew\n").unwrap();
        assert_eq!(lines.next().unwrap(), Some(&b"anew"[..]));
        assert_eq!(lines.position(), 5);
    }

    #[test]
    fn nothing_beyond_the_limit_is_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"one\ntwo\nthree\n").unwrap();
        let mut lines = Lines::new(file.reopen().unwrap(), 4, 10);
        assert_eq!(lines.next().unwrap(), Some(&b"two"[..]));
        assert_eq!(lines.position(), 8);
        assert_eq!(lines.next().unwrap(), None);
    }
}
