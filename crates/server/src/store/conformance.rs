//! What every back end of the store does: the same cases for each.

use std::collections::BTreeMap;

use futures_util::FutureExt;

use super::*;

/// A store with nothing under `/x/`, and its folder.
struct StoreUnderTest {
    store: Store,
    _folder: Option<tempfile::TempDir>,
}

fn embedded() -> StoreUnderTest {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(&folder.path().join("store.redb"), "/owner", b"").unwrap();
    StoreUnderTest { store, _folder: Some(folder) }
}

fn memory() -> StoreUnderTest {
    StoreUnderTest { store: Store::in_memory(), _folder: None }
}

#[tokio::test]
async fn the_embedded_store_conforms() {
    conforms(embedded).await;
}

#[tokio::test]
async fn the_store_in_memory_conforms() {
    conforms(memory).await;
}

#[tokio::test(start_paused = true)]
async fn leases_of_the_embedded_store_conform() {
    leases_conform(embedded).await;
}

#[tokio::test(start_paused = true)]
async fn leases_of_the_store_in_memory_conform() {
    leases_conform(memory).await;
}

async fn leases_conform(make: impl Fn() -> StoreUnderTest) {
    a_lease_ends_when_it_is_not_kept_alive(&make().store).await;
    a_lease_that_is_taken_back_ends_at_once(&make().store).await;
    a_name_that_is_leased_anew_has_one_lease(&make().store).await;
    leases_are_one_names_and_write_nothing(&make().store).await;
}

async fn conforms(make: impl Fn() -> StoreUnderTest) {
    preconditions_hold(&make().store).await;
    what_another_key_has_to_be_is_heeded(&make().store).await;
    lists_are_ordered_and_come_in_pages(&make().store).await;
    lists_as_of_a_revision_show_what_was(&make().store).await;
    what_is_forgotten_and_what_is_to_come_is_refused(&make().store).await;
    a_transaction_is_done_whole_and_seen_whole(&make().store).await;
    a_transaction_that_is_refused_leaves_nothing(&make().store).await;
    of_writers_that_race_one_wins(&make().store).await;
    watches_miss_nothing_and_repeat_nothing(&make().store).await;
    a_watch_goes_on_from_where_another_was(&make().store).await;
    a_batch_is_what_is_there(&make().store).await;
    a_watch_that_is_not_waited_for_loses_nothing(&make().store).await;
    records_are_written_whole_or_not_at_all(&make().store).await;
    records_are_no_revisions(&make().store).await;
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn keys(list: &List) -> Vec<&str> {
    list.items.iter().map(|(key, _)| key.as_str()).collect()
}

async fn put(store: &Store, key: &str, text: &str) -> u64 {
    store.put(key, value(text), Precondition::Any).await.unwrap()
}

/// All that is there.
async fn all(store: &Store) -> BTreeMap<String, Bytes> {
    let list = store.list("/x/", None, usize::MAX).await.unwrap();
    list.items.into_iter().map(|(key, stored)| (key, stored.value)).collect()
}

/// What there is to be read now.
async fn rest(watch: &mut Watch) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = tokio::task::unconstrained(watch.next()).now_or_never() {
        events.push(event.unwrap());
    }
    events
}

/// Whether there is nothing more to be read now.
pub(super) async fn is_at_the_end(watch: &mut Watch) -> bool {
    tokio::task::unconstrained(watch.next()).now_or_never().is_none()
}

async fn preconditions_hold(store: &Store) {
    let put = async |key: &str, text: &str, precondition| store.put(key, value(text), precondition).await;
    let first = put("/x/a", "1", Precondition::Absent).await.unwrap();
    let exists = StoreError::AlreadyExists("/x/a".to_owned());
    assert_eq!(put("/x/a", "2", Precondition::Absent).await, Err(exists));
    let second = put("/x/a", "2", Precondition::Revision(first)).await.unwrap();
    assert!(second > first);
    let conflict = StoreError::Conflict { key: "/x/a".to_owned(), revision: second };
    assert_eq!(put("/x/a", "3", Precondition::Revision(first)).await, Err(conflict.clone()));
    let missing = |key: &str| StoreError::NotFound(key.to_owned());
    assert_eq!(put("/x/b", "3", Precondition::Revision(second)).await, Err(missing("/x/b")));
    let stored = store.get("/x/a").await.unwrap().unwrap();
    assert_eq!(stored, Stored { value: value("2"), revision: second, create_revision: first });
    let written = store.put_requiring("/x/a", value("3"), Precondition::Any, None).await.unwrap();
    assert_eq!(written.previous, Some(stored));

    assert!(matches!(
        store.delete("/x/a", Precondition::Revision(first)).await,
        Err(StoreError::Conflict { .. })
    ));
    let (gone, previous) = store.delete("/x/a", Precondition::Revision(written.revision)).await.unwrap();
    assert!(gone > written.revision);
    assert_eq!((previous.value, previous.revision), (value("3"), written.revision));
    assert_eq!(store.get("/x/a").await.unwrap(), None);
    assert_eq!(store.delete("/x/a", Precondition::Any).await, Err(missing("/x/a")));
    assert_eq!(store.revision().await.unwrap(), gone, "what is refused is no write");
    // It is another one now.
    let again = put("/x/a", "4", Precondition::Absent).await.unwrap();
    assert_eq!(store.get("/x/a").await.unwrap().unwrap().create_revision, again);
}

async fn what_another_key_has_to_be_is_heeded(store: &Store) {
    let put_if = async |key: &str, precondition, required| {
        let written = store.put_requiring(key, value("1"), precondition, Some(required)).await;
        written.map(|written| written.revision)
    };
    let changed = |key: &str| Err(StoreError::RequirementChanged(key.to_owned()));
    assert_eq!(put_if("/x/a", Precondition::Any, ("/x/ns", 1)).await, changed("/x/ns"));
    let first = put(store, "/x/ns", "1").await;
    put_if("/x/a", Precondition::Absent, ("/x/ns", first)).await.unwrap();
    put(store, "/x/ns", "2").await;
    assert_eq!(put_if("/x/b", Precondition::Any, ("/x/ns", first)).await, changed("/x/ns"));
    store.delete("/x/ns", Precondition::Any).await.unwrap();
    assert_eq!(put_if("/x/b", Precondition::Any, ("/x/ns", first)).await, changed("/x/ns"));
    // The key's own condition is looked at first.
    let own = put_if("/x/a", Precondition::Absent, ("/x/ns", first)).await;
    assert_eq!(own, Err(StoreError::AlreadyExists("/x/a".to_owned())));
    assert_eq!(all(store).await.into_keys().collect::<Vec<_>>(), ["/x/a"]);
}

async fn lists_are_ordered_and_come_in_pages(store: &Store) {
    // By their bytes, and not beyond the prefix.
    for key in ["/x/b", "/x/\u{e9}", "/x/a/c", "/x/a", "/x/B", "/x0", "/w", "/x/a-"] {
        put(store, key, key).await;
    }
    let ordered = ["/x/B", "/x/a", "/x/a-", "/x/a/c", "/x/b", "/x/\u{e9}"];
    let list = store.list("/x/", None, usize::MAX).await.unwrap();
    assert_eq!((keys(&list), list.more), (ordered.to_vec(), false));
    assert_eq!(list.revision, store.revision().await.unwrap());
    for (after, limit, expected, more) in [
        (None, 2, &ordered[..2], true),
        (Some("/x/a"), 2, &ordered[2..4], true),
        (Some("/x/a/"), 2, &ordered[3..5], true),
        (Some("/x/a/c"), 2, &ordered[4..], false),
        (Some("/x/\u{e9}"), 2, &[], false),
        // Before the prefix, and behind it.
        (Some("/a"), 1, &ordered[..1], true),
        (Some("/z"), 1, &[], false),
        (None, 6, &ordered, false),
    ] {
        let page = store.list("/x/", after, limit).await.unwrap();
        assert_eq!((keys(&page), page.more), (expected.to_vec(), more), "{after:?} {limit}");
    }
}

async fn lists_as_of_a_revision_show_what_was(store: &Store) {
    for key in ["/x/a", "/x/b", "/x/c", "/x/d", "/y/a"] {
        put(store, key, "old").await;
    }
    let first = store.list("/x/", None, 2).await.unwrap();
    assert_eq!((keys(&first), first.more), (vec!["/x/a", "/x/b"], true));
    store.delete("/x/c", Precondition::Any).await.unwrap();
    put(store, "/x/d", "new").await;
    put(store, "/x/ca", "new").await;
    put(store, "/x/c", "new").await;
    store.delete("/x/d", Precondition::Any).await.unwrap();
    put(store, "/x/a", "new").await;

    let then = async |after, limit| store.list_at("/x/", after, limit, first.revision).await.unwrap();
    let rest = then(Some("/x/b"), 10).await;
    assert_eq!((keys(&rest), rest.more, rest.revision), (vec!["/x/c", "/x/d"], false, first.revision));
    let page = then(Some("/x/b"), 1).await;
    assert_eq!((keys(&page), page.more), (vec!["/x/c"], true));
    let whole = then(None, 10).await;
    assert_eq!(keys(&whole), ["/x/a", "/x/b", "/x/c", "/x/d"]);
    let as_it_was = |stored: &Stored| stored.value == value("old") && stored.revision <= first.revision;
    assert!(whole.items.iter().all(|(_, stored)| as_it_was(stored)));
    let now = store.list("/x/", None, 10).await.unwrap();
    assert_eq!(keys(&now), ["/x/a", "/x/b", "/x/c", "/x/ca"]);
    let same = store.list_at("/x/", None, 10, now.revision).await.unwrap();
    assert_eq!(same.items, now.items);
}

async fn what_is_forgotten_and_what_is_to_come_is_refused(store: &Store) {
    let first = put(store, "/x/a", "1").await;
    let second = put(store, "/x/a", "2").await;
    let third = put(store, "/x/b", "3").await;
    let mut open = store.watch("/x/", third).await.unwrap();
    store.compact(second).await.unwrap();
    let too_old = StoreError::Compacted { revision: first, compacted: second };
    assert_eq!(store.list_at("/x/", None, 10, first).await.unwrap_err(), too_old);
    assert_eq!(store.watch("/x/", first).await.unwrap_err(), too_old);
    // What is not before it is there still.
    let then = store.list_at("/x/", None, 10, second).await.unwrap();
    assert_eq!((keys(&then), &then.items[0].1.value), (vec!["/x/a"], &value("2")));
    assert_eq!(store.watch("/x/", second).await.unwrap().next().await.unwrap().revision, third);
    // Nothing is forgotten that is yet to come, or twice.
    store.compact(u64::MAX).await.unwrap();
    store.compact(first).await.unwrap();
    let fourth = put(store, "/x/a", "4").await;
    assert_eq!(open.next().await.unwrap().revision, fourth);
    assert!(matches!(store.watch("/x/", second).await, Err(StoreError::Compacted { .. })));

    let future = StoreError::Future { revision: fourth + 1000, latest: fourth };
    assert_eq!(store.list_at("/x/", None, 10, fourth + 1000).await.unwrap_err(), future);
    assert_eq!(store.watch("/x/", fourth + 1000).await.unwrap_err(), future);
}

async fn a_transaction_is_done_whole_and_seen_whole(store: &Store) {
    for key in ["/x/ns/a", "/x/svc/a/x", "/x/svc/a/y", "/x/svc/ab/x", "/x/wl/a/z"] {
        put(store, key, "1").await;
    }
    let before = store.revision().await.unwrap();
    let mut watch = store.watch("/x/", before).await.unwrap();
    // Whoever lists meanwhile sees all of it or nothing.
    let inside = ["/x/svc/a/".to_owned(), "/x/wl/a/".to_owned()];
    let other = store.clone();
    let lists = tokio::spawn(async move {
        loop {
            let there = all(&other).await;
            assert!([1, 5].contains(&there.len()), "{there:?}");
            if there.len() == 1 {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let (revision, previous) =
        store.delete_with("/x/ns/a", Precondition::Any, inside.to_vec()).await.unwrap();
    lists.await.unwrap();
    assert_eq!((previous.value, revision), (value("1"), store.revision().await.unwrap()));
    let mut seen = Vec::new();
    for event in rest(&mut watch).await {
        assert_eq!((&event.value, &event.previous), (&None, &Some(value("1"))));
        assert!(event.revision > before && event.revision <= revision);
        seen.push(event.key.to_string());
    }
    // The key itself is the last.
    assert_eq!(seen.last().unwrap(), "/x/ns/a");
    seen.sort();
    assert_eq!(seen, ["/x/ns/a", "/x/svc/a/x", "/x/svc/a/y", "/x/wl/a/z"]);
    assert_eq!(watch.position(), revision);

    // One key is put, and another consumed.
    let token = put(store, "/x/token", "t").await;
    let put_for = async |token| {
        store.put_consuming("/x/node", value("n"), Precondition::Absent, ("/x/token", token)).await
    };
    assert_eq!(put_for(revision).await, Err(StoreError::RequirementChanged("/x/token".to_owned())));
    let written = put_for(token).await.unwrap();
    assert_eq!(written.previous, None);
    assert_eq!(store.get("/x/node").await.unwrap().unwrap().revision, written.revision);
    assert_eq!(store.get("/x/token").await.unwrap(), None);
    let events = rest(&mut store.watch("/x/", token).await.unwrap()).await;
    assert_eq!(events.iter().map(|event| &*event.key).collect::<Vec<_>>(), ["/x/token", "/x/node"]);
}

async fn a_transaction_that_is_refused_leaves_nothing(store: &Store) {
    put(store, "/x/svc/a", "1").await;
    let token = put(store, "/x/token", "t").await;
    let taken = put(store, "/x/node", "n").await;
    let before = all(store).await;
    let inside = || vec!["/x/svc/".to_owned()];
    let missing = StoreError::NotFound("/x/ns".to_owned());
    assert_eq!(store.delete_with("/x/ns", Precondition::Any, inside()).await, Err(missing));
    let stale = store.delete_with("/x/node", Precondition::Revision(token), inside()).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
    let consuming =
        store.put_consuming("/x/node", value("m"), Precondition::Absent, ("/x/token", token)).await;
    assert_eq!(consuming, Err(StoreError::AlreadyExists("/x/node".to_owned())));
    assert_eq!((all(store).await, store.revision().await.unwrap()), (before, taken));
}

async fn of_writers_that_race_one_wins(store: &Store) {
    put(store, "/x/a", "0").await;
    let count = async |store: Store| {
        let mut won = 0;
        while won < 10 {
            let stored = store.get("/x/a").await.unwrap().unwrap();
            let next: u64 = std::str::from_utf8(&stored.value).unwrap().parse().unwrap();
            let next = value(&(next + 1).to_string());
            match store.put("/x/a", next, Precondition::Revision(stored.revision)).await {
                Ok(_) => won += 1,
                Err(error) => assert!(matches!(error, StoreError::Conflict { .. }), "{error}"),
            }
        }
    };
    let writers: Vec<_> = (0..4).map(|_| tokio::spawn(count(store.clone()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(store.get("/x/a").await.unwrap().unwrap().value, value("40"));
}

async fn watches_miss_nothing_and_repeat_nothing(store: &Store) {
    const WRITERS: usize = 4;
    const WRITES: usize = 60;
    let begin = store.revision().await.unwrap();
    let write = async |store: Store, writer: usize| {
        for n in 0..WRITES {
            // Some of their own, some that all write to, some that go, some that nobody looks at.
            put(&store, &format!("/x/{writer}"), &n.to_string()).await;
            put(&store, &format!("/x/all/{}", n % 3), &format!("{writer} {n}")).await;
            put(&store, "/other", "1").await;
            if n % 10 == 0 {
                store.delete(&format!("/x/{writer}"), Precondition::Any).await.unwrap();
            }
        }
    };
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer))).collect();
    // One from the start, and others that come while they write.
    let mut watches = Vec::new();
    for _ in 0..4 {
        let from = store.revision().await.unwrap();
        let list = store.list_at("/x/", None, usize::MAX, from).await.unwrap();
        let known: BTreeMap<String, Bytes> = list.items.into_iter().map(|(k, s)| (k, s.value)).collect();
        watches.push((store.watch("/x/", from).await.unwrap(), known));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let (end, there) = (store.revision().await.unwrap(), all(store).await);
    let total = WRITERS * (2 * WRITES + WRITES.div_ceil(10));
    let whole = rest(&mut store.watch("/x/", begin).await.unwrap()).await;
    assert_eq!(whole.len(), total);
    assert!(whole.is_sorted_by_key(|event| event.revision));
    for (mut watch, mut known) in watches {
        let from = watch.position();
        let events = rest(&mut watch).await;
        assert_eq!(watch.position(), end);
        assert!(events.iter().eq(whole.iter().filter(|event| event.revision > from)));
        for event in events {
            let before = match event.value {
                Some(value) => known.insert(event.key.to_string(), value),
                None => known.remove(&*event.key),
            };
            assert_eq!(before, event.previous, "{}", event.key);
        }
        assert_eq!(known, there);
    }
}

async fn a_watch_goes_on_from_where_another_was(store: &Store) {
    let begin = store.revision().await.unwrap();
    for key in ["/x/a", "/x/b/1", "/x/b/2", "/x/b/3"] {
        put(store, key, "1").await;
    }
    store.delete_with("/x/a", Precondition::Any, vec!["/x/b/".to_owned()]).await.unwrap();
    put(store, "/x/c", "1").await;
    put(store, "/y", "1").await;
    let mut watch = store.watch("/x/", begin).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 9 {
        let position = watch.position();
        let mut other = store.watch("/x/", position).await.unwrap();
        let event = watch.next().await.unwrap();
        // Of a transaction that was begun, it may begin again.
        let mut again = other.next().await.unwrap();
        while again != event {
            assert!(events.contains(&again) && again.revision == event.revision, "{again:?} {event:?}");
            again = other.next().await.unwrap();
        }
        events.push(event);
    }
    assert!(is_at_the_end(&mut watch).await);
    assert_eq!(watch.position(), store.revision().await.unwrap(), "past what it does not show");
}

async fn a_batch_is_what_is_there(store: &Store) {
    let mut watch = store.watch("/x/", store.revision().await.unwrap()).await.unwrap();
    assert!(tokio::task::unconstrained(watch.next_batch(10)).now_or_never().is_none());
    for n in 0..7 {
        put(store, &format!("/x/{n}"), "1").await;
        put(store, &format!("/y/{n}"), "1").await;
    }
    let mut keys = Vec::new();
    for expected in [3, 3, 1] {
        let batch = watch.next_batch(3).await.unwrap();
        assert_eq!(batch.len(), expected);
        keys.extend(batch.into_iter().map(|event| event.key.to_string()));
    }
    assert_eq!(keys, (0..7).map(|n| format!("/x/{n}")).collect::<Vec<_>>());
    assert!(is_at_the_end(&mut watch).await);
    // Whoever waits is woken.
    let woken = tokio::spawn(async move { watch.next_batch(3).await.unwrap().len() });
    tokio::task::yield_now().await;
    put(store, "/x/a", "1").await;
    assert_eq!(woken.await.unwrap(), 1);
}

async fn a_watch_that_is_not_waited_for_loses_nothing(store: &Store) {
    let mut watch = store.watch("/x/", store.revision().await.unwrap()).await.unwrap();
    for n in 0..20 {
        assert!(is_at_the_end(&mut watch).await, "{n}");
        let revision = put(store, "/x/a", &n.to_string()).await;
        assert_eq!(watch.next().await.unwrap().revision, revision);
    }
}

const TIME: Duration = Duration::from_secs(10);

/// How many seconds pass until nobody has a lease of a name.
async fn seconds_until_end(store: &Store, name: &str) -> f64 {
    let start = tokio::time::Instant::now();
    store.lease_ended(name).await.unwrap();
    start.elapsed().as_secs_f64()
}

async fn a_lease_ends_when_it_is_not_kept_alive(store: &Store) {
    assert_eq!(seconds_until_end(store, "n1").await, 0.0, "nobody ever had it");
    let lease = store.grant_lease("n1", TIME).await.unwrap();
    assert_eq!(seconds_until_end(store, "n1").await, 10.0);
    assert_eq!(store.keep_alive(&lease).await, Ok(false));
    assert_eq!(seconds_until_end(store, "n1").await, 0.0, "it does not come back");

    let lease = store.grant_lease("n1", TIME).await.unwrap();
    let (watching, waits) = (store.clone(), tokio::time::Instant::now());
    let waiting = tokio::spawn(async move {
        watching.lease_ended("n1").await.unwrap();
        waits.elapsed().as_secs()
    });
    for _ in 0..5 {
        tokio::time::sleep(TIME * 9 / 10).await;
        assert_eq!(store.keep_alive(&lease).await, Ok(true));
    }
    assert_eq!(waiting.await.unwrap(), 5 * 9 + 10);
}

async fn a_lease_that_is_taken_back_ends_at_once(store: &Store) {
    let lease = store.grant_lease("n1", TIME).await.unwrap();
    let (end, ()) = tokio::join!(seconds_until_end(store, "n1"), async {
        tokio::time::sleep(TIME / 2).await;
        store.revoke_lease(&lease).await.unwrap();
    });
    assert_eq!(end, 5.0);
    assert_eq!(store.keep_alive(&lease).await, Ok(false));
    store.revoke_lease(&lease).await.unwrap();
}

async fn a_name_that_is_leased_anew_has_one_lease(store: &Store) {
    let first = store.grant_lease("n1", TIME).await.unwrap();
    let (end, second) = tokio::join!(seconds_until_end(store, "n1"), async {
        tokio::time::sleep(TIME / 2).await;
        let second = store.grant_lease("n1", TIME * 2).await.unwrap();
        // The one before is worth nothing any more.
        assert_eq!(store.keep_alive(&first).await, Ok(false));
        store.revoke_lease(&first).await.unwrap();
        tokio::time::sleep(TIME).await;
        assert_eq!(store.keep_alive(&second).await, Ok(true));
        second
    });
    assert_eq!(end, 5.0 + 10.0 + 20.0);
    assert_eq!(store.keep_alive(&second).await, Ok(false));
}

async fn leases_are_one_names_and_write_nothing(store: &Store) {
    let revision = store.revision().await.unwrap();
    let leases = [store.grant_lease("n1", TIME).await.unwrap(), store.grant_lease("n2", TIME).await.unwrap()];
    store.revoke_lease(&leases[0]).await.unwrap();
    tokio::time::sleep(TIME / 2).await;
    assert_eq!(store.keep_alive(&leases[1]).await, Ok(true));
    assert_eq!(seconds_until_end(store, "n1").await, 0.0);
    assert_eq!(seconds_until_end(store, "n2").await, 10.0);
    assert_eq!(store.revision().await.unwrap(), revision);
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn record_keys(store: &Store, from: &str, until: &str, limit: usize) -> Vec<String> {
    let records = store.records(from.as_bytes(), until.as_bytes(), limit).await.unwrap();
    records.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

async fn records_are_written_whole_or_not_at_all(store: &Store) {
    assert_eq!(store.record(b"a").await.unwrap(), None);
    assert_eq!(record_keys(store, "", "z", 9).await, [""; 0]);
    let put = ["a1", "a2", "a3", "b1", "c"].map(|key| (bytes(key), bytes("1"))).to_vec();
    store.write_records(RecordWrite { put, ..RecordWrite::default() }).await.unwrap();
    for (from, until, limit, expected) in [
        ("a", "b", 9, &["a1", "a2", "a3"][..]),
        ("a2", "b1", 9, &["a2", "a3"]),
        ("a", "z", 2, &["a1", "a2"]),
        ("b", "a", 9, &[]),
    ] {
        assert_eq!(record_keys(store, from, until, limit).await, expected, "{from} {until}");
    }
    // One of two is otherwise than expected: nothing is written, whichever it is.
    for (expected, text) in [
        (vec![(bytes("a1"), Some(bytes("1"))), (bytes("a2"), Some(bytes("2")))], "a2"),
        (vec![(bytes("new"), None), (bytes("a1"), None)], "a1"),
        (vec![(bytes("gone"), Some(bytes("1")))], "gone"),
    ] {
        let write = RecordWrite {
            expected,
            cleared: vec![(bytes("a"), bytes("b"))],
            deleted: vec![bytes("c")],
            put: vec![(bytes("new"), bytes("2"))],
            ..RecordWrite::default()
        };
        let refused = store.write_records(write).await;
        assert_eq!(refused, Err(StoreError::RecordChanged(text.to_owned())));
        assert_eq!(record_keys(store, "", "z", 9).await, ["a1", "a2", "a3", "b1", "c"]);
    }
    let nothing_in = |from, until| RecordWrite {
        expected_none: vec![(bytes("x"), bytes("z")), (bytes(from), bytes(until))],
        deleted: vec![bytes("c")],
        ..RecordWrite::default()
    };
    let refused = store.write_records(nothing_in("a2", "b")).await;
    assert_eq!(refused, Err(StoreError::RecordChanged("a2".to_owned())));
    assert_eq!(store.record(b"c").await.unwrap(), Some(bytes("1")));
    // What is cleared or deleted can be put again in the same transaction.
    let write = RecordWrite {
        expected_none: vec![(bytes("a4"), bytes("b1"))],
        expected: vec![(bytes("a1"), Some(bytes("1"))), (bytes("new"), None)],
        cleared: vec![(bytes("a"), bytes("b"))],
        deleted: vec![bytes("c"), bytes("gone")],
        put: vec![(bytes("a2"), bytes("2")), (bytes("c"), bytes("2"))],
    };
    store.write_records(write).await.unwrap();
    assert_eq!(record_keys(store, "", "z", 9).await, ["a2", "b1", "c"]);
    assert_eq!(store.record(b"a2").await.unwrap(), Some(bytes("2")));
    // Of writers that expect the same one is first.
    let claim = |by: &'static str| {
        store.write_records(RecordWrite {
            expected: vec![(bytes("owner"), None)],
            put: vec![(bytes("owner"), bytes(by))],
            ..RecordWrite::default()
        })
    };
    let claims = futures_util::future::join_all(["1", "2", "3"].map(claim)).await;
    assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1, "{claims:?}");
}

async fn records_are_no_revisions(store: &Store) {
    let before = put(store, "/x/a", "1").await;
    let mut watch = store.watch("", before).await.unwrap();
    let write = RecordWrite { put: vec![(bytes("/x/b"), bytes("1"))], ..RecordWrite::default() };
    store.write_records(write).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before);
    assert_eq!(store.get("/x/b").await.unwrap(), None);
    assert_eq!(keys(&store.list("/x/", None, 9).await.unwrap()), ["/x/a"]);
    // The first that the watch sees is what is written afterwards.
    let after = put(store, "/x/c", "1").await;
    let event = watch.next().await.unwrap();
    assert_eq!((event.revision, &*event.key), (after, "/x/c"));
}
