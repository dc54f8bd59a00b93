//! What each side of a request is told of what the other did: one table of cases for each kind, and each case on
//! every way between two workloads.

mod interim;
mod resets;
mod trailers;
mod websockets;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::apps::script;

const SOON: Duration = Duration::from_secs(10);

/// An application of HTTP/2 that can be killed: with all of its connections, at once.
struct App {
    address: SocketAddr,
    kill: watch::Sender<bool>,
}

/// One request that an application got, as far as it came.
type Asked = Request<h2::RecvStream>;
type Respond = h2::server::SendResponse<Bytes>;

impl App {
    /// Each request is given to `act`.
    async fn start<F, R>(act: F) -> Self
    where
        F: Fn(Asked, Respond) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (kill, killed) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (act, mut killed) = (act.clone(), killed.clone());
                tokio::spawn(async move {
                    let served = async {
                        let mut builder = h2::server::Builder::new();
                        builder.enable_connect_protocol();
                        let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            tokio::spawn(act(request, respond));
                        }
                    };
                    tokio::select! {
                        () = served => {}
                        true = async { killed.wait_for(|killed| *killed).await.is_ok() } => {}
                    }
                });
            }
        });
        Self { address, kill }
    }
}

/// A client's connection of HTTP/2.
async fn connect(address: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

/// What a client of HTTP/2 saw of an answer.
#[derive(Debug, PartialEq)]
struct Seen {
    status: Option<u16>,
    reason: String,
    data: String,
    end: End,
}

#[derive(Debug, PartialEq)]
enum End {
    Whole,
    Trailers(HeaderMap),
    Reset(Reason),
}

/// Reads an answer to its end; `begun` is called when data came.
async fn see(response: h2::client::ResponseFuture, mut begun: impl FnMut()) -> Seen {
    let nothing = Seen { status: None, reason: String::new(), data: String::new(), end: End::Whole };
    let response = match timeout(SOON, response).await.expect("no answer came") {
        Ok(response) => response,
        Err(error) => return Seen { end: End::Reset(error.reason().expect("a reason")), ..nothing },
    };
    let (head, mut body) = response.into_parts();
    let reason = head.headers.get("tulle-reason").map_or("", |reason| reason.to_str().unwrap()).to_owned();
    let mut seen = Seen { status: Some(head.status.as_u16()), reason, ..nothing };
    loop {
        match timeout(SOON, body.data()).await.unwrap_or_else(|_| panic!("it did not end: {seen:?}")) {
            Some(Ok(data)) => {
                let _ = body.flow_control().release_capacity(data.len());
                seen.data.push_str(std::str::from_utf8(&data).unwrap());
                begun();
            }
            Some(Err(error)) => {
                seen.end = End::Reset(error.reason().expect("a reason"));
                return seen;
            }
            None => break,
        }
    }
    match body.trailers().await {
        Ok(Some(trailers)) => seen.end = End::Trailers(trailers),
        Ok(None) => {}
        Err(error) => seen.end = End::Reset(error.reason().expect("a reason")),
    }
    seen
}

/// A frame of HTTP/2 on stream 1, or of the connection where it is SETTINGS.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, u8::from(kind != 4)];
    frame.extend_from_slice(payload);
    frame
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    fluke_hpack::Encoder::new().encode(fields)
}

/// An application of HTTP/2 that answers each request with these frames, in one write: no library sends all of them.
async fn says(out: Vec<u8>) -> SocketAddr {
    script(move |mut stream| {
        let out = out.clone();
        async move {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            stream.write_all(&frame(4, 0, &[])[..]).await.unwrap();
            let mut head = [0; 9];
            while stream.read_exact(&mut head).await.is_ok() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
                if head[3] == 1 {
                    stream.write_all(&out).await.unwrap();
                }
            }
        }
    })
    .await
}
