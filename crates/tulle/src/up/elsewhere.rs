//! A mesh whose server is elsewhere: this host's services join it, and what the file says of Services and resources is compared
//! with what it has, or applied where a kubeconfig allows that.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;
use tulle_model::registry::{KINDS, Kind, KindId};
use tulle_node::Node;
use tulle_node::workloads::UpstreamService;

use super::config::Config;
use super::objects::{self, MANAGED_BY};
use super::screen::Screen;
use super::services::Services;
use crate::client::{Client, JSON, Query, resource};
use crate::commands::apply::{Became, apply_path, path_of};
use crate::exit::{Exit, Result};

/// How often what failed is tried again, and what others may have changed is looked at.
const RETRY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(30);

/// Has the server know the file, as far as this host may.
pub struct Elsewhere {
    /// The name of this host in the mesh.
    pub host: String,
    client: Option<Client>,
    changed: Notify,
    /// What there is to call in the namespace.
    known: Mutex<Vec<UpstreamService>>,
}

impl Elsewhere {
    /// `client`: who may apply what the file says.
    pub fn new(host: String, client: Option<Client>, known: Vec<UpstreamService>) -> Self {
        Self { host, client, changed: Notify::new(), known: Mutex::new(known) }
    }

    /// What there is to call in the namespace, as it was known at last.
    pub fn known(&self) -> Vec<UpstreamService> {
        self.known.lock().clone()
    }

    /// The file has changed.
    pub fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Has what the file says be known, now and whenever it changes; says what differs, here and in `tulle status`.
    pub async fn follow(&self, services: &Services, node: &Node, screen: &Screen) {
        let mut said = Vec::new();
        loop {
            let config = services.config();
            let settled = match &self.client {
                Some(client) => self.apply(client, &config).await,
                None => self.compare(node, &config).await,
            };
            let settled = settled.unwrap_or_else(|why| Settled {
                differences: vec![why],
                has_failed: true,
                ..Settled::default()
            });
            let Settled { done, differences, has_failed } = settled;
            let now: Vec<_> = done.iter().chain(&differences).cloned().collect();
            now.iter().filter(|line| !said.contains(*line)).for_each(|line| screen.say(line));
            node.workloads().warn(differences);
            said = now;
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(RETRY), if has_failed => {}
                // Who applies says it again when the file does: what others change meanwhile is theirs.
                () = sleep(LOOK), if !has_failed && self.client.is_none() => {}
            }
        }
    }

    /// What is different from what the server has, as this node may know of it: the ports of Services.
    async fn compare(&self, node: &Node, config: &Config) -> Result<Settled, String> {
        let known = node.services_of(&config.namespace).await;
        let known =
            known.map_err(|why| format!("Services are not compared with those of the mesh yet: {why:#}"))?;
        self.known.lock().clone_from(&known.services);
        let mut differences = Vec::new();
        for (name, ports) in services_of(config) {
            match known.services.iter().find(|known| *known.service.name == *name) {
                None if known.left_out > 0 => {}
                None => differences.push(format!(
                    "Service {}/{name} is not in the mesh: nobody can call it",
                    config.namespace
                )),
                Some(found) if found.ports.iter().copied().collect::<BTreeSet<_>>() == ports => {}
                Some(found) => differences.push(format!(
                    "Service {}/{name} has the ports {} in the mesh, and {} in the file",
                    config.namespace,
                    listed(&found.ports.iter().copied().collect()),
                    listed(&ports)
                )),
            }
        }
        if !config.resources.is_empty() {
            differences.push("the file's resources are not compared with those of the mesh".to_owned());
        }
        if let Some(last) = differences.last_mut() {
            last.push_str(" (`--kubeconfig FILE` applies what the file says)");
        }
        Ok(Settled { differences, ..Settled::default() })
    }

    async fn apply(&self, client: &Client, config: &Config) -> Result<Settled, String> {
        let mut settled = Settled::default();
        let wanted = objects::wanted(config);
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": config.namespace } });
        let is_there = client.find(&resource(KindId::Namespace.kind(), None, Some(&config.namespace))).await;
        let missing = matches!(is_there, Ok(None)).then_some((KindId::Namespace.kind(), namespace));
        for (kind, object) in missing.iter().chain(&wanted) {
            match self.put(client, config, kind, object).await {
                Ok(Put::Unchanged) => {}
                Ok(Put::Applied(how)) => {
                    settled.done.push(format!("{} {how} in the mesh", described(kind, object)))
                }
                Ok(Put::Differs(why)) => {
                    settled.differences.push(format!("{} {why}", described(kind, object)))
                }
                Err(failure) if failure.exit == Exit::Unreachable => return Err(failure.to_string()),
                Err(failure) => {
                    // What the server finds wrong with it stays so.
                    settled.has_failed |= failure.exit != Exit::Input && !failure.is_denied;
                    settled
                        .differences
                        .push(format!("{} is not applied: {failure}", described(kind, object)));
                }
            }
        }
        match self.remove_others(client, config, &wanted).await {
            Ok(removed) => settled.done.extend(removed),
            Err(failure) if failure.exit == Exit::Unreachable => return Err(failure.to_string()),
            Err(failure) => {
                settled.has_failed |= !failure.is_denied;
                settled.differences.push(format!("what the file no longer has stays in the mesh: {failure}"));
            }
        }
        Ok(settled)
    }

    /// Who owns the fields that this host's file sets (server-side apply).
    fn manager(&self, config: &Config) -> String {
        format!("{}:{}:{}", MANAGED_BY.1, config.name, self.host)
    }

    async fn put(&self, client: &Client, config: &Config, kind: &Kind, object: &Value) -> Result<Put> {
        let path = path_of(kind, object);
        let before = client.find(&path).await?;
        let manager = self.manager(config);
        let after = match client.apply(&apply_path(path.clone(), &manager, false, false), object).await {
            Ok(after) => after,
            Err(failure) if failure.exit == Exit::Conflict => {
                // The same file on another host may be older, or newer.
                let same = format!("{}:{}:", MANAGED_BY.1, config.name);
                let said = failure.to_string();
                match in_conflict(&said).into_iter().find(|other| !other.starts_with(&same)) {
                    Some(other) => {
                        let place = difference(object, before.as_ref().unwrap_or(&Value::Null));
                        let place = place.map_or_else(String::new, |(place, _)| format!(" in {place}"));
                        let why = format!("differs{place}, which is {other}'s: it stays as it is");
                        return Ok(Put::Differs(why));
                    }
                    None => client.apply(&apply_path(path.clone(), &manager, false, true), object).await?,
                }
            }
            Err(failure) if failure.is_denied => return Ok(compared(object, before.as_ref())),
            Err(failure) => return Err(failure),
        };
        Ok(match Became::of(before.as_ref(), &after) {
            Became::Created => Put::Applied("is created"),
            Became::Unchanged => Put::Unchanged,
            Became::Configured => Put::Applied("is changed"),
        })
    }

    /// Removes what this host's file had applied and has no more. What others have applied, too, stays as they have it.
    async fn remove_others(
        &self,
        client: &Client,
        config: &Config,
        wanted: &[(&'static Kind, Value)],
    ) -> Result<Vec<String>> {
        let manager = self.manager(config);
        let mut lines = Vec::new();
        let mut namespaces: BTreeSet<_> =
            wanted.iter().map(|(_, o)| o["metadata"]["namespace"].as_str()).collect();
        namespaces.extend([None, Some(config.namespace.as_str())]);
        let kinds = KINDS.iter().rev().filter(|kind| !kind.is_view() && kind.id != KindId::Node);
        let places = kinds.flat_map(|kind| namespaces.iter().map(move |namespace| (kind, *namespace)));
        let places = places.filter(|(kind, namespace)| kind.namespaced == namespace.is_some());
        for (kind, namespace) in places.collect::<Vec<_>>() {
            let list = Query::new(resource(kind, namespace, None));
            let list = list.set("labelSelector", &format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)).finish();
            let list = match client.get(&list, JSON).await {
                Ok(list) => list,
                // Of what it may not see, it has applied nothing.
                Err(failure) if failure.is_denied => continue,
                Err(failure) => return Err(failure),
            };
            for object in list["items"].as_array().into_iter().flatten() {
                let is_wanted = wanted
                    .iter()
                    .any(|(of, wanted)| *of == kind && path_of(kind, wanted) == path_of(kind, object));
                // What does not run now is still in the file.
                let rests = kind.id == KindId::Service
                    && namespace == Some(config.namespace.as_str())
                    && config.resting.iter().any(|service| object["metadata"]["name"] == *service.name);
                if is_wanted || rests || !objects::owners(object).any(|owner| owner == manager) {
                    continue;
                }
                let path = path_of(kind, object);
                if objects::owners(object).any(|owner| owner != manager) {
                    let none = json!({
                        "apiVersion": kind.api_version(),
                        "kind": kind.kind,
                        "metadata": { "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"] },
                    });
                    client.apply(&apply_path(path.clone(), &manager, false, false), &none).await?;
                    lines.push(format!("{} is others' alone now in the mesh", described(kind, object)));
                } else {
                    client.delete(&path).await?;
                    lines.push(format!("{} is removed in the mesh", described(kind, object)));
                }
            }
        }
        Ok(lines)
    }
}

/// What was done, and found out.
#[derive(Default)]
struct Settled {
    done: Vec<String>,
    /// What is not as the file has it, or not known.
    differences: Vec<String>,
    /// Something is to be tried again.
    has_failed: bool,
}

/// The Services of the file's namespace, with their ports, also those that it describes itself.
fn services_of(config: &Config) -> Vec<(String, BTreeSet<u16>)> {
    let wanted = objects::wanted(config).into_iter();
    let is_it = |(kind, object): &(&Kind, Value)| {
        kind.id == KindId::Service && object["metadata"]["namespace"] == *config.namespace
    };
    let named = |(_, object): (&Kind, Value)| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let ports = object["spec"]["ports"].as_array().into_iter().flatten();
        let ports = ports.filter_map(|port| u16::try_from(port["port"].as_u64()?).ok()).collect();
        (name, ports)
    };
    wanted.filter(is_it).map(named).filter(|(_, ports): &(_, BTreeSet<u16>)| !ports.is_empty()).collect()
}

/// Who owns the fields for which the server refuses an apply, by its message.
fn in_conflict(message: &str) -> Vec<String> {
    let named = message.split("conflict with \"").skip(1).chain(message.split("conflicts with \"").skip(1));
    named.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

/// What became of an object.
enum Put {
    Unchanged,
    Applied(&'static str),
    Differs(String),
}

/// What who may not write can say.
fn compared(object: &Value, before: Option<&Value>) -> Put {
    let Some(before) = before else {
        return Put::Differs("is not in the mesh, and the kubeconfig's user may not apply it".to_owned());
    };
    match difference(object, before) {
        None => Put::Unchanged,
        Some((place, found)) => Put::Differs(format!(
            "differs in {place}, which is {found} in the mesh; the kubeconfig's user may not apply it"
        )),
    }
}

/// The first field of `wanted` that `found` has not so, with what it has.
fn difference(wanted: &Value, found: &Value) -> Option<(String, String)> {
    fn walk(wanted: &Value, found: &Value, place: &str) -> Option<(String, String)> {
        match (wanted, found) {
            (Value::Object(wanted), Value::Object(found)) => wanted.iter().find_map(|(name, value)| {
                let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
                walk(value, found.get(name).unwrap_or(&Value::Null), &place)
            }),
            (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
                let pairs = wanted.iter().zip(found).enumerate();
                pairs
                    .into_iter()
                    .find_map(|(index, (wanted, found))| walk(wanted, found, &format!("{place}[{index}]")))
            }
            _ if wanted == found => None,
            _ => Some((place.to_owned(), found.to_string())),
        }
    }
    let mut wanted = wanted.clone();
    // Whose it is says nothing of what it does.
    if let Some(labels) = wanted["metadata"]["labels"].as_object_mut() {
        labels.remove(MANAGED_BY.0);
    }
    walk(&wanted, found, "")
}

fn described(kind: &Kind, object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{} {namespace}/{name}", kind.kind),
        None => format!("{} {name}", kind.kind),
    }
}

fn listed(ports: &BTreeSet<u16>) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::config::of_text as read;
    use super::*;

    #[test]
    fn a_difference_is_named_by_its_field() {
        let wanted = json!({
            "metadata": { "name": "a", "labels": { "app": "a", (MANAGED_BY.0): MANAGED_BY.1 } },
            "spec": { "ports": [{ "port": 80 }] },
        });
        let mut found = wanted.clone();
        found["metadata"]["labels"] = json!({ "app": "a", "more": "x" });
        found["spec"]["type"] = "ClusterIP".into();
        assert_eq!(
            difference(&wanted, &found),
            None,
            "what it says nothing of, and whose it is, is no matter"
        );
        found["spec"]["ports"][0]["port"] = 81.into();
        assert_eq!(difference(&wanted, &found), Some(("spec.ports[0].port".to_owned(), "81".to_owned())));
        found["spec"]["ports"] = json!([]);
        assert_eq!(difference(&wanted, &found), Some(("spec.ports".to_owned(), "[]".to_owned())));
        let Put::Differs(why) = compared(&wanted, None) else { panic!("it is not there") };
        assert!(why.starts_with("is not in the mesh"), "{why}");
        assert!(matches!(compared(&wanted, Some(&wanted)), Put::Unchanged));
    }

    #[test]
    fn a_conflict_is_with_whom_the_server_names() {
        let one = "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.ports";
        assert_eq!(in_conflict(one), ["kubectl"]);
        let two = "Apply failed with 2 conflicts: conflicts with \"tulle-up:shop:b\":\n- .a\nconflicts with \"x\":\n- .b";
        assert_eq!(in_conflict(two), ["tulle-up:shop:b", "x"]);
    }

    #[test]
    fn services_are_compared_as_the_file_describes_them_at_last() {
        let text = "services:\n  web: {command: x, port: 8080}\n  api: {command: x, port: 81}\n---\napiVersion: v1\nkind: Service\n\
                    metadata: {name: web}\nspec: {ports: [{port: 80, targetPort: 8080}]}\n";
        let mut services = services_of(&read(text).unwrap());
        services.sort();
        assert_eq!(services, [("api".to_owned(), [81].into()), ("web".to_owned(), [80].into())]);
    }
}
