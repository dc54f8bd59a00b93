//! Connections that can lead nowhere, and those to the outside.

use std::net::IpAddr;
use std::sync::Arc;

use tulle_model::name::ServiceName;
use tulle_model::snapshot::{
    AppProtocol, EgressPolicy, Endpoint, EndpointSet, HttpRouteTable, Known, MeshSettings, PortConfig,
    PortMapping, ServiceConfig, Snapshot,
};
use tulle_node::capture::{Counts, Destinations};
use tulle_proxy::state::NodeState;

use super::*;

const SERVICES: [&str; 4] = ["db", "web", "gone", "unlearned"];

fn address(name: &str) -> Ipv4Addr {
    let number = SERVICES.iter().position(|n| *n == name).unwrap();
    Ipv4Addr::new(127, 64, 77, 1 + number as u8)
}

/// What a node knows: `db` takes bytes at 5432, `web` whatever comes at 80, `gone` is no service.
fn known(endpoints_of_db: usize) -> NodeState {
    let mut state = NodeState::default();
    for name in SERVICES {
        state.virtual_addresses.insert(address(name).into(), ServiceName::new("default", name));
    }
    let mut snapshot = Snapshot::default();
    for (name, number, protocol) in [("db", 5432, AppProtocol::Tcp), ("web", 80, AppProtocol::Detect)] {
        let port = PortConfig {
            number,
            name: "".into(),
            protocol,
            http_routes: HttpRouteTable::default(),
            tls_routes: Default::default(),
            tcp_route: None,
            http_only: false,
            http1: Default::default(),
            consumers: Vec::new(),
        };
        let name = ServiceName::new("default", name);
        let config = ServiceConfig::new(name.clone(), vec![port]);
        snapshot.services.insert(name.clone(), Known::Present(Arc::new(config)));
        let endpoint = |_| {
            let ports = vec![PortMapping { service_port: number, target_port: number }];
            let address = Ipv4Addr::LOCALHOST.into();
            (Arc::new(Endpoint { workload: None, node: None, address, ports, identity: None }), 0)
        };
        let endpoints = (0..if protocol == AppProtocol::Tcp { endpoints_of_db } else { 0 }).map(endpoint);
        let set = EndpointSet::new(name.clone(), endpoints.collect());
        snapshot.endpoints.insert(name, Arc::new(set));
    }
    snapshot.services.insert(ServiceName::new("default", "gone"), Known::Absent);
    state.snapshot = Arc::new(snapshot);
    state
}

fn connect(to: impl Into<IpAddr>, port: u16) -> Result<Duration, std::io::ErrorKind> {
    let before = Instant::now();
    let to = SocketAddr::new(to.into(), port);
    TcpStream::connect_timeout(&to, PATIENCE).map(|_| before.elapsed()).map_err(|e| e.kind())
}

fn is_refused(slot: &Slot, to: impl Into<IpAddr>, port: u16) -> bool {
    let to = to.into();
    // The quickest of some: others use the processor, too.
    let tries = (0..5).map(|_| {
        let before = Instant::now();
        let refused = inside(slot, || {
            let begun = Instant::now();
            let outcome = connect(to, port);
            (outcome == Err(std::io::ErrorKind::ConnectionRefused)).then(|| begun.elapsed())
        });
        assert!(before.elapsed() < PATIENCE);
        refused
    });
    let tries: Vec<_> = tries.collect();
    assert!(tries.iter().all(|t| t.is_some() == tries[0].is_some()), "{to}:{port}: {tries:?}");
    let Some(quickest) = tries.into_iter().flatten().min() else { return false };
    assert!(quickest < Duration::from_millis(1), "{to}:{port} is refused after {quickest:?}");
    true
}

#[test]
fn what_can_lead_nowhere_is_refused_and_counted() {
    let _alone = alone();
    let outbound = listen();
    let scope = scope("nowhere");
    let capture = open(&scope, false);
    let name = WorkloadName::new("default", "a");
    let slot = capture.add(&name, outbound.local_addr().unwrap().port(), 1).unwrap();
    let rules = capture.rules().unwrap();
    let follow = |state: &NodeState| rules.follow(Arc::new(Destinations::of(state))).unwrap();
    let refused = |name: &str, port| is_refused(&slot, address(name), port);
    // Until something is known, all is the proxy's matter.
    assert!(!refused("db", 5432) && !refused("gone", 80));
    let nowhere = Ipv4Addr::new(127, 64, 77, 200);
    let holds = |db: bool| {
        assert_eq!(refused("db", 5432), db, "bytes, which nobody is there to take");
        assert!(refused("db", 5433) && refused("web", 81), "no such port");
        assert!(!refused("web", 80), "it may be HTTP, and get an answer");
        assert!(!refused("unlearned", 1), "the proxy asks for it");
        assert!(refused("gone", 80) && is_refused(&slot, nowhere, 80), "no such service");
    };
    follow(&known(0));
    holds(true);
    let counted = Counts { no_endpoints: 5, no_service: 20, ..Counts::default() };
    assert_eq!(rules.take_counts(), [(name.clone(), counted)].into());
    assert!(rules.take_counts().is_empty(), "once");
    follow(&known(1));
    holds(false);
    follow(&known(0));
    // Whatever others do, and when the table is made anew.
    nft(&["delete", "table", "inet", &format!("tulle-{scope}")]);
    let once = |name, port| inside(&slot, || connect(address(name), port)).is_err();
    eventually("it is mended", || !once("web", 80) && once("db", 5432));
    holds(true);
    capture.add(&WorkloadName::new("default", "b"), 1, 1).unwrap();
    holds(true);
    assert!(rules.take_counts()[&name].no_service >= 20);
    // Of a workload that is gone what it did last is still known.
    assert!(refused("db", 5432));
    capture.remove(&name).unwrap();
    assert_eq!(rules.take_counts()[&name].no_endpoints, 5);

    // Datagrams go nowhere either, although somebody of the host may listen.
    let slot = capture.add(&name, 1, 1).unwrap();
    let host = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = host.local_addr().unwrap().port();
    let send = |to: Ipv4Addr| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((to, port)).unwrap();
        socket
    };
    assert_eq!(ask(&inside(&slot, || send(address("web")))), "refused");
    host.set_nonblocking(true).unwrap();
    assert!(host.recv(&mut [0; 64]).is_err(), "it left");
}

#[test]
fn many_destinations_fit() {
    let _alone = alone();
    let scope = scope("lots");
    let capture = open(&scope, false);
    let slot = capture.add(&WorkloadName::new("default", "a"), 1, 1).unwrap();
    let mut state = known(0);
    for number in 0..20_000u32 {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 80, 0, 0)) + number);
        state.virtual_addresses.insert(address.into(), ServiceName::new("many", format!("s-{number}")));
    }
    let rules = capture.rules().unwrap();
    rules.follow(Arc::new(Destinations::of(&state))).unwrap();
    assert!(is_refused(&slot, address("gone"), 80));
    nft(&["delete", "table", "inet", &format!("tulle-{scope}")]);
    eventually("it is mended", || inside(&slot, || connect(address("gone"), 80)).is_err());
    let before = Instant::now();
    state = known(1);
    rules.follow(Arc::new(Destinations::of(&state))).unwrap();
    assert!(before.elapsed() < PATIENCE, "{:?}", before.elapsed());
}

#[test]
fn the_outside_is_reached_without_the_proxy_and_counted() {
    let _alone = alone();
    // Where there is an outside.
    let script = "ip link set lo up && \
                  ip addr add 10.9.9.9/32 dev lo && ip addr add fd00:9::9/128 dev lo nodad && \
                  exec $0 --ignored --exact nowhere::reaches_the_outside --nocapture";
    let test = std::env::current_exe().unwrap();
    let output = Command::new("unshare").args(["-n", "sh", "-c", script]).arg(test).output().unwrap();
    assert!(output.status.success(), "{output:#?}");
}

/// What says again what it hears, in a datagram.
fn echo(at: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((at, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut heard = [0; 64];
        // A client that is gone is no reason to end.
        loop {
            if let Ok((length, client)) = socket.recv_from(&mut heard) {
                let _ = socket.send_to(&heard[..length], client);
            }
        }
    });
    address
}

fn datagrams_to(to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// What an echo says to the socket.
fn said(socket: &UdpSocket) -> Result<String, std::io::ErrorKind> {
    let _ = socket.take_error();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 64];
    let length = socket.send(b"hello").and_then(|_| socket.recv(&mut answer)).map_err(|e| e.kind())?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// What a node knows that has heard of nothing.
fn untold() -> Arc<Snapshot> {
    Arc::new(Snapshot { mesh_untold: true, ..Snapshot::default() })
}

#[test]
#[ignore = "run by the_outside_is_reached_without_the_proxy_and_counted, in a network of its own"]
fn reaches_the_outside() {
    let outbound = listen();
    outbound.set_nonblocking(true).unwrap();
    let capture = open(&scope("outside"), false);
    let name = WorkloadName::new("default", "a");
    let slot = capture.add(&name, outbound.local_addr().unwrap().port(), 1).unwrap();
    let rules = capture.rules().unwrap();
    let addresses: [IpAddr; 2] = ["10.9.9.9".parse().unwrap(), "fd00:9::9".parse().unwrap()];
    let servers = addresses.map(|address| TcpListener::bind((address, 0)).unwrap());
    let ports = servers.each_ref().map(|server| server.local_addr().unwrap().port());
    let inner = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let _inner = TcpListener::bind(inner).unwrap();
    let reaches = |i: usize, port: u16| inside(&slot, || connect(addresses[i], port)).is_ok();
    let echoes = addresses.map(echo);
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].map(echo);

    let untold = Destinations::of(&NodeState { snapshot: untold(), ..NodeState::default() });
    for known in [None, Some(untold)] {
        known.into_iter().for_each(|known| rules.follow(Arc::new(known)).unwrap());
        assert!(reaches(0, ports[0]) && outbound.accept().is_ok(), "until it is known, the proxy decides");
        // Which listens at no address of IPv6 here.
        assert!(!reaches(1, ports[1]), "and nothing passes it by");
        assert!(echoes.iter().all(|to| said(&inside(&slot, || datagrams_to(*to))).is_err()));
    }
    rules.take_counts();
    let mut state = known(0);
    rules.follow(Arc::new(Destinations::of(&state))).unwrap();
    for i in [0, 1] {
        assert!(reaches(i, ports[i]), "{}", addresses[i]);
        assert_eq!(servers[i].accept().unwrap().1.ip(), addresses[i], "straight");
        assert!(!reaches(i, 1), "closed");
    }
    assert!(outbound.accept().is_err());
    let old_flows = echoes.map(|to| inside(&slot, || datagrams_to(to)));
    assert!(old_flows.iter().all(|flow| said(flow) == Ok("hello".to_owned())));
    // An application that answers datagrams, with clients there.
    let apps = addresses.map(|address| inside(&slot, || echo(address)));
    let counted = Counts { outside_begun: 4, outside_answered: 2, outside_refused: 2, ..Counts::default() };
    assert_eq!(rules.take_counts(), [(name.clone(), counted)].into());
    // What comes from the outside is none of it.
    let own = inside(&slot, || TcpListener::bind((addresses[0], 0)).unwrap());
    drop(TcpStream::connect(own.local_addr().unwrap()).unwrap());
    drop(own.accept().unwrap());
    assert!(rules.take_counts().is_empty());

    // Connections that nobody says anything on, and one that came from outside.
    let begun = [0, 1].map(|i| {
        let client = inside(&slot, || TcpStream::connect((addresses[i], ports[i])).unwrap());
        (client, servers[i].accept().unwrap().0)
    });
    let mut of_other = TcpStream::connect(own.local_addr().unwrap()).unwrap();
    let mut came = inside(&slot, || own.accept().unwrap().0);
    rules.take_counts();
    let mesh = MeshSettings { egress: EgressPolicy::Deny, ..MeshSettings::default() };
    let snapshot = Snapshot { mesh: Arc::new(mesh), ..Snapshot::clone(&state.snapshot) };
    state.snapshot = Arc::new(snapshot);
    rules.follow(Arc::new(Destinations::of(&state))).unwrap();
    assert!((0..2).all(|i| is_refused(&slot, addresses[i], ports[i])));
    // What began ends for both sides, and no other does.
    for (mut client, mut server) in begun {
        for side in [&mut client, &mut server] {
            side.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let ended = side.read(&mut [0]).unwrap_err();
            assert!(ended.kind() != ErrorKind::WouldBlock, "{:?}: {ended}", side.local_addr());
        }
    }
    for side in [&mut of_other, &mut came] {
        side.set_read_timeout(Some(PATIENCE)).unwrap();
        side.write_all(b"x").unwrap();
    }
    assert!(of_other.read(&mut [0]).is_ok() && came.read(&mut [0]).is_ok(), "it began elsewhere");
    assert!(inside(&slot, || connect(inner.ip(), inner.port())).is_ok(), "loopback is no outside");
    let counted = Counts { egress_denied: 10, ..Counts::default() };
    assert_eq!(rules.take_counts(), [(name.clone(), counted)].into());
    // Datagrams neither, whenever they began.
    for flow in old_flows.into_iter().chain(echoes.map(|to| inside(&slot, || datagrams_to(to)))) {
        let refused = said(&flow).unwrap_err();
        // The kernel says so to who sends, or to who waits for an answer.
        let at_once = [std::io::ErrorKind::PermissionDenied, std::io::ErrorKind::ConnectionRefused];
        assert!(at_once.contains(&refused), "{:?}: {refused}", flow.peer_addr());
    }
    let counted = Counts { egress_denied: 4, ..Counts::default() };
    assert_eq!(rules.take_counts(), [(name.clone(), counted)].into());
    for (to, from) in apps.into_iter().zip(addresses) {
        let client = UdpSocket::bind((from, 0)).unwrap();
        client.connect(to).unwrap();
        assert_eq!(said(&client), Ok("hello".to_owned()), "answers are no flows of its own");
    }
    for to in loopback {
        assert_eq!(said(&inside(&slot, || datagrams_to(to))), Ok("hello".to_owned()), "{to}");
    }
    let others = echoes.map(datagrams_to);
    assert!(others.iter().all(|flow| said(flow) == Ok("hello".to_owned())), "the host's own are its matter");
    assert!(rules.take_counts().is_empty());

    // Processes that a node leaves are held to the policy, still.
    let mut child = spawn("sleep", &["60"], &slot);
    for (egress, expected) in [(EgressPolicy::Deny, false), (EgressPolicy::Allow, true)] {
        let capture = open(&scope("outside-left"), true);
        let left = capture.add(&name, 1, 1).unwrap();
        let mut sleeping = spawn("sleep", &["60"], &left);
        let mesh = MeshSettings { egress, ..MeshSettings::default() };
        let snapshot = Snapshot { mesh: Arc::new(mesh), ..Snapshot::clone(&state.snapshot) };
        state.snapshot = Arc::new(snapshot);
        capture.rules().unwrap().follow(Arc::new(Destinations::of(&state))).unwrap();
        capture.leave().unwrap();
        let flows = echoes.map(|to| inside(&left, || datagrams_to(to)));
        for i in [0, 1] {
            let reached = inside(&left, || connect(addresses[i], ports[i])).is_ok();
            assert_eq!(reached, expected, "{egress:?} {}", addresses[i]);
            assert_eq!(said(&flows[i]).is_ok(), expected, "{egress:?} {}", echoes[i]);
        }
        drop(open(&scope("outside-left"), false));
        sleeping.wait().unwrap();
    }
    capture.remove(&name).unwrap();
    child.wait().unwrap();
}
