//! Takes in a changed object, and says what of others has to be compiled again for it.

use std::sync::Arc;

use super::route::RouteKey;
use super::{Compiler, Dirty, InvalidObject};
use crate::kinds::authorization_policy::form::AuthorizationForm;
use crate::kinds::endpoint_slice::form::SliceForm;
use crate::kinds::mesh::form::MeshForm;
use crate::kinds::route::form::RouteForm;
use crate::kinds::service::form::ServiceForm;
use crate::kinds::workload::form::WorkloadForm;
use crate::name::{NamespacedName, ServiceName, WorkloadName};

impl Compiler {
    /// A Mesh of another trust domain is another's: the authority's stands fast since the server first started.
    pub(super) fn of_this_mesh(&self, form: MeshForm) -> Result<MeshForm, InvalidObject> {
        let domain = self.domain.as_str();
        let Some(other) = form.trust_domain.as_ref().filter(|other| *other != domain) else {
            return Ok(form);
        };
        let problem = format!("it is `{domain}` since the server first started, and cannot become `{other}`");
        Err(InvalidObject { field: "spec.trustDomain".to_owned(), problem })
    }

    pub(super) fn set_mesh(&mut self, name: &NamespacedName, form: Option<MeshForm>, dirty: &mut Dirty) {
        let changed = self.meshes.set(name, form.map(MeshForm::policy));
        dirty.workloads.extend(self.workloads_below(&changed));
        self.settle_mesh(dirty);
    }

    pub(super) fn set_authorization(
        &mut self,
        name: &NamespacedName,
        form: Option<AuthorizationForm>,
        dirty: &mut Dirty,
    ) {
        let old = match &form {
            Some(form) => self.authorizations.insert(name.clone(), form.clone()),
            None => self.authorizations.remove(name),
        };
        if old == form {
            return;
        }
        for service in old.iter().flat_map(AuthorizationForm::services) {
            self.policies_by_service.remove(service, name);
        }
        for service in form.iter().flat_map(AuthorizationForm::services) {
            self.policies_by_service.insert(service.clone(), name.clone());
        }
        for external in old.iter().flat_map(AuthorizationForm::outside) {
            self.policies_by_external.remove(external, name);
            dirty.external.insert(external.clone());
        }
        for external in form.iter().flat_map(AuthorizationForm::outside) {
            self.policies_by_external.insert(external.clone(), name.clone());
            dirty.external.insert(external.clone());
        }
        let both = [old, form].into_iter().flatten();
        dirty
            .workloads
            .extend(both.flat_map(|form| [self.reached_by(&form), self.asked_by(&form)]).flatten());
        self.settle_mesh(dirty);
    }

    /// Whether what comes to the workloads of a node passes it only where clients want it to.
    pub(super) fn set_node(&mut self, node: &str, is_explicit: bool, dirty: &mut Dirty) {
        let changed = match is_explicit {
            true => self.explicit_nodes.insert(node.into()),
            false => self.explicit_nodes.remove(node),
        };
        if changed {
            let runs = |form: &&WorkloadForm| form.node.as_ref().is_some_and(|of| *of.name == *node);
            let workloads = self.workloads.iter().filter(|(_, form)| runs(form));
            dirty.workloads.extend(workloads.map(|(name, _)| name.clone()));
            dirty.policies.extend(self.policies_about_outside());
        }
    }

    /// What has a name of the mesh from now on.
    pub(super) fn set_holder(&mut self, name: &ServiceName, form: Option<ServiceForm>, dirty: &mut Dirty) {
        if self.services.get(name) == form.as_ref() {
            return;
        }
        dirty.workloads.extend(self.selected_by(name));
        self.selectors.set_service(name, form.as_ref().map(|f| &f.selector));
        match form {
            Some(form) => self.services.insert(name.clone(), form),
            None => self.services.remove(name),
        };
        dirty.workloads.extend(self.selected_by(name));
        dirty.services.insert(name.clone());
        dirty.endpoints.insert(name.clone());
        dirty.routes.extend(self.routes_by_backend.get(name).cloned());
        dirty.route_statuses.extend(self.routes_by_parent.get(name).cloned());
        dirty.policies.extend(self.policies_by_service.get(name).cloned());
    }

    pub(super) fn set_workload(
        &mut self,
        name: &WorkloadName,
        form: Option<WorkloadForm>,
        dirty: &mut Dirty,
    ) {
        let old = self.workloads.get(name);
        if old == form.as_ref() {
            return;
        }
        self.selectors.set_workload(name, old.map(|f| &f.labels), form.as_ref().map(|f| &f.labels));
        for labels in [old, form.as_ref()].into_iter().flatten().map(|f| &f.labels) {
            let candidates = self.selectors.services(&name.namespace, labels);
            let selects = |service: &ServiceName| {
                self.services.get(service).is_some_and(|service| service.has_labels(labels))
            };
            dirty.endpoints.extend(candidates.into_iter().filter(selects));
        }
        self.touch_flows(&name.namespace, [old, form.as_ref()], dirty);
        dirty.workloads.insert(name.clone());
        match form {
            Some(form) => self.workloads.insert(name.clone(), form),
            None => self.workloads.remove(name),
        };
    }

    pub(super) fn set_slice(&mut self, name: &NamespacedName, form: Option<SliceForm>, dirty: &mut Dirty) {
        let old = self.slices.remove(name);
        if let Some(service) = old.as_ref().and_then(|f| f.service.as_ref()) {
            self.slices_by_service.remove(service, name);
        }
        if let Some(service) = form.as_ref().and_then(|f| f.service.as_ref()) {
            self.slices_by_service.insert(service.clone(), name.clone());
        }
        if old != form {
            for service in [&old, &form].into_iter().flatten().filter_map(|f| f.service.clone()) {
                dirty.policies.extend(self.policies_by_service.get(&service).cloned());
                dirty.endpoints.insert(service);
            }
        }
        if let Some(form) = form {
            self.slices.insert(name.clone(), form);
        }
    }

    pub(super) fn set_route(&mut self, key: &RouteKey, form: Option<RouteForm>, dirty: &mut Dirty) {
        let state = self.routes.entry(key.clone()).or_default();
        if state.form.as_deref() == form.as_ref() {
            return;
        }
        let old = std::mem::replace(&mut state.form, form.map(Arc::new));
        let new = state.form.clone();
        if let Some(old) = old {
            for parent in old.parent_services() {
                self.routes_by_parent.remove(parent, key);
                dirty.services.insert(parent.clone());
            }
            for backend in old.backend_services() {
                self.routes_by_backend.remove(backend, key);
            }
        }
        if let Some(new) = new {
            for parent in new.parent_services() {
                self.routes_by_parent.insert(parent.clone(), key.clone());
                dirty.services.insert(parent.clone());
            }
            for backend in new.backend_services() {
                self.routes_by_backend.insert(backend.clone(), key.clone());
            }
        }
        dirty.routes.insert(key.clone());
    }
}
