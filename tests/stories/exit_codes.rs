//! What every command ends with where a mesh runs. Where none does: the crate's own tests of its command line.

use std::time::Duration;

use tulle_tests::harness::{Home, alone, eventually, tulle};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: default}\nspec: {ports: [{port: PORT}]}\n";

#[test]
fn exit_codes_are_as_documented() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    home.write(
        "mesh/tulle.yaml",
        &format!("services:\n  web: {{command: [\"{binary}\", fake-service], port: 9457}}\n"),
    );
    let folder = home.path().join("mesh").display().to_string();
    let up = home.start(&["up", &folder, "--capture", "explicit", "--workers", "1"]);
    up.wait_for_line("readiness", Duration::from_secs(30), |line| line.contains("all services are ready"));

    let is_known = || home.tulle(&["get", "nodes", "local"]).status.success().then_some(());
    eventually("the node's object", Duration::from_secs(30), is_known);
    let service = |name: &str, port: &str| SERVICE.replace("NAME", name).replace("PORT", port);
    home.write("good.yaml", &service("good", "80"));
    home.write("changed.yaml", &service("good", "81"));
    home.write("theirs.yaml", &service("web", "9457").replace("spec: {", "spec: {selector: {app: other}, "));
    home.write("invalid.yaml", &service("good", "0"));
    home.write("elsewhere.yaml", &service("good", "80").replace("default", "nowhere"));
    let other = Home::new();
    let other_path = other.path().display().to_string();
    let checks: &[(&str, i32)] = &[
        ("validate good.yaml", 0),
        ("validate mesh", 0),
        ("validate invalid.yaml", 2),
        ("diff -f good.yaml", 1),
        ("apply -f good.yaml --dry-run", 0),
        ("apply -f good.yaml", 0),
        ("apply -f good.yaml", 0),
        ("apply -f invalid.yaml", 2),
        ("apply -f elsewhere.yaml", 2),
        ("apply -f theirs.yaml", 5),
        ("diff -f good.yaml", 0),
        ("diff -f changed.yaml", 1),
        ("diff -f invalid.yaml", 2),
        ("diff -f theirs.yaml", 1),
        ("get services", 0),
        ("get services -A -o json", 0),
        ("get svc/web svc/good", 0),
        ("get svc web nowhere", 4),
        ("get httproutes", 0),
        ("get httproutes -n nowhere", 4),
        ("get httproutes -n nowhere -o json", 4),
        ("get svc web -n nowhere", 4),
        ("get pods", 2),
        ("describe svc web", 0),
        ("describe svc nowhere", 4),
        ("describe svc -n nowhere", 4),
        ("status", 0),
        ("status -o wide", 0),
        ("status -n default", 0),
        ("status -n nowhere", 4),
        ("edges", 0),
        ("edges -n default", 0),
        ("edges -n nowhere", 4),
        ("token create", 0),
        ("token create --identity default/web --ttl 1m", 0),
        ("token create --ttl 0s", 2),
        ("token list", 0),
        ("token revoke nowhere", 2),
        ("run x -- true", 0),
        ("run x -- false", 1),
        ("run x --stop-timeout 1s -- timeout 0.1 sleep 5", 124),
        ("run x --stop-timeout 1s -- timeout -s KILL 0.1 sleep 5", 137),
        ("run x -- ./nowhere", 127),
        ("run x -- nowhere-in-path", 127),
        ("run x -- ./good.yaml", 126),
        ("run web -- true", 5),
        ("run UPPER -- true", 2),
        ("run x --label a/b/c=d -- true", 2),
        ("run x --label app= -- true", 0),
        ("run x --port web:80 --port web:81 -- true", 2),
        ("run x --port 80 --port 80 -- true", 2),
        ("run x --service-account UPPER -- true", 2),
        ("delete svc good", 0),
        ("delete svc good", 4),
        ("delete svc good --ignore-not-found", 0),
        ("delete -f good.yaml", 4),
        ("delete node nowhere", 4),
        ("node reset", 5),
        ("delete node local", 5),
        ("get nodes local", 0),
        ("get nodes nowhere", 4),
        ("describe nodes nowhere", 4),
        ("describe httproutes", 0),
        ("diff -f elsewhere.yaml", 4),
        ("token revoke 0123456789abcdef", 4),
        ("node drain --undo", 0),
        ("node drain nowhere", 4),
        ("node drain nowhere --undo", 4),
        ("node drain UPPER", 2),
        ("node revoke nowhere", 4),
        ("node revoke UPPER", 2),
        ("node revoke local --kubeconfig nowhere", 3),
        ("node drain local --kubeconfig nowhere", 3),
        ("node drain local", 0),
        ("node drain local --undo", 0),
        ("ps", 0),
        ("ps nowhere", 4),
        ("restart nowhere", 4),
        ("scale web", 2),
        ("ps --home nowhere", 3),
        ("down --home nowhere", 3),
        ("completions zsh", 0),
    ];
    let mut wrong = Vec::new();
    for (line, code) in checks {
        let outcome = home.tulle(&line.split(' ').collect::<Vec<_>>());
        if outcome.code() != *code {
            wrong.push(format!("{line}: {} instead of {code}\n{}", outcome.code(), outcome.stderr));
        }
        if *code > 0 && *code != 1 && outcome.stderr.trim().is_empty() && !line.starts_with("run x --stop") {
            wrong.push(format!("{line}: says nothing"));
        }
    }
    // Who has the home, or the ports. The same file again is no second mesh.
    home.write("other/tulle.yaml", "services: {other: {command: [sleep, '9']}}\n");
    let other = home.path().join("other").display().to_string();
    let nodes = ["--listen-nodes", "127.0.0.1:0"];
    for (what, outcome) in [
        ("up", home.tulle(&["up", &other])),
        ("up on its ports", home.tulle(&["up", &folder, "--home", &other_path])),
        ("server", home.tulle(&["server", "--listen-api", "127.0.0.1:0", nodes[0], nodes[1]])),
        (
            "server on its port",
            home.tulle(&[
                "server",
                "--home",
                &other_path,
                "--listen-api",
                "127.0.0.1:9457",
                nodes[0],
                nodes[1],
            ]),
        ),
        ("node", home.tulle(&["node", "--server", "127.0.0.1:1", "--token", "x"])),
    ] {
        if outcome.code() != 5 {
            wrong.push(format!("{what}: {} instead of 5\n{}", outcome.code(), outcome.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(up.interrupt().success());
}
