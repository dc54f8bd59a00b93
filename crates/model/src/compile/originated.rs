//! In which TLS something goes to the outside, by the BackendTLSPolicies and the certificates that they name (GEP-1897).
//!
//! A policy whose certificates are of no use says that nothing goes: in plain it would go to whoever is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;
use x509_parser::pem::Pem;

use super::index::renew;
use super::policy_status::TargetStatus;
use super::{Compiler, Dirty, Refused};
use crate::decision::Decider;
use crate::kinds::backend_tls_policy::form::{
    BackendTlsForm, RootsForm, RootsReference, TlsTarget, references_of,
};
use crate::kinds::external_service::form::ExternalPortForm;
use crate::kinds::route::ParentReference;
use crate::name::NamespacedName;
use crate::policy::{Policies, Policy, Target};
use crate::registry::KindId;
use crate::snapshot::{ExternalPort, OriginatedRoots, OriginatedTls, OutsideProtocol, TlsAsker};

/// Where a ConfigMap or Secret has certificates of authorities (Gateway API, `caCertificateRefs`).
const KEY: &str = "ca.crt";
/// How many certificates an object may have, and how many bytes all of them: each workload's node is told of them.
const MOST_CERTIFICATES: usize = 100;
const LARGEST: usize = 128 << 10;

/// A ConfigMap or Secret.
pub(super) type BundleKey = (KindId, NamespacedName);
/// The certificates of one in DER, or why there is none: as a part of a sentence about it.
type Bundle = Result<Arc<[Arc<[u8]>]>, String>;

/// All of them, and what they refer to.
#[derive(Debug, Default)]
pub(super) struct TlsPolicies {
    pub forms: BTreeMap<NamespacedName, Arc<BackendTlsForm>>,
    /// Those of which the newest object does not read.
    pub refused: HashMap<NamespacedName, Refused<ParentReference>>,
    pub statuses: HashMap<NamespacedName, Vec<TargetStatus>>,
    attached: Policies<Arc<BackendTlsForm>>,
    bundles: HashMap<BundleKey, Bundle>,
}

/// Why nobody is trusted who may have signed a certificate.
pub(super) struct Unresolved {
    /// Of a condition (Gateway API, BackendTLSPolicyConditionResolvedRefs).
    pub reason: &'static str,
    pub field: String,
    pub why: String,
}

impl TlsPolicies {
    /// All objects that have left something here.
    pub fn known(&self) -> impl Iterator<Item = (KindId, NamespacedName)> {
        let policies = self.forms.keys().chain(self.refused.keys());
        policies.map(|name| (KindId::BackendTlsPolicy, name.clone())).chain(self.bundles.keys().cloned())
    }

    /// Notes that the newest object of a policy does not read; `None`: it does, or there is none.
    pub fn refuse(&mut self, name: &NamespacedName, object: Option<&Value>) {
        match object {
            Some(object) => {
                let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
                let refused = Refused { generation, references: references_of(object) };
                self.refused.insert(name.clone(), refused);
            }
            None => drop(self.refused.remove(name)),
        }
    }

    /// The policies that are about an ExternalService.
    pub fn about(&self, service: &NamespacedName) -> Vec<NamespacedName> {
        let is_about =
            |target: &TlsTarget| matches!(target, TlsTarget::External { service: own, .. } if own == service);
        let policies = self.forms.values().filter(|form| form.targets.iter().any(is_about));
        policies.map(|form| form.name.clone()).collect()
    }

    /// The policy that acts at a target, of those that name it.
    pub fn acting(&self, target: &Target) -> Option<&BackendTlsForm> {
        self.attached.acting(target).map(|policy| &*policy.spec)
    }

    /// A port, with the TLS that is originated there.
    pub fn at_port(&self, service: &NamespacedName, port: ExternalPortForm) -> ExternalPort {
        let ExternalPortForm { name, port } = port;
        // Its clients speak TLS themselves.
        if port.protocol == OutsideProtocol::Tls {
            return port;
        }
        let own = name.map(|name| Target::ExternalPort(service.clone(), name));
        let targets = own.into_iter().chain([Target::External(service.clone())]);
        let acting = targets.filter_map(|target| self.acting(&target)).next();
        ExternalPort { tls: acting.map(|form| Arc::new(self.originated(form))), ..port }
    }

    fn originated(&self, form: &BackendTlsForm) -> OriginatedTls {
        let roots = match self.roots(form) {
            Ok(roots) => roots,
            Err(unresolved) => {
                let Unresolved { field, why, .. } =
                    unresolved.into_iter().next().unwrap_or_else(|| Unresolved {
                        reason: "Invalid",
                        field: "spec.validation".to_owned(),
                        why: "it names nobody who may have signed a certificate".to_owned(),
                    });
                OriginatedRoots::Nobody { field: field.into(), why: why.into() }
            }
        };
        let BackendTlsForm { name, hostname, names, .. } = form.clone();
        OriginatedTls { by: TlsAsker::Policy(name), hostname, names, roots }
    }

    /// Who may have signed a certificate; else all that is wrong with the references.
    pub fn roots(&self, form: &BackendTlsForm) -> Result<OriginatedRoots, Vec<Unresolved>> {
        let references = match &form.roots {
            RootsForm::System => return Ok(OriginatedRoots::System),
            RootsForm::Unknown(own) => {
                let field = "spec.validation.wellKnownCACertificates".to_owned();
                let why = format!("`{own}` is not known here: `System` is");
                return Err(vec![Unresolved { reason: "Invalid", field, why }]);
            }
            RootsForm::References(references) => references,
        };
        let (mut all, mut unresolved) = (Vec::new(), Vec::new());
        for (index, reference) in references.iter().enumerate() {
            let (reason, why) = match reference {
                RootsReference::Unsupported(kind) => {
                    ("InvalidKind", format!("{kind} is not supported: ConfigMap and Secret are"))
                }
                RootsReference::Of(kind, name) => {
                    let what = format!("{} {name}", kind.kind());
                    match self.bundles.get(&(*kind, name.clone())) {
                        Some(Ok(certificates)) => {
                            all.extend(certificates.iter().cloned());
                            continue;
                        }
                        Some(Err(why)) => ("InvalidCACertificateRef", format!("{what} {why}")),
                        None => ("InvalidCACertificateRef", format!("there is no {what}")),
                    }
                }
            };
            let field = format!("spec.validation.caCertificateRefs[{index}]");
            unresolved.push(Unresolved { reason, field, why });
        }
        if unresolved.is_empty() { Ok(OriginatedRoots::Given(all.into())) } else { Err(unresolved) }
    }

    fn referring_to(&self, bundle: &BundleKey) -> Vec<Arc<BackendTlsForm>> {
        let is_meant = |of: &RootsReference| matches!(of, RootsReference::Of(kind, name) if (kind, name) == (&bundle.0, &bundle.1));
        let refers = |form: &&Arc<BackendTlsForm>| match &form.roots {
            RootsForm::References(references) => references.iter().any(is_meant),
            RootsForm::System | RootsForm::Unknown(_) => false,
        };
        self.forms.values().filter(refers).cloned().collect()
    }
}

impl BackendTlsForm {
    /// What it is attached to.
    fn attached(&self) -> BTreeSet<Target> {
        let targets = self.targets.iter().filter_map(|target| match target {
            TlsTarget::External { service, port: None } => Some(Target::External(service.clone())),
            TlsTarget::External { service, port: Some(port) } => {
                Some(Target::ExternalPort(service.clone(), port.clone()))
            }
            TlsTarget::Other { .. } => None,
        });
        targets.collect()
    }

    fn services(&self) -> impl Iterator<Item = &NamespacedName> {
        self.targets.iter().filter_map(|target| match target {
            TlsTarget::External { service, .. } => Some(service),
            TlsTarget::Other { .. } => None,
        })
    }
}

impl Compiler {
    pub(super) fn set_tls_policy(
        &mut self,
        name: &NamespacedName,
        form: Option<BackendTlsForm>,
        dirty: &mut Dirty,
    ) {
        let form = form.map(Arc::new);
        match &form {
            Some(form) => self.tls.forms.insert(name.clone(), form.clone()),
            None => self.tls.forms.remove(name),
        };
        let policy = form.map(|form| Policy {
            by: Decider::BackendTlsPolicy(name.clone()),
            created: form.created,
            targets: form.attached(),
            spec: form,
        });
        let changed = self.tls.attached.set(name, policy);
        let services = changed.into_iter().filter_map(|target| match target {
            Target::External(service) | Target::ExternalPort(service, _) => Some(service),
            _ => None,
        });
        self.tls_changed(&services.collect(), dirty);
    }

    /// Takes in what certificates a ConfigMap or Secret has. Nothing else of it is kept.
    pub(super) fn set_bundle(&mut self, key: BundleKey, object: Option<&Value>, dirty: &mut Dirty) {
        let bundle = object.map(|object| bundle(key.0, object));
        if !renew(&mut self.tls.bundles, &key, bundle) {
            return;
        }
        let referring = self.tls.referring_to(&key);
        dirty.tls_policies.extend(referring.iter().map(|form| form.name.clone()));
        let services = referring.iter().flat_map(|form| form.services().cloned());
        self.tls_changed(&services.collect(), dirty);
    }

    fn tls_changed(&mut self, services: &BTreeSet<NamespacedName>, dirty: &mut Dirty) {
        for service in services {
            dirty.tls_policies.extend(self.tls.about(service));
            if let Some(form) = self.external.get(service) {
                dirty.workloads.extend(self.listed_by(form));
                dirty.external.insert(service.clone());
            }
        }
        if !services.is_empty() {
            self.settle_mesh(dirty);
        }
    }

    /// Whether TLS is originated for some workload.
    pub(super) fn originates_tls(&self) -> bool {
        let services = self.tls.forms.values().flat_map(|form| form.services());
        services.into_iter().any(|service| self.external.contains_key(service))
    }
}

/// The certificates that an object has.
fn bundle(kind: KindId, object: &Value) -> Bundle {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let at = |field: &str| object.get(field)?.get(KEY)?.as_str();
    let decoded =
        |text: &str| STANDARD.decode(text).map_err(|_| format!("has no base64 by the name `{KEY}`"));
    let missing = || format!("has no value by the name `{KEY}`");
    match kind {
        KindId::Secret => certificates(&decoded(at("data").ok_or_else(missing)?)?),
        _ => match (at("data"), at("binaryData")) {
            (Some(text), _) => certificates(text.as_bytes()),
            (None, Some(text)) => certificates(&decoded(text)?),
            (None, None) => Err(missing()),
        },
    }
}

/// The certificates in PEM (RFC 7468, section 5). What else is there, keys perhaps, is passed over.
fn certificates(pem: &[u8]) -> Bundle {
    let (mut all, mut size): (Vec<Arc<[u8]>>, _) = (Vec::new(), 0);
    for block in Pem::iter_from_buffer(pem) {
        // Text between blocks is allowed, and what is no PEM at all is seen below.
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            continue;
        }
        if block.parse_x509().is_err() {
            return Err(format!(
                "has something by the name `{KEY}` that is no certificate (block {})",
                all.len() + 1
            ));
        }
        size += block.contents.len();
        if all.len() >= MOST_CERTIFICATES || size > LARGEST {
            return Err(format!(
                "has more than {MOST_CERTIFICATES} certificates by the name `{KEY}`, or more than {LARGEST} bytes of them"
            ));
        }
        all.push(block.contents.into());
    }
    if all.is_empty() {
        Err(format!("has no certificate in PEM by the name `{KEY}`"))
    } else {
        Ok(all.into())
    }
}
