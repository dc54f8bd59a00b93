use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{
    AppProtocol, EgressPolicy, Endpoint, EndpointSet, ExternalConfig, ExternalPort, HttpRouteTable,
    MeshSettings, OriginatedRoots, OriginatedTls, OutsideProtocol, PortConfig, PortMapping, ServerName,
    Snapshot, TlsAsker, WorkloadConfig,
};
use tulle_proxy::state::NodeState;

use super::*;

struct Fixture {
    resolver: Arc<Resolver>,
    listener: DnsListener,
    connected: watch::Sender<bool>,
    folder: tempfile::TempDir,
}

/// The endpoints of `shop/many`.
const MANY: usize = 150;

/// Those of `shop/h`, which no workload stands behind: what they are called, and their addresses.
const BY_ADDRESS: [(&str, &str); 3] =
    [("10-0-0-1", "10.0.0.1"), ("fd00-0-0-0-0-0-0-1", "fd00::1"), ("2001-db8-0-0-0-0-0-1", "2001:db8::1")];

/// What the server says of a service: `shop/c`, some without a head, and names that stand for others.
fn known(name: &ServiceName) -> Option<(ServiceConfig, EndpointSet)> {
    if &*name.namespace != "shop" {
        return None;
    }
    let port = |number, name: &str| PortConfig {
        number,
        name: name.into(),
        protocol: AppProtocol::Detect,
        http_routes: HttpRouteTable::default(),
        tls_routes: Default::default(),
        tcp_route: None,
        http_only: false,
        http1: Default::default(),
        consumers: Vec::new(),
    };
    let shape = match &*name.name {
        "c" => Shape::Balanced,
        "db" | "nobody" | "h" | "many" | "peers" => Shape::Headless,
        "outside" => Shape::Alias("www.example.com".into()),
        "inner" => Shape::Alias("C.shop.svc.cluster.local".into()),
        "inner2" => Shape::Alias("inner.shop.mesh".into()),
        "loop" => Shape::Alias("loop.shop.mesh".into()),
        "nowhere" => Shape::Alias("missing.shop.mesh".into()),
        "odd" => Shape::Alias("a_b.shop.mesh".into()),
        _ => return None,
    };
    let endpoint = |index: usize| Endpoint {
        workload: Some(ServiceName::new("shop", format!("db-{index}"))),
        node: None,
        address: Ipv4Addr::LOCALHOST.into(),
        ports: vec![PortMapping { service_port: 80, target_port: 80 + 100 * index as u16 }],
        identity: None,
    };
    let endpoints: Vec<_> = match &*name.name {
        "db" => (0..2).map(endpoint).collect(),
        "many" => (0..MANY).map(endpoint).collect(),
        // As it is made for finding peers: neither it nor the second of them says a port.
        "peers" => (0..2)
            .map(|i| Endpoint { ports: endpoint(i).ports.into_iter().skip(i).collect(), ..endpoint(i) })
            .collect(),
        "h" => BY_ADDRESS
            .iter()
            .map(|(_, address)| Endpoint { workload: None, address: address.parse().unwrap(), ..endpoint(0) })
            .collect(),
        _ => Vec::new(),
    };
    let endpoints = endpoints.into_iter().map(|endpoint| (Arc::new(endpoint), 0)).collect();
    let ports = vec![port(80, "http"), port(81, "")];
    let portless = &*name.name == "peers" || matches!(shape, Shape::Alias(_));
    let ports = if portless { Vec::new() } else { ports };
    let config = ServiceConfig { name: name.clone(), ports, shape };
    Some((config, EndpointSet::new(name.clone(), endpoints)))
}

/// A node whose server answers so.
async fn fixture(server_up: bool, upstream: &[SocketAddr]) -> Fixture {
    fixture_behind(|_| watch::channel(None).1, server_up, upstream).await
}

/// The same behind rules of capture, which follow what is published.
async fn fixture_behind(
    rules: impl FnOnce(&Arc<StatePublisher>) -> passage::Known,
    server_up: bool,
    upstream: &[SocketAddr],
) -> Fixture {
    let state = StatePublisher::new(NodeState::default());
    let known_to_rules = rules(&state);
    let (demand, mut demands) = mpsc::channel::<ServiceName>(16);
    let publisher = state.clone();
    tokio::spawn(async move {
        while let Some(name) = demands.recv().await {
            if !server_up {
                continue;
            }
            publisher.update(|state| {
                let mut snapshot = Snapshot::clone(&state.snapshot);
                let mut services = known(&name).into_iter().collect::<Vec<_>>();
                if let Some((config, set)) = services.first().filter(|s| s.0.shape == Shape::Headless) {
                    services.extend(apart::services(config, set));
                }
                snapshot.services.insert(name, Known::Absent);
                for (config, set) in services {
                    let name = config.name.clone();
                    snapshot.services.insert(name.clone(), Known::Present(Arc::new(config)));
                    snapshot.endpoints.insert(name, Arc::new(set));
                }
                state.snapshot = Arc::new(snapshot);
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let table = VirtualAddresses::open(&folder.path().join("addresses.json")).unwrap();
    let (sender, connected) = watch::channel(server_up);
    let directory = Directory::new(state.cell().clone(), demand, connected);
    let addresses = Addresses::new(table, state, Keeper::start(), known_to_rules);
    let resolver = Arc::new(Resolver { directory, addresses, upstream: Upstream::fixed(upstream) });
    let listener = DnsListener::start(WorkloadName::new("shop", "web"), resolver.clone()).await.unwrap();
    Fixture { resolver, listener, connected: sender, folder }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_raw(address: SocketAddr, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, address).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

impl Fixture {
    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.listener.port()).into()
    }

    async fn ask_over_tcp(&self, name: &str, kind: RecordType) -> Message {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        let query = question(name, kind).to_vec().unwrap();
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let message = question(name, kind);
        let answer = ask_raw(self.address(), &message.to_vec().unwrap()).await;
        assert_eq!(answer.metadata.id, message.metadata.id);
        answer
    }
}

fn address_in(message: &Message) -> Option<Ipv4Addr> {
    message.answers.iter().find_map(|r| match &r.data {
        RData::A(a) => Some(a.0),
        _ => None,
    })
}

#[tokio::test]
async fn every_form_of_a_name_has_the_same_virtual_address() {
    let fixture = fixture(true, &[]).await;
    let first = address_in(&fixture.ask("c.", RecordType::A).await).unwrap();
    assert!(is_virtual(first));
    for name in ["C.shop.", "c.shop.mesh.", "c.shop.svc.", "c.shop.svc.cluster.local."] {
        assert_eq!(address_in(&fixture.ask(name, RecordType::A).await), Some(first), "{name}");
    }
    let [a, b, c, d] = first.octets();
    let reverse = fixture.ask(&format!("{d}.{c}.{b}.{a}.in-addr.arpa."), RecordType::PTR).await;
    assert_eq!(reverse.answers[0].data.to_string(), "c.shop.mesh.");
}

/// What an answer says, record by record, without the names of virtual addresses' numbers.
fn said(message: &Message) -> Vec<String> {
    let text = |record: &hickory_proto::rr::Record| match &record.data {
        RData::A(address) if is_virtual(address.0) => format!("{} A virtual", record.name),
        data => format!("{} {} {data}", record.name, record.record_type()),
    };
    message.answers.iter().map(text).collect()
}

fn addresses_in(message: &Message) -> std::collections::BTreeSet<Ipv4Addr> {
    let addresses = message.answers.iter().chain(&message.additionals).filter_map(|r| match &r.data {
        RData::A(a) => Some(a.0),
        _ => None,
    });
    addresses.collect()
}

#[tokio::test]
async fn a_headless_service_is_its_endpoints() {
    let fixture = fixture(true, &[upstream().await]).await;
    let all = addresses_in(&fixture.ask("db.", RecordType::A).await);
    assert_eq!(all.len(), 2);
    let mut each = std::collections::BTreeSet::new();
    for name in ["db-0.db.shop.mesh.", "DB-1.db.shop.svc.cluster.local."] {
        each.extend(address_in(&fixture.ask(name, RecordType::A).await));
    }
    assert_eq!(each, all);
    // As a search list of Kubernetes would have it.
    let short = address_in(&fixture.ask("db-0.db.", RecordType::A).await);
    assert_eq!(short, address_in(&fixture.ask("db-0.db.shop.svc.", RecordType::A).await));
    let [a, b, c, d] = short.unwrap().octets();
    let reverse = fixture.ask(&format!("{d}.{c}.{b}.{a}.in-addr.arpa."), RecordType::PTR).await;
    assert_eq!(said(&reverse), [format!("{d}.{c}.{b}.{a}.in-addr.arpa. PTR db-0.db.shop.mesh.")]);
    for (name, code) in [
        ("db-2.db.shop.mesh.", ResponseCode::NXDomain),
        ("c-0.c.shop.mesh.", ResponseCode::NXDomain),
        ("nobody.shop.mesh.", ResponseCode::NoError),
    ] {
        let answer = fixture.ask(name, RecordType::A).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
    }
    // A name of the outside is asked for there.
    let outside = fixture.ask("www.example.", RecordType::A).await;
    assert_eq!(address_in(&outside), Some(Ipv4Addr::new(192, 0, 2, 1)));
}

#[tokio::test]
async fn peers_are_found_without_a_port() {
    let fixture = fixture(true, &[]).await;
    let all = addresses_in(&fixture.ask("peers.", RecordType::A).await);
    assert_eq!(all.len(), 2);
    let mut each = std::collections::BTreeSet::new();
    for name in ["db-0.peers.", "db-1.peers.shop.svc.cluster.local."] {
        each.extend(address_in(&fixture.ask(name, RecordType::A).await));
    }
    assert_eq!(each, all);
    let places = fixture.ask("_http._tcp.peers.", RecordType::SRV).await;
    assert_eq!(places.metadata.response_code, ResponseCode::NXDomain, "no port has a name");
}

#[tokio::test]
async fn endpoints_are_found_by_every_form_of_their_name() {
    let fixture = fixture(true, &[upstream().await]).await;
    let by_name = [("db-0", "db"), ("db-1", "db")];
    let by_address = BY_ADDRESS.map(|(label, _)| (label, "h"));
    for (label, service) in by_address.into_iter().chain(by_name) {
        let full = address_in(&fixture.ask(&format!("{label}.{service}.shop.mesh."), RecordType::A).await);
        assert!(full.is_some_and(is_virtual), "{label}: {full:?}");
        for suffix in ["", ".shop", ".Shop.Mesh", ".shop.svc", ".shop.svc.cluster.local"] {
            let name = format!("{label}.{service}{suffix}.");
            assert_eq!(address_in(&fixture.ask(&name, RecordType::A).await), full, "{name}");
            let ports = fixture.ask(&format!("_http._tcp.{name}"), RecordType::SRV).await;
            assert_eq!((ports.answers.len(), address_in_any(&ports)), (1, full), "{name}");
        }
    }
    // What else is below such a service is nobody's name.
    for name in ["10-0-0-9.h.", "10-0-0-9.h.shop.", "db-7.db.", "db-7.db.shop.", "_http._tcp.10-0-0-9.h."] {
        let answer = fixture.ask(name, RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
    // Other names of as many labels may be the outside's.
    for name in ["www.c.", "10-0-0-1.c.", "www.example.com.", "10-0-0-1.example.com.", "db-0.db.com."] {
        let answer = fixture.ask(name, RecordType::A).await;
        assert_eq!(address_in(&answer), Some(Ipv4Addr::new(192, 0, 2, 1)), "{name}");
    }
}

fn address_in_any(message: &Message) -> Option<Ipv4Addr> {
    addresses_in(message).pop_first()
}

/// Rules of capture that take a while for each change. They count the changes.
fn slow_rules(state: &Arc<StatePublisher>, changes: &Arc<AtomicUsize>) -> passage::Known {
    let cell = state.cell().clone();
    let (sender, known) = watch::channel(Some(Arc::new(Destinations::of(&cell.load()))));
    let changes = changes.clone();
    let mut published = cell.subscribe();
    tokio::spawn(async move {
        while published.changed().await.is_ok() {
            let now = Destinations::of(&cell.load());
            tokio::time::sleep(Duration::from_millis(10)).await;
            changes.fetch_add(1, Relaxed);
            sender.send_replace(Some(Arc::new(now)));
        }
    });
    known
}

/// A service of bytes that has an endpoint or none, at an address.
fn state_of_bytes(address: Ipv4Addr, name: &ServiceName, endpoints: Vec<Endpoint>) -> NodeState {
    let port = PortConfig {
        number: 5432,
        name: "".into(),
        protocol: AppProtocol::Tcp,
        http_routes: HttpRouteTable::default(),
        tls_routes: Default::default(),
        tcp_route: None,
        http_only: false,
        http1: Default::default(),
        consumers: Vec::new(),
    };
    let mut snapshot = Snapshot::default();
    let config = ServiceConfig::new(name.clone(), vec![port]);
    snapshot.services.insert(name.clone(), Known::Present(Arc::new(config)));
    snapshot.endpoints.insert(
        name.clone(),
        Arc::new(EndpointSet::new(name.clone(), endpoints.into_iter().map(|e| (Arc::new(e), 0)).collect())),
    );
    let mut state = NodeState { snapshot: Arc::new(snapshot), ..NodeState::default() };
    state.virtual_addresses.insert(address.into(), name.clone());
    state
}

#[tokio::test]
async fn a_service_is_led_to_once_the_rules_refuse_it_no_more() {
    let (address, name) = (Ipv4Addr::new(127, 64, 0, 9), ServiceName::new("shop", "redis"));
    let endpoint = Endpoint {
        address: Ipv4Addr::LOCALHOST.into(),
        node: None,
        identity: None,
        workload: None,
        ports: vec![PortMapping { service_port: 5432, target_port: 5432 }],
    };
    let without = state_of_bytes(address, &name, Vec::new());
    let state = StatePublisher::new(state_of_bytes(address, &name, vec![endpoint]));
    let (rules, known) = watch::channel(Some(Arc::new(Destinations::of(&without))));
    let folder = tempfile::tempdir().unwrap();
    let table = VirtualAddresses::open(&folder.path().join("addresses.json")).unwrap();
    let addresses = Addresses::new(table, state.clone(), Keeper::start(), known);
    state.update(|state| drop(state.virtual_addresses.insert(address.into(), name.clone())));
    let waiting = addresses.rules_lead_to(&name);
    tokio::pin!(waiting);
    let early = timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "the rules refuse it still");
    rules.send_replace(Some(Arc::new(Destinations::of(&state.cell().load()))));
    timeout(Duration::from_secs(5), waiting).await.unwrap();
}

#[tokio::test]
async fn the_first_question_takes_the_same_time_however_many_endpoints_there_are() {
    for (name, kind) in [("many.", RecordType::A), ("_http._tcp.many.", RecordType::SRV)] {
        let changes = Arc::new(AtomicUsize::new(0));
        let fixture = fixture_behind(|state| slow_rules(state, &changes), true, &[]).await;
        let first = fixture.ask_over_tcp(name, kind).await;
        assert_eq!((first.answers.len(), addresses_in(&first).len()), (MOST_ADDRESSES, MOST_ADDRESSES));
        // What the server said, and all addresses at once.
        let changes = changes.load(Relaxed);
        assert!((1..=3).contains(&changes), "{name} changed the rules {changes} times");
        let kept = std::fs::read(fixture.folder.path().join("addresses.json")).unwrap();
        let kept: std::collections::BTreeMap<String, Ipv4Addr> = serde_json::from_slice(&kept).unwrap();
        assert_eq!(kept.into_values().collect::<std::collections::BTreeSet<_>>(), addresses_in(&first));
        // In turns: sooner or later each is in an answer.
        let mut all = addresses_in(&first);
        for _ in 0..100 {
            all.extend(addresses_in(&fixture.ask_over_tcp(name, kind).await));
        }
        assert_eq!(all.len(), MANY, "{name}");
    }
}

#[tokio::test]
async fn ports_are_found_by_their_names() {
    let fixture = fixture(true, &[]).await;
    let answer = fixture.ask("_http._tcp.c.", RecordType::SRV).await;
    assert_eq!(said(&answer), ["_http._tcp.c. SRV 0 100 80 c.shop.mesh."]);
    assert_eq!(addresses_in(&answer), addresses_in(&fixture.ask("c.", RecordType::A).await));
    let answer = fixture.ask("_HTTP._TCP.db.shop.svc.cluster.local.", RecordType::SRV).await;
    let name = "_HTTP._TCP.db.shop.svc.cluster.local.";
    let each = ["db-0", "db-1"].map(|n| format!("{name} SRV 0 100 80 {n}.db.shop.svc.cluster.local."));
    let mut found = said(&answer);
    found.sort();
    assert_eq!(found, each);
    assert_eq!(addresses_in(&answer).len(), 2);
    for (name, kind, code) in [
        ("_http._tcp.c.", RecordType::A, ResponseCode::NoError),
        ("_tcp.c.", RecordType::SRV, ResponseCode::NoError),
        ("_tcp.c.shop.mesh.", RecordType::A, ResponseCode::NoError),
        ("_other._tcp.c.", RecordType::SRV, ResponseCode::NXDomain),
        ("_http._udp.c.shop.mesh.", RecordType::SRV, ResponseCode::NXDomain),
        ("_http._tcp.missing.", RecordType::SRV, ResponseCode::NXDomain),
    ] {
        let answer = fixture.ask(name, kind).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
    }
}

#[tokio::test]
async fn a_name_that_stands_for_another_leads_there() {
    let fixture = fixture(true, &[upstream().await]).await;
    let ask = async |name, kind| said(&fixture.ask(name, kind).await);
    let outside = "outside.shop.mesh. CNAME www.example.com.";
    assert_eq!(ask("outside.shop.mesh.", RecordType::A).await, [outside, "www.example.com. A 192.0.2.1"]);
    assert_eq!(ask("outside.shop.mesh.", RecordType::CNAME).await, [outside]);
    let inner = "inner. CNAME C.shop.svc.cluster.local.";
    assert_eq!(ask("inner.", RecordType::A).await, [inner, "C.shop.svc.cluster.local. A virtual"]);
    assert_eq!(ask("inner.", RecordType::AAAA).await, [inner], "and no data");
    assert_eq!(ask("inner2.", RecordType::A).await.len(), 3);
    let code = async |name| fixture.ask(name, RecordType::A).await.metadata.response_code;
    assert_eq!(code("loop.").await, ResponseCode::ServFail);
    assert_eq!(code("nowhere.").await, ResponseCode::NXDomain);
    assert_eq!(ask("nowhere.", RecordType::A).await, ["nowhere. CNAME missing.shop.mesh."]);
    assert_eq!(ask("odd.", RecordType::A).await, ["odd. CNAME a_b.shop.mesh."], "which nobody else has");
    let other = fixture_without_upstream().await;
    assert_eq!(
        other.ask("outside.", RecordType::A).await.metadata.response_code,
        ResponseCode::ServFail,
        "nobody says"
    );
}

async fn fixture_without_upstream() -> Fixture {
    fixture(true, &[(Ipv4Addr::LOCALHOST, 1).into()]).await
}

/// RFC 8020: that a name does not exist says that none below it does.
#[tokio::test]
async fn what_stands_above_names_has_no_data() {
    let fixture = fixture(true, &[upstream().await]).await;
    fixture.ask("c.", RecordType::A).await;
    for name in [
        "mesh.",
        "svc.",
        "cluster.local.",
        "svc.cluster.local.",
        "shop.mesh.",
        "other.svc.",
        "Shop.svc.cluster.local.",
        "shop.",
        "127.in-addr.arpa.",
        "64.127.in-addr.arpa.",
        "1.100.127.in-addr.arpa.",
    ] {
        for kind in [RecordType::A, RecordType::NS] {
            let answer = fixture.ask(name, kind).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
            assert_eq!((answer.answers.len(), answer.authorities.len()), (0, 1), "{name}");
        }
    }
}

#[tokio::test]
async fn other_types_of_a_mesh_name_have_no_data() {
    let fixture = fixture(true, &[]).await;
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS] {
        let answer = fixture.ask("c.shop.mesh.", kind).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        assert_eq!(answer.authorities.len(), 1, "an SOA bounds the cache");
    }
}

#[tokio::test]
async fn unknown_mesh_names_do_not_exist_and_do_not_leave_the_host() {
    // An upstream that answers would be believed.
    let upstream = upstream().await;
    let fixture = fixture(true, &[upstream]).await;
    for name in ["x.", "x.shop.mesh.", "x.other.svc.cluster.local.", "a.b.c.mesh.", "x_y."] {
        let answer = fixture.ask(name, RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert!(answer.authorities[0].ttl <= 5);
    }
    assert_eq!(address_in(&fixture.ask("localhost.", RecordType::A).await), Some(Ipv4Addr::LOCALHOST));
}

/// A name server that answers everything with 192.0.2.1.
async fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            // First a forged answer with another id.
            let mut answer = Message::response(query.metadata.id.wrapping_add(1), OpCode::Query);
            answer.queries = query.queries.clone();
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            answer.metadata.id = query.metadata.id;
            answer.metadata.message_type = MessageType::Response;
            let name = query.queries[0].name().clone();
            let data = RData::A(Ipv4Addr::new(192, 0, 2, 1).into());
            answer.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

/// What a name server says of something else than a query (RFC 2136, say) has other rules: a client would not read it.
#[test]
fn an_answer_is_to_a_query() {
    let mut asked = Message::query();
    asked.metadata.id = 7;
    asked.add_query(Question::query(Name::from_ascii("www.example.com.").unwrap(), RecordType::A));
    let asked = asked.to_vec().unwrap();
    let Parsed::Query(query) = super::answer::Query::parse(&asked) else { panic!("it is a query") };
    for (code, is_answer) in [(OpCode::Query, true), (OpCode::Update, false), (OpCode::Notify, false)] {
        let mut said = Message::response(7, code);
        said.queries = Message::from_vec(&asked).unwrap().queries;
        let said = said.to_vec().unwrap();
        assert_eq!(query.is_answered_by(&said, 7), is_answer, "{code:?}");
        assert_eq!(query.relayed(&[], &said).is_some(), is_answer, "{code:?}");
    }
}

#[tokio::test]
async fn the_rest_is_forwarded() {
    let fixture = fixture(true, &[upstream().await]).await;
    for name in ["www.example.com.", "example.com."] {
        let answer = fixture.ask(name, RecordType::A).await;
        assert_eq!(address_in(&answer), Some(Ipv4Addr::new(192, 0, 2, 1)), "{name}");
    }
}

#[tokio::test]
async fn a_dead_name_server_is_a_failure_or_passed_over() {
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let alone = fixture(true, &[dead]).await;
    let answer = alone.ask("www.example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let with_other = fixture(true, &[dead, upstream().await]).await;
    assert!(address_in(&with_other.ask("www.example.com.", RecordType::A).await).is_some());
}

/// Asks for names of a name server that is silent, over both transports, as fast as it can.
async fn flood(address: SocketAddr) -> (UdpSocket, Vec<TcpStream>) {
    let query = question("slow.example.com.", RecordType::A).to_vec().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..400 {
        socket.send_to(&query, address).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = query.len() as u16;
        stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await.unwrap();
        streams.push(stream);
    }
    (socket, streams)
}

/// Has an answer for names that begin with `fast`, and for the others never one; over UDP and TCP.
async fn partly_silent_upstream() -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((stream, _)) = tcp.accept().await {
            streams.push(stream);
        }
    });
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            if !query.queries[0].name().to_ascii().starts_with("fast") {
                continue;
            }
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.queries = query.queries.clone();
            let data = RData::A(Ipv4Addr::new(192, 0, 2, 1).into());
            let name = query.queries[0].name().clone();
            answer.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
            udp.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn who_asks_for_many_slow_names_keeps_no_other_workload_waiting() {
    let fixture = fixture(true, &[partly_silent_upstream().await]).await;
    let start = || DnsListener::start(WorkloadName::new("shop", "web"), fixture.resolver.clone());
    let others = [start().await.unwrap(), start().await.unwrap()];
    let mut floods = Vec::new();
    for listener in [&fixture.listener, &others[0]] {
        floods.push(flood((Ipv4Addr::LOCALHOST, listener.port()).into()).await);
    }
    let polite: SocketAddr = (Ipv4Addr::LOCALHOST, others[1].port()).into();
    for _ in 0..20 {
        let query = question("fast.example.com.", RecordType::A).to_vec().unwrap();
        let answer = ask_raw(polite, &query).await;
        assert!(address_in(&answer).is_some(), "{answer:?}");
    }
}

#[tokio::test]
async fn without_the_server_mesh_names_fail_and_others_work() {
    let fixture = fixture(false, &[upstream().await]).await;
    let answer = fixture.ask("c.shop.mesh.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    // RFC 8020: that such a name did not exist would say so of all below it, too.
    let ours =
        ["foo.mesh.", "X.Svc.", "10-0-0-1.svc.", "_tcp.foo.mesh.", "c-0.c.shop.svc.", "cluster.local."];
    let answers = ours.map(|name| fixture.ask(name, RecordType::A));
    for (name, answer) in ours.iter().zip(futures_util::future::join_all(answers).await) {
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{name}");
    }
    for name in ["example.com.", "www.example.com.", "c.shop."] {
        assert!(address_in(&fixture.ask(name, RecordType::A).await).is_some(), "{name}");
    }
}

#[tokio::test]
async fn what_is_known_is_answered_without_the_server() {
    let fixture = fixture(true, &[upstream().await]).await;
    let names = ["c.", "db.", "db-0.db.", "10-0-0-1.h.", "db-1.db.shop.", "_http._tcp.db-0.db."];
    let ask = async || {
        let answers = names.map(|name| {
            fixture.ask(name, if name.starts_with('_') { RecordType::SRV } else { RecordType::A })
        });
        futures_util::future::join_all(answers).await.iter().map(addresses_in).collect::<Vec<_>>()
    };
    let before = ask().await;
    fixture.connected.send_replace(false);
    assert_eq!(ask().await, before);
}

#[tokio::test]
async fn speaks_tcp_with_several_queries_on_a_connection() {
    let fixture = fixture(true, &[]).await;
    let mut stream = TcpStream::connect(fixture.address()).await.unwrap();
    for _ in 0..2 {
        let query = question("c.", RecordType::A).to_vec().unwrap();
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        assert!(address_in(&Message::from_vec(&answer).unwrap()).is_some());
    }
}

#[tokio::test]
async fn silent_connections_keep_no_query_out() {
    let fixture = fixture(true, &[]).await;
    let mut silent = Vec::new();
    for n in 0..100 {
        let mut stream = TcpStream::connect(fixture.address()).await.unwrap();
        // Nothing, or a length that nothing follows.
        if n % 2 == 1 {
            stream.write_u16(40).await.unwrap();
        }
        silent.push(stream);
    }
    let query = question("c.", RecordType::A).to_vec().unwrap();
    let mut stream = TcpStream::connect(fixture.address()).await.unwrap();
    stream.write_u16(query.len() as u16).await.unwrap();
    stream.write_all(&query).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(address_in(&Message::from_vec(&answer).unwrap()).is_some());
    assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0, "the oldest has gone");
}

#[tokio::test]
async fn listens_at_both_loopback_addresses() {
    let fixture = fixture(true, &[]).await;
    if UdpSocket::bind("[::1]:0").await.is_err() {
        return;
    }
    let query = question("c.", RecordType::A).to_vec().unwrap();
    let socket = UdpSocket::bind("[::1]:0").await.unwrap();
    socket.send_to(&query, ("::1", fixture.address().port())).await.unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).await.unwrap();
    assert!(address_in(&Message::from_vec(&answer[..length]).unwrap()).is_some());
    TcpStream::connect(("::1", fixture.address().port())).await.unwrap();
}

#[tokio::test]
async fn edns_is_answered_in_kind() {
    let fixture = fixture(true, &[]).await;
    let mut query = question("c.", RecordType::A);
    query.set_edns(Edns::new());
    let answer = ask_raw(fixture.address(), &query.to_vec().unwrap()).await;
    assert!(answer.edns.is_some());
    query.edns.as_mut().unwrap().set_version(1);
    let answer = ask_raw(fixture.address(), &query.to_vec().unwrap()).await;
    assert_eq!(answer.edns.unwrap().rcode_high(), 1, "BADVERS");
    assert!(fixture.ask("c.", RecordType::A).await.edns.is_none());
}

#[tokio::test]
async fn malformed_messages_do_no_harm() {
    let fixture = fixture(true, &[]).await;
    let good = question("c.shop.mesh.", RecordType::A).to_vec().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in 0..good.len() {
        socket.send_to(&good[..length], fixture.address()).await.unwrap();
    }
    let mut seed = 1u32;
    for _ in 0..500 {
        let mut bytes = good.clone();
        for _ in 0..4 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (seed >> 8) as usize % bytes.len();
            bytes[at] = (seed >> 16) as u8;
        }
        let _ = Query::parse(&bytes);
    }
    let mut chaos = good.clone();
    chaos[2] |= 0x28;
    assert_eq!(ask_raw(fixture.address(), &chaos).await.metadata.response_code, ResponseCode::NotImp);
    assert!(address_in(&fixture.ask("c.", RecordType::A).await).is_some());
}

/// Has egress be `Listed` for the fixture's workload, with these names; `None`: the server has said nothing of it.
fn list(fixture: &Fixture, hosts: Option<&[&str]>) {
    let mesh = MeshSettings { egress: EgressPolicy::Listed, ..MeshSettings::default() };
    tell(fixture, mesh, hosts, Vec::new());
}

/// Tells the fixture of the mesh, and of what is listed for its workload at those ports.
fn tell(fixture: &Fixture, mesh: MeshSettings, hosts: Option<&[&str]>, ports: Vec<ExternalPort>) {
    let web = WorkloadName::new("shop", "web");
    let external = |hosts: &[&str]| ExternalConfig {
        name: ServiceName::new("shop", "ext"),
        hosts: hosts.iter().map(|host| ServerName::new(host)).collect(),
        ranges: Vec::new(),
        ports,
        policies: Vec::new().into(),
    };
    fixture.resolver.addresses.state.update(|state| {
        let mut snapshot = Snapshot::clone(&state.snapshot);
        snapshot.mesh = Arc::new(mesh);
        snapshot.workloads.remove(&web);
        if let Some(hosts) = hosts {
            let external = vec![Arc::new(external(hosts))];
            let config = WorkloadConfig { external: external.into(), ..WorkloadConfig::new(web.clone()) };
            snapshot.workloads.insert(web.clone(), Arc::new(config));
        }
        state.snapshot = Arc::new(snapshot);
    });
}

#[tokio::test]
async fn names_of_the_outside_resolve_where_they_are_listed() {
    let fixture = fixture(true, &[upstream().await]).await;
    let web = WorkloadName::new("shop", "web");
    let code = async |name: &str, kind| {
        let answer = fixture.ask(name, kind).await;
        (answer.metadata.response_code, address_in(&answer).is_some())
    };
    let known = || {
        let resolved = fixture.resolver.addresses.state.cell().load().resolved.clone();
        let mut names = resolved.names(&web, Ipv4Addr::new(192, 0, 2, 1).into());
        names.sort();
        names.iter().map(|name| name.to_string()).collect::<Vec<_>>()
    };
    // Where all may leave, nothing is remembered.
    assert_eq!(code("api.example.com.", RecordType::A).await, (ResponseCode::NoError, true));
    assert!(known().is_empty());
    list(&fixture, None);
    assert_eq!(code("api.example.com.", RecordType::A).await, (ResponseCode::ServFail, false));
    list(&fixture, Some(&["api.example.com", "*.example.org"]));
    for (name, kind, expected) in [
        ("API.example.com.", RecordType::A, (ResponseCode::NoError, true)),
        ("a.b.example.org.", RecordType::A, (ResponseCode::NoError, true)),
        ("example.org.", RecordType::A, (ResponseCode::NXDomain, false)),
        ("evil.test.", RecordType::A, (ResponseCode::NXDomain, false)),
        ("secret.evil.test.", RecordType::TXT, (ResponseCode::NXDomain, false)),
        ("1.2.0.192.in-addr.arpa.", RecordType::PTR, (ResponseCode::NXDomain, false)),
        // With keys by which clients hide whom they mean.
        ("api.example.com.", RecordType::HTTPS, (ResponseCode::NoError, false)),
    ] {
        assert_eq!(code(name, kind).await, expected, "{name} {kind}");
    }
    assert_eq!(known(), ["a.b.example.org", "api.example.com"]);
    let over_tcp = fixture.ask_over_tcp("evil.test.", RecordType::A).await;
    assert_eq!(over_tcp.metadata.response_code, ResponseCode::NXDomain);
    // Names of the mesh are nobody's to list.
    assert!(address_in_any(&fixture.ask("c.", RecordType::A).await).is_some_and(is_virtual));
}

#[tokio::test]
async fn no_name_of_the_outside_resolves_where_nothing_may_leave() {
    let fixture = fixture(true, &[upstream().await]).await;
    let code = async |name: &str, kind| {
        let answer = fixture.ask(name, kind).await;
        (answer.metadata.response_code, address_in(&answer).is_some())
    };
    let set = |mesh_untold, egress| {
        fixture.resolver.addresses.state.update(|state| {
            let mesh = Arc::new(MeshSettings { egress, ..MeshSettings::default() });
            state.snapshot = Arc::new(Snapshot { mesh, mesh_untold, ..Snapshot::clone(&state.snapshot) });
        });
    };
    set(false, EgressPolicy::Deny);
    for (name, kind) in [
        ("api.example.com.", RecordType::A),
        ("secret.evil.test.", RecordType::TXT),
        ("1.2.0.192.in-addr.arpa.", RecordType::PTR),
        ("c.corp.example.", RecordType::A),
        ("outside.shop.", RecordType::A),
    ] {
        assert_eq!(code(name, kind).await, (ResponseCode::NXDomain, false), "{name} {kind}");
    }
    let of_this_host = fixture.ask("localhost.", RecordType::A).await;
    assert_eq!(address_in_any(&of_this_host), Some(Ipv4Addr::LOCALHOST));
    let of_mesh = address_in_any(&fixture.ask("c.", RecordType::A).await).unwrap();
    assert!(is_virtual(of_mesh));
    let [a, b, c, d] = of_mesh.octets();
    let back = fixture.ask(&format!("{d}.{c}.{b}.{a}.in-addr.arpa."), RecordType::PTR).await;
    assert_eq!(back.answers[0].data.to_string(), "c.shop.mesh.");
    // What is asked before the server has said whether it may is asked again, or waits.
    set(true, EgressPolicy::Allow);
    assert_eq!(code("api.example.com.", RecordType::A).await, (ResponseCode::ServFail, false));
    let (told, ()) = tokio::join!(code("api.example.com.", RecordType::A), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        set(false, EgressPolicy::Allow);
    });
    assert_eq!(told, (ResponseCode::NoError, true));
}

#[tokio::test]
async fn what_goes_in_tls_is_remembered_and_all_else_resolves() {
    let fixture = fixture(true, &[upstream().await]).await;
    let web = WorkloadName::new("shop", "web");
    let mesh = || MeshSettings { originates_tls: true, ..MeshSettings::default() };
    let code = async |name: &str| fixture.ask(name, RecordType::A).await.metadata.response_code;
    // Nobody knows yet which names these are.
    tell(&fixture, mesh(), None, Vec::new());
    assert_eq!(code("api.example.com.").await, ResponseCode::ServFail);
    let tls = OriginatedTls {
        by: TlsAsker::Policy(ServiceName::new("shop", "p")),
        hostname: "api.example.com".into(),
        names: Vec::new(),
        roots: OriginatedRoots::System,
    };
    let port = ExternalPort::new(80, OutsideProtocol::Http);
    let names = || {
        let resolved = fixture.resolver.addresses.state.cell().load().resolved.clone();
        resolved.names(&web, Ipv4Addr::new(192, 0, 2, 1).into()).len()
    };
    for (port, remembered) in [(port.clone(), 0), (ExternalPort { tls: Some(Arc::new(tls)), ..port }, 1)] {
        tell(&fixture, mesh(), Some(&["api.example.com"]), vec![port]);
        for name in ["api.example.com.", "example.org.", "other.example.com."] {
            assert_eq!(code(name).await, ResponseCode::NoError, "{name}");
        }
        assert_eq!(names(), remembered);
    }
}
