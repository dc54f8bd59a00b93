//! WebSockets of HTTP/2 clients (RFC 8441), to applications of both versions.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::Security;

use super::super::apps::{read_head, script};
use super::super::mesh::{WAYS, eventually, path};
use super::{App, Asked, Respond, SOON, connect};

fn websocket() -> Request<()> {
    let mut request = Request::connect("http://c/chat")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    request
}

type Opened = (Response<h2::RecvStream>, h2::SendStream<Bytes>);

/// A client that has heard that WebSockets are taken.
async fn extended(address: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let client = connect(address).await;
    let waited = async {
        while !client.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, waited).await.unwrap();
    client
}

async fn open(address: SocketAddr) -> Opened {
    let mut client = extended(address).await;
    let (response, body) = client.send_request(websocket(), false).unwrap();
    (timeout(SOON, response).await.unwrap().unwrap(), body)
}

#[tokio::test]
async fn a_refused_websocket_is_no_success() {
    for way in WAYS {
        for (answer, status) in [
            ("200 OK", 502),
            ("204 No Content", 502),
            ("302 Found", 302),
            ("401 Unauthorized", 401),
            ("403 Forbidden", 403),
            ("404 Not Found", 404),
            ("426 Upgrade Required", 426),
            ("500 Internal Server Error", 500),
            // It goes on in something else.
            ("101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x", 502),
        ] {
            let app = script(move |mut stream| async move {
                read_head(&mut stream).await;
                let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.read(&mut [0]).await;
            })
            .await;
            let path = path(way, AppProtocol::Http1, app).await;
            let (response, _body) = open(path.address).await;
            assert_eq!(response.status(), status, "{way:?} {answer}");
            let made =
                response.headers().get("tulle-reason").map(|reason| reason.to_str().unwrap().to_owned());
            assert_eq!(made.as_deref(), (status == 502).then_some("not-upgraded"), "{way:?} {answer}");
        }
    }
}

/// Echoes what comes, in HTTP/2.
async fn echo(request: Asked, mut respond: Respond) {
    let protocol =
        request.extensions().get::<h2::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
    let path = request.uri().path().to_owned();
    let asked = request.headers().get("sec-websocket-protocol").cloned();
    if protocol.as_deref() != Some("websocket") || path != "/chat" {
        let refused = Response::builder().status(400).body(()).unwrap();
        let _ = respond.send_response(refused, true);
        return;
    }
    assert!(!request.headers().contains_key("sec-websocket-key"));
    let head = Response::builder().header("sec-websocket-protocol", asked.unwrap()).body(()).unwrap();
    let mut to = respond.send_response(head, false).unwrap();
    let mut from = request.into_body();
    while let Some(Ok(data)) = from.data().await {
        let _ = from.flow_control().release_capacity(data.len());
        if data == "reset" {
            return to.send_reset(Reason::INTERNAL_ERROR);
        }
        to.send_data(data, false).unwrap();
    }
    let _ = to.send_data("bye".into(), true);
}

#[tokio::test]
async fn a_websocket_goes_to_an_application_of_http2_in_http2() {
    for way in WAYS {
        for protocol in [AppProtocol::Http2, AppProtocol::Detect] {
            let path = path(way, protocol, App::start(echo).await.address).await;
            let (response, mut to) = open(path.address).await;
            assert_eq!(response.status(), 200, "{way:?} {protocol:?}: {response:?}");
            assert_eq!(response.headers()["sec-websocket-protocol"], "chat", "{way:?} {protocol:?}");
            let mut from = response.into_body();
            for text in ["one", "two"] {
                to.send_data(text.into(), false).unwrap();
                let got = timeout(SOON, from.data()).await.unwrap().unwrap().unwrap();
                assert_eq!(got, text, "{way:?} {protocol:?}");
            }
            to.send_data(Bytes::new(), true).unwrap();
            let mut rest = String::new();
            while let Some(data) = timeout(SOON, from.data()).await.unwrap() {
                rest.push_str(std::str::from_utf8(&data.unwrap()).unwrap());
            }
            assert_eq!(rest, "bye", "{way:?} {protocol:?}");
        }
    }
}

/// With what `x-reset` says: before the answer, or when the client has said something.
#[tokio::test]
async fn an_applications_reset_of_a_websocket_keeps_its_code() {
    for way in WAYS {
        let app = App::start(|request: Asked, mut respond: Respond| async move {
            let said = request.headers()["x-reset"].to_str().unwrap().to_owned();
            let (when, code) = said.split_once(' ').unwrap();
            let code = Reason::from(code.parse::<u32>().unwrap());
            if when == "before" {
                return respond.send_reset(code);
            }
            let mut to = respond.send_response(Response::new(()), false).unwrap();
            let _ = request.into_body().data().await;
            to.send_reset(code);
        })
        .await;
        let path = path(way, AppProtocol::Http2, app.address).await;
        let mut client = extended(path.address).await;
        let mut failures = 0;
        for code in [2, 7, 8, 11, 0x99] {
            for when in ["before", "after"] {
                let mut request = websocket();
                request.headers_mut().insert("x-reset", format!("{when} {code}").parse().unwrap());
                let (response, mut to) = client.send_request(request, false).unwrap();
                let mut answer = timeout(SOON, response).await.unwrap();
                let error = match &mut answer {
                    Err(error) => error.reason(),
                    Ok(response) => {
                        to.send_data("hi".into(), false).unwrap();
                        timeout(SOON, response.body_mut().data())
                            .await
                            .unwrap()
                            .unwrap()
                            .unwrap_err()
                            .reason()
                    }
                };
                assert_eq!(error, Some(Reason::from(code)), "{way:?} {when}");
                assert_eq!(answer.is_err(), when == "before", "{way:?} {code}");
                failures += u64::from(when == "before");
            }
        }
        let rows = eventually(|| {
            let rows = path.near.proxy().edges();
            (rows.iter().map(|row| row.requests).sum::<u64>() == 2 * failures).then_some(rows)
        })
        .await;
        let failed: u64 = rows.iter().map(|row| row.failures).sum();
        assert_eq!((failed, rows.iter().map(|row| row.refused).sum()), (failures, 0), "{way:?}: {rows:?}");
        // REFUSED_STREAM says that the application has not looked at it, and nothing else does.
        let unsent = rows.iter().filter(|row| row.security == Security::Unsent);
        assert_eq!(unsent.map(|row| row.requests).sum::<u64>(), 1, "{way:?}: {rows:?}");
    }
}

/// The application hears of the client's code, too.
#[tokio::test]
async fn a_clients_reset_of_a_websocket_keeps_its_code() {
    for way in WAYS {
        let (sender, mut codes) = mpsc::unbounded_channel();
        let app = App::start(move |request: Asked, mut respond: Respond| {
            let sender = sender.clone();
            async move {
                let code = match request.headers().contains_key("x-silent") {
                    true => {
                        let _ = sender.send(None);
                        poll_fn(|cx| respond.poll_reset(cx)).await
                    }
                    false => {
                        let mut to = respond.send_response(Response::new(()), false).unwrap();
                        poll_fn(|cx| to.poll_reset(cx)).await
                    }
                };
                let _ = sender.send(Some(code.unwrap()));
            }
        })
        .await;
        let path = path(way, AppProtocol::Http2, app.address).await;
        for code in [2, 8, 0x99] {
            let mut told = async || timeout(SOON, codes.recv()).await.unwrap().unwrap();
            let (_response, mut to) = open(path.address).await;
            to.send_reset(Reason::from(code));
            assert_eq!(told().await, Some(Reason::from(code)), "{way:?}");
            // And before it is answered.
            let mut request = websocket();
            request.headers_mut().insert("x-silent", "1".parse().unwrap());
            let mut client = extended(path.address).await;
            let (_response, mut to) = client.send_request(request, false).unwrap();
            assert_eq!(told().await, None, "{way:?}: the application has it");
            to.send_reset(Reason::from(code));
            assert_eq!(told().await, Some(Reason::from(code)), "{way:?}, unanswered");
        }
        // What was given up was counted where it had gone.
        eventually(|| path.near.edge("c").filter(|edge| edge.refused == 3)).await;
        assert!(path.near.proxy().edges().iter().all(|edge| edge.security != Security::Unsent), "{way:?}");
    }
}

/// What passes after CONNECT is no body: one that is announced is the client's mistake, and none is needless.
#[tokio::test]
async fn a_websocket_announces_no_body() {
    for way in WAYS {
        let old = script(|mut stream| async move {
            let head = read_head(&mut stream).await;
            assert!(!head.contains("content-length"), "{head}");
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut said = [0; 2];
            stream.read_exact(&mut said).await.unwrap();
            stream.write_all(&said).await.unwrap();
        })
        .await;
        let new = App::start(|request: Asked, mut respond: Respond| async move {
            assert!(!request.headers().contains_key("content-length"));
            let mut to = respond.send_response(Response::new(()), false).unwrap();
            let said = request.into_body().data().await.unwrap().unwrap();
            to.send_data(said, true).unwrap();
        })
        .await;
        for (protocol, app) in [(AppProtocol::Http1, old), (AppProtocol::Http2, new.address)] {
            let path = path(way, protocol, app).await;
            let mut client = extended(path.address).await;
            for (length, status) in [("0", 200), ("5", 400), ("00", 200)] {
                let mut request = websocket();
                request.headers_mut().insert("content-length", length.parse().unwrap());
                let (response, mut to) = client.send_request(request, false).unwrap();
                let response = timeout(SOON, response).await.unwrap().unwrap();
                assert_eq!(response.status(), status, "{way:?} {protocol:?} {length}");
                if status == 200 {
                    to.send_data("hi".into(), false).unwrap();
                    let said = timeout(SOON, response.into_body().data()).await.unwrap().unwrap().unwrap();
                    assert_eq!(said, "hi", "{way:?} {protocol:?} {length}");
                }
            }
            let rows = path.near.proxy().edges();
            assert_eq!(
                rows.iter().map(|edge| edge.failures).sum::<u64>(),
                0,
                "{way:?} {protocol:?}: {rows:?}"
            );
        }
    }
}
