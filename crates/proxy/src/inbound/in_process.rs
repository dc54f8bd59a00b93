//! Hands what enters a workload to its application, where that is part of this process.

use std::time::Duration;

use http::request::Parts;
use http::{Response, StatusCode};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::visits::Entrance;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::body::Body;
use crate::http::limits::RequestEnd;
use crate::http::reply::in_words;
use crate::in_process::{Arrived, InProcess};
use crate::peer::Peer;

/// How long the body of a request may take.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Has the application answer.
pub(super) async fn pass(
    to: &InProcess,
    entrance: &Entrance<'_>,
    head: &Parts,
    body: Body,
) -> Result<Response<Body>, UpstreamError> {
    let name = &entrance.workload.name;
    let failed = |why: String| UpstreamError::after_sending(UpstreamErrorKind::Caller, why);
    let body = timeout(BODY_TIME, body.collect_at_most(to.most_body)).await;
    let body = body.map_err(|_| failed(format!("its body is not there after {BODY_TIME:?}")))?;
    let Some(body) = body.map_err(|error| failed(error.to_string()))? else {
        let why = format!("the body is over {} bytes, which is the most that {name} takes", to.most_body);
        return Ok(in_words(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", &why));
    };
    let (answer, answered) = oneshot::channel();
    let caller = match entrance.peer {
        Peer::Mesh(identity) => Some(identity.clone()),
        Peer::Plain(_) => None,
    };
    let end = head.extensions.get().map(|RequestEnd(end)| *end);
    let arrived = Arrived { caller, port: entrance.port, head: head.clone(), body, end, answer };
    match to.arrivals.try_send(arrived) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => {
            let why = format!("more requests wait for {name} than it takes: try again later");
            return Ok(in_words(StatusCode::TOO_MANY_REQUESTS, "overloaded", &why));
        }
        Err(TrySendError::Closed(_)) => {
            let why = format!("{name} takes no requests any more");
            return Err(UpstreamError::safe(UpstreamErrorKind::Connect, why));
        }
    }
    let lost = |_| {
        let why = format!("{name} ended before it answered");
        UpstreamError::after_sending(UpstreamErrorKind::ConnectionLost, why)
    };
    Ok(answered.await.map_err(lost)?.map(Body::whole))
}

/// That nothing is served there but requests of HTTP.
pub(super) fn takes_requests_alone(entrance: &Entrance<'_>) -> UpstreamError {
    let why = format!("{} takes requests of HTTP, and nothing else", entrance.workload.name);
    UpstreamError::safe(UpstreamErrorKind::Unsupported, why)
}
