//! What commands print: tables, JSON, YAML.

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::Serialize;
use tulle_model::legible::{controls, legible};

use crate::exit::{Failure, Result};
use crate::terminal;

/// How a command prints what it found (`-o`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// A table
    #[default]
    Table,
    /// A table with all its columns
    Wide,
    Json,
    Yaml,
    /// KIND/NAME only
    Name,
}

/// For commands whose rows are no objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ReportFormat {
    /// A table
    #[default]
    Table,
    /// A table with all its columns
    Wide,
    Json,
    Yaml,
}

/// Prints a value as indented JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&format!("{}\n", json(value)?))
}

/// A value as indented JSON, with all escaped that would control a terminal.
fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map(escaped).map_err(|e| Failure::new(e.to_string()))
}

/// The same in one line.
pub fn json_line(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map(escaped).map_err(|e| Failure::new(e.to_string()))
}

fn escaped(json: String) -> String {
    let is_escaped = |c: char| c != '\n' && controls(c);
    if !json.contains(is_escaped) {
        return json;
    }
    // Only strings hold such characters, and all of them have four digits (RFC 8259, section 7).
    let mut escaped = String::with_capacity(json.len() + 6);
    for c in json.chars() {
        match is_escaped(c) {
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped
}

/// Prints a value as YAML.
pub fn print_yaml(value: &impl Serialize) -> Result<()> {
    print(&yaml(value)?)
}

/// A value as YAML, with a line break at its end.
pub fn yaml(value: &impl Serialize) -> Result<String> {
    let mut text = serde_saphyr::to_string(value).map_err(|e| Failure::new(e.to_string()))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Writes to stdout, with colours only where a terminal shows them. A reader that has seen enough
/// (`| head`) ends the process quietly, as it does other tools.
pub fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Writes a line to stdout that nothing depends on: where nobody can read it any more, it is lost.
pub fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// The same on stderr.
pub fn note(line: &str) {
    use std::io::Write;
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// As [`note`], broken to the width of a terminal, the lines after the first `indent` columns further right.
pub fn note_wrapped(line: &str, indent: usize) {
    note(&terminal::wrap(line, terminal::width(std::io::stderr()), indent));
}

/// One cell: a text of whomever, in one line, that controls nothing.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: legible(&text.into()).into_owned(), style }
    }

    fn width(&self) -> usize {
        terminal::columns(&self.text)
    }
}

/// A cell in the colour of what is as it should be, or not.
pub fn good(text: impl Into<String>, good: bool) -> Cell {
    let color = if good { AnsiColor::Green } else { AnsiColor::Red };
    Cell::styled(text, color.on_default())
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// A table as kubectl prints it: no lines, three spaces between columns. On a terminal that is too narrow for it, two,
/// and the longest cells lose their middle: `a-very…-name`.
#[derive(Debug, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Cell>>,
    /// Widths of columns at least, so that tables that follow each other line up.
    widths: Vec<usize>,
    /// What there is for a line.
    room: Option<usize>,
}

const GAP: usize = 3;
const NARROW_GAP: usize = 2;
/// No cell is cut to less.
const NARROWEST: usize = 8;

impl Table {
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self {
            header: header.into_iter().map(Into::into).collect(),
            room: terminal::width(std::io::stdout()),
            ..Self::default()
        }
    }

    /// All of every cell, whatever the terminal's width.
    pub fn whole(mut self) -> Self {
        self.room = None;
        self
    }

    /// Its lines begin that much further right.
    pub fn indented(mut self, columns: usize) -> Self {
        self.room = self.room.map(|room| room.saturating_sub(columns));
        self
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table with its header; the widths stay for [`Table::more`].
    pub fn render(&mut self) -> String {
        let header: Vec<Cell> = self.header.iter().map(Cell::from).collect();
        self.measure(&header);
        let rows = std::mem::take(&mut self.rows);
        self.lines(std::iter::once(header).chain(rows).collect())
    }

    /// The rows since the last call, without a header.
    pub fn more(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        self.lines(rows)
    }

    fn lines(&mut self, rows: Vec<Vec<Cell>>) -> String {
        rows.iter().for_each(|row| self.measure(row));
        let (widths, gap) = fit(&self.widths, self.room);
        let mut text = String::new();
        for row in &rows {
            line(row, &widths, gap, &mut text);
        }
        text
    }

    fn measure(&mut self, cells: &[Cell]) {
        for (i, cell) in cells.iter().enumerate() {
            match self.widths.get_mut(i) {
                Some(width) => *width = cell.width().max(*width),
                None => self.widths.push(cell.width()),
            }
        }
    }
}

/// The widths that columns are shown in, and what is between them.
fn fit(widths: &[usize], room: Option<usize>) -> (Vec<usize>, usize) {
    let mut widths = widths.to_vec();
    let gaps = widths.len().saturating_sub(1);
    let total = |widths: &[usize], gap: usize| widths.iter().sum::<usize>() + gap * gaps;
    let Some(room) = room.filter(|room| total(&widths, GAP) > *room) else { return (widths, GAP) };
    while total(&widths, NARROW_GAP) > room {
        let Some(widest) = widths.iter_mut().max_by_key(|width| **width).filter(|width| **width > NARROWEST)
        else {
            break;
        };
        *widest -= 1;
    }
    (widths, NARROW_GAP)
}

fn line(cells: &[Cell], widths: &[usize], gap: usize, into: &mut String) {
    for (i, cell) in cells.iter().enumerate() {
        let style = cell.style;
        let text = without_middle(&cell.text, widths[i]);
        let width = terminal::columns(&text);
        into.push_str(&format!("{style}{text}{style:#}"));
        if i + 1 < cells.len() {
            into.extend(std::iter::repeat_n(' ', widths[i].saturating_sub(width) + gap));
        }
    }
    into.push('\n');
}

/// A text in at most `width` columns: both of its ends, as names often differ in one of them.
pub fn without_middle(text: &str, width: usize) -> Cow<'_, str> {
    if terminal::columns(text) <= width {
        return text.into();
    }
    let keep = width.saturating_sub(1);
    let (start, end) = (keep.div_ceil(2), keep / 2);
    let characters: Vec<char> = text.chars().collect();
    let take = |room: usize, characters: &mut dyn Iterator<Item = &char>| {
        let mut left = room;
        let fits = |c: &&char| {
            let width = terminal::columns(c.encode_utf8(&mut [0; 4]));
            left.checked_sub(width).map(|rest| left = rest).is_some()
        };
        characters.take_while(fits).copied().collect::<Vec<char>>()
    };
    let head = take(start, &mut characters.iter());
    let tail = take(end, &mut characters.iter().rev());
    head.into_iter().chain(['…']).chain(tail.into_iter().rev()).collect::<String>().into()
}

/// A time span as kubectl shows ages: `12s`, `5m3s`, `2h`, `3d`.
pub fn age(seconds: u64) -> String {
    match seconds {
        s if s < 120 => format!("{s}s"),
        s if s < 600 => format!("{}m{}s", s / 60, s % 60),
        s if s < 3 * 3600 => format!("{}m", s / 60),
        s if s < 48 * 3600 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What annotations and messages may hold.
    const HOSTILE: &str = "a\x1b]0;title\x07\x1b[2J\nerror: forged\r\u{9b}1m\u{202e}\x7f";

    #[test]
    fn nothing_that_is_shown_controls_the_terminal() {
        let mut table = Table::new([HOSTILE]);
        table.row([HOSTILE.into()]);
        table.row([Cell::styled(HOSTILE, Style::new())]);
        let text = table.render();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains(|c| c != '\n' && controls(c)), "{text:?}");
        let value = serde_json::json!({ "a": HOSTILE });
        let (as_json, as_yaml) = (json(&value).unwrap(), yaml(&value).unwrap());
        assert!(!as_json.contains(|c| c != '\n' && controls(c)), "{as_json:?}");
        // YAML has the marks of direction as they are.
        assert!(!as_yaml.contains(|c: char| c != '\n' && c.is_control()), "{as_yaml:?}");
        let in_one_line = json_line(&value).unwrap();
        assert!(!in_one_line.contains(controls), "{in_one_line:?}");
        for text in [as_json, as_yaml, in_one_line] {
            let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(read, value, "and is what it was");
        }
    }

    #[test]
    fn tables_align() {
        let mut table = Table::new(["NAME", "AGE"]);
        table.row(["a".into(), "5s".into()]);
        table.row([Cell::styled("längerer", anstyle::AnsiColor::Red.on_default()), "1m".into()]);
        let plain = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(plain, "NAME       AGE\na          5s\nlängerer   1m\n");
        table.row(["b".into(), "9s".into()]);
        assert_eq!(anstream::adapter::strip_str(&table.more()).to_string(), "b          9s\n");
    }

    #[test]
    fn tables_fit_their_terminal() {
        let table = |room| {
            let mut table = Table::new(["NAMESPACE", "NAME", "AGE"]);
            table.room = room;
            table.row(["shop".into(), "a-name-that-is-very-long-indeed-v1".into(), "5s".into()]);
            table.row(["shop".into(), "a-name-that-is-very-long-indeed-v2".into(), "5s".into()]);
            table.render()
        };
        let whole = table(None);
        assert_eq!(whole.lines().nth(1), Some("shop        a-name-that-is-very-long-indeed-v1   5s"));
        assert_eq!(table(Some(52)), whole);
        let narrow = table(Some(51));
        assert_eq!(narrow.lines().nth(1), Some("shop       a-name-that-is-very-long-indeed-v1  5s"));
        let cut = table(Some(40));
        assert_eq!(cut.lines().nth(1), Some("shop       a-name-that-…g-indeed-v1  5s"), "{cut}");
        assert!(cut.lines().all(|line| terminal::columns(line) <= 40), "{cut}");
        assert_eq!(without_middle("ab漢字漢字yz", 7), "ab…yz".to_owned(), "a wide character needs two");
    }
}
