//! Has nothing of a secret be kept or shown: its value is `***` wherever it comes back.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Uri;
use serde_json::{Map, Value};
use tulle_model::flow::fault::Fault;
use tulle_model::flow::uri_template::encoded;

const MASK: &str = "***";
/// The shortest value that is looked for, in bytes: shorter ones stand in texts by chance.
const SHORTEST: usize = 4;
/// What shows that a text was cut off.
const CUT: char = '…';

/// The beginning of what others say. Where it is cut off, it says so, for a secret's beginning to be masked.
pub(super) fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}{CUT}", &text[..at]),
        None => text.to_owned(),
    }
}

/// A text as it stands in JSON, as writers differ in what they escape: no more than they must; `/` as well (PHP); what means
/// something in HTML (Go); all that is not ASCII (Python, PHP).
fn in_json(text: &str) -> [String; 5] {
    let json = Value::from(text).to_string();
    let least = &json[1..json.len() - 1];
    let escaped = |is: fn(char) -> bool| -> String {
        let mut all = String::new();
        for char in least.chars() {
            match is(char) {
                true => {
                    let mut units = [0; 2];
                    for unit in char.encode_utf16(&mut units) {
                        all += &format!("\\u{unit:04x}");
                    }
                }
                false => all.push(char),
            }
        }
        all
    };
    let is_foreign = |char: char| !char.is_ascii();
    let php = escaped(is_foreign).replace('/', "\\/");
    [
        least.to_owned(),
        least.replace('/', "\\/"),
        escaped(|char| "&<>\u{2028}\u{2029}".contains(char)),
        escaped(is_foreign),
        php,
    ]
}

/// What is not to be shown: values of secrets, in the forms that they are sent and answered in.
pub(super) struct Masks {
    /// The longest first: some are parts of others.
    forms: Vec<String>,
}

impl Masks {
    /// Those of Secrets, by name and key.
    pub(super) fn of(secrets: &Value) -> Self {
        let mut masks = Self { forms: Vec::new() };
        let secrets = secrets.as_object().into_iter().flat_map(Map::values);
        let texts = secrets.filter_map(Value::as_object).flat_map(Map::values).filter_map(Value::as_str);
        texts.for_each(|text| masks.add(text));
        masks
    }

    pub(super) fn add(&mut self, secret: &str) {
        // Files end with a line break that is left out where they are used.
        for value in [secret, secret.trim()] {
            let forms = [value.to_owned(), encoded(value), STANDARD.encode(value)];
            for form in forms.into_iter().chain(in_json(value)) {
                if value.len() >= SHORTEST && !self.forms.contains(&form) {
                    self.forms.push(form);
                }
            }
        }
        self.forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    pub(super) fn masked<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut masked = Cow::Borrowed(text);
        for form in &self.forms {
            if masked.contains(&**form) {
                masked = Cow::Owned(masked.replace(&**form, MASK));
            }
        }
        if masked.contains(CUT) {
            masked = Cow::Owned(self.without_beginnings(&masked));
        }
        masked
    }

    /// The path of a URI as it may be shown; `None`: as it is.
    pub(super) fn shown_path(&self, uri: &Uri) -> Option<Arc<str>> {
        match self.masked(uri.path()) {
            Cow::Owned(masked) => Some(masked.into()),
            Cow::Borrowed(_) => None,
        }
    }

    /// Of what was cut off, a secret's beginning may be left.
    fn without_beginnings(&self, text: &str) -> String {
        let mut parts: Vec<String> = text.split(CUT).map(str::to_owned).collect();
        let before_cuts = parts.len() - 1;
        for part in &mut parts[..before_cuts] {
            let begins = |form: &String| {
                let lengths = (SHORTEST..form.len()).rev().filter(|end| form.is_char_boundary(*end));
                lengths.into_iter().find(|end| part.ends_with(&form[..*end]))
            };
            if let Some(length) = self.forms.iter().filter_map(begins).max() {
                part.truncate(part.len() - length);
                part.push_str(MASK);
            }
        }
        parts.join(&CUT.to_string())
    }

    /// Texts within a value, its keys, and numbers that are a secret as a whole.
    pub(super) fn mask(&self, value: &mut Value) {
        if self.forms.is_empty() {
            return;
        }
        match value {
            Value::String(text) => {
                if let Cow::Owned(masked) = self.masked(text) {
                    *text = masked;
                }
            }
            Value::Number(number) => {
                let text = number.to_string();
                if text.len() >= SHORTEST && self.forms.contains(&text) {
                    *value = MASK.into();
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask(item)),
            Value::Object(fields) => {
                fields.values_mut().for_each(|field| self.mask(field));
                if fields.keys().any(|key| matches!(self.masked(key), Cow::Owned(_))) {
                    let all = std::mem::take(fields).into_iter();
                    *fields = all.map(|(key, field)| (self.masked(&key).into_owned(), field)).collect();
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    pub(super) fn of_fault(&self, fault: Fault) -> Fault {
        Fault {
            title: self.masked(&fault.title).as_ref().into(),
            detail: fault.detail.map(|detail| self.masked(&detail).as_ref().into()),
            ..fault
        }
    }

    /// Bytes that may be a text in some part.
    pub(super) fn of_bytes(&self, bytes: Bytes) -> Bytes {
        if self.forms.is_empty() {
            return bytes;
        }
        let mut masked: Vec<u8> = Vec::new();
        let mut rest = &bytes[..];
        // All forms have four bytes at least, and few bytes begin one.
        let begins: [bool; 256] =
            std::array::from_fn(|byte| self.forms.iter().any(|form| usize::from(form.as_bytes()[0]) == byte));
        while let Some(at) = rest.iter().position(|byte| begins[usize::from(*byte)]) {
            masked.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            match self.forms.iter().find(|form| rest.starts_with(form.as_bytes())) {
                Some(form) => {
                    masked.extend_from_slice(MASK.as_bytes());
                    rest = &rest[form.len()..];
                }
                None => {
                    masked.push(rest[0]);
                    rest = &rest[1..];
                }
            }
        }
        if masked.is_empty() {
            return bytes;
        }
        masked.extend_from_slice(rest);
        masked.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tulle_model::flow::fault::FaultKind;

    use super::*;

    fn masks() -> Masks {
        Masks::of(&json!({
            "pay": { "token": "s3cr&t \"x\"", "pin": "48271", "short": "abc", "line": "hush-hush\n", "path": "/ü/key" },
        }))
    }

    #[test]
    fn a_secret_is_masked_in_each_of_its_forms() {
        let masks = masks();
        for (text, expected) in [
            ("you said s3cr&t \"x\"!", "you said ***!"),
            ("{\"a\":\"s3cr&t \\\"x\\\"\"}", "{\"a\":\"***\"}"),
            ("/?t=s3cr%26t%20%22x%22&b", "/?t=***&b"),
            ("czNjciZ0ICJ4Ig==", "***"),
            ("abc and pins", "abc and pins"),
            (r#"{"a":"s3cr\u0026t \"x\""}"#, r#"{"a":"***"}"#),
            (
                r#"{"a":"\/\u00fc\/key"} {"a":"/\u00fc/key"} {"a":"\/ü\/key"}"#,
                r#"{"a":"***"} {"a":"***"} {"a":"***"}"#,
            ),
            ("hush-hush hush-hush\n", "*** ***"),
            ("given s3cr&…", "given ***…"),
            ("given s3…, hush-h…", "given s3…, ***…"),
        ] {
            assert_eq!(masks.masked(text), expected);
            if !text.contains('…') {
                let bytes = masks.of_bytes(Bytes::copy_from_slice(text.as_bytes()));
                assert_eq!(String::from_utf8_lossy(&bytes), expected);
            }
        }
    }

    #[test]
    fn paths_and_beginnings_show_no_secret() {
        let masks = masks();
        let shown = |uri: &'static str| masks.shown_path(&Uri::from_static(uri));
        assert_eq!(shown("http://pay/48271/s3cr%26t%20%22x%22?a=48271").as_deref(), Some("/***/***"));
        assert_eq!(shown("http://pay/a?b=48271"), None);
        assert_eq!(beginning("no such client", 14), "no such client");
        let cut = beginning("you said hush-hush", 15);
        assert_eq!((&*cut, &*masks.masked(&cut)), ("you said hush-h…", "you said ***…"));
    }

    #[test]
    fn a_secret_is_masked_within_values_and_errors() {
        let masks = masks();
        let mut value = json!({ "hush-hush": ["48271", 48271, 482710, { "a": "x 48271" }], "b": 1 });
        masks.mask(&mut value);
        assert_eq!(value, json!({ "***": ["***", "***", 482710, { "a": "x ***" }], "b": 1 }));
        let fault = Fault { title: "48271".into(), ..FaultKind::Runtime.fault("no 48271 there") };
        let fault = masks.of_fault(fault);
        assert_eq!((&*fault.title, fault.detail.as_deref()), ("***", Some("no *** there")));
        let none = Masks::of(&json!({}));
        assert_eq!(none.of_bytes(Bytes::from_static(b"abcd")), "abcd");
        assert_eq!(none.masked("ab…"), "ab…");
    }
}
