//! Carries runs out: many at once, each by one task of tokio.
//!
//! What has happened is in the [`Book`] before anything is done that follows of it: events are taken into memory as they come, and the calls
//! and timers that the run wants then are held back until the book has all that led to them. So the book is never behind what others have
//! seen of a run, and whoever goes on with it from there makes again what was under way, with the same `Idempotency-Key`.
//!
//! A run that the book says to be another one's is dropped at once. Where the book cannot be reached, its runs stand still. One that
//! waits for a time that is not near is written down and forgotten: who gives out runs gives it again.

mod backoff;
mod book;
mod caller;
mod calls;
mod carried;
mod clock;
mod masks;
mod replay;
mod schemas;
mod secrets;
mod tokens;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, watch};
use tokio::task::AbortHandle;
use tulle_model::flow::history::{HistoryEntry, Outcome, RunName};
use tulle_model::flow::scope::{Millis, RunInfo};
use tulle_model::flow::workflow::Workflow;

pub use self::book::{Book, BookError};
pub use self::caller::{CallAnswer, Caller, OutgoingCall};
use self::carried::Carried;
pub use self::clock::Clock;
pub use self::replay::Replay;
use self::schemas::SchemaCache;
use self::tokens::TokenCache;
use crate::evaluator::Evaluator;

/// How many commands may wait for one run.
const MOST_COMMANDS: usize = 16;

/// What a runner may have, and for how long.
#[derive(Debug, Clone)]
pub struct RunnerLimits {
    /// How many runs it has at once.
    pub most_runs: usize,
    /// A run that waits for longer than that is not kept in memory.
    pub longest_wait: Duration,
    /// How long a call may take, whatever its task says.
    pub longest_call: Duration,
}

impl Default for RunnerLimits {
    fn default() -> Self {
        Self {
            most_runs: 10_000,
            longest_wait: Duration::from_secs(5),
            longest_call: Duration::from_mins(10),
        }
    }
}

/// What somebody wants of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunCommand {
    Suspend,
    Resume,
    /// To go on from where this task was begun last (its reference, a JSON pointer): for runs that have failed or were cancelled.
    Retry {
        task: Arc<str>,
    },
}

/// All that is needed to carry on a run.
#[derive(Debug, Clone)]
pub struct GivenRun {
    pub id: RunName,
    pub lease: u64,
    pub info: Arc<RunInfo>,
    pub workflow: Arc<Workflow>,
    /// The number of entries that it stands for, and the run as they have left it.
    pub checkpoint: Option<(u32, Vec<u8>)>,
    /// Those after the checkpoint.
    pub entries: Vec<HistoryEntry>,
    /// Is given back when it has been gone through: what that takes is bounded over all runs by whoever gives them.
    pub place: Option<Arc<OwnedSemaphorePermit>>,
    /// Since when nobody had it who could have had answers to its calls; `None`: since what has happened last.
    pub nobody_since: Option<Millis>,
    /// What is wanted of it, before all else.
    pub commands: Vec<RunCommand>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the runner has {0} runs, which is the most that it takes")]
pub struct RunnerFull(pub usize);

/// Carries runs out; clones are the same runner. To be used within a runtime of tokio.
pub struct Runner<B, C, K>(Arc<Surroundings<B, C, K>>);

impl<B, C, K> Clone for Runner<B, C, K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What all runs share.
struct Surroundings<B, C, K> {
    book: B,
    caller: C,
    evaluator: Evaluator,
    clock: K,
    limits: RunnerLimits,
    held: Mutex<HashMap<RunName, Held>>,
    /// Whether nothing more is to be begun.
    resting: watch::Sender<bool>,
    /// The last of its runs is gone.
    emptied: Notify,
    tokens: TokenCache,
    schemas: SchemaCache,
}

/// A run that is carried out.
struct Held {
    lease: u64,
    commands: mpsc::Sender<RunCommand>,
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortHandle,
}

impl<B: Book, C: Caller, K: Clock> Runner<B, C, K> {
    pub fn new(book: B, caller: C, evaluator: Evaluator, clock: K, limits: RunnerLimits) -> Self {
        Self(Arc::new(Surroundings {
            book,
            caller,
            evaluator,
            clock,
            limits,
            held: Mutex::default(),
            resting: watch::Sender::new(false),
            emptied: Notify::new(),
            tokens: TokenCache::default(),
            schemas: SchemaCache::default(),
        }))
    }

    /// Begins a run, or goes on with it. One that it has under the same lease, or a later one, goes on as it does.
    ///
    /// # Errors
    /// It has too many.
    pub fn carry_on(&self, given: GivenRun) -> Result<(), RunnerFull> {
        let mut held = self.0.held.lock();
        match held.get(&given.id) {
            Some(has) if has.lease >= given.lease => return Ok(()),
            Some(has) => has.task.abort(),
            None if held.len() >= self.0.limits.most_runs => return Err(RunnerFull(held.len())),
            None => {}
        }
        let (id, lease) = (given.id.clone(), given.lease);
        let (commands, wanted) = mpsc::channel(MOST_COMMANDS);
        let (tells, outcome) = watch::channel(None);
        let carried = Carried::new(self.0.clone(), given, wanted, tells);
        let task = tokio::spawn(carried.carry_out()).abort_handle();
        held.insert(id, Held { lease, commands, outcome, task });
        Ok(())
    }

    /// Has a run know what is wanted of it. Whether it is here, and takes that.
    pub fn command(&self, run: &RunName, command: RunCommand) -> bool {
        let held = self.0.held.lock();
        held.get(run).is_some_and(|has| has.commands.try_send(command).is_ok())
    }

    /// Drops a run that is another one's by now: under this lease nothing is done for it any more.
    pub fn lost(&self, run: &RunName, lease: u64) {
        let mut held = self.0.held.lock();
        if held.get(run).is_some_and(|has| has.lease <= lease)
            && let Some(has) = held.remove(run)
        {
            has.task.abort();
        }
    }

    /// Drops all runs: what they wait for is made again by who takes them over.
    pub fn drop_all(&self) {
        for (_, has) in self.0.held.lock().drain() {
            has.task.abort();
        }
    }

    /// The runs that it has, each with its lease.
    pub fn held(&self) -> Vec<(RunName, u64)> {
        self.0.held.lock().iter().map(|(run, has)| (run.clone(), has.lease)).collect()
    }

    /// Begins nothing more. Returns when what was under way is written down, and all runs are left to who takes them over.
    pub async fn rest(&self) {
        self.0.resting.send_replace(true);
        loop {
            let emptied = self.0.emptied.notified();
            if self.0.held.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// What comes of a run. `None`: it is not here, or no longer, and the book knows what has become of it. Several may wait.
    pub fn ended(&self, run: &RunName) -> impl Future<Output = Option<Outcome>> + Send + use<B, C, K> {
        let outcome = self.0.held.lock().get(run).map(|has| has.outcome.clone());
        async move {
            let mut outcome = outcome?;
            let ended = outcome.wait_for(Option::is_some).await.ok()?;
            ended.clone()
        }
    }
}

impl<B, C, K> Surroundings<B, C, K> {
    /// Forgets a run, if it is still under that lease.
    fn forget(&self, run: &RunName, lease: u64) {
        let mut held = self.held.lock();
        if held.get(run).is_some_and(|has| has.lease == lease) {
            held.remove(run);
        }
        if held.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// The same, unless something is wanted of it.
    fn forget_unless_wanted(
        &self,
        run: &RunName,
        lease: u64,
        commands: &mut mpsc::Receiver<RunCommand>,
    ) -> Option<RunCommand> {
        let mut held = self.held.lock();
        // Commands are sent under the lock as well.
        if let Ok(command) = commands.try_recv() {
            return Some(command);
        }
        if held.get(run).is_some_and(|has| has.lease == lease) {
            held.remove(run);
        }
        None
    }
}
