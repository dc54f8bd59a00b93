//! Requests and connections that arrive for a workload of this node, over a link or from inside the
//! process. Both ways pass the same checks here.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use tulle_model::identity::SpiffeId;

use crate::budget::Account;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::asker::Caller;
use crate::http::body::{Body, Event};
use crate::http::grpc::{self, Messages};
use crate::http::headers::{self, AppVersion};
use crate::http::http1::give_headers;
use crate::http::reply::{Reason, failed, reply};
use crate::http::spelling::Spelling;
use crate::link::APP_VERSION;
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Peer {
    pub identity: SpiffeId,
    /// What this worker has taken for it.
    pub account: Rc<Account>,
}

/// Passes a request of `caller` to port `port` of `workload`'s process. The request has the inner form (an absolute
/// URI, no `Host`), and says what to speak to the process in `tulle-app-version`. The caller has checked that
/// the peer meant this workload. Refusals are answers with `tulle-reason`, and `tulle-retry: safe` where the
/// process has certainly not seen the request.
pub(crate) async fn serve_request(
    worker: &Rc<Worker>,
    caller: &Caller,
    workload: &Arc<LocalWorkload>,
    port: u16,
    mut request: Request<Body>,
) -> Response<Body> {
    if let Err(error) = admit(workload, port) {
        return failed(&error);
    }
    let version = app_version(request.headers_mut().remove(APP_VERSION));
    // A peer that is one of ours sends nothing else, but whoever it is, the process must not be told two hosts.
    if request.uri().authority().is_none() {
        return reply(Reason::BadRequest, "the request does not say what host it is for");
    }
    request.headers_mut().remove(HOST);
    let spelling = match headers::normalize_inner(request.headers_mut()) {
        Ok(spelling) => spelling,
        Err(problem) => return reply(Reason::BadRequest, problem.0),
    };
    let (mut head, mut body) = request.into_parts();
    if let Some(spelling) = spelling.filter(|_| version == AppVersion::Http1)
        && Box::pin(worker.letters.are_kept(worker, workload, port, &spelling)).await
    {
        head.extensions.insert(spelling);
        body = body.as_written();
    }
    let mut response = pass(worker, workload, port, version, &head, body, caller).await;
    if let Some(spelling) = response.extensions_mut().remove::<Spelling>() {
        let (name, value) = spelling.field();
        response.headers_mut().insert(name, value);
    }
    give_headers(head.headers);
    response
}

/// As [`serve_request`], for a request that came from inside of the process: `head` was brought into the
/// inner form there, and is not changed by what becomes of it.
pub(crate) async fn pass_request(
    worker: &Rc<Worker>,
    workload: &Arc<LocalWorkload>,
    port: u16,
    version: AppVersion,
    head: &Parts,
    body: Body,
    caller: &Caller,
) -> Response<Body> {
    if let Err(error) = admit(workload, port) {
        return failed(&error);
    }
    pass(worker, workload, port, version, head, body, caller).await
}

async fn pass(
    worker: &Rc<Worker>,
    workload: &Arc<LocalWorkload>,
    port: u16,
    version: AppVersion,
    head: &Parts,
    body: Body,
    caller: &Caller,
) -> Response<Body> {
    let in_flight = worker.in_flight(&workload.name);
    let address = SocketAddr::new(workload.app_address, port);
    let mut response = match worker.apps.request(address, version, head, body, caller).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(workload = %workload.name, port, %error, "a request did not get through");
            return failed(&error);
        }
    };
    let status = response.status();
    if let Err(problem) = headers::normalize_response(status, response.headers_mut()) {
        return reply(Reason::BadAnswer, &format!("{}: {}", workload.name, problem.0));
    }
    let mut in_flight = Some(in_flight);
    let messages = (version == AppVersion::Http2
        && response.body().whole_length().is_none()
        && grpc::has_messages(response.headers())
        && headers::takes_trailers(&head.headers))
    .then(Messages::default);
    response.body_mut().observe_as(messages, move |event| {
        if !matches!(event, Event::Data(_) | Event::Trailers(_)) {
            in_flight.take();
        }
    });
    response
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

fn app_version(said: Option<HeaderValue>) -> AppVersion {
    match said {
        Some(version) if version == "2" => AppVersion::Http2,
        _ => AppVersion::Http1,
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::identity::TrustDomain;
    use tulle_model::name::WorkloadName;

    use super::*;

    #[test]
    fn only_ports_of_workloads_that_stay_are_open() {
        let domain = TrustDomain::new("mesh.test").unwrap();
        let workload = |draining| LocalWorkload {
            name: WorkloadName::new("default", "a"),
            service: "a".into(),
            identity: SpiffeId::workload(&domain, "default", "a"),
            app_address: std::net::Ipv4Addr::LOCALHOST.into(),
            ports: vec![80, 81],
            certificate: None,
            draining,
        };
        let refused = |draining, port| {
            let error = admit(&workload(draining), port).err()?;
            // The process has not seen it.
            assert!(error.safe_to_retry);
            Some(error.kind)
        };
        assert_eq!([80, 81].map(|port| refused(false, port)), [None, None]);
        assert_eq!(refused(false, 82), Some(UpstreamErrorKind::Refused));
        assert_eq!(refused(true, 80), Some(UpstreamErrorKind::Draining));
    }

    #[test]
    fn http1_is_spoken_where_nothing_else_is_asked_for() {
        for (said, expected) in [
            (None, AppVersion::Http1),
            (Some("1"), AppVersion::Http1),
            (Some("2"), AppVersion::Http2),
            (Some("22"), AppVersion::Http1),
        ] {
            assert_eq!(app_version(said.map(HeaderValue::from_static)), expected, "{said:?}");
        }
    }
}
