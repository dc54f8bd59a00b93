use std::path::Path;

use futures_util::future::join_all;
use serde_json::json;
use tulle_model::flow::history::Outcome;
use tulle_model::flow::run::{AskId, RunEvent};

use super::book::after;
use super::*;
use crate::store::Store;

const SECRET: &[u8] = b"the master key of a test";

fn book(store: &Store) -> RunBook {
    RunBook::new(store.clone(), Seal::new(SECRET), RunBounds::default())
}

impl RunBook {
    /// Runs that somebody is to carry out, after one of them.
    async fn active(&self, past: Option<&RunName>, most: usize) -> Result<Vec<RunName>, FlowsError> {
        let (from, until) = keys::under(keys::ACTIVE);
        let from = past.map_or(from, |past| after(&keys::active(past)));
        let found = self.store.records(&from, &until, most).await?;
        Ok(found.iter().filter_map(|(key, _)| keys::run_of_active(key)).collect())
    }
}

fn name(run: &str) -> RunName {
    RunName { namespace: "shop".into(), flow: "order".into(), run: run.into() }
}

fn start(run: &str) -> Start {
    Start {
        name: name(run),
        info: RunInfo {
            id: run.into(),
            input: Arc::new(json!({ "card": "confidential" })),
            started: 1_000,
            seed: 7,
            most_tasks: 100,
            most_bytes: 1_000,
        },
        caller: "spiffe://mesh/ns/shop/sa/web".into(),
        runner: Some("node-1".into()),
        uid: "1".into(),
        account: "till".into(),
        depth: 0,
        workflow: Arc::new(json!({ "do": [] })),
        given: None,
    }
}

fn entries(asks: std::ops::Range<u32>) -> Vec<HistoryEntry> {
    let answered = |ask| RunEvent::Answered { ask, result: Ok(Arc::new(json!("confidential"))) };
    asks.map(|ask| HistoryEntry::new(ask.into(), answered(AskId(ask)))).collect()
}

fn append(lease: u64, first: u32, until: u32) -> Append {
    Append { lease, first, entries: entries(first..until), checkpoint: None, then: Then::GoesOn }
}

fn is_lost<T: std::fmt::Debug>(result: &Result<T, FlowsError>) -> bool {
    matches!(result, Err(FlowsError::Lost(_)))
}

async fn begin(book: &RunBook, run: &str) -> RunHeader {
    match book.start(start(run)).await.unwrap() {
        Started::New(header) => header,
        other => panic!("{other:?}"),
    }
}

async fn everything(store: &Store) -> Vec<String> {
    let records = store.records(b"", b"\xff", 10_000).await.unwrap();
    records.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_history_is_as_it_was_written() {
    let store = Store::in_memory();
    let book = book(&store);
    let header = begin(&book, "r1").await;
    assert_eq!((header.lease, header.entries, header.state), (1, 0, RunState::Active));
    for (first, until) in [(0, 2), (2, 300), (300, 301)] {
        book.append(&name("r1"), &append(1, first, until)).await.unwrap();
    }
    // In many pieces, more than are read at once.
    for first in 301..600 {
        book.append(&name("r1"), &append(1, first, first + 1)).await.unwrap();
    }
    let loaded = book.load(&name("r1"), true).await.unwrap();
    assert_eq!((loaded.info, loaded.workflow), (start("r1").info, start("r1").workflow));
    assert_eq!((loaded.part.entries, loaded.checkpoint), (entries(0..600), None));
    let checkpoint = Append { checkpoint: Some(b"state".to_vec()), ..append(1, 600, 602) };
    book.append(&name("r1"), &checkpoint).await.unwrap();
    book.append(&name("r1"), &append(1, 602, 603)).await.unwrap();
    let loaded = book.load(&name("r1"), true).await.unwrap();
    assert_eq!(loaded.checkpoint, Some((602, b"state".to_vec())));
    assert_eq!(loaded.part.entries, entries(602..603));
    assert_eq!(book.load(&name("r1"), false).await.unwrap().part.entries, entries(0..603));
    assert!(matches!(book.load(&name("r2"), true).await, Err(FlowsError::NotFound(_))));
}

#[tokio::test]
async fn who_has_lost_a_run_writes_nothing_of_it() {
    let store = Store::in_memory();
    let book = book(&store);
    begin(&book, "r1").await;
    book.append(&name("r1"), &append(1, 0, 1)).await.unwrap();
    // Nothing twice, and nothing with a gap.
    for first in [0, 2] {
        let other = Append { entries: entries(5..6), ..append(1, first, first + 1) };
        assert!(is_lost(&book.append(&name("r1"), &other).await));
    }
    let header = book.lease(&name("r1"), "node-2", None).await.unwrap();
    assert_eq!((header.lease, &*header.runner, header.entries), (2, "node-2", 1));
    assert!(is_lost(&book.append(&name("r1"), &append(1, 1, 2)).await));
    book.append(&name("r1"), &append(2, 1, 2)).await.unwrap();
    // Of those who want it at once, one has it in the end.
    let taken = join_all(["a", "b", "c"].map(|runner| {
        let run = name("r1");
        let book = &book;
        async move { book.lease(&run, runner, None).await }
    }));
    let leases: Vec<u64> =
        taken.await.into_iter().filter_map(Result::ok).map(|header| header.lease).collect();
    let last = book.header(&name("r1")).await.unwrap().lease;
    for lease in leases.into_iter().filter(|lease| *lease != last) {
        assert!(is_lost(&book.append(&name("r1"), &append(lease, 2, 3)).await));
    }
    let end = Append { then: Then::Ends(9, Outcome::Cancelled), ..append(last, 2, 3) };
    assert_eq!(book.append(&name("r1"), &end.clone()).await.unwrap().header.state, RunState::Cancelled);
    assert!(is_lost(&book.append(&name("r1"), &Append { first: 3, ..end }).await));
    assert!(is_lost(&book.lease(&name("r1"), "node-1", None).await));
    assert_eq!(book.outcome(&name("r1")).await.unwrap(), Some(Outcome::Cancelled));
}

#[tokio::test]
async fn a_run_that_its_caller_has_named_is_started_once() {
    let store = Store::in_memory();
    let book = book(&store);
    let named = |run: &str, caller: &str, body: &str| Start {
        caller: caller.into(),
        given: Some(Given { name: "order-7".into(), body: body.into() }),
        ..start(run)
    };
    let runs = ["r1", "r2", "r3", "r4"];
    let started = join_all(runs.map(|run| book.start(named(run, "web", "a")))).await;
    let started: Vec<_> = started.into_iter().map(Result::unwrap).collect();
    let new: Vec<_> = started.iter().filter(|started| matches!(started, Started::New(_))).collect();
    let [Started::New(header)] = new[..] else { panic!("{started:?}") };
    let first = header.name.clone();
    let before = started.iter().filter(|started| **started == Started::Before(first.clone()));
    assert_eq!(before.count(), 3, "{started:?}");
    assert_eq!(book.start(named("r5", "web", "b")).await.unwrap(), Started::Otherwise(first.clone()));
    assert!(matches!(book.start(named("r6", "other", "b")).await.unwrap(), Started::New(_)));
    let other_flow = RunName { flow: "refund".into(), ..name("r7") };
    let started = book.start(Start { name: other_flow, ..named("r7", "web", "b") }).await.unwrap();
    assert!(matches!(started, Started::New(_)), "{started:?}");
    // Once it is forgotten, the name is free.
    let end = Append { then: Then::Ends(5, Outcome::Cancelled), ..append(1, 0, 0) };
    book.append(&first, &end).await.unwrap();
    assert_eq!(book.prune("shop", "order", 0, 0).await.unwrap().0.len(), 1);
    assert!(matches!(book.start(named("r8", "web", "b")).await.unwrap(), Started::New(_)));
}

#[tokio::test]
async fn runs_are_found_by_what_is_to_be_done_with_them() {
    let store = Store::in_memory();
    let book = book(&store);
    for run in ["r1", "r2", "r3", "r4", "r5"] {
        begin(&book, run).await;
    }
    let names = |found: &[RunName]| found.iter().map(|run| run.run.to_string()).collect::<Vec<_>>();
    let active = || async { names(&book.active(None, 9).await.unwrap()) };
    let due = |now| {
        let book = &book;
        async move { names(&book.due(now, 9).await.unwrap()) }
    };
    for (run, then) in [("r2", Then::Waits(500)), ("r3", Then::Waits(70)), ("r4", Then::Suspended)] {
        book.append(&name(run), &Append { then, ..append(1, 0, 1) }).await.unwrap();
    }
    let end = Then::Ends(9, Outcome::Completed(Arc::new(json!(1))));
    book.append(&name("r5"), &Append { then: end, ..append(1, 0, 1) }).await.unwrap();
    assert_eq!(active().await, ["r1"]);
    assert_eq!((due(69).await, due(70).await), (vec![], vec!["r3".to_owned()]));
    assert_eq!(due(u64::MAX).await, ["r3", "r2"]);
    assert_eq!(names(&book.due(u64::MAX, 1).await.unwrap()), ["r3"]);
    // Who takes one has it among the active ones.
    book.lease(&name("r3"), "node-1", None).await.unwrap();
    book.lease(&name("r4"), "node-1", None).await.unwrap();
    assert_eq!(
        (active().await, due(u64::MAX).await),
        (vec!["r1".into(), "r3".into(), "r4".into()], vec!["r2".to_owned()])
    );
    assert_eq!(names(&book.active(Some(&name("r1")), 1).await.unwrap()), ["r3"]);
    let states: Vec<_> =
        book.list(Some("shop"), None, None, 9).await.unwrap().headers.into_iter().map(|h| h.state).collect();
    let (until, waiting) = (500, |until| RunState::Waiting { until });
    assert_eq!(
        states,
        [RunState::Active, waiting(until), RunState::Active, RunState::Active, RunState::Completed]
    );
    assert_eq!(book.list(Some("shop"), Some("order"), Some(&name("r4")), 9).await.unwrap().headers.len(), 1);
    assert!(book.list(Some("shop"), Some("ord"), None, 9).await.unwrap().headers.is_empty());
    assert!(book.list(Some("sho"), None, None, 9).await.unwrap().headers.is_empty());
}

/// Where a client says that a list goes on does not widen it.
#[tokio::test]
async fn a_list_has_no_runs_of_other_namespaces() {
    let store = Store::in_memory();
    let book = book(&store);
    begin(&book, "r1").await;
    for (namespace, flow) in [("bank", "order"), ("zoo", "order"), ("shop", "offer"), ("shop", "refund")] {
        let name = RunName { namespace: namespace.into(), flow: flow.into(), run: "r0".into() };
        book.start(Start { name, ..start("r0") }).await.unwrap();
    }
    for (past, all, of_flow) in [("", 3, 1), ("bank", 3, 1), ("zoo", 0, 0)] {
        let past = RunName { namespace: past.into(), flow: "".into(), run: "".into() };
        for (flow, expected) in [(None, all), (Some("order"), of_flow)] {
            let page = book.list(Some("shop"), flow, Some(&past), 9).await.unwrap();
            assert!(page.headers.iter().all(|header| &*header.name.namespace == "shop"), "{past:?}");
            assert_eq!((page.headers.len(), page.next), (expected, None), "{past:?}");
        }
    }
}

#[tokio::test]
async fn what_is_forgotten_leaves_nothing() {
    let store = Store::in_memory();
    let book = book(&store);
    for (at, run) in ["r1", "r2", "r3", "r4"].into_iter().enumerate() {
        begin(&book, run).await;
        book.append(&name(run), &append(1, 0, 2)).await.unwrap();
        if run != "r4" {
            let then = Then::Ends(10 * at as u64, Outcome::Completed(Arc::new(json!(at))));
            book.append(&name(run), &Append { then, ..append(1, 2, 3) }).await.unwrap();
        }
    }
    assert_eq!(book.prune("shop", "other", 0, 0).await.unwrap().0.len(), 0);
    // All but the latest; one that goes on is not counted, and stays.
    assert_eq!(book.prune("shop", "order", 2, 0).await.unwrap().0.len(), 1);
    assert!(matches!(book.header(&name("r1")).await, Err(FlowsError::NotFound(_))));
    assert_eq!(book.outcome(&name("r1")).await.unwrap(), None);
    // By age.
    assert_eq!(book.prune("shop", "order", 9, 20).await.unwrap().0.len(), 1);
    assert!(book.header(&name("r2")).await.is_err() && book.header(&name("r3")).await.is_ok());
    assert_eq!(
        book.load(&name("r4"), true).await.unwrap().part.entries,
        entries(0..2),
        "its workflow is there"
    );
    let end = Append { then: Then::Ends(90, Outcome::Cancelled), ..append(1, 2, 2) };
    book.append(&name("r4"), &end).await.unwrap();
    assert_eq!(book.prune("shop", "order", 0, 0).await.unwrap().0.len(), 2);
    assert_eq!(everything(&store).await, [""; 0]);
}

#[tokio::test]
async fn nobody_reads_on_disk_what_a_run_is_about() {
    let store = Store::in_memory();
    let first = book(&store);
    begin(&first, "r1").await;
    let output = Arc::new(json!("confidential"));
    let ends = Append { then: Then::Ends(5, Outcome::Completed(output)), ..append(1, 3, 6) };
    first
        .append(&name("r1"), &Append { checkpoint: Some(b"confidential".to_vec()), ..append(1, 0, 3) })
        .await
        .unwrap();
    let nothing_is_shown = || async {
        let records = store.records(b"", b"\xff", 100).await.unwrap();
        for (key, value) in &records {
            let shown = value.windows(6).any(|part| part == b"confid" || part == b"spiffe");
            assert!(!shown, "{}", key.escape_ascii());
        }
        records.len()
    };
    let with_checkpoint = nothing_is_shown().await;
    first.append(&name("r1"), &ends).await.unwrap();
    // One of entries, what came of it and that it is over are new; the checkpoint is gone, and nobody has to carry it out.
    assert_eq!(nothing_is_shown().await, with_checkpoint + 1);
    // With another master key nothing can be read, nor in the place of something else.
    let other = RunBook::new(store.clone(), Seal::new(b"another"), RunBounds::default());
    let refused = other.header(&name("r1")).await.unwrap_err().to_string();
    assert!(refused.contains("flow/h/shop/order/r1") && refused.contains("another master key"), "{refused}");
    let stolen = store.record(b"flow/h/shop/order/r1").await.unwrap();
    let put = vec![("flow/h/shop/order/r2".into(), stolen.unwrap())];
    store.write_records(crate::store::RecordWrite { put, ..Default::default() }).await.unwrap();
    assert!(matches!(first.header(&name("r2")).await, Err(FlowsError::Unreadable { .. })));
    let put = vec![("flow/h/shop/order/r2".into(), "x".into())];
    store.write_records(crate::store::RecordWrite { put, ..Default::default() }).await.unwrap();
    assert!(matches!(first.header(&name("r2")).await, Err(FlowsError::Unreadable { .. })));
}

#[tokio::test]
async fn runs_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("store.redb");
    let store = Store::create(path, "/owner", b"").unwrap();
    let first = book(&store);
    begin(&first, "r1").await;
    first.append(&name("r1"), &append(1, 0, 2)).await.unwrap();
    first.append(&name("r1"), &Append { then: Then::Waits(50), ..append(1, 2, 3) }).await.unwrap();
    drop((first, store));
    let store = Store::open(path).unwrap();
    let again = book(&store);
    assert_eq!(again.due(50, 9).await.unwrap(), [name("r1")]);
    let loaded = again.load(&name("r1"), true).await.unwrap();
    assert_eq!((loaded.part.entries, loaded.header.state), (entries(0..3), RunState::Waiting { until: 50 }));
}

/// Who has not heard that it was taken says it again: nothing is added twice, and it is not taken for somebody else's.
#[tokio::test]
async fn what_is_added_again_is_there_once() {
    let store = Store::in_memory();
    let book = book(&store);
    begin(&book, "r1").await;
    for then in [Then::GoesOn, Then::Waits(7), Then::Suspended] {
        let added = book.header(&name("r1")).await.unwrap();
        let more = Append { then, ..append(added.lease, added.entries, added.entries + 2) };
        let Appended { header, is_new } = book.append(&name("r1"), &more.clone()).await.unwrap();
        let again = book.append(&name("r1"), &more.clone()).await.unwrap();
        assert_eq!((is_new, again), (true, Appended { header, is_new: false }), "it is counted once");
        let other = Append { entries: entries(90..92), ..more.clone() };
        assert!(is_lost(&book.append(&name("r1"), &other).await));
        let otherwise = Append { then: Then::Waits(8), ..more };
        assert!(is_lost(&book.append(&name("r1"), &otherwise).await));
        book.lease(&name("r1"), "node-1", None).await.unwrap();
    }
    let header = book.header(&name("r1")).await.unwrap();
    let ends = Then::Ends(9, Outcome::Completed(Arc::new(json!(1))));
    let end = Append { then: ends, ..append(header.lease, header.entries, header.entries + 1) };
    book.append(&name("r1"), &end.clone()).await.unwrap();
    assert_eq!(book.append(&name("r1"), &end.clone()).await.unwrap().header.state, RunState::Completed);
    assert!(is_lost(&book.append(&name("r1"), &Append { then: Then::GoesOn, ..end }).await));
    assert_eq!(book.load(&name("r1"), false).await.unwrap().part.entries.len(), 7);
}

/// What would be too much for one answer is read in several.
#[tokio::test]
async fn a_large_history_is_read_in_parts() {
    let store = Store::in_memory();
    let book = book(&store);
    begin(&book, "r1").await;
    let large = |ask| {
        let result = Ok(Arc::new(json!("x".repeat(256 << 10))));
        HistoryEntry::new(7, RunEvent::Answered { ask: AskId(ask), result })
    };
    let mut written = Vec::new();
    for first in (0..80).step_by(2) {
        let added = vec![large(first), large(first + 1)];
        written.extend(added.clone());
        let more = Append { entries: added, ..append(1, first, first) };
        book.append(&name("r1"), &more).await.unwrap();
    }
    let first = book.load(&name("r1"), false).await.unwrap().part;
    assert!(first.has_more && first.entries.len() < 80, "{}", first.entries.len());
    let (mut read, mut has_more) = (first.entries, first.has_more);
    while has_more {
        let part = book.history(&name("r1"), read.len() as u32).await.unwrap();
        read.extend(part.entries);
        has_more = part.has_more;
    }
    assert!(read == written);
}

#[tokio::test]
async fn a_history_has_no_more_than_it_may() {
    let store = Store::in_memory();
    let bounds = RunBounds { history: 2_000, ..RunBounds::default() };
    let book = RunBook::new(store.clone(), Seal::new(SECRET), bounds);
    begin(&book, "r1").await;
    let mut entries = 0;
    let refused = loop {
        match book.append(&name("r1"), &append(1, entries, entries + 1)).await {
            Ok(added) => entries = added.header.entries,
            Err(error) => break error,
        }
        assert!(entries < 100, "a limit");
    };
    assert!(matches!(refused, FlowsError::TooLarge(_)) && entries > 5, "{refused:?} after {entries}");
    let ends = Append {
        then: Then::Ends(9, Outcome::Cancelled),
        entries: Vec::new(),
        ..append(1, entries, entries)
    };
    assert_eq!(book.append(&name("r1"), &ends).await.unwrap().header.state, RunState::Cancelled);
    assert_eq!(book.load(&name("r1"), false).await.unwrap().part.entries.len(), entries as usize);
}

#[tokio::test]
async fn what_cannot_be_read_stops_nothing() {
    let store = Store::in_memory();
    let book = book(&store);
    for run in ["r1", "r2", "r3"] {
        begin(&book, run).await;
        let end = Append { then: Then::Ends(5, Outcome::Cancelled), ..append(1, 0, 1) };
        book.append(&name(run), &end).await.unwrap();
    }
    let put = vec![("flow/h/shop/order/r2".into(), "spoilt".into())];
    store.write_records(crate::store::RecordWrite { put, ..Default::default() }).await.unwrap();
    let page = book.list(Some("shop"), None, None, 9).await.unwrap();
    assert_eq!(page.headers.iter().map(|header| &*header.name.run).collect::<Vec<_>>(), ["r1", "r3"]);
    // Page by page, too.
    let page = book.list(None, None, Some(&name("r1")), 1).await.unwrap();
    assert_eq!((page.headers.len(), page.next), (0, Some(name("r2"))));
    let (gone, left) = book.prune("shop", "order", 0, 0).await.unwrap();
    assert_eq!((gone.len(), left), (3, 0));
    // Who went by its workflow, only its header has said.
    assert_eq!(everything(&store).await.len(), 2);
    book.sweep().await.unwrap();
    assert_eq!(everything(&store).await, [""; 0]);
}

#[tokio::test]
async fn a_sweep_takes_what_is_of_no_run() {
    let store = Store::in_memory();
    let book = book(&store);
    let given = Some(Given { name: "order-7".into(), body: "a".into() });
    book.start(Start { given, ..start("r1") }).await.unwrap();
    book.sweep().await.unwrap();
    let before = everything(&store).await;
    assert!(
        before.iter().any(|key| key.starts_with("flow/w/"))
            && before.iter().any(|key| key.starts_with("flow/n/"))
    );
    assert_eq!(book.load(&name("r1"), true).await.unwrap().workflow, start("r1").workflow);
    // A crash has left the workflow of a run that was forgotten.
    let put = vec![("flow/w/shop/f00d".into(), "x".into()), ("flow/u/shop/f00d/order/r0".into(), "".into())];
    store.write_records(crate::store::RecordWrite { put, ..Default::default() }).await.unwrap();
    book.sweep().await.unwrap();
    assert_eq!(everything(&store).await, before);
}

#[tokio::test]
async fn a_run_waits_for_its_turn_is_cancelled_and_goes_on() {
    let store = Store::in_memory();
    let book = book(&store);
    let Started::New(header) = book.start(Start { runner: None, ..start("r1") }).await.unwrap() else {
        panic!()
    };
    assert_eq!((header.state, header.lease, &*header.runner), (RunState::Queued, 0, ""));
    assert_eq!(book.queued("shop", "order", 9).await.unwrap(), [name("r1")]);
    assert!(is_lost(&book.append(&name("r1"), &Append { lease: 1, ..append(1, 0, 1) }).await));
    assert!(is_lost(&book.cancel(&name("r1"), 5, |now| now == RunState::Active).await));
    let header = book.cancel(&name("r1"), 5, |now| now == RunState::Queued).await.unwrap();
    assert_eq!(
        (header.state, header.ended, header.entries, header.lease),
        (RunState::Cancelled, Some(5), 1, 1)
    );
    assert!(book.queued("shop", "order", 9).await.unwrap().is_empty());
    assert!(is_lost(&book.cancel(&name("r1"), 5, |_| true).await));
    let header = book.reopen(&name("r1"), "node-2/1", &"/do/0/a".into()).await.unwrap();
    assert_eq!((header.state, header.ended, header.lease), (RunState::Active, None, 2));
    assert_eq!(book.outcome(&name("r1")).await.unwrap(), None);
    assert_eq!(book.active(None, 9).await.unwrap(), [name("r1")]);
    let end = Then::Ends(9, Outcome::Completed(Arc::new(json!(1))));
    book.append(&name("r1"), &Append { then: end, ..append(2, 1, 2) }).await.unwrap();
    assert!(is_lost(&book.reopen(&name("r1"), "node-2/1", &"/do/0/a".into()).await));
    assert_eq!(book.prune("shop", "order", 0, 0).await.unwrap().0, [name("r1")]);
    assert_eq!(everything(&store).await, [""; 0]);
}

#[tokio::test]
async fn what_is_wanted_of_a_run_is_kept_until_its_history_shows_it() {
    let store = Store::in_memory();
    let book = book(&store);
    begin(&book, "r1").await;
    let run = name("r1");
    let wanted = async || book.header(&run).await.unwrap().wanted.all();
    for wish in [RunWish::Suspend, RunWish::Resume, RunWish::Suspend] {
        book.want(&run, &wish).await.unwrap();
    }
    assert_eq!(wanted().await, [RunWish::Suspend]);
    // Other entries say nothing of it, and a new runner is told.
    book.append(&run, &append(1, 0, 1)).await.unwrap();
    assert_eq!(book.lease(&run, "node-2", None).await.unwrap().wanted.all(), [RunWish::Suspend]);
    let suspended = HistoryEntry::new(5, RunEvent::Suspended);
    let append_of = |first, entries, then| Append { lease: 2, first, entries, checkpoint: None, then };
    book.append(&run, &append_of(1, vec![suspended], Then::GoesOn)).await.unwrap();
    assert_eq!(wanted().await, []);
    // What its runner did not hear in time is for the next one, and what came to nothing is not wanted for ever.
    book.want(&run, &RunWish::Resume).await.unwrap();
    let header = book.append(&run, &append_of(2, Vec::new(), Then::Suspended)).await.unwrap().header;
    assert_eq!((header.state, &*header.runner, header.lease), (RunState::Active, "", 3));
    assert_eq!(book.active(None, 9).await.unwrap(), std::slice::from_ref(&run));
    let header = book.lease(&run, "node-3", None).await.unwrap();
    assert_eq!((header.lease, header.wanted.all()), (4, vec![RunWish::Resume]));
    let waits = Append { lease: 4, ..append_of(2, Vec::new(), Then::Waits(9_000)) };
    let header = book.append(&run, &waits).await.unwrap().header;
    assert_eq!((header.state, header.wanted.is_empty()), (RunState::Waiting { until: 9_000 }, true));
    assert!(is_lost(&book.want(&run, &RunWish::Suspend).await), "nobody has it");
    book.lease(&run, "node-3", Some(&RunWish::Suspend)).await.unwrap();
    assert_eq!(wanted().await, [RunWish::Suspend]);
    let cancelled = book.cancel(&run, 7_000, |_| true).await.unwrap();
    assert!(cancelled.wanted.is_empty());
    let header = book.reopen(&run, "node-3", &"/do/0/a".into()).await.unwrap();
    assert_eq!(header.wanted.all(), [RunWish::Retry("/do/0/a".into())]);
}

#[tokio::test]
async fn who_wants_something_does_not_keep_a_run_from_going_on() {
    let store = Store::in_memory();
    let book = book(&store);
    begin(&book, "r1").await;
    let run = name("r1");
    let adds = async {
        for first in 0..50 {
            book.append(&run, &append(1, first, first + 1)).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let wants = async {
        for _ in 0..50 {
            book.want(&run, &RunWish::Suspend).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(adds, wants);
    assert_eq!(book.load(&run, false).await.unwrap().part.entries, entries(0..50));
}
