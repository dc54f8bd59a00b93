use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use bytes::Bytes;

use super::super::conformance::is_at_the_end;
use super::super::{Precondition, Store};
use super::*;

pub(super) fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn a_watch_that_lags_reads_on_from_the_log_until_that_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(&folder.path().join("store.redb"), "/owner", b"").unwrap();
    let put = async |n: usize| store.put(&format!("/{n}"), value("1"), Precondition::Any).await.unwrap();
    let mut watch = store.watch("/", 1).await.unwrap();
    for n in 0..(2 * WATCH_BUFFER) {
        put(n).await;
    }
    for n in 0..100 {
        assert_eq!(watch.next().await.unwrap().key.as_ref(), format!("/{n}"));
    }
    let mut stuck = store.watch("/", store.revision().await.unwrap()).await.unwrap();
    for n in 0..(2 * WATCH_BUFFER) {
        put(n).await;
    }
    store.compact(store.revision().await.unwrap()).await.unwrap();
    assert!(matches!(stuck.next().await, Err(StoreError::Compacted { .. })));
}

#[test]
fn the_end_of_a_prefix_follows_all_its_keys() {
    assert_eq!(prefix_end("/a/"), Some("/a0".to_owned()));
    assert_eq!(prefix_end("\u{10FFFF}"), None);
    assert_eq!(prefix_end("a\u{D7FF}"), Some("a\u{E000}".to_owned()));
}

#[tokio::test]
async fn a_second_process_is_told_that_the_store_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Store::create(&path, "/owner", b"").unwrap();
    assert!(matches!(Store::open(&path), Err(OpenError::InUse(_))));
    drop(store);
}

/// Set for the process that [`kill_9_loses_no_acknowledged_write`] starts and kills.
const CHILD: &str = "TULLE_TEST_STORE";

#[test]
fn kill_9_loses_no_acknowledged_write() {
    if let Some(path) = std::env::var_os(CHILD) {
        write_until_killed(Path::new(&path));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut acknowledged = 0;
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "store::embedded::tests::kill_9_loses_no_acknowledged_write"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledgement = || -> Option<u64> {
            loop {
                let line = lines.next()?.unwrap();
                // The first line may follow the test harness's words on the same line.
                if let Some((_, number)) = line.rsplit_once("acknowledged ") {
                    // A line cut by the kill has no end mark.
                    return number.strip_suffix('.').map(|number| number.parse().unwrap());
                }
            }
        };
        while acknowledged < round * 200 {
            acknowledged = acknowledgement().unwrap();
        }
        child.kill().unwrap();
        while let Some(number) = acknowledgement() {
            acknowledged = number;
        }
        child.wait().unwrap();

        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        acknowledged = runtime.block_on(check_after_kill(&path, acknowledged));
    }
}

/// Checks that all that was acknowledged is there; returns what is.
async fn check_after_kill(path: &Path, acknowledged: u64) -> u64 {
    let store = Store::open(path).unwrap();
    let revision = store.revision().await.unwrap();
    assert!(revision >= acknowledged, "{acknowledged} acknowledged, {revision} found");
    for n in 1..=acknowledged {
        let stored = store.get(&format!("/{n:08}")).await.unwrap().unwrap();
        assert_eq!((stored.value, stored.revision), (value(&n.to_string()), n));
    }
    // Values and log tell the same story, to the last write.
    assert_eq!(store.list("/", None, usize::MAX).await.unwrap().items.len() as u64, revision);
    let mut watch = store.watch("/", 0).await.unwrap();
    for n in 1..=revision {
        assert_eq!(watch.next().await.unwrap().revision, n);
    }
    assert!(is_at_the_end(&mut watch).await);
    revision
}

fn write_until_killed(path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // What it is made with is the first of the numbers.
        let store = Store::create(path, "/00000001", b"1").unwrap();
        loop {
            let next = store.revision().await.unwrap() + 1;
            let put = async |n: u64| {
                store.put(&format!("/{n:08}"), value(&n.to_string()), Precondition::Absent).await
            };
            let (first, second) = tokio::join!(biased; put(next), put(next + 1));
            println!("acknowledged {}.", first.unwrap());
            println!("acknowledged {}.", second.unwrap());
        }
    });
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_no_panic_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Store::create(&path, "/owner", b"").unwrap();
    for i in 0..200 {
        store.put(&format!("/a/{i:03}"), vec![b'x'; 500], Precondition::Any).await.unwrap();
    }
    drop(store);
    let good = loop {
        // The writer's thread lets go of the file a moment later.
        match Store::open(&path) {
            Ok(store) => {
                assert_eq!(store.list("/a/", None, 1000).await.unwrap().items.len(), 200);
                drop(store);
                std::thread::sleep(Duration::from_millis(100));
                break std::fs::read(&path).unwrap();
            }
            Err(error) => assert!(matches!(error, OpenError::InUse(_)), "{error}"),
        }
    };
    let damaged = folder.path().join("damaged.redb");
    let mut refused = 0;
    for page in 1..good.len() / 4096 {
        let mut bytes = good.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0x5a);
        std::fs::write(&damaged, bytes).unwrap();
        match Store::open(&damaged) {
            // A page that was in no use.
            Ok(store) => assert_eq!(store.list("/a/", None, 1000).await.unwrap().items.len(), 200),
            Err(OpenError::Failed { cause, .. }) => {
                assert!(cause.contains("the file is damaged"), "{cause}");
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
        std::fs::remove_file(&damaged).unwrap();
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn a_store_that_is_not_there_is_not_made_by_opening_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    assert!(matches!(Store::open(&path), Err(OpenError::Failed { .. })));
    assert!(!path.exists());
    std::fs::write(&path, "").unwrap();
    let message = Store::open(&path).unwrap_err().to_string();
    assert!(message.contains("empty") && message.contains("backup"), "{message}");
    // A database that is none of ours.
    std::fs::remove_file(&path).unwrap();
    drop(Database::create(&path).unwrap());
    let message = Store::open(&path).unwrap_err().to_string();
    assert!(message.contains("no store of a mesh"), "{message}");
}

#[tokio::test]
async fn a_store_is_whole_when_it_appears_and_stays_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    // Left by a process that was killed while it made one.
    std::fs::write(path.with_extension("redb.new"), [0; 8192]).unwrap();
    let store = Store::create(&path, "/owner", b"first").unwrap();
    store.put("/a", value("1"), Precondition::Absent).await.unwrap();
    drop(store);
    let again = Store::create(&path, "/owner", b"second").unwrap();
    assert_eq!(again.get("/owner").await.unwrap().unwrap().value, value("first"));
    assert_eq!(again.revision().await.unwrap(), 2);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["store.redb", "store.reserve"]);
}

#[tokio::test]
async fn leases_end_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Store::create(&path, "/owner", b"").unwrap();
    let lease = store.grant_lease("n1", Duration::from_secs(3600)).await.unwrap();
    assert_eq!(store.keep_alive(&lease).await, Ok(true));
    drop(store);
    let store = Store::open(&path).unwrap();
    store.lease_ended("n1").await.unwrap();
    assert_eq!(store.keep_alive(&lease).await, Ok(false));
}
