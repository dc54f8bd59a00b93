//! Clients of HTTP/2 servers that are late with their first bytes. Their servers have spoken before them, which
//! must not make a channel opaque: it would never be balanced, routed or counted by request.

use std::time::Duration;

use serde_json::Value;
use tulle_tests::chaos::{figure, full};
use tulle_tests::harness::{Home, Process, alone, client, python, require_root};

fn result(process: &Process) -> Value {
    let status = process.wait(Duration::from_secs(120));
    assert!(status.success(), "{}\n{}", process.stdout(), process.stderr());
    serde_json::from_str(process.stdout().lines().last().unwrap()).unwrap()
}

#[test]
fn late_channels_are_http2() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let python = python().display().to_string();
    let (late, grpc) = (client("late_preface.py"), client("grpc_peer.py"));
    let up = home.up(&format!(
        "services:\n  h2:\n    command: [\"{python}\", \"{late}\", server]\n    port: 9441\n    probe: {{tcp: true}}\n  \
         grpc:\n    command: [\"{python}\", \"{grpc}\", server]\n    port: 9442\n    probe: {{tcp: true}}\n"
    ));
    let (channels, calls) = if full() { ("600", "60") } else { ("60", "12") };

    let seen = result(&home.run_client("late", &[&late, "client", "h2", "9441", channels]));
    figure("late prefaces", "channels", &seen["channels"]);
    figure("late prefaces", "channels that became bytes", &seen["opaque"]);
    figure("late prefaces", "channels that failed", &seen["failed"]);
    assert_eq!((seen["opaque"].as_u64(), seen["failed"].as_u64()), (Some(0), Some(0)), "{seen}");

    let seen = result(&home.run_client("caller", &[&late, "grpc", "grpc", "9442", calls]));
    figure("late gRPC channels", "channels", &seen["channels"]);
    figure("late gRPC channels", "calls answered", &seen["answers"]);
    assert_eq!(seen["answers"], seen["channels"], "{seen}");
    // Each call was seen as a call, and nothing was passed as bytes.
    let edges = home.tulle(&["edges", "-o", "json"]).ok();
    let edges: Value = serde_json::from_str(&edges).unwrap();
    let rows = edges["edges"].as_array().unwrap();
    let opaque = rows.iter().filter(|row| row["protocol"] == "tcp");
    let opaque: u64 = opaque.filter_map(|row| row["requests"].as_u64()).sum();
    figure("late gRPC channels", "connections passed as bytes", opaque);
    assert_eq!(opaque, 0, "{edges}");
    assert!(up.interrupt().success());
}
