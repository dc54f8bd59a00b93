//! More requests than an application takes at a time on HTTP/2, and applications that change their mind.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::{Bounds, Waiting};

use super::apps::{self, TestBody, full, http2};
use super::mesh::{Node, Path, WAYS, Way, bounded_path, eventually, path};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const REFUSED: [u8; 4] = [0, 0, 0, 7];
/// `:status: 200`.
const OK: [u8; 1] = [0x88];

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn settings(streams: u32) -> Vec<u8> {
    let mut setting = vec![0, 3];
    setting.extend(streams.to_be_bytes());
    frame(SETTINGS, 0, 0, &setting)
}

fn answer(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | 4, stream, &OK)
}

/// Reads a frame: kind, flags, stream, payload. `None`: the connection has ended.
pub async fn read_frame(io: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    io.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes(head[5..].try_into().unwrap()), payload))
}

pub async fn read_preface(io: &mut (impl AsyncReadExt + Unpin)) -> bool {
    io.read_exact(&mut [0; 24]).await.is_ok()
}

/// What an application has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    answered: AtomicUsize,
    refused: AtomicUsize,
}

/// An application that takes no more requests at a time than the limit of the moment, refuses what comes
/// beyond, and answers after `hold`. It says its settings only when it has seen a request.
async fn limited(limit: watch::Receiver<u32>, hold: Duration) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let all = seen.clone();
    let address = apps::script(move |io| limited_connection(io, limit.clone(), hold, all.clone())).await;
    (address, seen)
}

async fn limited_connection(
    mut io: TcpStream,
    mut limit: watch::Receiver<u32>,
    hold: Duration,
    seen: Arc<Seen>,
) {
    io.set_nodelay(true).unwrap();
    seen.connections.fetch_add(1, Relaxed);
    if !read_preface(&mut io).await {
        return;
    }
    let (mut read, mut write) = io.into_split();
    let (frames, mut came) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(frame) = read_frame(&mut read).await {
            if frames.send(frame).await.is_err() {
                return;
            }
        }
    });
    let (finished, mut over) = mpsc::unbounded_channel();
    let (mut greeted, mut open) = (false, HashSet::new());
    let mut most = *limit.borrow_and_update();
    loop {
        let out = tokio::select! {
            biased;
            came = came.recv() => match came {
                Some((HEADERS, _, stream, _)) => {
                    let mut out = Vec::new();
                    if !std::mem::replace(&mut greeted, true) {
                        out = settings(most);
                    }
                    if open.len() < most as usize {
                        open.insert(stream);
                        let finished = finished.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(hold).await;
                            let _ = finished.send(stream);
                        });
                    } else {
                        seen.refused.fetch_add(1, Relaxed);
                        out.extend(frame(RST_STREAM, 0, stream, &REFUSED));
                    }
                    out
                }
                Some((SETTINGS, flags, _, _)) if flags & ACK == 0 && greeted => frame(SETTINGS, ACK, 0, &[]),
                Some((RST_STREAM, _, stream, _)) => {
                    open.remove(&stream);
                    continue;
                }
                Some(_) => continue,
                None => return,
            },
            Some(stream) = over.recv() => {
                if !open.remove(&stream) {
                    continue;
                }
                seen.answered.fetch_add(1, Relaxed);
                answer(stream)
            }
            changed = limit.changed(), if greeted => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                most = *limit.borrow_and_update();
                settings(most)
            }
        };
        if write.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// Sends so many requests at once; the statuses of their answers, and the reasons of those that failed.
async fn send(address: SocketAddr, count: usize, body: impl Fn() -> TestBody) -> Vec<(u16, String)> {
    let client = http2(address).await;
    let mut all = JoinSet::new();
    for _ in 0..count {
        let mut client = client.clone();
        let request = Request::get("http://c/").body(body()).unwrap();
        all.spawn(async move {
            let answer = client.send_request(request).await.unwrap();
            let reason = answer.headers().get("tulle-reason");
            let reason = reason.map_or(String::new(), |reason| reason.to_str().unwrap().to_owned());
            (answer.status().as_u16(), reason)
        });
    }
    let all = async {
        let mut answers = Vec::new();
        while let Some(answer) = all.join_next().await {
            answers.push(answer.unwrap());
        }
        answers
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("not all were answered within 30 s")
}

fn count(answers: &[(u16, String)], status: u16, reason: &str) -> usize {
    answers.iter().filter(|(s, r)| *s == status && r == reason).count()
}

/// The node that speaks to the application.
fn server_side(path: &Path, way: Way) -> &Node {
    if way == Way::Link { &path.far } else { &path.near }
}

fn retries(path: &Path) -> u64 {
    path.near.metric("tulle_retries_total", &[])
}

/// One request goes ahead, so that no round trip is lost; the others wait for what the application allows.
#[tokio::test]
async fn a_new_connection_is_not_flooded() {
    for way in WAYS {
        let (_limit, limit) = watch::channel(2);
        let (app, seen) = limited(limit, Duration::from_millis(5)).await;
        let path = path(way, AppProtocol::Http2, app).await;
        let answers = send(path.address, 60, || full("")).await;
        assert_eq!(count(&answers, 200, ""), 60, "{way:?}: {answers:?}");
        assert_eq!(seen.refused.load(Relaxed), 0, "{way:?}");
        assert_eq!(retries(&path), 0, "{way:?}");
        let waits = |result| server_side(&path, way).metric("tulle_stream_waits_total", &[result]);
        assert!(waits("result=\"served\"") >= 20, "{way:?}: {}", waits("served"));
        assert_eq!(server_side(&path, way).metric("tulle_streams_waiting", &[]), 0);
    }
}

/// An application that lowers what it takes, to nothing and back: what crosses that on its way is sent again,
/// at nobody's charge.
#[tokio::test]
async fn a_limit_that_shrinks_fails_nothing() {
    for way in WAYS {
        let (limit, limits) = watch::channel(20);
        let (app, seen) = limited(limits, Duration::from_millis(5)).await;
        let path = path(way, AppProtocol::Http2, app).await;
        let changes = tokio::spawn(async move {
            for most in [8, 0, 20, 1, 0, 3, 20, 2, 0, 5].into_iter().cycle() {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if limit.send(most).is_err() {
                    return;
                }
            }
        });
        let began = Instant::now();
        // Until the race was seen that this is about.
        while seen.refused.load(Relaxed) < 3 && began.elapsed() < Duration::from_secs(20) {
            let answers = send(path.address, 300, || full("x")).await;
            assert_eq!(count(&answers, 200, ""), 300, "{way:?}: {answers:?}");
        }
        changes.abort();
        assert!(seen.refused.load(Relaxed) > 0, "{way:?}: nothing was refused");
        assert_eq!(retries(&path), 0, "{way:?}");
        assert!(server_side(&path, way).metric("tulle_stream_waits_total", &["refused"]) > 0);
    }
}

/// Those beyond the bounds are told why: the ones at once, the others after their time.
#[tokio::test]
async fn a_crowd_is_bounded_in_number_and_time() {
    for way in WAYS {
        let (_limit, limit) = watch::channel(1);
        let (app, seen) = limited(limit, Duration::from_secs(3600)).await;
        let waiting = Waiting { most: 10, patience: Duration::from_millis(500) };
        let path = bounded_path(way, AppProtocol::Http2, app, Bounds { waiting, ..Bounds::default() }).await;
        let node = server_side(&path, way);
        let stand_in_line = || node.metric("tulle_streams_waiting", &[]);
        let mut served = JoinSet::new();
        // As many connections as there are, one after the other.
        for connections in 1..=16 {
            served.spawn(send(path.address, 1, || full("")));
            let taken = || seen.connections.load(Relaxed) == connections && stand_in_line() == 0;
            eventually(|| taken().then_some(())).await;
        }
        let began = Instant::now();
        let answers = send(path.address, 60, || full("")).await;
        assert_eq!(count(&answers, 503, "streams-full"), 60, "{way:?}: {answers:?}");
        assert!(began.elapsed() >= waiting.patience, "{way:?}");
        let waits = |result: &str| node.metric("tulle_stream_waits_total", &[&format!("\"{result}\"")]);
        assert_eq!((waits("timeout"), waits("overflow")), (10, 50), "{way:?}");
        assert_eq!(stand_in_line(), 0);
        assert_eq!(retries(&path), 0, "{way:?}");
        // Nobody thinks worse of the endpoint, and one that leaves makes room.
        let next = tokio::spawn(send(path.address, 1, || full("")));
        eventually(|| (stand_in_line() == 1).then_some(())).await;
        served.abort_all();
        eventually(|| (stand_in_line() == 0).then_some(())).await;
        assert_eq!(waits("timeout"), 10, "{way:?}: it got a place");
        next.abort();
    }
}

/// Who gives up leaves its turn to others.
#[tokio::test]
async fn clients_that_give_up_hold_no_place() {
    let (limit, limits) = watch::channel(1);
    let (app, seen) = limited(limits, Duration::from_millis(300)).await;
    let path = path(Way::SameNode, AppProtocol::Http2, app).await;
    let waiting = || path.near.metric("tulle_streams_waiting", &[]);
    let gone = tokio::spawn(send(path.address, 200, || full("")));
    eventually(|| (waiting() >= 150).then_some(())).await;
    gone.abort();
    let answers = send(path.address, 20, || full("")).await;
    assert_eq!(count(&answers, 200, ""), 20, "{answers:?}");
    assert_eq!(waiting(), 0);
    let answered = seen.answered.load(Relaxed);
    assert!(answered < 150, "{answered} were answered, most of which nobody waited for");
    drop(limit);
}

/// An application that goes away, and says that it has not looked at some of what it got.
#[tokio::test]
async fn what_a_goaway_leaves_undone_is_done_elsewhere() {
    for way in WAYS {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let app = apps::script(move |mut io| {
            let first = counted.fetch_add(1, Relaxed) == 0;
            async move {
                let mut asked = 0;
                if !read_preface(&mut io).await || io.write_all(&settings(100)).await.is_err() {
                    return;
                }
                while let Some((kind, flags, stream, _)) = read_frame(&mut io).await {
                    let out = match kind {
                        SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
                        HEADERS if !first => answer(stream),
                        HEADERS => {
                            asked += 1;
                            if asked < 10 {
                                continue;
                            }
                            let mut out = frame(GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]);
                            for stream in [1, 3, 5] {
                                out.extend(answer(stream));
                            }
                            out
                        }
                        _ => continue,
                    };
                    if io.write_all(&out).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let path = path(way, AppProtocol::Http2, app).await;
        let answers = send(path.address, 10, || full("x")).await;
        assert_eq!(count(&answers, 200, ""), 10, "{way:?}: {answers:?}");
        assert_eq!(retries(&path), 0, "{way:?}");
    }
}

/// A body that comes bit by bit, and was partly sent when the request came back.
#[tokio::test]
async fn what_was_sent_of_a_body_is_sent_again() {
    for way in WAYS {
        let refused = Arc::new(AtomicUsize::new(0));
        let counted = refused.clone();
        let app = apps::script(move |mut io| {
            let refused = counted.clone();
            async move {
                if !read_preface(&mut io).await || io.write_all(&settings(1)).await.is_err() {
                    return;
                }
                let (mut sent_back, mut length) = (0, 0);
                while let Some((kind, flags, stream, payload)) = read_frame(&mut io).await {
                    let out = match kind {
                        SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
                        0 if stream == sent_back => continue,
                        0 if refused.load(Relaxed) == 0 => {
                            refused.fetch_add(1, Relaxed);
                            sent_back = stream;
                            frame(RST_STREAM, 0, stream, &REFUSED)
                        }
                        0 => {
                            length += payload.len();
                            if flags & END_STREAM == 0 {
                                continue;
                            }
                            assert_eq!(length, 9, "all of it came");
                            answer(stream)
                        }
                        _ => continue,
                    };
                    if io.write_all(&out).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let path = path(way, AppProtocol::Http2, app).await;
        let slow = || {
            let (parts, body) = mpsc::channel(1);
            tokio::spawn(async move {
                for _ in 0..3 {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    let _ = parts.send(Ok(http_body::Frame::data(bytes::Bytes::from_static(b"abc")))).await;
                }
            });
            let body =
                futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
            BodyExt::boxed(http_body_util::StreamBody::new(Box::pin(body)))
        };
        let answers = send(path.address, 1, slow).await;
        assert_eq!(count(&answers, 200, ""), 1, "{way:?}: {answers:?}");
        assert_eq!(refused.load(Relaxed), 1, "{way:?}");
        assert_eq!(retries(&path), 0, "{way:?}");
    }
}

/// A refusal for which there is no such reason is a failed attempt like others.
#[tokio::test]
async fn a_refusal_out_of_the_blue_is_a_retry() {
    let app = apps::script(|mut io| async move {
        if !read_preface(&mut io).await || io.write_all(&settings(100)).await.is_err() {
            return;
        }
        while let Some((kind, flags, stream, _)) = read_frame(&mut io).await {
            let out = match kind {
                SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
                HEADERS => frame(RST_STREAM, 0, stream, &REFUSED),
                _ => continue,
            };
            if io.write_all(&out).await.is_err() {
                return;
            }
        }
    })
    .await;
    let path = path(Way::SameNode, AppProtocol::Http2, app).await;
    // The first goes before the settings may be known; by itself it says nothing.
    let request = Request::get("http://c/").body(full("")).unwrap();
    let refused = http2(path.address).await.send_request(request).await.unwrap_err();
    let refused = std::error::Error::source(&refused).unwrap().downcast_ref::<h2::Error>().unwrap();
    assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM));
    assert!(retries(&path) > 0);
}
