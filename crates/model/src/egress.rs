//! What may leave the mesh, decided where it begins: by the Mesh's egress policy, and where that is `Listed`, by the ExternalServices
//! that list something for the workload.
//!
//! A destination is told by the names that its address was resolved for ([`resolved::Resolved`]), or by the address itself. Where a
//! client says whom it means, in TLS (SNI: RFC 6066, section 3) or HTTP (`Host`, `:authority`), that has to be one of these names: an
//! address of the outside may be many's. What is listed by its address goes by that alone.
//!
//! `Deny` lets nothing out, whatever is listed; under `Allow` nothing is looked at but what goes in TLS that is originated for it
//! ([`originated`]).

pub mod originated;
pub mod resolved;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::decision::{Decider, Decision, Effect};
use crate::host::folded;
use crate::name::{NamespacedName, SYSTEM_NAMESPACE, WorkloadName};
use crate::snapshot::{
    EgressPolicy, ExternalConfig, ExternalPort, ExternalServices, MeshSettings, OutsideProtocol, Snapshot,
};

/// How something may leave.
#[derive(Debug, Clone, Copy)]
pub enum Leave<'a> {
    /// Wherever to.
    Freely(&'static str),
    Listed(Listed<'a>),
}

/// What is listed for a workload.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    namespace: &'a str,
    /// `None`: the server has not said yet what is listed.
    services: Option<&'a ExternalServices>,
    /// What says that nothing else passes: a field of the Mesh.
    field: &'static str,
    /// Or that it is this Flow's.
    flow: Option<&'a str>,
    /// Only ports count at which TLS is originated.
    only_originated: bool,
}

/// Where something is to go.
#[derive(Debug, Clone, Copy)]
pub struct PlaceSeen<'a> {
    /// What the address was resolved for, in lower case.
    pub names: &'a [Arc<str>],
    /// `None`: the name is not resolved yet.
    pub address: Option<IpAddr>,
    pub port: u16,
}

/// Why it may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    pub why: HeldFor,
    pub decision: Decision,
    /// For people.
    pub message: String,
}

/// In short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldFor {
    /// By the policy: nothing may leave, or nothing lists it.
    Policy,
    /// The client means another one than it has connected to.
    OtherName,
}

impl HeldFor {
    /// The status and the reason that the answer to a request has.
    pub fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Policy => (502, "egress-denied"),
            Self::OtherName => (421, "misdirected"),
        }
    }
}

/// What lists something, and by which field.
#[derive(Debug, Clone, Copy)]
pub struct ListedBy<'a> {
    pub service: &'a Arc<ExternalConfig>,
    pub protocol: OutsideProtocol,
    pub port: &'a ExternalPort,
    by: By,
}

#[derive(Debug, Clone, Copy)]
enum By {
    Host(usize),
    Range(usize),
}

impl ListedBy<'_> {
    pub fn decision(&self) -> Decision {
        let field = match self.by {
            By::Host(place) => format!("spec.hosts[{place}]"),
            By::Range(place) => format!("spec.addresses[{place}]"),
        };
        Decision::new(Decider::ExternalService(self.service.name.clone()), field, Effect::Routed)
    }
}

/// How a workload's traffic may leave the mesh; `to`: where it wants to go, for the message. Until the server has said what holds, nothing
/// does.
pub fn leave<'a>(
    snapshot: &'a Snapshot,
    workload: &'a WorkloadName,
    to: &dyn fmt::Display,
) -> Result<Leave<'a>, HeldBack> {
    if snapshot.mesh_untold {
        return Err(HeldBack {
            why: HeldFor::Policy,
            decision: Decision::new(Decider::Mesh, "spec.egress", Effect::Refused),
            message: format!(
                "{to} is no service of the mesh, and the server has not said yet what may leave that"
            ),
        });
    }
    let config = snapshot.workloads.get(workload);
    leave_by(&snapshot.mesh, &workload.namespace, config.map(|config| &config.external), to)
}

/// Why what has come to a published port from outside of the mesh does not leave it again: whoever asks is nobody whom the mesh knows.
pub fn held_from_outside(to: &dyn fmt::Display) -> HeldBack {
    HeldBack {
        why: HeldFor::Policy,
        decision: Decision::new(Decider::Mesh, "spec.egress", Effect::Refused),
        message: format!("{to} is no service of the mesh, and published ports lead nowhere else"),
    }
}

/// How what the Flow of that name calls may leave: its workflow may name whatever it is given, so that nothing does but what is listed,
/// also where the Mesh lets workloads go freely.
pub fn leave_of_flow<'a>(
    snapshot: &'a Snapshot,
    workload: &'a WorkloadName,
    flow: &'a str,
    to: &dyn fmt::Display,
) -> Result<Leave<'a>, HeldBack> {
    match leave(snapshot, workload, to)? {
        Leave::Listed(listed) => Ok(Leave::Listed(Listed { flow: Some(flow), ..listed })),
        Leave::Freely(field) => Ok(Leave::Listed(Listed {
            namespace: &workload.namespace,
            services: snapshot.workloads.get(workload).map(|config| &config.external),
            field,
            flow: Some(flow),
            only_originated: false,
        })),
    }
}

/// Whether the server has said what may leave of a workload, which is a Flow's or not: what asks before that may be let out a moment
/// later.
pub fn is_told(snapshot: &Snapshot, workload: &WorkloadName, is_of_flow: bool) -> bool {
    let mesh = &snapshot.mesh;
    let goes_by_list = || match mesh.egress_of(&workload.namespace).0 {
        EgressPolicy::Listed => true,
        EgressPolicy::Allow if is_of_flow => true,
        EgressPolicy::Allow => mesh.originates_tls,
        EgressPolicy::Deny => false,
    };
    !snapshot.mesh_untold && (snapshot.workloads.contains_key(workload) || !goes_by_list())
}

/// How what is of a namespace may leave; `services`: what is listed there, where that is known.
pub fn leave_by<'a>(
    mesh: &MeshSettings,
    namespace: &'a str,
    services: Option<&'a ExternalServices>,
    to: &dyn fmt::Display,
) -> Result<Leave<'a>, HeldBack> {
    let (policy, field) = mesh.egress_of(namespace);
    let listed =
        |services| Leave::Listed(Listed { namespace, services, field, flow: None, only_originated: false });
    match policy {
        // In plain it would go where TLS may be meant.
        EgressPolicy::Allow if mesh.originates_tls && services.is_none() => Ok(listed(None)),
        EgressPolicy::Allow => Ok(Leave::Freely(field)),
        EgressPolicy::Deny => Err(HeldBack {
            why: HeldFor::Policy,
            decision: Decision::new(Decider::Mesh, field, Effect::Refused),
            message: format!("{to} is no service of the mesh, whose egress policy is Deny"),
        }),
        EgressPolicy::Listed => Ok(listed(services)),
    }
}

impl<'a> Listed<'a> {
    /// Whether the server has said what is listed.
    pub fn is_known(&self) -> bool {
        self.services.is_some()
    }

    /// Whether a name may be resolved.
    pub fn lists_name(&self, name: &str) -> bool {
        let Some(services) = self.services else { return false };
        match self.only_originated {
            false => services.list_host(&folded(name)),
            true => services.by_host(&folded(name)).any(|(service, _)| service.originates_tls()),
        }
    }

    /// What lists a destination, and says what is looked at there: where several do, one that looks.
    pub fn connection(&self, place: PlaceSeen<'_>) -> Result<ListedBy<'a>, HeldBack> {
        let all = self.all(place);
        let looking = all.iter().find(|listed| listed.protocol != OutsideProtocol::Bytes);
        looking.or(all.first()).copied().ok_or_else(|| self.unlisted(place))
    }

    /// What lists the one that a client names, of those that its address may be: the first says so, and each has to let it pass.
    /// With its host may come a port.
    pub fn named(
        &self,
        place: PlaceSeen<'_>,
        named: Option<(&str, Option<u16>)>,
    ) -> Result<Vec<ListedBy<'a>>, HeldBack> {
        let is_port = named.is_none_or(|(_, port)| port.is_none_or(|port| port == place.port));
        let named = named.map(|(host, _)| folded(host));
        let is_name = |named: &str| place.names.iter().any(|name| **name == *named);
        let was_resolved = is_port && named.as_deref().is_some_and(is_name);
        let by_name = named.as_deref().filter(|_| was_resolved);
        let own: Vec<Arc<str>> = by_name.map(Arc::from).into_iter().collect();
        let all = self.all(PlaceSeen { names: &own, ..place });
        if !all.is_empty() {
            return Ok(all);
        }
        match self.by_any_name(place) {
            Some(listed) if !was_resolved => Err(other_name(place, named.as_deref(), &listed)),
            // The one that is meant.
            _ => match by_name.map(Arc::from) {
                Some(own) => Err(self.unlisted(PlaceSeen { names: &[own], ..place })),
                None => Err(self.unlisted(place)),
            },
        }
    }

    /// All that it may be, where nothing says which: each of them has to let it pass.
    pub fn all(&self, place: PlaceSeen<'_>) -> Vec<ListedBy<'a>> {
        let by_name = place.names.iter().flat_map(|name| self.each_by_name(name, place.port));
        let mut all: Vec<ListedBy<'a>> = Vec::new();
        for listed in by_name.chain(self.each_by_address(place)) {
            if !all.iter().any(|known| known.service.name == listed.service.name) {
                all.push(listed);
            }
        }
        all
    }

    fn by_any_name(&self, place: PlaceSeen<'_>) -> Option<ListedBy<'a>> {
        place.names.iter().find_map(|name| self.each_by_name(name, place.port).next())
    }

    /// `None`: it lists nothing at that port, as far as that counts.
    fn at(&self, service: &'a Arc<ExternalConfig>, port: u16, by: By) -> Option<ListedBy<'a>> {
        let port = service.port(port).filter(|port| !self.only_originated || port.tls.is_some())?;
        Some(ListedBy { service, protocol: port.protocol, port, by })
    }

    fn each_by_name(&self, name: &str, port: u16) -> impl Iterator<Item = ListedBy<'a>> {
        let named = self.services.into_iter().flat_map(|services| services.by_host(name));
        named.filter_map(move |(service, place)| self.at(service, port, By::Host(place)))
    }

    fn each_by_address(&self, place: PlaceSeen<'_>) -> impl Iterator<Item = ListedBy<'a>> {
        let address = place.address.map(|address| address.to_canonical());
        let there = self
            .services
            .zip(address)
            .into_iter()
            .flat_map(|(services, address)| services.by_address(address));
        there.filter_map(move |(service, range)| self.at(service, place.port, By::Range(range)))
    }

    #[cold]
    fn unlisted(&self, PlaceSeen { names, address, port }: PlaceSeen<'_>) -> HeldBack {
        let to = match (names.first(), address) {
            (Some(name), _) => name.to_string(),
            (None, Some(address)) => address.to_string(),
            (None, None) => "it".to_owned(),
        };
        // Where it is listed but for the port.
        let elsewhere = self.services.and_then(|services| {
            let by_name = names.iter().find_map(|name| services.by_host(name).next());
            let by_address = || services.by_address(address?.to_canonical()).next();
            Some(by_name.or_else(by_address)?.0)
        });
        let why = HeldFor::Policy;
        if let Some(service) = elsewhere {
            let by = Decider::ExternalService(service.name.clone());
            let decision = Decision::new(by, "spec.ports", Effect::Refused);
            let message = format!("ExternalService {} lists {to}, and not at port {port}", service.name);
            return HeldBack { why, decision, message };
        }
        let namespace = self.namespace;
        let (decision, otherwise) = match self.flow {
            None => {
                let decision = Decision::new(Decider::Mesh, self.field, Effect::Refused);
                (decision, "the mesh's egress policy is Listed")
            }
            Some(flow) => {
                let flow = NamespacedName::new(namespace, flow);
                let decision = Decision::new(Decider::Flow(flow), "spec.workflow", Effect::Refused);
                (decision, "a Flow reaches nothing else outside of the mesh")
            }
        };
        let message = match self.is_known() {
            false => format!("the server has not said yet what is listed for namespace {namespace}"),
            true if names.is_empty() => format!(
                "no ExternalService of namespace {namespace} or {SYSTEM_NAMESPACE} lists {to}, nor was it resolved for a name that one \
                 lists; {otherwise}"
            ),
            true => format!(
                "no ExternalService of namespace {namespace} or {SYSTEM_NAMESPACE} lists {to}; {otherwise}"
            ),
        };
        HeldBack { why, decision, message }
    }
}

#[cold]
fn other_name(place: PlaceSeen<'_>, named: Option<&str>, listed: &ListedBy<'_>) -> HeldBack {
    let by = Decider::ExternalService(listed.service.name.clone());
    let resolved: Vec<_> = place.names.iter().take(3).map(|name| &**name).collect();
    let resolved = resolved.join(", ");
    let address = place.address.map(|address| format!("{address} ")).unwrap_or_default();
    let message = match named {
        Some(named) => {
            format!("the client names {named}, and the address {address}was resolved for {resolved}")
        }
        None => format!("the client names no server, and the address {address}was resolved for {resolved}"),
    };
    HeldBack { why: HeldFor::OtherName, decision: Decision::new(by, "spec.hosts", Effect::Refused), message }
}

#[cfg(test)]
mod tests;
