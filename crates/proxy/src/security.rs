//! How traffic is protected on its way to an endpoint.

/// How an edge's traffic is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Security {
    MutualTls,
    SameNode,
    Plaintext,
    /// To the outside of the mesh, where the node has originated it.
    Tls,
    /// Nothing of it can have reached an endpoint.
    Unsent,
}

impl Security {
    /// As metrics, the access log and the server's API have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mtls",
            Self::SameNode => "same-node",
            Self::Plaintext => "plaintext",
            Self::Tls => "tls",
            Self::Unsent => "-",
        }
    }
}
