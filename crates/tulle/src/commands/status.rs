//! `tulle status`: nodes, their workloads and certificates, services and their endpoints.

use std::time::Duration;

use anstyle::AnsiColor;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tulle_model::compile::standing::standings;
use tulle_model::kinds::mesh::MESH;
use tulle_model::legible::legible;
use tulle_model::name::ServiceName;
use tulle_model::registry::KindId;
use tulle_node::client::NodeClient;
use tulle_node::process_state::LastExit;
use tulle_node::status::NodeStatus;

use super::get::FilterArgs;
use crate::client::{Client, ClientArgs, JSON, resource};
use crate::exit::{Exit, Failure, Result};
use crate::output::{Cell, ReportFormat, Table, age, note_wrapped, print, print_json, print_yaml};
use crate::terminal;

/// How long the node of this host may take to say what it knows beyond what it has told the server.
const NODE_DEADLINE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    scope: FilterArgs,
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
    capture_problem: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
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

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Workload {
    namespace: String,
    name: String,
    ready: bool,
    reason: String,
    stale_seconds: Option<u64>,
    certificate_expires_in_seconds: Option<i64>,
    /// What the node of this host alone knows.
    restarts: Option<u32>,
    last_exit: Option<LastExit>,
    next_start_ms: Option<u64>,
    /// It is to come.
    waiting: bool,
}

pub async fn run(args: StatusArgs) -> Result<()> {
    let home = args.client.home.path()?;
    // None here, or another user's: what the server knows is all there is.
    let node = timeout(NODE_DEADLINE, NodeClient::new(&home).status()).await.ok().and_then(Result::ok);
    match (of_server(&args, node.as_ref()).await, node) {
        (Ok(view), _) => show(&args, view),
        (Err(failure), Some(node)) if failure.exit == Exit::Unreachable && !args.client.names_another() => {
            show(&args, of_node(&node))?;
            let said = "this is what the node of this host knows";
            if home.join("kubeconfig").exists() {
                note_wrapped(&format!("{said}:"), 2);
                return Err(failure);
            }
            // A node's host has no kubeconfig, and its node is all that it is asked for.
            note_wrapped(
                &format!("{said}; what the server knows: --kubeconfig FILE, with a copy of the server's"),
                2,
            );
            Ok(())
        }
        (Err(failure), _) => Err(failure),
    }
}

/// What the server knows, with what the node of this host alone knows.
async fn of_server(args: &StatusArgs, here: Option<&NodeStatus>) -> Result<Value> {
    let client = args.client.client()?;
    let mut view = client.get("/tulle/v1alpha1/nodes", JSON).await?;
    let services = services(args, &client).await?;
    if let Some(here) = here {
        add_own(&mut view["nodes"], here);
    }
    let mesh = client.get("/apis/tulle.dev/v1alpha1/meshes/default", JSON).await?;
    add_unseen(&mut view["nodes"], &mesh);
    let namespace = args.scope.namespace.as_deref();
    let is_there = |value: &Value| namespace.is_none_or(|namespace| value["namespace"] == *namespace);
    let of_nodes = view["nodes"].as_array().into_iter().flatten();
    let mut workloads = of_nodes.flat_map(|node| node["workloads"].as_array().into_iter().flatten());
    if let Some(namespace) = namespace
        && services.is_empty()
        && !workloads.any(is_there)
    {
        client.require_namespace(namespace).await?;
    }
    Ok(json!({ "nodes": view["nodes"], "services": services, "problems": view["problems"] }))
}

/// The same view where there is no server: one node.
fn of_node(here: &NodeStatus) -> Value {
    let now = jiff::Timestamp::now().as_second();
    let mut nodes = json!([{
        "name": here.name,
        "linkAddress": here.link_address,
        "version": here.version,
        "captureMode": here.capture_mode,
        "connected": here.connected,
        "lastSeenSeconds": here.config_age_seconds,
        "configAgeSeconds": here.config_age_seconds,
        "configGeneration": here.config_generation,
        "workloads": here.workloads.iter().map(|known| json!({
            "namespace": known.namespace,
            "name": known.name,
            "certificateExpiresInSeconds": known.certificate_not_after.map(|end| end - now),
        })).collect::<Vec<_>>(),
    }]);
    add_own(&mut nodes, here);
    json!({ "nodes": nodes, "services": [], "problems": [] })
}

fn show(args: &StatusArgs, mut view: Value) -> Result<()> {
    match args.output {
        ReportFormat::Json => print_json(&view),
        ReportFormat::Yaml => print_yaml(&view),
        ReportFormat::Table | ReportFormat::Wide => {
            let problems = view["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for problem in problems {
                note_wrapped(&format!("the server: {}", legible(problem)), 2);
            }
            let nodes = serde_json::from_value(view["nodes"].take()).map_err(|e| {
                Failure::new(format!("the server's answer is not understood: {e}"))
                    .help("is it of another version?")
            })?;
            let services = view["services"].as_array().cloned().unwrap_or_default();
            let now = jiff::Timestamp::now().as_millisecond();
            print(&render(args, nodes, &services, u64::try_from(now).unwrap_or(0)))
        }
    }
}

/// Says of which nodes the Mesh asks for more than their capture can see.
fn add_unseen(nodes: &mut Value, mesh: &Value) {
    let (what, field) = if is_strict(&mesh["spec"]["mtls"]) {
        ("strict is not enforced: what comes to its workloads past the mesh enters", "spec.mtls")
    } else if mesh["spec"]["inboundCapture"]["enabled"] == true {
        ("connections that come to its workloads past the mesh are not seen", "spec.inboundCapture.enabled")
    } else {
        return;
    };
    for node in nodes.as_array_mut().into_iter().flatten().filter(|node| node["captureMode"] == "explicit") {
        let problem = format!(
            "{}: {what}, though Mesh/{MESH} {field} asks for more: its capture is explicit",
            node["name"].as_str().unwrap_or_default()
        );
        node["captureProblem"] = problem.into();
    }
}

/// Whether what comes in plain is refused somewhere.
fn is_strict(mtls: &Value) -> bool {
    let is_strict = |of: &Value| {
        let ports = of["ports"].as_array().into_iter().flatten();
        of["mode"] == "Strict" || ports.clone().any(|port| port["mode"] == "Strict")
    };
    is_strict(mtls) || mtls["namespaces"].as_array().into_iter().flatten().any(is_strict)
}

/// Adds what only the node itself knows: what becomes of its processes, what their probes say, why workloads of it can
/// do nothing that it has told the server to be ready, and which are to come.
fn add_own(nodes: &mut Value, here: &NodeStatus) {
    let nodes = nodes.as_array_mut().into_iter().flatten();
    // Another mesh may have a node of this name.
    let same = |node: &&mut Value| node["name"] == *here.name && node["linkAddress"] == *here.link_address;
    for node in nodes.filter(same) {
        if !here.warnings.is_empty() {
            node["warnings"] = json!(here.warnings);
        }
        if !node["workloads"].is_array() {
            node["workloads"] = json!([]);
        }
        let Some(workloads) = node["workloads"].as_array_mut() else { continue };
        for known in &here.workloads {
            let is_known = |w: &&mut Value| w["namespace"] == *known.namespace && w["name"] == *known.name;
            let workload = match workloads.iter_mut().find(is_known) {
                Some(workload) => workload,
                None => {
                    // The server has not heard of it yet.
                    workloads.push(json!({ "namespace": known.namespace, "name": known.name }));
                    let Some(workload) = workloads.last_mut() else { continue };
                    workload
                }
            };
            // It takes traffic where both say so: the server alone knows that a node is drained, the node alone what its
            // host does not let it do.
            let refused = workload["ready"] == false;
            workload["ready"] = json!(known.ready && !refused);
            let explained = workload["reason"].as_str().is_some_and(|reason| !reason.is_empty());
            let theirs = explained && (known.reason.is_empty() || refused && known.ready);
            if !theirs {
                workload["reason"] = json!(known.reason);
            }
            workload["restarts"] = json!(known.restarts);
            if let Some(exit) = &known.last_exit {
                workload["lastExit"] = json!(exit);
            }
            if let Some(next) = known.next_start_ms {
                workload["nextStartMs"] = json!(next);
            }
        }
        for to_come in &here.waiting {
            let (namespace, name, reason) = (&to_come.namespace, &to_come.name, &to_come.reason);
            let is_known = workloads.iter().any(|w| w["namespace"] == **namespace && w["name"] == **name);
            if !is_known {
                workloads.push(json!({
                    "namespace": namespace, "name": name, "ready": false, "reason": reason, "waiting": true,
                }));
            }
        }
    }
}

/// Every service with its ports, how many of its endpoints are ready, and which ports none of them has.
async fn services(args: &StatusArgs, client: &Client) -> Result<Vec<Value>> {
    let namespace = args.scope.namespace.as_deref();
    let list = |id: KindId| {
        let path = resource(id.kind(), namespace, None);
        async move { client.get(&path, JSON).await }
    };
    let (services, workloads, slices) =
        (list(KindId::Service).await?, list(KindId::Workload).await?, list(KindId::EndpointSlice).await?);
    let items = |mut list: Value| match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    Ok(stand(items(services), items(workloads), items(slices)))
}

fn stand(services: Vec<Value>, workloads: Vec<Value>, slices: Vec<Value>) -> Vec<Value> {
    let of_kind = |id: KindId| move |object: Value| (id, object);
    let objects = workloads.into_iter().map(of_kind(KindId::Workload));
    let objects = objects.chain(slices.into_iter().map(of_kind(KindId::EndpointSlice)));
    let mut standings = standings(objects.chain(services.iter().cloned().map(of_kind(KindId::Service))));
    let service = |service: &Value| {
        let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
        let standing =
            standings.remove(&ServiceName::new(text("namespace"), text("name"))).unwrap_or_default();
        json!({
            "namespace": service["metadata"]["namespace"],
            "name": service["metadata"]["name"],
            "ports": service["spec"]["ports"],
            "ready": standing.ready(),
            "endpoints": standing.endpoints.len(),
            "stale": standing.stale(),
            "problems": standing.unoffered,
        })
    };
    services.iter().map(service).collect()
}

fn good(text: impl Into<String>, good: bool) -> Cell {
    let color = if good { AnsiColor::Green } else { AnsiColor::Red };
    Cell::styled(text, color.on_default())
}

fn render(args: &StatusArgs, nodes: Vec<Node>, services: &[Value], now_ms: u64) -> String {
    let wide = args.output == ReportFormat::Wide;
    let room = if wide { None } else { terminal::width(std::io::stdout()) };
    let namespace = args.scope.namespace.as_deref();
    let mut text = match nodes.is_empty() {
        true => "No node has joined\n".to_owned(),
        false => node_table(&nodes, wide).render(),
    };
    for node in &nodes {
        let Some(fenced) = &node.fenced else { continue };
        let kept_out = format!(
            "Another node `{}` is kept out: it connects from {}, {} ago for the last time, and looks like a clone of \
             this one. Stop it, remove the folder `node` of its home, and let it join with a name and a token of its \
             own: `tulle node --name NAME --token TOKEN`",
            node.name,
            fenced.peer,
            age(fenced.last_seen_seconds)
        );
        text += &format!("\n{}\n", terminal::wrap(&legible(&kept_out), room, 0));
    }
    for problem in nodes.iter().filter_map(|node| node.clock_problem.as_ref()) {
        let sentence = format!("{}: set the clocks right (NTP)", legible(problem));
        text += &format!("{}\n", terminal::wrap(&sentence, room, 2));
    }
    for problem in nodes.iter().filter_map(|node| node.capture_problem.as_ref()) {
        text += &format!("{}\n", terminal::wrap(&legible(problem), room, 2));
    }
    for warning in nodes.iter().flat_map(|node| &node.warnings) {
        text += &format!("{}\n", terminal::wrap(&legible(warning), room, 2));
    }
    let mut table = service_table(services, wide);
    if !table.is_empty() {
        text += &format!("\n{}", table.render());
    }
    let problems = services.iter().flat_map(|service| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = format!("{}/{}", text(&service["namespace"]), text(&service["name"]));
        let problems = service["problems"].as_array().into_iter().flatten();
        problems.map(move |problem| format!("{name}: {}", text(problem)))
    });
    let problems: Vec<_> = problems.map(|problem| terminal::wrap(&legible(&problem), room, 2)).collect();
    if !problems.is_empty() {
        text += &format!("\n{}\n", problems.join("\n"));
    }
    let workloads = nodes.iter().flat_map(|node| node.workloads.iter().map(move |w| (node, w)));
    let workloads: Vec<_> =
        workloads.filter(|(_, w)| namespace.is_none_or(|namespace| namespace == w.namespace)).collect();
    if workloads.is_empty() {
        return text;
    }
    let several = wide || nodes.len() > 1;
    text += &format!("\n{}", workload_table(&workloads, several, wide, now_ms).render());
    let reasons = workloads.iter().filter_map(|(_, workload)| reason(workload, now_ms));
    let reasons: Vec<_> = reasons.map(|reason| terminal::wrap(&reason, room, 2)).collect();
    if !reasons.is_empty() {
        text += &format!("\n{}\n", reasons.join("\n"));
    }
    text
}

fn table<'a>(header: impl IntoIterator<Item = &'a str>, wide: bool) -> Table {
    let table = Table::new(header);
    if wide { table.whole() } else { table }
}

fn node_table(nodes: &[Node], wide: bool) -> Table {
    let version = wide.then_some("VERSION");
    let header = ["NODE", "STATE", "WORKLOADS", "CONFIG", "CAPTURE", "LINKS"];
    let mut table = table(header.into_iter().chain(version), wide);
    for node in nodes {
        let state = match node.connected {
            true => good("connected", true),
            false => good(format!("lost {} ago", age(node.last_seen_seconds)), false),
        };
        let ready = node.workloads.iter().filter(|w| w.ready).count();
        let config = match (node.config_generation, node.config_age_seconds) {
            (Some(generation), Some(seconds)) => format!("#{generation}, {} old", age(seconds)),
            _ => "-".to_owned(),
        };
        let version = wide.then(|| Cell::from(node.version.clone()));
        let row = [
            node.name.clone().into(),
            state,
            good(format!("{ready}/{} ready", node.workloads.len()), ready == node.workloads.len()),
            config.into(),
            node.capture_mode.clone().into(),
            node.link_address.clone().into(),
        ];
        table.row(row.into_iter().chain(version));
    }
    table
}

fn service_table(services: &[Value], wide: bool) -> Table {
    let mut table = table(["NAMESPACE", "SERVICE", "PORTS", "ENDPOINTS"], wide);
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
                0 => {
                    let whole = service["problems"].as_array().is_none_or(Vec::is_empty);
                    good(format!("{ready}/{all} ready"), ready > 0 && ready == all && whole)
                }
                stale => good(format!("{ready}/{all} ready, {stale} stale"), false),
            },
        ]);
    }
    table
}

/// `several`: it says of which node each is.
fn workload_table(workloads: &[(&Node, &Workload)], several: bool, wide: bool, now_ms: u64) -> Table {
    // Of processes of other hosts nothing is known.
    let processes = workloads.iter().any(|(_, workload)| workload.restarts.is_some());
    let node_column = several.then_some("NODE");
    let columns = if processes { &["RESTARTS", "LAST EXIT"][..] } else { &[] };
    let header = ["NAMESPACE", "WORKLOAD"].into_iter().chain(node_column).chain(["STATE"]);
    let mut table = table(header.chain(columns.iter().copied()).chain(["CERTIFICATE"]), wide);
    for (node, workload) in workloads {
        let state = match (workload.ready, workload.stale_seconds) {
            (true, None) => good("ready", true),
            (true, Some(since)) => good(format!("ready, stale {}", age(since)), false),
            (false, _) if workload.waiting => good("waiting", false),
            (false, _) if workload.next_start_ms.is_some() => good("restarting", false),
            (false, _) => good("not ready", false),
        };
        let certificate = match workload.certificate_expires_in_seconds {
            None if workload.waiting => "-".into(),
            None => good("none yet", false),
            Some(seconds) if seconds <= 0 => good("expired", false),
            Some(seconds) => good(format!("{} left", age(seconds.unsigned_abs())), seconds > 300),
        };
        let mut row: Vec<Cell> = vec![workload.namespace.clone().into(), workload.name.clone().into()];
        row.extend(several.then(|| node.name.clone().into()));
        row.push(state);
        if processes {
            let exit = workload.last_exit.as_ref().map(|exit| {
                let ago = now_ms.saturating_sub(exit.finished_at_ms) / 1000;
                format!("{}, {} ago", exit.short(), age(ago))
            });
            row.push(workload.restarts.map_or("-".to_owned(), |restarts| restarts.to_string()).into());
            row.push(exit.unwrap_or_else(|| "-".to_owned()).into());
        }
        row.push(certificate);
        table.row(row);
    }
    table
}

/// Why a workload is not ready, or may soon not be, in one sentence.
fn reason(workload: &Workload, now_ms: u64) -> Option<String> {
    if workload.reason.is_empty() {
        return None;
    }
    let next = match workload.next_start_ms {
        Some(next) => format!("; it starts again in {}", age(next.saturating_sub(now_ms).div_ceil(1000))),
        None => String::new(),
    };
    let sentence = format!("{}/{}: {}{next}", workload.namespace, workload.name, workload.reason);
    Some(legible(&sentence).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line;

    #[test]
    fn a_node_that_cannot_see_what_is_asked_for_is_named() {
        let unseen = |mesh: Value| {
            let mut nodes =
                json!([{ "name": "n1", "captureMode": "host" }, { "name": "n2", "captureMode": "explicit" }]);
            add_unseen(&mut nodes, &mesh);
            let text = |node: &Value| node["captureProblem"].as_str().map(str::to_owned);
            nodes.as_array().unwrap().iter().map(text).collect::<Vec<_>>()
        };
        let found = unseen(json!({ "spec": { "inboundCapture": { "enabled": true } } }));
        assert_eq!(found[0], None);
        assert!(
            found[1]
                .as_ref()
                .unwrap()
                .starts_with("n2: connections that come to its workloads past the mesh are not")
        );
        assert_eq!(unseen(json!({ "spec": { "inboundCapture": {} } })), [None, None]);
        let permissive = json!({ "mode": "Permissive", "ports": [{ "port": 1, "mode": "Permissive" }] });
        assert_eq!(unseen(json!({ "spec": { "mtls": permissive } })), [None, None]);
        for mtls in [
            json!({ "mode": "Strict" }),
            json!({ "ports": [{ "port": 80, "mode": "Strict" }] }),
            json!({ "namespaces": [{ "name": "shop", "mode": "Strict" }] }),
            json!({ "namespaces": [{ "name": "shop", "ports": [{ "port": 80, "mode": "Strict" }] }] }),
        ] {
            let [none, said] = unseen(json!({ "spec": { "mtls": mtls } })).try_into().unwrap();
            assert_eq!(none, None);
            assert!(said.unwrap().starts_with("n2: strict is not enforced: "));
        }
    }

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
        here["workloads"][1].as_object_mut().unwrap().extend(
            json!({ "restarts": 2, "lastExit": { "exitCode": 1, "finishedAtMs": 5000 } })
                .as_object()
                .unwrap()
                .clone(),
        );
        here["waiting"] = json!([{ "namespace": "b", "name": "d", "reason": "waits for c" }]);
        add_own(&mut nodes, &serde_json::from_value(here).unwrap());
        let found = &nodes[0]["workloads"];
        assert_eq!((&found[0]["ready"], &found[0]["reason"]), (&json!(false), &json!(trouble)));
        assert_eq!((&found[1]["ready"], &found[1]["restarts"]), (&json!(true), &json!(2)));
        assert_eq!(
            found[2],
            json!({
                "namespace": "b", "name": "d", "ready": false, "reason": "waits for c", "waiting": true,
            })
        );
        assert_eq!((&nodes[1], &nodes[2]), (&before[1], &before[2]));
    }

    /// Who knows what of a workload, and what is shown.
    #[test]
    fn ready_is_what_node_and_server_say_both() {
        let drained = "its node is drained";
        for (server, node, shown) in [
            ((true, ""), (true, ""), (true, "")),
            ((false, drained), (true, ""), (false, drained)),
            ((false, drained), (true, "its probe fails (1 of 3)"), (false, drained)),
            ((false, drained), (false, "its probe fails"), (false, "its probe fails")),
            ((false, drained), (false, ""), (false, drained)),
            ((true, ""), (false, "no cgroup"), (false, "no cgroup")),
            ((true, ""), (true, "its probe fails (1 of 3)"), (true, "its probe fails (1 of 3)")),
            ((false, ""), (true, ""), (false, "")),
        ] {
            let mut nodes = json!([{ "name": "n", "linkAddress": "a:1", "workloads": [
                { "namespace": "a", "name": "c", "ready": server.0, "reason": server.1 },
            ] }]);
            let here = json!({
                "name": "n", "version": "", "trustDomain": "", "captureMode": "", "captureReason": "",
                "linkAddress": "a:1", "server": "", "connected": true, "configAgeSeconds": 0, "configGeneration": 1,
                "services": 0, "workloads": [{
                    "namespace": "a", "name": "c", "ready": node.0, "reason": node.1, "service": "c", "identity": "",
                    "inFlight": 0, "owned": true,
                }],
            });
            add_own(&mut nodes, &serde_json::from_value(here).unwrap());
            let found = &nodes[0]["workloads"][0];
            assert_eq!(
                (&found["ready"], &found["reason"]),
                (&json!(shown.0), &json!(shown.1)),
                "{server:?} {node:?}"
            );
        }
    }

    #[test]
    fn services_say_which_ports_nobody_has() {
        let metadata = json!({ "namespace": "shop", "name": "c", "labels": { "app": "c" } });
        let service = json!({
            "metadata": metadata,
            "spec": { "selector": { "app": "c" }, "ports": [{ "name": "http", "port": 80, "targetPort": 4444 }] },
        });
        let workload =
            json!({ "metadata": metadata, "spec": { "address": "192.0.2.1", "ports": [{ "port": 8080 }] } });
        let services = stand(vec![service], vec![workload], Vec::new());
        assert_eq!((&services[0]["ready"], &services[0]["endpoints"]), (&json!(0), &json!(1)));
        let args: StatusArgs = command_line::read(&[]).unwrap();
        let text = anstream::adapter::strip_str(&render(&args, Vec::new(), &services, 0)).to_string();
        let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("NAMESPACE")).collect();
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["shop", "c", "80", "0/1", "ready"]);
        assert_eq!(lines[2..], ["", "shop/c: port http: no workload has a port 4444 (they have 8080)"]);
    }

    #[test]
    fn what_waits_says_why() {
        let nodes: Vec<Node> = serde_json::from_value(json!([{
            "name": "local", "connected": true, "captureMode": "host", "linkAddress": "127.0.0.1:15008",
            "configGeneration": 12, "configAgeSeconds": 0, "workloads": [
                { "namespace": "shop", "name": "api", "ready": false, "restarts": 3,
                  "reason": "its process is not running: it ended with code 1",
                  "lastExit": { "exitCode": 1, "finishedAtMs": 8000 }, "nextStartMs": 12500,
                  "certificateExpiresInSeconds": 3540 },
                { "namespace": "shop", "name": "db", "ready": true, "restarts": 0,
                  "reason": "its probe fails (1 of 3): `check` ended with code 2: no disk",
                  "certificateExpiresInSeconds": 3540 },
                { "namespace": "shop", "name": "web", "ready": false, "waiting": true,
                  "reason": "waits for api (its process is not running: it ended with code 1)" },
            ],
        }]))
        .unwrap();
        let args: StatusArgs = command_line::read(&[]).unwrap();
        let text = render(&args, nodes, &[], 10_000);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
        assert!(text.lines().all(|line| line.contains('/') || terminal::columns(line) <= 80), "{text}");
    }
}
