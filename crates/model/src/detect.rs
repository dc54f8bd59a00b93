//! What a connection speaks, told from the first bytes of its two sides.
//!
//! [`detect`] looks at the client's bytes, [`greeting`] at the server's, and [`decide`] says what both mean. An
//! answer never changes once it is final: more bytes only turn [`Detected::NeedMore`], [`Greeting::Begun`] or
//! a wait into something else, so the caller may ask again at every read, however the bytes were split. With
//! [`LIMIT`] bytes of the client there is always an answer.
//!
//! A wait that the bytes alone cannot end (half a word) is ended by the caller's own bound: then
//! [`decide_late`] says what to do. Where nobody has rules for HTTP, passing bytes on as they are is always safe.
//! Where there are rules, it would lead around them, so that whatever a lenient server could take for a request
//! is HTTP there, well-formed or not: HTTP's own parser refuses what is not.

use self::resemblance::{Resemblance, resemblance};

mod resemblance;

/// With this many bytes of the client there is always an answer.
pub const LIMIT: usize = 1024;

/// What the first bytes of a client are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detected {
    /// An HTTP/1.x request line; where there are rules for HTTP, also what begins like one and is none.
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

/// What the first bytes of a server are that has got none of the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Greeting {
    /// There are none.
    Silent,
    /// They may still become one of the others.
    Begun,
    /// SETTINGS, which HTTP/2 servers send when they accept (RFC 9113, section 3.4): it waits for its client.
    Http2,
    /// An answer to nothing: an HTTP/1 server has waited long enough for a request.
    Http1,
    /// The server of a protocol in which it speaks first.
    Other,
}

/// What is known of a connection whose protocol nothing declares.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// All that the client has sent.
    pub client: &'a [u8],
    pub server: Greeting,
    /// There are rules for HTTP requests here.
    pub http_rules: bool,
    /// Other connections to the same endpoints spoke HTTP.
    pub spoke_http: bool,
}

/// What that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The client speaks HTTP, or is to be told that it should.
    Http,
    /// Pass on what both send.
    Bytes,
    /// Neither has said anything.
    Wait,
    /// The server speaks HTTP, so the client will speak first, as late as it likes.
    AwaitClient,
    /// Somebody has begun a word: wait for its end, but not for long.
    AwaitWord,
}

/// What the bytes so far mean.
pub fn decide(seen: &Seen<'_>) -> Step {
    match detect(seen.client, seen.http_rules) {
        Detected::Http1 | Detected::Http2 => Step::Http,
        Detected::Tls | Detected::Other => Step::Bytes,
        Detected::NeedMore if seen.client.is_empty() => match seen.server {
            Greeting::Silent => Step::Wait,
            Greeting::Begun => Step::AwaitWord,
            Greeting::Http2 | Greeting::Http1 => Step::AwaitClient,
            Greeting::Other => Step::Bytes,
        },
        Detected::NeedMore if seen.server == Greeting::Other && !holds(seen) => Step::Bytes,
        Detected::NeedMore => Step::AwaitWord,
    }
}

/// What they mean when no more come: HTTP, whose own deadlines hold from there on, or bytes.
pub fn decide_late(seen: &Seen<'_>) -> Step {
    let server_is_http = seen.spoke_http || matches!(seen.server, Greeting::Http2 | Greeting::Http1);
    let may_be_http = !seen.client.is_empty() && resembles_http(seen.client);
    let http = may_be_http && (seen.http_rules || server_is_http);
    if http { Step::Http } else { Step::Bytes }
}

/// Whether what the client has begun must not pass as bytes.
fn holds(seen: &Seen<'_>) -> bool {
    seen.http_rules && !seen.client.is_empty() && resembles_http(seen.client)
}

/// Whether `bytes`, the first that a client sent, are or may become what some server takes for a request.
pub fn resembles_http(bytes: &[u8]) -> bool {
    let may_be_http = matches!(resemblance(bytes), Resemblance::Yes | Resemblance::Perhaps { held: true });
    may_be_http && bytes.first() != Some(&TLS_HANDSHAKE)
}

/// What a server's first bytes are.
pub fn greeting(bytes: &[u8]) -> Greeting {
    const ANSWER: &[u8] = b"HTTP/1.";
    /// The largest payload before the client has allowed more (RFC 9113, section 4.2).
    const MAX_FRAME: usize = 1 << 14;
    if bytes.is_empty() {
        return Greeting::Silent;
    }
    if bytes.starts_with(ANSWER) {
        return Greeting::Http1;
    }
    if ANSWER.starts_with(bytes) {
        return Greeting::Begun;
    }
    // Length in three bytes, type 4, no flags (it acknowledges nothing), stream 0 (section 4.1 and 6.5).
    let byte = |at: usize| bytes.get(at).copied();
    let length = usize::from(byte(1).unwrap_or(0)) << 8 | usize::from(byte(2).unwrap_or(0));
    let fits = byte(0) == Some(0)
        && length <= MAX_FRAME
        && (bytes.len() < 3 || length.is_multiple_of(6))
        && byte(3).is_none_or(|kind| kind == 4)
        && bytes.iter().skip(4).take(5).all(|byte| *byte == 0);
    match fits {
        false => Greeting::Other,
        true if bytes.len() < 9 => Greeting::Begun,
        true => Greeting::Http2,
    }
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods are case-sensitive and upper case by convention, but some clients send these in lower
/// case when they are asked to (`fetch` with `method: "patch"`).
const LOWER_CASE_METHODS: [&[u8]; 9] =
    [b"get", b"head", b"post", b"put", b"delete", b"connect", b"options", b"trace", b"patch"];

/// Longer than any registered method.
const LONGEST_METHOD: usize = 24;

/// TLS's ContentType of a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Empty lines before a request line, in bytes, that are taken for a client's slip (RFC 9112, section 2.2).
const EMPTY_LINES: usize = 64;

/// What `bytes`, the first that a client sent, are the beginning of. `http_rules`: there are rules for HTTP
/// requests here, which malformed ones are not to get around.
pub fn detect(bytes: &[u8], http_rules: bool) -> Detected {
    let Some(&first) = bytes.first() else { return Detected::NeedMore };
    if first == TLS_HANDSHAKE {
        return detect_tls(bytes);
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Detected::Http2;
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Detected::NeedMore;
    }
    let bytes = &bytes[..bytes.len().min(LIMIT)];
    match detect_http1_after_empty_lines(bytes) {
        Detected::Other | Detected::NeedMore if http_rules => match resemblance(bytes) {
            Resemblance::Yes => Detected::Http1,
            Resemblance::No => Detected::Other,
            Resemblance::Perhaps { .. } => Detected::NeedMore,
        },
        detected => detected,
    }
}

fn detect_http1_after_empty_lines(bytes: &[u8]) -> Detected {
    let mut rest = bytes;
    loop {
        rest = match rest {
            [b'\r', b'\n', after @ ..] | [b'\n', after @ ..] => after,
            [b'\r'] | [] if bytes.len() < EMPTY_LINES => return Detected::NeedMore,
            _ if bytes.len() - rest.len() >= EMPTY_LINES => return Detected::Other,
            _ => return detect_http1(rest),
        }
    }
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
        return if bytes.len() >= LIMIT - EMPTY_LINES { Detected::Http1 } else { Detected::NeedMore };
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
        true if bytes.len() >= LIMIT - EMPTY_LINES => Detected::Http1,
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
    fn answer(bytes: &[u8], http_rules: bool) -> Detected {
        let mut answer = Detected::NeedMore;
        for length in 0..=bytes.len() {
            let now = detect(&bytes[..length], http_rules);
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
            // RFC 9112, section 2.2.
            (b"\r\nGET / HTTP/1.1\r\n", Detected::Http1),
            (b"\r\n\n\r\nGET / HTTP/1.1\r\n", Detected::Http1),
            (b"\r\nhello\r\n", Detected::Other),
            (b"\rGET / HTTP/1.1\r\n", Detected::Other),
            (b"\r\n\r\n", Detected::NeedMore),
            (&[b'\n'; EMPTY_LINES], Detected::Other),
            (b"\r\nPRI * HTTP/2.0\r\n", Detected::Other),
        ];
        for (bytes, expected) in cases {
            assert_eq!(answer(bytes, false), *expected, "{:?}", bytes.escape_ascii().to_string());
        }
        assert_eq!(detect(b"", false), Detected::NeedMore);
    }

    const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";

    #[test]
    fn servers_are_known_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b""[..], Greeting::Silent),
            (b"\0\0\0\x04\0\0\0\0\0", Greeting::Http2),
            (SETTINGS, Greeting::Http2),
            (b"\0\x40\0\x04", Greeting::Other),
            (b"\0\x3f\xfc\x04\0\0\0\0\0", Greeting::Http2),
            (b"\0\x42\0", Greeting::Other),
            (b"\0\0\x05", Greeting::Other),
            (b"\0\0\x06\x04\x01", Greeting::Other),
            (b"\0\0\x06\x04\0\0\0\0\x01", Greeting::Other),
            (b"\0\0\x06\x05", Greeting::Other),
            (b"\x01\0\0", Greeting::Other),
            (b"HTTP/1.1 408 Request Timeout\r\n", Greeting::Http1),
            (b"HTTP/0", Greeting::Other),
            // MySQL (and one whose length resembles SETTINGS), SSH, SMTP, FTP, NATS, MariaDB's refusal.
            (b"\x4a\0\0\0\x0a8.0.36\0", Greeting::Other),
            (b"\0\x06\0\0\x0a", Greeting::Other),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Greeting::Other),
            (b"220 mail.example.com ESMTP\r\n", Greeting::Other),
            (b"INFO {}\r\n", Greeting::Other),
            (b"H", Greeting::Begun),
            (b"Hello\r\n", Greeting::Other),
        ] {
            assert_eq!(greeting(bytes), expected, "{:?}", bytes.escape_ascii().to_string());
        }
        for length in 1..9 {
            assert_eq!(greeting(&SETTINGS[..length]), Greeting::Begun, "{length}");
        }
    }

    /// What is decided at last when the client's and the server's bytes come in all orders and pieces, and
    /// nothing else for a long time.
    fn decisions(client: &[u8], server: &[u8], http_rules: bool) -> Vec<Step> {
        let mut found = Vec::new();
        // How many bytes of each side have come.
        let (mut ways, mut been) = (vec![(0, 0)], std::collections::HashSet::new());
        while let Some((from_client, from_server)) = ways.pop() {
            if !been.insert((from_client, from_server)) {
                continue;
            }
            let greeted = greeting(&server[..from_server]);
            let seen =
                Seen { client: &client[..from_client], server: greeted, http_rules, spoke_http: false };
            let decision = decide(&seen);
            // Once the server is known to wait, nobody listens to it any more.
            let hears_server = decision != Step::AwaitClient && from_server < server.len();
            match decision {
                Step::Http | Step::Bytes => found.push(decision),
                _ if from_client < client.len() || hears_server => {
                    ways.extend((from_client < client.len()).then_some((from_client + 1, from_server)));
                    ways.extend(hears_server.then_some((from_client, from_server + 1)));
                }
                Step::AwaitWord => found.push(decide_late(&seen)),
                Step::Wait | Step::AwaitClient => found.push(decision),
            }
        }
        found.sort_by_key(|decision| *decision as u8);
        found.dedup();
        found
    }

    #[test]
    fn a_server_that_sends_settings_waits_for_its_client() {
        let settings = &SETTINGS[..9];
        for http_rules in [false, true] {
            let decided = |client: &[u8], server: &[u8]| decisions(client, server, http_rules);
            assert_eq!(decided(b"", settings), [Step::AwaitClient]);
            assert_eq!(decided(&HTTP2_PREFACE[..18], settings), [Step::Http]);
            assert_eq!(decided(b"GET / HTTP", settings), [Step::Http]);
            assert_eq!(decided(b"*1\r\n", settings), [Step::Bytes]);
            assert_eq!(decided(b"", &settings[..5]), [Step::Bytes]);
            assert_eq!(decided(b"", b"220 x"), [Step::Bytes]);
            assert_eq!(decided(b"", b""), [Step::Wait]);
        }
        assert_eq!(decisions(b"GET", b"", false), [Step::Bytes]);
        assert_eq!(decisions(b"GET", b"", true), [Step::Http]);
        // Whoever speaks first decides, where that leads around nothing.
        assert_eq!(decisions(b"GET", b"220 x", false), [Step::Bytes]);
    }

    #[test]
    fn a_word_begun_on_a_port_that_spoke_http_is_http() {
        let seen = Seen { client: b"GET /", server: Greeting::Silent, http_rules: false, spoke_http: true };
        assert_eq!((decide(&seen), decide_late(&seen)), (Step::AwaitWord, Step::Http));
        let silent = Seen { client: b"", ..seen };
        assert_eq!((decide(&silent), decide_late(&silent)), (Step::Wait, Step::Bytes));
        let tls = Seen { client: b"\x16\x03", ..seen };
        assert_eq!((decide(&tls), decide_late(&tls)), (Step::AwaitWord, Step::Bytes));
    }

    #[test]
    fn under_rules_nothing_passes_that_a_server_could_take_for_a_request() {
        let long_method = format!("{} / HTTP/1.1\r\n", "M".repeat(2000));
        let long_target = format!("GET {} HTTP/1.1\r\n", "x".repeat(2000));
        let cases: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n",
            b" GET / HTTP/1.1\r\n",
            b"\t\x0b\x0c \r\n\nGET / HTTP/1.1\r\n",
            b"\0GET / HTTP/1.1\r\n",
            b"\xa0GET / HTTP/1.1\r\n",
            b"GET  / HTTP/1.1\r\n",
            b"GET\t/ HTTP/1.1\r\n",
            b"GET\xa0/\xa0HTTP/1.1\r\n",
            b"GET\0/ HTTP/1.1\r\n",
            b"GET\r/ HTTP/1.1\r\n",
            b"GET\r\n / HTTP/1.1\r\n",
            b"GET / http/1.1\r\n",
            b"GET / HTTP/1.2\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GET / HTTP/3\n",
            b"GET / HTTP/1.1\n",
            b"GET / HTTP\n",
            b"GET / \r\n",
            b"GET /\n",
            b"GET admin\r\n",
            b"GET admin HTTP/1.1\r\n",
            b"GET/ HTTP/1.1\r\n",
            b"get /\r\n",
            b"gEt / HTTP/1.1\r\n",
            b"FOO / HTTP/1.1\r\n",
            b"foo admin HTTP/1.1\r\n",
            b"*FOO / HTTP/1.1\r\n",
            b"G(ET / HTTP/1.1\r\n",
            b"POST /\0 HTTP/1.1\r\n",
            b"OPTIONS * HTTP/1.1\r\n",
            b"PUT HTTP://c/ HTTP/1.1\r\n",
            b"GET ftp://c/ X\r\n",
            b"PRI * HTTP/2.0\r\n\r\nXX",
            b"\r\nPRI * HTTP/2.0\r\n",
            long_method.as_bytes(),
            long_target.as_bytes(),
        ];
        for bytes in cases {
            let shown = bytes[..bytes.len().min(40)].escape_ascii().to_string();
            let detected = answer(bytes, true);
            assert!(matches!(detected, Detected::Http1 | Detected::Http2), "{shown}: {detected:?}");
            // However it is split, and wherever it pauses.
            for length in 1..bytes.len().min(LIMIT) {
                let seen = Seen {
                    client: &bytes[..length],
                    server: Greeting::Silent,
                    http_rules: true,
                    spoke_http: false,
                };
                let late = decide(&seen) == Step::Http || decide_late(&seen) == Step::Http;
                assert!(late, "{shown}: {length}");
            }
        }
    }

    #[test]
    fn under_rules_other_protocols_pass() {
        let cases: &[&[u8]] = &[
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"SET key value\r\n",
            b"get key\r\n",
            b"EHLO client.example.com\r\n",
            b"QUIT\r\n",
            b"a001 LOGIN me secret\r\n",
            b"NICK me\r\n",
            b"CONNECT {\"verbose\":false}\r\n",
            b"CONNECT\naccept-version:1.2\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"AMQP\0\0\x09\x01",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\0\0\0\x54\0\x03\0\0user\0postgres\0\0",
            b"\x41\0\0\0\x01\0\0\0",
            b"\x10\x20\0\x04MQTT\x05",
            b"{\"id\": 1}\n",
            b"\x20\0\0\x01\x85\xa6",
        ];
        for bytes in cases {
            assert_eq!(answer(bytes, true), Detected::Other, "{:?}", bytes.escape_ascii().to_string());
        }
        assert_eq!(answer(b"\x16\x03\x01\x02\x00\x01\x00\x01", true), Detected::Tls);
        // What is all control characters, or a text without lines, waits and is no request when it ends there.
        for client in [&b"\x05\x01\0"[..], b"<?xml version='1.0'?><stream>", b"{\"id\": 1}"] {
            let seen = Seen { client, server: Greeting::Silent, http_rules: true, spoke_http: false };
            assert_eq!((decide(&seen), decide_late(&seen)), (Step::AwaitWord, Step::Bytes));
        }
    }

    /// Some servers split a request line at white space, and look at nothing else.
    #[test]
    fn under_rules_a_line_that_ends_as_requests_do_is_one_whatever_its_method() {
        let methods = [
            "\"GET\"",
            "@GET",
            "{",
            "\u{c9}",
            "/",
            "\u{feff}GET",
            "<GET>",
            "(GET)",
            "[",
            "=",
            ":",
            ";GET",
            "\\GET",
            "G\u{c9}T",
            "GE\u{c9}T",
            "?",
        ];
        let lines = methods.map(|method| format!("{method} /secret HTTP/1.1\r\n"));
        let odd =
            ["GET|/admin/s|HTTP/1.1\n", "\"GET\"\t/x\thttp/1.0 \r\n", "GET,/x,HTTP/2\n", "@ HTTP/1.\r\n"];
        for line in lines.iter().map(String::as_str).chain(odd) {
            let bytes = line.as_bytes();
            assert_eq!(answer(bytes, true), Detected::Http1, "{line:?}");
            for length in 1..bytes.len() {
                assert_ne!(detect(&bytes[..length], true), Detected::Other, "{line:?}: {length}");
            }
        }
        for line in [
            "{\"see\": \"HTTP/1.1\"}\n",
            "<a> XHTTP/1.1\n",
            "\"GET\" / HTTP/x\n",
            "/ HTTP/\n",
            "(\0 / HTTP/1.1\n",
        ] {
            assert_eq!(answer(line.as_bytes(), true), Detected::Other, "{line:?}");
        }
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
            answer(&bytes, false);
            answer(&bytes, true);
        }

        #[test]
        fn enough_bytes_always_have_an_answer(method in "[A-Z]{1,24}", byte in any::<u8>()) {
            let mut bytes = format!("{method} /").into_bytes();
            bytes.resize(LIMIT, byte);
            for http_rules in [false, true] {
                prop_assert_ne!(detect(&bytes, http_rules), Detected::NeedMore);
                prop_assert_ne!(detect(&vec![byte; LIMIT], http_rules), Detected::NeedMore);
            }
        }

        #[test]
        fn every_method_makes_a_request_line(method in "[A-Z][A-Z0-9_-]{0,23}", path in "/[!-~]{0,200}") {
            let line = format!("{method} {path} HTTP/1.1\r\n");
            prop_assume!(method != "CONNECT");
            prop_assert_eq!(answer(line.as_bytes(), false), Detected::Http1);
            prop_assert_eq!(answer(line.as_bytes(), true), Detected::Http1);
        }

        /// What is HTTP without rules is HTTP under them.
        #[test]
        fn rules_only_widen_what_is_http(bytes in openings()) {
            let without = detect(&bytes, false);
            if matches!(without, Detected::Http1 | Detected::Http2 | Detected::Tls) {
                prop_assert_eq!(detect(&bytes, true), without);
            }
        }

        #[test]
        fn a_greeting_never_changes(kept in 0usize..10, rest in any::<Vec<u8>>()) {
            let bytes = [&SETTINGS[..kept.min(9)], &rest].concat();
            let mut known = Greeting::Silent;
            for length in 0..=bytes.len() {
                let now = greeting(&bytes[..length]);
                if !matches!(known, Greeting::Silent | Greeting::Begun) {
                    prop_assert_eq!(now, known);
                }
                known = now;
            }
        }
    }
}
