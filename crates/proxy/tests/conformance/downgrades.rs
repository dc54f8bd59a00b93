//! Requests of HTTP/2 that become requests of HTTP/1, and answers that come back. None does on an undeclared port: what
//! the client speaks decides there.

use tokio::net::TcpStream;

use super::clients::{greeting, macros};
use super::frames;
use super::recorder::{self, Seen};
use super::script::Peer;
use super::stage::{self, Stage, WAYS};
use super::table::{self, Case, bytes, text};

#[tokio::test]
async fn downgrades_on_the_same_node() {
    run(0).await;
}

#[tokio::test]
async fn downgrades_over_a_link() {
    run(1).await;
}

async fn run(way: usize) {
    let (name, way, protocol) = WAYS[way];
    let stage = Stage::new(way, protocol).await;
    stage::all(table::cases("downgrades"), move |case, place| {
        let stage = stage.clone();
        async move { check(&stage, place, name, &case).await }
    })
    .await;
}

async fn check(stage: &Stage, place: usize, way: &str, case: &Case) -> Result<(), String> {
    let app = recorder::ok().await;
    let entry = stage.put(place, app.address);
    let stream = TcpStream::connect(entry).await.unwrap();
    let mut client = Peer::new(stream, false);
    client.send(&greeting()).await;
    let expand = |word: &str| macros(word, "");
    let lines = case.all(">").map(|line| frames::line(line, &expand));
    client.send(&lines.collect::<Vec<_>>().concat()).await;
    let expected = case.on("=", way).ok_or("no verdict")?;
    let mut requests = case.all_on("~", way);
    if let Some(codes) = expected.strip_prefix("goaway ") {
        client.expect(&[&format!("goaway {codes}")]).await?;
    } else {
        // `200|reset` is either.
        let one = |one: &str| match one.strip_prefix("reset") {
            Some("") => "reset 1 PROTOCOL_ERROR".to_owned(),
            Some(code) => format!("reset 1{code}"),
            None => format!("answer 1 {one}"),
        };
        let wanted: Vec<String> = expected.split('|').map(one).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        client.expect(&wanted).await.map_err(|why| match client.streams.get(&1) {
            Some(stream) => format!("expected {expected}, {why}: {} {}", stream.status, text(&stream.data)),
            None => why,
        })?;
        // The connection is where it should be.
        client.send(&frames::line("HEADERS eh 3 get /last", &expand)).await;
        client.expect(&["answer 3 200"]).await?;
        requests.push("GET /last HTTP/1.1 | host: c");
    }
    let seen = app.log.with(requests.len()).await;
    let mut found = Vec::new();
    for seen in seen {
        match seen {
            Seen::Request(request, _) => {
                found.push(text(&request.canonical(&["content-length", "transfer-encoding"])))
            }
            // What nobody can take for whole.
            Seen::Cut(_) if case.all("~").next().is_none() => {}
            other => return Err(format!("the application saw {}", text(other.raw()))),
        }
    }
    let requests: Vec<String> = requests.iter().map(|request| text(&bytes(request))).collect();
    if found != requests {
        let (wanted, found) = (requests.join("\n      "), found.join("\n      "));
        return Err(format!("the application should see\n      {wanted}\n    and saw\n      {found}"));
    }
    Ok(())
}
