//! `tulle policy`: AuthorizationPolicies out of what was seen, and what a change of them would change.

mod impact;
mod suggest;

use clap::{Args, Subcommand};
use serde_json::Value;
use tulle_model::compile::{Compiler, LocalWorkload};
use tulle_model::name::WorkloadName;
use tulle_model::registry::{KINDS, KindId};
use tulle_model::split::MeshObject;
use tulle_model::summary::{Callee, Summary, SummaryView};

use crate::client::{Client, JSON, Query};
use crate::exit::{Failure, Result};
use crate::mesh_objects::fetch;

#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Print policies that allow what was seen in the last day, and nothing else
    Suggest(suggest::SuggestArgs),
    /// List what of the last day a change would let in or hold off
    Impact(impact::ImpactArgs),
}

/// What a command has found.
pub enum Found {
    Done,
    /// Of an impact: whether there is any.
    Impact(bool),
}

pub async fn run(args: PolicyArgs) -> Result<Found> {
    match args.command {
        PolicyCommand::Suggest(args) => suggest::run(args).await.map(|()| Found::Done),
        PolicyCommand::Impact(args) => impact::run(args).await.map(Found::Impact),
    }
}

/// All objects that decide who may enter.
async fn deciding_objects(client: &Client) -> Result<Vec<MeshObject>> {
    let decide = [KindId::Service, KindId::Workload, KindId::Mesh, KindId::AuthorizationPolicy];
    fetch(client, KINDS.iter().filter(|kind| decide.contains(&kind.id)), None).await
}

/// What was asked of workloads in the last day, with when each was last seen (in seconds since the epoch).
async fn summaries(client: &Client, namespace: Option<&str>) -> Result<Vec<(Summary, i64)>> {
    let path = Query::new("/tulle/v1alpha1/summaries".to_owned()).set_if("namespace", namespace).finish();
    let mut answer: Value = client.get(&path, JSON).await?;
    let misunderstood = |error: String| {
        Failure::new(format!("the server's answer is not understood: {error}"))
            .help("is it of another version?")
    };
    let views: Vec<SummaryView> = serde_json::from_value(answer["summaries"].take())
        .map_err(|error| misunderstood(error.to_string()))?;
    let read = |view: &SummaryView| Summary::try_from(view).map(|summary| (summary, view.last_seen));
    views
        .iter()
        .map(read)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| misunderstood(error.to_string()))
}

/// The workloads of nodes that a summary is about, each with the port at which it listens.
fn doors<'c>(
    compiler: &'c Compiler,
    summary: &Summary,
) -> impl Iterator<Item = (&'c WorkloadName, &'c LocalWorkload, u16)> {
    let (to, port) = (summary.to.clone(), summary.port);
    compiler.workloads().filter_map(move |(name, local)| {
        let port = match &to {
            Callee::Workload(workload) => (workload == name).then_some(port)?,
            Callee::Service(service) => local.config.serves(service, port)?.target_port,
        };
        Some((name, local, port))
    })
}
