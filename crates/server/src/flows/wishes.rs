//! What people want of a run that there is.

use tokio::time::Instant;

use super::board::{NoTaker, RunWish};
use super::changes::RunChange;
use super::dispatcher::{Counted, Flows, GivenTo, now_millis};
use super::starting::{at_limit, no_room, no_runner};
use super::{FlowsError, RunHeader, RunName, RunState};

/// How often it is looked again at a run that changes meanwhile.
const ATTEMPTS: usize = 8;

/// What is answered where nobody takes up a run: `false` where somebody else is about to.
fn no_taker(none: NoTaker, namespace: &str) -> Result<bool, FlowsError> {
    match none {
        NoTaker::Nobody => Err(no_runner(namespace)),
        NoTaker::Full => Err(no_room(namespace)),
        NoTaker::Taken => Ok(false),
    }
}

impl Flows {
    /// Has a run suspended, go on, cancelled or retried: its runner is told, or another one that has room takes it up for that. A
    /// run that nobody has is cancelled here.
    pub async fn command(&self, run: &RunName, wish: RunWish) -> Result<(), FlowsError> {
        for _ in 0..ATTEMPTS {
            let header = self.book.header(run).await?;
            if self.try_command(&header, wish.clone()).await? {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        Err(FlowsError::Lost(run.clone()))
    }

    /// `false`: it has changed meanwhile.
    async fn try_command(&self, header: &RunHeader, wish: RunWish) -> Result<bool, FlowsError> {
        let run = &header.name;
        let refused = |why: &str| Err(FlowsError::Refused(format!("the run {} {why}", run.run)));
        match (&wish, header.state) {
            (RunWish::Retry(task), RunState::Faulted | RunState::Cancelled) => self.retry(header, task).await,
            (RunWish::Retry(_), RunState::Completed) => {
                refused("has completed: only one that has faulted or was cancelled is retried")
            }
            (RunWish::Retry(_), _) => refused("is not over: cancel it first"),
            (_, state) if state.is_over() => {
                refused(&format!("is over: it is {}, and nothing changes that but `retry`", state.name()))
            }
            (_, RunState::Active) => Ok(self.board.lock().wish(run, wish)),
            (RunWish::Cancel, state) => self.cancel(run, state).await,
            (RunWish::Suspend, RunState::Suspended) => Ok(true),
            (_, RunState::Queued) => refused("waits for its turn, and has not begun; it can be cancelled"),
            (RunWish::Resume, RunState::Waiting { .. }) => refused("is not suspended"),
            _ => self.give_with(header, wish).await,
        }
    }

    async fn give_with(&self, header: &RunHeader, wish: RunWish) -> Result<bool, FlowsError> {
        match self.give(&header.name, Some(&header.account), vec![wish]).await? {
            GivenTo::Somebody => Ok(true),
            GivenTo::Nobody | GivenTo::Unread => Ok(false),
            GivenTo::NoRoom(none) => no_taker(none, &header.name.namespace),
        }
    }

    /// Ends a run that nobody has.
    async fn cancel(&self, run: &RunName, state: RunState) -> Result<bool, FlowsError> {
        match self.book.cancel(run, now_millis(), |now| now == state).await {
            Ok(cancelled) => {
                // Somebody may have been about to take it up.
                self.board.lock().take_away(run);
                self.ended(&cancelled, Counted::of(state));
                Ok(true)
            }
            Err(FlowsError::Lost(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has a run go on that is over.
    async fn retry(&self, header: &RunHeader, task: &str) -> Result<bool, FlowsError> {
        let run = &header.name;
        let document = self.book.workflow(header).await?;
        let known = tulle_model::flow::parse(&document)
            .is_ok_and(|workflow| workflow.tasks.iter().any(|known| *known.reference == *task));
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
        match self.book.reopen(run, &taker.name()).await {
            Ok(leased) => {
                let mut board = self.board.lock();
                if !board.hand_over(run, &taker, leased.lease, vec![RunWish::Retry(task.into())]) {
                    board.orphan(run.clone(), leased.account.clone(), leased.lease, &taker);
                    board.wish(run, RunWish::Retry(task.into()));
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
                        board.wish(run, RunWish::Retry(task.into()));
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
