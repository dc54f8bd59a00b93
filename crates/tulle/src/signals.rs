//! Signals that ask a process to stop. All of them ask for the same: drain, clean up, end.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for a signal that asks to stop.
pub async fn terminate() {
    match Stop::new() {
        Ok(mut stop) => {
            stop.next().await;
        }
        // Without handlers the signals end the process, as they do by default.
        Err(_) => std::future::pending().await,
    }
}

/// Signals that come so close together are one wish: tools send them to a process and to its group.
const ONE_WISH: Duration = Duration::from_millis(300);

/// SIGTERM, SIGINT, SIGQUIT and SIGHUP, one after another.
pub struct Stop {
    term: Signal,
    interrupt: Signal,
    quit: Signal,
    /// `None` where whoever started this process has it ignore hang-ups (nohup(1)).
    hang_up: Option<Signal>,
    hung_up: HangUp,
    last: Option<Instant>,
}

/// What SIGHUP is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HangUp {
    /// The terminal is gone, and nobody looks any more.
    Ends,
    /// There is no terminal that could be gone.
    IsKept,
}

impl Stop {
    pub fn new() -> std::io::Result<Self> {
        Self::with(HangUp::Ends)
    }

    /// For what runs by itself: where it has no controlling terminal, SIGHUP is no wish to stop. It is kept for
    /// a hand-over to a new process.
    pub fn of_daemon() -> std::io::Result<Self> {
        Self::with(if has_terminal() { HangUp::Ends } else { HangUp::IsKept })
    }

    fn with(hung_up: HangUp) -> std::io::Result<Self> {
        let hang_up = if ignores(Number::SIGHUP) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up,
            hung_up,
            last: None,
        })
    }

    /// Waits for the next wish to stop.
    pub async fn next(&mut self) -> Number {
        loop {
            let number = tokio::select! {
                _ = self.term.recv() => Number::SIGTERM,
                _ = self.interrupt.recv() => Number::SIGINT,
                _ = self.quit.recv() => Number::SIGQUIT,
                () = received(&mut self.hang_up) => Number::SIGHUP,
            };
            if number == Number::SIGHUP && self.hung_up == HangUp::IsKept {
                tracing::warn!(
                    "SIGHUP is ignored, as no terminal can have hung up; SIGTERM stops this process"
                );
                continue;
            }
            // A terminal that closes says so more than once, and is not impatient.
            if number == Number::SIGHUP && self.last.is_some() {
                continue;
            }
            if self.last.is_none_or(|last| last.elapsed() >= ONE_WISH) {
                self.last = Some(Instant::now());
                return number;
            }
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether this process ignores a signal: what it inherited from who started it.
fn ignores(number: Number) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_ignored(&status, number))
}

/// proc_pid_status(5): a mask in hexadecimal digits, bit 0 is signal 1.
fn is_ignored(status: &str, number: Number) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (number as i32 - 1) != 0)
}

/// Whether this process has a controlling terminal.
fn has_terminal() -> bool {
    std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| terminal(&stat).is_some_and(|tty| tty != 0))
}

/// proc_pid_stat(5): the seventh field; the name, the second, may have blanks and parentheses in it.
fn terminal(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_is_ignored() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert!(is_ignored(status, Number::SIGHUP) && is_ignored(status, Number::SIGPIPE));
        assert!(!is_ignored(status, Number::SIGTERM) && !is_ignored("", Number::SIGHUP));
    }

    #[test]
    fn the_kernel_says_which_terminal() {
        assert_eq!(terminal("12 (a) b) S 1 12 12 34816 12 4194304 0"), Some(34816));
        assert_eq!(terminal("12 (a) S 1 12 12 0 -1 4194304 0"), Some(0));
        assert_eq!(terminal("12"), None);
    }
}
