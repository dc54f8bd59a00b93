//! Takes the nodes' connections: TLS with the server's own certificate of the mesh, the peer's
//! certificate checked against the mesh's roots when it shows one, and who it is handed on to the
//! gRPC services as a [`Peer`].
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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tulle_model::clock::verification_time;
use tulle_model::identity::SpiffeId;

use crate::ca::mesh::{MeshAuthority, NODE_LIFETIME};
use crate::ca::{CaError, is_of_the_future, validity};
use crate::metrics::Metrics;
use crate::strangers::{Stranger, Strangers};

const CONNECTIONS: usize = 8192;
/// Peers at once that have not shown a certificate yet, or have none: a handshake takes milliseconds, and so
/// does joining. For one more, the oldest is given up.
const STRANGERS: usize = 1024;
/// How many bytes a peer without a certificate may send: a joining node needs a few thousand.
const STRANGER_BYTES: usize = 64 << 10;
/// Refusals that are logged; all are counted.
const LOGGED_PER_SECOND: u32 = 20;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer without a certificate may stay: joining takes one call.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
/// How long a connection may stay, whatever its peer's certificate says.
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How much longer the server's next certificate must live to be made.
const WORTH_RENEWING: Duration = Duration::from_secs(3600);
/// How long a connection may outlive its peer's certificate; its calls are refused by then.
const EXPIRED_LIFE: Duration = Duration::from_secs(60);

tokio::task_local! {
    /// Who the peer of a handshake claims to be, where its certificate is refused with an error that has no
    /// room for that.
    static CLAIMED: RefCell<Option<String>>;
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// `None`: it showed no certificate, and may do nothing but join.
    pub identity: Option<SpiffeId>,
    /// When its certificate expires. Of a clock that nobody sets: who stands here has shown a good
    /// certificate, and does not lose the way to a new one because the wall clock was set.
    pub expires: tokio::time::Instant,
}

/// The certificate that the server shows to nodes; replaced as it ages.
#[derive(Debug)]
pub struct ServerCertificate {
    current: ArcSwap<(Arc<CertifiedKey>, SystemTime)>,
}

impl ServerCertificate {
    pub fn new(authority: &MeshAuthority, now: SystemTime) -> Result<Arc<Self>, CaError> {
        let (key, expires) = authority.server_certificate(now)?;
        Ok(Arc::new(Self { current: ArcSwap::from_pointee((key.into(), expires)) }))
    }

    /// Replaces the certificate when it is past half of its life and the next one would live longer, or
    /// when its life has not begun: the clock was set back.
    pub fn renew_if_due(&self, authority: &MeshAuthority, now: SystemTime) -> Result<(), CaError> {
        let current = self.current.load();
        let left = current.1.duration_since(now).unwrap_or_default();
        let early = current.0.cert.first().is_some_and(|own| is_of_the_future(own, now));
        // The authority's end bounds both.
        let longer = authority.next_expiry(now) >= current.1 + WORTH_RENEWING;
        if early || left < NODE_LIFETIME / 2 && longer {
            let (key, expires) = authority.server_certificate(now)?;
            self.current.store(Arc::new((key.into(), expires)));
        }
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().0.clone())
    }
}

/// The TLS settings of the nodes' port: TLS 1.3 and HTTP/2 only.
pub fn tls(
    authority: &MeshAuthority,
    certificate: Arc<ServerCertificate>,
) -> Result<rustls::ServerConfig, CaError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for root in authority.roots() {
        roots.add(root.clone()).map_err(|e| CaError::Tls(format!("a root of the mesh is not valid: {e}")))?;
    }
    let chain = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| CaError::Tls(e.to_string()))?;
    let verifier = Arc::new(PeerVerifier { chain, trust_domain: authority.trust_domain().as_str().into() });
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| CaError::Tls(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the check of the peer's certificate.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Checks a peer's chain, and says of one that fails who it claims to be.
#[derive(Debug)]
struct PeerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: Arc<str>,
}

impl ClientCertVerifier for PeerVerifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // A node that was certified before this host's clock was set back is let in.
        let not_before = validity(end_entity).map(|(not_before, _)| not_before);
        let seconds = verification_time(now.as_secs(), not_before);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        // The identity first: a peer of another mesh fails the chain as well, and this says more.
        let identity = spiffe_id(end_entity, &self.trust_domain);
        if let Err(refused) = &identity
            && refused.reason == Reason::ForeignTrustDomain
        {
            return Err(refused.clone().into());
        }
        let checked = self.chain.verify_client_cert(end_entity, intermediates, now).map_err(|error| {
            let claimed = identity.as_ref().map_or("a peer without a SPIFFE ID", SpiffeId::as_str);
            match error {
                // As it is, for the alert that tells the node.
                rustls::Error::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. },
                ) => {
                    let _ = CLAIMED.try_with(|kept| *kept.borrow_mut() = Some(claimed.to_owned()));
                    error
                }
                other => Refused::by_chain(claimed, &other).into(),
            }
        })?;
        identity?;
        Ok(checked)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Why a connection was refused; the names are those of the links' handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    ForeignTrustDomain,
    UnknownIssuer,
    InvalidCertificate,
    WrongIdentity,
    Timeout,
    Overload,
    /// No TLS that we speak, or a connection that ended.
    Broken,
}

/// The reasons in their order, for metrics.
pub const REASONS: [&str; 7] = [
    "foreign-trust-domain",
    "unknown-issuer",
    "invalid-certificate",
    "wrong-identity",
    "timeout",
    "overload",
    "broken",
];

/// A refused connection.
#[derive(Debug, Clone)]
struct Refused {
    reason: Reason,
    message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for rustls::Error {
    fn from(refused: Refused) -> Self {
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

impl Refused {
    /// `claimed`: who the peer says that it is, where that is known and the error does not say so.
    fn by_handshake(error: io::Error, claimed: Option<String>) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))))
                if let Some(refused) = inner.downcast_ref::<Refused>() =>
            {
                refused.clone()
            }
            Some(rustls::Error::InvalidCertificate(invalid)) => {
                let of = claimed.map(|claimed| format!(" of {claimed}")).unwrap_or_default();
                Self::new(Reason::InvalidCertificate, format!("invalid certificate{of}: {invalid}"))
            }
            Some(rustls::Error::AlertReceived(alert)) => {
                Self::new(Reason::Broken, format!("the peer refused the TLS handshake with alert {alert:?}"))
            }
            _ => Self::new(Reason::Broken, format!("TLS handshake failed: {error}")),
        }
    }
}

impl Refused {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    fn by_chain(claimed: &str, error: &rustls::Error) -> Self {
        match error {
            // A root of the same name with another key shows as a bad signature.
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => Self::new(
                Reason::UnknownIssuer,
                format!("unknown issuer: the certificate says {claimed}, and no root of this mesh signed it"),
            ),
            rustls::Error::InvalidCertificate(invalid) => {
                Self::new(Reason::InvalidCertificate, format!("invalid certificate of {claimed}: {invalid}"))
            }
            other => Self::new(Reason::InvalidCertificate, format!("certificate of {claimed}: {other}")),
        }
    }
}

/// Counts refusals, and logs so many of them that a flood does not fill a disk.
struct Refusals {
    metrics: Arc<Metrics>,
    logged: Mutex<(Instant, u32)>,
}

impl Refusals {
    fn note(&self, address: SocketAddr, refused: &Refused) {
        self.metrics.connections_refused[refused.reason as usize].add(1);
        let mut logged = self.logged.lock();
        if logged.0.elapsed() >= Duration::from_secs(1) {
            *logged = (Instant::now(), 0);
        }
        logged.1 += 1;
        if logged.1 <= LOGGED_PER_SECOND {
            let reason = REASONS[refused.reason as usize];
            tracing::warn!(peer = %address, reason, "refused a connection: {refused}");
        }
    }
}

/// Accepts until `stop`; the connections come out of the receiver when their handshake is done.
pub fn accept(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    trust_domain: Arc<str>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, incoming) = mpsc::channel(64);
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let strangers = Strangers::new(STRANGERS);
    let refusals = Arc::new(Refusals { metrics, logged: Mutex::new((Instant::now(), 0)) });
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
                let (acceptor, ready, domain) = (acceptor.clone(), ready.clone(), trust_domain.clone());
                let (refusals, stranger) = (refusals.clone(), strangers.enter(address.ip()));
                tokio::spawn(async move {
                    let sent_away = stranger.sent_away.clone();
                    let handshake = handshake(stream, address, &acceptor, &domain, place, stranger);
                    let refused = tokio::select! {
                        done = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake) => match done {
                            // Nobody receives any more: the server stops.
                            Ok(Ok(connection)) => return drop(ready.send(Ok(connection)).await),
                            Ok(Err(refused)) => refused,
                            Err(_) => {
                                let message = format!("no TLS handshake in {HANDSHAKE_TIMEOUT:?}");
                                Refused::new(Reason::Timeout, message)
                            }
                        },
                        () = sent_away.cancelled() => {
                            let message = "too many peers have not shown who they are, and this was the oldest";
                            Refused::new(Reason::Overload, message)
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
    trust_domain: &str,
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
    let (identity, expires) = match certificate {
        None => (None, now + ANONYMOUS_LIFE),
        Some(der) => {
            let identity = spiffe_id(der, trust_domain)?;
            let (_, not_after) = validity(der).ok_or_else(|| {
                Refused::new(Reason::InvalidCertificate, "invalid certificate: it cannot be read")
            })?;
            let end = UNIX_EPOCH + Duration::from_secs(not_after.try_into().unwrap_or(0));
            let left = end.duration_since(SystemTime::now()).unwrap_or_default();
            // A timer does not reach further than some years.
            (Some(identity), now + left.min(LONGEST_LIFE))
        }
    };
    let anonymous = identity.is_none().then(|| Anonymous {
        left: STRANGER_BYTES,
        sent_away: Box::pin(stranger.sent_away.clone().cancelled_owned()),
        _place: stranger,
    });
    let peer = Peer { address, identity, expires };
    let end = Box::pin(tokio::time::sleep(FIRST_BYTES_TIMEOUT));
    Ok(Connection { stream, peer, silent: true, end, anonymous, _place: place })
}

/// The one SPIFFE ID of a certificate (X.509-SVID standard, section 5.2).
fn spiffe_id(der: &CertificateDer<'_>, trust_domain: &str) -> Result<SpiffeId, Refused> {
    let wrong = |why: String| Refused::new(Reason::WrongIdentity, format!("wrong identity: {why}"));
    let certificate = webpki::EndEntityCert::try_from(der).map_err(|e| {
        Refused::new(Reason::InvalidCertificate, format!("invalid certificate: it cannot be read: {e}"))
    })?;
    let mut names = certificate.valid_uri_names();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(wrong("the certificate does not have exactly one URI name".to_owned()));
    };
    let identity: SpiffeId = name.parse().map_err(|e| wrong(format!("{e}")))?;
    if identity.trust_domain() != trust_domain {
        let message = format!("foreign trust domain: the peer is {identity}, this mesh is {trust_domain}");
        return Err(Refused::new(Reason::ForeignTrustDomain, message));
    }
    Ok(identity)
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
    use super::*;
    use crate::ca::seal::MasterKey;
    use rustls_pki_types::ServerName;
    use tulle_model::identity::TrustDomain;

    #[derive(Debug)]
    struct AnyServer;

    impl rustls::client::danger::ServerCertVerifier for AnyServer {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

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
        let issued = authority.issue(&SpiffeId::node(&domain, "web-1"), &key, before).unwrap();
        let certificate = ServerCertificate::new(&authority, now).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls(&authority, certificate).unwrap()));

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_auth_cert(issued.chain, key.into())
            .unwrap();
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
            handshake(stream, peer, &acceptor, "mesh.local", place, stranger).await.map(drop)
        };
        let (told, refused) = tokio::join!(connecting, accepting);
        let refused = refused.unwrap_err();
        assert_eq!(refused.reason, Reason::InvalidCertificate);
        assert!(
            refused.message.contains("spiffe://mesh.local/") && refused.message.contains("web-1"),
            "{refused}"
        );
        let told = told.unwrap_err().to_string();
        assert!(told.contains("CertificateExpired"), "{told}");
    }
}
