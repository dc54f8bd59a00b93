//! `tulle node drain`: has a node's workloads take no traffic, and ends them. Without a name it is this host's
//! node, which is asked itself; any other is drained through the server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tulle_model::registry::KindId;
use tulle_node::client::NodeClient;
use tulle_node::workloads::WorkloadStatus;

use crate::client::{Client, JSON, resource};
use crate::exit::{Exit, Failure, Result};
use crate::no_node::no_node;
use crate::output::say;

/// What an owner may take longer than its processes: it drains them, and tells the node.
const OWNER_GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = "\
The processes go on, and reach what they call; nobody calls them. Nor does the node take new workloads. A node \
that is started again takes traffic as before; one that was drained by its NAME stays so until --undo, and new \
workloads of it start and are not ready.")]
pub struct DrainArgs {
    /// A node of the mesh, wherever it is, by the server [default: the node of this host]
    #[arg(value_name = "NAME", conflicts_with = "stop")]
    node: Option<String>,
    /// End the processes, too: SIGTERM, and SIGKILL after the --stop-timeout of their `tulle run`
    #[arg(long)]
    stop: bool,
    /// Take traffic and new workloads again
    #[arg(long, conflicts_with = "stop")]
    undo: bool,
    /// The kubeconfig to use with NAME [default: the one in Tulle's home]
    #[arg(long, value_name = "FILE", requires = "node")]
    kubeconfig: Option<PathBuf>,
}

/// How long the server may take to have no workload of a node ready.
const SERVER_PATIENCE: Duration = Duration::from_secs(15);

/// Drains a node through the server.
async fn run_by_name(node: &str, args: &DrainArgs, home: &Path) -> Result<()> {
    if let Some(problem) = tulle_model::name::dns_label_problem(node) {
        return Err(Failure::input(format!("`{node}` is no name of a node: it {problem}")));
    }
    let kubeconfig = args.kubeconfig.clone().unwrap_or_else(|| home.join("kubeconfig"));
    let client = Client::from_kubeconfig(&kubeconfig, args.kubeconfig.is_none())?;
    let path = resource(KindId::Node.kind(), None, Some(node));
    client.merge(&path, &json!({ "spec": { "drained": !args.undo } })).await.map_err(
        |failure| match failure.exit {
            Exit::NotFound => failure.help("`tulle get nodes` lists the nodes"),
            _ => failure,
        },
    )?;
    if args.undo {
        say(&format!("the node {node} takes traffic and new workloads"));
        return Ok(());
    }
    let end = Instant::now() + SERVER_PATIENCE;
    loop {
        let list = client.get(&resource(KindId::Workload.kind(), None, None), JSON).await?;
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of_node: Vec<_> = items.iter().filter(|w| w["spec"]["node"]["name"] == node).collect();
        let ready = of_node.iter().filter(|w| is_ready(w)).count();
        if ready == 0 {
            let workloads = count(of_node.len());
            say(&format!(
                "{workloads} of the node {node} drained: new requests go elsewhere, those in flight go on"
            ));
            say(&format!("`tulle node drain {node} --undo` gives their traffic back"));
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Failure::new(format!("{} of the node {node} still take traffic", count(ready)))
                .help("`tulle status` says whether the node is connected"));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn is_ready(workload: &Value) -> bool {
    let conditions = workload["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

pub async fn run(args: DrainArgs, home: &Path) -> Result<()> {
    if let Some(node) = &args.node {
        return run_by_name(node, &args, home).await;
    }
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
