//! How the sender of an HTTP/1 message wrote what its recipient need not tell apart: the letters and the order of
//! field names (RFC 9110, section 5.1), and the reason phrase of an answer (RFC 9112, section 4). Some old clients and
//! applications depend on it. Where a port asks for it, it goes with the message, over links in a header of the mesh's
//! own, whose sender is not trusted to say no more than is so.

use bytes::Bytes;
use http::header::HeaderMap;
use http::{HeaderName, HeaderValue};

use crate::mesh_headers::SPELLING;

/// Longer ones do not go with a message, and are not taken: a link has room for that much beside it.
pub(crate) const MOST: usize = 4 << 10;
/// The longest name of a service (RFC 1035), and a port.
const MOST_OF_PORT: usize = 63 + "/65535".len();

/// The port that asks for it (`service/port`, of requests on links); behind a colon, the names of a message's fields in
/// the order and letters in which they came, with commas between them; behind a second one, an answer's reason phrase.
/// In the extensions of messages, and in trailers as a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spelling(HeaderValue);

/// The head of a request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Written(pub Bytes);

impl Spelling {
    /// Of a request, whose head is well-formed.
    #[cold]
    pub fn of_request(head: &[u8]) -> Option<Self> {
        Self::of(names(head), b"")
    }

    /// Of an answer, whose head is well-formed.
    #[cold]
    pub fn of_response(head: &[u8]) -> Option<Self> {
        let line = lines(head).next().unwrap_or_default();
        // Behind the version and the code.
        Self::of(names(head), line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default())
    }

    /// Of a message whose fields have these names.
    pub fn of<'h>(names: impl Iterator<Item = &'h [u8]>, phrase: &[u8]) -> Option<Self> {
        let mut text = vec![b':'];
        for name in names {
            if text.len() > 1 {
                text.push(b',');
            }
            text.extend_from_slice(name);
            if text.len() > MOST {
                return None;
            }
        }
        text.push(b':');
        text.extend_from_slice(phrase.trim_ascii());
        if text.len() > MOST {
            return None;
        }
        HeaderValue::from_maybe_shared(Bytes::from(text)).ok().map(Self)
    }

    /// The same of a request, as port `port` of `service` asks for it.
    #[cold]
    pub fn asked_by(self, service: &str, port: u16) -> Self {
        let text = [format!("{service}/{port}").as_bytes(), self.0.as_bytes()].concat();
        HeaderValue::from_maybe_shared(Bytes::from(text)).map_or(self, Self)
    }

    /// Which service asks for it, in the namespace of whoever it is for, and at which port.
    pub fn port(&self) -> Option<(&str, u16)> {
        let port = self.0.as_bytes().split(|byte| *byte == b':').next()?;
        let (service, port) = std::str::from_utf8(port).ok()?.split_once('/')?;
        Some((service, port.parse().ok()?))
    }

    /// The field that says it on a link.
    pub fn field(&self) -> (HeaderName, HeaderValue) {
        (SPELLING, self.0.clone())
    }

    /// Takes it off a message that came over a link, or off trailers, if it is one that we could have said.
    #[inline]
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        headers.remove(SPELLING).filter(|value| is_well_formed(value.as_bytes())).map(Self)
    }

    /// What trailers say of themselves.
    pub fn of_trailers(trailers: &HeaderMap) -> Option<Self> {
        trailers.get(SPELLING).cloned().map(Self)
    }

    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let names = self.0.as_bytes().split(|byte| *byte == b':').nth(1).unwrap_or_default();
        names.split(|byte| *byte == b',').filter(|name| !name.is_empty())
    }

    pub fn phrase(&self) -> &[u8] {
        self.0.as_bytes().splitn(3, |byte| *byte == b':').nth(2).unwrap_or_default()
    }
}

#[cold]
fn is_well_formed(text: &[u8]) -> bool {
    let mut parts = text.splitn(3, |byte| *byte == b':');
    let (Some(port), Some(names), Some(_)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let is_token = |name: &[u8]| {
        name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
    };
    port.len() <= MOST_OF_PORT
        && text.len() - port.len() <= MOST
        && names.split(|byte| *byte == b',').all(is_token)
}

/// The names of a head's fields.
fn names(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let fields = lines(head).skip(1).take_while(|line| !line.is_empty());
    fields.map(|line| line.split(|byte| *byte == b':').next().unwrap_or_default())
}

/// The lines of a head, without their ends, from the first that is not empty.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.skip_while(|line| line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &[u8]) -> Option<Spelling> {
        let mut headers = HeaderMap::from_iter([(SPELLING, HeaderValue::from_bytes(text).unwrap())]);
        let told = Spelling::take(&mut headers);
        assert!(headers.is_empty());
        told
    }

    #[test]
    fn a_peers_word_is_no_longer_and_no_other_than_ours() {
        let head = b"GET / HTTP/1.1\r\nHOST: c\r\nX-a:1\r\n\r\n";
        let own = Spelling::of_request(head).unwrap().asked_by("c", 80);
        assert_eq!(told(own.field().1.as_bytes()), Some(own.clone()));
        assert_eq!((own.port(), own.phrase()), (Some(("c", 80)), &b""[..]));
        assert_eq!(own.names().collect::<Vec<_>>(), [&b"HOST"[..], b"X-a"]);
        let answer = Spelling::of_response(b"HTTP/1.1 200 No: such, thing\r\nA: 1\r\n\r\n").unwrap();
        let answer = told(answer.field().1.as_bytes()).unwrap();
        assert_eq!((answer.port(), answer.phrase()), (None, &b"No: such, thing"[..]));
        let names = |length: usize| format!("c/80:{}:", vec!["a"; length / 2].join(","));
        assert!(told(names(MOST - 2).as_bytes()).is_some());
        let service = "s".repeat(70);
        for bad in [
            &names(MOST + 2),
            &names(50_000),
            &format!("::{}", "x".repeat(MOST)),
            &format!("{service}/80:A:"),
            "",
            "A,B",
            "A,B:",
            "c/80:A B:",
            "c/80:A,B\t:",
            "c/80:\"A\":",
        ] {
            assert_eq!(told(bad.as_bytes()), None, "{bad:.100}");
        }
    }
}
