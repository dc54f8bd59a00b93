//! A node is revoked: its links close in both directions, it opens no new ones, and the rest of the mesh goes on. With a new
//! token it is in the mesh again.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tulle_tests::harness::{Home, Process, alone, eventually};
use tulle_tests::ports::free_port;

const PATIENCE: Duration = Duration::from_secs(20);
/// What would be denied if it began now has ended by then.
const LIMIT: Duration = Duration::from_secs(1);

struct Node {
    home: Home,
    process: Process,
    admin: u16,
}

struct Mesh {
    home: Home,
    server: Process,
    address: String,
}

impl Mesh {
    fn start() -> Self {
        let home = Home::new();
        let (api, nodes) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let server = home.start(&["server", "--listen-api", &api, "--listen-nodes", &nodes]);
        server.wait_for_line("the server", PATIENCE, |line| line.contains("the server runs"));
        Self { home, server, address: nodes }
    }

    fn run(&self, home: &Home, name: &str, admin: u16) -> Process {
        let token = self.home.tulle(&["token", "create", "--node", name]).ok().trim().to_owned();
        let listen_admin = format!("127.0.0.1:{admin}");
        let joins = ["node", "--name", name, "--server", &self.address, "--token", &token];
        let listen = ["--listen-links", "127.0.0.1:0", "--listen-admin", &listen_admin];
        let process = home.start(
            &[&joins[..], &listen, &["--capture", "explicit", "--workers", "2", "--drain", "1s"]].concat(),
        );
        process.wait_for_line("node", PATIENCE, |line| line.contains(" runs, links at "));
        process
    }

    fn node(&self, name: &str) -> Node {
        let (home, admin) = (Home::new(), free_port());
        Node { process: self.run(&home, name, admin), home, admin }
    }
}

/// Sends back what it gets.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut &stream, &mut back);
            });
        }
    });
    port
}

/// A connection through the mesh, which has carried something both ways.
fn open(port: u16) -> Option<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    goes_on(&stream).then_some(stream)
}

fn goes_on(mut stream: &TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"ping"
}

/// Reads until the connection ends; how long that took since then.
fn ended(mut stream: &TcpStream, since: Instant) -> Duration {
    match stream.read(&mut [0]) {
        Ok(0) => since.elapsed(),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => since.elapsed(),
        other => panic!("it did not end: {other:?}"),
    }
}

/// How many handshakes a node has refused for a revoked certificate.
fn refused(node: &Node, side: &str) -> u64 {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, node.admin)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let wanted = |line: &&str| {
        line.starts_with("tulle_tls_handshakes_total{")
            && line.contains(&format!("side=\"{side}\""))
            && line.contains("result=\"revoked\"")
    };
    text.lines().find(wanted).and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_revoked_nodes_links_close_and_the_mesh_goes_on() {
    let _alone = alone();
    let mesh = Mesh::start();
    let service = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{selector: {{app: {name}}}, ports: [{{port: 80, appProtocol: tcp}}]}}\n"
        )
    };
    let file = mesh.home.write("services.yaml", &(service("c") + &service("o"))).display().to_string();
    mesh.home.tulle(&["apply", "-f", &file]).ok();
    let (near, mut far, other) = (mesh.node("near"), mesh.node("far"), mesh.node("other"));
    let serve = |node: &Node, name: &str| {
        node.home.start(&["run", name, "--port", &format!("80={}", echo()), "--", "sleep", "600"])
    };
    let (_c, _o) = (serve(&far, "c"), serve(&other, "o"));
    let ask = |node: &Node, name: &str| {
        let environment = "echo ports $C_SERVICE_PORT $O_SERVICE_PORT; exec sleep 600";
        let upstreams = ["--upstream", "c", "--upstream", "o", "--", "sh", "-c", environment];
        let process = node.home.start(&[&["run", name][..], &upstreams].concat());
        let line = process.wait_for_line("ports", PATIENCE, |line| line.starts_with("ports "));
        let ports: Vec<u16> = line.split(' ').skip(1).map(|port| port.parse().unwrap()).collect();
        (process, ports[0], ports[1])
    };
    let ((_asks, near_c, near_o), (_far_asks, _, far_o)) = (ask(&near, "client"), ask(&far, "caller"));
    let connect = |what: &str, port: u16| eventually(what, PATIENCE, || open(port));
    let (to_lost, from_lost) = (connect("near to c", near_c), connect("far to o", far_o));
    let bystander = connect("near to o", near_o);

    let began = Instant::now();
    let said = mesh.home.tulle(&["node", "revoke", "far"]).ok();
    assert!(said.contains("node \"far\" revoked"), "{said}");
    let answered = Instant::now();
    for (what, stream) in [("to the revoked node", &to_lost), ("from it", &from_lost)] {
        let took = ended(stream, answered);
        assert!(took < LIMIT, "the connection {what} ended after {took:?}");
    }
    eprintln!("both have ended {:?} after the command began", began.elapsed());
    // Neither is there anybody to go to, nor does anybody take what comes.
    assert!(open(near_c).is_none());
    assert!(open(far_o).is_none());
    eventually("a refused handshake", PATIENCE, || {
        assert!(open(far_o).is_none());
        (refused(&other, "server") > 0).then_some(())
    });
    assert!(goes_on(&bystander) && open(near_o).is_some());
    let audit = mesh.home.tulle(&["audit"]).ok();
    assert!(audit.contains("nodes/far") || audit.contains("node/far"), "{audit}");

    // A certificate of the same node that is not on the list.
    assert!(far.process.interrupt().success());
    far.process = mesh.run(&far.home, "far", far.admin);
    let (back, forth) = (connect("near to c again", near_c), connect("far to o again", far_o));
    assert!(goes_on(&back) && goes_on(&forth) && goes_on(&bystander));
    for node in [near, far, other] {
        assert!(node.process.interrupt().success());
    }
    assert!(mesh.server.interrupt().success());
}
