//! What a Workload must be.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use super::STALE;
use super::form::{WorkloadForm, WorkloadPortForm};
use crate::identity::{LONGEST_DNS_NAME, LONGEST_TRUST_DOMAIN, ServiceAccount};
use crate::name::{dns_label_problem, dns_subdomain_problem};
use crate::snapshot::PeerNode;
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::{labels, namespace};

pub(crate) fn check(workload: &Field<'_>, errors: &mut Errors) -> Read<WorkloadForm> {
    let Some(spec) = workload.get("spec") else {
        errors.required(
            workload.path.field("spec"),
            "is missing: a Workload needs a `spec` with an `address` and `ports`",
        );
        return Err(Unreadable);
    };
    let address = check_address(&spec, errors);
    if let Some(account) = spec.get("serviceAccount") {
        check_service_account(workload, &account, errors);
    }
    let ports = check_ports(&spec, errors);
    let node = spec.get("node").map(|node| check_node(&node, errors)).transpose();
    let (address, node) = (address?, node?);
    let (ready, stale_since) = read_conditions(workload, node.is_some())?;
    if ready && address.is_none() {
        return Err(Unreadable);
    }
    let account = spec.read_str("serviceAccount")?.unwrap_or("default");
    let account = ServiceAccount::new(namespace(workload)?, account).ok_or(Unreadable)?;
    Ok(WorkloadForm { labels: labels(workload)?, ready, address, ports: ports?, node, account, stale_since })
}

/// Whether a workload may take traffic, and since when nothing is heard of its node, 0 where it is.
fn read_conditions(workload: &Field<'_>, has_node: bool) -> Read<(bool, i64)> {
    // Written by hand: nobody will ever say that it is ready.
    let (mut ready, mut stale_since) = (None, None);
    let conditions = workload.get("status").map(|status| status.read_items("conditions")).transpose()?;
    for condition in conditions.into_iter().flatten() {
        let holds = condition.get_str("status") == Some("True");
        match condition.get_str("type") {
            Some("Ready") if ready.is_none() => ready = Some(holds),
            Some(STALE) if holds && stale_since.is_none() => {
                let since = condition.get_str("lastTransitionTime").unwrap_or_default();
                // Stale is stale, since whenever.
                let since = since.parse::<Timestamp>().map_or(1, |at| at.as_second().max(1));
                stale_since = Some(since);
            }
            _ => {}
        }
    }
    Ok((ready.unwrap_or(!has_node), stale_since.unwrap_or(0)))
}

fn check_address(spec: &Field<'_>, errors: &mut Errors) -> Read<Option<IpAddr>> {
    let Some(address) = spec.get("address") else {
        let message = "is missing: the IP address at which the workload is reached";
        errors.required(spec.path.field("address"), message);
        return Ok(None);
    };
    let Ok(ip) = address.str().ok_or(Unreadable)?.parse::<IpAddr>() else {
        let message = format!("{} is no IP address (names are not resolved here)", shown(address.value));
        errors.invalid(&address, message);
        return Err(Unreadable);
    };
    if ip.is_unspecified() || ip.is_multicast() {
        let message = format!("{} is no address that one can connect to", shown(address.value));
        errors.invalid(&address, message);
    }
    Ok(Some(ip))
}

pub(in crate::kinds) fn check_service_account(
    workload: &Field<'_>,
    account: &Field<'_>,
    errors: &mut Errors,
) {
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

fn check_ports(spec: &Field<'_>, errors: &mut Errors) -> Read<Vec<WorkloadPortForm>> {
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
    spec.read_items("ports")?.map(|port| read_port(&port)).collect()
}

fn read_port(port: &Field<'_>) -> Read<WorkloadPortForm> {
    let number = port.read_port("port")?.ok_or(Unreadable)?;
    Ok(WorkloadPortForm {
        name: port.read_str("name")?.map(str::to_owned),
        port: number,
        target: port.read_port("targetPort")?.unwrap_or(number),
    })
}

fn check_node(node: &Field<'_>, errors: &mut Errors) -> Read<PeerNode> {
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
    let link = node.read_str("linkAddress")?.ok_or(Unreadable)?;
    Ok(PeerNode {
        name: node.read_str("name")?.ok_or(Unreadable)?.into(),
        link: link.parse().map_err(|_| Unreadable)?,
    })
}
