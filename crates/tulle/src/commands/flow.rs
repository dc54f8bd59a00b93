//! `tulle flow`: workflows and their runs.

mod blueprint;
mod gone_through;
mod history;
mod mermaid;
mod runs;
mod show;
mod start;
mod tree;

use clap::{Args, Subcommand};
use tulle_model::registry::KindId;

use super::get::{self, KindListArgs};
use crate::exit::Result;

/// The kind of runs.
const RUNS: KindId = KindId::FlowRun;

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
    /// Start a run, and print what it makes
    Run(start::FlowRunArgs),
    /// List runs, the youngest first
    Runs(runs::RunsArgs),
    /// Show what became of each task of a run
    History(history::RunHistoryArgs),
    /// Have a run stand still
    Suspend(runs::OneRunArgs),
    /// Have a run that stands still go on
    Resume(runs::OneRunArgs),
    /// End a run
    Cancel(runs::OneRunArgs),
    /// Have a run that has faulted or was cancelled go on from one of its tasks
    Retry(runs::RetryArgs),
}

pub async fn run(args: FlowArgs) -> Result<()> {
    match args.command {
        FlowCommand::List(args) => get::list("flows", args).await,
        FlowCommand::Show(args) => show::run(args).await,
        FlowCommand::Run(args) => start::run(args).await,
        FlowCommand::Runs(args) => runs::list(args).await,
        FlowCommand::History(args) => history::run(args).await,
        FlowCommand::Suspend(args) => runs::act(args, "suspend").await,
        FlowCommand::Resume(args) => runs::act(args, "resume").await,
        FlowCommand::Cancel(args) => runs::act(args, "cancel").await,
        FlowCommand::Retry(args) => runs::retry(args).await,
    }
}
