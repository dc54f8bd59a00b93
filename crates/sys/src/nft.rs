//! Runs `nft` with a script on its standard input.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long one call may take; the kernel's answer is a matter of milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// How much of its output is read: a pipe holds no more, and it has ended before that is read.
const MOST_OUTPUT: u64 = 64 << 10;

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

/// Applies `script` as one transaction: all of it or nothing. `started` is told the process that does it before
/// anything is changed: the kernel's messages of the changes name it ([`crate::nft_watch`]).
pub fn apply(script: &str, started: impl FnOnce(u32)) -> Result<(), NftError> {
    run(&["-f", "-"], script, started).map(|_| ())
}

/// Whether [`apply`] would succeed; changes nothing.
pub fn check(script: &str) -> Result<(), NftError> {
    run(&["-c", "-f", "-"], script, |_| ()).map(|_| ())
}

/// The names of the tables of the family `inet`.
pub fn tables() -> Result<Vec<String>, NftError> {
    let listed = run(&["list", "tables", "inet"], "", |_| ())?;
    Ok(listed.lines().filter_map(|line| line.strip_prefix("table inet ")).map(str::to_owned).collect())
}

/// Runs `nft`, and returns what it prints.
fn run(arguments: &[&str], script: &str, started: impl FnOnce(u32)) -> Result<String, NftError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            if e.kind() == io::ErrorKind::NotFound { NftError::NotInstalled } else { NftError::Io(e) }
        })?;
    started(child.id());
    let mut input = child.stdin.take().expect("it was asked for above");
    // An nft that refuses early closes its input; its message says more than the broken pipe.
    let _ = input.write_all(script.as_bytes());
    drop(input);

    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > DEADLINE {
            child.kill()?;
            child.wait()?;
            return Err(NftError::Timeout);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let mut message = String::new();
    if status.success() {
        let output = child.stdout.take().expect("it was asked for above");
        output.take(MOST_OUTPUT).read_to_string(&mut message)?;
        return Ok(message);
    }
    let errors = child.stderr.take().expect("it was asked for above");
    errors.take(4096).read_to_string(&mut message)?;
    Err(NftError::Refused(message.lines().next().unwrap_or("it gave no reason").to_owned()))
}

/// `nft` lies in sbin, which the path of an ordinary login often lacks.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}
