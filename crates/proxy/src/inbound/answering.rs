//! What has entered a workload as a request, while its answer passes.

use std::task::{Context, Poll};

use http::Response;
use http::header::CONTENT_LENGTH;

use super::visits::Entered;
use crate::http::body::{Body, BodyError, Event, Observer};

/// It is there until the answer has passed, and ends when policies no longer let it in; an answer that goes on for as long as the
/// application likes, also when its workload is gone.
pub(super) struct Answering {
    entered: Option<Entered>,
    length: Length,
}

/// How long an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    /// All of it is there.
    Whole,
    Said,
    Unknown,
}

impl Answering {
    pub fn new(entered: Entered, answer: &Response<Body>) -> Self {
        let length = match answer.body().whole_length() {
            Some(_) => Length::Whole,
            None if answer.headers().contains_key(CONTENT_LENGTH) => Length::Said,
            None => Length::Unknown,
        };
        Self { entered: Some(entered), length }
    }

    /// What may go on for long.
    pub fn lasting(&self) -> Option<&Entered> {
        self.entered.as_ref().filter(|_| self.length != Length::Whole)
    }
}

impl Observer for Answering {
    fn event(&mut self, event: Event<'_>) {
        if !matches!(event, Event::Data(_) | Event::Trailers(_)) {
            self.entered.take();
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(entered) = self.lasting() else { return Poll::Pending };
        match entered.poll_withdrawn(cx) {
            Poll::Ready(why) if self.length == Length::Unknown || why.is_by_policy() => {
                Poll::Ready(why.into())
            }
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};

    use super::super::fixture::{leave, visit};
    use super::super::presence::Withdrawn;
    use super::*;

    fn frames() -> Body {
        let frames = ["a", "b"].map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    #[tokio::test(flavor = "local")]
    async fn a_stream_breaks_off_and_an_answer_of_known_length_does_not() {
        for (body, length, breaks) in [
            (frames(), None, true),
            (frames(), Some("2"), false),
            (Body::whole("ab".into()), None, false),
            (Body::whole("ab".into()), Some("2"), false),
        ] {
            let (visits, entered) = visit();
            let mut answer = Response::new(body);
            if let Some(length) = length {
                answer.headers_mut().insert(CONTENT_LENGTH, length.parse().unwrap());
            }
            let mut answering = Answering::new(entered, &answer);
            let cx = &mut Context::from_waker(std::task::Waker::noop());
            assert!(answering.poll_end(cx).is_pending());
            leave(&visits);
            assert_eq!(answering.poll_end(cx).is_ready(), breaks, "{length:?}");
            answer.body_mut().watch_as(None, answering);
            match (answer.body_mut().collect().await, breaks) {
                (Ok(all), false) => assert_eq!(all.to_bytes(), "ab"),
                (Err(why), true) => assert_eq!(why.downcast_ref(), Some(&Withdrawn::Gone)),
                (Ok(_), true) => panic!("it came to its end"),
                (Err(why), false) => panic!("{length:?}: {why}"),
            }
            assert_eq!(visits.list(), [], "{length:?}");
        }
    }
}
