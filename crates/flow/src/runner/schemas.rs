//! What a run asks, answered; with schemas that are elsewhere (dsl-reference.md, "External Resource").

use std::collections::VecDeque;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::history::RunName;
use tulle_model::flow::http::{Arguments, CallRequest};
use tulle_model::flow::run::{EvaluationKind, ToEvaluate};
use tulle_model::flow::scope::Millis;
use tulle_model::flow::workflow::{CallEndpoint, SchemaSource};

use super::Surroundings;
use super::book::Book;
use super::caller::{Caller, OutgoingCall};
use super::clock::Clock;
use super::masks::Masks;
use super::replay::no_secrets;
use super::secrets::{Lost, RunSecrets};
use super::tokens::{self, Asking, FETCHED_WITHIN, MOST_FETCHED};
use crate::arguments;
use crate::evaluator::Evaluator;
use crate::questions::{about, answer};
use crate::schema::check;
use crate::scoped::{Scoped, Unanswered};

/// How many schemas are kept, and how large they may be together.
const MOST_KEPT: usize = 64;
const MOST_BYTES: usize = 8 << 20;
/// For how long, in milliseconds.
const FRESH: Millis = 60_000;

/// What a question has come to.
pub(super) enum Settled {
    Answer(Value),
    /// A schema that is elsewhere holds.
    Checked,
    Fault(Fault),
    /// It may be asked again.
    Later,
}

/// Answers a question of a run.
pub(super) async fn settle<B: Book, C: Caller, K: Clock>(
    shared: &Surroundings<B, C, K>,
    evaluator: &Evaluator,
    secrets: &RunSecrets,
    question: &ToEvaluate<'_>,
) -> Result<Settled, Lost> {
    let outcome = match answer(question, evaluator, &no_secrets()).await {
        Err(Unanswered::Elsewhere) => match question.asked {
            EvaluationKind::Schema(source @ SchemaSource::At(endpoint)) => {
                let known = secrets.get(&shared.book).await?;
                let mut masks = Masks::of(&known);
                let scoped = Scoped::new(evaluator, &question.scope, &known);
                let fetched = fetched(shared, &secrets.run, &scoped, endpoint, &mut masks).await;
                let checked = match fetched {
                    Ok(document) => check(evaluator, &document, &question.scope.on).await,
                    Err(why) => Err(why),
                };
                match checked {
                    Ok(()) => return Ok(Settled::Checked),
                    Err(why) => match about(why, source, &question.scope) {
                        Unanswered::Fault(fault) => Err(Unanswered::Fault(masks.of_fault(fault))),
                        why => Err(why),
                    },
                }
            }
            _ => Err(Unanswered::Elsewhere),
        },
        outcome => outcome,
    };
    Ok(match outcome {
        Ok(value) => Settled::Answer(value),
        Err(Unanswered::Fault(fault)) => Settled::Fault(fault),
        Err(Unanswered::Later(_)) => Settled::Later,
        Err(Unanswered::Elsewhere) => Settled::Fault(FaultKind::Runtime.fault("no schema is asked for")),
    })
}

/// The schema at an endpoint.
async fn fetched<B: Book, C: Caller, K: Clock>(
    shared: &Surroundings<B, C, K>,
    run: &RunName,
    scoped: &Scoped<'_>,
    endpoint: &CallEndpoint,
    masks: &mut Masks,
) -> Result<Arc<Value>, Unanswered> {
    let scope = scoped.scope();
    let uri = arguments::uri(&endpoint.uri, scoped).await?;
    // What is shown to one may be nothing for another.
    let key = endpoint.authentication.is_none().then(|| [&*run.namespace, &run.flow, &uri].join("\0"));
    if let Some(schema) = key.as_ref().and_then(|key| shared.schemas.get(key, shared.clock.now())) {
        return Ok(schema);
    }
    let arguments = Arguments { method: "get".into(), uri, ..Arguments::default() };
    let CallRequest { uri, .. } = CallRequest::new(&arguments)?;
    let path: Arc<str> =
        scope.task.as_ref().map_or_else(|| "".into(), |task| scope.workflow.task(task.id).reference.clone());
    let mut headers = HeaderMap::new();
    if let Some(authentication) = &endpoint.authentication {
        let asking = Asking { shared, run, path: &path };
        let authorized = tokens::authorize(asking, authentication, scoped, masks, false).await?;
        headers.insert(AUTHORIZATION, authorized.authorization.header()?);
    }
    let at = uri.to_string();
    let call = OutgoingCall {
        run: run.clone(),
        path,
        method: Method::GET,
        shown_path: masks.shown_path(&uri),
        uri,
        headers,
        body: bytes::Bytes::new(),
        most_answer: MOST_FETCHED,
        within: FETCHED_WITHIN,
    };
    let answer = shared.send(call).await?;
    let wrong = |why: String| FaultKind::Communication.fault(format!("the schema at {at} {why}"));
    if answer.status != StatusCode::OK {
        return Err(wrong(format!("was answered with {}", answer.status.as_u16())).into());
    }
    let schema = serde_json::from_slice(&answer.body).map_err(|why| wrong(format!("is no JSON: {why}")))?;
    let schema = Arc::new(schema);
    if let Some(key) = key {
        shared.schemas.keep(key, &schema, answer.body.len(), shared.clock.now());
    }
    Ok(schema)
}

/// Schemas that were fetched lately.
#[derive(Default)]
pub(super) struct SchemaCache(Mutex<VecDeque<KeptSchema>>);

struct KeptSchema {
    key: String,
    schema: Arc<Value>,
    bytes: usize,
    until: Millis,
}

impl SchemaCache {
    fn get(&self, key: &str, now: Millis) -> Option<Arc<Value>> {
        let kept = self.0.lock();
        kept.iter().find(|kept| kept.key == key && kept.until > now).map(|kept| kept.schema.clone())
    }

    fn keep(&self, key: String, schema: &Arc<Value>, bytes: usize, now: Millis) {
        let mut kept = self.0.lock();
        kept.retain(|kept| kept.key != key && kept.until > now);
        kept.push_back(KeptSchema { key, schema: schema.clone(), bytes, until: now.saturating_add(FRESH) });
        // The oldest goes first.
        while kept.len() > MOST_KEPT || kept.iter().map(|kept| kept.bytes).sum::<usize>() > MOST_BYTES {
            drop(kept.pop_front());
        }
    }
}
