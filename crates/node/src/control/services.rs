//! The services of a namespace, for the environment of who is started there and names none.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tonic::Code;
use tulle_model::name::ServiceName;
use tulle_wire::node::ListServicesRequest;

use super::{Server, explain_status};
use crate::workloads::UpstreamService;

/// How many ports they may have in all: with explicit capture each is one that the node listens at.
const MOST_PORTS: u32 = 100;

/// How long the server may take: who is started waits for it.
const DEADLINE: Duration = Duration::from_secs(2);

/// The services of a namespace that have ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesOfNamespace {
    /// In the order of their names.
    pub services: Vec<UpstreamService>,
    /// How many more there are.
    pub left_out: u32,
}

/// Asks the server.
pub(crate) async fn services_of(server: &Server, namespace: &str) -> anyhow::Result<ServicesOfNamespace> {
    if !*server.connected().borrow() {
        bail!("the server cannot be reached");
    }
    let mut client = server.nodes();
    let request = ListServicesRequest { namespace: namespace.to_owned(), most_ports: MOST_PORTS };
    let answer = timeout(DEADLINE, client.list_services(request)).await;
    let answer = answer.context("the server gives no answer")?;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        // An older server, with which those that are called are to be named.
        Err(status) if status.code() == Code::Unimplemented => return Ok(ServicesOfNamespace::default()),
        Err(status) => bail!(explain_status(&status)),
    };
    let number = |port: u32| u16::try_from(port).ok().filter(|port| *port != 0);
    let services = answer.services.into_iter().map(|service| UpstreamService {
        service: ServiceName::new(namespace, service.name.as_str()),
        ports: service.ports.into_iter().filter_map(number).collect(),
    });
    let services = services.filter(|service| !service.ports.is_empty()).collect();
    Ok(ServicesOfNamespace { services, left_out: answer.left_out })
}
