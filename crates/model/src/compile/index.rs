//! What must be looked at again when an object changes.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use crate::kinds::service::form::Labels;
use crate::name::{NamespacedName, ServiceName, WorkloadName};

/// Has a map say that of a key, or nothing; whether it said something else before.
pub(super) fn renew<K: Clone + Eq + Hash, V: PartialEq>(
    map: &mut HashMap<K, V>,
    key: &K,
    now: Option<V>,
) -> bool {
    if map.get(key) == now.as_ref() {
        return false;
    }
    match now {
        Some(now) => map.insert(key.clone(), now),
        None => map.remove(key),
    };
    true
}

/// Several values a key.
#[derive(Debug)]
pub(super) struct MultiMap<K, V> {
    sets: HashMap<K, BTreeSet<V>>,
}

impl<K, V> Default for MultiMap<K, V> {
    fn default() -> Self {
        Self { sets: HashMap::new() }
    }
}

impl<K: Hash + Eq, V: Ord> MultiMap<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.sets.entry(key).or_default().insert(value);
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        if let Some(set) = self.sets.get_mut(key) {
            set.remove(value);
            if set.is_empty() {
                self.sets.remove(key);
            }
        }
    }

    pub(super) fn get(&self, key: &K) -> impl Iterator<Item = &V> + use<'_, K, V> {
        self.sets.get(key).into_iter().flatten()
    }

    pub(super) fn count(&self, key: &K) -> usize {
        self.sets.get(key).map_or(0, BTreeSet::len)
    }
}

/// A label in a namespace.
type Label = (Arc<str>, String, String);

fn label(namespace: &Arc<str>, (key, value): (&String, &String)) -> Label {
    (namespace.clone(), key.clone(), value.clone())
}

/// Which services may select which workloads: candidates, to be checked against the whole selector.
#[derive(Debug, Default)]
pub(super) struct SelectorIndex {
    /// Every service under one label of its selector, the one that fewest others stand under, so
    /// that a label that a whole system carries costs nothing.
    services: MultiMap<Label, ServiceName>,
    labels_of: HashMap<ServiceName, Label>,
    /// Every workload under all of its labels.
    workloads: MultiMap<Label, WorkloadName>,
}

impl SelectorIndex {
    pub(super) fn set_service(&mut self, name: &ServiceName, selector: Option<&Labels>) {
        if let Some(old) = self.labels_of.remove(name) {
            self.services.remove(&old, name);
        }
        let labels = selector.into_iter().flatten().map(|pair| label(&name.namespace, pair));
        if let Some(rarest) = labels.min_by_key(|label| self.services.count(label)) {
            self.services.insert(rarest.clone(), name.clone());
            self.labels_of.insert(name.clone(), rarest);
        }
    }

    pub(super) fn set_workload(&mut self, name: &WorkloadName, old: Option<&Labels>, new: Option<&Labels>) {
        if old == new {
            return;
        }
        for pair in old.into_iter().flatten() {
            self.workloads.remove(&label(&name.namespace, pair), name);
        }
        for pair in new.into_iter().flatten() {
            self.workloads.insert(label(&name.namespace, pair), name.clone());
        }
    }

    /// The services that may select workloads with these labels.
    pub(super) fn services(&self, namespace: &Arc<str>, labels: &Labels) -> Vec<ServiceName> {
        let found = labels.iter().flat_map(|pair| self.services.get(&label(namespace, pair)));
        found.cloned().collect()
    }

    /// The workloads that a selector may select, in order of their names.
    pub(super) fn workloads(
        &self,
        namespace: &Arc<str>,
        selector: &Labels,
    ) -> impl Iterator<Item = &NamespacedName> {
        let labels = selector.iter().map(|pair| label(namespace, pair));
        let rarest = labels.min_by_key(|label| self.workloads.count(label));
        rarest.into_iter().flat_map(|label| self.workloads.sets.get(&label).into_iter().flatten())
    }
}
