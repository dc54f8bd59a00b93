//! What a node takes of its host, and how soon it serves again after it was killed. Any binary is
//! measured; the bounds of memory and time that are promised hold for one of the release profile
//! (`TULLE_BIN=target/release/tulle`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use tulle_tests::harness::{Home, Process, alone, eventually, tulle};
use tulle_tests::ports::free_port;

const PATIENCE: Duration = Duration::from_secs(15);
const REQUESTS: usize = 5_000;
const STARTS: usize = 5;

/// MiB idle, MiB after load, and the median of the starts.
struct Bounds(u64, u64, Duration);
/// The time is for a machine that has other things to do, too; an idle one takes a third of it.
const RELEASE: Bounds = Bounds(12, 20, Duration::from_millis(60));
const DEBUG: Bounds = Bounds(100, 120, Duration::from_millis(1000));

#[test]
fn a_node_is_small_and_serves_soon_after_a_restart() {
    let _alone = alone();
    let bounds = if tulle().components().any(|part| part.as_os_str() == "release") { RELEASE } else { DEBUG };
    let [nodes, api, app] = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let [one, two, admin] = [Home::new(), Home::new(), Home::new()];
    let server_address = format!("127.0.0.1:{nodes}");
    let server = admin.start(&[
        "server",
        "--listen-nodes",
        &server_address,
        "--listen-api",
        &format!("127.0.0.1:{api}"),
    ]);
    eventually("an answer of the API", PATIENCE, || {
        admin.tulle(&["get", "namespaces"]).status.success().then_some(())
    });
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: c, namespace: default}}\n\
         spec: {{selector: {{app: c}}, ports: [{{port: {app}}}]}}\n"
    );
    admin.tulle(&["apply", "-f", &admin.write("c.yaml", &service).display().to_string()]).ok();

    let links = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let node = |home: &Home, index: usize, token: &[&str]| {
        let name = ["one", "two"][index];
        let mut arguments = vec!["node", "--name", name, "--server", &server_address, "--workers", "1"];
        arguments.extend(["--capture", "explicit", "--listen-admin", "127.0.0.1:0"]);
        arguments.extend(["--listen-links", &links[index]]);
        arguments.extend(token);
        home.start(&arguments)
    };
    let join = |home: &Home, index: usize| {
        let token = admin.tulle(&["token", "create"]).ok();
        let process = node(home, index, &["--token", token.trim()]);
        eventually("a node", PATIENCE, || home.path().join("node.sock").exists().then_some(()));
        process
    };
    let mut first = join(&one, 0);
    let second = join(&two, 1);
    let binary = tulle().display().to_string();
    let _c = two.start(&["run", "c", "--port", &app, "--", &binary, "fake-service"]);
    let upstream = format!("c:{app}");
    let script = "echo $C_SERVICE_HOST:$C_SERVICE_PORT; exec sleep 600";
    let a = one.start(&["run", "a", "--upstream", &upstream, "--", "sh", "-c", script]);
    let address = a.wait_for_line("address", PATIENCE, |line| line.parse::<SocketAddr>().is_ok());
    let address: SocketAddr = address.parse().unwrap();
    eventually("an answer of c", PATIENCE, || ask(address).then_some(()));
    let idle = [resident(&first), resident(&second)];
    for _ in 0..REQUESTS {
        assert!(ask(address), "a request failed");
    }
    let loaded = [resident(&first), resident(&second)];

    // Until what the node knows is on its disk; it needs no server then.
    std::thread::sleep(Duration::from_secs(2));
    server.signal(Signal::SIGKILL);
    server.wait(PATIENCE);
    let mut times = Vec::new();
    for _ in 0..STARTS {
        first.signal(Signal::SIGKILL);
        first.wait(PATIENCE);
        let started = Instant::now();
        first = node(&one, 0, &[]);
        while !ask(address) {
            assert!(started.elapsed() < PATIENCE, "it does not serve again");
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(started.elapsed());
    }
    times.sort();
    println!("resident: idle {idle:?}, after load {loaded:?} KiB; started in {times:?}");
    assert!(idle.iter().all(|&size| size <= bounds.0 * 1024), "idle: {idle:?} KiB");
    assert!(loaded.iter().all(|&size| size <= bounds.1 * 1024), "after load: {loaded:?} KiB");
    assert!(times[STARTS / 2] <= bounds.2, "{times:?}");
}

/// Whether one request on a connection of its own is answered with 200.
fn ask(address: SocketAddr) -> bool {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    exchange().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

/// KiB in memory, by the kernel's account.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
