//! Two namespaces with a service of the same name; workloads that look it up and call it all the time, from source
//! ports that they share; other workloads that come and go, and a node that is killed and started again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::Value;
use tulle_tests::chaos::{figure, full, length};
use tulle_tests::harness::{
    Home, Hosts, Process, alone, client, eventually, python, require_root, run, tulle,
};

const PATIENCE: Duration = Duration::from_secs(30);
const NAMESPACES: [&str; 2] = ["one", "two"];
const CLIENTS: usize = 8;
/// How long around the node's own restart lookups may fail.
const RESTART: Duration = Duration::from_secs(1);

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// A server, and a node with service c of each namespace; in a network of their own, without any way out.
struct Mesh {
    home: Home,
    address: String,
    _hosts: Hosts,
    _server: Process,
    _services: Vec<Process>,
}

impl Mesh {
    fn start() -> (Self, Process) {
        let hosts = Hosts::new();
        let home = Home::in_netns(&hosts.names[0]);
        let address = format!("{}:15010", hosts.addresses[0]);
        let api = format!("{}:15014", hosts.addresses[0]);
        let server = home.start(&["server", "--listen-nodes", &address, "--listen-api", &api]);
        eventually("an answer of the API", PATIENCE, || {
            home.tulle(&["get", "namespaces"]).status.success().then_some(())
        });
        let token = home.tulle(&["token", "create"]).ok().trim().to_owned();
        let node = home.start(&["node", "--name", "one", "--server", &address, "--token", &token]);
        let sock = home.path().join("node.sock");
        eventually("an answer of the node", PATIENCE, || sock.exists().then_some(()));
        let binary = tulle().display().to_string();
        let mut services = Vec::new();
        for (i, namespace) in NAMESPACES.into_iter().enumerate() {
            let text = format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n\
                 apiVersion: v1\nkind: Service\nmetadata: {{name: c, namespace: {namespace}}}\n\
                 spec: {{selector: {{app: c}}, ports: [{{port: 9000}}]}}\n"
            );
            let file = home.write(&format!("{namespace}.yaml"), &text).display().to_string();
            home.tulle(&["apply", "-f", &file]).ok();
            let (port, name) = (format!("9000={}", 9001 + i), format!("c-of-{namespace}"));
            services.push(home.start(&[
                "run",
                "c",
                "-n",
                namespace,
                "--port",
                &port,
                "--",
                &binary,
                "fake-service",
                "--name",
                &name,
            ]));
        }
        let mesh = Self { home, address, _hosts: hosts, _server: server, _services: services };
        for namespace in NAMESPACES {
            eventually("an answer of c", PATIENCE, || {
                let asking =
                    ["run", "first", "-n", namespace, "--", "curl", "-s", "-m", "5", "http://c:9000/"];
                mesh.home.tulle(&asking).stdout.contains(&format!("c-of-{namespace}")).then_some(())
            });
        }
        (mesh, node)
    }

    fn start_node_again(&self) -> Process {
        self.home.start(&["node", "--name", "one", "--server", &self.address])
    }

    /// Whether the node has all that was there before.
    fn is_whole(&self) -> bool {
        let socket = self.home.path().join("node.sock").display().to_string();
        let mut asking = self.home.command("curl");
        asking.args(["-s", "-m", "5", "--unix-socket", &socket, "http://node/v1/status"]);
        let Ok(status) = serde_json::from_str::<Value>(&run(&mut asking).stdout) else { return false };
        let there = status["workloads"].as_array().map_or(0, |workloads| {
            let lasting = |name: &str| name.starts_with("client-") || name == "c";
            workloads.iter().filter(|w| w["name"].as_str().is_some_and(lasting)).count()
        });
        there == CLIENTS + NAMESPACES.len()
    }
}

#[test]
fn names_are_each_namespaces_own() {
    require_root!();
    let _alone = alone();
    let (mesh, node) = Mesh::start();
    let time = length(Duration::from_secs(9), Duration::from_secs(60));
    let rate = if full() { "50" } else { "15" };
    let seconds = time.as_secs_f64().to_string();
    let script = client("names.py");
    let python = python().display().to_string();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|i| {
            let namespace = NAMESPACES[i % 2];
            let (name, expected) = (format!("client-{i}"), format!("c-of-{namespace}"));
            let of_client = [&script, "c", "9000", &expected, rate, &seconds].map(|s: &str| s.to_owned());
            let mut arguments = ["run", &name, "-n", namespace, "--", &python].map(str::to_owned).to_vec();
            arguments.extend(of_client);
            mesh.home.start(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect();
    let outside = {
        let mut command = mesh.home.command(&python);
        command.args([&script, "outside", "127.0.0.53", &seconds]);
        Process::spawn(&mut command)
    };
    let begun = now();
    // Workloads come and go, and ask, too; and the node is killed.
    let come_and_go = |until: f64| {
        let mut count = 0;
        while now() < until {
            for namespace in NAMESPACES {
                let lookup = ["run", "short", "-n", namespace, "--", "getent", "ahostsv4", "c"];
                mesh.home.tulle(&lookup);
                count += 1;
            }
        }
        count
    };
    let mut short = come_and_go(begun + time.as_secs_f64() / 3.0);
    let killed = now();
    node.signal(Signal::SIGKILL);
    node.wait(PATIENCE);
    let _node = mesh.start_node_again();
    eventually("all that was there before", PATIENCE, || mesh.is_whole().then_some(()));
    let back = now();
    short += come_and_go(begun + time.as_secs_f64() - 1.0);

    let (mut asked, mut wrong, mut failed, mut around) = (0, Vec::new(), Vec::new(), 0);
    let mut failed_calls = 0;
    let in_restart = |failure: &Value| {
        let at = failure[0].as_f64().unwrap();
        at >= killed - RESTART.as_secs_f64() && at <= back + RESTART.as_secs_f64()
    };
    for process in clients.iter().chain([&outside]) {
        process.wait(time + PATIENCE);
        let line = process.stdout();
        let result: Value = serde_json::from_str(line.lines().last().unwrap_or_default())
            .unwrap_or_else(|e| panic!("{e}: {line}\n{}", process.stderr()));
        asked += result["asked"].as_u64().unwrap();
        wrong.extend(result["wrong"].as_array().unwrap().clone());
        for failure in result["lookups"].as_array().unwrap() {
            match in_restart(failure) {
                true => around += 1,
                false => failed.push(failure.clone()),
            }
        }
        let calls = result["calls"].as_array().unwrap();
        failed_calls += calls.iter().filter(|failure| !in_restart(failure)).count();
    }
    let experiment = "names of two namespaces";
    figure(experiment, "lookups and calls", asked);
    figure(experiment, "short workloads meanwhile", short);
    figure(experiment, "wrong answers", wrong.len());
    figure(experiment, "failed lookups", failed.len());
    figure(experiment, "failed calls", failed_calls);
    figure(experiment, "failed lookups around the node's restart", around);
    figure(
        experiment,
        "seconds until all workloads were back after kill -9",
        format!("{:.2}", back - killed),
    );
    assert!(asked > 0 && wrong.is_empty(), "{wrong:?}");
    assert!(failed.is_empty(), "{failed:?}");
}
