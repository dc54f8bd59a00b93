//! A TLS connection after its handshake.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::record::{BadRecord, HEADER, Key, MAX_PLAINTEXT, MAX_RECORD, OVERHEAD, content, payload_length};
use crate::http2::Transport;

/// What is read, and sealed, at a time. Two records more than what HTTP/2 has ready to be written.
const READ: usize = 128 << 10;
const SEAL: usize = 8 * (MAX_PLAINTEXT + OVERHEAD);
/// A peer that changes its key that often without a word in between wears us out.
const MAX_KEY_UPDATES: u32 = 32;

const CLOSE_NOTIFY: u8 = 0;
const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
    static SEAL_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SEAL]);
}

/// Makes the next keys.
pub(super) enum Rekey {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Rekey {
    fn sealing(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(connection) => connection.update_tx_secret(),
            Self::Server(connection) => connection.update_tx_secret(),
        }
    }

    fn opening(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(connection) => connection.update_rx_secret(),
            Self::Server(connection) => connection.update_rx_secret(),
        }
    }
}

/// A TLS 1.3 connection.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    rekey: Rekey,
    sealing: Key,
    opening: Key,
    /// Came with the handshake, and was opened there.
    early: Vec<u8>,
    /// The beginning of a record.
    partial: Vec<u8>,
    /// Sealed, and not taken by the socket yet.
    unsent: Vec<u8>,
    key_updates: u32,
    peer_closed: bool,
    closed: bool,
}

impl TlsStream {
    pub(super) fn new(
        tcp: TcpStream,
        rekey: Rekey,
        secrets: ExtractedSecrets,
        early: Vec<u8>,
        partial: Vec<u8>,
    ) -> io::Result<Self> {
        let key = |(sequence, secrets)| Key::new(&secrets, sequence).map_err(bad);
        let (sealing, opening) = (key(secrets.tx)?, key(secrets.rx)?);
        let unsent = Vec::new();
        Ok(Self {
            tcp,
            rekey,
            sealing,
            opening,
            early,
            partial,
            unsent,
            key_updates: 0,
            peer_closed: false,
            closed: false,
        })
    }

    /// Opens the whole records in `bytes` and gives `take` what they hold; gives how many bytes they were.
    fn open(&mut self, bytes: &mut [u8], take: &mut dyn FnMut(&[u8])) -> Result<usize, BadRecord> {
        let mut start = 0;
        while let Some((header, length)) = payload_length(&bytes[start..])? {
            let end = start + HEADER + length;
            if end > bytes.len() || self.peer_closed {
                break;
            }
            let (content, plaintext) = self.opening.open(header, &mut bytes[start + HEADER..end])?;
            match content {
                content::APPLICATION_DATA => {
                    self.key_updates = 0;
                    take(plaintext);
                }
                content::HANDSHAKE => self.message(plaintext)?,
                content::ALERT => match plaintext {
                    [_, CLOSE_NOTIFY] => self.peer_closed = true,
                    // Whatever it is, the peer has given up.
                    _ => return Err(BadRecord::UnexpectedMessage),
                },
                _ => return Err(BadRecord::UnexpectedMessage),
            }
            start = end;
        }
        Ok(start)
    }

    /// A message after the handshake (RFC 8446, section 4.6).
    fn message(&mut self, mut messages: &[u8]) -> Result<(), BadRecord> {
        while let [kind, a, b, c, rest @ ..] = messages {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (body, rest) = rest.split_at_checked(length).ok_or(BadRecord::UnexpectedMessage)?;
            messages = rest;
            match (*kind, body) {
                // Sessions are not resumed here.
                (NEW_SESSION_TICKET, _) if matches!(self.rekey, Rekey::Client(_)) => {}
                // A change of keys is the last of its record (section 5.1).
                (KEY_UPDATE, [wanted @ 0..=1]) if messages.is_empty() => {
                    self.key_updates += 1;
                    if self.key_updates > MAX_KEY_UPDATES {
                        return Err(BadRecord::UnexpectedMessage);
                    }
                    let (sequence, secrets) = self.rekey.opening().map_err(|_| BadRecord::InternalError)?;
                    self.opening = Key::new(&secrets, sequence)?;
                    if *wanted == 1 {
                        self.update_key()?;
                    }
                    return Ok(());
                }
                _ => return Err(BadRecord::UnexpectedMessage),
            }
        }
        if messages.is_empty() { Ok(()) } else { Err(BadRecord::DecodeError) }
    }

    /// Goes over to our next key (section 4.6.3).
    fn update_key(&mut self) -> Result<(), BadRecord> {
        self.seal_aside(content::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0])?;
        let (sequence, secrets) = self.rekey.sealing().map_err(|_| BadRecord::InternalError)?;
        self.sealing = Key::new(&secrets, sequence)?;
        Ok(())
    }

    /// Seals something that goes out with what comes next, or with the next flush.
    fn seal_aside(&mut self, content: u8, plaintext: &[u8]) -> Result<(), BadRecord> {
        let start = self.unsent.len();
        self.unsent.resize(start + plaintext.len() + OVERHEAD, 0);
        self.sealing.seal(content, plaintext, &mut self.unsent[start..]).map(drop)
    }

    /// Says why the connection ends, as far as that is possible.
    fn fail(&mut self, cx: &mut Context<'_>, why: BadRecord) -> io::Error {
        if !self.closed && self.seal_aside(content::ALERT, &[2, why as u8]).is_ok() {
            self.closed = true;
            // What does not leave now is not worth waiting for.
            let _ = self.poll_unsent(cx);
        }
        bad(why)
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let count = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.unsent))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..count);
        }
        self.unsent = Vec::new();
        Poll::Ready(Ok(()))
    }
}

impl Transport for TlsStream {
    fn poll_receive(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<io::Result<usize>> {
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            take(&early);
            return Poll::Ready(Ok(early.len()));
        }
        if self.peer_closed {
            return Poll::Ready(Ok(0));
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            // What is left of the last read is less than a record.
            let before = self.partial.len().min(MAX_RECORD);
            let mut read = ReadBuf::new(buffer);
            read.put_slice(&self.partial[..before]);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut read))?;
            let filled = read.filled().len();
            if filled == before {
                // Without a close_notify: somebody else may have ended it (section 6.1).
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the peer closed the connection without saying so",
                )));
            }
            match self.open(&mut buffer[..filled], take) {
                Ok(opened) => {
                    self.partial.clear();
                    self.partial.extend_from_slice(&buffer[opened..filled]);
                    if self.partial.is_empty() && self.partial.capacity() > 0 {
                        self.partial = Vec::new();
                    }
                    Poll::Ready(Ok(filled - before))
                }
                Err(why) => Poll::Ready(Err(self.fail(cx, why))),
            }
        })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx))?;
        if self.sealing.is_worn() {
            self.update_key().map_err(bad)?;
            ready!(self.poll_unsent(cx))?;
        }
        SEAL_BUFFER.with_borrow_mut(|buffer| {
            let (mut taken, mut sealed) = (0, 0);
            for piece in data.chunks(MAX_PLAINTEXT) {
                if buffer.len() - sealed < piece.len() + OVERHEAD {
                    break;
                }
                let sealing = self.sealing.seal(content::APPLICATION_DATA, piece, &mut buffer[sealed..]);
                sealed += sealing.map_err(bad)?;
                taken += piece.len();
            }
            let mut written = 0;
            while written < sealed {
                match Pin::new(&mut self.tcp).poll_write(cx, &buffer[written..sealed]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => written += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.unsent.extend_from_slice(&buffer[written..sealed]);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(taken))
        })
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            self.seal_aside(content::ALERT, &[1, CLOSE_NOTIFY]).map_err(bad)?;
        }
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

fn bad(why: BadRecord) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS failed: {why:?}"))
}
