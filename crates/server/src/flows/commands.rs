//! What people want of a run that there is.

use std::sync::Arc;

use tokio::time::Instant;

use super::board::NoTaker;
use super::changes::RunChange;
use super::dispatcher::{Counted, Flows, GivenTo};
use super::now_millis;
use super::starting::{at_limit, no_room, no_runner};
use super::{FlowsError, RunHeader, RunName, RunState, RunWish};

/// How often it is looked again at a run that changes meanwhile.
const ATTEMPTS: usize = 8;

fn refused<T>(run: &RunName, why: &str) -> Result<T, FlowsError> {
    Err(FlowsError::Refused(format!("the run {} {why}", run.run)))
}

fn refused_as_over<T>(run: &RunName, state: RunState) -> Result<T, FlowsError> {
    let hint = match state {
        RunState::Completed => "",
        _ => "; `retry` has it go on",
    };
    refused(run, &format!("is over: it is {}{hint}", state.name()))
}

/// What is answered where nobody takes up a run: `false` where somebody else is about to.
fn no_taker(none: NoTaker, namespace: &str) -> Result<bool, FlowsError> {
    match none {
        NoTaker::Nobody => Err(no_runner(namespace)),
        NoTaker::Full => Err(no_room(namespace)),
        NoTaker::Unreadable => Err(FlowsError::TooMany(format!(
            "the nodes that run Flows of the namespace {namespace} are of an older version than wrote this run, and cannot \
             read it: update them"
        ))),
        NoTaker::Taken => Ok(false),
    }
}

impl Flows {
    /// Has a run suspended, go on, or retried: its runner is told, or another one that has room takes it up for that. It is in the
    /// store when this returns.
    pub async fn command(&self, run: &RunName, wish: RunWish) -> Result<(), FlowsError> {
        for _ in 0..ATTEMPTS {
            let header = self.book.header(run).await?;
            if self.try_command(&header, &wish).await? {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        Err(FlowsError::Contended(run.clone()))
    }

    /// `false`: it has changed meanwhile.
    async fn try_command(&self, header: &RunHeader, wish: &RunWish) -> Result<bool, FlowsError> {
        let run = &header.name;
        match (wish, header.state) {
            (RunWish::Retry(task), RunState::Faulted | RunState::Cancelled) => self.retry(header, task).await,
            (RunWish::Retry(_), RunState::Completed) => {
                refused(run, "has completed: only one that has faulted or was cancelled is retried")
            }
            (RunWish::Retry(_), _) => refused(run, "is not over: cancel it first"),
            (_, state) if state.is_over() => refused_as_over(run, state),
            (_, RunState::Active) => self.want(run, wish).await,
            (RunWish::Suspend, RunState::Suspended) => Ok(true),
            (_, RunState::Queued) => {
                refused(run, "waits for its turn, and has not begun; it can be cancelled")
            }
            (RunWish::Resume, RunState::Waiting { .. }) => refused(run, "is not suspended"),
            _ => self.give_with(header, wish).await,
        }
    }

    async fn want(&self, run: &RunName, wish: &RunWish) -> Result<bool, FlowsError> {
        match self.book.want(run, wish).await {
            Ok(header) => {
                self.board.lock().wish(&header, wish.clone());
                Ok(true)
            }
            Err(FlowsError::Lost(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn give_with(&self, header: &RunHeader, wish: &RunWish) -> Result<bool, FlowsError> {
        match self.give(&header.name, Some(&header.account), Some(wish)).await? {
            GivenTo::Somebody => Ok(true),
            GivenTo::Nobody | GivenTo::Unread => Ok(false),
            GivenTo::NoRoom(none) => no_taker(none, &header.name.namespace),
        }
    }

    /// Ends a run, whoever has it: he is told that it is not his any more, and gives up what he does for it.
    pub async fn cancel(&self, run: &RunName) -> Result<(), FlowsError> {
        for _ in 0..ATTEMPTS {
            let state = self.book.header(run).await?.state;
            if state.is_over() {
                return refused_as_over(run, state);
            }
            match self.book.cancel(run, now_millis(), |now| now == state).await {
                Ok(cancelled) => {
                    // Somebody may have been about to take it up.
                    self.board.lock().take_away(run, cancelled.lease);
                    self.ended(&cancelled, Counted::of(state));
                    return Ok(());
                }
                Err(FlowsError::Lost(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(FlowsError::Contended(run.clone()))
    }

    /// Has a run go on that is over.
    async fn retry(&self, header: &RunHeader, task: &Arc<str>) -> Result<bool, FlowsError> {
        let run = &header.name;
        let document = self.book.workflow(header).await?;
        let known = tulle_model::flow::parse(&document)
            .is_ok_and(|workflow| workflow.tasks.iter().any(|known| known.reference == *task));
        if !known {
            let message = format!(
                "the workflow of the run {} has no task `{task}`: a reference such as `/do/0/NAME` is expected",
                run.run
            );
            return Err(FlowsError::Invalid(message));
        }
        let limit = self.known.get(&run.of_flow()).and_then(|flow| flow.limit);
        let taken = {
            let mut board = self.board.lock();
            if let Some(limit) = limit
                && board.tally(&run.of_flow()).open >= limit as usize
            {
                return Err(at_limit(&run.of_flow(), limit));
            }
            let taken = board.take_up(run, &header.account, None, Instant::now(), self.lease);
            if taken.is_ok() {
                board.reopens(run);
            }
            taken
        };
        let taker = match taken {
            Ok(taker) => taker,
            Err(none) => return no_taker(none, &run.namespace),
        };
        match self.book.reopen(run, &taker.name(), task).await {
            Ok(leased) => {
                let mut board = self.board.lock();
                if !board.hand_over(&taker, &leased) {
                    board.orphan_of(&leased);
                    self.look.notify_one();
                }
                drop(board);
                self.changes.tell(RunChange::Now(leased));
                Ok(true)
            }
            Err(error) => {
                let mut board = self.board.lock();
                match error {
                    // It may go on all the same: whoever looks after orphans finds out.
                    FlowsError::Store(_) => {
                        board.set_unsure(run);
                        board.orphan(run.clone(), header.account.clone(), 0, &taker);
                        self.look.notify_one();
                    }
                    _ => board.stays_over(run),
                }
                drop(board);
                if matches!(error, FlowsError::Lost(_)) { Ok(false) } else { Err(error) }
            }
        }
    }
}
