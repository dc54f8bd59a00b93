//! How requests of flows get to where they go.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tulle_model::flow::fault::Fault;
use tulle_model::flow::history::RunName;

/// A request of a run.
#[derive(Debug, Clone)]
pub struct OutgoingCall {
    pub run: RunName,
    /// Which of the run's tasks makes it, as `tulle_model::flow::run::Call::path`; empty: it is for the workflow as a whole.
    pub path: Arc<str>,
    pub method: Method,
    /// With scheme and host.
    pub uri: Uri,
    /// The path of the URI as it may be shown, where something in it is secret.
    pub shown_path: Option<Arc<str>>,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How many bytes the answer's body may have.
    pub most_answer: usize,
    /// How long it may take altogether.
    pub within: Duration,
}

#[derive(Debug, Clone)]
pub struct CallAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The request's trace (W3C Trace Context, `trace-id`).
    pub trace: Option<Arc<str>>,
}

/// Makes calls, as the identity of the run's flow. Redirects are not followed. A call that is dropped is given up.
pub trait Caller: Send + Sync + 'static {
    fn call(&self, call: OutgoingCall) -> impl Future<Output = Result<CallAnswer, Fault>> + Send;
}
