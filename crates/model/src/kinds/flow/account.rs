//! As whom a Flow calls is a choice that takes a right: who chooses has all that the service account may.

use serde_json::Value;

/// The verb that is needed of a service account, in the namespace of the Flow.
pub const USE: &str = "use";
/// The plural of service accounts, which are in the core group. There are no such objects here: roles name them.
pub const SERVICE_ACCOUNTS: &str = "serviceaccounts";

/// The account that whoever writes a Flow must be allowed to use, and the field for which he must: the account is another, or what
/// is done as it. Other fields anybody may change who may change the Flow.
pub fn account_to_use<'a>(current: Option<&Value>, flow: &'a Value) -> Option<(&'static str, &'a str)> {
    let account = account_of(flow);
    let Some(current) = current.filter(|current| account_of(current) == account) else {
        return Some(("spec.serviceAccount", account));
    };
    let is_the_same = current.pointer("/spec/workflow") == flow.pointer("/spec/workflow");
    (!is_the_same).then_some(("spec.workflow", account))
}

fn account_of(flow: &Value) -> &str {
    flow.pointer("/spec/serviceAccount").and_then(Value::as_str).unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_is_used_by_who_chooses_it_or_what_it_does() {
        let flow = |account: Value, workflow: u8, runs: u8| json!({ "spec": { "serviceAccount": account, "workflow": { "do": workflow }, "history": { "runs": runs } } });
        let before = flow(json!("pay"), 1, 1);
        for (current, now, expected) in [
            (None, flow(json!("pay"), 1, 1), Some(("spec.serviceAccount", "pay"))),
            (None, flow(Value::Null, 1, 1), Some(("spec.serviceAccount", "default"))),
            (Some(&before), before.clone(), None),
            (Some(&before), flow(json!("pay"), 1, 2), None),
            (Some(&before), flow(json!("pay"), 2, 1), Some(("spec.workflow", "pay"))),
            (Some(&before), flow(json!("other"), 1, 1), Some(("spec.serviceAccount", "other"))),
            (Some(&before), flow(Value::Null, 2, 1), Some(("spec.serviceAccount", "default"))),
            (Some(&flow(json!("default"), 1, 1)), flow(Value::Null, 1, 1), None),
        ] {
            assert_eq!(account_to_use(current, &now), expected, "{now}");
        }
    }
}
