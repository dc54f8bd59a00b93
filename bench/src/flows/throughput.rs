//! As many runs of five calls as go through, started and waited for by many clients at once.

use anyhow::Result;

use super::figures::{Figure, Goal};
use super::mesh::FlowMesh;
use super::requests::{Requests, all_answered};
use super::{CaseSettings, FlowCase};

const CASE: &str = FlowCase::Throughput.name();

pub fn measure(mesh: &FlowMesh, settings: &CaseSettings) -> Result<Vec<Figure>> {
    let [server, node] = mesh.trees();
    let services = mesh.services();
    let load = Requests {
        connections: settings.clients,
        seconds: settings.seconds,
        warmup: settings.warmup,
        watched: [&server[..], &node[..], &services[..]].concat(),
        ..Requests::of("five", mesh.proxy())
    };
    let load = load.make()?;
    all_answered(&load)?;
    let (of_server, others) = load.watched.split_at(server.len());
    let (of_node, of_services) = others.split_at(node.len());
    let a_run = |seconds: &[f64]| seconds.iter().sum::<f64>() * 1e3 / load.requests as f64;
    let (server, node) = (a_run(of_server), a_run(of_node));
    Ok(vec![
        Figure::new(CASE, "runs", load.rate, "/s").against(Goal::AtLeast(500.0)),
        Figure::new(CASE, "a run, p50", load.latency.p50 / 1e3, "ms"),
        Figure::new(CASE, "a run, p99", load.latency.p99 / 1e3, "ms"),
        Figure::new(CASE, "CPU of server and node, a run", server + node, "ms").against(Goal::AtMost(2.0)),
        Figure::new(CASE, "CPU of the server, a run", server, "ms"),
        Figure::new(CASE, "CPU of the node, a run", node, "ms"),
        Figure::new(CASE, "CPU of the services, a run", a_run(of_services), "ms"),
        Figure::new(CASE, "the clients' share of a core", load.busy * 100.0, "%"),
    ])
}
