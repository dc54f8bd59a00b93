//! Who may enter a workload: what AuthorizationPolicies (GEP-3779) say of a connection or request, decided where it arrives.
//!
//! A deny policy that matches refuses. Else, where any policy allows, one must match; where none does, all are let in. Policies
//! that only audit are named, and decide nothing.

use std::net::IpAddr;

use crate::decision::{Decider, Decision, Effect};
use crate::identity::SpiffeId;
use crate::name::WorkloadName;
use crate::snapshot::{AccessPolicy, AccessRule, Action, Source};

/// Who wants to enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visitor<'a> {
    Mesh(&'a SpiffeId),
    /// In plain, from outside of the mesh.
    Outside(IpAddr),
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
        Decision::new(by, format!("spec.rules[{}]", self.rule), effect)
    }
}

/// Why somebody may not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial<'a> {
    By(Matched<'a>),
    /// There are policies that allow, of which this is the first, and none matches.
    NoAllowPolicy(&'a AccessPolicy),
}

impl Denial<'_> {
    /// The value of `tulle-reason` for callers of the mesh.
    pub fn reason(self) -> String {
        match self {
            Self::By(matched) => format!("{DENIED_BY}{}", matched.policy.name),
            Self::NoAllowPolicy(_) => NO_ALLOW_POLICY.to_owned(),
        }
    }

    pub fn decision(self) -> Decision {
        match self {
            Self::By(matched) => matched.decision(Effect::Refused),
            Self::NoAllowPolicy(first) => {
                let by = Decider::AuthorizationPolicy(first.name.clone());
                Decision::new(by, "spec.rules[*]", Effect::Refused)
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
            Self::NoAllowPolicy(_) => {
                format!("no AuthorizationPolicy of those that allow callers of {workload} allows this one")
            }
        }
    }
}

/// What `tulle-reason` begins with where a policy denies.
pub const DENIED_BY: &str = "denied-by=";
/// What it is where there are policies that allow, and none matches.
pub const NO_ALLOW_POLICY: &str = "no-allow-policy";

/// What a `tulle-reason` says of who decided: the policy, where one denies.
pub fn decision_of(reason: &str) -> Option<Decision> {
    let policy = reason.strip_prefix(DENIED_BY)?.parse().ok()?;
    Some(Decision::new(Decider::AuthorizationPolicy(policy), "spec.rules", Effect::Refused))
}

/// The rule that lets somebody in, or why not; `None`: no policy has a say.
pub type Verdict<'a> = Result<Option<Matched<'a>>, Denial<'a>>;

/// Whether a caller may enter a workload at a port, by the policies that apply to it.
pub fn decide<'a>(policies: &'a [AccessPolicy], visitor: Visitor<'a>, port: u16) -> Verdict<'a> {
    let matched = |action| matching(policies, action, visitor, port).next();
    if let Some(denied) = matched(Action::Deny) {
        return Err(Denial::By(denied));
    }
    match policies.iter().find(|policy| policy.action == Action::Allow && is_about(policy, port)) {
        None => Ok(None),
        Some(first) => matched(Action::Allow).map(Some).ok_or(Denial::NoAllowPolicy(first)),
    }
}

/// The rules of policies that only audit which match, one of each policy.
pub fn audits<'a>(
    policies: &'a [AccessPolicy],
    visitor: Visitor<'a>,
    port: u16,
) -> impl Iterator<Item = Matched<'a>> {
    matching(policies, Action::Audit, visitor, port)
}

/// The first rule of each policy of that action which matches.
fn matching<'a>(
    policies: &'a [AccessPolicy],
    action: Action,
    visitor: Visitor<'a>,
    port: u16,
) -> impl Iterator<Item = Matched<'a>> {
    let concerned = policies.iter().filter(move |policy| policy.action == action && is_about(policy, port));
    concerned.filter_map(move |policy| {
        let rule = policy.rules.iter().find(|rule| matches(rule, visitor, port))?;
        Some(Matched { policy, rule: rule.index })
    })
}

fn is_about(policy: &AccessPolicy, port: u16) -> bool {
    policy.at.as_ref().is_none_or(|ports| ports.contains(&port))
}

fn matches(rule: &AccessRule, visitor: Visitor<'_>, port: u16) -> bool {
    let is_source = |source: &Source| match (source, visitor) {
        (Source::Identity(pattern), Visitor::Mesh(identity)) => pattern.matches(identity),
        (Source::Outside(ranges), Visitor::Outside(address)) => {
            let address = address.to_canonical();
            ranges.is_empty() || ranges.iter().any(|range| range.contains(&address))
        }
        _ => false,
    };
    rule.ports.as_ref().is_none_or(|ports| ports.contains(&port))
        && rule.sources.as_ref().is_none_or(|sources| sources.iter().any(is_source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::TrustDomain;
    use crate::snapshot::IdentityPattern;

    fn identity(namespace: &str, account: &str) -> SpiffeId {
        SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), namespace, account).unwrap()
    }

    fn pattern(text: &str) -> Source {
        Source::Identity(IdentityPattern::new(text).unwrap())
    }

    /// What a rule says of sources, and of ports.
    type Says = (Option<Vec<Source>>, Option<Vec<u16>>);

    fn policy(name: &str, action: Action, rules: Vec<Says>) -> AccessPolicy {
        let rules = rules.into_iter().enumerate();
        let rules = rules.map(|(index, (sources, ports))| AccessRule { index, sources, ports }).collect();
        AccessPolicy { name: name.parse().unwrap(), action, at: None, rules }
    }

    #[test]
    fn a_deny_wins_and_who_is_allowed_somewhere_needs_to_be() {
        let web = Some(vec![pattern("spiffe://mesh.test/ns/shop/sa/web")]);
        let anybody_at_80 = (None, Some(vec![80]));
        let allow = |name, rules| policy(name, Action::Allow, rules);
        let outcome = |policies: &[AccessPolicy], namespace: &str, account: &str, port| {
            let caller = identity(namespace, account);
            match decide(policies, Visitor::Mesh(&caller), port) {
                Ok(None) => "open".to_owned(),
                Ok(Some(matched)) => matched.decision(Effect::Routed).to_string(),
                Err(denial) => format!("{} {}", denial.reason(), denial.decision()),
            }
        };
        assert_eq!(outcome(&[], "shop", "web", 80), "open");
        let audit = [policy("shop/a", Action::Audit, vec![(None, None)])];
        assert_eq!(outcome(&audit, "shop", "web", 80), "open");

        let nobody = [allow("shop/none", vec![])];
        let refused = "no-allow-policy AuthorizationPolicy/shop/none spec.rules[*] refused";
        assert_eq!(outcome(&nobody, "shop", "web", 80), refused);
        assert_eq!(outcome(&[allow("shop/none", vec![(Some(vec![]), None)])], "shop", "web", 80), refused);

        // Allows of several policies are united.
        let some =
            [allow("shop/none", vec![]), allow("shop/web", vec![(None, Some(vec![1])), (web.clone(), None)])];
        assert_eq!(outcome(&some, "shop", "web", 80), "AuthorizationPolicy/shop/web spec.rules[1] routed");
        assert_eq!(outcome(&some, "shop", "api", 1), "AuthorizationPolicy/shop/web spec.rules[0] routed");
        assert!(outcome(&some, "shop", "api", 80).starts_with("no-allow-policy"));
        assert!(outcome(&some, "other", "web", 80).starts_with("no-allow-policy"));

        // Both of a rule must hold.
        let both = [allow("shop/both", vec![(web.clone(), Some(vec![80, 81]))])];
        assert!(outcome(&both, "shop", "web", 81).ends_with("routed"));
        assert!(outcome(&both, "shop", "web", 82).starts_with("no-allow-policy"));
        assert!(outcome(&both, "shop", "api", 80).starts_with("no-allow-policy"));

        // A policy of a Service is about its ports alone.
        let of_service =
            [AccessPolicy { at: Some(vec![80]), ..allow("shop/web", vec![(web.clone(), None)]) }];
        assert!(outcome(&of_service, "shop", "api", 80).starts_with("no-allow-policy"));
        assert_eq!(outcome(&of_service, "shop", "api", 81), "open");

        let denied = [
            allow("shop/all", vec![(None, None)]),
            policy("shop/no", Action::Deny, vec![(web, None), anybody_at_80]),
        ];
        let by = |rule| format!("denied-by=shop/no AuthorizationPolicy/shop/no spec.rules[{rule}] refused");
        assert_eq!(outcome(&denied, "shop", "web", 81), by(0));
        assert_eq!(outcome(&denied, "shop", "api", 80), by(1));
        assert!(outcome(&denied, "shop", "api", 81).ends_with("routed"));
    }

    #[test]
    fn addresses_count_outside_of_the_mesh_alone() {
        let outside = |ranges: &[&str]| {
            let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
            [policy("shop/o", Action::Allow, vec![(Some(vec![Source::Outside(ranges)]), None)])]
        };
        let enters = |policies: &[AccessPolicy], from: &str| {
            decide(policies, Visitor::Outside(from.parse().unwrap()), 80).is_ok()
        };
        let office = outside(&["192.0.2.0/24", "2001:db8::/32"]);
        for (from, expected) in [
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.3.7", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(enters(&office, from), expected, "{from}");
        }
        assert!(enters(&outside(&[]), "203.0.113.9"));
        let mesh = identity("shop", "web");
        assert!(decide(&outside(&[]), Visitor::Mesh(&mesh), 80).is_err());
        let anybody_of_the_mesh =
            [policy("shop/m", Action::Allow, vec![(Some(vec![pattern("spiffe://*/**")]), None)])];
        assert!(decide(&anybody_of_the_mesh, Visitor::Mesh(&mesh), 80).is_ok());
        assert!(!enters(&anybody_of_the_mesh, "192.0.2.7"));
    }

    #[test]
    fn each_policy_that_audits_is_named_once() {
        let audit =
            |name| policy(name, Action::Audit, vec![(Some(vec![]), None), (None, None), (None, None)]);
        let policies = [audit("shop/a"), policy("shop/d", Action::Deny, vec![(None, None)]), audit("shop/b")];
        let web = identity("shop", "web");
        let named: Vec<_> =
            audits(&policies, Visitor::Mesh(&web), 80).map(|m| (m.policy.name.to_string(), m.rule)).collect();
        assert_eq!(named, [("shop/a".to_owned(), 1), ("shop/b".to_owned(), 1)]);
    }
}
