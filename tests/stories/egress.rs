//! What leaves the mesh where egress is `Listed`, under host capture: a host that runs workloads, and one that is the outside.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tulle_tests::asks::{Ask, Askers};
use tulle_tests::harness::{Home, Hosts, Process, client, eventually, python, require_root, run};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a network namespace has in place of the host's name servers (ip-netns(8)).
pub struct NameServers(PathBuf);

impl NameServers {
    pub fn new(namespace: &str, server: &str) -> Self {
        let folder = PathBuf::from("/etc/netns").join(namespace);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("resolv.conf"), format!("nameserver {server}\n")).unwrap();
        Self(folder)
    }
}

impl Drop for NameServers {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The outside's addresses.
const V4: &str = "10.99.0.2";
const V6: &str = "fd99::2";
/// One that it has a name of its own for.
const SIX: &str = "fd99::3";

fn mesh(egress: &str) -> String {
    format!(
        "apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {{egress: {egress}}}\n"
    )
}

const LISTED: &str = "apiVersion: v1
kind: Namespace
metadata: {name: tests}
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: api, namespace: default}
spec:
  hosts: [api.example.com, '*.six.example.com']
  ports: [{port: 80, appProtocol: http}, {port: 443, appProtocol: https}]
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: db, namespace: default}
spec:
  addresses: [10.99.0.2/32, 'fd99::/64']
  ports: [{port: 5432, appProtocol: tcp}]
";

const DENIED: &str = "apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: not-here, namespace: default}
spec:
  targetRefs: [{group: tulle.dev, kind: ExternalService, name: api}]
  action: Deny
  rules: [{sources: [{type: Namespace, namespace: default}]}]
";

#[test]
fn only_what_is_listed_leaves_the_mesh() {
    require_root!();
    let hosts = Hosts::new();
    let [inner, outer] = &hosts.names;
    for (name, address) in [(inner, "fd99::1"), (outer, V6), (outer, SIX)] {
        let line = format!("-n {name} addr add {address}/64 dev wire nodad");
        run(Command::new("ip").args(line.split(' '))).ok();
    }
    let _names = NameServers::new(&hosts.names[0], V4);
    let (inside, outside) = (Home::in_netns(&hosts.names[0]), Home::in_netns(&hosts.names[1]));
    let certificate = rcgen::generate_simple_self_signed(vec!["api.example.com".to_owned()]).unwrap();
    let pem = outside.write("echo.pem", &(certificate.cert.pem() + &certificate.signing_key.serialize_pem()));
    let mut command = outside.command(python());
    command.arg(client("outside.py")).arg(V4);
    command.args([format!("api.example.com={V4},{V6}"), format!("a.six.example.com={SIX}")]);
    command.args([format!("other.example.org={V4},{V6}"), "--".to_owned()]);
    command.args(["http:80", "http:8080", "tls:443", "tcp:5432", "tcp:5433", "udp:9999"]);
    let world = Process::spawn(command.env("ECHO_PEM", pem));
    world.wait_for_line("the outside", PATIENCE, |line| line == "up");

    let services = "services:\n  idle:\n    command: python3 -m http.server ${PORT}\n    port: 9000\n";
    let up = inside.up(services);
    let apply = |text: &str| {
        let file = inside.write("change.yaml", text).display().to_string();
        inside.tulle(&["apply", "-f", &file]).ok();
    };
    apply(LISTED);
    let mut askers = Askers::start(&inside, &["default", "tests"]);
    // Where all may leave, and where nothing may.
    askers.check(&[
        "GET http://other.example.org/ => 200 by:outside",
        "GET http://api.example.com:8080/ => 200 by:outside",
        "GET http://a.six.example.com/ => 200 by:outside",
    ]);
    apply(&mesh("{policy: Deny}"));
    askers.check(&["GET http://api.example.com/ => reset", "OPEN tcp://[fd99::2]:5432 => reset"]);

    let listed: &[&str] = &[
        "GET http://api.example.com/ => 200 by:outside",
        "GET http://api.example.com/ host:API.example.com => 200 by:outside",
        "GET http://a.six.example.com/ => 200 by:outside",
        "OPEN tls://api.example.com:443 sni:api.example.com => 0 by:outside-tls",
        "OPEN tcp://10.99.0.2:5432 => 0 by:outside",
        "OPEN tcp://[fd99::2]:5432 => 0 by:outside",
        // Another name, another host or server than the name that was resolved, another port, no name at all.
        "GET http://other.example.org/ => reset",
        "GET http://api.example.com/ host:other.example.org => 421 reason:misdirected",
        "GET http://a.six.example.com/ host:api.example.com => 421 reason:misdirected",
        "OPEN tls://api.example.com:443 sni:other.example.org => reset",
        "OPEN tls://api.example.com:443 => reset",
        "OPEN tcp://api.example.com:443 => reset",
        "GET http://api.example.com:8080/ => reset",
        "OPEN tcp://10.99.0.2:5433 => reset",
        "OPEN tcp://[fd99::2]:5433 => reset",
        // Nothing is listed there, and nothing is held back.
        "tests> GET http://other.example.org/ => 200 by:outside",
        "tests> OPEN tcp://[fd99::2]:5433 => 0 by:outside",
    ];
    apply(&mesh("{policy: Listed, namespaces: [{name: tests, policy: Allow}]}"));
    askers.check(listed);
    let unknown = Ask::parse("GET http://other.example.org/ => reset");
    let answer = askers.answers(&unknown).remove(0);
    assert!(answer["error"].as_str().unwrap().contains("Name or service not known"), "{answer}");

    // What is no TCP does not leave; it would not be seen.
    let asked = |namespace: &str| {
        let ask = format!(
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.connect(('{V4}', 9999)); s.send(b'x'); print(s.recv(99))"
        );
        let python = python().display().to_string();
        inside.tulle(&["run", "datagrams", "-n", namespace, "--", &python, "-c", &ask]).status.success()
    };
    assert!(!asked("default") && asked("tests"));

    // Who may use it.
    apply(DENIED);
    askers.check(&[
        "GET http://api.example.com/ => 403 reason:denied-by=default/not-here",
        "OPEN tls://api.example.com:443 sni:api.example.com => reset",
        "OPEN tcp://10.99.0.2:5432 => 0 by:outside",
    ]);
    inside.tulle(&["delete", "authorizationpolicy", "not-here"]).ok();
    askers.check(listed);

    let counted = eventually("what was refused is counted", PATIENCE, || {
        let asked = inside.tulle(&["explain", "--from", "me", "http://other.example.org/"]);
        asked.stdout.contains("egress-denied").then_some(asked.stdout)
    });
    assert!(counted.contains("Mesh/default") && counted.contains("spec.egress.policy"), "{counted}");
    let explained = inside.tulle(&["explain", "--from", "me", "http://api.example.com/"]).ok();
    assert!(explained.contains("ExternalService/default/api"), "{explained}");

    // The others are held back, too, and the first let out.
    apply(&mesh("{policy: Allow, namespaces: [{name: tests, policy: Listed}]}"));
    askers.check(&[
        "GET http://other.example.org/ => 200 by:outside",
        "tests> GET http://other.example.org/ => reset",
        "tests> OPEN tcp://10.99.0.2:5432 => reset",
    ]);
    drop(askers);
    assert!(up.interrupt().success());
}
