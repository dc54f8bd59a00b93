//! What a server keeps is killed, lost, cut off and written full.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use tulle_tests::chaos::{figure, length};
use tulle_tests::harness::{Home, Process, alone, eventually, require_root, run};

const PATIENCE: Duration = Duration::from_secs(20);
const ANY_PORTS: [&str; 5] = ["server", "--listen-api", "127.0.0.1:0", "--listen-nodes", "127.0.0.1:0"];

/// Where the kubeconfig cannot be written, the ports have to be those from before.
const SAME_PORTS: [&str; 5] =
    ["server", "--listen-api", "127.0.0.1:19446", "--listen-nodes", "127.0.0.1:19447"];

fn server(home: &Home) -> Process {
    server_at(home, &ANY_PORTS)
}

fn server_at(home: &Home, arguments: &[&str]) -> Process {
    let server = home.start(arguments);
    server.wait_for_line("kubeconfig", PATIENCE, |line| line.starts_with("kubeconfig:"));
    server
}

fn kill(server: &Process) {
    server.signal(Signal::SIGKILL);
    server.wait(PATIENCE);
}

fn service(name: &str, bytes: usize) -> String {
    let filling = "x".repeat(bytes);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default, annotations: {{a: \"{filling}\"}}}}\n\
         spec: {{ports: [{{port: 80}}]}}\n"
    )
}

fn apply(home: &Home, folder: &Path, name: &str, bytes: usize) -> Result<(), String> {
    let file = folder.join(format!("{name}.yaml"));
    std::fs::write(&file, service(name, bytes)).unwrap();
    let outcome = home.tulle(&["apply", "-f", &file.display().to_string()]);
    outcome.status.success().then_some(()).ok_or(outcome.stderr)
}

fn services(home: &Home) -> Vec<String> {
    let text = home.tulle(&["get", "services", "-o", "name"]).ok();
    text.lines().filter_map(|line| line.strip_prefix("service/")).map(str::to_owned).collect()
}

#[test]
fn a_first_start_killed_at_any_moment_is_finished() {
    let whole = {
        let home = Home::new();
        let start = Instant::now();
        let server = server(&home);
        let whole = start.elapsed();
        assert!(server.interrupt().success());
        whole
    };
    let rounds = if tulle_tests::chaos::full() { 120 } else { 12 };
    let mut unfinished = 0;
    for round in 0..rounds {
        let home = Home::new();
        let starting = home.start(&ANY_PORTS);
        std::thread::sleep(whole * round / rounds);
        kill(&starting);
        unfinished += u32::from(home.path().join("server/first-start").exists());
        let first = server(&home);
        let root = std::fs::read(home.path().join("server/ca/root.pem")).unwrap();
        home.tulle(&["get", "namespaces"]).ok();
        kill(&first);
        // What has started once starts again, as the same mesh.
        let second = server(&home);
        assert_eq!(std::fs::read(home.path().join("server/ca/root.pem")).unwrap(), root);
        assert!(second.interrupt().success());
    }
    figure("first start", "killed before its end", format!("{unfinished} of {rounds}, all finished"));
}

#[test]
fn up_refuses_a_part_of_a_mesh_too() {
    let _alone = alone();
    let home = Home::new();
    let services = "services: {}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    assert!(home.up(services).interrupt().success());
    for (lost, left) in [("store.redb", "master.key"), ("master.key", "store.redb")] {
        let path = home.path().join("server").join(lost);
        let content = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let folder = home.path().join("mesh").display().to_string();
        let refused = home.tulle(&["up", &folder]);
        assert!(!refused.status.success(), "{refused:#?}");
        assert!(refused.stderr.contains(&format!("{lost} is missing")), "{refused:#?}");
        assert!(refused.stderr.contains(left) && refused.stderr.contains("backup"), "{refused:#?}");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    assert!(home.up(services).interrupt().success());
}

#[test]
fn parallel_writers_lose_nothing_acknowledged_to_kill_9() {
    let home = Home::new();
    let files = tempfile::tempdir().unwrap();
    let span = length(Duration::from_secs(6), Duration::from_secs(50));
    let end = Instant::now() + span;
    let (attempts, kills) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut acknowledged: Vec<String> = Vec::new();
    let mut running = server(&home);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (home, files, attempts) = (&home, files.path(), &attempts);
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    let mut next = 0;
                    while Instant::now() < end {
                        let name = format!("w{writer}-{next}");
                        attempts.fetch_add(1, Ordering::Relaxed);
                        if apply(home, files, &name, 100).is_ok() {
                            mine.push(name);
                            next += 1;
                        }
                    }
                    mine
                })
            })
            .collect();
        let mut pause = 150;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(pause));
            pause = (pause * 7 / 5).min(1500);
            kill(&running);
            kills.fetch_add(1, Ordering::Relaxed);
            running = server(&home);
        }
        for writer in writers {
            acknowledged.extend(writer.join().unwrap());
        }
    });
    let there = services(&home);
    let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(name)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(acknowledged.len() > 4, "{}", acknowledged.len());
    assert!(running.interrupt().success());
    let (attempts, kills) = (attempts.into_inner(), kills.into_inner());
    figure("kill -9 under 4 writers", "kills", kills);
    figure(
        "kill -9 under 4 writers",
        "acknowledged, all kept",
        format!("{} of {attempts}", acknowledged.len()),
    );
}

/// A disk of its own under a home.
struct Disk<'a>(&'a Home);

impl<'a> Disk<'a> {
    fn mount(home: &'a Home, options: &str) -> Self {
        let disk = Self(home);
        disk.set(options);
        disk
    }

    fn set(&self, options: &str) {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tulle-test"]).arg(self.0.path())).ok();
    }

    /// Takes all room that is left, as another program does.
    fn fill(&self) {
        self.fill_but(0);
    }

    /// The same, but for so many bytes.
    fn fill_but(&self, room: u64) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        for size in [1 << 16, 4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        if room > 0 {
            let taken = file.metadata().unwrap().len();
            file.set_len(taken.saturating_sub(room)).unwrap();
        }
    }

    fn drain(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// CPU time of a process so far, in clock ticks.
fn ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_full_disk_is_read_deleted_from_and_started_on() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let disk = Disk::mount(&home, "size=12m");
    let files = tempfile::tempdir().unwrap();
    let server = |home: &Home| server_at(home, &SAME_PORTS);
    let mut running = server(&home);
    let mut names = Vec::new();
    let refused = loop {
        let name = format!("s{}", names.len());
        match apply(&home, files.path(), &name, 150_000) {
            Ok(()) => names.push(name),
            Err(refused) => break refused,
        }
        assert!(names.len() < 200, "the disk should be full");
    };
    assert!(refused.contains("disk is full"), "{refused}");
    figure("full disk", "objects of 150 KB on 12 MB, then refused", names.len());
    for round in 0..2 {
        disk.fill();
        assert_eq!(services(&home).len(), names.len(), "round {round}: reading");
        // What its file gives back when it is made smaller, which is tried now and then, may be written.
        let refused = (0..5).find_map(|try_| {
            disk.fill();
            let name = format!("more-{round}-{try_}");
            let applied = apply(&home, files.path(), &name, 150_000);
            names.extend(applied.is_ok().then_some(name));
            applied.err()
        });
        let refused = refused.expect("it goes on writing to a full disk");
        assert!(refused.contains("disk is full"), "round {round}: {refused}");
        let status = home.tulle(&["status"]);
        assert!(
            status.status.success() && status.stdout.contains("disk is full"),
            "round {round}: {status:#?}"
        );
        // No loop of retries: what it costs to be full is little.
        let before = ticks(&running);
        std::thread::sleep(Duration::from_secs(1));
        let used = ticks(&running) - before;
        assert!(used < 50, "round {round}: {used} ticks in a second");
        for _ in 0..2 {
            let name = names.pop().unwrap();
            home.tulle(&["delete", "service", &name]).ok();
        }
        assert_eq!(services(&home).len(), names.len(), "round {round}: deleting");
        disk.fill();
        kill(&running);
        running = server(&home);
        assert_eq!(services(&home).len(), names.len(), "round {round}: after a start");
    }
    disk.drain();
    let start = Instant::now();
    eventually("writes", PATIENCE, || apply(&home, files.path(), "again", 100).is_ok().then_some(()));
    names.push("again".to_owned());
    figure(
        "full disk",
        "writes work again after room came",
        format!("{:.1} s", start.elapsed().as_secs_f64()),
    );
    let status = home.tulle(&["status"]);
    assert!(!status.stdout.contains("disk is full"), "{status:#?}");

    // The same disk, for reading only, after a crash.
    kill(&running);
    disk.set("remount,ro");
    running = server(&home);
    assert_eq!(services(&home).len(), names.len());
    let refused = apply(&home, files.path(), "never", 100).unwrap_err();
    assert!(refused.contains("only be read"), "{refused}");
    let status = home.tulle(&["status"]);
    assert!(status.status.success() && status.stdout.contains("only be read"), "{status:#?}");
    disk.set("remount,rw");
    eventually("writes", PATIENCE, || apply(&home, files.path(), "writable", 100).is_ok().then_some(()));
    assert!(running.interrupt().success());
}

/// Whether the mesh is whole: what every start makes sure of.
fn is_whole(home: &Home) -> bool {
    ["namespaces/default", "mesh/default"].iter().all(|object| home.tulle(&["get", object]).status.success())
}

/// Takes an object out of the store of a server that does not run: its API keeps what every mesh has.
fn lose(home: &Home, key: &str) {
    type Row = (u64, u64, &'static [u8]);
    let values = redb::TableDefinition::<&str, Row>::new("kv");
    let store = redb::Database::open(home.path().join("server/store.redb")).unwrap();
    let write = store.begin_write().unwrap();
    assert!(write.open_table(values).unwrap().remove(key).unwrap().is_some(), "there is no {key}");
    write.commit().unwrap();
}

#[test]
fn a_first_start_on_a_disk_with_too_little_room_is_finished_when_there_is_some() {
    require_root!();
    let _alone = alone();
    let files = tempfile::tempdir().unwrap();
    let mut served = 0;
    let rooms = [0, 4, 12, 24, 40, 64, 512, 1024, 1536, 1600, 2048, 4096];
    for room in rooms.map(|kib| kib << 10) {
        let home = Home::new();
        let disk = Disk::mount(&home, "size=12m");
        disk.fill_but(room);
        let first = home.start(&SAME_PORTS);
        let serves = eventually("serving, or an end", PATIENCE, || {
            let serves = first.stdout().contains("kubeconfig:");
            (serves || !first.is_running()).then_some(serves)
        });
        if serves {
            // What it could not make then, it makes without a start.
            served += 1;
            disk.drain();
            eventually("a whole mesh", PATIENCE, || is_whole(&home).then_some(()));
            kill(&first);
        } else {
            let (status, said) = (first.wait(PATIENCE), first.stderr());
            assert_eq!(status.code(), Some(1), "{room}: {said}");
            assert!(said.contains("disk is full") || said.contains("No space left"), "{room}: {said}");
            disk.drain();
        }
        let second = server_at(&home, &SAME_PORTS);
        assert!(is_whole(&home), "{room}");
        apply(&home, files.path(), "first", 100).unwrap();
        assert!(second.interrupt().success());
    }
    figure("first start on a full disk", "served at once", format!("{served} of {}", rooms.len()));
    assert!(served > 0 && served < rooms.len(), "{served}");
}

#[test]
fn a_store_that_lacks_what_every_mesh_has_is_served_on_a_full_disk() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let disk = Disk::mount(&home, "size=12m");
    let first = server_at(&home, &SAME_PORTS);
    let domain = home.path().join("server/ca/trust-domain");
    kill(&first);
    lose(&home, "/registry/tulle.dev/meshes/default");
    std::fs::remove_file(&domain).unwrap();
    disk.fill();
    let second = server_at(&home, &SAME_PORTS);
    assert!(!is_whole(&home), "the disk is full");
    home.tulle(&["get", "services", "-A"]).ok();
    disk.drain();
    eventually("a whole mesh", PATIENCE, || is_whole(&home).then_some(()));
    kill(&second);
    let third = server_at(&home, &SAME_PORTS);
    assert!(is_whole(&home) && domain.exists());
    assert!(third.interrupt().success());
}

#[test]
fn a_node_on_a_full_disk_goes_on() {
    require_root!();
    let home = Home::new();
    let server = home.start(&ANY_PORTS);
    let line = server.wait_for_line("the server", PATIENCE, |line| line.contains("nodes at"));
    let address = line.split("nodes at ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let token = home.tulle(&["token", "create"]).ok().trim().to_owned();
    let host = Home::new();
    let disk = Disk::mount(&host, "size=4m");
    // It joins with no room for its certificate.
    std::fs::create_dir_all(host.path().join("node/identities")).unwrap();
    disk.fill();
    let mut arguments = vec!["node", "--name", "full", "--server", &address, "--token", &token];
    arguments.extend([
        "--capture",
        "explicit",
        "--listen-links",
        "127.0.0.1:0",
        "--listen-admin",
        "127.0.0.1:0",
    ]);
    let node = host.start(&arguments);
    node.wait_for_line("the node", PATIENCE, |line| line.contains("runs, links at"));
    let binary = tulle_tests::harness::tulle().display().to_string();
    let app =
        host.start(&["run", "cart", "--port", "19091", "--", &binary, "fake-service", "--name", "cart"]);
    eventually("the workload", PATIENCE, || {
        home.tulle(&["get", "workloads"]).stdout.contains("True").then_some(())
    });
    assert!(node.stderr().contains("not kept over a restart for now"), "{}", node.stderr());
    disk.drain();
    let start = Instant::now();
    let kept = ["node/node.json", "node/identities/default.cart.json"].map(|file| host.path().join(file));
    eventually("its files", Duration::from_secs(60), || kept.iter().all(|file| file.exists()).then_some(()));
    figure(
        "full disk of a node",
        "its files are written after room came",
        format!("{:.1} s", start.elapsed().as_secs_f64()),
    );
    drop(app);
    assert!(node.interrupt().success());
    // What it kept is enough to start with the server gone.
    kill(&server);
    let node = host.start(&arguments);
    eventually("the node again", PATIENCE, || host.path().join("node.sock").exists().then_some(()));
    drop(node);
}

#[test]
fn a_node_that_dies_while_the_disk_is_full_is_told_of_once() {
    require_root!();
    let home = Home::new();
    let disk = Disk::mount(&home, "size=8m");
    let mut arguments = ANY_PORTS.to_vec();
    arguments.extend(["--lease", "1s"]);
    let server = home.start(&arguments);
    let line = server.wait_for_line("the server", PATIENCE, |line| line.contains("nodes at"));
    let address = line.split("nodes at ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let token = home.tulle(&["token", "create"]).ok().trim().to_owned();
    let host = Home::new();
    let mut arguments = vec!["node", "--name", "host", "--server", &address, "--token", &token];
    arguments.extend([
        "--capture",
        "explicit",
        "--listen-links",
        "127.0.0.1:0",
        "--listen-admin",
        "127.0.0.1:0",
    ]);
    let node = host.start(&arguments);
    node.wait_for_line("the node", PATIENCE, |line| line.contains("runs, links at"));
    let app = host.start(&["run", "cart", "--port", "19092", "--", "sleep", "60"]);
    let stale = || home.tulle(&["get", "workloads", "-o", "json"]).stdout.contains("NodeSilent");
    eventually("the workload", PATIENCE, || {
        home.tulle(&["get", "workloads", "-o", "name"]).stdout.contains("/cart").then_some(())
    });
    let files = tempfile::tempdir().unwrap();
    disk.fill();
    for bytes in [20_000, 100] {
        let refused = (0..500).any(|i| apply(&home, files.path(), &format!("s{bytes}-{i}"), bytes).is_err());
        assert!(refused, "the disk should be full");
    }
    node.signal(Signal::SIGKILL);
    let said = |what: &str| format!("{}{}", server.stdout(), server.stderr()).matches(what).count();
    eventually("the first attempt", PATIENCE, || (said("cannot mark all workloads") > 0).then_some(()));
    std::thread::sleep(Duration::from_secs(6));
    assert!(!stale(), "the disk is not full");
    assert_eq!((said("nothing was heard of the node"), said("cannot mark all workloads")), (1, 1));
    disk.drain();
    let start = Instant::now();
    eventually("the mark", Duration::from_secs(60), || stale().then_some(()));
    figure(
        "full disk, dead node",
        "stale after room came",
        format!("{:.1} s", start.elapsed().as_secs_f64()),
    );
    drop(app);
    assert!(server.interrupt().success());
}
