//! What a proxy is started with, and what it is told to listen for.

use std::sync::Arc;
use std::time::Duration;

use tulle_model::name::ServiceName;

use crate::budget::Budget;
use crate::clock::MeshClock;
use crate::progress::Deadlines;
use crate::state::{Demand, Expired, StateCell, UnknownKeys};
use crate::turn::Waiting;

/// What a proxy is started with.
pub struct Config {
    /// This node's name, as endpoints carry it.
    pub node: Arc<str>,
    pub workers: usize,
    pub bounds: Bounds,
    pub state: Arc<StateCell>,
    pub demand: Demand,
    /// What connections and requests may take of the process.
    pub budget: Arc<Budget>,
    /// The time that certificates are held against.
    pub clock: Arc<MeshClock>,
    pub expired: Expired,
    pub unknown_keys: UnknownKeys,
    /// Whether the connections that it opens to elsewhere say that they are the node's own ([`tulle_sys::NODE_MARK`]): all
    /// others of its network namespace are captured.
    pub marked: bool,
}

/// The bounds that whoever runs a proxy may set: docs/limits.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// How long a link may take from its TCP connect to the end of its handshake, on both sides.
    pub link_handshake: Duration,
    /// Handshakes of links that a worker answers at a time, and peers beside them that have not said a whole
    /// ClientHello yet. Either takes milliseconds: for one more, the oldest is the likeliest to never end, and
    /// goes.
    pub link_handshakes: usize,
    /// Bytes of memory that connections and requests may take, of which whoever starts the proxy makes its
    /// [`Budget`]; `None`: what fits the host.
    pub memory: Option<u64>,
    /// How many may wait for streams of HTTP/2, and for how long.
    pub waiting: Waiting,
    /// How long what peers began may make no progress.
    pub deadlines: Deadlines,
}

impl Default for Bounds {
    fn default() -> Self {
        // Wide-area networks lose segments, and the first that is lost costs a second.
        Self {
            link_handshake: Duration::from_secs(5),
            link_handshakes: 1024,
            memory: None,
            waiting: Waiting::default(),
            deadlines: Deadlines::default(),
        }
    }
}

/// How the destination of an outbound connection is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capture {
    /// Redirected by the kernel: the destination is the connection's original address.
    Redirected,
    /// The client speaks to an HTTP proxy: absolute-form requests and CONNECT.
    HttpProxy,
    /// The listener stands for one port of one service.
    Service { service: ServiceName, port: u16 },
}
