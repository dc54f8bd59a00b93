//! How an endpoint, or a place outside of the mesh, is reached: decided when it is picked, and one way for requests,
//! connections and upgrades.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tulle_model::snapshot::Endpoint;

use crate::budget::Account;
use crate::connect::{Counted, EGRESS_CONNECT, connect_for};
use crate::endpoints::Picked;
use crate::error::UpstreamError;
use crate::inbound;
use crate::loads::LoadGuard;
use crate::local::Local;
use crate::security::Security;
use crate::state::LocalWorkload;
use crate::tcp::Upstream;
use crate::worker::Worker;

/// What an attempt is made on.
pub struct Hop {
    pub address: SocketAddr,
    pub reach: Reach,
    /// Keep it for as long as the request or connection lasts.
    pub load: Option<LoadGuard>,
}

/// By which way.
pub enum Reach {
    /// By a connection of its own, in plain: a place outside of the mesh, or an endpoint on no node of it.
    Plain(Option<Arc<Endpoint>>),
    /// A workload of this node, inside of the process.
    HandedOver(Arc<Endpoint>),
    /// By a link to the node that it is on.
    Link(Arc<Endpoint>),
}

impl Hop {
    /// To an endpoint of the mesh.
    pub fn to(local: &Local, Picked { endpoint, target_port, load }: Picked) -> Self {
        let address = SocketAddr::new(endpoint.address, target_port);
        let reach = match &endpoint.node {
            None => Reach::Plain(Some(endpoint)),
            Some(_) if local.is_local(&endpoint) => Reach::HandedOver(endpoint),
            Some(_) => Reach::Link(endpoint),
        };
        Self { address, reach, load: Some(load) }
    }

    pub fn outside(address: SocketAddr) -> Self {
        Self { address, reach: Reach::Plain(None), load: None }
    }

    /// The endpoint, if it is one of a service.
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        match &self.reach {
            Reach::Plain(endpoint) => endpoint.as_ref(),
            Reach::HandedOver(endpoint) | Reach::Link(endpoint) => Some(endpoint),
        }
    }

    /// How what goes there is protected.
    pub fn security(&self) -> Security {
        match self.reach {
            Reach::Plain(_) => Security::Plaintext,
            Reach::HandedOver(_) => Security::SameNode,
            Reach::Link(_) => Security::MutualTls,
        }
    }

    /// Opens a connection of bytes for `source`, which `account` pays for. Every error has left nothing behind.
    pub async fn connect(
        &self,
        worker: &Rc<Worker>,
        source: &LocalWorkload,
        account: &Rc<Account>,
    ) -> Result<(Upstream, Counted), UpstreamError> {
        match &self.reach {
            Reach::Plain(endpoint) => {
                // What is outside of the mesh may be far away.
                let within = endpoint.is_none().then_some(EGRESS_CONNECT);
                let (tcp, seat) = connect_for(account, self.address, within).await?;
                Ok((Upstream::Tcp(tcp), seat.into()))
            }
            Reach::HandedOver(endpoint) => {
                let workload = worker.local.hand_over(endpoint)?;
                let port = self.address.port();
                let (tcp, counted) = inbound::connect(&worker.local, &workload, port, account).await?;
                Ok((Upstream::Tcp(tcp), counted))
            }
            Reach::Link(endpoint) => {
                let stream = worker.links.stream(source, endpoint).await?;
                let workload = endpoint.workload.as_ref();
                let tunnel = stream.tunnel(&worker.local, workload, self.address).await?;
                Ok((Upstream::Tunnel(Box::new(tunnel)), Counted::default()))
            }
        }
    }
}
