//! Who set which field: `metadata.managedFields` and server-side apply.
//!
//! [`set`] holds sets of field paths in the form that clients see (FieldsV1), [`typed`] compares and
//! merges objects by their schema, [`managers`] keeps the sets of each manager through updates and
//! applies. The rules are those of Kubernetes (KEP-555, structured-merge-diff).

mod last_applied;
mod managers;
mod set;
#[cfg(test)]
mod tests;
mod typed;

pub(super) use managers::{ManagerOperation, forget_managers, merge_config, repeated, track};
