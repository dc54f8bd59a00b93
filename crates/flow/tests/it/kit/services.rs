//! What answers the calls of a scenario.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tulle_model::flow::duration;
use tulle_model::flow::http::CallRequest;

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
