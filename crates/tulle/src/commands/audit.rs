//! `tulle audit`: who changed what through the API, and who was refused.

use clap::Args;
use serde_json::Value;

use crate::client::{ClientArgs, JSON, Query};
use crate::exit::Result;
use crate::output::{Cell, ReportFormat, Table, note, print, print_json, print_yaml};

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// What was refused, in place of what was changed
    #[arg(long)]
    denied: bool,
    /// Of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// With this verb: create, update, patch, delete, …
    #[arg(long, value_name = "VERB")]
    verb: Option<String>,
    /// Of objects with this in their name, which is `services/shop/cart`
    #[arg(long, value_name = "TEXT")]
    object: Option<String>,
    /// The latest so many
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: u32,
    /// How to print; json and yaml have what changed
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: AuditArgs) -> Result<()> {
    let path = Query::new("/tulle/v1alpha1/audit".to_owned())
        .set("limit", &args.limit.to_string())
        .set("denied", &args.denied.to_string())
        .set_if("user", args.user.as_deref())
        .set_if("verb", args.verb.as_deref())
        .set_if("object", args.object.as_deref());
    let answer = args.client.client()?.get(&path.finish(), JSON).await?;
    match args.output {
        ReportFormat::Json => return print_json(&answer),
        ReportFormat::Yaml => return print_yaml(&answer),
        ReportFormat::Table | ReportFormat::Wide => {}
    }
    let entries = answer["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    if entries.is_empty() {
        note(if args.denied { "Nothing was refused" } else { "Nothing was changed" });
        return Ok(());
    }
    let wide = args.output == ReportFormat::Wide;
    let mut header = vec!["TIME", "USER", "VERB", "OBJECT", "REASON"];
    if wide {
        header.extend(["CLIENT", "CHANGED"]);
    }
    let mut table = Table::new(header);
    for entry in entries.iter().rev() {
        let object = match entry["subresource"].as_str() {
            Some(subresource) => format!("{} {subresource}", text(&entry["object"])),
            None => text(&entry["object"]).to_owned(),
        };
        let user = match entry["impersonatedBy"].as_str() {
            Some(by) => format!("{} (by {by})", text(&entry["user"])),
            None => text(&entry["user"]).to_owned(),
        };
        let mut cells = vec![
            text(&entry["time"]).to_owned(),
            user,
            text(&entry["verb"]).to_owned(),
            object,
            text(&entry["reason"]).to_owned(),
        ];
        if wide {
            cells.extend([text(&entry["client"]).to_owned(), changed(entry)]);
        }
        table.row(cells.iter().map(|cell| Cell::from(cell.as_str())));
    }
    print(&table.render())
}

/// The paths of what changed.
fn changed(entry: &Value) -> String {
    let changes = entry["diff"].as_array().into_iter().flatten();
    changes.map(|change| text(&change["path"])).collect::<Vec<_>>().join(" ")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
