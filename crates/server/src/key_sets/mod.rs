//! The keys of those who issue tokens (RFC 7517), which policies name by a URL or file: read once for all nodes, every
//! five minutes and when a token names a key that is not known, and kept on disk, so that tokens are taken while their issuer is
//! away.

mod read;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ca::seal::write_private;

/// How often a set is read.
const PERIOD: Duration = Duration::from_secs(300);
/// How soon it is read again after it could not be; the wait doubles up to [`PERIOD`].
const RETRY: Duration = Duration::from_secs(2);
/// How soon it is read anew because a token names a key that is not in it.
const ANEW: Duration = Duration::from_secs(10);
/// How many are read at once.
const AT_ONCE: usize = 4;
/// How many nodes may wait with what they ask for.
const ASKED: usize = 256;

type Sets = BTreeMap<Arc<str>, Arc<str>>;

/// The sets of keys that policies name, by where they are read from.
#[derive(Clone)]
pub struct KeySets {
    wanted: watch::Sender<BTreeSet<Arc<str>>>,
    asked: mpsc::Sender<Arc<str>>,
    shared: Arc<Shared>,
}

struct Shared {
    file: PathBuf,
    known: Mutex<Sets>,
    /// Those that the controller has not heard of.
    news: Mutex<Sets>,
    changed: Notify,
}

/// Reads them.
pub struct KeyReader {
    wanted: watch::Receiver<BTreeSet<Arc<str>>>,
    asked: mpsc::Receiver<Arc<str>>,
    shared: Arc<Shared>,
    sources: HashMap<Arc<str>, KeySource>,
}

/// What became of a set when it was last read.
struct KeySource {
    /// When that was begun.
    read: Option<Instant>,
    due: Instant,
    reading: bool,
    /// Of the next attempt, where the last one failed.
    retry: Duration,
    problem: Option<String>,
}

impl KeySets {
    /// `file`: where they are kept.
    pub fn new(file: PathBuf) -> (Self, KeyReader) {
        let kept = std::fs::read(&file).ok().and_then(|kept| serde_json::from_slice::<Sets>(&kept).ok());
        let known = Mutex::new(kept.unwrap_or_default());
        let shared = Arc::new(Shared { file, known, news: Mutex::default(), changed: Notify::new() });
        let (wanted, of_policies) = watch::channel(BTreeSet::new());
        let (asked, of_nodes) = mpsc::channel(ASKED);
        let reader = KeyReader {
            wanted: of_policies,
            asked: of_nodes,
            shared: shared.clone(),
            sources: HashMap::new(),
        };
        (Self { wanted, asked, shared }, reader)
    }

    /// Those that are known.
    pub fn known(&self) -> Sets {
        self.shared.known.lock().clone()
    }

    /// From where policies name keys now. Returns what is known of these: who has forgotten one, and wants it again, hears of it by that alone.
    #[must_use]
    pub fn want(&self, sources: BTreeSet<Arc<str>>) -> Sets {
        self.wanted.send_if_modified(|wanted| {
            let differs = *wanted != sources;
            wanted.clone_from(&sources);
            differs
        });
        // In this order: what is forgotten from now on is read anew.
        let mut known = self.known();
        known.retain(|source, _| sources.contains(source));
        known
    }

    /// Has a set read again that lacks a key. Where too many wait, nodes ask again.
    pub fn read_anew(&self, source: &str) {
        let wanted = self.wanted.borrow().get(source).cloned();
        if let Some(source) = wanted {
            let _ = self.asked.try_send(source);
        }
    }

    /// Waits for sets that are new or have changed, of those that are wanted. Cancelling the future loses nothing.
    pub async fn changed(&self) -> Sets {
        loop {
            let mut news = std::mem::take(&mut *self.shared.news.lock());
            // One may have been read for who wants it no longer.
            news.retain(|source, _| self.wanted.borrow().contains(source));
            if !news.is_empty() {
                return news;
            }
            self.shared.changed.notified().await;
        }
    }
}

impl Shared {
    fn set(&self, source: &Arc<str>, set: Arc<str>) {
        let mut known = self.known.lock();
        if known.insert(source.clone(), set.clone()).as_ref() == Some(&set) {
            return;
        }
        self.keep(&known);
        drop(known);
        self.news.lock().insert(source.clone(), set);
        self.changed.notify_one();
    }

    fn forget(&self, wanted: &BTreeSet<Arc<str>>) {
        let mut known = self.known.lock();
        let before = known.len();
        known.retain(|source, _| wanted.contains(source));
        if known.len() != before {
            self.keep(&known);
        }
    }

    fn keep(&self, known: &Sets) {
        let kept = serde_json::to_vec(known).unwrap_or_default();
        if let Err(error) = write_private(&self.file, &kept) {
            tracing::warn!(%error, "keys of issuers of tokens are not kept over a restart");
        }
    }
}

impl KeySource {
    fn new() -> Self {
        Self { read: None, due: Instant::now(), reading: false, retry: RETRY, problem: None }
    }

    /// Takes note of what came of reading it, and says so where that has changed.
    fn finished(&mut self, name: &str, problem: Option<String>) {
        let now = Instant::now();
        self.reading = false;
        if problem != self.problem {
            match &problem {
                Some(problem) => tracing::warn!("the keys at {name} cannot be read: {problem}"),
                None => tracing::info!("the keys at {name} are read again"),
            }
        }
        (self.due, self.retry) = match problem {
            Some(_) => (now + self.retry, (self.retry * 2).min(PERIOD)),
            None => (now + PERIOD, RETRY),
        };
        self.problem = problem;
    }
}

impl KeyReader {
    /// Reads what policies name, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut reading = JoinSet::new();
        loop {
            let now = Instant::now();
            // Those that wait longest first, so that none that hang keep others away.
            let mut due: Vec<_> =
                self.sources.iter_mut().filter(|(_, source)| !source.reading && source.due <= now).collect();
            due.sort_by_key(|(_, source)| source.due);
            for (name, source) in due.into_iter().take(AT_ONCE.saturating_sub(reading.len())) {
                (source.read, source.reading) = (Some(now), true);
                let name = name.clone();
                reading.spawn(async move {
                    let set = read::read(&name).await;
                    (name, set)
                });
            }
            let idle = self.sources.values().filter(|source| !source.reading);
            let due = idle.map(|source| source.due).min().filter(|_| reading.len() < AT_ONCE);
            let next = due.unwrap_or(now + PERIOD);
            tokio::select! {
                () = stop.cancelled() => return,
                wanted = self.wanted.changed() => match wanted {
                    Ok(()) => self.follow(),
                    Err(_) => return,
                },
                Some(name) = self.asked.recv() => {
                    let lately = |read: Option<Instant>| read.is_some_and(|read| read.elapsed() < ANEW);
                    if let Some(source) = self.sources.get_mut(&name).filter(|source| !lately(source.read)) {
                        source.due = now;
                    }
                }
                Some(joined) = reading.join_next() => {
                    let Ok((name, read)) = joined else {
                        // Which one it was is not known: all are read again when they are due.
                        self.sources.values_mut().for_each(|source| source.reading = false);
                        continue;
                    };
                    let Some(source) = self.sources.get_mut(&name) else { continue };
                    source.finished(&name, read.as_ref().err().cloned());
                    if let Ok(set) = read {
                        self.shared.set(&name, set.into());
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    fn follow(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.sources.retain(|source, _| wanted.contains(source));
        for source in &wanted {
            self.sources.entry(source.clone()).or_insert_with(KeySource::new);
        }
        self.shared.forget(&wanted);
    }
}

#[cfg(test)]
mod tests;
