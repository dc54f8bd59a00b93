//! Flows from a user's side: they are called like services, and call services; a run survives whatever happens to those who carry it out.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tulle_tests::harness::{Home, Process, alone, eventually, project};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Services `c` and `d`, of which `d` answers as slowly as it is told; and these Flows.
pub(crate) fn services(latency: &str) -> String {
    let service = |name: &str, port: u16, more: &str| {
        format!(
            "  {name}:\n    command: [\"${{TULLE}}\", fake-service, --name, {name}{more}]\n    port: {port}\n    probe: {{http: /healthz}}\n"
        )
    };
    let slow = format!(", --latency, {latency}");
    format!("name: flows\nservices:\n{}{}", service("c", 9091, ""), service("d", 9092, &slow))
}

pub(crate) fn flow(name: &str, tasks: &str, more: &str) -> String {
    format!(
        "apiVersion: tulle.dev/v1alpha1\nkind: Flow\nmetadata: {{name: {name}, namespace: default}}\nspec:\n\
         \x20 serviceAccount: orders\n  trigger: {{http: {{{more}}}}}\n  workflow:\n    document: {{dsl: '1.0.3', namespace: t, name: {name}, version: '1.0.0'}}\n\
         \x20   do:\n{tasks}"
    )
}

pub(crate) fn call(name: &str, url: &str) -> String {
    format!(
        "    - {name}:\n        call: http\n        with: {{method: post, endpoint: '{url}', body: '${{ . }}'}}\n"
    )
}

/// A Service on port 80 whose endpoints are those of a workload.
pub(crate) fn service(name: &str, workload: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{selector: {{app: {workload}}}, ports: [{{port: 80, targetPort: {port}, appProtocol: http}}]}}\n"
    )
}

pub(crate) fn apply(home: &Home, objects: &[String]) {
    let file = home.write("objects.yaml", &objects.join("---\n")).display().to_string();
    home.tulle(&["apply", "-f", &file]).ok();
}

/// What a workload of that name is answered.
pub(crate) fn ask(home: &Home, who: &str, arguments: &[&str]) -> (String, String) {
    let mut all = vec!["run", who, "--", "curl", "-s", "-i", "-m", "20"];
    all.extend(arguments);
    let answer = home.tulle(&all).ok();
    let (head, body) = answer.split_once("\n\n").unwrap_or((&answer, ""));
    (head.to_ascii_lowercase(), body.to_owned())
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Waits until requests to a Flow start runs.
pub(crate) fn ready(home: &Home, flow: &str) {
    eventually("a node that runs the Flow", PATIENCE, || {
        let ready = home.kubectl(&[
            "get",
            "flow",
            flow,
            "-o",
            "jsonpath={.status.conditions[?(@.type==\"Programmed\")].status}",
        ]);
        (ready.stdout == "True").then_some(())
    });
}

#[test]
fn the_chain_runs_as_a_flow() {
    let _alone = alone();
    let home = Home::new();
    let up = home.start(&["up", &project().join("examples/flow").display().to_string()]);
    up.wait_for_line("path", PATIENCE, |line| line.contains("a → c → d → (e, f)"));
    up.wait_for_line("path", PATIENCE, |line| line.contains("b → c → d → (e, f)"));
    eventually("all edges", PATIENCE, || {
        let edges = home.edges();
        let has = |from: &str, to: &str| {
            edges.iter().any(|edge| edge.source == from && edge.destination == to && edge.requests > 0)
        };
        let all =
            [("a", "chain"), ("b", "chain"), ("chain", "c"), ("chain", "d"), ("chain", "e"), ("chain", "f")];
        all.iter().all(|(from, to)| has(from, to)).then_some(())
    });
    let runs = home.tulle(&["flow", "runs", "chain"]).ok();
    assert!(runs.contains("Completed"), "{runs}");
    let input = home.write("input.json", "{\"n\": 1}").display().to_string();
    let output = home.tulle(&["flow", "run", "chain", "-d", &format!("@{input}")]).ok();
    let output: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(output["upstreams"][0]["upstreams"][1]["name"], "f", "{output}");
    assert!(up.interrupt().success());
}

#[test]
fn a_flow_is_called_like_a_service() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    apply(
        &home,
        &[
            flow("order", &(call("c", "http://c:9091/{n}") + &call("d", "http://d:9092/")), ""),
            flow("fails", &call("gone", "http://gone/"), ""),
            flow(
                "teapot",
                "    - no: {raise: {error: {type: 'https://x.test/t', status: 418, title: Teapot}}}\n",
                "",
            ),
            flow("shows", "    - all: {set: '${ . }'}\n", "input: request, headers: [X-Kind]"),
            flow(
                "waits",
                &("    - pause: {wait: {seconds: 4}}\n".to_owned() + &call("d", "http://d:9092/")),
                "wait: 1s",
            ),
        ],
    );
    for name in ["order", "fails", "teapot", "shows", "waits"] {
        ready(&home, name);
    }
    let order = |arguments: &[&str]| {
        let mut all = vec!["http://order/"];
        all.extend(arguments);
        ask(&home, "web", &all)
    };
    let (head, body) = order(&["-d", "{\"n\": 5}"]);
    assert_eq!(status(&head), 200, "{head} {body}");
    assert!(field(&head, "tulle-run").is_some_and(|run| !run.is_empty()), "{head}");
    assert!(body.contains("\"name\":\"d\""), "{body}");
    // The name that a caller gives a run starts it once.
    let key = ["-H", "Idempotency-Key: mine", "-d", "{\"n\": 6}"];
    let (first, again) = (order(&key), order(&key));
    assert_eq!((status(&first.0), status(&again.0)), (200, 200));
    assert_eq!(field(&first.0, "tulle-run"), field(&again.0, "tulle-run"));
    assert_eq!(first.1, again.1);
    assert_eq!(status(&order(&["-H", "Idempotency-Key: mine", "-d", "{\"n\": 7}"]).0), 422);
    // Another caller's is another run.
    let (others, _) =
        ask(&home, "other", &["http://order/", "-H", "Idempotency-Key: mine", "-d", "{\"n\": 7}"]);
    assert_eq!(status(&others), 200);
    let (head, body) = order(&["-d", "{\"n\":"]);
    assert!(
        status(&head) == 400 && body.contains("JSON") && head.contains("application/problem+json"),
        "{head} {body}"
    );
    // Who does not want to wait is told where to look, and nobody else is.
    let (head, _) = order(&["-H", "Prefer: respond-async", "-d", "{\"n\": 8}"]);
    assert_eq!(status(&head), 202, "{head}");
    let place = field(&head, "location").unwrap().to_owned();
    let url = format!("http://order{place}");
    eventually("the end of the run", PATIENCE, || {
        (status(&ask(&home, "web", &[&url]).0) == 200).then_some(())
    });
    assert_eq!(status(&ask(&home, "other", &[&url]).0), 404);
    let (head, body) = ask(&home, "web", &["http://waits/", "-d", "1"]);
    assert_eq!(status(&head), 202, "{head} {body}");
    // What a fault answers.
    let (head, body) = ask(&home, "web", &["http://teapot/", "-d", "1"]);
    assert!(status(&head) == 418 && body.contains("\"title\":\"Teapot\""), "{head} {body}");
    let (head, body) = ask(&home, "web", &["http://fails/", "-d", "1"]);
    assert!(status(&head) >= 500 && body.contains("gone") && body.contains("/do/0/gone"), "{head} {body}");
    let (_, body) = ask(
        &home,
        "web",
        &["http://shows/a/b?x=1&x=2&y=3", "-H", "x-kind: k", "-H", "x-other: o", "-d", "[1]"],
    );
    let shown: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&shown["method"], &shown["path"]), (&"POST".into(), &"/a/b".into()));
    assert_eq!(shown["query"].to_string(), "{\"x\":[\"1\",\"2\"],\"y\":\"3\"}");
    assert_eq!(shown["headers"].to_string(), "{\"x-kind\":\"k\"}");
    assert_eq!(shown["body"].to_string(), "[1]");
    let large = home.write("large.json", &format!("\"{}\"", "x".repeat(300 << 10))).display().to_string();
    let (head, body) = order(&["-d", &format!("@{large}")]);
    assert!([400, 413].contains(&status(&head)), "{head} {body}");
    assert!(up.interrupt().success());
}

#[test]
fn a_run_survives_the_end_of_all_that_carries_it_out() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    let tasks =
        call("c", "http://c:9091/") + "    - pause: {wait: {seconds: 6}}\n" + &call("d", "http://d:9092/");
    apply(&home, &[flow("order", &tasks, "")]);
    ready(&home, "order");
    let (head, _) = ask(&home, "web", &["http://order/", "-H", "Prefer: respond-async", "-d", "1"]);
    let place = field(&head, "location").unwrap().to_owned();
    up.signal(Signal::SIGKILL);
    up.wait(PATIENCE);
    let up: Process = home.up(&services("0ms"));
    let url = format!("http://order{place}");
    eventually("the end of the run", PATIENCE, || {
        let (head, body) = ask(&home, "web", &[&url]);
        (status(&head) == 200 && body.contains("\"name\":\"d\"")).then_some(())
    });
    let to = |edge: &str| {
        home.edges()
            .iter()
            .filter(|e| e.source == "order" && e.destination == edge)
            .map(|e| e.requests)
            .sum::<u64>()
    };
    // The first task was recorded as done, and is called no more.
    eventually("the call of d", PATIENCE, || (to("d") == 1).then_some(()));
    assert_eq!(to("c"), 0, "{:?}", home.edges());
    assert!(up.interrupt().success());
}

#[test]
fn a_flow_reaches_what_its_account_may() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    let policy = "apiVersion: tulle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: not-orders, namespace: default}\n\
                  spec:\n  targetRefs: [{group: '', kind: Service, name: d}]\n  action: Deny\n  \
                  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: orders}}]}]\n";
    apply(
        &home,
        &[
            flow("order", &call("d", "http://d:9092/"), ""),
            // Whatever it is given.
            flow(
                "any",
                "    - go:\n        call: http\n        with: {method: get, endpoint: '${ .url }'}\n",
                "",
            ),
            policy.to_owned(),
        ],
    );
    for name in ["order", "any"] {
        ready(&home, name);
    }
    let (head, body) = eventually("the policy", PATIENCE, || {
        let answer = ask(&home, "web", &["http://order/", "-d", "1"]);
        (status(&answer.0) == 403).then_some(answer)
    });
    assert!(body.contains("not-orders") && head.contains("application/problem+json"), "{head} {body}");
    let go = |url: &str| {
        let input = serde_json::json!({ "url": url }).to_string();
        ask(&home, "web", &["http://any/", "-d", &input])
    };
    assert_eq!(status(&go("http://c:9091/").0), 200);
    let api = std::fs::read_to_string(home.kubeconfig()).unwrap();
    let api = api.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().to_owned();
    let api_port = api.rsplit(':').next().unwrap().to_owned();
    let mut forbidden: Vec<String> = [
        "http://127.0.0.1:9091/",
        "http://127.1:9091/",
        "http://2130706433:9091/",
        "http://0x7f000001:9091/",
        "http://localhost:9091/",
        "http://LOCALHOST:9091/",
        "http://localhost.:9091/",
        "http://[::1]:9091/",
        "http://[::ffff:127.0.0.1]:9091/",
        "http://[::]:9091/",
        "http://0.0.0.0:9091/",
        "http://0:9091/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://10.0.0.1/",
        "http://192.168.0.1/",
        "http://172.17.0.1/",
        "http://metadata.google.internal/",
        "http://example.com/",
        "https://example.com/",
        "http://c@127.0.0.1:9091/",
        "http://user:pw@c:9091/",
        "file:///etc/passwd",
        "ftp://c/",
        "gopher://c:9091/",
        "http://:9091/",
        "/etc/passwd",
        "https://c:9091/",
        "http://kubernetes.default.svc.cluster.local/",
    ]
    .map(str::to_owned)
    .into();
    forbidden.push(format!("https://127.0.0.1:{api_port}/api"));
    forbidden.push(format!("http://localhost:{api_port}/api"));
    for url in &forbidden {
        let (head, body) = go(url);
        assert!(status(&head) >= 400 && body.contains("\"instance\":\"/do/0/go\""), "{url}: {head} {body}");
    }
    assert!(up.interrupt().success());
}
