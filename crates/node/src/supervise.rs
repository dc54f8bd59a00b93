//! Runs a workload's process: starts it confined, starts it again when it dies, stops it with all
//! its children. When this process is killed, the processes that it has started get SIGTERM.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc as std_mpsc};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tulle_sys::family::{Family, Member};
use tulle_sys::process::{Confinement, confine};

use crate::backoff::Backoff;
use crate::ending;
use crate::workloads::MARK;

/// A longer line is cut into several.
const LONGEST_LINE: usize = 8 << 10;

/// A process that has run for so long was healthy: its next restart is quick again.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// How long the restarts of a process that keeps dying are apart, at first and at most.
const RESTART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long an event may wait for its reader. Lines of output don't wait at all.
const EVENT_DEADLINE: Duration = Duration::from_secs(1);

/// How long the output of a process that has ended may still come.
const OUTPUT_DEADLINE: Duration = Duration::from_millis(200);

/// What is run.
#[derive(Debug, Clone, Default)]
pub struct Process {
    pub program: OsString,
    pub arguments: Vec<OsString>,
    pub directory: Option<PathBuf>,
    /// Added to this process's own.
    pub environment: Vec<(String, String)>,
    pub confined: Confined,
    /// How long children that it leaves behind may take to end after their SIGTERM.
    pub grace: Duration,
    /// Whether it is started again when it ends by itself, whatever its status.
    pub restart: bool,
}

/// Where it runs.
#[derive(Debug, Clone, Default)]
pub struct Confined {
    pub cgroup: Option<PathBuf>,
    /// A folder with what it sees in place of the host's name service.
    pub name_service: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Output,
    Error,
}

/// What a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Started {
        pid: u32,
    },
    /// A line without its end; what is not UTF-8 is replaced.
    Line {
        stream: Stream,
        text: String,
    },
    /// Lines that nobody took in time.
    Dropped {
        lines: u64,
    },
    /// It has ended, or could not be started at all; `restart_in` says when it is tried again.
    Ended {
        why: End,
        restart_in: Option<Duration>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Status(ExitStatus),
    NotStarted(String),
}

/// A process under supervision. Dropping it kills the process.
pub struct Supervised {
    stop: Option<oneshot::Sender<Duration>>,
    /// Until it has ended.
    task: Option<AbortOnDropHandle<Option<ExitStatus>>>,
    status: Option<ExitStatus>,
}

impl Supervised {
    /// Sends SIGTERM to the process, its children and all below them, and SIGKILL at the deadline. Returns when they
    /// are gone, with the status of the process if it was running.
    pub async fn stop(mut self, deadline: Duration) -> Option<ExitStatus> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(deadline);
        }
        self.ended().await
    }

    /// Waits until it has ended and will not be started again.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        if let Some(task) = &mut self.task {
            self.status = task.await.ok().flatten();
            self.task = None;
        }
        self.status
    }
}

/// Runs a process. `running` says at every moment whether it runs.
pub fn supervise(process: Process, events: mpsc::Sender<Event>, running: watch::Sender<bool>) -> Supervised {
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(run(process, events, running, stopped));
    Supervised { stop: Some(stop), task: Some(AbortOnDropHandle::new(task)), status: None }
}

async fn run(
    process: Process,
    events: mpsc::Sender<Event>,
    running: watch::Sender<bool>,
    mut stopped: oneshot::Receiver<Duration>,
) -> Option<ExitStatus> {
    let mut backoff = Backoff::new(RESTART.0, RESTART.1);
    loop {
        let started = Instant::now();
        let (end, stop) = run_once(&process, &events, &running, &mut stopped).await;
        running.send_replace(false);
        if started.elapsed() >= HEALTHY_AFTER {
            backoff.reset();
        }
        let restart_in = (process.restart && !stop).then(|| backoff.delay(1.0));
        let status = match &end {
            End::Status(status) => Some(*status),
            End::NotStarted(_) => None,
        };
        tell(&events, Event::Ended { why: end, restart_in }).await;
        let Some(delay) = restart_in else { return status };
        // An owner that has gone without a word wants it to stop, too.
        if timeout(delay, &mut stopped).await.is_ok() {
            return None;
        }
    }
}

/// One life of the process; `true` where it was stopped on purpose.
async fn run_once(
    process: &Process,
    events: &mpsc::Sender<Event>,
    running: &watch::Sender<bool>,
    stopped: &mut oneshot::Receiver<Duration>,
) -> (End, bool) {
    let not_started = |e: io::Error| {
        let program = process.program.to_string_lossy();
        (End::NotStarted(format!("`{program}` cannot be started: {e}")), false)
    };
    let mut command = Command::new(&process.program);
    command.args(&process.arguments).envs(process.environment.iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(directory) = &process.directory {
        command.current_dir(directory);
    }
    let mut child = match spawn(command, process.confined.clone(), Signal::SIGTERM).await {
        Ok(child) => child,
        Err(e) => return not_started(e),
    };
    let pid = child.id().unwrap_or_default();
    let mark = process.environment.iter().find(|(name, _)| name == MARK);
    let family = Family {
        cgroup: process.confined.cgroup.clone(),
        mark: mark.map(|(name, value)| format!("{name}={value}")),
        root: Member::of(pid),
    };
    let mut guard = Guard(Some(family.clone()));
    running.send_replace(true);
    tell(events, Event::Started { pid }).await;
    let output = child.stdout.take().map(|o| tokio::spawn(lines(o, Stream::Output, events.clone())));
    let errors = child.stderr.take().map(|o| tokio::spawn(lines(o, Stream::Error, events.clone())));

    let (status, stop) = tokio::select! {
        status = child.wait() => {
            running.send_replace(false);
            // What is left of it would hold its ports.
            (status, end_rest(&family, process.grace, stopped).await)
        }
        deadline = &mut *stopped => {
            running.send_replace(false);
            // Without a word from its owner there is no time for a farewell.
            let ending = end(&family, deadline.unwrap_or_default());
            (tokio::join!(child.wait(), ending).0, true)
        }
    };
    guard.0 = None;
    for reader in [output, errors].into_iter().flatten() {
        let reader = AbortOnDropHandle::new(reader);
        let _ = timeout(OUTPUT_DEADLINE, reader).await;
    }
    match status {
        Ok(status) => (End::Status(status), stop),
        Err(e) => (End::NotStarted(e.to_string()), stop),
    }
}

/// Ends what a process has left that has ended by itself; `true` where its owner wants an end meanwhile.
async fn end_rest(family: &Family, grace: Duration, stopped: &mut oneshot::Receiver<Duration>) -> bool {
    tokio::select! {
        () = end(family, grace) => false,
        deadline = stopped => {
            end(family, deadline.unwrap_or_default()).await;
            true
        }
    }
}

async fn end(family: &Family, grace: Duration) {
    if let Err(e) = ending::end(family, grace).await {
        tracing::warn!("not all of a process's children have ended: {e}");
    }
}

/// A process with all its children. Whatever becomes of the task that holds it, they end with it.
struct Guard(Option<Family>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(family) = &self.0
            && let Err(e) = family.kill()
        {
            tracing::warn!("processes cannot be killed: {e}");
        }
    }
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    let _ = events.send_timeout(event, EVENT_DEADLINE).await;
}

/// Reads lines until the end of the stream. The process never waits for who reads the events.
async fn lines(stream: impl AsyncRead + Unpin, kind: Stream, events: mpsc::Sender<Event>) {
    let mut reader = BufReader::with_capacity(LONGEST_LINE, stream);
    let mut line = Vec::new();
    let mut dropped = 0;
    while let Ok(chunk) = reader.fill_buf().await {
        if chunk.is_empty() {
            break;
        }
        let room = LONGEST_LINE - line.len();
        let window = &chunk[..chunk.len().min(room)];
        let end = window.iter().position(|&b| b == b'\n');
        let taken = end.map_or(window.len(), |at| at + 1);
        line.extend_from_slice(&window[..end.unwrap_or(window.len())]);
        reader.consume(taken);
        if end.is_some() || line.len() >= LONGEST_LINE {
            send_line(&mut line, kind, &events, &mut dropped);
        }
    }
    if !line.is_empty() {
        send_line(&mut line, kind, &events, &mut dropped);
    }
    if dropped > 0 {
        tell(&events, Event::Dropped { lines: dropped }).await;
    }
}

fn send_line(line: &mut Vec<u8>, stream: Stream, events: &mpsc::Sender<Event>, dropped: &mut u64) {
    let text = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
    line.clear();
    if *dropped > 0 && events.try_send(Event::Dropped { lines: *dropped }).is_ok() {
        *dropped = 0;
    }
    if events.try_send(Event::Line { stream, text }).is_err() {
        *dropped += 1;
    }
}

struct Spawn {
    command: Command,
    confined: Confined,
    parent_death: Signal,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts a child, confined, in a process group of its own. It is killed when its handle is dropped,
/// and gets `parent_death` when this process ends.
pub(crate) async fn spawn(command: Command, confined: Confined, parent_death: Signal) -> io::Result<Child> {
    // The kernel ends a child with the thread that started it, so that thread has to live as long as
    // this process: a thread of a runtime may not.
    static SPAWNER: OnceLock<std_mpsc::Sender<Spawn>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = std_mpsc::channel::<Spawn>();
        let serve = move || {
            for Spawn { command, confined, parent_death, runtime, reply } in receiver {
                let _entered = runtime.enter();
                let _ = reply.send(spawn_here(command, &confined, parent_death));
            }
        };
        if let Err(e) = std::thread::Builder::new().name("tulle-spawner".to_owned()).spawn(serve) {
            tracing::error!("the thread that starts processes cannot be started: {e}");
        }
        sender
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (reply, answer) = oneshot::channel();
    let request = Spawn { command, confined, parent_death, runtime: Handle::current(), reply };
    spawner.send(request).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn spawn_here(mut command: Command, confined: &Confined, parent_death: Signal) -> io::Result<Child> {
    let confinement = Confinement {
        cgroup: confined.cgroup.as_deref(),
        name_service: confined.name_service.as_deref(),
        own_process_group: true,
        parent_death: Some(parent_death),
    };
    confine(&mut command, confinement)?;
    tokio::process::Command::from(command).kill_on_drop(true).spawn()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn shell(script: &str, restart: bool) -> Process {
        Process {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            restart,
            ..Default::default()
        }
    }

    struct Run {
        supervised: Supervised,
        events: mpsc::Receiver<Event>,
        running: watch::Receiver<bool>,
    }

    fn start(process: Process) -> Run {
        let (sender, events) = mpsc::channel(1024);
        let (running, receiver) = watch::channel(false);
        Run { supervised: supervise(process, sender, running), events, running: receiver }
    }

    impl Run {
        async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
            loop {
                let event = self.events.recv().await.expect("the event comes");
                if wanted(&event) {
                    return event;
                }
            }
        }

        async fn started(&mut self) -> u32 {
            match self.until(|e| matches!(e, Event::Started { .. })).await {
                Event::Started { pid } => pid,
                _ => unreachable!(),
            }
        }

        async fn line(&mut self) -> String {
            match self.until(|e| matches!(e, Event::Line { .. })).await {
                Event::Line { text, .. } => text,
                _ => unreachable!(),
            }
        }
    }

    fn is_alive(pid: u32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn a_killed_process_is_started_again() {
        let mut run = start(shell("sleep 60", true));
        let first = run.started().await;
        assert!(*run.running.borrow());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
        let end = run.until(|e| matches!(e, Event::Ended { .. })).await;
        let Event::Ended { why: End::Status(status), restart_in: Some(_) } = end else { panic!("{end:?}") };
        assert_eq!(status.signal(), Some(9));
        let second = run.started().await;
        assert_ne!(first, second);
        run.supervised.stop(Duration::from_secs(5)).await;
        assert!(!is_alive(second));
        assert!(!*run.running.borrow());
    }

    #[tokio::test]
    async fn stopping_takes_the_children_along() {
        let mut run = start(shell("sleep 60 & trap 'exit 7' TERM; echo $!; while :; do wait; done", true));
        let child: u32 = run.line().await.parse().unwrap();
        let status = run.supervised.stop(Duration::from_secs(5)).await.unwrap();
        assert_eq!(status.code(), Some(7));
        while is_alive(child) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_process_leaves_is_asked_to_go() {
        // It ends once its child is up.
        let child = "trap 'echo bye; exit' TERM; echo up; kill -USR1 $$; while :; do sleep 0.05; done";
        let mut process = shell(&format!("trap 'exit 3' USR1; sh -c \"{child}\" & wait"), false);
        process.grace = Duration::from_secs(20);
        let mut run = start(process);
        // The shell may have something to say, too.
        run.until(|e| matches!(e, Event::Line { text, .. } if text == "bye")).await;
        assert_eq!(run.supervised.ended().await.unwrap().code(), Some(3));
    }

    #[tokio::test]
    async fn who_does_not_go_is_killed_at_the_deadline() {
        let mut run = start(shell("trap '' TERM; echo up; while :; do sleep 1; done", true));
        run.line().await;
        let status = run.supervised.stop(Duration::from_millis(50)).await.unwrap();
        assert_eq!(status.signal(), Some(9));
    }

    #[tokio::test]
    async fn dropping_kills() {
        let mut run = start(shell("sleep 60 & echo $!; wait", true));
        let child: u32 = run.line().await.parse().unwrap();
        drop(run.supervised);
        while is_alive(child) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn output_comes_line_by_line_and_bounded() {
        let script = "printf 'a\\r\\n\\nb'; head -c 20000 /dev/zero | tr '\\0' x >&2";
        let mut run = start(shell(script, false));
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        while let Some(event) = run.events.recv().await {
            match event {
                Event::Line { stream: Stream::Output, text } => output.push(text),
                Event::Line { stream: Stream::Error, text } => errors.push(text.len()),
                _ => {}
            }
        }
        assert_eq!(output, ["a", "", "b"]);
        assert_eq!(errors, [8192, 8192, 3616]);
        assert_eq!(run.supervised.ended().await.unwrap().code(), Some(0));
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let process = Process { program: "/nonexistent/program".into(), ..Default::default() };
        let mut run = start(process);
        let event = run.until(|e| matches!(e, Event::Ended { .. })).await;
        let Event::Ended { why: End::NotStarted(why), restart_in: None } = event else { panic!("{event:?}") };
        assert!(why.contains("/nonexistent/program"), "{why}");
    }
}
