//! Finds out what an undeclared port speaks.
//!
//! Nobody waits for it: while the client's first bytes are awaited, the upstream is being connected to as for
//! an opaque connection, and whoever speaks first decides ([`detect::decide`]). Client bytes that are HTTP: the
//! upstream connection is dropped, and requests are routed one by one. Anything else: the upstream is already
//! there.
//!
//! A server whose first bytes are HTTP/2's SETTINGS waits for its client, so the connection to it is dropped, and
//! the client's first bytes decide however late they come: until then it costs its socket and a few bytes.
//!
//! What a port has spoken is remembered as long as its endpoints stay the same. Ports that have spoken HTTP are
//! not connected to in advance, unless the client keeps silent ([`HTTP_SILENCE`]); those whose servers send
//! SETTINGS, never.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};
use tulle_model::detect::{self, Greeting, Seen, Step};
use tulle_model::snapshot::{PortConfig, ServiceConfig};

use crate::destination::Learnt;
use crate::exchange::Exchange;
use crate::opaque::{self, Opened};
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// How long a client of a port that spoke HTTP before may keep silent until the upstream is connected to.
const HTTP_SILENCE: Duration = Duration::from_millis(20);
/// How long either side may leave a word unfinished that could become HTTP.
const UNFINISHED: Duration = Duration::from_millis(500);
/// How long a client that speaks first is awaited when the upstream cannot be connected to.
pub(crate) const UNREACHABLE: Duration = Duration::from_secs(1);

/// What a connection turned out to speak, with what was read and opened to find out.
pub(crate) enum Detection {
    Http {
        first: Vec<u8>,
    },
    Opaque {
        first: Vec<u8>,
        upstream: Option<Result<OpenedUpstream, Box<Exchange>>>,
    },
    /// The client went away, or we do.
    Nothing,
}

/// An upstream connection, and what came from it.
pub(crate) struct OpenedUpstream {
    pub opened: Opened,
    pub first: Vec<u8>,
}

impl OpenedUpstream {
    pub fn new(opened: Opened) -> Self {
        Self { opened, first: Vec::new() }
    }
}

/// Finds out what a connection to a port of a service speaks.
pub(crate) async fn find_out<IO>(
    worker: &Rc<Worker>,
    source: &LocalWorkload,
    io: &mut IO,
    config: &ServiceConfig,
    port: &PortConfig,
    exchange: impl FnOnce() -> Box<Exchange>,
) -> Detection
where
    IO: AsyncRead + Unpin,
{
    let destination = worker.local.view().destination(&config.name);
    let learned = destination.as_ref().and_then(|destination| destination.learned(port.number));
    // Whoever keeps silent for long must not keep endpoints that are gone.
    let destination = destination.as_ref().map(Rc::downgrade).unwrap_or_default();
    let mut known = Evidence {
        server: if learned == Some(Learnt::Http2Server) { Greeting::Http2 } else { Greeting::Silent },
        http_rules: !port.http_routes.is_empty(),
        spoke_http: learned.is_some(),
    };
    let mut first = Vec::new();
    let mut spoken = None;
    if known.server == Greeting::Silent {
        // It begins when it is waited for.
        let opening = async { opaque::open(worker, source, exchange(), config, port.number, None).await };
        spoken = Box::pin(race(worker, io, opening, &mut known, &mut first)).await;
    }
    let learn = |learnt| {
        if let Some(destination) = destination.upgrade() {
            destination.learn(port.number, learnt);
        }
    };
    if known.server == Greeting::Http2 {
        // At once: the client may be silent for long.
        learn(Learnt::Http2Server);
    }
    let spoken = match spoken {
        Some(spoken) => spoken,
        None => await_client(worker, io, &known, first).await,
    };
    if let Detection::Http { .. } = spoken {
        learn(Learnt::Http);
    }
    spoken
}

/// What is known besides the client's bytes.
struct Evidence {
    server: Greeting,
    http_rules: bool,
    spoke_http: bool,
}

impl Evidence {
    fn seen<'a>(&self, client: &'a [u8]) -> Seen<'a> {
        let Self { server, http_rules, spoke_http } = *self;
        Seen { client, server, http_rules, spoke_http }
    }

    /// What is served when no more of the client's bytes come in time.
    fn late(&self, first: Vec<u8>, upstream: Option<Result<OpenedUpstream, Box<Exchange>>>) -> Detection {
        match detect::decide_late(&self.seen(&first)) {
            Step::Http => Detection::Http { first },
            _ => Detection::Opaque { first, upstream },
        }
    }
}

/// Listens to both sides, until it is clear what they speak. `None`: to the client's alone from now on.
async fn race<IO>(
    worker: &Rc<Worker>,
    io: &mut IO,
    opening: impl Future<Output = Result<Opened, Box<Exchange>>>,
    known: &mut Evidence,
    first: &mut Vec<u8>,
) -> Option<Detection>
where
    IO: AsyncRead + Unpin,
{
    let mut upstream: Option<Result<OpenedUpstream, Box<Exchange>>> = None;
    let mut opening = pin!(opening);
    let begin = Instant::now();
    let far = begin + Duration::from_secs(24 * 3600);
    let mut open_at = if known.spoke_http { begin + HTTP_SILENCE } else { begin };
    let mut give_up_at = far;
    loop {
        tokio::select! {
            biased;
            read = io.read_buf(first) => match read {
                // A client of what was opaque so far may have nothing to say and still want to hear.
                Ok(0) if first.is_empty() && known.spoke_http && upstream.is_none() => {
                    return Some(Detection::Nothing);
                }
                Err(_) => return Some(Detection::Nothing),
                Ok(0) => match known.late(std::mem::take(first), upstream.take()) {
                    // It has ended: only what is opened now can be told so.
                    Detection::Opaque { first, upstream: None } => {
                        let upstream = Some(opening.await.map(OpenedUpstream::new));
                        return Some(Detection::Opaque { first, upstream });
                    }
                    spoken => return Some(spoken),
                },
                Ok(_) => {}
            },
            opened = &mut opening, if upstream.is_none() && Instant::now() >= open_at => {
                if opened.is_err() && first.is_empty() {
                    give_up_at = give_up_at.min(Instant::now() + UNREACHABLE);
                }
                upstream = Some(opened.map(OpenedUpstream::new));
                continue;
            }
            () = sleep_until(open_at), if upstream.is_none() && Instant::now() < open_at => {
                open_at = Instant::now();
                continue;
            }
            spoke = speaks(&mut upstream), if known.server != Greeting::Other => match spoke {
                Ok(1..) => known.server = greeting(&upstream),
                // An HTTP server that tires of a connection that was opened in advance.
                _ if known.spoke_http => return None,
                // What the client has begun goes nowhere else before it is clear what it is.
                _ if !first.is_empty() => {
                    known.server = Greeting::Other;
                }
                _ => {
                    let first = std::mem::take(first);
                    return Some(Detection::Opaque { first, upstream });
                }
            },
            () = sleep_until(give_up_at) => return Some(known.late(std::mem::take(first), upstream)),
            () = worker.local.drain.wait(), if first.is_empty() => return Some(Detection::Nothing),
        }
        match detect::decide(&known.seen(first)) {
            Step::Http => return Some(Detection::Http { first: std::mem::take(first) }),
            Step::Bytes => {
                if upstream.is_none() {
                    upstream = Some(opening.await.map(OpenedUpstream::new));
                }
                return Some(Detection::Opaque { first: std::mem::take(first), upstream });
            }
            Step::AwaitClient => return None,
            Step::AwaitWord => give_up_at = Instant::now() + UNFINISHED,
            Step::Wait => {}
        }
    }
}

/// Listens to the client of a server that speaks HTTP, or did so before. It may be silent as long as it likes.
async fn await_client<IO>(worker: &Rc<Worker>, io: &mut IO, known: &Evidence, mut first: Vec<u8>) -> Detection
where
    IO: AsyncRead + Unpin,
{
    let mut give_up_at = (!first.is_empty()).then(|| Instant::now() + UNFINISHED);
    loop {
        tokio::select! {
            biased;
            read = io.read_buf(&mut first) => match read {
                Ok(0) if first.is_empty() => return Detection::Nothing,
                Ok(0) => return known.late(first, None),
                Err(_) => return Detection::Nothing,
                Ok(_) => {}
            },
            () = until(give_up_at) => return known.late(first, None),
            () = worker.local.drain.wait(), if first.is_empty() => return Detection::Nothing,
        }
        match detect::decide(&known.seen(&first)) {
            Step::Http => return Detection::Http { first },
            Step::Bytes => return Detection::Opaque { first, upstream: None },
            Step::AwaitWord => give_up_at = Some(Instant::now() + UNFINISHED),
            Step::Wait | Step::AwaitClient => {}
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Waits for the upstream's first bytes.
async fn speaks(upstream: &mut Option<Result<OpenedUpstream, Box<Exchange>>>) -> io::Result<usize> {
    match upstream {
        Some(Ok(OpenedUpstream { opened, first })) => opened.upstream().read_buf(first).await,
        _ => pending().await,
    }
}

fn greeting(upstream: &Option<Result<OpenedUpstream, Box<Exchange>>>) -> Greeting {
    match upstream {
        Some(Ok(OpenedUpstream { first, .. })) => detect::greeting(first),
        _ => Greeting::Silent,
    }
}
