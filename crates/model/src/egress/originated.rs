//! In which TLS something leaves, and where to: what lists it says so, or a BackendTLSPolicy about that.
//!
//! Where all may leave (`Allow`), only what goes in TLS is looked at, and everything else passes as it is. A destination is told there as
//! it is where egress is `Listed`: by the names that its address was resolved for, or the address itself.

use std::fmt;
use std::sync::Arc;

use super::{Listed, ListedBy};
use crate::decision::{Decider, Decision, Effect};
use crate::name::WorkloadName;
use crate::snapshot::{OriginatedRoots, OriginatedTls, Snapshot, TlsAsker};

/// How something goes on from the node that it leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Onward {
    /// To that port, in the place of the one that the client means.
    pub port: Option<u16>,
    pub tls: Option<Arc<OriginatedTls>>,
}

impl Onward {
    /// As what lists it says, without what a URL asks for beside that.
    pub fn as_listed(&self) -> Self {
        let tls = self.tls.clone().filter(|tls| matches!(tls.by, TlsAsker::Policy(_)));
        Self { port: self.port, tls }
    }
}

/// What goes in TLS for a workload that may send anything anywhere; `None`: nothing does.
pub fn originated<'a>(snapshot: &'a Snapshot, workload: &'a WorkloadName) -> Option<Listed<'a>> {
    if !snapshot.mesh.originates_tls {
        return None;
    }
    let services = &snapshot.workloads.get(workload)?.external;
    services.originate_tls().then_some(Listed {
        namespace: &workload.namespace,
        services: Some(services),
        field: snapshot.mesh.egress_of(&workload.namespace).1,
        flow: None,
        only_originated: true,
    })
}

impl Listed<'_> {
    /// Whether what it does not have goes as it is; `named`: whom the client means. One whose name it has is not meant to go in plain,
    /// wherever its address comes from.
    pub fn lets_pass(&self, named: Option<&str>) -> bool {
        self.only_originated && !named.is_some_and(|named| self.lists_name(named))
    }
}

/// How something goes on that is listed by all of these: in TLS, if one of them says so; the first of those says in which.
pub fn onward(all: &[ListedBy<'_>]) -> Onward {
    let by = all.iter().find(|by| by.port.tls.is_some()).or(all.first());
    by.map(|by| Onward { port: by.port.target_port, tls: by.port.tls.clone() }).unwrap_or_default()
}

impl OriginatedTls {
    /// What decides that it goes so, or that it does not go.
    pub fn decision(&self) -> Decision {
        let by = self.by.decider();
        match &self.roots {
            OriginatedRoots::Nobody { field, .. } => Decision::new(by, field.to_string(), Effect::Refused),
            OriginatedRoots::System | OriginatedRoots::Given(_) => {
                Decision::new(by, "spec.targetRefs", Effect::Originated)
            }
        }
    }

    /// Why nothing goes; `None`: it does.
    pub fn refusal(&self) -> Option<String> {
        let OriginatedRoots::Nobody { field, why } = &self.roots else { return None };
        Some(format!("no TLS can be originated: {}, {field}: {why}", self.by))
    }
}

impl fmt::Display for TlsAsker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(name) => write!(f, "BackendTLSPolicy {name}"),
            Self::Url(name) => write!(f, "ExternalService {name}"),
        }
    }
}

impl TlsAsker {
    /// The object that asks for it.
    pub fn decider(&self) -> Decider {
        match self {
            Self::Policy(policy) => Decider::BackendTlsPolicy(policy.clone()),
            Self::Url(external) => Decider::ExternalService(external.clone()),
        }
    }
}

/// The status and the reason of the answer to a request for which there is no TLS.
pub const TLS_FAILED: (u16, &str) = (502, "tls-failed");
