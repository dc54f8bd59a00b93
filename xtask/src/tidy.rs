//! The rules of the house that the compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{circles, dependencies, files, fuzz, generated, mutants, names};

/// Which crates of ours a crate may depend on (ARCHITECTURE.md): downwards only.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("identity", &["model"]),
    ("wire", &["model"]),
    ("sys", &[]),
    ("proxy", &["identity", "model", "sys"]),
    ("node", &["flow", "identity", "model", "proxy", "sys", "wire"]),
    ("server", &["identity", "model", "sys", "wire"]),
    ("flow", &["model", "sys"]),
    ("tulle", &["flow", "identity", "model", "node", "proxy", "server", "sys", "wire"]),
];

/// Lines of production code in one file; tests don't count.
const FILE_LIMIT: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "types", "helpers", "manager", "misc"];

/// What a pure crate may not touch: clocks, sockets, files, threads.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "TcpStream",
    "UdpSocket",
    "tokio",
];

pub fn run(root: &Path) -> Result<()> {
    let mut problems = Vec::new();
    for (name, allowed) in MAY_USE {
        direction(root, name, allowed, &mut problems)?;
    }
    for file in sources(root)? {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let shown = file.strip_prefix(root).unwrap_or(&file);
        source(shown, production_part(&text), &mut problems);
    }
    let crates: Vec<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    circles::check(root, &crates, &mut problems)?;
    dependencies::unused(root, &mut problems)?;
    fuzz::check(root, &mut problems)?;
    generated::check(root, &mut problems)?;
    mutants::check(root, &mut problems)?;
    names::check(root, &mut problems)?;
    if depends_on_ring(root)? {
        problems.push(
            "ring is a second crypto provider; `cargo tree -i ring` names the feature that brings it".into(),
        );
    }
    if !problems.is_empty() {
        bail!("house rules:\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// rustls panics at run time where two providers are there and none was chosen.
fn depends_on_ring(root: &Path) -> Result<bool> {
    let tree =
        crate::cargo(root).args(["tree", "--workspace", "--edges", "normal", "--prefix", "none"]).output()?;
    anyhow::ensure!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
    Ok(String::from_utf8_lossy(&tree.stdout).lines().any(|line| line.starts_with("ring v")))
}

fn direction(root: &Path, name: &str, allowed: &[&str], problems: &mut Vec<String>) -> Result<()> {
    let manifest = root.join("crates").join(name).join("Cargo.toml");
    let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let mut section = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let used = line.strip_prefix("tulle-").and_then(|rest| rest.split(['.', ' ', '=']).next());
        if let Some(used) = used
            && section != "[dev-dependencies]"
            && !allowed.contains(&used)
        {
            problems.push(format!("crates/{name}/Cargo.toml: {name} must not depend on {used}"));
        }
    }
    Ok(())
}

fn source(file: &Path, text: &str, problems: &mut Vec<String>) {
    let shown = file.display();
    let lines = text.lines().count();
    if lines > FILE_LIMIT {
        problems.push(format!("{shown}: {lines} lines; split it by purpose ({FILE_LIMIT} at most)"));
    }
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let folder = file.parent().and_then(|p| p.file_name()).and_then(|s| s.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) || EMPTY_NAMES.contains(&folder) {
        problems.push(format!("{shown}: give it a name that says what is inside"));
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let at = |what: &str| format!("{shown}:{}: {what}", number + 1);
        // Where there is a test of the same, it is compiled and run with the others.
        let comment = line.trim_start();
        if ["/// ```", "//! ```"].iter().any(|fence| comment.starts_with(fence)) {
            problems.push(at("code in documentation is not run: put it into a test"));
        }
        if !file.starts_with("crates/sys") && !file.starts_with("xtask") && code.contains("unsafe ") {
            problems.push(at("unsafe code belongs into crates/sys"));
        }
        if file.starts_with("crates/model/src")
            && let Some(found) = IMPURE.iter().find(|impure| code.contains(**impure))
        {
            problems.push(at(&format!("{found} has no place in the pure crate")));
        }
    }
}

/// The text up to the test module, which by convention is last.
pub fn production_part(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |end| &text[..end])
}

/// Every Rust file of the crates, of the benches, of the fuzz targets and of xtask, generated ones and tests left out.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    const LEFT_OUT: &[&str] = &["generated", "tests", "target", "examples"];
    let folders = ["bench", "crates", "fuzz", "xtask"].map(|folder| root.join(folder)).to_vec();
    let mut files = files::below(folders, |folder| !LEFT_OUT.iter().any(|name| folder.ends_with(name)))?;
    files.retain(|file| file.extension().is_some_and(|e| e == "rs") && !file.ends_with("tests.rs"));
    Ok(files)
}
