//! Asks somebody else about a request that is to enter a workload (Gateway API's `ExternalAuth`, GEP-1494; Envoy's ext_authz): by gRPC in
//! [`grpc`], or by HTTP. The question is a request of the workload's own, to a service of the mesh, and goes the way of any: attempts,
//! links, counts and logs. Rules of routes do not apply to it.

mod grpc;
mod messages;

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use tulle_model::decision::{Decider, Decision, Effect};
use tulle_model::name::ServiceName;
use tulle_model::snapshot::external::{ExternalEdits, ExternalProtocol, TooManyEdits};
use tulle_model::snapshot::{AppProtocol, Spoken};

use crate::access_log;
use crate::budget::{Charge, cost};
use crate::exchange::{Exchange, Refused};
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::forward::{Message, Route, config_of, forward, port_of};
use crate::http::headers::is_grpc;
use crate::http::record::{protocol_of, record};
use crate::http::server::{ConnectionContext, HttpDestination, filter_response};
use crate::inquiry::{Admitted, Finding, Inquiry, IsInquiry};
use crate::reason::Reason;
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// How long the body of an answer that denies may be.
const MOST_BODY: usize = 64 << 10;
/// And a message of gRPC, with its headers.
const MOST_MESSAGE: usize = 128 << 10;

const TOO_MANY: &str = "answered with more headers than are taken";

/// Asks. An error says, as a part of a sentence about who is asked, why nothing comes of it. Boxed: a question is a request, which is
/// within another one here.
pub(crate) fn ask<'a>(
    worker: &'a Rc<Worker>,
    asked: Inquiry<'a>,
) -> LocalBoxFuture<'a, Result<Finding, String>> {
    Box::pin(async move {
        match &asked.external.protocol {
            ExternalProtocol::Grpc { .. } => {
                let now = worker.local.clock.unix_millis();
                let (head, body) = grpc::question(&asked, now, worker.local.random());
                let heard = send(worker, &asked, head, body, |_| MOST_MESSAGE).await?;
                if heard.status != StatusCode::OK {
                    return Err(format!("answered a call of gRPC with {}", heard.status.as_u16()));
                }
                let message = grpc::unwrap(&heard.headers, &heard.trailers, heard.body)?;
                grpc::answer(asked.head, &message)
            }
            ExternalProtocol::Http { path, .. } => {
                let (head, body) = question(&asked, path)?;
                // Of what lets in nothing but the head is read.
                let most = |status| if status == StatusCode::OK { 0 } else { MOST_BODY };
                answer(&asked, send(worker, &asked, head, body, most).await?)
            }
        }
    })
}

/// The question over HTTP: the request's method, host, path and query, and what it may be told of the rest.
fn question(
    Inquiry { external, head: asked, body, .. }: &Inquiry<'_>,
    before: &str,
) -> Result<(Parts, Bytes), String> {
    let mut head = Request::new(()).into_parts().0;
    head.method = asked.method.clone();
    head.version = Version::HTTP_11;
    let target = asked.uri.path_and_query().map_or("/", |path| path.as_str());
    // Of `OPTIONS *`.
    let target = if target.starts_with('/') { target } else { "/" };
    let host = asked.uri.authority().map_or("", |authority| authority.as_str());
    head.uri =
        uri(host, &format!("{before}{target}")).ok_or("cannot be asked for the path of that request")?;
    for (name, value) in external.told(&asked.headers) {
        if let Ok(value) = HeaderValue::try_from(value.as_bytes()) {
            head.headers.insert(name.clone(), value);
        }
    }
    let body = body.clone().unwrap_or_default();
    head.headers.insert(CONTENT_LENGTH, body.len().into());
    Ok((head, body))
}

/// What an answer over HTTP says: 200 lets in, and nothing else does.
fn answer(asked: &Inquiry<'_>, heard: HeardBack) -> Result<Finding, String> {
    let too_many = |TooManyEdits| TOO_MANY.to_owned();
    match heard.status {
        StatusCode::OK => {
            let request = asked.external.admitted(&heard.headers).map_err(too_many)?;
            Ok(Finding::Admits(Admitted { request, response: ExternalEdits::default() }))
        }
        // It has failed, and says nothing of the request.
        status if status.is_server_error() => Err(format!("answered with {}", status.as_u16())),
        status => {
            let edits = asked.external.denied(&heard.headers);
            Ok(Finding::Denies(denial(asked.head, status.as_u16(), &edits, heard.body)))
        }
    }
}

/// Whether an answer over HTTP denies by its status, whatever else it has: then it does so with as much of the rest as is taken.
/// A service of gRPC says so in its message.
fn denies(status: StatusCode) -> bool {
    status != StatusCode::OK && !status.is_server_error()
}

/// What a client gets that is denied. `asked`: the head of its request. What would look as if it were let in is 403.
fn denial(asked: &Parts, status: u16, edits: &ExternalEdits, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    edits.apply(response.headers_mut());
    let status = StatusCode::from_u16(status).ok().filter(|status| (300..600).contains(&status.as_u16()));
    let status = status.unwrap_or(StatusCode::FORBIDDEN);
    *response.status_mut() = status;
    if is_grpc(&asked.headers) {
        // Its client learns a status of gRPC, and no other body.
        if status != StatusCode::UNAUTHORIZED {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
    } else if status != StatusCode::NOT_MODIFIED && asked.method != Method::HEAD {
        *response.body_mut() = Body::whole(body);
    }
    response
}

fn uri(host: &str, path: &str) -> Option<Uri> {
    Uri::builder().scheme("http").authority(host).path_and_query(path).build().ok()
}

/// What was answered.
struct HeardBack {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

/// Sends a question, and takes its answer, all within the time for that. `most`: how long a body with that status may be; 0: it is not
/// read.
async fn send(
    worker: &Rc<Worker>,
    Inquiry { workload, policy, external, .. }: &Inquiry<'_>,
    mut head: Parts,
    body: Bytes,
    most: impl Fn(StatusCode) -> usize,
) -> Result<HeardBack, String> {
    let end = Instant::now() + external.timeout;
    let late = || format!("did not answer within {:?}", external.timeout);
    let to = (external.service.clone(), external.port);
    let destination = HttpDestination::Service { service: to.0.clone(), port: to.1 };
    let client = ConnectionContext::new(worker.clone(), (*workload).clone(), destination);
    let mut held = Charge::on(client.account.clone());
    held.resize(cost::REQUEST + cost::fields(&head.headers) + body.len())
        .map_err(|shed| format!("could not be asked: {}", shed.message()))?;
    head.extensions.insert(IsInquiry);
    let (version, protocol) = (head.version, protocol_of(&head.headers));
    let line = || access_log::Asked::of(&head);
    let exchange = Exchange::begin(&worker.local, workload, protocol, to.0.clone().into(), line);
    let mut exchange = exchange.of_client(&client.ending);
    let by = Decider::AuthorizationPolicy((*policy).clone());
    exchange.decided(|| Decision::new(by, "spec.externalAuth", Effect::Asked));
    exchange.sends_whole(body.len() as u64);
    let answered = timeout_at(end, async {
        let mut route = route(worker, &mut exchange, workload, to, &external.protocol, &head).await?;
        let caller = Caller { account: client.account.clone(), asker: Asker::Nobody };
        let message = Message { head: &mut head, body: Body::whole(body), written: None };
        forward(&client, &mut exchange, message, &mut route, &caller).await
    });
    let answered = answered.await;
    let answered = answered.unwrap_or_else(|_| Err(exchange.refuse(Reason::Timeout, late())));
    let mut response = filter_response(&mut exchange, answered, version);
    let failed = exchange
        .reason()
        .map(|reason| format!("gave no answer ({}): {}", reason.as_str(), exchange.message()));
    record(exchange, &mut response);
    if let Some(failed) = failed {
        return Err(failed);
    }
    let (answer, mut body) = response.into_parts();
    let most = most(answer.status);
    let mut heard = HeardBack {
        status: answer.status,
        headers: answer.headers,
        body: Bytes::new(),
        trailers: HeaderMap::new(),
    };
    if most == 0 {
        return Ok(heard);
    }
    let mut bytes = BytesMut::new();
    loop {
        let frame = match timeout_at(end, body.frame()).await {
            Ok(frame) => frame,
            Err(_) if denies(heard.status) => break,
            Err(_) => return Err(late()),
        };
        match frame {
            None => break,
            Some(Err(_)) if denies(heard.status) => break,
            Some(Err(error)) => return Err(format!("broke off its answer: {error}")),
            Some(Ok(frame)) => match frame.into_data() {
                // What denies does so without its words.
                Ok(data) if bytes.len() + data.len() > most && denies(heard.status) => {
                    bytes.clear();
                    break;
                }
                Ok(data) if bytes.len() + data.len() > most => {
                    return Err("answered with more than is taken".to_owned());
                }
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => heard.trailers = frame.into_trailers().unwrap_or_default(),
            },
        }
    }
    heard.body = bytes.freeze();
    Ok(heard)
}

/// To the service itself, whatever rules there are.
async fn route(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    workload: &LocalWorkload,
    to: (ServiceName, u16),
    protocol: &ExternalProtocol,
    head: &Parts,
) -> Result<Route, Refused> {
    let config = config_of(worker, exchange, &to.0).await?;
    let port = port_of(exchange, &config, to.1, &workload.name.namespace)?;
    let protocol = match protocol {
        ExternalProtocol::Grpc { .. } => AppProtocol::Http2,
        ExternalProtocol::Http { .. } => port.protocol,
    };
    let spoken = Spoken { protocol, preserve_case: false };
    Ok(Route::straight(worker, exchange, to, head, spoken))
}
