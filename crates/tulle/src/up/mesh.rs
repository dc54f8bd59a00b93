//! Server and node of `tulle up`, in this process.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tulle_node::capture::{CaptureMode, CaptureWish};
use tulle_node::reset::{Removed, reset};
use tulle_node::{Bounds, Node, NodeConfig};
use tulle_server::{Server, ServerConfig};

use super::config::{Config, Service};
use super::elsewhere::Elsewhere;
use super::objects;
use super::ports::{ADMIN_PORT, API_PORT, LINKS_PORT, NODES_PORT};
use super::published;
use super::reload::Kept;
use super::replica::STOP_DEADLINE;
use super::screen::Screen;
use super::suggest::Suggestions;
use crate::commands::node::{self, default_workers};
use crate::commands::server::not_started;
use crate::exit::{Exit, Failure, Result};

/// How long the calls of runs of Flows may take that are under way when it stops.
const RUNS_REST_DEADLINE: Duration = Duration::from_secs(5);
/// How long the node's goodbye may take, once no process is left.
const NODE_STOP_DEADLINE: Duration = Duration::from_secs(2);
/// The file in `$TULLE_HOME` that a running `up` has locked.
const LOCK: &str = "up.lock";
/// The node of every `tulle up`.
const NODE: &str = "local";
/// How long the node waits for its own server.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

pub struct Mesh {
    pub node: Node,
    /// `None`: it is elsewhere.
    server: Option<Server>,
    home: PathBuf,
    /// Ports that others than the usual had to be taken for.
    moved: Vec<(&'static str, u16)>,
    _lock: File,
}

/// How a node of this process joins the mesh of a server elsewhere.
pub struct Joining {
    /// Its address for nodes, `host:port`.
    pub server: String,
    pub token: Option<String>,
    /// The name of this host in the mesh.
    pub name: String,
    pub link_listen: SocketAddr,
    /// Where others reach that; `None`: the address of this host on the way to the server.
    pub link_address: Option<SocketAddr>,
}

impl Mesh {
    /// With a server of its own, unless it joins another's.
    pub async fn start(
        config: &Config,
        home: &Path,
        joining: Option<&Joining>,
        capture: CaptureWish,
        workers: Option<usize>,
        bounds: Bounds,
    ) -> Result<Self> {
        let lock = lock(home)?;
        clean_up(home, joining.map_or(NODE, |joining| &joining.name)).await?;
        check_free(config, &BTreeSet::new())?;
        published::check_free(config, None)?;
        let mut moved = Vec::new();
        // What the services are to listen at is theirs.
        let listened_at = |s: &Service| s.ports.iter().map(|p| p.target_port).collect::<Vec<_>>();
        let published_at = |s: &Service| s.publish.iter().map(|p| p.address.port()).collect::<Vec<_>>();
        let theirs: BTreeSet<u16> =
            config.services.iter().flat_map(|s| [listened_at(s), published_at(s)].concat()).collect();
        let mut choose = |what, port| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if !theirs.contains(&port) && TcpListener::bind(address).is_ok() {
                return address;
            }
            moved.push((what, port));
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
        };
        if let Some(joining) = joining {
            let node = NodeConfig {
                home: home.to_owned(),
                name: joining.name.clone(),
                server: joining.server.clone(),
                token: joining.token.clone(),
                link_listen: joining.link_listen,
                link_address: joining.link_address,
                admin_listen: Some(choose("metrics", ADMIN_PORT)),
                capture,
                keep_workloads: false,
                starts_services: true,
                workers: workers.unwrap_or_else(default_workers),
                bounds,
            };
            let node = Node::start(node).await.map_err(node::not_started)?;
            if !node.connected(CONNECT_DEADLINE).await {
                tracing::warn!(
                    "{} does not answer: what this host knew of the mesh at last is in force",
                    joining.server
                );
            }
            return Ok(Self { node, server: None, home: home.to_owned(), moved, _lock: lock });
        }
        let server_config = ServerConfig {
            api_listen: choose("the API", API_PORT),
            node_listen: choose("nodes", NODES_PORT),
            namespace: Some(config.namespace.clone()),
            ..ServerConfig::local(home)
        };
        let (links, admin) = (choose("links", LINKS_PORT), choose("metrics", ADMIN_PORT));
        let server = Server::start(server_config).await.map_err(|e| not_started(&e))?;
        let runs = server.views().flows().tallies();
        for flow in objects::apply(&server.objects, config).await? {
            if let Some(lost) = runs.get(&flow).and_then(|runs| runs.lost_with(&flow)) {
                tracing::warn!("the file has no Flow {flow} any more: {lost}");
            }
        }

        let token = match server.local_join_token(vec!["*".to_owned()]).await {
            Ok(token) => Some(token.text),
            // On a full disk, a node that has joined before needs none.
            Err(e) if home.join("node").join("node.json").exists() => {
                tracing::warn!("the node gets no new token: {e}");
                None
            }
            Err(e) => return Err(Failure::new(format!("the node gets no token: {e}"))),
        };
        let node = Node::start(NodeConfig {
            home: home.to_owned(),
            name: NODE.to_owned(),
            server: server.node_address.to_string(),
            token,
            link_listen: links,
            link_address: None,
            admin_listen: Some(admin),
            capture,
            keep_workloads: false,
            starts_services: true,
            workers: workers.unwrap_or_else(default_workers),
            bounds,
        })
        .await
        .map_err(node::not_started)?;
        if !node.connected(CONNECT_DEADLINE).await {
            let seconds = CONNECT_DEADLINE.as_secs();
            return Err(Failure::new(format!("the node did not reach its server within {seconds} s")));
        }
        Ok(Self { node, server: Some(server), home: home.to_owned(), moved, _lock: lock })
    }

    /// Says what there is and how to look at it.
    pub fn introduce(&self, config: &Config, screen: &Screen) {
        let (mode, why) = self.node.capture();
        screen.say(&format!(
            "mesh {} in {}, namespace {}",
            config.name,
            config.folder.display(),
            config.namespace
        ));
        screen.say(&format!("capture: {} ({why})", mode.as_str()));
        let called = config.services.iter().find(|service| !service.ports.is_empty());
        if let Some(service) = called.filter(|_| mode == CaptureMode::Explicit) {
            let name = super::own_names::as_variable(&service.name);
            screen.say(&format!(
                "names do not resolve: HTTP goes by HTTP_PROXY, all else to ${{{name}_SERVICE_HOST}}:${{{name}_SERVICE_PORT}}"
            ));
        }
        match &self.server {
            Some(server) => {
                screen.say(&format!("API: https://{}, state in {}", server.api_address, self.home.display()));
            }
            None => {
                let status = self.node.status();
                screen.say(&format!(
                    "node {} of the mesh at {}, links at {}, state in {}",
                    status.name,
                    status.server,
                    self.node.link_address(),
                    self.home.display()
                ));
            }
        }
        if let Some(address) = self.node.admin_address() {
            screen.say(&format!("metrics: http://{address}/metrics"));
        }
        for (what, port) in &self.moved {
            screen.say(&format!("port {port} for {what} is taken: a free one is used"));
        }
        let Some(server) = &self.server else { return };
        for (what, command) in Suggestions::new(config, &self.home, &server.kubeconfig).all() {
            screen.suggest(what, &command);
        }
    }

    /// Where the objects are that the file describes. `elsewhere` is asked where that is not here.
    pub fn kept(&self, elsewhere: impl FnOnce() -> Elsewhere) -> Kept {
        match &self.server {
            Some(server) => Kept::Here(server.objects.clone()),
            None => Kept::Elsewhere(Arc::new(elsewhere())),
        }
    }

    /// The name of this host in the mesh.
    pub fn host(&self) -> String {
        self.node.status().name
    }

    /// Has runs of Flows begin nothing more: what they call is about to be stopped.
    pub async fn rest_runs(&self) {
        self.node.rest_runs(RUNS_REST_DEADLINE).await;
    }

    pub async fn stop(self) {
        let _nothing = self.node.shutdown(NODE_STOP_DEADLINE).await;
        if let Some(server) = self.server {
            server.shutdown().await;
        }
    }
}

/// A run that was killed may have left processes, which would have the ports.
///
/// # Errors
/// Where a `tulle node` runs with that home.
async fn clean_up(home: &Path, node: &str) -> Result<()> {
    let told = |removed| {
        if let Removed::Processes { workload, ended } = removed {
            tracing::warn!(
                "an earlier run has left {} processes of {workload}: they were ended",
                ended.members
            );
        }
    };
    match reset(home, Some(node), Some(STOP_DEADLINE), told).await {
        Err(e) if e.is::<tulle_node::InUse>() => {
            Err(Failure::new(format!("a `tulle node` runs on this host with the state in {}", home.display()))
                .exit(Exit::Conflict)
                .help("`tulle run NAME -- COMMAND` starts a process in its mesh; or stop it, and `up --server` joins in its place"))
        }
        Err(e) => {
            tracing::warn!("what an earlier run has left cannot be removed: {e:#}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// The name of the node whose state is there.
fn node_of(home: &Path) -> String {
    let known = std::fs::read(home.join("node").join("node.json"));
    let known = known.ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    let name = known.and_then(|known| Some(known["identity"].as_str()?.rsplit('/').next()?.to_owned()));
    name.unwrap_or_else(|| NODE.to_owned())
}

/// One mesh a home. The lock goes with the process, whatever ends it.
fn lock(home: &Path) -> Result<File> {
    let cannot = |e: std::io::Error| {
        Failure::new(format!("cannot use {}: {e}", home.display())).help("another folder: --home DIR")
    };
    crate::home::create(home)?;
    let path = home.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Failure::new(format!("another `tulle up` runs with the state in {}", home.display()))
                .exit(Exit::Conflict)
                .help("stop it with Ctrl-C, or give this one a folder of its own: --home DIR"))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(cannot(error)),
    }
}

/// What a mesh keeps in its home. Others may keep things there, too.
const KEPT: [&str; 6] = ["kubeconfig", "node", "server", "logs", "up.log", LOCK];

/// Removes all that a mesh has kept, and what it has left on this host. Nothing runs with it any more.
pub async fn forget(home: &Path) -> Result<()> {
    let _lock = lock(home)?;
    clean_up(home, &node_of(home)).await?;
    for path in KEPT.map(|name| home.join(name)) {
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::new(format!("{} cannot be removed: {e}", path.display())));
            }
            _ => {}
        }
    }
    // It goes where nothing else is in it.
    let _ = std::fs::remove_dir(home);
    Ok(())
}

/// Whether the ports that the file names are free, but for those that are its own services'.
pub fn check_free(config: &Config, own: &BTreeSet<u16>) -> Result<()> {
    for service in config.services.iter().filter(|s| s.replicas > 0) {
        for port in service.ports.iter().filter(|port| !own.contains(&port.target_port)) {
            if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port.target_port)) {
                return Err(Failure::new(format!(
                    "port {} of service {} cannot be used: {error}",
                    port.target_port, service.name
                ))
                .exit(Exit::Conflict)
                .help("stop what uses it, or give the service another port in tulle.yaml"));
            }
        }
    }
    Ok(())
}
