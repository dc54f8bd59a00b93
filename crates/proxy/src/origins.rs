//! The TLS that this node originates, by the policies that ask for it, on one worker.
//!
//! Each BackendTLSPolicy has an origin, with the TLS that it asks for ([`crate::originate`]) and the HTTP connections in that: they are of
//! nobody's whose certificate is held against something else. An origin is made by the first who goes there, and gives way to another
//! when the policy says something else.

use std::cell::{OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tulle_model::snapshot::{FastMap, OriginatedTls, TlsAsker};

use crate::app_pool::AppPool;
use crate::clock::MeshClock;
use crate::connect::Callee;
use crate::error::UpstreamError;
use crate::originate::{Speaks, SystemRoots, TlsDialer, TlsSocket};

/// What asks for it, and the server.
type OriginKey = (TlsAsker, Arc<str>);

/// All of a worker.
pub(crate) struct Origins {
    clock: Arc<MeshClock>,
    /// As whom the node connects.
    elsewhere: Callee,
    system: Rc<SystemRoots>,
    known: RefCell<FastMap<OriginKey, Rc<TlsOrigin>>>,
}

/// The TLS of one policy.
pub(crate) struct TlsOrigin {
    /// The same, as somebody was told of it last.
    tls: RefCell<Arc<OriginatedTls>>,
    link: Rc<TlsDialer>,
    pool: OnceCell<AppPool>,
}

impl Origins {
    pub fn new(clock: Arc<MeshClock>, elsewhere: Callee) -> Self {
        Self { clock, elsewhere, system: Rc::default(), known: RefCell::default() }
    }

    /// The origin for that TLS.
    pub fn of(&self, tls: &Arc<OriginatedTls>) -> Rc<TlsOrigin> {
        let mut known = self.known.borrow_mut();
        let key = (tls.by.clone(), tls.hostname.clone());
        if let Some(origin) = known.get(&key) {
            if Arc::ptr_eq(&origin.tls.borrow(), tls) {
                return origin.clone();
            }
            // Workloads are told of it each by itself.
            if **origin.link.tls() == **tls {
                *origin.tls.borrow_mut() = tls.clone();
                return origin.clone();
            }
        }
        // Those that nobody is told of any more have nothing to wait for.
        known.retain(|_, origin| origin.is_told_of());
        let link = TlsDialer::new(tls.clone(), self.clock.clone(), self.elsewhere, self.system.clone());
        let origin =
            Rc::new(TlsOrigin { tls: RefCell::new(tls.clone()), link: Rc::new(link), pool: OnceCell::new() });
        known.insert(key, origin.clone());
        origin
    }
}

impl TlsOrigin {
    /// Whether somebody is told of its TLS but it.
    fn is_told_of(&self) -> bool {
        let tls = self.tls.borrow();
        let own = if Arc::ptr_eq(&tls, self.link.tls()) { 2 } else { 1 };
        Arc::strong_count(&tls) > own
    }

    /// Its HTTP connections; `plain`: those that are in none, whose bounds they have.
    pub fn pool(&self, plain: &AppPool) -> &AppPool {
        self.pool.get_or_init(|| plain.in_tls(self.link.clone()))
    }

    /// Opens a connection.
    pub async fn connect(&self, address: SocketAddr, speaks: Speaks) -> Result<TlsSocket, UpstreamError> {
        self.link.connect(address, speaks).await
    }
}
