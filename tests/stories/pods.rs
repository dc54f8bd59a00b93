//! Nodes with namespace capture: each is inside of a network namespace, as in a pod or container, and all of it is one workload.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tulle_tests::harness::{
    Home, Process, alone, client, eventually, have_packages, may_run, python, require_root, run, tulle,
};
use tulle_tests::one_host::said_pid;
use tulle_tests::pods::{Pods, ROUTER, ROUTER_V6, V4, V6};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where the service listens that is declared, and another one beside it.
const PORT: u16 = 8080;
const UNDECLARED: u16 = 8081;

const SHOP: &str = "apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
";

fn mesh(spec: &str) -> String {
    format!("apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {spec}\n")
}

/// The processes of the second pod, which nobody of the mesh has started, and who says what they are.
struct Shop {
    pid: i32,
    _processes: [Process; 2],
    _attached: Process,
}

impl Shop {
    #[track_caller]
    fn start(pods: &Pods) -> Self {
        let pod = &pods.pods[1];
        let (python, script) = (python().display().to_string(), client("service.py"));
        let serve = |port: u16| {
            let mut command = pod.command(&python);
            Process::spawn(command.args([&script, &port.to_string(), "everywhere"]))
        };
        let processes = [PORT, UNDECLARED].map(serve);
        let [pid, _] = [0, 1].map(|i| said_pid(&processes[i], "up "));
        let port = PORT.to_string();
        let attached = attach(pods, 1, "shop", &["--port", &port, "--probe", "http:/"]);
        Self { pid, _processes: processes, _attached: attached }
    }
}

/// `tulle run` without a command: the workload of a pod, until it is stopped.
#[track_caller]
fn attach(pods: &Pods, i: usize, name: &str, more: &[&str]) -> Process {
    let attached = pods.pods[i].start(&[&["run", name], more].concat());
    eventually("the workload is ready", PATIENCE, || {
        let status = pods.pods[i].tulle(&["status"]).stdout;
        (status.contains("1/1 ready") && status.contains(name)).then_some(())
    });
    attached
}

/// What curl gets in a namespace: the status, or that of its end, and what was said.
fn get(from: &Home, url: &str) -> (String, String) {
    let mut curl = from.command("curl");
    let asked = run(curl.args(["-s", "-m", "5", "-w", "\n%{http_code}", url]));
    let (said, status) = asked.stdout.rsplit_once('\n').unwrap_or_default();
    let status = if status == "000" { format!("error {}", asked.code()) } else { status.to_owned() };
    (status, said.to_owned())
}

fn url(address: &str, port: u16) -> String {
    match address.parse() {
        Ok(IpAddr::V6(_)) => format!("http://[{address}]:{port}/"),
        _ => format!("http://{address}:{port}/"),
    }
}

/// Whether the shop is entered in plain: over IPv4 and IPv6, at the declared port and the other one.
fn enters_in_plain(from: &Home) -> [[bool; 2]; 2] {
    [V4[1], V6[1]].map(|address| [PORT, UNDECLARED].map(|port| get(from, &url(address, port)).0 == "200"))
}

#[track_caller]
fn reaches(pods: &Pods, shop: &Shop) {
    let expected = ("200".to_owned(), shop.pid.to_string());
    eventually("an answer by name", PATIENCE, || {
        (get(&pods.pods[0], "http://shop.default/") == expected).then_some(())
    });
}

fn edges(pods: &Pods) -> Vec<Value> {
    let said = pods.router.tulle(&["edges", "-o", "json"]).stdout;
    let view: Value = serde_json::from_str(&said).unwrap_or_default();
    view["edges"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_pod_calls_another_by_name_and_identity() {
    require_root!();
    let _alone = alone();
    let pods = Pods::start();
    pods.apply(SHOP);
    let [a, b] = &pods.pods;
    // Until somebody says whose it is, nothing of a pod enters the mesh.
    assert_eq!(get(a, "http://shop.default/").0, "error 6");
    let shop = Shop::start(&pods);
    let web = attach(&pods, 0, "web", &[]);
    reaches(&pods, &shop);
    eventually("its edge", PATIENCE, || {
        let is_edge =
            |edge: &&Value| edge["source"]["name"] == "web" && edge["destination"]["name"] == "shop";
        (edges(&pods).iter().find(is_edge)?["security"] == "mTLS").then_some(())
    });
    let status = pods.router.tulle(&["status"]).ok();
    assert!(status.contains("namespace   10.98.1.2:15008"), "{status}");

    // A name is asked for over TCP and IPv6, whatever the server.
    let ask = "import socket, sys; query = bytes.fromhex('123401000001000000000000') + b'\\4shop\\7default\\0\\0\\1\\0\\1'; \
               s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(5); s.sendto(query, ('fd98:9::9', 53)); \
               u = s.recv(512); t = socket.create_connection(('192.0.2.53', 53), 5); \
               t.sendall(len(query).to_bytes(2, 'big') + query); print(u[-4], t.recv(512)[-4])";
    assert_eq!(run(a.command(python()).args(["-c", ask])).ok().trim(), "127 127");

    // Who may enter is decided by identity.
    let allow = |account: &str| {
        format!(
            "apiVersion: tulle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: callers, namespace: default}}\n\
             spec:\n  targetRefs: [{{group: '', kind: Service, name: shop}}]\n  action: Allow\n  \
             rules: [{{sources: [{{type: ServiceAccount, serviceAccount: {{name: {account}}}}}]}}]\n"
        )
    };
    pods.apply(&allow("nobody"));
    eventually("a refusal", PATIENCE, || (get(a, "http://shop/").0 == "403").then_some(()));
    // Nor past the mesh, from a pod or from elsewhere.
    eventually("refusals in plain", PATIENCE, || {
        (enters_in_plain(a) == [[false, true]; 2] && enters_in_plain(&pods.router) == [[false, true]; 2])
            .then_some(())
    });
    pods.apply(&allow("web"));
    reaches(&pods, &shop);
    // What a pod says to itself is its own matter.
    assert_eq!(enters_in_plain(b), [[true; 2]; 2]);
    assert_eq!(get(b, &url("127.0.0.1", PORT)).0, "200");

    // A pod is one workload.
    let second = a.tulle(&["run", "other"]);
    assert_eq!(second.code(), 5, "{second:?}");
    assert!(second.stderr.contains("the workload default/web runs on this node already"), "{second:?}");
    // What it starts is that workload's, too; and who is gone makes room.
    assert!(web.interrupt().success());
    let asked =
        a.tulle(&["run", "other", "--service-account", "web", "--", "curl", "-s", "-m", "5", "http://shop/"]);
    assert_eq!(asked.ok(), shop.pid.to_string());
    assert_eq!(get(a, "http://shop.default/").0, "error 6");
    drop(shop);
    pods.end();
}

/// In strict mode only the mesh leads into a pod, at the ports that are declared and at all others.
#[test]
fn nothing_enters_a_pod_in_plain_where_that_is_refused() {
    require_root!();
    let _alone = alone();
    let pods = Pods::start();
    pods.apply(SHOP);
    let shop = Shop::start(&pods);
    let _web = attach(&pods, 0, "web", &[]);
    let router = &pods.router;
    eventually("all is open", PATIENCE, || (enters_in_plain(router) == [[true; 2]; 2]).then_some(()));

    // Let in, counted, and named: by whoever comes, another pod at the port that is not declared among them.
    pods.apply(&mesh("{inboundCapture: {enabled: true}, mtls: {mode: Permissive}}"));
    let from = [ROUTER.replace(".1.", ".2."), V4[0].to_owned(), ROUTER_V6.replace(":1:", ":2:")];
    eventually("who comes in plain is named", PATIENCE, || {
        assert_eq!(enters_in_plain(router), [[true; 2]; 2]);
        assert_eq!(get(&pods.pods[0], &url(V4[1], UNDECLARED)).0, "200");
        edges(&pods).iter().find(|edge| {
            let addresses = edge["addresses"].as_array().into_iter().flatten();
            let addresses: Vec<_> = addresses.filter_map(Value::as_str).collect();
            edge["source"]["name"] == "external"
                && edge["destination"]["name"] == "shop"
                && edge["security"] == "plaintext"
                && from.iter().all(|from| addresses.contains(&from.as_str()))
        })?;
        Some(())
    });

    pods.apply(&mesh("{inboundCapture: {}, mtls: {mode: Strict}}"));
    eventually("all is refused", PATIENCE, || (enters_in_plain(router) == [[false; 2]; 2]).then_some(()));
    assert_eq!(enters_in_plain(&pods.pods[0]), [[false; 2]; 2]);
    reaches(&pods, &shop);
    // The node can hold it off, and is not named.
    let status = router.tulle(&["status"]).ok();
    assert!(!status.contains("not enforced"), "{status}");
    let metrics = run(pods.pods[1].command("curl").args(["-s", "http://127.0.0.1:15020/metrics"])).stdout;
    let denied = metrics.lines().find(|line| {
        line.starts_with("tulle_connections_rejected_total{") && line.contains("reason=\"denied\"")
    });
    let count = denied.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(count.is_some_and(|count| count >= 4.0), "{denied:?}");

    let one = format!("{{mtls: {{mode: Strict, ports: [{{port: {UNDECLARED}, mode: Permissive}}]}}}}");
    pods.apply(&mesh(&one));
    eventually("one is open again", PATIENCE, || {
        (enters_in_plain(router) == [[false, true]; 2]).then_some(())
    });
    // A port where nobody listens is closed, and not accepted first.
    let closed = format!("import socket; socket.create_connection(('{}', {}), 5)", V4[1], UNDECLARED + 1);
    let tried = run(router.command(python()).args(["-c", &closed]));
    assert!(tried.stderr.contains("ConnectionRefusedError"), "{tried:?}");

    // Nobody is let in of whom no policy says anything.
    pods.apply(&mesh("{authorization: {default: Deny}}"));
    eventually("all is refused", PATIENCE, || (enters_in_plain(router) == [[false; 2]; 2]).then_some(()));
    eventually("the mesh, too", PATIENCE, || (get(&pods.pods[0], "http://shop/").0 == "403").then_some(()));
    pods.apply(&mesh("{mtls: {mode: Permissive}}"));
    eventually("all is open again", PATIENCE, || (enters_in_plain(router) == [[true; 2]; 2]).then_some(()));
    reaches(&pods, &shop);
    drop(shop);
    pods.end();
}

/// What leaves a pod, while links and the server are reached as before.
#[test]
fn what_leaves_a_pod_goes_by_the_policy() {
    require_root!();
    let _alone = alone();
    let pods = Pods::start();
    let mut command = pods.router.command(python());
    command.arg(client("outside.py")).arg(ROUTER);
    command.args([
        format!("api.example.com={ROUTER},{ROUTER_V6}"),
        format!("other.example.org={ROUTER},{ROUTER_V6}"),
    ]);
    let world = Process::spawn(command.args(["--", "http:8099", "udp:9999"]));
    world.wait_for_line("the outside", PATIENCE, |line| line == "up");
    pods.apply(SHOP);
    let shop = Shop::start(&pods);
    let _web = attach(&pods, 0, "web", &[]);
    let a = &pods.pods[0];
    let out = || {
        let places = [ROUTER, ROUTER_V6, "api.example.com", "other.example.org"];
        places.map(|place| get(a, &url(place, 8099)).0 == "200")
    };
    let datagram = || {
        let ask = format!(
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.connect(('{ROUTER}', 9999)); s.send(b'x'); s.recv(99)"
        );
        run(a.command(python()).args(["-c", &ask])).status.success()
    };
    assert_eq!((out(), datagram()), ([true; 4], true));
    let is_count = |line: &str| {
        line.starts_with("tulle_outside_connections_total{namespace=\"default\",workload=\"web\"} ")
    };
    eventually("what leaves is counted", PATIENCE, || {
        let metrics = run(a.command("curl").args(["-s", "http://127.0.0.1:15020/metrics"])).stdout;
        let count = metrics.lines().find(|line| is_count(line))?.rsplit(' ').next()?.parse::<f64>().ok()?;
        // Those of the node are none of its, the links and the server among them.
        assert!(count <= 4.0, "{count}");
        (count == 4.0).then_some(())
    });

    pods.apply(&mesh("{egress: {policy: Deny}}"));
    eventually("nothing leaves", PATIENCE, || (out() == [false; 4] && !datagram()).then_some(()));
    reaches(&pods, &shop);
    pods.apply(
        "apiVersion: tulle.dev/v1alpha1\nkind: ExternalService\nmetadata: {name: api, namespace: default}\n\
         spec: {hosts: [api.example.com], ports: [{port: 8099, appProtocol: http}]}\n",
    );
    pods.apply(&mesh("{egress: {policy: Listed}}"));
    eventually("what is listed leaves", PATIENCE, || (out() == [false, false, true, false]).then_some(()));
    assert!(!datagram());
    reaches(&pods, &shop);
    // What it says to itself stays there.
    assert_eq!(enters_in_plain(&pods.pods[1]), [[true; 2]; 2]);
    drop(shop);
    pods.end();
}

/// Between the end of a node and its next start nothing goes around the mesh.
#[test]
fn nothing_leaks_while_a_pods_node_is_away() {
    require_root!();
    let _alone = alone();
    let mut pods = Pods::start();
    pods.apply(SHOP);
    pods.apply(&mesh("{mtls: {mode: Strict}, egress: {policy: Deny}}"));
    let shop = Shop::start(&pods);
    let _web = attach(&pods, 0, "web", &[]);
    reaches(&pods, &shop);
    let router_port = 8098;
    let mut command = pods.router.command(python());
    let world =
        Process::spawn(command.args([client("service.py"), router_port.to_string(), "everywhere".into()]));
    said_pid(&world, "up ");
    let closed = |pods: &Pods| {
        assert_eq!(enters_in_plain(&pods.router), [[false; 2]; 2]);
        assert_eq!(get(&pods.pods[0], &url(ROUTER, router_port)).0, "error 7");
        // An address of the mesh, and its name.
        assert_eq!(get(&pods.pods[0], "http://127.64.0.1/").0, "error 7");
        assert_ne!(get(&pods.pods[0], "http://shop.default/").0, "200");
    };
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        for node in &pods.nodes {
            node.signal(signal);
            node.wait(PATIENCE);
        }
        closed(&pods);
        // Who takes the node's port answers nobody.
        let mut command = pods.pods[1].command(python());
        let taker = Process::spawn(command.args([client("service.py"), "15008".into(), "everywhere".into()]));
        said_pid(&taker, "up ");
        assert_eq!(get(&pods.pods[1], &url("127.0.0.1", 15008)).0, "200");
        assert_eq!(get(&pods.router, &url(V4[1], 15008)).0, "error 28");
        drop(taker);
        for i in [0, 1] {
            pods.start_node(i);
        }
        assert_eq!(enters_in_plain(&pods.router), [[false; 2]; 2]);
        reaches(&pods, &shop);
    }
    // Rules that somebody takes away are there again.
    for pod in &pods.pods {
        run(pod.command("nft").args(["flush", "ruleset"])).ok();
    }
    eventually("the rules are mended", PATIENCE, || {
        (get(&pods.pods[0], &url(ROUTER, router_port)).0 == "error 7"
            && enters_in_plain(&pods.router) == [[false; 2]; 2])
            .then_some(())
    });
    reaches(&pods, &shop);

    // One that is not to come back is removed, and holds nobody off.
    drop(shop);
    let Pods { nodes, server, pods: [a, b], router, network } = pods;
    for node in &nodes {
        assert!(node.interrupt().success());
        assert!(node.stdout().contains("the rules stay in this network namespace"), "{}", node.stdout());
    }
    for pod in [&a, &b] {
        assert!(pod.tulle(&["node", "reset"]).ok().contains("tulle-pod-"));
        assert!(!run(pod.command("nft").args(["list", "tables"])).ok().contains("tulle-"));
    }
    assert_eq!(get(&a, &url(ROUTER, router_port)).0, "200");
    drop((router, network));
    assert!(server.interrupt().success());
}

#[test]
fn a_node_says_why_it_cannot_capture_a_namespace() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let start = ["node", "--server", "127.0.0.1:1", "--capture", "namespace"];
    let refused = home.tulle(&start);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(refused.stderr.contains("this is the network of the host itself"), "{refused:?}");
    // Without the right to change the network that it is in.
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "setpriv",
        "--bounding-set=-net_admin,-net_raw",
        "--inh-caps=-net_admin,-net_raw",
    ]);
    let refused = run(command.arg(tulle()).args(start).env("TULLE_HOME", home.path()));
    assert!(refused.stderr.contains("ip link set lo up"), "{refused:?}");
    let up = "ip link set lo up && exec setpriv --bounding-set=-net_admin,-net_raw --inh-caps=-net_admin,-net_raw \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", up, "sh"]).arg(tulle()).args(start).env("TULLE_HOME", home.path());
    let refused = run(&mut command);
    assert!(refused.stderr.contains("CAP_NET_ADMIN"), "{refused:?}");
    // Elsewhere there is nothing to attach to.
    let up = home.start(&["up", "--capture", "namespace"]);
    assert_eq!(up.wait(PATIENCE).code(), Some(2));
}

/// A process in the namespace gets the workload's identity; one that is elsewhere gets none from the same socket.
#[test]
fn processes_of_a_pod_have_its_identity() {
    require_root!();
    if !may_run("the PyPI package spiffe (cargo xtask setup)", have_packages(&["spiffe", "grpc"], &[])) {
        return;
    }
    let _alone = alone();
    let pods = Pods::start();
    let web = attach(&pods, 0, "web", &[]);
    let line = web.wait_for_line("the socket", PATIENCE, |line| line.starts_with("SPIFFE_ENDPOINT_SOCKET="));
    let socket = line.split_once('=').unwrap().1;
    let asks = |home: &Home, what: &str| {
        let mut command = home.command(python());
        command.args([client("workload_api.py"), what.to_owned()]).env("SPIFFE_ENDPOINT_SOCKET", socket);
        run(&mut command)
    };
    let svid = asks(&pods.pods[0], "fetch").ok();
    assert!(svid.contains("spiffe://mesh.local/ns/default/sa/web"), "{svid}");
    for elsewhere in [&pods.pods[1], &pods.router] {
        assert_eq!(asks(elsewhere, "denied").ok().trim(), "denied");
    }
    drop(web);
    pods.end();
}
