//! What an AuthorizationPolicy says of somebody else who is asked about requests: the fields of Gateway API's `ExternalAuth` filter
//! (HTTPExternalAuthFilter, GEP-1494), and a few of ours.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kinds::route::BackendObjectReference;
use crate::port_settings::DURATION;

/// Who is asked about requests, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalAuthorization {
    /// `GRPC`: the service speaks `envoy.service.auth.v3.Authorization` (Envoy's ext_authz). `HTTP`: it is asked with the request's own
    /// method and path, and lets in what it answers with 200.
    #[schemars(extend("enum" = ["GRPC", "HTTP"]))]
    pub protocol: String,
    /// The Service that is asked, and its port.
    pub backend_ref: BackendObjectReference,
    /// Of `GRPC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<ExternalAuthorizationGrpc>,
    /// Of `HTTP`, which must have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<ExternalAuthorizationHttp>,
    /// Whether it is told bodies, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_body: Option<ExternalAuthorizationBody>,
    /// How long it has for its answer, e.g. `500ms`: 200 ms where nothing is said, 10 s at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), pattern(DURATION), extend("x-default" = "200ms"))]
    pub timeout: Option<String>,
    /// Whether requests are let in where it does not answer, or not in time. They are denied where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub fail_open: Option<bool>,
}

/// What a service that speaks gRPC is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalAuthorizationGrpc {
    /// Which headers of the request; left out, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_headers: Option<Vec<String>>,
}

/// What a service that speaks HTTP is told, and may say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalAuthorizationHttp {
    /// What stands before the request's path when it is asked, e.g. `/check`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub path: Option<String>,
    /// Which headers of the request, besides `Host`, `Authorization` and the length of what it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_headers: Option<Vec<String>>,
    /// Which headers of its answer the application gets, in the place of what the client sent; left out, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_response_headers: Option<Vec<String>>,
}

/// How much of bodies is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalAuthorizationBody {
    /// How many bytes a body may have, up to 65535: a longer one is refused with 413. 0, or left out: it is told none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub max_size: Option<u16>,
}
