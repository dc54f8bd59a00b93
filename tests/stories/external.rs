//! A service of the mesh that is asked about requests: one of Envoy's ext_authz, in Python, under `tulle up`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tulle_tests::harness::{Home, alone, client, eventually, python, require_root};

const PATIENCE: Duration = Duration::from_secs(15);

/// Status, headers (in lower case) and body of what `curl` hears of the service.
fn ask(home: &Home, user: &str) -> (String, String, String) {
    let header = format!("x-user: {user}");
    let words =
        ["run", "me", "--", "curl", "-s", "-i", "-m", "10", "-H", &header, "http://shop:9621/orders?id=7"];
    let answer = home.tulle(&words).stdout.replace("\r\n", "\n");
    let (head, body) = answer.split_once("\n\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
    (status, head.to_lowercase(), body.to_owned())
}

#[test]
fn a_service_in_python_is_asked_about_requests() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let (python, echo, authorizer) =
        (python().display().to_string(), client("echo.py"), client("authorizer.py"));
    let up = home.up(&format!(
        "services:\n  shop:\n    command: [\"{python}\", \"{echo}\", \"http:shop:9621\"]\n    port: 9621\n  \
         checks:\n    command: [\"{python}\", \"{authorizer}\"]\n    port: 9622\n"
    ));
    let apply = |more: Value| {
        let mut external = json!({ "protocol": "GRPC", "grpc": {}, "backendRef": { "name": "checks", "port": 9622 }, "timeout": "2s" });
        external.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let policy = json!({
            "apiVersion": "tulle.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": { "name": "ask" },
            "spec": { "targetRefs": [{ "group": "", "kind": "Namespace" }], "externalAuth": external }
        });
        let file = home.write("policy.json", &policy.to_string()).display().to_string();
        home.tulle(&["apply", "-f", &file]).ok();
    };
    assert_eq!(ask(&home, "eve").0, "200", "nobody is asked yet");
    apply(json!({}));
    let denied = eventually("that somebody is asked", PATIENCE, || {
        let answer = ask(&home, "eve");
        (answer.0 == "401").then_some(answer)
    });
    assert_eq!(denied.2, "come back as ada");
    for line in ["www-authenticate: test", "tulle-reason: denied-by=default/ask"] {
        assert!(denied.1.contains(line), "{}", denied.1);
    }
    // The policy is about all of the namespace, who is asked among them: of what he is asked nobody is.
    let (status, _, body) = ask(&home, "ada");
    assert_eq!(status, "200", "{body}");
    assert!(body.contains(r#"["x-checked", "ada@/orders?id=7"]"#), "{body}");
    let question = up.wait_for_line("the question", PATIENCE, |line| line.contains("\"x-user\": \"ada\""));
    let question: Value = serde_json::from_str(&question[question.find('{').unwrap()..]).unwrap();
    assert_eq!(question["source"], "spiffe://mesh.local/ns/default/sa/me");
    assert_eq!(question["destination"], "spiffe://mesh.local/ns/default/sa/shop");
    assert_eq!((&question["method"], &question["path"]), (&json!("GET"), &json!("/orders?id=7")));

    let began = Instant::now();
    let (status, head, _) = ask(&home, "sleepy");
    assert_eq!(status, "403", "{head}");
    assert!(head.contains("tulle-reason: external-auth-unavailable"), "{head}");
    assert!(began.elapsed() < Duration::from_secs(5));
    apply(json!({ "failOpen": true, "timeout": "300ms" }));
    eventually("that it enters unasked", PATIENCE, || (ask(&home, "sleepy").0 == "200").then_some(()));
    assert_eq!(ask(&home, "eve").0, "401", "who is denied does not");

    let said = home.tulle(&["auth", "check", "--from", "me", "--to", "shop", "GET", "/orders"]);
    assert_eq!(said.code(), 0, "{}", said.stderr);
    assert!(
        said.stderr.contains("AuthorizationPolicy default/ask asks Service default/checks port 9622"),
        "{}",
        said.stderr
    );
    let explained = home.tulle(&["explain", "--from", "checks", "http://shop:9621/orders"]).ok();
    assert!(explained.contains("asks Service default/checks port 9622 about it"), "{explained}");
    assert!(up.interrupt().success());
}
