//! `tulle auth check`: whether somebody may enter the workloads of a service, and which policy decides.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tulle_model::authorization::{self, Matched, RequestSeen, Traffic, Verdict, Visitor};
use tulle_model::compile::{Compiler, LocalWorkload};
use tulle_model::decision::Effect;
use tulle_model::identity::{SpiffeId, Subject};
use tulle_model::name::NamespacedName;
use tulle_model::registry::{KINDS, Kind, KindId};
use tulle_model::snapshot::{
    AccessPolicies, Claims, EgressPolicy, ExternalConfig, OutsideProtocol, ServedPort,
};
use tulle_model::split::{MeshObject, name_of};
use tulle_model::validate::suggest::did_you_mean;

use super::explain::asked::{AskedFor, read_header};
use crate::client::ClientArgs;
use crate::exit::{Exit, Failure, Result};
use crate::mesh_objects::{compile, fetch, trust_domain};
use crate::output::{ReportFormat, Table, note, print, print_json, print_yaml};
use crate::selection::object_name;

#[derive(Debug, Args)]
pub struct AuthArgs {
    #[command(subcommand)]
    command: AuthCommand,
}

#[derive(Debug, Subcommand)]
enum AuthCommand {
    /// Say whether somebody, or a request, may enter a service's workloads or leave the mesh, and which policy decides
    Check(CheckArgs),
}

#[derive(Debug, Args)]
#[command(after_help = r#"  tulle auth check --from shop/web --to shop/cart
  tulle auth check --from shop/web --to shop/cart POST /items
  tulle auth check --from shop/web --to shop/cart /items -H 'x-role: admin'
  tulle auth check --from shop/web --to shop/cart /items --claims '{"sub": "ada", "groups": ["staff"]}'
  tulle auth check --from spiffe://mesh.local/ns/shop/sa/web --to cart --port 8080
  tulle auth check --from 192.0.2.7 --to cart          from outside of the mesh
  tulle auth check --from shop/web --to external/shop/api   out of the mesh, by an ExternalService

Exits with 0 where all of them may be entered and with 1 where one may not, as kubectl auth can-i does."#)]
struct CheckArgs {
    /// A request: the method [default: GET], and the path or the URL; without it, whether a connection may enter
    #[arg(value_name = "[METHOD] PATH", num_args = 0..=2)]
    request: Vec<String>,
    /// A header of the request (repeatable)
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = read_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// What a token that the request brings says, as JSON: it counts as valid for the issuer that it names (`iss`), and without one for all
    #[arg(long, value_name = "JSON", value_parser = read_claims)]
    claims: Option<Arc<Claims>>,
    /// Who comes: a workload, a service account where there is none of that name, a SPIFFE ID, or an address outside of the mesh
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = NonEmptyStringValueParser::new())]
    from: String,
    /// Where to: a Service, or a workload where there is none of that name; an ExternalService after `external/`
    #[arg(long, value_name = "[external/][NAMESPACE/]NAME", value_parser = NonEmptyStringValueParser::new())]
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

fn read_claims(text: &str) -> std::result::Result<Arc<Claims>, String> {
    let claims = serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))?;
    Ok(Arc::new(Claims(claims)))
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

/// Where somebody passes, and policies are held to.
enum Way {
    /// Into a workload.
    Door(LocalWorkload),
    /// Out of the mesh.
    Exit(Arc<ExternalConfig>),
}

impl Way {
    fn policies(&self) -> &AccessPolicies {
        match self {
            Self::Door(local) => &local.config.policies,
            Self::Exit(external) => &external.policies,
        }
    }

    /// Whether its node sees the requests there.
    fn shows_requests(&self, port: u16) -> bool {
        match self {
            Self::Door(_) => true,
            Self::Exit(external) => {
                external.port(port).is_some_and(|port| port.protocol == OutsideProtocol::Http)
            }
        }
    }
}

/// The request that is asked about, if one is. `to`: the host of a path.
fn request(args: &CheckArgs, to: &NamespacedName) -> Result<Option<AskedFor>> {
    let mut words = args.request.clone();
    match words.last_mut() {
        Some(path) if path.starts_with('/') => *path = format!("http://{}.{}{path}", to.name, to.namespace),
        Some(_) => {}
        None if args.header.is_empty() && args.claims.is_none() => return Ok(None),
        None => {
            let help = "for example: `tulle auth check --from web --to cart /items -H 'x-role: admin'`";
            return Err(Failure::input("there is no request that could have headers or a token").help(help));
        }
    }
    let asked = AskedFor::read(None, &words)?;
    if !asked.is_http() {
        return Err(Failure::input(format!("`{}` is no request of HTTP", asked.url()))
            .help("a connection is asked about without it"));
    }
    Ok(Some(asked))
}

async fn check(args: CheckArgs) -> Result<bool> {
    let client = args.client.client()?;
    let decides = [
        KindId::Service,
        KindId::Flow,
        KindId::Workload,
        KindId::Mesh,
        KindId::AuthorizationPolicy,
        KindId::ExternalService,
    ];
    let kinds = KINDS.iter().filter(|kind| decides.contains(&kind.id));
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace()).to_owned();
    let objects = fetch(&client, kinds, None).await?;
    let compiler = compile(&objects)?;
    let from = from(&objects, &args.from, &object_name(&args.from, &namespace))?;
    let external = args.to.strip_prefix("external/");
    let to = object_name(external.unwrap_or(&args.to), &namespace);
    let asked = request(&args, &to)?;
    let mut headers = HeaderMap::new();
    for (name, value) in &args.header {
        headers.append(name, value.clone());
    }
    let ways = match external {
        Some(_) => exits(&compiler, &from, &to, args.port)?,
        None => doors(&compiler, &objects, &to, args.port)?,
    };
    let visitor = match &from {
        From::Mesh(identity) => Visitor::Mesh(identity),
        From::Outside(address) => Visitor::Outside(*address),
    };
    // What the node does not see, it lets in.
    let is_seen = |local: &LocalWorkload| matches!(visitor, Visitor::Mesh(_)) || local.config.inbound_capture;
    let mut rows = Vec::new();
    for (name, port, way) in &ways {
        let policies = way.policies();
        let tokens = args.claims.as_ref().map(|claims| policies.tokens_with(claims)).unwrap_or_default();
        let seen = match &asked {
            Some(asked) if way.shows_requests(*port) => Traffic::Request(RequestSeen {
                method: asked.method().unwrap_or_default(),
                path: asked.path(),
                authority: asked.authority(),
                headers: &headers,
                tokens: &tokens,
            }),
            None if let Some(policy) = policies.reading(*port).filter(|_| way.shows_requests(*port)) => {
                let by = &policy.name;
                note(&format!(
                    "AuthorizationPolicy {by} goes by requests at port {port} of {name}: give a METHOD and a PATH to ask about one"
                ));
                Traffic::Requests
            }
            _ => Traffic::Bytes,
        };
        let decided = match (way, &from) {
            (Way::Door(local), _) if is_seen(local) => {
                authorization::decide(&local.config, visitor, *port, seen)
            }
            (Way::Exit(external), From::Mesh(identity)) => {
                authorization::decide_leaving(external, identity, *port, seen)
            }
            (Way::Door(_) | Way::Exit(_), _) => Ok(None),
        };
        let audits = authorization::audits(policies, visitor, *port, seen).into_iter();
        let audits: Vec<_> = audits.map(|audit| audit.decision(Effect::Audited)).collect();
        let asks = match way {
            Way::Door(local) if is_seen(local) => {
                authorization::to_ask(&local.config, visitor, *port, seen).unwrap_or_default()
            }
            Way::Door(_) | Way::Exit(_) => Vec::new(),
        };
        rows.push((name.to_string(), *port, decided, audits, asks));
    }
    if ways.iter().any(|(.., way)| matches!(way, Way::Door(local) if !is_seen(local))) {
        note(
            "inbound capture is off: nothing holds off who comes from outside of the mesh (docs/traffic.md)",
        );
    }
    let may = rows.iter().all(|(_, _, decided, ..)| decided.is_ok());
    let from = match &from {
        From::Mesh(identity) => identity.to_string(),
        From::Outside(address) => address.to_string(),
    };
    let by = |decided: &Verdict<'_>| match decided {
        Ok(None) => None,
        Ok(Some(matched)) => Some(matched.decision(Effect::Routed)),
        Err(denial) => Some(denial.decision()),
    };
    match args.output {
        ReportFormat::Json | ReportFormat::Yaml => {
            let question = |matched: &Matched<'_>| {
                let external = matched.policy.external.as_deref()?;
                let (policy, service) = (matched.policy.name.to_string(), external.service.to_string());
                Some(json!({ "policy": policy, "service": service, "port": external.port }))
            };
            let row = |(workload, port, decided, audits, asks): &(String, u16, _, Vec<_>, Vec<_>)| {
                let by = by(decided);
                json!({
                    "workload": workload, "port": port, "allowed": decided.is_ok(),
                    "reason": decided.as_ref().err().map(|denial| denial.reason()),
                    "decidedBy": by.as_ref().map(|by| by.by.to_string()), "field": by.map(|by| by.field),
                    "audits": audits.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "asks": asks.iter().filter_map(question).collect::<Vec<_>>(),
                })
            };
            let request = asked.as_ref().map(|asked| json!({ "method": asked.method(), "url": asked.url() }));
            let whole = json!({ "from": from, "request": request, "allowed": may, "workloads": rows.iter().map(row).collect::<Vec<_>>() });
            if args.output == ReportFormat::Json { print_json(&whole)? } else { print_yaml(&whole)? }
        }
        ReportFormat::Table | ReportFormat::Wide => {
            let mut table = Table::new(["WORKLOAD", "PORT", "VERDICT", "DECIDED BY", "FIELD"]);
            for (workload, port, decided, ..) in &rows {
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
            for (workload, _, _, audits, asks) in &rows {
                audits.iter().for_each(|audit| note(&audit.to_string()));
                for question in asks.iter().filter_map(|asks| asks.question()) {
                    note(&format!("{workload}: {question} first, and may deny it"));
                }
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
    let account_of =
        |workload: &Value| workload["spec"]["serviceAccount"].as_str().unwrap_or("default").to_owned();
    let account = match workloads(objects).find(|(workload, _)| workload == name) {
        Some((_, workload)) => account_of(workload),
        None => name.name.to_string(),
    };
    let runs = |(workload, object): (NamespacedName, &Value)| {
        workload.namespace == name.namespace && account_of(object) == account
    };
    if !workloads(objects).any(runs) {
        note(&format!("no workload runs as the service account {}/{account} now", name.namespace));
    }
    let identity = SpiffeId::workload(&trust_domain(objects)?, &name.namespace, &account);
    identity.map(From::Mesh).map_err(wrong)
}

/// All of them, by their names.
fn workloads(objects: &[MeshObject]) -> impl Iterator<Item = (NamespacedName, &Value)> {
    let workloads = objects.iter().filter(|(kind, _)| kind.id == KindId::Workload);
    workloads.map(|(_, workload)| (name_of(workload), &**workload))
}

/// The ExternalService that is meant, at each of its ports.
fn exits(
    compiler: &Compiler,
    from: &From,
    to: &NamespacedName,
    port: Option<u16>,
) -> Result<Vec<(NamespacedName, u16, Way)>> {
    let From::Mesh(identity) = from else {
        return Err(Failure::input("--from: only who is in the mesh leaves it by an ExternalService"));
    };
    let missing = |message| Failure::new(message).exit(Exit::NotFound);
    let external =
        compiler.external(to).ok_or_else(|| missing(format!("there is no ExternalService {to}")))?;
    if let Subject::Workload { namespace, .. } = identity.subject() {
        let (policy, field) = compiler.mesh().egress_of(namespace);
        match policy {
            EgressPolicy::Deny => {
                let message =
                    format!("nothing leaves the mesh from namespace {namespace}: Mesh {field} is Deny");
                return Err(Failure::new(message));
            }
            EgressPolicy::Listed if !compiler.lists_for(to, namespace) => {
                let message = format!("ExternalService {to} lists nothing for namespace {namespace}");
                return Err(Failure::new(message));
            }
            EgressPolicy::Listed => {}
            EgressPolicy::Allow => note(&format!(
                "everything leaves the mesh from namespace {namespace}, whatever policies say: Mesh {field} is Allow"
            )),
        }
    }
    let ports = external.ports.iter().map(|port| port.number);
    let ports: Vec<_> = ports.filter(|number| port.is_none_or(|port| port == *number)).collect();
    if ports.is_empty() {
        return Err(missing(format!("ExternalService {to} has no port {}", port.unwrap_or_default())));
    }
    Ok(ports.into_iter().map(|port| (to.clone(), port, Way::Exit(external.clone()))).collect())
}

/// The workloads of nodes that are meant, each with its ports.
fn doors(
    compiler: &Compiler,
    objects: &[MeshObject],
    to: &NamespacedName,
    port: Option<u16>,
) -> Result<Vec<(NamespacedName, u16, Way)>> {
    let is_called = |kind: &Kind| matches!(kind.id, KindId::Service | KindId::Flow);
    let services = || objects.iter().filter(|(kind, _)| is_called(kind)).map(|(_, object)| name_of(object));
    let is_service = services().any(|name| name == *to);
    if !is_service && !workloads(objects).any(|(name, _)| name == *to) {
        let names = services().chain(workloads(objects).map(|(name, _)| name));
        let names: Vec<_> = names.map(|name| name.to_string()).collect();
        let hint = did_you_mean(&to.to_string(), names.iter().map(String::as_str));
        let message = format!("there is no Service, no Flow and no Workload {to}{hint}");
        return Err(Failure::new(message).exit(Exit::NotFound));
    }
    let mut doors = BTreeMap::new();
    for (name, workload) in workloads(objects).filter(|(name, _)| is_service || name == to) {
        let Some(local) = compiler.workload(&name) else { continue };
        let ports: Vec<u16> = match port {
            _ if is_service => {
                let selected = local.config.services.iter().filter(|selected| selected.by == *to);
                let asked = |served: &&ServedPort| port.is_none_or(|port| port == served.service_port);
                selected.flat_map(|by| &by.ports).filter(asked).map(|served| served.target_port).collect()
            }
            Some(port) => vec![port],
            // Its own, and those that Services stand for.
            None => {
                let own = workload["spec"]["ports"].as_array().into_iter().flatten();
                let own = own.filter_map(|own| u16::try_from(own["port"].as_u64()?).ok());
                let served = local.config.services.iter().flat_map(|by| &by.ports);
                own.chain(served.map(|served| served.target_port)).collect()
            }
        };
        doors.extend(ports.into_iter().map(|port| ((name.clone(), port), local.clone())));
    }
    if doors.is_empty() {
        let of_port = port.map(|port| format!(" at port {port}")).unwrap_or_default();
        let message = format!("{to} has no workload of a node{of_port}: no policy is held to there");
        return Err(Failure::new(message).exit(Exit::NotFound).help("`tulle describe` shows its endpoints"));
    }
    Ok(doors.into_iter().map(|((name, port), local)| (name, port, Way::Door(local))).collect())
}
