//! The Huffman code of strings (RFC 7541, 5.2 and appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and
//! shorter ones stand before longer ones. So the lengths are all there is to write down.

use super::CompressionError;

const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

const EOS: usize = 256;
const LONGEST: u32 = 30;

/// The code in the order of its words.
struct Canon {
    /// Each symbol's word.
    codes: [u32; 257],
    /// The symbols from the shortest word to the longest.
    symbols: [u16; 257],
    /// For each length: its first word, at the top of 32 bits, and that word's place in `symbols`.
    first: [(u32, u16); 32],
}

const fn canon() -> Canon {
    let mut canon = Canon { codes: [0; 257], symbols: [0; 257], first: [(0, 0); 32] };
    let (mut code, mut place, mut length) = (0u32, 0, 1u32);
    while length <= LONGEST {
        code <<= 1;
        canon.first[length as usize] = (code << (32 - length), place as u16);
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as u32 == length {
                canon.codes[symbol] = code;
                canon.symbols[place] = symbol as u16;
                code += 1;
                place += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    assert!(place == 257 && code == 1 << LONGEST);
    canon
}

/// What a byte of input starts with: a symbol and the length of its word, zero where that is longer than
/// the byte.
const fn short_words(canon: &Canon) -> [(u8, u8); 256] {
    let mut words = [(0, 0); 256];
    let mut symbol = 0;
    while symbol < EOS {
        let length = LENGTHS[symbol];
        if length <= 8 {
            let from = (canon.codes[symbol] << (8 - length)) as usize;
            let mut at = from;
            while at < from + (1 << (8 - length)) {
                words[at] = (symbol as u8, length);
                at += 1;
            }
        }
        symbol += 1;
    }
    words
}

static CANON: Canon = canon();
static SHORT_WORDS: [(u8, u8); 256] = short_words(&canon());

/// The symbol at the top of the window, and its length.
#[inline]
fn word(window: u64) -> Result<(u8, u32), CompressionError> {
    let (symbol, length) = SHORT_WORDS[(window >> 56) as usize];
    if length != 0 { Ok((symbol, u32::from(length))) } else { long_word((window >> 32) as u32) }
}

/// Words of more than a byte are those of control bytes and of what is no ASCII: rare enough to look for
/// their length.
#[cold]
fn long_word(top: u32) -> Result<(u8, u32), CompressionError> {
    let mut length = 9;
    while length < LONGEST && top >= CANON.first[length as usize + 1].0 {
        length += 1;
    }
    let (first, place) = CANON.first[length as usize];
    let symbol = CANON.symbols[usize::from(place) + ((top - first) >> (32 - length)) as usize];
    match u8::try_from(symbol) {
        Ok(symbol) => Ok((symbol, length)),
        // The end of the string is never spelled out.
        Err(_) => Err(CompressionError::InvalidHuffman),
    }
}

/// Appends what `coded` stands for: at most 8/5 of its length.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    out.reserve(coded.len() * 8 / 5 + 1);
    // The next bits are at the top.
    let (mut window, mut bits) = (0u64, 0u32);
    let (chunks, rest) = coded.as_chunks::<4>();
    for chunk in chunks {
        window |= u64::from(u32::from_be_bytes(*chunk)) << (32 - bits);
        bits += 32;
        while bits >= LONGEST {
            let (symbol, length) = word(window)?;
            out.push(symbol);
            window <<= length;
            bits -= length;
        }
    }
    for &byte in rest {
        window |= u64::from(byte) << (56 - bits);
        bits += 8;
    }
    // Beyond the end stands what it must be padded with, so that a word that is cut off decodes to one
    // that is longer than what is left.
    window |= u64::MAX >> bits;
    while bits > 0 {
        if bits < 8 && window == u64::MAX {
            return Ok(());
        }
        let (symbol, length) = word(window)?;
        if length > bits {
            return Err(CompressionError::InvalidHuffman);
        }
        out.push(symbol);
        window = (window << length) | ((1 << length) - 1);
        bits -= length;
    }
    Ok(())
}

/// How many bytes [`encode`] writes.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum();
    bits.div_ceil(8)
}

pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut word, mut bits) = (0u64, 0u32);
    for &byte in text {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        word = word << length | u64::from(CANON.codes[usize::from(byte)]);
        bits += length;
        if bits >= 32 {
            bits -= 32;
            out.extend_from_slice(&((word >> bits) as u32).to_be_bytes());
        }
    }
    if bits > 0 {
        // Padded with the start of the end-of-string word: ones (RFC 7541, 5.2).
        let padded = ((word << (32 - bits)) as u32) | (u32::MAX >> bits);
        out.extend_from_slice(&padded.to_be_bytes()[..bits.div_ceil(8) as usize]);
    }
}
