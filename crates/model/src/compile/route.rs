//! HTTPRoutes and TCPRoutes: what they say, what they are attached to, where they lead.

use std::sync::Arc;

use serde_json::Value;

use super::form::{Result, ServiceForm, ServicePortForm, created, invalid, port_number, read};
use crate::kinds::http_route::{HTTPPathMatch, HTTPRoute, HTTPRouteMatch, HTTPRouteRule, HTTPValueMatch};
use crate::kinds::meta::ObjectMeta;
use crate::kinds::route::{BackendRef, ParentReference};
use crate::kinds::tcp_route::TCPRoute;
use crate::name::{NamespacedName, ServiceName};
use crate::path::{has_dot_segments, normal_form};
use crate::registry::KindId;
use crate::snapshot::{
    AppProtocol, Backend, BackendTarget, HttpMatch, HttpRule, PathMatch, Pattern, TextMatch, ValueMatch,
};

/// A route as the compiler knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub kind: KindId,
    pub name: NamespacedName,
}

/// Both kinds of route; a TCPRoute's only rule has no matches.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteForm {
    pub kind: KindId,
    pub name: NamespacedName,
    pub created: Option<jiff::Timestamp>,
    pub generation: Option<i64>,
    pub parents: Vec<ParentForm>,
    pub rules: Vec<RuleForm>,
    /// It has host names, which count for nothing.
    pub hostnames: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ParentForm {
    pub reference: ParentReference,
    /// `None`: the parent is no Service.
    pub service: Option<ServiceName>,
    pub port: Option<u16>,
}

impl ParentForm {
    /// The name of a port, if it gives one.
    fn section(&self) -> Option<&str> {
        self.reference.section_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether it means that port of its Service, by name or because it means all.
    fn wants(&self, port: &ServicePortForm) -> bool {
        self.port.is_none_or(|wanted| wanted == port.number)
            && self.section().is_none_or(|wanted| wanted == &*port.name)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RuleForm {
    pub name: Option<Arc<str>>,
    pub matches: Vec<HttpMatch>,
    pub backends: Vec<BackendForm>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct BackendForm {
    pub reference: BackendRef,
    /// `None`: the backend is no Service.
    pub service: Option<ServiceName>,
    pub port: Option<u16>,
    pub weight: u32,
}

/// Gateway API allows weights up to a million.
const HIGHEST_WEIGHT: i64 = 1_000_000;

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

impl RouteForm {
    pub(super) fn read(kind: KindId, object: &Value) -> Result<Self> {
        let (metadata, parents, rules, hostnames) = if kind == KindId::TcpRoute {
            let route: TCPRoute = read(object)?;
            if route.spec.rules.len() != 1 {
                let problem = format!("exactly one rule is needed, not {}", route.spec.rules.len());
                return Err(invalid("spec.rules", problem));
            }
            let rules = route.spec.rules.into_iter().map(|rule| HTTPRouteRule {
                name: rule.name,
                backend_refs: rule.backend_refs,
                ..HTTPRouteRule::default()
            });
            (route.metadata, route.spec.parent_refs, rules.collect(), false)
        } else {
            let route: HTTPRoute = read(object)?;
            let mut rules = route.spec.rules;
            if rules.is_empty() {
                // Gateway API's default: one rule for every path.
                rules.push(HTTPRouteRule::default());
            }
            (route.metadata, route.spec.parent_refs, rules, !route.spec.hostnames.is_empty())
        };
        Ok(Self { hostnames, ..Self::checked(kind, &metadata, parents, rules)? })
    }

    fn checked(
        kind: KindId,
        metadata: &ObjectMeta,
        parents: Vec<ParentReference>,
        rules: Vec<HTTPRouteRule>,
    ) -> Result<Self> {
        let name = metadata.namespaced_name();
        let parents = parents.into_iter().enumerate().map(|(i, reference)| {
            let field = format!("spec.parentRefs[{i}].port");
            let port = reference.port.map(|port| port_number(field, port)).transpose()?;
            Ok(ParentForm { service: parent_service(&reference, &name), reference, port })
        });
        let rules = rules.into_iter().enumerate().map(|(i, rule)| {
            let field = format!("spec.rules[{i}]");
            let unsupported = [
                ("filters", !rule.filters.is_empty()),
                ("timeouts", rule.timeouts.is_some()),
                ("retry", rule.retry.is_some()),
                ("sessionPersistence", rule.session_persistence.is_some()),
            ];
            if let Some((name, _)) = unsupported.iter().find(|(_, there)| *there) {
                return Err(invalid(format!("{field}.{name}"), "this is not supported yet"));
            }
            let matches =
                if rule.matches.is_empty() { vec![HTTPRouteMatch::default()] } else { rule.matches };
            let matches = matches.into_iter().enumerate();
            let backends = rule.backend_refs.into_iter().enumerate();
            Ok(RuleForm {
                name: rule.name.map(Arc::from),
                matches: matches
                    .map(|(j, matcher)| http_match(&format!("{field}.matches[{j}]"), matcher))
                    .collect::<Result<_>>()?,
                backends: backends
                    .map(|(j, backend)| backend_form(&format!("{field}.backendRefs[{j}]"), backend, &name))
                    .collect::<Result<_>>()?,
            })
        });
        Ok(Self {
            kind,
            created: created(metadata)?,
            generation: metadata.generation,
            parents: parents.collect::<Result<_>>()?,
            rules: rules.collect::<Result<_>>()?,
            hostnames: false,
            name,
        })
    }

    pub(super) fn key(&self) -> RouteKey {
        RouteKey { kind: self.kind, name: self.name.clone() }
    }

    /// The Services that it wants as parents.
    pub(super) fn parent_services(&self) -> impl Iterator<Item = &ServiceName> {
        self.parents.iter().filter_map(|p| p.service.as_ref())
    }

    /// The Services that its backends name.
    pub(super) fn backend_services(&self) -> impl Iterator<Item = &ServiceName> {
        self.rules.iter().flat_map(|r| &r.backends).filter_map(|b| b.service.as_ref())
    }

    /// Whether one of its parent references names that port of the Service, by number or by name.
    pub(super) fn names_port_of(&self, service: &ServiceName, port: &ServicePortForm) -> bool {
        let mut named = self.parents.iter().filter(|p| p.port.is_some() || p.section().is_some());
        named.any(|parent| parent.service.as_ref() == Some(service) && parent.wants(port))
    }

    /// By Gateway API's rule for conflicts: the oldest, then the first by `namespace/name`.
    pub(super) fn seniority(&self) -> impl Ord + use<> {
        (self.created.is_none(), self.created, self.name.to_string())
    }
}

/// The parents that an object names, as far as they can be read: where its status goes even when
/// the rest of it does not read.
pub(super) fn parents_of(object: &Value) -> Vec<ParentReference> {
    let references = object.pointer("/spec/parentRefs").and_then(Value::as_array);
    references.into_iter().flatten().filter_map(|r| serde_json::from_value(r.clone()).ok()).collect()
}

fn parent_service(reference: &ParentReference, route: &NamespacedName) -> Option<ServiceName> {
    let is_service = reference.group.as_deref() == Some("") && reference.kind.as_deref() == Some("Service");
    let namespace = || reference.namespace.as_deref().unwrap_or(&route.namespace);
    is_service.then(|| ServiceName::new(namespace(), reference.name.as_str()))
}

fn backend_form(field: &str, reference: BackendRef, route: &NamespacedName) -> Result<BackendForm> {
    if !reference.filters.is_empty() {
        return Err(invalid(format!("{field}.filters"), "this is not supported yet"));
    }
    let weight = reference.weight.unwrap_or(1);
    if !(0..=HIGHEST_WEIGHT).contains(&weight) {
        let problem = format!("{weight} is no weight, they go from 0 to {HIGHEST_WEIGHT}");
        return Err(invalid(format!("{field}.weight"), problem));
    }
    let is_service = reference.group.as_deref().unwrap_or_default().is_empty()
        && reference.kind.as_deref().unwrap_or("Service") == "Service";
    let namespace = reference.namespace.as_deref().unwrap_or(&route.namespace);
    Ok(BackendForm {
        service: is_service.then(|| ServiceName::new(namespace, reference.name.as_str())),
        port: reference.port.map(|port| port_number(format!("{field}.port"), port)).transpose()?,
        weight: weight as u32,
        reference,
    })
}

fn http_match(field: &str, matcher: HTTPRouteMatch) -> Result<HttpMatch> {
    if let Some(method) = matcher.method.as_deref().filter(|m| !METHODS.contains(m)) {
        let problem = format!("`{method}` is none of {}", METHODS.join(", "));
        return Err(invalid(format!("{field}.method"), problem));
    }
    Ok(HttpMatch {
        path: path_match(&format!("{field}.path"), matcher.path.unwrap_or_default())?,
        method: matcher.method,
        headers: value_matches(&format!("{field}.headers"), matcher.headers, true)?,
        query: value_matches(&format!("{field}.queryParams"), matcher.query_params, false)?,
    })
}

fn path_match(field: &str, path: HTTPPathMatch) -> Result<PathMatch> {
    let value = path.value.unwrap_or_else(|| "/".into());
    let kind = path.type_.as_deref().unwrap_or("PathPrefix");
    if kind != "RegularExpression" && !value.starts_with('/') {
        return Err(invalid(format!("{field}.value"), format!("`{value}` must start with `/`")));
    }
    if kind != "RegularExpression" && has_dot_segments(&value) {
        let problem = format!("`{value}` has a dot segment: no request that has one is passed on");
        return Err(invalid(format!("{field}.value"), problem));
    }
    match kind {
        "Exact" => Ok(PathMatch::Exact(normal_form(&value).into_owned())),
        "PathPrefix" => Ok(PathMatch::Prefix(normal_form(&value).trim_end_matches('/').to_owned())),
        "RegularExpression" => Ok(PathMatch::Regex(pattern(&format!("{field}.value"), &value)?)),
        other => Err(invalid(
            format!("{field}.type"),
            format!("`{other}` is none of Exact, PathPrefix, RegularExpression"),
        )),
    }
}

/// Of several conditions on one name the first counts and the others don't (Gateway API,
/// HTTPRouteMatch.headers).
fn value_matches(field: &str, matchers: Vec<HTTPValueMatch>, is_header: bool) -> Result<Vec<ValueMatch>> {
    let mut read: Vec<ValueMatch> = Vec::new();
    for (i, matcher) in matchers.into_iter().enumerate() {
        let name = if is_header { matcher.name.to_ascii_lowercase() } else { matcher.name };
        let value = match matcher.type_.as_deref().unwrap_or("Exact") {
            "Exact" => TextMatch::Exact(matcher.value),
            "RegularExpression" => TextMatch::Regex(pattern(&format!("{field}[{i}].value"), &matcher.value)?),
            other => {
                let problem = format!("`{other}` is neither Exact nor RegularExpression");
                return Err(invalid(format!("{field}[{i}].type"), problem));
            }
        };
        if !read.iter().any(|earlier| earlier.name == name) {
            read.push(ValueMatch { name, value });
        }
    }
    Ok(read)
}

fn pattern(field: &str, source: &str) -> Result<Pattern> {
    Pattern::new(source).map_err(|e| invalid(field, format!("this is no regular expression: {e}")))
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
    if name.namespace != route.name.namespace {
        let message = format!(
            "the parent {name} is in another namespace: routes for the clients of one namespace only (consumer routes) are not supported yet"
        );
        return Err(("NotAllowedByListeners", message));
    }
    let Some(service) = service else {
        return Err(("NoMatchingParent", format!("there is no Service {name}")));
    };
    if service.is_alias() {
        return Err(("NoMatchingParent", format!("Service {name} is of type ExternalName")));
    }
    let ports: Vec<_> = service.ports.iter().filter(|port| parent.wants(port)).collect();
    if ports.is_empty() {
        let section = parent.section().into_iter().map(|name| format!(" named `{name}`"));
        let number = parent.port.iter().map(|port| format!(" {port}"));
        let which: String = number.chain(section).collect();
        return Err(("NoMatchingParent", format!("Service {name} has no TCP port{which}")));
    }
    let is_http = route.kind == KindId::HttpRoute;
    let fitting = ports.iter().filter(|p| !(is_http && p.protocol == AppProtocol::Tcp));
    let numbers: Vec<u16> = fitting.map(|p| p.number).collect();
    if numbers.is_empty() {
        let message = format!("by its appProtocol, the port of Service {name} does not speak HTTP");
        return Err(("NotAllowedByListeners", message));
    }
    Ok(numbers)
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
            let target = match resolve_backend(route, backend, &service) {
                Ok(target) => target,
                Err((reason, message)) => {
                    problems.push((reason, format!("spec.rules[{i}].backendRefs[{j}]: {message}")));
                    BackendTarget::Invalid { reason: message.into() }
                }
            };
            backends.push(Backend { target, weight: backend.weight });
        }
        let (route, name) = (route.name.clone(), rule.name.clone());
        rules.push(Arc::new(HttpRule { route, index: i as u32, name, backends }));
    }
    (rules, problems)
}

fn resolve_backend<'a>(
    route: &RouteForm,
    backend: &BackendForm,
    service: impl Fn(&ServiceName) -> Option<&'a ServiceForm>,
) -> std::result::Result<BackendTarget, Explained> {
    let Some(name) = &backend.service else {
        let kind = backend.reference.kind.as_deref().unwrap_or("Service");
        let group = backend.reference.group.as_deref().unwrap_or_default();
        let message =
            format!("a backend of group `{group}`, kind `{kind}` is not supported, only a Service is");
        return Err(("InvalidKind", message));
    };
    if name.namespace != route.name.namespace {
        let message =
            format!("Service {name} is in another namespace, and ReferenceGrants are not supported yet");
        return Err(("RefNotPermitted", message));
    }
    let Some(form) = service(name) else {
        return Err(("BackendNotFound", format!("there is no Service {name}")));
    };
    if form.is_alias() {
        let message = format!("Service {name} is of type ExternalName, which is no backend");
        return Err(("BackendNotFound", message));
    }
    let Some(port) = backend.port else {
        return Err(("BackendNotFound", format!("which port of Service {name} is not said")));
    };
    match form.port(port) {
        None => Err(("BackendNotFound", format!("Service {name} has no TCP port {port}"))),
        Some(found) if route.kind == KindId::HttpRoute && found.protocol == AppProtocol::Tcp => {
            let message = format!("by its appProtocol, port {port} of Service {name} does not speak HTTP");
            Err(("UnsupportedProtocol", message))
        }
        Some(_) => Ok(BackendTarget::Service { name: name.clone(), port }),
    }
}
