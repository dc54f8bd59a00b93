//! What bash offers at a tab, beside a mesh that runs and without one.

use std::time::Duration;

use tulle_tests::harness::{Home, alone, run, tulle};

const PATIENCE: Duration = Duration::from_secs(30);

/// What bash offers for the last word of a line.
fn offered(home: &Home, line: &str) -> Vec<String> {
    let words: Vec<_> = line.split(' ').collect();
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let last = quoted.last().unwrap();
    let binary = tulle().display().to_string();
    let script = format!(
        "set -e; source <('{binary}' completions bash); \
         COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9; \
         $(complete -p tulle | grep -o '_clap_[a-z_]*') tulle {last} x; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1,
    );
    let outcome = run(home.command("bash").args(["-c", &script]));
    assert_eq!(outcome.stderr, "", "{line}");
    outcome.ok().lines().map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

#[test]
fn what_there_is_is_offered() {
    let _alone = alone();
    let home = Home::new();
    let binary = tulle().display().to_string();
    // Without a mesh: what the binary knows, and no error.
    assert_eq!(offered(&home, "tulle rest"), ["restart"]);
    assert!(offered(&home, "tulle restart ").iter().all(|word| word.starts_with('-')));
    assert_eq!(offered(&home, "tulle get endp"), ["endpointslices"]);
    assert_eq!(offered(&home, "tulle get services w"), Vec::<String>::new());
    home.write(
        "mesh/tulle.yaml",
        &format!(
            "namespace: shop\nservices:\n\
             \x20 web: {{command: [\"{binary}\", fake-service, --name, web], port: 9465/http, replicas: 2}}\n\
             \x20 worker: {{command: [\"{binary}\", fake-service, --name, worker], port: 9466/http}}\n\
             \x20 api: {{command: [\"{binary}\", fake-service, --name, api], port: 9467/http}}\n"
        ),
    );
    let folder = home.path().join("mesh").display().to_string();
    let up = home.start(&["up", &folder, "--capture", "explicit", "--workers", "1"]);
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    for (line, expected) in [
        ("tulle restart w", &["web", "worker"][..]),
        ("tulle stop api wo", &["worker"]),
        ("tulle exec web", &["web", "web-0", "web-1"]),
        ("tulle logs -f wo", &["worker"]),
        ("tulle scale a", &["api="]),
        ("tulle get services w", &["web", "worker"]),
        ("tulle describe svc/a", &["svc/api"]),
        ("tulle get svc,wl web", &["web", "web-0", "web-1"]),
        ("tulle get httproutes -n s", &["shop"]),
        ("tulle get services -n default w", &[]),
        ("tulle history ser", &["services/"]),
        ("tulle history services/ap", &["services/api"]),
        ("tulle split we", &["web"]),
        ("tulle explain --from web-", &["web-0", "web-1"]),
    ] {
        assert_eq!(offered(&home, line), expected, "{line}");
    }
    assert!(up.interrupt().success());
}
