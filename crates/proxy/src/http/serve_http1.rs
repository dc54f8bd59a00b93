//! Serves clients that speak HTTP/1: one request after the other, each answered in the connection's own task.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::UPGRADE;
use http::{Method, Response, StatusCode, Version};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tulle_model::detect::resembles_http;

use crate::access_log::Outline;
use crate::boxed::boxed;
use crate::budget::{Charge, cost};
use crate::http::asker::Asker;
use crate::http::body::Body;
use crate::http::headers;
use crate::http::http1::server::answer::{self, AnswerForm};
use crate::http::http1::server::body::RequestBody;
use crate::http::http1::server::{Begun, Client, Gone, body_over, farewell, linger, next_request};
use crate::http::http1::{Bad, NoHead, RequestHead};
use crate::http::reply::{HEADERS_TOO_LARGE, reply};
use crate::http::server::{ConnectionContext, answer, decline};
use crate::http::upgrade::Leaving;
use crate::mesh_headers::REASON;
use crate::metrics::Rejection;
use crate::reason::Reason;
use crate::tcp::Downstream;

/// How long an application may go on to read a body after its answer, where the client was told that its connection ends.
const READS_ON: Duration = Duration::from_secs(30);

/// How a connection went on.
pub(super) enum Http1End {
    /// It is over.
    Closed,
    /// The client speaks HTTP/2; so much of it was read.
    Http2(Downstream, BytesMut),
}

/// Why no further request is served on a connection.
enum Last {
    /// The client has ended it, or is not worth a farewell.
    Gone,
    /// We end it, after the last answer.
    Answered,
    Http2,
    /// It has left HTTP, to go where it is awaited.
    Left(oneshot::Sender<(Downstream, BytesMut)>),
}

impl From<Gone> for Last {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Serves a connection, of which `first` was read already, until it ends.
pub(super) async fn serve(cx: &Rc<ConnectionContext>, io: Downstream, first: Vec<u8>) -> Http1End {
    let client = Rc::new(RefCell::new(Client::new(
        io,
        first,
        cx.worker.local.sweep.clone(),
        Charge::on(cx.account.clone()),
        cx.clone(),
    )));
    let last = requests(cx, &client).await.unwrap_or_else(Last::from);
    if let Last::Answered = last {
        Box::pin(farewell(&client)).await;
    }
    // Nobody else has it, unless an upgrade has left a body unread.
    let Some(client) = Rc::into_inner(client).map(RefCell::into_inner) else { return Http1End::Closed };
    match last {
        Last::Http2 => client.leave().map_or(Http1End::Closed, |(io, first)| Http1End::Http2(io, first)),
        Last::Left(hand) => {
            if let Some(left) = client.leave() {
                let _ = hand.send(left);
            }
            Http1End::Closed
        }
        Last::Gone | Last::Answered => Http1End::Closed,
    }
}

/// Serves one request after the other. What a request needs is there only while it is served.
async fn requests(cx: &Rc<ConnectionContext>, client: &Rc<RefCell<Client>>) -> Result<Last, Gone> {
    let drain = &cx.worker.local.drain;
    let serve = |request| boxed(|| serve_request(cx, client, request));
    let mut idle = None;
    let mut served = 0;
    loop {
        let under_way = match next_request(client, drain, &mut idle, served, serve).await {
            Ok(Begun::Request(under_way)) => under_way,
            Ok(Begun::Http2) => return Ok(Last::Http2),
            Ok(Begun::Slow) => return Box::pin(refuse_slow(cx, client)).await,
            Ok(Begun::Shed(shed)) => {
                cx.unread(Reason::Shed(shed), Outline::of(client.borrow().unread()));
                return Box::pin(dismiss(client, reply(Reason::Shed(shed), shed.message()))).await;
            }
            Err(NoHead::Bad(bad)) => return Box::pin(refuse(cx, client, bad, served == 0)).await,
            Err(NoHead::Ended | NoHead::Cut) => return Ok(Last::Answered),
            Err(NoHead::Broken(error)) => {
                tracing::debug!(%error, "connection of a workload ended");
                return Err(Gone);
            }
        };
        served += 1;
        if let Some(last) = under_way.await? {
            return Ok(last);
        }
    }
}

/// Serves one request. `None`: another one may follow.
///
/// The head is used where it lies.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` has room for its arguments twice, and copies them from one to the other"
)]
fn serve_request<'c>(
    cx: &'c Rc<ConnectionContext>,
    client: &'c Rc<RefCell<Client>>,
    mut request: RequestHead,
) -> impl Future<Output = Result<Option<Last>, Gone>> + 'c {
    async move {
        let whole = request.whole();
        let parts = &mut request.parts;
        let body = whole.as_ref().map_or(0, Bytes::len);
        let price = cost::REQUEST + parts.headers.len() * cost::FIELD + 2 * request.length as usize + body;
        let _charge = match cx.account.charge(price) {
            Ok(charge) => charge,
            Err(shed) => {
                let response = decline(cx, parts, Reason::Shed(shed), shed.message());
                // There is no memory for them.
                drop((whole, request));
                return Box::pin(dismiss(client, response)).await.map(Some);
            }
        };
        cx.account.turn().await;
        let asked = AnswerForm {
            method: parts.method.clone(),
            version: parts.version,
            keep: request.keep,
            trailers: headers::takes_trailers(&parts.headers),
        };
        let (mut handed, mut leaving) = (None, None);
        if asked.method == Method::CONNECT || parts.headers.contains_key(UPGRADE) {
            let (hand, taken) = oneshot::channel();
            (handed, leaving) = (Some(hand), Some(Leaving::Http1(taken)));
        }
        let body = match whole {
            Some(bytes) => Body::whole(bytes),
            None => {
                let expects = parts.version == Version::HTTP_11 && headers::expects_continue(&parts.headers);
                client.borrow_mut().receive(request.framing, expects);
                Body::new(RequestBody::new(client.clone(), &parts.headers))
            }
        };
        let asker = match parts.version {
            Version::HTTP_11 => Asker::Http1(client.clone()),
            _ => Asker::Nobody,
        };
        let response = {
            let mut answer = pin!(answer(cx, parts, body, Some(request.written), leaving, asker));
            let answered = poll_fn(|task| {
                if let Poll::Ready(response) = answer.as_mut().poll(task) {
                    return Poll::Ready(Ok(response));
                }
                // The connection is not held while the answer is asked, which reads from it.
                let gone = client.borrow_mut().poll_gone(task);
                match gone {
                    // It is told, in case that it listens.
                    Poll::Ready(Gone) if cx.ending.cut.get() => match answer.as_mut().poll(task) {
                        Poll::Ready(response) => Poll::Ready(Ok(response)),
                        Poll::Pending => {
                            let method = Some(asked.method.to_string());
                            Poll::Ready(Ok(cx.let_go(Outline { method, ..Outline::default() })))
                        }
                    },
                    gone => gone.map(Err),
                }
            });
            answered.await?
        };
        // It is not held while the answer leaves, which may take long.
        drop(request.parts);
        if client.borrow().is_malformed() && response.headers().contains_key(REASON) {
            // It was refused for that.
            cx.worker.local.metrics.counts().rejected(Rejection::MalformedHttp);
            return dismiss(client, response).await.map(Some);
        }
        let left = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => handed,
            status if asked.method == Method::CONNECT && status.is_success() => handed,
            _ => None,
        };
        let last = cx.worker.local.drain.started() || cx.ending.cut.get();
        let kept = answer::write(client, &asked, response, last).await?;
        if let Some(hand) = left {
            return Ok(Some(Last::Left(hand)));
        }
        let over =
            client.borrow().is_read_whole() || Box::pin(read_on(cx, client, asked.version, kept)).await;
        Ok((!kept || !over).then_some(Last::Answered))
    }
}

/// Waits until the body of a request that was answered is read; whether it was. `kept`: another request may follow.
async fn read_on(cx: &ConnectionContext, client: &RefCell<Client>, version: Version, kept: bool) -> bool {
    // A client of HTTP/1.0 may be waiting for the end.
    let patience = if version == Version::HTTP_11 { READS_ON } else { Duration::ZERO };
    tokio::select! {
        biased;
        over = body_over(client, kept) => over,
        () = cx.worker.local.drain.wait() => false,
        () = sleep(patience), if !kept => false,
    }
}

/// Tells a client what is wrong with its request. One that never spoke HTTP would not understand it: its
/// connection is reset. `first`: nothing came before.
async fn refuse(
    cx: &Rc<ConnectionContext>,
    client: &RefCell<Client>,
    bad: Bad,
    first: bool,
) -> Result<Last, Gone> {
    let counts = cx.worker.local.metrics.counts();
    let refused = |reason, message| {
        cx.unread(reason, Outline::of(client.borrow().unread()));
        reply(reason, message)
    };
    let response = match bad {
        Bad::Malformed(_) if first && !resembles_http(client.borrow().unread()) => {
            counts.rejected(Rejection::NotHttp);
            cx.not_http();
            tracing::debug!("connection refused: the port is for HTTP, and the client does not speak it");
            client.borrow_mut().reset();
            return Err(Gone);
        }
        Bad::Malformed(why) => {
            counts.rejected(Rejection::MalformedHttp);
            refused(Reason::BadRequest, why.0)
        }
        Bad::TooLarge => refused(Reason::HeadersTooLarge, HEADERS_TOO_LARGE),
    };
    dismiss(client, response).await
}

/// Gives a client its last answer, to a request that was not read to its end.
async fn dismiss(client: &RefCell<Client>, response: Response<Body>) -> Result<Last, Gone> {
    client.borrow_mut().forget();
    let asked = AnswerForm { method: Method::GET, version: Version::HTTP_11, keep: false, trailers: false };
    answer::write(client, &asked, response, false).await?;
    linger(client).await;
    Ok(Last::Gone)
}

/// Tells a client that it took too long.
async fn refuse_slow(cx: &Rc<ConnectionContext>, client: &RefCell<Client>) -> Result<Last, Gone> {
    cx.unread(Reason::RequestTimeout, Outline::of(client.borrow().unread()));
    let response = reply(Reason::RequestTimeout, "the head of the request was begun and not finished");
    let asked = AnswerForm { method: Method::GET, version: Version::HTTP_11, keep: false, trailers: false };
    answer::write(client, &asked, response, false).await?;
    Ok(Last::Gone)
}
