//! Gives runs to runners, and takes them away again.
//!
//! A run is given to whoever has the most room, and stays with it until it ends, waits or is suspended. One task ([`Flows::run`]) looks after what is due:
//! runners that were not heard for longer than a lease lose what they have; orphans, runs whose time has come and runs whose turn it is are
//! given to those that have room. It sleeps until the next of these, or until something changes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tulle_model::flow::scope::Millis;
use tulle_model::name::NamespacedName;
use tulle_model::stamp::Stamp;

use super::board::{Board, NewRunner, NoTaker, Taker};
use super::changes::{RunChange, RunChanges};
use super::ends::Ends;
use super::known::KnownFlows;
use super::lists::RunPlace;
use super::now_millis;
use super::{FlowTally, FlowsError, RunBook, RunHeader, RunName, RunState, RunWish};
use crate::access::Access;
use crate::objects::Objects;

/// How many leases are written at once, and how many runs are looked for at once.
const TOGETHER: usize = 64;
/// The clock may be set, or the host suspended.
const CLOCK_LOOK: Duration = Duration::from_secs(5);
/// How long it is waited after the store has failed.
const RETRY: Duration = Duration::from_millis(500);

/// Runs, and who carries them out.
pub struct Flows {
    pub(super) book: RunBook,
    pub(super) known: KnownFlows,
    pub(super) objects: Objects,
    pub(super) access: Access,
    pub(super) board: Mutex<Board>,
    pub(super) ends: Ends,
    pub(super) changes: RunChanges,
    pub(super) lease: Duration,
    /// When the next of the runs that wait is due, as far as is known.
    next_due: Mutex<Option<Millis>>,
    /// Those that are due and cannot be read: they are not to stand in the way of others.
    unread: Mutex<HashSet<RunName>>,
    /// There is something to be done.
    pub(super) look: Notify,
    /// So is there of what is to be forgotten.
    pub(super) prune: Notify,
}

/// What became of giving a run to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenTo {
    Somebody,
    /// It is over, gone, or somebody has it already.
    Nobody,
    /// What the store has of it cannot be read.
    Unread,
    /// Nobody has room, or is there.
    NoRoom(NoTaker),
}

impl Flows {
    /// Knows what a store has of runs: runners have a lease to come back for what they had.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn start(
        book: RunBook,
        known: KnownFlows,
        objects: Objects,
        access: Access,
        lease: Duration,
    ) -> Result<Arc<Self>, FlowsError> {
        let mut board = Board::default();
        let mut active = Vec::new();
        book.each(|run, place| {
            let flow = run.of_flow();
            let tally = board.tally(&flow);
            match place {
                RunPlace::Active => {
                    tally.open += 1;
                    active.push(run);
                }
                RunPlace::Parked => tally.open += 1,
                RunPlace::Queued => {
                    tally.queued += 1;
                    board.has_queue(&flow, true);
                }
                RunPlace::Over => tally.over += 1,
            }
        })
        .await?;
        let now = Instant::now();
        for run in active {
            match book.header(&run).await {
                Ok(header) if header.state == RunState::Active => {
                    board.recall(header, now);
                }
                Ok(_) | Err(FlowsError::NotFound(_)) => {}
                // The others go on.
                Err(error @ FlowsError::Unreadable { .. }) => {
                    tracing::error!(run = %run.run, %error, "a run does not go on");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Arc::new(Self {
            book,
            known,
            objects,
            access,
            board: Mutex::new(board),
            ends: Ends::default(),
            changes: RunChanges::new(now_millis()),
            lease,
            next_due: Mutex::default(),
            unread: Mutex::default(),
            look: Notify::new(),
            prune: Notify::new(),
        }))
    }

    pub fn known(&self) -> &KnownFlows {
        &self.known
    }

    pub fn book(&self) -> &RunBook {
        &self.book
    }

    /// What has become of runs of late.
    pub fn changes(&self) -> &RunChanges {
        &self.changes
    }

    /// The run of that name in a namespace.
    pub async fn find(&self, namespace: &str, run: &str) -> Result<Option<RunHeader>, FlowsError> {
        let flows: Vec<_> = {
            let board = self.board.lock();
            let from = NamespacedName::new(namespace, "");
            let tallies = board.tallies().range(from..);
            tallies.map(|(flow, _)| flow.clone()).take_while(|flow| *flow.namespace == *namespace).collect()
        };
        for NamespacedName { namespace, name } in flows {
            let run = RunName { namespace, flow: name, run: run.into() };
            match self.book.header(&run).await {
                Ok(header) => return Ok(Some(header)),
                Err(FlowsError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// What is counted of the runs of each Flow.
    pub fn tallies(&self) -> BTreeMap<NamespacedName, FlowTally> {
        self.board.lock().tallies().clone()
    }

    /// How many runners are connected.
    pub fn runners(&self) -> usize {
        self.board.lock().runners()
    }

    /// How long a runner may be silent.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Looks after what is due, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let failed = match self.round().await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(%error, "runs that are due have to wait");
                    Some(Instant::now() + RETRY)
                }
            };
            let wake = failed.unwrap_or_else(|| self.next_look());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look.notified(), if failed.is_none() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + CLOCK_LOOK;
        let due = *self.next_due.lock();
        if let Some(due) = due {
            next = next.min(now + Duration::from_millis(due.saturating_sub(now_millis())));
        }
        let expiry = self.board.lock().next_expiry(self.lease);
        expiry.map_or(next, |expiry| next.min(expiry))
    }

    /// Does what is due.
    async fn round(&self) -> Result<(), FlowsError> {
        {
            let (mut board, now) = (self.board.lock(), Instant::now());
            board.expire(now, self.lease);
            board.tell_again(now, self.lease);
        }
        // None of these is to keep the others from what they do.
        let done = [self.give_orphans().await, self.begin_queued().await, self.wake_due().await];
        done.into_iter().collect()
    }

    /// Orphans that nobody takes up stay what they are.
    async fn give_orphans(&self) -> Result<(), FlowsError> {
        let namespaces = self.board.lock().with_orphans();
        let mut failed = None;
        for namespace in namespaces {
            let mut has_room = true;
            while has_room {
                let now = Instant::now();
                let orphans = self.board.lock().take_orphans(&namespace, TOGETHER, now, self.lease);
                if orphans.is_empty() {
                    break;
                }
                let given = stream::iter(orphans)
                    .map(async |(run, account)| (self.give(&run, Some(&account), None).await, run))
                    .buffered(TOGETHER);
                let mut given = std::pin::pin!(given);
                while let Some((given, run)) = given.next().await {
                    match given {
                        // From now on nobody can read it, until others are there.
                        Ok(GivenTo::NoRoom(NoTaker::Unreadable)) => self.board.lock().put_back_orphan(run),
                        Ok(GivenTo::NoRoom(_)) => {
                            has_room = false;
                            self.board.lock().put_back_orphan(run);
                        }
                        Ok(GivenTo::Somebody | GivenTo::Nobody | GivenTo::Unread) => {}
                        // It is an orphan as before.
                        Err(error) => {
                            has_room = false;
                            failed = Some(error);
                        }
                    }
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Gives a run to whoever has room, to do what is wanted of it. Where its lease is not written, it is an orphan.
    pub(super) async fn give(
        &self,
        run: &RunName,
        account: Option<&Arc<str>>,
        wish: Option<&RunWish>,
    ) -> Result<GivenTo, FlowsError> {
        let account = match account {
            Some(account) => account.clone(),
            None => match self.book.header(run).await {
                Ok(header) => header.account,
                Err(FlowsError::NotFound(_)) => return Ok(GivenTo::Nobody),
                Err(error @ FlowsError::Unreadable { .. }) => {
                    tracing::error!(run = %run.run, %error, "a run does not go on");
                    return Ok(GivenTo::Unread);
                }
                Err(error) => return Err(error),
            },
        };
        let taken = self.board.lock().take_up(run, &account, None, Instant::now(), self.lease);
        match taken {
            Ok(taker) => self.lease_to(run, &taker, wish).await,
            Err(NoTaker::Taken) => Ok(GivenTo::Nobody),
            Err(none) => Ok(GivenTo::NoRoom(none)),
        }
    }

    /// Writes the lease of whoever has taken a run up, and tells him.
    async fn lease_to(
        &self,
        run: &RunName,
        taker: &Taker,
        wish: Option<&RunWish>,
    ) -> Result<GivenTo, FlowsError> {
        match self.book.lease(run, &taker.name(), wish).await {
            Ok(header) => {
                let mut board = self.board.lock();
                board.set_sure(run);
                board.hand_over(taker, &header);
                drop(board);
                self.changes.tell(RunChange::Now(header));
                Ok(GivenTo::Somebody)
            }
            Err(lost @ (FlowsError::Lost(_) | FlowsError::NotFound(_))) => {
                let mut board = self.board.lock();
                board.drop_run(run);
                board.was_not_begun(run, matches!(lost, FlowsError::Lost(_)));
                Ok(GivenTo::Nobody)
            }
            Err(error @ FlowsError::Unreadable { .. }) => {
                tracing::error!(run = %run.run, %error, "a run does not go on");
                self.board.lock().drop_run(run);
                Ok(GivenTo::Unread)
            }
            // Nobody knows whether the lease is in the store.
            Err(error) => {
                self.board.lock().orphan(run.clone(), Arc::default(), 0, taker);
                Err(error)
            }
        }
    }

    /// Begins runs whose turn it is.
    async fn begin_queued(&self) -> Result<(), FlowsError> {
        let waiting = self.board.lock().with_queue();
        let mut done = Ok(());
        for (flow, tally) in waiting {
            done = done.and(self.begin_queued_of(flow, tally).await);
        }
        done
    }

    async fn begin_queued_of(&self, flow: NamespacedName, tally: FlowTally) -> Result<(), FlowsError> {
        let Some(known) = self.known.get(&flow) else { return Ok(()) };
        let limit = known.limit.map_or(usize::MAX, |limit| limit as usize);
        let most = limit.saturating_sub(tally.open).min(TOGETHER);
        if most == 0 {
            return Ok(());
        }
        let unread = self.unread.lock().len();
        let mut runs = self.book.queued(&flow.namespace, &flow.name, most + unread).await?;
        runs.retain(|run| !self.unread.lock().contains(run));
        runs.truncate(most);
        if runs.is_empty() {
            let mut board = self.board.lock();
            // As it is now: others queue while the store is read.
            let has_more = board.tally(&flow).queued > 0;
            board.has_queue(&flow, has_more);
        }
        let mut has_room = true;
        for run in runs {
            has_room = self.begin(&run).await?;
            if !has_room {
                break;
            }
        }
        if has_room && self.board.lock().tally(&flow).queued > 0 && most == TOGETHER {
            self.look.notify_one();
        }
        Ok(())
    }

    /// Begins a run that waited for its turn; `false`: nobody has room. For as long as one waits, no other one is let before it.
    async fn begin(&self, run: &RunName) -> Result<bool, FlowsError> {
        let was_unsure = self.board.lock().is_unsure(run);
        let given = self.give(run, None, None).await;
        let mut board = self.board.lock();
        match &given {
            Ok(GivenTo::Somebody) => board.begins(run, was_unsure, true),
            // It is an orphan then, which goes on when the store does.
            Err(_) if board.knows(run) => board.begins(run, was_unsure, false),
            Ok(_) | Err(_) => {}
        }
        drop(board);
        match given? {
            GivenTo::Unread => drop(self.unread.lock().insert(run.clone())),
            GivenTo::NoRoom(_) => return Ok(false),
            // It was cancelled meanwhile.
            GivenTo::Somebody | GivenTo::Nobody => {}
        }
        Ok(true)
    }

    /// Gives runs that have waited for long enough to runners. Those for whom there is none are orphans, out of the way of others.
    async fn wake_due(&self) -> Result<(), FlowsError> {
        loop {
            let unread = self.unread.lock().len();
            let mut due = self.book.due(now_millis(), TOGETHER + unread).await?;
            due.retain(|run| !self.unread.lock().contains(run));
            if due.is_empty() {
                // One that is written meanwhile tells of itself.
                *self.next_due.lock() = None;
                if let Some(found) = self.book.next_due(unread).await? {
                    let mut next = self.next_due.lock();
                    *next = Some(next.map_or(found, |next| next.min(found)));
                }
                return Ok(());
            }
            let woken = stream::iter(due).map(async |run| self.wake(&run).await);
            let woken: Vec<_> = woken.buffered(TOGETHER).collect().await;
            let mut any = false;
            for woken in woken {
                any |= woken?;
            }
            // Others are about to take them up.
            if !any {
                return Ok(());
            }
        }
    }

    /// `false`: nothing has become of it.
    async fn wake(&self, run: &RunName) -> Result<bool, FlowsError> {
        match self.give(run, None, None).await? {
            GivenTo::Somebody => Ok(true),
            GivenTo::Nobody => Ok(false),
            GivenTo::Unread => {
                self.unread.lock().insert(run.clone());
                Ok(true)
            }
            GivenTo::NoRoom(_) => match self.book.lease(run, "", None).await {
                Ok(header) => {
                    self.board.lock().orphan_of(&header);
                    Ok(true)
                }
                Err(FlowsError::Lost(_) | FlowsError::NotFound(_)) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// A run waits until a time: who sleeps for longer is woken.
    pub(super) fn waits_until(&self, until: Millis) {
        let mut next = self.next_due.lock();
        if next.is_none_or(|next| until < next) {
            *next = Some(until);
            self.look.notify_one();
        }
    }

    /// Somebody has room.
    pub(super) fn has_room(&self) {
        if self.board.lock().wants_room() {
            self.look.notify_one();
        }
    }

    /// A runner's stream opens. Returns its number, and what a former process of the node had ([`Flows::lease_inherited`]).
    pub fn open(&self, new: NewRunner) -> (u64, Vec<RunName>) {
        let opened = self.board.lock().open(new, Instant::now());
        self.look.notify_one();
        opened
    }

    /// Has a process of a node have what a former one had. This is to go on to its end.
    pub async fn lease_inherited(&self, node: Arc<str>, instance: Arc<str>, inherited: Vec<RunName>) {
        let heir = Taker { node, instance };
        let leases = inherited.into_iter().map(async |run| {
            let inherits = self.board.lock().inherit(&run, &heir);
            if inherits && let Err(error) = self.lease_to(&run, &heir, None).await {
                tracing::warn!(run = %run.run, %error, "a run is not leased to the new process of its node");
            }
        });
        stream::iter(leases).buffer_unordered(TOGETHER).collect::<()>().await;
        self.look.notify_one();
    }

    /// Something came of a runner's stream; `false`: another one has taken its place.
    pub fn heard(&self, node: &str, session: u64) -> bool {
        let mut board = self.board.lock();
        let is_back = board.heard(node, session, Instant::now(), self.lease);
        let is_open = board.is_open(node, session);
        drop(board);
        if is_back {
            self.look.notify_one();
        }
        is_open
    }

    /// A runner's stream is over.
    pub fn closed(&self, node: &str, session: u64) {
        self.board.lock().closed(node, session);
        self.look.notify_one();
    }

    /// A runner is about to end.
    pub fn leaves(&self, node: &str, session: u64) {
        self.board.lock().leaves(node, session);
    }

    /// Since when nobody had a run before its present lease, where that is known.
    pub fn nobody_since(&self, run: &RunName) -> Option<Millis> {
        let since = self.board.lock().nobody_since(run)?.elapsed().as_millis();
        Some(now_millis().saturating_sub(Millis::try_from(since).unwrap_or(Millis::MAX)))
    }

    /// A runner cannot read a run that it was given.
    pub fn cannot_read(&self, node: &str, session: u64, run: &RunName, lease: u64, why: &str) {
        if self.board.lock().cannot_read(node, session, run, lease) {
            let flow = run.of_flow();
            tracing::warn!(run = %run.run, %flow, "the node {node} cannot read a run, which is for others: {why}");
            self.look.notify_one();
        }
    }

    /// A node may carry out nothing any more.
    pub fn revoke(&self, node: &str) {
        self.board.lock().revoke(node);
        self.look.notify_one();
    }

    /// Somebody has joined under a node's name.
    pub fn joined(&self, node: &str) {
        self.board.lock().joined(node);
        self.look.notify_one();
    }

    /// The namespaces of the Flows that a connected runner carries out, where its certificate has that stamp.
    pub fn spaces(&self, node: &str, stamp: Option<Stamp>) -> Option<Arc<[String]>> {
        self.board.lock().spaces(node, stamp)
    }

    /// Whether a node that carries out Flows of those namespaces may have the identity of a service account: a Flow there calls as it,
    /// or a run that the node has does.
    pub fn may_call_as(&self, node: &str, spaces: &[String], namespace: &str, account: &str) -> bool {
        super::board::allows(spaces, namespace)
            && (self.known.names_account(namespace, account)
                || self.board.lock().calls_as(node, namespace, account))
    }

    /// A run is over: whoever waits for that is told, and what waits for its place has it.
    pub(super) fn ended(&self, header: &RunHeader, before: Counted) {
        let flow = header.name.of_flow();
        let over = {
            let mut board = self.board.lock();
            // It is as open that this one is counted, whatever the store has of it.
            let was_unsure = board.set_sure(&header.name);
            let tally = board.tally(&flow);
            match before {
                Counted::Queued if was_unsure => tally.open = tally.open.saturating_sub(1),
                Counted::Open => tally.open = tally.open.saturating_sub(1),
                Counted::Queued => tally.queued = tally.queued.saturating_sub(1),
            }
            tally.over += 1;
            match header.state {
                RunState::Completed => tally.completed += 1,
                RunState::Faulted => tally.faulted += 1,
                _ => tally.cancelled += 1,
            }
            tally.over
        };
        self.ends.tell(&header.name);
        self.changes.tell(RunChange::Now(header.clone()));
        if over > super::housekeeping::with_slack(self.known.get(&flow).map_or(0, |flow| flow.keep)) {
            self.prune.notify_one();
        }
        self.has_room();
    }
}

/// As what a run was counted before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Open,
    Queued,
}

impl Counted {
    /// By the last state in which it was not over.
    pub(super) fn of(state: RunState) -> Self {
        if state == RunState::Queued { Self::Queued } else { Self::Open }
    }
}
