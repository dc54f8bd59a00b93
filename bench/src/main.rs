//! Measures Tulle beside other proxies: `serve` is the service behind them, `load` the client before
//! them, `run` starts everything, compares and reports; `flows` measures runs of Flows.

mod event;
mod flows;
mod load;
mod report;
mod run;
mod serve;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use flows::FlowOptions;
use load::LoadOptions;
use report::ReportOptions;
use run::RunOptions;
use serve::ServeOptions;

/// Measures Tulle beside other proxies.
#[derive(Parser)]
#[command(name = "tulle-bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The service behind the proxies
    Serve(ServeOptions),
    /// The client before the proxies: prints one JSON object
    Load(LoadOptions),
    /// Compares Tulle with other proxies, side by side: starts all of them, measures in rounds, reports
    Run(RunOptions),
    /// Measures runs of Flows beside their goals: how many a second, what they add to calls, what they cost while they wait
    Flows(FlowOptions),
    /// Makes the report of a run anew
    Report(ReportOptions),
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(options) => serve::run(&options),
        Command::Load(options) => load::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Flows(options) => flows::run(&options),
        Command::Report(options) => report::run(&options),
    }
}
