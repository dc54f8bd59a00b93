//! What became of a route (Gateway API, RouteParentStatus).

use super::Compiler;
use super::read::MOST_TOLD;
use super::route::{Explained, RouteKey, attach};
use super::unreached::sentences;
use crate::kinds::http_route::HOSTNAMES_IGNORED;
use crate::kinds::route::ParentReference;
use crate::kinds::route::form::{ParentForm, RouteForm};
use crate::name::{NamespacedName, ServiceName};
use crate::registry::KindId;
use crate::snapshot::{AppProtocol, HttpRouteKind, PortConfig, ServerName};

/// What became of a route at one of its parents.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentStatus {
    /// As the route has it.
    pub parent: ParentReference,
    /// The Service that carries the route: nodes that use it must learn of it for the route to be
    /// `Programmed`. `None`: it was not accepted.
    pub service: Option<ServiceName>,
    /// `Accepted`, `ResolvedRefs`, and `PartiallyInvalid` where an earlier form is in force. Where
    /// the route could not be read at all, `Accepted` alone.
    pub conditions: Vec<StatusCondition>,
}

/// How many host names that others have the status of a TLSRoute tells.
const MOST_LOST: usize = 10;

/// A condition without the time, which is the writer's to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusCondition {
    /// The type of the condition.
    pub kind: &'static str,
    pub status: bool,
    /// One word, for machines.
    pub reason: &'static str,
    /// A sentence, for people.
    pub message: String,
    /// The generation of the form that the condition speaks of.
    pub observed_generation: Option<i64>,
}

impl Compiler {
    pub(super) fn compile_status(&self, key: &RouteKey) -> Option<Vec<ParentStatus>> {
        let state = self.routes.get(key)?;
        let problem = self.problems.get(&(key.kind, key.name.clone())).map(ToString::to_string);
        let problem = problem.unwrap_or_default();
        let Some(form) = &state.form else {
            let refused = state.refused.as_ref()?;
            let condition = StatusCondition {
                kind: "Accepted",
                status: false,
                reason: "UnsupportedValue",
                message: problem,
                observed_generation: refused.generation,
            };
            let status = |parent: &ParentReference| ParentStatus {
                parent: parent.clone(),
                service: None,
                conditions: vec![condition.clone()],
            };
            return Some(refused.references.iter().map(status).collect());
        };

        let resolved = resolved_refs(form, &state.unresolved);
        // Gateway API, RouteConditionPartiallyInvalid: the whole route falls back, and `Accepted`
        // speaks of the generation that is in force.
        let fallen_back = state.refused.as_ref().map(|refused| StatusCondition {
            kind: "PartiallyInvalid",
            status: true,
            reason: "UnsupportedValue",
            message: match form.generation {
                Some(generation) => format!("Fall Back to generation {generation}: {problem}"),
                None => format!("Fall Back to the last valid form: {problem}"),
            },
            observed_generation: refused.generation,
        });
        let status = |parent: &ParentForm| {
            let accepted = self.accept(form, parent);
            let service = accepted.as_ref().ok().and(parent.service.clone());
            let (reason, message) = match &accepted {
                Ok(ports) => ("Accepted", self.in_force(form, parent, ports)),
                Err((reason, message)) => (*reason, message.clone()),
            };
            let accepted = StatusCondition {
                kind: "Accepted",
                status: accepted.is_ok(),
                reason,
                message,
                observed_generation: form.generation,
            };
            let conditions = [accepted, resolved.clone()].into_iter().chain(fallen_back.clone());
            ParentStatus { parent: parent.reference.clone(), service, conditions: conditions.collect() }
        };
        Some(form.parents.iter().map(status).collect())
    }

    /// Says that a route is in force, and what of its ports' traffic goes past it all the same: where nothing
    /// says that a port speaks HTTP, what does not begin like HTTP is passed on as bytes.
    fn in_force(&self, route: &RouteForm, parent: &ParentForm, ports: &[u16]) -> String {
        let mut message = "the route is in force".to_owned();
        if parent.service.as_ref().is_some_and(|service| service.namespace != route.name.namespace) {
            let namespace = &route.name.namespace;
            message.push_str(&format!(
                " for the workloads of namespace {namespace}, in place of the Service's own routes"
            ));
        }
        if route.hostnames {
            message.push_str(&format!("; warning: spec.hostnames {HOSTNAMES_IGNORED}"));
        }
        let idle = self.not_there(route, parent, ports);
        idle.into_iter().for_each(|why| message.push_str(&format!("; warning: {why}")));
        message.push_str(&self.unreached_there(route, parent, ports));
        let Some(config) = parent.service.as_ref().and_then(|name| self.configs.get(name)) else {
            return message;
        };
        let namespace = &route.name.namespace;
        let views = ports.iter().filter_map(|&port| Some(config.port(port)?.seen_from(namespace)));
        let open = views.filter(|p| p.protocol == AppProtocol::Detect && !p.http_only);
        let open: Vec<_> = open.map(|port| port.number.to_string()).collect();
        if route.kind.routes_requests() && !open.is_empty() {
            let (ports, service) = (open.join(", "), &config.name);
            message.push_str(&format!(
                "; warning: protocols other than HTTP pass port {ports} of Service {service} without it, since \
                 neither the Service says what the port speaks (`appProtocol: http`) nor a route names it \
                 (`parentRefs[].port` or `sectionName`)"
            ));
        }
        message
    }

    /// Where a route does not act that its parent reference means: other ports than these, on which it does, and host names
    /// of a TLSRoute.
    pub(super) fn not_there(&self, route: &RouteForm, parent: &ParentForm, ports: &[u16]) -> Vec<String> {
        let service = parent.service.as_ref();
        let attached = attach(route, parent, service.and_then(|name| self.services.get(name)));
        let others = attached.unwrap_or_default().into_iter().filter(|port| !ports.contains(port));
        let conflicts = others.filter_map(|port| self.conflict(route, parent, port));
        let mut idle: Vec<_> = conflicts.map(|why| format!("not at all of its ports: {why}")).collect();
        let Some(config) = service.and_then(|name| self.configs.get(name)) else { return idle };
        let namespace = &route.name.namespace;
        let views = ports.iter().filter_map(|&port| Some(config.port(port)?.seen_from(namespace)));
        let lost = views.flat_map(|port| lost_names(route, port).into_iter().map(move |lost| (port, lost)));
        idle.extend(lost.take(MOST_LOST).map(|(port, (name, holder))| {
            let port = port.number;
            format!("{name} is for TLSRoute {holder} on port {port}, which is older, or first by name")
        }));
        idle
    }

    /// Warns of the matches that no request reaches.
    fn unreached_there(&self, route: &RouteForm, parent: &ParentForm, ports: &[u16]) -> String {
        let key = RouteKey::of(route);
        let of_service = parent.service.as_ref().and_then(|name| self.unreached.get(name));
        let Some(of_route) = of_service.and_then(|of_service| of_service.get(&key)) else {
            return String::new();
        };
        let sentences = sentences(&key, of_route, ports);
        let told = sentences.iter().take(MOST_TOLD);
        let mut warning: String = told.map(|(field, why)| format!("; warning: {field}: {why}")).collect();
        if sentences.len() > MOST_TOLD {
            warning.push_str(&format!("; and {} more of its matches", sentences.len() - MOST_TOLD));
        }
        warning
    }

    /// On which of its ports a route is in force at a parent: one at least.
    pub(super) fn accept(&self, route: &RouteForm, parent: &ParentForm) -> Result<Vec<u16>, Explained> {
        let service = parent.service.as_ref();
        let ports = attach(route, parent, service.and_then(|name| self.services.get(name)))?;
        let acts = |port: &u16| self.conflict(route, parent, *port).is_none();
        let acting: Vec<u16> = ports.iter().copied().filter(acts).collect();
        if !acting.is_empty() {
            return Ok(acting);
        }
        let conflicts: Vec<_> = ports.iter().filter_map(|port| self.conflict(route, parent, *port)).collect();
        Err(("Conflicted", conflicts.join("; ")))
    }

    /// Why a route that is attached to a port of its parent does not act there, if it does not: one kind acts on a port,
    /// the most specific, and of TCPRoutes one, as of the TLSRoutes for one host name.
    fn conflict(&self, route: &RouteForm, parent: &ParentForm, port: u16) -> Option<String> {
        let config = self.configs.get(parent.service.as_ref()?)?;
        let seen = config.port(port)?.seen_from(&route.name.namespace);
        let acting = match (seen.http_routes.entries().first(), &seen.tcp_route) {
            (None, _) if !seen.tls_routes.is_empty() => {
                let lost = lost_names(route, seen);
                if let Some((name, holder)) = lost.first()
                    && lost.len() == route.server_names.len()
                {
                    let held = format!(
                        "port {port} already has TLSRoute {holder} for {name}, which is older, or first by name"
                    );
                    return Some(held);
                }
                KindId::TlsRoute
            }
            (Some(entry), _) if entry.rule.kind == HttpRouteKind::Grpc => KindId::GrpcRoute,
            (Some(_), _) => KindId::HttpRoute,
            (None, Some(holder)) if route.kind == KindId::TcpRoute && holder.route != route.name => {
                return Some(format!(
                    "port {port} already has TCPRoute {}, which is older, or first by name",
                    holder.route
                ));
            }
            (None, _) => KindId::TcpRoute,
        };
        let more_specific = acting.kind().kind;
        (acting != route.kind).then(|| format!("port {port} has {more_specific}s, which come first"))
    }
}

/// The host names of a TLSRoute that other ones have at a port.
fn lost_names<'a>(route: &RouteForm, port: &'a PortConfig) -> Vec<(ServerName, &'a NamespacedName)> {
    let names = route.server_names.iter().map(|name| ServerName::new(name));
    let holder = |name: ServerName| {
        let holder = &port.tls_routes.holder(&name)?.route;
        (*holder != route.name).then_some((name, holder))
    };
    names.filter_map(holder).collect()
}

fn resolved_refs(form: &RouteForm, unresolved: &[Explained]) -> StatusCondition {
    let (status, reason, message) = match unresolved.first() {
        None => (true, "ResolvedRefs", "all backends were found".to_owned()),
        Some((reason, _)) => {
            let messages: Vec<_> = unresolved.iter().map(|(_, message)| message.as_str()).collect();
            (false, *reason, messages.join("; "))
        }
    };
    let observed_generation = form.generation;
    StatusCondition { kind: "ResolvedRefs", status, reason, message, observed_generation }
}
