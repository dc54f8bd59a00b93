//! How processes are ended, wherever that is: SIGTERM to all, time to go, SIGKILL to who is left.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tulle_sys::family::{Family, Member};

/// How often we look who is left, at first and at most: each look may read all of `/proc`.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// How long the kernel may take to end what got SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// What became of the members of a family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// That there were.
    pub members: usize,
    /// Of these, how many had to be killed, as they did not go in time.
    pub killed: usize,
}

/// Ends all members: SIGTERM to those that there are now, SIGKILL to those that are left after `grace`.
/// Returns when all are gone.
///
/// # Errors
/// Where who is a member cannot be found out, and where one is left even after SIGKILL.
pub async fn end(family: &Family, grace: Duration) -> io::Result<Ended> {
    end_by(family, Signal::SIGTERM, grace).await
}

/// The same with another signal than SIGTERM.
///
/// # Errors
/// As [`end`].
pub async fn end_by(family: &Family, signal: Signal, grace: Duration) -> io::Result<Ended> {
    let members = signal_all(family, signal).await?;
    let left = wait(family, grace).await?;
    if left.is_empty() {
        return Ok(Ended { members, killed: 0 });
    }
    kill(family).await?;
    Ok(Ended { members: members.max(left.len()), killed: left.len() })
}

/// Sends SIGTERM to all members and returns how many there are. One that was stopped goes on, or it could
/// not follow.
pub async fn terminate(family: &Family) -> io::Result<usize> {
    signal_all(family, Signal::SIGTERM).await
}

async fn signal_all(family: &Family, signal: Signal) -> io::Result<usize> {
    let family = family.clone();
    blocking(move || {
        let members = family.members()?;
        for member in &members {
            for signal in [signal, Signal::SIGCONT] {
                if let Err(e) = member.signal(signal) {
                    tracing::warn!("{signal} cannot be sent to process {}: {e}", member.pid);
                }
            }
        }
        Ok(members.len())
    })
    .await
}

/// Sends SIGKILL to all members and waits until they are gone.
///
/// # Errors
/// Where one is still there when the kernel has had its time.
pub async fn kill(family: &Family) -> io::Result<()> {
    let end = Instant::now() + KILL_DEADLINE;
    loop {
        let killed = family.clone();
        blocking(move || killed.kill()).await?;
        let left = wait(family, LOOK.1).await?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let pids: Vec<_> = left.iter().map(|m| m.pid.to_string()).collect();
            return Err(io::Error::other(format!("processes {} do not end", pids.join(", "))));
        }
    }
}

/// Waits until no member is left, at most for `patience`; returns those that are.
pub async fn wait(family: &Family, patience: Duration) -> io::Result<Vec<Member>> {
    let end = Instant::now() + patience;
    let mut pause = LOOK.0;
    loop {
        let looked = family.clone();
        let left = blocking(move || looked.left()).await?;
        let now = Instant::now();
        if left.is_empty() || now >= end {
            return Ok(left);
        }
        sleep(pause.min(end - now)).await;
        pause = (pause * 2).min(LOOK.1);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that says `up` once it is as the test wants it, and the family of what it starts.
    fn shell(script: &str) -> (Child, BufReader<std::process::ChildStdout>, Family) {
        let mark = format!("{:x}", rand::random::<u64>());
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("TULLE_TEST_MARK", &mark).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        (child, output, Family { mark: Some(format!("TULLE_TEST_MARK={mark}")), ..Family::default() })
    }

    #[tokio::test]
    async fn everybody_gets_a_word_before_the_end() {
        // The one in a session of its own cleans up, too.
        let polite = "trap \"echo bye; exit\" TERM; echo up; while :; do sleep 0.05; done";
        let script = format!("setsid sh -c '{polite}' & wait");
        let (mut child, mut output, family) = shell(&script);
        let ended = end(&family, Duration::from_secs(20)).await.unwrap();
        assert!(ended.members >= 2 && ended.killed == 0, "{ended:?}");
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "bye\n");
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn who_does_not_listen_is_killed_after_the_grace() {
        let (mut child, _, family) = shell("trap '' TERM; echo up; while :; do sleep 0.05; done");
        let started = Instant::now();
        let grace = Duration::from_millis(100);
        let ended = end(&family, grace).await.unwrap();
        assert!(ended.killed >= 1 && started.elapsed() >= grace, "{ended:?}");
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_stopped_process_can_follow() {
        let (mut child, mut output, family) =
            shell("trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.05; done");
        Member::of(child.id()).unwrap().signal(Signal::SIGSTOP).unwrap();
        assert_eq!(end(&family, Duration::from_secs(20)).await.unwrap().killed, 0);
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "bye\n");
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn nobody_is_nothing_to_wait_for() {
        let family = Family { mark: Some("TULLE_TEST_MARK=nobody".to_owned()), ..Family::default() };
        assert_eq!(end(&family, Duration::from_secs(20)).await.unwrap(), Ended::default());
    }
}
