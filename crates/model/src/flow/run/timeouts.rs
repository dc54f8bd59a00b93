//! What is said where a task's time is up.

use super::Run;
use super::activation::ActivationId;
use crate::flow::fault::{Fault, FaultKind};
use crate::flow::workflow::DurationValue;

impl Run {
    /// Of a task's timeout.
    pub(super) fn out_of_time(&self, id: ActivationId) -> Fault {
        let timeout = self.task(id).map_or(&self.workflow.timeout, |task| &task.timeout);
        let after = match timeout {
            Some(DurationValue::Constant(after)) => Some(super::advance::millis(*after)),
            // What was evaluated is known as the time when it is due, which may be put off.
            Some(DurationValue::Expression(_)) | None => None,
        };
        FaultKind::Timeout.fault(match after {
            Some(after) if after.is_multiple_of(1_000) => {
                format!("it was not done within its timeout of {} s", after / 1_000)
            }
            Some(after) => format!("it was not done within its timeout of {after} ms"),
            None => "it was not done within its timeout".to_owned(),
        })
    }
}
