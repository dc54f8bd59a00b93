//! Each thing that a policy may ask for, of who comes in plain from outside of the mesh: by HTTP/1, HTTP/2, as a WebSocket, and as
//! bytes.

use std::cell::Cell;
use std::time::Duration;

use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tokio::time::timeout;
use tulle_model::condition::CelCondition;
use tulle_model::name::ServiceName;
use tulle_model::port_settings::Http1Settings;
use tulle_model::snapshot::external::{ExternalAuth, ExternalProtocol};
use tulle_model::snapshot::{
    AppProtocol, ClaimMatch, Endpoint, EndpointSet, IdentityPattern, JwtConditions, JwtIssuer, JwtKeys,
    Known, PortConfig, PortMapping, Selected, ServedPort, ServerName, ServiceConfig, Source, TextMatch,
    TokenPlace, ValueMatch,
};

use super::*;
use crate::clock::wall_millis;

const SOON: Duration = Duration::from_secs(5);
const ISSUER: &str = "https://a.test";

/// How somebody comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Http1,
    Http2,
    WebSocket,
    Bytes,
}

/// A request: method, path, host, and a field.
#[derive(Debug, Clone)]
struct PlainRequest {
    method: &'static str,
    path: &'static str,
    host: &'static str,
    field: (&'static str, String),
}

fn get(path: &'static str) -> PlainRequest {
    PlainRequest { method: "GET", path, host: "c", field: ("x-any", "1".to_owned()) }
}

fn with(name: &'static str, value: &str) -> PlainRequest {
    PlainRequest { field: (name, value.to_owned()), ..get("/x") }
}

/// What a rule is about.
#[derive(Debug, Clone)]
enum About {
    /// The first of these requests, and not the second.
    Requests(PlainRequest, PlainRequest),
    /// All that comes from outside, or nothing of it.
    All(bool),
}

struct PolicyRow {
    rule: AccessRule,
    issuers: Vec<Arc<JwtIssuer>>,
    external: Option<Arc<ExternalAuth>>,
    about: About,
}

impl PolicyRow {
    fn new(rule: AccessRule, about: About) -> Self {
        Self { rule, issuers: Vec::new(), external: None, about }
    }

    fn of(request: RequestConditions, first: PlainRequest, second: PlainRequest) -> Self {
        let request = Some(Box::new(request));
        let rule = AccessRule { index: 0, sources: None, ports: None, request, when: None };
        Self::new(rule, About::Requests(first, second))
    }

    fn policies(&self, action: Action) -> Vec<AccessPolicy> {
        vec![AccessPolicy {
            name: "shop/p".parse().unwrap(),
            action,
            at: None,
            issuers: self.issuers.clone(),
            rules: vec![self.rule.clone()],
            external: self.external.clone(),
        }]
    }
}

struct TestSigner(EncodingKey);

impl TestSigner {
    fn token(&self, user: &str) -> String {
        let claims = json!({ "iss": ISSUER, "sub": user, "exp": wall_millis() / 1000 + 600 });
        let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::ES256) };
        format!("Bearer {}", jsonwebtoken::encode(&header, &claims, &self.0).unwrap())
    }

    fn issuer(&self) -> Arc<JwtIssuer> {
        let mut key = Jwk::from_encoding_key(&self.0, Algorithm::ES256).unwrap();
        key.common.key_id = Some("k".to_owned());
        let set = json!({ "keys": [key] }).to_string();
        Arc::new(JwtIssuer {
            issuer: ISSUER.to_owned(),
            audiences: Vec::new(),
            keys: JwtKeys { source: None, set: Some(set.into()) },
            place: TokenPlace::bearer(),
            claim_headers: Vec::new(),
            max_stream_age: None,
        })
    }
}

/// Of each thing that a rule may ask for one, and somebody who is asked.
fn rows() -> Vec<PolicyRow> {
    let signer = TestSigner(EncodingKey::from_ec_der(&rcgen::KeyPair::generate().unwrap().serialize_der()));
    let sources =
        |source| AccessRule { index: 0, sources: Some(vec![source]), ports: None, request: None, when: None };
    let when = |text: &str| AccessRule {
        index: 0,
        sources: None,
        ports: None,
        request: None,
        when: Some(CelCondition::new(text).unwrap()),
    };
    let anybody = || AccessRule { index: 0, sources: None, ports: None, request: None, when: None };
    let ranges = |range: &str| Source::Outside(vec![range.parse().unwrap()]);
    let asks = RequestConditions::default;
    let claims = vec![ClaimMatch { name: "sub".into(), values: vec!["ada".into()] }];
    let jwt = Some(JwtConditions { issuers: vec![], claims });
    let role = ValueMatch { name: "x-role".into(), value: TextMatch::Exact("admin".into()) };
    let external = ExternalAuth {
        service: ServiceName::new("shop", "authz"),
        port: 80,
        protocol: ExternalProtocol::Http {
            path: String::new(),
            headers: vec!["x-verdict".parse().unwrap()],
            answered: Vec::new(),
        },
        max_body: 0,
        timeout: Duration::from_secs(2),
        fail_open: false,
        spared: Vec::new(),
    };
    vec![
        PolicyRow::new(sources(ranges("192.0.2.0/24")), About::All(true)),
        PolicyRow::new(sources(ranges("198.51.100.0/24")), About::All(false)),
        PolicyRow::new(
            sources(Source::Identity(IdentityPattern::new("spiffe://*/**").unwrap())),
            About::All(false),
        ),
        PolicyRow::new(when("source.address.startsWith('192.0.2.')"), About::All(true)),
        PolicyRow::of(
            RequestConditions { methods: vec!["PUT".into()], ..asks() },
            PlainRequest { method: "PUT", ..get("/x") },
            get("/x"),
        ),
        PolicyRow::of(
            RequestConditions { paths: vec![PathMatch::Prefix("/a".into())], ..asks() },
            get("/a/b"),
            get("/ab"),
        ),
        PolicyRow::of(
            RequestConditions { calls: vec![PathMatch::Exact("/shop.Cart/Add".into())], ..asks() },
            get("/shop.Cart/Add"),
            get("/shop.Cart/Remove"),
        ),
        PolicyRow::of(
            RequestConditions { hosts: vec![ServerName::new("*.admin")], ..asks() },
            PlainRequest { host: "c.admin", ..get("/x") },
            get("/x"),
        ),
        PolicyRow::of(
            RequestConditions { headers: vec![role], ..asks() },
            with("x-role", "admin"),
            with("x-role", "user"),
        ),
        PolicyRow::new(
            when("request.headers['x-team'] == 'a'"),
            About::Requests(with("x-team", "a"), with("x-team", "b")),
        ),
        PolicyRow {
            issuers: vec![signer.issuer()],
            ..PolicyRow::of(
                RequestConditions { jwt, ..asks() },
                with("authorization", &signer.token("ada")),
                with("authorization", &signer.token("eve")),
            )
        },
        PolicyRow {
            external: Some(Arc::new(external)),
            ..PolicyRow::new(anybody(), About::Requests(with("x-verdict", "yes"), with("x-verdict", "no")))
        },
    ]
}

#[tokio::test(flavor = "local")]
async fn each_thing_that_a_policy_asks_for_holds_for_who_comes_in_plain() {
    let name = WorkloadName::new("shop", "c-1");
    let mut worker = worker(&name);
    Rc::get_mut(&mut worker).unwrap().ask_external = crate::http::external::ask;
    let decider = decider().await;
    for row in rows() {
        let actions = match row.external {
            Some(_) => &[Action::Ask][..],
            None => &[Action::Allow, Action::Deny, Action::Audit],
        };
        for action in actions {
            for manner in [Manner::Http1, Manner::Http2, Manner::WebSocket, Manner::Bytes] {
                let requests = match row.about.clone() {
                    About::All(is_about) => vec![(get("/x"), is_about)],
                    About::Requests(first, second) => vec![(first, true), (second, false)],
                };
                for (asked, is_about) in requests {
                    let reads = matches!(row.about, About::Requests(..)) && *action != Action::Audit;
                    match manner {
                        // What leaves HTTP is a GET.
                        Manner::WebSocket if asked.method != "GET" => continue,
                        // Where nobody reads requests these are bytes, and the process speaks HTTP/1.
                        Manner::Http2 if !reads => continue,
                        _ => {}
                    }
                    let is_in = match action {
                        // Nothing but requests enters where they are looked at.
                        _ if manner == Manner::Bytes && reads => false,
                        Action::Allow | Action::Ask => is_about,
                        Action::Deny => !is_about,
                        Action::Audit => true,
                    };
                    let case = format!("{action:?} {manner:?} {asked:?} {:?}", row.rule);
                    let (said, was_reached) =
                        come(&worker, &name, manner, &asked, row.policies(*action), decider).await;
                    assert_eq!(was_reached, is_in, "{case}: {said}");
                    let expected = match (is_in, manner) {
                        (true, Manner::WebSocket) => "101 ",
                        (true, _) => "200 ",
                        // It is reset where nobody reads it.
                        (false, _) if !reads => "reset ",
                        (false, Manner::Bytes) => continue,
                        (false, _) => "403 denied",
                    };
                    assert_eq!(said, expected, "{case}");
                }
            }
        }
    }
}

/// Has the worker hold to these policies, at a port that carries HTTP/1; who is asked listens at that port.
fn hold(worker: &Worker, name: &WorkloadName, port: u16, policies: Vec<AccessPolicy>, asked: u16) {
    let served = ServedPort {
        service_port: 80,
        target_port: port,
        protocol: AppProtocol::Http1,
        http1: Http1Settings::DEFAULT,
    };
    let selected = Selected { by: ServiceName::new("shop", "c"), ports: vec![served] };
    let config = WorkloadConfig {
        inbound_capture: true,
        policies: policies.into(),
        services: [selected].into(),
        ..WorkloadConfig::new(name.clone())
    };
    let authz = ServiceName::new("shop", "authz");
    let port_of_authz = PortConfig {
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
        ports: vec![PortMapping { service_port: 80, target_port: asked }],
        identity: None,
    };
    let mut state = NodeState::clone(&worker.local.state.load());
    let snapshot = Arc::make_mut(&mut state.snapshot);
    snapshot.workloads.insert(name.clone(), Arc::new(config));
    let service = ServiceConfig::new(authz.clone(), vec![port_of_authz]);
    snapshot.services.insert(authz.clone(), Known::Present(Arc::new(service)));
    let set = EndpointSet::new(authz.clone(), vec![(Arc::new(endpoint), 0)]);
    snapshot.endpoints.insert(authz, Arc::new(set));
    worker.local.state.publish(state);
}

/// Reads a head, which ends with an empty line.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 1 << 14 {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Who is asked: he admits what comes with `x-verdict: yes`. His port.
async fn decider() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let is_yes = head(&mut stream).await.contains("\r\nx-verdict: yes\r\n");
            let status = if is_yes { "200 OK" } else { "403 No" };
            let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

/// Comes to a process, which answers whatever it is asked: the status and the reason, and whether anything has reached the process.
async fn come(
    worker: &Rc<Worker>,
    name: &WorkloadName,
    manner: Manner,
    PlainRequest { method, path, host, field: (field, value) }: &PlainRequest,
    policies: Vec<AccessPolicy>,
    decider: u16,
) -> (String, bool) {
    let (process, mut client, accepted) = diverted().await;
    hold(worker, name, process.local_addr().unwrap().port(), policies, decider);
    let account = worker.local.accounts.of(&Payer::Outside);
    tokio::task::spawn_local(serve(worker.clone(), name.clone(), account, accepted, PEER));
    let was_reached = Rc::new(Cell::new(false));
    let reached = was_reached.clone();
    let serving = tokio::task::spawn_local(async move {
        while let Ok((mut inner, _)) = process.accept().await {
            reached.set(true);
            if manner == Manner::Bytes {
                inner.write_all(b"bytes 200 \r\n\r\n").await.unwrap();
                continue;
            }
            let answer = match head(&mut inner).await.contains("upgrade: websocket") {
                true => {
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
                }
                false => "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nin",
            };
            inner.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let said = if manner == Manner::Http2 {
        let request = Request::builder().method(*method).uri(format!("http://{host}{path}"));
        let request = request.header(*field, value).body(String::new()).unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client));
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        match timeout(SOON, sender.send_request(request)).await.unwrap() {
            Ok(answer) => {
                let reason =
                    answer.headers().get("tulle-reason").map_or("", |reason| reason.to_str().unwrap());
                format!("{} {reason}", answer.status().as_u16())
            }
            Err(_) => "reset ".to_owned(),
        }
    } else {
        let text = match manner {
            Manner::Bytes => "\x16\x03\x01\x02\x00".to_owned(),
            Manner::WebSocket => format!(
                "GET {path} HTTP/1.1\r\nhost: {host}\r\n{field}: {value}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
            ),
            _ => format!(
                "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{field}: {value}\r\nconnection: close\r\n\r\n"
            ),
        };
        client.write_all(text.as_bytes()).await.unwrap();
        let said = timeout(SOON, head(&mut client)).await.unwrap();
        let reason = said.split("tulle-reason: ").nth(1).and_then(|rest| rest.split('\r').next());
        format!("{} {}", said.split(' ').nth(1).unwrap_or("reset"), reason.unwrap_or_default())
    };
    serving.abort();
    (said, was_reached.get())
}
