//! Measures Tulle beside other proxies: `serve` is the service behind them, `load` the client before
//! them, `run` starts everything, compares and reports.

mod event;
mod load;
mod serve;
mod wire;

use clap::{Parser, Subcommand};

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
    Serve(serve::Options),
    /// The client before the proxies: prints one JSON object
    Load(load::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Serve(options) => serve::run(&options),
        Command::Load(options) => load::run(&options),
    }
}
