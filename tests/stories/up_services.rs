//! What `tulle up` does with a service besides starting it: commands before it, processes that hang, a part of the file.

use std::time::Duration;

use serde_json::Value;
use tulle_tests::harness::{Home, alone, eventually, tulle};

const PATIENCE: Duration = Duration::from_secs(20);

fn fake(name: &str, port: u16, more: &str) -> String {
    format!(
        "  {name}:\n    command: [\"{}\", fake-service, --name, {name}]\n    port: {port}\n{more}",
        tulle().display()
    )
}

/// None until `up` answers.
fn processes(home: &Home) -> Vec<Value> {
    let said = home.tulle(&["ps", "-o", "json"]).stdout;
    let status: Value = serde_json::from_str(&said).unwrap_or_default();
    status["processes"].as_array().cloned().unwrap_or_default()
}

fn names(home: &Home) -> Vec<String> {
    processes(home).iter().map(|process| process["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn init_commands_run_before_the_service_as_it_does() {
    let _alone = alone();
    let home = Home::new();
    let written = home.path().join("written");
    // It fails until somebody mends it, and reaches what it depends on by its name.
    let script = format!(
        "[ -e {0} ] || {{ echo no plan >&2; exit 3; }}; echo $LEVEL-$SERVICE_PORT-${{PORT}} >> {0}",
        written.display()
    );
    let init = |more: &str| {
        let init =
            format!("    init: [[sh, -c, '{script}'], sh -c \"echo second >> {}\"]\n", written.display());
        let web = fake(
            "web",
            9502,
            &format!("{init}{more}    dependsOn: [db]\n    environment: {{LEVEL: high}}\n"),
        );
        format!("services:\n{}{web}", fake("db", 9501, "")).replace("$SERVICE_PORT", "$DB_SERVICE_PORT")
    };
    let up = home
        .start(&["up", &home.write("mesh/tulle.yaml", &init("")).parent().unwrap().display().to_string()]);
    let why = eventually("the reason why it waits", PATIENCE, || {
        let web = processes(&home).into_iter().find(|process| process["name"] == "web")?;
        let why = web["reason"].as_str()?.to_owned();
        why.contains("ended with code 3").then(|| {
            assert_eq!(web["state"], "waiting");
            why
        })
    });
    assert!(why.contains("its init command `sh -c") && why.contains("it is tried again in 5 s"), "{why}");
    assert!(home.tulle(&["logs", "web-init"]).ok().contains("no plan"));
    std::fs::write(&written, "").unwrap();
    up.wait_for_line("the start of all", PATIENCE, |line| line.contains("all services are ready"));
    assert_eq!(std::fs::read_to_string(&written).unwrap(), "high-9501-9502\nsecond\n");

    // Not again for more processes, but before a new start.
    home.tulle(&["scale", "web=3"]).ok();
    assert_eq!(std::fs::read_to_string(&written).unwrap().lines().count(), 2);
    home.tulle(&["restart", "web"]).ok();
    assert_eq!(std::fs::read_to_string(&written).unwrap().lines().count(), 4);
    let workloads = home.kubectl(&["get", "workloads", "-o", "name"]).ok();
    assert!(!workloads.contains("web-init"), "{workloads}");

    // A stop does not wait for one that hangs.
    home.write("mesh/tulle.yaml", &init("").replace("echo second", "sleep 1000; echo"));
    eventually("the command that hangs", PATIENCE, || {
        let is_it =
            |process: &Value| process["reason"].as_str().is_some_and(|why| why.contains("sleep 1000"));
        processes(&home).iter().any(is_it).then_some(())
    });
    assert!(up.interrupt().success());
}

#[test]
fn a_process_that_hangs_is_replaced_and_one_that_ends_says_its_last_words() {
    let _alone = alone();
    let home = Home::new();
    let alive = home.path().join("alive");
    std::fs::write(&alive, "").unwrap();
    let hangs = fake(
        "web",
        9501,
        &format!(
            "    liveness: {{exec: [test, -e, {}], interval: 100ms, failures: 2, startup: 300ms}}\n",
            alive.display()
        ),
    );
    let loops = "  loop:\n    command: [sh, -c, 'echo first; echo cannot find the plan >&2; exit 7']\n";
    let up = home.start(&[
        "up",
        &home
            .write("mesh/tulle.yaml", &format!("services:\n{hangs}{loops}"))
            .parent()
            .unwrap()
            .display()
            .to_string(),
    ]);
    let web = || processes(&home).into_iter().find(|process| process["name"] == "web");
    let first = eventually("a process", PATIENCE, || web()?["pid"].as_u64());
    std::fs::remove_file(&alive).unwrap();
    up.wait_for_line("the reason", PATIENCE, |line| {
        line.contains("in a row): `test` ended with code 1: it is ended")
    });
    std::fs::write(&alive, "").unwrap();
    let second = eventually("another process", PATIENCE, || {
        let now = web()?;
        (now["state"] == "ready" && now["restarts"].as_u64()? > 0).then(|| now["pid"].as_u64())?
    });
    assert_ne!(first, second);

    let said = eventually("the end of a loop", PATIENCE, || {
        let text = home.tulle(&["ps", "loop"]).ok();
        text.contains("  | cannot find the plan\n").then_some(text)
    });
    assert!(
        said.contains("  | first\n") && said.contains("loop: it ended with code 7; starting again in"),
        "{said}"
    );
    assert!(up.interrupt().success());
}

#[test]
fn a_part_of_the_file_runs_with_what_it_needs() {
    let _alone = alone();
    let home = Home::new();
    let file = [
        fake("db", 9501, ""),
        fake("api", 9502, "    dependsOn: [db]\n"),
        fake("web", 9503, "    dependsOn: [api]\n"),
        fake("mail", 9504, ""),
    ];
    let folder = home.write("mesh/tulle.yaml", &format!("services:\n{}", file.concat()));
    let folder = folder.parent().unwrap().display().to_string();
    let up = home.start(&["up", &folder, "api"]);
    up.wait_for_line("the start of all", PATIENCE, |line| line.contains("all services are ready"));
    assert_eq!(names(&home), ["db", "api"]);

    // A change of the file changes nothing of that, and others are added by name.
    home.write(
        "mesh/tulle.yaml",
        &format!("services:\n{}", file.concat().replace("--name, mail", "--name, post")),
    );
    let said = home.tulle(&["up", &folder, "mail"]).ok();
    assert!(said.contains("mail is new: it starts"), "{said}");
    assert_eq!(names(&home), ["db", "api", "mail"]);
    let unknown = home.tulle(&["up", &folder, "wep"]);
    assert_eq!(unknown.code(), 4);
    assert!(unknown.stderr.contains("there is no service `wep`; did you mean `web`?"), "{}", unknown.stderr);
    home.tulle(&["up", &folder]).ok();
    assert_eq!(names(&home), ["db", "api", "web", "mail"]);
    assert!(up.interrupt().success());
}
