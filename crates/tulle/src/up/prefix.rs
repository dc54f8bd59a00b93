//! The names in front of lines: of each service in a colour of its own, one below another.

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};

use anstyle::{AnsiColor, Style};
use tulle_model::legible::legible;

use super::log::SERVICE as MESH;
use crate::harmless::harmless;
use crate::output::without_middle;
use crate::terminal;

const COLORS: [AnsiColor; 10] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightCyan,
    AnsiColor::BrightYellow,
    AnsiColor::BrightGreen,
    AnsiColor::BrightMagenta,
    AnsiColor::BrightBlue,
];

/// What became of a process.
pub const STATE: Style = Style::new().italic().dimmed();

/// Between a name and a text.
const GAP: &str = " │ ";

#[derive(Debug, Default)]
pub struct Prefixes {
    styles: HashMap<String, Style>,
    /// Of the longest name.
    width: usize,
    /// Of a terminal names take a third at most, and lose their middle where they are longer.
    is_terminal: bool,
}

impl Prefixes {
    /// For the mesh itself; services come to it.
    pub fn new() -> Self {
        let styles = HashMap::from([(MESH.to_owned(), Style::new().bold())]);
        Self { styles, width: MESH.len(), is_terminal: stdout().is_terminal() }
    }

    /// Gives a service the next colour, and has names of that length fit.
    pub fn add(&mut self, service: &str, longest: usize) {
        self.width = self.width.max(longest);
        let color = COLORS[(self.styles.len() - 1) % COLORS.len()];
        self.styles.entry(service.to_owned()).or_insert(color.on_default());
    }

    /// The columns of the terminal.
    fn room(&self) -> Option<usize> {
        if self.is_terminal { terminal::width(stdout()) } else { None }
    }

    fn width(&self, room: Option<usize>) -> usize {
        room.map_or(self.width, |room| self.width.min(room / 3))
    }

    /// Lines of the mesh itself, or of what became of a process, broken to the terminal's width, of which each line has
    /// `taken` columns before it.
    pub fn own_lines(
        &self,
        service: &str,
        name: &str,
        (text, style): (&str, Style),
        colored: bool,
        taken: usize,
    ) -> Vec<String> {
        let room = self.room();
        let left =
            room.map(|room| room.saturating_sub(taken + self.width(room.into()) + terminal::columns(GAP)));
        let lines = terminal::wrap(&legible(text), left, 2);
        lines
            .split('\n')
            .map(|text| self.line(service, name, &format!("{style}{text}{style:#}"), colored))
            .collect()
    }

    /// A line, with its end, that does nothing to a terminal and takes no other line's colours away.
    pub fn line(&self, service: &str, name: &str, text: &str, colored: bool) -> String {
        let text = harmless(text, colored);
        let width = self.width(self.room());
        let name = without_middle(name, width);
        if !colored {
            return format!("{name:<width$}{GAP}{text}\n");
        }
        let style = self.styles.get(service).copied().unwrap_or_default();
        format!("{style}{name:<width$} │{style:#} {text}{}\n", reset(&text))
    }
}

/// A line without a name, with its end.
pub fn bare(text: &str, colored: bool) -> String {
    let text = harmless(text, colored);
    format!("{text}{}\n", reset(&text))
}

fn reset(text: &str) -> &'static str {
    if text.contains('\x1b') { "\x1b[0m" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_room_for_what_is_said() {
        let mut prefixes = Prefixes::new();
        prefixes.add("a", 63);
        assert_eq!(prefixes.width(None), 63, "where nothing has to fit");
        assert_eq!(prefixes.width(Some(240)), 63);
        assert_eq!(prefixes.width(Some(80)), 26);
    }

    #[test]
    fn no_sequence_takes_the_next_line_away() {
        let mut prefixes = Prefixes::new();
        prefixes.add("a", 1);
        assert_eq!(prefixes.line("a", "a", "\x1b[31mred\x1b[0m", false), "a     │ red\n");
        let line = prefixes.line("a", "a", "\x1b[31mred", true);
        assert_eq!(line, "\x1b[36ma     │\x1b[0m \x1b[31mred\x1b[0m\n");
        for begun in ["\x1b]0;title", "\x1b[3", "\x1b", "\x1bP1$r"] {
            for colored in [false, true] {
                let line = prefixes.line("a", "a", &format!("text {begun}"), colored);
                assert!(line.ends_with(" text \n"), "{begun:?}: {line:?}");
            }
        }
    }
}
