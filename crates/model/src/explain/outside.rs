//! What leaves the mesh, or may not.

use std::net::IpAddr;
use std::sync::Arc;

use super::normal::Request;
use super::{Caller, Described, End, Ending, Form, Phase, Said, Sends};
use crate::authorization::{Denial, RequestSeen, Traffic, decide_leaving};
use crate::decision::{Decider, Decision, Effect};
use crate::egress::originated::{self, Onward};
use crate::egress::{HeldBack, Leave, Listed, ListedBy, PlaceSeen, leave};
use crate::host::folded;
use crate::name::WorkloadName;
use crate::snapshot::{OutsideProtocol, Snapshot};

/// What is for no service. `request`: in the form in which it would be routed.
pub(super) fn outside(
    snapshot: &Snapshot,
    caller: Caller<'_>,
    asked: Described<'_>,
    request: Option<&Request<'_>>,
    host: &str,
    said: &mut Said,
) -> Result<Vec<Ending>, Ending> {
    said.say(Phase::Route, format!("{host} is no service of the mesh"));
    if let Ok(address) = host.parse::<IpAddr>()
        && let Some(workload) = workload_at(snapshot, address)
    {
        let what =
            format!("it is the address of Workload {workload}: no route applies, and nothing is encrypted");
        said.say(Phase::Route, what);
    }
    match leave(snapshot, caller.workload, &host).map_err(|held| refused(said, &held))? {
        Leave::Freely(field) => {
            let allowed = Decision::new(Decider::Mesh, field, Effect::Routed);
            said.decided(Phase::Admit, "the mesh lets it out", &allowed);
            if let Some(listed) = in_tls(snapshot, caller, asked, request, host) {
                listed_outside(listed, caller, asked, request, host, said)?;
            }
        }
        Leave::Listed(listed) => listed_outside(listed, caller, asked, request, host, said)?,
    }
    let end = End::Outside { host: host.to_owned(), port: asked.port };
    Ok(vec![Ending { share: 1.0, end }])
}

/// What has it go in TLS, where all may leave.
fn in_tls<'a>(
    snapshot: &'a Snapshot,
    caller: Caller<'a>,
    asked: Described<'_>,
    request: Option<&Request<'_>>,
    host: &str,
) -> Option<Listed<'a>> {
    let listed = originated::originated(snapshot, caller.workload)?;
    let name: Arc<str> = folded(host).as_ref().into();
    let address = host.parse::<IpAddr>().ok();
    let names = if address.is_none() { std::slice::from_ref(&name) } else { &[] };
    let place = PlaceSeen { names, address, port: asked.port };
    let protocol = listed.connection(place).ok()?.protocol;
    let named = request.filter(|_| protocol == OutsideProtocol::Http).map(|of| (&*of.host, of.named_port));
    let passes = named.is_some()
        && listed.named(place, named).is_err()
        && listed.lets_pass(named.map(|(host, _)| host));
    (!passes).then_some(listed)
}

/// Says in which TLS it goes on, and where to.
fn say_onward(all: &[ListedBy<'_>], said: &mut Said) -> Result<(), Ending> {
    let Onward { port, tls } = originated::onward(all);
    let to = port.map(|port| format!(", to port {port}")).unwrap_or_default();
    match tls {
        Some(tls) => match tls.refusal() {
            Some(message) => {
                Err(said.refused(Phase::Admit, Some(&tls.decision()), originated::TLS_FAILED, message))
            }
            None => {
                let what = format!("the node speaks TLS to it, asking for {}{to}", tls.hostname);
                said.decided(Phase::Admit, what, &tls.decision());
                Ok(())
            }
        },
        None if port.is_some() => {
            if let Some(by) = all.first() {
                let by = Decider::ExternalService(by.service.name.clone());
                let decision = Decision::new(by, "spec.ports", Effect::Routed);
                said.decided(Phase::Admit, format!("it goes on{to}"), &decision);
            }
            Ok(())
        }
        None => Ok(()),
    }
}

fn listed_outside(
    listed: Listed<'_>,
    caller: Caller<'_>,
    asked: Described<'_>,
    request: Option<&Request<'_>>,
    host: &str,
    said: &mut Said,
) -> Result<(), Ending> {
    let address = host.parse::<IpAddr>().ok();
    let name: Arc<str> = folded(host).as_ref().into();
    let names = if address.is_none() { std::slice::from_ref(&name) } else { &[] };
    let place = PlaceSeen { names, address, port: asked.port };
    let connection = listed.connection(place).map_err(|held| {
        let refused = refused(said, &held);
        if address.is_none() && !listed.lists_name(host) {
            said.say(Phase::Admit, "with host capture, the name does not resolve");
        }
        refused
    })?;
    match (connection.protocol, asked.sends, request) {
        (OutsideProtocol::Http, _, Some(request)) => {
            let named = Some((&*request.host, request.named_port));
            let all = listed.named(place, named).map_err(|held| refused(said, &held))?;
            let authority = request.authority();
            let seen = Traffic::Request(RequestSeen {
                method: request.method,
                path: request.path,
                authority: &authority,
                headers: &request.headers,
                tokens: &[],
            });
            all.iter().try_for_each(|by| may_use(by, caller, asked.port, seen, said))?;
            say_onward(&all, said)
        }
        (OutsideProtocol::Http, ..) => {
            let message =
                "what is sent is no HTTP, which the ExternalService says is spoken there".to_owned();
            said.form = Form::Reset;
            Err(said.refused(Phase::Admit, Some(&at_port(&connection)), (400, "bad-request"), message))
        }
        (OutsideProtocol::Tls, Sends::Bytes { is_tls: true, server }, _) => {
            let named = server.map(|server| (server, None));
            let all = listed.named(place, named).map_err(|held| refused(said, &held))?;
            all.iter().try_for_each(|by| may_use(by, caller, asked.port, Traffic::Bytes, said))?;
            say_onward(&all, said)
        }
        (OutsideProtocol::Tls, ..) => {
            said.form = Form::Reset;
            let message = "what the client sends does not begin like TLS".to_owned();
            Err(said.refused(Phase::Admit, Some(&at_port(&connection)), (400, "bad-request"), message))
        }
        (OutsideProtocol::Bytes, ..) => {
            said.form = Form::Reset;
            let all = listed.all(place);
            all.iter().try_for_each(|by| may_use(by, caller, asked.port, Traffic::Bytes, said))?;
            say_onward(&all, said)
        }
    }
}

fn at_port(listed: &ListedBy<'_>) -> Decision {
    let by = Decider::ExternalService(listed.service.name.clone());
    Decision::new(by, "spec.ports", Effect::Refused)
}

/// Whether policies let the caller use it.
fn may_use(
    listed: &ListedBy<'_>,
    caller: Caller<'_>,
    port: u16,
    seen: Traffic<'_>,
    said: &mut Said,
) -> Result<(), Ending> {
    let name = &listed.service.name;
    said.decided(Phase::Admit, format!("ExternalService {name} lists it"), &listed.decision());
    let Some(identity) = caller.identity else { return Ok(()) };
    match decide_leaving(listed.service, identity, port, seen) {
        Ok(None) => {}
        Ok(Some(matched)) => {
            let what = format!("{identity} may use it");
            said.decided(Phase::Admit, what, &matched.decision(Effect::Routed));
        }
        Err(denial) => {
            let decision = denial.decision();
            let status = if matches!(denial, Denial::AmbiguousPath(..)) { 400 } else { 403 };
            let answer = (status, denial.reason());
            return Err(said.refused(Phase::Admit, Some(&decision), answer, denial.message(name)));
        }
    }
    Ok(())
}

fn refused(said: &mut Said, held: &HeldBack) -> Ending {
    said.refused(Phase::Admit, Some(&held.decision), held.why.answer(), held.message.clone())
}

fn workload_at(snapshot: &Snapshot, address: IpAddr) -> Option<&WorkloadName> {
    let mut endpoints = snapshot.endpoints.values().flat_map(|set| &set.endpoints);
    endpoints.find_map(|endpoint| endpoint.workload.as_ref().filter(|_| endpoint.address == address))
}
