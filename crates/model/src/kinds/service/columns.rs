//! The table of Services, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, joined, name, or_none, string, text, wide};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Type", "ClusterIP or ExternalName."),
        text("Cluster-IP", "The address of the service inside a cluster."),
        text("External-IP", "Addresses or names of the service outside of the cluster."),
        text("Port(s)", "The ports that the service offers."),
        AGE,
        wide("Selector", "Labels of the workloads that answer for the service."),
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    vec![
        name(object),
        string(object, "/spec/type").unwrap_or("ClusterIP").to_owned(),
        or_none(string(object, "/spec/clusterIP").unwrap_or_default().to_owned()),
        external_ips(object),
        service_ports(object),
        age(object, now),
        labels(object.pointer("/spec/selector")),
    ]
}

fn external_ips(service: &Value) -> String {
    if string(service, "/spec/type") == Some("ExternalName") {
        return string(service, "/spec/externalName").unwrap_or_default().to_owned();
    }
    let balancer = items(service, "/status/loadBalancer/ingress")
        .filter_map(|i| i.get("ip").or_else(|| i.get("hostname")))
        .filter_map(Value::as_str);
    or_none(joined(items(service, "/spec/externalIPs").filter_map(Value::as_str).chain(balancer)))
}

fn service_ports(service: &Value) -> String {
    let ports = items(service, "/spec/ports").map(|port| {
        let number = port.get("port").and_then(Value::as_i64).unwrap_or_default();
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
        match port.get("nodePort").and_then(Value::as_i64) {
            Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    });
    or_none(joined(ports))
}

fn labels(labels: Option<&Value>) -> String {
    let pairs = labels.and_then(Value::as_object).into_iter().flatten();
    or_none(joined(pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))))
}
