//! The one form of a request's path that routes, and policies later, decide on.
//!
//! Many texts name the same resource. [`normal_form`] brings them into one (RFC 3986, section 6.2.2): what needs
//! no percent-encoding is not encoded, what needs it is, with hexadecimal digits in capitals, and dot segments
//! are removed. A `%` without two digits stands for itself, which is `%25`. What means something else than the byte
//! does stays as it came: `%2F`, `//`, `;`. It is for decisions only: the application gets the bytes that the client sent.
//!
//! Dot segments are where readings differ most, and with them what a path stands below. A port whose rules
//! go by paths therefore refuses requests that have any ([`has_dot_segments`]).

mod ambiguity;

use std::borrow::Cow;

pub(crate) use self::ambiguity::ambiguity_but;
pub use self::ambiguity::{Ambiguities, Ambiguity, ambiguity};

/// Whether all servers read a path alike, and it is in its normal form: one look through. Of others, [`ambiguity`] and
/// [`normal_form`] say more.
#[inline]
pub(crate) fn is_plain(path: &str) -> bool {
    path.starts_with('/') && all_stand(path, &READ_ALIKE)
}

/// The normal form of a path without its query. A path that is in it already costs one look through.
pub fn normal_form(path: &str) -> Cow<'_, str> {
    if is_normal(path) { Cow::Borrowed(path) } else { Cow::Owned(normalize(path)) }
}

/// Whether nothing has to be done: there is neither a `%` nor what should be one, and no segment begins with a
/// dot.
fn is_normal(path: &str) -> bool {
    all_stand(path, &NORMAL)
}

/// Whether all bytes of a path may stand where they do, by their classes.
#[inline(always)]
fn all_stand(path: &str, classes: &[u8; 256]) -> bool {
    // What may not come next.
    let mut barred = 0;
    path.bytes().all(|byte| {
        let class = classes[usize::from(byte)];
        let is_so = class != 0 && barred & class == 0;
        barred = (class & SLASH) << 1;
        is_so
    })
}

/// Of each byte: nothing where it does not stand for itself in a path; whether it is a slash, and whether none may be before it.
const NORMAL: [u8; 256] = classes(false);
/// The same of paths that all servers read alike: some end a segment at `;`, or take two slashes for one.
const READ_ALIKE: [u8; 256] = classes(true);

const PLAIN: u8 = 1;
const SLASH: u8 = 2;
const NO_FIRST: u8 = SLASH << 1;

const fn classes(read_alike: bool) -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'/' if read_alike => SLASH | NO_FIRST,
            b'/' => SLASH,
            b'.' => NO_FIRST,
            b';' if read_alike => 0,
            other if may_be_plain(other) => PLAIN,
            _ => 0,
        };
        byte += 1;
    }
    classes
}

#[cold]
fn normalize(path: &str) -> String {
    let recoded = recode(path.as_bytes());
    if recoded.starts_with('/') { remove_dot_segments(&recoded) } else { recoded }
}

/// Undoes the percent-encoding where none is needed, and makes it where it is.
fn recode(path: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut recoded = String::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let encoded = escape(&path[at..]);
        at += if encoded.is_some() { 3 } else { 1 };
        match encoded {
            Some(byte) if is_unreserved(byte) => recoded.push(byte.into()),
            None if may_be_plain(byte) => recoded.push(byte.into()),
            _ => {
                let byte = encoded.unwrap_or(byte);
                recoded.push('%');
                recoded.push(DIGITS[usize::from(byte >> 4)].into());
                recoded.push(DIGITS[usize::from(byte & 15)].into());
            }
        }
    }
    recoded
}

/// The byte that `text` begins with in percent-encoding.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(*high)? << 4 | digit(*low)?) as u8)
}

/// RFC 3986, section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a byte stands for itself in a path (RFC 3986, section 3.3).
const fn may_be_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

/// Whether the normal form of some path begins with that text, or, where it is `whole`, is that text.
pub(crate) fn may_begin_normal(text: &[u8], whole: bool) -> bool {
    match text {
        [] => !whole,
        b"*" => true,
        [b'/', rest @ ..] => {
            let mut rest = rest;
            while let [byte, after @ ..] = rest {
                rest = match (byte, after) {
                    (b'%', [high, low, after @ ..]) => {
                        let needed = escape(rest).is_some_and(|byte| !is_unreserved(byte));
                        if !needed || [high, low].iter().any(|digit| digit.is_ascii_lowercase()) {
                            return false;
                        }
                        after
                    }
                    // It goes on with what is not known.
                    (b'%', part) => {
                        let digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
                        return !whole && part.iter().all(digit);
                    }
                    _ if may_be_plain(*byte) => after,
                    _ => return false,
                };
            }
            true
        }
        _ => false,
    }
}

/// RFC 3986, section 5.2.4, for a path that begins with `/`.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let dots = matches!(segment, "." | "..");
        match segment {
            ".." => drop(kept.pop()),
            "." => {}
            segment => kept.push(segment),
        }
        if dots && segments.peek().is_none() {
            // What is left ends with a slash.
            kept.push("");
        }
    }
    kept.iter().flat_map(|segment| ["/", segment]).collect()
}

/// Whether some server could take a segment of the path for `.` or `..`: plain or encoded, between slashes, encoded
/// ones, or backslashes, and with something before or behind it that servers cut off: parameters (`;`), what looks
/// like a query or fragment, blanks, control characters.
pub fn has_dot_segments(path: &str) -> bool {
    let bytes = path.as_bytes();
    // Without a dot there is none, and hardly any path has one that does not stand inside of a name.
    if !bytes.iter().any(|byte| matches!(byte, b'.' | b'%')) {
        return false;
    }
    let mut dots = Dots::At(0);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let encoded = escape(&bytes[at..]);
        at += if encoded.is_some() { 3 } else { 1 };
        dots = match (encoded.unwrap_or(byte), dots) {
            (b'/' | b'\\', Dots::Found) => return true,
            (b'/' | b'\\', Dots::At(1 | 2)) => return true,
            (b'/' | b'\\', _) => Dots::At(0),
            (_, Dots::Found) => Dots::Found,
            (b'.', Dots::At(count)) => Dots::At(count.saturating_add(1)),
            (..=b' ' | 0x7f, Dots::At(0)) => Dots::At(0),
            (b';' | b'?' | b'#' | ..=b' ' | 0x7f, Dots::At(1 | 2)) => Dots::Found,
            _ => Dots::Other,
        };
    }
    matches!(dots, Dots::Found | Dots::At(1 | 2))
}

/// What a segment has been so far.
#[derive(Clone, Copy)]
enum Dots {
    /// So many dots, and nothing else.
    At(u8),
    /// One or two dots, and parameters.
    Found,
    Other,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_get_one_form() {
        for (path, expected) in [
            ("", ""),
            ("/", "/"),
            ("*", "*"),
            ("/a/b;v=1,2/c", "/a/b;v=1,2/c"),
            ("//a///b/", "//a///b/"),
            ("/%7euser/%41%2D%2e%5F", "/~user/A-._"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a%2fb%5c", "/a%2Fb%5C"),
            ("/a{b}|\\\"", "/a%7Bb%7D%7C%5C%22"),
            ("/%", "/%25"),
            ("/%4", "/%254"),
            ("/%4g%zz%%34%4%31", "/%254g%25zz%254%2541"),
            ("/%252e%252E", "/%252e%252E"),
            ("/a%00b%20c%3F%23%3b", "/a%00b%20c%3F%23%3B"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/a/./b/../../c", "/c"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/../../a", "/a"),
            ("/a//../b", "/a/b"),
            ("/a/..;x/b", "/a/..;x/b"),
            ("/a/..%2Fb", "/a/..%2Fb"),
        ] {
            assert_eq!(normal_form(path), expected, "{path}");
        }
    }

    #[test]
    fn dot_segments_are_seen_however_they_are_written() {
        for path in [
            "/.",
            "/..",
            "/./a",
            "/a/..",
            "/a/../b",
            "/%2e",
            "/a/%2E%2e/b",
            "/a/.%2e",
            "/a/..;v/b",
            "/..;",
            "/a/..%3bv/b",
            "/a/..%2Fb",
            "/a%2f..",
            "/a/..\\b",
            "/a\\..",
            "/a%5c%2e%2e%5Cb",
            "..",
            ".;x",
            "/pub/..%00/admin",
            "/pub/..%09/admin",
            "/pub/%2e%2e%20/admin",
            "/pub/%2e%2e%23/admin",
            "/pub/..%3fx/admin",
            "/pub/.%7f",
            "/pub/%20../admin",
        ] {
            assert!(has_dot_segments(path), "{path}");
        }
        for path in [
            "",
            "/",
            "*",
            "/a.b",
            "/.a",
            "/a.",
            "/...",
            "/a/..b",
            "/a/b..",
            "/.well-known/..x",
            "/a;..",
            "/;..",
            "/a;v=./b",
            "/%2e%2e%2e",
            "/%252e%252e/",
            "/a%2e/b",
            "/%",
            "/%2",
            "/..%",
            "//",
            "/%2f/",
        ] {
            assert!(!has_dot_segments(path), "{path}");
        }
    }

    /// Byte by byte, with no look at what is there already, as RFC 3986 tells it.
    fn naive(path: &str) -> String {
        let mut text = String::new();
        let mut rest = path;
        while !rest.is_empty() {
            let code = rest.get(1..3).filter(|_| rest.starts_with('%'));
            let code = code.filter(|c| c.bytes().all(|b| b.is_ascii_hexdigit()));
            let (byte, length) = match code {
                Some(code) => (u8::from_str_radix(code, 16).unwrap(), 3),
                None => {
                    let first = rest.chars().next().unwrap();
                    if "-._~/!$&'()*+,;=:@".contains(first) || first.is_ascii_alphanumeric() {
                        text.push(first);
                    } else {
                        for byte in first.to_string().bytes() {
                            text.push_str(&format!("%{byte:02X}"));
                        }
                    }
                    rest = &rest[first.len_utf8()..];
                    continue;
                }
            };
            let c = char::from(byte);
            if byte < 128 && ("-._~".contains(c) || c.is_ascii_alphanumeric()) {
                text.push(c);
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
            rest = &rest[length..];
        }
        if !text.starts_with('/') {
            return text;
        }
        // Section 5.2.4, with its steps' letters.
        let (mut input, mut output) = (text, String::new());
        while !input.is_empty() {
            if input.starts_with("/./") {
                input.replace_range(..2, "");
            } else if input == "/." {
                input = "/".into();
            } else if input.starts_with("/../") || input == "/.." {
                let end = if input == "/.." { 3 } else { 4 };
                input.replace_range(..end, "/");
                output.truncate(output.rfind('/').unwrap_or(0));
            } else {
                let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
                output.push_str(&input[..end]);
                input.replace_range(..end, "");
            }
        }
        output
    }

    fn paths() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/"),
            Just("/"),
            Just("/"),
            Just("."),
            Just(".."),
            Just("%2e"),
            Just("%2E"),
            Just("%2f"),
            Just("%5C"),
            Just("\\"),
            Just(";"),
            Just("%3b"),
            Just("a"),
            Just("%41"),
            Just("%"),
            Just("%4"),
            Just("é"),
            Just("%c3%a9"),
            Just("~"),
            Just("%25"),
        ];
        let pieces = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        prop_oneof![4 => pieces.prop_map(|rest| format!("/{rest}")), 1 => "\\PC{0,20}"]
    }

    proptest! {
        #[test]
        fn the_form_is_what_the_rfc_says(path in paths()) {
            prop_assert_eq!(normal_form(&path), naive(&path));
        }

        #[test]
        fn what_is_plain_says_one_thing(path in paths()) {
            if is_plain(&path) {
                prop_assert_eq!(ambiguity(&path), None);
                prop_assert_eq!(naive(&path), path);
            }
        }

        #[test]
        fn the_form_of_the_form_is_the_form(path in paths()) {
            let once = normal_form(&path).into_owned();
            prop_assert_eq!(normal_form(&once), once.as_str());
        }

        #[test]
        fn every_beginning_of_a_form_may_begin_one(path in paths(), cut in 0..100usize) {
            prop_assume!(path.starts_with('/'));
            let form = normal_form(&path).into_owned();
            prop_assert!(may_begin_normal(form.as_bytes(), true), "{}", form);
            let beginning = &form.as_bytes()[..cut.min(form.len())];
            prop_assert!(may_begin_normal(beginning, false), "{}", form);
        }

        #[test]
        fn what_is_no_form_is_told_from_one(text in paths()) {
            let is_form = normal_form(&text) == text && (text.starts_with('/') || text == "*");
            // What begins with dot segments is not looked for.
            prop_assume!(!has_dot_segments(&text));
            prop_assert_eq!(may_begin_normal(text.as_bytes(), true), is_form, "{}", text);
        }

        #[test]
        fn what_needs_nothing_is_not_copied(path in "(/[a-zA-Z0-9_~!$&'()*+,;=:@-]{0,8}){1,6}") {
            prop_assert!(matches!(normal_form(&path), Cow::Borrowed(same) if same == path));
        }

        #[test]
        fn what_the_form_removes_is_a_dot_segment(path in paths()) {
            prop_assume!(path.starts_with('/'));
            let segments = |path: &str| path.matches('/').count();
            if segments(&normal_form(&path)) != segments(&path) {
                prop_assert!(has_dot_segments(&path), "{}", path);
            }
        }

        /// As a server sees it that decodes first and takes all that it may for slashes.
        #[test]
        fn no_reading_of_a_path_without_dot_segments_has_any(path in paths()) {
            prop_assume!(!has_dot_segments(&path));
            let bytes = path.as_bytes();
            let (mut decoded, mut at) = (Vec::new(), 0);
            while at < bytes.len() {
                let byte = escape(&bytes[at..]);
                at += if byte.is_some() { 3 } else { 1 };
                decoded.push(byte.unwrap_or(bytes[at - 1]));
            }
            let segments = decoded.split(|byte| matches!(byte, b'/' | b'\\'));
            for segment in segments {
                let name = segment.split(|byte| *byte == b';').next().unwrap();
                prop_assert!(name != b"." && name != b"..", "{}", path);
            }
        }
    }
}
