//! Takes a run through its history.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::history::{HistoryEntry, lasting};
use tulle_model::flow::run::{CallUnderWay, Run, RunEvent, RunStep};
use tulle_model::flow::scope::RunInfo;
use tulle_model::flow::workflow::Workflow;

use super::backoff::Pause;
use crate::evaluator::Evaluator;
use crate::questions::answer;
use crate::scoped::Unanswered;

/// How often what a run asks is asked again that had an answer before, in half a minute: a host may be busy.
const ATTEMPTS: u32 = 12;

/// A run that is taken through its history as that grows, to look at what it goes through.
pub struct Replay {
    /// As it began.
    begun: Run,
    /// Where the history has led to: what it asks then has no answer yet.
    run: Run,
    entries: Vec<HistoryEntry>,
    steps: Vec<RunStep>,
    /// By the number of the entry with which they were given up.
    given_up: BTreeMap<u32, Vec<CallUnderWay>>,
}

impl Replay {
    pub fn new(workflow: Arc<Workflow>, info: Arc<RunInfo>) -> Self {
        let begun = Run::begin_watched(workflow, info);
        Self { run: begun.clone(), begun, entries: Vec::new(), steps: Vec::new(), given_up: BTreeMap::new() }
    }

    /// All of the history that was added.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The calls that were under way when the entry of that number came, and that nobody waits for since: whatever became of them is in
    /// no entry.
    pub fn given_up(&self, entry: usize) -> &[CallUnderWay] {
        let number = u32::try_from(entry).ok();
        number.and_then(|number| self.given_up.get(&number)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Takes what comes next of the history.
    ///
    /// # Errors
    /// Why it cannot be gone through here; what was added is taken up to there.
    pub async fn add(&mut self, entries: Vec<HistoryEntry>, evaluator: &Evaluator) -> Result<(), Fault> {
        let goes_back = entries.iter().any(|entry| matches!(entry.event, RunEvent::Retried { .. }));
        let mut from = self.entries.len();
        self.entries.extend(entries);
        if goes_back {
            self.run = self.begun.clone();
            self.steps.clear();
            from = 0;
        }
        let first = u32::try_from(from).unwrap_or(u32::MAX);
        for (number, entry) in lasting(first, &self.entries[from..]) {
            reach(&mut self.run, &entry.event, evaluator).await?;
            let before = (number as usize).checked_sub(1).and_then(|before| self.entries.get(before));
            note_given_up(&mut self.given_up, &self.run, number, entry, before);
            take(&mut self.run, entry);
        }
        self.steps.extend(self.run.take_steps());
        if goes_back {
            self.look_back(evaluator).await;
        }
        Ok(())
    }

    /// Looks for calls that were given up before the run went back.
    async fn look_back(&mut self, evaluator: &Evaluator) {
        let retried = |(at, entry): (usize, &HistoryEntry)| {
            matches!(entry.event, RunEvent::Retried { .. }).then_some(at)
        };
        for end in self.entries.iter().enumerate().filter_map(retried) {
            let led = lasting(0, &self.entries[..end]);
            let is_new = |(number, entry): &(u32, &HistoryEntry)| {
                gives_up(&entry.event) && !self.given_up.contains_key(number)
            };
            let Some(last) = led.iter().rposition(is_new) else { continue };
            let mut run = self.begun.clone();
            for (number, entry) in &led[..=last] {
                // What is not there any more may not be understood here: where the run is now is known all the same.
                if reach(&mut run, &entry.event, evaluator).await.is_err() {
                    self.given_up.entry(led[last].0).or_default();
                    break;
                }
                let before = (*number as usize).checked_sub(1).and_then(|before| self.entries.get(before));
                note_given_up(&mut self.given_up, &run, *number, entry, before);
                take(&mut run, entry);
            }
        }
    }

    /// The run as it is now, and what it has gone through.
    pub async fn now(&self, evaluator: &Evaluator) -> (Run, Vec<RunStep>) {
        let (mut run, mut steps) = (self.run.clone(), self.steps.clone());
        while let Some(question) = run.question() {
            match answer(&question, evaluator, &no_secrets()).await {
                Ok(value) => run.answer(Ok(value)),
                // What has no answer at once is of whoever carries it out.
                Err(_) => break,
            }
        }
        steps.extend(run.take_steps());
        (run, steps)
    }
}

/// Whether nobody waits any more for the calls that were under way before it, without a word of what became of them. A run that goes
/// back ([`RunEvent::Retried`]) was over before.
fn gives_up(event: &RunEvent) -> bool {
    matches!(event, RunEvent::Cancelled | RunEvent::GivenUp { .. } | RunEvent::TakenOver { .. })
}

/// Before the entry is taken, after [`reach`]. `before`: the entry before it.
fn note_given_up(
    given_up: &mut BTreeMap<u32, Vec<CallUnderWay>>,
    run: &Run,
    number: u32,
    entry: &HistoryEntry,
    before: Option<&HistoryEntry>,
) {
    // What was due when its runner rested was never made.
    let has_rested = before.is_some_and(|before| before.event == RunEvent::Rested);
    if gives_up(&entry.event) && !has_rested {
        // What was cut off is in the entry itself.
        let mut calls = run.calls_under_way();
        calls.retain(|call| entry.cut_off.iter().all(|cut| cut.path != call.path));
        given_up.insert(number, calls);
    }
}

/// Answers what a run asks before an entry: the answers are those that it had when the entry was made. What has none now had one then, as the
/// history would say otherwise: it is asked again, some times.
///
/// # Errors
/// It is answered otherwise: by a host that is slower, or by another version.
pub(super) async fn reach(run: &mut Run, event: &RunEvent, evaluator: &Evaluator) -> Result<(), Fault> {
    match event {
        RunEvent::Failed { question, .. } | RunEvent::Checked { question } => {
            answer_until(run, Some(*question), evaluator).await
        }
        // They are taken where the entry before them has led to.
        RunEvent::Retried { .. } | RunEvent::GivenUp { .. } => Ok(()),
        _ => answer_until(run, None, evaluator).await,
    }
}

async fn answer_until(run: &mut Run, until: Option<u32>, evaluator: &Evaluator) -> Result<(), Fault> {
    let (mut pause, mut attempts) = (Pause::default(), 0);
    while let Some(question) = run.question().filter(|_| Some(run.question_number()) != until) {
        match answer(&question, evaluator, &no_secrets()).await {
            Ok(value) => {
                run.answer(Ok(value));
                (pause, attempts) = (Pause::default(), 0);
            }
            Err(Unanswered::Fault(fault)) => {
                attempts += 1;
                if attempts == ATTEMPTS {
                    let why = "what was answered before, on the run's way to here, is not answered now: this host is \
                               slower, or of another version";
                    let task = question.scope.task.as_ref().map(|task| question.scope.workflow.task(task.id));
                    let instance = task.map_or("/".into(), |task| task.reference.clone());
                    // What it says may quote what the expression was given.
                    tracing::warn!(
                        run = &*question.scope.run.id,
                        task = &*instance,
                        kind = &*fault.kind,
                        "{why}"
                    );
                    return Err(Fault { instance, ..FaultKind::Runtime.fault(why) });
                }
                pause.pass().await;
            }
            Err(Unanswered::Later(_) | Unanswered::Elsewhere) => pause.pass().await,
        }
    }
    Ok(())
}

/// Takes an entry, after [`reach`].
pub(super) fn take(run: &mut Run, entry: &HistoryEntry) {
    match &entry.event {
        RunEvent::Failed { fault, .. } => run.answer(Err(fault.clone())),
        RunEvent::Checked { .. } => run.answer(Ok(Value::Null)),
        event => run.take(entry.at, event.clone()),
    }
}

/// Of what is kept with a run nothing is made of them.
pub(super) fn no_secrets() -> Arc<Value> {
    Arc::new(Value::Object(Map::new()))
}
