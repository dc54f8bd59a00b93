//! What is listed for workloads outside of the mesh, with the policies of who may use it; and what the server
//! may, on behalf of policies.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Uri;

use super::{Compiler, Dirty};
use crate::egress::{HeldBack, Leave, PlaceSeen, leave_by};
use crate::host::folded;
use crate::kinds::authorization_policy::form::TargetForm;
use crate::kinds::external_service::form::ExternalForm;
use crate::name::{NamespacedName, WorkloadName};
use crate::snapshot::{ExternalConfig, ExternalServices};

impl Compiler {
    pub(super) fn set_external(
        &mut self,
        name: &NamespacedName,
        form: Option<ExternalForm>,
        dirty: &mut Dirty,
    ) {
        let old = match &form {
            Some(form) => self.external.insert(name.clone(), form.clone()),
            None => self.external.remove(name),
        };
        if old != form {
            let is_about = |target: &TargetForm| matches!(target, TargetForm::External(of) if of == name);
            let policies = self.authorizations.values();
            let policies = policies.filter(|policy| policy.targets.iter().any(is_about));
            dirty.policies.extend(policies.map(|policy| policy.name.clone()));
            dirty.workloads.extend([old, form].into_iter().flatten().flat_map(|form| self.listed_by(&form)));
        }
    }

    /// What lists something for the workloads of a namespace. Their nodes know it before it counts: a Mesh that says `Listed` holds
    /// nothing back that is.
    pub fn external_services(&self, namespace: &str) -> ExternalServices {
        let mut forms: Vec<_> = self.external.values().filter(|form| form.lists_for(namespace)).collect();
        // Stable: each in the order of their names.
        forms.sort_by_key(|form| *form.name.namespace != *namespace);
        forms.into_iter().map(|form| self.external_service(form)).collect()
    }

    /// Whether an ExternalService of that name lists something for the workloads of a namespace, where that counts.
    pub fn lists_for(&self, name: &NamespacedName, namespace: &str) -> bool {
        self.external.get(name).is_some_and(|form| form.lists_for(namespace))
    }

    /// What is listed by that name, for whomever, with who may use it.
    pub fn external(&self, name: &NamespacedName) -> Option<Arc<ExternalConfig>> {
        self.external.get(name).map(|form| self.external_service(form))
    }

    fn external_service(&self, form: &ExternalForm) -> Arc<ExternalConfig> {
        let ExternalForm { name, hosts, ranges, ports } = form.clone();
        let policies = self.authorizations.values();
        let policies: Vec<_> =
            policies.filter_map(|policy| policy.of_external(&self.domain, &name)).collect();
        Arc::new(ExternalConfig { name, hosts, ranges, ports, policies: policies.into() })
    }

    /// Where the keys of issuers are to be had from that policies name, each once, as far as their namespaces' egress lets them.
    pub fn key_sources(&self) -> BTreeSet<Arc<str>> {
        self.named_key_sources()
            .filter(|(policy, source)| self.may_fetch(policy, source).is_ok())
            .map(|(_, source)| source.clone())
            .collect()
    }

    /// Those that it does not let them have, with the policy that names each, and why.
    pub fn refused_key_sources(&self) -> Vec<(NamespacedName, Arc<str>, HeldBack)> {
        let refused = self.named_key_sources().filter_map(|(policy, source)| {
            Some((policy.clone(), source.clone(), self.may_fetch(policy, source).err()?))
        });
        refused.collect()
    }

    fn named_key_sources(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<str>)> {
        let policies = self.authorizations.values();
        policies.flat_map(|policy| {
            policy.issuers.iter().filter_map(|issuer| Some((&policy.name, issuer.keys.source.as_ref()?)))
        })
    }

    /// Whether keys may be read from a URL for a policy: as what its namespace's workloads may reach. A file does not leave.
    fn may_fetch(&self, policy: &NamespacedName, source: &str) -> Result<(), HeldBack> {
        let url = source.parse::<Uri>().ok().filter(|url| url.scheme_str() != Some("file"));
        let Some((url, authority)) = url.as_ref().and_then(|url| Some((url, url.authority()?))) else {
            return Ok(());
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
        let services = self.external_services(&policy.namespace);
        match leave_by(&self.mesh, &policy.namespace, Some(&services), &host)? {
            Leave::Freely(_) => Ok(()),
            Leave::Listed(listed) => {
                let (names, address) = match host.parse().ok() {
                    Some(address) => (Vec::new(), Some(address)),
                    None => (vec![Arc::from(folded(host))], None),
                };
                listed.connection(PlaceSeen { names: &names, address, port }).map(drop)
            }
        }
    }

    /// The workloads that an ExternalService may list something for.
    fn listed_by(&self, external: &ExternalForm) -> Vec<WorkloadName> {
        self.workloads.keys().filter(|name| external.lists_for(&name.namespace)).cloned().collect()
    }
}
