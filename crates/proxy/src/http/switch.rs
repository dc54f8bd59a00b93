//! How an application is asked to leave HTTP, on its own node, whoever asks and by whatever way that came here.
//!
//! It is asked in HTTP/1.1, on a connection of its own (RFC 9110, section 7.8). A WebSocket of an HTTP/2 client (RFC 8441)
//! goes to an application of HTTP/2 that takes them as it is ([`websocket`]), and becomes one of HTTP/1.1 (RFC 6455)
//! otherwise. What is no tunnel is no success for that client, which would take it for one.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Response, StatusCode, response};

use crate::budget::Seat;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::asker::Caller;
use crate::http::body::{Body, Event};
use crate::http::headers::{self, AppVersion};
use crate::http::http1::client::{Answer, Failed, Http1Connection, Http1Transport, Outgoing, exchange};
use crate::http::reply;
use crate::http::websocket::{self, Answered};
use crate::http2::Tunnel;
use crate::inbound::visits::Entered;
use crate::tcp::{Duplex, Replayed, Upstream};
use crate::worker::Worker;

const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// What is asked for.
pub(crate) enum Form {
    /// `Upgrade` of HTTP/1.1, with what the client named.
    Upgrade(HeaderValue),
    Connect,
    /// Extended CONNECT of HTTP/2, with its `:protocol`.
    Extended(String),
}

/// What came of it.
pub(crate) enum Switching {
    /// It goes on in HTTP.
    Answered(Response<Body>),
    Switched(Switched),
}

impl Switching {
    /// With what those add to the answer who were asked about what has entered.
    fn told_by(mut self, entered: Option<&Entered>) -> Self {
        if let Some(entered) = entered {
            entered.tell_client(match &mut self {
                Self::Answered(answer) => answer.headers_mut(),
                Self::Switched(switched) => &mut switched.head.headers,
            });
        }
        self
    }
}

/// An application that has left HTTP.
pub(crate) struct Switched {
    /// The answer, as a client that asked in that form is given it.
    pub head: response::Parts,
    pub io: Box<dyn Duplex>,
    /// To be kept for as long.
    pub held: Option<Seat>,
}

impl Form {
    /// Makes the request what the application is to get, except for the headers of the connection.
    pub fn rewrite(&self, head: &mut Parts) -> Result<(), String> {
        match self {
            Self::Upgrade(_) | Self::Connect => Ok(()),
            Self::Extended(protocol) if protocol.eq_ignore_ascii_case("websocket") => {
                head.method = Method::GET;
                head.headers.remove(SEC_WEBSOCKET_KEY);
                head.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
                Ok(())
            }
            Self::Extended(protocol) => {
                Err(format!("extended CONNECT is understood for websocket, not for {protocol}"))
            }
        }
    }
}

/// Asks an application. `open` gives a connection to it, and tells it in the head what it is told of tokens: a second one where it says on the first that it does not take
/// WebSockets in HTTP/2.
pub(crate) async fn ask(
    worker: &Rc<Worker>,
    mut open: impl AsyncFnMut(&mut Parts) -> Result<(Upstream, Option<Seat>), UpstreamError>,
    version: AppVersion,
    head: &mut Parts,
    body: &mut Body,
    form: &Form,
    caller: &Caller,
) -> Result<Switching, UpstreamError> {
    let mut opened = open(head).await?;
    let mut entered = opened.0.entered();
    let http2 = version == AppVersion::Http2;
    if http2 {
        if let Some(answered) = websocket::ask(worker, opened, head, caller).await? {
            return in_http2(answered).map(|switching| switching.told_by(entered.as_deref()));
        }
        // Perhaps it takes them in HTTP/1.1. What was said on the first connection was nothing of the request.
        opened = open(head).await?;
        entered = opened.0.entered();
    }
    if let Form::Extended(_) = form {
        head.headers.insert(SEC_WEBSOCKET_KEY, key());
    }
    let body = std::mem::replace(body, Body::empty());
    let switching = in_http1(worker, opened, head, body, form, caller).await;
    switching.map(|switching| switching.told_by(entered.as_deref())).map_err(|error| match error.kind {
        UpstreamErrorKind::ConnectionLost | UpstreamErrorKind::BadAnswer if http2 => {
            let message = format!(
                "the application speaks HTTP/2, and does not say that it takes WebSockets there \
                 (SETTINGS_ENABLE_CONNECT_PROTOCOL); nor does it in HTTP/1.1: {error}"
            );
            UpstreamError::after_sending(UpstreamErrorKind::Unsupported, message)
        }
        _ => error,
    })
}

/// Passes on what an application of HTTP/2 answers to a WebSocket.
fn in_http2(Answered { mut head, mut sender, receiver }: Answered) -> Result<Switching, UpstreamError> {
    headers::normalize_response(head.status, &mut head.headers)
        .map_err(|problem| UpstreamError::bad_answer(problem.0))?;
    if !head.status.is_success() {
        sender.send(&mut Bytes::new(), true);
        return Ok(Switching::Answered(Response::from_parts(head, Body::from(receiver))));
    }
    head.headers.remove(CONTENT_LENGTH);
    let io = Box::new(Tunnel::extended(sender, receiver));
    Ok(Switching::Switched(Switched { head, io, held: None }))
}

async fn in_http1(
    worker: &Rc<Worker>,
    (upstream, held): (Upstream, Option<Seat>),
    head: &Parts,
    body: Body,
    form: &Form,
    caller: &Caller,
) -> Result<Switching, UpstreamError> {
    let websocket = HeaderValue::from_static("websocket");
    let upgrade = match form {
        Form::Upgrade(protocol) => Some(protocol),
        Form::Extended(_) => Some(&websocket),
        Form::Connect => None,
    };
    let outgoing = Outgoing { head, upgrade, caller };
    let told = match &upstream {
        Upstream::Tunnel(tunnel) if tunnel.peer_reads_http => {
            Some(Told { bodiless: http_body::Body::is_end_stream(&body) })
        }
        _ => None,
    };
    let connection = Http1Connection::new(upstream, worker.local.sweep.clone());
    let answer = exchange(connection, outgoing, body).await.map_err(lost)?;
    let status = answer.head.status;
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = answer.head.headers.get(UPGRADE).cloned();
    let accepted = match form {
        Form::Upgrade(wanted) if switched && !headers::switches_to(&answer.head.headers, wanted) => {
            let named = protocol.unwrap_or_else(|| HeaderValue::from_static(""));
            let message = format!("the application goes on in {named:?}, which nobody asked for (101)");
            return Err(UpstreamError::bad_answer(message));
        }
        Form::Upgrade(_) => switched,
        Form::Extended(_) => {
            let named = protocol.as_ref().map(HeaderValue::as_bytes);
            switched && named.is_some_and(|named| named.eq_ignore_ascii_case(b"websocket"))
        }
        Form::Connect => status.is_success(),
    };
    if !accepted && matches!(form, Form::Extended(_)) && (switched || status.is_success()) {
        let message =
            format!("the application answered a request for a WebSocket with {status}, and opened none");
        return Err(UpstreamError::after_sending(UpstreamErrorKind::NotUpgraded, message));
    }
    if !accepted {
        return refused(answer, held, told).map(Switching::Answered);
    }
    let (mut answer, upstream, read) = answer.into_upgraded();
    headers::normalize_response(answer.status, &mut answer.headers)
        .map_err(|problem| UpstreamError::bad_answer(problem.0))?;
    match form {
        Form::Upgrade(wanted) => {
            answer.headers.insert(UPGRADE, protocol.unwrap_or_else(|| wanted.clone()));
            answer.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        // RFC 9110, section 9.3.6.
        Form::Connect => {
            answer.headers.remove(CONTENT_LENGTH);
        }
        Form::Extended(_) => {
            answer.status = StatusCode::OK;
            answer.headers.remove(SEC_WEBSOCKET_ACCEPT);
            answer.headers.remove(CONTENT_LENGTH);
        }
    }
    let io = Box::new(Replayed::new(read.into(), upstream));
    Ok(Switching::Switched(Switched { head: answer, io, held }))
}

/// Of a request that goes to a node which tells why one does not get through: what such an answer says is not the
/// application's.
struct Told {
    /// All of it can be sent once more.
    bodiless: bool,
}

fn lost(Failed { why, oversized, shed, answered, .. }: Failed) -> UpstreamError {
    if let Some(shed) = shed {
        return UpstreamError { safe_to_retry: false, ..UpstreamError::shed(shed) };
    }
    let kind = if oversized {
        UpstreamErrorKind::AnswerHeadersTooLarge
    } else if answered {
        UpstreamErrorKind::BadAnswer
    } else {
        UpstreamErrorKind::ConnectionLost
    };
    let message = format!("the connection broke before the upgrade was answered: {why}");
    UpstreamError::after_sending(kind, message)
}

/// The application goes on in HTTP: its answer is passed on, and the connection not used again.
fn refused(
    answer: Answer<Upstream>,
    held: Option<Seat>,
    by_node: Option<Told>,
) -> Result<Response<Body>, UpstreamError> {
    let mut response = answer.into_response(drop);
    if let Some(Told { bodiless }) = by_node
        && let Some(error) = reply::told(&mut response)
    {
        return Err(UpstreamError { safe_to_retry: error.safe_to_retry && bodiless, ..error });
    }
    let status = response.status();
    if let Err(problem) = headers::normalize_response(status, response.headers_mut()) {
        return Err(UpstreamError::bad_answer(problem.0));
    }
    let mut held = Some(held);
    response.body_mut().observe(move |event| {
        if !matches!(event, Event::Data(_)) {
            held.take();
        }
    });
    Ok(response)
}

/// What a client of HTTP/1.1 has to say, and one of HTTP/2 has not (RFC 8441, section 5).
fn key() -> HeaderValue {
    let key: [u8; 16] = rand::random();
    HeaderValue::try_from(base64(&key)).unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

impl Http1Transport for Upstream {}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = u32::from_be_bytes([
            0,
            chunk[0],
            chunk.get(1).copied().unwrap_or(0),
            chunk.get(2).copied().unwrap_or(0),
        ]);
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_rfc_4648() {
        for (plain, coded) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
