//! What pages of other origins may do, from the YAML that says it to the browser that goes by it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request, Response};
use tulle_model::snapshot::AppProtocol;

use super::apps::{self, Answer, full, http1, http2, read};
use super::filtered::route;
use super::mesh::{Path, WAYS, eventually, path};
use crate::mesh::logged;

/// An application that has its own mind about pages of other origins, and the number of requests that it got.
async fn app() -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let asking = asked.clone();
    let address = apps::serve(move |_| {
        asking.fetch_add(1, Ordering::SeqCst);
        let answer = Response::builder()
            .header("access-control-allow-origin", "https://evil.org")
            .header("access-control-allow-credentials", "true")
            .header("access-control-allow-methods", "TRACE")
            .header("access-control-max-age", "99")
            .header("vary", "accept")
            .header("x-own", "1")
            .body(full("app"));
        async { answer.unwrap() }
    })
    .await;
    (address, asked)
}

async fn send(
    path: &Path,
    http2_client: bool,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
) -> Answer {
    let uri = if http2_client { format!("http://c:80{target}") } else { target.to_owned() };
    let mut request = Request::builder().method(Method::try_from(method).unwrap()).uri(uri);
    if !http2_client {
        request = request.header("host", "c:80");
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(full("")).unwrap();
    let answer = match http2_client {
        true => http2(path.address).await.send_request(request).await,
        false => http1(path.address).await.send_request(request).await,
    };
    read(answer.unwrap()).await
}

/// The status, and in short what the answer says of pages of other origins.
fn said(answer: &Answer) -> String {
    let mut said: Vec<String> = Vec::new();
    for (name, value) in &answer.headers {
        let short = match name.as_str() {
            "vary" => "vary",
            name => match name.strip_prefix("access-control-") {
                Some(short) => short.strip_prefix("allow-").unwrap_or(short),
                None => continue,
            },
        };
        said.push(format!("{short}={}", value.to_str().unwrap()));
    }
    said.sort();
    format!("{} {}", answer.status, said.join("; "))
}

const RULES: &str = "
  - matches: [{path: {value: /listed}, method: GET}]
    filters:
    - type: CORS
      cors:
        allowOrigins: ['https://www.foo.com', 'https://*.bar.com']
        allowCredentials: true
        allowMethods: [GET, OPTIONS]
        allowHeaders: [x-header-1, x-header-2]
        exposeHeaders: [x-header-3, x-header-4]
        maxAge: 3600
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-rule, value: '1'}]}
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /any}}]
    filters:
    - type: CORS
      cors: {allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*']}
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /trusting}}]
    filters:
    - type: CORS
      cors:
        {allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*'], allowCredentials: true}
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /backend}}]
    backendRefs:
    - name: c
      port: 80
      filters: [{type: CORS, cors: {allowOrigins: ['https://www.foo.com']}}]
  - matches: [{path: {value: /away}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {hostname: d.org}
    - type: CORS
      cors: {allowOrigins: ['https://www.foo.com']}
  - backendRefs: [{name: c, port: 80}]
";

const FOO: (&str, &str) = ("origin", "https://www.foo.com");
const BAR: (&str, &str) = ("origin", "https://xpto.www.bar.com");
const OTHER: (&str, &str) = ("origin", "https://foobar.com");
const METHOD: (&str, &str) = ("access-control-request-method", "PUT");
const GET: (&str, &str) = ("access-control-request-method", "GET");
const HEADERS: (&str, &str) = ("access-control-request-headers", "x-header-1,authorization");
const ITS_OWN: &str = "200 credentials=true; max-age=99; methods=TRACE; origin=https://evil.org; vary=accept";

#[tokio::test]
async fn preflights_are_answered_and_answers_say_what_their_rule_says() {
    for way in WAYS {
        for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
            let (app, asked) = app().await;
            let mut path = path(way, protocol, app).await;
            route(&mut path, RULES);
            let listed =
                "credentials=true; expose-headers=x-header-3, x-header-4; headers=x-header-1, x-header-2";
            let listed_to = |status, origin| {
                let age = if status == 204 { "; max-age=3600" } else { "" };
                let vary = if status == 204 { "vary=Origin" } else { "vary=Origin; vary=accept" };
                format!("{status} {listed}{age}; methods=GET, OPTIONS; origin={origin}; {vary}")
            };
            for http2_client in [false, true] {
                for (method, target, fields, expected) in [
                    // Of the rule that takes GET alone, and what it announces.
                    ("OPTIONS", "/listed", &[FOO, GET, HEADERS][..], listed_to(204, FOO.1)),
                    ("OPTIONS", "/listed/x?q", &[BAR, GET], listed_to(204, BAR.1)),
                    ("OPTIONS", "/listed", &[OTHER, GET], "403 vary=Origin".to_owned()),
                    // What it announces is another rule's, for which that one does not speak.
                    ("OPTIONS", "/listed", &[FOO, METHOD], ITS_OWN.to_owned()),
                    (
                        "OPTIONS",
                        "/any",
                        &[OTHER, METHOD, HEADERS],
                        "204 expose-headers=*; headers=x-header-1,authorization; max-age=5; methods=*; origin=*".to_owned(),
                    ),
                    (
                        "OPTIONS",
                        "/trusting",
                        &[OTHER, METHOD, HEADERS],
                        "204 credentials=true; headers=x-header-1,authorization; max-age=5; methods=PUT; origin=https://foobar.com; vary=Origin".to_owned(),
                    ),
                    (
                        "OPTIONS",
                        "/backend",
                        &[FOO, METHOD],
                        "204 max-age=5; origin=https://www.foo.com; vary=Origin".to_owned(),
                    ),
                    (
                        "OPTIONS",
                        "/away",
                        &[FOO, METHOD],
                        "204 max-age=5; origin=https://www.foo.com; vary=Origin".to_owned(),
                    ),
                    // Answers of the application.
                    ("GET", "/listed", &[FOO, METHOD], listed_to(200, FOO.1)),
                    ("GET", "/listed", &[BAR], listed_to(200, BAR.1)),
                    ("GET", "/listed", &[OTHER], "200 vary=Origin; vary=accept".to_owned()),
                    ("GET", "/listed", &[], "200 vary=Origin; vary=accept".to_owned()),
                    (
                        "PUT",
                        "/any",
                        &[OTHER],
                        "200 expose-headers=*; headers=*; methods=*; origin=*; vary=accept".to_owned(),
                    ),
                    (
                        "GET",
                        "/backend",
                        &[FOO],
                        "200 origin=https://www.foo.com; vary=Origin; vary=accept".to_owned(),
                    ),
                    // Without an origin, or a method that it announces, OPTIONS is a request as others.
                    ("OPTIONS", "/backend", &[METHOD], "200 vary=Origin; vary=accept".to_owned()),
                    // A redirect, and what has no filter.
                    ("GET", "/away", &[FOO], "302 origin=https://www.foo.com; vary=Origin".to_owned()),
                    ("GET", "/away", &[OTHER], "302 vary=Origin".to_owned()),
                    ("OPTIONS", "/other", &[FOO, METHOD], ITS_OWN.to_owned()),
                    ("PUT", "/listed", &[FOO], ITS_OWN.to_owned()),
                ] {
                    let which = format!("{way:?} {protocol:?} {http2_client} {method} {target} {fields:?}");
                    let before = asked.load(Ordering::SeqCst);
                    let answer = send(&path, http2_client, method, target, fields).await;
                    assert_eq!(said(&answer), expected, "{which}");
                    let passed = answer.status == 200;
                    assert_eq!(asked.load(Ordering::SeqCst) - before, usize::from(passed), "{which}");
                    assert_eq!(answer.body, if passed { "app" } else { "" }, "{which}");
                    assert_eq!(answer.headers.get("x-own").is_some(), passed, "{which}");
                    let has_length = answer.headers.get("content-length").is_some();
                    assert!(answer.status != 204 || !has_length, "{which}");
                    let by_rule = target.starts_with("/listed") && expected != ITS_OWN;
                    assert_eq!(answer.headers.get("x-rule").is_some(), by_rule, "{which}");
                }
                let answer = send(&path, http2_client, "GET", "/trusting", &[OTHER]).await;
                let exposed = answer.headers["access-control-expose-headers"].to_str().unwrap();
                assert!(exposed.split(", ").any(|name| name == "x-own"), "{way:?} {exposed}");
                assert_eq!(answer.headers["access-control-allow-origin"], OTHER.1, "{way:?}");
            }
        }
    }
    let filter = "HTTPRoute/default/r spec.rules[0].filters[0].cors";
    let allowed =
        ["route=default/r rule=0 ", &format!("{filter} answered"), "status=204", "result=\"success\""];
    eventually(|| logged(&allowed).then_some(())).await;
    let refused = ["method=\"OPTIONS\"", &format!("{filter}.allowOrigins refused"), "status=403"];
    eventually(|| logged(&refused).then_some(())).await;
    let of_backend = "HTTPRoute/default/r spec.rules[3].backendRefs[0].filters[0].cors answered";
    eventually(|| logged(&[of_backend, "status=204"]).then_some(())).await;
}
