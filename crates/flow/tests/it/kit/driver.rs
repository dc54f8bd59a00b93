//! Runs a workflow in a time of its own: the core, the evaluation of what it asks, and what its calls are made with and become are those
//! of the product.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tulle_flow::arguments::{self, Authorization, Authorizing};
use tulle_flow::evaluator::Evaluator;
use tulle_flow::questions::{about, answer};
use tulle_flow::schema::check;
use tulle_flow::scoped::{Scoped, Unanswered};
use tulle_model::flow::expression::EvaluationReason;
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::http::{Answer, Arguments, CallRequest};
use tulle_model::flow::run::{
    AskId, Call, EvaluationKind, Order, Run, RunEvent, RunPhase, RunStep, ToEvaluate,
};
use tulle_model::flow::scope::{Millis, RunInfo};
use tulle_model::flow::workflow::{HttpCall, SchemaSource, TaskKind, Workflow};

use super::services::{Elsewhere, Reply, Service};

/// 2026-01-02T03:04:05.678Z
pub const STARTED: Millis = 1_767_323_045_678;
/// How much happens in a run at most.
const MOST_EVENTS: usize = 10_000;

/// What a run is given, and what is around it.
pub struct World {
    pub input: Value,
    pub secrets: Value,
    pub services: Vec<Service>,
    pub elsewhere: Elsewhere,
    /// When it is cancelled, after its start.
    pub cancelled: Option<Millis>,
}

/// A request that was made, and when.
pub struct Sent {
    pub request: CallRequest,
    pub at: Millis,
}

/// What has become of a run.
pub struct Outcome {
    pub workflow: Arc<Workflow>,
    pub phase: RunPhase,
    pub steps: Vec<RunStep>,
    pub sent: Vec<Sent>,
    pub took: Millis,
}

/// What answers a run.
struct Surroundings<'w> {
    world: &'w World,
    evaluator: &'w Evaluator,
    secrets: Arc<Value>,
}

struct Driver<'w> {
    around: Surroundings<'w>,
    workflow: Arc<Workflow>,
    info: Arc<RunInfo>,
    run: Run,
    /// The same run, as somebody else would go on with it after each event.
    other: Run,
    waiting: BTreeMap<(Millis, AskId), RunEvent>,
    sent: Vec<Sent>,
    now: Millis,
}

pub async fn run(workflow: Workflow, world: &World, evaluator: &Evaluator) -> Result<Outcome, String> {
    let workflow = Arc::new(workflow);
    let info = Arc::new(RunInfo {
        id: "run-1".into(),
        input: Arc::new(world.input.clone()),
        started: STARTED,
        seed: 7,
        most_tasks: 500,
        most_bytes: 64 << 10,
    });
    let listed = |name: &str| workflow.secrets.iter().any(|listed| **listed == *name);
    let secrets = world.secrets.as_object().into_iter().flatten();
    let secrets = secrets.filter(|(name, _)| listed(name)).map(|(name, keys)| (name.clone(), keys.clone()));
    let secrets = Arc::new(Value::Object(secrets.collect()));
    let mut driver = Driver {
        around: Surroundings { world, evaluator, secrets },
        run: Run::begin_watched(workflow.clone(), info.clone()),
        other: Run::begin(workflow.clone(), info.clone()),
        workflow,
        info,
        waiting: BTreeMap::new(),
        sent: Vec::new(),
        now: STARTED,
    };
    driver.settle().await?;
    for _ in 0..MOST_EVENTS {
        if let Some(cancelled) = world.cancelled.map(|after| STARTED + after)
            && driver.waiting.first_key_value().is_some_and(|((at, _), _)| *at > cancelled)
        {
            driver.happens(cancelled, RunEvent::Cancelled).await?;
        }
        let Some(((at, _), event)) = driver.waiting.pop_first() else {
            let Driver { workflow, mut run, sent, now, .. } = driver;
            let steps = run.take_steps();
            return Ok(Outcome { workflow, phase: run.phase().clone(), steps, sent, took: now - STARTED });
        };
        driver.happens(at, event).await?;
    }
    Err("it does not end".to_owned())
}

impl Driver<'_> {
    async fn happens(&mut self, at: Millis, event: RunEvent) -> Result<(), String> {
        self.now = at;
        let checkpoint = self.other.checkpoint().ok_or("it has no checkpoint")?;
        let other = Run::restore(self.workflow.clone(), self.info.clone(), &checkpoint);
        self.other = other.map_err(|why| format!("its checkpoint cannot be read: {why}"))?;
        self.other.take(at, event.clone());
        self.run.take(at, event);
        self.settle().await
    }

    /// Answers all questions, and takes up what is ordered.
    async fn settle(&mut self) -> Result<(), String> {
        self.around.answer_all(&mut self.run).await?;
        self.around.answer_all(&mut self.other).await?;
        if self.run.phase() != self.other.phase() || waits(&self.run) != waits(&self.other) {
            return Err(format!("it goes on otherwise after its checkpoint: {:?}", self.other.phase()));
        }
        for order in self.run.take_orders() {
            match order {
                Order::Call(call) => self.call(&call).await?,
                Order::Timer { ask, due } => drop(self.waiting.insert((due, ask), RunEvent::Fired { ask })),
                Order::Forget(ask) => self.waiting.retain(|(_, of), _| *of != ask),
            }
        }
        Ok(())
    }

    async fn call(&mut self, call: &Call) -> Result<(), String> {
        let workflow = self.workflow.clone();
        let TaskKind::Call(http) = &workflow.task(call.task).kind else {
            return Err(format!("{} is no call", call.path));
        };
        let scoped = Scoped::new(self.around.evaluator, &call.scope, &self.around.secrets);
        let mut busy = 0;
        let outcome = loop {
            match request(http, &scoped).await {
                Err(Unanswered::Later(reason)) => again(&mut busy, &reason)?,
                Err(Unanswered::Elsewhere) => return Err("a call asks for no schema".to_owned()),
                Err(Unanswered::Fault(fault)) => break Err(fault),
                Ok(request) => break Ok(request),
            }
        };
        let (after, result) = match outcome {
            Ok(request) => {
                let reply = self.around.reply(&request, self.asked(&request));
                let most = call.scope.run.most_bytes;
                let result = reply.as_ref().map_err(Fault::clone).and_then(|reply| {
                    let answer = Answer { status: reply.status, headers: &reply.headers, body: &reply.body };
                    http.output_of(&request, &answer, most)
                });
                let after = reply.map_or(0, |reply| reply.after.as_millis() as Millis);
                self.sent.push(Sent { request, at: self.now });
                (after, result)
            }
            Err(fault) => (0, Err(fault)),
        };
        let event = RunEvent::Answered { ask: call.ask, result: result.map(Arc::new) };
        self.waiting.insert((self.now + after, call.ask), event);
        Ok(())
    }

    /// How often the same was asked before.
    fn asked(&self, request: &CallRequest) -> usize {
        let same = |sent: &&Sent| sent.request.method == request.method && sent.request.uri == request.uri;
        self.sent.iter().filter(same).count()
    }
}

/// Calls and timers that a run waits for.
fn waits(run: &Run) -> Vec<(AskId, Option<Millis>)> {
    let wait = |order: &Order| match order {
        Order::Call(call) => Some((call.ask, None)),
        Order::Timer { ask, due } => Some((*ask, Some(*due))),
        Order::Forget(_) => None,
    };
    run.orders_again().iter().filter_map(wait).collect()
}

impl Surroundings<'_> {
    async fn answer_all(&self, run: &mut Run) -> Result<(), String> {
        let mut busy = 0;
        while let Some(question) = run.question() {
            let outcome = match answer(&question, self.evaluator, &self.secrets).await {
                Err(Unanswered::Elsewhere) => self.by_fetched_schema(&question).await,
                outcome => outcome,
            };
            let outcome = match outcome {
                Ok(value) => Ok(value),
                Err(Unanswered::Fault(fault)) => Err(fault),
                Err(Unanswered::Later(reason)) => {
                    again(&mut busy, &reason)?;
                    continue;
                }
                Err(Unanswered::Elsewhere) => return Err("a schema was not fetched".to_owned()),
            };
            run.answer(outcome);
        }
        Ok(())
    }

    /// What is answered to a request that was made as often as that before, or the error that nobody is there.
    fn reply(&self, request: &CallRequest, before: usize) -> Result<Reply, Fault> {
        let uri = request.uri.to_string();
        let is = |service: &&Service| *request.method.as_str() == *service.method && service.uri == uri;
        let reply = match self.world.services.iter().find(is) {
            Some(service) => service.replies.get(before).or(service.replies.last()).cloned(),
            None => (self.world.elsewhere)(request),
        };
        reply.ok_or_else(|| FaultKind::Communication.fault(format!("nobody answers at {uri}")))
    }

    /// The answer to a question whose schema is to be had from a service.
    async fn by_fetched_schema(&self, question: &ToEvaluate<'_>) -> Result<Value, Unanswered> {
        let EvaluationKind::Schema(source @ SchemaSource::At(endpoint)) = question.asked else {
            return Err(Unanswered::Elsewhere);
        };
        let scoped = Scoped::new(self.evaluator, &question.scope, &self.secrets);
        let uri = arguments::uri(&endpoint.uri, &scoped).await?;
        let arguments = Arguments { method: json!("get"), uri, ..Arguments::default() };
        let request = CallRequest::new(&arguments)?;
        let reply = self.reply(&request, 0)?;
        let document: Value = serde_json::from_slice(&reply.body)
            .map_err(|why| FaultKind::Communication.fault(format!("the schema is no JSON: {why}")))?;
        let checked = check(self.evaluator, &document, &question.scope.on).await;
        checked.map(|()| Value::Null).map_err(|why| about(why, source, &question.scope))
    }
}

/// Counts how often an evaluation was put off, as the machine had other things to do.
fn again(busy: &mut u32, reason: &EvaluationReason) -> Result<(), String> {
    *busy += 1;
    if *busy < 10 { Ok(()) } else { Err(format!("nothing is evaluated: it {reason}")) }
}

async fn request(call: &HttpCall, scoped: &Scoped<'_>) -> Result<CallRequest, Unanswered> {
    let authorization = match &call.endpoint.authentication {
        Some(authentication) => match Authorization::of(authentication, scoped).await? {
            Authorizing::Known(authorization) => Some(authorization),
            Authorizing::ByToken(_) => {
                return Err(FaultKind::Authentication.fault("no scenario fetches a token").into());
            }
        },
        None => None,
    };
    arguments::request(call, scoped, authorization.as_ref()).await
}
