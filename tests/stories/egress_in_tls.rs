//! What workloads say in plain and leaves in TLS that their node originates, under host capture: a host that runs workloads, and one that
//! is the outside.

use std::process::Command;
use std::time::Duration;

use tulle_tests::asks::Askers;
use tulle_tests::harness::{Home, Hosts, Process, client, eventually, python, require_root, run, tulle};

use crate::egress::NameServers;

const PATIENCE: Duration = Duration::from_secs(20);

/// The outside's addresses.
const V4: &str = "10.99.0.2";
const V6: &str = "fd99::2";

fn mesh(policy: &str) -> String {
    format!(
        "apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\n\
         spec: {{egress: {{policy: {policy}, namespaces: [{{name: tests, policy: Allow}}]}}}}\n"
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
  hosts: [api.example.com]
  ports:
  - {name: web, port: 80, targetPort: 8443, appProtocol: http}
  - {name: db, port: 5432, targetPort: 8444, appProtocol: tcp}
  - {port: 443, appProtocol: https}
";

/// `trusted`: how it says who may have signed.
fn policy(hostname: &str, trusted: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: api, namespace: default}}
spec:
  targetRefs: [{{group: tulle.dev, kind: ExternalService, name: api}}]
  validation: {{hostname: {hostname}, {trusted}}}
"
    )
}

const OF_MAP: &str = "caCertificateRefs: [{group: '', kind: ConfigMap, name: authority}]";
const SYSTEM: &str = "wellKnownCACertificates: System";

/// In TLS, and everything else as it is.
const IN_TLS: &[&str] = &[
    "GET http://api.example.com/x => 200 by:outside-tls path:/x",
    "OPEN tcp://api.example.com:5432 => 0 by:outside-tls",
    // Who speaks it himself.
    "OPEN tls://api.example.com:443 sni:api.example.com => 0 by:outside-tls",
    // Nothing is said of it for them.
    "tests> GET http://api.example.com/x => 200 by:outside",
];

#[test]
fn what_is_said_in_plain_leaves_in_tls() {
    require_root!();
    let hosts = Hosts::new();
    let [inner, outer] = &hosts.names;
    for (name, address) in [(inner, "fd99::1"), (outer, V6)] {
        let line = format!("-n {name} addr add {address}/64 dev wire nodad");
        run(Command::new("ip").args(line.split(' '))).ok();
    }
    let _names = NameServers::new(&hosts.names[0], V4);
    let (inside, outside) = (Home::in_netns(&hosts.names[0]), Home::in_netns(&hosts.names[1]));
    let certificate = rcgen::generate_simple_self_signed(vec!["api.example.com".to_owned()]).unwrap();
    let authority = certificate.cert.pem();
    let pem = outside.write("echo.pem", &(authority.clone() + &certificate.signing_key.serialize_pem()));
    let mut command = outside.command(python());
    command.arg(client("outside.py")).arg(V4);
    command.args([
        format!("api.example.com={V4},{V6}"),
        format!("other.example.org={V4},{V6}"),
        "--".to_owned(),
    ]);
    command.args(["http:80", "https:8443", "tls:8444", "tls:443", "tcp:5432", "udp:9999"]);
    let world = Process::spawn(command.env("ECHO_PEM", pem));
    world.wait_for_line("the outside", PATIENCE, |line| line == "up");

    // Whom the host trusts, as far as this mesh knows.
    let trusted = inside.write("trusted.pem", &authority);
    inside.write(
        "mesh/tulle.yaml",
        "services:\n  idle:\n    command: python3 -m http.server ${PORT}\n    port: 9000\n",
    );
    let folder = inside.path().join("mesh").display().to_string();
    let mut up = inside.command(tulle());
    let up = Process::spawn(up.args(["up", &folder]).env("SSL_CERT_FILE", trusted));
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    let apply = |text: &str| {
        let file = inside.write("change.yaml", text).display().to_string();
        inside.tulle(&["apply", "-f", &file]).ok();
    };
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: authority, namespace: default}}\ndata:\n  ca.crt: |\n{}",
        authority.lines().map(|line| format!("    {line}\n")).collect::<String>()
    );
    apply(&format!("{LISTED}---\n{}---\n{map}", policy("api.example.com", OF_MAP)));
    let mut askers = Askers::start(&inside, &["default", "tests"]);
    askers.check(IN_TLS);
    // Where all may leave, all else does: other names at that address and port, what is no TCP.
    askers.check(&[
        "GET http://other.example.org/ => 200 by:outside",
        "GET http://api.example.com/ host:other.example.org => 200 by:outside",
    ]);
    let ask = format!(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.connect(('{V4}', 9999)); s.send(b'x'); print(s.recv(99))"
    );
    let python = python().display().to_string();
    inside.tulle(&["run", "datagrams", "--", &python, "-c", &ask]).ok();
    let explained = inside.tulle(&["explain", "--from", "me", "http://api.example.com/"]).ok();
    for says in [
        "BackendTLSPolicy/default/api",
        "the node speaks TLS to it, asking for api.example.com, to port 8443",
    ] {
        assert!(explained.contains(says), "{explained}");
    }
    let shown = || inside.tulle(&["get", "backendtlspolicies", "-o", "wide"]).ok();
    eventually("the policy is accepted", PATIENCE, || (shown().matches("True").count() == 2).then_some(()));

    // Whom the host trusts.
    apply(&policy("api.example.com", SYSTEM));
    askers.check(IN_TLS);
    // Who answers is not who is meant.
    apply(&policy("other.example.org", OF_MAP));
    askers.check(&[
        "GET http://api.example.com/ => 502 reason:tls-failed",
        "OPEN tcp://api.example.com:5432 => reset",
        "GET http://other.example.org/ => 200 by:outside",
    ]);
    // Nobody is trusted, and nothing goes in plain.
    apply(&policy("api.example.com", OF_MAP));
    askers.check(IN_TLS);
    inside.tulle(&["delete", "configmap", "authority"]).ok();
    askers.check(&[
        "GET http://api.example.com/ => 502 reason:tls-failed",
        "OPEN tcp://api.example.com:5432 => reset",
        "GET http://other.example.org/ => 200 by:outside",
    ]);
    eventually("the policy is not accepted", PATIENCE, || {
        shown().contains("NoValidCACertificate").then_some(())
    });
    apply(&map);

    // Where only what is listed may leave, it leaves the same way; and nothing does where nothing may.
    apply(&mesh("Listed"));
    askers.check(IN_TLS);
    askers.check(&[
        "GET http://other.example.org/ => reset",
        "GET http://api.example.com/ host:other.example.org => 421 reason:misdirected",
    ]);
    apply(&mesh("Deny"));
    askers.check(&["GET http://api.example.com/ => reset", "OPEN tcp://api.example.com:5432 => reset"]);
    apply(&mesh("Allow"));
    askers.check(IN_TLS);
    // Without the policy it is plain again.
    inside.tulle(&["delete", "backendtlspolicy", "api"]).ok();
    askers.check(&["GET http://other.example.org/ => 200 by:outside"]);
    drop(askers);
    assert!(up.interrupt().success());
}
