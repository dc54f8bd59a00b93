//! Host capture against the real kernel. Needs root and nft.
#![allow(clippy::unwrap_used)]

mod entering;
mod nowhere;
mod trouble;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tulle_model::name::WorkloadName;
use tulle_node::capture::{Capture, CaptureMode, CaptureWish, Slot};
use tulle_sys::mark_listener;
use tulle_sys::process::{Confinement, confine};

const PATIENCE: Duration = Duration::from_secs(5);

/// Which cgroup the sockets of this process belong to is one thing for all threads.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn scope(test: &str) -> String {
    format!("{test}-{}", std::process::id())
}

fn open(scope: &str, keep: bool) -> Capture {
    let open = if keep { Capture::open_again } else { Capture::open };
    let (capture, mode, why) = open(scope, CaptureWish::Host, &[]).unwrap();
    assert_eq!(mode, CaptureMode::Host, "{why}");
    capture
}

/// A node's capture in a process of its own, to be killed.
struct Other {
    process: Child,
    slots: Vec<Slot>,
}

impl Other {
    /// With workloads: their names, and the ports of their listeners.
    fn start(scope: &str, workloads: &[(&str, u16, u16)]) -> Self {
        let workloads: Vec<_> =
            workloads.iter().map(|(name, tcp, dns)| format!("{name} {tcp} {dns}")).collect();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "captures_until_it_is_killed", "--nocapture"])
            // Where tests run one at a time, their names stand before what they print, in the same line.
            .args(["--test-threads", "2"])
            .env("TULLE_TEST_SCOPE", scope)
            .env("TULLE_TEST_WORKLOADS", workloads.join(","))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
        let slots = lines.filter_map(|line| {
            let (cgroup, name_service) = line.strip_prefix("slot ")?.split_once(' ')?;
            Some(Slot { cgroup: Some(cgroup.into()), name_service: Some(name_service.into()) })
        });
        let slots = slots.take(workloads.len()).collect::<Vec<_>>();
        assert_eq!(slots.len(), workloads.len());
        Self { process, slots }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
#[ignore = "what `Other` runs"]
fn captures_until_it_is_killed() {
    let capture = open(&std::env::var("TULLE_TEST_SCOPE").unwrap(), false);
    for workload in std::env::var("TULLE_TEST_WORKLOADS").unwrap().split(',') {
        let mut words = workload.split(' ');
        let name = WorkloadName::new("default", words.next().unwrap());
        let mut port = || words.next().unwrap().parse().unwrap();
        let slot = capture.add(&name, port(), port()).unwrap();
        println!("slot {} {}", slot.cgroup.unwrap().display(), slot.name_service.unwrap().display());
    }
    std::thread::sleep(Duration::from_secs(60));
}

fn spawn(program: &str, arguments: &[&str], slot: &Slot) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::piped());
    let confinement = Confinement {
        cgroup: slot.cgroup.as_deref(),
        name_service: slot.name_service.as_deref(),
        own_process_group: true,
        ..Default::default()
    };
    confine(&mut command, confinement).unwrap();
    command.spawn().unwrap()
}

/// What `make` makes there has the cgroup's sockets: a socket belongs where its process was when it was made.
fn inside<T>(slot: &Slot, make: impl FnOnce() -> T) -> T {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    let mount = tulle_sys::cgroup::unified_mount().unwrap().unwrap();
    let enter = |group: &Path| fs::write(group.join("cgroup.procs"), "0").unwrap();
    enter(slot.cgroup.as_deref().unwrap());
    let made = make();
    enter(&mount.join(own));
    made
}

/// A name server whose every answer is its name.
struct NameServer {
    port: u16,
}

impl NameServer {
    fn start(name: &'static str) -> Self {
        for _ in 0..64 {
            let v4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = v4.local_addr().unwrap().port();
            let Ok(v6) = UdpSocket::bind((Ipv6Addr::LOCALHOST, port)) else { continue };
            let Ok(tcp) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
            mark_listener(&v4).and(mark_listener(&v6)).and(mark_listener(&tcp)).unwrap();
            for socket in [v4, v6] {
                std::thread::spawn(move || {
                    let mut query = [0; 64];
                    while let Ok((_, client)) = socket.recv_from(&mut query) {
                        let _ = socket.send_to(name.as_bytes(), client);
                    }
                });
            }
            std::thread::spawn(move || {
                for mut client in tcp.incoming().flatten() {
                    let _ = client.write_all(name.as_bytes());
                }
            });
            return Self { port };
        }
        panic!("no port is free for IPv4 and IPv6 both");
    }
}

/// As the node listens for what is redirected to it.
fn listen() -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    mark_listener(&listener).unwrap();
    listener
}

/// What who asks a name server gets from the socket.
fn ask(socket: &UdpSocket) -> String {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    // Of an earlier question, which was refused.
    let _ = socket.take_error();
    let mut answer = [0; 64];
    match socket.send(b"query").and_then(|_| socket.recv(&mut answer)) {
        Ok(length) => String::from_utf8_lossy(&answer[..length]).into_owned(),
        Err(_) => "refused".to_owned(),
    }
}

/// An address at which nothing listens but what is redirected, and a port of every client: one that the kernel gives to
/// nobody by itself.
const RESOLVER: &str = "127.0.0.53:53";
const SOURCE: u16 = 26_011;

fn from_the_same_port(resolver: &str) -> UdpSocket {
    let any: SocketAddr = match resolver.starts_with('[') {
        true => (Ipv6Addr::UNSPECIFIED, SOURCE).into(),
        false => (Ipv4Addr::UNSPECIFIED, SOURCE).into(),
    };
    let start = Instant::now();
    // The one before may still be held for a moment: by a process that is being started, until its program runs.
    let socket = loop {
        match UdpSocket::bind(any) {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => break bound.unwrap(),
        }
    };
    socket.connect(resolver).unwrap();
    socket
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes a cgroup that this process may have stood in (`inside`): an `nft` that the capture started meanwhile is in it until it ends.
fn remove_cgroup(path: &Path) {
    eventually("no process is in the cgroup", || match fs::remove_dir(path) {
        Err(e) if e.kind() == ErrorKind::ResourceBusy => false,
        other => {
            other.unwrap();
            true
        }
    });
}

fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_captured_process_reaches_the_listeners_and_nothing_is_left_behind() {
    let _alone = alone();
    let scope = scope("test");
    let capture = open(&scope, false);
    let outbound = listen();
    let dns = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    mark_listener(&dns).unwrap();
    dns.set_read_timeout(Some(PATIENCE)).unwrap();
    let workload = WorkloadName::new("default", "a");
    let ports = (outbound.local_addr().unwrap().port(), dns.local_addr().unwrap().port());
    let slot = capture.add(&workload, ports.0, ports.1).unwrap();
    let cgroup = slot.cgroup.clone().unwrap();

    // A virtual address, by a client that knows nothing of the mesh; then a query to a name server.
    let script = "exec 3<>/dev/tcp/127.64.9.9/8080; echo hello >&3; read answer <&3; echo $answer; \
                  echo query >/dev/udp/127.0.0.53/53; sleep 60";
    let mut child = spawn("bash", &["-c", script], &slot);
    let (mut connection, _) = outbound.accept().unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let expected: SocketAddr = ([127, 64, 9, 9], 8080).into();
    assert_eq!(tulle_sys::original_destination(&connection).unwrap(), expected);
    let mut greeting = [0; 6];
    connection.read_exact(&mut greeting).unwrap();
    connection.write_all(b"welcome\n").unwrap();
    let mut query = [0; 64];
    let length = dns.recv(&mut query).unwrap();
    assert_eq!(&query[..length], b"query\n");

    capture.remove(&workload).unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(output, "welcome\n");
    assert!(!child.wait().unwrap().success(), "removing a workload ends its processes");

    drop(capture);
    assert!(!cgroup.exists());
    assert!(!nft(&["list", "tables"]).contains(&scope));
    assert!(!Path::new("/run/tulle").join(&scope).exists());
}

#[test]
fn what_an_earlier_process_captured_goes_on_if_it_is_wanted() {
    let _alone = alone();
    let scope = scope("again");
    let names = [WorkloadName::new("default", "wanted"), WorkloadName::new("default", "forgotten")];
    let earlier = Other::start(&scope, &[("wanted", 1, 1), ("forgotten", 1, 1)]);
    let mut children = [0, 1].map(|i| spawn("sleep", &["60"], &earlier.slots[i]));
    earlier.kill();

    let capture = open(&scope, true);
    assert!(children.each_mut().iter_mut().all(|child| child.try_wait().unwrap().is_none()), "they go on");
    capture.add_again(&names[0], 1, 1).unwrap();
    let forgotten: Vec<_> = capture.orphans().into_iter().map(|(name, _)| name).collect();
    assert_eq!(forgotten, names[1..], "nobody came back for it");
    capture.remove(&names[1]).unwrap();
    assert!(!children[1].wait().unwrap().success());

    // It stops, and leaves what there is, with rules that refuse all that it sends.
    let cgroup = tulle_sys::cgroup::unified_mount().unwrap().unwrap().join("tulle").join(&scope);
    capture.leave().unwrap();
    drop(capture);
    assert!(children[0].try_wait().unwrap().is_none(), "it goes on");
    assert!(cgroup.join("default.wanted").exists() && !cgroup.join("default.forgotten").exists());
    let left = Slot { cgroup: Some(cgroup.join("default.wanted")), name_service: None };
    let connect = || TcpStream::connect("127.64.9.9:8080").map_err(|e| e.kind());
    assert_eq!(inside(&left, connect).unwrap_err(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(ask(&inside(&left, || from_the_same_port(RESOLVER))), "refused");

    drop(open(&scope, false));
    assert!(!children[0].wait().unwrap().success(), "one that keeps nothing ends it");
    assert!(!cgroup.exists());
}

#[test]
fn who_asks_is_known_whatever_port_the_question_comes_from() {
    let _alone = alone();
    let scope = scope("zones");
    let servers = ["a", "b", "later a"].map(NameServer::start);
    let outbound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let name = WorkloadName::new("default", "a");
    for resolver in [RESOLVER, "[::1]:53"] {
        let node =
            Other::start(&scope, &[("a", outbound, servers[0].port), ("b", outbound, servers[1].port)]);
        let [a, b] = &node.slots[..] else { unreachable!() };
        let ask_from = |slot: &Slot| ask(&inside(slot, || from_the_same_port(resolver)));
        for _ in 0..3 {
            assert_eq!(ask(&from_the_same_port(resolver)), "refused", "nobody outside is redirected");
            assert_eq!(ask_from(a), "a");
            assert_eq!(ask_from(b), "b");
        }
        // A socket that stays open over a restart of the node, whose listeners are others then.
        let mut child = spawn("sleep", &["60"], a);
        let open_socket = inside(a, || from_the_same_port(resolver));
        assert_eq!(ask(&open_socket), "a");
        node.kill();
        let capture = open(&scope, true);
        assert_eq!(ask(&open_socket), "refused", "nobody has said that it is still there");
        let a = capture.add_again(&name, outbound, servers[2].port).unwrap();
        assert_eq!(ask(&open_socket), "later a");
        drop(open_socket);
        assert_eq!(ask_from(&a), "later a");
        drop(capture);
        // One that keeps nothing.
        drop(open(&scope, false));
        assert!(!child.wait().unwrap().success());
    }
}

#[test]
fn many_short_workloads_get_answers_of_their_own() {
    let _alone = alone();
    let servers = ["a", "b"].map(NameServer::start);
    let capture = open(&scope("short"), false);
    // More than a block of zones.
    for i in 0..300 {
        let name = WorkloadName::new("default", "short");
        let slot = capture.add(&name, 1, servers[i % 2].port).unwrap();
        assert_eq!(ask(&inside(&slot, || from_the_same_port(RESOLVER))), ["a", "b"][i % 2], "{i}");
        capture.remove(&name).unwrap();
    }
}

#[test]
fn nodes_of_one_host_have_different_zones() {
    let _alone = alone();
    let captures = ["one", "two"].map(|node| (scope(node), open(&scope(node), false)));
    let zone = |(scope, capture): &(String, Capture)| {
        capture.add(&WorkloadName::new("default", "a"), 1, 1).unwrap();
        let map = nft(&["list", "map", "inet", &format!("tulle-{scope}"), "zones"]);
        let element = map.lines().find_map(|line| line.trim().strip_prefix("elements = ")).unwrap();
        element.rsplit_once(": ").unwrap().1.trim_end_matches([' ', '}']).parse::<u16>().unwrap()
    };
    let zones = captures.each_ref().map(zone);
    assert_ne!(zones[0] / 256, zones[1] / 256, "{zones:?}");
}

#[test]
fn listeners_serve_their_workload_and_nobody_else() {
    let _alone = alone();
    let server = NameServer::start("a");
    let outbound = listen();
    let port = outbound.local_addr().unwrap().port();
    let capture = open(&scope("guard"), false);
    let a = capture.add(&WorkloadName::new("default", "a"), port, server.port).unwrap();
    let b = capture.add(&WorkloadName::new("default", "b"), 1, 1).unwrap();
    let direct = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        socket
    };
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    assert_eq!(ask(&direct()), "refused");
    assert!(!connect());
    assert_eq!(ask(&inside(&b, direct)), "refused");
    assert!(!inside(&b, connect));
    // Its own workload reaches them as what is redirected.
    assert_eq!(ask(&inside(&a, direct)), "refused");
    assert!(!inside(&a, connect));
    assert_eq!(ask(&inside(&a, || from_the_same_port(RESOLVER))), "a");
    assert!(inside(&a, || TcpStream::connect("127.64.9.9:80")).is_ok());
}

/// Two workloads, their listeners, and a way to connect from the same port to that virtual address.
fn two_with_one_port(
    test: &str,
) -> (Capture, [TcpListener; 2], [Slot; 2], impl Fn() -> std::io::Result<socket2::Socket>) {
    let listeners = [0; 2].map(|_| listen());
    let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
    let capture = open(&scope(test), false);
    let slots = [0, 1].map(|i| {
        let name = WorkloadName::new("default", ["a", "b"][i]);
        capture.add(&name, ports[i], 1).unwrap()
    });
    // Another one each time: the kernel remembers for some seconds.
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let number = 8 * std::process::id() + TAKEN.fetch_add(1, Ordering::Relaxed);
    let address = Ipv4Addr::from_bits(0x7f40_0000 | number & 0x3f_ffff);
    let connect = move || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, SOURCE)).into()).unwrap();
        socket.connect(&SocketAddr::from((address, 80)).into()).map(|()| socket)
    };
    (capture, listeners, slots, connect)
}

#[test]
fn a_connection_that_the_node_resets_is_forgotten() {
    let _alone = alone();
    let (_capture, listeners, [a, b], connect) = two_with_one_port("forget");
    for _ in 0..3 {
        for (slot, listener) in [(&a, &listeners[0]), (&b, &listeners[1])] {
            let mut client = TcpStream::from(inside(slot, &connect).unwrap());
            let (connection, _) = listener.accept().unwrap();
            tulle_sys::conntrack::reset_redirected(&connection).unwrap();
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn a_port_that_the_kernel_remembers_leads_to_no_other_workload() {
    let _alone = alone();
    let (_capture, listeners, [a, b], connect) = two_with_one_port("tcp");
    let socket = inside(&a, &connect).unwrap();
    let (connection, _) = listeners[0].accept().unwrap();
    // Reset by the node: the kernel keeps the entry, and its way, for some seconds.
    let connection = socket2::Socket::from(connection);
    connection.set_linger(Some(Duration::ZERO)).unwrap();
    drop(connection);
    drop(socket);
    let _ = inside(&b, &connect);
    listeners[0].set_nonblocking(true).unwrap();
    assert!(listeners[0].accept().is_err(), "a connection of b is taken for one of a");
}

#[test]
fn dns_over_tcp_has_no_memory_either() {
    let _alone = alone();
    let scope = scope("dns-tcp");
    let servers = ["a", "b", "later a"].map(NameServer::start);
    let ask = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        // Closed by a reset, so that the port is free at once.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, SOURCE)).into()).unwrap();
        socket.connect(&RESOLVER.parse::<SocketAddr>().unwrap().into()).map(|()| {
            let mut answer = String::new();
            let _ = TcpStream::from(socket).read_to_string(&mut answer);
            answer
        })
    };
    let node = Other::start(&scope, &[("a", 1, servers[0].port), ("b", 1, servers[1].port)]);
    assert_eq!(inside(&node.slots[0], ask).unwrap(), "a");
    assert_eq!(inside(&node.slots[1], ask).unwrap(), "b");
    node.kill();
    let capture = open(&scope, true);
    let a = capture.add_again(&WorkloadName::new("default", "a"), 1, servers[2].port).unwrap();
    assert_eq!(inside(&a, ask).unwrap(), "later a");
}

#[test]
fn rules_that_somebody_takes_away_come_back() {
    let _alone = alone();
    let server = NameServer::start("a");
    let scope = scope("flush");
    let capture = open(&scope, false);
    let slot = capture.add(&WorkloadName::new("default", "a"), 1, server.port).unwrap();
    let table = format!("tulle-{scope}");
    let asks = || ask(&inside(&slot, || from_the_same_port(RESOLVER)));
    assert_eq!(asks(), "a");
    let harms: [&[&str]; 4] = [
        &["delete", "table", "inet", &table],
        &["flush", "table", "inet", &table],
        &["flush", "set", "inet", &table, "open"],
        &["add", "rule", "inet", &table, "guard", "drop"],
    ];
    for harm in harms {
        let before = Instant::now();
        nft(harm);
        eventually(&format!("after {harm:?}"), || asks() == "a");
        assert!(before.elapsed() < Duration::from_secs(2), "{harm:?} took {:?}", before.elapsed());
    }
}

#[test]
fn a_cgroup_that_somebody_removes_is_made_again_and_blocks_nobody() {
    let _alone = alone();
    let server = NameServer::start("up");
    let capture = open(&scope("cgroup"), false);
    let names = ["a", "b", "c"].map(|name| WorkloadName::new("default", name));
    let [a, b, _] = names.each_ref().map(|name| capture.add(name, 1, server.port).unwrap());
    let asks = |slot: &Slot| ask(&inside(slot, || from_the_same_port(RESOLVER)));
    let path = a.cgroup.clone().unwrap();
    remove_cgroup(&path);
    let d = capture.add(&WorkloadName::new("default", "d"), 1, server.port).unwrap();
    assert_eq!((asks(&b), asks(&d)), ("up".to_owned(), "up".to_owned()));
    eventually("the cgroup is made again", || path.exists());
    eventually("and captured", || asks(&a) == "up");

    // A cgroup that cannot be had: its workload alone is in trouble. Somebody put a limit on the parent.
    let parent = path.parent().unwrap();
    remove_cgroup(&path);
    fs::write(parent.join("cgroup.max.descendants"), "1").unwrap();
    let trouble = || capture.trouble(&names[0]);
    // Until it is made again, what is told may be that nft knows no such cgroup.
    eventually("the trouble is told", || {
        trouble().is_some_and(|why| why.contains(&path.display().to_string()))
    });
    assert_eq!((asks(&b), capture.trouble(&names[1])), ("up".to_owned(), None));
    capture.remove(&names[2]).unwrap();
    fs::write(parent.join("cgroup.max.descendants"), "max").unwrap();
    eventually("it is tried again", || trouble().is_none());
    assert_eq!(asks(&a), "up");
}

#[test]
fn what_is_not_open_is_refused() {
    let _alone = alone();
    let scope = scope("closed");
    let server = NameServer::start("outside");
    let node = Other::start(&scope, &[("a", 1, server.port)]);
    let slot = node.slots[0].clone();
    let mut child = spawn("sleep", &["60"], &slot);
    node.kill();
    let capture = open(&scope, true);
    let listener = TcpListener::bind("127.64.5.5:0").unwrap();
    let virtual_address = listener.local_addr().unwrap();
    assert!(TcpStream::connect(virtual_address).is_ok(), "for others it is an address like any");
    assert!(inside(&slot, || TcpStream::connect(virtual_address)).is_err(), "refused, not sent elsewhere");
    assert_eq!(ask(&inside(&slot, || from_the_same_port(RESOLVER))), "refused");
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _open = TcpListener::bind(loopback).unwrap();
    assert!(inside(&slot, || TcpStream::connect(loopback)).is_ok(), "what is not captured is not refused");
    drop(capture);
    drop(open(&scope, false));
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_resolv_conf_that_is_replaced_is_followed() {
    let _alone = alone();
    // With files of its own in place of the host's: all of it in a mount namespace.
    let folder = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let script = format!(
        "mount --make-rprivate / && mount --bind {etc} /etc && exec {test} --ignored --exact follows_a_resolv_conf --nocapture",
        etc = folder.path().display(),
        test = test.display(),
    );
    let copied =
        Command::new("sh").args(["-c", "cp -a /etc/. $0", &folder.path().display().to_string()]).status();
    assert!(copied.unwrap().success());
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:#?}");
}

#[test]
#[ignore = "run by a_resolv_conf_that_is_replaced_is_followed, where /etc is its own"]
fn follows_a_resolv_conf() {
    let replace = |text: &str| {
        fs::write("/etc/new", text).unwrap();
        fs::rename("/etc/new", "/etc/resolv.conf").unwrap();
    };
    replace("search one.example\nnameserver 2001:db8::53\n");
    let capture = open(&scope("resolv"), false);
    let slot = capture.add(&WorkloadName::new("default", "a"), 1, 1).unwrap();
    let mut child = spawn("bash", &["-c", "while read; do echo $(</etc/resolv.conf); done < <(yes)"], &slot);
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut sees = move |wanted: &str| {
        let start = Instant::now();
        let mut line = String::new();
        while line.trim_end() != wanted {
            assert!(start.elapsed() < PATIENCE, "{line}, not {wanted}");
            line.clear();
            std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        }
    };
    sees("search one.example nameserver 127.0.0.53");
    replace("search two.example\nnameserver 10.1.1.1\nnameserver 10.1.1.2\n");
    sees("search two.example nameserver 127.0.0.53");
    fs::write("/etc/resolv.conf", "search three.example\n").unwrap();
    sees("search three.example nameserver 127.0.0.53");
    // As a network manager does it that keeps its own somewhere else.
    fs::write("/etc/elsewhere", "options ndots:3\nnameserver ::1\n").unwrap();
    std::os::unix::fs::symlink("elsewhere", "/etc/new").unwrap();
    fs::rename("/etc/new", "/etc/resolv.conf").unwrap();
    sees("options ndots:3 nameserver 127.0.0.53");
    capture.remove(&WorkloadName::new("default", "a")).unwrap();
    child.wait().unwrap();
}
