//! References from routes to Services and Flows, over a set of objects.

use std::borrow::Borrow;
use std::collections::HashMap;

use serde_json::Value;

use super::field::{Code, Errors, Field, FieldError, shown};
use super::suggest::did_you_mean;
use crate::kinds::flow::DEFAULT_PORT;
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

/// The ports that an object has for clients of the mesh; `None`: it is of a kind that has none.
pub fn offered_ports(kind: KindId, object: &Value) -> Option<Vec<OfferedPort>> {
    match kind {
        KindId::Service => Some(service_ports(object)),
        KindId::Flow => {
            let http = object.pointer("/spec/trigger/http").filter(|http| !http.is_null());
            let number = http.map(|http| http["port"].as_u64().and_then(|port| u16::try_from(port).ok()));
            let port = |number: Option<u16>| OfferedPort {
                number: number.unwrap_or(DEFAULT_PORT),
                name: String::new(),
            };
            Some(number.map(port).into_iter().collect())
        }
        _ => None,
    }
}

/// Finds the references of routes that lead nowhere: to Services and Flows, or ports of them, that
/// exist neither among `objects` nor for `known`.
///
/// Each error comes with the index of its object. A route whose service is created later is
/// accepted by the API, and says in its status what is missing; this is for tools that look at all
/// of a configuration before it is applied.
pub fn check_references<K: Borrow<Kind>, V: Borrow<Value>>(
    objects: &[(K, V)],
    known: impl Fn(KindId, &ServiceName) -> Option<Vec<OfferedPort>>,
) -> Vec<(usize, FieldError)> {
    let mut given: HashMap<(KindId, ServiceName), Vec<OfferedPort>> = HashMap::new();
    for (kind, object) in objects {
        let (kind, object) = (kind.borrow().id, object.borrow());
        let Some(ports) = offered_ports(kind, object) else { continue };
        let Some(name) = object["metadata"]["name"].as_str() else { continue };
        given.insert((kind, ServiceName::new(namespace(&Field::root(object)), name)), ports);
    }
    let lookup = Destinations { given: &given, known: &known };
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

struct Destinations<'a, F> {
    given: &'a HashMap<(KindId, ServiceName), Vec<OfferedPort>>,
    known: &'a F,
}

impl<F: Fn(KindId, &ServiceName) -> Option<Vec<OfferedPort>>> Destinations<'_, F> {
    fn ports(&self, kind: KindId, name: &ServiceName) -> Option<Vec<OfferedPort>> {
        self.given.get(&(kind, name.clone())).cloned().or_else(|| (self.known)(kind, name))
    }
}

fn check_route<F: Fn(KindId, &ServiceName) -> Option<Vec<OfferedPort>>>(
    route: &Field<'_>,
    destinations: &Destinations<'_, F>,
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
            check_destination(KindId::Service, &parent, own, destinations, errors);
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
            check_destination(KindId::Service, &backend, own, destinations, errors);
        } else if (group, kind) == (KindId::Flow.kind().group, KindId::Flow.kind().kind) {
            check_destination(KindId::Flow, &backend, own, destinations, errors);
        } else {
            let message = format!("`{kind}` as backend is not supported: expected a Service or a Flow");
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

fn check_destination<F: Fn(KindId, &ServiceName) -> Option<Vec<OfferedPort>>>(
    kind: KindId,
    reference: &Field<'_>,
    own: &str,
    destinations: &Destinations<'_, F>,
    errors: &mut Errors,
) {
    let Some(field) = reference.get("name") else { return };
    let Some(text) = field.str().filter(|text| !text.is_empty()) else { return };
    let namespace = reference.get_str("namespace").filter(|n| !n.is_empty()).unwrap_or(own);
    let name = ServiceName::new(namespace, text);
    let what = kind.kind().kind;
    let Some(ports) = destinations.ports(kind, &name) else {
        let given = || destinations.given.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name);
        let same_namespace = given().filter(|s| &*s.namespace == namespace).map(|s| &*s.name);
        let mut hint = did_you_mean(text, same_namespace);
        if hint.is_empty()
            && let Some(elsewhere) = given().find(|s| &*s.name == text)
        {
            hint = format!("; there is one in the namespace `{}`", elsewhere.namespace);
        }
        let message =
            format!("there is no {what} {} in the namespace `{namespace}`{hint}", shown(field.value));
        errors.push(&field, Code::NotFound, message);
        return;
    };
    if kind == KindId::Flow && ports.is_empty() {
        errors.invalid(&field, format!("the Flow `{name}` has no `trigger.http`: nobody can call it"));
        return;
    }
    let number = reference.get("port").and_then(|port| {
        let number = u16::try_from(port.value.as_i64()?).ok().filter(|number| *number > 0)?;
        Some((port, number))
    });
    if let Some((port, number)) = &number
        && !ports.iter().any(|p| p.number == *number)
    {
        let message = format!("the {what} `{name}` has no port {number}: {}", offered(&ports));
        return errors.push(port, Code::NotFound, message);
    }
    if let Some(section) = reference.get("sectionName")
        && let Some(wanted) = section.str().filter(|wanted| !wanted.is_empty())
        && !ports.iter().any(|p| p.name == wanted && number.as_ref().is_none_or(|(_, n)| p.number == *n))
    {
        let (of, shown) = (number.map(|(_, n)| format!(" {n}")).unwrap_or_default(), shown(section.value));
        let message = format!("the {what} `{name}` has no port{of} named {shown}: {}", offered(&ports));
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
