//! Dependencies that nothing uses: each costs every build, and is one more that somebody must trust.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

const SECTIONS: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// Names each dependency that no source of its crate names, and each of the workspace that no crate has.
pub fn unused(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let workspace = manifest(&root.join("Cargo.toml"))?;
    let mut wanted = BTreeSet::new();
    for folder in members(root, &workspace)? {
        let file = folder.join("Cargo.toml");
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let manifest = manifest(&file)?;
        let words = words(&folder)?;
        for section in SECTIONS {
            let entries = manifest.get(*section).and_then(Value::as_table);
            for name in entries.into_iter().flat_map(Table::keys) {
                wanted.insert(name.clone());
                if !words.contains(&name.replace('-', "_")) {
                    problems.push(format!("{shown}: nothing uses {name} ({section})"));
                }
            }
        }
    }
    let shared = workspace.get("workspace").and_then(|w| w.get("dependencies")).and_then(Value::as_table);
    for name in shared.into_iter().flat_map(Table::keys).filter(|name| !wanted.contains(*name)) {
        problems.push(format!("Cargo.toml: no crate uses {name}"));
    }
    Ok(())
}

fn manifest(file: &Path) -> Result<Table> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    text.parse().with_context(|| file.display().to_string())
}

/// The folders of the workspace's crates.
fn members(root: &Path, workspace: &Table) -> Result<Vec<PathBuf>> {
    let listed = workspace.get("workspace").and_then(|w| w.get("members")).and_then(Value::as_array);
    let mut folders = Vec::new();
    for member in listed.into_iter().flatten().filter_map(Value::as_str) {
        match member.strip_suffix("/*") {
            Some(parent) => {
                for entry in fs::read_dir(root.join(parent))? {
                    folders.push(entry?.path());
                }
            }
            None => folders.push(root.join(member)),
        }
    }
    folders.sort();
    Ok(folders)
}

/// Every word in the Rust sources of a crate, comments left out.
fn words(folder: &Path) -> Result<BTreeSet<String>> {
    let mut words = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                // A crate in a crate's folder has dependencies of its own.
                if path.file_name().is_some_and(|name| name != "target") && !path.join("Cargo.toml").exists()
                {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                words.extend(text.lines().flat_map(words_of).map(str::to_owned));
            }
        }
    }
    Ok(words)
}

fn words_of(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_comment_names_is_unused() {
        let folder = std::env::temp_dir().join(format!("xtask-unused-{}", std::process::id()));
        let source = folder.join("crates/one/src");
        fs::create_dir_all(&source).unwrap();
        let shared =
            "[workspace]\nmembers = [\"crates/*\"]\n[workspace.dependencies]\na-b = \"1\"\nd = \"1\"\n";
        fs::write(folder.join("Cargo.toml"), shared).unwrap();
        let own = "[dependencies]\na-b.workspace = true\n[dev-dependencies]\nc = \"1\"\n";
        fs::write(folder.join("crates/one/Cargo.toml"), own).unwrap();
        fs::write(source.join("lib.rs"), "use a_b::X; // c::Y\n").unwrap();
        let mut problems = Vec::new();
        let found = unused(&folder, &mut problems);
        fs::remove_dir_all(&folder).unwrap();
        found.unwrap();
        let expected =
            ["crates/one/Cargo.toml: nothing uses c (dev-dependencies)", "Cargo.toml: no crate uses d"];
        assert_eq!(problems, expected);
    }
}
