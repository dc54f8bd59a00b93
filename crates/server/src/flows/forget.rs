//! What leaves the store: runs that are over for long, and what a crash between two writes has left.

use tulle_model::flow::scope::Millis;

use super::book::{Kept, RunBook, listed};
use super::{FlowsError, Given, RunName, keys};
use crate::store::{RecordWrite, StoreError};

impl RunBook {
    /// Forgets runs that are over: of a Flow all but the latest `keep`, and those that ended before `since`. Returns which, and how
    /// many are left.
    pub async fn prune(
        &self,
        namespace: &str,
        flow: &str,
        keep: usize,
        since: Millis,
    ) -> Result<(Vec<RunName>, usize), FlowsError> {
        let (mut pages, mut over) = (self.pages(keys::under(&keys::over_of(namespace, flow))), Vec::new());
        while let Some(page) = pages.next().await? {
            over.extend(page.iter().filter_map(|(key, _)| keys::run_of_over(key)));
        }
        let (all, mut forgotten) = (over.len(), Vec::new());
        // The first that have ended.
        for (at, (run, ended)) in over.into_iter().enumerate() {
            if all - at <= keep && ended >= since {
                break;
            }
            match self.forget(&run, ended).await {
                Ok(()) => forgotten.push(run),
                // Somebody else prunes, or has it go on.
                Err(FlowsError::Lost(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let left = all - forgotten.len();
        Ok((forgotten, left))
    }

    /// Forgets a run that is over.
    pub async fn forget(&self, run: &RunName, ended: Millis) -> Result<(), FlowsError> {
        let mut write = RecordWrite::default();
        let kept = match self.kept(run).await {
            Ok(Kept { header, bytes }) if header.state.is_over() => {
                write.deleted.extend([keys::usage(run, &header.workflow)]);
                write.deleted.extend(header.given.as_ref().map(|given| keys::given(run, given)));
                write.deleted.extend(listed(&header));
                Some((header, bytes))
            }
            Ok(_) => return Err(FlowsError::Lost(run.clone())),
            // What else there is of it is found by `sweep`.
            Err(FlowsError::NotFound(_) | FlowsError::Unreadable { .. }) => None,
            Err(error) => return Err(error),
        };
        // Who prunes at the same time is not to take away what has begun since under the name that the caller gave.
        let found = match &kept {
            Some((_, bytes)) => Some(bytes.clone()),
            None => self.store.record(&keys::header(run)).await?,
        };
        write.expected.push((keys::header(run), found));
        write.deleted.extend([keys::header(run), keys::over(run, ended)]);
        write.cleared.push(keys::under(&keys::inside(run)));
        self.write(write, run).await?;
        // The last run that goes by a workflow takes it along.
        match kept {
            Some((header, _)) => self.forget_workflow(&run.namespace, &header.workflow).await,
            None => Ok(()),
        }
    }

    /// Unless there is a run that goes by it.
    async fn forget_workflow(&self, namespace: &str, hash: &str) -> Result<(), FlowsError> {
        let write = RecordWrite {
            expected_none: vec![keys::under(&keys::uses(namespace, hash))],
            deleted: vec![keys::workflow(namespace, hash)],
            ..RecordWrite::default()
        };
        match self.store.write_records(write).await {
            Ok(()) | Err(StoreError::RecordChanged(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what is of no run: what says who goes by a workflow, and which names were given, then workflows by which nobody
    /// goes.
    pub async fn sweep(&self) -> Result<(), FlowsError> {
        for prefix in [keys::USES, keys::GIVEN, keys::WORKFLOWS] {
            let mut pages = self.pages(keys::under(prefix));
            while let Some(page) = pages.next().await? {
                for (key, value) in &page {
                    let run = match prefix {
                        keys::USES => keys::run_of_usage(key),
                        // Whose that is which cannot be read, nobody knows.
                        keys::GIVEN => {
                            self.seal.open::<(RunName, Given)>(key, value).ok().map(|(run, _)| run)
                        }
                        _ => {
                            if let Some((namespace, hash)) = keys::workflow_of(key) {
                                self.forget_workflow(namespace, hash).await?;
                            }
                            None
                        }
                    };
                    let Some(run) = run else { continue };
                    if self.store.record(&keys::header(&run)).await?.is_some() {
                        continue;
                    }
                    let write = RecordWrite {
                        expected: vec![(keys::header(&run), None)],
                        deleted: vec![key.clone()],
                        ..RecordWrite::default()
                    };
                    match self.store.write_records(write).await {
                        Ok(()) | Err(StoreError::RecordChanged(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(())
    }
}
