//! The thread that writes: it takes what has queued up, commits it in one durable transaction
//! ([`commit`]), tells the watches, and then acknowledges. A sync to disk costs about the same for one
//! write as for a hundred.
//!
//! It asks the disk for room before it adds anything. What trips each state of the store, and what
//! heals it: [`Writer::admit`], [`Writer::make_room`], [`Writer::fail`], [`Writer::mend`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::commit::{Log, ROOM, Request, commit, trim};
use super::open::Opened;
use super::{Inner, LOG_KEPT, Place, StoreError, read};

/// How many writes, and how many bytes of them, one commit takes at most.
const BATCH_WRITES: usize = 128;
const BATCH_BYTES: usize = 4 << 20;

/// What a compaction has to be good for, in bytes.
const WORTH_COMPACTING: u64 = 64 << 10;

/// How long to wait before the store is opened again, or room is made again, after the first time in a
/// row and at most. Either may read all of the store, and readers may wait for it.
const LEAST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often a store that is not well looks whether it could be, with nothing to write.
const TEND: Duration = Duration::from_secs(1);

/// Starts the writer. It ends when all senders of `requests` are gone.
pub(super) fn spawn(inner: Arc<Inner>, requests: mpsc::Receiver<Request>) -> Result<(), StoreError> {
    let cannot = |error| StoreError::Database(format!("cannot start the store's thread: {error}"));
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(cannot)?;
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || Writer::new(inner).run(&clock, requests))
        .map(|_| ())
        .map_err(cannot)
}

/// When something is tried again: at longer and longer intervals.
struct Retry {
    at: Instant,
    wait: Duration,
}

impl Retry {
    /// One after `previous`; one that is long past counts no more.
    fn after(previous: Option<&Self>) -> Self {
        let previous = previous.filter(|retry| retry.at.elapsed() < LONGEST_WAIT);
        let wait = previous.map_or(LEAST_WAIT, |retry| (retry.wait * 2).min(LONGEST_WAIT));
        Self { at: Instant::now() + wait, wait }
    }

    fn is_due(retry: Option<&Self>) -> bool {
        retry.is_none_or(|retry| Instant::now() >= retry.at)
    }
}

struct Writer {
    inner: Arc<Inner>,
    /// Whether nothing is written until `failed` is due.
    held: bool,
    /// The last failure; none once a write has been taken since.
    failed: Option<Retry>,
    /// The room that what was refused last has to have, in bytes.
    low: Option<u64>,
    /// The last time that room was made.
    made: Option<Retry>,
    /// The last time that the reserve could not be filled.
    unfilled: Option<Retry>,
    /// How much has gone into the log or was replaced since the file was made as small as it can be: as
    /// good as endless at first.
    compactable: u64,
}

impl Writer {
    fn new(inner: Arc<Inner>) -> Self {
        // One that was opened for reading is opened for writing when that may work again.
        let held = !inner.database.blocking_read().writable;
        let failed = held.then(|| Retry::after(None));
        Self { inner, held, failed, low: None, made: None, unfilled: None, compactable: u64::MAX }
    }

    fn run(mut self, clock: &tokio::runtime::Runtime, mut requests: mpsc::Receiver<Request>) {
        loop {
            let first = if self.is_well() {
                requests.blocking_recv()
            } else {
                let patience = async { tokio::time::timeout(TEND, requests.recv()).await };
                match clock.block_on(patience) {
                    Ok(first) => first,
                    Err(_) => {
                        self.tend();
                        continue;
                    }
                }
            };
            let Some(first) = first else { return };
            let mut bytes = first.size();
            let mut batch = vec![first];
            while batch.len() < BATCH_WRITES
                && bytes < BATCH_BYTES
                && let Ok(request) = requests.try_recv()
            {
                bytes += request.size();
                batch.push(request);
            }
            self.take(batch);
        }
    }

    fn is_well(&self) -> bool {
        !self.held && self.low.is_none() && self.inner.place.reserve.is_whole()
    }

    fn take(&mut self, mut batch: Vec<Request>) {
        for request in batch.extract_if(.., |request| matches!(request, Request::Reopen { .. })) {
            if let Request::Reopen { generation, error } = request {
                self.reopen_for_reader(generation, error);
            }
        }
        self.get_over();
        if self.held {
            return self.refuse(batch);
        }
        let admitted = self.admit(batch);
        // Only what makes the store smaller may have the reserve.
        let (adding, removing): (Vec<_>, Vec<_>) = match self.low.is_some() {
            true => admitted.into_iter().partition(|request| request.room() > 0),
            false => (admitted, Vec::new()),
        };
        self.write(removing);
        self.write(adding);
    }

    fn refuse(&self, batch: Vec<Request>) {
        let trouble = self.inner.trouble.read().clone().unwrap_or(StoreError::Reopening);
        batch.into_iter().for_each(|request| request.refuse(&trouble));
    }

    fn write(&mut self, batch: Vec<Request>) {
        if batch.is_empty() {
            return;
        }
        if self.held {
            return self.refuse(batch);
        }
        let inner = self.inner.clone();
        let adds = batch.iter().any(|request| request.room() > 0);
        let log =
            Log { keep: if self.low.is_some() { 0 } else { LOG_KEPT }, free: inner.place.reserve.free() };
        inner.place.reserve.allow(!adds);
        let done = commit(&inner, batch, log);
        inner.place.reserve.allow(true);
        match done {
            Err(error) => self.fail(error),
            Ok(left) => {
                self.compactable = self.compactable.saturating_add(left);
                // Nothing was written where it was only refused.
                self.failed.take_if(|_| left > 0);
                self.fill_reserve();
            }
        }
    }

    /// Refuses what there is no room for, and returns the rest. Deleting needs none.
    fn admit(&mut self, batch: Vec<Request>) -> Vec<Request> {
        let inner = self.inner.clone();
        let place = &inner.place;
        let need: u64 = batch.iter().map(Request::room).sum();
        if need == 0 {
            return batch;
        }
        self.fill_reserve();
        if !has_room(place, ROOM + need) {
            self.make_room();
            if self.held {
                // Making room has failed.
                self.refuse(batch);
                return Vec::new();
            }
        }
        self.leave_low(place);
        let mut taken = ROOM;
        let mut admitted = Vec::new();
        for request in batch {
            let need = request.room();
            if need == 0 || has_room(place, taken + need) {
                taken += need;
                admitted.push(request);
            } else {
                request.refuse(&self.is_low(place, ROOM + need));
            }
        }
        admitted
    }

    fn is_low(&mut self, place: &Place, need: u64) -> StoreError {
        let full = StoreError::Full(format!("no room is left beside {}", place.path.display()));
        self.low = Some(need);
        self.has_trouble(full.clone());
        full
    }

    /// The store is low until there is room for what was refused: not when something small fits.
    fn leave_low(&mut self, place: &Place) {
        if self.low.is_some_and(|need| has_room(place, need)) {
            self.low = None;
            self.clear_trouble();
        }
    }

    /// Drops the log, makes the file as small as it can be, and fills the reserve from what that gives.
    fn make_room(&mut self) {
        if self.compactable < WORTH_COMPACTING || !Retry::is_due(self.made.as_ref()) {
            return;
        }
        self.made = Some(Retry::after(self.made.as_ref()));
        let inner = self.inner.clone();
        // The lock is let go of before it is taken for writing.
        let trimmed = trim(&inner.database.blocking_read().database, 0);
        let made = trimmed.and_then(|()| {
            // Nobody reads meanwhile.
            inner.database.blocking_write().database.compact().map_err(StoreError::database)
        });
        match made {
            // Whether it worked shows when room is asked for.
            Ok(_) => {
                self.compactable = 0;
                #[cfg(test)]
                inner.place.reserve.faults.compactions.fetch_add(1, Ordering::AcqRel);
                self.fill_reserve();
            }
            Err(error) => self.fail(error),
        }
    }

    /// With what is free, as far as it goes.
    fn fill_reserve(&mut self) {
        let inner = self.inner.clone();
        let place = &inner.place;
        if place.reserve.is_whole() || !Retry::is_due(self.unfilled.as_ref()) {
            return;
        }
        self.unfilled = match place.reserve.refill() {
            Ok(()) => None,
            Err(error) => {
                tracing::debug!(%error, "the store's reserve cannot be filled");
                Some(Retry::after(self.unfilled.as_ref()))
            }
        };
    }

    /// With nothing to write: whether it could be written again.
    fn tend(&mut self) {
        self.get_over();
        let inner = self.inner.clone();
        let place = &inner.place;
        if self.held {
            return;
        }
        self.fill_reserve();
        if self.low.is_some_and(|need| !has_room(place, need)) || !place.reserve.is_whole() {
            self.make_room();
        }
        if !self.held {
            self.leave_low(place);
        }
    }

    fn has_trouble(&self, trouble: StoreError) {
        let before = self.inner.trouble.write().replace(trouble.clone());
        // Once for each outage.
        if before.is_none() {
            tracing::error!("{trouble}");
        }
    }

    fn clear_trouble(&self) {
        if !self.held && self.low.is_none() && self.inner.trouble.write().take().is_some() {
            tracing::info!("the store takes all writes again");
        }
    }

    /// After a failed write: the database takes no more of them, and is opened again for those who read.
    fn fail(&mut self, error: StoreError) {
        let inner = self.inner.clone();
        let place = &inner.place;
        tracing::debug!(%error, "a write to the store failed");
        self.has_trouble(error);
        self.held = true;
        self.failed = Some(Retry::after(self.failed.as_ref()));
        if reopen(&inner, place, true).is_err() {
            self.open_for_reading(place);
        }
    }

    fn open_for_reading(&self, place: &Place) {
        if let Err(error) = reopen(&self.inner, place, false) {
            tracing::error!(%error, "the store cannot be opened again after a failure");
            self.inner.cannot_reopen(error);
        }
    }

    /// A reader has met `error`. Not at every such error is all opened again: between two attempts, those
    /// who read are told.
    fn reopen_for_reader(&mut self, generation: u64, error: StoreError) {
        let inner = self.inner.clone();
        let place = &inner.place;
        if !inner.is_generation(generation) {
            return;
        }
        if Retry::is_due(self.failed.as_ref()) {
            tracing::warn!(%error, "the store cannot be read and is opened again");
            self.mend(place, true);
        } else {
            self.held = true;
            self.has_trouble(error.clone());
            inner.cannot_reopen(error);
        }
    }

    /// When a failure has been waited for long enough: writes may be tried again.
    fn get_over(&mut self) {
        let inner = self.inner.clone();
        if self.held && Retry::is_due(self.failed.as_ref()) {
            let writable = inner.database.blocking_read().writable;
            self.mend(&inner.place, !writable || inner.is_broken());
        }
    }

    /// Opens the database `again` where it has to be, and sees whether it can be written.
    fn mend(&mut self, place: &Place, again: bool) {
        let inner = self.inner.clone();
        self.failed = Some(Retry::after(self.failed.as_ref()));
        let mended = if again { reopen(&inner, place, true) } else { Ok(()) }.and_then(|()| {
            self.fill_reserve();
            match has_room(place, ROOM) {
                true => trim(&inner.database.blocking_read().database, LOG_KEPT),
                false => {
                    self.is_low(place, self.low.unwrap_or(ROOM));
                    Ok(())
                }
            }
        });
        match mended {
            // The wait stays as long as it is until a write has been taken.
            Ok(()) => {
                self.held = false;
                self.clear_trouble();
            }
            Err(error) => {
                tracing::debug!(%error, "the store still cannot be written");
                self.held = true;
                self.has_trouble(error);
                // The attempt has taken the file from the one before.
                self.open_for_reading(place);
            }
        }
    }
}

/// Whether so many bytes fit, with the reserve untouched.
fn has_room(place: &Place, need: u64) -> bool {
    place.reserve.is_whole() && place.reserve.free() >= need
}

/// Opens the database again, and tells the watches of what is in the log though its writer was told
/// that it failed.
fn reopen(inner: &Inner, place: &Place, writable: bool) -> Result<(), StoreError> {
    inner.database.blocking_read().retire();
    let opened = if writable { Opened::writable(place) } else { Opened::image(place) };
    // Its predecessor ends outside of the lock.
    let before =
        std::mem::replace(&mut *inner.database.blocking_write(), opened.map_err(StoreError::database)?);
    inner.has_reopened();
    drop(before);
    loop {
        let known = inner.revision.load(Ordering::Acquire);
        let replayed = read::replay(&inner.database.blocking_read().database, "", known);
        let replay = match replayed {
            Ok(replay) => replay,
            // What was written and is not known here is in no log.
            Err(StoreError::Compacted { .. } | StoreError::Future { .. }) => {
                let latest = read::latest(&inner.database.blocking_read().database)?;
                inner.revision.store(latest, Ordering::Release);
                // With nothing in it, it makes the watches read on from the log.
                let _ = inner.events.send(Arc::new([]));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        inner.revision.store(replay.position, Ordering::Release);
        if !replay.events.is_empty() {
            // No watch is open if this fails.
            let _ = inner.events.send(replay.events.into());
        }
        if replay.complete {
            return Ok(());
        }
    }
}
