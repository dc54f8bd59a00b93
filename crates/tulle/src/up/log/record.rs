//! The lines of a file of the log: a time, who speaks, on which stream, and what.
//!
//! `2026-03-01T09:00:00.000123Z web-1 o listening at 8080`. Times have the same length, so that they sort as texts.

use std::borrow::Cow;

use jiff::Timestamp;

/// The length of a time: with microseconds, in UTC.
pub const TIME: usize = "2026-03-01T09:00:00.000123Z".len();

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Output,
    Error,
    /// What became of a process, or a line of the mesh.
    State,
}

impl Said {
    pub fn letter(self) -> char {
        match self {
            Self::Output => 'o',
            Self::Error => 'e',
            Self::State => 's',
        }
    }

    /// As `-o json` has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Output => "stdout",
            Self::Error => "stderr",
            Self::State => "state",
        }
    }

    fn of_letter(letter: &str) -> Option<Self> {
        [Self::Output, Self::Error, Self::State].into_iter().find(|said| letter.chars().eq([said.letter()]))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    pub time: Cow<'a, str>,
    pub replica: Cow<'a, str>,
    pub said: Said,
    pub text: Cow<'a, str>,
}

impl<'a> Record<'a> {
    /// Reads a line; `None` where it is none, as of a disk that was full.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let mut word = || std::str::from_utf8(parts.next()?).ok();
        let (time, replica, letter) = (word()?, word()?, word()?);
        if time.len() != TIME || !time.ends_with('Z') || !time.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            time: time.into(),
            replica: replica.into(),
            said: Said::of_letter(letter)?,
            text: String::from_utf8_lossy(parts.next()?),
        })
    }

    pub fn into_owned(self) -> Record<'static> {
        Record {
            time: self.time.into_owned().into(),
            replica: self.replica.into_owned().into(),
            said: self.said,
            text: self.text.into_owned().into(),
        }
    }
}

/// A time as records have it.
pub fn time(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// All of a line but its time.
pub fn rest(replica: &str, said: Said, text: &str) -> Vec<u8> {
    let mut rest = Vec::with_capacity(replica.len() + text.len() + 4);
    rest.extend_from_slice(replica.as_bytes());
    rest.extend([b' ', said.letter() as u8, b' ']);
    rest.extend_from_slice(text.as_bytes());
    // Nobody's line has one; who reads must be able to rely on that.
    rest.iter_mut().filter(|b| **b == b'\n').for_each(|b| *b = b' ');
    rest.push(b'\n');
    rest
}

/// Writes times. Those of one second differ in their last digits alone.
#[derive(Default)]
pub struct Times {
    second: i64,
    text: String,
}

impl Times {
    /// Appends a time and a blank.
    pub fn append(&mut self, at: Timestamp, to: &mut Vec<u8>) {
        if self.text.is_empty() || self.second != at.as_second() {
            self.second = at.as_second();
            self.text = time(at);
        }
        let micros = u32::try_from(at.subsec_microsecond()).unwrap_or_default();
        let mut digits = *b"000000";
        let mut left = micros;
        for digit in digits.iter_mut().rev() {
            *digit += (left % 10) as u8;
            left /= 10;
        }
        to.extend_from_slice(&self.text.as_bytes()[..TIME - "000000Z".len()]);
        to.extend_from_slice(&digits);
        to.extend_from_slice(b"Z ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut times = Times::default();
        for (nanos, text) in [(0, ""), (1_000, "a  b "), (999_999_999, "\x1b[2J\r\0é"), (1_000_000_000, "x")]
        {
            let at = Timestamp::from_nanosecond(1_772_355_600_000_000_000 + nanos).unwrap();
            let mut line = Vec::new();
            times.append(at, &mut line);
            assert_eq!(line.len(), TIME + 1);
            assert_eq!(&line[..TIME], time(at).as_bytes());
            line.extend(rest("web-1", Said::Error, text));
            let record = Record::parse(line.strip_suffix(b"\n").unwrap()).unwrap();
            assert_eq!((&*record.replica, record.said, &*record.text), ("web-1", Said::Error, text));
            assert_eq!(record.time, time(at));
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        for line in [
            "",
            "2026-03-01T09:00",
            "2026-03-01T09:00:00.000123Z web x y",
            "# tulle log 1: line 5",
            "a b c d",
        ] {
            assert_eq!(Record::parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(rest("a", Said::Output, "one\ntwo"), b"a o one two\n");
    }
}
