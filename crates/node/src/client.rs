//! How commands speak to the node on their host.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::ServicesOfNamespace;
use crate::arrival::Arrivals;
use crate::socket::{Action, Again};
use crate::socket_file;
use crate::status::NodeStatus;
use crate::workloads::{Before, Running, WorkloadSpec, WorkloadStatus};

/// How long the node may take to answer; draining takes 30 s at most.
const ANSWER_DEADLINE: Duration = Duration::from_secs(40);

/// A client of the node that has its state in a folder.
#[derive(Debug, Clone)]
pub struct NodeClient {
    /// In the order in which they are tried.
    sockets: Vec<PathBuf>,
}

/// A workload that lives for as long as this does.
pub struct HeldWorkload {
    client: NodeClient,
    running: Running,
    answer: Response<Incoming>,
}

/// What a node says to the owner of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// End its processes.
    Stop,
    /// Nothing any more: it is gone, or does not hold the workload.
    Lost,
}

impl NodeClient {
    /// The client of the node whose `$TULLE_HOME` is `home`.
    pub fn new(home: &Path) -> Self {
        Self { sockets: socket_file::places(home) }
    }

    /// Where to wait for a node that is started again: its socket is new then.
    pub fn arrivals(&self) -> Arrivals {
        Arrivals::in_folder(self.sockets[0].parent().unwrap_or(Path::new("/")))
    }

    /// The node's state.
    pub async fn status(&self) -> anyhow::Result<NodeStatus> {
        self.call(Method::GET, "/v1/status", &()).await
    }

    /// What is known of one of its workloads.
    pub async fn workload(&self, namespace: &str, name: &str) -> anyhow::Result<WorkloadStatus> {
        self.call(Method::GET, &format!("/v1/workloads/{namespace}/{name}"), &()).await
    }

    /// What there is to call in a namespace.
    pub async fn services_of(&self, namespace: &str) -> anyhow::Result<ServicesOfNamespace> {
        self.call(Method::GET, &format!("/v1/services/{namespace}"), &()).await
    }

    /// Adds a workload.
    pub async fn add(&self, spec: &WorkloadSpec) -> anyhow::Result<HeldWorkload> {
        self.hold("/v1/workloads", spec).await
    }

    /// Adds a workload to a node that has been started again, with the process that it has.
    pub async fn add_again(&self, spec: &WorkloadSpec, before: &Running) -> anyhow::Result<HeldWorkload> {
        let (listeners, cgroup) = (before.listeners.clone(), before.cgroup.clone());
        let before = Before { listeners, cgroup, capture: before.capture };
        let again = Again { spec: spec.clone(), before };
        self.hold("/v1/workloads/again", &again).await
    }

    /// Has all workloads take no new requests, and waits until none is in flight; `false` where some still are at
    /// the node's deadline.
    pub async fn drain(&self) -> anyhow::Result<bool> {
        self.call(Method::POST, "/v1/drain", &Action::Drain).await
    }

    /// Takes [`NodeClient::drain`] back.
    pub async fn undo_drain(&self) -> anyhow::Result<()> {
        let _: bool = self.call(Method::POST, "/v1/drain", &Action::Undo).await?;
        Ok(())
    }

    /// Has every `tulle run` end its process. Returns the longest that one of these may take.
    pub async fn ask_to_stop(&self) -> anyhow::Result<Duration> {
        Ok(Duration::from_millis(self.call(Method::POST, "/v1/drain", &Action::Stop).await?))
    }

    async fn hold(&self, path: &str, body: &impl Serialize) -> anyhow::Result<HeldWorkload> {
        let mut answer = self.send(Method::POST, path, body).await?;
        let mut line = Vec::new();
        let reading = async {
            while !line.ends_with(b"\n") {
                let frame = answer.frame().await.context("the node has ended its answer")??;
                line.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            }
            anyhow::Ok(())
        };
        timeout(ANSWER_DEADLINE, reading).await.map_err(|_| anyhow!("the node gives no answer"))??;
        let running = serde_json::from_slice(&line).context("the node's answer makes no sense")?;
        Ok(HeldWorkload { client: self.clone(), running, answer })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let answer = self.send(method, path, body).await?;
        let collecting = timeout(ANSWER_DEADLINE, answer.into_body().collect());
        let bytes = collecting.await.map_err(|_| anyhow!("the node gives no answer"))??.to_bytes();
        serde_json::from_slice(&bytes).context("the node's answer makes no sense")
    }

    async fn connect(&self) -> std::io::Result<UnixStream> {
        let (first, others) = (&self.sockets[0], &self.sockets[1..]);
        let error = match UnixStream::connect(first).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        for other in others {
            if let Ok(stream) = UnixStream::connect(other).await {
                return Ok(stream);
            }
        }
        Err(error)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<Response<Incoming>> {
        let stream = self.connect().await.with_context(|| {
            format!(
                "no node answers at {}: start one with `tulle node` or `tulle up`, as the same user and \
                 with the same TULLE_HOME",
                self.sockets[0].display()
            )
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends when the answer has been read, or dropped.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "node")
            .body(Full::new(Bytes::from(serde_json::to_vec(body)?)))?;
        let sending = timeout(ANSWER_DEADLINE, sender.send_request(request));
        let answer = sending.await.map_err(|_| anyhow!("the node gives no answer"))??;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        let message: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
        match message.as_ref().and_then(|m| m["error"].as_str()) {
            Some(message) => bail!("{message}"),
            None => bail!("the node answers {status}"),
        }
    }
}

impl HeldWorkload {
    /// What its process has to be started with.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Says whether its process runs.
    pub async fn set_running(&self, runs: bool) -> anyhow::Result<()> {
        let _: bool = self.client.call(Method::PUT, &self.path("running"), &runs).await?;
        Ok(())
    }

    /// Has it take no new requests, and waits until none is in flight; `false` where some still are
    /// at the node's deadline.
    pub async fn drain(&self) -> anyhow::Result<bool> {
        self.client.call(Method::POST, &self.path("drain"), &()).await
    }

    /// Waits for the next word of the node on the workload.
    pub async fn next(&mut self) -> Word {
        match self.answer.frame().await {
            Some(Ok(_)) => Word::Stop,
            None | Some(Err(_)) => Word::Lost,
        }
    }

    fn path(&self, action: &str) -> String {
        format!("/v1/workloads/{}/{}/{action}", self.running.namespace, self.running.name)
    }
}
