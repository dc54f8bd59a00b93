//! The choice of an endpoint: the less loaded of two drawn at random (power of two choices).

/// The index, below `len`, of the less loaded of two different candidates; `None` where every
/// candidate is excluded.
///
/// - `load`: what is in flight to a candidate, in any unit. Called at most twice.
/// - `random`: 64 random bits, fresh for every call.
/// - `exclude`: candidates that must not be picked, such as those that a request was tried at. It is
///   called for two of them as long as neither is excluded, else for all.
pub fn pick(
    len: usize,
    load: impl Fn(usize) -> u64,
    random: u64,
    exclude: impl Fn(usize) -> bool,
) -> Option<usize> {
    let lighter = |a: usize, b: usize| if load(b) < load(a) { b } else { a };
    match len {
        0 => return None,
        1 => return (!exclude(0)).then_some(0),
        _ => {
            let (a, b) = two_of(len, random);
            if !exclude(a) && !exclude(b) {
                return Some(lighter(a, b));
            }
        }
    }
    // Rare: draw again among those that are left, so that the neighbours of an excluded candidate
    // don't inherit its share.
    let left = || (0..len).filter(|&i| !exclude(i));
    match left().count() {
        0 => None,
        1 => left().next(),
        count => {
            // Other bits: those that drew an excluded one would favour its like.
            let (a, b) = two_of(count, remix(random));
            Some(lighter(left().nth(a)?, left().nth(b)?))
        }
    }
}

/// Two different numbers below `len`, which is at least 2. In random order, so that the first may
/// win a tie.
fn two_of(len: usize, random: u64) -> (usize, usize) {
    let first = below(len, random >> 32);
    let second = below(len - 1, random & 0xffff_ffff);
    (first, if second >= first { second + 1 } else { second })
}

/// Bits that have nothing to do with those given (the finalizer of SplitMix64).
fn remix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A number below `len` out of 32 random bits.
fn below(len: usize, bits: u64) -> usize {
    ((bits as u128 * len as u128) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SplitMix64: enough for a test, and the same at every run.
    fn randoms(seed: u64) -> impl Iterator<Item = u64> {
        (1..).map(move |i: u64| remix(seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    }

    #[test]
    fn idle_candidates_get_equal_shares() {
        for excluded in [None, Some(3)] {
            let mut counts = [0u32; 7];
            for random in randoms(1).take(70_000) {
                counts[pick(7, |_| 0, random, |i| Some(i) == excluded).unwrap()] += 1;
            }
            let share = if excluded.is_some() { 70_000.0 / 6.0 } else { 10_000.0 };
            for (i, &count) in counts.iter().enumerate() {
                let wanted = if Some(i) == excluded { 0.0 } else { share };
                assert!((f64::from(count) - wanted).abs() < 400.0, "{counts:?}");
            }
        }
    }

    #[test]
    fn the_most_loaded_is_never_picked() {
        let load = |i: usize| if i == 2 { 10 } else { 1 };
        assert!(randoms(2).take(10_000).all(|r| pick(5, load, r, |_| false) != Some(2)));
    }

    proptest! {
        #[test]
        fn picks_what_is_allowed(len in 0usize..40, random: u64, mask: u64) {
            let excluded = |i: usize| mask >> i & 1 == 1;
            let picked = pick(len, |i| i as u64, random, excluded);
            prop_assert_eq!(picked.is_some(), (0..len).any(|i| !excluded(i)));
            if let Some(i) = picked {
                prop_assert!(i < len && !excluded(i));
            }
        }
    }
}
