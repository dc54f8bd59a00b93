//! Applications that speak HTTP/2 oddly, and nodes at the other end of a link that do.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::clients::{greeting, macros};
use super::frames::{self, Frame, SETTINGS};
use super::http_mesh::Way;
use super::recorder;
use super::script::Peer;
use super::stage::{self, Stage};
use super::table::{self, Case, bytes, text};

#[tokio::test]
async fn applications_on_the_same_node() {
    run("same-node", Way::SameNode).await;
}

#[tokio::test]
async fn applications_over_a_link() {
    run("link", Way::Link).await;
}

#[tokio::test]
async fn nodes_that_take_links() {
    run("peer", Way::Link).await;
}

async fn run(name: &'static str, way: Way) {
    let stage = Stage::new(way, AppProtocol::Http2).await;
    let cases = table::cases("servers").into_iter().filter(|case| case.is_for(name));
    stage::all(cases.collect(), move |case, place| {
        let stage = stage.clone();
        async move { check(&stage, place, name, case).await }
    })
    .await;
}

async fn check(stage: &Stage, place: usize, way: &'static str, case: Case) -> Result<(), String> {
    let case = Arc::new(case);
    let (told, mut outcomes) = mpsc::unbounded_channel();
    let acceptor = (way == "peer").then(|| stage.acceptor());
    let played = case.clone();
    let app = recorder::app(move |stream, log| {
        let (case, told, acceptor) = (played.clone(), told.clone(), acceptor.clone());
        async move {
            let first = log.connections() == 1;
            let outcome = match acceptor {
                None => serve(stream, &case, way, first).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => serve(stream, &case, way, first).await,
                    Err(error) => Err(format!("TLS: {error}")),
                },
            };
            if first {
                let _ = told.send(outcome);
            }
        }
    })
    .await;
    let entry =
        if way == "peer" { stage.put_node(place, app.address) } else { stage.put(place, app.address) };
    let stream = TcpStream::connect(entry).await.unwrap();
    let mut client = Peer::new(stream, false);
    let mut sent = greeting();
    for line in case.all("request") {
        sent.extend(frames::line(line, &|word: &str| macros(word, "")));
    }
    if case.all("request").next().is_none() {
        sent.extend(frames::line("HEADERS eh 1 post", &|word: &str| macros(word, "")));
    }
    client.send(&sent).await;
    let any =
        "CANCEL|INTERNAL_ERROR|PROTOCOL_ERROR|REFUSED_STREAM|NO_ERROR|ENHANCE_YOUR_CALM|STREAM_CLOSED|0xff";
    let reset = format!("reset 1 {any}");
    client.expect(&["body 1", &reset]).await.map_err(|why| format!("the client: {why}"))?;
    let played = timeout(Duration::from_secs(30), outcomes.recv()).await;
    let played = played.ok().flatten().ok_or("the application was not reached, or does not end")?;
    played.map_err(|why| format!("the application: {why}"))?;
    let stream = &client.streams[&1];
    let expected = case.on("=", way).ok_or("no verdict")?;
    let got = match &stream.reset {
        Some(code) if !stream.ended => format!("reset {code}"),
        _ => format!("{} {}", stream.status, text(&stream.data)),
    };
    let whole = |expected: &str| {
        let (status, body) = expected.split_once(' ').unwrap_or((expected, ""));
        let own = stream.fields.iter().any(|field| field.0 == b"tulle-reason");
        status == stream.status && (if body.is_empty() { own } else { !own && bytes(body) == stream.data })
    };
    let fine = |expected: &str| match expected.strip_prefix("reset ") {
        Some(codes) => {
            !stream.ended && stream.reset.as_ref().is_some_and(|code| codes.split('|').any(|c| c == code))
        }
        None => stream.ended && whole(expected),
    };
    if expected.split(" or ").any(fine) {
        Ok(())
    } else {
        Err(format!("the client should get {expected}, and got {got}"))
    }
}

/// Plays the case on the first connection; answers `again` on others, to what is sent once more.
async fn serve<IO>(io: IO, case: &Case, way: &str, first: bool) -> Result<(), String>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut peer = Peer::new(io, true);
    let nothing = |word: &str| match word {
        "ok" => Some(frames::block(":status: 200")),
        _ => word.strip_prefix("ok | ").map(|more| frames::block(&format!(":status: 200 | {more}"))),
    };
    if case.one("bare").is_none() || !first {
        let mut settings = Vec::new();
        Frame::new(SETTINGS, 0, 0, &[]).write(&mut settings);
        peer.send(&settings).await;
    }
    if !first {
        peer.expect(&["request 1"]).await?;
        let again = ["HEADERS h 1 ok", "DATA e 1 text:again"].map(|line| frames::line(line, &nothing));
        peer.send(&again.concat()).await;
        return peer.expect(&["closed"]).await;
    }
    peer.acknowledges = case.one("no-ack").is_none();
    if case.one("at-once").is_none() {
        peer.expect(&["request 1"]).await?;
    }
    peer.play(&case.script(way), &nothing).await
}
