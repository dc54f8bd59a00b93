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

const TO_D: &str = "
  - filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: d, port: 80}}}
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

/// A service that only gets copies, of which the node knows its endpoints alone.
fn put_unknown(path: &mut Path, name: &str, app: std::net::SocketAddr) {
    put(path, name, app);
    path.near.forget_service(name);
}

/// A copy is cut off where its reader is too far behind, never ended as if it were whole, and nobody waits for it. So it is
/// where the mirror has begun to answer.
#[tokio::test]
async fn a_mirror_that_stalls_is_cut_off_and_keeps_nobody() {
    for answers in [false, true] {
        let backend = Seen::default();
        let [begun, goes_on, broken] = [(); 3].map(|()| Arc::new(Notify::new()));
        let told = (begun.clone(), goes_on.clone(), broken.clone());
        let stalls = apps::serve(move |request: Request<Incoming>| {
            let (begun, goes_on, broken) = told.clone();
            async move {
                let mut body = request.into_body();
                body.frame().await.unwrap().unwrap();
                begun.notify_one();
                let rest = tokio::spawn(async move {
                    goes_on.notified().await;
                    while let Some(frame) = body.frame().await {
                        if frame.is_err() {
                            return broken.notify_one();
                        }
                    }
                    panic!("it ended as if it were whole");
                });
                if !answers {
                    rest.await.unwrap();
                    return std::future::pending().await;
                }
                Response::new(BodyExt::boxed(StreamBody::new(stream::pending())))
            }
        })
        .await;
        let mut path = path(Way::Link, AppProtocol::Http1, backend.serve().await).await;
        put_unknown(&mut path, "d", stalls);
        route_among(&mut path, &services(), TO_D);
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
        goes_on.notify_one();
        timeout(SOON, broken.notified()).await.unwrap();
        let counted = || path.near.metric("tulle_requests_refused_total", &["reason=\"mirror-behind\""]);
        eventually(|| (counted() == 1).then_some(())).await;
        let failed = path.near.metric("tulle_requests_total", &["destination=\"d\"", "result=\"failure\""]);
        assert_eq!((counted(), failed), (1, 1), "{answers}");
    }
    eventually(|| logged(&["destination=default/d ", "reason=\"mirror-behind\""]).then_some(())).await;
}

/// One that takes no byte of its copies is sent no more of them after some, and each is cut off at once.
#[tokio::test]
async fn a_mirror_that_takes_nothing_is_left_alone() {
    const REQUESTS: usize = 8;
    const TRIED: usize = 5;
    let backend = Seen::default();
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // Of what it has not read as little as possible is on its way.
    deaf.set_recv_buffer_size(1).unwrap();
    deaf.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    deaf.listen(64).unwrap();
    let address = deaf.local_addr().unwrap().as_socket().unwrap();
    let mut path = path(Way::Plain, AppProtocol::Http1, backend.serve().await).await;
    put(&mut path, "d", address);
    route_among(&mut path, &services(), TO_D);
    let mut client = http1(path.address).await;
    let counted = || path.near.metric("tulle_requests_refused_total", &["reason=\"mirror-behind\""]);
    for id in 1..=REQUESTS {
        let pieces =
            stream::iter(vec![Bytes::from(vec![7; 32 << 10]); 512]).map(|piece| Ok(Frame::data(piece)));
        let body = BodyExt::boxed(StreamBody::new(pieces));
        let request =
            Request::post("/").header("host", "c:80").header("x-id", id.to_string()).body(body).unwrap();
        let answer = timeout(SOON, client.send_request(request)).await.unwrap().unwrap();
        assert_eq!(&*read(answer).await.body, "seen");
        assert_eq!(backend.of(&id.to_string()), [Ok(Bytes::from(vec![7; 16 << 20]))]);
        // Long before a copy is given up that is not answered.
        timeout(SOON / 4, eventually(|| (counted() == id as u64).then_some(()))).await.unwrap();
    }
    deaf.set_nonblocking(true).unwrap();
    let connections: Vec<_> = std::iter::from_fn(|| deaf.accept().ok()).collect();
    assert_eq!(connections.len(), TRIED);
}

/// A mirror that keeps up gets all of a body, however long it is; in HTTP/2, too, to an application of HTTP/1.
#[tokio::test]
async fn a_mirror_that_keeps_up_gets_all_of_it() {
    for way in WAYS {
        let backend = Seen::default();
        let (progress, mut taken) = tokio::sync::watch::channel((0, false));
        let mirror = apps::serve(move |request: Request<Incoming>| {
            let progress = progress.clone();
            async move {
                let mut body = request.into_body();
                while let Some(frame) = body.frame().await {
                    let length = frame.unwrap().into_data().unwrap().len();
                    progress.send_modify(|(bytes, _)| *bytes += length);
                }
                progress.send_modify(|(_, whole)| *whole = true);
                Response::new(full("copy"))
            }
        })
        .await;
        let mut path = path(way, AppProtocol::Http1, backend.serve().await).await;
        put_unknown(&mut path, "d", mirror);
        route_among(&mut path, &services(), TO_D);
        const PIECE: usize = 32 << 10;
        const COUNT: usize = 64;
        let paced = taken.clone();
        let pieces = stream::unfold((0, paced), |(sent, mut paced)| async move {
            paced.wait_for(|(bytes, _)| *bytes == sent * PIECE).await.unwrap();
            (sent < COUNT).then(|| (Ok(Frame::data(Bytes::from(vec![7; PIECE]))), (sent + 1, paced)))
        });
        let body = BodyExt::boxed(StreamBody::new(pieces));
        let request = Request::post("http://c:80/").header("x-id", "1").body(body).unwrap();
        let answer = timeout(SOON, http2(path.address).await.send_request(request)).await.unwrap().unwrap();
        assert_eq!(&*read(answer).await.body, "seen", "{way:?}");
        assert_eq!(backend.of("1"), [Ok(Bytes::from(vec![7; COUNT * PIECE]))]);
        timeout(SOON, taken.wait_for(|(_, whole)| *whole)).await.unwrap().unwrap();
        assert_eq!(taken.borrow().0, COUNT * PIECE);
    }
}

/// A service that does not answer has so many copies under way, and others have theirs.
#[tokio::test]
async fn a_mirror_that_does_not_answer_takes_no_places_of_others() {
    let (backend, other) = (Seen::default(), Seen::default());
    let silent = apps::serve(|_: Request<Incoming>| std::future::pending()).await;
    let mut path = path(Way::Plain, AppProtocol::Http1, backend.serve().await).await;
    put(&mut path, "d", silent);
    let app = other.serve().await;
    put(&mut path, "f", app);
    route_among(&mut path, &services(), MIRRORED);
    let mut client = http1(path.address).await;
    for id in 0..140 {
        let request = Request::get("/").header("host", "c:80").header("x-id", id).body(full("")).unwrap();
        read(client.send_request(request).await.unwrap()).await;
    }
    let counted = path.near.metric("tulle_requests_refused_total", &["reason=\"mirror-behind\""]);
    assert_eq!(counted, 140 - 128);
    eventually(|| (0..140).all(|id| other.of(&id.to_string()).len() == 1).then_some(())).await;
}
