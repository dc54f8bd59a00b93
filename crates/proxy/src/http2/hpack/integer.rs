//! Integers with a prefix (RFC 7541, 5.1), and the bytes of a block.

use super::CompressionError;

/// What no integer of a sane block reaches: lengths and indices are bounded by the block and the table.
const LIMIT: usize = 1 << 28;

/// What is left of a block.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(block: &'a [u8]) -> Self {
        Self { rest: block }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn byte(&mut self) -> Result<u8, CompressionError> {
        let (&byte, rest) = self.rest.split_first().ok_or(CompressionError::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], CompressionError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(CompressionError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// An integer whose first byte keeps it in its lowest `prefix` bits.
    #[inline]
    pub(super) fn integer(&mut self, prefix: u32) -> Result<usize, CompressionError> {
        let most = (1usize << prefix) - 1;
        let first = usize::from(self.byte()?) & most;
        if first < most { Ok(first) } else { self.continued(most) }
    }

    /// The bytes that follow a full prefix: seven bits each, the lowest first. Four are enough for
    /// anything within the limit, and an endless run of zeros ends here too.
    fn continued(&mut self, prefix: usize) -> Result<usize, CompressionError> {
        let mut value = prefix;
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(self.byte()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return if value < LIMIT { Ok(value) } else { Err(CompressionError::IntegerOverflow) };
            }
        }
        Err(CompressionError::IntegerOverflow)
    }
}

/// Writes an integer into the lowest `prefix` bits of a byte that starts with `flags`, and on.
#[inline]
pub(super) fn encode(value: usize, prefix: u32, flags: u8, out: &mut Vec<u8>) {
    let most = (1usize << prefix) - 1;
    if value < most {
        out.push(flags | value as u8);
    } else {
        encode_continued(value - most, flags | most as u8, out);
    }
}

fn encode_continued(mut value: usize, first: u8, out: &mut Vec<u8>) {
    out.push(first);
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
