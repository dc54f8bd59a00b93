//! Two hosts, a wire between them, and somebody who listens on it.

use std::time::Duration;

use nix::sys::signal::Signal;

use tulle_tests::harness::{Home, Hosts, Process, alone, eventually, require_root, run, tulle};
use tulle_tests::two_hosts::TwoHosts;

const PATIENCE: Duration = Duration::from_secs(15);
/// What the service answers with, and must never be seen on the wire.
const SECRET: &str = "the-answer-that-nobody-may-read";

struct Mesh {
    hosts: Hosts,
    one: Home,
    two: Home,
    server: Process,
    node_one: Process,
    node_two: Process,
    app: Process,
}

/// A server and a node on the first host, a node with service c on the second.
fn mesh() -> Mesh {
    let TwoHosts { server, node_one, node_two, one, two, hosts } = TwoHosts::start();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: default}\n\
                   spec: {selector: {app: c}, ports: [{port: 9091}]}\n";
    let file = one.write("c.yaml", service).display().to_string();
    one.tulle(&["apply", "-f", &file]).ok();
    let binary = tulle().display().to_string();
    let app = two.start(&["run", "c", "--port", "9091", "--", &binary, "fake-service", "--name", SECRET]);
    let mesh = Mesh { hosts, one, two, server, node_one, node_two, app };
    eventually("an answer of c", PATIENCE, || mesh.ask().contains(" 200").then_some(()));
    mesh
}

impl Mesh {
    /// What service c answers to a client on the first host.
    fn ask(&self) -> String {
        let client = self.one.start(&["run", "a", "--", "curl", "-si", "-m", "5", "http://c:9091/"]);
        client.wait(Duration::from_secs(20));
        client.stdout()
    }

    /// A TLS client on the first host that presents `arguments` to the second node.
    fn knock(&self, server_name: &str, arguments: &[&str]) {
        let mut client = self.one.command("openssl");
        let address = format!("{}:15008", self.hosts.addresses[1]);
        client.args(["s_client", "-connect", &address, "-alpn", "h2", "-tls1_3", "-servername", server_name]);
        client.args(arguments);
        run(&mut client);
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn the_wire_shows_nothing_and_impostors_are_refused() {
    require_root!();
    let _alone = alone();
    let mesh = mesh();

    // Another identity than a's, so that the handshake of its link is on the capture.
    let capture = mesh.one.path().join("wire.pcap");
    let mut tcpdump = mesh.one.command("tcpdump");
    tcpdump.args(["-i", "wire", "-U", "-s", "0", "-w"]).arg(&capture);
    let tcpdump = Process::spawn(&mut tcpdump);
    eventually("a capture", PATIENCE, || tcpdump.stderr().contains("listening on").then_some(()));
    let client = mesh.one.start(&["run", "b", "--", "curl", "-s", "-m", "5", "http://c:9091/"]);
    client.wait(Duration::from_secs(20));
    assert!(client.stdout().contains(SECRET), "{}", client.stdout());
    eventually("packets", PATIENCE, || {
        std::fs::metadata(&capture).is_ok_and(|file| file.len() > 4096).then_some(())
    });
    tcpdump.signal(Signal::SIGINT);
    tcpdump.wait(PATIENCE);
    let packets = std::fs::read(&capture).unwrap();
    assert!(!contains(&packets, SECRET.as_bytes()), "the answer is on the wire");
    assert!(!contains(&packets, b"c:9091"), "the name of the service is on the wire");
    // ServerHello (RFC 8446, section 4.1.3): key_share with group X25519MLKEM768 (0x11ec) and its 1,120
    // bytes, and supported_versions TLS 1.3.
    assert!(contains(&packets, &[0x00, 0x33, 0x04, 0x64, 0x11, 0xec, 0x04, 0x60]), "no X25519MLKEM768");
    assert!(contains(&packets, &[0x00, 0x2b, 0x00, 0x02, 0x03, 0x04]), "no TLS 1.3");
    let edge = eventually("the edge", PATIENCE, || {
        mesh.one.edges().into_iter().find(|e| e.source == "b" && e.destination == "c")
    });
    assert_eq!((edge.security.as_str(), edge.success), ("mTLS", 1.0));

    let said = |log: &Process, words: &[&str]| {
        eventually(&format!("log line with {words:?}"), PATIENCE, || {
            let text = format!("{}\n{}", log.stdout(), log.stderr());
            text.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        });
    };
    let name = "c.default.mesh.local";
    mesh.knock(name, &[]);
    said(&mesh.node_two, &["refused", "no certificate"]);

    let (certificate, key) = foreign_certificate(&mesh.one);
    mesh.knock(name, &["-cert", &certificate, "-key", &key]);
    said(&mesh.node_two, &["refused", "trust domain"]);

    // The node's own certificate has the right chain, but speaks for no workload.
    let (certificate, key) = node_certificate(&mesh.one);
    mesh.knock(name, &["-cert", &certificate, "-key", &key, "-cert_chain", &certificate]);
    said(&mesh.node_two, &["refused", "identity", "/node/one"]);

    // Somebody else answers at the second node's address, with a certificate of this mesh.
    mesh.node_two.signal(Signal::SIGKILL);
    mesh.node_two.wait(PATIENCE);
    let mut impostor = mesh.two.command("openssl");
    impostor.args([
        "s_server",
        "-accept",
        "15008",
        "-alpn",
        "h2",
        "-tls1_3",
        "-cert",
        &certificate,
        "-key",
        &key,
    ]);
    impostor.args(["-cert_chain", &certificate, "-Verify", "1", "-www"]);
    let impostor = Process::spawn(&mut impostor);
    eventually("impostor", PATIENCE, || impostor.stdout().contains("ACCEPT").then_some(()));
    let answer = mesh.ask();
    assert!(answer.contains(" 503"), "{answer}");
    said(&mesh.node_one, &["refused", "identity", "/node/one", "/sa/c"]);

    drop(mesh.app);
    assert!(mesh.node_one.interrupt().success());
    assert!(mesh.server.interrupt().success());
}

/// A certificate of an authority that is not the mesh's, for an identity of another trust domain.
fn foreign_certificate(home: &Home) -> (String, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let id = "spiffe://other.mesh/ns/default/sa/a".try_into().unwrap();
    parameters.subject_alt_names = vec![rcgen::SanType::URI(id)];
    let certificate = parameters.signed_by(&key, &authority).unwrap();
    let pem = home.write("foreign.pem", &certificate.pem());
    let key = home.write("foreign.key", &key.serialize_pem());
    (pem.display().to_string(), key.display().to_string())
}

/// The certificate (with its chain) and the key that the node keeps on disk, as PEM files.
fn node_certificate(home: &Home) -> (String, String) {
    let text = std::fs::read_to_string(home.path().join("node/node.json")).unwrap();
    let credential: serde_json::Value = serde_json::from_str(&text).unwrap();
    let pem = |label: &str, base64: &serde_json::Value| {
        let lines: Vec<&str> =
            base64.as_str().unwrap().as_bytes().chunks(64).map(|l| str::from_utf8(l).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    let chain: String =
        credential["chain"].as_array().unwrap().iter().map(|c| pem("CERTIFICATE", c)).collect();
    let certificate = home.write("node.pem", &chain);
    let key = home.write("node.key", &pem("PRIVATE KEY", &credential["key"]));
    (certificate.display().to_string(), key.display().to_string())
}

#[test]
fn known_destinations_outlive_the_server() {
    require_root!();
    let _alone = alone();
    let mesh = mesh();
    mesh.server.signal(Signal::SIGKILL);
    mesh.server.wait(PATIENCE);
    assert!(mesh.ask().contains(" 200"), "traffic needs no server");
    drop(mesh.app);
    assert!(mesh.node_one.interrupt().success());
    assert!(mesh.node_two.interrupt().success());
}

#[test]
fn a_workload_outlives_its_node_and_has_its_name_alone() {
    require_root!();
    let _alone = alone();
    let mesh = mesh();
    // The name is taken, by the other node.
    let taken = mesh.one.tulle(&["run", "c", "--port", "9091", "--", "sleep", "60"]);
    assert!(!taken.status.success() && taken.stderr.contains("the node `two` runs it"), "{taken:#?}");

    mesh.node_two.signal(Signal::SIGKILL);
    mesh.node_two.wait(PATIENCE);
    assert!(mesh.ask().contains(" 503"), "its node is gone");
    let server = format!("{}:15010", mesh.hosts.addresses[0]);
    let advertise = mesh.hosts.addresses[1];
    let node_two = mesh.two.start(&["node", "--name", "two", "--server", &server, "--advertise", advertise]);
    eventually("an answer of the same c", PATIENCE, || mesh.ask().contains(" 200").then_some(()));
    assert!(mesh.app.stderr().contains("the node is back"), "{}", mesh.app.stderr());
    drop(mesh.app);
    assert!(node_two.interrupt().success());
    assert!(mesh.node_one.interrupt().success());
    assert!(mesh.server.interrupt().success());
}
