//! What somebody else is asked about a request that is to enter a workload, and what he says: `inbound` asks, `http::external` sends it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tulle_model::identity::SpiffeId;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::external::{ExternalAuth, ExternalEdits};

use crate::http::body::Body;
use crate::state::LocalWorkload;

/// What is asked.
pub(crate) struct Inquiry<'a> {
    pub source: Comer<'a>,
    /// For whom the request is, who asks.
    pub workload: &'a Arc<LocalWorkload>,
    /// Where its process is reached.
    pub process: SocketAddr,
    pub policy: &'a NamespacedName,
    pub external: &'a ExternalAuth,
    /// As the application would get it.
    pub head: &'a Parts,
    /// All of it, where that is told.
    pub body: Option<Bytes>,
}

/// Who comes with the request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Comer<'a> {
    Mesh(&'a SpiffeId),
    Outside(SocketAddr),
}

/// What is said.
pub(crate) enum Finding {
    Admits(Admitted),
    /// That is what the client gets.
    Denies(Response<Body>),
}

/// What is done to what is let in.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// To the request's headers.
    pub request: ExternalEdits,
    /// To those of the application's answer.
    pub response: ExternalEdits,
}

/// Marks the head of an inquiry: nobody is asked about that in its turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IsInquiry;

/// Marks an answer that somebody has given who was asked, and that is passed on as it is; with what is said of it in logs.
#[derive(Debug, Clone)]
pub(crate) struct ByExternal(pub Arc<str>);
