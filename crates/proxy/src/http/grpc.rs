//! Answers of gRPC that break: where the last message is whole, the caller gets a status instead of a reset, which
//! it would take for its own doing or for a fault of the service's.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::limits::OutOfTime;
use crate::http2;
use crate::inbound::presence::Withdrawn;

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The bytes before a message: whether it is compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: u8 = 5;

/// Where in its messages a body is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Messages {
    /// Bytes of a prefix that have passed, and the length that they say so far.
    prefix: u8,
    length: u32,
    /// What is left of a message.
    left: u32,
}

impl Messages {
    /// Those of an answer that may break between two. It no longer says how long it is: that would be a lie where it breaks,
    /// and gRPC has no use for it.
    pub fn of(answer: &mut HeaderMap) -> Self {
        answer.remove(CONTENT_LENGTH);
        Self::default()
    }

    /// The next part of the body has passed.
    pub fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let skipped = data.len().min(self.left as usize);
            self.left -= skipped as u32;
            data = &data[skipped..];
            while self.left == 0
                && let Some((&byte, rest)) = data.split_first()
            {
                data = rest;
                // The first byte says whether it is compressed, and has left the length when that is complete.
                self.length = self.length << 8 | u32::from(byte);
                self.prefix += 1;
                if self.prefix == PREFIX {
                    (self.prefix, self.left) = (0, self.length);
                }
            }
        }
    }

    /// Whether no message is begun and not ended.
    fn is_whole(&self) -> bool {
        self.prefix == 0 && self.left == 0
    }

    /// What a body ends with that broke so: UNAVAILABLE, so that the caller tries again, DEADLINE_EXCEEDED where its time
    /// is over, PERMISSION_DENIED where a policy ended it, UNAUTHENTICATED where its token is too old. `None`: with a reset, as a
    /// message is cut, or the application said itself what happened.
    #[cold]
    pub fn trailers(&self, error: &(dyn std::error::Error + 'static)) -> Option<HeaderMap> {
        let said = error.downcast_ref().and_then(http2::Error::code).is_some();
        if said || !self.is_whole() {
            return None;
        }
        let (code, message) = if error.is::<OutOfTime>() {
            ("4", "tulle: timeout")
        } else if error.downcast_ref() == Some(&Withdrawn::Denied) {
            ("7", "tulle: denied")
        } else if error.downcast_ref() == Some(&Withdrawn::Old) {
            ("16", "tulle: a valid token is needed again")
        } else {
            ("14", "tulle: the connection broke before the answer's end")
        };
        let mut trailers = HeaderMap::new();
        trailers.insert(STATUS, HeaderValue::from_static(code));
        trailers.insert(MESSAGE, HeaderValue::from_static(message));
        Some(trailers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::{Error, ErrorCode};

    #[test]
    fn messages_are_followed_through_any_pieces() {
        let long = [&[0, 0, 1, 0, 0][..], &[7; 65_536]].concat();
        let body = [&b"\0\0\0\0\x03abc\x01\0\0\0\0"[..], &long, b"\0\0\0\0\x01x"].concat();
        let ends = [0, 8, 13, 13 + 65_541, body.len()];
        for piece in [1, 2, 3, 5, 7, 1000, body.len()] {
            let mut messages = Messages::default();
            let mut passed = 0;
            for part in body.chunks(piece) {
                messages.pass(part);
                passed += part.len();
                assert_eq!(messages.is_whole(), ends.contains(&passed), "{passed} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_status_takes_the_place_of_what_broke_and_not_of_what_was_said() {
        let lost = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let mut messages = Messages::default();
        assert_eq!(messages.trailers(&lost).unwrap()[STATUS], "14");
        assert_eq!(messages.trailers(&Error::ResetHere(ErrorCode::PROTOCOL_ERROR)).unwrap()[STATUS], "14");
        assert_eq!(messages.trailers(&Withdrawn::Denied).unwrap()[STATUS], "7");
        assert_eq!(messages.trailers(&Withdrawn::Old).unwrap()[STATUS], "16");
        assert_eq!(messages.trailers(&Withdrawn::Gone).unwrap()[STATUS], "14");
        assert_eq!(messages.trailers(&Error::Reset(ErrorCode::CANCEL)), None);
        messages.pass(&[0, 0]);
        assert_eq!(messages.trailers(&lost), None);
    }
}
