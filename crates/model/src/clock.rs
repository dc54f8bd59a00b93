//! The time of a mesh: the server's clock, as a node that has asked for it counts it on.
//!
//! Certificates are dated by the server's clock. A node whose wall clock is wrong, or is set while it
//! runs, would refuse good certificates and renew for ever, so it takes the server's word for what time
//! it is, measured with the round trip in mind (as NTP does, RFC 5905), and adds a clock that nobody
//! sets. Its wall clock is only held against that, to say that one of the two is wrong.

use std::time::Duration;

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

/// How long two clocks have to differ before that is told: where the clocks of a whole host are set, its
/// parts notice one after the other.
const SETTLED_MILLIS: i64 = 2000;

/// Says when two clocks begin to differ, and when they agree again.
#[derive(Debug, Clone, Copy, Default)]
pub struct SkewWatch {
    /// Since when, by a clock that nobody sets.
    since: Option<i64>,
    told: bool,
}

/// What there is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkewNews {
    Differ,
    Agree,
}

impl SkewWatch {
    /// Takes note of how far one is ahead at `now`, milliseconds of a clock that nobody sets.
    pub fn look(&mut self, ahead: i64, uncertainty: u64, now: i64) -> Option<SkewNews> {
        if !is_notable(ahead, uncertainty) {
            self.since = None;
            return std::mem::take(&mut self.told).then_some(SkewNews::Agree);
        }
        let since = *self.since.get_or_insert(now);
        let news = !self.told && now.saturating_sub(since) >= SETTLED_MILLIS;
        self.told |= news;
        news.then_some(SkewNews::Differ)
    }
}

/// `2h ahead of`, `35s behind`: for sentences about a clock and another.
pub fn describe(ahead: i64) -> String {
    let seconds = ahead.unsigned_abs().saturating_add(500) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let parts = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds % 60, "s")];
    // The largest unit and the next one: nobody needs more.
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|(count, _)| *count > 0);
    let text: String = shown.map(|(count, unit)| format!("{count}{unit}")).collect();
    format!(
        "{} {}",
        if text.is_empty() { "0s" } else { &text },
        if ahead < 0 { "behind" } else { "ahead of" }
    )
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
        let at_the_edge = Anchor { offset: 10_000 + 205, uncertainty: 200 };
        assert_eq!(sharp.after(at_the_edge), sharp, "both can be right");
    }

    #[test]
    fn a_slow_answer_is_no_skew() {
        assert!(!is_notable(2_900, 0) && is_notable(3_000, 0) && is_notable(-3_000, 0));
        assert!(!is_notable(4_000, 1_500) && is_notable(i64::MIN, u64::MAX / 4));
        assert_eq!(describe(7_200_000), "2h ahead of");
        assert_eq!(describe(-34_600), "35s behind");
        assert_eq!(describe(7_199_900), "2h ahead of");
        assert_eq!(describe(90_061_000), "1d1h ahead of");
        assert_eq!(describe(-100), "0s behind");
        assert_eq!(
            (describe(3_600_000 + 120_000).as_str(), describe(83_000).as_str()),
            ("1h2m ahead of", "1m23s ahead of")
        );
    }

    #[test]
    fn a_difference_is_told_once_it_stays() {
        let mut watch = SkewWatch::default();
        assert_eq!(watch.look(7_200_000, 0, 0), None);
        assert_eq!(watch.look(100, 0, 1000), None, "both were set");
        assert_eq!(watch.look(7_200_000, 0, 2000), None);
        assert_eq!(watch.look(7_200_000, 0, 3999), None);
        assert_eq!(watch.look(7_200_000, 0, 4000), Some(SkewNews::Differ));
        assert_eq!(watch.look(7_200_000, 0, 9000), None, "it is told once");
        assert_eq!(watch.look(0, 0, 9500), Some(SkewNews::Agree));
        assert_eq!(watch.look(0, 0, 9600), None);
    }

    #[test]
    fn a_beginning_in_the_future_is_not_held_against_a_certificate() {
        assert_eq!(verification_time(100, Some(50)), 100);
        assert_eq!(verification_time(100, Some(150)), 150);
        assert_eq!(verification_time(100, None), 100);
        assert_eq!(verification_time(100, Some(-5)), 100);
    }
}
