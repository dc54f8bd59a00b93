//! `tulle edges`: who calls whom.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anstyle::AnsiColor;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::get::FilterArgs;
use crate::client::{Client, ClientArgs, JSON};
use crate::exit::{Failure, Result};
use crate::output::{Cell, ReportFormat, Table, print, print_json, print_yaml};
use crate::watching::{Showing, WatchArgs};

#[derive(Debug, Args)]
pub struct EdgesArgs {
    #[command(flatten)]
    scope: FilterArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edge {
    source: Name,
    destination: Name,
    protocol: String,
    security: String,
    requests_per_second: f64,
    requests: u64,
    /// Of these, what the mesh did not serve for what the caller sent, asked for or had used up. An older server
    /// does not say.
    #[serde(default)]
    refused: u64,
    /// 0 to 1; nothing where there was no request, but such.
    success_rate: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    bytes_sent: u64,
    bytes_received: u64,
    /// Of what comes from outside of the mesh: from where it came lately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Name {
    namespace: String,
    name: String,
}

pub async fn run(args: EdgesArgs) -> Result<()> {
    let client = args.client.client()?;
    if args.watch.watch {
        let look = async || {
            let view = find(&args, &client).await?;
            Showing::of(args.output, &view, || render(&args, view.clone()))
        };
        return args.watch.run(args.output, look).await;
    }
    let view = find(&args, &client).await?;
    match args.output {
        ReportFormat::Json => print_json(&view),
        ReportFormat::Yaml => print_yaml(&view),
        ReportFormat::Table | ReportFormat::Wide => print(&render(&args, view)?),
    }
}

async fn find(args: &EdgesArgs, client: &Client) -> Result<Value> {
    let view = client.get("/tulle/v1alpha1/edges", JSON).await?;
    if let Some(namespace) = &args.scope.namespace
        && !has_edges(&view, namespace)
    {
        client.require_namespace(namespace).await?;
    }
    Ok(view)
}

fn has_edges(view: &Value, namespace: &str) -> bool {
    let edges = view["edges"].as_array().into_iter().flatten();
    edges
        .into_iter()
        .any(|e| e["source"]["namespace"] == *namespace || e["destination"]["namespace"] == *namespace)
}

fn render(args: &EdgesArgs, mut view: Value) -> Result<String> {
    let edges: Vec<Edge> = serde_json::from_value(view["edges"].take()).map_err(|e| {
        Failure::new(format!("the server's answer is not understood: {e}")).help("is it of another version?")
    })?;
    let namespace = args.scope.namespace.as_deref();
    let mut edges: Vec<_> = edges
        .into_iter()
        .filter(|e| namespace.is_none_or(|n| e.source.namespace == n || e.destination.namespace == n))
        .collect();
    if edges.is_empty() {
        return Ok("No traffic in the last minute\n".to_owned());
    }
    let key = |e: &Edge| (e.source.namespace.clone(), e.source.name.clone(), e.destination.name.clone());
    edges.sort_by_key(key);
    // A namespace is worth its place only where there are several.
    let several = have_several_namespaces(&edges);
    let name = |n: &Name| match n.namespace.as_str() {
        namespace if several && !namespace.is_empty() => format!("{namespace}/{}", n.name),
        _ => n.name.clone(),
    };
    let wide = args.output == ReportFormat::Wide;
    let mut header = vec!["SOURCE", "DESTINATION", "PROTOCOL", "SECURITY", "RATE", "SUCCESS", "P50", "P99"];
    let refused = wide || edges.iter().any(|edge| edge.refused > 0);
    if refused {
        header.push("REFUSED");
    }
    if wide {
        header.extend(["REQUESTS", "SENT", "RECEIVED"]);
    }
    let mut table = Table::new(header);
    if wide {
        table = table.whole();
    }
    for edge in &edges {
        let mut row: Vec<Cell> = vec![
            source(edge, name(&edge.source), wide).into(),
            name(&edge.destination).into(),
            edge.protocol.clone().into(),
            security(&edge.security),
            format!("{:.1}/s", edge.requests_per_second).into(),
            success(edge.success_rate),
            latency(edge.p50_ms).into(),
            latency(edge.p99_ms).into(),
        ];
        if refused {
            row.push(match edge.refused {
                0 => "0".into(),
                count => Cell::styled(count.to_string(), AnsiColor::Yellow.on_default()),
            });
        }
        if wide {
            row.extend([
                edge.requests.to_string().into(),
                bytes(edge.bytes_sent).into(),
                bytes(edge.bytes_received).into(),
            ]);
        }
        table.row(row);
    }
    Ok(table.render())
}

/// Who is outside of the mesh is told by its address.
fn source(edge: &Edge, name: String, wide: bool) -> String {
    let shown: Vec<_> = edge.addresses.iter().map(ToString::to_string).collect();
    match shown.as_slice() {
        [] => name,
        [first, _, ..] if !wide => format!("{name} ({first}, …)"),
        all => format!("{name} ({})", all.join(", ")),
    }
}

fn security(text: &str) -> Cell {
    let style = match text {
        "plaintext" => AnsiColor::Yellow.on_default(),
        "-" => return text.into(),
        _ => AnsiColor::Green.on_default(),
    };
    Cell::styled(text, style)
}

pub fn success(rate: Option<f64>) -> Cell {
    let Some(rate) = rate else { return "-".into() };
    let style = match rate {
        r if r >= 1.0 => AnsiColor::Green.on_default(),
        r if r >= 0.95 => AnsiColor::Yellow.on_default(),
        _ => AnsiColor::Red.on_default(),
    };
    Cell::styled(success_text(rate), style)
}

/// 100 % is said only where it is true.
fn success_text(rate: f64) -> String {
    match rate {
        r if r >= 1.0 => "100%".to_owned(),
        r => format!("{:.2}%", (r * 10000.0).floor() / 100.0),
    }
}

pub fn latency(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.2}ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.1}s", ms / 1000.0),
    }
}

fn bytes(count: u64) -> String {
    match count {
        n if n < 10 << 10 => format!("{n}B"),
        n if n < 10 << 20 => format!("{}KiB", n >> 10),
        n => format!("{}MiB", n >> 20),
    }
}

/// What is no part of the mesh has no namespace.
fn have_several_namespaces(edges: &[Edge]) -> bool {
    let names = edges.iter().flat_map(|edge| [&edge.source, &edge.destination]);
    let namespaces: BTreeSet<_> = names.map(|name| &name.namespace).filter(|name| !name.is_empty()).collect();
    namespaces.len() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outside_is_no_namespace() {
        let edges = |destinations: &[(&str, &str)]| -> Vec<Edge> {
            let edge = |(namespace, name): &(&str, &str)| {
                serde_json::json!({
                    "source": { "namespace": "default", "name": "a" },
                    "destination": { "namespace": namespace, "name": name },
                    "protocol": "tcp", "security": "-", "requestsPerSecond": 1.0, "requests": 1,
                    "bytesSent": 0, "bytesReceived": 0,
                })
            };
            destinations.iter().map(|names| serde_json::from_value(edge(names)).unwrap()).collect()
        };
        assert!(!have_several_namespaces(&edges(&[("default", "c"), ("", "external")])));
        assert!(have_several_namespaces(&edges(&[("default", "c"), ("shop", "c")])));
    }

    #[test]
    fn success_is_never_rounded_up() {
        assert_eq!(success_text(0.99999), "99.99%");
        assert_eq!(success_text(1.0), "100%");
        assert_eq!(latency(Some(1.234)), "1.23ms");
    }
}
