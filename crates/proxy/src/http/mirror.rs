//! Copies of requests for the mirrors of a rule (Gateway API, HTTPRequestMirrorFilter): sent beside the request as it
//! goes to its backend, and awaited by nobody. Each is an exchange of its own, which is counted and logged.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use http::request::Parts;
use http_body_util::BodyExt;
use tokio::time::sleep;
use tulle_model::decision::Decision;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{BackendTarget, Spoken};

use crate::access_log::Asked;
use crate::budget::{Charge, Shed, cost};
use crate::exchange::Exchange;
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::copied::{CopyBroke, CopyEnd, copy};
use crate::http::fault;
use crate::http::filters::Filters;
use crate::http::forward::{Message, Route, forward};
use crate::http::record::{protocol_of, record, watch};
use crate::http::server::{ConnectionContext, HttpDestination, filter_response};
use crate::http::spelling::Written;
use crate::mirrors::{MirrorPlace, NoPlace};
use crate::reason::Reason;

/// How long a copy has from when all of the request has passed until all of its answer is there.
const PATIENCE: Duration = Duration::from_secs(10);
const LATE: &str = "the copy was not answered within 10 s from its end";

/// Sends copies of a request, which is about to go to its backend, to those whom its rule mirrors it to.
pub(crate) fn mirror(
    client: &ConnectionContext,
    exchange: &mut Exchange,
    filters: &Filters,
    head: &Parts,
    written: Option<&Written>,
    body: &mut Body,
    asked: Spoken,
) {
    let worker = &client.worker;
    let whole = body.whole_length();
    let mut begun = Vec::new();
    for (backend, mirror) in filters.mirrors() {
        if mirror.share.takes(worker.local.random())
            && let BackendTarget::Service { name, port } = &mirror.target
        {
            let place = MirrorPlace::take(&worker.mirrors, &client.workload.name, name);
            if place.as_ref().is_err_and(|why| *why == NoPlace::Paused) {
                // That is all: what is no copy costs its caller nothing.
                worker.local.metrics.counts().refused(Reason::MirrorBehind);
                continue;
            }
            let spoken = mirror.spoken.map_or(asked, |spoken| spoken.or(asked));
            let decision = Decision::mirror_of(filters.rule(), backend, mirror);
            let to = (name.clone(), *port);
            if let Some(copied) =
                MirroredRequest::begin(client, to, &decision, (head, written, whole), spoken, place)
            {
                exchange.decided(|| decision);
                begun.push(copied);
            }
        }
    }
    // A body of which nobody gets a copy passes as it is.
    if begun.is_empty() {
        return;
    }
    let copies = copy(body, begun.len(), &client.account);
    for (copied, (body, end)) in begun.into_iter().zip(copies) {
        tokio::task::spawn_local(copied.send(body, end));
    }
}

/// A copy of a request that is under way.
struct MirroredRequest {
    /// Whose it is, as if a client had asked for the service.
    client: ConnectionContext,
    exchange: Exchange,
    to: (ServiceName, u16),
    head: Parts,
    written: Option<Written>,
    spoken: Spoken,
    place: MirrorPlace,
    _held: Charge,
}

impl MirroredRequest {
    /// `None`: it is not sent, which is counted. `whole`: how long its body is, where all of that is there.
    fn begin(
        of: &ConnectionContext,
        (service, port): (ServiceName, u16),
        decision: &Decision,
        (head, written, whole): (&Parts, Option<&Written>, Option<u64>),
        spoken: Spoken,
        place: Result<MirrorPlace, NoPlace>,
    ) -> Option<Self> {
        let destination = HttpDestination::Service { service: service.clone(), port };
        let client = ConnectionContext::new(of.worker.clone(), of.workload.clone(), destination);
        let (local, source) = (&client.worker.local, &client.workload);
        let asked = || Asked::of(head);
        let exchange =
            Exchange::begin(local, source, protocol_of(&head.headers), service.clone().into(), asked);
        // Where it is dropped before its end, the node goes away.
        let mut exchange = exchange.of_client(&client.ending);
        exchange.decided(|| decision.clone());
        let mut held = Charge::on(client.account.clone());
        let size = cost::REQUEST + cost::fields(&head.headers) + whole.unwrap_or(0) as usize;
        let (reason, message) = match place {
            Err(_) => (Reason::MirrorBehind, "as many copies to this service as may be are under way"),
            Ok(_) if !held.try_resize(size) => (Reason::Shed(Shed::Memory), ""),
            Ok(place) => {
                let to = (service, port);
                let (head, written) = (head.clone(), written.cloned());
                return Some(Self { client, exchange, to, head, written, spoken, place, _held: held });
            }
        };
        exchange.refuse(reason, message);
        exchange.turned_away(reason.verdict(), None);
        None
    }

    async fn send(self, mut body: Body, end: CopyEnd) {
        let Self { client, mut exchange, to, mut head, written, spoken, place, _held } = self;
        watch(&mut exchange, &mut body);
        let sent = exchange.body();
        // A connection that takes nothing asks for no more of the body, and does not learn that there is none.
        let mut given_up = pin!(async {
            end.reached().await;
            if end.broke() == Some(CopyBroke::Behind) {
                return fault::of_copy(CopyBroke::Behind);
            }
            sleep(PATIENCE).await;
            (Reason::Timeout, LATE)
        });
        let mut route = Route::straight(&client.worker, &mut exchange, to, &head, spoken);
        let version = head.version;
        let answered = {
            let caller = Caller { account: client.account.clone(), asker: Asker::Nobody };
            let message = Message { head: &mut head, body, written };
            let answer = pin!(forward(&client, &mut exchange, message, &mut route, &caller));
            unless(given_up.as_mut(), answer).await
        };
        let answer_came = matches!(answered, Ok(Ok(_)));
        let mut waits = answered.is_ok();
        let answered = answered.unwrap_or_else(|(reason, message)| Err(exchange.refuse(reason, message)));
        let mut response = filter_response(&mut exchange, answered, version);
        record(exchange, &mut response);
        if waits {
            let mut answer = response.into_body();
            let rest = pin!(async { while let Some(Ok(_)) = answer.frame().await {} });
            if let Err(why) = unless(given_up, rest).await {
                waits = false;
                sent.broken(Some(why).filter(|(reason, _)| *reason == Reason::MirrorBehind));
            }
        }
        match end.broke() {
            Some(CopyBroke::Behind) => place.ended(false),
            _ if !waits => place.ended(false),
            // Whether it read all of the body or not.
            _ if answer_came => place.ended(true),
            // It failed for another reason than that the service does not keep up.
            _ => {}
        }
    }
}

/// What comes of it, unless it is given up before.
async fn unless<T, W>(
    given_up: Pin<&mut impl Future<Output = W>>,
    awaited: impl Future<Output = T>,
) -> Result<T, W> {
    tokio::select! {
        biased;
        outcome = awaited => Ok(outcome),
        why = given_up => Err(why),
    }
}
