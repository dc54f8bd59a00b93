//! Which rule decides over a request, and where that has it go.

use std::sync::Arc;

use super::answer;
use super::deliver::{carrier, deliver, of_rule};
use super::normal::Request;
use super::{Caller, End, Ending, Phase, Said};
use crate::decision::Decider;
use crate::path::normal_form;
use crate::routing::cors::announced;
use crate::routing::decide::{self, Preflight, Routed, Routing, Unrouted};
use crate::routing::redirect::{self, location};
use crate::routing::{RequestParts, matches};
use crate::snapshot::{Backend, HttpRouteEntry, HttpRule, PortConfig, Redirect, ServiceConfig, Snapshot};

pub(super) fn request(
    snapshot: &Snapshot,
    caller: Caller<'_>,
    service: &ServiceConfig,
    request: &Request<'_>,
    said: &mut Said,
) -> Result<Vec<Ending>, Ending> {
    let cases = cases(service, &caller.workload.namespace, request, said)?;
    let endings = cases.into_iter().map(|(share, case)| {
        let end = match case {
            Case::Refused(unrouted) => refusal(said, &unrouted).end,
            Case::Preflight(preflight) => preflighted(request, &preflight, said).end,
            Case::To(routed) => deliver(snapshot, caller, request, &routed, said),
        };
        Ending { share, end }
    });
    Ok(endings.collect())
}

/// A refusal of [`decide`], as the client gets it.
pub(super) fn refusal(said: &mut Said, unrouted: &Unrouted) -> Ending {
    said.refused(Phase::Route, Some(&unrouted.decision), unrouted.why.answer(), unrouted.message.clone())
}

/// What a draw of a backend comes to.
enum Case<'s> {
    To(Routed<'s>),
    Preflight(Preflight<'s>),
    Refused(Box<Unrouted>),
}

/// Where a request goes by its rule: each backend that has a share, with that.
fn cases<'s>(
    service: &'s ServiceConfig,
    namespace: &str,
    request: &Request<'_>,
    said: &mut Said,
) -> Result<Vec<(f64, Case<'s>)>, Ending> {
    // What a token of a session says, its node alone can read.
    let decided = |random: u64| {
        let parts = request.parts();
        decide::request(service, request.port, namespace, parts, || random, |_| None)
    };
    let port = decide::port_of(service, request.port, namespace).ok();
    let say_rule = |rule: &Arc<HttpRule>, said: &mut Said| say_rule(port, request, rule, said);
    let rule = match decided(0) {
        Ok(Routing::Redirect(rule, redirect)) => {
            say_rule(rule, said);
            return Err(redirected(request, rule, redirect, said));
        }
        Ok(Routing::Preflight(preflight)) => {
            let rule = preflight.rule.clone();
            if rule.filters.as_ref().is_some_and(|filters| filters.cors.is_some()) {
                // Whichever its backend would be.
                say_rule(&rule, said);
                return Err(preflighted(request, &preflight, said));
            }
            rule
        }
        Ok(Routing::To(routed)) => match routed.rule {
            Some((rule, _)) => rule.clone(),
            None => {
                said.say(Phase::Route, "no route: all goes to its own endpoints");
                return Ok(vec![(1.0, Case::To(routed))]);
            }
        },
        Err(unrouted) => match &unrouted.rule {
            Some(rule) if rule.backends.iter().any(|backend| backend.weight > 0) => rule.clone(),
            Some(rule) => {
                say_rule(rule, said);
                return Err(refusal(said, &unrouted));
            }
            None => return Err(refusal(said, &unrouted)),
        },
    };
    say_rule(&rule, said);
    let mut cases = Vec::new();
    for (share, random) in shares(&rule.backends) {
        let case = match decided(random) {
            Ok(Routing::To(routed)) => {
                if let Some(decision) = routed.decision() {
                    let what = format!(
                        "{} to Service {} port {}",
                        part(share, "goes", "go"),
                        routed.backend,
                        routed.port
                    );
                    said.decided(Phase::Route, what, &decision);
                }
                Case::To(routed)
            }
            Ok(Routing::Preflight(preflight)) => Case::Preflight(preflight),
            // Not of a rule that has backends.
            Ok(Routing::Redirect(..)) => continue,
            Err(unrouted) => Case::Refused(unrouted),
        };
        cases.push((share, case));
    }
    Ok(cases)
}

fn redirected(request: &Request<'_>, rule: &HttpRule, redirect: &Redirect, said: &mut Said) -> Ending {
    let place = redirect::Asked {
        host: &request.host,
        port: request.named_port,
        service_port: request.port,
        path: request.path,
        query: request.query,
    };
    let (status, location) = (redirect.status, location(redirect, place));
    let what = format!("answered with {status}, location {location}");
    said.decided(Phase::Route, what, &decide::redirected(rule, redirect));
    answer::say(rule, None, &request.headers, said);
    Ending { share: 1.0, end: End::Redirected { status, location } }
}

fn preflighted(request: &Request<'_>, preflight: &Preflight<'_>, said: &mut Said) -> Ending {
    let (allowed, headers) = answer::to_preflight(preflight, &request.headers, said);
    let method = announced(request.method, |name| {
        request.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()))
    });
    let status = if allowed { 204 } else { 403 };
    let (method, origin) = (method.unwrap_or_default(), answer::origin_of(&request.headers));
    let what = match allowed {
        true => format!("a preflight for {method}, answered with {status}: {origin} is allowed"),
        false => format!("a preflight for {method}, answered with {status}: {origin} is not allowed"),
    };
    said.decided(Phase::Route, what, &preflight.decision(allowed));
    Ending { share: 1.0, end: End::Preflight { status, headers } }
}

/// Names the rule, by the match that holds.
fn say_rule(port: Option<&PortConfig>, request: &Request<'_>, rule: &Arc<HttpRule>, said: &mut Said) {
    let Some(port) = port else { return };
    let table = &port.http_routes;
    let path = if table.goes_by_path() { normal_form(request.path) } else { request.path.into() };
    let RequestParts { method, query, header, .. } = request.parts();
    let announced = if table.has_cors() { announced(method, &header) } else { None };
    let holds = |entry: &&HttpRouteEntry, method: &str| {
        let parts = RequestParts { method, path: &path, query, header: |name: &str| header(name) };
        matches(&entry.matcher, &parts)
    };
    let own = || table.entries().iter().filter(|entry| Arc::ptr_eq(&entry.rule, rule));
    // A preflight takes the rule of the request that it announces.
    let of_announced = announced.and_then(|announced| own().find(|entry| holds(entry, &announced)));
    let entry = of_announced.or_else(|| own().find(|entry| holds(entry, method))).or_else(|| own().next());
    let Some(entry) = entry else { return };
    let name = rule.name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default();
    let what = format!("rule {}{name} decides: {}", rule.index, entry.matcher);
    said.decided(Phase::Route, what, &of_rule(rule, format!("spec.rules[{}].matches", rule.index)));
    if let Some(session) = &rule.session {
        let what = format!(
            "clients of a session ({}) stay with their endpoint, whatever the weights; others:",
            carrier(session)
        );
        let decision = of_rule(rule, format!("spec.rules[{}].sessionPersistence", rule.index));
        said.decided(Phase::Route, what, &decision);
    }
}

/// A route that acts on a port.
pub(super) fn first_route(port: &PortConfig) -> Option<Decider> {
    let of_requests = port.http_routes.entries().first().map(|entry| Decider::rule(&entry.rule));
    let of_tls = || port.tls_routes.entries().first().map(|of| Decider::TlsRoute(of.rule.route.clone()));
    let of_tcp = || port.tcp_route.as_ref().map(|rule| Decider::TcpRoute(rule.route.clone()));
    of_requests.or_else(of_tls).or_else(of_tcp)
}

/// The share of each backend that has one, and random bits that draw it.
pub(super) fn shares(backends: &[Backend]) -> Vec<(f64, u64)> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut before = 0u64;
    let mut shares = Vec::new();
    for weight in backends.iter().map(|backend| u64::from(backend.weight)).filter(|weight| *weight > 0) {
        // The least that `routing::draw` scales to `before`.
        let random = (u128::from(before) << 64).div_ceil(u128::from(total));
        shares.push((weight as f64 / total as f64, u64::try_from(random).unwrap_or(u64::MAX)));
        before += weight;
    }
    shares
}

/// `90%`, `33.33%`
pub fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.0001 {
        return "<0.01%".to_owned();
    }
    let text = format!("{:.2}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `all goes`, `90% go`
pub(super) fn part(share: f64, all: &str, some: &str) -> String {
    if share >= 1.0 { format!("all {all}") } else { format!("{} {some}", percent(share)) }
}
