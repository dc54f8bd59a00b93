//! The binary, as a user meets it.

#![allow(clippy::unwrap_used)]

mod auth;
mod bad_input;
mod exit_codes;
mod explain;
mod fake_service;
mod flow;
mod flow_evaluator;
mod init;
mod logs;
mod split;

use std::path::Path;
use std::process::{Command, Output};

/// `tulle`, in a folder, with a state of its own and no colours.
fn tulle(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tulle"))
        .args(arguments)
        .current_dir(folder)
        .env("TULLE_HOME", folder.join("home"))
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
