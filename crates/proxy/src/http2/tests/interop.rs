//! Against `h2`, in both roles.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};

use super::{client, echo, exchange, noise, wire};
use crate::http2::Ended;

#[tokio::test(flavor = "local")]
async fn h2_is_served() {
    let (near, far) = wire();
    let server = echo(far);
    let (send, connection) = h2::client::handshake(near).await.unwrap();
    let connection = tokio::task::spawn_local(connection);
    let mut all = Vec::new();
    for i in 0..120usize {
        let mut send = send.clone().ready().await.unwrap();
        let body = noise([0, 1, 20_000, 200_000][i % 4]);
        all.push(tokio::task::spawn_local(async move {
            let request = Request::post(format!("http://c.test/{i}"))
                .header("x-long", "v".repeat(i * 50))
                .body(())
                .unwrap();
            let (response, mut stream) = send.send_request(request, false).unwrap();
            let sent = body.clone();
            tokio::task::spawn_local(async move {
                let mut rest = sent;
                while !rest.is_empty() {
                    stream.reserve_capacity(rest.len());
                    let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                    stream.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("x-after", "yes".parse().unwrap());
                stream.send_trailers(trailers).unwrap();
            });
            let response = response.await.unwrap();
            assert_eq!(response.headers()["x-path"], format!("/{i}"));
            let mut body_in = response.into_body();
            let mut back = Vec::new();
            while let Some(data) = body_in.data().await {
                let data = data.unwrap();
                body_in.flow_control().release_capacity(data.len()).unwrap();
                back.extend_from_slice(&data);
            }
            assert_eq!(back, body);
            assert_eq!(body_in.trailers().await.unwrap().unwrap()["x-after"], "yes");
        }));
    }
    for done in all {
        done.await.unwrap();
    }
    drop(send);
    connection.await.unwrap().unwrap();
    assert!(matches!(server.await.unwrap(), Ended::Closed));
}

#[tokio::test(flavor = "local")]
async fn h2_is_asked() {
    let (near, far) = wire();
    tokio::task::spawn_local(async move {
        let mut connection = h2::server::Builder::new()
            .initial_window_size(10_000)
            .max_concurrent_streams(7)
            .handshake::<_, Bytes>(far)
            .await
            .unwrap();
        while let Some(stream) = connection.accept().await {
            let Ok((request, mut respond)) = stream else { return };
            tokio::task::spawn_local(async move {
                let path = request.uri().path().to_owned();
                let mut body = request.into_body();
                let mut all = Vec::new();
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    all.extend_from_slice(&data);
                }
                let trailers = body.trailers().await.unwrap();
                let response = Response::builder().header("x-path", path).body(()).unwrap();
                let mut stream = respond.send_response(response, false).unwrap();
                stream.send_data(all.into(), trailers.is_none()).unwrap();
                if let Some(trailers) = trailers {
                    stream.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    let (handle, _running) = client(near);
    let all = (0..100).map(|i| {
        let handle = handle.clone();
        tokio::task::spawn_local(async move {
            let body = noise([0, 1, 30_000, 150_000][i % 4]);
            let mut trailers = HeaderMap::new();
            trailers.insert("x-after", "yes".parse().unwrap());
            let trailers = (i % 3 == 0).then_some(trailers);
            let path = format!("/{i}");
            let (head, back, after) = exchange(&handle, &path, body.clone(), trailers.clone()).await;
            assert_eq!(head.headers["x-path"], path);
            assert_eq!(back, body);
            assert_eq!(after, trailers);
        })
    });
    for done in all.collect::<Vec<_>>() {
        done.await.unwrap();
    }
}
