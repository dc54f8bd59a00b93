//! `publish`: where who is outside of the mesh, such as a browser on this host, reaches a service of `tulle.yaml`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use super::config::Service;
use super::field::Field;
use super::service_ports::Port;

/// A port of this host that leads to one of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Publish {
    pub address: SocketAddr,
    /// The Service's.
    pub to: u16,
}

pub const PUBLISH_FIELDS: &[&str] = &["port", "to"];

/// What other tools have instead.
const FOREIGN_FIELDS: &[(&str, &str)] = &[
    ("published", "did you mean `port`?"),
    ("target", "did you mean `to`?"),
    ("host_ip", "it stands before the port: `port: 0.0.0.0:8080`"),
];

/// `8080`, `0.0.0.0:8080`, or a list of these and of `{port: 8080, to: admin}`.
pub fn publish(field: &Field<'_>, ports: &[Port]) -> Vec<Publish> {
    if ports.is_empty() {
        field.wrong_field("the service has no port", "`port:` says where its process listens");
        return Vec::new();
    }
    match field.value.is_array() {
        true => field.items("[8080]").iter().filter_map(|item| one(item, ports)).collect(),
        false => one(field, ports).into_iter().collect(),
    }
}

fn one(field: &Field<'_>, ports: &[Port]) -> Option<Publish> {
    if !field.value.is_object() {
        return Some(Publish { address: address(field)?, to: ports.first()?.port });
    }
    if !field.is_object_of(PUBLISH_FIELDS, FOREIGN_FIELDS, "{port: 8080, to: admin}") {
        return None;
    }
    let Some(port) = field.get("port") else {
        field.wrong("it has no port", "`port:` is missing");
        return None;
    };
    let address = address(&port);
    let to = match field.get("to") {
        None => ports.first()?.port,
        Some(to) => named(&to, ports)?,
    };
    Some(Publish { address: address?, to })
}

/// `8080` of this host alone, or with an address.
fn address(field: &Field<'_>) -> Option<SocketAddr> {
    let Some(text) = field.value.as_str().filter(|text| text.contains(':')) else {
        return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, field.port()?)));
    };
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Some(address),
        _ => {
            let label = "such as 8080, 0.0.0.0:8080 or [::]:8080";
            field.wrong(&format!("`{text}` is no address with a port"), label);
            None
        }
    }
}

/// One of the Service's ports, by its name or number.
fn named(field: &Field<'_>, ports: &[Port]) -> Option<u16> {
    let text = field.scalar()?;
    let is_it = |port: &&Port| port.name.as_deref() == Some(&text) || port.port.to_string() == text;
    if let Some(port) = ports.iter().find(is_it) {
        return Some(port.port);
    }
    let known = ports.iter().map(|port| port.name.clone().unwrap_or_else(|| port.port.to_string()));
    let known: Vec<_> = known.collect();
    field.wrong(
        &format!("the service has no port `{text}`"),
        &format!("one of its ports is expected: {}", known.join(", ")),
    );
    None
}

/// A port of this host is one process's, or one service's, alone.
pub fn find_taken(services: &[Service], fields: &HashMap<String, Field<'_>>) {
    let listens = |port: u16| {
        let of = services.iter().find(|s| s.ports.iter().any(|p| p.target_port == port))?;
        Some(of.name.as_str())
    };
    let mut owners: Vec<(SocketAddr, &str)> = Vec::new();
    for service in services {
        for (index, published) in service.publish.iter().enumerate() {
            let field = fields[&service.name].get("publish");
            let items = field.as_ref().filter(|f| f.value.is_array()).map(|f| f.items(""));
            let field = items.and_then(|items| items.get(index).cloned()).or(field);
            let Some(field) = field else { continue };
            let port = published.address.port();
            if let Some(owner) = listens(port) {
                let message = match owner == service.name {
                    true => format!("port {port} is where its own process listens"),
                    false => format!("port {port} is where `{owner}` listens"),
                };
                let other = format!(
                    "another one, or let the process listen elsewhere: `ports: [{{port: {port}, targetPort: …}}]`"
                );
                field.wrong(&message, &other);
            } else if let Some((_, owner)) = owners.iter().find(|(other, _)| meet(*other, published.address))
            {
                field.wrong(
                    &format!("port {port} is published for `{owner}` already"),
                    "another one is expected",
                );
            }
            owners.push((published.address, &service.name));
        }
    }
}

/// Whether nobody can listen at both.
pub fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (any || one.ip() == other.ip())
}

#[cfg(test)]
mod tests {
    use super::super::config::of_text as read;

    #[test]
    fn ports_are_published_for_this_host_unless_somebody_asks_for_more() {
        let published = |field: &str| {
            let text = format!(
                "services:\n  a:\n    command: x\n    ports: [{{name: http, port: 80, targetPort: 9080}}, {{name: \
                 admin, port: 81, targetPort: 9081}}]\n    publish: {field}\n  b: {{command: x, port: 70, publish: 7070}}\n"
            );
            let config = read(&text).map_err(|e| e.to_string())?;
            let of = config.services.iter().find(|s| s.name == "a").into_iter().flat_map(|s| &s.publish);
            Ok::<_, String>(of.map(|p| format!("{} {}", p.address, p.to)).collect::<Vec<_>>().join(", "))
        };
        for (field, expected) in [
            ("8080", "127.0.0.1:8080 80"),
            ("0.0.0.0:8080", "0.0.0.0:8080 80"),
            ("'[::]:8080'", "[::]:8080 80"),
            ("[8080, {port: 8081, to: admin}]", "127.0.0.1:8080 80, 127.0.0.1:8081 81"),
            ("{port: 127.0.0.2:80, to: 81}", "127.0.0.2:80 81"),
        ] {
            assert_eq!(published(field).as_deref(), Ok(expected), "{field}");
        }
        for (field, why) in [
            ("0", "0 is not allowed"),
            ("localhost:8080", "`localhost:8080` is no address with a port"),
            ("8080:80", "`8080:80` is no address with a port"),
            ("9080", "port 9080 is where its own process listens"),
            ("70", "port 70 is where `b` listens"),
            ("7070", "port 7070 is published for `a` already"),
            ("0.0.0.0:7070", "port 7070 is published for `a` already"),
            ("[8080, 8080]", "port 8080 is published for `a` already"),
            ("{port: 8080, to: c}", "the service has no port `c`"),
            ("{to: admin}", "it has no port"),
            ("{port: 1, target: 2}", "did you mean `to`?"),
        ] {
            let said = published(field).unwrap_err();
            assert!(said.contains(why), "{field}: {said}");
        }
        let said = read("services:\n  a: {command: x, publish: 8080}\n").err().unwrap().to_string();
        assert!(said.contains("services.a.publish: the service has no port"), "{said}");
    }
}
