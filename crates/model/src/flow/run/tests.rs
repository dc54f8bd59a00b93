//! Runs whose calls and timers a simulation answers, and a naive interpreter beside them.

mod naive;
mod random;
mod simulation;

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::flow::fault::FaultKind;
use crate::flow::workflow::{
    Backoff, Case, Catch, Directive, DurationValue, Endpoint, ErrorFilter, Fork, HttpCall, HttpOutput, Loop,
    RetryPolicy, Task, TaskKind, TaskList, Transformation, Try, Uri, UriTemplate,
};

/// Builds a workflow from its tasks.
#[derive(Default)]
pub(super) struct Builder {
    tasks: Vec<Task>,
}

impl Builder {
    /// A task under this reference.
    pub fn task(&mut self, reference: &str, kind: TaskKind) -> TaskId {
        self.tasks.push(Task {
            name: reference.rsplit('/').next().unwrap_or_default().into(),
            reference: reference.into(),
            condition: None,
            input: Transformation::default(),
            output: Transformation::default(),
            export: Transformation::default(),
            timeout: None,
            then: Directive::Continue,
            kind,
        });
        TaskId(u32::try_from(self.tasks.len()).unwrap() - 1)
    }

    pub fn last(&mut self) -> &mut Task {
        self.tasks.last_mut().unwrap()
    }

    pub fn workflow(self, steps: &[TaskId]) -> Arc<Workflow> {
        Arc::new(Workflow {
            name: "w".into(),
            version: "1.0.0".into(),
            definition: Arc::new(json!({})),
            input: Transformation::default(),
            output: Transformation::default(),
            timeout: None,
            secrets: vec![],
            tasks: self.tasks,
            steps: steps.into(),
        })
    }
}

pub(super) fn expression(text: &str) -> Expression {
    Expression { text: text.into() }
}

pub(super) fn template(value: Value) -> Template {
    Template(value)
}

pub(super) fn call() -> TaskKind {
    let literal = crate::flow::workflow::UriPart::Literal("http://a/".into());
    TaskKind::Call(Box::new(HttpCall {
        method: template(json!("get")),
        endpoint: Endpoint { uri: Uri::Template(UriTemplate(vec![literal])), authentication: None },
        headers: None,
        query: None,
        body: None,
        output: HttpOutput::Content,
        redirect: false,
    }))
}

pub(super) fn constant(millis: u64) -> DurationValue {
    DurationValue::Constant(std::time::Duration::from_millis(millis))
}

fn list(tasks: &[TaskId]) -> TaskList {
    tasks.into()
}
