//! `tulle auth check`: whether somebody may enter the workloads of a service, and which policy decides.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use serde_json::json;
use tulle_model::authorization::{self, Visitor};
use tulle_model::compile::{Compiler, LocalWorkload};
use tulle_model::decision::Effect;
use tulle_model::identity::SpiffeId;
use tulle_model::name::NamespacedName;
use tulle_model::registry::{KINDS, KindId};
use tulle_model::split::{MeshObject, name_of};
use tulle_model::validate::suggest::did_you_mean;

use crate::client::ClientArgs;
use crate::exit::{Exit, Failure, Result};
use crate::mesh_objects::{compile, fetch, trust_domain};
use crate::output::{ReportFormat, Table, note, print, print_json, print_yaml};

#[derive(Debug, Args)]
pub struct AuthArgs {
    #[command(subcommand)]
    command: AuthCommand,
}

#[derive(Debug, Subcommand)]
enum AuthCommand {
    /// Say whether somebody may enter a service's workloads, and which policy decides
    Check(CheckArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
  tulle auth check --from shop/web --to shop/cart
  tulle auth check --from spiffe://mesh.local/ns/shop/sa/web --to cart --port 8080
  tulle auth check --from 192.0.2.7 --to cart          from outside of the mesh

Exits with 0 where all of them may be entered and with 1 where one may not, as kubectl auth can-i does.")]
struct CheckArgs {
    /// Who comes: a workload, a service account where there is none of that name, a SPIFFE ID, or an address outside of the mesh
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = NonEmptyStringValueParser::new())]
    from: String,
    /// Where to: a Service, or a workload where there is none of that name
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = NonEmptyStringValueParser::new())]
    to: String,
    /// A port of it [default: each that a Service stands for]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The namespace of names that name none [default: that of the kubeconfig]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// Returns whether they may.
pub async fn run(args: AuthArgs) -> Result<bool> {
    match args.command {
        AuthCommand::Check(args) => check(args).await,
    }
}

/// Who comes.
enum From {
    Mesh(SpiffeId),
    Outside(IpAddr),
}

async fn check(args: CheckArgs) -> Result<bool> {
    let client = args.client.client()?;
    let decides = [KindId::Service, KindId::Workload, KindId::Mesh, KindId::AuthorizationPolicy];
    let kinds = KINDS.iter().filter(|kind| decides.contains(&kind.id));
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace()).to_owned();
    let objects = fetch(&client, kinds, None).await?;
    let compiler = compile(&objects)?;
    let named = |text: &str| match text.split_once('/') {
        Some((namespace, name)) => NamespacedName::new(namespace, name),
        None => NamespacedName::new(namespace.as_str(), text),
    };
    let from = from(&objects, &args.from, &named(&args.from))?;
    let doors = doors(&compiler, &objects, &named(&args.to), args.port)?;
    let visitor = match &from {
        From::Mesh(identity) => Visitor::Mesh(identity),
        From::Outside(address) => Visitor::Outside(*address),
    };
    let mut rows = Vec::new();
    for (workload, port, local) in &doors {
        let policies = &local.config.policies;
        // What the node does not see, it lets in.
        let is_seen = matches!(visitor, Visitor::Mesh(_)) || local.config.inbound_capture;
        let decided = if is_seen { authorization::decide(policies, visitor, *port) } else { Ok(None) };
        let audits = authorization::audits(policies, visitor, *port);
        let audits: Vec<_> = audits.map(|audit| audit.decision(Effect::Audited)).collect();
        rows.push((workload.to_string(), *port, decided, audits));
    }
    let unseen = matches!(visitor, Visitor::Outside(_))
        && doors.iter().any(|(.., local)| !local.config.inbound_capture);
    if unseen {
        note(
            "inbound capture is off: nothing holds off who comes from outside of the mesh (docs/traffic.md)",
        );
    }
    let may = rows.iter().all(|(_, _, decided, _)| decided.is_ok());
    let from = match &from {
        From::Mesh(identity) => identity.to_string(),
        From::Outside(address) => address.to_string(),
    };
    let by =
        |decided: &std::result::Result<Option<authorization::Matched<'_>>, authorization::Denial<'_>>| {
            match decided {
                Ok(None) => None,
                Ok(Some(matched)) => Some(matched.decision(Effect::Routed)),
                Err(denial) => Some(denial.decision()),
            }
        };
    match args.output {
        ReportFormat::Json | ReportFormat::Yaml => {
            let row = |(workload, port, decided, audits): &(String, u16, _, Vec<_>)| {
                let by = by(decided);
                json!({
                    "workload": workload, "port": port, "allowed": decided.is_ok(),
                    "reason": decided.as_ref().err().map(|denial| denial.reason()),
                    "decidedBy": by.as_ref().map(|by| by.by.to_string()), "field": by.map(|by| by.field),
                    "audits": audits.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })
            };
            let whole = json!({ "from": from, "allowed": may, "workloads": rows.iter().map(row).collect::<Vec<_>>() });
            if args.output == ReportFormat::Json { print_json(&whole)? } else { print_yaml(&whole)? }
        }
        ReportFormat::Table | ReportFormat::Wide => {
            let mut table = Table::new(["WORKLOAD", "PORT", "VERDICT", "DECIDED BY", "FIELD"]);
            for (workload, port, decided, _) in &rows {
                let verdict = match decided {
                    Ok(_) => "allowed".to_owned(),
                    Err(denial) => denial.reason(),
                };
                let (object, field) = match by(decided) {
                    Some(by) => (by.by.to_string(), by.field.to_string()),
                    None => ("no policy".to_owned(), "-".to_owned()),
                };
                table.row([
                    workload.as_str().into(),
                    port.to_string().into(),
                    verdict.into(),
                    object.into(),
                    field.into(),
                ]);
            }
            print(&table.render())?;
            for audit in rows.iter().flat_map(|(_, _, _, audits)| audits) {
                note(&audit.to_string());
            }
        }
    }
    Ok(may)
}

fn from(objects: &[MeshObject], text: &str, name: &NamespacedName) -> Result<From> {
    if let Ok(address) = text.parse() {
        return Ok(From::Outside(address));
    }
    let wrong = |error: tulle_model::identity::InvalidIdentity| Failure::input(format!("--from: {error}"));
    if text.starts_with("spiffe://") {
        return text.parse().map(From::Mesh).map_err(wrong);
    }
    let workload =
        objects.iter().find(|(kind, object)| kind.id == KindId::Workload && name_of(object) == *name);
    let account_of =
        |workload: &MeshObject| workload.1["spec"]["serviceAccount"].as_str().unwrap_or("default").to_owned();
    let account = match workload {
        Some(workload) => account_of(workload),
        None => name.name.to_string(),
    };
    let runs = |object: &MeshObject| {
        object.0.id == KindId::Workload
            && name_of(&object.1).namespace == name.namespace
            && account_of(object) == account
    };
    if !objects.iter().any(runs) {
        note(&format!("no workload runs as the service account {}/{account} now", name.namespace));
    }
    let identity = SpiffeId::workload(&trust_domain(objects)?, &name.namespace, &account);
    identity.map(From::Mesh).map_err(wrong)
}

/// The workloads of nodes that are meant, each with its ports.
fn doors(
    compiler: &Compiler,
    objects: &[MeshObject],
    to: &NamespacedName,
    port: Option<u16>,
) -> Result<Vec<(NamespacedName, u16, LocalWorkload)>> {
    let of = |wanted: KindId| {
        objects.iter().filter(move |(kind, _)| kind.id == wanted).map(|(_, object)| name_of(object))
    };
    let is_service = of(KindId::Service).any(|name| name == *to);
    if !is_service && !of(KindId::Workload).any(|name| name == *to) {
        let names: Vec<_> =
            of(KindId::Service).chain(of(KindId::Workload)).map(|name| name.to_string()).collect();
        let hint = did_you_mean(&to.to_string(), names.iter().map(String::as_str));
        let message = format!("there is no Service and no Workload {to}{hint}");
        return Err(Failure::new(message).exit(Exit::NotFound));
    }
    let mut doors = BTreeMap::new();
    for name in of(KindId::Workload) {
        let Some(local) = compiler.workload(&name) else { continue };
        for selected in local.config.services.iter().filter(|selected| !is_service || selected.by == *to) {
            if !is_service && name != *to {
                continue;
            }
            for served in &selected.ports {
                let own = if is_service { served.service_port } else { served.target_port };
                if port.is_none_or(|port| port == own) {
                    doors.insert((name.clone(), served.target_port), local.clone());
                }
            }
        }
        if is_service || name != *to {
            continue;
        }
        // Ports that no Service stands for.
        let workload =
            objects.iter().find(|(kind, object)| kind.id == KindId::Workload && name_of(object) == name);
        let own =
            workload.and_then(|(_, workload)| workload["spec"]["ports"].as_array()).into_iter().flatten();
        let own = own.filter_map(|own| u16::try_from(own["port"].as_u64()?).ok());
        for port in port.map_or_else(|| own.collect(), |port| vec![port]) {
            doors.entry((name.clone(), port)).or_insert(local.clone());
        }
    }
    if doors.is_empty() {
        let of_port = port.map(|port| format!(" at port {port}")).unwrap_or_default();
        let message = format!("{to} has no workload of a node{of_port}: no policy is held to there");
        return Err(Failure::new(message).exit(Exit::NotFound).help("`tulle describe` shows its endpoints"));
    }
    Ok(doors.into_iter().map(|((name, port), local)| (name, port, local)).collect())
}
