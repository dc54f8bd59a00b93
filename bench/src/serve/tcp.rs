//! Raw TCP: the client's first byte says what the connection is for.
//!
//! | byte | what the service does |
//! |---|---|
//! | `E` | echoes everything |
//! | `O` | echoes what comes first, then closes |
//! | `S` | reads until the client ends its side, then answers how much it read (8 bytes, big endian) and closes |
//! | `D` | reads 8 bytes (big endian), sends that many, then closes |

use std::io;
use std::net::TcpStream;

use super::Next;
use crate::event::{self, Moved, Output, READ};

/// What a connection is for.
#[derive(Default)]
pub enum TcpHandler {
    /// The first byte has not come yet.
    #[default]
    New,
    /// Echoes.
    Echo {
        /// Whether it closes after the first.
        once: bool,
    },
    /// Reads; so much so far.
    Sink(u64),
    /// Reads how much to send.
    Asked(Vec<u8>),
    /// Writes what is left and closes.
    Last,
}

impl TcpHandler {
    /// Goes on after the socket became ready.
    pub fn step(&mut self, stream: &TcpStream, output: &mut Output, scratch: &mut [u8]) -> io::Result<Next> {
        if !output.is_empty() {
            let flushed = output.flush(stream)?;
            return Ok(if flushed && self.is_last() { Next::Close } else { Next::Keep });
        }
        let moved = match self {
            TcpHandler::Sink(_) => event::discard(stream, scratch)?,
            _ => event::read(stream, &mut scratch[..READ])?,
        };
        match moved {
            Moved::Bytes(count) => {
                if let TcpHandler::Sink(received) = self {
                    *received += count as u64;
                    return Ok(Next::Keep);
                }
                self.received(&scratch[..count], output);
            }
            Moved::Blocked => return Ok(Next::Keep),
            Moved::End => {
                let TcpHandler::Sink(received) = self else { return Ok(Next::Close) };
                output.bytes.extend_from_slice(&received.to_be_bytes());
                *self = TcpHandler::Last;
            }
        }
        // An echo that closes after the first waits for it.
        let answers = !output.is_empty() || matches!(self, TcpHandler::Last);
        Ok(if answers && output.flush(stream)? && self.is_last() { Next::Close } else { Next::Keep })
    }

    fn is_last(&self) -> bool {
        matches!(self, TcpHandler::Last | TcpHandler::Echo { once: true })
    }

    fn received(&mut self, mut bytes: &[u8], output: &mut Output) {
        if let TcpHandler::New = self {
            *self = match bytes[0] {
                b'E' => TcpHandler::Echo { once: false },
                b'O' => TcpHandler::Echo { once: true },
                b'S' => TcpHandler::Sink(0),
                b'D' => TcpHandler::Asked(Vec::new()),
                _ => TcpHandler::Last,
            };
            bytes = &bytes[1..];
        }
        match self {
            TcpHandler::New | TcpHandler::Last => {}
            TcpHandler::Echo { .. } => output.bytes.extend_from_slice(bytes),
            TcpHandler::Sink(received) => *received += bytes.len() as u64,
            TcpHandler::Asked(asked) => {
                asked.extend_from_slice(bytes);
                if let Some(count) = asked.first_chunk() {
                    output.filler = u64::from_be_bytes(*count);
                    *self = TcpHandler::Last;
                }
            }
        }
    }
}
