//! `tulle flow`: workflows and their runs.

mod blueprint;
mod mermaid;
mod show;
mod tree;

use clap::{Args, Subcommand};

use super::get::{self, KindListArgs};
use crate::exit::Result;

#[derive(Debug, Args)]
pub struct FlowArgs {
    #[command(subcommand)]
    command: FlowCommand,
}

#[derive(Debug, Subcommand)]
enum FlowCommand {
    /// List Flows
    List(KindListArgs),
    /// Show what a Flow is going to do, task by task
    Show(show::ShowArgs),
}

pub async fn run(args: FlowArgs) -> Result<()> {
    match args.command {
        FlowCommand::List(args) => get::list("flows", args).await,
        FlowCommand::Show(args) => show::run(args).await,
    }
}
