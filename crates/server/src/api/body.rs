//! Bodies of requests: bounded in size and time, JSON or YAML.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::protobuf;
use super::status::Failure;

/// As in Kubernetes.
const LARGEST: usize = 3 << 20;
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The whole body.
pub(super) async fn read(body: Incoming) -> Result<Bytes, Failure> {
    let collected = tokio::time::timeout(READ_TIMEOUT, Limited::new(body, LARGEST).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {LARGEST}"),
        )),
        Ok(Err(error)) => Err(Failure::bad_request(format!("the body could not be read: {error}"))),
        Err(_) => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "Timeout",
            format!("the body did not arrive within {} seconds", READ_TIMEOUT.as_secs()),
        )),
    }
}

/// The media type of the body, without parameters; JSON where nothing is said.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match header.split(';').next().unwrap_or_default().trim() {
        "" | "*/*" => "application/json".to_owned(),
        media_type => media_type.to_ascii_lowercase(),
    }
}

/// The object in a body of type JSON or YAML.
pub(super) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Value, Failure> {
    match media_type(headers).as_str() {
        "application/json" => json(body),
        "application/yaml" => yaml(body),
        other => Err(Failure::unsupported_media_type(other, &["application/json", "application/yaml"])),
    }
}

/// Like [`object`], and also in the form that typed clients send new objects.
pub(super) fn new_object(headers: &HeaderMap, body: &[u8]) -> Result<Value, Failure> {
    match media_type(headers).as_str() {
        protobuf::MEDIA_TYPE => protobuf::object(body),
        _ => object(headers, body),
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
