//! The names that stand for something of Tulle's own in texts of a service: they come first, and the node puts them in.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Of every process: what `up` and the mesh say to it.
const ALWAYS: &[&str] = &["HOST", "SERVICE", "REPLICA", "TULLE", "TULLE_WORKLOAD", "SPIFFE_ENDPOINT_SOCKET"];

/// Of whom the process runs as.
pub const OF_USER: &[&str] = &["HOME", "USER", "LOGNAME"];

/// There in explicit mode alone. Who says what to do without them may have them of the environment.
const OF_MODE: &[&str] = &["HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"];

/// Those of one service.
pub struct OwnNames<'a> {
    /// `PORT` and `PORT_NAME`, and in commands of probes the service's variables.
    declared: Vec<String>,
    services: &'a HashSet<String>,
}

impl<'a> OwnNames<'a> {
    /// Of a service with these fields, where those that are named can be called.
    pub fn of(fields: &Map<String, Value>, services: &'a HashSet<String>) -> Self {
        let ports = match fields.get("ports") {
            Some(Value::Array(ports)) => ports.iter().collect(),
            _ => Vec::new(),
        };
        let single = fields.get("port").filter(|port| !port.is_null());
        let mut declared = Vec::new();
        if single.is_some() || !ports.is_empty() {
            declared.push("PORT".to_owned());
        }
        for port in &ports {
            let name = match port {
                Value::Object(port) => port.get("name").and_then(Value::as_str).map(str::to_owned),
                // Without a name of its own it is called so where there are several.
                other => number_of(other).map(|number| format!("port-{number}")),
            };
            declared.extend(name.map(|name| format!("PORT_{}", as_variable(&name))));
        }
        Self { declared, services }
    }

    /// Commands of probes find the service's variables.
    pub fn add_environment(&mut self, fields: &Map<String, Value>) {
        let environment = fields.get("environment").and_then(Value::as_object);
        self.declared.extend(environment.into_iter().flat_map(Map::keys).cloned());
    }

    pub fn has(&self, name: &str, has_operator: bool) -> bool {
        ALWAYS.contains(&name)
            || OF_USER.contains(&name)
            || OF_MODE.contains(&name) && !has_operator
            || self.declared.iter().any(|declared| declared == name)
            || service_of(name).is_some_and(|service| self.services.contains(service))
    }

    pub fn suggestions(&self) -> impl Iterator<Item = &str> {
        ALWAYS.iter().copied().chain(self.declared.iter().map(String::as_str))
    }
}

/// `8080` or `8080/grpc`.
fn number_of(port: &Value) -> Option<String> {
    match port {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => text.split('/').next().map(|number| number.trim().to_owned()),
        _ => None,
    }
}

/// The name of a service or port as names of variables have it.
pub fn as_variable(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}

/// `API` of `API_SERVICE_HOST`, `API_SERVICE_PORT` and those with the number of a port.
pub fn service_of(name: &str) -> Option<&str> {
    let without_number = match name.rsplit_once('_') {
        Some((start, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => start,
        _ => name,
    };
    let service =
        without_number.strip_suffix("_SERVICE_HOST").or(without_number.strip_suffix("_SERVICE_PORT"))?;
    (!service.is_empty()).then_some(service)
}

pub fn is_port(name: &str) -> bool {
    name == "PORT" || name.starts_with("PORT_")
}

/// Whether the name may be one of ours somewhere.
pub fn is_own(name: &str) -> bool {
    ALWAYS.contains(&name) || is_port(name) || service_of(name).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_known_by_what_a_service_declares() {
        let services = HashSet::from(["MY_API".to_owned()]);
        let names = |fields: Value| {
            let fields = fields.as_object().unwrap().clone();
            let own = OwnNames::of(&fields, &services);
            [
                "PORT",
                "PORT_ADMIN",
                "PORT_PORT_80",
                "MY_API_SERVICE_HOST",
                "MY_API_SERVICE_PORT_81",
                "X_SERVICE_HOST",
            ]
            .into_iter()
            .filter(|name| own.has(name, true))
            .collect::<Vec<_>>()
            .join(" ")
        };
        let of_service = "MY_API_SERVICE_HOST MY_API_SERVICE_PORT_81";
        assert_eq!(names(json!({})), of_service);
        assert_eq!(names(json!({ "port": 80 })), format!("PORT {of_service}"));
        assert_eq!(
            names(json!({ "ports": ["80/http", { "name": "admin", "port": 81 }] })),
            format!("PORT PORT_ADMIN PORT_PORT_80 {of_service}")
        );
        let own = OwnNames::of(&Map::new(), &services);
        assert!(own.has("HTTP_PROXY", false) && !own.has("HTTP_PROXY", true) && own.has("HOME", true));
        assert_eq!(service_of("A_SERVICE_HOST"), Some("A"));
        assert_eq!(service_of("_SERVICE_HOST"), None);
        assert_eq!(service_of("A_HOST"), None);
    }
}
