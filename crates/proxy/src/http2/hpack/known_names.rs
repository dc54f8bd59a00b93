//! What the encoder knows of names before it has seen one: their place in the static table (RFC 7541,
//! appendix A), and how their values behave.

/// How the values of a name behave from one request to the next, and so whether they are worth an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// The same few values.
    Steady,
    /// Some repeat, most do not.
    Fickle,
    /// None repeats.
    Unique,
    /// Must not be found out by trying what compresses well (RFC 7541, 7.1.3).
    Secret,
    /// A secret if it is short enough to be guessed.
    Cookie,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct KnownName {
    /// Zero if the name is not in the static table.
    pub index: usize,
    pub habit: Habit,
}

#[rustfmt::skip]
const NAMES: [(&str, usize, Habit); 70] = [
    (":authority", 1, Habit::Steady),
    (":method", 2, Habit::Steady),
    (":path", 4, Habit::Fickle),
    (":scheme", 6, Habit::Steady),
    (":status", 8, Habit::Steady),
    ("accept-charset", 15, Habit::Steady),
    ("accept-encoding", 16, Habit::Steady),
    ("accept-language", 17, Habit::Steady),
    ("accept-ranges", 18, Habit::Steady),
    ("accept", 19, Habit::Steady),
    ("access-control-allow-origin", 20, Habit::Steady),
    ("age", 21, Habit::Fickle),
    ("allow", 22, Habit::Steady),
    ("authorization", 23, Habit::Secret),
    ("cache-control", 24, Habit::Steady),
    ("content-disposition", 25, Habit::Steady),
    ("content-encoding", 26, Habit::Steady),
    ("content-language", 27, Habit::Steady),
    ("content-length", 28, Habit::Fickle),
    ("content-location", 29, Habit::Steady),
    ("content-range", 30, Habit::Fickle),
    ("content-type", 31, Habit::Steady),
    ("cookie", 32, Habit::Cookie),
    ("date", 33, Habit::Fickle),
    ("etag", 34, Habit::Fickle),
    ("expect", 35, Habit::Steady),
    ("expires", 36, Habit::Fickle),
    ("from", 37, Habit::Steady),
    ("host", 38, Habit::Steady),
    ("if-match", 39, Habit::Fickle),
    ("if-modified-since", 40, Habit::Fickle),
    ("if-none-match", 41, Habit::Fickle),
    ("if-range", 42, Habit::Fickle),
    ("if-unmodified-since", 43, Habit::Fickle),
    ("last-modified", 44, Habit::Fickle),
    ("link", 45, Habit::Steady),
    ("location", 46, Habit::Fickle),
    ("max-forwards", 47, Habit::Steady),
    ("proxy-authenticate", 48, Habit::Steady),
    ("proxy-authorization", 49, Habit::Secret),
    ("range", 50, Habit::Fickle),
    ("referer", 51, Habit::Steady),
    ("refresh", 52, Habit::Steady),
    ("retry-after", 53, Habit::Fickle),
    ("server", 54, Habit::Steady),
    ("set-cookie", 55, Habit::Unique),
    ("strict-transport-security", 56, Habit::Steady),
    ("transfer-encoding", 57, Habit::Steady),
    ("user-agent", 58, Habit::Steady),
    ("vary", 59, Habit::Steady),
    ("via", 60, Habit::Steady),
    ("www-authenticate", 61, Habit::Steady),
    ("x-request-id", 0, Habit::Unique),
    ("x-correlation-id", 0, Habit::Unique),
    ("traceparent", 0, Habit::Unique),
    ("tracestate", 0, Habit::Unique),
    ("b3", 0, Habit::Unique),
    ("x-b3-traceid", 0, Habit::Unique),
    ("x-b3-spanid", 0, Habit::Unique),
    ("x-b3-parentspanid", 0, Habit::Unique),
    ("x-cloud-trace-context", 0, Habit::Unique),
    ("uber-trace-id", 0, Habit::Unique),
    ("x-amzn-trace-id", 0, Habit::Unique),
    ("x-datadog-trace-id", 0, Habit::Unique),
    ("x-datadog-parent-id", 0, Habit::Unique),
    ("grpc-trace-bin", 0, Habit::Unique),
    ("idempotency-key", 0, Habit::Unique),
    ("grpc-timeout", 0, Habit::Fickle),
    ("tulle-time-left", 0, Habit::Fickle),
    ("x-envoy-upstream-service-time", 0, Habit::Fickle),
];

/// For each hash, the place in [`NAMES`] and one: no two names have the same.
static PLACES: [u8; 256] = places();

const fn places() -> [u8; 256] {
    let mut places = [0; 256];
    let mut at = 0;
    while at < NAMES.len() {
        let hash = hash(NAMES[at].0.as_bytes());
        assert!(places[hash] == 0, "choose other factors");
        at += 1;
        places[hash] = at as u8;
    }
    places
}

/// The factors were found by trying. The name must not be empty.
const fn hash(name: &[u8]) -> usize {
    let length = name.len();
    let sum = length * 104
        + name[0] as usize * 117
        + name[length - 1] as usize * 181
        + name[length / 2] as usize * 53;
    sum & 0xff
}

pub(super) fn get(name: &str) -> KnownName {
    const UNKNOWN: KnownName = KnownName { index: 0, habit: Habit::Steady };
    if name.is_empty() {
        return UNKNOWN;
    }
    let place = usize::from(PLACES[hash(name.as_bytes())]);
    match place.checked_sub(1).and_then(|at| NAMES.get(at)) {
        Some(&(known, index, habit)) if known == name => KnownName { index, habit },
        _ => UNKNOWN,
    }
}
