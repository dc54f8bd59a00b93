//! Who am I, and may I: reviews that are answered at once (`kubectl auth whoami`, `kubectl auth can-i`).

use http::StatusCode;
use serde_json::{Value, json};
use tulle_model::rbac::{ApiAction, Asker, Permit, ResourceAction};

use super::caller::Caller;
use super::path::Review;
use super::reply::{self, Reply};
use super::status::Failure;

pub(super) fn answer(review: Review, caller: &Caller, mut request: Value) -> Result<Reply, Failure> {
    request["status"] = match review {
        Review::Access => access(caller, caller.user.asker(), &request)?,
        Review::AccessOf => {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let groups = request["spec"]["groups"].as_array().into_iter().flatten().map(text);
            let (name, groups) = (text(&request["spec"]["user"]), groups.collect::<Vec<_>>());
            if name.is_empty() && groups.is_empty() {
                return Err(Failure::bad_request(
                    "spec.user: at least one of user or groups must be specified",
                ));
            }
            access(caller, Asker { name: &name, groups: &groups }, &request)?
        }
        Review::Rules => {
            let namespace = request["spec"]["namespace"].as_str().unwrap_or_default();
            rules(caller, namespace)
        }
        Review::Subject => {
            json!({ "userInfo": { "username": caller.user.name, "groups": caller.user.groups } })
        }
    };
    Ok(reply::json(StatusCode::CREATED, &request))
}

fn access(caller: &Caller, asker: Asker<'_>, request: &Value) -> Result<Value, Failure> {
    let spec = &request["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let of = |attributes: &Value, field: &str| attributes[field].as_str().unwrap_or_default().to_owned();
    let [verb, group, name, plural, subresource, namespace] =
        ["verb", "group", "name", "resource", "subresource", "namespace"].map(|field| of(resource, field));
    let (of_path, path_verb) = (of(path, "path"), of(path, "verb"));
    let action = match (resource.is_object(), path.is_object()) {
        (true, false) => ApiAction::Resource(ResourceAction {
            verb: &verb,
            group: &group,
            resource: &plural,
            subresource: &subresource,
            namespace: &namespace,
            name: &name,
        }),
        (false, true) => ApiAction::Path { verb: &path_verb, path: &of_path },
        _ => {
            return Err(Failure::bad_request(
                "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    Ok(match caller.access().decide(asker, &action) {
        Some(permit @ Permit::Administrator) => json!({ "allowed": true, "reason": permit.to_string() }),
        Some(permit) => json!({ "allowed": true, "reason": format!("RBAC: allowed by {permit}") }),
        None => json!({ "allowed": false }),
    })
}

fn rules(caller: &Caller, namespace: &str) -> Value {
    if caller.user.asker().is_administrator() {
        return json!({
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
            "incomplete": false,
        });
    }
    let shown = caller.access().with(|rbac| {
        let rules = rbac.rules(caller.user.asker(), namespace).into_iter().map(|rule| json!(rule));
        // What paths a role in a namespace names, it does not give.
        let everywhere = rbac.rules(caller.user.asker(), "").into_iter().map(|rule| json!(rule));
        let resources: Vec<_> = rules.filter(|rule| rule.get("resources").is_some()).collect();
        let paths: Vec<_> = everywhere.filter(|rule| rule.get("nonResourceURLs").is_some()).collect();
        (resources, paths)
    });
    json!({ "resourceRules": shown.0, "nonResourceRules": shown.1, "incomplete": false })
}
