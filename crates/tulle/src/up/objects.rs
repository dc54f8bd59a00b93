//! The objects that `tulle.yaml` stands for: a Service for each of its services, and its documents.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tulle_model::registry::{Kind, KindId};
use tulle_server::objects::{DeleteOptions, Objects, Page, WriteOptions};

use super::config::{Config, Service};
use crate::exit::{Exit, Failure, Result};

/// Marks what `tulle up` made, so that the next one removes what is no more in its file.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "tulle-up");

/// Makes the store have what the file says; what was applied by hand stays.
pub async fn apply(objects: &Objects, config: &Config) -> Result<()> {
    let wanted = wanted(config);
    let mut namespaces: BTreeSet<&str> = wanted.iter().filter_map(|(_, o)| namespace_of(o)).collect();
    namespaces.insert(&config.namespace);
    for namespace in namespaces {
        objects.ensure_namespace(namespace).await.map_err(|e| failed("Namespace", namespace, &e))?;
    }
    let options = WriteOptions { manager: MANAGED_BY.1.to_owned(), ..WriteOptions::controller() };
    for (kind, object) in &wanted {
        let namespace = namespace_of(object).unwrap_or_default();
        let put = objects.put(kind, namespace, object.clone(), &options).await;
        put.map_err(|e| failed(kind.kind, name_of(object), &e))?;
    }
    remove_others(objects, &wanted).await
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

fn wanted(config: &Config) -> Vec<(&'static Kind, Value)> {
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
        KindId::HttpRoute | KindId::TcpRoute => 2,
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

async fn remove_others(objects: &Objects, wanted: &[(&'static Kind, Value)]) -> Result<()> {
    for id in [KindId::HttpRoute, KindId::TcpRoute, KindId::EndpointSlice, KindId::Service] {
        let kind = id.kind();
        let list =
            objects.list_page(kind, None, &Page::default()).map_err(|e| failed(kind.kind, "list", &e))?;
        let gone = list.items.iter().filter(|object| {
            object["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1
                && !wanted.iter().any(|(wanted_kind, wanted)| {
                    *wanted_kind == kind
                        && name_of(wanted) == name_of(object)
                        && namespace_of(wanted) == namespace_of(object)
                })
        });
        for object in gone {
            let (namespace, name) = (namespace_of(object).unwrap_or_default(), name_of(object));
            let deleted = objects.delete(kind, namespace, name, &DeleteOptions::default()).await;
            deleted.map_err(|e| failed(kind.kind, name, &e))?;
        }
    }
    Ok(())
}
