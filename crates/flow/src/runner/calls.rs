//! A call of a task: its arguments, evaluated where it is made, and what becomes of the answer.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{HeaderName, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::timeout;
use tulle_model::flow::expression::Template;
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::history::{CallRecord, RunName};
use tulle_model::flow::http::Answer;
use tulle_model::flow::run::{AskId, Call};
use tulle_model::flow::scope::Millis;
use tulle_model::flow::secret_keys;
use tulle_model::flow::workflow::{HttpCall, HttpOutput, Task, TaskKind};
use tulle_model::fnv::fnv1a;

use super::Surroundings;
use super::backoff::Pause;
use super::book::Book;
use super::caller::{CallAnswer, Caller, OutgoingCall};
use super::clock::Clock;
use super::masks::{Masks, beginning};
use super::secrets::{Lost, RunSecrets};
use super::tokens::{self, Asking};
use crate::arguments;
use crate::evaluator::Evaluator;
use crate::scoped::{Scoped, Unanswered};

/// By which a service knows a request that it has had before (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key that says in words what it is of, in bytes: services store them.
const LONGEST_KEY: usize = 200;
/// How many characters of an endpoint are kept.
const MOST_SHOWN: usize = 2048;
/// An answer may be larger than what becomes of it, by so much: blanks, and fields that are left out.
const ANSWER_TO_OUTPUT: usize = 4;

/// What came of a call. Nothing secret is in it.
pub(super) struct CallDone {
    pub(super) ask: AskId,
    pub(super) at: Millis,
    pub(super) result: Result<Arc<Value>, Fault>,
}

/// How a call was made, once it is sent: whoever cuts it off can still say that.
pub(super) type Sent = Arc<Mutex<Option<CallRecord>>>;

/// Makes a call, however long it takes until its arguments can be evaluated.
pub(super) async fn make<B: Book, C: Caller, K: Clock>(
    shared: Arc<Surroundings<B, C, K>>,
    evaluator: Evaluator,
    secrets: Arc<RunSecrets>,
    call: Call,
    sent: Sent,
) -> Result<CallDone, Lost> {
    let workflow = &call.scope.workflow;
    let task = workflow.task(call.task);
    let mut pause = Pause::default();
    loop {
        let known = secrets.get(&shared.book).await?;
        let mut masks = Masks::of(&known);
        let made = match &task.kind {
            TaskKind::Call(http) => {
                let (shared, evaluator, run) = (&*shared, &evaluator, &secrets.run);
                let making = Making { shared, evaluator, run, call: &call, secrets: &known, sent: &sent };
                making.make(task, http, &mut masks).await
            }
            _ => Err(FaultKind::Runtime.fault("the task is no call").into()),
        };
        let result = match made {
            Ok(mut output) => {
                masks.mask(&mut output);
                Ok(Arc::new(output))
            }
            Err(Unanswered::Fault(fault)) => Err(masks.of_fault(fault)),
            Err(Unanswered::Elsewhere) => Err(FaultKind::Runtime.fault("a call asks for no schema")),
            Err(Unanswered::Later(_)) => {
                pause.pass().await;
                continue;
            }
        };
        return Ok(CallDone { ask: call.ask, at: shared.clock.now(), result });
    }
}

/// A call that is being made.
struct Making<'c, B, C, K> {
    shared: &'c Surroundings<B, C, K>,
    evaluator: &'c Evaluator,
    run: &'c RunName,
    call: &'c Call,
    secrets: &'c Arc<Value>,
    sent: &'c Sent,
}

impl<B: Book, C: Caller, K: Clock> Making<'_, B, C, K> {
    async fn make(&self, task: &Task, http: &HttpCall, masks: &mut Masks) -> Result<Value, Unanswered> {
        let Self { shared, evaluator, run, call, secrets, sent } = *self;
        if http.names_secrets() || task.has_secret_input() {
            // What is not there would be null, and be sent as that.
            let is_missing = |name: &&Arc<str>| secrets.get(&***name).is_none();
            if let Some(name) = call.scope.workflow.secrets.iter().find(is_missing) {
                let why = format!(
                    "the Secret {name} of `use.secrets` is not there, or the Flow's service account may not `get` it: \
                     make it, or bind a Role that lets it"
                );
                return Err(FaultKind::Configuration.fault(why).into());
            }
        }
        if let Some(why) = missing_key(task, http, secrets) {
            return Err(FaultKind::Configuration.fault(why).into());
        }
        let mut scope = call.scope.clone();
        if let Some(from) = task.input.template.as_ref().filter(|_| task.has_secret_input()) {
            let input = Scoped::new(evaluator, &call.scope, secrets).template(from).await?;
            scope = call.scope.given(Arc::new(input));
        }
        let scoped = Scoped::new(evaluator, &scope, secrets);
        let asking = Asking { shared, run, path: &call.path };
        let mut is_again = false;
        loop {
            let authorized = match &http.endpoint.authentication {
                Some(authentication) => {
                    Some(tokens::authorize(asking, authentication, &scoped, masks, is_again).await?)
                }
                None => None,
            };
            let authorization = authorized.as_ref().map(|authorized| &authorized.authorization);
            let mut request = arguments::request(http, &scoped, authorization).await?;
            request.headers.entry(IDEMPOTENCY_KEY).or_insert_with(|| idempotency_key(&run.run, call));
            *sent.lock() = Some(CallRecord {
                began: shared.clock.now(),
                method: request.method.as_str().into(),
                endpoint: beginning(&masks.masked(&request.uri.to_string()), MOST_SHOWN).into(),
                status: None,
                trace: None,
            });
            let most = scope.run.most_bytes;
            let answer = shared
                .send(OutgoingCall {
                    run: run.clone(),
                    path: call.path.clone(),
                    method: request.method.clone(),
                    uri: request.uri.clone(),
                    shown_path: masks.shown_path(&request.uri),
                    headers: request.headers.clone(),
                    body: std::mem::take(&mut request.body).into(),
                    most_answer: most.saturating_mul(ANSWER_TO_OUTPUT),
                    within: shared.limits.longest_call,
                })
                .await?;
            if let Some(record) = &mut *sent.lock() {
                record.status = Some(answer.status.as_u16());
                record.trace = answer.trace.clone();
            }
            if answer.status == StatusCode::UNAUTHORIZED
                && !is_again
                && authorized.as_ref().is_some_and(|authorized| authorized.is_from_before)
            {
                is_again = true;
                continue;
            }
            let CallAnswer { status, headers, mut body, .. } = answer;
            // What is cut off or encoded below shows nothing of a secret by which it could be known.
            let is_cut = !status.is_success() || http.output == HttpOutput::Raw;
            if is_cut || std::str::from_utf8(&body).is_err() {
                body = masks.of_bytes(body);
            }
            return Ok(http.output_of(&request, &Answer { status, headers: &headers, body: &body }, most)?);
        }
    }
}

/// Why what a call takes of a Secret is not in it: it would be null, and a header be left out.
fn missing_key(task: &Task, http: &HttpCall, secrets: &Value) -> Option<String> {
    let input = task.input.template.as_ref().filter(|_| task.has_secret_input());
    let of_input = input.into_iter().flat_map(Template::expressions);
    let all = http.expressions().into_iter().chain(of_input);
    let named = all.filter(|expression| expression.variables_used().any(|name| name == "secrets"));
    let is_missing =
        |(name, key): &(&str, &str)| secrets.get(*name).is_some_and(|secret| secret.get(*key).is_none());
    let (name, key) = named.flat_map(|expression| secret_keys(expression.text())).find(is_missing)?;
    Some(format!(
        "the Secret {name} has no key `{key}`, which the call takes of it: add it to the Secret, or name a key that it has"
    ))
}

impl<B, C: Caller, K> Surroundings<B, C, K> {
    /// Has a request answered within its time.
    pub(super) async fn send(&self, call: OutgoingCall) -> Result<CallAnswer, Fault> {
        let within = call.within;
        let most = call.most_answer;
        let late = |_| {
            let why = format!("the call was not answered within {} s", within.as_secs());
            FaultKind::Timeout.fault(why)
        };
        let answer = timeout(within, self.caller.call(call)).await.map_err(late)??;
        if answer.body.len() > most {
            let why = format!("the answer has more than {most} bytes");
            return Err(FaultKind::Runtime.fault(why));
        }
        Ok(answer)
    }
}

/// Which call of which run it is: the same whenever it is made, until the run is gone back to an earlier state.
fn idempotency_key(run: &str, call: &Call) -> HeaderValue {
    let again = if call.retries > 0 { format!("~{}", call.retries) } else { String::new() };
    let readable = format!("{run}{again}{}", call.path);
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\,;".contains(&byte);
    let text = if readable.len() <= LONGEST_KEY && readable.bytes().all(is_plain) {
        readable
    } else {
        let [first, second] = ["", "~"].map(|before| fnv1a([before.as_bytes(), readable.as_bytes()]));
        format!("{run}{again}/{first:016x}{second:016x}")
    };
    // Runs are named by who starts them, in letters that a header takes.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}
