//! What a Secret must be (the rules of Kubernetes' own validation), and what it is given.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::kinds::values::{LARGEST, NO_NAME, is_immutable, is_name};
use crate::validate::field::{Code, Errors, Field, FieldError};

pub(super) fn check(secret: &Field<'_>, errors: &mut Errors) {
    let mut size = 0;
    let data = secret.get("data");
    for (name, value) in data.iter().filter_map(|data| data.value.as_object()).flatten() {
        let path = secret.path.field("data").key(name.clone());
        // Values are not for messages.
        let mut refuse = |code, message: &str| {
            errors.0.push(FieldError { path: path.clone(), code, message: message.to_owned(), value: None });
        };
        if !is_name(name) {
            refuse(Code::Invalid, NO_NAME);
        }
        match value.as_str().map(|text| STANDARD.decode(text)) {
            Some(Ok(bytes)) => size += bytes.len(),
            Some(Err(_)) => refuse(Code::Invalid, "is not base64; plain text belongs into `stringData`"),
            None => {}
        }
    }
    if size > LARGEST {
        let path = secret.path.field("data");
        let message = format!("its values have {size} bytes; at most {LARGEST} are allowed");
        errors.0.push(FieldError { path, code: Code::TooLong, message, value: None });
    }
    if secret.get_str("type") == Some("kubernetes.io/tls") {
        for name in ["tls.crt", "tls.key"] {
            if data.as_ref().is_none_or(|data| data.value.get(name).is_none()) {
                errors.required(secret.path.field("data").key(name), "is missing: the type demands it");
            }
        }
    }
}

pub(super) fn check_update(old: &Field<'_>, new: &Field<'_>, errors: &mut Errors) {
    let mut refuse = |name: &'static str, message: &str| {
        let path = new.path.field(name);
        errors.0.push(FieldError { path, code: Code::Forbidden, message: message.to_owned(), value: None });
    };
    if old.get_str("type") != new.get_str("type") {
        refuse("type", "cannot change: delete the Secret, and make another");
    }
    if is_immutable(old) && !is_immutable(new) {
        refuse("immutable", "cannot be taken back");
    }
    if is_immutable(old) && old.value.get("data") != new.value.get("data") {
        refuse("data", "cannot change, as `immutable` is set");
    }
}

/// `stringData` becomes a part of `data`.
pub(super) fn fill_defaults(secret: &mut Value) {
    let Some(fields) = secret.as_object_mut() else { return };
    let Some(Value::Object(texts)) = fields.get("stringData") else { return };
    if !texts.values().all(Value::is_string) {
        return;
    }
    let encoded: Vec<_> = texts
        .iter()
        .filter_map(|(name, text)| Some((name.clone(), Value::from(STANDARD.encode(text.as_str()?)))))
        .collect();
    let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    if let Some(data) = data.as_object_mut() {
        data.extend(encoded);
        fields.remove("stringData");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::registry::KindId;
    use crate::validate::{default_object, validate, validate_update};

    use super::*;

    fn secret(more: &Value) -> Value {
        let mut secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } });
        for (name, value) in more.as_object().into_iter().flatten() {
            secret[name] = value.clone();
        }
        secret
    }

    #[test]
    fn what_is_wrong_is_said_without_the_value() {
        let kind = KindId::Secret.kind();
        for (more, field) in [
            (json!({ "data": { "key": "aHVudGVyMg==" } }), None),
            (json!({ "data": { "key": "hunter2!" } }), Some("data[key]")),
            (json!({ "data": { "a/b": "aHVudGVyMg==" } }), Some("data[a/b]")),
            (json!({ "data": { "..": "aHVudGVyMg==" } }), Some("data[..]")),
            (json!({ "data": { "key": STANDARD.encode(vec![0; LARGEST]) } }), None),
            (json!({ "data": { "key": STANDARD.encode(vec![0; LARGEST + 1]) } }), Some("data")),
            (json!({ "type": "kubernetes.io/tls", "data": { "tls.crt": "" } }), Some("data[tls.key]")),
        ] {
            let errors = validate(kind, &secret(&more));
            let found = errors.first().map(|error| error.path.to_string());
            assert_eq!(found.as_deref(), field, "{errors:?}");
            assert!(errors.iter().all(|error| error.value.is_none() && !error.message.contains("hunter")));
        }
    }

    #[test]
    fn texts_become_data_and_what_is_immutable_stays() {
        let kind = KindId::Secret.kind();
        let mut made = secret(&json!({ "stringData": { "key": "v" }, "data": { "other": "dg==" } }));
        default_object(kind, &mut made);
        assert_eq!(made["data"], json!({ "key": "dg==", "other": "dg==" }));
        assert_eq!((&made["type"], made.get("stringData")), (&json!("Opaque"), None));
        let old = secret(&json!({ "type": "Opaque", "immutable": true, "data": { "key": "dg==" } }));
        for (more, refused) in [
            (json!({ "type": "Opaque", "immutable": true, "data": { "key": "dg==" } }), None),
            (json!({ "type": "Opaque", "immutable": true, "data": { "key": "dw==" } }), Some("data")),
            (json!({ "type": "Opaque", "data": { "key": "dg==" } }), Some("immutable")),
            (json!({ "type": "other", "immutable": true, "data": { "key": "dg==" } }), Some("type")),
        ] {
            let errors = validate_update(kind, &old, &secret(&more));
            assert_eq!(errors.first().map(|e| e.path.to_string()).as_deref(), refused, "{more}");
        }
    }
}
