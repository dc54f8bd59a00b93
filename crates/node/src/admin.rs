//! The admin port: `/metrics`, `/healthz`, `/ready`.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tulle_proxy::descriptors::Spare;
use tulle_proxy::silent::SilentPeers;

use crate::status::StatusSource;

/// How many connections there may be; for one more, the one goes that has not asked for the longest.
const MOST_CONNECTIONS: usize = 64;

/// How long a client may take to send a request, and stay silent after it.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// Serves until the task is aborted.
pub(crate) async fn serve(listener: TcpListener, source: Arc<StatusSource>) {
    let mut spare = Spare::new();
    let connections = SilentPeers::new(MOST_CONNECTIONS);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) if Spare::is_wanted(&e) && spare.turn_away(&listener).await => continue,
            Err(e) => {
                tracing::debug!("an admin connection is not accepted: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let source = source.clone();
        let mut place = connections.enter(());
        tokio::spawn(async move {
            let asked = Notify::new();
            let service = service_fn(|request: Request<Incoming>| {
                asked.notify_one();
                let response = answer(&request, &source);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_DEADLINE)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = pin!(connection);
            loop {
                tokio::select! {
                    ended = &mut connection => {
                        if let Err(e) = ended {
                            tracing::debug!("an admin connection failed: {e}");
                        }
                        return;
                    }
                    () = asked.notified() => place.renew(),
                    () = place.lost() => return,
                }
            }
        });
    }
}

fn answer(request: &Request<Incoming>, source: &StatusSource) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, source.metrics()),
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/ready" if source.is_ready() => text(StatusCode::OK, "ok\n".to_owned()),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "the server has not been reached yet\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /ready\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
