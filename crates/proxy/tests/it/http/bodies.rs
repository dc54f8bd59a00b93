//! No body of a request is lost, doubled or reordered, whatever rules make of the request: sizes from nothing to 16 MiB, cut
//! at random, of known length and of unknown.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::apps::{self, Http1, Http2, TestBody, full, http1, http2};
use super::filtered::{SERVICE, route_among};
use super::mesh::{WAYS, Way, path, plain};

const SOON: Duration = Duration::from_secs(60);

const RULES: &str = "
  - matches: [{path: {value: /plain}}]
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /away}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: d.org, statusCode: 307}}]
  - matches: [{path: {value: /rewritten}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: d.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: '1'}]}}
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /retried}}]
    retry: {codes: [502, 503], attempts: 3, backoff: 0s}
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /all}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: d, port: 80}}}
    timeouts: {request: 60s, backendRequest: 50s}
    retry: {codes: [502, 503], attempts: 3, backoff: 0s}
    backendRefs: [{name: c, port: 80}]
";

/// What came with one `x-id`: bodies as they came, or that they broke off.
type Came = Arc<Mutex<HashMap<String, Vec<Option<Bytes>>>>>;

/// An application that sends back what it gets. The first `x-fails` times it answers 503, before it has read the body
/// where `x-early` says so.
async fn app(came: Came) -> SocketAddr {
    apps::serve(move |request: Request<Incoming>| {
        let came = came.clone();
        async move {
            let (head, body) = request.into_parts();
            let field =
                |name: &str| head.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            let before = came.lock().unwrap().get(&field("x-id")).map_or(0, Vec::len);
            let fails = field("x-fails").parse().is_ok_and(|fails: usize| before < fails);
            if fails && field("x-early") == "1" {
                came.lock().unwrap().entry(field("x-id")).or_default().push(None);
                return Response::builder().status(503).body(full("early")).unwrap();
            }
            let body = body.collect().await.ok().map(|body| body.to_bytes());
            came.lock().unwrap().entry(field("x-id")).or_default().push(body.clone());
            match body {
                _ if fails => Response::builder().status(503).body(full("late")).unwrap(),
                Some(body) => Response::new(full(body)),
                None => Response::builder().status(400).body(full("broken")).unwrap(),
            }
        }
    })
    .await
}

/// A client with connections that it uses again and again.
struct Client {
    address: SocketAddr,
    one: Option<Http1>,
    two: Http2,
}

impl Client {
    async fn send(&mut self, two: bool, request: Request<TestBody>) -> (u16, Bytes) {
        let answer = if two {
            self.two.send_request(request).await
        } else {
            let mut kept = self.one.take();
            let is_open = match &mut kept {
                Some(kept) => kept.ready().await.is_ok(),
                None => false,
            };
            let mut connection = match kept.filter(|_| is_open) {
                Some(kept) => kept,
                None => http1(self.address).await,
            };
            let answer = connection.send_request(request).await;
            self.one = Some(connection);
            answer
        };
        let (head, body) = answer.unwrap().into_parts();
        (head.status.as_u16(), body.collect().await.unwrap().to_bytes())
    }
}

fn size(random: &mut StdRng) -> usize {
    match random.random_range(0..8) {
        0 => 0,
        1 => random.random_range(1..100),
        2 => 65_536,
        3 => 65_537,
        4 => random.random_range(65_000..66_500),
        5 => random.random_range(100..60_000),
        _ => random.random_range(0..400_000),
    }
}

fn cut(random: &mut StdRng, whole: &Bytes) -> Vec<Bytes> {
    let (mut pieces, mut rest) = (Vec::new(), whole.clone());
    let most = [10, 1000, 20_000, 200_000][random.random_range(0..4usize)].max(whole.len() / 500);
    while !rest.is_empty() {
        pieces.push(rest.split_to(random.random_range(1..=rest.len().min(most))));
    }
    pieces
}

#[tokio::test]
async fn bodies_arrive_once_whole_and_in_order_whatever_their_rule_makes_of_them() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for way in WAYS {
        for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
            let (came, copies) = (Came::default(), Came::default());
            let mut path = path(way, protocol, app(came.clone()).await).await;
            let mirror = app(copies.clone()).await;
            path.near.add_service("d", AppProtocol::Http1, vec![plain(mirror)]);
            route_among(&mut path, &[SERVICE.to_owned(), SERVICE.replace("name: c", "name: d")], RULES);
            let mut client = Client { address: path.address, one: None, two: http2(path.address).await };
            let mut sent: HashMap<String, Bytes> = HashMap::new();
            for number in 0..40 {
                let target = ["/plain", "/away", "/rewritten", "/retried", "/all"][number % 5];
                // One of each rule that is as large as any, on one way.
                let is_large = number >= 35 && (way, protocol) == (Way::Link, AppProtocol::Http2);
                let length = if is_large { 16 << 20 } else { size(&mut random) };
                let mut whole = vec![0; length];
                random.fill(&mut whole[..]);
                let whole = Bytes::from(whole);
                let (two, early): (bool, bool) = (random.random(), random.random());
                let fails: usize = random.random_range(0..4);
                let id = number.to_string();
                let uri = if two { format!("http://c:80{target}") } else { target.to_owned() };
                let mut request = Request::post(uri).header("host", "c:80").header("x-id", &id);
                if random.random() {
                    request = request.header("content-length", length);
                }
                if ["/retried", "/all"].contains(&target) {
                    request = request.header("x-fails", fails).header("x-early", usize::from(early));
                }
                let pieces = stream::iter(cut(&mut random, &whole)).map(|piece| Ok(Frame::data(piece)));
                let request = request.body(BodyExt::boxed(StreamBody::new(pieces))).unwrap();
                let answer = timeout(SOON, client.send(two, request)).await;
                let which = format!("{way:?} {protocol:?} {target} {length} {two} {fails} {early} {number}");
                let (status, body) = answer.unwrap_or_else(|_| panic!("no answer: {which}"));
                let arrived = came.lock().unwrap().get(&id).cloned().unwrap_or_default();
                let is_retried = target == "/retried" || target == "/all";
                // Of a longer one so much may have passed that it is not there any more, or not.
                let may_stay = is_retried && fails > 0 && length > 65_536;
                let has_to_stay = may_stay && !early;
                match status {
                    307 if target == "/away" => assert!(arrived.is_empty(), "{which}"),
                    200 if target != "/away" && !has_to_stay => {
                        assert!(body == whole, "{which}: an answer of {}", body.len());
                        let expected = if is_retried { fails + 1 } else { 1 };
                        assert_eq!(arrived.len(), expected, "{which}");
                        assert!(arrived.last().unwrap().as_ref() == Some(&whole), "{which}");
                        // What was read of the earlier attempts was no less.
                        let read = || arrived.iter().flatten();
                        assert!(early || arrived.iter().all(Option::is_some), "{which}");
                        assert!(read().all(|body| *body == whole), "{which}");
                    }
                    503 if may_stay => {
                        assert_eq!(body, if early { "early" } else { "late" }, "{which}");
                        assert!(arrived.iter().flatten().all(|body| *body == whole), "{which}");
                    }
                    _ => {
                        panic!("{which}: {status} {}", String::from_utf8_lossy(&body[..body.len().min(200)]))
                    }
                }
                sent.insert(id, whole);
            }
            for (id, copies) in copies.lock().unwrap().iter() {
                assert!(copies.len() == 1, "{way:?} {protocol:?} {id}: {} copies", copies.len());
                // It may be cut off, and is not ended then.
                let copy = copies[0].as_ref();
                assert!(copy.is_none_or(|copy| *copy == sent[id]), "{way:?} {protocol:?} {id}");
            }
        }
    }
}
