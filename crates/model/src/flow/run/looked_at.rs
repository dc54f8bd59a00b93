//! What a run waits for, for who looks at it.

use std::sync::Arc;

use serde_json::Value;

use super::activation::{Ask, AskId, Purpose};
use super::{Run, RunEvent};
use crate::flow::fault::Fault;
use crate::flow::scope::Millis;

/// A call that was ordered, and has no answer as yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallUnderWay {
    /// As that of [`super::Call`].
    pub path: Arc<str>,
    pub ordered: Millis,
}

/// What came of a call or a wait while the run was suspended: it is taken once that goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldAnswer {
    /// As that of [`super::Call`].
    pub path: Arc<str>,
    pub at: Millis,
    /// The task's output; `None`: it is made of the answer then.
    pub result: Result<Option<Arc<Value>>, Fault>,
}

impl Run {
    /// The calls of which it is not known what became of them.
    pub fn calls_under_way(&self) -> Vec<CallUnderWay> {
        let asks =
            self.state.asks.iter().filter(|(id, ask)| ask.purpose == Purpose::Call && !self.is_held(**id));
        asks.map(|(_, ask)| CallUnderWay { path: self.path(ask.activation), ordered: ask.due }).collect()
    }

    pub fn held_answers(&self) -> Vec<HeldAnswer> {
        self.state.held.iter().filter_map(|(at, event)| self.held_answer(*at, event)).collect()
    }

    fn held_answer(&self, at: Millis, event: &RunEvent) -> Option<HeldAnswer> {
        let of = |id: &AskId, purpose| self.state.asks.get(id).filter(|ask: &&Ask| ask.purpose == purpose);
        let (ask, result) = match event {
            RunEvent::Answered { ask, result } => (of(ask, Purpose::Call)?, result.clone()),
            RunEvent::Fired { ask } => {
                let ask = of(ask, Purpose::Wait)?;
                (ask, Ok(self.activation(ask.activation)?.input.clone()))
            }
            _ => return None,
        };
        let task = self.task(ask.activation)?;
        let result = match result {
            Ok(output) => Ok(task.output.template.is_none().then_some(output)),
            Err(fault) if fault.instance.is_empty() => {
                Err(Fault { instance: task.reference.clone(), ..fault })
            }
            Err(fault) => Err(fault),
        };
        Some(HeldAnswer { path: self.path(ask.activation), at, result })
    }

    /// Whether it has happened, but was not taken as yet.
    pub(super) fn is_held(&self, asked: AskId) -> bool {
        self.state.held.iter().any(|(_, event)| match event {
            RunEvent::Answered { ask, .. } | RunEvent::Fired { ask } => *ask == asked,
            _ => false,
        })
    }
}
