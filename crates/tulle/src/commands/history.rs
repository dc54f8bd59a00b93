//! `tulle history` and `tulle rollback`: what an object was, and putting it back.

use clap::Args;
use serde_json::{Value, json};
use tulle_model::registry::Kind;

use crate::client::{Client, ClientArgs, JSON, resource};
use crate::exit::{Exit, Failure, Result};
use crate::output::{Cell, ReportFormat, Table, print, print_json, print_yaml};
use crate::selection::{self, Selection};

#[derive(Debug, Args)]
pub struct HistoryArgs {
    #[command(flatten)]
    named: NamedArgs,
    /// Print what the object was at this revision
    #[arg(long, value_name = "NUMBER")]
    revision: Option<u64>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    named: NamedArgs,
    /// The revision, as `tulle history` numbers it
    #[arg(long, value_name = "REVISION")]
    to: u64,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct NamedArgs {
    /// One object, which may be gone: KIND/NAME
    #[arg(value_name = "KIND/NAME")]
    object: String,
    /// Its namespace [default: the kubeconfig's]
    #[arg(short, long)]
    namespace: Option<String>,
}

impl NamedArgs {
    fn read(&self) -> Result<(&'static Kind, String)> {
        match selection::parse(std::slice::from_ref(&self.object))?.as_slice() {
            [Selection { kind, name: Some(name) }] => Ok((kind, name.clone())),
            _ => Err(Failure::input(format!("`{}` is not of the form KIND/NAME", self.object))
                .help("for example: `tulle history httproute/split`")),
        }
    }

    /// Where the API has its history.
    fn path(&self, client: &Client, kind: &Kind, name: &str) -> String {
        let namespace = self.namespace.as_deref().unwrap_or(client.namespace());
        format!("/tulle/v1alpha1/history{}", resource(kind, Some(namespace), Some(name)))
    }
}

pub async fn history(args: HistoryArgs) -> Result<()> {
    let (kind, name) = args.named.read()?;
    let client = args.client.client()?;
    let answer = client.get(&args.named.path(&client, kind, &name), JSON).await?;
    let revisions = answer["revisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if revisions.is_empty() {
        let failure = Failure::new(format!("nothing is known of changes of {} \"{name}\"", kind.singular));
        return Err(failure.exit(Exit::NotFound));
    }
    if let Some(number) = args.revision {
        let Some(revision) = revisions.iter().find(|revision| revision["revision"] == number) else {
            let failure = Failure::new(format!("{} \"{name}\" has no revision {number}", kind.singular));
            return Err(failure
                .exit(Exit::NotFound)
                .help("without --revision those are listed that are kept"));
        };
        return match args.output {
            ReportFormat::Json => print_json(&revision["object"]),
            _ => print_yaml(&revision["object"]),
        };
    }
    match args.output {
        ReportFormat::Json => return print_json(&answer),
        ReportFormat::Yaml => return print_yaml(&answer),
        ReportFormat::Table | ReportFormat::Wide => {}
    }
    let mut table = Table::new(["REVISION", "TIME", "USER", "VERB", "CHANGED"]);
    let mut before = &Value::Null;
    for revision in revisions {
        let user = match text(&revision["user"]) {
            "" => "-",
            user => user,
        };
        let changed = match before {
            Value::Null => String::new(),
            before => changed(before, &revision["object"]),
        };
        let number = revision["revision"].to_string();
        let cells = [&number, text(&revision["time"]), user, text(&revision["verb"]), &changed];
        table.row(cells.map(Cell::from));
        before = &revision["object"];
    }
    print(&table.render())
}

/// The fields that differ, two names deep: `spec.rules`, `metadata.labels`.
fn changed(before: &Value, after: &Value) -> String {
    let names = |value: &Value| -> Vec<String> {
        value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let differing = |a: &Value, b: &Value| {
        let mut all = [names(a), names(b)].concat();
        all.sort_unstable();
        all.dedup();
        all.retain(|name| a.get(name) != b.get(name));
        all
    };
    let mut paths = Vec::new();
    for name in differing(before, after) {
        let (a, b) = (&before[&name], &after[&name]);
        match a.is_object() && b.is_object() {
            true => paths.extend(differing(a, b).into_iter().map(|inner| format!("{name}.{inner}"))),
            false => paths.push(name),
        }
    }
    paths.join(", ")
}

pub async fn rollback(args: RollbackArgs) -> Result<()> {
    let (kind, name) = args.named.read()?;
    let client = args.client.client()?;
    client.post(&args.named.path(&client, kind, &name), &json!({ "to": args.to })).await?;
    print(&format!("{} \"{name}\" is what it was at revision {}\n", kind.singular, args.to))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named_two_deep() {
        let one = json!({ "metadata": { "name": "c" }, "spec": { "ports": [1], "selector": {} }, "data": 1 });
        let mut two = one.clone();
        assert_eq!(changed(&one, &two), "");
        two["spec"]["ports"] = json!([2]);
        two["metadata"]["labels"] = json!({ "a": "b" });
        two["data"] = json!(2);
        assert_eq!(changed(&one, &two), "data, metadata.labels, spec.ports");
    }
}
