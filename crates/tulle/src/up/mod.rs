//! `tulle up`: a whole mesh on one machine. A server and a node in this process, and the services of
//! `tulle.yaml` as its children.

mod check;
mod client;
mod command;
mod complaints;
pub mod config;
pub mod control;
mod detach;
mod elsewhere;
mod env_file;
mod field;
mod files;
mod include;
mod init_commands;
mod interpolate;
mod limits;
mod load;
pub mod log;
mod mesh;
mod objects;
mod own_names;
mod plan;
pub mod ports;
pub mod prefix;
mod probe;
mod profiles;
mod protocol;
mod publish;
mod published;
mod reload;
mod replica;
mod schema;
mod screen;
mod service;
mod service_ports;
mod services;
pub mod standing;
mod suggest;
mod surroundings;
mod users;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use tokio::sync::Notify;

pub use self::client::UpClient;
pub use self::command::split;
use self::control::Control;
use self::elsewhere::Elsewhere;
pub use self::interpolate::{Meaning, Use, expand};
pub use self::load::load;
pub use self::mesh::forget;
use self::mesh::{Joining, Mesh};
pub use self::profiles::ProfileArgs;
pub use self::protocol::is_protocol;
use self::published::Published;
pub use self::published::PublishedPort;
use self::reload::{Kept, Reload};
pub use self::schema::schema;
use self::screen::Screen;
use self::services::Services;
pub use self::surroundings::variables;
use crate::client::Client;
use crate::commands::node::CaptureArg;
use crate::commands::node::joining::{JoinArgs, parse_server};
use crate::exit::Result;
use crate::home::HomeArgs;
use crate::limits::LimitArgs;
use crate::service_manager;
use crate::signals::Stop;

#[derive(Debug, Args)]
#[command(after_help = "\
SIGTERM, SIGINT (Ctrl-C), SIGQUIT and a terminal that is closed stop it all: services are drained and get SIGTERM, and \
SIGKILL after 10 s; what `tulle run` has started, after its --stop-timeout. A second one kills.

The file is followed: what changes in it starts anew, comes or goes, and the rest is not touched. So it is by `tulle up` \
of the same file while it runs. `tulle ps` shows the processes, `tulle restart web` starts one anew.

All fields of the file are in docs/up.md.")]
pub struct UpArgs {
    /// The folder with the tulle.yaml, or the file itself
    #[arg(value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// Run these services alone, with all that they depend on
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Run in the background: return when all services are ready
    #[arg(short, long)]
    detach: bool,
    /// How the services' connections get into the mesh
    #[arg(long, value_enum, default_value_t)]
    capture: CaptureArg,
    /// Threads of the proxy [default: as many as cores]
    #[arg(long, value_name = "NUMBER", value_parser = crate::units::parse_workers)]
    workers: Option<usize>,
    /// Join the mesh of the server with this address for nodes, in place of having one of its own
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_server)]
    server: Option<String>,
    #[command(flatten)]
    join: JoinArgs,
    /// With --server: the kubeconfig of who may apply the file's Services and resources there
    #[arg(long, value_name = "FILE", requires = "server")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    profiles: ProfileArgs,
    #[command(flatten)]
    home: HomeArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

impl UpArgs {
    /// Which mesh it joins, if any.
    fn joining(&self, home: &Path) -> Result<Option<Joining>> {
        let Some(server) = &self.server else { return Ok(None) };
        Ok(Some(Joining {
            server: server.clone(),
            token: self.join.token(home)?,
            name: self.join.name()?,
            link_listen: self.join.listen_links,
            link_address: self.join.link_address(),
        }))
    }
}

pub async fn run(mut args: UpArgs) -> Result<()> {
    if names_a_service(&args.path) {
        args.services.insert(0, args.path.display().to_string());
        args.path = PathBuf::from(".");
    }
    let mut config = load::load(&args.path, &args.profiles.chosen())?;
    let chosen: BTreeSet<String> = args.services.iter().cloned().collect();
    if !chosen.is_empty() {
        config.choose(&chosen)?;
    }
    let home = args.home.path()?;
    let joining = args.joining(&home)?;
    if let Some(joining) = &joining {
        config.on_host(&joining.name)?;
    }
    let client = args.kubeconfig.as_deref().map(|path| Client::from_kubeconfig(path, false)).transpose()?;
    let warning = users::choose(&mut config)?;
    if changes_running(&home, &config, args.services).await? {
        return Ok(());
    }
    limits::check(&config)?;
    let is_detached = args.detach && detach::is_detached();
    if args.detach && !is_detached {
        return detach::run(&home).await;
    }
    let screen = std::sync::Arc::new(Screen::new(&config));
    let mut stop = Stop::new()?;

    let mesh = tokio::select! {
        mesh = Mesh::start(&config, &home, joining.as_ref(), args.capture.into(), args.workers, args.limits.bounds()) => mesh?,
        _ = stop.next() => return Ok(()),
    };
    // Not before: no other `up` writes in this home now.
    screen.keep(&home, &config);
    mesh.introduce(&config, &screen);
    config.skipped.iter().chain(&warning).for_each(|line| screen.say(line));
    mesh.node.workloads().note(warning.into_iter().collect());
    if joining.is_some() {
        // In explicit mode what is called has to be known beforehand.
        config.elsewhere = mesh.node.services_of(&config.namespace).await.unwrap_or_default().services;
    }
    let published = Published::new(mesh.node.workloads().clone());
    match published.follow(&config).await {
        Ok(ports) => ports.iter().for_each(|port| screen.say(&port.to_string())),
        Err(failure) => {
            mesh.stop().await;
            return Err(failure);
        }
    }
    let config = Arc::new(config);
    let (services, failed) = Services::start(config.clone(), &mesh, &screen, published);
    let kept = mesh.kept(|| Elsewhere::new(mesh.host(), client, config.elsewhere.clone()));
    let reload = Arc::new(Reload {
        profiles: args.profiles.chosen(),
        path: args.path,
        chosen: parking_lot::Mutex::new(Some(chosen).filter(|chosen| !chosen.is_empty())),
        services: services.clone(),
        kept,
        screen: screen.clone(),
        refused: Default::default(),
        turn: Default::default(),
    });
    let down = Arc::new(Notify::new());
    let control = Control::start(&home, &services, &reload, &down)?;
    // Not once all services are ready: one that never is would hold up what comes after the mesh for ever.
    service_manager::ready("the mesh runs (`tulle ps` shows the services)");
    let all_ready = async {
        services.all_are_ready().await;
        mesh.node.services_have_come();
        std::future::pending::<()>().await
    };
    let follow_elsewhere = async {
        match &reload.kept {
            Kept::Elsewhere(elsewhere) => elsewhere.follow(&services, &mesh.node, &screen).await,
            Kept::Here(_) => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        outcome = services.run(failed) => outcome,
        () = reload.follow() => Ok(()),
        () = follow_elsewhere => Ok(()),
        () = watch::follow(&services) => Ok(()),
        () = all_ready => Ok(()),
        () = down.notified() => Ok(()),
        () = detach::bound_log(&home), if is_detached => Ok(()),
        _ = stop.next() => Ok(()),
    };
    service_manager::stopping();
    screen.say("stopping (Ctrl-C again kills everything)");
    if matches!(reload.kept, Kept::Elsewhere(_)) {
        mesh.node.remember().await;
    }
    let workloads = mesh.node.workloads().clone();
    let scope = workloads.scope().to_owned();
    let stopping = async {
        mesh.rest_runs().await;
        // What `tulle run` has started calls the services, more often than not.
        workloads.end_owned().await;
        services.stop().await;
    };
    tokio::select! {
        () = stopping => {}
        _ = stop.next() => {
            screen.say("killing everything");
            tokio::join!(services.kill(), workloads.kill_owned());
        }
    }
    drop((control, reload, services));
    drop(workloads);
    mesh.stop().await;
    limits::clear(&scope);
    if outcome.is_ok() {
        screen.say("stopped");
    }
    tokio::select! {
        () = screen.finished() => {}
        _ = stop.next() => {}
    }
    outcome
}

/// Whether who has left out the folder names a service of the one here, as with other tools.
fn names_a_service(path: &Path) -> bool {
    let is_name = path.to_str().is_some_and(|name| tulle_model::name::dns_label_problem(name).is_none());
    let has_one = path.is_file() || path.join(crate::manifest::UP_FILE).exists();
    is_name && !has_one && Path::new(crate::manifest::UP_FILE).exists()
}

/// Has the mesh that runs with the same file do what this says now; `false`: it has another file.
async fn changes_running(home: &Path, config: &config::Config, services: Vec<String>) -> Result<bool> {
    let client = UpClient::new(home);
    // It may be about to start, or to end: its lock says the rest.
    let Ok(status) = client.status().await else { return Ok(false) };
    let absolute = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if absolute(&status.file) != absolute(&config.file) {
        return Ok(false);
    }
    let said = client.reload(services).await?;
    let said = if said.is_empty() { vec!["nothing has changed".to_owned()] } else { said };
    crate::output::print(&format!(
        "{} runs already (process {}): {}\n",
        status.name,
        status.pid,
        said.join("; ")
    ))?;
    Ok(true)
}
