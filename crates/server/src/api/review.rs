//! Who am I, and may I: reviews that are answered at once (`kubectl auth whoami`, `kubectl auth can-i`).

use http::StatusCode;
use serde_json::{Value, json};

use super::path::Review;
use super::reply::{self, Reply};
use super::user::User;

pub(super) fn answer(review: Review, user: &User, mut request: Value) -> Reply {
    request["status"] = match review {
        // Whoever got past authentication is an administrator.
        Review::Access => json!({ "allowed": true, "reason": "administrators may do everything" }),
        Review::Rules => json!({
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
            "incomplete": false,
        }),
        Review::Subject => json!({ "userInfo": { "username": user.name, "groups": user.groups } }),
    };
    reply::json(StatusCode::CREATED, &request)
}
