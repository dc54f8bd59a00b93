//! `tulle logs`, and what becomes of lines of which there are many, or that are long.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{code, stderr, stdout, tulle};

fn write(folder: &Path, service: &str, lines: &str) {
    let logs = folder.join("home/logs");
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join(format!("{service}.log")), lines).unwrap();
}

#[test]
fn what_can_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let output = tulle(folder.path(), &["logs", "-h"]);
    let said = stdout(&output).replace(folder.path().to_str().unwrap(), "FOLDER");
    insta::assert_snapshot!("help", said);
}

#[test]
fn who_said_nothing_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let output = tulle(folder.path(), &["logs"]);
    assert_eq!(code(&output), 4);
    assert!(stderr(&output).contains("there are no logs in"), "{}", stderr(&output));
    write(folder.path(), "web", "2026-03-01T09:00:00.000123Z web o hello\n");
    let output = tulle(folder.path(), &["logs", "wbe"]);
    assert_eq!(code(&output), 4);
    let said = "error: there is no service `wbe`; did you mean `web`?\nhelp: there are logs of web\n";
    assert_eq!(stderr(&output), said);
    assert_eq!(stdout(&tulle(folder.path(), &["logs", "web"])), "web   │ hello\n");
}

fn start(folder: &Path, words: &[&str], output: Stdio) -> Child {
    // Who runs these tests may have them ignore Ctrl-C (a shell does, of what it starts in the background).
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_tulle")]);
    command.args(words).current_dir(folder).env("TULLE_HOME", folder.join("home")).env_remove("RUST_LOG");
    command.stdout(output).stderr(Stdio::null()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn who_follows_is_ended_by_ctrl_c_and_by_a_reader_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "web", &"2026-03-01T09:00:00.000123Z web o hello\n".repeat(10_000));
    let follow = || start(folder.path(), &["logs", "-f", "--tail", "9000"], Stdio::piped());
    let mut interrupted = follow();
    let mut lines = BufReader::new(interrupted.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "web   │ hello");
    signal(&interrupted, Signal::SIGINT);
    assert_eq!(interrupted.wait().unwrap().signal(), Some(Signal::SIGINT as i32));

    let mut unread = follow();
    drop(unread.stdout.take());
    assert_eq!(unread.wait().unwrap().code(), Some(0));
}

/// How much memory a process has that is no file's, in KiB.
fn memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Whatever the services print, and wherever it goes: nothing is lost, and little is held in memory.
#[test]
fn many_lines_and_long_ones_are_all_kept() {
    const MOST: u64 = 40 << 10;
    let folder = tempfile::tempdir().unwrap();
    // 20 lines of 1 MB; 1 MB that is no text.
    let file = "services:\n  \
        many: {command: [sh, -c, 'seq 1 60000; echo end; exec sleep 1000']}\n  \
        long: {command: [sh, -c, 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do head -c 1000000 /dev/zero | tr \"\\0\" x; echo; done; echo end; exec sleep 1000']}\n  \
        binary: {command: [sh, -c, 'head -c 1000000 /dev/zero | tr \"\\0\" \"\\377\"; echo; echo end; exec sleep 1000']}\n";
    fs::write(folder.path().join("tulle.yaml"), file).unwrap();
    let printed = folder.path().join("printed");
    let output = File::create(&printed).unwrap();
    let mut up = start(folder.path(), &["up", "--capture", "explicit"], output.into());
    let begun = Instant::now();
    let mut most = 0;
    let ends = ["many", "long", "binary"].map(|service| format!("{service:<6} │ end\n"));
    while begun.elapsed() < Duration::from_secs(60) {
        most = most.max(memory(up.id()).expect("it runs"));
        std::thread::sleep(Duration::from_millis(20));
        let text = fs::read_to_string(&printed).unwrap_or_default();
        if ends.iter().all(|end| text.contains(end)) {
            break;
        }
    }
    signal(&up, Signal::SIGTERM);
    assert_eq!(up.wait().unwrap().code(), Some(0));
    assert!(most < MOST, "{most} KiB");

    let texts = |service| {
        let output = tulle(folder.path(), &["logs", "-o", "json", service]);
        let lines = stdout(&output);
        let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let lines = lines.filter(|line| line["stream"] == "stdout");
        lines.map(|line| line["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let many = texts("many");
    assert!(many.iter().take(60_000).enumerate().all(|(at, text)| *text == (at + 1).to_string()));
    assert_eq!(many.len(), 60_001);
    assert_eq!(texts("long").concat(), "x".repeat(20_000_000) + "end");
    assert_eq!(texts("binary").concat(), "\u{fffd}".repeat(1_000_000) + "end");
    let text = fs::read_to_string(&printed).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("many ")).count(), 60_003, "with start and end");
}
