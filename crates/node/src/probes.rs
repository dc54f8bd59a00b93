//! Whether a workload's process can take traffic.
//!
//! A process that has just started is asked often, so that it takes traffic as soon as it can; once
//! ready, it is asked every period, and is not ready after some failures in a row. A process that is
//! not running is not ready, whatever its probe says.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::supervise::{self, Confined};

/// The first pause of a process that starts, which doubles up to the probe's period.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// How long a server may take to end a connection that was only opened to see whether it can be.
const FAREWELL: Duration = Duration::from_millis(500);

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
    /// Good when the command ends with 0. It runs where the workload runs.
    Exec { command: Vec<String> },
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

/// Why a workload is not ready without a process.
pub(crate) const NOT_RUNNING: &str = "its process is not running";

/// Whether a workload can take traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// And why not.
    NotReady(String),
}

/// Where the workload is.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: IpAddr,
    /// Where its commands run.
    pub cgroup: Option<PathBuf>,
    pub name_service: Option<PathBuf>,
    pub environment: Vec<(String, String)>,
}

/// Keeps `health` true to what the probe says for as long as the process runs, as `running` says.
/// Without a probe, a process that runs is ready.
pub async fn watch(
    probe: Option<Probe>,
    target: Target,
    mut running: watch::Receiver<bool>,
    health: watch::Sender<Health>,
) {
    loop {
        set(&health, Health::NotReady(NOT_RUNNING.to_owned()));
        if running.wait_for(|running| *running).await.is_err() {
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
            stopped = running.wait_for(|running| !*running) => {
                if stopped.is_err() {
                    return;
                }
            }
        }
    }
}

async fn ask_for_ever(probe: &Probe, target: &Target, health: &watch::Sender<Health>) {
    let Timing { period_ms, timeout_ms, failures: most_failures, startup_ms } = probe.timing;
    let period = Duration::from_millis(period_ms.max(10));
    let deadline = Duration::from_millis(timeout_ms.max(1));
    set(health, Health::NotReady("it is starting".to_owned()));
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut failures = 0;
    loop {
        let result = timeout(deadline, ask(&probe.check, target)).await;
        match result.unwrap_or_else(|_| Err(format!("no answer within {} ms", deadline.as_millis()))) {
            Ok(()) => {
                set(health, Health::Ready);
                failures = 0;
                pause = period;
            }
            Err(why) => {
                failures += 1;
                let ready = *health.borrow() == Health::Ready;
                if ready && failures >= most_failures {
                    set(health, Health::NotReady(format!("its probe fails: {why}")));
                } else if !ready && started.elapsed() > Duration::from_millis(startup_ms) {
                    set(health, Health::NotReady(format!("it takes long to start: {why}")));
                }
                // One that is ready and fails once, or has become unready, is asked every period.
                pause = if failures >= most_failures || !ready { (pause * 2).min(period) } else { period };
            }
        }
        sleep(pause).await;
    }
}

fn set(health: &watch::Sender<Health>, new: Health) {
    health.send_if_modified(|now| {
        *now != new && {
            *now = new;
            true
        }
    });
}

async fn ask(check: &Check, target: &Target) -> Result<(), String> {
    match check {
        Check::Tcp { port } => connect(target.address, *port).await.map(leave),
        Check::Http { port, path } => get(target.address, *port, path).await,
        Check::Exec { command } => run(command, target).await,
    }
}

async fn connect(address: IpAddr, port: u16) -> Result<TcpStream, String> {
    let address = SocketAddr::new(address, port);
    TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))
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

async fn run(command: &[String], target: &Target) -> Result<(), String> {
    let [program, arguments @ ..] = command else { return Err("its command is empty".to_owned()) };
    let mut process = Command::new(program);
    process.args(arguments).envs(target.environment.iter().map(|(k, v)| (k, v)));
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let confined = Confined { cgroup: target.cgroup.clone(), name_service: target.name_service.clone() };
    // Dropped at the deadline, the child is killed.
    let spawned = supervise::spawn(process, confined, Signal::SIGKILL).await;
    let mut child = spawned.map_err(|e| format!("{program}: {e}"))?;
    let status = child.wait().await.map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}")) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn target() -> Target {
        Target {
            address: Ipv4Addr::LOCALHOST.into(),
            cgroup: None,
            name_service: None,
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
        let (running, receiver) = watch::channel(false);
        let (health, mut seen) = watch::channel(Health::Ready);
        tokio::spawn(watch(Some(probe), target(), receiver, health));
        seen.wait_for(|h| matches!(h, Health::NotReady(why) if why.contains("not running"))).await.unwrap();
        running.send_replace(true);
        seen.wait_for(|h| matches!(h, Health::NotReady(why) if why.contains("starting"))).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        seen.wait_for(|h| *h == Health::Ready).await.unwrap();
        drop(listener);
        seen.wait_for(|h| matches!(h, Health::NotReady(why) if why.contains("fails"))).await.unwrap();
        running.send_replace(false);
        seen.wait_for(|h| matches!(h, Health::NotReady(why) if why.contains("not running"))).await.unwrap();
    }

    #[tokio::test]
    async fn without_a_probe_running_is_ready() {
        let (running, receiver) = watch::channel(false);
        let (health, mut seen) = watch::channel(Health::Ready);
        let task = tokio::spawn(watch(None, target(), receiver, health));
        seen.wait_for(|h| *h != Health::Ready).await.unwrap();
        running.send_replace(true);
        seen.wait_for(|h| *h == Health::Ready).await.unwrap();
        drop(running);
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
        assert!(ask(&check, &target()).await.unwrap_err().contains("503"));
        assert!(ask(&check, &target()).await.is_err());
    }

    #[tokio::test]
    async fn commands_run_with_the_workloads_environment() {
        let exec = |script: &str| Check::Exec { command: ["sh", "-c", script].map(String::from).into() };
        assert_eq!(ask(&exec("test $ANSWER = 42"), &target()).await, Ok(()));
        assert!(ask(&exec("exit 3"), &target()).await.unwrap_err().contains('3'));
        let missing = Check::Exec { command: vec!["/nonexistent".into()] };
        assert!(ask(&missing, &target()).await.unwrap_err().contains("/nonexistent"));
    }
}
