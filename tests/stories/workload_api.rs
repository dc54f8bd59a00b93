//! The SPIFFE Workload API, by the real Python client: a process gets the identity of its own workload, and no other.

use std::time::Duration;

use tulle_tests::faked::{Faked, library};
use tulle_tests::harness::{
    Home, Process, alone, client, eventually, have_packages, may_run, python, require_root, run,
};
use tulle_tests::one_host::{Mode, OneHost};
use tulle_tests::ports::free_port;

const PATIENCE: Duration = Duration::from_secs(20);
const PORTS: u16 = 19660;

fn have_client() -> bool {
    may_run("the PyPI package spiffe (cargo xtask setup)", have_packages(&["spiffe", "grpc"], &[]))
}

/// The words of a command that does it.
fn words(what: &str) -> Vec<String> {
    vec![python().display().to_string(), client("workload_api.py"), what.to_owned()]
}

/// A workload that does it, with these options of `tulle run`.
fn workload(home: &Home, name: &str, options: &[&str], command: &[String]) -> Process {
    let mut arguments = vec!["run", name];
    arguments.extend(options);
    arguments.push("--");
    arguments.extend(command.iter().map(String::as_str));
    home.start(&arguments)
}

#[track_caller]
fn says(process: &Process, start: &str) -> String {
    let found = |line: &str| line.starts_with(start) || line.starts_with("Traceback");
    let line = process.wait_for_line(start, PATIENCE, found);
    assert!(line.starts_with(start), "{}{}", process.stdout(), process.stderr());
    line
}

/// Where the API is, as workloads hear of it.
fn endpoint(home: &Home) -> String {
    let said = home.tulle(&["run", "asker", "--", "sh", "-c", "echo $SPIFFE_ENDPOINT_SOCKET"]).ok();
    said.trim().to_owned()
}

/// A process that is of no workload.
#[track_caller]
fn stranger_is_denied(endpoint: &str) {
    let command = words("denied");
    let mut stranger = std::process::Command::new(&command[0]);
    stranger.args(&command[1..]).env("SPIFFE_ENDPOINT_SOCKET", endpoint);
    assert_eq!(run(&mut stranger).ok().trim(), "denied");
}

/// A command that asks as another user, and prints the status of gRPC: 7 for nobody, 3 for a workload, whose request makes no
/// sense.
fn as_nobody(endpoint: &str) -> Vec<String> {
    let socket = endpoint.strip_prefix("unix://").unwrap();
    let curl = format!(
        "printf '\\0\\0\\0\\0\\0' | curl -s -i -m 10 --http2-prior-knowledge --unix-socket {socket} --data-binary @- \
         -H 'content-type: application/grpc' -H 'te: trailers' -H 'workload.spiffe.io: true' \
         http://localhost/SpiffeWorkloadAPI/ValidateJWTSVID | grep grpc-status"
    );
    let setpriv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", &curl];
    setpriv.map(str::to_owned).into()
}

fn status_of(command: &[String]) -> String {
    run(std::process::Command::new(&command[0]).args(&command[1..])).stdout.trim().to_owned()
}

#[test]
fn a_process_gets_the_identity_of_its_cgroup_and_sees_it_renewed() {
    require_root!();
    if !have_client() || !may_run("libfaketime", library().is_some()) {
        return;
    }
    let _alone = alone();
    let [api, nodes] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let server = Faked::start(Home::new(), "+0", &["server", "--listen-api", &api, "--listen-nodes", &nodes]);
    eventually("an answer of the API", PATIENCE, || {
        server.home.tulle(&["get", "namespaces"]).status.success().then_some(())
    });
    let token = server.home.tulle(&["token", "create"]).ok();
    let home = &server.home;
    let name = format!("spiffe-{}", std::process::id());
    let node = home.start(&[
        "node",
        "--server",
        &nodes,
        "--token",
        token.trim(),
        "--name",
        &name,
        "--capture",
        "host",
        "--listen-links",
        "127.0.0.1:0",
        "--listen-admin",
        "127.0.0.1:0",
    ]);
    node.wait_for_line("node", PATIENCE, |line| line.contains(" runs, links at "));

    let watching = workload(home, "web", &[], &words("watch"));
    let first = says(&watching, "certificate spiffe://mesh.local/ns/default/sa/web ");
    says(&watching, "keys 1");
    // Each its own, whatever the workload is called.
    let cart = workload(home, "cart", &[], &words("fetch"));
    says(&cart, "identity spiffe://mesh.local/ns/default/sa/cart");
    let till = workload(home, "till", &["--service-account", "shop"], &words("fetch"));
    says(&till, "identity spiffe://mesh.local/ns/default/sa/shop");
    // A child, in a session of its own, as another user, is as much of the workload; others are not, whoever they are.
    let endpoint = endpoint(home);
    stranger_is_denied(&endpoint);
    let nobody = as_nobody(&endpoint);
    assert_eq!(status_of(&nobody), "grpc-status: 7");
    let child = [vec!["setsid".to_owned(), "-w".to_owned()], nobody].concat();
    says(&workload(home, "child", &[], &child), "grpc-status: 3");
    // One that has told of another socket keeps that.
    let mut own = home.command(tulle_tests::harness::tulle());
    own.args(["run", "own", "--", "sh", "-c", "echo $SPIFFE_ENDPOINT_SOCKET"]);
    let own = run(own.env("SPIFFE_ENDPOINT_SOCKET", "unix:///run/other.sock")).ok();
    assert_eq!(own.trim(), "unix:///run/other.sock");

    // A month later there is a new certificate, and the next key of tokens.
    server.set("+2678400");
    eventually("a new certificate", PATIENCE, || {
        let said = watching.stdout();
        let certificate = |line: &&str| line.starts_with("certificate ");
        said.lines().rfind(certificate).is_some_and(|last| last != first).then_some(())
    });
    eventually("new keys", PATIENCE, || {
        let asking = workload(home, "asking", &[], &words("token"));
        asking.wait(PATIENCE);
        watching.stdout().contains("keys 2").then_some(())
    });
    assert!(!watching.stdout().contains("failed"), "{}", watching.stdout());
    assert!(watching.is_running());
    drop((watching, cart, till));
    assert!(node.interrupt().success());
    assert!(!std::path::Path::new(endpoint.strip_prefix("unix://").unwrap()).exists(), "the socket is left");
    home.tulle(&["node", "reset", "--stop-timeout", "1s"]).ok();
}

#[test]
fn with_explicit_capture_a_process_is_known_by_its_ancestors() {
    if !have_client() {
        return;
    }
    let _alone = alone();
    let mesh = OneHost::start(Mode::Explicit, PORTS);
    let cart = workload(&mesh.home, "cart", &[], &words("fetch"));
    says(&cart, "identity spiffe://mesh.local/ns/default/sa/cart");
    let shell = format!("'{}' '{}' fetch", words("")[0], words("")[1]);
    let till = workload(&mesh.home, "till", &[], &["sh".into(), "-c".into(), format!("{shell}; true")]);
    says(&till, "identity spiffe://mesh.local/ns/default/sa/till");
    let endpoint = endpoint(&mesh.home);
    stranger_is_denied(&endpoint);
    // What is in its environment is no proof.
    let command = words("denied");
    let mut forger = std::process::Command::new(&command[0]);
    forger.args(&command[1..]).env("SPIFFE_ENDPOINT_SOCKET", &endpoint);
    let marked = mesh.home.tulle(&["run", "cart-2", "--", "sh", "-c", "echo $TULLE_WORKLOAD"]).ok();
    assert_eq!(run(forger.env("TULLE_WORKLOAD", marked.trim())).ok().trim(), "denied");
    drop((cart, till));
    mesh.end();
}

#[test]
fn with_explicit_capture_another_user_is_nobody() {
    require_root!();
    let _alone = alone();
    let mesh = OneHost::start(Mode::Explicit, PORTS);
    let endpoint = endpoint(&mesh.home);
    let nobody = as_nobody(&endpoint);
    assert_eq!(status_of(&nobody), "grpc-status: 7");
    says(&workload(&mesh.home, "child", &[], &nobody), "grpc-status: 7");
    says(&workload(&mesh.home, "self", &[], &nobody[6..]), "grpc-status: 3");
    mesh.end();
}

/// The services of `tulle up` hear of it, too.
#[test]
fn services_of_up_have_their_identities() {
    if !have_client() {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    let command = serde_json::to_string(&words("fetch")).unwrap();
    home.write("mesh/tulle.yaml", &format!("services:\n  web:\n    command: {command}\n"));
    let folder = home.path().join("mesh").display().to_string();
    for capture in ["host", "explicit"] {
        if capture == "host" && !nix::unistd::geteuid().is_root() {
            continue;
        }
        let up = home.start(&["up", &folder, "--capture", capture]);
        let found = |line: &str| line.contains("identity spiffe://mesh.local/ns/default/sa/web");
        up.wait_for_line("identity", PATIENCE, found);
        assert!(up.interrupt().success());
    }
}
