//! `tulle server`: the control plane.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tulle_model::identity::TrustDomain;
use tulle_model::name::dns_subdomain_problem;
use tulle_server::ca::mesh::AuthorityFiles;
use tulle_server::fleet::Leases;
use tulle_server::flows::RunBounds;
use tulle_server::{Server, ServerConfig, StartError};

use crate::exit::{Exit, Failure, Result};
use crate::home::HomeArgs;
use crate::printer::{LAST_WORDS, Printer};
use crate::service_manager;
use crate::signals::Stop;
use crate::units::{parse_duration, parse_size};
use crate::up::ports::{API_PORT, NODES_PORT};

#[derive(Debug, Args)]
#[command(after_help = "\
SIGTERM, SIGINT, SIGQUIT and a terminal that is closed stop the server. Without a terminal it ignores SIGHUP.")]
pub struct ServerArgs {
    /// Where the API is served
    #[arg(long, alias = "api-listen", value_name = "ADDRESS:PORT", default_value_t = everywhere(API_PORT))]
    listen_api: SocketAddr,
    /// Where nodes connect
    #[arg(long, alias = "node-listen", value_name = "ADDRESS:PORT", default_value_t = everywhere(NODES_PORT))]
    listen_nodes: SocketAddr,
    /// A name or address by which clients on other hosts reach the API, which its certificate then has beside localhost
    /// and the address of --listen-api (repeatable); write it into their copies of the kubeconfig
    #[arg(long, value_name = "NAME", value_parser = parse_api_name)]
    api_name: Vec<String>,
    /// The mesh's trust domain; the first start fixes it
    #[arg(long, value_name = "DOMAIN", default_value = "mesh.local", value_parser = parse_trust_domain)]
    trust_domain: String,
    /// An authority of your own: the issuing certificate, and those that lead to its root (PEM)
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_certificate: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "ca_certificate")]
    ca_key: Option<PathBuf>,
    /// The roots to trust, where the certificate is an intermediate (PEM)
    #[arg(long, value_name = "FILE", requires = "ca_certificate")]
    ca_roots: Option<PathBuf>,
    /// How long a node may be silent before its workloads are stale: callers that reach them go on (1s to 1h)
    #[arg(long, value_name = "TIME", value_parser = parse_lease, default_value = "10s")]
    lease: Duration,
    /// How long workloads of a silent node are kept before they leave the mesh (at most 87600h)
    #[arg(long, value_name = "TIME", value_parser = parse_forget_stale, default_value = "24h")]
    forget_stale: Duration,
    /// How long a node may be silent before its runs of Flows are given to other nodes (500ms to 1h)
    #[arg(long, value_name = "TIME", value_parser = parse_flow_lease, default_value = "2s")]
    flow_lease: Duration,
    /// How many tasks a run of a Flow may begin (1 to 100000)
    #[arg(long, value_name = "N", value_parser = parse_flow_tasks, default_value = "10000")]
    flow_max_tasks: u32,
    /// How large what goes from task to task of a run may be, as JSON (1k to 1M)
    #[arg(long, value_name = "SIZE", value_parser = parse_flow_document, default_value = "256k")]
    flow_max_document: usize,
    /// How large the history of a run may become (1M to 64M)
    #[arg(long, value_name = "SIZE", value_parser = parse_flow_history, default_value = "50M")]
    flow_max_history: usize,
    #[command(flatten)]
    home: HomeArgs,
}

fn parse_lease(text: &str) -> std::result::Result<Duration, String> {
    Leases::check_lease(parse_duration(text)?).map_err(|e| e.to_string())
}

fn parse_forget_stale(text: &str) -> std::result::Result<Duration, String> {
    Leases::check_forget_stale(parse_duration(text)?).map_err(|e| e.to_string())
}

fn parse_flow_lease(text: &str) -> std::result::Result<Duration, String> {
    Leases::check_flow_lease(parse_duration(text)?).map_err(|e| e.to_string())
}

fn parse_flow_tasks(text: &str) -> std::result::Result<u32, String> {
    let tasks = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    RunBounds::check_tasks(tasks).map_err(|e| e.to_string())
}

fn parse_flow_document(text: &str) -> std::result::Result<usize, String> {
    RunBounds::check_document(parse_size(text)?).map_err(|e| e.to_string())
}

fn parse_flow_history(text: &str) -> std::result::Result<usize, String> {
    RunBounds::check_history(parse_size(text)?).map_err(|e| e.to_string())
}

fn parse_trust_domain(text: &str) -> std::result::Result<String, String> {
    TrustDomain::new(text).map(|domain| domain.as_str().to_owned()).map_err(|e| e.to_string())
}

/// A name of DNS, in letters as certificates have them, or an address.
fn parse_api_name(text: &str) -> std::result::Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let name = text.to_ascii_lowercase();
    match dns_subdomain_problem(name.strip_prefix("*.").unwrap_or(&name)) {
        Some(problem) => Err(format!("`{text}` is neither an IP address nor a name: it {problem}")),
        None => Ok(name),
    }
}

pub fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

pub async fn run(args: ServerArgs) -> Result<()> {
    let mut stop = Stop::of_daemon()?;
    let home = args.home.path()?;
    crate::home::create(&home)?;
    let authority = args.ca_certificate.zip(args.ca_key).map(|(certificate, key)| AuthorityFiles {
        certificate,
        key,
        roots: args.ca_roots,
    });
    let config = ServerConfig {
        api_listen: args.listen_api,
        node_listen: args.listen_nodes,
        trust_domain: args.trust_domain,
        api_names: args.api_name,
        authority,
        leases: Leases { lease: args.lease, forget_stale: args.forget_stale, flow_lease: args.flow_lease },
        run_bounds: RunBounds {
            tasks: args.flow_max_tasks,
            document: args.flow_max_document,
            history: args.flow_max_history,
        },
        ..ServerConfig::local(home)
    };
    let server = tokio::select! {
        server = Server::start(config) => server.map_err(|e| not_started(&e))?,
        _ = stop.next() => return Ok(()),
    };
    let out = Printer::new(anstream::stdout());
    out.say(&format!(
        "the server runs: nodes at {}, API at https://{}",
        server.node_address, server.api_address
    ));
    out.say(&format!("kubeconfig: {}", server.kubeconfig.display()));
    out.say("a node joins with a token: tulle token create");
    service_manager::ready(&format!("nodes at {}, API at {}", server.node_address, server.api_address));
    stop.next().await;
    service_manager::stopping();
    out.say("stopping");
    tokio::select! {
        () = server.shutdown() => {}
        _ = stop.next() => {}
    }
    out.finish(LAST_WORDS);
    Ok(())
}

/// Why a server does not start.
pub fn not_started(error: &StartError) -> Failure {
    let failure = Failure::new(format!("the server does not start: {error}"));
    if error.is_conflict() { failure.exit(Exit::Conflict) } else { failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_names_that_they_had_too() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            server: ServerArgs,
        }
        let read = |api: &str, nodes: &str| {
            let line = ["x", api, "127.0.0.1:1", nodes, "127.0.0.1:2"];
            let line = <Line as clap::Parser>::try_parse_from(line).unwrap().server;
            (line.listen_api.port(), line.listen_nodes.port())
        };
        assert_eq!(read("--listen-api", "--listen-nodes"), (1, 2));
        assert_eq!(read("--api-listen", "--node-listen"), (1, 2));
        let help = <Line as clap::CommandFactory>::command().render_long_help().to_string();
        assert!(help.contains("--listen-nodes") && !help.contains("--node-listen"), "{help}");
    }

    #[test]
    fn times_that_no_server_can_keep_are_refused() {
        for good in ["1s", "10s", "1h"] {
            parse_lease(good).unwrap();
        }
        for bad in ["0", "0s", "10ms", "61m", "2000000h"] {
            assert!(parse_lease(bad).unwrap_err().contains("1s to 1h"), "{bad}");
        }
        for good in ["0", "1m", "24h", "87600h"] {
            parse_forget_stale(good).unwrap();
        }
        assert!(parse_forget_stale("87601h").unwrap_err().contains("10 years"));
        assert!(parse_forget_stale("2000000000000h").unwrap_err().contains("10 years"));
    }
}
