//! The last phase: what is counted and logged of a request, at its end.
//!
//! The latency of a request is the time from its head being there to the head of its answer being there;
//! how long bodies take is not part of it. A request fails when the application's status is 5xx, when its
//! connection breaks before the answer's end, or when a gRPC status says that the service failed. Of an answer
//! that the mesh makes itself, [`Reason::verdict`] says who is to blame; a body that its client broke is the
//! client's affair.
//!
//! [`Reason::verdict`]: crate::reason::Reason::verdict

use http::{HeaderMap, Response, Version};

use crate::access_log::{End, LoggedAnswer};
use crate::exchange::Exchange;
use crate::http::body::{Body, Event};
use crate::http::fault;
use crate::http::grpc::{self, Messages};
use crate::http::headers;
use crate::http::limits::OutOfTime;
use crate::http::reply::grpc_failure;
use crate::inbound::presence::Withdrawn;
use crate::metrics::Protocol;
use crate::reason::{Reason, Verdict};
use crate::security::Security;

/// What a request with those headers counts as.
pub(crate) fn protocol_of(headers: &HeaderMap) -> Protocol {
    if headers::is_grpc(headers) { Protocol::Grpc } else { Protocol::Http }
}

/// Counts the request's body.
pub(crate) fn watch(exchange: &mut Exchange, body: &mut Body) {
    if let Some(length) = body.whole_length() {
        return exchange.sends_whole(length);
    }
    let sent = exchange.body();
    body.observe(move |event| match event {
        Event::Data(bytes) => sent.add(bytes as u64),
        Event::Broken(error) => sent.broken(fault::of(error)),
        Event::Trailers(_) | Event::End | Event::Abandoned => {}
    });
}

/// Counts the answer, now and as its body passes.
pub(crate) fn record(exchange: Exchange, response: &mut Response<Body>) {
    if !exchange.is_read() {
        return exchange.forget();
    }
    let edge = exchange.count_body();
    let latency = exchange.latency();
    let status = response.status();
    let is_grpc = exchange.is_grpc();
    let mut verdict = match exchange.reason() {
        Some(reason) => reason.verdict(),
        None if status.is_server_error() => Verdict::Failure,
        None if is_grpc && grpc_failure(response.headers()).unwrap_or(false) => Verdict::Failure,
        None => Verdict::Success,
    };
    // Next to the application it was seen to already.
    let messages = (is_grpc
        && response.version() == Version::HTTP_2
        && exchange.source().is_some()
        && exchange.security() != Security::SameNode
        && headers::is_grpc(response.headers()))
    .then(|| Messages::of(response.headers_mut()));
    // The status of a gRPC call; one that ends without is a failure to its client, whatever HTTP says.
    let mut missing = is_grpc && status.is_success() && !response.headers().contains_key(grpc::STATUS);
    let mut under_way = Some(exchange);
    let mut received = 0;
    response.body_mut().observe_as(messages, move |event| match event {
        Event::Data(bytes) => {
            received += bytes as u64;
            if let Some(edge) = &edge {
                edge.received(bytes as u64);
            }
        }
        Event::Trailers(trailers) if is_grpc => {
            let failed = grpc_failure(trailers);
            missing &= failed.is_none();
            if verdict == Verdict::Success && failed.unwrap_or(false) {
                verdict = Verdict::Failure;
            }
        }
        Event::Trailers(_) => {}
        Event::End | Event::Broken(_) | Event::Abandoned => {
            let Some(mut exchange) = under_way.take() else { return };
            let withdrawn = match event {
                Event::Broken(error) => error.downcast_ref::<Withdrawn>(),
                _ => None,
            };
            if let Some(withdrawn) = withdrawn {
                exchange.refuse(Reason::Withdrawn, withdrawn.to_string());
            } else if let Event::Broken(error) = event
                && let Some(late) = error.downcast_ref::<OutOfTime>()
            {
                exchange.decided(|| late.0.clone());
                exchange.refuse(Reason::Timeout, late.to_string());
            }
            let fault = exchange.fault();
            let is_behind = matches!(fault, Some((Reason::MirrorBehind, _)));
            if let Some((reason, message)) = fault.filter(|_| is_behind && exchange.reason().is_none()) {
                // It was cut off when the head of its answer was there.
                exchange.refuse(reason, message);
                exchange.count_refusal();
            }
            let by_client = (fault.is_some() && !is_behind) || withdrawn.is_some();
            verdict = match (&event, verdict) {
                (Event::Broken(_), _) | (Event::Abandoned, Verdict::Success) if by_client => Verdict::Refused,
                (Event::Broken(_), Verdict::Success) => Verdict::Failure,
                (_, Verdict::Success) if is_behind => Verdict::Failure,
                (Event::End, Verdict::Success) if missing => Verdict::Failure,
                (_, verdict) => verdict,
            };
            let end = match event {
                Event::Broken(_) => End::Broken,
                Event::Abandoned => End::Abandoned,
                _ => End::Complete,
            };
            let answer = LoggedAnswer { bytes: received, end };
            exchange.passed(edge.as_deref(), status.as_u16(), verdict, latency, answer);
        }
    });
}
