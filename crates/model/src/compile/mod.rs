//! From resources to what proxies run.
//!
//! The compiler holds the objects in the form in which it needs them, and what they compile to. A
//! change is stored, what depends on it is found by indexes, and only that is compiled again; what
//! comes out equal to what was there before counts as unchanged.
//!
//! An object that does not read keeps its last good form in force, and [`Compiler::problem`] says
//! what is wrong with it: one bad object never blocks a good one. An object that never had a good
//! form is as good as absent.

mod coverage;
mod endpoints;
mod external;
mod flows;
mod foretold;
mod index;
mod originated;
mod originated_status;
mod policy_status;
mod port;
mod read;
mod route;
mod set;
pub mod slices;
pub mod standing;
mod status;
#[cfg(test)]
mod tests;
mod unreached;
mod workloads;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use self::coverage::Coverage;
use self::flows::FlowState;
use self::index::{MultiMap, SelectorIndex, renew};
use self::originated::TlsPolicies;
use self::port::{Attached, compile_port};
use self::read::{checked, name_of};
use self::route::{Explained, RouteKey, attach, parents_of, resolve};
use self::unreached::UnreachedOfService;
use crate::identity::TrustDomain;
use crate::kinds::authorization_policy::AuthorizationTarget;
use crate::kinds::authorization_policy::form::{AuthorizationForm, FetchedKeys, references_of};
use crate::kinds::endpoint_slice::form::SliceForm;
use crate::kinds::external_service::form::ExternalForm;
use crate::kinds::id::CompiledKind;
use crate::kinds::mesh::MESH;
use crate::kinds::mesh::form::MeshForm;
use crate::kinds::route::ParentReference;
use crate::kinds::route::form::RouteForm;
use crate::kinds::service::form::ServiceForm;
use crate::kinds::workload::form::WorkloadForm;
use crate::kinds::{
    authorization_policy, backend_tls_policy, endpoint_slice, external_service, flow, grpc_route, http_route,
    mesh, node, service, tcp_route, tls_route, workload,
};
use crate::name::{NamespacedName, ServiceName, WorkloadName};
use crate::policy::Policies;
use crate::registry::{Kind, KindId};
use crate::snapshot::{EndpointSet, ExternalConfig, ExternalServices, HttpRule, MeshSettings, ServiceConfig};

pub use self::external::KeySources;
pub use self::flows::Refusal;
pub use self::flows::foretell_name;
pub use self::foretold::{foretell, services_of_route};
pub use self::policy_status::{StatusTarget, TargetStatus};
pub use self::status::{ParentStatus, StatusCondition};
pub use self::unreached::find_idle;
pub use self::workloads::LocalWorkload;

/// A change of one object. Names of cluster-wide objects have an empty namespace.
#[derive(Debug, Clone)]
pub enum Change {
    /// It was created or replaced.
    Put(&'static Kind, Arc<Value>),
    Delete(&'static Kind, NamespacedName),
}

/// What a change did; every name once, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Services whose [`Compiler::service`] is another now.
    pub services: Vec<ServiceName>,
    /// Services whose [`Compiler::endpoints`] are others now.
    pub endpoints: Vec<ServiceName>,
    /// Services whose [`Compiler::own_slices`] may be others now: they show what is not ready, too.
    pub slices: Vec<ServiceName>,
    /// Whether [`Compiler::mesh`] is another now.
    pub mesh: bool,
    /// Workloads whose [`Compiler::workload`] is another now.
    pub workloads: Vec<WorkloadName>,
    /// Objects whose [`Compiler::route_status`], [`Compiler::policy_status`], [`Compiler::tls_status`] or [`Compiler::problem`] is
    /// another now. A route or
    /// policy that was put is always among them, so that what is stored can be compared.
    pub statuses: Vec<(&'static Kind, NamespacedName)>,
}

/// How much was compiled since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Configurations of services.
    pub services: u64,
    /// Endpoint sets of services.
    pub endpoints: u64,
    /// Routes.
    pub routes: u64,
    /// Workloads, for the nodes that run them.
    pub workloads: u64,
    /// Statuses of AuthorizationPolicies.
    pub policy_statuses: u64,
}

/// Why an object cannot be used: the field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidObject {
    /// As in `spec.rules[0].backendRefs[1].port`.
    pub field: String,
    pub problem: String,
}

/// See the module.
#[derive(Debug)]
pub struct Compiler {
    domain: TrustDomain,
    /// What has each name of the mesh: a Service, or the trigger of a Flow.
    services: HashMap<ServiceName, ServiceForm>,
    /// Services whose names Flows have that are older.
    displaced: HashMap<ServiceName, ServiceForm>,
    flows: BTreeMap<NamespacedName, FlowState>,
    flow_statuses: HashMap<NamespacedName, Vec<StatusCondition>>,
    workloads: HashMap<WorkloadName, WorkloadForm>,
    slices: HashMap<NamespacedName, SliceForm>,
    routes: HashMap<RouteKey, RouteState>,
    problems: BTreeMap<(KindId, NamespacedName), InvalidObject>,

    selectors: SelectorIndex,
    slices_by_service: MultiMap<ServiceName, NamespacedName>,
    routes_by_parent: MultiMap<ServiceName, RouteKey>,
    routes_by_backend: MultiMap<ServiceName, RouteKey>,

    authorizations: BTreeMap<NamespacedName, AuthorizationForm>,
    /// Policies of which the newest object does not read.
    refused_policies: HashMap<NamespacedName, Refused<AuthorizationTarget>>,
    policies_by_service: MultiMap<ServiceName, NamespacedName>,
    coverage: Coverage,
    policy_statuses: HashMap<NamespacedName, Vec<TargetStatus>>,
    /// Nodes to which nothing comes that clients do not send there.
    explicit_nodes: HashSet<Arc<str>>,
    external: BTreeMap<NamespacedName, ExternalForm>,
    policies_by_external: MultiMap<NamespacedName, NamespacedName>,
    external_configs: BTreeMap<NamespacedName, Arc<ExternalConfig>>,
    /// What is listed for namespaces, as far as somebody has asked.
    listed: HashMap<Arc<str>, ExternalServices>,
    tls: TlsPolicies,
    keys: FetchedKeys,
    /// Policies, with sources of keys that egress does not let them have.
    refused_keys: BTreeSet<(NamespacedName, Arc<str>)>,
    meshes: Policies<MeshForm>,
    mesh: Arc<MeshSettings>,
    configs: HashMap<ServiceName, Arc<ServiceConfig>>,
    endpoints: HashMap<ServiceName, Arc<EndpointSet>>,
    local: HashMap<WorkloadName, LocalWorkload>,
    unreached: HashMap<ServiceName, UnreachedOfService>,
    statuses: HashMap<RouteKey, Vec<ParentStatus>>,
    work: Work,
}

/// A route, its last good form, and what that compiles to.
#[derive(Debug, Default)]
struct RouteState {
    form: Option<Arc<RouteForm>>,
    rules: Vec<Arc<HttpRule>>,
    unresolved: Vec<Explained>,
    /// The newest object, where it does not read.
    refused: Option<Refused<ParentReference>>,
}

/// An object that does not read.
#[derive(Debug)]
struct Refused<R> {
    generation: Option<i64>,
    /// What it is attached to, as far as that can be read.
    references: Vec<R>,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<ServiceName>,
    endpoints: BTreeSet<ServiceName>,
    routes: BTreeSet<RouteKey>,
    route_statuses: BTreeSet<RouteKey>,
    /// Reported whether they come out different or not.
    statuses: BTreeSet<(KindId, NamespacedName)>,
    workloads: BTreeSet<WorkloadName>,
    external: BTreeSet<NamespacedName>,
    /// Policies whose statuses may be others.
    policies: BTreeSet<NamespacedName>,
    /// The same of BackendTLSPolicies.
    tls_policies: BTreeSet<NamespacedName>,
    /// The same of Flows.
    flows: BTreeSet<NamespacedName>,
    mesh: bool,
}

impl Compiler {
    /// A compiler that knows of no object; `trust_domain` is the mesh's.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            domain: trust_domain,
            services: HashMap::new(),
            displaced: HashMap::new(),
            flows: BTreeMap::new(),
            flow_statuses: HashMap::new(),
            workloads: HashMap::new(),
            slices: HashMap::new(),
            routes: HashMap::new(),
            problems: BTreeMap::new(),
            selectors: SelectorIndex::default(),
            slices_by_service: MultiMap::default(),
            routes_by_parent: MultiMap::default(),
            routes_by_backend: MultiMap::default(),
            authorizations: BTreeMap::new(),
            refused_policies: HashMap::new(),
            policies_by_service: MultiMap::default(),
            coverage: Coverage::default(),
            policy_statuses: HashMap::new(),
            explicit_nodes: HashSet::new(),
            external: BTreeMap::new(),
            policies_by_external: MultiMap::default(),
            external_configs: BTreeMap::new(),
            listed: HashMap::new(),
            tls: TlsPolicies::default(),
            keys: FetchedKeys::new(),
            refused_keys: BTreeSet::new(),
            meshes: Policies::default(),
            mesh: Arc::default(),
            configs: HashMap::new(),
            endpoints: HashMap::new(),
            local: HashMap::new(),
            unreached: HashMap::new(),
            statuses: HashMap::new(),
            work: Work::default(),
        }
    }

    /// Takes in one change and compiles what depends on it.
    pub fn apply(&mut self, change: Change) -> Effects {
        self.apply_all([change])
    }

    /// Takes in several changes, then compiles what depends on any of them, once. Cheaper than one
    /// at a time, as for everything that a store holds.
    pub fn apply_all(&mut self, changes: impl IntoIterator<Item = Change>) -> Effects {
        let mut dirty = Dirty::default();
        for change in changes {
            match change {
                Change::Put(kind, object) => self.put(kind, &object, &mut dirty),
                Change::Delete(kind, name) => self.delete(kind.id, &name, &mut dirty),
            }
        }
        self.settle(dirty)
    }

    /// Takes in all objects that there are; what is not among them counts as deleted. Last good
    /// forms stay, which a new compiler would not know.
    pub fn replace_all(&mut self, objects: impl IntoIterator<Item = (&'static Kind, Arc<Value>)>) -> Effects {
        let mut gone = self.known();
        let mut dirty = Dirty::default();
        for (kind, object) in objects {
            gone.remove(&(kind.id, name_of(&object, kind.namespaced)));
            self.put(kind, &object, &mut dirty);
        }
        for (kind, name) in gone {
            self.delete(kind, &name, &mut dirty);
        }
        self.settle(dirty)
    }

    /// How clients reach a service; `None`: there is no such service in the mesh.
    pub fn service(&self, name: &ServiceName) -> Option<Arc<ServiceConfig>> {
        self.configs.get(name).cloned()
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceConfig>> {
        self.configs.values()
    }

    /// Where a service runs; there is a (maybe empty) set for every service.
    pub fn endpoints(&self, name: &ServiceName) -> Option<Arc<EndpointSet>> {
        self.endpoints.get(name).cloned()
    }

    pub fn mesh(&self) -> Arc<MeshSettings> {
        self.mesh.clone()
    }

    /// What the node of a workload is to know of it; `None`: there is no such workload, or no node runs it.
    pub fn workload(&self, name: &WorkloadName) -> Option<&LocalWorkload> {
        self.local.get(name)
    }

    /// What became of an HTTPRoute or TCPRoute, for each of its parents; `None`: there is no such
    /// route.
    pub fn route_status(&self, kind: &Kind, name: &NamespacedName) -> Option<&[ParentStatus]> {
        self.statuses.get(&RouteKey { kind: kind.id, name: name.clone() }).map(Vec::as_slice)
    }

    /// What is wrong with the newest form of an object; an earlier one may still be in force.
    pub fn problem(&self, kind: &Kind, name: &NamespacedName) -> Option<&InvalidObject> {
        self.problems.get(&(kind.id, name.clone()))
    }

    /// How much was compiled since the start.
    pub fn work(&self) -> Work {
        self.work
    }

    /// All objects that have left something here.
    fn known(&self) -> BTreeSet<(KindId, NamespacedName)> {
        let of = |kind| move |name: &NamespacedName| (kind, name.clone());
        let mesh = (KindId::Mesh, NamespacedName::new("", MESH));
        let holders = self.services.iter().filter(|(_, form)| !form.is_flow()).map(|(name, _)| name);
        holders
            .chain(self.displaced.keys())
            .map(of(KindId::Service))
            .chain(self.known_flows().map(of(KindId::Flow)))
            .chain(self.workloads.keys().map(of(KindId::Workload)))
            .chain(self.slices.keys().map(of(KindId::EndpointSlice)))
            .chain(self.authorizations.keys().map(of(KindId::AuthorizationPolicy)))
            .chain(self.explicit_nodes.iter().map(|node| (KindId::Node, NamespacedName::new("", &**node))))
            .chain(self.external.keys().map(of(KindId::ExternalService)))
            .chain(self.tls.known())
            .chain(self.routes.keys().map(|key| (key.kind, key.name.clone())))
            .chain(self.problems.keys().cloned())
            .chain([mesh])
            .collect()
    }

    fn put(&mut self, kind: &'static Kind, object: &Value, dirty: &mut Dirty) {
        let name = name_of(object, kind.namespaced);
        let Some(compiled) = kind.id.compiled() else { return };
        let read = match compiled {
            CompiledKind::Service => checked(kind, object, service::check::check)
                .map(|form| self.set_service(&name, Some(form), dirty)),
            CompiledKind::Workload => checked(kind, object, workload::check::check)
                .map(|form| self.set_workload(&name, Some(form), dirty)),
            // Made from what is known here already.
            CompiledKind::EndpointSlice if slices::own_service(object).is_some() => {
                self.set_slice(&name, None, dirty);
                Ok(())
            }
            CompiledKind::EndpointSlice => checked(kind, object, endpoint_slice::check::check)
                .map(|form| self.set_slice(&name, Some(form), dirty)),
            CompiledKind::Node => {
                let mode = object.pointer("/status/captureMode").and_then(Value::as_str);
                self.set_node(&name.name, mode == Some(node::EXPLICIT), dirty);
                Ok(())
            }
            CompiledKind::AuthorizationPolicy => checked(kind, object, authorization_policy::check::check)
                .map(|form| self.set_authorization(&name, Some(form), dirty)),
            CompiledKind::ExternalService => checked(kind, object, external_service::check::check)
                .map(|form| self.set_external(&name, Some(form), dirty)),
            CompiledKind::ConfigMap | CompiledKind::Secret => {
                self.set_bundle((kind.id, name.clone()), Some(object), dirty);
                Ok(())
            }
            CompiledKind::BackendTlsPolicy => checked(kind, object, backend_tls_policy::check::check)
                .map(|form| self.set_tls_policy(&name, Some(form), dirty)),
            CompiledKind::Mesh => checked(kind, object, mesh::check::check)
                .and_then(|form| self.of_this_mesh(form))
                .map(|form| self.set_mesh(&name, Some(form), dirty)),
            CompiledKind::HttpRoute => checked(kind, object, http_route::check::check)
                .map(|form| self.set_route(&RouteKey::of(&form), Some(form), dirty)),
            CompiledKind::GrpcRoute => checked(kind, object, grpc_route::check::check)
                .map(|form| self.set_route(&RouteKey::of(&form), Some(form), dirty)),
            CompiledKind::TlsRoute => checked(kind, object, tls_route::check::check)
                .map(|form| self.set_route(&RouteKey::of(&form), Some(form), dirty)),
            CompiledKind::TcpRoute => checked(kind, object, tcp_route::check::check)
                .map(|form| self.set_route(&RouteKey::of(&form), Some(form), dirty)),
            CompiledKind::Flow => {
                checked(kind, object, flow::check::check).map(|form| self.set_flow(&name, Some(form), dirty))
            }
        };
        let problem = read.err();
        let generation = || object.pointer("/metadata/generation").and_then(Value::as_i64);
        if kind.id.is_route() {
            let key = RouteKey { kind: kind.id, name: name.clone() };
            self.routes.entry(key.clone()).or_default().refused = problem
                .as_ref()
                .map(|_| Refused { generation: generation(), references: parents_of(object) });
            dirty.route_statuses.insert(key);
            dirty.statuses.insert((kind.id, name.clone()));
        }
        if compiled == CompiledKind::AuthorizationPolicy {
            match problem {
                Some(_) => {
                    let refused = Refused { generation: generation(), references: references_of(object) };
                    self.refused_policies.insert(name.clone(), refused);
                }
                None => drop(self.refused_policies.remove(&name)),
            }
            dirty.policies.insert(name.clone());
            dirty.statuses.insert((kind.id, name.clone()));
        }
        if compiled == CompiledKind::BackendTlsPolicy {
            self.tls.refuse(&name, problem.as_ref().map(|_| object));
            dirty.tls_policies.insert(name.clone());
            dirty.statuses.insert((kind.id, name.clone()));
        }
        if compiled == CompiledKind::Flow {
            self.note_flow(&name, object, dirty);
        }
        self.set_problem(kind.id, &name, problem, dirty);
    }

    fn delete(&mut self, kind: KindId, name: &NamespacedName, dirty: &mut Dirty) {
        let Some(compiled) = kind.compiled() else { return };
        match compiled {
            CompiledKind::Service => self.set_service(name, None, dirty),
            CompiledKind::Workload => self.set_workload(name, None, dirty),
            CompiledKind::EndpointSlice => self.set_slice(name, None, dirty),
            CompiledKind::Node => self.set_node(&name.name, false, dirty),
            CompiledKind::AuthorizationPolicy => {
                self.set_authorization(name, None, dirty);
                self.refused_policies.remove(name);
                dirty.policies.insert(name.clone());
            }
            CompiledKind::ExternalService => self.set_external(name, None, dirty),
            CompiledKind::ConfigMap | CompiledKind::Secret => {
                self.set_bundle((kind, name.clone()), None, dirty);
            }
            CompiledKind::BackendTlsPolicy => {
                self.set_tls_policy(name, None, dirty);
                self.tls.refuse(name, None);
                dirty.tls_policies.insert(name.clone());
            }
            CompiledKind::Mesh => self.set_mesh(name, None, dirty),
            CompiledKind::Flow => self.forget_flow(name, dirty),
            CompiledKind::HttpRoute
            | CompiledKind::GrpcRoute
            | CompiledKind::TlsRoute
            | CompiledKind::TcpRoute => {
                let key = RouteKey { kind, name: name.clone() };
                self.set_route(&key, None, dirty);
                self.routes.remove(&key);
                dirty.route_statuses.insert(key);
            }
        }
        self.set_problem(kind, name, None, dirty);
    }

    fn set_problem(
        &mut self,
        kind: KindId,
        name: &NamespacedName,
        problem: Option<InvalidObject>,
        dirty: &mut Dirty,
    ) {
        let key = (kind, name.clone());
        if self.problems.get(&key) == problem.as_ref() {
            return;
        }
        dirty.statuses.insert(key.clone());
        match problem {
            Some(problem) => self.problems.insert(key, problem),
            None => self.problems.remove(&key),
        };
    }

    /// Compiles what is dirty: routes, then the services that they are attached to, then statuses,
    /// which tell what came of both.
    fn settle(&mut self, mut dirty: Dirty) -> Effects {
        for key in std::mem::take(&mut dirty.routes) {
            self.compile_route(&key, &mut dirty);
        }
        let mut effects = Effects { mesh: dirty.mesh, ..Effects::default() };
        for name in std::mem::take(&mut dirty.services) {
            let config = self.compile_service(&name);
            // Whether a route holds its port depends on the other routes of the parent.
            dirty.route_statuses.extend(self.routes_by_parent.get(&name).cloned());
            if self.configs.get(&name).map(|c| &**c) != config.as_ref() {
                match config {
                    Some(config) => self.configs.insert(name.clone(), Arc::new(config)),
                    None => self.configs.remove(&name),
                };
                effects.services.push(name);
            }
        }
        effects.slices = dirty.endpoints.iter().cloned().collect();
        for name in std::mem::take(&mut dirty.endpoints) {
            // A policy's status tells of the endpoints that only slices say.
            if self.slices_by_service.count(&name) > 0 {
                dirty.policies.extend(self.policies_by_service.get(&name).cloned());
            }
            let set = self.compile_endpoints(&name);
            if self.endpoints.get(&name).map(|s| &**s) != set.as_ref() {
                match set {
                    Some(set) => self.endpoints.insert(name.clone(), Arc::new(set)),
                    None => self.endpoints.remove(&name),
                };
                effects.endpoints.push(name);
            }
        }
        self.settle_external(&mut dirty);
        for name in std::mem::take(&mut dirty.workloads) {
            if self.settle_workload(&name, &mut dirty) {
                effects.workloads.push(name);
            }
        }
        for name in std::mem::take(&mut dirty.policies) {
            if self.settle_policy_status(&name) {
                dirty.statuses.insert((KindId::AuthorizationPolicy, name));
            }
        }
        for name in std::mem::take(&mut dirty.flows) {
            if self.settle_flow_status(&name) {
                dirty.statuses.insert((KindId::Flow, name));
            }
        }
        for name in std::mem::take(&mut dirty.tls_policies) {
            if self.settle_tls_status(&name) {
                dirty.statuses.insert((KindId::BackendTlsPolicy, name));
            }
        }
        for key in dirty.route_statuses {
            let status = self.compile_status(&key);
            if renew(&mut self.statuses, &key, status) {
                dirty.statuses.insert((key.kind, key.name));
            }
        }
        effects.statuses = dirty.statuses.into_iter().map(|(kind, name)| (kind.kind(), name)).collect();
        effects
    }

    fn compile_route(&mut self, key: &RouteKey, dirty: &mut Dirty) {
        let Some(state) = self.routes.get_mut(key) else { return };
        let Some(form) = state.form.clone() else { return };
        self.work.routes += 1;
        let (rules, unresolved) = resolve(&form, |name| self.services.get(name));
        if rules != state.rules {
            dirty.services.extend(form.parent_services().cloned());
        }
        (state.rules, state.unresolved) = (rules, unresolved);
        dirty.route_statuses.insert(key.clone());
    }

    fn compile_service(&mut self, name: &ServiceName) -> Option<ServiceConfig> {
        self.work.services += 1;
        self.unreached.remove(name);
        let form = self.services.get(name)?;
        if form.is_alias() {
            return Some(ServiceConfig {
                shape: form.shape.clone(),
                ..ServiceConfig::new(name.clone(), Vec::new())
            });
        }
        // Which of the service's ports each route that names it as a parent is attached to.
        let attached: Vec<Attached<'_>> = self
            .routes_by_parent
            .get(name)
            .filter_map(|key| {
                let state = self.routes.get(key)?;
                let route = state.form.as_deref()?;
                let parents = route.parents.iter().filter(|p| p.service.as_ref() == Some(name));
                let ports = parents.filter_map(|p| attach(route, p, Some(form)).ok()).flatten().collect();
                Some(Attached { route, state, ports })
            })
            .collect();
        let mut unreached = UnreachedOfService::new();
        let ports =
            form.ports.iter().map(|port| compile_port(name, port, &attached, &mut unreached)).collect();
        if !unreached.is_empty() {
            self.unreached.insert(name.clone(), unreached);
        }
        Some(ServiceConfig { name: name.clone(), ports, shape: form.shape.clone() })
    }
}
