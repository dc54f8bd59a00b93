//! HTTP/1.1: `GET /bytes/N` answers N bytes, every other path 1 KiB; what is sent in a body is read,
//! and its length answered.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::LazyLock;

use super::{Next, read_behind};
use crate::event::{self, FILLER, Moved, Output};
use crate::wire::http1::{self, Framing, Head};

/// Bodies with more than this to come are not even copied from the kernel.
const UNSEEN: u64 = 64 << 10;

/// The answer of 1 KiB as a whole.
static KIBIBYTE: LazyLock<Vec<u8>> = LazyLock::new(|| answer(1024));

fn answer(size: usize) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n").into_bytes();
    answer.extend_from_slice(&FILLER[..size]);
    answer
}

/// Where in its requests a connection is.
#[derive(Default)]
pub struct Http1Handler {
    /// The body that is being read: what is to come, and what came.
    body: Option<(Framing, u64)>,
    /// Whether the connection ends with the answer to the request that is being read.
    last: bool,
}

impl Http1Handler {
    /// Goes on after the socket became ready.
    pub fn step(
        &mut self,
        stream: &TcpStream,
        rest: &mut Vec<u8>,
        output: &mut Output,
        scratch: &mut [u8],
    ) -> io::Result<Next> {
        if !output.is_empty() {
            if !output.flush(stream)? {
                return Ok(Next::Keep);
            }
            if self.last && self.body.is_none() {
                return Ok(Next::Close);
            }
            if !rest.is_empty() {
                let kept = std::mem::take(rest);
                return self.received(&kept, stream, rest, output);
            }
        }
        if let Some((body, received)) = &mut self.body
            && body.unseen() > UNSEEN
        {
            let length = scratch.len().min(body.unseen() as usize);
            match event::discard(stream, &mut scratch[..length])? {
                Moved::Bytes(count) => {
                    *received += count as u64;
                    let received = *received;
                    if body.skip(count as u64) {
                        self.body = None;
                        count_answer(output, received);
                        return self.finish(stream, output);
                    }
                    return Ok(Next::Keep);
                }
                Moved::Blocked => return Ok(Next::Keep),
                Moved::End => return Ok(Next::Close),
            }
        }
        match read_behind(stream, rest, scratch)? {
            Moved::Bytes(length) => self.received(&scratch[..length], stream, rest, output),
            Moved::Blocked => Ok(Next::Keep),
            Moved::End => Ok(Next::Close),
        }
    }

    /// Reads the requests in `bytes`, answers them, and leaves in `rest` what is not whole.
    pub fn received(
        &mut self,
        mut bytes: &[u8],
        stream: &TcpStream,
        rest: &mut Vec<u8>,
        output: &mut Output,
    ) -> io::Result<Next> {
        while !bytes.is_empty() && output.filler == 0 && !(self.last && self.body.is_none()) {
            if let Some((body, received)) = &mut self.body {
                let taken = body.take(bytes).map_err(io::Error::other)?;
                *received += taken.content;
                bytes = &bytes[taken.used..];
                if taken.done {
                    count_answer(output, *received);
                    self.body = None;
                }
                continue;
            }
            let unframed = Framing::Length(0);
            let Some((first, head)) = http1::head(bytes, unframed).map_err(io::Error::other)? else { break };
            self.request(first, head, output)?;
            bytes = &bytes[head.length..];
        }
        rest.extend_from_slice(bytes);
        self.finish(stream, output)
    }

    fn request(&mut self, first: &[u8], head: Head, output: &mut Output) -> io::Result<()> {
        let mut words = first.split(|byte| *byte == b' ');
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Err(io::Error::other(http1::MalformedMessage::FirstLine));
        };
        self.last = head.close;
        if !head.body.is_empty() {
            self.body = Some((head.body, 0));
            if head.expects {
                output.bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
        } else if matches!(method, b"POST" | b"PUT") {
            count_answer(output, 0);
        } else {
            let size = http1::size_of(path);
            if size == 1024 && method != b"HEAD" {
                output.bytes.extend_from_slice(&KIBIBYTE);
            } else {
                write!(
                    output.bytes,
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n"
                )?;
                output.filler = if method == b"HEAD" { 0 } else { size };
            }
        }
        Ok(())
    }

    fn finish(&mut self, stream: &TcpStream, output: &mut Output) -> io::Result<Next> {
        let flushed = output.is_empty() || output.flush(stream)?;
        if flushed && self.last && self.body.is_none() { Ok(Next::Close) } else { Ok(Next::Keep) }
    }
}

/// Answers how much came.
fn count_answer(output: &mut Output, received: u64) {
    let digits = received.checked_ilog10().unwrap_or(0) + 1;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{received}\n",
        digits + 1
    );
    output.bytes.extend_from_slice(answer.as_bytes());
}
