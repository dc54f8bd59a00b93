//! `tulle delete`: removes objects, by name, by label, or those that files describe.

use clap::Args;
use tulle_model::registry::Kind;

use super::apply::print_skipped;
use super::get::{ScopeArgs, qualified_singular};
use crate::client::{Client, ClientArgs, JSON, Query, resource};
use crate::exit::{Exit, Failure, Result};
use crate::manifest::{self, FileArgs};
use crate::output::print;
use crate::selection;

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// KIND[,KIND…] NAME…, or KIND/NAME…; `node NAME` removes a node that does not come back
    #[arg(value_name = "OBJECTS", required_unless_present = "filename")]
    objects: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "filename")]
    selector: Option<String>,
    /// All objects of the kinds, in the namespace
    #[arg(long, conflicts_with_all = ["filename", "selector"])]
    all: bool,
    /// A node, connected or not, may not come back with the certificate that it has
    #[arg(long)]
    revoke: bool,
    /// An object that does not exist is no failure
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: DeleteArgs) -> Result<()> {
    if let Some(nodes) = nodes(&args.objects)? {
        return evict(&args, &nodes).await;
    }
    if args.revoke {
        return Err(Failure::input("nodes are revoked, and nothing else")
            .help("for example: `tulle delete node host-2 --revoke`"));
    }
    let targets = targets(&args).await?;
    if targets.is_empty() && !args.files.filename.is_empty() {
        return Ok(());
    }
    let client = args.client.client()?;
    let mut missing = None;
    for (kind, namespace, name) in targets {
        let namespace = namespace.as_deref().unwrap_or(client.namespace());
        match client.delete(&resource(kind, Some(namespace), Some(&name))).await {
            Ok(_) => print(&format!("{} \"{name}\" deleted\n", qualified_singular(kind)))?,
            Err(failure) if failure.exit == Exit::NotFound => {
                if !args.ignore_not_found {
                    failure.print();
                    missing = Some(failure.exit);
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    match missing {
        Some(exit) => Err(Failure::new("not everything that was to be deleted exists")
            .exit(exit)
            .help("--ignore-not-found takes that for success")),
        None => Ok(()),
    }
}

/// Nodes are no objects, but are named as such: `node NAME…`, `node/NAME…`. `None`: no nodes are meant.
fn nodes(words: &[String]) -> Result<Option<Vec<&str>>> {
    let is_node = |word: &str| matches!(word, "node" | "nodes" | "no");
    let Some((first, rest)) = words.split_first() else { return Ok(None) };
    if is_node(first) {
        if rest.is_empty() {
            return Err(Failure::input("which node?").help("for example: `tulle delete node host-2`"));
        }
        return Ok(Some(rest.iter().map(String::as_str).collect()));
    }
    let named = words.iter().map(|word| word.split_once('/').filter(|(kind, _)| is_node(kind)).map(|w| w.1));
    let named: Vec<_> = named.collect();
    match named.iter().filter(|name| name.is_some()).count() {
        0 => Ok(None),
        count if count == words.len() => Ok(named.into_iter().collect()),
        _ => Err(Failure::input("nodes are deleted by a command of their own")),
    }
}

/// Removes nodes that do not come back, and what they ran.
async fn evict(args: &DeleteArgs, nodes: &[&str]) -> Result<()> {
    if args.selector.is_some() || args.all {
        return Err(Failure::input("nodes are deleted by their names"));
    }
    let client = args.client.client()?;
    for node in nodes {
        if let Some(problem) = tulle_model::name::dns_label_problem(node) {
            return Err(Failure::input(format!("`{node}` is no name of a node: it {problem}")));
        }
        let path = format!("/tulle/v1alpha1/nodes/{node}");
        let path = if args.revoke { Query::new(path).set("revoke", "true").finish() } else { path };
        match client.delete(&path).await {
            Ok(answer) => {
                let how = if args.revoke { "deleted and revoked" } else { "deleted" };
                print(&format!("node \"{node}\" {how}, with {} workloads\n", answer["workloads"]))?;
            }
            Err(failure) if failure.exit == Exit::NotFound && args.ignore_not_found => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

type Target = (&'static Kind, Option<String>, String);

async fn targets(args: &DeleteArgs) -> Result<Vec<Target>> {
    if !args.files.filename.is_empty() {
        let set = manifest::load(&args.files)?;
        print_skipped(&set)?;
        let targets = set.manifests.iter().map(|m| {
            let namespace = m.namespace().map(str::to_owned).or_else(|| args.scope.namespace.clone());
            (m.kind, namespace, m.name().to_owned())
        });
        // What was made last goes first.
        return Ok(targets.rev().collect());
    }
    let selections = selection::parse(&args.objects)?;
    let all = args.all || args.selector.is_some();
    if !all && selections.iter().any(|s| s.name.is_none()) {
        return Err(Failure::input("nothing is said about which objects to delete")
            .help("name them, or say which labels (-l), or --all"));
    }
    let client = args.client.client()?;
    let mut targets = Vec::new();
    for selection in selections {
        match selection.name {
            Some(name) => targets.push((selection.kind, args.scope.namespace.clone(), name)),
            None => targets.extend(listed(args, &client, selection.kind).await?),
        }
    }
    Ok(targets)
}

async fn listed(args: &DeleteArgs, client: &Client, kind: &'static Kind) -> Result<Vec<Target>> {
    let path = Query::new(resource(kind, args.scope.namespace(client), None))
        .set_if("labelSelector", args.selector.as_deref())
        .finish();
    let list = client.get(&path, JSON).await?;
    let text = |v: &serde_json::Value| v.as_str().map(str::to_owned);
    let items = list["items"].as_array().into_iter().flatten();
    Ok(items
        .filter_map(|item| {
            let metadata = &item["metadata"];
            Some((kind, text(&metadata["namespace"]), text(&metadata["name"])?))
        })
        .collect())
}
