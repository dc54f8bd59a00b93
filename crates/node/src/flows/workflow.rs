//! Workflows, as the server tells them.

use std::sync::Arc;

use serde_json::Value;
use tulle_model::flow::parse;
use tulle_model::flow::workflow::Workflow;

/// `Err` says what is the matter with it, as a part of a sentence.
pub(super) fn read_workflow(document: &[u8]) -> Result<Arc<Workflow>, String> {
    let document: Value = serde_json::from_slice(document).map_err(|error| format!("is no JSON: {error}"))?;
    let workflow = parse(&document).map_err(|errors| {
        let first = errors.first().map(|error| format!("{}: {}", error.path, error.message));
        format!("cannot be read: {}", first.unwrap_or_default())
    })?;
    Ok(Arc::new(workflow))
}
