//! Half of the traffic to a new version, and back, while requests go on.

use std::time::{Duration, Instant};

use tulle_tests::harness::{Home, alone, client, eventually, require_root, tulle};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: d}]
  rules:
  - backendRefs:
    - {name: d-v1, port: 9400, weight: 80}
    - {name: d-v2, port: 9402, weight: 20}
";

fn services() -> String {
    let binary = tulle().display().to_string();
    let service = |name: &str, port: u16| {
        format!("  {name}:\n    command: [\"{binary}\", fake-service, --name, {name}]\n    port: {port}\n")
    };
    format!("services:\n{}{}{}", service("d", 9401), service("d-v1", 9400), service("d-v2", 9402))
}

#[test]
fn a_weighted_split_takes_effect_and_goes_away_without_a_failure() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&services());
    let route = home.write("route.yaml", ROUTE).display().to_string();

    // Steady traffic over the whole story: not one request may fail.
    let steady = home.run_client("steady", &[&client("load.py"), "http://d:9401/", "100", "40"]);
    steady.wait_for_line("start", Duration::from_secs(10), |line| line == "started");

    let answers = |count: u32| {
        let rate = 1000;
        let seconds = (count / rate).to_string();
        let load = home
            .run_client("load", &[&client("load.py"), "http://d:9401/", &rate.to_string(), &seconds, "20"]);
        assert!(load.wait(Duration::from_secs(60)).success(), "{}", load.stderr());
        let text = load.stdout();
        serde_json::from_str::<serde_json::Value>(text.lines().last().unwrap()).unwrap()
    };
    let first_answer = |wanted: &[&str]| {
        let began = Instant::now();
        eventually("an answer of the new backends", Duration::from_secs(5), || {
            let answer = home.start(&["run", "probe", "--", "curl", "-s", "-m", "5", "http://d:9401/"]);
            answer.wait(Duration::from_secs(10));
            wanted.iter().any(|name| answer.stdout().contains(&format!("\"name\":\"{name}\""))).then_some(())
        });
        began.elapsed()
    };

    home.tulle(&["apply", "-f", &route]).ok();
    let took = first_answer(&["d-v1", "d-v2"]);
    assert!(took < Duration::from_secs(1), "the route took effect after {took:?}");
    let seen = answers(10_000);
    assert_eq!(seen["failures"].as_array().unwrap().len(), 0, "{seen}");
    let share = seen["names"]["d-v2"].as_f64().unwrap() / 10_000.0;
    assert!((share - 0.2).abs() <= 0.02, "{seen}");
    assert!(seen["names"]["d"].is_null(), "{seen}");

    home.tulle(&["delete", "httproute", "split"]).ok();
    let took = first_answer(&["d"]);
    assert!(took < Duration::from_secs(1), "the route went after {took:?}");
    let seen = answers(2_000);
    assert_eq!(seen["names"]["d"].as_u64(), Some(2_000), "{seen}");

    assert!(steady.wait(Duration::from_secs(60)).success());
    let text = steady.stdout();
    let seen: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(seen["failures"].as_array().unwrap().len(), 0, "{seen}");
    assert!(up.interrupt().success());
}
