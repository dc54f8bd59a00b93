//! One scenario with one contender: the load, and what the kernel says of the processes meanwhile.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::accounting;
use super::contender::Contender;
use super::process::complete;
use super::results::{Load, Sample, Settings};
use super::scenarios::Scenario;
use super::service::{Service, this_program};

/// Beyond its own time, for connecting and for what is still in flight.
const GRACE: Duration = Duration::from_secs(60);
/// When in the window memory is read: near the end, but before connections are closed.
const MEMORY_AT: f64 = 0.8;

pub fn measure(
    contender: &Contender,
    scenario: &Scenario,
    service: &Service,
    settings: &Settings,
    round: usize,
) -> Result<Sample> {
    let parts = contender.parts();
    let target = contender
        .entry(scenario.protocol)
        .with_context(|| format!("{} takes no {:?}", contender.name(), scenario.protocol))?;
    let watched: Vec<Vec<u32>> = vec![parts.client, parts.server, service.tree(), parts.control];
    let mut command = load_command(scenario, target, settings, watched.iter().flatten());
    let deadline = Duration::from_secs_f64(settings.seconds + settings.warmup) + GRACE;
    let name = format!("the load of {} for {}", scenario.name, contender.name());
    let both = || [&watched[0], &watched[1]].map(|pids| accounting::memory(pids));
    let before = both();
    let (printed, memory) = thread::scope(|scope| {
        let load = scope.spawn(|| complete(&name, &mut command, deadline));
        thread::sleep(Duration::from_secs_f64(settings.warmup + settings.seconds * MEMORY_AT));
        let memory = both();
        (load.join(), memory)
    });
    let printed = printed.map_err(|_| anyhow::anyhow!("{name}: the thread that ran it panicked"))?;
    let printed = printed.map_err(|error| contender.explain(error))?;
    let load: Load = serde_json::from_str(printed.trim()).with_context(|| format!("{name}: {printed}"))?;
    anyhow::ensure!(
        load.watched.len() == watched.iter().flatten().count(),
        "{name}: CPU time of {} processes where {} were asked for",
        load.watched.len(),
        watched.iter().flatten().count()
    );
    let mut seconds = load.watched.iter();
    let mut sum = |pids: &[u32]| seconds.by_ref().take(pids.len()).sum::<f64>() + 0.0;
    Ok(Sample {
        round,
        scenario: scenario.name.to_owned(),
        peer: contender.name().to_owned(),
        cpu_client: sum(&watched[0]),
        cpu_server: sum(&watched[1]),
        cpu_service: sum(&watched[2]),
        cpu_control: sum(&watched[3]),
        memory_before_client: before[0],
        memory_before_server: before[1],
        memory_client: memory[0],
        memory_server: memory[1],
        load,
    })
}

fn load_command<'a>(
    scenario: &Scenario,
    target: SocketAddr,
    settings: &Settings,
    watched: impl Iterator<Item = &'a u32>,
) -> Command {
    let mut command = Command::new(this_program());
    command.arg("load").args(scenario.load).args(["--target", &target.to_string()]);
    command.args(["--seconds", &settings.seconds.to_string(), "--warmup", &settings.warmup.to_string()]);
    let watched: Vec<_> = watched.map(u32::to_string).collect();
    if !watched.is_empty() {
        command.args(["--watch", &watched.join(",")]);
    }
    command
}
