//! Tunnels on links (HBONE), and upgrades.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{Extensions, HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, response};
use tokio::time::timeout;
use tulle_model::name::WorkloadName;

use crate::error::{UpstreamError, UpstreamErrorKind as Kind};
use crate::http::asker::Caller;
use crate::http::body::Body;
use crate::http::reply;
use crate::http2::{Error, Handle, Receiver, RequestFields, Sender, Tunnel};
use crate::local::Local;
use crate::mesh_headers::{CARRIES, WORKLOAD};

/// How long the peer's answer to a CONNECT may take.
const TUNNEL_DEADLINE: Duration = Duration::from_secs(5);

/// A place for one tunnel or upgrade on an open link, to be used before anything else is awaited.
pub struct LinkStream(Handle);

impl LinkStream {
    /// On a link with room.
    pub(super) fn on(link: Handle) -> Self {
        Self(link)
    }

    /// Whether the peer takes upgrades as what they are (RFC 8441, section 3): those of former versions do not.
    pub fn takes_upgrades(&self) -> bool {
        self.0.takes_extended_connect()
    }

    /// Sends an extended CONNECT, and waits for its answer; interim ones go to whoever asks.
    pub(crate) async fn upgrade(
        self,
        local: &Local,
        head: &RequestFields<'_>,
        caller: &Caller,
    ) -> Result<(response::Parts, Sender, Receiver), UpstreamError> {
        let (sender, mut receiver) = self.0.request(head, false).map_err(|error| match error {
            Error::TooLargeForPeer(_) => {
                UpstreamError::after_sending(Kind::HeadersTooLarge, error.to_string())
            }
            error => not_sent(error),
        })?;
        local.metrics.counts().client_streams.add(1);
        let answered = poll_fn(|cx| {
            loop {
                match ready!(receiver.poll_head(cx)) {
                    Ok(head) if head.status.is_informational() => caller.asker.pass(cx, head),
                    answered => return Poll::Ready(answered),
                }
            }
        });
        let head = answered.await.map_err(|error| {
            // What the application said of it the other node puts in words: this is the link's affair.
            let kind = match error {
                Error::NotProcessed => Kind::WentAway,
                Error::Stalled => Kind::Timeout,
                Error::Oversized => Kind::AnswerHeadersTooLarge,
                Error::Malformed(_) => Kind::BadAnswer,
                _ => Kind::ConnectionLost,
            };
            let message = format!("the link broke before the upgrade was answered: {error}");
            UpstreamError::new(kind, error.is_unprocessed(), message)
        })?;
        Ok((head, sender, receiver))
    }

    /// Opens a tunnel to a port of a workload (HBONE): CONNECT to `authority`, the workload's address
    /// and port.
    pub async fn tunnel(
        self,
        local: &Local,
        workload: Option<&WorkloadName>,
        authority: SocketAddr,
    ) -> Result<Tunnel, UpstreamError> {
        let internal = |e: &dyn std::fmt::Display| UpstreamError::safe(Kind::Connect, e.to_string());
        let uri = Uri::try_from(authority.to_string()).map_err(|e| internal(&e))?;
        let mut headers = HeaderMap::new();
        if let Some(workload) = workload {
            let name = HeaderValue::try_from(workload.to_string()).map_err(|e| internal(&e))?;
            headers.insert(WORKLOAD, name);
        }
        let head = RequestFields {
            method: &Method::CONNECT,
            uri: &uri,
            extensions: &Extensions::new(),
            headers: &headers,
            more: &[],
        };
        let (sender, mut receiver) = self.0.request(&head, false).map_err(not_sent)?;
        local.metrics.counts().client_streams.add(1);
        let answered = poll_fn(|cx| {
            loop {
                match ready!(receiver.poll_head(cx)) {
                    // Nobody asked for those.
                    Ok(head) if head.status.is_informational() => {}
                    answered => return Poll::Ready(answered),
                }
            }
        });
        let head = match timeout(TUNNEL_DEADLINE, answered).await {
            // Nothing was sent through it yet, so another endpoint may be tried whatever happened.
            Ok(answer) => answer.map_err(not_sent)?,
            Err(_) => {
                let message = format!("{authority} did not answer a CONNECT in {TUNNEL_DEADLINE:?}");
                return Err(UpstreamError::safe(Kind::Timeout, message));
            }
        };
        if head.status == StatusCode::OK {
            let mut tunnel = Tunnel::new(sender, receiver);
            tunnel.peer_reads_http = head.headers.contains_key(CARRIES);
            return Ok(tunnel);
        }
        let status = head.status;
        let told = reply::told(&mut Response::from_parts(head, Body::from(receiver)));
        Err(match told {
            Some(error) if matches!(error.kind, Kind::Denied | Kind::Unauthenticated) => error,
            // Whatever else it was: nothing was sent through the tunnel.
            Some(error) => UpstreamError { safe_to_retry: true, ..error },
            None => {
                let message = format!("the node refused the connection to {authority} ({status})");
                UpstreamError::safe(Kind::Refused, message)
            }
        })
    }
}

/// A stream that failed before anything for the application was handed over.
fn not_sent(error: Error) -> UpstreamError {
    let kind = match error {
        Error::Full => Kind::StreamsFull,
        Error::NotProcessed => Kind::WentAway,
        _ => Kind::ConnectionLost,
    };
    UpstreamError::safe(kind, format!("the link ended: {error}"))
}
