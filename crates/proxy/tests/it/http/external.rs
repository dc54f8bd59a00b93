//! Requests about which policies have somebody else asked: what he is told, what becomes of what he says, and of what nobody says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::snapshot::external::{ExternalAuth, ExternalProtocol};
use tulle_model::snapshot::{
    AccessPolicy, AccessRule, Action, AppProtocol, RequestConditions, TextMatch, ValueMatch,
};

use super::apps::{self, Answer, TestBody, chunks, exchange, full, http1, http2, read};
use super::mesh::{Authority, Node, Way, plain, service_name};

const SOON: Duration = Duration::from_secs(5);
const WAYS: [Way; 2] = [Way::SameNode, Way::Link];

/// `envoy.service.auth.v3`, as a server sees it.
#[derive(Clone, PartialEq, Message)]
struct Check {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<CheckPeer>,
    #[prost(message, optional, tag = "2")]
    destination: Option<CheckPeer>,
    #[prost(message, optional, tag = "4")]
    request: Option<CheckRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct CheckPeer {
    #[prost(string, tag = "4")]
    principal: String,
}

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "2")]
    http: Option<CheckHttp>,
}

#[derive(Clone, PartialEq, Message)]
struct CheckHttp {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "5")]
    host: String,
    #[prost(string, tag = "11")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct Verdict {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, optional, tag = "2")]
    denied: Option<DeniedWith>,
    #[prost(message, optional, tag = "3")]
    ok: Option<OkWith>,
}

#[derive(Clone, PartialEq, Message)]
struct Code {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct DeniedWith {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<OptionalHeader>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct OkWith {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<OptionalHeader>,
    #[prost(string, repeated, tag = "5")]
    removed: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    answer_headers: Vec<OptionalHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct OptionalHeader {
    #[prost(message, optional, tag = "1")]
    header: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn field(key: &str, value: &str) -> OptionalHeader {
    OptionalHeader { header: Some(KeyValue { key: key.into(), value: value.into() }) }
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

/// What a server was asked: method, path and query, host, headers, body; by gRPC, from whom and for whom as well.
#[derive(Debug, Clone, Default)]
struct Heard {
    method: String,
    path: String,
    host: String,
    headers: HashMap<String, String>,
    body: String,
    from: String,
    to: String,
}

type Questions = Arc<Mutex<Vec<Heard>>>;

/// A server that is asked, by gRPC or HTTP. What it says stands in the header `x-verdict` of the request that it is asked about.
async fn decider() -> (SocketAddr, Questions) {
    let questions = Questions::default();
    let heard = questions.clone();
    let server = apps::serve(move |request: Request<Incoming>| {
        let heard = heard.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let is_call = head.uri.path() == "/envoy.service.auth.v3.Authorization/Check";
            let question = if is_call { call(&body) } else { plain_question(&head, &body) };
            let verdict = question.headers.get("x-verdict").cloned().unwrap_or_default();
            heard.lock().push(question);
            answer(&verdict, is_call).await
        }
    });
    (server.await, questions)
}

fn call(body: &Bytes) -> Heard {
    let check = Check::decode(&body[5..]).unwrap();
    let Attributes { source, destination, request } = check.attributes.unwrap();
    let CheckHttp { method, headers, path, host, body } = request.unwrap().http.unwrap();
    let (from, to) = (source.unwrap().principal, destination.unwrap().principal);
    Heard { method, path, host, headers, body, from, to }
}

fn plain_question(head: &http::request::Parts, body: &Bytes) -> Heard {
    let text = |name: &str| head.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let host = head.uri.authority().map_or_else(|| text("host"), |host| host.to_string());
    let names = head.headers.keys().map(|name| (name.to_string(), text(name.as_str())));
    Heard {
        method: head.method.to_string(),
        path: head.uri.path_and_query().unwrap().to_string(),
        host,
        headers: names.collect(),
        body: String::from_utf8(body.to_vec()).unwrap(),
        ..Heard::default()
    }
}

/// 1 GB, as fast as it is read.
fn endless() -> TestBody {
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    let pieces = std::iter::repeat_n(piece, 16 << 10).map(|piece| Ok(Frame::data(piece)));
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)))
}

async fn answer(verdict: &str, is_call: bool) -> Response<TestBody> {
    match verdict {
        "hang" => std::future::pending().await,
        "huge" => {
            let status = if is_call { 200 } else { 403 };
            let answer = Response::builder().status(status).header("content-type", "application/grpc");
            return answer.body(endless()).unwrap();
        }
        "error" => return Response::builder().status(500).body(full("")).unwrap(),
        _ => {}
    }
    if !is_call {
        let answer = Response::builder();
        return match verdict {
            "allow" => answer
                .header("x-user", "ada")
                .header("content-length", "0")
                .header("x-other", "1")
                .body(full("")),
            "created" => answer.status(201).body(full("")),
            _ => {
                answer.status(401).header("www-authenticate", "Test").header("x-other", "1").body(full("no"))
            }
        }
        .unwrap();
    }
    let ok = OkWith {
        headers: vec![
            field("x-user", "ada"),
            field("host", "evil"),
            field(":path", "/evil"),
            field("content-length", "77"),
            field("transfer-encoding", "chunked"),
            field("tulle-workload", "default/x"),
            field("connection", "x-user"),
        ],
        removed: vec!["x-gone".into(), "host".into(), "content-length".into()],
        answer_headers: vec![
            field("x-checked", "1"),
            field("tulle-reason", "no"),
            field("content-length", "9"),
        ],
    };
    let denied = DeniedWith {
        status: Some(Code { code: 401 }),
        headers: vec![field("www-authenticate", "Test"), field("content-length", "77")],
        body: "no".into(),
    };
    let verdict_of = |code, ok, denied| Verdict { status: Some(Code { code }), ok, denied };
    let message = match verdict {
        "allow" => framed(&verdict_of(0, Some(ok), None)),
        "bare" => framed(&verdict_of(0, None, None)),
        "garbage" => Bytes::from_static(b"\0\0\0\0\x03\xff\xff\xff"),
        "short" => Bytes::from_static(b"\0\0\0\0\x09abc"),
        "both" => framed(&verdict_of(0, None, Some(denied))),
        "many" => {
            let headers = (0..1000).map(|number| field(&format!("x-{number}"), "1")).collect();
            framed(&verdict_of(0, Some(OkWith { headers, ..OkWith::default() }), None))
        }
        _ => framed(&verdict_of(7, None, Some(denied))),
    };
    let status = if verdict == "status" { "13" } else { "0" };
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok);
    let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn grpc(told: &[&str]) -> ExternalAuth {
    external(ExternalProtocol::Grpc { headers: names(told) })
}

fn over_http() -> ExternalAuth {
    external(ExternalProtocol::Http {
        path: "/check".into(),
        headers: names(&["x-verdict"]),
        answered: names(&["x-user"]),
    })
}

fn names(names: &[&str]) -> Vec<HeaderName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn external(protocol: ExternalProtocol) -> ExternalAuth {
    ExternalAuth {
        service: service_name("authz"),
        port: 80,
        protocol,
        max_body: 0,
        timeout: Duration::from_secs(2),
        fail_open: false,
        spared: Vec::new(),
    }
}

fn rule(request: Option<RequestConditions>) -> Vec<AccessRule> {
    vec![AccessRule { index: 0, sources: None, ports: None, request: request.map(Box::new), when: None }]
}

fn asking(name: &str, external: ExternalAuth) -> AccessPolicy {
    AccessPolicy {
        name: format!("default/{name}").parse().unwrap(),
        action: Action::Ask,
        at: None,
        issuers: Vec::new(),
        rules: rule(None),
        external: Some(Arc::new(external)),
    }
}

fn saying(name: &str, action: Action, request: Option<RequestConditions>) -> AccessPolicy {
    AccessPolicy { action, rules: rule(request), external: None, ..asking(name, over_http()) }
}

fn with_header(name: &str, value: &str) -> RequestConditions {
    let value = TextMatch::Exact(value.into());
    RequestConditions { headers: vec![ValueMatch { name: name.into(), value }], ..Default::default() }
}

/// A client's node, an application as service `c` at one node or the other, and who is asked as `authz`.
struct Mesh {
    near: Node,
    far: Node,
    way: Way,
    address: SocketAddr,
}

impl Mesh {
    /// `asked`: where who is asked listens, and how the application's node reaches him.
    async fn new(way: Way, app: SocketAddr, asked: (SocketAddr, Way)) -> Self {
        let authority = Authority::new();
        let (mut near, mut far) =
            (Node::start("near", &authority).await, Node::start("far", &authority).await);
        let at = if way == Way::Link { &mut far } else { &mut near };
        let endpoint = at.add_workload(&authority, "c-0", &[app.port()]);
        near.add_service("c", AppProtocol::Detect, vec![endpoint]);
        let (asked, asked_way) = asked;
        let (app_node, other) = if way == Way::Link { (&mut far, &mut near) } else { (&mut near, &mut far) };
        let endpoint = match asked_way {
            Way::Plain => plain(asked),
            Way::SameNode => app_node.add_workload(&authority, "authz-0", &[asked.port()]),
            Way::Link => other.add_workload(&authority, "authz-0", &[asked.port()]),
        };
        app_node.add_service("authz", AppProtocol::Detect, vec![endpoint]);
        let address = near.listen("c").await;
        Self { near, far, way, address }
    }

    /// The node that runs the application.
    fn node(&mut self) -> &mut Node {
        if self.way == Way::Link { &mut self.far } else { &mut self.near }
    }

    fn authorize(&mut self, policies: Vec<AccessPolicy>) {
        self.node().authorize("c-0", policies);
    }

    fn count(&mut self, policy: &str, result: &str) -> u64 {
        let labels = [format!("policy=\"{policy}\""), format!("result=\"{result}\"")];
        self.node().metric("tulle_authorization_total", &[&labels[0], &labels[1]])
    }

    async fn ask(&self, is_http2: bool, fields: &[(&str, &str)], body: TestBody) -> Answer {
        let mut request = Request::post("http://c:80/x?q=1").header("host", "c");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        let answer = async {
            match is_http2 {
                true => http2(self.address).await.send_request(request).await,
                false => http1(self.address).await.send_request(request).await,
            }
        };
        read(timeout(SOON, answer).await.expect("nothing is answered").unwrap()).await
    }
}

/// An application that counts what reaches it, and says which headers it got, and how much of a body.
async fn application() -> (SocketAddr, Arc<AtomicUsize>) {
    let came = Arc::new(AtomicUsize::new(0));
    let count = came.clone();
    let app = apps::serve(move |request: Request<Incoming>| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap();
            let trailer = body.trailers().and_then(|all| all.get("x-trailer")).is_some();
            let all = |name: &str| {
                let values =
                    head.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned());
                values.collect::<Vec<_>>().join("+")
            };
            let host = head.uri.host().map_or_else(|| all("host"), str::to_owned);
            let host = host.trim_end_matches(":80");
            let body = body.to_bytes();
            let text = format!(
                "{} {host} user={} gone={} body={} {trailer}",
                head.uri.path(),
                all("x-user"),
                all("x-gone"),
                String::from_utf8_lossy(&body)
            );
            Response::new(full(text))
        }
    });
    (app.await, came)
}

#[tokio::test]
async fn who_is_asked_decides_and_is_told_what_he_may_be() {
    for (way, asked_way) in WAYS.into_iter().flat_map(|way| super::mesh::WAYS.map(|asked| (way, asked))) {
        let (asked, questions) = decider().await;
        let (app, came) = application().await;
        let mut mesh = Mesh::new(way, app, (asked, asked_way)).await;
        let mut entered = 0;
        for (is_grpc, external) in [(true, grpc(&[])), (false, over_http())] {
            mesh.authorize(vec![asking("ask", external)]);
            for is_http2 in [false, true] {
                let shown = format!("{way:?} {asked_way:?} {is_grpc} {is_http2}");
                let fields = [
                    ("x-verdict", "allow"),
                    ("x-user", "root"),
                    ("x-gone", "1"),
                    ("authorization", "Basic x"),
                    ("tulle-question", "1"),
                ];
                let answer = mesh.ask(is_http2, &fields, full("body")).await;
                entered += 1;
                let gone = if is_grpc { "" } else { "1" };
                assert_eq!(answer.body, format!("/x c user=ada gone={gone} body=body false"), "{shown}");
                assert_eq!(answer.headers.contains_key("x-checked"), is_grpc, "{shown}");
                assert!(!answer.headers.contains_key("tulle-reason"), "{shown}");
                let heard = questions.lock().pop().unwrap();
                let path = if is_grpc { "/x?q=1" } else { "/check/x?q=1" };
                assert_eq!((&*heard.method, &*heard.path, &*heard.body), ("POST", path, ""), "{shown}");
                assert!(heard.host.starts_with('c'), "{shown} {}", heard.host);
                assert_eq!(heard.headers["authorization"], "Basic x");
                assert_eq!(heard.headers.contains_key("x-user"), is_grpc, "{shown}");
                assert!(!heard.headers.keys().any(|name| name.starts_with("tulle-")), "{:?}", heard.headers);
                if is_grpc {
                    assert_eq!(heard.from, "spiffe://mesh.test/ns/default/sa/a");
                    assert_eq!(heard.to, "spiffe://mesh.test/ns/default/sa/c");
                } else {
                    assert_eq!(heard.headers["content-length"], "0");
                }
                // It says no, in its own words.
                let answer = mesh.ask(is_http2, &[("x-verdict", "deny")], full("body")).await;
                assert_eq!((answer.status, &*answer.body), (401, "no"), "{shown}");
                assert_eq!(answer.headers["www-authenticate"], "Test", "{shown}");
                assert!(!answer.headers.contains_key("x-other"), "{shown}");
                assert_eq!(answer.headers["tulle-reason"], "denied-by=default/ask", "{shown}");
                assert!(!answer.headers.contains_key("tulle-answered"), "{shown}");
            }
            // A call of gRPC learns its own status.
            let call = [("x-verdict", "deny"), ("content-type", "application/grpc"), ("te", "trailers")];
            let answer = mesh.ask(true, &call, full("")).await;
            assert_eq!((answer.status, &answer.headers["grpc-status"]), (200, &"16".parse().unwrap()));
            assert_eq!(came.load(Ordering::Relaxed), entered);
        }
        assert_eq!(mesh.count("default/ask", "external-denied"), 6);
        assert_eq!(mesh.near.metric("tulle_requests_refused_total", &["reason=\"denied\""]), 6);
    }
}

#[tokio::test]
async fn where_nobody_says_anything_nobody_enters() {
    for (way, asked_way) in [(Way::SameNode, Way::Link), (Way::Link, Way::Plain)] {
        let (asked, _) = decider().await;
        let (app, came) = application().await;
        let mut mesh = Mesh::new(way, app, (asked, asked_way)).await;
        let short = Duration::from_millis(400);
        let mut failed = 0;
        for (is_grpc, external) in [(true, grpc(&[])), (false, over_http())] {
            let external = ExternalAuth { timeout: short, ..external };
            let by_grpc: &[&str] = &["garbage", "short", "both", "many", "status"];
            // Over HTTP, whoever answers with 403 denies, however much else he says.
            let endless: &[&str] = if is_grpc { &["huge"] } else { &[] };
            let verdicts = ["hang", "error"].iter().chain(endless).chain(by_grpc.iter().filter(|_| is_grpc));
            for &verdict in verdicts {
                mesh.authorize(vec![asking("ask", external.clone())]);
                let began = Instant::now();
                let answer = mesh.ask(false, &[("x-verdict", verdict)], full("body")).await;
                failed += 1;
                assert_eq!(answer.status, 403, "{way:?} {is_grpc} {verdict} {}", answer.body);
                assert_eq!(answer.headers["tulle-reason"], "external-auth-unavailable", "{verdict}");
                assert!(began.elapsed() < SOON / 2, "{verdict}");
                let call = [("x-verdict", verdict), ("content-type", "application/grpc"), ("te", "trailers")];
                let answer = mesh.ask(true, &call, full("")).await;
                failed += 1;
                assert_eq!(answer.headers["grpc-status"], "7", "{verdict}");
                assert_eq!(came.swap(0, Ordering::Relaxed), 0, "{verdict}");
                // Where the policy says so, it enters, unless it is denied.
                mesh.authorize(vec![asking("ask", ExternalAuth { fail_open: true, ..external.clone() })]);
                let answer =
                    mesh.ask(false, &[("x-verdict", verdict), ("x-user", "root")], full("body")).await;
                // What the service says in its place, nobody else does.
                let user = if is_grpc { "root" } else { "" };
                assert_eq!(answer.body, format!("/x c user={user} gone= body=body false"), "{verdict}");
                assert_eq!(came.swap(0, Ordering::Relaxed), 1, "{verdict}");
            }
        }
        assert_eq!(mesh.count("default/ask", "external-unavailable"), failed);
        assert_eq!(mesh.count("default/ask", "external-failed-open"), failed / 2);
        for fail_open in [false, true] {
            mesh.authorize(vec![asking("ask", ExternalAuth { fail_open, ..over_http() })]);
            let answer = mesh.ask(false, &[("x-verdict", "huge")], full("body")).await;
            assert_eq!((answer.status, &*answer.body), (403, ""), "{way:?} {fail_open}");
            assert_eq!(answer.headers["tulle-reason"], "denied-by=default/ask");
        }
        // What would look as if it were let in.
        mesh.authorize(vec![asking("ask", over_http())]);
        assert_eq!(mesh.ask(false, &[("x-verdict", "created")], full("")).await.status, 403);
        // Who resets what he is asked, who is not there, and who is not known.
        let resets = apps::script(|mut stream| async move {
            let _ = stream.read_u8().await;
            stream.set_zero_linger().unwrap();
        });
        let resets = plain(resets.await);
        let (_held, nowhere) = apps::nowhere();
        for endpoints in [vec![resets], vec![plain(nowhere)], vec![]] {
            mesh.node().add_service("authz", AppProtocol::Detect, endpoints);
            for external in [grpc(&[]), over_http()] {
                mesh.authorize(vec![asking("ask", ExternalAuth { timeout: short, ..external })]);
                let answer = mesh.ask(false, &[("x-verdict", "allow")], full("")).await;
                assert_eq!(answer.status, 403);
                assert_eq!(answer.headers["tulle-reason"], "external-auth-unavailable");
            }
        }
        mesh.node().forget_service("authz");
        assert_eq!(mesh.ask(false, &[("x-verdict", "allow")], full("")).await.status, 403);
        assert_eq!(came.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn who_is_asked_comes_after_what_denies_and_before_what_allows() {
    for way in WAYS {
        let (asked, questions) = decider().await;
        let (app, came) = application().await;
        let mut mesh = Mesh::new(way, app, (asked, Way::Plain)).await;
        let ask = || asking("ask", grpc(&[]));
        let deny = saying("no", Action::Deny, Some(with_header("x-bad", "1")));
        let ada = saying("ada", Action::Allow, Some(with_header("x-user", "ada")));
        let root = saying("root", Action::Allow, Some(with_header("x-user", "root")));
        let with_path = |path: &str| RequestConditions {
            paths: vec![tulle_model::snapshot::PathMatch::Prefix(path.into())],
            ..Default::default()
        };
        let of_other = AccessPolicy { rules: rule(Some(with_path("/other"))), ..ask() };
        let of_this = AccessPolicy { rules: rule(Some(with_path("/x"))), ..ask() };
        // What applies, what comes, what becomes of it, and how often somebody is asked.
        for (policies, fields, status, times) in [
            (vec![ask(), deny.clone()], vec![("x-verdict", "allow")], 200, 1),
            (vec![ask(), deny.clone()], vec![("x-verdict", "allow"), ("x-bad", "1")], 403, 0),
            // The application gets what who is asked says of users, and so do policies.
            (vec![ask(), ada.clone()], vec![("x-verdict", "allow")], 200, 1),
            (vec![ask(), root.clone()], vec![("x-verdict", "allow"), ("x-user", "root")], 403, 1),
            (vec![ask(), ada.clone()], vec![("x-verdict", "deny")], 401, 1),
            (vec![of_other], vec![("x-verdict", "deny")], 200, 0),
            (vec![of_this], vec![("x-verdict", "deny")], 401, 1),
            (vec![ask(), asking("again", over_http())], vec![("x-verdict", "allow")], 200, 2),
        ] {
            mesh.authorize(policies.clone());
            let answer = mesh.ask(false, &fields, full("")).await;
            assert_eq!(answer.status, status, "{way:?} {policies:?} {fields:?} {}", answer.body);
            let asked = std::mem::take(&mut *questions.lock());
            assert_eq!(asked.len(), times, "{way:?} {policies:?} {fields:?}");
            assert_eq!(came.swap(0, Ordering::Relaxed), usize::from(status == 200));
        }
    }
}

#[tokio::test]
async fn bodies_are_told_as_far_as_a_policy_says_and_are_handed_on_whole() {
    for way in WAYS {
        let (asked, questions) = decider().await;
        let (app, came) = application().await;
        let mut mesh = Mesh::new(way, app, (asked, Way::Plain)).await;
        for external in [grpc(&[]), over_http()] {
            mesh.authorize(vec![asking("ask", ExternalAuth { max_body: 10, ..external })]);
            let trailers = HeaderMap::from_iter([("x-trailer".parse().unwrap(), "1".parse().unwrap())]);
            let allow = [("x-verdict", "allow")];
            for is_http2 in [false, true] {
                for (body, told, has_trailer) in [
                    (full("0123456789"), Some("0123456789"), false),
                    (full(""), Some(""), false),
                    (chunks(vec!["01", "234"], None), Some("01234"), false),
                    (chunks(vec!["01", "234"], Some(trailers.clone())), Some("01234"), true),
                    (full("0123456789a"), None, false),
                    (chunks(vec!["012345", "67890"], None), None, false),
                ] {
                    let answer = mesh.ask(is_http2, &allow, body).await;
                    let heard = questions.lock().pop();
                    assert_eq!(heard.map(|heard| heard.body).as_deref(), told, "{way:?} {}", answer.body);
                    let Some(told) = told else {
                        assert_eq!((answer.status, came.load(Ordering::Relaxed)), (413, 0), "{way:?}");
                        assert_eq!(answer.headers["tulle-reason"], "denied-by=default/ask");
                        continue;
                    };
                    // Trailers pass; the client of HTTP/1 sends none.
                    let expected = format!("body={told} {}", has_trailer && is_http2);
                    assert!(answer.body.ends_with(&expected), "{way:?} {} {expected}", answer.body);
                    assert_eq!(came.swap(0, Ordering::Relaxed), 1);
                }
            }
            // Whoever waits to be told to go on is.
            let mut stream = TcpStream::connect(mesh.address).await.unwrap();
            let head = "POST /x HTTP/1.1\r\nhost: c\r\nx-verdict: allow\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let interim = timeout(SOON, apps::read_head(&mut stream)).await.unwrap();
            assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
            stream.write_all(b"body").await.unwrap();
            let mut answer = String::new();
            while !answer.starts_with("HTTP/1.1 200") {
                answer = timeout(SOON, apps::read_head(&mut stream)).await.unwrap();
            }
            assert_eq!(came.swap(0, Ordering::Relaxed), 1);
            questions.lock().clear();
        }
    }
}

#[tokio::test]
async fn upgrades_and_what_comes_behind_a_request_are_asked_about_like_any() {
    for way in WAYS {
        let (asked, questions) = decider().await;
        let (app, came) = application().await;
        let mut mesh = Mesh::new(way, app, (asked, Way::Plain)).await;
        mesh.authorize(vec![asking("ask", grpc(&[]))]);
        let socket = "GET /chat HTTP/1.1\r\nhost: c\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
                      sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-verdict: deny\r\n\r\n";
        let answer = exchange(mesh.address, socket).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{way:?} {answer}");
        assert!(answer.contains("tulle-reason: denied-by=default/ask\r\n"), "{way:?} {answer}");
        let heard = questions.lock().pop().unwrap();
        assert_eq!((&*heard.method, &*heard.path), ("GET", "/chat"));
        let answer = exchange(mesh.address, &socket.replace("deny", "allow")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{way:?} {answer}");
        assert!(answer.contains("\r\nx-checked: 1\r\n"), "{way:?} {answer}");
        assert_eq!(came.swap(0, Ordering::Relaxed), 1, "{way:?}");
        // The second may enter, and the first and third not.
        let one = |verdict: &str, more: &str| {
            format!("GET /x HTTP/1.1\r\nhost: c\r\nx-verdict: {verdict}\r\n{more}\r\n")
        };
        let all = [one("deny", ""), one("allow", ""), one("deny", "connection: close\r\n")].concat();
        let answer = exchange(mesh.address, &all).await;
        let statuses: Vec<_> =
            answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
        assert_eq!(statuses, ["401", "200", "401"], "{way:?} {answer}");
        assert_eq!(came.load(Ordering::Relaxed), 1, "{way:?}");
        // Nobody sees what is in a tunnel, and so nobody can be asked.
        let tunnel = "CONNECT c:80 HTTP/1.1\r\nhost: c:80\r\nx-verdict: allow\r\n\r\n";
        let mut stream = TcpStream::connect(mesh.address).await.unwrap();
        stream.write_all(tunnel.as_bytes()).await.unwrap();
        let answer = timeout(SOON, apps::read_head(&mut stream)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{way:?} {answer}");
        assert_eq!(came.load(Ordering::Relaxed), 1, "{way:?}");
    }
}

#[tokio::test]
async fn what_goes_on_ends_where_a_policy_would_ask_that_never_did() {
    for way in WAYS {
        let (asked, _) = decider().await;
        let app = apps::serve(apps::call_without_end).await;
        let mut mesh = Mesh::new(way, app, (asked, Way::Plain)).await;
        mesh.authorize(vec![asking("ask", grpc(&[]))]);
        let call = Request::post("http://c:80/S/M").header("content-type", "application/grpc");
        let call =
            call.header("te", "trailers").header("x-verdict", "allow").body(chunks(vec![], None)).unwrap();
        let mut answer = http2(mesh.address).await.send_request(call).await.unwrap().into_body();
        let first = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.into_data().unwrap().len(), 6);
        // It was asked about by that policy, whatever it says by now.
        mesh.authorize(vec![asking("ask", over_http()), saying("watch", Action::Audit, None)]);
        assert!(timeout(Duration::from_millis(300), answer.frame()).await.is_err(), "{way:?}");
        mesh.authorize(vec![asking("ask", grpc(&[])), asking("new", grpc(&[]))]);
        let last = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap()["grpc-status"], "7", "{way:?}");
    }
}

#[tokio::test]
async fn nobody_is_asked_about_what_asks() {
    for way in WAYS {
        for asked_way in [Way::SameNode, Way::Link] {
            let (asked, questions) = decider().await;
            let (app, came) = application().await;
            let mut mesh = Mesh::new(way, app, (asked, asked_way)).await;
            // Who is asked stands behind a policy that asks, too: himself.
            let at_asked =
                if (way == Way::Link) == (asked_way == Way::Link) { &mut mesh.near } else { &mut mesh.far };
            at_asked.authorize("authz-0", vec![asking("other", grpc(&[]))]);
            mesh.authorize(vec![asking("ask", grpc(&[]))]);
            let began = Instant::now();
            let answer = mesh.ask(false, &[("x-verdict", "allow")], full("")).await;
            assert_eq!(answer.status, 403, "{way:?} {asked_way:?}");
            assert_eq!(answer.headers["tulle-reason"], "external-auth-unavailable");
            assert!(began.elapsed() < Duration::from_secs(1), "it goes on asking");
            assert_eq!((came.load(Ordering::Relaxed), questions.lock().len()), (0, 0));
        }
    }
}
