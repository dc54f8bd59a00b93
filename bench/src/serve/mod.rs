//! The service behind the proxies: one thread, one loop, answers that are ready before they are asked
//! for. On one port HTTP/1.1 and cleartext HTTP/2 with gRPC, told apart by the preface; on another raw
//! TCP.

mod http1;
mod http2;
mod tcp;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use self::http1::Http1Handler;
use self::http2::Http2Handler;
use self::tcp::TcpHandler;
use crate::event::{self, Interest, Moved, Output, Poller, READ};

/// The service behind the proxies.
#[derive(clap::Args)]
pub struct ServeOptions {
    /// Where to speak HTTP/1.1, HTTP/2 and gRPC
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Where to speak raw TCP
    #[arg(long, value_name = "ADDRESS")]
    tcp: Option<SocketAddr>,
    /// How many connections may be open at once
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    max_connections: usize,
}

/// What follows a step of a connection.
enum Next {
    Keep,
    Close,
}

/// What a connection speaks.
enum Speaks {
    /// Not enough has come to know.
    Undecided,
    Http1(Http1Handler),
    Http2(Box<Http2Handler>),
    Tcp(TcpHandler),
}

struct Connection {
    stream: TcpStream,
    /// What was read and not understood yet.
    rest: Vec<u8>,
    output: Output,
    interest: Interest,
    speaks: Speaks,
}

/// Serves until the process is ended.
pub fn run(options: &ServeOptions) -> anyhow::Result<()> {
    event::allow_many_files();
    let mut server = Server {
        poller: Poller::new()?,
        listeners: Vec::new(),
        connections: Vec::new(),
        free: Vec::new(),
        limit: options.max_connections,
        scratch: vec![0; event::SCRATCH],
    };
    let (http, tcp) = (options.http.map(|at| (at, false)), options.tcp.map(|at| (at, true)));
    for (address, raw) in http.into_iter().chain(tcp) {
        let listener = event::listen(address)?;
        server.poller.add(&listener, server.listeners.len() as u64, Interest::Read)?;
        server.listeners.push((listener, raw));
    }
    anyhow::ensure!(!server.listeners.is_empty(), "nothing to serve: give --http or --tcp");
    loop {
        for index in 0..server.poller.wait(60_000)? {
            let token = server.poller.ready(index) as usize;
            match token.checked_sub(server.listeners.len()) {
                None => server.accept(token),
                Some(slot) => server.step(slot),
            }
        }
    }
}

struct Server {
    poller: Poller,
    listeners: Vec<(TcpListener, bool)>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    limit: usize,
    scratch: Vec<u8>,
}

impl Server {
    fn accept(&mut self, listener: usize) {
        // Others get their turn after some.
        for _ in 0..64 {
            let (listener, raw) = &self.listeners[listener];
            // Whatever went wrong concerns one connection, or passes: the poller tells again.
            let Ok((stream, _)) = listener.accept() else { return };
            let slot = match self.free.pop() {
                Some(slot) => slot,
                None if self.connections.len() < self.limit => {
                    self.connections.push(None);
                    self.connections.len() - 1
                }
                None => continue,
            };
            let token = (slot + self.listeners.len()) as u64;
            let speaks = if *raw { Speaks::Tcp(TcpHandler::default()) } else { Speaks::Undecided };
            if self.poller.add(&stream, token, Interest::Read).is_err() {
                self.free.push(slot);
                continue;
            }
            self.connections[slot] = Some(Connection {
                stream,
                rest: Vec::new(),
                output: Output::default(),
                interest: Interest::Read,
                speaks,
            });
        }
    }

    fn step(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return };
        let token = (slot + self.listeners.len()) as u64;
        // A connection that breaks is the other side's to report.
        if let Ok(Next::Keep) = connection.step(&mut self.scratch)
            && connection.listen_for(&self.poller, token).is_ok()
        {
            return;
        }
        self.connections[slot] = None;
        self.free.push(slot);
    }
}

impl Connection {
    fn step(&mut self, scratch: &mut [u8]) -> io::Result<Next> {
        match &mut self.speaks {
            Speaks::Undecided => self.decide(scratch),
            Speaks::Http1(handler) => handler.step(&self.stream, &mut self.rest, &mut self.output, scratch),
            Speaks::Http2(handler) => handler.step(&self.stream, &mut self.rest, &mut self.output, scratch),
            Speaks::Tcp(handler) => handler.step(&self.stream, &mut self.output, scratch),
        }
    }

    fn decide(&mut self, scratch: &mut [u8]) -> io::Result<Next> {
        let preface = &crate::wire::http2::PREFACE[..];
        let length = match read_behind(&self.stream, &mut self.rest, scratch)? {
            Moved::Bytes(length) => length,
            Moved::Blocked => return Ok(Next::Keep),
            Moved::End => return Ok(Next::Close),
        };
        let bytes = &scratch[..length];
        if preface.starts_with(bytes) && length < preface.len() {
            self.rest.extend_from_slice(bytes);
            return Ok(Next::Keep);
        }
        if bytes.starts_with(preface) {
            let mut handler = Box::new(Http2Handler::new(&mut self.output));
            let next =
                handler.received(&bytes[preface.len()..], &self.stream, &mut self.rest, &mut self.output);
            self.speaks = Speaks::Http2(handler);
            return next;
        }
        let mut handler = Http1Handler::default();
        let next = handler.received(bytes, &self.stream, &mut self.rest, &mut self.output);
        self.speaks = Speaks::Http1(handler);
        next
    }

    fn listen_for(&mut self, poller: &Poller, token: u64) -> io::Result<()> {
        let interest = match (&self.speaks, self.output.is_empty()) {
            (_, true) => Interest::Read,
            // Peers of HTTP/2 that both stop to read while they write would wait for each other.
            (Speaks::Http2(_), false) => Interest::Both,
            (_, false) => Interest::Write,
        };
        if interest != self.interest {
            poller.change(&self.stream, token, interest)?;
            self.interest = interest;
        }
        Ok(())
    }
}

/// Reads behind what was left over, so that both are one piece at the start of `scratch`; answers the
/// length of both.
fn read_behind(stream: &TcpStream, rest: &mut Vec<u8>, scratch: &mut [u8]) -> io::Result<Moved> {
    let kept = rest.len();
    match event::read(stream, &mut scratch[kept..kept + READ])? {
        Moved::Bytes(count) => {
            scratch[..kept].copy_from_slice(rest);
            rest.clear();
            Ok(Moved::Bytes(kept + count))
        }
        other => Ok(other),
    }
}
