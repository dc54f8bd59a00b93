//! How large a document may be, before anything else looks at it.

use serde_json::Value;

use super::Reader;
use crate::json_bounds::is_within;
use crate::validate::field::{Code, Field, Read, Unreadable};

/// In bytes, as JSON without spaces.
pub const LARGEST: usize = 256 << 10;
/// Objects and lists within each other.
pub const DEEPEST: usize = 100;

pub(super) fn check(reader: &mut Reader<'_>, document: &Field<'_>) -> Read<()> {
    let problem = if is_too_deep(document.value) {
        format!("has objects and lists more than {DEEPEST} deep within each other")
    } else if !is_within(document.value, LARGEST) {
        format!("is too large: a document has at most {} KiB as JSON", LARGEST >> 10)
    } else {
        return Ok(());
    };
    // Without the value, which is what is too large.
    reader.problem(&Field { path: document.path.clone(), value: &Value::Null }, Code::TooLong, problem);
    Err(Unreadable)
}

/// Does not call itself, as it looks at what may be too deep for that.
fn is_too_deep(value: &Value) -> bool {
    let mut left = vec![(value, 0)];
    while let Some((value, depth)) = left.pop() {
        if depth > DEEPEST {
            return true;
        }
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => left.extend(fields.values().map(|field| (field, depth + 1))),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_within_bounds_ends_where_they_do() {
        let text = |length: usize| Value::from("x".repeat(length - 2));
        assert!(is_within(&text(LARGEST), LARGEST));
        assert!(!is_within(&text(LARGEST + 1), LARGEST));
        let deep = |depth: usize| (0..depth).fold(json!(1), |value, _| json!([value]));
        assert!(!is_too_deep(&deep(DEEPEST)));
        assert!(is_too_deep(&deep(DEEPEST + 1)));
    }
}
