//! The client: one request after the other, each with the same bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::application::BODY;
use crate::http2;
use crate::kind::Kind;

/// Longer than anything takes under callgrind on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const GET: &[u8] =
    b"GET /1024 HTTP/1.1\r\nhost: server.default\r\nuser-agent: hot-path/1\r\naccept: */*\r\n\r\n";
const GET_AND_CLOSE: &[u8] = b"GET /1024 HTTP/1.1\r\nhost: server.default\r\nuser-agent: hot-path/1\r\n\
    accept: */*\r\nconnection: close\r\n\r\n";
const PING: [u8; 64] = [b'p'; 64];

/// A client and the connection that it keeps, where it keeps one.
pub enum Client {
    Http1(TcpStream),
    Http2(http2::Http2Client),
    Tcp(TcpStream),
    Connect(Kind, SocketAddr),
}

impl Client {
    pub fn new(kind: Kind, entry: SocketAddr) -> Result<Self> {
        Ok(match kind {
            Kind::Http1 | Kind::Http1OneNode => Self::Http1(connect(entry)?),
            Kind::Http2 => Self::Http2(http2::Http2Client::new(connect(entry)?, false)?),
            Kind::GrpcUnary => Self::Http2(http2::Http2Client::new(connect(entry)?, true)?),
            Kind::Tcp => Self::Tcp(connect(entry)?),
            Kind::Http1Connect | Kind::TcpConnect => Self::Connect(kind, entry),
        })
    }

    /// Sends a request and takes its answer.
    pub fn request(&mut self) -> Result<()> {
        match self {
            Self::Http1(stream) => get(stream, GET),
            Self::Http2(client) => client.request(),
            Self::Tcp(stream) => ping(stream),
            Self::Connect(kind, entry) => {
                let mut stream = connect(*entry)?;
                if *kind == Kind::TcpConnect {
                    ping(&mut stream)?;
                    stream.shutdown(Shutdown::Write)?;
                } else {
                    get(&mut stream, GET_AND_CLOSE)?;
                }
                // The proxy is done with this connection before the next comes.
                let more = stream.read(&mut [0])?;
                ensure!(more == 0, "the connection goes on after its end");
                Ok(())
            }
        }
    }
}

fn connect(entry: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(entry).context("the proxy cannot be reached")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn get(stream: &mut TcpStream, request: &[u8]) -> Result<()> {
    stream.write_all(request)?;
    let mut answer = Vec::with_capacity(4096);
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "the answer ends early");
        answer.extend_from_slice(&buffer[..length]);
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(head) = head
            && answer.len() == head + 4 + BODY.len()
        {
            ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..head]));
            return Ok(());
        }
    }
}

fn ping(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&PING)?;
    let mut answer = [0; PING.len()];
    stream.read_exact(&mut answer)?;
    ensure!(answer == PING, "the echo is another");
    Ok(())
}
