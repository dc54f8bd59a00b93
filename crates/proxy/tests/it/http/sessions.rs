//! Requests that stay with the endpoint that took the first of their session, whatever the weights say.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tulle_model::registry::KindId;
use tulle_model::snapshot::{AppProtocol, Endpoint, SessionKey};

use super::apps::{self, Answer, full, http1, http2, read, read_head};
use super::filtered::{SERVICE, route_of};
use super::mesh::{Authority, Node, Path, eventually, plain};
use crate::mesh::logged;

const KEY: SessionKey = SessionKey([7; SessionKey::LENGTH]);

/// An application that says who it is, and goes on in whatever it is asked to.
async fn app(name: &'static str) -> SocketAddr {
    apps::serve(move |mut request: Request<Incoming>| async move {
        let mut answer = Response::builder().header("x-app", name);
        if request.headers().contains_key("upgrade") {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move { drop(upgraded.await) });
            answer = answer.status(101).header("connection", "upgrade").header("upgrade", "websocket");
        }
        answer.body(full("")).unwrap()
    })
    .await
}

/// Services `v1` and `v2`, each with an endpoint in plain, one on the client's node and one on another node; `c` has none.
struct Mesh {
    path: Path,
    authority: Authority,
    /// Of `v1`, then of `v2`.
    endpoints: [Vec<Endpoint>; 2],
    protocol: AppProtocol,
}

impl Mesh {
    async fn start(protocol: AppProtocol) -> Self {
        let authority = Authority::new();
        let mut near = Node::start("near", &authority).await;
        let mut far = Node::start("far", &authority).await;
        let mut endpoints = [vec![], vec![]];
        let names = [["v1-plain", "v1-0", "v1-1"], ["v2-plain", "v2-0", "v2-1"]];
        for (endpoints, [first, second, third]) in endpoints.iter_mut().zip(names) {
            endpoints.push(plain(app(first).await));
            endpoints.push(near.add_workload(&authority, second, &[app(second).await.port()]));
            endpoints.push(far.add_workload(&authority, third, &[app(third).await.port()]));
        }
        near.add_service("c", protocol, vec![]);
        near.change_mesh(|mesh| mesh.session_key = Some(KEY));
        let address = near.listen("c").await;
        let mut mesh = Self { path: Path { near, far, address }, authority, endpoints, protocol };
        for (at, service) in ["v1", "v2"].into_iter().enumerate() {
            mesh.path.near.add_service(service, protocol, mesh.endpoints[at].clone());
        }
        mesh
    }

    /// Shares requests out between `v1` and `v2`.
    fn share(&mut self, session: &str, [v1, v2]: [u32; 2]) {
        self.route(&format!(
            "  - sessionPersistence: {{{session}}}\n    backendRefs: [{{name: v1, port: 80, weight: {v1}}}, \
             {{name: v2, port: 80, weight: {v2}}}]\n"
        ));
    }

    fn route(&mut self, rules: &str) {
        self.route_of(KindId::HttpRoute, rules);
    }

    fn route_of(&mut self, kind: KindId, rules: &str) {
        let services: Vec<_> =
            ["c", "v1", "v2"].map(|name| SERVICE.replace("name: c", &format!("name: {name}"))).into();
        route_of(kind, &mut self.path, &services, rules);
    }

    async fn get(&self, target: &str, fields: &[(&str, &str)]) -> Answer {
        let fields = |mut request: http::request::Builder| {
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            request.body(full("")).unwrap()
        };
        if self.protocol == AppProtocol::Http2 {
            let request = fields(Request::get(format!("http://c{target}")));
            return read(http2(self.path.address).await.send_request(request).await.unwrap()).await;
        }
        let request = fields(Request::get(target).header("host", "c"));
        read(http1(self.path.address).await.send_request(request).await.unwrap()).await
    }

    /// As a client that has that cookie: who answers, and the cookie that the client is given.
    async fn with(&self, target: &str, cookie: &str) -> (String, Option<String>) {
        let answer = self.get(target, &[("cookie", cookie)]).await;
        assert_eq!(answer.status, 200, "{cookie}");
        (who(&answer.headers), given(&answer.headers))
    }

    /// A client without a cookie that is answered by one of those: its cookie.
    async fn begin(&self, by: &[&str]) -> (String, String) {
        for _ in 0..200 {
            if let (who, Some(cookie)) = self.with("/", "other=1").await
                && by.contains(&&*who)
            {
                return (who, cookie);
            }
        }
        panic!("none of {by:?} answers");
    }
}

fn who(headers: &HeaderMap) -> String {
    headers["x-app"].to_str().unwrap().to_owned()
}

/// Name and value of the cookie that an answer sets.
fn given(headers: &HeaderMap) -> Option<String> {
    let cookie = headers.get("set-cookie")?.to_str().unwrap();
    Some(cookie.split(';').next().unwrap().to_owned())
}

const ALL: [&str; 6] = ["v1-plain", "v1-0", "v1-1", "v2-plain", "v2-0", "v2-1"];

#[tokio::test]
async fn a_client_stays_where_it_began_whatever_the_weights_become() {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let mut mesh = Mesh::start(protocol).await;
        mesh.share("sessionName: s", [1, 1]);
        for name in ALL {
            let (_, cookie) = mesh.begin(&[name]).await;
            assert!(cookie.starts_with("s="), "{cookie}");
            for _ in 0..5 {
                let crowded = format!("a=1; {cookie}; s=another");
                assert_eq!(mesh.with("/", &crowded).await, (name.to_owned(), None), "{protocol:?}");
            }
            for weights in [[0, 1], [1, 0], [0, 0]] {
                mesh.share("sessionName: s", weights);
                assert_eq!(
                    mesh.with("/kept-by-session", &cookie).await,
                    (name.to_owned(), None),
                    "{name} {weights:?}"
                );
            }
            assert_eq!(mesh.get("/", &[]).await.status, 500, "who is new has nowhere to go");
            mesh.share("sessionName: s", [1, 1]);
        }
        let kept = "HTTPRoute/default/r spec.rules[0].sessionPersistence routed";
        eventually(|| logged(&["/kept-by-session", kept]).then_some(())).await;
    }
}

#[tokio::test]
async fn who_is_new_is_shared_out_and_gets_a_cookie_of_its_rule() {
    let mut mesh = Mesh::start(AppProtocol::Http1).await;
    mesh.share("", [1, 0]);
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let answer = mesh.get("/", &[]).await;
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        assert!(cookie.starts_with("session-"), "{cookie}");
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
        seen.insert(who(&answer.headers));
    }
    assert!(seen.iter().all(|name| name.starts_with("v1")) && seen.len() == 3, "{seen:?}");

    let cookies = "cookieConfig: {lifetimeType: Permanent}, absoluteTimeout: 1h, sessionName: s";
    mesh.route(&format!(
        "  - matches: [{{path: {{value: /a}}}}]\n    sessionPersistence: {{{cookies}}}\n    \
         backendRefs: [{{name: v1, port: 80}}]\n  \
         - matches: [{{path: {{value: /b}}}}]\n    sessionPersistence: {{sessionName: s}}\n    \
         backendRefs: [{{name: v1, port: 80, weight: 0}}, {{name: v2, port: 80}}]\n"
    ));
    let answer = mesh.get("/a/x", &[]).await;
    let cookie = answer.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("; Path=/a; ") && cookie.ends_with("; Max-Age=3600"), "{cookie}");
    // Of another rule: worth nothing, though the name is the same.
    let (name, other) = mesh.with("/b", &given(&answer.headers).unwrap()).await;
    assert!(name.starts_with("v2") && other.is_some(), "{name}");
}

#[tokio::test]
async fn a_session_begins_anew_where_its_endpoint_is_gone_and_where_it_is_over() {
    let mut mesh = Mesh::start(AppProtocol::Http1).await;
    mesh.share("sessionName: s", [1, 1]);
    // The endpoint is gone.
    let (_, cookie) = mesh.begin(&["v1-1"]).await;
    let left = mesh.endpoints[0][..2].to_vec();
    mesh.path.near.add_service("v1", mesh.protocol, left);
    let (name, new) = mesh.with("/", &cookie).await;
    assert_ne!(name, "v1-1");
    let new = new.expect("another cookie");
    assert_eq!(mesh.with("/", &new).await, (name, None));
    // So is its backend.
    let (_, cookie) = mesh.begin(&["v1-0"]).await;
    let only_v2 = "  - sessionPersistence: {sessionName: s}\n    backendRefs: [{name: v2, port: 80}]\n";
    mesh.route(only_v2);
    let (name, new) = mesh.with("/", &cookie).await;
    assert!(name.starts_with("v2") && new.is_some(), "{name}");
    // Whatever was not made here is none.
    let last = cookie.len() - 1;
    let forged = format!("{}{}", &cookie[..last], if cookie.ends_with('A') { "B" } else { "A" });
    for cookie in [&forged, "s=", "s=v2-0", "s=10.0.0.1:80", &format!("s={}", "A".repeat(83))] {
        assert!(mesh.with("/", cookie).await.1.is_some(), "{cookie}");
    }
    // It is over.
    mesh.share("sessionName: s, absoluteTimeout: 1ms", [1, 1]);
    let (_, cookie) = mesh.begin(&ALL).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(mesh.with("/", &cookie).await.1.is_some());
    // It is told anew before it would end for want of requests, and not each time.
    mesh.share("sessionName: s, idleTimeout: 10s", [1, 1]);
    let (name, cookie) = mesh.begin(&ALL).await;
    assert_eq!(mesh.with("/", &cookie).await, (name.clone(), None));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (again, new) = mesh.with("/", &cookie).await;
    assert_eq!((&again, new.is_some_and(|new| new != cookie)), (&name, true));
    // A mesh without a key has no sessions, and works.
    mesh.path.near.change_mesh(|mesh| mesh.session_key = None);
    assert_eq!(mesh.with("/", &cookie).await.1, None);
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connections_is_left_for_another() {
    let mut mesh = Mesh::start(AppProtocol::Http1).await;
    let (address, dying) = apps::serve_until_aborted(|_| async {
        Response::builder().header("x-app", "dying").body(full("")).unwrap()
    })
    .await;
    mesh.endpoints[0][0] = plain(address);
    mesh.path.near.add_service("v1", mesh.protocol, mesh.endpoints[0].clone());
    mesh.share("sessionName: s", [1, 0]);
    let (_, cookie) = mesh.begin(&["dying"]).await;
    assert_eq!(mesh.with("/", &cookie).await, ("dying".to_owned(), None));
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    for _ in 0..3 {
        let (name, new) = mesh.with("/", &cookie).await;
        assert!(name != "dying" && new.is_some(), "{name}");
    }
}

/// Those are failures of the moment, and no reason to leave what the application keeps.
#[tokio::test]
async fn a_session_outlasts_what_another_endpoint_has_mended() {
    let mut mesh = Mesh::start(AppProtocol::Http1).await;
    // It answers once on each connection, and closes it without a word of that: a request on it later is lost.
    let closing = apps::script(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-app: closing\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        read_head(&mut stream).await;
    })
    .await;
    let busy = apps::serve(|request: Request<Incoming>| async move {
        let status = if request.uri().path() == "/busy" { 503 } else { 200 };
        Response::builder().status(status).header("x-app", "busy").body(full("")).unwrap()
    })
    .await;
    let idle = apps::serve(|_: Request<Incoming>| async move {
        Response::builder().header("x-app", "idle").body(full("")).unwrap()
    })
    .await;
    let lead_to = |mesh: &mut Mesh, apps: [SocketAddr; 2]| {
        mesh.endpoints[0] = apps.map(plain).into();
        mesh.path.near.add_service("v1", mesh.protocol, mesh.endpoints[0].clone());
    };
    lead_to(&mut mesh, [closing, busy]);
    mesh.route(
        "  - sessionPersistence: {sessionName: s}\n    retry: {codes: [503], backoff: 0s}\n    \
         backendRefs: [{name: v1, port: 80}]\n",
    );
    let (_, cookie) = mesh.begin(&["closing"]).await;
    for _ in 0..5 {
        assert_eq!(mesh.with("/", &cookie).await, ("closing".to_owned(), None));
    }
    // Not the one that closes: an attempt that is lost there would be the last.
    lead_to(&mut mesh, [idle, busy]);
    let (_, cookie) = mesh.begin(&["busy"]).await;
    assert_eq!(mesh.with("/busy", &cookie).await, ("idle".to_owned(), None), "the other answers once");
    assert_eq!(mesh.with("/", &cookie).await, ("busy".to_owned(), None));
}

#[tokio::test]
async fn each_backend_has_its_own_sessions_though_their_service_is_one() {
    let mut mesh = Mesh::start(AppProtocol::Http2).await;
    let backend = |weight: u32, value: &str| {
        format!(
            "{{name: v1, port: 80, weight: {weight}, filters: [{{type: ResponseHeaderModifier, \
             responseHeaderModifier: {{set: [{{name: x-backend, value: {value}}}]}}}}]}}"
        )
    };
    let share = |mesh: &mut Mesh, [one, two]: [u32; 2]| {
        let backends = format!("{}, {}", backend(one, "one"), backend(two, "two"));
        mesh.route(&format!("  - sessionPersistence: {{sessionName: s}}\n    backendRefs: [{backends}]\n"));
    };
    share(&mut mesh, [0, 1]);
    let first = mesh.get("/", &[]).await;
    let cookie = given(&first.headers).unwrap();
    share(&mut mesh, [1, 0]);
    // In crumbs, as clients of HTTP/2 may send cookies.
    let answer = mesh.get("/", &[("cookie", "a=1"), ("cookie", &cookie), ("cookie", "b=2")]).await;
    assert_eq!((who(&answer.headers), given(&answer.headers)), (who(&first.headers), None));
    assert_eq!(answer.headers["x-backend"], "two");
}

#[tokio::test]
async fn what_the_mesh_answers_itself_begins_no_session() {
    let mut mesh = Mesh::start(AppProtocol::Http1).await;
    mesh.route(
        "  - matches: [{path: {value: /away}}]\n    sessionPersistence: {sessionName: s}\n    \
         filters: [{type: RequestRedirect, requestRedirect: {port: 1}}]\n  \
         - matches: [{path: {value: /none}}]\n    sessionPersistence: {sessionName: s}\n    \
         backendRefs: [{name: c, port: 80}]\n",
    );
    for (target, status) in [("/away", 302), ("/none", 503)] {
        let answer = mesh.get(target, &[]).await;
        assert_eq!((answer.status, given(&answer.headers)), (status, None), "{target}");
    }
}

#[tokio::test]
async fn calls_of_grpc_have_sessions_too() {
    let mut mesh = Mesh::start(AppProtocol::Http2).await;
    let rules = "  - matches: [{method: {service: shop.Cart}}]\n    \
                 sessionPersistence: {type: Header, sessionName: x-cart}\n    \
                 backendRefs: [{name: v1, port: 80}, {name: v2, port: 80}]\n";
    mesh.route_of(KindId::GrpcRoute, rules);
    let first = mesh.get("/shop.Cart/Add", &[("content-type", "application/grpc")]).await;
    let token = first.headers["x-cart"].to_str().unwrap();
    for method in ["Add", "List", "Add", "List"] {
        let fields = [("content-type", "application/grpc"), ("x-cart", token)];
        let answer = mesh.get(&format!("/shop.Cart/{method}"), &fields).await;
        assert_eq!((who(&answer.headers), answer.headers.get("x-cart")), (who(&first.headers), None));
    }
}

#[tokio::test]
async fn tokens_travel_in_headers_and_are_good_on_every_node() {
    let mut mesh = Mesh::start(AppProtocol::Http2).await;
    let session = "type: Header, sessionName: X-Session";
    mesh.share(session, [1, 1]);
    let first = mesh.get("/", &[]).await;
    let (name, token) = (who(&first.headers), first.headers["x-session"].to_str().unwrap().to_owned());
    assert!(!first.headers.contains_key("set-cookie"));
    for _ in 0..5 {
        let answer = mesh.get("/", &[("x-session", &token)]).await;
        assert_eq!((who(&answer.headers), answer.headers.get("x-session")), (name.clone(), None));
    }
    // Another client's node, that knows the same.
    let authority = mesh.authority;
    let mut near = Node::start("other", &authority).await;
    near.add_service("c", mesh.protocol, vec![]);
    near.change_mesh(|mesh| mesh.session_key = Some(KEY));
    for (service, endpoints) in ["v1", "v2"].into_iter().zip(&mesh.endpoints) {
        near.add_service(service, mesh.protocol, endpoints.clone());
    }
    let path = Path { address: near.listen("c").await, near, far: mesh.path.far };
    let _first_client = mesh.path.near;
    let (endpoints, protocol) = (mesh.endpoints, mesh.protocol);
    let mut there = Mesh { path, authority, endpoints, protocol };
    there.share(session, [1, 1]);
    for _ in 0..5 {
        let answer = there.get("/", &[("x-session", &token)]).await;
        assert_eq!((who(&answer.headers), answer.headers.get("x-session")), (name.clone(), None));
    }
}

#[tokio::test]
async fn a_websocket_is_of_its_session() {
    let mut mesh = Mesh::start(AppProtocol::Http1).await;
    mesh.share("sessionName: s", [1, 1]);
    for name in ALL {
        let (_, cookie) = mesh.begin(&[name]).await;
        for (cookie, is_new) in [(&*cookie, false), ("a=1", true)] {
            let mut stream = TcpStream::connect(mesh.path.address).await.unwrap();
            let head = format!(
                "GET /chat HTTP/1.1\r\nhost: c\r\ncookie: {cookie}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = read_head(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 101 "), "{name}: {answer}");
            assert_eq!(answer.contains("set-cookie: s="), is_new, "{name}: {answer}");
            if !is_new {
                assert!(answer.contains(&format!("x-app: {name}\r\n")), "{name}: {answer}");
            }
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        }
    }
}
