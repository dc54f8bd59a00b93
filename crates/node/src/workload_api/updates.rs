//! A stream of the Workload API: the whole of what it tells at once, and again whenever that changes (SPIFFE_Workload_API.md,
//! section 4.3).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tulle_model::identity::SpiffeId;

use super::{Claimant, denied};
use crate::workloads::Workloads;

/// How long a message may wait for its reader; then the stream ends.
const READER_DEADLINE: Duration = Duration::from_secs(30);

pub(super) type Updates<T> = ReceiverStream<Result<T, Status>>;

/// Whose stream it is.
pub(super) struct Reader {
    pub caller: Claimant,
    pub id: SpiffeId,
    pub present: watch::Receiver<bool>,
    pub workloads: Arc<Workloads>,
    pub stop: CancellationToken,
}

/// Begins with what `source` holds. What makes no message, and the same message again, is not sent.
pub(super) fn stream<W, T>(
    reader: Reader,
    mut source: watch::Receiver<Option<Arc<W>>>,
    message: impl Fn(&W) -> Option<T> + Send + 'static,
) -> Updates<T>
where
    W: Send + Sync + 'static,
    T: Clone + PartialEq + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let stop = reader.stop.clone();
        let telling = tell(reader, &mut source, message, &sender);
        let end = tokio::select! {
            end = telling => end,
            () = stop.cancelled() => Some(Status::unavailable("the node stops")),
            () = sender.closed() => None,
        };
        if let Some(status) = end {
            let _ = timeout(READER_DEADLINE, sender.send(Err(status))).await;
        }
    });
    ReceiverStream::new(receiver)
}

/// Until the reader is too slow (`None`), or may have no more.
async fn tell<W, T: Clone + PartialEq>(
    mut reader: Reader,
    source: &mut watch::Receiver<Option<Arc<W>>>,
    message: impl Fn(&W) -> Option<T>,
    sender: &mpsc::Sender<Result<T, Status>>,
) -> Option<Status> {
    let mut last = None;
    loop {
        let value = source.borrow_and_update().clone();
        let next = value.and_then(|value| message(&value)).filter(|next| last.as_ref() != Some(next));
        if let Some(next) = next {
            // Somebody may have moved the process, or begun another one in its place.
            if !reader.caller.entitled(&reader.workloads).is_ok_and(|now| now.id == reader.id) {
                return Some(denied());
            }
            last = Some(next.clone());
            timeout(READER_DEADLINE, sender.send(Ok(next))).await.ok()?.ok()?;
        }
        tokio::select! {
            changed = source.changed() => if changed.is_err() {
                return Some(denied());
            },
            () = gone(&mut reader.present) => return Some(denied()),
        }
    }
}

/// Waits until a workload is gone.
async fn gone(present: &mut watch::Receiver<bool>) {
    while present.changed().await.is_ok() {}
}
