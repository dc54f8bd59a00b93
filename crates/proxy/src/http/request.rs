//! Requests on streams of HTTP/2.

use std::future::poll_fn;
use std::task::{Poll, ready};

use bytes::Bytes;
use http::Response;

use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::asker::Asker;
use crate::http::body::Body;
use crate::http::spelling::Spelling;
use crate::http2::{Error, Handle, RequestFields, send_body};
use crate::metrics::StreamWait;
use crate::turn::{Rules, Turn};

/// A request that got no answer.
struct FailedRequest {
    error: Error,
    /// Some of it may have reached the peer.
    sent: bool,
}

/// Sends a request, whose URI must have scheme and authority, and returns when the head of the answer is there;
/// interim answers go to `asker`. `place` gives the connection to open a stream on, which has room for one. What
/// the peer sends back for nobody's fault is sent again, as long as its body is at hand. `to` names the peer for
/// people.
///
/// Dropping the future, or the answer's body before its end, resets the stream.
pub(crate) async fn request(
    rules: &Rules,
    to: &dyn std::fmt::Display,
    mut place: impl AsyncFnMut(&mut Turn) -> Result<Handle, UpstreamError>,
    head: &RequestFields<'_>,
    body: Body,
    asker: &Asker,
) -> Result<Response<Body>, UpstreamError> {
    let mut turn = Turn::begin(rules);
    let mut body = Some(body);
    loop {
        let connection = place(&mut turn).await?;
        let FailedRequest { error, sent } = match try_once(&connection, head, &mut body, asker).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        if matches!(error, Error::Full) {
            rules.count(StreamWait::Refused);
        }
        if body.is_some() && Box::pin(turn.again(rules, &error, connection.open_streams())).await {
            continue;
        }
        let kind = match error {
            Error::Full if body.is_some() => return Err(turn.in_vain(rules, to)),
            Error::Full => UpstreamErrorKind::StreamsFull,
            Error::NotProcessed if body.is_none() => UpstreamErrorKind::WentAway,
            Error::Stalled => UpstreamErrorKind::Timeout,
            // Neither the same nor another endpoint would take it for anything else.
            Error::Oversized | Error::TooLargeForPeer(_) => {
                let (kind, what) = match error {
                    Error::Oversized => (UpstreamErrorKind::AnswerHeadersTooLarge, "answer of"),
                    _ => (UpstreamErrorKind::HeadersTooLarge, "request for"),
                };
                return Err(UpstreamError::after_sending(kind, format!("the {what} {to}: {error}")));
            }
            Error::Reset(code) => UpstreamErrorKind::Reset(code.0),
            Error::Malformed(_) => {
                let message = format!("the answer of {to} cannot be passed on: {error}");
                return Err(UpstreamError::bad_answer(message));
            }
            _ => UpstreamErrorKind::ConnectionLost,
        };
        let safe_to_retry = !sent || error.is_unprocessed();
        let message = format!("the connection to {to} broke before it answered: {error}");
        return Err(UpstreamError::new(kind, safe_to_retry, message));
    }
}

/// Sends a request once. `body` is left where it is if nothing was sent, and is given back if it was there as a
/// whole and the peer has not looked at it.
async fn try_once(
    connection: &Handle,
    head: &RequestFields<'_>,
    body: &mut Option<Body>,
    asker: &Asker,
) -> Result<Response<Body>, FailedRequest> {
    let empty = body.as_ref().is_none_or(http_body::Body::is_end_stream);
    let opened = connection.request(head, empty);
    let (mut sender, mut receiver) = opened.map_err(|error| FailedRequest { error, sent: false })?;
    let mut whole = None;
    match body.take().filter(|_| !empty) {
        Some(mut taken) => {
            if let Some(mut bytes) = taken.take_whole() {
                whole = Some(bytes.clone());
                sender.send(&mut bytes, true);
                taken = Body::whole(bytes);
            }
            if !http_body::Body::is_end_stream(&taken) {
                tokio::task::spawn_local(async move {
                    // A failure shows in the answer.
                    let _ = send_body(&mut sender, taken).await;
                });
            }
        }
        None => whole = Some(Bytes::new()),
    }
    let answered = poll_fn(|cx| {
        loop {
            match ready!(receiver.poll_head(cx)) {
                Ok(mut interim) if interim.status.is_informational() => {
                    if head.extensions.get::<Spelling>().is_some()
                        && let Some(spelling) = Spelling::take(&mut interim.headers)
                    {
                        interim.extensions.insert(spelling);
                    }
                    asker.pass(cx, interim);
                }
                answered => return Poll::Ready(answered),
            }
        }
    });
    let head = answered.await.map_err(|error| {
        if error.is_unprocessed() {
            *body = whole.map(Body::whole);
        }
        FailedRequest { error, sent: true }
    })?;
    Ok(Response::from_parts(head, Body::from(receiver)))
}
