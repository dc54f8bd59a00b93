//! How the sender of an HTTP/1 message wrote what its recipient need not tell apart: the letters and the order of
//! field names (RFC 9110, section 5.1), and the reason phrase of an answer (RFC 9112, section 4). Some old clients and
//! applications depend on it. Where a port asks for it, it goes with the message, over links in a header of the mesh's
//! own.

use bytes::Bytes;
use http::header::HeaderMap;
use http::{HeaderName, HeaderValue};

use crate::link::SPELLING;

/// Longer ones do not go with a message: a link has room for that much beside it.
const MOST: usize = 4 << 10;

/// The names of a head's fields in the order and letters in which they came, with commas between them; behind a colon,
/// an answer's reason phrase. In the extensions of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spelling(HeaderValue);

/// The head of a request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Written(pub Bytes);

impl Spelling {
    /// Of a request, whose head is well-formed.
    #[cold]
    pub fn of_request(head: &[u8]) -> Option<Self> {
        Self::of(head, b"")
    }

    /// Of an answer, whose head is well-formed.
    #[cold]
    pub fn of_response(head: &[u8]) -> Option<Self> {
        let line = lines(head).next().unwrap_or_default();
        // Behind the version and the code.
        Self::of(head, line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default())
    }

    fn of(head: &[u8], phrase: &[u8]) -> Option<Self> {
        let mut text = Vec::new();
        for line in lines(head).skip(1).take_while(|line| !line.is_empty()) {
            if !text.is_empty() {
                text.push(b',');
            }
            text.extend(line.iter().take_while(|byte| **byte != b':'));
        }
        text.push(b':');
        text.extend_from_slice(phrase.trim_ascii());
        if text.len() > MOST {
            return None;
        }
        HeaderValue::from_maybe_shared(Bytes::from(text)).ok().map(Self)
    }

    /// The field that says it on a link.
    pub fn field(&self) -> (HeaderName, HeaderValue) {
        (SPELLING, self.0.clone())
    }

    /// Takes it off a message that came over a link.
    #[inline]
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        headers.remove(SPELLING).map(Self)
    }

    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let names = self.0.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        names.split(|byte| *byte == b',').filter(|name| !name.is_empty())
    }

    pub fn phrase(&self) -> &[u8] {
        self.0.as_bytes().splitn(2, |byte| *byte == b':').nth(1).unwrap_or_default()
    }
}

/// The lines of a head, without their ends, from the first that is not empty.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.skip_while(|line| line.is_empty())
}
