//! A whole server, in this process.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tulle_model::identity::{InvalidIdentity, TrustDomain};
use tulle_model::kinds::mesh::MESH;
use tulle_model::registry::KindId;
use tulle_model::snapshot::SessionKey;

use crate::access::Access;
use crate::api::Api;
use crate::audit::Audit;
use crate::ca::CaError;
use crate::ca::api::ApiAuthority;
use crate::ca::jwt::JwtAuthority;
use crate::ca::mesh::{AuthorityFiles, MeshAuthority};
use crate::ca::seal::MasterKey;
use crate::ca::session::session_key;
use crate::controller::slices::SliceWriter;
use crate::controller::status::StatusWriter;
use crate::controller::{Controller, Writers};
use crate::enrolment::{Enrolment, EnrolmentError, JoinToken, TokenRequest};
use crate::events::{Events, Severity};
use crate::fleet::{Fleet, InvalidLeases, Leases};
use crate::flows::{Flows, FlowsError, InvalidBounds, KnownFlows, RunBook, RunBounds, Seal};
use crate::founding::{self, Owner, State, StateError};
use crate::grpc::ads::Discovery;
use crate::grpc::flow_service::FlowApi;
use crate::grpc::listener;
use crate::grpc::node_service::NodeApi;
use crate::grpc::tls::{self, ServerCertificate};
use crate::history::History;
use crate::key_sets::KeySets;
use crate::metrics::Metrics;
use crate::objects::{DEFAULT_NAMESPACE, ObjectError, Objects};
use crate::publication::Publication;
use crate::store::{OpenError, Store};
use crate::timestamp::millis;
use crate::views::Views;

/// How long a stopping server waits for what is under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The name of the cluster in the kubeconfig.
const CLUSTER: &str = "tulle";
/// How often the clock is looked at: it may be set, or the host suspended.
const CLOCK_LOOK: Duration = Duration::from_secs(1);
/// How often certificates are looked after, and expired tokens are swept out, while the clock goes on as it
/// should.
const UPKEEP: Duration = Duration::from_secs(60);

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// `$TULLE_HOME`: the server keeps its state in `server/`, and writes `kubeconfig`.
    pub home: PathBuf,
    /// Where the API listens; port 0 takes a free one.
    pub api_listen: SocketAddr,
    /// Where nodes connect; port 0 takes a free one.
    pub node_listen: SocketAddr,
    /// The mesh's trust domain; fixed by the first start.
    pub trust_domain: String,
    /// Names and addresses by which clients reach the API, beside `localhost` and the loopback
    /// addresses.
    pub api_names: Vec<String>,
    /// Where the administrator works who says no namespace, as his kubeconfig has it.
    pub namespace: Option<String>,
    /// An authority of the user's own instead of one that the server makes.
    pub authority: Option<AuthorityFiles>,
    /// How long a node may be silent, and with what consequence.
    pub leases: Leases,
    /// How much a run of a Flow may take.
    pub run_bounds: RunBounds,
}

impl ServerConfig {
    /// A server for this host alone, on free ports, with the trust domain `mesh.local`.
    pub fn local(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            api_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            node_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            trust_domain: "mesh.local".to_owned(),
            api_names: Vec::new(),
            namespace: None,
            authority: None,
            leases: Leases::default(),
            run_bounds: RunBounds::default(),
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    TrustDomain(#[from] InvalidIdentity),
    #[error(transparent)]
    Leases(#[from] InvalidLeases),
    #[error(transparent)]
    RunBounds(#[from] InvalidBounds),
    #[error("cannot make the folder {}: {source}", path.display())]
    Home { path: PathBuf, source: std::io::Error },
    #[error("cannot listen on {address} for {what}: {source}; choose another address, or stop what uses it")]
    Listen { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot read the stored objects: {0}")]
    Objects(#[from] ObjectError),
    #[error("cannot read the stored runs of Flows: {0}")]
    Flows(#[from] FlowsError),
}

impl StartError {
    /// Whether another process stands against it, which may be stopped.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Listen { source, .. } => source.kind() == std::io::ErrorKind::AddrInUse,
            Self::Store(OpenError::InUse(_)) => true,
            _ => false,
        }
    }
}

/// A running server. Dropping it stops it without waiting; [`Server::shutdown`] waits.
pub struct Server {
    /// Where the API is served.
    pub api_address: SocketAddr,
    /// Where nodes connect.
    pub node_address: SocketAddr,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The objects, for callers in this process.
    pub objects: Objects,
    views: Views,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Server {
    /// Starts a server; it serves when this returns. Must run inside of a Tokio runtime.
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        let domain = TrustDomain::new(&config.trust_domain)?;
        config.leases.check()?;
        config.run_bounds.check()?;
        let dir = config.home.join("server");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| StartError::Home { path: dir.clone(), source })?;
        let now = SystemTime::now();
        let mut state = State::look(&dir, config.authority.is_some()).await?;
        let OpenedState { store, authority, tokens, api_authority, session_key, seal } =
            open_state(&state, &dir, &config, &domain, now).await?;
        let objects = Objects::open(store.clone()).await?.of_mesh(&domain);
        let mesh = objects.ensure_mesh().await? & Access::ensure_defaults(&objects).await?;
        let whole = mesh && objects.get(KindId::Namespace.kind(), "", DEFAULT_NAMESPACE).await?.is_some();
        state.finish()?;
        let node_listener = listen("nodes", config.node_listen).await?;
        let api_listener = listen("the API", config.api_listen).await?;
        let node_address = local_address(&node_listener, config.node_listen);
        let api_address = local_address(&api_listener, config.api_listen);
        let (authority, tokens) = (Arc::new(authority), Arc::new(tokens));

        let access = Access::open(objects.clone(), store.clone()).await?;
        let folder = dir.join("audit");
        let audit = Audit::open(&folder).map_err(|source| StartError::Home { path: folder, source })?;
        let history = History::new(store.clone());
        let api_authority = Arc::new(api_authority);

        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::default());
        let publication = Publication::new();
        let enrolment = Enrolment::new(store.clone(), authority.root_fingerprint());
        enrolment.revocations().load().await.map_err(ObjectError::from)?;
        let statuses = StatusWriter::new(objects.clone(), publication.clone(), metrics.clone());
        let slices = SliceWriter::new(objects.clone());
        let events = Events::new(objects.clone());
        let known_flows = KnownFlows::open(objects.clone()).await?;
        let flows = Flows::start(
            RunBook::new(store.clone(), seal, config.run_bounds),
            known_flows.clone(),
            objects.clone(),
            access.clone(),
            config.leases.flow_lease,
        )
        .await?;
        let fleet = Fleet::start(
            objects.clone(),
            store,
            (enrolment.clone(), known_flows.clone()),
            (events.clone(), audit.clone()),
            metrics.clone(),
            config.leases,
            stop.clone(),
        )
        .await?;
        let (key_sets, reader) = KeySets::new(dir.join("key-sets.json"));
        // Everything is compiled before the first node is let in: it would be told that nothing exists.
        let controller = Controller::start(
            objects.clone(),
            (domain.clone(), session_key),
            publication.clone(),
            Writers { statuses: statuses.clone(), slices: slices.clone(), events: events.clone() },
            metrics.clone(),
            fleet.clone(),
            (key_sets.clone(), enrolment.revocations().clone()),
        )
        .await?;
        let certificate = ServerCertificate::new(&authority, now)?;
        let tls = tls::tls(&authority, certificate.clone())?;

        let views = Views {
            objects: objects.clone(),
            fleet: fleet.clone(),
            enrolment: enrolment.clone(),
            publication: publication.clone(),
            flows: flows.clone(),
            authority: authority.clone(),
            metrics: metrics.clone(),
            access: access.clone(),
            audit: audit.clone(),
            history,
            api_authority: api_authority.clone(),
        };
        let authorities = (authority.clone(), tokens.clone());
        let node_api = NodeApi::new(
            authorities,
            enrolment.clone(),
            fleet.clone(),
            (key_sets, publication.clone(), flows.clone()),
            metrics.clone(),
            audit.clone(),
            stop.clone(),
        );
        let incoming = listener::accept(node_listener, tls, metrics.clone(), stop.clone());
        let discovery = Discovery {
            enrolment: enrolment.clone(),
            publication,
            metrics,
            audit: audit.clone(),
            stop: stop.clone(),
        };
        let flow_api = FlowApi {
            flows: flows.clone(),
            enrolment: enrolment.clone(),
            audit,
            ports: [api_address.port(), node_address.port()].into(),
            stop: stop.clone(),
        };

        let mut tasks = JoinSet::new();
        tasks.spawn(access.clone().follow(stop.clone()));
        tasks.spawn(controller.run(stop.clone()));
        tasks.spawn(reader.run(stop.clone()));
        tasks.spawn(statuses.run(stop.clone()));
        tasks.spawn(slices.run(stop.clone()));
        tasks.spawn(events.clone().run(stop.clone()));
        tasks.spawn(fleet.keep_node_objects());
        tasks.spawn(known_flows.follow(stop.clone()));
        tasks.spawn(flows.clone().run(stop.clone()));
        tasks.spawn(flows.keep_house(stop.clone()));
        let grpc_stop = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = crate::grpc::serve(incoming, node_api, discovery, flow_api, grpc_stop).await {
                tracing::error!(%error, "serving nodes ended");
            }
        });
        let api_tls = api_authority.tls()?;
        let api = Api::new(objects.clone(), views.clone());
        tasks.spawn(api.serve(api_listener, Arc::new(api_tls), stop.clone()));

        let kubeconfig = config.home.join("kubeconfig");
        let written =
            api_authority.write_kubeconfig(&kubeconfig, api_address, CLUSTER, config.namespace.as_deref());
        if let Err(error) = &written {
            // With the disk full, nodes need the server all the same, and it is tried again.
            tracing::error!(%error, "the kubeconfig is not the server's present one");
        }
        let upkeep = Upkeep {
            objects: objects.clone(),
            events,
            whole,
            authority,
            tokens,
            certificate,
            enrolment,
            access,
            api_authority,
            api_address,
            kubeconfig: kubeconfig.clone(),
            namespace: config.namespace,
            kubeconfig_due: written.is_err(),
        };
        tasks.spawn(upkeep.run(stop.clone()));
        tracing::info!(api = %api_address, nodes = %node_address, trust_domain = %domain, "the server runs");
        Ok(Self { api_address, node_address, kubeconfig, objects, views, stop, tasks })
    }

    /// A token for a node that the caller starts itself: it may bear the name of a node that joined
    /// before. Good for ten minutes. One that may have all identities runs all Flows.
    pub async fn local_join_token(&self, identities: Vec<String>) -> Result<JoinToken, EnrolmentError> {
        let ttl = Duration::from_secs(600);
        let flows = identities.iter().filter(|identity| *identity == "*").cloned().collect();
        let request = TokenRequest { identities, flows, ttl, node: None, replace: true };
        self.views.enrolment.create_token(request, SystemTime::now()).await
    }

    /// What the API shows beside resources.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Stops: no new calls, streams end, then what is under way has a few seconds.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, finished).await.is_err() {
            tracing::warn!("some connections did not end in time; they are cut");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a server keeps.
struct OpenedState {
    store: Store,
    authority: MeshAuthority,
    tokens: JwtAuthority,
    api_authority: ApiAuthority,
    session_key: SessionKey,
    seal: Seal,
}

/// Opens the store and the authorities, which must be of one mesh, or makes those of a new one: the
/// authority first, as the store says whose it is.
async fn open_state(
    state: &State,
    dir: &Path,
    config: &ServerConfig,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<OpenedState, StartError> {
    let path = dir.join(founding::STORE);
    // Opening blocks: a predecessor that is about to end is waited for.
    let open = async |path: PathBuf, owner: Option<Vec<u8>>| {
        let opening = tokio::task::spawn_blocking(move || match owner {
            Some(owner) => Store::create(&path, founding::OWNER, &owner),
            None => Store::open(&path),
        });
        let failed = |cause: String| OpenError::Failed { path: founding::STORE.to_owned(), cause };
        opening.await.map_err(|e| failed(e.to_string()))?
    };
    let (store, authority) = match state.is_new() {
        true => {
            let authority = open_authority(dir, config, domain, true, now)?;
            (open(path, Some(Owner::of(&authority).encode())).await?, authority)
        }
        false => {
            let store = open(path, None).await?;
            state.check_domain(&store, domain).await?;
            (store, open_authority(dir, config, domain, false, now)?)
        }
    };
    state.check_owner(&store, &authority).await?;
    let master = MasterKey::open(&dir.join(founding::MASTER_KEY))?;
    let session_key = session_key(&dir.join("ca"), &master);
    let seal = Seal::new(master.secret());
    let tokens = JwtAuthority::open(&dir.join("ca"), master, domain, now)?;
    let master = MasterKey::open(&dir.join(founding::MASTER_KEY))?;
    let api_authority = ApiAuthority::open(&dir.join("api"), master, &api_names(config), now)?;
    Ok(OpenedState { store, authority, tokens, api_authority, session_key, seal })
}

fn open_authority(
    dir: &Path,
    config: &ServerConfig,
    domain: &TrustDomain,
    new: bool,
    now: SystemTime,
) -> Result<MeshAuthority, CaError> {
    let path = dir.join(founding::MASTER_KEY);
    let master = if new { MasterKey::open_or_make(&path)? } else { MasterKey::open(&path)? };
    MeshAuthority::open(&dir.join("ca"), master, domain, config.authority.as_ref(), new, now)
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { what, address, source })
}

fn local_address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// Whether the store has what every mesh has: the namespace `default`, the Mesh and the default roles. Makes what is missing, where there is room.
async fn is_whole(objects: &Objects) -> Result<bool, ObjectError> {
    let namespace = objects.ensure_default_namespace().await?;
    Ok(namespace & objects.ensure_mesh().await? & Access::ensure_defaults(objects).await?)
}

fn api_names(config: &ServerConfig) -> Vec<String> {
    let mut names: Vec<String> =
        ["localhost", "127.0.0.1", "::1", "kubernetes.default.svc"].map(str::to_owned).into();
    let address = config.api_listen.ip();
    if !address.is_unspecified() {
        names.push(address.to_string());
    }
    names.extend(config.api_names.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// Finds out that the wall clock was set, or the host suspended: it went on by another time than a clock
/// that nobody sets.
struct ClockWatch(Instant, SystemTime);

impl ClockWatch {
    fn new(steady: Instant, wall: SystemTime) -> Self {
        Self(steady, wall)
    }

    /// By how many milliseconds the wall clock has been set since the last look (negative: back), where
    /// that is notable.
    fn look(&mut self, steady: Instant, wall: SystemTime) -> Option<i64> {
        let before = std::mem::replace(self, Self(steady, wall));
        let passed = i64::try_from(steady.duration_since(before.0).as_millis()).unwrap_or(i64::MAX);
        let jump = millis(wall).saturating_sub(millis(before.1)).saturating_sub(passed);
        tulle_model::clock::is_notable(jump, 0).then_some(jump)
    }
}

/// Renews certificates that are due, and forgets expired tokens.
struct Upkeep {
    objects: Objects,
    events: Arc<Events>,
    /// Whether the store has what every mesh has.
    whole: bool,
    authority: Arc<MeshAuthority>,
    tokens: Arc<JwtAuthority>,
    certificate: Arc<ServerCertificate>,
    enrolment: Enrolment,
    access: Access,
    api_authority: Arc<ApiAuthority>,
    api_address: SocketAddr,
    kubeconfig: PathBuf,
    namespace: Option<String>,
    /// Writing the kubeconfig has failed.
    kubeconfig_due: bool,
}

impl Upkeep {
    async fn run(mut self, stop: CancellationToken) {
        let mut watch = ClockWatch::new(Instant::now(), SystemTime::now());
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CLOCK_LOOK) => {}
            }
            // The start had no room for it.
            if !self.whole && self.objects.trouble().is_none() {
                match is_whole(&self.objects).await {
                    Ok(whole) => self.whole = whole,
                    Err(error) => tracing::warn!(%error, "what every mesh has cannot be made"),
                }
            }
            let now = SystemTime::now();
            let jump = watch.look(Instant::now(), now);
            if let Some(jump) = jump {
                tracing::warn!(
                    "this host's clock was set, or the host was suspended: it is {} what it was; certificates \
                     are looked at anew, and nodes are told the time",
                    tulle_model::clock::describe(jump)
                );
            }
            if jump.is_none() && looked.elapsed() < UPKEEP {
                continue;
            }
            looked = Instant::now();
            if let Err(error) = self.renew(now) {
                tracing::error!(%error, "cannot renew the server's certificates");
                let about = (KindId::Mesh.kind(), "", MESH);
                let message = format!("cannot renew the server's certificates: {error}");
                self.events.record(Severity::Warning, about, "CertificateNotRenewed", &message);
            }
            self.enrolment.revocations().sweep(now).await;
            if let Err(error) = self.enrolment.sweep(now).await {
                tracing::warn!(%error, "cannot delete expired join tokens");
            }
            if let Err(error) = self.access.sweep_tokens(now).await {
                tracing::warn!(%error, "cannot delete expired tokens of users");
            }
        }
    }

    fn renew(&mut self, now: SystemTime) -> Result<(), CaError> {
        self.authority.renew_if_due(now)?;
        self.tokens.renew_if_due(now)?;
        self.certificate.renew_if_due(&self.authority, now)?;
        self.kubeconfig_due |= self.api_authority.renew_if_due(now)?;
        if self.kubeconfig_due {
            let namespace = self.namespace.as_deref();
            self.api_authority.write_kubeconfig(&self.kubeconfig, self.api_address, CLUSTER, namespace)?;
            self.kubeconfig_due = false;
            tracing::info!(kubeconfig = %self.kubeconfig.display(), "wrote the administrator's kubeconfig");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_noticed_and_one_that_goes_is_not() {
        let (steady, wall) = (Instant::now(), SystemTime::now());
        let second = Duration::from_secs(1);
        let mut watch = ClockWatch::new(steady, wall);
        assert_eq!(watch.look(steady + 5 * second, wall + 5 * second), None);
        assert_eq!(watch.look(steady + 10 * second, wall + 3610 * second), Some(3_600_000));
        assert_eq!(watch.look(steady + 15 * second, wall + 3615 * second), None, "it is told once");
        assert_eq!(watch.look(steady + 20 * second, wall + 20 * second), Some(-3_600_000));
    }
}
