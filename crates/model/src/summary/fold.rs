//! Paths without what differs from one request to the next, which may also say more of somebody than is to be kept.

use std::borrow::Cow;

use crate::path::{ambiguity, normal_form};

/// What stands for a segment that varies, as in the templates of policies. No path has it: `{` is encoded there.
pub const VARIABLE: &str = "{x}";
/// What stands for the rest of a path that is too long.
pub const REST: &str = "{x=**}";

/// How long what is kept of a path may be, in bytes, and in segments.
pub const LONGEST: usize = 256;
const MOST_SEGMENTS: usize = 16;
/// A longer segment is no name that somebody gave.
const LONGEST_NAME: usize = 48;
/// A segment of so many letters and digits, with some digits, is made by a machine.
const ID: usize = 20;
const DIGITS_OF_ID: usize = 3;
/// A segment with so many hexadecimal digits, one of them below ten, is.
const HEX: usize = 8;
/// So many digits in a row are a number of something.
const DIGITS: usize = 5;

/// The path of a request, without its query, folded.
pub fn fold(path: &str) -> String {
    let mut folded = String::new();
    fold_into(&mut folded, path);
    folded
}

/// The same, in the place of what is in `folded`.
pub fn fold_into(folded: &mut String, path: &str) {
    folded.clear();
    // What servers read differently stays as it is: rules that go by paths refuse it.
    let path = if ambiguity(path).is_some() { plain(path) } else { normal_form(path) };
    let Some(rest) = path.strip_prefix('/') else {
        return folded.push_str(if path == "*" { "*" } else { "/" });
    };
    for (index, segment) in rest.split('/').enumerate() {
        folded.push('/');
        // Parameters say who somebody is (`;jsessionid=`).
        let (name, parameters) = segment.split_once(';').map_or((segment, ""), |(name, _)| (name, ";"));
        let is_long = index >= MOST_SEGMENTS || folded.len() + name.len() + 1 > LONGEST;
        if is_long && !varies(name) {
            return folded.push_str(REST);
        }
        folded.push_str(if varies(name) { VARIABLE } else { name });
        folded.push_str(parameters);
    }
}

/// As it came, but for what would be taken for a variable.
fn plain(path: &str) -> Cow<'_, str> {
    match path.contains(['{', '}']) {
        true => path.replace('{', "%7B").replace('}', "%7D").into(),
        false => path.into(),
    }
}

/// Whether a segment looks like one of many: a number, a date, a UUID, a hexadecimal or long ID, an address of mail.
fn varies(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let (mut digits, mut row, mut hex, mut word) = (0, 0, 0, 0);
    let (mut separators, mut dashes) = (0, 0);
    for byte in bytes {
        row = if byte.is_ascii_digit() { row + 1 } else { 0 };
        if row >= DIGITS {
            return true;
        }
        digits += usize::from(byte.is_ascii_digit());
        hex += usize::from(byte.is_ascii_hexdigit());
        word += usize::from(byte.is_ascii_alphanumeric());
        dashes += usize::from(matches!(byte, b'-' | b'_'));
        separators += usize::from(matches!(byte, b'-' | b'.' | b'_' | b':' | b','));
    }
    let length = bytes.len();
    length > LONGEST_NAME
        || (digits > 0
            && (digits + separators == length
                || (hex >= HEX && hex + separators == length)
                || (length >= ID && digits >= DIGITS_OF_ID && word + dashes == length)))
        || (bytes.first() != Some(&b'@') && (bytes.contains(&b'@') || segment.contains("%40")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_varies_is_folded_and_names_stay() {
        let deep = "/a".repeat(40);
        let long = format!("/{}", "ab/".repeat(200));
        for (path, expected) in [
            ("/", "/"),
            ("", "/"),
            ("*", "*"),
            ("/items", "/items"),
            ("/items/", "/items/"),
            ("/items/42", "/items/{x}"),
            ("/items/42/reviews/7", "/items/{x}/reviews/{x}"),
            ("/v1/users", "/v1/users"),
            ("/2024-01-02/log", "/{x}/log"),
            ("/1.2.3", "/{x}"),
            ("/o/0b8a1c2d-9f3e-4d5c-8b7a-6f5e4d3c2b1a/x", "/o/{x}/x"),
            ("/o/507f1f77bcf86cd799439011", "/o/{x}"),
            ("/o/deadbeef", "/o/deadbeef"),
            ("/o/deadbee1", "/o/{x}"),
            ("/o/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/o/{x}"),
            ("/o/order-12345", "/o/{x}"),
            ("/o/order-123", "/o/order-123"),
            ("/u/ann@example.com/x", "/u/{x}/x"),
            ("/u/ann%40example.com", "/u/{x}"),
            ("/@scope/pkg", "/@scope/pkg"),
            ("/a/{x}", "/a/%7Bx%7D"),
            ("/%61/%7e", "/a/~"),
            // They mean several things, and still do.
            ("/a;jsessionid=71/b", "/a;/b"),
            ("/a//b", "/a//b"),
            ("/a/%2e%2e/{b}", "/a/%2e%2e/%7Bb%7D"),
            ("/a%2fb", "/a%2fb"),
        ] {
            assert_eq!(fold(path), expected, "{path}");
        }
        for path in [deep, long] {
            let folded = fold(&path);
            assert!(folded.ends_with("/{x=**}") && folded.len() <= LONGEST + 8, "{folded}");
        }
        assert_eq!(fold("/tulle.fake.v1.FakeService/Call"), "/tulle.fake.v1.FakeService/Call");
    }

    proptest! {
        #[test]
        fn what_is_folded_is_short_and_has_no_variable_of_its_own(path in "[ -~é/]{0,600}") {
            let folded = fold(&path);
            prop_assert!(folded.len() <= 3 * LONGEST, "{folded}");
            let rest = folded.replace(VARIABLE, "").replace(REST, "");
            prop_assert!(!rest.contains(['{', '}']), "{folded}");
        }
    }
}
