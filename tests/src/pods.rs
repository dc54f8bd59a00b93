//! Network namespaces as pods: each has a wire to a router, which is in none of them and has no node of its own. There is no
//! way out of these.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Home, Process, eventually, run};

const PATIENCE: Duration = Duration::from_secs(20);

/// The namespaces of a router and of two pods.
pub struct Network {
    pub router: String,
    pub pods: [String; 2],
    /// What the pods have in place of the host's name servers (ip-netns(8)).
    resolv_confs: Vec<PathBuf>,
}

/// A pod's addresses.
pub const V4: [&str; 2] = ["10.98.1.2", "10.98.2.2"];
pub const V6: [&str; 2] = ["fd98:1::2", "fd98:2::2"];
/// The router's, as all pods reach it.
pub const ROUTER: &str = "10.98.1.1";
pub const ROUTER_V6: &str = "fd98:1::1";

fn ip(line: &str) {
    run(Command::new("ip").args(line.split(' '))).ok();
}

impl Network {
    fn new() -> Self {
        let id = std::process::id();
        let router = format!("tulle-{id}-r");
        let pods = [format!("tulle-{id}-a"), format!("tulle-{id}-b")];
        for name in [&router, &pods[0], &pods[1]] {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        let mut resolv_confs = Vec::new();
        for (i, pod) in pods.iter().enumerate() {
            let net = i + 1;
            ip(&format!("-n {router} link add pod{net} type veth peer name eth0 netns {pod}"));
            for (name, device, host) in [(&router, format!("pod{net}"), 1), (pod, "eth0".to_owned(), 2)] {
                ip(&format!("-n {name} addr add 10.98.{net}.{host}/24 dev {device}"));
                ip(&format!("-n {name} addr add fd98:{net}::{host}/64 dev {device} nodad"));
                ip(&format!("-n {name} link set {device} up"));
            }
            ip(&format!("-n {pod} route add default via 10.98.{net}.1"));
            ip(&format!("-n {pod} -6 route add default via fd98:{net}::1"));
            let folder = PathBuf::from("/etc/netns").join(pod);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("resolv.conf"), format!("nameserver {ROUTER}\n")).unwrap();
            resolv_confs.push(folder);
        }
        let forward =
            "echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
        run(Command::new("ip").args(["netns", "exec", &router, "sh", "-c", forward])).ok();
        Self { router, pods, resolv_confs }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [&self.router, &self.pods[0], &self.pods[1]] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        for folder in &self.resolv_confs {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// A mesh: the server at the router, and a node in each pod.
pub struct Pods {
    pub nodes: [Process; 2],
    pub server: Process,
    pub pods: [Home; 2],
    pub router: Home,
    pub network: Network,
}

impl Pods {
    #[track_caller]
    pub fn start() -> Self {
        let network = Network::new();
        let router = Home::in_netns(&network.router);
        let pods = [0, 1].map(|i| Home::in_netns(&network.pods[i]));
        let listen = ["--listen-nodes", "0.0.0.0:15010", "--listen-api", &format!("{ROUTER}:15014")];
        let server = router.start(&[&["server"][..], &listen].concat());
        eventually("an answer of the API", PATIENCE, || {
            router.tulle(&["get", "namespaces"]).status.success().then_some(())
        });
        let nodes = [0, 1].map(|i| {
            let token = router.tulle(&["token", "create"]).ok();
            pods[i].write("token", token.trim());
            start_node(&pods[i], i)
        });
        Self { nodes, server, pods, router, network }
    }

    /// Starts the node of a pod again.
    #[track_caller]
    pub fn start_node(&mut self, i: usize) {
        self.nodes[i] = start_node(&self.pods[i], i);
    }

    #[track_caller]
    pub fn apply(&self, text: &str) {
        let file = self.router.write("objects.yaml", text).display().to_string();
        self.router.tulle(&["apply", "-f", &file]).ok();
    }

    /// Ends the mesh, as Ctrl-C does.
    #[track_caller]
    pub fn end(self) {
        let Self { nodes, server, .. } = self;
        for process in nodes.iter().chain([&server]) {
            assert!(process.interrupt().success());
        }
    }
}

#[track_caller]
fn start_node(pod: &Home, i: usize) -> Process {
    let token = pod.path().join("token").display().to_string();
    let server = format!("{ROUTER}:15010");
    let name = ["pod-a", "pod-b"][i];
    let node = pod.start(&[
        "node",
        "--name",
        name,
        "--server",
        &server,
        "--token-file",
        &token,
        "--capture",
        "namespace",
        "--workers",
        "1",
    ]);
    node.wait_for_line("node", PATIENCE, |line| line.contains("capture: namespace"));
    node
}
