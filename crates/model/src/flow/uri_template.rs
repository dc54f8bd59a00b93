//! URI templates: the first level of RFC 6570, as the DSL has them (dsl-reference.md, URI Template).

use std::fmt::Write as _;

use serde_json::Value;

use super::workflow::{UriPart, UriTemplate};
use crate::validate::field::shown;

impl UriTemplate {
    /// Reads a text in which names of fields stand in braces.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, from) = rest.split_at(at);
            let Some(inside) = from.strip_prefix('{') else {
                return Err("has a `}` without a `{` before it".to_owned());
            };
            if literal.ends_with('$') {
                return Err(
                    "has an expression within other text: make the whole text one, `${ \"https://shop/\\(.id)\" }`"
                        .to_owned(),
                );
            }
            let Some((name, after)) = inside.split_once('}') else {
                return Err("has a `{` without a `}` after it".to_owned());
            };
            push_literal(&mut parts, literal)?;
            if let Some(problem) = name_problem(name) {
                return Err(format!("has `{{{}}}`, {problem}", name.escape_debug()));
            }
            parts.push(UriPart::Field(name.into()));
            rest = after;
        }
        push_literal(&mut parts, rest)?;
        Ok(Self(parts))
    }

    /// The URI, with the fields of `values` in their places. One that is not there, or null, leaves nothing (dsl-reference.md, URI Template).
    ///
    /// # Errors
    /// A sentence that names the field which is neither text, number, true nor false, or which would lead to another path.
    pub fn expand(&self, values: &Value) -> Result<String, String> {
        let (mut uri, mut last) = (String::new(), None);
        for part in &self.0 {
            match part {
                UriPart::Literal(text) => uri.push_str(text),
                UriPart::Field(name) => {
                    last = Some(name);
                    match values.get(&**name) {
                        None | Some(Value::Null) => {}
                        Some(Value::String(text)) => push_encoded(&mut uri, text),
                        Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                            push_encoded(&mut uri, &value.to_string());
                        }
                        Some(other) => {
                            return Err(format!(
                                "`{{{name}}}` is {}: expected a text, a number, true or false",
                                shown(other)
                            ));
                        }
                    }
                }
            }
        }
        match last {
            // Of unreserved characters all: encoded or not, they are taken away (RFC 3986, sections 5.2.4 and 6.2.2.2).
            Some(name) if has_dot_segment(&uri) => Err(format!(
                "`{{{name}}}` makes a `.` or `..` of a part of the path, which leads to another one"
            )),
            _ => Ok(uri),
        }
    }
}

fn push_literal(parts: &mut Vec<UriPart>, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    if let Some(bad) = text.chars().find(|c| c.is_control() || " \"<>\\^`|".contains(*c)) {
        return Err(format!("has {bad:?}, which stands in no URI: write it percent-encoded"));
    }
    let mut literal = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_ascii() {
            literal.push(char);
        } else {
            push_encoded(&mut literal, char.encode_utf8(&mut [0; 4]));
        }
    }
    parts.push(UriPart::Literal(literal.into()));
    Ok(())
}

/// What makes a text no name of a field (RFC 6570, section 2.3; a `-` is let pass, as names of fields have it).
fn name_problem(name: &str) -> Option<&'static str> {
    let Some(first) = name.chars().next() else { return Some("which names no field") };
    if "+#./;?&=,!@|".contains(first) {
        return Some("an operator of RFC 6570: only `{name}` is there");
    }
    if name.contains(',') {
        return Some("a list: only `{name}` is there, one name in each pair of braces");
    }
    if name.contains([':', '*']) {
        return Some("a modifier of RFC 6570: only `{name}` is there");
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '%');
    (!name.chars().all(good)).then_some("which is no name of a field: letters, digits, `_`, `-` and `.` are")
}

/// A text, with all percent-encoded that is not unreserved.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    push_encoded(&mut encoded, text);
    encoded
}

/// Appends a text, with all percent-encoded that is not unreserved (RFC 6570, section 3.2.1).
fn push_encoded(uri: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
}

/// Whether a part of its path is `.` or `..`.
fn has_dot_segment(uri: &str) -> bool {
    let path = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    path.split('/').skip(1).any(|segment| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        segment == "." || segment == ".."
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn expanded(template: &str, values: Value) -> Result<String, String> {
        UriTemplate::parse(template).expect(template).expand(&values)
    }

    #[test]
    fn fields_stand_in_their_places() {
        let values = json!({
            "id": 7, "name": "a b/c?d", "ok": true, "none": null, "pet.id": "x", "half": 1.5, "umlaut": "ü", "far-away": "y",
        });
        for (template, uri) in [
            ("http://pets/{id}", "http://pets/7"),
            ("http://pets/{name}/x", "http://pets/a%20b%2Fc%3Fd/x"),
            ("http://pets/?ok={ok}&half={half}", "http://pets/?ok=true&half=1.5"),
            ("http://pets/{missing}{none}", "http://pets/"),
            ("http://pets/{pet.id}/{far-away}", "http://pets/x/y"),
            ("http://pets/{umlaut}/ö", "http://pets/%C3%BC/%C3%B6"),
            ("http://{id}/%7B", "http://7/%7B"),
            ("http://pets/../x", "http://pets/../x"),
            ("", ""),
        ] {
            assert_eq!(expanded(template, values.clone()).as_deref(), Ok(uri), "{template}");
        }
        assert_eq!(expanded("http://a/{x}", json!([1])).as_deref(), Ok("http://a/"));
    }

    #[test]
    fn fields_do_not_change_the_rest_of_the_uri() {
        for value in ["evil/", "a@b", "x:80", "?a=b", "#f", "\r\n", "%2F", "{id}"] {
            let uri = expanded("http://shop/{id}/end", json!({ "id": value })).expect(value);
            let middle =
                uri.strip_prefix("http://shop/").and_then(|rest| rest.strip_suffix("/end")).expect(&uri);
            let plain = |c: char| c.is_ascii_alphanumeric() || "%-._~".contains(c);
            assert!(middle.chars().all(plain), "{value}: {uri}");
        }
        for values in [json!({ "id": ".." }), json!({ "id": "." }), json!({ "id": ".", "b": "." })] {
            for template in [
                "http://shop/a/{id}{b}",
                "http://shop/{id}{b}/x",
                "http://shop/{id}{b}?x",
                "http://s/%2e{id}",
            ] {
                let message = expanded(template, values.clone());
                let leaves = template.contains("%2e") && values["id"] == "..";
                assert_eq!(message.is_err(), !leaves, "{template} {values} {message:?}");
            }
        }
        assert_eq!(expanded("http://shop/{id}", json!({ "id": "..." })).as_deref(), Ok("http://shop/..."));
    }

    #[test]
    fn objects_and_lists_have_no_place() {
        for value in [json!({}), json!([1])] {
            let message = expanded("http://shop/{id}", json!({ "id": value })).expect_err("no text");
            assert!(message.contains("`{id}` is"), "{message}");
        }
    }

    #[test]
    fn what_is_no_template_of_the_first_level_says_why() {
        for (template, expected) in [
            ("http://a/{", "without a `}`"),
            ("http://a/}", "without a `{`"),
            ("http://a/{}", "names no field"),
            ("http://a/{+path}", "an operator"),
            ("http://a{/path}", "an operator"),
            ("http://a{?q}", "an operator"),
            ("http://a/{x,y}", "a list"),
            ("http://a/{x:3}", "a modifier"),
            ("http://a/{x*}", "a modifier"),
            ("http://a/{ x }", "no name of a field"),
            ("http://a/{{x}}", "no name of a field"),
            ("http://a/${ .x }", "an expression within other text"),
            ("http://a/b c", "' '"),
            ("http://a/\n", "'\\n'"),
        ] {
            let message = UriTemplate::parse(template).expect_err(template);
            assert!(message.contains(expected), "{template}: {message}");
        }
    }
}
