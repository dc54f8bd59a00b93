use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tulle_flow::runner::{Book, BookError, GivenRun, RunCommand};
use tulle_model::flow::history::{Append, HistoryEntry, Outcome, RunName, Then};
use tulle_model::flow::run::RunEvent;
use tulle_model::flow::scope::{Millis, RunInfo};
use tulle_model::flow::workflow::Workflow;

/// Keeps histories; clones are the same book.
#[derive(Clone, Default)]
pub struct MemoryBook(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    runs: HashMap<RunName, Entered>,
    appends: usize,
    crash: Option<Crash>,
    has_crashed: bool,
    /// How many appends are answered with that it may go well later.
    away: usize,
    /// How many entries a history may have.
    most: Option<usize>,
}

/// What a run began with.
#[derive(Clone)]
pub struct RunFacts {
    pub id: RunName,
    pub info: Arc<RunInfo>,
    pub workflow: Arc<Workflow>,
    pub secrets: Value,
}

/// All of a run.
#[derive(Clone)]
pub struct Entered {
    pub facts: RunFacts,
    pub lease: u64,
    pub entries: Vec<HistoryEntry>,
    pub checkpoint: Option<(u32, Vec<u8>)>,
    pub then: Then,
}

/// Where a runner dies.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    /// The number of the append.
    pub at: usize,
    /// Whether the book has it.
    pub is_written: bool,
}

impl MemoryBook {
    pub fn begin(&self, facts: RunFacts) {
        let run = facts.id.clone();
        let entered = Entered { facts, lease: 0, entries: Vec::new(), checkpoint: None, then: Then::GoesOn };
        self.0.lock().runs.insert(run, entered);
    }

    /// Has the runner die at that append: it hears nothing of it any more.
    pub fn crash(&self, crash: Crash) {
        let mut pages = self.0.lock();
        pages.crash = Some(crash);
        pages.has_crashed = false;
    }

    pub fn has_crashed(&self) -> bool {
        self.0.lock().has_crashed
    }

    /// Takes no more entries than so many of each run.
    pub fn takes(&self, most: impl Into<Option<usize>>) {
        self.0.lock().most = most.into();
    }

    /// Cannot be reached so often.
    pub fn away(&self, times: usize) {
        self.0.lock().away = times;
    }

    pub fn appends(&self) -> usize {
        self.0.lock().appends
    }

    pub fn entered(&self, run: &RunName) -> Entered {
        self.0.lock().runs[run].clone()
    }

    /// Under a new lease, for a runner.
    pub fn lease(&self, run: &RunName, commands: Vec<RunCommand>) -> GivenRun {
        let mut pages = self.0.lock();
        let entered = pages.runs.get_mut(run).expect("it has begun");
        entered.lease += 1;
        entered.then = Then::GoesOn;
        let first = entered.checkpoint.as_ref().map_or(0, |(entries, _)| *entries);
        GivenRun {
            id: run.clone(),
            lease: entered.lease,
            info: entered.facts.info.clone(),
            workflow: entered.facts.workflow.clone(),
            checkpoint: entered.checkpoint.clone(),
            entries: entered.entries[first as usize..].to_vec(),
            place: None,
            nobody_since: None,
            commands,
        }
    }

    /// Ends a run that is not over, whoever has it.
    pub fn cancel(&self, run: &RunName, at: Millis) {
        let mut pages = self.0.lock();
        let entered = pages.runs.get_mut(run).expect("it has begun");
        assert!(!matches!(entered.then, Then::Ends(..)), "it is over");
        entered.lease += 1;
        entered.entries.push(HistoryEntry::new(at, RunEvent::Cancelled));
        entered.then = Then::Ends(at, Outcome::Cancelled);
        entered.checkpoint = None;
    }

    /// Whether the runner is gone before it hears how it went.
    fn write(&self, run: &RunName, append: &Append) -> Result<bool, BookError> {
        let mut pages = self.0.lock();
        if pages.has_crashed {
            return Ok(true);
        }
        if pages.away > 0 {
            pages.away -= 1;
            return Err(BookError::Later("away".to_owned()));
        }
        let number = pages.appends;
        let is_full = pages.most.is_some_and(|most| append.first as usize + append.entries.len() > most);
        if is_full && !matches!(append.then, Then::Ends(..)) {
            return Err(BookError::Full("it is full".to_owned()));
        }
        pages.appends += 1;
        let crash = pages.crash.filter(|crash| crash.at == number);
        pages.has_crashed = crash.is_some();
        if crash.is_some_and(|crash| !crash.is_written) {
            return Ok(true);
        }
        let entered = pages.runs.get_mut(run).ok_or(BookError::Lost)?;
        let is_over = matches!(entered.then, Then::Ends(..));
        if entered.lease != append.lease || entered.entries.len() as u32 != append.first || is_over {
            return Err(BookError::Lost);
        }
        // As it is when it is read from a disk.
        let kept = serde_json::to_vec(&append.entries).expect("entries are JSON");
        let read: Vec<HistoryEntry> = serde_json::from_slice(&kept).expect("entries can be read");
        entered.entries.extend(read);
        let count = entered.entries.len() as u32;
        if let Some(state) = &append.checkpoint {
            entered.checkpoint = Some((count, state.clone()));
        }
        entered.then = append.then.clone();
        if let Then::Ends(..) = append.then {
            entered.checkpoint = None;
        }
        Ok(crash.is_some())
    }
}

impl Book for MemoryBook {
    async fn append(&self, run: &RunName, append: &Append) -> Result<(), BookError> {
        tokio::task::yield_now().await;
        match self.write(run, append)? {
            true => std::future::pending().await,
            false => Ok(()),
        }
    }

    async fn secrets(&self, run: &RunName, lease: u64) -> Result<Value, BookError> {
        tokio::task::yield_now().await;
        let pages = self.0.lock();
        let entered = pages.runs.get(run).filter(|entered| entered.lease == lease).ok_or(BookError::Lost)?;
        Ok(entered.facts.secrets.clone())
    }
}
