//! Raw TCP in bulk: one thread a connection, blocking, with nothing but reads or writes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::outcome::Record;
use crate::event::{self, FILLER, Moved, SCRATCH};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// From the client to the service
    Up,
    /// From the service to the client
    Down,
}

/// Moves bytes on so many connections until the window is over, and counts those in it. `requests` are the
/// connections.
pub fn run(
    target: SocketAddr,
    direction: Direction,
    connections: usize,
    timeout: Duration,
    record: &mut Record,
) -> anyhow::Result<()> {
    let moved = AtomicU64::new(0);
    let until = record.until;
    std::thread::scope(|scope| {
        let one = || transfer(target, direction, timeout, until, &moved);
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
        pause(record.from);
        record.tick(event::now());
        let before = moved.load(Ordering::Relaxed);
        pause(until);
        record.tick(event::now());
        let bytes = moved.load(Ordering::Relaxed) - before;
        for (index, thread) in threads.into_iter().enumerate() {
            match thread.join() {
                Ok(Ok(())) => record.transferred(if index == 0 { bytes } else { 0 }),
                Ok(Err(error)) => record.failed(error),
                Err(_) => record.failed("a connection's thread panicked"),
            }
        }
    });
    Ok(())
}

fn pause(until: u64) {
    std::thread::sleep(Duration::from_nanos(until.saturating_sub(event::now())));
}

fn transfer(
    target: SocketAddr,
    direction: Direction,
    timeout: Duration,
    until: u64,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    match direction {
        Direction::Up => {
            stream.write_all(b"S")?;
            let mut sent = 0_u64;
            while event::now() < until {
                let count = stream.write(&FILLER)? as u64;
                sent += count;
                moved.fetch_add(count, Ordering::Relaxed);
            }
            stream.shutdown(Shutdown::Write)?;
            let mut answer = [0; 8];
            match stream.read_exact(&mut answer).map(|()| u64::from_be_bytes(answer)) {
                Ok(received) if received == sent => Ok(()),
                Ok(received) => Err(lost(sent, received)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    eprintln!("the proxy ends both ways at once: nobody knows whether everything arrived");
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }
        Direction::Down => {
            stream.write_all(&[&b"D"[..], &u64::MAX.to_be_bytes()].concat())?;
            let mut buffer = vec![0; SCRATCH];
            while event::now() < until {
                match event::discard_waiting(&stream, &mut buffer)? {
                    Moved::Bytes(count) => {
                        moved.fetch_add(count as u64, Ordering::Relaxed);
                    }
                    Moved::Blocked => return Err(io::Error::other("nothing came in time")),
                    Moved::End => return Err(io::Error::other("the peer closed before the end")),
                }
            }
            Ok(())
        }
    }
}

fn lost(sent: u64, received: u64) -> io::Error {
    io::Error::other(format!("{sent} bytes were sent and {received} arrived"))
}
