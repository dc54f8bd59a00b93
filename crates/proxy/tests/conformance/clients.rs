//! Clients of HTTP/2 that are odd, and peers of links that are.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::frames::{self, Frame, PREFACE, SETTINGS, WINDOW_UPDATE};
use super::recorder;
use super::script::Peer;
use super::stage::{self, Stage, WAYS};
use super::table::{self, Case};

#[tokio::test]
async fn clients_on_the_same_node() {
    run(0, None).await;
}

#[tokio::test]
async fn clients_over_a_link() {
    run(1, None).await;
}

#[tokio::test]
async fn clients_of_an_undeclared_port() {
    run(2, None).await;
}

/// Who has a certificate of the mesh is held to the same rules.
#[tokio::test]
async fn peers_of_a_link() {
    run(1, Some("peer")).await;
}

async fn run(way: usize, peer: Option<&'static str>) {
    let (name, way, protocol) = WAYS[way];
    let name = peer.unwrap_or(name);
    let stage = Stage::new(way, protocol).await;
    let cases = table::cases("clients").into_iter().filter(|case| case.is_for(name));
    stage::all(cases.collect(), move |case, place| {
        let stage = stage.clone();
        async move { check(&stage, place, name, &case).await }
    })
    .await;
}

async fn check(stage: &Stage, place: usize, way: &str, case: &Case) -> Result<(), String> {
    let app = recorder::app(|stream, _| async move {
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service_fn(sized)).await;
    })
    .await;
    let entry = stage.put(place, app.address);
    if way == "peer" {
        return play(stage.link().await, case, way, app.address.port()).await;
    }
    let stream = TcpStream::connect(entry).await.unwrap();
    stream.set_nodelay(true).unwrap();
    play(stream, case, way, app.address.port()).await
}

/// `/size/5` is answered with five bytes, once all of the request is there.
async fn sized(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let size = request.uri().path().strip_prefix("/size/").and_then(|size| size.parse().ok()).unwrap_or(2);
    request.into_body().collect().await?;
    Ok(Response::new(Full::from(vec![b'x'; size])))
}

async fn play<IO>(io: IO, case: &Case, way: &str, port: u16) -> Result<(), String>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut peer = Peer::new(io, false);
    if case.one("bare").is_none() {
        peer.send(&greeting()).await;
    }
    peer.acknowledges = case.one("no-ack").is_none();
    let own = match way {
        "peer" => format!("tulle-workload: default/c-0 | tulle-port: {port} | tulle-app-version: 1"),
        _ => String::new(),
    };
    peer.play(&case.script(way), &move |word| macros(word, &own)).await
}

/// The preface of a client, and settings that say nothing.
pub fn greeting() -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    Frame::new(SETTINGS, 0, 0, &[]).write(&mut out);
    out
}

/// The same of one that takes whatever comes.
pub fn greeting_with_windows() -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    Frame::new(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).write(&mut out);
    Frame::new(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0]).write(&mut out);
    out
}

/// `get`, `get /path`, `post`, each with more fields behind it; `own` is what a link wants to be told.
pub fn macros(word: &str, own: &str) -> Option<Vec<u8>> {
    if word == "own" {
        return Some(frames::block(own));
    }
    let (request, more) = word.split_once(" | ").unwrap_or((word, ""));
    let (method, path) = request.split_once(' ').unwrap_or((request, "/"));
    let method = match method {
        "get" | "post" | "head" | "options" => method.to_ascii_uppercase(),
        _ => return None,
    };
    let head = format!(":method: {method} | :scheme: http | :path: {path} | :authority: c | {own} | {more}");
    Some(frames::block(&head))
}
