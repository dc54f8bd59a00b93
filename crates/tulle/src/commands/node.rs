//! `tulle node`: this host's part of a mesh.

mod drain;
pub mod joining;
mod reset;
mod revoke;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tulle_node::capture::CaptureWish;
use tulle_node::workloads::Left;
use tulle_node::{Node, NodeConfig};

use self::joining::{JoinArgs, parse_server};
use crate::exit::{Exit, Failure, Result};
use crate::home::HomeArgs;
use crate::limits::LimitArgs;
use crate::printer::{LAST_WORDS, Printer};
use crate::service_manager;
use crate::signals::Stop;
use crate::up::ports::ADMIN_PORT;

#[derive(Debug, Args)]
#[command(
    subcommand_negates_reqs = true,
    after_help = "\
SIGTERM, SIGINT, SIGQUIT and a terminal that is closed stop the node: it drains its workloads, and leaves what \
`tulle run` has started running, cut off from the network of the mesh until the node is back. A second one does \
not wait. Without a terminal it ignores SIGHUP."
)]
pub struct NodeArgs {
    #[command(subcommand)]
    action: Option<NodeAction>,
    /// The server's address for nodes
    #[arg(long, value_name = "HOST:PORT", required = true, value_parser = parse_server)]
    server: Option<String>,
    #[command(flatten)]
    join: JoinArgs,
    /// Where metrics and health are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)))]
    listen_admin: SocketAddr,
    /// How workloads' connections get into the mesh
    #[arg(long, value_enum, default_value_t)]
    capture: NodeCaptureArg,
    /// Threads of the proxy [default: as many as cores]
    #[arg(long, value_name = "NUMBER", value_parser = crate::units::parse_workers)]
    workers: Option<usize>,
    /// How long requests in flight may take when the node stops
    #[arg(long, value_name = "TIME", value_parser = crate::units::parse_duration, default_value = "10s")]
    drain: Duration,
    #[command(flatten)]
    home: HomeArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What is done with a node, in place of running one.
#[derive(Debug, Subcommand)]
enum NodeAction {
    /// Have the workloads of this host's node take no traffic; with --stop, end them
    Drain(drain::DrainArgs),
    /// Remove what a node that stopped has left here: processes, cgroups, nftables tables
    Reset(reset::ResetArgs),
    /// Take back what nodes may, and have the others refuse them
    Revoke(revoke::NodeRevokeArgs),
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

/// How connections get into the mesh, of a node by itself.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum NodeCaptureArg {
    /// The host's where it is possible, explicit otherwise
    #[default]
    Auto,
    /// By cgroup and nftables; needs root
    Host,
    /// All of the network namespace that this runs in (a container, a pod), by nftables, for one workload; needs CAP_NET_ADMIN there
    Namespace,
    /// By the processes' environment; needs nothing
    Explicit,
}

impl From<NodeCaptureArg> for CaptureWish {
    fn from(arg: NodeCaptureArg) -> Self {
        match arg {
            NodeCaptureArg::Auto => Self::Auto,
            NodeCaptureArg::Host => Self::Host,
            NodeCaptureArg::Namespace => Self::Namespace,
            NodeCaptureArg::Explicit => Self::Explicit,
        }
    }
}

/// As many as there are cores.
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub async fn run(args: NodeArgs) -> Result<()> {
    match (args.action, args.server) {
        (Some(NodeAction::Drain(drain)), _) => drain::run(drain, &args.home.path()?).await,
        (Some(NodeAction::Reset(reset)), _) => reset::run(reset, &args.home.path()?).await,
        (Some(NodeAction::Revoke(revoke)), _) => revoke::run(revoke, &args.home.path()?).await,
        (None, Some(server)) => serve(NodeArgs { action: None, server: None, ..args }, server).await,
        (None, None) => Err(Failure::input("the server's address is missing").help("--server HOST:PORT")),
    }
}

async fn serve(args: NodeArgs, server: String) -> Result<()> {
    let mut stop = Stop::of_daemon()?;
    let home = args.home.path()?;
    crate::home::create(&home)?;
    let config = NodeConfig {
        name: args.join.name()?,
        server,
        token: args.join.token(&home)?,
        link_listen: args.join.listen_links,
        link_address: args.join.link_address(),
        home,
        admin_listen: Some(args.listen_admin),
        capture: args.capture.into(),
        keep_workloads: true,
        starts_services: false,
        workers: args.workers.unwrap_or_else(default_workers),
        bounds: args.limits.bounds(),
    };
    let name = config.name.clone();
    let node = tokio::select! {
        node = Node::start(config) => node.map_err(not_started)?,
        _ = stop.next() => return Ok(()),
    };
    let (mode, why) = node.capture();
    let out = Printer::new(anstream::stdout());
    out.say(&format!("the node {name} runs, links at {}", node.link_address()));
    out.say(&format!("capture: {} ({why})", mode.as_str()));
    if let Some(address) = node.admin_address() {
        out.say(&format!("metrics: http://{address}/metrics"));
    }
    service_manager::ready(&format!("links at {}, {} capture", node.link_address(), mode.as_str()));
    stop.next().await;
    service_manager::stopping();
    out.say("stopping (a second signal does not wait for what is in flight)");
    let mode = mode.as_str();
    tokio::select! {
        left = node.shutdown(args.drain) => say_what_is_left(&out, &left, mode),
        _ = stop.next() => {}
    }
    out.finish(LAST_WORDS);
    Ok(())
}

/// Why a node does not start.
pub fn not_started(error: anyhow::Error) -> Failure {
    let failure = Failure::new(format!("the node does not start: {error:#}"));
    let mut io = error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>());
    let port_is_taken = io.any(|e| e.kind() == std::io::ErrorKind::AddrInUse);
    if port_is_taken || error.is::<tulle_node::InUse>() {
        failure.exit(Exit::Conflict)
    } else if error.is::<tulle_node::MalformedToken>() {
        failure.exit(Exit::Input)
    } else {
        failure
    }
}

fn say_what_is_left(out: &Printer, left: &Left, mode: &str) {
    if mode == "namespace" {
        return out.say(
            "stopped; the rules stay in this network namespace: what begins in it towards the mesh is refused, and what else was held off, \
             until this node is back (to remove them: tulle node reset)",
        );
    }
    if left.workloads.is_empty() {
        return out.say("stopped");
    }
    for (workload, processes) in &left.workloads {
        out.say(&format!(
            "{workload} goes on ({processes} {})",
            if *processes == 1 { "process" } else { "processes" }
        ));
    }
    out.say(match mode {
        "host" => {
            "stopped; cgroups and rules stay: what these processes send is refused until this node is back"
        }
        _ => "stopped; these processes have no mesh until this node is back",
    });
    out.say("to end them and remove what is left: tulle node reset");
}
