//! `tulle run`: one process as a workload of this host's node, in the foreground.

mod told;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::process::Child;
use tulle_model::name::ServiceName;
use tulle_node::client::{HeldWorkload, NodeClient, Word};
use tulle_node::ending;
use tulle_node::probes::{Check, Probe, Timing};
use tulle_node::workloads::{Port, Running, UpstreamService, WORKLOAD_API, WorkloadSpec};
use tulle_sys::family::{Family, Member};
use tulle_sys::process::{Confinement, confine};
use tulle_sys::run_as::RunAs;

use crate::exit::{Exit, Failure, Result};
use crate::home::HomeArgs;
use crate::no_node::no_node;
use crate::printer::{LAST_WORDS, Printer};
use crate::signals::Stop;
use crate::up::UpClient;

/// How long a workload may take to leave the node, once its processes are gone.
const LEAVING: Duration = Duration::from_secs(5);
/// What the one before, which has ended, leaves to the node takes as long: nobody has to hear of it.
const UNREMARKABLE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);
/// How often a node that is gone is looked for, where nothing tells that it is back.
const NODE_POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(after_help = "\
SIGTERM, SIGINT, SIGQUIT and a terminal that is closed drain the workload first: its peers stop sending, what is \
in flight finishes. Then the process and all that it has started get SIGTERM, and after --stop-timeout SIGKILL. A \
second signal does not wait.

A node that stops leaves the process running. It is part of the mesh again when the node is back.

Without a command, it starts and ends nothing: it stands for what runs already in the network namespace of a node with namespace \
capture (`tulle node --capture namespace`), a container for instance, and drains it when it is stopped.")]
pub struct RunArgs {
    /// The workload's name; also its service account and its label app, where nothing else is said
    name: String,
    /// The command and its arguments; none for what runs already, with namespace capture
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// The namespace [default: that of the `tulle up` that runs here, or `default`]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// The service account of its identity
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// A port that it serves, as Services' targetPort says it; =LISTEN where the process listens at
    /// another (repeatable). The first one's LISTEN is in $PORT
    #[arg(long, value_name = "[NAME:]PORT[=LISTEN]", value_parser = parse_port)]
    port: Vec<Port>,
    /// A label, by which Services select it (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Whether it can take traffic: http:/PATH or tcp, at its first port, or exec:COMMAND [default: tcp]
    #[arg(long, value_name = "PROBE")]
    probe: Option<String>,
    /// A Service of another namespace that it is going to call: its place is in <NAME>_<NAMESPACE>_SERVICE_HOST and …_PORT
    /// (repeatable); those of its own are in <NAME>_SERVICE_HOST and …_PORT anyway
    #[arg(long, value_name = "[NAMESPACE/]NAME[:PORT]")]
    upstream: Vec<String>,
    /// The address at which it listens
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// The user that it runs as, by name or number; others than the own need root
    #[arg(long, value_name = "USER", requires = "command")]
    user: Option<String>,
    /// Its group, in place of the groups of that user
    #[arg(long, value_name = "GROUP", requires = "command")]
    group: Option<String>,
    /// How long the process, and what it has started, may take to end after SIGTERM; then SIGKILL
    #[arg(long, value_name = "TIME", value_parser = crate::units::parse_duration, default_value = "30s")]
    stop_timeout: Duration,
    /// Do not say who it is, when it is ready and which Services select it
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    home: HomeArgs,
}

fn parse_port(text: &str) -> Result<Port, String> {
    let number = |text: &str| {
        let port = text.parse::<u16>().ok().filter(|p| *p > 0);
        port.ok_or_else(|| format!("`{text}` is no port: expected 1 to 65535"))
    };
    let (name, ports) = text.split_once(':').unwrap_or(("", text));
    let (declared, listen) = ports.split_once('=').unwrap_or((ports, ports));
    Ok(Port { name: name.to_owned(), port: number(listen)?, target_port: Some(number(declared)?) })
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn spec(args: &RunArgs, namespace: &str) -> Result<WorkloadSpec> {
    let mut labels: BTreeMap<_, _> = args.label.iter().cloned().collect();
    let app = labels.entry("app".to_owned()).or_insert_with(|| args.name.clone());
    let service = if app.is_empty() { args.name.clone() } else { app.clone() };
    let spec = WorkloadSpec {
        namespace: namespace.to_owned(),
        name: args.name.clone(),
        service,
        labels,
        service_account: args.service_account.clone().unwrap_or_else(|| args.name.clone()),
        ports: args.port.clone(),
        app_address: args.address,
        probe: args.probe.as_deref().map(|text| probe(text, args)).transpose()?,
        upstreams: args.upstream.iter().map(|text| upstream(text, namespace)).collect::<Result<_>>()?,
        user: args.user.clone(),
        group: args.group.clone(),
        attached: args.command.is_empty(),
        stop_timeout_ms: u64::try_from(args.stop_timeout.as_millis()).unwrap_or(u64::MAX),
    };
    spec.check().map_err(|e| Failure::input(e.to_string()))?;
    Ok(spec)
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn probe(text: &str, args: &RunArgs) -> Result<Probe> {
    let port = || {
        let port = args.port.first().map(|p| p.port);
        port.ok_or_else(|| Failure::input("a probe needs a port to ask").help("--port PORT"))
    };
    let check = match text.split_once(':').unwrap_or((text, "")) {
        ("tcp", "") => Check::Tcp { port: port()? },
        ("http", path) if path.starts_with('/') => Check::Http { port: port()?, path: path.to_owned() },
        ("exec", command) if !command.trim().is_empty() => {
            let command =
                crate::up::split(command).map_err(|why| Failure::input(format!("--probe: {why}")))?;
            let port = args.port.first().map(|port| ("PORT".to_owned(), port.port.to_string()));
            let directory = std::env::current_dir().ok();
            Check::Exec { command, environment: port.into_iter().collect(), directory }
        }
        _ => {
            return Err(
                Failure::input(format!("`{text}` is no probe")).help("http:/PATH, tcp, or exec:COMMAND")
            );
        }
    };
    Ok(Probe { check, timing: Timing::default() })
}

fn upstream(text: &str, namespace: &str) -> Result<UpstreamService> {
    let wrong = || Failure::input(format!("`{text}` is no upstream")).help("[NAMESPACE/]NAME[:PORT]");
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, vec![port.parse::<u16>().map_err(|_| wrong())?]),
        None => (text, Vec::new()),
    };
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    if name.is_empty() || namespace.is_empty() {
        return Err(wrong());
    }
    Ok(UpstreamService { service: ServiceName::new(namespace, name), ports: port })
}

pub async fn run(args: RunArgs) -> Result<ExitCode> {
    let home = args.home.path()?;
    let namespace = match &args.namespace {
        Some(namespace) => namespace.clone(),
        // It is the node of that `up` that is spoken to.
        None => UpClient::new(&home).status_aside().await.map_or_else(default_namespace, |up| up.namespace),
    };
    let spec = spec(&args, &namespace)?;
    let run_as = spec.run_as().map_err(|e| Failure::input(e.to_string()))?;
    let mut stop = Stop::new()?;
    let client = NodeClient::new(&home);
    let adding = async {
        let spec = WorkloadSpec { upstreams: told::upstreams(&client, &spec).await, ..spec };
        (add(&client, &spec, args.stop_timeout).await, spec)
    };
    let (held, spec) = tokio::select! {
        added = adding => added,
        signal = stop.next() => return Ok(ExitCode::from(128 + signal as u8)),
    };
    let mut held = held.map_err(|error| {
        // The node's words, and the server's.
        let says = |words| error.chain().any(|e| e.to_string().contains(words));
        let taken = says("runs on this node already") || says("there is a workload of this name already");
        let failure = no_node(&home, error);
        if taken { failure.exit(Exit::Conflict) } else { failure }
    })?;
    if !args.quiet {
        told::say_who(&client, &spec).await;
    }
    let own_group = !args.port.is_empty();
    let mut command = match args.command.is_empty() {
        true => {
            say_attached(held.running());
            Started::Attached
        }
        false => Started::Child(start(&args, run_as.as_ref(), held.running(), own_group)?),
    };
    let family = Family { root: command.id().and_then(Member::of), ..held.running().family() };
    // Where the node cannot be told, the workload takes no traffic, which is seen elsewhere.
    if let Err(error) = held.set_running(true).await {
        tracing::warn!("the node does not know that the process runs: {error:#}");
    }
    let owner = Owner { client: &client, spec: &spec, args: &args, family, own_group };
    let telling = async {
        if !args.quiet {
            told::say_ready(&client, &spec).await;
        }
        std::future::pending().await
    };
    let status = tokio::select! {
        status = owner.supervise(&mut held, &mut command, &mut stop) => status?,
        never = telling => never,
    };
    drop(held);
    tokio::select! {
        () = wait_until_gone(&client, &spec) => {}
        _ = stop.next() => {}
    }
    Ok(exit_code(status))
}

/// Adds the workload; waits where one of that name is just leaving.
async fn add(
    client: &NodeClient,
    spec: &WorkloadSpec,
    stop_timeout: Duration,
) -> anyhow::Result<HeldWorkload> {
    let start = Instant::now();
    let end = start + LEAVING + stop_timeout;
    let mut said = false;
    loop {
        match client.add(spec).await {
            Err(error) if error.to_string().contains("right now") && Instant::now() < end => {
                if start.elapsed() > UNREMARKABLE && !std::mem::replace(&mut said, true) {
                    tracing::warn!("{error:#}: this waits for it");
                }
                tokio::time::sleep(POLL).await;
            }
            other => return other,
        }
    }
}

/// So that the name is free when this command has ended.
async fn wait_until_gone(client: &NodeClient, spec: &WorkloadSpec) {
    let end = Instant::now() + LEAVING;
    while Instant::now() < end {
        let Ok(status) = client.status().await else { return };
        if !status.workloads.iter().any(|w| w.namespace == spec.namespace && w.name == spec.name) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn start(args: &RunArgs, run_as: Option<&RunAs>, running: &Running, own_group: bool) -> Result<Child> {
    let mut command = std::process::Command::new(&args.command[0]);
    command
        .args(&args.command[1..])
        .envs(run_as.into_iter().flat_map(RunAs::variables))
        .envs(running.variables());
    if let Some(port) = args.port.first() {
        command.env("PORT", port.port.to_string());
    }
    if own_group && std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        // In a process group of its own it must not read from the terminal.
        command.stdin(Stdio::null());
    }
    let confinement = Confinement {
        cgroup: running.cgroup.as_deref(),
        name_service: running.name_service.as_deref(),
        // A service hears of Ctrl-C from us, when it is drained; a client at once, with the terminal.
        own_process_group: own_group,
        run_as,
        // The node ends it, after it has drained it.
        parent_death: None,
    };
    confine(&mut command, confinement)?;
    let mut command = tokio::process::Command::from(command);
    command.spawn().map_err(|error| not_started(&args.command[0], &error))
}

/// Why a command does not start, with the exit code that shells have for that.
pub fn not_started(program: &str, error: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("`{program}` cannot be started: {error}"));
    match error.kind() {
        std::io::ErrorKind::NotFound => failure.exit(Exit::NoProgram).help("is it installed, and in PATH?"),
        _ => failure.exit(Exit::NoExecution),
    }
}

/// Nobody hands it to processes that run already.
fn say_attached(running: &Running) {
    let out = Printer::new(anstream::stdout());
    out.say(&format!(
        "this network namespace is the workload {}/{} of the mesh",
        running.namespace, running.name
    ));
    if let Some((name, value)) = running.environment.iter().find(|(name, _)| name == WORKLOAD_API) {
        out.say(&format!("{name}={value}"));
    }
    out.finish(LAST_WORDS);
}

/// What a workload's processes descend from.
enum Started {
    Child(Child),
    /// Somebody else has started them, and ends them.
    Attached,
}

impl Started {
    fn id(&self) -> Option<u32> {
        match self {
            Self::Child(child) => child.id(),
            Self::Attached => None,
        }
    }

    /// Waits until it ends by itself; for ever, where that is not seen from here.
    async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        match self {
            Self::Child(child) => child.wait().await,
            Self::Attached => std::future::pending().await,
        }
    }
}

/// Who started a workload.
struct Owner<'a> {
    client: &'a NodeClient,
    spec: &'a WorkloadSpec,
    args: &'a RunArgs,
    /// The process, and all that it has started.
    family: Family,
    own_group: bool,
}

impl Owner<'_> {
    async fn supervise(
        &self,
        held: &mut HeldWorkload,
        child: &mut Started,
        stop: &mut Stop,
    ) -> Result<ExitStatus> {
        let mut has_node = true;
        while has_node {
            tokio::select! {
                status = child.wait() => return self.end_rest(status?, held, stop).await,
                word = held.next() => if word == Word::Stop {
                    tracing::warn!("the node asks for an end of the process");
                    break;
                },
                _ = stop.next() => break,
            }
            tracing::warn!("the node is gone: the process goes on, and has no mesh until the node is back");
            tokio::select! {
                status = child.wait() => return self.end_rest(status?, held, stop).await,
                again = self.join_again(held.running()) => *held = again,
                _ = stop.next() => has_node = false,
            }
        }
        if has_node && (self.own_group || matches!(child, Started::Attached)) {
            tokio::select! {
                status = child.wait() => return self.end_rest(status?, held, stop).await,
                drained = held.drain() => {
                    if !matches!(drained, Ok(true)) {
                        tracing::warn!("not everything in flight has finished");
                    }
                }
                _ = stop.next() => {}
            }
        }
        if has_node {
            // It is probed no more; where the node is gone by now, it is not probed either.
            let _ = held.set_running(false).await;
        }
        if let Started::Attached = child {
            return Ok(ExitStatus::default());
        }
        let ending = async { tokio::join!(child.wait(), end(&self.family, self.args.stop_timeout)).0 };
        tokio::select! {
            status = ending => return Ok(status?),
            _ = stop.next() => {}
        }
        kill(&self.family).await;
        Ok(child.wait().await?)
    }

    /// Ends what the process has left that has ended by itself.
    async fn end_rest(&self, status: ExitStatus, held: &HeldWorkload, stop: &mut Stop) -> Result<ExitStatus> {
        let left = self.family.members().unwrap_or_default().len();
        if left > 0 {
            let grace = self.args.stop_timeout;
            tracing::warn!("the process has ended; {left} that it has started have {grace:?} to end, too");
            let _ = held.set_running(false).await;
        }
        tokio::select! {
            () = end(&self.family, self.args.stop_timeout) => {}
            _ = stop.next() => kill(&self.family).await,
        }
        Ok(status)
    }

    /// Waits for the node, for as long as it takes, and adds the workload to it.
    async fn join_again(&self, before: &Running) -> HeldWorkload {
        let mut said = String::new();
        // Watched before the first attempt, so that a node that comes back in between is not missed.
        let mut arrivals = self.client.arrivals();
        loop {
            let added = match self.client.add_again(self.spec, before).await {
                Ok(held) => held.set_running(true).await.map(|()| held),
                Err(error) => Err(error),
            };
            match added {
                Ok(held) => {
                    tracing::warn!("the node is back, and the workload in its mesh");
                    return held;
                }
                // No node at all is what is waited for, or one that is just dying.
                Err(error) if error.is::<std::io::Error>() || error.is::<hyper::Error>() => {}
                Err(error) => {
                    let error = format!("{error:#}");
                    if error != said {
                        tracing::warn!("the node is back, but does not take the workload: {error}");
                        said = error;
                    }
                }
            }
            arrivals.next(NODE_POLL).await;
        }
    }
}

async fn end(family: &Family, grace: Duration) {
    match ending::end(family, grace).await {
        Ok(ended) if ended.killed > 0 => {
            let killed = ended.killed;
            tracing::warn!(
                "{killed} processes did not end within {grace:?} of their SIGTERM, and were killed"
            );
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!("not all processes have ended: {error}");
            kill(family).await;
        }
    }
}

async fn kill(family: &Family) {
    if let Err(error) = ending::kill(family).await {
        tracing::warn!("not all processes could be killed: {error}");
    }
}

/// The command's own, or as shells say it: 128 and the signal.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_names_and_places() {
        let port = |text| parse_port(text).unwrap();
        assert_eq!(port("80"), Port { name: String::new(), port: 80, target_port: Some(80) });
        assert_eq!(port("http:80=8080"), Port { name: "http".into(), port: 8080, target_port: Some(80) });
        assert!(parse_port("0").is_err() && parse_port("x:").is_err() && parse_port("70000").is_err());
    }
}
