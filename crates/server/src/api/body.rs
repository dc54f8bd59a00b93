//! Bodies of requests: bounded in size and time, JSON or YAML.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, EXPECT, HeaderMap};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::protobuf;
use super::status::Failure;

/// As in Kubernetes.
const LARGEST: usize = 3 << 20;
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a body that nobody wants is read all the same, and for how long.
const DISCARDED: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// The body of a request.
///
/// What is left of it when this is dropped is read on for a while: a client that still sends gets its
/// answer, which a reset would overtake (RFC 9113, section 8.1; RFC 9112, section 9.6).
pub(super) struct RequestBody {
    unread: Option<Incoming>,
    /// The client waits to be told to send it (RFC 9110, section 10.1.1).
    awaited: bool,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, headers: &HeaderMap) -> Self {
        Self { unread: Some(body), awaited: headers.contains_key(EXPECT) }
    }

    /// The whole body; empty where it was read before. One that is announced to be too large is refused
    /// before it comes.
    pub(super) async fn read(&mut self) -> Result<Bytes, Failure> {
        let Some(body) = &mut self.unread else { return Ok(Bytes::new()) };
        if body.size_hint().lower() > LARGEST as u64 {
            return Err(too_large());
        }
        self.awaited = false;
        match tokio::time::timeout(READ_TIMEOUT, Limited::new(body, LARGEST).collect()).await {
            Ok(Ok(collected)) => {
                self.unread = None;
                Ok(collected.to_bytes())
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(error)) => {
                self.unread = None;
                Err(Failure::bad_request(format!("the body could not be read: {error}")))
            }
            Err(_) => Err(Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                "Timeout",
                format!("the body did not arrive within {} seconds", READ_TIMEOUT.as_secs()),
            )),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(body) = self.unread.take().filter(|body| !self.awaited && !body.is_end_stream()) else {
            return;
        };
        tokio::spawn(tokio::time::timeout(DISCARD_TIME, discard(body)));
    }
}

async fn discard(mut body: Incoming) {
    let mut left = DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(length) else { return };
        left = rest;
    }
}

fn too_large() -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "RequestEntityTooLarge",
        format!("Request entity too large: limit is {LARGEST}"),
    )
}

/// The types of bodies with an object.
pub(super) const OBJECTS: [&str; 2] = ["application/json", "application/yaml"];
/// Of those with a new one.
pub(super) const NEW_OBJECTS: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// The media type of the body, without parameters; JSON where nothing is said.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let Some(value) = headers.get(CONTENT_TYPE) else { return OBJECTS[0].to_owned() };
    let header = String::from_utf8_lossy(value.as_bytes());
    match header.split(';').next().unwrap_or_default().trim() {
        "" | "*/*" => OBJECTS[0].to_owned(),
        media_type => media_type.to_ascii_lowercase(),
    }
}

/// Whether a body of that type is taken.
pub(super) fn check_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Failure> {
    let found = media_type(headers);
    match accepted.contains(&found.as_str()) {
        true => Ok(()),
        false => Err(Failure::unsupported_media_type(&found, accepted)),
    }
}

/// The object in a body of type JSON or YAML.
pub(super) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Value, Failure> {
    match media_type(headers).as_str() {
        "application/json" => json(body),
        "application/yaml" => yaml(body),
        other => Err(Failure::unsupported_media_type(other, &OBJECTS)),
    }
}

/// Like [`object`], and also in the form that typed clients send new objects.
pub(super) fn new_object(headers: &HeaderMap, body: &[u8]) -> Result<Value, Failure> {
    match media_type(headers).as_str() {
        protobuf::MEDIA_TYPE => protobuf::object(body),
        _ => object(headers, body),
    }
}

/// The options of a deletion; nothing where the body is empty.
pub(super) fn delete_options(headers: &HeaderMap, body: &[u8]) -> Result<Value, Failure> {
    match media_type(headers).as_str() {
        _ if body.is_empty() => Ok(Value::Null),
        "application/json" => json(body),
        "application/yaml" => yaml(body),
        protobuf::MEDIA_TYPE => protobuf::delete_options(body),
        other => Err(Failure::unsupported_media_type(other, &NEW_OBJECTS)),
    }
}

pub(super) fn json(body: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body is not valid JSON: {error}")))
}

/// YAML, of which JSON is a part.
pub(super) fn yaml(body: &[u8]) -> Result<Value, Failure> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    serde_saphyr::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body is not valid YAML: {error}")))
}
