//! Puts the snapshot together out of what the server sends; no socket, no clock.
//!
//! A service's configuration is held back until the endpoints of all services that its routes lead to
//! are known, so that no request ever meets a route whose backend is not there yet. The server's
//! message is acknowledged when the proxy has it, not before. What cannot be read is refused object
//! by object: the last good form stays in force.

mod own_workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use tulle_model::apart;
use tulle_model::name::{NamespacedName, ServiceName, WorkloadName};
use tulle_model::snapshot::{EndpointSet, FastMap, Known, MeshSettings, ServiceConfig, Shape, Snapshot};
use tulle_wire::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Status};
use tulle_wire::{discovery, type_url};

use self::own_workloads::OwnWorkloads;

/// How many services a node subscribes to, at most. Beyond it, the name that was asked for longest
/// ago and does not exist is forgotten; where all exist, new ones are refused.
pub const MOST_SUBSCRIPTIONS: usize = 4096;

/// How many names of single endpoints that do not exist are remembered. Beyond it, all are forgotten.
const MOST_MISSING: usize = 1024;

/// The name of the only Mesh resource.
const MESH_NAME: &str = "default";

/// How many messages may wait to be acknowledged, at most: the server sends no more once too many do,
/// and what they wait for may be among what it does not send. The oldest is acknowledged early.
const MOST_UNACKNOWLEDGED: usize = 8;

/// google.rpc.Code.INVALID_ARGUMENT, for a message that could not be taken over as a whole.
const INVALID_ARGUMENT: i32 = 3;

/// What became of a wish for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demanded {
    /// The server will be asked.
    New,
    /// It was asked for before.
    Already,
    /// Too many.
    Refused,
}

#[derive(Default)]
pub struct Assembler {
    services: FastMap<ServiceName, Subscription>,
    /// Those that are subscribed to.
    endpoints: FastMap<ServiceName, Endpoints>,
    mesh: Option<(Arc<MeshSettings>, Resource)>,
    /// The server has spoken of it, if only to say that it has nothing to say.
    mesh_told: bool,
    workloads: OwnWorkloads,
    generation: u64,
    changed: bool,
    /// Messages for the server.
    outbox: Vec<DeltaDiscoveryRequest>,
    /// Acknowledgements that wait for services to be published.
    unacknowledged: Vec<Unacknowledged>,
    /// Counts the wishes, for the order in which they came.
    wishes: u64,
    /// The endpoints of headless services, by these.
    apart: FastMap<ServiceName, Apart>,
    /// Single endpoints that were asked for.
    asked_apart: BTreeSet<ServiceName>,
}

/// A headless service, and what it is in its parts.
struct Apart {
    config: Arc<ServiceConfig>,
    set: Arc<EndpointSet>,
    services: Vec<(Arc<ServiceConfig>, Arc<EndpointSet>)>,
}

impl Apart {
    /// What has not changed since `before` stays the same, also in memory.
    fn new(config: &Arc<ServiceConfig>, set: &Arc<EndpointSet>, before: Option<Self>) -> Self {
        let same = |before: &Self| Arc::ptr_eq(&before.config, config) && Arc::ptr_eq(&before.set, set);
        let before = match before {
            Some(before) if same(&before) => return before,
            before => before.map_or(Vec::new(), |before| before.services),
        };
        let before: FastMap<_, _> =
            before.iter().map(|(config, set)| (&config.name, (config, set))).collect();
        let kept = |(config, set): (ServiceConfig, EndpointSet)| match before.get(&config.name) {
            Some((old, old_set)) if ***old == config && ***old_set == set => {
                ((*old).clone(), (*old_set).clone())
            }
            _ => (Arc::new(config), Arc::new(set)),
        };
        let services = apart::services(config, set).into_iter().map(kept).collect();
        Self { config: config.clone(), set: set.clone(), services }
    }
}

#[derive(Default)]
struct Subscription {
    /// What is published.
    current: Option<Known<ServiceConfig>>,
    /// Waits for endpoints.
    pending: Option<Arc<ServiceConfig>>,
    /// What the server sent last.
    resource: Option<Resource>,
    last_wish: u64,
}

#[derive(Default)]
struct Endpoints {
    known: Option<Arc<EndpointSet>>,
    resource: Option<Resource>,
}

struct Unacknowledged {
    nonce: String,
    waits_for: Vec<ServiceName>,
    error: Option<Status>,
}

/// What is kept on disk: the server's own messages.
#[derive(Clone, PartialEq, prost::Message)]
struct Saved {
    #[prost(message, repeated, tag = "1")]
    responses: Vec<DeltaDiscoveryResponse>,
    /// The server told nothing of workloads.
    #[prost(bool, tag = "2")]
    workloads_untold: bool,
}

impl Assembler {
    /// Asks for a service, the caller wanting to use it now.
    pub fn demand(&mut self, name: &ServiceName) -> Demanded {
        if let Some(parent) = apart::parent(name) {
            if self.asked_apart.len() >= MOST_MISSING {
                self.asked_apart.clear();
            }
            // It is answered with what is published, whatever that is.
            self.changed |= self.asked_apart.insert(name.clone());
            return self.demand(&parent);
        }
        self.wishes += 1;
        if let Some(subscription) = self.services.get_mut(name) {
            subscription.last_wish = self.wishes;
            return Demanded::Already;
        }
        if self.services.len() >= MOST_SUBSCRIPTIONS && !self.forget_oldest_absent() {
            return Demanded::Refused;
        }
        self.services.insert(name.clone(), Subscription { last_wish: self.wishes, ..Default::default() });
        self.outbox.push(subscribe(type_url::SERVICE, [name.to_string()]));
        self.subscribe_to_endpoints();
        Demanded::New
    }

    /// A new stream to the server: it is told of everything again, and what the old stream was to
    /// acknowledge is void.
    pub fn connected(&mut self) {
        self.unacknowledged.clear();
        self.outbox.clear();
        self.workloads.connected();
        self.outbox.push(subscribe(type_url::MESH, [MESH_NAME.to_owned()]));
        // With the versions that are here (hashes of the content), so that only changes come.
        let services: BTreeMap<_, _> = self.services.iter().map(|(n, s)| (n, s.resource.as_ref())).collect();
        if !services.is_empty() {
            self.outbox.push(subscribe_again(type_url::SERVICE, services));
        }
        let endpoints: BTreeMap<_, _> =
            self.endpoints.iter().map(|(n, e)| (n, e.resource.as_ref())).collect();
        if !endpoints.is_empty() {
            self.outbox.push(subscribe_again(type_url::ENDPOINTS, endpoints));
        }
    }

    /// What the server of this stream says that it knows: type URLs, with commas between them.
    pub fn told_of(&mut self, known: &str) {
        if known.split(',').any(|url| url.trim() == type_url::WORKLOAD) {
            self.outbox.extend(self.workloads.told());
        } else {
            self.changed |= self.workloads.untold();
        }
    }

    /// The node has these workloads now, and no others.
    pub fn run<'n>(&mut self, names: impl Iterator<Item = &'n WorkloadName>) {
        let requests = self.workloads.run(names);
        self.outbox.extend(requests);
    }

    /// Takes over a message of the server.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) {
        let DeltaDiscoveryResponse { resources, type_url, nonce, removed_resources, resource_errors, .. } =
            response;
        let mut waits_for = Vec::new();
        let mut errors = Vec::new();
        if type_url == type_url::WORKLOAD {
            self.changed |= self.workloads.heard();
        }
        for resource in resources {
            let name = resource.name.clone();
            match self.take(&type_url, resource) {
                Ok(Some(service)) => waits_for.push(service),
                Ok(None) => {}
                Err(why) => {
                    tracing::warn!("{name} of type {type_url} is refused, what was known stays: {why}");
                    if type_url == type_url::WORKLOAD {
                        self.changed |= self.workloads.cannot_read(&name, &why);
                    }
                    errors.push(format!("{name}: {why}"));
                }
            }
        }
        for name in removed_resources {
            match name.parse() {
                Ok(service) => self.remove(&type_url, &service),
                Err(e) if type_url != type_url::MESH => errors.push(format!("{e}")),
                Err(_) => self.set_mesh(None),
            }
        }
        for refused in resource_errors {
            let name = refused.resource_name.unwrap_or_default().name;
            let why = refused.error_detail.unwrap_or_default().message;
            tracing::info!("the server does not tell this node of {name}: {why}");
            if let Ok(name) = name.parse() {
                self.remove(&type_url, &name);
            }
        }
        let error = (!errors.is_empty()).then(|| Status {
            code: INVALID_ARGUMENT,
            message: errors.join("; ").chars().take(type_url::LONGEST_ERROR).collect(),
        });
        if type_url == type_url::SERVICE {
            self.unacknowledged.push(Unacknowledged { nonce, waits_for, error });
        } else {
            self.outbox.push(acknowledgement(&type_url, nonce, error));
        }
        self.settle();
    }

    /// The snapshot, where it has changed since the last call.
    pub fn take_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.generation += 1;
        let mesh = self.mesh.as_ref().map(|(settings, _)| settings.clone()).unwrap_or_default();
        let services = self.services.iter();
        let mut services: FastMap<_, _> =
            services.filter_map(|(n, s)| Some((n.clone(), s.current.clone()?))).collect();
        let endpoints = self.endpoints.iter();
        let mut endpoints: FastMap<_, _> =
            endpoints.filter_map(|(n, e)| Some((n.clone(), e.known.clone()?))).collect();
        self.take_apart(&mut services, &mut endpoints);
        Some(Arc::new(Snapshot {
            generation: self.generation,
            mesh,
            mesh_untold: !self.mesh_told,
            services,
            endpoints,
            workloads: self.workloads.configs(),
            unread: self.workloads.unread(),
            closed_until_told: self.workloads.is_closed_until_told(),
        }))
    }

    /// Adds the endpoints of headless services, and that those do not exist that were asked for and are not among them.
    fn take_apart(
        &mut self,
        services: &mut FastMap<ServiceName, Known<ServiceConfig>>,
        endpoints: &mut FastMap<ServiceName, Arc<EndpointSet>>,
    ) {
        let mut before = std::mem::take(&mut self.apart);
        let headless = services.values().filter_map(|known| match known {
            Known::Present(config) if config.shape == Shape::Headless => Some(config),
            _ => None,
        });
        for config in headless {
            if let Some(set) = endpoints.get(&config.name) {
                let apart = Apart::new(config, set, before.remove(&config.name));
                self.apart.insert(config.name.clone(), apart);
            }
        }
        for (config, set) in self.apart.values().flat_map(|apart| &apart.services) {
            services.insert(config.name.clone(), Known::Present(config.clone()));
            endpoints.insert(config.name.clone(), set.clone());
        }
        for name in &self.asked_apart {
            let parent_is_known = apart::parent(name).is_some_and(|parent| services.contains_key(&parent));
            if parent_is_known && !services.contains_key(name) {
                services.insert(name.clone(), Known::Absent);
            }
        }
    }

    /// The messages for the server, in their order. Acknowledgements are for the snapshot that
    /// [`Assembler::take_snapshot`] gives: publish that first.
    pub fn take_requests(&mut self) -> Vec<DeltaDiscoveryRequest> {
        std::mem::take(&mut self.outbox)
    }

    /// All that is known, for [`Assembler::restore`].
    pub fn save(&self) -> Vec<u8> {
        let of_type =
            |type_url: &str| DeltaDiscoveryResponse { type_url: type_url.to_owned(), ..Default::default() };
        let mut mesh = of_type(type_url::MESH);
        mesh.resources.extend(self.mesh.iter().map(|(_, resource)| resource.clone()));
        if self.mesh_told && self.mesh.is_none() {
            mesh.removed_resources.push(MESH_NAME.to_owned());
        }
        let mut services = of_type(type_url::SERVICE);
        for (name, subscription) in &self.services {
            match (&subscription.resource, &subscription.current) {
                (Some(resource), _) => services.resources.push(resource.clone()),
                (None, Some(Known::Absent)) => services.removed_resources.push(name.to_string()),
                (None, _) => {}
            }
        }
        let mut endpoints = of_type(type_url::ENDPOINTS);
        for (name, state) in &self.endpoints {
            match (&state.resource, &state.known) {
                (Some(resource), _) => endpoints.resources.push(resource.clone()),
                (None, Some(_)) => endpoints.removed_resources.push(name.to_string()),
                (None, None) => {}
            }
        }
        let mut workloads = of_type(type_url::WORKLOAD);
        workloads.resources.extend(self.workloads.resources());
        let workloads_untold = !self.workloads.is_closed_until_told();
        Saved { responses: vec![mesh, services, endpoints, workloads], workloads_untold }.encode_to_vec()
    }

    /// What [`Assembler::save`] made; what of it cannot be read is left out.
    pub fn restore(saved: &[u8]) -> Result<Self, prost::DecodeError> {
        let saved = Saved::decode(saved)?;
        let mut assembler = Self::default();
        for response in &saved.responses {
            if response.type_url == type_url::SERVICE {
                let names = response.resources.iter().map(|r| &r.name).chain(&response.removed_resources);
                for name in names.filter_map(|n| n.parse().ok()) {
                    assembler.demand(&name);
                }
            }
            if response.type_url == type_url::WORKLOAD {
                let names = response.resources.iter().filter_map(|resource| resource.name.parse().ok());
                names.for_each(|name| assembler.workloads.remember(name));
            }
        }
        // What an older version of the node has kept says nothing of them.
        let tells = saved.responses.iter().any(|response| response.type_url == type_url::WORKLOAD);
        for response in saved.responses {
            assembler.receive(response);
        }
        assembler.workloads.restore_untold(saved.workloads_untold || !tells);
        // Nobody is there to hear them.
        assembler.outbox.clear();
        assembler.unacknowledged.clear();
        Ok(assembler)
    }

    /// Takes over one resource; the service that has to be published before it is in force, if any.
    fn take(&mut self, type_url: &str, resource: Resource) -> Result<Option<ServiceName>, String> {
        if type_url == type_url::WORKLOAD {
            self.changed |= self.workloads.take(resource)?;
            // Who is asked about requests is known before the first comes.
            for service in self.workloads.asked() {
                self.demand(&service);
            }
            return Ok(None);
        }
        let any = resource.resource.as_ref().ok_or("it is empty")?;
        let bytes = any.value.as_slice();
        match type_url {
            type_url::MESH => {
                let message = discovery::Mesh::decode(bytes).map_err(|e| e.to_string())?;
                self.set_mesh(Some((Arc::new(MeshSettings::from(message)), resource)));
                Ok(None)
            }
            type_url::SERVICE => {
                let message = discovery::Service::decode(bytes).map_err(|e| e.to_string())?;
                let config = ServiceConfig::try_from(message).map_err(|e| e.to_string())?;
                // Not subscribed any more: nothing to do.
                let Some(subscription) = self.services.get_mut(&config.name) else { return Ok(None) };
                let name = config.name.clone();
                subscription.pending = Some(Arc::new(config));
                subscription.resource = Some(resource);
                Ok(Some(name))
            }
            type_url::ENDPOINTS => {
                let message = discovery::Endpoints::decode(bytes).map_err(|e| e.to_string())?;
                let set = EndpointSet::try_from(message).map_err(|e| e.to_string())?;
                if let Some(state) = self.endpoints.get_mut(&set.service) {
                    if state.known.as_deref() != Some(&set) {
                        state.known = Some(Arc::new(set));
                        self.changed = true;
                    }
                    state.resource = Some(resource);
                }
                Ok(None)
            }
            other => Err(format!("its type {other} is unknown")),
        }
    }

    fn remove(&mut self, type_url: &str, name: &NamespacedName) {
        match type_url {
            type_url::WORKLOAD => self.workloads.remove(name),
            type_url::SERVICE => {
                if let Some(subscription) = self.services.get_mut(name) {
                    subscription.pending = None;
                    subscription.resource = None;
                    self.changed |= subscription.current != Some(Known::Absent);
                    subscription.current = Some(Known::Absent);
                }
            }
            type_url::ENDPOINTS => {
                if let Some(state) = self.endpoints.get_mut(name) {
                    let empty = EndpointSet::new(name.clone(), Vec::new());
                    self.changed |= state.known.as_deref() != Some(&empty);
                    *state = Endpoints { known: Some(Arc::new(empty)), resource: None };
                }
            }
            _ => {}
        }
    }

    fn set_mesh(&mut self, mesh: Option<(Arc<MeshSettings>, Resource)>) {
        self.changed |= self.mesh.as_ref().map(|(s, _)| s) != mesh.as_ref().map(|(s, _)| s);
        self.changed |= !std::mem::replace(&mut self.mesh_told, true);
        self.mesh = mesh;
    }

    /// Publishes what waited for nothing but what is there now, and acknowledges it.
    fn settle(&mut self) {
        self.subscribe_to_endpoints();
        for subscription in self.services.values_mut() {
            let Some(config) = &subscription.pending else { continue };
            let known = |name: &ServiceName| self.endpoints.get(name).is_some_and(|e| e.known.is_some());
            if config.backends().iter().all(known) {
                let config = Known::Present(config.clone());
                subscription.pending = None;
                self.changed |= subscription.current.as_ref() != Some(&config);
                subscription.current = Some(config);
            }
        }
        // What the old configuration alone needed goes after the new one is in force.
        self.unsubscribe_from_endpoints();
        let waiting = std::mem::take(&mut self.unacknowledged);
        let too_many = waiting.len().saturating_sub(MOST_UNACKNOWLEDGED);
        for (i, waiting) in waiting.into_iter().enumerate() {
            let pending = |name: &ServiceName| self.services.get(name).is_some_and(|s| s.pending.is_some());
            if i >= too_many && waiting.waits_for.iter().any(pending) {
                self.unacknowledged.push(waiting);
            } else {
                self.outbox.push(acknowledgement(type_url::SERVICE, waiting.nonce, waiting.error));
            }
        }
    }

    /// The services whose endpoints are needed: of each subscription itself (so that its first use
    /// takes one round trip, not two) and of those that its routes lead to.
    fn needed_endpoints(&self) -> BTreeSet<ServiceName> {
        let mut needed = BTreeSet::new();
        for (name, subscription) in &self.services {
            if subscription.current != Some(Known::Absent) || subscription.pending.is_some() {
                needed.insert(name.clone());
            }
            if let Some(Known::Present(config)) = &subscription.current {
                needed.extend(config.backends());
            }
            if let Some(config) = &subscription.pending {
                needed.extend(config.backends());
            }
        }
        needed
    }

    fn subscribe_to_endpoints(&mut self) {
        let mut new = Vec::new();
        for name in self.needed_endpoints() {
            let text = name.to_string();
            self.endpoints.entry(name).or_insert_with(|| {
                new.push(text);
                Endpoints::default()
            });
        }
        if !new.is_empty() {
            self.outbox.push(subscribe(type_url::ENDPOINTS, new));
        }
    }

    fn unsubscribe_from_endpoints(&mut self) {
        let needed = self.needed_endpoints();
        let old: Vec<_> = self.endpoints.keys().filter(|n| !needed.contains(n)).cloned().collect();
        if old.is_empty() {
            return;
        }
        for name in &old {
            self.changed |= self.endpoints.remove(name).is_some_and(|e| e.known.is_some());
        }
        self.outbox.push(unsubscribe(type_url::ENDPOINTS, old.iter().map(ToString::to_string)));
    }

    fn forget_oldest_absent(&mut self) -> bool {
        let absent =
            self.services.iter().filter(|(_, s)| s.current == Some(Known::Absent) && s.pending.is_none());
        let Some(name) = absent.min_by_key(|(_, s)| s.last_wish).map(|(n, _)| n.clone()) else {
            return false;
        };
        self.services.remove(&name);
        self.changed = true;
        self.outbox.push(unsubscribe(type_url::SERVICE, [name.to_string()]));
        true
    }
}

fn subscribe(type_url: &str, names: impl IntoIterator<Item = String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.into_iter().collect(),
        ..Default::default()
    }
}

fn subscribe_again(
    type_url: &str,
    known: BTreeMap<&ServiceName, Option<&Resource>>,
) -> DeltaDiscoveryRequest {
    let mut request = subscribe(type_url, known.keys().map(ToString::to_string));
    let versions = known.into_iter().filter_map(|(n, r)| Some((n.to_string(), r?.version.clone())));
    request.initial_resource_versions = versions.collect();
    request
}

fn unsubscribe(type_url: &str, names: impl IntoIterator<Item = String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_unsubscribe: names.into_iter().collect(),
        ..Default::default()
    }
}

/// xDS protocol, "ACK and NACK": an error in it says that the message was not taken over.
fn acknowledgement(type_url: &str, nonce: String, error_detail: Option<Status>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        response_nonce: nonce,
        error_detail,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Any;
    use tulle_model::snapshot::{
        AppProtocol, Backend, BackendTarget, Endpoint, PortConfig, PortMapping, TcpRule,
    };

    use super::*;

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    fn response(type_url: &str, nonce: &str) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse { type_url: type_url.into(), nonce: nonce.into(), ..Default::default() }
    }

    fn resource(type_url: &str, name: &ServiceName, value: Vec<u8>) -> Resource {
        let any = Any { type_url: type_url.into(), value };
        Resource { version: "1".into(), resource: Some(any), name: name.to_string(), aliases: vec![] }
    }

    /// A service whose TCP route leads to `backends`.
    fn service(service: &str, backends: &[&str], nonce: &str) -> DeltaDiscoveryResponse {
        let backends =
            backends.iter().map(|b| Backend::new(BackendTarget::Service { name: name(b), port: 80 }, 1));
        let rule = TcpRule { route: name("default/r"), backends: backends.collect() };
        let port = PortConfig {
            number: 80,
            name: "".into(),
            protocol: AppProtocol::Detect,
            http_routes: Default::default(),
            tls_routes: Default::default(),
            tcp_route: Some(Arc::new(rule)),
            http_only: false,
            http1: Default::default(),
            consumers: Vec::new(),
        };
        let config = ServiceConfig::new(name(service), vec![port]);
        let value = discovery::Service::from(&config).encode_to_vec();
        let mut response = response(type_url::SERVICE, nonce);
        response.resources.push(resource(type_url::SERVICE, &config.name, value));
        response
    }

    fn endpoints(of: &[&str], nonce: &str) -> DeltaDiscoveryResponse {
        let mut response = response(type_url::ENDPOINTS, nonce);
        for service in of {
            let set = EndpointSet::new(name(service), vec![]);
            let value = discovery::Endpoints::from(&set).encode_to_vec();
            response.resources.push(resource(type_url::ENDPOINTS, &set.service, value));
        }
        response
    }

    fn subscribed(requests: &[DeltaDiscoveryRequest], type_url: &str) -> Vec<String> {
        let of_type = requests.iter().filter(|r| r.type_url == type_url);
        of_type.flat_map(|r| r.resource_names_subscribe.clone()).collect()
    }

    fn acknowledged(requests: &[DeltaDiscoveryRequest]) -> Vec<&str> {
        let nonces = requests.iter().map(|r| r.response_nonce.as_str());
        nonces.filter(|n| !n.is_empty()).collect()
    }

    #[test]
    fn a_service_waits_for_the_endpoints_of_its_backends() {
        let mut assembler = Assembler::default();
        assert_eq!(assembler.demand(&name("shop/c")), Demanded::New);
        assert_eq!(assembler.demand(&name("shop/c")), Demanded::Already);
        let requests = assembler.take_requests();
        assert_eq!(subscribed(&requests, type_url::SERVICE), ["shop/c"]);
        assert_eq!(subscribed(&requests, type_url::ENDPOINTS), ["shop/c"]);

        assembler.receive(service("shop/c", &["shop/d", "shop/e"], "s1"));
        let requests = assembler.take_requests();
        assert_eq!(subscribed(&requests, type_url::ENDPOINTS), ["shop/d", "shop/e"]);
        assert!(acknowledged(&requests).is_empty());
        assert!(assembler.take_snapshot().is_none());

        assembler.receive(endpoints(&["shop/c", "shop/d"], "e1"));
        assert_eq!(acknowledged(&assembler.take_requests()), ["e1"]);
        // The endpoints alone are no use yet, but they are no harm either.
        assert!(assembler.take_snapshot().unwrap().services.is_empty());

        // That a backend does not exist is an answer too.
        let mut gone = response(type_url::ENDPOINTS, "e2");
        gone.removed_resources.push("shop/e".into());
        assembler.receive(gone);
        let snapshot = assembler.take_snapshot().unwrap();
        assert!(matches!(snapshot.services[&name("shop/c")], Known::Present(_)));
        assert_eq!(snapshot.endpoints.len(), 3);
        assert_eq!(acknowledged(&assembler.take_requests()), ["e2", "s1"]);
    }

    #[test]
    fn the_old_form_stays_until_the_new_one_is_complete() {
        let mut assembler = Assembler::default();
        assembler.demand(&name("shop/c"));
        assembler.receive(service("shop/c", &["shop/d"], "s1"));
        assembler.receive(endpoints(&["shop/c", "shop/d"], "e1"));
        let first = assembler.take_snapshot().unwrap();
        assembler.take_requests();

        assembler.receive(service("shop/c", &["shop/e"], "s2"));
        assert!(assembler.take_snapshot().is_none());
        assembler.receive(endpoints(&["shop/e"], "e2"));
        let second = assembler.take_snapshot().unwrap();
        assert!(second.generation > first.generation);
        assert_ne!(first.services[&name("shop/c")], second.services[&name("shop/c")]);
        let requests = assembler.take_requests();
        assert_eq!(acknowledged(&requests), ["e2", "s2"]);
        let unsubscribed: Vec<_> = requests.iter().flat_map(|r| &r.resource_names_unsubscribe).collect();
        assert_eq!(unsubscribed, ["shop/d"]);
    }

    #[test]
    fn what_does_not_exist_is_known_as_absent_and_may_appear() {
        let mut assembler = Assembler::default();
        assembler.demand(&name("shop/x"));
        let mut gone = response(type_url::SERVICE, "s1");
        gone.removed_resources.push("shop/x".into());
        assembler.receive(gone);
        assert_eq!(assembler.take_snapshot().unwrap().services[&name("shop/x")], Known::Absent);
        assembler.receive(service("shop/x", &[], "s2"));
        assembler.receive(endpoints(&["shop/x"], "e1"));
        let snapshot = assembler.take_snapshot().unwrap();
        assert!(matches!(snapshot.services[&name("shop/x")], Known::Present(_)));
    }

    #[test]
    fn a_resource_that_makes_no_sense_is_refused_alone() {
        let mut assembler = Assembler::default();
        assembler.demand(&name("shop/c"));
        assembler.demand(&name("shop/d"));
        assembler.receive(endpoints(&["shop/c", "shop/d"], "e1"));
        assembler.take_requests();
        let mut message = service("shop/c", &[], "s1");
        message.resources.push(resource(type_url::SERVICE, &name("shop/d"), vec![0xff]));
        assembler.receive(message);
        let requests = assembler.take_requests();
        let nack = requests.iter().find(|r| r.response_nonce == "s1").unwrap();
        assert!(nack.error_detail.as_ref().unwrap().message.contains("shop/d"));
        let snapshot = assembler.take_snapshot().unwrap();
        assert!(snapshot.services.contains_key(&name("shop/c")));
        assert!(!snapshot.services.contains_key(&name("shop/d")));
    }

    #[test]
    fn survives_a_restart_and_a_reconnect() {
        let mut assembler = Assembler::default();
        for wanted in ["shop/c", "shop/x"] {
            assembler.demand(&name(wanted));
        }
        assembler.receive(service("shop/c", &["shop/d"], "s1"));
        assembler.receive(endpoints(&["shop/c", "shop/d"], "e1"));
        let mut gone = response(type_url::SERVICE, "s2");
        gone.removed_resources.push("shop/x".into());
        assembler.receive(gone);
        let before = assembler.take_snapshot().unwrap();

        let mut restored = Assembler::restore(&assembler.save()).unwrap();
        let after = restored.take_snapshot().unwrap();
        assert_eq!(before.services, after.services);
        assert_eq!(before.endpoints, after.endpoints);
        assert!(restored.take_requests().is_empty());
        restored.connected();
        let requests = restored.take_requests();
        assert_eq!(subscribed(&requests, type_url::SERVICE), ["shop/c", "shop/x"]);
        assert_eq!(subscribed(&requests, type_url::ENDPOINTS), ["shop/c", "shop/d"]);
        assert!(Assembler::restore(&[0xff, 0xff]).is_err());
    }

    #[test]
    fn nothing_holds_for_the_mesh_until_the_server_has_said_what() {
        let untold = |assembler: &mut Assembler| {
            assembler.changed = true;
            assembler.take_snapshot().unwrap().mesh_untold
        };
        let mesh = |value: Vec<u8>| {
            let mut told = response(type_url::MESH, "m1");
            let any = Any { type_url: type_url::MESH.into(), value };
            told.resources.push(Resource {
                name: MESH_NAME.into(),
                resource: Some(any),
                ..Default::default()
            });
            told
        };
        let mut gone = response(type_url::MESH, "m1");
        gone.removed_resources.push(MESH_NAME.into());
        for (message, expected) in [
            (None, true),
            (Some(mesh(vec![0xff])), true),
            (Some(mesh(discovery::Mesh::default().encode_to_vec())), false),
            (Some(gone), false),
        ] {
            let mut assembler = Assembler::default();
            assert!(untold(&mut assembler));
            if let Some(message) = message.clone() {
                assembler.receive(message.clone());
                assert_eq!(assembler.take_snapshot().is_some(), !expected, "{message:?}");
            }
            assert_eq!(untold(&mut assembler), expected, "{message:?}");
            // A node that starts again knows what it knew.
            let mut restored = Assembler::restore(&assembler.save()).unwrap();
            assert_eq!(untold(&mut restored), expected, "{message:?}");
            restored.connected();
            assert_eq!(untold(&mut restored), expected, "{message:?}");
        }
    }

    #[test]
    fn subscriptions_are_bounded() {
        let mut assembler = Assembler::default();
        for i in 0..MOST_SUBSCRIPTIONS {
            assembler.services.insert(name(&format!("shop/s{i}")), Subscription::default());
        }
        assert_eq!(assembler.demand(&name("shop/new")), Demanded::Refused);
        assembler.remove(type_url::SERVICE, &name("shop/s7"));
        assert_eq!(assembler.demand(&name("shop/new")), Demanded::New);
        assert!(!assembler.services.contains_key(&name("shop/s7")));
    }

    /// A headless service's endpoints are services by themselves, and stay the same in memory as long as they do.
    #[test]
    fn a_headless_service_is_taken_apart() {
        let mut assembler = Assembler::default();
        let db = name("shop/db");
        let [first, gone] = ["db-0.db", "db-9.db"].map(|part| ServiceName::new("shop", part));
        // Whoever asks for one of them asks for all.
        assert_eq!(assembler.demand(&gone), Demanded::New);
        assert!(assembler.take_snapshot().is_none_or(|snapshot| snapshot.services.is_empty()));
        let send = |assembler: &mut Assembler, message: Any, type_url: &str| {
            let resource = Resource { name: db.to_string(), resource: Some(message), ..Default::default() };
            let type_url = type_url.to_owned();
            assembler.receive(DeltaDiscoveryResponse {
                type_url,
                resources: vec![resource],
                ..Default::default()
            });
        };
        let any = |bytes: Vec<u8>| Any { type_url: String::new(), value: bytes };
        let port = PortConfig {
            number: 80,
            name: "".into(),
            protocol: AppProtocol::Detect,
            http_routes: Default::default(),
            tls_routes: Default::default(),
            tcp_route: None,
            http_only: false,
            http1: Default::default(),
            consumers: Vec::new(),
        };
        let config = ServiceConfig { shape: Shape::Headless, ..ServiceConfig::new(db.clone(), vec![port]) };
        send(&mut assembler, any(discovery::Service::from(&config).encode_to_vec()), type_url::SERVICE);
        let set = |count: usize| {
            let endpoint = |i: usize| Endpoint {
                workload: Some(ServiceName::new("shop", format!("db-{i}"))),
                node: None,
                address: "127.0.0.1".parse().unwrap(),
                ports: vec![PortMapping { service_port: 80, target_port: 80 }],
                identity: None,
            };
            EndpointSet::new(db.clone(), (0..count).map(|i| (Arc::new(endpoint(i)), 0)).collect())
        };
        let tell = |assembler: &mut Assembler, count| {
            send(
                assembler,
                any(discovery::Endpoints::from(&set(count)).encode_to_vec()),
                type_url::ENDPOINTS,
            );
            assembler.take_snapshot().unwrap()
        };
        let present = |snapshot: &Snapshot, name: &ServiceName| match snapshot.services.get(name) {
            Some(Known::Present(config)) => Some(config.clone()),
            _ => None,
        };
        let one = tell(&mut assembler, 1);
        assert_eq!(one.endpoints[&first].endpoints.len(), 1);
        assert_eq!(one.services.get(&gone), Some(&Known::Absent), "it was asked for");
        let two = tell(&mut assembler, 2);
        assert!(Arc::ptr_eq(&present(&one, &first).unwrap(), &present(&two, &first).unwrap()));
        assert!(Arc::ptr_eq(&one.endpoints[&first], &two.endpoints[&first]));
        let none = tell(&mut assembler, 0);
        assert_eq!((none.services.get(&first), none.endpoints.get(&first)), (None, None));
        // It is not kept: it is made of what is.
        let restored = Assembler::restore(&assembler.save()).unwrap().take_snapshot().unwrap();
        assert!(present(&restored, &db).is_some());
    }
}
