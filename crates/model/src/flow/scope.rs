//! What an expression of a run may speak of (dsl.md, "Runtime expression arguments").

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::workflow::{TaskId, Workflow};

/// Milliseconds since the beginning of 1970.
pub type Millis = u64;

/// What is known of a run from its start on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    pub id: Arc<str>,
    /// As it came, before `input.from`.
    pub input: Arc<Value>,
    pub started: Millis,
    /// What all that is random in the run comes from.
    pub seed: u64,
    /// How many tasks it may begin.
    pub most_tasks: u32,
    /// How many bytes of JSON may go from task to task.
    pub most_bytes: usize,
}

/// Where an expression stands, and with which values.
#[derive(Debug, Clone)]
pub struct Scope {
    pub workflow: Arc<Workflow>,
    pub run: Arc<RunInfo>,
    /// What it is evaluated on: `.`.
    pub on: Arc<Value>,
    pub context: Option<Arc<Value>>,
    pub input: Option<Arc<Value>>,
    pub output: Option<Arc<Value>>,
    pub task: Option<TaskScope>,
    pub(super) locals: Locals,
    /// What `now` is: when the task has begun.
    pub now: Millis,
}

#[derive(Debug, Clone)]
pub struct TaskScope {
    pub id: TaskId,
    pub raw_input: Arc<Value>,
    pub raw_output: Option<Arc<Value>>,
    pub started: Millis,
}

/// The variables of loops and of caught errors, the innermost first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<KeptLocal>", into = "Vec<KeptLocal>")]
pub(super) struct Locals(Option<Arc<Local>>);

#[derive(Debug, PartialEq)]
struct Local {
    name: Arc<str>,
    value: Arc<Value>,
    outer: Locals,
}

/// As it is written down: one behind the other, as JSON may not be that deep.
#[derive(Serialize, Deserialize)]
struct KeptLocal {
    name: Arc<str>,
    value: Arc<Value>,
}

impl From<Locals> for Vec<KeptLocal> {
    fn from(locals: Locals) -> Self {
        let mut kept = Vec::new();
        let mut at = &locals;
        while let Some(local) = &at.0 {
            kept.push(KeptLocal { name: local.name.clone(), value: local.value.clone() });
            at = &local.outer;
        }
        kept
    }
}

impl From<Vec<KeptLocal>> for Locals {
    fn from(kept: Vec<KeptLocal>) -> Self {
        let outermost_first = kept.into_iter().rev();
        outermost_first.fold(Self::default(), |locals, KeptLocal { name, value }| locals.with(&name, value))
    }
}

impl Locals {
    pub(super) fn with(&self, name: &Arc<str>, value: Arc<Value>) -> Self {
        Self(Some(Arc::new(Local { name: name.clone(), value, outer: self.clone() })))
    }

    fn get(&self, name: &str) -> Option<&Arc<Value>> {
        let mut at = self;
        while let Some(local) = &at.0 {
            if *local.name == *name {
                return Some(&local.value);
            }
            at = &local.outer;
        }
        None
    }
}

impl Scope {
    /// The same place, where the task has that as its input.
    #[must_use]
    pub fn given(&self, input: Arc<Value>) -> Self {
        Self { on: input.clone(), input: Some(input), ..self.clone() }
    }

    /// The value of a variable, by its name without `$`. Secrets and authorization are of who makes calls.
    pub fn variable(&self, name: &str) -> Option<Arc<Value>> {
        if let Some(value) = self.locals.get(name) {
            return Some(value.clone());
        }
        match name {
            "context" => self.context.clone(),
            "input" => self.input.clone(),
            "output" => self.output.clone(),
            "task" => self.task.as_ref().map(|task| Arc::new(self.described(task))),
            "workflow" => Some(Arc::new(json!({
                "id": self.run.id,
                "definition": *self.workflow.definition,
                "input": *self.run.input,
                "startedAt": moment(self.run.started),
            }))),
            "runtime" => Some(Arc::new(json!({
                "name": "tulle",
                "version": env!("CARGO_PKG_VERSION"),
                "metadata": {},
            }))),
            _ => None,
        }
    }

    fn described(&self, TaskScope { id, raw_input, raw_output, started }: &TaskScope) -> Value {
        let task = self.workflow.task(*id);
        json!({
            "name": task.name,
            "reference": task.reference,
            "definition": self.workflow.definition.pointer(&task.reference),
            "input": **raw_input,
            "output": raw_output.as_deref(),
            "startedAt": moment(*started),
        })
    }
}

/// A moment as the DSL describes it (dsl.md, "DateTime descriptor").
fn moment(at: Millis) -> Value {
    let whole = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    json!({
        "iso8601": whole.map(|at| format!("{at:.3}")),
        "epoch": { "seconds": at / 1000, "milliseconds": at },
    })
}
