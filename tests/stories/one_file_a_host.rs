//! `tulle up --server`: hosts whose services are described by a file each join the mesh of a server elsewhere.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tulle_tests::harness::{Home, Hosts, Process, eventually, require_root, tulle};

const PATIENCE: Duration = Duration::from_secs(30);

struct Mesh {
    server: Process,
    one: Home,
    two: Home,
    hosts: Hosts,
}

impl Mesh {
    fn start() -> Self {
        let hosts = Hosts::new();
        let (one, two) = (Home::in_netns(&hosts.names[0]), Home::in_netns(&hosts.names[1]));
        let mut mesh = Self { server: Self::serve(&one, &hosts), one, two, hosts };
        mesh.waits_for_api();
        mesh.server.is_running();
        mesh
    }

    fn serve(one: &Home, hosts: &Hosts) -> Process {
        let listen = [15010, 15014].map(|port| format!("{}:{port}", hosts.addresses[0]));
        let home = one.path().join("server").display().to_string();
        one.start(&["server", "--home", &home, "--listen-nodes", &listen[0], "--listen-api", &listen[1]])
    }

    fn waits_for_api(&mut self) {
        eventually("an answer of the API", PATIENCE, || self.ask(&["get", "namespaces"]).1.then_some(()));
    }

    /// What a command says that speaks to the server.
    fn ask(&self, command: &[&str]) -> (String, bool) {
        let kubeconfig = self.kubeconfig();
        let outcome = self.one.tulle(&[command, &["--kubeconfig", &kubeconfig]].concat());
        let well = outcome.status.success();
        (outcome.stdout, well)
    }

    fn kubeconfig(&self) -> String {
        self.one.path().join("server/kubeconfig").display().to_string()
    }

    fn join(&self, home: &Home, name: &str, file: &str, more: &[&str]) -> Process {
        let folder = home.write("mesh/tulle.yaml", file).parent().unwrap().display().to_string();
        let server = format!("{}:15010", self.hosts.addresses[0]);
        home.start(&[&["up", &folder, "--server", &server, "--name", name], more].concat())
    }

    fn token(&self, home: &Home) -> String {
        let home_of_server = self.one.path().join("server").display().to_string();
        let token = self.one.tulle(&["token", "create", "--home", &home_of_server]).ok();
        home.write("token", &token).display().to_string()
    }

    fn endpoints(&self, service: &str) -> Vec<String> {
        let (text, _) = self.ask(&["get", "workloads", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let is_ready = |item: &&Value| {
            let conditions = item["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        let of_it = items.iter().filter(|item| item["metadata"]["labels"]["app"] == service).filter(is_ready);
        of_it.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }
}

fn file(api: u16, more: &str) -> String {
    let fake = |name: &str, port: u16, more: &str| {
        format!(
            "  {name}:\n    command: [\"{}\", fake-service, --name, \"{name} of ${{TULLE_WORKLOAD}}\"]\n    port: {port}\n{more}",
            tulle().display()
        )
    };
    format!(
        "name: shop\nservices:\n{}{}{more}",
        fake("api", api, "    replicas: 2\n"),
        fake("web", 9502, "    dependsOn: [api]\n")
    )
}

fn is_ready(up: &Process) {
    up.wait_for_line("the start of all", PATIENCE, |line| line.contains("all services are ready"));
}

#[test]
fn hosts_with_a_file_each_are_one_mesh() {
    require_root!();
    let mut mesh = Mesh::start();
    let (token_one, token_two) = (mesh.token(&mesh.one), mesh.token(&mesh.two));

    // The first applies what its file says, as whoever the kubeconfig is for.
    let kubeconfig = mesh.kubeconfig();
    let one = mesh.join(
        &mesh.one,
        "one",
        &file(9501, ""),
        &["--token-file", &token_one, "--kubeconfig", &kubeconfig],
    );
    one.wait_for_line("a Service", PATIENCE, |line| {
        line.contains("Service default/api is created in the mesh")
    });
    is_ready(&one);
    // The second may not, and says what differs.
    let two = mesh.join(&mesh.two, "two", &file(9509, ""), &["--token-file", &token_two]);
    two.wait_for_line("the difference", PATIENCE, |line| {
        line.contains("Service default/api has the ports 9501 in the mesh, and 9509 in the file")
    });
    mesh.two.write("mesh/tulle.yaml", &file(9501, ""));
    is_ready(&two);
    eventually("the processes of both", PATIENCE, || {
        let mut all = mesh.endpoints("api");
        all.sort();
        (all == ["api-one-0", "api-one-1", "api-two-0", "api-two-1"]).then_some(())
    });

    // One calls the other's, by the names of both.
    let asked = |home: &Home| {
        let said = home.tulle(&[
            "run",
            "me",
            "-q",
            "--",
            "sh",
            "-c",
            "for i in $(seq 40); do curl -sS -m 5 http://web:9502/; echo; done",
        ]);
        said.stdout
    };
    for home in [&mesh.one, &mesh.two] {
        eventually("answers of both hosts", PATIENCE, || {
            let said = asked(home);
            (said.contains("web of") && said.contains("web-one-0") && said.contains("web-two-0"))
                .then_some(())
        });
    }

    // A published port leads to processes of its own host alone.
    let published =
        file(9501, "").replace("    dependsOn: [api]\n", "    dependsOn: [api]\n    publish: 9510\n");
    mesh.two.write("mesh/tulle.yaml", &published);
    let page = |home: &Home| {
        home.command("curl").args(["-sS", "-m", "5", "http://127.0.0.1:9510/"]).output().unwrap()
    };
    let answers = || String::from_utf8_lossy(&page(&mesh.two).stdout).into_owned();
    eventually("the published port", PATIENCE, || answers().contains("web of").then_some(()));
    for _ in 0..20 {
        assert!(answers().contains("web-two-0"), "{}", answers());
    }
    mesh.two.tulle(&["scale", "web=0"]).ok();
    eventually("the end of the only process there", PATIENCE, || {
        answers().contains("no process of default/web on this host takes traffic at port 9502").then_some(())
    });
    mesh.two.tulle(&["scale", "web=1"]).ok();
    mesh.two.write("mesh/tulle.yaml", &file(9501, ""));
    two.wait_for_line("the end of the port", PATIENCE, |line| line.contains("web publish changed"));

    // A second one with the same state, and a node in its place, are refused; `up` of the same file is a change of it.
    let folder = mesh.two.path().join("mesh").display().to_string();
    let server = format!("{}:15010", mesh.hosts.addresses[0]);
    assert!(
        mesh.two.tulle(&["up", &folder, "--server", &server, "--name", "two"]).ok().contains("runs already")
    );
    let node = mesh.two.tulle(&["node", "--server", &server, "--name", "two"]);
    assert_eq!(node.code(), 5, "{}", node.stderr);

    // Without the server, and without the token, they start from what they know.
    assert!(two.interrupt().success());
    mesh.server.signal(Signal::SIGKILL);
    mesh.server.wait(PATIENCE);
    std::fs::remove_file(&token_two).unwrap();
    let two = mesh.join(&mesh.two, "two", &file(9501, ""), &["--token-file", &token_two]);
    is_ready(&two);
    eventually("an answer without the server", PATIENCE, || {
        asked(&mesh.two).contains("web of").then_some(())
    });
    mesh.server = Mesh::serve(&mesh.one, &mesh.hosts);
    mesh.waits_for_api();
    eventually("the host with its server", PATIENCE, || {
        mesh.endpoints("api").iter().any(|name| name == "api-two-0").then_some(())
    });

    // What is only the first's goes with its line in the file; what somebody else has applied stays.
    mesh.one.write(
        "own.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: own}\nspec: {ports: [{port: 80}]}\n",
    );
    let own = mesh.one.path().join("own.yaml").display().to_string();
    assert!(mesh.ask(&["apply", "-f", &own]).1);
    mesh.one.write("mesh/tulle.yaml", file(9501, "").split("  web:").next().unwrap());
    one.wait_for_line("the end of a Service", PATIENCE, |line| {
        line.contains("Service default/web is removed in the mesh")
    });
    let (services, _) = mesh.ask(&["get", "services"]);
    assert!(services.contains("own") && services.contains("api") && !services.contains("web"), "{services}");
    assert!(two.interrupt().success());
    assert!(one.interrupt().success());

    // Beside a node it is refused, with what to do.
    let node = mesh.two.start(&["node", "--server", &server, "--name", "two"]);
    eventually("the node's socket", PATIENCE, || mesh.two.path().join("node.sock").exists().then_some(()));
    let refused = mesh.two.tulle(&["up", &folder, "--server", &server, "--name", "two"]);
    assert_eq!(refused.code(), 5);
    assert!(refused.stderr.contains("a `tulle node` runs on this host"), "{}", refused.stderr);
    assert!(refused.stderr.contains("`tulle run NAME -- COMMAND`"), "{}", refused.stderr);
    assert!(node.interrupt().success());
}
