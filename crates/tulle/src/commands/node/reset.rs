//! `tulle node reset`: removes what a node has left on the host.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use tulle_node::reset::{Removed, reset};

use crate::exit::{Exit, Failure, Result};
use crate::output::say;

#[derive(Debug, Args)]
#[command(after_help = "\
It needs no server. What the node knows stays (its certificates, its configuration): it can be started again. \
Where a node runs with the same home, this does nothing, and says so.")]
pub struct ResetArgs {
    /// How long processes may take to end after SIGTERM [default: the --stop-timeout of their `tulle run`]
    #[arg(long, value_name = "TIME", value_parser = crate::units::parse_duration)]
    stop_timeout: Option<Duration>,
}

pub async fn run(args: ResetArgs, home: &Path) -> Result<()> {
    let mut nothing = true;
    let told = |removed: Removed| {
        nothing = false;
        match removed {
            Removed::Processes { workload, ended } if ended.killed > 0 => say(&format!(
                "{workload}: {} ended, {} of them by force",
                processes(ended.members),
                ended.killed
            )),
            Removed::Processes { workload, ended } => {
                say(&format!("{workload}: {} ended", processes(ended.members)));
            }
            Removed::Cgroup(path) => say(&format!("cgroup {} removed", path.display())),
            Removed::Table(name) => say(&format!("nftables table {name} removed")),
        }
    };
    reset(home, None, args.stop_timeout, told).await.map_err(|error| {
        let failure = Failure::new(format!("{error:#}"));
        match error.is::<tulle_node::InUse>() {
            true => {
                failure.exit(Exit::Conflict).help("a running node: `tulle node drain --stop`, then stop it")
            }
            false => failure,
        }
    })?;
    if nothing {
        say("there is nothing that a node has left");
    }
    Ok(())
}

fn processes(number: usize) -> String {
    match number {
        1 => "1 process".to_owned(),
        n => format!("{n} processes"),
    }
}
