//! Counts the instructions that a pair of proxies spends on a request (docs/instructions.md).
//!
//! `measure` is client and application, and starts `proxies` under callgrind. Those two are so plain
//! and so far away from the counted process that what they do is in no figure.

mod application;
mod client;
mod http2;
mod kind;
mod measure;
mod proxies;
mod rules;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::kind::Kind;
use crate::rules::Rules;

/// The allocator that Tulle is released with: its instructions are a part of each request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counts the instructions that Tulle spends on a request.
#[derive(Parser)]
#[command(name = "hot-path")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Count: prints a line for each kind of request, its name and its instructions
    Measure {
        /// What callgrind writes goes here, to be read with callgrind_annotate
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Only these (all otherwise)
        #[arg(long = "kind", value_enum, value_name = "NAME")]
        kinds: Vec<Kind>,
        /// What rules cost, instead: `http1-one-node` under each of these (all, if none is named)
        #[arg(long, value_enum, num_args = 0.., value_name = "NAME", conflicts_with = "kinds")]
        rules: Option<Vec<Rules>>,
    },
    /// The proxies that are counted, until stdin ends
    Proxies {
        #[arg(long, value_enum)]
        kind: Kind,
        #[arg(long, value_enum)]
        rules: Rules,
        /// Where the application listens
        #[arg(long)]
        application: SocketAddr,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Measure { out, rules: Some(rules), .. } => measure::rules(&out, &rules),
        Command::Measure { out, kinds, .. } => measure::run(&out, &kinds),
        Command::Proxies { kind, rules, application } => proxies::run(kind, rules, application),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
