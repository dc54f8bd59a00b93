//! Worker threads and the commands that they take.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, OptionFuture};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tokio_util::sync::CancellationToken;
use tulle_model::snapshot::FastMap;

use crate::access_log::LogEntry;
use crate::config::Config;
use crate::drain::DrainSignal;
use crate::http::external;
use crate::http::own_calls::{self, WaitingCall};
use crate::inbound::{self, Visit};
use crate::inside;
use crate::link;
use crate::listener::{self, Slot};
use crate::local::Local;
use crate::metrics::{WorkerMetrics, WorkerRegistry};
use crate::sight::Heard;
use crate::sockets::{Purpose, Sockets};
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
    /// Accept at these sockets, all of one address.
    Listen {
        purpose: Purpose,
        address: SocketAddr,
        sockets: Vec<StdListener>,
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
    /// Duplicate what this worker accepts at.
    Sockets {
        done: oneshot::Sender<io::Result<Vec<Sockets>>>,
    },
    /// Stop accepting, finish, and end the thread, at the deadline in any case. Of several, the first counts.
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
    access_log: mpsc::Sender<Box<LogEntry>>,
) -> io::Result<(mpsc::Sender<Command>, mpsc::Sender<WaitingCall>)> {
    let (sender, commands) = mpsc::channel(COMMANDS);
    let (calls, waiting) = mpsc::channel(own_calls::WAITING);
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
                runtime.block_on(run(index, config, registry, heard, access_log, (commands, waiting)));
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    })?;
    result.recv().unwrap_or_else(|_| Err(io::Error::other("the worker thread ended at once")))?;
    Ok((sender, calls))
}

async fn run(
    index: usize,
    config: Arc<Config>,
    registry: Arc<WorkerRegistry>,
    heard: Arc<Heard>,
    access_log: mpsc::Sender<Box<LogEntry>>,
    (mut commands, calls): (mpsc::Receiver<Command>, mpsc::Receiver<WaitingCall>),
) {
    let (signal, drain) = DrainSignal::new();
    let local = Local::new(&config, WorkerMetrics::new(registry), drain, heard, access_log);
    let worker = Worker::new(local, &config, inside::serve, external::ask);
    tokio::task::spawn_local(inbound::follow(worker.local.clone()));
    tokio::task::spawn_local(link::follow(worker.local.clone()));
    tokio::task::spawn_local(own_calls::serve(worker.clone(), calls));
    let mut listeners = Listeners::default();
    let mut ticks = tokio::time::interval(FORGET);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Until it has drained, and who waits for that.
    let mut finishing: Option<LocalBoxFuture<()>> = None;
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        let command = tokio::select! {
            biased;
            command = commands.recv() => command,
            () = OptionFuture::from(finishing.as_mut()).map(drop), if finishing.is_some() => break,
            _ = ticks.tick() => {
                let state = worker.local.view();
                worker.local.visits.forget(&state);
                worker.local.standings.forget(worker.local.since_start(Instant::now()));
                worker.local.metrics.forget(Instant::now(), &state);
                worker.local.summaries.renew(worker.local.since_start(Instant::now()));
                continue;
            }
        };
        let Some(command) = command else { return };
        match command {
            Command::Listen { done, .. } if finishing.is_some() => {
                let _ = done.send(Err(stopping()));
            }
            Command::Listen { purpose, address, sockets, done } => {
                let _ = done.send(listeners.open(&worker, purpose, address, sockets));
            }
            Command::Close { address, done } => {
                listeners.close(&worker, address).await;
                let _ = done.send(());
            }
            // From looking at the state to counting nothing is awaited, so no task is in between now.
            Command::Settle { done } => {
                let _ = done.send(());
            }
            Command::Visits { done } => {
                let _ = done.send(worker.local.visits.list());
            }
            Command::Sockets { done } => {
                let _ = done.send(listeners.duplicate());
            }
            Command::Drain { deadline, done } => {
                waiting.push(done);
                if finishing.is_none() {
                    let end = Instant::now() + deadline;
                    listeners.close_all().await;
                    signal.start();
                    finishing = Some(finish(worker.clone(), index, deadline, end).boxed_local());
                }
            }
        }
    }
    worker.local.metrics.registry().keep();
    // Whoever hears that it is done finds it to be.
    drop(commands);
    for done in waiting {
        let _ = done.send(());
    }
}

/// Waits for what is in flight, until the deadline.
async fn finish(worker: Rc<Worker>, index: usize, deadline: Duration, end: Instant) {
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
}

pub(crate) fn stopping() -> io::Error {
    io::Error::other("the proxy is stopping")
}

/// Where a worker accepts connections, by address.
#[derive(Default)]
struct Listeners(FastMap<SocketAddr, (Purpose, Vec<Accepting>)>);

/// A listener's task, and its socket.
struct Accepting {
    stop: CancellationToken,
    task: JoinHandle<()>,
    slot: Rc<Slot>,
}

impl Accepting {
    async fn end(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

impl Listeners {
    fn open(
        &mut self,
        worker: &Rc<Worker>,
        purpose: Purpose,
        address: SocketAddr,
        sockets: Vec<StdListener>,
    ) -> io::Result<()> {
        if self.0.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let slots = sockets.into_iter().map(|socket| Slot::new(socket).map(Rc::new));
        let start = |slot: Rc<Slot>| {
            let stop = CancellationToken::new();
            let accept = listener::accept(worker.clone(), slot.clone(), purpose.clone(), stop.clone());
            Accepting { stop, task: tokio::task::spawn_local(accept), slot }
        };
        let accepting = slots.collect::<io::Result<Vec<_>>>()?.into_iter().map(start).collect();
        worker.listening.borrow_mut().push(address);
        self.0.insert(address, (purpose, accepting));
        Ok(())
    }

    async fn close(&mut self, worker: &Worker, address: SocketAddr) {
        worker.listening.borrow_mut().retain(|own| *own != address);
        for each in self.0.remove(&address).into_iter().flat_map(|(_, accepting)| accepting) {
            each.end().await;
        }
    }

    async fn close_all(&mut self) {
        for each in self.0.drain().flat_map(|(_, (_, accepting))| accepting) {
            each.end().await;
        }
    }

    fn duplicate(&self) -> io::Result<Vec<Sockets>> {
        let of_one = |(address, (purpose, accepting)): (&SocketAddr, &(Purpose, Vec<Accepting>))| {
            let sockets = accepting.iter().filter_map(|each| each.slot.duplicate().transpose());
            Ok(Sockets::new(purpose.clone(), *address, sockets.collect::<io::Result<_>>()?))
        };
        self.0.iter().map(of_one).collect()
    }
}
