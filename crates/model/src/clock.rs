//! The time of a mesh: the server's clock, as a node that has asked for it counts it on.
//!
//! Certificates are dated by the server's clock. A node whose wall clock is wrong, or is set while it
//! runs, would refuse good certificates and renew for ever, so it takes the server's word for what time
//! it is, measured with the round trip in mind (as NTP does, RFC 5905), and adds a clock that nobody
//! sets. Its wall clock is only held against that, to say that one of the two is wrong.

use std::time::Duration;

use crate::columns::duration;

/// Two clocks that are further apart than that are worth a word; NTP keeps them within milliseconds.
pub const NOTABLE: Duration = Duration::from_secs(3);

/// How the server's clock stands to a clock of this host that nobody sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// What is added to the steady clock, in milliseconds, for the server's since the epoch.
    pub offset: i64,
    /// By how many milliseconds that may be wrong: half of the round trip.
    pub uncertainty: u64,
}

impl Anchor {
    /// From one question: asked and answered at these times of the steady clock, with this time of the
    /// server (all milliseconds). `None` where the answer makes no sense.
    pub fn measure(asked: i64, answered: i64, server: i64) -> Option<Self> {
        let round_trip = u64::try_from(answered.checked_sub(asked)?).ok()?;
        let middle = asked.checked_add((round_trip / 2).try_into().ok()?)?;
        Some(Self { offset: server.checked_sub(middle)?, uncertainty: round_trip.div_ceil(2) })
    }

    /// What is to be believed after another measurement: that one where it is sharper, or where both
    /// cannot be right: then the server's clock was set, or the two have drifted apart.
    pub fn after(self, new: Self) -> Self {
        let apart = self.offset.abs_diff(new.offset);
        let contradiction = apart > self.uncertainty.saturating_add(new.uncertainty);
        if contradiction || new.uncertainty <= self.uncertainty { new } else { self }
    }
}

/// Whether a clock that is `ahead` by so many milliseconds (behind where it is negative) is certain to be
/// off by a notable time.
pub fn is_notable(ahead: i64, uncertainty: u64) -> bool {
    u128::from(ahead.unsigned_abs().saturating_sub(uncertainty)) >= NOTABLE.as_millis()
}

/// `2h ahead of`, `35s behind`: for sentences about a clock and another.
pub fn describe(ahead: i64) -> String {
    let seconds = i64::try_from(ahead.unsigned_abs().div_ceil(1000)).unwrap_or(i64::MAX);
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    format!("{} {side}", duration(seconds))
}

/// The time at which a certificate of the mesh is checked, in seconds since the epoch: now, or its
/// beginning where that is yet to come. Authorities date no certificate ahead, so one that is not valid
/// yet only says that its issuer's clock was ahead of this one, or was set back since. Its end is kept to.
pub fn verification_time(now: u64, not_before: Option<i64>) -> u64 {
    now.max(not_before.and_then(|at| u64::try_from(at).ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_round_trip_is_taken_off() {
        let anchor = Anchor::measure(1_000, 1_200, 500_000).unwrap();
        assert_eq!(anchor, Anchor { offset: 498_900, uncertainty: 100 });
        assert_eq!(Anchor::measure(1_000, 999, 5), None, "answered before it was asked");
        assert_eq!(Anchor::measure(i64::MIN, i64::MAX, i64::MAX), None);
    }

    #[test]
    fn the_sharper_measurement_stays_until_it_is_contradicted() {
        let sharp = Anchor { offset: 10_000, uncertainty: 5 };
        let vague = Anchor { offset: 10_100, uncertainty: 200 };
        assert_eq!(sharp.after(vague), sharp);
        assert_eq!(vague.after(sharp), sharp);
        let set = Anchor { offset: 10_000 + 7_200_000, uncertainty: 200 };
        assert_eq!(sharp.after(set), set, "the server's clock was set");
        let drifted = Anchor { offset: 10_020, uncertainty: 6 };
        assert_eq!(sharp.after(drifted), drifted);
    }

    #[test]
    fn a_slow_answer_is_no_skew() {
        assert!(!is_notable(2_900, 0) && is_notable(3_000, 0) && is_notable(-3_000, 0));
        assert!(!is_notable(4_000, 1_500) && is_notable(i64::MIN, u64::MAX / 4));
        assert_eq!(describe(7_200_000), "2h ahead of");
        assert_eq!(describe(-34_100), "35s behind");
    }

    #[test]
    fn a_beginning_in_the_future_is_not_held_against_a_certificate() {
        assert_eq!(verification_time(100, Some(50)), 100);
        assert_eq!(verification_time(100, Some(150)), 150);
        assert_eq!(verification_time(100, None), 100);
        assert_eq!(verification_time(100, Some(-5)), 100);
    }
}
