//! Which runs there are.

use bytes::Bytes;
use tulle_model::flow::scope::Millis;

use super::book::{RunBook, after};
use super::{FlowsError, RunHeader, RunName, keys};

/// Some headers, in the order of the names of Flows and runs.
#[derive(Debug, Default)]
pub struct RunPage {
    pub headers: Vec<RunHeader>,
    /// After which run to go on; `None`: there are no more.
    pub next: Option<RunName>,
}

impl RunBook {
    /// Runs that have waited long enough: the first of them.
    pub async fn due(&self, now: Millis, most: usize) -> Result<Vec<RunName>, FlowsError> {
        let (from, until) = keys::waiting_until(now);
        let found = self.store.records(&from, &until, most).await?;
        Ok(found.iter().filter_map(|(key, _)| keys::run_of_waiting(key)).collect())
    }

    /// When the next of those that wait is due, but for the first ones.
    pub async fn next_due(&self, but: usize) -> Result<Option<Millis>, FlowsError> {
        let (from, until) = keys::under(keys::WAITING);
        let found = self.store.records(&from, &until, but + 1).await?;
        Ok(found.get(but).and_then(|(key, _)| keys::due_of_waiting(key)))
    }

    /// The runs of a Flow that wait for their turn: the first of them.
    pub async fn queued(&self, namespace: &str, flow: &str, most: usize) -> Result<Vec<RunName>, FlowsError> {
        let (from, until) = keys::under(&keys::queued_of(namespace, flow));
        let found = self.store.records(&from, &until, most).await?;
        Ok(found.iter().filter_map(|(key, _)| keys::run_of_queued(key)).collect())
    }

    /// Looks at each run that is kept, and at where it is.
    pub(super) async fn each(&self, mut look: impl FnMut(RunName, RunPlace)) -> Result<(), FlowsError> {
        for (prefix, place) in [
            (keys::ACTIVE, RunPlace::Active),
            (keys::WAITING, RunPlace::Parked),
            (keys::SUSPENDED, RunPlace::Parked),
            (keys::QUEUED, RunPlace::Queued),
            (keys::OVER, RunPlace::Over),
        ] {
            let mut pages = self.pages(keys::under(prefix));
            while let Some(page) = pages.next().await? {
                for (key, _) in &page {
                    let run = match prefix {
                        keys::ACTIVE => keys::run_of_active(key),
                        keys::WAITING => keys::run_of_waiting(key),
                        keys::SUSPENDED => keys::run_of_suspended(key),
                        keys::QUEUED => keys::run_of_queued(key),
                        _ => keys::run_of_over(key).map(|(run, _)| run),
                    };
                    if let Some(run) = run {
                        look(run, place);
                    }
                }
            }
        }
        Ok(())
    }

    /// The runs of a namespace (of all, where none is named) or of a Flow after one of them. One that cannot be read does not hide
    /// the others. `past` may come from a client: whatever it names, no other runs are found.
    pub async fn list(
        &self,
        namespace: Option<&str>,
        flow: Option<&str>,
        past: Option<&RunName>,
        most: usize,
    ) -> Result<RunPage, FlowsError> {
        let (first, until) = keys::under(&keys::headers(namespace, flow));
        let from = past.map_or(first.clone(), |past| after(&keys::header(past)).max(first));
        if from >= until {
            return Ok(RunPage::default());
        }
        let found = self.store.records(&from, &until, most).await?;
        let next = found.last().filter(|_| found.len() == most).and_then(|(key, _)| keys::run_of_header(key));
        Ok(RunPage {
            headers: found.iter().filter_map(|(key, value)| self.readable(key, value)).collect(),
            next,
        })
    }

    fn readable(&self, key: &Bytes, value: &Bytes) -> Option<RunHeader> {
        let opened = self.seal.open(key, value);
        opened.inspect_err(|error| tracing::error!(%error, "a run is left out")).ok()
    }
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunPlace {
    Active,
    /// Nobody has it, and it goes on by itself or when it is told to.
    Parked,
    Queued,
    Over,
}
