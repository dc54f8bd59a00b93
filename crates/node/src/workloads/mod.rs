//! The workloads of this node: what each needs to be part of the mesh (identity, capture, names,
//! listeners), whether it can take traffic, and how it leaves without a failed request.

mod caller;
mod entering;
mod entry;
mod environment;
mod in_process;
pub(crate) mod orphans;
mod process;
mod published;
pub(crate) mod record;
mod spec;
mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tulle_model::legible::legible;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_proxy::{Capture as ProxyCapture, Proxy, Purpose, Sockets};
use tulle_sys::family::Member;
use tulle_wire::node as wire;

pub(crate) use self::caller::Entitled;
use self::entry::Entry;
pub(crate) use self::entry::WAITS_FOR_CERTIFICATE;
pub(crate) use self::environment::marked;
pub use self::environment::{MARK, WORKLOAD_API, fill};
use self::orphans::Orphan;
pub use self::process::WorkloadProcess;
use self::record::{Record, Records};
use self::spec::loopback;
pub use self::spec::{
    Before, Port, Running, SelectingService, UpstreamService, WorkloadSpec, WorkloadStatus,
};
pub use self::stop::Left;
use crate::capture::{Capture, CaptureMode, Slot};
use crate::control::discovery::{Directory, Found};
use crate::control::identities::Identities;
use crate::control::report::{Reported, Verdict};
use crate::dns::{Addresses, DnsListener, Resolver};
use crate::gates;
use crate::node_state::StatePublisher;
use crate::process_state::ProcessState;

/// How long the ports of an upstream service may take to be found out.
const UPSTREAM_DEADLINE: Duration = Duration::from_secs(2);

/// What a registry works with.
pub struct Parts {
    /// Tells this node from others on the host.
    pub scope: String,
    /// `$TULLE_HOME/node`.
    pub folder: PathBuf,
    pub state: Arc<StatePublisher>,
    pub proxy: Arc<Proxy>,
    pub capture: Capture,
    pub mode: CaptureMode,
    pub identities: Arc<Identities>,
    pub resolver: Arc<Resolver>,
    pub directory: Directory,
    pub addresses: Arc<Addresses>,
    /// Where the Workload API is.
    pub workload_api: Option<PathBuf>,
}

/// All workloads of this node.
pub struct Workloads {
    scope: String,
    records: Records,
    state: Arc<StatePublisher>,
    proxy: Arc<Proxy>,
    /// Gone once the node stops.
    capture: Mutex<Option<Arc<Capture>>>,
    mode: CaptureMode,
    identities: Arc<Identities>,
    resolver: Arc<Resolver>,
    directory: Directory,
    addresses: Arc<Addresses>,
    workload_api: Option<PathBuf>,
    entries: Mutex<BTreeMap<WorkloadName, Arc<Entry>>>,
    /// Names of workloads that are being added or removed.
    busy: Mutex<BTreeSet<WorkloadName>>,
    /// Of an earlier process of this node, as long as nobody has come back for them.
    orphans: Mutex<BTreeMap<WorkloadName, Orphan>>,
    /// Whether all of them have been found.
    orphans_known: watch::Sender<bool>,
    /// Whether workloads are taken no more.
    drained: AtomicBool,
    reports: watch::Sender<Reported>,
    verdicts: watch::Sender<Verdict>,
    /// Those that will be added, and what they wait for.
    waiting: Mutex<BTreeMap<WorkloadName, String>>,
    warnings: Mutex<Vec<String>>,
    notes: Mutex<Vec<String>>,
}

impl Workloads {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { scope, folder, state, proxy, capture, mode, identities, resolver, directory, .. } = parts;
        let (addresses, workload_api) = (parts.addresses, parts.workload_api);
        let records = Records::new(&folder);
        Arc::new(Self {
            orphans: Mutex::new(orphans::captured(&scope, &capture, &records)),
            orphans_known: watch::Sender::new(false),
            scope,
            records,
            state,
            proxy,
            capture: Mutex::new(Some(Arc::new(capture))),
            mode,
            identities,
            resolver,
            directory,
            addresses,
            workload_api,
            entries: Mutex::default(),
            busy: Mutex::default(),
            drained: AtomicBool::new(false),
            reports: watch::Sender::default(),
            verdicts: watch::Sender::default(),
            waiting: Mutex::default(),
            warnings: Mutex::default(),
            notes: Mutex::default(),
        })
    }

    /// What tells this node from others on the host.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// What the server is to know of the workloads.
    pub fn reports(&self) -> watch::Receiver<Reported> {
        self.reports.subscribe()
    }

    /// Where what the server makes of them is to be told.
    pub(crate) fn verdicts(&self) -> watch::Sender<Verdict> {
        self.verdicts.clone()
    }

    /// Why the server does not take a workload. `None` where it does, or has not said so within `wait`.
    pub async fn refusal(&self, name: &WorkloadName, wait: Duration) -> Option<String> {
        let version = self.reports.borrow().version;
        let mut verdicts = self.verdicts.subscribe();
        let said = verdicts.wait_for(|verdict| verdict.version >= version || verdict.node_refused.is_some());
        tokio::time::timeout(wait, said).await.ok()?.ok()?.refusal(name).cloned()
    }

    /// Makes a workload part of the mesh, before its process is started. It takes traffic once its
    /// process runs ([`Workloads::process`]) and its probe is content.
    ///
    /// # Errors
    /// Where the description makes no sense, the name is taken, or the system refuses.
    pub async fn add(self: &Arc<Self>, spec: WorkloadSpec) -> anyhow::Result<Running> {
        self.add_with(spec, None, Owner::Us).await
    }

    /// As [`Workloads::add`], for a process that somebody else starts and ends.
    ///
    /// # Errors
    /// As for [`Workloads::add`].
    pub async fn add_for(
        self: &Arc<Self>,
        owner: Option<Member>,
        spec: WorkloadSpec,
    ) -> anyhow::Result<Running> {
        self.add_with(spec, None, Owner::Other(owner)).await
    }

    /// Adds a workload again whose process was started under an earlier process of this node, with what that has told
    /// it.
    ///
    /// # Errors
    /// As for [`Workloads::add`], where one of the addresses is taken, and where this node captures otherwise.
    pub async fn add_again(
        self: &Arc<Self>,
        owner: Option<Member>,
        spec: WorkloadSpec,
        before: Before,
    ) -> anyhow::Result<Running> {
        let Before { listeners, cgroup, capture } = before;
        let same = match capture {
            Some(mode) => mode == self.mode,
            None => cgroup.is_some() == (self.mode == CaptureMode::Host),
        };
        ensure!(
            same,
            "its process was started when the node captured otherwise than now ({}): start it again",
            self.mode.as_str()
        );
        self.add_with(spec, Some(listeners), Owner::Other(owner)).await
    }

    async fn add_with(
        self: &Arc<Self>,
        spec: WorkloadSpec,
        known: Option<Vec<SocketAddr>>,
        owner: Owner,
    ) -> anyhow::Result<Running> {
        spec.check()?;
        ensure!(
            !spec.attached || self.mode == CaptureMode::Namespace,
            "without a command there is nothing to capture: the node has {} capture, and only one with namespace capture \
             takes what runs already (`tulle node --capture namespace`)",
            self.mode.as_str()
        );
        let run_as = spec.run_as()?;
        let name = WorkloadName::new(spec.namespace.as_str(), spec.name.as_str());
        let _busy = self.reserve(&name)?;
        let again = known.is_some();
        self.check_orphan(&name, again).await?;
        self.check_room(&name)?;
        let capture = self.capture.lock().clone().context("the node is stopping")?;
        let (id, identity) = self.identities.get(&spec.namespace, &spec.service_account)?;
        let mut setup = Setup { workloads: self, name: &name, known, listeners: Vec::new(), dns: None };
        match setup.run(&spec, &capture).await {
            Ok((slot, environment)) => {
                let Setup { listeners, dns, .. } = setup;
                let running = Running {
                    namespace: spec.namespace.clone(),
                    name: spec.name.clone(),
                    cgroup: slot.cgroup,
                    name_service: slot.name_service,
                    environment,
                    listeners: listeners.clone(),
                    capture: Some(self.mode),
                };
                if let Owner::Other(owner) = owner {
                    self.keep_record(&name, Record::new(owner, Duration::from_millis(spec.stop_timeout_ms)))
                        .await;
                }
                self.enter(name.clone(), spec, id, identity, &running, (run_as, owner), listeners, dns);
                if again {
                    self.adopt(&name);
                }
                Ok(running)
            }
            Err(e) => {
                for address in setup.listeners {
                    self.proxy.close(address).await;
                }
                // What it has of processes goes on, cut off as before.
                if !again {
                    self.uncapture(&name).await;
                }
                Err(e.context(format!("the workload {name} cannot be added")))
            }
        }
    }

    /// Where is said what becomes of the workload's process. `None` where there is no such workload.
    pub fn process(&self, name: &WorkloadName) -> Option<watch::Sender<ProcessState>> {
        self.entries.lock().get(name).map(|entry| entry.process.clone())
    }

    /// Waits until requests to a service can be sent somewhere; `false` where they cannot within `wait`.
    pub async fn can_route_to(&self, service: &ServiceName, wait: Duration) -> bool {
        let has_endpoints = self.directory.has_endpoints(service, wait).await;
        if has_endpoints {
            self.addresses.rules_lead_to(service).await;
        }
        has_endpoints
    }

    /// All workloads, in the order of their names.
    pub fn list(&self) -> Vec<WorkloadStatus> {
        let entries: Vec<_> = self.entries.lock().values().cloned().collect();
        self.statuses(&entries)
    }

    /// One of them.
    pub fn status(&self, name: &WorkloadName) -> Option<WorkloadStatus> {
        let entry = self.entries.lock().get(name).cloned()?;
        self.statuses(&[entry]).pop()
    }

    fn statuses(&self, entries: &[Arc<Entry>]) -> Vec<WorkloadStatus> {
        let verdict = self.verdicts.borrow().clone();
        let capture = self.capture.lock().clone();
        let status = |entry: &Arc<Entry>| {
            let report = entry.report();
            let (mut ready, why) = entry.readiness();
            let mut reason = why.full();
            if let Some(why) = verdict.refusal(&entry.name) {
                (ready, reason) = (false, format!("the server refuses it: {why}"));
            } else if let Some(why) = capture.as_ref().and_then(|capture| capture.trouble(&entry.name)) {
                (ready, reason) = (false, why);
            }
            let process = entry.process.borrow().clone();
            WorkloadStatus {
                namespace: report.namespace,
                name: report.name,
                service: entry.spec.service.clone(),
                identity: entry.id.to_string(),
                ready,
                // What a probe's command says is the application's.
                reason: legible(&reason).into_owned(),
                restarts: process.restarts,
                last_exit: process.last_exit,
                next_start_ms: process.next_start,
                in_flight: self.proxy.in_flight(&entry.name),
                services: entry.selecting(),
                owned: entry.is_owned(),
                certificate_not_after: (report.certificate_not_after != 0)
                    .then_some(report.certificate_not_after),
            }
        };
        entries.iter().map(status).collect()
    }

    /// Tells who asks for the node's status of workloads that will be added, and what they wait for, in place of what
    /// was told before.
    pub fn announce(&self, waiting: BTreeMap<WorkloadName, String>) {
        *self.waiting.lock() = waiting;
    }

    /// Tells who asks for the node's status what there is to warn of.
    pub fn warn(&self, warnings: Vec<String>) {
        *self.warnings.lock() = warnings;
    }

    /// Tells who asks for the node's status what is good to know, and no trouble.
    pub fn note(&self, notes: Vec<String>) {
        *self.notes.lock() = notes;
    }

    /// What is good to know.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().clone()
    }

    /// What there is to warn of.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    /// What was announced.
    pub fn announced(&self) -> BTreeMap<WorkloadName, String> {
        self.waiting.lock().clone()
    }

    /// Publishes a workload, unless it is gone, even if another one has its name by now.
    fn publish(&self, entry: &Arc<Entry>) {
        let entries = self.entries.lock();
        if !entries.get(&entry.name).is_some_and(|known| Arc::ptr_eq(known, entry)) {
            return;
        }
        let local = Arc::new(entry.local());
        self.state.update(|state| {
            state.workloads.insert(entry.name.clone(), local);
        });
    }

    fn report(&self) {
        // Under the lock, so that an older report never replaces a newer one.
        let entries = self.entries.lock();
        let workloads = wire::Workloads { workloads: entries.values().map(|e| e.report()).collect() };
        self.reports.send_if_modified(|now| {
            now.workloads != workloads && {
                *now = Reported { version: now.version + 1, workloads };
                true
            }
        });
    }

    async fn keep_record(&self, name: &WorkloadName, record: Record) {
        let (records, workload) = (self.records.clone(), name.clone());
        if self.records.load(name) == Some(record) {
            return;
        }
        if let Ok(Err(e)) = spawn_blocking(move || records.save(&workload, &record)).await {
            tracing::warn!("a restart of the node will not know who has started {name}: {e}");
        }
    }

    fn reserve(&self, name: &WorkloadName) -> anyhow::Result<Reservation<'_>> {
        if !self.busy.lock().insert(name.clone()) {
            bail!("the workload {name} is being added or removed right now");
        }
        Ok(Reservation { busy: &self.busy, name: name.clone() })
    }

    async fn uncapture(&self, name: &WorkloadName) {
        let Some(capture) = self.capture.lock().clone() else { return };
        let workload = name.clone();
        let removed = spawn_blocking(move || capture.remove(&workload)).await;
        if let Ok(Err(e)) = removed {
            tracing::warn!("the capture of {name} cannot be removed: {e}");
        }
    }
}

/// Who starts and ends a workload's processes.
#[derive(Clone, Copy)]
enum Owner {
    Us,
    /// The process, where the kernel says which.
    Other(Option<Member>),
}

/// Keeps two from adding or removing the same workload at once.
struct Reservation<'a> {
    busy: &'a Mutex<BTreeSet<WorkloadName>>,
    name: WorkloadName,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.name);
    }
}

/// Publishes every change of a workload's certificate and health, and that it is known who may enter it, until it is gone.
async fn follow(workloads: std::sync::Weak<Workloads>, entry: std::sync::Weak<Entry>) {
    let Some(strong) = entry.upgrade() else { return };
    let (mut certificate, mut health) = (strong.certificate.clone(), strong.health.clone());
    let mut told = strong.state.subscribe();
    drop(strong);
    // Not known of what has been reported.
    let mut closed = None;
    loop {
        let published = tokio::select! {
            changed = certificate.changed() => { if changed.is_err() { return; } true }
            changed = health.changed() => { if changed.is_err() { return; } false }
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
                // It changes with all that the node hears.
                let Some(entry) = entry.upgrade() else { return };
                if closed.as_ref() == Some(&entry.closed_because()) {
                    continue;
                }
                false
            }
        };
        let (Some(workloads), Some(entry)) = (workloads.upgrade(), entry.upgrade()) else { return };
        if published {
            workloads.publish(&entry);
        }
        closed = Some(entry.closed_because());
        workloads.report();
    }
}

/// What is built up for a workload, and taken down again where a step fails.
struct Setup<'a> {
    workloads: &'a Workloads,
    name: &'a WorkloadName,
    /// Where it listened for a process that goes on.
    known: Option<Vec<SocketAddr>>,
    listeners: Vec<SocketAddr>,
    dns: Option<DnsListener>,
}

impl Setup<'_> {
    async fn run(
        &mut self,
        spec: &WorkloadSpec,
        capture: &Arc<Capture>,
    ) -> anyhow::Result<(Slot, Vec<(String, String)>)> {
        match self.workloads.mode {
            CaptureMode::Host | CaptureMode::Namespace => self.captured(spec, capture).await,
            CaptureMode::Explicit => self.explicit(spec).await.map(|e| (Slot::default(), e)),
        }
    }

    async fn captured(
        &mut self,
        spec: &WorkloadSpec,
        capture: &Arc<Capture>,
    ) -> anyhow::Result<(Slot, Vec<(String, String)>)> {
        let outbound = self.listen_captured().await?;
        let resolver = self.workloads.resolver.clone();
        let dns =
            DnsListener::start(self.name.clone(), resolver).await.context("no port for DNS can be opened")?;
        dns.receive_captured().context("captured queries cannot be received")?;
        let dns_port = dns.port();
        self.dns = Some(dns);
        let (capture, name) = (capture.clone(), self.name.clone());
        let again = self.known.is_some();
        let slot = spawn_blocking(move || match again {
            true => capture.add_again(&name, outbound.port(), dns_port),
            false => capture.add(&name, outbound.port(), dns_port),
        })
        .await??;
        let upstreams = self.upstreams(spec).await;
        let services: Vec<_> = upstreams.iter().map(|(service, _)| service.clone()).collect();
        let addresses = self.workloads.addresses.of(&services).await?;
        let places = upstreams.into_iter().zip(addresses).map(|((service, ports), address)| {
            let ports = ports.into_iter().map(|port| (port, SocketAddr::new(address.into(), port)));
            (service, ports.collect())
        });
        let mut variables = environment::services(&spec.namespace, &places.collect::<Vec<_>>());
        variables.extend(self.own());
        Ok((slot, variables))
    }

    async fn explicit(&mut self, spec: &WorkloadSpec) -> anyhow::Result<Vec<(String, String)>> {
        let proxy = self.listen(ProxyCapture::HttpProxy).await?;
        let mut variables = environment::http_proxy(proxy);
        variables.extend(self.own());
        let mut places = Vec::new();
        for (service, ports) in self.upstreams(spec).await {
            let mut of_service = Vec::new();
            for port in ports {
                let capture = ProxyCapture::Service { service: service.clone(), port };
                of_service.push((port, self.listen(capture).await?));
            }
            places.push((service, of_service));
        }
        variables.extend(environment::services(&spec.namespace, &places));
        Ok(variables)
    }

    /// Whose it is, and where it hears of that.
    fn own(&self) -> impl Iterator<Item = (String, String)> {
        let mark = (MARK.to_owned(), environment::mark(&self.workloads.scope, self.name));
        [mark].into_iter().chain(self.workloads.workload_api.as_deref().map(environment::workload_api))
    }

    /// For what is redirected, over IPv4 and IPv6.
    async fn listen_captured(&mut self) -> anyhow::Result<SocketAddr> {
        let purpose = Purpose::Outbound { workload: self.name.clone(), capture: ProxyCapture::Redirected };
        let opened = gates::open(&self.workloads.proxy, &purpose).await;
        let addresses = opened.context("no port for its connections can be opened")?;
        self.listeners.extend(&addresses);
        addresses.first().copied().context("no port for its connections is open")
    }

    async fn listen(&mut self, capture: ProxyCapture) -> anyhow::Result<SocketAddr> {
        let known = self.known.as_ref().and_then(|known| known.get(self.listeners.len()));
        // A process that is captured knows no port of ours.
        let known = known.filter(|_| self.workloads.mode == CaptureMode::Explicit);
        let wanted = known.copied().unwrap_or(SocketAddr::new(loopback(), 0));
        let proxy = &self.workloads.proxy;
        let purpose = Purpose::Outbound { workload: self.name.clone(), capture };
        let sockets = Sockets::bind(purpose, wanted, proxy.workers());
        let failed = || format!("the port {wanted} for its connections cannot be opened");
        let address = proxy.listen(sockets.with_context(failed)?).await.with_context(failed)?;
        self.listeners.push(address);
        Ok(address)
    }

    async fn upstreams(&self, spec: &WorkloadSpec) -> Vec<(ServiceName, Vec<u16>)> {
        let of_one = async |upstream: &UpstreamService| {
            let mut ports = upstream.ports.clone();
            if ports.is_empty()
                && let Found::Present(config) =
                    self.workloads.directory.find(&upstream.service, UPSTREAM_DEADLINE).await
            {
                ports = config.ports.iter().map(|p| p.number).collect();
            }
            (upstream.service.clone(), ports)
        };
        futures_util::future::join_all(spec.upstreams.iter().map(of_one)).await
    }
}
