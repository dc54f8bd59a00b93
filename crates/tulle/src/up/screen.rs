//! What `tulle up` prints: lines of many processes at once, each with the name of who says it.

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use parking_lot::RwLock;
use tulle_model::legible::legible;

use super::config::Config;
use crate::printer::{LAST_WORDS, Printer};
use crate::terminal;

/// How long a reader of what services say may take nothing of it, before lines are dropped: on a terminal somebody
/// has paused it, and looks at it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

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

/// The name of the mesh itself, in front of its own lines.
const MESH: &str = "tulle";

pub struct Screen {
    layout: RwLock<Layout>,
    printer: Printer,
    is_terminal: bool,
    /// Whether colours are shown: ours, and those of services.
    colored: bool,
}

/// How the names of services are shown.
struct Layout {
    colors: HashMap<String, Style>,
    width: usize,
}

impl Layout {
    fn of(config: &Config) -> Self {
        let services = config.services.iter().zip(COLORS.iter().cycle());
        let colors = services.map(|(s, color)| (s.name.clone(), color.on_default())).collect();
        let widths = config.services.iter().map(|s| match s.replicas {
            0 | 1 => s.name.len(),
            n => s.name.len() + 1 + (n - 1).to_string().len(),
        });
        let width = widths.max().unwrap_or(0).max(MESH.len());
        Self { colors, width }
    }
}

impl Screen {
    pub fn new(config: &Config) -> Self {
        let layout = RwLock::new(Layout::of(config));
        let is_terminal = stdout().is_terminal();
        let patience = if is_terminal { LAST_WORDS } else { PATIENCE };
        let colored = anstream::AutoStream::choice(&stdout()) != anstream::ColorChoice::Never;
        Self { layout, printer: Printer::patient(stdout(), patience), is_terminal, colored }
    }

    /// Shows services as they are described now.
    pub fn know(&self, config: &Config) {
        *self.layout.write() = Layout::of(config);
    }

    fn width(&self) -> usize {
        self.layout.read().width
    }

    /// A line of the mesh itself, broken to the terminal's width.
    pub fn say(&self, text: &str) {
        self.wrapped(MESH, Style::new().bold(), text, Style::new());
    }

    /// A command to be pasted, which is not broken, with what it is for.
    pub fn suggest(&self, what: &str, command: &str) {
        let text = format!("{what:<6} {command}");
        self.printer.print(self.line(MESH, Style::new().bold(), &legible(&text)));
    }

    /// A line that a process wrote, as it wrote it. Waits until there is room for it.
    pub async fn output(&self, service: &str, replica: &str, text: &str) {
        self.printer.deliver(self.line(replica, self.style(service), text)).await;
    }

    /// What became of a process.
    pub fn state(&self, service: &str, replica: &str, text: &str) {
        let dim = Style::new().italic().dimmed();
        self.wrapped(replica, self.style(service), &format!("• {text}"), dim);
    }

    /// Waits until all is shown, as long as somebody takes it.
    pub async fn finished(&self) {
        let patience = if self.is_terminal { LAST_WORDS } else { LAST_PATIENCE };
        self.printer.finished(patience).await;
    }

    fn style(&self, service: &str) -> Style {
        self.layout.read().colors.get(service).copied().unwrap_or_default()
    }

    fn wrapped(&self, name: &str, style: Style, text: &str, text_style: Style) {
        let room =
            terminal::width(stdout()).map(|width| width.saturating_sub(self.width() + " │ ".len()).max(20));
        // Reasons hold what a process said.
        for text in terminal::wrap(&legible(text), room, 2).lines() {
            let text = format!("{text_style}{text}{text_style:#}");
            self.printer.print(self.line(name, style, &text));
        }
    }

    fn line(&self, name: &str, style: Style, text: &str) -> Vec<u8> {
        let reset = if text.contains('\x1b') { "\x1b[0m" } else { "" };
        let line = format!("{style}{name:<width$} │{style:#} {text}{reset}\n", width = self.width());
        // Each line by itself: a sequence that a process has begun and not ended would take the next ones away.
        if self.colored { line.into_bytes() } else { plain(&line).into_bytes() }
    }
}

/// A line without its colours and the like; it keeps its end whatever they are.
fn plain(line: &str) -> String {
    let text = line.trim_end_matches('\n');
    let mut plain = anstream::adapter::strip_str(text).to_string();
    plain.push('\n');
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sequence_takes_the_next_line_away() {
        assert_eq!(plain("a │ \x1b[31mred\x1b[0m\n"), "a │ red\n");
        for begun in ["\x1b]0;title", "\x1b[3", "\x1b", "\x1bP1$r"] {
            let line = plain(&format!("a │ text {begun}\n"));
            assert!(line.starts_with("a │ text ") && line.ends_with('\n'), "{begun:?}: {line:?}");
        }
    }
}
