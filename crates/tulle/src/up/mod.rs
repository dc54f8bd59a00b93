//! `tulle up`: a whole mesh on one machine. A server and a node in this process, and the services of
//! `tulle.yaml` as its children.

mod check;
mod command;
pub mod config;
mod field;
mod files;
mod mesh;
mod objects;
pub mod ports;
mod protocol;
mod replica;
mod screen;
mod services;
mod suggest;
mod users;

use std::path::PathBuf;

use clap::Args;

pub use self::command::split;
use self::mesh::Mesh;
use self::replica::STOP_DEADLINE;
use self::screen::Screen;
use self::services::Services;
use crate::commands::node::CaptureArg;
use crate::exit::Result;
use crate::home::HomeArgs;
use crate::limits::LimitArgs;
use crate::signals::Stop;

#[derive(Debug, Args)]
#[command(after_help = "\
SIGTERM, SIGINT (Ctrl-C), SIGQUIT and a terminal that is closed stop it all: services are drained and get SIGTERM, and \
SIGKILL after 10 s; what `tulle run` has started, after its --stop-timeout. A second one kills.

All fields of the file are in docs/up.md.")]
pub struct UpArgs {
    /// The folder with the tulle.yaml, or the file itself
    #[arg(value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// How the services' connections get into the mesh
    #[arg(long, value_enum, default_value_t)]
    capture: CaptureArg,
    /// Threads of the proxy [default: as many as cores]
    #[arg(long, value_name = "NUMBER", value_parser = crate::units::parse_workers)]
    workers: Option<usize>,
    #[command(flatten)]
    home: HomeArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

pub async fn run(args: UpArgs) -> Result<()> {
    let mut config = config::load(&args.path)?;
    let warning = users::choose(&mut config)?;
    let home = args.home.path()?;
    let screen = std::sync::Arc::new(Screen::new(&config));
    let mut stop = Stop::new()?;

    let mesh = tokio::select! {
        mesh = Mesh::start(&config, &home, args.capture.into(), args.workers, args.limits.bounds()) => mesh?,
        _ = stop.next() => return Ok(()),
    };
    mesh.introduce(&config, &screen);
    config.skipped.iter().chain(&warning).for_each(|line| screen.say(line));
    mesh.node.workloads().warn(warning.into_iter().collect());
    let mut services = Services::new(&config, &mesh, &screen);
    let outcome = tokio::select! {
        outcome = services.run() => outcome,
        _ = stop.next() => Ok(()),
    };
    screen.say("stopping (Ctrl-C again kills everything)");
    let workloads = mesh.node.workloads().clone();
    let stopping = async {
        mesh.rest_runs().await;
        // What `tulle run` has started calls the services, more often than not.
        workloads.end_owned().await;
        services.stop(STOP_DEADLINE).await;
    };
    tokio::select! {
        () = stopping => {}
        _ = stop.next() => {
            screen.say("killing everything");
            tokio::join!(services.kill(), workloads.kill_owned());
        }
    }
    drop(services);
    drop(workloads);
    mesh.stop().await;
    if outcome.is_ok() {
        screen.say("stopped");
    }
    tokio::select! {
        () = screen.finished() => {}
        _ = stop.next() => {}
    }
    outcome
}
