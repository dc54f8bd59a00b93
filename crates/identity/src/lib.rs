//! Who is at the other end: the check of certificates, once for proxy, node, server and commands.
//!
//! | who checks | whom | by which roots | as whom it is taken | at what time |
//! |---|---|---|---|---|
//! | a node that opens a link | the other node | those of its workload's own certificate | the identity that discovery promised | the mesh's |
//! | a node that takes a link | the other node | those of the certificate that it answers with | any workload of the trust domain | the mesh's |
//! | a node that joins | the server | the one that its token names, sent along | a server of any trust domain | its own |
//! | a node that has joined | the server | those of its own certificate | a server of the trust domain | the mesh's |
//! | the server's port for nodes | nodes | the authority's | anybody of the trust domain, or nobody: calls ask for more | its own, which is the mesh's |
//! | the API | its users | the API's, which can be replaced | whoever has a certificate, or nobody | its own |
//! | commands | the API | the kubeconfig's | the server of that name | their own |
//! | a node, for a workload | a server of the outside ([`outside`]) | those that a BackendTLSPolicy names | the names that it has | the mesh's |
//! | a node that is asked to | a token ([`jwt_svid`]) | the mesh's keys of tokens | a workload of the trust domain | the mesh's |
//! | a node, for a workload | a token ([`jwt`]) | the keys of its issuer, as a policy names it | what it says | the mesh's |
//!
//! The first five are [`Peers`], and check X.509-SVIDs (X509-SVID standard, section 5): a chain to a root (RFC 5280) for
//! the use that is made of the certificate, a leaf that may sign handshakes and no certificates, exactly one URI name,
//! which is a SPIFFE ID. That a certificate's life has not begun is not held against it: see
//! [`tulle_model::clock::verification_time`]. The API is Kubernetes', and its certificates carry no SPIFFE ID: [`Users`],
//! and rustls' own check of a server's name. The test of this crate holds certificates of all sorts against the first seven.

mod certificate;
pub mod jwt;
pub mod jwt_svid;
pub mod outside;
mod own;
mod peers;
mod refusal;
mod roots;
pub mod system;
pub mod tls;
mod users;

pub use self::certificate::{Certificate, Fingerprint, NoIdentity, fingerprint, validity};
pub use self::own::{InvalidSvid, Svid};
pub use self::peers::{Expected, Peers};
pub use self::refusal::{Kind, Refusal};
pub use self::roots::{InvalidRoots, Roots, Use, store};
pub use self::users::Users;

#[cfg(test)]
mod tests;
