//! The loop around an engine: waits, wakes it, hands out what is due, and ends.

use std::io;

use super::outcome::Record;
use super::pace::Pace;
use crate::event::{self, Poller, SECOND, Timer};

/// The timer's token; connections count from 0.
const TIMER: u64 = u64::MAX;

/// What an engine needs besides its connections.
pub struct Drive {
    /// Who is ready.
    pub poller: Poller,
    /// What is due.
    pub pace: Pace,
    /// What was measured.
    pub record: Record,
    /// How long a request may take, in nanoseconds.
    pub timeout: u64,
}

impl Drive {
    /// Whether requests are due by a schedule.
    pub fn scheduled(&self) -> bool {
        matches!(self.pace, Pace::Rate { .. })
    }
}

/// Connections that requests go over.
pub trait Engine {
    /// The socket with this token is ready.
    fn ready(&mut self, token: u64, drive: &mut Drive) -> io::Result<()>;

    /// Sends requests that are due while there is a connection free for them.
    fn launch(&mut self, now: u64, drive: &mut Drive) -> io::Result<()>;

    /// Gives up what takes too long, and tries again what has rested.
    fn sweep(&mut self, now: u64, drive: &mut Drive) -> io::Result<()>;

    /// How many requests are under way.
    fn in_flight(&self) -> usize;
}

/// Runs until the window is over and, with a schedule, what was due in it is answered or too late.
pub fn run(engine: &mut impl Engine, drive: &mut Drive) -> io::Result<()> {
    let mut timer = Timer::new()?;
    drive.poller.add_timer(&timer, TIMER)?;
    let (mut sweep_at, mut warm, mut ended) = (0, false, false);
    loop {
        let now = event::now();
        if !warm && now >= drive.record.from {
            // What could not be sent in time before the window must not keep its own requests waiting.
            drive.pace.skip_to(drive.record.from);
            warm = true;
        }
        let over = drive.record.tick(now);
        if over {
            if drive.scheduled() && !ended {
                // Due a moment ago, and not sent only because time went on.
                engine.launch(drive.record.until - 1, drive)?;
                ended = true;
            }
            let wait = drive.scheduled() && engine.in_flight() > 0;
            if !wait || now >= drive.record.until + drive.timeout {
                break;
            }
        } else {
            engine.launch(now, drive)?;
        }
        if now >= sweep_at {
            engine.sweep(now, drive)?;
            sweep_at = now + SECOND / 50;
        }
        if let Some(due) = drive.pace.next()
            && due > now
            && !over
        {
            timer.set(due)?;
        }
        for index in 0..drive.poller.wait(20)? {
            let token = drive.poller.ready(index);
            if token != TIMER {
                engine.ready(token, drive)?;
            }
        }
    }
    while let Some(due) = drive.pace.next().filter(|due| *due < drive.record.until) {
        drive.record.missed(due);
        drive.pace.take(due);
    }
    for _ in 0..if drive.scheduled() { engine.in_flight() } else { 0 } {
        drive.record.failed("a request was not answered until after the end");
    }
    Ok(())
}
