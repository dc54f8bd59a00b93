//! What `tulle run` says of its workload, and what its process knows of the services of its namespace.

use std::time::Duration;

use tulle_tests::harness::{Home, Process, alone, eventually, tulle};

const PATIENCE: Duration = Duration::from_secs(30);

/// What it says once it is ready.
#[track_caller]
fn ready(process: &Process) -> String {
    eventually("readiness", PATIENCE, || {
        let said = process.stderr();
        said.lines().find(|line| line.starts_with("ready after ")).map(str::to_owned)
    })
}

#[test]
fn who_runs_is_said_and_what_is_there_to_call_known() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    home.write(
        "mesh/tulle.yaml",
        &format!(
            "namespace: shop\nservices:\n\
             \x20 web: {{command: [\"{binary}\", fake-service, --name, web], port: 9461/http}}\n\
             ---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: more}}\n\
             spec: {{selector: {{app: more}}, ports: [{{port: 80}}]}}\n\
             ---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: all}}\n\
             spec: {{selector: {{tier: front}}, ports: [{{name: a, port: 81, targetPort: 9462}}, {{name: b, port: 82, targetPort: 9463}}]}}\n"
        ),
    );
    let folder = home.path().join("mesh").display().to_string();
    let up = home.start(&["up", &folder, "--capture", "explicit", "--workers", "1"]);
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    home.write(
        "later.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: later}\nspec: {selector: {app: web}, ports: [{port: 83, targetPort: 9461}]}\n",
    );
    home.tulle(&["apply", "-f", "later.yaml"]).ok();

    // A client: one line on stderr, and nothing on stdout that is not its own.
    let script = "curl -s http://$LATER_SERVICE_HOST:$LATER_SERVICE_PORT/ | grep -o web | head -n 1; \
                  env | grep -c '^\\(WEB\\|MORE\\|LATER\\)_SERVICE_PORT=\\|^ALL_SERVICE_PORT_8[12]='";
    let command = ["--", "sh", "-c", script];
    let outcome = home.tulle(&[&["run", "me"][..], &command].concat());
    assert_eq!(outcome.stdout, "web\n5", "{outcome:#?}");
    assert_eq!(outcome.stderr, "workload shop/me, spiffe://mesh.local/ns/shop/sa/me");
    let quiet = home.tulle(&[&["run", "me", "--quiet"][..], &command].concat());
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("web\n5", ""));

    let serve = |name: &str, more: &[&str]| {
        let fake = ["--", &binary, "fake-service", "--listen", "127.0.0.1:9462"];
        home.start(&[&["run", name, "--port", "9462"][..], more, &fake].concat())
    };
    let nameless = serve("lonely", &[]);
    let line = ready(&nameless);
    assert!(line.contains("no Service of shop selects it by its labels, app=lonely"), "{line}");
    assert!(nameless.interrupt().success());
    let found = serve("front", &["--label", "tier=front", "--service-account", "web"]);
    let line = ready(&found);
    assert!(line.ends_with(": all:81 leads to it"), "{line}");
    assert!(found.stderr().contains("workload shop/front, spiffe://mesh.local/ns/shop/sa/web"));
    assert!(found.interrupt().success());
    assert!(up.interrupt().success());
}
