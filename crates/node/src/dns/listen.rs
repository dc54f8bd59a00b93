//! The sockets of one workload's name server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tulle_proxy::descriptors::Spare;
use tulle_proxy::silent::SilentPeers;

use super::Resolver;
use super::answer::{Parsed, Query};
use super::upstream::Transport;

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
    address: SocketAddr,
    _udp: AbortOnDropHandle<()>,
    _tcp: AbortOnDropHandle<()>,
}

impl DnsListener {
    /// Listens at a free port of `address`, over UDP and TCP, for a workload in `namespace`.
    pub async fn start(address: IpAddr, namespace: &str, resolver: Arc<Resolver>) -> io::Result<Self> {
        let (udp, tcp) = bind(address).await?;
        let address = udp.local_addr()?;
        let namespace: Arc<str> = namespace.into();
        let udp = tokio::spawn(serve_udp(Arc::new(udp), namespace.clone(), resolver.clone()));
        let tcp = tokio::spawn(serve_tcp(tcp, namespace, resolver));
        Ok(Self { address, _udp: AbortOnDropHandle::new(udp), _tcp: AbortOnDropHandle::new(tcp) })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

async fn bind(address: IpAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..BIND_ATTEMPTS {
        let udp = UdpSocket::bind((address, 0)).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

async fn serve_udp(socket: Arc<UdpSocket>, namespace: Arc<str>, resolver: Arc<Resolver>) {
    let slots = Arc::new(Semaphore::new(MOST_QUERIES));
    let mut buffer = vec![0; 4096];
    loop {
        // An error is of an earlier answer that did not arrive (ICMP), not of this read.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let query = Bytes::copy_from_slice(&buffer[..length]);
        let (socket, namespace, resolver) = (socket.clone(), namespace.clone(), resolver.clone());
        tokio::spawn(async move {
            if let Some(answer) = resolver.resolve(&query, &namespace, Transport::Udp).await {
                let _ = socket.send_to(&fit(&query, answer), client).await;
            }
            drop(slot);
        });
    }
}

/// An answer that its client can take over UDP.
fn fit(query: &[u8], answer: Bytes) -> Bytes {
    match Query::parse(query) {
        Parsed::Query(query) if answer.len() > query.udp_limit() => query.truncated(),
        _ => answer,
    }
}

async fn serve_tcp(listener: TcpListener, namespace: Arc<str>, resolver: Arc<Resolver>) {
    let mut spare = Spare::new();
    let silent = Arc::new(SilentPeers::new(MOST_SILENT));
    let queries = Arc::new(Semaphore::new(MOST_QUERIES));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) if Spare::is_wanted(&e) && spare.turn_away(&listener).await => continue,
            Err(e) => {
                // Out of file descriptors, most likely.
                tracing::debug!("a DNS connection is not accepted: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (namespace, resolver) = (namespace.clone(), resolver.clone());
        let (silent, queries) = (silent.clone(), queries.clone());
        tokio::spawn(async move {
            let _ = serve_connection(stream, &namespace, &resolver, &silent, &queries).await;
        });
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    namespace: &str,
    resolver: &Resolver,
    silent: &SilentPeers<()>,
    queries: &Semaphore,
) -> io::Result<()> {
    let mut query = Vec::new();
    loop {
        let mut place = silent.enter(());
        let asking = async {
            let length = stream.read_u16().await?;
            query.resize(usize::from(length), 0);
            stream.read_exact(&mut query).await?;
            queries.acquire().await.map_err(io::Error::other)
        };
        let _slot = tokio::select! {
            asked = timeout(IDLE_DEADLINE, asking) => asked??,
            () = place.lost() => return Ok(()),
        };
        // It is not silent while it waits for its answer.
        drop(place);
        let Some(answer) = resolver.resolve(&query, namespace, Transport::Tcp).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(IDLE_DEADLINE, stream.write_all(&framed)).await??;
    }
}
