//! `Max-Forwards` (RFC 9110, section 7.6.2): how far a TRACE or OPTIONS request goes. So its sender finds out who is on
//! the way; the mesh is one on it, however many of its nodes are.

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderValue, MAX_FORWARDS, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::{Method, Response};

use crate::http::body::Body;
use crate::http::headers::MalformedHead;
use crate::http::reply::reply;
use crate::reason::Reason;
use crate::uri;

/// Counts the mesh. Whether the request goes no further.
pub(super) fn count(head: &mut Parts) -> Result<bool, MalformedHead> {
    if head.method != Method::OPTIONS && head.method != Method::TRACE {
        return Ok(false);
    }
    let mut values = head.headers.get_all(MAX_FORWARDS).iter();
    let Some(value) = values.next() else { return Ok(false) };
    let digits = value.to_str().unwrap_or_default();
    if values.next().is_some() || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(MalformedHead("Max-Forwards is no number"));
    }
    let left = digits.parse().unwrap_or(u64::MAX);
    if left > 0 {
        head.headers.insert(MAX_FORWARDS, (left - 1).into());
    }
    Ok(left == 0)
}

/// The answer to a request of the inner form that goes no further: TRACE gets what came (section 9.3.8), without what
/// is secret.
pub(super) fn answer(head: &Parts) -> Response<Body> {
    let mut response = reply(Reason::MaxForwards, "the request is to be passed on no further (Max-Forwards)");
    if head.method == Method::TRACE {
        *response.body_mut() = Body::whole(message(head).into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("message/http"));
    }
    response
}

fn message(head: &Parts) -> Vec<u8> {
    let mut text = b"TRACE ".to_vec();
    text.extend_from_slice(uri::path(&head.uri, &head.extensions));
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    text.extend_from_slice(format!(" {:?}\r\nhost: {authority}\r\n", head.version).as_bytes());
    for (name, value) in &head.headers {
        if ![AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(name) {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                text.extend_from_slice(part);
            }
        }
    }
    text.extend_from_slice(b"\r\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: Method, values: &[&'static str]) -> Parts {
        let request = http::Request::builder().method(method).uri("http://c/x?y").header(COOKIE, "a=b");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        values.iter().for_each(|value| {
            head.headers.append(MAX_FORWARDS, HeaderValue::from_static(value));
        });
        head
    }

    #[test]
    fn the_mesh_is_one_on_the_way() {
        const MANY: &str = "99999999999999999999999";
        for method in [Method::OPTIONS, Method::TRACE] {
            for (value, left) in [("1", "0"), ("007", "6"), ("0", "0"), (MANY, "18446744073709551614")] {
                let mut head = head(method.clone(), &[value]);
                assert_eq!(count(&mut head), Ok(value == "0"), "{value}");
                assert_eq!(head.headers[MAX_FORWARDS], left);
            }
            for values in [&["-1"][..], &[""], &["1, 2"], &["1", "2"], &["x"], &["+1"]] {
                assert!(count(&mut head(method.clone(), values)).is_err(), "{values:?}");
            }
            assert_eq!(count(&mut head(method, &[])), Ok(false));
        }
        let mut other = head(Method::GET, &["0"]);
        assert_eq!((count(&mut other), &other.headers[MAX_FORWARDS]), (Ok(false), &HeaderValue::from(0)));
    }

    #[test]
    fn traces_show_no_secrets() {
        for (method, shown) in [(Method::TRACE, "message/http"), (Method::OPTIONS, "text/plain")] {
            let answer = answer(&head(method, &["0"]));
            assert_eq!(answer.headers()["tulle-reason"], "max-forwards");
            assert!(answer.headers()[CONTENT_TYPE].to_str().unwrap().starts_with(shown), "{shown}");
        }
        let text = message(&head(Method::TRACE, &["0"]));
        assert_eq!(text, b"TRACE /x?y HTTP/1.1\r\nhost: c\r\nmax-forwards: 0\r\n\r\n");
    }
}
