//! Takes the nodes' connections: TLS ([`super::tls`]), the peer's certificate checked when it shows one, and who it is
//! handed on to the gRPC services as a [`Peer`].
//!
//! Bounded: so many connections, so many of peers that have not shown a certificate, a deadline for each
//! handshake and for the first bytes after it, a life no longer than the peer's certificate; and where a peer
//! shows none, what it may send. A peer with a certificate of another trust domain, or without exactly one SPIFFE
//! ID of this mesh's form, is closed after the handshake and logged.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tulle_identity::{Certificate, Refusal};
use tulle_model::identity::SpiffeId;
use tulle_model::stamp::Stamp;

use super::refusal::{Refusals, Refused};
use super::tls::CLAIMED;
use crate::metrics::{Metrics, RefusalReason};
use crate::strangers::{Stranger, Strangers};

const CONNECTIONS: usize = 8192;
/// Peers at once that have not shown a certificate yet, or have none: a handshake takes milliseconds, and so
/// does joining. For one more, the oldest is given up.
const STRANGERS: usize = 1024;
/// How many bytes a peer without a certificate may send: a joining node needs a few thousand.
const STRANGER_BYTES: usize = 64 << 10;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer without a certificate may stay: joining takes one call.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
/// How long a connection may stay, whatever its peer's certificate says.
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a connection may outlive its peer's certificate; its calls are refused by then.
const EXPIRED_LIFE: Duration = Duration::from_secs(60);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// `None`: it showed no certificate, and may do nothing but join.
    pub identity: Option<SpiffeId>,
    /// To which joining of a node its certificate was issued.
    pub stamp: Option<Stamp>,
    /// When its certificate expires. Of a clock that nobody sets: who stands here has shown a good
    /// certificate, and does not lose the way to a new one because the wall clock was set.
    pub expires: tokio::time::Instant,
}

/// Accepts until `stop`; the connections come out of the receiver when their handshake is done.
pub fn accept(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, incoming) = mpsc::channel(64);
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let strangers = Strangers::new(STRANGERS);
    let refusals = Arc::new(Refusals::new(metrics));
    tokio::spawn(async move {
        let accepting = async {
            // The semaphore is never closed.
            while let Ok(place) = connections.clone().acquire_owned().await {
                let (stream, address) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a node's connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let (acceptor, ready) = (acceptor.clone(), ready.clone());
                let (refusals, stranger) = (refusals.clone(), strangers.enter(address.ip()));
                tokio::spawn(async move {
                    let sent_away = stranger.sent_away.clone();
                    let handshake = handshake(stream, address, &acceptor, place, stranger);
                    let refused = tokio::select! {
                        done = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake) => match done {
                            // Nobody receives any more: the server stops.
                            Ok(Ok(connection)) => return drop(ready.send(Ok(connection)).await),
                            Ok(Err(refused)) => refused,
                            Err(_) => {
                                let message = format!("no TLS handshake in {HANDSHAKE_TIMEOUT:?}");
                                Refused::new(RefusalReason::Timeout, message)
                            }
                        },
                        () = sent_away.cancelled() => {
                            let message = "too many peers have not shown who they are, and this was the oldest";
                            Refused::new(RefusalReason::Overload, message)
                        }
                    };
                    refusals.note(address, &refused);
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            () = stop.cancelled() => {}
        }
    });
    incoming
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: &TlsAcceptor,
    place: OwnedSemaphorePermit,
    stranger: Stranger,
) -> Result<Connection, Refused> {
    let _ = stream.set_nodelay(true);
    let accepting = async {
        let accepted = acceptor.accept(stream).await;
        accepted.map_err(|error| Refused::by_handshake(error, CLAIMED.with(RefCell::take)))
    };
    let stream = CLAIMED.scope(RefCell::default(), accepting).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let now = tokio::time::Instant::now();
    let (identity, stamp, expires) = match certificate {
        None => (None, None, now + ANONYMOUS_LIFE),
        Some(der) => {
            let shown = Certificate::read(der).map_err(|refusal| Refused::from(&refusal))?;
            let identity = shown.identity.map_err(|why| Refused::from(&Refusal::from(why)))?;
            let end = UNIX_EPOCH + Duration::from_secs(shown.not_after.try_into().unwrap_or(0));
            let left = end.duration_since(SystemTime::now()).unwrap_or_default();
            // A timer does not reach further than some years.
            (Some(identity), shown.stamp, now + left.min(LONGEST_LIFE))
        }
    };
    let anonymous = identity.is_none().then(|| Anonymous {
        left: STRANGER_BYTES,
        sent_away: Box::pin(stranger.sent_away.clone().cancelled_owned()),
        _place: stranger,
    });
    let peer = Peer { address, identity, stamp, expires };
    let end = Box::pin(tokio::time::sleep(FIRST_BYTES_TIMEOUT));
    Ok(Connection { stream, peer, silent: true, end, anonymous, _place: place })
}

/// A node's connection after its handshake.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Whether no bytes have come yet.
    silent: bool,
    /// When it is cut.
    end: Pin<Box<Sleep>>,
    /// Where it showed no certificate.
    anonymous: Option<Anonymous>,
    _place: OwnedSemaphorePermit,
}

/// What is granted to a peer without a certificate.
struct Anonymous {
    /// How many bytes it may still send.
    left: usize,
    /// Ends when its place is somebody else's.
    sent_away: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Stranger,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(anonymous) = &mut self.anonymous {
            if anonymous.sent_away.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            match anonymous.left.checked_sub(buffer.filled().len() - before) {
                Some(left) => anonymous.left = left,
                None => {
                    tracing::warn!(
                        peer = %self.peer.address,
                        "closed a connection: more than {STRANGER_BYTES} bytes without a certificate"
                    );
                    return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
                }
            }
        }
        if read.is_ready() && self.silent {
            self.silent = false;
            let grace = if self.peer.identity.is_some() { EXPIRED_LIFE } else { Duration::ZERO };
            let end = self.peer.expires.max(tokio::time::Instant::now()) + grace;
            self.end.as_mut().reset(end);
        }
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use rustls::time_provider::DefaultTimeProvider;
    use tulle_identity::tls::client;
    use tulle_identity::{Expected, Svid};
    use tulle_model::identity::TrustDomain;

    use super::*;
    use crate::ca::mesh::{MeshAuthority, NODE_LIFETIME};
    use crate::ca::seal::MasterKey;
    use crate::grpc::tls::{ServerCertificate, tls};

    #[tokio::test]
    async fn who_comes_with_an_expired_certificate_is_named_and_told() {
        let home = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("mesh.local").unwrap();
        let master = MasterKey::open_or_make(&home.path().join("master.key")).unwrap();
        let now = SystemTime::now();
        let authority =
            MeshAuthority::open(&home.path().join("ca"), master, &domain, None, true, now).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let before = now - 2 * NODE_LIFETIME;
        let issued = authority.issue(&SpiffeId::node(&domain, "web-1").unwrap(), &key, before).unwrap();
        let certificate = ServerCertificate::new(&authority, now).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls(&authority, certificate).unwrap()));

        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let own = Svid::new(issued.chain, key.into(), authority.roots()).unwrap();
        let client = client(own.peers(Expected::Server), Some(&own), Arc::new(DefaultTimeProvider));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connecting = async {
            use tokio::io::AsyncReadExt;
            let stream = TcpStream::connect(address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
            let mut stream = connector.connect("server".try_into().unwrap(), stream).await?;
            stream.read_u8().await.map(drop)
        };
        let accepting = async {
            let (stream, peer) = listener.accept().await.unwrap();
            let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
            let stranger = Strangers::new(1).enter(peer.ip());
            handshake(stream, peer, &acceptor, place, stranger).await.map(drop)
        };
        let (told, refused) = tokio::join!(connecting, accepting);
        let refused = refused.unwrap_err();
        assert_eq!(refused.reason, RefusalReason::InvalidCertificate);
        assert!(
            refused.message.contains("spiffe://mesh.local/") && refused.message.contains("web-1"),
            "{refused}"
        );
        let told = told.unwrap_err().to_string();
        assert!(told.contains("CertificateExpired"), "{told}");
    }
}
