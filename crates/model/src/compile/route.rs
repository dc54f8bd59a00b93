//! What routes are attached to, and where they lead.

use std::sync::Arc;

use serde_json::Value;

use crate::kinds::route::ParentReference;
use crate::kinds::route::form::{BackendForm, ParentForm, RouteForm};
use crate::kinds::service::form::ServiceForm;
use crate::name::{NamespacedName, ServiceName};
use crate::registry::KindId;
use crate::snapshot::{
    AppProtocol, Backend, BackendTarget, HttpFilters, HttpRouteKind, HttpRule, Shape, Spoken,
};

/// A route as the compiler knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub kind: KindId,
    pub name: NamespacedName,
}

impl RouteKey {
    pub(super) fn of(route: &RouteForm) -> Self {
        Self { kind: route.kind, name: route.name.clone() }
    }
}

/// The parents that an object names, as far as they can be read: where its status goes even when
/// the rest of it does not read.
pub(super) fn parents_of(object: &Value) -> Vec<ParentReference> {
    let references = object.pointer("/spec/parentRefs").and_then(Value::as_array);
    references.into_iter().flatten().filter_map(|r| serde_json::from_value(r.clone()).ok()).collect()
}

/// Something that a condition says: the reason in one word, and a sentence.
pub(super) type Explained = (&'static str, String);

/// The ports of a Service (`None`: there is no such Service) that a route is attached to by one of
/// its parent references. Never empty; the error says why there is none.
pub(super) fn attach(
    route: &RouteForm,
    parent: &ParentForm,
    service: Option<&ServiceForm>,
) -> std::result::Result<Vec<u16>, Explained> {
    let Some(name) = &parent.service else {
        let kind = parent.reference.kind.as_deref().unwrap_or("Gateway");
        let message =
            format!("the parent is a {kind}; only a Service (group \"\", kind Service) can be one so far");
        return Err(("NoMatchingParent", message));
    };
    let Some(service) = service else {
        return Err(("NoMatchingParent", format!("there is no Service {name}")));
    };
    if service.is_flow() {
        return Err(("NoMatchingParent", format!("{name} is a Flow; only a Service can be a parent so far")));
    }
    if service.is_alias() {
        return Err(("NoMatchingParent", format!("Service {name} is of type ExternalName")));
    }
    if service.shape == Shape::Headless {
        let message = format!("Service {name} is headless: its endpoints are reached each by itself");
        return Err(("NoMatchingParent", message));
    }
    let ports: Vec<_> = service.ports.iter().filter(|port| parent.wants(port)).collect();
    if ports.is_empty() {
        let section = parent.section().into_iter().map(|name| format!(" named `{name}`"));
        let number = parent.port.iter().map(|port| format!(" {port}"));
        let which: String = number.chain(section).collect();
        return Err(("NoMatchingParent", format!("Service {name} has no TCP port{which}")));
    }
    let fitting = ports.iter().filter(|port| unfit(route.kind, port.protocol).is_none());
    let numbers: Vec<u16> = fitting.map(|p| p.number).collect();
    if let Some(problem) = unfit(route.kind, ports[0].protocol).filter(|_| numbers.is_empty()) {
        let message = format!("by its appProtocol, the port of Service {name} {problem}");
        return Err(("NotAllowedByListeners", message));
    }
    Ok(numbers)
}

/// Why a kind of route is not for a port that declares such a protocol.
fn unfit(kind: KindId, protocol: AppProtocol) -> Option<&'static str> {
    match protocol {
        AppProtocol::Tcp if kind.routes_requests() => Some("does not speak HTTP"),
        AppProtocol::Http1 | AppProtocol::Http2 if kind == KindId::TlsRoute => {
            Some("speaks HTTP without TLS, which no TLSRoute is for")
        }
        _ => None,
    }
}

/// Where the rules of a route lead, and what does not resolve.
pub(super) fn resolve<'a>(
    route: &RouteForm,
    service: impl Fn(&ServiceName) -> Option<&'a ServiceForm>,
) -> (Vec<Arc<HttpRule>>, Vec<Explained>) {
    let mut problems = Vec::new();
    let mut rules = Vec::new();
    for (i, rule) in route.rules.iter().enumerate() {
        let mut backends = Vec::new();
        for (j, backend) in rule.backends.iter().enumerate() {
            let (target, spoken) = match resolve_backend(route, backend, &service) {
                Ok((target, spoken)) => (target, Some(spoken)),
                Err((reason, message)) => {
                    problems.push((reason, format!("spec.rules[{i}].backendRefs[{j}]: {message}")));
                    (BackendTarget::Invalid { reason: message.into() }, None)
                }
            };
            let holder = format!("spec.rules[{i}].backendRefs[{j}]");
            let filters = resolve_mirrors(route, backend.filters.clone(), &holder, &service, &mut problems);
            backends.push(Backend { target, weight: backend.weight, filters, spoken });
        }
        let kind = if route.kind == KindId::GrpcRoute { HttpRouteKind::Grpc } else { HttpRouteKind::Http };
        let holder = format!("spec.rules[{i}]");
        let filters = resolve_mirrors(route, rule.filters.clone(), &holder, &service, &mut problems);
        let (timeouts, retry) = (rule.timeouts, rule.retry.clone());
        let compiled = HttpRule::new(route.name.clone(), i as u32, rule.name.clone(), backends);
        let mut compiled = HttpRule { kind, filters, timeouts, retry, ..compiled };
        compiled.session = rule.session.as_ref().map(|session| Box::new(session.compiled(&compiled)));
        rules.push(Arc::new(compiled));
    }
    (rules, problems)
}

/// Has each mirror of these filters lead somewhere, or nowhere, which is one more problem.
fn resolve_mirrors<'a>(
    route: &RouteForm,
    mut filters: Option<Box<HttpFilters>>,
    holder: &str,
    service: impl Fn(&ServiceName) -> Option<&'a ServiceForm>,
    problems: &mut Vec<Explained>,
) -> Option<Box<HttpFilters>> {
    for mirror in filters.iter_mut().flat_map(|filters| &mut filters.mirrors) {
        let resolved = match &mirror.target {
            BackendTarget::Service { name, port } => resolve_service(route, name, *port, &service),
            BackendTarget::Invalid { reason } => Err(("InvalidKind", reason.to_string())),
        };
        (mirror.target, mirror.spoken) = match resolved {
            Ok((target, spoken)) => (target, Some(spoken)),
            Err((reason, message)) => {
                let field = format!("{holder}.filters[{}].requestMirror.backendRef", mirror.index);
                problems.push((reason, format!("{field}: {message}")));
                (BackendTarget::Invalid { reason: message.into() }, None)
            }
        };
    }
    filters
}

fn resolve_backend<'a>(
    route: &RouteForm,
    backend: &BackendForm,
    service: impl Fn(&ServiceName) -> Option<&'a ServiceForm>,
) -> std::result::Result<(BackendTarget, Spoken), Explained> {
    let Some(name) = &backend.service else {
        return Err(("InvalidKind", backend.reference.to.unsupported()));
    };
    if backend.is_flow {
        return resolve_flow(route, name, backend.port, service);
    }
    let Some(port) = backend.port else {
        return Err(("BackendNotFound", format!("which port of Service {name} is not said")));
    };
    resolve_service(route, name, port, service)
}

/// A Flow is called over HTTP, by whichever port its trigger has.
fn resolve_flow<'a>(
    route: &RouteForm,
    name: &ServiceName,
    port: Option<u16>,
    service: impl Fn(&ServiceName) -> Option<&'a ServiceForm>,
) -> std::result::Result<(BackendTarget, Spoken), Explained> {
    if route.kind != KindId::HttpRoute {
        let message = format!("Flow {name} is called with HTTP and JSON: only an HTTPRoute leads there");
        return Err(("UnsupportedProtocol", message));
    }
    let Some(own) = service(name).filter(|form| form.is_flow()).and_then(|form| form.ports.first()) else {
        let message = format!("there is no Flow {name} with a `trigger.http` and a name of its own");
        return Err(("BackendNotFound", message));
    };
    if let Some(port) = port.filter(|port| *port != own.number) {
        let message = format!("Flow {name} has no port {port}: its trigger's is {}", own.number);
        return Err(("BackendNotFound", message));
    }
    let spoken = Spoken { protocol: own.protocol, preserve_case: own.http1.preserve_case };
    Ok((BackendTarget::Service { name: name.clone(), port: own.number }, spoken))
}

fn resolve_service<'a>(
    route: &RouteForm,
    name: &ServiceName,
    port: u16,
    service: impl Fn(&ServiceName) -> Option<&'a ServiceForm>,
) -> std::result::Result<(BackendTarget, Spoken), Explained> {
    let Some(form) = service(name) else {
        return Err(("BackendNotFound", format!("there is no Service {name}")));
    };
    if form.is_flow() {
        let message = format!("{name} is a Flow: write `group: tulle.dev` and `kind: Flow`");
        return Err(("BackendNotFound", message));
    }
    if form.is_alias() {
        let message = format!("Service {name} is of type ExternalName, which is no backend");
        return Err(("BackendNotFound", message));
    }
    match form.port(port) {
        None => Err(("BackendNotFound", format!("Service {name} has no TCP port {port}"))),
        Some(found) => match unfit(route.kind, found.protocol) {
            Some(problem) => {
                let message = format!("by its appProtocol, port {port} of Service {name} {problem}");
                Err(("UnsupportedProtocol", message))
            }
            None => {
                let spoken = Spoken { protocol: found.protocol, preserve_case: found.http1.preserve_case };
                Ok((BackendTarget::Service { name: name.clone(), port }, spoken))
            }
        },
    }
}
