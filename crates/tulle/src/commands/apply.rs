//! `tulle apply`: makes the server have what files describe: all of it, or nothing where anything is wrong.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;
use tulle_model::legible::legible;
use tulle_model::name::ServiceName;
use tulle_model::registry::{Kind, KindId};
use tulle_model::validate::offered_ports;

use super::get::qualified_singular;
use crate::client::{Client, ClientArgs, JSON, Query, resource};
use crate::diagnostic::Diagnostics;
use crate::exit::{Exit, Failure, Result};
use crate::manifest::{self, FileArgs, Manifest};
use crate::output::{note, print};

/// Who owns the fields that `tulle` sets (server-side apply).
pub const FIELD_MANAGER: &str = "tulle";

#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    files: FileArgs,
    /// The namespace of objects that name none
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// Ask the server whether it would take it, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Take over fields that belong to somebody else
    #[arg(long)]
    force_conflicts: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: ApplyArgs) -> Result<()> {
    if args.files.filename.is_empty() {
        return Err(Failure::input("nothing is said about which files to apply").help("tulle apply -f FILE"));
    }
    let mut set = manifest::load(&args.files)?;
    print_skipped(&set)?;
    if set.manifests.is_empty() {
        return Ok(());
    }
    let client = args.client.client()?;
    set.default_namespace(args.namespace.as_deref().unwrap_or(client.namespace()));
    set.check_duplicates()?;
    let mut manifests = set.manifests;
    check(&client, &manifests).await?;
    manifests.sort_by_key(|m| order(m.kind));
    let total = manifests.len();
    for (done, manifest) in manifests.iter().enumerate() {
        let outcome = apply(&client, manifest, args.dry_run, args.force_conflicts).await;
        let before = if args.dry_run { 0 } else { done };
        let outcome = outcome.map_err(|failure| explain(failure, manifest, before, total))?;
        let suffix = if args.dry_run { " (dry run)" } else { "" };
        let name = format!("{}/{}", qualified_singular(manifest.kind), manifest.name());
        print(&format!("{name} {outcome}{suffix}\n"))?;
    }
    Ok(())
}

/// Lists what is not for us.
pub fn print_skipped(set: &manifest::ManifestSet) -> Result<()> {
    let lines: String = set.skipped.iter().map(|name| format!("{} skipped\n", legible(name))).collect();
    print(&lines)?;
    set.skipped_note().iter().for_each(|line| note(line));
    Ok(())
}

fn explain(failure: Failure, manifest: &Manifest, done: usize, total: usize) -> Failure {
    let exit = failure.exit;
    let mut failure = failure.context(format!("{} is not applied", manifest.describe()));
    if exit == Exit::Conflict {
        failure = failure.help("--force-conflicts takes the fields over");
    }
    if done > 0 {
        failure =
            failure.help(format!("{done} of {total} objects had been applied before; apply again to go on"));
        // Which says that nothing was changed.
        if exit == Exit::Input {
            failure = failure.exit(Exit::Failure);
        }
    }
    failure
}

/// What others depend on comes first.
fn order(kind: &Kind) -> u8 {
    match kind.id {
        KindId::Namespace => 0,
        // What goes in TLS does so before it may leave in plain; and what may leave is listed before nothing else may.
        KindId::ConfigMap | KindId::Secret => 0,
        KindId::BackendTlsPolicy => 1,
        KindId::ExternalService => 2,
        KindId::Mesh | KindId::Service => 3,
        KindId::EndpointSlice
        | KindId::Workload
        | KindId::AuthorizationPolicy
        | KindId::ReferenceGrant
        | KindId::Node
        | KindId::Event
        | KindId::EventV1
        | KindId::FlowRun
        | KindId::Role
        | KindId::ClusterRole
        | KindId::Flow => 4,
        KindId::HttpRoute | KindId::GrpcRoute | KindId::TlsRoute | KindId::TcpRoute => 5,
        // The rights that a binding gives have to be there to be looked at.
        KindId::RoleBinding | KindId::ClusterRoleBinding => 6,
    }
}

/// Whether what the files refer to exists, in them or on the server, before anything is sent.
async fn check(client: &Client, manifests: &[Manifest]) -> Result<()> {
    let mut diagnostics = Diagnostics::default();
    let referred: BTreeSet<_> = manifests.iter().flat_map(manifest::referred_to).collect();
    let mut there = BTreeMap::new();
    for (kind, namespace) in referred {
        let list = client.get(&resource(kind.kind(), Some(&namespace), None), JSON).await?;
        for object in list["items"].as_array().into_iter().flatten() {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let ports = offered_ports(kind, object).unwrap_or_default();
            there.insert((kind, ServiceName::new(namespace.as_str(), name)), ports);
        }
    }
    let known = |kind: KindId, name: &ServiceName| there.get(&(kind, name.clone())).cloned();
    let help = "what a route refers to must exist, in the files or on the server";
    manifest::check_references(manifests, known, Some(help), &mut diagnostics);
    let mut seen = BTreeSet::new();
    for manifest in manifests.iter().filter(|m| m.kind.namespaced) {
        let Some(namespace) = manifest.namespace().filter(|n| seen.insert(n.to_string())) else { continue };
        let given = manifests.iter().any(|m| m.kind.id == KindId::Namespace && m.name() == namespace);
        let path = resource(KindId::Namespace.kind(), None, Some(namespace));
        if !given && client.find(&path).await?.is_none() {
            let title = format!("there is no namespace `{namespace}`, which {} is for", manifest.describe());
            let label = "not on the server, and not in the files";
            let object = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}");
            let diagnostic = manifest.diagnostic(title, "/metadata/namespace", label);
            diagnostics.push(diagnostic.help(format!("add one: {object}")));
        }
    }
    diagnostics.into_result()
}

/// Applies one object and says what became of it: `created`, `configured` or `unchanged`.
pub async fn apply(client: &Client, manifest: &Manifest, dry_run: bool, force: bool) -> Result<&'static str> {
    apply_object(client, manifest.kind, &manifest.value, dry_run, force).await
}

/// See [`apply`].
pub async fn apply_object(
    client: &Client,
    kind: &Kind,
    object: &Value,
    dry_run: bool,
    force: bool,
) -> Result<&'static str> {
    let path = path_of(kind, object);
    let before = client.find(&path).await?;
    let after = client.apply(&apply_path(path, FIELD_MANAGER, dry_run, force), object).await?;
    Ok(match Became::of(before.as_ref(), &after) {
        Became::Created => "created",
        Became::Unchanged => "unchanged",
        Became::Configured => "configured",
    })
}

/// What became of an object that was applied.
pub enum Became {
    Created,
    Unchanged,
    Configured,
}

impl Became {
    pub fn of(before: Option<&Value>, after: &Value) -> Self {
        let version = |value: &Value| value["metadata"]["resourceVersion"].clone();
        match before {
            None => Self::Created,
            Some(before) if version(before) == version(after) => Self::Unchanged,
            Some(_) => Self::Configured,
        }
    }
}

/// Where an object is.
pub fn path_of(kind: &Kind, object: &Value) -> String {
    resource(kind, object["metadata"]["namespace"].as_str(), object["metadata"]["name"].as_str())
}

/// Where a server-side apply goes to; `manager` owns the fields that it sets.
pub fn apply_path(path: String, manager: &str, dry_run: bool, force: bool) -> String {
    Query::new(path)
        .set("fieldManager", manager)
        .set("fieldValidation", "Strict")
        .set("force", if force { "true" } else { "false" })
        .set_if("dryRun", dry_run.then_some("All"))
        .finish()
}
