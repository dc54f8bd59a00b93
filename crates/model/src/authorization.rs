//! Who may enter a workload: what AuthorizationPolicies (GEP-3779) say of a connection or request, decided where it arrives.
//!
//! A deny policy that matches refuses. Else somebody else is asked, where policies want that ([`to_ask`]), and may refuse. Else, where
//! any policy allows, one must match; where none does, all are let in. Policies that only audit are named, and decide nothing.
//!
//! Where rules look at requests, nothing but requests enters. Where they look at paths, a path that servers read
//! differently is refused before any is compared ([`path::ambiguity`]); where policies have issuers of tokens, so is a token
//! that is not valid.

mod request;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::OnceLock;

use http::HeaderMap;

use self::request::{holds, host_of};
use crate::condition::{CelCondition, ConditionFacts, RequestFacts};
use crate::decision::{Decider, Decision, Effect};
use crate::identity::SpiffeId;
use crate::name::WorkloadName;
use crate::path::{self, Ambiguities};
use crate::snapshot::{
    AccessPolicies, AccessPolicy, AccessRule, Action, Candidates, ExternalConfig, JwtConditions, Place,
    RequestConditions, Source, Token, WorkloadConfig, earlier,
};

/// Who wants to enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visitor<'a> {
    Mesh(&'a SpiffeId),
    /// In plain, from outside of the mesh.
    Outside(IpAddr),
}

/// What is known of what it brings.
#[derive(Debug, Clone, Copy)]
pub enum Traffic<'a> {
    /// A connection in which nothing is looked at.
    Bytes,
    /// A connection of requests, which are asked for one by one: it is refused only if all of them would be.
    Requests,
    Request(RequestSeen<'a>),
    /// A request whose head is gone. It counts as one that a rule which denies, or has somebody asked, is about, and none which allows.
    Forgotten,
}

/// A request, as the application gets it.
#[derive(Debug, Clone, Copy)]
pub struct RequestSeen<'a> {
    pub method: &'a str,
    /// As it came, without the query.
    pub path: &'a str,
    /// Its host, maybe with a port.
    pub authority: &'a str,
    pub headers: &'a HeaderMap,
    /// What became of its tokens, in the order of [`AccessPolicies::issuers`]; empty where nobody has looked.
    pub tokens: &'a [Token],
}

/// A rule of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched<'a> {
    pub policy: &'a AccessPolicy,
    pub rule: usize,
}

impl Matched<'_> {
    /// As what it decided.
    pub fn decision(self, effect: Effect) -> Decision {
        let by = Decider::AuthorizationPolicy(self.policy.name.clone());
        match self.policy.external {
            Some(_) => Decision::new(by, "spec.externalAuth", effect),
            None => Decision::new(by, format!("spec.rules[{}]", self.rule), effect),
        }
    }
}

impl Matched<'_> {
    /// For people: who is asked about what is to enter a workload, where somebody is.
    pub fn question(self) -> Option<String> {
        let external = self.policy.external.as_deref()?;
        Some(format!(
            "AuthorizationPolicy {} asks Service {} port {} about it",
            self.policy.name, external.service, external.port
        ))
    }
}

/// Why somebody may not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial<'a> {
    By(Matched<'a>),
    /// There are policies that allow, of which this is the first, and none matches.
    NoAllowPolicy(&'a AccessPolicy),
    /// No policy has a say, and the Mesh denies then.
    ByDefault,
    /// It comes in plain from outside of the mesh, and the Mesh lets nothing do that there.
    Plaintext,
    /// This policy looks at requests, and it is none.
    NoRequest(&'a AccessPolicy),
    /// This policy looks at paths, and that of the request means several things, for the reason that is said.
    AmbiguousPath(&'a AccessPolicy, &'static str),
    /// This policy has issuers of tokens, and that of the request is not valid, for the reason that is said.
    InvalidToken(&'a AccessPolicy, &'static str),
    /// A rule of this policy would let it in with a token, and it has none.
    TokenMissing(&'a AccessPolicy),
}

impl Denial<'_> {
    /// The value of `tulle-reason` for callers of the mesh.
    pub fn reason(self) -> String {
        match self {
            Self::By(Matched { policy, .. }) | Self::NoRequest(policy) => {
                format!("{DENIED_BY}{}", policy.name)
            }
            Self::NoAllowPolicy(_) | Self::ByDefault => NO_ALLOW_POLICY.to_owned(),
            Self::Plaintext => "plaintext".to_owned(),
            Self::AmbiguousPath(..) => "bad-request".to_owned(),
            Self::InvalidToken(..) => INVALID_TOKEN.to_owned(),
            Self::TokenMissing(_) => TOKEN_REQUIRED.to_owned(),
        }
    }

    pub fn decision(self) -> Decision {
        match self {
            Self::By(matched) => matched.decision(Effect::Refused),
            Self::ByDefault => Decision::new(Decider::Mesh, "spec.authorization.default", Effect::Refused),
            Self::Plaintext => Decision::new(Decider::Mesh, "spec.mtls.mode", Effect::Refused),
            Self::NoAllowPolicy(policy)
            | Self::NoRequest(policy)
            | Self::AmbiguousPath(policy, _)
            | Self::TokenMissing(policy) => {
                let by = Decider::AuthorizationPolicy(policy.name.clone());
                Decision::new(by, "spec.rules[*]", Effect::Refused)
            }
            Self::InvalidToken(policy, _) => {
                let by = Decider::AuthorizationPolicy(policy.name.clone());
                Decision::new(by, "spec.jwt.issuers", Effect::Refused)
            }
        }
    }

    /// For people: who refuses whom.
    pub fn message(self, workload: &WorkloadName) -> String {
        match self {
            Self::By(Matched { policy, rule }) => {
                format!(
                    "{workload} is closed to this caller by rule {rule} of AuthorizationPolicy {}",
                    policy.name
                )
            }
            Self::NoAllowPolicy(policy) => {
                format!(
                    "AuthorizationPolicy {} does not let this caller enter {workload}, and no other does",
                    policy.name
                )
            }
            Self::ByDefault => {
                format!(
                    "no AuthorizationPolicy allows this caller of {workload}, and the Mesh denies all others"
                )
            }
            Self::Plaintext => format!("the Mesh lets nothing enter {workload} in plain (spec.mtls)"),
            Self::NoRequest(policy) => {
                format!(
                    "AuthorizationPolicy {} goes by requests of HTTP at this port of {workload}, and this is none",
                    policy.name
                )
            }
            Self::AmbiguousPath(policy, why) => {
                format!("the path {why}, and AuthorizationPolicy {} of {workload} goes by paths", policy.name)
            }
            Self::InvalidToken(policy, why) => {
                format!(
                    "the token {why}, and AuthorizationPolicy {} of {workload} takes valid ones alone",
                    policy.name
                )
            }
            Self::TokenMissing(policy) => {
                format!(
                    "AuthorizationPolicy {} of {workload} asks for a token, and there is none",
                    policy.name
                )
            }
        }
    }
}

/// What `tulle-reason` begins with where a policy denies.
pub const DENIED_BY: &str = "denied-by=";
/// What it is where there are policies that allow, and none matches.
pub const NO_ALLOW_POLICY: &str = "no-allow-policy";

/// What it is where somebody else is to be asked about a request, and says nothing.
pub const EXTERNAL_UNAVAILABLE: &str = "external-auth-unavailable";

/// What it is where the token of a request is not valid.
pub const INVALID_TOKEN: &str = "invalid-token";
/// What it is where a request has no token, and needs one.
pub const TOKEN_REQUIRED: &str = "token-required";

/// What a `tulle-reason` says of who decided: the policy, where one denies.
pub fn decision_of(reason: &str) -> Option<Decision> {
    let policy = reason.strip_prefix(DENIED_BY)?.parse().ok()?;
    Some(Decision::new(Decider::AuthorizationPolicy(policy), "spec.rules", Effect::Refused))
}

/// The rule that lets somebody in, or why not; `None`: no policy has a say.
pub type Verdict<'a> = Result<Option<Matched<'a>>, Denial<'a>>;

/// Whether a caller may enter a workload at a port.
pub fn decide<'a>(
    config: &'a WorkloadConfig,
    visitor: Visitor<'_>,
    port: u16,
    seen: Traffic<'_>,
) -> Verdict<'a> {
    if matches!(visitor, Visitor::Outside(_)) && config.strict.is_at(port) {
        return Err(Denial::Plaintext);
    }
    match by_policies(&config.policies, config.allowed_paths, visitor, port, &seen) {
        Ok(None) if config.denies_by_default => Err(Denial::ByDefault),
        verdict => verdict,
    }
}

/// What has somebody else asked about a request, of each policy one rule, in the order of the policies. An error where it is refused
/// whatever he says. Whoever is asked does not decide over what policies allow: [`decide`] does that, with the request as he leaves it.
pub fn to_ask<'a>(
    config: &'a WorkloadConfig,
    visitor: Visitor<'_>,
    port: u16,
    seen: Traffic<'_>,
) -> Result<Vec<Matched<'a>>, Denial<'a>> {
    let policies = &config.policies;
    // Nobody is asked about what is no request: it is refused.
    if !policies.have(Action::Ask) || !matches!(seen, Traffic::Request(_) | Traffic::Forgotten) {
        return Ok(Vec::new());
    }
    if matches!(visitor, Visitor::Outside(_)) && config.strict.is_at(port) {
        return Err(Denial::Plaintext);
    }
    Ok(not_denied(policies, config.allowed_paths, visitor, port, &seen)?.first_of_each(Action::Ask))
}

/// Whether a workload of the mesh may use a destination outside of it at a port, decided where it leaves.
pub fn decide_leaving<'a>(
    service: &'a ExternalConfig,
    identity: &SpiffeId,
    port: u16,
    seen: Traffic<'_>,
) -> Verdict<'a> {
    if service.policies.is_empty() {
        return Ok(None);
    }
    by_policies(&service.policies, Ambiguities::default(), Visitor::Mesh(identity), port, &seen)
}

/// The same as [`decide`] by the policies alone. It and what it calls for each request is inlined: that is a fifth of what they cost.
#[inline(always)]
fn by_policies<'a>(
    policies: &'a AccessPolicies,
    allowed_paths: Ambiguities,
    visitor: Visitor<'_>,
    port: u16,
    seen: &Traffic<'_>,
) -> Verdict<'a> {
    let asked = not_denied(policies, allowed_paths, visitor, port, seen)?;
    match policies.allowing(port) {
        None => Ok(None),
        Some(first) => {
            let allowed = asked.first(Action::Allow).map(Some);
            allowed.ok_or_else(|| asked.would_with_token().unwrap_or(Denial::NoAllowPolicy(first)))
        }
    }
}

/// What may be asked of the rules that allow: nothing is there that refuses it.
#[inline(always)]
fn not_denied<'a, 'r>(
    policies: &'a AccessPolicies,
    allowed_paths: Ambiguities,
    visitor: Visitor<'r>,
    port: u16,
    seen: &'r Traffic<'r>,
) -> Result<Question<'a, 'r>, Denial<'a>> {
    let path = match (seen, policies.by_path(port)) {
        (Traffic::Request(request), Some(_)) if path::is_plain(request.path) => request.path.into(),
        (Traffic::Request(request), Some(policy)) => clear_path(policy, request.path, allowed_paths)?,
        _ => "".into(),
    };
    if let Traffic::Request(request) = seen
        && policies.with_tokens(port).is_some()
        && let Some((policy, why)) = invalid_token(policies, port, request.tokens)
    {
        return Err(Denial::InvalidToken(policy, why));
    }
    let asked = Question { policies, visitor, port, seen, path };
    if policies.have(Action::Deny)
        && let Some(denied) = asked.first(Action::Deny)
    {
        return Err(Denial::By(denied));
    }
    if is_opaque(seen)
        && let Some(policy) = policies.reading(port)
    {
        return Err(Denial::NoRequest(policy));
    }
    Ok(asked)
}

/// The normal form of a path by which rules of that policy go, or why it is refused.
#[cold]
fn clear_path<'a, 'r>(
    policy: &'a AccessPolicy,
    path: &'r str,
    allowed: Ambiguities,
) -> Result<Cow<'r, str>, Denial<'a>> {
    match path::ambiguity_but(path, allowed) {
        Some(found) => Err(Denial::AmbiguousPath(policy, found.why())),
        None => Ok(path::normal_form(path)),
    }
}

/// Why the token of a request is not valid for any issuer that looks for it at its place, if so, and the first policy that has one.
fn invalid_token<'a>(
    policies: &'a AccessPolicies,
    port: u16,
    tokens: &[Token],
) -> Option<(&'a AccessPolicy, &'static str)> {
    policies.issuers_at(port).find_map(|(policy, place)| {
        let Some(Token::Invalid(why)) = tokens.get(place) else { return None };
        let header = &policies.issuers()[place].place;
        let is_valid = |(_, other): (_, usize)| {
            policies.issuers()[other].place == *header && matches!(tokens.get(other), Some(Token::Valid(_)))
        };
        (!policies.issuers_at(port).any(is_valid)).then_some((policy, *why))
    })
}

/// Whether requests may be in it that nobody sees: bytes, and what asks for a tunnel of bytes.
fn is_opaque(seen: &Traffic<'_>) -> bool {
    match seen {
        Traffic::Bytes => true,
        Traffic::Request(request) => request.method.eq_ignore_ascii_case("CONNECT"),
        Traffic::Requests | Traffic::Forgotten => false,
    }
}

/// The rules of policies that only audit which match, one of each policy.
pub fn audits<'a>(
    policies: &'a AccessPolicies,
    visitor: Visitor<'_>,
    port: u16,
    seen: Traffic<'_>,
) -> Vec<Matched<'a>> {
    if !policies.have(Action::Audit) {
        return Vec::new();
    }
    let path = match seen {
        Traffic::Request(request) => path::normal_form(request.path),
        _ => "".into(),
    };
    Question { policies, visitor, port, seen: &seen, path }.first_of_each(Action::Audit)
}

/// What is asked of the rules.
struct Question<'a, 'r> {
    policies: &'a AccessPolicies,
    visitor: Visitor<'r>,
    port: u16,
    seen: &'r Traffic<'r>,
    /// Of the request, in its normal form, where rules may go by it.
    path: Cow<'r, str>,
}

impl<'a, 'r> Question<'a, 'r> {
    /// By which rules may be found; `None`: all may be about it.
    fn path(&self) -> Option<&str> {
        matches!(self.seen, Traffic::Request(_)).then_some(&*self.path)
    }

    #[inline]
    fn candidates(&self, action: Action) -> Candidates<'a> {
        match self.visitor {
            Visitor::Mesh(identity) => self.policies.of_identity(action, identity),
            Visitor::Outside(_) => self.policies.of_outside(action),
        }
    }

    /// The first rule of an action that matches.
    fn first(&self, action: Action) -> Option<Matched<'a>> {
        let path = self.path();
        let Candidates { about_it, perhaps } = self.candidates(action);
        let mut first = None;
        if !perhaps.is_empty() {
            first = perhaps.first(path, |place| self.is_about(place) && self.is_from(place));
        }
        for places in about_it.iter().flatten() {
            first = earlier(first, places.first(path, |place| self.is_about(place)));
        }
        first.map(|place| self.matched(place))
    }

    /// Whether a rule that allows asks for a token, and the request has none of any issuer of its policy.
    #[cold]
    fn would_with_token(&self) -> Option<Denial<'a>> {
        let Traffic::Request(request) = self.seen else { return None };
        self.policies.with_tokens(self.port)?;
        let path = self.path();
        let Candidates { about_it, perhaps } = self.candidates(Action::Allow);
        let perhaps = perhaps.about(path).filter(|place| self.is_from(*place));
        let about_it = about_it.into_iter().flatten().flat_map(|places| places.about(path));
        let lacks_it = |(policy, place): Place| {
            let rule = &self.policies[policy].rules[place];
            let mut tokens = self.policies.issuers_of(policy).map(|(place, _)| request.tokens.get(place));
            let has_none = tokens.all(|token| matches!(token, None | Some(Token::Missing)));
            let is_like = |conditions| holds(conditions, request, &self.path, true);
            let is_so = |when: &CelCondition| when.asks_for_token() || self.is_so(policy, when);
            (rule.asks_for_token()
                && has_none
                && self.is_at((policy, place))
                && rule.request.as_deref().is_none_or(is_like)
                && rule.when.as_ref().is_none_or(is_so))
            .then(|| Denial::TokenMissing(&self.policies[policy]))
        };
        about_it.chain(perhaps).find_map(lacks_it)
    }

    /// The first rule of each policy of an action that matches.
    fn first_of_each(&self, action: Action) -> Vec<Matched<'a>> {
        let path = self.path();
        let Candidates { about_it, perhaps } = self.candidates(action);
        let perhaps = perhaps.about(path).filter(|place| self.is_from(*place));
        let about_it = about_it.into_iter().flatten().flat_map(|places| places.about(path));
        let mut all: Vec<_> = about_it.chain(perhaps).filter(|place| self.is_about(*place)).collect();
        all.sort_unstable();
        all.dedup_by_key(|(policy, _)| *policy);
        all.into_iter().map(|place| self.matched(place)).collect()
    }

    fn matched(&self, (policy, rule): Place) -> Matched<'a> {
        let policy = &self.policies[policy];
        Matched { policy, rule: policy.rules[rule].index }
    }

    /// But for its sources.
    #[inline(always)]
    fn is_about(&self, place: Place) -> bool {
        self.is_at(place) && self.is_like(place)
    }

    #[inline(always)]
    fn is_at(&self, (policy, rule): Place) -> bool {
        let policy = &self.policies[policy];
        let has_port =
            |ports: &Option<Vec<u16>>| ports.as_ref().is_none_or(|ports| ports.contains(&self.port));
        let is_spared = policy.external.as_ref().is_some_and(|external| external.spared.contains(&self.port));
        has_port(&policy.at) && has_port(&policy.rules[rule].ports) && !is_spared
    }

    #[inline(always)]
    fn is_from(&self, (policy, rule): Place) -> bool {
        let rule = &self.policies[policy].rules[rule];
        let is_source = |source: &Source| match (source, self.visitor) {
            (Source::Identity(pattern), Visitor::Mesh(identity)) => pattern.matches(identity),
            (Source::Outside(ranges), Visitor::Outside(address)) => {
                let address = address.to_canonical();
                ranges.is_empty() || ranges.iter().any(|range| range.contains(&address))
            }
            _ => false,
        };
        rule.sources.as_ref().is_none_or(|sources| sources.iter().any(is_source))
    }

    #[inline(always)]
    fn is_like(&self, (policy, rule): Place) -> bool {
        let AccessRule { request, when, .. } = &self.policies[policy].rules[rule];
        request.as_ref().is_none_or(|conditions| self.has_request(policy, conditions))
            && when.as_ref().is_none_or(|when| self.is_so(policy, when))
    }

    #[inline(always)]
    fn has_request(&self, policy: usize, conditions: &RequestConditions) -> bool {
        let action = self.policies[policy].action;
        let request = match self.request(action) {
            Ok(request) => request,
            Err(holds) => return holds,
        };
        holds(conditions, request, &self.path, action == Action::Allow)
            && conditions.jwt.as_ref().is_none_or(|jwt| self.has_token(policy, jwt, request.tokens))
    }

    /// The request that a rule is asked about; where there is none to be seen, whether what it says of one holds.
    #[inline(always)]
    fn request(&self, action: Action) -> Result<&'r RequestSeen<'r>, bool> {
        match self.seen {
            Traffic::Request(request) => Ok(request),
            Traffic::Bytes => Err(false),
            Traffic::Requests => Err(action == Action::Allow),
            Traffic::Forgotten => Err(is_stern(action)),
        }
    }

    /// A condition of which nobody can say whether it is so keeps out: it holds for rules that deny, or have somebody asked, and for no
    /// others.
    #[cold]
    fn is_so(&self, policy: usize, when: &CelCondition) -> bool {
        let action = self.policies[policy].action;
        let request = match when.reads_requests().then(|| self.request(action)).transpose() {
            Ok(request) => request,
            Err(holds) => return holds,
        };
        let host = request.map(|request| host_of(request.authority));
        let about = request.zip(host.as_deref()).map(|(RequestSeen { method, headers, .. }, host)| {
            let path = if self.path.is_empty() { "/" } else { &*self.path };
            RequestFacts { method, path, host, headers }
        });
        let source = match self.visitor {
            Visitor::Mesh(identity) => Ok(identity),
            Visitor::Outside(address) => Err(address),
        };
        let holds = |token| {
            let facts =
                ConditionFacts { source, port: self.port, request: about, token, claims: OnceLock::new() };
            when.holds(&facts).unwrap_or(is_stern(action))
        };
        let tokens = request.map_or(&[][..], |request| request.tokens);
        let mut valid =
            self.policies.issuers_of(policy).filter_map(|(place, issuer)| match tokens.get(place) {
                Some(Token::Valid(claims)) => Some((&*issuer.issuer, &**claims)),
                _ => None,
            });
        match when.asks_for_token().then(|| valid.next()).flatten() {
            Some(first) => std::iter::once(first).chain(valid).any(|token| holds(Some(token))),
            None => holds(None),
        }
    }

    fn has_token(&self, policy: usize, wanted: &JwtConditions, tokens: &[Token]) -> bool {
        let mut issuers = self.policies.issuers_of(policy);
        issuers.any(|(place, issuer)| tokens.get(place).is_some_and(|token| wanted.holds(issuer, token)))
    }
}

/// Whether rules of that action hold where nobody can say whether they do: those that keep out, or have somebody asked.
fn is_stern(action: Action) -> bool {
    matches!(action, Action::Deny | Action::Ask)
}

#[cfg(test)]
mod tests;
