//! Why a call on objects did not do what was asked.

use tulle_model::registry::Kind;

use crate::store::StoreError;

/// A field that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// As people write it: `spec.rules[0].backendRefs[1].port`.
    pub field: String,
    /// A `CauseType` of Kubernetes: `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// What is wrong and what is expected, without the name of the field.
    pub message: String,
}

/// Each variant is one answer of the Kubernetes API (its HTTP status and `reason`).
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObjectError {
    #[error("{} \"{name}\" not found", .kind.qualified_name())]
    NotFound { kind: &'static Kind, name: String },
    #[error("{} \"{name}\" already exists", .kind.qualified_name())]
    AlreadyExists { kind: &'static Kind, name: String },
    /// The object is not, or is no longer, what the caller thinks it is.
    #[error("Operation cannot be fulfilled on {} \"{name}\": {message}", .kind.qualified_name())]
    Conflict { kind: &'static Kind, name: String, message: String },
    /// An apply sets fields that others have set to something else (server-side apply).
    #[error("{}", apply_conflict(.conflicts))]
    ApplyConflict { kind: &'static Kind, name: String, conflicts: Vec<ManagerConflict> },
    #[error("{} \"{name}\" is invalid: {}", qualified_kind(.kind), list_problems(.problems))]
    Invalid { kind: &'static Kind, name: String, problems: Vec<FieldProblem> },
    #[error("{0}")]
    BadRequest(String),
    #[error("{} \"{name}\" is forbidden: {message}", .kind.qualified_name())]
    Forbidden { kind: &'static Kind, name: String, message: String },
    /// The revision asked for is gone: list again.
    #[error("{0}")]
    Expired(String),
    #[error("{0}")]
    Store(StoreError),
}

/// A field that an apply wants and another manager has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerConflict {
    /// The path as Kubernetes writes it: `.spec.ports[port=80].name`.
    pub field: String,
    /// The other manager, as in a message: `"kubectl-edit" using v1`.
    pub manager: String,
}

impl From<StoreError> for ObjectError {
    fn from(error: StoreError) -> Self {
        match error {
            // The words are Kubernetes'.
            StoreError::Compacted { revision, compacted } => {
                Self::Expired(format!("too old resource version: {revision} ({compacted})"))
            }
            StoreError::Future { revision, latest } => Self::Expired(format!(
                "too new resource version: {revision}; this server's latest is {latest}: list again"
            )),
            error => Self::Store(error),
        }
    }
}

impl ObjectError {
    /// Whether the store takes nothing at present: its disk is full, or can only be read.
    pub fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::Store(StoreError::Full(_) | StoreError::ReadOnly(_) | StoreError::Reopening))
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether somebody else changed the object meanwhile.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// `HTTPRoute.gateway.networking.k8s.io`, as Kubernetes names a kind in `is invalid` messages.
fn qualified_kind(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.kind.to_owned() } else { format!("{}.{}", kind.kind, kind.group) }
}

fn list_problems(problems: &[FieldProblem]) -> String {
    let one = |problem: &FieldProblem| match problem.field.as_str() {
        "" => problem.message.clone(),
        field => format!("{field}: {}", problem.message),
    };
    match problems {
        [problem] => one(problem),
        problems => format!("[{}]", problems.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

fn apply_conflict(conflicts: &[ManagerConflict]) -> String {
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let fields: Vec<&str> = conflicts.iter().map(|conflict| conflict.field.as_str()).collect();
    let plural = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
    format!(
        "Apply failed with {} {plural}: {plural} with {}: {}",
        conflicts.len(),
        managers.join(", "),
        fields.join(", ")
    )
}
