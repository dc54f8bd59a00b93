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

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_model::stamp::Stamp;

use super::{
    Faults, LIMITS, LINGER, LINK_COST, PING_DEADLINE, PING_INTERVAL, is_distrusted, watch_revocation,
};
use crate::access_log::Asked;
use crate::boxed::boxed;
use crate::budget::{Account, Payer, Seat, Shed};
use crate::certificate::WorkloadCertificate;
use crate::error::UpstreamError;
use crate::exchange::Exchange;
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::link_upgrade;
use crate::http::record::{protocol_of, record};
use crate::http::reply;
use crate::http::respond::respond;
use crate::http::serve_http2::or_reset;
use crate::http::server::{HttpDestination, serve as serve_http};
use crate::http::switch::{Switched, Switching};
use crate::http2::{
    ConnectProtocol, Connection, Ended, Incoming, Receiver, Sender, Tunnel, Unfit, Violation, give_up,
    splice, until_dead,
};
use crate::inbound::{self, Arrival, Entrance};
use crate::mesh_headers::{CARRIES, PORT, REASON, RETRY, WORKLOAD};
use crate::metrics::{self, HandshakeResult};
use crate::peer::Peer;
use crate::progress::Side;
use crate::reason::Reason;
use crate::silent::WaitingPlace;
use crate::state::LocalWorkload;
use crate::tcp::{Downstream, copy};
use crate::tls::{self, Hello, TlsFailure};
use crate::worker::Worker;

/// Why a peer was let go for a newcomer.
const SILENT: &str = "too many peers were silent, and this was the oldest";
const UNFINISHED: &str = "too many handshakes were under way, and this was the oldest";
/// How long a peer whose link is refused has to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is known of the other end of a link.
struct AcceptedLink {
    peer: Peer,
    /// What this worker has taken for it.
    account: Rc<Account>,
    /// As whom this node answered: the only identity whose workloads are served here.
    identity: SpiffeId,
    certificate: Arc<WorkloadCertificate>,
    /// Seconds since the epoch: when the first of the two certificates ends.
    expires: i64,
    /// Of the peer's certificate.
    stamp: Option<Stamp>,
    /// The workload that the last stream was for, and how the peer named it.
    last: RefCell<Option<(HeaderValue, WorkloadName)>>,
}

impl AcceptedLink {
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
    let counts = worker.local.metrics.counts();
    let group = neighbourhood(address.ip());
    let end = Instant::now() + worker.local.bounds.link_handshake;
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
            worker.local.note_expired(&failure);
            counts.server_handshakes[failure.kind as usize].add(1);
            if worker.local.may_warn() {
                tracing::warn!(peer = %address, reason = failure.kind.as_str(), "link refused: {failure}");
            }
            return;
        }
    };
    counts.server_handshakes[HandshakeResult::Ok as usize].add(1);
    let own = link.account.seat(LINK_COST);
    let _seat = match own {
        Ok(own) => {
            drop(seat);
            own
        }
        Err(shed) => {
            counts.rejected(shed.into());
            if worker.local.may_warn() {
                let (identity, reason) = (&link.peer, shed.as_str());
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
        Err(LinkFailure::Abused(error)) => {
            counts.abused_link(error.code);
            if worker.local.may_warn() {
                tracing::warn!(peer = %address, "link closed: the peer broke HTTP/2's rules: {error}");
            }
        }
        Err(LinkFailure::Lost(why)) => tracing::debug!(peer = %address, "link ended: {why}"),
    }
}

/// A part of a handshake, until `end`, or until its place is somebody else's.
async fn in_turn<T>(
    worker: &Worker,
    mut place: WaitingPlace<IpAddr>,
    end: Instant,
    lost: &'static str,
    part: impl Future<Output = Result<T, TlsFailure>>,
) -> Result<T, TlsFailure> {
    tokio::select! {
        done = timeout_at(end, part) => {
            done.unwrap_or_else(|_| Err(TlsFailure::unfinished(worker.local.bounds.link_handshake)))
        }
        () = place.lost() => Err(TlsFailure::new(HandshakeResult::Overload, lost)),
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
async fn greet(worker: &Rc<Worker>, hello: Hello) -> Result<(AcceptedLink, LinkConnection), TlsFailure> {
    let accepted = tls::accept(&worker.local.state_now(), hello).await?;
    let account = worker.local.accounts.of(&Payer::Peer(accepted.peer.clone()));
    let connection = Connection::server(accepted.stream, LIMITS, LINGER).charged(account.clone());
    let link = AcceptedLink {
        peer: Peer::Mesh(accepted.peer),
        account,
        identity: accepted.certificate.svid().identity().clone(),
        certificate: accepted.certificate,
        expires: accepted.expires,
        stamp: accepted.stamp,
        last: RefCell::default(),
    };
    Ok((link, connection))
}

/// Why a link ended before its time.
enum LinkFailure {
    /// It is gone.
    Lost(String),
    /// We closed it: a flood, or frames that may not be.
    Abused(Violation),
}

/// Takes streams until the link ends. A drain, the end of a certificate, or that of a root's trust sends
/// GOAWAY: what is under way is finished.
async fn run(
    worker: &Rc<Worker>,
    link: Rc<AcceptedLink>,
    mut connection: LinkConnection,
) -> Result<(), LinkFailure> {
    let (handle, received) = (connection.handle(), connection.received());
    let _watched = worker.local.sweep.watch(&handle, Side::Link);
    let mut revocation = watch_revocation(&worker.local, link.stamp);
    let mut revocation = pin!(revocation.told());
    let over = Notify::new();
    let faults = Faults::of(handle.clone(), &worker.local.metrics.counts().server_link_faults);
    // Looked at each time: a timer until then would not see that the clock was set.
    let mut dead = pin!(until_dead(handle.clone(), received, PING_INTERVAL, PING_DEADLINE, || {
        faults.look();
        if worker.local.clock.unix_time() >= link.expires || is_distrusted(&worker.local, &link.certificate) {
            over.notify_one();
        }
    }));
    let mut going = pin!(async {
        tokio::select! {
            () = worker.local.drain.wait() => {}
            () = over.notified() => {}
        }
    });
    let take = |incoming: Incoming, mut sender: Sender, receiver| {
        if incoming.unfit == Some(Unfit::Unaffordable) {
            let reason = Shed::Memory.as_str();
            let mut headers = HeaderMap::new();
            headers.insert(REASON, HeaderValue::from_static(reason));
            headers.insert(RETRY, HeaderValue::from_static("safe"));
            // Without words, for which there may be no room. Fails only when the stream is over: nobody waits for it then.
            let _ = sender.respond(StatusCode::SERVICE_UNAVAILABLE, &headers, true);
            return;
        }
        if incoming.unfit == Some(Unfit::Malformed) {
            // It is among the link's faults.
            return;
        }
        worker.local.metrics.counts().server_streams.add(1);
        let (worker, link) = (worker.clone(), link.clone());
        // Boxed, as a task's future is moved three times on its way, and this one is large.
        tokio::task::spawn_local(boxed(|| answer(worker, link, incoming, sender, receiver)));
    };
    let mut gone = false;
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| connection.poll(cx, take)) => return match ended {
                Ended::Closed => Ok(()),
                Ended::Violation(violation) => Err(LinkFailure::Abused(violation)),
                lost => Err(LinkFailure::Lost(lost.to_string())),
            },
            () = &mut dead => return Err(LinkFailure::Lost("the peer does not answer pings".to_owned())),
            () = &mut revocation => return Err(LinkFailure::Lost("the peer's node was revoked".to_owned())),
            () = &mut going, if !gone => {
                gone = true;
                handle.go_away();
            }
        }
    }
}

async fn answer(
    worker: Rc<Worker>,
    link: Rc<AcceptedLink>,
    incoming: Incoming,
    mut sender: Sender,
    receiver: Receiver,
) {
    let Incoming { mut head, unfit, .. } = incoming;
    link.account.turn().await;
    if let Some(unfit) = unfit {
        return respond(&mut sender, reply::unfit(unfit, &head.headers)).await;
    }
    if head.method == Method::CONNECT && head.extensions.get::<ConnectProtocol>().is_some() {
        return Box::pin(upgrade(worker, link, head, sender, receiver)).await;
    }
    if head.method == Method::CONNECT {
        return tunnel(worker, link, head, sender, receiver).await;
    }
    let (name, port) = (head.headers.remove(WORKLOAD), head.headers.remove(PORT));
    let protocol = protocol_of(&head.headers);
    let mut exchange = Exchange::arrive(&worker.local, &link.peer, protocol, || Asked::of(&head));
    let found = find(&worker, &link, name.as_ref(), parsed(port.as_ref()));
    drop((name, port));
    let (workload, port) = match found {
        Ok(found) => found,
        Err(refusal) => return respond(&mut sender, refusal.into_answer(exchange)).await,
    };
    let entrance = Entrance::to(&link.peer, &workload, port);
    let asker = Asker::Http2(sender.interim());
    let caller = Caller { account: link.account.clone(), asker };
    let request = Request::from_parts(head, Body::from(receiver));
    // Held over one wait alone, it shares its room in this future, of which each stream has one, with what comes later.
    let response = {
        let mut served =
            pin!(Some(inbound::serve_request(&worker, &mut exchange, entrance, &caller, request)));
        let response = or_reset(served.as_mut(), &mut sender).await;
        if let Err(error) = &response {
            give_up(error, || served.set(None));
        }
        response
    };
    let Ok(mut response) = response else {
        drop(exchange);
        // What it held is given back, which takes its time, too.
        return link.account.turn().await;
    };
    record(*exchange, &mut response);
    respond(&mut sender, response).await;
}

/// A request to leave HTTP (extended CONNECT): after its answer bytes pass, if the process agrees.
async fn upgrade(
    worker: Rc<Worker>,
    link: Rc<AcceptedLink>,
    mut head: http::request::Parts,
    mut sender: Sender,
    receiver: Receiver,
) {
    let (name, port) = (head.headers.remove(WORKLOAD), head.headers.remove(PORT));
    let asked = || Asked::of(&head);
    let mut exchange = Exchange::arrive(&worker.local, &link.peer, metrics::Protocol::Http, asked);
    let found = find(&worker, &link, name.as_ref(), parsed(port.as_ref()));
    let (workload, port) = match found {
        Ok(found) => found,
        Err(refusal) => return respond(&mut sender, refusal.into_answer(exchange)).await,
    };
    let entrance = Entrance::to(&link.peer, &workload, port);
    let caller = Caller { account: link.account.clone(), asker: Asker::Http2(sender.interim()) };
    let served = {
        let mut served = pin!(Some(inbound::serve_upgrade(&worker, &mut exchange, entrance, &caller, head)));
        let served_or_reset = or_reset(served.as_mut(), &mut sender).await;
        if let Err(error) = &served_or_reset {
            give_up(error, || served.set(None));
        }
        served_or_reset
    };
    let Switched { mut head, mut io, held } = match served {
        Ok(Ok(Switching::Switched(switched))) => switched,
        Ok(Ok(Switching::Answered(mut response))) => {
            record(*exchange, &mut response);
            return respond(&mut sender, response).await;
        }
        Ok(Err(mut refusal)) => {
            record(*exchange, &mut refusal);
            return respond(&mut sender, refusal).await;
        }
        Err(_) => return link.account.turn().await,
    };
    exchange.switched(head.status);
    link_upgrade::consent(&mut head);
    if sender.respond(head.status, &head.headers, false).is_err() {
        return;
    }
    drop(head);
    let passed = |way, bytes| exchange.bytes(way, bytes);
    let ended = copy(&mut Tunnel::extended(sender, receiver), &mut io, &link.account, passed).await;
    exchange.ended_with(&ended);
    drop(held);
}

/// An opaque connection (HBONE): bytes between the stream and the workload's process.
async fn tunnel(
    worker: Rc<Worker>,
    link: Rc<AcceptedLink>,
    head: http::request::Parts,
    mut sender: Sender,
    receiver: Receiver,
) {
    let authority = head.uri.authority().and_then(|a| SocketAddr::from_str(a.as_str()).ok());
    let port = match authority {
        Some(authority) => Some(authority.port()),
        None => parsed(head.headers.get(PORT)),
    };
    let asked = || Asked::Connection { port: port.unwrap_or(0) };
    let mut exchange = Exchange::arrive(&worker.local, &link.peer, metrics::Protocol::Tcp, asked);
    let (workload, port) = match find(&worker, &link, head.headers.get(WORKLOAD), port) {
        Ok(found) => found,
        Err(refusal) => return respond(&mut sender, refusal.into_answer(exchange)).await,
    };
    exchange.is_for(&workload, port);
    let entrance = Entrance::to(&link.peer, &workload, port);
    if let Some(http) = inbound::carries_http(&worker.local, entrance, &link.account) {
        return Box::pin(requests(worker, exchange, workload, http, sender, receiver)).await;
    }
    exchange.passes_to(entrance.process());
    let connect = inbound::connect(&worker, entrance, &link.account, None);
    let reset = poll_fn(|cx| sender.poll_reset(cx));
    let connected = tokio::select! {
        connected = connect => connected,
        _ = reset => return,
    };
    let (mut app, _seat) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            tracing::debug!(workload = %workload.name, port, "tunnel refused: {error}");
            return turn_away(exchange, &error, &mut sender).await;
        }
    };
    exchange.sends();
    if sender.respond(StatusCode::OK, &HeaderMap::new(), false).is_err() {
        return;
    }
    let mut tunnel = Tunnel::new(sender, receiver);
    exchange.connected();
    let passed = |way, bytes| exchange.bytes(way, bytes);
    let ended = splice(&mut tunnel, &mut app, Vec::new(), passed).await;
    exchange.ended_with(&ended);
}

/// A connection of bytes to a port that carries HTTP: no request passes unseen, and nothing else at all.
async fn requests(
    worker: Rc<Worker>,
    exchange: Box<Exchange>,
    workload: Arc<LocalWorkload>,
    arrival: Arrival,
    mut sender: Sender,
    receiver: Receiver,
) {
    let entrance = Entrance::to(&arrival.peer, &workload, arrival.port);
    if let Err(error) = inbound::admit(&worker.local, entrance) {
        return turn_away(exchange, &error, &mut sender).await;
    }
    // What comes out of it is.
    exchange.forget();
    let carries = HeaderMap::from_iter([(CARRIES, HeaderValue::from_static("http"))]);
    if sender.respond(StatusCode::OK, &carries, false).is_err() {
        return;
    }
    let io = Downstream::Tunnel(Box::new(Tunnel::new(sender, receiver)));
    let destination = HttpDestination::Workload(Box::new(arrival));
    serve_http(worker, workload, io, Vec::new(), destination).await;
}

/// Answers a connection that does not come to the process.
async fn turn_away(mut exchange: Box<Exchange>, error: &UpstreamError, sender: &mut Sender) {
    exchange.did_not_arrive(error);
    exchange.turned_away(Reason::from(error.kind).verdict(), None);
    respond(sender, reply::failed(error)).await;
}

/// Why a stream leads to no workload: nothing has reached an application.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn into_answer(self, mut exchange: Box<Exchange>) -> Response<Body> {
        // On the other side of the link it is said so, too.
        let reason =
            if self.status == StatusCode::BAD_REQUEST { Reason::BadRequest } else { Reason::ConnectFailed };
        exchange.refuse(reason, &*self.message);
        exchange.turned_away(reason.verdict(), Some(self.status.as_u16()));
        let mut response = reply::in_words(self.status, self.reason, &self.message);
        response.headers_mut().insert(RETRY, HeaderValue::from_static("safe"));
        response
    }
}

/// Which workload a stream is for. It must have the identity that this link was answered with: a peer
/// that checked one identity must not reach another.
fn find(
    worker: &Worker,
    link: &AcceptedLink,
    name: Option<&HeaderValue>,
    port: Option<u16>,
) -> Result<(Arc<LocalWorkload>, u16), Refusal> {
    let port = port.ok_or_else(|| Refusal {
        status: StatusCode::BAD_REQUEST,
        reason: "bad-request",
        message: "the stream does not say which port it is for".to_owned(),
    })?;
    let state = worker.local.view();
    let workload = match name {
        Some(name) => link.workload_name(name).and_then(|name| state.workloads.get(&name)),
        // Other meshes' HBONE names only an address, which may be one that several workloads share.
        None => state.workloads.values().find(|w| w.identity == link.identity && w.ports.contains(&port)),
    };
    let workload = workload.ok_or_else(|| Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason: "no-such-workload",
        message: match name.and_then(|name| name.to_str().ok()) {
            Some(name) => format!("{name} is no longer on this node"),
            None => format!("no workload of this node has port {port}"),
        },
    })?;
    if workload.identity != link.identity {
        worker.local.metrics.counts().server_handshakes[HandshakeResult::WrongIdentity as usize].add(1);
        if worker.local.may_warn() {
            tracing::warn!(
                peer = %link.peer,
                workload = %workload.name,
                "stream refused: wrong identity: the workload is {}, this link was answered as {}",
                workload.identity,
                link.identity
            );
        }
        return Err(Refusal {
            status: StatusCode::MISDIRECTED_REQUEST,
            reason: "wrong-identity",
            message: format!("wrong identity: {} is not who was promised", workload.name),
        });
    }
    Ok((workload.clone(), port))
}

fn parsed(port: Option<&HeaderValue>) -> Option<u16> {
    port?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::{Extensions, Uri};
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tulle_model::stamp::Revoked;

    use super::*;
    use crate::budget::cost;
    use crate::http::serve_http2::size_of_future;
    use crate::http2::{Handle, ReceivedBody, RequestFields};
    use crate::state::NodeState;
    use crate::tls::tests::{Authority, UNTIL};

    /// It is copied on its way into its task, and held as long as the stream.
    #[test]
    fn a_stream_takes_little_room() {
        let size = size_of_future(|worker, link, incoming, (sender, receiver)| {
            answer(worker, link, incoming, sender, receiver)
        });
        assert!(size <= 3 << 10, "{size} bytes");
    }

    #[test]
    fn a_link_costs_what_its_parts_do() {
        let parts = [cost::CONNECTION, cost::HTTP2, cost::TLS];
        assert_eq!(LINK_COST, parts.iter().sum::<usize>());
    }

    #[test]
    fn hosts_of_one_network_are_neighbours() {
        for (address, group) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ] {
            assert_eq!(
                neighbourhood(address.parse().unwrap()),
                group.parse::<IpAddr>().unwrap(),
                "{address}"
            );
        }
    }

    #[test]
    fn a_port_is_a_number_of_16_bits() {
        for (said, port) in
            [("80", Some(80)), ("65535", Some(65535)), ("65536", None), ("-1", None), ("", None), ("x", None)]
        {
            assert_eq!(parsed(Some(&HeaderValue::from_static(said))), port, "{said}");
        }
        assert_eq!(parsed(Some(&HeaderValue::from_bytes(b"8\xff").unwrap())), None);
        assert_eq!(parsed(None), None);
    }

    /// A worker whose node runs these: their names, accounts and ports. What stops is called so.
    fn worker(authority: &Authority, workloads: &[(&str, &str, u16)]) -> Rc<Worker> {
        let mut state = NodeState::default();
        for (name, account, port) in workloads {
            let name = WorkloadName::new("default", *name);
            let identity = authority.identity(account);
            let workload = LocalWorkload {
                name: name.clone(),
                service: "s".into(),
                certificate: Some(authority.issue(&identity, UNTIL)),
                identity,
                app_address: Ipv4Addr::LOCALHOST.into(),
                ports: vec![*port],
                draining: &*name.name == "stops",
                in_process: None,
                outside: None,
            };
            state.workloads.insert(name, Arc::new(workload));
        }
        Worker::idle("n1", state)
    }

    fn account(worker: &Worker, identity: &SpiffeId) -> Rc<Account> {
        worker.local.accounts.of(&Payer::Peer(identity.clone()))
    }

    /// A link to `worker` that was answered as that account.
    fn link(worker: &Worker, authority: &Authority, of: &str) -> AcceptedLink {
        let identity = authority.identity(of);
        AcceptedLink {
            peer: Peer::Mesh(authority.identity("peer")),
            account: account(worker, &identity),
            certificate: authority.issue(&identity, UNTIL),
            identity,
            expires: UNTIL,
            stamp: None,
            last: RefCell::default(),
        }
    }

    #[test]
    fn a_stream_is_for_a_workload_that_the_link_was_answered_as() {
        let authority = Authority::new("mesh.test");
        let worker =
            worker(&authority, &[("a", "a", 80), ("also", "a", 81), ("b", "b", 82), ("stops", "a", 83)]);
        let link = link(&worker, &authority, "a");
        for (name, port, expected) in [
            (Some("default/a"), Some(80), Ok(("a", 80))),
            // Which ports it has, and whether it stops, is asked by the door to it.
            (Some("default/a"), Some(82), Ok(("a", 82))),
            (Some("default/also"), Some(81), Ok(("also", 81))),
            (Some("default/a"), None, Err((400, "bad-request"))),
            (Some("default/b"), Some(82), Err((421, "wrong-identity"))),
            (Some("default/none"), Some(80), Err((503, "no-such-workload"))),
            (Some("other/a"), Some(80), Err((503, "no-such-workload"))),
            (Some("a"), Some(80), Err((503, "no-such-workload"))),
            (Some(""), Some(80), Err((503, "no-such-workload"))),
            (Some("default/stops"), Some(83), Ok(("stops", 83))),
            // As other meshes ask.
            (None, Some(80), Ok(("a", 80))),
            (None, Some(81), Ok(("also", 81))),
            (None, Some(82), Err((503, "no-such-workload"))),
            (None, Some(83), Ok(("stops", 83))),
            (None, Some(84), Err((503, "no-such-workload"))),
            (None, None, Err((400, "bad-request"))),
        ] {
            let value = name.map(HeaderValue::from_static);
            let found = find(&worker, &link, value.as_ref(), port);
            let found = found.as_ref().map(|(workload, port)| (&*workload.name.name, *port));
            let found = found.map_err(|refusal| (refusal.status.as_u16(), refusal.reason));
            assert_eq!(found, expected, "{name:?} {port:?}");
        }
        assert_eq!(
            worker.local.metrics.counts().server_handshakes[HandshakeResult::WrongIdentity as usize].get(),
            1
        );
    }

    #[test]
    fn a_name_is_what_the_peer_says_now() {
        let authority = Authority::new("mesh.test");
        let worker = worker(&authority, &[]);
        let link = link(&worker, &authority, "a");
        for (said, name) in [
            ("default/a", Some("a")),
            ("default/a", Some("a")),
            ("default/b", Some("b")),
            ("default/a", Some("a")),
            ("x", None),
            ("default/a", Some("a")),
        ] {
            let found = link.workload_name(&HeaderValue::from_static(said));
            assert_eq!(found, name.map(|name| WorkloadName::new("default", name)), "{said}");
        }
    }

    /// Opens a link to `worker` as the account `peer`, to `a`.
    async fn open(worker: &Rc<Worker>, authority: &Authority) -> Handle {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, address) = listener.accept().await.unwrap();
        let seat = worker.local.accounts.of(&Payer::Handshakes).certain_seat(0);
        tokio::task::spawn_local(serve(worker.clone(), far, address, seat));
        let own = authority.issue(&authority.identity("peer"), UNTIL);
        let stream = tls::connect(&own, &authority.identity("a"), &Revoked::default(), near).await;
        let mut connection = Connection::client(stream.unwrap().stream, LIMITS, LINGER);
        let handle = connection.handle();
        tokio::task::spawn_local(async move { poll_fn(|cx| connection.poll(cx, |_, _, _| {})).await });
        handle
    }

    fn ask(
        handle: &Handle,
        method: Method,
        uri: &'static str,
        to: &[(&'static str, &str)],
    ) -> (Sender, Receiver) {
        let mut headers = HeaderMap::new();
        for (name, value) in to {
            headers.insert(*name, value.parse().unwrap());
        }
        let end = method != Method::CONNECT;
        let (uri, extensions) = (Uri::from_static(uri), Extensions::new());
        let head = RequestFields {
            method: &method,
            uri: &uri,
            extensions: &extensions,
            headers: &headers,
            more: &[],
        };
        handle.request(&head, end).unwrap()
    }

    #[tokio::test(flavor = "local")]
    async fn a_link_leads_to_the_process_that_it_was_opened_to() {
        let authority = Authority::new("mesh.test");
        let process = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = process.local_addr().unwrap().port();
        let worker = worker(&authority, &[("a", "a", port), ("b", "b", port), ("stops", "a", port)]);
        let handle = open(&worker, &authority).await;
        let counts = worker.local.metrics.counts();
        let (number, other) = (port.to_string(), port.wrapping_add(1).to_string());

        let (_sender, mut receiver) = ask(
            &handle,
            Method::GET,
            "http://s/x",
            &[("tulle-workload", "default/a"), ("tulle-port", &number)],
        );
        let answering = async {
            let (mut tcp, _) = process.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert_ne!(tcp.read_buf(&mut head).await.unwrap(), 0);
            }
            assert_eq!(head, b"GET /x HTTP/1.1\r\nhost: s\r\n\r\n", "nothing of the mesh's");
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            tcp
        };
        let (head, _tcp) = tokio::join!(poll_fn(|cx| receiver.poll_head(cx)), answering);
        assert_eq!(head.unwrap().status, StatusCode::OK);
        assert_eq!(ReceivedBody::new(receiver).collect().await.unwrap().to_bytes(), "hi");
        assert_eq!(counts.server_handshakes[HandshakeResult::Ok as usize].get(), 1);
        assert_eq!((counts.server_links.get(), counts.server_streams.get()), (1, 1));

        for (method, to, port, status, reason, safe) in [
            (Method::GET, "default/b", &number, 421, "wrong-identity", true),
            (Method::GET, "default/a", &other, 503, "connect-failed", true),
            (Method::GET, "default/stops", &number, 503, "draining", true),
            (Method::CONNECT, "default/b", &number, 421, "wrong-identity", true),
            (Method::CONNECT, "default/a", &other, 503, "connect-failed", true),
            (Method::CONNECT, "default/stops", &number, 503, "draining", true),
        ] {
            let uri = if method == Method::CONNECT { "s:1" } else { "http://s/x" };
            let (_sender, mut receiver) =
                ask(&handle, method.clone(), uri, &[("tulle-workload", to), ("tulle-port", port)]);
            let head = poll_fn(|cx| receiver.poll_head(cx)).await.unwrap();
            assert_eq!(
                (head.status.as_u16(), &head.headers[REASON]),
                (status, &HeaderValue::from_static(reason))
            );
            assert_eq!(head.headers.contains_key(RETRY), safe, "{method} {to} {port}");
        }

        let authority = Box::leak(format!("127.0.0.1:{port}").into_boxed_str());
        let (sender, mut receiver) = ask(
            &handle,
            Method::CONNECT,
            authority,
            &[("tulle-workload", "default/a"), ("tulle-port", &other)],
        );
        let (head, accepted) = tokio::join!(poll_fn(|cx| receiver.poll_head(cx)), process.accept());
        assert_eq!(head.unwrap().status, StatusCode::OK);
        let (mut tunnel, mut tcp) = (Tunnel::new(sender, receiver), accepted.unwrap().0);
        let mut bytes = [0; 2];
        tunnel.write_all(b"up").await.unwrap();
        tcp.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"up");
        tcp.write_all(b"no").await.unwrap();
        tunnel.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"no");
    }
}
