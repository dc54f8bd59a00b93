//! `tulle node revoke`: takes back what nodes may, through the server.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::client::{Client, Query};
use crate::exit::{Failure, Result};
use crate::output::{note, print};

#[derive(Debug, Args)]
#[command(after_help = "\
For a host that is somebody else's now. The server takes nothing from the node any more and signs nothing for it, its \
workloads leave the mesh, and other nodes are told to refuse its workloads' certificates and to end the links that \
stand with them. Its processes go on. It comes back with a new token: `tulle token create --node NAME`, and on the host \
`tulle node --token-file FILE`.")]
pub struct NodeRevokeArgs {
    /// The nodes, connected or not
    #[arg(required = true, value_name = "NAME")]
    nodes: Vec<String>,
    /// The kubeconfig to use [default: the one in Tulle's home]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

pub async fn run(args: NodeRevokeArgs, home: &Path) -> Result<()> {
    for node in &args.nodes {
        if let Some(problem) = tulle_model::name::dns_label_problem(node) {
            return Err(Failure::input(format!("`{node}` is no name of a node: it {problem}")));
        }
    }
    let kubeconfig = args.kubeconfig.clone().unwrap_or_else(|| home.join("kubeconfig"));
    let client = Client::from_kubeconfig(&kubeconfig, args.kubeconfig.is_none())?;
    for node in &args.nodes {
        let path = Query::new(format!("/tulle/v1alpha1/nodes/{node}")).set("revoke", "true").finish();
        let answer = client.delete(&path).await?;
        print(&format!("node \"{node}\" revoked, with {} workloads\n", answer["workloads"]))?;
        note(&format!("`tulle token create --node {node}` makes a token with which it joins anew"));
    }
    Ok(())
}
