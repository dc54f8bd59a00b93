//! `tulle describe`: all about an object, for people: its fields, its conditions, and what belongs to it.

use std::net::IpAddr;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use tulle_model::columns::duration;
use tulle_model::compile::standing::{EndpointStanding, Standing, standings};
use tulle_model::legible::legible;
use tulle_model::name::ServiceName;
use tulle_model::registry::{Kind, KindId};

use super::get::ScopeArgs;
use crate::client::{Client, ClientArgs, JSON, Query, resource};
use crate::exit::Result;
use crate::output::{Cell, Table, print, yaml};
use crate::selection;
use crate::terminal;

#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// KIND[,KIND…] [NAME…], or KIND/NAME…
    #[arg(required = true, value_name = "OBJECTS")]
    objects: Vec<String>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: DescribeArgs) -> Result<()> {
    let selections = selection::parse(&args.objects)?;
    let client = args.client.client()?;
    let mut parts: Vec<String> = Vec::new();
    for selection in &selections {
        let path = resource(selection.kind, args.scope.namespace(&client), selection.name.as_deref());
        let path = Query::new(path).set_if("labelSelector", args.selector.as_deref()).finish();
        let mut value = client.get(&path, JSON).await?;
        let items = match value.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if selection.name.is_none() => items,
            _ => vec![value],
        };
        for item in items {
            let mut text = describe(&item, selection.kind.kind)?;
            if selection.kind.id == KindId::Service {
                text += &service_details(&client, &item).await?;
            }
            text += &events(&client, selection.kind, &item).await?;
            parts.push(text);
        }
    }
    if let (true, Some(namespace)) = (parts.is_empty(), &args.scope.namespace) {
        client.require_namespace(namespace).await?;
    }
    if parts.is_empty() {
        crate::output::note("No objects found");
    }
    print(&parts.join("\n\n"))
}

/// What happened to an object lately; nothing where nothing did.
async fn events(client: &Client, kind: &Kind, object: &Value) -> Result<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, namespace) = (text(&object["metadata"]["name"]), text(&object["metadata"]["namespace"]));
    let about = format!("involvedObject.kind={},involvedObject.name={name}", kind.kind);
    let about =
        if namespace.is_empty() { about } else { format!("{about},involvedObject.namespace={namespace}") };
    let path = Query::new(resource(KindId::Event.kind(), None, None)).set("fieldSelector", &about).finish();
    let list = client.get(&path, JSON).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() {
        return Ok(String::new());
    }
    let mut table = Table::new(["  TYPE", "REASON", "LAST SEEN", "COUNT", "MESSAGE"]);
    for event in items {
        let cells = event_cells(event);
        table.row(cells.map(Cell::from));
    }
    Ok(format!("Events:\n{}", table.render()))
}

/// Of an event: type, reason, how long ago, how often, what.
fn event_cells(event: &Value) -> [String; 5] {
    let cells = KindId::Event.kind().row(event, jiff::Timestamp::now());
    let cell = |index: usize| cells.get(index).and_then(Value::as_str).unwrap_or_default().to_owned();
    [format!("  {}", cell(1)), cell(2), format!("{} ago", cell(0)), cell(6), cell(4)]
}

fn line(name: &str, value: &str) -> String {
    format!("{:<14}{}\n", format!("{name}:"), legible(value))
}

fn pairs(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    let pairs: Vec<_> = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(", ") }
}

fn describe(object: &Value, kind: &str) -> Result<String> {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or("<none>").to_owned();
    let mut out = line("Name", &text(&metadata["name"]));
    if metadata["namespace"].is_string() {
        out += &line("Namespace", &text(&metadata["namespace"]));
    }
    out += &line("Kind", kind);
    out += &line("Labels", &pairs(&metadata["labels"]));
    out += &line("Annotations", &pairs(&metadata["annotations"]));
    out += &line("Created", &text(&metadata["creationTimestamp"]));
    let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    let owners: Vec<_> = owners.map(|o| format!("{}/{}", text(&o["kind"]), text(&o["name"]))).collect();
    if !owners.is_empty() {
        out += &line("Owners", &owners.join(", "));
    }
    for (name, value) in object.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
            out += &section(name, value)?;
        }
    }
    let status = &object["status"];
    let mut rest = status.clone();
    if let Some(fields) = rest.as_object_mut() {
        // Conditions are tables of their own.
        fields.retain(|name, value| {
            !matches!(name.as_str(), "conditions" | "parents" | "ancestors") && *value != json!({})
        });
        out += &section("status", &rest)?;
    }
    out += &conditions(status);
    Ok(out)
}

fn section(name: &str, value: &Value) -> Result<String> {
    if value.as_object().is_some_and(|o| o.is_empty()) {
        return Ok(String::new());
    }
    let body = yaml(value)?;
    let body: String = body.lines().map(|line| format!("  {}\n", legible(line))).collect();
    Ok(format!("{}:\n{body}", title_of(name)))
}

/// How much further right a section is.
const INDENT: usize = 2;

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn title_of(name: &str) -> String {
    let name = legible(name);
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// Conditions of the object, of a route for each of its parents, or of a policy for each of its targets.
fn conditions(status: &Value) -> String {
    let mut out = String::new();
    let mut add = |title: String, list: &Value| {
        let Some(list) = list.as_array().filter(|l| !l.is_empty()) else { return };
        let mut table = Table::new(["TYPE", "STATUS", "SINCE", "REASON"]).indented(INDENT);
        let mut messages = Vec::new();
        for condition in list {
            let text = |name: &str| condition[name].as_str().unwrap_or_default();
            table.row(["type", "status", "lastTransitionTime", "reason"].map(|name| text(name).into()));
            if !text("message").is_empty() {
                messages.push(legible(&format!("{}: {}", text("type"), text("message"))).into_owned());
            }
        }
        out.push_str(&format!("{}:\n{}", legible(&title), indent(&table.render())));
        // They are sentences, which no column has room for.
        let room = terminal::width(std::io::stdout()).map(|width| width.saturating_sub(INDENT));
        let messages = messages.iter().map(|message| terminal::wrap(message, room, INDENT));
        out.push_str(&indent(&messages.collect::<Vec<_>>().join("\n")));
    };
    add("Conditions".to_owned(), &status["conditions"]);
    for parent in status["parents"].as_array().into_iter().flatten() {
        let reference = &parent["parentRef"];
        let name = reference["name"].as_str().unwrap_or_default();
        let kind = reference["kind"].as_str().unwrap_or("Gateway");
        let port = reference["port"].as_u64().map(|p| format!(":{p}")).unwrap_or_default();
        add(format!("Conditions for {kind} {name}{port}"), &parent["conditions"]);
    }
    for ancestor in status["ancestors"].as_array().into_iter().flatten() {
        let reference = &ancestor["ancestorRef"];
        let kind = reference["kind"].as_str().unwrap_or_default();
        add(format!("Conditions for {kind}{}", named(reference)), &ancestor["conditions"]);
    }
    out
}

/// Which objects of its kind the target of a policy is.
fn named(target: &Value) -> String {
    if let Some(name) = target["name"].as_str() {
        return format!(" {name}");
    }
    let labels = target["selector"]["matchLabels"].as_object().into_iter().flatten();
    let labels: Vec<_> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let more = target["selector"].get("matchExpressions").map(|_| "…".to_owned());
    let shown: Vec<_> = labels.into_iter().chain(more).collect();
    if shown.is_empty() { String::new() } else { format!(" {}", shown.join(",")) }
}

/// What answers for a service, and which routes are attached to it.
async fn service_details(client: &Client, service: &Value) -> Result<String> {
    let namespace = service["metadata"]["namespace"].as_str();
    let list = async |id: KindId, namespace: Option<&str>| {
        let mut list = client.get(&resource(id.kind(), namespace, None), JSON).await?;
        let Value::Array(items) = list["items"].take() else {
            return Ok::<_, crate::exit::Failure>(Vec::new());
        };
        Ok(items)
    };
    let workloads = list(KindId::Workload, namespace).await?;
    let slices = list(KindId::EndpointSlice, namespace).await?;
    let mut out = String::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = ServiceName::new(namespace.unwrap_or("default"), text(&service["metadata"]["name"]));
    let workloads = workloads.into_iter().map(|object| (KindId::Workload, object));
    let slices = slices.into_iter().map(|object| (KindId::EndpointSlice, object));
    let objects = workloads.chain(slices).chain([(KindId::Service, service.clone())]);
    out += &endpoints(&standings(objects).remove(&name).unwrap_or_default());
    let mut routes = list(KindId::HttpRoute, None).await?;
    routes.extend(list(KindId::GrpcRoute, None).await?);
    routes.extend(list(KindId::TlsRoute, None).await?);
    routes.extend(list(KindId::TcpRoute, None).await?);
    let attached = routes.iter().filter(|route| {
        let parents = route["spec"]["parentRefs"].as_array().into_iter().flatten();
        parents.into_iter().any(|parent| {
            parent["kind"] == "Service"
                && parent["name"] == service["metadata"]["name"]
                && parent["namespace"].as_str().or(route["metadata"]["namespace"].as_str()) == namespace
        })
    });
    let names: Vec<_> = attached
        .map(|r| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("{}/{}", text(&r["metadata"]["namespace"]), text(&r["metadata"]["name"]))
        })
        .collect();
    out += &line("Routes", &if names.is_empty() { "<none>".to_owned() } else { names.join(", ") });
    Ok(out)
}

/// What answers for a service, and which of its ports nobody does.
fn endpoints(standing: &Standing) -> String {
    if standing.endpoints.is_empty() {
        return line("Endpoints", "<none>");
    }
    let mut table = Table::new(["WORKLOAD", "ADDRESS", "NODE", "READY"]).indented(INDENT);
    for endpoint in &standing.endpoints {
        let text = |value: &Option<Arc<str>>| value.as_deref().unwrap_or("<none>").to_owned();
        let ready = match (endpoint.ready, endpoint.offers, endpoint.stale_since) {
            (false, ..) => "no".to_owned(),
            (true, false, _) => "no, it has none of the ports".to_owned(),
            (true, true, 0) => "yes".to_owned(),
            (true, true, since) => {
                format!("yes, stale {}", duration(jiff::Timestamp::now().as_second() - since))
            }
        };
        table.row([
            text(&endpoint.workload).into(),
            address(endpoint).into(),
            text(&endpoint.node).into(),
            ready.into(),
        ]);
    }
    let room = terminal::width(std::io::stdout()).map(|width| width.saturating_sub(INDENT));
    let sentences =
        standing.unoffered.iter().map(|sentence| terminal::wrap(&legible(sentence), room, INDENT));
    let sentences: Vec<_> = sentences.collect();
    format!("Endpoints:\n{}{}", indent(&table.render()), indent(&sentences.join("\n")))
}

fn address(endpoint: &EndpointStanding) -> String {
    let ports: Vec<_> = endpoint.ports.iter().map(u16::to_string).collect();
    match endpoint.address {
        None => "<none>".to_owned(),
        Some(address) if ports.is_empty() => address.to_string(),
        Some(IpAddr::V6(address)) => format!("[{address}]:{}", ports.join(",")),
        Some(address) => format!("{address}:{}", ports.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_forges_nothing() {
        let hostile = "x\x1b]0;title\x07\nStatus:        forged\n\u{9b}2J\u{202e}";
        let object = json!({
            "apiVersion": "v1", "kind": "Service", hostile: [1],
            "metadata": { "name": "c", "annotations": { "a": hostile, hostile: "" }, "labels": { "a": hostile } },
            "spec": { "note": hostile, "notes": [hostile] },
            "status": {
                "conditions": [{ "type": hostile, "status": hostile, "reason": hostile, "message": hostile }],
                "parents": [{ "parentRef": { "name": hostile }, "conditions": [{ "message": hostile }] }],
                "ancestors": [{
                    "ancestorRef": { "kind": hostile, "selector": { "matchLabels": { hostile: hostile } } },
                    "conditions": [{ "message": hostile }],
                }],
            },
        });
        let text = describe(&object, "Service").unwrap();
        assert!(!text.contains(|c| c != '\n' && tulle_model::legible::controls(c)), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("Status:")), "{text}");
        assert!(text.contains("a=x^[]0;title^G\\nStatus:        forged\\n\\u{9b}2J"), "{text}");
    }

    #[test]
    fn what_came_of_a_run_is_shown() {
        let object = json!({
            "metadata": { "name": "r1", "namespace": "shop" },
            "spec": { "flow": "order" },
            "status": {
                "state": "Faulted", "startedAt": "2026-01-01T00:00:01.000Z", "endedAt": "2026-01-01T00:00:02.500Z",
                "error": { "status": 503, "title": "Down" },
            },
        });
        let text = describe(&object, "FlowRun").unwrap();
        let (_, status) = text.split_once("Status:\n").unwrap();
        for line in ["  state: Faulted", "  endedAt: 2026-01-01T00:00:02.500Z", "    title: Down"] {
            assert!(status.replace('"', "").contains(&format!("{line}\n")), "{line}: {status}");
        }
        let object = json!({ "metadata": { "name": "c" }, "status": { "loadBalancer": {}, "conditions": [{ "type": "Ready" }] } });
        let text = describe(&object, "Service").unwrap();
        assert!(!text.contains("Status:") && text.contains("Conditions:"), "{text}");
    }

    #[test]
    fn a_policy_shows_what_became_of_it_at_each_target() {
        let conditions =
            json!([{ "type": "Accepted", "status": "True", "message": "in force for 1 workload" }]);
        let of = |reference: Value| json!({ "ancestorRef": reference, "conditions": conditions });
        let labels = json!({ "matchLabels": { "app": "cart" }, "matchExpressions": [{}] });
        let status = json!({ "ancestors": [
            of(json!({ "kind": "Service", "name": "cart" })),
            of(json!({ "kind": "Workload", "selector": labels })),
            of(json!({ "kind": "Namespace" })),
        ] });
        let text = super::conditions(&status);
        for title in ["for Service cart:", "for Workload app=cart,…:", "for Namespace:"] {
            assert!(text.contains(&format!("Conditions {title}\n")), "{text}");
        }
        assert_eq!(text.matches("Accepted: in force for 1 workload").count(), 3, "{text}");
    }

    #[test]
    fn endpoints_that_take_nothing_are_not_called_ready() {
        let metadata = |name: &str| {
            let labels = json!({ "app": "c", "kubernetes.io/service-name": "c" });
            json!({ "namespace": "shop", "name": name, "labels": labels })
        };
        let service = json!({
            "metadata": metadata("c"),
            "spec": { "selector": { "app": "c" }, "ports": [{ "name": "http", "port": 80, "targetPort": 4444 }] },
        });
        let workload = json!({
            "metadata": metadata("c-1"), "spec": { "address": "192.0.2.1", "ports": [{ "port": 8080 }] },
        });
        let slice = json!({
            "metadata": metadata("by-hand"), "addressType": "IPv6", "endpoints": [{ "addresses": ["fd00::1"] }],
            "ports": [{ "name": "http", "port": 81 }],
        });
        let name = ServiceName::new("shop", "c");
        let shown = |objects: Vec<(KindId, Value)>| {
            let text = endpoints(&standings(objects).remove(&name).unwrap_or_default());
            let text = anstream::adapter::strip_str(&text).to_string();
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        let service = (KindId::Service, service);
        assert_eq!(shown(vec![service.clone()]), ["Endpoints: <none>"]);
        let workload = (KindId::Workload, workload);
        assert_eq!(
            shown(vec![service.clone(), workload.clone()]),
            [
                "Endpoints:",
                "WORKLOAD ADDRESS NODE READY",
                "c-1 192.0.2.1:8080 <none> no, it has none of the ports",
                "port http: no workload has a port 4444 (they have 8080)",
            ]
        );
        assert_eq!(
            shown(vec![service, workload, (KindId::EndpointSlice, slice)])[2..],
            ["c-1 192.0.2.1:8080 <none> no, it has none of the ports", "<none> [fd00::1]:81 <none> yes"]
        );
    }
}
