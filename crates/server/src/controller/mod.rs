//! From stored objects to what nodes get: follows the store, compiles what changed, publishes it, and
//! has statuses ([`status`]) and EndpointSlices ([`slices`]) written.
//!
//! Changes that wait are taken together and compiled once. When the store's log has dropped what
//! comes next (the controller was too slow), it lists everything and compiles what differs from what
//! it knows; last good forms stay in force.

mod entries;
mod policies;
pub mod slices;
pub mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tulle_model::compile::{Change, Compiler, Effects};
use tulle_model::identity::TrustDomain;
use tulle_model::kinds::mesh::MESH;
use tulle_model::name::NamespacedName;
use tulle_model::registry::{KINDS, Kind, KindId};
use tulle_model::snapshot::{MeshSettings, SessionKey};
use tulle_wire::discovery as wire;

use self::slices::SliceWriter;
use self::status::{Report, StatusWriter, is_refused};
use crate::events::{Events, Severity};
use crate::fleet::{self, Fleet};
use crate::key_sets::KeySets;
use crate::metrics::Metrics;
use crate::objects::{ObjectError, ObjectEvent, ObjectWatch, Objects, Page, Position};
use crate::publication::{Form, Key, Publication, ResourceType};
use crate::revocations::Revocations;

/// How many changes are compiled together at most.
const BATCH: usize = 1024;
/// How long to wait after the store has failed.
const RETRY: Duration = Duration::from_millis(500);

/// Whether a Node is to take no traffic.
fn is_drained(node: &Value) -> bool {
    node["spec"]["drained"] == true
}

/// Those who write what comes of a change.
pub struct Writers {
    pub statuses: Arc<StatusWriter>,
    pub slices: Arc<SliceWriter>,
    pub events: Arc<Events>,
}

/// Compiles and publishes.
pub struct Controller {
    objects: Objects,
    publication: Arc<Publication>,
    writers: Writers,
    metrics: Arc<Metrics>,
    fleet: Arc<Fleet>,
    key_sets: KeySets,
    revocations: Revocations,
    compiler: Compiler,
    session_key: SessionKey,
    watch: ObjectWatch,
    /// Policies whose keys are not read, and why, as it was said last.
    unread: BTreeSet<(NamespacedName, String)>,
}

impl Controller {
    /// Compiles and publishes all that is stored.
    pub async fn start(
        objects: Objects,
        (domain, session_key): (TrustDomain, SessionKey),
        publication: Arc<Publication>,
        writers: Writers,
        metrics: Arc<Metrics>,
        fleet: Arc<Fleet>,
        (key_sets, revocations): (KeySets, Revocations),
    ) -> Result<Self, ObjectError> {
        let watch = objects.watch_all(objects.revision().await?).await?;
        let mut compiler = Compiler::new(domain);
        for (source, set) in key_sets.known() {
            drop(compiler.set_keys(source, set));
        }
        let mut controller = Self {
            objects,
            publication,
            writers,
            metrics,
            fleet,
            key_sets,
            revocations,
            compiler,
            session_key,
            watch,
            unread: BTreeSet::new(),
        };
        controller.relist().await?;
        Ok(controller)
    }

    /// Follows the store until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut revocations = self.revocations.changes();
        // Some may have been revoked since the start.
        self.publish(&Effects { mesh: true, ..Effects::default() });
        loop {
            let events = tokio::select! {
                () = stop.cancelled() => return,
                events = self.watch.next_batch(BATCH) => events,
                sets = self.key_sets.changed() => {
                    for (source, set) in sets {
                        let effects = self.compiler.set_keys(source, set);
                        self.publish(&effects);
                    }
                    continue;
                }
                () = revocations.changed() => {
                    self.publish(&Effects { mesh: true, ..Effects::default() });
                    continue;
                }
            };
            match events {
                Ok(events) => self.follow(events),
                Err(error) => self.start_over(&error, &stop).await,
            }
        }
    }

    /// From a list, when what comes next is not known.
    async fn start_over(&mut self, error: &ObjectError, stop: &CancellationToken) {
        tracing::warn!(%error, "the controller starts over from a list");
        self.metrics.relists.add(1);
        while let Err(error) = self.relist().await {
            tracing::error!(%error, "cannot list the stored objects; trying again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Takes changes that came together.
    fn follow(&mut self, events: Vec<ObjectEvent>) {
        let changes: Vec<_> = events.into_iter().map(|event| self.change(event)).collect();
        self.metrics.objects_compiled.add(changes.len() as u64);
        let is_policy = |change: &Change| match change {
            Change::Put(kind, _) | Change::Delete(kind, _) => {
                matches!(kind.id, KindId::AuthorizationPolicy | KindId::ExternalService | KindId::Mesh)
            }
        };
        let about_policies = changes.iter().any(is_policy);
        let effects = self.compiler.apply_all(changes);
        self.publish(&effects);
        if about_policies {
            self.want_keys();
        }
    }

    /// Has the keys read that policies name, as far as egress lets them; others are taken from the nodes.
    fn want_keys(&mut self) {
        let (sources, effects) = self.compiler.settle_keys();
        self.publish(&effects);
        for (source, set) in self.key_sets.want(sources.wanted) {
            let effects = self.compiler.set_keys(source, set);
            self.publish(&effects);
        }
        let mut unread = BTreeSet::new();
        for (policy, source, held) in sources.refused {
            let message = format!("the keys at {source} are not read: {} ({})", held.message, held.decision);
            if !self.unread.contains(&(policy.clone(), message.clone())) {
                tracing::warn!(%policy, "{message}");
                let about = (KindId::AuthorizationPolicy.kind(), &*policy.namespace, &*policy.name);
                self.writers.events.record(Severity::Warning, about, "KeysNotRead", &message);
            }
            unread.insert((policy, message));
        }
        self.unread = unread;
    }

    fn change(&self, event: ObjectEvent) -> Change {
        let ObjectEvent { kind, namespace, name, object, previous, .. } = event;
        let name = NamespacedName::new(namespace, name);
        if kind.id == KindId::EndpointSlice {
            [&object, &previous].into_iter().flatten().for_each(|slice| self.writers.slices.changed(slice));
        }
        if let (KindId::Workload, Some(now), Some(before)) = (kind.id, &object, &previous) {
            self.tell_readiness(before, now, &name);
        }
        if kind.id == KindId::Node {
            self.fleet.set_drained(&name.name, object.as_deref().is_some_and(is_drained));
        }
        match (object, previous) {
            (Some(object), _) => Change::Put(kind, object),
            (None, previous) => {
                if let Some(previous) = previous.filter(|_| kind.id == KindId::Workload) {
                    self.fleet.deleted(&previous, name.clone());
                }
                Change::Delete(kind, name)
            }
        }
    }

    /// Says that a workload takes traffic again, or why it does not any more.
    fn tell_readiness(&self, before: &Value, now: &Value, name: &NamespacedName) {
        if let Some((severity, reason, message)) = readiness_event(before, now) {
            let about = (KindId::Workload.kind(), &*name.namespace, &*name.name);
            self.writers.events.record(severity, about, reason, message);
        }
    }

    async fn relist(&mut self) -> Result<(), ObjectError> {
        let revision = self.objects.revision().await?;
        let page = Page { revision: Some(revision), ..Page::default() };
        let mut objects: Vec<(&'static Kind, Arc<Value>)> = Vec::new();
        for kind in KINDS.iter().filter(|kind| !kind.is_view()) {
            let list = self.objects.list_page(kind, None, &page).await?;
            objects.extend(list.items.into_iter().map(|object| (kind, Arc::new(object))));
        }
        self.watch = self.objects.watch_all(revision).await?;
        let drained = objects.iter().filter(|(kind, node)| kind.id == KindId::Node && is_drained(node));
        self.fleet.set_all_drained(&drained.map(|(_, node)| Position::of(node).name).collect());
        self.metrics.objects_compiled.add(objects.len() as u64);
        // Refused when they were last looked at; the compiler tells only of those that still are.
        let refused: Vec<_> = objects
            .iter()
            .filter(|(_, object)| is_refused(object))
            .map(|(kind, object)| {
                let Position { namespace, name } = Position::of(object);
                (*kind, NamespacedName::new(namespace, name))
            })
            .collect();
        let mut effects = self.compiler.replace_all(objects);
        effects.mesh = true;
        effects.statuses.extend(refused);
        self.publish(&effects);
        self.want_keys();
        self.fleet.missed_deletions();
        Ok(())
    }

    fn publish(&self, effects: &Effects) {
        let mut changes = Vec::new();
        if effects.mesh {
            let mut mesh = MeshSettings::clone(&self.compiler.mesh());
            mesh.session_key = Some(self.session_key.clone());
            mesh.revoked = self.revocations.list();
            let body = wire::Mesh::from(&mesh).encode_to_vec();
            changes.push((Key::new(ResourceType::Mesh, MESH), Some(Form::new(body))));
        }
        for name in &effects.workloads {
            let local = self.compiler.workload(name);
            let form = local.map(|local| Form::of_workload(local.node.clone(), &local.config));
            changes.push((Key::new(ResourceType::Workload, name.to_string()), form));
        }
        for name in &effects.endpoints {
            let body = self.compiler.endpoints(name).map(|set| wire::Endpoints::from(&*set).encode_to_vec());
            changes.push((Key::new(ResourceType::Endpoints, name.to_string()), body.map(Form::new)));
        }
        for name in &effects.slices {
            self.writers.slices.set(name.clone(), self.compiler.own_slices(name));
        }
        for name in &effects.services {
            let form = self.compiler.service(name).map(|service| Form::of_service(&service));
            changes.push((Key::new(ResourceType::Service, name.to_string()), form));
        }
        let published = self.publication.publish(changes);
        self.metrics.resources_published.add(published as u64);
        for (kind, name) in &effects.statuses {
            let problem = self.compiler.problem(kind, name);
            if let Some(problem) = problem {
                tracing::warn!(kind = kind.kind, object = %name, "does not compile: {problem}");
                let about = (*kind, &*name.namespace, &*name.name);
                self.writers.events.record(Severity::Warning, about, "NotCompiled", &problem.to_string());
            }
            let report = match kind.id {
                KindId::HttpRoute | KindId::GrpcRoute | KindId::TlsRoute | KindId::TcpRoute => {
                    self.compiler.route_status(kind, name).map(|parents| Report::Route(parents.to_vec()))
                }
                KindId::BackendTlsPolicy => {
                    self.compiler.tls_status(name).map(|targets| Report::Policy(targets.to_vec()))
                }
                KindId::AuthorizationPolicy => {
                    self.compiler.policy_status(name).map(|targets| Report::Policy(targets.to_vec()))
                }
                KindId::Flow => {
                    self.compiler.flow_status(name).map(|conditions| Report::Flow(conditions.to_vec()))
                }
                _ => Some(Report::Accepted(self.compiler.refusal(kind.id, name))),
            };
            if kind.has_status {
                self.writers.statuses.set(kind, name.clone(), report);
            }
        }
    }
}

/// What is to be told of a workload that takes traffic again, or does not any more: severity, reason and message.
/// Only what is not ready by itself is a warning.
fn readiness_event<'a>(before: &Value, now: &'a Value) -> Option<(Severity, &'static str, &'a str)> {
    let (was, _) = readiness(before)?;
    match (was, readiness(now)?) {
        (true, (false, why)) if fleet::is_asked_for(why) => Some((Severity::Normal, "Unready", why)),
        (true, (false, why)) => Some((Severity::Warning, "Unready", why)),
        (false, (true, _)) => Some((Severity::Normal, "Ready", "it takes traffic")),
        _ => None,
    }
}

/// Whether a workload is ready, and why not.
fn readiness(workload: &Value) -> Option<(bool, &str)> {
    let mut conditions = workload["status"]["conditions"].as_array()?.iter();
    let ready = conditions.find(|condition| condition["type"] == "Ready")?;
    Some((ready["status"] == "True", ready["message"].as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stop_that_somebody_asked_for_is_no_warning() {
        let workload = |ready: bool, why: &str| {
            let status = if ready { "True" } else { "False" };
            let other = json!({ "type": "Other", "status": "False", "message": "it is stopping" });
            let ready = json!({ "type": "Ready", "status": status, "message": why });
            json!({ "status": { "conditions": [other, ready] } })
        };
        let ready = workload(true, "");
        for (why, severity) in [
            ("it is stopping", Severity::Normal),
            ("its node is drained", Severity::Normal),
            ("its process is not running", Severity::Normal),
            ("its process is not running: it was ended by SIGKILL", Severity::Warning),
            ("its process is not running: it ended with code 1", Severity::Warning),
            ("the probe failed: it is stopping", Severity::Warning),
            ("", Severity::Warning),
        ] {
            let unready = workload(false, why);
            assert_eq!(readiness_event(&ready, &unready), Some((severity, "Unready", why)), "{why}");
            let again = readiness_event(&unready, &ready);
            assert_eq!(again, Some((Severity::Normal, "Ready", "it takes traffic")), "{why}");
            assert_eq!(readiness_event(&unready, &workload(false, "it is stopping")), None, "{why}");
        }
        assert_eq!(readiness_event(&ready, &ready), None);
        assert_eq!(readiness_event(&json!({}), &ready), None);
        assert_eq!(readiness_event(&ready, &json!({ "status": {} })), None);
    }
}
