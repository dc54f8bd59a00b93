//! What commands print: tables, JSON, YAML.

use anstyle::Style;
use clap::ValueEnum;
use serde::Serialize;

use crate::exit::{Failure, Result};

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
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(e.to_string()))?;
    print(&format!("{text}\n"))
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

/// One cell.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::new() }
    }
}

/// A table as kubectl prints it: no lines, three spaces between columns.
#[derive(Debug, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Cell>>,
    /// Widths of columns at least, so that tables that follow each other line up.
    widths: Vec<usize>,
}

const GAP: usize = 3;

impl Table {
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), ..Self::default() }
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
        let mut text = String::new();
        self.line(&header, &mut text);
        text + &self.more()
    }

    /// The rows since the last call, without a header.
    pub fn more(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        for row in &rows {
            self.measure(row);
        }
        let mut text = String::new();
        for row in &rows {
            self.line(row, &mut text);
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
        // The header is measured before the rows are known.
        for row in &self.rows {
            for (i, cell) in row.iter().enumerate() {
                match self.widths.get_mut(i) {
                    Some(width) => *width = cell.width().max(*width),
                    None => self.widths.push(cell.width()),
                }
            }
        }
    }

    fn line(&self, cells: &[Cell], into: &mut String) {
        for (i, cell) in cells.iter().enumerate() {
            let style = cell.style;
            into.push_str(&format!("{style}{}{style:#}", cell.text));
            if i + 1 < cells.len() {
                into.extend(std::iter::repeat_n(' ', self.widths[i] - cell.width() + GAP));
            }
        }
        into.push('\n');
    }
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
}
