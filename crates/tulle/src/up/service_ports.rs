//! The ports of a service of `tulle.yaml`.

use std::collections::HashMap;

use super::config::Service;
use super::field::Field;

#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    pub name: Option<String>,
    /// The Service's.
    pub port: u16,
    /// That of the first replica's process.
    pub target_port: u16,
    pub app_protocol: Option<String>,
}

pub const PORT_FIELDS: &[&str] = &["name", "port", "targetPort", "appProtocol"];

const FOREIGN_PORT_FIELDS: &[(&str, &str)] = &[
    ("protocol", "did you mean `appProtocol`? The mesh carries TCP alone"),
    ("published", "did you mean `port`?"),
    ("target", "did you mean `targetPort`?"),
];

/// `port`, or `ports`.
pub fn ports(service: &Field<'_>) -> Vec<Port> {
    let single = service.get("port");
    let Some(several) = service.get("ports") else {
        return single.and_then(|field| short_port(&field)).into_iter().collect();
    };
    if let Some(single) = single {
        single.wrong_field("there are `port` and `ports`", "leave out one of the two");
    }
    let items = several.items("[{port: 80, targetPort: 8080}]");
    let mut ports: Vec<Port> = Vec::new();
    for item in &items {
        let Some(mut port) = (if item.value.is_object() { long_port(item) } else { short_port(item) }) else {
            continue;
        };
        if items.len() > 1 && port.name.is_none() {
            match item.value.is_object() {
                true => item.wrong("each of several ports needs a name", "`name:` is missing"),
                false => port.name = Some(format!("port-{}", port.port)),
            }
        }
        if ports.iter().any(|p| p.port == port.port) {
            let number = item.get("port").unwrap_or_else(|| item.clone());
            let message = format!("the service has port {} already", port.port);
            number.wrong(&message, "another port is expected");
        }
        if let Some(name) =
            port.name.as_ref().filter(|name| ports.iter().any(|p| p.name.as_ref() == Some(name)))
        {
            let field = item.get("name").unwrap_or_else(|| item.clone());
            field
                .wrong(&format!("the service has a port named `{name}` already"), "another name is expected");
        }
        ports.push(port);
    }
    ports
}

/// `8080` or `8080/grpc`.
fn short_port(field: &Field<'_>) -> Option<Port> {
    if field.value.is_object() {
        field
            .wrong("it is an object, a port is expected", "`ports: [{port: 80, targetPort: 8080}]` has them");
        return None;
    }
    if let Some((port, target)) = field.value.as_str().and_then(|text| text.split_once(':')) {
        let such_as = format!("`ports: [{{port: {port}, targetPort: {target}}}]` says that");
        field.wrong("it is two ports, one is expected", &such_as);
        return None;
    }
    let (port, app_protocol) = field.port_with_protocol()?;
    Some(Port { name: None, port, target_port: port, app_protocol })
}

fn long_port(item: &Field<'_>) -> Option<Port> {
    if !item.is_object_of(PORT_FIELDS, FOREIGN_PORT_FIELDS, "{port: 80, targetPort: 8080}") {
        return None;
    }
    let name = item.get("name").and_then(|f| f.label());
    let target_port = item.get("targetPort").map(|f| f.port());
    let declared = item.get("appProtocol");
    let app_protocol = declared.as_ref().and_then(Field::protocol);
    let Some(number) = item.get("port") else {
        item.wrong("it has no port", "`port:` is missing");
        return None;
    };
    let (port, short) = number.port_with_protocol()?;
    if let (Some(declared), Some(short)) = (&declared, &short) {
        declared.wrong(&format!("`port` says `{short}` already"), "leave out one of the two");
    }
    Some(Port {
        name,
        port,
        target_port: target_port.flatten().unwrap_or(port),
        app_protocol: app_protocol.or(short),
    })
}

/// All processes share this machine's loopback.
pub fn find_shared_ports(services: &[Service], fields: &HashMap<String, Field<'_>>) {
    let mut owners: HashMap<u16, &str> = HashMap::new();
    for service in services {
        for (index, port) in service.ports.iter().enumerate() {
            match owners.get(&port.target_port) {
                None => {
                    owners.insert(port.target_port, &service.name);
                }
                Some(owner) => {
                    let field = &fields[&service.name];
                    let field = match (field.get("port"), field.get("ports")) {
                        (_, Some(list)) => list.items("").get(index).cloned().unwrap_or(list),
                        (Some(port), None) => port,
                        (None, None) => field.clone(),
                    };
                    let message = format!("port {} is that of `{owner}` already", port.target_port);
                    field.wrong(&message, "every service on this machine needs a port of its own");
                }
            }
        }
    }
}
