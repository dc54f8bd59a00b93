//! `limits` of services: they hold where the kernel keeps to them, and where it cannot, nothing starts or changes.

use std::path::Path;
use std::time::Duration;

use tulle_tests::harness::{Home, Process, alone, eventually, require_root};

const PATIENCE: Duration = Duration::from_secs(20);

/// Takes more and more memory, once there is a file `eat` beside it.
const EATER: &str = "import os, time\nwhile not os.path.exists('eat'): time.sleep(0.05)\nx = []\n\
                     while True: x.append(bytearray(1 << 20))";

fn file(limits: &str) -> String {
    let python = tulle_tests::harness::python().display().to_string();
    let program = EATER.replace('\n', "\\n");
    format!(
        "services:\n  other: {{command: [sleep, infinity]}}\n  eater:\n    command: [\"{python}\", -c, \"{program}\"]\n{limits}"
    )
}

/// Whether cgroups of version 2 have a controller to hand down here, and which they are.
fn controllers() -> String {
    let places = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"];
    places.iter().find_map(|place| std::fs::read_to_string(place).ok()).unwrap_or_default()
}

fn told(up: &Process, text: &str) {
    up.wait_for_line(text, PATIENCE, |line| line.contains(text));
}

#[test]
fn limits_hold_or_are_refused() {
    require_root!();
    let _alone = alone();
    let known = controllers();
    let has = |name: &str| known.split_whitespace().any(|controller| controller == name);
    match has("memory") && has("cpu") {
        true => limits_hold(),
        false => limits_are_refused(),
    }
}

fn limits_are_refused() {
    let limited = file("    limits: {memory: 64Mi, cpu: 500m}\n");
    let home = Home::new();
    home.write("limited/tulle.yaml", &limited);
    let outcome = home.tulle(&["up", &home.path().join("limited").display().to_string()]);
    assert_eq!(outcome.code(), 2, "{}", outcome.stderr);
    let why = "services.eater.limits.memory: it cannot be kept to here: ";
    assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("help: limits need cgroup v2"), "{}", outcome.stderr);

    // Nor does a file that changes.
    let up = home.up(&file(""));
    let before = home.tulle(&["ps", "-o", "json"]).ok();
    home.write("mesh/tulle.yaml", &limited);
    told(&up, "the change is not taken, and nothing is touched:");
    told(&up, why);
    let pids = |text: &str| {
        let status: serde_json::Value = serde_json::from_str(text).unwrap();
        status["processes"].as_array().unwrap().iter().map(|p| p["pid"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(pids(&home.tulle(&["ps", "-o", "json"]).ok()), pids(&before));
    assert!(up.interrupt().success());
}

fn limits_hold() {
    let home = Home::new();
    let up = home.up(&file("    limits: {memory: 64Mi, cpu: 500m}\n    restart: on-failure\n"));
    let pid = || {
        let status: serde_json::Value =
            serde_json::from_str(&home.tulle(&["ps", "-o", "json"]).ok()).unwrap();
        let eater = status["processes"].as_array()?.iter().find(|p| p["name"] == "eater")?.clone();
        eater["pid"].as_u64()
    };
    let first = eventually("a process", PATIENCE, pid);
    let limit = |file: &str| {
        let groups = std::fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap();
        let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|mount| Path::new(mount).join(path));
        let folder = mounts.into_iter().find(|folder| folder.exists()).unwrap();
        std::fs::read_to_string(folder.join(file)).unwrap().trim().to_owned()
    };
    assert_eq!((limit("memory.max"), limit("cpu.max")), ("67108864".into(), "50000 100000".into()));

    // Other limits hold at once.
    home.write("mesh/tulle.yaml", &file("    limits: {memory: 48Mi}\n    restart: on-failure\n"));
    told(&up, "eater limits changed: its processes go on");
    eventually("other limits", PATIENCE, || (limit("memory.max") == "50331648").then_some(()));
    assert_eq!(limit("cpu.max"), "max 100000");
    assert_eq!(pid(), Some(first));

    home.write("mesh/eat", "");
    told(&up, "was ended by SIGKILL: it reached its limit of memory, 48Mi");
    std::fs::remove_file(home.path().join("mesh/eat")).unwrap();
    eventually("another process", PATIENCE, || pid().filter(|now| *now != first));
    assert!(up.interrupt().success());
}
