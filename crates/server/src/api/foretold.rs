//! What comes of an object beside those that there are, for whoever writes it: its status says the same, later.

use serde_json::Value;
use tulle_model::compile::{foretell, foretell_name, services_of_route};
use tulle_model::kinds::authorization_policy::{InNamespace, unmatched};
use tulle_model::name::NamespacedName;
use tulle_model::registry::{Kind, KindId};

use crate::flows::Flows;
use crate::objects::{ObjectError, Objects, Page};

/// With so many other routes of each kind a route is compared: what is said is true whatever others there are, and a
/// write costs no more the more there are.
const MOST_ROUTES: usize = 100;

/// What of a policy finds nothing to act on.
pub(super) async fn of_policy(objects: &Objects, policy: &Value) -> Result<Vec<String>, ObjectError> {
    let namespace = policy["metadata"]["namespace"].as_str();
    let services = objects.list(KindId::Service.kind(), namespace).await?.items;
    let workloads = objects.list(KindId::Workload.kind(), namespace).await?.items;
    let flows = objects.list(KindId::Flow.kind(), namespace).await?.items;
    Ok(unmatched(policy, InNamespace { services: &services, flows: &flows, workloads: &workloads }))
}

/// That a Service or a Flow does not have its name, as an older one of the other kind has it.
pub(super) async fn of_name(
    objects: &Objects,
    kind: &'static Kind,
    object: &Value,
) -> Result<Vec<String>, ObjectError> {
    let (namespace, name) = (&object["metadata"]["namespace"], &object["metadata"]["name"]);
    let (Some(namespace), Some(name)) = (namespace.as_str(), name.as_str()) else { return Ok(Vec::new()) };
    let other = if kind.id == KindId::Flow { KindId::Service } else { KindId::Flow };
    let found = objects.get(other.kind(), namespace, name).await?;
    Ok(Vec::from_iter(found.and_then(|found| foretell_name(kind.id, object, &found))))
}

/// What becomes of runs where an object is deleted: those of a Flow, and of all Flows in a Namespace.
pub(super) fn runs_lost(flows: &Flows, kind: &Kind, namespace: &str, name: &str) -> Vec<String> {
    let (of, flow) = match kind.id {
        KindId::Flow => (namespace, Some(name)),
        KindId::Namespace => (name, None),
        _ => return Vec::new(),
    };
    let goes =
        |found: &NamespacedName| *found.namespace == *of && flow.is_none_or(|flow| *found.name == *flow);
    let tallies = flows.tallies();
    tallies.iter().filter(|(flow, _)| goes(flow)).filter_map(|(flow, tally)| tally.lost_with(flow)).collect()
}

/// Where a route does nothing, and what it takes from others.
pub(super) async fn of_route(
    objects: &Objects,
    kind: &'static Kind,
    route: &Value,
) -> Result<Vec<String>, ObjectError> {
    let mut named = Vec::new();
    for name in services_of_route(kind, route) {
        for id in [KindId::Service, KindId::Flow] {
            let object = objects.get(id.kind(), &name.namespace, &name.name).await?;
            named.extend(object.map(|object| (id.kind(), object)));
        }
    }
    let namespace = route["metadata"]["namespace"].as_str();
    let mut others = Vec::new();
    for id in [KindId::HttpRoute, KindId::GrpcRoute, KindId::TlsRoute, KindId::TcpRoute] {
        let page = Page { limit: Some(MOST_ROUTES), ..Page::default() };
        let list = objects.list_page(id.kind(), namespace, &page).await?;
        others.extend(list.items.into_iter().map(|other| (id.kind(), other)));
    }
    // Large tables take a while to compile.
    let route = route.clone();
    let told = tokio::task::spawn_blocking(move || foretell(kind, &route, &others, &named));
    Ok(told.await.unwrap_or_default())
}
