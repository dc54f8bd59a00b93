//! `tulle status`: nodes, their workloads and certificates, services and their endpoints.

use std::time::Duration;

use anstyle::AnsiColor;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tulle_model::registry::KindId;
use tulle_node::client::NodeClient;
use tulle_node::status::NodeStatus;

use super::get::ScopeArgs;
use crate::client::{Client, ClientArgs, JSON, resource};
use crate::exit::{Failure, Result};
use crate::output::{Cell, ReportFormat, Table, age, print, print_json, print_yaml};

/// How long the node of this host may take to say what it knows beyond what it has told the server.
const NODE_DEADLINE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    name: String,
    #[serde(default)]
    link_address: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    capture_mode: String,
    connected: bool,
    #[serde(default)]
    last_seen_seconds: u64,
    config_age_seconds: Option<u64>,
    config_generation: Option<u64>,
    clock_problem: Option<String>,
    #[serde(default)]
    workloads: Vec<Workload>,
    fenced: Option<Fenced>,
}

/// Another node of the name that is kept out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fenced {
    peer: String,
    last_seen_seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Workload {
    namespace: String,
    name: String,
    ready: bool,
    #[serde(default)]
    reason: String,
    stale_seconds: Option<u64>,
    certificate_expires_in_seconds: Option<i64>,
}

pub async fn run(args: StatusArgs) -> Result<()> {
    let client = args.client.client()?;
    let mut view = client.get("/tulle/v1alpha1/nodes", JSON).await?;
    let services = services(&args, &client).await?;
    let node = NodeClient::new(&args.client.home.path()?);
    // None here, or another user's: what the server knows is all there is.
    if let Ok(Ok(node)) = timeout(NODE_DEADLINE, node.status()).await {
        add_troubles(&mut view["nodes"], &node);
    }
    match args.output {
        ReportFormat::Json => {
            print_json(&json!({ "nodes": view["nodes"], "services": services, "problems": view["problems"] }))
        }
        ReportFormat::Yaml => {
            print_yaml(&json!({ "nodes": view["nodes"], "services": services, "problems": view["problems"] }))
        }
        ReportFormat::Table | ReportFormat::Wide => {
            let problems = view["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for problem in problems {
                anstream::eprintln!("the server: {problem}");
            }
            let nodes = serde_json::from_value(view["nodes"].take()).map_err(|e| {
                Failure::new(format!("the server's answer is not understood: {e}"))
                    .help("is it of another version?")
            })?;
            print(&render(&args, nodes, &services))
        }
    }
}

/// Adds what only the node itself knows: why workloads of it can do nothing that it has told the server to be ready.
fn add_troubles(nodes: &mut Value, here: &NodeStatus) {
    let nodes = nodes.as_array_mut().into_iter().flatten();
    // Another mesh may have a node of this name.
    let same = |node: &&mut Value| node["name"] == *here.name && node["linkAddress"] == *here.link_address;
    for node in nodes.filter(same) {
        for workload in node["workloads"].as_array_mut().into_iter().flatten() {
            let known = here
                .workloads
                .iter()
                .find(|known| workload["namespace"] == *known.namespace && workload["name"] == *known.name);
            if let Some(known) = known.filter(|known| !known.ready) {
                workload["ready"] = json!(false);
                workload["reason"] = json!(known.reason);
            }
        }
    }
}

/// Every service with its ports and how many of its workloads are ready.
async fn services(args: &StatusArgs, client: &Client) -> Result<Vec<Value>> {
    let namespace = args.scope.namespace.as_deref();
    let list = |id: KindId| {
        let path = resource(id.kind(), namespace, None);
        async move { client.get(&path, JSON).await }
    };
    let (services, workloads, slices) =
        (list(KindId::Service).await?, list(KindId::Workload).await?, list(KindId::EndpointSlice).await?);
    let items = |list: &'_ Value| list["items"].as_array().cloned().unwrap_or_default();
    let workloads = items(&workloads);
    let slices = items(&slices);
    Ok(items(&services)
        .iter()
        .map(|service| {
            let (ready, all, stale) = super::describe::endpoints(service, &workloads, &slices);
            json!({
                "namespace": service["metadata"]["namespace"],
                "name": service["metadata"]["name"],
                "ports": service["spec"]["ports"],
                "ready": ready,
                "endpoints": all,
                "stale": stale,
            })
        })
        .collect())
}

fn good(text: impl Into<String>, good: bool) -> Cell {
    let color = if good { AnsiColor::Green } else { AnsiColor::Red };
    Cell::styled(text, color.on_default())
}

fn render(args: &StatusArgs, nodes: Vec<Node>, services: &[Value]) -> String {
    let mut text = String::new();
    let mut table = Table::new(["NODE", "STATE", "WORKLOADS", "CONFIG", "CAPTURE", "LINKS", "VERSION"]);
    for node in &nodes {
        let state = match node.connected {
            true => good("connected", true),
            false => good(format!("lost {} ago", age(node.last_seen_seconds)), false),
        };
        let ready = node.workloads.iter().filter(|w| w.ready).count();
        let config = match (node.config_generation, node.config_age_seconds) {
            (Some(generation), Some(seconds)) => format!("#{generation}, {} old", age(seconds)),
            _ => "-".to_owned(),
        };
        table.row([
            node.name.clone().into(),
            state,
            good(format!("{ready}/{} ready", node.workloads.len()), ready == node.workloads.len()),
            config.into(),
            node.capture_mode.clone().into(),
            node.link_address.clone().into(),
            node.version.clone().into(),
        ]);
    }
    text += &if nodes.is_empty() { "No node has joined\n".to_owned() } else { table.render() };
    for node in &nodes {
        let Some(fenced) = &node.fenced else { continue };
        text += &format!(
            "\nAnother node `{}` is kept out: it connects from {}, {} ago for the last time, and looks like a clone of \
             this one.\nStop it, remove the folder `node` of its home, and let it join with a name and a token of its \
             own: tulle node --name NAME --token TOKEN\n",
            node.name,
            fenced.peer,
            age(fenced.last_seen_seconds)
        );
    }

    for problem in nodes.iter().filter_map(|node| node.clock_problem.as_ref()) {
        text += &format!("{problem}: set the clocks right (NTP)\n");
    }

    let namespace = args.scope.namespace.as_deref();
    let mut table = Table::new(["NAMESPACE", "SERVICE", "PORTS", "ENDPOINTS"]);
    for service in services {
        let port = |p: &Value| {
            let number = p["port"].to_string();
            p["appProtocol"].as_str().map_or(number.clone(), |protocol| format!("{number}/{protocol}"))
        };
        let ports: Vec<_> = service["ports"].as_array().into_iter().flatten().map(port).collect();
        let (ready, all) =
            (service["ready"].as_u64().unwrap_or(0), service["endpoints"].as_u64().unwrap_or(0));
        table.row([
            service["namespace"].as_str().unwrap_or_default().into(),
            service["name"].as_str().unwrap_or_default().into(),
            ports.join(",").into(),
            match service["stale"].as_u64().unwrap_or(0) {
                0 => good(format!("{ready}/{all} ready"), ready > 0 && ready == all),
                stale => good(format!("{ready}/{all} ready, {stale} stale"), false),
            },
        ]);
    }
    if !table.is_empty() {
        text += &format!("\n{}", table.render());
    }

    let mut table = Table::new(["NAMESPACE", "WORKLOAD", "NODE", "STATE", "CERTIFICATE"]);
    for node in &nodes {
        for workload in node.workloads.iter().filter(|w| namespace.is_none_or(|n| n == w.namespace)) {
            let state = match (workload.ready, workload.reason.as_str()) {
                (true, _) => match workload.stale_seconds {
                    None => good("ready", true),
                    Some(since) => good(format!("ready, stale {}", age(since)), false),
                },
                (false, "") => good("not ready", false),
                (false, reason) => good(format!("not ready: {reason}"), false),
            };
            let certificate = match workload.certificate_expires_in_seconds {
                None => good("none yet", false),
                Some(seconds) if seconds <= 0 => good("expired", false),
                Some(seconds) => good(format!("{} left", age(seconds.unsigned_abs())), seconds > 300),
            };
            table.row([
                workload.namespace.clone().into(),
                workload.name.clone().into(),
                node.name.clone().into(),
                state,
                certificate,
            ]);
        }
    }
    if !table.is_empty() {
        text += &format!("\n{}", table.render());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_of_this_host_says_what_the_server_does_not_know() {
        let workload = |namespace: &str, name: &str, ready: bool, reason: &str| json!({ "namespace": namespace, "name": name, "ready": ready, "reason": reason });
        let node = |name: &str, link: &str| {
            let workloads = [workload("a", "c", true, ""), workload("b", "c", true, "")];
            json!({ "name": name, "linkAddress": link, "workloads": workloads })
        };
        let mut nodes = json!([node("n1", "10.0.0.1:1"), node("n1", "10.0.0.2:1"), node("n2", "10.0.0.1:1")]);
        let before = nodes.clone();
        let trouble = "its traffic is refused: no cgroup";
        let mut here = json!({
            "name": "n1", "version": "", "trustDomain": "", "captureMode": "host", "captureReason": "",
            "linkAddress": "10.0.0.1:1", "server": "", "connected": true, "configAgeSeconds": 0,
            "configGeneration": 1, "services": 0,
            "workloads": [workload("a", "c", false, trouble), workload("b", "c", true, "")],
        });
        for workload in here["workloads"].as_array_mut().unwrap() {
            let rest = json!({ "service": "c", "identity": "", "inFlight": 0, "owned": true });
            workload.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        }
        add_troubles(&mut nodes, &serde_json::from_value(here).unwrap());
        assert_eq!(
            nodes[0]["workloads"],
            json!([workload("a", "c", false, trouble), workload("b", "c", true, "")])
        );
        assert_eq!((&nodes[1], &nodes[2]), (&before[1], &before[2]));
    }
}
