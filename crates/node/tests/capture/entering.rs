//! Inbound capture: who connects to a workload's process, from where, and what comes of it.

use std::fs::File;
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use tulle_node::capture::{Destinations, Entrance, Entrances};
use tulle_proxy::state::NodeState;
use tulle_sys::{mark_to_process, take_diverted};

use super::*;

/// This host's addresses, which another one reaches.
const HERE: [&str; 2] = ["10.9.8.1", "fd00:98::1"];

/// A port of every client that uses one again and again.
const SOURCE: u16 = 26_012;

#[test]
fn what_comes_to_a_workload_enters_by_its_gate() {
    let _alone = alone();
    // Another host, `$!`, and a network between the two.
    let script = "ip link set lo up && unshare -n sleep 60 & peer=$!
                  while [ \"$(readlink /proc/$peer/ns/net)\" = \"$(readlink /proc/$$/ns/net)\" ]; do sleep 0.01; done
                  there() { nsenter -t $peer -n \"$@\"; }
                  ip link set lo up && ip link add here type veth peer name there netns $peer &&
                  ip addr add 10.9.8.1/24 dev here && ip addr add fd00:98::1/64 dev here nodad && ip link set here up &&
                  there ip addr add 10.9.8.2/24 dev there && there ip addr add fd00:98::2/64 dev there nodad &&
                  there ip link set there up &&
                  TULLE_TEST_PEER=$peer $0 --ignored --exact entering::enters --nocapture
                  status=$?; kill $peer; exit $status";
    let test = std::env::current_exe().unwrap();
    let output = Command::new("unshare").args(["-n", "sh", "-c", script]).arg(test).output().unwrap();
    assert!(output.status.success(), "{output:#?}");
}

/// Where a client is, and what it says of itself.
#[derive(Debug, Clone, Copy)]
enum From<'a> {
    AnotherHost,
    ThisHost,
    Workload(&'a Slot),
    /// With the mark of a node's own connections.
    Node,
    WorkloadThatSaysItIsTheNode(&'a Slot),
}

/// Who answers at that address, and whom he sees; the port of the client's is `source`, or any.
fn answer(from: From<'_>, to: SocketAddr, source: u16) -> String {
    let ask = move || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        if matches!(from, From::Node | From::WorkloadThatSaysItIsTheNode(_)) {
            mark_to_process(&socket).unwrap();
        }
        if source != 0 {
            socket.set_reuse_address(true).unwrap();
            let any: IpAddr =
                if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            socket.bind(&SocketAddr::new(any, source).into()).unwrap();
        }
        if let Err(e) = socket.connect_timeout(&to.into(), PATIENCE) {
            return format!("{:?}", e.kind());
        }
        let mut said = String::new();
        match TcpStream::from(socket).read_to_string(&mut said) {
            Ok(_) => said,
            Err(e) => format!("{:?}", e.kind()),
        }
    };
    match from {
        From::AnotherHost => std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let network = format!("/proc/{}/ns/net", std::env::var("TULLE_TEST_PEER").unwrap());
                setns(File::open(network).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                ask()
            });
            there.join().unwrap()
        }),
        From::ThisHost | From::Node => ask(),
        From::Workload(slot) | From::WorkloadThatSaysItIsTheNode(slot) => inside(slot, ask),
    }
}

/// Answers with its name and the client's address, and is the first to close.
fn serve(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let from = client.peer_addr().unwrap().ip().to_canonical();
            let _ = client.write_all(format!("{name} {from}").as_bytes());
            let _ = client.shutdown(Shutdown::Write);
            let _ = client.read(&mut [0]);
        }
    });
}

/// A process that listens there, in a cgroup or in none.
fn app(slot: Option<&Slot>, at: &str, name: &'static str) -> u16 {
    let bind = || TcpListener::bind(at).unwrap();
    let listener = slot.map_or_else(bind, |slot| inside(slot, bind));
    let port = listener.local_addr().unwrap().port();
    serve(listener, name);
    port
}

/// A gate, as the proxy's listeners are. It answers itself.
fn gate(name: &'static str) -> u16 {
    loop {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = v4.local_addr().unwrap().port();
        let Ok(v6) = TcpListener::bind((Ipv6Addr::LOCALHOST, port)) else { continue };
        for listener in [v4, v6] {
            take_diverted(&listener).unwrap();
            serve(listener, name);
        }
        return port;
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
#[ignore = "run by what_comes_to_a_workload_enters_by_its_gate, in networks of its own"]
fn enters() {
    let scope = scope("entering");
    let capture = open(&scope, false);
    let [a, b] = ["a", "b"].map(|name| WorkloadName::new("default", name));
    let slots = [&a, &b].map(|name| capture.add(name, 1, 1).unwrap());
    let rules = capture.rules().unwrap();
    rules.follow(Arc::new(Destinations::of(&NodeState::default()))).unwrap();
    let [gate_a, gate_b] = [gate("gate-a"), gate("gate-b")];
    let gates = Entrances::from([(a.clone(), Entrance::Gate(gate_a)), (b.clone(), Entrance::Gate(gate_b))]);
    let both = app(Some(&slots[0]), "[::]:0", "a");
    let inner = app(Some(&slots[0]), "127.0.0.1:0", "inner");
    let of_b = app(Some(&slots[1]), "0.0.0.0:0", "b");
    let foreign = app(None, "[::]:0", "foreign");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();

    let [v4, v6] = HERE;
    let expect = |from: From<'_>, address: &str, port: u16, expected: &str| {
        assert_eq!(answer(from, at(address, port), 0), expected, "{from:?} {address} {port}");
    };
    // Nobody asks for it.
    expect(From::AnotherHost, v4, both, "a 10.9.8.2");
    expect(From::Workload(&slots[1]), "::1", both, "a ::1");

    let on = || rules.enter_by(Some(gates.clone())).unwrap();
    let off = || rules.enter_by(None).unwrap();
    on();
    let all = || {
        for (address, client) in [(v4, "10.9.8.2"), (v6, "fd00:98::2")] {
            expect(From::AnotherHost, address, both, &format!("gate-a {client}"));
            expect(From::AnotherHost, address, foreign, &format!("foreign {client}"));
            expect(From::AnotherHost, address, inner, "ConnectionRefused");
            expect(From::AnotherHost, address, closed, "ConnectionRefused");
        }
        expect(From::AnotherHost, v4, of_b, "gate-b 10.9.8.2");
        for address in ["127.0.0.1", "::1", v4, v6] {
            for outsider in
                [From::ThisHost, From::Workload(&slots[1]), From::WorkloadThatSaysItIsTheNode(&slots[1])]
            {
                expect(outsider, address, both, &format!("gate-a {address}"));
            }
            for direct in [From::Workload(&slots[0]), From::Node] {
                expect(direct, address, both, &format!("a {address}"));
            }
            expect(From::Workload(&slots[0]), address, foreign, &format!("foreign {address}"));
            expect(From::ThisHost, address, closed, "ConnectionRefused");
        }
        expect(From::ThisHost, "127.0.0.1", inner, "gate-a 127.0.0.1");
        // A gate is no place to go to.
        expect(From::ThisHost, "127.0.0.1", gate_a, "ConnectionRefused");
        expect(From::Workload(&slots[0]), "::1", gate_a, "ConnectionRefused");
    };
    all();
    // What is left of an earlier connection between the same ports, which this side has closed first.
    for address in [v4, v6, "127.0.0.1", "::1"] {
        let from = if HERE.contains(&address) { From::AnotherHost } else { From::ThisHost };
        for _ in 0..3 {
            assert!(answer(from, at(address, both), SOURCE).starts_with("gate-a "), "{address}");
        }
    }
    // One that was let through, and is left.
    for address in ["127.0.0.1", "::1"] {
        assert!(answer(From::Workload(&slots[0]), at(address, both), SOURCE + 1).starts_with("a "));
        assert!(answer(From::ThisHost, at(address, both), SOURCE + 1).starts_with("gate-a "), "{address}");
        assert!(answer(From::ThisHost, at(address, foreign), SOURCE + 1).starts_with("foreign "));
        assert!(answer(From::ThisHost, at(address, foreign), SOURCE + 1).starts_with("foreign "));
    }

    off();
    expect(From::AnotherHost, v6, both, "a fd00:98::2");
    on();
    nft(&["delete", "table", "inet", &format!("tulle-{scope}")]);
    eventually("it is mended", || answer(From::AnotherHost, at(v4, both), 0).starts_with("gate-a "));
    all();

    // One that is not captured where others are: as if nothing were, whatever is left of what was captured.
    rules.enter_by(Some(Entrances::from([(a.clone(), Entrance::Direct), (b.clone(), gates[&b])]))).unwrap();
    for _ in 0..2 {
        assert_eq!(answer(From::AnotherHost, at(v4, both), SOURCE), "a 10.9.8.2");
        assert_eq!(answer(From::AnotherHost, at(v6, both), SOURCE), "a fd00:98::2");
        assert_eq!(answer(From::ThisHost, at("::1", both), SOURCE), "a ::1");
    }
    expect(From::Workload(&slots[1]), "127.0.0.1", both, "a 127.0.0.1");
    expect(From::AnotherHost, v4, of_b, "gate-b 10.9.8.2");

    // One without a gate is closed, though not to itself and its node.
    rules.enter_by(Some(Entrances::from([(b.clone(), gates[&b])]))).unwrap();
    expect(From::AnotherHost, v4, both, "ConnectionRefused");
    expect(From::Workload(&slots[1]), "::1", both, "ConnectionRefused");
    expect(From::Workload(&slots[0]), "::1", both, "a ::1");
    expect(From::Node, "127.0.0.1", both, "a 127.0.0.1");
    expect(From::AnotherHost, v4, foreign, "foreign 10.9.8.2");
    // So is one whose gate has nobody behind it, as after the end of its node.
    rules.enter_by(Some(Entrances::from([(a.clone(), Entrance::Gate(closed))]))).unwrap();
    expect(From::AnotherHost, v6, both, "ConnectionRefused");
    on();
    all();
    capture.remove(&a).unwrap();
    expect(From::ThisHost, v4, of_b, &format!("gate-b {v4}"));
    drop(capture);
    assert!(!nft(&["list", "tables"]).contains(&scope));
}
