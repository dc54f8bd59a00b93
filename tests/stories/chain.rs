//! Somebody clones the project, runs one command, and watches six services talk.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tulle_tests::harness::{Edge, Home, NOBODY, alone, eventually, project, require_root, run, tulle};

const EDGES: [(&str, &str); 5] = [("a", "c"), ("b", "c"), ("c", "d"), ("d", "e"), ("d", "f")];

fn all_there(edges: &[Edge]) -> bool {
    EDGES
        .iter()
        .all(|(from, to)| edges.iter().any(|e| e.source == *from && e.destination == *to && e.requests > 0))
}

/// Runs the example of that name as this home's user and returns the edges after `watch`.
fn watch_chain(home: &Home, mode: &str, watch: Duration) {
    let example = project().join("examples/chain").display().to_string();
    let up = home.start(&["up", &example]);
    let started = Instant::now();
    eventually("traffic on all edges", Duration::from_secs(5), || all_there(&home.edges()).then_some(()));
    println!("five edges after {:?}", started.elapsed());
    assert!(up.stdout().contains(mode), "it says which capture mode it uses:\n{}", up.stdout());

    // Traffic goes on meanwhile; what is watched is that nothing fails over time.
    std::thread::sleep(watch);
    let edges = home.edges();
    assert!(all_there(&edges), "{edges:#?}");
    for edge in &edges {
        assert_eq!(edge.success, 1.0, "{edge:?}");
        assert_eq!(edge.security, "same-node", "{edge:?}");
    }
    // The path of one request, as the output shows it.
    up.wait_for_line("path", Duration::from_secs(5), |line| line.contains("a → c → d → "));
    assert!(up.interrupt().success());
}

/// The processes of this machine whose environment names `home`.
fn processes_of(home: &Path) -> Vec<String> {
    let marker = format!("TULLE_HOME={}", home.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&marker) {
            let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            found.push(command.replace('\0', " "));
        }
    }
    found
}

/// The nft tables and cgroups of meshes on this host.
fn traces() -> Vec<String> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let tables = run(Command::new("nft").args(["list", "tables"])).ok();
    let mut found: Vec<String> = tables.lines().filter(|l| l.contains("tulle")).map(str::to_owned).collect();
    for mount in ["/sys/fs/cgroup/unified/tulle", "/sys/fs/cgroup/tulle"] {
        let scopes = std::fs::read_dir(mount).into_iter().flatten().flatten();
        found.extend(scopes.filter(|e| e.path().is_dir()).map(|e| e.path().display().to_string()));
    }
    found.sort();
    found
}

#[track_caller]
fn assert_nothing_left(home: &Home, before: &[String]) {
    assert_eq!(processes_of(home.path()), Vec::<String>::new());
    let new: Vec<_> = traces().into_iter().filter(|trace| !before.contains(trace)).collect();
    assert_eq!(new, Vec::<String>::new());
    // What the next `up` finds, and nothing else.
    let entries = |folder: &Path| std::fs::read_dir(folder).unwrap().flatten().collect::<Vec<_>>();
    let mut kept: Vec<_> =
        entries(home.path()).iter().map(|e| e.file_name().into_string().unwrap()).collect();
    // Where tests have the mesh itself.
    kept.retain(|name| name != "mesh");
    kept.sort();
    assert_eq!(kept, ["kubeconfig", "logs", "node", "server", "up.lock"]);
    let sockets = entries(&home.path().join("node")).into_iter().map(|e| e.path());
    let sockets: Vec<_> = sockets.filter(|p| p.metadata().unwrap().file_type().is_socket()).collect();
    assert_eq!(sockets, Vec::<PathBuf>::new());
}

#[test]
fn as_root_the_host_captures_the_traffic() {
    require_root!();
    let _alone = alone();
    let before = traces();
    let home = Home::new();
    watch_chain(&home, "host", Duration::from_secs(20));
    assert_nothing_left(&home, &before);

    // A second run finds the state of the first.
    watch_chain(&home, "host", Duration::from_secs(2));
    assert_nothing_left(&home, &before);
}

#[test]
fn an_ordinary_user_gets_explicit_capture() {
    let _alone = alone();
    let before = traces();
    let home = if nix::unistd::geteuid().is_root() { Home::of_user(NOBODY) } else { Home::new() };
    watch_chain(&home, "explicit", Duration::from_secs(10));
    assert_nothing_left(&home, &before);
}

#[test]
fn the_polyglot_services_need_no_change() {
    let _alone = alone();
    let before = traces();
    let users = if nix::unistd::geteuid().is_root() {
        vec![Home::new(), Home::of_user(NOBODY)]
    } else {
        vec![Home::new()]
    };
    for home in users {
        let example = project().join("examples/polyglot").display().to_string();
        let up = home.start(&["up", &example]);
        let edges = eventually("three edges with traffic", Duration::from_secs(20), || {
            let edges = home.edges();
            (edges.iter().filter(|e| e.requests > 2).count() >= 3).then_some(edges)
        });
        assert!(edges.iter().all(|e| e.success == 1.0), "{edges:#?}");
        assert!(up.interrupt().success());
        assert_nothing_left(&home, &before);
    }
}

#[test]
fn a_mesh_that_was_killed_leaves_no_process_and_the_next_one_cleans_up() {
    require_root!();
    let _alone = alone();
    let before = traces();
    let home = Home::new();
    let services = format!(
        "services:\n  c:\n    command: [\"{}\", fake-service, --name, c]\n    port: 9391\n",
        tulle().display()
    );
    let up = home.up(&services);
    up.signal(nix::sys::signal::Signal::SIGKILL);
    up.wait(Duration::from_secs(5));
    eventually("end of every process", Duration::from_secs(5), || {
        processes_of(home.path()).is_empty().then_some(())
    });
    let again = home.up(&services);
    assert!(again.interrupt().success());
    assert_nothing_left(&home, &before);
}
