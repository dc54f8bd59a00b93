//! What the store does where its disk fails or is full.

use std::sync::atomic::Ordering::SeqCst;

use super::super::{Precondition, Store};
use super::tests::value;
use super::*;

/// A store in a folder, as long as it lives.
struct StoreInFolder {
    folder: tempfile::TempDir,
    embedded: Embedded,
    store: Store,
}

impl StoreInFolder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::create(&folder.path().join("store.redb"), "/owner", b"").unwrap();
        Self { folder, store: Store::Embedded(embedded.clone()), embedded }
    }

    fn reserve(&self) -> &Reserve {
        &self.embedded.inner.place.reserve
    }

    /// Drops what is in the cache: the next read goes to the file.
    async fn forget(&self) {
        let place = &self.embedded.inner.place;
        self.embedded.inner.database.read().await.retire();
        let opened = Opened::writable(place).unwrap();
        *self.embedded.inner.database.write().await = opened;
        self.embedded.inner.has_reopened();
    }

    async fn eventually<T>(&self, what: &str, mut seen: impl AsyncFnMut(&Store) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(seen) = seen(&self.store).await {
                return seen;
            }
            assert!(Instant::now() < end, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn one_failed_read_is_got_over_with_nothing_written() {
    let made = StoreInFolder::new();
    made.store.put("/a", value("1"), Precondition::Any).await.unwrap();
    made.forget().await;
    made.reserve().faults.reads.store(1, SeqCst);
    // Whoever meets it gets the value, and so do others.
    assert_eq!(made.store.get("/a").await.unwrap().unwrap().value, value("1"));
    assert_eq!(made.reserve().faults.reads.load(SeqCst), 0, "it was met");
    assert_eq!(made.store.get("/a").await.unwrap().unwrap().value, value("1"));
    assert_eq!(made.store.put("/a", value("2"), Precondition::Any).await, Ok(3));
    assert_eq!(made.store.trouble(), None);
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_keeps_nobody_waiting_and_heals() {
    let made = StoreInFolder::new();
    made.store.put("/a", value("1"), Precondition::Any).await.unwrap();
    made.forget().await;
    made.reserve().faults.reads.store(u64::MAX, SeqCst);
    let start = Instant::now();
    for _ in 0..100 {
        let error = made.store.get("/a").await.unwrap_err();
        assert!(matches!(error, StoreError::Io(_) | StoreError::Reopening), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let error = made.store.get("/a").await.unwrap_err().to_string();
    assert!(error.contains("cannot be used"), "{error}");
    made.reserve().faults.reads.store(0, SeqCst);
    made.eventually("reads", async |store| store.get("/a").await.ok()).await;
    made.eventually("well", async |store| store.trouble().is_none().then_some(())).await;
}

#[tokio::test]
async fn writes_that_fail_are_tried_at_longer_and_longer_intervals() {
    let made = StoreInFolder::new();
    let put = async |store: &Store| store.put("/a", vec![1; 100_000], Precondition::Any).await;
    made.reserve().faults.writes.store(true, SeqCst);
    let error = put(&made.store).await.unwrap_err();
    assert!(matches!(error, StoreError::Io(_)), "{error}");
    // What is refused for that does not wait for the disk, and reading goes on.
    assert!(put(&made.store).await.is_err() && made.store.get("/owner").await.unwrap().is_some());
    made.reserve().faults.writes.store(false, SeqCst);
    made.eventually("writes", async |store| put(store).await.ok()).await;
    assert_eq!(made.store.trouble(), None);
}

#[tokio::test]
async fn what_was_written_though_it_failed_is_found_when_the_log_does_not_have_it() {
    let made = StoreInFolder::new();
    let mut watch = made.store.watch("/", made.store.revision().await.unwrap()).await.unwrap();
    // As a commit leaves it that reached the disk, with no log, and reported a failure.
    {
        let database = made.embedded.inner.database.read().await;
        let transaction = database.database.begin_write().unwrap();
        {
            let mut meta = transaction.open_table(META).unwrap();
            meta.insert(REVISION, 9).unwrap();
            meta.insert(COMPACTED, 9).unwrap();
        }
        transaction.commit().unwrap();
    }
    made.forget().await;
    made.reserve().faults.reads.store(1, SeqCst);
    made.store.get("/owner").await.unwrap();
    assert_eq!(made.store.put("/a", value("1"), Precondition::Any).await, Ok(10));
    assert_eq!(made.store.revision().await.unwrap(), 10);
    assert!(matches!(watch.next().await, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn a_write_that_needs_more_than_there_is_does_not_make_room_again_and_again() {
    let made = StoreInFolder::new();
    let room = 256 << 10;
    made.reserve().faults.free.store(2 * room, SeqCst);
    for round in 0..20 {
        let large = made.store.put("/large", vec![1; 1 << 20], Precondition::Any).await;
        assert!(matches!(large, Err(StoreError::Full(_))), "round {round}: {large:?}");
        // What is small is taken, and is no sign that all is well.
        made.store.put("/small", vec![1; 1000], Precondition::Any).await.unwrap();
        made.store.delete("/small", Precondition::Any).await.unwrap();
        assert!(matches!(made.store.trouble(), Some(StoreError::Full(_))), "round {round}");
    }
    assert_eq!(made.reserve().faults.compactions.load(SeqCst), 1);
    made.reserve().faults.free.store(u64::MAX, SeqCst);
    made.eventually("well", async |store| store.trouble().is_none().then_some(())).await;
    made.store.put("/large", vec![1; 1 << 20], Precondition::Any).await.unwrap();
}

#[tokio::test]
async fn only_what_deletes_spends_the_reserve_and_it_is_filled_again_with_what_fits() {
    let made = StoreInFolder::new();
    for i in 0..40 {
        made.store.put(&format!("/a/{i:02}"), vec![1; 50_000], Precondition::Any).await.unwrap();
    }
    assert!(made.reserve().is_whole());
    let file = made.folder.path().join("store.reserve");
    // A part of what was there is better than nothing.
    made.reserve().faults.full.store(true, SeqCst);
    made.reserve().faults.free.store(100 << 10, SeqCst);
    made.store.delete_with("/owner", Precondition::Any, vec!["/a/".to_owned()]).await.unwrap();
    made.reserve().faults.full.store(false, SeqCst);
    let length = || std::fs::metadata(&file).map_or(0, |file| file.len());
    let part = made.eventually("a part", async |_| Some(length()).filter(|&length| length > 0)).await;
    assert!(part < 8 << 20 && !made.reserve().is_whole(), "{part}");
    made.reserve().faults.free.store(u64::MAX, SeqCst);
    // With nothing written.
    made.eventually("all of it", async |_| made.reserve().is_whole().then_some(())).await;
    assert!(length() > part);
}

#[tokio::test]
async fn what_is_deleted_does_not_move_to_a_log_that_has_no_room() {
    let made = StoreInFolder::new();
    for i in 0..20 {
        made.store.put(&format!("/a/{i}"), vec![1; 50_000], Precondition::Any).await.unwrap();
    }
    let before = made.store.revision().await.unwrap();
    made.reserve().faults.free.store(300 << 10, SeqCst);
    made.store.delete_with("/owner", Precondition::Any, vec!["/a/".to_owned()]).await.unwrap();
    assert!(matches!(made.store.watch("/", before).await, Err(StoreError::Compacted { .. })));
    assert_eq!(made.store.list("/", None, 10).await.unwrap().items.len(), 0);
    // The same with room is in the log.
    made.reserve().faults.free.store(u64::MAX, SeqCst);
    made.store.put("/a", vec![1; 50_000], Precondition::Any).await.unwrap();
    let before = made.store.revision().await.unwrap();
    made.store.delete("/a", Precondition::Any).await.unwrap();
    assert_eq!(made.store.watch("/", before).await.unwrap().next().await.unwrap().key.as_ref(), "/a");
}

#[tokio::test]
async fn one_key_is_put_and_another_consumed_or_nothing_is_done() {
    let made = StoreInFolder::new();
    let token = made.store.put("/token", value("t"), Precondition::Any).await.unwrap();
    let put = async |key: &str, bytes: usize| {
        let put = made.store.put_consuming(key, vec![1; bytes], Precondition::Absent, ("/token", token));
        put.await.map(|written| written.revision)
    };
    made.reserve().faults.free.store(1000, SeqCst);
    assert!(matches!(put("/n", 10).await, Err(StoreError::Full(_))));
    assert!(made.store.get("/token").await.unwrap().is_some());
    made.reserve().faults.free.store(u64::MAX, SeqCst);
    assert!(matches!(put("/owner", 10).await, Err(StoreError::AlreadyExists(_))));
    assert!(made.store.get("/token").await.unwrap().is_some());
    assert_eq!(put("/n", 10).await, Ok(token + 2));
    assert!(
        made.store.get("/token").await.unwrap().is_none() && made.store.get("/n").await.unwrap().is_some()
    );
    assert_eq!(put("/m", 10).await, Err(StoreError::RequirementChanged("/token".to_owned())));
}
