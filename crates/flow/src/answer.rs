//! What an evaluator answers: how it went in one byte, and JSON or words.

use std::fmt;
use std::io::{self, Write};

use jaq_core::ValT as _;
use jaq_json::{Num, Val};
use serde_json::Number;
use tulle_model::flow::expression::NESTING;

/// The most bytes of words about an expression that failed: jaq's quote what it was given.
pub(crate) const LONGEST_WORDS: usize = 500;

/// How an evaluation went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ending {
    /// With a value: JSON
    Value,
    /// In the words of jaq
    Failed,
    TooLarge,
    TooDeep,
    /// jaq panicked, with these words
    Panicked,
}

impl Ending {
    pub(crate) fn of(byte: u8) -> Option<Self> {
        let all = [Self::Value, Self::Failed, Self::TooLarge, Self::TooDeep, Self::Panicked];
        all.into_iter().find(|ending| *ending as u8 == byte)
    }
}

pub(crate) struct Answer {
    pub(crate) ending: Ending,
    pub(crate) words: Vec<u8>,
}

impl Answer {
    pub(crate) fn failed(words: impl fmt::Display) -> Self {
        let mut room = Words(String::new());
        // Too much of it is cut off.
        let _ = fmt::Write::write_fmt(&mut room, format_args!("{words}"));
        Self { ending: Ending::Failed, words: room.0.into_bytes() }
    }

    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&(self.words.len() as u32 + 1).to_ne_bytes())?;
        to.write_all(&[self.ending as u8])?;
        to.write_all(&self.words)?;
        to.flush()
    }
}

/// Takes the beginning of a text.
struct Words(String);

impl fmt::Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LONGEST_WORDS.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        self.0.push('…');
        Err(fmt::Error)
    }
}

/// Values become JSON here, as they come: none is null, one is itself, several are an array.
pub(crate) struct Values {
    json: Vec<u8>,
    largest: usize,
    count: usize,
    /// How deep the deepest was.
    depth: usize,
}

/// Why a value is not taken.
pub(crate) enum Refused {
    TooLarge,
    TooDeep,
    NotJson(&'static str),
}

impl Values {
    pub(crate) fn new(largest: usize) -> Self {
        Self { json: b"[".to_vec(), largest, count: 0, depth: 0 }
    }

    pub(crate) fn push(&mut self, value: &Val) -> Result<(), Refused> {
        self.count += 1;
        if self.count > 1 {
            self.put(b",")?;
        }
        self.value(value, 0)?;
        if self.count > 1 && self.depth == NESTING { Err(Refused::TooDeep) } else { Ok(()) }
    }

    pub(crate) fn finish(mut self) -> Answer {
        let words = match self.count {
            0 => b"null".to_vec(),
            1 => self.json.split_off(1),
            _ => {
                self.json.push(b']');
                self.json
            }
        };
        let too_large = words.len() > self.largest;
        Answer {
            ending: if too_large { Ending::TooLarge } else { Ending::Value },
            words: if too_large { Vec::new() } else { words },
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        // The bracket before the first may go again.
        if self.json.len() + bytes.len() > self.largest + 1 {
            return Err(Refused::TooLarge);
        }
        self.json.extend_from_slice(bytes);
        Ok(())
    }

    fn value(&mut self, value: &Val, depth: usize) -> Result<(), Refused> {
        match value {
            Val::Null => self.put(b"null"),
            Val::Bool(_) => self.put(if value.as_bool() { b"true" } else { b"false" }),
            Val::Num(number) => self.number(number),
            Val::BStr(_) => Err(Refused::NotJson("bytes that are no text")),
            Val::TStr(text) => self.text(text),
            Val::Arr(items) => {
                let depth = self.deeper(depth)?;
                self.put(b"[")?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.put(b",")?;
                    }
                    self.value(item, depth)?;
                }
                self.put(b"]")
            }
            Val::Obj(fields) => {
                let depth = self.deeper(depth)?;
                self.put(b"{")?;
                for (index, (key, field)) in fields.iter().enumerate() {
                    if index > 0 {
                        self.put(b",")?;
                    }
                    let Val::TStr(key) = key else {
                        return Err(Refused::NotJson("an object with a key that is no text"));
                    };
                    self.text(key)?;
                    self.put(b":")?;
                    self.value(field, depth)?;
                }
                self.put(b"}")
            }
        }
    }

    fn deeper(&mut self, depth: usize) -> Result<usize, Refused> {
        if depth == NESTING {
            return Err(Refused::TooDeep);
        }
        self.depth = self.depth.max(depth + 1);
        Ok(depth + 1)
    }

    fn text(&mut self, text: &[u8]) -> Result<(), Refused> {
        if text.len() > self.largest {
            return Err(Refused::TooLarge);
        }
        // What is no UTF-8 comes of decoding (`@base64d`), and is replaced as by jq.
        let json = serde_json::Value::from(String::from_utf8_lossy(text)).to_string();
        self.put(json.as_bytes())
    }

    /// Floats that were computed and are whole numbers are integers for JSON. What JSON has no number for is as with jq: what
    /// is no number is null, and infinity the largest float.
    fn number(&mut self, number: &Num) -> Result<(), Refused> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        /// What a float holds has no more digits.
        const DIGITS: usize = 300;
        let float = match number {
            Num::Float(float) => *float,
            Num::Dec(text) => text.parse().unwrap_or(f64::NAN),
            integer => {
                let digits = integer.to_string();
                if digits.len() <= DIGITS {
                    return self.put(digits.as_bytes());
                }
                if digits.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }
            }
        };
        let whole =
            float.trunc() == float && float.abs() <= EXACT && !(float == 0.0 && float.is_sign_negative());
        if whole && matches!(number, Num::Float(_)) {
            return self.put((float as i64).to_string().as_bytes());
        }
        match Number::from_f64(if float.is_nan() { float } else { float.clamp(f64::MIN, f64::MAX) }) {
            Some(number) => self.put(number.to_string().as_bytes()),
            None => self.put(b"null"),
        }
    }
}
