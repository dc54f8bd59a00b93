//! A host is copied, with the identity of its node; a host gets another address.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use tulle_tests::chaos::figure;
use tulle_tests::harness::{Home, Hosts, Process, alone, eventually, require_root, run};

const PATIENCE: Duration = Duration::from_secs(20);

fn node(home: &Home, server: &str, more: &[&str]) -> Process {
    let mut arguments = vec!["node", "--name", "host", "--server", server, "--capture", "explicit"];
    arguments.extend(["--listen-links", "127.0.0.1:0", "--listen-admin", "127.0.0.1:0"]);
    arguments.extend(more);
    let node = home.start(&arguments);
    node.wait_for_line("the node", PATIENCE, |line| line.contains("runs, links at"));
    node
}

#[test]
fn a_clone_is_kept_out_and_both_sides_say_so() {
    let home = Home::new();
    let server = home.start(&["server", "--listen-api", "127.0.0.1:0", "--listen-nodes", "127.0.0.1:0"]);
    let line = server.wait_for_line("the server", PATIENCE, |line| line.contains("nodes at"));
    let address = line.split("nodes at ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let token = home.tulle(&["token", "create"]).ok().trim().to_owned();

    let original = Home::new();
    let first = node(&original, &address, &["--token", &token]);
    let app = original.start(&["run", "cart", "--port", "9000", "--", "sleep", "60"]);
    let runs = || home.tulle(&["get", "workloads", "-o", "name"]).stdout.contains("/cart");
    eventually("the workload", PATIENCE, || runs().then_some(()));

    let clone = Home::new();
    run(Command::new("cp").args(["-a"]).arg(original.path().join("node")).arg(clone.path())).ok();
    let second = node(&clone, &address, &[]);
    let said = |process: &Process, what: &str| {
        eventually(what, PATIENCE, || {
            format!("{}{}", process.stdout(), process.stderr()).contains(what).then_some(())
        });
    };
    said(&second, "looks like a clone of it");
    said(&server, "another node of this name is kept out");
    let status = home.tulle(&["status"]).ok();
    assert!(status.contains("is kept out") && status.contains("--name NAME"), "{status}");
    let refused = clone.tulle(&["run", "till", "--port", "9001", "--", "sleep", "60"]);
    assert!(!refused.status.success() && refused.stderr.contains("clone"), "{refused:#?}");
    assert!(runs(), "the original's workload is gone");
    figure("clone of a node", "the original keeps its workloads", "yes");

    // A node that is killed and started again is no clone, whatever is left of its connection.
    first.signal(Signal::SIGKILL);
    first.wait(PATIENCE);
    let again = node(&original, &address, &[]);
    eventually("the node again", PATIENCE, || {
        let nodes = home.tulle(&["status", "-o", "json"]).stdout;
        (nodes.contains("\"cart\"") && runs()).then_some(())
    });
    drop(app);
    assert!(again.interrupt().success());
    drop(second);
    assert!(server.interrupt().success());
}

#[test]
fn a_node_that_was_revoked_takes_no_workload_and_says_so() {
    let home = Home::new();
    let server = home.start(&["server", "--listen-api", "127.0.0.1:0", "--listen-nodes", "127.0.0.1:0"]);
    let line = server.wait_for_line("the server", PATIENCE, |line| line.contains("nodes at"));
    let address = line.split("nodes at ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let token = home.tulle(&["token", "create"]).ok().trim().to_owned();
    let host = Home::new();
    let first = node(&host, &address, &["--token", &token]);
    let run = |name: &str| host.tulle(&["run", name, "--", "true"]);
    run("before").ok();
    home.tulle(&["delete", "node", "host", "--revoke"]).ok();

    let error = "this node is not in the mesh";
    let says = |process: &Process| process.stderr().matches(error).count();
    eventually("the node says so", PATIENCE, || (says(&first) > 0).then_some(()));
    let refused = run("after");
    assert!(
        !refused.status.success() && refused.stderr.contains("join again with a new token"),
        "{refused:#?}"
    );
    // The server's last word stands while it is away.
    assert!(server.interrupt().success());
    let refused = run("later");
    assert!(
        !refused.status.success() && refused.stderr.contains("join again with a new token"),
        "{refused:#?}"
    );
    assert_eq!(says(&first), 1);
    assert!(first.interrupt().success());
}

#[test]
fn an_address_that_changes_is_advertised_anew() {
    require_root!();
    let _alone = alone();
    let hosts = Hosts::new();
    let [first, second] = hosts.addresses;
    let (one, two) = (Home::in_netns(&hosts.names[0]), Home::in_netns(&hosts.names[1]));
    let address = format!("{first}:15010");
    let server =
        one.start(&["server", "--listen-nodes", &address, "--listen-api", &format!("{first}:15014")]);
    server.wait_for_line("the server", PATIENCE, |line| line.starts_with("kubeconfig:"));
    let token = one.tulle(&["token", "create"]).ok().trim().to_owned();
    let node = two.start(&[
        "node",
        "--name",
        "host",
        "--server",
        &address,
        "--capture",
        "explicit",
        "--token",
        &token,
    ]);
    let advertised = |address: &str| {
        eventually(address, PATIENCE, || one.tulle(&["status"]).stdout.contains(address).then_some(()));
    };
    advertised(&format!("{second}:15008"));
    let ip = |line: &str| run(Command::new("ip").args(["-n", &hosts.names[1]]).args(line.split(' '))).ok();
    ip(&format!("addr del {second}/24 dev wire"));
    ip("addr add 10.99.0.77/24 dev wire");
    let start = Instant::now();
    advertised("10.99.0.77:15008");
    figure("address changed", "advertised anew after", format!("{:.1} s", start.elapsed().as_secs_f64()));
    assert!(node.interrupt().success());
    assert!(server.interrupt().success());
}
