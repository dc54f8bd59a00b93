//! What servers read differently in a path.

use super::{escape, has_dot_segments};

/// Why servers may read a path differently, if so: then a decision that goes by it may be about another resource than
/// the one that is served. Of `/a%2Fb` some serve `b` below `a`, of `/a;x/b` and `/a//b` some serve `/a/b`.
pub fn ambiguity(path: &str) -> Option<Ambiguity> {
    ambiguity_but(path, Ambiguities::default())
}

/// The same, where some kinds are no reason.
pub(crate) fn ambiguity_but(path: &str, allowed: Ambiguities) -> Option<Ambiguity> {
    let bytes = path.as_bytes();
    // What has no escape says what it is.
    let is_encoded = bytes.contains(&b'%');
    let mut decoded = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let encoded = escape(rest);
        let found = match encoded {
            None => match byte {
                b'\\' => Some(Ambiguity::Backslash),
                b';' => Some(Ambiguity::Parameters),
                b'%' => Some(Ambiguity::InvalidEscape),
                b'/' if rest.get(1) == Some(&b'/') => Some(Ambiguity::EmptySegment),
                _ => None,
            },
            Some(encoded) => match encoded {
                0 => Some(Ambiguity::EncodedNul),
                b'/' => Some(Ambiguity::EncodedSlash),
                b'\\' => Some(Ambiguity::EncodedBackslash),
                b'.' => Some(Ambiguity::EncodedDot),
                b';' | b'?' | b'#' => Some(Ambiguity::EncodedDelimiter),
                ..=b' ' | 0x7f if encoded != b' ' => Some(Ambiguity::EncodedControl),
                _ => None,
            },
        };
        if found.is_some_and(|found| !allowed.have(found)) {
            return found;
        }
        if is_encoded {
            decoded.push(encoded.unwrap_or(byte));
        }
        at += if encoded.is_some() { 3 } else { 1 };
    }
    // Who decodes twice reads another one.
    let is_encoded_twice = || (0..decoded.len()).any(|at| escape(&decoded[at..]).is_some());
    let rest = [
        (Ambiguity::EncodedTwice, &is_encoded_twice as &dyn Fn() -> bool),
        (Ambiguity::DotSegment, &|| has_dot_segments(path)),
        // Overlong forms of other characters among them.
        (Ambiguity::InvalidUtf8, &|| std::str::from_utf8(&decoded).is_err()),
    ];
    rest.into_iter().find(|(kind, is_so)| !allowed.have(*kind) && is_so()).map(|(kind, _)| kind)
}

/// What servers read differently in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguity {
    EncodedNul,
    Backslash,
    Parameters,
    InvalidEscape,
    EmptySegment,
    EncodedSlash,
    EncodedBackslash,
    EncodedDot,
    EncodedDelimiter,
    EncodedControl,
    EncodedTwice,
    DotSegment,
    InvalidUtf8,
}

impl Ambiguity {
    /// Those that a Mesh may let pass: what ends a text for some and not for others is not among them.
    pub(crate) const ALLOWABLE: [Self; 12] = [
        Self::Backslash,
        Self::Parameters,
        Self::InvalidEscape,
        Self::EmptySegment,
        Self::EncodedSlash,
        Self::EncodedBackslash,
        Self::EncodedDot,
        Self::EncodedDelimiter,
        Self::EncodedControl,
        Self::EncodedTwice,
        Self::DotSegment,
        Self::InvalidUtf8,
    ];

    /// Its name in a Mesh.
    pub fn name(self) -> &'static str {
        match self {
            Self::EncodedNul => "EncodedNul",
            Self::Backslash => "Backslash",
            Self::Parameters => "Parameters",
            Self::InvalidEscape => "InvalidEscape",
            Self::EmptySegment => "EmptySegment",
            Self::EncodedSlash => "EncodedSlash",
            Self::EncodedBackslash => "EncodedBackslash",
            Self::EncodedDot => "EncodedDot",
            Self::EncodedDelimiter => "EncodedDelimiter",
            Self::EncodedControl => "EncodedControl",
            Self::EncodedTwice => "EncodedTwice",
            Self::DotSegment => "DotSegment",
            Self::InvalidUtf8 => "InvalidUtf8",
        }
    }

    /// For people: what the path has.
    pub fn why(self) -> &'static str {
        match self {
            Self::EncodedNul => "has an encoded NUL (`%00`)",
            Self::Backslash => "has a backslash",
            Self::Parameters => "has parameters (`;`)",
            Self::InvalidEscape => "has a `%` that begins no escape",
            Self::EmptySegment => "has an empty segment (`//`)",
            Self::EncodedSlash => "has an encoded slash (`%2F`)",
            Self::EncodedBackslash => "has an encoded backslash (`%5C`)",
            Self::EncodedDot => "has an encoded dot (`%2E`)",
            Self::EncodedDelimiter => "has an encoded delimiter (`;`, `?` or `#`)",
            Self::EncodedControl => "has an encoded control character",
            Self::EncodedTwice => "has an escape that is encoded itself (`%25XX`)",
            Self::DotSegment => "has a dot segment (`.` or `..`)",
            Self::InvalidUtf8 => "has bytes that are no UTF-8",
        }
    }
}

/// Kinds of ambiguity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ambiguities(u16);

impl Ambiguities {
    /// Those of these names; others are left out.
    pub fn named<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let known = |name: &str| Ambiguity::ALLOWABLE.into_iter().find(|kind| kind.name() == name);
        let bits = names.into_iter().filter_map(known).fold(0, |bits, kind| bits | 1 << kind as u16);
        Self(bits)
    }

    pub fn have(self, kind: Ambiguity) -> bool {
        self.0 & 1 << kind as u16 != 0
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Ambiguity::ALLOWABLE.into_iter().filter(move |kind| self.have(*kind)).map(Ambiguity::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_read_differently_is_ambiguous() {
        for plain in [
            "",
            "/",
            "*",
            "/a",
            "/a/",
            "/a.b/..c",
            "/%C3%A9",
            "/\u{e9}",
            "/a%20b",
            "/a%25",
            "/a%25zz",
            "/a~-_!$&'()*+,=:@",
        ] {
            assert_eq!(ambiguity(plain), None, "{plain}");
        }
        for (path, why) in [
            ("/a%2Fb", "slash"),
            ("/a%2fb", "slash"),
            ("/a\\b", "backslash"),
            ("/a%5Cb", "backslash"),
            ("/a%2eb", "dot"),
            ("/%2E%2E/a", "dot"),
            ("/a/../b", "dot segment"),
            ("/a/./b", "dot segment"),
            ("/a/..", "dot segment"),
            ("//a", "empty segment"),
            ("/a//b", "empty segment"),
            ("/a//", "empty segment"),
            ("/a;x=1/b", "parameters"),
            ("/a%3bx", "delimiter"),
            ("/a%3Fx", "delimiter"),
            ("/a%23x", "delimiter"),
            ("/a%00", "NUL"),
            ("/a%0d%0ab", "control"),
            ("/a%7f", "control"),
            ("/a%", "no escape"),
            ("/a%2", "no escape"),
            ("/a%zz", "no escape"),
            ("/a%252fb", "encoded itself"),
            ("/a%2561", "encoded itself"),
            ("/a%25%36%31", "encoded itself"),
            ("/a%25%32%66", "encoded itself"),
            ("/a%c0%afb", "UTF-8"),
            ("/a%ff", "UTF-8"),
        ] {
            assert!(
                ambiguity(path).is_some_and(|found| found.why().contains(why)),
                "{path} {:?}",
                ambiguity(path)
            );
        }
    }
    #[test]
    fn what_is_allowed_is_no_reason_and_hides_no_other() {
        for (path, allowed, expected) in [
            ("/a%2Fb", &["EncodedSlash"][..], None),
            ("/a%2Fb;c", &["EncodedSlash"], Some(Ambiguity::Parameters)),
            ("/a%2Fb;c", &["EncodedSlash", "Parameters"], None),
            ("/a//b", &["EncodedSlash", "EmptySegment"], None),
            ("/a%5Cb\\c", &["EncodedBackslash", "Backslash"], None),
            ("/a%2Eb", &["EncodedDot"], None),
            ("/a/%2E%2E/b", &["EncodedDot"], Some(Ambiguity::DotSegment)),
            ("/a%2F..", &["EncodedSlash"], Some(Ambiguity::DotSegment)),
            ("/a/../b", &["DotSegment"], None),
            ("/a%3Fb%0A", &["EncodedDelimiter", "EncodedControl"], None),
            ("/a%252F", &["EncodedTwice"], None),
            ("/a%ff%", &["InvalidUtf8", "InvalidEscape"], None),
            ("/a%00", &["EncodedNul", "EncodedControl", "InvalidEscape"], Some(Ambiguity::EncodedNul)),
        ] {
            let allowed = Ambiguities::named(allowed.iter().copied());
            assert_eq!(ambiguity_but(path, allowed), expected, "{path}");
        }
        let all = Ambiguities::named(Ambiguity::ALLOWABLE.map(Ambiguity::name));
        assert_eq!(all.names().count(), 12);
        assert!(!all.have(Ambiguity::EncodedNul));
    }
}
