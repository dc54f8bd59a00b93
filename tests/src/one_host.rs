//! A server and a node on this host, and what `tulle run` starts there: for tests of starts and stops.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Home, Process, client, eventually, python, run};

const PATIENCE: Duration = Duration::from_secs(15);

/// How the node captures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Host,
    Explicit,
}

/// A mesh of one host.
pub struct OneHost {
    pub server: Process,
    pub node: Option<Process>,
    pub home: Home,
    pub mode: Mode,
    /// The node's, unique on this host.
    pub name: String,
    node_port: u16,
}

impl OneHost {
    /// Starts server and node; the three ports from `port` on are theirs.
    #[track_caller]
    pub fn start(mode: Mode, port: u16) -> Self {
        let home = Home::new();
        let (api, nodes) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1));
        let server = home.start(&["server", "--listen-api", &api, "--listen-nodes", &nodes]);
        server.wait_for_line("server", PATIENCE, |line| line.contains("the server runs"));
        let token = home.tulle(&["token", "create"]).ok();
        home.write("token", token.trim());
        let name = format!("one-{}", std::process::id());
        let mut mesh = Self { server, node: None, home, mode, name, node_port: port + 1 };
        mesh.start_node();
        mesh
    }

    /// Starts the node, and returns when it runs, with the time that it said so.
    #[track_caller]
    pub fn start_node(&mut self) -> Instant {
        let node = self.spawn_node();
        node.wait_for_line("node", PATIENCE, |line| line.contains(" runs, links at "));
        let now = Instant::now();
        self.node = Some(node);
        now
    }

    /// Starts the node and does not wait for it.
    #[track_caller]
    pub fn spawn_node(&self) -> Process {
        let server = format!("127.0.0.1:{}", self.node_port);
        let token = self.home.path().join("token").display().to_string();
        let mode = match self.mode {
            Mode::Host => "host",
            Mode::Explicit => "explicit",
        };
        self.home.start(&[
            "node",
            "--server",
            &server,
            "--token-file",
            &token,
            "--name",
            &self.name,
            "--capture",
            mode,
            "--workers",
            "1",
            "--listen-links",
            "127.0.0.1:0",
            "--listen-admin",
            "127.0.0.1:0",
        ])
    }

    /// The node that runs.
    pub fn node(&self) -> &Process {
        self.node.as_ref().unwrap()
    }

    /// Ends the node by a signal, and returns it for what it has said.
    #[track_caller]
    pub fn stop_node(&mut self, signal: Signal) -> Process {
        let node = self.node.take().unwrap();
        node.signal(signal);
        node.wait(PATIENCE);
        node
    }

    /// Makes a Service of the workloads with that name.
    pub fn service(&self, name: &str, port: u16) {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{selector: {{app: {name}}}, ports: [{{port: {port}, appProtocol: http}}]}}\n"
        );
        let file = self.home.write(&format!("{name}.yaml"), &text).display().to_string();
        self.home.tulle(&["apply", "-f", &file]).ok();
    }

    /// Runs `service.py` as a workload, until it listens. Returns its process id, too.
    #[track_caller]
    pub fn run_service(&self, name: &str, port: u16, run: &[&str], wishes: &[&str]) -> (Process, i32) {
        let (python, script, port) = (python().display().to_string(), client("service.py"), port.to_string());
        let mut arguments = vec!["run", name, "--port", &port];
        arguments.extend(run);
        arguments.extend(["--", &python, &script, &port]);
        arguments.extend(wishes);
        let process = self.home.start(&arguments);
        let pid = said_pid(&process, "up ");
        (process, pid)
    }

    /// Whether a call through the mesh is answered, and by which process.
    pub fn ask(&self, url: &str) -> Option<i32> {
        let outcome = self.home.tulle(&["run", "asker", "--", "curl", "-s", "-m", "5", url]);
        outcome.stdout.trim().parse().ok()
    }

    /// Whether an nft table or a cgroup of this home's nodes is there.
    pub fn leaves_rules(&self) -> bool {
        let tables = run(std::process::Command::new("nft").args(["list", "tables"])).stdout;
        tables.contains(&format!("tulle-{}-", self.name)) || !self.cgroups().is_empty()
    }

    /// The cgroups of the node's workloads.
    pub fn cgroups(&self) -> Vec<String> {
        let path = format!("*/tulle/{}-*", self.name);
        let find = ["/sys/fs/cgroup", "-path", &path, "-type", "d", "-name", "*.*"];
        let mut found = std::process::Command::new("find");
        run(found.args(find)).stdout.lines().map(str::to_owned).collect()
    }

    /// Ends all and leaves nothing on the host.
    #[track_caller]
    pub fn end(mut self) {
        if let Some(node) = self.node.take() {
            assert!(node.interrupt().success());
        }
        self.home.tulle(&["node", "reset", "--stop-timeout", "1s"]).ok();
        assert!(self.server.interrupt().success());
        if self.mode == Mode::Host {
            assert!(!self.leaves_rules(), "rules or cgroups are left");
        }
    }
}

impl Drop for OneHost {
    fn drop(&mut self) {
        // Before its home, which removes what it has left.
        self.node = None;
    }
}

/// The process id that a client has told of itself, or of another one.
#[track_caller]
pub fn said_pid(process: &Process, prefix: &str) -> i32 {
    let line = process.wait_for_line(prefix, PATIENCE, |line| {
        line.strip_prefix(prefix).is_some_and(|rest| rest.parse::<i32>().is_ok())
    });
    line[prefix.len()..].parse().unwrap()
}

/// Whether a process has not ended.
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits for the end of a process.
#[track_caller]
pub fn wait_for_end(pid: i32) {
    eventually("end of the process", PATIENCE, || (!is_alive(pid)).then_some(()));
}
