//! The entries of a status for what its object is attached to: the parents of a route, the targets of a policy.

use serde::Serialize;
use serde_json::{Value, json};
use tulle_model::compile::StatusCondition;

use crate::publication::Progress;

/// As statuses name us.
pub const CONTROLLER_NAME: &str = "tulle.dev/mesh";

/// What a node does that refuses a route.
pub(super) const REFUSES: &str = "refuses it";

/// Status, reason and message.
pub(super) type ProgrammedCondition = (bool, &'static str, String);

/// All of our entries in a status.
pub(super) struct Entries {
    /// The field of the status.
    pub(super) list: &'static str,
    /// The field of an entry that says what it is about.
    pub(super) reference: &'static str,
    pub(super) entries: Vec<StatusEntry>,
}

/// One of them.
pub(super) struct StatusEntry {
    reference: Value,
    conditions: Vec<StatusCondition>,
}

impl StatusEntry {
    /// What the compiler says, and of what is in force how far the nodes are.
    pub(super) fn new(
        reference: &impl Serialize,
        conditions: &[StatusCondition],
        programmed: Option<ProgrammedCondition>,
    ) -> Self {
        let mut conditions = conditions.to_vec();
        if let Some((status, reason, message)) = programmed {
            let observed_generation = conditions.first().and_then(|c| c.observed_generation);
            let kind = "Programmed";
            conditions.push(StatusCondition { kind, status, reason, message, observed_generation });
        }
        Self { reference: serde_json::to_value(reference).unwrap_or_default(), conditions }
    }
}

/// Brings our entries in a status up to date. Times change only with the condition's status.
pub(super) fn merge(status: &mut Value, wanted: &Entries, now: &str) {
    let before = status[wanted.list].as_array().cloned().unwrap_or_default();
    let (ours, mut entries): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|entry| entry["controllerName"] == CONTROLLER_NAME);
    for StatusEntry { reference, conditions } in &wanted.entries {
        let old = ours.iter().find(|entry| entry[wanted.reference] == *reference);
        let old = old.and_then(|entry| entry["conditions"].as_array());
        entries.push(json!({
            (wanted.reference): reference,
            "controllerName": CONTROLLER_NAME,
            "conditions": merged(old, conditions, now),
        }));
    }
    status[wanted.list] = Value::Array(entries);
}

/// Conditions in the place of the old ones. Times change only with the condition's status.
pub(super) fn merged(old: Option<&Vec<Value>>, conditions: &[StatusCondition], now: &str) -> Value {
    let conditions = conditions.iter().map(|wanted| {
        let status = if wanted.status { "True" } else { "False" };
        let same = |c: &&Value| c["type"] == wanted.kind && c["status"] == status;
        let since = old.and_then(|conditions| conditions.iter().find(same));
        let since = since.map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
        let mut condition = json!({
            "type": wanted.kind,
            "status": status,
            "reason": wanted.reason,
            "message": wanted.message,
            "lastTransitionTime": since,
        });
        if let Some(generation) = wanted.observed_generation {
            condition["observedGeneration"] = json!(generation);
        }
        condition
    });
    conditions.collect()
}

/// What the condition `Programmed` says; `refuses`: what nodes do that refuse it.
pub(super) fn programmed(progress: &Progress, refuses: &str) -> ProgrammedCondition {
    let Progress { nodes, confirmed, refused } = progress;
    let count = format!("Programmed on {confirmed} of {nodes} nodes");
    if let Some((node, why)) = refused.first() {
        let more =
            if refused.len() > 1 { format!(" (and {} more)", refused.len() - 1) } else { String::new() };
        return (false, "Refused", format!("{count}; the node {node} {refuses}: {why}{more}"));
    }
    match (*nodes, *confirmed) {
        // Every node that uses the service has it; who waits for the condition must not wait for traffic.
        (0, _) => (true, "Programmed", format!("{count}: no node uses the service yet")),
        (nodes, confirmed) if confirmed == nodes => (true, "Programmed", count),
        _ => (false, "Pending", count),
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::kinds::route::ParentReference;

    use super::*;

    #[test]
    fn times_change_with_the_status_only_and_others_entries_stay() {
        let parent = ParentReference {
            group: Some(String::new()),
            kind: Some("Service".to_owned()),
            name: "cart".to_owned(),
            ..Default::default()
        };
        let accepted = StatusCondition {
            kind: "Accepted",
            status: true,
            reason: "Accepted",
            message: "ok".to_owned(),
            observed_generation: Some(2),
        };
        let foreign = json!({ "controllerName": "example.com/other", "parentRef": { "name": "gw" } });
        let mut status = json!({ "parents": [foreign] });
        let progress = |nodes, confirmed| {
            let programmed = programmed(&Progress { nodes, confirmed, refused: vec![] }, REFUSES);
            let entry = StatusEntry::new(&parent, std::slice::from_ref(&accepted), Some(programmed));
            Entries { list: "parents", reference: "parentRef", entries: vec![entry] }
        };
        merge(&mut status, &progress(2, 1), "t1");
        assert_eq!(status["parents"][0], foreign);
        let condition = |status: &Value, i: usize| status["parents"][1]["conditions"][i].clone();
        assert_eq!(condition(&status, 1)["message"], "Programmed on 1 of 2 nodes");
        assert_eq!(condition(&status, 1)["observedGeneration"], 2);

        let before = status.clone();
        merge(&mut status, &progress(2, 1), "t2");
        assert_eq!(status, before, "nothing to write");
        merge(&mut status, &progress(2, 2), "t3");
        assert_eq!(condition(&status, 0)["lastTransitionTime"], "t1");
        assert_eq!(condition(&status, 1)["lastTransitionTime"], "t3");
        assert_eq!(condition(&status, 1)["status"], "True");
    }
}
