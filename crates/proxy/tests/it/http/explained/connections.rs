//! The same of connections: of TLS, by the servers that their clients name, and of bytes.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::snapshot::{Carried, Known};

use super::generate::BACKENDS;
use super::*;
use crate::tls::client_hello;

const NAMES: [&str; 6] = ["a.test", "*.a.test", "b.a.test", "*.test", "*.b.a.test", "x.test"];
/// What clients of TLS name; of an address, none.
const SERVERS: [&str; 7] = ["a.test", "b.a.test", "c.b.a.test", "x.test", "A.Test", "other.org", "127.0.0.1"];
const PROTOCOLS: [Option<&str>; 6] = [None, None, None, Some("tcp"), Some("https"), Some("http")];

/// What a client says first.
#[derive(Debug, Clone, Copy)]
enum FirstBytes {
    Tls(&'static str),
    Request,
    Bytes,
}

fn first(dice: &mut Dice) -> FirstBytes {
    match dice.below(10) {
        0 => FirstBytes::Request,
        1 | 2 => FirstBytes::Bytes,
        _ => FirstBytes::Tls(dice.pick(&SERVERS)),
    }
}

/// The service `c`, as it may declare what it speaks, others, and the routes of its port.
fn table(dice: &mut Dice, namespace: &str) -> Vec<(KindId, Value)> {
    let service = |name: &str, protocol: Option<&str>| {
        let mut port = json!({ "port": 80 });
        if let Some(protocol) = protocol {
            port["appProtocol"] = json!(protocol);
        }
        let metadata = json!({ "name": name, "namespace": namespace });
        (KindId::Service, json!({ "metadata": metadata, "spec": { "ports": [port] } }))
    };
    let mut objects = vec![service("c", dice.pick(&PROTOCOLS)), service("empty", None)];
    objects.extend(BACKENDS.map(|name| service(name, dice.pick(&PROTOCOLS))));
    for (kind, percent) in [(KindId::TlsRoute, 55), (KindId::TcpRoute, 45), (KindId::HttpRoute, 10)] {
        if !dice.percent(percent) {
            continue;
        }
        for name in ["r", "s", "t"].into_iter().take(1 + dice.below(3)) {
            // Of the service's namespace, or of the client's.
            let of = if dice.percent(80) { namespace } else { "default" };
            let mut spec = json!({
                "parentRefs": [{ "group": "", "kind": "Service", "name": "c", "namespace": namespace }],
                "rules": [{ "backendRefs": backends(dice, namespace) }],
            });
            if kind == KindId::TlsRoute {
                let names: Vec<&str> = NAMES.into_iter().filter(|_| dice.percent(40)).collect();
                spec["hostnames"] = if names.is_empty() { json!(["a.test"]) } else { json!(names) };
            }
            objects.push((kind, json!({ "metadata": { "name": name, "namespace": of }, "spec": spec })));
        }
    }
    objects
}

fn backends(dice: &mut Dice, namespace: &str) -> Vec<Value> {
    let mut names: Vec<&str> = vec!["b0", "b1", "b2", "b0", "b1", "b2", "empty", "nowhere"];
    (0..1 + dice.below(3))
        .map(|_| {
            let name = names.remove(dice.below(names.len()));
            names.retain(|other| *other != name);
            let port = if dice.percent(5) { 81 } else { 80 };
            let weight = dice.pick(&[0, 1, 1, 1, 3]);
            json!({ "name": name, "namespace": namespace, "port": port, "weight": weight })
        })
        .collect()
}

/// An application that says its name when it hears something, and then hears the rest.
async fn app(name: &'static str) -> SocketAddr {
    crate::mesh::app(move |mut stream| async move {
        let mut heard = [0; 1024];
        if stream.read(&mut heard).await.is_ok_and(|length| length > 0)
            && stream.write_all(name.as_bytes()).await.is_ok()
            && stream.shutdown().await.is_ok()
        {
            while stream.read(&mut heard).await.is_ok_and(|length| length > 0) {}
        }
    })
    .await
}

/// What came of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// What it heard, to its end.
    Said(String),
    Reset,
}

async fn connect(entry: SocketAddr, first: FirstBytes) -> Fate {
    let Some(mut stream) = taken(entry).await else { return Fate::Reset };
    let bytes = match first {
        FirstBytes::Tls(server) => client_hello(server),
        FirstBytes::Request => b"GET / HTTP/1.1\r\nhost: c\r\n\r\n".to_vec(),
        FirstBytes::Bytes => vec![0xff; 20],
    };
    // It may be reset already, and says so once.
    if stream.write_all(&bytes).await.is_err() {
        return Fate::Reset;
    }
    let mut said = String::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_string(&mut said)).await;
    match read.expect("neither an answer nor a reset in ten seconds") {
        Ok(_) => Fate::Said(said),
        Err(_) => Fate::Reset,
    }
}

/// A connection that is taken, which may need a moment where the last table had them refused; nothing where it is reset as soon as that.
async fn taken(entry: SocketAddr) -> Option<TcpStream> {
    for _ in 0..5000 {
        match TcpStream::connect(entry).await {
            Ok(stream) => return Some(stream),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return None,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("connections are refused");
}

/// Waits until connections are refused. Those that are still taken are over by then.
async fn come_to_be_refused(entry: SocketAddr) {
    for _ in 0..5000 {
        let ended = async {
            let mut stream = TcpStream::connect(entry).await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await
        };
        let ended = timeout(Duration::from_secs(10), ended).await.expect("it did not end in ten seconds");
        if ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("connections are taken");
}

/// The line of a connection to a service of that namespace, by that generation of the configuration, that was logged since then.
async fn line(begin: usize, namespace: &str, generation: u64) -> String {
    let generation = generation.to_string();
    for _ in 0..5000 {
        let (text, _) = logged_since(begin);
        let is_it = |line: &&str| {
            value(line, "direction") == "outbound"
                && value(line, "destination").starts_with(namespace)
                && value(line, "generation") == generation
        };
        if let Some(line) = text.lines().find(is_it) {
            return line.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the log has no line of a connection to {namespace}");
}

fn explained(told: &Snapshot, namespace: &str, first: FirstBytes) -> Explanation {
    let workload = WorkloadName::new("default", "a");
    let caller = Caller { workload: &workload, node: Some("near"), identity: None };
    let headers = HeaderMap::new();
    let sends = match first {
        FirstBytes::Tls("127.0.0.1") => Sends::Bytes { is_tls: true, server: None },
        FirstBytes::Tls(server) => Sends::Bytes { is_tls: true, server: Some(server) },
        FirstBytes::Request => {
            Sends::Request(DescribedRequest { method: "GET", path: "/", query: None, headers: &headers })
        }
        FirstBytes::Bytes => Sends::Bytes { is_tls: false, server: None },
    };
    let host = format!("c.{namespace}");
    explain(told, caller, Described { host: &host, port: 80, sends })
}

/// Compares one connection; what became of it. `line`: its line of the access log.
fn compare(explanation: &Explanation, came: &Fate, line: &str) -> Result<String, String> {
    speaks_of_decisions(explanation, line)?;
    let [destination, reason, detail, endpoint] =
        ["destination", "reason", "detail", "endpoint"].map(|key| value(line, key));
    let ended = explanation.outcomes.iter().find_map(|outcome| match (&outcome.end, came) {
        (End::Forwarded { service, endpoints, .. }, Fate::Said(name))
            if *service.name == **name && service.to_string() == destination =>
        {
            let is_told = endpoints.iter().any(|told| told.contains(endpoint));
            Some(if is_told { Ok(format!("to {name}")) } else { Err(format!("nobody told of {endpoint}")) })
        }
        // What is no HTTP has no reason in the log.
        (End::Refused { status: None, reason: told, message, .. }, Fate::Reset)
            if told == "bad-request" && reason.is_empty() && message.starts_with("the port is for HTTP") =>
        {
            Some(Ok("reset bad-request".to_owned()))
        }
        // What exactly is no TLS, who has seen it can say.
        (End::Refused { status: None, reason: told, message, .. }, Fate::Reset)
            if *told == reason
                && (*message == detail || (reason == "bad-request" && detail.starts_with(&**message))) =>
        {
            Some(Ok(format!("reset {reason}")))
        }
        _ => None,
    });
    ended.unwrap_or_else(|| Err(format!("nobody speaks of {came:?} {destination} {reason}: {detail}")))
}

/// Makes so many connections with each table, and compares each.
async fn run(seed: u64, tables: u64, connections: usize) -> Seen {
    let namespace = format!("wired{seed}");
    let name = |name: &str| ServiceName::new(&*namespace, name);
    let apps = [app("b0").await, app("b1").await, app("b2").await];
    let (near, _far, ways) = nodes(["b1-0", "b2-0"], apps).await;
    let mut endpoints: Vec<_> = BACKENDS.iter().zip(ways).map(|(of, way)| (name(of), vec![way])).collect();
    endpoints.push((name("c"), vec![plain(app("c").await)]));
    endpoints.push((name("empty"), Vec::new()));
    let entry = near.listen_as(Capture::Service { service: name("c"), port: 80 }).await;
    let mut dice = Dice(seed);
    let mut seen = Seen::default();
    for generation in 1..=tables {
        let objects = table(&mut dice, &namespace);
        let told = Arc::new(told(objects.clone(), endpoints.clone(), generation));
        publish(&near, &told);
        let Some(Known::Present(config)) = told.services.get(&name("c")) else { panic!("{objects:?}") };
        let port = config.port(80).unwrap();
        let is_refused = config.is_deserted(port, &told.endpoints);
        if is_refused {
            come_to_be_refused(entry).await;
        }
        let carries = port.seen_from("default").declared();
        for _ in 0..connections {
            let first = match first(&mut dice) {
                FirstBytes::Request if carries != Some(Carried::Bytes) => FirstBytes::Bytes,
                first => first,
            };
            let explanation = explained(&told, &namespace, first);
            let fail = |problem: &str| -> ! {
                let objects: Vec<&Value> = objects.iter().map(|(_, object)| object).collect();
                let objects = serde_json::to_string_pretty(&objects).unwrap();
                panic!("{problem}\n{first:?}\n{explanation:#?}\n{objects}");
            };
            if is_refused {
                let ends = explanation.outcomes.iter().map(|outcome| &outcome.end);
                if !ends.into_iter().all(|end| matches!(end, End::Refused { status: None, .. })) {
                    fail("it is refused at once");
                }
                seen.count("refused at once");
                continue;
            }
            let (_, begin) = logged_since(usize::MAX);
            let came = connect(entry, first).await;
            let line = line(begin, &format!("{namespace}/"), generation).await;
            match compare(&explanation, &came, &line) {
                Ok(what) => seen.count(&what),
                Err(problem) => fail(&format!("{problem}\n{line}")),
            }
        }
    }
    seen
}

#[tokio::test]
async fn what_is_explained_of_connections_is_what_happens() {
    let seen = run(1, 60, 6).await;
    for (what, least) in [
        ("to b0", 10),
        ("to b1", 10),
        ("to b2", 10),
        ("to c", 10),
        ("reset no-route", 10),
        ("reset invalid-backend", 5),
        ("reset no-endpoints", 3),
        ("reset bad-request", 3),
        ("refused at once", 6),
    ] {
        assert!(seen.of(what) >= least, "{what}: {seen:?}");
    }
}

#[tokio::test]
#[ignore = "takes a minute; after a change of what is decided over connections, by hand: see CONTRIBUTING.md"]
async fn ten_thousand_explained_connections_are_what_happens() {
    let seen = run(2, 1000, 10).await;
    println!("{seen:?}");
}
