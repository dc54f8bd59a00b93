//! The sockets of one workload's name server.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tulle_model::name::WorkloadName;
use tulle_proxy::descriptors::Spare;
use tulle_proxy::silent::SilentPeers;

use tulle_sys::mark_listener;

use super::answer::{Parsed, Query};
use super::upstream::{Asked, Transport};
use super::{Caller, Resolver};

/// How many queries of one workload are worked on at once; over UDP what comes beyond is dropped, and
/// asked again by its client.
const MOST_QUERIES: usize = 256;

/// How many TCP connections of one workload may wait for their next query; for one more, the one goes
/// that has kept silent for the longest.
const MOST_SILENT: usize = 32;

/// How long a TCP client may be silent, or take for one message (RFC 7766, section 6.2.3).
const IDLE_DEADLINE: Duration = Duration::from_secs(10);

/// How often a free port is looked for that is free for UDP and TCP both.
const BIND_ATTEMPTS: usize = 64;

/// Name service for one workload; ends when it is dropped.
pub struct DnsListener {
    port: u16,
    sockets: Sockets,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl DnsListener {
    /// Listens at a free port of the loopback addresses, over UDP and TCP, for that workload.
    pub async fn start(workload: WorkloadName, resolver: Arc<Resolver>) -> io::Result<Self> {
        let sockets = bind().await?;
        let port = sockets[0].0.local_addr()?.port();
        let resolved = resolver.addresses.state.cell().load().resolved.open(workload);
        let server = Arc::new(NameServer {
            caller: Caller { resolved, asked: Asked::default() },
            resolver,
            udp: Arc::new(Semaphore::new(MOST_QUERIES)),
            tcp: Semaphore::new(MOST_QUERIES),
            silent: SilentPeers::new(MOST_SILENT),
        });
        let mut tasks = Vec::new();
        for (udp, tcp) in &sockets {
            tasks.push(tokio::spawn(serve_udp(udp.clone(), server.clone())));
            tasks.push(tokio::spawn(serve_tcp(tcp.clone(), server.clone())));
        }
        Ok(Self { port, sockets, _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect() })
    }

    /// Lets it receive what is redirected to it: the rules of capture ask for that ([`mark_listener`]).
    ///
    /// # Errors
    /// Where this process may not.
    pub fn receive_captured(&self) -> io::Result<()> {
        self.sockets.iter().try_for_each(|(udp, tcp)| mark_listener(udp).and_then(|()| mark_listener(tcp)))
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

/// What the sockets of one workload share.
struct NameServer {
    caller: Caller,
    resolver: Arc<Resolver>,
    udp: Arc<Semaphore>,
    tcp: Semaphore,
    silent: SilentPeers<()>,
}

type Sockets = Vec<(Arc<UdpSocket>, Arc<TcpListener>)>;

/// Sockets of one port: of IPv4, and of IPv6 where this host has it.
async fn bind() -> io::Result<Sockets> {
    let mut last = None;
    for _ in 0..BIND_ATTEMPTS {
        match bind_once().await {
            Ok(sockets) => return Ok(sockets),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

async fn bind_once() -> io::Result<Sockets> {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = udp.local_addr()?.port();
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let mut sockets = vec![(Arc::new(udp), Arc::new(tcp))];
    match UdpSocket::bind((Ipv6Addr::LOCALHOST, port)).await {
        Ok(udp) => {
            let tcp = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await?;
            sockets.push((Arc::new(udp), Arc::new(tcp)));
        }
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
        Err(e) => tracing::debug!("no IPv6 here: {e}"),
    }
    Ok(sockets)
}

async fn serve_udp(socket: Arc<UdpSocket>, server: Arc<NameServer>) {
    let mut buffer = vec![0; 4096];
    loop {
        // An error is of an earlier answer that did not arrive (ICMP), not of this read.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(slot) = server.udp.clone().try_acquire_owned() else { continue };
        let query = Bytes::copy_from_slice(&buffer[..length]);
        let (socket, server) = (socket.clone(), server.clone());
        tokio::spawn(async move {
            let answer = server.resolver.resolve(&query, &server.caller, Transport::Udp).await;
            if let Some(answer) = answer {
                let _ = socket.send_to(&fit(&query, answer), client).await;
            }
            drop(slot);
        });
    }
}

/// An answer that its client can take over UDP.
pub(super) fn fit(query: &[u8], answer: Bytes) -> Bytes {
    match Query::parse(query) {
        Parsed::Query(query) if answer.len() > query.udp_limit() => query.truncated(),
        _ => answer,
    }
}

async fn serve_tcp(listener: Arc<TcpListener>, server: Arc<NameServer>) {
    let mut spare = Spare::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) if Spare::is_wanted(&e) && spare.turn_away(&*listener).await => continue,
            Err(e) => {
                // Out of file descriptors, most likely.
                tracing::debug!("a DNS connection is not accepted: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let server = server.clone();
        tokio::spawn(async move {
            let _ = serve_connection(stream, &server).await;
        });
    }
}

async fn serve_connection(mut stream: TcpStream, server: &NameServer) -> io::Result<()> {
    let mut query = Vec::new();
    loop {
        let mut place = server.silent.enter(());
        let asking = async {
            let length = stream.read_u16().await?;
            query.resize(usize::from(length), 0);
            stream.read_exact(&mut query).await?;
            server.tcp.acquire().await.map_err(io::Error::other)
        };
        let _slot = tokio::select! {
            asked = timeout(IDLE_DEADLINE, asking) => asked??,
            () = place.lost() => return Ok(()),
        };
        // It is not silent while it waits for its answer.
        drop(place);
        let answer = server.resolver.resolve(&query, &server.caller, Transport::Tcp).await;
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(IDLE_DEADLINE, stream.write_all(&framed)).await??;
    }
}
