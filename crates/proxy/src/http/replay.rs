//! A request's body that can be sent more than once: what passes of it is recorded, up to a limit, until no
//! further attempt follows.
//!
//! Recording is a service, not a condition: a body that is too long for it, or whose sender has no share of
//! memory left, is sent once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::budget::{Account, Charge, cost};
use crate::http::body::{Body, BodyError};
use crate::http::fault;
use crate::pieces;
use crate::reason::Reason;

/// How much of a body is kept.
const LIMIT: usize = 64 << 10;

/// A request's body, as often as it is wanted until [`Replay::commit`].
#[derive(Clone)]
pub struct Replay(Source);

#[derive(Clone)]
enum Source {
    /// All of it is there.
    Whole(Bytes),
    Recorded(Rc<RefCell<Recording>>),
}

struct Recording {
    source: Body,
    /// The body's length, if it is known.
    length: Option<u64>,
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Bytes of them.
    kept: usize,
    /// For these.
    charge: Charge,
    source_over: bool,
    keeping: bool,
    /// Something that has passed is not kept.
    lost: bool,
    /// Why it ended before its end, where that is not the application's doing.
    fault: Option<(Reason, &'static str)>,
    /// Which of the bodies handed out may read: the last.
    reader: u64,
    /// How many pieces, and bytes in all, it was given.
    given: usize,
    sent: u64,
    /// It was given the end.
    ended: bool,
}

impl Replay {
    /// What is kept is charged to `account`.
    pub fn new(mut body: Body, account: &Rc<Account>) -> Self {
        if let Some(bytes) = body.take_whole() {
            return Self(Source::Whole(bytes));
        }
        if http_body::Body::is_end_stream(&body) {
            return Self(Source::Whole(Bytes::new()));
        }
        let length = http_body::Body::size_hint(&body).exact();
        Self(Source::Recorded(Rc::new(RefCell::new(Recording {
            source: body,
            length,
            data: VecDeque::new(),
            trailers: None,
            kept: 0,
            charge: Charge::on(account.clone()),
            source_over: false,
            keeping: true,
            lost: false,
            fault: None,
            reader: 0,
            given: 0,
            sent: 0,
            ended: false,
        }))))
    }

    /// Whether [`Replay::body`] can give all of the body (again).
    pub fn possible(&self) -> bool {
        match &self.0 {
            Source::Whole(_) => true,
            Source::Recorded(recording) => !recording.borrow().lost,
        }
    }

    /// Why no attempt can have all of the body, and what to say of it, where that is not the application's doing.
    pub fn fault(&self) -> Option<(Reason, &'static str)> {
        match &self.0 {
            Source::Whole(_) => None,
            Source::Recorded(recording) => recording.borrow().fault,
        }
    }

    /// The body from its beginning. Bodies that were handed out before end with an error.
    pub fn body(&self) -> Body {
        let recording = match &self.0 {
            Source::Whole(bytes) => return Body::whole(bytes.clone()),
            Source::Recorded(recording) => recording.clone(),
        };
        let reader = {
            let mut recording = recording.borrow_mut();
            recording.reader += 1;
            (recording.given, recording.sent, recording.ended) = (0, 0, false);
            recording.reader
        };
        Body::boxed(ReplayedBody { recording, reader })
    }

    /// Ends the bodies that were handed out. What is still under way of one would be lost to the next, where more passes than
    /// is kept.
    pub fn take_back(&self) {
        if let Source::Recorded(recording) = &self.0 {
            recording.borrow_mut().reader += 1;
        }
    }

    /// There will be no further attempt: nothing more is kept.
    pub fn commit(&self) {
        if let Source::Recorded(recording) = &self.0 {
            recording.borrow_mut().stop();
        }
    }
}

impl Recording {
    /// Keeps `data`, which is given to the reader as well, if that may be.
    fn record(&mut self, data: &Bytes) {
        let kept = self.kept + data.len();
        if self.keeping && kept <= LIMIT && self.charge.try_resize(kept) {
            self.kept = kept;
            if !pieces::join(&mut self.data, data) {
                self.data.push_back(data.clone());
            }
            self.given = self.data.len();
        } else {
            self.lost = true;
            self.stop();
        }
    }

    fn record_trailers(&mut self, trailers: &HeaderMap) {
        let bytes: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let kept = self.kept + bytes + trailers.len() * cost::FIELD;
        if self.keeping && self.charge.try_resize(kept) {
            self.kept = kept;
            self.trailers = Some(trailers.clone());
        } else {
            self.lost = true;
        }
    }

    /// Keeps only what the reader has not been given yet.
    fn stop(&mut self) {
        self.keeping = false;
        self.lost |= self.given > 0;
        self.kept -= self.data.drain(..self.given).map(|data| data.len()).sum::<usize>();
        self.given = 0;
        // Less is never refused.
        let _ = self.charge.resize(self.kept);
    }

    /// The next piece of what is kept.
    fn replay(&mut self) -> Option<Bytes> {
        let data = self.data.get(self.given)?.clone();
        self.given += 1;
        if !self.keeping {
            self.stop();
        }
        Some(data)
    }
}

/// The body of one attempt.
struct ReplayedBody {
    recording: Rc<RefCell<Recording>>,
    reader: u64,
}

impl http_body::Body for ReplayedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut recording = self.recording.borrow_mut();
        if recording.reader != self.reader {
            return Poll::Ready(Some(Err("another attempt has taken the body over".into())));
        }
        if let Some(data) = recording.replay() {
            recording.sent += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if recording.source_over {
            let ended = std::mem::replace(&mut recording.ended, true);
            let trailers = recording.trailers.clone().filter(|_| !ended);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        match ready!(Pin::new(&mut recording.source).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    recording.sent += data.len() as u64;
                    recording.record(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    (recording.source_over, recording.ended) = (true, true);
                    recording.record_trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                recording.lost = true;
                recording.fault = fault::of(&error);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                (recording.source_over, recording.ended) = (true, true);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let recording = self.recording.borrow();
        if recording.reader != self.reader || recording.given < recording.data.len() {
            return false;
        }
        if recording.source_over {
            return recording.ended || recording.trailers.is_none();
        }
        http_body::Body::is_end_stream(&recording.source)
    }

    fn size_hint(&self) -> SizeHint {
        let recording = self.recording.borrow();
        match recording.length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(recording.sent)),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};
    use tulle_model::name::WorkloadName;

    use super::*;
    use crate::budget::{Accounts, Budget, Payer};

    fn body(pieces: impl IntoIterator<Item = &'static [u8]>) -> Body {
        let frames: Vec<_> = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece)))).collect();
        Body::new(StreamBody::new(futures_util::stream::iter::<Vec<Result<_, Infallible>>>(frames)))
    }

    fn account(memory: u64) -> (std::sync::Arc<Budget>, Rc<Account>) {
        let budget = Budget::new(memory, 10);
        let payer = Payer::Workload(WorkloadName::new("default", "a"));
        (budget.clone(), Accounts::new(budget).of(&payer))
    }

    async fn next(body: &mut Body) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    async fn whole(body: Body) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test(flavor = "local")]
    async fn what_has_passed_is_given_again() {
        let replay = Replay::new(body([&b"one"[..], b"two", b"three"]), &account(1 << 20).1);
        let mut first = replay.body();
        assert_eq!((next(&mut first).await, next(&mut first).await), ("one".into(), "two".into()));
        let second = replay.body();
        assert!(first.frame().await.unwrap().is_err(), "it is the second one's now");
        assert_eq!(whole(second).await, "onetwothree");
        assert!(replay.possible());
        let mut third = replay.body();
        replay.commit();
        assert_eq!(next(&mut third).await, "onetwothree", "it had it not yet");
        assert!(third.frame().await.is_none() && !replay.possible());
    }

    /// An application may answer before it has read all, and the next attempt begins later.
    #[tokio::test(flavor = "local")]
    async fn what_is_taken_back_passes_no_further() {
        const PIECE: &[u8] = &[7; LIMIT / 2 + 1];
        let replay = Replay::new(body([PIECE; 2]), &account(1 << 20).1);
        let mut first = replay.body();
        next(&mut first).await;
        assert!(replay.possible());
        replay.take_back();
        assert!(first.frame().await.unwrap().is_err() && replay.possible());
        assert_eq!(whole(replay.body()).await.len(), 2 * PIECE.len());
    }

    #[tokio::test(flavor = "local")]
    async fn what_was_given_before_the_last_attempt_is_gone_and_nothing_else() {
        let account = account(1 << 20).1;
        let replay = Replay::new(body([&b"one"[..], b"two"]), &account);
        replay.commit();
        assert!(replay.possible(), "nothing was given yet");
        let replay = Replay::new(body([&b"one"[..], b"two"]), &account);
        let mut first = replay.body();
        next(&mut first).await;
        replay.commit();
        assert!(!replay.possible());
        assert_eq!(whole(first).await, "two");
    }

    #[tokio::test(flavor = "local")]
    async fn what_cannot_be_charged_is_sent_once() {
        const PIECE: &[u8] = &[7; 10 << 10];
        let (budget, account) = account(64 << 10);
        let replay = Replay::new(body([PIECE; 6]), &account);
        let mut sent = replay.body();
        next(&mut sent).await;
        next(&mut sent).await;
        assert!(replay.possible() && budget.rows()[0].memory >= 20 << 10);
        let held = account.charge(10 << 10).unwrap();
        assert_eq!(whole(sent).await.len(), 4 * PIECE.len(), "all of it passes");
        assert!(!replay.possible());
        drop(held);
        assert_eq!(budget.rows(), [], "nothing is kept");
        assert_eq!(budget.sheds().next(), Some(("memory", 0)), "and nothing was refused");
    }

    #[tokio::test(flavor = "local")]
    async fn a_long_body_is_not_kept_nor_one_that_was_taken() {
        const PIECE: &[u8] = &[7; 30 << 10];
        let (budget, account) = account(1 << 20);
        let replay = Replay::new(body([PIECE; 3]), &account);
        let mut sent = replay.body();
        next(&mut sent).await;
        next(&mut sent).await;
        assert_ne!(budget.rows(), []);
        next(&mut sent).await;
        assert_eq!((replay.possible(), budget.rows()), (false, vec![]));
        let replay = Replay::new(body([PIECE; 2]), &account);
        let mut sent = replay.body();
        next(&mut sent).await;
        replay.commit();
        assert_eq!(budget.rows(), []);
        assert_eq!(whole(sent).await.len(), PIECE.len());
    }

    #[tokio::test(flavor = "local")]
    async fn many_small_pieces_cost_what_they_are() {
        let replay = Replay::new(body([&b"x"[..]; 10_000]), &account(1 << 20).1);
        assert_eq!(whole(replay.body()).await.len(), 10_000);
        let Source::Recorded(recording) = &replay.0 else { panic!() };
        assert!(recording.borrow().data.len() <= 20, "{}", recording.borrow().data.len());
        assert_eq!(whole(replay.body()).await.len(), 10_000);
    }

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// A body of these pieces, and then trailers.
    fn trailed(pieces: &[&'static str], trailers: &HeaderMap) -> Body {
        let data = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from(*piece))));
        let frames: Vec<_> = data.chain([Ok(Frame::trailers(trailers.clone()))]).collect();
        Body::new(StreamBody::new(futures_util::stream::iter::<Vec<Result<_, Infallible>>>(frames)))
    }

    async fn trailers(body: &mut Body) -> HeaderMap {
        body.frame().await.unwrap().unwrap().into_trailers().unwrap()
    }

    fn charged(replay: &Replay) -> usize {
        let Source::Recorded(recording) = &replay.0 else { panic!() };
        recording.borrow().charge.bytes()
    }

    fn is_over(body: &Body) -> bool {
        http_body::Body::is_end_stream(body)
    }

    #[tokio::test(flavor = "local")]
    async fn a_body_is_as_long_as_what_is_left_of_it() {
        let left = |body: &Body| http_body::Body::size_hint(body).exact();
        let replay = Replay::new(Body::new(http_body_util::Full::new("hello".into())), &account(1 << 20).1);
        let mut first = replay.body();
        assert_eq!((left(&first), is_over(&first)), (Some(5), false));
        assert_eq!(next(&mut first).await, "hello");
        assert_eq!((left(&first), is_over(&first)), (Some(0), true));
        let mut second = replay.body();
        assert_eq!((left(&second), is_over(&second), is_over(&first)), (Some(5), false, false));
        assert_eq!(next(&mut second).await, "hello");
        assert_eq!((left(&second), is_over(&second), is_over(&first)), (Some(0), true, false));
        assert_eq!(left(&Replay::new(body([&b"one"[..]]), &account(1 << 20).1).body()), None);
    }

    #[tokio::test(flavor = "local")]
    async fn a_body_is_over_when_all_of_it_was_given() {
        let replay = Replay::new(body([&b"one"[..]]), &account(1 << 20).1);
        let mut first = replay.body();
        next(&mut first).await;
        assert!(!is_over(&first), "more may come");
        assert!(first.frame().await.is_none() && is_over(&first));
        let mut second = replay.body();
        assert!(!is_over(&second));
        next(&mut second).await;
        assert!(is_over(&second), "it is known now");
        assert!(second.frame().await.is_none() && second.frame().await.is_none());
    }

    #[tokio::test(flavor = "local")]
    async fn trailers_are_given_again_and_once_to_each() {
        let expected = fields(&[("x", "12"), ("yy", "3")]);
        let replay = Replay::new(trailed(&["one"], &expected), &account(1 << 20).1);
        for _ in 0..2 {
            let mut body = replay.body();
            assert_eq!(next(&mut body).await, "one");
            assert!(!is_over(&body));
            assert_eq!(trailers(&mut body).await, expected);
            assert!(is_over(&body) && replay.possible());
            assert!(body.frame().await.is_none() && body.frame().await.is_none());
            assert_eq!(charged(&replay), "onex12yy3".len() + 2 * cost::FIELD);
        }
        replay.commit();
        assert_eq!(charged(&replay), "x12yy3".len() + 2 * cost::FIELD, "they are there");
    }

    #[tokio::test(flavor = "local")]
    async fn trailers_that_are_not_kept_are_sent_once() {
        let (_budget, account) = account(64 << 10);
        let expected = fields(&[("x", "1")]);
        let replay = Replay::new(trailed(&[], &expected), &account);
        let mut body = replay.body();
        replay.commit();
        assert_eq!((trailers(&mut body).await, replay.possible(), charged(&replay)), (expected, false, 0));
        let mut expected = HeaderMap::new();
        expected.insert("x", "v".repeat(20 << 10).parse().unwrap());
        let replay = Replay::new(trailed(&[], &expected), &account);
        let mut body = replay.body();
        let _held = account.charge(32 << 10).unwrap();
        assert_eq!((trailers(&mut body).await, replay.possible(), charged(&replay)), (expected, false, 0));
    }

    #[tokio::test(flavor = "local")]
    async fn what_is_kept_has_a_limit() {
        const MOST: [&[u8]; 2] = [&[7; LIMIT - 1], &[7]];
        let account = account(1 << 20).1;
        for (more, possible) in [(&[][..], true), (&[&b"x"[..]], false)] {
            let replay = Replay::new(body(MOST.into_iter().chain(more.iter().copied())), &account);
            assert_eq!(whole(replay.body()).await.len(), LIMIT + more.len());
            assert_eq!((replay.possible(), charged(&replay)), (possible, if possible { LIMIT } else { 0 }));
        }
    }

    /// Not even what comes first.
    #[tokio::test(flavor = "local")]
    async fn nothing_is_kept_for_an_attempt_that_is_the_last() {
        let replay = Replay::new(body([&b"one"[..], b"two"]), &account(1 << 20).1);
        let mut only = replay.body();
        replay.commit();
        assert!(replay.possible(), "it is all there");
        next(&mut only).await;
        assert_eq!((replay.possible(), charged(&replay)), (false, 0));
        assert_eq!(next(&mut only).await, "two");
        assert_eq!(charged(&replay), 0);
    }

    #[tokio::test(flavor = "local")]
    async fn a_body_that_breaks_is_told_of_and_not_sent_again() {
        let frames = [Ok(Frame::data(Bytes::from("one"))), Err(std::io::Error::other("gone"))];
        let broken = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        let replay = Replay::new(broken, &account(1 << 20).1);
        let mut body = replay.body();
        assert_eq!((next(&mut body).await, replay.possible(), replay.fault()), ("one".into(), true, None));
        assert!(body.frame().await.unwrap().is_err() && !replay.possible());
        assert!(matches!(replay.fault(), Some((Reason::BadRequest, _))));
        assert_eq!(Replay::new(Body::whole("x".into()), &account(1 << 20).1).fault(), None);
    }
}
