//! The forms of texts in Kubernetes' API: names, labels, ports by name.

use crate::name::{dns_label_problem, dns_subdomain_problem};

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// Letters, digits, `-`, `_` and `.`, at both ends a letter or digit.
fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first)
        && alphanumeric(*last)
        && bytes.iter().all(|b| alphanumeric(*b) || b"-_.".contains(b))
}

/// What makes a text no name of an object that may be almost anything (Kubernetes, IsValidPathSegmentName): a segment of a path.
pub(crate) fn path_segment_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 253 || name == "." || name == ".." {
        return Some("must have 1 to 253 characters, and be neither `.` nor `..`");
    }
    name.chars()
        .any(|c| matches!(c, '/' | '%') || c.is_control())
        .then_some("must have no `/`, `%` or control characters")
}

/// What makes a text no key of labels and annotations (Kubernetes, IsQualifiedName).
pub(crate) fn qualified_name_problem(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(problem) = prefix.and_then(dns_subdomain_problem) {
        return Some(format!("the part before the `/` {problem}"));
    }
    if name.len() > 63 {
        return Some("must have at most 63 characters (after the `/`)".to_owned());
    }
    (!is_word(name)).then(|| {
        "must consist of letters, digits, `-`, `_` and `.`, start and end with a letter or digit, and may have a DNS name and `/` before it".to_owned()
    })
}

/// What makes a text no value of a label (Kubernetes, IsValidLabelValue).
pub(crate) fn label_value_problem(value: &str) -> Option<&'static str> {
    if value.len() > 63 {
        return Some("must have at most 63 characters");
    }
    (!value.is_empty() && !is_word(value)).then_some(
        "must consist of letters, digits, `-`, `_` and `.`, and start and end with a letter or digit",
    )
}

/// What makes a name no name of a Service (RFC 1035: as a DNS label, with a letter first).
pub(crate) fn dns_1035_label_problem(name: &str) -> Option<&'static str> {
    dns_label_problem(name)
        .or_else(|| name.starts_with(|c: char| c.is_ascii_digit()).then_some("must start with a letter"))
}

/// What makes a text no name of a port (RFC 6335, IANA service names).
pub(crate) fn port_name_problem(name: &str) -> Option<&'static str> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 15 {
        return Some("must have 1 to 15 characters");
    }
    if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') {
        return Some("must consist of lower case letters, digits and `-`");
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        return Some("must have at least one letter");
    }
    if name.starts_with('-') || name.ends_with('-') || name.contains("--") {
        return Some("must not start or end with `-`, nor have two of them in a row");
    }
    None
}

/// What makes a text no name of a header (RFC 9110, token).
pub(crate) fn header_name_problem(name: &str) -> Option<&'static str> {
    let token = |b: u8| alphanumeric(b) || b"!#$%&'*+-.^_`|~".contains(&b);
    (!name.bytes().all(token)).then_some("must consist of letters, digits and !#$%&'*+-.^_`|~")
}

/// What makes a text no host name of a route: a DNS name, with `*.` before it perhaps.
pub(crate) fn hostname_problem(hostname: &str) -> Option<String> {
    if hostname.parse::<std::net::IpAddr>().is_ok() {
        return Some("must be a DNS name, not an IP address".to_owned());
    }
    let name = hostname.strip_prefix("*.").unwrap_or(hostname);
    dns_subdomain_problem(name).map(|problem| format!("{problem} (in each part; only the first may be `*`)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_keys_and_values_are_kubernetes() {
        for good in ["app", "app.kubernetes.io/name", "a_b", "A", "1"] {
            assert_eq!(qualified_name_problem(good), None, "{good}");
        }
        assert_eq!(qualified_name_problem(&format!("a/{}", "b".repeat(63))), None);
        assert_eq!(label_value_problem(&"a".repeat(63)), None);
        for bad in ["", "/a", "a/", "a/b/c", "-a", "a b", "A.B/c", &"a".repeat(64)] {
            assert!(qualified_name_problem(bad).is_some(), "{bad}");
        }
        for good in ["", "v1", "a.b_c-d"] {
            assert_eq!(label_value_problem(good), None, "{good}");
        }
        for bad in ["-", "a/b", "a ", &"a".repeat(64)] {
            assert!(label_value_problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn port_names_are_ianas() {
        for good in ["http", "h2c", "a-b", "a", "abcdefghijklmno"] {
            assert_eq!(port_name_problem(good), None, "{good}");
        }
        for bad in ["", "80", "-a", "a-", "a--b", "HTTP", "a.b", "abcdefghijklmnop"] {
            assert!(port_name_problem(bad).is_some(), "{bad}");
        }
    }
}
