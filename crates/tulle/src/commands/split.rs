//! `tulle split`: shares the traffic of a Service out among Services, and shows how each fares.

mod show;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};
use tulle_model::name::{ServiceName, dns_label_problem};
use tulle_model::registry::{self, KINDS, KindId};
use tulle_model::split::{self, MeshObject, Missing, Overlap, Plan, Side, SplitError, SplitRequest};

use super::apply::apply_object;
use super::get::{for_people, qualified_singular};
use crate::client::{Client, ClientArgs, JSON, Query, resource};
use crate::exit::{Exit, Failure, Result};
use crate::mesh_objects::{fetch, trust_domain};
use crate::output::{ReportFormat, note_wrapped, print, print_json, print_yaml, yaml};

#[derive(Debug, Args)]
#[command(after_help = "\
Without shares, what is in force is shown, and how each side has fared in the last minute, whoever called it.

  tulle split web web-v1=90 web-v2=10    nine requests of ten go to Service web-v1
  tulle split web v1=0 v2=1              all go to web-v2
  tulle split web                        how both fare
  tulle split web --delete               all go to the Service's own endpoints again")]
pub struct SplitArgs {
    /// The Service whose traffic is shared out
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    service: String,
    /// Services and their weights; `v1` is `SERVICE-v1` where there is no Service `v1`. Which port takes it can be said
    #[arg(value_name = "NAME[:PORT]=WEIGHT")]
    sides: Vec<Side>,
    /// The port of the Service, by number or name [default: the only one]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    port: Option<String>,
    /// Remove the route that this command has made
    #[arg(long, conflicts_with = "sides")]
    delete: bool,
    /// The namespace [default: that of the kubeconfig, or `default`]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// Ask the server whether it would take it, and change nothing; with `-o yaml`, print the route
    #[arg(long)]
    dry_run: bool,
    /// Take over fields of the route that belong to somebody else
    #[arg(long)]
    force_conflicts: bool,
    /// How to print: the route, or what is in force
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: SplitArgs) -> Result<()> {
    if args.dry_run && args.sides.is_empty() && !args.delete {
        return Err(Failure::input("nothing is said that could be done, or not")
            .help("for example: `tulle split web v1=90 v2=10 --dry-run`"));
    }
    let name = name_of_service(&args.service)?;
    let client = args.client.client()?;
    let service = ServiceName::new(args.namespace.as_deref().unwrap_or(client.namespace()), name);
    if args.delete {
        return delete(&args, &client, &service).await;
    }
    if args.sides.is_empty() {
        return show::run(&args, &client, &service).await;
    }
    let objects = of_services(&client, &service).await?;
    let asked = SplitRequest { service: &service, port: args.port.as_deref(), sides: &args.sides };
    match split::plan(&objects, &trust_domain(&objects)?, asked) {
        Ok(plan) => write(&args, &client, plan).await,
        Err(SplitError::Missing(missing)) => Err(print_missing(&args, &service, &missing)?),
        Err(error) => Err(refused(&client, &service, error).await),
    }
}

/// The name in `web` or `svc/web`.
fn name_of_service(text: &str) -> Result<&str> {
    let name = match text.split_once('/') {
        Some((kind, name)) if split::is_service(kind) => name,
        Some((kind, name)) => {
            let failure =
                Failure::input(format!("`{text}` is no Service: `tulle split` shares their traffic out"));
            return Err(match registry::by_name(kind) {
                Some(kind) => failure.help(format!("{kind}s are read by `tulle get {text}`")),
                None => failure.help(format!("of another namespace, write `tulle split {name} -n {kind}`")),
            });
        }
        None => text,
    };
    let Some(problem) = dns_label_problem(name) else { return Ok(name) };
    let failure = Failure::input(format!("`{name}` is no name of a Service: it {problem}"));
    Err(match (name.split_once(':'), name.split_once('.')) {
        (Some((name, port)), _) => {
            failure.help(format!("a port is said by `tulle split {name} --port {port}`"))
        }
        (_, Some((name, namespace))) => {
            let namespace = namespace.split('.').next().unwrap_or_default();
            failure.help(format!("of another namespace, write `tulle split {name} -n {namespace}`"))
        }
        _ => failure,
    })
}

/// The Services that may be meant and where they run, and all routes.
async fn of_services(client: &Client, service: &ServiceName) -> Result<Vec<MeshObject>> {
    let namespaced = [KindId::Service, KindId::Workload, KindId::EndpointSlice].map(KindId::kind);
    let mut objects = fetch(client, namespaced, Some(&service.namespace)).await?;
    objects.extend(fetch(client, KINDS.iter().filter(|kind| kind.is_route()), None).await?);
    Ok(objects)
}

async fn write(args: &SplitArgs, client: &Client, plan: Plan) -> Result<()> {
    for warning in &plan.warnings {
        note_wrapped(&format!("warning: {warning}"), 2);
    }
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let (kind, route) = (plan.kind, &plan.route);
    let outcome = apply_object(client, kind, route, args.dry_run, args.force_conflicts).await;
    let outcome = outcome.map_err(|failure| {
        let conflict = failure.exit == Exit::Conflict;
        let failure = failure.context(format!("{kind} {} is not applied", split::name_of(route)));
        if conflict { failure.help("--force-conflicts takes the fields over") } else { failure }
    })?;
    // Only now: the new one has taken its place.
    for (kind, replaced) in &plan.replaces {
        let path = resource(kind, Some(&replaced.namespace), Some(&replaced.name));
        remove(client, path, args.dry_run).await?;
    }
    match args.output {
        ReportFormat::Json | ReportFormat::Yaml => {
            let path = resource(kind, route["metadata"]["namespace"].as_str(), Some(&name(route)));
            let object =
                if args.dry_run { route.clone() } else { for_people(client.get(&path, JSON).await?, kind) };
            if args.output == ReportFormat::Json { print_json(&object) } else { print_yaml(&object) }
        }
        ReportFormat::Table | ReportFormat::Wide => {
            let suffix = if args.dry_run { " (dry run)" } else { "" };
            let mut text = format!("{}/{} {outcome}{suffix}\n", qualified_singular(kind), name(route));
            for (kind, replaced) in &plan.replaces {
                text += &format!("{} \"{}\" deleted{suffix}\n", qualified_singular(kind), replaced.name);
            }
            print(&text)
        }
    }
}

async fn remove(client: &Client, path: String, dry_run: bool) -> Result<()> {
    let path = Query::new(path).set_if("dryRun", dry_run.then_some("All")).finish();
    match client.delete(&path).await {
        Err(failure) if failure.exit != Exit::NotFound => Err(failure),
        _ => Ok(()),
    }
}

async fn delete(args: &SplitArgs, client: &Client, service: &ServiceName) -> Result<()> {
    let objects = of_services(client, service).await?;
    let port = args.port.as_deref();
    let own = split::own_routes(&objects, &trust_domain(&objects)?, service, port);
    let own = match own {
        Ok(own) => own,
        Err(error) => return Err(refused(client, service, error).await),
    };
    if own.is_empty() {
        return Err(Failure::new(format!("`tulle split` has made no route for Service {service}"))
            .exit(Exit::NotFound)
            .help(format!("`tulle split {}` shows what is in force", service.name)));
    }
    let suffix = if args.dry_run { " (dry run)" } else { "" };
    for (kind, route) in own {
        remove(client, resource(kind, Some(&route.namespace), Some(&route.name)), args.dry_run).await?;
        print(&format!("{} \"{}\" deleted{suffix}\n", qualified_singular(kind), route.name))?;
    }
    Ok(())
}

/// Prints the Services that would do, so that they can be applied.
fn print_missing(args: &SplitArgs, parent: &ServiceName, missing: &[Missing]) -> Result<Failure> {
    let services: Vec<&Value> = missing.iter().map(|missing| &missing.service).collect();
    match args.output {
        ReportFormat::Json => print_json(&json!({ "apiVersion": "v1", "kind": "List", "items": services }))?,
        _ => {
            let documents = services.into_iter().map(yaml).collect::<Result<Vec<_>>>()?;
            print(&documents.join("---\n"))?;
        }
    }
    let names: Vec<_> = missing.iter().map(|missing| missing.name.to_string()).collect();
    let (it, them) = if names.len() == 1 { ("This would do", "it") } else { ("These would do", "them") };
    let mut failure = Failure::new(format!("there is no Service {}; nothing was changed", names.join(", ")))
        .exit(Exit::NotFound)
        .help(format!("{it}, derived from Service {}: pass {them} to `tulle apply -f -`", parent.name));
    if args.sides.iter().any(|side| *side.name == *parent.name) {
        failure = failure.help(format!(
            "Service {0} takes a share itself, and must not select the other's Workloads; a Service for each version keeps \
             them apart, too: `tulle split {0} v1=90 v2=10`",
            parent.name
        ));
    }
    for Missing { name, service, .. } in missing.iter().filter(|missing| !missing.selects) {
        let labels = service["spec"]["selector"].as_object().into_iter().flatten();
        let labels: Vec<_> = labels
            .map(|(key, value)| format!(" --label {key}={}", value.as_str().unwrap_or_default()))
            .chain(ports_to_run(service))
            .collect();
        let namespace = match &*name.namespace {
            "default" => String::new(),
            namespace => format!(" -n {namespace}"),
        };
        failure = failure.help(format!(
            "no Workload is of {name} yet: `tulle run {}{namespace}{} -- …`, or labels of your own",
            name.name,
            labels.concat()
        ));
    }
    Ok(failure)
}

/// What `tulle run` is told of the ports that a Service asks its Workloads for.
fn ports_to_run(service: &Value) -> impl Iterator<Item = String> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.map(|port| match (&port["targetPort"], &port["port"]) {
        (Value::String(name), number) => format!(" --port {name}:{number}"),
        (Value::Null, number) | (number, _) => format!(" --port {number}"),
    })
}

/// The failure, with what to do next.
async fn refused(client: &Client, service: &ServiceName, error: SplitError) -> Failure {
    let failure = Failure::input(format!("{error}; nothing was changed"));
    match error {
        SplitError::NoService(_) => match client.require_namespace(&service.namespace).await {
            Ok(()) => failure.exit(Exit::NotFound).help("`tulle get services` lists them"),
            Err(failure) => failure,
        },
        SplitError::WhichPort { .. } => failure.help("say which: `--port PORT`"),
        SplitError::WhichBackendPort { .. } => failure.help("say which: `NAME:PORT=WEIGHT`"),
        SplitError::Overlap(overlap) => {
            let Overlap { wide, narrow, .. } = &overlap;
            let apart = match *wide == *service || *narrow == *service {
                true => format!(
                    "a Service for each version, whose labels the other's Workloads do not have, e.g. `tulle split {} \
                     v1=90 v2=10`",
                    service.name
                ),
                false => "each needs labels that the other's Workloads do not have".to_owned(),
            };
            failure.help(apart).help(format!(
                "or change `spec.selector` of Service {wide} or Service {narrow}, and the labels of its Workloads"
            ))
        }
        SplitError::Foreign { .. } => failure
            .exit(Exit::Conflict)
            .help("change the weights in it, or delete it first: it is not touched"),
        SplitError::Whole { .. } => failure
            .exit(Exit::Conflict)
            .help(format!("delete it first: `tulle split {} --delete`", service.name)),
        _ => failure,
    }
}
