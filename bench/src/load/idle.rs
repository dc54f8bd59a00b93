//! Connections that do nothing: a request on each, a pause, and another request on each.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::outcome::Record;
use crate::event::{self, READ, SECOND};
use crate::wire::http1::{self, Framing};

/// Opens the connections, holds them for so many seconds, and counts the answers of both rounds.
pub fn run(
    target: SocketAddr,
    request: &[u8],
    connections: usize,
    hold: f64,
    timeout: Duration,
    record: &mut Record,
) -> anyhow::Result<()> {
    record.from = event::now();
    record.until = u64::MAX;
    record.tick(record.from);
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        match open(target, timeout).and_then(|mut stream| ask(&mut stream, request, record).map(|()| stream))
        {
            Ok(stream) => held.push(stream),
            Err(error) => record.failed(error),
        }
    }
    eprintln!("holding {} connections for {hold} seconds", held.len());
    std::thread::sleep(Duration::from_secs_f64(hold));
    for stream in &mut held {
        if let Err(error) = ask(stream, request, record) {
            record.failed(format!("after the pause: {error}"));
        }
    }
    record.until = event::now();
    record.tick(record.until + SECOND);
    Ok(())
}

fn open(target: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, request: &[u8], record: &mut Record) -> io::Result<()> {
    let start = event::now();
    stream.write_all(request)?;
    let mut answer = vec![0; READ];
    let mut length = 0;
    let (status, mut body, head) = loop {
        let count = stream.read(&mut answer[length..])?;
        length += count;
        if count == 0 {
            return Err(io::Error::other("the peer closed instead of answering"));
        }
        if let Some((first, head)) =
            http1::head(&answer[..length], Framing::UntilClose).map_err(io::Error::other)?
        {
            break (http1::status(first).map_err(io::Error::other)?, head.body, head.length);
        }
    };
    let mut piece = head..length;
    let mut received = 0;
    loop {
        let taken = body.take(&answer[piece]).map_err(io::Error::other)?;
        received += taken.content;
        if taken.done {
            break;
        }
        let count = stream.read(&mut answer)?;
        if count == 0 {
            return Err(io::Error::other("the peer closed within an answer"));
        }
        piece = 0..count;
    }
    record.answered(start, event::now(), false, (200..300).contains(&status), received);
    Ok(())
}
