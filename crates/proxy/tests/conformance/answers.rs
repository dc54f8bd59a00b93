//! Answers of HTTP/1 as applications send them, and what clients get.

use super::exchange::{Sending, answers, exchange};
use super::http1::Message;
use super::recorder;
use super::stage::{self, Stage, WAYS};
use super::table::{self, Case, bytes, text};

#[tokio::test]
async fn answers_on_the_same_node() {
    run(0).await;
}

#[tokio::test]
async fn answers_over_a_link() {
    run(1).await;
}

#[tokio::test]
async fn answers_from_an_undeclared_port() {
    run(2).await;
}

async fn run(way: usize) {
    let (name, way, protocol) = WAYS[way];
    let stage = Stage::new(way, protocol).await;
    stage::all(table::cases("answers"), move |case, place| {
        let stage = stage.clone();
        async move { check(&stage, place, name, &case).await }
    })
    .await;
}

/// What the application answers to the request that follows, whatever it answered before.
const LAST: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast";

async fn check(stage: &Stage, place: usize, way: &str, case: &Case) -> Result<(), String> {
    let (said, closes) = (case.bytes("<"), case.one("close").is_some());
    let app = recorder::app(move |stream, log| {
        let said = said.clone();
        async move {
            let answer = |request: &Message| match request.first.starts_with(b"GET /last ") {
                true => (LAST.to_vec(), true),
                false => (said.clone(), closes),
            };
            recorder::serve(stream, &log, answer).await;
        }
    })
    .await;
    let entry = stage.put(place, app.address);
    let request = case.one("request").unwrap_or("GET");
    let (method, more) = request.split_once(' ').unwrap_or((request, ""));
    let mut sent = format!("{method} / HTTP/1.1\r\nHost: c\r\n").into_bytes();
    sent.extend_from_slice(&bytes(more));
    sent.extend_from_slice(b"\r\nGET /last HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
    let got = exchange(entry, &sent, Sending::default()).await?;
    let (answers, rest) = answers(&got, &[method == "HEAD"])?;
    let expected = case.on("=", way).ok_or("no verdict")?;
    let told = || text(&got);
    if expected == "cut" {
        // Nobody can take it for whole, and nothing follows it.
        return if answers.is_empty() {
            Ok(())
        } else {
            Err(format!("expected an answer that is cut, got {}", told()))
        };
    }
    let [first, last @ ..] = &answers[..] else { return Err(format!("no answer: {}", told())) };
    let (status, fate) = expected.split_once(' ').unwrap_or((expected, "kept"));
    if !status.split('|').any(|status| status == first.status()) {
        return Err(format!("expected {expected}, got {}", told()));
    }
    let followed = last.len() == 1 && last[0].body == b"last" && rest.is_empty();
    let over = last.is_empty() && rest.is_empty();
    if !(if fate == "closed" { over } else { followed }) {
        return Err(format!("expected it to be {fate}: {}", told()));
    }
    let wanted = case.on("~", way);
    if first.has("tulle-reason") != wanted.is_none() {
        return Err(format!("whose answer is it: {}", told()));
    }
    let dropped = ["transfer-encoding", "date", "connection"];
    let bodiless = method == "HEAD" || first.status() == "304";
    let dropped =
        if bodiless { &dropped[..] } else { &["transfer-encoding", "date", "connection", "content-length"] };
    if let Some(wanted) = wanted {
        let found = first.canonical(dropped);
        if found != bytes(wanted) {
            return Err(format!("expected {wanted}\n    got      {}", text(&found)));
        }
    }
    Ok(())
}
