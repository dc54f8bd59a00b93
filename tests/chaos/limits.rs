//! What one client does to a service, and what others notice: other workloads of its node, and others of its own
//! workload, which share its links.

use std::time::Duration;

use tulle_tests::chaos::{self, is_prompt};
use tulle_tests::harness::{alone, client, python, require_root};

use crate::two_nodes::{Load, mesh, metric};

/// The first is no abuse, to compare with.
const KINDS: [&str; 6] = ["requests", "heads", "resets", "deadlines", "closes", "frames"];
/// Requests a second of each polite load.
const RATE: &str = "100";

/// What somebody is told who reaches a bound that each caller has for itself (docs/limits.md).
const OF_ONE_CALLER: [&str; 4] = ["streams-full", "application-connections", "memory", "descriptors"];

/// Under each kind of abuse by one client, no other workload's request fails, and no link is closed. What the same
/// workload sends besides shares the abuser's bounds: it may find them reached, and is told so.
#[test]
fn an_abusive_client_hurts_nobody_else() {
    require_root!();
    let _alone = alone();
    let mesh = mesh();
    let seconds = chaos::length(Duration::from_secs(1), Duration::from_secs(8)).as_secs().to_string();
    let python = python().display().to_string();
    let (load, abuse, url) = (client("load.py"), client("abuse.py"), "http://c:9091/");
    // Of c itself, which may be busy with what the abuser sends it, only failures are looked at.
    let beside = |name: &str, url: &str| mesh.one.run_client(name, &[&load, url, RATE, &seconds]);
    let before = Load::of(&beside("polite", "http://d:9092/"));
    assert!(before.failures.is_empty(), "{:?}", before.failures);
    chaos::figure("abusive client", "polite p99 without it, ms", before.p99);
    // Beside as many requests without abuse.
    let mut busy = before.p99;
    for kind in KINDS {
        // Both as one workload.
        let script = format!(
            "{python} {load} {url} {RATE} {seconds} & {python} {abuse} {url} {kind} {seconds} & wait"
        );
        let same = mesh.one.start(&["run", "mixed", "--", "sh", "-c", &script]);
        let (other, own) = (beside("polite", "http://d:9092/"), beside("another", url));
        let (other, own) = (Load::of(&other), Load::of(&own));
        let mixed = Load::of(&same);
        let text = same.stdout();
        let did =
            text.lines().find(|line| line.starts_with("{\"connections\"") || line.contains("\"requests\""));
        let links = ["one", "two"].iter().zip([&mesh.one, &mesh.two]);
        for (name, home) in links {
            assert_eq!(metric(home, "tulle_links_abused_total"), 0.0, "{kind}: links of node {name}");
            assert_eq!(metric(home, "tulle_link_faults_total"), 0.0, "{kind}: links of node {name}");
        }
        chaos::figure(
            "abusive client",
            &format!("{kind}: p99 of requests to another service, ms"),
            other.p99,
        );
        assert!(
            kind == "requests" || is_prompt(other.p99, busy),
            "{kind}: {} ms, {busy} ms without abuse",
            other.p99
        );
        if kind == "requests" {
            busy = other.p99;
        }
        let loads = [("another service", &other), ("another workload", &own), ("the same workload", &mixed)];
        for (whose, load) in loads {
            let (told, failed): (Vec<_>, Vec<_>) = load
                .failures
                .iter()
                .partition(|failure| OF_ONE_CALLER.iter().any(|own| failure["reason"] == *own));
            chaos::figure("abusive client", &format!("{kind}: {whose} met bounds of its own"), told.len());
            assert!(failed.is_empty(), "{kind}: {whose}: {failed:?}");
            assert!(told.is_empty() || whose == "the same workload", "{kind}: {whose}: {told:?}");
            assert!(load.requests >= 90, "{kind}: {whose}: {}", load.requests);
        }
        chaos::figure("abusive client", &format!("{kind}: what it did"), did.unwrap_or_default());
    }
    chaos::figure(
        "abusive client",
        "connections sent away",
        metric(&mesh.one, "tulle_abusive_clients_total"),
    );
    chaos::figure("abusive client", "links", metric(&mesh.one, "tulle_links{side=\"client\"}"));
}
