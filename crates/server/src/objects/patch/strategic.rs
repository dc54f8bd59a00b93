//! Strategic merge patches: like RFC 7386, but lists of objects merge by the key that the schema
//! names, and directives (`$patch`, `$retainKeys`, `$setElementOrder/…`,
//! `$deleteFromPrimitiveList/…`) say what a merge cannot.

use serde_json::{Map, Value};

use crate::objects::ObjectError;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";

/// Merges a patch into an object.
pub(super) fn merge(object: &mut Value, patch: &Value, schema: Option<&Value>) -> Result<(), ObjectError> {
    let Value::Object(patch) = patch else {
        return Err(ObjectError::BadRequest("the patch must be an object".to_owned()));
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    match object {
        Value::Object(object) => merge_map(object, patch, schema),
        _ => Ok(()),
    }
}

fn merge_map(
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Value>,
) -> Result<(), ObjectError> {
    match directive(patch)? {
        Some(Directive::Replace) => {
            *object = patch.clone();
            object.remove(PATCH);
            return Ok(());
        }
        Some(Directive::Delete) => {
            object.clear();
            return Ok(());
        }
        Some(Directive::Merge) | None => {}
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained = list(RETAIN_KEYS, retained)?;
        object.retain(|key, _| retained.iter().any(|kept| kept == key));
    }
    for (key, wanted) in patch {
        if let Some(field) = key.strip_prefix(DELETE_VALUES) {
            let gone = list(key, wanted)?;
            if let Some(Value::Array(items)) = object.get_mut(field) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !key.starts_with('$') {
            merge_field(object, key, wanted, property(schema, key))?;
        }
    }
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ORDER)
            && let Some(Value::Array(items)) = object.get_mut(field)
        {
            reorder(items, list(key, order)?, merge_key(property(schema, field)));
        }
    }
    Ok(())
}

fn merge_field(
    object: &mut Map<String, Value>,
    key: &str,
    wanted: &Value,
    schema: Option<&Value>,
) -> Result<(), ObjectError> {
    match wanted {
        Value::Null => {
            object.remove(key);
        }
        Value::Object(patch) => {
            if matches!(directive(patch)?, Some(Directive::Delete)) {
                object.remove(key);
            } else {
                merge(object.entry(key).or_insert(Value::Null), wanted, schema)?;
            }
        }
        Value::Array(patch) if merges(schema) => {
            let current = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            let mut items = match current.take() {
                Value::Array(items) => items,
                _ => Vec::new(),
            };
            merge_list(&mut items, patch, schema)?;
            *current = Value::Array(items);
        }
        wanted => {
            object.insert(key.to_owned(), wanted.clone());
        }
    }
    Ok(())
}

fn merge_list(items: &mut Vec<Value>, patch: &[Value], schema: Option<&Value>) -> Result<(), ObjectError> {
    let Some(key) = merge_key(schema) else {
        for wanted in patch {
            if !items.contains(wanted) {
                items.push(wanted.clone());
            }
        }
        return Ok(());
    };
    let below = schema.and_then(|schema| schema.get("items"));
    let mut directives = Vec::with_capacity(patch.len());
    for wanted in patch {
        let Value::Object(wanted) = wanted else {
            return Err(ObjectError::BadRequest(format!(
                "the items of a list that is merged by {key} must be objects"
            )));
        };
        directives.push((wanted, directive(wanted)?));
    }
    if directives.iter().any(|(_, directive)| matches!(directive, Some(Directive::Replace))) {
        items.clear();
    }
    for (wanted, directive) in directives {
        let Some(identity) = wanted.get(key) else {
            if matches!(directive, Some(Directive::Replace)) {
                continue;
            }
            return Err(ObjectError::BadRequest(format!(
                "map does not contain the merge key {key}: {}",
                Value::Object(wanted.clone())
            )));
        };
        let position = items.iter().position(|item| item.get(key) == Some(identity));
        match (directive, position) {
            (Some(Directive::Delete), _) => items.retain(|item| item.get(key) != Some(identity)),
            (_, Some(index)) => merge(&mut items[index], &Value::Object(wanted.clone()), below)?,
            (_, None) => {
                let mut new = Value::Null;
                merge(&mut new, &Value::Object(wanted.clone()), below)?;
                items.push(new);
            }
        }
    }
    Ok(())
}

/// Puts the items that `order` names in that order; others come after them.
fn reorder(items: &mut [Value], order: &[Value], key: Option<&str>) {
    let position = |item: &Value| {
        let same = |wanted: &Value| match key {
            Some(key) => wanted.get(key).is_some() && wanted.get(key) == item.get(key),
            None => wanted == item,
        };
        order.iter().position(same).unwrap_or(usize::MAX)
    };
    items.sort_by_key(position);
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Option<Directive>, ObjectError> {
    match patch.get(PATCH) {
        None => Ok(None),
        Some(Value::String(text)) if text == "merge" => Ok(Some(Directive::Merge)),
        Some(Value::String(text)) if text == "replace" => Ok(Some(Directive::Replace)),
        Some(Value::String(text)) if text == "delete" => Ok(Some(Directive::Delete)),
        Some(other) => Err(ObjectError::BadRequest(format!(
            "$patch must be \"merge\", \"replace\" or \"delete\", not {other}"
        ))),
    }
}

fn list<'a>(directive: &str, value: &'a Value) -> Result<&'a [Value], ObjectError> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| ObjectError::BadRequest(format!("{directive} must be a list")))
}

fn property<'a>(schema: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    let schema = schema?;
    let named = schema.get("properties").and_then(|properties| properties.get(name));
    named.or_else(|| schema.get("additionalProperties"))
}

fn merges(schema: Option<&Value>) -> bool {
    let strategy =
        schema.and_then(|schema| schema.get("x-kubernetes-patch-strategy")).and_then(Value::as_str);
    strategy.is_some_and(|strategy| strategy.split(',').any(|part| part == "merge"))
}

fn merge_key(schema: Option<&Value>) -> Option<&str> {
    schema?.get("x-kubernetes-patch-merge-key")?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tulle_model::registry::KindId;
    use tulle_model::schema;

    use super::*;

    fn patched(patch: Value) -> Value {
        let mut service = json!({
            "metadata": { "labels": { "a": "1", "b": "2" }, "finalizers": ["x/a", "x/b"] },
            "spec": {
                "ports": [
                    { "port": 80, "name": "http", "targetPort": 8080 },
                    { "port": 90, "name": "admin" },
                ],
                "externalIPs": ["192.0.2.1"],
            },
        });
        merge(&mut service, &patch, Some(schema::schema(KindId::Service.kind()))).unwrap();
        service
    }

    #[test]
    fn lists_merge_by_their_key() {
        let service = patched(json!({ "spec": { "ports": [
            { "port": 90, "name": "metrics" }, { "port": 80, "$patch": "delete" }, { "port": 70, "name": "new" },
        ] } }));
        assert_eq!(
            service["spec"]["ports"],
            json!([{ "port": 90, "name": "metrics" }, { "port": 70, "name": "new" }])
        );
        let service = patched(json!({ "spec": {
            "ports": [{ "port": 70 }],
            "$setElementOrder/ports": [{ "port": 70 }, { "port": 90 }, { "port": 80 }],
        } }));
        let ports: Vec<_> = service["spec"]["ports"].as_array().unwrap().iter().map(|p| &p["port"]).collect();
        assert_eq!(ports, [70, 90, 80]);
        let service = patched(json!({ "spec": { "ports": [{ "$patch": "replace" }, { "port": 1 }] } }));
        assert_eq!(service["spec"]["ports"], json!([{ "port": 1 }]));
    }

    #[test]
    fn maps_follow_their_directives() {
        let service = patched(json!({ "metadata": {
            "labels": { "a": null, "c": "3" },
            "$deleteFromPrimitiveList/finalizers": ["x/a"],
            "finalizers": ["x/c"],
        } }));
        assert_eq!(service["metadata"]["labels"], json!({ "b": "2", "c": "3" }));
        let mut finalizers: Vec<_> = service["metadata"]["finalizers"].as_array().unwrap().clone();
        finalizers.sort_by_key(|finalizer| finalizer.to_string());
        assert_eq!(finalizers, ["x/b", "x/c"]);
        let service = patched(json!({ "metadata": { "labels": { "$patch": "replace", "c": "3" } } }));
        assert_eq!(service["metadata"]["labels"], json!({ "c": "3" }));
        let service = patched(json!({ "metadata": { "labels": { "$patch": "delete" } } }));
        assert_eq!(service["metadata"].get("labels"), None);
        let service = patched(json!({ "spec": { "$retainKeys": ["ports"] } }));
        assert_eq!(service["spec"].get("externalIPs"), None);
        let service = patched(json!({ "spec": { "externalIPs": ["192.0.2.2"] } }));
        assert_eq!(service["spec"]["externalIPs"], json!(["192.0.2.2"]));
    }

    #[test]
    fn wrong_patches_are_refused() {
        for patch in [
            json!([]),
            json!({ "$patch": "other" }),
            json!({ "spec": { "ports": [{ "name": "x" }] } }),
            json!({ "spec": { "ports": [1] } }),
            json!({ "spec": { "$retainKeys": 1 } }),
        ] {
            let mut service = json!({});
            let schema = Some(schema::schema(KindId::Service.kind()));
            assert!(merge(&mut service, &patch, schema).is_err(), "{patch}");
        }
    }
}
