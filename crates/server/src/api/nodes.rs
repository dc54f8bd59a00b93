//! Nodes: objects that come by joining, and whose deletion removes what they ran.

use http::StatusCode;
use serde_json::{Value, json};

use super::caller::Caller;
use super::reply::Reply;
use super::status::Failure;
use super::write::{self, WriteRequest};
use crate::fleet::EvictError;
use crate::objects::DeleteOptions;
use crate::views::Views;

/// Nobody makes a node by writing an object.
pub(super) fn not_made_so() -> Failure {
    Failure::new(
        StatusCode::FORBIDDEN,
        "Forbidden",
        "nodes are not created: they join with a token (`tulle token create`, `tulle node --token`)",
    )
}

/// `DELETE` of a Node: as `tulle delete node`, and with `revoke=true` as `--revoke` of it.
pub(super) async fn delete(
    views: &Views,
    request: &WriteRequest<'_>,
    name: &str,
    content: &[u8],
) -> Result<Reply, Failure> {
    let options = request.delete_options(content)?;
    let kind = request.target.kind;
    // Whether it is there, and what the caller thinks it is.
    let dry = DeleteOptions { dry_run: true, ..options.clone() };
    let object = request.objects.delete(kind, "", name, &dry).await?.object;
    if !options.dry_run {
        let revoke = request.query.flag("revoke");
        remove(views, request.caller, name, revoke).await?;
        request.caller.deleted(kind, &object, true).await;
    }
    Ok(write::deleted(kind, name, &object))
}

/// Removes a node; returns how many workloads it had. What half of it came to is written down, too.
pub(super) async fn remove(
    views: &Views,
    caller: &Caller,
    node: &str,
    revoke: bool,
) -> Result<usize, Failure> {
    let removed = if revoke { views.revoke(node).await } else { views.evict(node).await };
    if let Some(outcome) = outcome(&removed, revoke) {
        caller.note(outcome);
    }
    removed.map_err(failure)
}

/// What has changed, for the audit log; none where nothing has.
fn outcome(removed: &Result<usize, EvictError>, revoke: bool) -> Option<Value> {
    match removed {
        Ok(workloads) => Some(json!({ "revoked": revoke, "workloads": workloads })),
        Err(EvictError::Unknown(_) | EvictError::Connected(_)) => None,
        // Where it failed half-way, the words say what is left.
        Err(error) => Some(json!({ "revoke": revoke, "unfinished": error.to_string() })),
    }
}

fn failure(error: EvictError) -> Failure {
    let message = error.to_string();
    let (code, reason) = match error {
        EvictError::NotRevoked(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        EvictError::Unknown(_) => (StatusCode::NOT_FOUND, "NotFound"),
        EvictError::Connected(_) => (StatusCode::CONFLICT, "Conflict"),
        EvictError::Unfinished { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        EvictError::Remembered { error, .. } => return Failure { message, ..Failure::from(error) },
    };
    Failure::new(code, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn half_a_removal_is_told() {
        let unfinished = EvictError::Unfinished { node: "n1".to_owned(), left: 2 };
        let told = outcome(&Err(unfinished), true).unwrap();
        assert!(told["unfinished"].as_str().unwrap().starts_with("2 workloads"), "{told}");
        assert_eq!(outcome(&Ok(3), false), Some(json!({ "revoked": false, "workloads": 3 })));
        assert_eq!(outcome(&Err(EvictError::Connected("n1".to_owned())), false), None);
    }

    /// Nobody is told that a node is deleted whose object is still there.
    #[test]
    fn an_object_that_stays_is_no_success() {
        let error = EvictError::Remembered { node: "n1".to_owned(), error: StoreError::Closed.into() };
        let failure = failure(error);
        assert_eq!(failure.code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            failure.message.starts_with("the node `n1` is removed, but not its object"),
            "{}",
            failure.message
        );
    }
}
