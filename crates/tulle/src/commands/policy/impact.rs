//! `tulle policy impact`: what of the traffic seen a change would let in or hold off.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anstyle::AnsiColor;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};
use tulle_model::decision::Decision;
use tulle_model::identity::Subject;
use tulle_model::name::{NamespacedName, WorkloadName};
use tulle_model::registry::KindId;
use tulle_model::split::{MeshObject, name_of};
use tulle_model::summary::replay::{Foreseen, Judge, Judged};
use tulle_model::summary::{Callee, Comer, Summary, SummaryView, Wish};

use super::{deciding_objects, doors, summaries};
use crate::client::{Client, ClientArgs, resource};
use crate::commands::apply::{FIELD_MANAGER, apply_path};
use crate::exit::{Exit, Failure, Result};
use crate::manifest::{self, FileArgs};
use crate::mesh_objects::{compile, trust_domain};
use crate::output::{Cell, ReportFormat, Table, note, print, print_json, print_yaml};
use crate::selection::object_name;

#[derive(Debug, Args)]
#[command(after_help = "\
  tulle policy impact -f new.yaml
  tulle policy impact --delete shop/cart-callers

What was seen in the last day is asked about once as the mesh is, and once as it would be with the files applied (policies, the
Mesh, Services). What that cannot know, such as headers, is called `depends`.

Exits with 0 where nothing would change and with 1 where something would, as diff does.")]
pub struct ImpactArgs {
    #[command(flatten)]
    files: FileArgs,
    /// An AuthorizationPolicy that would be deleted (repeatable)
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = NonEmptyStringValueParser::new())]
    delete: Vec<String>,
    /// The namespace of objects that name none [default: that of the kubeconfig]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// Something that would change.
struct Change {
    summary: Summary,
    last_seen: i64,
    now: Judged,
    then: Judged,
}

/// One source, or all of the outside, and where it goes.
type EdgeEnds = (Option<Comer>, Callee);

/// Whether anything would change.
pub async fn run(args: ImpactArgs) -> Result<bool> {
    if args.files.filename.is_empty() && args.delete.is_empty() {
        return Err(
            Failure::input("nothing is said about what would change").help("tulle policy impact -f FILE")
        );
    }
    let client = args.client.client()?;
    let before = deciding_objects(&client).await?;
    let after = changed(&args, &client, &before).await?;
    let (compiler, new_compiler) = (compile(&before)?, compile(&after)?);
    let mut judges: HashMap<&WorkloadName, [Judge; 2]> = HashMap::new();
    for (name, local) in compiler.workloads() {
        if let Some(new) = new_compiler.workload(name) {
            judges.insert(name, [Judge::new(&local.config), Judge::new(&new.config)]);
        }
    }
    let seen = summaries(&client, None).await?;
    let mut edges: BTreeSet<EdgeEnds> = BTreeSet::new();
    let mut gone = 0;
    let mut changes: Vec<Change> = Vec::new();
    for (summary, last_seen) in seen {
        let then: HashMap<_, _> =
            doors(&new_compiler, &summary).map(|(name, _, port)| (name, port)).collect();
        let mut asked = false;
        for (name, _, port) in doors(&compiler, &summary) {
            let (Some([before, after]), Some(new_port)) = (judges.get(name), then.get(name)) else {
                continue;
            };
            asked = true;
            let [now, then] = Judge::compare((before, port), (after, *new_port), &summary);
            let both_depend =
                matches!((now.verdict, then.verdict), (Foreseen::Depends(_), Foreseen::Depends(_)));
            if now.verdict == then.verdict && !both_depend || both_depend && before.is_like(after) {
                continue;
            }
            changes.push(Change { summary: summary.clone(), last_seen, now, then });
            // Other replicas are alike.
            break;
        }
        match asked {
            true => drop(edges.insert(edge(&summary))),
            false => gone += 1,
        }
    }
    let changed: BTreeSet<_> = changes.iter().map(|change| edge(&change.summary)).collect();
    let counts = (changed.len(), edges.len());
    match args.output {
        ReportFormat::Json => print_json(&report(&changes, counts))?,
        ReportFormat::Yaml => print_yaml(&report(&changes, counts))?,
        ReportFormat::Table | ReportFormat::Wide => {
            if !changes.is_empty() {
                print(&table(&changes, args.output == ReportFormat::Wide, &before)?)?;
            }
            print(&format!("{} of the {} edges seen in the last day would change\n", counts.0, counts.1))?;
        }
    }
    if gone > 0 {
        note(&format!("{gone} of what was seen went to workloads or ports that are not there any more"));
    }
    Ok(!changes.is_empty())
}

/// The objects as they would be.
async fn changed(args: &ImpactArgs, client: &Client, before: &[MeshObject]) -> Result<Vec<MeshObject>> {
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let mut objects: BTreeMap<(KindId, NamespacedName), MeshObject> =
        before.iter().map(|(kind, object)| ((kind.id, name_of(object)), (*kind, object.clone()))).collect();
    for text in &args.delete {
        let name = object_name(text, namespace);
        if objects.remove(&(KindId::AuthorizationPolicy, name.clone())).is_none() {
            let message = format!("there is no AuthorizationPolicy {name}");
            return Err(Failure::new(message).exit(Exit::NotFound));
        }
    }
    if args.files.filename.is_empty() {
        return Ok(objects.into_values().collect());
    }
    let mut set = manifest::load(&args.files)?;
    set.skipped_note().iter().for_each(|line| note(line));
    set.default_namespace(namespace);
    set.check_duplicates()?;
    for manifest in &set.manifests {
        // As the server would have it.
        let path = resource(manifest.kind, manifest.namespace(), Some(manifest.name()));
        let mut applied: Value = client
            .apply(&apply_path(path, FIELD_MANAGER, true, true), &manifest.value)
            .await
            .map_err(|failure| failure.context(format!("{} could not be applied", manifest.describe())))?;
        applied["apiVersion"] = manifest.kind.api_version().into();
        applied["kind"] = manifest.kind.kind.into();
        objects.insert((manifest.kind.id, name_of(&applied)), (manifest.kind, Arc::new(applied)));
    }
    Ok(objects.into_values().collect())
}

fn edge(summary: &Summary) -> EdgeEnds {
    let from = match &summary.from {
        Comer::Mesh(identity) => Some(Comer::Mesh(identity.clone())),
        Comer::Outside(_) => None,
    };
    (from, summary.to.clone())
}

fn verdict(judged: &Judged) -> &'static str {
    match judged.verdict {
        Foreseen::Allowed => "allowed",
        Foreseen::Denied => "denied",
        Foreseen::Depends(_) => "depends",
    }
}

/// What decides: then or, where nothing does, now.
fn by(change: &Change) -> Option<&Decision> {
    change.then.by.as_ref().or(change.now.by.as_ref())
}

/// What it depends on, if it does.
fn depends_on(change: &Change) -> Option<&'static str> {
    [&change.then, &change.now].into_iter().find_map(|judged| match judged.verdict {
        Foreseen::Depends(on) => Some(on.as_str()),
        _ => None,
    })
}

fn report(changes: &[Change], (changed, all): (usize, usize)) -> Value {
    let row = |change: &Change| {
        let mut row = json!(SummaryView::new(&change.summary, change.last_seen));
        row["now"] = verdict(&change.now).into();
        row["then"] = verdict(&change.then).into();
        row["dependsOn"] = depends_on(change).into();
        row["decidedBy"] = by(change).map(|by| by.by.to_string()).into();
        row["field"] = by(change).map(|by| by.field.to_string()).into();
        row
    };
    json!({ "changes": changes.iter().map(row).collect::<Vec<_>>(), "edges": { "seen": all, "changed": changed } })
}

fn table(changes: &[Change], wide: bool, objects: &[MeshObject]) -> Result<String> {
    let domain = trust_domain(objects)?;
    let from = |comer: &Comer| match comer {
        Comer::Mesh(identity) if identity.trust_domain() == domain => match identity.subject() {
            Subject::Workload { namespace, service_account } => format!("{namespace}/{service_account}"),
            Subject::Node(_) | Subject::Server => identity.to_string(),
        },
        other => other.to_string(),
    };
    let mut table =
        Table::new(["FROM", "TO", "PORT", "REQUEST", "NOW", "THEN", "DECIDED BY", "FIELD", "DEPENDS ON"]);
    if wide {
        table = table.whole();
    }
    let shown = |judged: &Judged| {
        let style = match judged.verdict {
            Foreseen::Allowed => AnsiColor::Green,
            Foreseen::Denied => AnsiColor::Red,
            Foreseen::Depends(_) => AnsiColor::Yellow,
        };
        Cell::styled(verdict(judged), style.on_default())
    };
    for change in changes {
        let asked = match &change.summary.asked {
            Wish::Tcp => "bytes".to_owned(),
            Wish::Http { method, path } => format!("{method} {path}"),
            Wish::Grpc { path } => format!("call {path}"),
            Wish::Requests => "requests".to_owned(),
        };
        let by = by(change);
        table.row([
            from(&change.summary.from).into(),
            change.summary.to.name().to_string().into(),
            change.summary.port.to_string().into(),
            asked.into(),
            shown(&change.now),
            shown(&change.then),
            by.map_or("no policy".to_owned(), |by| by.by.to_string()).into(),
            by.map_or("-".to_owned(), |by| by.field.to_string()).into(),
            depends_on(change).unwrap_or("-").into(),
        ]);
    }
    Ok(table.render())
}
