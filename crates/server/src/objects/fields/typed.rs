//! Objects by their schema: which lists have items with keys, what is one value as a whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::set::{FieldSet, Node, field, keyed, valued};

/// A part of a kind's schema; nothing is known below free-form fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct SchemaPart<'a>(Option<&'a Value>);

/// How the items of a list are told apart.
enum ListType<'a> {
    /// Not at all: the list is one value.
    Atomic,
    /// Each is a value of its own.
    Set,
    /// By some of their fields.
    Map(Vec<&'a str>),
}

impl<'a> SchemaPart<'a> {
    pub(super) fn new(schema: &'a Value) -> Self {
        Self(Some(schema))
    }

    fn get(self, key: &str) -> Option<&'a Value> {
        self.0.and_then(|schema| schema.get(key))
    }

    fn items(self) -> Self {
        Self(self.get("items"))
    }

    /// The schema of a field, and whether the field is one that the schema names.
    fn property(self, name: &str) -> (Self, bool) {
        match self.get("properties").and_then(|properties| properties.get(name)) {
            Some(schema) => (Self(Some(schema)), true),
            None => (Self(self.get("additionalProperties")), false),
        }
    }

    fn is_atomic_map(self) -> bool {
        self.get("x-kubernetes-map-type").is_some_and(|map_type| map_type == "atomic")
    }

    fn list_type(self) -> ListType<'a> {
        match self.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListType::Set,
            Some("map") => {
                let keys = self.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                ListType::Map(keys.into_iter().flatten().filter_map(Value::as_str).collect())
            }
            _ => ListType::Atomic,
        }
    }

    /// The items of a list by their path elements, in order; none if the list is one value.
    fn elements(self, items: &[Value]) -> Option<Vec<(String, &Value)>> {
        match self.list_type() {
            ListType::Atomic => None,
            ListType::Set => Some(items.iter().map(|item| (valued(item), item)).collect()),
            ListType::Map(keys) => {
                let element = |item: &Value| {
                    let key = |key: &&str| {
                        let default = || self.items().property(key).0.get("default").cloned();
                        let value = item.get(*key).cloned().or_else(default)?;
                        Some(((*key).to_owned(), value))
                    };
                    keyed(&keys.iter().filter_map(key).collect::<BTreeMap<_, _>>())
                };
                Some(items.iter().map(|item| (element(item), item)).collect())
            }
        }
    }
}

/// All fields of a value. A map by itself is no member, unless it is empty.
pub(super) fn fields(value: &Value, schema: SchemaPart<'_>) -> Node {
    match value {
        Value::Object(map) if !schema.is_atomic_map() => {
            let mut node = Node::default();
            for (name, value) in map {
                let (below, named) = schema.property(name);
                let mut child = fields(value, below);
                child.member |= !named || value.as_object().is_some_and(Map::is_empty);
                node.children.insert(field(name), child);
            }
            node
        }
        Value::Array(items) => match schema.elements(items) {
            None => Node::leaf(),
            Some(elements) => {
                let mut node = Node::default();
                for (element, item) in elements {
                    let child = Node { member: true, ..fields(item, schema.items()) };
                    node.children.insert(element, child);
                }
                node
            }
        },
        _ => Node::leaf(),
    }
}

/// Where a list has two items of the same key or value, in the words of Kubernetes.
pub(super) fn repeated(value: &Value, schema: SchemaPart<'_>) -> Option<String> {
    match value {
        Value::Object(map) if !schema.is_atomic_map() => map.iter().find_map(|(name, value)| {
            let found = repeated(value, schema.property(name).0)?;
            Some(format!(".{name}{found}"))
        }),
        Value::Array(items) => {
            let mut seen = BTreeSet::new();
            schema.elements(items)?.into_iter().find_map(|(element, item)| {
                let found = repeated(item, schema.items());
                let key = element.trim_start_matches("k:").trim_start_matches("v:").to_owned();
                if seen.insert(element) { found } else { Some(format!(": duplicate entries for key {key}")) }
            })
        }
        _ => None,
    }
}

/// What it takes to get from one value to another.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Added or of another value.
    pub(super) changed: FieldSet,
    /// No longer there, with all that was below.
    pub(super) removed: FieldSet,
}

impl Difference {
    pub(super) fn between(old: &Value, new: &Value, schema: SchemaPart<'_>) -> Self {
        let (mut changed, mut removed) = (Node::default(), Node::default());
        compare(old, new, schema, &mut changed, &mut removed);
        Self { changed: changed.children, removed: removed.children }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

fn compare(old: &Value, new: &Value, schema: SchemaPart<'_>, changed: &mut Node, removed: &mut Node) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) if !schema.is_atomic_map() => {
            let old: Vec<(String, &Value)> = old.iter().map(|(name, value)| (field(name), value)).collect();
            let new: Vec<(String, &Value)> = new.iter().map(|(name, value)| (field(name), value)).collect();
            let below = |element: &str| schema.property(element.trim_start_matches("f:")).0;
            compare_children(&old, &new, below, changed, removed);
        }
        (Value::Array(old_items), Value::Array(new_items)) => {
            match (schema.elements(old_items), schema.elements(new_items)) {
                (Some(old), Some(new)) => {
                    compare_children(&old, &new, |_| schema.items(), changed, removed);
                }
                _ => changed.member |= old_items != new_items,
            }
        }
        _ => changed.member |= old != new,
    }
}

fn compare_children<'s>(
    old: &[(String, &Value)],
    new: &[(String, &Value)],
    below: impl Fn(&str) -> SchemaPart<'s>,
    changed: &mut Node,
    removed: &mut Node,
) {
    let before: BTreeMap<&str, &Value> =
        old.iter().map(|(element, value)| (element.as_str(), *value)).collect();
    let after: BTreeMap<&str, &Value> =
        new.iter().map(|(element, value)| (element.as_str(), *value)).collect();
    for (&element, &value) in &after {
        match before.get(element) {
            None => changed.children.insert(element.to_owned(), added(element, value, below(element))),
            Some(&earlier) => {
                let (mut changed_below, mut removed_below) = (Node::default(), Node::default());
                compare(earlier, value, below(element), &mut changed_below, &mut removed_below);
                changed.children.insert(element.to_owned(), changed_below);
                removed.children.insert(element.to_owned(), removed_below);
            }
        }
    }
    for &element in before.keys().filter(|element| !after.contains_key(*element)) {
        removed.children.insert(element.to_owned(), Node::leaf());
    }
}

/// All fields of a value that was not there: maps with free keys and lists are members themselves.
fn added(element: &str, value: &Value, schema: SchemaPart<'_>) -> Node {
    let mut node = match value {
        Value::Object(map) if !schema.is_atomic_map() => {
            let mut node = Node { member: schema.get("properties").is_none(), ..Node::default() };
            for (name, value) in map {
                node.children.insert(field(name), added("f:", value, schema.property(name).0));
            }
            node
        }
        Value::Array(items) => match schema.elements(items) {
            None => Node::leaf(),
            Some(elements) => {
                let mut node = Node::leaf();
                for (element, item) in elements {
                    let child = added(&element, item, schema.items());
                    node.children.insert(element, child);
                }
                node
            }
        },
        _ => Node::leaf(),
    };
    node.member |= !element.starts_with("f:") || node.children.is_empty();
    node
}

/// What is there with what is applied: the latter wins, lists with keys are merged item by item.
pub(super) fn merge(live: &Value, config: &Value, schema: SchemaPart<'_>) -> Value {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if !schema.is_atomic_map() => {
            let mut merged = live.clone();
            for (name, value) in config {
                let value = match live.get(name) {
                    Some(live) => merge(live, value, schema.property(name).0),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Value::Array(live_items), Value::Array(config_items)) => {
            match (schema.elements(live_items), schema.elements(config_items)) {
                (Some(live), Some(config)) => Value::Array(merge_items(&live, &config, schema.items())),
                _ => Value::Array(config_items.clone()),
            }
        }
        (_, config) => config.clone(),
    }
}

/// The items of the config in its order; each of the others behind the item of the config that it is behind already, or
/// before all of them. So what is applied again changes nothing, also where others have gone in between.
fn merge_items(live: &[(String, &Value)], config: &[(String, &Value)], schema: SchemaPart<'_>) -> Vec<Value> {
    let known: BTreeMap<&str, &Value> = live.iter().map(|(element, item)| (&**element, *item)).collect();
    let wanted: BTreeSet<&str> = config.iter().map(|(element, _)| &**element).collect();
    let mut behind: BTreeMap<Option<&str>, Vec<&Value>> = BTreeMap::new();
    let mut before = None;
    for (element, item) in live {
        match wanted.get(&**element) {
            Some(&element) => before = Some(element),
            None => behind.entry(before).or_default().push(item),
        }
    }
    let mut items = Vec::new();
    items.extend(behind.remove(&None).unwrap_or_default().into_iter().cloned());
    for (element, item) in config {
        let live = known.get(&**element);
        items.push(live.map_or_else(|| (*item).clone(), |live| merge(live, item, schema)));
        items.extend(behind.remove(&Some(&**element)).unwrap_or_default().into_iter().cloned());
    }
    items
}

/// Takes out of a value what is in `dropped` and in nobody's set.
pub(super) fn prune(value: &mut Value, dropped: &FieldSet, owned: &FieldSet, schema: SchemaPart<'_>) {
    // What stays, and what to look into.
    let keep = |element: &str| match (dropped.0.get(element), owned.0.get(element)) {
        (None, _) => (true, None),
        (Some(_), None) => (false, None),
        (Some(dropped), Some(owned)) => (true, Some((&dropped.children, &owned.children))),
    };
    match value {
        Value::Object(map) if !schema.is_atomic_map() => map.retain(|name, value| {
            let (stays, inside) = keep(&field(name));
            if let Some((dropped, owned)) = inside {
                prune(value, dropped, owned, schema.property(name).0);
            }
            stays
        }),
        Value::Array(items) => {
            let Some(elements) = schema.elements(items) else { return };
            let elements: Vec<String> = elements.into_iter().map(|(element, _)| element).collect();
            let mut element = elements.iter();
            items.retain_mut(|item| {
                let Some(element) = element.next() else { return true };
                let (stays, inside) = keep(element);
                if let Some((dropped, owned)) = inside {
                    prune(item, dropped, owned, schema.items());
                }
                stays
            });
        }
        _ => {}
    }
}
