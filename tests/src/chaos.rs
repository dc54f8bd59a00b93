//! How long experiments of the chaos suite take, and how they tell what they saw.

use std::time::Duration;

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
