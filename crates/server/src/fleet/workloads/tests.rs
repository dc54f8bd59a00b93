use super::*;
use crate::store::Store;

async fn objects() -> Objects {
    Objects::open(Store::in_memory()).await.unwrap()
}

fn workload(name: &str, ready: bool, reason: &str) -> Workload {
    Workload {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        address: "10.0.0.1".to_owned(),
        service_account: "w".to_owned(),
        ready,
        reason: reason.to_owned(),
        ..Workload::default()
    }
}

fn name(workload: &Workload) -> WorkloadName {
    WorkloadName::new(workload.namespace.as_str(), workload.name.as_str())
}

/// What a node is told that reports a workload, while `connected` is the only node that is connected.
async fn report(objects: &Objects, node: &str, connected: &str, workload: &Workload) -> Result<(), String> {
    let connected = |node: &str| node == connected;
    let holding = HoldingNode { node, link_address: "10.0.0.1:15008", connected: &connected };
    let written = write_all(objects, &holding, vec![(name(workload), workload.clone())]).await;
    let [(_, _, result)] = written.try_into().unwrap();
    result
}

async fn holder_of(objects: &Objects, name: &str) -> Option<String> {
    let object = objects.get(kind(), "default", name).await.unwrap()?;
    Some(holder(&object).unwrap_or("nobody").to_owned())
}

#[tokio::test]
async fn a_workload_is_the_nodes_that_runs_it_and_not_of_one_that_says_so_later() {
    let objects = objects().await;
    let by_hand = json!({
        "metadata": { "name": "hand" }, "spec": { "address": "10.0.0.9", "serviceAccount": "w", "ports": [] },
    });
    objects.create(kind(), "default", by_hand, &WriteOptions::controller()).await.unwrap();
    let w = workload("w", true, "");
    for (node, connected, told, holder) in [
        ("n1", "n1", None, "n1"),
        ("n1", "n1", None, "n1"),
        ("n2", "n1", Some("the node `n1` runs it"), "n1"),
        ("n1", "n2", None, "n1"),
        ("n2", "n2", None, "n2"),
        ("n1", "n2", Some("the node `n2` runs it"), "n2"),
    ] {
        let result = report(&objects, node, connected, &w).await;
        let as_expected = match told {
            None => result.is_ok(),
            Some(told) => result.as_ref().is_err_and(|why| why.contains(told)),
        };
        assert!(as_expected, "{node} {connected}: {result:?}");
        assert_eq!(holder_of(&objects, "w").await.as_deref(), Some(holder));
    }
    let result = report(&objects, "n1", "n1", &workload("hand", true, "")).await;
    assert!(result.is_err_and(|why| why.contains("written by hand")));
    assert_eq!(holder_of(&objects, "hand").await.as_deref(), Some("nobody"));
}

#[tokio::test]
async fn a_server_that_starts_finds_what_each_node_holds() {
    let objects = objects().await;
    let (a, b, c) = (workload("a", true, ""), workload("b", false, "it starts"), workload("c", true, ""));
    for (node, workload) in [("n1", &a), ("n1", &b), ("n2", &c)] {
        report(&objects, node, node, workload).await.unwrap();
    }
    let found = held(&objects).await.unwrap();
    let held = |node: &str| {
        let held = &found[node];
        let told = |w: &Workload| (w.namespace.clone(), w.name.clone(), w.ready, w.reason.clone());
        (held.link_address.as_str(), held.workloads.iter().map(told).collect::<Vec<_>>())
    };
    let told =
        |name: &str, ready, reason: &str| ("default".to_owned(), name.to_owned(), ready, reason.to_owned());
    let address = "10.0.0.1:15008";
    assert_eq!(held("n1"), (address, vec![told("a", true, ""), told("b", false, "it starts")]));
    assert_eq!(held("n2"), (address, vec![told("c", true, "")]));
    assert_eq!(found.len(), 2);
    assert_eq!(found["n1"].names().collect::<Vec<_>>(), [name(&a), name(&b)]);
}

#[tokio::test]
async fn a_node_marks_and_removes_its_own_only() {
    let objects = objects().await;
    let (a, b, c) = (workload("a", true, ""), workload("b", true, ""), workload("c", true, ""));
    for (node, workload) in [("n1", &a), ("n2", &b)] {
        report(&objects, node, node, workload).await.unwrap();
    }
    let stale = async || {
        let held = held(&objects).await.unwrap();
        let mut stale: Vec<_> = held.values().flat_map(|held| held.stale.clone()).collect();
        stale.sort();
        stale
    };
    assert!(!is_gone(&objects, &name(&a)).await && is_gone(&objects, &name(&c)).await);
    // `b` is another's, and `c` is not there; what is stale is so since the first time.
    for since in [crate::timestamp::at(1_800_000_000), crate::timestamp::at(1_900_000_000)] {
        let marks: Vec<_> = [&a, &b, &c].map(|w| (name(w), since.clone())).into();
        let results = mark_stale(&objects, "n1", &marks).await;
        assert!(results.len() == 3 && results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
        assert_eq!(stale().await, [(name(&a), 1_800_000_000)]);
    }
    // Heard again.
    report(&objects, "n1", "n1", &a).await.unwrap();
    assert_eq!(stale().await, []);
    let results = delete_all(&objects, "n1", &[&a, &b, &c].map(name)).await;
    assert!(results.len() == 3 && results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
    assert_eq!(
        (holder_of(&objects, "a").await, holder_of(&objects, "b").await.as_deref()),
        (None, Some("n2"))
    );
}

#[test]
fn what_others_say_of_a_workload_stays_and_a_change_of_its_readiness_has_its_time() {
    let connected = |_: &str| false;
    let holding = HoldingNode { node: "n1", link_address: "10.0.0.1:15008", connected: &connected };
    let long_ago = "2001-01-01T00:00:00Z";
    let condition =
        |of: &str, status: &str| json!({ "type": of, "status": status, "lastTransitionTime": long_ago });
    let current = json!({
        "metadata": { "annotations": { "a": "b" }, "labels": { "old": "1" }, "finalizers": ["example.com/hold"] },
        "status": { "conditions": [condition("Ready", "True"), condition(STALE, "True"), condition("Theirs", "True")] },
    });
    for (ready, reason, current, message, since) in [
        (true, "", Some(&current), "", Some(long_ago)),
        (true, "slow", Some(&current), "slow", Some(long_ago)),
        (false, "it starts", Some(&current), "it starts", None),
        (false, "", Some(&current), "the node says that it is not ready", None),
        (true, "", None, "", None),
    ] {
        let w = workload("w", ready, reason);
        let made = object(&holding, &name(&w), &w, current);
        let conditions = made["status"]["conditions"].as_array().unwrap();
        let types: Vec<_> = conditions.iter().map(|condition| condition["type"].as_str().unwrap()).collect();
        assert_eq!(types, if current.is_some() { vec!["Ready", "Theirs"] } else { vec!["Ready"] });
        assert_eq!(conditions[0]["message"], message);
        let unchanged = conditions[0]["lastTransitionTime"] == long_ago;
        assert_eq!(unchanged, since.is_some(), "{ready} {reason}");
        assert_eq!(made["metadata"]["annotations"]["a"].as_str(), current.map(|_| "b"));
        assert_eq!(holder(&made), Some("n1"));
        assert_eq!(made["metadata"]["labels"], json!({}));
    }
}

#[test]
fn a_renewed_certificate_alone_changes_no_object() {
    let w = workload("w", true, "");
    let renewed = Workload { certificate_not_after: 7, ..w.clone() };
    assert!(same(&w, &w) && same(&w, &renewed));
    assert!(!same(&w, &workload("w", false, "")));
    let refused = refusal(&name(&w), "no".to_owned());
    assert_eq!(
        (refused.namespace.as_str(), refused.name.as_str(), refused.message.as_str()),
        ("default", "w", "no")
    );
}
