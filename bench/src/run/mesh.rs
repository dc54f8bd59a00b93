//! Tulle as a pair: a server, two nodes on this host, and a workload on each. Everything is done as a
//! user would do it, with the commands of docs/hosts.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::contender::Parts;
use super::ports::Ports;
use super::process::{Process, complete};
use super::scenarios::Protocol;
use super::service::{self, Service};

const START: Duration = Duration::from_secs(20);
const COMMAND: Duration = Duration::from_secs(120);

/// The ports of the Service, each declared as what it speaks, as the other pairs are told, too.
const PORTS: &[(Protocol, u16, &str)] = &[
    (Protocol::Http1, 80, "http"),
    (Protocol::Http2, 81, "kubernetes.io/h2c"),
    (Protocol::Grpc, 82, "grpc"),
    (Protocol::Tcp, 83, "tcp"),
];

/// What a mesh consists of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    pub title: &'static str,
    /// 1: both workloads on the same node.
    pub nodes: usize,
    /// The one that is called, and others.
    pub services: usize,
    /// HTTPRoutes of each service.
    pub routes: usize,
    /// Measured in all scenarios, not only in those for variants.
    pub main: bool,
}

/// The first is Tulle as it is compared with others.
pub const SHAPES: &[Shape] = &[
    Shape { name: "tulle", title: "Tulle", nodes: 2, services: 1, routes: 0, main: true },
    Shape {
        name: "tulle-one-node",
        title: "Tulle, both workloads on one node",
        nodes: 1,
        services: 1,
        routes: 0,
        main: false,
    },
    Shape {
        name: "tulle-1",
        title: "Tulle, 1 Service with an HTTPRoute",
        nodes: 2,
        services: 1,
        routes: 1,
        main: false,
    },
    Shape {
        name: "tulle-1000",
        title: "Tulle, 1,000 Services with an HTTPRoute each, all in use",
        nodes: 2,
        services: 1000,
        routes: 1,
        main: false,
    },
    Shape {
        name: "tulle-routes",
        title: "Tulle, 1 Service with 1,000 HTTPRoutes",
        nodes: 2,
        services: 1,
        routes: 1000,
        main: false,
    },
];

pub const SETTINGS: &[&str] = &[
    "each node with --workers 1 and --capture explicit, all else as by default",
    "entry: the loopback port that the workload's node listens at for the service",
    "the Service declares what its ports speak (appProtocol)",
    "the control plane runs beside it and is not counted to the pair",
];

/// The workload of the client's side: it says where its node listens for it, and stays.
const ENVIRONMENT: &str =
    "env | grep -E '^(http_proxy|BENCH_SERVICE_PORT_)'; echo environment complete; exec sleep infinity";

pub struct Mesh {
    pub name: String,
    pub shape: Shape,
    tulle: PathBuf,
    folder: PathBuf,
    node_address: SocketAddr,
    nodes: Vec<NodePlace>,
    service_http: u16,
    service_tcp: u16,
    // Fields are dropped in this order: workloads leave before their nodes, and nodes before the server.
    workloads: Vec<Process>,
    running: Vec<Process>,
    server: Option<Process>,
    entries: BTreeMap<Protocol, SocketAddr>,
    http_proxy: Option<SocketAddr>,
}

struct NodePlace {
    name: String,
    home: PathBuf,
    links: SocketAddr,
    admin: SocketAddr,
}

impl Mesh {
    pub fn new(
        name: &str,
        shape: Shape,
        tulle: &Path,
        folder: &Path,
        service: &Service,
        ports: &mut Ports,
    ) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        let mut address =
            || anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, ports.free().context("for a node")?)));
        let mut nodes = Vec::new();
        for name in ["client-side", "server-side"].into_iter().take(shape.nodes) {
            let (home, links, admin) = (folder.join(name), address()?, address()?);
            nodes.push(NodePlace { name: name.to_owned(), home, links, admin });
        }
        let mut mesh = Self {
            name: name.to_owned(),
            shape,
            tulle: tulle.to_owned(),
            folder: folder.to_owned(),
            node_address: address()?,
            nodes,
            service_http: service.http.port(),
            service_tcp: service.tcp.port(),
            workloads: Vec::new(),
            running: Vec::new(),
            server: None,
            entries: BTreeMap::new(),
            http_proxy: None,
        };
        mesh.serve(address()?)?;
        Ok(mesh)
    }

    /// The server, with the objects of this mesh.
    fn serve(&mut self, api: SocketAddr) -> Result<()> {
        let mut command = self.command("server", "server");
        command.args(["--api-listen", &api.to_string(), "--node-listen", &self.node_address.to_string()]);
        let mut server = Process::start(&self.title("server"), &mut command, &self.log("server"))?;
        server.wait_for("sign that the server runs", START, |s| said(s, "the server runs"))?;
        self.server = Some(server);
        let objects = self.folder.join("objects.yaml");
        fs::write(&objects, objects_of(self.shape))?;
        let mut apply = self.command("server", "apply");
        apply.arg("-f").arg(&objects);
        complete(&self.title("apply"), &mut apply, COMMAND)?;
        Ok(())
    }

    pub fn version(&self) -> Result<String> {
        let version = complete("tulle", Command::new(&self.tulle).arg("--version"), COMMAND)?;
        Ok(version.trim().to_owned())
    }

    /// What its processes run.
    pub fn program(&self) -> &Path {
        &self.tulle
    }

    pub fn entry(&self, protocol: Protocol) -> Option<SocketAddr> {
        self.entries.get(&protocol).copied()
    }

    /// Starts the nodes; the first time, the workloads, too.
    pub fn start(&mut self) -> Result<()> {
        for i in (0..self.nodes.len()).rev() {
            let node = self.start_node(i)?;
            self.running.insert(0, node);
            self.running[0].wait_for("sign that the node runs", START, |n| said(n, "runs, links at"))?;
        }
        if self.workloads.is_empty() {
            self.start_workloads()?;
        }
        let entry = self.entry(Protocol::Http1).context("no entry")?;
        service::first_answer(entry, Instant::now(), START).map_err(|error| self.explain(error))?;
        self.use_all_services()
    }

    fn start_node(&self, i: usize) -> Result<Process> {
        let place = &self.nodes[i];
        let mut command = self.command(&place.name, "node");
        command.args(["--server", &self.node_address.to_string(), "--name", &place.name]);
        command.args(["--listen-links", &place.links.to_string()]);
        command.args(["--advertise", &place.links.to_string(), "--listen-admin", &place.admin.to_string()]);
        command.args(["--capture", "explicit", "--workers", "1", "--drain", "1s"]);
        if !place.home.exists() {
            let mut token = self.command("server", "token");
            token.args(["create", "--node", &place.name]);
            let text = complete(&self.title("token"), &mut token, COMMAND)?;
            let file = self.folder.join(format!("{}.token", place.name));
            fs::write(&file, text)?;
            command.arg("--token-file").arg(file);
        }
        Process::start(&self.title(&place.name), &mut command, &self.log(&place.name))
    }

    fn start_workloads(&mut self) -> Result<()> {
        let (first, last) = (0, self.nodes.len() - 1);
        let mut command = self.command(&self.nodes[last].name, "run");
        command.arg("bench");
        command.args(["--port", &format!("http:80={}", self.service_http)]);
        command.args(["--port", &format!("tcp:83={}", self.service_tcp)]);
        // What listens at these ports is the service that all the pairs have in common.
        command.args(["--", "sleep", "infinity"]);
        let name = "workload-bench";
        self.workloads.push(Process::start(&self.title(name), &mut command, &self.log(name))?);

        let mut command = self.command(&self.nodes[first].name, "run");
        command.args(["client", "--upstream", "bench"]);
        command.args(["--", "sh", "-c", ENVIRONMENT]);
        let name = "workload-client";
        let mut client = Process::start(&self.title(name), &mut command, &self.log(name))?;
        let environment = client.wait_for("environment", START, |client| {
            let output = client.output();
            output.contains("environment complete").then_some(output)
        })?;
        self.workloads.insert(0, client);
        let variable = |name: &str| {
            let value = environment.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.with_context(|| format!("a workload of {} has no {name}", self.name))
        };
        for (protocol, port, _) in PORTS {
            let port: u16 = variable(&format!("BENCH_SERVICE_PORT_{port}"))?.parse()?;
            self.entries.insert(*protocol, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        self.http_proxy = Some(variable("http_proxy")?.trim_start_matches("http://").parse()?);
        Ok(())
    }

    /// A node knows what its workloads use: so that it knows all services, each is called once.
    fn use_all_services(&self) -> Result<()> {
        let Some(proxy) = self.http_proxy.filter(|_| self.shape.services > 1) else { return Ok(()) };
        for i in 1..self.shape.services {
            let name = other(i);
            let request =
                format!("GET http://{name}:80/ HTTP/1.1\r\nHost: {name}:80\r\nConnection: close\r\n\r\n");
            let status = service::ask(proxy, &request).with_context(|| format!("a request to {name}"))?;
            anyhow::ensure!(status == 200, "{}: a request to {name} was answered {status}", self.name);
        }
        Ok(())
    }

    /// Ends the node of the client side and starts it again, with its identity and snapshot on disk.
    /// Returns when it is started, not when it is ready.
    pub fn restart_client_side(&mut self) -> Result<Instant> {
        self.running[0].stop();
        let begin = Instant::now();
        self.running[0] = self.start_node(0)?;
        Ok(begin)
    }

    pub fn parts(&self) -> Parts {
        let tree = |process: Option<&Process>| process.map(Process::tree).unwrap_or_default();
        // Where there is one node, it is both sides, and counts once.
        let (client, server) = (self.running.first(), self.running.get(1));
        Parts { client: tree(client), server: tree(server), control: tree(self.server.as_ref()) }
    }

    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        self.running.iter().chain(&self.workloads).fold(error, |error, process| process.explain(error))
    }

    /// Ends the nodes. Workloads and server stay, and wait for them.
    pub fn stop(&mut self) {
        self.running.clear();
    }

    fn command(&self, home: &str, subcommand: &str) -> Command {
        let mut command = Command::new(&self.tulle);
        command.arg(subcommand).env("TULLE_HOME", self.folder.join(home));
        // What a user's own mesh has set must not lead these astray.
        for name in ["TULLE_TOKEN", "KUBECONFIG"] {
            command.env_remove(name);
        }
        command
    }

    fn title(&self, what: &str) -> String {
        format!("{}, {what}", self.name)
    }

    fn log(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{what}.log"))
    }
}

fn said(process: &Process, text: &str) -> Option<()> {
    process.output().contains(text).then_some(())
}

/// The name of another service than the one under load.
fn other(i: usize) -> String {
    format!("other-{i}")
}

/// The resources of a mesh: services that all lead to the same workload, and their routes.
fn objects_of(shape: Shape) -> String {
    let mut text = String::new();
    for i in 0..shape.services {
        let name = if i == 0 { "bench".to_owned() } else { other(i) };
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: bench}}\n  ports:\n"
        );
        for (protocol, port, speaks) in PORTS {
            // HTTP of any kind is at one port of the workload.
            let target = if *protocol == Protocol::Tcp { 83 } else { 80 };
            let _ = writeln!(
                text,
                "  - {{name: p{port}, port: {port}, targetPort: {target}, appProtocol: {speaks}}}"
            );
        }
        for route in 0..shape.routes {
            // The last takes everything; the others would have come before it.
            let last = route + 1 == shape.routes;
            let path = if last { "/".to_owned() } else { format!("/route-{route}") };
            let _ = write!(
                text,
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}-{route}}}\nspec:\n  \
                 parentRefs: [{{group: \"\", kind: Service, name: {name}, port: 80}}]\n  \
                 rules:\n  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    \
                 backendRefs: [{{name: {name}, port: 80}}]\n"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_has_the_objects_of_its_shape() {
        for shape in SHAPES {
            let text = objects_of(*shape);
            assert_eq!(text.matches("kind: Service\nmetadata").count(), shape.services);
            assert_eq!(text.matches("kind: HTTPRoute").count(), shape.services * shape.routes);
            assert_eq!(text.matches("value: /}").count(), shape.services * shape.routes.min(1));
        }
    }
}
