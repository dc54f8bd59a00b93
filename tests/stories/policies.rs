//! Policies out of the traffic seen, and what a change of them would change.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tulle_tests::harness::{Home, alone, eventually, project, require_root, tulle};

const PATIENCE: Duration = Duration::from_secs(30);

/// The example's services, with their ports, and who calls whom.
const SERVICES: [(&str, u16); 6] =
    [("a", 9089), ("b", 9090), ("c", 9091), ("d", 9092), ("e", 9093), ("f", 9094)];
const CALLS: [(&str, &str); 5] = [("a", "c"), ("b", "c"), ("c", "d"), ("d", "e"), ("d", "f")];

/// The statuses that `curl` hears of each of these, asked by a workload of that service account.
fn statuses(home: &Home, account: &str, asked: &[String]) -> Vec<String> {
    let curls =
        asked.iter().map(|asked| format!("curl -s -m 10 -o /dev/null -w '%{{http_code}}\\n' {asked}; "));
    let script = curls.collect::<String>();
    let name = format!("asks-{account}");
    let run = ["run", &name, "--service-account", account, "--", "sh", "-c", &script];
    home.tulle(&run).stdout.lines().map(str::to_owned).collect()
}

/// How many requests of each edge there were in the last minute, and how many of these were refused.
fn edges(home: &Home) -> Vec<(String, String, u64, u64)> {
    let view: Value = serde_json::from_str(&home.tulle(&["edges", "-o", "json"]).ok()).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let edge = |edge: &Value| {
        let [source, destination] = ["source", "destination"].map(|end| text(&edge[end]["name"]));
        let [all, refused] = ["requests", "refused"].map(|field| edge[field].as_u64().unwrap());
        (source, destination, all, refused)
    };
    view["edges"].as_array().unwrap().iter().map(edge).collect()
}

fn denied(home: &Home, up: &tulle_tests::harness::Process) -> u64 {
    // The node says how many policies have denied; the services' logs would say so, too.
    assert!(up.is_running());
    let metrics = home.command("curl").args(["-s", "http://127.0.0.1:15020/metrics"]).output().unwrap();
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    assert!(metrics.contains("tulle_requests_total"), "{metrics}");
    let lines = metrics.lines().filter(|line| line.starts_with("tulle_authorization_total{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

#[test]
fn the_chain_runs_under_what_is_suggested_and_nothing_else_does() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let example = project().join("examples/chain").display().to_string();
    let up = home.start(&["up", &example]);
    let suggested = eventually("that all is seen", PATIENCE, || {
        // Of both that call c: each is known for itself.
        if home.edges().len() < CALLS.len() {
            return None;
        }
        let suggested = home.tulle(&["policy", "suggest"]).stdout;
        let has = |service: &str| {
            let of_service =
                suggested.split("---\n").find(|of| of.contains(&format!("name: {service}-callers")));
            of_service.is_some_and(|of| of.contains("rules:") && !of.contains("bytes"))
        };
        ["c", "d", "e", "f"].iter().all(|service| has(service)).then_some(suggested)
    });
    for (service, _) in SERVICES {
        assert!(suggested.contains(&format!("name: {service}-callers")), "{suggested}");
    }
    for said in
        ["method: Call", "service: tulle.fake.v1.FakeService", "- GET", "value: /\n", "lets in nobody"]
    {
        assert!(suggested.contains(said), "no `{said}` in {suggested}");
    }
    let file = home.write("policies.yaml", &suggested).display().to_string();
    home.tulle(&["validate", &file]).ok();
    let impact = home.tulle(&["policy", "impact", "-f", &file]).ok();
    assert!(impact.contains("0 of the 5 edges"), "{impact}");
    home.tulle(&["apply", "-f", &file]).ok();
    eventually("the policies", PATIENCE, || {
        let closed = format!("http://f:{}/", SERVICES[5].1);
        (statuses(&home, "nobody", &[closed]) == ["403"]).then_some(())
    });

    // What it does goes on.
    let (before, refused) = (edges(&home), denied(&home, &up));
    std::thread::sleep(Duration::from_secs(5));
    let after = edges(&home);
    for (from, to) in CALLS {
        let of = |edges: &[(String, String, u64, u64)]| {
            edges.iter().find(|edge| edge.0 == from && edge.1 == to).map(|edge| (edge.2, edge.3))
        };
        let ((before, _), (after, refused)) = (of(&before).unwrap(), of(&after).unwrap());
        assert!(after > before && refused == 0, "{from} {to}: {before} {after} {refused}");
    }
    assert_eq!(denied(&home, &up), refused);

    // Nobody else does anything, nor those anything else.
    let all: Vec<_> = SERVICES.iter().map(|(to, port)| format!("http://{to}:{port}/")).collect();
    for (from, _) in SERVICES {
        let expected: Vec<_> = SERVICES
            .iter()
            .map(|(to, _)| match CALLS.contains(&(from, to)) {
                // Of `d` it is a call of gRPC that is allowed.
                true if *to != "d" => "200",
                _ => "403",
            })
            .collect();
        assert_eq!(statuses(&home, from, &all), expected, "{from}");
    }
    let others = ["-X POST http://c:9091/", "http://c:9091/other", "http://c:9091//other"];
    assert_eq!(statuses(&home, "a", &others.map(str::to_owned)), ["403", "403", "400"]);
    assert!(home.tulle(&["auth", "check", "--from", "default/e", "--to", "f", "/"]).code() == 1);

    // Those attempts are no reason to allow them.
    let again = home.tulle(&["policy", "suggest"]).ok();
    assert_eq!(again, suggested);
    assert!(up.interrupt().success());
}

const TO: [&str; 10] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"];
const FROM: usize = 20;
const PORT: u16 = 9560;

/// A policy that lets those in, each with its method and path.
fn policy(to: &str, rules: &[(&str, String)]) -> String {
    let rule = |(asked, accounts): &(&str, String)| {
        let (method, path) = asked.split_once(' ').unwrap();
        let accounts = accounts
            .split(' ')
            .map(|account| format!("{{type: ServiceAccount, serviceAccount: {{name: {account}}}}}"));
        let accounts: Vec<_> = accounts.collect();
        format!(
            "  - sources: [{}]\n    http: {{methods: [{method}], paths: [{{type: Template, value: '{path}'}}]}}\n",
            accounts.join(", ")
        )
    };
    let rules: String = rules.iter().map(rule).collect();
    format!(
        "apiVersion: tulle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {to}, namespace: default}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: {to}}}]\n  action: Allow\n  rules:\n{rules}---\n"
    )
}

#[test]
fn the_impact_of_a_mistake_is_named() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let fake = tulle().display().to_string();
    let services = TO.iter().enumerate().map(|(index, name)| {
        let port = PORT + index as u16;
        format!("  {name}:\n    command: [\"{fake}\", fake-service, --name, {name}]\n    port: {port}\n")
    });
    let up = home.up(&format!("services:\n{}", services.collect::<String>()));
    let path =
        |from: usize, to: usize| format!("http://{}:{}/items/{}", TO[to], PORT + to as u16, from * 10 + to);
    for from in 0..FROM {
        let asked: Vec<_> = (0..TO.len()).map(|to| path(from, to)).collect();
        assert_eq!(statuses(&home, &format!("s{from}"), &asked), vec!["200"; TO.len()]);
    }
    let all: Vec<_> = (0..FROM).map(|from| format!("s{from}")).collect();
    let but =
        |left_out: &str| all.iter().filter(|name| *name != left_out).cloned().collect::<Vec<_>>().join(" ");
    let get = "GET /items/{id}";
    let impact = |policies: &str| {
        let file = home.write("new.yaml", policies).display().to_string();
        let outcome = home.tulle(&["policy", "impact", "-f", &file, "-o", "json"]);
        let found: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
        (outcome.code(), found)
    };
    let good: String = TO.iter().map(|to| policy(to, &[(get, all.join(" "))])).collect();
    let (code, found) = eventually("200 edges", PATIENCE, || {
        let (code, found) = impact(&good);
        (found["edges"]["seen"] == 200).then_some((code, found))
    });
    assert_eq!((code, &found["edges"]["changed"]), (0, &0.into()), "{found}");

    // Somebody is left out, has another method, another path.
    let mistaken: String = TO
        .iter()
        .map(|to| match *to {
            "c3" => policy(to, &[(get, but("s7"))]),
            "c5" => policy(to, &[(get, but("s2")), ("PUT /items/{id}", "s2".to_owned())]),
            "c9" => policy(to, &[(get, but("s11")), ("GET /item/{id}", "s11".to_owned())]),
            to => policy(to, &[(get, all.join(" "))]),
        })
        .collect();
    let expected: BTreeSet<_> =
        [("s7", "c3"), ("s2", "c5"), ("s11", "c9")].map(|(from, to)| (from.to_owned(), to.to_owned())).into();
    let (code, found) = impact(&mistaken);
    assert_eq!(
        (code, &found["edges"]["changed"], &found["edges"]["seen"]),
        (1, &3.into(), &200.into()),
        "{found}"
    );
    let changes = found["changes"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let named = changes.iter().map(|change| {
        assert_eq!(
            (text(&change["now"]), text(&change["then"])),
            ("allowed".into(), "denied".into()),
            "{change}"
        );
        let to = text(&change["destination"]["name"]);
        assert_eq!(text(&change["decidedBy"]), format!("AuthorizationPolicy/default/{to}"));
        (text(&change["source"]).rsplit('/').next().unwrap().to_owned(), to)
    });
    assert_eq!(named.collect::<BTreeSet<_>>(), expected);

    // It is so: with them applied, these and no others are denied.
    let file = home.path().join("new.yaml").display().to_string();
    home.tulle(&["apply", "-f", &file]).ok();
    eventually("the policies", PATIENCE, || (statuses(&home, "s7", &[path(7, 3)]) == ["403"]).then_some(()));
    let mut denied = BTreeSet::new();
    for from in 0..FROM {
        let asked: Vec<_> = (0..TO.len()).map(|to| path(from, to)).collect();
        let statuses = statuses(&home, &format!("s{from}"), &asked);
        let found = (0..TO.len()).filter(|to| statuses[*to] != "200");
        denied.extend(found.map(|to| (format!("s{from}"), TO[to].to_owned())));
    }
    assert_eq!(denied, expected);

    // What is denied now would be let in again without them.
    let outcome = home.tulle(&["policy", "impact", "--delete", "c3"]);
    assert_eq!(outcome.code(), 1, "{}", outcome.stdout);
    assert!(outcome.stdout.contains("1 of the 200 edges"), "{}", outcome.stdout);
    assert!(up.interrupt().success());
}
