//! The policies of a workload, so kept that a decision looks at few of their rules.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use serde_json::Value;

use super::places::{Place, Places};
use super::{AccessPolicy, AccessRule, Action, Claims, FastMap, JwtIssuer, Source, Token};
use crate::identity::SpiffeId;

/// The policies that apply to a workload, in their order.
#[derive(Debug, Clone, Default)]
pub struct AccessPolicies {
    policies: Vec<AccessPolicy>,
    /// By [`Action`]: its rules by who comes.
    rules: [RulesBySource; 4],
    /// By [`Action`]: whether there are any.
    have: [bool; 4],
    /// Where whoever comes needs to be allowed.
    allowing: FirstAt,
    /// Where rules that allow or deny look at requests.
    reading: FirstAt,
    /// Where they look at paths.
    by_path: FirstAt,
    /// Where they have issuers of tokens.
    with_tokens: FirstAt,
    /// The names of the headers that rules ask for, each once.
    headers: Arc<[HeaderName]>,
    /// All issuers of tokens, each once.
    issuers: Vec<Arc<JwtIssuer>>,
    /// Of each policy, where its own are among these.
    own_issuers: Vec<Vec<usize>>,
}

/// Rules to look at.
pub(crate) struct Candidates<'p> {
    /// They are about the caller.
    pub about_it: [Option<&'p Places>; 2],
    /// Their sources are to be looked at.
    pub perhaps: &'p Places,
}

/// Rules, each list in their order.
#[derive(Debug, Clone, Default)]
struct RulesBySource {
    /// Of single identities.
    identities: FastMap<Arc<str>, Places>,
    /// Of all service accounts of a namespace, by what their IDs begin with.
    accounts: FastMap<Arc<str>, Places>,
    /// Of other patterns, or of anybody.
    patterns: Places,
    /// Of who is not in the mesh, or of anybody.
    outside: Places,
}

/// At which ports there is something, and the first policy that says so.
#[derive(Debug, Clone, Default)]
struct FirstAt {
    everywhere: Option<usize>,
    at: FastMap<u16, usize>,
}

impl FirstAt {
    /// `ports`: lists that must all have the port; `None` has all.
    fn add(&mut self, policy: usize, ports: [Option<&[u16]>; 2]) {
        match ports {
            [None, None] => drop(self.everywhere.get_or_insert(policy)),
            [Some(ports), None] | [None, Some(ports)] => self.add_at(policy, ports.iter()),
            [Some(some), Some(others)] => {
                self.add_at(policy, some.iter().filter(|port| others.contains(port)));
            }
        }
    }

    fn add_at<'p>(&mut self, policy: usize, ports: impl Iterator<Item = &'p u16>) {
        for port in ports {
            self.at.entry(*port).or_insert(policy);
        }
    }

    #[inline]
    fn get(&self, port: u16) -> Option<usize> {
        if self.at.is_empty() {
            return self.everywhere;
        }
        let at = self.at.get(&port).copied();
        self.everywhere.map_or(at, |everywhere| Some(at.map_or(everywhere, |at| at.min(everywhere))))
    }
}

impl RulesBySource {
    fn add(&mut self, rule: &AccessRule, place: Place) {
        let Some(sources) = &rule.sources else {
            self.patterns.add(place);
            return self.outside.add(place);
        };
        for source in sources {
            match source {
                Source::Outside(_) => self.outside.add(place),
                Source::Identity(pattern) if !pattern.as_str().contains('*') => {
                    self.identities.entry(pattern.text()).or_default().add(place);
                }
                Source::Identity(pattern) => match pattern.as_str().strip_suffix('*') {
                    Some(above) if above.ends_with('/') && !above.contains('*') => {
                        self.accounts.entry(above.into()).or_default().add(place);
                    }
                    _ => self.patterns.add(place),
                },
            }
        }
    }
}

impl RulesBySource {
    fn is_empty(&self) -> bool {
        let Self { identities, accounts, patterns, outside } = self;
        identities.is_empty() && accounts.is_empty() && patterns.is_empty() && outside.is_empty()
    }

    fn index(&mut self, policies: &[AccessPolicy]) {
        let Self { identities, accounts, patterns, outside } = self;
        let named = identities.values_mut().chain(accounts.values_mut());
        named.chain([patterns, outside]).for_each(|places| places.index(policies));
    }
}

impl From<Vec<AccessPolicy>> for AccessPolicies {
    fn from(policies: Vec<AccessPolicy>) -> Self {
        let mut all = Self::default();
        let mut headers: Vec<HeaderName> = Vec::new();
        for (index, policy) in policies.iter().enumerate() {
            let at = policy.at.as_deref();
            if policy.action == Action::Allow {
                all.allowing.add(index, [at, None]);
            }
            if !policy.issuers.is_empty() {
                all.with_tokens.add(index, [at, None]);
                if policy.action.holds_off() {
                    all.reading.add(index, [at, None]);
                }
            }
            let own = policy.issuers.iter().map(|issuer| place_among(&mut all.issuers, issuer));
            all.own_issuers.push(own.collect());
            for (number, rule) in policy.rules.iter().enumerate() {
                all.rules[policy.action as usize].add(rule, (index, number));
                let ports = [at, rule.ports.as_deref()];
                // Whoever is asked goes by the path, too.
                if policy.action == Action::Ask {
                    all.reading.add(index, ports);
                    all.by_path.add(index, ports);
                }
                if !(policy.action.holds_off() && rule.reads_requests()) {
                    continue;
                }
                let asked = rule.request.iter().flat_map(|request| &request.headers);
                let asked = asked.filter_map(|header| HeaderName::from_bytes(header.name.as_bytes()).ok());
                let in_condition = rule.when.iter().flat_map(|when| when.headers().iter().cloned());
                for name in asked.chain(in_condition) {
                    if !headers.contains(&name) {
                        headers.push(name);
                    }
                }
                all.reading.add(index, ports);
                if rule.goes_by_path() {
                    all.by_path.add(index, ports);
                }
            }
        }
        all.rules.iter_mut().for_each(|rules| rules.index(&policies));
        all.have = all.rules.each_ref().map(|rules| !rules.is_empty());
        Self { policies, headers: headers.into(), ..all }
    }
}

/// Where it is among all issuers; it is added where it is not.
fn place_among(all: &mut Vec<Arc<JwtIssuer>>, issuer: &Arc<JwtIssuer>) -> usize {
    all.iter().position(|known| known == issuer).unwrap_or_else(|| {
        all.push(issuer.clone());
        all.len() - 1
    })
}

/// What the rest is made of.
impl PartialEq for AccessPolicies {
    fn eq(&self, other: &Self) -> bool {
        self.policies == other.policies
    }
}

impl Eq for AccessPolicies {}

impl std::ops::Deref for AccessPolicies {
    type Target = [AccessPolicy];

    fn deref(&self) -> &[AccessPolicy] {
        &self.policies
    }
}

impl AccessPolicies {
    /// Whether rules that allow or deny say all there is to be said, without a look at tokens.
    pub fn are_simple(&self) -> bool {
        !self.have(Action::Ask) && !self.have(Action::Audit) && self.issuers.is_empty()
    }

    /// The first policy by which somebody may be held off.
    pub(crate) fn holding_off(&self) -> Option<&AccessPolicy> {
        self.policies.iter().find(|policy| policy.action.holds_off())
    }

    /// The first policy because of which callers of that port need to be allowed.
    #[inline]
    pub(crate) fn allowing(&self, port: u16) -> Option<&AccessPolicy> {
        self.first(&self.allowing, port)
    }

    /// The first policy that looks at requests there: nothing else may enter.
    pub fn reading(&self, port: u16) -> Option<&AccessPolicy> {
        self.first(&self.reading, port)
    }

    /// The first policy that looks at their paths.
    #[inline]
    pub(crate) fn by_path(&self, port: u16) -> Option<&AccessPolicy> {
        self.first(&self.by_path, port)
    }

    /// The first policy that has issuers of tokens there.
    #[inline]
    pub fn with_tokens(&self, port: u16) -> Option<&AccessPolicy> {
        self.first(&self.with_tokens, port)
    }

    /// All issuers of tokens.
    pub fn issuers(&self) -> &[Arc<JwtIssuer>] {
        &self.issuers
    }

    /// What becomes of a valid token with these claims, for each issuer: for all of them, where it does not say whose it is.
    pub fn tokens_with(&self, claims: &Arc<Claims>) -> Vec<Token> {
        let by = claims.get("iss").and_then(Value::as_str);
        let token = |issuer: &Arc<JwtIssuer>| match by.is_none_or(|by| by == issuer.issuer) {
            true => Token::Valid(claims.clone()),
            false => Token::Missing,
        };
        self.issuers.iter().map(token).collect()
    }

    /// The issuers that the policies have at a port which may hold somebody off, by their places among all.
    pub fn issuers_at(&self, port: u16) -> impl Iterator<Item = (&AccessPolicy, usize)> {
        let policies = self.policies.iter().zip(&self.own_issuers);
        let at = move |policy: &AccessPolicy| policy.at.as_ref().is_none_or(|ports| ports.contains(&port));
        policies
            .filter(move |(policy, _)| policy.action.holds_off() && at(policy))
            .flat_map(|(policy, own)| own.iter().map(move |place| (policy, *place)))
    }

    /// How long what came to that port with a token may go on; `None`: for as long as it likes.
    pub fn max_stream_age(&self, port: u16) -> Option<Duration> {
        self.issuers_at(port).filter_map(|(_, place)| self.issuers[place].max_stream_age).min()
    }

    /// Those of a policy, by its place.
    pub(crate) fn issuers_of(&self, policy: usize) -> impl Iterator<Item = (usize, &JwtIssuer)> {
        self.own_issuers[policy].iter().map(|place| (*place, &*self.issuers[*place]))
    }

    /// The names of the headers that rules which allow or deny ask for.
    pub fn headers(&self) -> &Arc<[HeaderName]> {
        &self.headers
    }

    #[inline]
    fn first(&self, at: &FirstAt, port: u16) -> Option<&AccessPolicy> {
        at.get(port).map(|index| &self.policies[index])
    }

    /// The rules that may be about a workload of the mesh.
    #[inline]
    pub(crate) fn of_identity(&self, action: Action, identity: &SpiffeId) -> Candidates<'_> {
        let rules = &self.rules[action as usize];
        let id = identity.as_str();
        let mut about_it = [None, None];
        if !rules.identities.is_empty()
            && let Some(places) = rules.identities.get(id)
        {
            about_it[0] = Some(places);
        }
        if !rules.accounts.is_empty()
            && let Some(slash) = id.bytes().rposition(|byte| byte == b'/')
            && let Some(places) = rules.accounts.get(&id[..=slash])
        {
            about_it[1] = Some(places);
        }
        Candidates { about_it, perhaps: &rules.patterns }
    }

    /// The same for who is not in the mesh.
    pub(crate) fn of_outside(&self, action: Action) -> Candidates<'_> {
        Candidates { about_it: [None, None], perhaps: &self.rules[action as usize].outside }
    }

    /// Whether there are rules of an action at all.
    pub(crate) fn have(&self, action: Action) -> bool {
        self.have[action as usize]
    }
}
