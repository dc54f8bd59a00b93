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
    let bounds = if is_release() { RELEASE } else { DEBUG };
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

/// What `up` may take while nothing happens: the share of a core, and MiB; and how long after the last service it is ready.
struct Idle(f64, u64, Duration);
const IDLE_RELEASE: Idle = Idle(0.01, 50, Duration::from_secs(1));
const IDLE_DEBUG: Idle = Idle(0.1, 250, Duration::from_secs(5));
const SERVICES: usize = 30;
/// By then a node reports only every second what it has seen.
const SETTLED: Duration = Duration::from_secs(12);
const MEASURED: Duration = Duration::from_secs(20);

#[test]
fn up_with_thirty_services_takes_little_while_nothing_happens() {
    let _alone = alone();
    let bounds = if is_release() { IDLE_RELEASE } else { IDLE_DEBUG };
    let mut file = "services:\n".to_owned();
    for service in 0..SERVICES {
        let (binary, port) = (tulle().display().to_string(), free_port());
        file += &format!("  s{service}: {{command: [\"{binary}\", fake-service], port: {port}}}\n");
    }
    let home = Home::new();
    home.write("mesh/tulle.yaml", &file);
    let up = home.start(&["up", &home.path().join("mesh").display().to_string()]);
    eventually("the start of all services", PATIENCE * 2, || {
        (up.stdout().matches("fake-service listens").count() == SERVICES).then_some(())
    });
    let listening = Instant::now();
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    let ready = listening.elapsed();

    // Nothing says that a process has nothing to do.
    std::thread::sleep(SETTLED);
    let (before, started) = (cpu_time(&up), Instant::now());
    std::thread::sleep(MEASURED);
    let share = (cpu_time(&up) - before).as_secs_f64() / started.elapsed().as_secs_f64();
    let (idle, peak) = (resident(&up), memory(&up, "VmHWM:"));
    println!(
        "up with {SERVICES} services: {:.2} % of a core, {idle} KiB ({peak} at most), ready {ready:?} after the last service",
        share * 100.0
    );
    assert!(ready <= bounds.2, "ready {ready:?} after the last service");
    assert!(share < bounds.0, "{:.2} % of a core while nothing happens", share * 100.0);
    assert!(idle < bounds.1 * 1024, "{idle} KiB while nothing happens");
}

fn is_release() -> bool {
    tulle().components().any(|part| part.as_os_str() == "release")
}

/// What all threads of a process have had of processors (proc_pid_stat(5)).
fn cpu_time(process: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    let each = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs_f64(ticks as f64 / each as f64)
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
    memory(process, "VmRSS:")
}

fn memory(process: &Process, account: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(account)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
