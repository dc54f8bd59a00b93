//! A route that lets one path through, and requests that try to get around it.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tulle_tests::harness::{Home, alone, client, eventually, python, require_root};

/// Of `parent`, what is below `/public` reaches the service; nothing else does.
fn route(parent: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: public, namespace: default}}
spec:
  parentRefs: [{{group: '', kind: Service, name: app{parent}}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: /public}}}}]
    backendRefs: [{{name: app, port: 9451}}]
"
    )
}

/// What a client hears of each of `requests`, which are Python's literals of bytes.
fn ask(home: &Home, pause: &str, requests: &[&str]) -> Vec<String> {
    let python = python().display().to_string();
    let script = client("raw_http.py");
    let mut command = home.command(tulle_tests::harness::tulle());
    command.args(["run", "client", "--", &python, &script, "--pause", pause, "app", "9451"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(requests.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn no_request_gets_around_a_route() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let (python, server) = (python().display().to_string(), client("raw_http.py"));
    let up = home.up(&format!(
        "services:\n  app:\n    command: [\"{python}\", \"{server}\", server]\n    port: 9451\n    probe: {{tcp: true}}\n"
    ));
    let around = [
        r"b' GET /secret HTTP/1.1\r\nhost: app\r\n\r\n'",
        r"b'GET  /secret HTTP/1.1\r\nhost: app\r\n\r\n'",
        r"b'GET\t/secret HTTP/1.1\r\nhost: app\r\n\r\n'",
        r"b'GET /secret http/1.1\r\nhost: app\r\n\r\n'",
        r"b'GET /secret HTTP/3.0\r\nhost: app\r\n\r\n'",
        r"b'GET /secret\n'",
        r"b'get /secret\r\n'",
        r"b'\0GET /secret HTTP/1.1\r\n\r\n'",
        r"b'GET /public/../secret HTTP/1.1\r\nhost: app\r\n\r\n'",
        r"b'GET /public/%2e%2E/secret HTTP/1.1\r\nhost: app\r\n\r\n'",
        r"b'\r\nGET /secret HTTP/1.1\r\nhost: app\r\n\r\n'",
        r"b'LONGERTHANANYMETHODTHATHTTPHAS /secret HTTP/1.1\r\nhost: app\r\n\r\n'",
    ];
    let expected: Vec<&str> =
        [vec!["HTTP/1.1 400 Bad Request"; 10], vec!["HTTP/1.1 404 Not Found"; 2]].concat();
    let (redis, tls) = (r"b'*1\r\n$4\r\nPING\r\n'", r"b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'");
    for (parent, others) in [("", "HTTP/1.1 200 OK"), (", port: 9451", "reset")] {
        let file = home.write("route.yaml", &route(parent)).display().to_string();
        home.tulle(&["apply", "-f", &file]).ok();
        eventually("the route", Duration::from_secs(10), || {
            let probe = [r"b'GET /other HTTP/1.1\r\nhost: app\r\n\r\n'", redis];
            (ask(&home, "0", &probe) == ["HTTP/1.1 404 Not Found", others]).then_some(())
        });
        let good = r"b'\r\n\r\nGET /public/%7Ex HTTP/1.1\r\nhost: app\r\n\r\n'";
        assert_eq!(ask(&home, "0", &[good]), ["HTTP/1.1 200 OK"], "{parent}");
        assert_eq!(ask(&home, "0", &around), expected, "{parent}");
        assert_eq!(ask(&home, "0.7", &around[9..]), expected[9..], "{parent}");
        assert_eq!(ask(&home, "0", &[tls]), [others], "{parent}");

        let status = home.kubectl(&["get", "httproute", "public", "-o", "json"]).ok();
        let status: Value = serde_json::from_str(&status).unwrap();
        let conditions = status["status"]["parents"][0]["conditions"].as_array().unwrap().clone();
        let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted").unwrap();
        let warns =
            accepted["message"].as_str().unwrap().contains("protocols other than HTTP pass port 9451");
        assert_eq!(warns, parent.is_empty(), "{accepted}");
    }
    assert!(!up.stdout().contains("/secret") && !up.stderr().contains("/secret"), "{}", up.stdout());
    assert!(
        up.stdout().contains("/public/%7Ex"),
        "the application gets the path as it came: {}",
        up.stdout()
    );
    assert!(up.interrupt().success());
}
