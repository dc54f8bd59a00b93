//! What `tulle status` shows people: three tables, below each what is not well of it, and at the end how much that is.

use serde::Deserialize;
use serde_json::Value;
use tulle_model::legible::legible;
use tulle_node::process_state::LastExit;

use super::unwell;
use crate::commands::services::state_cell;
use crate::output::{Cell, Table, age, good};
use crate::terminal;
use crate::up::standing::{Standing, State};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub name: String,
    #[serde(default)]
    link_address: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    capture_mode: String,
    pub connected: bool,
    #[serde(default)]
    pub last_seen_seconds: u64,
    config_age_seconds: Option<u64>,
    config_generation: Option<u64>,
    pub clock_problem: Option<String>,
    pub capture_problem: Option<String>,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What is good to know, and no trouble.
    #[serde(default)]
    notes: Vec<String>,
    #[serde(default)]
    workloads: Vec<Workload>,
    pub fenced: Option<Fenced>,
}

/// Another node of the name that is kept out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fenced {
    pub peer: String,
    pub last_seen_seconds: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Workload {
    pub namespace: String,
    pub name: String,
    ready: bool,
    reason: String,
    stale_seconds: Option<u64>,
    pub certificate_expires_in_seconds: Option<i64>,
    /// What the node of this host alone knows.
    restarts: Option<u32>,
    last_exit: Option<LastExit>,
    next_start_ms: Option<u64>,
    /// It is to come.
    waiting: bool,
    /// What the `tulle up` of this host alone knows: the service that it is a process of,
    pub service: String,
    /// what it said before it ended,
    last_lines: Vec<String>,
    /// and that it is to run no more.
    state: Option<State>,
}

impl Workload {
    pub fn state(&self) -> State {
        match self.state {
            Some(over) => over,
            None if self.ready => State::Ready,
            None if self.waiting => State::Waiting,
            None if self.next_start_ms.is_some() => State::Restarting,
            None => State::NotReady,
        }
    }

    /// As `tulle ps` has it, where it is told apart from those of other namespaces.
    pub fn standing(&self) -> Standing {
        Standing {
            service: self.service.clone(),
            name: format!("{}/{}", self.namespace, self.name),
            state: self.state(),
            since_ms: 0,
            pid: None,
            restarts: self.restarts.unwrap_or(0),
            last_exit: self.last_exit.clone(),
            last_lines: self.last_lines.clone(),
            next_start_ms: self.next_start_ms,
            ports: Vec::new(),
            reason: self.reason.clone(),
        }
    }

    /// Whether it is meant to take traffic.
    fn is_wanted(&self) -> bool {
        !matches!(self.state, Some(State::Stopped | State::Completed))
    }
}

/// A service, with how its endpoints are.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceRow {
    pub namespace: String,
    pub name: String,
    ports: Vec<Value>,
    pub selector: Value,
    pub ready: usize,
    pub endpoints: usize,
    stale: usize,
    /// Workloads of these endpoints that take nothing.
    pub unready: Vec<String>,
    pub problems: Vec<String>,
}

/// All that is shown.
#[derive(Debug, Default, Deserialize)]
pub struct View {
    pub nodes: Vec<Node>,
    pub services: Vec<ServiceRow>,
    /// Of the server itself.
    pub problems: Vec<String>,
}

impl View {
    /// The workloads of a namespace, or of all, each with its node.
    pub fn workloads(&self, namespace: Option<&str>) -> Vec<(&Node, &Workload)> {
        let all = self.nodes.iter().flat_map(|node| node.workloads.iter().map(move |w| (node, w)));
        all.filter(|(_, w)| namespace.is_none_or(|namespace| namespace == w.namespace)).collect()
    }
}

/// In lines of at most `room` columns; `wide`: with all columns of the tables, and all of every cell.
pub fn render(view: &View, namespace: Option<&str>, wide: bool, now_ms: u64, room: Option<usize>) -> String {
    let workloads = view.workloads(namespace);
    let mut text = String::new();
    let mut count = 0;
    let mut add = |table: String, lines: Vec<String>| {
        for part in [table, lines.join("\n")].iter().filter(|part| !part.is_empty()) {
            let gap = if text.is_empty() { "" } else { "\n" };
            text += &format!("{gap}{}\n", part.trim_end_matches('\n'));
        }
    };
    let wrapped = |lines: Vec<String>| -> Vec<_> {
        lines.iter().map(|line| terminal::wrap(&legible(line), room, 2)).collect()
    };

    let nodes = if view.nodes.is_empty() { String::new() } else { node_table(&view.nodes, wide).render() };
    let mut lines = unwell::of_mesh(view);
    count += lines.len();
    lines.extend(view.nodes.iter().flat_map(|node| node.notes.iter().cloned()));
    add(nodes, wrapped(lines));

    let lines = unwell::of_services(&view.services, &workloads);
    count += lines.len();
    let services =
        if view.services.is_empty() { String::new() } else { service_table(&view.services, wide).render() };
    add(services, wrapped(lines));

    let several = wide || view.nodes.len() > 1;
    let table = match workloads.is_empty() {
        true => String::new(),
        false => workload_table(&workloads, several, wide, now_ms).render(),
    };
    let (doubts, lines) = unwell::of_workloads(&workloads, now_ms, room);
    count += lines.len();
    add(table, doubts.into_iter().chain(lines).collect());

    text += &match count {
        0 => "\nall is well\n".to_owned(),
        1 => "\n1 thing is not well\n".to_owned(),
        count => format!("\n{count} things are not well\n"),
    };
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
        let wanted = node.workloads.iter().filter(|w| w.is_wanted()).count();
        let config = match (node.config_generation, node.config_age_seconds) {
            (Some(generation), Some(seconds)) => format!("#{generation}, {} old", age(seconds)),
            _ => "-".to_owned(),
        };
        let version = wide.then(|| Cell::from(node.version.clone()));
        let row = [
            node.name.clone().into(),
            state,
            good(format!("{ready}/{wanted} ready"), ready == wanted),
            config.into(),
            node.capture_mode.clone().into(),
            node.link_address.clone().into(),
        ];
        table.row(row.into_iter().chain(version));
    }
    table
}

fn service_table(services: &[ServiceRow], wide: bool) -> Table {
    let mut table = table(["NAMESPACE", "SERVICE", "PORTS", "ENDPOINTS"], wide);
    for service in services {
        let port = |p: &Value| {
            let number = p["port"].to_string();
            p["appProtocol"].as_str().map_or(number.clone(), |protocol| format!("{number}/{protocol}"))
        };
        let ports: Vec<_> = service.ports.iter().map(port).collect();
        let (ready, all) = (service.ready, service.endpoints);
        table.row([
            service.namespace.clone().into(),
            service.name.clone().into(),
            ports.join(",").into(),
            match service.stale {
                // A name for routes alone.
                0 if all == 0 && service.selector.is_null() => "none".into(),
                0 => good(
                    format!("{ready}/{all} ready"),
                    ready > 0 && ready == all && service.problems.is_empty(),
                ),
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
        let state = match (workload.state(), workload.stale_seconds) {
            (State::Ready, Some(since)) => good(format!("ready, stale {}", age(since)), false),
            (state, _) => state_cell(state),
        };
        let certificate = match workload.certificate_expires_in_seconds {
            None if workload.waiting || workload.state.is_some() => "-".into(),
            None => good("none yet", false),
            Some(seconds) if seconds <= 0 => good("expired", false),
            Some(seconds) => {
                good(format!("{} left", age(seconds.unsigned_abs())), seconds > unwell::CERTIFICATE_ENDS_SOON)
            }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(view: Value, room: usize) -> String {
        let view: View = serde_json::from_value(view).unwrap();
        let text = render(&view, None, false, 10_000, Some(room));
        anstream::adapter::strip_str(&text).to_string()
    }

    fn node(workloads: Value) -> Value {
        json!({
            "name": "local", "connected": true, "captureMode": "host", "linkAddress": "127.0.0.1:15008",
            "configGeneration": 12, "configAgeSeconds": 0, "workloads": workloads,
        })
    }

    #[test]
    fn what_waits_says_why() {
        let workloads = json!([
            { "namespace": "shop", "name": "api", "ready": false, "restarts": 3, "service": "api",
              "reason": "its process is not running: it ended with code 1", "lastLines": ["a\u{1b}[2J", " ", "no key"],
              "lastExit": { "exitCode": 1, "finishedAtMs": 8000 }, "nextStartMs": 12500,
              "certificateExpiresInSeconds": 3540 },
            { "namespace": "shop", "name": "db", "ready": true, "restarts": 0, "service": "db",
              "reason": "its probe fails (1 of 3): `check` ended with code 2: no disk",
              "certificateExpiresInSeconds": 3540 },
            { "namespace": "shop", "name": "web", "ready": false, "waiting": true, "service": "web",
              "reason": "waits for api (its process is not running: it ended with code 1)" },
            { "namespace": "shop", "name": "job", "ready": false, "state": "failed", "service": "job",
              "lastExit": { "exitCode": 1, "finishedAtMs": 8000 } },
            { "namespace": "shop", "name": "old", "ready": false, "state": "stopped", "service": "old" },
            { "namespace": "shop", "name": "till", "ready": true, "certificateExpiresInSeconds": -5 },
        ]);
        let service = |name: &str, ready: u32, endpoints: u32| {
            json!({ "namespace": "shop", "name": name, "ports": [{ "port": 80, "appProtocol": "http" }],
                    "selector": { "app": name }, "ready": ready, "endpoints": endpoints })
        };
        let mut api = service("api", 0, 1);
        api["unready"] = json!(["api"]);
        let services =
            [api, service("db", 1, 1), service("web", 0, 0), service("old", 0, 0), service("c", 0, 0)];
        let view =
            json!({ "nodes": [node(workloads)], "services": services, "problems": ["the disk is full"] });
        let text = shown(view, 80);
        insta::assert_snapshot!(text);
        assert!(text.lines().all(|line| terminal::columns(line) <= 80), "{text}");
    }

    #[test]
    fn all_is_well_where_it_is() {
        let workload =
            json!({ "namespace": "a", "name": "c", "ready": true, "certificateExpiresInSeconds": 3540 });
        let service = |name: &str, more: Value| {
            let mut service =
                json!({ "namespace": "a", "name": name, "ready": 0, "endpoints": 0, "selector": null });
            service.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            service
        };
        let well = service("c", json!({ "ready": 1, "endpoints": 1, "selector": { "app": "c" } }));
        let for_routes = service("both", json!({}));
        let count = |services: &[&Value]| {
            let view = json!({ "nodes": [node(json!([workload]))], "services": services, "problems": [] });
            shown(view, 80).lines().last().unwrap().to_owned()
        };
        assert_eq!(count(&[&well, &for_routes]), "all is well");
        let empty = service("d", json!({ "selector": { "app": "d" } }));
        let half = service("e", json!({ "ready": 1, "endpoints": 2 }));
        let ports = service("f", json!({ "ready": 1, "endpoints": 1, "problems": ["port http: none"] }));
        assert_eq!(count(&[&empty]), "1 thing is not well");
        assert_eq!(count(&[&well, &empty, &half, &ports]), "3 things are not well");
        let lost = json!([{ "name": "n", "connected": false, "lastSeenSeconds": 12, "warnings": ["w"], "notes": ["good to know"] }]);
        let text = shown(json!({ "nodes": lost, "services": [], "problems": [] }), 80);
        assert!(
            text.contains("`tulle delete node n`")
                && text.contains("\ngood to know\n")
                && text.ends_with("2 things are not well\n"),
            "{text}"
        );
        assert!(
            shown(json!({ "nodes": [], "services": [], "problems": [] }), 80)
                .ends_with("1 thing is not well\n")
        );
    }
}
