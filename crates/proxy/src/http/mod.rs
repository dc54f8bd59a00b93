//! HTTP between a workload and the mesh.
//!
//! A client's connection is served by [`server`]; each request is brought into one form
//! ([`headers`]), routed and sent to an endpoint ([`forward`]), repeated on another where that is safe
//! ([`crate::attempts`]), kept to one of a [`session`], and counted ([`record`]). Interim answers go back by [`asker`]. Upgrades and tunnels leave HTTP in [`upgrade`], applications in [`switch`]; what came for a workload of this node as bytes is served
//! request by request in [`deliver`]; destinations
//! that an explicit proxy's client names are found in [`egress`]. Bodies are streams throughout
//! ([`body`]), recorded for another attempt in [`replay`], [`copied`] for a [`mirror`]; answers that the mesh makes itself come from [`reply`].
//! Which fields may be in [`trailers`], and what ends a broken answer of [`grpc`], is one thing for all versions.

pub(crate) mod asker;
pub mod body;
mod copied;
mod deliver;
mod egress;
pub(crate) mod external;
pub(crate) mod fault;
mod filters;
mod forward;
pub(crate) mod grpc;
pub mod headers;
pub(crate) mod http1;
pub(crate) mod letters;
pub(crate) mod limits;
pub(crate) mod link_headers;
pub(crate) mod link_upgrade;
mod max_forwards;
mod mirror;
pub(crate) mod own_calls;
pub(crate) mod record;
mod replay;
pub mod reply;
pub mod request;
pub mod respond;
mod serve_http1;
pub(crate) mod serve_http2;
pub mod server;
mod session;
pub(crate) mod spelling;
pub(crate) mod switch;
pub(crate) mod trailers;
mod upgrade;
mod websocket;

pub use tulle_model::head::{FIELD_LIMIT, HEADER_LIMIT};
