//! What an AuthorizationPolicy says of tokens: JSON Web Tokens (RFC 7519), signed with keys of their issuers (RFC 7517).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::port_settings::DURATION;

/// Whose tokens requests may bring.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationJwt {
    /// Any of these.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub issuers: Vec<AuthorizationIssuer>,
    /// How long a stream, an upgrade or a tunnel that came with a token may go on, e.g. `1h`: then it ends, and begins anew with a
    /// token that is valid then. Left out, it goes on after its token has expired, for as long as policies let it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(DURATION))]
    pub max_stream_age: Option<String>,
}

/// Who signs tokens, and where requests bring them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationIssuer {
    /// The claim `iss` of its tokens, e.g. `https://accounts.example.com`.
    #[schemars(length(min = 1, max = 1024))]
    pub issuer: String,
    /// A token must be for any of these (the claim `aud`). Left out, `aud` is not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub audiences: Option<Vec<String>>,
    /// The keys that it signs with.
    pub jwks: AuthorizationKeys,
    /// Where requests bring it; left out, `Authorization: Bearer …`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_header: Option<AuthorizationTokenHeader>,
    /// Claims that the application gets as headers. What clients send in these is taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["header"])
    )]
    pub output_claim_to_headers: Option<Vec<AuthorizationClaimHeader>>,
}

/// A set of public keys (RFC 7517): one of these says where it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationKeys {
    /// Its URL, e.g. `https://accounts.example.com/.well-known/jwks.json`. The server fetches it, every five minutes and when a
    /// token names a key that it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub uri: Option<String>,
    /// A file on the hosts of the servers: only for policies that target the Mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub file: Option<String>,
    /// The set itself, as JSON: `{"keys": [...]}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub inline: Option<String>,
}

/// The header in which tokens come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationTokenHeader {
    /// Its name, e.g. `x-token`.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// What stands there before the token, e.g. `Token `; nothing where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub prefix: Option<String>,
}

/// A claim that becomes a header: texts, numbers, truth values, and lists of these, joined by commas.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationClaimHeader {
    /// The claim, as in `rules[].jwt.claims`.
    #[schemars(length(min = 1, max = 256))]
    pub claim: String,
    /// The header.
    #[schemars(length(min = 1, max = 256))]
    pub header: String,
}

/// Which token requests bring: all that it says must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationJwtRule {
    /// Any of these issuers of `spec.jwt`; all of them where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub issuers: Option<Vec<String>>,
    /// All of these claims.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub claims: Option<Vec<AuthorizationClaim>>,
}

/// What a claim must be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationClaim {
    /// Its name; of a claim inside of another `outer.inner`.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Any of these values. A claim that is a list must have one of them, and so must `scope` among its words.
    #[schemars(length(min = 1, max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Vec<String>,
}
