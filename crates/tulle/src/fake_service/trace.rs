//! Trace headers: what came with a request goes on to the upstreams.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Passed on as they came. `traceparent` is continued instead (see [`outgoing`]).
const PASSED_ON: [&str; 9] = [
    "tracestate",
    "baggage",
    "x-request-id",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// The trace headers for the calls that a request with the headers `incoming` leads to: W3C Trace
/// Context, level 1. A valid `traceparent` keeps its trace and flags and gets a new parent; without
/// one a trace starts here, and then a `tracestate` that came along does not go on (section 3.3).
pub fn outgoing(incoming: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in PASSED_ON {
        for value in incoming.get_all(name) {
            headers.append(HeaderName::from_static(name), value.clone());
        }
    }
    let came = incoming.get("traceparent").and_then(|v| v.to_str().ok()).and_then(continued);
    if came.is_none() {
        headers.remove("tracestate");
    }
    let parent = came.unwrap_or_else(|| {
        format!("00-{:032x}-{:016x}-01", rand::random::<u128>().max(1), rand::random::<u64>().max(1))
    });
    if let Ok(value) = HeaderValue::from_str(&parent) {
        headers.insert("traceparent", value);
    }
    headers
}

/// `traceparent` with a span of our own as the parent; `None` where it is not valid.
fn continued(value: &str) -> Option<String> {
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    let mut fields = value.trim().split('-');
    let (version, trace, parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let valid = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2)
        && (version != "00" || fields.next().is_none());
    valid.then(|| format!("00-{trace}-{:016x}-{flags}", rand::random::<u64>().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn a_trace_goes_on_under_a_new_parent() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let out = outgoing(&headers(&[
            ("traceparent", &parent),
            ("tracestate", "x=y"),
            ("b3", "1"),
            ("cookie", "c"),
        ]));
        let sent = out["traceparent"].to_str().unwrap();
        assert!(
            sent.starts_with(&format!("00-{trace}-")) && sent.ends_with("-01") && sent != parent,
            "{sent}"
        );
        assert_eq!(out["tracestate"], "x=y");
        assert_eq!(out["b3"], "1");
        assert!(!out.contains_key("cookie"));
    }

    #[test]
    fn a_trace_starts_where_none_is() {
        for bad in ["", "00-0-0-0", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
            let out = outgoing(&headers(&[("traceparent", bad), ("tracestate", "x=y")]));
            assert!(continued(out["traceparent"].to_str().unwrap()).is_some(), "{out:?}");
            assert!(!out.contains_key("tracestate"));
        }
    }
}
