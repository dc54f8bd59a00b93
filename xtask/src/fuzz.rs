//! The fuzz targets, led by coverage: docs/fuzzing.md. Ordinary tests run them, too, on few inputs (`fuzz/src`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

const VERSION: &str = "^0.13";
/// What one input may take, in seconds; and all of a target, in MiB.
const TIMEOUT: u32 = 20;
const MEMORY: u32 = 2048;

/// Runs the targets, or those that are named, for so many minutes each, and says which have failed.
pub fn run(root: &Path, names: &[String], minutes: u32) -> Result<()> {
    let all = targets(root)?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("there is no fuzz target `{unknown}`; there are {}", all.join(", "));
    }
    ensure_tools(root)?;
    let folder = folder(root);
    // The same versions as in the binary; only what libFuzzer needs comes on top.
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).context("fuzz/libfuzzer/Cargo.lock")?;
    let mut failed = Vec::new();
    for name in all.iter().filter(|name| names.is_empty() || names.contains(name)) {
        println!("fuzzing {name} for {minutes} min");
        // What is found goes to the first folder; the seeds are only read.
        let corpus = folder.join("corpus").join(name);
        fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
        let mut fuzz = command(root);
        // There is no unsafe code to watch over, and without a sanitizer more is tried in the same time.
        fuzz.args(["run", "--sanitizer", "none", "--fuzz-dir"]).arg(&folder).arg(name);
        fuzz.arg(corpus).arg(root.join("fuzz/seeds").join(name)).arg("--");
        fuzz.arg(format!("-max_total_time={}", minutes * 60));
        fuzz.args([format!("-timeout={TIMEOUT}"), format!("-rss_limit_mb={MEMORY}")]);
        fuzz.arg("-print_final_stats=1");
        if let Err(e) = crate::run(&mut fuzz) {
            eprintln!("error: {e:#}");
            failed.push(name.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}; the inputs are in fuzz/libfuzzer/artifacts", failed.join(", "));
    }
    Ok(())
}

/// What is wrong with the targets' files: each names a target that the tests run, and has seeds.
pub fn check(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let manifest =
        fs::read_to_string(folder(root).join("Cargo.toml")).context("fuzz/libfuzzer/Cargo.toml")?;
    for name in targets(root)? {
        let file = format!("fuzz/libfuzzer/fuzz_targets/{name}.rs");
        let text = fs::read_to_string(root.join(&file)).with_context(|| file.clone())?;
        let call = format!("::fuzzing::{name}(input)");
        let owner = text.split_once(&call).and_then(|(before, _)| before.rsplit_once("tulle_"));
        let Some((_, owner)) = owner else {
            problems.push(format!("{file}: it calls `tulle_CRATE{call}` and nothing else"));
            continue;
        };
        let module = root.join("crates").join(owner).join("src/fuzzing.rs");
        let tested = format!("check(\"{name}\", super::{name})");
        if !fs::read_to_string(&module).is_ok_and(|text| text.contains(&tested)) {
            problems.push(format!("{}: no test says `{tested}`", module.display()));
        }
        if !manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")) {
            problems.push(format!("fuzz/libfuzzer/Cargo.toml: it has no binary `{name}`"));
        }
        if !root.join("fuzz/seeds").join(&name).is_dir() {
            problems.push(format!("fuzz/seeds/{name}: there are no seeds"));
        }
    }
    Ok(())
}

fn folder(root: &Path) -> PathBuf {
    root.join("fuzz/libfuzzer")
}

fn targets(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder(root).join("fuzz_targets")).context("fuzz/libfuzzer/fuzz_targets")? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn command(root: &Path) -> Command {
    let mut fuzz = crate::cargo(root);
    fuzz.arg("fuzz");
    fuzz
}

/// libFuzzer is compiled from C++; cargo-fuzz is installed where it is missing.
fn ensure_tools(root: &Path) -> Result<()> {
    let there = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !there(Command::new("c++").arg("--version")) {
        bail!("libFuzzer needs a C++ compiler: the Debian package g++");
    }
    if !there(command(root).arg("--version")) {
        crate::run(crate::cargo(root).args(["install", "--locked", "cargo-fuzz", "--version", VERSION]))?;
    }
    Ok(())
}
