//! Whether the unit tests notice when something that guards is changed: docs/mutants.md. What guards, and which changes
//! of it are no fault, stands in `.cargo/mutants.toml`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use toml::{Table, Value};

use crate::{files, tidy};

const VERSION: &str = "^27.1";
/// What building and running the unit tests of a crate may take, in seconds: a mutant may make them run for ever.
const BUILD_TIMEOUT: u32 = 600;
const TEST_TIMEOUT: u32 = 120;
/// What `cargo xtask test` tries of a change at most: so many, for so many minutes.
const MOST_OF_CHANGE: usize = 20;
const MINUTES_OF_CHANGE: u32 = 1;
/// Inputs of each fuzz target, which are among the unit tests: their own runs have many more.
const FUZZ_INPUTS: &str = "300";

/// Which mutants are tried.
#[derive(Args)]
pub struct Selection {
    /// Only those in lines that have changed since this commit (committed or not)
    #[arg(long, value_name = "COMMIT")]
    since: Option<String>,
    /// Only one part of N, counted from 0: what is too much for one run
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// At most so many, spread over all
    #[arg(long, value_name = "N", conflicts_with = "shard")]
    most: Option<usize>,
    /// End after so many minutes; what was not tried is named
    #[arg(long, value_name = "M")]
    minutes: Option<u32>,
    /// Trust that the unit tests pass without any mutant
    #[arg(long)]
    no_baseline: bool,
    /// Only these files or folders, from the top of the repository (all that guard otherwise)
    #[arg(value_name = "FILE")]
    files: Vec<String>,
}

/// What `cargo xtask test` runs for the change at hand; `None` where it touches nothing that guards.
pub fn of_change(root: &Path) -> Result<Option<Command>> {
    let Some(base) = base(root) else {
        println!("mutants are not tried: no commit before this one is here");
        return Ok(None);
    };
    if guarded_diff(root, &Guards::read(root)?, &base)?.is_none() {
        return Ok(None);
    }
    let mut command = this_program();
    command.args(["mutants", "--no-baseline", "--since", &base]);
    command.args(["--most", &MOST_OF_CHANGE.to_string(), "--minutes", &MINUTES_OF_CHANGE.to_string()]);
    command.current_dir(root);
    Ok(Some(command))
}

/// This program, also when its file is another's by now: building the workspace replaces it.
fn this_program() -> Command {
    Command::new(format!("/proc/{}/exe", std::process::id()))
}

/// Tries the mutants that are selected, and names those that no unit test notices.
pub fn run(root: &Path, selection: &Selection) -> Result<()> {
    let folder = crate::target(root).join("mutants");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let guards = Guards::read(root)?;
    let mut chosen = guards.arguments(root, &selection.files);
    if let Some(commit) = &selection.since {
        let Some(diff) = guarded_diff(root, &guards, commit)? else {
            println!("mutants: nothing that guards has changed since {commit}");
            return Ok(());
        };
        let file = folder.join("change.diff");
        fs::write(&file, diff).with_context(|| file.display().to_string())?;
        chosen.extend(["--in-diff".to_owned(), file.display().to_string()]);
    }
    ensure_tool(root)?;
    let tree = folder.join("tree");
    copy_tree(root, &tree)?;
    seed(&crate::target(root).join("debug"), &folder.join("target/debug"))?;

    let all = list(root, &tree, &chosen)?;
    if let Some(shard) = &selection.shard {
        chosen.extend(["--shard".to_owned(), shard.clone()]);
    }
    if let Some(most) = selection.most
        && all.len() > most
    {
        chosen.extend(["--sharding", "round-robin", "--shard"].map(str::to_owned));
        chosen.push(format!("0/{}", all.len().div_ceil(most.max(1))));
    }
    // The command ends with failure where mutants survive, and where it is ended: what counts is what it has written.
    let status = tool(root, &tree, selection.minutes)
        .args(&chosen)
        .args(["--in-place", "--output"])
        .arg(&folder)
        .args(["--baseline", if selection.no_baseline { "skip" } else { "run" }])
        .args(["--timeout", &TEST_TIMEOUT.to_string(), "--build-timeout", &BUILD_TIMEOUT.to_string()])
        .args(["--no-times", "--annotations", "none"])
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env("CARGO_PROFILE_TEST_DEBUG", "0")
        // One function differs from one build to the next, also where other builds are not incremental (`.ci/run`).
        .env("CARGO_INCREMENTAL", "1")
        .env("TULLE_FUZZ_INPUTS", FUZZ_INPUTS)
        // Else it shows where it was when its time was up.
        .env("RUST_BACKTRACE", "0")
        .status()
        .context("timeout (Debian package coreutils) could not be started")?;
    const SURVIVORS: i32 = 2;
    const HANGS: i32 = 3;
    const ENDED: i32 = 124;
    if !matches!(status.code(), Some(0 | SURVIVORS | HANGS | ENDED)) {
        bail!("cargo mutants: {status}");
    }
    Outcome::read(&folder.join("mutants.out"), &all)?.tell(&folder)
}

/// What became of the mutants, by name.
struct Outcome {
    noticed: usize,
    hang: usize,
    not_viable: usize,
    survivors: Vec<String>,
    not_tried: Vec<String>,
}

impl Outcome {
    fn read(folder: &Path, all: &[String]) -> Result<Self> {
        let names = |file: &str| -> Result<Vec<String>> {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let [noticed, hang, not_viable, survivors] =
            [names("caught.txt")?, names("timeout.txt")?, names("unviable.txt")?, names("missed.txt")?];
        let tried: BTreeSet<_> = [&noticed, &hang, &not_viable, &survivors].into_iter().flatten().collect();
        let not_tried = all.iter().filter(|name| !tried.contains(name)).cloned().collect();
        let [noticed, hang, not_viable] = [noticed, hang, not_viable].map(|names| names.len());
        Ok(Self { noticed, hang, not_viable, survivors, not_tried })
    }

    fn tell(&self, folder: &Path) -> Result<()> {
        let file = folder.join("not-tried.txt");
        fs::write(&file, self.not_tried.join("\n")).with_context(|| file.display().to_string())?;
        for name in &self.survivors {
            println!("not noticed: {name}");
        }
        let untried = match self.not_tried.len() {
            0 => "none left".to_owned(),
            count => format!("{count} not tried ({})", file.display()),
        };
        println!(
            "mutants: {} noticed, {} more make a test hang, {} do not compile, {} not noticed, {untried}",
            self.noticed,
            self.hang,
            self.not_viable,
            self.survivors.len()
        );
        match self.survivors.len() {
            0 => Ok(()),
            count => {
                bail!("{count} changes of what guards fail no unit test of their crate: docs/mutants.md")
            }
        }
    }
}

/// Where the change at hand begins: at the branch that it is for, or else with the last commit.
fn base(root: &Path) -> Option<String> {
    let head = git(root, &["rev-parse", "HEAD"]).ok()?;
    let fork = |branch: &str| git(root, &["merge-base", "HEAD", branch]).ok().filter(|found| *found != head);
    let found = ["origin/HEAD", "origin/main", "main"].into_iter().find_map(fork);
    found.or_else(|| git(root, &["rev-parse", "--verify", "--quiet", "HEAD~1"]).ok())
}

/// What has changed since that commit in files that guard; `None` where it is nothing but their tests.
fn guarded_diff(root: &Path, guards: &Guards, commit: &str) -> Result<Option<String>> {
    let format = ["--no-color", "--no-ext-diff", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/"];
    let paths = guards.pathspecs();
    let paths = paths.iter().map(String::as_str);
    let arguments: Vec<&str> =
        ["diff"].into_iter().chain(format).chain([commit, "--"]).chain(paths).collect();
    let diff = git(root, &arguments)?;
    let read = |file: &str| fs::read_to_string(root.join(file)).ok();
    Ok(touches_production(&diff, read).then(|| diff + "\n"))
}

/// Whether a diff has a line, on its new side, that stands before the tests of its file.
fn touches_production(diff: &str, read: impl Fn(&str) -> Option<String>) -> bool {
    let (mut lines, mut at) = (0, 0);
    for line in diff.lines() {
        if let Some(file) = line.strip_prefix("+++ ") {
            let text = file.strip_prefix("b/").and_then(&read).unwrap_or_default();
            lines = tidy::production_part(&text).lines().count();
        } else if let Some(hunk) = line.strip_prefix("@@ ") {
            let start = hunk.split_once('+').and_then(|(_, new)| new.split([',', ' ']).next());
            at = start.and_then(|number| number.parse().ok()).unwrap_or(1);
        } else if at > 0 && !line.starts_with("diff ") && !line.starts_with("--- ") {
            match line.as_bytes().first() {
                Some(b'+') if at <= lines => return true,
                // What follows is a line further up by now.
                Some(b'-') if at <= lines.max(1) => return true,
                Some(b'+' | b' ') => at += 1,
                _ => {}
            }
        } else {
            at = 0;
        }
    }
    false
}

/// The files that guard, as `.cargo/mutants.toml` names them.
struct Guards {
    examined: Vec<String>,
    excluded: Vec<String>,
    excluded_names: Vec<String>,
    cargo_arguments: Vec<String>,
}

impl Guards {
    fn read(root: &Path) -> Result<Self> {
        let file = root.join(".cargo/mutants.toml");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let settings: Table = text.parse().with_context(|| file.display().to_string())?;
        let texts = |key: &str| -> Vec<String> {
            let texts = settings.get(key).and_then(Value::as_array).into_iter().flatten();
            texts.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Ok(Self {
            examined: texts("examine_globs"),
            excluded: texts("exclude_globs"),
            excluded_names: texts("exclude_re"),
            cargo_arguments: texts("additional_cargo_args"),
        })
    }

    /// What chooses the mutants, of `files` alone where there are any: cargo-mutants would add them to its settings'.
    fn arguments(&self, root: &Path, files: &[String]) -> Vec<String> {
        let named = |file: &String| {
            let file = file.trim_end_matches('/');
            if root.join(file).is_dir() { format!("{file}/**/*.rs") } else { file.to_owned() }
        };
        let examined: Vec<String> =
            if files.is_empty() { self.examined.clone() } else { files.iter().map(named).collect() };
        let mut arguments = ["--no-config", "--workspace"].map(str::to_owned).to_vec();
        for (option, texts) in [
            ("--file", &examined),
            ("--exclude", &self.excluded),
            ("--exclude-re", &self.excluded_names),
            ("--cargo-arg", &self.cargo_arguments),
        ] {
            arguments.extend(texts.iter().map(|text| format!("{option}={text}")));
        }
        arguments
    }

    /// For git, which reads these globs as cargo-mutants does.
    fn pathspecs(&self) -> Vec<String> {
        let examined = self.examined.iter().map(|glob| format!(":(glob){glob}"));
        let excluded = self.excluded.iter().map(|glob| format!(":(glob,exclude){glob}"));
        examined.chain(excluded).collect()
    }
}

/// Whether each glob names a file, and each exception says why it is none.
pub fn check(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let files = git(root, &["ls-files", "--cached", "--others", "--exclude-standard"]).unwrap_or_default();
    // Without a repository nothing can be said.
    for glob in Guards::read(root)?.examined.iter().filter(|_| !files.is_empty()) {
        if git(root, &["ls-files", "--cached", "--others", "--", &format!(":(glob){glob}")])?.is_empty() {
            problems.push(format!(".cargo/mutants.toml: no file is `{glob}`"));
        }
    }
    Ok(())
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").current_dir(root).args(arguments).stderr(Stdio::null()).output();
    let output = output.context("git could not be started")?;
    anyhow::ensure!(output.status.success(), "git {}: {}", arguments.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// cargo-mutants, on that tree.
fn tool(root: &Path, tree: &Path, minutes: Option<u32>) -> Command {
    let cargo = crate::cargo(root);
    let mut command = match minutes {
        None => Command::new(cargo.get_program()),
        Some(minutes) => {
            let mut command = Command::new("timeout");
            command
                .args(["--foreground", "--kill-after=60", &format!("{minutes}m")])
                .arg(cargo.get_program());
            command
        }
    };
    command.current_dir(tree).args(["mutants", "--dir"]).arg(tree);
    command
}

/// The names of the mutants.
fn list(root: &Path, tree: &Path, chosen: &[String]) -> Result<Vec<String>> {
    let output = tool(root, tree, None).args(chosen).arg("--list").stderr(Stdio::inherit()).output()?;
    anyhow::ensure!(output.status.success(), "cargo mutants --list: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn ensure_tool(root: &Path) -> Result<()> {
    let version = crate::cargo(root).args(["mutants", "--version"]).stderr(Stdio::null()).output();
    let there = version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(" 27."));
    if !there {
        crate::run(crate::cargo(root).args([
            "install",
            "--locked",
            "--debug",
            "cargo-mutants",
            "--version",
            VERSION,
        ]))?;
    }
    Ok(())
}

/// Makes `tree` a copy of the sources as they are. What is the same stays as it is, and so does what was compiled of it.
fn copy_tree(root: &Path, tree: &Path) -> Result<()> {
    let listed = git(root, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    let wanted: BTreeSet<PathBuf> =
        listed.split('\0').map(PathBuf::from).filter(|path| root.join(path).is_file()).collect();
    for path in &wanted {
        let (from, to) = (root.join(path), tree.join(path));
        let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
        if fs::read(&to).is_ok_and(|found| found == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(tree)).with_context(|| to.display().to_string())?;
        fs::copy(&from, &to).with_context(|| to.display().to_string())?;
    }
    for path in files::below(vec![tree.to_owned()], |_| true)? {
        if path.strip_prefix(tree).is_ok_and(|path| !wanted.contains(path)) {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Gives a folder of its own what the tests have compiled of others' crates: mutants of ours must not get among
/// what the tests run.
fn seed(from: &Path, to: &Path) -> Result<()> {
    const OURS: &[&str] = &["tulle", "libtulle", "xtask", "hot"];
    for folder in ["deps", ".fingerprint", "build"] {
        let Ok(entries) = fs::read_dir(from.join(folder)) else { return Ok(()) };
        let to = to.join(folder);
        fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--no-clobber", "--target-directory"]).arg(&to);
        // Cargo writes anew, in place, what it notes of a crate; what it makes of one it replaces.
        if folder == "deps" {
            copy.arg("--link");
        }
        let mut any = false;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let ours = OURS.iter().any(|start| name.to_string_lossy().starts_with(start));
            if !ours && !to.join(&name).exists() {
                any = true;
                copy.arg(entry.path());
            }
        }
        if any {
            crate::run(&mut copy)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_tests_alone_needs_no_mutants() {
        let file = "fn a() {}\nfn b() {}\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
        let diff = |hunk: &str| format!("diff --git a/x.rs b/x.rs\n--- a/x.rs\n+++ b/x.rs\n{hunk}");
        let read = |name: &str| (name == "x.rs").then(|| file.to_owned());
        for (hunk, expected) in [
            ("@@ -1,3 +1,3 @@\n fn a() {}\n-fn b() { }\n+fn b() {}\n \n", true),
            ("@@ -2,2 +2 @@\n fn b() {}\n-fn gone() {}\n", true),
            ("@@ -5,2 +5,3 @@ mod tests\n mod tests {\n+    fn c() {}\n }\n", false),
            ("@@ -3,4 +3,4 @@\n \n #[cfg(test)]\n mod tests {\n-    fn d() {}\n+    fn c() {}\n", false),
        ] {
            assert_eq!(touches_production(&diff(hunk), read), expected, "{hunk}");
        }
        assert!(!touches_production("", read));
        let both = diff("@@ -6 +6 @@\n-    fn d() {}\n+    fn c() {}\n")
            + &diff("@@ -1 +1 @@\n-fn x() {}\n+fn a() {}\n");
        assert!(touches_production(&both, read));
    }

    #[test]
    fn this_program_starts_when_its_file_is_gone() {
        const COPY: &str = "XTASK_TEST_COPY";
        if std::env::var_os(COPY).is_some() {
            fs::remove_file(std::env::current_exe().unwrap()).unwrap();
            assert!(this_program().arg("--list").status().unwrap().success());
            return;
        }
        let copy = std::env::temp_dir().join(format!("xtask-copy-{}", std::process::id()));
        // Not by this process: what other tests start meanwhile would hold the file open for writing, as busy.
        let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status().unwrap();
        assert!(copied.success());
        let name = "mutants::tests::this_program_starts_when_its_file_is_gone";
        let output = Command::new(&copy).args(["--exact", name]).env(COPY, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed") && !copy.exists(), "{said}");
    }

    #[test]
    fn a_change_begins_where_its_branch_does_or_with_the_last_commit() {
        let folder = std::env::temp_dir().join(format!("xtask-mutants-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let run = |arguments: &[&str]| git(&folder, arguments).unwrap();
        let commit = |name: &str| {
            let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
            run(&[&who[..], &["commit", "--quiet", "--allow-empty", "-m", name]].concat());
            run(&["rev-parse", "HEAD"])
        };
        run(&["init", "--quiet", "--initial-branch", "main"]);
        let first = commit("first");
        let alone = base(&folder);
        let second = commit("second");
        let on_main = base(&folder);
        run(&["checkout", "--quiet", "-b", "topic"]);
        commit("third");
        commit("fourth");
        let on_topic = base(&folder);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!([alone, on_main, on_topic], [None, Some(first), Some(second)]);
    }

    #[test]
    fn what_was_not_tried_is_named() {
        let folder = std::env::temp_dir().join(format!("xtask-outcome-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in
            [("caught.txt", "a\nb\n"), ("timeout.txt", "c\n"), ("unviable.txt", ""), ("missed.txt", "d\n")]
        {
            fs::write(folder.join(file), text).unwrap();
        }
        let all: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        let outcome = Outcome::read(&folder, &all).unwrap();
        let failure = outcome.tell(&folder).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((outcome.noticed, outcome.hang, outcome.not_viable), (2, 1, 0));
        assert_eq!((outcome.survivors, outcome.not_tried), (vec!["d".to_owned()], vec!["e".to_owned()]));
        assert!(failure.starts_with("1 changes"), "{failure}");
    }

    #[test]
    fn files_that_are_named_take_the_place_of_those_that_guard() {
        let texts = |text: &str| vec![text.to_owned()];
        let guards = Guards {
            examined: texts("a/**/*.rs"),
            excluded: texts("**/tests.rs"),
            excluded_names: texts("Debug"),
            cargo_arguments: texts("--lib"),
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let all = guards.arguments(root, &[]).join(" ");
        assert_eq!(
            all,
            "--no-config --workspace --file=a/**/*.rs --exclude=**/tests.rs --exclude-re=Debug --cargo-arg=--lib"
        );
        let some = guards.arguments(root, &["src/".to_owned(), "src/main.rs".to_owned()]).join(" ");
        assert!(
            some.contains(" --file=src/**/*.rs --file=src/main.rs --exclude=") && !some.contains("=a/"),
            "{some}"
        );
    }
}
