//! HPACK (RFC 7541): a decoder with all of it, since peers encode as they like, and an encoder with as
//! much as a client or service would use that says the same again and again.

use std::collections::VecDeque;

/// The size of the table that both sides start with, and that we stay with (RFC 9113, section 6.5.2).
pub const TABLE_SIZE: usize = 4096;

/// What an entry of a table counts besides its bytes (section 4.1).
const OVERHEAD: usize = 32;

/// What a peer wrote that is not HPACK.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header block is not HPACK")]
pub struct MalformedBlock;

type Field = (Vec<u8>, Vec<u8>);

/// Decodes what one peer encodes.
#[derive(Default)]
pub struct Decoder {
    table: VecDeque<Field>,
    size: usize,
    limit: Option<usize>,
    /// Counts changes of the table: the same block means the same while it stays.
    pub changes: u64,
}

impl Decoder {
    /// Tells `visit` the name and the value of every field in a block.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), MalformedBlock> {
        let mut text = (Vec::new(), Vec::new());
        while let Some(first) = block.first().copied() {
            let (name, inserts) = match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    let (name, value) = self.field(index)?;
                    visit(name, value);
                    continue;
                }
                0x40.. => (integer(&mut block, 6)?, true),
                0x20.. => {
                    let limit = integer(&mut block, 5)?;
                    if limit > TABLE_SIZE {
                        return Err(MalformedBlock);
                    }
                    self.limit = Some(limit);
                    self.changes += 1;
                    self.evict(0);
                    continue;
                }
                _ => (integer(&mut block, 4)?, false),
            };
            text.0.clear();
            text.1.clear();
            if name == 0 {
                string(&mut block, &mut text.0)?;
            } else {
                text.0.extend_from_slice(self.field(name)?.0);
            }
            string(&mut block, &mut text.1)?;
            visit(&text.0, &text.1);
            if inserts {
                self.insert(text.clone());
            }
        }
        Ok(())
    }

    fn field(&self, index: usize) -> Result<(&[u8], &[u8]), MalformedBlock> {
        let index = index.checked_sub(1).ok_or(MalformedBlock)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let (name, value) = self.table.get(index - STATIC.len()).ok_or(MalformedBlock)?;
        Ok((name, value))
    }

    fn insert(&mut self, field: Field) {
        let size = field.0.len() + field.1.len() + OVERHEAD;
        self.changes += 1;
        self.evict(size);
        if size <= self.limit.unwrap_or(TABLE_SIZE) {
            self.size += size;
            self.table.push_front(field);
        }
    }

    /// Makes room for so much.
    fn evict(&mut self, room: usize) {
        while self.size + room > self.limit.unwrap_or(TABLE_SIZE)
            && let Some((name, value)) = self.table.pop_back()
        {
            self.size -= name.len() + value.len() + OVERHEAD;
        }
    }
}

/// Section 5.1.
fn integer(block: &mut &[u8], bits: u32) -> Result<usize, MalformedBlock> {
    let mask = (1_usize << bits) - 1;
    let mut value = usize::from(next(block)?) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = next(block)?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(MalformedBlock)
}

fn next(block: &mut &[u8]) -> Result<u8, MalformedBlock> {
    let (first, rest) = block.split_first().ok_or(MalformedBlock)?;
    *block = rest;
    Ok(*first)
}

/// Section 5.2.
fn string(block: &mut &[u8], text: &mut Vec<u8>) -> Result<(), MalformedBlock> {
    let huffman = block.first().ok_or(MalformedBlock)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(MalformedBlock)?;
    *block = rest;
    if huffman {
        unpack(bytes, text)
    } else {
        text.extend_from_slice(bytes);
        Ok(())
    }
}

/// Undoes the Huffman code of Appendix B. It is canonical: codes of a length follow each other in the
/// order of their symbols, so that the lengths say everything.
fn unpack(bytes: &[u8], text: &mut Vec<u8>) -> Result<(), MalformedBlock> {
    let (mut code, mut length) = (0_u32, 0_usize);
    for byte in bytes {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            if length > 30 {
                return Err(MalformedBlock);
            }
            let offset = code.wrapping_sub(HUFFMAN.first[length]);
            if offset < u32::from(HUFFMAN.count[length]) {
                text.push(HUFFMAN.symbols[usize::from(HUFFMAN.start[length]) + offset as usize]);
                (code, length) = (0, 0);
            }
        }
    }
    // What pads the last byte is the start of the longest code, which consists of ones.
    if length < 8 && code == (1 << length) - 1 { Ok(()) } else { Err(MalformedBlock) }
}

struct Huffman {
    /// By length: the first code, how many there are, and where their symbols start.
    first: [u32; 31],
    count: [u16; 31],
    start: [u16; 31],
    symbols: [u8; 256],
}

const HUFFMAN: Huffman = {
    let (mut first, mut count, mut start) = ([0_u32; 31], [0_u16; 31], [0_u16; 31]);
    let mut symbols = [0; 256];
    let (mut code, mut length, mut found) = (0, 1, 0);
    while length <= 30 {
        code <<= 1;
        first[length] = code;
        start[length] = found;
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                symbols[found as usize] = symbol as u8;
                found += 1;
                count[length] += 1;
                code += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    Huffman { first, count, start, symbols }
};

/// A field of a block that is to be encoded.
pub type Said<'a> = (&'a [u8], &'a [u8]);

/// Fields that one side says again and again on one connection.
pub struct Phrase {
    fields: Vec<Field>,
    /// The block, and the length of the table for which it is right.
    known: Option<(Vec<u8>, usize)>,
}

impl Phrase {
    /// A phrase of these fields.
    pub fn new(fields: &[Said<'_>]) -> Self {
        let fields = fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec()));
        Self { fields: fields.collect(), known: None }
    }

    /// Forgets how it was said, for another connection.
    pub fn forget(&mut self) {
        self.known = None;
    }
}

/// Encodes for one peer: what it says for the first time goes into the table, and later is one byte.
/// Nothing is ever evicted; what finds no room is said in full.
#[derive(Default)]
pub struct Encoder {
    table: Vec<Field>,
    size: usize,
    /// The peer's limit, of which no more than our own is used.
    limit: usize,
}

impl Encoder {
    /// An encoder for a peer whose table has this limit.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.min(TABLE_SIZE), ..Self::default() }
    }

    /// Appends the block of a phrase to `into`.
    pub fn say(&mut self, phrase: &mut Phrase, into: &mut Vec<u8>) {
        let length = self.table.len();
        if let Some((block, right)) = &phrase.known
            && *right == length
        {
            into.extend_from_slice(block);
            return;
        }
        let fields: Vec<Said<'_>> =
            phrase.fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let start = into.len();
        self.encode(&fields, into);
        // A block that puts something into the table is said once.
        if self.table.len() == length {
            phrase.known = Some((into[start..].to_vec(), length));
        }
    }

    /// Appends a block to `into`.
    pub fn encode(&mut self, fields: &[Said<'_>], into: &mut Vec<u8>) {
        for (name, value) in fields {
            let is_static = |(n, v): &(&str, &str)| n.as_bytes() == *name && v.as_bytes() == *value;
            if let Some(index) = STATIC.iter().position(is_static) {
                put(into, 0x80, 7, index + 1);
                continue;
            }
            if let Some(index) = self.table.iter().position(|(n, v)| n == name && v == value) {
                // The latest has the lowest number.
                put(into, 0x80, 7, STATIC.len() + self.table.len() - index);
                continue;
            }
            let size = name.len() + value.len() + OVERHEAD;
            let (first, bits) = if self.size + size <= self.limit {
                self.size += size;
                self.table.push((name.to_vec(), value.to_vec()));
                (0x40, 6)
            } else {
                (0, 4)
            };
            let named = STATIC.iter().position(|(n, _)| n.as_bytes() == *name);
            put(into, first, bits, named.map_or(0, |index| index + 1));
            if named.is_none() {
                put(into, 0, 7, name.len());
                into.extend_from_slice(name);
            }
            put(into, 0, 7, value.len());
            into.extend_from_slice(value);
        }
    }
}

fn put(into: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let mask = (1_usize << bits) - 1;
    if value < mask {
        into.push(first | value as u8);
        return;
    }
    into.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

/// Appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""),
    ("cache-control", ""), ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""),
    ("content-length", ""), ("content-location", ""), ("content-range", ""), ("content-type", ""),
    ("cookie", ""), ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

/// Appendix B: the length of each byte's code.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder.decode(block, |name, value| fields.push((text(name), text(value)))).unwrap();
        fields
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// The requests of RFC 7541, Appendix C.4.
    #[test]
    fn the_examples_of_the_standard_are_understood() {
        let mut decoder = Decoder::default();
        let fields = decoded(&mut decoder, &bytes("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"));
        assert_eq!(fields[3], (":authority".to_owned(), "www.example.com".to_owned()));
        let fields = decoded(&mut decoder, &bytes("8286 84be 5886 a8eb 1064 9cbf"));
        assert_eq!(fields[3].1, "www.example.com");
        assert_eq!(fields[4], ("cache-control".to_owned(), "no-cache".to_owned()));
        let block = bytes("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
        let fields = decoded(&mut decoder, &block);
        assert_eq!(fields[4], ("custom-key".to_owned(), "custom-value".to_owned()));
        assert_eq!((decoder.size, decoder.table.len(), decoder.changes), (164, 3, 3));
    }

    #[test]
    fn what_is_said_again_is_short_and_understood() {
        let long = vec![b'v'; TABLE_SIZE];
        let fields: [Said<'_>; 5] = [
            (b":method", b"POST"),
            (b":path", b"/tulle.bench.Echo/Unary"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"long", &long),
        ];
        let (mut encoder, mut decoder) = (Encoder::new(usize::MAX), Decoder::default());
        for round in 0..3 {
            let mut block = Vec::new();
            encoder.encode(&fields, &mut block);
            assert!(round == 0 || block.len() == 4 + 6 + 3 + long.len(), "{}", block.len());
            let read = decoded(&mut decoder, &block);
            for (said, read) in fields.iter().zip(read) {
                assert_eq!((said.0, said.1), (read.0.as_bytes(), read.1.as_bytes()));
            }
        }
        assert_eq!(decoder.changes, 3);
    }

    #[test]
    fn a_phrase_stays_right_when_others_are_said_between() {
        let (mut encoder, mut decoder) = (Encoder::new(TABLE_SIZE), Decoder::default());
        let mut one = Phrase::new(&[(b":status", b"200"), (b"a", b"1")]);
        let mut two = Phrase::new(&[(b"b", b"2")]);
        for _ in 0..3 {
            for last in ["1", "1", "2"] {
                let mut block = Vec::new();
                encoder.say(if last == "1" { &mut one } else { &mut two }, &mut block);
                assert_eq!(decoded(&mut decoder, &block).pop().unwrap().1, last);
            }
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let refused = |block: &[u8]| Decoder::default().decode(block, |_, _| {}).is_err();
        for block in [&b"\x80"[..], b"\xbe", b"\x40", b"\x40\x05ab", b"\x3f\xff\xff\xff\xff\x7f"] {
            assert!(refused(block), "{block:x?}");
        }
        // Padding of a whole byte, and padding with zeros.
        assert!(refused(b"\x00\x81\xff\x00") && refused(b"\x00\x81\x18\x00"));
    }
}
