//! Asks the host's name servers on a workload's behalf.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tulle_model::fair_share::Bound;

use super::answer::Query;
use crate::dialer::Dialer;
use crate::files::Version;
use crate::resolv_conf::{RESOLV_CONF, name_servers};

/// How many questions of all workloads may wait for the host's name servers at once.
const MOST_QUESTIONS: usize = 512;

/// How long one name server may take; as many attempts as there are servers, but two at least.
const SERVER_DEADLINE: Duration = Duration::from_secs(2);

/// How often the configuration is looked at for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How a question came, and so how it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

pub(super) struct Upstream {
    source: Source,
    dialer: Dialer,
    questions: Questions,
}

/// The questions that wait for name servers. A name server that is slow or dead keeps each for seconds, so the
/// workloads share them: who asks for many of its names gets into its own way.
struct Questions {
    most: u64,
    /// How many more there may be.
    free: Mutex<u64>,
}

/// Those of one workload.
#[derive(Default)]
pub(super) struct Asked(AtomicU64);

/// A question that waits, until it is dropped.
struct Waiting<'a> {
    questions: &'a Questions,
    asked: &'a Asked,
}

impl Questions {
    fn new(most: usize) -> Self {
        Self { most: most as u64, free: Mutex::new(most as u64) }
    }

    /// One more, if the workload's share allows it.
    fn begin<'a>(&'a self, asked: &'a Asked) -> Option<Waiting<'a>> {
        let mut free = self.free.lock();
        let bound = Bound { total: self.most, free: *free as i64 };
        if !bound.allows(asked.0.load(Relaxed), 1) {
            return None;
        }
        *free -= 1;
        asked.0.fetch_add(1, Relaxed);
        Some(Waiting { questions: self, asked })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Both are changed under the lock.
        let mut free = self.questions.free.lock();
        *free += 1;
        self.asked.0.fetch_sub(1, Relaxed);
    }
}

enum Source {
    /// resolv.conf(5), read again when it changes.
    File { path: PathBuf, cached: Mutex<Option<Cached>> },
    #[cfg(test)]
    Fixed(Arc<[SocketAddr]>),
}

struct Cached {
    checked: Instant,
    version: Option<Version>,
    servers: Arc<[SocketAddr]>,
}

impl Upstream {
    /// The name servers of `/etc/resolv.conf`.
    pub fn of_host(dialer: Dialer) -> Self {
        let source = Source::File { path: RESOLV_CONF.into(), cached: Mutex::new(None) };
        Self { source, dialer, questions: Questions::new(crate::budget::name_server_sockets(MOST_QUESTIONS)) }
    }

    #[cfg(test)]
    pub fn fixed(servers: &[SocketAddr]) -> Self {
        let dialer = Dialer { marked: false };
        Self { source: Source::Fixed(servers.into()), dialer, questions: Questions::new(MOST_QUESTIONS) }
    }

    /// The first answer of a name server; `None` where none answers, or as many questions of the workload,
    /// whose are counted in `asked`, wait already as may.
    pub async fn ask(&self, query: &Query<'_>, transport: Transport, asked: &Asked) -> Option<Bytes> {
        let _waiting = self.questions.begin(asked)?;
        let servers = self.servers();
        let attempts = servers.len().max(2);
        for server in servers.iter().cycle().take(attempts) {
            // A name server's answer to a guessed id must not be believed: a new one for each question.
            let id: u16 = rand::random();
            let mut question = query.bytes.to_vec();
            question[..2].copy_from_slice(&id.to_be_bytes());
            let asking = async {
                match transport {
                    Transport::Udp => ask_udp(self.dialer, *server, &question, query, id).await,
                    Transport::Tcp => ask_tcp(self.dialer, *server, &question, query, id).await,
                }
            };
            match timeout(SERVER_DEADLINE, asking).await {
                Ok(Ok(mut answer)) => {
                    answer[..2].copy_from_slice(&query.id().to_be_bytes());
                    return Some(answer.into());
                }
                Ok(Err(e)) => tracing::debug!("the name server {server} cannot be asked: {e}"),
                Err(_) => tracing::debug!("the name server {server} does not answer"),
            }
        }
        None
    }

    fn servers(&self) -> Arc<[SocketAddr]> {
        let (path, cached) = match &self.source {
            Source::File { path, cached } => (path, cached),
            #[cfg(test)]
            Source::Fixed(servers) => return servers.clone(),
        };
        let mut cached = cached.lock();
        if let Some(cached) = &*cached
            && cached.checked.elapsed() < CHECK_INTERVAL
        {
            return cached.servers.clone();
        }
        let version = Version::of(path);
        let servers = match &*cached {
            Some(cached) if cached.version == version => cached.servers.clone(),
            _ => name_servers(&std::fs::read_to_string(path).unwrap_or_default()).into(),
        };
        *cached = Some(Cached { checked: Instant::now(), version, servers: servers.clone() });
        servers
    }
}

/// From a port of its own, which a forger has to guess, too (RFC 5452, section 9.2).
async fn ask_udp(
    dialer: Dialer,
    server: SocketAddr,
    question: &[u8],
    query: &Query<'_>,
    id: u16,
) -> std::io::Result<Vec<u8>> {
    let socket = dialer.udp(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if query.is_answered_by(&buffer[..length], id) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(
    dialer: Dialer,
    server: SocketAddr,
    question: &[u8],
    query: &Query<'_>,
    id: u16,
) -> std::io::Result<Vec<u8>> {
    let mut stream = dialer.tcp(server).await?;
    // RFC 1035, section 4.2.2: two bytes of length before the message, in one segment with it.
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(question);
    stream.write_all(&framed).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    if query.is_answered_by(&buffer, id) {
        Ok(buffer)
    } else {
        Err(std::io::Error::other("its answer is to another question"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let [path, new] = ["resolv.conf", "new"].map(|name| folder.path().join(name));
        std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        std::fs::write(&new, "nameserver 2001:db8::1\n").unwrap();
        // With the same time, as when both come out of one archive.
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(&new).unwrap().set_modified(time).unwrap();
        let source = Source::File { path: path.clone(), cached: Mutex::new(None) };
        let upstream = Upstream { source, dialer: Dialer { marked: false }, questions: Questions::new(1) };
        assert_eq!(upstream.servers()[0].to_string(), "10.0.0.1:53");
        std::fs::rename(&new, &path).unwrap();
        let Source::File { cached, .. } = &upstream.source else { unreachable!() };
        cached.lock().as_mut().unwrap().checked -= CHECK_INTERVAL;
        assert_eq!(upstream.servers()[0].to_string(), "[2001:db8::1]:53");
    }
}
