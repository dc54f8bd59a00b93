//! What an ExternalService must be, beyond its schema.

use std::net::IpAddr;

use ipnet::IpNet;

use super::form::{ExternalForm, ExternalPortForm};
use crate::host::is_mesh_only;
use crate::name::{NamespacedName, dns_label_problem, dns_subdomain_problem};
use crate::snapshot::{ExternalPort, OutsideProtocol, ServerName};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::namespace;

pub(crate) fn check(object: &Field<'_>, errors: &mut Errors) -> Read<ExternalForm> {
    let before = errors.0.len();
    let own = namespace(object).unwrap_or("default");
    let name = object.get("metadata").and_then(|metadata| metadata.get_str("name")).ok_or(Unreadable)?;
    let spec = object.get("spec").ok_or(Unreadable)?;
    let hosts: Vec<_> = spec.read_items("hosts")?.map(|host| check_host(&host, errors)).collect();
    let ranges: Vec<_> = spec.read_items("addresses")?.map(|range| check_range(&range, errors)).collect();
    let ports: Vec<_> = spec.read_items("ports")?.map(|port| check_port(&port, errors)).collect();
    if hosts.is_empty() && ranges.is_empty() {
        let message = "is missing: an ExternalService lists at least one name here, or one of `addresses`";
        errors.required(spec.path.field("hosts"), message);
    }
    // Half a list would refuse what the other half is for, or let pass what it is not.
    if errors.0.len() > before || ports.is_empty() {
        return Err(Unreadable);
    }
    Ok(ExternalForm {
        name: NamespacedName::new(own, name),
        hosts: hosts.into_iter().collect::<Read<_>>()?,
        ranges: ranges.into_iter().collect::<Read<_>>()?,
        ports: ports.into_iter().collect::<Read<_>>()?,
    })
}

fn check_host(host: &Field<'_>, errors: &mut Errors) -> Read<ServerName> {
    let text = host.str().ok_or(Unreadable)?;
    let below = text.strip_prefix("*.");
    let name = below.unwrap_or(text);
    let problem = if text == "*" {
        Some("is every name: that is what `Allow` is for, as the Mesh's egress policy".to_owned())
    } else if name.parse::<IpAddr>().is_ok() {
        Some("is an address: it belongs into `addresses`".to_owned())
    } else if let Some(problem) = dns_subdomain_problem(name) {
        Some(format!("is no DNS name: it {problem}; `*.example.com` is all below a name"))
    } else if is_mesh_only(name) || is_mesh_only(&format!("a.{name}")) {
        Some("is a name of the mesh itself: what has such a name is not outside".to_owned())
    } else if below.is_none() && !name.contains('.') {
        Some("has one label: such names do not leave the host".to_owned())
    } else {
        None
    };
    match problem {
        None => Ok(ServerName::new(text)),
        Some(problem) => {
            errors.invalid(host, format!("{} {problem}", shown(host.value)));
            Err(Unreadable)
        }
    }
}

fn check_range(range: &Field<'_>, errors: &mut Errors) -> Read<IpNet> {
    let text = range.str().ok_or(Unreadable)?;
    let net = text.parse::<IpNet>().ok().or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)));
    let problem = match net {
        // Addresses are compared in their own family.
        Some(net) if net.addr().to_canonical() != net.addr() => "is of IPv4: write it as such".to_owned(),
        Some(net) if net.trunc() != net => format!("begins within its range, which is `{}`", net.trunc()),
        Some(net) => return Ok(net),
        None => "is neither an address nor a range of addresses, e.g. `192.0.2.0/24`".to_owned(),
    };
    errors.invalid(range, format!("{} {problem}", shown(range.value)));
    Err(Unreadable)
}

fn check_port(port: &Field<'_>, errors: &mut Errors) -> Read<ExternalPortForm> {
    if let Some(name) = port.get("name")
        && let Some(problem) = name.str().and_then(dns_label_problem)
    {
        errors.invalid(&name, format!("{} is no name of a port: it {problem}", shown(name.value)));
    }
    let number = port.read_port("port")?.ok_or(Unreadable)?;
    if number == 53
        && let Some(field) = port.get("port")
    {
        let message = "53 is not supported: what workloads send to port 53 is DNS, and goes to their node's name server";
        errors.push(&field, Code::NotSupported, message);
    }
    let protocol = match port.read_str("appProtocol")?.ok_or(Unreadable)? {
        "http" | "http2" | "kubernetes.io/h2c" | "grpc" => OutsideProtocol::Http,
        "https" | "tls" => OutsideProtocol::Tls,
        "tcp" => OutsideProtocol::Bytes,
        _ => return Err(Unreadable),
    };
    let name = port.read_str("name")?.map(Into::into);
    let target_port = port.read_port("targetPort")?;
    Ok(ExternalPortForm { name, port: ExternalPort { target_port, ..ExternalPort::new(number, protocol) } })
}
