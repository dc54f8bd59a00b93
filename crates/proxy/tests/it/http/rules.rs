//! What a port with HTTPRoutes does with requests that are none, and with paths that have several forms.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::{
    AppProtocol, Backend, BackendTarget, HttpMatch, HttpRouteEntry, HttpRouteTable, HttpRule, PathMatch,
};

use super::apps::{self, app, full, http1, http2, read};
use super::mesh::{Path, WAYS, Way, eventually, path, service_name};
use crate::mesh::logged;

/// Puts a route before service `c` that sends `paths`, and nothing else, to its own endpoints.
fn route(path: &mut Path, http_only: bool, paths: &[PathMatch]) {
    let backend = Backend::new(BackendTarget::Service { name: service_name("c"), port: 80 }, 1);
    let rule = Arc::new(HttpRule::new(NamespacedName::new("default", "r"), 0, None, vec![backend]));
    let entry = |path: &PathMatch| HttpRouteEntry {
        matcher: HttpMatch { path: path.clone(), method: None, headers: Vec::new(), query: Vec::new() },
        rule: rule.clone(),
    };
    path.near.change_port("c", |port| {
        port.http_routes = HttpRouteTable::new(paths.iter().map(entry).collect());
        port.http_only = http_only;
    });
}

/// An application that keeps what it hears.
async fn recorder() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = heard.clone();
    let address = apps::script(move |mut stream| {
        let heard = hearing.clone();
        async move {
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                heard.lock().unwrap().extend_from_slice(&buffer[..length]);
                let _ = stream.write_all(b"pong\r\n").await;
            }
        }
    })
    .await;
    (address, heard)
}

/// What a client hears of bytes that it sends in two parts, `pause` apart; an error where it is reset.
async fn say(address: SocketAddr, bytes: &[u8], split: usize, pause: u64) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&bytes[..split]).await?;
    if pause > 0 {
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    stream.write_all(&bytes[split..]).await?;
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"\n") && stream.read_buf(&mut answer).await? > 0 {}
        std::io::Result::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(5), read).await.unwrap_or(Ok(()))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const MALFORMED: &[&[u8]] = &[
    b" GET /secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"\t GET /secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"GET  /secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"GET\t/secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"GET /secret http/1.1\r\nhost: c\r\n\r\n",
    b"GET /secret HTTP/1.2\r\nhost: c\r\n\r\n",
    b"GET /secret HTTP/2.0\r\nhost: c\r\n\r\n",
    b"GET /secret HTTP/3.0\r\nhost: c\r\n\r\n",
    b"GET /secret\n\n",
    b"GET /secret\r\n\r\n",
    b"GET secret HTTP/1.1\r\n\r\n",
    b"GET\0/secret HTTP/1.1\r\n\r\n",
    b"GET /sec\0ret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"G(ET /secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"\0GET /secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
];

/// Well-formed, if unusual; the route says no to them.
const UNUSUAL: &[&[u8]] = &[
    b"\r\n\r\nGET /secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"\nGET /secret HTTP/1.1\nhost: c\n\n",
    b"get /secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"AVERYLONGMETHODWITHMORETHANTWENTYFOURLETTERS /secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"foo /secret HTTP/1.1\r\nhost: c\r\n\r\n",
    b"GET http://c/secret HTTP/1.1\r\nhost: c\r\n\r\n",
];

#[tokio::test]
async fn no_malformed_request_gets_around_a_route() {
    for way in [Way::SameNode, Way::Link] {
        let (app, heard) = recorder().await;
        let mut path = path(way, AppProtocol::Detect, app).await;
        for http_only in [false, true] {
            route(&mut path, http_only, &[PathMatch::Prefix("/public".into())]);
            for bytes in MALFORMED {
                let answer = say(path.address, bytes, 0, 0).await.unwrap();
                let shown = bytes.escape_ascii().to_string();
                assert!(answer.starts_with("HTTP/1.1 400 "), "{way:?} {http_only} {shown}: {answer}");
                assert!(
                    answer.contains("tulle-reason: bad-request"),
                    "{way:?} {http_only} {shown}: {answer}"
                );
            }
            for bytes in UNUSUAL {
                let answer = say(path.address, bytes, 0, 0).await.unwrap();
                let shown = bytes.escape_ascii().to_string();
                assert!(answer.starts_with("HTTP/1.1 404 "), "{way:?} {http_only} {shown}: {answer}");
            }
        }
        // In pieces, with a pause that is longer than half a word is waited for.
        let whole: &[u8] = b"GET /secret HTTP/1.1\r\nhost: c\r\n\r\n";
        let pieces = [1, 3, 4, 5, 12, 19].map(|split| say(path.address, whole, split, 700));
        for answer in futures_util::future::join_all(pieces).await {
            let answer = answer.unwrap();
            assert!(answer.starts_with("HTTP/1.1 404 "), "{way:?}: {answer}");
        }
        let heard = heard.lock().unwrap();
        assert!(heard.is_empty(), "{way:?}: {}", heard.escape_ascii());
    }
}

#[tokio::test]
async fn other_protocols_pass_a_route_that_names_no_port() {
    let cases: &[&[u8]] = &[
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"get key\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"EHLO c\r\n",
    ];
    for way in WAYS {
        let (app, heard) = recorder().await;
        let mut path = path(way, AppProtocol::Detect, app).await;
        route(&mut path, false, &[PathMatch::Prefix("/public".into())]);
        for bytes in cases {
            heard.lock().unwrap().clear();
            assert_eq!(say(path.address, bytes, 0, 0).await.unwrap(), "pong\r\n", "{}", bytes.escape_ascii());
            assert_eq!(*heard.lock().unwrap(), *bytes, "{way:?}");
        }
        // Named, it is for HTTP alone.
        route(&mut path, true, &[PathMatch::Prefix("/public".into())]);
        heard.lock().unwrap().clear();
        for bytes in cases {
            let answer = say(path.address, bytes, 0, 0).await;
            let reset = answer.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
            assert!(reset, "{}: {answer:?}", bytes.escape_ascii());
        }
        assert_eq!(heard.lock().unwrap().len(), 0, "{way:?}");
        say(path.address, b"GET / HTTP/9\r\n\r\n", 0, 0).await.unwrap();
        let metrics = path.near.proxy().metrics();
        for (reason, count) in [("not-http", cases.len()), ("malformed-http", 1)] {
            let line = format!("tulle_connections_rejected_total{{reason=\"{reason}\"}} {count}\n");
            assert!(metrics.contains(&line), "{line}");
        }
    }
}

#[tokio::test]
async fn a_declared_port_resets_what_is_not_http() {
    let (app, heard) = recorder().await;
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let path = path(Way::SameNode, protocol, app).await;
        for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"SSH-2.0-x\r\n", b"*1\r\n$4\r\nPING\r\n"]
        {
            let answer = say(path.address, bytes, 0, 0).await;
            let reset = answer.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
            assert!(reset, "{}: {answer:?}", bytes.escape_ascii());
        }
        let answer = say(path.address, b"GET  / HTTP/1.1\r\n\r\n", 0, 0).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(heard.lock().unwrap().len(), 0);
}

/// The path's normal form decides, and the application sees the path as it came.
#[tokio::test]
async fn routes_go_by_the_normal_form_of_a_path() {
    for way in WAYS {
        let mut path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        route(&mut path, false, &[PathMatch::Prefix("/~user".into()), PathMatch::Exact("/caf%C3%A9".into())]);
        let mut one = http1(path.address).await;
        let mut two = http2(path.address).await;
        for (target, expected) in [
            ("/%7Euser/x%2fy//z;v", 200),
            ("/%7eus%65r", 200),
            ("/caf%c3%a9?q=..", 200),
            ("/caf%c3%a9/x", 404),
            ("/~user%2Fx", 404),
            ("/~user/../secret", 400),
            ("/~user/%2e%2E/secret", 400),
            ("/~user/.%2e;v/secret", 400),
            ("/~user/x%2f..%2f..", 400),
            ("/./~user", 400),
            ("/other/..", 400),
            ("/~user/...", 200),
        ] {
            let request = Request::get(target).header("host", "c").body(full("")).unwrap();
            let answers = [
                read(one.send_request(request).await.unwrap()).await,
                read(
                    two.send_request(Request::get(format!("http://c{target}")).body(full("")).unwrap())
                        .await
                        .unwrap(),
                )
                .await,
            ];
            for answer in answers {
                assert_eq!(answer.status, expected, "{way:?} {target}: {}", answer.body);
                match expected {
                    200 => {
                        assert!(answer.body.contains(&format!("{target} HTTP")), "{way:?}: {}", answer.body)
                    }
                    400 => assert_eq!(answer.headers["tulle-reason"], "bad-request"),
                    _ => assert_eq!(answer.headers["tulle-reason"], "no-route"),
                }
            }
        }
        // Where no rule goes by paths, they are the application's affair.
        route(&mut path, false, &[PathMatch::Prefix(String::new())]);
        let request = Request::get("/a/../%2e%2e/b").header("host", "c").body(full("")).unwrap();
        let answer = read(one.send_request(request).await.unwrap()).await;
        assert!(answer.body.starts_with("GET /a/../%2e%2e/b HTTP/1.1\n"), "{way:?}: {}", answer.body);
    }
}

/// The access log names what decided where a request went, and on which configuration.
#[tokio::test]
async fn the_log_names_the_rule_and_the_generation() {
    for way in WAYS {
        let mut path = path(way, AppProtocol::Http1, apps::serve(app).await).await;
        path.near.change_mesh(|mesh| mesh.access_log = true);
        Arc::make_mut(&mut path.near.state.snapshot).generation = 4711;
        route(&mut path, true, &[PathMatch::Prefix("/sized".into())]);
        let asked = format!("/sized/{way:?}");
        for (asked, status, ruled) in [(&*asked, 200, true), (&*format!("/other/{way:?}"), 404, false)] {
            assert_eq!(apps::get(path.address, asked).await.status, status, "{way:?}");
            let line = [&*format!("path=\"{asked}\""), "generation=4711 "];
            let ruled_by = ["route=default/r rule=0 "];
            eventually(|| logged(&line).then_some(())).await;
            assert_eq!(logged(&[&line[..], &ruled_by].concat()), ruled, "{way:?} {asked}");
        }
    }
}
