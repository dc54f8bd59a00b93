//! Ports with TLSRoutes: the server that a client names decides, and what it says passes as it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::{
    AppProtocol, Backend, BackendTarget, Endpoint, Known, PortMapping, ServiceConfig, Snapshot, TcpRule,
    TlsRouteEntry, TlsRouteTable,
};
use tulle_proxy::{Bounds, Capture, Deadlines, Purpose};

use crate::believer::{believer, provider};
use crate::mesh::{Ca, LOOPBACK, Node, PORT, Pair, app, echo, eventually, expect_echo, listen, logged};

/// Routes for the port of a service: a host name, the TLSRoute that has it, the service that it leads to.
type Routes<'a> = &'a [(&'a str, &'a str, &'a str)];

/// Gives the only port of a service TLSRoutes.
fn route(node: &mut Node, service: &str, routes: Routes<'_>) {
    let service = NamespacedName::new("default", service);
    let name = |name: &str| NamespacedName::new("default", name);
    let entry = |&(hostname, route, target): &(&str, &str, &str)| {
        let target = BackendTarget::Service { name: name(target), port: PORT };
        let rule = TcpRule { route: name(route), backends: vec![Backend::new(target, 1)] };
        TlsRouteEntry { name: tulle_model::snapshot::ServerName::new(hostname), rule: Arc::new(rule) }
    };
    let table = TlsRouteTable::new(routes.iter().map(entry).collect());
    node.edit(|state| {
        let mut snapshot = Snapshot::clone(&state.snapshot);
        let Some(Known::Present(config)) = snapshot.services.get(&service) else { panic!() };
        let mut config = ServiceConfig::clone(config);
        config.ports[0].tls_routes = table;
        snapshot.services.insert(service, Known::Present(Arc::new(config)));
        Arc::make_mut(&mut snapshot.mesh).access_log = true;
        state.snapshot = Arc::new(snapshot);
    });
}

fn plain(app: SocketAddr) -> Endpoint {
    let ports = vec![PortMapping { service_port: PORT, target_port: app.port() }];
    Endpoint { workload: None, node: None, address: LOOPBACK, ports, identity: None }
}

/// A server of TLS that says its name, and then repeats what it hears.
pub async fn server(ca: &Ca, name: &'static str) -> SocketAddr {
    let certificate = ca.issue(&ca.identity(name));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.svid().key().clone())));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    app(move |tcp| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut tls) = acceptor.accept(tcp).await else { return };
            let mut heard = [0; 5];
            if tls.write_all(name.as_bytes()).await.is_ok() && tls.read_exact(&mut heard).await.is_ok() {
                let _ = tls.write_all(&heard).await;
                let _ = tls.shutdown().await;
            }
        }
    })
    .await
}

/// What answers a client of TLS that wants that server.
pub async fn ask(tcp: TcpStream, server: &'static str) -> std::io::Result<String> {
    let name = ServerName::try_from(server).unwrap();
    let mut tls = believer(None).connect(name, tcp).await?;
    tls.write_all(b"hello").await?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await?;
    Ok(answer.strip_suffix("hello").unwrap_or(&answer).to_owned())
}

/// Which server answers at an entry.
async fn who(entry: SocketAddr, server: &'static str) -> String {
    let answer = ask(TcpStream::connect(entry).await.unwrap(), server);
    tokio::time::timeout(Duration::from_secs(10), answer)
        .await
        .unwrap()
        .unwrap_or_else(|e| panic!("{server}: {e}"))
}

/// The first message of a client that wants that server, in one record; of an address it names none.
pub fn client_hello(server: &'static str) -> Vec<u8> {
    let config = believer(None).config().clone();
    let name = ServerName::try_from(server).unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).unwrap();
    }
    hello
}

/// Sends `bytes`, and their end where it says so, and expects to be reset.
async fn expect_refusal(entry: SocketAddr, bytes: &[u8], shut: bool) {
    let mut stream = TcpStream::connect(entry).await.unwrap();
    // It may be reset already, and says so once.
    if stream.write_all(bytes).await.is_err() || (shut && stream.shutdown().await.is_err()) {
        return;
    }
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 10])).await;
    let error = read.expect("it was not reset in ten seconds").expect_err("it was not reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn the_server_that_a_client_names_decides_by_every_way() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let Pair { ca, mut near, mut far, client, .. } = pair;
    let servers = [server(&ca, "whole").await, server(&ca, "narrow").await, server(&ca, "wide").await];
    let [whole, narrow, wide] = servers;
    // In plain, on this node, over a link.
    near.know("whole", AppProtocol::Tcp, vec![plain(whole)]);
    let own = near.run("narrow", &[narrow.port()], ca.issue(&ca.identity("narrow")));
    let own = near.endpoint(&own, narrow.port(), ca.identity("narrow"));
    near.know("narrow", AppProtocol::Tcp, vec![own]);
    let other = far.run("wide", &[wide.port()], ca.issue(&ca.identity("wide")));
    let other = far.endpoint(&other, wide.port(), ca.identity("wide"));
    near.know("wide", AppProtocol::Tcp, vec![other]);
    near.know("front", AppProtocol::Detect, vec![]);
    let routes = [
        ("*.test", "r-wide", "wide"),
        ("b.a.test", "r-whole", "whole"),
        ("*.a.test", "r-narrow", "narrow"),
        ("late.test", "r-whole", "whole"),
    ];
    route(&mut near, "front", &routes);
    let entry = near.outbound(&client, "front").await;
    for (server, expected) in [
        ("b.a.test", "whole"),
        ("late.test", "whole"),
        ("c.a.test", "narrow"),
        ("c.b.a.test", "narrow"),
        ("a.test", "wide"),
        ("x.test", "wide"),
    ] {
        assert_eq!(who(entry, server).await, expected, "{server}");
    }
    let routed = "TLSRoute/default/r-narrow spec.rules[0].backendRefs[0].weight routed";
    let narrow = ["destination=default/narrow protocol=\"tcp\"", routed, "result=\"success\""];
    eventually(|| logged(&narrow)).await;
    // A change is for what begins then.
    route(&mut near, "front", &[("x.test", "r-whole", "whole")]);
    assert_eq!(who(entry, "x.test").await, "whole");
}

#[tokio::test]
async fn what_a_client_says_first_passes_as_it_came_however_it_is_cut() {
    let mut pair = Pair::new(echo().await, AppProtocol::Detect).await;
    route(&mut pair.near, "server", &[("a.test", "r", "server")]);
    let hello = client_hello("a.test");
    // The same message in several records.
    let header = &hello[..3];
    let records: Vec<u8> = hello[5..]
        .chunks(100)
        .flat_map(|part| [header, &(part.len() as u16).to_be_bytes()[..], part].concat())
        .collect();
    // Its name as some libraries have it, absolute.
    let mut absolute = client_hello("a.testx");
    let at = absolute.windows(7).position(|name| name == b"a.testx").unwrap();
    absolute[at + 6] = b'.';
    for (bytes, size) in [
        (&hello, hello.len()),
        (&hello, 1),
        (&hello, 300),
        (&records, 7),
        (&records, 5000),
        (&absolute, absolute.len()),
    ] {
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for part in bytes.chunks(size) {
            stream.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut back = vec![0; bytes.len()];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut back)).await;
        read.expect("nothing came back in ten seconds").unwrap();
        assert!(back == **bytes, "in pieces of {size}");
        expect_echo(&mut stream, b"what is no TLS any more").await;
    }
    // More than is looked at comes with it.
    let mut long = hello.clone();
    long.extend((0..200_000u32).map(|i| i as u8));
    let stream = TcpStream::connect(pair.entry).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sent = long.clone();
    let sender = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    sender.await.unwrap();
    assert!(back == long, "{} bytes came back of {}", back.len(), long.len());
}

#[tokio::test]
async fn what_no_route_is_for_is_reset_and_says_why() {
    let mut pair = Pair::new(echo().await, AppProtocol::Detect).await;
    route(&mut pair.near, "server", &[("a.test", "tls-one", "server"), ("*.b.test", "tls-one", "server")]);
    let by_one = "TLSRoute/default/tls-one spec.hostnames refused";
    // A record that says more than may come.
    let endless = [&[22, 3, 1, 64, 0, 1, 0, 200, 0][..], &[0; 20_000]].concat();
    let cut = client_hello("a.test");
    let cases: [(&[u8], bool, &str, &str, &str); 7] = [
        (&client_hello("c.test"), false, "no-route", "no-route", "is for the server c.test (SNI)"),
        (&client_hello("b.test"), false, "no-route", "no-route", "is for the server b.test (SNI)"),
        // A client names no address.
        (&client_hello("192.0.2.1"), false, "no-route", "no-route", "the client names no server (SNI)"),
        (
            b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n",
            false,
            "not-tls",
            "bad-request",
            "does not begin like TLS",
        ),
        (b"SSH-2.0-OpenSSH\r\n", false, "not-tls", "bad-request", "does not begin like TLS"),
        (&endless, false, "not-tls", "bad-request", "does not"),
        (&cut[..100], true, "not-tls", "bad-request", "the client has closed its side before"),
    ];
    for (bytes, shut, counted, reason, detail) in cases {
        let labels = [&*format!("reason=\"{counted}\"")];
        let before = pair.near.metric("tulle_connections_rejected_total", &labels);
        expect_refusal(pair.entry, bytes, shut).await;
        pair.near.metric_reaches("tulle_connections_rejected_total", &labels, before + 1.0).await;
        let reason = format!("reason=\"{reason}\"");
        let line =
            ["destination=default/server protocol=\"tcp\"", by_one, &reason, "result=\"refused\"", detail];
        eventually(|| logged(&line)).await;
    }
    // Nobody's fault but the caller's.
    let edges = pair.near.proxy.edges();
    assert_eq!(edges.iter().map(|edge| edge.failures).sum::<u64>(), 0, "{edges:?}");
    // Who connects to see whether somebody is there learns it, and is no caller.
    let quiet = pair.near.metric("tulle_connections_rejected_total", &[]);
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(pair.near.metric("tulle_connections_rejected_total", &[]), quiet);

    // Of several routes, their port is named.
    route(&mut pair.near, "server", &[("a.test", "tls-one", "server"), ("*.b.test", "tls-two", "server")]);
    expect_refusal(pair.entry, &client_hello("d.test"), false).await;
    let line = ["Service/default/server spec.ports[80] refused", "is for the server d.test (SNI)"];
    eventually(|| logged(&line)).await;
}

#[tokio::test]
async fn a_client_that_is_slow_to_say_what_it_wants_is_reset() {
    let head = Duration::from_millis(150);
    let bounds = Bounds { deadlines: Deadlines { head, ..Deadlines::default() }, ..Bounds::default() };
    let mut pair = Pair::bounded(echo().await, AppProtocol::Detect, 1, bounds).await;
    route(&mut pair.near, "server", &[("a.test", "tls-slow", "server")]);
    let entry = pair.entry;
    let silent = async {
        let mut stream = TcpStream::connect(entry).await.unwrap();
        stream.read(&mut [0; 1]).await
    };
    let slow = async {
        let (mut read, mut write) = TcpStream::connect(entry).await.unwrap().into_split();
        let hello = client_hello("a.test");
        let sender = tokio::spawn(async move {
            for byte in hello {
                if write.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let read = read.read(&mut [0; 1]).await;
        sender.abort();
        read
    };
    let begin = Instant::now();
    let both = async { tokio::join!(silent, slow) };
    let (silent, slow) = tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
    assert!(begin.elapsed() >= head, "{:?}", begin.elapsed());
    for read in [silent, slow] {
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    let labels = ["reason=\"not-tls\""];
    pair.near.metric_reaches("tulle_connections_rejected_total", &labels, 2.0).await;
    let line =
        ["TLSRoute/default/tls-slow spec.hostnames refused", "reason=\"request-timeout\"", "within 150ms"];
    eventually(|| logged(&line)).await;
}

#[tokio::test]
async fn a_tunnel_of_an_explicit_proxy_is_opened_before_its_client_says_what_it_wants() {
    let mut pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let app = server(&pair.ca, "inside").await;
    pair.near.know("inside", AppProtocol::Tcp, vec![plain(app)]);
    pair.near.know("front", AppProtocol::Detect, vec![]);
    route(&mut pair.near, "front", &[("a.test", "r", "inside")]);
    let purpose = Purpose::Outbound { workload: pair.client.clone(), capture: Capture::HttpProxy };
    let proxy = listen(&pair.near.proxy, purpose).await;
    let tunnel = async || {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream
            .write_all(b"CONNECT front.default:80 HTTP/1.1\r\nhost: front.default:80\r\n\r\n")
            .await
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", head.escape_ascii());
        stream
    };
    assert_eq!(ask(tunnel().await, "a.test").await.unwrap(), "inside");
    assert!(ask(tunnel().await, "b.test").await.is_err());
}
