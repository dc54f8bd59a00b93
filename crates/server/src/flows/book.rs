//! Keeps runs.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tulle_model::flow::history::{HistoryEntry, Outcome};
use tulle_model::flow::scope::Millis;

use super::keys::{self, RecordPart};
use super::{Append, FlowsError, Given, Loaded, RunHeader, RunName, RunState, Seal, Start, Started, Then};
use crate::ca::seal::hex;
use crate::store::{RecordWrite, Store, StoreError};

/// How many records of entries are read at once.
const PAGE: usize = 256;

pub struct RunBook {
    store: Store,
    seal: Seal,
}

/// A record that was read, in the form that the store has it in: what is written next depends on that.
struct Kept {
    header: RunHeader,
    bytes: Bytes,
}

impl RunBook {
    pub fn new(store: Store, seal: Seal) -> Self {
        Self { store, seal }
    }

    /// Begins a run, for its runner to carry out.
    pub async fn start(&self, start: Start) -> Result<Started, FlowsError> {
        let Start { name, info, caller, runner, workflow, given } = start;
        let given_key = given.as_ref().map(|given| hash(&[&caller, &given.name])).map(Arc::<str>::from);
        if let (Some(given), Some(key)) = (&given, &given_key)
            && let Some(before) = self.started_before(&name, given, key).await?
        {
            return Ok(before);
        }
        let text = workflow.to_string();
        let workflow_hash: Arc<str> = hash(&[&text]).into();
        let header = RunHeader {
            name: name.clone(),
            state: RunState::Active,
            started: info.started,
            ended: None,
            caller,
            workflow: workflow_hash.clone(),
            runner,
            lease: 1,
            entries: 0,
            given: given_key.clone(),
        };
        let mut write = RecordWrite::default();
        write.expected.push((keys::header(&name), None));
        self.put(&mut write, keys::header(&name), &header)?;
        self.put(&mut write, keys::part(&name, RecordPart::Info), &info)?;
        let workflow_key = keys::workflow(&name.namespace, &workflow_hash);
        self.put(&mut write, workflow_key, &*workflow)?;
        write.put.push((keys::usage(&name, &workflow_hash), Bytes::new()));
        write.put.push((keys::active(&name), Bytes::new()));
        if let (Some(given), Some(key)) = (&given, &given_key) {
            let key = keys::given(&name, key);
            write.expected.push((key.clone(), None));
            self.put(&mut write, key, &(&name, given))?;
        }
        match (self.store.write_records(write).await, &given, &given_key) {
            (Ok(()), _, _) => Ok(Started::New(header)),
            // Somebody has given the same name at the same time.
            (Err(StoreError::RecordChanged(_)), Some(given), Some(key)) => {
                self.started_before(&name, given, key).await?.ok_or(FlowsError::Lost(name))
            }
            (Err(StoreError::RecordChanged(_)), _, _) => Err(FlowsError::Lost(name)),
            (Err(error), _, _) => Err(error.into()),
        }
    }

    async fn started_before(
        &self,
        run: &RunName,
        given: &Given,
        key: &str,
    ) -> Result<Option<Started>, FlowsError> {
        let found: Option<(RunName, Given)> = self.get(keys::given(run, key)).await?;
        Ok(found.map(
            |(name, before)| {
                if before == *given { Started::Before(name) } else { Started::Otherwise(name) }
            },
        ))
    }

    /// Gives a run that is not over to a runner. Whoever had it before can write nothing of it any more.
    pub async fn lease(&self, run: &RunName, runner: &str) -> Result<RunHeader, FlowsError> {
        let Kept { header: before, bytes } = self.kept(run).await?;
        if before.state.is_over() {
            return Err(FlowsError::Lost(run.clone()));
        }
        let lease = before.lease + 1;
        let header = RunHeader { state: RunState::Active, runner: runner.into(), lease, ..before.clone() };
        let mut write = RecordWrite::default();
        write.expected.push((keys::header(run), Some(bytes)));
        self.put(&mut write, keys::header(run), &header)?;
        self.move_to(&mut write, &before, RunState::Active);
        self.write(write, run).await?;
        Ok(header)
    }

    /// Adds to a history. Refused as [`FlowsError::Lost`] where the lease is another one's by now, or the entries are not the next.
    pub async fn append(&self, run: &RunName, append: Append) -> Result<RunHeader, FlowsError> {
        let Append { lease, first, entries, checkpoint, then } = append;
        let Kept { header: before, bytes } = self.kept(run).await?;
        if before.lease != lease || before.entries != first || before.state.is_over() {
            return Err(FlowsError::Lost(run.clone()));
        }
        let mut header = before.clone();
        let mut write = RecordWrite::default();
        write.expected.push((keys::header(run), Some(bytes)));
        header.entries = first.saturating_add(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        if !entries.is_empty() {
            self.put(&mut write, keys::entries(run, first), &entries)?;
        }
        if let Some(checkpoint) = checkpoint.filter(|_| !matches!(then, Then::Ends(..))) {
            let key = keys::part(run, RecordPart::Checkpoint);
            let whole = [&header.entries.to_be_bytes(), &*checkpoint].concat();
            let sealed = self.seal.seal_bytes(&key, whole)?;
            write.put.push((key, sealed));
        }
        header.state = match then {
            Then::GoesOn => RunState::Active,
            Then::Waits(until) => RunState::Waiting { until },
            Then::Suspended => RunState::Suspended,
            Then::Ends(at, outcome) => {
                header.ended = Some(at);
                self.put(&mut write, keys::part(run, RecordPart::Outcome), &outcome)?;
                write.deleted.push(keys::part(run, RecordPart::Checkpoint));
                match outcome {
                    Outcome::Completed(_) => RunState::Completed,
                    Outcome::Faulted(_) => RunState::Faulted,
                    Outcome::Cancelled => RunState::Cancelled,
                }
            }
        };
        self.move_to(&mut write, &before, header.state);
        self.put(&mut write, keys::header(run), &header)?;
        self.write(write, run).await?;
        Ok(header)
    }

    /// Has the lists of runs say where one is now.
    fn move_to(&self, write: &mut RecordWrite, before: &RunHeader, now: RunState) {
        let key = |state| match state {
            RunState::Active => Some(keys::active(&before.name)),
            RunState::Waiting { until } => Some(keys::waiting(&before.name, until)),
            RunState::Suspended | RunState::Completed | RunState::Faulted | RunState::Cancelled => None,
        };
        if before.state != now {
            write.deleted.extend(key(before.state));
            write.put.extend(key(now).map(|key| (key, Bytes::new())));
        }
    }

    pub async fn header(&self, run: &RunName) -> Result<RunHeader, FlowsError> {
        Ok(self.kept(run).await?.header)
    }

    /// All of a run: from its last checkpoint on, or from its start.
    pub async fn load(&self, run: &RunName, from_checkpoint: bool) -> Result<Loaded, FlowsError> {
        let header = self.header(run).await?;
        let missing = || FlowsError::NotFound(run.clone());
        let info = self.get(keys::part(run, RecordPart::Info)).await?.ok_or_else(missing)?;
        let workflow: Value =
            self.get(keys::workflow(&run.namespace, &header.workflow)).await?.ok_or_else(missing)?;
        let mut checkpoint = None;
        if from_checkpoint {
            checkpoint = self.checkpoint(run).await?;
        }
        let first = checkpoint.as_ref().map_or(0, |(entries, _)| *entries);
        let entries = self.entries(run, first).await?;
        Ok(Loaded { header, info, workflow: Arc::new(workflow), checkpoint, entries })
    }

    async fn checkpoint(&self, run: &RunName) -> Result<Option<(u32, Vec<u8>)>, FlowsError> {
        let key = keys::part(run, RecordPart::Checkpoint);
        let Some(sealed) = self.store.record(&key).await? else { return Ok(None) };
        let whole = self.seal.open_bytes(&key, &sealed)?;
        Ok(whole.split_first_chunk().map(|(entries, state)| (u32::from_be_bytes(*entries), state.to_vec())))
    }

    /// The history from an entry on, which is the first of what was added at once.
    async fn entries(&self, run: &RunName, first: u32) -> Result<Vec<HistoryEntry>, FlowsError> {
        let (_, until) = keys::under(&format!("{}e/", keys::inside(run)));
        let (mut from, mut entries) = (keys::entries(run, first), Vec::new());
        loop {
            let page = self.store.records(&from, &until, PAGE).await?;
            for (key, value) in &page {
                entries.extend(self.seal.open::<Vec<HistoryEntry>>(key, value)?);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = after(last),
                _ => return Ok(entries),
            }
        }
    }

    /// What came of a run; `None`: it is not over.
    pub async fn outcome(&self, run: &RunName) -> Result<Option<Outcome>, FlowsError> {
        self.get(keys::part(run, RecordPart::Outcome)).await
    }

    /// Runs that somebody is to carry out, after one of them.
    pub async fn active(&self, past: Option<&RunName>, most: usize) -> Result<Vec<RunName>, FlowsError> {
        let (from, until) = keys::under(keys::ACTIVE);
        let from = past.map_or(from, |past| after(&keys::active(past)));
        let found = self.store.records(&from, &until, most).await?;
        Ok(found.iter().filter_map(|(key, _)| keys::run_of_active(key)).collect())
    }

    /// Runs that have waited long enough: the first of them.
    pub async fn due(&self, now: Millis, most: usize) -> Result<Vec<RunName>, FlowsError> {
        let (from, until) = keys::waiting_until(now);
        let found = self.store.records(&from, &until, most).await?;
        Ok(found.iter().filter_map(|(key, _)| keys::run_of_waiting(key)).collect())
    }

    /// The runs of a namespace or of a Flow after one of them, in the order of their names.
    pub async fn list(
        &self,
        namespace: &str,
        flow: Option<&str>,
        past: Option<&RunName>,
        most: usize,
    ) -> Result<Vec<RunHeader>, FlowsError> {
        let (from, until) = keys::under(&keys::headers(namespace, flow));
        let from = past.map_or(from, |past| after(&keys::header(past)));
        let found = self.store.records(&from, &until, most).await?;
        found.iter().map(|(key, value)| self.seal.open(key, value)).collect()
    }

    /// Forgets runs that are over: of a Flow all but the latest `keep`, and those that ended before `since`. Returns how many.
    pub async fn prune(
        &self,
        namespace: &str,
        flow: &str,
        keep: usize,
        since: Millis,
    ) -> Result<usize, FlowsError> {
        let mut over = Vec::new();
        let mut past = None;
        loop {
            let page = self.list(namespace, Some(flow), past.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            past = page.last().map(|header| header.name.clone());
            over.extend(page.into_iter().filter(|header| header.state.is_over()));
            if is_last {
                break;
            }
        }
        over.sort_by_key(|header| std::cmp::Reverse(header.ended));
        let goes =
            |(at, header): &(usize, RunHeader)| *at >= keep || header.ended.is_some_and(|at| at < since);
        let mut forgotten = 0;
        for (_, header) in over.into_iter().enumerate().filter(goes) {
            match self.forget(&header).await {
                Ok(()) => forgotten += 1,
                Err(FlowsError::NotFound(_) | FlowsError::Lost(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forgotten)
    }

    async fn forget(&self, header: &RunHeader) -> Result<(), FlowsError> {
        let run = &header.name;
        let bytes = self.kept(run).await?.bytes;
        let mut write = RecordWrite::default();
        // Who prunes at the same time is not to take away what has begun since under the name that the caller gave.
        write.expected.push((keys::header(run), Some(bytes)));
        write.deleted.extend([keys::header(run), keys::usage(run, &header.workflow)]);
        write.deleted.extend(header.given.as_ref().map(|given| keys::given(run, given)));
        write.cleared.push(keys::under(&keys::inside(run)));
        self.write(write, run).await?;
        // The last run that goes by a workflow takes it along.
        let write = RecordWrite {
            expected_none: vec![keys::under(&keys::uses(&run.namespace, &header.workflow))],
            deleted: vec![keys::workflow(&run.namespace, &header.workflow)],
            ..RecordWrite::default()
        };
        match self.store.write_records(write).await {
            Ok(()) | Err(StoreError::RecordChanged(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn kept(&self, run: &RunName) -> Result<Kept, FlowsError> {
        let key = keys::header(run);
        let bytes = self.store.record(&key).await?.ok_or_else(|| FlowsError::NotFound(run.clone()))?;
        Ok(Kept { header: self.seal.open(&key, &bytes)?, bytes })
    }

    async fn get<T: DeserializeOwned>(&self, key: Bytes) -> Result<Option<T>, FlowsError> {
        let value = self.store.record(&key).await?;
        value.map(|value| self.seal.open(&key, &value)).transpose()
    }

    fn put<T: serde::Serialize>(
        &self,
        write: &mut RecordWrite,
        key: Bytes,
        value: &T,
    ) -> Result<(), FlowsError> {
        let sealed = self.seal.seal(&key, value)?;
        write.put.push((key, sealed));
        Ok(())
    }

    async fn write(&self, write: RecordWrite, run: &RunName) -> Result<(), FlowsError> {
        self.store.write_records(write).await.map_err(|error| match error {
            StoreError::RecordChanged(_) => FlowsError::Lost(run.clone()),
            error => error.into(),
        })
    }
}

/// The first key after one.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// Tells texts apart, in whatever they are.
fn hash(parts: &[&str]) -> String {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part.as_bytes());
    }
    hex(digest(&SHA256, &all).as_ref())
}
