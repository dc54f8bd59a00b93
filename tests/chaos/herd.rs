//! Many requests that wait for streams of an application which takes few at a time: each place that frees is
//! for one of them. Were all woken, the node's work for a request would grow with how many wait. And they are one
//! caller's: what another asks of the same application does not wait for all of them.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tulle_tests::chaos::{figure, full, is_prompt, length};
use tulle_tests::harness::{Home, Process, alone, client, may_run, tulle};

use crate::two_nodes::Load;

const PATIENCE: Duration = Duration::from_secs(60);
/// Client connections, and requests that each has under way.
const CONNECTIONS: &str = "20";
const STREAMS: &str = "100";
/// How much more work a request may be that waits for a place.
const DEARER: f64 = 4.0;

/// What a process has taken of the CPU.
fn cpu(process: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>();
    // A hundred a second, on every Linux.
    Duration::from_millis(10 * ticks)
}

#[test]
fn a_place_that_frees_wakes_one() {
    let available = Command::new("node").arg("--version").output().is_ok_and(|node| node.status.success());
    if !may_run("node", available) {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    let script = client("herd.js");
    let service = |name: &str, port: u16, streams: u32| {
        format!(
            "  {name}:\n    command: [node, \"{script}\", server, \"{port}\", \"{streams}\"]\n    \
             ports: [{{name: a, port: {port}, targetPort: {port}, appProtocol: kubernetes.io/h2c}}]\n    \
             probe: {{tcp: true}}\n"
        )
    };
    let services = format!("services:\n{}{}", service("few", 9481, 4), service("many", 9482, 1000));
    home.write("mesh/tulle.yaml", &services);
    let folder = home.path().join("mesh").display().to_string();
    let mut command = home.command(tulle());
    // On one worker all wait in one queue.
    command.args(["up", "--capture", "explicit", "--workers", "1", &folder]);
    let up = Process::spawn(&mut command);
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));

    let requests: u32 = if full() { 30_000 } else { 4_000 };
    let ask = |name: &str, port: u16| {
        let upper = name.to_uppercase();
        let script = format!(
            "exec node {script} client ${upper}_SERVICE_HOST ${upper}_SERVICE_PORT {CONNECTIONS} {STREAMS} {requests}"
        );
        let upstream = format!("{name}:{port}");
        let seconds = length(Duration::from_secs(1), Duration::from_secs(6)).as_secs().to_string();
        let url = format!("http://{name}:{port}/");
        let polite = || home.run_client("polite", &[&client("load.py"), &url, "100", &seconds]);
        let usual = Load::of(&polite()).p99;
        let before = cpu(&up);
        let load = home.start(&["run", "load", "--upstream", &upstream, "--", "sh", "-c", &script]);
        load.wait_for_line("start", PATIENCE, |line| line == "started");
        let other = Load::of(&polite());
        assert!(load.wait(PATIENCE).success(), "{}\n{}", load.stdout(), load.stderr());
        let each = (cpu(&up) - before).as_secs_f64() * 1e6 / f64::from(requests);
        let outcome: Value = serde_json::from_str(load.stdout().lines().last().unwrap()).unwrap();
        assert_eq!(outcome["statuses"], serde_json::json!({"200": requests}), "{name}");
        figure(
            "herd",
            &format!("{name}: requests/s"),
            f64::from(requests) / outcome["seconds"].as_f64().unwrap(),
        );
        figure("herd", &format!("{name}: CPU a request, µs"), each);
        figure(
            "herd",
            &format!("{name}: p99 of another caller, without and with, ms"),
            format!("{usual}, {}", other.p99),
        );
        assert!(other.failures.is_empty(), "{name}: {:?}", other.failures);
        assert!(is_prompt(other.p99, usual), "{name}: {} ms, {usual} ms without", other.p99);
        each
    };
    let (many, few) = (ask("many", 9482), ask("few", 9481));
    figure("herd", "CPU a request that waits, times of one that does not", few / many);
    assert!(few <= DEARER * many, "{few} µs, {many} µs where there is room");
    assert!(up.interrupt().success());
}
