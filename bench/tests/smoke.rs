//! A run without any proxy: everything but the peers, from the command line to the report.

use std::process::Command;

#[test]
fn a_run_measures_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_tulle-bench"));
    run.args(["run", "--peers", "none", "--scenario", "http1,http1-2000,tcp-bulk-up"]);
    run.args(["--rounds", "2", "--seconds", "0.2", "--warmup", "0.1", "--out"]).arg(folder.path());
    run.args(["--descriptions", concat!(env!("CARGO_MANIFEST_DIR"), "/peers")]);
    let output = run.output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let results = std::fs::read(folder.path().join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
    let samples = results["samples"].as_array().unwrap();
    assert_eq!((samples.len(), &results["failures"]), (6, &serde_json::json!([])));
    for sample in samples {
        assert!(sample["load"]["bytes"].as_u64().unwrap() > 0 && sample["load"]["errors"] == 0, "{sample}");
        assert!(sample["cpu_service"].as_f64().unwrap() > 0.0, "{sample}");
    }
    let report = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(report.contains("## HTTP/1.1 keep-alive, 16 connections, 2,000 requests/s"), "{report}");
    assert!(std::fs::read_to_string(folder.path().join("latency.svg")).unwrap().contains(">p99.9</text>"));
}

#[test]
fn what_does_not_exist_is_named() {
    for (arguments, expected) in [
        (["--peers", "none,nothing"], "no peer `nothing`"),
        (["--scenario", "http9"], "no scenario `http9`"),
        (["--peer", "missing.toml"], "missing.toml"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut run = Command::new(env!("CARGO_BIN_EXE_tulle-bench"));
        run.args(["run", "--out"]).arg(folder.path()).args(arguments);
        run.args(["--descriptions", concat!(env!("CARGO_MANIFEST_DIR"), "/peers")]);
        let output = run.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{said}");
    }
}

#[test]
fn flows_are_measured_of_a_binary_that_is_there() {
    for (arguments, expected) in [
        (["--tulle", "missing/tulle"], "missing/tulle: build it"),
        (["--case", "sleeping"], "sleeping"),
        (["--seconds", "0"], "--seconds: 0.1 to 600"),
    ] {
        let mut flows = Command::new(env!("CARGO_BIN_EXE_tulle-bench"));
        let output = flows.arg("flows").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{said}");
    }
}
