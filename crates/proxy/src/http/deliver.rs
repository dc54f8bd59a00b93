//! Requests of a connection that came for a workload of this node as one of bytes, to a port that carries HTTP or is for nothing else by policies. Each of
//! them passes the door by itself, with its head, and goes to the process.

use std::rc::Rc;

use http::Response;
use http::request::Parts;

use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::exchange::Exchange;
use crate::http::asker::Caller;
use crate::http::body::Body;
use crate::http::forward::Message;
use crate::http::headers::AppVersion;
use crate::http::http1::give_headers;
use crate::http::reply::failed;
use crate::http::server::ConnectionContext;
use crate::http::spelling::{Spelling, Written};
use crate::http::switch::{Form, Switched, Switching};
use crate::http::upgrade::{Passing, Wish};
use crate::inbound::{self, Arrival, Entrance};
use crate::inquiry::ByExternal;
use crate::reason::Reason;

/// Answers a request, which was `asked_in` that version. With the answer that lets its client leave HTTP comes what passes then.
pub(super) async fn deliver(
    cx: &Rc<ConnectionContext>,
    arrival: &Arrival,
    exchange: &mut Exchange,
    message: Message<'_>,
    caller: &Caller,
    wish: Option<Wish>,
    asked_in: AppVersion,
) -> (Response<Body>, Option<Box<Passing>>) {
    let Message { head, body, written } = message;
    let version = arrival.version.unwrap_or(asked_in);
    if arrival.preserve_case
        && version == AppVersion::Http1
        && let Some(spelling) = written.and_then(|Written(bytes)| Spelling::of_request(&bytes))
    {
        head.extensions.insert(spelling);
        caller.asker.keep_letters();
    }
    // As it is now: the connection may be older than what the node was told last.
    let workload = cx.worker.local.workload(&cx.workload.name);
    let Some(workload) = workload.filter(|workload| workload.identity == cx.workload.identity) else {
        let gone = format!("{} is no longer on this node", cx.workload.name);
        let error = UpstreamError::safe(UpstreamErrorKind::Refused, gone);
        exchange.refuse(Reason::ConnectFailed, &*error.message);
        return (failed(&error), None);
    };
    let Arrival { peer, port, address, .. } = arrival;
    let entrance = Entrance { peer, workload: &workload, port: *port, address: *address };
    exchange.passes_to(entrance.process());
    let answered = match wish {
        None => {
            exchange.sends();
            let passed = inbound::pass_request(&cx.worker, entrance, version, head, body, caller).await;
            give_headers(std::mem::take(&mut head.headers));
            passed.map(|mut response| {
                if let Some(ByExternal(message)) = response.extensions_mut().remove() {
                    exchange.refuse(Reason::Denied, &*message);
                }
                (response, None)
            })
        }
        Some(wish) => switch(cx, entrance, exchange, version, (head, body), caller, wish).await,
    };
    answered.unwrap_or_else(|error| (inbound::lost(exchange, &error), None))
}

/// Asks the process to leave HTTP.
async fn switch(
    cx: &Rc<ConnectionContext>,
    entrance: Entrance<'_>,
    exchange: &mut Exchange,
    version: AppVersion,
    (head, mut body): (&mut Parts, Body),
    caller: &Caller,
    wish: Wish,
) -> Result<(Response<Body>, Option<Box<Passing>>), UpstreamError> {
    let unsupported = |why: String| UpstreamError::safe(UpstreamErrorKind::Unsupported, why);
    wish.form.rewrite(head).map_err(unsupported)?;
    if version == AppVersion::Http2 && !matches!(wish.form, Form::Extended(_)) {
        return Err(unsupported("the application speaks HTTP/2, which has no such upgrade".to_owned()));
    }
    let asked = inbound::ask_to_switch(
        &cx.worker,
        exchange,
        entrance,
        caller,
        version,
        (head, &mut body),
        &wish.form,
    );
    Ok(match asked.await? {
        Switching::Answered(response) => (response, None),
        Switching::Switched(Switched { head, io, held }) => {
            let passing = Passing { client: wish.client, io, held, account: caller.account.clone() };
            (Response::from_parts(head, Body::empty()), Some(Box::new(passing)))
        }
    })
}
