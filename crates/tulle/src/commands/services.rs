//! Commands for a running `tulle up`: `ps`, `start`, `stop`, `restart`, `scale`, `down`.

use std::path::Path;
use std::time::{Duration, Instant};

use anstyle::AnsiColor;
use clap::Args;
use serde_json::Value;
use tulle_model::legible::legible;
use tulle_node::process_state::LastExit;
use tulle_sys::family::Member;

use crate::exit::{Exit, Failure, Result};
use crate::home::HomeArgs;
use crate::output::{Cell, ReportFormat, Table, age, print, print_json, print_yaml, without_middle};
use crate::terminal;
use crate::up::UpClient;
use crate::up::config::unknown_service;
use crate::up::control::{Do, UpStatus};
use crate::up::standing::{Standing, State};
use crate::watching::{Showing, WatchArgs};

/// How long `down` waits for the end of all, before it says that it goes on.
const DOWN_DEADLINE: Duration = Duration::from_secs(120);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub struct PsArgs {
    /// Of these services alone
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    home: HomeArgs,
}

pub async fn ps(args: PsArgs) -> Result<()> {
    let value = |status: &UpStatus| serde_json::to_value(status).unwrap_or(Value::Null);
    let text = |status: &UpStatus| render(status, now_ms(), terminal::width(std::io::stdout()));
    if args.watch.watch {
        let look = async || {
            let status = of_services(&args).await?;
            Showing::of(args.output, &value(&status), || Ok(text(&status)))
        };
        return args.watch.run(args.output, look).await;
    }
    let status = of_services(&args).await?;
    match args.output {
        ReportFormat::Json => print_json(&value(&status)),
        ReportFormat::Yaml => print_yaml(&value(&status)),
        ReportFormat::Table | ReportFormat::Wide => print(&text(&status)),
    }
}

/// How the services are that are asked about.
async fn of_services(args: &PsArgs) -> Result<UpStatus> {
    let mut status: UpStatus = UpClient::new(&args.home.path()?).status().await?;
    if !args.services.is_empty() {
        for name in &args.services {
            known(&status, name)?;
        }
        status.processes.retain(|process| args.services.contains(&process.service));
        status.published.retain(|port| args.services.contains(&port.service));
        status.services.retain(|name| args.services.contains(name));
    }
    Ok(status)
}

/// In milliseconds since the epoch.
pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// A service that is there.
pub fn known(status: &UpStatus, name: &str) -> Result<()> {
    let names: Vec<&str> = status.services.iter().map(String::as_str).collect();
    if names.contains(&name) { Ok(()) } else { Err(unknown_service(name, &names)) }
}

/// In lines of at most `width` columns.
fn render(status: &UpStatus, now: u64, width: Option<usize>) -> String {
    let mut table = Table::new(["NAME", "STATE", "SINCE", "RESTARTS", "LAST EXIT", "PID", "PORTS"]);
    for process in &status.processes {
        let ago = |at: u64| age(now.saturating_sub(at) / 1000);
        let exit = process.last_exit.as_ref();
        let ports: Vec<_> = process.ports.iter().map(u16::to_string).collect();
        table.row([
            Cell::from(process.name.clone()),
            state_cell(process.state),
            Cell::from(ago(process.since_ms)),
            Cell::from(process.restarts.to_string()),
            Cell::from(exit.map_or_else(String::new, |exit| {
                format!("{} ({} ago)", exit.short(), ago(exit.finished_at_ms))
            })),
            Cell::from(process.pid.map_or_else(String::new, |pid| pid.to_string())),
            Cell::from(ports.join(",")),
        ]);
    }
    let mut text = if status.processes.is_empty() { String::new() } else { table.render() };
    for port in &status.published {
        text += &format!("{}\n", terminal::wrap(&port.to_string(), width, 2));
    }
    for name in status.services.iter().filter(|name| !status.processes.iter().any(|p| p.service == **name)) {
        text += &format!("{name} has no process (`tulle scale {name}=1` gives it one)\n");
    }
    if let Some(why) = &status.refused {
        let line =
            format!("tulle.yaml has changed, and is not taken: {} (`tulle validate` says all)", legible(why));
        text += &format!("{}\n", terminal::wrap(&line, width, 2));
    }
    let unwell: Vec<_> = status.processes.iter().filter(|process| !process.state.is_well()).collect();
    let doubtful = status.processes.iter().filter(|p| p.state == State::Ready && !p.reason.is_empty());
    for process in doubtful.chain(unwell.iter().copied()) {
        text += &told(process, now, width);
    }
    text += &match unwell.len() {
        0 if status.refused.is_some() => "all processes are well, as the file was before\n".to_owned(),
        0 => "all is well\n".to_owned(),
        1 => "1 process is not well\n".to_owned(),
        count => format!("{count} processes are not well\n"),
    };
    text
}

/// A state in its colour.
pub fn state_cell(state: State) -> Cell {
    let color = match state {
        State::Ready | State::Completed => AnsiColor::Green,
        State::Stopped => AnsiColor::BrightBlack,
        State::Failed => AnsiColor::Red,
        State::NotReady | State::Waiting | State::Restarting => AnsiColor::Yellow,
    };
    Cell::styled(state.word(), color.on_default())
}

/// Why a process is not well, what to do about it, and what it said at last, in lines of at most `width` columns.
pub fn told(process: &Standing, now: u64, width: Option<usize>) -> String {
    let line = format!("{}: {}{}", process.name, legible(&what(process, now)), fix(process));
    let mut text = format!("{}\n", terminal::wrap(&line, width, 2));
    for line in said_at_last(process) {
        let room = width.map_or(usize::MAX, |width| width.saturating_sub(LAST_LINE.len()));
        text += &format!("{LAST_LINE}{}\n", without_middle(&legible(line), room));
    }
    text
}

/// What comes before each line that a process said before it ended.
const LAST_LINE: &str = "  | ";

/// What a process that has ended said at last.
fn said_at_last(process: &Standing) -> impl Iterator<Item = &String> {
    let is_told = matches!(process.state, State::Failed | State::Restarting | State::NotReady);
    process.last_lines.iter().filter(move |line| is_told && !line.trim().is_empty())
}

/// Why a process is not well.
fn what(process: &Standing, now: u64) -> String {
    // What could not be started says so itself.
    let told =
        |exit: &LastExit| if exit.message.is_empty() { format!("it {exit}") } else { exit.to_string() };
    let exit = process.last_exit.as_ref().map(told).unwrap_or_default();
    match (process.state, process.next_start_ms) {
        (State::Restarting, Some(next)) => {
            format!("{exit}; starting again in {:.1} s", next.saturating_sub(now) as f64 / 1000.0)
        }
        (State::Failed, _) => format!("{exit}, and does not start again"),
        _ if process.reason.is_empty() => process.state.word().to_owned(),
        _ => process.reason.clone(),
    }
}

/// What to do about it, where a `tulle up` has it.
fn fix(process: &Standing) -> String {
    let service = &process.service;
    match process.state {
        _ if service.is_empty() => String::new(),
        State::Failed => format!(" (once mended: `tulle restart {service}`)"),
        State::Restarting | State::NotReady => format!(" (what it says: `tulle logs {service}`)"),
        _ => String::new(),
    }
}

#[derive(Debug, Args)]
pub struct ServicesArgs {
    /// Which services of the running `tulle up`
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<String>,
    #[command(flatten)]
    home: HomeArgs,
}

#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// How many processes a service is to have: web=5
    #[arg(value_name = "SERVICE=NUMBER", required = true, value_parser = parse_scale)]
    services: Vec<(String, u32)>,
    #[command(flatten)]
    home: HomeArgs,
}

fn parse_scale(text: &str) -> std::result::Result<(String, u32), String> {
    let (name, number) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no number: such as {text}=3"))?;
    let replicas = number.parse().map_err(|_| format!("`{number}` is no number of processes"))?;
    Ok((name.to_owned(), replicas))
}

pub async fn start(args: ServicesArgs) -> Result<()> {
    each(&args.home.path()?, args.services.into_iter().map(|name| (name, Do::Start)).collect(), "started")
        .await
}

pub async fn stop(args: ServicesArgs) -> Result<()> {
    each(&args.home.path()?, args.services.into_iter().map(|name| (name, Do::Stop)).collect(), "stopped")
        .await
}

pub async fn restart(args: ServicesArgs) -> Result<()> {
    let wanted = args.services.into_iter().map(|name| (name, Do::Restart)).collect();
    each(&args.home.path()?, wanted, "restarted").await
}

pub async fn scale(args: ScaleArgs) -> Result<()> {
    let wanted = args.services.into_iter().map(|(name, replicas)| (name, Do::Scale(replicas))).collect();
    each(&args.home.path()?, wanted, "scaled").await
}

/// Has something done with each, all at the same time. All names are looked at before anything is done.
async fn each(home: &Path, wanted: Vec<(String, Do)>, done: &str) -> Result<()> {
    let client = UpClient::new(home);
    let status = client.status().await?;
    for (name, _) in &wanted {
        known(&status, name)?;
    }
    let began = Instant::now();
    let all = wanted.iter().map(async |(name, what)| (name, client.with_service(name, *what).await));
    let mut failure = None;
    for (name, outcome) in futures_util::future::join_all(all).await {
        match outcome {
            Ok(true) => print(&format!("{name} {done} ({:.1} s)\n", began.elapsed().as_secs_f64()))?,
            Ok(false) => {
                let why = format!("{name} is not {done} yet, and goes on: `tulle ps {name}` says why");
                failure = failure.or(Some(Failure::new(why)));
            }
            Err(failed) => failure = failure.or(Some(failed)),
        }
    }
    failure.map_or(Ok(()), Err)
}

#[derive(Debug, Args)]
pub struct DownArgs {
    /// Forget the mesh as well: its objects, certificates, virtual addresses and logs
    #[arg(long)]
    state: bool,
    #[command(flatten)]
    home: HomeArgs,
}

pub async fn down(args: DownArgs) -> Result<()> {
    let home = args.home.path()?;
    let client = UpClient::new(&home);
    let process = match client.down().await {
        Ok(process) => process,
        Err(failure) if failure.exit == Exit::Unreachable && args.state => None,
        Err(failure) => return Err(failure),
    };
    let end = Instant::now() + DOWN_DEADLINE;
    while process.is_some_and(Member::is_alive) {
        if Instant::now() >= end {
            return Err(
                Failure::new("it has not stopped yet, and goes on").help("`tulle ps` says what is left")
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    if process.is_some() {
        print("stopped\n")?;
    }
    if args.state {
        crate::up::forget(&home).await?;
        print(&format!("the state in {} is gone\n", home.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(processes: Value) -> UpStatus {
        let status = json!({
            "name": "shop", "namespace": "default", "file": "/x/tulle.yaml", "pid": 7, "started": true,
            "services": ["web", "old"], "processes": processes,
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn what_is_not_well_is_said_with_what_to_do() {
        let process = |name: &str, state: &str, more: Value| {
            let mut process =
                json!({ "service": name, "name": name, "state": state, "sinceMs": 1_000, "ports": [80] });
            for (field, value) in more.as_object().unwrap() {
                process[field] = value.clone();
            }
            process
        };
        let exit = json!({ "exitCode": 1, "finishedAtMs": 59_000 });
        let well = status(json!([
            process("web", "ready", json!({ "pid": 12 })),
            process("old", "stopped", json!({}))
        ]));
        let text = render(&well, 61_000, None);
        assert!(text.contains("web") && text.ends_with("all is well\n"), "{text}");
        let text = render(
            &status(json!([
                process("db", "not-ready", json!({ "reason": "its probe fails (3 of 3): x\u{1b}[2Jy" })),
                process("migrate", "failed", json!({ "lastExit": exit })),
                process("api", "waiting", json!({ "reason": "waits for migrate" })),
                process(
                    "web",
                    "restarting",
                    json!({ "lastExit": exit, "nextStartMs": 63_500, "lastLines": ["a\u{1b}[2J", " ", "why"] }),
                ),
            ])),
            61_000,
            None,
        );
        for line in [
            "db: its probe fails (3 of 3): x^[[2Jy (what it says: `tulle logs db`)",
            "migrate: it ended with code 1, and does not start again (once mended: `tulle restart migrate`)",
            "api: waits for migrate\n",
            "web: it ended with code 1; starting again in 2.5 s (what it says: `tulle logs web`)\n  | a^[[2J\n  | why\n",
            "4 processes are not well",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(known(&well, "web").is_ok());
        let failure = known(&well, "wep").unwrap_err();
        assert_eq!(
            (failure.exit, failure.to_string().contains("did you mean `web`")),
            (Exit::NotFound, true)
        );
        assert_eq!(parse_scale("web=3"), Ok(("web".to_owned(), 3)));
        assert!(parse_scale("web").is_err() && parse_scale("web=x").is_err());
    }
}
