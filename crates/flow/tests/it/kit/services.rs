//! What answers the calls of a scenario.

use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tulle_flow::runner::{CallAnswer, Caller, Clock, OutgoingCall};
use tulle_model::flow::duration;
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::http::CallRequest;
use tulle_model::flow::scope::Millis;

use super::driver::World;
use crate::memory::TestClock;

/// An answer, and after how long it comes.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub after: Duration,
}

impl Reply {
    /// One of JSON.
    pub fn json(status: u16, body: Option<&Value>) -> Result<Self, String> {
        let mut fields = json!({ "status": status });
        if let Some(body) = body {
            fields["body"] = body.clone();
        }
        Self::described(&fields)
    }

    /// By `status`, `headers`, `body` (JSON) or `text`, and `after`.
    pub fn described(fields: &Value) -> Result<Self, String> {
        let mut reply = Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Vec::new(),
            after: Duration::ZERO,
        };
        for (name, value) in fields.as_object().ok_or("an answer is no object")? {
            match (name.as_str(), value) {
                ("status", value) => {
                    let status = value.as_u64().and_then(|status| u16::try_from(status).ok());
                    reply.status = status
                        .and_then(|status| StatusCode::from_u16(status).ok())
                        .ok_or("the status is none")?;
                }
                ("headers", Value::Object(headers)) => {
                    for (name, value) in headers {
                        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
                        let value = value.as_str().ok_or("a header is no text")?;
                        reply.headers.append(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
                    }
                }
                ("body", value) => reply.body = value.to_string().into_bytes(),
                ("text", Value::String(text)) => reply.body = text.clone().into_bytes(),
                ("after", value) => reply.after = duration::read(value)?,
                (name, _) => return Err(format!("an answer has no {name}")),
            }
        }
        if fields.get("body").is_some() && !reply.headers.contains_key(CONTENT_TYPE) {
            reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(reply)
    }
}

/// What a service answers to a method: the first time, the second, and so on; the last again and again.
#[derive(Debug, Clone)]
pub struct Service {
    pub method: String,
    pub uri: String,
    pub replies: Vec<Reply>,
}

/// A request that was made, and when.
#[derive(Debug, Clone)]
pub struct Sent {
    pub request: CallRequest,
    pub at: Millis,
    pub path: Arc<str>,
    /// `Idempotency-Key`
    pub key: String,
    reply: Option<Reply>,
    /// Its runner has died before anybody has written down what was answered: it is made again.
    is_given_up: bool,
}

/// Makes calls of a world. A request that is made again is answered as it was the first time, and when.
#[derive(Clone)]
pub struct WorldCaller {
    world: Arc<World>,
    clock: TestClock,
    calls: Arc<Mutex<Calls>>,
}

#[derive(Default)]
struct Calls {
    sent: Vec<Sent>,
    problems: Vec<String>,
}

impl WorldCaller {
    pub fn new(world: World, clock: TestClock) -> Self {
        Self { world: Arc::new(world), clock, calls: Arc::default() }
    }

    /// All that was sent; or what should not have been.
    pub fn sent(&self) -> Result<Vec<Sent>, String> {
        let calls = self.calls.lock();
        if calls.problems.is_empty() { Ok(calls.sent.clone()) } else { Err(calls.problems.join("; ")) }
    }

    /// The runner has died: of each of these paths, that many calls were ordered, and nobody has written down how the last ended.
    pub fn gives_up(&self, unended: &[(Arc<str>, usize)]) {
        let mut calls = self.calls.lock();
        for (path, ordered) in unended {
            let of_path = calls.sent.iter_mut().filter(|sent| sent.path == *path && !sent.key.is_empty());
            // Perhaps it was not made.
            if let Some(last) = of_path.skip(ordered - 1).last() {
                last.is_given_up = true;
            }
        }
    }

    /// Which it is of those that were sent.
    fn send(&self, call: &OutgoingCall) -> usize {
        let Calls { sent, problems } = &mut *self.calls.lock();
        let OutgoingCall { method, uri, headers, body, path, .. } = call;
        let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap_or_default().to_owned());
        let key = key.unwrap_or_default();
        let same = |sent: &Sent| sent.is_given_up && sent.path == *path && !key.is_empty();
        if let Some(number) = sent.iter().position(same) {
            let again = &mut sent[number];
            again.is_given_up = false;
            if again.key != key {
                problems.push(format!("{path} was sent with {} and with {key}", again.key));
            }
            return number;
        }
        let same = |sent: &&Sent| sent.request.method == *method && sent.request.uri == *uri;
        let before = sent.iter().filter(same).count();
        let (method, uri, headers) = (method.clone(), uri.clone(), headers.clone());
        let request = CallRequest { method, uri, headers, body: body.to_vec() };
        let reply = self.world.reply(&request, before);
        let (at, path) = (self.clock.now(), path.clone());
        sent.push(Sent { request, at, path, key, reply, is_given_up: false });
        sent.len() - 1
    }
}

impl Caller for WorldCaller {
    async fn call(&self, call: OutgoingCall) -> Result<CallAnswer, Fault> {
        let number = self.send(&call);
        let Sent { at, reply, .. } = self.calls.lock().sent[number].clone();
        let after = reply.as_ref().map_or(0, |reply| reply.after.as_millis() as Millis);
        self.clock.sleep_until(at + after).await;
        match reply {
            Some(Reply { status, headers, body, .. }) => {
                Ok(CallAnswer { status, headers, body: body.into(), trace: None })
            }
            None => Err(FaultKind::Communication.fault(format!("nobody answers at {}", call.uri))),
        }
    }
}

impl World {
    /// What is answered to a request that was made as often as that before.
    fn reply(&self, request: &CallRequest, before: usize) -> Option<Reply> {
        let uri = request.uri.to_string();
        let is = |service: &&Service| *request.method.as_str() == *service.method && service.uri == uri;
        match self.services.iter().find(is) {
            Some(service) => service.replies.get(before).or(service.replies.last()).cloned(),
            None => (self.elsewhere)(request),
        }
    }
}

/// What services of the scenarios' world answer.
pub type Elsewhere = fn(&CallRequest) -> Option<Reply>;

/// For those that ask nobody else.
pub fn nobody(_: &CallRequest) -> Option<Reply> {
    None
}

/// What the kit's own scenarios ask of services on the Internet, answered from memory.
pub fn of_the_kit(request: &CallRequest) -> Option<Reply> {
    let pet = |id: u64, status: &str| json!({ "id": id, "name": format!("pet {id}"), "status": status });
    let path = request.uri.path();
    let reply = match request.uri.host()? {
        "petstore.swagger.io" => match path.strip_prefix("/v2/pet/")? {
            "findByStatus" => {
                let status = request.uri.query()?.strip_prefix("status=")?;
                Reply::json(200, Some(&json!([pet(1, status), pet(2, status)])))
            }
            id => match id.parse() {
                Ok(id) => Reply::json(200, Some(&pet(id, "available"))),
                Err(_) => Reply::json(404, Some(&json!({ "message": "there is no such pet" }))),
            },
        },
        "httpbin.org" => {
            let (user, password) = path.strip_prefix("/basic-auth/")?.split_once('/')?;
            let expected = super::steps::basic(user, password);
            let given = request.headers.get(http::header::AUTHORIZATION)?;
            let known = given.as_bytes() == expected.as_bytes();
            Reply::json(if known { 200 } else { 401 }, Some(&json!({ "authenticated": known, "user": user })))
        }
        _ => return None,
    };
    reply.ok()
}
