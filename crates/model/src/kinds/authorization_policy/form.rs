//! An AuthorizationPolicy as it is compiled: for each workload that it applies to.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::AuthorizationTarget;
use crate::condition::CelCondition;
use crate::identity::TrustDomain;
use crate::kinds::external_service::form::lists_for;
use crate::kinds::service::form::Labels;
use crate::name::{NamespacedName, ServiceName, WorkloadName};
use crate::snapshot::external::ExternalAuth;
use crate::snapshot::{
    AccessPolicy, AccessRule, Action, IdentityPattern, JwtIssuer, JwtKeys, RequestConditions, ServedPort,
    Source,
};

/// Sets of keys (RFC 7517) by where the server has them from.
pub(crate) type FetchedKeys = HashMap<Arc<str>, Arc<str>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthorizationForm {
    pub name: NamespacedName,
    /// That of the object.
    pub generation: Option<i64>,
    pub action: Action,
    pub targets: Vec<TargetForm>,
    /// The targets as the object has them.
    pub references: Vec<AuthorizationTarget>,
    /// Without the keys that the server has from elsewhere.
    pub issuers: Vec<JwtIssuer>,
    pub rules: Vec<AccessRuleForm>,
    /// Of [`Action::Ask`] alone.
    pub external: Option<Arc<ExternalAuth>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetForm {
    /// Of a policy in [`super::SYSTEM_NAMESPACE`] alone.
    Mesh,
    /// All of the policy's own namespace.
    Namespace,
    Service(ServiceName),
    /// Its trigger: who may start it.
    Flow(NamespacedName),
    Workloads(Selector),
    /// Of workloads that use it.
    External(NamespacedName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessRuleForm {
    pub sources: Option<Vec<SourceForm>>,
    pub ports: Option<Vec<u16>>,
    pub request: Option<Box<RequestConditions>>,
    pub when: Option<CelCondition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceForm {
    /// Of this mesh; `*` is any.
    Account {
        namespace: String,
        name: String,
    },
    Identity(IdentityPattern),
    Outside(Vec<IpNet>),
}

/// Labels that must all be so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector(pub Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requirement {
    pub key: String,
    pub operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|Requirement { key, operator }| {
            let value = labels.get(key);
            match operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => !value.is_some_and(|value| values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

impl AuthorizationForm {
    /// The ExternalServices among its targets.
    pub(crate) fn outside(&self) -> impl Iterator<Item = &NamespacedName> {
        self.targets.iter().filter_map(|target| match target {
            TargetForm::External(name) => Some(name),
            TargetForm::Mesh
            | TargetForm::Namespace
            | TargetForm::Workloads(_)
            | TargetForm::Service(_)
            | TargetForm::Flow(_) => None,
        })
    }

    /// Whether workloads of that namespace may be among its targets.
    pub(crate) fn reaches(&self, namespace: &str) -> bool {
        let lists =
            |target: &TargetForm| matches!(target, TargetForm::External(name) if lists_for(name, namespace));
        *self.name.namespace == *namespace
            || self.targets.contains(&TargetForm::Mesh)
            || self.targets.iter().any(lists)
    }

    /// Whether somebody may be held off from workloads by it.
    pub(crate) fn holds_off(&self) -> bool {
        let is_entered = |target: &TargetForm| !matches!(target, TargetForm::External(_));
        self.action.holds_off() && self.targets.iter().any(is_entered)
    }

    /// What it is for an ExternalService.
    pub(crate) fn of_external(&self, domain: &TrustDomain, name: &NamespacedName) -> Option<AccessPolicy> {
        let is_meant = |target: &TargetForm| matches!(target, TargetForm::External(own) if own == name);
        self.targets.iter().any(is_meant).then(|| AccessPolicy {
            name: self.name.clone(),
            action: self.action,
            at: None,
            // Tokens are for those who take them.
            issuers: Vec::new(),
            rules: self.rules.iter().enumerate().map(|(index, rule)| rule.of(domain, index, None)).collect(),
            external: None,
        })
    }

    /// The Services and Flows among its targets.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.targets.iter().filter_map(|target| match target {
            TargetForm::Service(name) | TargetForm::Flow(name) => Some(name),
            TargetForm::Mesh | TargetForm::Namespace | TargetForm::Workloads(_) | TargetForm::External(_) => {
                None
            }
        })
    }

    /// Whether one of its targets says something of a workload with these labels; the ports of the Service or Flow that is the
    /// target, if one is. `triggered`: what serves the trigger of that Flow.
    pub(crate) fn applies<'a>(
        &self,
        target: &TargetForm,
        workload: &WorkloadName,
        labels: &Labels,
        served: impl Fn(&ServiceName) -> Option<&'a [ServedPort]>,
        triggered: impl Fn(&NamespacedName) -> Option<&'a [ServedPort]>,
    ) -> Option<Option<&'a [ServedPort]>> {
        let is_own = self.name.namespace == workload.namespace;
        match target {
            TargetForm::Mesh => Some(None),
            TargetForm::Namespace => is_own.then_some(None),
            TargetForm::Workloads(selector) => (is_own && selector.selects(labels)).then_some(None),
            TargetForm::Service(service) => served(service).filter(|_| is_own).map(Some),
            TargetForm::Flow(flow) => triggered(flow).filter(|_| is_own).map(Some),
            TargetForm::External(_) => None,
        }
    }

    /// Whether nobody is asked about what comes to those whom `other` asks, by this policy: else they could not be asked anything. Whom
    /// policies of others than the mesh and its own namespace ask says nothing of a policy.
    pub(crate) fn spares_those_behind(&self, other: &Self) -> bool {
        self.external.is_some()
            && (self.name.namespace == other.name.namespace
                || *other.name.namespace == *super::SYSTEM_NAMESPACE)
    }

    /// What it is for a workload: once for each target by which it says something of that, with the ports that a Service stands for there,
    /// where the target is one. `keys`: those that the server has from there; `spared`: the ports at which it has nobody asked.
    pub(crate) fn of_workload(
        &self,
        domain: &TrustDomain,
        targets: &[Option<&[ServedPort]>],
        keys: impl Fn(&Arc<str>) -> Option<Arc<str>>,
        spared: &[u16],
    ) -> Vec<AccessPolicy> {
        let issuers: Vec<_> = self.issuers.iter().map(|issuer| Arc::new(with_keys(issuer, &keys))).collect();
        let policies = targets.iter().map(|of_service| AccessPolicy {
            name: self.name.clone(),
            action: self.action,
            at: of_service.map(|ports| ports.iter().map(|port| port.target_port).collect()),
            issuers: issuers.clone(),
            rules: self
                .rules
                .iter()
                .enumerate()
                .map(|(index, rule)| rule.of(domain, index, *of_service))
                .collect(),
            external: self.external.as_ref().map(|external| match spared {
                [] => external.clone(),
                _ => Arc::new(ExternalAuth { spared: spared.to_vec(), ..(**external).clone() }),
            }),
        });
        let mut all: Vec<AccessPolicy> = Vec::new();
        for policy in policies {
            if !all.contains(&policy) {
                all.push(policy);
            }
        }
        all
    }
}

/// The targets of an object that need not be valid, as far as they can be read.
pub(crate) fn references_of(object: &Value) -> Vec<AuthorizationTarget> {
    let references = object.pointer("/spec/targetRefs").and_then(Value::as_array);
    references.into_iter().flatten().filter_map(|r| serde_json::from_value(r.clone()).ok()).collect()
}

fn with_keys(issuer: &JwtIssuer, keys: impl Fn(&Arc<str>) -> Option<Arc<str>>) -> JwtIssuer {
    let JwtKeys { source, set } = issuer.keys.clone();
    let set = source.as_ref().map_or(set, keys);
    JwtIssuer { keys: JwtKeys { source, set }, ..issuer.clone() }
}

impl AccessRuleForm {
    /// `of_service`: the ports of the Service that is the target, if one is.
    fn of(&self, domain: &TrustDomain, index: usize, of_service: Option<&[ServedPort]>) -> AccessRule {
        let sources = self.sources.as_ref();
        let sources = sources.map(|sources| sources.iter().map(|source| source.of(domain)).collect());
        let ports = self.ports.as_ref().map(|ports| match of_service {
            None => ports.clone(),
            Some(served) => {
                let asked = served.iter().filter(|served| ports.contains(&served.service_port));
                asked.map(|served| served.target_port).collect()
            }
        });
        AccessRule { index, sources, ports, request: self.request.clone(), when: self.when.clone() }
    }
}

impl SourceForm {
    fn of(&self, domain: &TrustDomain) -> Source {
        match self {
            Self::Account { namespace, name } => {
                Source::Identity(IdentityPattern::of_account(domain, namespace, name))
            }
            Self::Identity(pattern) => Source::Identity(pattern.clone()),
            Self::Outside(ranges) => Source::Outside(ranges.clone()),
        }
    }
}
