//! What things cost in memory whose size is not looked at, in bytes. Each is at least what it was measured
//! to be: a sum of them is a bound, not a forecast.

/// A client's connection: its task, its socket, and [`WAITING`].
pub const CONNECTION: usize = 8 << 10;
/// What HTTP/2 adds to a connection: tables of both directions, settings, the map of streams.
pub const HTTP2: usize = 40 << 10;
/// What TLS adds: keys, and what of a record was not whole yet.
pub const TLS: usize = 24 << 10;
/// A TLS handshake under way.
pub const HANDSHAKE: usize = 48 << 10;
/// A connection to an application, and [`WAITING`].
pub const APPLICATION: usize = 8 << 10;
/// A request: its task with all that is decided on its way, and its stream or exchange on the other side.
pub const REQUEST: usize = 16 << 10;
pub use tulle_model::head::{FIELD_COST as FIELD, cost as fields};

/// What of a message's body may wait in the buffers of a connection or stream within what that costs anyway. More
/// is charged while it waits, and who can get no more memory goes on with as much.
pub const WAITING: usize = 4 << 10;
