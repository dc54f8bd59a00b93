//! JSON patches (RFC 6902), bounded: a few operations can nest a value, or double it, without end.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;
use tulle_model::document::DEEPEST;

/// The most operations in a patch (as in Kubernetes).
const OPERATIONS: usize = 10_000;
/// How much copies and moves may handle, in values and bytes of text.
const HANDLED: usize = 4 << 20;

/// Reads a patch; the error says why it is none.
pub(super) fn read(text: &[u8]) -> Result<json_patch::Patch, String> {
    let patch: json_patch::Patch =
        serde_json::from_slice(text).map_err(|error| format!("the body is not a JSON patch: {error}"))?;
    match patch.0.len() {
        count if count > OPERATIONS => {
            Err(format!("the JSON patch has {count} operations; at most {OPERATIONS} are allowed"))
        }
        _ => Ok(patch),
    }
}

/// Patches an object. After an error it is of no use.
pub(super) fn apply(object: &mut Value, patch: &json_patch::Patch) -> Result<(), String> {
    let mut handled = 0;
    for (index, operation) in patch.0.iter().enumerate() {
        check(object, operation, &mut handled).map_err(|problem| format!("operation {index}: {problem}"))?;
        // One at a time: it is checked against what the ones before have left.
        json_patch::patch_unsafe(object, std::slice::from_ref(operation)).map_err(|error| {
            let problem = match error.kind {
                PatchErrorKind::TestFailed => "the test failed".to_owned(),
                kind => kind.to_string(),
            };
            format!("operation {index} at \"{}\": {problem}", error.path)
        })?;
    }
    Ok(())
}

fn check(object: &Value, operation: &PatchOperation, handled: &mut usize) -> Result<(), String> {
    let (path, value) = match operation {
        PatchOperation::Add(operation) => (&operation.path, Some(&operation.value)),
        PatchOperation::Replace(operation) => (&operation.path, Some(&operation.value)),
        PatchOperation::Copy(operation) => (&operation.path, object.pointer(operation.from.as_str())),
        PatchOperation::Move(operation) => (&operation.path, object.pointer(operation.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    // Where there is nothing to copy or move, the patch fails by itself.
    let Some(value) = value else { return Ok(()) };
    let (size, height) = measure(value);
    if path.count() + height > DEEPEST {
        return Err(format!("the result is nested too deeply: at most {DEEPEST} levels are allowed"));
    }
    if matches!(operation, PatchOperation::Copy(_) | PatchOperation::Move(_)) {
        *handled += size;
        if *handled > HANDLED {
            return Err("the patch copies and moves too much".to_owned());
        }
    }
    Ok(())
}

/// How many values and bytes of text there are, and in how many levels.
fn measure(value: &Value) -> (usize, usize) {
    let add = |(size, height): (usize, usize), (name, below): (&str, &Value)| {
        let (below_size, below_height) = measure(below);
        (size + name.len() + below_size, height.max(below_height))
    };
    let (size, height) = match value {
        Value::String(text) => (text.len(), 0),
        Value::Array(items) => items.iter().map(|item| ("", item)).fold((0, 0), add),
        Value::Object(fields) => fields.iter().map(|(name, item)| (name.as_str(), item)).fold((0, 0), add),
        _ => (0, 0),
    };
    (size + 1, height + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut object: Value, patch: Value) -> Result<Value, String> {
        let patch = read(patch.to_string().as_bytes())?;
        apply(&mut object, &patch).map(|()| object)
    }

    #[test]
    fn patches_are_bounded() {
        let doubling: Vec<_> =
            (0..60).map(|i| json!({ "op": "copy", "from": "/spec", "path": format!("/spec/{i}") })).collect();
        let error = patched(json!({ "spec": { "a": 1 } }), json!(doubling)).unwrap_err();
        assert!(error.contains("too deeply") || error.contains("too much"), "{error}");

        let wide: Vec<_> = (0..60).map(|_| json!({ "op": "copy", "from": "/a", "path": "/a/-" })).collect();
        assert!(patched(json!({ "a": [1] }), json!(wide)).is_err());

        let mut path = String::new();
        let deeper: Vec<_> = (0..10_000)
            .map(|_| {
                path.push_str("/a");
                json!({ "op": "add", "path": path.get(..path.len().min(200)), "value": { "a": {} } })
            })
            .collect();
        let error = patched(json!({}), json!(deeper)).unwrap_err();
        assert!(error.contains("too deeply"), "{error}");
        let mut hanging = json!([{ "op": "add", "path": "/x", "value": {} }]);
        for i in 0..5_000 {
            let list = hanging.as_array_mut().unwrap();
            list.push(json!({ "op": "add", "path": format!("/n{i}"), "value": {} }));
            let from = if i == 0 { "/x".to_owned() } else { format!("/n{}", i - 1) };
            list.push(json!({ "op": "move", "from": from, "path": format!("/n{i}/x") }));
        }
        assert!(patched(json!({}), hanging).is_err());
        let many = vec![json!({ "op": "remove", "path": "/a" }); OPERATIONS + 1];
        assert!(patched(json!({}), json!(many)).unwrap_err().contains("at most 10000"));
    }

    #[test]
    fn operations_follow_each_other() {
        let patch = json!([
            { "op": "test", "path": "/a/0", "value": 1 },
            { "op": "add", "path": "/a/-", "value": 2 },
            { "op": "move", "from": "/a", "path": "/b" },
            { "op": "copy", "from": "/b/1", "path": "/c" },
            { "op": "remove", "path": "/b/0" },
            { "op": "replace", "path": "/b", "value": [3] },
        ]);
        assert_eq!(patched(json!({ "a": [1] }), patch), Ok(json!({ "b": [3], "c": 2 })));
        let test = json!([{ "op": "test", "path": "/a", "value": 2 }]);
        assert_eq!(
            patched(json!({ "a": 1 }), test),
            Err("operation 0 at \"/a\": the test failed".to_owned())
        );
        let gone = json!([{ "op": "remove", "path": "/b" }]);
        assert!(patched(json!({ "a": 1 }), gone).unwrap_err().starts_with("operation 0 at \"/b\""));
    }
}
