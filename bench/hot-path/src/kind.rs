//! The kinds of requests whose instructions are counted.

use clap::ValueEnum;
use tulle_model::snapshot::AppProtocol;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// GET with an answer of 1 KiB, HTTP/1.1 on both sides, on one connection, across a link
    Http1,
    /// The same with both workloads on one node
    Http1OneNode,
    /// The same across a link, each on a connection of its own
    Http1Connect,
    /// The same over HTTP/2 on both sides
    Http2,
    /// A unary gRPC call with 64 bytes each way
    GrpcUnary,
    /// 64 opaque bytes there and back, on one connection
    Tcp,
    /// The same, each on a connection of its own
    TcpConnect,
}

impl Kind {
    /// What the service's port is declared to speak.
    pub fn protocol(self) -> AppProtocol {
        match self {
            Self::Http1 | Self::Http1OneNode | Self::Http1Connect => AppProtocol::Http1,
            Self::Http2 | Self::GrpcUnary => AppProtocol::Http2,
            Self::Tcp | Self::TcpConnect => AppProtocol::Tcp,
        }
    }

    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
