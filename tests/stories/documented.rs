//! Everything that the documentation and the examples show in YAML is applied, and does what its text says.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tulle_model::document::parse;
use tulle_tests::asks::{Ask, Askers, CLIENT, fields, told};
use tulle_tests::harness::{
    Home, Process, alone, client, eventually, files_below, project, python, require_root,
};

/// What becomes of something that is shown.
struct Case {
    /// The file; of a block in a text, the kind and the name of what it describes as well.
    place: &'static str,
    /// Services that it leads to, which the examples have not: `NAMESPACE/NAME PORT=LISTEN`, where one of [`BACKENDS`] listens.
    beside: &'static [&'static str],
    /// What its text says (`tulle_tests::asks`).
    asks: &'static [&'static str],
    /// What cannot be said so.
    also: fn(&mut Story),
}

/// What listens besides the services of `examples/chain`: the namespace, and what `echo.py` is to be.
const BACKENDS: &[(&str, &str)] = &[
    ("default", "http:shop:9511 http:versions:9512"),
    (
        "shop",
        "grpc:cart:9513 grpc:cart-v2:9514 http:cart:9515 tls:web-a:9516 tls:web-b:9517 http:checks:9519",
    ),
    ("tests", "http:cart-double:9518"),
];

/// A namespace in which nothing runs.
const SYSTEM: &str = "tulle-system";

const fn case(place: &'static str, asks: &'static [&'static str]) -> Case {
    Case { place, beside: &[], asks, also: |_| () }
}

const SHOP: &[&str] = &["default/shop 80=9511", "default/versions 80=9512"];

/// Tokens by the key that docs/security.md shows (of RFC 8037, appendix A): of the groups `staff` and `guests`, until the year 2100.
macro_rules! token {
    ("STAFF") => {
        "eyJhbGciOiJFZERTQSIsImtpZCI6ImV4YW1wbGUifQ.eyJpc3MiOiJodHRwczovL2FjY291bnRzLmV4YW1wbGUuY29tIiwiYXVkIjoic2hvcCIsInN1YiI6ImFkYSIsImV4cCI6NDEwMjQ0NDgwMCwiZ3JvdXBzIjpbInN0YWZmIl19.f00Suqg8-fE16TD0FoMB9sxg1yDvZH25UBPDh_Vu8owhulIMki8wlLSpgCg0BNnQS1VOwhOyb5yWNzFNRWdmCw"
    };
    ("GUEST") => {
        "eyJhbGciOiJFZERTQSIsImtpZCI6ImV4YW1wbGUifQ.eyJpc3MiOiJodHRwczovL2FjY291bnRzLmV4YW1wbGUuY29tIiwiYXVkIjoic2hvcCIsInN1YiI6ImFkYSIsImV4cCI6NDEwMjQ0NDgwMCwiZ3JvdXBzIjpbImd1ZXN0cyJdfQ.Sj3Pn93O1Ag81xynCl_rxgnuvOLVvGAV1gUy8fWZg6DXau2mA2y3hzDJ3Smoz5yliE91RWLM3u3g6387YygLAg"
    };
    ("EXPIRED") => {
        "eyJhbGciOiJFZERTQSIsImtpZCI6ImV4YW1wbGUifQ.eyJpc3MiOiJodHRwczovL2FjY291bnRzLmV4YW1wbGUuY29tIiwiYXVkIjoic2hvcCIsInN1YiI6ImFkYSIsImV4cCI6MTYwMDAwMDAwMCwiZ3JvdXBzIjpbInN0YWZmIl19.S-WoSAJu5puGVWkqP15X0Y_kXuW7vWj4iyu2D7Je2Mx1El0U7NW7wqeCWMvPTEmVqvI9INtTGxE842YTK3hyAQ"
    };
}

/// In this order: `double` takes its namespace with it.
const CASES: &[Case] = &[
    case(
        "examples/chain/canary.yaml",
        &["GET http://e:9093/ => 200 by:e", "GET http://e:9093/ x-canary:1 => 200 by:f"],
    ),
    case(
        "examples/chain/headers.yaml",
        &[
            "GET http://e:9093/request x-debug:1 => 200 by:e saw:x-sent-by=tulle unseen:x-debug has:cache-control=no-store",
        ],
    ),
    case(
        "examples/chain/rewrite.yaml",
        &[
            "GET http://e:9093/api/v1/request?q=1 => 200 by:e path:/request?q=1",
            "GET http://e:9093/request => 200 path:/request",
        ],
    ),
    case(
        "examples/chain/redirect.yaml",
        &[
            "GET http://e:9093/old/page => 301 to:http://e:9093/new/page lacks:content-type",
            "GET http://e:9093/new/page => 200 by:e",
        ],
    ),
    case(
        "examples/chain/timeout.yaml",
        &["GET http://f:9094/ times:60 => 200|504 share:f=0..59", "GET http://e:9093/ => 200 by:e"],
    ),
    Case { also: tried_again, ..case("examples/chain/retry.yaml", &["GET http://f:9094/ => 200 by:f"]) },
    Case {
        also: copied,
        ..case("examples/chain/mirror.yaml", &["GET http://e:9093/ times:100 => 200 by:e"])
    },
    case(
        "examples/chain/grpc.yaml",
        &[
            "CALL grpc://d:9092/tulle.fake.v1.FakeService/Call times:80 => 0 by:d|f share:f=1..30",
            "GET http://d:9092/ times:20 => 200 by:d",
        ],
    ),
    case(
        "examples/chain/split.yaml",
        &["GET http://d:9092/ times:60 => 200 by:d|f share:f=12..48", "GET http://c:9091/ => 200 by:c"],
    ),
    Case {
        also: |story| stays(story, "http://e:9093/"),
        ..case("examples/chain/session.yaml", &["GET http://e:9093/ times:40 => 200 by:e|f share:f=4..36"])
    },
    Case {
        beside: SHOP,
        also: too_late,
        ..case(
            "docs/traffic.md HTTPRoute/shop",
            &[
                "GET http://shop/v1/cart x-debug:1 => 200 by:shop path:/api/cart saw:x-version=1 unseen:x-debug has:cache-control=no-store",
                "GET http://shop/v1/ x-id:three-{} x-fail:3 => 200 by:shop",
                "GET http://shop/v1/ x-id:four-{} x-fail:4 => 503 by:shop",
                "POST http://shop/v1/ x-answer:429 x-id:all-{} => 429 by:shop",
                "GET http://shop/old/page?q => 301 to:http://shop/v1/page?q",
                "GET http://shop/elsewhere => 404 reason:no-route",
            ],
        )
    },
    Case {
        beside: SHOP,
        ..case(
            "docs/traffic.md HTTPRoute/shop-api",
            &[
                "OPTIONS http://shop/api/x origin:https://shop.example access-control-request-method:PUT => 204 \
                 has:access-control-allow-origin=https://shop.example has:access-control-allow-credentials=true \
                 has:access-control-max-age=600",
                "OPTIONS http://shop/api/x origin:https://other.example access-control-request-method:PUT => 403 \
                 lacks:access-control-allow-origin",
                "GET http://shop/api/x origin:https://a.b.shop.example => 200 by:shop \
                 has:access-control-allow-origin=https://a.b.shop.example has:access-control-expose-headers=x-total has:vary=Origin",
                "GET http://shop/api/x origin:https://other.example => 200 by:shop lacks:access-control-allow-origin",
                "GET http://shop/api/x origin:http://localhost:3000 x-answer-set:access-control-allow-origin=* => 200 \
                 has:access-control-allow-origin=http://localhost:3000",
            ],
        )
    },
    Case {
        beside: &["default/cart 80=9511", "default/cart-v1 80=9511", "default/cart-v2 80=9512"],
        also: |story| stays(story, "http://cart/"),
        ..case(
            "docs/traffic.md HTTPRoute/cart",
            &["GET http://cart/ times:80 => 200 by:shop|versions share:versions=1..30"],
        )
    },
    Case {
        beside: &["shop/cart 80=9515"],
        ..case(
            "docs/security.md AuthorizationPolicy/cart",
            &[
                "tests> GET http://cart.shop/ => 200 by:cart",
                "GET http://cart.shop/ => 403 reason:no-allow-policy",
            ],
        )
    },
    Case {
        beside: &["shop/catalog 80=9515"],
        ..case(
            "docs/security.md AuthorizationPolicy/catalog",
            &[
                "GET http://catalog.shop/items/1?x=/admin => 200 by:cart",
                "GET http://catalog.shop/users/7/wishes => 200 by:cart",
                "GET http://catalog.shop/users/7/8/wishes => 403 reason:no-allow-policy",
                "POST http://catalog.shop/items => 403 reason:no-allow-policy",
                "GET http://catalog.shop/items%2f..%2fadmin => 400 reason:bad-request",
                "tests> POST http://catalog.shop/anything => 200 by:cart",
                "tests> POST http://catalog.shop.mesh/anything => 403 reason:no-allow-policy",
            ],
        )
    },
    Case {
        beside: &["shop/reports 80=9515"],
        ..case(
            "docs/security.md AuthorizationPolicy/reports",
            &[
                "GET http://reports.shop/reports/1 x-team:default => 200 by:cart",
                "GET http://reports.shop/reports/1 x-team:bank => 403 reason:no-allow-policy",
                "GET http://reports.shop/reports/1 => 403 reason:no-allow-policy",
                "GET http://reports.shop/other x-team:default => 403 reason:no-allow-policy",
                "tests> GET http://reports.shop/reports/1 x-team:tests => 200 by:cart",
                "tests> GET http://reports.shop/reports/1 x-team:default => 403 reason:no-allow-policy",
            ],
        )
    },
    Case {
        beside: &["shop/account 80=9515"],
        ..case(
            "docs/security.md AuthorizationPolicy/account",
            &[
                concat!(
                    "GET http://account.shop/orders bearer:",
                    token!("STAFF"),
                    " => 200 by:cart saw:x-user=ada"
                ),
                concat!(
                    "GET http://account.shop/orders x-user:root bearer:",
                    token!("STAFF"),
                    " => 200 saw:x-user=ada"
                ),
                concat!(
                    "GET http://account.shop/orders bearer:",
                    token!("GUEST"),
                    " => 403 reason:no-allow-policy"
                ),
                concat!(
                    "GET http://account.shop/orders bearer:",
                    token!("EXPIRED"),
                    " => 401 reason:invalid-token"
                ),
                "GET http://account.shop/orders bearer:opaque => 401 reason:invalid-token",
                "GET http://account.shop/orders => 401 reason:token-required has:www-authenticate=Bearer",
                "GET http://account.shop/public/x x-user:root => 200 by:cart unseen:x-user",
            ],
        )
    },
    Case {
        beside: &["shop/checkout 80=9515", "shop/checks 80=9519"],
        ..case(
            "docs/security.md AuthorizationPolicy/checkout",
            &[
                "GET http://checkout.shop/orders x-user:root x-answer-set:x-user=ada => 200 by:cart saw:x-user=ada",
                "GET http://checkout.shop/orders x-answer:401 x-answer-set:www-authenticate=Test => 401 by:checks path:/check/orders \
                 reason:denied-by=shop/checkout has:www-authenticate=Test",
                "GET http://checkout.shop/orders x-answer:503 => 403 reason:external-auth-unavailable",
                "GET http://checkout.shop/other x-answer:401 => 401 by:cart lacks:tulle-reason",
            ],
        )
    },
    Case {
        also: seen_in_plain,
        ..case("docs/security.md AuthorizationPolicy/plain", &["GET http://e:9093/ => 200 by:e"])
    },
    Case {
        also: listed,
        ..case("docs/security.md ExternalService/payments", &["GET http://e:9093/ => 200 by:e"])
    },
    Case {
        also: in_tls,
        ..case("docs/security.md ExternalService/geocoder", &["GET http://e:9093/ => 200 by:e"])
    },
    Case {
        also: open_again,
        ..case("docs/security.md Mesh/default", &["GET http://e:9093/ => 403 reason:no-allow-policy"])
    },
    Case {
        beside: &["shop/cart 80=9513", "shop/cart-v2 80=9514"],
        ..case(
            "docs/traffic.md GRPCRoute/cart",
            &[
                "CALL grpc://cart.shop:80/shop.v1.Cart/Add x-canary:1 times:5 => 0 by:cart-v2",
                "CALL grpc://cart.shop:80/shop.v1.Cart/Add times:200 => 0 by:cart|cart-v2 share:cart-v2=4..50",
                "CALL grpc://cart.shop:80/shop.v1.Cart/Remove x-canary:1 times:100 => 0 share:cart-v2=0..40",
            ],
        )
    },
    Case {
        beside: &["shop/web 443=9516", "shop/web-a 443=9516", "shop/web-b 443=9517"],
        ..case(
            "docs/traffic.md TLSRoute/tenants",
            &[
                "OPEN tls://web.shop:443 sni:a.web.example.com times:40 => 0 by:web-a|web-b share:web-b=1..20",
                "OPEN tls://web.shop:443 sni:x.big.example.com => 0 by:web-a|web-b",
                "OPEN tls://web.shop:443 sni:y.x.big.example.com => 0 by:web-a|web-b",
                "OPEN tls://web.shop:443 sni:big.example.com => reset",
                "OPEN tls://web.shop:443 sni:b.web.example.com => reset",
                "OPEN tls://web.shop:443 => reset",
            ],
        )
    },
    Case {
        beside: SHOP,
        also: named_as_late,
        ..case(
            "docs/traffic.md HTTPRoute/api",
            &[
                "GET http://shop/api/v1/x => 200 by:shop",
                "GET http://shop/api => 200 by:shop",
                "GET http://shop/ => 404 reason:no-route",
            ],
        )
    },
    Case {
        beside: &["shop/cart 80=9515", "tests/cart-double 80=9518"],
        ..case(
            "docs/traffic.md HTTPRoute/cart-double",
            &["tests> GET http://cart.shop/ => 200 by:cart-double", "GET http://cart.shop/ => 200 by:cart"],
        )
    },
    Case { also: run_on_a_host, ..case("docs/hosts.md Service/cart", &[]) },
    case(
        "examples/chain/double.yaml",
        &["tests> GET http://e.default:9093/ => 200 by:f", "GET http://e:9093/ => 200 by:e"],
    ),
];

/// Files of `tulle up`, and the test that has them run.
const FILES_OF_UP: &[(&str, &str)] = &[
    ("examples/chain/tulle.yaml", "what_is_shown_does_what_its_text_says"),
    ("examples/flow/chain.yaml", "the_chain_runs_as_a_flow"),
    ("examples/flow/tulle.yaml", "the_chain_runs_as_a_flow"),
    ("examples/polyglot/tulle.yaml", "the_polyglot_services_need_no_change"),
    ("README.md tulle.yaml", "the_first_file_runs"),
    ("docs/up.md tulle.yaml", "the_file_with_everything_runs"),
];

/// A mesh of `examples/chain`, and clients in it.
struct Story {
    home: Home,
    askers: Askers,
}

impl Story {
    /// A file's path, for commands.
    fn file(&self, name: &str, text: &str) -> String {
        self.home.write(name, text).display().to_string()
    }
}

#[test]
fn what_is_shown_has_a_case() {
    let shown: Vec<_> = shown().into_iter().map(|(place, _)| place).collect();
    let cases: Vec<_> =
        CASES.iter().map(|case| case.place).chain(FILES_OF_UP.iter().map(|(p, _)| *p)).collect();
    let set = |places: &[&str]| places.iter().map(|place| place.to_string()).collect::<BTreeSet<_>>();
    assert_eq!(shown.iter().cloned().collect::<BTreeSet<_>>(), set(&cases), "shown, and tried here");
    assert_eq!(
        (shown.len(), cases.len()),
        (set(&cases).len(), set(&cases).len()),
        "each has a place of its own"
    );
    let stories =
        [include_str!("documented.rs"), include_str!("chain.rs"), include_str!("flows.rs")].concat();
    for (place, test) in FILES_OF_UP {
        assert!(stories.contains(&format!("#[test]\nfn {test}() ")), "{place}: there is no test {test}");
    }
}

#[test]
fn what_is_shown_does_what_its_text_says() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let up = home.start(&["up", &project().join("examples/chain").display().to_string()]);
    up.wait_for_line("readiness", Duration::from_secs(30), |line| line.contains("all services are ready"));
    let namespaces = home.write("namespaces.yaml", &namespaces()).display().to_string();
    home.tulle(&["apply", "-f", &namespaces]).ok();
    let certificate = rcgen::generate_simple_self_signed(vec!["web.test".to_owned()]).unwrap();
    home.write("echo.pem", &(certificate.cert.pem() + &certificate.signing_key.serialize_pem()));
    let backends: Vec<_> =
        BACKENDS.iter().map(|(namespace, what)| backends(&home, namespace, what)).collect();
    let askers = Askers::start(&home, &["default", "tests"]);
    let mut story = Story { home, askers };
    for backend in &backends {
        backend.wait_for_line("backends", Duration::from_secs(20), |line| line == "up");
    }

    let (shown, mut wrong) = (shown(), Vec::new());
    for case in CASES {
        let (_, text) = shown.iter().find(|(place, _)| place == case.place).unwrap();
        let beside: String = case.beside.iter().map(|service| service_of_backends(service)).collect();
        let files =
            [("beside.yaml", &beside), ("shown.yaml", text)].map(|(name, text)| story.file(name, text));
        let files = if beside.is_empty() { &files[1..] } else { &files[..] };
        for file in files {
            story.home.tulle(&["apply", "-f", file]).ok();
        }
        match story.askers.hold_lines(case.asks) {
            Ok(()) => (case.also)(&mut story),
            Err(why) => wrong.push(format!("{}: {why}", case.place)),
        }
        // There is always a Mesh.
        for file in files.iter().rev().filter(|_| !case.place.ends_with("Mesh/default")) {
            story.home.tulle(&["delete", "-f", file]).ok();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(story.askers);
    drop(backends);
    assert!(up.interrupt().success());
}

/// Half of what answers for f is always wrong or never there; nobody hears of it.
fn tried_again(story: &mut Story) {
    let (wrong, asked_wrong) = listen("127.0.0.1:0", |stream| {
        let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    });
    let (silent, asked_silent) = listen("127.0.0.2:0", |_| ());
    let slice = |name: &str, at: SocketAddr| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: f}}}}\n\
             endpoints: [{{addresses: [{}]}}]\nports: [{{port: {}}}]\n---\n",
            at.ip(),
            at.port()
        )
    };
    let file = story.file("slices.yaml", &[slice("wrong", wrong), slice("silent", silent)].concat());
    story.home.tulle(&["apply", "-f", &file]).ok();
    eventually("requests to all that answers for f", Duration::from_secs(10), || {
        story.askers.check(&["GET http://f:9094/ times:5 => 200 by:f"]);
        let asked = [&asked_wrong, &asked_silent].map(|count| count.load(Ordering::Relaxed));
        asked.iter().all(|count| *count > 0).then_some(())
    });
    story.home.tulle(&["delete", "-f", &file]).ok();
    story.askers.check(&["GET http://f:9094/ => 200 by:f"]);
}

/// Somebody who reads heads of requests, and answers them so, or not at all; with the number of requests.
fn listen(at: &str, answer: fn(&mut TcpStream)) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(at).unwrap();
    let (at, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if line.is_empty() {
                        count.fetch_add(1, Ordering::Relaxed);
                        answer(&mut writer);
                    }
                }
            });
        }
    });
    (at, asked)
}

/// Clients that send the cookie that they were given stay with who gave it.
fn stays(story: &mut Story, url: &str) {
    for _ in 0..4 {
        let answer = story.askers.answers(&Ask::parse(&format!("GET {url} => 200"))).remove(0);
        let (name, cookie) =
            (told(&answer)["name"].as_str().unwrap().to_owned(), fields(&answer, "set-cookie").unwrap());
        let cookie = cookie.split(';').next().unwrap();
        story
            .askers
            .check_once(&format!("GET {url} cookie:{cookie} times:8 => 200 by:{name} lacks:set-cookie"));
    }
}

/// The client's requests to e have been seen at f, some of them.
fn copied(story: &mut Story) {
    eventually("copies at f", Duration::from_secs(10), || {
        let edges = story.home.edges();
        let of = |to: &str| edges.iter().find(|edge| edge.source == CLIENT && edge.destination == to);
        of("f").is_some_and(|edge| edge.requests > 0).then_some(())
    });
}

/// An attempt may take two seconds, and what is not idempotent is not tried again after it.
fn too_late(story: &mut Story) {
    story.askers.check_once("POST http://shop/v1/ x-answer-after:2.5 => 504 reason:timeout");
}

/// The rule that no request reaches, by the route's status and by `tulle validate`.
fn named_as_late(story: &mut Story) {
    let name = "spec.rules[0].matches[0]";
    let file = story.home.path().join("shown.yaml").display().to_string();
    let validated = story.home.tulle(&["validate", "--partial", &file]);
    assert!(
        validated.status.success()
            && [&validated.stdout, &validated.stderr].iter().any(|t| t.contains("rules[0]")),
        "{validated:#?}"
    );
    // The status is written a moment after the route acts.
    eventually("the route's status", Duration::from_secs(10), || {
        let route = story.home.tulle(&["get", "httproute", "api", "-o", "json"]).ok();
        let route: Value = serde_json::from_str(&route).unwrap();
        let conditions = route["status"]["parents"][0]["conditions"].as_array()?;
        let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted")?;
        let says = accepted["message"].as_str()?.contains(name);
        (accepted["status"] == "True" && says).then_some(())
    });
}

/// Callers of whom no policy says anything may enter again.
fn open_again(story: &mut Story) {
    let mesh = "apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: default}\n\
                spec: {authorization: {default: Allow}, mtls: {mode: Permissive}}\n";
    let file = story.file("open.yaml", mesh);
    story.home.tulle(&["apply", "-f", &file]).ok();
    story.askers.check(&["GET http://e:9093/ => 200 by:e"]);
}

/// Where egress is `Listed`, what is listed leaves, for whom the policy allows, and nothing else does.
fn listed(story: &mut Story) {
    let mesh = |egress: &str| {
        format!(
            "apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {{egress: {egress}}}\n"
        )
    };
    let file = story.file("egress.yaml", &mesh("{namespaces: [{name: shop, policy: Listed}]}"));
    story.home.tulle(&["apply", "-f", &file]).ok();
    for (from, may) in [("shop/checkout", true), ("shop/backends", false), ("tests/checkout", false)] {
        let to = "external/shop/payments";
        let check = story.home.tulle(&["auth", "check", "--from", from, "--to", to, "GET", "/v1"]);
        assert_eq!(
            (check.code(), check.stdout.matches("AuthorizationPolicy/shop/payments").count()),
            (i32::from(!may), 2),
            "{check:#?}"
        );
    }
    for (url, says) in [
        ("https://other.example/", &["egress-denied", "Mesh/default", "spec.egress.namespaces"][..]),
        ("http://a.eu.payments.example/", &["no-allow-policy", "AuthorizationPolicy/shop/payments"]),
        (
            "http://api.payments.example:8080/",
            &["egress-denied", "ExternalService/shop/payments", "spec.ports"],
        ),
    ] {
        let explained = story.home.tulle(&["explain", "-n", "shop", "--from", "backends", url]).stdout;
        assert!(says.iter().all(|says| explained.contains(says)), "{url}: {explained}");
    }
    let file = story.file("egress.yaml", &mesh("{policy: Allow}"));
    story.home.tulle(&["apply", "-f", &file]).ok();
}

/// What is outside is spoken to in TLS, as soon as it is known who may have signed its certificate.
fn in_tls(story: &mut Story) {
    let explained = |url: &str| {
        let explained = story.home.tulle(&["explain", "-n", "shop", "--from", "backends", url]);
        explained.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let feed = "tcp://geocoder.example:5671";
    for (url, says) in [
        (
            "http://geocoder.example/",
            &["asking for geocoder.example, to port 443", "BackendTLSPolicy/shop/geocoder"][..],
        ),
        (feed, &["tls-failed", "there is no ConfigMap shop/geocoder-authority", "caCertificateRefs[0]"]),
    ] {
        let explained = explained(url);
        assert!(says.iter().all(|says| explained.contains(says)), "{url}: {explained}");
    }
    let conditions = |policy: &str| {
        let object = story.home.tulle(&["get", "backendtlspolicy", policy, "-n", "shop", "-o", "json"]).ok();
        let object: Value = serde_json::from_str(&object).unwrap();
        let conditions = object.pointer("/status/ancestors/0/conditions").and_then(Value::as_array).cloned();
        let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
        let conditions = conditions.unwrap_or_default();
        conditions.iter().map(|of| format!("{} {}", text(of, "type"), text(of, "reason"))).collect::<Vec<_>>()
    };
    let patience = Duration::from_secs(10);
    let good = ["Accepted Accepted", "ResolvedRefs ResolvedRefs"];
    eventually("the policy counts", patience, || (conditions("geocoder") == good).then_some(()));
    let bad = ["Accepted NoValidCACertificate", "ResolvedRefs InvalidCACertificateRef"];
    eventually("the other does not", patience, || (conditions("geocoder-feed") == bad).then_some(()));
    let authority = rcgen::generate_simple_self_signed(vec!["authority.example".to_owned()]).unwrap();
    let file = story.file("authority.pem", &authority.cert.pem());
    let from = format!("--from-file=ca.crt={file}");
    story.home.kubectl(&["create", "configmap", "geocoder-authority", "-n", "shop", &from]).ok();
    eventually("the other counts", patience, || (conditions("geocoder-feed") == good).then_some(()));
    assert!(explained(feed).contains("asking for feed.geocoder.example"), "{}", explained(feed));
    story.home.tulle(&["delete", "configmap", "geocoder-authority", "-n", "shop"]).ok();
}

/// Who comes past the mesh is reported and named, and let in.
fn seen_in_plain(story: &mut Story) {
    let mesh = |enabled: bool| {
        format!(
            "apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\n\
             spec: {{inboundCapture: {{enabled: {enabled}}}}}\n"
        )
    };
    let file = story.file("capture.yaml", &mesh(true));
    story.home.tulle(&["apply", "-f", &file]).ok();
    eventually("the address of who comes in plain", Duration::from_secs(20), || {
        let curl = story.home.command("curl").args(["-s", "-m", "5", "http://127.0.0.1:9093/"]).output();
        assert!(curl.unwrap().status.success());
        let edges: Value = serde_json::from_str(&story.home.tulle(&["edges", "-o", "json"]).ok()).unwrap();
        let edges = edges["edges"].as_array().unwrap();
        let is_it =
            |edge: &&Value| edge["source"]["name"] == "external" && edge["destination"]["name"] == "e";
        (edges.iter().find(is_it)?["addresses"] == serde_json::json!(["127.0.0.1"])).then_some(())
    });
    let strict = mesh(true).replace("}}", "}, mtls: {mode: Strict}}");
    let strict = story.file("strict.yaml", &strict);
    let impact = story.home.tulle(&["policy", "impact", "-f", &strict]);
    assert_eq!(impact.code(), 1, "{}", impact.stdout);
    let named =
        |line: &str| ["127.0.0.1", "default/e", "allowed", "denied"].iter().all(|word| line.contains(word));
    assert!(impact.stdout.lines().any(named), "{}", impact.stdout);
    let file = story.file("capture.yaml", &mesh(false));
    story.home.tulle(&["apply", "-f", &file]).ok();
}

/// A process that somebody starts on a host is found by the Service's selector.
fn run_on_a_host(story: &mut Story) {
    let (python, script) = (python().display().to_string(), client("echo.py"));
    let words = "run cart --namespace shop --port 9000 --probe http:/healthz --";
    let mut words: Vec<_> = words.split(' ').collect();
    words.extend([python.as_str(), &script, "http:cart:9000"]);
    let process = story.home.start(&words);
    story.askers.check(&["GET http://cart.shop:9000/ => 200 by:cart"]);
    drop(process);
}

#[test]
fn the_first_file_runs() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let up = up_with_programs(&home, "README.md tulle.yaml", &[("api", "http:api:$PORT")]);
    let mut askers = Askers::start(&home, &["default"]);
    askers.check(&[
        "GET http://web:8000/ times:10 => 200",
        "GET http://api:9000/healthz => 200 by:api path:/healthz",
    ]);
    let workloads = home.tulle(&["get", "workloads"]).ok();
    assert_eq!(workloads.matches("\nweb-").count(), 2, "{workloads}");
    drop(askers);
    assert!(up.interrupt().success());
}

#[test]
fn the_file_with_everything_runs() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let programs = [("web/web", "http:web-$LOG:$2"), ("api", "http:api:$PORT_HTTP http:admin:$PORT_ADMIN")];
    let admin = "#!/bin/sh\nexec curl -sf -o /dev/null \"http://$1/\"\n";
    program(&home.write("mesh/check", admin));
    home.write("mesh/routes/web.yaml", WEB_ROUTE);
    let up = up_with_programs(&home, "docs/up.md tulle.yaml", &programs);
    let mut askers = Askers::start(&home, &["default"]);
    askers.check(&[
        "GET http://web:8080/ times:10 => 200 by:web-info has:x-route=web",
        "GET http://api/ => 200 by:api",
        "GET http://api:81/ => 200 by:admin",
    ]);
    let value = |words: &[&str]| -> Value { serde_json::from_str(&home.tulle(words).ok()).unwrap() };
    let workloads = value(&["get", "workloads", "-o", "json"]);
    let fronts = |workload: &&Value| workload["metadata"]["labels"]["tier"] == "front";
    assert_eq!(workloads["items"].as_array().unwrap().iter().filter(fronts).count(), 3, "{workloads}");
    let route = value(&["get", "httproute", "api", "-o", "json"]);
    assert_eq!(route["status"]["parents"][0]["conditions"][0]["status"], "True", "{route}");
    drop(askers);
    assert!(up.interrupt().success());
}

/// What `resources` of the file in docs/up.md finds.
const WEB_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: web}]}}]
    backendRefs: [{name: web, port: 8080}]
";

/// `tulle up` of what is shown there, with programs that it names; each is to be what `echo.py` makes of the words.
#[track_caller]
fn up_with_programs(home: &Home, place: &str, programs: &[(&str, &str)]) -> Process {
    for (name, what) in programs {
        let (python, script) = (python(), client("echo.py"));
        let text = format!("#!/bin/sh\nexec \"{}\" \"{script}\" {what}\n", python.display());
        program(&home.write(&format!("mesh/{name}"), &text));
    }
    let (_, text) = shown().into_iter().find(|(shown, _)| shown == place).unwrap();
    home.up(&text)
}

fn program(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Every file and block of YAML that is shown, with its place.
fn shown() -> Vec<(String, String)> {
    let root = project();
    let named = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    let mut shown: Vec<_> =
        files_below(&root.join("examples"), "yaml").iter().map(|path| (named(path), text(path))).collect();
    let documents =
        [files_below(&root.join("docs"), "md"), files_below(&root.join("examples"), "md")].concat();
    for path in documents.into_iter().chain([root.join("README.md"), root.join("CONTRIBUTING.md")]) {
        for block in text(&path).split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            shown.push((format!("{} {}", named(&path), subject(block)), block.to_owned()));
        }
    }
    shown
}

/// What a block describes: `KIND/NAME` of its first document, or a file of `tulle up`.
fn subject(block: &str) -> String {
    let first = parse(block).unwrap().remove(0).value;
    match first["kind"].as_str() {
        Some(kind) => format!("{kind}/{}", first["metadata"]["name"].as_str().unwrap()),
        None => "tulle.yaml".to_owned(),
    }
}

fn namespaces() -> String {
    let namespace = |(name, _): &(&str, &str)| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n")
    };
    BACKENDS.iter().chain([&(SYSTEM, "")]).map(namespace).collect()
}

/// A workload `backends` of that namespace, which is what `echo.py` makes of the words.
fn backends(home: &Home, namespace: &str, what: &str) -> Process {
    let ports = what.split(' ').map(|service| service.rsplit(':').next().unwrap());
    let mut command = home.command(tulle_tests::harness::tulle());
    command
        .args(["run", "backends", "-n", namespace])
        .args(ports.map(|port| format!("--port=p{port}:{port}")));
    command.env("ECHO_PEM", home.path().join("echo.pem"));
    command.arg("--").arg(python()).arg(client("echo.py")).args(what.split(' '));
    Process::spawn(&mut command)
}

/// The Service of a line in [`Case::beside`].
fn service_of_backends(line: &str) -> String {
    let (name, ports) = line.split_once(' ').unwrap();
    let ((namespace, name), (port, target)) = (name.split_once('/').unwrap(), ports.split_once('=').unwrap());
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{app: backends}}, ports: [{{port: {port}, targetPort: {target}}}]}}\n---\n"
    )
}
