//! Services that declare nothing about what they speak.

use std::time::Duration;

use serde_json::Value;

use tulle_tests::harness::{Home, Process, alone, client, python, require_root};

fn result(process: &Process) -> Value {
    let status = process.wait(Duration::from_secs(60));
    assert!(status.success(), "{}\n{}", process.stdout(), process.stderr());
    let text = process.stdout();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn undeclared_protocols_work_and_connect_fast() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let certificate = rcgen::generate_simple_self_signed(vec!["tls.test".to_owned()]).unwrap();
    let pem = home.write("mesh/tls.pem", &certificate.cert.pem()).display().to_string();
    let key = home.write("mesh/tls.key", &certificate.signing_key.serialize_pem()).display().to_string();
    let (python, server) = (python().display().to_string(), client("tcp_server.py"));
    let service = |name: &str, port: u16, arguments: &str| {
        format!(
            "  {name}:\n    command: [\"{python}\", \"{server}\", {arguments}]\n    port: {port}\n    probe: {{tcp: true}}\n"
        )
    };
    let grpc = client("grpc_peer.py");
    let up = home.up(&format!(
        "services:\n{}{}{}  grpc:\n    command: [\"{python}\", \"{grpc}\", server]\n    port: 9424\n",
        service("redis", 9421, "redis"),
        service("smtp", 9422, "smtp"),
        service("tls", 9423, &format!("tls, \"{pem}\", \"{key}\"")),
    ));

    let tcp = client("tcp_client.py");
    for (kind, port, lines) in [
        ("redis", "9421", ["+PONG", "+hello", "+BYE"]),
        ("smtp", "9422", ["220 mail.test ESMTP", "250 EHLO client", "221 closing"]),
    ] {
        // The same conversation without the mesh: by the loopback address, which is not captured.
        let direct = result(&home.run_client("client", &[&tcp, kind, "127.0.0.1", port, "50"]));
        let meshed = result(&home.run_client("client", &[&tcp, kind, kind, port, "50"]));
        for seen in [&direct, &meshed] {
            assert_eq!(seen["lines"], serde_json::json!(lines), "{kind}: {seen}");
            assert_eq!(seen["same"], true, "{kind}: {seen}");
        }
        let added = meshed["median"].as_f64().unwrap() - direct["median"].as_f64().unwrap();
        let first = meshed["first"].as_f64().unwrap();
        println!("{kind}: {:.2} ms added at the median, {:.2} ms for the first", added * 1e3, first * 1e3);
        assert!(added <= 0.005, "{kind}: {added} s added to the connect; {direct} {meshed}");
    }
    let seen = result(&home.run_client("client", &[&tcp, "tls", "tls", "9423", &pem, "tls.test"]));
    assert!(seen["answer"].as_str().unwrap().ends_with("secret"), "{seen}");

    let seen = result(&home.run_client("client", &[&grpc, "client", "grpc:9424"]));
    let expected = serde_json::json!({
        "unary": "HELLO", "trailer": "kept", "error": ["FAILED_PRECONDITION", "as asked"],
        "server_stream": ["n0", "n1", "n2", "n3", "n4"], "client_stream": "0,1,2,3", "both": ["0ba", "1ba", "2ba"],
    });
    assert_eq!(seen, expected);
    assert!(up.interrupt().success());
}
