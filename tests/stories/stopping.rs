//! What stops, how it stops, and what goes on: nodes, their workloads, and meshes whose terminal is closed.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use tulle_tests::harness::{Home, Process, alone, client, eventually, python, require_root, run, tulle};
use tulle_tests::one_host::{Mode, OneHost, is_alive, said_pid, wait_for_end};

const PATIENCE: Duration = Duration::from_secs(15);
/// The ports of the mesh, and of its service.
const PORTS: u16 = 19610;
const PORT: u16 = 19613;
const URL: &str = "http://c:19613/";

fn lines(process: &Process) -> Vec<String> {
    process.stdout().lines().map(str::to_owned).collect()
}

fn said(process: &Process, line: &str) -> bool {
    lines(process).iter().any(|l| l == line)
}

/// The process of a workload outlives its node, and is in the mesh of the next one within a second; it is ended, in
/// good order, by who asks.
fn outlives_its_node(mode: Mode) {
    let mut mesh = OneHost::start(mode, PORTS);
    mesh.service("c", PORT);
    let (app, pid) = mesh.run_service("c", PORT, &["--stop-timeout", "10s"], &["daemon"]);
    let daemon = said_pid(&app, "daemon ");
    assert_eq!(eventually("an answer", PATIENCE, || mesh.ask(URL)), pid);

    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGQUIT] {
        let stopped = mesh.stop_node(signal);
        if signal != Signal::SIGKILL {
            let text = stopped.stdout();
            assert!(
                text.contains("default/c goes on (2 processes)") && text.contains("tulle node reset"),
                "{text}"
            );
        }
        assert!(is_alive(pid) && is_alive(daemon) && !said(&app, "SIGTERM"), "{signal}: {}", app.stdout());
        if mode == Mode::Host {
            assert!(mesh.leaves_rules(), "{signal}");
            for cut_off in ["http://127.64.0.9:80/", "http://no-such-name.example/"] {
                let seen = in_cgroup(&mesh.cgroups()[0], &["curl", "-sS", "-m", "5", cut_off]);
                // Refused at once, or not resolved.
                assert!(seen.contains("curl: (7)") || seen.contains("curl: (6)"), "{signal}: {seen}");
            }
        }
        let back = mesh.start_node();
        app_is_back(&app, signal);
        assert_eq!(eventually("an answer", PATIENCE, || mesh.ask(URL)), pid, "{signal}");
        println!("{mode:?}, {signal}: answered {:?} after the node said that it runs", back.elapsed());
    }

    app.signal(Signal::SIGHUP);
    assert!(app.wait(PATIENCE).success(), "{}", app.stderr());
    assert!(said(&app, "SIGTERM") && said(&app, "bye") && said(&app, "daemon SIGTERM"), "{}", app.stdout());
    wait_for_end(daemon);
    mesh.end();
}

#[track_caller]
fn app_is_back(app: &Process, signal: Signal) {
    eventually("its return", PATIENCE, || {
        let text = app.stderr();
        let (gone, back) =
            (text.matches("the node is gone").count(), text.matches("the node is back, and").count());
        (gone > 0 && gone == back).then_some(())
    });
    assert!(!said(app, "SIGTERM"), "{signal}");
}

/// Runs a command in a cgroup, and returns what it says.
fn in_cgroup(cgroup: &str, command: &[&str]) -> String {
    let script = format!("echo $$ > {cgroup}/cgroup.procs; exec \"$@\"");
    let outcome = run(Command::new("sh").args(["-c", &script, "sh"]).args(command));
    outcome.stdout + &outcome.stderr
}

#[test]
fn a_captured_process_outlives_its_node() {
    require_root!();
    let _alone = alone();
    outlives_its_node(Mode::Host);
}

#[test]
fn a_process_that_is_not_captured_outlives_its_node() {
    let _alone = alone();
    outlives_its_node(Mode::Explicit);
}

/// Where a process is in the unified hierarchy.
fn place_of(pid: i32) -> String {
    let places = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    places.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

/// Moves processes out of the cgroup of a workload, to the root of the hierarchy.
#[track_caller]
fn move_out(mesh: &OneHost, pids: &[i32]) -> String {
    let cgroup = mesh.cgroups().into_iter().find(|path| path.ends_with("default.c")).unwrap();
    let root = cgroup.split("/tulle/").next().unwrap().to_owned();
    pids.iter().for_each(|pid| std::fs::write(format!("{root}/cgroup.procs"), pid.to_string()).unwrap());
    cgroup
}

#[test]
fn a_process_that_was_moved_out_of_its_cgroup_is_captured_again_and_ends() {
    require_root!();
    let _alone = alone();
    let mut mesh = OneHost::start(Mode::Host, PORTS);
    mesh.service("c", PORT);

    // It is taken back, with what it has started.
    let (app, pid) = mesh.run_service("c", PORT, &["--stop-timeout", "1s"], &["daemon"]);
    let daemon = said_pid(&app, "daemon ");
    let cgroup = move_out(&mesh, &[pid, daemon]);
    std::fs::remove_dir(&cgroup).unwrap();
    for pid in [pid, daemon] {
        eventually("its return", PATIENCE, || place_of(pid).ends_with("/default.c").then_some(()));
    }
    let said_so = || mesh.node().stderr().matches("is taken back into its cgroup").count() == 2;
    eventually("the node's word", PATIENCE, || said_so().then_some(()));
    app.signal(Signal::SIGTERM);
    app.wait(PATIENCE);
    assert!(said(&app, "bye") && said(&app, "daemon SIGTERM"), "{}", app.stdout());

    // Who stops it does not need it to be there: the node that would take it back is off.
    let (app, pid) = mesh.run_service("c", PORT, &["--stop-timeout", "1s"], &["deaf"]);
    mesh.stop_node(Signal::SIGTERM);
    let cgroup = move_out(&mesh, &[pid]);
    std::fs::remove_dir(&cgroup).unwrap();
    let struck = Instant::now();
    app.signal(Signal::SIGTERM);
    assert!(!app.wait(PATIENCE).success());
    assert!(said(&app, "SIGTERM") && struck.elapsed() >= Duration::from_secs(1), "{}", app.stdout());
    wait_for_end(pid);

    // Nor does the node that ends it in its owner's place.
    mesh.start_node();
    let (app, pid) = mesh.run_service("c", PORT, &["--stop-timeout", "1s"], &[]);
    mesh.stop_node(Signal::SIGTERM);
    move_out(&mesh, &[pid]);
    app.signal(Signal::SIGKILL);
    app.wait(PATIENCE);
    mesh.start_node();
    wait_for_end(pid);
    assert!(said(&app, "SIGTERM"), "{}", app.stdout());
    mesh.end();
}

/// `kill -9` of `tulle run`, with the node there and without.
fn ends_without_its_owner(mode: Mode) {
    let mut mesh = OneHost::start(mode, PORTS);
    mesh.service("c", PORT);
    let (app, pid) = mesh.run_service("c", PORT, &[], &["daemon"]);
    let daemon = said_pid(&app, "daemon ");
    app.signal(Signal::SIGKILL);
    wait_for_end(pid);
    wait_for_end(daemon);
    assert!(said(&app, "SIGTERM") && said(&app, "bye") && said(&app, "daemon SIGTERM"), "{}", app.stdout());

    // One that does not listen has its time, and no more.
    let (app, pid) = mesh.run_service("c", PORT, &["--stop-timeout", "1s"], &["deaf"]);
    let struck = Instant::now();
    app.signal(Signal::SIGKILL);
    wait_for_end(pid);
    assert!(said(&app, "SIGTERM") && struck.elapsed() >= Duration::from_secs(1), "{}", app.stdout());

    // Nobody is there: they go on until the node is.
    let (app, pid) = mesh.run_service("c", PORT, &[], &["daemon"]);
    let daemon = said_pid(&app, "daemon ");
    mesh.stop_node(Signal::SIGTERM);
    app.signal(Signal::SIGKILL);
    app.wait(PATIENCE);
    std::thread::sleep(Duration::from_millis(300));
    assert!(is_alive(pid) && is_alive(daemon) && !said(&app, "SIGTERM"), "{}", app.stdout());
    mesh.start_node();
    wait_for_end(pid);
    wait_for_end(daemon);
    assert!(said(&app, "SIGTERM") && said(&app, "daemon SIGTERM"), "{}", app.stdout());

    // The name is free again.
    let (app, _) = mesh.run_service("c", PORT, &[], &[]);
    drop(app);
    mesh.end();
}

#[test]
fn captured_processes_end_in_good_order_without_their_owner() {
    require_root!();
    let _alone = alone();
    ends_without_its_owner(Mode::Host);
}

#[test]
fn processes_end_in_good_order_without_their_owner() {
    let _alone = alone();
    ends_without_its_owner(Mode::Explicit);
}

/// `tulle node drain`, and `tulle node reset`.
fn is_drained_and_reset(mode: Mode) {
    let mut mesh = OneHost::start(mode, PORTS);
    mesh.service("c", PORT);
    let (app, pid) = mesh.run_service("c", PORT, &[], &["daemon"]);
    assert_eq!(eventually("an answer", PATIENCE, || mesh.ask(URL)), pid);
    let refused = mesh.home.tulle(&["node", "reset"]);
    assert_eq!(refused.code(), 5, "{refused:#?}");
    assert!(refused.stderr.contains("another node runs"), "{refused:#?}");

    let drained = mesh.home.tulle(&["node", "drain"]).ok();
    assert!(drained.contains("1 workload drained: nothing is in flight"), "{drained}");
    let other = mesh.home.tulle(&["run", "other", "--", "true"]);
    assert!(other.stderr.contains("the node is drained or stops"), "{other:#?}");
    assert!(is_alive(pid));
    mesh.home.tulle(&["node", "drain", "--undo"]).ok();
    assert_eq!(eventually("an answer", PATIENCE, || mesh.ask(URL)), pid);

    let ended = mesh.home.tulle(&["node", "drain", "--stop"]).ok();
    assert!(ended.contains("default/c has ended"), "{ended}");
    assert!(app.wait(PATIENCE).success(), "{}", app.stderr());
    assert!(said(&app, "SIGTERM") && said(&app, "bye") && said(&app, "daemon SIGTERM"), "{}", app.stdout());
    mesh.home.tulle(&["node", "drain", "--undo"]).ok();

    // What a node leaves that is not to come back, is removed by hand; the server is not asked.
    let (app, pid) = mesh.run_service("c", PORT, &["--stop-timeout", "1s"], &["deaf", "daemon"]);
    let daemon = said_pid(&app, "daemon ");
    mesh.stop_node(Signal::SIGKILL);
    mesh.server.signal(Signal::SIGSTOP);
    app.signal(Signal::SIGKILL);
    let reset = mesh.home.tulle(&["node", "reset"]).ok();
    assert!(reset.contains("default/c: 2 processes ended, 1 of them by force"), "{reset}");
    assert!(!is_alive(pid) && !is_alive(daemon) && said(&app, "SIGTERM") && said(&app, "daemon SIGTERM"));
    if mode == Mode::Host {
        assert!(reset.contains("cgroup ") && reset.contains("nftables table tulle-one-"), "{reset}");
        assert!(!mesh.leaves_rules());
    }
    let reset = mesh.home.tulle(&["node", "reset"]).ok();
    assert!(reset.contains("there is nothing"), "{reset}");
    mesh.server.signal(Signal::SIGCONT);
    mesh.end();
}

#[test]
fn a_node_that_captures_is_drained_and_reset() {
    require_root!();
    let _alone = alone();
    is_drained_and_reset(Mode::Host);
}

#[test]
fn a_node_that_captures_nothing_is_drained_and_reset() {
    let _alone = alone();
    is_drained_and_reset(Mode::Explicit);
}

#[test]
fn a_socket_that_was_removed_comes_back() {
    let _alone = alone();
    let mut mesh = OneHost::start(Mode::Explicit, PORTS);
    let socket = mesh.home.path().join("node.sock");
    let (app, pid) = mesh.run_service("c", PORT, &[], &[]);
    std::fs::remove_file(&socket).unwrap();
    let removed = Instant::now();
    eventually("the socket", PATIENCE, || socket.exists().then_some(()));
    assert!(removed.elapsed() < Duration::from_secs(1), "{:?}", removed.elapsed());
    assert!(mesh.home.tulle(&["run", "other", "--", "true"]).status.success());
    assert!(mesh.node().stderr().contains("socket was removed"), "{}", mesh.node().stderr());

    // Somebody removes all that the node has, and starts another one: the first does not take the socket back.
    let old = mesh.node.take().unwrap();
    let folder = mesh.home.path().join("node");
    std::fs::remove_dir_all(&folder).unwrap();
    eventually("the lock", PATIENCE, || folder.join("lock").exists().then_some(()));
    // The lock of the other one is held before it stands in the place where the first node looks for it.
    let others = mesh.home.path().join("node.new");
    std::fs::create_dir(&others).unwrap();
    let taken = std::fs::File::create(others.join("lock")).unwrap();
    let _taken = Flock::lock(taken, FlockArg::LockExclusiveNonblock).unwrap();
    renameat2(AT_FDCWD, &others, AT_FDCWD, &folder, RenameFlags::RENAME_EXCHANGE).unwrap();
    std::fs::remove_dir_all(&others).unwrap();
    std::fs::remove_file(&socket).unwrap();
    eventually("a word on it", PATIENCE, || {
        old.stderr().contains("another node has taken over").then_some(())
    });
    assert!(!socket.exists());
    assert!(is_alive(pid) && old.interrupt().success());
    drop(app);
    wait_for_end(pid);
    assert!(mesh.server.interrupt().success());
}

/// A folder that can be read only, for as long as it lives.
struct ReadOnly(String);

impl ReadOnly {
    fn new(folder: &std::path::Path) -> Self {
        let folder = folder.display().to_string();
        run(Command::new("mount").args(["--bind", &folder, &folder])).ok();
        let this = Self(folder);
        run(Command::new("mount").args(["-o", "remount,ro,bind", &this.0])).ok();
        this
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[test]
fn a_node_starts_again_from_a_disk_that_takes_no_more() {
    require_root!();
    let _alone = alone();
    // The server's state is not on that disk.
    let mut mesh = OneHost::start(Mode::Host, PORTS);
    mesh.service("c", PORT);
    mesh.service("d", PORT + 1);
    let (app, pid) = mesh.run_service("c", PORT, &[], &[]);
    assert_eq!(eventually("an answer", PATIENCE, || mesh.ask(URL)), pid);
    // Until what the node knows is on its disk.
    std::thread::sleep(Duration::from_secs(2));
    mesh.stop_node(Signal::SIGTERM);
    let read_only = ReadOnly::new(mesh.home.path());
    assert!(std::fs::write(mesh.home.path().join("x"), "").is_err());
    mesh.start_node();
    app_is_back(&app, Signal::SIGTERM);
    assert_eq!(eventually("an answer", PATIENCE, || mesh.ask(URL)), pid);
    // A name that this node has no address for yet.
    let (other, other_pid) = mesh.run_service("d", PORT + 1, &[], &[]);
    assert_eq!(eventually("an answer", PATIENCE, || mesh.ask("http://d:19614/")), other_pid);
    let log = mesh.node().stderr();
    assert!(log.contains("Read-only file system") && log.contains("/run/tulle/"), "{log}");
    other.signal(Signal::SIGTERM);
    assert!(other.wait(PATIENCE).success());
    app.signal(Signal::SIGTERM);
    assert!(app.wait(PATIENCE).success());
    let node = mesh.stop_node(Signal::SIGTERM);
    assert!(node.stdout().contains("stopped"), "{}", node.stdout());
    drop(read_only);
    mesh.end();
}

/// A mesh with one service that says what it gets.
fn services() -> String {
    let (python, script) = (python().display().to_string(), client("service.py"));
    format!("services:\n  c:\n    command: [\"{python}\", \"{script}\", \"{PORT}\"]\n    port: {PORT}\n")
}

/// Nothing of `up` is left: neither the process nor what it made on the host.
#[track_caller]
fn nothing_is_left(home: &Home, pid: i32) {
    wait_for_end(pid);
    let home = home.path().display().to_string();
    let reset = run(Command::new(tulle()).args(["node", "reset", "--home", &home])).ok();
    assert!(reset.contains("there is nothing"), "{reset}");
}

/// The number of the process that `up` has started.
#[track_caller]
fn service_pid(up: &Process) -> i32 {
    let line = up.wait_for_line("its process", PATIENCE, |line| line.contains("│ up "));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn all_ends_of_up_are_one() {
    let _alone = alone();
    for signal in [Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM] {
        let home = Home::new();
        let up = home.up(&services());
        let pid = service_pid(&up);
        let mut client = home.command(tulle());
        client.args([
            "run",
            "client",
            "--",
            "sh",
            "-c",
            "trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done",
        ]);
        let client = Process::spawn(&mut client);
        eventually("the client", PATIENCE, || {
            home.tulle(&["status"]).stdout.contains("client").then_some(())
        });
        up.signal(signal);
        assert!(up.wait(Duration::from_secs(30)).success(), "{signal}: {}", up.stdout());
        let text = up.stdout();
        assert!(text.contains("SIGTERM") && text.contains("│ bye"), "{signal}: {text}");
        assert_eq!(client.wait(PATIENCE).code(), Some(7), "{signal}: {}", client.stderr());
        assert!(said(&client, "bye"), "{signal}");
        nothing_is_left(&home, pid);
    }
}

/// `tulle up` on a terminal that is closed.
#[test]
fn a_mesh_ends_with_its_terminal() {
    let _alone = alone();
    let home = Home::new();
    home.write("mesh/tulle.yaml", &services());
    let mesh = home.path().join("mesh").display().to_string();
    let binary = tulle().display().to_string();
    let mut terminal = home.command(python());
    terminal.args([&client("terminal.py"), &binary, "up", &mesh]);
    let terminal = Process::spawn(&mut terminal);
    terminal
        .wait_for_line("readiness", Duration::from_secs(30), |line| line.contains("all services are ready"));
    let pid = service_pid(&terminal);
    terminal.signal(Signal::SIGUSR1);
    assert!(terminal.wait(Duration::from_secs(30)).success());
    assert!(said(&terminal, "ended 0"), "{}", terminal.stdout());
    nothing_is_left(&home, pid);
}

/// A node on a terminal that is closed leaves what it leaves at every stop; so does its server.
#[test]
fn a_node_and_a_server_end_with_their_terminal() {
    let _alone = alone();
    let mut mesh = OneHost::start(Mode::Explicit, PORTS);
    let (app, pid) = mesh.run_service("c", PORT, &[], &[]);
    mesh.stop_node(Signal::SIGTERM);
    let on_terminal = |arguments: &[&str]| {
        let mut terminal = mesh.home.command(python());
        terminal.arg(client("terminal.py")).arg(tulle()).args(arguments);
        Process::spawn(&mut terminal)
    };
    let server = format!("127.0.0.1:{}", PORTS + 1);
    let node = on_terminal(&[
        "node",
        "--server",
        &server,
        "--name",
        &mesh.name,
        "--capture",
        "explicit",
        "--listen-links",
        "127.0.0.1:0",
        "--listen-admin",
        "127.0.0.1:0",
    ]);
    node.wait_for_line("node", PATIENCE, |line| line.contains(" runs, links at "));
    app_is_back(&app, Signal::SIGHUP);
    node.signal(Signal::SIGUSR1);
    assert!(node.wait(Duration::from_secs(30)).success());
    assert!(said(&node, "ended 0"), "{}", node.stdout());
    assert!(is_alive(pid) && !said(&app, "SIGTERM") && !mesh.home.path().join("node.sock").exists());
    app.signal(Signal::SIGTERM);
    assert!(app.wait(PATIENCE).success());

    assert!(mesh.server.interrupt().success());
    let listen = format!("127.0.0.1:{PORTS}");
    let server = on_terminal(&["server", "--listen-api", &listen, "--listen-nodes", &server]);
    server.wait_for_line("server", PATIENCE, |line| line.contains("the server runs"));
    server.signal(Signal::SIGUSR1);
    assert!(server.wait(Duration::from_secs(30)).success());
    assert!(said(&server, "ended 0"), "{}", server.stdout());
}

#[test]
fn without_a_terminal_a_hang_up_is_nothing() {
    let _alone = alone();
    let home = Home::new();
    let (api, nodes) = (format!("127.0.0.1:{PORTS}"), format!("127.0.0.1:{}", PORTS + 1));
    let mut server = home.command("setsid");
    server.arg(tulle()).args(["server", "--listen-api", &api, "--listen-nodes", &nodes]);
    let server = Process::spawn(&mut server);
    server.wait_for_line("server", PATIENCE, |line| line.contains("the server runs"));
    let token = home.tulle(&["token", "create"]).ok();
    let mut node = home.command("setsid");
    node.arg(tulle()).args(["node", "--server", &nodes, "--token", token.trim(), "--capture", "explicit"]);
    node.args(["--listen-links", "127.0.0.1:0", "--listen-admin", "127.0.0.1:0"]);
    let node = Process::spawn(&mut node);
    node.wait_for_line("node", PATIENCE, |line| line.contains(" runs, links at"));
    for process in [&node, &server] {
        process.signal(Signal::SIGHUP);
        eventually("a word on it", PATIENCE, || process.stderr().contains("SIGHUP is ignored").then_some(()));
    }
    assert!(home.tulle(&["run", "x", "--", "true"]).status.success());
    for process in [&node, &server] {
        process.signal(Signal::SIGTERM);
        assert!(process.wait(PATIENCE).success());
    }

    // nohup(1) has its process ignore it, with a terminal or without.
    home.write("mesh/tulle.yaml", &services());
    let mut up = home.command("nohup");
    up.arg(tulle()).args(["up", &home.path().join("mesh").display().to_string()]);
    let up = Process::spawn(&mut up);
    up.wait_for_line("readiness", Duration::from_secs(30), |line| line.contains("all services are ready"));
    up.signal(Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!up.stdout().contains("stopping"), "{}", up.stdout());
    assert!(up.interrupt().success());
}

#[test]
fn an_output_that_nobody_reads_any_more_is_no_reason_to_fall() {
    let home = Home::new();
    let (api, nodes) = (format!("127.0.0.1:{PORTS}"), format!("127.0.0.1:{}", PORTS + 1));
    let script = format!(
        "{{ {} server --listen-api {api} --listen-nodes {nodes} & echo $! >&3; }} 3>{}/pid | true; \
         tail --pid=$(cat {}/pid) -f /dev/null",
        tulle().display(),
        home.path().display(),
        home.path().display()
    );
    let _alone = alone();
    let mut shell = home.command("sh");
    shell.args(["-c", &script]);
    let shell = Process::spawn(&mut shell);
    let kubeconfig = home.kubeconfig();
    eventually("an answer of the API", PATIENCE, || {
        (kubeconfig.exists() && home.tulle(&["get", "namespaces"]).status.success()).then_some(())
    });
    let pid: i32 = std::fs::read_to_string(home.path().join("pid")).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    wait_for_end(pid);
    shell.wait(PATIENCE);
    assert!(!shell.stderr().contains("panicked"), "{}", shell.stderr());
}
