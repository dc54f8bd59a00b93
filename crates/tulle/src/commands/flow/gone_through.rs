//! What a run has gone through, task by task: its history replayed in this process.

#[cfg(test)]
pub(super) mod tests;

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
use tulle_model::flow::run::{AskId, HeldAnswer, RunEvent, RunStep, RunStepKind};
use tulle_model::flow::scope::{Millis, RunInfo};
use tulle_model::flow::workflow::{Task, TaskKind, Workflow};

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
    /// It has made calls, but the run went back to before it, and has not come to it again.
    Undone,
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
            Self::Undone => "undone",
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Skipped | Self::Faulted | Self::Stopped | Self::Undone)
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
    /// When it came to its state, and after which others of the same time: all tasks in this order are as it happened.
    #[serde(skip)]
    pub changed: (Millis, usize),
    /// How often it was begun: it is again with each attempt of what is around it, and where a retry leads to it again.
    pub attempts: u32,
    /// `None`: it is undone, and nothing of it is known but its calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Arc<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Arc<Value>>,
    /// Of a `try` the last that was caught.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// Until when it waits, or when it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// Its calls, one for each attempt: those that the run went back from, too, as they were made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallOfTask>,
    /// How many more it has made of which nothing else is known, as the run was cancelled meanwhile.
    #[serde(skip)]
    given_up: usize,
    /// The call or timer that was asked for last.
    #[serde(skip)]
    asked: Option<AskId>,
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
    /// Nobody waited for its answer any more. It may have been carried out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
}

/// The run went back to an earlier state, and on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WentBack {
    pub at: Millis,
    /// When it was in that state.
    pub to: Millis,
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

    /// All tasks that have begun, in this order; then those that are undone.
    pub async fn tasks(&self) -> Vec<TaskOfRun> {
        // Nobody has the run: what it would do first is not begun.
        if self.run["status"]["state"] == "Queued" && self.entries() == 0 {
            return Vec::new();
        }
        let (run, steps) = self.replay.now(&self.evaluator).await;
        let mut tasks = tasks(&self.workflow, &steps, &self.replay, run.held_answers());
        // What it asked last may have no answer in this process.
        let last = tasks.iter().map(|task| task.changed).max().unwrap_or_default();
        let left = tasks.iter_mut().rev().filter(|task| self.is_over() && !task.state.is_over());
        for (behind, task) in left.enumerate() {
            task.state = TaskState::Stopped;
            task.changed = (last.0, last.1.saturating_add(1 + behind));
        }
        tasks
    }

    /// Each retry.
    pub fn retries(&self) -> Vec<WentBack> {
        let entries = self.replay.entries();
        let went_back = |entry: &HistoryEntry| match entry.event {
            RunEvent::Retried { entries: until, .. } => {
                let before = (until as usize).checked_sub(1).and_then(|last| entries.get(last));
                let to = before.map_or(self.info.started, |before| before.at);
                Some(WentBack { at: entry.at, to })
            }
            _ => None,
        };
        entries.iter().filter_map(went_back).collect()
    }
}

/// What these steps say of each task, and what the history has of its calls.
fn tasks(workflow: &Workflow, steps: &[RunStep], replay: &Replay, held: Vec<HeldAnswer>) -> Vec<TaskOfRun> {
    let mut tasks: Vec<TaskOfRun> = Vec::new();
    let mut by_path: HashMap<Arc<str>, usize> = HashMap::new();
    let mut depths = Depths::default();
    let answered = answered(replay.entries());
    for (number, step) in steps.iter().enumerate() {
        let of = workflow.task(step.task);
        let index = *by_path.entry(step.path.clone()).or_insert_with(|| {
            tasks.push(TaskOfRun::new(of, &step.path, step.at, &mut depths));
            tasks.len() - 1
        });
        let task = &mut tasks[index];
        task.changed = (step.at, number);
        let over = |task: &mut TaskOfRun, state| {
            (task.state, task.ended, task.until) = (state, Some(step.at), None);
        };
        // What follows of an answer may be looked at much later: the run was suspended, or gone back to there.
        let answered = |task: &mut TaskOfRun| {
            let at = task.asked.and_then(|ask| answered.get(&ask).copied());
            task.ended = at.map_or(step.at, |at| at.min(step.at)).into();
        };
        match &step.what {
            RunStepKind::Began { raw_input } => {
                (task.state, task.ended, task.output) = (TaskState::Running, None, None);
                task.attempts += 1;
                task.input = Some(raw_input.clone());
                task.asked = None;
            }
            RunStepKind::Skipped => over(task, TaskState::Skipped),
            RunStepKind::Asked { ask, input } => {
                task.asked = Some(*ask);
                let waits = matches!(of.kind, TaskKind::Wait(_));
                task.state = if waits { TaskState::Waiting } else { TaskState::Calling };
                task.input = Some(input.clone());
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
                answered(task);
                task.output = Some(output.clone());
            }
            RunStepKind::Faulted { fault } => {
                over(task, TaskState::Faulted);
                answered(task);
                task.error = Some(fault.clone());
            }
            RunStepKind::Stopped => over(task, TaskState::Stopped),
        }
    }
    let behind = steps.len();
    for (number, HeldAnswer { path, at, result }) in held.into_iter().enumerate() {
        let Some(task) = by_path.get(&path).map(|index| &mut tasks[*index]) else { continue };
        // It was answered before, or its time was up.
        if !matches!(task.state, TaskState::Calling | TaskState::Waiting) {
            continue;
        }
        (task.ended, task.changed) = (Some(at), (at, behind + number));
        match result {
            Ok(output) => (task.state, task.output, task.error) = (TaskState::Done, output, None),
            Err(fault) => (task.state, task.error) = (TaskState::Faulted, Some(fault)),
        }
    }
    add_calls(workflow, replay, &mut tasks, by_path);
    for task in &mut tasks {
        let made = task.calls.len() + task.given_up + usize::from(task.state == TaskState::Calling);
        task.attempts = task.attempts.max(u32::try_from(made).unwrap_or(u32::MAX));
    }
    tasks
}

/// Gives each task the calls that it has made. Where the run went back, some are of tasks that no step is about: they are undone.
fn add_calls(
    workflow: &Workflow,
    replay: &Replay,
    tasks: &mut Vec<TaskOfRun>,
    mut by_path: HashMap<Arc<str>, usize>,
) {
    // What was around an undone task may not have begun, either.
    let mut depths = Depths::of_all(workflow);
    let begun = tasks.len();
    for (number, entry) in replay.entries().iter().enumerate() {
        if let RunEvent::Retried { .. } = entry.event {
            let were_done = tasks[begun..].iter_mut().filter(|task| task.ended == Some(task.changed.0));
            were_done.for_each(|task| task.changed.0 = entry.at);
        }
        let known = calls_of(entry).map(|(path, call)| (path, call.made.began, Some(call)));
        let given_up = replay.given_up(number).iter().map(|call| (&call.path, call.ordered, None));
        for (path, began, call) in known.chain(given_up) {
            let index = match by_path.get(path) {
                Some(index) => *index,
                None => {
                    let Some(of) = task_at(workflow, path) else { continue };
                    let undone = TaskOfRun::new(of, path, began, &mut depths);
                    tasks.push(TaskOfRun { state: TaskState::Undone, ..undone });
                    by_path.insert(path.clone(), tasks.len() - 1);
                    tasks.len() - 1
                }
            };
            let task = &mut tasks[index];
            if task.state == TaskState::Undone {
                task.ended = Some(entry.at);
                task.changed = (entry.at, usize::MAX);
            }
            match call {
                Some(call) => task.calls.push(call),
                None => task.given_up += 1,
            }
        }
    }
}

/// When what was asked on the way to where the run is was over.
fn answered(entries: &[HistoryEntry]) -> BTreeMap<AskId, Millis> {
    let lasting = lasting(0, entries).into_iter();
    let answered = lasting.filter_map(|(_, entry)| match entry.event {
        RunEvent::Answered { ask, .. } | RunEvent::Fired { ask } => Some((ask, entry.at)),
        _ => None,
    });
    answered.collect()
}

/// The calls that were over with an entry, each with its path.
fn calls_of(entry: &HistoryEntry) -> impl Iterator<Item = (&Arc<str>, CallOfTask)> {
    let answered = match (&entry.event, &entry.call, &entry.path) {
        (RunEvent::Answered { result, .. }, Some(made), Some(path)) => {
            let error = result.as_ref().err().cloned();
            Some((path, CallOfTask { made: made.clone(), ended: entry.at, error, cut_off: false }))
        }
        _ => None,
    };
    let cut_off = entry.cut_off.iter().map(|cut| {
        let made = cut.made.clone();
        (&cut.path, CallOfTask { made, ended: entry.at, error: None, cut_off: true })
    });
    answered.into_iter().chain(cut_off)
}

/// The task that a path is of: it begins with where that stands. Names may have in them what the turns of loops are written with.
fn task_at<'w>(workflow: &'w Workflow, path: &str) -> Option<&'w Task> {
    let is_of = |task: &&Task| {
        path.strip_prefix(&*task.reference)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '~', '@']))
    };
    workflow.tasks.iter().filter(is_of).max_by_key(|task| task.reference.len())
}

impl TaskOfRun {
    /// One of which nothing is known as yet.
    fn new<'w>(of: &'w Task, path: &Arc<str>, started: Millis, depths: &mut Depths<'w>) -> Self {
        let turns = path.strip_prefix(&*of.reference).unwrap_or_default();
        Self {
            name: named(&of.name, turns),
            reference: of.reference.clone(),
            path: path.clone(),
            depth: depths.of(&of.reference, turns),
            state: TaskState::Running,
            started,
            ended: None,
            changed: (started, 0),
            attempts: 0,
            input: None,
            output: None,
            error: None,
            until: None,
            calls: Vec::new(),
            given_up: 0,
            asked: None,
        }
    }
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
    /// As if all of them had begun.
    fn of_all(workflow: &'w Workflow) -> Self {
        let begun = workflow.tasks.iter().map(|task| &*task.reference).collect();
        Self { begun, known: HashMap::new() }
    }

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
