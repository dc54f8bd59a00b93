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
use crate::budget::{Account, Charge, Shed, cost};
use crate::exchange::Exchange;
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::copied::{CopyEnd, copy};
use crate::http::filters::Filters;
use crate::http::forward::{Message, Route, SpokenAs, forward};
use crate::http::record::{protocol_of, record, watch};
use crate::http::server::{ConnectionContext, HttpDestination, filter_response};
use crate::http::spelling::Written;
use crate::mirrors::MirrorPlace;
use crate::reason::Reason;
use crate::state::LocalWorkload;
use crate::worker::Worker;

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
    spoken: SpokenAs,
) {
    let worker = &client.worker;
    let mut drawn = Vec::new();
    for (backend, mirror) in filters.mirrors() {
        if mirror.share.takes(worker.local.random())
            && let BackendTarget::Service { name, port } = &mirror.target
        {
            drawn.push((name.clone(), *port, Decision::mirror_of(filters.rule(), backend, mirror)));
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
            spoken,
        };
        if let Some(begun) = copied.begin(&body) {
            exchange.decided(|| begun.request.decision.clone());
            tokio::task::spawn_local(begun.send(body, end));
        }
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
    spoken: SpokenAs,
}

/// A copy that is under way.
struct BegunMirror {
    request: MirroredRequest,
    client: ConnectionContext,
    exchange: Exchange,
    _place: MirrorPlace,
    _held: Charge,
}

impl MirroredRequest {
    /// `None`: it is not sent, which is counted.
    fn begin(self, body: &Body) -> Option<BegunMirror> {
        let destination = HttpDestination::Service { service: self.service.clone(), port: self.port };
        let client = ConnectionContext::new(self.worker.clone(), self.source.clone(), destination);
        let protocol = protocol_of(&self.head.headers);
        let destination = self.service.clone().into();
        let asked = || Asked::of(&self.head);
        let exchange = Exchange::begin(&self.worker.local, &self.source, protocol, destination, asked);
        // Where it is dropped before its end, the node goes away.
        let mut exchange = exchange.of_client(&client.ending);
        exchange.decided(|| self.decision.clone());
        let mut held = Charge::on(self.account.clone());
        let size =
            cost::REQUEST + cost::fields(&self.head.headers) + body.whole_length().unwrap_or(0) as usize;
        let place = MirrorPlace::take(&self.worker.mirrors, &self.source.name, &self.service);
        let reason = match place {
            None => Reason::MirrorBehind,
            Some(_) if !held.try_resize(size) => Reason::Shed(Shed::Memory),
            Some(place) => {
                return Some(BegunMirror { request: self, client, exchange, _place: place, _held: held });
            }
        };
        exchange.refuse(reason, "");
        exchange.turned_away(reason.verdict(), None);
        None
    }
}

impl BegunMirror {
    async fn send(self, mut body: Body, end: CopyEnd) {
        let Self { mut request, client, mut exchange, _place, _held } = self;
        watch(&mut exchange, &mut body);
        let mut patience = pin!(async {
            end.reached().await;
            sleep(PATIENCE).await;
        });
        let to = (request.service, request.port);
        let mut route = Route::straight(&request.worker, &mut exchange, to, &request.head, request.spoken);
        let version = request.head.version;
        let answered = {
            let caller = Caller { account: request.account, asker: Asker::Nobody };
            let message = Message { head: &mut request.head, body, written: request.written };
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
