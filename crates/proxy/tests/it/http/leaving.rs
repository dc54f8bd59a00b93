//! What may leave the mesh where egress is `Listed`, by the explicit proxy: by address, as nothing here resolves names of the outside.

mod open;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{
    AccessPolicy, AccessRule, Action, EgressPolicy, ExternalConfig, ExternalPort, IdentityPattern,
    OutsideProtocol, PathMatch, RequestConditions, ServerName, Source, WorkloadConfig,
};
use tulle_proxy::Capture;

use super::apps::{self, app, exchange, read_head, read_to_end};
use super::mesh::{Authority, Node, eventually, identity};

const SOON: Duration = Duration::from_secs(5);

/// What lists `*.example.com` and the host's own address at that port.
fn external(port: u16, protocol: OutsideProtocol, policies: Vec<AccessPolicy>) -> ExternalConfig {
    ExternalConfig {
        name: "default/ext".parse().unwrap(),
        hosts: vec![ServerName::new("*.example.com")],
        ranges: vec!["127.0.0.1/32".parse().unwrap()],
        ports: vec![ExternalPort::new(port, protocol)],
        policies: policies.into(),
    }
}

fn list(node: &mut Node, external: Vec<ExternalConfig>) {
    let external = external.into_iter().map(Arc::new).collect::<Vec<_>>().into();
    node.told(WorkloadConfig { external, ..WorkloadConfig::new(WorkloadName::new("default", "a")) });
}

async fn node() -> (Node, SocketAddr) {
    let mut node = Node::start("near", &Authority::new()).await;
    node.change_mesh(|mesh| mesh.egress = EgressPolicy::Listed);
    let proxy = node.listen_as(Capture::HttpProxy).await;
    (node, proxy)
}

fn get(url: &str, host: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

async fn tunnel(proxy: SocketAddr, target: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await;
    (stream, answer)
}

/// Nothing more comes: an end or a failure.
async fn is_over(stream: &mut TcpStream) -> bool {
    let read = timeout(SOON, stream.read(&mut [0])).await.unwrap();
    !read.is_ok_and(|length| length > 0)
}

#[tokio::test]
async fn requests_leave_for_what_is_listed() {
    let outside = apps::serve(app).await;
    let other = apps::serve(app).await;
    let (mut node, proxy) = node().await;
    let url = |address: SocketAddr| format!("http://{address}/x");
    // The server has said nothing of the workload.
    let answer = exchange(proxy, &get(&url(outside), "x")).await;
    assert!(
        answer.contains("tulle-reason: egress-denied") && answer.contains("has not said yet"),
        "{answer}"
    );
    list(&mut node, vec![external(outside.port(), OutsideProtocol::Http, Vec::new())]);
    for (url, expected) in [
        (url(outside), "host: 127.0.0.1"),
        (url(other), "ExternalService default/ext lists 127.0.0.1, and not at port"),
        (format!("http://localhost:{}/x", outside.port()), "host: localhost"),
        ("http://api.example.com/".to_owned(), "lists api.example.com, and not at port 80"),
        (
            "http://evil.test/".to_owned(),
            "no ExternalService of namespace default or tulle-system lists evil.test",
        ),
    ] {
        let answer = exchange(proxy, &get(&url, "x")).await;
        assert!(answer.contains(expected), "{url}: {answer}");
        let refused = answer.starts_with("HTTP/1.1 502 ") && answer.contains("tulle-reason: egress-denied");
        assert_eq!(refused, !answer.starts_with("HTTP/1.1 200 "), "{url}: {answer}");
    }
    // By namespace.
    node.change_mesh(|mesh| {
        mesh.egress_namespaces.insert("default".into(), EgressPolicy::Allow);
    });
    let answer = exchange(proxy, &get(&url(other), "x")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    node.change_mesh(|mesh| {
        mesh.egress = EgressPolicy::Allow;
        mesh.egress_namespaces.insert("default".into(), EgressPolicy::Deny);
    });
    let answer = exchange(proxy, &get(&url(outside), "x")).await;
    assert!(answer.contains("whose egress policy is Deny"), "{answer}");
}

#[tokio::test]
async fn nothing_leaves_until_the_server_has_said_what_may() {
    let outside = apps::serve(app).await;
    let (mut node, proxy) = node().await;
    node.change_mesh(|mesh| mesh.egress = EgressPolicy::Allow);
    let request = get(&format!("http://{outside}/x"), "x");
    for told in [false, true] {
        node.has_not_heard_of_mesh(true);
        let said = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if told {
                node.has_not_heard_of_mesh(false);
            }
        };
        let target = outside.to_string();
        let (answer, (_, tunneled), ()) =
            tokio::join!(exchange(proxy, &request), tunnel(proxy, &target), said);
        for answer in [answer, tunneled] {
            assert_eq!(answer.starts_with("HTTP/1.1 200 "), told, "{answer}");
            let refused = answer.contains("tulle-reason: egress-denied");
            assert_eq!(refused, !told, "{answer}");
        }
    }
    node.has_not_heard_of_mesh(true);
    let answer = exchange(proxy, &request).await;
    assert!(answer.contains("the server has not said yet what may leave"), "{answer}");
}

#[tokio::test]
async fn requests_go_where_requests_are_spoken() {
    let outside = apps::serve(app).await;
    let (mut node, proxy) = node().await;
    for protocol in [OutsideProtocol::Tls, OutsideProtocol::Bytes] {
        list(&mut node, vec![external(outside.port(), protocol, Vec::new())]);
        let answer = exchange(proxy, &get(&format!("http://{outside}/"), "x")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("CONNECT"), "{protocol:?}: {answer}");
    }
    list(&mut node, vec![external(outside.port(), OutsideProtocol::Http, Vec::new())]);
    // Inside of a tunnel they are read, and nothing else is.
    let (mut stream, answer) = tunnel(proxy, &outside.to_string()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stream.write_all(get("/sized", "x").as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("sized"));
    let (mut stream, _) = tunnel(proxy, &outside.to_string()).await;
    stream.write_all(&[22, 3, 1, 0, 200]).await.unwrap();
    assert!(is_over(&mut stream).await);
}

fn policy(action: Action, account: Option<&str>, path: Option<&str>) -> AccessPolicy {
    let pattern = |account| IdentityPattern::new(&identity(account).to_string()).unwrap();
    let sources = account.map(|account| vec![Source::Identity(pattern(account))]);
    let request = path.map(|path| {
        let paths = vec![PathMatch::Prefix(path.to_owned())];
        Box::new(RequestConditions { paths, ..RequestConditions::default() })
    });
    AccessPolicy {
        name: "default/who".parse().unwrap(),
        action,
        at: None,
        issuers: Vec::new(),
        rules: vec![AccessRule { index: 0, sources, ports: None, request, when: None }],
        external: None,
    }
}

#[tokio::test]
async fn policies_say_who_uses_what_is_listed() {
    let outside = apps::serve(app).await;
    let echo = crate::mesh::echo().await;
    let (mut node, proxy) = node().await;
    node.change_mesh(|mesh| mesh.access_log = true);
    let [allow, deny] = [Action::Allow, Action::Deny];
    for (policies, path, expected) in [
        (vec![policy(allow, Some("a"), None)], "/x", Ok(())),
        (vec![policy(allow, Some("b"), None)], "/x", Err("403 no-allow-policy")),
        (vec![policy(deny, None, None)], "/x", Err("403 denied-by=default/who")),
        (vec![policy(deny, None, Some("/admin"))], "/x", Ok(())),
        (vec![policy(deny, None, Some("/admin"))], "/admin/x", Err("403 denied-by=default/who")),
        (vec![policy(deny, None, Some("/admin"))], "/x/..;/admin", Err("400 bad-request")),
        (vec![policy(Action::Audit, None, None)], "/x", Ok(())),
    ] {
        list(&mut node, vec![external(outside.port(), OutsideProtocol::Http, policies.clone())]);
        let direct = exchange(proxy, &get(&format!("http://{outside}{path}"), "x")).await;
        let (mut stream, _) = tunnel(proxy, &outside.to_string()).await;
        stream.write_all(get(path, "x").as_bytes()).await.unwrap();
        for answer in [direct, read_to_end(&mut stream).await] {
            let reason = answer.lines().find_map(|line| line.strip_prefix("tulle-reason: "));
            let found = match reason {
                None => Ok(()),
                Some(reason) => Err(format!("{} {reason}", &answer[9..12])),
            };
            assert_eq!(found, expected.map_err(str::to_owned), "{policies:?} {path}: {answer}");
        }
        // Bytes have no path.
        list(&mut node, vec![external(echo.port(), OutsideProtocol::Bytes, policies.clone())]);
        let (_, answer) = tunnel(proxy, &echo.to_string()).await;
        let reads = policies.iter().any(|policy| policy.rules.iter().any(|rule| rule.request.is_some()));
        let refused = reads || expected.is_err();
        assert_eq!(answer.starts_with("HTTP/1.1 403 "), refused, "{policies:?}: {answer}");
        assert_eq!(answer.starts_with("HTTP/1.1 200 "), !refused, "{policies:?}: {answer}");
    }
    let by = ["workload=\"a\"", "policy=\"default/who\""];
    eventually(|| (node.metric("tulle_authorization_total", &by) > 3).then_some(())).await;
}

#[tokio::test]
async fn what_a_tunnel_carries_is_counted_once() {
    let echo = crate::mesh::echo().await;
    let (mut node, proxy) = node().await;
    list(
        &mut node,
        vec![external(echo.port(), OutsideProtocol::Bytes, vec![policy(Action::Audit, None, None)])],
    );
    for tunnels in 1..=3 {
        let (mut stream, answer) = tunnel(proxy, &echo.to_string()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        stream.write_all(b"ping").await.unwrap();
        timeout(SOON, stream.read_exact(&mut [0; 4])).await.unwrap().unwrap();
        assert_eq!(node.metric("tulle_authorization_total", &["policy=\"default/who\""]), tunnels);
    }
    // One that does not open is counted, too.
    list(
        &mut node,
        vec![external(echo.port(), OutsideProtocol::Bytes, vec![policy(Action::Deny, None, None)])],
    );
    let (_, answer) = tunnel(proxy, &echo.to_string()).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(node.metric("tulle_authorization_total", &["policy=\"default/who\""]), 4);
}

#[tokio::test]
async fn what_is_said_to_be_tls_begins_so() {
    let echo = crate::mesh::echo().await;
    let (mut node, proxy) = node().await;
    list(&mut node, vec![external(echo.port(), OutsideProtocol::Tls, Vec::new())]);
    let (mut stream, answer) = tunnel(proxy, &echo.to_string()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stream.write_all(b"no hello of TLS, and long enough for a record").await.unwrap();
    assert!(is_over(&mut stream).await);
    // By its address, whatever it names: what began so arrives as it was sent.
    let hello = client_hello("evil.test");
    let (mut stream, _) = tunnel(proxy, &echo.to_string()).await;
    stream.write_all(&hello).await.unwrap();
    let mut back = vec![0; hello.len()];
    timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, hello);
}

/// The first message of a client that wants that server.
fn client_hello(server: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(server.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn what_may_leave_no_longer_ends() {
    let echo = crate::mesh::echo().await;
    let (mut node, proxy) = node().await;
    let listed = || vec![external(echo.port(), OutsideProtocol::Bytes, Vec::new())];
    let changes: [fn(&mut Node, u16); 3] = [
        |node, _| list(node, Vec::new()),
        |node, port| {
            let policies = vec![policy(Action::Deny, None, None)];
            list(node, vec![external(port, OutsideProtocol::Bytes, policies)]);
        },
        |node, _| node.change_mesh(|mesh| mesh.egress = EgressPolicy::Deny),
    ];
    for change in changes {
        node.change_mesh(|mesh| mesh.egress = EgressPolicy::Listed);
        list(&mut node, listed());
        let (mut stream, _) = tunnel(proxy, &echo.to_string()).await;
        stream.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
        // What changes nothing for it leaves it alone.
        node.change_mesh(|mesh| mesh.access_log = !mesh.access_log);
        stream.write_all(b"pong").await.unwrap();
        timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
        change(&mut node, echo.port());
        assert!(is_over(&mut stream).await);
    }
}
