//! A workload's certificate, with what TLS needs of it: made once, where it arrives, and not by those who shake hands.

use std::sync::Arc;

use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig};
use tulle_identity::{Expected, Svid, tls};
use tulle_model::identity::SpiffeId;

use crate::clock::MeshClock;

/// The X.509-SVID of a workload. A renewed one is a new `Arc`.
pub struct WorkloadCertificate {
    svid: Svid,
    clock: Arc<MeshClock>,
    server: Arc<ServerConfig>,
}

impl WorkloadCertificate {
    /// Peers' certificates are held against the time of `clock`.
    pub fn new(svid: Svid, clock: Arc<MeshClock>) -> Self {
        let shown = Arc::new(SingleCertAndKey::from(svid.key().clone()));
        let mut server = tls::server(svid.peers(Expected::Workload), shown, clock.clone());
        server.enable_secret_extraction = true;
        Self { svid, clock, server: Arc::new(server) }
    }

    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// For the side that is connected to.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For the side that connects, to whom it expects.
    pub(crate) fn client(&self, expected: &SpiffeId) -> ClientConfig {
        let expected = self.svid.peers(Expected::Exactly(expected.clone()));
        let mut client = tls::client(expected, Some(&self.svid), self.clock.clone());
        client.enable_secret_extraction = true;
        client
    }
}
