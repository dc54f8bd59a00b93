//! References from routes to services, over a set of objects.

use std::borrow::Borrow;
use std::collections::HashMap;

use serde_json::Value;

use super::field::{Code, Errors, Field, FieldError, shown};
use super::suggest::did_you_mean;
use crate::name::ServiceName;
use crate::registry::{Kind, KindId};

/// Finds the references of routes that lead nowhere: to services, or ports of services, that
/// exist neither among `objects` nor for `known`, which answers with the ports of a service.
///
/// Each error comes with the index of its object. A route whose service is created later is
/// accepted by the API, and says in its status what is missing; this is for tools that look at all
/// of a configuration before it is applied.
pub fn check_references<K: Borrow<Kind>, V: Borrow<Value>>(
    objects: &[(K, V)],
    known: impl Fn(&ServiceName) -> Option<Vec<u16>>,
) -> Vec<(usize, FieldError)> {
    let mut services: HashMap<ServiceName, Vec<u16>> = HashMap::new();
    for (kind, object) in objects {
        if kind.borrow().id == KindId::Service {
            let object = Field::root(object.borrow());
            let Some(name) = object.get("metadata").and_then(|m| m.get_str("name").map(str::to_owned)) else {
                continue;
            };
            services.insert(ServiceName::new(namespace(&object), name), ports(&object));
        }
    }
    let lookup = Services { given: &services, known: &known };
    let mut found = Vec::new();
    for (index, (kind, object)) in objects.iter().enumerate() {
        if !matches!(kind.borrow().id, KindId::HttpRoute | KindId::TcpRoute) {
            continue;
        }
        let route = Field::root(object.borrow());
        let mut errors = Errors::default();
        check_route(&route, &lookup, &mut errors);
        found.extend(errors.0.into_iter().map(|error| (index, error)));
    }
    found
}

fn namespace<'a>(object: &Field<'a>) -> &'a str {
    let namespace = object.get("metadata").and_then(|m| m.get_str("namespace"));
    namespace.filter(|n| !n.is_empty()).unwrap_or("default")
}

fn ports(service: &Field<'_>) -> Vec<u16> {
    let Some(spec) = service.get("spec") else { return Vec::new() };
    spec.items("ports").filter_map(|p| u16::try_from(p.get_int("port")?).ok()).collect()
}

struct Services<'a, F> {
    given: &'a HashMap<ServiceName, Vec<u16>>,
    known: &'a F,
}

impl<F: Fn(&ServiceName) -> Option<Vec<u16>>> Services<'_, F> {
    fn ports(&self, name: &ServiceName) -> Option<Vec<u16>> {
        self.given.get(name).cloned().or_else(|| (self.known)(name))
    }
}

fn check_route<F: Fn(&ServiceName) -> Option<Vec<u16>>>(
    route: &Field<'_>,
    services: &Services<'_, F>,
    errors: &mut Errors,
) {
    let Some(spec) = route.get("spec") else { return };
    let own = namespace(route);
    let mut foreign = Vec::new();
    let mut attached = false;
    for parent in spec.items("parentRefs") {
        let kind = parent.get_str("kind").unwrap_or("Gateway");
        if kind == "Service" {
            attached = true;
            check_service(&parent, own, services, errors);
        } else {
            foreign.push(parent);
        }
    }
    // With a Service beside it, a Gateway may be somebody else's business.
    for parent in foreign.iter().filter(|_| !attached) {
        let kind = parent.get_str("kind").unwrap_or("Gateway");
        let message = format!(
            "`{kind}` as parent is not supported yet: expected a Service (`group: \"\"`, `kind: Service`)"
        );
        errors.push(parent, Code::NotSupported, message);
    }
    for backend in spec.items("rules").flat_map(|rule| rule.items("backendRefs").collect::<Vec<_>>()) {
        let group = backend.get_str("group").unwrap_or_default();
        let kind = backend.get_str("kind").unwrap_or("Service");
        if group.is_empty() && kind == "Service" {
            check_service(&backend, own, services, errors);
        } else {
            let message = format!("`{kind}` as backend is not supported: expected a Service");
            errors.push(&backend.get("kind").unwrap_or(backend), Code::NotSupported, message);
        }
    }
}

fn check_service<F: Fn(&ServiceName) -> Option<Vec<u16>>>(
    reference: &Field<'_>,
    own: &str,
    services: &Services<'_, F>,
    errors: &mut Errors,
) {
    let Some(field) = reference.get("name") else { return };
    let Some(text) = field.str().filter(|text| !text.is_empty()) else { return };
    let namespace = reference.get_str("namespace").filter(|n| !n.is_empty()).unwrap_or(own);
    let name = ServiceName::new(namespace, text);
    let Some(ports) = services.ports(&name) else {
        let same_namespace = services.given.keys().filter(|s| &*s.namespace == namespace).map(|s| &*s.name);
        let mut hint = did_you_mean(text, same_namespace);
        if hint.is_empty()
            && let Some(elsewhere) = services.given.keys().find(|s| &*s.name == text)
        {
            hint = format!("; there is one in the namespace `{}`", elsewhere.namespace);
        }
        let message =
            format!("there is no Service {} in the namespace `{namespace}`{hint}", shown(field.value));
        errors.push(&field, Code::NotFound, message);
        return;
    };
    if let Some(port) = reference.get("port")
        && let Some(number) = port.value.as_i64()
        && (1..=65535).contains(&number)
        && !ports.iter().any(|p| i64::from(*p) == number)
    {
        let offered = match ports.as_slice() {
            [] => "it has none".to_owned(),
            [first, rest @ ..] => {
                rest.iter().fold(format!("it has {first}"), |list, port| format!("{list}, {port}"))
            }
        };
        let message = format!("the Service `{name}` has no port {number}: {offered}");
        errors.push(&port, Code::NotFound, message);
    }
}
