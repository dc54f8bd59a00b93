//! How large and how deep JSON may be.

use std::io;

use serde_json::Value;

/// Whether a value takes no more bytes than that as JSON.
pub fn is_within(value: &Value, most: usize) -> bool {
    serde_json::to_writer(Room(most), value).is_ok()
}

/// What is left of so many bytes, when a value has been written as JSON; `None`: it takes more.
pub fn room_after(value: &Value, most: usize) -> Option<usize> {
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
