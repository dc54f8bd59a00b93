//! Requests and connections that arrive for a workload of this node: over a link, from inside of the process, or in plain
//! from outside of the mesh. All enter by the same [`door`].

mod answering;
mod answers;
mod asking;
mod door;
#[cfg(test)]
mod fixture;
mod in_process;
pub(crate) mod kept_head;
pub(crate) mod presence;
pub(crate) mod process;
pub(crate) mod summaries;
pub(crate) mod tokens;
pub(crate) mod visits;

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use futures_util::future::Either;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};

use self::answering::Answering;
use self::asking::{Admission, let_in, let_in_to_leave};
pub(crate) use self::door::admit;
pub(crate) use self::door::follow;
use self::door::{enter_bytes, poll_refused};
use self::process::Process;
use self::summaries::Unsaid;
use self::visits::Entered;
pub(crate) use self::visits::Entrance;
pub(crate) use self::visits::Visit;
use crate::access_log::Asked;
use crate::budget::{Account, Seat};
use crate::connect::{Callee, connect_for};
use crate::error::UpstreamError;
use crate::exchange::Exchange;
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::grpc::Messages;
use crate::http::headers::{self, AppVersion};
use crate::http::http1::give_headers;
use crate::http::letters;
use crate::http::limits::RequestEnd;
use crate::http::link_upgrade::Question;
use crate::http::record::watch;
use crate::http::reply::{failed, reply};
use crate::http::spelling::Spelling;
use crate::http::switch::{self, Form, Switching};
use crate::inquiry::{ByExternal, IsInquiry};
use crate::local::Local;
use crate::mesh_headers::{ANSWERED, APP_VERSION, QUESTION, RUN};
use crate::peer::Peer;
use crate::reason::Reason;
use crate::tcp::Upstream;
use crate::worker::Worker;

/// Passes a request to a workload's process. It has the inner form (an absolute URI, no `Host`), and says what to speak
/// to the process in `tulle-app-version`. Whoever calls has checked that the peer meant this workload. Refusals are answers with `tulle-reason`, and `tulle-retry: safe` where the
/// process has certainly not seen the request.
pub(crate) async fn serve_request(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    entrance: Entrance<'_>,
    caller: &Caller,
    mut request: Request<Body>,
) -> Response<Body> {
    let version = app_version(&worker.local, entrance, request.headers_mut().remove(APP_VERSION));
    exchange.is_for(entrance.workload, entrance.port);
    // Whoever says so without need is asked about no less: he is refused.
    let is_question = request.headers().contains_key(QUESTION);
    let end = match &entrance.workload.in_process {
        Some(_) => RequestEnd::told(request.headers()),
        None => None,
    };
    // A peer that is one of ours sends nothing else, but whoever it is, the process must not be told two hosts.
    if request.uri().authority().is_none() {
        return refuse(exchange, Reason::BadRequest, "the request does not say what host it is for");
    }
    request.headers_mut().remove(HOST);
    let spelling = match headers::normalize_inner(request.headers_mut()) {
        Ok(spelling) => spelling,
        Err(problem) => return refuse(exchange, Reason::BadRequest, problem.0),
    };
    let (mut head, mut body) = request.into_parts();
    if is_question {
        head.extensions.insert(IsInquiry);
    }
    if let Some(end) = end {
        head.extensions.insert(end);
    }
    let entered = match let_in(worker, entrance, &head, &mut body, caller).await {
        Ok(Admission::In(entered)) => entered,
        Ok(Admission::Out(answer)) => return denied_by_external(exchange, answer),
        Err(error) => return lost(exchange, &error),
    };
    let Entrance { workload, port, .. } = entrance;
    if exchange.is_read() {
        watch(exchange, &mut body);
    }
    exchange.passes_to(entrance.process());
    exchange.sends();
    if let Some(spelling) = spelling.filter(|_| version == AppVersion::Http1)
        && letters::are_kept(&worker.local, workload, port, &spelling)
    {
        head.extensions.insert(spelling);
        body = body.spelled();
    }
    let passed = pass(worker, &entrance, entered, version, &head, body, caller).await;
    let mut response = passed.unwrap_or_else(|error| lost(exchange, &error));
    if let Some(spelling) = response.extensions_mut().remove::<Spelling>() {
        let (name, value) = spelling.field();
        response.headers_mut().insert(name, value);
    }
    give_headers(head.headers);
    response
}

/// Answers what the mesh does not let in, or not as it is.
fn refuse(exchange: &mut Exchange, reason: Reason, message: &str) -> Response<Body> {
    exchange.refuse(reason, message);
    reply(reason, message)
}

/// Passes on what somebody said who was asked, for the node of its client to know it by.
fn denied_by_external(exchange: &mut Exchange, mut answer: Response<Body>) -> Response<Body> {
    if let Some(ByExternal(message)) = answer.extensions().get() {
        exchange.refuse(Reason::Denied, &**message);
    }
    answer.headers_mut().insert(ANSWERED, HeaderValue::from_static("external"));
    answer
}

/// Answers what did not get through to the process.
pub(crate) fn lost(exchange: &mut Exchange, error: &UpstreamError) -> Response<Body> {
    exchange.did_not_arrive(error);
    failed(error)
}

/// As [`serve_request`], for a request that came from inside of the process: `head` was brought into the
/// inner form there, and is not changed by what becomes of it.
pub(crate) async fn pass_request(
    worker: &Rc<Worker>,
    entrance: Entrance<'_>,
    version: AppVersion,
    head: &Parts,
    mut body: Body,
    caller: &Caller,
) -> Result<Response<Body>, UpstreamError> {
    let entered = match let_in(worker, entrance, head, &mut body, caller).await? {
        Admission::In(entered) => entered,
        Admission::Out(answer) => return Ok(answer),
    };
    pass(worker, &entrance, entered, version, head, body, caller).await
}

async fn pass(
    worker: &Rc<Worker>,
    entrance: &Entrance<'_>,
    entered: Entered,
    version: AppVersion,
    head: &Parts,
    body: Body,
    caller: &Caller,
) -> Result<Response<Body>, UpstreamError> {
    let with_claims = entered.tells_claims().then(|| {
        // Of most requests there is none, and its place would be in each stream.
        let mut head = Box::new(head.clone());
        entered.tell_claims(&mut head.headers);
        head
    });
    let head = with_claims.as_deref().unwrap_or(head);
    let asked = match &entrance.workload.in_process {
        None => Either::Left(worker.apps.request(entrance.process(), version, head, body, caller)),
        // Boxed: few requests are for one.
        Some(within) => Either::Right(Box::pin(in_process::pass(within, entrance, head, body))),
    };
    let mut asked = pin!(asked);
    let passed = poll_fn(|cx| match asked.as_mut().poll(cx) {
        Poll::Pending => poll_refused(&worker.local, *entrance, &entered, head, cx).map(Err),
        passed => passed,
    });
    let passed = passed.await;
    let mut response = passed.inspect_err(|error| {
        let Entrance { workload, port, .. } = entrance;
        tracing::debug!(workload = %workload.name, port, %error, "a request did not get through");
    })?;
    let status = response.status();
    // Of the mesh's own headers, what is part of this process alone may say this one.
    let within = entrance.workload.in_process.is_some();
    let run = within.then(|| response.headers_mut().remove(RUN)).flatten();
    headers::normalize_response(status, response.headers_mut())
        .map_err(|problem| UpstreamError::bad_answer(format!("{}: {}", entrance.workload.name, problem.0)))?;
    response.headers_mut().extend(run.map(|run| (RUN, run)));
    entered.tell_client(response.headers_mut());
    let answering = Answering::new(entered, &response);
    if let Some(lasting) = answering.lasting() {
        lasting.stays(&worker.local.view(), head);
    }
    let messages = may_break_after_a_message(version, &head.headers, &response)
        .then(|| Messages::of(response.headers_mut()));
    response.body_mut().watch_as(messages, answering);
    Ok(response)
}

/// Whether an answer that breaks after a whole message ends with a status of gRPC: it is one to whoever understands
/// trailers.
fn may_break_after_a_message(version: AppVersion, asked: &HeaderMap, answer: &Response<Body>) -> bool {
    version == AppVersion::Http2
        && answer.body().whole_length().is_none()
        && headers::is_grpc(answer.headers())
        && headers::takes_trailers(asked)
}

/// Connects to a workload's process, for bytes or for what `head` asks for, in which it is told what tokens say; `account`
/// pays. What is returned beside the connection is to be held for as long.
pub(crate) async fn connect(
    worker: &Rc<Worker>,
    entrance: Entrance<'_>,
    account: &Rc<Account>,
    head: Option<&mut Parts>,
) -> Result<(Process, Seat), UpstreamError> {
    if entrance.workload.in_process.is_some() {
        return Err(in_process::takes_requests_alone(&entrance));
    }
    let local = &worker.local;
    let is_request = head.is_some();
    let entered = Rc::new(match &head {
        None => enter_bytes(local, entrance)?,
        Some(head) => {
            let caller = Caller { account: account.clone(), asker: Asker::Nobody };
            let_in_to_leave(worker, entrance, head, &mut Body::empty(), &caller).await?
        }
    });
    if let Some(head) = head {
        entered.tell_claims(&mut head.headers);
        entered.leaves_http(&local.view(), head);
    }
    let (tcp, seat) = connect_for(account, Callee::Process, entrance.process(), None).await?;
    let process = match is_request {
        true => Process::new(tcp, entered),
        false => {
            let config = local.view().snapshot.workloads.get(&entrance.workload.name).cloned();
            let registry = local.metrics.registry().clone();
            Process::of_bytes(tcp, entered, Unsaid::new(local.summaries.clone(), registry, entrance, config))
        }
    };
    Ok((process, seat))
}

/// A connection that speaks HTTP, and came for a workload of this node as one of bytes.
#[derive(Clone)]
pub(crate) struct Arrival {
    pub peer: Peer,
    pub port: u16,
    /// Where the process is reached.
    pub address: IpAddr,
    /// What the process speaks there; `None`: what its clients speak.
    pub version: Option<AppVersion>,
    /// It is told in the letters that its client writes.
    pub preserve_case: bool,
    /// Who pays for it.
    pub account: Rc<Account>,
}

/// How a connection of bytes is served that comes for a port which services declare to carry HTTP, or where policies look at
/// requests: nothing passes there that is none. `account` pays. `None`: as bytes.
pub(crate) fn carries_http(
    local: &Local,
    Entrance { peer, workload, port, address }: Entrance<'_>,
    account: &Rc<Account>,
) -> Option<Arrival> {
    let view = local.view();
    let config = view.snapshot.workloads.get(&workload.name)?;
    let version = config.declared(port).and_then(AppVersion::declared);
    if version.is_none() && config.policies.reading(port).is_none() {
        return None;
    }
    Some(Arrival {
        peer: peer.clone(),
        port,
        address,
        version,
        preserve_case: config.preserves_case(port),
        account: account.clone(),
    })
}

/// Whether policies look at the requests that come for it, so that nothing else may enter.
pub(crate) fn is_read(local: &Local, Entrance { workload, port, .. }: Entrance<'_>) -> bool {
    let view = local.view();
    let config = view.snapshot.workloads.get(&workload.name);
    config.is_some_and(|config| config.policies.reading(port).is_some())
}

/// Asks a workload's process to leave HTTP, for an extended CONNECT that came over a link: see [`link_upgrade`].
pub(crate) async fn serve_upgrade(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    entrance: Entrance<'_>,
    caller: &Caller,
    mut head: Parts,
) -> Result<Switching, Response<Body>> {
    let version = app_version(&worker.local, entrance, head.headers.remove(APP_VERSION));
    exchange.is_for(entrance.workload, entrance.port);
    let form =
        Question::received(&mut head).map_err(|problem| refuse(exchange, Reason::BadRequest, problem))?;
    exchange.asks(|| Asked::of(&head));
    form.rewrite(&mut head).map_err(|problem| refuse(exchange, Reason::Unsupported, &problem))?;
    let asked = (&mut head, &mut Body::empty());
    let asked = ask_to_switch(worker, exchange, entrance, caller, version, asked, &form).await;
    asked.map_err(|error| lost(exchange, &error))
}

/// Asks a workload's process to leave HTTP.
pub(crate) async fn ask_to_switch(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    entrance: Entrance<'_>,
    caller: &Caller,
    version: AppVersion,
    (head, body): (&mut Parts, &mut Body),
    form: &Form,
) -> Result<Switching, UpstreamError> {
    let Entrance { workload, port, .. } = entrance;
    if workload.in_process.is_some() {
        return Err(in_process::takes_requests_alone(&entrance));
    }
    let entered = Rc::new(let_in_to_leave(worker, entrance, head, body, caller).await?);
    entered.tell_claims(&mut head.headers);
    entered.leaves_http(&worker.local.view(), head);
    let address = entrance.process();
    exchange.passes_to(address);
    let open = async |_: &mut Parts| {
        let (tcp, seat) = connect_for(&caller.account, Callee::Process, address, None).await?;
        exchange.sends();
        Ok((Upstream::Process(Process::new(tcp, entered.clone())), Some(seat)))
    };
    let asked = switch::ask(worker, open, version, head, body, form, caller).await;
    asked.inspect_err(|error| {
        tracing::debug!(workload = %workload.name, port, %error, "an upgrade did not get through");
    })
}

/// What to speak to the process: what the peer says or, where that is none of ours and says nothing, what the services declare
/// that lead there.
fn app_version(local: &Local, entrance: Entrance<'_>, said: Option<HeaderValue>) -> AppVersion {
    let said = match said {
        Some(version) => (version == "2").then_some(AppVersion::Http2),
        None => {
            let view = local.view();
            let told = view.snapshot.workloads.get(&entrance.workload.name);
            told.and_then(|told| told.declared(entrance.port)).and_then(AppVersion::declared)
        }
    };
    said.unwrap_or(AppVersion::Http1)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use bytes::Bytes;
    use http::{HeaderName, StatusCode};
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tulle_model::identity::{SpiffeId, TrustDomain};
    use tulle_model::name::{ServiceName, WorkloadName};
    use tulle_model::port_settings::Http1Settings;
    use tulle_model::snapshot::{
        AccessPolicy, Action, AppProtocol, ClaimHeader, JwtIssuer, JwtKeys, Selected, ServedPort, Snapshot,
        TokenPlace, WorkloadConfig,
    };

    use super::*;
    use crate::budget::Payer;
    use crate::error::UpstreamErrorKind;
    use crate::mesh_headers::{REASON, RETRY, SPELLING};
    use crate::metrics::Protocol;
    use crate::state::{LocalWorkload, NodeState};

    fn workload(port: u16, draining: bool) -> Arc<LocalWorkload> {
        let domain = TrustDomain::new("mesh.test").unwrap();
        Arc::new(LocalWorkload {
            name: WorkloadName::new("default", "a"),
            service: "a".into(),
            identity: SpiffeId::workload(&domain, "default", "a").unwrap(),
            app_address: Ipv4Addr::LOCALHOST.into(),
            ports: vec![port, 81],
            certificate: None,
            draining,
            in_process: None,
            outside: None,
        })
    }

    fn peer() -> Peer {
        Peer::Mesh(SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "default", "b").unwrap())
    }

    fn entrance<'a>(peer: &'a Peer, workload: &'a Arc<LocalWorkload>, port: u16) -> Entrance<'a> {
        Entrance::to(peer, workload, port)
    }

    /// A worker that knows that port 80 of the service `s` is port `port` of that workload, and has its letters kept.
    fn worker(port: u16) -> (Rc<Worker>, Caller) {
        declaring(port, AppProtocol::Detect)
    }

    /// The same, with that protocol.
    fn declaring(port: u16, protocol: AppProtocol) -> (Rc<Worker>, Caller) {
        let served = ServedPort {
            service_port: 80,
            target_port: port,
            protocol,
            http1: Http1Settings { preserve_case: true, ..Http1Settings::DEFAULT },
        };
        let services = vec![Selected { by: ServiceName::new("default", "s"), ports: vec![served] }];
        let name = WorkloadName::new("default", "a");
        let told = WorkloadConfig { services, ..WorkloadConfig::new(name.clone()) };
        let mut snapshot = Snapshot::default();
        snapshot.workloads.insert(name, Arc::new(told));
        let worker = Worker::idle("n1", NodeState { snapshot: Arc::new(snapshot), ..NodeState::default() });
        let account = worker.local.accounts.of(&Payer::Workload(WorkloadName::new("default", "b")));
        (worker, Caller { account, asker: Asker::Nobody })
    }

    fn arriving(worker: &Worker) -> Box<Exchange> {
        Exchange::arrive(&worker.local, &peer(), Protocol::Http, || Asked::Connection { port: 0 })
    }

    /// A request as it comes over a link.
    fn request(fields: &[(&'static str, &'static str)]) -> Request<Body> {
        let mut request = Request::get("http://s.test/x").body(Body::empty()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    /// Takes a request's head as the process does, and answers.
    async fn answer(listener: &TcpListener, answer: &str) -> (String, TcpStream) {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(tcp.read_buf(&mut head).await.unwrap(), 0);
        }
        tcp.write_all(answer.as_bytes()).await.unwrap();
        (String::from_utf8(head).unwrap(), tcp)
    }

    async fn listen() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test(flavor = "local")]
    async fn a_process_is_told_one_host_and_nothing_of_the_meshs() {
        for (fields, lines) in [
            (
                &[("x-fancy", "1"), ("host", "other"), ("tulle-app-version", "1"), ("tulle-x", "1")][..],
                "x-fancy: 1\r\n",
            ),
            (
                &[("connection", "x"), ("x", "1"), ("tulle-app-version", "3"), ("tulle-spelling", "s/81:X:")],
                "",
            ),
        ] {
            let (listener, port) = listen().await;
            let (worker, caller) = worker(port);
            let peer = peer();
            let workload = workload(port, false);
            let mut exchange = arriving(&worker);
            let passed = serve_request(
                &worker,
                &mut exchange,
                entrance(&peer, &workload, port),
                &caller,
                request(fields),
            );
            let answering = answer(&listener, "HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX: y\r\n\r\nhi");
            let (response, (head, _tcp)) = tokio::join!(passed, answering);
            assert_eq!(head, format!("GET /x HTTP/1.1\r\nhost: s.test\r\n{lines}\r\n"));
            assert_eq!((response.status(), response.headers().get(SPELLING)), (StatusCode::CREATED, None));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hi");
        }
    }

    /// A worker where a policy takes tokens, whose holder applications know by `x-user`.
    fn with_tokens() -> (Rc<Worker>, Caller) {
        let issuer = JwtIssuer {
            issuer: "a".to_owned(),
            audiences: Vec::new(),
            keys: JwtKeys { source: None, set: None },
            place: TokenPlace::bearer(),
            claim_headers: vec![ClaimHeader {
                claim: "sub".into(),
                header: HeaderName::from_static("x-user"),
            }],
            max_stream_age: None,
        };
        let policy = AccessPolicy {
            name: "default/p".parse().unwrap(),
            action: Action::Deny,
            at: None,
            issuers: vec![Arc::new(issuer)],
            rules: Vec::new(),
            external: None,
        };
        let name = WorkloadName::new("default", "a");
        let told = WorkloadConfig { policies: vec![policy].into(), ..WorkloadConfig::new(name.clone()) };
        let mut snapshot = Snapshot::default();
        snapshot.workloads.insert(name, Arc::new(told));
        let worker = Worker::idle("n1", NodeState { snapshot: Arc::new(snapshot), ..NodeState::default() });
        let account = worker.local.accounts.of(&Payer::Workload(WorkloadName::new("default", "b")));
        (worker, Caller { account, asker: Asker::Nobody })
    }

    #[tokio::test(flavor = "local")]
    async fn a_process_hears_of_users_from_tokens_alone() {
        let (listener, port) = listen().await;
        let (worker, caller) = with_tokens();
        let (peer, workload) = (peer(), workload(port, false));
        let entrance = entrance(&peer, &workload, port);
        let (mut head, ()) = Request::get("http://s.test/x").body(()).unwrap().into_parts();
        head.headers.insert("x-user", HeaderValue::from_static("root"));
        let passed = pass_request(&worker, entrance, AppVersion::Http1, &head, Body::empty(), &caller);
        let answering = answer(&listener, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let (passed, (told, _tcp)) = tokio::join!(passed, answering);
        assert_eq!(
            (passed.unwrap().status(), told),
            (StatusCode::OK, "GET /x HTTP/1.1\r\nhost: s.test\r\n\r\n".into())
        );
        // The client's own is left as it was, for another attempt.
        assert_eq!(head.headers["x-user"], "root");
        let connected = connect(&worker, entrance, &caller.account, Some(&mut head)).await;
        assert!(connected.is_ok() && !head.headers.contains_key("x-user"));
    }

    /// Where the port asks for it, and HTTP/1 is spoken.
    #[tokio::test(flavor = "local")]
    async fn a_process_is_told_as_its_client_wrote() {
        let (listener, port) = listen().await;
        let (worker, caller) = worker(port);
        let peer = peer();
        let workload = workload(port, false);
        let request = request(&[("x-fancy", "1"), ("tulle-spelling", "s/80:X-Fancy,HOST:")]);
        let mut exchange = arriving(&worker);
        let passed =
            serve_request(&worker, &mut exchange, entrance(&peer, &workload, port), &caller, request);
        let answering = answer(&listener, "HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n");
        let (response, (head, _tcp)) = tokio::join!(passed, answering);
        assert_eq!(head, "GET /x HTTP/1.1\r\nX-Fancy: 1\r\nHOST: s.test\r\n\r\n");
        assert_eq!(response.headers()[SPELLING], ":Content-Length:Fine");
    }

    #[tokio::test(flavor = "local")]
    async fn what_may_not_pass_is_answered_here() {
        let (worker, caller) = worker(80);
        let peer = peer();
        let nowhere = Request::get("/x").header("host", "s.test").body(Body::empty()).unwrap();
        for (draining, port, request, reason, safe) in [
            (true, 80, request(&[]), "draining", true),
            (false, 82, request(&[]), "connect-failed", true),
            (false, 80, nowhere, "bad-request", false),
            (false, 80, request(&[("content-length", "1"), ("content-length", "2")]), "bad-request", false),
        ] {
            let workload = workload(80, draining);
            let mut exchange = arriving(&worker);
            let response =
                serve_request(&worker, &mut exchange, entrance(&peer, &workload, port), &caller, request)
                    .await;
            assert_eq!(response.headers()[REASON], reason);
            assert_eq!(response.headers().contains_key(RETRY), safe, "{reason}");
        }
        let (head, ()) = Request::get("http://s.test/x").body(()).unwrap().into_parts();
        let workload = workload(80, true);
        let passed = pass_request(
            &worker,
            entrance(&peer, &workload, 80),
            AppVersion::Http1,
            &head,
            Body::empty(),
            &caller,
        )
        .await;
        assert_eq!(passed.err().map(|error| error.kind), Some(UpstreamErrorKind::Draining));
    }

    #[tokio::test(flavor = "local")]
    async fn a_request_is_in_flight_until_its_answer_has_passed() {
        for (rest, whole) in [("", false), ("hi", true)] {
            let (listener, port) = listen().await;
            let (worker, caller) = worker(port);
            let peer = peer();
            let workload = workload(port, false);
            let in_flight = || worker.local.metrics.registry().in_flight(&workload.name);
            let (head, ()) = Request::get("http://s.test/x").body(()).unwrap().into_parts();
            let passed = pass_request(
                &worker,
                entrance(&peer, &workload, port),
                AppVersion::Http1,
                &head,
                Body::empty(),
                &caller,
            );
            let answering = answer(&listener, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhi");
            let (passed, (_, mut tcp)) = tokio::join!(passed, answering);
            let mut response = passed.unwrap();
            assert_eq!(in_flight(), 1);
            let first = response.body_mut().frame().await.unwrap().unwrap();
            assert_eq!((first.into_data().unwrap(), in_flight()), ("hi".into(), 1));
            tcp.write_all(rest.as_bytes()).await.unwrap();
            drop(tcp);
            assert_eq!(response.collect().await.is_ok(), whole, "{rest}");
            assert_eq!(in_flight(), 0, "{rest}");
        }
    }

    #[test]
    fn a_call_of_grpc_ends_with_a_status_where_its_client_takes_one() {
        let fields = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
        };
        let (trailers, none) = (fields("te", "trailers"), HeaderMap::new());
        for (version, asked, kind, whole, expected) in [
            (AppVersion::Http2, &trailers, "application/grpc", false, true),
            (AppVersion::Http2, &trailers, "application/grpc+proto", false, true),
            (AppVersion::Http1, &trailers, "application/grpc", false, false),
            (AppVersion::Http2, &none, "application/grpc", false, false),
            (AppVersion::Http2, &trailers, "application/grpc-web", false, false),
            (AppVersion::Http2, &trailers, "application/grpc", true, false),
        ] {
            let frames: [Result<_, Infallible>; 1] = [Ok(Frame::data(Bytes::from("x")))];
            let body = match whole {
                true => Body::whole("x".into()),
                false => Body::new(StreamBody::new(futures_util::stream::iter(frames))),
            };
            let mut answer = Response::new(body);
            *answer.headers_mut() = fields("content-type", kind);
            assert_eq!(
                may_break_after_a_message(version, asked, &answer),
                expected,
                "{version:?} {kind} {whole}"
            );
        }
    }

    #[test]
    fn http1_is_spoken_where_nothing_else_is_asked_for_or_declared() {
        let (peer, workload) = (peer(), workload(80, false));
        for (declared, said, expected) in [
            (AppProtocol::Detect, None, AppVersion::Http1),
            (AppProtocol::Http1, None, AppVersion::Http1),
            (AppProtocol::Http2, None, AppVersion::Http2),
            (AppProtocol::Http2, Some("1"), AppVersion::Http1),
            (AppProtocol::Http1, Some("2"), AppVersion::Http2),
            (AppProtocol::Http2, Some("22"), AppVersion::Http1),
        ] {
            let (worker, _) = declaring(80, declared);
            let said = said.map(HeaderValue::from_static);
            let version = app_version(&worker.local, entrance(&peer, &workload, 80), said.clone());
            assert_eq!(version, expected, "{declared:?} {said:?}");
            let other = app_version(&worker.local, entrance(&peer, &workload, 81), None);
            assert_eq!(other, AppVersion::Http1, "nothing is said of that port");
        }
    }
}
