//! Asks the API without a network, for tests.

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Api;
use super::user::User;

/// What the API answers on a connection of its own.
pub(super) async fn ask(api: &Api, user: Option<&User>, head: &str, body: &str) -> (u16, Value) {
    let (code, body) = ask_for_text(api, user, head, body).await;
    (code, serde_json::from_str(&body).unwrap())
}

/// The same, for what is no JSON.
pub(super) async fn ask_for_text(api: &Api, user: Option<&User>, head: &str, body: &str) -> (u16, String) {
    let (head, body) = ask_for_all(api, user, head, body).await;
    (head[9..12].parse().unwrap(), body)
}

/// The answer's head and body, as they are.
pub(super) async fn ask_for_all(api: &Api, user: Option<&User>, head: &str, body: &str) -> (String, String) {
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let headers: String = headers.lines().map(|header| format!("{header}\r\n")).collect();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    near.write_all(request.as_bytes()).await.unwrap();
    let service =
        service_fn(async |request| Ok::<_, std::convert::Infallible>(api.handle(user, request).await));
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
    let mut answer = String::new();
    let (served, read) = tokio::join!(serving, near.read_to_string(&mut answer));
    served.unwrap();
    read.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
