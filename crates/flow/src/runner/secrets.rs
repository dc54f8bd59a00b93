//! The Secrets of a run, as its calls need them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::backoff::Pause;
use super::book::{Book, BookError};
use tulle_model::flow::history::RunName;

/// How long what was read is used: a Secret may have been replaced.
const FRESH: Duration = Duration::from_secs(60);

/// The run is another one's by now.
#[derive(Debug)]
pub(super) struct Lost;

/// What a run has read of the Secrets that its workflow lists.
pub(super) struct RunSecrets {
    pub(super) run: RunName,
    pub(super) lease: u64,
    /// `None`: the workflow lists none.
    kept: Option<Mutex<Option<KeptSecrets>>>,
}

struct KeptSecrets {
    read: Arc<Value>,
    at: Instant,
}

impl RunSecrets {
    pub(super) fn new(run: RunName, lease: u64, lists_some: bool) -> Self {
        Self { run, lease, kept: lists_some.then(Mutex::default) }
    }

    /// By name and key. Waits for as long as they cannot be had.
    pub(super) async fn get(&self, book: &impl Book) -> Result<Arc<Value>, Lost> {
        let Some(kept) = &self.kept else { return Ok(Arc::new(Value::Object(Map::new()))) };
        let known =
            kept.lock().as_ref().filter(|kept| kept.at.elapsed() < FRESH).map(|kept| kept.read.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let mut pause = Pause::default();
        loop {
            match book.secrets(&self.run, self.lease).await {
                Ok(read) => {
                    let read = Arc::new(read);
                    *kept.lock() = Some(KeptSecrets { read: read.clone(), at: Instant::now() });
                    return Ok(read);
                }
                Err(BookError::Lost) => return Err(Lost),
                Err(BookError::Later(_) | BookError::Full(_)) => pause.pass().await,
            }
        }
    }
}
