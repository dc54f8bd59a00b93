//! Kinds that say who may do what, reviews of that, Secrets and ConfigMaps.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::{DecodeError, Message};
use serde_json::{Value, json};

use super::{ObjectMeta, metadata, without_empty};

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const AUTHORIZATION: &str = "authorization.k8s.io/v1";

/// Of Role and ClusterRole.
#[derive(Clone, PartialEq, Message)]
struct RoleMessage {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, repeated, tag = "2")]
    rules: Vec<RuleMessage>,
    /// Of ClusterRole: what it has in it, nobody reads.
    #[prost(bytes = "vec", optional, tag = "3")]
    aggregation_rule: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct RuleMessage {
    #[prost(string, repeated, tag = "1")]
    verbs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    api_groups: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    resources: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    resource_names: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    non_resource_urls: Vec<String>,
}

/// Of RoleBinding and ClusterRoleBinding.
#[derive(Clone, PartialEq, Message)]
struct BindingMessage {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, repeated, tag = "2")]
    subjects: Vec<SubjectMessage>,
    #[prost(message, optional, tag = "3")]
    role_ref: Option<RoleRefMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SubjectMessage {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    api_group: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct RoleRefMessage {
    #[prost(string, tag = "1")]
    api_group: String,
    #[prost(string, tag = "2")]
    kind: String,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct SecretMessage {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    data: BTreeMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    type_: String,
    #[prost(btree_map = "string, string", tag = "4")]
    string_data: BTreeMap<String, String>,
    #[prost(bool, optional, tag = "5")]
    immutable: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigMapMessage {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, string", tag = "2")]
    data: BTreeMap<String, String>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    binary_data: BTreeMap<String, Vec<u8>>,
    #[prost(bool, optional, tag = "4")]
    immutable: Option<bool>,
}

/// Of SelfSubjectAccessReview and SubjectAccessReview, whose specs differ in their last fields.
#[derive(Clone, PartialEq, Message)]
struct ReviewMessage {
    #[prost(message, optional, tag = "2")]
    spec: Option<ReviewSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct ReviewSpec {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, optional, tag = "2")]
    path: Option<PathMessage>,
    #[prost(string, tag = "3")]
    user: String,
    #[prost(string, repeated, tag = "4")]
    groups: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceMessage {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    verb: String,
    #[prost(string, tag = "3")]
    group: String,
    #[prost(string, tag = "5")]
    resource: String,
    #[prost(string, tag = "6")]
    subresource: String,
    #[prost(string, tag = "7")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct PathMessage {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(string, tag = "2")]
    verb: String,
}

#[derive(Clone, PartialEq, Message)]
struct RulesReviewMessage {
    #[prost(message, optional, tag = "2")]
    spec: Option<RulesReviewSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct RulesReviewSpec {
    #[prost(string, tag = "1")]
    namespace: String,
}

/// Reads what a message of that kind says into the object; nothing of a kind that is not known here.
pub(super) fn read(kind: (&str, &str), raw: &[u8], object: &mut Value) -> Result<(), DecodeError> {
    match kind {
        (RBAC, "Role" | "ClusterRole") => {
            let role = RoleMessage::decode(raw)?;
            object["metadata"] = metadata(role.metadata.unwrap_or_default());
            object["rules"] = role.rules.into_iter().map(rule).collect();
            if role.aggregation_rule.is_some() {
                object["aggregationRule"] = json!({});
            }
        }
        (RBAC, "RoleBinding" | "ClusterRoleBinding") => {
            let binding = BindingMessage::decode(raw)?;
            object["metadata"] = metadata(binding.metadata.unwrap_or_default());
            object["subjects"] = binding.subjects.into_iter().map(subject).collect();
            let role = binding.role_ref.unwrap_or_default();
            object["roleRef"] =
                fields(json!({ "apiGroup": role.api_group, "kind": role.kind, "name": role.name }));
        }
        ("v1", "Secret") => {
            let secret = SecretMessage::decode(raw)?;
            let data: BTreeMap<_, _> =
                secret.data.into_iter().map(|(name, value)| (name, STANDARD.encode(value))).collect();
            object["metadata"] = metadata(secret.metadata.unwrap_or_default());
            object["data"] = json!(data);
            object["stringData"] = json!(secret.string_data);
            if !secret.type_.is_empty() {
                object["type"] = secret.type_.into();
            }
            if let Some(immutable) = secret.immutable {
                object["immutable"] = immutable.into();
            }
        }
        ("v1", "ConfigMap") => {
            let map = ConfigMapMessage::decode(raw)?;
            let encoded = |(name, value)| (name, STANDARD.encode::<Vec<u8>>(value));
            let binary: BTreeMap<_, _> = map.binary_data.into_iter().map(encoded).collect();
            object["metadata"] = metadata(map.metadata.unwrap_or_default());
            object["data"] = json!(map.data);
            object["binaryData"] = json!(binary);
            if let Some(immutable) = map.immutable {
                object["immutable"] = immutable.into();
            }
        }
        (AUTHORIZATION, "SelfSubjectAccessReview" | "SubjectAccessReview") => {
            let spec = ReviewMessage::decode(raw)?.spec.unwrap_or_default();
            object["spec"] = json!({ "user": spec.user, "groups": spec.groups });
            if let Some(of) = spec.resource {
                object["spec"]["resourceAttributes"] = fields(json!({
                    "namespace": of.namespace, "verb": of.verb, "group": of.group,
                    "resource": of.resource, "subresource": of.subresource, "name": of.name,
                }));
            }
            if let Some(of) = spec.path {
                object["spec"]["nonResourceAttributes"] = json!({ "path": of.path, "verb": of.verb });
            }
        }
        (AUTHORIZATION, "SelfSubjectRulesReview") => {
            let spec = RulesReviewMessage::decode(raw)?.spec.unwrap_or_default();
            object["spec"] = json!({ "namespace": spec.namespace });
        }
        _ => {}
    }
    Ok(())
}

fn rule(rule: RuleMessage) -> Value {
    fields(json!({
        "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources,
        "resourceNames": rule.resource_names, "nonResourceURLs": rule.non_resource_urls,
    }))
}

fn subject(subject: SubjectMessage) -> Value {
    fields(json!({
        "kind": subject.kind, "apiGroup": subject.api_group, "name": subject.name, "namespace": subject.namespace,
    }))
}

fn fields(object: Value) -> Value {
    match object {
        Value::Object(fields) => without_empty(fields),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields of `generated.proto` of k8s.io/api, by hand.
    #[test]
    fn what_kubectl_sends_is_read() {
        let read = |version: &str, kind: &str, raw: &[u8]| {
            let mut object = json!({});
            read((version, kind), raw, &mut object).unwrap();
            object
        };
        let spec = b"\x0a\x14\x0a\x04shop\x12\x03get\x1a\x00\x2a\x05roles";
        let review = [&[0x12, u8::try_from(spec.len()).unwrap()], &spec[..]].concat();
        let object = read(AUTHORIZATION, "SelfSubjectAccessReview", &review);
        let asked = json!({ "namespace": "shop", "verb": "get", "resource": "roles" });
        assert_eq!(object["spec"]["resourceAttributes"], asked);
        let secret = b"\x0a\x03\x0a\x01s\x12\x06\x0a\x01k\x12\x01v\x1a\x06Opaque";
        let object = read("v1", "Secret", secret);
        let (data, type_) = (json!({ "k": "dg==" }), json!("Opaque"));
        assert_eq!(
            (&object["data"], &object["type"], &object["metadata"]["name"]),
            (&data, &type_, &json!("s"))
        );
        let binding =
            b"\x0a\x03\x0a\x01b\x12\x0b\x0a\x04User\x1a\x03ann\x1a\x13\x12\x0bClusterRole\x1a\x04view";
        let object = read(RBAC, "RoleBinding", binding);
        assert_eq!(object["subjects"], json!([{ "kind": "User", "name": "ann" }]));
        assert_eq!(object["roleRef"], json!({ "kind": "ClusterRole", "name": "view" }));
        let map = b"\x0a\x03\x0a\x01m\x12\x06\x0a\x01k\x12\x01v\x1a\x06\x0a\x01b\x12\x01v\x20\x01";
        let object = read("v1", "ConfigMap", map);
        assert_eq!((&object["data"]["k"], &object["binaryData"]["b"]), (&json!("v"), &json!("dg==")));
        assert_eq!(object["immutable"], true);
        assert_eq!(read("v1", "Pod", b"\xff"), json!({}));
    }
}
