//! A body that is read by one, and copied as it passes for others whom nobody waits for: who is too far behind loses
//! the rest, and sees its copy break off.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::budget::{Account, Charge, cost};
use crate::http::body::{Body, BodyError};
use crate::mesh_headers::SPELLING;
use crate::pieces;

/// How many bytes the reader of a copy may be behind.
const BEHIND: usize = 64 << 10;

/// Why a copy broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyBroke {
    /// Its reader was too far behind.
    Behind,
    /// The body broke, or was not read to its end; or the copy's own reader went away.
    NotRead,
}

impl CopyBroke {
    pub fn message(self) -> &'static str {
        match self {
            Self::Behind => "the copy was not taken as fast as the request passed, and was cut off",
            Self::NotRead => "the request that it is a copy of was not read to its end, or broke",
        }
    }
}

impl fmt::Display for CopyBroke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for CopyBroke {}

/// Copies a body for so many others: gives their copies, and has `body` fill them. What they hold is charged to
/// `account`.
pub(crate) fn copy(body: &mut Body, count: usize, account: &Rc<Account>) -> Vec<(Body, CopyEnd)> {
    let whole = match body.take_whole() {
        Some(bytes) => {
            *body = Body::whole(bytes.clone());
            Some(bytes)
        }
        None if http_body::Body::is_end_stream(body) => Some(Bytes::new()),
        None => None,
    };
    if let Some(bytes) = whole {
        return (0..count).map(|_| (Body::whole(bytes.clone()), CopyEnd(None))).collect();
    }
    let length = http_body::Body::size_hint(body).exact();
    let copies: Vec<Rc<RefCell<Backlog>>> = (0..count).map(|_| Backlog::new(account)).collect();
    let handed_out = copies.iter().map(|copy| {
        let body = Body::boxed(CopyBody { copy: copy.clone(), left: length });
        (body, CopyEnd(Some(copy.clone())))
    });
    let handed_out = handed_out.collect();
    let inner = std::mem::replace(body, Body::empty());
    *body = Body::boxed(CopiedBody { inner, copies });
    handed_out
}

/// Tells when nothing more comes to a copy.
pub(crate) struct CopyEnd(Option<Rc<RefCell<Backlog>>>);

impl CopyEnd {
    pub async fn reached(&self) {
        let Some(copy) = &self.0 else { return };
        poll_fn(|cx| {
            let mut copy = copy.borrow_mut();
            if copy.end.is_some() {
                return Poll::Ready(());
            }
            copy.waits_for_end = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Why the copy broke off, if it did.
    pub fn broke(&self) -> Option<CopyBroke> {
        self.0.as_ref()?.borrow().end?.err()
    }
}

/// What has passed of a body, and was not taken yet.
struct Backlog {
    pieces: VecDeque<Bytes>,
    behind: usize,
    charge: Charge,
    trailers: Option<HeaderMap>,
    /// Whole, or not.
    end: Option<Result<(), CopyBroke>>,
    waits_for_more: Option<Waker>,
    waits_for_end: Option<Waker>,
}

impl Backlog {
    fn new(account: &Rc<Account>) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            pieces: VecDeque::new(),
            behind: 0,
            charge: Charge::on(account.clone()),
            trailers: None,
            end: None,
            waits_for_more: None,
            waits_for_end: None,
        }))
    }

    fn push(&mut self, data: &Bytes) {
        if self.end.is_some() || data.is_empty() {
            return;
        }
        let behind = self.behind + data.len();
        // One piece fits in any case: that is no delay of the reader.
        let fits = self.behind == 0 || behind <= BEHIND;
        if !fits || !self.charge.try_resize(behind) {
            return self.end(Err(CopyBroke::Behind));
        }
        self.behind = behind;
        if !pieces::join(&mut self.pieces, data) {
            self.pieces.push_back(data.clone());
        }
        wake(&mut self.waits_for_more);
    }

    fn push_trailers(&mut self, trailers: &HeaderMap) {
        let mut trailers = trailers.clone();
        // For the backend alone.
        trailers.remove(SPELLING);
        let size = cost::fields(&trailers);
        if self.end.is_none() && !self.charge.try_resize(self.behind + size) {
            return self.end(Err(CopyBroke::Behind));
        }
        self.trailers = Some(trailers).filter(|trailers| self.end.is_none() && !trailers.is_empty());
    }

    fn end(&mut self, end: Result<(), CopyBroke>) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        if end.is_err() {
            self.pieces.clear();
            self.trailers = None;
            self.behind = 0;
            self.charge.set(0);
        }
        wake(&mut self.waits_for_more);
        wake(&mut self.waits_for_end);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The body that is copied as it passes.
struct CopiedBody {
    inner: Body,
    copies: Vec<Rc<RefCell<Backlog>>>,
}

impl CopiedBody {
    fn each(&self, tell: impl Fn(&mut Backlog)) {
        self.copies.iter().for_each(|copy| tell(&mut copy.borrow_mut()));
    }
}

impl http_body::Body for CopiedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.each(|copy| copy.push(data));
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.each(|copy| copy.push_trailers(trailers));
                }
                // A reader that knows that this was all does not ask for more.
                if http_body::Body::is_end_stream(&this.inner) {
                    this.each(|copy| copy.end(Ok(())));
                }
            }
            Some(Err(_)) => this.each(|copy| copy.end(Err(CopyBroke::NotRead))),
            None => this.each(|copy| copy.end(Ok(()))),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.inner)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.inner)
    }
}

impl Drop for CopiedBody {
    fn drop(&mut self) {
        let whole = http_body::Body::is_end_stream(&self.inner);
        self.each(|copy| copy.end(if whole { Ok(()) } else { Err(CopyBroke::NotRead) }));
    }
}

/// A copy, as its reader has it.
struct CopyBody {
    copy: Rc<RefCell<Backlog>>,
    /// How much of it is to come, where that is known.
    left: Option<u64>,
}

impl http_body::Body for CopyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut copy = this.copy.borrow_mut();
        if let Some(data) = copy.pieces.pop_front() {
            copy.behind -= data.len();
            let behind = copy.behind;
            copy.charge.set(behind);
            this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(match copy.end {
            Some(Ok(())) => copy.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            Some(Err(why)) => Some(Err(why.into())),
            None => {
                copy.waits_for_more = Some(cx.waker().clone());
                return Poll::Pending;
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        let copy = self.copy.borrow();
        copy.end == Some(Ok(())) && copy.pieces.is_empty() && copy.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for CopyBody {
    fn drop(&mut self) {
        // Nothing more is kept for it.
        self.copy.borrow_mut().end(Err(CopyBroke::NotRead));
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;
    use tulle_model::name::WorkloadName;

    use super::*;
    use crate::budget::{Accounts, Budget, Payer};

    type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>;

    fn account() -> Rc<Account> {
        let payer = Payer::Workload(WorkloadName::new("default", "a"));
        Accounts::new(Budget::new(1 << 20, 10)).of(&payer)
    }

    /// A body that is fed by hand, and one copy of it.
    fn copied() -> (Frames, Body, Body, CopyEnd) {
        let (frames, mut receiver) = mpsc::unbounded_channel();
        let mut body =
            Body::new(StreamBody::new(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))));
        let (copy, end) = copy(&mut body, 1, &account()).remove(0);
        (frames, body, copy, end)
    }

    fn data(bytes: &'static [u8]) -> Result<Frame<Bytes>, std::io::Error> {
        Ok(Frame::data(bytes.into()))
    }

    #[tokio::test(flavor = "local")]
    async fn a_copy_has_what_has_passed_and_ends_as_the_body_does() {
        let (frames, mut body, copy, end) = copied();
        let mut trailers = HeaderMap::new();
        trailers.insert("x", "1".parse().unwrap());
        for frame in [data(b"one"), data(b"two"), Ok(Frame::trailers(trailers.clone()))] {
            frames.send(frame).unwrap();
        }
        drop(frames);
        while body.frame().await.is_some() {}
        end.reached().await;
        let collected = copy.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "onetwo");
    }

    #[tokio::test(flavor = "local")]
    async fn who_is_too_far_behind_loses_the_rest() {
        const PIECE: &[u8] = &[7; BEHIND / 2];
        let (frames, mut body, mut copy, end) = copied();
        for _ in 0..2 {
            frames.send(data(PIECE)).unwrap();
            body.frame().await.unwrap().unwrap();
        }
        assert_eq!(copy.frame().await.unwrap().unwrap().into_data().unwrap().len(), PIECE.len());
        for _ in 0..2 {
            frames.send(data(PIECE)).unwrap();
            body.frame().await.unwrap().unwrap();
        }
        end.reached().await;
        let why = copy.frame().await.unwrap().unwrap_err();
        assert!(why.downcast_ref() == Some(&CopyBroke::Behind) && !http_body::Body::is_end_stream(&copy));
        // One piece is no delay, however large.
        let (frames, mut body, mut copy, _end) = copied();
        frames.send(data(&[7; 2 * BEHIND])).unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(copy.frame().await.unwrap().unwrap().into_data().unwrap().len(), 2 * BEHIND);
    }

    #[tokio::test(flavor = "local")]
    async fn a_body_that_is_not_read_to_its_end_breaks_its_copies() {
        for broken in [true, false] {
            let (frames, mut body, mut copy, end) = copied();
            frames.send(data(b"one")).unwrap();
            body.frame().await.unwrap().unwrap();
            if broken {
                frames.send(Err(std::io::Error::other("gone"))).unwrap();
                assert!(body.frame().await.unwrap().is_err());
            } else {
                drop(body);
            }
            end.reached().await;
            let why = copy.frame().await.unwrap().unwrap_err();
            assert_eq!(why.downcast_ref(), Some(&CopyBroke::NotRead));
        }
    }

    #[tokio::test(flavor = "local")]
    async fn nothing_is_kept_for_who_went_away() {
        let (frames, mut body, copy, end) = copied();
        drop(copy);
        end.reached().await;
        frames.send(data(b"one")).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        let CopyEnd(Some(backlog)) = end else { panic!() };
        assert_eq!((backlog.borrow().behind, backlog.borrow().pieces.len()), (0, 0));
    }

    #[tokio::test(flavor = "local")]
    async fn what_is_there_is_copied_at_once() {
        for whole in ["", "whole"] {
            let mut body = Body::from(whole.to_owned());
            let mut copies = copy(&mut body, 2, &account());
            assert_eq!(body.whole_length(), Some(whole.len() as u64));
            for (copy, end) in &mut copies {
                end.reached().await;
                assert_eq!(copy.take_whole().unwrap(), whole);
            }
        }
    }
}
