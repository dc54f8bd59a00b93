use serde_json::json;

use super::*;

/// A run with a task that is tried again, a loop with a function, a pause, and a call that nobody answers.
pub async fn history() -> RunHistory {
    history_of(whole()).await
}

pub async fn history_of(whole: Value) -> RunHistory {
    RunHistory::new(serde_json::from_value(whole).unwrap()).await.unwrap()
}

/// An answered call, as a history has it.
pub fn answered(at: u64, ask: u32, path: &str, result: Value, status: u16) -> Value {
    let call = json!({ "began": at - 10, "method": "GET", "endpoint": "http://stock/", "status": status, "trace": "abc" });
    json!({ "at": at, "event": { "Answered": { "ask": ask, "result": result } }, "path": path, "call": call })
}

pub const RESERVE: &str = "/do/0/safe/try/0/reserve";
pub const ASK: [&str; 2] =
    ["/use/functions/ask[0]@/do/2/each/do/0/one", "/use/functions/ask[1]@/do/2/each/do/0/one"];

/// What the server gives of the run.
pub fn whole() -> Value {
    let call = |endpoint: &str| json!({ "call": "http", "with": { "method": "get", "endpoint": endpoint } });
    let workflow = json!({
        "document": { "dsl": "1.0.3", "namespace": "shop", "name": "order", "version": "0.1.0" },
        "use": { "functions": { "ask": call("http://stock/") } },
        "do": [
            { "safe": {
                "try": [{ "reserve": call("http://stock/reserve") }],
                "catch": { "retry": { "delay": { "seconds": 1 }, "limit": { "attempt": { "count": 1 } } } },
            } },
            { "never": { "if": ".n > 9", "set": { "a": 1 } } },
            { "each": { "for": { "in": "[1, 2]" }, "do": [{ "one": { "call": "ask" } }] } },
            { "nap": { "wait": { "seconds": 5 } } },
            { "last": call("http://mail/") },
        ],
    });
    let info = json!({
        "id": "r1", "input": { "n": 1 }, "started": 1000, "seed": 1, "most_tasks": 100, "most_bytes": 100_000,
    });
    let fired = |at: u64, ask: u32| json!({ "at": at, "event": { "Fired": { "ask": ask } } });
    let fault = json!({
        "type": "https://serverlessworkflow.io/spec/1.0.0/errors/communication", "status": 503,
        "title": "Communication Error", "instance": "/do/0/safe/try/0/reserve",
    });
    let entries = json!([
        answered(1012, 0, RESERVE, json!({ "Err": fault }), 503),
        fired(2012, 1),
        answered(2020, 2, RESERVE, json!({ "Ok": { "left": 3 } }), 200),
        answered(2030, 3, ASK[0], json!({ "Ok": 1 }), 200),
        answered(2040, 4, ASK[1], json!({ "Ok": 2 }), 200),
        fired(7040, 5),
    ]);
    let run = json!({
        "metadata": { "namespace": "shop", "name": "r1" },
        "spec": { "flow": "order", "caller": "ann", "serviceAccount": "orders" },
        "status": { "state": "Running", "startedAt": "1970-01-01T00:00:01.000Z", "entries": 6 },
    });
    json!({ "run": run, "info": info, "workflow": workflow, "entries": entries })
}

/// The same, gone back to the second attempt of its first call, which is made again.
pub async fn retried() -> RunHistory {
    let mut whole = whole();
    let entries = whole["entries"].as_array_mut().unwrap();
    entries.push(json!({ "at": 9000, "event": { "Retried": { "entries": 2, "number": 1 } } }));
    entries.push(answered(9010, 2, RESERVE, json!({ "Ok": { "left": 2 } }), 200));
    history_of(whole).await
}

#[tokio::test]
async fn each_task_says_what_became_of_it() {
    let tasks = history().await.tasks().await;
    let told: Vec<_> = tasks
        .iter()
        .map(|task| {
            let took = task.ended.map_or("-".to_owned(), |ended| (ended - task.started).to_string());
            let call = task.calls.last().and_then(|call| call.made.status);
            let call = call.map_or(String::new(), |status| format!(" {status}"));
            format!(
                "{:indent$}{} {} {took} {}{call}",
                "",
                task.name,
                task.state.word(),
                task.attempts,
                indent = 2 * task.depth
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "safe done 1020 1",
            "  reserve done 1020 2 200",
            "never skipped 0 1",
            "each done 20 1",
            "  one[0] done 10 1",
            "    ask[0] done 10 1 200",
            "  one[1] done 10 1",
            "    ask[1] done 10 1 200",
            "nap done 5000 1",
            "last calling - 1",
        ]
    );
    let attempts: Vec<_> =
        tasks[1].calls.iter().map(|call| (call.made.status, call.error.is_some())).collect();
    assert_eq!(attempts, [(Some(503), true), (Some(200), false)]);
    assert_eq!(tasks[0].error.as_ref().map(|error| error.status), Some(503));
    assert_eq!(
        (tasks[1].input.as_deref(), tasks[1].output.as_deref()),
        (Some(&json!({ "n": 1 })), Some(&json!({ "left": 3 })))
    );
}

#[tokio::test]
async fn calls_that_a_run_went_back_from_were_made() {
    let history = retried().await;
    assert_eq!(history.retries(), [WentBack { at: 9000, to: 2012 }]);
    let tasks = history.tasks().await;
    let told: Vec<_> = tasks
        .iter()
        .map(|task| {
            let calls: Vec<_> = task.calls.iter().map(|call| call.ended).collect();
            (&*task.name, task.depth, task.state.word(), task.attempts, calls)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("safe", 0, "done", 1, vec![]),
            ("reserve", 1, "done", 3, vec![1012, 2020, 9010]),
            ("never", 0, "skipped", 1, vec![]),
            ("each", 0, "running", 1, vec![]),
            ("one[0]", 1, "running", 1, vec![]),
            ("ask[0]", 2, "calling", 2, vec![2030]),
            ("ask[1]", 2, "undone", 1, vec![2040]),
        ]
    );
    let undone = &tasks[6];
    assert_eq!((undone.started, undone.ended, undone.changed.0), (2030, Some(2040), 9000));
    assert_eq!((&*undone.path, serde_json::to_value(undone).unwrap().get("input")), (ASK[1], None));
}

#[tokio::test]
async fn calls_that_were_cut_off_were_made() {
    let mut whole = whole();
    let made = json!({ "began": 2000, "method": "GET", "endpoint": "http://stock/reserve" });
    // The second attempt hangs until its time is up.
    let cut =
        |path: &str| json!({ "path": path, "began": 2013, "method": "GET", "endpoint": "http://mail/" });
    whole["entries"][5]["cutOff"] = json!([cut("/do/4/last")]);
    whole["entries"][0]["call"] = made;
    let tasks = history_of(whole).await.tasks().await;
    let last = tasks.last().unwrap();
    let calls: Vec<_> = last.calls.iter().map(|call| (call.ended, call.cut_off)).collect();
    assert_eq!((&*last.name, calls, last.attempts), ("last", vec![(7040, true)], 2));
    let told = serde_json::to_value(&last.calls[0]).unwrap();
    assert_eq!(
        told,
        json!({ "began": 2013, "method": "GET", "endpoint": "http://mail/", "ended": 7040, "cutOff": true })
    );
    assert_eq!(crate::commands::flow::history::status(&last.calls[0]), "cut off");
    let unanswered = &tasks[1].calls[0];
    assert_eq!(crate::commands::flow::history::status(unanswered), "");
}

#[tokio::test]
async fn a_run_that_is_queued_has_begun_nothing() {
    let mut whole = whole();
    (whole["entries"], whole["run"]["status"]) = (json!([]), json!({ "state": "Queued", "entries": 0 }));
    assert_eq!(history_of(whole).await.tasks().await, []);
}

/// Each task's name, state and attempts.
fn told(tasks: &[TaskOfRun]) -> Vec<(&str, &str, u32)> {
    tasks.iter().map(|task| (&*task.name, task.state.word(), task.attempts)).collect()
}

#[tokio::test]
async fn calls_under_way_when_a_run_was_cancelled_are_tried() {
    let mut whole = whole();
    let entries = whole["entries"].as_array_mut().unwrap();
    entries.push(json!({ "at": 8000, "event": "Cancelled" }));
    let cancelled = history_of(whole.clone()).await;
    assert_eq!(told(&cancelled.tasks().await)[9], ("last", "stopped", 1));
    // Gone back to the second attempt of the first call, which is under way when it is cancelled again.
    let entries = whole["entries"].as_array_mut().unwrap();
    entries.push(json!({ "at": 9000, "event": { "Retried": { "entries": 2, "number": 1 } } }));
    entries.push(json!({ "at": 9500, "event": "Cancelled" }));
    entries.push(json!({ "at": 9900, "event": { "Retried": { "entries": 2, "number": 2 } } }));
    let retried = history_of(whole.clone()).await;
    let tasks = retried.tasks().await;
    let expected = [
        ("safe", "retrying", 1),
        ("reserve", "calling", 4),
        ("ask[0]", "undone", 1),
        ("ask[1]", "undone", 1),
        ("last", "undone", 1),
    ];
    assert_eq!(told(&tasks), expected);
    assert_eq!((tasks[4].started, tasks[4].ended, tasks[4].changed.0), (7040, Some(8000), 9000));
    assert_eq!((tasks[4].depth, tasks[4].calls.len()), (0, 0));
    // The same where it is read bit by bit.
    let later = whole["entries"].as_array_mut().unwrap().split_off(1);
    let mut history = history_of(whole.clone()).await;
    for entry in later {
        let part = json!({ "run": whole["run"], "entries": [entry] });
        history.add(serde_json::from_value(part).unwrap()).await.unwrap();
    }
    assert_eq!(history.tasks().await, tasks);
}

#[tokio::test]
async fn a_call_that_was_cut_off_by_the_end_is_counted_once() {
    let mut whole = whole();
    let cut = json!({ "path": "/do/4/last", "began": 7050, "method": "GET", "endpoint": "http://mail/" });
    let entries = whole["entries"].as_array_mut().unwrap();
    entries.push(json!({ "at": 8000, "event": "Cancelled", "cutOff": [cut] }));
    entries.push(json!({ "at": 9000, "event": { "Retried": { "entries": 6, "number": 1 } } }));
    assert_eq!(told(&history_of(whole).await.tasks().await)[9], ("last", "calling", 2));
}

#[tokio::test]
async fn what_is_over_while_a_run_is_suspended_is_shown() {
    let mut whole = whole();
    let fault = whole["entries"][0]["event"]["Answered"]["result"]["Err"].clone();
    let suspended = json!({ "at": 2015, "event": "Suspended" });
    for (at, answer, state) in [
        (2, whole["entries"][2].clone(), "done"),
        (2, answered(2020, 2, RESERVE, json!({ "Err": fault }), 503), "faulted"),
        (5, whole["entries"][5].clone(), "done"),
    ] {
        let mut suspended_run = whole.clone();
        let entries = suspended_run["entries"].as_array_mut().unwrap();
        entries.truncate(at);
        entries.extend([suspended.clone(), answer.clone()]);
        suspended_run["run"]["status"]["state"] = "Suspended".into();
        let tasks = history_of(suspended_run).await.tasks().await;
        let last = tasks.last().unwrap();
        let attempts = if at == 2 { 2 } else { 1 };
        assert_eq!((last.state.word(), last.attempts), (state, attempts), "{}", last.name);
        assert_eq!((last.ended, last.changed.0), (answer["at"].as_u64(), answer["at"].as_u64().unwrap()));
        assert_eq!((last.output.is_some(), last.error.is_some()), (state == "done", state == "faulted"));
    }
    // What was under way before it is, still.
    let entries = whole["entries"].as_array_mut().unwrap();
    entries.truncate(2);
    entries.push(suspended);
    assert_eq!(told(&history_of(whole).await.tasks().await)[1], ("reserve", "calling", 2));
}

#[tokio::test]
async fn a_call_takes_until_it_is_answered() {
    let took = async |whole: Value, name: &str| {
        let tasks = history_of(whole).await.tasks().await;
        let task = tasks.into_iter().find(|task| &*task.name == name).unwrap();
        (task.state.word(), task.ended.map(|ended| ended - task.started))
    };
    let mut rested = whole();
    let entries = rested["entries"].as_array_mut().unwrap();
    entries.truncate(3);
    entries.insert(2, json!({ "at": 2015, "event": "Suspended" }));
    entries.push(json!({ "at": 60_000, "event": "Resumed" }));
    assert_eq!(took(rested, "reserve").await, ("done", Some(1020)));
    // Gone back to where `one[1]` began: what came of the call before it was looked at after that.
    let mut retried = whole();
    retried["workflow"]["use"]["functions"]["ask"]["output"] = json!({ "as": "${ . }" });
    let entries = retried["entries"].as_array_mut().unwrap();
    entries.push(json!({ "at": 90_000, "event": { "Retried": { "entries": 4, "number": 1 } } }));
    assert_eq!(took(retried, "ask[0]").await, ("done", Some(10)));
    // So does a wait.
    let mut waited = whole();
    let entries = waited["entries"].as_array_mut().unwrap();
    entries.insert(5, json!({ "at": 3000, "event": "Suspended" }));
    entries.push(json!({ "at": 90_000, "event": "Resumed" }));
    assert_eq!(took(waited, "nap").await, ("done", Some(5000)));
}
