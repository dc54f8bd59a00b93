//! What the node does with the server: joins, gets certificates, is told the configuration, reports.
//! All of it goes on without the server; nothing here is on a request's path but the first use of a
//! service.

pub mod advertise;
pub mod assemble;
mod channel;
pub mod credential;
pub mod discovery;
pub mod identities;
pub mod join;
pub mod jwt;
pub mod keys;
pub mod report;
pub mod seen;
pub mod services;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tonic::transport::Channel;
use tulle_identity::Svid;
use tulle_model::identity::{InvalidIdentity, SpiffeId, TrustDomain};
use tulle_proxy::clock::MeshClock;
use tulle_wire::flow::flow_service_client::FlowServiceClient;
use tulle_wire::node::node_service_client::NodeServiceClient;
use tulle_wire::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

pub(crate) use self::channel::explain_status;
use crate::backoff::Backoff;
use crate::dialer::Dialer;

/// How large a message of the server may be.
const MOST_MESSAGE_BYTES: usize = 64 << 20;

/// How long a single call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// The server as a node that has joined sees it. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

/// This process of the node, as the server tells it from others of the node's name.
#[derive(Debug)]
pub struct NodeInstance {
    pub id: String,
    /// The present boot of the kernel: a clone of the host has another. Empty where the kernel does not say.
    pub boot_id: String,
}

impl NodeInstance {
    fn this() -> Self {
        Self { id: format!("{:016x}", rand::random::<u64>()), boot_id: tulle_sys::boot_id() }
    }
}

struct Inner {
    address: String,
    dialer: Dialer,
    instance: NodeInstance,
    domain: TrustDomain,
    channel: ArcSwap<Channel>,
    clock: Arc<MeshClock>,
    /// What it is made with.
    tls: ArcSwap<rustls::ClientConfig>,
    /// Counts the certificates that the node has had, and its moves: streams that stand are made anew.
    certificates: watch::Sender<u64>,
    /// Whether the discovery stream stands.
    connected: watch::Sender<bool>,
}

impl Server {
    /// The server at `address` (`host:port`), spoken to with the node's certificate.
    pub fn new(address: &str, own: &Svid, dialer: Dialer) -> Self {
        let clock = Arc::new(MeshClock::default());
        let tls = tls::joined(own, clock.clone());
        let channel = channel::channel(address, tls.clone(), dialer);
        let inner = Inner {
            tls: ArcSwap::from_pointee(tls),
            address: address.to_owned(),
            dialer,
            instance: NodeInstance::this(),
            domain: own.identity().trust_domain(),
            channel: ArcSwap::from_pointee(channel),
            clock,
            certificates: watch::Sender::new(0),
            connected: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on the node speaks with this certificate; streams that stand are made anew.
    pub fn use_certificate(&self, own: &Svid) {
        self.inner.tls.store(Arc::new(tls::joined(own, self.inner.clock.clone())));
        self.reconnect();
    }

    /// Where it is, `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.inner.address
    }

    /// Who the server is told that this is.
    pub fn instance(&self) -> &NodeInstance {
        &self.inner.instance
    }

    /// The identity of a workload of this mesh.
    ///
    /// # Errors
    /// Where one of the names cannot be part of one.
    pub fn workload_identity(
        &self,
        namespace: &str,
        service_account: &str,
    ) -> Result<SpiffeId, InvalidIdentity> {
        SpiffeId::workload(&self.inner.domain, namespace, service_account)
    }

    /// The time of the mesh, which is the server's.
    pub fn clock(&self) -> &Arc<MeshClock> {
        &self.inner.clock
    }

    /// Leaves the connection that it has: this host's address is another one now. Streams that stand are
    /// made anew.
    pub fn reconnect(&self) {
        let tls = rustls::ClientConfig::clone(&self.inner.tls.load());
        self.inner.channel.store(Arc::new(channel::channel(&self.inner.address, tls, self.inner.dialer)));
        self.inner.certificates.send_modify(|n| *n += 1);
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.inner.domain
    }

    /// Whether the server answers, as far as is known.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.inner.connected.subscribe()
    }

    fn set_connected(&self, connected: bool) {
        self.inner.connected.send_if_modified(|now| std::mem::replace(now, connected) != connected);
    }

    pub(crate) fn certificate_changes(&self) -> watch::Receiver<u64> {
        self.inner.certificates.subscribe()
    }

    /// What it keeps of Flows.
    pub(crate) fn flows(&self) -> FlowServiceClient<Channel> {
        FlowServiceClient::new(Channel::clone(&self.inner.channel.load()))
            .max_decoding_message_size(MOST_MESSAGE_BYTES)
    }

    fn nodes(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(Channel::clone(&self.inner.channel.load()))
    }

    fn discovery(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::new(Channel::clone(&self.inner.channel.load()))
            .max_decoding_message_size(MOST_MESSAGE_BYTES)
    }
}

/// For the streams that have to stand all the time.
pub(crate) fn stream_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}
