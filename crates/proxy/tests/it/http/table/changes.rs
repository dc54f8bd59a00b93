//! Routes change while requests pass: each change is in force at once, and no request fails for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tulle_model::compile::{Change, Compiler};
use tulle_model::name::NamespacedName;
use tulle_model::registry;

use super::super::apps::{full, http1, http2, read};
use super::super::mesh::Way;
use super::asked::Asked;
use super::mesh::Mesh;
use super::{Version, compile, routes};

const CHANGES: usize = 200;
/// How many requests are answered between two changes, at least.
const BETWEEN: usize = 5;
/// Of each of so many clients, a request every 8 ms: 1,000 in a second.
const CLIENTS: usize = 8;

/// What the routes of `c` may be, and who answers then. All of them take all that is asked for here.
const FORMS: [(&str, &str); 8] = [
    ("", "c"),
    ("  - backendRefs: [{name: v1, port: 80}]", "v1"),
    ("  - backendRefs: [{name: v1, port: 80, weight: 0}, {name: v2, port: 80, weight: 1}]", "v2"),
    (
        "
  - matches: [{path: {value: /probe}, headers: [{name: x-id, value: 'who'}]}]
    backendRefs: [{name: v3, port: 80}]
  - backendRefs: [{name: v1, port: 80}]",
        "v3",
    ),
    (
        "
  - filters:
    - {type: URLRewrite, urlRewrite: {hostname: d.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-rule, value: '1'}]}}
    timeouts: {request: 60s}
    retry: {codes: [503], backoff: 1ms}
    backendRefs: [{name: w, namespace: shop, port: 80}]",
        "w",
    ),
    (
        "
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 80}}}]
    backendRefs: [{name: v2, port: 80}]",
        "v2",
    ),
    (
        "
kind: GRPCRoute
metadata: {name: g}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v3, port: 80}]}]",
        "v3",
    ),
    (
        "
kind: HTTPRoute
metadata: {name: another, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  rules:
  - matches: [{method: GET}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{method: POST}]
    backendRefs: [{name: v2, port: 80}]",
        "v1",
    ),
];

/// What all clients see.
#[derive(Default)]
struct Told {
    answered: AtomicUsize,
    over: AtomicBool,
}

/// Asks again and again on one connection, and says what was not answered with 200.
async fn ask(entry: std::net::SocketAddr, number: usize, told: Arc<Told>) -> Vec<String> {
    let mut pace = interval(Duration::from_millis(CLIENTS as u64));
    let mut wrong = Vec::new();
    let in_http2 = number >= CLIENTS / 2;
    let (mut one, mut two) = (http1(entry).await, http2(entry).await);
    for turn in 0.. {
        if told.over.load(Ordering::Relaxed) {
            break;
        }
        pace.tick().await;
        let request = Request::get(if in_http2 { "http://c/load" } else { "/load" });
        let request = request.header("host", "c").header("x-id", format!("{number}-{turn}"));
        let request = request.body(full("")).unwrap();
        let _is_told_below = one.ready().await;
        let answer = match in_http2 {
            true => two.send_request(request).await,
            false => one.send_request(request).await,
        };
        let answer = match answer {
            Ok(answer) => read(answer).await,
            Err(error) => {
                wrong.push(format!("{number}-{turn}: {error}"));
                break;
            }
        };
        if answer.status != 200 {
            wrong.push(format!("{number}-{turn}: {} {}", answer.status, answer.body));
        }
        told.answered.fetch_add(1, Ordering::Relaxed);
    }
    wrong
}

/// Sends bodies that are longer under way than routes are in force.
async fn send_slowly(entry: std::net::SocketAddr, told: Arc<Told>) -> Vec<String> {
    let mut wrong = Vec::new();
    for turn in 0.. {
        if told.over.load(Ordering::Relaxed) {
            break;
        }
        let pieces = stream::unfold(0u8, |at| async move {
            sleep(Duration::from_millis(5)).await;
            (at < 20).then(|| (Ok(Frame::data(Bytes::from(vec![at; 1000]))), at + 1))
        });
        let body = BodyExt::boxed(StreamBody::new(pieces));
        let request = Request::post("/slow").header("host", "c").header("x-id", format!("slow-{turn}"));
        match http1(entry).await.send_request(request.body(body).unwrap()).await {
            Ok(answer) if answer.status() == 200 => {}
            other => wrong.push(format!("slow-{turn}: {other:?}")),
        }
    }
    wrong
}

/// Puts these routes in the place of those that were there before.
fn change(compiler: &mut Compiler, before: &str, after: &str) {
    let of =
        |text: &str| routes(text).into_iter().map(|object| (registry::of_object(&object).unwrap(), object));
    let name = |object: &serde_json::Value| {
        NamespacedName::new("default", object["metadata"]["name"].as_str().unwrap())
    };
    let after: Vec<_> = of(after).collect();
    let gone = of(before).filter(|(kind, object)| {
        !after.iter().any(|(other, new)| kind.kind == other.kind && name(object) == name(new))
    });
    let gone: Vec<_> = gone.map(|(kind, object)| Change::Delete(kind, name(&object))).collect();
    let put = after.into_iter().map(|(kind, object)| Change::Put(kind, Arc::new(object)));
    compiler.apply_all(put.chain(gone));
}

/// A route that does not compile, in the place of one that did: the last good form stays in force, and that is said.
fn break_route(compiler: &mut Compiler) {
    let broken = "  - backendRefs: [{name: v1, port: 80, weight: -1}]";
    let (kind, object) =
        routes(broken).into_iter().map(|o| (registry::of_object(&o).unwrap(), o)).next().unwrap();
    compiler.apply(Change::Put(kind, Arc::new(object)));
    let name = NamespacedName::new("default", "r");
    let problem = compiler.problem(kind, &name).unwrap();
    assert_eq!(problem.field, "spec.rules[0].backendRefs[0].weight");
    let status = &compiler.route_status(kind, &name).unwrap()[0];
    let said = status.conditions.iter().find(|condition| condition.kind == "PartiallyInvalid").unwrap();
    assert!(said.status && said.message.contains("weight"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_in_force_at_once_and_no_request_fails() {
    let mut mesh = Mesh::new(Way::Link).await;
    let mut compiler = compile(&[]);
    mesh.publish(&compiler, |name| name == "c");
    let entry = mesh.entry(("c", 80)).await;
    let told = Arc::new(Told::default());
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(ask(entry, number, told.clone()));
    }
    clients.spawn(send_slowly(entry, told.clone()));
    let mut random = StdRng::seed_from_u64(10);
    let mut form = 0;
    for number in 0..CHANGES {
        let before = form;
        form = (form + random.random_range(1..FORMS.len())) % FORMS.len();
        let (after, by) = FORMS[form];
        change(&mut compiler, FORMS[before].0, after);
        if after.trim_start().starts_with('-') && random.random() {
            break_route(&mut compiler);
        }
        mesh.publish(&compiler, |name| name == "c");
        // The first requests that come then.
        for version in [Version::Http1, Version::Http2] {
            let asked = Asked::parse("GET /probe");
            assert_eq!(mesh.who(version, &asked).await, by, "change {number}: {version:?} {after}");
        }
        let (began, answered) = (Instant::now(), told.answered.load(Ordering::Relaxed));
        while told.answered.load(Ordering::Relaxed) < answered + BETWEEN {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "change {number}: nothing is answered any more"
            );
            sleep(Duration::from_millis(1)).await;
        }
    }
    told.over.store(true, Ordering::Relaxed);
    let wrong: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
