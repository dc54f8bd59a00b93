//! What becomes of a request that has a backend: what its rule makes of it, and which endpoints may take it.

use std::time::Duration;

use super::answer::{self, say_edit, texts};
use super::normal::Request;
use super::{Caller, Delivered, End, Form, Phase, Said, percent};
use crate::authorization::{self, Denial, Matched, RequestSeen, Traffic, Verdict, Visitor};
use crate::decision::{Decider, Decision, Effect};
use crate::head::may_go_on;
use crate::name::{ServiceName, WorkloadName};
use crate::retry::{ATTEMPTS, BACKOFF};
use crate::routing::decide::Routed;
use crate::snapshot::{
    AppProtocol, BackendTarget, Endpoint, HttpRule, Session, SessionCarrier, Snapshot, WorkloadConfig,
};
use crate::staleness;

/// The decision of a field of a rule.
pub(super) fn of_rule(rule: &HttpRule, field: String) -> Decision {
    Decision::new(Decider::rule(rule), field, Effect::Routed)
}

pub(super) fn deliver(
    snapshot: &Snapshot,
    caller: Caller<'_>,
    request: &Request<'_>,
    routed: &Routed<'_>,
    said: &mut Said,
) -> End {
    let mut headers = request.headers.clone();
    let (mut host, mut path) = (request.authority(), request.path.to_owned());
    let mut first = None;
    if let Some((rule, backend)) = routed.rule {
        for (filters, field) in answer::filters(rule, Some(backend)) {
            say_edit(Phase::RequestFilters, rule, &filters.request_headers, &field, said);
            filters.request_headers.apply(&mut headers);
            if let Some(rewrite) = &filters.rewrite {
                let decision = of_rule(rule, format!("{field}[{}].urlRewrite", rewrite.index));
                if let Some(hostname) = &rewrite.hostname {
                    said.decided(Phase::RequestFilters, format!("the host becomes {hostname}"), &decision);
                    host = hostname.to_string();
                }
                // By what the client asked for, so that a backend's path does not stack on the rule's.
                if let Some(rewrite) = rewrite.path.as_ref().filter(|_| request.path.starts_with('/')) {
                    path = rewrite.apply(request.path);
                    said.decided(Phase::RequestFilters, format!("the path becomes {path}"), &decision);
                }
            }
            first.get_or_insert_with(|| of_rule(rule, field));
        }
    }
    let resource = path.clone();
    if let Some(query) = request.query {
        path = format!("{path}?{query}");
    }
    if let Some(decision) = first.filter(|_| !may_go_on(&headers, path.len())) {
        let message = "the head of the request is too large with what its rule adds to it".to_owned();
        let refusal = (431, "headers-too-large");
        return said.refused(Phase::RequestFilters, Some(&decision), refusal, message).end;
    }
    if let Some(protocol) = &request.upgrade
        && routed.spoken.protocol == AppProtocol::Http2
    {
        let message =
            format!("the application speaks HTTP/2, which has no such upgrade: {protocol} needs HTTP/1.1");
        return said.refused(Phase::RequestFilters, None, (501, "unsupported"), message).end;
    }
    let is_upgrade = request.upgrade.is_some();
    if let Some((rule, backend)) = routed.rule {
        say_mirrors(rule, backend, is_upgrade, said);
    }
    let set = snapshot.endpoints.get(routed.backend);
    let takes = set.is_none_or(|set| set.endpoints.iter().any(|of| of.target_port(routed.port).is_some()));
    if let Some((rule, backend)) = routed.rule.filter(|_| takes) {
        say_limits(rule, is_upgrade, said);
        answer::say(rule, Some(backend), &request.headers, said);
    }
    let traffic = Traffic::Request(RequestSeen {
        method: request.method,
        path: &resource,
        authority: &host.clone(),
        headers: &headers,
        tokens: &[],
    });
    let sent = Delivered { method: request.method.to_owned(), host, path, headers: texts(&headers) };
    pick(snapshot, caller, (routed.backend, routed.port), traffic, Some(Box::new(sent)), said)
}

/// Where copies go, of the request as it is by then.
fn say_mirrors(rule: &HttpRule, backend: usize, is_upgrade: bool, said: &mut Said) {
    let own = rule.filters.as_deref().map(|filters| (None, filters));
    let of_backend = rule.backends.get(backend).and_then(|of| Some((Some(backend), of.filters.as_deref()?)));
    for (of, filters) in own.into_iter().chain(of_backend) {
        for mirror in &filters.mirrors {
            let share = f64::from(mirror.share.numerator()) / f64::from(mirror.share.denominator());
            let what = match &mirror.target {
                _ if is_upgrade => "no copies are sent of upgrades".to_owned(),
                BackendTarget::Service { name, port } => {
                    let of = if share >= 1.0 { "all".to_owned() } else { percent(share) };
                    format!("copies of {of} go to Service {name} port {port}, too")
                }
                BackendTarget::Invalid { reason } => format!("no copies are sent: {reason}"),
            };
            said.decided(Phase::RequestFilters, what, &Decision::mirror_of(rule, of, mirror));
        }
    }
}

/// What the token of a session travels in: `cookie s`.
pub(super) fn carrier(session: &Session) -> String {
    let carrier = match session.carrier {
        SessionCarrier::Cookie { .. } => "cookie",
        SessionCarrier::Header => "header",
    };
    format!("{carrier} {}", session.name)
}

/// How long it may take, and how often it is tried.
fn say_limits(rule: &HttpRule, is_upgrade: bool, said: &mut Said) {
    let index = rule.index;
    let late = if said.form == Form::Grpc { "grpc-status 14" } else { "504" };
    let mut bound = |what: &str, field: &str, time: Option<Duration>| {
        if let Some(time) = time {
            let decision = of_rule(rule, format!("spec.rules[{index}].timeouts.{field}"));
            said.decided(Phase::Attempt, format!("{what} within {time:?}, or {late}"), &decision);
        }
    };
    bound("all of it", "request", rule.timeouts.request);
    bound("each attempt", "backendRequest", rule.timeouts.backend_request);
    if let Some(session) = &rule.session {
        let decision = of_rule(rule, format!("spec.rules[{index}].sessionPersistence"));
        let what = format!("tells a client that is new its session, by the {}", carrier(session));
        said.decided(Phase::ResponseFilters, what, &decision);
    }
    if let Some(retry) = &rule.retry {
        let again = retry.attempts.unwrap_or(ATTEMPTS - 1);
        let codes: Vec<_> = retry.codes.iter().map(u16::to_string).collect();
        let after = if codes.is_empty() || is_upgrade {
            String::new()
        } else {
            format!(", also after {}", codes.join(", "))
        };
        let pause = retry.backoff.unwrap_or(BACKOFF);
        let times = if again == 1 { "once".to_owned() } else { format!("{again} times") };
        let what = match again {
            0 => "not tried again".to_owned(),
            _ => format!("tried again {times} at most{after}, after {pause:?} at least"),
        };
        said.decided(Phase::Attempt, what, &of_rule(rule, format!("spec.rules[{index}].retry")));
    }
}

/// Which endpoints of a service may take what is for that port of it, and which of them let it in.
pub(super) fn pick(
    snapshot: &Snapshot,
    caller: Caller<'_>,
    (service, port): (&ServiceName, u16),
    traffic: Traffic<'_>,
    request: Option<Box<Delivered>>,
    said: &mut Said,
) -> End {
    let Some(set) = snapshot.endpoints.get(service) else {
        said.say(Phase::Attempt, format!("which endpoints Service {service} has is not known"));
        return End::Forwarded { service: service.clone(), port, endpoints: Vec::new(), request };
    };
    let mut usable: Vec<(bool, String)> = Vec::new();
    let mut doors: Vec<(Verdict<'_>, &WorkloadName)> = Vec::new();
    let mut asked = Vec::new();
    let ranks = staleness::ranks(set.stale(), set.endpoints.len());
    for (at, endpoint) in set.endpoints.iter().enumerate() {
        let Some(target) = endpoint.target_port(port) else { continue };
        let stale = set.stale_since(at) != 0;
        let last = ranks && staleness::is_last(staleness::Facts { stale, reached: false });
        let rank = if last { ", last: the server does not hear of its node" } else { "" };
        usable.push((last, format!("{}{rank}", shown(endpoint, target, caller))));
        doors.extend(verdict(snapshot, caller, endpoint, target, traffic));
        asked.extend(questions(snapshot, caller, endpoint, target, traffic));
    }
    usable.sort_by_key(|(last, _)| *last);
    if usable.is_empty() {
        let message = format!("service {service} has no endpoint for port {port}");
        let decision = Decision::no_endpoints(service.clone());
        return said.refused(Phase::Attempt, Some(&decision), (503, "no-endpoints"), message).end;
    }
    let endpoints: Vec<String> = usable.into_iter().map(|(_, endpoint)| endpoint).collect();
    let by = Decision::new(Decider::Service(service.clone()), "spec.selector", Effect::Routed);
    for endpoint in &endpoints {
        said.decided(Phase::Attempt, format!("{service} port {port}: {endpoint}"), &by);
    }
    for (matched, workload) in asked {
        if let Some(question) = matched.question() {
            said.decided(
                Phase::Authorize,
                format!("{workload}: {question}"),
                &matched.decision(Effect::Asked),
            );
        }
    }
    for (verdict, workload) in &doors {
        match verdict {
            Ok(None) => {}
            Ok(Some(rule)) => {
                said.decided(
                    Phase::Authorize,
                    format!("{workload} lets it in"),
                    &rule.decision(Effect::Routed),
                );
            }
            Err(denial) => said.decided(Phase::Authorize, denial.message(workload), &denial.decision()),
        }
    }
    if doors.len() == endpoints.len()
        && let Some((Err(denial), workload)) = doors.first()
        && doors.iter().all(|(verdict, _)| verdict.is_err())
    {
        let status = match denial {
            Denial::AmbiguousPath(..) => 400,
            Denial::InvalidToken(..) | Denial::TokenMissing(_) => 401,
            _ => 403,
        };
        let (decision, message) = (denial.decision(), denial.message(workload));
        return said.refused(Phase::Authorize, Some(&decision), (status, denial.reason()), message).end;
    }
    End::Forwarded { service: service.clone(), port, endpoints, request }
}

/// Whether an endpoint lets the caller in, where it is a workload of a node.
fn verdict<'s>(
    snapshot: &'s Snapshot,
    caller: Caller<'_>,
    endpoint: &'s Endpoint,
    target: u16,
    traffic: Traffic<'_>,
) -> Option<(Verdict<'s>, &'s WorkloadName)> {
    let config = config_of(snapshot, endpoint)?;
    Some((authorization::decide(config, Visitor::Mesh(caller.identity?), target, traffic), &config.name))
}

/// Whom its policies have asked about it first, where it is a workload of a node.
fn questions<'s>(
    snapshot: &'s Snapshot,
    caller: Caller<'_>,
    endpoint: &'s Endpoint,
    target: u16,
    traffic: Traffic<'_>,
) -> Vec<(Matched<'s>, &'s WorkloadName)> {
    let (Some(config), Some(identity)) = (config_of(snapshot, endpoint), caller.identity) else {
        return Vec::new();
    };
    let asked = authorization::to_ask(config, Visitor::Mesh(identity), target, traffic);
    asked.unwrap_or_default().into_iter().map(|matched| (matched, &config.name)).collect()
}

/// What applies to an endpoint that is a workload of a node.
fn config_of<'s>(snapshot: &'s Snapshot, endpoint: &Endpoint) -> Option<&'s WorkloadConfig> {
    let workload = endpoint.workload.as_ref().filter(|_| endpoint.node.is_some())?;
    snapshot.workloads.get(workload).map(|config| &**config)
}

fn shown(endpoint: &Endpoint, target: u16, caller: Caller<'_>) -> String {
    let address = std::net::SocketAddr::new(endpoint.address, target);
    let way = match &endpoint.node {
        None => "in plain".to_owned(),
        Some(node) if caller.node == Some(&*node.name) => "on the same node".to_owned(),
        Some(node) => format!("by a link to node {}", node.name),
    };
    let workload = endpoint.workload.as_ref().map(|name| format!("Workload {name} at ")).unwrap_or_default();
    format!("{workload}{address}, {way}")
}
