//! Texts as YAML has them: without quotes where they say the same.

use serde_json::Value;
use tulle_model::document::parse;

/// A value of a field in block style.
pub fn block(text: &str) -> String {
    let plain = |text: &str| format!("a: {text}");
    written(text, |text| is_read(&plain(text), |value| value["a"].clone(), text))
}

/// A value in a list or an object in brackets.
pub fn flow(text: &str) -> String {
    // It must not end what it stands in.
    let plain = |text: &str| format!("[{text}, x]");
    let item = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([first, _]) => first.clone(),
        _ => Value::Null,
    };
    written(text, |text| is_read(&plain(text), item, text))
}

pub fn flow_list<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<_> = items.iter().map(|item| flow(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// Whether YAML reads a text as itself, or as a number or truth value, which are passed as they are written.
fn is_read(yaml: &str, value: impl Fn(&Value) -> Value, text: &str) -> bool {
    let Some(document) = parse(yaml).ok().and_then(|mut documents| documents.pop()) else { return false };
    match value(&document.value) {
        Value::String(read) => read == text,
        Value::Number(_) | Value::Bool(_) => true,
        _ => false,
    }
}

fn written(text: &str, is_read: impl Fn(&str) -> bool) -> String {
    let is_simple = !text.contains(|c: char| c.is_control() || c == '\u{feff}');
    let begins =
        text.starts_with(['&', '*', '!', '"', '\'', '#', '|', '>', '%', '@', '`', '-', '?', '[', '{', ' ']);
    let has_dash = text.len() > 1 && text.starts_with('-') && !text.starts_with("- ") && text != "---";
    if is_simple && (!begins || has_dash) && !text.ends_with(' ') && is_read(text) {
        return text.to_owned();
    }
    if is_simple {
        return format!("'{}'", text.replace('\'', "''"));
    }
    json(&Value::from(text))
}

/// A value as JSON, with all escaped that YAML does not take as it is.
pub fn json(value: &Value) -> String {
    let is_escaped = |c: char| c.is_control() || c == '\u{feff}';
    let text = value.to_string();
    let escaped = text.chars().map(|c| match is_escaped(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_what_they_are() {
        for text in [
            "a",
            "./web -v",
            "",
            " ",
            "a: b",
            "a #b",
            "#a",
            "- a",
            "-v",
            "--x=y",
            "---",
            "null",
            "~",
            "'",
            "\"",
            "it's",
            "${A:-b}",
            "http://a:80/?b=c&d",
            "*",
            "a\nb\n",
            "\t",
            "[a",
            "a, b",
            "{a}",
            "a]",
            "%a",
            "@a",
            "`a`",
            "ä",
            "!x",
            "? a",
            "a:",
            "yes",
            "true",
            "022",
            "1.50",
            "1e999",
            ".inf",
            "\\n",
            "a\u{7f}b",
            "<<",
            "=",
            "a\u{85}b",
        ] {
            let same = |value: &Value, written: &str| match value {
                Value::String(read) => read == text,
                other => (other.is_number() || other.is_boolean()) && written == text,
            };
            let written = block(text);
            let read =
                parse(&format!("x:\n  a: {written}\n  b: c\n")).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert!(same(&read[0].value["x"]["a"], &written), "{text:?}: {written}");
            let list = flow_list(&[text, "x"]);
            let read = parse(&list).unwrap_or_else(|e| panic!("{list}: {e}"));
            let written = flow(text);
            assert!(same(&read[0].value[0], &written) && read[0].value[1] == "x", "{text:?}: {list}");
        }
        assert_eq!(flow_list(&["./web", "-p", "${PORT}", "80"]), "[./web, -p, '${PORT}', 80]");
        assert_eq!(block("./web -p ${PORT}"), "./web -p ${PORT}");
    }
}
