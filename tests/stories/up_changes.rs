//! `tulle up` while its file changes, and the commands that change one thing: what is not asked for is not touched.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tulle_tests::harness::{Home, Process, alone, client, eventually, require_root, tulle};

const PATIENCE: Duration = Duration::from_secs(20);

/// `c`, which is asked all the time, and eleven others.
fn twelve(changed: &str) -> String {
    let mut text = "services:\n".to_owned();
    for (place, name) in ["c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"].iter().enumerate() {
        let more = if *name == "n" { changed } else { "" };
        text += &format!(
            "  {name}:\n    command: [\"{}\", fake-service, --name, {name}]\n    port: {}\n{more}",
            tulle().display(),
            9501 + place
        );
    }
    text
}

/// The pid of each process that `tulle ps` knows, or its state where it has none.
fn processes(home: &Home) -> BTreeMap<String, String> {
    let status: Value = serde_json::from_str(&home.tulle(&["ps", "-o", "json"]).ok()).unwrap();
    let processes = status["processes"].as_array().unwrap().iter();
    let known = processes.map(|process| {
        let state = process["state"].as_str().unwrap().to_owned();
        let pid = process["pid"].as_u64().filter(|_| state == "ready").map(|pid| pid.to_string());
        (process["name"].as_str().unwrap().to_owned(), pid.unwrap_or(state))
    });
    known.collect()
}

fn told(up: &Process, text: &str) {
    up.wait_for_line(text, PATIENCE, |line| line.contains(text));
}

/// What is another one, or new, or gone.
fn others(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let names = before.keys().chain(now.keys()).filter(|name| before.get(*name) != now.get(*name));
    let mut names: Vec<String> = names.cloned().collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_change_touches_what_it_is_about_and_nothing_else() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&twelve(""));
    let load = home.run_client("load", &[&client("load.py"), "http://c:9501/", "500", "8", "12"]);
    load.wait_for_line("start", PATIENCE, |line| line == "started");
    let write = |text: &str| home.write("mesh/tulle.yaml", text);

    let first = processes(&home);
    write(&twelve("    environment: {LOG: debug}\n"));
    told(&up, "n environment changed: it starts anew");
    let second = eventually("the change of one", PATIENCE, || {
        let now = processes(&home);
        (others(&first, &now) == ["n"] && now["n"].parse::<u32>().is_ok()).then_some(now)
    });

    // An invalid file changes nothing, and the next valid one is taken.
    write(&twelve("    environment: {LOG: debug}\n    prot: 1\n"));
    told(&up, "the change is not taken, and nothing is touched:");
    told(&up, "there is no such field");
    assert_eq!(processes(&home), second);

    // Two changes within 100 ms: one comes, another is renamed, with the same port.
    let extra =
        format!("  x:\n    command: [\"{}\", fake-service, --name, x]\n    port: 9521\n", tulle().display());
    write(&(twelve("    environment: {LOG: debug}\n") + &extra));
    std::thread::sleep(Duration::from_millis(60));
    write(&(twelve("    environment: {LOG: debug}\n").replace("  n:\n", "  renamed:\n") + &extra));
    let third = eventually("a service that is new, and one with another name", PATIENCE, || {
        let now = processes(&home);
        let ready = |name: &str| now.get(name).is_some_and(|state| state.parse::<u32>().is_ok());
        (ready("x") && ready("renamed") && !now.contains_key("n")).then_some(now)
    });
    assert_eq!(others(&second, &third), ["n", "renamed", "x"]);
    let services = home.kubectl(&["get", "services", "-o", "name"]).ok();
    assert!(
        services.contains("service/renamed") && !services.lines().any(|line| line == "service/n"),
        "{services}"
    );

    // Gone again, by `up` of the same file, which says what it did and ends.
    write(&twelve("    environment: {LOG: debug}\n").replace("  n:\n", "  renamed:\n"));
    let folder = home.path().join("mesh").display().to_string();
    let said = home.tulle(&["up", &folder]).ok();
    assert!(said.contains("x is gone") || said.contains("nothing has changed"), "{said}");
    eventually("the end of a service", PATIENCE, || (!processes(&home).contains_key("x")).then_some(()));
    assert_eq!(others(&third, &processes(&home)), ["x"]);

    assert!(load.wait(Duration::from_secs(60)).success(), "{}", load.stderr());
    let seen: Value = serde_json::from_str(load.stdout().lines().last().unwrap()).unwrap();
    assert_eq!(seen["failures"].as_array().unwrap().len(), 0, "{seen}");
    assert!(up.interrupt().success());
}

#[test]
fn one_service_is_stopped_started_restarted_and_scaled() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&twelve("").replace("    port: 9502\n", "    port: 9502\n    dependsOn: [c]\n"));
    let first = processes(&home);
    assert!(home.tulle(&["restart", "c"]).ok().starts_with("c restarted ("));
    eventually("the new process", PATIENCE, || (others(&first, &processes(&home)) == ["c"]).then_some(()));
    home.tulle(&["scale", "e=3"]).ok();
    let three = eventually("three processes", PATIENCE, || {
        let now = processes(&home);
        ["e", "e-1", "e-2"]
            .iter()
            .all(|name| now.get(*name).is_some_and(|p| p.parse::<u32>().is_ok()))
            .then_some(now)
    });
    assert_eq!(three["e"], first["e"], "the first is not touched");
    home.tulle(&["scale", "e=1"]).ok();
    assert_eq!(others(&first, &processes(&home)), ["c"]);
    home.tulle(&["stop", "c", "d"]).ok();
    assert_eq!((&*processes(&home)["c"], &*processes(&home)["d"]), ("stopped", "stopped"));
    // Who depends on it waits for it, and says so.
    let starts = home.start(&["start", "d"]);
    eventually("what it waits for", PATIENCE, || {
        home.tulle(&["ps", "d"]).stdout.contains("waits for c (stopped: `tulle start c`)").then_some(())
    });
    home.tulle(&["start", "c"]).ok();
    assert!(starts.wait(PATIENCE).success(), "{}", starts.stderr());
    eventually("both", PATIENCE, || home.tulle(&["ps"]).stdout.ends_with("all is well").then_some(()));
    for (arguments, code) in
        [(vec!["restart", "nope"], 4), (vec!["scale", "e=x"], 2), (vec!["scale", "e=1001"], 4)]
    {
        let outcome = home.tulle(&arguments);
        assert_eq!(outcome.code(), code, "{arguments:?}: {}", outcome.stderr);
    }
    assert_eq!(home.tulle(&["down"]).ok(), "stopped");
    assert!(up.wait(PATIENCE).success());
    assert_eq!(home.tulle(&["ps"]).code(), 3);
}

#[test]
fn jobs_run_to_their_end_and_others_wait_for_it() {
    let _alone = alone();
    let home = Home::new();
    let job = |name: &str, script: &str, more: &str| {
        format!("  {name}:\n    command: [sh, -c, '{script}']\n{more}")
    };
    let marked = home.path().join("tried").display().to_string();
    let services = format!(
        "services:\n{}{}{}{}",
        job("migrate", "echo migrated", "    restart: never\n"),
        job(
            "again",
            &format!("test -e {marked} || {{ touch {marked}; exit 3; }}"),
            "    restart: on-failure\n    dependsOn: {migrate: completed}\n"
        ),
        job("broken", "exit 7", "    restart: never\n"),
        job(
            "web",
            "exec sleep 60",
            "    dependsOn: {again: completed, broken: completed}\n    stopSignal: INT\n    stopTimeout: 1s\n"
        ),
    );
    home.write("mesh/tulle.yaml", &services);
    let folder = home.path().join("mesh").display().to_string();
    let up = home.start(&["up", &folder, "--capture", "explicit"]);
    let text = eventually("a job that failed", PATIENCE, || {
        let text = home.tulle(&["ps"]).stdout;
        text.contains("web: waits for broken (it ended with code 7").then_some(text)
    });
    for line in ["broken: it ended with code 7, and does not start again", "2 processes are not well"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let state = |name: &str| processes(&home)[name].clone();
    assert_eq!(
        (&*state("migrate"), &*state("again"), &*state("broken")),
        ("completed", "completed", "failed")
    );
    // Mended, it goes on by itself.
    home.write("mesh/tulle.yaml", &services.replace("exit 7", "exit 0"));
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    assert!(home.tulle(&["ps"]).stdout.ends_with("all is well"));
    let stopping = std::time::Instant::now();
    up.signal(Signal::SIGTERM);
    assert!(up.wait(PATIENCE).success());
    assert!(stopping.elapsed() < Duration::from_secs(5));
    // A job that is started again when it ends can never complete.
    home.write("mesh/tulle.yaml", &services.replacen("    restart: never\n", "", 1));
    let refused = home.tulle(&["validate", &folder]);
    assert!(
        refused.code() == 2 && refused.stderr.contains("`migrate` never completes"),
        "{}",
        refused.stderr
    );
}

/// Ends what runs in the background, whatever becomes of the test.
struct Background<'h>(&'h Home);

impl Drop for Background<'_> {
    fn drop(&mut self) {
        let _ = self.0.tulle(&["down"]);
    }
}

#[test]
fn a_mesh_runs_in_the_background() {
    let _alone = alone();
    let home = Home::new();
    let _background = Background(&home);
    let services =
        "services:\n  web: {command: [sleep, '60']}\n  late: {command: [sh, -c, 'sleep 1; exec sleep 60']}\n";
    home.write("mesh/tulle.yaml", services);
    let folder = home.path().join("mesh").display().to_string();
    let said = home.tulle(&["up", "-d", &folder, "--capture", "explicit"]).ok();
    assert!(said.contains("mesh runs (process ") && said.contains("2 processes"), "{said}");
    assert!(home.tulle(&["ps"]).ok().ends_with("all is well"));
    let again = home.tulle(&["up", "-d", &folder]).ok();
    assert!(again.contains("nothing has changed"), "{again}");
    // One with another file is refused, as it is in the foreground.
    home.write("other/tulle.yaml", services);
    let other = home.path().join("other").display().to_string();
    let refused = home.tulle(&["up", "-d", &other]);
    assert_eq!(refused.code(), 5, "{}", refused.stderr);
    assert!(home.tulle(&["ps"]).ok().ends_with("all is well"), "it goes on");
    // Who attaches sees what is said, until it ends.
    let attached = home.start(&["attach", "late"]);
    attached
        .wait_for_line("what was said", PATIENCE, |line| line.contains("late") && line.contains("starting"));
    assert_eq!(home.tulle(&["down"]).ok(), "stopped");
    assert!(attached.wait(PATIENCE).success(), "{}", attached.stderr());
    assert_eq!(home.tulle(&["attach"]).code(), 3);
    home.write("mesh/tulle.yaml", "services: {web: {comand: x}}\n");
    let invalid = home.tulle(&["up", "-d", &folder]);
    assert!(invalid.code() == 2 && invalid.stderr.contains("did you mean `command`"), "{}", invalid.stderr);
    // Forgotten, with what others have put there left alone.
    home.write("mine.txt", "x");
    let said = home.tulle(&["down", "--state"]).ok();
    assert!(said.contains("is gone"), "{said}");
    assert!(home.path().join("mine.txt").exists() && !home.path().join("server").exists());
}

/// What a developer does by hand beside a service: a migration, a look around.
#[test]
fn a_command_runs_as_a_process_of_a_service_does() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let services = format!(
        "services:\n  web:\n    command: [sleep, '600']\n    directory: sub\n    user: nobody\n    environment: {{LEVEL: \"a b\"}}\n\
         \x20 api:\n    command: [\"{}\", fake-service, --name, api]\n    port: 9541\n",
        tulle().display()
    );
    std::fs::create_dir_all(home.path().join("mesh/sub")).unwrap();
    for folder in ["", "mesh", "mesh/sub"] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(home.path().join(folder), open).unwrap();
    }
    let up = home.up(&services);
    let said = home
        .tulle(&["exec", "web", "--", "sh", "-c", "echo \"$LEVEL/$(id -un)/$(pwd)/$TULLE_WORKLOAD\""])
        .ok();
    assert!(
        said.starts_with("a b/nobody/") && said.contains("/mesh/sub/") && said.ends_with("default/web"),
        "{said}"
    );
    // It calls others with the service's identity.
    let script = "import urllib.request as r; print(r.urlopen('http://api:9541/').status)";
    let python = tulle_tests::harness::python().display().to_string();
    let answered = home.tulle(&["exec", "api", "--", &python, "-c", script]).ok();
    assert_eq!(answered, "200");
    eventually("the call of the command", PATIENCE, || {
        home.edges().iter().any(|e| e.source == "api" && e.destination == "api").then_some(())
    });
    for (words, code) in [
        (vec!["exec", "nope", "--", "true"], 4),
        (vec!["exec", "web", "--", "sh", "-c", "exit 7"], 7),
        (vec!["exec", "api", "--", "no-such-program"], 127),
        (vec!["exec", "web"], 2),
    ] {
        let outcome = home.tulle(&words);
        assert_eq!(outcome.code(), code, "{words:?}: {}", outcome.stderr);
    }
    // It ends with the service.
    let goes_on = home.start(&["exec", "web", "--", "sh", "-c", "echo up; sleep 600"]);
    goes_on.wait_for_line("start", PATIENCE, |line| line == "up");
    home.tulle(&["stop", "web"]).ok();
    assert!(!goes_on.wait(PATIENCE).success());
    assert_eq!(home.tulle(&["exec", "web", "--", "true"]).code(), 5);
    assert!(up.interrupt().success());
}

#[test]
fn a_service_starts_anew_when_its_files_change() {
    let _alone = alone();
    let home = Home::new();
    home.write("mesh/src/app.txt", "one");
    home.write("mesh/src/node_modules/x.js", "one");
    let services = "services:\n  web: {command: [sh, -c, 'cat src/app.txt; echo; exec sleep 600'], watch: [src]}\n  other: {command: [sleep, '600']}\n";
    home.write("mesh/tulle.yaml", services);
    let folder = home.path().join("mesh").display().to_string();
    let up = home.start(&["up", &folder, "--capture", "explicit"]);
    told(&up, "all services are ready");
    let before = processes(&home);
    home.write("mesh/src/node_modules/x.js", "two!");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(processes(&home), before);
    home.write("mesh/src/app.txt", "second");
    up.wait_for_line("the new text", PATIENCE, |line| line.ends_with("│ second"));
    eventually("the new process", PATIENCE, || (others(&before, &processes(&home)) == ["web"]).then_some(()));
    assert!(up.interrupt().success());
}
