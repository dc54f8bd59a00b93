//! Links that other nodes open to this one: TLS, HTTP/2, and a task for each stream.
//!
//! What is bounded: peers that have not said a whole ClientHello, and handshakes, at a time (for one more, the
//! oldest is ended; those who keep silent are in the way of no handshake, however slow it is), the time that both
//! take, and by [`LIMITS`] streams, bytes, header lists and resets of a link.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;

use super::{
    Faults, LIMITS, LINGER, PING_DEADLINE, PING_INTERVAL, PORT, REASON, RETRY, WORKLOAD, is_distrusted,
};
use crate::budget::{Payer, Seat, Shed, cost};
use crate::error::UpstreamErrorKind;
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::reply;
use crate::http::respond::respond;
use crate::http::serve_http2::or_reset;
use crate::http2::{
    Connection, Ended, Incoming, Receiver, Sender, Tunnel, Unfit, Violation, give_up, splice, until_dead,
};
use crate::inbound::{self, Peer};
use crate::metrics::Handshake;
use crate::progress::Side;
use crate::silent::Place;
use crate::state::{LocalWorkload, WorkloadCertificate};
use crate::tls::{self, Hello, TlsFailure};
use crate::worker::Worker;

/// Why a peer was let go for a newcomer.
const SILENT: &str = "too many peers were silent, and this was the oldest";
const UNFINISHED: &str = "too many handshakes were under way, and this was the oldest";
/// How long a peer whose link is refused has to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);
/// What a link costs beside its streams.
pub(super) const LINK_COST: usize = cost::CONNECTION + cost::HTTP2 + cost::TLS;

/// What is known of the other end of a link.
struct Link {
    peer: Peer,
    /// As whom this node answered: the only identity whose workloads are served here.
    identity: SpiffeId,
    certificate: Arc<WorkloadCertificate>,
    /// Seconds since the epoch: when the first of the two certificates ends.
    expires: i64,
    /// The workload that the last stream was for, and how the peer named it.
    last: RefCell<Option<(HeaderValue, WorkloadName)>>,
}

impl Link {
    /// The workload that a peer names so. Most streams of a link are for the same.
    fn workload_name(&self, value: &HeaderValue) -> Option<WorkloadName> {
        let mut last = self.last.borrow_mut();
        if let Some((_, name)) = last.as_ref().filter(|(known, _)| known == value) {
            return Some(name.clone());
        }
        let name: WorkloadName = value.to_str().ok()?.parse().ok()?;
        *last = Some((value.clone(), name.clone()));
        Some(name)
    }
}

/// Serves one connection to the link port.
pub(crate) async fn serve(worker: Rc<Worker>, tcp: TcpStream, address: SocketAddr, seat: Seat) {
    let counts = worker.metrics.counts();
    let group = neighbourhood(address.ip());
    let end = Instant::now() + worker.bounds.link_handshake;
    let begun = in_turn(&worker, worker.silent.enter(group), end, SILENT, tls::hello(tcp)).await;
    let opened = match begun {
        Ok(hello) => {
            let place = worker.handshakes.enter(group);
            in_turn(&worker, place, end, UNFINISHED, greet(&worker, hello)).await
        }
        Err(failure) => Err(failure),
    };
    let (link, connection) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            worker.note_expired(&failure);
            counts.server_handshakes[failure.kind as usize].add(1);
            if worker.may_warn() {
                tracing::warn!(peer = %address, reason = failure.kind.as_str(), "link refused: {failure}");
            }
            return;
        }
    };
    counts.server_handshakes[Handshake::Ok as usize].add(1);
    let own = link.peer.account.seat(LINK_COST);
    let _seat = match own {
        Ok(own) => {
            drop(seat);
            own
        }
        Err(shed) => {
            counts.rejected(shed.into());
            if worker.may_warn() {
                let (identity, reason) = (&link.peer.identity, shed.as_str());
                tracing::warn!(peer = %address, %identity, reason, "link refused: {}", shed.message());
            }
            // It keeps the handshake's seat for that long.
            let _ = timeout(FAREWELL, connection.refuse(shed.message())).await;
            return;
        }
    };
    counts.server_links.add(1);
    let ended = run(&worker, Rc::new(link), connection).await;
    counts.server_links.subtract(1);
    match ended {
        Ok(()) => {}
        Err(Failure::Abused(error)) => {
            counts.abused_link(error.reason);
            if worker.may_warn() {
                tracing::warn!(peer = %address, "link closed: the peer broke HTTP/2's rules: {error}");
            }
        }
        Err(Failure::Lost(why)) => tracing::debug!(peer = %address, "link ended: {why}"),
    }
}

/// A part of a handshake, until `end`, or until its place is somebody else's.
async fn in_turn<T>(
    worker: &Worker,
    mut place: Place<IpAddr>,
    end: Instant,
    lost: &'static str,
    part: impl Future<Output = Result<T, TlsFailure>>,
) -> Result<T, TlsFailure> {
    tokio::select! {
        done = timeout_at(end, part) => {
            done.unwrap_or_else(|_| Err(TlsFailure::unfinished(worker.bounds.link_handshake)))
        }
        () = place.lost() => Err(TlsFailure::new(Handshake::Overload, lost)),
    }
}

/// Whose handshakes get into each other's way first: those of one address, or of one network of IPv6, in which
/// one host has as many addresses as it likes (RFC 4291, section 2.5.4).
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

type LinkConnection = Connection<tls::TlsStream>;

/// TLS, and the beginning of HTTP/2.
async fn greet(worker: &Rc<Worker>, hello: Hello) -> Result<(Link, LinkConnection), TlsFailure> {
    let accepted = tls::accept(&worker.server_tls, worker.now(), hello).await?;
    let account = worker.accounts.of(&Payer::Peer(accepted.peer.clone()));
    let connection = Connection::server(accepted.stream, LIMITS, LINGER).charged(account.clone());
    let link = Link {
        peer: Peer { account, identity: accepted.peer },
        identity: accepted.certificate.identity.clone(),
        certificate: accepted.certificate,
        expires: accepted.expires,
        last: RefCell::default(),
    };
    Ok((link, connection))
}

/// Why a link ended before its time.
enum Failure {
    /// It is gone.
    Lost(String),
    /// We closed it: a flood, or frames that may not be.
    Abused(Violation),
}

/// Takes streams until the link ends. A drain, the end of a certificate, or that of a root's trust sends
/// GOAWAY: what is under way is finished.
async fn run(worker: &Rc<Worker>, link: Rc<Link>, mut connection: LinkConnection) -> Result<(), Failure> {
    let (handle, received) = (connection.handle(), connection.received());
    let _watched = worker.sweep.watch(&handle, Side::Link);
    let over = Notify::new();
    let faults = Faults::of(handle.clone(), &worker.metrics.counts().server_link_faults);
    // Looked at each time: a timer until then would not see that the clock was set.
    let mut dead = pin!(until_dead(handle.clone(), received, PING_INTERVAL, PING_DEADLINE, || {
        faults.look();
        if worker.clock.unix_time() >= link.expires || is_distrusted(worker, &link.certificate) {
            over.notify_one();
        }
    }));
    let mut going = pin!(async {
        tokio::select! {
            () = worker.drain.wait() => {}
            () = over.notified() => {}
        }
    });
    let take = |incoming: Incoming, sender, receiver| {
        if incoming.unfit == Some(Unfit::Unaffordable) {
            let reason = Shed::Memory.as_str();
            return Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason }.send(sender);
        }
        if incoming.unfit == Some(Unfit::Malformed) {
            // It is among the link's faults.
            return;
        }
        worker.metrics.counts().server_streams.add(1);
        let (worker, link) = (worker.clone(), link.clone());
        // Boxed, as a task's future is moved three times on its way, and this one is large.
        tokio::task::spawn_local(Box::pin(answer(worker, link, incoming, sender, receiver)));
    };
    let mut gone = false;
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| connection.poll(cx, take)) => return match ended {
                Ended::Closed => Ok(()),
                Ended::Violation(violation) => Err(Failure::Abused(violation)),
                lost => Err(Failure::Lost(lost.to_string())),
            },
            () = &mut dead => return Err(Failure::Lost("the peer does not answer pings".to_owned())),
            () = &mut going, if !gone => {
                gone = true;
                handle.go_away();
            }
        }
    }
}

async fn answer(
    worker: Rc<Worker>,
    link: Rc<Link>,
    incoming: Incoming,
    mut sender: Sender,
    receiver: Receiver,
) {
    let Incoming { mut head, unfit, .. } = incoming;
    link.peer.account.turn().await;
    if let Some(unfit) = unfit {
        return respond(&mut sender, reply::unfit(unfit, &head.headers)).await;
    }
    if head.method == Method::CONNECT {
        return tunnel(worker, link, head, sender, receiver).await;
    }
    let (name, port) = (head.headers.remove(WORKLOAD), head.headers.remove(PORT));
    let found = find(&worker, &link, name.as_ref(), parsed(port.as_ref()));
    drop((name, port));
    let (workload, port) = match found {
        Ok(found) => found,
        Err(refusal) => return refusal.send(sender),
    };
    let asker = Asker::Http2(sender.interim());
    let caller = Caller { account: link.peer.account.clone(), asker };
    let request = Request::from_parts(head, Body::from(receiver));
    // Held over one wait alone, it shares its room in this future, of which each stream has one, with what comes later.
    let response = {
        let mut served = pin!(Some(inbound::serve_request(&worker, &caller, &workload, port, request)));
        let response = or_reset(served.as_mut(), &mut sender).await;
        if let Err(error) = &response {
            give_up(error, || served.set(None));
        }
        response
    };
    let Ok(response) = response else {
        // What it held is given back, which takes its time, too.
        return link.peer.account.turn().await;
    };
    respond(&mut sender, response).await;
}

/// An opaque connection (HBONE): bytes between the stream and the workload's process.
async fn tunnel(
    worker: Rc<Worker>,
    link: Rc<Link>,
    head: http::request::Parts,
    mut sender: Sender,
    receiver: Receiver,
) {
    let authority = head.uri.authority().and_then(|a| SocketAddr::from_str(a.as_str()).ok());
    let port = match authority {
        Some(authority) => Some(authority.port()),
        None => parsed(head.headers.get(PORT)),
    };
    let (workload, port) = match find(&worker, &link, head.headers.get(WORKLOAD), port) {
        Ok(found) => found,
        Err(refusal) => return refusal.send(sender),
    };
    let connect = worker.connect_app(&workload, port, &link.peer.account);
    let reset = poll_fn(|cx| sender.poll_reset(cx));
    let connected = tokio::select! {
        connected = connect => connected,
        _ = reset => return,
    };
    let (mut app, _counted) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            tracing::debug!(workload = %workload.name, port, "tunnel refused: {error}");
            let refusal = Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason: error.kind.reason() };
            return refusal.send(sender);
        }
    };
    if sender.respond(StatusCode::OK, &HeaderMap::new(), false).is_err() {
        return;
    }
    let mut tunnel = Tunnel::new(sender, receiver);
    // It is counted where it comes from.
    let _ = splice(&mut tunnel, &mut app, Vec::new(), |_, _| {}).await;
}

/// An answer that says that nothing reached the application.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
}

impl Refusal {
    fn send(self, mut sender: Sender) {
        let mut headers = HeaderMap::new();
        headers.insert(REASON, HeaderValue::from_static(self.reason));
        headers.insert(RETRY, HeaderValue::from_static("safe"));
        // Fails only when the stream is over: nobody waits for it then.
        let _ = sender.respond(self.status, &headers, true);
    }
}

/// Which workload a stream is for. It must have the identity that this link was answered with: a peer
/// that checked one identity must not reach another.
fn find(
    worker: &Worker,
    link: &Link,
    name: Option<&HeaderValue>,
    port: Option<u16>,
) -> Result<(Arc<LocalWorkload>, u16), Refusal> {
    let bad = Refusal { status: StatusCode::BAD_REQUEST, reason: "bad-request" };
    let missing = Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason: "no-such-workload" };
    let port = port.ok_or(bad)?;
    let state = worker.state.load();
    let workload = match name {
        Some(name) => link.workload_name(name).and_then(|name| state.workloads.get(&name)),
        // Other meshes' HBONE names only an address, which may be one that several workloads share.
        None => state.workloads.values().find(|w| w.identity == link.identity && w.ports.contains(&port)),
    };
    let workload = workload.ok_or(missing)?;
    if workload.identity != link.identity {
        worker.metrics.counts().server_handshakes[Handshake::WrongIdentity as usize].add(1);
        if worker.may_warn() {
            tracing::warn!(
                peer = %link.peer.identity,
                workload = %workload.name,
                "stream refused: wrong identity: the workload is {}, this link was answered as {}",
                workload.identity,
                link.identity
            );
        }
        return Err(Refusal { status: StatusCode::MISDIRECTED_REQUEST, reason: "wrong-identity" });
    }
    if workload.draining {
        let reason = UpstreamErrorKind::Draining.reason();
        return Err(Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason });
    }
    Ok((workload.clone(), port))
}

fn parsed(port: Option<&HeaderValue>) -> Option<u16> {
    port?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::serve_http2::size_of_future;

    /// It is copied on its way into its task, and held as long as the stream.
    #[test]
    fn a_stream_takes_little_room() {
        let size = size_of_future(|worker, link, incoming, (sender, receiver)| {
            answer(worker, link, incoming, sender, receiver)
        });
        assert!(size <= 3 << 10, "{size} bytes");
    }
}
