//! `tulle up -d`: the mesh runs in a process of its own, and this one ends when all services are ready.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tulle_model::legible::legible;

use super::client::UpClient;
use crate::exit::{Exit, Failure, Result};
use crate::output::{note, print};

/// Says to a process that it is the one in the background.
const DETACHED: &str = "TULLE_UP_DETACHED";
/// What it warns of, in `$TULLE_HOME`.
pub const LOG: &str = "up.log";
/// How long all services may take to be ready, before it is said which are not.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// After how long it is said which are not ready yet.
const SLOW: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);
/// How large its log may be, and how often that is looked at.
const MOST_LOG: u64 = 8 << 20;
const LOG_LOOK: Duration = Duration::from_secs(10);
/// How much of what it printed is shown where it does not start, in bytes.
const MOST_SHOWN: usize = 64 << 10;

/// Whether this process is the one in the background. It leaves the session of the terminal, which may be closed.
pub fn is_detached() -> bool {
    let is_detached = std::env::var_os(DETACHED).is_some();
    if is_detached {
        // Where it is the leader of one already, it is in nobody else's.
        let _ = nix::unistd::setsid();
    }
    is_detached
}

/// Keeps that file of the process in the background small, for as long as this is polled.
pub async fn bound_log(home: &Path) {
    let path = home.join(LOG);
    loop {
        sleep(LOG_LOOK).await;
        // It is written at its end, wherever that is.
        if fs::metadata(&path).is_ok_and(|log| log.len() > MOST_LOG)
            && let Ok(log) = File::options().write(true).open(&path)
        {
            let _ = log.set_len(0);
        }
    }
}

/// Starts this command again in the background.
pub async fn run(home: &Path) -> Result<()> {
    crate::home::create(home)?;
    let path = home.join(LOG);
    let cannot = |e: std::io::Error| Failure::new(format!("cannot write {}: {e}", path.display()));
    // What services say is in their logs. This has the mesh's own warnings, and why it does not start.
    let log = File::options().create(true).append(true).open(&path).map_err(cannot)?;
    log.set_len(0).map_err(cannot)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let client = UpClient::new(home);
    let (end, slow) = (Instant::now() + READY_DEADLINE, Instant::now() + SLOW);
    let mut is_told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            let said = fs::read(&path).unwrap_or_default();
            let said = String::from_utf8_lossy(&said[said.len().saturating_sub(MOST_SHOWN)..]).into_owned();
            eprint!("{said}");
            let how = match status.signal() {
                Some(signal) => format!("signal {signal}"),
                None => format!("code {}", status.code().unwrap_or_default()),
            };
            let exit = match status.code() {
                Some(0) => return Ok(()),
                Some(2) => Exit::Input,
                Some(5) => Exit::Conflict,
                _ => Exit::Failure,
            };
            return Err(Failure::new(format!("`tulle up` ended with {how}")).exit(exit));
        }
        let status = client.status().await.ok().filter(|status| status.pid == child.id());
        if let Some(status) = status {
            if status.started {
                let count = match status.processes.len() {
                    1 => "1 process".to_owned(),
                    count => format!("{count} processes"),
                };
                return print(&format!(
                    "{} runs (process {}, {count} of services): `tulle ps`, `tulle logs -f`, `tulle down`\n",
                    status.name, status.pid
                ));
            }
            if Instant::now() >= end {
                return Err(Failure::new("not all services are ready yet, and it goes on")
                    .help("`tulle ps` says why, `tulle down` stops it"));
            }
            if !is_told && Instant::now() >= slow {
                is_told = true;
                for process in status.processes.iter().filter(|process| !process.state.is_well()) {
                    let why = if process.reason.is_empty() { process.state.word() } else { &process.reason };
                    note(&format!("{}: {}", process.name, legible(why)));
                }
            }
        } else if Instant::now() >= end {
            let _ = child.kill();
            return Err(Failure::new("`tulle up` does not answer, and was ended"));
        }
        sleep(LOOK).await;
    }
}
