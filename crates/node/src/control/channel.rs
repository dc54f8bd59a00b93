//! The gRPC channel to the server, over TLS of our own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::dialer::Dialer;

/// How long a connect to the server may take, TLS included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A server that answers no ping for so long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_DEADLINE: Duration = Duration::from_secs(5);

/// What the server's name is when TLS asks for it. The certificate's SPIFFE ID decides, not this.
const SERVER_NAME: &str = "server";

/// A channel to `server` (`host:port`) that connects when it is first used, and again when it has lost
/// its connection.
pub fn channel(server: &str, config: ClientConfig, dialer: Dialer) -> Channel {
    let connector = TlsConnector::from(Arc::new(config));
    let server: Arc<str> = server.into();
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, server) = (connector.clone(), server.clone());
        async move { connect(&server, connector, dialer).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://server")
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connect)
}

async fn connect(
    server: &str,
    connector: TlsConnector,
    dialer: Dialer,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    let connecting = async {
        let stream = dialer.tcp_to(server).await?;
        stream.set_nodelay(true)?;
        connector.connect(name, stream).await
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer");
    let result = timeout(CONNECT_DEADLINE, connecting).await.map_err(late).flatten();
    result.map_err(|e| io::Error::new(e.kind(), format!("{server}: {}", super::tls::explain(&e))))
}

/// A message for people of what went wrong: tonic's own hides the cause.
pub fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    // rustls says it with a link to its manual.
    if text.contains("close_notify") {
        return "the connection broke".to_owned();
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if more.contains("close_notify") {
            return "the connection broke".to_owned();
        }
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Like [`explain`], for an answer of the server.
pub fn explain_status(status: &tonic::Status) -> String {
    let message = status.message();
    match std::error::Error::source(status) {
        Some(cause) => explain(cause),
        None if message.is_empty() => format!("{:?}", status.code()),
        None => message.to_owned(),
    }
}
