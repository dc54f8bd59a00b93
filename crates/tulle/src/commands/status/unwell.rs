//! What is not well of a mesh, each thing in a sentence with what to do about it.

use tulle_model::legible::legible;

use super::report::{Node, ServiceRow, View, Workload};
use crate::commands::services::told;
use crate::output::age;
use crate::terminal;
use crate::up::standing::State;

/// A certificate that is left no more than this was not renewed when it should have been.
pub const CERTIFICATE_ENDS_SOON: i64 = 300;

/// Of the server, its nodes, and their hosts.
pub fn of_mesh(view: &View) -> Vec<String> {
    let mut lines: Vec<_> = view.problems.iter().map(|problem| format!("the server: {problem}")).collect();
    if view.nodes.is_empty() {
        lines.push("No node has joined (`tulle token create` prints a token that lets one)".to_owned());
    }
    view.nodes.iter().for_each(|node| lines.extend(of_node(node)));
    lines
}

fn of_node(node: &Node) -> Vec<String> {
    let name = &node.name;
    let mut lines = Vec::new();
    if !node.connected {
        lines.push(format!(
            "{name}: the server and this node have not heard of each other for {} (on its host, `tulle status` says \
             what it knows; one that does not come back: `tulle delete node {name}`)",
            age(node.last_seen_seconds)
        ));
    }
    if let Some(fenced) = &node.fenced {
        lines.push(format!(
            "Another node `{name}` is kept out: it connects from {}, {} ago for the last time, and looks like a clone \
             of this one. Stop it, remove the folder `node` of its home, and let it join with a name and a token of \
             its own: `tulle node --name NAME --token TOKEN`",
            fenced.peer,
            age(fenced.last_seen_seconds)
        ));
    }
    lines.extend(node.clock_problem.as_ref().map(|problem| format!("{problem}: set the clocks right (NTP)")));
    let more = "as root, with `--capture host`, its node sees more";
    lines.extend(node.capture_problem.iter().map(|problem| format!("{problem} ({more})")));
    lines.extend(node.warnings.iter().cloned());
    lines
}

/// Of services, beyond what their workloads explain.
pub fn of_services(services: &[ServiceRow], workloads: &[(&Node, &Workload)]) -> Vec<String> {
    let mut lines = Vec::new();
    for service in services {
        let name = format!("{}/{}", service.namespace, service.name);
        let of_service = |workload: &Workload| {
            workload.namespace == service.namespace
                && (workload.service == service.name || service.unready.contains(&workload.name))
        };
        let is_explained =
            workloads.iter().any(|(_, workload)| workload.state() != State::Ready && of_service(workload));
        if !service.problems.is_empty() {
            lines.extend(service.problems.iter().map(|problem| format!("{name}: {problem}")));
        } else if is_explained || service.ready == service.endpoints && service.ready > 0 {
            // Said of the workload, where anything is to be said.
        } else if service.endpoints > 0 {
            lines.push(format!(
                "{name}: {} of its {} endpoints take traffic (each of them: `tulle describe service {} -n {}`)",
                service.ready, service.endpoints, service.name, service.namespace
            ));
        } else if let Some(labels) = service.selector.as_object().filter(|labels| !labels.is_empty()) {
            let labels: Vec<_> = labels
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            lines.push(format!(
                "{name}: nothing is behind it: run a workload with its labels, {}",
                labels.join(",")
            ));
        }
    }
    lines
}

/// Of workloads: those that may soon not be well, then those that are not. In lines of at most `room` columns.
pub fn of_workloads(
    workloads: &[(&Node, &Workload)],
    now_ms: u64,
    room: Option<usize>,
) -> (Vec<String>, Vec<String>) {
    let (mut doubts, mut unwell) = (Vec::new(), Vec::new());
    for (node, workload) in workloads {
        let standing = workload.standing();
        let told = |into: &mut Vec<String>| into.push(told(&standing, now_ms, room).trim_end().to_owned());
        match standing.state {
            State::Ready if !standing.reason.is_empty() => told(&mut doubts),
            state if !state.is_well() => {
                told(&mut unwell);
                continue;
            }
            _ => {}
        }
        // A node that is lost is said to be.
        if let Some(problem) =
            certificate(workload).filter(|_| node.connected && standing.state == State::Ready)
        {
            unwell.push(terminal::wrap(&legible(&format!("{}: {problem}", standing.name)), room, 2));
        }
    }
    (doubts, unwell)
}

fn certificate(workload: &Workload) -> Option<String> {
    let renewed = "its node gets it a new one from the server, and its log says why it does not";
    match workload.certificate_expires_in_seconds {
        None => Some(format!("it has no certificate yet ({renewed})")),
        Some(seconds) if seconds <= 0 => Some(format!("its certificate has expired ({renewed})")),
        Some(seconds) if seconds <= CERTIFICATE_ENDS_SOON => {
            Some(format!("its certificate ends in {} ({renewed})", age(seconds.unsigned_abs())))
        }
        Some(_) => None,
    }
}
