//! Carries out a run in a time of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::*;
use crate::flow::fault::FaultKind;

pub fn info(input: Value, seed: u64) -> Arc<RunInfo> {
    Arc::new(RunInfo {
        id: "r".into(),
        input: Arc::new(input),
        started: 1_000,
        seed,
        most_tasks: 200,
        most_bytes: 4_096,
    })
}

/// The answer to a question.
pub fn evaluate(asked: Asked<'_>, scope: &Scope) -> Result<Value, Fault> {
    match asked {
        Asked::Expression(expression) => by_text(&expression.text, scope),
        Asked::Template(Template(value)) => filled(value, scope),
        Asked::Schema(_) => Ok(Value::Null),
    }
}

fn filled(value: &Value, scope: &Scope) -> Result<Value, Fault> {
    match value {
        Value::String(text) => match text.strip_prefix("${ ").and_then(|text| text.strip_suffix(" }")) {
            Some(text) => by_text(text, scope),
            None => Ok(value.clone()),
        },
        Value::Object(fields) => {
            let field = |(name, value): (&String, _)| Ok((name.clone(), filled(value, scope)?));
            fields.iter().map(field).collect()
        }
        other => Ok(other.clone()),
    }
}

fn by_text(text: &str, scope: &Scope) -> Result<Value, Fault> {
    let n = scope.on["n"].as_i64().unwrap_or_default();
    let variable = |name| scope.variable(name).map(|value| Value::clone(&value)).unwrap_or_default();
    Ok(match text {
        "." => Value::clone(&scope.on),
        "true" => json!(true),
        "false" => json!(false),
        ".n < 3" => json!(n < 3),
        ".n + 1" => json!(n + 1),
        ".n" => scope.on["n"].clone(),
        ".items" => scope.on["items"].clone(),
        "$item" => variable("item"),
        "$index" => variable("index"),
        "$error" => variable("error"),
        "$error.status" => variable("error")["status"].clone(),
        "$error.status == 500" => json!(variable("error")["status"] == 500),
        "$context" => variable("context"),
        "$input" => variable("input"),
        "$task" => variable("task"),
        _ => return Err(FaultKind::Expression.fault(format!("{text} cannot be evaluated"))),
    })
}

/// What the world answers to a call, and after how long: as its path and how often it was made before say.
pub type World = dyn Fn(&str, u32) -> (Millis, Result<Value, Fault>);

/// A run, with all that it waits for.
pub struct Simulation<'w> {
    pub run: Run,
    pub history: Vec<(Millis, Event)>,
    /// When a call was made, and which.
    pub calls: Vec<(Millis, Arc<str>)>,
    world: &'w World,
    waiting: BTreeMap<(Millis, AskId), Event>,
    now: Millis,
}

impl<'w> Simulation<'w> {
    pub fn new(workflow: &Arc<Workflow>, info: &Arc<RunInfo>, world: &'w World) -> Self {
        let run = Run::begin(workflow.clone(), info.clone());
        let now = info.started;
        let mut simulation =
            Self { run, history: vec![], calls: vec![], world, waiting: BTreeMap::new(), now };
        simulation.settle();
        simulation
    }

    /// Answers all questions, and takes up what is ordered.
    fn settle(&mut self) {
        settle(&mut self.run);
        for order in self.run.take_orders() {
            match order {
                Order::Call(call) => {
                    let before = self.calls.iter().filter(|(_, path)| *path == call.path).count();
                    self.calls.push((self.now, call.path.clone()));
                    let (after, result) = (self.world)(&call.path, before as u32);
                    let result = result.map(Arc::new);
                    self.waiting
                        .insert((self.now + after, call.ask), Event::Answered { ask: call.ask, result });
                }
                Order::Timer { ask, due } => {
                    self.waiting.insert((due, ask), Event::Fired { ask });
                }
                Order::Forget(ask) => self.waiting.retain(|(_, of), _| *of != ask),
            }
        }
    }

    /// What happens next does; whether something did.
    pub fn next(&mut self) -> bool {
        let Some(((at, _), event)) = self.waiting.pop_first() else { return false };
        self.happens(at, event);
        true
    }

    pub fn happens(&mut self, at: Millis, event: Event) {
        self.now = at;
        self.history.push((at, event.clone()));
        self.run.take(at, event);
        self.settle();
    }

    pub fn ended(mut self) -> Self {
        while self.next() {}
        self
    }
}

/// Answers all questions of a run.
pub fn settle(run: &mut Run) {
    while let Some(question) = run.question() {
        let answer = evaluate(question.asked, &question.scope);
        run.answer(answer);
    }
}
