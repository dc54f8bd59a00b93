//! `tulle explain`: what becomes of a described request, and which field of which object decides.

pub(super) mod asked;
mod asking;

use std::sync::Arc;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tulle_model::explain::{Caller, End, Explanation, PHASES, explain, percent, snapshot};
use tulle_model::legible::legible;
use tulle_model::registry::{KINDS, KindId};
use tulle_model::snapshot::WorkloadConfig;
use tulle_model::split::MeshObject;

use self::asked::{AskedFor, read_header};
use crate::client::{Client, ClientArgs};
use crate::exit::{Failure, Result};
use crate::manifest::{self, FileArgs};
use crate::mesh_objects::{compile, fetch};
use crate::output::{ReportFormat, Table, note, note_wrapped, print, print_json, print_yaml};
use crate::selection::object_name;
use crate::terminal;

#[derive(Debug, Args)]
#[command(after_help = "\
The phases are those of a proxy with host capture, whose routes and filters are decided by the same
functions. What a node learns by itself is not known here: which endpoints are in trouble or busy,
what is left of a budget. Who may enter is asked of each endpoint, as `tulle auth check` does.

  tulle explain --from shop/client http://web/api
  tulle explain --from client POST http://web.shop:8080/cart -H 'x-canary: 1'
  tulle explain --from client POST cart/cart.Cart/Add -H 'content-type: application/grpc'
  tulle explain --from client https://web.shop     TLS, by the server that it names (SNI)
  tulle explain --from client tcp://db:5432        bytes
  tulle explain --from client web -f examples/     what these files would make of it
  tulle explain --from client web -o json          the same for programs")]
pub struct ExplainArgs {
    /// The method [default: GET], and the URL, as the workload asks for it; http:// may be left out
    #[arg(value_name = "[METHOD] URL", required = true, num_args = 1..=2)]
    request: Vec<String>,
    /// The workload that asks
    #[arg(long, value_name = "[NAMESPACE/]WORKLOAD", value_parser = NonEmptyStringValueParser::new())]
    from: String,
    /// A header of the request (repeatable)
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = read_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// The method, as for curl
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<String>,
    /// The server that a client of TLS names (SNI) [default: the host of the URL]
    #[arg(long, value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    server_name: Option<String>,
    #[command(flatten)]
    files: FileArgs,
    /// The namespace of the workload, and of objects in files that name none [default: that of the kubeconfig; with --filename
    /// `default`]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: ExplainArgs) -> Result<()> {
    let asked = AskedFor::read(args.method.as_deref(), &args.request)?;
    if args.server_name.is_some() && !asked.is_tls() {
        return Err(Failure::input("--server-name is for what is in TLS")
            .help("for example: `tulle explain --from client https://web --server-name www.example.com`"));
    }
    if !args.header.is_empty() && !asked.is_http() {
        return Err(Failure::input("what is not HTTP has no headers that the mesh could see"));
    }
    let offline = !args.files.filename.is_empty();
    let (objects, namespace) = if offline { of_files(&args)? } else { of_server(&args).await? };
    let from = object_name(&args.from, &namespace);
    let compiler = compile(&objects)?;
    match offline {
        true => note_wrapped(&asking::alone(&objects, &from), 2),
        false => asking::require(&objects, &from)?,
    }
    let node = compiler.workload(&from).map(|local| local.node.clone());
    let identity = compiler.identity(&from);
    let caller = Caller { workload: &from, node: node.as_deref(), identity: identity.as_ref() };
    let mut headers = HeaderMap::new();
    for (name, value) in &args.header {
        headers
            .try_append(name, value.clone())
            .map_err(|_| Failure::input("there are more headers than any request has"))?;
    }
    let mut known = snapshot(&compiler);
    if !known.workloads.contains_key(&from) {
        // One of its namespace, which the files do not have, or which no node runs.
        let external = compiler.external_services(&from.namespace);
        let config = WorkloadConfig { external, ..WorkloadConfig::new(from.clone()) };
        known.workloads.insert(from.clone(), Arc::new(config));
    }
    if offline
        && !objects.iter().any(|(kind, _)| [KindId::Workload, KindId::EndpointSlice].contains(&kind.id))
    {
        // Files hardly ever have any: nothing is said of what runs.
        known.endpoints.clear();
    }
    let explanation = explain(&known, caller, asked.described(&headers, args.server_name.as_deref()));
    let whole = json!({
        "from": from, "method": asked.method(), "url": asked.url(),
        "steps": explanation.steps, "outcomes": explanation.outcomes,
    });
    match args.output {
        ReportFormat::Json => print_json(&whole),
        ReportFormat::Yaml => print_yaml(&whole),
        ReportFormat::Table | ReportFormat::Wide => {
            print(&render(&explanation, args.output == ReportFormat::Wide))
        }
    }
}

/// All that decides, as the server has it, and the namespace where none is said.
async fn of_server(args: &ExplainArgs) -> Result<(Vec<MeshObject>, String)> {
    let client: Client = args.client.client()?;
    let decides = [
        KindId::Service,
        KindId::Flow,
        KindId::EndpointSlice,
        KindId::Workload,
        KindId::Mesh,
        KindId::ExternalService,
        KindId::BackendTlsPolicy,
        KindId::ConfigMap,
        KindId::AuthorizationPolicy,
    ];
    let kinds = KINDS.iter().filter(|kind| kind.is_route() || decides.contains(&kind.id));
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace()).to_owned();
    let mut objects = fetch(&client, kinds, None).await?;
    objects.iter_mut().for_each(without_secrets);
    Ok((objects, namespace))
}

/// Who asks need not be allowed to read Secrets: whether a BackendTLSPolicy has certificates from them, its status says. Which they are
/// does not matter here.
fn without_secrets((kind, object): &mut MeshObject) {
    if kind.id != KindId::BackendTlsPolicy {
        return;
    }
    let conditions = |ancestor: &Value| ancestor["conditions"].as_array().cloned().unwrap_or_default();
    let ancestors = object.pointer("/status/ancestors").and_then(Value::as_array);
    let is_resolved = ancestors
        .into_iter()
        .flatten()
        .flat_map(conditions)
        .any(|of| of["type"] == "ResolvedRefs" && of["status"] == "True");
    let references = object.pointer("/spec/validation/caCertificateRefs").and_then(Value::as_array);
    let names_secret = references.into_iter().flatten().any(|reference| reference["kind"] == "Secret");
    if is_resolved && names_secret {
        let validation = &mut Arc::make_mut(object)["spec"]["validation"];
        validation["caCertificateRefs"] = json!([]);
        validation["wellKnownCACertificates"] = json!("System");
    }
}

fn of_files(args: &ExplainArgs) -> Result<(Vec<MeshObject>, String)> {
    let mut set = manifest::load(&args.files)?;
    set.skipped_note().iter().for_each(|line| note(line));
    let namespace = args.namespace.as_deref().unwrap_or("default").to_owned();
    set.default_namespace(&namespace);
    set.check_duplicates()?;
    let objects = set.manifests.into_iter().map(|manifest| (manifest.kind, Arc::new(manifest.value)));
    Ok((objects.collect(), namespace))
}

fn render(explanation: &Explanation, wide: bool) -> String {
    let mut table = Table::new(["PHASE", "WHAT", "DECIDED BY", "FIELD"]);
    if wide {
        table = table.whole();
    }
    for phase in PHASES {
        let mut name = phase.to_string();
        for step in explanation.steps.iter().filter(|step| step.phase == phase) {
            let by = step.by.as_deref().unwrap_or("-");
            let field = step.field.as_deref().unwrap_or("-");
            table.row([std::mem::take(&mut name).into(), step.what.as_str().into(), by.into(), field.into()]);
        }
        if !name.is_empty() {
            table.row([name.into(), "-".into(), "-".into(), "-".into()]);
        }
    }
    let room = if wide { None } else { terminal::width(std::io::stdout()) };
    let mut text = table.render();
    text.push('\n');
    for outcome in &explanation.outcomes {
        let (who, goes, is) = match outcome.share >= 1.0 {
            true => ("It".to_owned(), "goes", "is"),
            false => (percent(outcome.share), "go", "are"),
        };
        let line = format!("{who} {}", ending(&outcome.end, goes, is));
        text += &format!("{}\n", terminal::wrap(&legible(&line), room, 2));
    }
    text
}

fn ending(end: &End, goes: &str, is: &str) -> String {
    match end {
        End::Forwarded { service, port, endpoints, request } => {
            let count = match endpoints.len() {
                0 => String::new(),
                1 => " (1 endpoint)".to_owned(),
                count => format!(" ({count} endpoints)"),
            };
            let sent =
                request.iter().map(|sent| format!(", as {} {} for {}", sent.method, sent.path, sent.host));
            format!("{goes} to Service {service} port {port}{count}{}", sent.collect::<String>())
        }
        End::Redirected { status, location } => format!("{is} answered with {status}, location {location}"),
        End::Preflight { status: 204, .. } => format!("{is} answered with 204: the origin is allowed"),
        End::Preflight { status, .. } => format!("{is} answered with {status}: the origin is not allowed"),
        End::Refused { grpc_status: Some(code), reason, message, .. } => {
            format!("{is} answered with grpc-status {code}, {reason}: {message}")
        }
        End::Refused { status: Some(status), reason, message, .. } => {
            format!("{is} answered with {status} {reason}: {message}")
        }
        End::Refused { status: None, reason, message, .. } => format!("{is} reset, {reason}: {message}"),
        End::Outside { host, port } => {
            format!("{} the mesh, to {host} port {port}", if goes == "go" { "leave" } else { "leaves" })
        }
    }
}
