//! Requests that an application within this process makes as a workload of this node ([`crate::in_process`]). Each says where it goes,
//! and goes the way of a client's request from there on.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::Scheme;
use http::{Request, Response};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tulle_model::name::WorkloadName;

use crate::http::asker::Asker;
use crate::http::body::Body;
use crate::http::server::{ConnectionContext, HttpDestination, answer};
use crate::in_process::FlowStep;
use crate::worker::Worker;

/// How many calls may wait for a worker to take them.
pub(crate) const WAITING: usize = 1024;

/// A request that a workload of this node makes.
#[derive(Debug)]
pub struct OwnCall {
    pub workload: WorkloadName,
    pub step: FlowStep,
    /// With an absolute URI.
    pub request: Request<Bytes>,
    /// How long the body of the answer may be, in bytes.
    pub most_answer: usize,
    /// How long all of it may take.
    pub time: Duration,
}

/// Why a call has no answer. What the mesh itself answers is one, with `tulle-reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnCallError {
    #[error("the workload {0} is not on this node")]
    NoWorkload(WorkloadName),
    #[error("more calls wait than are made: try again later")]
    Busy,
    #[error("the node is stopping")]
    Stopping,
    #[error("there was no answer within {0:?}")]
    Late(Duration),
    #[error("the answer is over {0} bytes")]
    TooLarge(usize),
    #[error("the answer broke off: {0}")]
    Broken(String),
}

/// A call, and who waits for its answer.
pub(crate) struct WaitingCall {
    pub call: OwnCall,
    pub answer: oneshot::Sender<Result<Response<Bytes>, OwnCallError>>,
}

/// Makes the calls that come, on this worker, until nobody can ask for any more.
pub(crate) async fn serve(worker: Rc<Worker>, mut calls: mpsc::Receiver<WaitingCall>) {
    while let Some(WaitingCall { call, mut answer }) = calls.recv().await {
        let worker = worker.clone();
        let tracked = worker.local.connections.token();
        tokio::task::spawn_local(async move {
            let made = make(worker, call);
            tokio::select! {
                // Nobody waits for it any more.
                () = answer.closed() => {}
                made = made => drop(answer.send(made)),
            }
            drop(tracked);
        });
    }
}

async fn make(worker: Rc<Worker>, call: OwnCall) -> Result<Response<Bytes>, OwnCallError> {
    let OwnCall { workload, step, request, most_answer, time } = call;
    let end = Instant::now() + time;
    let source = worker.local.workload(&workload).ok_or(OwnCallError::NoWorkload(workload))?;
    let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
    let cx = Rc::new(ConnectionContext::new(worker, source, HttpDestination::Own { secure }));
    let (mut head, body) = request.into_parts();
    head.extensions.insert(step);
    // As a client of HTTP/1.1 says it (RFC 9112, section 3.2).
    if let Some(host) = head.uri.authority().and_then(|host| HeaderValue::try_from(host.as_str()).ok()) {
        head.headers.insert(HOST, host);
    }
    let late = |_| OwnCallError::Late(time);
    let answering = answer(&cx, &mut head, Body::whole(body), None, None, Asker::Nobody);
    let (parts, body) = timeout_at(end, answering).await.map_err(late)?.into_parts();
    let whole = timeout_at(end, body.collect_at_most(most_answer)).await.map_err(late)?;
    match whole.map_err(|error| OwnCallError::Broken(error.to_string()))? {
        Some(whole) => Ok(Response::from_parts(parts, whole)),
        None => Err(OwnCallError::TooLarge(most_answer)),
    }
}
