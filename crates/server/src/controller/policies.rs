//! How far nodes are with an AuthorizationPolicy. Each is told of a workload with all policies of it: what a node has confirmed
//! once of a form of a policy stays confirmed while other policies of the workload change, so that their changes write no
//! status of this one; until the node refuses what it is told, whichever of them that is about: a port or a key of this one may be new in it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tulle_model::compile::TargetStatus;
use tulle_model::name::WorkloadName;

use super::entries::{Entries, StatusEntry, programmed};
use crate::publication::{Key, NodeAnswer, Progress, Publication, ResourceType};

/// One form of a policy.
pub(super) struct PolicyProgress {
    targets: Vec<TargetStatus>,
    confirmed: HashSet<(WorkloadName, Arc<str>)>,
}

/// How far a node is with all of its workloads at a target.
enum NodeProgress {
    Confirmed,
    Pending,
    Refused(String),
}

impl PolicyProgress {
    pub(super) fn new(targets: Vec<TargetStatus>) -> Self {
        Self { targets, confirmed: HashSet::new() }
    }

    /// Whether it is about the same form of the policy, with the same workloads.
    pub(super) fn is_the_same(&self, other: &Self) -> bool {
        self.targets == other.targets
    }

    /// The resources that nodes are told for it.
    pub(super) fn resources(&self) -> HashSet<Key> {
        let workloads = self.targets.iter().flat_map(|target| &target.workloads);
        workloads.map(|(name, _)| Key::new(ResourceType::Workload, name.to_string())).collect()
    }

    /// The entries of its status, by what nodes have answered up to now.
    pub(super) fn entries(&mut self, publication: &Publication) -> Entries {
        let Self { targets, confirmed } = self;
        let entry = |target: &TargetStatus| {
            let mut nodes: BTreeMap<&Arc<str>, NodeProgress> = BTreeMap::new();
            for (workload, node) in &target.workloads {
                let place = (workload.clone(), node.clone());
                let now = match publication.answer_of(node, workload) {
                    NodeAnswer::Confirmed => {
                        confirmed.insert(place);
                        NodeProgress::Confirmed
                    }
                    NodeAnswer::Refused(why) => {
                        confirmed.remove(&place);
                        NodeProgress::Refused(why)
                    }
                    NodeAnswer::None if confirmed.contains(&place) => NodeProgress::Confirmed,
                    NodeAnswer::None => NodeProgress::Pending,
                };
                let of_node = nodes.entry(node).or_insert(NodeProgress::Confirmed);
                if matches!(
                    (&*of_node, &now),
                    (NodeProgress::Confirmed, _) | (NodeProgress::Pending, NodeProgress::Refused(_))
                ) {
                    *of_node = now;
                }
            }
            let programmed =
                (!nodes.is_empty()).then(|| programmed(&together(&nodes), "cannot read what it is told"));
            StatusEntry::new(&target.target, &target.conditions, programmed)
        };
        Entries { list: "ancestors", reference: "ancestorRef", entries: targets.iter().map(entry).collect() }
    }
}

/// How far they are together.
fn together(nodes: &BTreeMap<&Arc<str>, NodeProgress>) -> Progress {
    let confirmed = nodes.values().filter(|node| matches!(node, NodeProgress::Confirmed)).count();
    let refused = nodes.iter().filter_map(|(node, progress)| match progress {
        NodeProgress::Refused(why) => Some(((*node).clone(), why.clone())),
        NodeProgress::Confirmed | NodeProgress::Pending => None,
    });
    Progress { nodes: nodes.len(), confirmed, refused: refused.collect() }
}

#[cfg(test)]
mod tests {
    use tulle_model::compile::StatusTarget;
    use tulle_model::snapshot::WorkloadConfig;

    use super::*;
    use crate::publication::Form;

    /// Status and message of the only target's `Programmed`.
    fn programmed_of(progress: &mut PolicyProgress, publication: &Publication) -> (bool, String) {
        let mut status = serde_json::json!({});
        super::super::entries::merge(&mut status, &progress.entries(publication), "t");
        let condition = &status["ancestors"][0]["conditions"][0];
        (condition["status"] == "True", condition["message"].as_str().unwrap_or_default().to_owned())
    }

    #[test]
    fn what_a_node_has_once_stays_while_other_policies_change() {
        let publication = Publication::new();
        let workload: WorkloadName = "shop/c-1".parse().unwrap();
        let key = Key::new(ResourceType::Workload, "shop/c-1");
        let publish = |inbound_capture: bool| {
            let config = WorkloadConfig { inbound_capture, ..WorkloadConfig::new(workload.clone()) };
            let form = Form::of_workload("n1".into(), &config);
            publication.publish([(key.clone(), Some(form))]);
            Some(publication.get("n1", &key).unwrap().unwrap().version)
        };
        let policy = || {
            let workloads = vec![(workload.clone(), "n1".into())];
            PolicyProgress::new(vec![TargetStatus {
                target: StatusTarget::Authorization(Default::default()),
                workloads,
                conditions: vec![],
            }])
        };
        let mut progress = policy();
        let zero = (false, "Programmed on 0 of 1 nodes".to_owned());
        let one = (true, "Programmed on 1 of 1 nodes".to_owned());
        let first = publish(false);
        assert_eq!(programmed_of(&mut progress, &publication), zero, "not connected");
        let stream = publication.open("n1".into()).unwrap();
        publication.subscribe(&stream, std::slice::from_ref(&key));
        publication.confirm(&stream, &[(key.clone(), first)]);
        assert_eq!(programmed_of(&mut progress, &publication), one);
        // Another policy of the workload: nothing to write of this one, and a new form of it has to be confirmed.
        let second = publish(true);
        assert_eq!(programmed_of(&mut progress, &publication), one);
        let mut progress = policy();
        assert_eq!(programmed_of(&mut progress, &publication), zero);
        publication.refuse(&stream, &[(key.clone(), second.clone())], "no such action");
        let (status, message) = programmed_of(&mut progress, &publication);
        assert!(
            !status && message.ends_with("the node n1 cannot read what it is told: no such action"),
            "{message}"
        );
        publication.confirm(&stream, &[(key.clone(), second)]);
        assert_eq!(programmed_of(&mut progress, &publication), one);
        // What it cannot read later may be of this one, too, and does not count as taken when it goes.
        let third = publish(false);
        assert_eq!(programmed_of(&mut progress, &publication), one);
        publication.refuse(&stream, &[(key.clone(), third.clone())], "no such port");
        let (status, message) = programmed_of(&mut progress, &publication);
        assert!(!status && message.ends_with("no such port"), "{message}");
        let fourth = publish(true);
        publication.confirm(&stream, &[(key.clone(), fourth)]);
        assert_eq!(programmed_of(&mut progress, &publication), one);
        publication.close(&stream, &[key]);
        assert_eq!(programmed_of(&mut progress, &publication), one, "it works on without the server");
    }
}
