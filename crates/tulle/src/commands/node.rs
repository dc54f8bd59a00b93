//! `tulle node`: this host's part of a mesh.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tulle_node::capture::CaptureWish;
use tulle_node::{Node, NodeConfig};

use super::server::everywhere;
use crate::exit::{Failure, Result};
use crate::home::HomeArgs;
use crate::limits::LimitArgs;
use crate::signals::Stop;
use crate::up::ports::{ADMIN_PORT, LINKS_PORT};

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The server's address for nodes
    #[arg(long, value_name = "HOST:PORT")]
    server: String,
    /// The token to join with, from `tulle token create`; not needed again after that
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TULLE_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    token: Option<String>,
    /// A file with the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The node's name, unique in the mesh [default: the host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where links from other nodes are taken
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = everywhere(LINKS_PORT))]
    listen_links: SocketAddr,
    /// Where other nodes reach that [default: this host's address on the way to the server]
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_advertise)]
    advertise: Option<Advertise>,
    /// Where metrics and health are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)))]
    listen_admin: SocketAddr,
    /// How workloads' connections get into the mesh
    #[arg(long, value_enum, default_value_t)]
    capture: CaptureArg,
    /// Threads of the proxy [default: as many as cores]
    #[arg(long, value_name = "NUMBER")]
    workers: Option<usize>,
    /// How long requests in flight may take when the node stops
    #[arg(long, value_name = "TIME", value_parser = crate::units::parse_duration, default_value = "10s")]
    drain: Duration,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    home: HomeArgs,
}

/// How workloads' connections get into the mesh.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum CaptureArg {
    /// The host's where it is possible, explicit otherwise
    #[default]
    Auto,
    /// By cgroup and nftables; needs root
    Host,
    /// By the processes' environment; needs nothing
    Explicit,
}

impl From<CaptureArg> for CaptureWish {
    fn from(arg: CaptureArg) -> Self {
        match arg {
            CaptureArg::Auto => Self::Auto,
            CaptureArg::Host => Self::Host,
            CaptureArg::Explicit => Self::Explicit,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Advertise {
    address: IpAddr,
    port: Option<u16>,
}

fn parse_advertise(text: &str) -> Result<Advertise, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Advertise { address: address.ip(), port: Some(address.port()) });
    }
    let address = text.parse().map_err(|_| "an IP address is expected, or ADDRESS:PORT")?;
    Ok(Advertise { address, port: None })
}

/// As many as there are cores.
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub async fn run(args: NodeArgs) -> Result<()> {
    let mut stop = Stop::of_daemon()?;
    let home = args.home.path()?;
    crate::home::create(&home)?;
    let config = NodeConfig {
        home,
        name: match &args.name {
            Some(name) => name.clone(),
            None => host_name()?,
        },
        server: args.server.clone(),
        token: token(&args)?,
        link_listen: args.listen_links,
        link_address: args
            .advertise
            .map(|a| SocketAddr::new(a.address, a.port.unwrap_or(args.listen_links.port()))),
        admin_listen: Some(args.listen_admin),
        capture: args.capture.into(),
        keep_workloads: true,
        workers: args.workers.unwrap_or_else(default_workers),
        bounds: args.limits.bounds(),
    };
    let name = config.name.clone();
    if let Some(problem) = tulle_model::name::dns_label_problem(&name) {
        return Err(
            Failure::input(format!("`{name}` is no name for a node: it {problem}")).help("--name NAME")
        );
    }
    let node = tokio::select! {
        node = Node::start(config) => node.map_err(|e| Failure::new(format!("the node does not start: {e:#}")))?,
        _ = stop.next() => return Ok(()),
    };
    let (mode, why) = node.capture();
    anstream::println!("the node {name} runs, links at {}", node.link_address());
    anstream::println!("capture: {} ({why})", mode.as_str());
    if let Some(address) = node.admin_address() {
        anstream::println!("metrics: http://{address}/metrics");
    }
    stop.next().await;
    anstream::println!("stopping");
    node.shutdown(args.drain).await;
    Ok(())
}

fn token(args: &NodeArgs) -> Result<Option<String>> {
    let Some(path) = &args.token_file else { return Ok(args.token.clone()) };
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::input(format!("cannot read the token in {}: {e}", path.display())))?;
    Ok(Some(text.trim().to_owned()))
}

fn host_name() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let label = text.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    Ok(label.replace('_', "-"))
}
