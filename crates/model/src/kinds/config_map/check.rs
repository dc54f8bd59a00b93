//! What a ConfigMap must be (the rules of Kubernetes' own validation).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::kinds::values::{LARGEST, NO_NAME, is_immutable, is_name};
use crate::validate::field::{Code, Errors, Field};

pub(super) fn check(map: &Field<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (name, value) in map.entries("data") {
        check_name(name, &value, errors);
        size += value.str().map_or(0, str::len);
    }
    for (name, value) in map.entries("binaryData") {
        check_name(name, &value, errors);
        if map.value.pointer("/data").is_some_and(|data| data.get(name).is_some()) {
            errors.push(&value, Code::Duplicate, "has the name of a value in `data`");
        }
        match value.str().map(|text| STANDARD.decode(text)) {
            Some(Ok(bytes)) => size += bytes.len(),
            Some(Err(_)) => errors.invalid(&value, "is not base64; text belongs into `data`"),
            None => {}
        }
    }
    if size > LARGEST
        && let Some(data) = map.get("data").or_else(|| map.get("binaryData"))
    {
        let message = format!("all values together have {size} bytes; at most {LARGEST} are allowed");
        errors.push(&data, Code::TooLong, message);
    }
}

fn check_name(name: &str, value: &Field<'_>, errors: &mut Errors) {
    if !is_name(name) {
        errors.invalid(value, NO_NAME);
    }
}

pub(super) fn check_update(old: &Field<'_>, new: &Field<'_>, errors: &mut Errors) {
    if !is_immutable(old) {
        return;
    }
    if !is_immutable(new) {
        errors.push(new, Code::Forbidden, "`immutable` cannot be taken back");
    }
    for name in ["data", "binaryData"] {
        if old.value.get(name) != new.value.get(name) {
            errors.push(new, Code::Forbidden, format!("`{name}` cannot change, as `immutable` is set"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::registry::KindId;
    use crate::validate::{validate, validate_update};

    use super::*;

    fn map(more: &Value) -> Value {
        let mut map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" } });
        for (name, value) in more.as_object().into_iter().flatten() {
            map[name] = value.clone();
        }
        map
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (more, field) in [
            (json!({}), None),
            (json!({ "data": { "ca.crt": "x" }, "binaryData": { "b": "eA==" } }), None),
            (json!({ "data": { "a/b": "x" } }), Some("data[a/b]")),
            (json!({ "data": { "a": "x" }, "binaryData": { "a": "eA==" } }), Some("binaryData[a]")),
            (json!({ "binaryData": { "b": "no base64!" } }), Some("binaryData[b]")),
            (json!({ "data": { "a": "x".repeat(LARGEST) } }), None),
            (json!({ "data": { "a": "x".repeat(LARGEST + 1) } }), Some("data")),
        ] {
            let errors = validate(KindId::ConfigMap.kind(), &map(&more));
            assert_eq!(errors.first().map(|error| error.path.to_string()).as_deref(), field, "{errors:?}");
        }
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = map(&json!({ "immutable": true, "data": { "a": "x" } }));
        for (more, errors) in [
            (json!({ "immutable": true, "data": { "a": "x" } }), 0),
            (json!({ "immutable": true, "data": { "a": "y" } }), 1),
            (json!({ "data": { "a": "x" } }), 1),
        ] {
            let found = validate_update(KindId::ConfigMap.kind(), &old, &map(&more));
            assert_eq!(found.len(), errors, "{more}: {found:?}");
        }
    }
}
