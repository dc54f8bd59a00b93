//! What a Service must be (the rules of Kubernetes' own validation).

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::form::{ServiceForm, ServicePortForm, TargetPort};
use crate::kinds::port::{app_protocol, check_app_protocol, check_transport, is_tcp, named};
use crate::name::{dns_label_problem, dns_subdomain_problem};
use crate::port_settings::{self, Http1Settings};
use crate::snapshot::Shape;
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::{check_labels, created};
use crate::validate::syntax::port_name_problem;

pub(crate) fn check(service: &Field<'_>, errors: &mut Errors) -> Read<ServiceForm> {
    let Some(spec) = service.get("spec") else {
        errors.required(service.path.field("spec"), "is missing: a Service needs a `spec` with `ports`");
        return Err(Unreadable);
    };
    check_labels(&spec, "selector", errors);
    let shape = check_service_address(&spec, errors);
    check_unsupported(&spec, errors);
    let is_name = spec.get_str("type") == Some("ExternalName");
    let headless = spec.get_str("clusterIP") == Some("None");
    let count = spec.items("ports").count();
    if count == 0 && !is_name && !headless && spec.get("ports").is_none_or(|p| p.value.is_array()) {
        let message = "is missing: a Service offers at least one port, e.g. `- port: 80`";
        errors.required(spec.path.field("ports"), message);
    }
    let mut names: HashMap<&str, String> = HashMap::new();
    let mut ports = spec.read_items("ports").map(|_| Vec::new());
    for port in spec.items("ports") {
        check_port_name(&port, count, &mut names, errors);
        let target = port.get("targetPort").map(|target| check_target_port(&target, errors));
        check_app_protocol(&port, errors);
        check_meshed(&port, errors);
        ports = ports.and_then(|mut ports| {
            ports.extend(read_port(&port, target)?);
            Ok(ports)
        });
    }
    let settings = check_port_settings(service, &spec, errors);
    let (mut ports, selector, shape) = (ports?, spec.read_texts("selector")?, shape?);
    for (port, settings) in ports.iter_mut().zip(settings?) {
        port.http1 = settings;
    }
    ports.sort_by_key(|port| port.number);
    // Which of two it would be, nobody could say.
    let differ = ports.windows(2).all(|pair| pair[0].number != pair[1].number);
    let created = created(service)?;
    differ.then_some(ServiceForm { ports, selector, shape, created, flow_account: None }).ok_or(Unreadable)
}

/// `names` are those of the ports before, each with its place.
fn check_port_name<'a>(
    port: &Field<'a>,
    count: usize,
    names: &mut HashMap<&'a str, String>,
    errors: &mut Errors,
) {
    match port.get("name").filter(|n| n.str() != Some("")) {
        Some(name) => {
            let Some(text) = name.str() else { return };
            if let Some(problem) = dns_label_problem(text) {
                errors.invalid(&name, format!("{} is no name of a port: it {problem}", shown(name.value)));
            }
            if let Some(first) = names.get(text) {
                let message = format!("{} is already the name of {first}", shown(name.value));
                errors.push(&name, Code::Duplicate, message);
            } else {
                names.insert(text, port.path.to_string());
            }
        }
        None if count > 1 && port.value.is_object() => {
            let message = "is missing: where a Service has several ports, each needs a name";
            errors.required(port.path.field("name"), message);
        }
        None => {}
    }
}

/// A port of a service, where it is one of TCP, with what is read of its target already.
fn read_port(port: &Field<'_>, target: Option<Read<Option<TargetPort>>>) -> Read<Option<ServicePortForm>> {
    if !is_tcp(port.read_str("protocol")?) {
        return Ok(None);
    }
    let number = port.read_port("port")?.ok_or(Unreadable)?;
    Ok(Some(ServicePortForm {
        number,
        name: port.read_str("name")?.unwrap_or_default().into(),
        protocol: app_protocol(port.read_str("appProtocol")?),
        target: target.transpose()?.flatten().unwrap_or(TargetPort::Number(number)),
        http1: Http1Settings::DEFAULT,
    }))
}

pub(super) fn warn(service: &Field<'_>, warnings: &mut Errors) {
    let Some(spec) = service.get("spec") else { return };
    let is_name = spec.get_str("type") == Some("ExternalName");
    if is_name
        && let Some(selector) = spec.get("selector")
        && selector.value.as_object().is_some_and(|labels| !labels.is_empty())
    {
        warnings.push(&selector, Code::NotSupported, "is ignored when spec.type is \"ExternalName\"");
    }
    if !is_name
        && let Some(name) = spec.get("externalName")
        && name.str().is_some_and(|text| !text.is_empty())
    {
        // The words of Kubernetes' own warning.
        warnings.push(&name, Code::NotSupported, "is ignored when spec.type is not \"ExternalName\"");
    }
}

/// What would be accepted and not come about is refused.
fn check_unsupported(spec: &Field<'_>, errors: &mut Errors) {
    // The field, the values that ask for something, and what is so instead.
    const NO_BALANCER: &str = "no load balancer is made; leave it out";
    const ONE_BY_ONE: &str = "requests are balanced one by one, whoever their client is; leave it out";
    for (name, values, instead) in [
        (
            "type",
            &["NodePort", "LoadBalancer"][..],
            "no node of a mesh opens a port for the world outside; leave it out",
        ),
        ("sessionAffinity", &["ClientIP"], ONE_BY_ONE),
        ("internalTrafficPolicy", &["Local"], "endpoints of all nodes take part; leave it out"),
        ("externalTrafficPolicy", &["Local"], "there is no traffic from outside of the mesh; leave it out"),
        ("ipFamilyPolicy", &["RequireDualStack"], "services have IPv4 addresses only; leave it out"),
    ] {
        if let Some(field) = spec.get(name)
            && field.str().is_some_and(|text| values.contains(&text))
        {
            let message = format!("{} is not supported: {instead}", shown(field.value));
            errors.push(&field, Code::NotSupported, message);
        }
    }
    let is_true = |value: &Value| value == &Value::Bool(true);
    let is_number = |value: &Value| value.as_i64().is_some_and(|number| number != 0);
    let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    let is_full = |value: &Value| {
        value.as_array().is_some_and(|items| !items.is_empty())
            || value.as_object().is_some_and(|fields| !fields.is_empty())
    };
    type Asks = fn(&Value) -> bool;
    let asks: [(_, Asks, _); 9] = [
        ("publishNotReadyAddresses", is_true, "only workloads that are ready are endpoints; leave it out"),
        ("allocateLoadBalancerNodePorts", is_true, NO_BALANCER),
        ("healthCheckNodePort", is_number, NO_BALANCER),
        ("loadBalancerIP", is_text, NO_BALANCER),
        ("loadBalancerClass", is_text, NO_BALANCER),
        ("loadBalancerSourceRanges", is_full, NO_BALANCER),
        ("sessionAffinityConfig", is_full, ONE_BY_ONE),
        ("trafficDistribution", is_text, "all endpoints are alike, wherever they are; leave it out"),
        ("externalIPs", is_full, "no node takes traffic from outside of the mesh; leave it out"),
    ];
    for (name, asks, instead) in asks {
        if let Some(field) = spec.get(name)
            && asks(field.value)
        {
            errors.push(&field, Code::NotSupported, format!("is not supported: {instead}"));
        }
    }
    let falls_back = spec.get_str("ipFamilyPolicy") == Some("PreferDualStack");
    for family in spec.items("ipFamilies") {
        if family.str() == Some("IPv6") && !falls_back {
            let message = "`IPv6` is not supported: services have IPv4 addresses only; leave it out";
            errors.push(&family, Code::NotSupported, message);
        }
    }
}

/// Whether a port can be the mesh's.
fn check_meshed(port: &Field<'_>, errors: &mut Errors) {
    check_transport(port, errors);
    if let Some(number) = port.get("port")
        && number.value.as_i64() == Some(53)
    {
        let message = "53 is not supported: what workloads send to port 53 is DNS, and goes to their node's name \
                       server; choose another port, and `targetPort: 53`";
        errors.push(&number, Code::NotSupported, message);
    }
    if let Some(field) = port.get("nodePort")
        && field.value.as_i64().is_some_and(|number| number != 0)
    {
        let message = "is not supported: no node of a mesh opens a port for the world outside; leave it out";
        errors.push(&field, Code::NotSupported, message);
    }
}

/// The annotations that the mesh reads (see [`crate::port_settings`]), for each of the ports of TCP; none where there are
/// no such annotations.
fn check_port_settings(
    service: &Field<'_>,
    spec: &Field<'_>,
    errors: &mut Errors,
) -> Read<Vec<Http1Settings>> {
    let Some(metadata) = service.get("metadata") else { return Ok(Vec::new()) };
    let mut found = BTreeMap::new();
    for (key, value) in metadata.entries("annotations") {
        if port_settings::ANNOTATIONS.contains(&key) {
            found.insert(key, value);
        } else if key.starts_with(port_settings::PREFIX) {
            let known = port_settings::ANNOTATIONS.map(|known| format!("`{known}`")).join(", ");
            errors.invalid(
                &value,
                format!("`{}` means nothing to Tulle; it knows {known}", key.escape_debug()),
            );
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let fields: Vec<Field<'_>> = spec.items("ports").collect();
    let ports = fields.iter().filter(|port| is_tcp(port.get_str("protocol")));
    let named: Vec<_> = ports
        .filter_map(|port| {
            let number = port.get("port")?.value.as_u64()?.try_into().ok()?;
            let protocol = app_protocol(port.get_str("appProtocol"));
            Some(named(number, port.get_str("name").unwrap_or_default(), protocol))
        })
        .collect();
    let read = port_settings::settings(|key| found.get(key).and_then(Field::str), &named);
    if found.values().any(|value| value.str().is_none()) {
        return Err(Unreadable);
    }
    read.map_err(|(key, problem)| {
        if let Some(value) = found.get(key) {
            errors.invalid(value, problem);
        }
        Unreadable
    })
}

/// `None`: it is the port of the service itself.
fn check_target_port(target: &Field<'_>, errors: &mut Errors) -> Read<Option<TargetPort>> {
    match (target.value.as_i64(), target.str()) {
        // Kubernetes reads 0 and the empty name as absent.
        (Some(0), _) | (_, Some("")) => Ok(None),
        (Some(number), _) => match u16::try_from(number) {
            Ok(number) => Ok(Some(TargetPort::Number(number))),
            Err(_) => {
                let message = format!("{number} is out of range: expected 1 to 65535, or a port's name");
                errors.invalid(target, message);
                Err(Unreadable)
            }
        },
        (_, Some(name)) => {
            let advice = match name.parse::<u16>() {
                Ok(number) => format!("; for a number, write it without quotes: {number}"),
                Err(_) => String::new(),
            };
            if let Some(problem) = port_name_problem(name) {
                let message = format!("{} is no name of a port: it {problem}{advice}", shown(target.value));
                errors.invalid(target, message);
            }
            Ok(Some(TargetPort::Name(name.to_owned())))
        }
        (None, None) => Err(Unreadable),
    }
}

fn check_service_address(spec: &Field<'_>, errors: &mut Errors) -> Read<Shape> {
    let mut alias = Err(Unreadable);
    let is_name = spec.get_str("type") == Some("ExternalName");
    match spec.get("externalName").filter(|n| n.str() != Some("")) {
        None if is_name => {
            let message = "is missing: a Service of type ExternalName needs the DNS name that it stands for";
            errors.required(spec.path.field("externalName"), message);
        }
        Some(name) if is_name => {
            let text = name.str().unwrap_or_default();
            let text = text.strip_suffix('.').unwrap_or(text);
            match dns_subdomain_problem(text) {
                Some(problem) => {
                    errors.invalid(&name, format!("{} is no DNS name: it {problem}", shown(name.value)));
                }
                None => alias = Ok(Shape::Alias(text.into())),
            }
        }
        _ => {}
    }
    for address in spec.get("clusterIP").into_iter().chain(spec.items("clusterIPs")) {
        if !matches!(address.str(), None | Some("" | "None")) {
            let message = format!(
                "{} is not supported: every node gives a service an address of its own; leave it out, or write `None` \
                 for a headless service",
                shown(address.value)
            );
            errors.push(&address, Code::NotSupported, message);
        }
    }
    let address = spec.get("clusterIP").filter(|address| address.str() != Some(""));
    if let Some(address) = address.as_ref().filter(|address| is_name && address.str() == Some("None")) {
        let message =
            "may not be `None` for Services of type ExternalName, which have no address; leave it out";
        errors.push(address, Code::NotSupported, message);
    }
    // Whether it is headless is read from the one; the other repeats it.
    if let Some(first) = spec.items("clusterIPs").next().filter(|first| first.str() == Some("None"))
        && address.and_then(|address| address.str().map(str::to_owned)).as_deref() != Some("None")
    {
        errors.invalid(&first, "must match clusterIP: write `clusterIP: None` for a headless service");
    }
    match (spec.read_str("type")?, spec.read_str("clusterIP")?) {
        (Some("ExternalName"), _) => alias,
        (_, Some("None")) => Ok(Shape::Headless),
        _ => Ok(Shape::Balanced),
    }
}

/// The port of the workloads is the service's where none is given.
pub(super) fn fill_defaults(service: &mut Value) {
    for port in service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let target = port.get("targetPort");
        let absent = target.is_none_or(|t| t.is_null() || *t == 0 || *t == "");
        if absent && let Some(number) = port.get("port").filter(|n| n.is_i64()).cloned() {
            port["targetPort"] = number;
        }
    }
}
