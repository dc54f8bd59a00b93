//! HTTP/1.0 and HTTP/1.1, on every way between two workloads.

use http::{HeaderMap, Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tulle_model::snapshot::AppProtocol;

use super::apps::{self, app, chunks, exchange, full, get, http1, read, read_head, read_to_end};
use super::mesh::{WAYS, Way, path};

#[tokio::test]
async fn a_request_gets_through_with_its_host_and_without_the_connections_headers() {
    for way in WAYS {
        let mut path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        path.near.change_mesh(|mesh| mesh.access_log = true);
        let request = Request::post("/x?y=1")
            .header("host", "C.example:81")
            .header("connection", "x-gone, keep-alive")
            .header("x-gone", "1")
            .header("x-kept", "1")
            .header("tulle-reason", "mine")
            .header("tulle-workload", "default/other")
            .body(full("hello"))
            .unwrap();
        let answer = read(http1(path.address).await.send_request(request).await.unwrap()).await;
        let (head, body) = answer.body.split_once("\n\n").unwrap();
        assert!(head.starts_with("POST /x?y=1 HTTP/1.1\n"), "{way:?}: {head}");
        assert!(head.contains("host: C.example:81"), "{way:?}: {head}");
        assert!(head.contains("x-kept"), "{way:?}: {head}");
        assert!(!head.contains("x-gone") && !head.contains("tulle-"), "{way:?}: {head}");
        assert_eq!(body, "hello");
        let edge = path.near.edge_with("c", 1).await;
        assert_eq!((edge.failures, edge.bytes_sent, edge.bytes_received), (0, 5, answer.body.len() as u64));
        assert_eq!(&*edge.source, "a");
        let security = match way {
            Way::Plain => tulle_proxy::Security::Plaintext,
            Way::SameNode => tulle_proxy::Security::SameNode,
            Way::Link => tulle_proxy::Security::MutualTls,
        };
        assert_eq!(edge.security, security);
    }
}

#[tokio::test]
async fn connections_are_kept_and_requests_pipelined() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        let text = "GET /slow HTTP/1.1\r\nhost: c\r\n\r\n\
                    POST /echo HTTP/1.1\r\nhost: c\r\ncontent-length: 5\r\n\r\nfirst\
                    POST /echo HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n6\r\nsecond\r\n0\r\n\r\n\
                    GET /204 HTTP/1.1\r\nhost: c\r\n\r\n\
                    HEAD /sized HTTP/1.1\r\nhost: c\r\n\r\n\
                    GET /304 HTTP/1.1\r\nhost: c\r\n\r\n\
                    GET /sized HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n";
        let answer = exchange(path.address, text).await;
        let positions: Vec<_> =
            ["slow", "first", "second", "204 No Content", "304 Not Modified", "\r\nsized"]
                .iter()
                .map(|part| answer.find(part).unwrap_or_else(|| panic!("{way:?}: no {part} in {answer}")))
                .collect();
        assert!(positions.is_sorted(), "{way:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 7, "{way:?}: {answer}");
        // The answer to HEAD says how long the body would have been, and has none.
        assert_eq!(answer.matches("content-length: 5").count(), 3, "{way:?}: {answer}");
        assert!(!answer[positions[3]..positions[4]].contains("sized"), "{way:?}: {answer}");
        assert_eq!(path.near.edge_with("c", 7).await.failures, 0);
    }
}

#[tokio::test]
async fn http_1_0_closes_or_keeps_as_asked() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        let answer = exchange(path.address, "GET /chunks HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{way:?}: {answer}");
        assert!(answer.ends_with("\r\n\r\nonetwothree") && !answer.contains("chunked"), "{way:?}: {answer}");
        let answer = exchange(
            path.address,
            "GET /sized HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        )
        .await;
        assert_eq!(answer.matches("HTTP/1.0 200 OK").count(), 2, "{way:?}: {answer}");
        assert!(answer.contains("host: c.default:80"), "{way:?}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_closes_its_side_gets_its_answer() {
    let path = path(Way::SameNode, AppProtocol::Http1, apps::serve(app).await).await;
    let mut stream = TcpStream::connect(path.address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("slow"));
}

#[tokio::test]
async fn trailers_go_both_ways() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        let mut client = http1(path.address).await;
        let request =
            Request::get("/trailers").header("host", "c").header("te", "trailers").body(full("")).unwrap();
        let answer = read(client.send_request(request).await.unwrap()).await;
        assert_eq!(answer.body, "data");
        assert_eq!(answer.trailers.expect("trailers")["x-sum"], "42", "{way:?}");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let request = Request::post("/")
            .header("host", "c")
            .header("trailer", "x-sum")
            .body(chunks(vec!["a", "b"], Some(trailers)))
            .unwrap();
        let answer = read(client.send_request(request).await.unwrap()).await;
        assert!(answer.body.contains("trailer x-sum: 7"), "{way:?}: {}", answer.body);
    }
}

/// As of heads: nobody can say what only the mesh says, and what `Connection` names ends here.
#[tokio::test]
async fn trailers_are_stripped_as_heads_are() {
    const CHUNKED: &str = "transfer-encoding: chunked\r\nconnection: close, X-Named\r\n\r\n3\r\nabc\r\n0\r\n\
                           Tulle-Reason: mine\r\ntulle-retry: safe\r\ntulle-port: 1\r\nTULLE-new: 1\r\n\
                           keep-alive: timeout=5\r\nproxy-connection: close\r\nx-named: 1\r\nx-sum: 42\r\n\r\n";
    for way in WAYS {
        let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let hearing = heard.clone();
        let app = apps::script(move |mut stream| {
            let hearing = hearing.clone();
            async move {
                let mut request = Vec::new();
                while !request.ends_with(b"x-sum: 42\r\n\r\n") && !request.ends_with(b"0\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                *hearing.lock().unwrap() = String::from_utf8(request).unwrap();
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{CHUNKED}").as_bytes()).await.unwrap();
            }
        })
        .await;
        let path = path(way, AppProtocol::Detect, app).await;
        let request = format!("POST / HTTP/1.1\r\nhost: c\r\nte: trailers\r\n{CHUNKED}");
        let answer = exchange(path.address, &request).await.to_lowercase();
        for text in [answer, heard.lock().unwrap().to_lowercase()] {
            let (_, trailers) = text.split_once("\r\n0\r\n").unwrap_or_else(|| panic!("{way:?}: {text}"));
            assert_eq!(trailers, "x-sum: 42\r\n\r\n", "{way:?}: {text}");
        }
    }
}

#[tokio::test]
async fn a_get_with_a_chunked_body_keeps_it() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        let text = "GET /echo HTTP/1.1\r\nhost: c\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                    4\r\nbody\r\n0\r\n\r\n";
        let answer = exchange(path.address, text).await;
        assert!(answer.contains("body"), "{way:?}: {answer}");
    }
}

#[tokio::test]
async fn the_application_decides_about_100_continue() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        // Refused: the client's body is never asked for.
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        let head = "POST /refuse HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 417 "), "{way:?}: {answer}");
        // Wanted: the application sees the expectation, and its 100 comes before its answer.
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        let head = head.replace("/refuse", "/mirror").replace("host: c", "host: c\r\nconnection: close");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert_eq!(answer, "HTTP/1.1 100 Continue\r\n\r\n", "{way:?}");
        stream.write_all(b"hello").await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.contains("expect: 100-continue") && answer.ends_with("hello"), "{way:?}: {answer}");
    }
}

#[tokio::test]
async fn h2c_is_not_taken_up() {
    let path = path(Way::SameNode, AppProtocol::Detect, apps::serve(app).await).await;
    let text = "GET / HTTP/1.1\r\nhost: c\r\nconnection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\n\
                http2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    let answer = exchange(path.address, text).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(!answer.contains("upgrade") && !answer.contains("http2-settings"), "{answer}");
}

#[tokio::test]
async fn an_application_cannot_pose_as_the_mesh() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        let answer = get(path.address, "/fake").await;
        assert_eq!(answer.body, "fake");
        assert!(!answer.headers.contains_key("tulle-reason"), "{way:?}");
        assert!(!answer.headers.contains_key("tulle-retry"), "{way:?}");
        assert!(!answer.headers.contains_key("x-gone"), "{way:?}");
    }
}

#[tokio::test]
async fn smuggling_is_refused() {
    let path = path(Way::SameNode, AppProtocol::Http1, apps::serve(app).await).await;
    for bad in [
        "POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: c\r\ncontent-length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: c\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: c\r\nhost: d\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: gzip, chunked\r\nconnection: close\r\n\r\n0\r\n\r\n",
    ] {
        let answer = exchange(path.address, bad).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.is_empty(), "{bad:?}: {answer}");
    }
    assert!(path.near.proxy().edges().iter().all(|edge| edge.requests == edge.refused));
    // Both lengths: the chunks count, and the application sees only them.
    let answer = exchange(
        path.address,
        "POST / HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\n",
    )
    .await;
    assert!(answer.ends_with("hello") && !answer.contains("\ncontent-length: 3"), "{answer}");
}

#[tokio::test]
async fn bodies_are_streamed_not_collected() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        let head = "POST /echo HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
        // Each part comes back before the next is sent.
        for part in ["one", "two", "six"] {
            stream.write_all(format!("3\r\n{part}\r\n").as_bytes()).await.unwrap();
            let mut echoed = [0; 8];
            stream.read_exact(&mut echoed).await.unwrap();
            assert_eq!(echoed, format!("3\r\n{part}\r\n").as_bytes(), "{way:?}");
        }
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let big: String = "0123456789abcdef".repeat(512 * 1024);
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        let request = Request::builder()
            .method(Method::PUT)
            .uri("/echo")
            .header("host", "c")
            .body(full(big.clone()))
            .unwrap();
        let answer = read(http1(path.address).await.send_request(request).await.unwrap()).await;
        assert_eq!(answer.body.len(), big.len(), "{way:?}");
        let edge = path.near.edge_with("c", 1).await;
        assert_eq!((edge.bytes_sent, edge.bytes_received), (big.len() as u64, big.len() as u64));
    }
}
