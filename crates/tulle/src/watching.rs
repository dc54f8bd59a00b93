//! `--watch`: shows something again and again, until interrupted. A terminal is redrawn in place; into a pipe or a file,
//! a new block follows each change.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use anstream::ColorChoice;
use clap::Args;
use nix::sys::signal::{Signal, raise};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Failure, Result};
use crate::output::{ReportFormat, json_line, print, yaml};
use crate::printer::{LAST_WORDS, Printer};
use crate::signals::Stop;
use crate::terminal;
use crate::units::parse_time_to_do;

/// Nobody reads faster.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// A terminal that is paused gets nothing new, for however long.
const PAUSE: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Show it anew, until interrupted: in place on a terminal, elsewhere where it has changed
    #[arg(short, long)]
    pub watch: bool,
    /// How often to look, with --watch
    #[arg(long, value_name = "TIME", value_parser = parse_time_to_do, default_value = "2s")]
    interval: Duration,
}

/// What is shown at one time.
pub struct Showing {
    pub text: String,
    /// What is compared with what was shown before: where only times have gone on, nothing has changed.
    pub key: Value,
}

impl Showing {
    /// A value as `format` has it, JSON in one line; for people as this text.
    pub fn of(format: ReportFormat, value: &Value, text: impl FnOnce() -> Result<String>) -> Result<Self> {
        let text = match format {
            ReportFormat::Json => format!("{}\n", json_line(value)?),
            ReportFormat::Yaml => format!("---\n{}", yaml(value)?),
            ReportFormat::Table | ReportFormat::Wide => text()?,
        };
        Ok(Self { text, key: without_times(value) })
    }
}

/// A value without the spans of time in it, which go on by themselves.
fn without_times(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().map(without_times).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| !name.ends_with("Seconds"));
            Value::Object(fields.map(|(name, value)| (name.clone(), without_times(value))).collect())
        }
        other => other.clone(),
    }
}

impl WatchArgs {
    /// Shows what `look` finds until interrupted. What fails at first is an error; later it is shown, and tried again.
    pub async fn run(
        &self,
        format: ReportFormat,
        mut look: impl AsyncFnMut() -> Result<Showing>,
    ) -> Result<()> {
        let first = look().await?;
        let is_table = matches!(format, ReportFormat::Table | ReportFormat::Wide);
        let moves = std::env::var_os("TERM").is_none_or(|name| name != "dumb");
        let interval = self.interval.max(SHORTEST_INTERVAL);
        match is_table && moves && stdout().is_terminal() {
            true => in_place(first, interval, look).await,
            false => in_blocks(first, interval, is_table, look).await,
        }
    }
}

async fn in_blocks(
    first: Showing,
    interval: Duration,
    is_table: bool,
    mut look: impl AsyncFnMut() -> Result<Showing>,
) -> Result<()> {
    print(&first.text)?;
    let mut key = first.key;
    loop {
        tokio::time::sleep(interval).await;
        let found = look().await;
        let new_key =
            found.as_ref().map_or_else(|failure| failure.to_string().into(), |shown| shown.key.clone());
        if new_key == key {
            continue;
        }
        key = new_key;
        match found {
            Ok(shown) if is_table => print(&format!("\n{}", shown.text))?,
            Ok(shown) => print(&shown.text)?,
            Err(failure) => failure.print(),
        }
    }
}

async fn in_place(
    mut shown: Showing,
    interval: Duration,
    mut look: impl AsyncFnMut() -> Result<Showing>,
) -> Result<()> {
    let mut stop = Stop::new()?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut suspended = signal(SignalKind::from_raw(Signal::SIGTSTP as i32))?;
    // A thread of its own writes, so that a terminal that takes nothing keeps no signal waiting.
    let mut screen = OtherScreen::enter();
    loop {
        screen.draw(&shown.text);
        tokio::select! {
            _ = stop.next() => return Ok(()),
            () = async {
                screen.0.finished(PAUSE).await;
                tokio::time::sleep(interval).await;
            } => {}
            _ = resized.recv() => {}
            _ = suspended.recv() => {
                drop(screen);
                // Until the shell has it go on.
                let _ = raise(Signal::SIGSTOP);
                screen = OtherScreen::enter();
            }
        }
        shown = tokio::select! {
            _ = stop.next() => return Ok(()),
            found = look() => found.unwrap_or_else(|failure| of_failure(&failure)),
        };
    }
}

fn of_failure(failure: &Failure) -> Showing {
    let text = failure.rendered(terminal::width(stdout()));
    Showing { text: format!("{text}\n\ntrying again\n"), key: Value::Null }
}

/// The terminal's other screen; who leaves it sees the first one as it was.
struct OtherScreen(Printer);

/// xterm's control sequences: the other screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

impl OtherScreen {
    fn enter() -> Self {
        let printer = Printer::new(stdout());
        printer.print(ENTER.into());
        Self(printer)
    }

    fn draw(&self, text: &str) {
        let plain = anstream::AutoStream::choice(&stdout()) == ColorChoice::Never;
        let text = if plain { anstream::adapter::strip_str(text).to_string() } else { text.to_owned() };
        let (columns, rows) = terminal::size(stdout()).unwrap_or((80, 24));
        self.0.print(frame(&text, columns, rows).into_bytes());
    }
}

impl Drop for OtherScreen {
    fn drop(&mut self) {
        self.0.print(LEAVE.into());
        self.0.finish(LAST_WORDS);
    }
}

/// What draws a text over whatever was there before, in one piece: each line erases what is left of an older one, so
/// that nothing is seen to go and come. Of what has too many rows, the last line stays, and those before it are counted.
fn frame(text: &str, columns: usize, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // What cannot be broken goes on in the next row.
    let rows_of = |line: &str| terminal::columns(line).div_ceil(columns).max(1);
    let all: usize = lines.iter().map(|line| rows_of(line)).sum();
    let mut shown: Vec<String> = Vec::new();
    if all <= rows {
        shown.extend(lines.iter().map(|&line| line.to_owned()));
    } else if let [before @ .., last] = lines.as_slice() {
        let mut left = rows.saturating_sub(rows_of(last) + 1);
        let fits = |line: &&&str| left.checked_sub(rows_of(line)).map(|rest| left = rest).is_some();
        let head: Vec<_> = before.iter().take_while(fits).collect();
        let hidden = before.len() - head.len();
        shown.extend(head.into_iter().map(|&line| line.to_owned()));
        shown.push(format!("… {hidden} more line{}", if hidden == 1 { "" } else { "s" }));
        shown.push((*last).to_owned());
    }
    let used: usize = shown.iter().map(|line| rows_of(line)).sum();
    let mut frame = "\x1b[H".to_owned();
    for (i, line) in shown.iter().enumerate() {
        if i > 0 {
            frame.push('\n');
        }
        frame.push_str(line);
        // At the end of a full row the cursor still stands on its last character.
        let wide = terminal::columns(line);
        if wide == 0 || !wide.is_multiple_of(columns) {
            frame.push_str("\x1b[K");
        }
    }
    if used < rows {
        frame.push_str("\n\x1b[J");
    }
    frame
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_frame_covers_what_was_there() {
        assert_eq!(frame("ab\n\nabcd\n", 4, 24), "\x1b[Hab\x1b[K\n\x1b[K\nabcd\n\x1b[J");
        assert_eq!(frame("a\nb\n", 4, 2), "\x1b[Ha\x1b[K\nb\x1b[K", "a full screen does not scroll");
        assert_eq!(frame("abcde\nb\n", 4, 4), "\x1b[Habcde\x1b[K\nb\x1b[K\n\x1b[J");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let text = "1\n2\n3\n4\n5\nall is well\n";
        let lines = |columns, rows| {
            let drawn = frame(text, columns, rows).replace("\x1b[H", "").replace("\x1b[K", "");
            drawn.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(20, 4), ["1", "2", "… 3 more lines", "all is well"]);
        assert_eq!(lines(8, 4), ["1", "… 4 more lines", "all is well"], "the last one takes two rows");
        assert_eq!(lines(20, 1), ["… 5 more lines", "all is well"]);
    }

    #[test]
    fn time_alone_is_no_change() {
        let value = |age, state| json!({ "nodes": [{ "lastSeenSeconds": age, "state": state }] });
        assert_eq!(without_times(&value(1, "a")), without_times(&value(2, "a")));
        assert_ne!(without_times(&value(1, "a")), without_times(&value(1, "b")));
    }
}
