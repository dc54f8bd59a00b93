//! Who may do what with the API: a pure function of roles, bindings and the request (Kubernetes, "Using RBAC Authorization").
//!
//! There are no denials: whoever has no role that allows something may not do it. [`Rbac`] keeps roles and bindings by their
//! subjects, so that a request costs what its user has, however many others there are.

pub mod defaults;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Deserialize as _;
use serde_json::Value;

use crate::kinds::role::PolicyRule;
use crate::kinds::role_binding::RoleBinding;
use crate::registry::{Kind, KindId};

/// The group of those who may do everything, with no role.
pub const ADMINISTRATORS: &str = "system:masters";
/// The group of everybody who has shown who he is.
pub const AUTHENTICATED: &str = "system:authenticated";
/// How many comparisons of rules one check may take: roles are as long as their authors like.
const MOST_COMPARISONS: usize = 2_000_000;
/// How many of the rules that somebody lacks are named.
const SHOWN: usize = 5;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub name: &'a str,
    pub groups: &'a [String],
}

impl Asker<'_> {
    /// Whether he may do everything.
    pub fn is_administrator(&self) -> bool {
        self.groups.iter().any(|group| group == ADMINISTRATORS)
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiAction<'a> {
    /// Something with a resource.
    Resource(ResourceAction<'a>),
    /// Something with a path that is no resource; the verb is the method in lower case.
    Path { verb: &'a str, path: &'a str },
}

/// What somebody wants to do with a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceAction<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// The plural.
    pub resource: &'a str,
    /// Empty for the resource itself.
    pub subresource: &'a str,
    /// Empty for all namespaces, and for what is in none.
    pub namespace: &'a str,
    /// Empty for all, and for what has no name yet.
    pub name: &'a str,
}

/// What allows something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permit {
    /// Whoever is in [`ADMINISTRATORS`] needs no role.
    Administrator,
    Role {
        binding: Arc<Binding>,
    },
}

/// Names the objects that allow it.
impl fmt::Display for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Administrator => write!(f, "group {ADMINISTRATORS}"),
            Self::Role { binding } => {
                let Binding { key, role } = &**binding;
                match key.namespace.as_str() {
                    "" => write!(f, "ClusterRoleBinding/{}", key.name)?,
                    namespace => write!(f, "RoleBinding/{namespace}/{}", key.name)?,
                }
                match role.namespace.as_str() {
                    "" => write!(f, " of ClusterRole/{}", role.name),
                    namespace => write!(f, " of Role/{namespace}/{}", role.name),
                }
            }
        }
    }
}

/// A role or binding by its name; the namespace is empty for one that is in none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopedName {
    pub namespace: String,
    pub name: String,
}

impl ScopedName {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// A binding, and the role that it gives.
#[derive(Debug, PartialEq, Eq)]
pub struct Binding {
    pub key: ScopedName,
    pub role: ScopedName,
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SubjectKey {
    User(String),
    Group(String),
}

/// The bindings of a subject, by their namespaces and names.
type Bindings = BTreeMap<ScopedName, Arc<Binding>>;

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Rbac {
    roles: HashMap<ScopedName, Arc<[PolicyRule]>>,
    /// Of default roles that lack something: what they have again with the next start.
    restored: HashMap<ScopedName, Arc<[PolicyRule]>>,
    /// The subjects of each binding.
    subjects: HashMap<ScopedName, Vec<SubjectKey>>,
    bindings: HashMap<SubjectKey, Bindings>,
}

impl Rbac {
    /// Takes in an object of one of the four kinds as it is now; none where it is gone. One that cannot be read allows nothing.
    pub fn set(&mut self, kind: &Kind, namespace: &str, name: &str, object: Option<&Value>) {
        let key = ScopedName::new(namespace, name);
        match kind.id {
            KindId::Role | KindId::ClusterRole => {
                match object.and_then(|object| defaults::restored(kind, name, object)) {
                    Some(rules) => drop(self.restored.insert(key.clone(), rules.into())),
                    None => drop(self.restored.remove(&key)),
                }
                match object {
                    Some(object) => drop(self.roles.insert(key, rules_of(object).into())),
                    None => drop(self.roles.remove(&key)),
                }
            }
            KindId::RoleBinding | KindId::ClusterRoleBinding => {
                let read = object.and_then(|object| RoleBinding::deserialize(object).ok());
                self.set_binding(key, read);
            }
            _ => {}
        }
    }

    fn set_binding(&mut self, key: ScopedName, binding: Option<RoleBinding>) {
        for subject in self.subjects.remove(&key).into_iter().flatten() {
            if let Some(bindings) = self.bindings.get_mut(&subject) {
                bindings.remove(&key);
                if bindings.is_empty() {
                    self.bindings.remove(&subject);
                }
            }
        }
        let Some(binding) = binding else { return };
        let role = role_of(&key.namespace, &binding);
        let subjects = binding.subjects.into_iter().filter_map(|subject| match subject.kind.as_str() {
            "User" => Some(SubjectKey::User(subject.name)),
            "Group" => Some(SubjectKey::Group(subject.name)),
            "ServiceAccount" => {
                let namespace = subject.namespace.unwrap_or_default();
                Some(SubjectKey::User(format!("system:serviceaccount:{namespace}:{}", subject.name)))
            }
            _ => None,
        });
        let subjects: Vec<_> = subjects.collect();
        let binding = Arc::new(Binding { key: key.clone(), role });
        for subject in &subjects {
            self.bindings.entry(subject.clone()).or_default().insert(key.clone(), binding.clone());
        }
        self.subjects.insert(key, subjects);
    }

    /// What allows it; none where nothing does.
    pub fn decide(&self, asker: Asker<'_>, action: &ApiAction<'_>) -> Option<Permit> {
        if asker.is_administrator() {
            return Some(Permit::Administrator);
        }
        let namespace = match action {
            ApiAction::Resource(action) => action.namespace,
            ApiAction::Path { .. } => "",
        };
        let allowing = |(binding, rules): (&Arc<Binding>, &[PolicyRule])| {
            let allowed = rules.iter().any(|rule| allows(rule, action));
            allowed.then(|| Permit::Role { binding: binding.clone() })
        };
        self.roles_of(asker, namespace).find_map(allowing)
    }

    /// All rules that somebody has in a namespace (empty: where there is none), those that he has everywhere included.
    pub fn rules(&self, asker: Asker<'_>, namespace: &str) -> Vec<&PolicyRule> {
        self.roles_of(asker, namespace).flat_map(|(_, rules)| rules).collect()
    }

    /// The rules of a role.
    pub fn role(&self, role: &ScopedName) -> Option<&[PolicyRule]> {
        self.roles.get(role).map(|rules| &**rules)
    }

    /// The rules that a role gives whoever is bound to it, now or once the server has started again.
    pub fn given(&self, role: &ScopedName) -> Option<&[PolicyRule]> {
        self.restored.get(role).map(|rules| &**rules).or_else(|| self.role(role))
    }

    fn roles_of<'s>(
        &'s self,
        asker: Asker<'_>,
        namespace: &str,
    ) -> impl Iterator<Item = (&'s Arc<Binding>, &'s [PolicyRule])> + use<'s> {
        let groups = asker.groups.iter().map(|group| SubjectKey::Group(group.clone()));
        let subjects = [SubjectKey::User(asker.name.to_owned())].into_iter().chain(groups);
        let mut scopes = vec![String::new()];
        if !namespace.is_empty() {
            scopes.push(namespace.to_owned());
        }
        let found: Vec<&'s Arc<Binding>> = subjects
            .filter_map(|subject| self.bindings.get(&subject))
            .flat_map(|bindings| {
                scopes.iter().flat_map(move |scope| {
                    let first = ScopedName::new(scope, "");
                    bindings.range(first..).take_while(move |(key, _)| key.namespace == *scope)
                })
            })
            .map(|(_, binding)| binding)
            .collect();
        found.into_iter().filter_map(|binding| self.role(&binding.role).map(|rules| (binding, rules)))
    }
}

/// The rules in a role's object; none where they cannot be read.
pub fn rules_of(role: &Value) -> Vec<PolicyRule> {
    role.get("rules").and_then(|rules| Vec::deserialize(rules).ok()).unwrap_or_default()
}

/// The role that a binding of that namespace gives.
pub fn role_of(namespace: &str, binding: &RoleBinding) -> ScopedName {
    let namespace = if binding.role_ref.kind == "ClusterRole" { "" } else { namespace };
    ScopedName::new(namespace, &binding.role_ref.name)
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// Whether a rule allows something.
pub fn allows(rule: &PolicyRule, action: &ApiAction<'_>) -> bool {
    match action {
        ApiAction::Path { verb, path } => has(&rule.verbs, verb) && names_path(&rule.non_resource_urls, path),
        ApiAction::Resource(action) => {
            has(&rule.verbs, action.verb)
                && has(&rule.api_groups, action.group)
                && names_resource(&rule.resources, action.resource, action.subresource)
                && (rule.resource_names.is_empty()
                    || (!action.name.is_empty()
                        && rule.resource_names.iter().any(|name| name == action.name)))
        }
    }
}

fn names_path(paths: &[String], path: &str) -> bool {
    paths.iter().any(|known| match known.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == known,
    })
}

fn names_resource(resources: &[String], resource: &str, subresource: &str) -> bool {
    resources.iter().any(|known| match known.split_once('/') {
        _ if known == "*" => true,
        None => subresource.is_empty() && known == resource,
        Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
    })
}

/// Why somebody may not give away rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotCovered {
    /// What he does not have himself: some of it, and how much more there is.
    Lacking { shown: Vec<PolicyRule>, more: usize },
    /// There is too much to compare.
    TooMuch,
}

impl fmt::Display for NotCovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lacking { shown, more } => {
                shown.iter().try_for_each(|rule| write!(f, "\n{rule}"))?;
                match more {
                    0 => Ok(()),
                    more => write!(f, "\nand {more} more"),
                }
            }
            Self::TooMuch => f.write_str("there are too many rules to compare: write fewer, or shorter ones"),
        }
    }
}

/// Whether all that `wanted` allows is allowed by one of the rules that somebody has (Kubernetes, "Privilege escalation
/// prevention").
///
/// # Errors
/// What is lacking.
pub fn covers(had: &[&PolicyRule], wanted: &[PolicyRule]) -> Result<(), NotCovered> {
    let had: Vec<_> = had.iter().map(|rule| HadRule::new(rule)).collect();
    let mut left = MOST_COMPARISONS;
    let (mut shown, mut more) = (Vec::new(), 0);
    for rule in wanted {
        for part in parts(rule) {
            spend(&mut left, 1)?;
            if covers_part(&had, &part, &mut left)? {
                continue;
            }
            match shown.len() {
                SHOWN => more += 1,
                _ => shown.push(part.rule()),
            }
        }
    }
    if shown.is_empty() { Ok(()) } else { Err(NotCovered::Lacking { shown, more }) }
}

fn spend(left: &mut usize, comparisons: usize) -> Result<(), NotCovered> {
    *left = left.checked_sub(comparisons).ok_or(NotCovered::TooMuch)?;
    Ok(())
}

/// A rule that somebody has, and its names by which objects are found in it.
struct HadRule<'a> {
    rule: &'a PolicyRule,
    names: HashSet<&'a str>,
}

impl<'a> HadRule<'a> {
    fn new(rule: &'a PolicyRule) -> Self {
        Self { rule, names: rule.resource_names.iter().map(String::as_str).collect() }
    }
}

/// One of the smallest rules that a rule is made of: one verb, and one resource of one group or one path.
struct RulePart<'a> {
    verb: &'a String,
    object: PartObject<'a>,
}

#[derive(Clone, Copy)]
enum PartObject<'a> {
    Resource { group: &'a String, resource: &'a String, names: &'a [String] },
    Path(&'a String),
}

impl RulePart<'_> {
    /// As a rule for people to read: a list of names may be long.
    fn rule(&self) -> PolicyRule {
        let verbs = vec![self.verb.clone()];
        match self.object {
            PartObject::Path(path) => {
                PolicyRule { verbs, non_resource_urls: vec![path.clone()], ..PolicyRule::default() }
            }
            PartObject::Resource { group, resource, names } => {
                let mut resource_names: Vec<_> = names.iter().take(SHOWN).cloned().collect();
                if names.len() > SHOWN {
                    resource_names.push("…".to_owned());
                }
                PolicyRule {
                    verbs,
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    resource_names,
                    ..PolicyRule::default()
                }
            }
        }
    }
}

fn parts(rule: &PolicyRule) -> impl Iterator<Item = RulePart<'_>> {
    let names = rule.resource_names.as_slice();
    let resources = rule.api_groups.iter().flat_map(move |group| {
        rule.resources.iter().map(move |resource| PartObject::Resource { group, resource, names })
    });
    let objects = rule.non_resource_urls.iter().map(PartObject::Path).chain(resources);
    rule.verbs.iter().flat_map(move |verb| objects.clone().map(move |object| RulePart { verb, object }))
}

/// Whether one rule allows a part. What is quickly told apart comes first, long lists last; each is paid for.
fn covers_part(had: &[HadRule<'_>], part: &RulePart<'_>, left: &mut usize) -> Result<bool, NotCovered> {
    for HadRule { rule, names } in had {
        spend(left, 1 + rule.verbs.len())?;
        if !has(&rule.verbs, part.verb) {
            continue;
        }
        let covered = match part.object {
            PartObject::Path(path) => {
                spend(left, rule.non_resource_urls.len())?;
                names_path(&rule.non_resource_urls, path)
            }
            PartObject::Resource { group, resource, names: wanted } => {
                spend(left, rule.api_groups.len())?;
                if !has(&rule.api_groups, group) {
                    continue;
                }
                spend(left, rule.resources.len())?;
                covers_resource(&rule.resources, resource)
                    && (names.is_empty() || {
                        spend(left, wanted.len())?;
                        !wanted.is_empty() && wanted.iter().all(|name| names.contains(name.as_str()))
                    })
            }
        };
        if covered {
            return Ok(true);
        }
    }
    Ok(false)
}

fn covers_resource(had: &[String], wanted: &str) -> bool {
    has(had, wanted)
        || wanted
            .split_once('/')
            .is_some_and(|(_, sub)| had.iter().any(|resource| resource.strip_prefix("*/") == Some(sub)))
}
