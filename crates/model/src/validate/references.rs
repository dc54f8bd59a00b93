//! References from routes to services, over a set of objects.

use std::borrow::Borrow;
use std::collections::HashMap;

use serde_json::Value;

use super::field::{Code, Errors, Field, FieldError, shown};
use super::suggest::did_you_mean;
use crate::name::ServiceName;
use crate::registry::{Kind, KindId};

/// A port of a service that routes can name: one of TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedPort {
    pub number: u16,
    /// Empty where it has none.
    pub name: String,
}

/// The TCP ports of a Service, as far as they can be read.
pub fn service_ports(service: &Value) -> Vec<OfferedPort> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let read = |port: &Value| {
        let number = u16::try_from(port["port"].as_i64()?).ok()?;
        Some(OfferedPort { number, name: port["name"].as_str().unwrap_or_default().to_owned() })
    };
    ports.filter(|port| port["protocol"].as_str().is_none_or(|name| name == "TCP")).filter_map(read).collect()
}

/// Finds the references of routes that lead nowhere: to services, or ports of services, that
/// exist neither among `objects` nor for `known`.
///
/// Each error comes with the index of its object. A route whose service is created later is
/// accepted by the API, and says in its status what is missing; this is for tools that look at all
/// of a configuration before it is applied.
pub fn check_references<K: Borrow<Kind>, V: Borrow<Value>>(
    objects: &[(K, V)],
    known: impl Fn(&ServiceName) -> Option<Vec<OfferedPort>>,
) -> Vec<(usize, FieldError)> {
    let mut services: HashMap<ServiceName, Vec<OfferedPort>> = HashMap::new();
    for (kind, object) in objects {
        if kind.borrow().id == KindId::Service {
            let object = object.borrow();
            let Some(name) = object["metadata"]["name"].as_str() else { continue };
            services.insert(ServiceName::new(namespace(&Field::root(object)), name), service_ports(object));
        }
    }
    let lookup = Services { given: &services, known: &known };
    let mut found = Vec::new();
    for (index, (kind, object)) in objects.iter().enumerate() {
        if !kind.borrow().id.is_route() {
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

struct Services<'a, F> {
    given: &'a HashMap<ServiceName, Vec<OfferedPort>>,
    known: &'a F,
}

impl<F: Fn(&ServiceName) -> Option<Vec<OfferedPort>>> Services<'_, F> {
    fn ports(&self, name: &ServiceName) -> Option<Vec<OfferedPort>> {
        self.given.get(name).cloned().or_else(|| (self.known)(name))
    }
}

fn check_route<F: Fn(&ServiceName) -> Option<Vec<OfferedPort>>>(
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
    for backend in spec.items("rules").flat_map(|rule| targets(&rule)) {
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

/// What a rule sends requests, or copies of them, to.
fn targets<'a>(rule: &Field<'a>) -> Vec<Field<'a>> {
    let backends: Vec<_> = rule.items("backendRefs").collect();
    let filters =
        backends.iter().chain([rule]).flat_map(|holder| holder.items("filters").collect::<Vec<_>>());
    let mirrors =
        filters.filter_map(|filter| filter.get("requestMirror")?.get("backendRef")).collect::<Vec<_>>();
    backends.into_iter().chain(mirrors).collect()
}

fn check_service<F: Fn(&ServiceName) -> Option<Vec<OfferedPort>>>(
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
    let number = reference.get("port").and_then(|port| {
        let number = u16::try_from(port.value.as_i64()?).ok().filter(|number| *number > 0)?;
        Some((port, number))
    });
    if let Some((port, number)) = &number
        && !ports.iter().any(|p| p.number == *number)
    {
        let message = format!("the Service `{name}` has no port {number}: {}", offered(&ports));
        return errors.push(port, Code::NotFound, message);
    }
    if let Some(section) = reference.get("sectionName")
        && let Some(wanted) = section.str().filter(|wanted| !wanted.is_empty())
        && !ports.iter().any(|p| p.name == wanted && number.as_ref().is_none_or(|(_, n)| p.number == *n))
    {
        let (of, shown) = (number.map(|(_, n)| format!(" {n}")).unwrap_or_default(), shown(section.value));
        let message = format!("the Service `{name}` has no port{of} named {shown}: {}", offered(&ports));
        errors.push(&section, Code::NotFound, message);
    }
}

/// What ports there are: `it has 80 (http), 81`.
fn offered(ports: &[OfferedPort]) -> String {
    let port = |port: &OfferedPort| match &*port.name {
        "" => port.number.to_string(),
        name => format!("{} ({name})", port.number),
    };
    match ports {
        [] => "it has none".to_owned(),
        ports => format!("it has {}", ports.iter().map(port).collect::<Vec<_>>().join(", ")),
    }
}
