//! Histories of runs, as the server keeps them.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::timeout;
use tonic::Code;
use tulle_flow::runner::{Book, BookError};
use tulle_model::flow::history::{Append, HistoryEntry, Outcome, RunName, Then};
use tulle_model::flow::scope::Millis;
use tulle_wire::flow as wire;

use crate::control::{Server, explain_status};

/// How long the server may take for one addition.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(super) struct ServerBook {
    pub server: Server,
}

pub(super) fn reference(run: &RunName) -> wire::RunRef {
    wire::RunRef {
        namespace: run.namespace.as_ref().to_owned(),
        flow: run.flow.as_ref().to_owned(),
        run: run.run.as_ref().to_owned(),
    }
}

pub(super) fn run_id(run: wire::RunRef) -> RunName {
    RunName { namespace: run.namespace.into(), flow: run.flow.into(), run: run.run.into() }
}

/// What becomes of a call of the server, where nothing may be done of a run any more.
pub(super) fn failed(status: &tonic::Status) -> BookError {
    match status.code() {
        Code::Aborted | Code::NotFound | Code::PermissionDenied => BookError::Lost,
        // The latter: a message is larger than the server takes.
        Code::FailedPrecondition | Code::OutOfRange => BookError::Full(status.message().to_owned()),
        _ => BookError::Later(explain_status(status)),
    }
}

pub(super) fn late(_: tokio::time::error::Elapsed) -> BookError {
    BookError::Later("the server gives no answer".to_owned())
}

fn json<T: serde::Serialize>(value: &T) -> Result<bytes::Bytes, BookError> {
    let bytes = serde_json::to_vec(value).map_err(|error| BookError::Later(error.to_string()))?;
    Ok(bytes.into())
}

fn entries(entries: &[HistoryEntry]) -> Result<Vec<bytes::Bytes>, BookError> {
    entries.iter().map(json).collect()
}

fn ends(at: Millis, outcome: &Outcome) -> Result<wire::append_request::Then, BookError> {
    Ok(wire::append_request::Then::Ends(wire::RunEnds { at, outcome: json(outcome)? }))
}

impl Book for ServerBook {
    async fn append(&self, run: &RunName, append: &Append) -> Result<(), BookError> {
        use wire::append_request::Then as Said;
        let then = match &append.then {
            Then::GoesOn => Said::GoesOn(wire::RunGoesOn {}),
            Then::Waits(until) => Said::Waits(wire::RunWaits { until: *until }),
            Then::Suspended => Said::Suspended(wire::RunIsSuspended {}),
            Then::Ends(at, outcome) => ends(*at, outcome)?,
        };
        let request = wire::AppendRequest {
            run: Some(reference(run)),
            lease: append.lease,
            first: append.first,
            entries: entries(&append.entries)?,
            checkpoint: append.checkpoint.clone().map(Into::into),
            then: Some(then),
        };
        let mut client = self.server.flows();
        let answer = timeout(DEADLINE, client.append(request)).await.map_err(late)?;
        answer.map(drop).map_err(|status| failed(&status))
    }

    async fn secrets(&self, run: &RunName, lease: u64) -> Result<Value, BookError> {
        let request = wire::SecretsRequest { run: Some(reference(run)), lease };
        let mut client = self.server.flows();
        let answer = timeout(DEADLINE, client.secrets(request)).await.map_err(late)?;
        let answer = answer.map_err(|status| failed(&status))?.into_inner();
        let data = |secret: wire::SecretData| {
            Value::Object(secret.data.into_iter().map(|(key, text)| (key, text.into())).collect())
        };
        let secrets: Map<_, _> =
            answer.secrets.into_iter().map(|(name, secret)| (name, data(secret))).collect();
        Ok(Value::Object(secrets))
    }
}
