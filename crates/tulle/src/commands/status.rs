//! `tulle status`: nodes, their workloads and certificates, services and their endpoints.

use anstyle::AnsiColor;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use tulle_model::registry::KindId;

use super::get::ScopeArgs;
use crate::client::{Client, ClientArgs, JSON, resource};
use crate::exit::{Failure, Result};
use crate::output::{Cell, ReportFormat, Table, age, print, print_json, print_yaml};

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
