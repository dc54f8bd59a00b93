//! What a run is doing: an activation for each task that has begun and is not done, one of them for the workflow itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::flow::fault::Fault;
use crate::flow::scope::{Locals, Millis};
use crate::flow::workflow::{Directive, TaskId};

/// Numbers an activation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct ActivationId(pub u32);

/// Numbers what a run has asked of its runner: a call or a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AskId(pub u32);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Activation {
    /// `None`: it is the workflow's.
    pub parent: Option<Parent>,
    pub started: Millis,
    pub raw_input: Arc<Value>,
    /// The raw input, until `input.from` has been applied.
    pub input: Arc<Value>,
    pub raw_output: Option<Arc<Value>>,
    /// The raw output, until `output.as` has been applied.
    pub output: Option<Arc<Value>>,
    pub locals: Locals,
    pub stage: Stage,
    pub body: Body,
    /// Where it goes on afterwards, if that is not as the task itself says.
    pub then: Option<Directive>,
}

/// What has begun a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Parent {
    pub activation: ActivationId,
    pub task: TaskId,
}

/// What a task goes through, in this order. Each but `Body` is left out where the task has nothing of the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Stage {
    Condition,
    InputSchema,
    InputFrom,
    Timeout,
    Body,
    OutputAs,
    OutputSchema,
    ExportAs,
    ExportSchema,
}

/// How far the task itself is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Body {
    /// Not begun, or nothing to be remembered.
    None,
    /// The workflow, and `do`.
    List(ListState),
    /// Which case is looked at.
    Switch(usize),
    For(Box<ForState>),
    Fork(Vec<Branch>),
    Try(Box<TryState>),
    /// A call or a wait that is under way.
    Asked,
    Function,
}

/// How far a list of tasks is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ListState {
    pub at: usize,
    /// How often it has gone back.
    pub round: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ForState {
    pub phase: ForPhase,
    /// An array.
    pub items: Arc<Value>,
    pub index: usize,
    /// What the last iteration has made.
    pub value: Arc<Value>,
    pub list: ListState,
}

/// What a `for` does for each of its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ForPhase {
    /// The next turn is to be begun, if there is one.
    Next,
    While,
    Body,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Branch {
    Running(ActivationId),
    Done(Arc<Value>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TryState {
    pub phase: TryPhase,
    /// How often it was tried again.
    pub retries: u32,
    pub began: Millis,
    pub list: ListState,
    /// What was caught last.
    pub caught: Option<Fault>,
    /// What the policy's durations have come to after the last error.
    pub durations: RetryDurations,
}

/// In milliseconds; none where the policy says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RetryDurations {
    /// `limit.duration`
    pub limit: Option<Millis>,
    pub delay: Millis,
    pub jitter_from: Millis,
    pub jitter_to: Millis,
}

/// What a `try` does, in this order after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum TryPhase {
    /// The duration of an attempt is being evaluated.
    AttemptDuration,
    Body,
    When,
    ExceptWhen,
    RetryWhen,
    RetryExceptWhen,
    Duration,
    Delay,
    JitterFrom,
    JitterTo,
    /// For the next attempt.
    Delayed,
    Handler,
}

/// What an ask is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ask {
    pub activation: ActivationId,
    pub purpose: Purpose,
    /// When it fires; of a call, when it was ordered.
    pub due: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    Call,
    Wait,
    /// The task's `timeout`.
    Timeout,
    /// `retry.limit.attempt.duration`.
    AttemptDuration,
    /// Before the next attempt.
    Delay,
}

impl Activation {
    /// The list of tasks that it goes through, if it does.
    pub fn list(&mut self) -> Option<&mut ListState> {
        match &mut self.body {
            Body::List(list) => Some(list),
            Body::For(state) => Some(&mut state.list),
            Body::Try(state) => Some(&mut state.list),
            _ => None,
        }
    }
}
