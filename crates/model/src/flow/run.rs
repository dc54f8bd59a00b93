//! The core: one run of a workflow, as far as its history goes. No clock and no I/O: who carries it out tells it what has
//! happened ([`RunEvent`]), answers what it asks ([`ToEvaluate`]), and does what it wants done ([`Order`]).
//!
//! The same workflow, [`RunInfo`] and history lead to the same state, whenever and wherever. Time goes on with history alone:
//! between two of its entries it stands still. Questions are asked one at a time, and all are answered before the next event
//! is taken: their answers follow from what is known, so that they are in no history. What hangs on more than that (how busy a machine
//! is, what others serve) the history says: that there was no answer ([`RunEvent::Failed`]), and that a schema from elsewhere held
//! ([`RunEvent::Checked`]).

mod activation;
mod advance;
mod catch;
mod composite;
mod looked_at;
#[cfg(test)]
mod tests;
mod timeouts;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::activation::AskId;
use self::activation::{Activation, ActivationId, Ask, Body, Purpose, Stage};
pub use self::looked_at::{CallUnderWay, HeldAnswer};
use super::expression::{Expression, NESTING, Template};
use super::fault::{Fault, FaultKind};
use super::scope::{Locals, Millis, RunInfo, Scope};
use super::workflow::{SchemaSource, TaskId, Workflow};
use crate::json_bounds::is_deeper;

/// A run.
#[derive(Debug, Clone)]
pub struct Run {
    workflow: Arc<Workflow>,
    info: Arc<RunInfo>,
    state: RunState,
    orders: Vec<Order>,
    /// `None`: nobody wants to know.
    steps: Option<Vec<RunStep>>,
}

/// What a checkpoint keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RunState {
    /// The time of the last entry.
    now: Millis,
    context: Arc<Value>,
    activations: BTreeMap<ActivationId, Activation>,
    asks: BTreeMap<AskId, Ask>,
    /// What is to go on, in this order.
    ready: VecDeque<ActivationId>,
    /// Whose question is to be answered.
    asking: Option<ActivationId>,
    next_activation: u32,
    next_ask: u32,
    /// How many questions were answered.
    answered: u32,
    /// How often it was gone back to an earlier state.
    #[serde(default)]
    retries: u32,
    phase: RunPhase,
    /// What has happened since it was suspended.
    held: Vec<(Millis, RunEvent)>,
}

/// The state of a run (dsl.md, "Status Phases"). One that waits is `Running` here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RunPhase {
    Running,
    Suspended,
    Completed(Arc<Value>),
    Faulted(Fault),
    Cancelled,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RunEvent {
    /// A call is over.
    Answered {
        ask: AskId,
        result: Result<Arc<Value>, Fault>,
    },
    /// The time of a timer has come.
    Fired {
        ask: AskId,
    },
    /// The question of this number ([`Run::question_number`]) had no answer but this fault. It is for [`Run::answer`].
    Failed {
        question: u32,
        fault: Fault,
    },
    /// The question of this number was about a schema that is elsewhere, and what was there holds. It is for [`Run::answer`] as well.
    Checked {
        question: u32,
    },
    /// It goes on from where it was after so many entries of its history ([`super::history::lasting`]).
    Retried {
        entries: u32,
        /// Which retry of the run it is, from 1 on: also of what was gone back from.
        number: u32,
    },
    Suspended,
    Resumed,
    Cancelled,
    /// Whoever carries it out is about to go: calls that are due are not made any more.
    Rested,
    /// Somebody else carries it out now: calls that were under way are made again, unless it has [`RunEvent::Rested`] before.
    TakenOver {
        /// How long nobody was there whose calls could have been answered: timeouts do not count it.
        absent: Millis,
    },
    /// Whoever carries it out cannot go on with it. As [`RunEvent::Retried`] it may come while there is a question.
    GivenUp {
        fault: Fault,
    },
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Order {
    Call(Call),
    Timer {
        ask: AskId,
        due: Millis,
    },
    /// Nobody waits for it any more.
    Forget(AskId),
}

/// A call of a task. Its arguments are evaluated by who makes it: they are not kept, as secrets may be among them.
#[derive(Debug, Clone)]
pub struct Call {
    pub ask: AskId,
    pub task: TaskId,
    /// Which of the run's calls it is: the same for each attempt, another one in each turn of a loop.
    pub path: Arc<str>,
    /// How often the run was gone back to an earlier state: what is called again after that is not the same call.
    pub retries: u32,
    pub scope: Scope,
}

/// What is to be evaluated, or checked.
#[derive(Debug)]
pub struct ToEvaluate<'r> {
    pub asked: EvaluationKind<'r>,
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy)]
pub enum EvaluationKind<'r> {
    Expression(&'r Expression),
    Template(&'r Template),
    /// Whether what the scope is about is as the schema says; the answer's value is not looked at.
    Schema(&'r SchemaSource),
}

/// What a run has gone through, for who looks at it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunStep {
    pub task: TaskId,
    /// As that of [`Call`].
    pub path: Arc<str>,
    pub at: Millis,
    pub what: RunStepKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RunStepKind {
    Began {
        raw_input: Arc<Value>,
    },
    /// Its `if` does not hold.
    Skipped,
    /// By this call or timer.
    Asked {
        ask: AskId,
        input: Arc<Value>,
    },
    Retrying {
        fault: Fault,
        due: Millis,
    },
    Caught {
        fault: Fault,
    },
    Ended {
        output: Arc<Value>,
    },
    Faulted {
        fault: Fault,
    },
    /// It was under way when something around it ended.
    Stopped,
}

impl Run {
    /// A run that begins. There are questions to be answered, perhaps.
    pub fn begin(workflow: Arc<Workflow>, info: Arc<RunInfo>) -> Self {
        Self::begin_telling(workflow, info, None)
    }

    /// One that tells what it goes through ([`Run::take_steps`]).
    pub fn begin_watched(workflow: Arc<Workflow>, info: Arc<RunInfo>) -> Self {
        Self::begin_telling(workflow, info, Some(Vec::new()))
    }

    fn begin_telling(workflow: Arc<Workflow>, info: Arc<RunInfo>, steps: Option<Vec<RunStep>>) -> Self {
        let root = Activation {
            parent: None,
            started: info.started,
            raw_input: info.input.clone(),
            input: info.input.clone(),
            raw_output: None,
            output: None,
            locals: Locals::default(),
            stage: Stage::Condition,
            body: Body::None,
            then: None,
        };
        let state = RunState {
            now: info.started,
            context: Arc::new(Value::Object(serde_json::Map::new())),
            activations: BTreeMap::from([(ActivationId(0), root)]),
            asks: BTreeMap::new(),
            ready: VecDeque::from([ActivationId(0)]),
            asking: None,
            next_activation: 1,
            next_ask: 0,
            answered: 0,
            retries: 0,
            phase: RunPhase::Running,
            held: Vec::new(),
        };
        let mut run = Self { workflow, info, state, orders: Vec::new(), steps };
        if is_deeper(&run.info.input, NESTING) {
            let why =
                format!("the run's input has more than {NESTING} arrays and objects within one another");
            run.fault(ActivationId(0), FaultKind::Validation.fault(why));
        }
        run.drive();
        run
    }

    /// [`Run::restore`] of one that tells what it goes through from there.
    pub fn restore_watched(
        workflow: Arc<Workflow>,
        info: Arc<RunInfo>,
        checkpoint: &[u8],
    ) -> Result<Self, serde_json::Error> {
        Ok(Self { steps: Some(Vec::new()), ..Self::restore(workflow, info, checkpoint)? })
    }

    /// What it has gone through since this was called last; nothing where it is not watched.
    pub fn take_steps(&mut self) -> Vec<RunStep> {
        self.steps.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub fn phase(&self) -> &RunPhase {
        &self.state.phase
    }

    /// All that has come of the history up to now; `None` while there is a question. It is as secret as the history.
    pub fn checkpoint(&self) -> Option<Vec<u8>> {
        let is_still = self.state.asking.is_none() && self.state.ready.is_empty();
        is_still.then(|| serde_json::to_vec(&self.state).ok()).flatten()
    }

    /// The run as it was at a checkpoint. What it waits for is in [`Run::orders_again`].
    pub fn restore(
        workflow: Arc<Workflow>,
        info: Arc<RunInfo>,
        checkpoint: &[u8],
    ) -> Result<Self, serde_json::Error> {
        let state = serde_json::from_slice(checkpoint)?;
        Ok(Self { workflow, info, state, orders: Vec::new(), steps: None })
    }

    /// How many tasks have begun.
    pub fn tasks(&self) -> u32 {
        // The first is the workflow's own.
        self.state.next_activation - 1
    }

    /// What is to be evaluated next. Until it is answered nothing else happens.
    pub fn question(&self) -> Option<ToEvaluate<'_>> {
        let id = self.state.asking?;
        Some(ToEvaluate { asked: self.asked(id)?, scope: self.scope(id)? })
    }

    /// How many questions there were before.
    pub fn question_number(&self) -> u32 {
        self.state.answered
    }

    /// The answer to [`Run::question`]. A fault is of the task that has asked.
    pub fn answer(&mut self, answer: Result<Value, Fault>) {
        let Some(id) = self.state.asking.take() else { return };
        self.state.answered += 1;
        match answer {
            Ok(value) => self.answered(id, value),
            Err(fault) => self.fault(id, fault),
        }
        self.drive();
    }

    /// Takes what has happened at a time. What was asked by nobody, or by who does not wait for it any more, changes nothing.
    /// To be called when there is no question, other than for [`RunEvent::Retried`], which leaves it open, and
    /// [`RunEvent::GivenUp`].
    pub fn take(&mut self, at: Millis, event: RunEvent) {
        match event {
            RunEvent::Retried { number, .. } => return self.retried(at, number),
            RunEvent::GivenUp { fault } => {
                self.state.now = self.state.now.max(at);
                return self.over(RunPhase::Faulted(fault));
            }
            RunEvent::Rested => return,
            RunEvent::TakenOver { absent } => return self.taken_over(at, absent),
            _ => {}
        }
        debug_assert!(self.state.asking.is_none());
        match (&self.state.phase, event) {
            (RunPhase::Running, event) => self.happen(at, event),
            (RunPhase::Suspended, RunEvent::Resumed) => {
                self.state.phase = RunPhase::Running;
                self.state.now = self.state.now.max(at);
            }
            (RunPhase::Suspended, RunEvent::Cancelled) => self.happen(at, RunEvent::Cancelled),
            (
                RunPhase::Suspended,
                RunEvent::Suspended | RunEvent::Failed { .. } | RunEvent::Checked { .. },
            ) => {}
            (RunPhase::Suspended, event) => self.state.held.push((at, event)),
            (RunPhase::Completed(_) | RunPhase::Faulted(_) | RunPhase::Cancelled, _) => {}
        }
        self.drive();
    }

    fn taken_over(&mut self, at: Millis, absent: Millis) {
        for ask in self.state.asks.values_mut() {
            if matches!(ask.purpose, Purpose::Timeout | Purpose::AttemptDuration) {
                ask.due = ask.due.saturating_add(absent);
            }
        }
        self.state.now = self.state.now.max(at);
    }

    /// When the last happened of what has.
    pub fn now(&self) -> Millis {
        self.state.now
    }

    /// Whether a call is under way, or is to be made.
    pub fn calls(&self) -> bool {
        self.state.asks.values().any(|ask| ask.purpose == Purpose::Call)
    }

    fn happen(&mut self, at: Millis, event: RunEvent) {
        self.state.now = self.state.now.max(at);
        match event {
            RunEvent::Answered { ask, result } => {
                let is_call = |found: &&Ask| found.purpose == Purpose::Call;
                let Some(Ask { activation, .. }) = self.state.asks.get(&ask).filter(is_call).copied() else {
                    return;
                };
                self.state.asks.remove(&ask);
                match result {
                    Ok(output) => self.body_done(activation, output),
                    Err(fault) => self.fault(activation, fault),
                }
            }
            RunEvent::Fired { ask } => {
                let is_timer = |found: &&Ask| found.purpose != Purpose::Call;
                let found = self.state.asks.get(&ask).filter(is_timer).copied();
                let Some(Ask { activation, purpose, .. }) = found else { return };
                self.state.asks.remove(&ask);
                self.fired(activation, purpose);
            }
            RunEvent::Suspended => self.state.phase = RunPhase::Suspended,
            RunEvent::Resumed
            | RunEvent::Failed { .. }
            | RunEvent::Checked { .. }
            | RunEvent::Rested
            | RunEvent::TakenOver { .. }
            | RunEvent::Retried { .. }
            | RunEvent::GivenUp { .. } => {}
            RunEvent::Cancelled => self.over(RunPhase::Cancelled),
        }
    }

    /// It is at an earlier state, and goes on from there now: what was waited for takes as long as it would have then.
    fn retried(&mut self, at: Millis, number: u32) {
        let later = at.saturating_sub(self.state.now);
        for ask in self.state.asks.values_mut() {
            ask.due = ask.due.saturating_add(later);
        }
        for activation in self.state.activations.values_mut() {
            if let Body::Try(state) = &mut activation.body {
                state.began = state.began.saturating_add(later);
            }
        }
        self.state.now += later;
        self.state.retries = number;
    }

    /// How often it was gone back in it ([`RunEvent::Retried`]).
    pub fn retries(&self) -> u32 {
        self.state.retries
    }

    /// Which of the run's calls or timers it is, as [`RunStep::path`]; `None`: nobody waits for it.
    pub fn path_of(&self, ask: AskId) -> Option<Arc<str>> {
        Some(self.path(self.state.asks.get(&ask)?.activation))
    }

    /// What is to be done since this was called last.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// All that it waits for, as if it were ordered now: for who takes over the run from somebody else.
    pub fn orders_again(&self) -> Vec<Order> {
        let order = |(id, ask): (&AskId, &Ask)| match ask.purpose {
            Purpose::Call => self.call(*id, ask.activation).map(Order::Call),
            _ => Some(Order::Timer { ask: *id, due: ask.due }),
        };
        self.state.asks.iter().filter(|(id, _)| !self.is_held(**id)).filter_map(order).collect()
    }

    /// It is over: nothing is waited for.
    fn over(&mut self, phase: RunPhase) {
        self.stop(ActivationId(0));
        self.state.ready.clear();
        self.state.asking = None;
        self.state.held.clear();
        self.state.phase = phase;
    }

    fn note(&mut self, id: ActivationId, what: RunStepKind) {
        if self.steps.is_none() {
            return;
        }
        let Some(task) = self.task_of(id) else { return };
        let step = RunStep { task, path: self.path(id), at: self.state.now, what };
        self.steps.get_or_insert_default().push(step);
    }
}
