//! Objects as rows of tables, with the columns that `kubectl get` shows: what the tables of the kinds are made of.

use jiff::Timestamp;
use serde_json::Value;

/// A column of a table (meta.k8s.io/v1, TableColumnDefinition).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// An OpenAPI type: `string` or `integer`.
    pub type_: &'static str,
    /// `name` for the column of the object's name, else empty.
    pub format: &'static str,
    /// 0: always shown; above: only in wide output.
    pub priority: i32,
    pub description: &'static str,
}

/// The table of a kind.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub columns: &'static [Column],
    /// The cells of an object's row, as many as there are columns.
    pub row: fn(&Value, Timestamp) -> Vec<String>,
}

pub(crate) const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, type_: "string", format: "", priority: 0, description }
}

pub(crate) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { priority: 1, ..text(name, description) }
}

pub(crate) const NAME: Column = Column { format: "name", ..text("Name", "The name of the object.") };
pub(crate) const AGE: Column = text("Age", "How long ago the object was created.");

/// The name of an object.
pub(crate) fn name(object: &Value) -> String {
    string(object, "/metadata/name").unwrap_or_default().to_owned()
}

pub(crate) fn string<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

pub(crate) fn joined<S: AsRef<str>>(items: impl Iterator<Item = S>) -> String {
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(item.as_ref());
    }
    text
}

pub(crate) fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

pub(crate) fn age(object: &Value, now: Timestamp) -> String {
    let created = string(object, "/metadata/creationTimestamp").and_then(|t| t.parse::<Timestamp>().ok());
    match created {
        Some(created) => duration(now.as_second() - created.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds as kubectl prints them: two units at most, and one where the second does not matter.
pub fn duration(seconds: i64) -> String {
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_kubectls() {
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (30 * 86400, "30d"),
            (731 * 86400, "2y1d"),
            (10 * 365 * 86400, "10y"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
