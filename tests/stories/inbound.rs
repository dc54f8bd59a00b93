//! What comes to a service past the mesh.

use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use tulle_tests::harness::{Home, alone, client, eventually, python, require_root, run};
use tulle_tests::one_host::{Mode, OneHost};
use tulle_tests::ports::free_port;
use tulle_tests::two_hosts::TwoHosts;

const PATIENCE: Duration = Duration::from_secs(15);
/// The ports of the mesh, and of its services.
const PORTS: u16 = 19640;
const PORT: u16 = 19643;

fn capture(home: &Home, on: bool) {
    let mesh = format!(
        "apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {{inboundCapture: {{enabled: {on}}}}}\n"
    );
    let file = home.write("mesh.yaml", &mesh).display().to_string();
    home.tulle(&["apply", "-f", &file]).ok();
}

/// The process that a client outside of the mesh reaches.
fn ask(address: &str) -> Option<i32> {
    let url = match address.parse() {
        Ok(IpAddr::V6(_)) => format!("http://[{address}]:{PORT}/"),
        _ => format!("http://{address}:{PORT}/"),
    };
    run(std::process::Command::new("curl").args(["-s", "-m", "5", &url])).stdout.trim().parse().ok()
}

#[test]
fn what_comes_past_the_mesh_is_seen_where_that_is_asked_for() {
    require_root!();
    let _alone = alone();
    let mesh = OneHost::start(Mode::Host, PORTS);
    let (python, script, port) = (python().display().to_string(), client("service.py"), PORT.to_string());
    let run = ["run", "c", "--port", &port, "--", &python, &script, &port, "everywhere"];
    let app = mesh.home.start(&run);
    let pid = tulle_tests::one_host::said_pid(&app, "up ");
    let seen = || {
        let edges = mesh.home.edges();
        let of = edges.into_iter().find(|edge| edge.source == "external" && edge.destination == "c");
        of.map(|edge| (edge.security, edge.requests))
    };
    assert_eq!((ask("127.0.0.1"), ask("::1")), (Some(pid), Some(pid)));
    assert_eq!(seen(), None);

    capture(&mesh.home, true);
    eventually("a connection over IPv4 and IPv6", PATIENCE, || {
        assert_eq!((ask("127.0.0.1"), ask("::1")), (Some(pid), Some(pid)));
        seen().filter(|(security, requests)| security == "plaintext" && *requests >= 2)
    });
    // A closed port is closed, still.
    assert!(TcpStream::connect(("127.0.0.1", PORT + 1)).is_err());
    let metrics = mesh.home.tulle(&["status"]).stdout;
    assert!(!metrics.contains("are not seen"), "{metrics}");
    drop(app);
    mesh.end();
}

/// In strict mode only the mesh leads to a service, at the ports that it declares and at all others.
#[test]
fn nothing_enters_in_plain_where_that_is_refused() {
    require_root!();
    let _alone = alone();
    let mesh = OneHost::start(Mode::Host, PORTS);
    mesh.service("c", PORT);
    let (python, script, port) = (python().display().to_string(), client("service.py"), PORT.to_string());
    let undeclared = PORT + 1;
    let both = format!(
        "'{python}' -m http.server --bind :: {undeclared} >/dev/null 2>&1 & exec '{python}' '{script}' {port} everywhere"
    );
    let app = mesh.home.start(&["run", "c", "--port", &port, "--", "sh", "-c", &both]);
    let pid = tulle_tests::one_host::said_pid(&app, "up ");
    let connects = |address: &str, port: u16| {
        let url = match address.parse() {
            Ok(IpAddr::V6(_)) => format!("http://[{address}]:{port}/"),
            _ => format!("http://{address}:{port}/"),
        };
        let asked = run(std::process::Command::new("curl").args(["-s", "-m", "5", "-o", "/dev/null", &url]));
        asked.status.success()
    };
    let plain = || ["127.0.0.1", "::1"].map(|address| [PORT, undeclared].map(|port| connects(address, port)));
    let settings = |spec: &str| {
        let mesh_object = format!(
            "apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {spec}\n"
        );
        let file = mesh.home.write("mesh.yaml", &mesh_object).display().to_string();
        mesh.home.tulle(&["apply", "-f", &file]).ok();
    };
    eventually("both listen", PATIENCE, || (plain() == [[true; 2]; 2]).then_some(()));
    settings("{mtls: {mode: Strict}}");
    eventually("both are refused", PATIENCE, || (plain() == [[false; 2]; 2]).then_some(()));
    // The mesh leads there as before.
    let url = format!("http://c:{PORT}/");
    let asked = mesh.home.tulle(&["run", "client", "--", "curl", "-s", "-m", "5", &url]).ok();
    assert_eq!(asked.trim().parse(), Ok(pid), "{asked}");
    settings(&format!("{{mtls: {{mode: Strict, ports: [{{port: {undeclared}, mode: Permissive}}]}}}}"));
    eventually("one is open again", PATIENCE, || (plain() == [[false, true]; 2]).then_some(()));
    settings("{mtls: {mode: Permissive}}");
    eventually("both are open again", PATIENCE, || (plain() == [[true; 2]; 2]).then_some(()));
    drop(app);
    mesh.end();
}

/// The same for who comes over the wire from a host that is not in the mesh as far as the service is concerned, into a network
/// namespace. Where it is let in, it is named.
#[test]
fn nothing_enters_a_network_namespace_in_plain_from_another_host() {
    require_root!();
    let _alone = alone();
    let mesh = TwoHosts::start();
    let addresses = ["fd99::1", "fd99::2"];
    for (name, address) in mesh.hosts.names.iter().zip(addresses) {
        let add = format!("-n {name} addr add {address}/64 dev wire nodad");
        run(std::process::Command::new("ip").args(add.split(' '))).ok();
    }
    let (python, script, port) = (python().display().to_string(), client("service.py"), PORT.to_string());
    let undeclared = PORT + 1;
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: c, namespace: default}}\n\
         spec: {{selector: {{app: c}}, ports: [{{port: {PORT}, appProtocol: http}}]}}\n"
    );
    let file = mesh.one.write("c.yaml", &service).display().to_string();
    mesh.one.tulle(&["apply", "-f", &file]).ok();
    let both = format!(
        "'{python}' -m http.server --bind :: {undeclared} >/dev/null 2>&1 & exec '{python}' '{script}' {port} everywhere"
    );
    let app = mesh.two.start(&["run", "c", "--port", &port, "--", "sh", "-c", &both]);
    let pid = tulle_tests::one_host::said_pid(&app, "up ");
    let plain = || {
        [mesh.hosts.addresses[1].to_owned(), format!("[{}]", addresses[1])].map(|host| {
            [PORT, undeclared].map(|port| {
                let url = format!("http://{host}:{port}/");
                let mut curl = mesh.one.command("curl");
                run(curl.args(["-s", "-m", "5", "-o", "/dev/null", &url])).status.success()
            })
        })
    };
    let settings = |spec: &str| {
        let object = format!(
            "apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {spec}\n"
        );
        let file = mesh.one.write("mesh.yaml", &object).display().to_string();
        mesh.one.tulle(&["apply", "-f", &file]).ok();
    };
    eventually("both listen", PATIENCE, || (plain() == [[true; 2]; 2]).then_some(()));

    // Let in, and named.
    settings("{inboundCapture: {enabled: true}, mtls: {mode: Permissive}}");
    let named = |edge: &serde_json::Value| {
        let of = edge["addresses"].as_array()?.iter().filter_map(serde_json::Value::as_str);
        let of: Vec<_> = of.collect();
        let all = [mesh.hosts.addresses[0], addresses[0]].iter().all(|address| of.contains(address));
        (all && edge["source"]["name"] == "external" && edge["security"] == "plaintext").then_some(())
    };
    eventually("who comes in plain is named", PATIENCE, || {
        assert_eq!(plain(), [[true; 2]; 2]);
        let view: serde_json::Value =
            serde_json::from_str(&mesh.one.tulle(&["edges", "-o", "json"]).stdout).ok()?;
        view["edges"].as_array()?.iter().filter(|edge| edge["destination"]["name"] == "c").find_map(named)
    });
    let table = mesh.one.tulle(&["edges"]).ok();
    assert!(table.contains("external (") && table.contains("plaintext"), "{table}");

    settings("{inboundCapture: {}, mtls: {mode: Strict}}");
    eventually("both are refused", PATIENCE, || (plain() == [[false; 2]; 2]).then_some(()));
    let metrics = run(mesh.two.command("curl").args(["-s", "http://127.0.0.1:15020/metrics"])).stdout;
    let denied = metrics.lines().find(|line| {
        line.starts_with("tulle_connections_rejected_total{") && line.contains("reason=\"denied\"")
    });
    let count = denied.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(count.is_some_and(|count| count >= 4.0), "{denied:?}");
    // The mesh leads there as before.
    let asked =
        mesh.one.tulle(&["run", "client", "--", "curl", "-s", "-m", "5", &format!("http://c:{PORT}/")]).ok();
    assert_eq!(asked.trim().parse(), Ok(pid), "{asked}");
    settings("{mtls: {mode: Permissive}}");
    eventually("both are open again", PATIENCE, || (plain() == [[true; 2]; 2]).then_some(()));
    drop(app);
    let TwoHosts { server, node_one, node_two, .. } = mesh;
    for process in [node_one, node_two, server] {
        assert!(process.interrupt().success());
    }
}

#[test]
fn a_node_that_cannot_see_it_says_so() {
    let _alone = alone();
    let mesh = OneHost::start(Mode::Explicit, PORTS);
    capture(&mesh.home, true);
    let node = mesh.name.clone();
    let status = eventually("it is said", PATIENCE, || {
        let status = mesh.home.tulle(&["status"]).stdout;
        status.contains("are not seen").then_some(status)
    });
    assert!(status.contains(&node), "{status}");
    let strict = "apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: default}\nspec: {inboundCapture: {}, mtls: {mode: Strict}}\n";
    let file = mesh.home.write("mesh.yaml", strict).display().to_string();
    mesh.home.tulle(&["apply", "-f", &file]).ok();
    assert!(mesh.home.tulle(&["status"]).stdout.contains("strict is not enforced"));
    eventually("the node says it", PATIENCE, || mesh.node().stderr().contains("are not seen").then_some(()));
    mesh.end();
}

/// With explicit capture the mesh cannot hold anybody off who goes past it: services are told to listen on loopback, and one that
/// does not is named.
#[test]
fn with_explicit_capture_services_listen_on_loopback_and_who_does_not_is_named() {
    let _alone = alone();
    let home = Home::new();
    let (told, open) = (free_port(), free_port());
    let (python, script) = (python().display().to_string(), client("service.py"));
    let services = format!(
        "services:\n  told: {{command: [sh, -c, 'exec \"{python}\" -m http.server --bind \"$HOST\" \"$PORT\"'], port: {told}}}\n  \
         open: {{command: ['{python}', '{script}', '${{PORT}}', everywhere], port: {open}}}\n\
         ---\napiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {{mtls: {{mode: Strict}}}}\n"
    );
    home.write("mesh/tulle.yaml", &services);
    let folder = home.path().join("mesh").display().to_string();
    let up = home.start(&["up", &folder, "--capture", "explicit"]);
    up.wait_for_line("readiness", Duration::from_secs(30), |line| line.contains("all services are ready"));
    let named = |text: &str, name: &str| {
        text.contains(&format!("strict is not enforced: default/{name} listens at [::]:{open}"))
    };
    let status = eventually("the status names it", PATIENCE, || {
        // Where the terminal ends, no line does.
        let status = home.tulle(&["status"]).stdout;
        named(&status, "open").then_some(status)
    });
    assert!(!status.contains("default/told listens"), "{status}");
    let said = || format!("{}{}", up.stdout(), up.stderr());
    eventually("`up` names it", PATIENCE, || named(&said(), "open").then_some(()));
    assert!(!said().contains("default/told listens"), "{}", said());
    assert!(up.interrupt().success());
}
