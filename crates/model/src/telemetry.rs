//! Latency histograms: the bounds that nodes and servers share, and quantiles out of them.

/// Upper bounds of the latency buckets in seconds; one more bucket has no bound.
pub const LATENCY_BOUNDS: [f64; 31] = [
    0.0001, 0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02,
    0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0,
];

/// How many buckets a histogram has.
pub const LATENCY_BUCKETS: usize = LATENCY_BOUNDS.len() + 1;

/// The bucket that counts a latency of that many seconds.
pub fn latency_bucket(seconds: f64) -> usize {
    LATENCY_BOUNDS.partition_point(|&bound| bound < seconds)
}

/// The latency in seconds below which the share `quantile` (0 to 1) of the counted requests lies,
/// interpolated inside its bucket; `None` where nothing was counted.
pub fn latency_quantile(buckets: &[u64], quantile: f64) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = quantile * total as f64;
    let mut below = 0u64;
    for (i, &count) in buckets.iter().enumerate() {
        if count > 0 && (below + count) as f64 >= rank {
            let low = if i == 0 { 0.0 } else { LATENCY_BOUNDS[i.min(LATENCY_BOUNDS.len()) - 1] };
            let Some(&high) = LATENCY_BOUNDS.get(i) else { return Some(low) };
            let share = ((rank - below as f64) / count as f64).clamp(0.0, 1.0);
            return Some(low + (high - low) * share);
        }
        below += count;
    }
    LATENCY_BOUNDS.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_the_bucket_that_holds_them() {
        let mut buckets = [0; LATENCY_BUCKETS];
        for _ in 0..99 {
            buckets[latency_bucket(0.0012)] += 1;
        }
        buckets[latency_bucket(100.0)] += 1;
        let p50 = latency_quantile(&buckets, 0.5).unwrap();
        assert!((0.001..=0.0015).contains(&p50), "{p50}");
        assert_eq!(latency_quantile(&buckets, 1.0), Some(60.0));
        assert_eq!(latency_quantile(&[0; LATENCY_BUCKETS], 0.5), None);
        assert_eq!(latency_bucket(0.0001), 0);
    }
}
