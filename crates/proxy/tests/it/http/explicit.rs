//! The proxy as an HTTP proxy that a client is configured with.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tulle_model::apart;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{AppProtocol, EgressPolicy, EndpointSet, Known, ServiceConfig, Shape};
use tulle_proxy::Capture;

use super::apps::{self, app, exchange, read_head, read_to_end};
use super::mesh::{Authority, Node, Way, path};

fn absolute(uri: &str) -> String {
    format!("GET {uri} HTTP/1.1\r\nhost: ignored\r\nconnection: close\r\nproxy-authorization: x\r\n\r\n")
}

#[tokio::test]
async fn every_name_of_a_service_leads_to_it() {
    let path = path(Way::Link, AppProtocol::Detect, apps::serve(app).await).await;
    let proxy = path.near.listen_as(Capture::HttpProxy).await;
    for host in ["c", "C", "c.default", "c.default.mesh", "c.default.svc", "c.default.svc.cluster.local:80"] {
        let answer = exchange(proxy, &absolute(&format!("http://{host}/x"))).await;
        assert!(answer.contains(&format!("\r\n\r\nGET /x HTTP/1.1\nhost: {host}\n")), "{answer}");
        assert!(!answer.contains("proxy-authorization"), "{answer}");
    }
    assert_eq!(path.near.edge_with("c", 6).await.failures, 0);
}

#[tokio::test]
async fn names_that_stand_for_others_and_single_endpoints_lead_there() {
    let mut path = path(Way::Link, AppProtocol::Detect, apps::serve(app).await).await;
    let snapshot = Arc::make_mut(&mut path.near.state.snapshot);
    for (name, target) in [
        ("alias", "c.default.mesh"),
        ("again", "ALIAS.default.svc.cluster.local"),
        ("loop", "loop.default.mesh"),
        ("host", "localhost"),
    ] {
        let name = ServiceName::new("default", name);
        let config =
            ServiceConfig { shape: Shape::Alias(target.into()), ..ServiceConfig::new(name.clone(), vec![]) };
        snapshot.services.insert(name, Known::Present(Arc::new(config)));
    }
    // The node takes a headless service apart.
    let c = ServiceName::new("default", "c");
    let Some(Known::Present(config)) = snapshot.services.get(&c) else { panic!() };
    let heads = ServiceName::new("default", "heads");
    let config =
        ServiceConfig { name: heads.clone(), shape: Shape::Headless, ..ServiceConfig::clone(config) };
    let parts = apart::services(&config, &snapshot.endpoints[&c]);
    assert_eq!(parts.len(), 1);
    let endpoint = parts[0].0.name.name.to_string();
    snapshot.services.insert(heads, Known::Present(Arc::new(config)));
    for (config, set) in parts {
        snapshot.endpoints.insert(config.name.clone(), Arc::new(set));
        snapshot.services.insert(config.name.clone(), Known::Present(Arc::new(config)));
    }
    path.near.publish();
    let proxy = path.near.listen_as(Capture::HttpProxy).await;
    for host in ["alias", "again.default", &endpoint, &format!("{endpoint}.default.mesh")] {
        let answer = exchange(proxy, &absolute(&format!("http://{host}/x"))).await;
        assert!(answer.contains(&format!("\r\n\r\nGET /x HTTP/1.1\nhost: {host}\n")), "{host}: {answer}");
    }
    for (host, reason) in [("loop", "unknown-service"), ("host", "egress-denied")] {
        let answer = exchange(proxy, &absolute(&format!("http://{host}/x"))).await;
        assert!(answer.contains(&format!("tulle-reason: {reason}")), "{host}: {answer}");
    }
}

#[tokio::test]
async fn every_name_of_an_endpoint_leads_to_it() {
    let mut path = path(Way::Link, AppProtocol::Detect, apps::serve(app).await).await;
    let snapshot = Arc::make_mut(&mut path.near.state.snapshot);
    let c = ServiceName::new("default", "c");
    let Some(Known::Present(config)) = snapshot.services.get(&c) else { panic!() };
    let config = config.clone();
    let heads = ServiceName::new("default", "heads");
    let of = |name: &ServiceName, shape| {
        Known::Present(Arc::new(ServiceConfig { name: name.clone(), shape, ..ServiceConfig::clone(&config) }))
    };
    snapshot.services.insert(heads.clone(), of(&heads, Shape::Headless));
    let labels = ["c-0", "10-0-0-1", "fd00-0-0-0-0-0-0-1", "2001-db8-0-0-0-0-0-1"];
    for label in labels {
        let name = apart::name(&heads, label);
        snapshot.services.insert(name.clone(), of(&name, Shape::Balanced));
        let endpoint = snapshot.endpoints[&c].endpoints[0].clone();
        let set = EndpointSet::new(name.clone(), vec![(endpoint, 0)]);
        snapshot.endpoints.insert(name, Arc::new(set));
    }
    // What the server says of all other names.
    for (namespace, name) in
        [("heads", "c-0"), ("mesh", "foo"), ("default", "mesh"), ("default", "c-1"), ("com", "example")]
    {
        snapshot.services.insert(ServiceName::new(namespace, name), Known::Absent);
    }
    path.near.change_mesh(|mesh| mesh.egress = EgressPolicy::Deny);
    let proxy = path.near.listen_as(Capture::HttpProxy).await;
    for label in labels {
        for suffix in ["", ".default", ".Default.mesh.", ".default.svc", ".default.svc.cluster.local"] {
            let host = format!("{label}.heads{suffix}");
            let answer = exchange(proxy, &absolute(&format!("http://{host}/x"))).await;
            assert!(answer.contains(&format!("\r\n\r\nGET /x HTTP/1.1\nhost: {host}\n")), "{host}: {answer}");
        }
    }
    // Names that can be nobody else's are not those of the outside, which is denied.
    let ours = [
        "10-0-0-9.heads",
        "c-9.heads.default",
        "foo.mesh",
        "a_b.default.mesh",
        "a.b.c.d.svc",
        "c.x.svc.cluster.local",
    ];
    for (hosts, reason) in
        [(&ours[..], "unknown-service"), (&["www.example.com", "10-0-0-1.example.com"], "egress-denied")]
    {
        for host in hosts {
            let answer = exchange(proxy, &absolute(&format!("http://{host}/x"))).await;
            assert!(answer.contains(&format!("tulle-reason: {reason}")), "{host}: {answer}");
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_is_said() {
    let path = path(Way::SameNode, AppProtocol::Detect, apps::serve(app).await).await;
    let proxy = path.near.listen_as(Capture::HttpProxy).await;
    for (uri, status, reason) in [
        ("http://nothing.default.mesh/", "502", "unknown-service"),
        ("http://c.default.mesh:81/", "502", "unknown-service"),
        ("/", "400", "bad-request"),
        ("https://c/", "400", "bad-request"),
    ] {
        let answer = exchange(proxy, &absolute(uri)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{uri}: {answer}");
        assert!(answer.contains(&format!("tulle-reason: {reason}")), "{uri}: {answer}");
    }
    let itself = exchange(proxy, &absolute(&format!("http://{proxy}/"))).await;
    assert!(itself.contains("tulle-reason: bad-request"), "{itself}");
}

#[tokio::test]
async fn the_outside_is_reached_if_the_mesh_lets_it() {
    let outside = apps::serve(app).await;
    let mut node = Node::start("near", &Authority::new()).await;
    let proxy = node.listen_as(Capture::HttpProxy).await;
    for host in [outside.to_string(), format!("localhost:{}", outside.port())] {
        let answer = exchange(proxy, &absolute(&format!("http://{host}/x"))).await;
        assert!(answer.contains(&format!("host: {host}\n")), "{answer}");
    }
    assert_eq!(node.edge_with("external", 2).await.failures, 0);
    node.change_mesh(|mesh| mesh.egress = EgressPolicy::Deny);
    let answer = exchange(proxy, &absolute(&format!("http://{outside}/x"))).await;
    assert!(answer.contains("tulle-reason: egress-denied"), "{answer}");
}

#[tokio::test]
async fn connect_opens_a_tunnel_in_which_anything_may_be_spoken() {
    // HTTP inside of the tunnel is routed as such.
    let path = path(Way::Link, AppProtocol::Detect, apps::serve(app).await).await;
    let proxy = path.near.listen_as(Capture::HttpProxy).await;
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(b"CONNECT c:80 HTTP/1.1\r\nhost: c:80\r\n\r\n").await.unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stream.write_all(b"GET /sized HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("sized"));
    assert_eq!(path.near.edge_with("c", 1).await.protocol, "http");
    // Bytes to somewhere else pass as they are.
    let greeter = apps::script(|mut stream| async move {
        stream.write_all(b"220 hello\r\n").await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
    })
    .await;
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(format!("CONNECT {greeter} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    read_head(&mut stream).await;
    let mut greeting = [0; 11];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
    stream.write_all(b"QUIT").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "QUIT");
}

/// A client that asks for a tunnel takes a success for a connection.
#[tokio::test]
async fn connect_fails_where_nothing_can_be_connected_to() {
    let (_held, nowhere) = apps::nowhere();
    for (protocol, unreachable) in [
        (AppProtocol::Tcp, "503 connect-failed"),
        // What the client speaks decides: HTTP is answered, anything else is reset.
        (AppProtocol::Http1, "200 "),
        (AppProtocol::Detect, "200 "),
    ] {
        for way in [Way::Plain, Way::SameNode, Way::Link] {
            let path = path(way, protocol, nowhere).await;
            let proxy = path.near.listen_as(Capture::HttpProxy).await;
            for (target, expected) in [
                ("c:80".to_owned(), unreachable),
                ("c:99".to_owned(), "502 unknown-service"),
                ("nothing.default.mesh:80".to_owned(), "502 unknown-service"),
                (nowhere.to_string(), "503 connect-failed"),
            ] {
                let mut stream = TcpStream::connect(proxy).await.unwrap();
                let request = format!("CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let answer = read_head(&mut stream).await;
                let reason = answer.lines().find_map(|line| line.strip_prefix("tulle-reason: "));
                let found = format!("{} {}", &answer[9..12], reason.unwrap_or_default());
                assert_eq!(found, expected, "{protocol:?} {way:?} {target}");
            }
        }
    }
}
