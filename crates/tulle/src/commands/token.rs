//! `tulle token create`: lets a node join.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::client::ClientArgs;
use crate::exit::{Failure, Result};
use crate::output::{ReportFormat, print, print_json, print_yaml};
use crate::units::parse_duration;

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token with which one node may join, once
    Create(CreateArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// An identity whose workloads the node may run, as NAMESPACE/SERVICE-ACCOUNT (repeatable) [default: all]
    #[arg(long, value_name = "NAMESPACE/ACCOUNT")]
    identity: Vec<String>,
    /// How long the token is good for
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "15m")]
    ttl: Duration,
    /// Only for the node of this name
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// How to print; the token alone where nothing is said
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: TokenArgs) -> Result<()> {
    let TokenCommand::Create(args) = args.command;
    for identity in &args.identity {
        if identity != "*" && identity.parse::<tulle_model::name::NamespacedName>().is_err() {
            return Err(Failure::input(format!("`{identity}` is not of the form NAMESPACE/SERVICE-ACCOUNT")));
        }
    }
    let identities = if args.identity.is_empty() { vec!["*".to_owned()] } else { args.identity };
    let mut body = json!({ "identities": identities, "ttlSeconds": args.ttl.as_secs().max(1) });
    if let Some(node) = args.node {
        body["node"] = node.into();
    }
    let answer = args.client.client()?.post("/tulle/v1alpha1/tokens", &body).await?;
    match args.output {
        ReportFormat::Json => print_json(&answer),
        ReportFormat::Yaml => print_yaml(&answer),
        ReportFormat::Wide => print(&format!(
            "{}   expires {}\n",
            answer["token"].as_str().unwrap_or_default(),
            answer["expires"].as_str().unwrap_or_default()
        )),
        ReportFormat::Table => print(&format!("{}\n", answer["token"].as_str().unwrap_or_default())),
    }
}
