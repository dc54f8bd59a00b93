//! Dependencies that nothing uses: each costs every build, and is one more that somebody must trust.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::files;

/// Each kind of dependencies, and where in a crate's folder its sources are.
const SECTIONS: &[(&str, &[&str])] =
    &[("dependencies", &["src"]), ("dev-dependencies", &["."]), ("build-dependencies", &["build.rs"])];

/// Names each dependency of which no path in its crate's sources begins, and each of the workspace that no crate has.
pub fn unused(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let workspace = manifest(&root.join("Cargo.toml"))?;
    let mut wanted = BTreeSet::new();
    for folder in members(root, &workspace)? {
        let file = folder.join("Cargo.toml");
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let manifest = manifest(&file)?;
        for (section, sources) in SECTIONS {
            let entries = manifest.get(*section).and_then(Value::as_table);
            let mut roots = BTreeSet::new();
            for source in *sources {
                add_roots(&folder.join(source), &mut roots)?;
            }
            for name in entries.into_iter().flat_map(Table::keys) {
                wanted.insert(name.clone());
                if !roots.contains(&name.replace('-', "_")) {
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

/// What is in a `Cargo.toml`.
pub fn manifest(file: &Path) -> Result<Table> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    text.parse().with_context(|| file.display().to_string())
}

/// The folders of the workspace's crates.
pub fn members(root: &Path, workspace: &Table) -> Result<Vec<PathBuf>> {
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

/// Adds what paths begin with in a Rust source, or in all of a folder.
fn add_roots(place: &Path, roots: &mut BTreeSet<String>) -> Result<()> {
    // A crate in a crate's folder has dependencies of its own.
    let enters = |folder: &Path| !folder.ends_with("target") && !folder.join("Cargo.toml").exists();
    let files = match place.is_dir() {
        true => files::below(vec![place.to_owned()], enters)?,
        false => vec![place.to_owned()],
    };
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs") && file.exists()) {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        roots.extend(text.lines().flat_map(roots_of).map(str::to_owned));
    }
    Ok(())
}

/// What paths in a line of Rust begin with: `a` of `a::b::c` and of `::a::b`, and of `use a;`. Comments are left out.
fn roots_of(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or_default();
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut roots, mut end) = (Vec::new(), 0);
    for word in code.split(|c| !in_word(c)) {
        let start = code[end..].find(word).map_or(end, |at| end + at);
        end = start + word.len();
        let (before, after) = (&code[..start], &code[end..]);
        let goes_on = before.strip_suffix("::").is_some_and(|b| b.ends_with(|c| in_word(c) || c == '>'));
        let alone = before.trim_start().trim_start_matches("pub ") == "use " && after.starts_with([';', ' ']);
        if !word.is_empty() && !goes_on && (after.starts_with("::") || alone) {
            roots.push(word);
        }
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_path_begins_with_is_used() {
        for (line, roots) in [
            ("use tokio::time::Duration;", vec!["tokio"]),
            ("let bytes = time(rand);", vec![]),
            ("    #[derive(::prost::Message, thiserror::Error)]", vec!["prost", "thiserror"]),
            ("use {a::B, c::{D, e::F}};", vec!["a", "c", "e"]),
            ("pub use nix;", vec!["nix"]),
            ("use rustls as tls;", vec!["rustls"]),
            ("<X as a::T>::b::c() // d::e", vec!["a"]),
        ] {
            assert_eq!(roots_of(line), roots, "{line}");
        }
    }

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
