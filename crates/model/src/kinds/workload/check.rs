//! What a Workload must be.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::identity::LONGEST_TRUST_DOMAIN;
use crate::name::{dns_label_problem, dns_subdomain_problem};
use crate::validate::field::{Code, Errors, Field, shown};

/// In characters (RFC 1035, as it is written).
const LONGEST_DNS_NAME: usize = 253;

pub(super) fn check(workload: &Field<'_>, errors: &mut Errors) {
    let Some(spec) = workload.get("spec") else {
        errors.required(
            workload.path.field("spec"),
            "is missing: a Workload needs a `spec` with an `address` and `ports`",
        );
        return;
    };
    match spec.get("address") {
        None => {
            let message = "is missing: the IP address at which the workload is reached";
            errors.required(spec.path.field("address"), message);
        }
        Some(address) => {
            let parsed = address.str().map(str::parse::<IpAddr>);
            match parsed {
                Some(Err(_)) => {
                    let message =
                        format!("{} is no IP address (names are not resolved here)", shown(address.value));
                    errors.invalid(&address, message);
                }
                Some(Ok(ip)) if ip.is_unspecified() || ip.is_multicast() => {
                    let message = format!("{} is no address that one can connect to", shown(address.value));
                    errors.invalid(&address, message);
                }
                _ => {}
            }
        }
    }
    if let Some(account) = spec.get("serviceAccount") {
        check_service_account(workload, &account, errors);
    }
    check_ports(&spec, errors);
    if let Some(node) = spec.get("node") {
        check_node(&node, errors);
    }
}

fn check_service_account(workload: &Field<'_>, account: &Field<'_>, errors: &mut Errors) {
    let Some(name) = account.str() else { return };
    if let Some(problem) = dns_subdomain_problem(name) {
        errors.invalid(
            account,
            format!("{} is no name of a service account: it {problem}", shown(account.value)),
        );
        return;
    }
    let namespace = workload.get("metadata").and_then(|m| m.get_str("namespace")).unwrap_or("default");
    // TLS asks for `<service-account>.<namespace>.<trust-domain>`, which must be a DNS name.
    if name.len() + namespace.len() + LONGEST_TRUST_DOMAIN + 2 > LONGEST_DNS_NAME {
        let message = format!(
            "has {} characters; with its namespace it may have at most {}",
            name.len(),
            LONGEST_DNS_NAME - LONGEST_TRUST_DOMAIN - 2
        );
        errors.push(account, Code::TooLong, message);
    }
}

fn check_ports(spec: &Field<'_>, errors: &mut Errors) {
    let mut names: HashMap<&str, String> = HashMap::new();
    let mut targets: HashMap<i64, String> = HashMap::new();
    for port in spec.items("ports") {
        if let Some(name) = port.get("name")
            && let Some(text) = name.str()
        {
            if let Some(problem) = dns_label_problem(text) {
                errors.invalid(&name, format!("{} is no name of a port: it {problem}", shown(name.value)));
            } else if let Some(first) = names.get(text) {
                errors.push(
                    &name,
                    Code::Duplicate,
                    format!("{} is already the name of {first}", shown(name.value)),
                );
            } else {
                names.insert(text, port.path.to_string());
            }
        }
        let Some(target) = port.get_int("targetPort").or_else(|| port.get_int("port")) else { continue };
        match (targets.get(&target), port.get("targetPort")) {
            (None, _) => {
                targets.insert(target, port.path.to_string());
            }
            // Without targetPorts it is the port itself that is there twice, which has been said.
            (Some(_), None) => {}
            (Some(first), Some(field)) => {
                let message = format!("{first} stands for the port {target} of a Service already");
                errors.push(&field, Code::Duplicate, message);
            }
        }
    }
}

fn check_node(node: &Field<'_>, errors: &mut Errors) {
    if let Some(name) = node.get("name")
        && let Some(problem) = name.str().and_then(dns_subdomain_problem)
    {
        errors.invalid(&name, format!("{} is no name of a node: it {problem}", shown(name.value)));
    }
    if let Some(address) = node.get("linkAddress")
        && let Some(text) = address.str()
    {
        let usable = text.parse::<SocketAddr>().is_ok_and(|a| a.port() != 0 && !a.ip().is_unspecified());
        if !usable {
            let message = format!(
                "{} is no address to connect to: expected an IP address and a port, e.g. `10.0.0.7:15008`",
                shown(address.value)
            );
            errors.invalid(&address, message);
        }
    }
}
