//! Sets of field paths, as FieldsV1 writes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// Sets sent by clients are at most so deep.
const DEEPEST: usize = 64;

/// A set of field paths: a tree of path elements, each in its FieldsV1 form: `f:<name>` a field or a
/// key, `k:<json>` the item of a list with these keys, `v:<json>` an item that is this value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet(pub(super) BTreeMap<String, Node>);

/// A path element, with what is below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Whether the path to here is itself in the set.
    pub(super) member: bool,
    pub(super) children: FieldSet,
}

impl Node {
    pub(super) fn leaf() -> Self {
        Self { member: true, children: FieldSet::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a subtree, unless it holds nothing.
    pub(super) fn insert(&mut self, element: String, node: Node) {
        if !node.is_empty() {
            self.0.insert(element, node);
        }
    }

    pub(super) fn union(&mut self, other: &Self) {
        for (element, theirs) in &other.0 {
            let ours = self.0.entry(element.clone()).or_default();
            ours.member |= theirs.member;
            ours.children.union(&theirs.children);
        }
    }

    /// Takes out the paths of `other`, each by itself.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.0.retain(|element, ours| {
            if let Some(theirs) = other.0.get(element) {
                ours.member &= !theirs.member;
                ours.children.subtract(&theirs.children);
            }
            !ours.is_empty()
        });
    }

    /// Takes out the paths of `other` with all that is below them.
    pub(super) fn subtract_with_children(&mut self, other: &Self) {
        self.0.retain(|element, ours| {
            if let Some(theirs) = other.0.get(element) {
                if theirs.member {
                    return false;
                }
                ours.children.subtract_with_children(&theirs.children);
            }
            !ours.is_empty()
        });
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut common = Self::default();
        for (element, ours) in &self.0 {
            if let Some(theirs) = other.0.get(element) {
                let children = ours.children.intersection(&theirs.children);
                common.insert(element.clone(), Node { member: ours.member && theirs.member, children });
            }
        }
        common
    }

    /// The paths, as messages write them: `.spec.ports[port=80,protocol="TCP"].name`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        for (element, node) in &self.0 {
            let mut path = prefix.to_owned();
            if let Some(field) = element.strip_prefix("f:") {
                let _ = write!(path, ".{field}");
            } else if let Some(keys) = element.strip_prefix("k:") {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let _ = write!(path, "[{}]", keys.join(","));
            } else if let Some(value) = element.strip_prefix("v:") {
                let _ = write!(path, "[={value}]");
            } else {
                let _ = write!(path, "[{}]", element.trim_start_matches("i:"));
            }
            if node.member {
                paths.push(path.clone());
            }
            node.children.collect_paths(&path, paths);
        }
    }

    /// As FieldsV1.
    pub(super) fn to_json(&self) -> Value {
        let fields = self.0.iter().map(|(element, node)| {
            let mut below = node.children.to_json();
            if node.member && !node.children.is_empty() {
                below["."] = json!({});
            }
            (element.clone(), below)
        });
        Value::Object(fields.collect())
    }

    /// Reads FieldsV1; none if it is none.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        Self::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Option<Self> {
        if depth > DEEPEST {
            return None;
        }
        let mut set = Self::default();
        for (element, below) in value.as_object()?.iter().filter(|(element, _)| *element != ".") {
            let element = match element.split_at_checked(2)? {
                ("f:", _) | ("i:", _) => element.clone(),
                // However the client spaced it.
                ("k:", keys) => keyed(&serde_json::from_str(keys).ok()?),
                ("v:", value) => valued(&serde_json::from_str(value).ok()?),
                _ => return None,
            };
            let children = Self::read(below, depth + 1)?;
            let member = below.get(".").is_some() || children.is_empty();
            set.insert(element, Node { member, children });
        }
        Some(set)
    }
}

pub(super) fn field(name: &str) -> String {
    format!("f:{name}")
}

pub(super) fn keyed(keys: &BTreeMap<String, Value>) -> String {
    format!("k:{}", json!(keys))
}

pub(super) fn valued(value: &Value) -> String {
    format!("v:{value}")
}
