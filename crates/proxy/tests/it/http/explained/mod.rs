//! What is explained of requests (`tulle explain`), against what becomes of them: routes and requests by chance, through
//! proxies whose configuration changes meanwhile.

mod attempts;
mod connections;
pub(super) mod generate;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tulle_model::compile::{Change, Compiler};
use tulle_model::explain::{
    Caller, Delivered, Described, DescribedRequest, End, Explanation, Phase, PhaseStep, Sends, explain,
    snapshot,
};
use tulle_model::identity::TrustDomain;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::registry::KindId;
use tulle_model::routing::join_values;
use tulle_model::snapshot::{Endpoint, EndpointSet, Snapshot};
use tulle_proxy::Capture;

use self::generate::{Asking, BACKENDS, Dice, Over, asking, table};
use super::apps::{self, full, http2, read};
use super::mesh::{Authority, Node, plain};
use crate::mesh::logged_since;

/// Requests on their way at a time.
const AT_A_TIME: usize = 4;
/// What an application was asked, in its answer.
const ECHO: &str = "x-echo";
/// What an application's answer has besides.
const OWN: [(&str, &str); 4] = [
    ("x-own", "app"),
    ("x-gone", "app"),
    ("access-control-allow-origin", "https://evil.example"),
    ("vary", "accept"),
];

/// An application that says what it was asked.
async fn app() -> SocketAddr {
    apps::serve(|request: Request<hyper::body::Incoming>| async move {
        let uri = request.uri();
        let named = request.headers().get("host").and_then(|host| host.to_str().ok());
        let host = uri.authority().map(|authority| authority.as_str()).or(named).unwrap_or_default();
        let path = uri.path_and_query().map_or("*", |path| path.as_str());
        let echo = json!([request.method().as_str(), host, path, fields(request.headers())]);
        let mut answer = Response::builder().header(ECHO, echo.to_string());
        for (name, value) in OWN {
            answer = answer.header(name, value);
        }
        answer.body(full("")).unwrap()
    })
    .await
}

/// Those that have to do with requests, in their order by name; the pieces of a cookie as one, however they are cut.
fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let framing = ["cookie", "host", "content-length", "transfer-encoding", "connection", "date", ECHO];
    let all = headers.iter().filter(|(name, _)| !framing.contains(&name.as_str()));
    let mut all: Vec<_> =
        all.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let cookies = headers.get_all("cookie").iter().map(HeaderValue::as_bytes);
    all.extend(join_values("cookie", cookies).map(|cookie| ("cookie".to_owned(), cookie.into_owned())));
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

/// Two nodes, and an endpoint of each of these processes: in plain, on the first node, by a link.
async fn nodes(workloads: [&str; 2], apps: [SocketAddr; 3]) -> (Node, Node, [Endpoint; 3]) {
    let authority = Authority::new();
    let mut near = Node::start("near", &authority).await;
    let mut far = Node::start("far", &authority).await;
    let endpoints = [
        plain(apps[0]),
        near.add_workload(&authority, workloads[0], &[apps[1].port()]),
        far.add_workload(&authority, workloads[1], &[apps[2].port()]),
    ];
    (near, far, endpoints)
}

/// What a node is told of these objects, and of the endpoints of their services.
fn told(
    objects: Vec<(KindId, Value)>,
    endpoints: impl IntoIterator<Item = (ServiceName, Vec<Endpoint>)>,
    generation: u64,
) -> Snapshot {
    let mut compiler = Compiler::new(TrustDomain::new("mesh.test").unwrap());
    compiler.apply_all(objects.into_iter().map(|(kind, object)| Change::Put(kind.kind(), Arc::new(object))));
    let mut told = Snapshot { generation, ..snapshot(&compiler) };
    Arc::make_mut(&mut told.mesh).access_log = true;
    for (name, endpoints) in endpoints {
        let endpoints = endpoints.into_iter().map(|endpoint| (Arc::new(endpoint), 0)).collect();
        told.endpoints.insert(name.clone(), Arc::new(EndpointSet::new(name, endpoints)));
    }
    told
}

fn publish(near: &Node, told: &Arc<Snapshot>) {
    let mut state = near.state.clone();
    state.snapshot = told.clone();
    near.cell.publish(state);
}

/// A mesh of two nodes, and the endpoints of its services.
struct Mesh {
    near: Node,
    _far: Node,
    endpoints: BTreeMap<&'static str, Endpoint>,
    /// Where port 80 of service `c` is.
    entry: SocketAddr,
}

fn service_name(name: &str) -> ServiceName {
    ServiceName::new("prod", name)
}

impl Mesh {
    async fn new() -> Self {
        let app = app().await;
        let (near, far, ways) = nodes(["b1-0", "b2-0"], [app; 3]).await;
        let mut endpoints: BTreeMap<_, _> = BACKENDS.into_iter().zip(ways).collect();
        endpoints.insert("c", plain(app));
        endpoints.insert("copies", plain(app));
        let entry = near.listen_as(Capture::Service { service: service_name("c"), port: 80 }).await;
        Self { near, _far: far, endpoints, entry }
    }

    /// What a node is told of these objects.
    fn told(&self, objects: Vec<(KindId, Value)>, generation: u64) -> Arc<Snapshot> {
        let endpoints = self.endpoints.iter().map(|(name, of)| (service_name(name), vec![of.clone()]));
        Arc::new(told(objects, endpoints, generation))
    }
}

/// What a client was answered.
#[derive(Debug)]
struct Heard {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Heard {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn send(entry: SocketAddr, asking: &Asking, host: &str) -> Heard {
    let target = match asking.query {
        Some(query) => format!("{}?{query}", asking.path),
        None => asking.path.clone(),
    };
    if asking.over == Over::Http2 {
        let mut request = Request::builder().method(asking.method).uri(format!("http://{host}{target}"));
        for (name, value) in &asking.fields {
            request = request.header(*name, *value);
        }
        let answer = http2(entry).await.send_request(request.body(full("")).unwrap()).await.unwrap();
        let answer = read(answer).await;
        return Heard { status: answer.status, headers: answer.headers, body: answer.body };
    }
    let mut text = format!("{} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n", asking.method);
    for (name, value) in &asking.fields {
        text += &format!("{name}: {value}\r\n");
    }
    let mut stream = TcpStream::connect(entry).await.unwrap();
    stream.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
    let answer = apps::read_to_end(&mut stream).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}: {answer}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value.trim()).unwrap());
    }
    Heard { status, headers, body: body.to_owned() }
}

fn explained(snapshot: &Snapshot, asking: &Asking, host: &str) -> Explanation {
    let mut headers = HeaderMap::new();
    headers.append("host", HeaderValue::try_from(host).unwrap());
    if asking.over == Over::Http1 {
        headers.append("connection", HeaderValue::from_static("close"));
    }
    for (name, value) in &asking.fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let workload = WorkloadName::new("default", "a");
    let caller = Caller { workload: &workload, node: Some("near"), identity: None };
    let request = DescribedRequest {
        method: asking.method,
        path: &asking.path,
        query: asking.query,
        headers: &headers,
    };
    explain(snapshot, caller, Described { host: "c.prod", port: 80, sends: Sends::Request(request) })
}

/// A value of a line of the access log; empty where there is none.
fn value<'l>(line: &'l str, key: &str) -> &'l str {
    let Some(at) = line.find(&format!(" {key}=")) else { return "" };
    let rest = &line[at + key.len() + 2..];
    match rest.strip_prefix('"') {
        Some(quoted) => &quoted[..quoted.find('"').unwrap()],
        None => rest.split(' ').next().unwrap(),
    }
}

/// How often what became of requests.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, usize>);

impl Seen {
    fn count(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }

    fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or_default()
    }
}

/// Whether it speaks of all that was decided, by a line of the access log.
fn speaks_of_decisions(explanation: &Explanation, line: &str) -> Result<(), String> {
    let shares: f64 = explanation.outcomes.iter().map(|outcome| outcome.share).sum();
    if (shares - 1.0).abs() > 1e-9 {
        return Err(format!("the shares come to {shares}"));
    }
    for decision in value(line, "decisions").split("; ").filter(|decision| !decision.is_empty()) {
        let mut words = decision.split(' ');
        let (by, field) = (words.next(), words.next());
        if !explanation.steps.iter().any(|step| step.by.as_deref() == by && step.field.as_deref() == field) {
            return Err(format!("nobody speaks of {decision}"));
        }
    }
    Ok(())
}

/// Compares one request; what became of it. `line`: its line of the access log.
fn compare(explanation: &Explanation, heard: &Heard, line: &str) -> Result<String, String> {
    let steps = |phase: Phase| explanation.steps.iter().filter(move |step| step.phase == phase);
    let route = value(line, "route");
    if !route.is_empty() {
        let field = format!("spec.rules[{}].matches", value(line, "rule"));
        let is_ruling = |step: &PhaseStep| {
            step.by.as_deref().is_some_and(|by| by.ends_with(&format!("Route/{route}")))
                && step.field.as_deref() == Some(&field)
        };
        if !steps(Phase::Route).any(is_ruling) {
            return Err(format!("the rule is {route} {field}"));
        }
    }
    speaks_of_decisions(explanation, line)?;
    let destination = value(line, "destination");
    let reason = heard.header("tulle-reason");
    let from_app = heard.headers.get(ECHO);
    let ended = explanation.outcomes.iter().find_map(|outcome| match (&outcome.end, from_app) {
        (End::Forwarded { service, request: Some(request), .. }, Some(echo))
            if service.to_string() == destination =>
        {
            let as_told = forwarded(request, echo).and_then(|()| answered(explanation, heard, &OWN, line));
            Some(as_told.map(|()| "forwarded".to_owned()))
        }
        (End::Redirected { status, location }, None) if heard.status == *status => {
            let as_told = answered(explanation, heard, &[("location", location)], line);
            Some(as_told.map(|()| "redirected".to_owned()))
        }
        (End::Preflight { status, headers }, None) if heard.status == *status => {
            let mut told = headers.clone();
            told.sort_by(|(a, _), (b, _)| a.cmp(b));
            Some(same(told, fields(&heard.headers)).map(|()| format!("preflight {status}")))
        }
        // It did not come so far as to be told in the same words.
        (End::Refused { status, reason: told, .. }, None)
            if line.is_empty() && *told == reason && *status == Some(heard.status) =>
        {
            Some(Ok(format!("refused {reason}")))
        }
        (End::Refused { status, grpc_status, reason: told, message }, None)
            if *told == reason && *status == Some(heard.status) =>
        {
            let words = format!("tulle: {message}\n");
            let as_told = match grpc_status {
                Some(code) => same(*code, heard.header("grpc-status")),
                None if heard.body.is_empty() => Ok(()),
                None => same(&*words, &*heard.body),
            };
            Some(as_told.map(|()| format!("refused {reason}")))
        }
        _ => None,
    });
    ended.unwrap_or_else(|| Err(format!("nobody speaks of {destination} {reason}")))
}

fn same<T: PartialEq + std::fmt::Debug>(told: T, found: T) -> Result<(), String> {
    if told == found { Ok(()) } else { Err(format!("told {told:?}, found {found:?}")) }
}

/// Whether the application was asked what is told.
fn forwarded(told: &Delivered, echo: &HeaderValue) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &told.headers {
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
    }
    let told = json!([told.method, told.host, told.path, fields(&headers)]);
    same(told, serde_json::from_str(echo.to_str().unwrap()).unwrap())
}

/// Whether an answer that has these fields of its own came as the steps of its phase make it.
fn answered(
    explanation: &Explanation,
    heard: &Heard,
    own: &[(&'static str, &str)],
    line: &str,
) -> Result<(), String> {
    let decisions = value(line, "decisions");
    let backend = decisions.split_once(".weight routed").and_then(|(before, _)| before.rsplit_once('.'));
    let backend = backend.map_or("", |(_, backend)| backend);
    let of_backend = |step: &&PhaseStep| step.field.as_deref().is_some_and(|of| of.contains("backendRefs["));
    let is_cors = |step: &&PhaseStep| step.field.as_deref().is_some_and(|of| of.contains(".cors"));
    let mut steps: Vec<&PhaseStep> = (explanation.steps.iter())
        .filter(|step| step.phase == Phase::ResponseFilters)
        .filter(|step| !of_backend(step) || step.field.as_deref().is_some_and(|of| of.contains(backend)))
        .collect();
    // What several backends have in common is told once, with the first.
    steps.sort_by_key(|step| (is_cors(step), !of_backend(step)));
    let mut expected = HeaderMap::new();
    for (name, value) in own {
        expected.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let mut found = heard.headers.clone();
    for step in steps {
        let (verb, what) = step.what.split_once(' ').unwrap();
        let field = what.split_once(": ").and_then(|(name, value)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        });
        match (verb, field) {
            ("removes", _) if what.starts_with("access-control-*") => {
                let names: Vec<_> = expected.keys().cloned().collect();
                let said = names.into_iter().filter(|name| name.as_str().starts_with("access-control-"));
                said.for_each(|name| drop(expected.remove(name)));
            }
            ("removes", _) => drop(expected.remove(what)),
            ("sets", Some((name, value))) => drop(expected.insert(name, value)),
            ("adds", Some((name, value))) => drop(expected.append(name, value)),
            // Which those are depends on the application.
            ("names", _) => drop(found.remove("access-control-expose-headers").ok_or("no fields are named")?),
            ("origin" | "no" | "more", _) if what.contains("not allowed") => {}
            _ => return Err(format!("nobody understands `{}`", step.what)),
        }
    }
    same(fields(&expected), fields(&found))
}

/// Sends so many requests, an equal part with each table, and compares each.
async fn run(seed: u64, tables: u64, requests: usize) -> Seen {
    let mesh = Mesh::new().await;
    let mut dice = Dice(seed);
    let mut seen = Seen::default();
    let objects = table(&mut dice);
    let mut is_grpc = objects.iter().any(|(kind, _)| *kind == KindId::GrpcRoute);
    let mut known = HashMap::from([(1, (objects.clone(), mesh.told(objects, 1)))]);
    publish(&mesh.near, &known[&1].1);
    for generation in 1..=tables {
        let asked: Vec<(String, Asking)> = (0..requests)
            .map(|at| (format!("q{seed}-{generation}-{at}.test"), asking(&mut dice, is_grpc)))
            .collect();
        let objects = table(&mut dice);
        is_grpc = objects.iter().any(|(kind, _)| *kind == KindId::GrpcRoute);
        let next = mesh.told(objects.clone(), generation + 1);
        known.insert(generation + 1, (objects, next.clone()));
        let (_, begin) = logged_since(usize::MAX);
        let (mesh, next) = (&mesh, &next);
        let send = |(at, (host, asking)): (usize, &(String, Asking))| {
            // What is on its way meanwhile is decided by one or the other, and the log says by which.
            if at == requests / 2 {
                publish(&mesh.near, next);
            }
            let (entry, host, asking) = (mesh.entry, host.clone(), asking.clone());
            async move { send(entry, &asking, &host).await }
        };
        let heard: Vec<Heard> =
            stream::iter(asked.iter().enumerate()).map(send).buffered(AT_A_TIME).collect().await;
        let is_early = |(host, asking): &&(String, Asking)| {
            let explanation = explained(&known[&generation].1, asking, host);
            let mut steps = explanation.steps.iter().filter(|step| step.phase == Phase::Normalize);
            explanation.outcomes.len() == 1
                && matches!(explanation.outcomes[0].end, End::Refused { .. })
                && steps
                    .any(|step| step.what.starts_with("answered") || step.what.contains("it answers itself"))
        };
        let expected: Vec<&str> =
            asked.iter().filter(|asked| !is_early(asked)).map(|(host, _)| &**host).collect();
        let lines = lines(begin, &expected).await;
        for ((host, asking), heard) in asked.iter().zip(&heard) {
            let line = lines.get(host).map_or("", String::as_str);
            let decided_on = value(line, "generation").parse().unwrap_or(generation);
            let (objects, told) = &known[&decided_on];
            let explanation = explained(told, asking, host);
            match compare(&explanation, heard, line) {
                Ok(what) => seen.count(&what),
                Err(problem) => panic!(
                    "{problem}\n{asking:?}\n{heard:?}\n{line}\n{explanation:#?}\n{}",
                    serde_json::to_string_pretty(
                        &objects.iter().map(|(_, object)| object).collect::<Vec<_>>()
                    )
                    .unwrap()
                ),
            }
            seen.count(if decided_on == generation { "before" } else { "after" });
        }
        known.remove(&generation);
    }
    seen
}

/// The line of each request, by the host that it names, once all are there.
async fn lines(begin: usize, hosts: &[&str]) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for _ in 0..1000 {
        for line in logged_since(begin).0.lines() {
            // Copies have lines of their own, whose first decision is the mirror's.
            let is_copy =
                value(line, "route").is_empty() && value(line, "decisions").contains("requestMirror");
            if value(line, "direction") == "outbound" && !is_copy {
                found.insert(value(line, "authority").to_owned(), line.to_owned());
            }
        }
        if hosts.iter().all(|host| found.contains_key(*host)) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let missing: Vec<_> = hosts.iter().filter(|host| !found.contains_key(**host)).collect();
    panic!("the log has no line of {missing:?}");
}

#[tokio::test]
async fn what_is_explained_is_what_happens() {
    let seen = run(8, 40, 20).await;
    for (what, least) in [
        ("forwarded", 100),
        ("redirected", 3),
        ("preflight 204", 2),
        ("preflight 403", 2),
        ("refused no-route", 30),
        ("refused invalid-backend", 20),
        ("refused no-endpoints", 10),
        ("refused bad-request", 10),
        ("refused headers-too-large", 1),
        ("after", 100),
    ] {
        assert!(seen.of(what) >= least, "{what}: {seen:?}");
    }
}

#[tokio::test]
#[ignore = "takes a minute; after a change of what is decided over requests, by hand: see CONTRIBUTING.md"]
async fn ten_thousand_explained_requests_are_what_happens() {
    let seen = run(2, 500, 20).await;
    println!("{seen:?}");
}
