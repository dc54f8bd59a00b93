//! What is listed for workloads outside of the mesh, with the policies of who may use it; and what the server
//! may, on behalf of policies.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Uri;

use super::{Compiler, Dirty, Effects};
use crate::egress::{HeldBack, Leave, PlaceSeen, leave_by};
use crate::host::folded;
use crate::kinds::external_service::form::{ExternalForm, lists_for};
use crate::name::{NamespacedName, WorkloadName};
use crate::snapshot::{ExternalConfig, ExternalServices};

/// Where the keys of issuers are to be had from that policies name.
#[derive(Debug, Default)]
pub struct KeySources {
    /// Each once.
    pub wanted: BTreeSet<Arc<str>>,
    /// Those that egress does not let the server read, with the policy that names each, and why.
    pub refused: Vec<(NamespacedName, Arc<str>, HeldBack)>,
}

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
            dirty.policies.extend(self.policies_by_external.get(name).cloned());
            dirty.workloads.extend([old, form].into_iter().flatten().flat_map(|form| self.listed_by(&form)));
            dirty.external.insert(name.clone());
            dirty.tls_policies.extend(self.tls.about(name));
            self.settle_mesh(dirty);
        }
    }

    /// Compiles what is listed anew, and who may use it.
    pub(super) fn settle_external(&mut self, dirty: &mut Dirty) {
        if !dirty.external.is_empty() {
            self.listed.clear();
        }
        for name in std::mem::take(&mut dirty.external) {
            match self.external.get(&name) {
                Some(form) => {
                    let config = self.compile_external(form);
                    self.external_configs.insert(name, Arc::new(config));
                }
                None => drop(self.external_configs.remove(&name)),
            }
        }
        let namespaces: BTreeSet<_> = dirty.workloads.iter().map(|name| name.namespace.clone()).collect();
        namespaces.iter().for_each(|namespace| self.list(namespace));
    }

    /// Keeps what is listed for a namespace, for all of its workloads.
    fn list(&mut self, namespace: &Arc<str>) {
        if !self.listed.contains_key(namespace) {
            let listed = self.external_services(namespace);
            self.listed.insert(namespace.clone(), listed);
        }
    }

    /// What lists something for the workloads of a namespace. Their nodes know it before it counts: a Mesh that says `Listed` holds
    /// nothing back that is.
    pub fn external_services(&self, namespace: &str) -> ExternalServices {
        if let Some(listed) = self.listed.get(namespace) {
            return listed.clone();
        }
        let listing = self.external_configs.iter().filter(|(name, _)| lists_for(name, namespace));
        let mut configs: Vec<_> = listing.map(|(_, config)| config.clone()).collect();
        // Stable: each in the order of their names.
        configs.sort_by_key(|config| *config.name.namespace != *namespace);
        configs.into()
    }

    /// The policies that say who may use what is listed: where they are enforced, the Mesh and the capture of nodes decide, too.
    pub(super) fn policies_about_outside(&self) -> Vec<NamespacedName> {
        let policies = self.authorizations.values().filter(|policy| policy.outside().next().is_some());
        policies.map(|policy| policy.name.clone()).collect()
    }

    /// Whether an ExternalService of that name lists something for the workloads of a namespace, where that counts.
    pub fn lists_for(&self, name: &NamespacedName, namespace: &str) -> bool {
        self.external.get(name).is_some_and(|form| form.lists_for(namespace))
    }

    /// What is listed by that name, for whomever, with who may use it.
    pub fn external(&self, name: &NamespacedName) -> Option<Arc<ExternalConfig>> {
        self.external_configs.get(name).cloned()
    }

    fn compile_external(&self, form: &ExternalForm) -> ExternalConfig {
        let ExternalForm { name, hosts, ranges, ports } = form.clone();
        let ports = ports.into_iter().map(|port| self.tls.at_port(&name, port)).collect();
        let policies =
            self.policies_by_external.get(&name).filter_map(|policy| self.authorizations.get(policy));
        let policies: Vec<_> =
            policies.filter_map(|policy| policy.of_external(&self.domain, &name)).collect();
        ExternalConfig { name, hosts, ranges, ports, policies: policies.into() }
    }

    /// Has keys be those of sources that policies name and that their namespaces' egress lets the server read; to be asked after changes of
    /// policies, of what is listed, or of the Mesh. What egress no longer lets be read is nobody's any more.
    pub fn settle_keys(&mut self) -> (KeySources, Effects) {
        let namespaces: BTreeSet<_> =
            self.named_key_sources().map(|(policy, _)| policy.namespace.clone()).collect();
        namespaces.iter().for_each(|namespace| self.list(namespace));
        let mut sources = KeySources::default();
        for (policy, source) in self.named_key_sources() {
            match self.may_fetch(policy, source) {
                Ok(()) => drop(sources.wanted.insert(source.clone())),
                Err(held) => sources.refused.push((policy.clone(), source.clone(), held)),
            }
        }
        let refused = sources.refused.iter();
        let refused: BTreeSet<_> =
            refused.map(|(policy, source, _)| (policy.clone(), source.clone())).collect();
        let before = std::mem::replace(&mut self.refused_keys, refused);
        self.keys.retain(|source, _| sources.wanted.contains(source));
        let changed = before.symmetric_difference(&self.refused_keys);
        let policies = changed.filter_map(|(policy, _)| self.authorizations.get(policy));
        let workloads = policies.flat_map(|policy| self.reached_by(policy)).collect();
        (sources, self.settle(Dirty { workloads, ..Dirty::default() }))
    }

    /// The keys from there, as a policy may have them.
    pub(super) fn keys_of(&self, policy: &NamespacedName, source: &Arc<str>) -> Option<&Arc<str>> {
        let is_refused =
            !self.refused_keys.is_empty() && self.refused_keys.contains(&(policy.clone(), source.clone()));
        self.keys.get(source).filter(|_| !is_refused)
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
    pub(super) fn listed_by(&self, external: &ExternalForm) -> Vec<WorkloadName> {
        self.workloads.keys().filter(|name| external.lists_for(&name.namespace)).cloned().collect()
    }
}
