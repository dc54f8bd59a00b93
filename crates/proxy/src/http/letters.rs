//! Whether a port asks for messages as they are written, where a peer says so of a request that it sends over a link.
//!
//! Its word is held against what this node knows: the service that it names has to have the workload among its
//! endpoints, and to ask for it at the port that is the workload's. A service that the node does not know yet is asked
//! for. Few are at a time, so that peers cannot take the place of what this node's own workloads look for.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{FastMap, Known};

use crate::http::spelling::Spelling;
use crate::local::Local;
use crate::state::LocalWorkload;

/// Services that a worker has asked for on the word of peers of late.
const ASKED: usize = 16;
/// How long the server's word is awaited.
const PATIENCE: Duration = Duration::from_secs(2);
/// When it may be asked again.
const AGAIN: Duration = Duration::from_secs(10);

/// When a worker has asked for services on the word of peers.
#[derive(Default)]
pub(crate) struct Letters(RefCell<FastMap<ServiceName, Instant>>);

impl Letters {
    /// Whether what a peer says of how it is written is to be kept of a request for port `port` of `workload`.
    pub async fn are_kept(
        &self,
        local: &Local,
        workload: &LocalWorkload,
        port: u16,
        spelling: &Spelling,
    ) -> bool {
        let Some((name, number)) = spelling.port() else { return false };
        let service = ServiceName::new(workload.name.namespace.clone(), name);
        self.learn(local, &service).await;
        let view = local.view();
        let Some(Known::Present(config)) = view.snapshot.services.get(&service) else { return false };
        let endpoints = view.snapshot.endpoints.get(&service);
        config.port(number).is_some_and(|port| port.http1.preserve_case)
            && endpoints.is_some_and(|set| {
                set.endpoints.iter().any(|endpoint| {
                    endpoint.target_port(number) == Some(port)
                        && endpoint.workload.as_ref() == Some(&workload.name)
                })
            })
    }

    /// Has the node learn of a service, and waits for it.
    async fn learn(&self, local: &Local, service: &ServiceName) {
        if local.known(service).is_none()
            && let Some(since) = self.ask(local, service)
        {
            let _ = timeout_at(since + PATIENCE, local.answer(service)).await;
        }
    }

    /// Asks for a service, unless that was done of late; since when it is awaited, if it is.
    fn ask(&self, local: &Local, service: &ServiceName) -> Option<Instant> {
        let mut asked = self.0.borrow_mut();
        let now = Instant::now();
        asked.retain(|_, since| now - *since < AGAIN);
        if let Some(since) = asked.get(service) {
            return Some(*since);
        }
        if asked.len() >= ASKED || local.demand.try_send(service.clone()).is_err() {
            return None;
        }
        asked.insert(service.clone(), now);
        Some(now)
    }
}
