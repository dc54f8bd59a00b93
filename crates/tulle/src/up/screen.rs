//! What `tulle up` prints: lines of many processes at once, each with the name of who says it. All of them are kept on
//! disk, too, and come there first.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anstyle::Style;
use parking_lot::RwLock;
use tulle_model::legible::legible;
use tulle_node::supervise::Stream;

use super::config::Config;
use super::log::record::Said;
use super::log::{Log, SERVICE as MESH, names};
use super::prefix::{Prefixes, STATE};
use crate::printer::{LAST_WORDS, Printer};

/// How long a reader of what services say may take nothing of it, before lines are dropped.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same at the end; on a terminal somebody has paused it, and looks at it.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

pub struct Screen {
    prefixes: RwLock<Prefixes>,
    printer: Printer,
    is_terminal: bool,
    /// Whether colours are shown: ours, and those of services.
    colored: bool,
    /// Once the mesh is there.
    log: OnceLock<Log>,
}

impl Screen {
    pub fn new(config: &Config) -> Self {
        let mut prefixes = Prefixes::new();
        names(config).iter().for_each(|(service, longest)| prefixes.add(service, *longest));
        let is_terminal = stdout().is_terminal();
        let colored = anstream::AutoStream::choice(&stdout()) != anstream::ColorChoice::Never;
        let why = "nobody took them in time; `tulle logs` has them";
        let printer = Printer::patient(stdout(), PATIENCE, why);
        Self { prefixes: RwLock::new(prefixes), printer, is_terminal, colored, log: OnceLock::new() }
    }

    /// Services that are described now have their colours, too; others keep theirs.
    pub fn know(&self, config: &Config) {
        let mut prefixes = self.prefixes.write();
        names(config).iter().for_each(|(service, longest)| prefixes.add(service, *longest));
        drop(prefixes);
        if let Some(log) = self.log.get() {
            log.know(config);
        }
    }

    /// From now on, all that is said is kept on disk.
    pub fn keep(&self, home: &Path, config: &Config) {
        match Log::start(home, config) {
            Ok(log) => drop(self.log.set(log)),
            Err(error) => self.say(&format!("`tulle logs` will have nothing of this: {error}")),
        }
    }

    /// A line of the mesh itself, broken to the terminal's width.
    pub fn say(&self, text: &str) {
        self.log(MESH, MESH, text);
        self.wrapped(MESH, MESH, text, Style::new());
    }

    /// A command to be pasted, which is not broken, with what it is for.
    pub fn suggest(&self, what: &str, command: &str) {
        let text = format!("{what:<6} {command}");
        self.print(MESH, MESH, &legible(&text));
    }

    /// A line that a process wrote, as it wrote it. Waits until it is kept, and printed; a terminal is not waited for.
    pub async fn output(&self, service: &str, replica: &str, stream: Stream, text: &str) {
        if let Some(log) = self.log.get() {
            let said = match stream {
                Stream::Output => Said::Output,
                Stream::Error => Said::Error,
            };
            log.deliver(service, replica, said, text).await;
        }
        let line = self.prefixes.read().line(service, replica, text, self.colored).into_bytes();
        match self.is_terminal {
            true => self.printer.offer(line),
            false => self.printer.deliver(line).await,
        }
    }

    /// What became of a process.
    pub fn state(&self, service: &str, replica: &str, text: &str) {
        self.log(service, replica, text);
        self.wrapped(service, replica, &format!("• {text}"), STATE);
    }

    /// Waits until all is kept and shown, as long as somebody takes it.
    pub async fn finished(&self) {
        if let Some(log) = self.log.get() {
            log.finished(LAST_PATIENCE).await;
        }
        let patience = if self.is_terminal { LAST_WORDS } else { LAST_PATIENCE };
        self.printer.finished(patience).await;
    }

    fn log(&self, service: &str, replica: &str, text: &str) {
        if let Some(log) = self.log.get() {
            // Reasons hold what a process said.
            log.print(service, replica, &legible(text));
        }
    }

    fn wrapped(&self, service: &str, name: &str, text: &str, text_style: Style) {
        for line in self.prefixes.read().own_lines(service, name, (text, text_style), self.colored, 0) {
            self.printer.print(line.into_bytes());
        }
    }

    fn print(&self, service: &str, name: &str, text: &str) {
        self.printer.print(self.prefixes.read().line(service, name, text, self.colored).into_bytes());
    }
}
