//! What ConfigMaps and Secrets have in common: values by their names (the rules of Kubernetes' own validation).

use crate::validate::field::Field;

/// How many bytes all values of an object together may have.
pub(super) const LARGEST: usize = 1 << 20;

/// What is said of a name that [`is_name`] does not take.
pub(super) const NO_NAME: &str = "is no name of a value: letters, digits, `-`, `_` and `.` are";

pub(super) fn is_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 253 && name.bytes().all(good) && name != "." && name != ".."
}

/// Whether an object says that its values do not change.
pub(super) fn is_immutable(object: &Field<'_>) -> bool {
    object.value.get("immutable").is_some_and(|immutable| immutable.as_bool() == Some(true))
}
