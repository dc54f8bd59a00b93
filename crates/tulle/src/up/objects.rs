//! The objects that `tulle.yaml` stands for: a Service for each of its services, and its documents.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tulle_model::compile::slices::own_service;
use tulle_model::name::NamespacedName;
use tulle_model::registry::{KINDS, Kind, KindId};
use tulle_server::objects::{DEFAULT_NAMESPACE, Objects, WriteOptions};

use super::config::{Config, Service};
use crate::exit::{Exit, Failure, Result};

/// Marks what `tulle up` made, so that the next one removes what is no more in its file.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "tulle-up");

/// Makes the store have what the file says; what was applied by hand stays. Returns the Flows that are gone.
pub async fn apply(objects: &Objects, config: &Config) -> Result<Vec<NamespacedName>> {
    put(objects, config).await?;
    remove_others(objects, config).await
}

/// Makes, or changes, what the file describes.
pub async fn put(objects: &Objects, config: &Config) -> Result<()> {
    let wanted = wanted(config);
    let namespaces = namespaces(&wanted, config);
    for namespace in &namespaces {
        objects.ensure_namespace(namespace).await.map_err(|e| failed("Namespace", namespace, &e))?;
    }
    for (kind, object) in &wanted {
        let namespace = namespace_of(object).unwrap_or_default();
        let put = objects.put(kind, namespace, object.clone(), &options()).await;
        put.map_err(|e| failed(kind.kind, name_of(object), &e))?;
    }
    Ok(())
}

fn namespaces<'a>(wanted: &'a [(&'static Kind, Value)], config: &'a Config) -> BTreeSet<&'a str> {
    let mut namespaces: BTreeSet<&str> = wanted.iter().filter_map(|(_, o)| namespace_of(o)).collect();
    namespaces.insert(&config.namespace);
    namespaces
}

fn options() -> WriteOptions {
    WriteOptions { manager: MANAGED_BY.1.to_owned(), ..WriteOptions::controller() }
}

fn failed(kind: &str, name: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("{kind} {name} cannot be stored: {error}")).exit(Exit::Failure)
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace_of(object: &Value) -> Option<&str> {
    object["metadata"]["namespace"].as_str()
}

/// The objects that the file stands for, each after those that it refers to.
pub fn wanted(config: &Config) -> Vec<(&'static Kind, Value)> {
    let service_kind = KindId::Service.kind();
    // A document that describes the Service itself knows better.
    let described = |service: &Service| {
        config.resources.iter().any(|m| {
            m.kind == service_kind
                && m.name() == service.name
                && m.namespace() == Some(config.namespace.as_str())
        })
    };
    let services = config.services.iter().filter(|s| !s.ports.is_empty() && !described(s));
    let services = services.map(|s| (service_kind, service(s, &config.namespace)));
    let documents = config.resources.iter().map(|m| {
        let mut value = m.value.clone();
        let labels = &mut value["metadata"]["labels"];
        if labels.is_null() {
            *labels = json!({});
        }
        labels[MANAGED_BY.0] = MANAGED_BY.1.into();
        (m.kind, value)
    });
    // Routes after what they lead to.
    let mut all: Vec<_> = services.chain(documents).collect();
    all.sort_by_key(|(kind, _)| match kind.id {
        KindId::Namespace => 0,
        KindId::HttpRoute | KindId::GrpcRoute | KindId::TlsRoute | KindId::TcpRoute => 2,
        _ => 1,
    });
    all
}

/// What stands for a service that has ports.
pub fn service(service: &Service, namespace: &str) -> Value {
    let ports = service.ports.iter().map(|port| {
        let mut value = json!({ "port": port.port, "targetPort": port.target_port, "protocol": "TCP" });
        if let Some(name) = &port.name {
            value["name"] = name.as_str().into();
        }
        if let Some(protocol) = &port.app_protocol {
            value["appProtocol"] = protocol.as_str().into();
        }
        value
    });
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service.name,
            "namespace": namespace,
            "labels": { "app": service.name, (MANAGED_BY.0): MANAGED_BY.1 },
        },
        "spec": { "selector": { "app": service.app() }, "ports": ports.collect::<Vec<_>>() },
    });
    if !service.annotations.is_empty() {
        object["metadata"]["annotations"] = json!(service.annotations);
    }
    object
}

/// Removes what an earlier `up` made and the file no longer has: what refers to others first, namespaces last. What
/// always is there goes back to what it is without `up`. Returns the Flows that were removed.
pub async fn remove_others(objects: &Objects, config: &Config) -> Result<Vec<NamespacedName>> {
    let wanted = wanted(config);
    let namespaces = namespaces(&wanted, config);
    let mut flows = Vec::new();
    // Nodes join, and leave, by themselves.
    let kinds = KINDS.iter().rev().filter(|kind| !kind.is_view() && kind.id != KindId::Node);
    for kind in kinds {
        let list = objects.list(kind, None).await.map_err(|e| failed(kind.kind, "list", &e))?;
        let gone = list.items.iter().filter(|object| {
            is_ours(object)
                && !wanted.iter().any(|(wanted_kind, wanted)| {
                    *wanted_kind == kind
                        && name_of(wanted) == name_of(object)
                        && namespace_of(wanted) == namespace_of(object)
                })
        });
        for object in gone {
            let (namespace, name) = (namespace_of(object).unwrap_or_default(), name_of(object));
            let is_namespace = kind.id == KindId::Namespace;
            let removed = if kind.id == KindId::Mesh || is_namespace && name == DEFAULT_NAMESPACE {
                let reset = |current: &Value| Ok(without_ours(current));
                objects.modify(kind, namespace, name, &options(), reset).await.map(drop)
            } else if is_namespace && (namespaces.contains(name) || is_inhabited(objects, name).await?) {
                continue;
            } else {
                objects.delete_where(kind, namespace, name, is_ours).await.map(drop)
            };
            match removed {
                // Somebody was faster, or has made it theirs.
                Err(error) if error.is_not_found() => {}
                removed => removed.map_err(|e| failed(kind.kind, name, &e))?,
            }
            if kind.id == KindId::Flow {
                flows.push(NamespacedName::new(namespace, name));
            }
        }
    }
    Ok(flows)
}

/// Whether `up` made it. Copies that people make of its objects have the label, too, and stay.
fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1
        && owners(object).any(|owner| owner == MANAGED_BY.1)
}

/// Who has set fields of an object (`metadata.managedFields`).
fn managers(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten()
}

/// Who has set fields of an object, but for its status.
pub fn owners(object: &Value) -> impl Iterator<Item = &str> {
    managers(object).filter_map(owner)
}

fn owner(entry: &Value) -> Option<&str> {
    entry["manager"].as_str().filter(|_| entry["subresource"].as_str().is_none_or(str::is_empty))
}

fn is_manager(entry: &Value) -> bool {
    owner(entry) == Some(MANAGED_BY.1)
}

/// Whether there is anything in a namespace that its deletion should not take along: what others have put there, and
/// workloads of processes.
async fn is_inhabited(objects: &Objects, namespace: &str) -> Result<bool> {
    let kinds = KINDS.iter().filter(|kind| kind.namespaced && !kind.is_view() && kind.id != KindId::Event);
    for kind in kinds {
        let list = objects.list(kind, Some(namespace)).await.map_err(|e| failed(kind.kind, "list", &e))?;
        let is_derived = |object: &Value| kind.id == KindId::EndpointSlice && own_service(object).is_some();
        if !list.items.iter().all(is_derived) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The object without the fields that are `up`'s alone: they have their defaults again.
fn without_ours(object: &Value) -> Value {
    let mut rest = object.clone();
    let others: Vec<_> = managers(object).filter(|e| !is_manager(e)).map(|e| &e["fieldsV1"]).collect();
    for entry in managers(object).filter(|entry| is_manager(entry)) {
        remove_fields(&mut rest, &entry["fieldsV1"], &others);
    }
    if let Some(metadata) = rest["metadata"].as_object_mut() {
        // Whoever writes it meanwhile.
        metadata.remove("resourceVersion");
    }
    rest
}

/// Removes the fields of a set (FieldsV1) that are in none of the other sets, and objects that are empty then.
fn remove_fields(object: &mut Value, set: &Value, others: &[&Value]) {
    let (Some(fields), Some(set)) = (object.as_object_mut(), set.as_object()) else { return };
    for (key, inner) in set {
        let Some(name) = key.strip_prefix("f:") else { continue };
        let Some(value) = fields.get_mut(name) else { continue };
        let others: Vec<_> = others.iter().filter_map(|other| other.get(key)).collect();
        let has_fields = inner.as_object().is_some_and(|inner| inner.keys().any(|key| key.starts_with("f:")));
        if has_fields {
            remove_fields(value, inner, &others);
        }
        let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        if others.is_empty() && (is_empty || !has_fields) {
            fields.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::identity::TrustDomain;
    use tulle_server::objects::DeleteOptions;
    use tulle_server::store::Store;

    use super::super::config::of_text as read;
    use super::*;

    const MESH: &str = "---\napiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: default, labels: {a: b}}\n\
                        spec: {egress: {policy: Deny}}\n";

    fn workload(name: &str) -> String {
        format!(
            "---\napiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}}}\n\
             spec: {{address: 127.0.0.1, ports: [{{port: 80}}]}}\n"
        )
    }

    fn named(kind: &str, metadata: &str) -> String {
        format!("---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: {metadata}}}\n")
    }

    async fn objects() -> Objects {
        let domain = TrustDomain::new("mesh.local").unwrap();
        let objects = Objects::open(Store::in_memory()).await.unwrap().of_mesh(&domain);
        objects.ensure_mesh().await.unwrap();
        objects
    }

    async fn up(objects: &Objects, documents: &str) {
        let text = format!("services:\n  web: {{command: x, port: 80}}\n{documents}");
        apply(objects, &read(&text).unwrap()).await.unwrap();
    }

    /// What there is of a kind.
    async fn names(objects: &Objects, kind: KindId) -> Vec<String> {
        let list = objects.list(kind.kind(), None).await.unwrap();
        list.items.iter().map(|object| name_of(object).to_owned()).collect()
    }

    async fn create(objects: &Objects, manager: &str, kind: KindId, namespace: &str, object: Value) {
        let options = WriteOptions { manager: manager.to_owned(), ..WriteOptions::controller() };
        objects.create(kind.kind(), namespace, object, &options).await.unwrap();
    }

    async fn mesh(objects: &Objects) -> Value {
        objects.require(KindId::Mesh.kind(), "", "default").await.unwrap()
    }

    #[tokio::test]
    async fn flows_that_go_are_named() {
        let objects = objects().await;
        let flow = "---\napiVersion: tulle.dev/v1alpha1\nkind: Flow\nmetadata: {name: order, namespace: default}\n\
                    spec: {workflow: {document: {dsl: 1.0.3, namespace: a, name: b, version: 0.1.0}, do: []}}\n";
        up(&objects, flow).await;
        let without = read("services:\n  web: {command: x, port: 80}\n").unwrap();
        let gone = apply(&objects, &without).await.unwrap();
        assert_eq!(gone, [NamespacedName::new("default", "order")]);
        assert_eq!(apply(&objects, &without).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_the_file_no_longer_has_goes_whatever_it_is() {
        let objects = objects().await;
        let bare = mesh(&objects).await["spec"].clone();
        let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: \
                     {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: []\n";
        let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\n\
                     spec: {parentRefs: [{group: '', kind: Service, name: web}]}\n";
        let inside = format!("{}spec: {{ports: [{{port: 80}}]}}\n", named("Service", "c, namespace: extra"));
        let all = [
            MESH,
            &workload("legacy"),
            &named("Namespace", "extra"),
            &named("Namespace", "default, labels: {team: x}"),
            &inside,
            slice,
            route,
        ];
        up(&objects, &all.concat()).await;
        assert_eq!(mesh(&objects).await["spec"]["egress"]["policy"], "Deny");
        assert_eq!(names(&objects, KindId::Workload).await, ["legacy"]);
        assert_eq!(names(&objects, KindId::Namespace).await, ["default", "extra"]);
        up(&objects, "").await;
        assert_eq!(mesh(&objects).await["spec"], bare);
        assert_eq!(mesh(&objects).await["metadata"]["labels"], Value::Null);
        assert_eq!(names(&objects, KindId::Workload).await, [""; 0]);
        assert_eq!(names(&objects, KindId::EndpointSlice).await, [""; 0]);
        assert_eq!(names(&objects, KindId::HttpRoute).await, [""; 0]);
        assert_eq!(names(&objects, KindId::Namespace).await, ["default"]);
        let default = objects.require(KindId::Namespace.kind(), "", "default").await.unwrap();
        assert_eq!(default["metadata"]["labels"]["team"], Value::Null);
        assert_eq!(names(&objects, KindId::Service).await, ["web"]);
        // Nothing is written where nothing changes.
        let revision = objects.revision().await.unwrap();
        up(&objects, "").await;
        assert_eq!(objects.revision().await.unwrap(), revision);
    }

    #[tokio::test]
    async fn older_versions_are_kept_as_the_newest_and_may_become_it() {
        let objects = objects().await;
        let route = |version: &str| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: HTTPRoute\nmetadata: {{name: r}}\n\
                 spec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  \
                 rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n"
            )
        };
        let kind = KindId::HttpRoute.kind();
        for version in ["v1beta1", "v1beta1", "v1", "v1beta1"] {
            up(&objects, &route(version)).await;
            let kept = objects.require(kind, "default", "r").await.unwrap();
            assert_eq!(kept["apiVersion"], "gateway.networking.k8s.io/v1");
        }
        up(&objects, "").await;
        assert_eq!(names(&objects, KindId::HttpRoute).await, [""; 0]);
    }

    #[tokio::test]
    async fn what_up_did_not_make_stays() {
        let objects = objects().await;
        let copied = json!({ (MANAGED_BY.0): MANAGED_BY.1 });
        let address = json!({ "address": "127.0.0.1" });
        // That of a process, whose service has such a label, and a copy.
        for (manager, name) in [("tulle", "web"), ("kubectl-client-side-apply", "copy")] {
            let workload = json!({ "metadata": { "name": name, "labels": copied }, "spec": address });
            create(&objects, manager, KindId::Workload, "default", workload).await;
        }
        create(&objects, "kubectl", KindId::Namespace, "", json!({ "metadata": { "name": "theirs" } })).await;
        let documents =
            [MESH, &named("Namespace", "extra"), &named("Namespace", "used"), &workload("legacy")];
        up(&objects, &documents.concat()).await;
        // What somebody has put into a namespace, and set of the mesh, by hand.
        let theirs = json!({ "metadata": { "name": "legacy" }, "spec": { "ports": [{ "port": 80 }] } });
        create(&objects, "kubectl", KindId::Service, "extra", theirs).await;
        let options = WriteOptions { manager: "kubectl".to_owned(), ..WriteOptions::controller() };
        let enable = |current: &Value| {
            let mut mesh = current.clone();
            mesh["spec"]["accessLog"] = json!({ "enabled": true });
            Ok(mesh)
        };
        objects.modify(KindId::Mesh.kind(), "", "default", &options, enable).await.unwrap();
        let inside = format!("{}spec: {{ports: [{{port: 80}}]}}\n", named("Service", "c, namespace: used"));
        up(&objects, &inside).await;
        assert_eq!(names(&objects, KindId::Workload).await, ["copy", "web"]);
        assert_eq!(names(&objects, KindId::Namespace).await, ["default", "extra", "theirs", "used"]);
        assert_eq!(names(&objects, KindId::Service).await, ["web", "legacy", "c"]);
        let mesh = mesh(&objects).await;
        assert_ne!(mesh["spec"]["egress"]["policy"], "Deny");
        assert_eq!(mesh["spec"]["accessLog"]["enabled"], true);
        // A namespace goes once nothing is in it.
        let options = DeleteOptions::default();
        objects.delete(KindId::Service.kind(), "extra", "legacy", &options).await.unwrap();
        up(&objects, "").await;
        assert_eq!(names(&objects, KindId::Namespace).await, ["default", "theirs"]);
    }

    #[test]
    fn fields_that_others_have_as_well_stay() {
        let mut object = json!({ "a": { "b": 1, "c": 2 }, "d": { "e": 3 }, "f": [1], "g": 4 });
        let set = json!({ ".": {}, "f:a": { ".": {}, "f:b": {}, "f:c": {} }, "f:d": { "f:e": {} }, "f:f": { "v:1": {} } });
        remove_fields(&mut object, &set, &[&json!({ "f:a": { "f:b": {} }, "f:x": {} })]);
        assert_eq!(object, json!({ "a": { "b": 1 }, "g": 4 }));
    }
}
