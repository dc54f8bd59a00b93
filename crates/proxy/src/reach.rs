//! How an endpoint, or a place outside of the mesh, is reached: decided when it is picked, and one way for requests,
//! connections and upgrades.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use tokio::time::{Instant, timeout_at};
use tulle_model::snapshot::{Endpoint, OriginatedTls};

use crate::budget::{Account, Seat, cost};
use crate::connect::{EGRESS_CONNECT, connect_for};
use crate::destination::{Load, Member};
use crate::endpoints::Picked;
use crate::error::{UpstreamError, UpstreamErrorKind as Kind};
use crate::inbound::{self, Entrance};
use crate::local::Local;
use crate::originate::Speaks;
use crate::pair::{PairEnd, pair};
use crate::security::Security;
use crate::state::LocalWorkload;
use crate::tcp::Upstream;
use crate::worker::Worker;

/// What an attempt is made on.
pub(crate) struct Hop {
    pub address: SocketAddr,
    pub reach: Reach,
}

/// By which way. The load of an endpoint is to be kept for as long as the request or connection lasts.
pub(crate) enum Reach {
    /// By a connection of its own, in plain: a place outside of the mesh, or an endpoint on no node of it.
    Plain(Option<Load>),
    /// To the outside of the mesh, in TLS.
    Tls(Arc<OriginatedTls>),
    /// A workload of this node, inside of the process.
    HandedOver(Load),
    /// By a link to the node that it is on.
    Link(Load),
}

/// Has the requests in a connection of bytes read on their way to a workload of this node, as they are at the other end of a link.
fn read(
    worker: &Rc<Worker>,
    entrance: Entrance<'_>,
    account: &Rc<Account>,
) -> Result<PairEnd, UpstreamError> {
    inbound::admit(&worker.local, entrance)?;
    let (near, far) = pair(account).map_err(UpstreamError::shed)?;
    let (peer, workload) = (entrance.peer.clone(), entrance.workload.clone());
    let serving = (worker.read_inside)(worker.clone(), peer, workload, entrance.port, far, account.clone());
    tokio::task::spawn_local(worker.local.connections.track_future(serving));
    Ok(near)
}

impl Hop {
    /// To an endpoint of the mesh.
    pub fn to(local: &Local, Picked { target_port, load }: Picked) -> Self {
        let endpoint = &load.endpoint;
        let address = SocketAddr::new(endpoint.address, target_port);
        let reach = match &endpoint.node {
            None => Reach::Plain(Some(load)),
            Some(_) if local.is_local(endpoint) => Reach::HandedOver(load),
            Some(_) => Reach::Link(load),
        };
        Self { address, reach }
    }

    pub fn outside(address: SocketAddr, tls: Option<Arc<OriginatedTls>>) -> Self {
        Self { address, reach: tls.map_or(Reach::Plain(None), Reach::Tls) }
    }

    /// The endpoint, if it is one of a service.
    pub fn member(&self) -> Option<&Rc<Member>> {
        match &self.reach {
            Reach::Plain(load) => load.as_ref().map(Load::member),
            Reach::Tls(_) => None,
            Reach::HandedOver(load) | Reach::Link(load) => Some(load.member()),
        }
    }

    /// The same as it is configured.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.member().map(|member| &*member.endpoint)
    }

    pub fn into_load(self) -> Option<Load> {
        match self.reach {
            Reach::Plain(load) => load,
            Reach::Tls(_) => None,
            Reach::HandedOver(load) | Reach::Link(load) => Some(load),
        }
    }

    /// How what goes there is protected.
    pub fn security(&self) -> Security {
        match self.reach {
            Reach::Plain(_) => Security::Plaintext,
            Reach::Tls(_) => Security::Tls,
            Reach::HandedOver(_) => Security::SameNode,
            Reach::Link(_) => Security::MutualTls,
        }
    }

    /// Opens a connection for `source`, which `account` pays for, until `end`: of bytes, or for what `head` asks for.
    /// Every error has left nothing behind.
    pub async fn connect(
        &self,
        worker: &Rc<Worker>,
        source: &LocalWorkload,
        account: &Rc<Account>,
        head: Option<&mut Parts>,
        end: Instant,
    ) -> Result<(Upstream, Option<Seat>), UpstreamError> {
        let connected = timeout_at(end, self.open(worker, source, account, head)).await;
        connected.unwrap_or_else(|_| {
            // The same in kind and words, whether one address or all of them took the time.
            let kind = if self.member().is_some() { Kind::Timeout } else { Kind::Connect };
            Err(UpstreamError::safe(kind, format!("{} did not accept a connection in time", self.address)))
        })
    }

    async fn open(
        &self,
        worker: &Rc<Worker>,
        source: &LocalWorkload,
        account: &Rc<Account>,
        head: Option<&mut Parts>,
    ) -> Result<(Upstream, Option<Seat>), UpstreamError> {
        match &self.reach {
            Reach::Plain(load) => {
                // What is outside of the mesh may be far away.
                let within = load.is_none().then_some(EGRESS_CONNECT);
                let (tcp, seat) = connect_for(account, worker.local.elsewhere, self.address, within).await?;
                Ok((Upstream::Tcp(tcp), Some(seat)))
            }
            Reach::Tls(tls) => {
                let seat = account.seat(cost::APPLICATION + cost::TLS).map_err(UpstreamError::shed)?;
                // What leaves HTTP is asked for in HTTP/1.1.
                let speaks = if head.is_some() { Speaks::Http1 } else { Speaks::Bytes };
                let socket = Box::pin(worker.origins.of(tls).connect(self.address, speaks)).await?;
                Ok((Upstream::Tls(socket), Some(seat)))
            }
            Reach::HandedOver(load) => {
                let workload = worker.local.hand_over(&load.endpoint)?;
                let peer = source.peer();
                let entrance = Entrance::to(&peer, &workload, self.address.port());
                if head.is_none() && inbound::is_read(&worker.local, entrance) {
                    return Ok((Upstream::Inside(read(worker, entrance, account)?), None));
                }
                let (process, seat) = inbound::connect(worker, entrance, account, head).await?;
                Ok((Upstream::Process(process), Some(seat)))
            }
            Reach::Link(load) => {
                let stream = worker.links.stream(source, load.member()).await?;
                let workload = load.endpoint.workload.as_ref();
                let tunnel = stream.tunnel(&worker.local, workload, self.address).await?;
                Ok((Upstream::Tunnel(Box::new(tunnel)), None))
            }
        }
    }
}
