//! What requests are for, as it stands on the wire: authorities, and paths with their queries.
//!
//! [`http::Uri`] takes authorities that no URI has (ports of letters, brackets around names), so that these are looked
//! at again here. And it refuses paths that browsers and other clients send: some bytes that RFC 3986 would have
//! encoded, and such as are no UTF-8. A request of that kind carries both: a `Uri` with these bytes percent-encoded,
//! which names the same resource and which everything is decided on, and [`AsSent`], the bytes that are passed on.

use std::cell::{Cell, RefCell};
use std::net::Ipv6Addr;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Extensions, Uri};

/// A path with its query as the client sent it, in the extensions of a request whose URI cannot hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsSent(pub Bytes);

/// What goes on the wire as the path of a request.
pub(crate) fn path<'h>(uri: &'h Uri, extensions: &'h Extensions) -> &'h [u8] {
    match extensions.get::<AsSent>() {
        Some(AsSent(bytes)) => bytes,
        None => uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes(),
    }
}

/// A path with its query that was received by itself: `*`, or what begins with a slash.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    pub uri: PathAndQuery,
    /// Where that is not what was sent.
    pub sent: Option<Box<AsSent>>,
}

impl Path {
    /// See [`PathAndQuery::from_static`].
    pub const fn from_static(path: &'static str) -> Self {
        Self { uri: PathAndQuery::from_static(path), sent: None }
    }

    /// `None`: it is no path, or it has a fragment, which is no part of a request's target (RFC 9113, section 8.3.1).
    pub fn parse(value: &[u8]) -> Option<Self> {
        if !matches!(value, [b'/', ..] | b"*") {
            return None;
        }
        match PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(value)) {
            Ok(uri) if uri.as_str().len() == value.len() => Some(Self { uri, sent: None }),
            Ok(_) => None,
            Err(_) => {
                let sent = AsSent(Bytes::copy_from_slice(value));
                Some(Self { uri: encoded(value)?, sent: Some(Box::new(sent)) })
            }
        }
    }
}

/// The parts of a target of HTTP/1, in origin-form or absolute-form, that `http` does not take. `None`: nobody has to.
#[cold]
pub(crate) fn unusual(target: Bytes) -> Option<(Uri, AsSent)> {
    if target.starts_with(b"/") {
        return Some((Uri::from(encoded(&target)?), AsSent(target)));
    }
    let scheme_end = target.windows(3).position(|three| three == b"://")?;
    let rest = &target[scheme_end + 3..];
    let path = scheme_end + 3 + rest.iter().position(|byte| matches!(byte, b'/' | b'?'))?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::try_from(&target[..scheme_end]).ok()?);
    parts.authority = Some(authority(&target[scheme_end + 3..path])?);
    let sent = match target[path] {
        b'/' => target.slice(path..),
        // An absolute URI whose path is empty (RFC 9110, section 4.2.3).
        _ => [b"/", &target[path..]].concat().into(),
    };
    parts.path_and_query = Some(encoded(&sent)?);
    Some((Uri::from_parts(parts).ok()?, AsSent(sent)))
}

/// The same path with what no URI has in it percent-encoded (RFC 3986, section 2.1). `None`: it has control characters,
/// spaces or a fragment, or is too long.
#[cold]
fn encoded(path: &[u8]) -> Option<PathAndQuery> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(path.len() + 64);
    let encode = |text: &mut String, byte: u8| {
        text.push('%');
        text.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
    };
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\0'..=' ' | '\x7f' | '#' => return None,
                '"' | '<' | '>' | '`' => encode(&mut text, character as u8),
                _ => text.push(character),
            }
        }
        chunk.invalid().iter().for_each(|byte| encode(&mut text, *byte));
    }
    PathAndQuery::try_from(text).ok()
}

/// Reads an authority without user information (RFC 9110, sections 4.2.1 and 4.2.4).
pub(crate) fn authority(value: &[u8]) -> Option<Authority> {
    Authority::try_from(value).ok().filter(|authority| is_valid(authority.as_str()))
}

/// The authority that a client names, who as a rule names the same one with each request of a connection.
#[derive(Debug, Default)]
pub(crate) struct LastAuthority {
    last: RefCell<Option<Authority>>,
    /// One was read. A client that makes one request does not pay for another.
    read: Cell<bool>,
}

impl LastAuthority {
    /// The longest that is kept: a name has 253 bytes at most.
    const LONGEST: usize = 260;

    /// As [`authority`].
    pub fn read(&self, value: &[u8]) -> Option<Authority> {
        if let Some(last) = &*self.last.borrow()
            && last.as_str().as_bytes() == value
        {
            return Some(last.clone());
        }
        let authority = authority(value)?;
        if self.read.replace(true) && value.len() <= Self::LONGEST {
            *self.last.borrow_mut() = Some(authority.clone());
        }
        Some(authority)
    }
}

/// Whether an authority that `http` took is a host that is not empty, with a port or without (RFC 3986, section
/// 3.2). What `http` does not take in any case: percent-encoding, and bytes that a name cannot have.
pub(crate) fn is_valid(authority: &str) -> bool {
    let bytes = authority.as_bytes();
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (before, port) = bytes.split_at(bytes.len() - digits);
    match before {
        [host @ .., b':'] => is_port(port) && is_host(host),
        _ => is_host(bytes),
    }
}

fn is_port(digits: &[u8]) -> bool {
    let value = digits
        .iter()
        .fold(0_u32, |value, digit| value.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
    value <= u32::from(u16::MAX)
}

fn is_host(host: &[u8]) -> bool {
    match host {
        [] => false,
        [b'[', literal @ .., b']'] => is_literal(literal),
        name => !name.iter().any(|byte| matches!(byte, b'@' | b':' | b'[' | b']')),
    }
}

/// RFC 3986, section 3.2.2. Not with a zone, which means something to one host only (RFC 6874, section 4).
#[cold]
fn is_literal(literal: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(literal) else { return false };
    if let Some((version, address)) = text.strip_prefix(['v', 'V']).and_then(|text| text.split_once('.')) {
        let hex = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(&byte);
        return hex && !address.is_empty() && address.bytes().all(plain);
    }
    text.parse::<Ipv6Addr>().is_ok()
}

/// Whether two authorities of URIs with `scheme` are the same (RFC 3986, section 6.2.3).
#[cold]
pub(crate) fn is_same(one: &Authority, other: &Authority, scheme: Option<&Scheme>) -> bool {
    let default = if scheme == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tulle_model::path::{has_dot_segments, normal_form};

    use super::*;

    #[test]
    fn only_what_a_uri_may_have_is_an_authority() {
        for fine in [
            "c",
            "c:80",
            "c:",
            "c:0",
            "c:65535",
            "c:00080",
            "C.Shop.",
            "h_x",
            "a-b.c",
            "1.2.3.4:5",
            "80",
            "80:80",
            "[::1]",
            "[::1]:80",
            "[::ffff:1.2.3.4]:",
            "[v1.a:b]:80",
            "a!$&'()*+,;=b",
        ] {
            assert!(authority(fine.as_bytes()).is_some(), "{fine}");
        }
        for bad in [
            "",
            ":",
            ":80",
            "c:x",
            "c:8x",
            "c:-1",
            "c:+1",
            "c:65536",
            "c:99999999999999999999",
            "c:80:80",
            "c::80",
            "a:b:c",
            "[",
            "]",
            "[]",
            "[::1",
            "::1]",
            "::1",
            "[::1]80",
            "[::1]x",
            "x[::1]",
            "[c]",
            "[1.2.3.4]",
            "[::1%25eth0]",
            "[::g]",
            "[v1]",
            "[v.a]",
            "[v1.]",
            "[[::1]]",
            "[::1]:x",
            "u@h",
            "u:p@h",
            "@h",
            "h@",
            "@",
            "a b",
            "a\tb",
            " a",
            "a ",
            "%41",
            "%",
            "a%",
            "a%zz",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "<a>",
            "a\"b",
            "a|b",
            "a^b",
            "a`b",
            "{a}",
            "é",
            "a\u{7f}",
            "a\0",
            "a,b@c",
        ] {
            assert!(authority(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(authority(b"\xff").is_none());
    }

    #[test]
    fn each_authority_is_read_as_it_is_written() {
        let last = LastAuthority::default();
        let long = "x".repeat(LastAuthority::LONGEST + 1);
        for value in ["c", "c", "c", "C", "c:80", "c:80", "c:x", "", "c:80", &long, &long, "d", "d"] {
            let read = last.read(value.as_bytes());
            assert_eq!(
                read.as_ref().map(Authority::as_str),
                authority(value.as_bytes()).as_ref().map(Authority::as_str)
            );
            assert!(
                last.last.borrow().as_ref().is_none_or(|last| last.as_str().len() <= LastAuthority::LONGEST)
            );
        }
    }

    #[test]
    fn authorities_are_compared_as_the_scheme_has_them() {
        for (one, other, same) in [
            ("c", "C", true),
            ("c", "c:80", true),
            ("c:", "c:080", true),
            ("c:81", "c", false),
            ("c:81", "c:80", false),
            ("c", "d", false),
            ("[::1]:80", "[::1]", true),
        ] {
            let [one, other] = [one, other].map(Authority::from_static);
            assert_eq!(is_same(&one, &other, None), same, "{one} {other}");
            assert_eq!(is_same(&other, &one, Some(&Scheme::HTTP)), same, "{one} {other}");
        }
        let [one, other] = ["c", "c:443"].map(Authority::from_static);
        assert!(is_same(&one, &other, Some(&Scheme::HTTPS)));
    }

    #[test]
    fn what_was_sent_is_what_goes_on_the_wire() {
        let mut extensions = Extensions::new();
        for (uri, expected) in [("http://c/a?b", &b"/a?b"[..]), ("http://c", b"/"), ("c:80", b"/")] {
            assert_eq!(super::path(&uri.parse().unwrap(), &extensions), expected, "{uri}");
        }
        extensions.insert(AsSent(Bytes::from_static(b"/<")));
        assert_eq!(super::path(&Uri::from_static("http://c/%3C"), &extensions), b"/<");
    }

    fn sent(path: &Path) -> &[u8] {
        path.sent.as_ref().map_or(path.uri.as_str().as_bytes(), |sent| &sent.0)
    }

    #[test]
    fn every_byte_that_is_sent_in_paths_is_passed_on() {
        for byte in 0..=u8::MAX {
            let fine = byte > b' ' && byte != 0x7f && byte != b'#';
            for before in ["/a", "/a?b"] {
                let bytes = [before.as_bytes(), &[byte], b"c"].concat();
                let path = Path::parse(&bytes);
                assert_eq!(path.is_some(), fine, "{byte:#x}");
                assert!(path.is_none_or(|path| sent(&path) == bytes), "{byte:#x}");
                let target = [b"http://h:1", &bytes[..]].concat();
                for (target, absolute) in [(bytes.clone(), false), (target, true)] {
                    let parts = unusual(target.into());
                    assert_eq!(parts.is_some(), fine, "{byte:#x}");
                    if let Some((uri, AsSent(sent))) = parts {
                        assert_eq!(
                            (&sent[..], uri.authority().is_some()),
                            (&bytes[..], absolute),
                            "{byte:#x}"
                        );
                    }
                }
            }
        }
        assert!(Path::parse(b"/usual?query={}").unwrap().sent.is_none());
        for bad in [&b""[..], b"a", b"?a", b"**", b"*a", b"/a#", b"/\xff#"] {
            assert_eq!(Path::parse(bad), None, "{}", bad.escape_ascii());
        }
        for bad in ["http://h", "http://h:x/<", "http://u@h/<", "http:///<", "h/<", "<", "*<"] {
            assert_eq!(unusual(bad.into()), None, "{bad}");
        }
        let (uri, AsSent(sent)) = unusual("http://h?<".into()).unwrap();
        assert_eq!((uri.to_string(), &sent[..]), ("http://h/?%3C".into(), &b"/?<"[..]));
    }

    /// The bytes of a path, percent-encoding undone.
    fn decoded(path: &[u8]) -> Vec<u8> {
        let digit = |at: usize| path.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (mut bytes, mut at) = (Vec::new(), 0);
        while at < path.len() {
            match (path[at], digit(at + 1), digit(at + 2)) {
                (b'%', Some(high), Some(low)) => {
                    bytes.push((high << 4 | low) as u8);
                    at += 3;
                }
                (byte, ..) => {
                    bytes.push(byte);
                    at += 1;
                }
            }
        }
        bytes
    }

    proptest! {
        /// Routes decide on what the application will read, whatever it makes of it.
        #[test]
        fn what_is_decided_on_names_what_was_sent(pieces in prop::collection::vec(prop_oneof![
            Just(b"/".to_vec()), Just(b"/..".to_vec()), Just(b"\\".to_vec()), Just(b"%2e".to_vec()),
            Just(b"%".to_vec()), Just(b"<".to_vec()), Just(b"`".to_vec()), Just(b"\xe9".to_vec()),
            Just("é".into()), Just(b"?".to_vec()), Just(b"4".to_vec()), prop::collection::vec(0x21..0x7e_u8, 0..3),
        ], 0..8)) {
            let bytes = [b"/".to_vec(), pieces.concat()].concat();
            prop_assume!(!bytes.contains(&b'#'));
            let path = Path::parse(&bytes).unwrap();
            prop_assert_eq!(sent(&path), &bytes[..]);
            prop_assert_eq!(decoded(path.uri.as_str().as_bytes()), decoded(&bytes));
            let end = bytes.iter().position(|byte| *byte == b'?').unwrap_or(bytes.len());
            let all = [b"/".to_vec(), bytes[..end].iter().flat_map(|byte| match byte {
                b'<' | b'>' | b'"' | b'`' | 0x80.. => format!("%{byte:02X}").into_bytes(),
                byte => vec![*byte],
            }).skip(1).collect()].concat();
            let all = String::from_utf8(all).unwrap();
            prop_assert_eq!(normal_form(path.uri.path()), normal_form(&all));
            prop_assert_eq!(has_dot_segments(path.uri.path()), has_dot_segments(&all));
        }
    }
}
