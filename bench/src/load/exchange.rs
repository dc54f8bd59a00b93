//! One request at a time on each connection: HTTP/1.1, and small messages over raw TCP.
//!
//! A connection is idle, writes its request, reads its answer, and is idle again; where each request has a
//! connection of its own it then waits for the peer to close first, so that the ports that stay
//! behind for a minute are the peer's one, not all of ours. A connection that breaks rests for a moment
//! before it is opened again.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};

use super::drive::{Drive, Engine};
use crate::event::{self, Interest, Moved, Output, READ, SECOND};
use crate::wire::http1::{self, Framing};

/// Bodies with more than this to come are not even copied from the kernel.
const UNSEEN: u64 = 64 << 10;

/// How long a connection rests that broke.
const REST: u64 = SECOND / 50;

/// How long the peer has to close a connection after its last answer.
const LINGER: u64 = SECOND;

/// What is said on the connections.
pub struct Exchange {
    /// What the first request of a connection is.
    pub first: Vec<u8>,
    /// What every other is.
    pub request: Vec<u8>,
    /// Bytes of filler behind it.
    pub upload: u64,
    /// The length of an answer that is not HTTP.
    pub echo: Option<u64>,
    /// Whether each request has a connection of its own.
    pub once: bool,
}

/// Where a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for a request.
    Idle,
    /// Broke; closed until it is swept.
    Resting,
    /// Reads the answer's head, after or while it writes the request.
    Head,
    /// Reads the answer's body.
    Body(Framing),
    /// Has its answer; the peer is to close.
    Closing,
}

struct SerialConnection {
    stream: Option<TcpStream>,
    phase: Phase,
    interest: Interest,
    output: Output,
    rest: Vec<u8>,
    /// Since when the request is due.
    due: u64,
    /// When it was sent, or when the connection began to rest or to close.
    since: u64,
    status: u16,
    /// Whether the peer closes after the answer.
    last: bool,
    /// Bytes of the answer's body.
    received: u64,
}

/// The connections.
pub struct Exchanges {
    target: SocketAddr,
    exchange: Exchange,
    connections: Vec<SerialConnection>,
    idle: VecDeque<usize>,
    in_flight: usize,
    scratch: Vec<u8>,
}

impl Exchanges {
    /// So many connections, which are opened with their first request.
    pub fn new(target: SocketAddr, exchange: Exchange, connections: usize) -> Self {
        let new = |_| SerialConnection {
            stream: None,
            phase: Phase::Idle,
            interest: Interest::Read,
            output: Output::default(),
            rest: Vec::new(),
            due: 0,
            since: 0,
            status: 0,
            last: false,
            received: 0,
        };
        Self {
            target,
            exchange,
            connections: (0..connections).map(new).collect(),
            idle: (0..connections).collect(),
            in_flight: 0,
            scratch: vec![0; event::SCRATCH],
        }
    }

    /// Sends a request on an idle connection.
    fn send(&mut self, slot: usize, due: u64, now: u64, drive: &mut Drive) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        (connection.due, connection.since, connection.received) = (due, now, 0);
        connection.phase = Phase::Head;
        connection.last = self.exchange.once;
        self.in_flight += 1;
        let request = if connection.stream.is_some() {
            &self.exchange.request
        } else {
            match event::connect(self.target) {
                Ok(stream) => {
                    drive.poller.add(&stream, slot as u64, Interest::Read)?;
                    connection.interest = Interest::Read;
                    connection.stream = Some(stream);
                }
                Err(error) => {
                    self.broke(slot, now, &error, drive);
                    return Ok(());
                }
            }
            &self.exchange.first
        };
        connection.output.bytes.extend_from_slice(request);
        connection.output.filler = self.exchange.upload;
        if let Err(error) = self.flush(slot, drive) {
            self.broke(slot, now, &error, drive);
        }
        Ok(())
    }

    fn flush(&mut self, slot: usize, drive: &Drive) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        let Some(stream) = &connection.stream else { return Ok(()) };
        let done = connection.output.flush(stream)?;
        // An early answer to a request that is still being written is read, too.
        let interest = if done { Interest::Read } else { Interest::Both };
        if interest != connection.interest {
            drive.poller.change(stream, slot as u64, interest)?;
            connection.interest = interest;
        }
        Ok(())
    }

    /// Closes a connection whose request failed.
    fn broke(&mut self, slot: usize, now: u64, what: &dyn std::fmt::Display, drive: &mut Drive) {
        drive.record.failed(what);
        self.in_flight -= 1;
        let connection = &mut self.connections[slot];
        connection.close();
        (connection.phase, connection.since) = (Phase::Resting, now);
    }

    /// Closes a connection that has nothing to say any more and makes its place free.
    fn closed(&mut self, slot: usize, drive: &mut Drive) {
        let connection = &mut self.connections[slot];
        connection.close();
        if connection.phase != Phase::Idle {
            connection.phase = Phase::Idle;
            self.idle.push_back(slot);
        }
        drive.record.reconnects += u64::from(!self.exchange.once);
    }

    /// Reads what is there; `Ok(true)` when the answer is complete.
    fn receive(&mut self, slot: usize) -> io::Result<bool> {
        let connection = &mut self.connections[slot];
        let Some(stream) = &connection.stream else { return Ok(false) };
        let scratch = &mut self.scratch;
        if let Phase::Body(body) = &mut connection.phase
            && body.unseen() > UNSEEN
        {
            let length = scratch.len().min(body.unseen() as usize);
            return match event::discard(stream, &mut scratch[..length])? {
                Moved::Bytes(count) => {
                    connection.received += count as u64;
                    Ok(body.skip(count as u64))
                }
                Moved::Blocked => Ok(false),
                Moved::End => Err(io::Error::other("the peer closed within an answer")),
            };
        }
        let kept = connection.rest.len();
        let moved = event::read(stream, &mut scratch[kept..kept + READ])?;
        let length = match moved {
            Moved::Bytes(count) => kept + count,
            Moved::Blocked => return Ok(false),
            Moved::End => {
                return match connection.phase {
                    Phase::Body(Framing::UntilClose) => Ok(true),
                    Phase::Head if kept == 0 => Err(io::Error::other("the peer closed instead of answering")),
                    _ => Err(io::Error::other("the peer closed within an answer")),
                };
            }
        };
        scratch[..kept].copy_from_slice(&connection.rest);
        connection.rest.clear();
        connection.understand(&scratch[..length], self.exchange.echo).map_err(io::Error::other)
    }

    fn complete(&mut self, slot: usize, now: u64, drive: &mut Drive) {
        let scheduled = drive.scheduled();
        let upload = self.exchange.upload + self.exchange.echo.unwrap_or(0);
        let connection = &mut self.connections[slot];
        let ok = self.exchange.echo.is_some() || (200..300).contains(&connection.status);
        if !connection.output.is_empty() {
            self.broke(slot, now, &"the answer came before the whole request was sent", drive);
            return;
        }
        drive.record.answered(connection.due, now, scheduled, ok, connection.received + upload);
        self.in_flight -= 1;
        if connection.last && connection.phase != Phase::Body(Framing::UntilClose) {
            (connection.phase, connection.since) = (Phase::Closing, now);
            return;
        }
        if connection.last {
            self.closed(slot, drive);
        } else {
            connection.phase = Phase::Idle;
            self.idle.push_back(slot);
        }
    }
}

impl SerialConnection {
    fn close(&mut self) {
        self.stream = None;
        self.output = Output::default();
        self.rest.clear();
    }

    /// Reads a piece of the answer; true when it ends there.
    fn understand(&mut self, mut bytes: &[u8], echo: Option<u64>) -> Result<bool, http1::MalformedMessage> {
        loop {
            if let Phase::Head = self.phase {
                if let Some(length) = echo {
                    self.phase = Phase::Body(Framing::Length(length));
                    continue;
                }
                let Some((first, head)) = http1::head(bytes, Framing::UntilClose)? else {
                    self.rest.extend_from_slice(bytes);
                    return Ok(false);
                };
                self.status = http1::status(first)?;
                bytes = &bytes[head.length..];
                if (100..200).contains(&self.status) {
                    continue;
                }
                let body = if http1::bodiless(self.status) { Framing::Length(0) } else { head.body };
                self.last |= head.close && (body == head.body || head.body != Framing::UntilClose);
                self.phase = Phase::Body(body);
            }
            let Phase::Body(body) = &mut self.phase else { return Ok(false) };
            if body.is_empty() {
                return Ok(true);
            }
            let taken = body.take(bytes)?;
            self.received += taken.content;
            return Ok(taken.done);
        }
    }
}

impl Engine for Exchanges {
    fn ready(&mut self, token: u64, drive: &mut Drive) -> io::Result<()> {
        let slot = token as usize;
        let connection = &mut self.connections[slot];
        if connection.stream.is_none() {
            return Ok(());
        }
        match connection.phase {
            Phase::Resting => {}
            // Nothing but the end can come; if something else does, it is no answer to anything.
            Phase::Idle | Phase::Closing => self.closed(slot, drive),
            Phase::Head | Phase::Body(_) => {
                let writing = !connection.output.is_empty();
                let received = if writing { self.flush(slot, drive) } else { Ok(()) };
                let received = received.and_then(|()| self.receive(slot));
                let now = event::now();
                match received {
                    Ok(true) => self.complete(slot, now, drive),
                    Ok(false) => {}
                    Err(error) => self.broke(slot, now, &error, drive),
                }
            }
        }
        self.launch(event::now(), drive)
    }

    fn launch(&mut self, now: u64, drive: &mut Drive) -> io::Result<()> {
        while now < drive.record.until && !self.idle.is_empty() {
            let Some(due) = drive.pace.take(now) else { break };
            let Some(slot) = self.idle.pop_front() else { break };
            self.send(slot, due, now, drive)?;
        }
        Ok(())
    }

    fn sweep(&mut self, now: u64, drive: &mut Drive) -> io::Result<()> {
        for slot in 0..self.connections.len() {
            let connection = &mut self.connections[slot];
            let since = now.saturating_sub(connection.since);
            match connection.phase {
                Phase::Resting if since >= REST => {
                    connection.phase = Phase::Idle;
                    self.idle.push_back(slot);
                }
                Phase::Closing if since >= LINGER => {
                    drive.record.failed("the peer did not close after its last answer");
                    self.closed(slot, drive);
                }
                Phase::Head | Phase::Body(_) if since >= drive.timeout => {
                    self.broke(slot, now, &"no answer in time", drive);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}
