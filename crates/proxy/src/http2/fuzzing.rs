//! The [`Core`] beside a model of both sides: what a peer sends and what the tasks here do, in any order.
//!
//! Whatever comes, what the core says of itself adds up ([`Model::adds_up`]). A peer that keeps to the rules besides
//! never has its connection or a stream fail for an offence, windows are to both sides what the other granted, and
//! each byte of data arrives once and in order.

mod peer;
mod tasks;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Result, Unstructured};

use self::peer::PeerModel;
use self::tasks::HeldStream;
use super::core::Core;
use super::error::{Ended, ErrorCode};
use super::frame::DEFAULT_WINDOW;
use super::handle::Handle;
use super::input::Expect;
use super::stream::{Stream, Way};
use super::{Limits, WhenReset};
use crate::budget::{Accounts, Budget, Charge, Payer};

/// Memory for all that an input can have a connection hold, in bytes; and for some of it, so that windows get smaller
/// and streams are refused.
const ENOUGH: u64 = 1 << 30;
const LITTLE: [u64; 3] = [1 << 20, 256 << 10, 64 << 10];

/// What is said and done on one connection; the first byte says which side of it this is, and how much memory there is.
///
/// # Panics
/// Where something does not add up.
pub fn http2(input: &[u8]) {
    // When much memory was given back, a task tells the allocator.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build_local(Default::default());
    runtime.expect("it needs no more than a clock").block_on(async {
        let mut input = Unstructured::new(input);
        let Ok(mut model) = Model::new(&mut input) else { return };
        // That the input is at its end is no fault.
        while let Ok(true) = model.step(&mut input) {
            model.settle();
        }
        model.settle();
        model.finish();
    });
}

/// The byte of data at that place of a stream.
fn byte(stream: u32, place: usize) -> u8 {
    ((stream as usize * 31 + place) % 251) as u8
}

struct Model {
    core: Rc<RefCell<Core>>,
    handle: Handle,
    budget: Arc<Budget>,
    peer: PeerModel,
    tasks: BTreeMap<u32, HeldStream>,
    now: Duration,
    limits: Limits,
}

impl Model {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let first: u8 = input.arbitrary()?;
        let server = first & 1 == 1;
        let memory = LITTLE.get(usize::from(first >> 6).wrapping_sub(1)).copied().unwrap_or(ENOUGH);
        let limits = Limits {
            stream_window: *input.choose(&[1 << 10, 64 << 10, 1 << 20])?,
            connection_window: *input.choose(&[1 << 10, 128 << 10, 2 << 20])?,
            frame: 16 << 10,
            header_list: 8 << 10,
            fields: 100,
            streams: *input.choose(&[1, 4, 100])?,
            resets: 20,
            resets_per_second: 10,
            when_reset: if input.arbitrary()? { WhenReset::Wait } else { WhenReset::Leave },
            extended_connect: true,
            names: &[],
        };
        let budget = Budget::new(memory, 1);
        let mut core = Core::new(server, limits);
        core.payer = Charge::on(Accounts::new(budget.clone()).of(&Payer::Handshakes));
        let core = Rc::new(RefCell::new(core));
        let handle = Handle(core.clone(), None);
        let peer = PeerModel::new(server, limits);
        let mut model =
            Self { core, handle, budget, peer, tasks: BTreeMap::new(), now: Duration::ZERO, limits };
        model.settle();
        let greeting = model.peer.greeting(input)?;
        model.deliver(input, &greeting)?;
        model.settle();
        Ok(model)
    }

    /// Something happens; whether more may.
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<bool> {
        if input.is_empty() {
            return Ok(false);
        }
        match input.int_in_range(0..=23)? {
            0..=9 if self.core.borrow().ended.is_none() => {
                let bytes = self.peer.says(input)?;
                self.deliver(input, &bytes)?;
            }
            0..=11 => self.accept(),
            12 => self.open(input)?,
            13..=19 => self.act(input)?,
            20 => self.write(input.int_in_range(1..=200_000)?),
            21 => self.core.borrow_mut().socket_is_full(),
            22 => {
                self.now += Duration::from_millis(input.int_in_range(0..=2000)?);
                self.core.borrow_mut().pass_time(self.now);
            }
            _ => match input.int_in_range(0..=7)? {
                0 => self.handle.go_away(),
                1 => self.handle.shrink(),
                2 => drop(self.core.borrow_mut().ping()),
                _ => self.core.borrow_mut().charge_buffers(),
            },
        }
        Ok(true)
    }

    /// What the peer said comes in, in up to three reads.
    fn deliver(&mut self, input: &mut Unstructured<'_>, mut bytes: &[u8]) -> Result<()> {
        for _ in 0..input.int_in_range(0..=2)? {
            let (now, later) = bytes.split_at(input.int_in_range(0..=bytes.len())?);
            self.core.borrow_mut().receive(now, self.now);
            self.adds_up();
            bytes = later;
        }
        self.core.borrow_mut().receive(bytes, self.now);
        Ok(())
    }

    /// The peer opens its windows, and the socket takes all.
    fn drain(&mut self) {
        let bytes = self.peer.opens_windows();
        self.core.borrow_mut().receive(&bytes, self.now);
        self.settle();
        for _ in 0..1000 {
            if self.core.borrow().out.len() == 0 {
                break;
            }
            self.write(usize::MAX);
            self.settle();
        }
    }

    /// The socket takes some of what is to be written.
    fn write(&mut self, most: usize) {
        let mut core = self.core.borrow_mut();
        let count = core.out.len().min(most);
        if count > 0 {
            core.out.wrote(count);
            core.socket_full = false;
            core.give_turns();
        }
    }

    /// The peer reads what was said to it, and all is looked at.
    fn settle(&mut self) {
        self.peer.hear(&self.core.borrow());
        self.adds_up();
        self.agrees();
    }

    /// What the core says of itself.
    fn adds_up(&self) {
        let core = self.core.borrow();
        let sum = |count: fn(&Stream) -> usize| core.streams.values().map(count).sum::<usize>();
        assert_eq!(core.unsent, sum(|stream| if stream.is_closed() { 0 } else { stream.unsent_length }));
        for (id, stream) in &core.streams {
            let [data, unsent] =
                [&stream.data, &stream.unsent].map(|all| all.iter().map(bytes::Bytes::len).sum());
            assert_eq!((stream.held, stream.unsent_length), (data, unsent), "stream {id}");
            assert!(stream.is_paid(), "stream {id} holds more than is charged");
            assert!(stream.receiver_held || stream.data.is_empty(), "data for nobody on stream {id}");
            assert!(stream.receiver_held || stream.sender_held || !stream.is_closed(), "stream {id} is over");
            if stream.reset.is_some() || core.ended.is_some() {
                assert_eq!(stream.unsent_length, 0, "stream {id} is over, and has something to say");
            }
        }
        // A client's heads are answered one for one; a server's are taken at once.
        assert!(core.accepted.len() <= 2 * self.limits.streams as usize);
        assert!(core.cut.len() <= 2 * self.limits.streams as usize + 1);
        assert!(core.waiting.len() <= 1000, "{}", core.waiting.len());
        assert!(
            core.input.held() <= (64 << 10) + 40 * self.limits.header_list as usize,
            "{}",
            core.input.held()
        );
        if core.ended.is_some() {
            assert!(core.accepted.is_empty() && core.waiting.is_empty());
            return;
        }
        let (buffered, unannounced, uncredited) = core.receiving_account();
        assert_eq!(buffered, sum(|stream| stream.held));
        assert!(uncredited <= buffered);
        let begun = if let Expect::Data(data) = core.input.expect { data.left } else { 0 };
        let window = i64::from(self.limits.connection_window.max(DEFAULT_WINDOW));
        let known = core.receive_window + i64::from(unannounced) + (uncredited + begun) as i64;
        assert_eq!(known, window, "the connection's window");
        for (id, stream) in &core.streams {
            if stream.receiving == Way::Open && stream.reset.is_none() && stream.receiver_held {
                let begun = match core.input.expect {
                    Expect::Data(data) if data.stream == *id => data.left,
                    _ => 0,
                };
                let known =
                    stream.receive_window + i64::from(stream.unannounced) + (stream.held + begun) as i64;
                assert_eq!(
                    known,
                    i64::from(core.windows.granted(*id, core.server)),
                    "the window of stream {id}"
                );
            }
        }
        if !core.server {
            let open = core.streams.values().filter(|stream| stream.opened_as > 0).count();
            let unanswered = core.streams.values().filter(|stream| stream.unanswered).count();
            assert_eq!((core.open, core.unanswered), (open, unanswered));
        }
    }

    /// What the core and a peer that keeps to the rules know of each other.
    fn agrees(&self) {
        if self.peer.breaks_rules {
            return;
        }
        let core = self.core.borrow();
        match &core.ended {
            None => {}
            // So much was too much, but nothing was wrong.
            Some(Ended::Violation(violation)) => {
                assert_eq!(violation.code, ErrorCode::ENHANCE_YOUR_CALM, "{violation}");
                return;
            }
            Some(_) => return,
        }
        assert_eq!((core.receive_window, core.send_window), (self.peer.room, self.peer.window));
        for (id, stream) in &core.streams {
            let Some(known) = self.peer.streams.get(id) else { panic!("stream {id} was never opened") };
            if !stream.is_closed() {
                assert_eq!(stream.send_window, known.window, "stream {id}");
                if stream.receiving == Way::Open {
                    assert_eq!(stream.receive_window, known.room + self.peer.unconfirmed(*id), "stream {id}");
                }
            }
        }
    }

    /// The peer takes what is there, and then nobody holds anything any more: nothing stays behind.
    fn finish(mut self) {
        self.accept();
        let ended = |this: &Self| this.peer.breaks_rules || this.core.borrow().ended.is_some();
        if !ended(&self) {
            self.drain();
            let waiting = self.tasks.iter().find(|(_, task)| task.waits_to_write());
            assert_eq!(waiting.map(|(id, _)| id), None, "who wants to write is not woken");
        }
        self.tasks.clear();
        self.settle();
        if !ended(&self) {
            self.drain();
            let core = self.core.borrow();
            if core.ended.is_none() {
                assert_eq!(
                    (core.out.len(), core.unsent, core.streams.len()),
                    (0, 0, 0),
                    "something is stuck"
                );
                assert_eq!((core.open, core.unanswered), (0, 0));
            }
        }
        let Self { core, handle, budget, .. } = self;
        core.borrow_mut().end(Ended::Closed);
        assert_eq!((core.borrow().streams.len(), core.borrow().unsent), (0, 0));
        drop((core, handle));
        assert_eq!(budget.rows(), [], "memory is not given back");
    }
}
