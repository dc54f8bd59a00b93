//! `tulle flow show`: what a Flow is going to do.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tulle_model::legible::legible;
use tulle_model::registry::KindId;

use super::{blueprint, mermaid, tree};
use crate::client::{ClientArgs, JSON, resource};
use crate::exit::{Exit, Failure, Result};
use crate::manifest::{self, FileArgs};
use crate::output::{print, print_json, print_yaml};
use crate::selection::object_name;

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The Flow; with -f, of several in the files the one that is meant
    #[arg(required_unless_present = "filename", value_name = "[NAMESPACE/]FLOW")]
    flow: Option<String>,
    /// A file with the Flow, a folder, or - for stdin: the server is not asked
    #[arg(short, long, value_name = "PATH")]
    filename: Vec<PathBuf>,
    /// The namespace [default: that of the kubeconfig, or `default`]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: BlueprintFormat,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum BlueprintFormat {
    #[default]
    Tree,
    /// A flowchart of Mermaid
    Mermaid,
    Json,
    Yaml,
}

pub async fn run(args: ShowArgs) -> Result<()> {
    let flow = if args.filename.is_empty() { of_server(&args).await? } else { of_files(&args)? };
    let workflow = &flow["spec"]["workflow"];
    if tulle_model::flow::parse(workflow).is_err() {
        // The server took it once; or it is not what this version reads.
        return Err(Failure::input("the workflow cannot be read").help("`tulle validate -f FILE` says why"));
    }
    let steps = blueprint::steps(workflow);
    match args.output {
        BlueprintFormat::Tree => {
            print(&format!("{}\n{}", heading(&flow), legible_lines(&tree::render(&steps))))
        }
        BlueprintFormat::Mermaid => print(&legible_lines(&mermaid::render(&steps))),
        BlueprintFormat::Json => print_json(&whole(&flow, &steps)),
        BlueprintFormat::Yaml => print_yaml(&whole(&flow, &steps)),
    }
}

async fn of_server(args: &ShowArgs) -> Result<Value> {
    let client = args.client.client()?;
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let name = object_name(args.flow.as_deref().unwrap_or_default(), namespace);
    client.get(&resource(KindId::Flow.kind(), Some(&name.namespace), Some(&name.name)), JSON).await
}

/// The one Flow in the files, or the one of that name.
fn of_files(args: &ShowArgs) -> Result<Value> {
    let files = FileArgs { filename: args.filename.clone(), recursive: false, strict: false };
    let mut set = manifest::load(&files)?;
    set.default_namespace(args.namespace.as_deref().unwrap_or("default"));
    let mut flows: Vec<_> =
        set.manifests.into_iter().filter(|manifest| manifest.kind.id == KindId::Flow).collect();
    let names: Vec<_> = flows.iter().map(|flow| flow.name().to_owned()).collect();
    if let Some(wanted) = &args.flow {
        let wanted = wanted.rsplit('/').next().unwrap_or_default().to_owned();
        flows.retain(|flow| flow.name() == wanted);
    }
    let listed = || format!("Flows in the files: {}", names.join(", "));
    match (flows.len(), names.is_empty()) {
        (1, _) => Ok(flows.remove(0).value),
        (_, true) => Err(Failure::input("no Flow is in the files")),
        (0, false) => {
            let wanted = args.flow.as_deref().unwrap_or_default();
            Err(Failure::new(format!("the files have no Flow `{wanted}`"))
                .exit(Exit::NotFound)
                .help(listed()))
        }
        (..) => Err(Failure::input("several Flows are in the files: which one is meant?").help(listed())),
    }
}

/// `shop/order 0.1.0, called at order:8080, calls as orders`
fn heading(flow: &Value) -> String {
    let text = |pointer: &str| flow.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut heading = format!(
        "{}/{} {}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        text("/spec/workflow/document/version")
    );
    if let Some(http) = flow.pointer("/spec/trigger/http").filter(|http| !http.is_null()) {
        let port = http["port"].as_u64().unwrap_or(u64::from(tulle_model::kinds::flow::DEFAULT_PORT));
        heading += &format!(", called at {}:{port}", text("/metadata/name"));
    }
    let account = flow.pointer("/spec/serviceAccount").and_then(Value::as_str).unwrap_or("default");
    legible(&format!("{heading}, calls as {account}")).into_owned()
}

fn whole(flow: &Value, steps: &[blueprint::Step]) -> Value {
    let spec = &flow["spec"];
    json!({
        "namespace": flow["metadata"]["namespace"],
        "name": flow["metadata"]["name"],
        "version": spec["workflow"]["document"]["version"],
        "serviceAccount": spec["serviceAccount"].as_str().unwrap_or("default"),
        "trigger": spec["trigger"],
        "steps": steps,
    })
}

/// Each line as one that controls nothing.
fn legible_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", legible(line))).collect()
}
