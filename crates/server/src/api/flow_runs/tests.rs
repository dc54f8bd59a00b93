use std::time::Duration;

use tokio::sync::mpsc;
use tulle_model::flow::fault::FaultKind;
use tulle_model::rbac::ADMINISTRATORS;

use super::super::Api;
use super::super::asked::{ask, ask_for_all, ask_for_text};
use super::super::user::User;
use super::*;
use crate::flows::{Append, NewRunner, RunnerNote, Then};
use crate::objects::WriteOptions;
use crate::{Server, ServerConfig};

const FLOWS: &str = "/apis/tulle.dev/v1alpha1/namespaces/shop/flows";
const RUNS: &str = "/apis/tulle.dev/v1alpha1/namespaces/shop/flowruns";

struct Shop {
    server: Server,
    api: Api,
    _home: tempfile::TempDir,
}

impl Shop {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let server = Server::start(ServerConfig::local(home.path())).await.unwrap();
        let api = Api::new(server.objects.clone(), server.views().clone());
        let shop = Self { server, api, _home: home };
        shop.server.objects.ensure_namespace("shop").await.unwrap();
        for name in ["order", "refund"] {
            let workflow = json!({
                "document": { "dsl": "1.0.3", "namespace": "any", "name": "any", "version": "1.0.0" },
                "do": [{ "one": { "set": { "a": 1 } } }],
            });
            let object = json!({ "metadata": { "name": name }, "spec": { "workflow": workflow } });
            shop.put(KindId::Flow, object).await;
        }
        let mut changes = shop.server.views().flows().known().changes();
        changes.wait_for(|all| all.len() == 2).await.unwrap();
        shop
    }

    async fn put(&self, kind: KindId, object: Value) -> Value {
        let options = WriteOptions::controller();
        self.server.objects.put(kind.kind(), "shop", object, &options).await.unwrap().object
    }

    /// A runner; it says nothing by itself.
    async fn runner(&self) -> mpsc::Receiver<RunnerNote> {
        let (notes, told) = mpsc::channel(64);
        let new = NewRunner {
            node: "n1".into(),
            instance: "1".into(),
            stamp: None,
            spaces: vec!["*".to_owned()].into(),
            most: 100,
            notes,
            holds: Vec::new(),
        };
        self.server.views().flows().open(new);
        told
    }

    async fn ask(&self, head: &str, body: &str) -> (u16, Value) {
        ask(&self.api, Some(&user("root", ADMINISTRATORS)), head, body).await
    }

    async fn end(&self, run: &str, outcome: Outcome) {
        let flows = self.server.views().flows();
        let header = flows.find("shop", run).await.unwrap().unwrap();
        let append = Append {
            lease: header.lease,
            first: header.entries,
            entries: Vec::new(),
            checkpoint: None,
            then: Then::Ends(header.started + 1_500, outcome),
        };
        flows.append(&header.name, "n1", append).await.unwrap();
    }
}

fn user(name: &str, group: &str) -> User {
    User::new(name.to_owned(), vec![group.to_owned()], None)
}

fn name_of(run: &Value) -> &str {
    run["metadata"]["name"].as_str().unwrap()
}

#[tokio::test]
async fn a_run_is_started_shown_and_deleted() {
    let shop = Shop::new().await;
    let start = format!("POST {FLOWS}/order/run");
    let (code, refused) = shop.ask(&start, "").await;
    assert_eq!(code, 503, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("no node runs Flows of the namespace shop"));
    let mut told = shop.runner().await;
    let (code, run) = shop.ask(&start, r#"{ "input": { "card": 7 }, "id": "o-1" }"#).await;
    assert_eq!(
        (code, &run["spec"]["input"]["card"], &run["spec"]["caller"]),
        (201, &json!(7), &json!("root"))
    );
    assert_eq!(
        (&run["metadata"]["labels"][FLOW], &run["status"]["state"]),
        (&json!("order"), &json!("Running"))
    );
    assert!(matches!(told.recv().await, Some(RunnerNote::Given(_, 1, _))));
    for (body, expected) in [
        (r#"{ "input": { "card": 7 }, "id": "o-1" }"#, 200),
        (r#"{ "input": { "card": 8 }, "id": "o-1" }"#, 422),
        (r#"{ "inputs": 1 }"#, 400),
    ] {
        let (code, answer) = shop.ask(&start, body).await;
        assert_eq!(code, expected, "{answer}");
    }
    let path = format!("{RUNS}/{}", name_of(&run));
    for (head, expected) in [
        (format!("POST {FLOWS}/none/run"), 404),
        (format!("GET {FLOWS}/order/run"), 405),
        (format!("GET {RUNS}/none"), 404),
        (format!("POST {RUNS}"), 405),
        (format!("PUT {path}"), 405),
        (format!("POST {path}/resume/x"), 404),
        (format!("POST {path}/retry"), 400),
        (format!("DELETE {path}"), 409),
    ] {
        let (code, answer) = shop.ask(&head, "").await;
        assert_eq!(code, expected, "{head}: {answer}");
    }
    let (code, suspended) = shop.ask(&format!("POST {path}/suspend"), "").await;
    assert_eq!((code, name_of(&suspended)), (200, name_of(&run)));
    assert!(matches!(told.recv().await, Some(RunnerNote::Wish(_, RunWish::Suspend))));
    shop.end(name_of(&run), Outcome::Completed(json!({ "paid": true }).into())).await;
    let (_, over) = shop.ask(&format!("GET {path}"), "").await;
    assert_eq!(
        (&over["status"]["state"], &over["status"]["output"]["paid"]),
        (&json!("Completed"), &json!(true))
    );
    let (_, table) =
        shop.ask(&format!("GET {path}\naccept: application/json;as=Table;g=meta.k8s.io;v=v1"), "").await;
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], [run["metadata"]["name"].clone(), json!("order"), json!("Completed")]);
    assert_eq!(cells[4], "1s");
    let (_, history) = shop.ask(&format!("GET {path}/history"), "").await;
    assert_eq!(history["info"]["input"], json!({ "card": 7 }));
    assert_eq!(history["workflow"]["do"][0]["one"]["set"]["a"], 1);
    assert_eq!((&history["entries"], name_of(&history["run"])), (&json!([]), name_of(&run)));
    assert_eq!(shop.ask(&format!("POST {path}/cancel"), "").await.0, 409);
    assert_eq!(shop.ask(&format!("DELETE {path}"), "").await.0, 200);
    assert_eq!(shop.ask(&format!("GET {path}"), "").await.0, 404);
    let metrics = shop.server.views().metrics().await;
    for line in [
        "tulle_flow_runs_total{namespace=\"shop\",flow=\"order\",state=\"completed\"} 1",
        "tulle_flow_runs_active{namespace=\"shop\",flow=\"order\"} 0",
        "tulle_flow_runners 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn runs_are_listed_in_pages_and_by_what_they_are() {
    let shop = Shop::new().await;
    let _told = shop.runner().await;
    let mut runs = Vec::new();
    for flow in ["order", "order", "refund"] {
        let (_, run) = shop.ask(&format!("POST {FLOWS}/{flow}/run"), r#"{ "input": 1 }"#).await;
        runs.push(name_of(&run).to_owned());
    }
    shop.end(&runs[0], Outcome::Faulted(FaultKind::Timeout.fault("too late"))).await;
    let names = |list: &Value| -> Vec<String> {
        let mut names: Vec<_> =
            list["items"].as_array().unwrap().iter().map(|run| name_of(run).to_owned()).collect();
        names.sort();
        names
    };
    for (query, expected) in [
        ("", &runs[..]),
        ("?labelSelector=tulle.dev%2Fflow%3Dorder", &runs[..2]),
        ("?fieldSelector=status.state%3DFaulted", &runs[..1]),
        ("?fieldSelector=status.state%3DRunning", &runs[1..]),
        ("?labelSelector=tulle.dev%2Fflow%3Dnone", &[]),
    ] {
        let (code, list) = shop.ask(&format!("GET {RUNS}{query}"), "").await;
        assert_eq!((code, &*names(&list)), (200, expected), "{query}");
        assert!(list["items"].as_array().unwrap().iter().all(|run| run["spec"].get("input").is_none()));
    }
    let (_, all) = shop.ask("GET /apis/tulle.dev/v1alpha1/flowruns", "").await;
    assert_eq!(names(&all), runs);
    let (mut found, mut token) = (Vec::new(), String::new());
    for left in [2, 1, 0] {
        let (_, page) = shop.ask(&format!("GET {RUNS}?limit=1&continue={token}"), "").await;
        found.extend(names(&page));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        assert_eq!(token.is_empty(), left == 0, "{page}");
    }
    found.sort();
    assert_eq!(found, runs);
    let (_, faulted) = shop.ask(&format!("GET {RUNS}/{}", runs[0]), "").await;
    let error = &faulted["status"]["error"];
    assert_eq!((&error["status"], &error["detail"]), (&json!(408), &json!("too late")));
    let forged = [json!({ "namespace": "", "flow": "", "run": "" }), json!(["", "", ""])];
    let forged = forged.map(|token| URL_SAFE_NO_PAD.encode(token.to_string()));
    for token in ["x", &forged[0], &forged[1]] {
        assert_eq!(shop.ask(&format!("GET {RUNS}?continue={token}"), "").await.0, 400, "{token}");
    }
}

#[tokio::test]
async fn a_watch_tells_what_becomes_of_runs() {
    let shop = Shop::new().await;
    let _told = shop.runner().await;
    let (_, first) = shop.ask(&format!("POST {FLOWS}/order/run"), "").await;
    let (_, list) = shop.ask(&format!("GET {RUNS}"), "").await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    // Between the list and the watch.
    shop.end(name_of(&first), Outcome::Cancelled).await;
    let (_, second) = shop.ask(&format!("POST {FLOWS}/order/run"), "").await;
    let told = |text: &str| -> Vec<(String, String)> {
        // There are the lengths of chunks between them.
        let lines = text
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|line| (line["type"].as_str().unwrap().to_owned(), name_of(&line["object"]).to_owned()))
            .collect()
    };
    let watch = async |query: String| {
        let user = user("root", ADMINISTRATORS);
        ask_for_text(&shop.api, Some(&user), &format!("GET {RUNS}?watch=true&timeoutSeconds=1{query}"), "")
            .await
            .1
    };
    let deletion = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        shop.ask(&format!("DELETE {RUNS}/{}", name_of(&first)), "").await
    };
    let (text, (code, _)) = tokio::join!(watch(format!("&resourceVersion={version}")), deletion);
    let event = |kind: &str, run: &Value| (kind.to_owned(), name_of(run).to_owned());
    assert_eq!(code, 200);
    assert_eq!(
        told(&text),
        [event("MODIFIED", &first), event("ADDED", &second), event("DELETED", &first)],
        "{text}"
    );
    for (query, is_there) in [
        (String::new(), true),
        (format!("&fieldSelector=metadata.name%3D{}", name_of(&second)), true),
        ("&fieldSelector=metadata.name%3Dnone".to_owned(), false),
        ("&labelSelector=tulle.dev%2Fflow%3Dorder".to_owned(), true),
        ("&labelSelector=tulle.dev%2Fflow%3Drefund".to_owned(), false),
    ] {
        let text = watch(query).await;
        let expected = is_there.then(|| event("ADDED", &second));
        assert_eq!(told(&text), Vec::from_iter(expected), "{text}");
    }
    let text = watch("&resourceVersion=1".to_owned()).await;
    assert!(text.contains("ERROR") && text.contains("410"), "{text}");
}

#[tokio::test]
async fn who_may_edit_may_start_runs_and_who_may_view_may_look() {
    let shop = Shop::new().await;
    let _told = shop.runner().await;
    let mut revision = 0;
    for role in ["view", "edit"] {
        let binding = json!({
            "metadata": { "name": role },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": role }],
        });
        let bound = shop.put(KindId::RoleBinding, binding).await;
        revision = bound["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    }
    shop.server.views().access.settled(revision).await;
    let (_, run) = shop.ask(&format!("POST {FLOWS}/order/run"), "").await;
    let path = format!("{RUNS}/{}", name_of(&run));
    for (head, view, edit) in [
        (format!("GET {RUNS}"), 200, 200),
        (format!("GET {path}"), 200, 200),
        (format!("GET {path}/history"), 200, 200),
        (format!("POST {FLOWS}/order/run"), 403, 201),
        (format!("POST {path}/suspend"), 403, 200),
        (format!("POST {path}/resume"), 403, 200),
        (format!("POST {path}/cancel"), 403, 200),
        (format!("DELETE {path}"), 403, 200),
    ] {
        for (name, expected) in [("nobody", 403), ("view", view), ("edit", edit)] {
            let (code, answer) = ask(&shop.api, Some(&user(name, "people")), &head, "").await;
            assert_eq!(code, expected, "{name} {head}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_run_is_retried_within_the_limit_of_its_flow() {
    let shop = Shop::new().await;
    let _told = shop.runner().await;
    let workflow = json!({
        "document": { "dsl": "1.0.3", "namespace": "any", "name": "any", "version": "1.0.0" },
        "do": [{ "one": { "set": { "a": 1 } } }],
    });
    let spec = json!({ "workflow": workflow, "concurrency": { "limit": 1 } });
    shop.put(KindId::Flow, json!({ "metadata": { "name": "single" }, "spec": spec })).await;
    let mut changes = shop.server.views().flows().known().changes();
    changes.wait_for(|all| all.len() == 3).await.unwrap();
    let start = format!("POST {FLOWS}/single/run");
    let (_, first) = shop.ask(&start, "").await;
    shop.end(name_of(&first), Outcome::Cancelled).await;
    let (_, second) = shop.ask(&start, "").await;
    assert_eq!(second["status"]["state"], "Running");
    let retry = format!("POST {RUNS}/{}/retry", name_of(&first));
    let (code, refused) = shop.ask(&retry, r#"{ "from": "/do/0/one" }"#).await;
    assert_eq!(code, 429, "{refused}");
    shop.end(name_of(&second), Outcome::Cancelled).await;
    let (code, again) = shop.ask(&retry, r#"{ "from": "/do/0/one" }"#).await;
    assert_eq!((code, &again["status"]["state"]), (200, &json!("Running")), "{again}");
    let metrics = shop.server.views().metrics().await;
    let active = "tulle_flow_runs_active{namespace=\"shop\",flow=\"single\"} 1";
    assert!(metrics.contains(active), "{metrics}");
}

/// So fast that nobody has seen that there was none.
#[tokio::test]
async fn a_flow_of_the_same_name_has_no_runs_of_the_one_before() {
    let shop = Shop::new().await;
    let mut told = shop.runner().await;
    let (_, run) = shop.ask(&format!("POST {FLOWS}/order/run"), "").await;
    assert!(matches!(told.recv().await, Some(RunnerNote::Given(..))));
    let (_, flow) = shop.ask(&format!("GET {FLOWS}/order"), "").await;
    assert_eq!(shop.ask(&format!("DELETE {FLOWS}/order"), "").await.0, 200);
    let object = json!({ "metadata": { "name": "order" }, "spec": flow["spec"] });
    let again = shop.put(KindId::Flow, object).await;
    assert_ne!(flow["metadata"]["uid"], again["metadata"]["uid"]);
    let lost = tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap();
    assert!(matches!(lost, Some(RunnerNote::Lost(..))), "{lost:?}");
    let path = format!("{RUNS}/{}", name_of(&run));
    let gone = async {
        while shop.ask(&format!("GET {path}"), "").await.0 != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
}

#[tokio::test]
async fn who_deletes_a_flow_is_told_of_its_runs() {
    let shop = Shop::new().await;
    let _told = shop.runner().await;
    let start = format!("POST {FLOWS}/order/run");
    let (_, first) = shop.ask(&start, "").await;
    shop.end(name_of(&first), Outcome::Cancelled).await;
    for _ in 0..2 {
        shop.ask(&start, "").await;
    }
    let warned = async |head: &str| {
        let root = user("root", ADMINISTRATORS);
        let (head, _) = ask_for_all(&shop.api, Some(&root), head, "").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let warnings = head.lines().filter_map(|line| line.strip_prefix("warning: 299 - "));
        warnings.map(|warning| warning.trim().to_owned()).collect::<Vec<_>>()
    };
    let told = "\"the runs of the Flow shop/order go with it: 2 under way are cancelled, and 3 in all are forgotten\"";
    assert_eq!(warned(&format!("DELETE {FLOWS}/refund")).await, [""; 0]);
    assert_eq!(warned(&format!("DELETE {FLOWS}?dryRun=All")).await, [told]);
    assert_eq!(warned("DELETE /api/v1/namespaces/shop?dryRun=All").await, [told]);
    assert_eq!(warned(&format!("DELETE {FLOWS}/order")).await, [told]);
}
