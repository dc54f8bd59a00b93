//! Starts the parts of a node in their order, and stops them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tulle_proxy::state::NodeState;
use tulle_proxy::{Bounds, Proxy};
use tulle_wire::node::NodeInfo;
use xxhash_rust::xxh3::xxh3_64;

use crate::capture::{Capture, CaptureMode, CaptureWish};
use crate::control::Server;
use crate::control::advertise::Advertised;
use crate::control::discovery::{Directory, Discovery};
use crate::control::identities::{Identities, keep_node_valid, renew_expired};
use crate::control::join::{Joined, join};
use crate::control::report::{Reporter, Skew};
use crate::dns::{Addresses, Resolver};
use crate::files;
use crate::keeper::Keeper;
use crate::node_state::StatePublisher;
use crate::status::{NodeStatus, StatusSource};
use crate::vips::VirtualAddresses;
use crate::workloads::{Parts, Workloads};
use crate::{admin, socket};

/// How many services may be asked for at once.
const DEMANDS: usize = 1024;

/// How many certificates that peers refused because of their age may wait to be looked at.
const EXPIRATIONS: usize = 16;

/// How long the goodbye to the server may take.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);

/// How long the owners of an earlier process's workloads have to come back for them.
const RETURN_DEADLINE: Duration = Duration::from_secs(10);

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// `$TULLE_HOME`.
    pub home: PathBuf,
    /// Unique in the mesh; a DNS label.
    pub name: String,
    /// The server's port for nodes, `host:port`.
    pub server: String,
    /// What the node joins with, where it has not joined before.
    pub token: Option<String>,
    /// Where it takes links from other nodes.
    pub link_listen: SocketAddr,
    /// Where others reach that; `None`: the address of this host on the way to the server.
    pub link_address: Option<SocketAddr>,
    /// Where it serves metrics; `None`: nowhere.
    pub admin_listen: Option<SocketAddr>,
    pub capture: CaptureWish,
    /// Whether what an earlier process of this node ran goes on, where its owner comes back for it
    /// ([`crate::client::NodeClient::add_again`]). Else it is ended at the start.
    pub keep_workloads: bool,
    /// Threads of the proxy.
    pub workers: usize,
    pub bounds: Bounds,
}

/// A running node.
pub struct Node {
    source: Arc<StatusSource>,
    capture: (CaptureMode, String),
    link_address: watch::Receiver<SocketAddr>,
    admin_address: Option<SocketAddr>,
    leaving: watch::Sender<bool>,
    reporter: AbortOnDropHandle<()>,
    tasks: Vec<AbortOnDropHandle<()>>,
    socket: PathBuf,
    _lock: Flock<OwnedFd>,
}

impl Node {
    /// Starts a node; it serves when this returns. Waits for the server where it has to join; else it
    /// needs none. Runs on the multi-thread runtime that it is called in.
    ///
    /// # Errors
    /// Where it cannot join, a port is taken, another node has the same home, or the capture that was
    /// asked for cannot be had. The message says what to do.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        let folder = config.home.join("node");
        let identities_folder = folder.join("identities");
        files::create_private_folder(&identities_folder)?;
        let lock = lock(&folder)?;

        let keeper = Keeper::start();
        let node_file = keeper.file(folder.join("node.json"));
        let Joined { credential, new_mesh } =
            join(&config.server, &config.name, config.token.as_deref(), &node_file).await?;
        let snapshot_file = keeper.file(folder.join("snapshot.pb"));
        if new_mesh {
            forget_old_mesh(&identities_folder, &snapshot_file.path)?;
        }
        let certificate = credential.decode().context("the node's certificate makes no sense")?;
        let server = Server::new(&config.server, &certificate)?;

        let state = StatePublisher::new(NodeState::default());
        let (demand, demands) = mpsc::channel(DEMANDS);
        let (discovery, config_age) =
            Discovery::restore(server.clone(), &config.name, snapshot_file, state.clone(), demands);
        let table = VirtualAddresses::open(&folder.join("addresses.json"))?;
        let addresses = Addresses::new(table, state.clone(), keeper.clone());

        let (expired, expirations) = mpsc::channel(EXPIRATIONS);
        let proxy = Proxy::start(tulle_proxy::Config {
            node: config.name.as_str().into(),
            workers: config.workers.max(1),
            bounds: config.bounds.clone(),
            state: state.cell().clone(),
            demand: demand.clone(),
            budget: crate::budget::of_process(config.bounds.memory),
            clock: server.clock().clone(),
            expired,
        });
        let proxy = Arc::new(proxy.context("the proxy's threads cannot be started")?);
        let link = proxy.listen_links(config.link_listen).await;
        let link = link.with_context(|| {
            format!("the port for links, {}, cannot be opened: choose another one", config.link_listen)
        })?;
        let advertised = Advertised::new(link, config.link_address, &config.server).await;
        let link_address = advertised.watch();
        let admin = match config.admin_listen {
            Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
                format!("the admin port, {address}, cannot be opened: choose another one")
            })?),
            None => None,
        };
        let admin_address = admin.as_ref().map(TcpListener::local_addr).transpose()?;
        let control = socket::bind(&config.home)?;

        let (capture, mode, reason) = open_capture(&config).await?;
        if mode == CaptureMode::Explicit && !tulle_sys::knows_users() {
            tracing::warn!(
                "this kernel does not say whose a connection is: every user of this host can call services \
                 as this node's workloads"
            );
        }
        let directory = Directory::new(state.cell().clone(), demand, server.connected());
        let identities = Identities::new(server.clone(), &identities_folder, keeper);
        let workloads = Workloads::new(Parts {
            state: state.clone(),
            proxy: proxy.clone(),
            capture,
            mode,
            identities: identities.clone(),
            resolver: Resolver::new(directory.clone(), addresses.clone()),
            directory,
            addresses,
        });

        let reporter = Reporter {
            server: server.clone(),
            info: NodeInfo {
                name: config.name.clone(),
                link_address: String::new(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                capture_mode: mode.as_str().to_owned(),
                instance: format!("{:016x}", rand::random::<u64>()),
            },
            advertised,
            workloads: workloads.reports(),
            verdicts: workloads.verdicts(),
            proxy: proxy.clone(),
            config_age: config_age.clone(),
            skew: Skew::default(),
        };
        let source = Arc::new(StatusSource {
            name: config.name,
            capture_mode: mode.as_str(),
            capture_reason: reason.clone(),
            link_address: link_address.clone(),
            server_address: config.server,
            server: server.clone(),
            workloads,
            state,
            config_age,
            proxy,
        });
        let (leaving, leave) = watch::channel(false);
        let reporter = AbortOnDropHandle::new(tokio::spawn(reporter.run(leave)));
        let mut tasks = vec![
            tokio::spawn(discovery.run()),
            tokio::spawn(keep_node_valid(server, certificate.identity.clone(), node_file, credential)),
            tokio::spawn(socket::serve(control, source.clone())),
            tokio::spawn(renew_expired(Arc::downgrade(&identities), expirations)),
        ];
        let returning = Arc::downgrade(&source.workloads);
        tasks.push(tokio::spawn(async move {
            sleep(RETURN_DEADLINE).await;
            if let Some(workloads) = returning.upgrade() {
                workloads.end_orphans().await;
            }
        }));
        tasks.extend(admin.map(|listener| tokio::spawn(admin::serve(listener, source.clone()))));
        Ok(Self {
            source,
            capture: (mode, reason),
            link_address,
            admin_address,
            leaving,
            reporter,
            tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
            socket: config.home.join(socket::SOCKET),
            _lock: lock,
        })
    }

    /// How it captures, and a sentence that says why.
    pub fn capture(&self) -> (CaptureMode, &str) {
        (self.capture.0, &self.capture.1)
    }

    /// Where other nodes reach it.
    pub fn link_address(&self) -> SocketAddr {
        *self.link_address.borrow()
    }

    /// Where its metrics are.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Its workloads, to add more.
    pub fn workloads(&self) -> &Arc<Workloads> {
        &self.source.workloads
    }

    pub fn status(&self) -> NodeStatus {
        self.source.status()
    }

    /// Waits until the server has been reached; `false` where it was not within the deadline.
    pub async fn connected(&self, deadline: Duration) -> bool {
        let mut connected = self.source.server.connected();
        timeout(deadline, connected.wait_for(|connected| *connected)).await.is_ok()
    }

    /// Drains what is in flight (at most for `deadline`), tells the server that the node leaves, and
    /// removes what it made on the host, processes of captured workloads included.
    pub async fn shutdown(self, deadline: Duration) {
        let Self { source, leaving, reporter, tasks, socket, .. } = self;
        source.workloads.stop(deadline).await;
        leaving.send_replace(true);
        let _ = timeout(LEAVE_DEADLINE, reporter).await;
        let _ = std::fs::remove_file(socket);
        drop(tasks);
        let proxy = source.proxy.clone();
        drop(source);
        // Aborted tasks give their parts back when they are scheduled next.
        let mut shared = proxy;
        for _ in 0..100 {
            match Arc::try_unwrap(shared) {
                Ok(proxy) => return proxy.drain(deadline).await,
                Err(still_shared) => shared = still_shared,
            }
            sleep(Duration::from_millis(5)).await;
        }
        tracing::debug!("the proxy ends with the process: something still uses it");
    }
}

/// Two nodes with one state would ruin each other's.
fn lock(folder: &Path) -> anyhow::Result<Flock<OwnedFd>> {
    let path = folder.join("lock");
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
    match Flock::lock(OwnedFd::from(file), FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err(_) => bail!(
            "another node runs with the state in {}: stop it, or set TULLE_HOME to another folder",
            folder.display()
        ),
    }
}

/// Certificates and configuration of a mesh that the node was in before are of no use in another.
fn forget_old_mesh(identities: &Path, snapshot: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(identities)? {
        std::fs::remove_file(entry?.path())?;
    }
    match std::fs::remove_file(snapshot) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

async fn open_capture(config: &NodeConfig) -> anyhow::Result<(Capture, CaptureMode, String)> {
    // Nodes of different homes on one host may have the same name.
    let home = std::fs::canonicalize(&config.home).unwrap_or_else(|_| config.home.clone());
    let hash = xxh3_64(home.as_os_str().as_encoded_bytes()) as u32;
    let scope = format!("{}-{hash:08x}", config.name);
    let wish = config.capture;
    let open = if config.keep_workloads { Capture::open_again } else { Capture::open };
    Ok(spawn_blocking(move || open(&scope, wish)).await??)
}
