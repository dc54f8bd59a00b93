//! Fields to blocks (RFC 7541, 6).

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::encoder_table::{EncoderTable, MOST_BYTES, Sightings};
use super::known_names::{self, Habit};
use super::{huffman, integer};

/// What is written refers to what was written before, so fields must reach the peer in the order, and
/// the number, in which they were given to the encoder.
#[derive(Debug)]
pub struct Encoder {
    table: EncoderTable,
    sightings: Sightings,
    hasher: RandomState,
    /// The least and the last table size since the last block, which is owed to the peer.
    owed: Option<(usize, usize)>,
    huffman: bool,
}

/// Cookies of fewer bytes could be guessed one at a time.
const SHORT_COOKIE: usize = 20;

const NEVER_INDEXED: u8 = 0x10;
const NOT_INDEXED: u8 = 0;

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// Without Huffman coding: between nodes, bytes are cheaper than the time it takes.
    pub fn new() -> Self {
        Self {
            table: EncoderTable::new(),
            sightings: Sightings::default(),
            hasher: RandomState::default(),
            owed: None,
            huffman: false,
        }
    }

    /// Whether strings that become shorter by it are Huffman-coded.
    #[cfg(any(test, fuzzing))]
    pub fn with_huffman(self, huffman: bool) -> Self {
        Self { huffman, ..self }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE. We tell with the next block what we make of it
    /// (RFC 7541, 4.2); more than 4096 bytes we never use.
    pub fn set_table_size(&mut self, size: usize) {
        let size = size.min(MOST_BYTES);
        if self.owed.is_none() && size == self.table.max() {
            return;
        }
        let least = self.owed.map_or(size, |(least, _)| least.min(size));
        self.owed = Some((least, size));
        self.table.set_max(size);
    }

    /// Starts a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let Some((least, last)) = self.owed.take() else { return };
        if least < last {
            integer::encode(least, 5, 0x20, out);
        }
        integer::encode(last, 5, 0x20, out);
    }

    pub fn method(&mut self, method: &Method, out: &mut Vec<u8>) {
        match *method {
            Method::GET => out.push(0x82),
            Method::POST => out.push(0x83),
            _ => self.field(":method", method.as_str().as_bytes(), out),
        }
    }

    pub fn scheme(&mut self, scheme: &str, out: &mut Vec<u8>) {
        match scheme {
            "http" => out.push(0x86),
            "https" => out.push(0x87),
            _ => self.field(":scheme", scheme.as_bytes(), out),
        }
    }

    pub fn authority(&mut self, authority: &str, out: &mut Vec<u8>) {
        self.field(":authority", authority.as_bytes(), out);
    }

    pub fn path(&mut self, path: &[u8], out: &mut Vec<u8>) {
        match path {
            b"/" => out.push(0x84),
            b"/index.html" => out.push(0x85),
            _ => self.field(":path", path, out),
        }
    }

    /// Of an extended CONNECT (RFC 8441).
    pub fn protocol(&mut self, protocol: &str, out: &mut Vec<u8>) {
        self.field(":protocol", protocol.as_bytes(), out);
    }

    pub fn status(&mut self, status: StatusCode, out: &mut Vec<u8>) {
        match status.as_u16() {
            200 => out.push(0x88),
            204 => out.push(0x89),
            206 => out.push(0x8a),
            304 => out.push(0x8b),
            400 => out.push(0x8c),
            404 => out.push(0x8d),
            500 => out.push(0x8e),
            _ => self.field(":status", status.as_str().as_bytes(), out),
        }
    }

    /// What is marked as sensitive is never indexed, here or by whoever passes it on (RFC 7541, 6.2.3).
    pub fn header(&mut self, name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
        if value.is_sensitive() {
            self.sensitive(name.as_str(), value.as_bytes(), out);
        } else {
            self.field(name.as_str(), value.as_bytes(), out);
        }
    }

    #[inline]
    fn field(&mut self, name: &str, value: &[u8], out: &mut Vec<u8>) {
        let hash = self.hash(name, value);
        match self.table.field(hash, name.as_bytes(), value) {
            Some(index) => integer::encode(index, 7, 0x80, out),
            None => self.literal(hash, name, value, out),
        }
    }

    /// Of a name and a value, or of a name alone.
    #[inline]
    fn hash(&self, name: &str, value: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name.as_bytes());
        hasher.write(value);
        hasher.finish()
    }

    #[inline(never)]
    fn literal(&mut self, hash: u64, name: &str, value: &[u8], out: &mut Vec<u8>) {
        let known = known_names::get(name);
        if known.index == GZIP_DEFLATE.0 && value == GZIP_DEFLATE.1 {
            integer::encode(known.index, 7, 0x80, out);
            return;
        }
        let (worth, flags) = match known.habit {
            Habit::Steady => (2, NOT_INDEXED),
            Habit::Fickle => (3, NOT_INDEXED),
            Habit::Unique => (NEVER, NOT_INDEXED),
            Habit::Secret => (NEVER, NEVER_INDEXED),
            Habit::Cookie if value.len() < SHORT_COOKIE => (NEVER, NEVER_INDEXED),
            Habit::Cookie => (2, NOT_INDEXED),
        };
        let name_hash = (known.index == 0).then(|| self.hash(name, b""));
        let index = match name_hash {
            Some(hash) => self.table.name(hash, name.as_bytes()).unwrap_or(0),
            None => known.index,
        };
        // A name that returns is worth an entry as well, whatever its value.
        let worthy = (worth != NEVER && self.sightings.count(hash) >= worth)
            || (index == 0
                && flags == NOT_INDEXED
                && name_hash.is_some_and(|hash| self.sightings.count(hash) > 1));
        let insert = worthy && self.table.admits(name, value);
        if insert {
            integer::encode(index, 6, 0x40, out);
        } else {
            integer::encode(index, 4, flags, out);
        }
        if index == 0 {
            self.string(name.as_bytes(), out);
        }
        self.string(value, out);
        if insert {
            self.table.insert(hash, name_hash, name, value);
        }
    }

    #[cold]
    fn sensitive(&mut self, name: &str, value: &[u8], out: &mut Vec<u8>) {
        let index = match known_names::get(name).index {
            0 => self.table.name(self.hash(name, b""), name.as_bytes()).unwrap_or(0),
            index => index,
        };
        integer::encode(index, 4, NEVER_INDEXED, out);
        if index == 0 {
            self.string(name.as_bytes(), out);
        }
        self.string(value, out);
    }

    /// A string (RFC 7541, 5.2).
    fn string(&self, text: &[u8], out: &mut Vec<u8>) {
        if self.huffman {
            let length = huffman::encoded_len(text);
            if length < text.len() {
                integer::encode(length, 7, 0x80, out);
                huffman::encode(text, out);
                return;
            }
        }
        integer::encode(text.len(), 7, 0, out);
        out.extend_from_slice(text);
    }
}

/// How often a field must be seen to be indexed, if it never is.
const NEVER: u32 = u32::MAX;

/// The one field of the static table that has a value.
const GZIP_DEFLATE: (usize, &[u8]) = (16, b"gzip, deflate");
