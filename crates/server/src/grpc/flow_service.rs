//! Who runs Flows: what a runner is told, and what it says of its runs. Every call needs a node's certificate; of Flows of
//! other namespaces than its grant names it learns nothing, and it touches a run by its lease alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tulle_model::legible::legible_start;
use tulle_model::name::NamespacedName;
use tulle_wire::flow::flow_service_server::FlowService;
use tulle_wire::flow::{
    self as wire, append_request, run_command, runner_says, runner_told, start_run_response,
};

use super::{CallingNode, caller, note_refusal};
use crate::audit::Audit;
use crate::enrolment::Enrolment;
use crate::flows::{
    AllFlows, Append, Begun, Flows, FlowsError, KnownFlow, NewRunner, NewStart, RunName, RunWish, RunnerNote,
    Then, allows,
};

/// How long the first message of a stream may take, and any to be taken by the runner.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many notes may wait for a runner.
const NOTES: usize = 16_384;
/// How long the end of a run is waited for: a call may take no longer than [`super::CALL_TIMEOUT`].
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// How many runs a runner takes at most, and how many it may hold when it comes back.
const MOST_RUNS: usize = 1 << 20;
/// How many characters are logged of why a runner cannot read a run.
const MOST_WHY: usize = 512;

/// The service of Flows.
#[derive(Clone)]
pub struct FlowApi {
    pub flows: Arc<Flows>,
    pub enrolment: Enrolment,
    pub audit: Audit,
    /// Where the server listens.
    pub ports: Arc<[u16]>,
    pub stop: CancellationToken,
}

/// A node that may run Flows.
struct CallingRunner {
    node: CallingNode,
    spaces: Arc<[String]>,
}

impl FlowApi {
    /// Who calls, where that is a node that runs Flows. Whoever has an open stream was asked for his grant then, and is still in.
    async fn runner<T>(&self, request: &Request<T>) -> Result<CallingRunner, Status> {
        let node = caller(request, "runflows", &self.audit)?;
        if let Some(spaces) = self.flows.spaces(&node.name, node.stamp)
            && !self.enrolment.revocations().list().includes(node.stamp)
        {
            return Ok(CallingRunner { node, spaces });
        }
        let spaces = self.granted(&node).await?;
        Ok(CallingRunner { node, spaces })
    }

    /// The namespaces whose Flows a node may run. A refusal is noted in the audit log.
    async fn granted(&self, node: &CallingNode) -> Result<Arc<[String]>, Status> {
        let grant = self.enrolment.require_grant(&node.name, node.stamp).await.map_err(Status::from);
        let granted = grant.and_then(|grant| match grant.flows.is_empty() {
            true => Err(Status::permission_denied(format!(
                "the node `{}` may run no Flows; it would have to join with a token of `tulle token create --flows NAMESPACE`",
                node.name
            ))),
            false => Ok(grant.flows.into()),
        });
        granted.inspect_err(|status| {
            note_refusal(&self.audit, &node.name, "runflows", &format!("nodes/{}", node.name), status);
        })
    }

    /// Which run a call is about, where the node may know of it.
    fn run(&self, runner: &CallingRunner, run: Option<wire::RunRef>) -> Result<RunName, Status> {
        let run = run.ok_or_else(|| Status::invalid_argument("`run` is missing"))?;
        let name = RunName { namespace: run.namespace.into(), flow: run.flow.into(), run: run.run.into() };
        if [&name.namespace, &name.flow, &name.run]
            .into_iter()
            .any(|part| part.is_empty() || part.contains('/'))
        {
            return Err(Status::invalid_argument("`run` needs a namespace, a flow and a run"));
        }
        self.check_space(runner, &name.namespace)?;
        Ok(name)
    }

    fn check_space(&self, runner: &CallingRunner, namespace: &str) -> Result<(), Status> {
        if allows(&runner.spaces, namespace) {
            return Ok(());
        }
        let (node, namespace) = (&runner.node.name, legible_start(namespace, 63));
        let message = format!("the node `{node}` may not run Flows of the namespace `{namespace}`");
        let status = Status::permission_denied(message);
        note_refusal(&self.audit, node, "runflows", &format!("flows.tulle.dev/{namespace}"), &status);
        Err(status)
    }
}

/// Goes on to its end though the caller goes away: what is half done would stay so.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, FlowsError>> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::spawn(work).await.map_err(|e| Status::internal(e.to_string()))?;
    done.map_err(refused)
}

#[tonic::async_trait]
impl FlowService for FlowApi {
    type ServeStream = ReceiverStream<Result<wire::RunnerTold, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<wire::RunnerSays>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let node = caller(&request, "runflows", &self.audit)?;
        let spaces = self.granted(&node).await?;
        let runner = CallingRunner { node, spaces };
        let inbound = request.into_inner();
        let (outbound, told) = mpsc::channel(64);
        let api = self.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                end = api.serve_runner(&runner, inbound, &outbound) => end,
                () = outbound.closed() => Ok(()),
                () = api.stop.cancelled() => Err(Status::unavailable("the server stops")),
            };
            if let Err(status) = end {
                let node = &runner.node.name;
                tracing::info!(%node, "the stream of a runner ended: {}", status.message());
                note_refusal(&api.audit, node, "runflows", &format!("nodes/{node}"), &status);
                let _ = tokio::time::timeout(Duration::from_secs(1), outbound.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn start(
        &self,
        request: Request<wire::StartRunRequest>,
    ) -> Result<Response<wire::StartRunResponse>, Status> {
        let runner = self.runner(&request).await?;
        let asked = request.into_inner();
        self.check_space(&runner, &asked.namespace)?;
        let CallingNode { name: node, stamp, .. } = runner.node;
        if self.flows.spaces(&node, stamp).is_none() {
            return Err(Status::unavailable("a runner opens its stream (Serve) before it begins runs"));
        }
        let input = serde_json::from_slice(&asked.input)
            .map_err(|e| Status::invalid_argument(format!("`input` is no JSON: {e}")))?;
        let new = NewStart {
            flow: NamespacedName::new(asked.namespace, asked.flow),
            caller: asked.caller.into(),
            input,
            given: asked.given,
        };
        let flows = self.flows.clone();
        let begun = to_its_end(async move { flows.start_run(new, Some(&node)).await }).await?;
        started(begun, &asked.uid, asked.generation).map(Response::new)
    }

    async fn load(
        &self,
        request: Request<wire::LoadRunRequest>,
    ) -> Result<Response<wire::LoadRunResponse>, Status> {
        let runner = self.runner(&request).await?;
        let wire::LoadRunRequest { run, lease, first } = request.into_inner();
        let run = self.run(&runner, run)?;
        let (mut answer, part) = match first {
            Some(first) => {
                let part = self.flows.history(&run, &runner.node.name, lease, first).await;
                (wire::LoadRunResponse::default(), part.map_err(refused)?)
            }
            None => {
                let loaded = self.flows.load(&run, &runner.node.name, lease).await.map_err(refused)?;
                let checkpoint = loaded
                    .checkpoint
                    .map(|(entries, state)| wire::RunCheckpoint { entries, state: state.into() });
                let answer = wire::LoadRunResponse {
                    info: json(&loaded.info)?,
                    workflow: json(&loaded.workflow)?,
                    checkpoint,
                    service_account: loaded.header.account.to_string(),
                    nobody_since: self.flows.nobody_since(&run),
                    ..wire::LoadRunResponse::default()
                };
                (answer, loaded.part)
            }
        };
        answer.entries = part.entries.iter().map(json).collect::<Result<_, _>>()?;
        answer.has_more = part.has_more;
        Ok(Response::new(answer))
    }

    async fn append(
        &self,
        request: Request<wire::AppendRequest>,
    ) -> Result<Response<wire::AppendResponse>, Status> {
        let runner = self.runner(&request).await?;
        let asked = request.into_inner();
        let run = self.run(&runner, asked.run.clone())?;
        let append = appended(asked)?;
        let (flows, node) = (self.flows.clone(), runner.node.name);
        to_its_end(async move { flows.append(&run, &node, append).await }).await?;
        Ok(Response::new(wire::AppendResponse {}))
    }

    async fn outcome(
        &self,
        request: Request<wire::OutcomeRequest>,
    ) -> Result<Response<wire::OutcomeResponse>, Status> {
        let runner = self.runner(&request).await?;
        let wire::OutcomeRequest { run, caller, wait_millis } = request.into_inner();
        let run = self.run(&runner, run)?;
        let wait = Duration::from_millis(wait_millis).min(LONGEST_WAIT);
        let outcome = self.flows.outcome(&run, wait, |header| *header.caller == *caller).await;
        let (header, outcome) = outcome.map_err(refused)?;
        Ok(Response::new(wire::OutcomeResponse {
            outcome: outcome.as_ref().map(json).transpose()?,
            state: header.state.name().to_owned(),
        }))
    }

    async fn secrets(
        &self,
        request: Request<wire::SecretsRequest>,
    ) -> Result<Response<wire::SecretsResponse>, Status> {
        let runner = self.runner(&request).await?;
        let wire::SecretsRequest { run, lease } = request.into_inner();
        let run = self.run(&runner, run)?;
        let found = self.flows.secrets(&run, &runner.node.name, lease).await.map_err(refused)?;
        let data = |(name, data): (String, BTreeMap<String, String>)| {
            (name, wire::SecretData { data: data.into_iter().collect() })
        };
        Ok(Response::new(wire::SecretsResponse {
            secrets: found.secrets.into_iter().map(data).collect(),
            refused: found.refused.into_iter().collect(),
        }))
    }
}

/// A runner's stream, until it is dropped.
struct RunnerStream<'s> {
    flows: &'s Flows,
    node: &'s str,
    session: u64,
}

impl Drop for RunnerStream<'_> {
    fn drop(&mut self) {
        self.flows.closed(self.node, self.session);
    }
}

/// Why a stream ends that is not the runner's present one.
fn replaced() -> Status {
    Status::aborted(
        "another stream of this node has taken the place of this one, or it did not read what it was told",
    )
}

type Outbound = mpsc::Sender<Result<wire::RunnerTold, Status>>;

impl FlowApi {
    async fn serve_runner(
        &self,
        runner: &CallingRunner,
        mut inbound: Streaming<wire::RunnerSays>,
        outbound: &Outbound,
    ) -> Result<(), Status> {
        let CallingRunner { node, spaces } = runner;
        let first = tokio::time::timeout(PATIENCE, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the runner did not say hello"))??;
        let Some(first) = first else { return Ok(()) };
        let Some(runner_says::Said::Opened(opened)) = first.said else {
            return Err(Status::invalid_argument("the first message of a stream must be `opened`"));
        };
        if opened.instance.is_empty() || opened.holds.len() > MOST_RUNS {
            return Err(Status::invalid_argument(
                "`opened` needs an instance, and holds no more than it takes",
            ));
        }
        let mut holds = Vec::with_capacity(opened.holds.len());
        for held in opened.holds {
            holds.push((self.run(runner, held.run)?, held.lease));
        }
        let (notes, noted) = mpsc::channel(NOTES.max(holds.len() + NOTES / 2));
        let instance: Arc<str> = opened.instance.into();
        let new = NewRunner {
            node: node.name.clone(),
            instance: instance.clone(),
            stamp: node.stamp,
            spaces: spaces.clone(),
            most: (opened.most_runs as usize).min(MOST_RUNS),
            notes,
            holds,
        };
        // Before runs are leased to it, which takes a while where there are many.
        send(outbound, self.settings()).await?;
        let (session, inherited) = self.flows.open(new);
        let _open = RunnerStream { flows: &self.flows, node: &node.name, session };
        // To its end, though the runner goes away: what is leased by half is nobody's.
        let (flows, name) = (self.flows.clone(), node.name.clone());
        tokio::spawn(async move { flows.lease_inherited(name, instance, inherited).await });
        let expiry = tokio::time::sleep_until(node.expires);
        let end = tokio::select! {
            end = self.listen(runner, session, inbound) => end,
            end = self.tell(spaces, noted, outbound) => end,
            () = expiry => Err(Status::unauthenticated("the node's certificate has expired; reconnect with a new one")),
        };
        end
    }

    fn settings(&self) -> runner_told::Told {
        runner_told::Told::Settings(wire::RunnerSettings {
            lease_millis: self.flows.lease().as_millis().try_into().unwrap_or(u64::MAX),
            server_ports: self.ports.iter().map(|port| u32::from(*port)).collect(),
            most_document: self.flows.book().bounds().document.try_into().unwrap_or(u64::MAX),
        })
    }

    /// Hears a runner.
    async fn listen(
        &self,
        runner: &CallingRunner,
        session: u64,
        mut inbound: Streaming<wire::RunnerSays>,
    ) -> Result<(), Status> {
        let node = &runner.node;
        while let Some(message) = inbound.message().await? {
            if self.enrolment.revocations().list().includes(node.stamp) {
                self.flows.revoke(&node.name);
                return Err(Status::permission_denied(format!("the node `{}` was revoked", node.name)));
            }
            if !self.flows.heard(&node.name, session) {
                return Err(replaced());
            }
            match message.said {
                Some(runner_says::Said::Leaves(_)) => self.flows.leaves(&node.name, session),
                Some(runner_says::Said::CannotRead(wire::RunnerCannotRead { run: Some(held), why })) => {
                    let run = self.run(runner, held.run)?;
                    let why = legible_start(&why, MOST_WHY);
                    self.flows.cannot_read(&node.name, session, &run, held.lease, &why);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells a runner of Flows, and gives it runs.
    async fn tell(
        &self,
        spaces: &[String],
        mut noted: mpsc::Receiver<RunnerNote>,
        outbound: &Outbound,
    ) -> Result<(), Status> {
        let mut changes = self.flows.known().changes();
        let mut told = HashMap::new();
        let all = changes.borrow_and_update().clone();
        tell_flows(outbound, spaces, &all, &mut told).await?;
        send(outbound, runner_told::Told::All(wire::AllFlowsTold {})).await?;
        loop {
            tokio::select! {
                note = noted.recv() => match note {
                    Some(note) => send(outbound, note_told(note)).await?,
                    None => return Err(replaced()),
                },
                changed = changes.changed() => {
                    changed.map_err(|_| Status::unavailable("the server stops"))?;
                    let all = changes.borrow_and_update().clone();
                    tell_flows(outbound, spaces, &all, &mut told).await?;
                }
            }
        }
    }
}

async fn send(outbound: &Outbound, told: runner_told::Told) -> Result<(), Status> {
    let sent = outbound.send(Ok(wire::RunnerTold { told: Some(told) }));
    match tokio::time::timeout(PATIENCE, sent).await {
        Ok(sent) => sent.map_err(|_| Status::cancelled("the runner has gone")),
        Err(_) => Err(Status::deadline_exceeded("the runner does not read what it is told")),
    }
}

/// Says what is new of the Flows.
async fn tell_flows(
    outbound: &Outbound,
    spaces: &[String],
    all: &Arc<AllFlows>,
    told: &mut HashMap<NamespacedName, Arc<KnownFlow>>,
) -> Result<(), Status> {
    let gone: Vec<_> = told.keys().filter(|name| !all.contains_key(*name)).cloned().collect();
    for name in gone {
        told.remove(&name);
        let NamespacedName { namespace, name } = &name;
        let gone = wire::FlowGone { namespace: namespace.to_string(), name: name.to_string() };
        send(outbound, runner_told::Told::Gone(gone)).await?;
    }
    for (name, flow) in all.iter().filter(|(name, _)| allows(spaces, &name.namespace)) {
        if told.get(name).is_some_and(|before| Arc::ptr_eq(before, flow) || before == flow) {
            continue;
        }
        told.insert(name.clone(), flow.clone());
        send(outbound, runner_told::Told::Flow(flow_told(flow)?)).await?;
    }
    Ok(())
}

fn flow_told(flow: &KnownFlow) -> Result<wire::FlowTold, Status> {
    Ok(wire::FlowTold {
        namespace: flow.name.namespace.to_string(),
        name: flow.name.name.to_string(),
        uid: flow.uid.clone(),
        generation: flow.generation,
        service_account: flow.account.to_string(),
        workflow: json(&flow.workflow)?,
        http: flow.trigger.as_ref().map(|http| wire::FlowHttpTrigger {
            port: http.port.into(),
            wait_millis: http.wait.as_millis().try_into().unwrap_or(u64::MAX),
            request: http.request,
            headers: http.headers.clone(),
        }),
    })
}

fn reference(run: &RunName) -> Option<wire::RunRef> {
    let RunName { namespace, flow, run } = run;
    Some(wire::RunRef { namespace: namespace.to_string(), flow: flow.to_string(), run: run.to_string() })
}

fn note_told(note: RunnerNote) -> runner_told::Told {
    match note {
        RunnerNote::Given(run, lease, wishes) => runner_told::Told::Given(wire::GivenRun {
            commands: wishes.into_iter().map(|wish| command(&run, wish)).collect(),
            run: reference(&run),
            lease,
        }),
        RunnerNote::Wish(run, wish) => runner_told::Told::Command(command(&run, wish)),
        RunnerNote::Lost(run, lease) => {
            runner_told::Told::Lost(wire::HeldRun { run: reference(&run), lease })
        }
    }
}

fn command(run: &RunName, wish: RunWish) -> wire::RunCommand {
    let command = match wish {
        RunWish::Suspend => run_command::Command::Suspend(wire::SuspendRun {}),
        RunWish::Resume => run_command::Command::Resume(wire::ResumeRun {}),
        RunWish::Retry(task) => run_command::Command::Retry(wire::RetryRun { task: task.to_string() }),
    };
    wire::RunCommand { run: reference(run), command: Some(command) }
}

/// `uid` and `generation`: those of the Flow as the runner knows it.
fn started(begun: Begun, uid: &str, generation: i64) -> Result<wire::StartRunResponse, Status> {
    let (run, started) = match begun {
        Begun::New { header, info, flow } => {
            let is_known = flow.uid == uid && flow.generation == generation;
            let new = wire::NewRun {
                lease: header.lease,
                info: json(&info)?,
                workflow: (!is_known).then(|| json(&flow.workflow)).transpose()?,
                service_account: header.account.to_string(),
            };
            (header.name, start_run_response::Started::New(new))
        }
        Begun::Elsewhere(header) | Begun::Queued(header) => {
            (header.name, start_run_response::Started::Queued(wire::QueuedRun {}))
        }
        Begun::Before(run) => (run, start_run_response::Started::Before(wire::StartedBefore {})),
        Begun::Otherwise(run) => (run, start_run_response::Started::Otherwise(wire::StartedOtherwise {})),
    };
    Ok(wire::StartRunResponse { run: reference(&run), started: Some(started) })
}

fn appended(asked: wire::AppendRequest) -> Result<Append, Status> {
    let entries = asked.entries.iter().map(|entry| serde_json::from_slice(entry)).collect::<Result<_, _>>();
    let entries = entries.map_err(|e| Status::invalid_argument(format!("`entries`: {e}")))?;
    let then = match asked.then {
        Some(append_request::Then::GoesOn(_)) => Then::GoesOn,
        Some(append_request::Then::Waits(waits)) => Then::Waits(waits.until),
        Some(append_request::Then::Suspended(_)) => Then::Suspended,
        Some(append_request::Then::Ends(ends)) => {
            let outcome = serde_json::from_slice(&ends.outcome);
            Then::Ends(
                ends.at,
                outcome.map_err(|e| Status::invalid_argument(format!("`ends.outcome`: {e}")))?,
            )
        }
        None => return Err(Status::invalid_argument("`then` is missing")),
    };
    let checkpoint = asked.checkpoint.map(|checkpoint| checkpoint.to_vec());
    Ok(Append { lease: asked.lease, first: asked.first, entries, checkpoint, then })
}

fn json<T: serde::Serialize>(value: &T) -> Result<bytes::Bytes, Status> {
    let written = serde_json::to_vec(value).map_err(|e| Status::internal(e.to_string()))?;
    Ok(written.into())
}

fn refused(error: FlowsError) -> Status {
    let message = error.to_string();
    match error {
        FlowsError::NotFound(_) | FlowsError::NoFlow(_) => Status::not_found(message),
        FlowsError::Lost(_) => Status::aborted(message),
        FlowsError::Invalid(_) => Status::invalid_argument(message),
        FlowsError::Refused(_) | FlowsError::TooLarge(_) | FlowsError::TooDeep(_) => {
            Status::failed_precondition(message)
        }
        FlowsError::TooMany(_) => Status::resource_exhausted(message),
        FlowsError::NoRunner(_)
        | FlowsError::Contended(_)
        | FlowsError::Objects(_)
        | FlowsError::Store(_) => Status::unavailable(message),
        FlowsError::Unreadable { .. } => Status::internal(message),
    }
}
