//! Copies of requests for somebody who does not take them: their callers are not to notice.

use std::time::Duration;

use tulle_tests::chaos::{figure, full, is_release, length};
use tulle_tests::harness::{Home, Process, alone, client, python, run, tulle};

use crate::two_nodes::Load;

const PATIENCE: Duration = Duration::from_secs(60);
/// How much later the median request may be answered, and the last of a hundred, beside one that is not copied.
const P50: f64 = 1.02;
const P99: f64 = 1.10;

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mirror, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: shop, port: 9491}]
  rules:
  - matches: [{path: {value: /copied}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: deaf, port: 9492}}}
    backendRefs: [{name: shop, port: 9491}]
  - matches: [{path: {value: /plain}}]
    backendRefs: [{name: shop, port: 9491}]
";

#[test]
fn a_mirror_that_takes_nothing_delays_no_caller() {
    let _alone = alone();
    let home = Home::new();
    let (binary, python) = (tulle().display().to_string(), python().display().to_string());
    let services = format!(
        "services:\n  shop:\n    command: [\"{binary}\", fake-service]\n    port: 9491\n    \
         probe: {{http: /healthz}}\n  deaf:\n    command: [\"{python}\", \"{}\", \"9492\"]\n    port: 9492\n",
        client("deaf_server.py"),
    );
    home.write("mesh/tulle.yaml", &services);
    let folder = home.path().join("mesh").display().to_string();
    let mut command = home.command(tulle());
    command.args(["up", "--capture", "explicit", &folder]);
    let up = Process::spawn(&mut command);
    up.wait_for_line("readiness", PATIENCE, |line| line.contains("all services are ready"));
    let route = home.write("mirror.yaml", ROUTE).display().to_string();
    home.tulle(&["apply", "-f", &route]).ok();

    // All are measured before any fails.
    let mut late = Vec::new();
    // Bodies of the one kind are behind at once, and requests of the other are never answered.
    // They are asked in turn, so that what else the machine does is in both; and so many that chance moves a median by half of
    // a per cent (of 2,400 it was more than 1), and that the last of a hundred is none of the worst hundred.
    for (what, bytes, rate) in [("1 MiB", "1048576", "100"), ("no body", "0", "300")] {
        let seconds = length(Duration::from_secs(1), Duration::from_secs(150)).as_secs().to_string();
        let urls = "http://shop:9491/plain,http://shop:9491/copied".to_owned();
        let mut arguments = vec![client("load.py"), urls, rate.to_owned(), seconds, "2".to_owned()];
        if bytes != "0" {
            arguments.push(bytes.to_owned());
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let load = Load::of(&home.run_client("plain", &arguments));
        assert!(load.failures.is_empty() && load.requests > 0, "{what}: {:?}", load.failures);
        let [plain, copied] = load.each[..] else { panic!("there are two") };
        let (p50, p99) = (copied[0] / plain[0], copied[1] / plain[1]);
        figure("mirrored", &format!("{what}: p50 with a copy, times that without"), p50);
        figure("mirrored", &format!("{what}: p99 with a copy, times that without"), p99);
        // Other profiles, and single pairs, show what is coarse.
        assert!(p50 <= 3.0, "{what}: p50 is {p50} times that without copies");
        if full() && is_release() && !(p50 <= P50 && p99 <= P99) {
            late.push(format!("{what}: p50 {p50}, p99 {p99} times that without copies"));
        }
    }
    let said = up.stdout();
    let metrics = said.lines().find_map(|line| line.split_once("metrics: ")).expect("where metrics are").1;
    let metrics = run(home.command("curl").args(["-s", metrics])).ok();
    let behind = "tulle_requests_refused_total{reason=\"mirror-behind\"} ";
    let behind = metrics.lines().find_map(|line| line.strip_prefix(behind)).expect(&metrics);
    figure("mirrored", "copies that were behind", behind);
    assert_ne!(behind, "0");
    assert!(up.interrupt().success());
    assert!(late.is_empty(), "{late:?}");
}
