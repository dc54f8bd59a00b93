//! Sockets that a proxy is handed, and what there still is of it when it has drained.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::{Capture, Purpose, Sockets};

use super::apps::{self, full, get};
use super::mesh::{Path, Way, eventually, path, service_name};
use crate::mesh::LOOPBACK;

const SOON: Duration = Duration::from_secs(10);

/// An application that answers when it may: who came, and who may go.
async fn hesitant() -> (SocketAddr, Arc<Semaphore>, Arc<Semaphore>) {
    let (came, may) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (coming, going) = (came.clone(), may.clone());
    let app = apps::serve(move |_| {
        let (coming, going) = (coming.clone(), going.clone());
        async move {
            coming.add_permits(1);
            going.acquire().await.unwrap().forget();
            Response::new(full("late"))
        }
    });
    (app.await, came, may)
}

fn outbound() -> Purpose {
    let capture = Capture::Service { service: service_name("c"), port: 80 };
    Purpose::Outbound { workload: WorkloadName::new("default", "a"), capture }
}

/// What a service manager hands over: a socket alone, that shares its port with no other.
#[tokio::test]
async fn one_socket_serves_all_workers() {
    let app = apps::serve(apps::app).await;
    let Path { near, .. } = path(Way::SameNode, AppProtocol::Http1, app).await;
    let proxy = near.next_proxy(2);
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let sockets = Sockets::given(outbound(), vec![listener.into()]).unwrap();
    assert_eq!(proxy.listen(sockets).await.unwrap(), address);
    for _ in 0..10 {
        assert_eq!(get(address, "/204").await.status, 204);
    }
    assert_eq!(proxy.edges().iter().map(|edge| edge.requests).sum::<u64>(), 10);
    let again = Sockets::given(outbound(), proxy.sockets().await.unwrap().remove(0).into_descriptors());
    assert_eq!(proxy.listen(again.unwrap()).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(get(address, "/204").await.status, 204, "what it had is left alone");
    proxy.close(address).await;
    assert!(TcpStream::connect(address).await.is_err());
    assert!(proxy.sockets().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_proxy_that_drains_answers_and_is_still_there() {
    let (app, came, may) = hesitant().await;
    let Path { near, address, .. } = path(Way::SameNode, AppProtocol::Http1, app).await;
    let pending = tokio::spawn(async move { get(address, "/").await });
    came.acquire().await.unwrap().forget();
    let drain = |proxy: Arc<tulle_proxy::Proxy>| tokio::spawn(async move { proxy.drain(SOON).await });
    let draining = drain(near.proxy.clone());
    for listening in [address, near.link] {
        eventually(|| std::net::TcpStream::connect(listening).is_err().then_some(())).await;
    }
    let again = drain(near.proxy.clone());
    let visits = timeout(SOON, near.proxy.visits()).await.expect("it is told what is asked while it drains");
    assert_eq!(visits.len(), 1);
    assert!(!draining.is_finished() && !again.is_finished() && !near.proxy.is_drained());
    may.add_permits(1);
    assert_eq!(pending.await.unwrap().body, "late");
    for drain in [draining, again] {
        timeout(SOON, drain).await.unwrap().unwrap();
        assert!(near.proxy.is_drained());
    }
    assert_eq!(near.metric("tulle_requests_total", &["source=\"a\""]), 1);
    // However often it is asked.
    assert_eq!(near.edge("c").unwrap().requests, 1);
    let sockets = Sockets::bind(outbound(), SocketAddr::new(LOOPBACK, 0), 1).unwrap();
    assert!(near.proxy.listen(sockets).await.is_err());
}

/// Whatever the number of workers that the two have.
#[tokio::test]
async fn the_next_proxy_goes_on_at_the_same_sockets() {
    for workers in [1, 3] {
        let (app, came, may) = hesitant().await;
        let Path { near, address, .. } = path(Way::SameNode, AppProtocol::Http1, app).await;
        let before = tokio::spawn(async move { get(address, "/").await });
        came.acquire().await.unwrap().forget();
        let handed = near.proxy.sockets().await.unwrap();
        let mut purposes: Vec<_> = handed.iter().map(|s| (s.address(), s.purpose().clone())).collect();
        purposes.sort_by_key(|(address, _)| *address);
        let mut expected = [(address, outbound()), (near.link, Purpose::Links)];
        expected.sort_by_key(|(address, _)| *address);
        assert_eq!(purposes, expected);
        may.add_permits(2);
        near.proxy.drain(SOON).await;
        assert_eq!(before.await.unwrap().body, "late");
        // There is nobody who accepts, and nobody is refused.
        let between = tokio::spawn(async move { get(address, "/").await });
        let link = TcpStream::connect(near.link).await;
        assert!(link.is_ok());
        let next = near.next_proxy(workers);
        for sockets in handed {
            let purpose = sockets.purpose().clone();
            next.listen(Sockets::given(purpose, sockets.into_descriptors()).unwrap()).await.unwrap();
        }
        assert_eq!(between.await.unwrap().body, "late");
        assert_eq!((near.edge("c").unwrap().requests, next.edges()[0].requests), (1, 1));
    }
}
