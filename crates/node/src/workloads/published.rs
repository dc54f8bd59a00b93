//! Published ports: a way into the mesh for who is no part of it, such as a browser on this host.

use std::io;
use std::net::SocketAddr;

use tulle_model::name::ServiceName;
use tulle_proxy::{Purpose, Sockets};

use super::Workloads;

impl Workloads {
    /// Listens at an address for a port of a service; what comes there counts as the outside's. Returns where it listens.
    ///
    /// # Errors
    /// Where nobody can listen there.
    pub async fn publish_port(
        &self,
        service: ServiceName,
        port: u16,
        address: SocketAddr,
    ) -> io::Result<SocketAddr> {
        let sockets = Sockets::bind(Purpose::Published { service, port }, address, self.proxy.workers())?;
        self.proxy.listen(sockets).await
    }

    /// Takes no more connections there; those that are open go on.
    pub async fn unpublish_port(&self, address: SocketAddr) {
        self.proxy.close(address).await;
    }
}
