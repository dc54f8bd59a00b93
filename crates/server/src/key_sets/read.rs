//! Reads a set of keys from a URL or file. Whoever answers there can neither stall it nor fill the memory.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tulle_model::kinds::authorization_policy::set_problem;

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest set, in bytes.
const LARGEST: usize = 256 << 10;

/// A set of keys as JSON, or why there is none.
pub(super) async fn read(source: &str) -> Result<String, String> {
    let reading = async {
        match source.strip_prefix("file://") {
            Some(path) => file(path).await,
            None => fetch(source).await,
        }
    };
    let set = timeout(DEADLINE, reading)
        .await
        .map_err(|_| format!("it took more than {} seconds", DEADLINE.as_secs()))??;
    let set = String::from_utf8(set).map_err(|_| "it is no text".to_owned())?;
    match set_problem(&set) {
        None => Ok(set),
        Some(problem) => Err(format!("it {problem}")),
    }
}

async fn file(path: &str) -> Result<Vec<u8>, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    let mut set = Vec::new();
    file.take(LARGEST as u64 + 1).read_to_end(&mut set).await.map_err(|error| error.to_string())?;
    if set.len() > LARGEST { Err(too_large()) } else { Ok(set) }
}

fn too_large() -> String {
    format!("it is larger than {} KiB", LARGEST >> 10)
}

async fn fetch(url: &str) -> Result<Vec<u8>, String> {
    let url: Uri = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let is_tls = url.scheme_str() == Some("https");
    let host = url.host().ok_or("it names no host")?;
    // Of an address of IPv6.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
    if !is_tls {
        return ask(TokioIo::new(tcp), &url).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let tls = TlsConnector::from(Arc::new(client_config()?)).connect(name, tcp).await;
    ask(TokioIo::new(tls.map_err(|error| format!("TLS with {host}: {error}"))?), &url).await
}

/// Trusts whom this host trusts.
fn client_config() -> Result<ClientConfig, String> {
    let roots = tulle_identity::system::authorities().map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

/// A redirect is not followed: whoever named the URL meant that one.
async fn ask<I>(io: TokioIo<I>, url: &Uri) -> Result<Vec<u8>, String>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(64 << 10).handshake(io).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, url.authority().map_or("", |authority| authority.as_str()))
            .header(header::ACCEPT, "application/json, application/jwk-set+json")
            .header(header::USER_AGENT, concat!("tulle/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        match body {
            Ok(body) => Ok(body.to_bytes().to_vec()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
            Err(error) => Err(error.to_string()),
        }
    };
    // The connection is driven for as long as this takes, and ends with it.
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
