//! Runs the originals of Gateway API's conformance tests for a mesh, and its routes, against Tulle: `cargo xtask conformance DIR`, where DIR
//! holds a checkout of kubernetes-sigs/gateway-api.
//!
//! Of `conformance/tests/mesh` the manifests are applied and the requests sent that the tests' sources say, from workloads and to echo services by the names
//! that `conformance/mesh` gives them. Of all other routes (`conformance/tests`, `examples`), whose parents are Gateways, it is seen what becomes of them as
//! they are and with a Service as their parent. What is refused must be so for a reason that docs/traffic.md names.
#![allow(clippy::unwrap_used)]

mod go;
mod mesh;
mod original;
mod routes;

use std::path::PathBuf;
use std::process::ExitCode;

use tulle_tests::harness::{files_below, project};

use crate::mesh::Mesh;

/// What became of an original.
pub enum Fate {
    /// With what there is to say of it.
    Works(String),
    Refused(String),
    Differs(String),
    NotRead(String),
}

/// All outcomes, printed as they come.
#[derive(Default)]
pub struct Report {
    counts: [usize; 4],
}

impl Report {
    pub fn add(&mut self, name: &str, outcome: Fate) {
        let (which, word, text) = match outcome {
            Fate::Works(text) => (0, "works", text),
            Fate::Refused(text) => (1, "refused", text),
            Fate::Differs(text) => (2, "differs", text),
            Fate::NotRead(text) => (3, "not read", text),
        };
        self.counts[which] += 1;
        let text = text.trim();
        println!("{word:<8}  {name}{}{text}", if text.is_empty() { "" } else { ": " });
    }
}

/// What docs/traffic.md says, to look reasons up in.
pub struct Documented(String);

impl Documented {
    /// What is refused for a reason that is not named there differs from what is promised.
    pub fn refused(&self, reasons: &[&str], text: String) -> Fate {
        if reasons.iter().any(|reason| self.0.contains(reason)) {
            Fate::Refused(text)
        } else {
            Fate::Differs(format!("refused, and docs/traffic.md names no such reason: {text}"))
        }
    }
}

fn main() -> ExitCode {
    let Some(folder) =
        std::env::args_os().nth(1).map(PathBuf::from).filter(|at| at.join("conformance/tests/mesh").is_dir())
    else {
        eprintln!(
            "usage: cargo xtask conformance DIR, where DIR holds a checkout of kubernetes-sigs/gateway-api"
        );
        return ExitCode::from(2);
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("the names of services need host capture, and that needs root");
        return ExitCode::from(2);
    }
    let documented = Documented(std::fs::read_to_string(project().join("docs/traffic.md")).unwrap());
    let mut report = Report::default();
    let mut mesh = Mesh::start(&folder);
    for file in files_below(&folder.join("conformance/tests/mesh"), "go") {
        match original::read(&std::fs::read_to_string(&file).unwrap(), &mesh.places) {
            Ok(originals) => {
                for original in originals {
                    let outcome = mesh.run(&folder, &original, &documented);
                    report.add(&original.name, outcome);
                }
            }
            Err(why) => report.add(&file.display().to_string(), Fate::NotRead(why)),
        }
    }
    for part in ["conformance/tests", "examples"] {
        for file in files_below(&folder.join(part), "yaml") {
            if !file.starts_with(folder.join("conformance/tests/mesh")) {
                routes::run(&mesh, &folder, &file, &documented, &mut report);
            }
        }
    }
    mesh.end();
    let [works, refused, differs, unread] = report.counts;
    println!("{works} work, {refused} are refused, {differs} differ, {unread} are not read");
    if differs == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
