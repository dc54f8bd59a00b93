//! A node is restarted again and again, by SIGTERM and by `kill -9`, while its workloads serve and call: they go on
//! as the same processes, and are in the mesh within a second of each return.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use tulle_tests::chaos::{figure, length};
use tulle_tests::harness::{Process, alone, client, eventually, python, require_root};
use tulle_tests::one_host::{Mode, OneHost, is_alive, said_pid};

const PATIENCE: Duration = Duration::from_secs(15);
const PORTS: u16 = 19710;
const PORT: u16 = 19713;
/// How often the workload calls, in milliseconds.
const PERIOD: &str = "20";
/// From the node's word that it runs to the last call that fails, in seconds.
const RETURN: f64 = 1.0;

/// Calls that have ended: when, and the process that has answered where one has.
fn calls(load: &Process) -> Vec<(f64, Option<i32>)> {
    let call = |line: &str| {
        let mut words = line.split(' ');
        let answered = match words.next()? {
            "ok" => true,
            "failed" => false,
            _ => return None,
        };
        let time = words.next()?.parse().ok()?;
        Some((time, if answered { words.next()?.parse().ok() } else { None }))
    };
    load.stdout().lines().filter_map(call).collect()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Waits until so many calls have ended after `since`.
#[track_caller]
fn wait_for_calls(load: &Process, since: f64, number: usize) {
    let end = Instant::now() + PATIENCE;
    while calls(load).iter().filter(|(time, _)| *time > since).count() < number {
        assert!(Instant::now() < end, "the workload makes no calls any more");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn rolling_restarts(mode: Mode, name: &str) {
    let mut mesh = OneHost::start(mode, PORTS);
    mesh.service("c", PORT);
    let (service, pid) = mesh.run_service("c", PORT, &[], &[]);
    let (python, script) = (python().display().to_string(), client("steady.py"));
    let url = format!("http://c:{PORT}/");
    let load = mesh.home.start(&["run", "load", "--", &python, &script, &url, PERIOD]);
    let load_pid = said_pid(&load, "up ");
    eventually("a first answer", PATIENCE, || calls(&load).iter().any(|(_, by)| by.is_some()).then_some(()));

    let end = Instant::now() + length(Duration::from_secs(2), Duration::from_secs(25));
    // When the node was struck, and when the next one said that it runs.
    let mut restarts = Vec::new();
    while Instant::now() < end || restarts.len() < 2 {
        let signal = if restarts.len() % 2 == 0 { Signal::SIGTERM } else { Signal::SIGKILL };
        let struck = now();
        mesh.stop_node(signal);
        mesh.start_node();
        let runs = now();
        restarts.push((struck, runs));
        wait_for_calls(&load, runs + RETURN, 10);
        assert!(is_alive(pid) && is_alive(load_pid), "{signal}");
    }
    let until = now();
    let calls: Vec<_> =
        calls(&load).into_iter().filter(|(time, _)| (restarts[0].0..until).contains(time)).collect();
    let failed: Vec<f64> = calls.iter().filter(|(_, by)| by.is_none()).map(|(time, _)| *time).collect();
    let returns = restarts.iter().enumerate().map(|(i, (_, runs))| {
        let next = restarts.get(i + 1).map_or(until, |(struck, _)| *struck);
        let last = failed.iter().copied().filter(|time| (*runs..next).contains(time)).fold(*runs, f64::max);
        last - runs
    });
    let worst = returns.fold(0.0, f64::max);
    let away: f64 = restarts.iter().map(|(struck, runs)| runs - struck).sum();
    let figures = [
        ("restarts", restarts.len().to_string()),
        ("calls", calls.len().to_string()),
        ("calls that failed", failed.len().to_string()),
        ("seconds without a node", format!("{away:.1}")),
        ("last failed call after a return, seconds", format!("{worst:.3}")),
    ];
    figures.iter().for_each(|(what, value)| figure(name, what, value));
    assert!(calls.iter().all(|(_, by)| by.is_none_or(|by| by == pid)), "another process has answered");
    assert!(worst < RETURN, "calls failed with the node there: {failed:?}, {restarts:?}");

    for process in [&load, &service] {
        process.signal(Signal::SIGTERM);
        process.wait(PATIENCE);
    }
    assert!(!is_alive(pid) && !is_alive(load_pid));
    mesh.end();
}

#[test]
fn restarts_of_a_node_that_captures() {
    require_root!();
    let _alone = alone();
    rolling_restarts(Mode::Host, "restarts of a node, host capture");
}

#[test]
fn restarts_of_a_node_that_captures_nothing() {
    let _alone = alone();
    rolling_restarts(Mode::Explicit, "restarts of a node, explicit capture");
}
