//! A TLS connection after its handshake.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error, ExtractedSecrets};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::record::{BadRecord, HEADER, Key, MAX_PLAINTEXT, MAX_RECORD, OVERHEAD, content, payload_length};
use crate::http2::Transport;

/// What is read, and sealed, at a time. Two records more than what HTTP/2 has ready to be written.
const READ: usize = 128 << 10;
const SEAL: usize = 8 * (MAX_PLAINTEXT + OVERHEAD);
/// AES-GCM is safe for 2^24.5 records with one key (RFC 8446, section 5.5); the next one is taken before.
const RECORDS_WITH_ONE_KEY: u64 = (1 << 24) - (1 << 16);
/// A peer that changes its key that often without a word in between wears us out.
const MAX_KEY_UPDATES: u32 = 32;

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
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

/// Why a connection cannot go on.
enum RecordFailure {
    Bad(BadRecord),
    /// The peer says so.
    Alert(u8),
}

impl From<BadRecord> for RecordFailure {
    fn from(bad: BadRecord) -> Self {
        Self::Bad(bad)
    }
}

/// A TLS 1.3 connection.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    rekey: Rekey,
    sealing: Key,
    opening: Key,
    /// How many records we seal with one key.
    records_with_one_key: u64,
    /// Came with the handshake, and was opened there.
    early: Vec<u8>,
    /// The beginning of a record.
    partial: Vec<u8>,
    /// Sealed, and not taken by the socket yet.
    unsent: Vec<u8>,
    key_updates: u32,
    /// A change of our key is among what is not taken yet.
    key_update_unsent: bool,
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
            records_with_one_key: RECORDS_WITH_ONE_KEY,
            early,
            partial,
            unsent,
            key_updates: 0,
            key_update_unsent: false,
            peer_closed: false,
            closed: false,
        })
    }

    /// Opens the whole records in `bytes` and gives `take` what they hold; gives how many bytes they were.
    fn open(&mut self, bytes: &mut [u8], take: &mut dyn FnMut(&[u8])) -> Result<usize, RecordFailure> {
        let mut start = 0;
        while let Some((header, length)) = payload_length(&bytes[start..])? {
            let end = start + HEADER + length;
            if end > bytes.len() || self.peer_closed {
                break;
            }
            let (content, plaintext) = self.opening.open(header, &mut bytes[start + HEADER..end])?;
            match content {
                content::APPLICATION_DATA if plaintext.is_empty() => {}
                content::APPLICATION_DATA => {
                    self.key_updates = 0;
                    take(plaintext);
                }
                content::HANDSHAKE => self.message(plaintext)?,
                content::ALERT => match plaintext {
                    [_, CLOSE_NOTIFY] => self.peer_closed = true,
                    // Says that a close_notify follows.
                    [_, USER_CANCELED] => {}
                    [_, alert] => return Err(RecordFailure::Alert(*alert)),
                    _ => return Err(BadRecord::DecodeError.into()),
                },
                _ => return Err(BadRecord::UnexpectedMessage.into()),
            }
            start = end;
        }
        Ok(start)
    }

    /// A message after the handshake (RFC 8446, section 4.6).
    fn message(&mut self, mut messages: &[u8]) -> Result<(), BadRecord> {
        if messages.is_empty() {
            return Err(BadRecord::UnexpectedMessage);
        }
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
                    // One answer does for all that asked before it is sent.
                    if *wanted == 1 && !self.key_update_unsent {
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
        self.key_update_unsent = true;
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
        self.key_update_unsent = false;
        Poll::Ready(Ok(()))
    }
}

impl Transport for TlsStream {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        take: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
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
                    if self.partial.is_empty() {
                        self.partial = Vec::new();
                    }
                    Poll::Ready(Ok(filled - before))
                }
                Err(RecordFailure::Bad(why)) => Poll::Ready(Err(self.fail(cx, why))),
                Err(RecordFailure::Alert(alert)) => {
                    self.closed = true;
                    let alert = Error::AlertReceived(AlertDescription::from(alert));
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, alert)))
                }
            }
        })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx))?;
        if self.sealing.records() >= self.records_with_one_key {
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

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    use rustls_pki_types::{PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tulle_identity::Svid;
    use tulle_model::identity::{SpiffeId, TrustDomain};

    use super::super::handshake;
    use super::*;
    use crate::certificate::WorkloadCertificate;

    fn certificate() -> (SpiffeId, WorkloadCertificate) {
        let identity = SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "default", "a").unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap().der().clone();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
        let leaf = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let svid = Svid::new(vec![leaf.der().clone()], key, &[root]).unwrap();
        (identity, WorkloadCertificate::new(svid, Arc::default()))
    }

    /// Both ends of a connection, over two sockets that a relay of the test's may stand between.
    async fn ends(near: TcpStream, far: TcpStream) -> (TlsStream, TlsStream) {
        let (identity, certificate) = certificate();
        let name = ServerName::try_from(identity.server_name().unwrap()).unwrap();
        let client = Arc::new(certificate.client(&identity));
        let answered = async {
            let hello = handshake::hello(far).await.unwrap();
            assert_eq!(hello.server_name, identity.server_name());
            hello.accept(certificate.server()).await.unwrap()
        };
        let (near, far) = tokio::join!(handshake::connect(client, name, near), answered);
        (near.unwrap().stream, far.stream)
    }

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    async fn send(stream: &mut TlsStream, mut data: &[u8]) {
        while !data.is_empty() {
            let count = poll_fn(|cx| stream.poll_send(cx, data)).await.unwrap();
            data = &data[count..];
        }
        poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
    }

    /// Reads until that much came, or the end.
    async fn receive(stream: &mut TlsStream, length: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < length {
            let read = poll_fn(|cx| stream.poll_receive(cx, READ, &mut |bytes| all.extend_from_slice(bytes)));
            let count =
                tokio::time::timeout(Duration::from_secs(10), read).await.expect("something comes")?;
            if count == 0 {
                break;
            }
        }
        Ok(all)
    }

    #[tokio::test]
    async fn bytes_pass_whatever_keys_change_on_the_way() {
        let (near, far) = sockets().await;
        let (mut near, mut far) = ends(near, far).await;
        (near.records_with_one_key, far.records_with_one_key) = (3, 5);
        for length in [1, 16_383, 16_384, 16_385, 100_000, 1_000_000, 7] {
            let data: Vec<u8> = (0..length).map(|i| (i * 7 + i / 255) as u8).collect();
            let (_, there) = tokio::join!(send(&mut near, &data), receive(&mut far, length));
            assert!(there.unwrap() == data, "{length}");
            let (_, back) = tokio::join!(send(&mut far, &data), receive(&mut near, length));
            assert!(back.unwrap() == data, "{length}");
        }
        // A peer that asks for it gets a new key of ours, too.
        change_key(&mut near);
        send(&mut near, b"after").await;
        assert_eq!(receive(&mut far, 5).await.unwrap(), b"after");
        assert_eq!(far.sealing.records(), 0);
        send(&mut far, b"too").await;
        assert_eq!(receive(&mut near, 3).await.unwrap(), b"too");
    }

    /// RFC 8446, section 5.5.
    #[test]
    fn a_key_seals_no_more_records_than_it_is_safe_for() {
        assert!(
            (1 << 20..1 << 24).contains(&RECORDS_WITH_ONE_KEY),
            "less than 2^24.5, and no work for nothing"
        );
    }

    /// Goes over to a new key, and asks the other side to do so, too.
    fn change_key(end: &mut TlsStream) {
        announce_key(end, 1);
    }

    /// `wanted`: 1 asks the other side to do so, too.
    fn announce_key(end: &mut TlsStream, wanted: u8) {
        end.seal_aside(content::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, wanted]).unwrap();
        let (sequence, secrets) = end.rekey.sealing().unwrap();
        end.sealing = Key::new(&secrets, sequence).unwrap();
    }

    /// Each change costs the other side key derivations: without data between them they are an attack.
    #[tokio::test]
    async fn changes_of_keys_without_data_are_few() {
        let (near, far) = sockets().await;
        let (mut near, mut far) = ends(near, far).await;
        for _ in 0..3 {
            (0..MAX_KEY_UPDATES).for_each(|_| change_key(&mut near));
            send(&mut near, b"data").await;
            assert_eq!(receive(&mut far, 4).await.unwrap(), b"data");
        }
        for _ in 0..=MAX_KEY_UPDATES {
            change_key(&mut near);
            // It has no data.
            near.seal_aside(content::APPLICATION_DATA, b"").unwrap();
        }
        send(&mut near, b"data").await;
        let error = receive(&mut far, 4).await.unwrap_err();
        assert!(error.to_string().contains("UnexpectedMessage"), "{error}");
    }

    #[tokio::test]
    async fn an_end_that_is_not_said_is_no_end() {
        let (near, far) = sockets().await;
        let (mut near, mut far) = ends(near, far).await;
        send(&mut near, b"last").await;
        poll_fn(|cx| near.poll_shutdown(cx)).await.unwrap();
        assert_eq!(receive(&mut far, 100).await.unwrap(), b"last");
        drop(far);
        assert!(receive(&mut near, 1).await.is_err(), "the other end said nothing");
    }

    #[tokio::test]
    async fn what_is_changed_on_the_way_ends_the_connection() {
        let (near, mut relay_near) = sockets().await;
        let (mut relay_far, far) = sockets().await;
        let (changed, mut changing) = (std::sync::atomic::AtomicBool::new(false), [0; 16 << 10]);
        let relay = async {
            let (mut back_from, mut back_to) = relay_far.split();
            let (mut from, mut to) = relay_near.split();
            let forth = async {
                while let Ok(count @ 1..) = from.read(&mut changing).await {
                    if changed.load(std::sync::atomic::Ordering::Relaxed) {
                        changing[count - 1] ^= 1;
                    }
                    back_to.write_all(&changing[..count]).await.unwrap();
                }
            };
            let _ = tokio::join!(forth, tokio::io::copy(&mut back_from, &mut to));
        };
        let test = async {
            let (mut near, mut far) = ends(near, far).await;
            send(&mut near, b"good").await;
            assert_eq!(receive(&mut far, 4).await.unwrap(), b"good");
            changed.store(true, std::sync::atomic::Ordering::Relaxed);
            send(&mut near, b"evil").await;
            let error = receive(&mut far, 4).await.unwrap_err();
            assert!(error.to_string().contains("Forged"), "{error}");
            assert!(receive(&mut near, 1).await.is_err(), "it is told by an alert");
        };
        tokio::select! {
            () = test => {}
            () = relay => panic!("the relay ended first"),
        }
    }

    #[tokio::test]
    async fn noise_after_the_handshake_is_refused() {
        for (kind, message, why) in [
            (content::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2][..], "UnexpectedMessage"),
            (content::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, 0], "UnexpectedMessage"),
            (content::HANDSHAKE, &[KEY_UPDATE, 0, 0, 0], "UnexpectedMessage"),
            (content::HANDSHAKE, &[1, 0, 0, 0], "UnexpectedMessage"),
            (content::HANDSHAKE, &[KEY_UPDATE, 0, 0], "DecodeError"),
            (content::HANDSHAKE, &[], "UnexpectedMessage"),
            (content::ALERT, &[2, 40], "HandshakeFailure"),
            (content::ALERT, &[1], "DecodeError"),
            (content::ALERT, &[1, CLOSE_NOTIFY, 0], "DecodeError"),
            (20, &[1], "UnexpectedMessage"),
            (99, &[1], "UnexpectedMessage"),
        ] {
            let (near, far) = sockets().await;
            let (mut near, mut far) = ends(near, far).await;
            near.seal_aside(kind, message).unwrap();
            poll_fn(|cx| near.poll_flush(cx)).await.unwrap();
            let error = receive(&mut far, 1).await.unwrap_err().to_string();
            assert!(error.contains(why), "{kind} {message:?}: {error}");
            // Who hears an alert answers nothing.
            drop(far);
            let heard = if why == "HandshakeFailure" { "without saying so" } else { why };
            let error = receive(&mut near, 1).await.unwrap_err().to_string();
            assert!(error.contains(heard), "{kind} {message:?}: {error}");
        }
    }

    /// However the socket cuts them.
    #[tokio::test]
    async fn records_come_in_pieces() {
        let (near, far) = sockets().await;
        let (mut near, mut far) = ends(near, far).await;
        for data in [&b"one"[..], b"two"] {
            near.seal_aside(content::APPLICATION_DATA, data).unwrap();
        }
        let sealed = std::mem::take(&mut near.unsent);
        let end = b"one".len() + OVERHEAD;
        for (piece, expected) in
            [(0..4, &b""[..]), (4..end - 1, b""), (end - 1..end + 7, b"one"), (end + 7..2 * end, b"two")]
        {
            near.tcp.write_all(&sealed[piece.clone()]).await.unwrap();
            let mut opened = Vec::new();
            let count =
                poll_fn(|cx| far.poll_receive(cx, READ, &mut |bytes| opened.extend_from_slice(bytes))).await;
            assert_eq!((count.unwrap(), &opened[..]), (piece.len(), expected));
        }
        assert_eq!(far.partial.capacity(), 0, "nothing of it is held");
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_waits_and_is_flushed() {
        let (near, far) = sockets().await;
        let (mut near, mut far) = ends(near, far).await;
        let data = vec![7; 8 * MAX_PLAINTEXT + 1];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut total = 0;
        while near.unsent.is_empty() {
            let Poll::Ready(Ok(count)) = near.poll_send(&mut cx, &data) else { panic!("nothing waits yet") };
            assert_eq!(count, 8 * MAX_PLAINTEXT, "as much as is sealed at a time");
            total += count;
        }
        assert!(near.poll_flush(&mut cx).is_pending() && near.poll_send(&mut cx, &data).is_pending());
        let (flushed, received) = tokio::join!(poll_fn(|cx| near.poll_flush(cx)), receive(&mut far, total));
        assert!(flushed.is_ok() && near.unsent.is_empty());
        assert_eq!(received.unwrap().len(), total);
    }

    /// A client need not wait for anything before it says more.
    #[tokio::test]
    async fn what_comes_with_the_end_of_a_handshake_is_not_lost() {
        let (near, far) = sockets().await;
        near.set_nodelay(true).unwrap();
        let far = far.into_std().unwrap();
        let beside = TcpStream::from_std(far.try_clone().unwrap()).unwrap();
        let far = TcpStream::from_std(far).unwrap();
        let (identity, certificate) = certificate();
        let name = ServerName::try_from(identity.server_name().unwrap()).unwrap();
        let client = Arc::new(certificate.client(&identity));
        let mut connecting = Box::pin(handshake::connect(client, name, near));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(connecting.as_mut().poll(&mut cx).is_pending(), "it has said hello");
        let hello = handshake::hello(far).await.unwrap();
        let mut accepting = Box::pin(hello.accept(certificate.server()));
        assert!(accepting.as_mut().poll(&mut cx).is_pending(), "it has answered");
        let mut near = connecting.await.unwrap().stream;
        for data in [&b"one"[..], b"two", b"three"] {
            send(&mut near, data).await;
        }
        // All of it is there, up to the record of the last word.
        let (mut there, last) =
            ([0; 8 << 10], [content::APPLICATION_DATA, 3, 3, 0, (5 + OVERHEAD - HEADER) as u8]);
        loop {
            let count = beside.peek(&mut there).await.unwrap();
            assert_ne!(count, 0);
            if there[..count].windows(HEADER).any(|header| header == last) {
                break;
            }
            tokio::task::yield_now().await;
        }
        let mut far = accepting.await.unwrap().stream;
        assert_eq!(far.early, b"onetwothree");
        send(&mut near, b"four").await;
        assert_eq!(receive(&mut far, 15).await.unwrap(), b"onetwothreefour");
    }

    #[tokio::test]
    async fn a_key_is_changed_where_that_is_asked_for() {
        let (near, far) = sockets().await;
        let (mut near, mut far) = ends(near, far).await;
        send(&mut far, b"x").await;
        let before = far.sealing.records();
        assert!(before > 0);
        for (wanted, expected) in [(0, before), (1, 0)] {
            announce_key(&mut near, wanted);
            send(&mut near, b"x").await;
            assert_eq!(receive(&mut far, 1).await.unwrap(), b"x");
            assert_eq!(far.sealing.records(), expected, "{wanted}");
        }
    }

    #[tokio::test]
    async fn tickets_are_for_servers_to_give() {
        const TICKET: [u8; 5] = [NEW_SESSION_TICKET, 0, 0, 1, 7];
        let (near, far) = sockets().await;
        let (mut near, mut far) = ends(near, far).await;
        far.seal_aside(content::HANDSHAKE, &TICKET).unwrap();
        // Only says that a close_notify follows.
        far.seal_aside(content::ALERT, &[1, USER_CANCELED]).unwrap();
        send(&mut far, b"x").await;
        assert_eq!(receive(&mut near, 1).await.unwrap(), b"x");
        near.seal_aside(content::HANDSHAKE, &TICKET).unwrap();
        send(&mut near, b"x").await;
        assert!(receive(&mut far, 1).await.is_err());
    }

    /// What we owe to a peer that changes keys and does not read is bounded.
    #[tokio::test]
    async fn key_updates_do_not_pile_up() {
        let (near, far) = sockets().await;
        let (mut near, mut far) = ends(near, far).await;
        near.tcp.set_nodelay(true).unwrap();
        // Nobody reads at `near`: fill the way back.
        let full = vec![7; 1 << 20];
        let waker = std::task::Waker::noop();
        let mut cx = Context::from_waker(waker);
        for _ in 0..200 {
            let _ = far.poll_send(&mut cx, &full);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        while let Poll::Ready(Ok(_)) = far.poll_send(&mut cx, &full) {}
        let before = far.unsent.len();
        for _ in 0..2000 {
            change_key(&mut near);
            // Or it would be cut for changing keys without a word.
            near.seal_aside(content::APPLICATION_DATA, b"x").unwrap();
        }
        send(&mut near, b"end").await;
        // It is sent away for it, or not.
        let _ = receive(&mut far, 3).await;
        let grown = far.unsent.len().saturating_sub(before);
        assert!(grown < 4096, "{grown} bytes of answers wait");
    }
}
