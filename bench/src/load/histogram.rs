//! Latencies, counted in buckets whose width grows with the value: 128 to each power of two, so that
//! no value is told wrong by more than 0.4 %.

const BITS: u32 = 7;
const PER_POWER: usize = 1 << BITS;
const BUCKETS: usize = PER_POWER * (64 - BITS as usize + 1);

/// Counts of values.
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Histogram {
    /// One without values.
    pub fn new() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, sum: 0, max: 0 }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.buckets[bucket(value)] += 1;
        self.count += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
    }

    /// The value that this share of all values does not exceed; 0 without values.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(index).min(self.max);
            }
        }
        0
    }

    /// The mean; 0 without values.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.max
    }
}

fn bucket(value: u64) -> usize {
    if value < PER_POWER as u64 {
        return value as usize;
    }
    let shift = value.ilog2() - BITS;
    PER_POWER * (shift as usize + 1) + (value >> shift) as usize - PER_POWER
}

/// The value in the middle of a bucket.
fn middle(index: usize) -> u64 {
    let (power, within) = (index / PER_POWER, index % PER_POWER);
    if power == 0 {
        return within as u64;
    }
    let shift = power as u32 - 1;
    ((PER_POWER + within) as u64) << shift | (1 << shift >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_told_wrong_by_more_than_a_half_percent() {
        let mut value = 1_u64;
        while value < u64::MAX / 3 {
            for value in [value - 1, value, value + 1, value + value / 3] {
                let told = middle(bucket(value));
                assert!(told.abs_diff(value) as f64 <= value as f64 * 0.005, "{value} {told}");
            }
            value *= 2;
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile(0.99), histogram.max()), (0, 0));
        for value in 1..=100_000 {
            histogram.record(value);
        }
        for (share, exact) in [(0.5, 50_000.0), (0.9, 90_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let told = histogram.quantile(share) as f64;
            assert!((told - exact).abs() <= exact * 0.01, "{share} {told}");
        }
        assert_eq!(histogram.quantile(1.0), 100_000);
        assert!((histogram.mean() - 50_000.5).abs() < 0.001);
    }
}
