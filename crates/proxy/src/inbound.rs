//! Requests and connections that arrive for a workload of this node, over a link or from inside the
//! process. Both ways pass the same checks here.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use tulle_model::identity::SpiffeId;

use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::body::{Body, Event};
use crate::http::headers::{self, AppVersion};
use crate::http::reply::{Reason, failed, reply};
use crate::link::APP_VERSION;
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Peer {
    pub identity: SpiffeId,
}

/// Passes a request to port `port` of `workload`'s process. The request has the inner form (an absolute
/// URI, no `Host`), and says what to speak to the process in its extensions ([`AppVersion`]) or in
/// `tulle-app-version`. The caller has checked that the peer meant this workload. Refusals are answers
/// with `tulle-reason`, and `tulle-retry: safe` where the process has certainly not seen the request.
pub async fn serve_request(
    worker: &Rc<Worker>,
    _peer: &Peer,
    workload: &Arc<LocalWorkload>,
    port: u16,
    mut request: Request<Body>,
) -> Response<Body> {
    if let Err(error) = admit(workload, port) {
        return failed(&error);
    }
    let in_flight = worker.in_flight(&workload.name);
    let version = app_version(&request);
    if let Err(problem) = headers::normalize_inner(request.headers_mut()) {
        return reply(Reason::BadRequest, problem.0);
    }
    let address = SocketAddr::new(workload.app_address, port);
    let mut response = match worker.apps.request(address, version, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(workload = %workload.name, port, %error, "a request did not get through");
            return failed(&error);
        }
    };
    if let Err(problem) = headers::normalize_response(response.headers_mut()) {
        return reply(Reason::ConnectionLost, &format!("{}: {}", workload.name, problem.0));
    }
    let mut in_flight = Some(in_flight);
    response.map(|body| {
        body.observed(move |event| {
            if !matches!(event, Event::Data(_) | Event::Trailers(_)) {
                in_flight.take();
            }
        })
    })
}

/// Decides whether a request or connection gets through to the workload.
pub(crate) fn admit(workload: &LocalWorkload, port: u16) -> Result<(), UpstreamError> {
    if workload.draining {
        let message = format!("{} is stopping", workload.name);
        return Err(UpstreamError::safe(UpstreamErrorKind::Draining, message));
    }
    // Only what the workload offers to the mesh is reachable through it, not whatever else listens there.
    if !workload.ports.contains(&port) {
        let message = format!("{} has no port {port}", workload.name);
        return Err(UpstreamError::safe(UpstreamErrorKind::Refused, message));
    }
    Ok(())
}

fn app_version(request: &Request<Body>) -> AppVersion {
    match request.extensions().get::<AppVersion>() {
        Some(version) => *version,
        None if request.headers().get(APP_VERSION).is_some_and(|v| v == "2") => AppVersion::Http2,
        None => AppVersion::Http1,
    }
}
