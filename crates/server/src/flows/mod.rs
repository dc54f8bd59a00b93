//! Runs of Flows, as the store keeps them (DESIGN.md, section 11): of each a header, what it began with, the entries of its
//! history, a checkpoint, and what came of it. All is in records, beside the objects.
//!
//! A run is *active* (somebody has to carry it out), *waits* for a time (nobody needs to have it in memory), or is over. Who
//! carries it out has a lease of it, which is a number: each lease has a greater one, and what is written under an earlier number is refused
//! ([`FlowsError::Lost`]). An entry is in the store before anything follows from it, and then for good.

mod board;
mod book;
mod bounds;
mod carrying;
mod changes;
mod commands;
mod dispatcher;
mod ends;
mod forget;
mod housekeeping;
mod id;
mod keys;
mod known;
mod lists;
mod sealed;
mod starting;
#[cfg(test)]
mod tests;
mod wanted;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tulle_model::flow::history::HistoryEntry;
pub use tulle_model::flow::history::{Append, RunName, Then};
use tulle_model::flow::scope::{Millis, RunInfo};
use tulle_model::name::NamespacedName;

pub(crate) use self::board::allows;
pub use self::board::{FlowTally, NewRunner, RunnerNote};
pub use self::book::{Appended, RunBook};
pub use self::bounds::{InvalidBounds, RunBounds};
pub use self::carrying::RunSecrets;
pub use self::changes::{RunChange, RunChanges};
pub use self::dispatcher::Flows;
pub use self::known::{AllFlows, HttpTrigger, KnownFlow, KnownFlows};
pub use self::lists::RunPage;
pub use self::sealed::Seal;
pub use self::starting::{Begun, NewStart};
pub use self::wanted::{RunWish, RunWishes};
use crate::objects::ObjectError;
use crate::store::StoreError;

/// What is to be known of a run without its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    pub name: RunName,
    pub state: RunState,
    pub started: Millis,
    pub ended: Option<Millis>,
    /// The SPIFFE ID of who started it, or a user's name.
    pub caller: Arc<str>,
    /// Which workflow it goes by: a hash of it.
    pub workflow: Arc<str>,
    /// The uid of its Flow: another one may have the name by now. Empty: it is of before this was kept.
    #[serde(default)]
    pub uid: Arc<str>,
    /// The service account of its calls.
    pub account: Arc<str>,
    /// Who carries it out, or did last: a node, and which of its processes. Empty: nobody has yet.
    pub runner: Arc<str>,
    /// The number of that lease.
    pub lease: u64,
    /// How many entries its history has, and how many bytes of the store they take.
    pub entries: u32,
    #[serde(default)]
    pub bytes: usize,
    /// How many runs stand behind it, each started by the one before.
    #[serde(default)]
    pub depth: u32,
    /// The name that its caller has given it, as a hash.
    pub given: Option<Arc<str>>,
    /// What people want of it, and its history does not show yet.
    #[serde(default, skip_serializing_if = "RunWishes::is_empty")]
    pub wanted: RunWishes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// It is accepted, and begins when others of its Flow have ended.
    Queued,
    Active,
    Waiting {
        until: Millis,
    },
    Suspended,
    Completed,
    Faulted,
    Cancelled,
}

impl RunState {
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Faulted | Self::Cancelled)
    }

    /// What it is called where people look at it: `status.state` of a FlowRun.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Active => "Running",
            Self::Waiting { .. } => "Waiting",
            Self::Suspended => "Suspended",
            Self::Completed => "Completed",
            Self::Faulted => "Faulted",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// A run that is to begin.
#[derive(Debug, Clone)]
pub struct Start {
    pub name: RunName,
    pub info: RunInfo,
    pub caller: Arc<str>,
    /// `None`: it waits for its turn.
    pub runner: Option<Arc<str>>,
    pub workflow: Arc<Value>,
    /// The uid of its Flow.
    pub uid: Arc<str>,
    /// The service account of its calls.
    pub account: Arc<str>,
    /// How many runs stand behind it.
    pub depth: u32,
    /// The name that the caller gives it, and a hash of all that it is started with.
    pub given: Option<Given>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub name: Arc<str>,
    pub body: Arc<str>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Started {
    /// It has begun, and its runner has the lease.
    New(RunHeader),
    /// The same caller has started it before.
    Before(RunName),
    /// He has, with something else.
    Otherwise(RunName),
}

/// All that is needed to carry on a run.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub header: RunHeader,
    pub info: RunInfo,
    pub workflow: Arc<Value>,
    /// The number of entries that it stands for, and the run as they have left it.
    pub checkpoint: Option<(u32, Vec<u8>)>,
    pub part: HistoryPart,
}

/// Some entries of a history.
#[derive(Debug, Clone)]
pub struct HistoryPart {
    pub entries: Vec<HistoryEntry>,
    /// Whether there are more after them.
    pub has_more: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    #[error("there is no run {} of the Flow {}/{}", .0.run, .0.namespace, .0.flow)]
    NotFound(RunName),
    /// Another runner has it by now, or what was to be added is there.
    #[error("the run {} of the Flow {}/{} is carried out by somebody else by now", .0.run, .0.namespace, .0.flow)]
    Lost(RunName),
    /// Others write of it without end; it is not said whose it is.
    #[error("the run {} of the Flow {}/{} changes all the time; try again", .0.run, .0.namespace, .0.flow)]
    Contended(RunName),
    #[error("the record {key} of the store cannot be used: {why}")]
    Unreadable { key: String, why: &'static str },
    #[error("there is no Flow {0}")]
    NoFlow(NamespacedName),
    /// What was asked for cannot be right; the text says what is expected.
    #[error("{0}")]
    Invalid(String),
    /// It is not possible as things are.
    #[error("{0}")]
    Refused(String),
    /// What was to be added to a history makes it larger than it may be; the text says how large.
    #[error("{0}")]
    TooLarge(String),
    /// Runs start runs without end; the text says how many may.
    #[error("{0}")]
    TooDeep(String),
    /// There are too many; the text says of what.
    #[error("{0}")]
    TooMany(String),
    /// Nobody carries it out; the text says why.
    #[error("{0}")]
    NoRunner(String),
    #[error(transparent)]
    Objects(ObjectError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Milliseconds since the epoch.
pub(super) fn now_millis() -> Millis {
    crate::timestamp::millis(std::time::SystemTime::now()).try_into().unwrap_or(0)
}
