//! Objects as rows of tables, with the columns that `kubectl get` shows.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::event::last_time;
use crate::kinds::workload::STALE;
use crate::registry::KindId;

/// A column of a table (meta.k8s.io/v1, TableColumnDefinition).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// An OpenAPI type: `string` or `integer`.
    pub type_: &'static str,
    /// `name` for the column of the object's name, else empty.
    pub format: &'static str,
    /// 0: always shown; above: only in wide output.
    pub priority: i32,
    pub description: &'static str,
}

const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, type_: "string", format: "", priority: 0, description }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { priority: 1, ..text(name, description) }
}

const NAME: Column = Column { format: "name", ..text("Name", "The name of the object.") };
const AGE: Column = text("Age", "How long ago the object was created.");

static NAMESPACE: &[Column] = &[NAME, text("Status", "Active or Terminating."), AGE];

static SERVICE: &[Column] = &[
    NAME,
    text("Type", "ClusterIP or ExternalName."),
    text("Cluster-IP", "The address of the service inside a cluster."),
    text("External-IP", "Addresses or names of the service outside of the cluster."),
    text("Port(s)", "The ports that the service offers."),
    AGE,
    wide("Selector", "Labels of the workloads that answer for the service."),
];

static ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", "IPv4 or IPv6."),
    text("Ports", "The ports that each of the endpoints offers."),
    text("Endpoints", "The addresses."),
    AGE,
];

static HTTP_ROUTE: &[Column] = &[
    NAME,
    text("Hostnames", "Host names that the route is for, at a Gateway."),
    text("Parents", "What the route is attached to."),
    AGE,
    wide("Accepted", "Whether the route was accepted, for all of its parents."),
    wide("Resolved", "Whether all of its references lead somewhere."),
    wide("Programmed", "Whether the nodes run it, and how many do."),
];

static TCP_ROUTE: &[Column] = &[
    NAME,
    text("Parents", "What the route is attached to."),
    AGE,
    wide("Accepted", "Whether the route was accepted, for all of its parents."),
    wide("Resolved", "Whether all of its references lead somewhere."),
    wide("Programmed", "Whether the nodes run it, and how many do."),
];

static MESH: &[Column] = &[
    NAME,
    text("Trust-Domain", "The trust domain of the mesh's identities."),
    text("Egress", "What happens to connections to destinations outside of the mesh."),
    AGE,
];

static WORKLOAD: &[Column] = &[
    NAME,
    text("Service-Account", "The service account of its identity."),
    text("Address", "The address at which it is reached."),
    text("Node", "The node that runs it."),
    text("Ready", "Whether it may take traffic, and for how long nothing was heard of its node."),
    AGE,
    wide("Ports", "The ports that it listens at."),
    wide("Reason", "Why it is ready or not."),
];

static NODE: &[Column] = &[
    NAME,
    text("Status", "Whether it is connected to the server, and whether it was drained."),
    text("Last-Seen", "How long ago it was heard; `now` while it is connected."),
    text("Addresses", "Where it takes links from other nodes."),
    text("Version", "The version of Tulle that it runs."),
    AGE,
    wide("Capture", "How its workloads' connections get into the mesh."),
    wide("Reason", "Why it is in that state."),
];

static EVENT: &[Column] = &[
    text("Last Seen", "How long ago it happened last."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why, in one word."),
    text("Object", "What it happened to."),
    text("Message", "What happened."),
    wide("First Seen", "How long ago it happened first."),
    wide("Count", "How often it happened."),
    Column { priority: 1, ..NAME },
];

/// The columns of a kind's table.
pub(crate) fn columns(kind: KindId) -> &'static [Column] {
    match kind {
        KindId::Namespace => NAMESPACE,
        KindId::Service => SERVICE,
        KindId::EndpointSlice => ENDPOINT_SLICE,
        KindId::HttpRoute => HTTP_ROUTE,
        KindId::TcpRoute => TCP_ROUTE,
        KindId::Mesh => MESH,
        KindId::Workload => WORKLOAD,
        KindId::Node => NODE,
        KindId::Event | KindId::EventV1 => EVENT,
    }
}

/// The cells of an object's row. The object need not be valid.
pub(crate) fn row(kind: KindId, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = string(object, "/metadata/name").unwrap_or_default().to_owned();
    let age = age(object, now);
    let mut cells = vec![name];
    match kind {
        KindId::Namespace => {
            cells.extend([string(object, "/status/phase").unwrap_or("Active").to_owned(), age]);
        }
        KindId::Service => {
            cells.extend([
                string(object, "/spec/type").unwrap_or("ClusterIP").to_owned(),
                or_none(string(object, "/spec/clusterIP").unwrap_or_default().to_owned()),
                external_ips(object),
                service_ports(object),
                age,
                labels(object.pointer("/spec/selector")),
            ]);
        }
        KindId::EndpointSlice => {
            let addresses =
                items(object, "/endpoints").flat_map(|e| items(e, "/addresses")).filter_map(Value::as_str);
            let ports = items(object, "/ports").map(|p| match p.get("port").and_then(Value::as_i64) {
                Some(port) => port.to_string(),
                None => "*".to_owned(),
            });
            cells.extend([
                string(object, "/addressType").unwrap_or_default().to_owned(),
                shortened(ports),
                shortened(addresses.map(str::to_owned)),
                age,
            ]);
        }
        KindId::HttpRoute => {
            let hostnames = items(object, "/spec/hostnames").filter_map(Value::as_str);
            cells.extend([joined(hostnames), parents(object), age]);
            cells.extend(route_conditions(object));
        }
        KindId::TcpRoute => {
            cells.extend([parents(object), age]);
            cells.extend(route_conditions(object));
        }
        KindId::Mesh => {
            cells.extend([
                string(object, "/spec/trustDomain").unwrap_or_default().to_owned(),
                string(object, "/spec/egress/policy").unwrap_or("Allow").to_owned(),
                age,
            ]);
        }
        KindId::Event | KindId::EventV1 => cells = event_cells(object, now),
        KindId::Node => cells.extend(node_cells(object, now)),
        KindId::Workload => {
            let ready = items(object, "/status/conditions").find(|c| string(c, "/type") == Some("Ready"));
            // A workload that somebody wrote by hand has nobody who would report its state.
            let unreported = if object.pointer("/spec/node").is_some() { "Unknown" } else { "True" };
            cells.extend([
                string(object, "/spec/serviceAccount").unwrap_or("default").to_owned(),
                or_none(string(object, "/spec/address").unwrap_or_default().to_owned()),
                or_none(string(object, "/spec/node/name").unwrap_or_default().to_owned()),
                format!(
                    "{}{}",
                    ready.and_then(|c| string(c, "/status")).unwrap_or(unreported),
                    stale_since(object)
                        .map(|since| format!(" (stale {})", duration(now.as_second() - since)))
                        .unwrap_or_default()
                ),
                age,
                or_none(joined(items(object, "/spec/ports").filter_map(workload_port))),
                ready.and_then(|c| string(c, "/reason")).unwrap_or_default().to_owned(),
            ]);
        }
    }
    cells.into_iter().map(Value::String).collect()
}

fn event_cells(event: &Value, now: Timestamp) -> Vec<String> {
    let either = |old: &str, new: &str| string(event, old).or_else(|| string(event, new)).unwrap_or_default();
    let ago = |time: Option<&str>| match time.and_then(|time| time.parse::<Timestamp>().ok()) {
        Some(time) => duration(now.as_second() - time.as_second()),
        None => "<unknown>".to_owned(),
    };
    let first = either("/firstTimestamp", "/deprecatedFirstTimestamp");
    let count = event.get("count").or_else(|| event.get("deprecatedCount"));
    let kind = either("/involvedObject/kind", "/regarding/kind").to_ascii_lowercase();
    vec![
        ago(last_time(event)),
        string(event, "/type").unwrap_or_default().to_owned(),
        string(event, "/reason").unwrap_or_default().to_owned(),
        format!("{kind}/{}", either("/involvedObject/name", "/regarding/name")),
        either("/message", "/note").trim().to_owned(),
        ago(Some(first).filter(|first| !first.is_empty())),
        count.and_then(Value::as_i64).unwrap_or(1).to_string(),
        string(event, "/metadata/name").unwrap_or_default().to_owned(),
    ]
}

fn node_cells(node: &Value, now: Timestamp) -> [String; 7] {
    let ready = items(node, "/status/conditions").find(|c| string(c, "/type") == Some("Ready"));
    let status = match ready.and_then(|c| string(c, "/status")) {
        Some("True") => "Ready",
        Some("False") => "Left",
        _ => "Unknown",
    };
    let drained = node.pointer("/spec/drained") == Some(&Value::Bool(true));
    let last_seen = string(node, "/status/lastSeen").and_then(|time| time.parse::<Timestamp>().ok());
    let last_seen = match (status, last_seen) {
        ("Ready", _) => "now".to_owned(),
        (_, Some(seen)) => format!("{} ago", duration(now.as_second() - seen.as_second())),
        _ => "<unknown>".to_owned(),
    };
    let text = |pointer: &str| or_none(string(node, pointer).unwrap_or_default().to_owned());
    [
        format!("{status}{}", if drained { ",Drained" } else { "" }),
        last_seen,
        or_none(joined(items(node, "/status/addresses").filter_map(|a| string(a, "/address")))),
        text("/status/version"),
        age(node, now),
        text("/status/captureMode"),
        ready.and_then(|c| string(c, "/message")).unwrap_or_default().to_owned(),
    ]
}

/// Since when nothing is heard of the node of a workload, in seconds since the epoch.
pub fn stale_since(workload: &Value) -> Option<i64> {
    let mut conditions = items(workload, "/status/conditions");
    let stale =
        conditions.find(|c| string(c, "/type") == Some(STALE) && string(c, "/status") == Some("True"))?;
    Some(string(stale, "/lastTransitionTime")?.parse::<Timestamp>().map_or(1, |at| at.as_second()))
}

fn string<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn joined<S: AsRef<str>>(items: impl Iterator<Item = S>) -> String {
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(item.as_ref());
    }
    text
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// At most three, and how many more there are.
fn shortened(items: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = items.collect();
    let mut text = joined(all.iter().take(3));
    if all.len() > 3 {
        let _ = write!(text, " + {} more...", all.len() - 3);
    }
    if text.is_empty() { "<unset>".to_owned() } else { text }
}

fn labels(labels: Option<&Value>) -> String {
    let pairs = labels.and_then(Value::as_object).into_iter().flatten();
    or_none(joined(pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))))
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

fn workload_port(port: &Value) -> Option<String> {
    let number = port.get("port")?.as_i64()?;
    Some(match port.get("targetPort").and_then(Value::as_i64) {
        Some(target) if target != number => format!("{target}→{number}"),
        _ => number.to_string(),
    })
}

/// `Service/d`, and `Service/shop/d:8080` where a namespace or a port is given.
fn parents(route: &Value) -> String {
    let parents = items(route, "/spec/parentRefs").map(|parent| {
        let mut text = format!("{}/", string(parent, "/kind").unwrap_or("Gateway"));
        let own = string(route, "/metadata/namespace");
        if let Some(namespace) = string(parent, "/namespace").filter(|n| Some(*n) != own) {
            let _ = write!(text, "{namespace}/");
        }
        text.push_str(string(parent, "/name").unwrap_or_default());
        if let Some(port) = parent.get("port").and_then(Value::as_i64) {
            let _ = write!(text, ":{port}");
        }
        text
    });
    joined(parents)
}

/// Accepted, ResolvedRefs and Programmed over all parents: the worst of each.
fn route_conditions(route: &Value) -> [String; 3] {
    ["Accepted", "ResolvedRefs", "Programmed"].map(|kind| {
        let mut worst: Option<&Value> = None;
        for condition in items(route, "/status/parents").flat_map(|p| items(p, "/conditions")) {
            let better = worst.is_some_and(|w| string(w, "/status") != Some("True"));
            if string(condition, "/type") == Some(kind) && !better {
                worst = Some(condition);
            }
        }
        match worst {
            None => "Unknown".to_owned(),
            Some(c) => match (string(c, "/status").unwrap_or("Unknown"), string(c, "/reason")) {
                (status @ "False", Some(reason)) => format!("{status} ({reason})"),
                (status, _) => status.to_owned(),
            },
        }
    })
}

fn age(object: &Value, now: Timestamp) -> String {
    let created = string(object, "/metadata/creationTimestamp").and_then(|t| t.parse::<Timestamp>().ok());
    match created {
        Some(created) => duration(now.as_second() - created.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds as kubectl prints them: two units at most, and one where the second does not matter.
pub fn duration(seconds: i64) -> String {
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::KINDS;

    fn cells(kind: KindId, object: &Value) -> Vec<String> {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let cells = row(kind, object, now);
        assert_eq!(cells.len(), columns(kind).len());
        cells.into_iter().map(|c| c.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn rows_have_a_cell_for_every_column_whatever_the_object() {
        for kind in KINDS {
            for object in [
                json!(null),
                json!({}),
                json!({ "metadata": 1, "spec": { "ports": [1], "parentRefs": "x" } }),
            ] {
                cells(kind.id, &object);
            }
        }
    }

    #[test]
    fn a_service_looks_as_in_kubectl() {
        let service = json!({
            "metadata": { "name": "c", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "selector": { "app": "c" }, "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }] }
        });
        assert_eq!(
            cells(KindId::Service, &service),
            ["c", "ClusterIP", "<none>", "<none>", "80/TCP,53/UDP", "10m", "app=c"]
        );
    }

    #[test]
    fn a_route_shows_its_parents_and_the_worst_of_its_conditions() {
        let condition =
            |status: &str, reason: &str| json!({ "type": "Accepted", "status": status, "reason": reason });
        let route = json!({
            "metadata": { "name": "r", "namespace": "shop" },
            "spec": { "parentRefs": [
                { "kind": "Service", "group": "", "name": "d", "namespace": "shop" },
                { "kind": "Service", "group": "", "name": "d", "namespace": "other", "port": 80 },
            ] },
            "status": { "parents": [
                { "conditions": [condition("False", "NoMatchingParent")] }, { "conditions": [condition("True", "Accepted")] },
            ] }
        });
        assert_eq!(
            cells(KindId::HttpRoute, &route),
            [
                "r",
                "",
                "Service/d,Service/other/d:80",
                "<unknown>",
                "False (NoMatchingParent)",
                "Unknown",
                "Unknown"
            ]
        );
    }

    #[test]
    fn a_node_says_when_it_was_heard_and_whether_it_takes_traffic() {
        let node = |status: &str, seen: &str, drained: bool| {
            json!({
                "metadata": { "name": "n1", "creationTimestamp": "2026-01-01T00:00:00Z" },
                "spec": { "drained": drained },
                "status": {
                    "addresses": [{ "type": "Links", "address": "10.0.0.7:15008" }],
                    "version": "0.1.0", "captureMode": "host", "lastSeen": seen,
                    "conditions": [{ "type": "Ready", "status": status, "message": "m" }],
                },
            })
        };
        assert_eq!(
            cells(KindId::Node, &node("True", "", true)),
            ["n1", "Ready,Drained", "now", "10.0.0.7:15008", "0.1.0", "10m", "host", "m"]
        );
        assert_eq!(
            cells(KindId::Node, &node("Unknown", "2026-01-01T00:09:00Z", false))[1..3],
            ["Unknown", "60s ago"]
        );
    }

    #[test]
    fn durations_are_kubectls() {
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (30 * 86400, "30d"),
            (731 * 86400, "2y1d"),
            (10 * 365 * 86400, "10y"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
