//! What there is where an expression or a task stands.

use std::collections::HashMap;
use std::sync::Arc;

use crate::flow::workflow::TaskId;

/// A place of expressions (dsl.md, Runtime expression arguments).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpressionPlace {
    WorkflowInput,
    WorkflowTimeout,
    WorkflowOutput,
    If,
    TaskInput,
    /// What a task does.
    Definition,
    /// `with` of a call by HTTP.
    HttpCall,
    /// Who a call says to be.
    Authentication,
    TaskOutput,
    Export,
}

/// The variables that every document has.
pub(super) const VARIABLES: [&str; 8] =
    ["context", "input", "output", "secrets", "authorization", "task", "workflow", "runtime"];

impl ExpressionPlace {
    /// Those that are there, apart from the secrets.
    pub(super) fn variables(self) -> &'static [&'static str] {
        match self {
            Self::WorkflowInput | Self::WorkflowTimeout => &["workflow", "runtime"],
            Self::WorkflowOutput => &["context", "workflow", "runtime"],
            Self::If | Self::TaskInput => &["context", "task", "workflow", "runtime"],
            Self::Authentication | Self::Definition | Self::TaskOutput => {
                &["context", "input", "task", "workflow", "runtime"]
            }
            Self::HttpCall => &["context", "input", "authorization", "task", "workflow", "runtime"],
            Self::Export => &["context", "input", "output", "task", "workflow", "runtime"],
        }
    }

    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WorkflowInput => "the workflow's `input`",
            Self::WorkflowTimeout => "the workflow's `timeout`",
            Self::WorkflowOutput => "the workflow's `output`",
            Self::If => "a task's `if`",
            Self::TaskInput => "a task's `input`",
            Self::Definition => "what a task does",
            Self::HttpCall => "`with` of a call",
            Self::Authentication => "`authentication`",
            Self::TaskOutput => "a task's `output`",
            Self::Export => "a task's `export`",
        }
    }
}

/// What is around a task, or around an expression of one.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    /// Of the loops around it, and of the error that is handled.
    variables: Vec<Arc<str>>,
    /// Whether secrets may be named: in `with` and `authentication` of a call by HTTP, and in its `input.from`.
    pub(super) has_secrets: bool,
    /// The function of `use` that it is part of.
    pub(super) function: Option<TaskId>,
    /// How many tasks are around it.
    pub(super) depth: usize,
}

impl Surroundings {
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|name| &**name)
    }

    /// With those variables as well.
    pub(super) fn with<const N: usize>(&self, names: [&Arc<str>; N]) -> Self {
        let mut around = self.clone();
        for name in names {
            if !around.variables.contains(name) {
                around.variables.push(Arc::clone(name));
            }
        }
        around
    }

    pub(super) fn with_secrets(&self) -> Self {
        Self { has_secrets: true, ..self.clone() }
    }

    pub(super) fn without_secrets(&self) -> Self {
        Self { has_secrets: false, ..self.clone() }
    }

    /// Of the tasks within the task that has this one.
    pub(super) fn deeper(&self) -> Self {
        Self { depth: self.depth + 1, ..self.without_secrets() }
    }

    /// Of a function, which sees nothing of its callers.
    pub(super) fn of_function(id: TaskId) -> Self {
        Self { function: Some(id), ..Self::default() }
    }
}

/// Where `then` may lead.
#[derive(Debug, Clone, Copy)]
pub(super) enum Siblings<'s> {
    /// To the tasks of the same list: their names, and where they stand in it.
    List(&'s HashMap<&'s str, usize>),
    Branches,
    Function,
}
