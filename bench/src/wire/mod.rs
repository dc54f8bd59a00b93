//! The protocols as both ends speak them, without sockets: bytes go in, what they mean comes out.

pub mod hpack;
pub mod http1;
pub mod http2;
