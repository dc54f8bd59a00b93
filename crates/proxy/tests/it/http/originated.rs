//! TLS that the node originates to the outside, by the explicit proxy: by address, as nothing here resolves names of the outside.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{
    AccessPolicy, AccessRule, Action, CertificateName, EgressPolicy, ExternalConfig, ExternalPort,
    OriginatedRoots, OriginatedTls, OutsideProtocol, TlsAsker, WorkloadConfig,
};
use tulle_proxy::Capture;

use super::apps::{self, app, exchange, read_head};
use super::mesh::{Authority, Node};

const SOON: Duration = Duration::from_secs(5);

/// Who signs certificates of the outside.
struct Signer {
    params: CertificateParams,
    key: KeyPair,
    root: CertificateDer<'static>,
}

impl Signer {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { params, key, root }
    }

    /// The side of a server, whose certificate has these names (a URI has a colon) and ends then.
    fn server(&self, names: &[&str], ends: SystemTime, alpn: &[&[u8]]) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let san = |name: &&str| match name.contains(':') {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(san).collect();
        params.not_before = (ends - Duration::from_secs(7200)).into();
        params.not_after = ends.into();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    fn good(&self) -> ServerConfig {
        self.server(&["api.example.com"], later(), &[b"h2", b"http/1.1"])
    }

    fn roots(&self) -> OriginatedRoots {
        OriginatedRoots::Given([Arc::from(&*self.root)].into())
    }
}

fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

/// How often a server was connected to, and asked.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// Serves HTTP in TLS: the answer says what was asked of it, and how.
async fn serve(config: ServerConfig) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let counted = seen.clone();
    let address = accept(config, move |stream| {
        let seen = counted.clone();
        seen.connections.fetch_add(1, Ordering::Relaxed);
        async move {
            let (_, tls) = stream.get_ref();
            let server = tls.server_name().unwrap_or("none").to_owned();
            let alpn = String::from_utf8(tls.alpn_protocol().unwrap_or(b"none").to_vec()).unwrap();
            let service = service_fn(move |request: Request<Incoming>| {
                seen.requests.fetch_add(1, Ordering::Relaxed);
                let (head, _) = request.into_parts();
                let host = head.headers.get("host").map(|host| host.to_str().unwrap().to_owned());
                let text = format!(
                    "{} {} {:?} sni={server} alpn={alpn} host={}",
                    head.method,
                    head.uri,
                    head.version,
                    host.unwrap_or_default()
                );
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    });
    (address.await, seen)
}

async fn accept<F>(
    config: ServerConfig,
    serve: impl Fn(tokio_rustls::server::TlsStream<TcpStream>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, serve) = (acceptor.clone(), serve.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(tcp).await {
                    serve(stream).await;
                }
            });
        }
    });
    address
}

async fn echo(config: ServerConfig) -> SocketAddr {
    accept(config, |stream| async move {
        let (mut from, mut to) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    })
    .await
}

fn originated(roots: OriginatedRoots) -> OriginatedTls {
    OriginatedTls {
        by: TlsAsker::Policy("default/tls".parse().unwrap()),
        hostname: "api.example.com".into(),
        names: Vec::new(),
        roots,
    }
}

/// What lists the host's own address at port 80, where what is for that goes in TLS to the port of `server`.
fn external(server: SocketAddr, protocol: OutsideProtocol, tls: OriginatedTls) -> ExternalConfig {
    let port = ExternalPort {
        target_port: Some(server.port()),
        tls: Some(Arc::new(tls)),
        ..ExternalPort::new(80, protocol)
    };
    ExternalConfig {
        name: "default/ext".parse().unwrap(),
        hosts: Vec::new(),
        ranges: vec!["127.0.0.1/32".parse().unwrap()],
        ports: vec![port],
        policies: Vec::new().into(),
    }
}

fn list(node: &mut Node, external: ExternalConfig) {
    let external = vec![Arc::new(external)];
    node.told(WorkloadConfig {
        external: external.into(),
        ..WorkloadConfig::new(WorkloadName::new("default", "a"))
    });
}

async fn node(egress: EgressPolicy) -> (Node, SocketAddr) {
    let mut node = Node::start("near", &Authority::new()).await;
    node.change_mesh(|mesh| (mesh.egress, mesh.originates_tls) = (egress, true));
    let proxy = node.listen_as(Capture::HttpProxy).await;
    (node, proxy)
}

const GET: &str = "GET http://127.0.0.1/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn what_is_asked_in_plain_goes_in_tls() {
    let signer = Signer::new();
    for egress in [EgressPolicy::Listed, EgressPolicy::Allow] {
        let (server, seen) = serve(signer.good()).await;
        let (mut node, proxy) = node(egress).await;
        let tls = || originated(signer.roots());
        list(&mut node, external(server, OutsideProtocol::Http, tls()));
        let answer = exchange(proxy, GET).await;
        assert!(
            answer.ends_with("GET /x HTTP/1.1 sni=api.example.com alpn=http/1.1 host=127.0.0.1"),
            "{answer}"
        );
        // Connections are used again, also where the workload is told of the same once more.
        list(&mut node, external(server, OutsideProtocol::Http, tls()));
        assert!(exchange(proxy, GET).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(
            (seen.connections.load(Ordering::Relaxed), seen.requests.load(Ordering::Relaxed)),
            (1, 2),
            "{egress:?}"
        );
        // Who trusts others has others.
        let other = originated(Signer::new().roots());
        list(&mut node, external(server, OutsideProtocol::Http, other));
        let answer = exchange(proxy, GET).await;
        assert!(answer.contains("tulle-reason: tls-failed"), "{answer}");
        assert_eq!(seen.requests.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test]
async fn who_cannot_prove_it_gets_no_request() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let (mut node, proxy) = node(EgressPolicy::Listed).await;
    node.change_mesh(|mesh| mesh.access_log = true);
    let names =
        |names: &[CertificateName]| OriginatedTls { names: names.to_vec(), ..originated(signer.roots()) };
    let host = |name: &str| CertificateName::Host(name.into());
    let uri = |name: &str| CertificateName::Uri(name.into());
    let ended = SystemTime::now() - Duration::from_secs(60);
    let h1: &[&[u8]] = &[b"http/1.1"];
    for (config, tls, expected) in [
        (
            signer.server(&["other.test"], later(), h1),
            names(&[]),
            Some(
                "for other.test, and not for api.example.com (BackendTLSPolicy default/tls, spec.validation.hostname)",
            ),
        ),
        (
            stranger.good(),
            names(&[]),
            Some(
                "signed by nobody who is trusted (BackendTLSPolicy default/tls, spec.validation.caCertificateRefs)",
            ),
        ),
        (
            signer.server(&["api.example.com"], ended, h1),
            names(&[]),
            Some("has expired (BackendTLSPolicy default/tls, spec.validation)"),
        ),
        (
            signer.server(&["api.example.com"], later() + Duration::from_secs(7200), h1),
            names(&[]),
            Some("is not valid yet"),
        ),
        (
            signer.server(&["api.example.com"], later(), &[b"smtp"]),
            names(&[]),
            Some("does not speak what the client does (ALPN)"),
        ),
        (signer.server(&["*.example.com"], later(), h1), names(&[]), None),
        // No protocol is agreed on: it is HTTP/1.1 then.
        (signer.server(&["api.example.com"], later(), &[]), names(&[]), None),
        (signer.server(&["other.test"], later(), h1), names(&[host("no.test"), host("other.test")]), None),
        (
            signer.server(&["api.example.com"], later(), h1),
            names(&[host("other.test")]),
            Some("spec.validation.subjectAltNames"),
        ),
        (signer.server(&["spiffe://m.test/a"], later(), h1), names(&[uri("spiffe://m.test/a")]), None),
        (
            signer.server(&["spiffe://m.test/b"], later(), h1),
            names(&[uri("spiffe://m.test/a")]),
            Some("for spiffe://m.test/b, and not for spiffe://m.test/a"),
        ),
    ] {
        let (server, seen) = serve(config).await;
        list(&mut node, external(server, OutsideProtocol::Http, tls));
        let answer = exchange(proxy, GET).await;
        match expected {
            None => assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}"),
            Some(why) => {
                assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
                assert!(
                    answer.contains("tulle-reason: tls-failed\r\n") && answer.contains(why),
                    "{why}: {answer}"
                );
                assert_eq!(seen.requests.load(Ordering::Relaxed), 0, "{why}");
            }
        }
    }
}

#[tokio::test]
async fn what_answers_otherwise_gets_nothing_in_plain() {
    let signer = Signer::new();
    let (mut node, proxy) = node(EgressPolicy::Listed).await;
    // In plain, though it would answer.
    let (plain, came) = apps::serve_telling().await;
    list(&mut node, external(plain, OutsideProtocol::Http, originated(signer.roots())));
    let answer = exchange(proxy, GET).await;
    assert!(answer.contains("tulle-reason: tls-failed") && answer.contains("does not speak TLS"), "{answer}");
    assert!(timeout(Duration::from_millis(50), came.notified()).await.is_err());
    // Hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    list(&mut node, external(address, OutsideProtocol::Http, originated(signer.roots())));
    let answer = exchange(proxy, GET).await;
    assert!(
        answer.contains("tulle-reason: tls-failed") && answer.contains("broke in the handshake"),
        "{answer}"
    );
    // Nobody is there.
    let (_held, nowhere) = apps::nowhere();
    list(&mut node, external(nowhere, OutsideProtocol::Http, originated(signer.roots())));
    let answer = exchange(proxy, GET).await;
    assert!(answer.contains("tulle-reason: connect-failed"), "{answer}");
    // There is nobody to trust.
    let (server, seen) = serve(signer.good()).await;
    let field = "spec.validation.caCertificateRefs[0]";
    let nobody =
        OriginatedRoots::Nobody { field: field.into(), why: "there is no ConfigMap default/ca".into() };
    for egress in [EgressPolicy::Listed, EgressPolicy::Allow] {
        node.change_mesh(|mesh| mesh.egress = egress);
        list(&mut node, external(server, OutsideProtocol::Http, originated(nobody.clone())));
        let answer = exchange(proxy, GET).await;
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains("tulle-reason: tls-failed"),
            "{answer}"
        );
        assert!(answer.contains(&format!("{field}: there is no ConfigMap default/ca")), "{answer}");
    }
    assert_eq!(seen.connections.load(Ordering::Relaxed), 0);
}

/// An answer to a request in HTTP/2 without TLS.
async fn ask_in_http2(proxy: SocketAddr) -> (u16, String, String) {
    let io = TokioIo::new(TcpStream::connect(proxy).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://127.0.0.1/x").body(Empty::<Bytes>::new()).unwrap();
    let answer = timeout(SOON, sender.send_request(request)).await.unwrap().unwrap();
    let reason = answer.headers().get("tulle-reason").map(|reason| reason.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, reason.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn http2_goes_as_http2() {
    let signer = Signer::new();
    let (mut node, proxy) = node(EgressPolicy::Listed).await;
    let (server, seen) = serve(signer.good()).await;
    list(&mut node, external(server, OutsideProtocol::Http, originated(signer.roots())));
    for _ in 0..2 {
        let (status, _, body) = ask_in_http2(proxy).await;
        let expected = "GET https://127.0.0.1/x HTTP/2.0 sni=api.example.com alpn=h2 host=";
        assert_eq!((status, &*body), (200, expected));
    }
    assert_eq!(seen.connections.load(Ordering::Relaxed), 1);
    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let (server, seen) = serve(signer.server(&["api.example.com"], later(), alpn)).await;
        list(&mut node, external(server, OutsideProtocol::Http, originated(signer.roots())));
        let (status, reason, body) = ask_in_http2(proxy).await;
        assert_eq!((status, &*reason), (502, "tls-failed"), "{body}");
        assert!(body.contains("ALPN"), "{body}");
        assert_eq!(seen.requests.load(Ordering::Relaxed), 0);
    }
}

async fn tunnel(proxy: SocketAddr, target: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = timeout(SOON, read_head(&mut stream)).await.unwrap();
    (stream, answer)
}

async fn expect_back(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, text);
}

/// Nothing more comes: an end or a failure.
async fn is_over(stream: &mut TcpStream) -> bool {
    let read = timeout(SOON, stream.read(&mut [0])).await.unwrap();
    !read.is_ok_and(|length| length > 0)
}

#[tokio::test]
async fn bytes_go_in_tls_until_they_would_go_otherwise() {
    let signer = Signer::new();
    for egress in [EgressPolicy::Listed, EgressPolicy::Allow] {
        let server = echo(signer.server(&["api.example.com"], later(), &[])).await;
        let (mut node, proxy) = node(egress).await;
        let told =
            |node: &mut Node, roots| list(node, external(server, OutsideProtocol::Bytes, originated(roots)));
        told(&mut node, signer.roots());
        let (mut stream, answer) = tunnel(proxy, "127.0.0.1:80").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        expect_back(&mut stream, b"ping").await;
        expect_back(&mut stream, &vec![7; 300_000]).await;
        // What changes nothing for it leaves it alone.
        told(&mut node, signer.roots());
        expect_back(&mut stream, b"pong").await;
        stream.shutdown().await.unwrap();
        assert!(is_over(&mut stream).await);
        let (mut stream, _) = tunnel(proxy, "127.0.0.1:80").await;
        expect_back(&mut stream, b"ping").await;
        told(&mut node, Signer::new().roots());
        assert!(is_over(&mut stream).await, "{egress:?}: others are trusted");
        let (mut stream, answer) = tunnel(proxy, "127.0.0.1:80").await;
        assert!(!answer.starts_with("HTTP/1.1 200 ") || is_over(&mut stream).await, "{answer}");
    }
}

#[tokio::test]
async fn everything_else_passes_freely() {
    let signer = Signer::new();
    let (server, _) = serve(signer.good()).await;
    let other = apps::serve(app).await;
    let (mut node, proxy) = node(EgressPolicy::Allow).await;
    // In plain it would go where TLS may be meant.
    let url = format!("GET http://{other}/sized HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(proxy, &url).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("has not said yet"), "{answer}");
    list(&mut node, external(server, OutsideProtocol::Http, originated(signer.roots())));
    assert!(exchange(proxy, &url).await.ends_with("sized"));
    // As clients say it: what is listed without TLS is nothing here.
    let mut external = external(other, OutsideProtocol::Http, originated(signer.roots()));
    external.ports[0].tls = None;
    external.ports.push(ExternalPort::new(other.port(), OutsideProtocol::Tls));
    list(&mut node, external);
    assert!(exchange(proxy, &url).await.ends_with("sized"));
    node.change_mesh(|mesh| mesh.egress = EgressPolicy::Deny);
    let answer = exchange(proxy, &url).await;
    assert!(answer.contains("egress-denied"), "{answer}");
}

/// Who asked there would be taken for the workload that the listener is for.
#[tokio::test]
async fn the_proxy_itself_is_no_port_behind_another() {
    let (mut node, proxy) = node(EgressPolicy::Listed).await;
    let mut external = external(proxy, OutsideProtocol::Http, originated(Signer::new().roots()));
    external.ports[0].tls = None;
    list(&mut node, external);
    let answer = exchange(proxy, GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("tulle-reason: connect-failed"),
        "{answer}"
    );
}

#[tokio::test]
async fn policies_of_who_may_use_it_hold_before() {
    let signer = Signer::new();
    for egress in [EgressPolicy::Listed, EgressPolicy::Allow] {
        let (server, seen) = serve(signer.good()).await;
        let (mut node, proxy) = node(egress).await;
        let rule = AccessRule { index: 0, sources: None, ports: None, request: None, when: None };
        let deny = AccessPolicy {
            name: "default/who".parse().unwrap(),
            action: Action::Deny,
            at: None,
            issuers: Vec::new(),
            rules: vec![rule],
            external: None,
        };
        let external = external(server, OutsideProtocol::Http, originated(signer.roots()));
        list(&mut node, ExternalConfig { policies: vec![deny].into(), ..external });
        let answer = exchange(proxy, GET).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("denied-by=default/who"), "{answer}");
        assert_eq!(seen.connections.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn an_upgrade_goes_in_tls_too() {
    let signer = Signer::new();
    let server = accept(signer.good(), |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or_default() == 0 {
                return;
            }
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let (mut from, mut to) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let (mut node, proxy) = node(EgressPolicy::Listed).await;
    list(&mut node, external(server, OutsideProtocol::Http, originated(signer.roots())));
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let ask = "GET http://127.0.0.1/x HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let answer = timeout(SOON, read_head(&mut stream)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    expect_back(&mut stream, b"upgraded").await;
}
