//! Processes that a run starts: their output in a file, an end with a deadline, errors that say
//! what they last said.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{accounting, interrupt};

/// How long a process may take to end after SIGTERM.
const ENDING: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);
/// Lines of a process' output that an error shows.
const LAST_LINES: usize = 12;
/// Characters of a line; some programs print their whole configuration in one.
const LINE: usize = 300;

/// A process of ours; dropping it ends it.
pub struct Process {
    /// Who it is, for errors.
    name: String,
    line: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with its output (both streams) in `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let line = format!("{command:?}");
        let output = File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("{name}: {line} cannot be started"))?;
        Ok(Self { name: name.to_owned(), line, child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process and its children.
    pub fn tree(&self) -> Vec<u32> {
        accounting::tree(self.pid())
    }

    /// What it has said so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// An error if it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{}: {} ended ({status}):\n{}", self.name, self.line, self.last_lines());
        }
        Ok(())
    }

    /// Waits until `found` finds something; an error if the process ends, or has not come so far in `deadline`.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut found: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(found) = found(self) {
                return Ok(found);
            }
            self.check()?;
            interrupt::check()?;
            if Instant::now() > end {
                bail!("{}: no {what} within {deadline:?}: {}\n{}", self.name, self.line, self.last_lines());
            }
            sleep(POLL);
        }
    }

    /// Waits until it accepts connections at `address`.
    pub fn wait_until_listening(&mut self, address: SocketAddr, deadline: Duration) -> Result<()> {
        let open = |_: &Self| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok().map(drop);
        self.wait_for(&format!("listener at {address}"), deadline, open)
    }

    /// SIGTERM, and SIGKILL to it and its children where that does not end it in time.
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let tree = self.tree();
        signal(self.pid(), Signal::SIGTERM);
        let end = Instant::now() + ENDING;
        while Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            sleep(POLL);
        }
        for pid in tree {
            // Still ours: a child that was adopted by another is left alone.
            if pid == self.pid() || accounting::tree(self.pid()).contains(&pid) {
                signal(pid, Signal::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }

    /// Adds who it was and what it last said to an error that its behaviour may have caused.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let said = self.last_lines();
        if said.is_empty() {
            return error;
        }
        anyhow::anyhow!("{error:#}\n{}: {}\n{said}", self.name, self.line)
    }

    fn last_lines(&self) -> String {
        last_lines(&self.output(), LAST_LINES)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a command to its end and returns what it wrote to stdout.
pub fn complete(name: &str, command: &mut Command, deadline: Duration) -> Result<String> {
    let line = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{name}: {line} cannot be started"))?;
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let end = Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > end || interrupt::check().is_err() {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        sleep(POLL);
    };
    let (stdout, stderr) = (text_of(stdout), text_of(stderr));
    interrupt::check()?;
    match status {
        Some(status) if status.success() => Ok(stdout),
        Some(status) => bail!("{name}: {line}: {status}\n{}", last_lines(&stderr, LAST_LINES)),
        None => bail!("{name}: {line} did not end within {deadline:?}\n{}", last_lines(&stderr, LAST_LINES)),
    }
}

type Reader = std::thread::JoinHandle<String>;

/// Reads in a thread of its own, so that a full pipe never stops the process.
fn reader(stream: Option<impl io::Read + Send + 'static>) -> Option<Reader> {
    let mut stream = stream?;
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }))
}

fn text_of(reader: Option<Reader>) -> String {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<String> = text.lines().map(|line| line.chars().take(LINE).collect()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_show_who_it_was_and_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo on fire; exit 3"]);
        let mut process = Process::start("proxy", &mut command, &folder.path().join("log")).unwrap();
        let error = process.wait_for("sign", Duration::from_secs(5), |_| None::<()>).unwrap_err().to_string();
        assert!(error.contains("proxy") && error.contains("on fire") && error.contains('3'), "{error}");
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let error = complete("slow", Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"));
        assert_eq!(complete("fast", Command::new("echo").arg("x"), Duration::from_secs(5)).unwrap(), "x\n");
    }

    #[test]
    fn only_the_last_lines_are_shown() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("", 2), "");
    }
}
