//! Processes that do not do what they should, and what becomes of a mesh that is killed, started twice, or was there before a reboot.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tulle_tests::harness::{Home, NOBODY, Process, alone, eventually, require_root, run, tulle};

const PATIENCE: Duration = Duration::from_secs(20);

/// A process that loops, a job that fails, one that hangs and who waits for it, one that hears no SIGTERM, and one that serves.
fn file() -> String {
    let fake = format!(
        "  web:\n    command: [\"{}\", fake-service, --name, web]\n    port: 9501\n",
        tulle().display()
    );
    format!(
        "services:\n{fake}\
         \x20 loop: {{command: [sh, -c, 'echo no plan; exit 3']}}\n\
         \x20 fails: {{command: [sh, -c, 'exit 4'], restart: never}}\n\
         \x20 hangs: {{command: [sh, -c, 'exec sleep 1000'], restart: on-failure}}\n\
         \x20 waits: {{command: [sleep, '1000'], dependsOn: {{hangs: completed}}}}\n\
         \x20 stubborn: {{command: [sh, -c, 'trap \"\" TERM; while :; do sleep 0.1; done'], stopTimeout: 1s}}\n"
    )
}

fn processes(home: &Home) -> Vec<Value> {
    let status: Value = serde_json::from_str(&home.tulle(&["ps", "-o", "json"]).stdout).unwrap_or_default();
    status["processes"].as_array().cloned().unwrap_or_default()
}

fn of(home: &Home, name: &str) -> Option<Value> {
    processes(home).into_iter().find(|process| process["name"] == name)
}

fn start(home: &Home) -> Process {
    let folder = home.write("mesh/tulle.yaml", &file()).parent().unwrap().display().to_string();
    home.start(&["up", &folder])
}

/// All is as it will stay.
#[track_caller]
fn settles(home: &Home) {
    for (name, state) in [
        ("web", "ready"),
        ("fails", "failed"),
        ("waits", "waiting"),
        ("stubborn", "ready"),
        ("hangs", "ready"),
    ] {
        eventually(&format!("{name} that is {state}"), PATIENCE, || {
            (of(home, name)?["state"] == state).then_some(())
        });
    }
    let restarts =
        eventually("restarts", PATIENCE, || of(home, "loop")?["restarts"].as_u64().filter(|n| *n >= 2));
    assert!(restarts >= 2);
}

/// What is alive of what the home's mesh has started, by the mark in its environment.
fn alive(home: &Home) -> Vec<i32> {
    let scope = home.path().display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = std::process::id() as i32;
    let is_of_it = |pid: &i32| {
        let of = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let is_zombie = String::from_utf8_lossy(&of("stat")).contains(") Z ");
        *pid != own && !is_zombie && String::from_utf8_lossy(&of("environ")).contains(&scope)
    };
    numbers.filter(is_of_it).collect()
}

#[track_caller]
fn nothing_is_left(home: &Home) {
    eventually("the end of every process", PATIENCE, || alive(home).is_empty().then_some(()));
    let path = home.path().display().to_string();
    let reset = run(Command::new(tulle()).args(["node", "reset", "--home", &path])).ok();
    assert!(reset.contains("there is nothing"), "{reset}");
}

fn holds_for(home: Home) {
    let up = start(&home);
    settles(&home);
    let ps = home.tulle(&["ps"]).ok();
    for line in [
        "  | no plan",
        "fails: it ended with code 4, and does not start again (once mended: `tulle restart fails`)",
        "waits: waits for hangs",
    ] {
        assert!(ps.contains(line), "{line}\n{ps}");
    }
    assert!(ps.contains(" not well"), "{ps}");

    // A second one of the same file is a change of it, of which there is none; of another file it is refused.
    let folder = home.path().join("mesh").display().to_string();
    assert!(home.tulle(&["up", &folder]).ok().contains("nothing has changed"));
    home.write("other/tulle.yaml", "services: {x: {command: x}}\n");
    let other = home.tulle(&["up", &home.path().join("other").display().to_string()]);
    assert_eq!(other.code(), 5, "{}", other.stderr);
    assert!(of(&home, "web").is_some_and(|web| web["state"] == "ready"));

    // Who hears nothing is killed when its time is over, and holds nobody else up.
    let began = Instant::now();
    assert!(up.interrupt().success());
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert!(up.stdout().contains("was ended by SIGKILL"), "{}", up.stdout());
    nothing_is_left(&home);

    // Killed itself, it leaves who hears nothing, and the next one ends that.
    let up = start(&home);
    settles(&home);
    let stubborn = of(&home, "stubborn").unwrap()["pid"].as_i64().unwrap() as i32;
    up.signal(Signal::SIGKILL);
    up.wait(PATIENCE);
    eventually("the end of all others", PATIENCE, || {
        let left = alive(&home);
        left.iter().all(|pid| *pid == stubborn || parent(*pid) == Some(stubborn)).then_some(())
    });
    assert!(alive(&home).contains(&stubborn), "it hears no SIGTERM");
    let up = start(&home);
    settles(&home);
    assert!(!alive(&home).contains(&stubborn));

    // A reboot: all is killed at once, cgroups and rules are gone, and what was in the home stays.
    let applied = home.write(
        "own.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: own}\nspec: {ports: [{port: 80}]}\n",
    );
    home.tulle(&["apply", "-f", &applied.display().to_string()]).ok();
    up.signal(Signal::SIGKILL);
    up.wait(PATIENCE);
    for pid in alive(&home) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    eventually("the end of all", PATIENCE, || alive(&home).is_empty().then_some(()));
    run(Command::new(tulle()).args(["node", "reset", "--home", &home.path().display().to_string()])).ok();
    let up = start(&home);
    settles(&home);
    assert!(home.tulle(&["get", "services"]).ok().contains("own"));
    assert!(up.interrupt().success());
    nothing_is_left(&home);
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[test]
fn all_ends_as_documented_where_the_host_captures() {
    require_root!();
    let _alone = alone();
    holds_for(Home::new());
}

#[test]
fn all_ends_as_documented_for_an_ordinary_user() {
    require_root!();
    let _alone = alone();
    holds_for(Home::of_user(NOBODY));
}
