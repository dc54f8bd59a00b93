//! Runs that the runner carries out: who has them, what is written down, and what becomes of them meanwhile.

mod commands;
mod costs;
mod histories;
mod leases;
mod retries;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tulle_flow::evaluator::{Evaluator, Evaluators};
use tulle_flow::runner::{CallAnswer, Caller, Clock, OutgoingCall, RunCommand, Runner, RunnerLimits};
use tulle_model::flow::fault::Fault;
use tulle_model::flow::history::{Outcome, RunName, Then};
use tulle_model::flow::run::RunEvent;
use tulle_model::flow::scope::{Millis, RunInfo};
use tulle_model::flow::workflow::Workflow;

use crate::memory::{MemoryBook, RunFacts, TestClock, all_wait};

type TestRunner = Runner<MemoryBook, Services, TestClock>;

const STARTED: Millis = 1_000_000;

/// Answers every call after 100 ms: as its URI's path says a status, which may be changed on the way.
#[derive(Clone)]
struct Services {
    clock: TestClock,
    made: Arc<Mutex<Vec<Made>>>,
    /// What those answer that are said to be broken.
    broken: Arc<Mutex<StatusCode>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Made {
    path: Arc<str>,
    key: String,
    at: Millis,
}

impl Caller for Services {
    async fn call(&self, call: OutgoingCall) -> Result<CallAnswer, Fault> {
        // What is fetched beside calls has none.
        let key =
            call.headers.get("idempotency-key").map_or("", |key| key.to_str().expect("a key is a text"));
        let key = key.to_owned();
        let at = self.clock.now();
        self.made.lock().push(Made { path: call.path, key, at });
        self.clock.sleep_until(at + 100).await;
        let status = if ["/broken", "/schema"].contains(&call.uri.path()) {
            *self.broken.lock()
        } else {
            StatusCode::OK
        };
        let body = if call.uri.path() == "/schema" { r#"{"type": "object"}"# } else { "good" };
        Ok(CallAnswer { status, headers: HeaderMap::new(), body: body.into(), trace: None })
    }
}

/// All that is around runners.
struct Around {
    book: MemoryBook,
    clock: TestClock,
    services: Services,
    evaluator: Evaluator,
}

impl Around {
    fn new() -> Self {
        Self::with(crate::evaluators())
    }

    fn with(evaluators: Evaluators) -> Self {
        let clock = TestClock::new(STARTED);
        let broken = Arc::new(Mutex::new(StatusCode::SERVICE_UNAVAILABLE));
        let services = Services { clock: clock.clone(), made: Arc::default(), broken };
        Self { book: MemoryBook::default(), clock, services, evaluator: Evaluator::new(evaluators) }
    }

    fn runner(&self) -> TestRunner {
        self.runner_within(RunnerLimits::default())
    }

    fn runner_within(&self, limits: RunnerLimits) -> TestRunner {
        let (book, services) = (self.book.clone(), self.services.clone());
        Runner::new(book, services, self.evaluator.clone(), self.clock.clone(), limits)
    }

    /// A run that nobody has yet.
    fn begin(&self, run: &str, tasks: Value) -> RunName {
        self.begin_of(run, &workflow(tasks))
    }

    fn begin_of(&self, run: &str, workflow: &Arc<Workflow>) -> RunName {
        self.begin_as("order", run, workflow)
    }

    fn begin_as(&self, flow: &str, run: &str, workflow: &Arc<Workflow>) -> RunName {
        let workflow = workflow.clone();
        let info = RunInfo {
            id: run.into(),
            input: Arc::new(json!({ "n": 1 })),
            started: self.clock.now(),
            seed: 1,
            most_tasks: 1_000,
            most_bytes: 64 << 10,
        };
        let id = RunName { namespace: "shop".into(), flow: flow.into(), run: run.into() };
        self.book.begin(RunFacts { id: id.clone(), info: Arc::new(info), workflow, secrets: json!({}) });
        id
    }

    fn give(&self, runner: &TestRunner, run: &RunName, commands: Vec<RunCommand>) {
        runner.carry_on(self.book.lease(run, commands)).expect("it is not full");
    }

    async fn wait(&self) {
        all_wait(&self.evaluator).await;
    }

    /// Goes on until so much time has passed.
    async fn pass(&self, time: Duration) {
        let until = self.clock.now() + time.as_millis() as Millis;
        self.wait().await;
        while let Some(next) = self.clock.next().filter(|next| *next <= until) {
            self.clock.set(next);
            self.wait().await;
        }
        self.clock.set(until);
        self.wait().await;
    }

    fn then(&self, run: &RunName) -> Then {
        self.book.entered(run).then
    }

    /// The run is over so.
    fn outcome(&self, run: &RunName) -> Outcome {
        match self.then(run) {
            Then::Ends(_, outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// Its history, in words.
    fn history(&self, run: &RunName) -> Vec<String> {
        let word = |event: &RunEvent| match event {
            RunEvent::Answered { result: Ok(_), .. } => "answered".to_owned(),
            RunEvent::Answered { result: Err(fault), .. } => format!("answered {}", fault.status),
            RunEvent::Fired { .. } => "fired".to_owned(),
            RunEvent::Failed { question, .. } => format!("failed {question}"),
            RunEvent::Checked { question } => format!("checked {question}"),
            RunEvent::Retried { entries, .. } => format!("retried {entries}"),
            RunEvent::Suspended => "suspended".to_owned(),
            RunEvent::Resumed => "resumed".to_owned(),
            RunEvent::Cancelled => "cancelled".to_owned(),
            RunEvent::GivenUp { .. } => "given up".to_owned(),
            RunEvent::Rested => "rested".to_owned(),
            RunEvent::TakenOver { .. } => "taken over".to_owned(),
        };
        self.book.entered(run).entries.iter().map(|entry| word(&entry.event)).collect()
    }

    fn keys(&self) -> Vec<String> {
        self.services.made.lock().iter().map(|made| made.key.clone()).collect()
    }
}

fn workflow(tasks: Value) -> Arc<Workflow> {
    let definition = json!({
        "document": { "dsl": "1.0.3", "namespace": "shop", "name": "order", "version": "1.0.0" },
        "do": tasks,
    });
    Arc::new(tulle_model::flow::parse(&definition).expect("it is right"))
}

/// A call of a task by that name.
fn call(name: &str, path: &str) -> Value {
    json!({ name: { "call": "http", "with": { "method": "post", "endpoint": format!("http://a{path}") } } })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
