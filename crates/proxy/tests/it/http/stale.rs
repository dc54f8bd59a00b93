//! Endpoints whose node the server does not hear of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use hyper::body::Incoming;
use tulle_model::snapshot::{AppProtocol, Endpoint, EndpointSet};

use super::apps::{self, TestBody, full, get};
use super::mesh::{Authority, Node, service_name};

const REQUESTS: usize = 40;

/// Three nodes that run service c, and how many requests each of them had.
struct Mesh {
    near: Node,
    endpoints: Vec<Endpoint>,
    /// Other services, each on one of the nodes alone.
    others: Vec<Endpoint>,
    counts: Vec<Arc<AtomicUsize>>,
    _far: Vec<Node>,
}

impl Mesh {
    async fn start() -> Self {
        let authority = Authority::new();
        let near = Node::start("near", &authority).await;
        let (mut endpoints, mut others, mut counts, mut far) = (vec![], vec![], vec![], vec![]);
        for i in 0..3 {
            let count = Arc::new(AtomicUsize::new(0));
            counts.push(count.clone());
            let app = apps::serve(move |_: Request<Incoming>| {
                let count = count.clone();
                async move {
                    count.fetch_add(1, Ordering::Relaxed);
                    Response::<TestBody>::new(full("c"))
                }
            })
            .await;
            let other = apps::serve(apps::app).await;
            let mut node = Node::start(&format!("far-{i}"), &authority).await;
            endpoints.push(node.add_workload(&authority, &format!("c-{i}"), &[app.port()]));
            others.push(node.add_workload(&authority, &format!("d{i}-0"), &[other.port()]));
            far.push(node);
        }
        Self { near, endpoints, others, counts, _far: far }
    }

    /// What each node gets of some requests to service c, where these are stale.
    async fn shares(&mut self, stale: [bool; 3]) -> Vec<usize> {
        self.near.add_service("c", AppProtocol::Http1, self.endpoints.clone());
        let endpoints = self.endpoints.iter().cloned().map(Arc::new);
        let endpoints = endpoints.zip(stale.map(i64::from)).collect();
        let set = EndpointSet::new(service_name("c"), endpoints);
        Arc::make_mut(&mut self.near.state.snapshot).endpoints.insert(service_name("c"), Arc::new(set));
        self.near.publish();
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        let entry = self.near.listen("c").await;
        for _ in 0..REQUESTS {
            assert_eq!(get(entry, "/").await.status, 200);
        }
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

#[tokio::test]
async fn what_is_stale_and_not_reached_ranks_last() {
    let mut mesh = Mesh::start().await;
    // None of them has been spoken to yet.
    let shares = mesh.shares([false, false, true]).await;
    assert!(shares[0] > 0 && shares[1] > 0 && shares[2] == 0, "{shares:?}");

    // Another service's link shows that the node is there.
    let other = mesh.others[2].clone();
    mesh.near.add_service("d2", AppProtocol::Http1, vec![other]);
    assert_eq!(get(mesh.near.listen("d2").await, "/").await.status, 200);
    // Which a worker notices once its link has been heard.
    let begun = std::time::Instant::now();
    while mesh.shares([false, false, true]).await.contains(&0) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "it still ranks last");
    }
}

#[tokio::test]
async fn where_most_is_stale_it_ranks_nothing() {
    let mut mesh = Mesh::start().await;
    let shares = mesh.shares([true, true, false]).await;
    assert!(shares.iter().all(|&share| share > 0), "{shares:?}");
}

#[tokio::test]
async fn what_ranks_last_is_better_than_nothing() {
    let mut mesh = Mesh::start().await;
    // The others refuse connections.
    for endpoint in &mut mesh.endpoints[..2] {
        endpoint.ports[0].target_port = 1;
    }
    let shares = mesh.shares([false, false, true]).await;
    assert_eq!(shares, [0, 0, REQUESTS], "first-hand knowledge counts for more");
}
