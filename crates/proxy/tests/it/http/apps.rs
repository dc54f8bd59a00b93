//! Applications and clients that the tests put on either side of the proxy.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

pub type TestBody = BoxBody<Bytes, hyper::Error>;

pub fn full(text: impl Into<Bytes>) -> TestBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// Chunks of unknown length in all, and trailers.
pub fn chunks(parts: Vec<&'static str>, trailers: Option<HeaderMap>) -> TestBody {
    let frames = parts
        .into_iter()
        .map(|part| Frame::data(Bytes::from(part)))
        .chain(trailers.map(Frame::trailers))
        .map(Ok);
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

/// Answers a call of gRPC with one message, and goes on.
pub async fn call_without_end(_: Request<Incoming>) -> Response<TestBody> {
    let first = futures_util::stream::once(async { Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01x"))) });
    let answers = futures_util::StreamExt::chain(first, futures_util::stream::pending());
    let answer = Response::builder().header("content-type", "application/grpc");
    answer.body(BodyExt::boxed(StreamBody::new(answers))).unwrap()
}

/// A server of HTTP/1.1 and HTTP/2 that runs until the test ends.
pub async fn serve<F, R>(service: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<TestBody>> + Send + 'static,
{
    let (address, server) = serve_until_aborted(service).await;
    drop(server);
    address
}

/// An address at which nobody listens. No other test is given its port while the socket is held.
pub fn nowhere() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// The application [`app`], and word of each request that has come to it.
pub async fn serve_telling() -> (SocketAddr, Arc<Notify>) {
    let came = Arc::new(Notify::new());
    let telling = came.clone();
    let service = move |request| {
        telling.notify_one();
        app(request)
    };
    (serve(service).await, came)
}

/// As [`serve`]; aborting the task ends all at once, as when a process is killed.
pub async fn serve_until_aborted<F, R>(service: F) -> (SocketAddr, JoinHandle<()>)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<TestBody>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let service = service.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let answer = service(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                builder.http2().enable_connect_protocol();
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, server)
}

/// Says what it was asked: method, target, version and headers as text; the body is sent back after it.
pub async fn mirror(request: Request<Incoming>) -> Response<TestBody> {
    let (head, body) = request.into_parts();
    let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    let body = match body.collect().await {
        Ok(body) => body,
        Err(_) => return Response::builder().status(StatusCode::BAD_REQUEST).body(full("")).unwrap(),
    };
    if let Some(trailers) = body.trailers() {
        for (name, value) in trailers {
            text.push_str(&format!("trailer {name}: {}\n", value.to_str().unwrap()));
        }
    }
    let mut response = text.into_bytes();
    response.push(b'\n');
    response.extend_from_slice(&body.to_bytes());
    Response::new(full(response))
}

/// What several tests ask for by path; else [`mirror`].
pub async fn app(request: Request<Incoming>) -> Response<TestBody> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/204" => Response::builder().status(204).body(full("")).unwrap(),
        "/304" => Response::builder().status(304).header("etag", "\"x\"").body(full("")).unwrap(),
        "/sized" if request.method() == Method::HEAD => {
            Response::builder().header("content-length", "5").body(full("")).unwrap()
        }
        "/sized" => Response::new(full("sized")),
        "/chunks" => Response::new(chunks(vec!["one", "two", "three"], None)),
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            Response::builder().header("trailer", "x-sum").body(chunks(vec!["data"], Some(trailers))).unwrap()
        }
        "/fake" => Response::builder()
            .header("tulle-reason", "no-endpoints")
            .header("tulle-retry", "safe")
            .header("connection", "x-gone")
            .header("x-gone", "1")
            .body(full("fake"))
            .unwrap(),
        "/500" => Response::builder().status(500).body(full("broken")).unwrap(),
        "/refuse" => Response::builder().status(417).body(full("no")).unwrap(),
        "/echo" => Response::new(request.into_body().boxed()),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Response::new(full("slow"))
        }
        _ => mirror(request).await,
    }
}

/// An application that is a script: what it does with each connection that it gets.
pub async fn script<F, R>(act: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(act(stream));
        }
    });
    address
}

/// Reads the head of a message.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Sends bytes and reads until the peer closes.
pub async fn exchange(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

pub async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("it did not close").unwrap();
    String::from_utf8(answer).unwrap()
}

pub type Http1 = hyper::client::conn::http1::SendRequest<TestBody>;
pub type Http2 = hyper::client::conn::http2::SendRequest<TestBody>;

pub async fn http1(address: SocketAddr) -> Http1 {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

pub async fn http2(address: SocketAddr) -> Http2 {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// An answer that was read to its end.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
    pub trailers: Option<HeaderMap>,
}

pub async fn read(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8(body.to_bytes().to_vec()).unwrap(),
        trailers,
    }
}

/// GET on a fresh connection.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let request = Request::get(path).header("host", "c").body(full("")).unwrap();
    read(http1(address).await.send_request(request).await.unwrap()).await
}
