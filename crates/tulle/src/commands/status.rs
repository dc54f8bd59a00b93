//! `tulle status`: nodes, their workloads and certificates, services and their endpoints.

mod report;
mod unwell;

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::timeout;
use tulle_model::compile::standing::standings;
use tulle_model::kinds::mesh::MESH;
use tulle_model::name::ServiceName;
use tulle_model::registry::KindId;
use tulle_node::client::NodeClient;
use tulle_node::status::NodeStatus;

use self::report::View;
use super::get::FilterArgs;
use super::services::now_ms;
use crate::client::{Client, ClientArgs, JSON, resource};
use crate::exit::{Exit, Failure, Result};
use crate::output::{ReportFormat, note_wrapped, print, print_json, print_yaml};
use crate::terminal;
use crate::up::UpClient;
use crate::up::control::UpStatus;
use crate::up::standing::State;
use crate::watching::{Showing, WatchArgs};

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
    watch: WatchArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// What there is to show.
struct Seen {
    view: Value,
    /// What is said beside it, and why it is not all.
    aside: Option<&'static str>,
    failure: Option<Failure>,
}

pub async fn run(args: StatusArgs) -> Result<()> {
    if args.watch.watch {
        return args.watch.run(args.output, async || find(&args).await?.shown(&args)).await;
    }
    let found = find(&args).await?;
    match args.output {
        ReportFormat::Json => print_json(&found.view),
        ReportFormat::Yaml => print_yaml(&found.view),
        ReportFormat::Table | ReportFormat::Wide => print(&text(&args, &found.view)?),
    }?;
    if let Some(aside) = found.aside {
        note_wrapped(aside, 2);
    }
    found.failure.map_or(Ok(()), Err)
}

async fn find(args: &StatusArgs) -> Result<Seen> {
    let home = args.client.home.path()?;
    // None here, or another user's: what the server knows is all there is.
    let (node, up) = (NodeClient::new(&home), UpClient::new(&home));
    let (node, up) = tokio::join!(timeout(NODE_DEADLINE, node.status()), up.status_aside());
    let node = node.ok().and_then(Result::ok);
    match (of_server(args, node.as_ref(), up.as_ref()).await, node) {
        (Ok(view), _) => Ok(Seen { view, aside: None, failure: None }),
        (Err(failure), Some(node)) if failure.exit == Exit::Unreachable && !args.client.names_another() => {
            let view = of_node(&node, up.as_ref());
            Ok(match home.join("kubeconfig").exists() {
                true => {
                    let aside = Some("this is what the node of this host knows:");
                    Seen { view, aside, failure: Some(failure) }
                }
                // A node's host has no kubeconfig, and its node is all that it is asked for.
                false => {
                    let aside = "this is what the node of this host knows; what the server knows: --kubeconfig FILE, \
                                 with a copy of the server's";
                    Seen { view, aside: Some(aside), failure: None }
                }
            })
        }
        (Err(failure), _) => Err(failure),
    }
}

impl Seen {
    /// The same, with all that is said about it.
    fn shown(&self, args: &StatusArgs) -> Result<Showing> {
        let room = terminal::width(std::io::stdout());
        let mut shown = Showing::of(args.output, &self.view, || {
            let mut said = text(args, &self.view)?;
            if let Some(aside) = self.aside {
                said += &format!("\n{}\n", terminal::wrap(aside, room, 2));
            }
            if let Some(failure) = &self.failure {
                said += &format!("{}\n", failure.rendered(room));
            }
            Ok(said)
        })?;
        let failure = self.failure.as_ref().map(ToString::to_string);
        shown.key = json!([shown.key, self.aside, failure]);
        Ok(shown)
    }
}

fn text(args: &StatusArgs, view: &Value) -> Result<String> {
    let view: View = serde_json::from_value(view.clone()).map_err(|e| {
        Failure::new(format!("the server's answer is not understood: {e}")).help("is it of another version?")
    })?;
    let wide = args.output == ReportFormat::Wide;
    let room = if wide { None } else { terminal::width(std::io::stdout()) };
    Ok(report::render(&view, args.scope.namespace.as_deref(), wide, now_ms(), room))
}

/// What the server knows, with what the node of this host alone knows.
async fn of_server(args: &StatusArgs, here: Option<&NodeStatus>, up: Option<&UpStatus>) -> Result<Value> {
    let client = args.client.client()?;
    let mut view = client.get("/tulle/v1alpha1/nodes", JSON).await?;
    let services = services(args, &client).await?;
    if let Some(here) = here {
        add_own(&mut view["nodes"], here, up);
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
    Ok(json!({ "nodes": view["nodes"], "services": services, "problems": items(view["problems"].take()) }))
}

/// The same view where there is no server: one node.
fn of_node(here: &NodeStatus, up: Option<&UpStatus>) -> Value {
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
    add_own(&mut nodes, here, up);
    json!({ "nodes": nodes, "services": [], "problems": [] })
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
/// do nothing that it has told the server to be ready, and which are to come; and what the `tulle up` that it is part of
/// knows of them.
fn add_own(nodes: &mut Value, here: &NodeStatus, up: Option<&UpStatus>) {
    let nodes = nodes.as_array_mut().into_iter().flatten();
    // Another mesh may have a node of this name.
    let same = |node: &&mut Value| node["name"] == *here.name && node["linkAddress"] == *here.link_address;
    for node in nodes.filter(same) {
        if !here.warnings.is_empty() {
            node["warnings"] = json!(here.warnings);
        }
        if !here.notes.is_empty() {
            node["notes"] = json!(here.notes);
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
        if let Some(up) = up {
            add_processes(workloads, up);
        }
    }
}

/// Adds of which service each is and what it said at last, and those that run no more, or not yet.
fn add_processes(workloads: &mut Vec<Value>, up: &UpStatus) {
    for process in &up.processes {
        let (namespace, name) = (&up.namespace, &process.name);
        let is_it = |w: &&mut Value| w["namespace"] == **namespace && w["name"] == **name;
        let is_over = matches!(process.state, State::Stopped | State::Completed | State::Failed);
        let workload = match workloads.iter_mut().find(is_it) {
            Some(workload) => workload,
            None if process.state == State::Ready => continue,
            None => {
                workloads.push(json!({
                    "namespace": namespace, "name": name, "ready": false, "reason": process.reason,
                    "restarts": process.restarts,
                }));
                let Some(workload) = workloads.last_mut() else { continue };
                workload
            }
        };
        workload["service"] = json!(process.service);
        if !process.last_lines.is_empty() {
            workload["lastLines"] = json!(process.last_lines);
        }
        if is_over {
            workload["state"] = json!(process.state);
            workload["lastExit"] = json!(process.last_exit);
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
    let of = |mut list: Value| items(list["items"].take());
    Ok(stand(of(services), of(workloads), of(slices)))
}

fn items(list: Value) -> Vec<Value> {
    match list {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
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
        let unready = standing.endpoints.iter().filter(|endpoint| !endpoint.takes());
        let unready = unready.filter_map(|endpoint| endpoint.workload.as_deref());
        json!({
            "namespace": service["metadata"]["namespace"],
            "name": service["metadata"]["name"],
            "ports": items(service["spec"]["ports"].clone()),
            "selector": service["spec"]["selector"],
            "ready": standing.ready(),
            "endpoints": standing.endpoints.len(),
            "stale": standing.stale(),
            "unready": unready.collect::<Vec<_>>(),
            "problems": standing.unoffered,
        })
    };
    services.iter().map(service).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        add_own(&mut nodes, &serde_json::from_value(here).unwrap(), None);
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
            add_own(&mut nodes, &serde_json::from_value(here).unwrap(), None);
            let found = &nodes[0]["workloads"][0];
            assert_eq!(
                (&found["ready"], &found["reason"]),
                (&json!(shown.0), &json!(shown.1)),
                "{server:?} {node:?}"
            );
        }
    }

    #[test]
    fn services_say_what_they_have() {
        let metadata = json!({ "namespace": "shop", "name": "c", "labels": { "app": "c" } });
        let service = json!({
            "metadata": metadata,
            "spec": { "selector": { "app": "c" }, "ports": [{ "name": "http", "port": 80, "targetPort": 4444 }] },
        });
        let workload =
            json!({ "metadata": metadata, "spec": { "address": "192.0.2.1", "ports": [{ "port": 8080 }] } });
        let services = stand(vec![service], vec![workload], Vec::new());
        assert_eq!((&services[0]["ready"], &services[0]["endpoints"]), (&json!(0), &json!(1)));
        assert_eq!(
            services[0]["problems"],
            json!(["port http: no workload has a port 4444 (they have 8080)"])
        );
        assert_eq!((&services[0]["unready"], &services[0]["selector"]["app"]), (&json!(["c"]), &json!("c")));
    }

    /// What `tulle up` knows, and nobody else.
    #[test]
    fn processes_are_of_services() {
        let process = |name: &str, state: &str, lines: &[&str]| {
            json!({ "service": name, "name": name, "state": state, "lastLines": lines,
                    "lastExit": { "exitCode": 1, "finishedAtMs": 5000 } })
        };
        let up = json!({
            "name": "shop", "namespace": "b", "file": "/x/tulle.yaml", "pid": 7, "started": true, "processes": [
                process("c", "restarting", &["no disk"]), process("job", "failed", &[]), process("new", "ready", &[]),
                process("old", "stopped", &[]),
            ],
        });
        let mut workloads = vec![
            json!({ "namespace": "a", "name": "c", "ready": true }),
            json!({ "namespace": "b", "name": "c", "ready": false, "reason": "why" }),
        ];
        let others = workloads[0].clone();
        add_processes(&mut workloads, &serde_json::from_value(up).unwrap());
        assert_eq!(workloads[0], others, "another namespace's");
        let (c, job) = (&workloads[1], &workloads[2]);
        assert_eq!(
            (&c["service"], &c["lastLines"], &c["reason"]),
            (&json!("c"), &json!(["no disk"]), &json!("why"))
        );
        assert_eq!((&job["name"], &job["state"]), (&json!("job"), &json!("failed")));
        assert_eq!(job["lastExit"]["exitCode"], 1);
        assert_eq!(
            (workloads.len(), &workloads[3]["state"]),
            (4, &json!("stopped")),
            "`new` is not shown too early"
        );
    }
}
