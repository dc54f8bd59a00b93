//! One process of a service: part of the mesh before it starts, out of it before it ends.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::registry::KindId;
use tulle_model::validate::offered_ports;
use tulle_node::probes::{self, Probe, Target, Timing};
use tulle_node::process_state::ProcessState;
use tulle_node::supervise::{Confined, Event, Process, Supervised, supervise};
use tulle_node::workloads::{Port, Running, UpstreamService, WorkloadSpec, Workloads, fill};
use tulle_sys::cgroup_limits::{Limits, NoLimits};
use tulle_sys::family::Member;
use tulle_sys::run_as::RunAs;

use super::config::{Check, Config, Service};
use super::control::Inside;
use super::limits;
use super::screen::Screen;
use super::service::WantedService;
use super::services::Shared;
use crate::exit::{Failure, Result};

/// Lines of one process that wait to be printed; then it waits itself, as with any pipe.
pub const LINES: usize = 4;

/// The longest that processes of an earlier `up` may take to end.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// The variable by which many servers are told at which address to listen (Nuxt, SvelteKit's adapter for Node, Create React App).
const HOST: &str = "HOST";

/// How many lines are kept of what a process said before it ended, and how many characters of each.
const LAST_LINES: usize = 12;
const LONGEST_LAST: usize = 200;

/// How long the last words of a process that was killed may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub struct Replica {
    pub workload: WorkloadName,
    workloads: Arc<Workloads>,
    stop_timeout: Duration,
    process: Option<Supervised>,
    /// Prints what it says, to its end.
    printing: Option<JoinHandle<()>>,
    /// Replaces a process that is not alive any more.
    watching: Option<AbortOnDropHandle<()>>,
    /// Where it runs, and whether that was made for its limits alone.
    cgroup: Option<(PathBuf, bool)>,
    /// Those that hold.
    limits: Limits,
}

/// What a replica is called: the first as the service, where that is described with one alone.
pub fn name(service: &Service, index: u32) -> String {
    let name = base_name(service);
    // A host may be called as the first of another one with a number.
    let is_numbered = service.is_numbered || service.host.is_some();
    if index == 0 && !is_numbered { name } else { format!("{name}-{index}") }
}

/// What the names of a service's processes begin with.
pub fn base_name(service: &Service) -> String {
    match &service.host {
        Some(host) => format!("{}-{host}", service.name),
        None => service.name.clone(),
    }
}

impl Replica {
    /// Makes the replica a workload of the node and starts its process.
    pub async fn start(wanted: &WantedService, index: u32, shared: &Arc<Shared>) -> Result<Self> {
        let WantedService { config, service, .. } = wanted;
        let workloads = &shared.workloads;
        let name = name(service, index);
        let failed = |why: String| Failure::new(format!("service {}: {why}", service.name));
        let ports = ports(service, index).map_err(|e| failed(format!("there is no free port: {e}")))?;
        let values = values(service, index, &ports)?;
        let directory = directory(config, service);
        let surroundings = Surroundings { values: &values, directory: &directory };
        let spec = spec(config, service, &name, &ports, surroundings);
        let mut running = workloads.add(spec).await.map_err(|e| failed(format!("{e:#}")))?;
        let workload = WorkloadName::new(running.namespace.as_str(), running.name.as_str());
        let is_captured = running.cgroup.is_some();
        match limits::confine(workloads.scope(), &workload, running.cgroup.take(), &service.limits) {
            Ok(cgroup) => running.cgroup = cgroup,
            Err(why) => {
                workloads.remove(&workload).await;
                return Err(failed(format!("limits: they cannot be kept to: {why}")));
            }
        }
        let Some(state) = workloads.process(&workload) else {
            return Err(failed("the node lost it while it was starting".to_owned()));
        };
        let process = process(service, &service.command, &running, is_captured, surroundings);
        let liveness = service.liveness.as_ref().map(|probe| {
            let target = running.target(Ipv4Addr::LOCALHOST.into(), service.run_as.clone());
            (self::probe(probe, service, &ports, surroundings), target)
        });
        let cgroup = process.confined.cgroup.clone().map(|path| (path, !is_captured));
        let inside = Inside {
            environment: process.environment.clone(),
            directory: process.directory.clone().unwrap_or_default(),
            cgroup: process.confined.cgroup.clone(),
            name_service: process.confined.name_service.clone(),
            user: service.user.clone(),
            group: service.group.clone(),
            ports,
        };
        shared.inside.lock().insert(name.clone(), inside);
        let (events, received) = mpsc::channel(LINES);
        let printing =
            Some(tokio::spawn(print(shared.clone(), service.name.clone(), name.clone(), received)));
        let runs = state.subscribe();
        let process = supervise(process, events, state);
        let watching = liveness.map(|asked| {
            let told = (shared.clone(), service.name.clone(), name);
            AbortOnDropHandle::new(tokio::spawn(replace_dead(asked, runs, process.replaced(), told)))
        });
        let (process, stop_timeout) = (Some(process), service.stop_timeout);
        let (workloads, limits) = (workloads.clone(), service.limits);
        Ok(Self { workload, workloads, stop_timeout, process, printing, watching, cgroup, limits })
    }

    /// Has these limits hold for what runs. Those of a process without a cgroup, which had none, come with its next start.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn limit(&mut self, limits: Limits) -> std::result::Result<(), NoLimits> {
        if let Some((cgroup, _)) = self.cgroup.as_ref().filter(|_| self.limits != limits) {
            limits::change(self.workloads.scope(), &self.workload, cgroup, &limits)?;
            self.limits = limits;
        }
        Ok(())
    }

    /// Removes the cgroup that was made for its limits alone, with whoever is left in it.
    async fn leave_cgroup(&mut self) {
        let Some((cgroup, true)) = self.cgroup.take() else { return };
        let path = cgroup.clone();
        // The kernel may take its time.
        let destroyed = tokio::task::spawn_blocking(move || tulle_sys::cgroup::destroy(&path)).await;
        if let Ok(Err(e)) = destroyed {
            tracing::warn!("the cgroup {} cannot be removed: {e}", cgroup.display());
        }
    }

    /// Peers stop sending, what is in flight finishes, the process gets SIGTERM, then SIGKILL.
    pub async fn stop(&mut self) {
        self.watching = None;
        self.workloads.drain(&self.workload, self.stop_timeout).await;
        if let Some(process) = self.process.take() {
            process.stop(self.stop_timeout).await;
        }
        if let Some(printing) = self.printing.take() {
            let _ = printing.await;
        }
        self.workloads.remove(&self.workload).await;
        self.leave_cgroup().await;
    }

    /// At once.
    pub async fn kill(&mut self) {
        drop(self.process.take());
        if let Some(printing) = self.printing.take() {
            let _ = timeout(LAST_WORDS, printing).await;
        }
        self.workloads.remove(&self.workload).await;
        self.leave_cgroup().await;
    }
}

/// Asks a process whether it is alive, for as long as it runs, and has another one take its place where it is not.
async fn replace_dead(
    (probe, target): (Probe, Target),
    mut process: watch::Receiver<ProcessState>,
    replaced: watch::Sender<Option<Member>>,
    (shared, service, replica): (Arc<Shared>, String, String),
) {
    while process.wait_for(|process| process.runs).await.is_ok() {
        let first = process.borrow().process;
        let is_over = |now: &ProcessState| !now.runs || now.process != first;
        let why = tokio::select! {
            why = probes::until_dead(&probe, &target) => why,
            ended = process.wait_for(is_over) => match ended {
                Ok(_) => continue,
                Err(_) => return,
            },
        };
        shared.screen.state(&service, &replica, &format!("{}: it is ended", why.full()));
        replaced.send_replace(first);
        if process.wait_for(is_over).await.is_err() {
            return;
        }
    }
}

/// Where the commands of a service run.
pub fn directory(config: &Config, service: &Service) -> PathBuf {
    service.directory.as_ref().map_or(config.folder.clone(), |d| config.folder.join(d))
}

/// A command of a service, as a process of a workload.
pub fn process(
    service: &Service,
    command: &[String],
    running: &Running,
    is_captured: bool,
    Surroundings { values, directory }: Surroundings<'_>,
) -> Process {
    let mut environment: Vec<_> = service.run_as.iter().flat_map(RunAs::variables).collect();
    environment.extend(running.variables());
    environment.extend(values.iter().filter(|(n, _)| n.starts_with("PORT")).cloned());
    if !is_captured {
        // Who listens for others, too, is reached past the mesh, which sees nothing of that.
        environment.push((HOST.to_owned(), Ipv4Addr::LOCALHOST.to_string()));
    }
    // Variables of the mesh can be used, too.
    let known: Vec<_> = values.iter().chain(&environment).cloned().collect();
    let own = service.environment.iter().map(|(name, value)| (name.clone(), fill(value, &known)));
    environment.extend(own.collect::<Vec<_>>());
    let command: Vec<_> = command.iter().map(|word| fill(word, &known)).collect();
    Process {
        program: program(&command[0], directory).into(),
        arguments: command[1..].iter().map(Into::into).collect(),
        directory: Some(directory.to_owned()),
        environment,
        confined: Confined {
            cgroup: running.cgroup.clone(),
            name_service: running.name_service.clone(),
            run_as: service.run_as.clone(),
        },
        grace: service.stop_timeout,
        stop_signal: service.stop_signal,
        restart: service.restart,
    }
}

/// The first replica has the declared ports, the others free ones.
fn ports(service: &Service, index: u32) -> std::io::Result<Vec<u16>> {
    if index == 0 {
        return Ok(service.ports.iter().map(|p| p.target_port).collect());
    }
    // All are held until each is known, so that no two are the same.
    let bound = service.ports.iter().map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let listeners = bound.collect::<std::io::Result<Vec<_>>>()?;
    listeners.iter().map(|l| Ok(l.local_addr()?.port())).collect()
}

/// What the commands of a service find.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// For `${…}`.
    pub values: &'a [(String, String)],
    pub directory: &'a Path,
}

/// What the node is told of a process of a service that listens at these ports.
pub fn spec(
    config: &Config,
    service: &Service,
    name: &str,
    ports: &[u16],
    surroundings: Surroundings<'_>,
) -> WorkloadSpec {
    let mut labels = service.labels.clone();
    labels.entry("app".to_owned()).or_insert_with(|| service.name.clone());
    let declared = service.ports.iter().zip(ports);
    WorkloadSpec {
        namespace: config.namespace.clone(),
        name: name.to_owned(),
        service: service.name.clone(),
        labels,
        service_account: service.service_account.clone(),
        ports: declared
            .map(|(declared, port)| Port {
                name: declared.name.clone().unwrap_or_default(),
                port: *port,
                target_port: Some(declared.target_port),
            })
            .collect(),
        app_address: Ipv4Addr::LOCALHOST.into(),
        probe: service.probe.as_ref().map(|p| probe(p, service, ports, surroundings)),
        upstreams: upstreams(config),
        user: service.user.clone(),
        group: service.group.clone(),
        attached: false,
        stop_timeout_ms: u64::try_from(service.stop_timeout.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The services of the namespace that have ports, as in Kubernetes its own among them: those of the file, and those
/// that its documents describe, which know better, with the Flows that can be called.
fn upstreams(config: &Config) -> Vec<UpstreamService> {
    let ports_of = |service: &Service| service.ports.iter().map(|p| p.port).collect::<Vec<_>>();
    let mut ports: BTreeMap<&str, _> =
        config.services.iter().map(|s| (s.name.as_str(), ports_of(s))).collect();
    let namespace = config.namespace.as_str();
    for document in &config.resources {
        if document.namespace() != Some(namespace) {
            continue;
        }
        match document.kind.id {
            KindId::Service => drop(ports.insert(document.name(), described_ports(&document.value["spec"]))),
            // Of a Service and a Flow of one name, the Service is made first.
            KindId::Flow => {
                let offered = offered_ports(KindId::Flow, &document.value).unwrap_or_default();
                let numbers = offered.into_iter().map(|port| port.number).collect();
                ports.entry(document.name()).or_insert(numbers);
            }
            _ => {}
        }
    }
    for other in &config.elsewhere {
        ports.entry(&other.service.name).or_insert_with(|| other.ports.clone());
    }
    let having_ports = ports.into_iter().filter(|(_, ports)| !ports.is_empty());
    having_ports
        .map(|(name, ports)| UpstreamService { service: ServiceName::new(namespace, name), ports })
        .collect()
}

/// The ports at which the mesh serves a Service.
fn described_ports(spec: &Value) -> Vec<u16> {
    if spec["type"] == "ExternalName" {
        return Vec::new();
    }
    let ports = spec["ports"].as_array().into_iter().flatten();
    let tcp = ports.filter(|port| port["protocol"].is_null() || port["protocol"] == "TCP");
    tcp.filter_map(|port| u16::try_from(port["port"].as_u64()?).ok()).collect()
}

fn probe(
    probe: &super::config::Probe,
    service: &Service,
    ports: &[u16],
    surroundings: Surroundings<'_>,
) -> Probe {
    // Where the declared port is in this replica.
    let port = |declared: Option<u16>| {
        let index = declared.and_then(|d| service.ports.iter().position(|p| p.target_port == d));
        ports.get(index.unwrap_or(0)).copied().unwrap_or_default()
    };
    let check = match &probe.check {
        Check::Http { path, port: declared } => {
            probes::Check::Http { port: port(*declared), path: path.clone() }
        }
        Check::Tcp { port: declared } => probes::Check::Tcp { port: port(*declared) },
        Check::Exec(command) => exec(command, service, surroundings),
    };
    let mut timing = Timing::default();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    timing.period_ms = probe.interval.map_or(timing.period_ms, millis);
    timing.timeout_ms = probe.timeout.map_or(timing.timeout_ms, millis);
    timing.startup_ms = probe.startup.map_or(timing.startup_ms, millis);
    timing.failures = probe.failures.unwrap_or(timing.failures);
    Probe { check, timing }
}

/// A command that finds what the service's own finds. Variables of the mesh are put in by the node, which knows them.
fn exec(
    command: &[String],
    service: &Service,
    Surroundings { values, directory }: Surroundings<'_>,
) -> probes::Check {
    // What merely looks like a name is told apart until the node has put in the last.
    let known: Vec<_> = values.iter().filter(|(name, _)| name != "$").cloned().collect();
    let mut command: Vec<_> = command.iter().map(|word| fill(word, &known)).collect();
    command[0] = program(&command[0], directory);
    let own = service.environment.iter().map(|(name, value)| (name.clone(), fill(value, &known)));
    probes::Check::Exec {
        command,
        environment: values.iter().filter(|(n, _)| n.starts_with("PORT")).cloned().chain(own).collect(),
        directory: Some(directory.to_owned()),
    }
}

/// What `${…}` in commands and variables stands for.
pub fn values(service: &Service, index: u32, ports: &[u16]) -> Result<Vec<(String, String)>> {
    let binary = std::env::current_exe()?.display().to_string();
    let mut values = vec![
        ("TULLE".to_owned(), binary),
        ("SERVICE".to_owned(), service.name.clone()),
        ("REPLICA".to_owned(), index.to_string()),
        (HOST.to_owned(), Ipv4Addr::LOCALHOST.to_string()),
        // What merely looks like one of these names is written so.
        ("$".to_owned(), "$".to_owned()),
    ];
    if let Some(first) = ports.first() {
        values.push(("PORT".to_owned(), first.to_string()));
    }
    for (declared, port) in service.ports.iter().zip(ports) {
        if let Some(name) = &declared.name {
            let name = name.to_ascii_uppercase().replace('-', "_");
            values.push((format!("PORT_{name}"), port.to_string()));
        }
    }
    Ok(values)
}

/// A relative path to a program is one from the folder that it runs in.
fn program(word: &str, directory: &Path) -> String {
    if word.contains('/') { directory.join(word).display().to_string() } else { word.to_owned() }
}

/// Keeps a line among the last.
fn keep(last: &mut VecDeque<String>, text: &str) {
    let end = text.char_indices().nth(LONGEST_LAST).map_or(text.len(), |(end, _)| end);
    // The place of the oldest is taken: this is done for every line.
    let mut line = if last.len() < LAST_LINES { String::new() } else { last.pop_front().unwrap_or_default() };
    line.clear();
    line.push_str(&text[..end]);
    last.push_back(line);
}

/// Shows what a process says, and what becomes of it.
pub async fn show(screen: &Screen, service: &str, process: &str, event: &Event) {
    match event {
        Event::Line { stream, text } => screen.output(service, process, *stream, text).await,
        Event::Started { pid } => screen.state(service, process, &format!("starting (process {pid})")),
        Event::Ended { exit, restart_in } => {
            let next = match restart_in {
                Some(delay) => format!("; starting again in {:.1} s", delay.as_secs_f64()),
                None => String::new(),
            };
            screen.state(service, process, &format!("{exit}{next}"));
        }
    }
}

async fn print(shared: Arc<Shared>, service: String, replica: String, mut events: mpsc::Receiver<Event>) {
    let mut last = VecDeque::new();
    while let Some(event) = events.recv().await {
        show(&shared.screen, &service, &replica, &event).await;
        match event {
            Event::Line { text, .. } => keep(&mut last, &text),
            Event::Started { .. } => {}
            Event::Ended { exit, restart_in } => {
                shared.last_lines.lock().insert(replica.clone(), last.drain(..).collect());
                if restart_in.is_none() {
                    shared.over.send_modify(|over| drop(over.insert(replica.clone(), exit)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::of_text as read;
    use super::*;

    #[test]
    fn a_process_is_told_of_every_service_its_own_among_them() {
        let described = |name: &str, spec: &str| {
            format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
        };
        let config = read(&format!(
            "services:\n  web: {{command: x, port: 80}}\n  api: {{command: x, ports: [81, {{name: b, port: 82, \
             targetPort: 83}}]}}\n  job: {{command: x}}\n  own: {{command: x, port: 84}}\n{}{}{}{}",
            described("own", "{ports: [{port: 85}]}"),
            described("split", "{selector: {app: web}, ports: [{port: 86}]}"),
            described("out", "{type: ExternalName, externalName: example.com, ports: [{port: 87}]}"),
            described("far, namespace: other", "{ports: [{port: 88}]}"),
        ))
        .unwrap();
        let of = |service: &Service| {
            let surroundings = Surroundings { values: &[], directory: Path::new("/") };
            let spec = spec(&config, service, &service.name, &[], surroundings);
            let upstreams = spec.upstreams.into_iter();
            upstreams.map(|u| (u.service.to_string(), u.ports)).collect::<Vec<_>>()
        };
        for service in &config.services {
            let told = of(service);
            let name = |name: &str| ServiceName::new("default", name).to_string();
            let expected = [
                (name("api"), vec![81, 82]),
                (name("own"), vec![85]),
                (name("split"), vec![86]),
                (name("web"), vec![80]),
            ];
            assert_eq!(told, expected, "{}", service.name);
        }
    }
}
