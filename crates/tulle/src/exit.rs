//! Exit codes, which scripts may rely on, and the failures that lead to them.

use std::fmt;

use crate::output::note;

/// How a command ended. The numbers are a contract (`tulle --help` lists them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something failed.
    Failure = 1,
    /// Wrong usage or wrong input; nothing was changed.
    Input = 2,
    /// The server or the node cannot be reached.
    Unreachable = 3,
    /// An object does not exist.
    NotFound = 4,
    /// Somebody else's doing stands against it: an object exists or has changed, a field belongs to
    /// somebody else, another process runs.
    Conflict = 5,
}

/// For `tulle --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  something failed
  2  wrong usage or wrong input; nothing was changed
  3  the server or the node cannot be reached
  4  an object does not exist
  5  a conflict: it exists, has changed, belongs to somebody else, or another process runs";

/// Why a command failed, for people: what, and what to do next.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    message: String,
    help: Vec<String>,
    /// The message is a finished report (`diagnostic`), printed as it is.
    report: bool,
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failure, message: message.into(), help: Vec::new(), report: false }
    }

    /// Wrong usage or input.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(message).exit(Exit::Input)
    }

    /// Wrong input, already explained line by line.
    pub fn report(report: String) -> Self {
        Self { report: true, ..Self::input(report) }
    }

    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Says first what could not be done because of it.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        if !self.report {
            self.message = format!("{what}: {}", self.message);
        }
        self
    }

    /// Adds a next step.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    pub fn print(&self) {
        use anstyle::AnsiColor::{Cyan, Red};
        let paint = |color: anstyle::AnsiColor| color.on_default().bold();
        if self.report {
            note(self.message.trim_end());
        } else {
            let red = paint(Red);
            note(&format!("{red}error{red:#}: {}", self.message));
        }
        for help in &self.help {
            let cyan = paint(Cyan);
            note(&format!("{cyan}help{cyan:#}: {help}"));
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.iter().try_for_each(|help| write!(f, "\nhelp: {help}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}
