//! What policies are attached to, which of them acts where, and who says what of the settings that come of it (GEP-713,
//! GEP-2649).
//!
//! A policy names its targets, each at a level: the mesh, a namespace, a service or one of its ports, a route or one of its
//! rules. Of several policies of a kind that name one target one acts, the oldest; the others are told which it is. Along the
//! levels fields are inherited one by one: the most specific policy that says something of a field decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::decision::Decider;
use crate::kinds::id::KindId;
use crate::name::{NamespacedName, ServiceName};

/// Who comes first where objects contradict each other, by Gateway API's rule: the oldest, then the first by
/// `namespace/name`. What has no time of creation is younger than what has one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seniority {
    is_unknown: bool,
    created: Option<Timestamp>,
    name: String,
}

impl Seniority {
    pub fn new(created: Option<Timestamp>, name: &NamespacedName) -> Self {
        Self { is_unknown: created.is_none(), created, name: name.to_string() }
    }
}

/// What a policy can be attached to, from the widest to the most specific.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Mesh,
    Namespace(Arc<str>),
    Service(ServiceName),
    /// A port of a service, by its name.
    Port(ServiceName, Arc<str>),
    /// What is outside of the mesh.
    External(NamespacedName),
    /// A port of it, by its name.
    ExternalPort(NamespacedName, Arc<str>),
    Route(KindId, NamespacedName),
    /// A rule of a route, by its name.
    Rule(KindId, NamespacedName, Arc<str>),
}

impl Target {
    /// Where traffic is, from the most specific: all that has a say there. The route is one of the service's; neither a port
    /// nor a rule without a name can be a target.
    pub fn of_traffic(
        service: &ServiceName,
        port: &Arc<str>,
        route: Option<(KindId, &NamespacedName, Option<&Arc<str>>)>,
    ) -> Vec<Self> {
        let rule = route.and_then(|(kind, name, rule)| Some(Self::Rule(kind, name.clone(), rule?.clone())));
        let route = route.map(|(kind, name, _)| Self::Route(kind, name.clone()));
        let port = (!port.is_empty()).then(|| Self::Port(service.clone(), port.clone()));
        let wide = [Self::Service(service.clone()), Self::Namespace(service.namespace.clone()), Self::Mesh];
        rule.into_iter().chain(route).chain(port).chain(wide).collect()
    }

    /// The same for all that enters workloads of a namespace.
    pub fn of_workloads(namespace: &Arc<str>) -> [Self; 2] {
        [Self::Namespace(namespace.clone()), Self::Mesh]
    }

    /// Whether it is one of those of the workloads of a namespace.
    pub fn covers_workloads(&self, namespace: &Arc<str>) -> bool {
        Self::of_workloads(namespace).contains(self)
    }
}

/// A policy as it is compiled: what it says, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy<S> {
    pub by: Decider,
    pub created: Option<Timestamp>,
    pub targets: BTreeSet<Target>,
    pub spec: S,
}

/// All policies of a kind.
#[derive(Debug)]
pub struct Policies<S> {
    policies: HashMap<NamespacedName, Policy<S>>,
    /// Those that name a target, the one that acts first.
    attached: HashMap<Target, BTreeMap<Seniority, NamespacedName>>,
}

impl<S> Default for Policies<S> {
    fn default() -> Self {
        Self { policies: HashMap::new(), attached: HashMap::new() }
    }
}

/// A setting, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided<T> {
    pub value: T,
    /// `None`: it is the default.
    pub by: Option<(Decider, &'static str)>,
}

impl<S: PartialEq> Policies<S> {
    /// Puts a policy in the place of what that object said before, or takes it away. Says at which targets the settings, or
    /// what policies are told of each other, may be others now.
    pub fn set(&mut self, name: &NamespacedName, policy: Option<Policy<S>>) -> BTreeSet<Target> {
        if self.policies.get(name) == policy.as_ref() {
            return BTreeSet::new();
        }
        let mut changed = BTreeSet::new();
        if let Some(old) = self.policies.remove(name) {
            let seniority = Seniority::new(old.created, name);
            for target in old.targets {
                if let Some(attached) = self.attached.get_mut(&target) {
                    attached.remove(&seniority);
                    if attached.is_empty() {
                        self.attached.remove(&target);
                    }
                }
                changed.insert(target);
            }
        }
        if let Some(policy) = policy {
            for target in &policy.targets {
                let seniority = Seniority::new(policy.created, name);
                self.attached.entry(target.clone()).or_default().insert(seniority, name.clone());
            }
            changed.extend(policy.targets.iter().cloned());
            self.policies.insert(name.clone(), policy);
        }
        changed
    }

    /// The policy that acts at a target, of those that name it. To the others it is the winner of their conflict.
    pub fn acting(&self, target: &Target) -> Option<&Policy<S>> {
        let (_, name) = self.attached.get(target)?.first_key_value()?;
        self.policies.get(name)
    }

    /// What holds of a field where these targets are, the most specific first; `field` is its path in a policy.
    pub fn decide<T>(
        &self,
        targets: &[Target],
        field: &'static str,
        read: impl Fn(&S) -> Option<T>,
        default: T,
    ) -> Decided<T> {
        let acting = targets.iter().filter_map(|target| self.acting(target));
        let said = |policy: &Policy<S>| {
            Some(Decided { value: read(&policy.spec)?, by: Some((policy.by.clone(), field)) })
        };
        let mut said = acting.filter_map(said);
        said.next().unwrap_or(Decided { value: default, by: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy of a kind that only tests have.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    struct Limits {
        attempts: Option<u32>,
        seconds: Option<u32>,
    }

    fn name(text: &str) -> NamespacedName {
        text.parse().unwrap()
    }

    fn by(text: &str) -> Decider {
        Decider::Service(name(text))
    }

    fn policy(policy: &str, created: &str, targets: &[Target], spec: Limits) -> Option<Policy<Limits>> {
        let created = (!created.is_empty()).then(|| created.parse().unwrap());
        Some(Policy { by: by(policy), created, targets: targets.iter().cloned().collect(), spec })
    }

    fn attempts(attempts: u32) -> Limits {
        Limits { attempts: Some(attempts), seconds: None }
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-02-01T00:00:00Z";

    /// Of all that has a say at a rule of a route of the service `shop/c`, the most specific first.
    fn at_a_rule() -> Vec<Target> {
        let (route, rule) = (name("shop/r"), Arc::from("main"));
        Target::of_traffic(&name("shop/c"), &"web".into(), Some((KindId::HttpRoute, &route, Some(&rule))))
    }

    #[test]
    fn traffic_is_at_every_level_that_has_a_name() {
        let all = at_a_rule();
        assert_eq!(all.len(), 6);
        assert!(all.windows(2).all(|pair| pair[0] > pair[1]), "the most specific is first: {all:?}");
        let (service, route) = (name("shop/c"), name("shop/r"));
        let levels = |port: &str, route| Target::of_traffic(&service, &port.into(), route);
        assert_eq!(levels("web", None), all[2..]);
        assert_eq!(levels("", None), all[3..]);
        assert_eq!(levels("", Some((KindId::HttpRoute, &route, None)))[0], all[1]);
    }

    #[test]
    fn workloads_are_below_their_namespace_and_the_mesh() {
        let shop = Arc::from("shop");
        assert_eq!(Target::of_workloads(&shop), [Target::Namespace(shop.clone()), Target::Mesh]);
        let covers = |target: Target| target.covers_workloads(&shop);
        assert!(covers(Target::Mesh) && covers(Target::Namespace(shop.clone())));
        assert!(!covers(Target::Namespace("other".into())) && !covers(Target::Service(name("shop/c"))));
    }

    #[test]
    fn fields_are_inherited_one_by_one_and_the_most_specific_decides() {
        let mut policies = Policies::default();
        let levels = at_a_rule();
        let told = |policies: &Policies<Limits>, targets: &[Target]| {
            let attempts = policies.decide(targets, "spec.attempts", |limits| limits.attempts, 3);
            let seconds = policies.decide(targets, "spec.seconds", |limits| limits.seconds, 60);
            let who = |by: &Option<(Decider, &str)>| by.as_ref().map(|(by, field)| format!("{by} {field}"));
            (attempts.value, who(&attempts.by), seconds.value, who(&seconds.by))
        };
        assert_eq!(told(&policies, &levels), (3, None, 60, None));
        // From the widest level on, each says something of its own of one field; the widest of the other as well.
        for (index, target) in levels.iter().rev().enumerate() {
            let policy_name = format!("shop/p{index}");
            let spec = Limits { attempts: Some(index as u32), seconds: (index == 0).then_some(5) };
            let here = std::slice::from_ref(target);
            let changed = policies.set(&name(&policy_name), policy(&policy_name, EARLY, here, spec));
            assert_eq!(changed, BTreeSet::from([target.clone()]));
            let attempts_by = Some(format!("Service/{policy_name} spec.attempts"));
            let seconds_by = Some("Service/shop/p0 spec.seconds".to_owned());
            assert_eq!(told(&policies, &levels), (index as u32, attempts_by, 5, seconds_by));
        }
        // Neighbours know nothing of the narrower ones.
        let neighbour = Target::of_traffic(&name("shop/d"), &"web".into(), None);
        assert_eq!(told(&policies, &neighbour).0, 1);
        let elsewhere = Target::of_traffic(&name("other/c"), &"web".into(), None);
        assert_eq!(told(&policies, &elsewhere).0, 0);
    }

    #[test]
    fn of_several_at_one_target_the_oldest_acts_then_the_first_by_name() {
        let target = Target::Service(name("shop/c"));
        let acting =
            |policies: &Policies<Limits>| policies.acting(&target).map(|policy| policy.by.to_string());
        let mut policies = Policies::default();
        let set = |policies: &mut Policies<Limits>, which: &str, created: Option<&str>| {
            let new = created.and_then(|at| policy(which, at, std::slice::from_ref(&target), attempts(1)));
            !policies.set(&name(which), new).is_empty()
        };
        for (which, created, changes, expected) in [
            ("shop/z", Some(""), true, Some("Service/shop/z")),
            ("shop/m", Some(LATE), true, Some("Service/shop/m")),
            ("shop/n", Some(LATE), true, Some("Service/shop/m")),
            ("shop/b", Some(LATE), true, Some("Service/shop/b")),
            ("shop/y", Some(EARLY), true, Some("Service/shop/y")),
            ("shop/y", Some(EARLY), false, Some("Service/shop/y")),
            ("shop/y", None, true, Some("Service/shop/b")),
            ("shop/y", None, false, Some("Service/shop/b")),
            ("shop/b", Some(""), true, Some("Service/shop/m")),
            ("shop/m", None, true, Some("Service/shop/n")),
            ("shop/n", None, true, Some("Service/shop/b")),
            ("shop/b", None, true, Some("Service/shop/z")),
            ("shop/z", None, true, None),
        ] {
            assert_eq!(set(&mut policies, which, created), changes, "{which}");
            assert_eq!(acting(&policies).as_deref(), expected, "{which}");
        }
        assert!(policies.attached.is_empty() && policies.policies.is_empty());
    }

    #[test]
    fn a_policy_that_is_attached_elsewhere_changes_both_places() {
        let [here, there] =
            ["here", "there"].map(|service| Target::Service(name(&format!("shop/{service}"))));
        let mut policies = Policies::default();
        let p = name("shop/p");
        policies.set(&p, policy("shop/p", EARLY, std::slice::from_ref(&here), attempts(1)));
        let changed = policies.set(&p, policy("shop/p", LATE, std::slice::from_ref(&there), attempts(1)));
        assert_eq!(changed, BTreeSet::from([here.clone(), there.clone()]));
        assert!(policies.acting(&here).is_none() && policies.acting(&there).is_some());
        let both = [here.clone(), there.clone()];
        let changed = policies.set(&p, policy("shop/p", LATE, &both, attempts(2)));
        assert_eq!(changed, BTreeSet::from(both));
        assert_eq!(policies.acting(&here).unwrap().spec, attempts(2));
    }
}
