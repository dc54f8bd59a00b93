//! Whom processes run as, where the node is root's.

use std::os::unix::fs::chown;
use std::time::Duration;

use tulle_tests::harness::{Home, alone, eventually, require_root, run, tulle};

const PATIENCE: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;

fn services(home: &Home) -> String {
    // What a process is, and whether it can read the node's keys.
    let node = home.path().join("node/node.json").display().to_string();
    let shown = format!(
        "echo $(id -u) $(id -g) $(id -G); cat '{node}' >/dev/null 2>&1 && echo keys || echo none; exec sleep 1000"
    );
    let command = serde_json::to_string(&["sh", "-c", &shown]).unwrap();
    format!(
        "services:\n  web:\n    command: {command}\n    probe: {{exec: [sh, -c, 'test $(id -u) = {NOBODY}']}}\n    port: 19671\n  \
         other:\n    command: {command}\n    user: {NOBODY}\n    group: 12\n  admin:\n    command: {command}\n    user: root\n"
    )
}

#[test]
fn services_run_as_the_owner_of_their_file_or_as_it_says() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let file = home.write("mesh/tulle.yaml", &services(&home));
    chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    let folder = home.path().join("mesh").display().to_string();
    let up = home.start(&["up", &folder]);
    let says = |name: &str, text: &str| {
        up.wait_for_line(&format!("{name}: {text}"), PATIENCE, |line| {
            line.starts_with(name) && line.ends_with(&format!("│ {text}"))
        });
    };
    says("web", &format!("{NOBODY} {NOBODY} {NOBODY}"));
    says("other", &format!("{NOBODY} 12 12"));
    says("admin", "0 0 0");
    says("admin", "keys");
    says("web", "none");
    says("other", "none");
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    assert!(!up.stdout().contains("which owns tulle.yaml"), "{}", up.stdout());
    assert!(!home.tulle(&["status"]).ok().contains("which owns tulle.yaml"));

    let id = ["--", "sh", "-c", "echo $(id -u) $(id -g) $(id -G) $USER"];
    let asked = |options: &[&str]| home.tulle(&[&["run", "asker"], options, &id].concat());
    assert_eq!(asked(&["--user", "65534", "--group", "12"]).ok().trim(), "65534 12 12 nobody");
    let wrong = asked(&["--user", "no-such-user"]);
    assert!(wrong.stderr.contains("this host has no user `no-such-user`"), "{}", wrong.stderr);
    assert!(up.interrupt().success());
}

#[test]
fn root_runs_what_is_roots_and_says_so() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    home.write(
        "mesh/tulle.yaml",
        "services:\n  web:\n    command: sleep 1000\n  api:\n    command: sleep 1000\n",
    );
    let folder = home.path().join("mesh").display().to_string();
    let up = home.start(&["up", &folder]);
    up.wait_for_line("warning", PATIENCE, |line| line.contains("run as root, which owns tulle.yaml"));
    eventually("a warning of status", PATIENCE, || {
        home.tulle(&["status"]).stdout.contains("run as root, which owns tulle.yaml").then_some(())
    });
    assert!(up.interrupt().success());
}

#[test]
fn others_than_root_start_processes_as_themselves() {
    require_root!();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("tulle.yaml"),
        "services:\n  web:\n    command: sleep 1\n    user: root\n",
    )
    .unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // The binary may stand where others cannot go.
    let binary = folder.path().join("tulle");
    std::fs::copy(tulle(), &binary).unwrap();
    let mut up = std::process::Command::new("setpriv");
    up.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&binary)
        .arg("up")
        .arg(folder.path());
    let outcome = run(up.env("TULLE_HOME", folder.path().join("home")).current_dir(folder.path()));
    assert_eq!(outcome.code(), 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("service web: only root can start"), "{}", outcome.stderr);
}
