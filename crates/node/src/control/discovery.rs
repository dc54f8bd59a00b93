//! The client of delta discovery: keeps a stream to the server, and publishes what comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tulle_model::apart;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{Known, ServiceConfig, Snapshot};
use tulle_proxy::state::{Demand, StateCell};
use tulle_wire::type_url;
use tulle_wire::xds::{DeltaDiscoveryRequest, Node};

use super::assemble::{Assembler, Demanded};
use super::{CALL_DEADLINE, Server, channel, stream_backoff};
use crate::files;
use crate::keeper::KeptFile;
use crate::node_state::StatePublisher;

/// How many messages may wait for the server to take them.
const OUTBOX: usize = 256;

/// How long changes are gathered before the snapshot is written to disk.
const SAVE_DELAY: Duration = Duration::from_secs(1);

/// What is known of the configuration's age.
#[derive(Debug, Clone, Copy)]
pub struct ConfigAge {
    pub generation: u64,
    /// When the server was last known to have nothing newer; `None`: now.
    pub confirmed: Option<Instant>,
}

impl ConfigAge {
    pub fn age(&self) -> Duration {
        self.confirmed.map_or(Duration::ZERO, |at| at.elapsed())
    }
}

/// The running client.
pub struct Discovery {
    server: Server,
    node: String,
    file: KeptFile,
    assembler: Assembler,
    state: Arc<StatePublisher>,
    /// Of `state`: which workloads the node has may have changed.
    changes: watch::Receiver<u64>,
    demands: mpsc::Receiver<ServiceName>,
    /// The last demand found no room.
    full: bool,
    age: watch::Sender<ConfigAge>,
    /// When what has changed is to be written.
    save_at: Option<tokio::time::Instant>,
    saving: Option<tokio::task::JoinHandle<()>>,
    /// Whoever asks hears when what is known now is written; nothing is from then on.
    remember: mpsc::Receiver<oneshot::Sender<()>>,
    is_final: bool,
}

impl Discovery {
    /// Publishes what `file` holds, before anything else does.
    pub fn restore(
        server: Server,
        node: &str,
        file: KeptFile,
        state: Arc<StatePublisher>,
        demands: mpsc::Receiver<ServiceName>,
        remember: mpsc::Receiver<oneshot::Sender<()>>,
    ) -> (Self, watch::Receiver<ConfigAge>) {
        let saved = files::read_if_there(&file.path).unwrap_or_else(|e| {
            tracing::warn!("the node starts without its last configuration: {e}");
            None
        });
        let assembler = match saved.map(|bytes| Assembler::restore(&bytes)) {
            Some(Ok(assembler)) => assembler,
            Some(Err(e)) => {
                tracing::warn!(
                    "the node starts without its last configuration: {}: {e}",
                    file.path.display()
                );
                Assembler::default()
            }
            None => Assembler::default(),
        };
        let (age, receiver) = watch::channel(ConfigAge { generation: 0, confirmed: Some(Instant::now()) });
        let mut discovery = Self {
            server,
            node: node.to_owned(),
            file,
            assembler,
            changes: state.cell().subscribe(),
            state,
            demands,
            full: false,
            age,
            save_at: None,
            saving: None,
            remember,
            is_final: false,
        };
        // Before the first word of a server, too.
        let nothing = Snapshot { closed_until_told: true, mesh_untold: true, ..Snapshot::default() };
        discovery.state.update(|state| state.snapshot = Arc::new(nothing));
        discovery.publish();
        discovery.save_at = None;
        (discovery, receiver)
    }

    /// Keeps a stream to the server for ever.
    pub async fn run(mut self) {
        let mut backoff = stream_backoff();
        let mut told = false;
        loop {
            let started = Instant::now();
            let result = self.stream().await;
            let was_connected = *self.server.connected().borrow();
            self.server.set_connected(false);
            self.age.send_modify(|age| {
                age.confirmed.get_or_insert_with(Instant::now);
            });
            if started.elapsed() > Duration::from_secs(10) {
                backoff.reset();
            }
            if let Err(why) = result {
                // Once for each outage.
                if was_connected || !told {
                    tracing::warn!(
                        "no configuration from the server for now, what is known stays in force: {why}"
                    );
                } else {
                    tracing::debug!("still no configuration from the server: {why}");
                }
                told = true;
            }
            // What is asked for meanwhile is asked for with the next stream.
            let mut wait = std::pin::pin!(backoff.wait());
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    Some(name) = self.demands.recv() => { self.demand(&name); }
                    _ = self.changes.changed() => self.follow_workloads(),
                    Some(done) = self.remember.recv() => self.remember(done).await,
                    () = save_timer(self.save_at) => self.save().await,
                }
            }
        }
    }

    /// One stream, until it breaks (an error) or the node has a new certificate.
    async fn stream(&mut self) -> Result<(), String> {
        let mut certificates = self.server.certificate_changes();
        certificates.mark_unchanged();
        let (sender, receiver) = mpsc::channel(OUTBOX);
        self.assembler.connected();
        self.send(&sender).await?;
        let mut client = self.server.discovery();
        let call = client.delta_aggregated_resources(ReceiverStream::new(receiver));
        let response = timeout(CALL_DEADLINE, call).await.map_err(|_| "it gives no answer".to_owned())?;
        let response = response.map_err(|status| channel::explain_status(&status))?;
        let known = response.metadata().get(type_url::KNOWN).and_then(|known| known.to_str().ok());
        self.assembler.told_of(known.unwrap_or_default());
        self.send(&sender).await?;
        let mut stream = response.into_inner();
        self.server.set_connected(true);
        tracing::info!("the server sends this node's configuration");
        self.age.send_modify(|age| age.confirmed = None);
        loop {
            tokio::select! {
                message = stream.message() => {
                    match message.map_err(|status| channel::explain_status(&status))? {
                        Some(response) => self.assembler.receive(response),
                        None => return Err("it has ended the stream".to_owned()),
                    }
                    self.publish();
                }
                Some(name) = self.demands.recv() => self.demand(&name),
                _ = self.changes.changed() => self.follow_workloads(),
                _ = certificates.changed() => return Ok(()),
                Some(done) = self.remember.recv() => self.remember(done).await,
                () = save_timer(self.save_at) => self.save().await,
            }
            self.send(&sender).await?;
        }
    }

    fn demand(&mut self, name: &ServiceName) {
        match self.assembler.demand(name) {
            Demanded::Already => {}
            Demanded::New => self.full = false,
            // Told once, not for each of the names that somebody may be trying out.
            Demanded::Refused if self.full => {}
            Demanded::Refused => {
                self.full = true;
                tracing::warn!("{name} is not asked for: this node uses too many services already");
            }
        }
        // One may have been forgotten for it.
        self.publish();
    }

    /// The server is asked for what applies to the workloads that the node has.
    fn follow_workloads(&mut self) {
        let state = self.state.cell().load();
        self.assembler.run(state.workloads.keys());
        drop(state);
        self.publish();
    }

    fn publish(&mut self) {
        if let Some(snapshot) = self.assembler.take_snapshot() {
            let due = tokio::time::Instant::now() + SAVE_DELAY;
            self.save_at.get_or_insert(due);
            let generation = snapshot.generation;
            self.state.update(|state| state.snapshot = snapshot);
            self.age.send_modify(|age| age.generation = generation);
        }
    }

    async fn send(&mut self, sender: &mpsc::Sender<DeltaDiscoveryRequest>) -> Result<(), String> {
        for mut request in self.assembler.take_requests() {
            request.node = Some(Node { id: self.node.clone(), cluster: String::new() });
            let sent = sender.send_timeout(request, CALL_DEADLINE).await;
            sent.map_err(|_| "it takes no messages".to_owned())?;
        }
        Ok(())
    }

    async fn remember(&mut self, done: oneshot::Sender<()>) {
        // Who asked has gone on, and what it was about may be gone.
        if done.is_closed() {
            return;
        }
        self.save().await;
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
        self.is_final = true;
        let _ = done.send(());
    }

    /// Writes the snapshot in the background; never two writers at once.
    async fn save(&mut self) {
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
        self.save_at = None;
        if self.is_final {
            return;
        }
        let content = self.assembler.save();
        let file = self.file.clone();
        self.saving = Some(spawn_blocking(move || file.keep(content)));
    }
}

async fn save_timer(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Answers whether a service exists, asking the server where nobody asked before.
#[derive(Clone)]
pub struct Directory {
    state: Arc<StateCell>,
    demand: Demand,
    connected: watch::Receiver<bool>,
}

/// What is known of a service.
#[derive(Debug, Clone)]
pub enum Found {
    Present(Arc<ServiceConfig>),
    Absent,
    /// The server gives no answer.
    Unknown,
}

impl Directory {
    pub fn new(state: Arc<StateCell>, demand: Demand, connected: watch::Receiver<bool>) -> Self {
        Self { state, demand, connected }
    }

    /// Whether the server answers, as far as is known.
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// What is known of a service, after at most `wait` where it has to be asked for.
    pub async fn find(&self, name: &ServiceName, wait: Duration) -> Found {
        let mut changes = self.state.subscribe();
        changes.mark_unchanged();
        if let Some(found) = self.look(name) {
            return found;
        }
        if self.demand.try_send(name.clone()).is_err() {
            return Found::Unknown;
        }
        let answer = async {
            loop {
                if changes.changed().await.is_err() {
                    return Found::Unknown;
                }
                if let Some(found) = self.look(name) {
                    return found;
                }
            }
        };
        timeout(wait, answer).await.unwrap_or(Found::Unknown)
    }

    /// Whether a service of that namespace is known.
    pub fn knows_namespace(&self, namespace: &str) -> bool {
        let state = self.state.load();
        let mut services = state.snapshot.services.iter();
        services.any(|(name, known)| &*name.namespace == namespace && matches!(known, Known::Present(_)))
    }

    /// The endpoints of a headless service, each as a service by itself.
    pub fn endpoints_apart(&self, config: &ServiceConfig) -> Vec<Arc<ServiceConfig>> {
        let state = self.state.load();
        let Some(set) = state.snapshot.endpoints.get(&config.name) else { return Vec::new() };
        let found = apart::services(config, set).into_iter().filter_map(|(config, _)| {
            match state.snapshot.services.get(&config.name)? {
                Known::Present(config) => Some(config.clone()),
                Known::Absent => None,
            }
        });
        found.collect()
    }

    /// Waits until an endpoint of a service is known; `false` where there is none within `wait`.
    pub async fn has_endpoints(&self, name: &ServiceName, wait: Duration) -> bool {
        let mut changes = self.state.subscribe();
        let known =
            || self.state.load().snapshot.endpoints.get(name).is_some_and(|e| !e.endpoints.is_empty());
        let arrival = async {
            // Asks for it, where nobody has yet.
            self.find(name, wait).await;
            loop {
                changes.mark_unchanged();
                if known() || changes.changed().await.is_err() {
                    return known();
                }
            }
        };
        timeout(wait, arrival).await.unwrap_or(false)
    }

    /// What is known of a service without asking for it.
    pub fn look(&self, name: &ServiceName) -> Option<Found> {
        match self.state.load().snapshot.services.get(name)? {
            Known::Present(config) => Some(Found::Present(config.clone())),
            Known::Absent => Some(Found::Absent),
        }
    }
}
