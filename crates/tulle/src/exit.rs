//! Exit codes, which scripts may rely on, and the failures that lead to them.

use std::fmt;

use tulle_model::legible::legible;

use crate::output::note;
use crate::terminal;

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
    /// The program of `tulle run` cannot be executed (as env(1), nohup(1) and shells say it).
    NoExecution = 126,
    /// There is no such program.
    NoProgram = 127,
}

/// For `tulle --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  something failed
  2  wrong usage or wrong input; nothing was changed
  3  the server or the node cannot be reached
  4  an object does not exist
  5  a conflict: it exists, has changed, belongs to somebody else, or another process runs
`tulle run` ends with the code of its command; `tulle diff` with 1 where there is a difference.";

/// What the exit codes of each command mean; those that are missing it never ends with. For `--help`, and
/// docs/commands.md has the same.
const BY_COMMAND: &[(&str, &[(u8, &str)])] = &[
    (
        "up",
        &[
            (0, "stopped as it was asked to; it runs in the background, or has taken the change of its file"),
            (
                1,
                "the mesh does not start; with `-d` also: not all services were ready within a minute, and it goes on",
            ),
            (2, "wrong usage, or something is wrong with the file"),
            (4, "the file has no such service"),
            (5, "another one, or a `tulle node`, runs, or a port of a service is in use"),
        ],
    ),
    (
        "ps",
        &[
            (0, "printed, whatever is not well"),
            (1, "something failed"),
            (2, "wrong usage"),
            (3, "no `tulle up` runs here, or it is another user's"),
            (4, "there is no such service"),
        ],
    ),
    ("start", ON_SERVICES),
    ("stop", ON_SERVICES),
    ("restart", ON_SERVICES),
    ("scale", ON_SERVICES),
    (
        "open",
        &[
            (0, "where it is was printed, and shown where there is a browser"),
            (1, "something failed"),
            (2, "wrong usage, or several are published and none is named"),
            (3, "no `tulle up` runs here, or it is another user's"),
            (4, "there is no such service or port"),
            (5, "no port of this host can be had for it"),
        ],
    ),
    (
        "exec",
        &[
            (
                0,
                "that and all others are the command's own, or 128 and the number of the signal that ended it; before it runs:",
            ),
            (1, "it cannot run as the service does"),
            (2, "wrong usage"),
            (3, "no `tulle up` runs here, or it is another user's"),
            (4, "there is no such service or process"),
            (5, "the service has not started yet, or is stopped"),
            (126, "the command cannot be executed"),
            (127, "there is no such command"),
        ],
    ),
    (
        "attach",
        &[
            (0, "the mesh has ended"),
            (1, "something cannot be read"),
            (2, "wrong usage"),
            (3, "no `tulle up` runs here, or it is another user's"),
            (4, "nothing is there, or nothing of a service or process that is named"),
        ],
    ),
    (
        "down",
        &[
            (0, "stopped"),
            (1, "it does not stop, or something cannot be removed"),
            (2, "wrong usage"),
            (3, "no `tulle up` runs here, or it is another user's"),
            (5, "another one runs meanwhile"),
        ],
    ),
    (
        "run",
        &[
            (
                0,
                "that and all others are the command's own, or 128 and the number of the signal that ended it; before it runs:",
            ),
            (1, "the node or the server does not take the workload"),
            (2, "wrong usage"),
            (3, "no node runs here, or it is another user's"),
            (5, "a workload of that name runs here already; with namespace capture, any other"),
            (126, "the command cannot be executed"),
            (127, "there is no such command"),
        ],
    ),
    (
        "server",
        &[
            (0, "stopped as it was asked to"),
            (1, "it does not start"),
            (2, "wrong usage"),
            (5, "another one runs with the same home, or a port is in use"),
        ],
    ),
    (
        "node",
        &[
            (0, "stopped as it was asked to"),
            (1, "it does not start, or is not taken into the mesh"),
            (2, "wrong usage"),
            (5, "another one runs with the same home, or a port is in use"),
        ],
    ),
    (
        "node drain",
        &[
            (0, "done"),
            (1, "not all has ended, or the node or the server refuses to"),
            (2, "wrong usage"),
            (3, "no node runs here, or it is another user's; with NAME: the server cannot be reached"),
            (4, "there is no node NAME"),
            (5, "the node NAME has changed meanwhile"),
        ],
    ),
    (
        "node revoke",
        &[
            (0, "revoked"),
            (1, "the server refuses to"),
            (2, "wrong usage"),
            (3, "the server cannot be reached"),
            (4, "there is no node NAME"),
        ],
    ),
    (
        "node reset",
        &[(0, "done"), (1, "something cannot be removed"), (2, "wrong usage"), (5, "a node runs")],
    ),
    ("get", ON_OBJECTS),
    ("describe", ON_OBJECTS),
    (
        "apply",
        &[
            (0, "the mesh has what the files describe"),
            (1, "the server refuses something"),
            (2, "wrong usage, or something is wrong with the files; nothing was changed"),
            (3, "the server cannot be reached"),
            (4, "something that it needs does not exist"),
            (5, "a field belongs to somebody else, or an object has changed meanwhile"),
        ],
    ),
    (
        "diff",
        &[
            (0, "no difference"),
            (1, "a difference"),
            (2, "wrong usage, something is wrong with the files, or something failed"),
            (3, "the server cannot be reached"),
            (4, "something that it needs does not exist"),
        ],
    ),
    (
        "delete",
        &[
            (0, "all of it is deleted"),
            (1, "the server refuses to"),
            (2, "wrong usage, or something is wrong with the files"),
            (3, "the server cannot be reached"),
            (4, "something of it does not exist (the rest is deleted)"),
            (5, "it is in use, or has changed meanwhile"),
        ],
    ),
    (
        "split",
        &[
            (0, "done, or printed"),
            (1, "the server refuses it"),
            (2, "wrong usage, or the traffic cannot be shared out so; nothing was changed"),
            (3, "the server cannot be reached"),
            (4, "a Service, or the route to delete, does not exist; nothing was changed"),
            (5, "a route that it has not made is there, or a field belongs to somebody else"),
        ],
    ),
    (
        "explain",
        &[
            (0, "printed, whatever becomes of the request"),
            (1, "something failed"),
            (2, "wrong usage, or something is wrong with the files"),
            (3, "the server cannot be reached"),
            (4, "the workload that asks does not exist"),
        ],
    ),
    (
        "auth check",
        &[
            (0, "all of them may be entered"),
            (1, "one of them may not, or something failed"),
            (2, "wrong usage"),
            (3, "the server cannot be reached"),
            (4, "there is no such service or workload, or none that a node runs"),
        ],
    ),
    (
        "policy suggest",
        &[
            (0, "printed"),
            (1, "something failed"),
            (2, "wrong usage"),
            (3, "the server cannot be reached"),
            (4, "the namespace does not exist, or there is no such Service with workloads"),
        ],
    ),
    (
        "policy impact",
        &[
            (0, "nothing that was seen would change"),
            (1, "something would, or something failed"),
            (2, "wrong usage, or something is wrong with the files"),
            (3, "the server cannot be reached"),
            (4, "something that it needs, or a policy to delete, does not exist"),
        ],
    ),
    (
        "init",
        &[
            (0, "the file is written; what it lacks is said"),
            (1, "it cannot be written"),
            (2, "wrong usage, or nothing can be made of the file that it is to be made of"),
            (5, "there is a tulle.yaml already"),
        ],
    ),
    (
        "validate",
        &[
            (0, "nothing is wrong"),
            (1, "what it says cannot be written"),
            (2, "wrong usage, or something is wrong with the files"),
        ],
    ),
    (
        "logs",
        &[
            (0, "printed"),
            (1, "something cannot be read"),
            (2, "wrong usage"),
            (4, "nothing is there, or nothing of a service or process that is named"),
        ],
    ),
    ("schema", &[(0, "printed"), (1, "it cannot be written"), (2, "wrong usage")]),
    ("status", ON_NAMESPACES),
    ("edges", ON_NAMESPACES),
    (
        "token",
        &[
            (0, "done"),
            (1, "the server refuses to"),
            (2, "wrong usage, or the server cannot make such a token"),
            (3, "the server cannot be reached"),
            (4, "what is named does not exist"),
            (5, "it has changed meanwhile"),
        ],
    ),
    (
        "user",
        &[
            (0, "done"),
            (1, "the server refuses to"),
            (2, "wrong usage, or the server cannot make such a user"),
            (3, "the server cannot be reached"),
            (4, "there is no such token"),
        ],
    ),
    (
        "audit",
        &[
            (0, "printed"),
            (1, "the server refuses to"),
            (2, "wrong usage"),
            (3, "the server cannot be reached"),
        ],
    ),
    ("flow list", ON_OBJECTS),
    (
        "flow show",
        &[
            (0, "printed"),
            (1, "the server refuses to"),
            (2, "wrong usage, or something is wrong with the files or the workflow"),
            (3, "the server cannot be reached"),
            (4, "there is no such Flow"),
        ],
    ),
    (
        "flow run",
        &[
            (0, "the run has completed, or, with --no-wait, has begun"),
            (1, "it faulted or was cancelled, or the server refuses to start it"),
            (2, "wrong usage, or an input that no run takes"),
            (3, "the server cannot be reached"),
            (4, "there is no such Flow"),
            (130, "interrupted: the run goes on"),
        ],
    ),
    (
        "flow runs",
        &[
            (0, "printed; an empty list, too"),
            (1, "the server refuses to"),
            (2, "wrong usage"),
            (3, "the server cannot be reached"),
            (4, "the Flow or the namespace does not exist"),
        ],
    ),
    (
        "flow history",
        &[
            (0, "printed"),
            (1, "the server refuses to, or the run cannot be read"),
            (2, "wrong usage"),
            (3, "the server cannot be reached"),
            (4, "there is no such run"),
        ],
    ),
    ("flow suspend", ON_RUNS),
    ("flow resume", ON_RUNS),
    ("flow cancel", ON_RUNS),
    (
        "flow retry",
        &[
            (0, "asked for"),
            (1, "the server refuses to"),
            (2, "wrong usage, or the run's workflow has no such task"),
            (3, "the server cannot be reached"),
            (4, "there is no such run"),
            (5, "the run is not over, or has completed"),
        ],
    ),
    (
        "history",
        &[
            (0, "printed"),
            (1, "the server refuses to"),
            (2, "wrong usage, or there is no such kind"),
            (3, "the server cannot be reached"),
            (4, "nothing is known of the object, or it has no such revision"),
        ],
    ),
    (
        "rollback",
        &[
            (0, "the object is what it was"),
            (1, "the server refuses to"),
            (2, "wrong usage, or the object would not be valid now"),
            (3, "the server cannot be reached"),
            (4, "there is no such revision, or no such namespace"),
            (5, "it has changed meanwhile"),
        ],
    ),
    ("fake-service", &[(0, "stopped as it was asked to"), (1, "it cannot serve"), (2, "wrong usage")]),
    ("version", &[(0, "printed"), (1, "it cannot be written"), (2, "wrong usage")]),
    ("completions", &[(0, "printed"), (1, "they cannot be written"), (2, "wrong usage")]),
];

const ON_SERVICES: &[(u8, &str)] = &[
    (0, "done"),
    (1, "something failed, or goes on after two minutes"),
    (2, "wrong usage, or it cannot be done"),
    (3, "no `tulle up` runs here, or it is another user's"),
    (4, "there is no such service"),
];

const ON_OBJECTS: &[(u8, &str)] = &[
    (0, "printed; an empty list, too"),
    (1, "something failed"),
    (2, "wrong usage, or there is no such kind"),
    (3, "the server cannot be reached"),
    (4, "an object, or the namespace, does not exist"),
];

const ON_RUNS: &[(u8, &str)] = &[
    (0, "asked for"),
    (1, "the server refuses to"),
    (2, "wrong usage"),
    (3, "the server cannot be reached"),
    (4, "there is no such run"),
    (5, "the run is in no state for that"),
];

const ON_NAMESPACES: &[(u8, &str)] = &[
    (0, "printed"),
    (1, "something failed"),
    (2, "wrong usage"),
    (3, "the server cannot be reached"),
    (4, "the namespace does not exist"),
];

/// A command with its exit codes in its help, and so those below it.
pub fn with_codes(command: clap::Command, above: &str) -> clap::Command {
    let name = format!("{above} {}", command.get_name()).trim().to_owned();
    let command = command.mut_subcommands(|below| with_codes(below, &name));
    let codes = name.split(' ').next().map(|first| (first, name.as_str()));
    let of =
        |wanted: &str| BY_COMMAND.iter().find(|(command, _)| *command == wanted).map(|(_, codes)| *codes);
    let Some(codes) = codes.and_then(|(first, name)| of(name).or_else(|| of(first))) else { return command };
    let lines: Vec<_> = codes.iter().map(|(code, meaning)| format!("  {code}  {meaning}")).collect();
    let codes = format!("Exit codes:\n{}", lines.join("\n"));
    let help = command.get_after_help().map(|help| format!("{}\n\n{codes}", help.ansi()));
    command.after_help(help.unwrap_or(codes))
}

/// Why a command failed, for people: what, and what to do next.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    message: String,
    help: Vec<String>,
    /// The server says that this user may not.
    pub is_denied: bool,
    /// The message is a finished report (`diagnostic`), printed as it is.
    report: bool,
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failure,
            message: message.into(),
            help: Vec::new(),
            is_denied: false,
            report: false,
        }
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
        note(&self.rendered(terminal::width(std::io::stderr())));
    }

    /// What [`Failure::print`] prints, in lines of at most `width` columns.
    pub fn rendered(&self, width: Option<usize>) -> String {
        use anstyle::AnsiColor::{Cyan, Red};
        let paint = |color: anstyle::AnsiColor| color.on_default().bold();
        let red = paint(Red);
        let mut parts = vec![match self.report {
            true => self.message.trim_end().to_owned(),
            false => terminal::wrap(&format!("{red}error{red:#}: {}", shown(&self.message)), width, 2),
        }];
        let cyan = paint(Cyan);
        let helps = self.help.iter().map(|help| format!("{cyan}help{cyan:#}: {}", shown(help)));
        parts.extend(helps.map(|help| terminal::wrap(&help, width, 2)));
        parts.join("\n")
    }
}

/// A message that may hold what others wrote: nothing in it controls the terminal, and its lines after the first are
/// seen to belong to it.
fn shown(message: &str) -> String {
    message.lines().map(legible).collect::<Vec<_>>().join("\n  ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_others_forge_nothing() {
        assert_eq!(shown("a: \x1b[2Jb\nerror: c\r"), "a: ^[[2Jb\n  error: c\\r");
        assert_eq!(shown(""), "");
    }

    #[test]
    fn the_documentation_has_every_code() {
        let text = include_str!("../../../docs/commands.md");
        for (command, codes) in BY_COMMAND {
            for (code, meaning) in *codes {
                let row = format!("| `tulle {command}` | {code} | {meaning} |");
                assert!(text.contains(&row), "docs/commands.md has no row\n{row}");
            }
        }
        let rows = text.lines().filter(|line| line.starts_with("| `tulle ")).count();
        assert_eq!(
            rows,
            BY_COMMAND.iter().map(|(_, codes)| codes.len()).sum::<usize>(),
            "rows that are no more true"
        );
    }
}
