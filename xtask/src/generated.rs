//! The protobuf code that is checked in, `crates/wire/src/generated`. What it was made from, and what was made, has its sums
//! beside it: a change of either shows without the generator, which takes long to compile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use toml::Value;

use crate::{dependencies, files};

/// Writes the code anew.
pub fn write(root: &Path) -> Result<()> {
    let wire = wire(root);
    let mut generator = crate::cargo(root);
    generator.args(["run", "--locked", "--manifest-path"]).arg(wire.join("generate/Cargo.toml"));
    generator.arg("--target-dir").arg(crate::target(root).join("generate"));
    crate::run(&mut generator)?;
    let file = wire.join(SUMS);
    fs::write(&file, sums(root)?).with_context(|| file.display().to_string())
}

/// Whether the code, and what it was made from, is as it was when it was generated, for the version that we use.
pub fn check(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    if fs::read_to_string(wire(root).join(SUMS)).unwrap_or_default() != sums(root)? {
        problems.push(
            "crates/wire: src/generated, or what it is made from, has changed since it was generated: run `cargo \
             xtask generate`"
                .into(),
        );
    }
    let used = version(&root.join("Cargo.toml"), &["workspace", "dependencies", "tonic-prost"])?;
    let generating =
        version(&wire(root).join("generate/Cargo.toml"), &["dependencies", "tonic-prost-build"])?;
    if used != generating {
        problems.push(format!(
            "crates/wire/generate/Cargo.toml: tonic-prost-build is {generating}, and tonic-prost {used}: generate the \
             code with the version that we use"
        ));
    }
    Ok(())
}

/// What a manifest says of a version, at the end of these names.
fn version(file: &Path, names: &[&str]) -> Result<String> {
    let manifest = Value::Table(dependencies::manifest(file)?);
    let found = names.iter().try_fold(&manifest, |value, name| value.get(name));
    let version = found.and_then(Value::as_str);
    Ok(version.with_context(|| format!("{}: no version {}", file.display(), names.join(".")))?.to_owned())
}

/// In the form of sha256sum(1).
const SUMS: &str = "src/generated/SHA256SUMS";

fn wire(root: &Path) -> PathBuf {
    root.join("crates/wire")
}

fn sums(root: &Path) -> Result<String> {
    let wire = wire(root);
    let folders = ["generate", "proto", "src/generated"].map(|folder| wire.join(folder)).to_vec();
    let files = files::below(folders, |folder| !folder.ends_with("target"))?;
    let names =
        files.iter().filter_map(|file| file.strip_prefix(&wire).ok()).filter(|name| !name.ends_with(SUMS));
    let output = Command::new("sha256sum").current_dir(&wire).arg("--").args(names).output();
    let output = output.context("sha256sum (Debian package coreutils) could not be started")?;
    anyhow::ensure!(output.status.success(), "sha256sum: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
