//! The stream to the server on which this node is told of Flows, and given runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tulle_flow::runner::{BookError, GivenRun, RunCommand};
use tulle_model::flow::history::{HistoryEntry, RunName};
use tulle_model::flow::run::Run;
use tulle_model::flow::scope::RunInfo;
use tulle_model::name::NamespacedName;
use tulle_proxy::Arrived;
use tulle_wire::flow as wire;
use tulle_wire::flow::run_command::Command;

use super::book::{failed, late, reference, run_id};
use super::served::Flow;
use super::workflow::read_workflow;
use super::{Coming, FlowNode, RunsLeaving, SERVICES_COME, trigger};
use crate::control::{explain_status, stream_backoff};

/// How long to wait where the server lets this node run no Flows: its token may be another one some day.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// How long the server may take to open the stream, and to give out a run.
const OPEN: Duration = Duration::from_secs(10);
/// How many messages may wait to be sent.
const OUTBOX: usize = 4;
/// How many runs of one Flow are begun at once, and how many requests wait for the end of one. Of a Flow that is slow others notice
/// nothing.
const STARTS: usize = 256;
const WAITS: usize = 2048;

/// Keeps a stream for as long as this is polled. `tasks` gets what goes on beside it.
pub(super) async fn keep(node: &Arc<FlowNode>, tasks: &mut JoinSet<()>) {
    let mut backoff = stream_backoff();
    loop {
        let started = Instant::now();
        let mut certificate = node.server.certificate_changes();
        let ended = tokio::select! {
            ended = hold(node, tasks) => ended,
            Ok(()) = certificate.changed() => continue,
        };
        match ended {
            Err(status) if is_refusal(status.code()) => {
                tracing::debug!("this node runs no Flows: {}", explain_status(&status));
                tokio::select! {
                    () = sleep(REFUSED_WAIT) => {}
                    Ok(()) = certificate.changed() => {}
                }
                continue;
            }
            Err(status) => tracing::debug!("the server gives no runs for now: {}", explain_status(&status)),
            Ok(()) => {}
        }
        if *node.rested.borrow() {
            return;
        }
        if started.elapsed() > OPEN {
            backoff.reset();
        }
        backoff.wait().await;
    }
}

/// Whether the server answers, and does not want this node to run Flows. An older one knows no such call.
fn is_refusal(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unimplemented | Code::Unauthenticated)
}

/// One stream, until it ends.
async fn hold(node: &Arc<FlowNode>, tasks: &mut JoinSet<()>) -> Result<(), tonic::Status> {
    let (sender, messages) = mpsc::channel(OUTBOX);
    let mut outbox = Some(sender);
    let held = node.runner.held().into_iter();
    let opened = wire::RunnerOpened {
        instance: node.server.instance().id.clone(),
        most_runs: u32::try_from(node.most_runs).unwrap_or(u32::MAX),
        holds: held.map(|(run, lease)| wire::HeldRun { run: Some(reference(&run)), lease }).collect(),
    };
    let say = |said| wire::RunnerSays { said: Some(said) };
    let late = || tonic::Status::deadline_exceeded("the server does not answer");
    let say = async |outbox: &Option<mpsc::Sender<_>>, said| {
        let Some(outbox) = outbox else { return Ok(()) };
        // Where the server reads nothing, it hears of no beat either.
        let sent = timeout(OPEN, outbox.send(say(said))).await;
        sent.map_err(|_| late())?.map_err(|_| late())
    };
    say(&outbox, wire::runner_says::Said::Opened(opened)).await?;
    let mut client = node.server.flows();
    let serving = client.serve(ReceiverStream::new(messages));
    let mut told = timeout(OPEN, serving).await.map_err(|_| late())??.into_inner();
    let mut beats = interval(OPEN / 3);
    let mut all = Some(BTreeSet::new());
    // The server gives again what it does not know of.
    node.unreadable.runs.lock().clear();
    let (mut leave, mut leaves) = (node.leave.clone(), false);
    let mut rested = node.rested.subscribe();
    loop {
        let message = tokio::select! {
            message = told.message() => message?,
            _ = beats.tick() => {
                let runs = u32::try_from(node.runner.held().len()).unwrap_or(u32::MAX);
                say(&outbox, wire::runner_says::Said::Beat(wire::RunnerBeat { runs })).await?;
                continue;
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            () = node.unreadable.more.notified() => {
                let unreadable = std::mem::take(&mut *node.unreadable.runs.lock());
                for (run, lease, why) in unreadable {
                    let run = Some(wire::HeldRun { run: Some(reference(&run)), lease });
                    let said = wire::runner_says::Said::CannotRead(wire::RunnerCannotRead { run, why });
                    say(&outbox, said).await?;
                }
                continue;
            }
            true = async { leave.wait_for(|leaving| *leaving != RunsLeaving::Stays).await.is_ok() }, if !leaves => {
                leaves = true;
                say(&outbox, wire::runner_says::Said::Leaves(wire::RunnerLeaves {})).await?;
                continue;
            }
            // What it had is for others now: the rest of the node's end may take longer.
            true = async { rested.wait_for(|rested| *rested).await.is_ok() }, if leaves && outbox.is_some() => {
                outbox = None;
                continue;
            }
        };
        use wire::runner_told::Told;
        let Some(message) = message else { return Ok(()) };
        match message.told {
            Some(Told::Settings(settings)) => {
                let ports = settings.server_ports.iter().filter_map(|port| u16::try_from(*port).ok());
                // This stream stands, so that its name is known.
                let found = timeout(OPEN, tokio::net::lookup_host(node.server.address())).await;
                let found = found.map_err(|_| late())?.map_err(|error| {
                    tonic::Status::unavailable(format!("the server's name does not resolve: {error}"))
                })?;
                let addresses: Vec<_> = found.map(|address| address.ip()).collect();
                let servers =
                    ports.flat_map(|port| addresses.iter().map(move |ip| SocketAddr::new(*ip, port)));
                node.served.keep_from(node.own.iter().copied().chain(servers).collect());
                node.served.set_most_document(settings.most_document);
                beats = interval(Duration::from_millis(settings.lease_millis.max(100)) / 4);
                beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
            Some(Told::Flow(flow)) => {
                if let Some(all) = &mut all {
                    all.insert(NamespacedName::new(&*flow.namespace, &*flow.name));
                }
                take(node, tasks, flow);
            }
            Some(Told::Gone(gone)) => node.served.remove(&NamespacedName::new(gone.namespace, gone.name)),
            Some(Told::All(_)) => {
                if let Some(all) = all.take() {
                    node.served.retain(&all);
                }
            }
            Some(Told::Given(given)) => give(node, given),
            Some(Told::Command(command)) => {
                if let (Some(run), Some(command)) = (command.run, command.command.map(wanted)) {
                    node.command(&run_id(run), command);
                }
            }
            Some(Told::Lost(lost)) => {
                if let Some(run) = lost.run {
                    node.lost(&run_id(run), lost.lease);
                }
            }
            None => {}
        }
    }
}

/// Takes note of a Flow.
fn take(node: &Arc<FlowNode>, tasks: &mut JoinSet<()>, told: wire::FlowTold) {
    let name = NamespacedName::new(&*told.namespace, &*told.name);
    let set = Flow::told(told).map_err(anyhow::Error::msg).and_then(|flow| node.served.set(flow));
    match set {
        Ok(Some(arrivals)) => {
            tasks.spawn(serve(node.clone(), name, arrivals));
        }
        Ok(None) => {}
        Err(why) => tracing::error!("the Flow {name} is not served on this node: {why:#}"),
    }
}

/// Answers the requests of a Flow for as long as it is served.
async fn serve(node: Arc<FlowNode>, name: NamespacedName, mut arrivals: mpsc::Receiver<Arrived>) {
    let (starts, waits) = (Arc::new(Semaphore::new(STARTS)), Arc::new(Semaphore::new(WAITS)));
    while let Some(arrived) = arrivals.recv().await {
        let Ok(place) = starts.clone().acquire_owned().await else { return };
        let Some(flow) = node.served.get(&name) else { return };
        tokio::spawn(trigger::answer(node.clone(), flow, arrived, place, waits.clone()));
    }
}

fn wanted(command: Command) -> RunCommand {
    match command {
        Command::Suspend(_) => RunCommand::Suspend,
        Command::Resume(_) => RunCommand::Resume,
        Command::Retry(retry) => RunCommand::Retry { task: retry.task.into() },
    }
}

/// Takes a run that was given to this node: it is loaded, and carried on.
pub(super) fn give(node: &Arc<FlowNode>, given: wire::GivenRun) {
    let Some(run) = given.run.map(run_id) else { return };
    let commands = given.commands.into_iter().filter_map(|each| each.command.map(wanted)).collect();
    let mut coming = node.coming.lock();
    match coming.get_mut(&run) {
        Some(known) if known.lease >= given.lease => return,
        Some(known) => {
            // Who loads it goes by what stands here.
            (known.lease, known.commands) = (given.lease, commands);
            return;
        }
        None => drop(coming.insert(run.clone(), Coming { lease: given.lease, commands })),
    }
    drop(coming);
    let node = node.clone();
    tokio::spawn(async move {
        let come = async { drop(node.services.clone().wait_for(|there| *there).await) };
        let _ = timeout_at(node.started + SERVICES_COME, come).await;
        let mut backoff = stream_backoff();
        while !carry_on(&node, &run).await {
            backoff.wait().await;
        }
    });
}

impl FlowNode {
    /// Has a run know what is wanted of it, also while it is loaded.
    fn command(&self, run: &RunName, command: RunCommand) {
        let mut coming = self.coming.lock();
        match coming.get_mut(run) {
            Some(known) => known.commands.push(command),
            None => drop(self.runner.command(run, command)),
        }
    }

    /// Drops a run that is another one's by now.
    fn lost(&self, run: &RunName, lease: u64) {
        let mut coming = self.coming.lock();
        if coming.get(run).is_some_and(|known| known.lease <= lease) {
            coming.remove(run);
        }
        self.runner.lost(run, lease);
    }
}

/// Loads a run that is coming, and carries it on; `false`: it is to be tried again. What it was loaded as counts for nothing where it has
/// to wait: another one may have had it meanwhile.
async fn carry_on(node: &FlowNode, run: &RunName) -> bool {
    let Ok(place) = node.loads.acquire().await else { return true };
    let Some(lease) = node.coming.lock().get(run).map(|known| known.lease) else { return true };
    let loaded = match load(node, run, lease, place).await {
        Ok(loaded) => loaded.map(Some),
        Err(BookError::Lost) => Ok(None),
        Err(BookError::Later(why) | BookError::Full(why)) => {
            tracing::debug!(run = &*run.run, "a run cannot be loaded for now: {why}");
            return false;
        }
    };
    let mut coming = node.coming.lock();
    // It was lost, or is this node's under another lease, by now.
    let Some(known) = coming.get_mut(run) else { return true };
    if known.lease != lease {
        return false;
    }
    match loaded {
        Ok(Some(mut loaded)) => {
            loaded.commands.clone_from(&known.commands);
            if let Err(full) = node.runner.carry_on(loaded) {
                tracing::debug!(run = &*run.run, "a run waits: {full}");
                return false;
            }
        }
        Ok(None) => {}
        Err(why) => {
            let flow = run.of_flow();
            tracing::error!(run = &*run.run, "a run of the Flow {flow} cannot be carried on here: {why}");
            node.unreadable.runs.lock().push((run.clone(), lease, why));
            node.unreadable.more.notify_one();
        }
    }
    coming.remove(run);
    true
}

/// A run as the server has it; the inner `Err` says what cannot be read of it.
async fn load(
    node: &FlowNode,
    run: &RunName,
    lease: u64,
    place: SemaphorePermit<'_>,
) -> Result<Result<GivenRun, String>, BookError> {
    let mut loaded = load_part(node, run, lease, None).await?;
    let mut long = None;
    if loaded.has_more {
        // Nobody is to wait behind it, nor is it to be in memory while it waits.
        drop((loaded, place));
        let turn = node.long_loads.clone().acquire_owned().await;
        long = Some(turn.map_err(|closed| BookError::Later(closed.to_string()))?);
        loaded = load_part(node, run, lease, None).await?;
    }
    let (mut has_more, mut entries) = (loaded.has_more, std::mem::take(&mut loaded.entries));
    let first = loaded.checkpoint.as_ref().map_or(0, |at| at.entries);
    while has_more {
        let next = first.saturating_add(entries.len().try_into().unwrap_or(u32::MAX));
        let part = load_part(node, run, lease, Some(next)).await?;
        has_more = part.has_more && !part.entries.is_empty();
        entries.extend(part.entries);
    }
    let given = read(run, lease, loaded, entries);
    Ok(given.map(|given| GivenRun { place: long.map(Arc::new), ..given }))
}

async fn load_part(
    node: &FlowNode,
    run: &RunName,
    lease: u64,
    first: Option<u32>,
) -> Result<wire::LoadRunResponse, BookError> {
    let request = wire::LoadRunRequest { run: Some(reference(run)), lease, first };
    let mut client = node.server.flows();
    let answer = timeout(OPEN, client.load(request)).await.map_err(late)?;
    Ok(answer.map_err(|status| failed(&status))?.into_inner())
}

fn read(
    run: &RunName,
    lease: u64,
    loaded: wire::LoadRunResponse,
    entries: Vec<bytes::Bytes>,
) -> Result<GivenRun, String> {
    // What the error says may quote what is in it, which is nobody else's business.
    let unreadable = |what: &str, error: &serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        format!("{what} cannot be read ({:?} error at line {line}, column {column})", error.classify())
    };
    let entry = |(number, bytes): (usize, bytes::Bytes)| {
        let read = serde_json::from_slice::<HistoryEntry>(&bytes);
        read.map_err(|error| unreadable(&format!("entry {number} of what is left of its history"), &error))
    };
    let entries: Result<Vec<_>, _> = entries.into_iter().enumerate().map(entry).collect();
    let info: Arc<RunInfo> =
        Arc::new(serde_json::from_slice(&loaded.info).map_err(|error| unreadable("its beginning", &error))?);
    let workflow = read_workflow(&loaded.workflow).map_err(|why| format!("its workflow {why}"))?;
    if let Some(checkpoint) = &loaded.checkpoint {
        // Where it turns out later, the run ends with an error, though others could read it.
        let state = Run::restore(workflow.clone(), info.clone(), &checkpoint.state);
        state.map_err(|error| unreadable("its checkpoint", &error))?;
    }
    Ok(GivenRun {
        id: run.clone(),
        lease,
        info,
        workflow,
        checkpoint: loaded.checkpoint.map(|at| (at.entries, at.state.into())),
        entries: entries?,
        place: None,
        nobody_since: loaded.nobody_since,
        commands: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Where it cannot be read, it is for others, who may be of a later version.
    #[test]
    fn what_cannot_be_read_of_a_run_is_told() {
        let run = RunName { namespace: "shop".into(), flow: "order".into(), run: "r1".into() };
        let info =
            json!({ "id": "r1", "input": {}, "started": 1, "seed": 1, "most_tasks": 9, "most_bytes": 999 });
        let workflow = json!({
            "document": { "dsl": "1.0.3", "namespace": "shop", "name": "order", "version": "1.0.0" },
            "do": [{ "w": { "wait": { "seconds": 1 } } }],
        });
        let loaded = wire::LoadRunResponse {
            info: info.to_string().into(),
            workflow: workflow.to_string().into(),
            ..Default::default()
        };
        let fired =
            || vec![json!({ "at": 2, "event": { "Fired": { "ask": 0 } }, "later": 1 }).to_string().into()];
        let given = read(&run, 1, loaded.clone(), fired()).unwrap();
        let state = Run::begin(given.workflow.clone(), given.info.clone()).checkpoint().unwrap();
        let of = |state: Vec<u8>| wire::LoadRunResponse {
            checkpoint: Some(wire::RunCheckpoint { entries: 0, state: state.into() }),
            ..loaded.clone()
        };
        assert!(read(&run, 1, of(state), fired()).is_ok());
        let why = read(&run, 1, of(br#"{"later": 1}"#.to_vec()), fired()).err().unwrap();
        assert_eq!(why, "its checkpoint cannot be read (Data error at line 1, column 12)");
        let later = vec![json!({ "at": 2, "event": { "Slept": {} } }).to_string().into()];
        let why = read(&run, 1, loaded.clone(), later).err().unwrap();
        assert!(
            why.starts_with("entry 0 of what is left of its history cannot be read (Data error"),
            "{why}"
        );
        let workflow = wire::LoadRunResponse { workflow: json!({}).to_string().into(), ..loaded };
        assert!(read(&run, 1, workflow, fired()).err().unwrap().starts_with("its workflow "));
    }
}
