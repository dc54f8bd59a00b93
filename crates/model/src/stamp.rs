//! By what certificates show to whom they were issued: the beginning of their serial numbers (RFC 5280, section
//! 4.1.2.2) is drawn anew each time a node joins, and is the same in all that the server signs for it from then on. To take
//! them all back, the server has to say this one number, and to remember none of the certificates.

use std::fmt;
use std::str::FromStr;

/// Of one joining of a node. It is no secret, and says nothing of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp(pub u64);

/// How many bytes of a serial number are drawn for each certificate.
pub const UNIQUE: usize = SERIAL - 1 - size_of::<u64>();
/// The longest that a serial number may be.
const SERIAL: usize = 20;
/// Keeps the number positive and of one length, and its form from being taken for another one.
const FIRST: u8 = 0x54;

impl Stamp {
    /// A serial number with it, big-endian.
    pub fn serial(self, unique: [u8; UNIQUE]) -> [u8; SERIAL] {
        let mut serial = [FIRST; SERIAL];
        serial[1..=size_of::<u64>()].copy_from_slice(&self.0.to_be_bytes());
        serial[1 + size_of::<u64>()..].copy_from_slice(&unique);
        serial
    }

    /// That of a serial number, where it has one: other authorities' have none.
    pub fn of_serial(serial: &[u8]) -> Option<Self> {
        match serial.split_first() {
            Some((&FIRST, rest)) if serial.len() == SERIAL => {
                rest.first_chunk().map(|bytes| Self(u64::from_be_bytes(*bytes)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text is no stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("16 hexadecimal digits are expected")]
pub struct InvalidStamp;

impl FromStr for Stamp {
    type Err = InvalidStamp;

    fn from_str(text: &str) -> Result<Self, InvalidStamp> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(InvalidStamp)
    }
}

/// Those whose certificates count no longer, though their time is not over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked(Box<[Stamp]>);

impl Revoked {
    /// How many there may be. They leave when what was issued with them has expired.
    pub const MOST: usize = 10_000;

    /// Those, in whatever order.
    pub fn of(stamps: impl IntoIterator<Item = Stamp>) -> Self {
        let mut stamps: Vec<_> = stamps.into_iter().collect();
        stamps.sort_unstable();
        stamps.dedup();
        Self(stamps.into())
    }

    /// Whether a certificate with that is taken back. One without is of nobody who could be named.
    pub fn includes(&self, stamp: Option<Stamp>) -> bool {
        stamp.is_some_and(|stamp| self.0.binary_search(&stamp).is_ok())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Stamp> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_where_it_was_put() {
        for number in [0, 1, u64::MAX, 0x8000_0000_0000_0000, 0x0123_4567_89ab_cdef] {
            let stamp = Stamp(number);
            for unique in [[0; UNIQUE], [0xff; UNIQUE]] {
                let serial = stamp.serial(unique);
                assert_eq!(Stamp::of_serial(&serial), Some(stamp));
                assert_eq!(serial[0] & 0x80, 0, "a serial number is positive");
                assert_eq!(Stamp::of_serial(&serial[..19]), None);
                assert_eq!(Stamp::of_serial(&[&serial[..], &[0]].concat()), None);
                let mut other = serial;
                other[0] = 1;
                assert_eq!(Stamp::of_serial(&other), None);
            }
            assert_eq!(stamp.to_string().parse(), Ok(stamp));
        }
        assert_eq!(Stamp::of_serial(&[]), None);
        for text in ["", "0", "000000000000000g", "+00000000000000f", "00000000000000000"] {
            assert_eq!(text.parse::<Stamp>(), Err(InvalidStamp), "{text}");
        }
    }

    #[test]
    fn only_what_is_named_is_revoked() {
        let revoked = Revoked::of([Stamp(7), Stamp(3), Stamp(7), Stamp(u64::MAX)]);
        assert_eq!(revoked.iter().collect::<Vec<_>>(), [Stamp(3), Stamp(7), Stamp(u64::MAX)]);
        for (stamp, included) in [(Some(Stamp(7)), true), (Some(Stamp(4)), false), (None, false)] {
            assert_eq!(revoked.includes(stamp), included, "{stamp:?}");
        }
        assert!(Revoked::default().is_empty() && !Revoked::default().includes(Some(Stamp(0))));
    }
}
