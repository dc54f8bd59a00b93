//! Whether a workload's process can take traffic.
//!
//! A process that has just started is asked often, so that it takes traffic as soon as it can; once
//! ready, it is asked every period, and is not ready after some failures in a row. A process that is
//! not running is not ready, whatever its probe says.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::process_state::{LastExit, NOT_RUNNING, ProcessState};
use crate::supervise::{self, Confined};
use crate::workloads::fill;
use tulle_sys::run_as::RunAs;

/// The first pause of a process that starts, which doubles up to the probe's period.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Processes that are well are asked several at once, in such steps: a node that sleeps between them sleeps more.
const STEP: Duration = Duration::from_millis(250);
static STEPS: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How long a server may take to end a connection that was only opened to see whether it can be.
const FAREWELL: Duration = Duration::from_millis(500);

/// How much of what a command says when it fails is kept.
const SAID: usize = 1024;

/// How long its last words may take after its end: what it has started may hold the pipe for ever.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// How a workload is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    pub check: Check,
    #[serde(default)]
    pub timing: Timing,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Check {
    /// Good when a GET is answered with a status from 200 to 399.
    Http { port: u16, path: String },
    /// Good when the port accepts a connection.
    Tcp { port: u16 },
    /// Good when the command ends with 0. It runs where the workload runs, with its environment; `${NAME}` in
    /// it is a variable of that.
    Exec {
        command: Vec<String>,
        /// Added to what the node gives to the workload's process.
        #[serde(default)]
        environment: Vec<(String, String)>,
        /// The node's own where none is given.
        #[serde(default)]
        directory: Option<PathBuf>,
    },
}

/// When it is asked, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timing {
    /// From one question to the next, once it was ready.
    pub period_ms: u64,
    /// How long an answer may take.
    pub timeout_ms: u64,
    /// How many failures in a row make a ready workload not ready.
    pub failures: u32,
    /// After how long a process that never was ready is said to be too slow.
    pub startup_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { period_ms: 2_000, timeout_ms: 1_000, failures: 3, startup_ms: 60_000 }
    }
}

/// Whether a workload can take traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// It still counts as ready, but its last probe has failed.
    Doubtful(Why),
    /// And why not.
    NotReady(Why),
}

impl Health {
    pub fn is_ready(&self) -> bool {
        !matches!(self, Self::NotReady(_))
    }
}

/// Why a workload is not ready, or may soon not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// The same for as long as the reason is the same: everybody is told of a change.
    pub what: String,
    /// What the probe's command said, which may be something else each time: only who asks is told.
    pub said: String,
}

impl From<&str> for Why {
    fn from(what: &str) -> Self {
        Self { what: what.to_owned(), said: String::new() }
    }
}

impl Why {
    fn after(context: &str, failure: &Failure) -> Self {
        Self { what: format!("{context}: {}", failure.what), said: failure.said.clone() }
    }

    /// All of it.
    pub fn full(&self) -> String {
        if self.said.is_empty() { self.what.clone() } else { format!("{}: {}", self.what, self.said) }
    }
}

/// What was wrong with one answer.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    what: String,
    /// See [`Why::said`].
    said: String,
}

impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self { what, said: String::new() }
    }
}

/// Where the workload is.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: IpAddr,
    /// Where its commands run.
    pub cgroup: Option<PathBuf>,
    pub name_service: Option<PathBuf>,
    pub run_as: Option<RunAs>,
    pub environment: Vec<(String, String)>,
}

/// Keeps `health` true to what the probe says for as long as the process runs, as `process` says.
/// Without a probe, a process that runs is ready.
pub async fn watch(
    probe: Option<Probe>,
    target: Target,
    mut process: watch::Receiver<ProcessState>,
    health: watch::Sender<Health>,
) {
    loop {
        set(&health, Health::NotReady(NOT_RUNNING.into()));
        if process.wait_for(|process| process.runs).await.is_err() {
            return;
        }
        let asking = async {
            match &probe {
                Some(probe) => ask_for_ever(probe, &target, &health).await,
                None => {
                    set(&health, Health::Ready);
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            () = asking => {}
            stopped = process.wait_for(|process| !process.runs) => {
                if stopped.is_err() {
                    return;
                }
            }
        }
    }
}

/// Waits until a process that runs is to be given up: as many answers in a row were bad as the probe says, once there was a good one or
/// the time is over that it may take to start. Returns what was wrong at last.
pub async fn until_dead(probe: &Probe, target: &Target) -> Why {
    let Timing { period_ms, timeout_ms, failures: most_failures, startup_ms } = probe.timing;
    let started = Instant::now();
    let (mut failures, mut was_good) = (0, false);
    loop {
        sleep(Duration::from_millis(period_ms.max(10))).await;
        match ask_within(Duration::from_millis(timeout_ms.max(1)), &probe.check, target).await {
            Ok(()) => (failures, was_good) = (0, true),
            Err(failure) => {
                failures += 1;
                let counts = was_good || started.elapsed() > Duration::from_millis(startup_ms);
                if counts && failures >= most_failures {
                    let context = format!("its liveness probe fails ({failures} in a row)");
                    return Why::after(&context, &failure);
                }
            }
        }
    }
}

async fn ask_within(deadline: Duration, check: &Check, target: &Target) -> Result<(), Failure> {
    let answered = timeout(deadline, ask(check, target)).await;
    answered.unwrap_or_else(|_| Err(format!("no answer within {} ms", deadline.as_millis()).into()))
}

async fn ask_for_ever(probe: &Probe, target: &Target, health: &watch::Sender<Health>) {
    let Timing { period_ms, timeout_ms, failures: most_failures, startup_ms } = probe.timing;
    let period = Duration::from_millis(period_ms.max(10));
    let deadline = Duration::from_millis(timeout_ms.max(1));
    set(health, Health::NotReady("it is starting".into()));
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut failures = 0;
    let mut was_ready = false;
    loop {
        match ask_within(deadline, &probe.check, target).await {
            Ok(()) => {
                set(health, Health::Ready);
                was_ready = true;
                failures = 0;
                pause = period;
            }
            Err(failure) => {
                failures += 1;
                let ready = health.borrow().is_ready();
                let not_ready = |context| Health::NotReady(Why::after(context, &failure));
                set(
                    health,
                    if ready && failures < most_failures {
                        let context = format!("its probe fails ({failures} of {most_failures})");
                        Health::Doubtful(Why::after(&context, &failure))
                    } else if was_ready {
                        not_ready("its probe fails")
                    } else if started.elapsed() > Duration::from_millis(startup_ms) {
                        not_ready("it takes long to start")
                    } else {
                        not_ready("it is starting")
                    },
                );
                // One that is ready and fails once, or has become unready, is asked every period.
                pause = if failures >= most_failures || !ready { (pause * 2).min(period) } else { period };
            }
        }
        sleep(if pause == period { in_step(pause, STEPS.elapsed()) } else { pause }).await;
    }
}

/// A pause that ends in step with those of other probes, where it is long enough not to be another one by that.
fn in_step(pause: Duration, now: Duration) -> Duration {
    if pause < STEP * 4 {
        return pause;
    }
    let (end, step) = ((now + pause).as_millis(), STEP.as_millis());
    let steps = u64::try_from((end + step / 2) / step * step).unwrap_or(u64::MAX);
    Duration::from_millis(steps).saturating_sub(now)
}

fn set(health: &watch::Sender<Health>, new: Health) {
    health.send_if_modified(|now| {
        *now != new && {
            *now = new;
            true
        }
    });
}

async fn ask(check: &Check, target: &Target) -> Result<(), Failure> {
    match check {
        Check::Tcp { port } => Ok(connect(target.address, *port).await.map(leave)?),
        Check::Http { port, path } => Ok(get(target.address, *port, path).await?),
        Check::Exec { command, environment, directory } => {
            run(command, environment, directory.as_deref(), target).await
        }
    }
}

async fn connect(address: IpAddr, port: u16) -> Result<TcpStream, String> {
    let address = SocketAddr::new(address, port);
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|e| e.to_string())?;
    // It asks the process, not whoever lets others in. Who may not say so has no rules that would look for it.
    let _ = tulle_sys::mark_to_process(&socket);
    socket.connect(address).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => format!("nothing listens at {address}"),
        _ => format!("{address}: {e}"),
    })
}

/// Ends a connection politely: a server that speaks first would otherwise log a reset, as its words
/// were never read.
fn leave(mut stream: TcpStream) {
    let farewell = async move {
        stream.shutdown().await?;
        let mut words = [0; 512];
        while stream.read(&mut words).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    tokio::spawn(timeout(FAREWELL, farewell));
}

async fn get(address: IpAddr, port: u16, path: &str) -> Result<(), String> {
    let stream = connect(address, port).await?;
    let host = SocketAddr::new(address, port).to_string();
    let failed = |e: hyper::Error| format!("GET {host}{path}: {e}");
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = http::Request::get(path)
        .header(http::header::HOST, &host)
        .header(http::header::USER_AGENT, "tulle-probe")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("GET {host}{path}: {e}"))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = client.send_request(request).await.map_err(failed)?;
    match response.status().as_u16() {
        200..400 => Ok(()),
        status => Err(format!("GET {host}{path} is answered with {status}")),
    }
}

async fn run(
    command: &[String],
    environment: &[(String, String)],
    directory: Option<&Path>,
    target: &Target,
) -> Result<(), Failure> {
    // `${$}` is a `$` that begins no name.
    let dollar = ("$".to_owned(), "$".to_owned());
    let of_mesh: Vec<_> = target.environment.iter().cloned().chain([dollar.clone()]).collect();
    let own = environment.iter().map(|(name, value)| (name.clone(), fill(value, &of_mesh)));
    let of_user = target.run_as.iter().flat_map(RunAs::variables);
    let variables: Vec<_> = of_user.chain(target.environment.iter().cloned()).chain(own).collect();
    let known: Vec<_> = variables.iter().cloned().chain([dollar]).collect();
    let mut words = command.iter().map(|word| fill(word, &known));
    let Some(program) = words.next() else { return Err("its command is empty".to_owned().into()) };
    let mut process = Command::new(&program);
    process.args(words).envs(variables.iter().map(|(k, v)| (k, v)));
    if let Some(directory) = directory {
        process.current_dir(directory);
    }
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let confined = Confined {
        cgroup: target.cgroup.clone(),
        name_service: target.name_service.clone(),
        run_as: target.run_as.clone(),
    };
    // Dropped at the deadline, the child is killed.
    let spawned = supervise::spawn(process, confined, Signal::SIGKILL).await;
    let mut child = spawned.map_err(|e| format!("{program}: {e}"))?;
    let words = child.stderr.take().map(|stderr| AbortOnDropHandle::new(tokio::spawn(first_words(stderr))));
    let status = child.wait().await.map_err(|e| format!("{program}: {e}"))?;
    if status.success() {
        return Ok(());
    }
    let said = match words {
        Some(words) => timeout(LAST_WORDS, words).await.ok().and_then(Result::ok).unwrap_or_default(),
        None => String::new(),
    };
    Err(Failure { what: format!("`{program}` {}", LastExit::of(status)), said })
}

/// What a command says, in one line, to its end: one that nobody listens to would be ended by that.
async fn first_words(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..read.min(SAID - said.len())]);
    }
    let said = String::from_utf8_lossy(&said);
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn long_pauses_end_in_step_and_keep_their_length() {
        let [short, period] = [990, 2_000].map(Duration::from_millis);
        assert_eq!(in_step(short, Duration::from_micros(1_300_100)), short);
        for (now, expected) in
            [(0, 2_000_000), (100_000, 1_900_000), (130_000, 2_120_000), (250_300, 1_999_700)]
        {
            let pause = in_step(period, Duration::from_micros(now));
            assert_eq!(pause, Duration::from_micros(expected), "{now}");
            assert_eq!((u128::from(now) + pause.as_micros()) % STEP.as_micros(), 0);
        }
    }

    fn target() -> Target {
        Target {
            address: Ipv4Addr::LOCALHOST.into(),
            cgroup: None,
            name_service: None,
            run_as: None,
            environment: vec![("ANSWER".into(), "42".into())],
        }
    }

    #[tokio::test]
    async fn follows_the_process_and_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let timing = Timing { period_ms: 20, failures: 1, ..Default::default() };
        let probe = Probe { check: Check::Tcp { port }, timing };
        let (process, receiver) = watch::channel(ProcessState::default());
        let (health, mut seen) = watch::channel(Health::Ready);
        tokio::spawn(watch(Some(probe), target(), receiver, health));
        seen.wait_for(|h| not_ready(h, "not running")).await.unwrap();
        process.send_modify(|process| process.set(true));
        // The first failure says why.
        let starting = format!("it is starting: nothing listens at 127.0.0.1:{port}");
        seen.wait_for(|h| not_ready(h, &starting)).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        seen.wait_for(|h| *h == Health::Ready).await.unwrap();
        drop(listener);
        seen.wait_for(|h| not_ready(h, "its probe fails: nothing listens")).await.unwrap();
        process.send_modify(|process| process.set(false));
        seen.wait_for(|h| not_ready(h, "not running")).await.unwrap();
    }

    fn not_ready(health: &Health, why: &str) -> bool {
        matches!(health, Health::NotReady(found) if found.what.contains(why))
    }

    #[tokio::test]
    async fn a_failure_is_told_before_it_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let timing = Timing { period_ms: 10, failures: 3, startup_ms: 0, ..Default::default() };
        let probe = Probe { check: Check::Tcp { port }, timing };
        let (process, receiver) = watch::channel(ProcessState::default());
        let (health, mut seen) = watch::channel(Health::NotReady("new".into()));
        tokio::spawn(watch(Some(probe), target(), receiver, health));
        process.send_modify(|process| process.set(true));
        seen.wait_for(|h| *h == Health::Ready).await.unwrap();
        drop(listener);
        let doubtful = seen.wait_for(|h| matches!(h, Health::Doubtful(_))).await.unwrap().clone();
        assert!(doubtful.is_ready());
        // Once it was ready, it does not take long to start.
        seen.wait_for(|h| not_ready(h, "its probe fails: ")).await.unwrap();
    }

    #[tokio::test]
    async fn a_process_is_given_up_once_it_was_good_or_had_its_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe = |startup_ms| Probe {
            check: Check::Tcp { port },
            timing: Timing { period_ms: 10, failures: 3, startup_ms, ..Default::default() },
        };
        let (good, target) = (probe(60_000), target());
        let mut dead = std::pin::pin!(until_dead(&good, &target));
        tokio::select! {
            _ = &mut dead => panic!("it was good all the time"),
            () = async { for _ in 0..5 { listener.accept().await.unwrap(); } } => {}
        }
        drop(listener);
        let why = dead.await;
        assert!(why.what.starts_with("its liveness probe fails (3 in a row): nothing listens"), "{why:?}");
        // One that was never good is given its time, and no more.
        let never = timeout(Duration::from_millis(200), until_dead(&probe(60_000), &target)).await;
        assert!(never.is_err());
        assert!(until_dead(&probe(50), &target).await.what.contains("in a row"));
    }

    #[tokio::test]
    async fn without_a_probe_running_is_ready() {
        let (process, receiver) = watch::channel(ProcessState::default());
        let (health, mut seen) = watch::channel(Health::Ready);
        let task = tokio::spawn(watch(None, target(), receiver, health));
        seen.wait_for(|h| *h != Health::Ready).await.unwrap();
        process.send_modify(|process| process.set(true));
        seen.wait_for(|h| *h == Health::Ready).await.unwrap();
        drop(process);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn http_statuses_decide() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for status in ["204 No Content", "503 Service Unavailable"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let length = stream.read(&mut buffer).await.unwrap();
                assert!(buffer[..length].starts_with(b"GET /healthz HTTP/1.1\r\n"));
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let check = Check::Http { port, path: "/healthz".into() };
        assert_eq!(ask(&check, &target()).await, Ok(()));
        assert!(ask(&check, &target()).await.unwrap_err().what.contains("503"));
        assert!(ask(&check, &target()).await.is_err());
    }

    #[tokio::test]
    async fn commands_run_as_the_workload_does() {
        let exec = |command: &[&str]| Check::Exec {
            command: command.iter().map(|word| word.to_string()).collect(),
            environment: vec![("PORT".into(), "8080".into())],
            directory: Some("/tmp".into()),
        };
        let sh = |script: &str| exec(&["sh", "-c", script]);
        let good = sh("test $ANSWER = 42 && test ${PORT} = 8080 && test $PORT = 8080 && test $PWD = /tmp");
        assert_eq!(ask(&good, &target()).await, Ok(()));
        assert_eq!(
            ask(&exec(&["test", "${PORT}-${ANSWER}-${X}", "=", "8080-42-${X}"]), &target()).await,
            Ok(())
        );
        let failure = ask(&sh("echo not yet >&2; echo '  really' >&2; exit 3"), &target()).await.unwrap_err();
        assert_eq!(failure, Failure { what: "`sh` ended with code 3".into(), said: "not yet really".into() });
        // A child that holds the pipe, and one that says much, hold nobody up.
        let held = ask(&sh("sleep 5 & echo held >&2; exit 1"), &target()).await.unwrap_err();
        assert_eq!(held.what, "`sh` ended with code 1");
        let much = sh("head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1");
        assert_eq!(ask(&much, &target()).await.unwrap_err().said.len(), SAID);
        assert!(ask(&exec(&["/nonexistent"]), &target()).await.unwrap_err().what.contains("/nonexistent"));
    }
}
