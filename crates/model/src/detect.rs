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
