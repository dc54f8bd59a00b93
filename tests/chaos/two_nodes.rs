//! A server and two nodes on two hosts, a service on the second, and a load of requests from the first.

use std::time::Duration;

use serde_json::Value;
use tulle_tests::harness::{Home, Hosts, Process, client, eventually, python, run, tulle};
use tulle_tests::two_hosts::TwoHosts;

const PATIENCE: Duration = Duration::from_secs(15);

/// A server and a node on the first host; on the second a node with services c, whose answers can be told to hang,
/// and d.
pub struct Mesh {
    pub one: Home,
    pub two: Home,
    _processes: Vec<Process>,
    pub hosts: Hosts,
}

pub fn mesh() -> Mesh {
    let TwoHosts { server, node_one, node_two, one, two, hosts } = TwoHosts::start();
    let file = one.write("services.yaml", &(service("c", 9091) + &service("d", 9092))).display().to_string();
    one.tulle(&["apply", "-f", &file]).ok();
    let python = python().display().to_string();
    let app = two.start(&["run", "c", "--port", "9091", "--", &python, &client("hanging_server.py"), "9091"]);
    let binary = tulle().display().to_string();
    let other = two.start(&["run", "d", "--port", "9092", "--", &binary, "fake-service"]);
    for url in ["http://c:9091/", "http://d:9092/"] {
        eventually("an answer", PATIENCE, || {
            let asking =
                one.start(&["run", "asking", "--", "curl", "-sf", "-m", "5", "-o", "/dev/null", url]);
            asking.wait(Duration::from_secs(20)).success().then_some(())
        });
    }
    let processes = vec![node_one, node_two, server, app, other];
    Mesh { one, two, _processes: processes, hosts }
}

/// A Service for workloads of its name, which speaks HTTP.
pub fn service(name: &str, port: impl std::fmt::Display) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{port: {port}, appProtocol: http}}]}}\n"
    )
}

/// The sum of a metric of a node, in lines that begin so.
pub fn metric(home: &Home, line: &str) -> f64 {
    let text = run(home.command("curl").args(["-s", "http://127.0.0.1:15020/metrics"])).ok();
    let value = |found: &str| found.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    text.lines().filter(|found| found.starts_with(line)).filter_map(value).sum()
}

/// What a load of `load.py` has come to.
pub struct Load {
    pub requests: u64,
    pub failures: Vec<Value>,
    /// Milliseconds.
    pub p99: f64,
    /// The 50th and 99th percentile of each of its URLs.
    pub each: Vec<[f64; 2]>,
}

impl Load {
    pub fn of(process: &Process) -> Self {
        process.wait(Duration::from_secs(180));
        let text = process.stdout();
        let line = text.lines().find(|line| line.contains("\"statuses\"")).expect("the load's result");
        let value: Value = serde_json::from_str(line).unwrap();
        let requests = value["statuses"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        let failures = value["failures"].as_array().unwrap().clone();
        let of = |summary: &Value| ["p50", "p99"].map(|which| summary[which].as_f64().unwrap());
        let each = value["each"].as_array().unwrap().iter().map(of).collect();
        let [_, p99] = of(&value["latencies"]);
        Self { requests, failures, p99, each }
    }
}
