//! WebSockets of HTTP/2 clients (RFC 8441), to applications of both versions.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::super::apps::{read_head, script};
use super::super::mesh::{WAYS, path};
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

async fn open(address: SocketAddr) -> Opened {
    let mut client = connect(address).await;
    let waited = async {
        while !client.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, waited).await.unwrap();
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
