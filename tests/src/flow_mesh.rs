//! A server; a node with a service `tasks`, which nobody harms; and nodes that run Flows of the namespace `default`.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::counting::CountingService;
use crate::harness::{Home, Process};
use crate::ports::free_port;

const PATIENCE: Duration = Duration::from_secs(20);

pub struct FlowMesh {
    /// That of the server.
    pub home: Home,
    pub service: CountingService,
    /// `runner-0` and so on; `None`: it was ended.
    pub runners: Vec<(Home, Option<Process>)>,
    server: Option<Process>,
    server_arguments: Vec<String>,
    nodes: String,
    _others: Vec<Process>,
}

impl FlowMesh {
    /// Starts all of them; `more`: further arguments of the server.
    #[track_caller]
    pub fn start(service: CountingService, runners: usize, more: &[&str]) -> Self {
        let home = Home::new();
        let [api, nodes] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
        let arguments = ["server", "--listen-api", &api, "--listen-nodes", &nodes];
        let server_arguments = arguments.iter().chain(more).map(|&argument| argument.to_owned()).collect();
        let (names, server) = ((0..runners).map(|i| format!("runner-{i}")), None);
        let (runners, others) = (Vec::new(), Vec::new());
        let mut mesh = Self { home, service, runners, server, server_arguments, nodes, _others: others };
        mesh.start_server();
        let token = mesh.home.tulle(&["token", "create"]).ok();
        let node = mesh.node(&mesh.home, "services", Some(token.trim()));
        let port = format!("80={}", mesh.service.port);
        let tasks = mesh.home.start(&["run", "tasks", "--port", &port, "--", "sleep", "600"]);
        mesh._others.extend([node, tasks]);
        for name in names {
            let token = ["token", "create", "--identity", "none/none", "--flows", "default"];
            let (home, token) = (Home::new(), mesh.home.tulle(&token).ok());
            let runner = mesh.node(&home, &name, Some(token.trim()));
            mesh.runners.push((home, Some(runner)));
        }
        mesh
    }

    #[track_caller]
    fn start_server(&mut self) {
        let arguments: Vec<_> = self.server_arguments.iter().map(String::as_str).collect();
        let server = self.home.start(&arguments);
        server.wait_for_line("server", PATIENCE, |line| line.contains("the server runs"));
        self.server = Some(server);
    }

    #[track_caller]
    fn node(&self, home: &Home, name: &str, token: Option<&str>) -> Process {
        let mut arguments = vec!["node", "--server", &self.nodes, "--name", name, "--capture", "explicit"];
        arguments.extend([
            "--workers",
            "1",
            "--listen-links",
            "127.0.0.1:0",
            "--listen-admin",
            "127.0.0.1:0",
        ]);
        arguments.extend(token.into_iter().flat_map(|token| ["--token", token]));
        let node = home.start(&arguments);
        node.wait_for_line("node", PATIENCE, |line| line.contains(" runs, links at "));
        node
    }

    /// Kills a runner, and starts it again at once.
    #[track_caller]
    pub fn kill_runner(&mut self, which: usize) {
        self.end_runner(which);
        let (home, _) = &self.runners[which];
        let again = self.node(home, &format!("runner-{which}"), None);
        self.runners[which].1 = Some(again);
    }

    #[track_caller]
    pub fn end_runner(&mut self, which: usize) {
        let runner = self.runners[which].1.take().unwrap();
        runner.signal(Signal::SIGKILL);
        runner.wait(PATIENCE);
    }

    /// Kills the server, and starts it again at once.
    #[track_caller]
    pub fn kill_server(&mut self) {
        let server = self.server.take().unwrap();
        server.signal(Signal::SIGKILL);
        server.wait(PATIENCE);
        self.start_server();
    }
}
