//! Tokens whose keys are at a URL: fetched by the server, known to nodes, and fetched anew when the issuer has new ones.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tulle_tests::harness::eventually;
use tulle_tests::one_host::{Mode, OneHost};

const PATIENCE: Duration = Duration::from_secs(15);
const PORTS: u16 = 19740;
const PORT: u16 = 19743;

/// An issuer's key by its name.
struct Key(&'static str, EncodingKey);

impl Key {
    fn new(name: &'static str) -> Self {
        Self(name, EncodingKey::from_ec_der(&rcgen::KeyPair::generate().unwrap().serialize_der()))
    }

    fn public(&self) -> Jwk {
        let mut key = Jwk::from_encoding_key(&self.1, Algorithm::ES256).unwrap();
        key.common.key_id = Some(self.0.to_owned());
        key
    }

    fn token(&self) -> String {
        let header = Header { kid: Some(self.0.to_owned()), ..Header::new(Algorithm::ES256) };
        let claims = json!({ "iss": "https://a.test", "sub": "ada", "exp": 4_102_444_800_u64 });
        jsonwebtoken::encode(&header, &claims, &self.1).unwrap()
    }
}

/// What the issuer answers with; nothing where it hangs.
type Answer = Arc<Mutex<Option<String>>>;

/// Where it is, and how often it was asked.
fn issuer(answer: Answer) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        let mut hanging = Vec::new();
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = tcp.read(&mut [0; 4096]);
            match &*answer.lock().unwrap() {
                Some(body) => {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = tcp.write_all(format!("{head}{body}").as_bytes());
                }
                None => hanging.push(tcp),
            }
        }
    });
    (url, count)
}

#[test]
fn keys_are_fetched_once_for_all_and_anew_when_the_issuer_has_others() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let set = |keys: &[&Key]| {
        Some(json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() }).to_string())
    };
    // At first it hangs.
    let answer = Answer::default();
    let (url, asked) = issuer(answer.clone());
    let mesh = OneHost::start(Mode::Explicit, PORTS);
    mesh.service("c", PORT);
    let (app, _) = mesh.run_service("c", PORT, &[], &[]);
    let policy = json!({
        "apiVersion": "tulle.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": { "name": "c" },
        "spec": {
            "targetRefs": [{ "group": "", "kind": "Service", "name": "c" }],
            "action": "Allow",
            "jwt": { "issuers": [{ "issuer": "https://a.test", "jwks": { "uri": url } }] },
            "rules": [{ "jwt": {} }],
        }
    });
    let file = mesh.home.write("policy.json", &policy.to_string()).display().to_string();
    mesh.home.tulle(&["apply", "-f", &file]).ok();
    let ask = |token: Option<String>| {
        let header = token.map(|token| format!("authorization: Bearer {token}"));
        let mut words =
            vec!["run", "me", "--", "curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"];
        words.extend(header.iter().flat_map(|header| ["-H", header]));
        let url = format!("http://c:{PORT}/");
        words.push(&url);
        let started = Instant::now();
        let status = mesh.home.tulle(&words).stdout.trim().to_owned();
        (status, started.elapsed())
    };
    let refused = |status: &str| (status == "401").then_some(());
    eventually("a request without a token is refused", PATIENCE, || refused(&ask(None).0));
    // Nobody waits for the issuer.
    let (status, took) = ask(Some(old.token()));
    assert_eq!(status, "401");
    assert!(took < Duration::from_secs(5), "{took:?}");

    *answer.lock().unwrap() = set(&[&old]);
    eventually("its keys are there", PATIENCE, || (ask(Some(old.token())).0 == "200").then_some(()));
    let (before, since) = (asked.load(Ordering::SeqCst), Instant::now());
    assert_eq!(ask(Some(new.token())).0, "401", "nobody knows that key");
    *answer.lock().unwrap() = set(&[&old, &new]);
    eventually("its new key is taken", Duration::from_secs(30), || {
        (ask(Some(new.token())).0 == "200").then_some(())
    });
    assert_eq!(ask(Some(old.token())).0, "200");
    // However many tokens name a key that is not there, it is asked every ten seconds at most.
    let stranger = Key::new("stranger");
    for _ in 0..10 {
        assert_eq!(ask(Some(stranger.token())).0, "401");
    }
    let asked = asked.load(Ordering::SeqCst) - before;
    let most = usize::try_from(since.elapsed().as_secs() / 10).unwrap() + 2;
    assert!((1..=most).contains(&asked), "{asked} in {:?}", since.elapsed());
    drop(app);
    mesh.end();
}
