//! In which form the client wants an answer (the `Accept` header).

use http::HeaderMap;
use http::header::ACCEPT;

use super::status::Failure;

/// The form of objects in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Objects,
    /// Rows of a table (meta.k8s.io/v1, Table).
    Table,
    /// Type and metadata only (meta.k8s.io/v1, PartialObjectMetadata).
    Metadata,
    /// Aggregated discovery, in a version of apidiscovery.k8s.io.
    Discovery(&'static str),
}

/// The first form of the `Accept` header that can be had.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Failure> {
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
                (None, _, _) => return Ok(Form::Objects),
                (Some("Table"), Some("meta.k8s.io"), Some("v1")) => return Ok(Form::Table),
                (
                    Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                    Some("meta.k8s.io"),
                    Some("v1"),
                ) => return Ok(Form::Metadata),
                (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                    return Ok(Form::Discovery("v2"));
                }
                (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                    return Ok(Form::Discovery("v2beta1"));
                }
                _ => {}
            }
        }
    }
    if any { Err(Failure::not_acceptable()) } else { Ok(Form::Objects) }
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
        assert_eq!(super::form(&HeaderMap::new()).ok(), Some(Form::Objects));
        assert_eq!(form("application/vnd.kubernetes.protobuf, */*"), Some(Form::Objects));
        assert_eq!(form("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"), Some(Form::Table));
        assert_eq!(
            form("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"),
            Some(Form::Objects)
        );
        assert_eq!(
            form("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
            Some(Form::Discovery("v2"))
        );
        assert_eq!(form("application/vnd.kubernetes.protobuf"), None);
    }
}
