//! The kernel's side of both ends: epoll, a clock in nanoseconds, a timer that does not round, and
//! sockets that never block.
//!
//! An event loop of our own rather than a runtime, because what the two ends of a measurement cost
//! is taken from the proxies between them when cores are few.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

/// A second in the unit of [`now`].
pub const SECOND: u64 = 1_000_000_000;

/// The size of the buffer that a loop reads into.
pub const SCRATCH: usize = 1 << 20;

/// How much is read at once, of what is looked at.
pub const READ: usize = 64 << 10;

/// What bodies consist of.
pub static FILLER: [u8; 256 << 10] = [b'x'; 256 << 10];

/// What to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to read.
    Read,
    /// Room to write; what can be read has to wait.
    Write,
    /// Both.
    Both,
}

/// The monotonic clock, in nanoseconds.
pub fn now() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// What this process has used of the processors, in nanoseconds.
pub fn cpu() -> u64 {
    nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// What another process has used of the processors in all its threads, in nanoseconds; nothing if it is gone.
pub fn cpu_of(process: i32) -> u64 {
    clock_getcpuclockid(Pid::from_raw(process)).map_or(0, nanoseconds)
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Both clocks are always there on Linux; a zero would only make one number wrong.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * SECOND + time.tv_nsec() as u64)
}

/// Which sockets are ready.
pub struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    /// A poller that tells of at most 256 sockets at a time.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); 256] })
    }

    /// Tells of `source` under this token, until it is closed.
    pub fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.add(source, EpollEvent::new(flags(interest), token))?)
    }

    /// Changes what to tell of.
    pub fn change(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.modify(source, &mut EpollEvent::new(flags(interest), token))?)
    }

    /// Tells of each time that `timer` goes off, without anybody having to read it.
    pub fn add_timer(&self, timer: &Timer, token: u64) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        Ok(self.epoll.add(timer.timer.as_fd(), EpollEvent::new(flags, token))?)
    }

    /// Waits for at most `milliseconds` and answers how many are ready.
    pub fn wait(&mut self, milliseconds: u16) -> io::Result<usize> {
        match self.epoll.wait(&mut self.events, EpollTimeout::from(milliseconds)) {
            Ok(ready) => Ok(ready),
            Err(Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// The token of what is ready, by its index below what [`Self::wait`] answered.
    pub fn ready(&self, index: usize) -> u64 {
        self.events[index].data()
    }
}

fn flags(interest: Interest) -> EpollFlags {
    match interest {
        Interest::Read => EpollFlags::EPOLLIN,
        Interest::Write => EpollFlags::EPOLLOUT,
        Interest::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
    }
}

/// A timer that wakes the poller at a time of [`now`], to the nanosecond: the timeout of epoll itself is
/// rounded and may be late by the thread's slack.
pub struct Timer {
    timer: TimerFd,
    at: u64,
}

impl Timer {
    /// A timer that is not set.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(Self { timer: TimerFd::new(TimerClock::CLOCK_MONOTONIC, flags)?, at: 0 })
    }

    /// Goes off once at `at`; nothing to do when it is set so already.
    pub fn set(&mut self, at: u64) -> io::Result<()> {
        if self.at == at {
            return Ok(());
        }
        self.at = at;
        let time = TimeSpec::new((at / SECOND) as i64, (at % SECOND) as i64);
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        Ok(self.timer.set(Expiration::OneShot(time), flags)?)
    }
}

/// What came of a read or a write that does not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes; of a read never 0.
    Bytes(usize),
    /// Nothing now.
    Blocked,
    /// The peer has ended its side.
    End,
}

/// Reads what is there.
pub fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Moved> {
    moved(recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))
}

/// Reads up to the buffer's length and lets the kernel throw it away, which spares the copy.
pub fn discard(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Moved> {
    moved(recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC))
}

/// As [`discard`], and waits for as long as the socket's own timeout.
pub fn discard_waiting(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Moved> {
    moved(recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC))
}

/// Writes what there is room for.
pub fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<Moved> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match send(stream.as_raw_fd(), bytes, flags) {
        Ok(count) => Ok(Moved::Bytes(count)),
        // The connection is still being opened.
        Err(Errno::ENOTCONN) => Ok(Moved::Blocked),
        Err(error) => moved(Err(error)),
    }
}

fn moved(result: nix::Result<usize>) -> io::Result<Moved> {
    match result {
        Ok(0) => Ok(Moved::End),
        Ok(count) => Ok(Moved::Bytes(count)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Moved::Blocked),
        Err(error) => Err(error.into()),
    }
}

/// What is to be written to a connection: bytes, and behind them so much filler.
#[derive(Default)]
pub struct Output {
    /// The bytes.
    pub bytes: Vec<u8>,
    sent: usize,
    /// Filler behind them; nothing may be added to `bytes` while there is any.
    pub filler: u64,
}

impl Output {
    /// Whether everything was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.filler == 0
    }

    /// How many of the bytes are still to be written.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Writes what there is room for; true when nothing is left.
    pub fn flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while self.sent < self.bytes.len() {
            match write(stream, &self.bytes[self.sent..])? {
                Moved::Bytes(count) => self.sent += count,
                Moved::Blocked | Moved::End => return Ok(false),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        while self.filler > 0 {
            let length = self.filler.min(FILLER.len() as u64) as usize;
            match write(stream, &FILLER[..length])? {
                Moved::Bytes(count) => self.filler -= count as u64,
                Moved::Blocked | Moved::End => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Lets the process have as many connections as the machine allows it; without that it may be no more than
/// a thousand.
pub fn allow_many_files() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Who may not simply has fewer.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Starts to connect and does not wait for it; on the loopback it is done a moment later, so that the
/// first write usually goes through.
pub fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Listens with a long queue; what it accepts does not delay small writes (the option is inherited).
pub fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        io::Result::Ok(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {address}"))
}
