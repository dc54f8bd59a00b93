//! In which form the client wants an answer (the `Accept` header).

use http::HeaderMap;
use http::header::ACCEPT;

use super::status::Failure;

/// The form of objects in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerForm {
    Objects,
    /// Rows of a table (meta.k8s.io/v1, Table).
    Table,
    /// Type and metadata only (meta.k8s.io/v1, PartialObjectMetadata).
    Metadata,
    /// Aggregated discovery, in a version of apidiscovery.k8s.io.
    Discovery(&'static str),
}

/// The form of the OpenAPI v2 document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenApiV2 {
    Json,
    /// gnostic's.
    Protobuf,
}

impl OpenApiV2 {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            // Clients that ask with the `@` cannot read it in an answer.
            Self::Protobuf => GNOSTIC[1],
        }
    }
}

/// The names of gnostic's form: with the `@` that clients send, and as RFC 6838 allows it.
const GNOSTIC: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// The first form of the OpenAPI v2 document that the `Accept` header names.
pub(super) fn openapi_v2(headers: &HeaderMap) -> Result<OpenApiV2, Failure> {
    let mut any = false;
    for choice in
        headers.get_all(ACCEPT).iter().filter_map(|header| header.to_str().ok()).flat_map(|h| h.split(','))
    {
        any = true;
        let media_type = choice.split(';').next().unwrap_or_default().trim();
        if GNOSTIC.iter().any(|name| name.eq_ignore_ascii_case(media_type)) {
            return Ok(OpenApiV2::Protobuf);
        }
        if matches!(media_type, "application/json" | "application/*" | "*/*" | "") {
            return Ok(OpenApiV2::Json);
        }
    }
    if any { Err(Failure::not_acceptable()) } else { Ok(OpenApiV2::Json) }
}

/// The first form of the `Accept` header that can be had.
pub(super) fn form(headers: &HeaderMap) -> Result<AnswerForm, Failure> {
    let mut any = false;
    for header in headers.get_all(ACCEPT) {
        let Ok(header) = header.to_str() else { return Err(Failure::not_acceptable()) };
        for choice in header.split(',') {
            any = true;
            let mut parts = choice.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            if !matches!(media_type, "application/json" | "application/*" | "*/*" | "") {
                continue;
            }
            let parameters: Vec<(&str, &str)> =
                parts.filter_map(|part| part.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
            let get = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            match (get("as"), get("g"), get("v")) {
                (None, _, _) => return Ok(AnswerForm::Objects),
                (Some("Table"), Some("meta.k8s.io"), Some("v1")) => return Ok(AnswerForm::Table),
                (
                    Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                    Some("meta.k8s.io"),
                    Some("v1"),
                ) => return Ok(AnswerForm::Metadata),
                (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                    return Ok(AnswerForm::Discovery("v2"));
                }
                (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                    return Ok(AnswerForm::Discovery("v2beta1"));
                }
                _ => {}
            }
        }
    }
    if any { Err(Failure::not_acceptable()) } else { Ok(AnswerForm::Objects) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_had_is_taken() {
        let form = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            super::form(&headers).ok()
        };
        assert_eq!(super::form(&HeaderMap::new()).ok(), Some(AnswerForm::Objects));
        assert_eq!(form("application/vnd.kubernetes.protobuf, */*"), Some(AnswerForm::Objects));
        assert_eq!(
            form("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
            Some(AnswerForm::Table)
        );
        assert_eq!(
            form("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"),
            Some(AnswerForm::Objects)
        );
        assert_eq!(
            form("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
            Some(AnswerForm::Discovery("v2"))
        );
        assert_eq!(form("application/vnd.kubernetes.protobuf"), None);
    }
}
