//! Requests of HTTP/1 as clients send them, and what of them reaches the application.

use tulle_model::snapshot::AppProtocol;

use super::exchange::{Sending, answers, exchange};
use super::recorder::{self, Seen};
use super::stage::{self, Stage, WAYS};
use super::table::{self, Case, bytes, text};

const HTTP2: &str = "http2";

/// What is sent behind each case, to see that the connection is where it should be.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n";
const LAST_SEEN: &str = "GET /last HTTP/1.1 | host: c";

#[tokio::test]
async fn requests_on_the_same_node() {
    run(0, false).await;
}

#[tokio::test]
async fn requests_over_a_link() {
    run(1, false).await;
}

#[tokio::test]
async fn requests_to_an_undeclared_port() {
    run(2, false).await;
}

/// What a request means does not depend on how its bytes come.
#[tokio::test]
async fn requests_byte_by_byte() {
    run(0, true).await;
}

/// An application of HTTP/2 is told the same.
#[tokio::test]
async fn requests_to_applications_of_http2() {
    let (_, way, _) = WAYS[1];
    let stage = Stage::new(way, AppProtocol::Http2).await;
    let cases = table::cases("requests")
        .into_iter()
        .filter(|case| !case.all("~").any(|line| line.contains("upgrade: ")));
    stage::all(cases.collect(), move |case, place| {
        let stage = stage.clone();
        async move { check(&stage, place, HTTP2, &case, false).await }
    })
    .await;
}

async fn run(way: usize, pieces: bool) {
    let (name, way, protocol) = WAYS[way];
    let stage = Stage::new(way, protocol).await;
    let cases = table::cases("requests").into_iter().filter(|case| !pieces || case.bytes(">").len() < 2000);
    stage::all(cases.collect(), move |case, place| {
        let stage = stage.clone();
        async move { check(&stage, place, name, &case, pieces).await }
    })
    .await;
}

async fn check(stage: &Stage, place: usize, way: &str, case: &Case, pieces: bool) -> Result<(), String> {
    let app = if way == HTTP2 { recorder::ok_http2().await } else { recorder::ok().await };
    let entry = stage.put(place, app.address);
    let verdict = case.on("=", way).ok_or("no verdict")?;
    let (expected, fate) = verdict.split_once(' ').unwrap_or((verdict, ""));
    let mut sent = case.bytes(">");
    let ends = case.one("end").is_some();
    if !ends {
        sent.extend_from_slice(LAST);
    }
    let got = exchange(entry, &sent, Sending { pieces, ends }).await?;
    if expected == "bytes" {
        // Nobody said that this is HTTP: the application is to have it as it came.
        let seen = app.log.with(1).await;
        let raw: Vec<u8> = seen.iter().flat_map(Seen::raw).copied().collect();
        return match !raw.is_empty() && sent.starts_with(&raw) {
            true => Ok(()),
            false => Err(format!("expected the bytes as they are; the application saw {}", text(&raw))),
        };
    }
    let mut requests: Vec<String> = case.all_on("~", way).into_iter().map(str::to_owned).collect();
    let mut bodiless: Vec<bool> = requests.iter().map(|request| request.starts_with("HEAD ")).collect();
    if bodiless.is_empty() {
        bodiless.push(sent.starts_with(b"HEAD "));
    }
    let (answers, rest) = answers(&got, &bodiless)?;
    let statuses: Vec<&str> = answers.iter().map(|answer| answer.status()).collect();
    let goes_on = statuses.len() > 1 && answers.last().is_some_and(|last| last.body == b"ok");
    let kept = match fate {
        "kept" => true,
        "" if !ends => !expected.starts_with(['4', '5']) || (goes_on && statuses.len() > requests.len()),
        _ => false,
    };
    let mut wanted: Vec<&str> = expected.split(',').collect();
    if statuses.is_empty() && wanted[0].split('|').any(|wanted| wanted == "closed") {
        wanted.remove(0);
    }
    if kept {
        wanted.push("200");
        requests.push(LAST_SEEN.to_owned());
    }
    let same = wanted.len() == statuses.len()
        && wanted.iter().zip(&statuses).all(|(wanted, got)| wanted.split('|').any(|wanted| wanted == *got));
    if !same || !rest.is_empty() {
        return Err(format!("expected {wanted:?}, got {statuses:?}: {}", text(&got)));
    }
    let made = |status: &str| status.starts_with(['4', '5']);
    if let Some(answer) = answers.iter().find(|a| made(a.status()) && !a.has("tulle-reason")) {
        return Err(format!("a refusal without its reason: {answer:?}"));
    }
    let partly = case.all("field").next().is_some() || case.one("body").is_some();
    let seen = app.log.with(requests.len() + usize::from(partly)).await;
    let mut found = Vec::new();
    for seen in &seen {
        match seen {
            Seen::Request(request, _) => {
                found.push(request.canonical(&["content-length", "transfer-encoding"]))
            }
            // What nobody can take for whole.
            Seen::Cut(_) if made(expected) || expected.starts_with("closed") => {}
            other => return Err(format!("the application saw {}", told(other))),
        }
    }
    if partly {
        return in_part(case, &seen, kept);
    }
    if way == HTTP2 {
        // Of the connection, which is another there.
        requests.iter_mut().for_each(|request| *request = request.replace(" | connection: te", ""));
    }
    let requests: Vec<Vec<u8>> = requests.iter().map(|request| bytes(request)).collect();
    if found != requests {
        let lines = |all: &[Vec<u8>]| all.iter().map(|one| text(one)).collect::<Vec<_>>().join("\n      ");
        return Err(format!(
            "the application should see\n      {}\n    and saw\n      {}",
            lines(&requests),
            lines(&found)
        ));
    }
    Ok(())
}

/// Whether a request reached the application with what the case names, whatever else it has.
fn in_part(case: &Case, seen: &[Seen], kept: bool) -> Result<(), String> {
    let requests: Vec<_> = seen.iter().map(|seen| text(seen.raw())).collect();
    let [Seen::Request(first, _), ..] = seen else {
        return Err("nothing reached the application".to_owned());
    };
    if seen.len() != 1 + usize::from(kept) {
        return Err(format!("the application saw {requests:?}"));
    }
    for line in case.all("field") {
        let (name, value) = line.split_once(':').ok_or("a field has a colon")?;
        let (name, value) = (name.to_ascii_lowercase(), bytes(value).trim_ascii().to_vec());
        let found =
            |field: &(Vec<u8>, Vec<u8>)| field.0 == name.as_bytes() && (value.is_empty() || field.1 == value);
        if !first.fields.iter().any(found) {
            return Err(format!("no field {line} in {}", requests[0]));
        }
    }
    let body = case.one("body").map(bytes).unwrap_or_default();
    if first.body != body { Err(format!("another body in {}", requests[0])) } else { Ok(()) }
}

fn told(seen: &Seen) -> String {
    match seen {
        Seen::Request(request, _) => text(&request.canonical(&[])),
        Seen::Cut(raw) => format!("a part of a message: {}", text(raw)),
        Seen::Bad(why, raw) => format!("what is no message ({why}): {}", text(raw)),
    }
}
