//! Starts the parts of a node in their order, and stops them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tulle_proxy::state::NodeState;
use tulle_proxy::{Bounds, Proxy, Purpose, Sockets};
use tulle_wire::node::NodeInfo;

use crate::capture::{Capture, CaptureMode, CaptureWish};
use crate::control::Server;
use crate::control::advertise::Advertised;
use crate::control::discovery::{Directory, Discovery};
use crate::control::identities::{Identities, keep_node_valid, renew_expired, renew_revoked};
use crate::control::join::{Joined, join};
use crate::control::keys::ask_for_keys;
use crate::control::report::{Reporter, Skew};
use crate::control::seen::SeenSummaries;
use crate::control::services::{ServicesOfNamespace, services_of};
use crate::dialer::Dialer;
use crate::dns::{Addresses, Resolver};
use crate::exposure;
use crate::files;
use crate::flows::{self, FlowParts, RunsLeaving};
use crate::keeper::Keeper;
use crate::lock::HomeLock;
use crate::node_state::StatePublisher;
use crate::passage::Passage;
use crate::socket_file::SocketFile;
use crate::status::{NodeStatus, StatusSource};
use crate::vips::VirtualAddresses;
use crate::workloads::{Left, Parts, Workloads};
use crate::{admin, gates, scope, socket, workload_api};

/// How many services may be asked for at once.
const DEMANDS: usize = 1024;

/// How many certificates that peers refused because of their age may wait to be looked at.
const EXPIRATIONS: usize = 16;
/// How many sets of keys may wait to be asked for.
const UNKNOWN_KEYS: usize = 64;

/// How long the goodbye to the server may take.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take to write what is known.
const REMEMBER_DEADLINE: Duration = Duration::from_secs(2);
/// How long it may take to drop runs that do not come to rest.
const DROP_DEADLINE: Duration = Duration::from_secs(1);

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
    /// ([`crate::client::NodeClient::add_again`]), and what this one has goes on when it stops. Else it is ended.
    pub keep_workloads: bool,
    /// Whether services are started with it: what runs of Flows were doing goes on once they are there
    /// ([`Node::services_have_come`]), or after a minute.
    pub starts_services: bool,
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
    runs_leave: watch::Sender<RunsLeaving>,
    services_are_there: watch::Sender<bool>,
    /// Whether nothing of runs is under way any more.
    runs_rest: watch::Receiver<bool>,
    leaving: watch::Sender<bool>,
    reporter: AbortOnDropHandle<()>,
    tasks: Vec<AbortOnDropHandle<()>>,
    socket: Arc<SocketFile>,
    keep_workloads: bool,
    remember: mpsc::Sender<oneshot::Sender<()>>,
}

impl Node {
    /// Starts a node; it serves when this returns. Waits for the server where it has to join; else it
    /// needs none. Runs on the multi-thread runtime that it is called in.
    ///
    /// # Errors
    /// Where it cannot join, a port is taken, another node has the same home, or the capture that was
    /// asked for cannot be had. The message says what to do.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        let wish = config.capture;
        spawn_blocking(move || Capture::check(wish)).await??;
        let folder = config.home.join("node");
        let identities_folder = folder.join("identities");
        if let Err(e) = files::create_private_folder(&identities_folder) {
            // What is there can be read, perhaps; if not, what needs it says so.
            tracing::warn!("the node keeps nothing on disk: {e}");
        }
        let lock = HomeLock::take(&folder)?;

        let dialer = Dialer { marked: config.capture == CaptureWish::Namespace };
        let keeper = Keeper::start();
        let node_file = keeper.file(folder.join("node.json"));
        let Joined { credential, new_mesh } =
            join((&config.server, dialer), &config.name, config.token.as_deref(), &node_file).await?;
        let snapshot_file = keeper.file(folder.join("snapshot.pb"));
        if new_mesh {
            forget_old_mesh(&identities_folder, &snapshot_file.path)?;
        }
        let own = credential.decode().context("the node's certificate makes no sense")?;
        let server = Server::new(&config.server, &own, dialer);

        let state = StatePublisher::new(NodeState::default());
        let (demand, demands) = mpsc::channel(DEMANDS);
        let (remember, remembers) = mpsc::channel(1);
        let (discovery, config_age) = Discovery::restore(
            server.clone(),
            &config.name,
            snapshot_file,
            state.clone(),
            demands,
            remembers,
        );
        let table = VirtualAddresses::open(&folder.join("addresses.json"))?;
        let (known, let_through) = watch::channel(None);
        let addresses = Addresses::new(table, state.clone(), keeper.clone(), let_through);

        let workers = config.workers.max(1);
        let links = Sockets::bind(Purpose::Links, config.link_listen, workers).with_context(|| {
            format!("the port for links, {}, cannot be opened: choose another one", config.link_listen)
        })?;
        if dialer.marked {
            links.mark_of_node().with_context(missing_mark)?;
        }
        let (expired, expirations) = mpsc::channel(EXPIRATIONS);
        let (unknown_keys, missing_keys) = mpsc::channel(UNKNOWN_KEYS);
        let proxy = Proxy::start(tulle_proxy::Config {
            node: config.name.as_str().into(),
            workers,
            bounds: config.bounds.clone(),
            state: state.cell().clone(),
            demand: demand.clone(),
            budget: crate::budget::of_process(config.bounds.memory),
            clock: server.clock().clone(),
            expired,
            unknown_keys,
            marked: dialer.marked,
        });
        let proxy = Arc::new(proxy.context("the proxy's threads cannot be started")?);
        let link = proxy.listen(links).await.context("the port for links cannot be served")?;
        let advertised = Advertised::new(link, config.link_address, (&config.server, dialer)).await;
        let link_address = advertised.watch();
        let admin = match config.admin_listen {
            Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
                format!("the admin port, {address}, cannot be opened: choose another one")
            })?),
            None => None,
        };
        let admin_address = admin.as_ref().map(TcpListener::local_addr).transpose()?;
        if let Some(admin) = admin.as_ref().filter(|_| dialer.marked) {
            tulle_sys::mark_of_node(admin).with_context(missing_mark)?;
        }
        let (control, socket) = SocketFile::bind(&config.home, lock)?;
        let (made, later) = mpsc::channel(1);
        let workload_api = workload_api::Socket::bind(&config.home)
            .inspect_err(|e| tracing::warn!("workloads have no SPIFFE Workload API: {e:#}"))
            .ok();

        let scope = scope::of_node(&config.name, &config.home);
        let own_ports: Vec<_> =
            [Some(link), admin_address].into_iter().flatten().map(|own| own.port()).collect();
        let listens: Vec<_> = [Some(link), admin_address].into_iter().flatten().collect();
        let (capture, mode, reason) = open_capture(&config, &scope, own_ports).await?;
        if mode == CaptureMode::Explicit && !tulle_sys::knows_users() {
            tracing::warn!(
                "this kernel does not say whose a connection is: every user of this host can call services \
                 as this node's workloads"
            );
        }
        let (passage, outside, gates) = match capture.rules() {
            Some(rules) => {
                let passage = Passage::start(rules.clone(), state.cell().clone(), proxy.clone(), known).await;
                let gates = gates::Porter::start(rules, state.cell().clone(), proxy.clone()).await;
                (Some(passage.0), Some(passage.1), Some(gates))
            }
            None => (None, None, None),
        };
        let directory = Directory::new(state.cell().clone(), demand, server.connected());
        let identities = Identities::new(server.clone(), &identities_folder, keeper);
        let workloads = Workloads::new(Parts {
            scope,
            folder: folder.clone(),
            state: state.clone(),
            proxy: proxy.clone(),
            capture,
            mode,
            identities: identities.clone(),
            resolver: Resolver::new(directory.clone(), addresses.clone(), dialer),
            directory,
            addresses,
            workload_api: workload_api.as_ref().map(|socket| socket.path().to_owned()),
        });

        let reporter = Reporter {
            server: server.clone(),
            info: NodeInfo {
                name: config.name.clone(),
                link_address: String::new(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                capture_mode: mode.as_str().to_owned(),
                instance: server.instance().id.clone(),
                boot_id: server.instance().boot_id.clone(),
            },
            advertised,
            workloads: workloads.reports(),
            verdicts: workloads.verdicts(),
            proxy: proxy.clone(),
            config_age: config_age.clone(),
            skew: Skew::default(),
            seen: SeenSummaries::default(),
        };
        let seen = state.cell().clone();
        let (runs_leave, runs_rest) = (watch::Sender::new(RunsLeaving::Stays), watch::Sender::new(false));
        let services_are_there = watch::Sender::new(!config.starts_services);
        let flow_parts = FlowParts {
            name: config.name.clone(),
            server: server.clone(),
            workloads: workloads.clone(),
            proxy: proxy.clone(),
            own: listens,
            leave: runs_leave.subscribe(),
            services: services_are_there.subscribe(),
            rested: runs_rest.clone(),
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
            outside,
        });
        let facts = workload_api::Facts {
            workloads: source.workloads.clone(),
            bundle: identities.jwt_bundle().clone(),
            server: server.clone(),
        };
        let workload_api = workload_api.map(|api| workload_api::serve(api, facts, socket.clone()));
        let (leaving, leave) = watch::channel(false);
        let reporter = AbortOnDropHandle::new(tokio::spawn(reporter.run(leave)));
        let mut tasks = vec![
            tokio::spawn(discovery.run()),
            tokio::spawn(ask_for_keys(server.clone(), missing_keys)),
            tokio::spawn(keep_node_valid(server, own.identity().clone(), node_file, credential)),
            tokio::spawn(socket::serve(control, later, source.clone())),
            tokio::spawn(socket.clone().keep(made)),
            tokio::spawn(renew_expired(Arc::downgrade(&identities), expirations)),
            tokio::spawn(renew_revoked(Arc::downgrade(&identities), seen.clone())),
            tokio::spawn(flows::run(flow_parts)),
        ];
        tasks.push(tokio::spawn(source.workloads.clone().tend_orphans()));
        tasks.extend(workload_api.map(tokio::spawn));
        tasks.extend(passage.map(|passage| tokio::spawn(passage.run())));
        tasks.push(match gates {
            Some(gates) => tokio::spawn(gates.run()),
            None => tokio::spawn(exposure::say(seen)),
        });
        tasks.extend(admin.map(|listener| tokio::spawn(admin::serve(listener, source.clone()))));
        Ok(Self {
            source,
            capture: (mode, reason),
            link_address,
            admin_address,
            runs_leave,
            services_are_there,
            runs_rest: runs_rest.subscribe(),
            leaving,
            reporter,
            tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
            socket,
            keep_workloads: config.keep_workloads,
            remember,
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

    /// Has it know at its next start what it knows now: the workloads that are about to be stopped come back then, perhaps without
    /// a server.
    pub async fn remember(&self) {
        let (done, written) = oneshot::channel();
        if self.remember.try_send(done).is_ok() {
            // On a disk that takes longer, it knows less.
            let _ = timeout(REMEMBER_DEADLINE, written).await;
        }
    }

    /// The services of a namespace that have ports, as the server says.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn services_of(&self, namespace: &str) -> anyhow::Result<ServicesOfNamespace> {
        services_of(&self.source.server, namespace).await
    }

    /// Has runs of Flows begin nothing more, and waits until what they have begun is over, for `deadline` at most: before what they call
    /// is stopped. What is not over then is done again by whoever takes them over.
    pub async fn rest_runs(&self, deadline: Duration) {
        self.runs_leave.send_if_modified(|leaving| {
            let stays = *leaving == RunsLeaving::Stays;
            *leaving = if stays { RunsLeaving::Rests } else { *leaving };
            stays
        });
        let mut rest = self.runs_rest.clone();
        if timeout(deadline, rest.wait_for(|rests| *rests)).await.is_err() {
            self.runs_leave.send_replace(RunsLeaving::Drops);
            let _ = timeout(DROP_DEADLINE, rest.wait_for(|rests| *rests)).await;
        }
    }

    /// The services that were to come have come ([`NodeConfig::starts_services`]).
    pub fn services_have_come(&self) {
        self.services_are_there.send_replace(true);
    }

    /// Drains what is in flight (at most for `deadline`), and tells the server that the node leaves. Removes what it
    /// made on the host, processes of captured workloads included, or leaves these ([`NodeConfig::keep_workloads`]).
    pub async fn shutdown(self, deadline: Duration) -> Left {
        let end = Instant::now() + deadline;
        self.rest_runs(deadline / 2).await;
        let deadline = end.saturating_duration_since(Instant::now());
        let Self { source, leaving, reporter, tasks, socket, keep_workloads, .. } = self;
        let left = match keep_workloads {
            true => source.workloads.leave(deadline).await,
            false => {
                source.workloads.stop(deadline).await;
                Left::default()
            }
        };
        leaving.send_replace(true);
        let _ = timeout(LEAVE_DEADLINE, reporter).await;
        socket.remove();
        drop(socket);
        // They give their parts back, the home's lock among them, when they end.
        tasks.iter().for_each(AbortOnDropHandle::abort);
        let _ = timeout(LEAVE_DEADLINE, join_all(tasks)).await;
        // What the workloads have begun themselves; others may still hold the proxy, as every `tulle run` does.
        source.proxy.drain(end.saturating_duration_since(Instant::now())).await;
        left
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

fn missing_mark() -> &'static str {
    "namespace capture cannot be had here: sockets cannot be marked, which needs CAP_NET_ADMIN"
}

async fn open_capture(
    config: &NodeConfig,
    scope: &str,
    own_ports: Vec<u16>,
) -> anyhow::Result<(Capture, CaptureMode, String)> {
    let (scope, wish) = (scope.to_owned(), config.capture);
    let open = if config.keep_workloads { Capture::open_again } else { Capture::open };
    Ok(spawn_blocking(move || open(&scope, wish, &own_ports)).await??)
}
