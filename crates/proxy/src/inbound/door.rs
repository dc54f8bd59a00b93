//! The door: the one function that whatever enters a workload passes, by a link or inside of the process, as a
//! request, a connection of bytes or an upgrade. It decides in this order:
//!
//! 1. authenticate: done before. The peer of a link is who its certificate says, that of a hand-over is whose connection
//!    it is, and who comes in plain is nobody but its address. The peer meant this workload, and no other.
//! 2. authorize: which ports are open to whom, by AuthorizationPolicies ([`tulle_model::authorization::decide`]). Where one of them has
//!    somebody else asked about a request, the door says so, and is passed again with the answers ([`super::asking`]).
//! 3. limit: what stops takes nothing new.
//!
//! A connection of bytes has no head. It does not enter as one where its port carries HTTP (over a link), or where policies
//! look at requests: its requests do ([`super::carries_http`]).
//!
//! Then it is written down ([`Visits`](super::visits::Visits)), and goes on to the application. What would not be authorized by a
//! newer state is ended by it ([`may_stay`](super::presence::may_stay), [`follow`]), be it bytes, an upgrade or an answer without an end; what is to be drained is not.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http::request::Parts;
use tulle_model::authorization::{self, Denial, INVALID_TOKEN, Matched, RequestSeen, Traffic};
use tulle_model::decision::Effect;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::{Snapshot, Token, WorkloadConfig};

use super::answers::Answers;
use super::asking::ToAsk;
use super::kept_head::request_of;
use super::presence::{Withdrawn, is_authorized, is_offered, not_asked, visitor};
use super::tokens::Brought;
use super::visits::{Entered, Entrance};
use crate::error::{Denied, UpstreamError, UpstreamErrorKind};
use crate::local::Local;
use crate::peer::Peer;
use crate::reason::DENIED;
use crate::state::LocalWorkload;

/// What the door says to who is not refused.
pub(super) enum Passed {
    /// Hold it for as long as it is there.
    In(Entered),
    /// Somebody else is to be asked first.
    Ask(Box<ToAsk>),
}

/// Lets a connection of bytes in, or says why not: then nothing has reached the process.
pub(super) fn enter_bytes(local: &Local, entrance: Entrance<'_>) -> Result<Entered, UpstreamError> {
    match enter(local, entrance, None, &mut None)? {
        Passed::In(entered) => Ok(entered),
        Passed::Ask(_) => Err(UpstreamError::safe(UpstreamErrorKind::Refused, "it is no request")),
    }
}

/// Lets a request or connection in, or says why not: then nothing has reached the process. `head`: of a request, in the
/// inner form; `answers`: of those who were asked about it, which are taken when it is let in.
pub(super) fn enter(
    local: &Local,
    entrance: Entrance<'_>,
    head: Option<&Parts>,
    answers: &mut Option<Box<Answers>>,
) -> Result<Passed, UpstreamError> {
    let Entrance { peer, workload, port, .. } = entrance;
    let view = local.view();
    let generation = view.snapshot.generation;
    let brings = head.map_or(Brings::Bytes, Brings::Request);
    let authorized = may_enter(local, entrance, &view.snapshot, brings, answers).inspect_err(|error| {
        tracing::debug!(%peer, workload = %workload.name, port, generation, %error, "not let in");
    })?;
    let brought = match authorized {
        Authorized::In(brought) => brought,
        Authorized::Ask(question) => return Ok(Passed::Ask(question)),
    };
    if let Some(head) = head {
        let (method, path) = (&head.method, head.uri.path());
        tracing::trace!(%peer, workload = %workload.name, port, generation, %method, path, "let in");
    }
    let entered = local.visits.enter(&local.metrics, entrance, generation, head.is_some(), brought);
    entered.ages(&view);
    Ok(Passed::In(entered))
}

/// Ready, with what is answered instead, when a request that waits for its answer would not be let in by what policies say now.
/// `head`: as the application got it.
pub(super) fn poll_refused(
    local: &Local,
    entrance: Entrance<'_>,
    entered: &Entered,
    head: &Parts,
    cx: &Context<'_>,
) -> Poll<UpstreamError> {
    loop {
        let denied = match ready!(entered.poll_doubt(cx)) {
            None => asked_again(local, entrance, entered, head).err(),
            Some(Withdrawn::Denied) => Some(denied(local, entrance, entered, head)),
            Some(why @ Withdrawn::Old) => {
                let denied = Denied { reason: INVALID_TOKEN.to_owned(), by: None };
                Some(UpstreamError::unauthenticated(denied, why.to_string()))
            }
            Some(Withdrawn::Gone | Withdrawn::PortClosed | Withdrawn::Outside) => return Poll::Pending,
        };
        if let Some(denied) = denied {
            return Poll::Ready(denied);
        }
    }
}

#[cold]
fn asked_again(
    local: &Local,
    entrance: Entrance<'_>,
    entered: &Entered,
    head: &Parts,
) -> Result<(), UpstreamError> {
    let Entrance { peer, workload, port, .. } = entrance;
    let view = local.view();
    let Some(config) = view.snapshot.workloads.get(&workload.name) else { return Ok(()) };
    let tokens = entered.tokens_under(&config.policies);
    let seen = match &tokens {
        Some(tokens) => Traffic::Request(request_of(head, tokens)),
        None => Traffic::Forgotten,
    };
    let denial = match is_authorized(peer, Some(&**config), port, seen) {
        Err(denial) => denial,
        Ok(()) => match not_asked(peer, config, port, seen, entered.asked()) {
            Ok(None) => return Ok(()),
            Ok(Some(matched)) => Denial::By(matched),
            Err(denial) => denial,
        },
    };
    local.metrics.registry().denied(&workload.name, &denial);
    Err(refusal(peer, workload, denial))
}

/// No request would be let in; by which policy this one is not, or was not.
#[cold]
fn denied(local: &Local, entrance: Entrance<'_>, entered: &Entered, head: &Parts) -> UpstreamError {
    let refusal = asked_again(local, entrance, entered, head).err();
    refusal.unwrap_or_else(|| {
        let denied = Denied { reason: DENIED.to_owned(), by: None };
        UpstreamError::denied(denied, Withdrawn::Denied.to_string())
    })
}

/// Counts, and notes, a request that is not let in by whom a policy asks.
pub(super) fn turned_away(
    local: &Local,
    entrance: Entrance<'_>,
    head: &Parts,
    policy: &NamespacedName,
    result: &'static str,
) {
    let (registry, view) = (local.metrics.registry(), local.view());
    registry.asked(&entrance.workload.name, policy, result);
    let config = view.snapshot.workloads.get(&entrance.workload.name);
    let seen = Traffic::Request(request_of(head, &[]));
    local.summaries.note(registry, entrance, config.map(|config| &**config), seen, false);
}

/// What somebody comes with.
#[derive(Clone, Copy)]
enum Brings<'h> {
    /// A connection in which nothing is looked at.
    Bytes,
    /// A connection of requests, each of which comes by itself.
    Requests,
    Request(&'h Parts),
}

impl<'h> Brings<'h> {
    /// As policies see it.
    fn seen<'s>(self, tokens: &'s [Token]) -> Traffic<'s>
    where
        'h: 's,
    {
        match self {
            Self::Bytes => Traffic::Bytes,
            Self::Requests => Traffic::Requests,
            Self::Request(head) => Traffic::Request(request_of(head, tokens)),
        }
    }
}

/// What policies say.
enum Authorized {
    /// With what came of its tokens, and of questions, where there were any.
    In(Option<Box<Brought>>),
    Ask(Box<ToAsk>),
}

/// Whether policies let it in.
fn authorize(
    local: &Local,
    entrance: Entrance<'_>,
    snapshot: &Snapshot,
    brings: Brings<'_>,
    answers: &mut Option<Box<Answers>>,
) -> Result<Authorized, UpstreamError> {
    let Entrance { peer, workload, port, .. } = entrance;
    let is_connection = matches!(brings, Brings::Requests);
    let note = |config: Option<&Arc<WorkloadConfig>>, seen: Traffic<'_>, allowed: bool| {
        // What it lets in comes one by one, and bytes when there are some.
        if !allowed || matches!(seen, Traffic::Request(_)) {
            let registry = local.metrics.registry();
            local.summaries.note(registry, entrance, config.map(|config| &**config), seen, allowed);
        }
    };
    let config = match snapshot.workloads.get(&workload.name) {
        Some(config) => config,
        None if snapshot.closed_until_told => {
            let why = snapshot.closed_because(&workload.name).unwrap_or_default();
            let message = format!("nobody may enter {}: {why}", workload.name);
            return Err(UpstreamError::safe(UpstreamErrorKind::Refused, message));
        }
        None => {
            note(None, brings.seen(&[]), true);
            return Ok(Authorized::In(Brought::answered(answers)));
        }
    };
    if config.is_open() {
        note(Some(config), brings.seen(&[]), true);
        return Ok(Authorized::In(Brought::answered(answers)));
    }
    let policies = &config.policies;
    let decided = |authorized: Result<(), Denial<'_>>, seen: Traffic<'_>| {
        note(Some(config), seen, authorized.is_ok());
        authorized.map_err(|denial| {
            local.metrics.registry().denied(&workload.name, &denial);
            refusal(peer, workload, denial)
        })
    };
    if answers.is_none() && policies.are_simple() {
        let seen = brings.seen(&[]);
        decided(is_authorized(peer, Some(&**config), port, seen), seen)?;
        return Ok(Authorized::In(None));
    }
    let tokens = match brings {
        Brings::Request(head) if policies.with_tokens(port).is_some() => {
            let now = local.clock.unix_millis() as f64 / 1000.0;
            Some(local.tokens.check(policies, port, &head.headers, now))
        }
        _ => None,
    };
    let tokens = tokens.unwrap_or_default();
    let mut brought = (!tokens.is_empty()).then(|| Box::new(Brought::new(policies, port, &tokens)));
    // As the application gets them, where that is not as they came.
    let is_changed = brought.as_ref().is_some_and(|brought| brought.changes_headers())
        || answers.as_ref().is_some_and(|answers| answers.changes_headers());
    let headers = match brings {
        Brings::Request(head) if is_changed => {
            let mut headers = head.headers.clone();
            brought.iter().for_each(|brought| brought.write_headers(&mut headers));
            answers.iter().for_each(|answers| answers.write_headers(&mut headers));
            Some(headers)
        }
        _ => None,
    };
    let seen = match (brings, &headers) {
        (Brings::Request(head), Some(headers)) => {
            Traffic::Request(RequestSeen { headers, ..request_of(head, &tokens) })
        }
        _ => brings.seen(&tokens),
    };
    if let Brings::Request(head) = brings
        && let Ok(asked) = authorization::to_ask(config, visitor(peer), port, seen)
        && let Some(question) = question(&asked, answers.as_deref(), head, headers.as_ref())
    {
        return Ok(Authorized::Ask(question));
    }
    // Requests of a connection are reported one by one.
    if !is_connection {
        for audited in authorization::audits(policies, visitor(peer), port, seen) {
            local.metrics.registry().audited(&workload.name, &audited);
            if local.may_warn() {
                let decision = audited.decision(Effect::Audited);
                tracing::info!(%peer, workload = %workload.name, port, "audit: {decision}");
            }
        }
    }
    decided(is_authorized(peer, Some(&**config), port, seen), seen)?;
    if let Some(answers) = answers.take() {
        brought.get_or_insert_default().answers = Some(answers);
    }
    Ok(Authorized::In(brought))
}

/// The first of those that policies have asked who has not been yet. `headers`: as the application gets them, where that is not as they
/// came.
fn question(
    asked: &[Matched<'_>],
    answers: Option<&Answers>,
    head: &Parts,
    headers: Option<&HeaderMap>,
) -> Option<Box<ToAsk>> {
    let known = answers.map_or(&[][..], Answers::policies);
    let next = asked.iter().find(|matched| !known.contains(&matched.policy.name))?;
    let external = next.policy.external.clone()?;
    let mut head = head.clone();
    if let Some(headers) = headers {
        head.headers = headers.clone();
    }
    Some(Box::new(ToAsk { policy: next.policy.name.clone(), external, head }))
}

/// What is said to whom policies do not let in: who is outside of the mesh does not learn which they are.
fn refusal(peer: &Peer, workload: &LocalWorkload, denial: Denial<'_>) -> UpstreamError {
    let message = denial.message(&workload.name);
    let (reason, message) = match (peer, denial) {
        (Peer::Mesh(_), _) => (denial.reason(), message),
        (Peer::Plain(_), Denial::AmbiguousPath(_, why)) => (denial.reason(), format!("the path {why}")),
        (Peer::Plain(_), Denial::InvalidToken(_, why)) => (denial.reason(), format!("the token {why}")),
        (Peer::Plain(_), Denial::TokenMissing(_)) => (denial.reason(), "a token is needed".to_owned()),
        (Peer::Plain(_), _) => (DENIED.to_owned(), format!("{} is closed to this caller", workload.name)),
    };
    match denial {
        Denial::AmbiguousPath(..) => UpstreamError::new(UpstreamErrorKind::Caller, false, message),
        Denial::InvalidToken(..) | Denial::TokenMissing(_) => {
            UpstreamError::unauthenticated(Denied { reason, by: Some(denial.decision()) }, message)
        }
        _ => UpstreamError::denied(Denied { reason, by: Some(denial.decision()) }, message),
    }
}

/// Whether it may enter as a connection, each request in which is let in by itself; otherwise why not.
pub(crate) fn admit(local: &Local, entrance: Entrance<'_>) -> Result<(), UpstreamError> {
    may_enter(local, entrance, &local.view().snapshot, Brings::Requests, &mut None).map(drop)
}

fn may_enter(
    local: &Local,
    entrance: Entrance<'_>,
    snapshot: &Snapshot,
    brings: Brings<'_>,
    answers: &mut Option<Box<Answers>>,
) -> Result<Authorized, UpstreamError> {
    offers(entrance)?;
    let authorized = authorize(local, entrance, snapshot, brings, answers)?;
    takes(entrance)?;
    Ok(authorized)
}

fn offers(Entrance { peer, workload, port, .. }: Entrance<'_>) -> Result<(), UpstreamError> {
    is_offered(peer, &workload.identity, Some(workload), port).map_err(|_| {
        UpstreamError::safe(UpstreamErrorKind::Refused, format!("{} has no port {port}", workload.name))
    })
}

fn takes(Entrance { peer, workload, .. }: Entrance<'_>) -> Result<(), UpstreamError> {
    match peer {
        Peer::Mesh(_) if workload.draining => {
            let message = format!("{} is stopping", workload.name);
            Err(UpstreamError::safe(UpstreamErrorKind::Draining, message))
        }
        // To whom nobody can say that it should go elsewhere: the process closes its door itself.
        Peer::Mesh(_) | Peer::Plain(_) => Ok(()),
    }
}

/// Withdraws what newer states no longer let in, as they come, for as long as the worker runs.
pub(crate) async fn follow(local: Rc<Local>) {
    let mut changes = local.state.subscribe();
    loop {
        changes.mark_unchanged();
        let now = tokio::time::Instant::now().into_std();
        let view = local.view();
        let count = local.visits.withdraw(&view) + local.visits.withdraw_old(&view, now);
        drop(view);
        if count > 0 {
            tracing::info!(count, "connections to workloads are ended: policies no longer let them in");
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            () = local.visits.some_are_old() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tulle_model::identity::{SpiffeId, TrustDomain};
    use tulle_model::name::WorkloadName;

    use super::*;
    use crate::state::LocalWorkload;

    #[tokio::test(flavor = "local")]
    async fn only_ports_of_workloads_that_stay_are_open() {
        let domain = TrustDomain::new("mesh.test").unwrap();
        let mesh = Peer::Mesh(SpiffeId::workload(&domain, "default", "x").unwrap());
        let plain = Peer::Plain(([192, 0, 2, 1], 5).into());
        let worker = crate::worker::Worker::idle("n1", crate::state::NodeState::default());
        for (peer, draining, port, expected) in [
            (&mesh, false, 80, None),
            (&mesh, false, 81, None),
            (&mesh, false, 82, Some(UpstreamErrorKind::Refused)),
            (&mesh, true, 80, Some(UpstreamErrorKind::Draining)),
            (&mesh, true, 82, Some(UpstreamErrorKind::Refused)),
            (&plain, false, 80, None),
            (&plain, false, 82, None),
            (&plain, true, 80, None),
        ] {
            let workload = Arc::new(LocalWorkload {
                name: WorkloadName::new("default", "a"),
                service: "a".into(),
                identity: SpiffeId::workload(&domain, "default", "a").unwrap(),
                app_address: Ipv4Addr::LOCALHOST.into(),
                ports: vec![80, 81],
                certificate: None,
                draining,
                in_process: None,
                outside: None,
            });
            let refused = admit(&worker.local, Entrance::to(peer, &workload, port)).err();
            // The process has not seen it.
            assert!(refused.as_ref().is_none_or(|error| error.safe_to_retry));
            assert_eq!(refused.map(|error| error.kind), expected, "{peer:?} {draining} {port}");
        }
    }
}
