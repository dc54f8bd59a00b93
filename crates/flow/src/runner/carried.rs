//! One run that is carried out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;

use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::history::{Append, CallRecord, CutOffCall, HistoryEntry, Outcome, Then, lasting};
use tulle_model::flow::run::{AskId, Order, Run, RunEvent, RunPhase, RunStepKind};
use tulle_model::flow::scope::Millis;
use tulle_model::json_bounds::size;

use super::backoff::Pause;
use super::book::{Book, BookError};
use super::caller::Caller;
use super::calls::{self, CallDone, Sent};
use super::clock::Clock;
use super::masks::beginning;
use super::replay::{reach, take};
use super::schemas::{self, Settled};
use super::secrets::{Lost, RunSecrets};
use super::{GivenRun, RunCommand, Surroundings};
use crate::evaluator::Evaluator;

/// The number of a run's first lease.
const FIRST_LEASE: u64 = 1;
/// After how many entries a checkpoint is kept.
const ENTRIES_A_CHECKPOINT: u32 = 100;
/// How much is added to a history at once, in bytes: what has come beyond that comes after it.
const MOST_APPENDED: usize = 1 << 20;
/// A larger checkpoint is not kept: it is gone through the history instead.
const LARGEST_CHECKPOINT: usize = 2 << 20;
/// How many calls an entry names that it cut off, and how many characters of the endpoint of each.
const MOST_CUT_OFF: usize = 100;
const MOST_CUT_OFF_SHOWN: usize = 256;
/// After how many questions others get their turn.
const QUESTIONS_A_TURN: u32 = 32;

/// What a run is told.
enum Arrival {
    Done(CallDone),
    Fired(Millis, AskId),
    Wanted(RunCommand),
}

/// A call that is under way.
struct UnderWay {
    abort: AbortHandle,
    path: Arc<str>,
    sent: Sent,
}

type Calls = FuturesUnordered<Abortable<BoxFuture<'static, Result<CallDone, Lost>>>>;

/// What goes on beside whatever the run does.
#[derive(Default)]
struct Around {
    calls: Calls,
    /// What has come and was not taken yet.
    arrived: VecDeque<Arrival>,
}

pub(super) struct Carried<B, C, K> {
    shared: Arc<Surroundings<B, C, K>>,
    given: GivenRun,
    /// In the turn of its Flow.
    evaluator: Evaluator,
    secrets: Arc<RunSecrets>,
    commands: mpsc::Receiver<RunCommand>,
    tells: watch::Sender<Option<Outcome>>,
    /// Whether nothing more is to be begun.
    resting: watch::Receiver<bool>,
    around: Around,
    under_way: BTreeMap<AskId, UnderWay>,
    timers: BTreeSet<(Millis, AskId)>,
    /// What is held back until the book has all that led to it.
    orders: Vec<Order>,
    /// What the book does not have.
    pending: Vec<HistoryEntry>,
    /// The number of the first entry that it was given with.
    first: u32,
    /// How many entries the book has.
    recorded: u32,
    since_checkpoint: u32,
}

/// The runner does not have the run any more, however it ended.
struct Leaving<'s, B, C, K>(&'s Surroundings<B, C, K>, Arc<RunSecrets>);

impl<B, C, K> Drop for Leaving<'_, B, C, K> {
    fn drop(&mut self) {
        self.0.forget(&self.1.run, self.1.lease);
    }
}

impl<B: Book, C: Caller, K: Clock> Carried<B, C, K> {
    pub(super) fn new(
        shared: Arc<Surroundings<B, C, K>>,
        given: GivenRun,
        commands: mpsc::Receiver<RunCommand>,
        tells: watch::Sender<Option<Outcome>>,
    ) -> Self {
        let secrets = RunSecrets::new(given.id.clone(), given.lease, !given.workflow.secrets.is_empty());
        let first = given.checkpoint.as_ref().map_or(0, |(entries, _)| *entries);
        let since_checkpoint = u32::try_from(given.entries.len()).unwrap_or(u32::MAX);
        let resting = shared.resting.subscribe();
        Self {
            evaluator: shared.evaluator.of(given.id.of_flow()),
            shared,
            resting,
            secrets: Arc::new(secrets),
            commands,
            tells,
            around: Around::default(),
            under_way: BTreeMap::new(),
            timers: BTreeSet::new(),
            orders: Vec::new(),
            pending: Vec::new(),
            first,
            recorded: first.saturating_add(since_checkpoint),
            since_checkpoint,
            given,
        }
    }

    /// Until it is over, is another one's, or is forgotten for now.
    pub(super) async fn carry_out(mut self) {
        let shared = self.shared.clone();
        let _leaving = Leaving(&shared, self.secrets.clone());
        let _ = self.until_over().await;
    }

    async fn until_over(&mut self) -> Result<(), Lost> {
        let mut run = match self.replayed().await {
            Ok(run) => run,
            Err(fault) => {
                self.pending.push(self.given_up(fault.clone()));
                return self.append(None, self.ends(Outcome::Faulted(fault))).await.map(drop);
            }
        };
        self.settle(&mut run).await?;
        if self.given.lease > FIRST_LEASE && run.calls() {
            let now = self.shared.clock.now();
            let since = self.given.nobody_since.unwrap_or_default().max(run.now());
            let event = RunEvent::TakenOver { absent: now.saturating_sub(since) };
            self.happens(&mut run, now, event, None, None).await?;
        }
        self.orders = run.orders_again();
        self.given.place = None;
        let commands = std::mem::take(&mut self.given.commands);
        if !commands.iter().any(|command| matches!(command, RunCommand::Retry { .. })) {
            self.given.entries = Vec::new();
        }
        self.around.arrived.extend(commands.into_iter().map(Arrival::Wanted));
        loop {
            let (mut bytes, mut counted) = (0_usize, 0);
            while bytes < MOST_APPENDED
                && let Some(arrival) = self.around.arrived.pop_front()
            {
                self.take(&mut run, arrival).await?;
                bytes = bytes.saturating_add(self.pending[counted..].iter().map(size).sum());
                counted = self.pending.len();
            }
            let mut then = self.then(&run);
            if !self.pending.is_empty() || then != Then::GoesOn {
                then = self.append(Some(&run), then).await?;
            }
            if let Then::Ends(_, outcome) = then {
                self.tells.send_replace(Some(outcome));
                return Ok(());
            }
            let rests = *self.resting.borrow();
            if !rests {
                self.carry_out_orders();
            } else if self.under_way.is_empty() && self.around.arrived.is_empty() {
                if self.orders.iter().any(|order| matches!(order, Order::Call(_))) {
                    self.pending.push(HistoryEntry::new(self.shared.clock.now(), RunEvent::Rested));
                    self.append(None, Then::GoesOn).await?;
                }
                return Ok(());
            }
            if then != Then::GoesOn && self.around.arrived.is_empty() {
                let shared = &self.shared;
                match shared.forget_unless_wanted(&self.given.id, self.given.lease, &mut self.commands) {
                    Some(command) => self.around.arrived.push_back(Arrival::Wanted(command)),
                    None => return Ok(()),
                }
            }
            self.next_arrival().await?;
        }
    }

    /// The run as its history has left it.
    async fn replayed(&mut self) -> Result<Run, Fault> {
        let mut run = self.before_history(false)?;
        let first = self.first;
        for (_, entry) in lasting(first, &self.given.entries) {
            reach(&mut run, &entry.event, &self.evaluator).await?;
            take(&mut run, entry);
        }
        run.take_orders();
        Ok(run)
    }

    /// As its checkpoint has it, or as it began. One that is watched tells what it goes through.
    fn before_history(&self, is_watched: bool) -> Result<Run, Fault> {
        let GivenRun { workflow, info, checkpoint, .. } = &self.given;
        let (workflow, info) = (workflow.clone(), info.clone());
        let restored = match (checkpoint, is_watched) {
            (Some((_, state)), true) => Run::restore_watched(workflow, info, state),
            (Some((_, state)), false) => Run::restore(workflow, info, state),
            (None, true) => return Ok(Run::begin_watched(workflow, info)),
            (None, false) => return Ok(Run::begin(workflow, info)),
        };
        restored.map_err(|why| {
            FaultKind::Runtime.fault(format!("the run's checkpoint cannot be read by this version: {why}"))
        })
    }

    /// Answers all that the run asks, and keeps in mind what it orders.
    async fn settle(&mut self, run: &mut Run) -> Result<(), Lost> {
        let mut pause = Pause::default();
        let mut asked = 0_u32;
        while let Some(question) = run.question() {
            asked += 1;
            if asked.is_multiple_of(QUESTIONS_A_TURN) {
                tokio::task::yield_now().await;
            }
            let number = run.question_number();
            let settled = schemas::settle(&self.shared, &self.evaluator, &self.secrets, &question);
            let (event, answer) = match beside(&mut self.around, settled).await?? {
                Settled::Answer(value) => (None, Ok(value)),
                Settled::Checked => {
                    (Some(RunEvent::Checked { question: number }), Ok(serde_json::Value::Null))
                }
                Settled::Fault(fault) => {
                    (Some(RunEvent::Failed { question: number, fault: fault.clone() }), Err(fault))
                }
                Settled::Later => {
                    beside(&mut self.around, pause.pass()).await?;
                    continue;
                }
            };
            if let Some(event) = event {
                self.pending.push(HistoryEntry::new(self.shared.clock.now(), event));
            }
            run.answer(answer);
            pause = Pause::default();
        }
        for order in run.take_orders() {
            self.keep_in_mind(order);
        }
        Ok(())
    }

    fn keep_in_mind(&mut self, order: Order) {
        let Order::Forget(ask) = order else { return self.orders.push(order) };
        self.orders.retain(|order| match order {
            Order::Call(call) => call.ask != ask,
            Order::Timer { ask: of, .. } | Order::Forget(of) => *of != ask,
        });
        self.timers.retain(|(_, of)| *of != ask);
        let Some(call) = self.under_way.remove(&ask) else { return };
        call.abort.abort();
        // What has happened last is why.
        if let (Some(made), Some(entry)) = (call.sent.lock().take(), self.pending.last_mut())
            && entry.cut_off.len() < MOST_CUT_OFF
        {
            let endpoint = beginning(&made.endpoint, MOST_CUT_OFF_SHOWN).into();
            entry.cut_off.push(CutOffCall { path: call.path, made: CallRecord { endpoint, ..made } });
        }
    }

    /// Takes what has come into memory, with all that follows but orders.
    async fn take(&mut self, run: &mut Run, arrival: Arrival) -> Result<(), Lost> {
        match arrival {
            Arrival::Done(CallDone { ask, at, result }) => {
                if let Some(call) = self.under_way.remove(&ask) {
                    let record = call.sent.lock().take();
                    self.happens(run, at, RunEvent::Answered { ask, result }, Some(ask), record).await?;
                }
            }
            Arrival::Fired(due, ask) => {
                if self.timers.remove(&(due, ask)) {
                    let at = self.shared.clock.now();
                    self.happens(run, at, RunEvent::Fired { ask }, Some(ask), None).await?;
                }
            }
            Arrival::Wanted(command) => self.wanted(run, command).await?,
        }
        Ok(())
    }

    async fn wanted(&mut self, run: &mut Run, command: RunCommand) -> Result<(), Lost> {
        let event = match (command, run.phase()) {
            (RunCommand::Suspend, RunPhase::Running) => RunEvent::Suspended,
            (RunCommand::Resume, RunPhase::Suspended) => RunEvent::Resumed,
            (RunCommand::Retry { task }, RunPhase::Faulted(_) | RunPhase::Cancelled) => {
                return self.go_back(run, &task).await;
            }
            _ => return Ok(()),
        };
        let at = self.shared.clock.now();
        self.happens(run, at, event, None, None).await
    }

    async fn happens(
        &mut self,
        run: &mut Run,
        at: Millis,
        event: RunEvent,
        ask: Option<AskId>,
        call: Option<CallRecord>,
    ) -> Result<(), Lost> {
        let path = ask.and_then(|ask| run.path_of(ask));
        self.pending.push(HistoryEntry { at, event: event.clone(), path, call, cut_off: Vec::new() });
        run.take(at, event);
        self.settle(run).await
    }

    /// Has the run be where it was when a task was begun last; where it has not begun, all stays as it is.
    async fn go_back(&mut self, run: &mut Run, task: &str) -> Result<(), Lost> {
        let Ok(Some(entries)) = self.last_begun(task).await else { return Ok(()) };
        let event = RunEvent::Retried { entries, number: run.retries().saturating_add(1) };
        let entry = HistoryEntry::new(self.shared.clock.now(), event);
        self.given.entries.push(entry.clone());
        // It could be read before.
        let Ok(again) = self.replayed().await else { return Ok(()) };
        self.pending.push(entry);
        // What comes after it goes by a checkpoint.
        self.since_checkpoint = ENTRIES_A_CHECKPOINT;
        *run = again;
        self.settle(run).await?;
        self.orders = run.orders_again();
        Ok(())
    }

    /// How many entries of the history there were when a task was begun last.
    async fn last_begun(&mut self, task: &str) -> Result<Option<u32>, Fault> {
        let mut run = self.before_history(true)?;
        let first = self.first;
        let mut begun = None;
        let begins = |run: &mut Run| {
            run.take_steps().into_iter().any(|step| {
                matches!(step.what, RunStepKind::Began { .. })
                    && *self.given.workflow.task(step.task).reference == *task
            })
        };
        let mut entries = first;
        for (number, entry) in lasting(first, &self.given.entries) {
            reach(&mut run, &entry.event, &self.evaluator).await?;
            if begins(&mut run) {
                begun = Some(entries);
            }
            take(&mut run, entry);
            entries = number + 1;
        }
        if begins(&mut run) {
            begun = Some(entries);
        }
        Ok(begun)
    }

    fn given_up(&self, fault: Fault) -> HistoryEntry {
        HistoryEntry::new(self.shared.clock.now(), RunEvent::GivenUp { fault })
    }

    fn ends(&self, outcome: Outcome) -> Then {
        Then::Ends(self.shared.clock.now(), outcome)
    }

    /// How it goes on with a run that asks nothing.
    fn then(&self, run: &Run) -> Then {
        match run.phase() {
            RunPhase::Completed(output) => return self.ends(Outcome::Completed(output.clone())),
            RunPhase::Faulted(fault) => return self.ends(Outcome::Faulted(fault.clone())),
            RunPhase::Cancelled => return self.ends(Outcome::Cancelled),
            RunPhase::Running | RunPhase::Suspended => {}
        }
        let is_call = |order: &Order| matches!(order, Order::Call(_));
        if !self.under_way.is_empty() || !self.around.arrived.is_empty() || self.orders.iter().any(is_call) {
            return Then::GoesOn;
        }
        if *run.phase() == RunPhase::Suspended {
            return Then::Suspended;
        }
        let ordered = self.orders.iter().filter_map(|order| match order {
            Order::Timer { due, .. } => Some(*due),
            Order::Call(_) | Order::Forget(_) => None,
        });
        let next = ordered.chain(self.timers.first().map(|(due, _)| *due)).min();
        let longest = Millis::try_from(self.shared.limits.longest_wait.as_millis()).unwrap_or(Millis::MAX);
        let soon = self.shared.clock.now().saturating_add(longest);
        next.filter(|due| *due > soon).map_or(Then::GoesOn, Then::Waits)
    }

    /// Has the book have all that it does not have. Returns when it has, and how it goes on: where there is no more room in
    /// the history, the run ends with what is there.
    async fn append(&mut self, run: Option<&Run>, then: Then) -> Result<Then, Lost> {
        let entries = std::mem::take(&mut self.pending);
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        self.since_checkpoint = self.since_checkpoint.saturating_add(count);
        let is_due = match &then {
            Then::GoesOn => self.since_checkpoint >= ENTRIES_A_CHECKPOINT,
            Then::Waits(_) | Then::Suspended => self.since_checkpoint > 0,
            Then::Ends(..) => false,
        };
        let checkpoint = run.filter(|_| is_due).and_then(Run::checkpoint);
        let checkpoint = checkpoint.filter(|state| state.len() <= LARGEST_CHECKPOINT);
        if is_due {
            self.since_checkpoint = 0;
        }
        let mut append = Append { lease: self.given.lease, first: self.recorded, entries, checkpoint, then };
        let mut pause = Pause::default();
        loop {
            let appended = self.shared.book.append(&self.given.id, &append);
            match beside(&mut self.around, appended).await? {
                Ok(()) => break,
                Err(BookError::Lost) => return Err(Lost),
                Err(BookError::Full(why)) => {
                    let fault = Fault { instance: "/".into(), ..FaultKind::Runtime.fault(why) };
                    append.entries = vec![self.given_up(fault.clone())];
                    append.then = self.ends(Outcome::Faulted(fault));
                }
                Err(BookError::Later(_)) => beside(&mut self.around, pause.pass()).await?,
            }
        }
        let count = u32::try_from(append.entries.len()).unwrap_or(u32::MAX);
        self.recorded = self.recorded.saturating_add(count);
        Ok(append.then)
    }

    fn carry_out_orders(&mut self) {
        for order in std::mem::take(&mut self.orders) {
            match order {
                Order::Timer { ask, due } => drop(self.timers.insert((due, ask))),
                Order::Call(call) => {
                    let (abort, registration) = AbortHandle::new_pair();
                    let sent = Sent::default();
                    let under_way = UnderWay { abort, path: call.path.clone(), sent: sent.clone() };
                    self.under_way.insert(call.ask, under_way);
                    let made: BoxFuture<'_, _> = Box::pin(calls::make(
                        self.shared.clone(),
                        self.evaluator.clone(),
                        self.secrets.clone(),
                        call,
                        sent,
                    ));
                    self.around.calls.push(Abortable::new(made, registration));
                }
                Order::Forget(_) => {}
            }
        }
    }

    /// Waits until something has come.
    async fn next_arrival(&mut self) -> Result<(), Lost> {
        while self.around.arrived.is_empty() {
            let next = self.timers.first().map(|(due, _)| *due);
            let clock = &self.shared.clock;
            let timer = async {
                match next {
                    Some(due) => clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(command) = self.commands.recv() => {
                    self.around.arrived.push_back(Arrival::Wanted(command));
                }
                Some(done) = self.around.calls.next() => self.around.done(done)?,
                // It is looked at what is under way still.
                Ok(()) = self.resting.changed() => return Ok(()),
                () = timer => {}
            }
            // Also where calls are answered so fast that the timer gets no turn.
            let now = self.shared.clock.now();
            let due = self.timers.iter().take_while(|(due, _)| *due <= now);
            self.around.arrived.extend(due.map(|(due, ask)| Arrival::Fired(*due, *ask)));
        }
        Ok(())
    }
}

impl Around {
    fn done(
        &mut self,
        done: Result<Result<CallDone, Lost>, futures_util::future::Aborted>,
    ) -> Result<(), Lost> {
        // Whoever is not waited for any more says nothing.
        if let Ok(done) = done {
            self.arrived.push_back(Arrival::Done(done?));
        }
        Ok(())
    }
}

/// What comes of something, while calls that are under way go on.
async fn beside<T>(around: &mut Around, what: impl Future<Output = T>) -> Result<T, Lost> {
    let mut what = std::pin::pin!(what);
    loop {
        tokio::select! {
            made = &mut what => return Ok(made),
            Some(done) = around.calls.next() => around.done(done)?,
        }
    }
}
