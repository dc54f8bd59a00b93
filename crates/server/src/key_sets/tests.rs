use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const SET: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Answers each connection with what `answers` says of how many came before; counts them.
async fn serve(answers: impl Fn(usize) -> Vec<u8> + Send + 'static) -> (Arc<str>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = format!("http://{}/jwks.json", listener.local_addr().unwrap()).into();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let answer = answers(counted.fetch_add(1, Ordering::SeqCst));
            tokio::spawn(async move {
                let mut head = [0; 1024];
                let _ = tcp.read(&mut head).await;
                let _ = tcp.write_all(&answer).await;
                // Until the other side has had enough.
                let _ = tcp.read(&mut head).await;
            });
        }
    });
    (source, count)
}

#[tokio::test]
async fn what_is_no_set_of_keys_is_refused_in_bounded_time_and_memory() {
    let huge = "x".repeat(1 << 20);
    for (body, problem) in [
        (answer(SET), None),
        (answer("{}"), Some("it is no set of keys")),
        (answer("no"), Some("it is no JSON")),
        (answer(r#"{"keys":[]}"#), Some("it has no keys")),
        (answer(r#"{"keys":[{"kty":"oct","k":"AA"}]}"#), Some("it has a secret")),
        (answer(&huge), Some("it is larger than 256 KiB")),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n{huge}"), Some("it is larger")),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n".into(),
            Some("the answer is 302"),
        ),
        ("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into(), Some("the answer is 500")),
        ("SSH-2.0\r\n".into(), Some("")),
    ] {
        let (source, _) = serve(move |_| body.clone().into_bytes()).await;
        let read = read::read(&source).await;
        match problem {
            None => assert_eq!(read.as_deref(), Ok(SET)),
            Some(problem) => {
                assert!(read.clone().is_err_and(|said| said.contains(problem)), "{problem}: {read:?}")
            }
        }
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(read::read(&format!("http://{closed}/")).await.unwrap_err().contains("cannot connect"));
    let (source, _) = serve(|_| Vec::new()).await;
    let started = Instant::now();
    assert_eq!(read::read(&source).await, Err("it took more than 5 seconds".to_owned()));
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn files_are_read_to_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let source = format!("file://{}", path.display());
    assert!(read::read(&source).await.is_err());
    std::fs::write(&path, SET).unwrap();
    assert_eq!(read::read(&source).await.as_deref(), Ok(SET));
    std::fs::write(&path, " ".repeat(1 << 20)).unwrap();
    assert_eq!(read::read(&source).await, Err("it is larger than 256 KiB".to_owned()));
    assert!(read::read("file:///dev/zero").await.is_err());
}

/// The reader asks once for all, again when a key is missing but not at once, and what it read outlives it.
#[tokio::test]
async fn sets_are_read_once_and_again_when_a_key_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key-sets.json");
    let (source, count) = serve(|before| answer(&format!("{SET}{}", " ".repeat(before))).into_bytes()).await;
    let (sets, reader) = KeySets::new(file.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(reader.run(stop.clone()));
    sets.read_anew(&source);
    assert_eq!(count.load(Ordering::SeqCst), 0, "no policy names it");
    assert!(sets.want([source.clone()].into()).is_empty());
    let news = sets.changed().await;
    assert_eq!((news.get(&source).map(|set| &**set), news.len()), (Some(SET), 1));
    // A moment ago.
    for _ in 0..10 {
        sets.read_anew(&source);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    stop.cancel();
    running.await.unwrap();

    let (sets, mut reader) = KeySets::new(file.clone());
    assert_eq!(sets.known().get(&source).map(|set| &**set), Some(SET));
    assert_eq!(sets.want([source.clone()].into()).len(), 1, "it is known");
    reader.follow();
    // Long ago.
    let long_ago = Instant::now().checked_sub(ANEW).unwrap();
    let kept = reader.sources.get_mut(&source).unwrap();
    (kept.read, kept.due) = (Some(long_ago), Instant::now() + PERIOD);
    let stop = CancellationToken::new();
    let running = tokio::spawn(reader.run(stop.clone()));
    sets.read_anew(&source);
    let news = sets.changed().await;
    assert_eq!(
        (news.get(&source).map(|set| set.len()), count.load(Ordering::SeqCst)),
        (Some(SET.len() + 1), 2)
    );
    assert!(sets.want(BTreeSet::new()).is_empty());
    while !sets.known().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    running.await.unwrap();
    assert!(KeySets::new(file).0.known().is_empty());
}

/// Nobody waits for the issuer to have other keys.
#[tokio::test]
async fn who_wants_a_set_again_hears_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (source, count) = serve(|_| answer(SET).into_bytes()).await;
    let (sets, mut reader) = KeySets::new(folder.path().join("key-sets.json"));
    let wanted = || BTreeSet::from([source.clone()]);
    let has = |sets: &Sets| sets.get(&source).map(|set| &**set) == Some(SET);
    assert!(sets.want(wanted()).is_empty());
    let stop = CancellationToken::new();
    let shared = reader.shared.clone();
    reader.follow();
    let running = tokio::spawn(reader.run(stop.clone()));
    assert!(has(&sets.changed().await));
    // Before the reader has looked.
    assert!(sets.want(BTreeSet::new()).is_empty());
    assert!(has(&sets.want(wanted())));
    // When it has forgotten what it had.
    assert!(sets.want(BTreeSet::new()).is_empty());
    while !sets.known().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(sets.want(wanted()).is_empty());
    assert!(has(&sets.changed().await), "it is read anew");
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // What was read for who wants it no longer is told to nobody.
    shared.set(&source, "other".into());
    assert!(sets.want(BTreeSet::new()).is_empty());
    let news = tokio::time::timeout(Duration::from_millis(50), sets.changed()).await;
    assert!(news.is_err(), "{news:?}");
    stop.cancel();
    running.await.unwrap();
}
