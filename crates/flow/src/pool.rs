//! One process that evaluates expressions, seen from whoever asks it.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::pin::pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{self, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tulle_model::flow::expression::{EvaluationReason, NESTING};

use crate::answer::{Ending, LONGEST_WORDS};
use crate::evaluator::Evaluators;
use crate::serving::READY;

/// How long a process may take to come up, however busy the machine is.
const START: Duration = Duration::from_secs(20);
/// How long one that has closed its output may take to end.
const END: Duration = Duration::from_secs(2);
/// The shortest time to wait before a process' own clock is looked at again.
const LEAST: Duration = Duration::from_millis(5);

/// A process that can be asked. It is killed where this is dropped, as while it evaluates: what would come then is not known.
pub(crate) struct Child {
    process: process::Child,
    input: ChildStdin,
    output: ChildStdout,
    errors: ChildStderr,
}

/// What a process gave, and itself where it can be asked again.
pub(crate) struct Returned {
    pub(crate) value: Result<Value, EvaluationReason>,
    pub(crate) child: Option<Child>,
}

fn unavailable(what: impl std::fmt::Display) -> EvaluationReason {
    EvaluationReason::Unavailable(format!("the process that evaluates expressions {what}"))
}

impl Child {
    pub(crate) async fn start(evaluators: &Evaluators) -> Result<Self, EvaluationReason> {
        let mut child = Self::spawn(evaluators)
            .map_err(|error| unavailable(format_args!("cannot be started: {error}")))?;
        let mut first = [0];
        match timeout(START, child.output.read_exact(&mut first)).await {
            Ok(Ok(_)) if first == [READY] => Ok(child),
            Ok(Ok(_)) => Err(unavailable("says something else than it should")),
            Ok(Err(_)) => {
                let words = child.last_words().await;
                Err(unavailable(format_args!("did not come up: {}", words.trim())))
            }
            Err(_) => Err(unavailable(format_args!("did not come up within {} s", START.as_secs()))),
        }
    }

    fn spawn(evaluators: &Evaluators) -> io::Result<Self> {
        let mut command = std::process::Command::new(&evaluators.program);
        command.args(&evaluators.arguments).env_clear().current_dir("/");
        // A terminal's Ctrl-C is for this process, which may finish what it does.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        tulle_sys::restrict::restrict(&mut command, evaluators.memory as u64);
        // It ends when its input does, which is when this process ends. A signal at the death of its parent would come when the
        // thread ends that started it (prctl(2)), which may be one of many in a runtime.
        let mut process = Command::from(command).kill_on_drop(true).spawn()?;
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self { process, input, output, errors })
    }

    /// Itself, unless it has ended since it was asked last.
    pub(crate) fn if_alive(mut self) -> Option<Self> {
        matches!(self.process.try_wait(), Ok(None)).then_some(self)
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    pub(crate) async fn ask(mut self, frame: &[u8], largest: usize, evaluators: &Evaluators) -> Returned {
        let Some(id) = self.process.id() else {
            return Returned { value: Err(unavailable("has ended")), child: None };
        };
        let outcome = match self.watched(id, frame, largest, evaluators).await {
            Ok(outcome) => outcome,
            Err(reason) => return self.killed(reason).await,
        };
        match outcome {
            Ok((Ending::Value, words)) => match serde_json::from_slice(&words) {
                Ok(value) => Returned { value: Ok(value), child: Some(self) },
                Err(error) => self.killed(EvaluationReason::Failed(error.to_string())).await,
            },
            Ok((Ending::Failed, words)) => {
                let words = String::from_utf8_lossy(&words).into_owned();
                Returned { value: Err(EvaluationReason::Failed(words)), child: Some(self) }
            }
            Ok((Ending::TooLarge, _)) => {
                Returned { value: Err(EvaluationReason::Size(largest)), child: Some(self) }
            }
            // It has kept what it could not drop.
            Ok((Ending::TooDeep, _)) => self.killed(EvaluationReason::Depth(NESTING)).await,
            Ok((Ending::Panicked, words)) => {
                let words = String::from_utf8_lossy(&words).into_owned();
                let reason = match words.contains("capacity overflow") {
                    true => EvaluationReason::Memory(evaluators.memory),
                    false => EvaluationReason::Failed(words),
                };
                self.killed(reason).await
            }
            Err(_) => {
                let reason = self.cause_of_death(evaluators).await;
                self.killed(reason).await
            }
        }
    }

    /// Asks, and gives up where it computes for too long.
    async fn watched(
        &mut self,
        id: u32,
        frame: &[u8],
        largest: usize,
        evaluators: &Evaluators,
    ) -> Result<io::Result<(Ending, Vec<u8>)>, EvaluationReason> {
        // One that has ended computes no more; its output is closed then.
        let computed = || tulle_sys::restrict::computed(id);
        let began = Instant::now();
        let before = computed().unwrap_or_default();
        let mut exchange = pin!(exchange(&mut self.input, &mut self.output, frame, largest));
        let mut wait = evaluators.time;
        loop {
            if let Ok(answer) = timeout(wait, &mut exchange).await {
                return Ok(answer);
            }
            let used = computed().map_or(Duration::ZERO, |now| now.saturating_sub(before));
            if used >= evaluators.time {
                return Err(EvaluationReason::Time(evaluators.time));
            }
            if began.elapsed() >= evaluators.patience {
                let seconds = evaluators.patience.as_secs();
                return Err(unavailable(format_args!("got too little of the processor for {seconds} s")));
            }
            wait = (evaluators.time - used).max(LEAST);
        }
    }

    /// Ends it, and waits until it is gone.
    async fn killed(mut self, reason: EvaluationReason) -> Returned {
        // It may have ended by itself.
        let _ = self.process.kill().await;
        Returned { value: Err(reason), child: None }
    }

    /// Why it has closed its output. Where memory or stack are used up, nothing can be caught: Rust's runtime says so and aborts.
    async fn cause_of_death(&mut self, evaluators: &Evaluators) -> EvaluationReason {
        let words = self.last_words().await;
        let status = timeout(END, self.process.wait()).await;
        if words.contains("overflowed its stack") {
            return EvaluationReason::Recursion;
        }
        if words.contains("memory allocation of") {
            return EvaluationReason::Memory(evaluators.memory);
        }
        match status {
            Ok(Ok(status)) => match status.signal() {
                // The kernel, or somebody else.
                Some(9) => unavailable("was killed"),
                // Where there was no room even for the words.
                Some(_) => EvaluationReason::Memory(evaluators.memory),
                None => unavailable(format_args!("ended: {}", words.trim())),
            },
            _ => unavailable("closed its output"),
        }
    }

    /// What it has written as errors: some lines.
    async fn last_words(&mut self) -> String {
        const MOST: u64 = 4096;
        let mut words = Vec::new();
        let _ = timeout(END, (&mut self.errors).take(MOST).read_to_end(&mut words)).await;
        String::from_utf8_lossy(&words).into_owned()
    }
}

async fn exchange(
    input: &mut ChildStdin,
    output: &mut ChildStdout,
    frame: &[u8],
    largest: usize,
) -> io::Result<(Ending, Vec<u8>)> {
    input.write_all(frame).await?;
    let mut head = [0; 5];
    output.read_exact(&mut head).await?;
    let [first, second, third, fourth, ending] = head;
    let length = u32::from_ne_bytes([first, second, third, fourth]) as usize;
    let most = largest.max(2 * LONGEST_WORDS) + 1;
    let ending = Ending::of(ending).filter(|_| (1..=most).contains(&length));
    let ending = ending.ok_or(io::ErrorKind::InvalidData)?;
    let mut words = vec![0; length - 1];
    output.read_exact(&mut words).await?;
    Ok((ending, words))
}
