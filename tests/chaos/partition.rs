//! The control plane is cut off, frozen or started again, while requests between nodes go on: nothing that
//! serves is taken away.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tulle_tests::chaos::{figure, length};
use tulle_tests::harness::{Home, Process, alone, eventually, require_root, run, tulle};

const PATIENCE: Duration = Duration::from_secs(20);
/// Short, so that its end is seen soon.
const LEASE: &str = "2s";

/// Three hosts on one wire each to a fourth, which routes: the server, a node that calls, a node that answers.
struct Wires {
    prefix: String,
}

const HOSTS: [&str; 3] = ["server", "near", "far"];

impl Wires {
    fn new() -> Self {
        let wires = Self { prefix: format!("tulle-part-{}", std::process::id()) };
        let hub = wires.name("hub");
        ip(&format!("netns add {hub}"));
        ip(&format!("-n {hub} link set lo up"));
        run(Command::new("ip").args(["netns", "exec", &hub, "sysctl", "-qw", "net.ipv4.ip_forward=1"])).ok();
        for (i, host) in HOSTS.iter().enumerate() {
            let name = wires.name(host);
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link add wire type veth peer name {host} netns {hub}"));
            ip(&format!("-n {name} addr add 10.98.{i}.2/24 dev wire"));
            ip(&format!("-n {hub} addr add 10.98.{i}.1/24 dev {host}"));
            ip(&format!("-n {name} link set wire up"));
            ip(&format!("-n {hub} link set {host} up"));
            ip(&format!("-n {name} route add default via 10.98.{i}.1"));
        }
        wires
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// What goes from one host to another is dropped, without a word.
    fn cut(&self, from: usize, to: usize) {
        self.nft("add table ip cut; add chain ip cut f { type filter hook forward priority 0; }");
        self.nft(&format!("add rule ip cut f ip saddr 10.98.{from}.2 ip daddr 10.98.{to}.2 drop"));
    }

    fn heal(&self) {
        self.nft("delete table ip cut");
    }

    fn nft(&self, rules: &str) {
        run(Command::new("ip").args(["netns", "exec", &self.name("hub"), "nft", rules])).ok();
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for host in HOSTS.iter().chain(&["hub"]) {
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).status();
        }
    }
}

fn ip(line: &str) {
    run(Command::new("ip").args(line.split(' '))).ok();
}

/// Service c has a replica on each of the two nodes; a client on the near one asks it all the time.
struct Mesh {
    wires: Wires,
    server_home: Home,
    server: Process,
    _near: (Home, Process),
    far: (Home, Process),
    _apps: Vec<Process>,
    client: Process,
}

impl Mesh {
    fn start() -> Self {
        let wires = Wires::new();
        let server_home = Home::in_netns(&wires.name("server"));
        let server = start_server(&server_home);
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: default}\n\
                       spec: {selector: {app: c}, ports: [{port: 9091, appProtocol: http}]}\n";
        let file = server_home.write("c.yaml", service).display().to_string();
        server_home.tulle(&["apply", "-f", &file]).ok();
        let node = |host: &str| {
            let home = Home::in_netns(&wires.name(host));
            let token = server_home.tulle(&["token", "create"]).ok().trim().to_owned();
            let arguments = [
                "node",
                "--name",
                host,
                "--server",
                "10.98.0.2:15010",
                "--token",
                &token,
                "--capture",
                "explicit",
            ];
            let process = home.start(&arguments);
            eventually("a socket of the node", PATIENCE, || {
                home.path().join("node.sock").exists().then_some(())
            });
            (home, process)
        };
        let (near, far) = (node("near"), node("far"));
        let binary = tulle().display().to_string();
        let app = |home: &Home, name: &str| {
            let command = ["run", name, "--label", "app=c", "--service-account", "c", "--port", "9091", "--"];
            home.start(&[&command[..], &[&binary, "fake-service", "--name", name]].concat())
        };
        let apps = vec![app(&near.0, "c-near"), app(&far.0, "c-far")];
        let script = "while :; do curl -s -m 2 -o /dev/null -w '%{http_code}\\n' http://c:9091/; \
                      sleep 0.05; done";
        eventually("two endpoints", PATIENCE, || {
            server_home.tulle(&["status"]).stdout.contains("2/2 ready").then_some(())
        });
        let client = near.0.start(&["run", "a", "--", "sh", "-c", script]);
        client.wait_for_line("answer", PATIENCE, |line| line == "200");
        eventually("answers alone", PATIENCE, || {
            let (ok, _) = counts(&client);
            (ok >= 5).then_some(())
        });
        Self { wires, server_home, server, _near: near, far, _apps: apps, client }
    }

    fn is_stale(&self, workload: &str) -> bool {
        let table = self.server_home.tulle(&["get", "workloads"]).stdout;
        table.lines().any(|line| line.starts_with(workload) && line.contains("(stale"))
    }

    /// How many requests fail while that is done.
    fn during(&self, experiment: &str, what: &str, act: impl FnOnce()) -> u64 {
        let (ok, failed) = counts(&self.client);
        act();
        let (ok_now, failed_now) = counts(&self.client);
        figure(experiment, &format!("{what}: requests answered"), ok_now - ok);
        figure(experiment, &format!("{what}: requests failed"), failed_now - failed);
        assert!(ok_now > ok, "{experiment}, {what}: requests go on");
        failed_now - failed
    }
}

fn start_server(home: &Home) -> Process {
    let server = home.start(&[
        "server",
        "--listen-nodes",
        "10.98.0.2:15010",
        "--listen-api",
        "10.98.0.2:15014",
        "--lease",
        LEASE,
    ]);
    eventually("an answer of the API", PATIENCE, || {
        home.tulle(&["get", "namespaces"]).status.success().then_some(())
    });
    server
}

/// Of the client's requests: answered with 200, and not.
fn counts(client: &Process) -> (u64, u64) {
    let text = client.stdout();
    let ok = text.lines().filter(|line| *line == "200").count() as u64;
    (ok, text.lines().count() as u64 - ok)
}

fn wait(short: u64, long: u64) {
    std::thread::sleep(length(Duration::from_secs(short), Duration::from_secs(long)));
}

#[test]
fn a_node_that_is_cut_off_from_the_server_serves_on() {
    require_root!();
    let _alone = alone();
    let mesh = Mesh::start();
    let name = "node cut off from the server";
    for (what, cuts) in [("one way", &[(2, 0)][..]), ("both ways", &[(2, 0), (0, 2)])] {
        let failed = mesh.during(name, what, || {
            let start = Instant::now();
            cuts.iter().for_each(|&(from, to)| mesh.wires.cut(from, to));
            eventually("staleness", PATIENCE, || mesh.is_stale("c-far").then_some(()));
            figure(name, &format!("{what}: until it is stale, ms"), start.elapsed().as_millis());
            wait(1, 15);
        });
        assert_eq!(failed, 0, "{what}");
        let answers = mesh.server_home.tulle(&["status"]).ok();
        assert!(answers.contains("2/2 ready, 1 stale") && answers.contains("ready, stale "), "{answers}");
        let failed = mesh.during(name, "healing", || {
            let start = Instant::now();
            mesh.wires.heal();
            eventually("the node's return", PATIENCE, || (!mesh.is_stale("c-far")).then_some(()));
            figure(name, "until it is heard again, ms", start.elapsed().as_millis());
        });
        assert_eq!(failed, 0, "healing, {what}");
    }
}

#[test]
fn the_server_is_cut_off_frozen_and_started_again_and_nothing_is_taken_away() {
    require_root!();
    let _alone = alone();
    let mut mesh = Mesh::start();
    let name = "server cut off from all nodes";
    let failed = mesh.during(name, "both ways", || {
        for host in [1, 2] {
            mesh.wires.cut(host, 0);
            mesh.wires.cut(0, host);
        }
        eventually("staleness", PATIENCE, || mesh.is_stale("c-near").then_some(()));
        mesh.wires.heal();
        eventually("the nodes' return", PATIENCE, || {
            (!mesh.is_stale("c-far") && !mesh.is_stale("c-near")).then_some(())
        });
    });
    assert_eq!(failed, 0);

    let failed = mesh.during("server frozen", "for longer than the lease", || {
        mesh.server.signal(Signal::SIGSTOP);
        wait(3, 15);
        mesh.server.signal(Signal::SIGCONT);
        wait(1, 5);
        assert!(!mesh.is_stale("c-far"), "the server was the one who did not listen");
    });
    assert_eq!(failed, 0);

    // It is killed, and the far node cannot reach the new one.
    mesh.wires.cut(2, 0);
    mesh.server.signal(Signal::SIGKILL);
    mesh.server.wait(PATIENCE);
    mesh.server = start_server(&mesh.server_home);
    let failed = mesh.during("server started again", "a node that it has not heard", || {
        eventually("staleness", PATIENCE, || mesh.is_stale("c-far").then_some(()));
        wait(1, 10);
    });
    assert_eq!(failed, 0);
}

#[test]
fn a_frozen_node_is_gone_round_and_comes_back() {
    require_root!();
    let _alone = alone();
    let mesh = Mesh::start();
    let name = "node frozen";
    mesh.far.1.signal(Signal::SIGSTOP);
    // Nothing is asked of this time: a request that went there waits for the link to be found dead.
    eventually("staleness", PATIENCE, || mesh.is_stale("c-far").then_some(()));
    // Its links are found dead within ten seconds; requests on them fail or are repeated.
    std::thread::sleep(Duration::from_secs(9));
    let failed = mesh.during(name, "when its links are found dead", || wait(2, 15));
    assert_eq!(failed, 0, "it is gone round");
    mesh.far.1.signal(Signal::SIGCONT);
    let failed = mesh.during(name, "afterwards", || {
        eventually("its return", PATIENCE, || (!mesh.is_stale("c-far")).then_some(()));
        wait(1, 5);
    });
    assert_eq!(failed, 0);

    // One that does not come back is deleted.
    assert!(!mesh.server_home.tulle(&["delete", "node", "far"]).status.success(), "it is connected");
    mesh.far.1.signal(Signal::SIGSTOP);
    eventually("staleness", PATIENCE, || mesh.is_stale("c-far").then_some(()));
    mesh.server_home.tulle(&["delete", "node", "far"]).ok();
    let table = mesh.server_home.tulle(&["get", "workloads"]).ok();
    assert!(!table.contains("c-far") && table.contains("c-near"), "{table}");
    mesh.far.1.signal(Signal::SIGCONT);
    eventually("its return after all", PATIENCE, || {
        mesh.server_home.tulle(&["get", "workloads"]).ok().contains("c-far").then_some(())
    });
}
