//! What some server could take for an HTTP request, though the grammar does not.
//!
//! Servers differ in what they forgive: white space of all kinds before and between the words of a request line,
//! methods in lower case or never heard of, versions that are none, a line without a version (HTTP/0.9). Where
//! rules for HTTP would be walked around by such a request, it must not pass as bytes. So the question is not
//! whether a line is a request, but whether anybody could think so:
//!
//! - a word, white space, and `/`;
//! - a word, white space, and `HTTP/` further on in the same line;
//! - a known method, and `*` or a target with a scheme; `GET`, and any other word;
//! - a known method, and next what parts no words in another protocol;
//! - any line of text that ends with `HTTP/` and a version, whatever its method is made of.
//!
//! What is neither yet is held, for as long as it is a line of text that begins with a word.

use super::LIMIT;

/// Whether bytes resemble a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resemblance {
    Yes,
    No,
    /// More bytes will tell. `held`: what is there may be the beginning of a request; else it begins with control
    /// characters that no server skips.
    Perhaps {
        held: bool,
    },
}

const METHODS: [&[u8]; 40] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"ACL",
    b"BASELINE-CONTROL",
    b"BIND",
    b"CHECKIN",
    b"CHECKOUT",
    b"COPY",
    b"LABEL",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MKREDIRECTREF",
    b"MKWORKSPACE",
    b"MOVE",
    b"M-SEARCH",
    b"NOTIFY",
    b"ORDERPATCH",
    b"PRI",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"QUERY",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UPDATE",
];

pub(super) fn resemblance(bytes: &[u8]) -> Resemblance {
    use Resemblance::{No, Perhaps, Yes};
    let bytes = &bytes[..bytes.len().min(LIMIT)];
    // With as many bytes as are looked at, what is not decided is closed.
    let undecided = |held| match bytes.len() < LIMIT {
        true => Perhaps { held },
        false if held => Yes,
        false => No,
    };
    let start = bytes.iter().position(|&byte| !is_space(byte) && !byte.is_ascii_control());
    let skipped = &bytes[..start.unwrap_or(bytes.len())];
    let spaces = skipped.iter().all(|&byte| is_space(byte));
    let held = skipped.iter().all(|&byte| is_space(byte) || byte == 0);
    let line = &bytes[skipped.len()..];
    let Some(&first) = line.first() else { return undecided(held) };
    let odd = || if held { odd_line(line, bytes.len() < LIMIT) } else { No };
    if !is_token(first) {
        return odd();
    }

    let in_word = |byte: u8| is_token(byte) || (first.is_ascii_alphabetic() && byte.is_ascii_graphic());
    let length = line.iter().position(|&byte| !in_word(byte)).unwrap_or(line.len());
    let (word, rest) = line.split_at(length);
    let method = METHODS.iter().find(|method| begins_with(word, method));
    let known = method.is_some_and(|method| method.len() == word.len() || word[method.len()] == b'/');
    let may_be_known = METHODS.iter().any(|method| begins_with(method, word));
    if !spaces && !known && !may_be_known {
        return odd();
    }
    if known && word.contains(&b'/') {
        return Yes;
    }
    match rest {
        [] | [b'\r'] => undecided(held),
        [b'\n', next @ ..] | [b'\r', b'\n', next @ ..] => match (known, target_begins(next, known)) {
            (false, _) => odd(),
            (true, Some(false)) => No,
            (true, Some(true)) => Yes,
            (true, None) => undecided(held),
        },
        [byte, ..] if !is_separator(*byte) => {
            if known {
                Yes
            } else {
                odd()
            }
        }
        _ => {
            let end = rest.iter().position(|&byte| byte == b'\n');
            let rest = &rest[..end.unwrap_or(rest.len())];
            let begins = target_begins(rest, known) == Some(true);
            if begins
                || has_version(rest)
                || (known && has_scheme(rest))
                || (word == b"GET" && rest.iter().any(|&byte| !is_space(byte)))
            {
                Yes
            } else if end.is_some() {
                No
            } else {
                undecided(held)
            }
        }
    }
}

/// Whether a line that begins like no request ends like one. Without an end it is not held: other protocols send
/// text without lines. `more`: further bytes may come.
fn odd_line(line: &[u8], more: bool) -> Resemblance {
    let end = line.iter().position(|&byte| byte == b'\n');
    let text = &line[..end.unwrap_or(line.len())];
    if text.iter().any(|&byte| byte.is_ascii_control() && !is_space(byte)) {
        return Resemblance::No;
    }
    match end {
        None if more => Resemblance::Perhaps { held: false },
        Some(_) if ends_with_version(text) => Resemblance::Yes,
        _ => Resemblance::No,
    }
}

/// `HTTP/` and a number at the end of a line, with white space behind it or without.
fn ends_with_version(line: &[u8]) -> bool {
    let number = |&&byte: &&u8| byte.is_ascii_digit() || byte == b'.' || is_space(byte);
    let length = line.iter().rev().take_while(number).count();
    let (rest, number) = line.split_at(line.len() - length);
    number.first().is_some_and(u8::is_ascii_digit) && rest.len() > 5 && {
        let (before, name) = rest.split_at(rest.len() - 5);
        name.eq_ignore_ascii_case(b"HTTP/") && before.last().is_none_or(|byte| !byte.is_ascii_alphanumeric())
    }
}

/// Whether a target begins after the white space, as far as its first byte says. `None`: it is not there. Of
/// others than a known method `*` is none: text protocols have it for patterns.
fn target_begins(rest: &[u8], known: bool) -> Option<bool> {
    let mut rest = rest.iter().skip_while(|&&byte| is_space(byte));
    match rest.next()? {
        b'/' => Some(true),
        b'*' if known => rest.next().map(|&byte| is_space(byte)),
        _ => Some(false),
    }
}

/// `HTTP/`, in letters of any size, at the beginning of a word.
fn has_version(line: &[u8]) -> bool {
    line.windows(6).any(|six| !six[0].is_ascii_alphanumeric() && six[1..].eq_ignore_ascii_case(b"HTTP/"))
}

fn has_scheme(line: &[u8]) -> bool {
    line.windows(3).any(|three| three == b"://")
}

fn begins_with(text: &[u8], beginning: &[u8]) -> bool {
    text.get(..beginning.len()).is_some_and(|text| text.eq_ignore_ascii_case(beginning))
}

/// What parts the words of a text, to servers in one language or another: Latin-1 has two more.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0x1c..=0x1f | 0x85 | 0xa0)
}

/// What parts the words of a line of text.
fn is_separator(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b | 0x0c | b'\r' | b' ')
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
