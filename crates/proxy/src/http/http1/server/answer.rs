//! The answer to a client's request, as it is written.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};

use http::{HeaderMap, Method, Response, StatusCode, Version};
use http_body::Body as _;

use super::{Client, Gone};
use crate::http::body::Body;
use crate::http::http1::buffers;
use crate::http::http1::encode::{self, Announced};
use crate::http::http1::output::{Output, Sending};
use crate::http::spelling::Spelling;
use crate::progress::{Side, Stall};
use crate::reset::Reset;

/// The form that an answer is to have, by its request.
pub(in crate::http) struct AnswerForm {
    pub method: Method,
    pub version: Version,
    /// The client wants the connection to be kept.
    pub keep: bool,
    /// It understands trailers (RFC 9110, section 6.5.1).
    pub trailers: bool,
}

/// Puts an interim answer (RFC 9110, section 15.2).
pub(super) fn put_interim(
    output: &mut Output,
    status: StatusCode,
    headers: &HeaderMap,
    spelling: Option<&Spelling>,
) {
    let announced = Announced::of_response(&Method::GET, Version::HTTP_11, status, headers, None);
    encode::response(output.buffer(), Version::HTTP_11, status, headers, announced, b"", spelling);
}

/// Writes an answer to its end; whether the connection can be kept after it. `last`: it is not, in any case.
pub(in crate::http) async fn write(
    client: &RefCell<Client>,
    asked: &AnswerForm,
    response: Response<Body>,
    last: bool,
) -> Result<bool, Gone> {
    let (head, mut body) = response.into_parts();
    // Whoever has said all of it, or no, seldom reads on.
    let final_word = body.whole_length().is_some() || !head.status.is_success();
    let exact = body.size_hint().exact();
    let announced = Announced::of_response(&asked.method, asked.version, head.status, &head.headers, exact);
    let mut sending = announced.sending;
    let mut keep = asked.keep && !last && sending != Sending::UntilClose;
    {
        let client = &mut *client.borrow_mut();
        keep &= client.may_follow(final_word);
        if let Some(expectation) = &mut client.expectation {
            expectation.answered = true;
        }
        let left = head.status == StatusCode::SWITCHING_PROTOCOLS
            || (asked.method == Method::CONNECT && head.status.is_success());
        let connection: &[u8] = match (keep, asked.version) {
            _ if left => b"",
            (true, Version::HTTP_10) => b"connection: keep-alive\r\n",
            (true, _) => b"",
            (false, _) => b"connection: close\r\n",
        };
        let out = client.output.buffer();
        let spelling = head.extensions.get();
        encode::response(out, asked.version, head.status, &head.headers, announced, connection, spelling);
        buffers::give_headers(head.headers);
    }
    // A body that is not to be sent is dropped unread.
    let (mut over, mut broken) = (sending == Sending::Nothing, false);
    if !over && let Some(bytes) = body.take_whole() {
        over = true;
        broken = client.borrow_mut().output.put(bytes, &mut sending, true).is_err();
    }
    let written = poll_fn(|cx| {
        loop {
            let mut waits = false;
            // The body may read from the client's connection, so that is not held meanwhile.
            while !over && client.borrow().has_room() {
                let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) else {
                    waits = true;
                    break;
                };
                let last = body.is_end_stream();
                let output = &mut client.borrow_mut().output;
                let put = match frame {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => {
                            over = last;
                            output.put(data, &mut sending, last)
                        }
                        Err(frame) => {
                            over = true;
                            let trailers = frame.trailers_ref().filter(|_| asked.trailers);
                            output.finish_with(&mut sending, trailers)
                        }
                    },
                    Some(Err(error)) => {
                        tracing::debug!(%error, "an answer broke");
                        (over, broken) = (true, true);
                        Ok(())
                    }
                    None => {
                        over = true;
                        output.finish(&mut sending)
                    }
                };
                if put.is_err() {
                    tracing::debug!("an answer's body is not as long as its head says");
                    (over, broken) = (true, true);
                }
            }
            if over {
                // Whoever observes it is told before the client can be.
                body = Body::empty();
            }
            let client = &mut *client.borrow_mut();
            match client.output.poll_flush(cx, &mut client.io) {
                Poll::Ready(Ok(())) if over => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if !waits => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Gone)),
                flushed => {
                    if flushed.is_ready() {
                        client.output.rest();
                    } else if client.charge.is_over() {
                        client.output.shrink();
                    }
                    client.hold();
                    // The client's part, or that of whoever has the body.
                    let stalled = match flushed {
                        Poll::Pending => client.writing.poll(
                            cx,
                            &client.sweep,
                            Side::Client,
                            Stall::Write,
                            client.output.total,
                        ),
                        Poll::Ready(_) => {
                            client.writing.rest();
                            Poll::Pending
                        }
                    };
                    if stalled.is_ready() {
                        // What the kernel has of it would be kept for as long as the client likes.
                        client.io.reset();
                        return Poll::Ready(Err(Gone));
                    }
                    ready!(client.poll_gone(cx));
                    return Poll::Ready(Err(Gone));
                }
            }
        }
    })
    .await;
    let client = &mut *client.borrow_mut();
    client.output.rest();
    if client.charge.bytes() > 0 {
        client.hold();
    }
    client.writing.rest();
    client.end_expectation();
    written?;
    if broken {
        if announced.sending == Sending::UntilClose {
            // An orderly end would say that this was all.
            client.io.reset();
        }
        return Err(Gone);
    }
    Ok(keep)
}
