//! The server is killed in the middle of a thousand applies; what it acknowledged is there.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use tulle_tests::harness::{Home, alone, eventually, require_root, run};

fn service(i: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{i}, namespace: default}}\nspec: {{ports: [{{port: 80}}]}}\n"
    )
}

#[test]
fn acknowledged_applies_survive_kill_9() {
    let _alone = alone();
    let home = Home::new();
    let start = || {
        let server =
            home.start(&["server", "--listen-api", "127.0.0.1:19444", "--listen-nodes", "127.0.0.1:19445"]);
        eventually("an answer of the API", Duration::from_secs(15), || {
            home.tulle(&["get", "namespaces"]).status.success().then_some(())
        });
        server
    };
    let server = start();

    let files = home.path().join("many");
    std::fs::create_dir(&files).unwrap();
    for i in 0..1000 {
        std::fs::write(files.join(format!("{i:04}.yaml")), service(i)).unwrap();
    }
    let apply = home.start(&["apply", "-f", &files.display().to_string()]);
    apply.wait_for_line("the 300th apply", Duration::from_secs(30), |line| line.contains("s300 "));
    server.signal(Signal::SIGKILL);
    server.wait(Duration::from_secs(5));
    let status = apply.wait(Duration::from_secs(60));
    assert!(!status.success(), "the server was gone before the last apply");
    let acknowledged: Vec<String> = apply
        .stdout()
        .lines()
        .filter_map(|line| line.strip_prefix("service/")?.split_once(' ').map(|(name, _)| name.to_owned()))
        .collect();
    assert!(acknowledged.len() >= 300 && acknowledged.len() < 1000, "{}", acknowledged.len());
    println!("{} applies were acknowledged", acknowledged.len());

    let server = start();
    let there = home.tulle(&["get", "services", "-o", "name"]).ok();
    let there: std::collections::HashSet<&str> =
        there.lines().filter_map(|l| l.strip_prefix("service/")).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(server.interrupt().success());
}

#[test]
fn a_full_disk_loses_nothing_and_is_got_over() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let mount = |options: &str| {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tulle-test"]).arg(home.path())).ok()
    };
    mount("size=3m");
    let start = || {
        let server =
            home.start(&["server", "--listen-api", "127.0.0.1:19444", "--listen-nodes", "127.0.0.1:19445"]);
        eventually("an answer of the API", Duration::from_secs(15), || {
            home.tulle(&["get", "namespaces"]).status.success().then_some(())
        });
        server
    };
    let server = start();
    let files = tempfile::tempdir().unwrap();
    let apply = |i: u32| {
        let large =
            format!("{{name: s{i}, namespace: default, annotations: {{a: {}}}}}", "x".repeat(100_000));
        let text = service(i).replace(&format!("{{name: s{i}, namespace: default}}"), &large);
        let file = files.path().join("s.yaml");
        std::fs::write(&file, text).unwrap();
        home.tulle(&["apply", "-f", &file.display().to_string()])
    };
    let mut acknowledged = 0;
    let refused = loop {
        let applied = apply(acknowledged);
        if !applied.status.success() {
            break applied.stderr;
        }
        acknowledged += 1;
        assert!(acknowledged < 100, "the disk should be full");
    };
    assert!(refused.contains("disk is full"), "{refused}");
    let count = || home.tulle(&["get", "services", "-o", "name"]).ok().lines().count() as u32;
    assert_eq!(count(), acknowledged, "what is there can be read");

    mount("remount,size=30m");
    eventually("writes again", Duration::from_secs(10), || {
        apply(acknowledged).status.success().then_some(())
    });
    assert_eq!(count(), acknowledged + 1);
    server.signal(Signal::SIGKILL);
    server.wait(Duration::from_secs(5));
    let server = start();
    assert_eq!(count(), acknowledged + 1);
    assert!(server.interrupt().success());
    run(Command::new("umount").arg(home.path())).ok();
}
