//! The service's process: it gives fixed answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::Result;

use crate::http2;
use crate::kind::Kind;

/// The length of the body of every HTTP answer that is not gRPC.
pub const BODY: [u8; 1024] = [b'x'; 1024];

/// Listens, and serves every connection on a thread of its own.
pub fn start(kind: Kind) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that ends early shows on the client's side.
            std::thread::spawn(move || serve(kind, stream));
        }
    });
    Ok(address)
}

fn serve(kind: Kind, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    match kind {
        Kind::Http1 | Kind::Http1OneNode | Kind::Http1Connect => http1(stream),
        Kind::Http2 => http2::serve(stream, false),
        Kind::GrpcUnary => http2::serve(stream, true),
        Kind::Tcp | Kind::TcpConnect => echo(stream),
    }
}

/// Requests have no body, and the next comes after the answer only.
fn http1(mut stream: TcpStream) -> Result<()> {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n".to_vec();
    answer.extend_from_slice(&BODY);
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..length]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            stream.write_all(&answer)?;
        }
    }
}

fn echo(mut stream: TcpStream) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}
