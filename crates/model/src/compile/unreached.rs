//! The matches of routes that decide over no request of a port.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::foretold::compiler_of;
use super::read::name_of;
use super::route::RouteKey;
use super::{Change, Compiler};
use crate::kinds::id::KindId;
use crate::name::ServiceName;
use crate::registry::Kind;
use crate::routing::unreached::{Unreached, unreached};
use crate::routing::{Candidate, specificity};
use crate::validate::{FieldPath, OfferedPort};

/// By the route that has them.
pub(super) type UnreachedOfService = BTreeMap<RouteKey, Vec<UnreachedMatch>>;

/// A match of a route that no request of a port reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnreachedMatch {
    port: u16,
    pub(super) place: MatchPlace,
    why: Reason,
}

/// Which match of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MatchPlace {
    pub(super) rule: u32,
    pub(super) matched: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Impossible(&'static str),
    /// That match of that route comes first and takes all.
    Behind {
        route: RouteKey,
        place: MatchPlace,
        /// Nothing but the age or the name of the route puts it first, and of one of the two the age is not known.
        unless_younger: bool,
    },
}

impl MatchPlace {
    fn path(self) -> FieldPath {
        let rule = FieldPath::root().field("spec").field("rules").index(self.rule as usize);
        rule.field("matches").index(self.matched as usize)
    }
}

/// Notes the matches that no request of a port reaches. `sorted`: all that its table has, in order; `kind`: of the routes.
pub(super) fn note_unreached(port: u16, kind: KindId, sorted: &[Candidate], noted: &mut UnreachedOfService) {
    let route = |candidate: &Candidate| RouteKey { kind, name: candidate.entry.rule.route.clone() };
    let place = |candidate: &Candidate| {
        let (rule, matched) = (candidate.entry.rule.index, candidate.match_index);
        MatchPlace { rule, matched }
    };
    let table: Vec<_> = sorted.iter().map(|candidate| &candidate.entry.matcher).collect();
    for (at, why) in unreached(&table) {
        let late = &sorted[at];
        let why = match why {
            Unreached::Impossible(what) => Reason::Impossible(what),
            Unreached::Behind(first) => {
                let early = &sorted[first];
                let as_special = specificity(table[first]) == specificity(table[at]);
                let unknown = early.created.is_none() || late.created.is_none();
                let unless_younger = as_special && unknown && route(early) != route(late);
                Reason::Behind { route: route(early), place: place(early), unless_younger }
            }
        };
        noted.entry(route(late)).or_default().push(UnreachedMatch { port, place: place(late), why });
    }
}

/// What is to be said of a route's matches on these ports, by the match: a sentence each.
pub(super) fn sentences(
    route: &RouteKey,
    of_route: &[UnreachedMatch],
    ports: &[u16],
) -> Vec<(FieldPath, String)> {
    let mut ports_of: BTreeMap<(MatchPlace, &Reason), Vec<u16>> = BTreeMap::new();
    for UnreachedMatch { port, place, why } in of_route {
        if ports.contains(port) {
            ports_of.entry((*place, why)).or_default().push(*port);
        }
    }
    let sentence = |((place, why), on): ((MatchPlace, &Reason), Vec<u16>)| {
        let numbers: Vec<_> = on.iter().map(u16::to_string).collect();
        let ports = match numbers.len() == ports.len() {
            true => String::new(),
            false => format!(" on port {}", numbers.join(", ")),
        };
        let text = match why {
            Reason::Impossible(what) => format!("no request ever matches it: {what}"),
            Reason::Behind { route: by, place: first, unless_younger } => {
                let of = match by == route {
                    true => String::new(),
                    false => format!(" of {} {}", by.kind.kind(), by.name),
                };
                let unless = match unless_younger {
                    true => ", unless this route is the one that is created first",
                    false => "",
                };
                format!(
                    "no request reaches it{ports}: {}{of} comes first and takes all that it would{unless}",
                    first.path()
                )
            }
        };
        (place.path(), text)
    };
    ports_of.into_iter().map(sentence).collect()
}

/// Finds what nothing comes of in the routes among `objects`, as far as these tell: parents at which they do nothing, and
/// matches that no request reaches. Each comes with the index of its object, the field, and why. `known`: the ports of Services that are elsewhere; of one that nothing
/// is known of, the ports are those that routes name.
pub fn find_idle<K: Borrow<Kind>, V: Borrow<Value>>(
    objects: &[(K, V)],
    known: impl Fn(&ServiceName) -> Option<Vec<OfferedPort>>,
) -> Vec<(usize, FieldPath, String)> {
    let relevant = |kind: &Kind| kind.id == KindId::Service || kind.id.is_route();
    let given = objects.iter().filter(|(kind, _)| relevant(kind.borrow()));
    let given = given.map(|(kind, object)| (kind.borrow().id.kind(), object.borrow()));
    let Some(mut compiler) = compiler_of(given) else { return Vec::new() };
    let (elsewhere, made_up) = compiler.parents_elsewhere(known);
    compiler.apply_all(
        elsewhere.into_iter().map(|service| Change::Put(KindId::Service.kind(), Arc::new(service))),
    );
    let mut found = Vec::new();
    for (index, (kind, object)) in objects.iter().enumerate() {
        let kind = kind.borrow();
        if kind.id.is_route() {
            let key = RouteKey { kind: kind.id, name: name_of(object.borrow(), kind.namespaced) };
            found.extend(
                compiler.losses_of(&key, &made_up).into_iter().map(|(path, text)| (index, path, text)),
            );
        }
    }
    found
}

impl Compiler {
    /// What no request reaches of a route, by all its parents; each once.
    pub(super) fn unreached_of(&self, key: &RouteKey) -> Vec<(FieldPath, String)> {
        let Some(form) = self.routes.get(key).and_then(|state| state.form.as_ref()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for parent in &form.parents {
            let Ok(ports) = self.accept(form, parent) else { continue };
            let of_route = parent.service.as_ref().and_then(|name| self.unreached.get(name)?.get(key));
            for sentence in of_route.map(|of_route| sentences(key, of_route, &ports)).unwrap_or_default() {
                if !found.contains(&sentence) {
                    found.push(sentence);
                }
            }
        }
        found
    }

    /// The Services that routes have as parents, and that are not here, as far as they can be made up; and of each whether its
    /// ports are known.
    fn parents_elsewhere(
        &self,
        known: impl Fn(&ServiceName) -> Option<Vec<OfferedPort>>,
    ) -> (Vec<Value>, BTreeMap<ServiceName, bool>) {
        let mut ports: BTreeMap<&ServiceName, BTreeMap<u16, String>> = BTreeMap::new();
        let parents =
            self.routes.values().filter_map(|state| state.form.as_ref()).flat_map(|form| &form.parents);
        for parent in parents {
            let Some(name) = parent.service.as_ref().filter(|name| !self.services.contains_key(*name)) else {
                continue;
            };
            let named = ports.entry(name).or_default();
            if let Some(port) = parent.port {
                let default = || format!("p{port}");
                let name = named.entry(port).or_insert_with(default);
                parent.section().iter().for_each(|section| (*section).clone_into(name));
            }
        }
        let service = |(name, named): (&ServiceName, BTreeMap<u16, String>)| {
            let named = named.into_iter().map(|(number, name)| OfferedPort { number, name });
            let mut named: Vec<_> = named.collect();
            if named.is_empty() {
                named.push(OfferedPort { number: 80, name: String::new() });
            }
            let port = |port: &OfferedPort| json!({ "port": port.number, "name": port.name });
            let known = known(name);
            let made_up = (name.clone(), known.is_some());
            let ports: Vec<_> = known.unwrap_or(named).iter().map(port).collect();
            let service = json!({
                "metadata": { "namespace": &*name.namespace, "name": &*name.name },
                "spec": { "ports": ports },
            });
            (service, made_up)
        };
        ports.into_iter().map(service).unzip()
    }
}
