//! What one client does to a service, and what others notice: other workloads of its node, and others of its own
//! workload, which share its links.

use std::time::Duration;

use serde_json::Value;
use tulle_tests::chaos;
use tulle_tests::harness::{Home, Hosts, Process, alone, client, eventually, python, require_root, run};

const PATIENCE: Duration = Duration::from_secs(15);
const KINDS: [&str; 5] = ["heads", "resets", "deadlines", "closes", "frames"];
/// Requests a second of each polite load.
const RATE: &str = "100";

/// A server and a node on the first host, a node with service c on the second.
struct Mesh {
    one: Home,
    two: Home,
    _processes: Vec<Process>,
    _hosts: Hosts,
}

fn mesh() -> Mesh {
    let hosts = Hosts::new();
    let [first, second] = hosts.addresses;
    let (one, two) = (Home::in_netns(&hosts.names[0]), Home::in_netns(&hosts.names[1]));
    let listen = [format!("{first}:15010"), format!("{first}:15014")];
    let server = one.start(&["server", "--node-listen", &listen[0], "--api-listen", &listen[1]]);
    eventually("an answer of the API", PATIENCE, || {
        one.tulle(&["get", "namespaces"]).status.success().then_some(())
    });
    let node = |home: &Home, name: &str, address: &str| {
        let token = one.tulle(&["token", "create"]).ok().trim().to_owned();
        let arguments =
            ["node", "--name", name, "--server", &listen[0], "--token", &token, "--advertise", address];
        let process = home.start(&arguments);
        eventually("the node's socket", PATIENCE, || home.path().join("node.sock").exists().then_some(()));
        process
    };
    let nodes = [node(&one, "one", first), node(&two, "two", second)];
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: default}\n\
                   spec: {selector: {app: c}, ports: [{port: 9091, appProtocol: http}]}\n";
    let file = one.write("c.yaml", service).display().to_string();
    one.tulle(&["apply", "-f", &file]).ok();
    let python = python().display().to_string();
    let app = two.start(&["run", "c", "--port", "9091", "--", &python, &client("hanging_server.py"), "9091"]);
    let ask = || {
        let asking = one.start(&["run", "asking", "--", "curl", "-si", "-m", "5", "http://c:9091/"]);
        asking.wait(Duration::from_secs(20));
        asking.stdout()
    };
    eventually("an answer of c", PATIENCE, || ask().contains(" 200").then_some(()));
    let processes = nodes.into_iter().chain([server, app]).collect();
    Mesh { one, two, _processes: processes, _hosts: hosts }
}

/// The sum of a metric of a node, in lines that begin so.
fn metric(home: &Home, line: &str) -> f64 {
    let text = run(home.command("curl").args(["-s", "http://127.0.0.1:15020/metrics"])).ok();
    let value = |found: &str| found.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    text.lines().filter(|found| found.starts_with(line)).filter_map(value).sum()
}

/// What somebody is told who reaches a bound that each caller has for itself (docs/limits.md).
const OF_ONE_CALLER: [&str; 4] = ["streams-full", "application-connections", "memory", "descriptors"];

/// What a load of `load.py` has come to.
struct Load {
    requests: u64,
    failures: Vec<Value>,
    p99: f64,
}

impl Load {
    fn of(process: &Process) -> Self {
        process.wait(Duration::from_secs(120));
        let text = process.stdout();
        let line = text.lines().find(|line| line.contains("\"statuses\"")).expect("the load's result");
        let value: Value = serde_json::from_str(line).unwrap();
        let requests = value["statuses"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        let failures = value["failures"].as_array().unwrap().clone();
        Self { requests, failures, p99: value["latencies"]["p99"].as_f64().unwrap() }
    }
}

/// Under each kind of abuse by one client, no other workload's request fails, and no link is closed. What the same
/// workload sends besides shares the abuser's bounds: it may find them reached, and is told so.
#[test]
fn an_abusive_client_hurts_nobody_else() {
    require_root!();
    let _alone = alone();
    let mesh = mesh();
    let seconds = chaos::length(Duration::from_secs(1), Duration::from_secs(8)).as_secs().to_string();
    let python = python().display().to_string();
    let (load, abuse, url) = (client("load.py"), client("abuse.py"), "http://c:9091/");
    let polite = |workload: &str| mesh.one.run_client(workload, &[&load, url, RATE, &seconds]);
    let before = Load::of(&polite("polite"));
    assert!(before.failures.is_empty(), "{:?}", before.failures);
    chaos::figure("abusive client", "polite p99 without it, ms", before.p99);
    for kind in KINDS {
        // Both as one workload.
        let script = format!(
            "{python} {load} {url} {RATE} {seconds} & {python} {abuse} {url} {kind} {seconds} & wait"
        );
        let same = mesh.one.start(&["run", "mixed", "--", "sh", "-c", &script]);
        let other = Load::of(&polite("polite"));
        let beside = Load::of(&same);
        let text = same.stdout();
        let did =
            text.lines().find(|line| line.starts_with("{\"connections\"") || line.contains("\"requests\""));
        let links = ["one", "two"].iter().zip([&mesh.one, &mesh.two]);
        for (name, home) in links {
            assert_eq!(metric(home, "tulle_links_abused_total"), 0.0, "{kind}: links of node {name}");
            assert_eq!(metric(home, "tulle_link_faults_total"), 0.0, "{kind}: links of node {name}");
        }
        for (whose, load) in [("another workload", &other), ("the same workload", &beside)] {
            chaos::figure("abusive client", &format!("{kind}: p99 of {whose}, ms"), load.p99);
            let (told, failed): (Vec<_>, Vec<_>) = load
                .failures
                .iter()
                .partition(|failure| OF_ONE_CALLER.iter().any(|own| failure["reason"] == *own));
            chaos::figure("abusive client", &format!("{kind}: {whose} met bounds of its own"), told.len());
            assert!(failed.is_empty(), "{kind}: {whose}: {failed:?}");
            assert!(told.is_empty() || whose == "the same workload", "{kind}: {whose}: {told:?}");
            assert!(load.requests >= 90, "{kind}: {whose}: {}", load.requests);
        }
        chaos::figure("abusive client", &format!("{kind}: what it did"), did.unwrap_or_default());
    }
    chaos::figure(
        "abusive client",
        "connections sent away",
        metric(&mesh.one, "tulle_abusive_clients_total"),
    );
    chaos::figure("abusive client", "links", metric(&mesh.one, "tulle_links{side=\"client\"}"));
}
