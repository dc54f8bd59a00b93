//! Trailer sections on their way through a proxy.
//!
//! A field that has no place there is dropped, and the message goes on (RFC 9110, section 6.5.1): whoever reads
//! it would have to act on what it has acted on before. All versions of HTTP and all ways are alike in that.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::Frame;

use crate::http::spelling::Spelling;

/// What of a trailer section that came in is passed on, if anything is. `named`: the fields that the message's
/// `Connection` names (RFC 9110, section 7.6.1).
#[cold]
pub fn passed_on(trailers: HeaderMap, named: &[HeaderName]) -> Option<Frame<Bytes>> {
    cleaned(trailers, named).map(Frame::trailers)
}

/// The same, with what they say of how they are written: it is our own word, or that of a peer where a port asks for it.
#[cold]
pub fn passed_on_as_written(mut trailers: HeaderMap, named: &[HeaderName]) -> Option<Frame<Bytes>> {
    let spelling = Spelling::take(&mut trailers);
    let mut cleaned = cleaned(trailers, named)?;
    cleaned.extend(spelling.map(|spelling| spelling.field()));
    Some(Frame::trailers(cleaned))
}

fn cleaned(mut trailers: HeaderMap, named: &[HeaderName]) -> Option<HeaderMap> {
    let lost: Vec<HeaderName> =
        trailers.keys().filter(|name| !may_trail(name) || named.contains(name)).cloned().collect();
    for name in lost {
        trailers.remove(name);
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// Whether a field may be in a trailer section: not what is about framing, routing, authentication, the connection,
/// how to understand what came before, or what to do with it; nor what is the mesh's own.
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    !is_of_connection(name)
        && !matches!(
            name.as_str(),
            "age"
                | "authorization"
                | "cache-control"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "expect"
                | "expires"
                | "host"
                | "location"
                | "max-forwards"
                | "pragma"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "range"
                | "retry-after"
                | "set-cookie"
                | "trailer"
                | "vary"
                | "www-authenticate"
        )
        && !name.as_str().starts_with("if-")
        && !name.as_str().starts_with("tulle-")
}

/// Whether a field is about one connection only (RFC 9110, section 7.6.1): in HTTP/2 it has no place (RFC 9113,
/// section 8.2.2).
pub(crate) fn is_of_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::mesh_headers::SPELLING;

    #[test]
    fn trailers_keep_what_is_the_applications() {
        let section = |names: &[&'static str]| {
            let field = |name: &&'static str| (HeaderName::from_static(name), HeaderValue::from_static("1"));
            HeaderMap::from_iter(names.iter().map(field))
        };
        let named = [HeaderName::from_static("x-named")];
        let lost =
            ["tulle-reason", "tulle-x", "keep-alive", "te", "x-named", "if-match", "content-length", "host"];
        let kept = ["x-sum", "grpc-status", "digest", "etag", "server-timing"];
        let passed = passed_on(section(&[&lost[..], &kept].concat()), &named).unwrap();
        assert_eq!(passed.into_trailers().unwrap(), section(&kept));
        assert!(passed_on(section(&lost), &named).is_none());
    }

    #[test]
    fn trailers_say_how_they_were_written_where_that_can_be() {
        let fields = |spelling: &'static str, name: &'static str| {
            HeaderMap::from_iter(
                [(SPELLING, spelling), (HeaderName::from_static(name), "1")]
                    .map(|(name, value)| (name, HeaderValue::from_static(value))),
            )
        };
        let passed =
            |trailers| passed_on_as_written(trailers, &[]).map(|frame| frame.into_trailers().unwrap());
        let said = fields(":X-Sum:", "x-sum");
        assert_eq!(passed(said.clone()), Some(said.clone()));
        let plain = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("1"))]);
        assert_eq!(passed(fields("no spelling", "x-sum")), Some(plain.clone()));
        assert_eq!(passed(plain.clone()), Some(plain.clone()));
        assert_eq!(passed_on(said, &[]).map(|frame| frame.into_trailers().unwrap()), Some(plain));
        assert_eq!(passed(fields(":Host:", "host")), None, "there is nothing to be said of");
    }
}
