//! Bodies in Kubernetes' protobuf form, as far as `kubectl create` (of namespaces, services, secrets, roles and bindings) and
//! `kubectl auth` need it ([`security`]), and deletions by typed clients: clients that know a kind's Go type send that form without
//! asking. Only new objects are taken so, because fields that are not read here would be lost in an update.
//!
//! The messages follow the `generated.proto` files of k8s.io/api and k8s.io/apimachinery.

mod security;

use std::collections::BTreeMap;

use prost::Message;
use serde_json::{Map, Value, json};

use super::status::Failure;

pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What a body starts with.
const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    generate_name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "14")]
    finalizers: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespace {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

#[derive(Clone, PartialEq, Message)]
struct Service {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<ServiceSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceSpec {
    #[prost(message, repeated, tag = "1")]
    ports: Vec<ServicePort>,
    #[prost(btree_map = "string, string", tag = "2")]
    selector: BTreeMap<String, String>,
    #[prost(string, tag = "3")]
    cluster_ip: String,
    #[prost(string, tag = "4")]
    type_: String,
    #[prost(string, repeated, tag = "5")]
    external_ips: Vec<String>,
    #[prost(string, tag = "7")]
    session_affinity: String,
    #[prost(string, tag = "10")]
    external_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ServicePort {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    protocol: String,
    #[prost(int32, tag = "3")]
    port: i32,
    #[prost(message, optional, tag = "4")]
    target_port: Option<IntOrString>,
    #[prost(int32, tag = "5")]
    node_port: i32,
    #[prost(string, tag = "6")]
    app_protocol: String,
}

#[derive(Clone, PartialEq, Message)]
struct IntOrString {
    /// 0: a number, 1: a name.
    #[prost(int64, tag = "1")]
    type_: i64,
    #[prost(int32, tag = "2")]
    int: i32,
    #[prost(string, tag = "3")]
    string: String,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteOptionsMessage {
    #[prost(message, optional, tag = "2")]
    preconditions: Option<Preconditions>,
    #[prost(string, optional, tag = "4")]
    propagation_policy: Option<String>,
    #[prost(string, repeated, tag = "5")]
    dry_run: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Preconditions {
    #[prost(string, optional, tag = "1")]
    uid: Option<String>,
    #[prost(string, optional, tag = "2")]
    resource_version: Option<String>,
}

/// The options of a deletion, as typed clients of Go that speak protobuf send them: as JSON would have them.
pub(super) fn delete_options(body: &[u8]) -> Result<Value, Failure> {
    let unknown = unknown(body)?;
    let kind = unknown.type_meta.unwrap_or_default().kind;
    if kind != "DeleteOptions" {
        return Err(Failure::bad_request(format!("the body is a {kind:?}, and DeleteOptions are expected")));
    }
    let options = DeleteOptionsMessage::decode(unknown.raw.as_slice()).map_err(|error| wrong(&error))?;
    let preconditions = options.preconditions.unwrap_or_default();
    Ok(json!({
        "preconditions": { "uid": preconditions.uid, "resourceVersion": preconditions.resource_version },
        "propagationPolicy": options.propagation_policy,
        "dryRun": options.dry_run,
    }))
}

fn wrong(error: &prost::DecodeError) -> Failure {
    Failure::bad_request(format!("the body is not valid protobuf: {error}"))
}

/// What every body is wrapped in.
fn unknown(body: &[u8]) -> Result<Unknown, Failure> {
    let message = body.strip_prefix(MAGIC).ok_or_else(|| {
        Failure::bad_request("the body does not start with the mark of Kubernetes' protobuf")
    })?;
    Unknown::decode(message).map_err(|error| wrong(&error))
}

/// The object in a body. Of kinds that are not known here only the type is read.
pub(super) fn object(body: &[u8]) -> Result<Value, Failure> {
    let wrong = |error: prost::DecodeError| wrong(&error);
    let unknown = unknown(body)?;
    let type_meta = unknown.type_meta.unwrap_or_default();
    let mut object = json!({ "apiVersion": type_meta.api_version, "kind": type_meta.kind });
    match (type_meta.api_version.as_str(), type_meta.kind.as_str()) {
        ("v1", "Namespace") => {
            let namespace = Namespace::decode(unknown.raw.as_slice()).map_err(wrong)?;
            object["metadata"] = metadata(namespace.metadata.unwrap_or_default());
        }
        ("v1", "Service") => {
            let service = Service::decode(unknown.raw.as_slice()).map_err(wrong)?;
            object["metadata"] = metadata(service.metadata.unwrap_or_default());
            object["spec"] = spec(service.spec.unwrap_or_default());
        }
        (version, kind) => security::read((version, kind), &unknown.raw, &mut object).map_err(wrong)?,
    }
    Ok(object)
}

fn metadata(metadata: ObjectMeta) -> Value {
    let mut fields = Map::new();
    set(&mut fields, "name", metadata.name);
    set(&mut fields, "generateName", metadata.generate_name);
    set(&mut fields, "namespace", metadata.namespace);
    fields.insert("labels".to_owned(), json!(metadata.labels));
    fields.insert("annotations".to_owned(), json!(metadata.annotations));
    fields.insert("finalizers".to_owned(), json!(metadata.finalizers));
    without_empty(fields)
}

fn spec(spec: ServiceSpec) -> Value {
    let mut fields = Map::new();
    fields.insert("ports".to_owned(), spec.ports.into_iter().map(port).collect());
    fields.insert("selector".to_owned(), json!(spec.selector));
    set(&mut fields, "clusterIP", spec.cluster_ip);
    set(&mut fields, "type", spec.type_);
    fields.insert("externalIPs".to_owned(), json!(spec.external_ips));
    set(&mut fields, "sessionAffinity", spec.session_affinity);
    set(&mut fields, "externalName", spec.external_name);
    without_empty(fields)
}

fn port(port: ServicePort) -> Value {
    let mut fields = Map::new();
    set(&mut fields, "name", port.name);
    set(&mut fields, "protocol", port.protocol);
    fields.insert("port".to_owned(), port.port.into());
    match port.target_port {
        Some(target) if target.type_ == 1 => set(&mut fields, "targetPort", target.string),
        Some(target) if target.int != 0 => drop(fields.insert("targetPort".to_owned(), target.int.into())),
        _ => {}
    }
    if port.node_port != 0 {
        fields.insert("nodePort".to_owned(), port.node_port.into());
    }
    set(&mut fields, "appProtocol", port.app_protocol);
    without_empty(fields)
}

fn set(fields: &mut Map<String, Value>, name: &str, text: String) {
    fields.insert(name.to_owned(), text.into());
}

/// Protobuf does not tell what is empty from what is absent.
fn without_empty(mut fields: Map<String, Value>) -> Value {
    fields.retain(|_, value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    });
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_service() {
        let port = ServicePort {
            name: "http".to_owned(),
            port: 80,
            target_port: Some(IntOrString { type_: 0, int: 8080, string: String::new() }),
            ..ServicePort::default()
        };
        let service = Service {
            metadata: Some(ObjectMeta { name: "c".to_owned(), ..ObjectMeta::default() }),
            spec: Some(ServiceSpec { ports: vec![port], ..ServiceSpec::default() }),
        };
        let unknown = Unknown {
            type_meta: Some(TypeMeta { api_version: "v1".to_owned(), kind: "Service".to_owned() }),
            raw: service.encode_to_vec(),
        };
        let body = [MAGIC, &unknown.encode_to_vec()].concat();
        assert_eq!(
            object(&body).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": "c" },
                "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
            })
        );
        assert!(object(b"k8s\0\xff").is_err());
        assert!(object(b"{}").is_err());
    }
}
