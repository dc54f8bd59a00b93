//! What nodes talk to: joining, certificates, reports ([`node_service`]), discovery ([`ads`]) and runs of Flows
//! ([`flow_service`]), over gRPC on connections of [`listener`].

pub mod ads;
pub mod flow_service;
pub mod listener;
pub mod node_service;
mod refusal;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tulle_model::identity::Subject;
use tulle_model::stamp::Stamp;
use tulle_wire::flow::flow_service_server::FlowServiceServer;
use tulle_wire::node::node_service_server::NodeServiceServer;
use tulle_wire::xds::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;

use self::listener::{Connection, Peer};
use crate::audit::{ANONYMOUS, Audit, AuditEntry};

/// A report of a full node, or the subscriptions of one, fit into this.
const MESSAGE_LIMIT: usize = 16 << 20;
/// A node whose host is gone is noticed after the sum of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call may take, or a stream to open.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How many calls of a connection go on at once: a runner begins and ends many runs, and waits for some.
const MOST_STREAMS: u32 = 256;

/// The node that makes a call.
struct CallingNode {
    name: Arc<str>,
    /// Of the certificate that says so, as when that expires.
    stamp: Option<Stamp>,
    expires: Instant,
}

/// Which node makes a call. Refuses everyone else.
fn calling_node<T>(request: &Request<T>) -> Result<CallingNode, Status> {
    let peer = request
        .extensions()
        .get::<Peer>()
        .ok_or_else(|| Status::internal("the connection says nothing of its peer"))?;
    let Some(identity) = &peer.identity else {
        return Err(Status::unauthenticated(
            "this call needs the node's certificate, and the connection shows none; join first",
        ));
    };
    if peer.expires <= Instant::now() {
        return Err(Status::unauthenticated(
            "the node's certificate has expired; reconnect with a new one, or join again",
        ));
    }
    match identity.subject() {
        Subject::Node(name) => {
            Ok(CallingNode { name: name.into(), stamp: peer.stamp, expires: peer.expires })
        }
        Subject::Workload { .. } | Subject::Server => {
            Err(Status::permission_denied(format!("this call is for nodes, and `{identity}` is none")))
        }
    }
}

/// As [`calling_node`]; who is refused is in the audit log.
fn caller<T>(request: &Request<T>, verb: &str, audit: &Audit) -> Result<CallingNode, Status> {
    calling_node(request).inspect_err(|status| {
        let identity = request.extensions().get::<Peer>().and_then(|peer| peer.identity.as_ref());
        let user = match identity.map(|identity| (identity, identity.subject())) {
            Some((_, Subject::Node(name))) => format!("system:node:{name}"),
            Some((identity, _)) => identity.to_string(),
            None => ANONYMOUS.to_owned(),
        };
        let (object, reason) = ("nodes".to_owned(), status.message().to_owned());
        audit.note(AuditEntry::of_peer(user, verb, object, reason));
    })
}

/// Writes down what a node was refused; that a server cannot do something now is none.
fn note_refusal(audit: &Audit, node: &str, verb: &str, object: &str, status: &Status) {
    let is_refusal = !matches!(
        status.code(),
        Code::Unavailable | Code::Internal | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
    );
    if is_refusal {
        audit.note(AuditEntry::of_node(node, verb, object.to_owned(), status.message().to_owned()));
    }
}

/// Serves the connections until `stop`.
pub async fn serve(
    incoming: mpsc::Receiver<std::io::Result<Connection>>,
    node: node_service::NodeApi,
    discovery: ads::Discovery,
    flows: flow_service::FlowApi,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    tonic::transport::Server::builder()
        .timeout(CALL_TIMEOUT)
        .max_concurrent_streams(MOST_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(16 * 1024)
        .add_service(NodeServiceServer::new(node).max_decoding_message_size(MESSAGE_LIMIT))
        .add_service(
            AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(MESSAGE_LIMIT),
        )
        .add_service(FlowServiceServer::new(flows).max_decoding_message_size(MESSAGE_LIMIT))
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
        .await
}
