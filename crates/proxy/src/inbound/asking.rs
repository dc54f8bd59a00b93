//! Requests about which policies have somebody else asked, before they enter a workload: one policy after the other, in their order,
//! until none is left that would ask. Then the door decides, over the request as those who were asked leave it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HeaderValue;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tulle_model::authorization::{DENIED_BY, EXTERNAL_UNAVAILABLE};
use tulle_model::decision::{Decider, Decision, Effect};
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::external::ExternalAuth;

use super::answers::Answers;
use super::door::{Passed, enter, turned_away};
use super::visits::{Entered, Entrance};
use crate::budget::Charge;
use crate::error::{Denied, UpstreamError, UpstreamErrorKind};
use crate::http::asker::Caller;
use crate::http::body::{Body, BodyError};
use crate::http::headers::expects_continue;
use crate::inquiry::{Admitted, ByExternal, Comer, Finding, Inquiry, IsInquiry};
use crate::mesh_headers::REASON;
use crate::peer::Peer;
use crate::reason::DENIED;
use crate::worker::Worker;

/// How long a body may take of which somebody is asked.
const BODY_TIME: Duration = Duration::from_secs(10);

/// How many policies have somebody asked about one request, at most.
const MOST_ASKED: usize = 16;

/// A policy that has somebody asked, and what about.
pub(super) struct ToAsk {
    pub policy: NamespacedName,
    pub external: Arc<ExternalAuth>,
    /// As the application would get it.
    pub head: Parts,
}

/// What becomes of a request that comes.
pub(super) enum Admission {
    In(Entered),
    /// It is answered so, by somebody who was asked.
    Out(Response<Body>),
}

/// Lets a request in, or says why not: then nothing has reached the process. `body`: of it, where it may have one.
pub(super) async fn let_in(
    worker: &Rc<Worker>,
    entrance: Entrance<'_>,
    head: &Parts,
    body: &mut Body,
    caller: &Caller,
) -> Result<Admission, UpstreamError> {
    match enter(&worker.local, entrance, Some(head), &mut None)? {
        Passed::In(entered) => Ok(Admission::In(entered)),
        Passed::Ask(question) => ask_all(worker, entrance, head, body, caller, question).await,
    }
}

/// The same for what leaves HTTP, or is about to: it is denied without the words of who was asked.
pub(super) async fn let_in_to_leave(
    worker: &Rc<Worker>,
    entrance: Entrance<'_>,
    head: &Parts,
    body: &mut Body,
    caller: &Caller,
) -> Result<Entered, UpstreamError> {
    let answer = match let_in(worker, entrance, head, body, caller).await? {
        Admission::In(entered) => return Ok(entered),
        Admission::Out(answer) => answer,
    };
    let reason = answer.headers().get(REASON).and_then(|reason| reason.to_str().ok());
    let reason = reason.unwrap_or(DENIED).to_owned();
    let message = answer.extensions().get::<ByExternal>().map_or("it is denied", |by| &*by.0).to_owned();
    Err(UpstreamError::denied(Denied { reason, by: None }, message))
}

/// Boxed, as few requests are asked about.
fn ask_all<'a>(
    worker: &'a Rc<Worker>,
    entrance: Entrance<'a>,
    head: &'a Parts,
    body: &'a mut Body,
    caller: &'a Caller,
    mut question: Box<ToAsk>,
) -> Pin<Box<dyn Future<Output = Result<Admission, UpstreamError>> + 'a>> {
    Box::pin(async move {
        let mut answers = Some(Box::<Answers>::default());
        for _ in 0..MOST_ASKED {
            let ToAsk { policy, external, head: told } = *question;
            if head.extensions.get::<IsInquiry>().is_some() {
                let why = "would ask in its turn about a request that asks about another one";
                turned_away(&worker.local, entrance, head, &policy, "external-unavailable");
                return Err(unavailable(entrance, &policy, why));
            }
            let mut kept = None;
            if external.max_body > 0 {
                let most = usize::from(external.max_body);
                let held = answers.get_or_insert_default();
                let keeping = keep(head, body, most, caller, &mut held.held);
                kept = tokio::time::timeout(BODY_TIME, keeping).await.map_err(|_| {
                    let message =
                        format!("its body, of which somebody is asked, is not there after {BODY_TIME:?}");
                    UpstreamError::new(UpstreamErrorKind::Caller, false, message)
                })??;
                if kept.is_none() {
                    turned_away(&worker.local, entrance, head, &policy, "external-denied");
                    let answer = too_long(most);
                    return Ok(Admission::Out(marked(entrance, &policy, answer)));
                }
            }
            let source = match entrance.peer {
                Peer::Mesh(identity) => Comer::Mesh(identity),
                Peer::Plain(address) => Comer::Outside(*address),
            };
            let inquiry = Inquiry {
                source,
                workload: entrance.workload,
                process: entrance.process(),
                policy: &policy,
                external: &external,
                head: &told,
                body: kept,
            };
            let admitted = match (worker.ask_external)(worker, inquiry).await {
                Ok(Finding::Admits(admitted)) => admitted,
                Ok(Finding::Denies(answer)) => {
                    turned_away(&worker.local, entrance, head, &policy, "external-denied");
                    return Ok(Admission::Out(marked(entrance, &policy, answer)));
                }
                Err(why) if external.fail_open => {
                    let registry = worker.local.metrics.registry();
                    registry.asked(&entrance.workload.name, &policy, "external-failed-open");
                    tracing::debug!(%policy, "let in unasked: Service {} {why}", external.service);
                    Admitted { request: external.unasked(), ..Admitted::default() }
                }
                Err(why) => {
                    turned_away(&worker.local, entrance, head, &policy, "external-unavailable");
                    let why = format!("is closed, as Service {} {why}", external.service);
                    return Err(unavailable(entrance, &policy, &why));
                }
            };
            let said = answers.get_or_insert_default();
            said.add(policy, admitted.request, admitted.response);
            match enter(&worker.local, entrance, Some(head), &mut answers)? {
                Passed::In(entered) => return Ok(Admission::In(entered)),
                Passed::Ask(next) => question = next,
            }
        }
        turned_away(&worker.local, entrance, head, &question.policy, "external-unavailable");
        Err(unavailable(entrance, &question.policy, "is one of too many that ask about it"))
    })
}

/// What nobody says anything of who is asked is not let in.
fn unavailable(entrance: Entrance<'_>, policy: &NamespacedName, why: &str) -> UpstreamError {
    tracing::debug!(%policy, workload = %entrance.workload.name, "not let in: it {why}");
    let message = match entrance.peer {
        Peer::Mesh(_) => format!("AuthorizationPolicy {policy} of {} {why}", entrance.workload.name),
        Peer::Plain(_) => format!("{} is closed to this caller", entrance.workload.name),
    };
    let reason = match entrance.peer {
        Peer::Mesh(_) => EXTERNAL_UNAVAILABLE,
        Peer::Plain(_) => DENIED,
    };
    let by = Decider::AuthorizationPolicy(policy.clone());
    let by = Some(Decision::new(by, "spec.externalAuth", Effect::Refused));
    UpstreamError::denied(Denied { reason: reason.to_owned(), by }, message)
}

/// Has an answer say whose policy it is by.
fn marked(entrance: Entrance<'_>, policy: &NamespacedName, mut answer: Response<Body>) -> Response<Body> {
    let reason = match entrance.peer {
        Peer::Mesh(_) => HeaderValue::try_from(format!("{DENIED_BY}{policy}")).ok(),
        Peer::Plain(_) => None,
    };
    answer.headers_mut().insert(REASON, reason.unwrap_or(HeaderValue::from_static(DENIED)));
    let message =
        format!("{} is closed to it by whom AuthorizationPolicy {policy} asks", entrance.workload.name);
    answer.extensions_mut().insert(ByExternal(message.into()));
    answer
}

fn too_long(most: usize) -> Response<Body> {
    let text = format!("tulle: the body is longer than the {most} bytes of which somebody is asked here\n");
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
    answer
}

/// Reads all of a body, which stays what it is; `None`: it is longer than that.
async fn keep(
    head: &Parts,
    body: &mut Body,
    most: usize,
    caller: &Caller,
    held: &mut Option<Charge>,
) -> Result<Option<Bytes>, UpstreamError> {
    use http_body::Body as _;
    if let Some(bytes) = body.take_whole() {
        let fits = bytes.len() <= most;
        *body = Body::whole(bytes.clone());
        return Ok(fits.then_some(bytes));
    }
    if body.size_hint().lower() > most as u64 {
        return Ok(None);
    }
    if expects_continue(&head.headers) {
        // Else its sender waits for the application, which does not see it yet.
        let go_on = || Response::builder().status(StatusCode::CONTINUE).body(());
        std::future::poll_fn(|cx| {
            if let Ok(interim) = go_on() {
                caller.asker.pass(cx, interim.into_parts().0);
            }
            std::task::Poll::Ready(())
        })
        .await;
    }
    let held = held.get_or_insert_with(|| Charge::on(caller.account.clone()));
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            UpstreamError::new(UpstreamErrorKind::Caller, false, format!("its body broke off: {error}"))
        })?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > most => return Ok(None),
            Ok(data) => {
                held.resize(bytes.len() + data.len()).map_err(UpstreamError::shed)?;
                bytes.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let bytes = bytes.freeze();
    *body = match trailers {
        None => Body::whole(bytes.clone()),
        Some(trailers) => {
            let frames = [Frame::data(bytes.clone()), Frame::trailers(trailers)];
            let frames = frames.into_iter().map(Ok::<_, BodyError>);
            Body::new(StreamBody::new(futures_util::stream::iter(frames)))
        }
    };
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use http::{HeaderMap, Request};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tulle_model::identity::{SpiffeId, TrustDomain};
    use tulle_model::name::{ServiceName, WorkloadName};
    use tulle_model::snapshot::external::ExternalProtocol;
    use tulle_model::snapshot::{
        AccessPolicy, AccessRule, Action, AppProtocol, Endpoint, EndpointSet, Known, PortConfig, PortMapping,
        ServiceConfig, Snapshot, WorkloadConfig,
    };

    use super::*;
    use crate::budget::Payer;
    use crate::http::asker::Asker;
    use crate::state::{LocalWorkload, NodeState};

    fn workload() -> Arc<LocalWorkload> {
        Arc::new(LocalWorkload {
            name: WorkloadName::new("default", "a"),
            service: "a".into(),
            identity: identity("a"),
            app_address: Ipv4Addr::LOCALHOST.into(),
            ports: vec![80],
            certificate: None,
            draining: false,
            in_process: None,
            outside: None,
        })
    }

    fn identity(account: &str) -> SpiffeId {
        SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "default", account).unwrap()
    }

    fn asking(name: &str, max_body: u16, fail_open: bool) -> AccessPolicy {
        let external = ExternalAuth {
            service: ServiceName::new("default", "authz"),
            port: 80,
            protocol: ExternalProtocol::Http { path: String::new(), headers: vec![], answered: vec![] },
            max_body,
            timeout: Duration::from_secs(5),
            fail_open,
            spared: Vec::new(),
        };
        AccessPolicy {
            name: NamespacedName::new("default", name),
            action: Action::Ask,
            at: None,
            issuers: Vec::new(),
            rules: vec![AccessRule { index: 0, sources: None, ports: None, request: None, when: None }],
            external: Some(Arc::new(external)),
        }
    }

    /// A worker that holds to these policies; who is asked listens at that port, or is not known.
    fn worker(policies: Vec<AccessPolicy>, asked: Option<u16>) -> (Rc<Worker>, Caller) {
        let (name, authz) = (WorkloadName::new("default", "a"), ServiceName::new("default", "authz"));
        let told = WorkloadConfig { policies: policies.into(), ..WorkloadConfig::new(name.clone()) };
        let mut snapshot = Snapshot::default();
        snapshot.workloads.insert(name, Arc::new(told));
        let Some(port) = asked else {
            snapshot.services.insert(authz, Known::Absent);
            return of(snapshot);
        };
        let config = PortConfig {
            number: 80,
            name: "".into(),
            protocol: AppProtocol::Http1,
            http_routes: Default::default(),
            tls_routes: Default::default(),
            tcp_route: None,
            http_only: false,
            http1: Default::default(),
            consumers: Vec::new(),
        };
        let endpoint = Endpoint {
            workload: None,
            node: None,
            address: Ipv4Addr::LOCALHOST.into(),
            ports: vec![PortMapping { service_port: 80, target_port: port }],
            identity: None,
        };
        let config = Known::Present(Arc::new(ServiceConfig::new(authz.clone(), vec![config])));
        snapshot.services.insert(authz.clone(), config);
        let set = EndpointSet::new(authz.clone(), vec![(Arc::new(endpoint), 0)]);
        snapshot.endpoints.insert(authz, Arc::new(set));
        of(snapshot)
    }

    fn of(snapshot: Snapshot) -> (Rc<Worker>, Caller) {
        let state = NodeState { snapshot: Arc::new(snapshot), ..NodeState::default() };
        let mut worker = Worker::idle("n1", state);
        Rc::get_mut(&mut worker).unwrap().ask_external = crate::http::external::ask;
        let account = worker.local.accounts.of(&Payer::Workload(WorkloadName::new("default", "b")));
        (worker, Caller { account, asker: Asker::Nobody })
    }

    /// Somebody who is asked, and answers so each time. His port, and what he was asked.
    async fn answering(answer: &'static str) -> (u16, Rc<std::cell::RefCell<Vec<String>>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), Rc::default());
        let asked: Rc<std::cell::RefCell<Vec<String>>> = heard;
        let questions = asked.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && tcp.read_buf(&mut head).await.unwrap() > 0 {}
                questions.borrow_mut().push(String::from_utf8(head).unwrap());
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (port, asked)
    }

    fn head() -> Parts {
        Request::get("http://c.shop/x?q").header("x-user", "root").body(()).unwrap().into_parts().0
    }

    async fn ask(
        worker: &Rc<Worker>,
        caller: &Caller,
        peer: &Peer,
        head: &Parts,
    ) -> Result<Admission, UpstreamError> {
        let workload = workload();
        let_in(worker, Entrance::to(peer, &workload, 80), head, &mut Body::empty(), caller).await
    }

    fn reason(answer: &Response<Body>) -> &str {
        answer.headers()[REASON].to_str().unwrap()
    }

    #[tokio::test(flavor = "local")]
    async fn policies_are_asked_for_one_after_the_other() {
        let admits =
            "HTTP/1.1 200 OK\r\nx-user: ada\r\nx-more: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let (port, heard) = answering(admits).await;
        let (worker, caller) = worker(vec![asking("p", 0, false), asking("q", 0, false)], Some(port));
        let peer = Peer::Mesh(identity("b"));
        let Ok(Admission::In(entered)) = ask(&worker, &caller, &peer, &head()).await else {
            panic!("not let in")
        };
        assert_eq!(heard.borrow().len(), 2);
        assert!(heard.borrow()[0].starts_with("GET /x?q HTTP/1.1\r\n"), "{:?}", heard.borrow());
        let mut told = head().headers;
        assert!(entered.tells_claims());
        entered.tell_claims(&mut told);
        assert_eq!((&told["x-user"], &told["x-more"]), (&"ada".parse().unwrap(), &"1".parse().unwrap()));
        let mut answer = HeaderMap::new();
        entered.tell_client(&mut answer);
        assert!(answer.is_empty());
    }

    #[tokio::test(flavor = "local")]
    async fn what_is_denied_says_so_to_who_may_know_it() {
        let denies =
            "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
        let (port, _) = answering(denies).await;
        let (worker, caller) = worker(vec![asking("p", 0, true)], Some(port));
        let (mesh, plain) = (Peer::Mesh(identity("b")), Peer::Plain(([192, 0, 2, 1], 5).into()));
        for (peer, expected) in [(&mesh, "denied-by=default/p"), (&plain, "denied")] {
            let Ok(Admission::Out(mut answer)) = ask(&worker, &caller, peer, &head()).await else {
                panic!("let in")
            };
            assert_eq!((answer.status(), reason(&answer)), (StatusCode::FOUND, expected));
            assert_eq!(answer.headers()["location"], "/login");
            assert_eq!(answer.body_mut().take_whole().unwrap(), "no");
            assert!(answer.extensions().get::<ByExternal>().unwrap().0.contains("default/p"));
            // Who wants to leave HTTP hears no more than that.
            let workload = workload();
            let entrance = Entrance::to(peer, &workload, 80);
            let error =
                let_in_to_leave(&worker, entrance, &head(), &mut Body::empty(), &caller).await.err().unwrap();
            assert_eq!((error.kind, error.safe_to_retry), (UpstreamErrorKind::Denied, false));
            assert_eq!(error.denied.unwrap().reason, expected);
        }
    }

    #[tokio::test(flavor = "local")]
    async fn who_cannot_be_asked_lets_in_nobody_unless_the_policy_says_so() {
        let (mesh, plain) = (Peer::Mesh(identity("b")), Peer::Plain(([192, 0, 2, 1], 5).into()));
        for (fail_open, peer, expected) in [
            (false, &mesh, Some("external-auth-unavailable")),
            (false, &plain, Some("denied")),
            (true, &mesh, None),
        ] {
            let (worker, caller) = worker(vec![asking("p", 0, fail_open)], None);
            let asked = ask(&worker, &caller, peer, &head()).await;
            let denied = asked.err().map(|error| error.denied.unwrap().reason);
            assert_eq!(denied.as_deref(), expected, "{fail_open} {peer}");
            // A question is asked about by nobody, whatever the policy says.
            let mut question = head();
            question.extensions.insert(IsInquiry);
            let error = ask(&worker, &caller, peer, &question).await.err().unwrap();
            assert_eq!(error.kind, UpstreamErrorKind::Denied);
        }
        // There is an end of it.
        let many = (0..=MOST_ASKED).map(|number| asking(&format!("p{number}"), 0, true)).collect::<Vec<_>>();
        for (count, enters) in [(MOST_ASKED, true), (MOST_ASKED + 1, false)] {
            let (worker, caller) = worker(many[..count].to_vec(), None);
            assert_eq!(ask(&worker, &caller, &mesh, &head()).await.is_ok(), enters, "{count}");
        }
    }

    fn pieces(pieces: &[&'static str], trailers: Option<HeaderMap>) -> Body {
        let data = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
        let frames: Vec<_> =
            data.chain(trailers.map(Frame::trailers)).map(Ok::<_, std::convert::Infallible>).collect();
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    #[tokio::test(flavor = "local")]
    async fn a_body_is_kept_as_it_is_up_to_its_bound() {
        let (_, caller) = worker(Vec::new(), None);
        let trailers = HeaderMap::from_iter([("x-t".parse().unwrap(), "1".parse().unwrap())]);
        for (mut body, expected, has_trailers) in [
            (Body::empty(), Some(""), false),
            (Body::whole("abcd".into()), Some("abcd"), false),
            (Body::whole("abcde".into()), None, false),
            (pieces(&["ab", "cd"], None), Some("abcd"), false),
            (pieces(&["ab", "c"], Some(trailers.clone())), Some("abc"), true),
            (pieces(&["ab", "cde"], None), None, false),
        ] {
            let mut held = None;
            let kept = keep(&head(), &mut body, 4, &caller, &mut held).await.unwrap();
            assert_eq!(kept.as_deref(), expected.map(str::as_bytes));
            if let Some(expected) = expected {
                let held = held.map_or(0, |held: Charge| held.bytes());
                let all = body.collect().await.unwrap();
                assert_eq!(all.trailers().is_some(), has_trailers);
                assert_eq!(all.to_bytes(), expected);
                assert!(held == 0 || held == expected.len(), "{held}");
            }
        }
        let (worker, caller) = worker(vec![asking("p", 4, true)], None);
        let (peer, workload) = (Peer::Mesh(identity("b")), workload());
        let entrance = Entrance::to(&peer, &workload, 80);
        let mut long = Body::whole("abcde".into());
        let Ok(Admission::Out(answer)) = let_in(&worker, entrance, &head(), &mut long, &caller).await else {
            panic!("let in")
        };
        assert_eq!((answer.status().as_u16(), reason(&answer)), (413, "denied-by=default/p"));
        let frames = [Ok(Frame::data(Bytes::from_static(b"a"))), Err(std::io::Error::other("gone"))];
        let mut broken = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        let error = let_in(&worker, entrance, &head(), &mut broken, &caller).await.err().unwrap();
        assert_eq!((error.kind, error.safe_to_retry), (UpstreamErrorKind::Caller, false));
    }
}
