//! Hands what enters a workload to its application, where that is part of this process.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::visits::{Entrance, Peer};
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::body::{Body, BodyError};
use crate::http::reply::in_words;
use crate::in_process::{Arrived, InProcess};

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
    let Some(body) = whole(body, to.most_body).await? else {
        let why = format!("the body is over {} bytes, which is the most that {name} takes", to.most_body);
        return Ok(in_words(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", &why));
    };
    let (answer, answered) = oneshot::channel();
    let caller = match entrance.peer {
        Peer::Mesh(identity) => Some(identity.clone()),
        Peer::Plain(_) => None,
    };
    let arrived = Arrived { caller, port: entrance.port, head: head.clone(), body, answer };
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

/// All of a body; `None`: it has more than `most` bytes.
async fn whole(mut body: Body, most: usize) -> Result<Option<Bytes>, UpstreamError> {
    if let Some(whole) = body.take_whole() {
        return Ok((whole.len() <= most).then_some(whole));
    }
    let failed = |why: String| UpstreamError::after_sending(UpstreamErrorKind::Caller, why);
    match timeout(BODY_TIME, collect(body, most)).await {
        Ok(whole) => whole.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed(format!("its body is not there after {BODY_TIME:?}"))),
    }
}

async fn collect(mut body: Body, most: usize) -> Result<Option<Bytes>, BodyError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes.freeze()))
}
