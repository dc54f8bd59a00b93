//! `tulle exec`: runs a command as a process of a service does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tulle_sys::process::{Confinement, confine};
use tulle_sys::run_as::RunAs;

use super::run::{exit_code, not_started};
use crate::exit::{Failure, Result};
use crate::home::HomeArgs;
use crate::signals::Stop;
use crate::up::UpClient;

#[derive(Debug, Args)]
#[command(after_help = "\
It has the service's variables, user, folder, cgroup and identity, and ends with the service's process when that is \
stopped. Such as: tulle exec web -- npm run migrate")]
pub struct ExecArgs {
    /// A service of the running `tulle up`, or one of its processes, such as web-1
    #[arg(value_name = "SERVICE|PROCESS")]
    name: String,
    /// Run in another folder than the service's
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// What to run
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    home: HomeArgs,
}

pub async fn run(args: ExecArgs) -> Result<ExitCode> {
    let inside = UpClient::new(&args.home.path()?).inside(&args.name).await?;
    let run_as = inside.user.as_deref().map(|user| RunAs::named(user, inside.group.as_deref())).transpose();
    let run_as = run_as.map_err(|e| Failure::new(format!("{}: {e}", args.name)))?;
    let mut command = std::process::Command::new(&args.command[0]);
    command.args(&args.command[1..]).envs(inside.environment);
    command.current_dir(args.workdir.unwrap_or(inside.directory));
    let confinement = Confinement {
        cgroup: inside.cgroup.as_deref(),
        name_service: inside.name_service.as_deref(),
        // It has the terminal, and hears of Ctrl-C itself.
        own_process_group: false,
        run_as: run_as.as_ref(),
        parent_death: Some(Signal::SIGTERM),
    };
    confine(&mut command, confinement)?;
    let mut stop = Stop::new()?;
    let mut command = tokio::process::Command::from(command);
    let mut child = command.spawn().map_err(|error| not_started(&args.command[0], &error))?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(exit_code(status?)),
            signal = stop.next() => {
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
                // Of a Ctrl-C the terminal tells it.
                if let Some(pid) = pid.filter(|_| signal != Signal::SIGINT) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
        }
    }
}
