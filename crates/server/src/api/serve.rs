//! Connections: TLS, who the client is, HTTP/1.1 or HTTP/2, and the bounds on all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Api;
use super::reply::{self, Reply};
use super::status::Failure;
use super::user::User;
use crate::strangers::{Stranger, Strangers};

/// Connections at once; more are closed right away.
const CONNECTIONS: usize = 4096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of a request, and between two requests of an HTTP/1.1 connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may leave a ping unanswered, after a pause of the same length (HTTP/2).
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Requests at once on a connection (HTTP/2).
const STREAMS: u32 = 250;
/// How long a client may stay that has shown neither a certificate nor a token: it can ask for health and the version.
const ANONYMOUS: Duration = Duration::from_secs(60);
/// How many may be there that have not shown a certificate, or have none; for one more, the one goes that
/// has said nothing for the longest. They leave room for those who have one.
const STRANGERS: usize = 1024;
/// How long open requests may go on once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

impl Api {
    /// Serves until `shutdown`; then ends watches, and waits a moment for other requests.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let strangers = Strangers::new(STRANGERS);
        let tasks = TaskTracker::new();
        let api = self.with_shutdown(shutdown.clone());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Usually too many open files: it passes when connections end.
                    tracing::warn!(%error, "the API cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = connections.clone().try_acquire_owned() else {
                tracing::warn!(limit = CONNECTIONS, "the API has too many connections: one was closed");
                continue;
            };
            let (api, acceptor, shutdown) = (api.clone(), acceptor.clone(), shutdown.clone());
            let stranger = strangers.enter(address.ip());
            tasks.spawn(async move {
                let sent_away = stranger.sent_away.clone();
                tokio::select! {
                    () = connection(api, stream, acceptor, stranger, shutdown) => {}
                    () = sent_away.cancelled() => tracing::debug!(%address, "a silent client of the API made way"),
                }
                drop(permit);
            });
        }
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::info!("the API ends with requests still open");
        }
    }
}

async fn connection(
    api: Api,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    stranger: Stranger,
    shutdown: CancellationToken,
) {
    // Answers are small and come at once.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake with the API failed");
            return;
        }
        Err(_) => return,
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let user = certificates.and_then(|chain| chain.first()).and_then(|leaf| User::of_certificate(leaf));
    let user = user.map(Arc::new);
    // Who has shown a certificate is no stranger any more.
    let anonymous = Arc::new(AtomicBool::new(user.is_none()));
    let stranger = Mutex::new(user.is_none().then_some(stranger));
    let still_anonymous = anonymous.clone();
    let writes = Arc::new(Semaphore::new(STREAMS as usize));
    let service = service_fn(move |request: Request<Incoming>| {
        let by_token = match &user {
            Some(_) => None,
            None => User::of_token(request.headers(), &api.views.access, SystemTime::now()).map(Arc::new),
        };
        if by_token.is_some() {
            anonymous.store(false, Ordering::Relaxed);
            stranger.lock().take();
        } else if let Some(stranger) = &*stranger.lock() {
            stranger.spoke();
        }
        let (api, user) = (api.clone(), user.clone().or(by_token));
        let writes = writes.clone();
        async move { Ok::<_, std::convert::Infallible>(handle(api, user, request, writes).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ends = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = outstayed(&still_anonymous) => {}
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = ends => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the API failed");
    }
}

/// Answers a request. One that may change something goes on when its client hangs up: what was changed is written down.
/// `writes` bounds how many a connection has of these.
async fn handle(
    api: Api,
    user: Option<Arc<User>>,
    request: Request<Incoming>,
    writes: Arc<Semaphore>,
) -> Reply {
    if matches!(*request.method(), Method::GET | Method::HEAD) || user.is_none() {
        return api.handle(user.as_deref(), request).await;
    }
    let permit = writes.acquire_owned().await;
    let handling = tokio::spawn(async move {
        let reply = api.handle(user.as_deref(), request).await;
        drop(permit);
        reply
    });
    match handling.await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::error!(%error, "a request to the API was not answered");
            let message = "the request was not answered: the server's log says why";
            reply::failure(&Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message))
        }
    }
}

/// Waits until a client has had its time without showing who it is.
async fn outstayed(anonymous: &AtomicBool) {
    tokio::time::sleep(ANONYMOUS).await;
    if !anonymous.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}
