//! The SPIFFE Workload API on a socket of its own (SPIFFE_Workload_Endpoint.md, SPIFFE_Workload_API.md): X.509-SVIDs, JWT-SVIDs and
//! bundles for the node's workloads. Any process may connect; who it is says the kernel ([`tulle_sys::peer`]), and it gets what
//! its own workload has ([`Workloads::of_process`]), and nothing where it is of none.
//!
//! Bounded: connections by workload (those of no workload have a share together), streams by connection, what a request may
//! hold; a reader that takes nothing loses its stream, a peer that answers no ping its connection.

mod authority;
mod place;
mod seats;
mod service;
mod updates;

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Connected;
use tonic::{Request, Status};
use tulle_model::identity::TrustDomain;
use tulle_proxy::descriptors::Spare;
use tulle_sys::peer::Peer;
use tulle_wire::spiffe::spiffe_workload_api_server::SpiffeWorkloadApiServer;

use self::authority::Authority;
use self::place::Endpoint;
pub(crate) use self::place::places;
use self::seats::{Seat, Seats};
use self::service::WorkloadApi;
use crate::control::Server;
use crate::control::jwt::JwtBundle;
use crate::socket_file::SocketFile;
use crate::workloads::{Entitled, Workloads};

/// What every request has to have (SPIFFE_Workload_Endpoint.md, section 3): who can make others send requests cannot have them
/// send this.
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Streams of one connection at once.
const MOST_STREAMS: u32 = 32;
/// How large a request may be: the longest have a token or audiences.
const MOST_REQUEST_BYTES: usize = 64 << 10;
const MOST_HEADER_BYTES: u32 = 16 << 10;
/// Who does not answer pings is gone after the sum of these.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// The socket, before it is served.
pub(crate) struct Socket(Endpoint);

impl Socket {
    /// # Errors
    /// Where none can be made.
    pub fn bind(home: &Path) -> anyhow::Result<Self> {
        Endpoint::bind(home).map(Self)
    }

    /// Where workloads find it.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// What the API tells of.
pub(crate) struct Facts {
    pub workloads: Arc<Workloads>,
    pub bundle: Arc<JwtBundle>,
    pub server: Server,
}

/// Serves until the task is aborted, for the node that `home` is of.
pub(crate) async fn serve(socket: Socket, facts: Facts, home: Arc<SocketFile>) {
    let stop = CancellationToken::new();
    // Streams are tasks of their own.
    let _stop = stop.clone().drop_guard();
    let (accepted, incoming) = mpsc::channel(1);
    let api = WorkloadApi::new(&facts, stop.clone());
    let service = SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MOST_REQUEST_BYTES);
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(MOST_STREAMS)
        .http2_max_header_list_size(MOST_HEADER_BYTES)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_DEADLINE))
        .add_service(InterceptedService::new(service, check_header))
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned());
    tokio::select! {
        ended = serving => if let Err(e) = ended {
            tracing::error!("the SPIFFE Workload API is served no more: {e}");
        },
        () = accept(socket.0, &facts.workloads, &home, accepted) => {}
    }
}

fn check_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(request),
        _ => Err(Status::invalid_argument("the request has no metadata `workload.spiffe.io: true`")),
    }
}

/// Who is on a connection.
#[derive(Clone)]
struct Claimant {
    /// `None` where the kernel does not say.
    peer: Option<Arc<Peer>>,
}

impl Claimant {
    /// What the caller may have now: a process moves and ends, workloads come and go.
    fn entitled(&self, workloads: &Workloads) -> Result<Entitled, Status> {
        self.peer.as_ref().and_then(|peer| workloads.of_process(peer)).ok_or_else(denied)
    }
}

/// As the standard has it (SPIFFE_Workload_Endpoint.md, section 6).
fn denied() -> Status {
    Status::permission_denied(
        "no identity issued: this process is of no workload of this node (a workload's processes are those in its cgroup; with \
         namespace capture those in the node's network namespace; with explicit capture those that it has started, of its user)",
    )
}

/// A connection of a process.
struct Connection {
    stream: UnixStream,
    authority: Authority,
    caller: Claimant,
    _seat: Seat,
}

/// Takes connections at once, whatever is done with them: until then the kernel may only know a number (see
/// [`tulle_sys::peer`]).
async fn accept(
    mut endpoint: Endpoint,
    workloads: &Workloads,
    home: &SocketFile,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let seats = Seats::default();
    let mut spare = Spare::new();
    loop {
        let stream = match endpoint.accept(home).await {
            Ok(stream) => stream,
            Err(e) if Spare::is_wanted(&e) && spare.turn_away(endpoint.listener()).await => continue,
            Err(e) => {
                tracing::debug!("a connection to the Workload API is not accepted: {e}");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let peer = Peer::of(&stream).inspect_err(|e| tracing::debug!("who has connected is not known: {e}"));
        let caller = Claimant { peer: peer.ok().map(Arc::new) };
        let workload = caller.entitled(workloads).ok().map(|entitled| entitled.workload);
        let Some(seat) = seats.take(workload) else { continue };
        if accepted
            .send(Ok(Connection { stream, authority: Authority::new(), caller, _seat: seat }))
            .await
            .is_err()
        {
            return;
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Claimant;

    fn connect_info(&self) -> Claimant {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, authority, .. } = self.get_mut();
        authority.poll_read(stream, cx, out)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A name of the trust domain itself, by which bundles go.
fn domain_id(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn requests_that_others_were_made_to_send_are_refused() {
        let with = |values: &[&'static str]| {
            let mut request = Request::new(());
            for value in values {
                request.metadata_mut().append(SECURITY_HEADER, value.parse().unwrap());
            }
            check_header(request).map(drop).map_err(|status| status.code())
        };
        assert_eq!(with(&["true"]), Ok(()));
        for values in [&[][..], &["false"], &["True"], &["true", "true"], &["true", "false"], &[""]] {
            assert_eq!(with(values), Err(Code::InvalidArgument), "{values:?}");
        }
    }
}
