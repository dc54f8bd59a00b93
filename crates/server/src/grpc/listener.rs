//! Takes the nodes' connections: TLS with the server's own certificate of the mesh, the peer's
//! certificate checked against the mesh's roots when it shows one, and who it is handed on to the
//! gRPC services as a [`Peer`].
//!
//! Bounded: so many connections, so many handshakes at once, a deadline for each handshake and for
//! the first bytes after it, a life no longer than the peer's certificate. A peer with a certificate of another trust domain, or without exactly
//! one SPIFFE ID of this mesh's form, is closed after the handshake and logged.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tulle_model::identity::SpiffeId;

use crate::ca::mesh::MeshAuthority;
use crate::ca::{CaError, validity};

const CONNECTIONS: usize = 8192;
const HANDSHAKES: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer without a certificate may stay: joining takes one call.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
/// How long a connection may outlive its peer's certificate; its calls are refused by then.
const EXPIRED_LIFE: Duration = Duration::from_secs(60);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// `None`: it showed no certificate, and may do nothing but join.
    pub identity: Option<SpiffeId>,
    /// When its certificate expires.
    pub expires: SystemTime,
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

    /// Replaces the certificate when it is past half of its life.
    pub fn renew_if_due(&self, authority: &MeshAuthority, now: SystemTime) -> Result<(), CaError> {
        let left = self.current.load().1.duration_since(now).unwrap_or_default();
        if left < crate::ca::mesh::NODE_LIFETIME / 2 {
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
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| CaError::Tls(e.to_string()))?;
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

/// Accepts until `stop`; the connections come out of the receiver when their handshake is done.
pub fn accept(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    trust_domain: Arc<str>,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, incoming) = mpsc::channel(64);
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        let accepting = async {
            // Neither semaphore is ever closed.
            while let Ok(place) = connections.clone().acquire_owned().await
                && let Ok(turn) = handshakes.clone().acquire_owned().await
            {
                let (stream, address) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a node's connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let (acceptor, ready, domain) = (acceptor.clone(), ready.clone(), trust_domain.clone());
                tokio::spawn(async move {
                    let handshake = handshake(stream, address, &acceptor, &domain, place);
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                        Ok(Ok(connection)) => {
                            drop(turn);
                            // Nobody receives any more: the server stops.
                            let _ = ready.send(Ok(connection)).await;
                        }
                        Ok(Err(problem)) => {
                            tracing::warn!(peer = %address, "refused a connection: {problem}")
                        }
                        Err(_) => {
                            tracing::warn!(peer = %address, "refused a connection: no TLS handshake in time")
                        }
                    }
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
) -> Result<Connection, String> {
    let _ = stream.set_nodelay(true);
    let stream = acceptor.accept(stream).await.map_err(|e| format!("TLS failed: {e}"))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let (identity, expires) = match certificate {
        None => (None, SystemTime::now() + ANONYMOUS_LIFE),
        Some(der) => {
            let identity = spiffe_id(der, trust_domain)?;
            let (_, not_after) = validity(der).ok_or("its certificate cannot be read")?;
            let expires = UNIX_EPOCH + Duration::from_secs(not_after.try_into().unwrap_or(0));
            (Some(identity), expires)
        }
    };
    let peer = Peer { address, identity, expires };
    let end = Box::pin(tokio::time::sleep(FIRST_BYTES_TIMEOUT));
    Ok(Connection { stream, peer, silent: true, end, _place: place })
}

/// The one SPIFFE ID of a certificate that was verified already (X.509-SVID standard, section 5.2).
fn spiffe_id(der: &rustls_pki_types::CertificateDer<'_>, trust_domain: &str) -> Result<SpiffeId, String> {
    let certificate = webpki::EndEntityCert::try_from(der).map_err(|e| format!("its certificate: {e}"))?;
    let mut names = certificate.valid_uri_names();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err("its certificate does not have exactly one URI name".to_owned());
    };
    let identity: SpiffeId = name.parse().map_err(|e| format!("its certificate: {e}"))?;
    if identity.trust_domain() != trust_domain {
        return Err(format!("`{identity}` is of another trust domain than `{trust_domain}`"));
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
    _place: OwnedSemaphorePermit,
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
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() && self.silent {
            self.silent = false;
            let grace = if self.peer.identity.is_some() { EXPIRED_LIFE } else { Duration::ZERO };
            let rest = self.peer.expires.duration_since(SystemTime::now()).unwrap_or_default();
            self.end.as_mut().reset(tokio::time::Instant::now() + rest + grace);
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
