//! How a node joins a mesh: options of `tulle node`, and of `tulle up --server`.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::commands::server::everywhere;
use crate::exit::{Failure, Result};
use crate::up::ports::LINKS_PORT;

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The token to join with, from `tulle token create`; not needed again after that
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TULLE_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    token: Option<String>,
    /// A file with the token, which may be gone once it has joined
    #[arg(long, value_name = "FILE", requires = "server")]
    token_file: Option<PathBuf>,
    /// The node's name, unique in the mesh [default: the host's name]
    #[arg(long, value_name = "NAME", requires = "server")]
    name: Option<String>,
    /// Where links from other nodes are taken
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = everywhere(LINKS_PORT), requires = "server")]
    pub listen_links: SocketAddr,
    /// Where other nodes reach that [default: this host's address on the way to the server]
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_advertise, requires = "server")]
    advertise: Option<Advertise>,
}

#[derive(Debug, Clone, Copy)]
struct Advertise {
    address: IpAddr,
    port: Option<u16>,
}

impl JoinArgs {
    /// The node's name.
    ///
    /// # Errors
    /// Where that is none of DNS.
    pub fn name(&self) -> Result<String> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        match tulle_model::name::dns_label_problem(&name) {
            Some(problem) => {
                Err(Failure::input(format!("`{name}` is no name for a node: it {problem}"))
                    .help("--name NAME"))
            }
            None => Ok(name),
        }
    }

    /// What it joins with, where it has not joined before.
    pub fn token(&self, home: &Path) -> Result<Option<String>> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(e) if e.kind() == ErrorKind::NotFound && has_joined(home) => Ok(None),
            Err(e) => Err(Failure::input(format!("cannot read the token in {}: {e}", path.display()))),
        }
    }

    pub fn link_address(&self) -> Option<SocketAddr> {
        self.advertise.map(|a| SocketAddr::new(a.address, a.port.unwrap_or(self.listen_links.port())))
    }
}

/// Whether a node of this home has joined a mesh.
pub fn has_joined(home: &Path) -> bool {
    home.join("node").join("node.json").exists()
}

pub fn parse_server(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    // An IPv6 address without brackets has no port that one could tell from it.
    let parts =
        parts.filter(|(host, _)| !host.contains(':') || (host.starts_with('[') && host.ends_with(']')));
    match parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("`{text}` is not of the form HOST:PORT")),
    }
}

fn parse_advertise(text: &str) -> Result<Advertise, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Advertise { address: address.ip(), port: Some(address.port()) });
    }
    let address = text.parse().map_err(|_| "an IP address is expected, or ADDRESS:PORT")?;
    Ok(Advertise { address, port: None })
}

fn host_name() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let label = text.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    Ok(label.replace('_', "-"))
}
