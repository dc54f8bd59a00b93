//! `init`: commands of a service that have to end well before its processes start, such as a migration. They run as its processes do, as a
//! workload of their own that nobody is led to.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tulle_model::name::WorkloadName;
use tulle_node::process_state::LastExit;
use tulle_node::supervise::{Event, Process, Restart, supervise};
use tulle_node::workloads::Running;

use super::config::Service;
use super::replica::{self, Surroundings};
use super::service::WantedService;
use super::services::Shared;

/// The name of the workload that a service's commands run as.
pub fn workload_name(service: &Service) -> String {
    format!("{}-init", replica::base_name(service))
}

/// Runs all commands, one after another, until the first that does not end well, or `stop`; `kill` leaves no time for a farewell.
///
/// # Errors
/// Says which command failed, and how.
pub async fn run(
    wanted: &WantedService,
    shared: &Arc<Shared>,
    (stop, kill): (&CancellationToken, &CancellationToken),
) -> Result<(), String> {
    let WantedService { config, service, .. } = wanted;
    let name = workload_name(service);
    let ports: Vec<u16> = service.ports.iter().map(|port| port.target_port).collect();
    let values = replica::values(service, 0, &ports).map_err(|failure| failure.to_string())?;
    let directory = replica::directory(config, service);
    let surroundings = Surroundings { values: &values, directory: &directory };
    let mut spec = replica::spec(config, service, &name, &[], surroundings);
    // No Service selects it.
    spec.labels.clear();
    spec.probe = None;
    let running = shared.workloads.add(spec).await.map_err(|e| format!("{e:#}"))?;
    let workload = WorkloadName::new(running.namespace.as_str(), running.name.as_str());
    let outcome = each(service, &running, surroundings, shared, (stop, kill)).await;
    shared.workloads.remove(&workload).await;
    outcome
}

async fn each(
    service: &Service,
    running: &Running,
    surroundings: Surroundings<'_>,
    shared: &Arc<Shared>,
    (stop, kill): (&CancellationToken, &CancellationToken),
) -> Result<(), String> {
    for command in &service.init {
        if stop.is_cancelled() {
            return Ok(());
        }
        let shown = format!("`{}`", command.join(" "));
        shared.initializing.lock().insert(service.name.clone(), format!("its init command {shown} runs"));
        let process = Process {
            restart: Restart::Never,
            ..replica::process(service, command, running, running.cgroup.is_some(), surroundings)
        };
        match one(process, service, running, shared, (stop, kill)).await {
            _ if stop.is_cancelled() => return Ok(()),
            Some(exit) if exit.exit_code == Some(0) => {}
            Some(exit) => return Err(format!("its init command {shown} {exit}")),
            None => return Err("the node lost its init command while it was running".to_owned()),
        }
    }
    Ok(())
}

/// How one command has ended.
async fn one(
    process: Process,
    service: &Service,
    running: &Running,
    shared: &Arc<Shared>,
    (stop, kill): (&CancellationToken, &CancellationToken),
) -> Option<LastExit> {
    let workload = WorkloadName::new(running.namespace.as_str(), running.name.as_str());
    let state = shared.workloads.process(&workload)?;
    let (events, mut received) = mpsc::channel(replica::LINES);
    let supervised = supervise(process, events, state);
    let telling = async {
        let mut last = None;
        while let Some(event) = received.recv().await {
            replica::show(&shared.screen, &service.name, &running.name, &event).await;
            if let Event::Ended { exit, .. } = event {
                last = Some(exit);
            }
        }
        last
    };
    let stopping = async {
        stop.cancelled().await;
        supervised.stop(service.stop_timeout).await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        last = telling => last,
        () = stopping => None,
        () = kill.cancelled() => None,
    }
}
