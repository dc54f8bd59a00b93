//! How commands speak to the `tulle up` of a home.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tulle_sys::family::Member;

use super::control::{self, Also, Do, Inside, Open, UpStatus};
use super::published::PublishedPort;
use crate::exit::{Exit, Failure, Result};

/// How long it may take to answer: what is asked of a service is waited for, two minutes at most.
const ANSWER_DEADLINE: Duration = Duration::from_secs(150);
/// The same of what a command asks by the way.
const ASIDE_DEADLINE: Duration = Duration::from_secs(2);
/// How large an answer may be.
const MOST_ANSWER: usize = 16 << 20;

pub struct UpClient {
    socket: PathBuf,
}

impl UpClient {
    pub fn new(home: &Path) -> Self {
        Self { socket: control::socket(home) }
    }

    pub async fn status(&self) -> Result<UpStatus> {
        self.call(Method::GET, "/v1/mesh", &()).await
    }

    /// What runs, for who does without where it does not answer at once.
    pub async fn status_aside(&self) -> Option<UpStatus> {
        timeout(ASIDE_DEADLINE, self.status()).await.ok()?.ok()
    }

    /// Has something done with a service; `false`: it is not done yet, and goes on.
    pub async fn with_service(&self, name: &str, what: Do) -> Result<bool> {
        let answer: Value = self.call(Method::POST, &format!("/v1/services/{name}"), &what).await?;
        Ok(answer["done"] == true)
    }

    /// Where a port of a service is reached from outside of the mesh, from now on if it was not by now.
    pub async fn open(&self, service: &str, port: Option<String>) -> Result<PublishedPort> {
        self.call(Method::POST, &format!("/v1/services/{service}/open"), &Open { port }).await
    }

    /// What a process of a service was started with, of a service its first.
    pub async fn inside(&self, name: &str) -> Result<Inside> {
        self.call(Method::GET, &format!("/v1/processes/{name}"), &()).await
    }

    /// Has the file read again, and these services run, too; all where none is named. Returns what changed.
    pub async fn reload(&self, services: Vec<String>) -> Result<Vec<String>> {
        self.call(Method::POST, "/v1/reload", &Also { services }).await
    }

    /// Has it all stopped. It goes on stopping when this returns: which process that is.
    pub async fn down(&self) -> Result<Option<Member>> {
        let pid = self.status().await?.pid;
        let process = Member::of(pid);
        let _: Value = self.call(Method::POST, "/v1/down", &()).await?;
        Ok(process)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let answered = timeout(ANSWER_DEADLINE, self.send(method, path, body)).await;
        let (status, bytes) = answered.map_err(|_| Failure::new("`tulle up` gives no answer"))??;
        let read = serde_json::from_slice::<Value>(&bytes);
        let value = read.map_err(|_| {
            Failure::new("the answer of `tulle up` is not understood: is it of another version?")
        })?;
        if !status.is_success() {
            let why = value["error"].as_str().unwrap_or("`tulle up` refuses it");
            let exit = match status {
                http::StatusCode::NOT_FOUND => Exit::NotFound,
                http::StatusCode::CONFLICT => Exit::Conflict,
                _ => Exit::Input,
            };
            return Err(Failure::new(why.to_owned()).exit(exit));
        }
        serde_json::from_value(value).map_err(|_| {
            Failure::new("the answer of `tulle up` is not understood: is it of another version?")
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(http::StatusCode, Bytes)> {
        let failed =
            |why: String| Failure::new(format!("`tulle up` does not answer: {why}")).exit(Exit::Unreachable);
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(e.to_string()))?;
        let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "up")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(body).map_err(|e| failed(e.to_string()))?)))
            .map_err(|e| failed(e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST_ANSWER).collect().await;
        let bytes = body.map_err(|e| failed(e.to_string()))?.to_bytes();
        drop(connection);
        Ok((status, bytes))
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        let home = self.socket.parent().unwrap_or(Path::new("/")).display();
        let failure = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                Failure::new(format!("the `tulle up` with the state in {home} is another user's"))
            }
            _ => Failure::new(format!("no `tulle up` runs with the state in {home}")).help(
                "start one: `tulle up DIR`; with its state elsewhere: --home DIR, or the variable TULLE_HOME",
            ),
        };
        failure.exit(Exit::Unreachable)
    }
}
