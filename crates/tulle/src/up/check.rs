//! Holds what services of `tulle.yaml` become to what the mesh takes, so that the file is told to be wrong, and where: a
//! mesh that does not start, or runs without one of its services, would be found out later.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::json;
use tulle_model::name::dns_label_problem;
use tulle_model::registry::KindId;
use tulle_model::validate::{FieldError, Segment, validate};
use tulle_server::ServerConfig;

use super::config::{Config, Service};
use super::field::Field;
use super::{init_commands, objects, replica};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::manifest::Manifest;

/// Says at the fields of each service what the mesh would not take.
pub fn check(services: &[Service], namespace: &str, fields: &HashMap<String, Field<'_>>) {
    for service in services {
        let field = &fields[&service.name];
        // What is wrong with the name has been said, in the file's own words.
        let named = dns_label_problem(&service.name).is_none();
        let mut errors = Vec::new();
        if !service.ports.is_empty() {
            errors.extend(validate(KindId::Service.kind(), &objects::service(service, namespace)));
        }
        errors.extend(of_workloads(service, namespace));
        for error in errors.iter().filter(|e| named || e.path.pointer() != "/metadata/name") {
            say(field, error);
        }
    }
    find_shared_names(services, fields);
    find_shared_labels(services, fields);
}

/// Says which documents `up` could not keep to.
pub fn check_documents(config: &Config, diagnostics: &mut Diagnostics) {
    let problems = config.resources.iter().filter_map(|document| document_problem(document, config));
    problems.for_each(|problem| diagnostics.push(problem));
}

fn document_problem(document: &Manifest, config: &Config) -> Option<Diagnostic> {
    let name = document.name();
    match document.kind.id {
        KindId::Node => {
            let title = "kind: nodes are not created: they join with a token";
            let diagnostic = document.diagnostic(title, "/kind", "not in this file");
            Some(diagnostic.help("the node of `tulle up` joins by itself; labels: `kubectl label node`"))
        }
        KindId::FlowRun => {
            let title = "kind: runs of Flows are not created: `tulle flow run` and requests start them";
            Some(document.diagnostic(title, "/kind", "not in this file"))
        }
        KindId::Flow if document.is_called() && document.namespace() == Some(config.namespace.as_str()) => {
            let is_named = |service: &&Service| service.name == name && !service.ports.is_empty();
            config.services.iter().find(is_named).map(|_| {
                let title = format!("metadata.name: `{name}` is the name of a service of this file");
                let label = "a name of the mesh is one object's";
                document.diagnostic(title, "/metadata/name", label)
            })
        }
        _ if document.kind.is_view() => {
            let title = format!("apiVersion: events of {} can only be read", document.kind.api_version());
            Some(document.diagnostic(title, "/apiVersion", "not in this file"))
        }
        KindId::Mesh => {
            let domain = ServerConfig::local(PathBuf::new()).trust_domain;
            let given = document.value["spec"]["trustDomain"].as_str().filter(|given| !given.is_empty());
            given.filter(|given| *given != domain).map(|_| {
                let title = format!("spec.trustDomain: it is `{domain}` for all that `tulle up` runs");
                let label = "leave it out: it cannot be another";
                document.diagnostic(title, "/spec/trustDomain", label)
            })
        }
        KindId::Workload if document.namespace() == Some(config.namespace.as_str()) => {
            let runs = |service: &&Service| (0..service.replicas).any(|i| replica::name(service, i) == name);
            config.services.iter().find(runs).map(|service| {
                let title = format!("metadata.name: `{name}` is the name of a process of `{}`", service.name);
                document.diagnostic(title, "/metadata/name", "another name is expected")
            })
        }
        _ => None,
    }
}

/// The names of its workloads.
pub fn names(service: &Service) -> impl Iterator<Item = String> {
    let init = (!service.init.is_empty()).then(|| init_commands::workload_name(service));
    (0..service.replicas).map(|index| replica::name(service, index)).chain(init)
}

/// The longest of its workloads' names stands for all.
fn of_workloads(service: &Service, namespace: &str) -> Vec<FieldError> {
    let workload = json!({
        "metadata": {
            "name": names(service).max_by_key(String::len).unwrap_or_else(|| replica::name(service, 0)),
            "namespace": namespace,
            "labels": service.labels,
        },
        "spec": { "address": "127.0.0.1", "serviceAccount": service.service_account },
    });
    validate(KindId::Workload.kind(), &workload)
}

fn say(service: &Field<'_>, error: &FieldError) {
    let of_map = |name, key: &str| {
        let map = service.get(name)?;
        map.entries("").into_iter().find(|(k, _)| *k == key).map(|(_, field)| field)
    };
    let (field, at_name) = match error.path.segments() {
        [_, Segment::Field(name), Segment::Key(key), ..] if name == "labels" => (of_map("labels", key), true),
        [_, Segment::Field(name), Segment::Key(key), ..] if name == "annotations" => {
            (of_map("annotations", key), true)
        }
        [_, Segment::Field(name), ..] if name == "annotations" => (service.get("annotations"), true),
        [_, Segment::Field(name), Segment::Index(index), ..] if name == "ports" => {
            let several = service.get("ports").and_then(|list| list.items("").get(*index).cloned());
            (several.or_else(|| service.get("port")), false)
        }
        [_, Segment::Field(name), ..] if name == "serviceAccount" => (service.get("serviceAccount"), false),
        _ => (None, true),
    };
    let field = field.unwrap_or_else(|| service.clone());
    match at_name {
        true => field.wrong_field(&error.message, "not taken"),
        false => field.wrong(&error.message, "not taken"),
    }
}

/// A replica may be called as another service is.
fn find_shared_names(services: &[Service], fields: &HashMap<String, Field<'_>>) {
    let mut owners: HashMap<String, &Service> = HashMap::new();
    // Those that have a name of their own come first: of the others it can be told what the clash is.
    let (single, several): (Vec<_>, Vec<_>) = services.iter().partition(|s| s.replicas == 1);
    for service in single.into_iter().chain(several) {
        for name in names(service) {
            match owners.get(&name) {
                None => _ = owners.insert(name, service),
                Some(other) => {
                    let message =
                        format!("`{name}`, the name of one of its processes, is taken by `{}`", other.name);
                    fields[&service.name].wrong_field(&message, "another name is expected");
                    break;
                }
            }
        }
    }
}

/// A Service finds its workloads by their label `app`.
fn find_shared_labels(services: &[Service], fields: &HashMap<String, Field<'_>>) {
    for service in services.iter().filter(|s| s.app() != s.name) {
        let other = services.iter().find(|other| {
            let served = !service.ports.is_empty() || !other.ports.is_empty();
            other.name != service.name && other.app() == service.app() && served
        });
        if let Some(other) = other {
            let field = fields[&service.name].get("labels").and_then(|labels| labels.get("app"));
            let message = format!(
                "`{}` is the label of `{}`, whose requests these would take",
                service.app(),
                other.name
            );
            field.unwrap_or_else(|| fields[&service.name].clone()).wrong(&message, "another one is expected");
        }
    }
}
