//! Handshakes, made by rustls; what it makes of them are the keys of a [`TlsStream`].

use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::{Acceptor, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, Error, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stream::{Rekey, TlsStream};

/// More than any handshake of ours, certificates included.
const MAX_HANDSHAKE: usize = 256 << 10;

/// What a handshake has brought.
pub(super) struct Established {
    pub stream: TlsStream,
    pub alpn: Option<Vec<u8>>,
    /// The peer's certificate.
    pub leaf: Option<CertificateDer<'static>>,
}

/// A handshake under way.
struct Handshake {
    tcp: TcpStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Application data that came with the last of the handshake.
    early: Vec<u8>,
}

/// What a handshake needs next.
enum Next {
    Again,
    Read,
    Done,
    Closed,
}

/// Opens TLS to `name`.
pub(super) async fn connect(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    tcp: TcpStream,
) -> io::Result<Established> {
    let mut connection = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    let mut handshake = Handshake::new(tcp, Vec::new());
    handshake.run(|this| this.advance(|bytes| connection.process_tls_records(bytes))).await?;
    let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
    let leaf = connection.peer_certificates().and_then(|chain| chain.first()).map(|c| c.clone().into_owned());
    let (secrets, kernel) = connection.dangerous_into_kernel_connection().map_err(invalid)?;
    let stream = handshake.finish(Rekey::Client(kernel), secrets)?;
    Ok(Established { stream, alpn, leaf })
}

/// What a client wants, before it is answered.
pub(crate) struct Hello {
    handshake: Handshake,
    /// Whom it asks for (SNI).
    pub(super) server_name: Option<String>,
}

/// Waits for a client to say whom it wants.
pub(super) async fn hello(tcp: TcpStream) -> io::Result<Hello> {
    let mut handshake = Handshake::new(tcp, Vec::new());
    let mut acceptor = Acceptor::default();
    loop {
        let before = handshake.incoming.len();
        handshake.read().await?;
        let mut new = &handshake.incoming[before..];
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let server_name = accepted.client_hello().server_name().map(str::to_owned);
                return Ok(Hello { handshake, server_name });
            }
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                // It is refused whether it hears of it or not.
                let _ = handshake.tcp.write_all(&bytes).await;
                return Err(invalid(error));
            }
        }
    }
}

impl Hello {
    /// Ends the connection with an alert.
    pub(super) async fn refuse(mut self, alert: u8) {
        // It is refused whether it hears of it or not.
        let _ = self.handshake.tcp.write_all(&[21, 3, 3, 0, 2, 2, alert]).await;
    }

    /// Answers the handshake.
    pub(super) async fn accept(self, config: Arc<ServerConfig>) -> io::Result<Established> {
        let mut handshake = self.handshake;
        let mut connection = UnbufferedServerConnection::new(config).map_err(invalid)?;
        handshake.run(|this| this.advance(|bytes| connection.process_tls_records(bytes))).await?;
        let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
        let leaf =
            connection.peer_certificates().and_then(|chain| chain.first()).map(|c| c.clone().into_owned());
        let (secrets, kernel) = connection.dangerous_into_kernel_connection().map_err(invalid)?;
        let stream = handshake.finish(Rekey::Server(kernel), secrets)?;
        Ok(Established { stream, alpn, leaf })
    }
}

impl Handshake {
    fn new(tcp: TcpStream, incoming: Vec<u8>) -> Self {
        Self { tcp, incoming, outgoing: Vec::new(), early: Vec::new() }
    }

    /// Reads and writes until the handshake is done.
    async fn run(&mut self, mut advance: impl FnMut(&mut Self) -> Result<Next, Error>) -> io::Result<()> {
        loop {
            match advance(self) {
                Ok(Next::Again) => {}
                Ok(Next::Read) => {
                    self.write().await?;
                    self.read().await?;
                }
                Ok(Next::Done) => return self.write().await,
                Ok(Next::Closed) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => {
                    // The alert that says why.
                    while let Ok(Next::Again) = advance(self) {}
                    let _ = self.write().await;
                    return Err(invalid(error));
                }
            }
        }
    }

    /// Lets rustls look at what came.
    fn advance<'c, Data: 'c>(
        &mut self,
        process: impl for<'i> FnOnce(&'i mut [u8]) -> UnbufferedStatus<'c, 'i, Data>,
    ) -> Result<Next, Error> {
        let UnbufferedStatus { mut discard, state } = process(&mut self.incoming);
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let start = self.outgoing.len();
                let required = match data.encode(&mut []) {
                    Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                        required_size
                    }
                    _ => 0,
                };
                self.outgoing.resize(start + required, 0);
                match data.encode(&mut self.outgoing[start..]) {
                    Ok(_) => Ok(Next::Again),
                    Err(error) => Err(Error::General(error.to_string())),
                }
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It is in `outgoing`, which is written before anything is read.
                data.done();
                Ok(Next::Again)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Next::Read),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Done),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => {
                        self.early.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(Next::Again),
                }
            },
            Ok(_) => Ok(Next::Closed),
            Err(error) => Err(error),
        };
        self.incoming.drain(..discard);
        next
    }

    async fn read(&mut self) -> io::Result<()> {
        if self.incoming.len() > MAX_HANDSHAKE {
            return Err(invalid(Error::General("the handshake does not end".to_owned())));
        }
        self.incoming.reserve(4096);
        match self.tcp.read_buf(&mut self.incoming).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")),
            _ => Ok(()),
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        self.tcp.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        Ok(())
    }

    fn finish(self, rekey: Rekey, secrets: rustls::ExtractedSecrets) -> io::Result<TlsStream> {
        TlsStream::new(self.tcp, rekey, secrets, self.early, self.incoming)
    }
}

/// As tokio-rustls has it: the cause is found again by its type.
fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_handshake_ends_or_is_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Long chains of certificates have room.
        for (length, goes_on) in
            [(0, true), (64 << 10, true), (MAX_HANDSHAKE, true), (MAX_HANDSHAKE + 1, false)]
        {
            let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            near.write_all(b"x").await.unwrap();
            let mut handshake = Handshake::new(listener.accept().await.unwrap().0, vec![0; length]);
            assert_eq!(handshake.read().await.is_ok(), goes_on, "{length}");
        }
    }
}
