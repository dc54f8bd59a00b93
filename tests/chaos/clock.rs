//! Wall clocks that are wrong, or are set while everything runs (libfaketime; clocks that nobody sets go
//! on): mTLS works, and nobody asks for certificates in a hot loop.

use std::time::{Duration, Instant};

use tulle_tests::chaos::{figure, length};
use tulle_tests::faked::{Faked, library};
use tulle_tests::harness::{Home, Process, eventually, may_run, tulle};
use tulle_tests::ports::free_port;

const PATIENCE: Duration = Duration::from_secs(15);
/// How soon mTLS has to work again after a clock was set.
const RECOVERY: Duration = Duration::from_secs(8);

/// A server and two nodes on loopback, with service c on the second node.
struct Mesh {
    server: Faked,
    one: Faked,
    two: Faked,
    _app: Process,
    probes: std::cell::Cell<u32>,
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

impl Mesh {
    /// Its parts with clocks that are so far from this host's: of the server, the first and the second node.
    fn start([server, one, two]: [&str; 3]) -> Self {
        let [nodes, api] = [free_address(), free_address()];
        let server =
            Faked::start(Home::new(), server, &["server", "--listen-nodes", &nodes, "--listen-api", &api]);
        eventually("an answer of the API", PATIENCE, || {
            server.home.tulle(&["get", "namespaces"]).status.success().then_some(())
        });
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: default}\n\
                       spec: {selector: {app: c}, ports: [{port: 9091, appProtocol: http}]}\n";
        let file = server.home.write("c.yaml", service).display().to_string();
        server.home.tulle(&["apply", "-f", &file]).ok();
        let node = |name: &str, clock: &str| {
            let token = server.home.tulle(&["token", "create"]).ok().trim().to_owned();
            let (links, admin) = (free_address(), free_address());
            let arguments = ["node", "--name", name, "--server", &nodes, "--token", &token];
            let more = ["--listen-links", &links, "--listen-admin", &admin, "--capture", "explicit"];
            let node = Faked::start(Home::new(), clock, &[&arguments[..], &more[..]].concat());
            eventually("a socket of the node", PATIENCE, || {
                node.home.path().join("node.sock").exists().then_some(())
            });
            node
        };
        let (one, two) = (node("one", one), node("two", two));
        let port = free_port();
        let binary = tulle().display().to_string();
        let app = two.home.start(&[
            "run",
            "c",
            "--port",
            &format!("9091={port}"),
            "--",
            &binary,
            "fake-service",
            "--name",
            "c",
        ]);
        let mesh = Self { server, one, two, _app: app, probes: std::cell::Cell::new(0) };
        mesh.until_it_works("the start", PATIENCE);
        mesh
    }

    /// Whether a workload with a new identity, so with a new certificate and a new link, gets an answer. (One
    /// that asks before its certificate is there gets none: ask again.)
    fn works(&self) -> bool {
        let name = format!("probe-{}", self.probes.replace(self.probes.get() + 1));
        let client = self.one.home.start(&[
            "run",
            &name,
            "--",
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-m",
            "2",
            "http://c:9091/",
        ]);
        client.wait(PATIENCE);
        client.stdout().ends_with("200")
    }

    #[track_caller]
    fn until_it_works(&self, what: &str, patience: Duration) -> Duration {
        let start = Instant::now();
        eventually(&format!("new link after {what}"), patience, || self.works().then_some(()));
        start.elapsed()
    }

    /// How many certificates the server has signed.
    fn signed(&self) -> u64 {
        let metrics = self.server.home.kubectl(&["get", "--raw", "/metrics"]).ok();
        let name = "tulle_server_certificates_issued_total ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
    }

    /// Sets clocks, and sees mTLS work again, and few certificates asked for.
    #[track_caller]
    fn jump(&self, experiment: &str, whose: &[&Faked], clock: &str) {
        let before = self.signed();
        let probes = self.probes.get();
        whose.iter().for_each(|process| process.set(clock));
        // Certificates of before the jump must be found out first.
        std::thread::sleep(length(Duration::from_millis(1500), Duration::from_secs(10)));
        let recovery = self.until_it_works(&format!("{experiment} {clock}"), RECOVERY);
        std::thread::sleep(length(Duration::from_millis(500), Duration::from_secs(10)));
        self.until_it_works(&format!("{experiment} {clock}, for good"), RECOVERY);
        let signed = self.signed() - before - u64::from(self.probes.get() - probes);
        figure(experiment, &format!("{clock}: until a new link, ms"), recovery.as_millis());
        figure(experiment, &format!("{clock}: certificates asked for besides"), signed);
        assert!(signed <= 20, "{experiment} {clock}: {signed} certificates");
    }
}

fn ready() -> bool {
    may_run("libfaketime", library().is_some())
}

#[test]
fn the_clock_of_the_whole_mesh_jumps() {
    if !ready() {
        return;
    }
    let mesh = Mesh::start(["+0", "+0", "+0"]);
    let all = [&mesh.server, &mesh.one, &mesh.two];
    mesh.jump("all clocks", &all, "+7200");
    mesh.jump("all clocks", &all, "-7200");
    mesh.jump("all clocks", &all, "+0");
}

#[test]
fn the_clock_of_the_server_alone_jumps() {
    if !ready() {
        return;
    }
    let mesh = Mesh::start(["+0", "+0", "+0"]);
    mesh.jump("server's clock", &[&mesh.server], "+7200");
    mesh.jump("server's clock", &[&mesh.server], "-7200");
    // Beyond the life of every certificate.
    mesh.jump("server's clock", &[&mesh.server], "+200000");
}

#[test]
fn the_clock_of_a_node_jumps_and_both_sides_say_so() {
    if !ready() {
        return;
    }
    let mesh = Mesh::start(["+0", "+0", "+0"]);
    mesh.jump("a node's clock", &[&mesh.one], "+7200");
    let said = |side: &str| {
        eventually("a word about it in both logs and the status", PATIENCE, || {
            let status = mesh.server.home.tulle(&["status"]).ok();
            let logs = [&mesh.one, &mesh.server].map(|part| {
                let (out, err) = (part.process.stdout(), part.process.stderr());
                format!("{out}\n{err}").lines().any(|line| line.contains("clock") && line.contains(side))
            });
            (logs == [true, true] && status.contains(side) && status.contains("`one`")).then_some(())
        });
    };
    said("2h ahead of");
    mesh.jump("a node's clock", &[&mesh.two], "-7200");
    let status = mesh.server.home.tulle(&["status"]).ok();
    assert!(status.contains("`two` is 2h behind"), "{status}");
}

#[test]
fn a_node_an_hour_ahead_serves_and_asks_for_few_certificates() {
    if !ready() {
        return;
    }
    let mesh = Mesh::start(["+0", "+3600", "-3600"]);
    let before = mesh.signed();
    let window = length(Duration::from_secs(4), Duration::from_secs(30));
    std::thread::sleep(window);
    let signed = mesh.signed() - before;
    figure("a node an hour ahead", &format!("certificates asked for in {window:?}"), signed);
    assert!(signed <= 4, "{signed} certificates in {window:?}");
    mesh.until_it_works("a while", RECOVERY);
}
