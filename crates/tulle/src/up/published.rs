//! The ports of this host that lead to services: those of `publish`, and those that `tulle open` asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tulle_model::name::ServiceName;
use tulle_node::workloads::Workloads;

use super::config::Config;
use super::publish::{Publish, meet};
use crate::exit::{Exit, Failure, Result};

/// A port that leads to a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    pub service: String,
    /// The Service's port.
    pub port: u16,
    pub address: SocketAddr,
    /// Where a browser finds it, unless it is known to speak something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
            Some(url) => write!(f, "{} is at {url}", self.service),
            None => write!(f, "{} is at {}", self.service, self.address),
        }
    }
}

pub struct Published {
    workloads: Arc<Workloads>,
    /// By service, port of the Service, and where that is wished. With port 0: `tulle open` has asked for it.
    open: Mutex<BTreeMap<(String, Publish), SocketAddr>>,
}

impl Published {
    pub fn new(workloads: Arc<Workloads>) -> Self {
        Self { workloads, open: Mutex::default() }
    }

    /// Opens what the file asks for, and closes what it does not any more. Returns what is new.
    ///
    /// # Errors
    /// Names the first port that cannot be opened. The others are open.
    pub async fn follow(&self, config: &Config) -> Result<Vec<PublishedPort>> {
        let mut open = self.open.lock().await;
        let wanted: BTreeSet<(String, Publish)> = wished(config).collect();
        let is_served = |service: &str, to: u16| {
            config.services.iter().any(|s| s.name == service && s.ports.iter().any(|p| p.port == to))
        };
        let is_asked_for = |(service, publish): &(String, Publish)| {
            publish.address.port() == 0 && is_served(service, publish.to)
        };
        let gone: Vec<_> = open.extract_if(.., |of, _| !wanted.contains(of) && !is_asked_for(of)).collect();
        for (_, address) in gone {
            self.workloads.unpublish_port(address).await;
        }
        let mut new = Vec::new();
        let mut failure = None;
        for (service, publish) in wanted {
            if open.contains_key(&(service.clone(), publish)) {
                continue;
            }
            match self.listen(config, &service, publish).await {
                Ok(address) => {
                    new.push(shown(config, &service, publish.to, address));
                    open.insert((service, publish), address);
                }
                Err(error) => failure = failure.or(Some(taken(&service, publish.address, &error))),
            }
        }
        failure.map_or(Ok(new), Err)
    }

    /// A port of loopback that leads to one of a service: one that there is, or a new one, which stays for as long as the service.
    pub async fn open(&self, config: &Config, service: &str, to: u16) -> Result<PublishedPort> {
        let mut open = self.open.lock().await;
        let of_it =
            |((name, publish), _): &(&(String, Publish), &SocketAddr)| name == service && publish.to == to;
        if let Some((_, address)) = open.iter().find(of_it) {
            return Ok(shown(config, service, to, *address));
        }
        let publish = Publish { address: (Ipv4Addr::LOCALHOST, 0).into(), to };
        let listening = self.listen(config, service, publish).await;
        let address = listening.map_err(|error| taken(service, publish.address, &error))?;
        open.insert((service.to_owned(), publish), address);
        Ok(shown(config, service, to, address))
    }

    /// All that are open.
    pub async fn list(&self, config: &Config) -> Vec<PublishedPort> {
        let open = self.open.lock().await;
        open.iter()
            .map(|((service, publish), address)| shown(config, service, publish.to, *address))
            .collect()
    }

    async fn listen(&self, config: &Config, service: &str, publish: Publish) -> io::Result<SocketAddr> {
        let name = ServiceName::new(config.namespace.as_str(), service);
        self.workloads.publish_port(name, publish.to, publish.address).await
    }
}

fn wished(config: &Config) -> impl Iterator<Item = (String, Publish)> {
    config.services.iter().flat_map(|s| s.publish.iter().map(|publish| (s.name.clone(), *publish)))
}

/// Whether what is to be published can be, but for what is open already, or gives way.
pub fn check_free(config: &Config, before: Option<&Config>) -> Result<()> {
    let open: Vec<_> = before.into_iter().flat_map(wished).map(|(_, publish)| publish.address).collect();
    let is_ours = |publish: &Publish| open.iter().any(|open| meet(*open, publish.address));
    for (service, publish) in wished(config).filter(|(_, publish)| !is_ours(publish)) {
        TcpListener::bind(publish.address).map_err(|error| taken(&service, publish.address, &error))?;
    }
    Ok(())
}

fn taken(service: &str, address: SocketAddr, error: &io::Error) -> Failure {
    Failure::new(format!("{address}, which `publish` of service {service} asks for, cannot be used: {error}"))
        .exit(Exit::Conflict)
        .help("stop what uses it, or publish the service at another port")
}

fn shown(config: &Config, service: &str, port: u16, address: SocketAddr) -> PublishedPort {
    let of = config.services.iter().find(|s| s.name == service);
    let speaks =
        of.and_then(|s| s.ports.iter().find(|p| p.port == port)).and_then(|p| p.app_protocol.as_deref());
    let scheme = match speaks {
        None | Some("http" | "http2" | "h2c" | "grpc-web") => Some("http"),
        Some("https") => Some("https"),
        Some(_) => None,
    };
    let host = match address.ip() {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    let url = scheme.map(|scheme| format!("{scheme}://{host}:{}", address.port()));
    PublishedPort { service: service.to_owned(), port, address, url }
}
