//! What shares the traffic of a Service out, and how each side fares.

use std::collections::HashMap;

use anstyle::AnsiColor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tulle_model::decision::Decider;
use tulle_model::explain::percent;
use tulle_model::legible::legible;
use tulle_model::name::{NamespacedName, ServiceName};
use tulle_model::registry::{KINDS, KindId};
use tulle_model::snapshot::{Backend, BackendTarget, HttpRule, PortConfig, ServiceConfig};
use tulle_model::split::{self, MeshObject, SplitError};

use super::SplitArgs;
use crate::client::{Client, JSON};
use crate::commands::edges::{latency, success};
use crate::exit::{Exit, Failure, Result};
use crate::mesh_objects::{compile, fetch};
use crate::output::{Cell, ReportFormat, Table, age, print, print_json, print_yaml};
use crate::terminal;

/// One port of the Service, as the workloads of a namespace see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PortView {
    port: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: String,
    /// For whom alone; nothing: for all that have no routes of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients_of: Option<String>,
    routes: Vec<RouteView>,
    /// In the order in which they are asked.
    rules: Vec<RuleView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteView {
    kind: &'static str,
    namespace: String,
    name: String,
    /// Whether `tulle split` has made it.
    by_split: bool,
    in_force: bool,
    /// When its spec was changed last (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Why it is not in force, or not everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleView {
    /// `HTTPRoute/shop/web`; nothing where there is no route.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    index: u32,
    matches: Vec<String>,
    /// Clients are sent elsewhere with that status, in place of backends.
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect: Option<u16>,
    backends: Vec<BackendView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendView {
    #[serde(flatten)]
    service: NamespacedName,
    port: u16,
    weight: u32,
    /// 0 to 1.
    share: f64,
    /// Why its share is answered with 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// How a Service that is a backend fares: as a whole, as nobody counts by the rule that led there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SideView {
    #[serde(flatten)]
    service: NamespacedName,
    /// Nothing where it had no traffic in the last minute.
    traffic: Option<Traffic>,
}

/// How a Service has fared in the last minute, whoever called it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Traffic {
    #[serde(skip_serializing)]
    destination: NamespacedName,
    requests_per_second: f64,
    requests: u64,
    refused: u64,
    success_rate: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

type Destinations = HashMap<NamespacedName, Traffic>;

pub async fn run(args: &SplitArgs, client: &Client, service: &ServiceName) -> Result<()> {
    let kinds =
        KINDS.iter().filter(|kind| matches!(kind.id, KindId::Service | KindId::Flow) || kind.is_route());
    let objects = fetch(client, kinds, None).await?;
    let Some(config) = compile(&objects)?.service(service) else {
        return Err(super::refused(client, service, SplitError::NoService(service.clone())).await);
    };
    let ports = view(&objects, &config, args.port.as_deref());
    if ports.is_empty() {
        let (port, has) = (args.port.clone().unwrap_or_default(), split::offered(&config));
        return Err(super::refused(
            client,
            service,
            SplitError::NoPort { service: service.clone(), port, has },
        )
        .await);
    }
    let sides = sides(&ports, &traffic(client).await?);
    let whole = serde_json::json!({ "service": service, "ports": ports, "backends": sides });
    match args.output {
        ReportFormat::Json => print_json(&whole),
        ReportFormat::Yaml => print_yaml(&whole),
        ReportFormat::Table | ReportFormat::Wide => {
            print(&render(service, &ports, &sides, args.output == ReportFormat::Wide))
        }
    }
}

/// How Services fare. A server of an older version does not say.
async fn traffic(client: &Client) -> Result<Destinations> {
    let mut answer = match client.get("/tulle/v1alpha1/destinations", JSON).await {
        Err(failure) if failure.exit == Exit::NotFound => return Ok(HashMap::new()),
        answer => answer?,
    };
    let all: Vec<Traffic> = serde_json::from_value(answer["destinations"].take()).map_err(|e| {
        Failure::new(format!("the server's answer is not understood: {e}")).help("is it of another version?")
    })?;
    Ok(all.into_iter().map(|traffic| (traffic.destination.clone(), traffic)).collect())
}

fn view(objects: &[MeshObject], config: &ServiceConfig, port: Option<&str>) -> Vec<PortView> {
    let wanted =
        |of: &&PortConfig| port.is_none_or(|port| of.number.to_string() == port || &*of.name == port);
    let views = config.ports.iter().filter(wanted).flat_map(|port| {
        let consumers = port.consumers.iter().map(|(namespace, seen)| (Some(&**namespace), seen));
        std::iter::once((None, port)).chain(consumers)
    });
    let view = |(clients, port): (Option<&str>, &PortConfig)| {
        let namespace = clients.unwrap_or(&config.name.namespace);
        let routes = split::routes_of(objects, &config.name, port);
        let routes = routes.filter(|(_, route)| *split::name_of(route).namespace == *namespace);
        PortView {
            port: port.number,
            name: port.name.to_string(),
            clients_of: clients.map(str::to_owned),
            routes: routes.map(|(kind, object)| route(kind.kind, &object, &config.name)).collect(),
            rules: rules(objects, config, port),
        }
    };
    views.map(view).collect()
}

fn route(kind: &'static str, object: &Value, service: &ServiceName) -> RouteView {
    let name = split::name_of(object);
    let changes = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let changes = changes.filter(|entry| entry["subresource"].as_str().is_none_or(str::is_empty));
    let since = changes.filter_map(|entry| entry["time"].as_str()).max();
    let entries = object["status"]["parents"].as_array().into_iter().flatten();
    let ours = entries.filter(|entry| entry["parentRef"]["name"] == *service.name);
    let conditions: Vec<_> =
        ours.flat_map(|entry| entry["conditions"].as_array().into_iter().flatten()).collect();
    let is = |kind: &str, status: &str| {
        conditions.iter().find(|condition| condition["type"] == kind && condition["status"] == status)
    };
    let trouble = is("Accepted", "False").or_else(|| is("PartiallyInvalid", "True"));
    let trouble = trouble.or_else(|| is("Programmed", "False")).or_else(|| is("ResolvedRefs", "False"));
    RouteView {
        kind,
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        by_split: split::is_own(object),
        in_force: is("Accepted", "True").is_some(),
        since: since.or_else(|| object["metadata"]["creationTimestamp"].as_str()).map(str::to_owned),
        message: trouble.and_then(|condition| condition["message"].as_str()).map(str::to_owned),
    }
}

/// The Services that all rules lead to, each once.
fn sides(ports: &[PortView], traffic: &Destinations) -> Vec<SideView> {
    let backends = ports.iter().flat_map(|port| &port.rules).flat_map(|rule| &rule.backends);
    let mut sides: Vec<SideView> = Vec::new();
    for backend in backends.filter(|backend| backend.problem.is_none()) {
        if !sides.iter().any(|side| side.service == backend.service) {
            let traffic = traffic.get(&backend.service).cloned();
            sides.push(SideView { service: backend.service.clone(), traffic });
        }
    }
    sides
}

/// The rules of a port; or that there is none, which is one.
fn rules(objects: &[MeshObject], config: &ServiceConfig, port: &PortConfig) -> Vec<RuleView> {
    let backends = |route: &str, index: u32, backends: &[Backend]| {
        let total: f64 = backends.iter().map(|backend| f64::from(backend.weight)).sum();
        let view = |(at, backend): (usize, &Backend)| {
            let (service, port, problem) = match &backend.target {
                BackendTarget::Service { name, port } => (name.clone(), *port, None),
                BackendTarget::Invalid { reason } => {
                    let (name, port) = referred(objects, route, index, at);
                    (name, port, Some(reason.to_string()))
                }
            };
            let share = if total > 0.0 { f64::from(backend.weight) / total } else { 0.0 };
            BackendView { service, port, weight: backend.weight, share, problem }
        };
        backends.iter().enumerate().map(view).collect::<Vec<_>>()
    };
    let mut rules: Vec<RuleView> = Vec::new();
    for entry in port.http_routes.entries() {
        let (route, index) = (route_of(&entry.rule), entry.rule.index);
        let matcher = entry.matcher.to_string();
        match rules.iter_mut().find(|rule| rule.route.as_ref() == Some(&route) && rule.index == index) {
            Some(rule) => rule.matches.push(matcher),
            None => rules.push(RuleView {
                index,
                matches: vec![matcher],
                redirect: entry.rule.filters.as_ref().and_then(|of| Some(of.redirect.as_ref()?.status)),
                backends: backends(&route, index, &entry.rule.backends),
                route: Some(route),
            }),
        }
    }
    for entry in port.tls_routes.entries() {
        let route = format!("{}/{}", KindId::TlsRoute.kind(), entry.rule.route);
        let hostname = entry.name.to_string();
        match rules.iter_mut().find(|rule| rule.route.as_ref() == Some(&route)) {
            Some(rule) => rule.matches.push(hostname),
            None => rules.push(RuleView {
                index: 0,
                matches: vec![hostname],
                redirect: None,
                backends: backends(&route, 0, &entry.rule.backends),
                route: Some(route),
            }),
        }
    }
    if let Some(rule) = &port.tcp_route {
        let route = format!("{}/{}", KindId::TcpRoute.kind(), rule.route);
        let (matches, backends) = (vec!["all".to_owned()], backends(&route, 0, &rule.backends));
        rules.push(RuleView { route: Some(route), index: 0, matches, redirect: None, backends });
    }
    if rules.is_empty() {
        let target = BackendTarget::Service { name: config.name.clone(), port: port.number };
        let backends = backends("", 0, &[Backend::new(target, 1)]);
        rules.push(RuleView {
            route: None,
            index: 0,
            matches: vec!["all".to_owned()],
            redirect: None,
            backends,
        });
    }
    rules
}

fn route_of(rule: &HttpRule) -> String {
    Decider::rule(rule).to_string()
}

/// The Service that a backend of a route names, which need not be there.
fn referred(objects: &[MeshObject], route: &str, rule: u32, backend: usize) -> (ServiceName, u16) {
    let mut named =
        objects.iter().filter(|(kind, object)| format!("{kind}/{}", split::name_of(object)) == route);
    let Some((_, object)) = named.next() else { return (ServiceName::new("", ""), 0) };
    let reference = &object["spec"]["rules"][rule as usize]["backendRefs"][backend];
    let own = split::name_of(object).namespace;
    let namespace = reference["namespace"].as_str().map_or(own, Into::into);
    let port = reference["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or(0);
    (ServiceName::new(namespace, reference["name"].as_str().unwrap_or_default()), port)
}

fn render(service: &ServiceName, ports: &[PortView], sides: &[SideView], wide: bool) -> String {
    let mut parts: Vec<_> = ports.iter().map(|port| render_port(service, port, wide)).collect();
    parts.extend((!sides.is_empty()).then(|| render_sides(service, sides, wide)));
    parts.join("\n")
}

fn render_sides(parent: &ServiceName, sides: &[SideView], wide: bool) -> String {
    let had = |side: &SideView| side.traffic.as_ref().is_some_and(|traffic| traffic.refused > 0);
    let refused = wide || sides.iter().any(had);
    let mut header = vec!["SERVICE", "RATE", "SUCCESS", "P50", "P99"];
    header.extend(refused.then_some("REFUSED"));
    header.extend(wide.then_some("REQUESTS"));
    let mut table = Table::new(header);
    if wide {
        table = table.whole();
    }
    for side in sides {
        let traffic = side.traffic.as_ref();
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
        let mut cells: Vec<Cell> = vec![
            beside(parent, &side.service).into(),
            traffic.map_or("-".to_owned(), |of| format!("{:.1}/s", of.requests_per_second)).into(),
            success(traffic.and_then(|of| of.success_rate)),
            latency(traffic.and_then(|of| of.p50_ms)).into(),
            latency(traffic.and_then(|of| of.p99_ms)).into(),
        ];
        cells.extend(refused.then(|| number(traffic.map(|of| of.refused)).into()));
        cells.extend(wide.then(|| number(traffic.map(|of| of.requests)).into()));
        table.row(cells);
    }
    format!("All requests of the last minute\n{}", table.render())
}

/// The name of a Service, with its namespace where that is another's.
fn beside(parent: &ServiceName, service: &NamespacedName) -> String {
    match service.namespace == parent.namespace {
        true => service.name.to_string(),
        false => service.to_string(),
    }
}

fn render_port(service: &ServiceName, port: &PortView, wide: bool) -> String {
    let room = if wide { None } else { terminal::width(std::io::stdout()) };
    let name = if port.name.is_empty() { String::new() } else { format!(" ({})", port.name) };
    let clients = port.clients_of.iter().map(|of| format!(", to workloads of namespace {of}"));
    let mut text =
        format!("Service {service}, port {}{name}{}\n", port.port, clients.collect::<Vec<_>>().join(""));
    if port.routes.is_empty() {
        text += "No route: all goes to its own endpoints\n";
    }
    for route in &port.routes {
        let line = terminal::wrap(&legible(&sentence(route, jiff::Timestamp::now())), room, 2);
        text += &format!("{line}\n");
    }
    let several_routes = port.routes.len() > 1;
    let mut header = Vec::new();
    header.extend(several_routes.then_some("ROUTE"));
    header.extend(["RULE", "MATCHES", "BACKEND", "WEIGHT", "SHARE"]);
    let mut table = Table::new(header);
    if wide {
        table = table.whole();
    }
    let mut problems = Vec::new();
    for rule in &port.rules {
        let mut first = true;
        let mut row = |cells: Vec<Cell>| {
            let shown = |text: String| if first { text } else { String::new() };
            let route = rule.route.as_deref().and_then(|route| route.rsplit('/').next()).unwrap_or("-");
            let mut all: Vec<Cell> = Vec::new();
            all.extend(several_routes.then(|| shown(route.to_owned()).into()));
            all.push(shown(rule.route.as_ref().map_or("-".to_owned(), |_| rule.index.to_string())).into());
            all.push(shown(rule.matches.join(", ")).into());
            all.extend(cells);
            table.row(all);
            first = false;
        };
        if let Some(status) = rule.redirect {
            row(vec![format!("(redirect, {status})").into()]);
        } else if rule.backends.is_empty() {
            row(vec![Cell::styled("(none: 500)", AnsiColor::Red.on_default())]);
        }
        for backend in &rule.backends {
            row(cells(service, backend));
            problems.extend(backend.problem.as_ref().map(|why| format!("{}: {why}", backend.service)));
        }
    }
    text += &table.render();
    for problem in problems {
        text += &format!("{}\n", terminal::wrap(&legible(&problem), room, 2));
    }
    text
}

fn sentence(route: &RouteView, now: jiff::Timestamp) -> String {
    let by = if route.by_split { ", made by `tulle split`" } else { "" };
    let since = route.since.as_ref().and_then(|since| since.parse::<jiff::Timestamp>().ok());
    let since = since.map(|since| age(u64::try_from(now.as_second() - since.as_second()).unwrap_or(0)));
    let since = since.map(|age| format!(" for {age}")).unwrap_or_default();
    let state = match (route.in_force, &route.message) {
        (true, None) => format!("in force{since}"),
        (true, Some(message)) => format!("in force{since}: {message}"),
        (false, Some(message)) => format!("not in force: {message}"),
        (false, None) => "not in force yet".to_owned(),
    };
    format!("{} {}/{}{by}, {state}", route.kind, route.namespace, route.name)
}

fn cells(parent: &ServiceName, backend: &BackendView) -> Vec<Cell> {
    let name = format!("{}:{}", beside(parent, &backend.service), backend.port);
    vec![
        if backend.problem.is_some() { Cell::styled(name, AnsiColor::Red.on_default()) } else { name.into() },
        backend.weight.to_string().into(),
        percent(backend.share).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers are those of a Service, and stand there once, however many rules lead to it.
    #[test]
    fn what_is_known_of_a_service_as_a_whole_is_said_once() {
        let parent = ServiceName::new("shop", "web");
        let backend = |namespace: &str, name: &str, problem: Option<&str>| BackendView {
            service: ServiceName::new(namespace, name),
            port: 80,
            weight: 1,
            share: 0.5,
            problem: problem.map(str::to_owned),
        };
        let rule = |index, backends| RuleView {
            route: Some("HTTPRoute/shop/r".to_owned()),
            index,
            matches: vec!["all".to_owned()],
            redirect: None,
            backends,
        };
        let rules = vec![
            rule(0, vec![backend("shop", "web-v1", None), backend("other", "web-v1", None)]),
            rule(1, vec![backend("shop", "web-v1", None), backend("shop", "gone", Some("not there"))]),
        ];
        let port = PortView { port: 80, name: String::new(), clients_of: None, routes: Vec::new(), rules };
        let traffic = Traffic {
            destination: ServiceName::new("shop", "web-v1"),
            requests_per_second: 9.5,
            requests: 570,
            refused: 0,
            success_rate: Some(1.0),
            p50_ms: Some(1.5),
            p99_ms: None,
        };
        let known = HashMap::from([(traffic.destination.clone(), traffic)]);
        let sides = sides(std::slice::from_ref(&port), &known);
        let shown = render(&parent, &[port], &sides, false);
        assert_eq!(shown.matches("9.5/s").count(), 1, "{shown}");
        assert!(shown.contains("RULE   MATCHES   BACKEND           WEIGHT   SHARE\n"), "{shown}");
        let (_, totals) = shown.split_once("\n\n").unwrap();
        let rows: Vec<Vec<_>> = totals.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["SERVICE", "RATE", "SUCCESS", "P50", "P99"], "{shown}");
        assert_eq!(rows[2][..2], ["web-v1", "9.5/s"], "{shown}");
        assert_eq!(rows[3], ["other/web-v1", "-", "-", "-", "-"], "{shown}");
        assert_eq!(rows.len(), 4, "{shown}");
    }
}
