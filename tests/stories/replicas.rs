//! One of three replicas goes, by force and by request, under 500 requests a second.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use tulle_tests::harness::{Home, Process, alone, client, eventually, require_root, tulle};

/// The process ids of the replicas of service c that run now, as `up` has told them.
fn replicas(up: &Process) -> Vec<i32> {
    let text = up.stdout();
    let told = text.lines().filter(|line| line.starts_with("c-"));
    let pids = told.filter_map(|line| line.split_once("(process ")?.1.strip_suffix(')')?.parse().ok());
    pids.filter(|pid| kill(Pid::from_raw(*pid), None).is_ok()).collect()
}

/// What the load of the story saw, with the time at which `strike` was done.
fn under_load(home: &Home, strike: impl FnOnce()) -> (Value, f64) {
    let load: Process = home.run_client("load", &[&client("load.py"), "http://c:9411/", "500", "8", "20"]);
    load.wait_for_line("start", Duration::from_secs(10), |line| line == "started");
    std::thread::sleep(Duration::from_secs(2));
    let struck = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    strike();
    assert!(load.wait(Duration::from_secs(60)).success(), "{}", load.stderr());
    let text = load.stdout();
    (serde_json::from_str(text.lines().last().unwrap()).unwrap(), struck)
}

#[test]
fn a_replica_that_is_killed_or_stopped_is_left_out() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&format!(
        "services:\n  c:\n    command: [\"{}\", fake-service, --name, c]\n    port: 9411\n    replicas: 3\n",
        tulle().display()
    ));
    let three = || {
        eventually("three replicas", Duration::from_secs(10), || {
            let found = replicas(&up);
            (found.len() == 3).then_some(found)
        })
    };

    let victim = three()[1];
    let (seen, struck) = under_load(&home, || kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap());
    let failures = seen["failures"].as_array().unwrap().clone();
    println!("kill -9: {} failures: {failures:?}", failures.len());
    for failure in &failures {
        let began = failure["began"].as_f64().unwrap();
        assert!(began <= struck + 0.05, "it began after the replica was gone: {failure}");
    }
    assert!(failures.len() <= 20, "more failures than connections: {failures:?}");

    let victim = three()[1];
    let (seen, _) = under_load(&home, || kill(Pid::from_raw(victim), Signal::SIGTERM).unwrap());
    assert_eq!(seen["failures"].as_array().unwrap().len(), 0, "{seen}");
    three();
    assert!(up.interrupt().success());
}
