//! A policy is changed again and again through the API, and holds off who was let in, and lets in who was held off: how long
//! until a request, a connection of bytes, a WebSocket and a call of gRPC feel it, those that are open included.

mod watchers;

use std::time::{Duration, Instant};

use tulle_tests::chaos::{figure, full};
use tulle_tests::harness::{Home, Process, alone};
use tulle_tests::ports::free_port;

use self::watchers::{Application, Watchers};
use super::changes::clients::Api;

/// What a change has to be in force after, 99 times of 100.
const LIMIT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
const POLICY: &str = "/apis/tulle.dev/v1alpha1/namespaces/default/authorizationpolicies/door";

/// A server and two nodes on this host. What is asked is on the far node; who asks enters at ports of the near one.
struct Mesh {
    home: Home,
    ports: Vec<u16>,
    // What runs ends in this order.
    _workloads: [Process; 2],
    _nodes: [(Process, Home); 2],
    _server: Process,
}

impl Mesh {
    #[track_caller]
    fn start(application: &Application) -> Self {
        let home = Home::new();
        let (api, nodes) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let server = home.start(&["server", "--listen-api", &api, "--listen-nodes", &nodes]);
        server.wait_for_line("the server", PATIENCE, |line| line.contains("the server runs"));
        let service = |(name, target, protocol): (&str, u16, &str)| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
                 spec: {{selector: {{app: backends}}, ports: [{{port: 80, targetPort: {target}, appProtocol: {protocol}}}]}}\n"
            )
        };
        let services = [("web", 81, "http"), ("calls", 81, "kubernetes.io/h2c"), ("bytes", 82, "tcp")];
        let services: String = services.into_iter().map(service).collect();
        let file = home.write("services.yaml", &(services + "---\n" + &policy(true))).display().to_string();
        home.tulle(&["apply", "-f", &file]).ok();
        let node = |name: &str| {
            let node_home = Home::new();
            let token = home.tulle(&["token", "create"]).ok().trim().to_owned();
            let listen = ["--listen-links", "127.0.0.1:0", "--listen-admin", "127.0.0.1:0"];
            let joins = ["node", "--name", name, "--server", &nodes, "--token", &token];
            let arguments = [&joins[..], &listen, &["--capture", "explicit", "--workers", "2"]].concat();
            let node = node_home.start(&arguments);
            node.wait_for_line("node", PATIENCE, |line| line.contains(" runs, links at "));
            (node, node_home)
        };
        let nodes = [node("near"), node("far")];
        let (requests, bytes) = (format!("81={}", application.requests), format!("82={}", application.bytes));
        let serving = nodes[1]
            .1
            .start(&["run", "backends", "--port", &requests, "--port", &bytes, "--", "sleep", "600"]);
        let environment =
            "echo ports $WEB_SERVICE_PORT $CALLS_SERVICE_PORT $BYTES_SERVICE_PORT; exec sleep 600";
        let upstreams = ["--upstream", "web", "--upstream", "calls", "--upstream", "bytes"];
        let run = [&["run", "client"][..], &upstreams, &["--", "sh", "-c", environment]].concat();
        let asking = nodes[0].1.start(&run);
        let line = asking.wait_for_line("ports", PATIENCE, |line| line.starts_with("ports "));
        let ports = line.split(' ').skip(1).map(|port| port.parse().unwrap()).collect();
        Self { home, ports, _workloads: [asking, serving], _nodes: nodes, _server: server }
    }
}

/// It holds the client off, or somebody who is not there.
fn policy(allowed: bool) -> String {
    let denied = if allowed { "nobody" } else { "client" };
    format!(
        "apiVersion: tulle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: door, namespace: default}}\nspec:\n  \
         targetRefs: [{{group: tulle.dev, kind: Workload, selector: {{matchLabels: {{app: backends}}}}}}]\n  action: Deny\n  \
         rules: [{{sources: [{{type: ServiceAccount, serviceAccount: {{name: {denied}}}}}]}}]\n"
    )
}

#[test]
fn a_change_of_a_policy_is_felt_within_a_second_by_what_is_open_too() {
    let _alone = alone();
    let application = Application::serve();
    let mesh = Mesh::start(&application);
    let mut api = Api::of(&mesh.home);
    let mut watchers = Watchers::start(mesh.ports[0], mesh.ports[1], mesh.ports[2]);
    let began = watchers.wait_until_all(true, PATIENCE);
    assert!(began.is_some(), "not all is let in: {}", watchers.state());

    let changes = if full() { 200 } else { 40 };
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); watchers::WHAT.len()];
    for number in 1..=changes {
        let allowed = number % 2 == 0;
        let sent = Instant::now();
        api.apply(POLICY, policy(allowed)).unwrap_or_else(|why| panic!("change {number}: {why}"));
        let felt = watchers.wait_until_all(allowed, PATIENCE);
        let felt =
            felt.unwrap_or_else(|| panic!("change {number}, allowed: {allowed}: {}", watchers.state()));
        for (times, at) in times.iter_mut().zip(felt) {
            times.push(at.saturating_duration_since(sent));
        }
    }
    let calls = watchers.stop();
    assert_eq!(calls, changes / 2, "calls of gRPC that ended with status 7");
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
    figure("effects", "changes", changes);
    for (what, mut times) in watchers::WHAT.into_iter().zip(times) {
        times.sort();
        let at = |share: usize| times[(times.len() * share).div_ceil(100) - 1];
        for (name, time) in [("p50", at(50)), ("p99", at(99)), ("max", at(100))] {
            figure("effects", &format!("from the write to {what}, {name}, ms"), ms(time));
        }
        assert!(at(99) < LIMIT, "{what}: {:?} at p99", at(99));
    }
}
