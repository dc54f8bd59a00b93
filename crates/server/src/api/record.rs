//! What a request has changed, or was refused, written down: in the audit log, and of objects in their history.

use http::StatusCode;
use http::header::USER_AGENT;
use http::request::Parts;
use serde_json::json;

use super::caller::{AuditTrail, Caller, WrittenObject};
use super::path::Query;
use super::reply::{Reply, view};
use super::status::Failure;
use crate::audit::{ALLOWED, ANONYMOUS, AuditEntry, AuditFilter, DENIED, diff};
use crate::history::Named;
use crate::objects::ObjectError;
use crate::views::Views;

/// How many entries are shown where nothing is said, and at most.
const SHOWN: u64 = 100;
const MOST_SHOWN: u64 = 10_000;

/// Writes down what came of a request, of which the status and the words of a failure are told. What only reads is not written down, unless it was refused.
pub(super) async fn record(
    views: &Views,
    caller: Option<&Caller>,
    request: &Parts,
    (code, refusal): (StatusCode, &str),
) {
    let denied = matches!(code, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let method = request.method.as_str().to_ascii_lowercase();
    let told = caller.map(Caller::told);
    let Some(told) = told else {
        if denied {
            let object = request.uri.path().to_owned();
            let user = ANONYMOUS.to_owned();
            let reason = refusal.to_owned();
            let entry = AuditEntry { user, verb: method, object, reason, ..about(None, request, code) };
            views.audit.note(AuditEntry { decision: DENIED.to_owned(), ..entry });
        }
        return;
    };
    let AuditTrail { verb, object, subresource, reason, changes, detail } = told;
    let verb = if verb.is_empty() { method } else { verb };
    let object = if object.is_empty() { request.uri.path().to_owned() } else { object };
    let entry = AuditEntry { verb, object, subresource, reason, ..about(caller, request, code) };
    if denied {
        let reason = refusal.to_owned();
        views.audit.write(AuditEntry { decision: DENIED.to_owned(), reason, ..entry.clone() }).await;
    }
    let entry = AuditEntry { decision: ALLOWED.to_owned(), ..entry };
    if let Some(diff) = detail {
        views.audit.write(AuditEntry { diff: Some(diff), ..entry.clone() }).await;
    }
    for change in changes {
        record_change(views, caller, &entry, change).await;
    }
}

async fn record_change(views: &Views, caller: Option<&Caller>, entry: &AuditEntry, change: WrittenObject) {
    let WrittenObject { kind, namespace, name, before, after } = change;
    let mut object = kind.qualified_name();
    for part in [&namespace, &name].into_iter().filter(|part| !part.is_empty()) {
        object.push('/');
        object.push_str(part);
    }
    let diff = after.as_ref().map(|after| diff::between(kind, before.as_ref(), Some(after)));
    views.audit.write(AuditEntry { object, diff, ..entry.clone() }).await;
    let named = Named { kind, namespace: &namespace, name: &name };
    let user = caller.map_or("", |caller| caller.user.name.as_str());
    let kept = async {
        let namespace = views.namespace_uid(&namespace).await?;
        let by = (user, &*entry.verb);
        views
            .history
            .record(named, by, before.as_ref(), after.as_ref(), namespace)
            .await
            .map_err(ObjectError::from)
    };
    if let Err(error) = kept.await {
        tracing::warn!(%error, "a revision of {} \"{name}\" is not kept", kind.qualified_name());
    }
}

/// What is the same of all entries of a request.
fn about(caller: Option<&Caller>, request: &Parts, code: StatusCode) -> AuditEntry {
    let client = request.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    AuditEntry {
        user: caller.map(|caller| caller.user.name.clone()).unwrap_or_default(),
        groups: caller.map(|caller| caller.user.groups.clone()).unwrap_or_default(),
        impersonated_by: caller.and_then(Caller::impersonated_by).map(str::to_owned),
        code: code.as_u16(),
        client: client.to_owned(),
        ..AuditEntry::default()
    }
}

/// `GET /tulle/v1alpha1/audit`
pub(super) async fn show(views: &Views, request: &Parts) -> Result<Reply, Failure> {
    let query = Query::parse(request.uri.query());
    let text = |name: &str| query.get(name).map(str::to_owned);
    let limit = query.number("limit")?.unwrap_or(SHOWN).min(MOST_SHOWN);
    let wanted = AuditFilter {
        denied: query.flag("denied"),
        user: text("user"),
        verb: text("verb"),
        object: text("object"),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let entries = views.audit.read(wanted).await.map_err(|error| {
        let message = format!("the audit log cannot be read: {error}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    })?;
    view(StatusCode::OK, &json!({ "entries": entries }))
}
