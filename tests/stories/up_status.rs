//! What `tulle up` and `tulle status` say of services that wait, fail and end, and that nothing of what services say is
//! lost; and that the commands that `up` suggests work when they are pasted.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tulle_tests::harness::{Home, Process, alone, client, eventually, python, run, tulle};

const PATIENCE: Duration = Duration::from_secs(30);

/// `tulle up` of a folder with this `tulle.yaml`, on its way.
fn start(home: &Home, services: &str) -> Process {
    home.write("mesh/tulle.yaml", services);
    let folder = home.path().join("mesh").display().to_string();
    home.start(&["up", &folder, "--capture", "explicit", "--workers", "1"])
}

/// Writes the probe's command `check` beside `tulle.yaml`.
fn write_check(home: &Home, script: &str) {
    let path = home.write("mesh/check", &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// What `tulle status` knows of a workload.
fn workload(home: &Home, name: &str) -> Option<Value> {
    let status: Value = serde_json::from_str(&home.tulle(&["status", "-o", "json"]).stdout).ok()?;
    let workloads = status["nodes"][0]["workloads"].as_array()?.clone();
    workloads.into_iter().find(|w| w["name"] == name)
}

#[track_caller]
fn until(home: &Home, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, PATIENCE, || workload(home, name).filter(|w| wanted(w)))
}

fn has(workload: &Value, text: &str) -> bool {
    workload["reason"].as_str().is_some_and(|reason| reason.contains(text))
}

#[test]
fn what_waits_says_why() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    write_check(&home, "[ -e good ] || { echo \"no disk at $1 $PORT $KEY\" >&2; exit 3; }");
    let up = start(
        &home,
        &format!(
            "namespace: shop\nservices:\n\
             \x20 db:\n\
             \x20   command: [\"{binary}\", fake-service, --name, db]\n\
             \x20   port: 9451/http\n\
             \x20   environment: {{KEY: \"k-${{PORT}}\"}}\n\
             \x20   probe: {{exec: ['./check', '${{PORT}}'], interval: 200ms, failures: 10}}\n\
             \x20 web: {{command: [\"{binary}\", fake-service, --name, web], port: 9452, dependsOn: [db]}}\n\
             \x20 job: {{command: [sh, -c, 'sleep 0.2; exit 7']}}\n\
             \x20 gone: {{command: [./nowhere]}}\n"
        ),
    );

    // The probe's error from its first failure on, with what its command says; who depends on it waits for that.
    let db = until(&home, "db", "the probe's error", |w| has(w, "`"));
    let folder = home.path().join("mesh").canonicalize().unwrap();
    assert!(
        has(
            &db,
            &format!(
                "it is starting: `{}/./check` ended with code 3: no disk at 9451 9451 k-9451",
                folder.display()
            )
        ) || has(&db, "no disk at 9451 9451 k-9451"),
        "{db}"
    );
    let web = until(&home, "web", "what waits", |w| has(w, "no disk"));
    assert!(has(&web, "waits for db (it is starting: "), "{web}");
    assert_eq!((&web["waiting"], &web["ready"]), (&Value::Bool(true), &Value::Bool(false)));
    up.wait_for_line("the reason", PATIENCE, |line| {
        line.starts_with("db ") && line.contains("no disk at 9451")
    });
    up.wait_for_line("who waits", PATIENCE, |line| line.starts_with("web ") && line.contains("waits for db"));

    // How a process ended, and how often it was started again.
    let job = until(&home, "job", "restarts", |w| w["restarts"].as_u64().unwrap_or(0) >= 3);
    assert_eq!(job["lastExit"]["exitCode"], 7, "{job}");
    assert!(job["lastExit"]["finishedAtMs"].as_u64().is_some_and(|at| at > 1_700_000_000_000), "{job}");
    let gone = until(&home, "gone", "why it does not start", |w| has(w, "no such file"));
    assert!(gone["lastExit"]["message"].as_str().unwrap().contains("no such file"), "{gone}");
    let table = home.tulle(&["status"]).ok();
    for words in ["RESTARTS", "LAST EXIT", "code 7, ", "waiting", "shop/web: waits for db"] {
        assert!(table.contains(words), "no `{words}` in\n{table}");
    }
    assert_eq!(home.tulle(&["status", "-n", "nowhere"]).code(), 4);

    // It can go on.
    home.write("mesh/good", "");
    until(&home, "web", "readiness", |w| w["ready"] == true);
    // And fails once more: ready for as long as the probe says, with what it says.
    std::fs::remove_file(home.path().join("mesh/good")).unwrap();
    let db = until(&home, "db", "a doubt", |w| w["ready"] == true && has(w, " of 10): "));
    assert!(has(&db, "no disk"), "{db}");
    until(&home, "db", "its end", |w| w["ready"] == false && has(w, "its probe fails: "));

    let ports = home.tulle(&["get", "service", "db", "-n", "shop", "-o", "json"]).ok();
    let service: Value = serde_json::from_str(&ports).unwrap();
    assert_eq!(service["spec"]["ports"][0]["appProtocol"], "http");
    assert!(up.interrupt().success());
}

#[test]
fn suggested_commands_work() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    let up = start(
        &home,
        &format!(
            "namespace: shop\nservices:\n  web: {{command: [\"{binary}\", fake-service, --name, web], port: 9453/http}}\n"
        ),
    );
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    let text = up.stdout();
    let mut lines = text.lines().skip_while(|line| !line.contains("look:"));
    let commands: Vec<_> = std::iter::from_fn(|| lines.next())
        .filter_map(|line| line.split_once('│'))
        .map(|(_, rest)| rest.trim_start_matches(" look:").trim_start_matches(" call:").trim())
        .filter(|rest| {
            rest.contains("tulle")
                && (rest.starts_with('/') || rest.starts_with("tulle") || rest.starts_with("kubectl"))
        })
        .map(str::to_owned)
        .collect();
    assert!(commands.len() >= 4, "{commands:#?}\n{text}");
    for command in &commands {
        let mut shell = Command::new("sh");
        // Another terminal knows nothing of this one.
        shell.args(["-c", command]).current_dir("/").env_remove("TULLE_HOME").env("NO_COLOR", "1");
        if command.starts_with("kubectl") && Command::new("kubectl").arg("--help").output().is_err() {
            continue;
        }
        let outcome = run(&mut shell);
        assert!(outcome.status.success(), "{command}: {outcome:#?}");
        assert!(outcome.stdout.contains("web") || command.contains("edges"), "{command}: {outcome:#?}");
    }
    // The namespace of the file is that of commands which name none, and others can be named.
    assert!(home.tulle(&["get", "services", "-o", "name"]).ok().contains("web"));
    assert_eq!(home.tulle(&["get", "service", "web", "-n", "default"]).code(), 4);
    home.write("c.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {ports: [{port: 80}]}\n");
    home.tulle(&["apply", "-f", "c.yaml"]).ok();
    home.tulle(&["get", "service", "c", "-n", "shop"]).ok();
    home.tulle(&["explain", "--from", "web", "http://c/"]).ok();
    home.tulle(&["delete", "service", "c"]).ok();
    let mark = ["--", "sh", "-c", "echo $TULLE_WORKLOAD"];
    assert!(home.tulle(&[&["run", "me"][..], &mark].concat()).ok().trim().ends_with("/shop/me"));
    let named = [&["run", "me", "-n", "default"][..], &mark].concat();
    assert!(home.tulle(&named).ok().trim().ends_with("/default/me"));
    assert!(up.interrupt().success());
}

/// What only the server knows is shown on the node's own host, too.
#[test]
fn a_drained_node_has_nothing_ready() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    let up = start(
        &home,
        &format!("services:\n  web: {{command: [\"{binary}\", fake-service], port: 9458/http}}\n"),
    );
    until(&home, "web", "readiness", |w| w["ready"] == true);
    let is_known = || home.tulle(&["get", "nodes", "local"]).status.success().then_some(());
    eventually("the node's object", PATIENCE, is_known);
    home.tulle(&["node", "drain", "local"]).ok();
    let web = until(&home, "web", "the drain", |w| w["ready"] == false);
    assert_eq!(web["reason"], "its node is drained");
    let table = home.tulle(&["status"]).ok();
    for words in ["0/1 ready", "not ready", "default/web: its node is drained"] {
        assert!(table.contains(words), "no `{words}` in\n{table}");
    }
    assert!(!table.contains("1/1 ready"), "{table}");
    home.tulle(&["node", "drain", "local", "--undo"]).ok();
    until(&home, "web", "its traffic", |w| w["ready"] == true && w["reason"] == "");
    assert!(up.interrupt().success());
}

/// What applications and annotations say is shown on a terminal, and does nothing to it.
#[test]
fn nobody_else_controls_the_terminal() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    write_check(&home, "printf 'no \\033[31mdisk\\033]0;title\\007\\033[2J\\302\\2332J' >&2; exit 3");
    home.write(
        "c.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: default, annotations: {note: \"a\\e]0;title\\a\\nStatus: forged\\e[2J\"}}\n\
         spec: {ports: [{port: 80}]}\n---\napiVersion: v1\nkind: Event\nmetadata: {name: e, namespace: default}\n\
         involvedObject: {kind: Service, name: c, namespace: default}\nreason: R\nmessage: \"m\\e]0;title\\a\\nforged\\e[2J\"\ntype: Normal\n",
    );
    home.write(
        "mesh/tulle.yaml",
        &format!(
            "services:\n  db: {{command: [\"{binary}\", fake-service], port: 9459, probe: {{exec: [./check], interval: 200ms}}}}\n"
        ),
    );
    let on_terminal = |words: &[&str]| {
        let mut terminal = home.command(python());
        terminal.env("TERMINAL_COLUMNS", "200").args([&client("terminal.py"), &binary]).args(words);
        terminal
    };
    let folder = home.path().join("mesh").display().to_string();
    let up = Process::spawn(&mut on_terminal(&["up", &folder, "--capture", "explicit", "--workers", "1"]));
    up.wait_for_line("the reason", PATIENCE, |line| line.contains("ended with code 3: no ^[[31mdisk"));
    let apply = home.tulle(&["apply", "-f", &home.path().join("c.yaml").display().to_string()]);
    assert!(apply.status.success(), "{apply:?}");
    for (line, shown) in [
        ("status", "no ^[[31mdisk^[]0;title^G^[[2J\\u{9b}2J"),
        ("status -o json", "no ^[[31mdisk"),
        ("describe svc c", "note=a^[]0;title^G\\nStatus: forged^[[2J"),
        ("describe svc c", "m^[]0;title^G\\nforged^[[2J"),
        ("get events", "m^[]0;title^G\\nforged^[[2J"),
        ("get events -o yaml", "forged"),
        ("get svc c -o json", "\\u001b]0;title"),
    ] {
        let said = run(&mut on_terminal(&line.split(' ').collect::<Vec<_>>())).stdout;
        assert!(said.contains(shown), "{line}: {said:?}");
        for bad in ["\x1b]", "\x1b[2J", "\x1b[31mdisk", "\x07", "\u{9b}"] {
            assert!(!said.contains(bad), "{line}: {said:?}");
        }
        assert!(!said.lines().any(|line| line.trim_start().starts_with("forged")), "{line}: {said}");
    }
    let said = up.stdout();
    assert!(!said.contains("\x1b]") && !said.contains("\x1b[2J") && !said.contains('\u{9b}'), "{said:?}");
    // The terminal ends with it.
    up.signal(nix::sys::signal::Signal::SIGUSR1);
    up.wait(PATIENCE);
}

/// A name as long as names may be.
const LONG: &str = "a-name-that-is-as-long-as-names-may-be-which-is-63-characters-x";

#[test]
fn nothing_wraps_on_a_terminal() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {LONG}}}\nspec:\n  parentRefs: [{{group: '', \
         kind: Service, name: {LONG}}}]\n  rules:\n  - backendRefs: [{{name: {LONG}, port: 9454}}]\n"
    );
    let up = start(
        &home,
        &format!(
            "namespace: {LONG}\nservices:\n  {LONG}: {{command: [\"{binary}\", fake-service, --every, 100ms], port: 9454}}\n  \
             web: {{command: [\"{binary}\", fake-service], port: 9455, dependsOn: [bad, {LONG}]}}\n  \
             bad: {{command: [sh, -c, 'exit 3'], port: 9456, replicas: 2}}\n---\n{route}"
        ),
    );
    until(&home, "bad-1", "restarts", |w| w["restarts"].as_u64().unwrap_or(0) >= 2);
    home.write("bad.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {ports: [{port: 80, a-field-that-is-not: 1}]}\n");
    home.write(
        "bad/tulle.yaml",
        "services:\n  a: {comand: x, port: 80/htpp, dependsOn: [nowhere], probe: {http: x, tcp: 1}}\n",
    );
    let mut wide = Vec::new();
    for line in [
        "status",
        "status -n nowhere",
        "edges",
        "edges -n nowhere",
        "get services -A",
        "get workloads,httproutes -A",
        &format!("get httproutes -n {LONG}"),
        &format!("describe httproute {LONG} -n {LONG}"),
        "get svc nowhere",
        "get pods",
        "get svc",
        "get svc --home /nowhere",
        "delete svc nowhere",
        "validate bad.yaml",
        "up bad",
        "up bad.yaml",
        "run x",
        "run x -- /nowhere",
        "run x --home /nowhere -- true",
        "node drain --home /nowhere",
        "get svc --kubeconfig /nowhere",
        "apply -f bad.yaml",
        "apply -f nowhere",
        "diff",
        "token create --identity x",
        "up mesh",
        "--help",
        "up --help",
        "run --help",
        "server --help",
        "node --help",
        "node drain --help",
        "node reset --help",
        "get --help",
        "describe --help",
        "apply --help",
        "diff --help",
        "delete --help",
        "validate --help",
        "status --help",
        "edges --help",
        "token --help",
        "token create --help",
        "fake-service --help",
        "completions --help",
        "-h",
        "up -h",
        "get -h",
    ] {
        let mut terminal = home.command(python());
        terminal.env("TERMINAL_COLUMNS", "80").args([&client("terminal.py"), &binary]).args(line.split(' '));
        let outcome = run(&mut terminal);
        for shown in outcome.stdout.lines().map(|l| l.trim_end_matches('\r')) {
            // The places of this test's home are no words that could be broken.
            let is_place = shown.trim().split(' ').any(|word| word.len() > 50);
            if shown.chars().count() > 80 && !is_place {
                wide.push(format!("{line}: {shown}"));
            }
        }
    }
    assert!(wide.is_empty(), "wider than 80 columns:\n{}", wide.join("\n"));
    assert!(up.interrupt().success());
}

/// Lines of a service that says much, and ends with a line that has no end.
const MANY: usize = 30_000;

fn talkative(home: &Home) -> String {
    home.write(
        "mesh/talk.py",
        &format!(
            "import signal, sys, os, time\n\
             sys.stdout.write(''.join(f'line {{i}}\\n' for i in range({MANY}))); sys.stdout.flush()\n\
             sys.stderr.write('\\x1b]0;title\\nerror line\\n'); sys.stderr.flush()\n\
             signal.signal(signal.SIGTERM, lambda *_: (sys.stdout.write('bye\\n' * 1000 + 'the last'), sys.stdout.flush(), os._exit(0)))\n\
             print('told', flush=True)\n\
             while True: time.sleep(1)\n"
        ),
    );
    format!("services:\n  talk: {{command: [\"{}\", talk.py]}}\n", python().display())
}

/// All that the service has said is there, once and in order.
#[track_caller]
fn is_complete(text: &str) {
    let said: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("talk  │ ")).collect();
    let numbers: Vec<_> = said.iter().filter_map(|line| line.strip_prefix("line ")).collect();
    assert_eq!(numbers.len(), MANY, "lines are missing");
    assert!(numbers.iter().enumerate().all(|(i, number)| *number == i.to_string()), "they are in order");
    assert!(said.contains(&"error line"), "what follows an escape sequence without end");
    assert_eq!(said.iter().filter(|line| **line == "bye").count(), 1000);
    assert_eq!(said.iter().filter(|line| **line == "the last").count(), 1);
    assert!(!text.contains("are missing here"));
}

#[test]
fn nothing_is_lost_in_a_file_or_a_pipe() {
    let _alone = alone();
    let home = Home::new();
    let services = talkative(&home);
    home.write("mesh/tulle.yaml", &services);
    let folder = home.path().join("mesh").display().to_string();
    let file = home.path().join("output");
    let mut command = home.command(tulle());
    command.args(["up", &folder, "--capture", "explicit", "--workers", "1"]);
    let mut up = command
        .stdout(std::fs::File::create(&file).unwrap())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("its words", PATIENCE, || said().contains("talk  │ told").then_some(()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(up.id() as i32), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    assert!(up.wait().unwrap().success());
    is_complete(&said());

    // A reader that takes its time, also at the end.
    std::fs::remove_file(&file).unwrap();
    let mut slow = home.command("sh");
    let script = format!("exec {} up {folder} --capture explicit --workers 1", tulle().display());
    let reader = format!(
        "({script}) 2>/dev/null | {} {} {}",
        python().display(),
        client("slow_reader.py"),
        file.display()
    );
    slow.args(["-c", &reader]);
    let slow = Process::spawn(&mut slow);
    eventually("its words", PATIENCE * 2, || said().contains("talk  │ told").then_some(()));
    // The one that runs with this home.
    let lock = home.path().join("up.lock");
    let pid = eventually("the process", PATIENCE, || holder(&lock));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    slow.wait(PATIENCE * 2);
    is_complete(&said());
}

/// The process that has a file open.
fn holder(file: &std::path::Path) -> Option<i32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == file))
    })
}
