//! Runs Flows, as far as the node's token lets it: takes their requests, and carries their runs out. Histories are the server's, which gives
//! runs to nodes; [`tulle_flow::runner`] carries them out.

mod book;
mod caller;
mod clock;
mod served;
mod stream;
mod trigger;
mod workflow;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tulle_flow::evaluator::{Evaluator, Evaluators};
use tulle_flow::runner::{GivenRun, RunCommand, Runner, RunnerLimits};
use tulle_model::flow::history::{Outcome, RunName};
use tulle_model::flow::scope::RunInfo;
use tulle_proxy::Proxy;
use tulle_wire::flow as wire;

use self::book::ServerBook;
use self::caller::MeshCaller;
use self::clock::ServersClock;
use self::served::{Flow, ServedFlows};
use crate::control::Server;
use crate::workloads::Workloads;

/// How many runs are loaded at once.
const LOADS: usize = 64;
/// How many runs with a long history are loaded and gone through at once: each takes a multiple of what the store keeps of it.
const LONG_LOADS: usize = 2;
/// How long what runs were doing waits for the services of this host.
const SERVICES_COME: Duration = Duration::from_secs(60);
/// How many requests wait for the end of a run that this node does not carry out. A connection to the server has 256 streams.
const WAITING: usize = 100;

/// What runs Flows on this node.
pub(crate) struct FlowNode {
    own: Vec<SocketAddr>,
    server: Server,
    served: Arc<ServedFlows>,
    runner: Runner<ServerBook, MeshCaller, ServersClock>,
    most_runs: usize,
    loads: Semaphore,
    long_loads: Arc<Semaphore>,
    waiting: Semaphore,
    leave: watch::Receiver<RunsLeaving>,
    /// Whether the services of this host are there, as far as they are started with it.
    services: watch::Receiver<bool>,
    started: Instant,
    /// Whether nothing is under way any more then.
    rested: watch::Sender<bool>,
    /// Runs that were given, and are not carried out yet.
    coming: Mutex<HashMap<RunName, Coming>>,
    unreadable: Unreadable,
}

/// Runs that were given, and cannot be read, until the server is told: under which lease, and why.
#[derive(Default)]
struct Unreadable {
    runs: Mutex<Vec<(RunName, u64, String)>>,
    more: Notify,
}

/// Whether the node is about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunsLeaving {
    Stays,
    /// Nothing more is begun.
    Rests,
    /// What is called is about to go: calls that have no answer yet have none.
    Drops,
}

/// A run on its way.
struct Coming {
    lease: u64,
    /// What was wanted of it meanwhile.
    commands: Vec<RunCommand>,
}

/// What it works with.
pub(crate) struct FlowParts {
    pub name: String,
    pub server: Server,
    pub workloads: Arc<Workloads>,
    pub proxy: Arc<Proxy>,
    /// Where this process listens: calls of Flows do not reach that, nor the server.
    pub own: Vec<SocketAddr>,
    pub leave: watch::Receiver<RunsLeaving>,
    /// Whether the services of this host are there: what runs were doing goes on then, or after a minute.
    pub services: watch::Receiver<bool>,
    /// Is told when nothing is under way any more then.
    pub rested: watch::Sender<bool>,
}

/// Runs Flows for as long as this is polled.
pub(crate) async fn run(parts: FlowParts) {
    let FlowParts { name, server, workloads, proxy, own, leave, services, rested } = parts;
    let served = ServedFlows::new(&name, workloads);
    let (tells, told) = watch::channel(None);
    let caller = MeshCaller { proxy, served: served.clone(), told, started: Instant::now() };
    let clock = ServersClock(server.clock().clone());
    let book = ServerBook { server: server.clone() };
    let evaluator = Evaluator::new(Evaluators::default());
    let limits = RunnerLimits::default();
    let node = Arc::new(FlowNode {
        own,
        server,
        served,
        most_runs: limits.most_runs,
        runner: Runner::new(book, caller, evaluator, clock, limits),
        loads: Semaphore::new(LOADS),
        long_loads: Arc::new(Semaphore::new(LONG_LOADS)),
        waiting: Semaphore::new(WAITING),
        leave,
        services,
        started: Instant::now(),
        rested,
        coming: Mutex::default(),
        unreadable: Unreadable::default(),
    });
    // Whoever takes its runs over makes again what is under way.
    let _ends = OnEnd(node.clone());
    // Ends with this.
    let mut tasks = JoinSet::new();
    tasks.spawn(caller::follow(node.server.connected(), tells));
    tokio::join!(stream::keep(&node, &mut tasks), rest_at_end(&node));
    // Requests are answered for as long as the node drains.
    std::future::pending().await
}

/// Has runs rest when the node is about to end: what they call is about to go as well.
async fn rest_at_end(node: &FlowNode) {
    let (mut leave, mut drops) = (node.leave.clone(), node.leave.clone());
    if leave.wait_for(|leaving| *leaving != RunsLeaving::Stays).await.is_ok() {
        tokio::select! {
            () = node.runner.rest() => {}
            // Whoever takes them over makes these calls again.
            _ = drops.wait_for(|leaving| *leaving == RunsLeaving::Drops) => node.runner.drop_all(),
        }
        node.rested.send_replace(true);
    }
}

/// Drops all runs with it.
struct OnEnd(Arc<FlowNode>);

impl Drop for OnEnd {
    fn drop(&mut self) {
        self.0.coming.lock().clear();
        self.0.runner.drop_all();
    }
}

impl FlowNode {
    /// Begins a run that this node has started. What is returned is what comes of it, where this node carries it out to its end.
    fn begin(
        self: &Arc<Self>,
        run: &RunName,
        new: wire::NewRun,
        flow: &Flow,
    ) -> Result<impl Future<Output = Option<Outcome>> + Send + use<>, String> {
        let info: RunInfo = serde_json::from_slice(&new.info).map_err(|error| error.to_string())?;
        let workflow = match &new.workflow {
            Some(document) => workflow::read_workflow(document)
                .map_err(|why| format!("the workflow of the run {} {why}", run.run))?,
            None => flow.workflow.clone(),
        };
        let given = GivenRun {
            id: run.clone(),
            lease: new.lease,
            info: Arc::new(info),
            workflow,
            checkpoint: None,
            entries: Vec::new(),
            place: None,
            nobody_since: None,
            commands: Vec::new(),
        };
        if self.runner.carry_on(given).is_err() {
            // Others were faster: it has its turn.
            stream::give(
                self,
                wire::GivenRun { run: Some(book::reference(run)), lease: new.lease, commands: Vec::new() },
            );
        }
        Ok(self.runner.ended(run))
    }
}
