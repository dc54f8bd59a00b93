//! Whatever a Flow is given that cannot be: an error that says where, nothing that is half done, and runs of others that notice nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tulle_tests::counting::CountingService;
use tulle_tests::harness::{Home, Outcome, alone, eventually};

use crate::flows::{PATIENCE, apply, ask, call, flow, ready, service, services, status};

/// Starts a run, and waits for its end at a terminal.
fn run(home: &Home, flow: &str, arguments: &[&str]) -> Outcome {
    let mut all = vec!["flow", "run", flow];
    all.extend(arguments);
    home.tulle(&all)
}

/// The run that `tulle flow run` speaks of.
fn name_of(outcome: &Outcome) -> &str {
    let first = outcome.stderr.lines().next().and_then(|line| line.strip_prefix("run "));
    first.unwrap_or_else(|| panic!("no run is named: {outcome:#?}"))
}

/// What the server says of a run.
fn state(home: &Home, run: &str) -> Value {
    let object = home.kubectl(&["get", "flowrun", run, "-o", "json"]).ok();
    serde_json::from_str::<Value>(&object).unwrap()["status"].clone()
}

/// The names of a Flow's runs.
fn runs_of(home: &Home, flow: &str) -> Vec<String> {
    let runs = home.tulle(&["flow", "runs", flow, "-o", "json"]).ok();
    let runs: Value = serde_json::from_str(&runs).unwrap();
    let name = |run: &Value| run["metadata"]["name"].as_str().unwrap().to_owned();
    runs["runs"].as_array().unwrap().iter().map(name).collect()
}

/// An error is of that kind, of that task, and has these words.
#[track_caller]
fn is_error(status: &Value, kind: &str, task: &str, words: &[&str]) {
    assert_eq!(status["state"], "Faulted", "{status:#}");
    let error = &status["error"];
    assert_eq!(error["instance"], task, "{status:#}");
    assert!(error["type"].as_str().unwrap().ends_with(&format!("/errors/{kind}")), "{status:#}");
    let detail = error["detail"].as_str().unwrap();
    for word in words {
        assert!(detail.contains(word), "no `{word}` in {detail}");
    }
}

/// A run of the Flow faults so, and who has started it sees that, then and later.
#[track_caller]
fn faults(home: &Home, flow: &str, arguments: &[&str], kind: &str, task: &str, words: &[&str]) -> String {
    let outcome = run(home, flow, arguments);
    let run = name_of(&outcome);
    assert_eq!(outcome.code(), 1, "{outcome:#?}");
    is_error(&state(home, run), kind, task, words);
    let history = home.tulle(&["flow", "history", run]).ok();
    for word in [task].iter().chain(words) {
        assert!(outcome.stderr.contains(word), "no `{word}` in {}", outcome.stderr);
        assert!(history.contains(word), "no `{word}` in {history}");
    }
    run.to_owned()
}

/// A run of the Flow gives that.
#[track_caller]
fn gives(home: &Home, flow: &str, arguments: &[&str], output: &Value) {
    let outcome = run(home, flow, arguments);
    assert_eq!(outcome.code(), 0, "{outcome:#?}");
    assert_eq!(serde_json::from_str::<Value>(&outcome.stdout).unwrap(), *output);
}

fn set(value: &str) -> String {
    format!("    - it: {{set: {{value: '${{ {value} }}'}}}}\n")
}

/// A Flow whose expressions are evaluated by a process, before and after a while.
fn patient() -> String {
    let tasks = "    - first: {set: {list: '${ [range(3)] | map(. + $input.n) }'}}\n\
                 \x20   - pause: {wait: {seconds: 2}}\n\
                 \x20   - last: {set: {list: '${ .list | map(. * 2) }'}}\n";
    flow("patient", tasks, "")
}

fn patient_gives(n: u64) -> Value {
    json!({ "list": [2 * n, 2 * n + 2, 2 * n + 4] })
}

#[test]
fn what_no_flow_can_have_is_refused_at_its_place() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    let deep = set(&format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000)));
    let large = set(&format!("1{}", " + 1".repeat(20_000)));
    // The first task stands on line 10.
    let mistakes: [(&str, &str, &[&str]); 9] = [
        ("    - it: {frobnicate: {}}\n", ":10:12", &["do[0].it.frobnicate", "`call`"]),
        (&set("$secrets.a.b"), ":10:25", &["do[0].it.set.value", "$secrets", "call: http"]),
        (&deep, ":10:25", &["do[0].it.set.value", "100 brackets"]),
        (&large, ":10:25", &["do[0].it.set.value", "65536"]),
        (&set("env.PATH"), ":10:25", &["do[0].it.set.value", "`env`", "environment"]),
        (&set("$ENV.PATH"), ":10:25", &["do[0].it.set.value", "`$ENV`", "environment"]),
        (&set("import \"x\" as x; 1"), ":10:25", &["do[0].it.set.value", "`import`", "files"]),
        (&set("include \"x\"; 1"), ":10:25", &["do[0].it.set.value", "`include`", "files"]),
        (&set("1 +"), ":10:25", &["do[0].it.set.value"]),
    ];
    let refused = |outcome: Outcome, place: &str, words: &[&str]| {
        assert_eq!(outcome.code(), 2, "{outcome:#?}");
        for word in [place].iter().chain(words) {
            assert!(outcome.stderr.contains(word), "no `{word}` in {}", outcome.stderr);
        }
    };
    apply(&home, &[flow("before", &set("1"), "")]);
    let flows =
        || home.kubectl(&["get", "flows", "-o", "jsonpath={.items[*].metadata['name','generation']}"]).ok();
    assert_eq!(flows(), "before 1");
    for (tasks, place, words) in &mistakes {
        let bad = flow("bad", tasks, "");
        let file = home.write("bad.yaml", &bad).display().to_string();
        refused(home.tulle(&["validate", &file]), &format!("bad.yaml{place}"), words);
        // What is good and stands ahead of it is not applied either: neither a new Flow nor a change.
        let good = [flow("new", &set("1"), ""), flow("before", &set("2"), "")].join("---\n");
        home.write("files/a.yaml", &good);
        home.write("files/b.yaml", &bad);
        let folder = home.path().join("files").display().to_string();
        refused(home.tulle(&["apply", "-f", &folder]), &format!("b.yaml{place}"), words);
        // The server refuses it as well from whoever does not look.
        let outcome = home.kubectl(&["create", "--validate=false", "-f", &file]);
        assert!(outcome.code() == 1 && outcome.stderr.contains(words[0]), "{outcome:#?}");
        assert_eq!(flows(), "before 1");
    }
    ready(&home, "before");
    gives(&home, "before", &[], &json!({ "value": 1 }));
    assert!(up.interrupt().success());
    // Nor does `up` begin with it.
    let bad = flow("bad", mistakes[0].0, "");
    home.write("mesh/tulle.yaml", &[&*services("0ms"), &*bad].join("---\n"));
    let place = format!("tulle.yaml:{}:12", services("0ms").lines().count() + 1 + 10);
    let folder = home.path().join("mesh").display().to_string();
    refused(home.tulle(&["up", &folder]), &place, mistakes[0].2);
}

/// Expressions that do not come to an end by themselves, or need too much, and what is said of them.
const RUNAWAYS: &[(&str, &str)] = &[
    ("def f: 1+f; f", "calls itself"),
    ("reduce range(3000000) as $i (0; [.])", "200 ms"),
    ("def f: f; f", "200 ms"),
    ("[range(1e12)]", "200 ms"),
    ("\"x\"*1000000000", "128 MiB"),
    ("last(repeat(1))", "200 ms"),
    ("[limit(1e9; repeat(\"x\"))] | join(\",\")", "200 ms"),
];

#[test]
fn an_expression_that_runs_away_ends_its_own_run_alone() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    let names: Vec<String> = (0..RUNAWAYS.len()).map(|i| format!("away-{i}")).collect();
    let aways = names.iter().zip(RUNAWAYS).map(|(name, (jq, _))| flow(name, &set(jq), ""));
    apply(&home, &aways.chain([patient()]).collect::<Vec<_>>());
    names.iter().for_each(|name| ready(&home, name));
    ready(&home, "patient");
    // Those that wait have begun before, and evaluate something after; others begin meanwhile.
    let script = format!(
        "cd {}; good() {{ seq $1 $2 | xargs -P 20 -I@ curl -sf -m 20 -d '{{\"n\": @}}' -o answer-@ http://patient/; }}; good 1 20 & \
         for flow in {}; do curl -sf -m 20 -o $flow -H 'prefer: respond-async' -d 1 http://$flow/ & done; good 21 40; wait",
        home.path().display(),
        names.join(" ")
    );
    let others = home.start(&["run", "web", "--", "sh", "-c", &script]);
    assert!(others.wait(PATIENCE).success(), "{}", others.stderr());
    for n in 1..=40 {
        let answer = std::fs::read_to_string(home.path().join(format!("answer-{n}"))).unwrap_or_default();
        assert_eq!(answer, patient_gives(n).to_string(), "of {n}");
    }
    for (name, (_, words)) in names.iter().zip(RUNAWAYS) {
        let runs = runs_of(&home, name);
        assert_eq!(runs.len(), 1, "{name}: {runs:?}");
        eventually("the end of the run", PATIENCE, || {
            (state(&home, &runs[0])["state"] == "Faulted").then_some(())
        });
        is_error(&state(&home, &runs[0]), "expression", "/do/0/it", &[words]);
    }
    // One by one, as somebody at a terminal sees them; none holds up the next.
    for (name, (_, words)) in names.iter().zip(RUNAWAYS) {
        let begun = Instant::now();
        faults(&home, name, &[], "expression", "/do/0/it", &[words]);
        assert!(begun.elapsed() < Duration::from_secs(8), "{name} took {:?}", begun.elapsed());
    }
    gives(&home, "patient", &["-d", "{\"n\": 5}"], &patient_gives(5));
    assert!(up.interrupt().success());
}

#[test]
fn a_call_without_its_secret_is_not_made() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    let counted = CountingService::start(Duration::ZERO);
    let port = format!("80={}", counted.port);
    let _counted = home.start(&["run", "counted", "--port", &port, "--", "sleep", "600"]);
    // The document is that of `flow`, with the use of a Secret.
    let with_secret = |name: &str, with: &str| {
        let tasks = format!("    - pay:\n        call: http\n        with: {{method: get, {with}}}\n");
        flow(name, &tasks, "").replace("    do:\n", "    use: {secrets: [till-token]}\n    do:\n")
    };
    apply(
        &home,
        &[
            service("counted", "counted", 80),
            with_secret(
                "header",
                "endpoint: 'http://counted/', headers: {x-token: '${ $secrets[\"till-token\"].token }'}",
            ),
            with_secret(
                "bearer",
                "endpoint: {uri: 'http://counted/', authentication: {bearer: {use: till-token}}}",
            ),
            patient(),
        ],
    );
    ["header", "bearer", "patient"].iter().for_each(|name| ready(&home, name));
    let other = home.start(&["flow", "run", "patient", "-d", "{\"n\": 1}"]);
    let runs = ["header", "bearer"]
        .map(|name| faults(&home, name, &[], "configuration", "/do/0/pay", &["Secret", "till-token"]));
    assert!(other.wait(PATIENCE).success(), "{}", other.stderr());
    assert_eq!(counted.counted().len(), 0, "{:?}", counted.counted());
    // Once it may be read, the same runs go on.
    let granted = "apiVersion: v1\nkind: Secret\nmetadata: {name: till-token, namespace: default}\nstringData: {token: sesame-sesame}\n---\n\
                   apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: till, namespace: default}\n\
                   rules: [{apiGroups: [''], resources: [secrets], resourceNames: [till-token], verbs: [get]}]\n---\n\
                   apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: till, namespace: default}\n\
                   roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: till}\n\
                   subjects: [{kind: ServiceAccount, name: orders, namespace: default}]\n";
    apply(&home, &[granted.to_owned()]);
    for run in &runs {
        home.tulle(&["flow", "retry", run, "--from", "pay"]).ok();
        eventually("the end of the run", PATIENCE, || {
            (state(&home, run)["state"] == "Completed").then_some(())
        });
    }
    assert_eq!(counted.counted().len(), 2, "{:?}", counted.counted());
    assert!(up.interrupt().success());
}

#[test]
fn a_loop_over_too_many_items_ends_with_the_limit() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    let each = |name: &str, items: &str| {
        let tasks = format!(
            "    - all:\n        for: {{in: '{items}'}}\n        do:\n        - one: {{set: {{n: '${{ $item }}'}}}}\n"
        );
        flow(name, &tasks, "")
    };
    apply(
        &home,
        &[
            each("million", "[range(1000000)]"),
            each("many", "[range(100000)]"),
            each("given", ".items"),
            patient(),
        ],
    );
    ["million", "many", "given", "patient"].iter().for_each(|name| ready(&home, name));
    let other = home.start(&["flow", "run", "patient", "-d", "{\"n\": 1}"]);
    // A million are too large as well, and it is close which limit is met first.
    faults(&home, "many", &[], "expression", "/do/0/all", &["range(100000)", "262144 bytes"]);
    let million = faults(&home, "million", &[], "expression", "/do/0/all", &["range(1000000)"]);
    let error = state(&home, &million)["error"]["detail"].to_string();
    assert!(error.contains("262144 bytes") || error.contains("200 ms"), "{error}");
    let input = json!({ "items": (0..20_000).collect::<Vec<_>>() }).to_string();
    let input = format!("@{}", home.write("items.json", &input).display());
    // Whoever looks on computes all of it once more, which takes long in a binary that is not optimized.
    let run = home.tulle(&["flow", "run", "given", "--no-wait", "-d", &input]).ok().trim().to_owned();
    eventually("the end of the run", PATIENCE, || (state(&home, &run)["state"] == "Faulted").then_some(()));
    is_error(&state(&home, &run), "runtime", "/do/0/all/do/0/one", &["10000 tasks"]);
    let history = home.tulle(&["flow", "history", &run]).ok();
    assert!(history.contains("one[9999]") && !history.contains("one[10000]"), "{history}");
    assert!(history.contains("10000 tasks"), "{history}");
    // As many as a run may have are no error, whatever there was before.
    let input = json!({ "items": (0..50).collect::<Vec<_>>() }).to_string();
    gives(&home, "given", &["-d", &input], &json!({ "n": 49 }));
    assert!(other.wait(PATIENCE).success(), "{}", other.stderr());
    assert_eq!(serde_json::from_str::<Value>(&other.stdout()).unwrap(), patient_gives(1));
    assert!(up.interrupt().success());
}

/// Serves answers that are too large for as long as the process lives. Says of each how many bytes of it were taken, and by which path it was asked for.
fn large_answers() -> (u16, mpsc::Receiver<(String, usize)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (says, said) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let says = says.clone();
            std::thread::spawn(move || drop(answer_largely(stream, &says)));
        }
    });
    (port, said)
}

/// 10 MiB with their length or in chunks, or chunks without an end.
fn answer_largely(mut stream: TcpStream, says: &mpsc::Sender<(String, usize)>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    // The node opens one to see that the port is there.
    let Some(path) = first.split(' ').nth(1).map(str::to_owned) else { return Ok(()) };
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let (framing, pieces) = match &*path {
        "/length" => (format!("content-length: {}", 10 << 20), 160),
        "/chunks" => ("transfer-encoding: chunked".to_owned(), 160),
        _ => ("transfer-encoding: chunked".to_owned(), usize::MAX),
    };
    let digits = "1".repeat(64 << 10);
    let piece = if path == "/length" { digits } else { format!("10000\r\n{digits}\r\n") };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{framing}\r\n\r\n");
    let mut sent = stream.write_all(head.as_bytes());
    let mut taken = 0;
    while sent.is_ok() && taken < pieces {
        sent = stream.write_all(piece.as_bytes());
        taken += 1;
    }
    let _ = says.send((path, taken << 16));
    Ok(())
}

#[test]
fn an_answer_or_value_that_is_too_large_ends_with_the_limit() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    let (port, said) = large_answers();
    let _large = home.start(&["run", "large", "--port", &format!("80={port}"), "--", "sleep", "600"]);
    let paths = ["length", "chunks", "endless"];
    let mut objects = vec![service("large", "large", 80), patient()];
    objects.extend(paths.map(|path| flow(path, &call("get-it", &format!("http://large/{path}")), "")));
    let of_text = |name: &str, count: u64| flow(name, &set(&format!("\"x\" * {count}")), "");
    objects.extend([of_text("within", 260_000), of_text("beyond", 263_000)]);
    apply(&home, &objects);
    paths.iter().chain(&["within", "beyond", "patient"]).for_each(|name| ready(&home, name));
    let other = home.start(&["flow", "run", "patient", "-d", "{\"n\": 1}"]);
    for path in paths {
        faults(&home, path, &[], "runtime", "/do/0/get-it", &["answer", "1048576 bytes"]);
        // Who has sent it is not read to the end.
        let (of, taken) = said.recv_timeout(PATIENCE).unwrap();
        assert_eq!(of, format!("/{path}"));
        assert!(path != "endless" || taken < 64 << 20, "{taken} bytes");
    }
    faults(&home, "beyond", &[], "expression", "/do/0/it", &["262144 bytes"]);
    gives(&home, "within", &[], &json!({ "value": "x".repeat(260_000) }));
    assert!(other.wait(PATIENCE).success(), "{}", other.stderr());
    assert!(up.interrupt().success());
}

/// The condition `Accepted` of an object: its status and reason.
fn accepted(home: &Home, kind: &str, name: &str) -> String {
    let path = "jsonpath={.status.conditions[?(@.type==\"Accepted\")]['status','reason']}";
    home.kubectl(&["get", kind, name, "-o", path]).stdout
}

#[test]
fn a_name_is_the_older_ones_and_then_the_youngers() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    let of_c = service("twice", "c", 9091);
    let workflow = flow("twice", &set("\"of the flow\""), "");
    for (both, place) in [
        ([&*of_c, &workflow].join("---\n"), "both.yaml:8:18"),
        ([&*workflow, &of_c].join("---\n"), "both.yaml:14:18"),
        ([&*workflow, &*workflow].join("---\n"), "both.yaml:14:18"),
    ] {
        let file = home.write("both.yaml", &both).display().to_string();
        let outcome = home.tulle(&["validate", &file]);
        assert_eq!(outcome.code(), 2, "{outcome:#?}");
        for word in [place, "metadata.name", "default/twice", "both.yaml:1"] {
            assert!(outcome.stderr.contains(word), "no `{word}` in {}", outcome.stderr);
        }
    }
    let answer = || ask(&home, "web", &["http://twice/", "-d", "1"]);
    let by_service = |(head, body): &(String, String)| status(head) == 200 && body.contains("\"name\":\"c\"");
    let by_flow = |(head, body): &(String, String)| status(head) == 200 && body.contains("of the flow");

    apply(&home, &[of_c.clone(), patient()]);
    eventually("an answer of the Service", PATIENCE, || by_service(&answer()).then_some(()));
    // Somebody asks again and again while the other object comes.
    let script = "while :; do curl -s -m 5 -d 1 -w ' %{http_code}\\n' http://twice/; sleep 0.02; done";
    let asker = home.start(&["run", "asker", "--", "sh", "-c", script]);
    asker.wait_for_line("answer", PATIENCE, |line| line == " 200");
    apply(&home, std::slice::from_ref(&workflow));
    let is = |kind: &str, is: &str| {
        eventually("the condition", PATIENCE, || (accepted(&home, kind, "twice") == is).then_some(()));
    };
    is("flow", "False Conflicted");
    ready(&home, "patient");
    let other = home.start(&["flow", "run", "patient", "-d", "{\"n\": 1}"]);
    let answered = asker.stdout().lines().count();
    eventually("more answers", PATIENCE, || (asker.stdout().lines().count() > answered + 10).then_some(()));
    asker.signal(Signal::SIGTERM);
    asker.wait(PATIENCE);
    for line in asker.stdout().lines() {
        assert!(line.contains("\"name\":\"c\"") || line == " 200", "{line}");
    }

    home.tulle(&["delete", "service", "twice"]).ok();
    is("flow", "True Accepted");
    eventually("an answer of the Flow", PATIENCE, || by_flow(&answer()).then_some(()));
    // Ages are told apart by the second.
    let made = home.kubectl(&["get", "flow", "twice", "-o", "jsonpath={.metadata.creationTimestamp}"]).ok();
    let now = || tulle_tests::harness::run(home.command("date").args(["-u", "+%FT%TZ"])).ok();
    eventually("the next second", PATIENCE, || (now().trim() > &*made).then_some(()));
    apply(&home, &[of_c]);
    is("service", "False Conflicted");
    assert_eq!(accepted(&home, "flow", "twice"), "True Accepted");
    assert!(by_flow(&answer()));
    home.tulle(&["delete", "flow", "twice"]).ok();
    eventually("an answer of the Service", PATIENCE, || by_service(&answer()).then_some(()));
    assert!(other.wait(PATIENCE).success(), "{}", other.stderr());
    assert!(up.interrupt().success());
}

#[test]
fn an_input_that_no_run_takes_begins_none() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services("0ms"));
    apply(&home, &[flow("fed", &set("1"), ""), patient()]);
    ["fed", "patient"].iter().for_each(|name| ready(&home, name));
    let other = home.start(&["flow", "run", "patient", "-d", "{\"n\": 1}"]);
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    // What it is, and what a terminal and a service are told of it.
    let inputs: [(String, &[&str], u16, &[&str]); 7] = [
        ("{\"a\":".to_owned(), &["JSON", "line 1"], 400, &["JSON", "line 1"]),
        ("{} {}".to_owned(), &["JSON"], 400, &["JSON"]),
        ("{'a': 1}".to_owned(), &["JSON"], 400, &["JSON"]),
        (text(300 << 10), &["256 KiB"], 413, &["256 KiB"]),
        (text(2 << 20), &["larger", "KiB"], 413, &["bytes"]),
        (nested(200), &["input.json", "100"], 400, &["body", "100"]),
        (nested(100_000), &["input.json", "100"], 400, &["body", "100"]),
    ];
    for (input, terminal, code, service) in &inputs {
        let shown = &input[..input.len().min(20)];
        let file = format!("@{}", home.write("input.json", input).display());
        let outcome = run(&home, "fed", &["-d", &file]);
        assert_eq!(outcome.code(), 2, "{shown}: {outcome:#?}");
        for word in *terminal {
            assert!(outcome.stderr.contains(word), "{shown}: no `{word}` in {}", outcome.stderr);
        }
        let (head, body) = ask(&home, "web", &["http://fed/", "--data-binary", &file]);
        assert_eq!(status(&head), *code, "{shown}: {head} {body}");
        for word in *service {
            assert!(body.contains(word), "{shown}: no `{word}` in {body}");
        }
    }
    assert_eq!(runs_of(&home, "fed"), [""; 0]);
    // What is just within the limits is taken.
    for input in [text(255 << 10), nested(99)] {
        let file = format!("@{}", home.write("input.json", &input).display());
        gives(&home, "fed", &["-d", &file], &json!({ "value": 1 }));
        assert_eq!(status(&ask(&home, "web", &["http://fed/", "--data-binary", &file]).0), 200);
    }
    assert_eq!(runs_of(&home, "fed").len(), 4);
    assert!(other.wait(PATIENCE).success(), "{}", other.stderr());
    assert!(up.interrupt().success());
}
