//! What has entered a workload as a request, while its answer passes.

use std::task::{Context, Poll};

use http::Response;
use http::header::CONTENT_LENGTH;

use super::visits::Entered;
use crate::http::body::{Body, BodyError, Event, Observer};

/// It is there until the answer has passed. An answer of known length comes to its end by itself; one that goes on for as long as
/// the application likes ends when it may no longer be there.
pub(super) struct Answering {
    entered: Option<Entered>,
    is_stream: bool,
}

impl Answering {
    pub fn new(entered: Entered, answer: &Response<Body>) -> Self {
        let is_stream =
            answer.body().whole_length().is_none() && !answer.headers().contains_key(CONTENT_LENGTH);
        Self { entered: Some(entered), is_stream }
    }
}

impl Observer for Answering {
    fn event(&mut self, event: Event<'_>) {
        if !matches!(event, Event::Data(_) | Event::Trailers(_)) {
            self.entered.take();
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        match &self.entered {
            Some(entered) if self.is_stream => entered.poll_withdrawn(cx).map(Into::into),
            _ => Poll::Pending,
        }
    }
}
