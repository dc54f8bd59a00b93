//! `tulle token`: with what nodes join.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tulle_model::legible::legible;

use crate::client::{ClientArgs, JSON};
use crate::exit::{Failure, Result};
use crate::output::{Cell, ReportFormat, Table, note, print, print_json, print_yaml};
use crate::units::parse_duration;

/// Where the API has them.
const TOKENS: &str = "/tulle/v1alpha1/tokens";

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token with which one node may join, once
    Create(CreateArgs),
    /// Show the tokens that nobody has used yet
    List(ListArgs),
    /// Take tokens back: nobody joins with them any more
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// Ids, as `tulle token list` shows them, or whole tokens
    #[arg(required = true, value_name = "ID")]
    tokens: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// An identity whose workloads the node may run, as NAMESPACE/SERVICE-ACCOUNT (repeatable) [default: all]
    #[arg(long, value_name = "NAMESPACE/ACCOUNT")]
    identity: Vec<String>,
    /// Namespaces whose Flows the node runs, as whoever those call; `*` for all [default: none]
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    flows: Vec<String>,
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
    match args.command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Revoke(args) => revoke(args).await,
    }
}

async fn create(args: CreateArgs) -> Result<()> {
    for identity in &args.identity {
        if identity != "*" && identity.parse::<tulle_model::name::NamespacedName>().is_err() {
            return Err(Failure::input(format!("`{identity}` is not of the form NAMESPACE/SERVICE-ACCOUNT")));
        }
    }
    let identities = if args.identity.is_empty() { vec!["*".to_owned()] } else { args.identity };
    let mut body = json!({ "identities": identities, "ttlSeconds": args.ttl.as_secs() });
    if !args.flows.is_empty() {
        body["flows"] = args.flows.into();
    }
    if let Some(node) = args.node {
        body["node"] = node.into();
    }
    let answer = args.client.client()?.post(TOKENS, &body).await?;
    if answer["identities"].as_array().is_some_and(|all| all.iter().any(|one| one == "*")) {
        note("a node that joins with this token may run workloads of ALL identities");
        note("--identity NAMESPACE/SERVICE-ACCOUNT makes one for some of them only");
    } else {
        let identities = identities_of(&answer);
        note(&format!("a node that joins with this token may run workloads of: {}", legible(&identities)));
    }
    if let Some(flows) = flows_of(&answer) {
        note(&format!("it runs Flows, as whoever they call, of: {}", legible(&flows)));
    }
    match args.output {
        ReportFormat::Json => print_json(&answer),
        ReportFormat::Yaml => print_yaml(&answer),
        ReportFormat::Wide => {
            print(&format!("{}   expires {}\n", text(&answer["token"]), text(&answer["expires"])))
        }
        ReportFormat::Table => print(&format!("{}\n", text(&answer["token"]))),
    }
}

async fn list(args: ListArgs) -> Result<()> {
    let answer = args.client.client()?.get(TOKENS, JSON).await?;
    match args.output {
        ReportFormat::Json => return print_json(&answer),
        ReportFormat::Yaml => return print_yaml(&answer),
        ReportFormat::Table | ReportFormat::Wide => {}
    }
    let tokens = answer["tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    if tokens.is_empty() {
        note("No tokens that could still be used");
        return Ok(());
    }
    let mut table = Table::new(["ID", "IDENTITIES", "FLOWS", "NODE", "EXPIRES"]);
    for token in tokens {
        let node = token["node"].as_str().unwrap_or("any");
        let flows = flows_of(token).unwrap_or_else(|| "none".to_owned());
        let cells = [text(&token["id"]), &identities_of(token), &flows, node, text(&token["expires"])];
        table.row(cells.map(Cell::from));
    }
    print(&table.render())
}

async fn revoke(args: RevokeArgs) -> Result<()> {
    let client = args.client.client()?;
    for token in &args.tokens {
        // The id, or the whole token, of which it is the second part.
        let id = token.trim().split('.').nth(1).unwrap_or(token.trim());
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Failure::input("that is neither the id of a token nor a token")
                .help("`tulle token list` shows their ids"));
        }
        client.delete(&format!("{TOKENS}/{id}")).await?;
        print(&format!("token {id} revoked\n"))?;
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn identities_of(token: &Value) -> String {
    all_of(&token["identities"])
}

/// The namespaces whose Flows it lets a node run; `None`: it does not.
fn flows_of(token: &Value) -> Option<String> {
    let flows = all_of(&token["flows"]);
    (!flows.is_empty()).then_some(flows)
}

fn all_of(list: &Value) -> String {
    let named: Vec<_> = list.as_array().into_iter().flatten().map(text).collect();
    if named.contains(&"*") { "ALL".to_owned() } else { named.join(", ") }
}
