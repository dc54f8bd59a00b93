//! Answers of HTTP/1 as applications send them, and what clients get.

use tokio::net::TcpStream;

use super::clients::{greeting_with_windows, macros};
use super::exchange::{Sending, answers, exchange};
use super::frames;
use super::http1::Message;
use super::recorder::{self, App};
use super::script::Peer;
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

/// A client of HTTP/2 is told the same.
#[tokio::test]
async fn answers_to_clients_of_http2() {
    let (_, way, protocol) = WAYS[1];
    let stage = Stage::new(way, protocol).await;
    stage::all(table::cases("answers"), move |case, place| {
        let stage = stage.clone();
        async move { check_http2(&stage, place, &case).await }
    })
    .await;
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

/// An application that answers as the case says.
async fn application(case: &Case) -> App {
    let (said, closes) = (case.bytes("<"), case.one("close").is_some());
    recorder::app(move |stream, log| {
        let said = said.clone();
        async move {
            let answer = |request: &Message| match request.first.starts_with(b"GET /last ") {
                true => (LAST.to_vec(), true),
                false => (said.clone(), closes),
            };
            recorder::serve(stream, &log, answer).await;
        }
    })
    .await
}

async fn check(stage: &Stage, place: usize, way: &str, case: &Case) -> Result<(), String> {
    let app = application(case).await;
    let entry = stage.put(place, app.address);
    let (method, more) = asked(case);
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

/// The method of the request, and its fields.
fn asked(case: &Case) -> (&str, &str) {
    let request = case.one("request").unwrap_or("GET");
    request.split_once(' ').unwrap_or((request, ""))
}

async fn check_http2(stage: &Stage, place: usize, case: &Case) -> Result<(), String> {
    let app = application(case).await;
    let entry = stage.put(place, app.address);
    let mut client = Peer::new(TcpStream::connect(entry).await.unwrap(), false);
    let (method, more) = asked(case);
    let takes_trailers = more.contains("TE: trailers");
    let te = if takes_trailers { " | te: trailers" } else { "" };
    let request = format!("HEADERS eh 1 {}{te}", method.to_ascii_lowercase());
    let expand = |word: &str| macros(word, "");
    client.send(&[greeting_with_windows(), frames::line(&request, &expand)].concat()).await;
    client.expect(&["body 1", "reset 1 INTERNAL_ERROR"]).await?;
    client.send(&frames::line("HEADERS eh 3 get /last", &expand)).await;
    client.expect(&["answer 3 200"]).await?;
    let stream = &client.streams[&1];
    let wanted = case.on("~", "link");
    let expected = case.on("=", "link").ok_or("no verdict")?;
    let own = stream.fields.iter().any(|field| field.0 == b"tulle-reason");
    let told = || format!("{} {:?} {}", stream.status, stream.reset, text(&stream.data));
    if expected == "cut" {
        return if stream.reset.is_some() { Ok(()) } else { Err(format!("it is not cut: {}", told())) };
    }
    let statuses = expected.split(' ').next().unwrap_or_default();
    if !stream.ended || !statuses.split('|').any(|status| status == stream.status) || own != wanted.is_none()
    {
        return Err(format!("expected {expected}, got {}", told()));
    }
    let Some(wanted) = wanted.map(table::repeats) else { return Ok(()) };
    // Of the first line, HTTP/2 has the status alone.
    let first = bytes(wanted.split(" | ").next().unwrap().split(" || ").next().unwrap());
    let bodiless = method == "HEAD" || stream.status == "304";
    let dropped =
        |name: &[u8]| name == b":status" || name == b"date" || (name == b"content-length" && !bodiless);
    let mut fields: Vec<_> = stream.fields.iter().filter(|field| !dropped(&field.0)).cloned().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let trailers = if takes_trailers { stream.trailers.clone() } else { Vec::new() };
    let found = Message { first, fields, body: stream.data.clone(), trailers }.canonical(&[]);
    if found != bytes(&wanted) {
        return Err(format!("expected {wanted}\n    got      {}", text(&found)));
    }
    Ok(())
}
