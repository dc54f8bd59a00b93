//! Reading objects: get, and lists with selectors and pages.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use super::path::{Query, Target};
use super::render::Rendering;
use super::reply::{self, Reply};
use super::selector::Selector;
use super::status::Failure;
use crate::objects::{Objects, Page, Position};

/// How many objects are looked at together when a list shows but some of them.
const SEARCHED: usize = 500;

/// `GET` of one object.
pub(super) async fn get(
    objects: &Objects,
    target: &Target,
    name: &str,
    rendering: Rendering,
) -> Result<Reply, Failure> {
    let object = objects.require(target.kind, target.namespace(), name).await?;
    Ok(reply::json(StatusCode::OK, &rendering.object(target.kind, object)))
}

/// `GET` of many objects.
pub(super) async fn list(
    objects: &Objects,
    target: &Target,
    query: &Query,
    rendering: Rendering,
) -> Result<Reply, Failure> {
    let selector = Selector::parse(query, target.kind)?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut page = first_page(objects, query, limit).await?;
    let mut items = Vec::new();
    let (revision, next) = loop {
        let missing = limit.map(|limit| limit - items.len());
        page.limit = if selector.is_empty() { missing } else { missing.map(|missing| missing.max(SEARCHED)) };
        let list = objects.list_page(target.kind, target.namespace.as_deref(), &page).await;
        let list = list.map_err(|error| {
            let failure = Failure::from(error);
            if query.get("continue").is_some() && failure.code == StatusCode::GONE {
                Failure::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
                )
            } else {
                failure
            }
        })?;
        let mut found = list.items.into_iter();
        while limit.is_none_or(|limit| items.len() < limit)
            && let Some(object) = found.find(|object| selector.matches(object))
        {
            items.push(object);
        }
        let more = list.next.is_some() || found.len() > 0;
        if !more {
            break (list.revision, None);
        }
        if limit.is_some_and(|limit| items.len() >= limit) {
            break (list.revision, items.last().map(Position::of));
        }
        page.after = list.next;
        page.revision = Some(list.revision);
    };
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if let Some(next) = next {
        metadata["continue"] = encode_continue(revision, &next).into();
    }
    Ok(reply::json(StatusCode::OK, &rendering.list(target.kind, items, metadata)))
}

/// Where a list starts, and the revision that it shows.
async fn first_page(objects: &Objects, query: &Query, limit: Option<usize>) -> Result<Page, Failure> {
    let version = query.number("resourceVersion")?;
    let matching = query.get("resourceVersionMatch");
    if let Some(token) = query.get("continue") {
        if matching.is_some() {
            return Err(Failure::bad_request("resourceVersionMatch is forbidden with continue"));
        }
        let (revision, after) = decode_continue(token).ok_or_else(|| {
            Failure::bad_request("continue key is not valid: it is not one that this server made")
        })?;
        return Ok(Page { after: Some(after), limit, revision: Some(revision) });
    }
    let exact = match (matching, version) {
        (Some("Exact"), Some(version)) if version > 0 => true,
        (Some("Exact"), _) => {
            return Err(Failure::bad_request(
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\" or unset",
            ));
        }
        (Some("NotOlderThan"), Some(_)) => false,
        (Some("NotOlderThan"), None) => {
            return Err(Failure::bad_request(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        (Some(other), _) => {
            return Err(Failure::bad_request(format!(
                "resourceVersionMatch must be Exact or NotOlderThan, not \"{other}\""
            )));
        }
        (None, Some(version)) => version > 0 && limit.is_some(),
        (None, None) => false,
    };
    check_not_too_new(objects, version).await?;
    Ok(Page { after: None, limit, revision: version.filter(|_| exact) })
}

/// Refuses a version that this server has not got to yet, so that the client asks again.
pub(super) async fn check_not_too_new(objects: &Objects, version: Option<u64>) -> Result<(), Failure> {
    let current = objects.revision().await?;
    match version {
        Some(version) if version > current => {
            let message = format!("Timeout: Too large resource version: {version}, current: {current}");
            let mut failure = Failure::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
            failure.details = Some(json!({
                "retryAfterSeconds": 1,
                "causes": [{
                    "reason": "ResourceVersionTooLarge",
                    "message": "Too large resource version",
                }],
            }));
            Err(failure)
        }
        _ => Ok(()),
    }
}

/// The token by which a client asks for the rest of a list.
fn encode_continue(revision: u64, after: &Position) -> String {
    let token = json!({ "rv": revision, "namespace": after.namespace, "name": after.name });
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn decode_continue(token: &str) -> Option<(u64, Position)> {
    let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let text = |field: &str| token.get(field)?.as_str().map(str::to_owned);
    let after = Position { namespace: text("namespace")?, name: text("name")? };
    Some((token.get("rv")?.as_u64()?, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_are_read_back() {
        let after = Position { namespace: "shop".to_owned(), name: "c".to_owned() };
        assert_eq!(decode_continue(&encode_continue(7, &after)), Some((7, after)));
        for bad in ["", "!", "e30"] {
            assert_eq!(decode_continue(bad), None, "{bad}");
        }
    }
}
