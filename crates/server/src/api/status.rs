//! Failures, as the `Status` objects of the Kubernetes API (meta/v1, Status).

use http::StatusCode;
use serde_json::{Value, json};
use tulle_model::rbac::{ApiAction, ResourceAction};

use crate::objects::{FieldProblem, ManagerConflict, ObjectError};
use crate::store::StoreError;

/// An answer that is not what was asked for.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) code: StatusCode,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// `details` of the Status: name, group, kind, causes, retryAfterSeconds.
    pub(super) details: Option<Value>,
}

impl Failure {
    pub(super) fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// The path leads nowhere.
    pub(super) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "Unauthorized: present a client certificate of this server's API authority, as the server's kubeconfig has it, or a token that is good",
        )
    }

    /// No role allows it. The words are Kubernetes'.
    pub(super) fn forbidden(user: &str, action: &ApiAction<'_>) -> Self {
        let reason = Self::reason(user, action);
        let (what, details) = match action {
            ApiAction::Path { .. } => ("forbidden".to_owned(), json!({})),
            ApiAction::Resource(ResourceAction { group, resource, name, .. }) => {
                let qualified =
                    if group.is_empty() { (*resource).to_owned() } else { format!("{resource}.{group}") };
                let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
                let details = json!({ "name": name, "group": group, "kind": resource });
                (format!("{qualified}{named} is forbidden"), details)
            }
        };
        let failure = Self::new(StatusCode::FORBIDDEN, "Forbidden", format!("{what}: {reason}"));
        Self { details: Some(details), ..failure }
    }

    /// `User "ann" cannot list resource "services" in API group "" in the namespace "shop"`.
    pub(super) fn reason(user: &str, action: &ApiAction<'_>) -> String {
        match action {
            ApiAction::Path { verb, path } => format!("User \"{user}\" cannot {verb} path \"{path}\""),
            ApiAction::Resource(ResourceAction { verb, group, resource, subresource, namespace, .. }) => {
                let resource = match *subresource {
                    "" => (*resource).to_owned(),
                    subresource => format!("{resource}/{subresource}"),
                };
                let scope = match *namespace {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace \"{namespace}\""),
                };
                format!(
                    "User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}"
                )
            }
        }
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub(super) fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    }

    pub(super) fn unsupported_media_type(found: &str, accepted: &[&str]) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format \"{found}\" - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(super) fn too_many_requests(message: impl Into<String>) -> Self {
        let mut failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        failure.details = Some(json!({ "retryAfterSeconds": 1 }));
        failure
    }

    /// The `Status` object.
    pub(super) fn object(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        let message = error.to_string();
        let resource = |kind: &tulle_model::registry::Kind, name: &str| {
            let mut details = json!({ "name": name, "kind": kind.plural });
            if !kind.group.is_empty() {
                details["group"] = kind.group.into();
            }
            details
        };
        let (code, reason, details) = match &error {
            ObjectError::NotFound { kind, name } => {
                (StatusCode::NOT_FOUND, "NotFound", Some(resource(kind, name)))
            }
            ObjectError::AlreadyExists { kind, name } => {
                (StatusCode::CONFLICT, "AlreadyExists", Some(resource(kind, name)))
            }
            ObjectError::Conflict { kind, name, .. } => {
                (StatusCode::CONFLICT, "Conflict", Some(resource(kind, name)))
            }
            ObjectError::ApplyConflict { kind, name, conflicts } => {
                let mut details = resource(kind, name);
                details["causes"] = conflicts.iter().map(apply_cause).collect();
                (StatusCode::CONFLICT, "Conflict", Some(details))
            }
            ObjectError::Invalid { kind, name, problems } => {
                let mut details = resource(kind, name);
                details["kind"] = kind.kind.into();
                details["causes"] = problems.iter().map(cause).collect();
                (StatusCode::UNPROCESSABLE_ENTITY, "Invalid", Some(details))
            }
            ObjectError::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequest", None),
            ObjectError::Forbidden { kind, name, .. } => {
                (StatusCode::FORBIDDEN, "Forbidden", Some(resource(kind, name)))
            }
            ObjectError::Expired(_) => (StatusCode::GONE, "Expired", None),
            ObjectError::Store(StoreError::Full(_)) => {
                (StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", None)
            }
            ObjectError::Store(
                StoreError::Closed | StoreError::ReadOnly(_) | StoreError::Reopening | StoreError::Io(_),
            ) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", None),
            ObjectError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError", None),
        };
        Self { code, reason, message, details }
    }
}

fn cause(problem: &FieldProblem) -> Value {
    json!({ "reason": problem.reason, "message": problem.message, "field": problem.field })
}

fn apply_cause(conflict: &ManagerConflict) -> Value {
    json!({
        "reason": "FieldManagerConflict",
        "message": format!("conflict with {}", conflict.manager),
        "field": conflict.field,
    })
}
