//! What commands end with where nothing runs: wrong usage, nobody there, wrong files, and unusual surroundings. No
//! command may panic, whatever it is given.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::{code, stderr, stdout, tulle};

/// All commands, with arguments that are good where a mesh runs, and a file that is.
const GOOD: &[&str] = &[
    "get services",
    "get svc/c",
    "describe services",
    "apply -f s.yaml",
    "diff -f s.yaml",
    "delete svc c",
    "status",
    "edges",
    "auth check --from x --to c",
    "explain --from x http://c/",
    "explain --from x c",
    "explain --from x -X POST c/cart",
    "explain --from x https://c --server-name d",
    "explain --from x tcp://c:5432",
    "flow list",
    "flow show order",
    "flow run order",
    "flow run order -d {} --no-wait",
    "flow runs",
    "flow runs order --state faulted --since 1h",
    "flow history r",
    "flow suspend r",
    "flow resume r",
    "flow cancel r",
    "flow retry r --from pay",
    "split c",
    "split c c-v1=1",
    "split c --delete",
    "token create",
    "user create ann",
    "user list",
    "audit",
    "history svc/c",
    "rollback svc/c --to 1",
    "run x -- true",
    "node drain",
    "node drain --undo",
    "node drain n",
    "node drain n --undo",
    "node revoke n",
];

fn run(folder: &Path, line: &str) -> Output {
    tulle(folder, &line.split(' ').collect::<Vec<_>>())
}

/// It ends with one of these codes, says why on stderr, and has not panicked.
#[track_caller]
fn fails(output: &Output, codes: &[i32], what: &str) {
    let said = stderr(output);
    assert!(codes.contains(&code(output)), "{what}: code {}\n{said}", code(output));
    assert!(said.contains("error"), "{what}: says nothing: {said}");
    for bad in ["panicked", "RUST_BACKTRACE", "Error {", "Os {", "Custom {", "unwrap"] {
        assert!(!said.contains(bad), "{what}: {said}");
    }
}

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {ports: [{port: 80}]}\n";
    fs::write(folder.path().join("s.yaml"), service).unwrap();
    folder
}

#[test]
fn nobody_there_is_3() {
    let folder = folder();
    for line in GOOD {
        fails(&run(folder.path(), line), &[3], line);
        // A kubeconfig, and a socket, of what runs no more.
        if !line.starts_with("run") && *line != "node drain" && *line != "node drain --undo" {
            fails(&run(folder.path(), &format!("{line} --kubeconfig nowhere")), &[3], line);
        }
    }
    let home = folder.path().join("home");
    fs::create_dir_all(&home).unwrap();
    drop(std::os::unix::net::UnixListener::bind(home.join("node.sock")).unwrap());
    for line in ["run x -- true", "node drain"] {
        let output = run(folder.path(), line);
        fails(&output, &[3], line);
        assert!(stderr(&output).contains("nobody answers at"), "{}", stderr(&output));
    }
}

#[test]
fn a_host_with_a_node_alone_says_so() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("home/node")).unwrap();
    let output = run(folder.path(), "get services");
    fails(&output, &[3], "get");
    assert!(stderr(&output).contains("this host has a node, and not the server"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("no mesh runs here"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_is_2() {
    let folder = folder();
    for line in [
        "",
        "frobnicate",
        "up a b",
        "up --workers x",
        "up --memory-limit 1",
        "up --workers 0",
        "up --link-handshake-timeout 0s",
        "run UPPER -- true",
        "run x -n a_b -- true",
        "run x --label a/b/c=d -- true",
        "run x --port web:80 --port web:81 -- true",
        "run",
        "run x --user root",
        "run x --port 0 -- true",
        "run x --probe y -- true",
        "run x --upstream / -- true",
        "server --lease 0",
        "server --listen-api nowhere",
        "server --ca-key k",
        "server --trust-domain UPPER",
        "server --api-name a/b",
        "node --server nowhere",
        "node --server ::1:2",
        "node --server h:1 --token x",
        "node",
        "node --server",
        "node drain --stop --undo",
        "node drain A_B",
        "node drain --kubeconfig k",
        "node reset --stop-timeout 5",
        "get",
        "get pods",
        "get svc/",
        "get svc c -A",
        "get svc,httproutes -w",
        "get svc -o xml",
        "describe",
        "describe x/y/z",
        "apply",
        "apply -f",
        "diff",
        "delete",
        "delete svc",
        "delete node",
        "delete svc c --revoke",
        "validate --frobnicate",
        "status x",
        "status -A -n x",
        "logs --since yesterday",
        "logs --tail x",
        "logs -f --until 1m",
        "logs -o xml",
        "edges --interval x",
        "explain http://c/",
        "explain --from x ftp://c/",
        "explain --from x GET",
        "explain --from x get http://c/",
        "explain --from x CONNECT http://c/",
        "explain --from x http://c/ --server-name d",
        "explain --from x tcp://c:5432 -H x:1",
        "explain --from x GET http://c/ -H x",
        "split",
        "split c x",
        "split c x=-1",
        "split c x=1 --delete",
        "token",
        "token create --identity x",
        "token create --ttl 5",
        "user create",
        "user revoke x y",
        "node revoke",
        "node revoke UPPER",
        "audit --limit x",
        "history svc",
        "history svc/c svc/d",
        "rollback svc/c",
        "rollback pods/c --to 1",
        "fake-service --port 70000",
        "fake-service --error-rate 2",
        "completions",
        "completions csh",
    ] {
        let words: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let output = tulle(folder.path(), &words);
        assert_eq!(code(&output), 2, "`{line}`: {}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("error") || said.contains("Usage"), "`{line}`: {said}");
    }
}

#[test]
fn what_is_wrong_with_files_is_2() {
    let folder = folder();
    let write = |name: &str, text: &[u8]| fs::write(folder.path().join(name), text).unwrap();
    write("empty.yaml", b"");
    write("blank.yaml", b"\n# nothing\n---\n");
    write("nul.yaml", b"a: \0\n");
    write("nul-only.yaml", b"\0\0\0\0");
    write("binary.yaml", &[0xff, 0xfe, 0, 1]);
    write("list.yaml", b"- 1\n- 2\n");
    write("scalar.yaml", b"hello");
    write("tabs.yaml", b"a:\n\tb: 1\n");
    write("anchor.yaml", b"a: *nowhere\n");
    write("wide.yaml", format!("{}: 1\n", "x".repeat(100_000)).as_bytes());
    write("deep.yaml", "[".repeat(100_000).as_bytes());
    write(
        "long-name.yaml",
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {}}}\nspec: {{ports: [{{port: 80}}]}}\n",
            "n".repeat(5000)
        )
        .as_bytes(),
    );
    write("services.yaml", b"services: {a: {command: x}}\n");
    fs::create_dir(folder.path().join("nothing")).unwrap();
    fs::create_dir(folder.path().join("looped")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", folder.path().join("looped/loop.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("dangling.yaml")).unwrap();
    nix::unistd::mkfifo(&folder.path().join("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [
        "empty.yaml",
        "blank.yaml",
        "nul.yaml",
        "nul-only.yaml",
        "binary.yaml",
        "list.yaml",
        "scalar.yaml",
        "tabs.yaml",
        "anchor.yaml",
        "wide.yaml",
        "deep.yaml",
        "long-name.yaml",
        "services.yaml",
        "nothing",
        "looped",
        "dangling.yaml",
        "fifo.yaml",
        "nowhere.yaml",
        "/dev/null",
        "/proc/self/mem",
        "",
    ] {
        for command in ["validate", "apply", "diff", "delete"] {
            fails(&tulle(folder.path(), &[command, "-f", path]), &[2], &format!("{command} -f {path:?}"));
        }
        // That one is good, if not for them.
        if path != "services.yaml" {
            fails(&tulle(folder.path(), &["up", path]), &[2], &format!("up {path:?}"));
        }
    }
    let huge = "n".repeat(100_000);
    for path in [huge.as_str(), &format!("{huge}/x")] {
        fails(&tulle(folder.path(), &["validate", path]), &[2], "a huge name");
        fails(&tulle(folder.path(), &["up", path]), &[2], "up a huge name");
    }
    assert!(!folder.path().join("home").exists(), "nothing was changed");
}

#[test]
fn huge_and_odd_arguments_are_refused() {
    let folder = folder();
    let huge = "n".repeat(100_000);
    for words in [
        &["get", &huge][..],
        &["get", "svc", &huge],
        &["get", "svc", "../../x"],
        &["get", "svc", "a b"],
        &["get", "svc", "ä"],
        &["get", "svc", "-n", &huge],
        &["delete", "svc", &huge],
        &["delete", "node", &huge],
        &["run", &huge, "--", "true"],
        &["token", "create", "--node", &huge],
        &["node", "--server", &huge, "--name", &huge],
        &["node", "--server", "127.0.0.1:1", "--name", "A B"],
        &["up", "--home", &huge],
        &["server", "--home", &huge],
        &["server", "--trust-domain", "A B"],
        &["status", "--kubeconfig", &huge],
    ] {
        let output = tulle(folder.path(), words);
        let short: Vec<_> = words.iter().map(|word| &word[..word.len().min(20)]).collect();
        fails(&output, &[1, 2, 3], &format!("{short:?}"));
    }
    // Not UTF-8, as paths may be.
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    for command in ["validate", "up", "get", "apply"] {
        let mut words = vec![std::ffi::OsStr::new(command)];
        if command == "apply" {
            words.push(std::ffi::OsStr::new("-f"));
        }
        words.push(odd);
        let output = command_of(folder.path()).args(words).output().unwrap();
        fails(&output, &[2], command);
    }
}

fn command_of(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tulle"));
    command.current_dir(folder).env("TULLE_HOME", folder.join("home")).env_remove("RUST_LOG");
    command
}

#[test]
fn odd_kubeconfigs_are_refused() {
    let folder = folder();
    let good = "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'https://127.0.0.1:1', certificate-authority-data: ''}}]\n\
                contexts: [{name: a, context: {cluster: a, user: u}}]\ncurrent-context: a\nusers: [{name: u, user: {}}]\n";
    for (what, text) in [
        ("empty", String::new()),
        ("no YAML", "{".to_owned()),
        ("a list", "- a".to_owned()),
        ("another context", good.replace("current-context: a", "current-context: b")),
        ("no https", good.replace("https://", "http://")),
        ("no URL", good.replace("https://127.0.0.1:1", "::")),
        ("no host", good.replace("https://127.0.0.1:1", "https://")),
        ("no base64", good.replace("data: ''", "data: '!'")),
        ("no certificate", good.replace("data: ''", "data: QUFB")),
        ("an odd token", good.replace("user: {}", "user: {token: \"a\\nb\"}")),
    ] {
        fs::write(folder.path().join("kubeconfig"), text).unwrap();
        for line in ["get services", "status", "edges", "token create", "apply -f s.yaml"] {
            // An authority without a certificate trusts nobody; there is nobody either.
            fails(
                &run(folder.path(), &format!("{line} --kubeconfig kubeconfig")),
                &[2, 3],
                &format!("{line}: {what}"),
            );
        }
    }
    fs::write(folder.path().join("kubeconfig"), good).unwrap();
    fails(&run(folder.path(), "get services --kubeconfig kubeconfig"), &[3], "nobody listens");
    for path in [".", "/dev/null", "/proc/self/mem"] {
        fails(&run(folder.path(), &format!("get services --kubeconfig {path}")), &[2, 3], path);
    }
}

#[test]
fn a_home_that_cannot_be_used_is_named() {
    let folder = folder();
    fs::write(folder.path().join("tulle.yaml"), "services: {a: {command: sleep 5}}\n").unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    for line in ["up", "server", "node --server 127.0.0.1:1", "get services", "run x -- true", "node drain"] {
        for home in ["file", "file/below", "/proc/nowhere"] {
            let output = run(folder.path(), &format!("{line} --home {home}"));
            fails(&output, &[1, 2, 3], &format!("{line} --home {home}"));
        }
    }
    // Root may write everywhere; others have no home at all.
    for (name, remove) in [("HOME", true), ("HOME", false)] {
        let mut command = command_of(folder.path());
        command.env_remove("TULLE_HOME").env_remove("XDG_DATA_HOME").args(["get", "services"]);
        if remove {
            command.env_remove(name);
        } else {
            command.env(name, "");
        }
        if nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
            let binary = folder.path().join("tulle");
            copy_binary(&binary);
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
            let mut other = Command::new(&binary);
            other.args(["get", "services"]).env_clear().env("PATH", "/usr/bin:/bin").uid(65534).gid(65534);
            if !remove {
                other.env(name, "");
            }
            command = other;
        }
        let output = command.output().unwrap();
        fails(&output, &[2], "no HOME");
        assert!(stderr(&output).contains("neither TULLE_HOME nor HOME"), "{}", stderr(&output));
    }
}

/// By another process: a program that this one has open for writing, and so has whatever another test starts at that
/// moment, cannot be run (ETXTBSY).
fn copy_binary(to: &Path) {
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_tulle")).arg(to).status().unwrap().success());
}

#[test]
fn another_users_socket_and_kubeconfig_are_not_nobodys() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = folder();
    let home = folder.path().join("home");
    fs::create_dir_all(&home).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let _node = std::os::unix::net::UnixListener::bind(home.join("node.sock")).unwrap();
    fs::write(home.join("kubeconfig"), "").unwrap();
    fs::set_permissions(home.join("node.sock"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(home.join("kubeconfig"), fs::Permissions::from_mode(0o600)).unwrap();
    let binary = folder.path().join("tulle");
    copy_binary(&binary);
    // The home itself may be closed to others, or its files alone.
    for mode in [0o755, 0o700] {
        fs::set_permissions(&home, fs::Permissions::from_mode(mode)).unwrap();
        for line in ["run x -- true", "node drain", "get services", "status"] {
            let mut command = Command::new(&binary);
            command.args(line.split(' ')).env("TULLE_HOME", &home).uid(65534).gid(65534).current_dir("/");
            let output = command.output().unwrap();
            fails(&output, &[3], line);
            assert!(stderr(&output).contains("no permission"), "{line}, {mode:o}: {}", stderr(&output));
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let folder = folder();
    for words in [&["completions", "bash"][..], &["--help"], &["up", "--help"], &["validate", "s.yaml"]] {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let mut command = command_of(folder.path());
        let output = command.args(words).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let said = stderr(&output);
        assert!(
            code(&output) == 0 || output.status.code().is_none(),
            "{words:?}: {:?} {said}",
            output.status
        );
        assert!(!said.contains("panicked"), "{words:?}: {said}");
    }
    // A disk that is full is one.
    if let Ok(full) = fs::File::options().write(true).open("/dev/full") {
        let output = command_of(folder.path()).args(["validate", "s.yaml"]).stdout(full).output().unwrap();
        fails(&output, &[1], "a full disk");
    }
    let output = Command::new("sh")
        .args(["-c", "exec \"$0\" validate s.yaml >&- 2>&- <&-", env!("CARGO_BIN_EXE_tulle")])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "all is closed");
    let _ = stdout(&output);
}
