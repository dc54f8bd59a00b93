//! Keeps runs.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tulle_model::flow::history::{HistoryEntry, Outcome};
use tulle_model::flow::run::RunEvent;
use tulle_model::flow::scope::{Millis, RunInfo};

use super::keys::{self, RecordPart};
use super::{
    Append, FlowsError, Given, HistoryPart, Loaded, RunBounds, RunHeader, RunName, RunState, RunWish,
    RunWishes, Seal, Start, Started, Then,
};
use crate::ca::seal::hex;
use crate::store::{RecordWrite, Store, StoreError};

/// How many records are read at once, and how many of entries, which are large.
pub(super) const PAGE: usize = 256;
const PAGE_OF_ENTRIES: usize = 8;
/// Of a history no more is read for one answer, once it has so many bytes.
const MOST_READ: usize = 4 << 20;
/// How often a header is changed anew that others change at the same time.
const ATTEMPTS: usize = 8;

pub struct RunBook {
    pub(super) store: Store,
    pub(super) seal: Seal,
    pub(super) bounds: RunBounds,
}

/// What became of an addition.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    pub header: RunHeader,
    /// It was not there before: whoever says it again is not counted again.
    pub is_new: bool,
}

/// A record that was read, in the form that the store has it in: what is written next depends on that.
pub(super) struct Kept {
    pub(super) header: RunHeader,
    pub(super) bytes: Bytes,
}

impl RunBook {
    pub fn new(store: Store, seal: Seal, bounds: RunBounds) -> Self {
        Self { store, seal, bounds }
    }

    pub fn bounds(&self) -> RunBounds {
        self.bounds
    }

    /// Begins a run, for its runner to carry out.
    pub async fn start(&self, start: Start) -> Result<Started, FlowsError> {
        let Start { name, info, caller, runner, workflow, uid, account, depth, given } = start;
        let given_key = given.as_ref().map(|given| given_key(&caller, given));
        let text = workflow.to_string();
        let workflow_hash: Arc<str> = hash(&[&text]).into();
        let header = RunHeader {
            name: name.clone(),
            state: if runner.is_some() { RunState::Active } else { RunState::Queued },
            started: info.started,
            ended: None,
            caller,
            workflow: workflow_hash.clone(),
            uid,
            account,
            lease: u64::from(runner.is_some()),
            runner: runner.unwrap_or_default(),
            entries: 0,
            bytes: 0,
            depth,
            given: given_key.clone(),
            wanted: RunWishes::default(),
        };
        let mut write = RecordWrite::default();
        write.expected.push((keys::header(&name), None));
        self.put(&mut write, keys::header(&name), &header)?;
        self.put(&mut write, keys::part(&name, RecordPart::Info), &info)?;
        let workflow_key = keys::workflow(&name.namespace, &workflow_hash);
        self.put(&mut write, workflow_key, &*workflow)?;
        write.put.push((keys::usage(&name, &workflow_hash), Bytes::new()));
        write.put.extend(listed(&header).map(|key| (key, Bytes::new())));
        if let (Some(given), Some(key)) = (&given, &given_key) {
            let key = keys::given(&name, key);
            write.expected.push((key.clone(), None));
            self.put(&mut write, key, &(&name, given))?;
        }
        match (self.store.write_records(write).await, &given, &given_key) {
            (Ok(()), _, _) => Ok(Started::New(header)),
            // Somebody has given the same name at the same time.
            (Err(StoreError::RecordChanged(_)), Some(given), Some(key)) => {
                self.found(&name, given, key).await?.ok_or(FlowsError::Lost(name))
            }
            (Err(StoreError::RecordChanged(_)), _, _) => Err(FlowsError::Lost(name)),
            (Err(error), _, _) => Err(error.into()),
        }
    }

    /// What a caller has started under a name before.
    pub async fn started_before(
        &self,
        run: &RunName,
        caller: &str,
        given: &Given,
    ) -> Result<Option<Started>, FlowsError> {
        self.found(run, given, &given_key(caller, given)).await
    }

    async fn found(&self, run: &RunName, given: &Given, key: &str) -> Result<Option<Started>, FlowsError> {
        let found: Option<(RunName, Given)> = self.get(keys::given(run, key)).await?;
        Ok(found.map(
            |(name, before)| {
                if before == *given { Started::Before(name) } else { Started::Otherwise(name) }
            },
        ))
    }

    /// Gives a run that is not over to a runner, to do what is wanted of it. Whoever had it before can write nothing of it any more.
    pub async fn lease(
        &self,
        run: &RunName,
        runner: &str,
        wish: Option<&RunWish>,
    ) -> Result<RunHeader, FlowsError> {
        let active =
            |before: &RunHeader| (!before.state.is_over()).then(|| leased(before, runner, wish.cloned()));
        self.change(run, active, |_, _| Ok(())).await
    }

    /// Keeps what is wanted of a run that somebody carries out; [`FlowsError::Lost`]: nobody does.
    pub async fn want(&self, run: &RunName, wish: &RunWish) -> Result<RunHeader, FlowsError> {
        let wanted = |before: &RunHeader| {
            let mut wanted = before.wanted.clone();
            wanted.add(wish.clone(), before.lease);
            (before.state == RunState::Active).then(|| RunHeader { wanted, ..before.clone() })
        };
        self.change(run, wanted, |_, _| Ok(())).await
    }

    /// Gives a run that has faulted or was cancelled to a runner: it goes on from a task.
    pub async fn reopen(
        &self,
        run: &RunName,
        runner: &str,
        from: &Arc<str>,
    ) -> Result<RunHeader, FlowsError> {
        let active = |before: &RunHeader| {
            let again = || leased(before, runner, Some(RunWish::Retry(from.clone())));
            matches!(before.state, RunState::Faulted | RunState::Cancelled).then(again)
        };
        let outcome = keys::part(run, RecordPart::Outcome);
        self.change(run, active, |_, write| {
            write.deleted.push(outcome.clone());
            Ok(())
        })
        .await
    }

    /// Ends a run that is not over, whoever has it, if it `may` be in the state that it is in.
    pub async fn cancel(
        &self,
        run: &RunName,
        at: Millis,
        may: impl Fn(RunState) -> bool,
    ) -> Result<RunHeader, FlowsError> {
        let cancelled = |before: &RunHeader| {
            let ended = RunHeader {
                state: RunState::Cancelled,
                ended: Some(at),
                lease: before.lease + 1,
                entries: before.entries.saturating_add(1),
                wanted: RunWishes::default(),
                ..before.clone()
            };
            (!before.state.is_over() && may(before.state)).then_some(ended)
        };
        self.change(run, cancelled, |before, write| {
            let entry = vec![HistoryEntry::new(at, RunEvent::Cancelled)];
            self.put(write, keys::entries(run, before.entries), &entry)?;
            self.put(write, keys::part(run, RecordPart::Outcome), &Outcome::Cancelled)?;
            write.deleted.push(keys::part(run, RecordPart::Checkpoint));
            Ok(())
        })
        .await
    }

    /// Changes a header, and what goes with it; [`FlowsError::Lost`] where it is not to be changed. Whoever writes of the run at
    /// the same time is not to keep it from happening.
    async fn change(
        &self,
        run: &RunName,
        to: impl Fn(&RunHeader) -> Option<RunHeader>,
        with: impl Fn(&RunHeader, &mut RecordWrite) -> Result<(), FlowsError>,
    ) -> Result<RunHeader, FlowsError> {
        for _ in 0..ATTEMPTS {
            let Kept { header: before, bytes } = self.kept(run).await?;
            let header = to(&before).ok_or_else(|| FlowsError::Lost(run.clone()))?;
            let mut write = RecordWrite::default();
            write.expected.push((keys::header(run), Some(bytes)));
            with(&before, &mut write)?;
            self.put(&mut write, keys::header(run), &header)?;
            move_to(&mut write, &before, &header);
            match self.write(write, run).await {
                Err(FlowsError::Lost(_)) => {}
                written => return written.map(|()| header),
            }
        }
        Err(FlowsError::Contended(run.clone()))
    }

    /// Adds to a history. Refused as [`FlowsError::Lost`] where the lease is another one's by now, or the entries are not the next.
    /// As [`FlowsError::TooLarge`] where the history would have more bytes than it may, unless the run ends with that.
    /// A run that would wait or be suspended, and of which something is wanted that its runner has not heard, stays active: somebody is
    /// to take it up.
    pub async fn append(&self, run: &RunName, append: &Append) -> Result<Appended, FlowsError> {
        for _ in 0..ATTEMPTS {
            // Those who want something of it write as well, and are not to keep it from going on.
            if let Some(appended) = self.try_append(run, append).await? {
                return Ok(appended);
            }
        }
        Err(FlowsError::Contended(run.clone()))
    }

    /// `None`: somebody else has written of it meanwhile.
    async fn try_append(&self, run: &RunName, append: &Append) -> Result<Option<Appended>, FlowsError> {
        let Append { lease, first, entries, checkpoint, then } = append;
        let (lease, first) = (*lease, *first);
        let Kept { header: before, bytes } = self.kept(run).await?;
        if before.lease != lease {
            return Err(FlowsError::Lost(run.clone()));
        }
        if before.entries != first || before.state.is_over() {
            // Whoever has not heard that it was taken says it again.
            return match self.has_taken(&before, first, entries, then).await? {
                true => Ok(Some(Appended { header: before, is_new: false })),
                false => Err(FlowsError::Lost(run.clone())),
            };
        }
        let mut header = before.clone();
        let mut write = RecordWrite::default();
        write.expected.push((keys::header(run), Some(bytes)));
        header.entries = first.saturating_add(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        if !entries.is_empty() {
            let key = keys::entries(run, first);
            let sealed = self.seal.seal(&key, entries)?;
            header.bytes = header.bytes.saturating_add(sealed.len());
            write.put.push((key, sealed));
        }
        let most = self.bounds.history;
        if header.bytes > most && !matches!(then, Then::Ends(..)) {
            return Err(FlowsError::TooLarge(format!(
                "the history of the run has more than {} MiB, which is the most that one may: have calls answer \
                 less, or split it into several Flows",
                most >> 20
            )));
        }
        if let Some(checkpoint) = checkpoint.as_ref().filter(|_| !matches!(then, Then::Ends(..))) {
            let key = keys::part(run, RecordPart::Checkpoint);
            let whole = [&header.entries.to_be_bytes(), &**checkpoint].concat();
            let sealed = self.seal.seal_bytes(&key, whole)?;
            write.put.push((key, sealed));
        }
        header.state = match then {
            Then::GoesOn => RunState::Active,
            Then::Waits(until) => RunState::Waiting { until: *until },
            Then::Suspended => RunState::Suspended,
            Then::Ends(at, outcome) => {
                header.ended = Some(*at);
                self.put(&mut write, keys::part(run, RecordPart::Outcome), outcome)?;
                write.deleted.push(keys::part(run, RecordPart::Checkpoint));
                match outcome {
                    Outcome::Completed(_) => RunState::Completed,
                    Outcome::Faulted(_) => RunState::Faulted,
                    Outcome::Cancelled => RunState::Cancelled,
                }
            }
        };
        header.wanted.shown(entries);
        if header.state.is_over() {
            header.wanted = RunWishes::default();
        } else if header.state != RunState::Active {
            header.wanted.left(lease);
            if !header.wanted.is_empty() {
                header = leased(&header, "", None);
            }
        }
        move_to(&mut write, &before, &header);
        self.put(&mut write, keys::header(run), &header)?;
        match self.write(write, run).await {
            Ok(()) => Ok(Some(Appended { header, is_new: true })),
            Err(FlowsError::Lost(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the last that was added, under the present lease, is this.
    async fn has_taken(
        &self,
        header: &RunHeader,
        first: u32,
        entries: &[HistoryEntry],
        then: &Then,
    ) -> Result<bool, FlowsError> {
        let is_state = match (then, header.state) {
            (Then::GoesOn, RunState::Active)
            | (Then::Suspended, RunState::Suspended)
            | (Then::Ends(_, Outcome::Completed(_)), RunState::Completed)
            | (Then::Ends(_, Outcome::Faulted(_)), RunState::Faulted)
            | (Then::Ends(_, Outcome::Cancelled), RunState::Cancelled) => true,
            (Then::Waits(until), RunState::Waiting { until: waits }) => *until == waits,
            _ => false,
        };
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        if !is_state || header.entries != first.saturating_add(count) {
            return Ok(false);
        }
        if entries.is_empty() {
            return Ok(true);
        }
        let taken: Option<Vec<HistoryEntry>> = self.get(keys::entries(&header.name, first)).await?;
        Ok(taken.as_deref() == Some(entries))
    }

    pub async fn header(&self, run: &RunName) -> Result<RunHeader, FlowsError> {
        Ok(self.kept(run).await?.header)
    }

    /// A run, and the first part of its history: from its last checkpoint on, or from its start.
    pub async fn load(&self, run: &RunName, from_checkpoint: bool) -> Result<Loaded, FlowsError> {
        let header = self.header(run).await?;
        let info = self.info(run).await?;
        let workflow = self.workflow(&header).await?;
        let mut checkpoint = None;
        if from_checkpoint {
            checkpoint = self.checkpoint(run).await?;
        }
        let first = checkpoint.as_ref().map_or(0, |(entries, _)| *entries);
        let part = self.history(run, first).await?;
        Ok(Loaded { header, info, workflow: Arc::new(workflow), checkpoint, part })
    }

    /// The workflow that a run goes by.
    pub async fn workflow(&self, header: &RunHeader) -> Result<Value, FlowsError> {
        let key = keys::workflow(&header.name.namespace, &header.workflow);
        self.get(key).await?.ok_or_else(|| FlowsError::NotFound(header.name.clone()))
    }

    /// What a run began with.
    pub async fn info(&self, run: &RunName) -> Result<RunInfo, FlowsError> {
        let info = self.get(keys::part(run, RecordPart::Info)).await?;
        info.ok_or_else(|| FlowsError::NotFound(run.clone()))
    }

    async fn checkpoint(&self, run: &RunName) -> Result<Option<(u32, Vec<u8>)>, FlowsError> {
        let key = keys::part(run, RecordPart::Checkpoint);
        let Some(sealed) = self.store.record(&key).await? else { return Ok(None) };
        let whole = self.seal.open_bytes(&key, &sealed)?;
        Ok(whole.split_first_chunk().map(|(entries, state)| (u32::from_be_bytes(*entries), state.to_vec())))
    }

    /// Part of a history, from the first entry or from behind another part on.
    pub async fn history(&self, run: &RunName, first: u32) -> Result<HistoryPart, FlowsError> {
        let (_, until) = keys::under(&format!("{}e/", keys::inside(run)));
        let mut pages = Pages { most: PAGE_OF_ENTRIES, ..self.pages((keys::entries(run, first), until)) };
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some(page) = pages.next().await? {
            for (key, value) in &page {
                // There is always some, however large.
                if bytes > 0 && bytes + value.len() > MOST_READ {
                    return Ok(HistoryPart { entries, has_more: true });
                }
                bytes += value.len();
                entries.extend(self.seal.open::<Vec<HistoryEntry>>(key, value)?);
            }
        }
        Ok(HistoryPart { entries, has_more: false })
    }

    /// All records of a range, page by page.
    pub(super) fn pages(&self, (from, until): (Bytes, Bytes)) -> Pages<'_> {
        Pages { store: &self.store, from: Some(from), until, most: PAGE }
    }

    /// What came of a run; `None`: it is not over.
    pub async fn outcome(&self, run: &RunName) -> Result<Option<Outcome>, FlowsError> {
        self.get(keys::part(run, RecordPart::Outcome)).await
    }

    pub(super) async fn kept(&self, run: &RunName) -> Result<Kept, FlowsError> {
        let key = keys::header(run);
        let bytes = self.store.record(&key).await?.ok_or_else(|| FlowsError::NotFound(run.clone()))?;
        Ok(Kept { header: self.seal.open(&key, &bytes)?, bytes })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, key: Bytes) -> Result<Option<T>, FlowsError> {
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

    pub(super) async fn write(&self, write: RecordWrite, run: &RunName) -> Result<(), FlowsError> {
        self.store.write_records(write).await.map_err(|error| match error {
            StoreError::RecordChanged(_) => FlowsError::Lost(run.clone()),
            error => error.into(),
        })
    }
}

/// Goes through records that are too many to be read at once.
pub(super) struct Pages<'s> {
    store: &'s Store,
    /// `None`: there are no more.
    from: Option<Bytes>,
    until: Bytes,
    /// How many are read at once.
    most: usize,
}

impl Pages<'_> {
    pub(super) async fn next(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, StoreError> {
        let Some(from) = self.from.take() else { return Ok(None) };
        let page = self.store.records(&from, &self.until, self.most).await?;
        self.from = page.last().filter(|_| page.len() == self.most).map(|(last, _)| after(last));
        Ok(Some(page))
    }
}

/// A run under a new lease. What is wanted of it was said before that.
fn leased(before: &RunHeader, runner: &str, wish: Option<RunWish>) -> RunHeader {
    let mut wanted = before.wanted.clone();
    wish.into_iter().for_each(|wish| wanted.add(wish, before.lease));
    RunHeader {
        state: RunState::Active,
        ended: None,
        runner: runner.into(),
        lease: before.lease + 1,
        wanted,
        ..before.clone()
    }
}

/// The list in which a run stands.
pub(super) fn listed(header: &RunHeader) -> Option<Bytes> {
    let run = &header.name;
    Some(match header.state {
        RunState::Queued => keys::queued(run),
        RunState::Active => keys::active(run),
        RunState::Waiting { until } => keys::waiting(run, until),
        RunState::Suspended => keys::suspended(run),
        RunState::Completed | RunState::Faulted | RunState::Cancelled => keys::over(run, header.ended?),
    })
}

/// Has the lists of runs say where one is now.
fn move_to(write: &mut RecordWrite, before: &RunHeader, now: &RunHeader) {
    let (from, to) = (listed(before), listed(now));
    if from != to {
        write.deleted.extend(from);
        write.put.extend(to.map(|key| (key, Bytes::new())));
    }
}

/// What is kept of a name that a caller gives.
fn given_key(caller: &str, given: &Given) -> Arc<str> {
    hash(&[caller, &given.name]).into()
}

/// The first key after one.
pub(super) fn after(key: &[u8]) -> Bytes {
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
