//! One workload takes all that it can of its node, in several ways, while another sends 100 requests a second.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tulle_tests::chaos::{self, is_prompt, is_release};
use tulle_tests::harness::{Home, Process, alone, client, eventually, python, tulle};
use tulle_tests::ports::free_port;

use crate::two_nodes::service;

const MIB: u64 = 1 << 20;
/// What the node may take, beside 32 MiB, and what it may keep afterwards.
const BOUND: u64 = 64;
const BESIDE: u64 = 32;
const KEPT: u64 = 10;
/// What a node and a server take that do nothing.
const IDLE: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(30);
const RATE: &str = "100";

/// How, on how many connections, and which of the services.
const ATTACKS: [(&str, usize, &str); 6] = [
    ("heads", 5, "SLOW"),
    ("requests", 24, "SLOW"),
    ("bodies", 600, "SLOW"),
    ("ahead", 4000, "SLOW"),
    ("idle", 6000, "C"),
    ("idle", 1000, "SLOW"),
];

/// Memory of a process in bytes. Of other profiles than release it is without pages of the binary, whose code is
/// large there and comes in as it is run for the first time.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let field = if is_release() { "VmRSS:" } else { "RssAnon:" };
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Watches what a process takes until it is told to stop; the most in MiB.
struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn begin(process: &Arc<Process>) -> Self {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, seen, process) = (stop.clone(), most.clone(), process.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                seen.fetch_max(resident(&process), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, most, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.most.load(Ordering::Relaxed) / MIB
    }
}

fn outcome(process: &Process) -> Value {
    assert!(process.wait(Duration::from_secs(120)).success(), "{}\n{}", process.stdout(), process.stderr());
    serde_json::from_str(process.stdout().lines().last().unwrap()).unwrap()
}

fn load(home: &Home, seconds: u64) -> Process {
    let load = client("load.py");
    let process = home.run_client("polite", &[&load, "http://c:9471/", RATE, &seconds.to_string()]);
    process.wait_for_line("start of the load", PATIENCE, |line| line == "started");
    process
}

#[test]
fn one_that_takes_all_it_can_hurts_nobody_else() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    home.write(
        "mesh/tulle.yaml",
        &format!(
            "services:\n  c:\n    command: [\"{binary}\", fake-service, --name, c]\n    port: 9471\n  \
             slow:\n    command: [\"{binary}\", fake-service, --name, slow, --latency, 5s]\n    port: 9472\n    \
             probe: {{tcp: true}}\n"
        ),
    );
    let folder = home.path().join("mesh").display().to_string();
    let limit = format!("{BOUND}Mi");
    let up = home.start(&["up", "--capture", "explicit", "--memory-limit", &limit, &folder]);
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    let up = Arc::new(up);

    let length = chaos::length(Duration::from_secs(2), Duration::from_secs(8)).as_secs();
    let attacks = if chaos::full() { &ATTACKS[..] } else { &ATTACKS[..1] };
    let calm = outcome(&load(&home, length));
    let usual = calm["latencies"]["p99"].as_f64().unwrap();
    chaos::figure("budget", "p99 of the polite without an attack, ms", usual);
    for (kind, connections, service) in attacks {
        let name = format!("{kind} to {service}");
        let before = resident(&up) / MIB;
        let more = if is_release() { 0 } else { before.saturating_sub(IDLE) };
        let watch = Watch::begin(&up);
        let polite = load(&home, length + 2);
        let flood = client("flood.py");
        let script = format!(
            "exec {} {flood} {kind} ${service}_SERVICE_HOST ${service}_SERVICE_PORT {connections} {length}",
            python().display()
        );
        let mut arguments = vec!["run", "greedy", "--upstream", "c:9471", "--upstream", "slow:9472", "--"];
        arguments.extend(["sh", "-c", &script]);
        let attack = outcome(&home.start(&arguments));
        let seen = outcome(&polite);
        let most = watch.end();
        let after = eventually("memory given back", PATIENCE, || {
            let now = resident(&up) / MIB;
            (now <= before + KEPT).then_some(now)
        });
        let p99 = seen["latencies"]["p99"].as_f64().unwrap();
        chaos::figure("budget", &format!("{name}: what the greedy saw"), &attack);
        chaos::figure("budget", &format!("{name}: p99 of the polite, ms"), p99);
        chaos::figure(
            "budget",
            &format!("{name}: MiB before, most, after"),
            format!("{before}, {most}, {after}"),
        );
        assert_eq!(seen["failures"], serde_json::json!([]), "{name}");
        assert!(most - more <= BOUND + BESIDE, "{name}: {most} MiB");
        assert!(is_prompt(p99, usual), "{name}: {p99} ms, {usual} ms without");
    }
    let metrics = metrics(&up);
    for line in metrics.lines().filter(|line| line.starts_with("tulle_shed_total")) {
        chaos::figure("budget", "sheds", line);
    }
    up.interrupt();
}

/// Requests of one client, each of which wants a connection of its own to an application on another node.
#[test]
fn one_that_wants_all_connections_of_another_node_leaves_some() {
    let _alone = alone();
    let [nodes, api, c, slow] = [free_port(), free_port(), free_port(), free_port()].map(|p| p.to_string());
    let [one, two, admin] = [Home::new(), Home::new(), Home::new()];
    let at = |port: &str| format!("127.0.0.1:{port}");
    let server = at(&nodes);
    let _server = admin.start(&["server", "--listen-nodes", &server, "--listen-api", &at(&api)]);
    eventually("an answer of the API", PATIENCE, || {
        admin.tulle(&["get", "namespaces"]).status.success().then_some(())
    });
    let services = admin.write("services.yaml", &(service("c", &c) + &service("slow", &slow)));
    admin.tulle(&["apply", "-f", &services.display().to_string()]).ok();
    let join = |home: &Home, name: &str| {
        let token = admin.tulle(&["token", "create"]).ok();
        let mut arguments = vec!["node", "--name", name, "--server", &server, "--capture", "explicit"];
        arguments.extend(["--listen-admin", "127.0.0.1:0", "--listen-links", "127.0.0.1:0"]);
        arguments.extend(["--token", token.trim()]);
        let node = home.start(&arguments);
        eventually("a node", PATIENCE, || home.path().join("node.sock").exists().then_some(()));
        node
    };
    let (_near, far) = (join(&one, "one"), Arc::new(join(&two, "two")));
    let binary = tulle().display().to_string();
    let _c = two.start(&["run", "c", "--port", &c, "--", &binary, "fake-service"]);
    let mut lazy = vec!["run", "slow", "--port", &slow, "--probe", "tcp", "--", &binary, "fake-service"];
    lazy.extend(["--latency", "3s"]);
    let _slow = two.start(&lazy);
    let ready = |name: &str, port: &str| {
        let url = format!("http://{name}:{port}/");
        eventually("an answer of the service", PATIENCE, || {
            let script = format!("exec curl -sf -m 8 {url}");
            one.tulle(&["run", "probe", "--", "sh", "-c", &script]).status.success().then_some(())
        });
    };
    ready("c", &c);
    ready("slow", &slow);

    let length = chaos::length(Duration::from_secs(3), Duration::from_secs(12)).as_secs();
    let start_load = |seconds: u64| {
        let (load, url) = (client("load.py"), format!("http://c:{c}/"));
        let process = one.run_client("polite", &[&load, &url, RATE, &seconds.to_string()]);
        process.wait_for_line("start of the load", PATIENCE, |line| line == "started");
        process
    };
    let usual = outcome(&start_load(length))["latencies"]["p99"].as_f64().unwrap();
    // Beside as many requests, most of them at once, that nobody could call abuse.
    let polite = start_load(length + 2);
    let abuse = client("abuse.py");
    let script =
        format!("exec {} {abuse} http://$C_SERVICE_HOST:$C_SERVICE_PORT/ requests 3 46", python().display());
    let many = one.start(&["run", "many", "--upstream", &format!("c:{c}"), "--", "sh", "-c", &script]);
    let answered = outcome(&many);
    let busy = outcome(&polite)["latencies"]["p99"].as_f64().unwrap();
    chaos::figure("budget across a link", "p99 beside as many requests without abuse, ms", busy);
    chaos::figure("budget across a link", "what these were", &answered);
    let (before, descriptors) = (resident(&far) / MIB, open_files(&far));
    let watch = Watch::begin(&far);
    let polite = start_load(length + 2);
    let flood = client("flood.py");
    let script = format!(
        "exec {} {flood} requests $SLOW_SERVICE_HOST $SLOW_SERVICE_PORT 24 {length}",
        python().display()
    );
    let upstream = format!("slow:{slow}");
    let greedy = one.start(&["run", "greedy", "--upstream", &upstream, "--", "sh", "-c", &script]);
    let mut most_files = 0;
    while polite.is_running() {
        most_files = most_files.max(open_files(&far));
        std::thread::sleep(Duration::from_millis(50));
    }
    let (attack, seen, most) = (outcome(&greedy), outcome(&polite), watch.end());
    let after = eventually("memory given back", PATIENCE, || {
        let now = resident(&far) / MIB;
        (now <= before + KEPT).then_some(now)
    });
    let p99 = seen["latencies"]["p99"].as_f64().unwrap();
    chaos::figure("budget across a link", "what the greedy saw", &attack);
    chaos::figure("budget across a link", "open files before, most", format!("{descriptors}, {most_files}"));
    chaos::figure(
        "budget across a link",
        "p99 of the polite, without and with, ms",
        format!("{usual}, {p99}"),
    );
    chaos::figure("budget across a link", "MiB before, most, after", format!("{before}, {most}, {after}"));
    assert_eq!(seen["failures"], serde_json::json!([]));
    assert!(is_prompt(p99, busy), "{p99} ms, {busy} ms beside as many requests without abuse");
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap().1;
    assert!(most_files as u64 <= limit / 2, "{most_files} of {limit}");
}

fn open_files(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count()
}

fn metrics(up: &Process) -> String {
    let line =
        up.stdout().lines().find_map(|line| line.split_once("metrics: ").map(|(_, url)| url.to_owned()));
    let output = Command::new("curl").args(["-s", "-m", "5", line.unwrap().trim()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
