//! What `call: http` sends, and what it makes of the answer (dsl-reference.md, "HTTP Call"). Who makes the call adds what proves
//! whose it is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use serde_json::{Map, Value, json};

use super::expression::NESTING;
use super::fault::{Fault, FaultKind};
use super::uri_template::encoded;
use super::workflow::{HttpCall, HttpOutput};
use crate::json_bounds::{is_deeper, is_within};

/// How much of an answer's text an error shows, in characters.
const MOST_SHOWN: usize = 512;

/// A call's arguments, evaluated.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    pub method: Value,
    pub uri: String,
    pub headers: Value,
    pub query: Value,
    pub body: Option<Value>,
}

#[derive(Debug, Clone)]
pub struct CallRequest {
    pub method: Method,
    /// With scheme and host.
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// Of these the connection decides.
const NOT_THE_AUTHORS: [HeaderName; 7] = [
    http::header::CONNECTION,
    http::header::CONTENT_LENGTH,
    http::header::HOST,
    http::header::TE,
    http::header::TRAILER,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
];

impl CallRequest {
    /// `Err` is a configuration error, which names the argument.
    pub fn new(arguments: &Arguments) -> Result<Self, Fault> {
        Self::read(arguments).map_err(|why| FaultKind::Configuration.fault(why))
    }

    fn read(arguments: &Arguments) -> Result<Self, String> {
        let method = method(&arguments.method)?;
        let uri = uri(&arguments.uri, &arguments.query)?;
        let mut headers = headers(&arguments.headers)?;
        let body = match &arguments.body {
            Some(body) => body_bytes(body, &mut headers)?,
            None => Vec::new(),
        };
        Ok(Self { method, uri, headers, body })
    }
}

fn method(value: &Value) -> Result<Method, String> {
    let Value::String(text) = value else { return Err(format!("with.method is {value}, not a text")) };
    match Method::from_bytes(text.to_ascii_uppercase().as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) => Err(format!("with.method: {text} is not for a flow to ask")),
        Ok(method) => Ok(method),
        Err(_) => Err(format!("with.method: {text:?} is no method of HTTP")),
    }
}

fn uri(text: &str, query: &Value) -> Result<Uri, String> {
    // What is behind the fragment's mark is for who reads the answer.
    let (text, _) = text.split_once('#').unwrap_or((text, ""));
    let wrong = |why: &str| format!("with.endpoint: {text:?} {why}");
    let mut whole = text.to_owned();
    let mut separator = if text.contains('?') { '&' } else { '?' };
    for (name, value) in fields(query, "with.query")? {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            Value::Null => &[],
            one => std::slice::from_ref(one),
        };
        for value in values {
            let value = text_of(value).ok_or_else(|| format!("with.query.{name} is {value}, not a text"))?;
            whole.push(separator);
            whole.extend([&*encoded(name), "=", &*encoded(&value)]);
            separator = '&';
        }
    }
    match text.split_once(':') {
        Some((scheme, _)) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {}
        Some((scheme, rest)) if rest.starts_with('/') => {
            return Err(wrong(&format!("is of the scheme {scheme}; http and https are known")));
        }
        _ => return Err(wrong("has no scheme: http:// or https:// is expected")),
    }
    let uri: Uri = whole.parse().map_err(|e| wrong(&format!("is no URI: {e}")))?;
    let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("has a user: with.endpoint.authentication is the place for that"));
    }
    if authority.host().is_empty() {
        return Err(wrong("has no host"));
    }
    Ok(uri)
}

/// What is written for a value that is no array and no object.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn fields<'v>(value: &'v Value, field: &str) -> Result<Vec<(&'v String, &'v Value)>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Object(fields) => Ok(fields.iter().collect()),
        other => Err(format!("{field} is {other}, not an object")),
    }
}

fn headers(value: &Value) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields(value, "with.headers")? {
        let field = format!("with.headers.{name}");
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{field} is no header"))?;
        if NOT_THE_AUTHORS.contains(&header) {
            return Err(format!("{field}: the connection decides of this header"));
        }
        if value.is_null() {
            continue;
        }
        let text = text_of(value).ok_or_else(|| format!("{field} is {value}, not a text"))?;
        let value = HeaderValue::from_str(&text).map_err(|_| format!("{field}: {text:?} fits no header"))?;
        headers.append(header, value);
    }
    Ok(headers)
}

/// The body, as its content type asks for; JSON where it asks for nothing.
fn body_bytes(body: &Value, headers: &mut HeaderMap) -> Result<Vec<u8>, String> {
    let Some(given) = headers.get(CONTENT_TYPE) else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok(body.to_string().into_bytes());
    };
    match (media_type(Some(given)).as_str(), body) {
        ("application/x-www-form-urlencoded", Value::Object(_)) => {
            let mut pairs = Vec::new();
            for (name, value) in fields(body, "with.body")? {
                let value =
                    text_of(value).ok_or_else(|| format!("with.body.{name} is {value}, not a text"))?;
                pairs.push(format!("{}={}", encoded(name), encoded(&value)));
            }
            Ok(pairs.join("&").into_bytes())
        }
        (media, Value::String(text)) if !is_json(media) => Ok(text.clone().into_bytes()),
        _ => Ok(body.to_string().into_bytes()),
    }
}

fn media_type(value: Option<&HeaderValue>) -> String {
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(media: &str) -> bool {
    media == "application/json" || media.ends_with("+json")
}

impl HttpCall {
    /// The task's output, or the error that the answer is. At most `most` bytes of JSON.
    pub fn output_of(&self, request: &CallRequest, answer: &Answer, most: usize) -> Result<Value, Fault> {
        let good = if self.redirect { 200..400 } else { 200..300 };
        if !good.contains(&answer.status.as_u16()) {
            return Err(fault_of(answer));
        }
        let output = match self.output {
            HttpOutput::Raw => Value::String(STANDARD.encode(answer.body)),
            HttpOutput::Content => content(answer)?,
            HttpOutput::Response => json!({
                "request": {
                    "method": request.method.as_str(),
                    "uri": request.uri.to_string(),
                    "headers": shown(&request.headers),
                },
                "statusCode": answer.status.as_u16(),
                "headers": shown(answer.headers),
                "content": content(answer)?,
            }),
        };
        if is_deeper(&output, NESTING) {
            let why = format!("what was answered nests deeper than {NESTING} as a whole");
            return Err(FaultKind::Runtime.fault(why));
        }
        if !is_within(&output, most) {
            return Err(FaultKind::Runtime.fault(format!("what was answered is over {most} bytes of JSON")));
        }
        Ok(output)
    }
}

/// The body, read where it is JSON; text where it is that, else in Base64.
fn content(answer: &Answer) -> Result<Value, Fault> {
    if answer.body.is_empty() {
        return Ok(Value::Null);
    }
    if is_json(&media_type(answer.headers.get(CONTENT_TYPE))) {
        let unread = |why: String| {
            FaultKind::Communication.fault(format!("the answer is said to be JSON and is not: {why}"))
        };
        let value: Value = serde_json::from_slice(answer.body).map_err(|e| unread(e.to_string()))?;
        if is_deeper(&value, NESTING) {
            return Err(unread(format!("it nests deeper than {NESTING}")));
        }
        return Ok(value);
    }
    Ok(Value::String(match std::str::from_utf8(answer.body) {
        Ok(text) => text.to_owned(),
        Err(_) => STANDARD.encode(answer.body),
    }))
}

/// An answer that is an error: with its own words, where it has problem details (RFC 9457).
fn fault_of(answer: &Answer) -> Fault {
    let problem: Value = match media_type(answer.headers.get(CONTENT_TYPE)).as_str() {
        "application/problem+json" => serde_json::from_slice(answer.body).unwrap_or_default(),
        _ => Value::Null,
    };
    let words = |field: &str| problem[field].as_str().map(start_of);
    let title = words("title");
    let title = title.or_else(|| answer.status.canonical_reason().map(str::to_owned));
    let text = || std::str::from_utf8(answer.body).ok().map(start_of).filter(|text| !text.is_empty());
    let number = answer.status.as_u16();
    let detail = words("detail").unwrap_or_else(|| match text() {
        Some(text) => format!("it was answered with {number}: {text}"),
        None => format!("it was answered with {number}"),
    });
    Fault {
        status: number,
        title: title.unwrap_or_else(|| number.to_string()).into(),
        ..FaultKind::Communication.fault(detail)
    }
}

fn start_of(text: &str) -> String {
    let text = text.trim_end();
    match text.char_indices().nth(MOST_SHOWN) {
        // That it is cut off has to be seen: a secret's beginning may be left.
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Headers as an output has them: those that prove something to somebody are not shown.
fn shown(headers: &HeaderMap) -> Value {
    let mut fields = Map::new();
    for name in headers.keys() {
        let is_secret = [http::header::AUTHORIZATION, http::header::PROXY_AUTHORIZATION].contains(name);
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let value = if is_secret { "***".to_owned() } else { values.collect::<Vec<_>>().join(", ") };
        fields.insert(name.to_string(), Value::String(value));
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests;
