//! HTTP/2 and gRPC: so many slots on each connection, each of which has one request at a time under way.
//!
//! For requests a slot is a new stream each time; for gRPC streams it is one stream that stays, and each
//! message that comes back is counted. A connection is opened, is ready once the peer's settings have
//! come, and drains when the peer takes no more streams; what the peer did not look at is sent again and
//! still counts from when it was due.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};

use super::drive::{Drive, Engine};
use crate::event::{self, Interest, Moved, Output, READ, SECOND};
use crate::wire::hpack::Phrase;
use crate::wire::http2::{Event, FieldSection, Link, REFUSED};

/// How long a connection rests that broke.
const REST: u64 = SECOND / 50;

/// A connection is replaced long before it runs out of numbers for streams.
const LAST_STREAM: u32 = 1 << 30;

/// What is asked for on the connections.
pub struct Call {
    /// The request's fields.
    pub fields: Vec<(&'static str, String)>,
    /// The message, with its prefix, of a gRPC call.
    pub message: Option<Vec<u8>>,
    /// Whether streams stay.
    pub stays: bool,
    /// How many at once on each connection.
    pub streams: usize,
}

#[derive(Clone, Default)]
struct Slot {
    /// The stream; 0 without one.
    stream: u32,
    /// Whether a request is under way.
    busy: bool,
    /// Whether the request waits for a window.
    waits: bool,
    due: u64,
    since: u64,
    status: u16,
    received: u64,
    /// What the peer lets us send on the stream.
    window: i64,
    ungranted: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Readiness {
    /// Closed until it is swept.
    Resting(u64),
    /// Waits for the peer's settings.
    Opening(u64),
    Ready,
    /// Finishes what is under way.
    Draining,
}

struct MultiplexedConnection {
    stream: Option<TcpStream>,
    link: Link,
    readiness: Readiness,
    /// Counts how often it was opened; who is told idle in an earlier life is not.
    life: u32,
    interest: Interest,
    output: Output,
    rest: Vec<u8>,
    request: Phrase,
    slots: Vec<Slot>,
    next_stream: u32,
    busy: usize,
    touched: bool,
}

/// The connections.
pub struct Connections {
    target: SocketAddr,
    call: Call,
    connections: Vec<MultiplexedConnection>,
    /// Free slots: connection, life, slot.
    idle: VecDeque<(usize, u32, usize)>,
    /// When requests were due that have to be sent again.
    again: VecDeque<u64>,
    /// Connections with something new to write.
    touched: Vec<usize>,
    in_flight: usize,
    scratch: Vec<u8>,
}

impl Connections {
    /// So many connections, which are opened at once.
    pub fn new(target: SocketAddr, call: Call, connections: usize) -> Self {
        let fields: Vec<_> =
            call.fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let new = |_| MultiplexedConnection {
            stream: None,
            link: Link::new(true, &mut Vec::new()),
            readiness: Readiness::Resting(0),
            life: 0,
            interest: Interest::Read,
            output: Output::default(),
            rest: Vec::new(),
            request: Phrase::new(&fields),
            slots: Vec::new(),
            next_stream: 1,
            busy: 0,
            touched: false,
        };
        Self {
            target,
            connections: (0..connections).map(new).collect(),
            call,
            idle: VecDeque::new(),
            again: VecDeque::new(),
            touched: Vec::new(),
            in_flight: 0,
            scratch: vec![0; event::SCRATCH],
        }
    }

    fn open(&mut self, index: usize, now: u64, drive: &mut Drive) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let stream = match event::connect(self.target) {
            Ok(stream) => stream,
            Err(error) => {
                drive.record.failed(error);
                connection.readiness = Readiness::Resting(now + REST);
                return Ok(());
            }
        };
        drive.poller.add(&stream, index as u64, Interest::Read)?;
        connection.interest = Interest::Read;
        connection.stream = Some(stream);
        connection.readiness = Readiness::Opening(now);
        drive.record.reconnects += u64::from(connection.life > 0);
        connection.life += 1;
        connection.next_stream = 1;
        connection.link = Link::new(true, &mut connection.output.bytes);
        connection.request.forget();
        self.touch(index);
        Ok(())
    }

    /// Closes a connection; everything under way on it failed.
    fn broke(&mut self, index: usize, now: u64, what: &dyn std::fmt::Display, drive: &mut Drive) {
        let connection = &mut self.connections[index];
        // A peer may close a connection on which nothing is under way.
        if connection.busy > 0 || matches!(connection.readiness, Readiness::Opening(_)) {
            for _ in 0..connection.busy.max(1) {
                drive.record.failed(what);
            }
        }
        self.in_flight -= connection.busy;
        connection.busy = 0;
        connection.slots.clear();
        connection.stream = None;
        connection.output = Output::default();
        connection.rest.clear();
        connection.readiness = Readiness::Resting(now + REST);
    }

    /// Everything may be sent now; with streams that stay, they are begun.
    fn opened(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.readiness = Readiness::Ready;
        let streams = self.call.streams.min(connection.link.max_streams as usize);
        if streams < self.call.streams && connection.life == 1 {
            eprintln!("the peer takes no more than {streams} streams on a connection");
        }
        connection.slots = vec![Slot::default(); streams];
        for slot in 0..streams {
            if self.call.stays {
                connection.begin(slot);
            }
            self.idle.push_back((index, connection.life, slot));
        }
    }

    fn touch(&mut self, index: usize) {
        if !self.connections[index].touched {
            self.connections[index].touched = true;
            self.touched.push(index);
        }
    }

    /// Writes what was put into connections' outputs, once for each.
    fn flush(&mut self, now: u64, drive: &mut Drive) {
        while let Some(index) = self.touched.pop() {
            self.connections[index].touched = false;
            if let Err(error) = self.connections[index].flush(index, drive) {
                self.broke(index, now, &error, drive);
            }
        }
    }

    /// Reads and understands what is there; what is complete by that is counted as of `now`.
    fn receive(&mut self, index: usize, drive: &mut Drive) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let Some(stream) = &connection.stream else { return Ok(()) };
        let kept = connection.rest.len();
        let length = match event::read(stream, &mut self.scratch[kept..kept + READ])? {
            Moved::Bytes(count) => kept + count,
            Moved::Blocked => return Ok(()),
            Moved::End => return Err(io::Error::other("the peer closed the connection")),
        };
        let now = event::now();
        self.scratch[..kept].copy_from_slice(&connection.rest);
        connection.rest.clear();
        // The buffer is lent out while the rest of the engine works on what is in it.
        let scratch = std::mem::take(&mut self.scratch);
        let mut bytes = &scratch[..length];
        let result = loop {
            let connection = &mut self.connections[index];
            match connection.link.next(&mut bytes, &mut connection.output.bytes) {
                Ok(Some(event)) => self.event(index, event, now, drive),
                Ok(None) => break Ok(()),
                Err(error) => break Err(io::Error::other(error)),
            }
        };
        self.connections[index].rest.extend_from_slice(bytes);
        self.scratch = scratch;
        if !self.connections[index].output.is_empty() {
            self.touch(index);
        }
        result
    }

    fn event(&mut self, index: usize, event: Event<'_>, now: u64, drive: &mut Drive) {
        let connection = &mut self.connections[index];
        match event {
            Event::Settings { more } => {
                connection.slots.iter_mut().for_each(|slot| slot.window += more);
                if let Readiness::Opening(_) = connection.readiness {
                    self.opened(index);
                }
                self.resume(index);
            }
            Event::Window { stream, more } => {
                if let Some(slot) = connection.slot(stream) {
                    connection.slots[slot].window += more;
                }
                self.resume(index);
            }
            Event::Fields { stream, fields, end } => {
                let Some(slot) = connection.slot(stream) else { return };
                connection.slots[slot].learn(fields);
                if end {
                    self.ended(index, slot, now, drive);
                }
            }
            Event::Data { stream, bytes, flow, end } => {
                let Some(at) = connection.slot(stream) else { return };
                let slot = &mut connection.slots[at];
                slot.received += bytes.len() as u64;
                if !end {
                    Link::grant(stream, &mut slot.ungranted, flow, &mut connection.output.bytes);
                }
                let whole = self.call.message.as_ref().map_or(u64::MAX, |message| message.len() as u64);
                if end {
                    self.ended(index, at, now, drive);
                } else if self.call.stays && slot.busy && slot.received >= whole {
                    slot.received -= whole;
                    self.answered(index, at, now, drive);
                }
            }
            Event::Reset { stream, code } => {
                let Some(slot) = connection.slot(stream) else { return };
                if code == REFUSED && !self.call.stays {
                    self.refused(index, slot);
                } else {
                    self.failed(
                        index,
                        slot,
                        &format_args!("the peer reset a stream with code {code}"),
                        drive,
                    );
                }
            }
            Event::Away { last } => {
                if connection.readiness == Readiness::Ready {
                    connection.readiness = Readiness::Draining;
                }
                for slot in 0..connection.slots.len() {
                    let found = &self.connections[index].slots[slot];
                    if found.busy && found.stream > last && !self.call.stays {
                        self.refused(index, slot);
                    }
                }
            }
        }
    }

    /// Sends what waited for a window.
    fn resume(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        for slot in 0..connection.slots.len() {
            if connection.slots[slot].waits {
                connection.send(slot, &self.call);
            }
        }
    }

    /// The peer's side of a stream is over.
    fn ended(&mut self, index: usize, slot: usize, now: u64, drive: &mut Drive) {
        if self.call.stays {
            self.failed(index, slot, &"the peer ended a stream that was to stay", drive);
        } else if self.connections[index].slots[slot].waits {
            self.failed(index, slot, &"the answer came before the whole request was sent", drive);
        } else {
            self.answered(index, slot, now, drive);
        }
    }

    fn answered(&mut self, index: usize, at: usize, now: u64, drive: &mut Drive) {
        let scheduled = drive.scheduled();
        let slot = &mut self.connections[index].slots[at];
        let sent = self.call.message.as_ref().map_or(0, |message| message.len() as u64);
        let received = if self.call.stays { sent } else { slot.received };
        let ok = (200..300).contains(&slot.status);
        drive.record.answered(slot.due, now, scheduled, ok, sent + received);
        self.free(index, at);
    }

    fn refused(&mut self, index: usize, slot: usize) {
        self.again.push_back(self.connections[index].slots[slot].due);
        self.free(index, slot);
    }

    fn failed(&mut self, index: usize, slot: usize, what: &dyn std::fmt::Display, drive: &mut Drive) {
        drive.record.failed(what);
        self.connections[index].slots[slot].waits = false;
        if self.call.stays {
            // Its slot has no stream any more: the connection is opened anew once the others are done.
            self.connections[index].readiness = Readiness::Draining;
        }
        if self.connections[index].slots[slot].busy {
            self.free(index, slot);
        }
        if self.call.stays {
            self.connections[index].slots[slot].stream = 0;
        }
    }

    fn free(&mut self, index: usize, slot: usize) {
        let connection = &mut self.connections[index];
        let found = &mut connection.slots[slot];
        found.busy = false;
        if !self.call.stays {
            found.stream = 0;
        }
        connection.busy -= 1;
        self.in_flight -= 1;
        self.idle.push_back((index, connection.life, slot));
    }
}

impl Slot {
    fn learn(&mut self, fields: FieldSection) {
        if fields.status >= 200 {
            self.status = fields.status;
        }
        // A call that failed is as an answer of 500.
        if fields.grpc_status.is_some_and(|status| status != 0) {
            self.status = 500;
        }
    }
}

impl MultiplexedConnection {
    fn slot(&self, stream: u32) -> Option<usize> {
        if stream == 0 { None } else { self.slots.iter().position(|slot| slot.stream == stream) }
    }

    /// Gives a slot a new stream and sends the request's fields on it.
    fn begin(&mut self, slot: usize) {
        self.stream_for(slot);
        self.link.say(self.slots[slot].stream, &mut self.request, false, &mut self.output.bytes);
    }

    fn stream_for(&mut self, slot: usize) {
        let window = self.link.stream_window;
        let slot = &mut self.slots[slot];
        (slot.stream, slot.window, slot.status, slot.ungranted) = (self.next_stream, window, 0, 0);
        self.next_stream += 2;
        if self.next_stream > LAST_STREAM {
            self.readiness = Readiness::Draining;
        }
    }

    /// Sends a slot's request, or notes that it waits for a window.
    fn send(&mut self, at: usize, call: &Call) {
        let length = call.message.as_ref().map_or(0, Vec::len) as i64;
        let window = if call.stays { self.slots[at].window } else { self.link.stream_window };
        self.slots[at].waits = window.min(self.link.window) < length;
        if self.slots[at].waits {
            return;
        }
        if !call.stays {
            self.stream_for(at);
            let stream = self.slots[at].stream;
            self.link.say(stream, &mut self.request, call.message.is_none(), &mut self.output.bytes);
        }
        if let Some(message) = &call.message {
            let slot = &mut self.slots[at];
            slot.window -= length;
            self.link.data(slot.stream, message, !call.stays, &mut self.output.bytes);
        }
    }

    fn flush(&mut self, index: usize, drive: &Drive) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let done = self.output.flush(stream)?;
        let interest = if done { Interest::Read } else { Interest::Both };
        if interest != self.interest {
            drive.poller.change(stream, index as u64, interest)?;
            self.interest = interest;
        }
        Ok(())
    }
}

impl Engine for Connections {
    fn ready(&mut self, token: u64, drive: &mut Drive) -> io::Result<()> {
        let index = token as usize;
        if !self.connections[index].output.is_empty() {
            self.touch(index);
        }
        if let Err(error) = self.receive(index, drive) {
            self.broke(index, event::now(), &error, drive);
        }
        let now = event::now();
        let connection = &self.connections[index];
        if connection.readiness == Readiness::Draining && connection.busy == 0 {
            self.broke(index, now, &"drained", drive);
        }
        self.launch(now, drive)
    }

    fn launch(&mut self, now: u64, drive: &mut Drive) -> io::Result<()> {
        while now < drive.record.until
            && let Some((index, life, slot)) = self.idle.front().copied()
        {
            let connection = &self.connections[index];
            if connection.life != life || connection.readiness != Readiness::Ready {
                self.idle.pop_front();
                continue;
            }
            let Some(due) = self.again.pop_front().or_else(|| drive.pace.take(now)) else { break };
            self.idle.pop_front();
            let connection = &mut self.connections[index];
            let found = &mut connection.slots[slot];
            (found.due, found.since, found.busy, found.received) = (due, now, true, 0);
            connection.busy += 1;
            self.in_flight += 1;
            connection.send(slot, &self.call);
            self.touch(index);
        }
        self.flush(now, drive);
        Ok(())
    }

    fn sweep(&mut self, now: u64, drive: &mut Drive) -> io::Result<()> {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let late = |slot: &Slot| slot.busy && now.saturating_sub(slot.since) >= drive.timeout;
            match connection.readiness {
                Readiness::Resting(until) if now >= until => self.open(index, now, drive)?,
                Readiness::Opening(since) if now.saturating_sub(since) >= drive.timeout => {
                    self.broke(index, now, &"no settings in time", drive);
                }
                Readiness::Ready | Readiness::Draining if connection.slots.iter().any(late) => {
                    self.broke(index, now, &"no answer in time", drive);
                }
                Readiness::Draining if connection.busy == 0 => self.broke(index, now, &"drained", drive),
                _ => {}
            }
        }
        self.flush(now, drive);
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}
