//! Worker threads and the commands that they take.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tokio_util::sync::CancellationToken;
use tulle_model::snapshot::FastMap;

use crate::access_log::Entry;
use crate::config::Config;
use crate::drain::DrainSignal;
use crate::inbound::{self, Visit};
use crate::listener::{self, Purpose};
use crate::local::Local;
use crate::metrics::{WorkerMetrics, WorkerRegistry};
use crate::sight::Heard;
use crate::worker::Worker;

const COMMANDS: usize = 64;
/// Names of the outside that are looked up at a time: the C library takes a thread for each.
const LOOK_UPS: usize = 16;
/// How long links may take to end when nothing runs on them any more, whatever the deadline.
const FAREWELL: Duration = Duration::from_millis(200);

/// How often a worker looks for what it can forget of its counters.
const FORGET: Duration = Duration::from_secs(15);

/// What a worker is told.
pub(crate) enum Command {
    Listen {
        listener: StdListener,
        purpose: Purpose,
        done: oneshot::Sender<io::Result<()>>,
    },
    Close {
        address: SocketAddr,
        done: oneshot::Sender<()>,
    },
    /// Say when everything that was begun with an earlier state is counted as in flight.
    Settle {
        done: oneshot::Sender<()>,
    },
    /// List what has entered workloads and is still there.
    Visits {
        done: oneshot::Sender<Vec<Visit>>,
    },
    /// Stop accepting, finish, and end the thread, at the deadline in any case.
    Drain {
        deadline: Duration,
        done: oneshot::Sender<()>,
    },
}

/// Starts worker `index`. It runs until it has drained, or until the sender is dropped.
pub(crate) fn start(
    index: usize,
    config: Arc<Config>,
    registry: Arc<WorkerRegistry>,
    heard: Arc<Heard>,
    access_log: mpsc::Sender<Box<Entry>>,
) -> io::Result<mpsc::Sender<Command>> {
    let (sender, commands) = mpsc::channel(COMMANDS);
    // A local runtime cannot leave the thread that made it, so the thread says how that went.
    let (started, result) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name(format!("proxy-{index}")).spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(LOOK_UPS)
            .build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                runtime.block_on(run(index, config, registry, heard, access_log, commands));
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    })?;
    result.recv().unwrap_or_else(|_| Err(io::Error::other("the worker thread ended at once")))?;
    Ok(sender)
}

async fn run(
    index: usize,
    config: Arc<Config>,
    registry: Arc<WorkerRegistry>,
    heard: Arc<Heard>,
    access_log: mpsc::Sender<Box<Entry>>,
    mut commands: mpsc::Receiver<Command>,
) {
    let (signal, drain) = DrainSignal::new();
    let local = Local::new(&config, WorkerMetrics::new(registry), drain, heard, access_log);
    let worker = Worker::new(local, &config);
    tokio::task::spawn_local(inbound::follow(worker.local.clone()));
    let mut listeners: FastMap<SocketAddr, Accepting> = FastMap::default();
    let mut ticks = tokio::time::interval(FORGET);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let command = tokio::select! {
            biased;
            command = commands.recv() => command,
            _ = ticks.tick() => {
                let state = worker.local.view();
                worker.local.visits.forget(&state);
                worker.local.standings.forget(worker.local.since_start(Instant::now()));
                worker.local.metrics.forget(Instant::now(), &state);
                continue;
            }
        };
        let Some(command) = command else { return };
        match command {
            Command::Listen { listener, purpose, done } => {
                let _ = done.send(listen(&worker, &mut listeners, listener, purpose));
            }
            Command::Close { address, done } => {
                worker.listening.borrow_mut().retain(|own| *own != address);
                if let Some(accepting) = listeners.remove(&address) {
                    accepting.end().await;
                }
                let _ = done.send(());
            }
            // From looking at the state to counting nothing is awaited, so no task is in between now.
            Command::Settle { done } => {
                let _ = done.send(());
            }
            Command::Visits { done } => {
                let _ = done.send(worker.local.visits.list());
            }
            Command::Drain { deadline, done } => {
                let end = Instant::now() + deadline;
                for (_, accepting) in listeners.drain() {
                    accepting.end().await;
                }
                signal.start();
                worker.local.connections.close();
                if timeout_at(end, worker.local.connections.wait()).await.is_err() {
                    let left = worker.local.connections.len();
                    tracing::warn!(
                        worker = index,
                        "{left} connections were still open after {deadline:?} and are closed"
                    );
                }
                // What was handed over to them may not have left yet.
                let _ = timeout_at(end.max(Instant::now() + FAREWELL), worker.links.close()).await;
                let _ = done.send(());
                return;
            }
        }
    }
}

/// A listener's task.
struct Accepting {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Accepting {
    async fn end(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

fn listen(
    worker: &Rc<Worker>,
    listeners: &mut FastMap<SocketAddr, Accepting>,
    listener: StdListener,
    purpose: Purpose,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let listener = TcpListener::from_std(listener)?;
    let stop = CancellationToken::new();
    let task = tokio::task::spawn_local(listener::accept(worker.clone(), listener, purpose, stop.clone()));
    worker.listening.borrow_mut().push(address);
    listeners.insert(address, Accepting { stop, task });
    Ok(())
}
