//! What rules make of requests and their answers, from the YAML that says it to the application that sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tulle_model::compile::{Change, Compiler};
use tulle_model::document;
use tulle_model::identity::TrustDomain;
use tulle_model::registry::KindId;
use tulle_model::snapshot::AppProtocol;

use super::apps::{self, Answer, full, http1, http2, read};
use super::mesh::{Path, WAYS, eventually, path, service_name};
use crate::mesh::logged;

const SOON: Duration = Duration::from_secs(5);
pub(super) const SERVICE: &str =
    "{kind: Service, apiVersion: v1, metadata: {name: c}, spec: {ports: [{port: 80}]}}";

/// Puts a route with these rules before service `c`.
pub(super) fn route(path: &mut Path, rules: &str) {
    route_among(path, &[SERVICE.to_owned()], rules);
}

/// The same where there are these services.
pub(super) fn route_among(path: &mut Path, services: &[String], rules: &str) {
    route_of(KindId::HttpRoute, path, services, rules);
}

/// The same with a route of that kind.
pub(super) fn route_of(kind: KindId, path: &mut Path, services: &[String], rules: &str) {
    let route = format!(
        "kind: {}\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {{name: r}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: c}}]\n  rules:\n{rules}",
        kind.kind().kind
    );
    let mut compiler = Compiler::new(TrustDomain::new("mesh.test").unwrap());
    let services = services.iter().map(|service| (KindId::Service, service));
    for (kind, text) in services.chain([(kind, &route)]) {
        let object = document::parse(text).unwrap().remove(0).value;
        compiler.apply(Change::Put(kind.kind(), Arc::new(object)));
    }
    let problem = compiler.problem(kind.kind(), &service_name("r"));
    assert_eq!(problem, None, "{route}");
    let compiled = compiler.service(&service_name("c")).unwrap().port(80).unwrap().http_routes.clone();
    path.near.change_port("c", |port| port.http_routes = compiled);
    path.near.change_mesh(|mesh| mesh.access_log = true);
}

/// GET of that target, in HTTP/1 or HTTP/2.
async fn get(path: &Path, http2_client: bool, target: &str) -> Answer {
    if http2_client {
        let uri = format!("http://c:80{target}");
        let request =
            Request::get(uri).header("x-a", "client").header("x-b", "client").body(full("")).unwrap();
        return read(http2(path.address).await.send_request(request).await.unwrap()).await;
    }
    let request = Request::get(target).header("host", "c:80").header("x-a", "client").header("x-b", "client");
    read(http1(path.address).await.send_request(request.body(full("")).unwrap()).await.unwrap()).await
}

/// What the application was asked for: the target without the host, the host, and the headers that begin with `x-`.
fn seen(answer: &Answer) -> String {
    let mut lines = answer.body.lines();
    let target = lines.next().unwrap().split(' ').nth(1).unwrap();
    let mut fields: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let (host, target) = match target.strip_prefix("http://") {
        Some(absolute) => {
            let at = absolute.find('/').unwrap();
            (&absolute[..at], &absolute[at..])
        }
        None => (fields.iter().find_map(|field| field.strip_prefix("host: ")).unwrap(), target),
    };
    fields.retain(|field| field.starts_with("x-"));
    fields.sort();
    [&[target, host], &fields[..]].concat().join(" | ")
}

const RULES: &str = "
  - matches: [{path: {value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-A, value: rule}], add: [{name: x-c, value: rule}], remove: [X-B]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: X-Answer, value: rule}], add: [{name: x-more, value: rule}]}
    backendRefs:
    - name: c
      port: 80
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier: {set: [{name: x-c, value: backend}]}
      - type: ResponseHeaderModifier
        responseHeaderModifier: {set: [{name: x-answer, value: backend}], remove: [content-type]}
  - matches: [{path: {value: /prefix/old}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: d.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /full}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /all}}
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /away}}]
    filters:
    - type: RequestRedirect
      requestRedirect:
        {scheme: https, hostname: d.org, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-answer, value: away}]}
  - matches: [{path: {value: /elsewhere}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 8443}}]
  - backendRefs: [{name: c, port: 80}]
";

#[tokio::test]
async fn requests_and_answers_pass_the_filters_of_their_rule() {
    for way in WAYS {
        for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
            let mut path = path(way, protocol, apps::serve(apps::mirror).await).await;
            route(&mut path, RULES);
            for http2_client in [false, true] {
                let which = format!("{way:?} {protocol:?} {http2_client}");
                for (target, expected) in [
                    ("/headers", "/headers | c:80 | x-a: rule | x-c: backend"),
                    ("/prefix/old/%61?q=1&r=%20", "/new/%61?q=1&r=%20 | d.org | x-a: client | x-b: client"),
                    ("/prefix/%6fld", "/new | d.org | x-a: client | x-b: client"),
                    ("/full/x?q", "/all?q | c:80 | x-a: client | x-b: client"),
                    ("/other", "/other | c:80 | x-a: client | x-b: client"),
                ] {
                    let answer = get(&path, http2_client, target).await;
                    assert_eq!((answer.status, &*seen(&answer)), (200, expected), "{which} {target}");
                    let added = ["x-answer", "x-more"].map(|name| answer.headers.get(name).is_some());
                    assert_eq!(added, [target == "/headers"; 2], "{which} {target}");
                }
                let answer = get(&path, http2_client, "/headers").await;
                assert_eq!(answer.headers["x-answer"], "rule", "{which}: the rule has the last word");
                for (target, status, location) in [
                    ("/away/b?q=1", 308, "https://d.org/b?q=1"),
                    ("/elsewhere", 302, "http://c:8443/elsewhere"),
                ] {
                    let answer = get(&path, http2_client, target).await;
                    let told = answer.headers["location"].to_str().unwrap();
                    assert_eq!((answer.status, told, &*answer.body), (status, location, ""), "{which}");
                    let added = answer.headers.get("x-answer").map(|value| value.as_bytes());
                    assert_eq!(added, (status == 308).then_some(&b"away"[..]), "{which}");
                }
            }
        }
    }
    let by = "HTTPRoute/default/r spec.rules[3].filters[0].requestRedirect redirected";
    eventually(|| logged(&["route=default/r rule=3 ", by, "status=308", "result=\"success\""]).then_some(()))
        .await;
}

/// What a prefix stands for is not left by dots, and what a rule makes of a head is no larger than one may be.
#[tokio::test]
async fn what_does_not_fit_its_rule_is_refused() {
    let prefix =
        "type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /public}}";
    let big = format!(
        "type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-big, value: {}}}]}}",
        "x".repeat(4000)
    );
    let long = format!("/{}", "y".repeat(62_500));
    for way in WAYS {
        let mut path = path(way, AppProtocol::Http1, apps::serve(apps::mirror).await).await;
        for (filter, target, status) in [
            (prefix, "/admin", 200),
            (prefix, "/../admin", 400),
            (prefix, "/%2e%2e/admin", 400),
            (prefix, &*long, 200),
            (&*big, "/short", 200),
            (&*big, &*long, 431),
        ] {
            route(
                &mut path,
                &format!("  - filters: [{{{filter}}}]\n    backendRefs: [{{name: c, port: 80}}]\n"),
            );
            let answer = get(&path, false, target).await;
            assert_eq!(answer.status, status, "{way:?} {filter:.20} {target:.20}");
        }
    }
}

/// An application that answers at once, after a while, or begins to and goes on for ever.
async fn slow(request: Request<hyper::body::Incoming>) -> http::Response<apps::TestBody> {
    match request.uri().path() {
        "/late" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            http::Response::new(full("late"))
        }
        _ => apps::app(request).await,
    }
}

const TIMES: &str = "
  - matches: [{path: {value: /late}, headers: [{name: x-each, value: '1'}]}]
    timeouts: {request: 10s, backendRequest: 50ms}
    backendRefs: [{name: c, port: 80}]
  - timeouts: {request: 50ms}
    backendRefs: [{name: c, port: 80}]
";

#[tokio::test]
async fn what_takes_too_long_is_answered_and_named() {
    for way in WAYS {
        let mut path = path(way, AppProtocol::Http1, apps::serve(slow).await).await;
        route(&mut path, TIMES);
        assert_eq!(apps::get(path.address, "/quick").await.status, 200);
        for (each, field) in
            [("1", "spec.rules[0].timeouts.backendRequest"), ("0", "spec.rules[1].timeouts.request")]
        {
            let request =
                Request::get("/late").header("host", "c").header("x-each", each).body(full("")).unwrap();
            let answer = read(http1(path.address).await.send_request(request).await.unwrap()).await;
            assert_eq!((answer.status, &answer.headers["tulle-reason"]), (504, &"timeout".parse().unwrap()));
            let said = format!("there was no answer within 50ms (HTTPRoute/default/r {field})");
            assert!(answer.body.contains(&said), "{way:?}: {}", answer.body);
            let failed = format!("HTTPRoute/default/r {field} failed");
            eventually(|| logged(&[&failed, "status=504", "reason=\"timeout\"", "attempts=1"]).then_some(()))
                .await;
        }
    }
}

#[tokio::test]
async fn a_call_that_takes_too_long_ends_with_a_status() {
    for way in WAYS {
        let app = apps::serve(|_| async {
            let message = Frame::data(Bytes::from_static(b"\0\0\0\0\x01x"));
            let messages = stream::once(async { Ok(message) }).chain(stream::pending());
            let answer = http::Response::builder().header("content-type", "application/grpc");
            answer.body(BodyExt::boxed(StreamBody::new(messages))).unwrap()
        });
        let mut path = path(way, AppProtocol::Http2, app.await).await;
        route(&mut path, "  - timeouts: {request: 100ms}\n    backendRefs: [{name: c, port: 80}]\n");
        let request = Request::post("http://c:80/s.S/M").header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(full("")).unwrap();
        let answer = http2(path.address).await.send_request(request).await.unwrap();
        let answer = timeout(SOON, read(answer)).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 6), "{way:?}");
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "4", "{way:?}");
    }
}

/// An application that answers 503 until it was asked so often, and then what the body of the request was.
async fn flaky(failures: usize) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let asking = asked.clone();
    let address = apps::serve(move |request| {
        let asking = asking.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            if asking.fetch_add(1, Ordering::SeqCst) < failures {
                return http::Response::builder().status(503).header("x-own", "1").body(full("no")).unwrap();
            }
            http::Response::new(full(body))
        }
    })
    .await;
    (address, asked)
}

#[tokio::test]
async fn what_a_rule_says_of_retries_holds_for_all_methods_and_bodies_at_hand() {
    for way in WAYS {
        for (failures, retry, body, status, asked, said) in [
            (2, "{codes: [503], attempts: 2, backoff: 1ms}", 5, 200, 3, "retry retried"),
            (9, "{codes: [503], attempts: 2, backoff: 1ms}", 5, 503, 3, "retry retried"),
            (9, "{codes: [503], attempts: 0}", 5, 503, 1, "weight routed"),
            (9, "{codes: [500], attempts: 2}", 5, 503, 1, "weight routed"),
            (1, "{codes: [503], backoff: 1ms}", 65_536, 200, 2, "retry retried"),
            (
                1,
                "{codes: [503], backoff: 1ms}",
                65_537,
                503,
                1,
                "retry.codes (its body is not at hand) not-retried",
            ),
        ] {
            let (app, count) = flaky(failures).await;
            let mut path = path(way, AppProtocol::Http1, app).await;
            route(&mut path, &format!("  - retry: {retry}\n    backendRefs: [{{name: c, port: 80}}]\n"));
            let name = format!("/{}-{}", way as u8, path.address.port());
            // Of a body that is there as a whole all is at hand, so it comes in pieces.
            let pieces =
                stream::iter([body - 1, 1].map(|size| Ok(Frame::data(Bytes::from(vec![b'x'; size])))));
            let sent = BodyExt::boxed(StreamBody::new(pieces));
            let request = Request::post(&name).header("host", "c").body(sent).unwrap();
            let answer = read(http1(path.address).await.send_request(request).await.unwrap()).await;
            let which = format!("{way:?} {failures} {retry} {body}");
            assert_eq!((answer.status, count.load(Ordering::SeqCst)), (status, asked), "{which}");
            match status {
                200 => {
                    assert!(answer.body.len() == body && answer.body.bytes().all(|b| b == b'x'), "{which}")
                }
                _ => assert_eq!(
                    (answer.headers["x-own"].to_str().unwrap(), &*answer.body),
                    ("1", "no"),
                    "{which}"
                ),
            }
            let path = format!("path=\"{name}\"");
            let tried = format!("attempts={asked}");
            let mut line = vec![&*path, said, &tried];
            line.extend((asked > 1).then_some("status-503 after "));
            eventually(|| logged(&line).then_some(())).await;
        }
    }
}

/// A node forgets endpoints that no route leads to any more; what was on its way to them when routes changed is not refused.
#[tokio::test]
async fn a_request_goes_where_it_was_to_go_before_routes_changed() {
    for way in WAYS {
        let (came, changed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (telling, waiting, asked) = (came.clone(), changed.clone(), Arc::new(AtomicUsize::new(0)));
        let app = apps::serve(move |_| {
            let (telling, waiting, asked) = (telling.clone(), waiting.clone(), asked.clone());
            async move {
                if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                    return http::Response::new(full("again"));
                }
                telling.notify_one();
                waiting.notified().await;
                http::Response::builder().status(503).body(full("once")).unwrap()
            }
        });
        let mut path = path(way, AppProtocol::Http1, app.await).await;
        route(&mut path, "  - retry: {codes: [503], backoff: 0s}\n    backendRefs: [{name: c, port: 80}]\n");
        let asking = tokio::spawn(async move { apps::get(path.address, "/").await });
        timeout(SOON, came.notified()).await.unwrap();
        Arc::make_mut(&mut path.near.state.snapshot).endpoints.remove(&service_name("c"));
        path.near.publish();
        changed.notify_one();
        let answer = timeout(SOON, asking).await.unwrap().unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "again"), "{way:?}");
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_breaks_off() {
    for way in WAYS {
        let app = apps::script(|mut stream| async move {
            apps::read_head(&mut stream).await;
            let begun = b"HTTP/1.1 200 OK\r\nx-answer: 1\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
            stream.write_all(begun).await.unwrap();
            // Until the proxy gives it up.
            let _ = stream.read_u8().await;
        })
        .await;
        let mut path = path(way, AppProtocol::Http1, app).await;
        route(&mut path, "  - timeouts: {request: 100ms}\n    backendRefs: [{name: c, port: 80}]\n");
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        stream.write_all(b"GET /begun HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("3\r\none\r\n"),
            "{way:?}: {answer}"
        );
        let by = "HTTPRoute/default/r spec.rules[0].timeouts.request failed";
        let line = ["path=\"/begun\"", by, "status=200", "reason=\"timeout\"", "result=\"failure\""];
        eventually(|| logged(&line).then_some(())).await;
    }
}
