//! Bodies of answers.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde::Serialize;
use serde_json::Value;

use super::status::Failure;

/// The body of an answer: whole, or a stream (of a watch).
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub(super) type Reply = Response<Body>;

pub(super) fn bytes(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Full::new(content.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn json(status: StatusCode, value: &Value) -> Reply {
    bytes(status, "application/json", value.to_string())
}

/// What the API shows beside resources.
pub(super) fn view(code: StatusCode, view: &impl Serialize) -> Result<Reply, Failure> {
    let value = serde_json::to_value(view).map_err(|error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", error.to_string())
    })?;
    Ok(json(code, &value))
}

pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Reply {
    bytes(status, "text/plain; charset=utf-8", text.into())
}

pub(super) fn stream(lines: impl Stream<Item = Bytes> + Send + 'static) -> Reply {
    use futures_util::StreamExt;
    let body = StreamBody::new(lines.map(|line| Ok::<_, Infallible>(Frame::data(line))));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to `HEAD`: what `GET` would get, without its body (RFC 9110, section 9.3.2).
pub(super) fn without_body(reply: Reply) -> Reply {
    let (mut head, body) = reply.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, Full::default().boxed_unsync())
}

pub(super) fn failure(failure: &Failure) -> Reply {
    let mut response = json(failure.code, &failure.object());
    let retry = failure.details.as_ref().and_then(|details| details.get("retryAfterSeconds"));
    if let Some(seconds) = retry.and_then(Value::as_u64) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds what the caller should know, in the form that kubectl prints (RFC 7234, section 5.5, code 299).
pub(super) fn warn(response: &mut Reply, warnings: &[String]) {
    // More than a few help nobody, and headers are bounded.
    for warning in warnings.iter().take(20) {
        let mut quoted = String::new();
        for char in warning.chars().filter(|char| !char.is_control()).take(400) {
            if matches!(char, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(char);
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
