//! What the tasks here do with a connection's streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::{Model, byte};
use crate::http2::{Error, Receiver, RequestFields, Sender, Unfit};

/// What is held of a stream.
pub(super) struct HeldStream {
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    /// A request's head was answered (servers).
    answered: bool,
    /// How much was given to be sent, and whether it was the last.
    written: usize,
    ended: bool,
    /// The head of the answer was read (clients), and how much after it.
    head_read: bool,
    read: usize,
    reading: Flag,
    writing: Flag,
}

/// Whether who waits was woken.
#[derive(Default)]
struct Flag {
    woken: Arc<Woken>,
    waits: bool,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl Flag {
    fn poll<T>(&mut self, poll: impl FnOnce(&Context<'_>) -> Poll<T>) -> Poll<T> {
        let waker = Waker::from(self.woken.clone());
        self.woken.0.store(false, Relaxed);
        let result = poll(&Context::from_waker(&waker));
        self.waits = result.is_pending();
        result
    }

    /// It could not go on the last time, and nobody has said since that it can.
    fn sleeps(&self) -> bool {
        self.waits && !self.woken.0.load(Relaxed)
    }
}

impl HeldStream {
    pub(super) fn waits_to_write(&self) -> bool {
        self.sender.is_some() && self.writing.sleeps()
    }

    fn new(sender: Sender, receiver: Receiver) -> Self {
        Self {
            sender: Some(sender),
            receiver: Some(receiver),
            answered: false,
            written: 0,
            ended: false,
            head_read: false,
            read: 0,
            reading: Flag::default(),
            writing: Flag::default(),
        }
    }
}

impl Model {
    /// Takes the requests that have come.
    pub(super) fn accept(&mut self) {
        loop {
            let Some(incoming) = self.core.borrow_mut().accepted.pop_front() else { break };
            let (sender, receiver) = self.handle.incoming(&incoming);
            let mut task = HeldStream::new(sender, receiver);
            if incoming.unfit == Some(Unfit::Unaffordable) {
                // What comes on it is thrown away.
                task.receiver = None;
            }
            self.tasks.insert(incoming.id, task);
        }
    }

    /// Sends a request.
    pub(super) fn open(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let (server, id) = {
            let core = self.core.borrow();
            (core.server, core.next_stream)
        };
        if server {
            return Ok(());
        }
        let method = input.choose(&[Method::GET, Method::POST, Method::HEAD, Method::CONNECT])?;
        let uri = if *method == Method::CONNECT { "a:1" } else { "http://a/b" };
        let (uri, headers) = (Uri::from_static(uri), headers(input)?);
        let end = *method != Method::CONNECT && input.arbitrary()?;
        let extensions = Extensions::new();
        let head = RequestFields { method, uri: &uri, extensions: &extensions, headers: &headers, more: &[] };
        if let Ok((sender, receiver)) = self.handle.request(&head, end) {
            let mut task = HeldStream::new(sender, receiver);
            (task.answered, task.ended) = (true, end);
            self.tasks.insert(id, task);
        }
        Ok(())
    }

    /// One of the tasks goes on.
    pub(super) fn act(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.tasks.is_empty() {
            return Ok(());
        }
        let index = input.choose_index(self.tasks.len())?;
        let Some(&id) = self.tasks.keys().nth(index) else { return Ok(()) };
        let failed = self.core.borrow().failure(id).is_some();
        let Some(task) = self.tasks.get_mut(&id) else { return Ok(()) };
        match input.int_in_range(0..=9)? {
            0 | 1 => {
                if let Some(sender) = &mut task.sender
                    && !task.answered
                {
                    let end = input.arbitrary()?;
                    let answered = sender.respond(StatusCode::OK, &headers(input)?, end);
                    assert_eq!(answered.is_err(), failed);
                    (task.answered, task.ended) = (true, end);
                }
            }
            2..=4 => task.write(input, id, failed)?,
            5..=7 => self.read(id),
            8 => {
                task.sender = None;
            }
            _ => {
                task.receiver = None;
            }
        }
        if let Some(task) = self.tasks.get(&id)
            && task.sender.is_none()
            && task.receiver.is_none()
        {
            self.tasks.remove(&id);
        }
        Ok(())
    }

    /// Reads what there is.
    fn read(&mut self, id: u32) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Some(receiver) = &mut task.receiver else { return };
        let slept = task.reading.sleeps();
        let known = self.peer.streams.get(&id).filter(|_| !self.peer.breaks_rules);
        if !self.core.borrow().server && !task.head_read {
            let head = task.reading.poll(|cx| receiver.poll_head(cx));
            assert!(!slept || head.is_pending(), "who waits for a head is not woken");
            task.head_read = matches!(head, Poll::Ready(Ok(_)));
            return;
        }
        let data = task.reading.poll(|cx| receiver.poll_data(cx));
        assert!(!slept || data.is_pending(), "who waits for data is not woken");
        match data {
            Poll::Ready(Some(Ok(data))) => {
                let Some(known) = known else { return };
                for (place, found) in data.iter().enumerate() {
                    assert_eq!(*found, byte(id, task.read + place), "data of stream {id}");
                }
                task.read += data.len();
                assert!(task.read <= known.sent);
            }
            Poll::Ready(None) => {
                let at_end = receiver.is_at_end();
                if let Some(known) = known {
                    assert!(known.sent_end && task.read == known.sent, "stream {id} ends early");
                    assert!(at_end || known.trailers);
                }
                let trailers = task.reading.poll(|cx| receiver.poll_trailers(cx));
                assert!(matches!(trailers, Poll::Ready(Ok(_))));
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(known) = known {
                    let over = known.peer_reset || known.core_reset || self.core.borrow().ended.is_some();
                    assert!(over || self.core.borrow().peer_going, "{error} on stream {id}");
                }
            }
            Poll::Pending => {}
        }
    }
}

impl HeldStream {
    /// Sends some data, trailers or the end.
    fn write(&mut self, input: &mut Unstructured<'_>, id: u32, failed: bool) -> Result<()> {
        let Some(sender) = &mut self.sender else { return Ok(()) };
        if !self.answered || self.ended {
            return Ok(());
        }
        if input.ratio(1, 8)? {
            let trailers = headers(input)?;
            let sent = sender.send_trailers(&trailers);
            assert!(failed || matches!(sent, Ok(()) | Err(Error::TooLargeForPeer(_))), "{sent:?}");
            self.ended = true;
            return Ok(());
        }
        let room = match input.arbitrary()? {
            true => match self.writing.poll(|cx| sender.poll_room(cx)) {
                Poll::Ready(Ok(room)) => room,
                _ => return Ok(()),
            },
            false => usize::MAX,
        };
        let most = *input.choose(&[0, 10, 1000, 20_000, 150_000])?;
        let length = input.int_in_range(0..=most)?.min(room);
        let end = input.ratio(1, 4)?;
        let mut data: Bytes = (self.written..self.written + length).map(|place| byte(id, place)).collect();
        sender.send(&mut data, end);
        self.written += length - data.len();
        self.ended = end && data.is_empty();
        Ok(())
    }
}

fn headers(input: &mut Unstructured<'_>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let name = *input.choose(&["x-a", "x-b", "date", "cookie", "authorization"])?;
        let value = "v".repeat(*input.choose(&[0, 1, 30, 3000, 20_000])?);
        headers.append(name, HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("")));
    }
    Ok(headers)
}
