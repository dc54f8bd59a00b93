//! Who waits for a run: a caller whose route gives it less time than the run takes, and runs whose node is stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tulle_tests::counting::CountingService;
use tulle_tests::flow_mesh::FlowMesh;
use tulle_tests::harness::{Home, alone, eventually};

use crate::flows::{PATIENCE, apply, ask, call, field, flow, ready, service, services, status};

#[test]
fn a_caller_is_told_where_to_look_before_its_routes_deadline() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: front, namespace: default}\nspec:\n  \
                 parentRefs: [{group: '', kind: Service, name: front}]\n  rules:\n  - timeouts: {request: 2s}\n    \
                 backendRefs: [{group: tulle.dev, kind: Flow, name: slow}]\n";
    apply(
        &home,
        &[
            flow("slow", "    - pause: {wait: {seconds: 30}}\n", ""),
            service("front", "nobody", 80),
            route.to_owned(),
        ],
    );
    ready(&home, "slow");
    let get = |who: &str, more: &[&str]| {
        let mut all = vec!["-w", "\n%{time_total}"];
        all.extend(more);
        let (head, body) = ask(&home, who, &all);
        let took: f64 = body.lines().next_back().and_then(|line| line.parse().ok()).unwrap_or(f64::MAX);
        (head, body, took)
    };
    let (head, body, took) = eventually("the route", PATIENCE, || {
        let answer = get("web", &["http://front/", "-d", "1"]);
        (status(&answer.0) != 503).then_some(answer)
    });
    assert_eq!(status(&head), 202, "{head} {body}");
    assert!(took < 2.0, "after {took} s");
    // It has waited for the run's end as long as it could.
    assert!(took > 1.0, "after {took} s");
    let run = field(&head, "tulle-run").unwrap();
    assert_eq!(field(&head, "location"), Some(&*format!("/runs/{run}")), "{head}");
    // By the same route it finds the run, as only it does.
    let url = format!("http://front/runs/{run}");
    let (head, body, took) = get("web", &[&url]);
    assert!(status(&head) == 202 && took < 2.0, "after {took} s: {head} {body}");
    assert_eq!(status(&get("other", &[&url]).0), 404);
    home.tulle(&["flow", "cancel", run]).ok();
    eventually("the end of the run", PATIENCE, || (status(&get("web", &[&url]).0) == 409).then_some(()));
    assert!(up.interrupt().success());
}

/// Of each run: its state, and the node that has it or had it last.
fn listed(home: &Home) -> Vec<(String, String)> {
    let list = home.kubectl(&["get", "flowruns", "-o", "json"]).ok();
    let list: Value = serde_json::from_str(&list).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |run: &Value| (text(&run["status"]["state"]), text(&run["status"]["runner"]));
    list["items"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn runs_of_a_node_that_is_stopped_go_on_elsewhere_at_once() {
    let _alone = alone();
    let count = 30;
    // A lease would end half a minute after the runner.
    let mut mesh =
        FlowMesh::start(CountingService::start(Duration::from_millis(500)), 2, &["--flow-lease", "30s"]);
    let tasks = call("first", "http://tasks/first")
        + "    - pause: {wait: {seconds: 4}}\n"
        + &call("last", "http://tasks/last");
    apply(&mesh.home, &[service("tasks", "tasks", 80), flow("order", &tasks, "")]);
    let programmed = "jsonpath={.status.conditions[?(@.type==\"Programmed\")].message}";
    eventually("both nodes", PATIENCE, || {
        let by = mesh.home.kubectl(&["get", "flow", "order", "-o", programmed]).stdout;
        (by.contains("runner-0") && by.contains("runner-1")).then_some(())
    });
    let script = format!(
        "seq {count} | xargs -P 10 -I@ sh -c 'until curl -sf -m 10 -o /dev/null -H \"prefer: respond-async\" \
         -H \"idempotency-key: k@\" -d @ http://order/; do sleep 0.2; done'"
    );
    let starter = mesh.home.start(&["run", "starter", "--", "sh", "-c", &script]);
    assert!(starter.wait(PATIENCE).success(), "{}", starter.stderr());
    let of = |runs: &[(String, String)], node: &str| {
        runs.iter().filter(|(_, runner)| runner.starts_with(node)).count()
    };
    let runs = listed(&mesh.home);
    assert_eq!(runs.len(), count, "{runs:?}");
    assert!(of(&runs, "runner-0/") > 0 && of(&runs, "runner-1/") > 0, "both have some: {runs:?}");
    assert!(runs.iter().all(|(state, _)| state != "Completed"), "{runs:?}");

    let runner = mesh.runners[0].1.take().unwrap();
    runner.signal(Signal::SIGTERM);
    eventually("the end of all runs", Duration::from_secs(15), || {
        listed(&mesh.home).iter().all(|(state, _)| state == "Completed").then_some(())
    });
    assert!(runner.wait(PATIENCE).success(), "{}", runner.stderr());
    let runs = listed(&mesh.home);
    assert_eq!((runs.len(), of(&runs, "runner-1/")), (count, count), "{runs:?}");
    // What was under way with the one that has left was over before it left.
    let mut calls = BTreeMap::<String, usize>::new();
    for call in mesh.service.counted() {
        *calls.entry(call.key).or_default() += 1;
    }
    assert_eq!(calls.len(), 2 * count, "{calls:?}");
    assert!(calls.values().all(|times| *times == 1), "{calls:?}");
}

/// Services are stopped together with who calls them, and are not there at once afterwards.
#[test]
fn a_run_takes_no_harm_from_a_stop_of_all() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("1500ms"));
    let tasks = call("first", "http://d:9092/first") + &call("last", "http://d:9092/last");
    apply(&home, &[flow("order", &tasks, "")]);
    ready(&home, "order");
    let run = home.tulle(&["flow", "run", "order", "--no-wait"]).ok().trim().to_owned();
    let history = |state: &str| {
        let history = home.tulle(&["flow", "history", &run, "-o", "json"]);
        let history: Value = serde_json::from_str(&history.stdout).ok()?;
        (history["run"]["status"]["state"] == state).then_some(history)
    };
    eventually("the first call", PATIENCE, || {
        history("Running")?["tasks"].as_array()?.iter().any(|task| task["state"] == "calling").then_some(())
    });
    assert!(up.interrupt().success());
    let up = home.up(&services("1500ms"));
    let history = eventually("the end of the run", PATIENCE, || history("Completed"));
    let calls = |task: &Value| task["calls"].as_array().map_or(0, Vec::len);
    let made: Vec<_> = history["tasks"].as_array().unwrap().iter().map(calls).collect();
    assert_eq!(made, [1, 1], "{history:#}");
    assert!(up.interrupt().success());
}
