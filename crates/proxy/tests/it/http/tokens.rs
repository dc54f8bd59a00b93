//! Tokens that AuthorizationPolicies ask for: with which ones requests enter, what the others are told, and what applications
//! learn of claims.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::timeout;
use tulle_model::snapshot::{
    AccessPolicy, AccessRule, Action, AppProtocol, ClaimHeader, ClaimMatch, JwtConditions, JwtIssuer,
    JwtKeys, RequestConditions, TextMatch, TokenPlace, ValueMatch,
};
use tulle_proxy::clock::wall_millis;

use super::apps::{self, chunks, exchange, full, http1, http2, read};
use super::mesh::{Path, Way, path};

const SOON: Duration = Duration::from_secs(5);
const ISSUER: &str = "https://a.test";

struct Signer(EncodingKey);

impl Signer {
    fn new() -> Self {
        Self(EncodingKey::from_ec_der(&rcgen::KeyPair::generate().unwrap().serialize_der()))
    }

    /// A token with these claims, and what every one has.
    fn token(&self, more: Value) -> String {
        let mut claims = json!({ "iss": ISSUER, "sub": "ada", "exp": wall_millis() / 1000 + 600 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.0).unwrap()
    }

    fn issuer(&self, issuer: &str) -> JwtIssuer {
        let mut key = Jwk::from_encoding_key(&self.0, Algorithm::ES256).unwrap();
        key.common.key_id = Some("k".to_owned());
        let set = json!({ "keys": [key] }).to_string();
        JwtIssuer {
            issuer: issuer.to_owned(),
            audiences: Vec::new(),
            keys: JwtKeys { source: None, set: Some(set.into()) },
            place: TokenPlace::bearer(),
            claim_headers: vec![ClaimHeader { claim: "sub".into(), header: "x-user".parse().unwrap() }],
            max_stream_age: None,
        }
    }
}

fn policy(name: &str, action: Action, issuers: &[JwtIssuer], rules: &[RequestConditions]) -> AccessPolicy {
    let rule = |(index, request): (usize, &RequestConditions)| AccessRule {
        index,
        sources: None,
        ports: None,
        request: Some(Box::new(request.clone())),
        when: None,
    };
    AccessPolicy {
        name: format!("default/{name}").parse().unwrap(),
        action,
        at: None,
        issuers: issuers.iter().cloned().map(Arc::new).collect(),
        rules: rules.iter().enumerate().map(rule).collect(),
        external: None,
    }
}

fn claiming(name: &str, value: &str) -> RequestConditions {
    let claims = vec![ClaimMatch { name: name.into(), values: vec![value.into()] }];
    RequestConditions { jwt: Some(JwtConditions { issuers: vec![], claims }), ..Default::default() }
}

fn authorize(path: &mut Path, way: Way, policies: Vec<AccessPolicy>) {
    let node = if way == Way::Link { &mut path.far } else { &mut path.near };
    node.authorize("c-0", policies);
}

/// What the application is told of users, a request each.
type Users = Arc<Mutex<Vec<Vec<String>>>>;

async fn telling() -> (std::net::SocketAddr, Users) {
    let seen = Users::default();
    let told = seen.clone();
    let app = apps::serve(move |request: Request<Incoming>| {
        let users = request.headers().get_all("x-user").iter();
        told.lock().push(users.map(|user| user.to_str().unwrap().to_owned()).collect());
        async move { Response::new(full("in")) }
    });
    (app.await, seen)
}

#[tokio::test]
async fn requests_enter_with_valid_tokens_alone() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let issuers = [JwtIssuer { audiences: vec!["shop".into()], ..signer.issuer(ISSUER) }];
    let admins = claiming("groups", "admins");
    let open = RequestConditions { methods: vec!["HEAD".into()], ..Default::default() };
    let good = |more: Value| {
        let mut claims = json!({ "aud": "shop", "groups": ["admins"] });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let bearer = |token: String| vec![("authorization", format!("Bearer {token}"))];
    let past = wall_millis() / 1000 - 1;
    let allow = policy("allow", Action::Allow, &issuers, &[admins.clone(), open.clone()]);
    let deny = policy("deny", Action::Deny, &issuers, &[claiming("suspended", "true")]);
    let (in_, missing, invalid, denied) =
        (None, Some((401, "token-required")), Some((401, "invalid-token")), Some((403, "no-allow-policy")));
    // What the request brings, what becomes of a GET and, as a rule lets all of these in, of a HEAD.
    let cases = [
        (bearer(signer.token(good(json!({})))), in_, in_),
        (bearer(signer.token(good(json!({ "groups": "admins" })))), in_, in_),
        (bearer(signer.token(good(json!({ "groups": ["staff"] })))), denied, in_),
        (
            bearer(signer.token(good(json!({ "suspended": true })))),
            Some((403, "denied-by=default/deny")),
            Some((403, "denied-by=default/deny")),
        ),
        (vec![], missing, in_),
        (vec![("authorization", "Basic YTpi".to_owned())], missing, in_),
        (vec![("x-user", "root".to_owned())], missing, in_),
        (bearer(signer.token(good(json!({ "exp": past })))), invalid, invalid),
        (bearer(signer.token(good(json!({ "nbf": past + 600 })))), invalid, invalid),
        (bearer(signer.token(good(json!({ "aud": "bank" })))), invalid, invalid),
        (bearer(signer.token(good(json!({ "iss": "https://b.test" })))), invalid, invalid),
        (bearer(stranger.token(good(json!({})))), invalid, invalid),
        (bearer("eyJhbGciOiJub25lIn0.e30.".to_owned()), invalid, invalid),
        (bearer("opaque".to_owned()), invalid, invalid),
        (
            [bearer(signer.token(good(json!({})))), bearer(stranger.token(good(json!({}))))].concat(),
            invalid,
            invalid,
        ),
    ];
    for way in [Way::SameNode, Way::Link] {
        let (app, seen) = telling().await;
        let mut path = path(way, AppProtocol::Http1, app).await;
        authorize(&mut path, way, vec![allow.clone(), deny.clone()]);
        for (headers, get, head) in &cases {
            for (method, expected) in [(Method::GET, get), (Method::HEAD, head)] {
                let request = |uri: &str| {
                    let mut request = Request::builder().method(&method).uri(uri).header("host", "c");
                    for (name, value) in headers {
                        request = request.header(*name, value);
                    }
                    request.header("x-user", "forged").body(full("")).unwrap()
                };
                let by_http1 = http1(path.address).await.send_request(request("/x")).await.unwrap();
                let by_http2 = http2(path.address).await.send_request(request("http://c/x")).await.unwrap();
                for answer in [read(by_http1).await, read(by_http2).await] {
                    let what = format!("{way:?} {method} {headers:?} {} {}", answer.status, answer.body);
                    let reason = answer.headers.get("tulle-reason").map(|reason| reason.to_str().unwrap());
                    assert_eq!(
                        (answer.status, reason),
                        expected.map_or((200, None), |(status, reason)| (status, Some(reason))),
                        "{what}"
                    );
                    let challenge =
                        answer.headers.get("www-authenticate").map(|value| value.to_str().unwrap());
                    let wanted = match expected {
                        Some((_, "invalid-token")) => Some("Bearer error=\"invalid_token\""),
                        Some((401, _)) => Some("Bearer"),
                        _ => None,
                    };
                    assert_eq!(challenge, wanted, "{what}");
                    assert!(!answer.body.contains("eyJ"), "no token is told: {what}");
                }
                // As a WebSocket, which is a GET; the application stays with HTTP.
                let mut expected_users = 2;
                if method == Method::GET {
                    let fields: String =
                        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                    let socket = format!(
                        "GET /x HTTP/1.1\r\nhost: c\r\n{fields}x-user: forged\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                    );
                    let said = exchange(path.address, &socket).await;
                    let (status, reason) = expected.unwrap_or((200, ""));
                    assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{way:?} {headers:?} {said}");
                    assert!(
                        said.contains(&format!("tulle-reason: {reason}\r\n")) || reason.is_empty(),
                        "{said}"
                    );
                    expected_users += 1;
                }
                // Whatever clients say of users, the token alone counts.
                let user: Vec<String> = if headers.iter().any(|(name, _)| *name == "authorization")
                    && !headers[0].1.starts_with("Basic")
                {
                    vec!["ada".into()]
                } else {
                    vec![]
                };
                let came: Vec<_> = seen.lock().drain(..).collect();
                assert_eq!(
                    came,
                    if expected.is_none() { vec![user; expected_users] } else { vec![] },
                    "{way:?} {method} {headers:?}"
                );
            }
        }
    }
}

/// What an application is told of users comes of tokens, by whatever way: in other spellings, as an upgrade, and where
/// rules look at the header itself.
#[tokio::test]
async fn nobody_says_himself_what_tokens_say() {
    let signer = Signer::new();
    let asks_for_root = ValueMatch { name: "x-user".into(), value: TextMatch::Exact("root".into()) };
    let root = RequestConditions { headers: vec![asks_for_root], ..Default::default() };
    let upgrades = RequestConditions { methods: vec!["GET".into()], ..Default::default() };
    for way in [Way::SameNode, Way::Link] {
        let heads = Arc::new(Mutex::new(Vec::<String>::new()));
        let told = heads.clone();
        let app = apps::script(move |mut stream| {
            let told = told.clone();
            async move {
                let head = apps::read_head(&mut stream).await;
                let is_upgrade = head.to_lowercase().contains("upgrade: websocket");
                told.lock().push(head.to_lowercase());
                let answer: &[u8] = match is_upgrade {
                    true => b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                    // No second request comes to a connection that would not answer it.
                    false => b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                };
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 16]).await;
            }
        });
        let mut path = path(way, AppProtocol::Http1, app.await).await;
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
        let forged = "x-user: root\r\nX_User: root\r\n";
        let bearer = format!("authorization: Bearer {}\r\n", signer.token(json!({})));
        let two =
            format!("authorization: Bearer\t{}\r\n{bearer}", Signer::new().token(json!({ "sub": "root" })));
        authorize(
            &mut path,
            way,
            vec![policy("open", Action::Allow, &[signer.issuer(ISSUER)], std::slice::from_ref(&upgrades))],
        );
        for (fields, status, user) in [
            (format!("{forged}{bearer}"), "200", Some("x-user: ada")),
            (forged.to_owned(), "200", None),
            (format!("{upgrade}{forged}{bearer}"), "101", Some("x-user: ada")),
            (format!("{upgrade}{forged}"), "101", None),
            (two, "401", None),
        ] {
            let text = format!("GET /x HTTP/1.1\r\nhost: c\r\n{fields}\r\n");
            let mut stream = tokio::net::TcpStream::connect(path.address).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, text.as_bytes()).await.unwrap();
            let answer = timeout(SOON, apps::read_head(&mut stream)).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{way:?} {fields} {answer}");
            let came: Vec<String> = heads.lock().drain(..).collect();
            assert_eq!(came.len(), usize::from(status != "401"), "{way:?} {fields}");
            for head in came {
                assert!(!head.contains("root"), "{way:?} {head}");
                assert_eq!(head.contains("x-user:"), user.is_some(), "{way:?} {head}");
                assert!(user.is_none_or(|user| head.contains(user)), "{way:?} {head}");
            }
        }
        // A rule about the header is about what the application gets.
        authorize(
            &mut path,
            way,
            vec![policy("root", Action::Allow, &[signer.issuer(ISSUER)], std::slice::from_ref(&root))],
        );
        let text = format!("GET /x HTTP/1.1\r\nhost: c\r\nconnection: close\r\n{forged}{bearer}\r\n");
        let answer = timeout(SOON, apps::exchange(path.address, &text)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{way:?} {answer}");
        assert!(heads.lock().is_empty());
    }
}

/// Each policy takes the tokens of its own issuers, and none vouches for another's.
#[tokio::test]
async fn an_issuer_of_one_policy_is_none_of_another() {
    let (mesh, own) = (Signer::new(), Signer::new());
    for way in [Way::SameNode, Way::Link] {
        let (app, seen) = telling().await;
        let mut path = path(way, AppProtocol::Http1, app).await;
        // Who may write policies of a namespace takes the mesh's issuer for another, with keys of his own.
        let policies = vec![
            policy("mesh", Action::Allow, &[mesh.issuer(ISSUER)], &[claiming("role", "admin")]),
            policy("own", Action::Allow, &[own.issuer(ISSUER)], &[claiming("role", "guest")]),
        ];
        authorize(&mut path, way, policies);
        for (signer, role, expected) in [
            (&mesh, "admin", (200, None)),
            (&mesh, "guest", (403, Some("no-allow-policy"))),
            (&own, "admin", (403, Some("no-allow-policy"))),
            (&own, "guest", (200, None)),
            (&Signer::new(), "admin", (401, Some("invalid-token"))),
        ] {
            let token = format!("Bearer {}", signer.token(json!({ "role": role })));
            let request = Request::get("/x").header("host", "c").header("authorization", token);
            let answer =
                http1(path.address).await.send_request(request.body(full("")).unwrap()).await.unwrap();
            let answer = read(answer).await;
            let reason = answer.headers.get("tulle-reason").map(|reason| reason.to_str().unwrap());
            assert_eq!((answer.status, reason), expected, "{way:?} {role}");
            assert_eq!(seen.lock().drain(..).count(), usize::from(expected.0 == 200));
        }
    }
}

/// A policy may say how long streams go on that came with a token: they end then, and others begin with a valid one.
#[tokio::test]
async fn streams_end_when_they_are_as_old_as_their_policy_allows() {
    let signer = Signer::new();
    for way in [Way::SameNode, Way::Link] {
        let app = apps::serve(apps::call_without_end);
        let mut path = path(way, AppProtocol::Http2, app.await).await;
        let allow = |age: Option<Duration>| {
            let issuer = JwtIssuer { max_stream_age: age, ..signer.issuer(ISSUER) };
            let open = RequestConditions { methods: vec!["POST".into()], ..Default::default() };
            vec![policy("p", Action::Allow, &[issuer], &[claiming("sub", "ada"), open])]
        };
        let call = |token: Option<String>| {
            let mut call = Request::post("http://c:80/S/M").header("content-type", "application/grpc");
            if let Some(token) = token {
                call = call.header("authorization", format!("Bearer {token}"));
            }
            call.header("te", "trailers").body(chunks(vec![], None)).unwrap()
        };
        authorize(&mut path, way, allow(Some(Duration::from_millis(700))));
        let begin = async |path: &Path, token: Option<String>| {
            let answer = http2(path.address).await.send_request(call(token)).await.unwrap();
            let mut answer = answer.into_body();
            let first = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(first.into_data().unwrap().len(), 6, "{way:?}");
            answer
        };
        let began = std::time::Instant::now();
        let mut with_token = begin(&path, Some(signer.token(json!({})))).await;
        let mut without = begin(&path, None).await;
        let last = timeout(SOON, with_token.frame()).await.unwrap().unwrap().unwrap();
        let took = began.elapsed();
        assert_eq!(last.into_trailers().unwrap()["grpc-status"], "16", "{way:?}");
        assert!(took >= Duration::from_millis(700) && took < Duration::from_millis(1700), "{way:?} {took:?}");
        assert!(timeout(Duration::from_millis(300), without.frame()).await.is_err(), "{way:?} it goes on");
        // What is there already is held against a new age, too.
        authorize(&mut path, way, allow(None));
        let mut ageless = begin(&path, Some(signer.token(json!({})))).await;
        assert!(timeout(Duration::from_millis(900), ageless.frame()).await.is_err(), "{way:?} it goes on");
        authorize(&mut path, way, allow(Some(Duration::from_millis(1))));
        let last = timeout(Duration::from_secs(1), ageless.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap()["grpc-status"], "16", "{way:?}");
    }
}

/// The same where no answer has begun.
#[tokio::test]
async fn calls_without_an_answer_grow_old_as_well() {
    let signer = Signer::new();
    for way in [Way::SameNode, Way::Link] {
        let app = apps::serve(async |_| std::future::pending().await);
        let mut path = path(way, AppProtocol::Http2, app.await).await;
        let issuer = JwtIssuer { max_stream_age: Some(Duration::from_millis(700)), ..signer.issuer(ISSUER) };
        authorize(&mut path, way, vec![policy("p", Action::Allow, &[issuer], &[claiming("sub", "ada")])]);
        let call = Request::post("http://c:80/S/M").header("content-type", "application/grpc");
        let call = call.header("authorization", format!("Bearer {}", signer.token(json!({}))));
        let call = call.header("te", "trailers").body(chunks(vec![], None)).unwrap();
        let began = std::time::Instant::now();
        let mut client = http2(path.address).await;
        let answer = timeout(SOON, client.send_request(call)).await.unwrap().unwrap();
        let took = began.elapsed();
        assert_eq!(answer.headers()["grpc-status"], "16", "{way:?}");
        assert!(took >= Duration::from_millis(700) && took < Duration::from_millis(1700), "{way:?} {took:?}");
    }
}

/// Calls of gRPC are told by their own status, and one that goes on ends when its token no longer suffices, though not with it.
#[tokio::test]
async fn streams_stay_for_as_long_as_their_claims_suffice() {
    let signer = Signer::new();
    for way in [Way::SameNode, Way::Link] {
        let app = apps::serve(apps::call_without_end);
        let mut path = path(way, AppProtocol::Http2, app.await).await;
        let policies =
            |who: &str| vec![policy("p", Action::Allow, &[signer.issuer(ISSUER)], &[claiming("sub", who)])];
        authorize(&mut path, way, policies("ada"));
        let call = |token: Option<String>| {
            let mut call = Request::post("http://c:80/S/M").header("content-type", "application/grpc");
            if let Some(token) = token {
                call = call.header("authorization", format!("Bearer {token}"));
            }
            call.header("te", "trailers").body(chunks(vec![], None)).unwrap()
        };
        let status = |headers: &HeaderMap| {
            headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
        };
        for token in [None, Some("opaque".to_owned())] {
            let answer = http2(path.address).await.send_request(call(token)).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), status(answer.headers()).as_deref()),
                (200, Some("16")),
                "{way:?}"
            );
        }
        let until = wall_millis() / 1000 + 2;
        let short = signer.token(json!({ "exp": until }));
        let answer = http2(path.address).await.send_request(call(Some(short.clone()))).await.unwrap();
        let mut answer = answer.into_body();
        let first = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.into_data().unwrap().len(), 6);
        // It has expired, and the policies are told anew, in other words.
        let expired = async {
            while wall_millis() / 1000 < until {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(SOON, expired).await.unwrap();
        let late = http2(path.address).await.send_request(call(Some(short))).await.unwrap();
        assert_eq!(status(late.headers()).as_deref(), Some("16"), "{way:?}");
        let both = RequestConditions {
            jwt: Some(JwtConditions { issuers: vec![ISSUER.into()], claims: vec![] }),
            ..Default::default()
        };
        let same = policy("q", Action::Allow, &[signer.issuer(ISSUER)], &[both]);
        authorize(&mut path, way, vec![same]);
        assert!(timeout(Duration::from_millis(300), answer.frame()).await.is_err(), "{way:?} it goes on");
        authorize(&mut path, way, policies("bob"));
        let last = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(status(&last.into_trailers().unwrap()).as_deref(), Some("7"), "{way:?}");
    }
}
