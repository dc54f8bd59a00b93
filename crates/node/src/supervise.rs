//! Runs a workload's process: starts it confined, starts it again when it dies, stops it with all
//! its children. When this process is killed, the processes that it has started get SIGTERM.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc as std_mpsc};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tulle_sys::cgroup_limits;
use tulle_sys::family::{Family, Member};
use tulle_sys::process::{Confinement, confine};
use tulle_sys::run_as::RunAs;

use crate::backoff::Backoff;
use crate::ending;
use crate::process_state::{LastExit, ProcessState};
use crate::workloads::MARK;

/// The variable that says where the service manager that started a process listens (sd_notify(3)). What is said there is said of
/// that process: none that it starts is to have it.
pub const SERVICE_MANAGER: &str = "NOTIFY_SOCKET";

/// A longer line is cut into several.
const LONGEST_LINE: usize = 256 << 10;

/// How much is read at a time.
const READ: usize = 8 << 10;

/// A process that has run for so long was healthy: its next restart is quick again.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// How long the restarts of a process that keeps dying are apart, at first and at most.
const RESTART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long nothing may come from a pipe of a process that has ended: somebody else may hold it open for ever.
const OUTPUT_DEADLINE: Duration = Duration::from_millis(200);

/// What a pipe can hold of a process that has ended (pipe(7): `/proc/sys/fs/pipe-max-size`). What comes after that is
/// somebody else's.
const LEFT_IN_PIPE: usize = 1 << 20;

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
    /// What it is asked to stop by. `None`: SIGTERM.
    pub stop_signal: Option<Signal>,
    pub restart: Restart,
}

/// Whether a process is started again that has ended by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restart {
    #[default]
    Never,
    /// Where its status is another than 0, or it could not be started.
    OnFailure,
    /// Whatever its status is.
    Always,
}

impl Restart {
    fn follows(self, exit: &LastExit) -> bool {
        match self {
            Self::Never => false,
            Self::OnFailure => exit.exit_code != Some(0),
            Self::Always => true,
        }
    }
}

/// Where it runs.
#[derive(Debug, Clone, Default)]
pub struct Confined {
    pub cgroup: Option<PathBuf>,
    /// A folder with what it sees in place of the host's name service.
    pub name_service: Option<PathBuf>,
    /// `None`: as this process.
    pub run_as: Option<RunAs>,
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
    /// A line without its end, [`LONGEST_LINE`] at most; what is not UTF-8 is replaced.
    Line {
        stream: Stream,
        text: String,
    },
    /// It has ended, or could not be started at all; `restart_in` says when it is tried again. All of its lines
    /// came before.
    Ended {
        exit: LastExit,
        restart_in: Option<Duration>,
    },
}

/// A process under supervision. Dropping it kills the process.
pub struct Supervised {
    stop: Option<oneshot::Sender<Duration>>,
    replaced: watch::Sender<Option<Member>>,
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

    /// A process that is named there is ended, and another one started, unless it is never to start again. One that has ended by
    /// itself meanwhile is nobody any more.
    pub fn replaced(&self) -> watch::Sender<Option<Member>> {
        self.replaced.clone()
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

/// Runs a process, of which `state` tells at every moment. Who does not take the events holds up what the process
/// writes, as a pipe does that is not read, and its restart.
pub fn supervise(
    process: Process,
    events: mpsc::Sender<Event>,
    state: watch::Sender<ProcessState>,
) -> Supervised {
    let (stop, stopped) = oneshot::channel();
    let (replaced, replace) = watch::channel(None);
    let task = tokio::spawn(run(process, events, state, stopped, replace));
    Supervised { stop: Some(stop), replaced, task: Some(AbortOnDropHandle::new(task)), status: None }
}

async fn run(
    process: Process,
    events: mpsc::Sender<Event>,
    state: watch::Sender<ProcessState>,
    mut stopped: oneshot::Receiver<Duration>,
    mut replace: watch::Receiver<Option<Member>>,
) -> Option<ExitStatus> {
    let mut backoff = Backoff::new(RESTART.0, RESTART.1);
    loop {
        let started = Instant::now();
        let (status, wish) = run_once(&process, &events, &state, &mut stopped, &mut replace).await;
        if started.elapsed() >= HEALTHY_AFTER {
            backoff.reset();
        }
        let (status, exit) = match status {
            Ok((status, exit)) => (Some(status), exit),
            Err(exit) => (None, exit),
        };
        let restarts = match wish {
            Wish::None => process.restart.follows(&exit),
            Wish::Again => process.restart != Restart::Never,
            Wish::Stop => false,
        };
        let restart_in = restarts.then(|| backoff.delay(1.0));
        state.send_modify(|state| {
            state.ended(exit.clone());
            if let Some(delay) = restart_in {
                state.waits(delay);
            }
        });
        let told = events.send(Event::Ended { exit, restart_in });
        let Some(delay) = restart_in else {
            let _ = told.await;
            return status;
        };
        let next = async {
            let (_, ()) = tokio::join!(told, tokio::time::sleep(delay));
        };
        tokio::select! {
            () = next => state.send_modify(ProcessState::starts_again),
            // An owner that has gone without a word wants it to stop, too.
            _ = &mut stopped => return None,
        }
    }
}

/// What its owner wanted when a process ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Nothing: it ended by itself.
    None,
    /// That it ends.
    Stop,
    /// That another one takes its place.
    Again,
}

/// One life of the process.
async fn run_once(
    process: &Process,
    events: &mpsc::Sender<Event>,
    state: &watch::Sender<ProcessState>,
    stopped: &mut oneshot::Receiver<Duration>,
    replace: &mut watch::Receiver<Option<Member>>,
) -> (Result<(ExitStatus, LastExit), LastExit>, Wish) {
    let not_started = |e: io::Error| (Err(LastExit::not_started(why_not_started(process, &e))), Wish::None);
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
    let kills = || process.confined.cgroup.as_deref().and_then(cgroup_limits::out_of_memory).unwrap_or(0);
    let kills_before = kills();
    state.send_modify(|state| {
        state.set(true);
        state.process = family.root;
    });
    // Its output is read to the end whatever becomes of this future.
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let output =
        tokio::spawn(tell(pid, child.stdout.take(), child.stderr.take(), events.clone(), ended.clone()));

    // Its end is known at once, whatever else there is to end.
    let end_of = |status: io::Result<ExitStatus>| {
        let mut exit = match &status {
            Ok(status) => LastExit::of(*status),
            Err(e) => LastExit::not_started(e.to_string()),
        };
        if exit.signal == Some(Signal::SIGKILL as i32) && kills() > kills_before {
            exit.reason = no_memory(process.confined.cgroup.as_deref());
        }
        state.send_modify(|state| state.ended(exit.clone()));
        match status {
            Ok(status) => Ok((status, exit)),
            Err(_) => Err(exit),
        }
    };
    let (status, wish) = tokio::select! {
        status = child.wait() => {
            let status = end_of(status);
            // What is left of it would hold its ports.
            let is_stopped = end_rest(process, &family, stopped).await;
            (status, if is_stopped { Wish::Stop } else { Wish::None })
        }
        () = is_named(replace, family.root) => {
            state.send_modify(|state| state.set(false));
            let (status, is_stopped) = tokio::join!(child.wait(), end_rest(process, &family, stopped));
            (end_of(status), if is_stopped { Wish::Stop } else { Wish::Again })
        }
        deadline = &mut *stopped => {
            state.send_modify(|state| state.set(false));
            // Without a word from its owner there is no time for a farewell.
            let ending = end(process, &family, deadline.unwrap_or_default());
            (end_of(tokio::join!(child.wait(), ending).0), Wish::Stop)
        }
    };
    guard.0 = None;
    ended.cancel();
    let _ = output.await;
    (status, wish)
}

/// Waits until that process is to be replaced.
async fn is_named(replace: &mut watch::Receiver<Option<Member>>, member: Option<Member>) {
    if replace.wait_for(|named| named.is_some() && *named == member).await.is_err() {
        std::future::pending().await
    }
}

/// Why the kernel has ended a process that had no memory left.
fn no_memory(cgroup: Option<&Path>) -> String {
    match cgroup.and_then(cgroup_limits::memory_in_words) {
        Some(limit) => format!("it reached its limit of memory, {limit}"),
        None => "memory had run out".to_owned(),
    }
}

/// Why a process does not start, as its user would say it.
fn why_not_started(process: &Process, error: &io::Error) -> String {
    let program = process.program.to_string_lossy();
    if let Some(folder) = process.directory.as_deref().filter(|folder| !folder.is_dir()) {
        return format!("`{program}` cannot be started: there is no folder {}", folder.display());
    }
    match error.kind() {
        io::ErrorKind::NotFound if program.contains('/') => {
            format!("`{program}` cannot be started: there is no such file, or its interpreter is missing")
        }
        io::ErrorKind::NotFound => format!("`{program}` cannot be started: it is not in PATH"),
        _ => format!("`{program}` cannot be started: {error}"),
    }
}

/// Ends what a process has left that has ended by itself; `true` where its owner wants an end meanwhile.
async fn end_rest(process: &Process, family: &Family, stopped: &mut oneshot::Receiver<Duration>) -> bool {
    tokio::select! {
        () = end(process, family, process.grace) => false,
        deadline = stopped => {
            end(process, family, deadline.unwrap_or_default()).await;
            true
        }
    }
}

async fn end(process: &Process, family: &Family, grace: Duration) {
    let signal = process.stop_signal.unwrap_or(Signal::SIGTERM);
    if let Err(e) = ending::end_by(family, signal, grace).await {
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

/// Tells of a process that has started, and what it says.
async fn tell(
    pid: u32,
    output: Option<impl AsyncRead + Unpin>,
    errors: Option<impl AsyncRead + Unpin>,
    events: mpsc::Sender<Event>,
    ended: CancellationToken,
) {
    let _ = events.send(Event::Started { pid }).await;
    tokio::join!(
        lines(output, Stream::Output, &events, &ended),
        lines(errors, Stream::Error, &events, &ended),
    );
}

/// Reads lines until the end of the stream, the last one without its end, too. Once the process has ended, it reads
/// what is left in the pipe.
async fn lines(
    stream: Option<impl AsyncRead + Unpin>,
    kind: Stream,
    events: &mpsc::Sender<Event>,
    ended: &CancellationToken,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; READ];
    let mut line = Vec::new();
    let mut left = LEFT_IN_PIPE;
    while left > 0 {
        let read = tokio::select! {
            biased;
            read = stream.read(&mut buffer) => read,
            () = silence_after(ended) => break,
        };
        let Ok(read @ 1..) = read else { break };
        if ended.is_cancelled() {
            left = left.saturating_sub(read);
        }
        for part in buffer[..read].split_inclusive(|&b| b == b'\n') {
            line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                line.pop();
                send_line(std::mem::take(&mut line), kind, events).await;
            }
            while line.len() >= LONGEST_LINE {
                let rest = line.split_off(whole_characters(&line[..LONGEST_LINE]));
                send_line(std::mem::replace(&mut line, rest), kind, events).await;
            }
        }
    }
    if !line.is_empty() {
        send_line(line, kind, events).await;
    }
}

/// Returns when nothing has come for a while since the process ended.
async fn silence_after(ended: &CancellationToken) {
    ended.cancelled().await;
    tokio::time::sleep(OUTPUT_DEADLINE).await;
}

/// How much of a text can be cut off without cutting a character of UTF-8 in two.
fn whole_characters(text: &[u8]) -> usize {
    let last = text.iter().rev().take(4).position(|&b| b & 0xc0 != 0x80).unwrap_or(0);
    let start = text.len() - 1 - last;
    match std::str::from_utf8(&text[start..]) {
        Err(e) if e.error_len().is_none() && start > 0 => start,
        _ => text.len(),
    }
}

/// Tells of a line. One that is no text becomes up to three times as long by what is put in its place, and is cut sooner.
async fn send_line(line: Vec<u8>, stream: Stream, events: &mpsc::Sender<Event>) {
    const LONGEST_OF_BYTES: usize = LONGEST_LINE / "\u{fffd}".len();
    let text = match String::from_utf8(line) {
        Ok(mut text) => {
            text.truncate(text.trim_end_matches('\r').len());
            text
        }
        Err(line) => {
            let mut bytes = line.as_bytes();
            while bytes.len() > LONGEST_OF_BYTES {
                let part;
                (part, bytes) = bytes.split_at(whole_characters(&bytes[..LONGEST_OF_BYTES]));
                let text = String::from_utf8_lossy(part).into_owned();
                let _ = events.send(Event::Line { stream, text }).await;
            }
            String::from_utf8_lossy(bytes).trim_end_matches('\r').to_owned()
        }
    };
    let _ = events.send(Event::Line { stream, text }).await;
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
    command.env_remove(SERVICE_MANAGER);
    let confinement = Confinement {
        cgroup: confined.cgroup.as_deref(),
        name_service: confined.name_service.as_deref(),
        own_process_group: true,
        run_as: confined.run_as.as_ref(),
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
        let restart = if restart { Restart::Always } else { Restart::Never };
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
        state: watch::Receiver<ProcessState>,
    }

    fn start(process: Process) -> Run {
        let (sender, events) = mpsc::channel(1024);
        let (state, receiver) = watch::channel(ProcessState::default());
        Run { supervised: supervise(process, sender, state), events, state: receiver }
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
    async fn a_child_does_not_speak_to_the_service_manager_in_our_name() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo ${NOTIFY_SOCKET-none}"])
            .env(SERVICE_MANAGER, "/run/notify")
            .stdout(Stdio::piped());
        let child = spawn(command, Confined::default(), Signal::SIGTERM).await.unwrap();
        let said = child.wait_with_output().await.unwrap().stdout;
        assert_eq!(String::from_utf8(said).unwrap(), "none\n");
    }

    #[tokio::test]
    async fn a_killed_process_is_started_again() {
        let mut run = start(shell("sleep 60", true));
        let first = run.started().await;
        assert!(run.state.borrow().runs);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
        let end = run.until(|e| matches!(e, Event::Ended { .. })).await;
        let Event::Ended { exit, restart_in: Some(_) } = end else { panic!("{end:?}") };
        assert_eq!(exit.signal, Some(9));
        let waiting = run.state.borrow().clone();
        assert_eq!((waiting.restarts, waiting.last_exit), (0, Some(exit)));
        let second = run.started().await;
        assert_ne!(first, second);
        assert_eq!(run.state.borrow().restarts, 1);
        run.supervised.stop(Duration::from_secs(5)).await;
        assert!(!is_alive(second));
        assert!(!run.state.borrow().runs);
    }

    #[tokio::test]
    async fn a_process_is_replaced_that_ends_well_when_it_is_asked_to() {
        let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
        let mut process = shell(script, true);
        (process.restart, process.grace) = (Restart::OnFailure, Duration::from_secs(5));
        let mut run = start(process);
        let first = run.started().await;
        assert_eq!(run.line().await, "up");
        run.supervised.replaced().send_replace(run.state.borrow().process);
        let end = run.until(|e| matches!(e, Event::Ended { .. })).await;
        let Event::Ended { exit, restart_in: Some(_) } = end else { panic!("{end:?}") };
        assert_eq!(exit.exit_code, Some(0));
        assert_ne!(run.started().await, first);
        run.supervised.stop(Duration::from_secs(5)).await;
        // A job is not.
        let mut run = start(shell(script, false));
        assert_eq!(run.line().await, "up");
        run.supervised.replaced().send_replace(run.state.borrow().process);
        let end = run.until(|e| matches!(e, Event::Ended { .. })).await;
        assert!(matches!(end, Event::Ended { restart_in: None, .. }), "{end:?}");
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
        let script = "printf 'a\\r\\n\\nb'; head -c 300000 /dev/zero | tr '\\0' x >&2";
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
        assert_eq!(errors, [LONGEST_LINE, 300_000 - LONGEST_LINE]);
        assert_eq!(run.supervised.ended().await.unwrap().code(), Some(0));
    }

    #[tokio::test]
    async fn what_is_no_text_is_bounded_as_text_is() {
        let script = "head -c 300000 /dev/zero | tr '\\0' '\\377'; printf '\\r\\n\\377\\r\\n'";
        let mut run = start(shell(script, false));
        let mut texts = Vec::new();
        while let Some(event) = run.events.recv().await {
            if let Event::Line { text, .. } = event {
                texts.push(text);
            }
        }
        assert!(texts.iter().all(|text| text.len() <= LONGEST_LINE));
        assert_eq!(texts.concat(), "\u{fffd}".repeat(300_001));
    }

    #[test]
    fn no_character_is_cut_in_two() {
        assert_eq!(whole_characters("aä".as_bytes()), 3);
        assert_eq!(whole_characters(&"aä".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(&"a€".as_bytes()[..3]), 1);
        assert_eq!(whole_characters(&"a😀".as_bytes()[..4]), 1);
        assert_eq!(whole_characters(b"a\xff"), 2, "what is no UTF-8 is cut anywhere");
        assert_eq!(whole_characters(b"\x80\x80\x80\x80\x80"), 5);
    }

    #[tokio::test]
    async fn a_slow_reader_loses_nothing() {
        // More than pipe and queue can hold, and the end comes at once.
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; printf last";
        let (sender, mut events) = mpsc::channel(1);
        let (state, _) = watch::channel(ProcessState::default());
        let _supervised = supervise(shell(script, false), sender, state.clone());
        // It is held up, as it would be by a terminal.
        tokio::time::sleep(OUTPUT_DEADLINE * 2).await;
        let mut output = Vec::new();
        while let Some(event) = events.recv().await {
            match event {
                Event::Line { text, .. } => output.push(text),
                Event::Ended { .. } => assert_eq!(output.last().map(String::as_str), Some("last")),
                Event::Started { .. } => assert!(output.is_empty()),
            }
        }
        assert_eq!(output.len(), 20_001);
        assert!(output.iter().take(20_000).enumerate().all(|(i, line)| *line == format!("line {i}")));
    }

    #[tokio::test]
    async fn who_holds_the_pipe_of_a_process_that_has_ended_holds_nobody_up() {
        // The supervisor knows it neither by its group nor by its parent.
        let script = "setsid sh -c 'sleep 3' & sleep 0.1; printf last";
        let mut run = start(shell(script, false));
        let started = Instant::now();
        assert_eq!(run.line().await, "last");
        run.until(|e| matches!(e, Event::Ended { .. })).await;
        assert!(started.elapsed() < Duration::from_secs(3), "it does not wait for the other's end");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let process = Process { program: "/nonexistent/program".into(), ..Default::default() };
        let mut run = start(process);
        let event = run.until(|e| matches!(e, Event::Ended { .. })).await;
        let Event::Ended { exit, restart_in: None } = event else { panic!("{event:?}") };
        assert!(exit.message.contains("/nonexistent/program"), "{exit}");
        assert_eq!(run.state.borrow().last_exit, Some(exit));
    }
}
