//! Whether somebody may be in a workload: the same question for who comes, and for who is there when the configuration changes.

use std::io;
use std::sync::Arc;

use tulle_model::authorization::{self, Denial, Matched, Traffic, Visitor};
use tulle_model::identity::SpiffeId;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::WorkloadConfig;

use crate::peer::Peer;
use crate::state::LocalWorkload;

/// Why what was let in may not stay: a newer configuration would not let it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Withdrawn {
    #[error("the workload is no longer on this node")]
    Gone,
    #[error("the workload no longer offers this port to the mesh")]
    PortClosed,
    #[error("an AuthorizationPolicy no longer lets this caller in")]
    Denied,
    #[error("it came with a token, and is older than `spec.jwt.maxStreamAge` of an AuthorizationPolicy")]
    Old,
    #[error("the configuration no longer lets it leave the mesh")]
    Outside,
}

impl Withdrawn {
    /// Whether a policy does not want it there any more. Otherwise a workload that is gone may finish what it has taken.
    pub(super) fn is_by_policy(self) -> bool {
        matches!(self, Self::Denied | Self::Old)
    }

    /// Whether that is why something broke.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// Whether a peer that came to a workload of that identity may stay there, at that port. `workload`: as it is now, if it is still
/// on this node; `config`: what the server says of it; `seen`: what is known of what came; `asked`: the policies that
/// have had somebody asked about it.
pub(super) fn may_stay(
    peer: &Peer,
    identity: &SpiffeId,
    workload: Option<&Arc<LocalWorkload>>,
    config: Option<&WorkloadConfig>,
    port: u16,
    seen: Traffic<'_>,
    asked: &[NamespacedName],
) -> Result<(), Withdrawn> {
    is_offered(peer, identity, workload, port)?;
    is_authorized(peer, config, port, seen).map_err(|_| Withdrawn::Denied)?;
    was_asked_about(peer, config, port, seen, asked).then_some(()).ok_or(Withdrawn::Denied)
}

/// Whether all policies that would have somebody asked are among those that have. What goes on is not asked about again: where one is
/// missing, it ends.
pub(super) fn was_asked_about(
    peer: &Peer,
    config: Option<&WorkloadConfig>,
    port: u16,
    seen: Traffic<'_>,
    asked: &[NamespacedName],
) -> bool {
    config.is_none_or(|config| matches!(not_asked(peer, config, port, seen, asked), Ok(None)))
}

/// The first policy that would have somebody asked, and has not.
pub(super) fn not_asked<'a>(
    peer: &Peer,
    config: &'a WorkloadConfig,
    port: u16,
    seen: Traffic<'_>,
    asked: &[NamespacedName],
) -> Result<Option<Matched<'a>>, Denial<'a>> {
    let all = authorization::to_ask(config, visitor(peer), port, seen)?;
    Ok(all.into_iter().find(|matched| !asked.contains(&matched.policy.name)))
}

/// Whether policies let a peer in that is there, or comes to a workload of which the server has spoken.
pub(super) fn is_authorized<'a>(
    peer: &Peer,
    config: Option<&'a WorkloadConfig>,
    port: u16,
    seen: Traffic<'_>,
) -> Result<(), Denial<'a>> {
    let Some(config) = config else { return Ok(()) };
    authorization::decide(config, visitor(peer), port, seen).map(drop)
}

/// As whom policies see it.
pub(super) fn visitor(peer: &Peer) -> Visitor<'_> {
    match peer {
        Peer::Mesh(identity) => Visitor::Mesh(identity),
        Peer::Plain(address) => Visitor::Outside(address.ip()),
    }
}

/// Whether a peer finds a workload of that identity at that port.
pub(super) fn is_offered(
    peer: &Peer,
    identity: &SpiffeId,
    workload: Option<&Arc<LocalWorkload>>,
    port: u16,
) -> Result<(), Withdrawn> {
    let Some(workload) = workload.filter(|workload| workload.identity == *identity) else {
        return Err(Withdrawn::Gone);
    };
    match peer {
        // Only what the workload offers to the mesh is reachable through it, not whatever else listens there.
        Peer::Mesh(_) if !workload.ports.contains(&port) => Err(Withdrawn::PortClosed),
        Peer::Mesh(_) | Peer::Plain(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;
    use tulle_model::authorization::RequestSeen;
    use tulle_model::identity::TrustDomain;
    use tulle_model::name::WorkloadName;
    use tulle_model::snapshot::external::{ExternalAuth, ExternalProtocol};
    use tulle_model::snapshot::{AccessPolicy, AccessRule, Action};

    use super::*;

    #[test]
    fn who_was_not_asked_about_does_not_stay_where_somebody_would_be() {
        let external = ExternalAuth {
            service: "shop/authz".parse().unwrap(),
            port: 80,
            protocol: ExternalProtocol::Grpc { headers: Vec::new() },
            max_body: 0,
            timeout: Duration::from_secs(1),
            fail_open: false,
            spared: Vec::new(),
        };
        let policy = |name: &str| AccessPolicy {
            name: NamespacedName::new("shop", name),
            action: Action::Ask,
            at: Some(vec![80]),
            issuers: Vec::new(),
            rules: vec![AccessRule { index: 0, sources: None, ports: None, request: None, when: None }],
            external: Some(Arc::new(external.clone())),
        };
        let policies = vec![policy("p"), policy("q")].into();
        let name = WorkloadName::new("shop", "c");
        let config = WorkloadConfig { policies, ..WorkloadConfig::new(name.clone()) };
        let identity = SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "shop", "c").unwrap();
        let workload = Arc::new(LocalWorkload {
            name,
            service: "c".into(),
            identity: identity.clone(),
            app_address: [127, 0, 0, 1].into(),
            ports: vec![80, 81],
            certificate: None,
            draining: false,
            in_process: None,
            outside: None,
        });
        let peer = Peer::Mesh(identity.clone());
        let headers = HeaderMap::new();
        let request =
            RequestSeen { method: "GET", path: "/", authority: "c", headers: &headers, tokens: &[] };
        let [p, q] = ["p", "q"].map(|name| NamespacedName::new("shop", name));
        let both = [p.clone(), q];
        for (port, seen, asked, stays) in [
            (80, Traffic::Request(request), &both[..], true),
            (80, Traffic::Request(request), &both[..1], false),
            (80, Traffic::Request(request), &[], false),
            (80, Traffic::Forgotten, &both, true),
            (80, Traffic::Forgotten, &[], false),
            // It is asked about when its answer begins, or is over.
            (80, Traffic::Requests, &[], true),
            (80, Traffic::Bytes, &both, false),
            (81, Traffic::Request(request), &[], true),
        ] {
            let stay = may_stay(&peer, &identity, Some(&workload), Some(&config), port, seen, asked);
            let expected = if stays { Ok(()) } else { Err(Withdrawn::Denied) };
            assert_eq!(stay, expected, "{port} {seen:?} {asked:?}");
        }
        assert!(was_asked_about(&peer, None, 80, Traffic::Request(request), &[]));
    }
}
