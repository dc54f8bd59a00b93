//! Clients and servers that people use, each through the whole mesh: on one node with both ways of capture, and
//! over a link. The cases are tables in the scripts of `clients/real`, which say what a client has to see.

use std::time::Duration;

use serde_json::Value;
use tulle_tests::harness::{
    Home, Process, alone, client, eventually, have_packages, may_run, node_modules, python, require_root,
    tulle,
};
use tulle_tests::two_hosts::TwoHosts;

const PATIENCE: Duration = Duration::from_secs(60);

/// What runs in the mesh: its name, its port, what that declares, its script.
const APPLICATIONS: [(&str, u16, &str, &str); 6] = [
    ("web", 9461, "http", "web_server.js"),
    ("h2", 9462, "http2", "h2_server.js"),
    ("grpc-js", 9463, "grpc", "grpc_server.js"),
    ("grpc-py", 9464, "", "grpc_server.py"),
    ("ws-js", 9465, "", "ws_server.js"),
    ("ws-py", 9466, "http", "ws_server.py"),
];
/// A service without endpoints.
const NOBODY: (&str, u16) = ("nobody", 9467);

/// What asks them. Those of one row run at the same time.
const CLIENTS: [&[&str]; 3] = [
    &[
        "grpc_client.js",
        "grpc_client.py",
        "h2_client.js",
        "web_client.js",
        "ws_client.js",
        "ws_client.py",
        "curl.py",
    ],
    // Cases that end servers.
    &["grpc_client.js kill", "h2_client.js kill", "web_client.js kill", "ws_client.js kill"],
    &["grpc_client.py kill", "ws_client.py kill"],
];

/// The clients that use an HTTP proxy, which knows names.
const BY_PROXY: [&str; 3] = ["grpc_client.js", "grpc_client.py", "ws_client.py"];

/// Whether the tools of these stories are here.
fn have_tools() -> bool {
    let npm = ["@grpc/grpc-js", "undici", "ws"];
    may_run(
        "packages of npm and PyPI (cargo xtask setup)",
        have_packages(&["grpc", "websockets", "kubernetes"], &npm),
    )
}

/// The words of a command that runs a script.
fn script(name: &str) -> Vec<String> {
    let interpreter = if name.ends_with(".js") { "node".to_owned() } else { python().display().to_string() };
    vec![interpreter, client(&format!("real/{name}"))]
}

/// `tulle` with what the scripts need.
fn start(home: &Home, arguments: &[String]) -> Process {
    let mut command = home.command(tulle());
    command.args(arguments).env("NODE_PATH", node_modules()).env("PYTHONDONTWRITEBYTECODE", "1");
    Process::spawn(&mut command)
}

/// Runs all clients as workloads of this home's node. Where names do not resolve, those that know nothing of an HTTP
/// proxy take the places of services from their environment.
#[track_caller]
fn ask_everything(home: &Home, names_resolve: bool) {
    let places: Vec<(&str, u16)> =
        APPLICATIONS.iter().map(|(name, port, ..)| (*name, *port)).chain([NOBODY]).collect();
    for row in CLIENTS {
        let asking: Vec<(&str, Process)> = row
            .iter()
            .map(|line| {
                let mut words = line.split(' ');
                let name = words.next().unwrap();
                let workload = name.replace(['.', '_'], "-");
                let mut arguments = vec!["run".to_owned(), workload];
                arguments.extend(
                    places.iter().flat_map(|(name, _)| ["--upstream".to_owned(), (*name).to_owned()]),
                );
                arguments.push("--".to_owned());
                arguments.extend(script(name));
                arguments.extend(words.map(str::to_owned));
                if names_resolve || BY_PROXY.contains(&name) {
                    arguments.extend(places.iter().map(|(name, port)| format!("{name}={name}:{port}")));
                }
                (*line, start(home, &arguments))
            })
            .collect();
        let mut wrong = Vec::new();
        for (line, process) in &asking {
            let ended = process.wait(PATIENCE);
            println!("{line}:\n{}", process.stdout());
            if !ended.success() {
                wrong.push(format!("{line}:\n{}\n{}", process.stdout(), process.stderr()));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// Runs all applications by `tulle up` on this host.
fn on_one_host(capture: &str) {
    if !have_tools() {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    let mut services = String::from("services:\n");
    for (name, port, protocol, file) in APPLICATIONS {
        let command = serde_json::to_string(&script(file)).unwrap();
        let protocol = if protocol.is_empty() { String::new() } else { format!("/{protocol}") };
        services += &format!("  {name}:\n    command: {command}\n    port: {port}{protocol}\n");
        if name == "web" {
            services += &format!("    annotations: {{tulle.dev/preserve-header-case: \"{port}\"}}\n");
        }
    }
    let (name, port) = NOBODY;
    services += &format!("  {name}:\n    command: \"true\"\n    port: {port}\n    replicas: 0\n");
    home.write("mesh/tulle.yaml", &services);
    let folder = home.path().join("mesh").display().to_string();
    let up = start(&home, &["up", &folder, "--capture", capture].map(str::to_owned));
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    ask_everything(&home, capture == "host");
    assert!(up.interrupt().success());
}

#[test]
fn real_clients_see_no_mesh_with_host_capture() {
    require_root!();
    on_one_host("host");
}

#[test]
fn real_clients_see_no_mesh_with_explicit_capture() {
    on_one_host("explicit");
}

#[test]
fn real_clients_see_no_mesh_over_links() {
    require_root!();
    if !have_tools() {
        return;
    }
    let _alone = alone();
    let mesh = TwoHosts::start();
    let service = |name: &str, port: u16, protocol: &str| {
        let protocol = if protocol.is_empty() { String::new() } else { format!(", appProtocol: {protocol}") };
        let kept =
            if name == "web" { ", annotations: {tulle.dev/preserve-header-case: \"9461\"}" } else { "" };
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default{kept}}}\n\
             spec: {{selector: {{app: {name}}}, ports: [{{port: {port}{protocol}}}]}}\n"
        )
    };
    let mut services: String =
        APPLICATIONS.iter().map(|(name, port, protocol, _)| service(name, *port, protocol)).collect();
    services += &service(NOBODY.0, NOBODY.1, "");
    let file = mesh.one.write("services.yaml", &services).display().to_string();
    mesh.one.tulle(&["apply", "-f", &file]).ok();
    let applications: Vec<Process> = APPLICATIONS
        .iter()
        .map(|(name, port, _, file)| {
            let mut arguments =
                vec!["run".to_owned(), (*name).to_owned(), "--port".to_owned(), port.to_string()];
            // Whoever runs a service under `tulle run` starts it again himself.
            arguments.extend(["--", "sh", "-c", "while :; do \"$@\"; done", "sh"].map(str::to_owned));
            arguments.extend(script(file));
            start(&mesh.two, &arguments)
        })
        .collect();
    eventually("endpoints of all", PATIENCE, || {
        let ready = mesh.one.tulle(&["get", "workloads", "-o", "json"]).stdout;
        let ready: Value = serde_json::from_str(&ready).ok()?;
        let is_ready = |workload: &&Value| {
            let conditions = workload["status"]["conditions"].as_array();
            conditions
                .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
        };
        (ready["items"].as_array()?.iter().filter(is_ready).count() == APPLICATIONS.len()).then_some(())
    });
    ask_everything(&mesh.one, true);
    drop(applications);
    assert!(mesh.node_one.interrupt().success());
    assert!(mesh.node_two.interrupt().success());
    assert!(mesh.server.interrupt().success());
}

#[test]
fn the_python_client_of_kubernetes_works() {
    if !have_tools() {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    let up = home.up(&format!(
        "services:\n  d:\n    command: [\"{binary}\", fake-service, --name, d]\n    port: 9459\n"
    ));
    let words = script("kubernetes_client.py");
    let mut command = home.command(&words[0]);
    command.args(&words[1..]).env("KUBECONFIG", home.kubeconfig()).env("PYTHONDONTWRITEBYTECODE", "1");
    let asking = Process::spawn(&mut command);
    assert!(asking.wait(PATIENCE).success(), "{}\n{}", asking.stdout(), asking.stderr());
    println!("{}", asking.stdout());
    assert!(up.interrupt().success());
}
