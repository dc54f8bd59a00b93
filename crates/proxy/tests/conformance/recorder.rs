//! Applications that write down what reaches them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::frames::{Frame, SETTINGS, WINDOW_UPDATE};
use super::http_mesh::LOOPBACK;
use super::http1::{self, Message, Read};
use super::script::Peer;

/// An application, until it is dropped.
pub struct App {
    pub address: SocketAddr,
    pub log: Arc<Log>,
    task: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What reached an application.
#[derive(Default)]
pub struct Log {
    /// Messages in the order in which they were whole, and connections that ended otherwise.
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    changed: Notify,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Seen {
    /// With its bytes.
    Request(Message, Vec<u8>),
    /// The connection ended within a message: these bytes of it came.
    Cut(Vec<u8>),
    /// What is no message, with all that came of it.
    Bad(&'static str, Vec<u8>),
}

impl Seen {
    pub fn raw(&self) -> &[u8] {
        let (Self::Request(_, raw) | Self::Cut(raw) | Self::Bad(_, raw)) = self;
        raw
    }
}

impl Log {
    pub fn note(&self, seen: Seen) {
        self.seen.lock().unwrap().push(seen);
        self.changed.notify_waiters();
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What was seen, once there are `count`, or after half a minute.
    pub async fn with(&self, count: usize) -> Vec<Seen> {
        let enough = async {
            loop {
                let changed = self.changed.notified();
                if self.seen.lock().unwrap().len() >= count {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(30), enough).await;
        self.seen()
    }
}

/// An application that gives every connection to `serve`.
pub async fn app<F, R>(serve: F) -> App
where
    F: Fn(TcpStream, Arc<Log>) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::new(Log::default());
    let given = log.clone();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            given.connections.fetch_add(1, Ordering::Relaxed);
            connections.spawn(serve(stream, given.clone()));
        }
    });
    App { address, log, task }
}

/// An application that answers every request with `ok`.
pub async fn ok() -> App {
    app(|stream, log| async move {
        let answer = |request: &Message| {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n".to_vec();
            let body: &[u8] = if request.method() == b"HEAD" { b"" } else { b"ok" };
            let close = request.fields.iter().any(|field| field.0 == b"connection" && field.1 == b"close");
            (head.into_iter().chain(body.iter().copied()).collect(), close)
        };
        serve(stream, &log, answer).await;
    })
    .await
}

/// An application that does so in HTTP/2.
pub async fn ok_http2() -> App {
    app(|stream, log| async move {
        let mut peer = Peer::new(stream, true);
        let mut out = Vec::new();
        // Windows for whatever comes.
        Frame::new(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).write(&mut out);
        Frame::new(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0]).write(&mut out);
        peer.send(&out).await;
        peer.serve(&log).await;
    })
    .await
}

/// Takes requests off a connection and writes them down; `answer` says with which bytes each is answered, and whether
/// the connection ends then.
pub async fn serve(mut stream: TcpStream, log: &Log, answer: impl Fn(&Message) -> (Vec<u8>, bool)) {
    let mut bytes = Vec::new();
    loop {
        match http1::request(&bytes) {
            Read::Whole(request, used) => {
                let raw = bytes.drain(..used).collect();
                let (answer, close) = answer(&request);
                log.note(Seen::Request(request, raw));
                if stream.write_all(&answer).await.is_err() || close {
                    return;
                }
            }
            Read::Bad(why) => return log.note(Seen::Bad(why, bytes)),
            Read::More => match stream.read_buf(&mut bytes).await {
                Ok(1..) => {}
                _ if bytes.is_empty() => return,
                _ => return log.note(Seen::Cut(bytes)),
            },
        }
    }
}
