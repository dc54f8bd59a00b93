//! `tulle user`: by what people and tools are known to the API. What they may do, roles and bindings say.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tulle_model::legible::legible;

use crate::client::{ClientArgs, JSON};
use crate::exit::{Failure, Result};
use crate::output::{Cell, ReportFormat, Table, note, print, print_json, print_yaml};
use crate::units::parse_duration;

/// Where the API has them.
const CERTIFICATES: &str = "/tulle/v1alpha1/users";
const TOKENS: &str = "/tulle/v1alpha1/usertokens";

#[derive(Debug, Args)]
pub struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Print a kubeconfig by which a user is known, with a certificate or with a token
    #[command(
        after_help = "The user may do what roles say that are bound to it:\n  kubectl create rolebinding ann --clusterrole=edit --user=ann -n shop"
    )]
    Create(UserCreateArgs),
    /// Show the tokens of users
    List(UserListArgs),
    /// Take tokens of users back
    Revoke(UserRevokeArgs),
}

#[derive(Debug, Args)]
struct UserCreateArgs {
    /// The user's name, as bindings of roles name it; `system:serviceaccount:NAMESPACE:NAME` for a service account
    name: String,
    /// A group that the user is in (repeatable)
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// How long it is good for
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "24h")]
    ttl: Duration,
    /// With a token, which can be revoked, in place of a certificate, which cannot
    #[arg(long)]
    token: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct UserListArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct UserRevokeArgs {
    /// Ids, as `tulle user list` shows them, or whole tokens
    #[arg(required = true, value_name = "ID")]
    tokens: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: UserArgs) -> Result<()> {
    match args.command {
        UserCommand::Create(args) => create(args).await,
        UserCommand::List(args) => list(args).await,
        UserCommand::Revoke(args) => revoke(args).await,
    }
}

async fn create(args: UserCreateArgs) -> Result<()> {
    let client = args.client.client()?;
    let body = json!({ "name": args.name, "groups": args.group, "ttlSeconds": args.ttl.as_secs() });
    let answer = client.post(if args.token { TOKENS } else { CERTIFICATES }, &body).await?;
    let credentials = if args.token {
        note(&format!("the token `{}`: `tulle user revoke` takes it back", text(&answer["id"])));
        json!({ "token": answer["token"] })
    } else {
        let encoded = |field: &str| STANDARD.encode(text(&answer[field]));
        json!({ "client-certificate-data": encoded("certificate"), "client-key-data": encoded("key") })
    };
    note(&format!("good until {}; whoever has this file is the user", text(&answer["expires"])));
    let mut cluster = json!({
        "server": client.server(),
        "certificate-authority-data": STANDARD.encode(client.authority_pem()),
    });
    if let Some(name) = client.tls_server_name() {
        cluster["tls-server-name"] = name.into();
    }
    print_yaml(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "tulle", "cluster": cluster }],
        "contexts": [{ "name": "tulle", "context": { "cluster": "tulle", "user": args.name } }],
        "current-context": "tulle",
        "users": [{ "name": args.name, "user": credentials }],
    }))
}

async fn list(args: UserListArgs) -> Result<()> {
    let answer = args.client.client()?.get(TOKENS, JSON).await?;
    match args.output {
        ReportFormat::Json => return print_json(&answer),
        ReportFormat::Yaml => return print_yaml(&answer),
        ReportFormat::Table | ReportFormat::Wide => {}
    }
    let tokens = answer["tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    if tokens.is_empty() {
        note("No tokens of users");
        return Ok(());
    }
    let mut table = Table::new(["ID", "USER", "GROUPS", "EXPIRES"]);
    for token in tokens {
        let groups: Vec<_> = token["groups"].as_array().into_iter().flatten().map(text).collect();
        let groups = groups.join(", ");
        table.row(
            [text(&token["id"]), text(&token["name"]), &groups, text(&token["expires"])].map(Cell::from),
        );
    }
    print(&table.render())
}

async fn revoke(args: UserRevokeArgs) -> Result<()> {
    // The id, or the whole token, of which it is the second part.
    let id = |token: &String| {
        let token = token.trim();
        let id = token.strip_prefix("tulle_").and_then(|rest| rest.split('_').next()).unwrap_or(token);
        let good = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let failure = || Failure::input("that is neither the id of a user's token nor a token");
        let failure = || failure().help("`tulle user list` shows their ids");
        good.then(|| id.to_owned()).ok_or_else(failure)
    };
    let ids = args.tokens.iter().map(id).collect::<Result<Vec<_>>>()?;
    let client = args.client.client()?;
    for id in ids {
        client.delete(&format!("{TOKENS}/{id}")).await?;
        print(&format!("token {} revoked\n", legible(&id)))?;
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
