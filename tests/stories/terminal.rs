//! What people see: terminals of two sizes that tmux draws, for root and for others, with and without colours. No line
//! of ours is wrapped by a terminal; what is redrawn leaves it as it was; and pipes get whole lines, and text alone.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tulle_tests::harness::{
    Home, NOBODY, Process, alone, client, eventually, may_run, python, require_root, run, tulle,
};
use tulle_tests::ports::free_port;

const PATIENCE: Duration = Duration::from_secs(30);
/// A name about as long as names may be; with more, the server warns that its EndpointSlice has none.
const LONG: &str = "a-service-whose-name-is-about-as-long-as-names-may-be";
/// What processes say themselves, which is theirs to break.
const THEIR_WORDS: &str = "said by a process itself";
/// What a shell says before its command, and when that has ended.
const BEFORE: &str = "before";
const ENDED: &str = "it has ended:";

/// Terminals of one size, each of which runs one command.
struct Terminals {
    home: Home,
    columns: usize,
    rows: usize,
    colored: bool,
}

impl Terminals {
    fn new(user: Option<u32>, columns: usize, rows: usize, colored: bool) -> Self {
        let home = user.map_or_else(Home::new, Home::of_user);
        home.write(
            "tmux.conf",
            "set -g default-shell /bin/sh\nset -g history-limit 20000\nset -g status off\n",
        );
        let terminals = Self { home, columns, rows, colored };
        // Sessions end one by one, and their server stays.
        terminals.run("server", "exec sleep 600");
        terminals
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = self.home.command("tmux");
        command.arg("-u").arg("-S").arg(self.home.path().join("tmux")).arg("-f").arg("tmux.conf");
        command.args(arguments).env("LC_ALL", "C.UTF-8").env("TULLE", tulle());
        if self.colored {
            command.env_remove("NO_COLOR");
        }
        run(&mut command).ok()
    }

    /// A new terminal in which a shell runs that.
    fn run(&self, name: &str, script: &str) {
        let (columns, rows) = (self.columns.to_string(), self.rows.to_string());
        self.tmux(&["new-session", "-d", "-s", name, "-x", &columns, "-y", &rows, "--", "sh", "-c", script]);
    }

    /// A command, after which its terminal stays.
    fn start(&self, name: &str, command: &str) {
        // The shell outlives Ctrl-C.
        let script =
            format!("trap : INT; echo {BEFORE}; \"$TULLE\" {command}; echo \"{ENDED} $?\"; exec sleep 600");
        self.run(name, &script);
    }

    /// The screen with what has left it above: as it is, or (`-J`) with the lines that the terminal wrapped in one piece.
    fn screen(&self, name: &str, more: &[&str]) -> String {
        self.tmux(&[&["capture-pane", "-p", "-t", name, "-S", "-"], more].concat())
    }

    /// Waits for a command to end, and returns its screen.
    #[track_caller]
    fn ended(&self, name: &str) -> String {
        eventually(&format!("end of {name}"), PATIENCE, || {
            Some(self.screen(name, &[])).filter(|screen| screen.contains(ENDED))
        })
    }

    /// What tmux knows of a terminal.
    fn state(&self, name: &str, what: &str) -> String {
        self.tmux(&["display-message", "-p", "-t", name, what]).trim().to_owned()
    }

    /// Lines of ours that the terminal has wrapped, though they could have been broken.
    fn wrapped(&self, name: &str) -> Vec<String> {
        let joined = self.screen(name, &["-J"]);
        let whole = joined.lines().map(str::trim_end).filter(|line| line.chars().count() > self.columns);
        whole.filter(|line| !may_wrap(line)).map(|line| format!("{name}: {line}")).collect()
    }
}

impl Drop for Terminals {
    fn drop(&mut self) {
        let mut end = self.home.command("tmux");
        let _ = end.arg("-S").arg(self.home.path().join("tmux")).arg("kill-server").output();
    }
}

/// Whether a line may be longer than a terminal is wide.
fn may_wrap(line: &str) -> bool {
    let (before, text) = line.split_once(" │ ").unwrap_or(("", line));
    // Whose words they are, only he knows how to break.
    let is_theirs = text.contains(THEIR_WORDS) || text.starts_with("fake-service listens");
    // Commands that `up` suggests are pasted, and a line break would end them.
    let is_suggested = before.starts_with("tulle")
        && ["look:  ", "call:  ", "       "].iter().any(|label| text.starts_with(label));
    // Nor is there a place to break a single word, such as a path, or what stands in backticks, which is pasted, too.
    is_theirs || is_suggested || pieces(text.trim()) == 1
}

/// How many pieces a text could be broken into.
fn pieces(text: &str) -> usize {
    let mut quoted = false;
    let blanks = text.chars().filter(|&c| {
        quoted ^= c == '`';
        c == ' ' && !quoted
    });
    blanks.count() + 1
}

#[test]
fn what_may_wrap_is_told_from_what_may_not() {
    for line in [
        "/a/path",
        "  `tulle run me -- x`)",
        "tulle │ look:  tulle status --home /x",
        "a │ said by a process itself",
    ] {
        assert!(may_wrap(line), "{line}");
    }
    for line in ["two words", "it is `a b` c", "web │ • it ended", "tulle │ all services are ready"] {
        assert!(!may_wrap(line), "{line}");
    }
}

/// A mesh with all that makes lines long; returns when each of its services is as it will be.
fn start_mesh(terminals: &Terminals) {
    let home = &terminals.home;
    let (binary, ports) = (tulle().display().to_string(), [(); 4].map(|()| free_port()));
    let many_words = [THEIR_WORDS; 12].join(" and ");
    home.write(
        "mesh/tulle.yaml",
        &format!(
            "namespace: shop\nservices:\n\
             \x20 {LONG}: {{command: [\"{binary}\", fake-service], port: {}/http}}\n\
             \x20 bad: {{command: [sh, -c, 'echo {many_words}; sleep 0.2; exit 3'], port: {}}}\n\
             \x20 late: {{command: [\"{binary}\", fake-service], port: {}, dependsOn: [bad, {LONG}]}}\n\
             \x20 web: {{command: [\"{binary}\", fake-service], port: {}/http, replicas: 2}}\n\
             \x20 job: {{command: [sh, -c, 'exit 4'], restart: never}}\n",
            ports[0], ports[1], ports[2], ports[3]
        ),
    );
    home.write(
        "wrong/tulle.yaml",
        &format!(
            "services:\n  {LONG}: {{comand: x, port: 80/htpp, dependsOn: [nowhere], probe: {{http: x, tcp: 1}}, environment: {{A: b}}}}\n"
        ),
    );
    if let Some(user) = home.user {
        for path in ["mesh", "mesh/tulle.yaml", "tmux.conf"] {
            std::os::unix::fs::chown(home.path().join(path), Some(user), Some(user)).unwrap();
        }
    }
    terminals.start("up", "up mesh --workers 1 --capture explicit");
    let is_as_it_will_be = || {
        let status: Value = serde_json::from_str(&home.tulle(&["ps", "-o", "json"]).stdout).ok()?;
        let processes = status["processes"].as_array()?;
        let is = |name: &str, state: &str| processes.iter().any(|p| p["name"] == name && p["state"] == state);
        let crashes = processes.iter().any(|p| p["name"] == "bad" && p["restarts"].as_u64() >= Some(2));
        (is(LONG, "ready") && is("web-0", "ready") && is("web-1", "ready") && is("job", "failed") && crashes)
            .then_some(())
    };
    let end = std::time::Instant::now() + PATIENCE;
    while is_as_it_will_be().is_none() {
        assert!(std::time::Instant::now() < end, "no such mesh:\n{}", terminals.screen("up", &[]));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Each with what its screen must show, lest an empty one pass.
fn commands() -> Vec<(&'static str, String, &'static str)> {
    vec![
        ("ps", "ps".to_owned(), "processes are not well"),
        ("status", "status".to_owned(), "things are not well"),
        ("logs", "logs --tail 20".to_owned(), "• ready"),
        ("logs-t", "logs -t --tail 20".to_owned(), "• ready"),
        ("edges", "edges".to_owned(), "o traffic"),
        ("help", "--help".to_owned(), "Exit codes"),
        ("up-help", "up --help".to_owned(), "--capture"),
        ("status-help", "status --help".to_owned(), "--interval"),
        ("wrong", "validate wrong/tulle.yaml".to_owned(), "did you mean"),
        ("unknown", "ps nowhere".to_owned(), "there is no service"),
        ("nobody", format!("logs {LONG}-x"), "there is no service"),
        ("no-mesh", "ps --home /nowhere/at/all".to_owned(), "no `tulle up` runs"),
    ]
}

/// On one size of terminal, all that people look at every day.
fn look(terminals: &Terminals) -> Vec<String> {
    start_mesh(terminals);
    let commands = commands();
    for (name, command, _) in &commands {
        terminals.start(name, command);
    }
    terminals.start("watch", "status --watch --interval 200ms");
    terminals.start("watch-ps", "ps -w --interval 200ms");
    let mut wrong = Vec::new();
    for (name, _, shown) in &commands {
        let screen = terminals.ended(name);
        assert!(terminals.screen(name, &["-J"]).contains(shown), "{name} has no `{shown}`:\n{screen}");
        wrong.extend(terminals.wrapped(name));
    }
    for name in ["watch", "watch-ps"] {
        eventually("its last line", PATIENCE, || {
            let screen = terminals.screen(name, &[]);
            let lines: Vec<_> = screen.lines().collect();
            (lines.len() <= terminals.rows && screen.contains(" are not well")).then_some(())
        });
        wrong.extend(terminals.wrapped(name));
    }
    wrong.extend(terminals.wrapped("up"));

    // Colours are all that escape sequences are for, where nothing is redrawn.
    let sequences = |name: &str| terminals.screen(name, &["-e"]).contains('\x1b');
    for name in ["ps", "status", "wrong", "unknown", "up", "watch"] {
        assert_eq!(sequences(name), terminals.colored, "{name}: {}", terminals.screen(name, &["-e"]));
    }
    terminals.tmux(&["send-keys", "-t", "up", "C-c"]);
    assert!(terminals.ended("up").contains(&format!("{ENDED} 0")));
    wrong.extend(terminals.wrapped("up"));
    wrong
}

fn nothing_wraps(user: Option<u32>) {
    if !may_run("tmux", Command::new("tmux").arg("-V").output().is_ok()) {
        return;
    }
    let _alone = alone();
    let mut wrong = BTreeSet::new();
    for (columns, rows, colored) in [(80, 24, true), (80, 24, false), (120, 40, true), (120, 40, false)] {
        let terminals = Terminals::new(user, columns, rows, colored);
        wrong.extend(look(&terminals).into_iter().map(|line| format!("{columns} columns, {line}")));
    }
    assert!(wrong.is_empty(), "wrapped:\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn nothing_of_ours_wraps_for_root() {
    require_root!();
    nothing_wraps(None);
}

#[test]
fn nothing_of_ours_wraps_for_others() {
    nothing_wraps(nix::unistd::geteuid().is_root().then_some(NOBODY));
}

/// A mesh of one service, with nothing to complain of.
fn quiet(home: &Home, port: u16) -> Process {
    home.write(
        "mesh/tulle.yaml",
        &format!(
            "services:\n  web: {{command: [\"{}\", fake-service], port: {port}, user: nobody}}\n",
            tulle().display()
        ),
    );
    let up = home.start(&["up", "mesh", "--capture", "explicit", "--workers", "1"]);
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    up
}

/// The one process that a process has started.
fn child(parent: &str) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
}

#[test]
fn a_watch_redraws_in_place_and_leaves_the_terminal_as_it_was() {
    require_root!();
    if !may_run("tmux", Command::new("tmux").arg("-V").output().is_ok()) {
        return;
    }
    let _alone = alone();
    let terminals = Terminals::new(None, 80, 24, true);
    let home = &terminals.home;
    let port = free_port();
    let up = quiet(home, port);
    let watch = |name: &str| terminals.start(name, "status --watch --interval 200ms");
    let shows = |name: &str, what: &str| {
        eventually(&format!("`{what}`"), PATIENCE, || {
            Some(terminals.screen(name, &[])).filter(|screen| screen.contains(what))
        })
    };
    // In place: the other screen, without a cursor.
    watch("one");
    let screen = shows("one", "all is well");
    assert!(screen.starts_with("NODE ") && !screen.contains(BEFORE), "{screen}");
    assert_eq!(terminals.state("one", "#{alternate_on} #{cursor_flag}"), "1 0");
    home.tulle(&["stop", "web"]).ok();
    let screen = shows("one", "stopped");
    assert_eq!(screen.matches("NODE ").count(), 1, "{screen}");
    // What was longer leaves nothing.
    home.tulle(&["start", "web"]).ok();
    eventually("it being well again", PATIENCE, || {
        let screen = terminals.screen("one", &[]);
        (screen.contains("all is well") && screen.matches("well").count() == 1 && !screen.contains("stopped"))
            .then_some(())
    });
    // Of a small one, the last line is shown.
    terminals.tmux(&["resize-window", "-t", "one", "-x", "60", "-y", "6"]);
    let screen = shows("one", " more line");
    assert!(screen.trim_end().ends_with("all is well") && screen.starts_with("NODE "), "{screen}");
    terminals.tmux(&["resize-window", "-t", "one", "-x", "100", "-y", "30"]);
    eventually("the larger one", PATIENCE, || {
        (!terminals.screen("one", &[]).contains(" more line")).then_some(())
    });

    // Where the mesh goes and comes, it stays.
    assert!(up.interrupt().success());
    shows("one", "trying again");
    let up = quiet(home, port);
    shows("one", "all is well");

    // Whatever ends it, the terminal is as it was.
    watch("two");
    shows("two", "all is well");
    terminals.tmux(&["send-keys", "-t", "one", "C-c"]);
    kill(child(&terminals.state("two", "#{pane_pid}")).unwrap(), Signal::SIGTERM).unwrap();
    let after = format!("{BEFORE}\n{ENDED} 0");
    assert_eq!(terminals.ended("two").trim_end(), after);
    // Where tmux made a screen smaller, it may keep lines of it above.
    assert!(terminals.ended("one").trim_end().ends_with(&after), "{}", terminals.ended("one"));
    for name in ["one", "two"] {
        assert_eq!(terminals.state(name, "#{alternate_on} #{cursor_flag}"), "0 1", "{name}");
    }

    // In one piece: it is never cleared as a whole. And it ends with its terminal.
    let binary = tulle().display().to_string();
    let mut terminal = home.command(python());
    terminal.env("TERMINAL_COLUMNS", "80").env("TERM", "xterm");
    terminal.args([&client("terminal.py"), &binary, "status", "-w", "--interval", "100ms"]);
    let raw = Process::spawn(&mut terminal);
    eventually("three frames", PATIENCE, || (raw.stdout().matches("\x1b[HNODE").count() >= 3).then_some(()));
    assert!(!raw.stdout().contains("\x1b[2J"), "{:?}", raw.stdout());
    raw.signal(Signal::SIGUSR1);
    raw.wait(PATIENCE);
    assert!(raw.stdout().ends_with("ended 0"), "{:?}", raw.stdout());
    assert!(up.interrupt().success());
}

#[test]
fn a_pipe_gets_what_has_changed() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let up = quiet(&home, free_port());
    let look = |words: &[&str]| home.start(&[words, &["--watch", "--interval", "100ms"]].concat());
    let (text, json, ps) = (look(&["status"]), look(&["status", "-o", "json"]), look(&["ps", "-o", "json"]));
    text.wait_for_line("the first block", PATIENCE, |line| line == "all is well");
    let first = json.wait_for_line("the first line", PATIENCE, |line| line.starts_with('{'));
    assert!(first.contains("\"web\""), "{first}");
    ps.wait_for_line("the first line", PATIENCE, |line| line.contains("\"ready\""));
    // Ages grow, and nothing else happens: so many looks, and no more than the node's last words.
    std::thread::sleep(Duration::from_secs(2));
    let blocks = |process: &Process, start: &str| {
        process.stdout().lines().filter(|line| line.starts_with(start)).count()
    };
    for (process, start) in [(&text, "NODE"), (&json, "{"), (&ps, "{")] {
        assert!(blocks(process, start) <= 4, "{}", process.stdout());
    }
    home.tulle(&["stop", "web"]).ok();
    text.wait_for_line("a block", PATIENCE, |line| line.contains("stopped"));
    json.wait_for_line("a line", PATIENCE, |line| line.contains("\"stopped\""));
    ps.wait_for_line("a line", PATIENCE, |line| line.contains("\"stopped\""));
    for process in [&json, &ps] {
        for line in process.stdout().lines() {
            serde_json::from_str::<Value>(line).unwrap();
        }
    }
    assert!(up.interrupt().success());
    eventually("a word about it", PATIENCE, || ps.stderr().contains("no `tulle up` runs").then_some(()));
    for process in [text, json, ps] {
        assert!(!process.stdout().contains('\x1b') && !process.stderr().contains('\x1b'));
        process.signal(Signal::SIGTERM);
        process.wait(PATIENCE);
    }
}

/// Nothing is broken, cut or coloured that a program reads.
#[test]
fn pipes_get_whole_lines() {
    let _alone = alone();
    let home = if nix::unistd::geteuid().is_root() { Home::of_user(NOBODY) } else { Home::new() };
    let (binary, ports) = (tulle().display().to_string(), [free_port(), free_port(), free_port()]);
    home.write(
        "mesh/tulle.yaml",
        &format!(
            "namespace: shop\nservices:\n\
             \x20 {LONG}: {{command: [\"{binary}\", fake-service], port: {}}}\n\
             \x20 {LONG}-b: {{command: [sh, -c, 'sleep 1; exit 3'], port: {}}}\n\
             \x20 late: {{command: [\"{binary}\", fake-service], port: {}, dependsOn: [{LONG}, {LONG}-b]}}\n",
            ports[0], ports[1], ports[2]
        ),
    );
    home.write("wrong/tulle.yaml", "services:\n  a: {comand: x, port: 80/htpp}\n");
    // Whatever the environment says of colours and sizes.
    let say = |words: &[&str]| {
        let mut command = home.command(tulle());
        command.args(words).env_remove("NO_COLOR").env("TERM", "xterm-256color").env("COLUMNS", "40");
        command
    };
    let up = Process::spawn(&mut say(&["up", "mesh", "--capture", "explicit", "--workers", "1"]));
    up.wait_for_line("who waits, in one line", PATIENCE, |line| {
        line.starts_with("late ") && line.contains(&format!("• waits for {LONG}-b (it"))
    });
    for words in [
        &["ps"][..],
        &["status"],
        &["logs"],
        &["edges"],
        &["--help"],
        &["validate", "wrong/tulle.yaml"],
        &["ps", "x"],
    ] {
        let said = run(&mut say(words));
        for text in [&said.stdout, &said.stderr] {
            assert!(!text.contains('\x1b') && !text.contains('…'), "{words:?}: {text:?}");
        }
        if ["ps", "status"].contains(&words[0]) && words.len() == 1 {
            let waits = said.stdout.lines().find(|line| line.contains("late: waits for "));
            assert!(waits.is_some_and(|line| line.contains(&format!("{LONG}-b (it"))), "{}", said.stdout);
            assert!(said.stdout.contains(&format!("{LONG}   ")), "{}", said.stdout);
        }
    }
    assert!(!up.stdout().contains('\x1b'));
    assert!(up.interrupt().success());
}
