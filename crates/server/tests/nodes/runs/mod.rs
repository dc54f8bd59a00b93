//! Runs of Flows: who is given them, who loses them, and what becomes of them.

mod runner;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tonic::Code;
use tulle_model::flow::history::Outcome;
use tulle_model::flow::scope::RunInfo;
use tulle_model::registry::KindId;
use tulle_server::Server;
use tulle_server::flows::{RunName, RunWish};
use tulle_wire::flow::{append_request, run_command, runner_told, start_run_response};

use self::runner::{LEASE, Runner, config, ends, goes_on, node, put_flow, run_ref, server};
use crate::client::{PATIENCE, TestServer};

fn done() -> Outcome {
    Outcome::Completed(Arc::new(json!({ "paid": true })))
}

fn name(flow: &str, run: &str) -> RunName {
    RunName { namespace: "shop".into(), flow: flow.into(), run: run.into() }
}

async fn state(server: &TestServer, run: &str) -> &'static str {
    server.server.views().flows().book().header(&name("order", run)).await.unwrap().state.name()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_from_start_to_end() {
    let server = server().await;
    put_flow(&server, "order", json!({ "trigger": { "http": { "wait": "3s" } } })).await;
    let node = node(&server, "n1", &["shop"]).await;
    let mut runner = Runner::open(&node, "1", 10, &[]).await;
    let [flow] = &runner.flows[..] else { panic!("{:?}", runner.flows) };
    let http = flow.http.as_ref().unwrap();
    assert_eq!(
        (&*flow.name, &*flow.service_account, http.port, http.wait_millis),
        ("order", "orders", 80, 3000)
    );
    let workflow = flow.workflow.clone();
    let (run, new) = runner.begin("order").await;
    assert_eq!((new.lease, &*new.service_account, new.workflow), (1, "orders", Some(workflow.clone())));
    let info: RunInfo = serde_json::from_slice(&new.info).unwrap();
    assert_eq!((&*info.id, &*info.input), (&*run, &json!({ "card": 7 })));
    runner.append(&run, (1, 0), goes_on()).await.unwrap();
    // Again, as whoever has not heard of it does; and with a gap.
    runner.append(&run, (1, 0), goes_on()).await.unwrap();
    let refused = runner.append(&run, (1, 2), goes_on()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    let loaded = runner.load(&run, 1).await.unwrap();
    assert_eq!((loaded.entries.len(), &loaded.info, &loaded.workflow), (1, &new.info, &workflow));
    // Its end is waited for, by who has started it alone.
    let caller = "spiffe://mesh.local/ns/shop/sa/web";
    let mut other = Runner::open(&self::node(&server, "n2", &["*"]).await, "1", 10, &[]).await;
    let code = other.outcome("order", &run, "spiffe://mesh.local/ns/shop/sa/x").await.unwrap_err().code();
    assert_eq!(code, Code::NotFound);
    let waiting = other.outcome("order", &run, caller);
    let ending = async {
        tokio::task::yield_now().await;
        runner.end(&run, (1, 1), done()).await;
    };
    let (outcome, ()) = tokio::join!(waiting, ending);
    let outcome = outcome.unwrap();
    assert_eq!(outcome.state, "Completed");
    assert_eq!(serde_json::from_slice::<Outcome>(&outcome.outcome.unwrap()).unwrap(), done());
    let refused = runner.append(&run, (1, 2), goes_on()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_has_what_its_grant_says_and_what_its_leases_are_of() {
    let server = server().await;
    put_flow(&server, "order", json!({})).await;
    let shop = node(&server, "n1", &["shop"]).await;
    let bank = node(&server, "n2", &["bank"]).await;
    let none = node(&server, "n3", &[]).await;
    let refused = Runner::try_open(&none, "1", 10, &[]).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let mut runner = Runner::open(&shop, "1", 10, &[]).await;
    let mut other = Runner::open(&bank, "1", 10, &[]).await;
    assert!(other.flows.is_empty(), "{:?}", other.flows);
    let (run, _) = runner.begin("order").await;
    let second = node(&server, "n4", &["shop"]).await;
    let mut same = Runner::open(&second, "1", 10, &[]).await;
    for (refused, code) in [
        (other.start("order", None).await.map(drop), Code::PermissionDenied),
        (other.append(&run, (1, 0), goes_on()).await, Code::PermissionDenied),
        (other.load(&run, 1).await.map(drop), Code::PermissionDenied),
        // Leases are numbers that can be guessed.
        (same.append(&run, (1, 0), goes_on()).await, Code::Aborted),
        (same.load(&run, 1).await.map(drop), Code::Aborted),
        (runner.load(&run, 2).await.map(drop), Code::Aborted),
        (runner.start("none", None).await.map(drop), Code::NotFound),
    ] {
        assert_eq!(refused.unwrap_err().code(), code);
    }
    // The identity of a Flow is for who runs it, and for nothing else.
    let orders = "spiffe://mesh.local/ns/shop/sa/orders";
    for (node, good) in [(&shop, true), (&bank, false), (&none, false)] {
        assert_eq!(node.sign(orders).await.is_ok(), good, "{}", node.name);
        assert!(node.sign("spiffe://mesh.local/ns/shop/sa/web").await.is_err());
        assert!(node.sign_jwt(orders).await.is_err());
    }
    server.server.objects.delete_where(KindId::Flow.kind(), "shop", "order", |_| true).await.unwrap();
    let gone = runner.next().await.unwrap();
    assert!(matches!(gone, runner_told::Told::Gone(_) | runner_told::Told::Lost(_)), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_runner_has_is_for_others() {
    let server = server().await;
    put_flow(&server, "order", json!({})).await;
    let (n1, n2) = (node(&server, "n1", &["shop"]).await, node(&server, "n2", &["shop"]).await);
    let mut first = Runner::open(&n1, "1", 10, &[]).await;
    let (run, _) = first.begin("order").await;
    first.append(&run, (1, 0), goes_on()).await.unwrap();
    let mut second = Runner::open(&n2, "1", 10, &[]).await;
    first.freeze();
    let given = second.given().await;
    assert_eq!((given.run, given.lease), (run_ref("order", &run), 2));
    assert_eq!(second.load(&run, 2).await.unwrap().entries.len(), 1);
    // It wakes up, and is too late.
    assert_eq!(first.lost().await.lease, 1);
    first.beat().await;
    let late = first.append(&run, (1, 1), goes_on()).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted);
    second.append(&run, (2, 1), goes_on()).await.unwrap();
    second.end(&run, (2, 2), done()).await;
    assert_eq!(state(&server, &run).await, "Completed");
    let header = server.server.views().flows().book().header(&name("order", &run)).await.unwrap();
    assert_eq!(&*header.runner, "n2/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_comes_back_has_its_runs_at_once() {
    let server = server().await;
    put_flow(&server, "order", json!({})).await;
    let (n1, n2) = (node(&server, "n1", &["shop"]).await, node(&server, "n2", &["shop"]).await);
    let mut first = Runner::open(&n1, "1", 10, &[]).await;
    let _second = Runner::open(&n2, "1", 10, &[]).await;
    let (run, _) = first.begin("order").await;
    let (unheard, _) = first.begin("order").await;
    drop(first);
    // The same process: what it holds is its, and what it has not heard of it is given.
    let mut again = Runner::open(&n1, "1", 10, &[(&run, 1), ("0000000000", 1), (&unheard, 9)]).await;
    let mut lost = [again.lost().await.run, again.lost().await.run];
    lost.sort_by_key(|run| run.as_ref().unwrap().run.clone());
    assert_eq!(lost, [run_ref("order", "0000000000"), run_ref("order", &unheard)]);
    assert_eq!((again.given().await.run, 1), (run_ref("order", &unheard), 1));
    again.append(&run, (1, 0), goes_on()).await.unwrap();
    again.append(&unheard, (1, 0), goes_on()).await.unwrap();
    // Another process of the node: all that was the former one's, under new leases.
    let mut next = Runner::open(&n1, "2", 10, &[]).await;
    let mut given = [next.given().await, next.given().await].map(|given| (given.run, given.lease));
    given.sort_by_key(|(run, _)| run.as_ref().unwrap().run.clone());
    let mut expected = [(run_ref("order", &run), 2), (run_ref("order", &unheard), 2)];
    expected.sort_by_key(|(run, _)| run.as_ref().unwrap().run.clone());
    assert_eq!(given, expected);
    assert_eq!(again.append(&run, (1, 1), goes_on()).await.unwrap_err().code(), Code::Aborted);
    next.append(&run, (2, 1), goes_on()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_outlive_the_server() {
    let first = server().await;
    put_flow(&first, "order", json!({ "concurrency": { "limit": 2 } })).await;
    let (mut n1, mut n2) = (node(&first, "n1", &["shop"]).await, node(&first, "n2", &["shop"]).await);
    let mut one = Runner::open(&n1, "1", 10, &[]).await;
    let mut two = Runner::open(&n2, "1", 10, &[]).await;
    let (kept, _) = one.begin("order").await;
    let (left, _) = two.begin("order").await;
    let queued = two.start("order", None).await.unwrap();
    assert!(matches!(queued.started, Some(start_run_response::Started::Queued(_))), "{queued:?}");
    // Their runners hear nothing of that before the end.
    let wish = RunWish::Suspend;
    first.server.views().flows().command(&name("order", &kept), wish.clone()).await.unwrap();
    first.server.views().flows().command(&name("order", &left), wish).await.unwrap();
    drop((one, two));
    let TestServer { server, home } = first;
    server.shutdown().await;
    let server = TestServer { server: Server::start(config(home.path())).await.unwrap(), home };
    (n1.server, n2.server) = (server.server.node_address, server.server.node_address);
    // One comes back and goes on; what was the other's is its, too, once that has had its time.
    let since = tokio::time::Instant::now();
    let mut one = Runner::open(&n1, "1", 10, &[(&kept, 1)]).await;
    assert!(matches!(one.command().await, run_command::Command::Suspend(_)));
    one.append(&kept, (1, 0), goes_on()).await.unwrap();
    let given = one.given().await;
    assert_eq!((given.run, given.lease), (run_ref("order", &left), 2));
    assert!(matches!(given.commands[0].command, Some(run_command::Command::Suspend(_))));
    assert!(since.elapsed() > LEASE / 2, "{:?}", since.elapsed());
    // The count is the same.
    let queued_run = queued.run.unwrap().run;
    assert_eq!(state(&server, &queued_run).await, "Queued");
    one.end(&left, (2, 0), done()).await;
    assert_eq!(one.given().await.run, run_ref("order", &queued_run));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_has_no_more_runs_than_it_says() {
    let server = server().await;
    put_flow(&server, "order", json!({ "concurrency": { "limit": 1 } })).await;
    put_flow(&server, "refuse", json!({ "concurrency": { "limit": 1, "overflow": "Refuse" } })).await;
    put_flow(&server, "free", json!({})).await;
    let (n1, n2) = (node(&server, "n1", &["shop"]).await, node(&server, "n2", &["shop"]).await);
    let mut runner = Runner::open(&n1, "1", 3, &[]).await;
    let mut small = Runner::open(&n2, "1", 1, &[]).await;
    let (first, _) = runner.begin("order").await;
    let mut queued = Vec::new();
    for _ in 0..2 {
        let response = runner.start("order", None).await.unwrap();
        assert!(matches!(response.started, Some(start_run_response::Started::Queued(_))), "{response:?}");
        queued.push(response.run.unwrap().run);
    }
    runner.begin("refuse").await;
    let refused = runner.start("refuse", None).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("shop/refuse") && refused.message().contains("spec.concurrency.limit")
    );
    // Whoever is full has others carry it out, until all are.
    runner.begin("free").await;
    let elsewhere = runner.start("free", None).await.unwrap();
    assert!(matches!(elsewhere.started, Some(start_run_response::Started::Queued(_))), "{elsewhere:?}");
    assert_eq!(small.given().await.run, elsewhere.run);
    let refused = small.start("free", None).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("as many runs as they take"), "{refused}");
    // In their order.
    let mut lease = (1, first);
    for run in queued {
        runner.end(&lease.1, (lease.0, 0), done()).await;
        let given = runner.given().await;
        assert_eq!(given.run, run_ref("order", &run));
        lease = (given.lease, run);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_caller_gives_starts_one_run() {
    let server = server().await;
    put_flow(&server, "order", json!({ "concurrency": { "limit": 1, "overflow": "Refuse" } })).await;
    let n1 = node(&server, "n1", &["shop"]).await;
    let mut runner = Runner::open(&n1, "1", 3, &[]).await;
    let first = runner.start("order", Some("order-7")).await.unwrap();
    // Though there are too many by now.
    let again = runner.start("order", Some("order-7")).await.unwrap();
    assert_eq!(
        (again.run, again.started),
        (first.run.clone(), Some(start_run_response::Started::Before(tulle_wire::flow::StartedBefore {})))
    );
    let other = runner.start_with("order", Some("order-7"), "8".into()).await.unwrap();
    assert_eq!(other.run, first.run);
    assert!(matches!(other.started, Some(start_run_response::Started::Otherwise(_))));
    for (input, given) in [("{", Some("a")), ("1", Some("")), (&*"[".repeat(101), None)] {
        let code = runner.start_with("order", given, input.to_owned().into()).await.unwrap_err().code();
        assert_eq!(code, Code::InvalidArgument);
    }
}

/// A Flow that calls itself would start runs without end.
#[tokio::test(flavor = "multi_thread")]
async fn runs_that_start_runs_come_to_an_end() {
    let server = server().await;
    put_flow(&server, "order", json!({ "serviceAccount": "web" })).await;
    let n1 = node(&server, "n1", &["shop"]).await;
    let mut runner = Runner::open(&n1, "1", 100, &[]).await;
    let mut calls = vec!["order-7/do/0".to_owned()];
    let refused = loop {
        match runner.start("order", calls.last().map(|call| &**call)).await {
            Ok(begun) => calls.push(format!("{}~1/do/0/again[{}]", begun.run.unwrap().run, calls.len())),
            Err(status) => break status,
        }
        assert!(calls.len() < 100, "an end");
    };
    assert_eq!((refused.code(), calls.len()), (Code::FailedPrecondition, 18));
    assert!(refused.message().contains("does it call itself?"), "{refused:?}");
    // What others start goes on.
    runner.begin("order").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_go_on_when_their_time_has_come() {
    let server = server().await;
    put_flow(&server, "order", json!({})).await;
    let n1 = node(&server, "n1", &["shop"]).await;
    let mut runner = Runner::open(&n1, "1", 3, &[]).await;
    let in_millis = |more: u64| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
        append_request::Then::Waits(tulle_wire::flow::RunWaits { until: now + more })
    };
    let (late, _) = runner.begin("order").await;
    let (soon, _) = runner.begin("order").await;
    runner.append(&late, (1, 0), in_millis(3_600_000)).await.unwrap();
    let before = tokio::time::Instant::now();
    runner.append(&soon, (1, 0), in_millis(300)).await.unwrap();
    assert_eq!(runner.load(&soon, 1).await.unwrap_err().code(), Code::Aborted);
    let given = runner.given().await;
    assert_eq!((given.run, given.lease), (run_ref("order", &soon), 2));
    assert!(before.elapsed() >= Duration::from_millis(250), "{:?}", before.elapsed());
    assert_eq!(state(&server, &late).await, "Waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_have_runs_suspended_cancelled_and_retried() {
    let server = server().await;
    put_flow(&server, "order", json!({})).await;
    let n1 = node(&server, "n1", &["shop"]).await;
    let mut runner = Runner::open(&n1, "1", 3, &[]).await;
    let flows = server.server.views().flows().clone();
    let want = async |run: &str, wish: RunWish| flows.command(&name("order", run), wish).await;
    let suspended = || append_request::Then::Suspended(tulle_wire::flow::RunIsSuspended {});
    let (run, _) = runner.begin("order").await;
    want(&run, RunWish::Suspend).await.unwrap();
    assert!(matches!(runner.command().await, run_command::Command::Suspend(_)));
    runner.append(&run, (1, 0), suspended()).await.unwrap();
    assert_eq!(state(&server, &run).await, "Suspended");
    want(&run, RunWish::Suspend).await.unwrap();
    want(&run, RunWish::Resume).await.unwrap();
    let given = runner.given().await;
    assert_eq!(given.lease, 2);
    assert!(matches!(given.commands[0].command, Some(run_command::Command::Resume(_))), "{given:?}");
    // What comes too late for its runner, is for the next one.
    want(&run, RunWish::Suspend).await.unwrap();
    assert!(matches!(runner.command().await, run_command::Command::Suspend(_)));
    want(&run, RunWish::Resume).await.unwrap();
    assert!(matches!(runner.command().await, run_command::Command::Resume(_)));
    runner.append(&run, (2, 1), suspended()).await.unwrap();
    let given = runner.given().await;
    // Nobody had it in between.
    assert_eq!(given.lease, 4);
    assert!(
        matches!(
            given.commands[..],
            [tulle_wire::flow::RunCommand { command: Some(run_command::Command::Resume(_)), .. }]
        ),
        "{given:?}"
    );
    // It comes in the way of nothing twice.
    runner.append(&run, (4, 2), suspended()).await.unwrap();
    assert_eq!(state(&server, &run).await, "Suspended");
    let cancel = async |run: &str| flows.cancel(&name("order", run)).await;
    cancel(&run).await.unwrap();
    assert_eq!(state(&server, &run).await, "Cancelled");
    let loaded = flows.book().load(&name("order", &run), false).await.unwrap();
    assert_eq!(loaded.part.entries.len(), 4);
    for refused in [cancel(&run).await, want(&run, RunWish::Resume).await, want(&run, RunWish::Suspend).await]
    {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("is over: it is Cancelled"), "{refused}");
    }
    // Whoever has it loses it.
    let (active, _) = runner.begin("order").await;
    cancel(&active).await.unwrap();
    assert_eq!(state(&server, &active).await, "Cancelled");
    let told = runner.next().await.unwrap();
    assert!(matches!(told, runner_told::Told::Lost(ref lost) if lost.lease == 1), "{told:?}");
    assert_eq!(runner.append(&active, (1, 0), suspended()).await.unwrap_err().code(), Code::Aborted);
    let refused = want(&run, RunWish::Retry("/do/9/x".into())).await.unwrap_err().to_string();
    assert!(refused.contains("no task `/do/9/x`"), "{refused}");
    want(&run, RunWish::Retry("/do/0/one".into())).await.unwrap();
    let given = runner.given().await;
    let Some(run_command::Command::Retry(retry)) = &given.commands[0].command else { panic!("{given:?}") };
    assert_eq!(retry.task, "/do/0/one");
    assert_eq!(runner.load(&run, given.lease).await.unwrap().entries.len(), 4);
    runner.end(&run, (given.lease, 4), done()).await;
    let refused = want(&run, RunWish::Retry("/do/0/one".into())).await.unwrap_err().to_string();
    assert!(refused.contains("has completed"), "{refused}");
    // Nobody is there.
    let (waits, _) = runner.begin("order").await;
    runner.append(&waits, (1, 0), suspended()).await.unwrap();
    drop(runner);
    let gone = async {
        // The server has not seen its end yet.
        while flows.runners() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    let refused = want(&waits, RunWish::Resume).await.unwrap_err().to_string();
    assert!(refused.contains("no node runs Flows of the namespace shop"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_is_deleted_takes_its_runs_along() {
    let server = server().await;
    put_flow(&server, "order", json!({ "concurrency": { "limit": 2 } })).await;
    let n1 = node(&server, "n1", &["shop"]).await;
    let mut runner = Runner::open(&n1, "1", 3, &[]).await;
    let (active, _) = runner.begin("order").await;
    let (over, _) = runner.begin("order").await;
    runner.end(&over, (1, 0), done()).await;
    runner.begin("order").await;
    runner.start("order", None).await.unwrap();
    server.server.objects.delete_where(KindId::Flow.kind(), "shop", "order", |_| true).await.unwrap();
    // Those that it has it loses.
    let mut lost = 0;
    while lost < 2 {
        lost += usize::from(matches!(runner.next().await.unwrap(), runner_told::Told::Lost(_)));
    }
    assert_eq!(runner.append(&active, (1, 0), goes_on()).await.unwrap_err().code(), Code::Aborted);
    let book = server.server.views().flows().clone();
    let empty = async {
        while !book.book().list(Some("shop"), None, None, 9).await.unwrap().headers.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, empty).await.unwrap();
    let refused = runner.append(&over, (1, 1), ends(&done())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_those_that_the_workflow_lists_and_its_account_may_read() {
    let server = server().await;
    let secret = |name: &str| json!({ "metadata": { "name": name }, "stringData": { "token": "hunter2" } });
    for name in ["card", "other"] {
        server.put(KindId::Secret, "shop", secret(name)).await;
    }
    let role = json!({
        "metadata": { "name": "cards" },
        "rules": [{ "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["card", "none"], "verbs": ["get"] }],
    });
    server.put(KindId::Role, "shop", role).await;
    let binding = json!({
        "metadata": { "name": "cards" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "cards" },
        "subjects": [{ "kind": "ServiceAccount", "name": "orders", "namespace": "shop" }],
    });
    server.put(KindId::RoleBinding, "shop", binding).await;
    let workflow = json!({
        "document": { "dsl": "1.0.3", "namespace": "any", "name": "any", "version": "1.0.0" },
        "use": { "secrets": ["card", "other", "none"] },
        "do": [{ "one": { "set": { "a": 1 } } }],
    });
    put_flow(&server, "order", json!({ "workflow": workflow })).await;
    let n1 = node(&server, "n1", &["shop"]).await;
    let mut runner = Runner::open(&n1, "1", 3, &[]).await;
    let (run, _) = runner.begin("order").await;
    let request = |lease| tulle_wire::flow::SecretsRequest { run: run_ref("order", &run), lease };
    // Roles are followed as they are written.
    let found = async {
        loop {
            let found = runner.calls.secrets(request(1)).await.unwrap().into_inner();
            if !found.secrets.is_empty() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await.unwrap();
    assert_eq!(found.secrets["card"].data["token"], "hunter2");
    assert_eq!(found.secrets.len(), 1);
    assert!(
        found.refused["other"].contains("the service account shop/orders may not `get`"),
        "{:?}",
        found.refused
    );
    assert_eq!(found.refused["none"], "there is no Secret shop/none");
    assert_eq!(runner.calls.secrets(request(2)).await.err().unwrap().code(), Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_for_a_flow_runs_it() {
    let server = server().await;
    put_flow(&server, "order", json!({})).await;
    let stands_for = |flow: &str, account: &str| {
        let mut workload = crate::client::workload("shop", &format!("{flow}-flow-n"), account, true);
        workload.labels.insert("tulle.dev/flow".to_owned(), flow.to_owned());
        workload
    };
    let runs = node(&server, "n1", &["shop"]).await;
    // It may have the account's identity, and does not run Flows.
    let other = server.node("n2", &["shop/orders"]).await;
    let mut reports = other.report(vec![stands_for("order", "orders")]).await;
    // The first is said before the report is looked at.
    reports.reply().await.unwrap();
    let reply = reports.reply().await.unwrap();
    let why = "may not stand for Flows of the namespace shop";
    assert!(reply.refused[0].message.contains(why), "{reply:?}");
    let mut reports = runs.report(vec![stands_for("none", "orders")]).await;
    reports.reply().await.unwrap();
    let reply = reports.reply().await.unwrap();
    assert!(reply.refused[0].message.contains("there is no Flow shop/none"), "{reply:?}");
    reports.workloads(vec![stands_for("order", "web")]).await;
    let reply = reports.reply().await.unwrap();
    assert!(reply.refused[0].message.contains("calls as the service account orders"), "{reply:?}");
    assert_eq!(server.get(KindId::Workload, "shop", "order-flow-n").await, None);
    reports.workloads(vec![stands_for("order", "orders")]).await;
    assert_eq!(reports.reply().await.unwrap().refused, []);
    assert!(server.get(KindId::Workload, "shop", "order-flow-n").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_are_over_are_kept_as_the_flow_says() {
    let server = server().await;
    put_flow(&server, "order", json!({ "history": { "runs": 2 } })).await;
    let n1 = node(&server, "n1", &["shop"]).await;
    let mut runner = Runner::open(&n1, "1", 3, &[]).await;
    let (goes_on_run, _) = runner.begin("order").await;
    let mut over = Vec::new();
    for at in 0..5 {
        let (run, _) = runner.begin("order").await;
        let outcome = serde_json::to_vec(&done()).unwrap().into();
        let end = append_request::Then::Ends(tulle_wire::flow::RunEnds { at: 1_000 + at, outcome });
        runner.append(&run, (1, 0), end).await.unwrap();
        over.push(run);
    }
    let flows = server.server.views().flows().clone();
    // All of them are too old, but nobody looks at that before a minute is over.
    let kept = async {
        loop {
            let page = flows.book().list(Some("shop"), None, None, 9).await.unwrap();
            let names: Vec<_> = page.headers.iter().map(|header| header.name.run.to_string()).collect();
            if names.len() <= 3 {
                return names;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let kept = tokio::time::timeout(PATIENCE, kept).await.unwrap();
    assert!(kept.contains(&goes_on_run), "{kept:?}");
    assert!(!kept.contains(&over[0]) && !kept.contains(&over[1]), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_revoked_runs_nothing_any_more() {
    let server = server().await;
    put_flow(&server, "order", json!({})).await;
    let (n1, n2) = (node(&server, "n1", &["shop"]).await, node(&server, "n2", &["shop"]).await);
    let mut first = Runner::open(&n1, "1", 3, &[]).await;
    let (run, _) = first.begin("order").await;
    let mut second = Runner::open(&n2, "1", 3, &[]).await;
    // What there is of it besides is not there.
    let _ = server.server.views().revoke("n1").await;
    assert_eq!((second.given().await.run, 2), (run_ref("order", &run), 2));
    let refused = first.append(&run, (1, 0), goes_on()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(Runner::try_open(&n1, "1", 3, &[]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_nobody_may_have_stand_in_nobodys_way() {
    let server = server().await;
    put_flow(&server, "order", json!({})).await;
    let (n1, n2) = (node(&server, "n1", &["shop"]).await, node(&server, "n2", &["shop"]).await);
    let mut first = Runner::open(&n1, "1", 1, &[]).await;
    let (waits, _) = first.begin("order").await;
    first
        .append(&waits, (1, 0), append_request::Then::Waits(tulle_wire::flow::RunWaits { until: 1 }))
        .await
        .unwrap();
    // It is due at once, and given to who has room.
    assert_eq!(first.given().await.lease, 2);
    first
        .append(&waits, (2, 1), append_request::Then::Waits(tulle_wire::flow::RunWaits { until: 1 }))
        .await
        .unwrap();
    assert_eq!(first.given().await.lease, 3);
    // It hangs: nobody has room for its run, until somebody else is there.
    first.freeze();
    assert_eq!(first.lost().await.lease, 3);
    let mut second = Runner::open(&n2, "1", 1, &[]).await;
    let given = second.given().await;
    assert_eq!(given.run, run_ref("order", &waits));
    assert_eq!(second.load(&waits, given.lease).await.unwrap().entries.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_cannot_read_is_for_those_that_can() {
    let server = server().await;
    put_flow(&server, "order", json!({})).await;
    let (n1, n2) = (node(&server, "n1", &["shop"]).await, node(&server, "n2", &["shop"]).await);
    let mut old = Runner::open(&n1, "1", 2, &[]).await;
    let (unread, _) = old.begin("order").await;
    let (due, _) = old.begin("order").await;
    old.append(&due, (1, 0), append_request::Then::Waits(tulle_wire::flow::RunWaits { until: 1 }))
        .await
        .unwrap();
    assert_eq!((old.given().await.run, 2), (run_ref("order", &due), 2));
    old.cannot_read(&unread, 1).await;
    // It has its place for others, once that is heard, and what others wait for does not wait behind it.
    let started = async {
        loop {
            match old.start("order", None).await {
                Ok(started) => break started.run.unwrap().run,
                Err(full) => assert_eq!(full.code(), Code::ResourceExhausted, "{full}"),
            }
        }
    };
    let next = tokio::time::timeout(PATIENCE, started).await.expect("it has room");
    old.append(&due, (2, 1), append_request::Then::Waits(tulle_wire::flow::RunWaits { until: 1 }))
        .await
        .unwrap();
    assert_eq!(old.given().await.run, run_ref("order", &due));
    assert_eq!(state(&server, &unread).await, "Running");
    let mut new = Runner::open(&n2, "1", 10, &[]).await;
    let given = new.given().await;
    assert_eq!((given.run, given.lease), (run_ref("order", &unread), 2));
    new.end(&unread, (2, 0), done()).await;
    assert_eq!(state(&server, &unread).await, "Completed");
    old.end(&next, (1, 0), done()).await;
}
