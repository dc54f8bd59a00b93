//! Published ports: a way into the mesh for who is no part of it, which policies treat as nobody they know.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tulle_tests::harness::{Home, alone, eventually, require_root, tulle};

const PATIENCE: Duration = Duration::from_secs(20);

/// The status and the body of the answer, or why there is none.
fn ask(address: &str) -> Result<(u16, String), std::io::Error> {
    let address: SocketAddr = address.parse().unwrap();
    let mut tcp = TcpStream::connect_timeout(&address, PATIENCE)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    write!(tcp, "GET /page HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Ok((status, answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()))
}

fn status(address: &str) -> u16 {
    ask(address).map_or(0, |(status, _)| status)
}

fn waits_for(address: &str, expected: u16) {
    let what = format!("{expected} of {address}");
    eventually(&what, PATIENCE, || (status(address) == expected).then_some(()));
}

fn mesh(publish: &str, documents: &str) -> String {
    let service = |name: &str, port: u16, more: &str| {
        format!(
            "  {name}:\n    command: [\"{}\", fake-service, --name, \"{name}-${{REPLICA}}\"]\n    port: {port}\n{more}",
            tulle().display()
        )
    };
    let web = service("web", 9501, &format!("    replicas: 2\n    publish: {publish}\n"));
    format!("services:\n{web}{}{documents}", service("api", 9502, ""))
}

const DENY: &str = "---\napiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: default}\n\
                    spec: {authorization: {default: Deny}}\n";
const TO_API: &str = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\n\
                      spec:\n  parentRefs: [{group: '', kind: Service, name: web}]\n  \
                      rules: [{backendRefs: [{name: api, port: 9502}]}]\n";

#[test]
fn a_published_port_leads_through_the_mesh_and_counts_as_the_outside() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&mesh("9511", ""));
    let write = |text: &str| home.write("mesh/tulle.yaml", text);
    let web = "127.0.0.1:9511";

    // Balanced over all processes, and on this address alone.
    let answered = eventually("both processes of web", PATIENCE, || {
        let names = (0..20).filter_map(|_| {
            let (status, body) = ask(web).ok()?;
            assert_eq!(status, 200, "{body}");
            let answer: Value = serde_json::from_str(&body).ok()?;
            answer["name"].as_str().map(str::to_owned)
        });
        let names: BTreeSet<String> = names.collect();
        (names.len() == 2).then_some(names)
    });
    assert_eq!(answered, ["web-0", "web-1"].map(str::to_owned).into());
    assert!(ask("127.0.0.2:9511").is_err());
    eventually("the edge of who is outside", PATIENCE, || {
        home.edges()
            .iter()
            .any(|edge| edge.source.contains("external") && edge.destination == "web")
            .then_some(())
    });

    // Routed.
    write(&mesh("9511", TO_API));
    eventually("the route", PATIENCE, || {
        ask(web).is_ok_and(|(_, body)| body.contains("api-0")).then_some(())
    });

    // Held off, with the words for who is outside, and let in by who allows everybody.
    write(&mesh("9511", DENY));
    waits_for(web, 403);
    assert!(!ask(web).unwrap().1.contains("AuthorizationPolicy"));
    let allow = "---\napiVersion: tulle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: in}\nspec:\n  \
                 targetRefs: [{group: '', kind: Service, name: web}]\n  action: Allow\n  \
                 rules: [{sources: [{type: External}]}]\n";
    write(&mesh("9511", &format!("{DENY}{allow}")));
    waits_for(web, 200);

    // Elsewhere, without a process that is touched; where somebody listens already, it is refused.
    let pids = |home: &Home| {
        let status: Value = serde_json::from_str(&home.tulle(&["ps", "-o", "json"]).ok()).unwrap();
        status["processes"].as_array().unwrap().iter().map(|p| p["pid"].clone()).collect::<Vec<_>>()
    };
    let before = pids(&home);
    write(&mesh("[9512, {port: 127.0.0.2:9513, to: 9501}]", ""));
    waits_for("127.0.0.1:9512", 200);
    waits_for("127.0.0.2:9513", 200);
    eventually("the end of the first port", PATIENCE, || ask(web).is_err().then_some(()));
    assert_eq!(pids(&home), before);
    let _other = std::net::TcpListener::bind("127.0.0.1:9514").unwrap();
    write(&mesh("9514", ""));
    up.wait_for_line("the refusal", PATIENCE, |line| {
        line.contains("127.0.0.1:9514, which `publish` of service web")
    });
    assert_eq!(status("127.0.0.1:9512"), 200);

    // What is not published is opened by `tulle open`, at one place.
    let url = home.tulle(&["open", "api", "--url"]).ok();
    assert_eq!(home.tulle(&["open", "api", "--url"]).ok(), url);
    waits_for(url.trim().strip_prefix("http://").unwrap(), 200);
    let listed = home.tulle(&["ps"]).ok();
    assert!(listed.contains(&format!("api is at {}", url.trim())), "{listed}");
    assert!(listed.contains("web is at http://127.0.0.1:9512"), "{listed}");
    assert!(up.interrupt().success());
    assert!(ask("127.0.0.1:9512").is_err());
}
