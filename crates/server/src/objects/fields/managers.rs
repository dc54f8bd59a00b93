//! The managers of an object's fields, through updates and applies.

use serde_json::{Map, Value, json};
use tulle_model::registry::Kind;
use tulle_model::schema;

use super::last_applied;
use super::set::FieldSet;
use super::typed::{self, Difference, SchemaPart};
use crate::objects::{ManagerConflict, ObjectError, Part, metadata};
use crate::timestamp;

/// Metadata of the server's own and names: nobody manages them.
const UNMANAGED: [&str; 11] = [
    "name",
    "namespace",
    "generateName",
    "uid",
    "creationTimestamp",
    "generation",
    "resourceVersion",
    "selfLink",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// More updating managers than this are merged, the oldest first.
const UPDATERS: usize = 10;
const MERGED_UPDATERS: &str = "ancient-changes";

/// How a manager writes.
#[derive(Debug, Clone, Copy)]
pub(in crate::objects) enum ManagerOperation<'a> {
    /// Create, replace, patch: what differs is the manager's.
    Update,
    /// Server-side apply: what is in the config is the manager's.
    Apply { config: &'a Value, force: bool },
}

/// One entry of `metadata.managedFields`.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    manager: String,
    applies: bool,
    subresource: String,
    api_version: String,
    time: String,
    fields: FieldSet,
}

impl Entry {
    fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Self {
            manager: text("manager"),
            applies: match value.get("operation")?.as_str()? {
                "Apply" => true,
                "Update" => false,
                _ => return None,
            },
            subresource: text("subresource"),
            api_version: text("apiVersion"),
            time: text("time"),
            fields: FieldSet::from_json(value.get("fieldsV1")?)?,
        })
    }

    fn to_json(&self) -> Value {
        let mut value = json!({
            "manager": self.manager,
            "operation": if self.applies { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }

    fn is(&self, manager: &str, applies: bool, subresource: &str) -> bool {
        self.manager == manager && self.applies == applies && self.subresource == subresource
    }

    /// As messages write it: `"kubectl" using v1`.
    fn describe(&self) -> String {
        let subresource = if self.subresource.is_empty() {
            String::new()
        } else {
            format!(" with subresource \"{}\"", self.subresource)
        };
        format!("\"{}\"{subresource} using {}", self.manager, self.api_version)
    }
}

/// The entries of an object; none if some cannot be read.
fn read(object: &Value) -> Option<Vec<Entry>> {
    let entries = object.get("metadata")?.get("managedFields")?.as_array()?;
    entries.iter().map(Entry::read).collect()
}

/// The entries to start from: what the caller sent, if it sent any, else what is there. One empty
/// entry means: forget them.
fn base(current: Option<&Value>, object: &Value) -> Vec<Entry> {
    let sent = object.get("metadata").and_then(|metadata| metadata.get("managedFields"));
    let sent = sent.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if let [Value::Object(only)] = sent
        && only.is_empty()
    {
        return Vec::new();
    }
    match read(object) {
        Some(entries) if !entries.is_empty() => entries,
        _ => current.and_then(read).unwrap_or_default(),
    }
}

/// The part of an object whose fields are managed by writes of that part.
pub(super) fn managed(kind: &Kind, object: &Value, part: Part) -> Value {
    let mut managed = object.as_object().cloned().unwrap_or_default();
    managed.remove("apiVersion");
    managed.remove("kind");
    match part {
        Part::Status => managed.retain(|field, _| field == "status"),
        Part::Object if kind.has_status => {
            managed.remove("status");
        }
        Part::Object | Part::Whole => {}
    }
    if let Some(Value::Object(metadata)) = managed.get_mut("metadata") {
        metadata.retain(|field, _| !UNMANAGED.contains(&field.as_str()));
        if metadata.is_empty() {
            managed.remove("metadata");
        }
    }
    Value::Object(managed)
}

fn subresource(part: Part) -> &'static str {
    if part == Part::Status { "status" } else { "" }
}

/// Sets the managers of `object`, which is about to be stored in the place of `current`.
pub(in crate::objects) fn track(
    kind: &'static Kind,
    current: Option<&Value>,
    object: &mut Value,
    manager: &str,
    part: Part,
    operation: ManagerOperation<'_>,
) -> Result<(), ObjectError> {
    let schema = SchemaPart::new(schema::schema(kind));
    let nothing = Value::Object(Map::new());
    let before = current.map_or(nothing, |current| managed(kind, current, part));
    let after = managed(kind, object, part);
    let difference = Difference::between(&before, &after, schema);
    let mut entries = base(current, object);
    let (applies, subresource) = (matches!(operation, ManagerOperation::Apply { .. }), subresource(part));
    let api_version = kind.api_version();
    // Who applies is the same in all versions; who updates is another in each (as in Kubernetes).
    let is_own = |entry: &Entry| {
        entry.is(manager, applies, subresource) && (applies || entry.api_version == api_version)
    };
    let own = entries.iter().position(is_own);
    let mut own = own.map(|index| entries.remove(index));
    let was = own.clone();

    if let ManagerOperation::Apply { force: false, .. } = operation {
        let allowed = current.map(|current| last_applied::may_take_over(kind, current, manager));
        let mut contended = difference.changed.clone();
        contended.subtract(&allowed.unwrap_or_default());
        let conflicts: Vec<ManagerConflict> = entries
            .iter()
            .flat_map(|entry| {
                let fields = entry.fields.intersection(&contended).paths();
                fields.into_iter().map(|field| ManagerConflict { field, manager: entry.describe() })
            })
            .collect();
        if !conflicts.is_empty() {
            let name = metadata::text(object, "name").unwrap_or_default().to_owned();
            return Err(ObjectError::ApplyConflict { kind, name, conflicts });
        }
    }
    if !difference.is_empty() {
        for entry in &mut entries {
            entry.fields.subtract(&difference.changed);
            entry.fields.subtract_with_children(&difference.removed);
        }
        entries.retain(|entry| !entry.fields.is_empty());
    }
    let fields = match operation {
        ManagerOperation::Update => {
            let mut fields = own.take().map(|entry| entry.fields).unwrap_or_default();
            fields.union(&difference.changed);
            fields.subtract_with_children(&difference.removed);
            fields
        }
        ManagerOperation::Apply { config, .. } => {
            typed::fields(&managed(kind, config, part), schema).children
        }
    };
    if !fields.is_empty() {
        let unchanged = was.filter(|was| was.fields == fields && was.api_version == api_version);
        entries.push(unchanged.unwrap_or_else(|| Entry {
            manager: manager.to_owned(),
            applies,
            subresource: subresource.to_owned(),
            api_version,
            time: timestamp::now(),
            fields,
        }));
    }
    merge_oldest(&mut entries);
    entries.sort_by(|a, b| {
        let key = |entry: &Entry| {
            (!entry.applies, entry.time.clone(), entry.manager.clone(), entry.subresource.clone())
        };
        key(a).cmp(&key(b))
    });
    let fields = metadata::of(object);
    if entries.is_empty() {
        fields.remove("managedFields");
    } else {
        let entries = entries.iter().map(Entry::to_json).collect();
        fields.insert("managedFields".to_owned(), entries);
    }
    if let ManagerOperation::Apply { config, .. } = operation {
        last_applied::refresh(object, config, manager);
    }
    Ok(())
}

/// Keeps the number of updating managers bounded.
fn merge_oldest(entries: &mut Vec<Entry>) {
    let updates = |entry: &Entry| !entry.applies && entry.subresource.is_empty();
    while entries.iter().filter(|entry| updates(entry)).count() > UPDATERS {
        let mut oldest: Vec<usize> = (0..entries.len()).filter(|index| updates(&entries[*index])).collect();
        oldest.sort_by(|a, b| entries[*a].time.cmp(&entries[*b].time));
        let (first, second) = (oldest[0], oldest[1]);
        let fields = entries[first].fields.clone();
        entries[second].fields.union(&fields);
        entries[second].manager = MERGED_UPDATERS.to_owned();
        entries.remove(first);
    }
}

/// What is there with the config of an apply; what the manager applied before and no longer does is
/// gone, unless somebody else manages it too.
pub(in crate::objects) fn merge_config(
    kind: &'static Kind,
    current: &Value,
    config: &Value,
    manager: &str,
    part: Part,
) -> Value {
    let schema = SchemaPart::new(schema::schema(kind));
    let mut merged = typed::merge(current, config, schema);
    // What kubectl applied last from its own side counts as applied by it.
    let taken = last_applied::may_take_over(kind, current, manager);
    let mut owned = typed::fields(&managed(kind, config, part), schema).children;
    let mut dropped = taken.clone();
    for mut entry in read(current).unwrap_or_default() {
        if entry.is(manager, true, subresource(part)) {
            dropped.union(&entry.fields);
            continue;
        }
        if entry.is(last_applied::CLIENT_SIDE_MANAGER, false, subresource(part)) {
            entry.fields.subtract(&taken);
        }
        owned.union(&entry.fields);
    }
    typed::prune(&mut merged, &dropped, &owned, schema);
    // They are those of the current object, not something that the config says.
    forget_managers(&mut merged);
    merged
}

/// Where an applied object has two items of the same key: it does not say which of them is to be.
pub(in crate::objects) fn repeated(kind: &'static Kind, config: &Value) -> Option<String> {
    typed::repeated(config, SchemaPart::new(schema::schema(kind)))
}

/// Takes the managers out of an object.
pub(in crate::objects) fn forget_managers(object: &mut Value) {
    metadata::of(object).remove("managedFields");
}
