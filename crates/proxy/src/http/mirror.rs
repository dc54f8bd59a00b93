//! Copies of requests for the mirrors of a rule (Gateway API, HTTPRequestMirrorFilter): sent beside the request as it
//! goes to its backend, and awaited by nobody. Each is an exchange of its own, which is counted and logged.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http_body_util::BodyExt;
use tokio::time::sleep;
use tulle_model::decision::Decision;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::BackendTarget;

use crate::access_log::Asked;
use crate::budget::Account;
use crate::exchange::Exchange;
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::copied::{CopyEnd, copy};
use crate::http::filters::Filters;
use crate::http::forward::{Message, Route, forward};
use crate::http::record::{protocol_of, record, watch};
use crate::http::server::{ConnectionContext, HttpDestination, filter_response};
use crate::http::spelling::Written;
use crate::reason::Reason;
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// Copies of a worker that may be under way. So many are only where their services do not keep up.
const MOST: usize = 256;
/// How long a copy has from when all of the request has passed until all of its answer is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends copies of a request, which is about to go to its backend, to those whom its rule mirrors it to.
pub(crate) fn mirror(
    client: &ConnectionContext,
    exchange: &mut Exchange,
    filters: &Filters,
    head: &Parts,
    written: Option<&Written>,
    body: &mut Body,
) {
    let worker = &client.worker;
    let mut drawn = Vec::new();
    for (backend, mirror) in filters.mirrors() {
        if mirror.share.takes(worker.local.random())
            && let BackendTarget::Service { name, port } = &mirror.target
        {
            let decision = Decision::mirror_of(filters.rule(), backend, mirror);
            exchange.decided(|| decision.clone());
            drawn.push((name.clone(), *port, decision));
        }
    }
    if drawn.is_empty() {
        return;
    }
    let copies = copy(body, drawn.len(), &client.account);
    for ((service, port, decision), (body, end)) in drawn.into_iter().zip(copies) {
        let copied = MirroredRequest {
            worker: worker.clone(),
            source: client.workload.clone(),
            account: client.account.clone(),
            service,
            port,
            decision,
            head: head.clone(),
            written: written.cloned(),
        };
        copied.begin(body, end);
    }
}

/// A copy of a request's head, and where it goes.
struct MirroredRequest {
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    account: Rc<Account>,
    service: ServiceName,
    port: u16,
    decision: Decision,
    head: Parts,
    written: Option<Written>,
}

impl MirroredRequest {
    fn begin(self, mut body: Body, end: CopyEnd) {
        let destination = self.service.clone().into();
        let protocol = protocol_of(&self.head.headers);
        let asked = || Asked::of(&self.head);
        let mut exchange = Exchange::begin(&self.worker.local, &self.source, protocol, destination, asked);
        exchange.decided(|| self.decision.clone());
        let place = self.worker.mirrors.clone();
        if Rc::strong_count(&place) > MOST + 1 {
            exchange.refuse(Reason::MirrorBehind, "");
            return exchange.turned_away(Reason::MirrorBehind.verdict(), None);
        }
        watch(&mut exchange, &mut body);
        tokio::task::spawn_local(async move {
            self.send(exchange, body, end).await;
            drop(place);
        });
    }

    async fn send(mut self, mut exchange: Exchange, body: Body, end: CopyEnd) {
        let mut patience = pin!(async {
            end.reached().await;
            sleep(PATIENCE).await;
        });
        let destination = HttpDestination::Service { service: self.service.clone(), port: self.port };
        let client = ConnectionContext::new(self.worker.clone(), self.source, destination);
        let mut route = Route::straight(&self.worker, &mut exchange, self.service, self.port, &self.head);
        let version = self.head.version;
        let answered = {
            let caller = Caller { account: self.account, asker: Asker::Nobody };
            let message = Message { head: &mut self.head, body, written: self.written };
            let answer = pin!(forward(&client, &mut exchange, message, &mut route, &caller));
            within(patience.as_mut(), answer).await
        };
        let answered = answered.unwrap_or_else(|| {
            let message = format!("the copy was not answered within {PATIENCE:?} from its end");
            Err(exchange.refuse(Reason::Timeout, message))
        });
        let mut response = filter_response(&mut exchange, answered, version);
        record(exchange, &mut response);
        let mut answer = response.into_body();
        let rest = pin!(async { while let Some(Ok(_)) = answer.frame().await {} });
        let _its_end_does_not_matter = within(patience, rest).await;
    }
}

/// What comes of it, unless `patience` ends before.
async fn within<T>(
    patience: Pin<&mut impl Future<Output = ()>>,
    awaited: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        outcome = awaited => Some(outcome),
        () = patience => None,
    }
}
