//! What a run has gone through, task by task: its history replayed in this process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;
use tulle_flow::evaluator::{Evaluator, Evaluators};
use tulle_flow::runner::Replay;
use tulle_model::flow::fault::Fault;
use tulle_model::flow::history::{CallRecord, HistoryEntry, lasting};
use tulle_model::flow::run::{AskId, RunEvent, RunStep, RunStepKind};
use tulle_model::flow::scope::{Millis, RunInfo};
use tulle_model::flow::workflow::{TaskKind, Workflow};

use super::history::sentence;
use crate::exit::{Failure, Result};

/// How long a history may take to be gone through: the evaluation of an expression may fail where it has not failed before.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server gives of a run at first.
#[derive(Debug, Deserialize)]
pub struct WholeRun {
    info: RunInfo,
    workflow: Value,
    #[serde(flatten)]
    pub part: HistoryPart,
}

/// What it gives behind that.
#[derive(Debug, Deserialize)]
pub struct HistoryPart {
    /// The FlowRun.
    run: Value,
    entries: Vec<HistoryEntry>,
    /// There are more entries.
    #[serde(default)]
    pub more: bool,
}

/// A run, and its history as far as it was read.
pub struct RunHistory {
    /// The FlowRun.
    pub run: Value,
    pub info: Arc<RunInfo>,
    pub workflow: Arc<Workflow>,
    replay: Replay,
    evaluator: Evaluator,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskState {
    /// What is in it is under way.
    Running,
    /// Its call is under way.
    Calling,
    /// Until a time.
    Waiting,
    /// It failed, and is tried again at a time.
    Retrying,
    Done,
    /// Its `if` does not hold.
    Skipped,
    Faulted,
    /// Something around it ended before.
    Stopped,
}

impl TaskState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Calling => "calling",
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Faulted => "faulted",
            Self::Stopped => "stopped",
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Skipped | Self::Faulted | Self::Stopped)
    }
}

/// A task of a run; in a loop one for each turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskOfRun {
    pub name: Arc<str>,
    /// Where it stands in the workflow: a JSON pointer.
    pub reference: Arc<str>,
    /// Which one it is: that, and in which turn of which loop.
    pub path: Arc<str>,
    /// How many tasks are around it.
    #[serde(skip)]
    pub depth: usize,
    pub state: TaskState,
    /// In milliseconds since the beginning of 1970, as all times here.
    pub started: Millis,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Millis>,
    /// How often it was begun: it is again with each attempt of what is around it.
    pub attempts: u32,
    pub input: Arc<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Arc<Value>>,
    /// Of a `try` the last that was caught.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// Until when it waits, or when it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// Its calls that were answered, one for each attempt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallOfTask>,
}

/// A call, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallOfTask {
    #[serde(flatten)]
    pub made: CallRecord,
    pub ended: Millis,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

impl RunHistory {
    pub async fn new(whole: WholeRun) -> Result<Self> {
        let unreadable =
            || Failure::new("the run's workflow cannot be read").help("is the server of another version?");
        let workflow = Arc::new(tulle_model::flow::parse(&whole.workflow).map_err(|_| unreadable())?);
        let info = Arc::new(whole.info);
        let replay = Replay::new(workflow.clone(), info.clone());
        let evaluator = Evaluator::new(Evaluators::default());
        let mut history = Self { run: Value::Null, info, workflow, replay, evaluator };
        history.add(whole.part).await?;
        Ok(history)
    }

    /// Takes what comes behind that which was read.
    pub async fn add(&mut self, part: HistoryPart) -> Result<()> {
        let adding = timeout(PATIENCE, self.replay.add(part.entries, &self.evaluator));
        let late =
            |_| Failure::new(format!("the run cannot be gone through within {} s", PATIENCE.as_secs()));
        let added = adding.await.map_err(late)?;
        added
            .map_err(|fault| Failure::new(format!("the run cannot be gone through: {}", sentence(&fault))))?;
        self.run = part.run;
        Ok(())
    }

    /// How many entries were read.
    pub fn entries(&self) -> usize {
        self.replay.entries().len()
    }

    pub fn is_over(&self) -> bool {
        matches!(self.run["status"]["state"].as_str(), Some("Completed" | "Faulted" | "Cancelled"))
    }

    /// All tasks that have begun, in this order.
    pub async fn tasks(&self) -> Vec<TaskOfRun> {
        let (_, steps) = self.replay.now(&self.evaluator).await;
        let mut tasks = tasks(&self.workflow, &steps, self.replay.entries());
        // The server may have ended it where its history had no more room.
        for task in tasks.iter_mut().filter(|task| self.is_over() && !task.state.is_over()) {
            task.state = TaskState::Stopped;
        }
        tasks
    }
}

/// What these steps say of each task, and what the history has of its calls.
fn tasks(workflow: &Workflow, steps: &[RunStep], entries: &[HistoryEntry]) -> Vec<TaskOfRun> {
    let mut tasks: Vec<TaskOfRun> = Vec::new();
    let mut by_path: HashMap<Arc<str>, usize> = HashMap::new();
    let mut by_ask: BTreeMap<AskId, usize> = BTreeMap::new();
    let mut depths = Depths::default();
    for step in steps {
        let of = workflow.task(step.task);
        let index = *by_path.entry(step.path.clone()).or_insert_with(|| {
            let turns = step.path.strip_prefix(&*of.reference).unwrap_or_default();
            let depth = depths.of(&of.reference, turns);
            tasks.push(TaskOfRun {
                name: named(&of.name, turns),
                reference: of.reference.clone(),
                path: step.path.clone(),
                depth,
                state: TaskState::Running,
                started: step.at,
                ended: None,
                attempts: 0,
                input: Arc::default(),
                output: None,
                error: None,
                until: None,
                calls: Vec::new(),
            });
            tasks.len() - 1
        });
        let task = &mut tasks[index];
        let over = |task: &mut TaskOfRun, state| {
            (task.state, task.ended, task.until) = (state, Some(step.at), None);
        };
        match &step.what {
            RunStepKind::Began { raw_input } => {
                (task.state, task.ended, task.output) = (TaskState::Running, None, None);
                task.attempts += 1;
                task.input = raw_input.clone();
            }
            RunStepKind::Skipped => over(task, TaskState::Skipped),
            RunStepKind::Asked { ask, input } => {
                let waits = matches!(of.kind, TaskKind::Wait(_));
                task.state = if waits { TaskState::Waiting } else { TaskState::Calling };
                task.input = input.clone();
                by_ask.insert(*ask, index);
            }
            RunStepKind::Retrying { fault, due } => {
                (task.state, task.until) = (TaskState::Retrying, Some(*due));
                task.error = Some(fault.clone());
            }
            RunStepKind::Caught { fault } => {
                (task.state, task.until) = (TaskState::Running, None);
                task.error = Some(fault.clone());
            }
            RunStepKind::Ended { output } => {
                over(task, TaskState::Done);
                task.output = Some(output.clone());
            }
            RunStepKind::Faulted { fault } => {
                over(task, TaskState::Faulted);
                task.error = Some(fault.clone());
            }
            RunStepKind::Stopped => over(task, TaskState::Stopped),
        }
    }
    for (_, entry) in lasting(0, entries) {
        if let RunEvent::Answered { ask, result } = &entry.event
            && let (Some(index), Some(made)) = (by_ask.get(ask), &entry.call)
        {
            let call = CallOfTask { made: made.clone(), ended: entry.at, error: result.clone().err() };
            tasks[*index].calls.push(call);
        }
    }
    tasks
}

/// `pack[2]`: with the turn of the loop that it is in. `turns`: what tells it from others of the same task.
fn named(name: &Arc<str>, turns: &str) -> Arc<str> {
    match turns.split('@').next() {
        None | Some("") => name.clone(),
        Some(turn) => format!("{name}{turn}").into(),
    }
}

/// How many of the tasks that have begun are around one: by where it stands, and by who has called the function that it is in.
#[derive(Default)]
struct Depths<'w> {
    /// The references of those that have begun. In loops there are few of them to many tasks.
    begun: BTreeSet<&'w str>,
    known: HashMap<(&'w str, String), usize>,
}

impl<'w> Depths<'w> {
    /// Of one that begins.
    fn of(&mut self, reference: &'w str, turns: &str) -> usize {
        let caller = turns.rsplit_once('@').map(|(_, caller)| caller);
        // All that is around a task has begun before it.
        let key = (reference, caller.unwrap_or_default().to_owned());
        if let Some(depth) = self.known.get(&key) {
            return *depth;
        }
        let is_around = |around: &&&str| {
            let holds = |of: &str| of.strip_prefix(**around).is_some_and(|rest| rest.starts_with('/'));
            holds(reference) || caller.is_some_and(|caller| holds(caller) || caller.starts_with(**around))
        };
        let depth = self.begun.iter().filter(is_around).count();
        self.begun.insert(reference);
        self.known.insert(key, depth);
        depth
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// The history of a run: a task that is tried again, a loop with a function, a pause, and a call that nobody answers.
    pub async fn history() -> RunHistory {
        let call =
            |endpoint: &str| json!({ "call": "http", "with": { "method": "get", "endpoint": endpoint } });
        let workflow = json!({
            "document": { "dsl": "1.0.3", "namespace": "shop", "name": "order", "version": "0.1.0" },
            "use": { "functions": { "ask": call("http://stock/") } },
            "do": [
                { "safe": {
                    "try": [{ "reserve": call("http://stock/reserve") }],
                    "catch": { "retry": { "delay": { "seconds": 1 }, "limit": { "attempt": { "count": 1 } } } },
                } },
                { "never": { "if": ".n > 9", "set": { "a": 1 } } },
                { "each": { "for": { "in": "[1, 2]" }, "do": [{ "one": { "call": "ask" } }] } },
                { "nap": { "wait": { "seconds": 5 } } },
                { "last": call("http://mail/") },
            ],
        });
        let info = json!({
            "id": "r1", "input": { "n": 1 }, "started": 1000, "seed": 1, "most_tasks": 100, "most_bytes": 100_000,
        });
        let answered = |at: u64, ask: u32, result: Value, status: u16| {
            let call = json!({ "began": at - 10, "method": "GET", "endpoint": "http://stock/", "status": status, "trace": "abc" });
            json!({ "at": at, "event": { "Answered": { "ask": ask, "result": result } }, "call": call })
        };
        let fired = |at: u64, ask: u32| json!({ "at": at, "event": { "Fired": { "ask": ask } } });
        let fault = json!({
            "type": "https://serverlessworkflow.io/spec/1.0.0/errors/communication", "status": 503,
            "title": "Communication Error", "instance": "/do/0/safe/try/0/reserve",
        });
        let entries = json!([
            answered(1012, 0, json!({ "Err": fault }), 503),
            fired(2012, 1),
            answered(2020, 2, json!({ "Ok": { "left": 3 } }), 200),
            answered(2030, 3, json!({ "Ok": 1 }), 200),
            answered(2040, 4, json!({ "Ok": 2 }), 200),
            fired(7040, 5),
        ]);
        let run = json!({
            "metadata": { "namespace": "shop", "name": "r1" },
            "spec": { "flow": "order", "caller": "ann", "serviceAccount": "orders" },
            "status": { "state": "Running", "startedAt": "1970-01-01T00:00:01.000Z", "entries": 6 },
        });
        let whole = json!({ "run": run, "info": info, "workflow": workflow, "entries": entries });
        RunHistory::new(serde_json::from_value(whole).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn each_task_says_what_became_of_it() {
        let tasks = history().await.tasks().await;
        let told: Vec<_> = tasks
            .iter()
            .map(|task| {
                let took = task.ended.map_or("-".to_owned(), |ended| (ended - task.started).to_string());
                let call = task.calls.last().and_then(|call| call.made.status);
                let call = call.map_or(String::new(), |status| format!(" {status}"));
                format!(
                    "{:indent$}{} {} {took} {}{call}",
                    "",
                    task.name,
                    task.state.word(),
                    task.attempts,
                    indent = 2 * task.depth
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "safe done 1020 1",
                "  reserve done 1020 2 200",
                "never skipped 0 1",
                "each done 20 1",
                "  one[0] done 10 1",
                "    ask[0] done 10 1 200",
                "  one[1] done 10 1",
                "    ask[1] done 10 1 200",
                "nap done 5000 1",
                "last calling - 1",
            ]
        );
        let attempts: Vec<_> =
            tasks[1].calls.iter().map(|call| (call.made.status, call.error.is_some())).collect();
        assert_eq!(attempts, [(Some(503), true), (Some(200), false)]);
        assert_eq!(tasks[0].error.as_ref().map(|error| error.status), Some(503));
        assert_eq!(
            (&*tasks[1].input, tasks[1].output.as_deref()),
            (&json!({ "n": 1 }), Some(&json!({ "left": 3 })))
        );
    }
}
