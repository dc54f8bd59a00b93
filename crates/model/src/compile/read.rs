//! From an object to its form.

use serde_json::Value;

use super::InvalidObject;
use crate::name::NamespacedName;
use crate::registry::Kind;
use crate::validate::field::{Errors, Field, Read, Unreadable};
use crate::validate::validate;

/// How many errors of an object its status tells.
pub(super) const MOST_TOLD: usize = 3;

/// The form of an object, or what is wrong with it.
pub(super) fn checked<F>(
    kind: &Kind,
    object: &Value,
    check: fn(&Field<'_>, &mut Errors) -> Read<F>,
) -> Result<F, InvalidObject> {
    check(&Field::root(object), &mut Errors::default()).map_err(|Unreadable| {
        let errors = validate(kind, object);
        let Some((first, more)) = errors.split_first() else {
            return InvalidObject { field: "object".to_owned(), problem: "it cannot be read".to_owned() };
        };
        let mut problem = first.message.clone();
        problem.extend(more.iter().take(MOST_TOLD - 1).map(|error| format!("; {error}")));
        if more.len() >= MOST_TOLD {
            problem.push_str(&format!("; and {} more", more.len() + 1 - MOST_TOLD));
        }
        InvalidObject { field: first.path.to_string(), problem }
    })
}

/// The name of an object, read even where the rest of it cannot be.
pub(super) fn name_of(object: &Value, namespaced: bool) -> NamespacedName {
    let text = |field| object.pointer(field).and_then(Value::as_str);
    let namespace = if namespaced { text("/metadata/namespace").unwrap_or("default") } else { "" };
    NamespacedName::new(namespace, text("/metadata/name").unwrap_or_default())
}
