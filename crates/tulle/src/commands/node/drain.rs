//! `tulle node drain`: has a node's workloads take no traffic, and ends them.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use tulle_node::client::NodeClient;
use tulle_node::workloads::WorkloadStatus;

use crate::commands::run::no_node;
use crate::exit::{Failure, Result};
use crate::output::say;

/// What an owner may take longer than its processes: it drains them, and tells the node.
const OWNER_GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = "\
The processes go on, and reach what they call; nobody calls them. Nor does the node take new workloads. A node \
that is started again takes traffic as before.")]
pub struct DrainArgs {
    /// End the processes, too: SIGTERM, and SIGKILL after the --stop-timeout of their `tulle run`
    #[arg(long)]
    stop: bool,
    /// Take traffic and new workloads again
    #[arg(long, conflicts_with = "stop")]
    undo: bool,
}

pub async fn run(args: DrainArgs, home: &Path) -> Result<()> {
    let client = NodeClient::new(home);
    let failed = |error| no_node(home, error);
    if args.undo {
        client.undo_drain().await.map_err(failed)?;
        say("the node takes traffic and new workloads");
        return Ok(());
    }
    let drained = client.drain().await.map_err(failed)?;
    let workloads = client.status().await.map_err(failed)?.workloads;
    say(&format!(
        "{} drained: {}",
        count(workloads.len()),
        if drained { "nothing is in flight" } else { "not everything in flight has finished in time" }
    ));
    if !args.stop {
        say("they go on without traffic; `tulle node drain --undo` gives it back to them");
        return Ok(());
    }
    let patience = client.ask_to_stop().await.map_err(failed)?;
    stop(&client, workloads, patience).await.map_err(failed)?
}

/// Waits for the end of those that `tulle run` has started; says of each.
async fn stop(
    client: &NodeClient,
    before: Vec<WorkloadStatus>,
    patience: Duration,
) -> anyhow::Result<Result<()>> {
    let name = |w: &WorkloadStatus| format!("{}/{}", w.namespace, w.name);
    let end = Instant::now() + patience + OWNER_GRACE;
    let (mut left, others): (Vec<_>, Vec<_>) = before.into_iter().partition(|w| w.owned);
    loop {
        let now = client.status().await?.workloads;
        left.retain(|workload| {
            let is_there = now.iter().any(|w| name(w) == name(workload));
            if !is_there {
                say(&format!("{} has ended", name(workload)));
            }
            is_there
        });
        if left.is_empty() {
            break;
        }
        if Instant::now() >= end {
            let names: Vec<_> = left.iter().map(name).collect();
            return Ok(Err(Failure::new(format!("{} did not end", names.join(", ")))
                .help("stop the node, then: tulle node reset")));
        }
        tokio::time::sleep(POLL).await;
    }
    if !others.is_empty() {
        let names: Vec<_> = others.iter().map(name).collect();
        say(&format!("{} end with `tulle up`, which has started them", names.join(", ")));
    }
    Ok(Ok(()))
}

fn count(workloads: usize) -> String {
    match workloads {
        1 => "1 workload".to_owned(),
        n => format!("{n} workloads"),
    }
}
