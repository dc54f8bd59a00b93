//! Answers on streams of HTTP/2.

use http::Response;

use crate::http::body::Body;
use crate::http2::{Sender, give_up, send_body};

/// Sends an answer to its end. What fails on the way resets the stream, which tells the peer.
pub async fn respond(sender: &mut Sender, response: Response<Body>) {
    let (head, mut body) = response.into_parts();
    let whole = body.take_whole();
    // What the mesh says itself has a body, also to HEAD.
    let empty = whole.as_ref().is_some_and(|bytes| bytes.is_empty()) || sender.has_no_body(head.status);
    if let Err(error) = sender.respond(head.status, &head.headers, empty) {
        return give_up(&error, || drop(body));
    }
    if empty {
        return;
    }
    if let Some(mut bytes) = whole {
        sender.send(&mut bytes, true);
        if bytes.is_empty() {
            return;
        }
        body = Body::whole(bytes);
    }
    let _ = send_body(sender, body).await;
}
