//! A connection whose bytes are not looked at.

use super::deliver::pick;
use super::rule::{part, refusal, shares};
use super::{Caller, Ending, Phase, Said};
use crate::authorization::Traffic;
use crate::decision::{Decider, Decision, Effect};
use crate::routing::decide;
use crate::snapshot::{PortConfig, ServiceConfig, Snapshot};

/// `is_tls`: it begins as TLS does; `server`: the one that its client names then (SNI); `traffic`: what may be read of it at its destination.
pub(super) fn connection(
    snapshot: &Snapshot,
    caller: Caller<'_>,
    service: &ServiceConfig,
    port: &PortConfig,
    (is_tls, server, traffic): (bool, Option<&str>, Traffic<'_>),
    said: &mut Said,
) -> Result<Vec<Ending>, Ending> {
    let server = server.map(|server| server.strip_suffix('.').unwrap_or(server).to_ascii_lowercase());
    let server = server.as_deref();
    let namespace = &*caller.workload.namespace;
    if !is_tls && !port.tls_routes.is_empty() {
        let message = "what the client sends does not begin like TLS".to_owned();
        let decision = decide::hostnames_of(service, port);
        return Err(said.refused(Phase::Route, Some(&decision), (400, "bad-request"), message));
    }
    let by_server = server.and_then(|server| port.tls_routes.find(server));
    if let (Some(rule), Some(server)) = (by_server, server) {
        let decision = Decision::new(Decider::TlsRoute(rule.route.clone()), "spec.hostnames", Effect::Routed);
        said.decided(Phase::Route, format!("the client names the server {server} (SNI)"), &decision);
    }
    let rule = if port.tls_routes.is_empty() { port.tcp_route.as_ref() } else { by_server };
    let decided = |random: u64| decide::connection(service, port.number, namespace, server, || random);
    let shares = rule.map_or(vec![(1.0, 0)], |rule| shares(&rule.backends));
    if shares.is_empty() {
        return match decided(0) {
            Err(unrouted) => Err(refusal(said, &unrouted)),
            Ok(_) => Ok(Vec::new()),
        };
    }
    let endings = shares.into_iter().map(|(share, bits)| match decided(bits) {
        Err(unrouted) => Ending { share, end: refusal(said, &unrouted).end },
        Ok((backend, port, decision)) => {
            match &decision {
                Some(decision) => {
                    let what = format!("{} to Service {backend} port {port}", part(share, "goes", "go"));
                    said.decided(Phase::Route, what, decision);
                }
                None => said.say(Phase::Route, "no route: all goes to its own endpoints"),
            }
            Ending { share, end: pick(snapshot, caller, (backend, port), traffic, None, said) }
        }
    });
    Ok(endings.collect())
}
