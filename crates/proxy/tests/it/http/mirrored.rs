//! Copies of requests for the mirrors of a rule.

use std::collections::HashMap;
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
use tokio::sync::Notify;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::apps::{self, TestBody, full, http1, http2, read};
use super::filtered::{SERVICE, route_among};
use super::mesh::{Path, WAYS, Way, eventually, path, plain};
use crate::mesh::logged;

const SOON: Duration = Duration::from_secs(20);

/// The body of a request as it came, or that it broke off.
type Came = Result<Bytes, ()>;

/// What came to an application, by the request's `x-id`.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<HashMap<String, Vec<Came>>>>);

impl Seen {
    async fn serve(&self) -> std::net::SocketAddr {
        let seen = self.clone();
        apps::serve(move |request: Request<Incoming>| {
            let seen = seen.clone();
            async move {
                assert_eq!(
                    request.headers()["x-rule"],
                    "1",
                    "it is a copy of what the rule makes of the request"
                );
                let id = request.headers()["x-id"].to_str().unwrap().to_owned();
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).map_err(drop);
                seen.0.lock().unwrap().entry(id).or_default().push(body);
                Response::new(full("seen"))
            }
        })
        .await
    }

    /// All that came with that id.
    fn of(&self, id: &str) -> Vec<Came> {
        self.0.lock().unwrap().get(id).cloned().unwrap_or_default()
    }
}

/// Puts an application behind service `name` of the node `near`, which `c` is mirrored to.
fn put(path: &mut Path, name: &str, app: std::net::SocketAddr) {
    path.near.add_service(name, AppProtocol::Http1, vec![plain(app)]);
}

const MIRRORED: &str = "
  - filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: d, port: 80}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: e, port: 80}, percent: 0}}
    - type: RequestMirror
      requestMirror: {backendRef: {name: f, port: 80}, fraction: {numerator: 1, denominator: 1}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-rule, value: '1'}]}}
    backendRefs: [{name: c, port: 80}]
";

fn services() -> Vec<String> {
    ["c", "d", "e", "f"].map(|name| SERVICE.replace("name: c", &format!("name: {name}"))).to_vec()
}

/// A body of these pieces.
fn in_pieces(pieces: Vec<Bytes>) -> TestBody {
    let frames = stream::iter(pieces).map(|piece| Ok(Frame::data(piece)));
    BodyExt::boxed(StreamBody::new(frames))
}

/// Sizes from nothing to 16 MiB, cut at random: each arrives once and whole where it is sent to, and at the mirrors once,
/// and whole where it does not break off.
#[tokio::test]
async fn bodies_arrive_once_and_whole_beside_their_copies() {
    let mut random = StdRng::seed_from_u64(1);
    for way in WAYS {
        for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
            let [backend, first, none, last] = [(); 4].map(|()| Seen::default());
            let mut path = path(way, protocol, backend.serve().await).await;
            for (name, seen) in [("d", &first), ("e", &none), ("f", &last)] {
                let app = seen.serve().await;
                put(&mut path, name, app);
            }
            route_among(&mut path, &services(), MIRRORED);
            let mut sent = Vec::new();
            let largest = if (way, protocol) == (Way::Link, AppProtocol::Http2) { 16 << 20 } else { 1 << 20 };
            for size in [0usize, 1, 1000, 65_535, 65_537, largest] {
                let id = format!("{size}");
                let mut whole = vec![0; size];
                random.fill(&mut whole[..]);
                let whole = Bytes::from(whole);
                let (mut pieces, mut rest) = (Vec::new(), whole.clone());
                while !rest.is_empty() {
                    pieces.push(rest.split_to(random.random_range(1..=rest.len().min(100_000))));
                }
                let http2_client = random.random();
                let uri = if http2_client { "http://c:80/" } else { "/" };
                let request = Request::post(uri).header("host", "c:80").header("x-id", &id);
                let request = request.body(in_pieces(pieces)).unwrap();
                let answer = match http2_client {
                    true => http2(path.address).await.send_request(request).await.unwrap(),
                    false => http1(path.address).await.send_request(request).await.unwrap(),
                };
                assert_eq!(&*read(answer).await.body, "seen", "{way:?} {protocol:?} {size}");
                assert_eq!(backend.of(&id), [Ok(whole.clone())], "{way:?} {protocol:?} {size}");
                sent.push((id, whole));
            }
            for (name, mirror) in [("d", &first), ("f", &last)] {
                let to = format!("destination=\"{name}\"");
                let counted = || path.near.metric("tulle_requests_total", &[&to]);
                eventually(|| (counted() == sent.len() as u64).then_some(())).await;
                for (id, whole) in &sent {
                    let came = mirror.of(id);
                    let which = format!("{way:?} {protocol:?} {name} {id}: {} copies", came.len());
                    // No more than this can be on its way, and so none can be behind.
                    match whole.len() <= 65_535 {
                        true => assert_eq!(came, [Ok(whole.clone())], "{which}"),
                        // Or it was cut off, also before anything of it was sent.
                        false => assert!(
                            came.is_empty() || came == [Err(())] || came == [Ok(whole.clone())],
                            "{which}"
                        ),
                    }
                }
            }
            assert_eq!(none.0.lock().unwrap().len(), 0);
        }
    }
    let by = "HTTPRoute/default/r spec.rules[0].filters[0].requestMirror mirrored";
    eventually(|| logged(&["destination=default/d ", by, "status=200"]).then_some(())).await;
}

/// A copy is cut off where its reader is too far behind, never ended as if it were whole, and nobody waits for it.
#[tokio::test]
async fn a_mirror_that_stalls_is_cut_off_and_keeps_nobody() {
    let backend = Seen::default();
    let [begun, answered, broken] = [(); 3].map(|()| Arc::new(Notify::new()));
    let (begins, goes_on, breaks) = (begun.clone(), answered.clone(), broken.clone());
    let stalls = apps::serve(move |request: Request<Incoming>| {
        let (begins, goes_on, breaks) = (begins.clone(), goes_on.clone(), breaks.clone());
        async move {
            let mut body = request.into_body();
            body.frame().await.unwrap().unwrap();
            begins.notify_one();
            goes_on.notified().await;
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    breaks.notify_one();
                    return std::future::pending().await;
                }
            }
            panic!("it ended as if it were whole");
        }
    })
    .await;
    let mut path = path(Way::Link, AppProtocol::Http1, backend.serve().await).await;
    put(&mut path, "d", stalls);
    let rules = "
  - filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: d, port: 80}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-rule, value: '1'}]}}
    backendRefs: [{name: c, port: 80}]
";
    route_among(&mut path, &services(), rules);
    let piece = Bytes::from(vec![7; 32 << 10]);
    let rest = stream::iter(vec![piece.clone(); 511]);
    let first = stream::once(async move { piece });
    let begun = stream::once(async move { begun.notified().await }).filter_map(|()| async { None });
    let pieces = first.chain(begun).chain(rest).map(|piece| Ok(Frame::data(piece)));
    let body = BodyExt::boxed(StreamBody::new(pieces));
    let request = Request::post("/").header("host", "c:80").header("x-id", "1").body(body).unwrap();
    let answer = timeout(SOON, http1(path.address).await.send_request(request)).await.unwrap().unwrap();
    assert_eq!(&*read(answer).await.body, "seen");
    assert_eq!(backend.of("1"), [Ok(Bytes::from(vec![7; 16 << 20]))]);
    answered.notify_one();
    timeout(SOON, broken.notified()).await.unwrap();
    eventually(|| logged(&["destination=default/d ", "reason=\"mirror-behind\""]).then_some(())).await;
    let counted = path.near.metric("tulle_requests_refused_total", &["reason=\"mirror-behind\""]);
    assert_eq!(counted, 1);
}
