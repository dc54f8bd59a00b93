//! The Debian package in a machine that systemd boots: server, node and `up` as its units, and what becomes of them and of their
//! state when the package is upgraded, removed and purged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tulle_tests::booted::{Booted, SYSTEMD};
use tulle_tests::harness::{eventually, may_run, require_root, run, tulle};

const PATIENCE: Duration = Duration::from_secs(20);

/// A workload that has a unit of its own, as deploy/README.md has it.
const CART: &str = "[Unit]
Wants=tulle-node.service
After=tulle-node.service
[Service]
ExecStart=/usr/bin/tulle run cart --port 9000 --probe http:/ -- /usr/bin/tulle fake-service --name cart --listen 127.0.0.1:9000
KillMode=mixed
TimeoutStopSec=1min
";

const CART_SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: cart, namespace: default}
spec: {selector: {app: cart}, ports: [{port: 9000}]}
";

/// Makes a package of a binary.
fn package(binary: &Path, revision: u32, into: &Path) -> PathBuf {
    let xtask = tulle().with_file_name("xtask");
    assert!(xtask.is_file(), "{} is not there: run `cargo build --workspace`", xtask.display());
    let mut command = Command::new(xtask);
    command.args(["package", "--uncompressed", "--revision"]).arg(revision.to_string());
    let said = run(command.arg("--binary").arg(binary).arg("--into").arg(into)).ok();
    PathBuf::from(said.lines().last().unwrap())
}

/// As the machine sees a package.
fn there(package: &Path) -> String {
    format!("/mnt/packages/{}", package.file_name().unwrap().display())
}

/// What `cart` answers to a process of the mesh.
fn call(machine: &Booted) -> String {
    machine.sh("tulle run me --quiet -- curl -s --max-time 5 http://cart:9000/").stdout
}

fn until_it_answers(machine: &Booted) {
    eventually("an answer of cart", PATIENCE, || call(machine).contains("hello from cart").then_some(()));
}

#[test]
fn a_host_runs_by_its_package() {
    require_root!();
    if !may_run("systemd", Path::new(SYSTEMD).is_file()) {
        return;
    }
    let folder = tempfile::Builder::new().prefix("tulle-packages-").tempdir().unwrap();
    let first = package(&tulle(), 1, folder.path());
    // What was stripped once is so.
    let extracted = folder.path().join("extracted");
    run(Command::new("dpkg-deb").arg("-x").arg(&first).arg(&extracted)).ok();
    let second = package(&extracted.join("usr/bin/tulle"), 2, folder.path());
    fs::remove_dir_all(&extracted).unwrap();

    let machine = Booted::start(folder.path());
    installed(&machine, &first);
    the_server_runs_by_itself(&machine);
    a_node_needs_its_token_once(&machine);
    a_mesh_runs_by_its_folder(&machine);
    upgraded(&machine, &second);
    removed_and_purged(&machine);
}

fn installed(machine: &Booted, package: &Path) {
    machine.ok(&format!("dpkg -i {}", there(package)));
    // Files, sums and modes are as the package says, and systemd knows all that the units say.
    assert_eq!(machine.ok("dpkg --verify tulle"), "");
    let units = "tulle-server.service tulle-node.service tulle-up@shop.service";
    let verified = machine.sh(&format!("systemd-analyze verify {units}"));
    assert_eq!((verified.code(), verified.stderr.as_str()), (0, ""));
    for unit in units.split(' ') {
        assert_eq!(machine.state(unit), "inactive");
        assert_eq!(machine.sh(&format!("systemctl is-enabled {unit}")).stdout, "disabled");
    }
    // bash finds what it is to offer.
    let offered = machine.ok(
        "bash -c '. /usr/share/bash-completion/completions/tulle; COMP_WORDS=(tulle rest); COMP_CWORD=1; COMP_TYPE=9; \
         $(complete -p tulle | grep -o \"_clap_[a-z_]*\") tulle rest x; echo ${COMPREPLY[@]}'",
    );
    assert_eq!(offered, "restart");
}

fn the_server_runs_by_itself(machine: &Booted) {
    // It is ready when this returns: nothing waits.
    machine.ok("systemctl start tulle-server");
    assert!(machine.ok("tulle status").contains("No node has joined"));
    let pid = machine.main_pid("tulle-server");
    assert_eq!(machine.ok(&format!("ps -o user= -p {pid}")), "tulle");
    let status = machine.ok("systemctl show -P StatusText tulle-server");
    assert!(status.contains("API at 0.0.0.0:15014"), "{status}");
    machine.ok(&format!("kill -KILL {pid}"));
    eventually("another server", PATIENCE, || {
        (machine.state("tulle-server") == "active" && machine.main_pid("tulle-server") != pid).then_some(())
    });
    assert!(machine.ok("tulle status").contains("No node has joined"));
}

fn a_node_needs_its_token_once(machine: &Booted) {
    // Not set up: it fails at once, and is not tried again.
    assert_ne!(machine.sh("systemctl start tulle-node").code(), 0);
    assert_eq!(machine.state("tulle-node"), "failed");
    machine.ok(
        "set -e; umask 077; tulle token create --identity default/cart --identity default/me > /etc/tulle/token
         sed -i 's/^TULLE_SERVER=.*/TULLE_SERVER=127.0.0.1:15010/; s/^TULLE_NODE_OPTIONS=.*/TULLE_NODE_OPTIONS=\"--name host-1\"/' \
         /etc/default/tulle-node
         systemctl start tulle-node",
    );
    let status = machine.ok("systemctl show -P StatusText tulle-node");
    assert!(status.ends_with("host capture"), "{status}\n{}", machine.journal());

    machine.ok(&format!("cat > /etc/systemd/system/cart.service <<'UNIT'\n{CART}UNIT"));
    machine.ok(&format!("tulle apply -f - <<'OBJECT'\n{CART_SERVICE}OBJECT"));
    machine.ok("systemctl daemon-reload && systemctl start cart");
    until_it_answers(machine);
    let process = cart(machine);

    machine.ok("rm /etc/tulle/token && systemctl restart tulle-node");
    assert_eq!(cart(machine), process);
    until_it_answers(machine);
}

/// The process of the workload.
fn cart(machine: &Booted) -> String {
    machine.ok("pgrep -f '^/usr/bin/tulle fake-service --name cart'")
}

fn a_mesh_runs_by_its_folder(machine: &Booted) {
    machine.ok(
        "set -e; mkdir -p /etc/tulle/shop; echo TULLE_HOME=/var/lib/tulle-shop > /etc/default/tulle-up-shop
         printf 'services:\\n  web: {command: tulle fake-service, port: 9100/http}\\n' > /etc/tulle/shop/tulle.yaml
         systemctl start tulle-up@shop",
    );
    // What is said of a process that is ready.
    let ready = |name: &str| {
        let listed = machine.ok("TULLE_HOME=/var/lib/tulle-shop tulle ps");
        let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        listed.lines().map(columns).find(|line| line.len() > 2 && line[0] == name && line[1] == "ready")
    };
    let web = eventually("web", PATIENCE, || ready("web"));
    // Its services do not speak for it.
    let pid = &web[web.len() - 2];
    let environment = machine.ok(&format!("tr '\\0' '\\n' < /proc/{pid}/environ"));
    assert!(environment.contains("\nPORT=9100\n") && !environment.contains("NOTIFY_SOCKET"), "{environment}");

    machine.ok("echo '  api: {command: tulle fake-service, port: 9101/http}' >> /etc/tulle/shop/tulle.yaml");
    machine.ok("systemctl reload tulle-up@shop");
    eventually("api", PATIENCE, || ready("api"));
    machine.ok("sed -i 's/9101/nine/' /etc/tulle/shop/tulle.yaml");
    assert_ne!(machine.sh("systemctl reload tulle-up@shop").code(), 0);
    assert_eq!(machine.state("tulle-up@shop"), "active");
    machine.ok("sed -i 's/nine/9101/' /etc/tulle/shop/tulle.yaml");

    machine.ok("mkdir /etc/tulle/wrong && echo 'services: {web: {}}' > /etc/tulle/wrong/tulle.yaml");
    assert_ne!(machine.sh("systemctl start tulle-up@wrong").code(), 0);
    assert_eq!(machine.state("tulle-up@wrong"), "failed");
}

fn upgraded(machine: &Booted, package: &Path) {
    let pids = || ["tulle-server", "tulle-node", "tulle-up@shop", "cart"].map(|unit| machine.main_pid(unit));
    let (before, process) = (pids(), cart(machine));
    let said = machine.ok(&format!("dpkg -i {}", there(package)));
    assert!(said.contains("until they are restarted: tulle-up@shop.service"), "{said}");
    let after = pids();
    // Servers and nodes are started anew, which costs nobody his processes; those of a mesh end with it, so it is left alone.
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    assert_eq!((&before[2..], process), (&after[2..], cart(machine)));
    until_it_answers(machine);
}

fn removed_and_purged(machine: &Booted) {
    machine.ok("systemctl enable --quiet tulle-node tulle-up@shop");
    machine.ok("dpkg -r tulle");
    for unit in ["tulle-server", "tulle-node", "tulle-up@shop"] {
        assert_eq!(machine.state(unit), "inactive", "{unit}");
    }
    // Neither processes that are cut off, nor rules or cgroups.
    eventually("the end of all processes", PATIENCE, || {
        machine.sh("pgrep -a tulle").stdout.is_empty().then_some(())
    });
    assert_eq!(machine.ok("nft list tables"), "");
    assert_eq!(machine.sh("ls -A /sys/fs/cgroup/tulle").stdout, "");
    // What cannot be had again is there.
    machine.ok("test -s /var/lib/tulle-server/server/ca/root.crt -o -d /var/lib/tulle-server/server/ca");
    machine.ok("test -f /var/lib/tulle/node/node.json -a -f /etc/default/tulle-node");

    machine.ok("dpkg -P tulle");
    let left = machine.ok("cd / && find etc var/lib usr -xdev -name '*tulle*' -newer /etc/machine-id ! -name 'tulle-test*'  ! -path '*/tulle-shop/*' ! -path 'etc/netns/*' | sort");
    // What the administrator has made; network namespaces are those of other tests on the host, whose files are seen here.
    assert_eq!(
        left,
        "etc/default/tulle-up-shop\netc/tulle\netc/tulle/shop/tulle.yaml\netc/tulle/wrong/tulle.yaml\nvar/lib/tulle-shop"
    );
}
