//! What is forgotten of runs that are over, and what becomes of the runs of a Flow that is deleted: they are cancelled, and forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tulle_model::name::NamespacedName;
use tulle_model::registry::KindId;

use super::book::PAGE;
use super::changes::RunChange;
use super::dispatcher::{Counted, Flows};
use super::now_millis;
use super::{FlowsError, RunHeader};

/// How often it is looked at how long ago runs have ended.
const EACH: Duration = Duration::from_secs(60);

/// How many runs that are over there may be before it is worth to forget some.
pub(super) fn with_slack(keep: usize) -> usize {
    keep + keep / 16
}

impl Flows {
    /// Forgets what is to be forgotten, until `stop`.
    pub async fn keep_house(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.known.changes();
        if let Err(error) = self.book.sweep().await {
            tracing::warn!(%error, "what crashes have left of runs stays for now");
        }
        let mut each = tokio::time::interval(EACH);
        // The Flows of which no others have runs.
        let mut uids = HashMap::new();
        each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let all = tokio::select! {
                () = stop.cancelled() => return,
                _ = each.tick() => true,
                () = self.prune.notified() => false,
                changed = changes.changed() => match changed {
                    Ok(()) => {
                        // Another limit may let more begin.
                        self.look.notify_one();
                        false
                    }
                    Err(_) => return,
                },
            };
            let flows: Vec<_> =
                self.board.lock().tallies().iter().map(|(flow, t)| (flow.clone(), *t)).collect();
            for (flow, tally) in flows {
                let done = match self.known.get(&flow) {
                    Some(known) if uids.get(&flow) != Some(&known.uid) => {
                        let done = self.clear_former(&flow, &known.uid).await;
                        if done.is_ok() {
                            uids.insert(flow.clone(), known.uid.clone());
                        }
                        done
                    }
                    Some(known) if all || tally.over > with_slack(known.keep) => {
                        let age = known.age.as_millis().try_into().unwrap_or(u64::MAX);
                        self.forget_over(&flow, known.keep, now_millis().saturating_sub(age)).await
                    }
                    Some(_) => Ok(()),
                    None => {
                        uids.remove(&flow);
                        self.clear(&flow).await
                    }
                };
                if let Err(error) = done {
                    tracing::warn!(%flow, %error, "runs that are over are not forgotten; it is tried again");
                }
            }
        }
    }

    async fn forget_over(&self, flow: &NamespacedName, keep: usize, since: u64) -> Result<(), FlowsError> {
        let (gone, left) = self.book.prune(&flow.namespace, &flow.name, keep, since).await?;
        gone.into_iter().for_each(|run| self.changes.tell(RunChange::Gone(run)));
        self.board.lock().tally(flow).over = left;
        Ok(())
    }

    /// Forgets a run that is over.
    pub async fn forget(&self, header: &RunHeader) -> Result<(), FlowsError> {
        let Some(ended) = header.ended else {
            let message = format!("the run {} is not over: cancel it first", header.name.run);
            return Err(FlowsError::Refused(message));
        };
        self.book.forget(&header.name, ended).await?;
        let mut board = self.board.lock();
        let tally = board.tally(&header.name.of_flow());
        tally.over = tally.over.saturating_sub(1);
        drop(board);
        self.changes.tell(RunChange::Gone(header.name.clone()));
        Ok(())
    }

    /// Ends a run of a Flow that is gone, whoever has it. It is counted by the state that it was in then, not when it was listed.
    async fn end_orphaned(&self, mut header: RunHeader) -> Result<(), FlowsError> {
        while !header.state.is_over() {
            let state = header.state;
            match self.book.cancel(&header.name, now_millis(), |now| now == state).await {
                Ok(cancelled) => {
                    self.board.lock().take_away(&header.name, cancelled.lease);
                    self.ended(&cancelled, Counted::of(state));
                    return Ok(());
                }
                // It has changed meanwhile.
                Err(FlowsError::Lost(_)) => {}
                Err(FlowsError::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
            header = match self.book.header(&header.name).await {
                Ok(header) => header,
                Err(FlowsError::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// Ends and forgets the runs of a Flow that is gone, and whose name another one has by now.
    async fn clear_former(&self, flow: &NamespacedName, uid: &str) -> Result<(), FlowsError> {
        let mut past = None;
        loop {
            let page = self.book.list(Some(&flow.namespace), Some(&flow.name), past.as_ref(), PAGE).await?;
            for header in page.headers {
                if header.uid.is_empty() || *header.uid == *uid {
                    continue;
                }
                let name = header.name.clone();
                self.end_orphaned(header).await?;
                match self.book.header(&name).await {
                    Ok(header) if header.state.is_over() => self.forget(&header).await?,
                    Ok(_) | Err(FlowsError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            match page.next {
                Some(next) => past = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Ends and forgets the runs of a Flow that is gone.
    async fn clear(&self, flow: &NamespacedName) -> Result<(), FlowsError> {
        // One that cannot be read is not gone.
        let object = self.objects.get(KindId::Flow.kind(), &flow.namespace, &flow.name).await;
        if object.map_err(FlowsError::Objects)?.is_some() {
            return Ok(());
        }
        // What begins later is of another Flow of that name.
        let gone = now_millis();
        let mut past = None;
        loop {
            let page = self.book.list(Some(&flow.namespace), Some(&flow.name), past.as_ref(), PAGE).await?;
            for header in page.headers.into_iter().filter(|header| header.started <= gone) {
                self.end_orphaned(header).await?;
            }
            match page.next {
                Some(next) => past = Some(next),
                None => break,
            }
        }
        if self.known.get(flow).is_none() {
            self.forget_over(flow, 0, gone.saturating_add(1)).await?;
            let left = self.book.list(Some(&flow.namespace), Some(&flow.name), None, 1).await?;
            if left.headers.is_empty() && left.next.is_none() {
                self.board.lock().forget_flow(flow);
            }
        }
        Ok(())
    }
}
