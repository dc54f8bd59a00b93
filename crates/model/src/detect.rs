//! What a client speaks, told from the first bytes that it sends.
//!
//! The answer never changes once it is final: more bytes only turn [`Detected::NeedMore`] into
//! something else, so the caller may ask again at every read, however the bytes were split. With
//! [`LIMIT`] bytes the answer is always final.
//!
//! Two things heal a wait that the bytes alone cannot end (a client that sends half a word and
//! waits for an answer): the server speaks first, or the caller's own bound passes. Both mean
//! [`Detected::Other`], which is always safe: bytes are passed on as they are.

/// With this many bytes there is always an answer.
pub const LIMIT: usize = 1024;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detected {
    /// An HTTP/1.x request line.
    Http1,
    /// HTTP/2's connection preface (RFC 9113, section 3.4).
    Http2,
    /// A TLS record with a ClientHello (RFC 8446, sections 4.1.2 and 5.1).
    Tls,
    /// None of these.
    Other,
    /// The bytes may still become one of these.
    NeedMore,
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods are case-sensitive and upper case by convention, but some clients send these in lower
/// case when they are asked to (`fetch` with `method: "patch"`).
const LOWER_CASE_METHODS: [&[u8]; 9] =
    [b"get", b"head", b"post", b"put", b"delete", b"connect", b"options", b"trace", b"patch"];

/// Longer than any registered method.
const LONGEST_METHOD: usize = 24;

/// What `bytes`, the first that a client sent, are the beginning of.
pub fn detect(bytes: &[u8]) -> Detected {
    let Some(&first) = bytes.first() else { return Detected::NeedMore };
    if first == 0x16 {
        return detect_tls(bytes);
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Detected::Http2;
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Detected::NeedMore;
    }
    detect_http1(&bytes[..bytes.len().min(LIMIT)])
}

fn detect_tls(bytes: &[u8]) -> Detected {
    // ContentType handshake, legacy_record_version 3.x, length, HandshakeType client_hello.
    if bytes.get(1).is_some_and(|&major| major != 3) || bytes.get(2).is_some_and(|&minor| minor > 4) {
        return Detected::Other;
    }
    if let (Some(&high), Some(&low)) = (bytes.get(3), bytes.get(4)) {
        let length = usize::from(high) << 8 | usize::from(low);
        if !(4..=1 << 14).contains(&length) {
            return Detected::Other;
        }
    }
    match bytes.get(5) {
        None => Detected::NeedMore,
        Some(1) => Detected::Tls,
        Some(_) => Detected::Other,
    }
}

/// RFC 9112, section 3: `method SP request-target SP HTTP-version`.
fn detect_http1(bytes: &[u8]) -> Detected {
    let method_length = bytes.iter().position(|&b| !is_token(b));
    let method = &bytes[..method_length.unwrap_or(bytes.len())];
    if method.len() > LONGEST_METHOD || !is_method(method, method_length.is_some()) {
        return Detected::Other;
    }
    let Some(method_length) = method_length else { return Detected::NeedMore };
    if bytes[method_length] != b' ' {
        return Detected::Other;
    }

    let rest = &bytes[method_length + 1..];
    let target_length = rest.iter().position(|&b| !(b'!'..=b'~').contains(&b) && b < 0x80);
    let target = &rest[..target_length.unwrap_or(rest.len())];
    if !is_target(target, method.eq_ignore_ascii_case(b"CONNECT"), target_length.is_some()) {
        return Detected::Other;
    }
    let Some(target_length) = target_length else {
        // So long a target after a method and a space is what nothing but HTTP sends.
        return if bytes.len() >= LIMIT { Detected::Http1 } else { Detected::NeedMore };
    };
    if rest[target_length] != b' ' {
        return Detected::Other;
    }

    let version = &rest[target_length + 1..];
    let expected = b"HTTP/1.";
    if version.len() > expected.len() {
        let digit = version[expected.len()].is_ascii_digit();
        return if version.starts_with(expected) && digit { Detected::Http1 } else { Detected::Other };
    }
    match expected.starts_with(version) {
        false => Detected::Other,
        true if bytes.len() >= LIMIT => Detected::Http1,
        true => Detected::NeedMore,
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Whether a token is a method, or the beginning of one where it is not `whole`. Stricter than the
/// grammar, so that few other text protocols keep us waiting: upper case that starts with a letter.
fn is_method(token: &[u8], whole: bool) -> bool {
    let Some(first) = token.first() else { return false };
    if first.is_ascii_lowercase() {
        return LOWER_CASE_METHODS.iter().any(|m| if whole { *m == token } else { m.starts_with(token) });
    }
    first.is_ascii_uppercase() && !token.iter().any(u8::is_ascii_lowercase)
}

/// Whether a text is a request target (RFC 9112, section 3.2), or the beginning of one where it is
/// not `whole`.
fn is_target(target: &[u8], connect: bool, whole: bool) -> bool {
    let Some(&first) = target.first() else { return !whole };
    if connect {
        // authority-form: a host and a port.
        let authority = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%:[]".contains(b);
        return target.iter().all(authority) && (!whole || target.contains(&b':'));
    }
    match first {
        b'/' => true,
        b'*' => target.len() == 1,
        _ => [b"http://".as_slice(), b"https://"].iter().any(|scheme| {
            let compared = target.len().min(scheme.len());
            target[..compared].eq_ignore_ascii_case(&scheme[..compared])
                && (!whole || target.len() > scheme.len())
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The answers for every beginning of `bytes`: `NeedMore`, then one other for good.
    fn answer(bytes: &[u8]) -> Detected {
        let mut answer = Detected::NeedMore;
        for length in 0..=bytes.len() {
            let now = detect(&bytes[..length]);
            if answer != Detected::NeedMore {
                assert_eq!(now, answer, "{:?}", bytes[..length].escape_ascii().to_string());
            }
            answer = now;
        }
        answer
    }

    #[test]
    fn protocols_are_told_apart_wherever_the_bytes_are_split() {
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(8000));
        let cases: &[(&[u8], Detected)] = &[
            (b"GET / HTTP/1.1\r\nhost: c\r\n\r\n", Detected::Http1),
            (b"GET /a?b=c HTTP/1.0\n", Detected::Http1),
            (b"OPTIONS * HTTP/1.1\r\n", Detected::Http1),
            (b"CONNECT c.shop:80 HTTP/1.1\r\n", Detected::Http1),
            (b"CONNECT [::1]:80 HTTP/1.1\r\n", Detected::Http1),
            (b"POST http://c/ HTTP/1.1\r\n", Detected::Http1),
            (b"PURGE /a HTTP/1.1\r\n", Detected::Http1),
            (b"M-SEARCH * HTTP/1.1\r\n", Detected::Http1),
            (b"PRI /a HTTP/1.1\r\n", Detected::Http1),
            (b"patch /a HTTP/1.1\r\n", Detected::Http1),
            (long.as_bytes(), Detected::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", Detected::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Detected::Other),
            (b"GET / HTTP/2.0\r\n", Detected::Other),
            (b"GET /\r\n", Detected::Other),
            (b"GET  / HTTP/1.1\r\n", Detected::Other),
            // TLS.
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Detected::Tls),
            (b"\x16\x03\x03\x00\x2f\x01", Detected::Tls),
            (b"\x16\x03\x01\x02\x00\x02", Detected::Other),
            (b"\x16\x04\x01\x02\x00\x01", Detected::Other),
            (b"\x15\x03\x01\x00\x02\x01\x00", Detected::Other),
            // Redis, both of its forms.
            (b"*1\r\n$4\r\nPING\r\n", Detected::Other),
            (b"PING\r\n", Detected::Other),
            (b"GET key\r\n", Detected::Other),
            (b"SET key value\r\n", Detected::Other),
            // Mail, news, files, chat.
            (b"EHLO client.example.com\r\n", Detected::Other),
            (b"EHLO http\r\n", Detected::Other),
            (b"HELO *\r\n", Detected::Other),
            (b"QUIT\r\n", Detected::Other),
            (b"USER anonymous\r\n", Detected::Other),
            (b"a001 LOGIN me secret\r\n", Detected::Other),
            (b"NICK me\r\n", Detected::Other),
            // memcached, ZooKeeper, NATS, STOMP, SSH, AMQP, PostgreSQL, MongoDB.
            (b"get key\r\n", Detected::Other),
            (b"ruok", Detected::Other),
            (b"cons", Detected::Other),
            (b"CONNECT {\"verbose\":false}\r\n", Detected::Other),
            (b"CONNECT\naccept-version:1.2\n", Detected::Other),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Detected::Other),
            (b"AMQP\0\0\x09\x01", Detected::Other),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Detected::Other),
            (b"\x41\0\0\0\x01\0\0\0", Detected::Other),
            (b" GET / HTTP/1.1\r\n", Detected::Other),
            (b"\r\n", Detected::Other),
        ];
        for (bytes, expected) in cases {
            assert_eq!(answer(bytes), *expected, "{:?}", bytes.escape_ascii().to_string());
        }
        assert_eq!(detect(b""), Detected::NeedMore);
    }

    /// Texts that resemble request lines, and bytes of all kinds.
    fn openings() -> impl Strategy<Value = Vec<u8>> {
        let line =
            "[A-Zapt*!-]{1,30}[ ]{0,2}(/|http://|[*]|c:)?[a-z0-9:?]{0,40}[ ]?(HTTP/[12][.][0-9])?[\r\n]{0,2}";
        prop_oneof![
            3 => line.prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..64),
            1 => (0usize..30, any::<Vec<u8>>()).prop_map(|(kept, rest)| {
                [&HTTP2_PREFACE[..kept.min(HTTP2_PREFACE.len())], &rest].concat()
            }),
            1 => (0usize..8, any::<Vec<u8>>()).prop_map(|(kept, rest)| {
                [&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..kept], &rest].concat()
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_answer_never_changes(bytes in openings()) {
            answer(&bytes);
        }

        #[test]
        fn enough_bytes_always_have_an_answer(method in "[A-Z]{1,24}", byte in any::<u8>()) {
            let mut bytes = format!("{method} /").into_bytes();
            bytes.resize(LIMIT, byte);
            prop_assert_ne!(detect(&bytes), Detected::NeedMore);
            prop_assert_ne!(detect(&vec![byte; LIMIT]), Detected::NeedMore);
        }

        #[test]
        fn every_method_makes_a_request_line(method in "[A-Z][A-Z0-9_-]{0,23}", path in "/[!-~]{0,200}") {
            let line = format!("{method} {path} HTTP/1.1\r\n");
            prop_assume!(method != "CONNECT");
            prop_assert_eq!(answer(line.as_bytes()), Detected::Http1);
        }
    }
}
