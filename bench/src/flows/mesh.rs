//! The mesh that flows are measured in: a server with its store on disk, one node that runs Flows, and four services.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::event::{self, SECOND};
use crate::run::accounting;
use crate::run::interrupt;
use crate::run::ports::Ports;
use crate::run::process::{Process, complete};
use crate::run::results::Memory;

use super::requests::Requests;

const START: Duration = Duration::from_secs(30);
const COMMAND: Duration = Duration::from_secs(120);
const OBJECTS: &str = include_str!("objects.yaml");
const SERVICES: &[&str] = &["c", "d", "e", "f"];
/// The workload that starts runs: it says where its proxy is, and stays.
const CLIENT: &str = "env | grep -E '^http_proxy='; echo environment complete; exec sleep infinity";

pub struct FlowMesh {
    tulle: PathBuf,
    folder: PathBuf,
    proxy: SocketAddr,
    // Dropped in this order: workloads leave before the node, and the node before the server.
    workloads: Vec<Process>,
    node: Process,
    server: Process,
}

/// CPU seconds, user's and system's, since a process began.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    pub server: f64,
    pub node: f64,
}

impl FlowMesh {
    /// Starts all of it in `folder`, which is to be empty, and waits until a run goes through.
    pub fn start(tulle: &Path, folder: &Path, ports: &mut Ports) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        let mut address = || anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, ports.free()?)).to_string());
        let [api, nodes, links, admin] = [address()?, address()?, address()?, address()?];
        let command = |home: &str, arguments: &[&str]| tulle_command(tulle, &folder.join(home), arguments);
        let log = |name: &str| folder.join(format!("{name}.log"));

        let mut serve = command("server", &["server", "--api-listen", &api, "--node-listen", &nodes]);
        let mut server = Process::start("the server", &mut serve, &log("server"))?;
        server.wait_for("sign that the server runs", START, |s| said(s, "the server runs"))?;
        let objects = folder.join("objects.yaml");
        fs::write(&objects, OBJECTS)?;
        complete("apply", command("server", &["apply", "-f"]).arg(&objects), COMMAND)?;
        let mut create = command("server", &["token", "create", "--node", "flows", "--flows", "default"]);
        let token = folder.join("token");
        fs::write(&token, complete("token", &mut create, COMMAND)?)?;

        let mut join = command("node", &["node", "--server", &nodes, "--name", "flows"]);
        join.args([
            "--capture",
            "explicit",
            "--drain",
            "1s",
            "--listen-links",
            &links,
            "--advertise",
            &links,
        ]);
        join.args(["--listen-admin", &admin, "--token-file"]).arg(&token);
        let mut node = Process::start("the node", &mut join, &log("node"))?;
        node.wait_for("sign that the node runs", START, |n| said(n, "runs, links at"))?;

        let mut workloads = Vec::new();
        for name in SERVICES {
            let port = format!("80={}", ports.free()?);
            let mut run = command("node", &["run", name, "--port", &port, "--probe", "http:/healthz", "--"]);
            run.arg(tulle).args(["fake-service", "--name", name]);
            workloads.push(Process::start(name, &mut run, &log(name))?);
        }
        let mut run = command("node", &["run", "clients", "--", "sh", "-c", CLIENT]);
        let mut clients = Process::start("clients", &mut run, &log("clients"))?;
        let environment = clients.wait_for("environment", START, |clients| {
            let output = clients.output();
            output.contains("environment complete").then_some(output)
        })?;
        workloads.insert(0, clients);
        let proxy = environment.lines().find_map(|line| line.strip_prefix("http_proxy=http://"));
        let proxy = proxy.context("the workload of the clients has no http_proxy")?.trim_end_matches('/');
        let proxy = proxy.parse().with_context(|| format!("http_proxy: {proxy}"))?;

        let (tulle, folder) = (tulle.to_owned(), folder.to_owned());
        let mesh = Self { tulle, folder, proxy, workloads, node, server };
        mesh.wait_for_runs().map_err(|error| mesh.explain(error))?;
        Ok(mesh)
    }

    /// The Flow of five calls calls all services: once it answers, all is ready.
    fn wait_for_runs(&self) -> Result<()> {
        let end = Instant::now() + START;
        let mut requests = Requests::of("five", self.proxy);
        (requests.seconds, requests.at_most) = (2.0, Some(1));
        loop {
            interrupt::check()?;
            match requests.once() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("no run ended well within {START:?}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Where the clients' workload has its proxy.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// All processes of the server, and of the node.
    pub fn trees(&self) -> [Vec<u32>; 2] {
        [self.server.tree(), self.node.tree()]
    }

    /// All processes of the services.
    pub fn services(&self) -> Vec<u32> {
        self.workloads.iter().flat_map(Process::tree).collect()
    }

    pub fn used(&self) -> Used {
        let nanoseconds = |pids: &[u32]| pids.iter().map(|pid| event::cpu_of(pid.cast_signed())).sum::<u64>();
        let [server, node] = self.trees().map(|pids| nanoseconds(&pids) as f64 / SECOND as f64);
        Used { server, node }
    }

    /// Of the server, and of the node.
    pub fn memory(&self) -> [Memory; 2] {
        self.trees().map(|pids| accounting::memory(&pids))
    }

    /// How many runs of a Flow are in this state, which the API is asked for.
    pub fn runs(&self, flow: &str, state: &str) -> Result<u64> {
        let arguments = ["flow", "runs", flow, "--state", state, "-o", "json"];
        let mut list = tulle_command(&self.tulle, &self.folder.join("server"), &arguments);
        let printed = complete("flow runs", &mut list, COMMAND)?;
        let list: serde_json::Value = serde_json::from_str(&printed).context("`tulle flow runs`")?;
        list["runs"].as_array().map(|runs| runs.len() as u64).context("`tulle flow runs` lists nothing")
    }

    /// Adds what its processes last said to an error that they may have caused.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        self.server.explain(self.node.explain(error))
    }
}

fn tulle_command(tulle: &Path, home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(tulle);
    command.args(arguments).env("TULLE_HOME", home);
    // What a user's own mesh has set must not lead these astray.
    for name in ["TULLE_TOKEN", "KUBECONFIG"] {
        command.env_remove(name);
    }
    command
}

fn said(process: &Process, text: &str) -> Option<()> {
    process.output().contains(text).then_some(())
}
