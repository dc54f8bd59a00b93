//! Who asks, who answers, and who writes: in this process, so that all of them have one clock.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tulle_tests::harness::{Home, Process};

use super::routes::{self, FIELD, PATH, Write};

const PATIENCE: Duration = Duration::from_secs(20);
/// Half of them over HTTP/1, half over HTTP/2.
const CLIENTS: usize = 8;
/// How many requests all of them send in a second.
pub const RATE: usize = 1000;
const SERVICES: [&str; 4] = ["c", "v1", "v2", "v3"];

fn runtime(threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}

/// The applications of all services.
pub struct Backends {
    listen: Vec<u16>,
    _runtime: Runtime,
}

impl Backends {
    pub fn serve() -> Self {
        let runtime = runtime(1);
        let serve = |name: &&'static str| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            listener.set_nonblocking(true).unwrap();
            runtime.spawn(accept(listener, name));
            port
        };
        Self { listen: SERVICES.iter().map(serve).collect(), _runtime: runtime }
    }

    /// The Services, each with a port of its own of the one workload.
    pub fn services(&self) -> String {
        let service = |(at, name): (usize, &&str)| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
                 spec: {{selector: {{app: backends}}, ports: [{{port: 80, targetPort: {}}}]}}\n",
                81 + at
            )
        };
        SERVICES.iter().enumerate().map(service).collect()
    }

    /// As `tulle run` has them.
    pub fn ports(&self) -> Vec<String> {
        self.listen.iter().enumerate().map(|(at, listen)| format!("{}={listen}", 81 + at)).collect()
    }
}

async fn accept(listener: TcpListener, name: &'static str) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(name, request));
            let builder = auto::Builder::new(TokioExecutor::new());
            // A client may go.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Who it is, and what it was asked for.
async fn answer(
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    if request.uri().path() == "/stuck" {
        tokio::time::sleep(PATIENCE).await;
    }
    let told =
        format!("{name} {} {}", request.uri().path(), field(request.headers(), "x-rule").unwrap_or("-"));
    Ok(Response::new(told.into()))
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What came of a request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub began: Instant,
    pub ended: Instant,
    /// As [`routes::seen`] has it, or why there is none.
    pub what: String,
}

/// A client's connection.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(port: u16, in_http2: bool) -> Result<Self, String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let stream = TokioIo::new(stream);
        Ok(if in_http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            Self::Http1(sender)
        })
    }

    /// The head and the body of the answer.
    async fn send(
        &mut self,
        request: http::request::Builder,
        body: String,
    ) -> Result<Response<String>, String> {
        let request = request.body(Full::from(body)).unwrap();
        let all = async {
            let answer = match self {
                Self::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Self::Http2(sender) => sender.send_request(request).await?,
            };
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Response::from_parts(head, String::from_utf8_lossy(&body).into_owned()))
        };
        match timeout(PATIENCE, all).await {
            Ok(answer) => answer.map_err(|error| format!("{error:?}")),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    async fn get(&mut self, path: &str) -> Result<Response<String>, String> {
        let request = match self {
            Self::Http1(_) => Request::get(path).header("host", "c"),
            Self::Http2(_) => Request::get(format!("http://c{path}")),
        };
        self.send(request.header(FIELD.0, FIELD.1), String::new()).await
    }
}

fn what(answer: Result<Response<String>, String>) -> String {
    match answer {
        Ok(answer) => {
            let headers = answer.headers();
            let location = field(headers, "location").map(|url| url.trim_start_matches("http://c"));
            let change = location.or_else(|| field(headers, "x-change")).unwrap_or("-");
            routes::seen(answer.status().as_u16(), change, answer.body())
        }
        Err(why) => why,
    }
}

/// The status that a request on a connection of its own is answered with; 0 where it is not.
pub fn status_of(port: u16, path: &str) -> u16 {
    let runtime = runtime(1);
    let answer = runtime.block_on(async { Connection::open(port, false).await?.get(path).await });
    answer.map_or(0, |answer| answer.status().as_u16())
}

/// Clients that ask at one rate for the same thing.
pub struct Clients {
    over: Arc<AtomicBool>,
    /// The last that each has seen.
    last: watch::Receiver<Vec<Option<Seen>>>,
    asking: JoinSet<Vec<Seen>>,
    runtime: Runtime,
}

impl Clients {
    pub fn start(port: u16) -> Self {
        let runtime = runtime(1);
        let over = Arc::new(AtomicBool::new(false));
        let (tell, last) = watch::channel(vec![None; CLIENTS]);
        let mut asking = JoinSet::new();
        for number in 0..CLIENTS {
            asking.spawn_on(ask(port, number, tell.clone(), over.clone()), runtime.handle());
        }
        Self { over, last, asking, runtime }
    }

    /// Whether the last answer to each of them is so, to a request that began after `since`.
    pub fn wait_until_all_see(&mut self, what: &str, since: Instant, patience: Duration) -> bool {
        let see = |last: &Vec<Option<Seen>>| {
            last.iter().all(|seen| seen.as_ref().is_some_and(|seen| seen.began >= since && seen.what == what))
        };
        let waiting = async { timeout(patience, self.last.wait_for(see)).await.is_ok_and(|all| all.is_ok()) };
        self.runtime.block_on(waiting)
    }

    pub fn last(&self) -> String {
        format!("{:#?}", self.last.borrow())
    }

    /// All that they have seen.
    pub fn stop(self) -> Vec<Seen> {
        self.over.store(true, Ordering::Relaxed);
        self.runtime.block_on(self.asking.join_all()).into_iter().flatten().collect()
    }
}

async fn ask(
    port: u16,
    number: usize,
    tell: watch::Sender<Vec<Option<Seen>>>,
    over: Arc<AtomicBool>,
) -> Vec<Seen> {
    let mut all = Vec::new();
    let mut pace = interval(Duration::from_secs(1) * CLIENTS as u32 / RATE as u32);
    let mut connection = None;
    while !over.load(Ordering::Relaxed) {
        pace.tick().await;
        let began = Instant::now();
        let answer = async {
            let open = match &mut connection {
                Some(open) => open,
                None => connection.insert(Connection::open(port, number % 2 == 1).await?),
            };
            open.get(PATH).await
        };
        let answer = answer.await;
        if answer.is_err() {
            connection = None;
        }
        let seen = Seen { began, ended: Instant::now(), what: what(answer) };
        tell.send_modify(|last| last[number] = Some(seen.clone()));
        all.push(seen);
    }
    all
}

/// The server's API, by way of `kubectl proxy`: what that has answered, it has answered.
pub struct Api {
    port: u16,
    connection: Connection,
    runtime: Runtime,
    _proxy: Process,
}

/// What the API says of a write or a read that it refuses.
pub type Refusal = Value;

impl Api {
    #[track_caller]
    pub fn of(home: &Home) -> Self {
        let mut kubectl = home.command("kubectl");
        let proxy = Process::spawn(kubectl.args(["proxy", "--port=0"]).env("KUBECONFIG", home.kubeconfig()));
        let line = proxy.wait_for_line("port", PATIENCE, |line| line.contains("Starting to serve on "));
        let port = line.rsplit(':').next().unwrap().parse().unwrap();
        let runtime = runtime(1);
        let connection = runtime.block_on(Connection::open(port, false)).unwrap();
        Self { port, connection, runtime, _proxy: proxy }
    }

    /// Writes, as `kubectl apply --server-side` and `kubectl delete` do.
    pub fn write(&mut self, write: &Write) -> Result<Value, Refusal> {
        let (Write::Apply { kind, name, .. } | Write::Delete { kind, name }) = write;
        let path = path_of(kind, name);
        match write.text() {
            Some(text) => self.apply(&path, text),
            None => self.send(Method::DELETE, &path, String::new()),
        }
    }

    /// Writes an object at that path, as `kubectl apply --server-side` does.
    pub fn apply(&mut self, path: &str, text: String) -> Result<Value, Refusal> {
        self.send(Method::PATCH, &format!("{path}?fieldManager=changes&force=true"), text)
    }

    pub fn read(&mut self, kind: &str, name: &str) -> Result<Value, Refusal> {
        self.send(Method::GET, &path_of(kind, name), String::new())
    }

    fn send(&mut self, method: Method, path: &str, body: String) -> Result<Value, Refusal> {
        let request =
            Request::builder().method(method).uri(path).header("host", format!("127.0.0.1:{}", self.port));
        let request = request.header("content-type", "application/apply-patch+yaml");
        let answer = self.runtime.block_on(self.connection.send(request, body)).unwrap();
        let status = answer.status();
        let value: Value = serde_json::from_str(answer.body()).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
        if status.is_success() { Ok(value) } else { Err(value) }
    }
}

fn path_of(kind: &str, name: &str) -> String {
    let plural = format!("{}s", kind.to_lowercase());
    format!("/apis/gateway.networking.k8s.io/v1/namespaces/default/{plural}/{name}")
}
