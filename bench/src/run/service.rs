//! The service behind the proxies: this program again, as `serve`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::interrupt;
use super::ports::Ports;
use super::process::Process;

const START: Duration = Duration::from_secs(10);
/// One attempt at a request: a proxy that takes the connection and never answers must not hold us up.
const ATTEMPT: Duration = Duration::from_secs(2);

pub struct Service {
    pub http: SocketAddr,
    pub tcp: SocketAddr,
    process: Process,
}

impl Service {
    pub fn start(folder: &Path, ports: &mut Ports) -> Result<Self> {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (http, tcp) = (address(ports.free()?), address(ports.free()?));
        let mut command = Command::new(this_program());
        command.args(["serve", "--http", &http.to_string(), "--tcp", &tcp.to_string()]);
        let mut process = Process::start("the service", &mut command, &folder.join("service.log"))?;
        process.wait_until_listening(http, START)?;
        process.wait_until_listening(tcp, START)?;
        Ok(Self { http, tcp, process })
    }

    pub fn tree(&self) -> Vec<u32> {
        self.process.tree()
    }
}

/// This very program, even if its file is replaced by a newer one while it runs.
pub fn this_program() -> String {
    format!("/proc/{}/exe", std::process::id())
}

/// Asks at `entry` until the answer is 200; how long that took since `begin`.
pub fn first_answer(entry: SocketAddr, begin: Instant, deadline: Duration) -> Result<Duration> {
    let mut last = anyhow::anyhow!("nothing was tried");
    while begin.elapsed() < deadline {
        interrupt::check()?;
        match ask(entry, "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n") {
            Ok(200) => return Ok(begin.elapsed()),
            Ok(status) => last = anyhow::anyhow!("the answer was {status}"),
            Err(error) => last = error,
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Err(last.context(format!("no request through {entry} succeeded within {deadline:?}")))
}

/// The status of the answer to one request on a connection of its own.
pub fn ask(entry: SocketAddr, request: &str) -> Result<u16> {
    let mut stream = TcpStream::connect_timeout(&entry, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.set_write_timeout(Some(ATTEMPT))?;
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while head.len() < 12 {
        match stream.read(&mut buffer)? {
            0 => bail!("the connection was closed before an answer"),
            n => head.extend_from_slice(&buffer[..n]),
        }
    }
    let status = std::str::from_utf8(&head[9..12]).ok().and_then(|text| text.parse().ok());
    status.filter(|_| head.starts_with(b"HTTP/1.1 ")).context("the answer is not HTTP/1.1")
}
