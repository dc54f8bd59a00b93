//! How long experiments of the chaos suite take, and how they tell what they saw.

use std::time::Duration;

use crate::harness::tulle;

/// Whether the suite runs in full (`cargo xtask chaos`) or in the short form that every test run has.
pub fn full() -> bool {
    std::env::var_os("TULLE_CHAOS_FULL").is_some()
}

/// The length of an experiment in the form that runs.
pub fn length(short: Duration, long: Duration) -> Duration {
    if full() { long } else { short }
}

/// Prints one figure of an experiment, in one form for all of them.
pub fn figure(experiment: &str, what: &str, value: impl std::fmt::Display) {
    println!("chaos | {experiment} | {what} | {value}");
}

/// Whether requests beside an abuser were answered in the time that is promised, which is promised of the release
/// profile; `usual` is their p99 without it, in ms.
pub fn is_prompt(p99: f64, usual: f64) -> bool {
    p99 < 50.0 || p99 <= 3.0 * usual || !is_release()
}

/// Other profiles' code is several times slower and larger.
pub fn is_release() -> bool {
    tulle().components().any(|part| part.as_os_str() == "release")
}
