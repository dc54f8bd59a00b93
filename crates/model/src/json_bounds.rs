//! How large and how deep JSON may be.

use std::io;

use serde::Serialize;
use serde_json::Value;

/// Whether a value takes no more bytes than that as JSON.
pub fn is_within(value: &Value, most: usize) -> bool {
    serde_json::to_writer(Room(most), value).is_ok()
}

/// How many bytes something takes as JSON.
pub fn size(value: &impl Serialize) -> usize {
    room_after(value, usize::MAX).map_or(usize::MAX, |left| usize::MAX - left)
}

/// What is left of so many bytes, when a value has been written as JSON; `None`: it takes more.
pub fn room_after(value: &impl Serialize, most: usize) -> Option<usize> {
    let mut room = Room(most);
    serde_json::to_writer(&mut room, value).ok()?;
    Some(room.0)
}

/// Whether there are more than `most` arrays and objects within one another. Itself it goes down no further.
pub fn is_deeper(value: &Value, most: usize) -> bool {
    let mut inner: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(fields) => Box::new(fields.values()),
        _ => return false,
    };
    most == 0 || inner.any(|value| is_deeper(value, most - 1))
}

/// The same of JSON that was not read yet: where it is as deep as its reader goes, that says nothing of why.
pub fn is_text_deeper(text: &[u8], most: usize) -> bool {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > most {
            return true;
        }
    }
    false
}

/// Counts what is written, and takes so much.
struct Room(usize);

impl io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::WriteZero)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_as_deep_as_what_they_mean() {
        for text in ["[[1], [2]]", "{\"a\": {\"[[[\": \"\\\"{{{\"}}", "1", "\"[[[\"", "[]", "[{\"a\": []}]"] {
            let value: Value = serde_json::from_str(text).unwrap();
            for most in 0..4 {
                assert_eq!(is_text_deeper(text.as_bytes(), most), is_deeper(&value, most), "{text} {most}");
            }
        }
    }

    #[test]
    fn sizes_are_those_of_what_is_written() {
        for value in [json!(null), json!({ "a": [1, "ü\n"] }), json!([])] {
            let length = value.to_string().len();
            assert_eq!(size(&value), length);
            assert_eq!((is_within(&value, length), is_within(&value, length - 1)), (true, false));
        }
    }
}
