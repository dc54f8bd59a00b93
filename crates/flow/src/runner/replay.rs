//! Takes a run through its history.

use std::sync::Arc;

use serde_json::{Map, Value};
use tulle_model::flow::history::{HistoryEntry, lasting};
use tulle_model::flow::run::{Run, RunEvent};

use super::backoff::Pause;
use crate::evaluator::Evaluator;
use crate::questions::answer;

/// Takes a run through all of its history: to look at what it has gone through, it is one that tells ([`Run::begin_watched`]).
pub async fn replay(run: &mut Run, entries: &[HistoryEntry], evaluator: &Evaluator) {
    for (_, entry) in lasting(0, entries) {
        reach(run, &entry.event, evaluator).await;
        take(run, entry);
    }
    // What has no answer at once is of whoever carries it out.
    while let Some(question) = run.question() {
        match answer(&question, evaluator, &no_secrets()).await {
            Ok(value) => run.answer(Ok(value)),
            Err(_) => return,
        }
    }
}

/// Answers what a run asks before an entry: the answers are those that it had when the entry was made. What has none now had one then, as the
/// history would say otherwise: it is asked again.
pub(super) async fn reach(run: &mut Run, event: &RunEvent, evaluator: &Evaluator) {
    match event {
        RunEvent::Failed { question, .. } | RunEvent::Checked { question } => {
            answer_until(run, Some(*question), evaluator).await;
        }
        // It is taken where the entry before it has led to.
        RunEvent::Retried { .. } => {}
        _ => answer_until(run, None, evaluator).await,
    }
}

async fn answer_until(run: &mut Run, until: Option<u32>, evaluator: &Evaluator) {
    let mut pause = Pause::default();
    while let Some(question) = run.question().filter(|_| Some(run.question_number()) != until) {
        match answer(&question, evaluator, &no_secrets()).await {
            Ok(value) => {
                run.answer(Ok(value));
                pause = Pause::default();
            }
            Err(_) => pause.pass().await,
        }
    }
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
