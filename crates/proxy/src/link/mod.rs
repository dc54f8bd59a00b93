//! Links: the mTLS HTTP/2 connections between nodes. Requests are HTTP/2 requests with a few internal
//! headers; opaque connections are CONNECT streams (HBONE).

pub mod client;
pub mod server;
pub mod stream;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tulle_model::stamp::{Revoked, Stamp};

use crate::budget::cost;
use crate::certificate::WorkloadCertificate;
use crate::departing::Ending;
use crate::http::{FIELD_LIMIT, HEADER_LIMIT};
use crate::http2::{Handle, Limits, WhenReset};
use crate::local::Local;
use crate::mesh_headers;
use crate::metrics::Count;

/// What the mesh's own headers may add to a head on a link.
const OWN_HEADERS: u32 = 8 << 10;
const OWN_FIELDS: u32 = 32;

/// What one end of a link allows the other. What the first door takes of a client or an application fits in any
/// case, and [`client`] resets less than that, whatever clients do: a link is not charged for them.
pub(crate) const LIMITS: Limits = Limits {
    stream_window: 1 << 20,
    connection_window: 8 << 20,
    frame: 64 << 10,
    header_list: HEADER_LIMIT as u32 + OWN_HEADERS,
    fields: FIELD_LIMIT as u32 + OWN_FIELDS,
    streams: 1000,
    resets: 8000,
    resets_per_second: 2000,
    when_reset: WhenReset::Wait,
    extended_connect: true,
    names: &mesh_headers::FREQUENT,
};
/// What a link costs beside its streams.
const LINK_COST: usize = cost::CONNECTION + cost::HTTP2 + cost::TLS;
/// How long the peer may take to end its side of a link that was ended on ours.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

/// A link is asked whether it lives that often, and has so long to answer: a dead peer is found in 10 s.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(4);
pub(crate) const PING_DEADLINE: Duration = Duration::from_secs(5);

/// Counts the faults of a link's peer, as they are seen.
struct Faults<'c> {
    handle: Handle,
    counted: Cell<u64>,
    count: &'c Count,
}

impl<'c> Faults<'c> {
    fn of(handle: Handle, count: &'c Count) -> Self {
        Self { handle, counted: Cell::new(0), count }
    }

    fn look(&self) {
        let seen = self.handle.faults();
        self.count.add(seen - self.counted.replace(seen));
    }
}

impl Drop for Faults<'_> {
    fn drop(&mut self) {
        self.look();
    }
}

/// Whether a root that `certificate` came with is not trusted any more: a link that was opened with it
/// may be to a peer that would be refused now.
fn is_distrusted(local: &Local, certificate: &WorkloadCertificate) -> bool {
    let state = local.view();
    let own = certificate.svid();
    let mut now = state.workloads.values().filter(|w| w.identity == *own.identity());
    let Some(now) = now.find_map(|w| w.certificate.as_ref()) else { return false };
    !std::ptr::eq(&**now, certificate) && !now.svid().roots().include(own.roots())
}

/// Says when a link has to end because its peer's node is revoked.
fn watch_revocation(local: &Local, stamp: Option<Stamp>) -> Ending {
    local.revocable.watch(stamp, &local.view().snapshot.mesh.revoked)
}

/// Ends the links to and from nodes that are revoked, as the list of them changes, for as long as the worker runs.
pub(crate) async fn follow(local: Rc<Local>) {
    let mut changes = local.state.subscribe();
    let mut last = Arc::<Revoked>::default();
    loop {
        changes.mark_unchanged();
        let now = local.view().snapshot.mesh.revoked.clone();
        if !Arc::ptr_eq(&now, &last) {
            let count = local.revocable.end(&now);
            if count > 0 {
                tracing::warn!(count, "links are ended: the nodes at their other ends were revoked");
            }
            last = now;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
