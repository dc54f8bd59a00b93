//! Times as API objects write them (RFC 3339, in whole seconds of UTC), and as nodes and the store have them: since the epoch.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// The time now.
pub fn now() -> String {
    text(Timestamp::now())
}

/// A time in seconds since the epoch; the epoch itself where there is no such time.
pub fn at(seconds: impl TryInto<i64>) -> String {
    let time = seconds.try_into().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    text(time.unwrap_or_default())
}

/// A time in milliseconds since the epoch, with these.
pub fn at_millis(millis: u64) -> String {
    let time = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    time.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Since the epoch.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Since the epoch.
pub fn millis(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
