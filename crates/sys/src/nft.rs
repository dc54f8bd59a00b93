//! Runs `nft` with a script on its standard input.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long one call may take; the kernel's answer is a matter of milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why `nft` did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft was not found: install the package nftables")]
    NotInstalled,
    #[error("nft could not be run: {0}")]
    Io(#[from] io::Error),
    #[error("nft gave no answer within {} s", DEADLINE.as_secs())]
    Timeout,
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Applies `script` as one transaction: all of it or nothing.
pub fn apply(script: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            if e.kind() == io::ErrorKind::NotFound { NftError::NotInstalled } else { NftError::Io(e) }
        })?;
    let mut input = child.stdin.take().expect("it was asked for above");
    // An nft that refuses early closes its input; its message says more than the broken pipe.
    let _ = input.write_all(script.as_bytes());
    drop(input);

    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > DEADLINE {
            child.kill()?;
            child.wait()?;
            return Err(NftError::Timeout);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    if status.success() {
        return Ok(());
    }
    let mut message = String::new();
    let errors = child.stderr.take().expect("it was asked for above");
    errors.take(4096).read_to_string(&mut message)?;
    Err(NftError::Refused(message.lines().next().unwrap_or("it gave no reason").to_owned()))
}

/// `nft` lies in sbin, which the path of an ordinary login often lacks.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}
