//! What an EndpointSlice must be (the rules of Kubernetes' own validation).

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::Value;

use super::form::SliceForm;
use crate::kinds::port::{check_app_protocol, check_transport, is_tcp};
use crate::name::{ServiceName, dns_label_problem};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::{labels, namespace};

pub(crate) fn check(slice: &Field<'_>, errors: &mut Errors) -> Read<SliceForm> {
    let family = slice.get_str("addressType");
    if family == Some("FQDN")
        && let Some(field) = slice.get("addressType")
    {
        let message = "`FQDN` is not supported: expected `IPv4` or `IPv6`";
        errors.push(&field, Code::NotSupported, message);
    }
    for endpoint in slice.items("endpoints") {
        for address in endpoint.items("addresses") {
            if let Some(problem) = address.str().and_then(|text| address_problem(text, family)) {
                errors.invalid(&address, format!("{} {problem}", shown(address.value)));
            }
        }
        if let Some(name) = endpoint.get("hostname")
            && let Some(problem) = name.str().and_then(dns_label_problem)
        {
            errors.invalid(&name, format!("{} is no name of an endpoint: it {problem}", shown(name.value)));
        }
    }
    let count = slice.items("ports").count();
    let mut names: HashMap<&str, String> = HashMap::new();
    for port in slice.items("ports") {
        check_app_protocol(&port, errors);
        check_transport(&port, errors);
        if port.value.is_object() && port.get("port").is_none() {
            let message = "is missing: an EndpointSlice's port without a number stands for all ports, which is not \
                           supported; write the number that the endpoints listen at";
            errors.required(port.path.field("port"), message);
        }
        let name = port.get_str("name").unwrap_or_default();
        let at = match port.get("name") {
            Some(field) => field,
            None => port.clone(),
        };
        if let Some(problem) = dns_label_problem(name).filter(|_| !name.is_empty()) {
            errors.invalid(&at, format!("`{}` is no name of a port: it {problem}", name.escape_debug()));
        }
        if let Some(first) = names.get(name).filter(|_| count > 1) {
            let message =
                format!("{first} has the same name, `{}`: names of ports must differ", name.escape_debug());
            errors.push(&at, Code::Duplicate, message);
        } else {
            names.insert(name, port.path.to_string());
        }
    }
    read(slice)
}

/// What was checked, as it is compiled.
fn read(slice: &Field<'_>) -> Read<SliceForm> {
    if !matches!(slice.read_str("addressType")?, Some("IPv4" | "IPv6")) {
        return Err(Unreadable);
    }
    let (mut addresses, mut not_ready) = (Vec::new(), Vec::new());
    for endpoint in slice.read_items("endpoints")? {
        let ready = endpoint.get("conditions").map(|conditions| conditions.read("ready", Value::as_bool));
        let first = endpoint.read_items("addresses")?.next().ok_or(Unreadable)?;
        let address = first.str().and_then(|text| text.parse::<IpAddr>().ok());
        if ready.transpose()?.flatten() == Some(false) {
            not_ready.extend(address);
            continue;
        }
        let hostname = endpoint.read_str("hostname")?.unwrap_or_default();
        addresses.push((address.ok_or(Unreadable)?, hostname.into()));
    }
    let mut ports = Vec::new();
    for port in slice.read_items("ports")? {
        // Kubernetes: without a number it stands for all ports, which nobody can connect to.
        if is_tcp(port.read_str("protocol")?)
            && let Some(number) = port.read_port("port")?
        {
            ports.push((port.read_str("name")?.unwrap_or_default().to_owned(), number));
        }
    }
    let service = labels(slice)?.remove("kubernetes.io/service-name");
    let namespace = namespace(slice)?;
    let service = service.map(|name| ServiceName::new(namespace, name));
    Ok(SliceForm { service, addresses, not_ready, ports })
}

fn address_problem(text: &str, family: Option<&str>) -> Option<String> {
    let address: IpAddr = match (text.parse(), family) {
        (Ok(address), _) => address,
        (Err(_), Some("FQDN")) => return None,
        (Err(_), _) => return Some("is no IP address".to_owned()),
    };
    match family {
        Some("IPv4") if !address.is_ipv4() => {
            Some("is no IPv4 address, and the addressType is IPv4".to_owned())
        }
        Some("IPv6") if !address.is_ipv6() => {
            Some("is no IPv6 address, and the addressType is IPv6".to_owned())
        }
        _ if address.is_unspecified() || address.is_multicast() => {
            Some("is no address of one endpoint (it is unspecified or multicast)".to_owned())
        }
        _ => None,
    }
}
