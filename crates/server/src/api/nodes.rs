//! Nodes: objects that come by joining, and whose deletion removes what they ran.

use http::StatusCode;

use super::reply::Reply;
use super::status::Failure;
use super::write;
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
    request: &write::Request<'_>,
    name: &str,
    content: &[u8],
) -> Result<Reply, Failure> {
    let options = request.delete_options(content)?;
    let kind = request.target.kind;
    // Whether it is there, and what the caller thinks it is.
    let dry = DeleteOptions { dry_run: true, ..options.clone() };
    let object = request.objects.delete(kind, "", name, &dry).await?.object;
    if !options.dry_run {
        remove(views, name, request.query.flag("revoke")).await?;
    }
    Ok(write::deleted(kind, name, &object))
}

/// Removes a node; returns how many workloads it had.
pub(super) async fn remove(views: &Views, node: &str, revoke: bool) -> Result<usize, Failure> {
    let removed = if revoke { views.revoke(node).await } else { views.evict(node).await };
    removed.map_err(|error| {
        let (code, reason) = match &error {
            EvictError::NotRevoked(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            EvictError::Unknown(_) => (StatusCode::NOT_FOUND, "NotFound"),
            EvictError::Connected(_) => (StatusCode::CONFLICT, "Conflict"),
            EvictError::Unfinished { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        };
        Failure::new(code, reason, error.to_string())
    })
}
