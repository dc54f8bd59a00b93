//! What `tulle up` prints: lines of many processes at once, each with the name of who says it.

use std::collections::HashMap;
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use super::config::Config;
use crate::printer::Printer;

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
    colors: HashMap<String, Style>,
    width: usize,
    printer: Printer,
}

impl Screen {
    pub fn new(config: &Config) -> Self {
        let services = config.services.iter().zip(COLORS.iter().cycle());
        let colors = services.map(|(s, color)| (s.name.clone(), color.on_default())).collect();
        let widths = config.services.iter().map(|s| match s.replicas {
            0 | 1 => s.name.len(),
            n => s.name.len() + 1 + (n - 1).to_string().len(),
        });
        let width = widths.max().unwrap_or(0).max(MESH.len());
        Self { colors, width, printer: Printer::new(anstream::stdout()) }
    }

    /// A line of the mesh itself.
    pub fn say(&self, text: &str) {
        self.line(MESH, Style::new().bold(), text);
    }

    /// A line that a process wrote.
    pub fn output(&self, service: &str, replica: &str, text: &str) {
        let style = self.colors.get(service).copied().unwrap_or_default();
        self.line(replica, style, text);
    }

    /// What became of a process.
    pub fn state(&self, service: &str, replica: &str, text: &str) {
        let dim = Style::new().italic().dimmed();
        self.output(service, replica, &format!("{dim}• {text}{dim:#}"));
    }

    /// Waits until all is shown, but no longer than `deadline`.
    pub fn finish(&self, deadline: Duration) {
        self.printer.finish(deadline);
    }

    fn line(&self, name: &str, style: Style, text: &str) {
        let line = format!("{style}{name:<width$} │{style:#} {text}\n", width = self.width);
        self.printer.print(line.into_bytes());
    }
}
