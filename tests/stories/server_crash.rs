//! The server is killed in the middle of a thousand applies; what it acknowledged is there.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Home, alone, eventually};

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
            home.start(&["server", "--api-listen", "127.0.0.1:19444", "--node-listen", "127.0.0.1:19445"]);
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
