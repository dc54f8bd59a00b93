//! The mesh that tables run on: applications that note what comes to them, and a client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response, Version as HttpVersion};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::compile::Compiler;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{EndpointSet, Known, PortConfig, PortMapping};
use tulle_proxy::Capture;

use super::super::apps::{self, TestBody, full, http1, http2};
use super::super::mesh::{Authority, Node, Way, plain};
use super::asked::Asked;
use super::expected::Expected;
use super::{NAMES, Version};
use crate::mesh::Ca;
use crate::tls;

const SOON: Duration = Duration::from_secs(20);

/// A request as it came to an application.
#[derive(Debug, Clone)]
struct Came {
    app: &'static str,
    target: String,
    host: String,
    version: HttpVersion,
    fields: HeaderMap,
    trailers: HeaderMap,
    /// Where it was whole.
    body: Option<Bytes>,
}

/// What came to all applications, by the request's `x-id`.
type Arrivals = Arc<Mutex<HashMap<String, Vec<Came>>>>;

/// The applications of tables, those of TLS last.
const APPS: [&str; 8] = ["c", "v1", "v2", "v3", "w", "t1", "t2", "t3"];

/// The service of that name.
fn service(name: &str) -> ServiceName {
    ServiceName::new(if ["w", "t3"].contains(&name) { "shop" } else { "default" }, name)
}

pub struct Mesh {
    near: Node,
    /// Lives as long as the test.
    _far: Node,
    arrivals: Arrivals,
    entries: HashMap<String, SocketAddr>,
    proxy: SocketAddr,
    /// Ports carry bytes, or have: where nobody takes them, connections are refused, and a change of that takes a moment.
    has_bytes: bool,
    /// What was to come to whom, by `x-id`.
    expected: Vec<(String, Vec<&'static str>)>,
}

impl Mesh {
    pub async fn new(way: Way) -> Self {
        let authority = Authority::new();
        let mut near = Node::start("near", &authority).await;
        let mut far = Node::start("far", &authority).await;
        let arrivals = Arrivals::default();
        let ca = Ca::new("apps.test");
        for name in APPS {
            let address = match name.starts_with('t') {
                true => tls::server(&ca, name).await,
                false => serve(name, arrivals.clone()).await,
            };
            let workload = format!("{name}-0");
            let mut endpoint = match way {
                Way::Plain => plain(address),
                Way::SameNode => near.add_workload(&authority, &workload, &[address.port()]),
                Way::Link => far.add_workload(&authority, &workload, &[address.port()]),
            };
            endpoint.ports.push(PortMapping { service_port: 8080, target_port: address.port() });
            let service = service(name);
            let set = EndpointSet::new(service.clone(), vec![(Arc::new(endpoint), 0)]);
            Arc::make_mut(&mut near.state.snapshot).endpoints.insert(service, Arc::new(set));
        }
        let proxy = near.listen_as(Capture::HttpProxy).await;
        Self {
            near,
            _far: far,
            arrivals,
            entries: HashMap::new(),
            proxy,
            has_bytes: false,
            expected: Vec::new(),
        }
    }

    /// Has the node know what was compiled of the services that its workloads use, and nothing else of services.
    pub fn publish(&mut self, compiler: &Compiler, is_used: impl Fn(&str) -> bool) {
        let snapshot = Arc::make_mut(&mut self.near.state.snapshot);
        snapshot.generation += 1;
        let carries_bytes = |port: &PortConfig| port.tcp_route.is_some() || !port.tls_routes.is_empty();
        self.has_bytes |= compiler.services().any(|service| service.ports.iter().any(carries_bytes));
        snapshot.services.clear();
        for (namespace, name) in NAMES.into_iter().filter(|(_, name)| is_used(name)) {
            let name = ServiceName::new(namespace, name);
            let config = compiler.service(&name).unwrap();
            snapshot.services.insert(name, Known::Present(config));
        }
        self.near.publish();
    }

    pub async fn entry(&mut self, (name, port): (&str, u16)) -> SocketAddr {
        let key = format!("{name}:{port}");
        if let Some(entry) = self.entries.get(&key) {
            return *entry;
        }
        let capture = Capture::Service { service: service(name), port };
        let entry = self.near.listen_as(capture).await;
        self.entries.insert(key, entry);
        entry
    }

    /// Makes a request, and holds what becomes of it against what is expected.
    pub async fn ask(&mut self, version: Version, asked: &Asked, expected: &Expected) -> Result<(), String> {
        if !asked.is_for(version) {
            return Ok(());
        }
        let entry = if asked.proxied { self.proxy } else { self.entry(asked.to).await };
        if self.has_bytes && comes_to(entry, expected.is_refused).await? {
            return Ok(());
        }
        if asked.method == "TLS" {
            return ask_tls(entry, asked.target, expected).await;
        }
        if expected.is_reset {
            return expect_reset(entry, asked).await;
        }
        let id = self.expected.len().to_string();
        self.expected.push((id.clone(), expected.arrivals()));
        let (request, body) = request(version, asked, &id);
        let answer = async {
            let answer = match version {
                Version::Http1 => http1(entry).await.send_request(request).await,
                Version::Http2 => http2(entry).await.send_request(request).await,
            };
            let (head, body) = answer.map_err(|e| format!("no answer: {e}"))?.into_parts();
            let body = body.collect().await.map_err(|e| format!("{} and then {e}", head.status))?;
            Ok((head, body.trailers().cloned().unwrap_or_default(), body.to_bytes()))
        };
        let answer: Result<_, String> =
            timeout(SOON, answer).await.map_err(|_| "no answer came".to_owned())?;
        let (head, trailers, text) = answer?;
        check_answer(asked, expected, &head, &trailers, &text)?;
        let came = self.came(&id, expected).await?;
        for came in &came {
            if came.body.as_ref() != Some(&body) {
                let length = came.body.as_ref().map(Bytes::len);
                return Err(format!(
                    "{} got another body than the {} bytes that were sent: {length:?}",
                    came.app,
                    body.len()
                ));
            }
        }
        came.iter().try_for_each(|came| check_came(expected, came))
    }

    /// Who answers a request, or with which status.
    pub async fn who(&mut self, version: Version, asked: &Asked) -> String {
        let entry = self.entry(asked.to).await;
        let (request, _) = request(version, asked, "who");
        let answer = match version {
            Version::Http1 => http1(entry).await.send_request(request).await,
            Version::Http2 => http2(entry).await.send_request(request).await,
        };
        let answer = answer.unwrap();
        values(answer.headers(), "x-app-name").unwrap_or_else(|| answer.status().as_str().to_owned())
    }

    /// All that came with that id, once it is as much as is expected: copies come when they come.
    async fn came(&self, id: &str, expected: &Expected) -> Result<Vec<Came>, String> {
        let look = || self.arrivals.lock().unwrap().get(id).cloned().unwrap_or_default();
        let wanted = expected.arrivals();
        for _ in 0..500 {
            if look().len() >= wanted.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let came = look();
        let mut names: Vec<_> = came.iter().map(|came| came.app).collect();
        names.sort();
        if names == wanted { Ok(came) } else { Err(format!("it came to {names:?} and not to {wanted:?}")) }
    }

    /// What came to whom it was not for, after all.
    pub fn strays(&self) -> Vec<String> {
        let arrivals = self.arrivals.lock().unwrap();
        let mut strays = Vec::new();
        for (id, expected) in &self.expected {
            let came = arrivals.get(id).map(Vec::as_slice).unwrap_or_default();
            let mut names: Vec<_> = came.iter().map(|came| came.app).collect();
            names.sort();
            if names.len() > expected.len() {
                strays.push(format!("{:?} came to {names:?}, not only to {expected:?}", came[0].target));
            }
        }
        strays
    }
}

/// Waits until an entry refuses connections, or takes them, and says whether it refuses.
async fn comes_to(entry: SocketAddr, refused: bool) -> Result<bool, String> {
    for _ in 0..1000 {
        if TcpStream::connect(entry).await.is_err() == refused {
            return Ok(refused);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(format!("it did not come to be {}", if refused { "refused" } else { "taken" }))
}

/// Says that much of a request, and expects to be reset.
async fn expect_reset(entry: SocketAddr, asked: &Asked) -> Result<(), String> {
    // It may be reset already, and says so once.
    let Ok(mut stream) = TcpStream::connect(entry).await else { return Ok(()) };
    let head = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", asked.target, asked.host);
    if stream.write_all(head.as_bytes()).await.is_err() {
        return Ok(());
    }
    let read = timeout(SOON, stream.read(&mut [0; 10])).await.map_err(|_| "it was not reset".to_owned())?;
    read.map_or(Ok(()), |length| Err(format!("it was answered with {length} bytes")))
}

/// Has a client of TLS ask for that server, and holds who it is against what is expected.
async fn ask_tls(entry: SocketAddr, server: &'static str, expected: &Expected) -> Result<(), String> {
    let answer = tls::ask(TcpStream::connect(entry).await.map_err(|e| e.to_string())?, server);
    let answer = timeout(SOON, answer).await.map_err(|_| "no answer came".to_owned())?;
    match (&answer, expected.is_reset) {
        (Ok(name), false) if Some(&**name) == expected.at => Ok(()),
        (Err(_), true) => Ok(()),
        _ => Err(format!("{answer:?}")),
    }
}

/// The request, and its body.
fn request(version: Version, asked: &Asked, id: &str) -> (Request<TestBody>, Bytes) {
    let absolute = asked.proxied || version == Version::Http2;
    let uri = match absolute {
        true => format!("http://{}{}", asked.host, asked.target),
        false => asked.target.to_owned(),
    };
    let mut request = Request::builder().method(asked.method).uri(uri).header("x-id", id);
    if version == Version::Http1 {
        request = request.header("host", asked.host);
    }
    for (name, value) in &asked.fields {
        request = request.header(*name, *value);
    }
    if !asked.trailers.is_empty() {
        request = request
            .header("trailer", asked.trailers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "));
    }
    let whole: Bytes = match asked.is_call {
        true => {
            request = request.header("content-type", "application/grpc").header("te", "trailers");
            Bytes::from_static(b"\0\0\0\0\x05hello")
        }
        false => (0..asked.body).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into(),
    };
    let body = match whole.len() {
        0 => full(""),
        // Not at hand as a whole.
        length => {
            let data = [whole.slice(..length / 3), whole.slice(length / 3..)].map(Frame::data);
            let trailers =
                asked.trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let trailers = Some(trailers.collect::<HeaderMap>()).filter(|trailers| !trailers.is_empty());
            let frames = data.into_iter().chain(trailers.map(Frame::trailers)).map(Ok);
            BodyExt::boxed(StreamBody::new(stream::iter(frames)))
        }
    };
    (request.body(body).unwrap(), whole)
}

/// All values of a field, or of a trailer, in one line.
fn values(fields: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> =
        fields.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// Holds fields against `name: value` or `no name`.
fn check_field(fields: &HeaderMap, expected: &str) -> Result<(), String> {
    let (name, wanted) = match expected.strip_prefix("no ") {
        Some(name) => (name, None),
        None => {
            let (name, value) = expected.split_once(':').unwrap_or_else(|| panic!("what is {expected}"));
            (name, Some(value.trim()))
        }
    };
    match values(fields, name) {
        found if found.as_deref() == wanted => Ok(()),
        found => Err(format!("{name} is {found:?}, not {wanted:?}")),
    }
}

fn check_answer(
    asked: &Asked,
    expected: &Expected,
    head: &http::response::Parts,
    trailers: &HeaderMap,
    text: &Bytes,
) -> Result<(), String> {
    let said = |name: &str| values(&head.headers, name);
    let (status, reason, by) = (head.status.as_u16(), said("tulle-reason"), said("x-app-name"));
    let told = || format!("{status} reason {reason:?} by {by:?} {}", String::from_utf8_lossy(text));
    let answered_by = expected.at.filter(|_| expected.is_answered);
    if status != expected.status || reason.as_deref() != expected.reason || by.as_deref() != answered_by {
        return Err(told());
    }
    if said("location").as_deref() != expected.location {
        return Err(format!("it leads to {:?}", said("location")));
    }
    if asked.is_call {
        let status = said("grpc-status").or_else(|| values(trailers, "grpc-status"));
        if status.as_deref() != Some(expected.grpc_status.unwrap_or("0")) {
            return Err(format!("grpc-status {status:?}: {}", told()));
        }
        let trailer = values(trailers, "x-trailer");
        if trailer.as_deref() != answered_by {
            return Err(format!("its trailers are {trailers:?}"));
        }
    }
    if answered_by.is_some() && asked.method != "HEAD" && !text.ends_with(b"said") {
        return Err(format!("its body is {text:?}"));
    }
    expected.answer.iter().try_for_each(|field| check_field(&head.headers, field))
}

fn check_came(expected: &Expected, came: &Came) -> Result<(), String> {
    for got in &expected.got {
        let (what, found) = match (*got, got.strip_prefix("host ")) {
            (target, _) if target.starts_with('/') || target == "*" => (target, came.target.clone()),
            (version, _) if version.starts_with("HTTP/") => (version, format!("{:?}", came.version)),
            (_, Some(host)) => (host, came.host.clone()),
            (trailer, _) if let Some(trailer) = trailer.strip_prefix("trailer ") => {
                check_field(&came.trailers, trailer).map_err(|why| format!("its trailers came as {why}"))?;
                continue;
            }
            (field, _) => {
                check_field(&came.fields, field).map_err(|why| format!("it came as {why}"))?;
                continue;
            }
        };
        if found != what {
            return Err(format!("it came as {found}, not {what}"));
        }
    }
    Ok(())
}

/// A call's messages as they come, and a status at their end.
fn sent_back(messages: Incoming, name: &str) -> Response<TestBody> {
    let end = stream::iter([Ok(Frame::trailers(end_of_call(name)))]);
    let messages = BodyStream::new(messages).filter(|frame| {
        let is_data = frame.as_ref().is_ok_and(Frame::is_data);
        async move { is_data }
    });
    let answer = Response::builder().header("x-app-name", name).header("content-type", "application/grpc");
    answer.body(BodyExt::boxed(StreamBody::new(messages.chain(end)))).unwrap()
}

/// The trailers of a call that went well.
fn end_of_call(name: &str) -> HeaderMap {
    let trailers = [("grpc-status", "0"), ("x-trailer", name)];
    trailers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).into_iter().collect()
}

/// An application that notes what comes to it.
async fn serve(name: &'static str, arrivals: Arrivals) -> SocketAddr {
    apps::serve(move |request: Request<Incoming>| {
        let arrivals = arrivals.clone();
        async move {
            let (head, body) = request.into_parts();
            let field = |name: &str| values(&head.headers, name);
            let id = field("x-id").expect("every request has one");
            let act = field("x-app").unwrap_or_default();
            let host = head.uri.authority().map(ToString::to_string).or_else(|| field("host"));
            let target = head.uri.path_and_query().map_or("", |path| path.as_str());
            let mut came = Came {
                app: name,
                target: if target.is_empty() { "*".to_owned() } else { target.to_owned() },
                host: host.unwrap_or_default(),
                version: head.version,
                fields: head.headers.clone(),
                trailers: HeaderMap::new(),
                body: None,
            };
            if act == "stream" {
                arrivals.lock().unwrap().entry(id).or_default().push(came);
                return sent_back(body, name);
            }
            if let Ok(body) = body.collect().await {
                came.trailers = body.trailers().cloned().unwrap_or_default();
                came.body = Some(body.to_bytes());
            }
            let before = {
                let mut arrivals = arrivals.lock().unwrap();
                let of_id = arrivals.entry(id).or_default();
                of_id.push(came);
                of_id.iter().filter(|came| came.app == name).count() - 1
            };
            if act == "hang" {
                return std::future::pending().await;
            }
            let (status, times) = act.split_once('*').unwrap_or((&act, "1000"));
            let fails = times.parse::<usize>().is_ok_and(|times| before < times);
            let status = status.parse().ok().filter(|_| fails).unwrap_or(200u16);
            let is_call =
                values(&head.headers, "content-type").is_some_and(|kind| kind == "application/grpc");
            let answer = Response::builder()
                .status(status)
                .header("x-app-name", name)
                .header("x-own", "app")
                .header("x-twice", "1")
                .header("x-twice", "2");
            if is_call {
                let answer = answer.header("content-type", "application/grpc");
                return answer.body(apps::chunks(vec!["\0\0\0\0\x04said"], Some(end_of_call(name)))).unwrap();
            }
            answer.body(full("said")).unwrap()
        }
    })
    .await
}
