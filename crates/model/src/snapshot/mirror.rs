//! Copies of requests (Gateway API v1.6, HTTPRequestMirrorFilter).

use super::{BackendTarget, Spoken};

/// Sends copies of requests to another service as well, whose answers nobody sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Its place among the filters of its rule or backend.
    pub index: u32,
    /// Nothing is sent where it is invalid.
    pub target: BackendTarget,
    /// `None`: it leads nowhere, or the server is older and does not say.
    pub spoken: Option<Spoken>,
    pub share: Share,
}

/// A part of all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    numerator: u32,
    denominator: u32,
}

impl Share {
    pub const ALL: Self = Self { numerator: 1, denominator: 1 };

    /// `None`: it is no part, but more than all, or of nothing.
    pub fn new(numerator: u32, denominator: u32) -> Option<Self> {
        (denominator > 0 && numerator <= denominator).then_some(Self { numerator, denominator })
    }

    pub fn numerator(self) -> u32 {
        self.numerator
    }

    pub fn denominator(self) -> u32 {
        self.denominator
    }

    /// Whether a request is one of them that drew that number among all of `u64`.
    pub fn takes(self, random: u64) -> bool {
        let drawn = (u128::from(random) * u128::from(self.denominator)) >> 64;
        drawn < u128::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_as_large_as_it_says() {
        for (numerator, denominator) in [(0, 1), (1, 1), (1, 3), (2, 3), (5, 1000), (u32::MAX, u32::MAX)] {
            let share = Share::new(numerator, denominator).unwrap();
            // Numbers that lie as far from each other as they can.
            let count = 30_000u64;
            let taken = (0..count).filter(|i| share.takes(i * (u64::MAX / count))).count() as u64;
            let expected = count * u64::from(numerator) / u64::from(denominator);
            assert!(taken.abs_diff(expected) <= 1, "{taken} of {numerator}/{denominator}");
        }
        assert!(Share::ALL.takes(0) && Share::ALL.takes(u64::MAX));
        assert!(!Share::new(0, 100).unwrap().takes(0));
        assert_eq!((Share::new(1, 0), Share::new(2, 1)), (None, None));
    }
}
