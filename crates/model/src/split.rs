//! Shares the traffic of a Service out among Services, by weight: the route that does it, for `tulle split`.

mod derive;
mod overlap;
#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value, json};

pub use self::derive::Missing;
use self::overlap::Part;
pub use self::overlap::{Overlap, Shared};
use crate::compile::{Change, Compiler};
use crate::explain::percent;
use crate::identity::TrustDomain;
use crate::name::{NamespacedName, ServiceName};
use crate::registry::{self, Kind, KindId};
use crate::snapshot::{AppProtocol, PortConfig, ServiceConfig, Shape};

/// The label of routes that this made, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "tulle-split");
/// Gateway API allows weights up to a million.
const HIGHEST_WEIGHT: u32 = 1_000_000;

/// An object of the mesh, and its kind.
pub type MeshObject = (&'static Kind, Arc<Value>);

/// A Service that gets a share, as somebody at a terminal writes it: `v1=90`, `web-v1:8080=90`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    pub name: String,
    /// Which of its ports; `None`: the one that fits.
    pub port: Option<u16>,
    pub weight: u32,
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not of the form NAME=WEIGHT or NAME:PORT=WEIGHT");
        let (target, weight) = text.split_once('=').ok_or_else(form)?;
        let (name, port) = match target.split_once(':') {
            Some((name, port)) => {
                let number = port.parse().ok().filter(|number| *number > 0);
                (name, Some(number.ok_or_else(|| format!("`{port}` is no port: 1 to 65535"))?))
            }
            None => (target, None),
        };
        // As kubectl's users name objects.
        let name = match name.split_once('/') {
            Some((kind, name)) if is_service(kind) => name,
            _ => name,
        };
        if name.is_empty() {
            return Err(form());
        }
        if name.contains(['/', '.']) {
            return Err(format!(
                "`{name}` is no Service of the namespace of the one that is shared out: `tulle split` takes no others. An HTTPRoute \
                 may name them (`backendRefs[].namespace`)"
            ));
        }
        if let Some(problem) = crate::name::dns_label_problem(name) {
            return Err(format!("`{name}` is no name of a Service: it {problem}"));
        }
        let is_number = !weight.is_empty() && weight.bytes().all(|byte| byte.is_ascii_digit());
        let weight = weight.parse().ok().filter(|weight| is_number && *weight <= HIGHEST_WEIGHT);
        let weight = weight.ok_or("a weight is a whole number, 0 to 1000000")?;
        Ok(Self { name: name.to_owned(), port, weight })
    }
}

/// Whether somebody at a terminal means Services by that name of a kind.
pub fn is_service(kind: &str) -> bool {
    registry::by_name(kind).is_some_and(|kind| kind.id == KindId::Service)
}

/// What is to be shared out: a Service's traffic, of that port (a number or a name; `None`: the only one).
#[derive(Debug, Clone, Copy)]
pub struct SplitRequest<'a> {
    pub service: &'a ServiceName,
    pub port: Option<&'a str>,
    pub sides: &'a [Side],
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    pub kind: &'static Kind,
    pub route: Value,
    /// Routes that this made of other kinds, in whose place that one comes.
    pub replaces: Vec<(&'static Kind, NamespacedName)>,
    /// Sentences.
    pub warnings: Vec<String>,
}

/// Why it cannot be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SplitError {
    #[error("there is no Service {0}")]
    NoService(ServiceName),
    #[error("the traffic of Service {service} cannot be shared out: it is {what}")]
    NoParent { service: ServiceName, what: &'static str },
    #[error("Service {service} has no port {port} (it has {has})")]
    NoPort { service: ServiceName, port: String, has: String },
    #[error("Service {service} has several ports ({has}), and which of them is meant is not said")]
    WhichPort { service: ServiceName, has: String },
    #[error("all weights are 0: every request would be answered with 500")]
    AllZero,
    #[error("Service {0} is named twice")]
    Twice(ServiceName),
    #[error("which port of Service {side} takes the traffic is not said, and none fits (it has {has})")]
    WhichBackendPort { side: ServiceName, has: String },
    /// With the Services that would do.
    #[error("there is no Service {}", list(.0.iter().map(|missing| &missing.name)))]
    Missing(Vec<Missing>),
    #[error("{0}")]
    Overlap(Overlap),
    #[error("{} is there already for port {port} of Service {service}, and not made by `tulle split`", list(.routes))]
    Foreign { service: ServiceName, port: u16, routes: Vec<String> },
    #[error("{route} shares out all ports of Service {service}, as it had one once")]
    Whole { service: ServiceName, route: String },
    #[error("{0}")]
    Unfit(String),
}

fn list<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

/// The route that does what is asked, out of the Services, the Workloads and the routes of the mesh.
pub fn plan(
    objects: &[MeshObject],
    domain: &TrustDomain,
    asked: SplitRequest<'_>,
) -> Result<Plan, SplitError> {
    let name = asked.service;
    let services = compiled(domain, objects, |kind| kind.id == KindId::Service);
    let service = services.service(name).ok_or_else(|| SplitError::NoService(name.clone()))?;
    let port = port_of(&service, asked.port)?;
    if asked.sides.iter().all(|side| side.weight == 0) {
        return Err(SplitError::AllZero);
    }
    let sides = resolve(&services, objects, asked, port)?;
    let kind = kind_for(find(objects, name), port).kind();
    let (own, foreign): (Vec<_>, Vec<_>) = routes_of(objects, name, port).partition(|route| is_own(&route.1));
    let (consumers, foreign): (Vec<_>, Vec<_>) =
        foreign.into_iter().partition(|(_, route)| namespace_of(route) != &*name.namespace);
    if let Some((kind, route)) = own.iter().find(|(_, route)| covers_more(route, &service, name)) {
        let route = format!("{kind} {}", name_of(route));
        return Err(SplitError::Whole { service: name.clone(), route });
    }
    let route_name = match own.iter().find(|(of, _)| *of == kind) {
        Some((_, route)) => name_of(route).name.to_string(),
        None if service.ports.len() == 1 => format!("{}-split", name.name),
        None => format!("{}-{}-split", name.name, port.number),
    };
    let same = |(of, object): &&MeshObject| *of == kind && name_of(object) == beside(name, &route_name);
    let taken = objects.iter().filter(same).filter(|(_, route)| !is_own(route));
    let in_the_way: Vec<_> = foreign.into_iter().chain(taken.cloned()).collect();
    if !in_the_way.is_empty() {
        let mut routes: Vec<_> =
            in_the_way.iter().map(|(kind, route)| format!("{kind} {}", name_of(route))).collect();
        routes.dedup();
        return Err(SplitError::Foreign { service: name.clone(), port: port.number, routes });
    }
    let route = route(kind, &beside(name, &route_name), &service, port, &sides);
    check(domain, objects, kind, &route)?;
    let replaces = own.iter().filter(|(of, _)| *of != kind);
    let mut warnings = Vec::new();
    warnings.extend(undeclared(&service, port));
    warnings.extend(nobody_there(domain, objects, kind, &sides));
    warnings.extend(consumers.iter().map(|(kind, route)| {
        let route = name_of(route);
        format!("the workloads of namespace {} go by {kind} {route} instead", route.namespace)
    }));
    let replaces = replaces.map(|(kind, route)| (*kind, name_of(route))).collect();
    Ok(Plan { kind, route, replaces, warnings })
}

/// The routes that this made for a Service, or for one port of it.
pub fn own_routes(
    objects: &[MeshObject],
    domain: &TrustDomain,
    service: &ServiceName,
    port: Option<&str>,
) -> Result<Vec<(&'static Kind, NamespacedName)>, SplitError> {
    let services = compiled(domain, objects, |kind| kind.id == KindId::Service);
    let config = services.service(service);
    let port = match (&config, port) {
        (Some(config), Some(_)) => Some(port_of(config, port)?),
        _ => None,
    };
    let parents = |route: &Value| match port {
        Some(port) => parents(route, service).any(|parent| wants(parent, port)),
        // The Service may be gone already.
        None => parents(route, service).next().is_some(),
    };
    let routes = objects.iter().filter(|(kind, route)| kind.is_route() && is_own(route) && parents(route));
    Ok(routes.map(|(kind, route)| (*kind, name_of(route))).collect())
}

/// Whether this made a route.
pub fn is_own(route: &Value) -> bool {
    route["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1
}

fn compiled(domain: &TrustDomain, objects: &[MeshObject], which: impl Fn(&Kind) -> bool) -> Compiler {
    let mut compiler = Compiler::new(domain.clone());
    let puts = objects.iter().filter(|(kind, _)| which(kind));
    compiler.apply_all(puts.map(|(kind, object)| Change::Put(kind, object.clone())));
    compiler
}

fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}

/// The namespace and name of an object.
pub fn name_of(object: &Value) -> NamespacedName {
    NamespacedName::new(namespace_of(object), object["metadata"]["name"].as_str().unwrap_or_default())
}

fn find<'o>(objects: &'o [MeshObject], service: &ServiceName) -> &'o Value {
    let mut services = objects.iter().filter(|(kind, _)| kind.id == KindId::Service);
    services.find(|(_, object)| name_of(object) == *service).map_or(&Value::Null, |(_, object)| object)
}

/// The port that is meant, of a Service whose traffic can be shared out.
fn port_of<'s>(service: &'s ServiceConfig, asked: Option<&str>) -> Result<&'s PortConfig, SplitError> {
    let name = || service.name.clone();
    match service.shape {
        Shape::Balanced => {}
        Shape::Headless => return Err(SplitError::NoParent { service: name(), what: "headless" }),
        Shape::Alias(_) => {
            return Err(SplitError::NoParent { service: name(), what: "of type ExternalName" });
        }
    }
    match (asked, &*service.ports) {
        (None, [port]) => Ok(port),
        (None, _) => Err(SplitError::WhichPort { service: name(), has: offered(service) }),
        (Some(asked), ports) => {
            let meant = |port: &&PortConfig| port.number.to_string() == asked || *port.name == *asked;
            ports.iter().find(meant).ok_or_else(|| SplitError::NoPort {
                service: name(),
                port: asked.to_owned(),
                has: offered(service),
            })
        }
    }
}

/// The ports of a Service, for a sentence.
pub fn offered(service: &ServiceConfig) -> String {
    let port = |port: &PortConfig| match &*port.name {
        "" => port.number.to_string(),
        name => format!("{} ({name})", port.number),
    };
    let ports: Vec<_> = service.ports.iter().map(port).collect();
    if ports.is_empty() { "none".to_owned() } else { ports.join(", ") }
}

/// The Services that the sides name, each with its port and weight.
fn resolve(
    services: &Compiler,
    objects: &[MeshObject],
    asked: SplitRequest<'_>,
    port: &PortConfig,
) -> Result<Vec<(ServiceName, u16, u32)>, SplitError> {
    let parent = asked.service;
    let mut found: Vec<(ServiceName, u16, u32)> = Vec::new();
    let mut absent: Vec<(ServiceName, u16)> = Vec::new();
    for side in asked.sides {
        let short = beside(parent, &side.name);
        let prefix = format!("{}-", parent.name);
        let long = beside(parent, &format!("{prefix}{}", side.name));
        let known = [&short, &long].into_iter().find_map(|name| services.service(name));
        let Some(service) = known else {
            let name = if side.name.starts_with(&prefix) { short } else { long };
            if absent.iter().any(|(other, _)| *other == name) {
                return Err(SplitError::Twice(name));
            }
            absent.push((name, side.port.unwrap_or(port.number)));
            continue;
        };
        if found.iter().any(|(name, ..)| *name == service.name) {
            return Err(SplitError::Twice(service.name.clone()));
        }
        let fitting = || match &*service.ports {
            _ if service.port(port.number).is_some() => Some(port.number),
            [only] => Some(only.number),
            ports => ports.iter().find(|of| !of.name.is_empty() && of.name == port.name).map(|of| of.number),
        };
        let number = side.port.or_else(fitting).ok_or_else(|| {
            let (side, has) = (service.name.clone(), offered(&service));
            SplitError::WhichBackendPort { side, has }
        })?;
        found.push((service.name.clone(), number, side.weight));
    }
    let mut parts: Vec<Part> =
        found.iter().filter_map(|(name, port, _)| Part::of(objects, name, *port)).collect();
    let mut missing = Vec::new();
    for (name, port) in absent {
        let derived = derive::missing(find(objects, parent), name, objects, &parts);
        parts.extend(Part::of_missing(&derived, port));
        missing.push(derived);
    }
    match overlap::find(objects, &parts) {
        Some(overlap) => Err(SplitError::Overlap(overlap)),
        None if missing.is_empty() => Ok(found),
        None => Err(SplitError::Missing(missing)),
    }
}

/// Another object of its namespace.
fn beside(service: &ServiceName, name: &str) -> NamespacedName {
    NamespacedName::new(service.namespace.clone(), name)
}

/// The kind of route that goes with what a port speaks.
fn kind_for(service: &Value, port: &PortConfig) -> KindId {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let declared = ports.into_iter().find(|of| of["port"] == port.number);
    match port.protocol {
        AppProtocol::Tcp => KindId::TcpRoute,
        _ if declared.is_some_and(|of| of["appProtocol"] == "grpc") => KindId::GrpcRoute,
        _ => KindId::HttpRoute,
    }
}

/// The routes that want to be attached to a port of a Service.
pub fn routes_of<'o>(
    objects: &'o [MeshObject],
    service: &'o ServiceName,
    port: &'o PortConfig,
) -> impl Iterator<Item = MeshObject> + 'o {
    let attached = move |route: &Value| parents(route, service).any(|parent| wants(parent, port));
    objects.iter().filter(move |(kind, route)| kind.is_route() && attached(route)).cloned()
}

/// The references of a route to a Service.
pub fn parents<'r>(route: &'r Value, service: &'r ServiceName) -> impl Iterator<Item = &'r Value> {
    let all = route["spec"]["parentRefs"].as_array().into_iter().flatten();
    all.filter(move |parent| {
        let namespace = parent["namespace"].as_str().unwrap_or_else(|| namespace_of(route));
        parent["group"] == ""
            && parent["kind"] == "Service"
            && parent["name"] == *service.name
            && namespace == &*service.namespace
    })
}

/// Whether a reference to a Service means that port of it.
fn wants(parent: &Value, port: &PortConfig) -> bool {
    let section = parent["sectionName"].as_str().unwrap_or_default();
    (parent["port"].is_null() || parent["port"] == port.number)
        && (section.is_empty() || section == &*port.name)
}

/// Whether a route of this is for all ports of a Service that has several by now.
fn covers_more(route: &Value, service: &ServiceConfig, name: &ServiceName) -> bool {
    service.ports.len() > 1 && parents(route, name).any(|parent| parent["port"].is_null())
}

fn route(
    kind: &Kind,
    name: &NamespacedName,
    service: &ServiceConfig,
    port: &PortConfig,
    sides: &[(ServiceName, u16, u32)],
) -> Value {
    let mut parent = json!({ "group": "", "kind": "Service", "name": &*service.name.name });
    // A port that a route names is for HTTP alone, unless something else is declared: that is nothing to do by the way.
    if port.protocol != AppProtocol::Detect || service.ports.len() > 1 {
        parent["port"] = port.number.into();
    }
    let backends = sides
        .iter()
        .map(|(side, port, weight)| json!({ "name": &*side.name, "port": port, "weight": weight }));
    json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": {
            "name": &*name.name,
            "namespace": &*name.namespace,
            "labels": { (MANAGED_BY.0): MANAGED_BY.1 },
        },
        "spec": { "parentRefs": [parent], "rules": [{ "backendRefs": backends.collect::<Vec<_>>() }] },
    })
}

/// Whether the route would do: it attaches, and all of its backends are there.
fn check(
    domain: &TrustDomain,
    objects: &[MeshObject],
    kind: &'static Kind,
    route: &Value,
) -> Result<(), SplitError> {
    let mut compiler = compiled(domain, objects, |kind| kind.id == KindId::Service);
    compiler.apply(Change::Put(kind, Arc::new(route.clone())));
    let name = name_of(route);
    if let Some(problem) = compiler.problem(kind, &name) {
        return Err(SplitError::Unfit(problem.to_string()));
    }
    let conditions = compiler.route_status(kind, &name).into_iter().flatten().flat_map(|of| &of.conditions);
    match conditions.into_iter().find(|condition| !condition.status) {
        Some(condition) => Err(SplitError::Unfit(condition.message.clone())),
        None => Ok(()),
    }
}

/// What becomes of other protocols at a port that does not say what it speaks.
fn undeclared(service: &ServiceConfig, port: &PortConfig) -> Option<String> {
    if port.protocol != AppProtocol::Detect {
        return None;
    }
    let becomes =
        if service.ports.len() > 1 { "is refused there from now on" } else { "passes by the route" };
    Some(format!(
        "port {} of Service {} does not say what it speaks (`appProtocol`): HTTP is shared out, and what is not \
         HTTP {becomes}",
        port.number, service.name
    ))
}

/// The sides whose share would fail, as nobody is there to take it.
fn nobody_there(
    domain: &TrustDomain,
    objects: &[MeshObject],
    kind: &Kind,
    sides: &[(ServiceName, u16, u32)],
) -> Vec<String> {
    let where_it_runs = [KindId::Service, KindId::Workload, KindId::EndpointSlice];
    let compiler = compiled(domain, objects, |kind| where_it_runs.contains(&kind.id));
    let total: f64 = sides.iter().map(|(.., weight)| f64::from(*weight)).sum();
    let (what, how) = match kind.id {
        KindId::TcpRoute => ("connections", ""),
        KindId::GrpcRoute => ("calls", " (UNAVAILABLE)"),
        _ => ("requests", " (503)"),
    };
    let of_side = |(name, port, weight): &(ServiceName, u16, u32)| {
        let endpoints = compiler.endpoints(name).filter(|_| *weight > 0)?;
        let is_there = endpoints.endpoints.iter().any(|endpoint| endpoint.target_port(*port).is_some());
        let share = percent(f64::from(*weight) / total);
        (!is_there).then(|| {
            format!("Service {name} has no endpoint that is ready at port {port}: its {share} of {what} will fail{how}")
        })
    };
    sides.iter().filter_map(of_side).collect()
}
