//! What is known of the process of a workload: whether it runs, how often it was started again, how it ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tulle_sys::family::Member;

/// The process of a workload, whoever runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessState {
    pub runs: bool,
    /// Which one it is, where this process has started it.
    pub process: Option<Member>,
    /// How often it was started again after it had ended by itself.
    pub restarts: u32,
    pub last_exit: Option<LastExit>,
    /// When it is started again, in milliseconds since the epoch, where it waits for that.
    pub next_start: Option<u64>,
}

/// How a process ended, with Kubernetes' names (`ContainerStateTerminated`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it could not be started at all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What the kernel ended it for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// In milliseconds since the epoch.
    pub finished_at_ms: u64,
}

impl LastExit {
    /// A process that ended just now.
    pub fn of(status: ExitStatus) -> Self {
        let now = milliseconds(SystemTime::now());
        Self { exit_code: status.code(), signal: status.signal(), finished_at_ms: now, ..Self::default() }
    }

    /// One that could not be started, just now.
    pub fn not_started(message: String) -> Self {
        Self { message, finished_at_ms: milliseconds(SystemTime::now()), ..Self::default() }
    }

    /// `code 1`, `SIGKILL`, `not started`.
    pub fn short(&self) -> String {
        match (self.exit_code, self.signal) {
            (Some(code), _) => format!("code {code}"),
            (None, Some(number)) => match Signal::try_from(number) {
                Ok(signal) => signal.as_str().to_owned(),
                Err(_) => format!("signal {number}"),
            },
            (None, None) => "not started".to_owned(),
        }
    }
}

impl fmt::Display for LastExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.exit_code, self.signal) {
            (Some(_), _) => write!(f, "ended with {}", self.short()),
            (None, Some(_)) if self.reason.is_empty() => write!(f, "was ended by {}", self.short()),
            (None, Some(_)) => write!(f, "was ended by {}: {}", self.short(), self.reason),
            (None, None) => f.write_str(&self.message),
        }
    }
}

impl ProcessState {
    /// It runs, or does not, as its owner says.
    pub fn set(&mut self, runs: bool) {
        self.runs = runs;
        self.next_start = None;
    }

    /// It runs no more.
    pub(crate) fn ended(&mut self, exit: LastExit) {
        self.runs = false;
        self.process = None;
        self.last_exit = Some(exit);
    }

    pub(crate) fn waits(&mut self, delay: Duration) {
        self.next_start = Some(milliseconds(SystemTime::now() + delay));
    }

    pub(crate) fn starts_again(&mut self) {
        self.restarts = self.restarts.saturating_add(1);
        self.next_start = None;
    }

    /// Why a workload is not ready whose process does not run.
    pub fn absence(&self) -> String {
        match &self.last_exit {
            None => NOT_RUNNING.to_owned(),
            Some(exit) if exit.message.is_empty() => format!("{NOT_RUNNING}: it {exit}"),
            Some(exit) => format!("{NOT_RUNNING}: {exit}"),
        }
    }
}

/// Why a workload is not ready without a process.
pub(crate) const NOT_RUNNING: &str = "its process is not running";

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_by_code_signal_or_reason() {
        let of = |raw| LastExit::of(ExitStatus::from_raw(raw));
        assert_eq!(of(3 << 8).to_string(), "ended with code 3");
        assert_eq!((of(9).short(), of(9).to_string()), ("SIGKILL".into(), "was ended by SIGKILL".into()));
        assert_eq!(of(40).short(), "signal 40", "a real-time signal has no name");
        let killed = LastExit { reason: "it had no memory left".into(), ..of(9) };
        assert_eq!(killed.to_string(), "was ended by SIGKILL: it had no memory left");
        let mut state = ProcessState::default();
        assert_eq!(state.absence(), NOT_RUNNING);
        state.ended(of(1 << 8));
        assert_eq!(state.absence(), "its process is not running: it ended with code 1");
        state.ended(LastExit::not_started("`x` cannot be started: no such file".into()));
        assert_eq!(state.absence(), "its process is not running: `x` cannot be started: no such file");
    }
}
