//! HTTP/2 and gRPC: answers as over HTTP/1.1; and whatever comes with the content type of gRPC is echoed
//! as it comes, on any path, which is a unary call as well as a stream.

use std::io;
use std::net::TcpStream;

use super::{Next, read_behind};
use crate::event::{FILLER, Output};
use crate::wire::hpack::Phrase;
use crate::wire::http2::{Event, FieldSection, Link};

/// Bodies wait while more than this waits to be written.
const ENOUGH: usize = 1 << 20;

/// A peer that lets this much wait, of frames which nothing holds back, does not read.
const TOO_MUCH: usize = 8 << 20;

/// How many streams may be open that have not been answered.
const STREAMS: usize = 1024;

/// What a stream is answered with.
enum Answer {
    /// So much filler.
    Filler(u64),
    /// What came, and whether the answer has begun.
    Echo { waiting: Vec<u8>, begun: bool },
    /// How much came.
    Count(u64),
}

struct Stream {
    answer: Answer,
    /// What the peer still lets us send on it.
    window: i64,
    /// Whether the peer's side is over.
    ended: bool,
    /// What came since we granted more.
    ungranted: u32,
}

/// A connection.
pub struct Http2Handler {
    link: Link,
    streams: foldhash::HashMap<u32, Stream>,
    /// Whether a stream with an open window waits until something was written.
    held: bool,
    plain: Phrase,
    kibibyte: Phrase,
    grpc: Phrase,
    trailers: Phrase,
}

impl Http2Handler {
    /// A connection whose preface has come.
    pub fn new(output: &mut Output) -> Self {
        let plain = (&b"content-type"[..], &b"text/plain"[..]);
        let status = (&b":status"[..], &b"200"[..]);
        Self {
            link: Link::new(false, &mut output.bytes),
            streams: foldhash::HashMap::default(),
            held: false,
            plain: Phrase::new(&[status, plain]),
            kibibyte: Phrase::new(&[status, plain, (b"content-length", b"1024")]),
            grpc: Phrase::new(&[status, (b"content-type", b"application/grpc")]),
            trailers: Phrase::new(&[(b"grpc-status", b"0")]),
        }
    }

    /// Goes on after the socket became ready.
    pub fn step(
        &mut self,
        stream: &TcpStream,
        rest: &mut Vec<u8>,
        output: &mut Output,
        scratch: &mut [u8],
    ) -> io::Result<Next> {
        if !output.is_empty() {
            self.flush(stream, output)?;
        }
        match read_behind(stream, rest, scratch)? {
            crate::event::Moved::Bytes(length) => self.received(&scratch[..length], stream, rest, output),
            crate::event::Moved::Blocked => Ok(Next::Keep),
            crate::event::Moved::End => Ok(Next::Close),
        }
    }

    /// Reads the frames in `bytes`, answers them, and leaves in `rest` what is not whole.
    pub fn received(
        &mut self,
        mut bytes: &[u8],
        stream: &TcpStream,
        rest: &mut Vec<u8>,
        output: &mut Output,
    ) -> io::Result<Next> {
        let out = &mut output.bytes;
        while let Some(event) = self.link.next(&mut bytes, out).map_err(io::Error::other)? {
            match event {
                Event::Fields { stream, fields, end } => self.fields(stream, fields, end, out)?,
                Event::Data { stream, bytes, flow, end } => self.data(stream, bytes, flow, end, out),
                Event::Window { stream: 0, .. } => self.send_all(out),
                Event::Window { stream, more } => {
                    if let Some(found) = self.streams.get_mut(&stream) {
                        found.window += more;
                        self.send(stream, out);
                    }
                }
                Event::Settings { more } => {
                    self.streams.values_mut().for_each(|stream| stream.window += more);
                    self.send_all(out);
                }
                Event::Reset { stream, .. } => drop(self.streams.remove(&stream)),
                Event::Away { .. } => {}
            }
        }
        rest.extend_from_slice(bytes);
        self.flush(stream, output)?;
        Ok(if output.left() > TOO_MUCH { Next::Close } else { Next::Keep })
    }

    /// Writes what there is room for, and whatever was held back until something was written.
    fn flush(&mut self, stream: &TcpStream, output: &mut Output) -> io::Result<()> {
        while !output.is_empty() && output.flush(stream)? && std::mem::take(&mut self.held) {
            self.send_all(&mut output.bytes);
        }
        Ok(())
    }

    fn fields(&mut self, stream: u32, fields: FieldSection, end: bool, out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(found) = self.streams.get_mut(&stream) {
            // Trailers.
            found.ended |= end;
            self.send(stream, out);
            return Ok(());
        }
        let answer = if fields.grpc {
            Answer::Echo { waiting: Vec::new(), begun: false }
        } else if fields.sends || !end {
            Answer::Count(0)
        } else {
            let whole = fields.size == 1024;
            self.link.say(stream, if whole { &mut self.kibibyte } else { &mut self.plain }, fields.bare, out);
            if fields.bare {
                return Ok(());
            }
            if whole && self.link.window >= 1024 && self.link.stream_window >= 1024 {
                self.link.data(stream, &FILLER[..1024], true, out);
                return Ok(());
            }
            Answer::Filler(fields.size)
        };
        if self.streams.len() >= STREAMS {
            return Err(io::Error::other("more streams than were agreed"));
        }
        let window = self.link.stream_window;
        self.streams.insert(stream, Stream { answer, window, ended: end, ungranted: 0 });
        if end {
            self.send(stream, out);
        }
        Ok(())
    }

    fn data(&mut self, id: u32, bytes: &[u8], flow: u32, end: bool, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.ended |= end;
        match &mut stream.answer {
            Answer::Count(count) => {
                *count += bytes.len() as u64;
                if !end {
                    Link::grant(id, &mut stream.ungranted, flow, out);
                }
            }
            Answer::Echo { waiting, .. } => {
                waiting.extend_from_slice(bytes);
                stream.ungranted += flow;
            }
            Answer::Filler(_) => {}
        }
        self.send(id, out);
    }

    fn send_all(&mut self, out: &mut Vec<u8>) {
        let streams: Vec<u32> = self.streams.keys().copied().collect();
        for stream in streams {
            self.send(stream, out);
        }
    }

    /// Sends on a stream what its windows have room for, and forgets it when that was all.
    fn send(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let link = &mut self.link;
        let held = &mut self.held;
        let mut room = |link: &Link, stream: &Stream, out: &[u8]| {
            let granted = stream.window.min(link.window).max(0) as usize;
            let enough = ENOUGH.saturating_sub(out.len());
            *held |= enough < granted;
            granted.min(enough)
        };
        let done = match &mut stream.answer {
            Answer::Filler(left) => {
                let mut left = *left;
                loop {
                    let length = room(link, stream, out).min(FILLER.len()).min(left as usize);
                    if length == 0 && left > 0 {
                        break;
                    }
                    left -= length as u64;
                    stream.window -= length as i64;
                    link.data(id, &FILLER[..length], left == 0, out);
                    if left == 0 {
                        break;
                    }
                }
                stream.answer = Answer::Filler(left);
                left == 0
            }
            Answer::Echo { waiting, begun } => {
                if !*begun && (!waiting.is_empty() || stream.ended) {
                    link.say(id, &mut self.grpc, false, out);
                    *begun = true;
                }
                let mut taken = std::mem::take(waiting);
                let length = room(link, stream, out).min(taken.len());
                if length > 0 {
                    stream.window -= length as i64;
                    link.data(id, &taken[..length], false, out);
                    taken.drain(..length);
                }
                let empty = taken.is_empty();
                if empty && !stream.ended {
                    // Only what was passed on is granted again, so that no more than a window waits.
                    Link::grant(id, &mut stream.ungranted, 0, out);
                }
                if empty && stream.ended {
                    link.say(id, &mut self.trailers, true, out);
                }
                if let Answer::Echo { waiting, .. } = &mut stream.answer {
                    *waiting = taken;
                }
                empty && stream.ended
            }
            Answer::Count(count) => {
                let text = format!("{count}\n");
                let fits = stream.ended && room(link, stream, out) >= text.len();
                if fits {
                    link.say(id, &mut self.plain, false, out);
                    link.data(id, text.as_bytes(), true, out);
                }
                fits
            }
        };
        if done {
            self.streams.remove(&id);
        }
    }
}
