//! What commands on the same host say to a running `tulle up`, and what it answers: HTTP with JSON on
//! `$TULLE_HOME/up.sock`, which only its own user can open.
//!
//! | request | |
//! |---|---|
//! | `GET /v1/mesh` | an [`UpStatus`] |
//! | `POST /v1/services/{name}` | a [`Do`]; answered when it is done |
//! | `POST /v1/services/{name}/open` | an [`Open`]; the [`PublishedPort`] that leads there, a new one where there is none |
//! | `GET /v1/processes/{name}` | [`Inside`], of a process or the first of a service |
//! | `POST /v1/reload` | reads the file again, and has an [`Also`] run; what changed, as lines |
//! | `POST /v1/down` | stops it all, as SIGTERM does |

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path as Segment, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::config::Port;
use super::published::PublishedPort;
use super::reload::Reload;
use super::services::{Services, Wish};
use super::standing::{self, Standing};
use crate::exit::{Failure, Result};

/// The socket's name in `$TULLE_HOME`.
const SOCKET: &str = "up.sock";
/// How long what was asked of a service may take before who asks hears that it goes on.
const DONE_DEADLINE: Duration = Duration::from_secs(120);

/// Where the socket of a home is.
pub fn socket(home: &Path) -> PathBuf {
    home.join(SOCKET)
}

/// What runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpStatus {
    pub name: String,
    pub namespace: String,
    pub file: PathBuf,
    pub pid: u32,
    /// Whether all services were ready once.
    pub started: bool,
    /// Why the file is not taken as it is now, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The names of all services, also of those that have no process.
    #[serde(default)]
    pub services: Vec<String>,
    pub processes: Vec<Standing>,
    /// Where services are reached from outside of the mesh.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
}

/// Services that are to run beside those that do; none: all of the file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Also {
    pub services: Vec<String>,
}

/// Which port of a service is to be reached.
#[derive(Debug, Serialize, Deserialize)]
pub struct Open {
    /// By name or number; `None`: the first.
    pub port: Option<String>,
}

/// What a command needs to run as a process of a service does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inside {
    pub environment: Vec<(String, String)>,
    pub directory: PathBuf,
    pub cgroup: Option<PathBuf>,
    /// A folder with what it sees in place of the host's name service.
    pub name_service: Option<PathBuf>,
    /// Whom it runs as, where that is not who runs `up`.
    pub user: Option<String>,
    pub group: Option<String>,
    /// Where its process listens.
    pub ports: Vec<u16>,
}

/// What is to be done with a service.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Do {
    Start,
    Stop,
    Restart,
    Scale(u32),
}

struct Served {
    services: Arc<Services>,
    reload: Arc<Reload>,
    down: Arc<Notify>,
}

/// Serves until it is dropped. The socket goes with it.
pub struct Control {
    path: PathBuf,
    _task: AbortOnDropHandle<()>,
}

impl Control {
    /// `down` hears who wants all to stop.
    pub fn start(
        home: &Path,
        services: &Arc<Services>,
        reload: &Arc<Reload>,
        down: &Arc<Notify>,
    ) -> Result<Self> {
        let path = socket(home);
        let cannot = |e: std::io::Error| Failure::new(format!("cannot listen at {}: {e}", path.display()));
        // One of an `up` that was killed; a live one has the lock on the home.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(e)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(cannot)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(cannot)?;
        let served = Served { services: services.clone(), reload: reload.clone(), down: down.clone() };
        let router = Router::new()
            .route("/v1/mesh", get(mesh))
            .route("/v1/services/{name}", post(service))
            .route("/v1/services/{name}/open", post(open))
            .route("/v1/processes/{name}", get(process))
            .route("/v1/reload", post(read_again))
            .route("/v1/down", post(stop_all))
            .with_state(Arc::new(served));
        let serving = async move {
            if let Err(e) = axum::serve(listener, router).await {
                tracing::error!("commands are not answered any more: {e}");
            }
        };
        Ok(Self { path, _task: AbortOnDropHandle::new(tokio::spawn(serving)) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn mesh(State(served): State<Arc<Served>>) -> Json<UpStatus> {
    let services = &served.services;
    let config = services.config();
    let processes = services.standings.lock().know(standing::of_all(services));
    let refused = served.reload.refused.lock().clone();
    Json(UpStatus {
        name: config.name.clone(),
        namespace: config.namespace.clone(),
        file: std::path::absolute(&config.file).unwrap_or_else(|_| config.file.clone()),
        pid: std::process::id(),
        started: services.has_started(),
        refused,
        services: services.names(),
        processes,
        published: services.published.list(&config).await,
    })
}

async fn service(
    State(served): State<Arc<Served>>,
    Segment(name): Segment<String>,
    Json(what): Json<Do>,
) -> Response {
    let wish = match what {
        Do::Start => Wish::Start,
        Do::Stop => Wish::Stop,
        Do::Restart => Wish::Restart,
        Do::Scale(replicas) => Wish::Scale(replicas),
    };
    let number = match served.services.wish(&name, wish) {
        Ok(number) => number,
        Err(why) => return refused(StatusCode::NOT_FOUND, &why),
    };
    match timeout(DONE_DEADLINE, served.services.fulfilled(&name, number)).await {
        Ok(()) => Json(json!({ "done": true })).into_response(),
        Err(_) => Json(json!({ "done": false })).into_response(),
    }
}

async fn open(
    State(served): State<Arc<Served>>,
    Segment(name): Segment<String>,
    Json(Open { port }): Json<Open>,
) -> Response {
    let config = served.services.config();
    let Some(service) = config.services.iter().find(|service| service.name == name) else {
        return refused(StatusCode::NOT_FOUND, &format!("there is no service `{name}`"));
    };
    let is_it = |known: &&Port| match &port {
        Some(port) => known.name.as_ref() == Some(port) || known.port.to_string() == *port,
        None => true,
    };
    let Some(to) = service.ports.iter().find(is_it) else {
        let known: Vec<_> = service.ports.iter().map(|port| port.port.to_string()).collect();
        let why = match port {
            Some(port) if !known.is_empty() => {
                format!("{name} has no port `{port}`: it has {}", known.join(", "))
            }
            _ => format!("{name} has no port that could be opened"),
        };
        return refused(StatusCode::NOT_FOUND, &why);
    };
    match served.services.published.open(&config, &name, to.port).await {
        Ok(published) => Json(published).into_response(),
        Err(failure) => refused(StatusCode::CONFLICT, &failure.to_string()),
    }
}

async fn process(State(served): State<Arc<Served>>, Segment(name): Segment<String>) -> Response {
    let wanted = served.services.wanted();
    let service = wanted.iter().find(|wanted| wanted.service.name == name);
    let inside = served.services.shared.inside.lock();
    let mut names = service.into_iter().flat_map(|wanted| wanted.names()).chain([name.clone()]);
    if let Some(found) = names.find_map(|name| inside.get(&name)) {
        return Json(found).into_response();
    }
    match service {
        Some(_) => refused(StatusCode::CONFLICT, &format!("`{name}` has not started yet, or is stopped")),
        None => refused(StatusCode::NOT_FOUND, &format!("there is no service or process `{name}`")),
    }
}

async fn read_again(State(served): State<Arc<Served>>, Json(Also { services }): Json<Also>) -> Response {
    let said = served.reload.now(Some(&services)).await;
    // What was stopped by hand runs again where it is named.
    for name in services.iter().filter(|_| said.is_ok()) {
        let _ = served.services.wish(name, Wish::Start);
    }
    match said {
        Ok(said) => Json(said).into_response(),
        Err(why) => refused(StatusCode::BAD_REQUEST, &why),
    }
}

async fn stop_all(State(served): State<Arc<Served>>) -> Json<serde_json::Value> {
    served.down.notify_one();
    Json(json!({ "pid": std::process::id() }))
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}
