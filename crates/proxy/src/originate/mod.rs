//! TLS that this node speaks to the outside for workloads that speak none ([`tulle_model::snapshot::OriginatedTls`]; GEP-1897).
//!
//! What a peer shows is checked at every connection; none goes on in plain.
//!
//! Whom the host trusts is read again at a connection that is opened a while after it was read last.

mod socket;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, ClientConfig, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tulle_identity::{outside, store, system};
use tulle_model::decision::{Decision, Effect};
use tulle_model::snapshot::{OriginatedRoots, OriginatedTls, TlsAsker};

pub use self::socket::{AppSocket, TlsSocket};
use crate::clock::MeshClock;
use crate::connect::{Callee, EGRESS_CONNECT, open_within};
use crate::error::{Denied, UpstreamError, UpstreamErrorKind};
use crate::reason::TLS_FAILED;

/// For how long nobody looks whether the host trusts others now.
const SYSTEM_AGE: Duration = Duration::from_secs(60);

/// What is spoken in it, and so agreed on (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    Http2,
    /// What a workload says, whatever that is: nothing is agreed on.
    Bytes,
}

/// Opens connections in the TLS of one policy.
pub(crate) struct TlsDialer {
    tls: Arc<OriginatedTls>,
    clock: Arc<MeshClock>,
    /// As whom the node connects.
    elsewhere: Callee,
    system: Rc<SystemRoots>,
    prepared: RefCell<Option<Prepared>>,
}

/// What a handshake needs, for some roots.
#[derive(Clone)]
struct Prepared {
    roots: Arc<RootCertStore>,
    /// By [`Speaks`].
    configs: [Arc<ClientConfig>; 3],
}

/// Whom the host trusts.
#[derive(Default)]
pub(crate) struct SystemRoots {
    /// Held while it is read.
    read: tokio::sync::Mutex<Option<(Instant, Arc<RootCertStore>)>>,
}

impl TlsDialer {
    /// `system`: whom the host trusts, as others know it, too.
    pub fn new(
        tls: Arc<OriginatedTls>,
        clock: Arc<MeshClock>,
        elsewhere: Callee,
        system: Rc<SystemRoots>,
    ) -> Self {
        Self { tls, clock, elsewhere, system, prepared: RefCell::default() }
    }

    pub fn tls(&self) -> &Arc<OriginatedTls> {
        &self.tls
    }

    /// Opens a connection, and holds who answers against the policy: in as much time as a destination outside of the mesh has.
    pub async fn connect(&self, address: SocketAddr, speaks: Speaks) -> Result<TlsSocket, UpstreamError> {
        let end = Instant::now() + EGRESS_CONNECT;
        if let Some(refusal) = self.tls.refusal() {
            return Err(failed(Some(self.tls.decision()), refusal));
        }
        let prepared = timeout_at(end, self.prepared()).await;
        let prepared = prepared.unwrap_or_else(|_| Err("they were not read in time".to_owned()));
        let prepared =
            prepared.map_err(|why| self.failed(address, self.tls.roots_field().to_owned(), &why))?;
        let name = ServerName::try_from(self.tls.hostname.to_string())
            .map_err(|_| self.failed(address, HOSTNAME.to_owned(), "it is no name of a server"))?;
        let tcp = open_within(self.elsewhere, address, EGRESS_CONNECT).await?;
        let config = prepared.configs[speaks as usize].clone();
        let shaken = timeout_at(end, TlsConnector::from(config).connect(name, tcp)).await;
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let (field, why) = self.blame(&error);
                return Err(self.failed(address, field, &why));
            }
            Err(_) => {
                let why = format!("the server did not finish the handshake within {EGRESS_CONNECT:?}");
                return Err(self.failed(address, TARGETS.to_owned(), &why));
            }
        };
        if speaks == Speaks::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            let why = "the server does not speak HTTP/2 (ALPN), which the client does";
            return Err(self.failed(address, TARGETS.to_owned(), why));
        }
        Ok(TlsSocket::new(stream))
    }

    /// What a handshake needs now.
    async fn prepared(&self) -> Result<Prepared, String> {
        let roots = match &self.tls.roots {
            OriginatedRoots::System => self.system.get().await?,
            OriginatedRoots::Given(_) | OriginatedRoots::Nobody { .. } => {
                if let Some(prepared) = &*self.prepared.borrow() {
                    return Ok(prepared.clone());
                }
                let given = match &self.tls.roots {
                    OriginatedRoots::Given(given) => &given[..],
                    OriginatedRoots::System | OriginatedRoots::Nobody { .. } => &[],
                };
                let given: Vec<_> = given.iter().map(|der| CertificateDer::from(&der[..])).collect();
                Arc::new(store(&given).map_err(|error| format!("a certificate is of no use: {error}"))?)
            }
        };
        if let Some(prepared) = &*self.prepared.borrow()
            && Arc::ptr_eq(&prepared.roots, &roots)
        {
            return Ok(prepared.clone());
        }
        let config = outside::client(roots.clone(), self.tls.names.clone(), self.clock.clone());
        let speaking = |alpn: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        let configs = [speaking(&[b"http/1.1"]), speaking(&[b"h2"]), speaking(&[])];
        let prepared = Prepared { roots, configs };
        *self.prepared.borrow_mut() = Some(prepared.clone());
        Ok(prepared)
    }

    /// The field that a failed handshake is about, and why it failed.
    fn blame(&self, error: &std::io::Error) -> (String, String) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let Some(tls) = tls else {
            return (TARGETS.to_owned(), format!("the connection broke in the handshake: {error}"));
        };
        let (roots, names) = (self.tls.roots_field().to_owned(), self.tls.names_field().to_owned());
        match tls {
            // Also by somebody of the same name.
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                (roots, "its certificate is signed by nobody who is trusted".to_owned())
            }
            Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
                (names, other.to_string())
            }
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => ("spec.validation".to_owned(), "its certificate has expired".to_owned()),
            Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            ) => ("spec.validation".to_owned(), "its certificate is not valid yet".to_owned()),
            Error::InvalidCertificate(invalid) => {
                ("spec.validation".to_owned(), format!("its certificate is not good: {invalid}"))
            }
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                (TARGETS.to_owned(), "the server does not speak what the client does (ALPN)".to_owned())
            }
            Error::AlertReceived(AlertDescription::UnrecognisedName) => {
                (HOSTNAME.to_owned(), format!("the server is not {}", self.tls.hostname))
            }
            Error::AlertReceived(AlertDescription::CertificateRequired) => {
                (TARGETS.to_owned(), "the server asks for a certificate, and none is shown".to_owned())
            }
            Error::AlertReceived(alert) => {
                (TARGETS.to_owned(), format!("the server refused the handshake with alert {alert:?}"))
            }
            Error::InvalidMessage(_) => (TARGETS.to_owned(), "what answers does not speak TLS".to_owned()),
            other => (TARGETS.to_owned(), other.to_string()),
        }
    }

    fn failed(&self, address: SocketAddr, field: String, why: &str) -> UpstreamError {
        let OriginatedTls { by, hostname, .. } = &*self.tls;
        let field = match by {
            TlsAsker::Policy(_) => field,
            TlsAsker::Url(_) => "spec.hosts".to_owned(),
        };
        let message = format!("TLS to {hostname} at {address} failed: {why} ({by}, {field})");
        tracing::debug!("{message}");
        let decision = Decision::new(by.decider(), field, Effect::Failed);
        failed(Some(decision), message)
    }
}

const HOSTNAME: &str = "spec.validation.hostname";
/// Where something is the matter with the server, and nothing with what the policy expects of it.
const TARGETS: &str = "spec.targetRefs";

/// Nothing was sent.
fn failed(by: Option<Decision>, message: String) -> UpstreamError {
    let denied = Denied { reason: TLS_FAILED.to_owned(), by };
    UpstreamError {
        denied: Some(Box::new(denied)),
        ..UpstreamError::safe(UpstreamErrorKind::OutsideTls, message)
    }
}

impl SystemRoots {
    async fn get(&self) -> Result<Arc<RootCertStore>, String> {
        let mut read = self.read.lock().await;
        if let Some((at, roots)) = &*read
            && at.elapsed() < SYSTEM_AGE
        {
            return Ok(roots.clone());
        }
        let found = tokio::task::spawn_blocking(system::authorities).await;
        let found = found.map_err(|error| error.to_string())?;
        let before = read.take().map(|(_, roots)| roots);
        let roots = match (found, before) {
            // As long as they are the same, so is what is made of them.
            (Ok(found), Some(before)) if found.roots == before.roots => before,
            (Ok(found), _) => Arc::new(found),
            (Err(error), Some(before)) => {
                tracing::debug!("whom this host trusts stays as it was: {error}");
                before
            }
            (Err(error), None) => return Err(error.to_string()),
        };
        *read = Some((Instant::now(), roots.clone()));
        Ok(roots)
    }
}
