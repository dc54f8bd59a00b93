//! The links that this worker has opened, one or more for each pair of workload identities and node.
//!
//! A link is dialed once however many wait for it. It serves new streams until it is full, until the
//! peer says that it goes away, or until the certificate that it was opened with ends or one of the roots
//! of then is not trusted any more; then it is retired: it is no longer handed out, and closes when its last stream is done.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use http::Response;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tulle_model::health::AttemptOutcome;
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::FastMap;
use tulle_model::stamp::Stamp;

use super::stream::LinkStream;
use super::{Faults, LINGER, LINK_COST, PING_DEADLINE, PING_INTERVAL, is_distrusted, watch_revocation};
use crate::budget::{Account, Payer, Seat};
use crate::certificate::WorkloadCertificate;
use crate::connect::open_within;
use crate::departing::{Departing, Ending, Exit};
use crate::destination::Member;
use crate::error::{UpstreamError, UpstreamErrorKind as Kind};
use crate::http::asker::Asker;
use crate::http::body::Body;
use crate::http::request::request;
use crate::http2::{Connection, Ended, Handle, Limits, Line, RequestFields, until_dead};
use crate::local::Local;
use crate::metrics::HandshakeResult;
use crate::progress::Side;
use crate::state::LocalWorkload;
use crate::tls::{self, TlsFailure, TlsStream};
use crate::turn::{Rules, Turn};

/// Of what the peer takes, no more than that is used: it may have been stopped for as long as it takes until we
/// hold it for dead, and see at once what we have sent meanwhile.
pub(crate) const LIMITS: Limits =
    Limits { resets: 2000, resets_per_second: 500, extended_connect: false, ..super::LIMITS };

/// How long a request or connection waits for a link before it looks for another endpoint. The handshake
/// goes on: what waits later profits from it.
const PATIENCE: Duration = Duration::from_secs(1);
/// A link without a stream is closed after that.
const IDLE: Duration = Duration::from_secs(90);
/// Links to one peer for one identity; when all are full, streams wait for room on them.
const MAX_LINKS: usize = 16;
/// And beside them, those that take no new streams and have some left: with certificates of an hour, those of
/// five days.
const MAX_DEPARTING: usize = 128;
/// How long no further link is dialed after that failed.
const DIAL_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LinkKey {
    source: SpiffeId,
    destination: SpiffeId,
    address: SocketAddr,
}

type Dial = Shared<LocalBoxFuture<'static, Result<(), UpstreamError>>>;

/// The links of one key.
#[derive(Default)]
struct PooledLinks {
    open: Vec<Rc<Link>>,
    departing: Departing,
    dial: Option<Dial>,
    /// Who waits for a stream on any of them.
    line: Rc<Line>,
    /// Since when no more could be opened beside those that are open.
    refused: Option<Instant>,
}

impl PooledLinks {
    /// A link with room.
    fn free(&self) -> Option<Rc<Link>> {
        let link = self.open.iter().find(|link| link.room() > 0)?;
        link.used.set(Instant::now());
        Some(link.clone())
    }

    /// How many streams can be opened now.
    fn room(&self) -> usize {
        self.open.iter().map(|link| link.room()).sum()
    }

    /// Whether any of them takes streams, now or when others end. One whose peer goes away does not.
    fn takes_streams(&self) -> bool {
        self.open.iter().any(|link| link.handle.is_open())
    }

    /// Whether one more link should be opened for those that wait.
    fn wants_another(&self) -> bool {
        self.dial.is_none()
            && self.open.iter().filter(|link| link.handle.is_open()).count() < MAX_LINKS
            && self.open.iter().all(|link| link.room() == 0)
            && self.refused.is_none_or(|since| since.elapsed() >= DIAL_PAUSE)
    }

    /// Gives out no longer what is not `fit`: it ends with its last stream. Whether one had to end at once for it.
    fn part(&mut self, fit: impl Fn(&Rc<Link>) -> bool) -> bool {
        let mut crowded = false;
        for link in self.open.extract_if(.., |link| !fit(link)) {
            link.retired.set(true);
            if let Some(exit) = link.exit.take() {
                crowded |= self.departing.add(exit, MAX_DEPARTING);
            }
        }
        crowded
    }

    fn is_unused(&self) -> bool {
        self.open.is_empty() && self.dial.is_none() && self.departing.len() == 0
    }
}

/// What there is of open links.
enum Open {
    Free(Rc<Link>),
    /// They have no room, or others are before.
    Full(Rc<Line>),
    None,
}

/// The links of one worker.
pub struct LinkPool {
    local: Rc<Local>,
    rules: Rules,
    entries: RefCell<FastMap<LinkKey, PooledLinks>>,
    /// What runs the open links.
    running: TaskTracker,
    /// No more are to be opened.
    closed: Cell<bool>,
}

/// A link that is given out. What runs it holds its seat.
struct Link {
    handle: Handle,
    exit: Cell<Option<Exit>>,
    /// When streams were last seen on it.
    used: Cell<Instant>,
    retired: Cell<bool>,
}

impl Link {
    /// How many streams can be opened now.
    fn room(&self) -> usize {
        self.handle.room().min((LIMITS.streams as usize).saturating_sub(self.handle.open_streams()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Nobody can open streams on it any longer: it ends with its last one.
        self.handle.go_away();
    }
}

impl LinkPool {
    pub(crate) fn new(local: Rc<Local>, rules: Rules) -> Rc<Self> {
        Rc::new(Self {
            local,
            rules,
            entries: RefCell::default(),
            running: TaskTracker::new(),
            closed: Cell::new(false),
        })
    }

    /// Sends a request on a link from `source` to the node of `endpoint`; see [`request`].
    pub(crate) async fn request(
        self: &Rc<Self>,
        source: &LocalWorkload,
        member: &Rc<Member>,
        head: &RequestFields<'_>,
        body: Body,
        asker: &Asker,
    ) -> Result<Response<Body>, UpstreamError> {
        let place = async |turn: &mut Turn| {
            let handle = self.place(source, member, turn).await?;
            self.local.metrics.counts().client_streams.add(1);
            Ok(handle)
        };
        let answered = request(&self.rules, &member.endpoint.address, place, head, body, asker).await;
        // What the application said of it the other node puts in words: this is the link's affair.
        answered.map_err(|error| match error.kind {
            Kind::Reset(_) => UpstreamError { kind: Kind::ConnectionLost, ..error },
            _ => error,
        })
    }

    /// A place for one tunnel or upgrade on a link from `source` to the node of `endpoint`, dialed if need be.
    /// Every error has left nothing behind.
    pub async fn stream(
        self: &Rc<Self>,
        source: &LocalWorkload,
        member: &Rc<Member>,
    ) -> Result<LinkStream, UpstreamError> {
        self.place(source, member, &mut Turn::begin(&self.rules)).await.map(LinkStream::on)
    }

    /// A link with room for a stream, to be opened at once.
    async fn place(
        self: &Rc<Self>,
        source: &LocalWorkload,
        member: &Rc<Member>,
        turn: &mut Turn,
    ) -> Result<Handle, UpstreamError> {
        let endpoint = &member.endpoint;
        // A link speaks for a workload of the mesh.
        let (Some(node), Some(identity), None) = (&endpoint.node, &endpoint.identity, source.outside) else {
            let message = format!("no link leads from {} to the endpoint {}", source.name, endpoint.address);
            return Err(UpstreamError::safe(Kind::NoCertificate, message));
        };
        let key =
            LinkKey { source: source.identity.clone(), destination: identity.clone(), address: node.link };
        let mut patience = None;
        loop {
            let line = match self.open_link(&key, turn) {
                Open::Free(link) => return Ok(link.handle.clone()),
                Open::Full(line) => Some(line),
                Open::None => None,
            };
            // The one of now: `source` is as old as the connection that it came from.
            let now = self.local.workload(&source.name);
            let certificate = now.as_deref().unwrap_or(source).certificate.as_ref();
            let certificate = certificate.ok_or_else(|| {
                let message = format!("{} has no certificate yet", source.name);
                UpstreamError::safe(Kind::NoCertificate, message)
            })?;
            let dial = || self.dial(&key, &source.name, member, certificate);
            let Some(line) = line else {
                let patience = *patience.get_or_insert_with(|| Instant::now() + PATIENCE);
                match timeout_at(patience, dial()).await {
                    Ok(dialed) => dialed?,
                    Err(_) => {
                        let message = format!("the link to {} is not open after {PATIENCE:?}", key.address);
                        return Err(UpstreamError::safe(Kind::LinkPending, message));
                    }
                }
                continue;
            };
            let caller = self.local.account(source);
            if let Some(link) = Box::pin(self.wait(&key, &line, &caller, turn, dial)).await? {
                return Ok(link.handle.clone());
            }
            // The wait in line was for links that were there.
            patience = None;
        }
    }

    /// A link with room.
    fn open_link(&self, key: &LinkKey, turn: &Turn) -> Open {
        let entries = self.entries.borrow();
        let Some(entry) = entries.get(key).filter(|entry| entry.takes_streams()) else { return Open::None };
        let free = entry.free().filter(|_| turn.is_now(&entry.line));
        free.map_or_else(|| Open::Full(entry.line.clone()), Open::Free)
    }

    /// Waits for a link with room, and has more opened with `dial` as long as there may be more. `None`: there is
    /// none any more.
    async fn wait(
        &self,
        key: &LinkKey,
        line: &Rc<Line>,
        caller: &Rc<Account>,
        turn: &mut Turn,
        dial: impl Fn() -> Dial,
    ) -> Result<Option<Rc<Link>>, UpstreamError> {
        let dial = || {
            // It goes on by itself, and has somebody called when it is done.
            if self.entries.borrow().get(key).is_some_and(PooledLinks::wants_another) {
                drop(dial());
            }
        };
        let look = || {
            let found = match self.entries.borrow().get(key).filter(|entry| entry.takes_streams()) {
                Some(entry) => entry.free().map(|link| (link, entry.room())),
                None => return Some(Ok(None)),
            };
            let Some((link, room)) = found else {
                dial();
                return None;
            };
            if !line.is_empty() {
                match room {
                    ..=1 => dial(),
                    room => line.call_for(room - 1),
                }
            }
            Some(Ok(Some(link)))
        };
        // Others may be before this one, so that it does not look at once.
        if !line.is_free() {
            dial();
        }
        turn.wait(&self.rules, line, caller, &key.address, look).await
    }

    fn retire(&self, key: &LinkKey, link: &Rc<Link>) {
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(key) {
            entry.part(|other| !Rc::ptr_eq(other, link));
            if entry.open.is_empty() {
                // They have a new one opened.
                entry.line.call_all();
            } else {
                entry.line.call();
            }
        }
    }

    /// Forgets what there was for `key` when it was the last.
    fn forget(&self, key: &LinkKey) {
        let mut entries = self.entries.borrow_mut();
        if entries.get(key).is_some_and(PooledLinks::is_unused) {
            entries.remove(key);
        }
    }

    /// Retires all links, and returns when what was handed over to them is sent and they are closed.
    pub async fn close(&self) {
        self.closed.set(true);
        let entries = std::mem::take(&mut *self.entries.borrow_mut());
        entries.values().for_each(|entry| entry.line.call_all());
        drop(entries);
        self.running.close();
        self.running.wait().await;
    }

    /// Joins the dial under way, or starts one. It goes on even if all who wait for it give up; then its
    /// failure is the endpoint's all the same.
    fn dial(
        self: &Rc<Self>,
        key: &LinkKey,
        source: &WorkloadName,
        member: &Rc<Member>,
        certificate: &Arc<WorkloadCertificate>,
    ) -> Dial {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(key.clone()).or_default();
        if let Some(dial) = &entry.dial {
            return dial.clone();
        }
        let (done, result) = oneshot::channel();
        let dial = async move { result.await.unwrap_or_else(|_| Err(stopping())) }.boxed_local().shared();
        entry.dial = Some(dial.clone());
        let (pool, key, certificate) = (self.clone(), key.clone(), certificate.clone());
        let member = member.clone();
        if entry.part(|link| link.handle.is_open()) {
            warn_of_many(&self.local, &key);
        }
        let account = self.local.accounts.of(&Payer::Workload(source.clone()));
        tokio::task::spawn_local(async move {
            let seat = pool.seat(&key, &account).await;
            let result = match open(&pool, &key, &certificate, seat).await {
                Ok(_) if pool.closed.get() => Err(stopping()),
                opened => opened,
            };
            let mut entries = pool.entries.borrow_mut();
            let entry = entries.entry(key.clone()).or_default();
            entry.dial = None;
            let result = match result {
                Ok(opened) => {
                    let (exit, ending) = Exit::new();
                    let link = Rc::new(Link {
                        handle: opened.connection.handle(),
                        exit: Cell::new(Some(exit)),
                        used: Cell::new(Instant::now()),
                        retired: Cell::new(false),
                    });
                    link.handle.serve(&entry.line);
                    entry.open.push(link.clone());
                    entry.refused = None;
                    entry.line.call();
                    let driven = drive(pool.clone(), key, Rc::downgrade(&link), opened, certificate, ending);
                    pool.running.spawn_local(driven);
                    Ok(())
                }
                Err(error) => {
                    if entry.takes_streams() {
                        entry.refused = Some(Instant::now());
                    } else {
                        entry.line.call_all();
                    }
                    if entry.is_unused() {
                        entries.remove(&key);
                    }
                    member.note(AttemptOutcome::Unreachable, || pool.local.since_start(Instant::now()));
                    Err(error)
                }
            };
            let _ = done.send(result);
        });
        dial
    }

    /// A seat for one more link. Nothing goes without one, and there are few. Where there are many, to a peer that goes
    /// away again and again, they are taken of what the workload has for others, or of each other.
    async fn seat(&self, key: &LinkKey, account: &Rc<Account>) -> Seat {
        let count = |entry: &PooledLinks| entry.open.len() + entry.departing.len();
        let few = self.entries.borrow().get(key).is_none_or(|entry| count(entry) < MAX_LINKS);
        if !few {
            if let Ok(seat) = account.seat(LINK_COST) {
                return seat;
            }
            let ended = self.entries.borrow().get(key).is_some_and(|entry| entry.departing.end_oldest());
            if ended {
                warn_of_many(&self.local, key);
                // It gives its own back.
                tokio::task::yield_now().await;
            }
        }
        account.certain_seat(LINK_COST)
    }
}

fn warn_of_many(local: &Local, key: &LinkKey) {
    if local.may_warn() {
        tracing::warn!(
            peer = %key.address,
            destination = %key.destination,
            "links are left with streams open again and again: the oldest was ended"
        );
    }
}

fn stopping() -> UpstreamError {
    UpstreamError::safe(Kind::Connect, "the proxy is stopping")
}

/// A link that was opened, with its seat.
struct OpenedLink {
    connection: Connection<TlsStream>,
    /// Of the peer's certificate.
    stamp: Option<Stamp>,
    seat: Seat,
}

/// TCP, TLS, HTTP/2, and a ping: a server that does not accept our certificate says so only after its
/// side of the handshake, when ours has long been done.
async fn open(
    pool: &LinkPool,
    key: &LinkKey,
    certificate: &Arc<WorkloadCertificate>,
    seat: Seat,
) -> Result<OpenedLink, UpstreamError> {
    let end = Instant::now() + pool.local.bounds.link_handshake;
    let tcp = open_within(pool.local.elsewhere, key.address, pool.local.bounds.link_handshake).await?;
    let counts = pool.local.metrics.counts();
    let handshake = timeout_at(end, greet(pool, key, certificate, tcp, seat)).await;
    let failure = match handshake {
        Ok(Ok(opened)) => {
            counts.client_handshakes[HandshakeResult::Ok as usize].add(1);
            return Ok(opened);
        }
        Ok(Err(failure)) => failure,
        Err(_) => TlsFailure::unfinished(pool.local.bounds.link_handshake),
    };
    pool.local.note_expired(&failure);
    counts.client_handshakes[failure.kind as usize].add(1);
    if pool.local.may_warn() {
        tracing::warn!(
            peer = %key.address,
            reason = failure.kind.as_str(),
            source = %key.source,
            destination = %key.destination,
            "link refused: {failure}"
        );
    }
    let message = format!("no link from {} to {} at {}: {failure}", key.source, key.destination, key.address);
    let kind = match failure.kind {
        HandshakeResult::WrongIdentity | HandshakeResult::NoSuchWorkload => Kind::WrongIdentity,
        _ => Kind::Tls,
    };
    Err(UpstreamError::safe(kind, message))
}

async fn greet(
    pool: &LinkPool,
    key: &LinkKey,
    certificate: &WorkloadCertificate,
    tcp: TcpStream,
    seat: Seat,
) -> Result<OpenedLink, TlsFailure> {
    let revoked = pool.local.view().snapshot.mesh.revoked.clone();
    let tls::Connected { stream, stamp } = tls::connect(certificate, &key.destination, &revoked, tcp).await?;
    let mut connection = Connection::client(stream, LIMITS, LINGER);
    if let Some(account) = seat.account() {
        connection = connection.charged(account.clone());
    }
    let handle = connection.handle();
    tokio::select! {
        biased;
        ended = poll_fn(|cx| connection.poll(cx, |_, _, _| {})) => return Err(not_taken(ended, &key.source)),
        pong = handle.ping() => pong.map_err(|ended| not_taken(ended, &key.source))?,
    }
    Ok(OpenedLink { connection, stamp, seat })
}

/// A link that ended before it was of use.
fn not_taken(ended: Ended, own: &SpiffeId) -> TlsFailure {
    match ended {
        Ended::Io(error) => TlsFailure::of(&error, Some(own)),
        Ended::Closed => TlsFailure::broken("the peer closed the link at once".to_owned()),
        other => TlsFailure::broken(format!("the peer does not take the link: {other}")),
    }
}

/// Runs a link until it ends, and takes it out of the pool when it is no longer fit for new streams.
async fn drive(
    pool: Rc<LinkPool>,
    key: LinkKey,
    link: Weak<Link>,
    opened: OpenedLink,
    certificate: Arc<WorkloadCertificate>,
    mut ending: Ending,
) {
    // It is a descriptor until it is closed, whoever still uses it.
    let OpenedLink { mut connection, stamp, seat: _seat } = opened;
    let counts = pool.local.metrics.counts();
    counts.client_links.add(1);
    let faults = Faults::of(connection.handle(), &counts.client_link_faults);
    let (handle, received) = (connection.handle(), connection.received());
    let heard = pool.local.sight.heard();
    heard.note(key.address, Instant::now());
    let mut seen = received.get();
    let each = || {
        faults.look();
        if std::mem::replace(&mut seen, received.get()) != received.get() {
            heard.note(key.address, Instant::now());
        }
        if let Some(link) = link.upgrade()
            && !link.retired.get()
            && (is_spent(&pool.local, &link, certificate.svid().not_after())
                || is_distrusted(&pool.local, &certificate))
        {
            pool.retire(&key, &link);
        }
    };
    let _watched = pool.local.sweep.watch(&connection.handle(), Side::Link);
    let mut revocation = watch_revocation(&pool.local, stamp);
    let mut dead = false;
    let ended = tokio::select! {
        ended = poll_fn(|cx| connection.poll(cx, |_, _, _| {})) => match ended {
            Ended::Closed => None,
            ended => {
                if let Ended::Violation(violation) = &ended {
                    counts.abused_link(violation.code);
                }
                Some(ended.to_string())
            }
        },
        () = until_dead(handle, received.clone(), PING_INTERVAL, PING_DEADLINE, each) => {
            dead = true;
            Some("the peer does not answer pings".to_owned())
        }
        () = revocation.told() => Some("the peer's node was revoked".to_owned()),
        () = ending.told() => Some("too many others were left with streams open".to_owned()),
    };
    drop(ending);
    match dead {
        true => heard.lost(key.address),
        false if seen != received.get() => heard.note(key.address, Instant::now()),
        false => {}
    }
    if let Some(link) = link.upgrade() {
        pool.retire(&key, &link);
    }
    pool.forget(&key);
    counts.client_links.subtract(1);
    match ended {
        Some(why) => {
            tracing::debug!(peer = %key.address, destination = %key.destination, "link ended: {why}")
        }
        None => tracing::trace!(peer = %key.address, destination = %key.destination, "link closed"),
    }
}

/// Whether a link must not be handed out any longer: its certificate has ended, or nobody uses it.
fn is_spent(local: &Local, link: &Link, expires: i64) -> bool {
    if link.handle.streams() > 0 {
        link.used.set(Instant::now());
    }
    local.clock.unix_time() >= expires || link.used.get().elapsed() > IDLE
}
