//! Requests on streams of HTTP/2.

use std::future::poll_fn;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Response};

use crate::http::body::{Body, Gate};
use crate::http2::{Error, Handle, RequestHead, send_body};

/// A request that got no answer.
pub struct Failed {
    pub error: Error,
    /// Some of it may have reached the peer.
    pub sent: bool,
}

/// Sends a request, whose URI must have scheme and authority, with headers that come on top of its own, and
/// returns when the head of the answer is there. The connection must be ready for a stream. `body` is left
/// where it is if nothing was sent. Dropping the future, or the answer's body before its end, resets the
/// stream.
pub async fn request(
    connection: &Handle,
    head: &Parts,
    more: &[(HeaderName, HeaderValue)],
    body: &mut Option<Body>,
) -> Result<Response<Body>, Failed> {
    let empty = body.as_ref().is_none_or(http_body::Body::is_end_stream);
    let request = RequestHead { method: &head.method, uri: &head.uri, headers: &head.headers, more };
    let opened = connection.request(&request, empty);
    let (mut sender, mut receiver) = opened.map_err(|error| Failed { error, sent: false })?;
    if let Some(mut body) = body.take().filter(|_| !empty) {
        if let Some(mut bytes) = body.take_whole() {
            sender.send(&mut bytes, true);
            body = Body::whole(bytes);
        }
        if !http_body::Body::is_end_stream(&body) {
            tokio::task::spawn_local(async move {
                // A failure shows in the answer.
                let _ = send_body(&mut sender, body).await;
            });
        }
    }
    let gate = head.extensions.get::<Gate>();
    let answered = poll_fn(|cx| {
        let polled = receiver.poll_head(cx);
        // The application wants the body that is held back.
        if let Some(gate) = gate
            && receiver.may_continue()
        {
            gate.open();
        }
        polled
    });
    let head = answered.await.map_err(|error| Failed { error, sent: true })?;
    Ok(Response::from_parts(head, Body::from(receiver)))
}
