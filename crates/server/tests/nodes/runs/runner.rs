//! A runner as the server sees it, with nothing behind it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tulle_model::flow::history::{HistoryEntry, Outcome};
use tulle_model::flow::run::{AskId, RunEvent};
use tulle_model::registry::KindId;
use tulle_server::fleet::Leases;
use tulle_server::views::NewToken;
use tulle_server::{Server, ServerConfig};
use tulle_wire::flow::flow_service_client::FlowServiceClient;
use tulle_wire::flow::*;

use crate::client::{PATIENCE, TestNode, TestServer};

/// The lease in these tests: a beat is missed by a slow machine, and waited for by nobody for long.
pub const LEASE: Duration = Duration::from_millis(1500);

pub fn config(home: &std::path::Path) -> ServerConfig {
    let leases = Leases { flow_lease: LEASE, ..Leases::default() };
    ServerConfig { leases, ..ServerConfig::local(home) }
}

pub async fn server() -> TestServer {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(config(home.path())).await.unwrap();
    TestServer { server, home }
}

/// A Flow whose workflow has one task.
pub async fn put_flow(server: &TestServer, name: &str, more: Value) {
    let mut spec = json!({
        "serviceAccount": "orders",
        "workflow": {
            "document": { "dsl": "1.0.3", "namespace": "any", "name": "any", "version": "1.0.0" },
            "do": [{ "one": { "set": { "a": 1 } } }],
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let object = json!({ "metadata": { "namespace": "shop", "name": name }, "spec": spec });
    server.put(KindId::Flow, "shop", object).await;
}

/// A node whose token lets it run Flows of these namespaces.
pub async fn node(server: &TestServer, name: &str, flows: &[&str]) -> TestNode {
    let request = NewToken {
        identities: vec!["nothing/here".to_owned()],
        flows: flows.iter().map(|&of| of.to_owned()).collect(),
        ttl_seconds: None,
        node: None,
    };
    let token = server.server.views().create_token(request).await.unwrap().token;
    TestNode::join(server.server.node_address, name, &token).await.unwrap()
}

pub struct Runner {
    pub calls: FlowServiceClient<Channel>,
    says: mpsc::Sender<RunnerSays>,
    told: Streaming<RunnerTold>,
    /// Where it says that it is there, until it is dropped or stopped.
    beating: tokio::task::JoinHandle<()>,
    /// The Flows that it knows.
    pub flows: Vec<FlowTold>,
}

pub fn run_ref(flow: &str, run: &str) -> Option<RunRef> {
    Some(RunRef { namespace: "shop".to_owned(), flow: flow.to_owned(), run: run.to_owned() })
}

impl Runner {
    pub async fn open(node: &TestNode, instance: &str, most_runs: u32, holds: &[(&str, u64)]) -> Self {
        Self::try_open(node, instance, most_runs, holds).await.unwrap()
    }

    pub async fn try_open(
        node: &TestNode,
        instance: &str,
        most_runs: u32,
        holds: &[(&str, u64)],
    ) -> Result<Self, Status> {
        let mut calls = FlowServiceClient::new(node.channel().await);
        let (says, receiver) = mpsc::channel(64);
        let holds =
            holds.iter().map(|(run, lease)| HeldRun { run: run_ref("order", run), lease: *lease }).collect();
        let opened = RunnerOpened { instance: instance.to_owned(), most_runs, holds };
        let opened = RunnerSays { said: Some(runner_says::Said::Opened(opened)) };
        says.send(opened).await.unwrap();
        let told = calls.serve(ReceiverStream::new(receiver)).await?.into_inner();
        let beats = says.clone();
        let beating = tokio::spawn(async move {
            let beat = RunnerSays { said: Some(runner_says::Said::Beat(RunnerBeat { runs: 0 })) };
            while beats.send(beat.clone()).await.is_ok() {
                tokio::time::sleep(LEASE / 5).await;
            }
        });
        let mut runner = Self { calls, says, told, beating, flows: Vec::new() };
        match runner.next().await? {
            runner_told::Told::Settings(settings) => {
                assert_eq!(u128::from(settings.lease_millis), LEASE.as_millis());
            }
            other => panic!("{other:?}"),
        }
        loop {
            match runner.next().await? {
                runner_told::Told::Flow(flow) => runner.flows.push(flow),
                runner_told::Told::All(_) => return Ok(runner),
                other => panic!("{other:?}"),
            }
        }
    }

    /// It hangs: its stream stands, and says nothing.
    pub fn freeze(&self) {
        self.beating.abort();
    }

    pub async fn cannot_read(&self, run: &str, lease: u64) {
        let run = Some(HeldRun { run: run_ref("order", run), lease });
        let cannot_read = RunnerCannotRead { run, why: "it is of a later version".to_owned() };
        let says = RunnerSays { said: Some(runner_says::Said::CannotRead(cannot_read)) };
        self.says.send(says).await.unwrap();
    }

    pub async fn beat(&self) {
        let beat = RunnerSays { said: Some(runner_says::Said::Beat(RunnerBeat { runs: 0 })) };
        self.says.send(beat).await.unwrap();
    }

    pub async fn next(&mut self) -> Result<runner_told::Told, Status> {
        let message =
            tokio::time::timeout(PATIENCE, self.told.message()).await.expect("it is told something");
        Ok(message?.expect("the stream goes on").told.unwrap())
    }

    /// The next run that it is given.
    pub async fn given(&mut self) -> GivenRun {
        match self.next().await.unwrap() {
            runner_told::Told::Given(given) => given,
            other => panic!("{other:?}"),
        }
    }

    pub async fn lost(&mut self) -> HeldRun {
        match self.next().await.unwrap() {
            runner_told::Told::Lost(lost) => lost,
            other => panic!("{other:?}"),
        }
    }

    pub async fn command(&mut self) -> run_command::Command {
        match self.next().await.unwrap() {
            runner_told::Told::Command(command) => command.command.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn start(&mut self, flow: &str, given: Option<&str>) -> Result<StartRunResponse, Status> {
        let input = json!({ "card": 7 }).to_string().into_bytes().into();
        self.start_with(flow, given, input).await
    }

    pub async fn start_with(
        &mut self,
        flow: &str,
        given: Option<&str>,
        input: bytes::Bytes,
    ) -> Result<StartRunResponse, Status> {
        let request = StartRunRequest {
            namespace: "shop".to_owned(),
            flow: flow.to_owned(),
            caller: "spiffe://mesh.local/ns/shop/sa/web".to_owned(),
            input,
            given: given.map(str::to_owned),
            uid: String::new(),
            generation: 0,
        };
        Ok(self.calls.start(request).await?.into_inner())
    }

    /// Begins a run that it carries out itself.
    pub async fn begin(&mut self, flow: &str) -> (String, NewRun) {
        let response = self.start(flow, None).await.unwrap();
        let run = response.run.unwrap().run;
        match response.started.unwrap() {
            start_run_response::Started::New(new) => (run, new),
            other => panic!("{other:?}"),
        }
    }

    pub async fn load(&mut self, run: &str, lease: u64) -> Result<LoadRunResponse, Status> {
        let request = LoadRunRequest { run: run_ref("order", run), lease, first: None };
        Ok(self.calls.load(request).await?.into_inner())
    }

    pub async fn append(
        &mut self,
        run: &str,
        (lease, first): (u64, u32),
        then: append_request::Then,
    ) -> Result<(), Status> {
        let event = match then {
            append_request::Then::Suspended(_) => RunEvent::Suspended,
            _ => RunEvent::Fired { ask: AskId(first) },
        };
        let entry = serde_json::to_vec(&HistoryEntry::new(7, event)).unwrap();
        let request = AppendRequest {
            run: run_ref("order", run),
            lease,
            first,
            entries: vec![entry.into()],
            checkpoint: None,
            then: Some(then),
        };
        self.calls.append(request).await.map(drop)
    }

    pub async fn end(&mut self, run: &str, at: (u64, u32), outcome: Outcome) {
        self.append(run, at, ends(&outcome)).await.unwrap();
    }

    pub async fn outcome(&mut self, flow: &str, run: &str, caller: &str) -> Result<OutcomeResponse, Status> {
        let request =
            OutcomeRequest { run: run_ref(flow, run), caller: caller.to_owned(), wait_millis: 60_000 };
        Ok(self.calls.outcome(request).await?.into_inner())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

pub fn ends(outcome: &Outcome) -> append_request::Then {
    let outcome = serde_json::to_vec(outcome).unwrap().into();
    append_request::Then::Ends(RunEnds { at: 9, outcome })
}

pub fn goes_on() -> append_request::Then {
    append_request::Then::GoesOn(RunGoesOn {})
}
