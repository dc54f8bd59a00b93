//! Takes a run through its history.

use serde_json::{Map, Value};
use std::sync::Arc;
use tulle_model::flow::history::HistoryEntry;
use tulle_model::flow::run::{Run, RunEvent};

use super::backoff::Pause;
use crate::evaluator::Evaluator;
use crate::questions::answer;

/// Answers what a run asks before an entry: the answers are those that it had when the entry was made. What has none now had one then, as the
/// history would say otherwise: it is asked again.
pub(super) async fn reach(run: &mut Run, event: &RunEvent, evaluator: &Evaluator) {
    let until = match event {
        RunEvent::Failed { question, .. } | RunEvent::Checked { question } => Some(*question),
        // It is taken where the entry before it has led to.
        RunEvent::Retried { .. } => return,
        _ => None,
    };
    let no_secrets = Arc::new(Value::Object(Map::new()));
    let mut pause = Pause::default();
    while let Some(question) = run.question().filter(|_| Some(run.question_number()) != until) {
        match answer(&question, evaluator, &no_secrets).await {
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
