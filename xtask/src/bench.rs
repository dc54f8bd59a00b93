//! `cargo xtask bench`: builds Tulle and the bench as they are released, installs the other proxies
//! where it may, and runs all of them side by side.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{release, run as finish, setup, target};

/// Options that stand alone: nothing is measured then.
const HELP: &[&str] = &["--help", "-h"];

pub fn run(root: &Path, options: &[OsString]) -> Result<()> {
    let given = |name: &str| {
        let text = |option: &OsString| option.to_string_lossy().into_owned();
        options.iter().map(text).any(|option| option == name || option.starts_with(&format!("{name}=")))
    };
    let mut build = release(root);
    build.args(["-p", "tulle-bench"]);
    // Without `-p` on its own, features of the one would leak into the other.
    let mut tulle = release(root);
    tulle.args(["-p", "tulle"]);
    finish(&mut build)?;
    let release = target(root).join("release");
    let mut bench = Command::new(release.join("tulle-bench"));
    bench.arg("run");
    if !HELP.iter().any(|help| given(help)) {
        if !given("--tulle") {
            finish(&mut tulle)?;
            bench.arg("--tulle").arg(release.join("tulle"));
        }
        if !given("--out") {
            bench.arg("--out").arg(target(root).join("bench"));
        }
        if !given("--descriptions") {
            bench.arg("--descriptions").arg(root.join("bench/peers"));
        }
        if let Some(folder) = setup::run_for_benches(root) {
            bench.arg("--programs").arg(folder);
        }
    }
    finish(bench.args(options))
}
