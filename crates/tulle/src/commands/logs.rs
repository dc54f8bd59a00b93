//! `tulle logs`: what the services of `tulle up` have said, and go on to say.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, StdoutLock, Write};
use std::path::Path;
use std::time::Duration;

use anstyle::Style;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use tulle_model::validate::suggest::did_you_mean;
use tulle_sys::family::Member;

use crate::exit::{Exit, Failure, Result};
use crate::home::HomeArgs;
use crate::output::{json_line, note};
use crate::terminal;
use crate::units::parse_duration;
use crate::up::UpClient;
use crate::up::log::SERVICE as MESH;
use crate::up::log::files::{self, PART, PARTS};
use crate::up::log::reader::{Gap, LogWish, Merged, WantedLog, replicas};
use crate::up::log::record::{Record, Said, time};
use crate::up::prefix::{Prefixes, STATE, bare};

/// How many lines of before are shown of each service by who attaches.
const ATTACH_TAIL: usize = 10;
/// How often it is looked for more.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tulle logs -f --tail 20 web      the last 20 lines of web, and what comes
  tulle logs --since 10m web-1     of one process of web, of the last ten minutes
  tulle logs tulle                 what the mesh itself has said")]
pub struct LogsArgs {
    /// Services, or processes such as web-1 [default: all, and the mesh itself: tulle]
    #[arg(value_name = "SERVICE|PROCESS")]
    names: Vec<String>,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// From then on: a time such as 10m before now, or such as 2026-03-01T09:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Up to then
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "follow")]
    until: Option<Timestamp>,
    /// The last so many lines of each service, or `all`
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = parse_tail, default_value = "all")]
    tail: usize,
    /// Show when each line was said
    #[arg(short, long)]
    timestamps: bool,
    /// Leave out who says it
    #[arg(long)]
    no_prefix: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: LogFormat,
    #[command(flatten)]
    home: HomeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum LogFormat {
    /// Lines as `tulle up` prints them
    #[default]
    Text,
    /// An object a line, with texts as they were said
    Json,
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let expected =
        || format!("`{text}` is no time: expected one such as 10m (before now), or 2026-03-01T09:00:00Z");
    if let Ok(ago) = parse_duration(text) {
        return Timestamp::now().checked_sub(ago).map_err(|_| expected());
    }
    text.parse().map_err(|_| expected())
}

/// All are as many as there can be.
fn parse_tail(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        _ => text.parse().map_err(|_| format!("`{text}` is no number of lines: expected one, or `all`")),
    }
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Services, or processes such as web-1 [default: all, and the mesh itself: tulle]
    #[arg(value_name = "SERVICE|PROCESS")]
    names: Vec<String>,
    #[command(flatten)]
    home: HomeArgs,
}

/// Follows what the mesh says until it has ended.
pub async fn attach(AttachArgs { names, home }: AttachArgs) -> Result<()> {
    let status = UpClient::new(&home.path()?).status().await?;
    let (timestamps, no_prefix, output) = (false, false, LogFormat::Text);
    let tail = ATTACH_TAIL;
    let args =
        LogsArgs { names, follow: true, since: None, until: None, tail, timestamps, no_prefix, output, home };
    show(&args, Member::of(status.pid))
}

pub fn run(args: LogsArgs) -> Result<()> {
    show(&args, None)
}

/// `of`: it ends with this process.
fn show(args: &LogsArgs, of: Option<Member>) -> Result<()> {
    let folder = files::folder(&args.home.path()?);
    let cannot = |error: io::Error| {
        let failure = Failure::new(format!("cannot read {}: {error}", folder.display()));
        match error.kind() {
            ErrorKind::PermissionDenied => {
                failure.help("only who runs `tulle up` may, and root: `sudo tulle logs`")
            }
            _ => failure,
        }
    };
    let there = match files::services(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        other => other.map_err(cannot)?,
    };
    if there.is_empty() {
        return Err(Failure::new(format!("there are no logs in {}", folder.display()))
            .exit(Exit::NotFound)
            .help("`tulle up` keeps there what services say; that of another folder: --home DIR"));
    }
    let wanted = select(&folder, &there, &args.names)?;
    let wish = LogWish {
        since: args.since.map(time),
        until: args.until.map(time),
        tail: Some(args.tail).filter(|tail| *tail < usize::MAX),
        follow: args.follow,
    };
    let mut shown = Shown::new(args, &folder, &there);
    let mut merged = Merged::open(&folder, wanted, wish).map_err(cannot)?;
    loop {
        // What it said last is shown after its end.
        let has_ended = of.is_some_and(|process| !process.is_alive());
        shown.all(&mut merged).map_err(|error| match error {
            Broken::Log(error) => cannot(error),
            Broken::Output(failure) => failure,
        })?;
        if !args.follow || has_ended {
            return Ok(());
        }
        std::thread::sleep(LOOK);
        // Of services that are named, all are there.
        if args.names.is_empty() {
            for service in files::services(&folder).unwrap_or_default() {
                if !merged.has(&service) {
                    merged.add(WantedLog { service, ..WantedLog::default() }).map_err(cannot)?;
                }
            }
        }
    }
}

/// What is meant by the names: services, and processes of theirs.
fn select(folder: &Path, there: &[String], names: &[String]) -> Result<Vec<WantedLog>> {
    let whole = |service: &str| WantedLog { service: service.to_owned(), ..WantedLog::default() };
    if names.is_empty() {
        return Ok(there.iter().map(|service| whole(service)).collect());
    }
    let mut wanted: Vec<WantedLog> = Vec::new();
    for name in names {
        let service = there.iter().find(|service| *service == name);
        let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        let of = || {
            name.rsplit_once('-').filter(|(_, n)| is_number(n) || *n == "init").map(|(service, _)| service)
        };
        // Of a mesh with other hosts, its names say which one they are of.
        let on_host = || {
            let may_be = there
                .iter()
                .filter(|s| name.strip_prefix(s.as_str()).is_some_and(|rest| rest.starts_with('-')));
            may_be.into_iter().find(|s| replicas(folder, s).is_ok_and(|all| all.contains(name)))
        };
        let named = service.or_else(|| there.iter().find(|s| of() == Some(s))).or_else(on_host);
        let (service, replica) = match named {
            Some(service) if service == name => (service, None),
            Some(service) => {
                let processes = replicas(folder, service)?;
                // The first of a service that had one alone when it started is called as that.
                let is_first = name.strip_suffix("-0") == Some(service) && processes.contains(service);
                if is_first && !processes.contains(name) {
                    (service, Some(service.clone()))
                } else if !processes.contains(name) {
                    let why = format!("service {service} has no process `{name}`");
                    return Err(unknown(&why, name, &processes));
                } else {
                    (service, Some(name.clone()))
                }
            }
            None => {
                let services = there.iter().cloned().collect();
                return Err(unknown(&format!("there is no service `{name}`"), name, &services));
            }
        };
        match (wanted.iter_mut().find(|w| w.service == *service), replica) {
            // All of a service is more than some of it.
            (Some(known), None) => known.replicas.clear(),
            (Some(known), Some(_)) if known.replicas.is_empty() => {}
            (Some(known), Some(replica)) => drop(known.replicas.insert(replica)),
            (None, replica) => {
                wanted.push(WantedLog { service: service.clone(), replicas: replica.into_iter().collect() });
            }
        }
    }
    Ok(wanted)
}

fn unknown(what: &str, name: &str, there: &BTreeSet<String>) -> Failure {
    let meant = did_you_mean(name, there.iter().map(String::as_str));
    let names: Vec<_> = there.iter().map(String::as_str).collect();
    Failure::new(format!("{what}{meant}"))
        .exit(Exit::NotFound)
        .help(format!("there are logs of {}", names.join(", ")))
}

enum Broken {
    Log(io::Error),
    Output(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Output(failure)
    }
}

/// An object of `-o json`.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    service: &'a str,
    replica: &'a str,
    stream: &'a str,
    text: &'a str,
}

/// Prints lines.
struct Shown {
    prefixes: Prefixes,
    colored: bool,
    timestamps: bool,
    prefixed: bool,
    format: LogFormat,
    output: io::BufWriter<StdoutLock<'static>>,
}

impl Shown {
    fn new(args: &LogsArgs, folder: &Path, there: &[String]) -> Self {
        let mut prefixes = Prefixes::new();
        // The colours are those that `tulle up` has given them.
        let known = files::read_services(folder).into_iter();
        let known = known.filter(|(service, _)| there.contains(service));
        let others = there.iter().map(|service| (service.clone(), service.len()));
        known.chain(others).for_each(|(service, longest)| prefixes.add(&service, longest));
        let colored = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        Self {
            prefixes,
            colored,
            timestamps: args.timestamps,
            prefixed: !args.no_prefix,
            format: args.output,
            output: io::BufWriter::with_capacity(64 << 10, io::stdout().lock()),
        }
    }

    /// Prints what is there.
    fn all(&mut self, merged: &mut Merged) -> std::result::Result<(), Broken> {
        loop {
            for gap in merged.gaps() {
                // It is missing before what comes next.
                self.flush()?;
                note(&missing(&gap));
            }
            let Some((service, record)) = merged.next().map_err(Broken::Log)? else { break };
            let line = self.line(service, &record)?;
            unless_gone(self.output.write_all(line.as_bytes()))?;
        }
        self.flush()?;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        unless_gone(self.output.flush())
    }

    fn line(&self, service: &str, record: &Record<'_>) -> Result<String> {
        let Record { time, replica, said, text } = record;
        if self.format == LogFormat::Json {
            let line = Line { time, service, replica, stream: said.word(), text };
            return Ok(json_line(&line)? + "\n");
        }
        let time = if self.timestamps { format!("{time} ") } else { String::new() };
        let (own, style) = match said {
            Said::State if service == MESH => (text.to_string(), Style::new()),
            Said::State => (format!("• {text}"), STATE),
            _ => (String::new(), Style::new()),
        };
        let lines = match (said, self.prefixed) {
            // As `tulle up` has it.
            (Said::State, true) => {
                self.prefixes.own_lines(service, replica, (&own, style), self.colored, time.len())
            }
            (Said::State, false) => {
                let room = terminal::width(io::stdout()).map(|width| width.saturating_sub(time.len()));
                let lines = terminal::wrap(&own, room, 2);
                lines.split('\n').map(|line| bare(&format!("{style}{line}{style:#}"), self.colored)).collect()
            }
            (_, true) => vec![self.prefixes.line(service, replica, text, self.colored)],
            (_, false) => vec![bare(text, self.colored)],
        };
        Ok(lines.iter().map(|line| format!("{time}{line}")).collect())
    }
}

/// A reader that has seen enough (`| head`) ends the process quietly.
fn unless_gone(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

fn missing(gap: &Gap) -> String {
    let Gap { service, lines, is_old } = gap;
    match is_old {
        true => {
            let kept = (PARTS as u64 * PART) >> 20;
            format!("({lines} older lines of {service} are gone: {kept} MiB of a service are kept)")
        }
        false => {
            format!("({lines} lines of {service} are missing here: they were gone before they were read)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::read;
    use crate::up::log::record::rest;

    fn write(folder: &Path, service: &str, lines: &[(&str, &str, Said, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        let line = |(time, replica, said, text): &(&str, &str, Said, &str)| {
            let mut line = format!("{time} ").into_bytes();
            line.extend(rest(replica, *said, text));
            line
        };
        let lines: Vec<_> = lines.iter().flat_map(line).collect();
        std::fs::write(files::path(folder, service, 0), lines).unwrap();
    }

    #[test]
    fn names_are_services_or_processes() {
        let home = tempfile::tempdir().unwrap();
        let at = "2026-03-01T09:00:00.000123Z";
        let of = |replica| [(at, replica, Said::Output, "")];
        write(home.path(), "web", &[of("web-0"), of("web-1")].concat());
        write(home.path(), "api-2", &of("api-2"));
        let there = files::services(home.path()).unwrap();
        let select = |names: &[&str]| {
            select(home.path(), &there, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        let wanted = |service: &str, replicas: &[&str]| WantedLog {
            service: service.to_owned(),
            replicas: replicas.iter().map(|r| (*r).to_owned()).collect(),
        };
        let both = [wanted("api-2", &[]), wanted("web", &[])];
        assert_eq!(select(&[]).unwrap(), both);
        assert_eq!(select(&["api-2", "web-1", "web"]).unwrap(), both);
        assert_eq!(select(&["web", "web-1"]).unwrap(), [wanted("web", &[])]);
        assert_eq!(select(&["web-1", "web-0"]).unwrap(), [wanted("web", &["web-0", "web-1"])]);
        let error = |name| select(&[name]).unwrap_err().to_string();
        assert_eq!(
            error("wbe"),
            "there is no service `wbe`; did you mean `web`?\nhelp: there are logs of api-2, web"
        );
        assert_eq!(
            error("web-7"),
            "service web has no process `web-7`; did you mean `web-0`?\nhelp: there are logs of web-0, web-1"
        );
    }

    #[test]
    fn lines_are_shown_as_asked() {
        let home = tempfile::tempdir().unwrap();
        let at = "2026-03-01T09:00:00.000123Z";
        let text = "\x1b[2J\x1b[31mred\r";
        write(home.path(), "web", &[(at, "web-0", Said::Error, text), (at, "web-0", Said::State, "ready")]);
        write(home.path(), MESH, &[(at, MESH, Said::State, "stopped")]);
        let there = files::services(home.path()).unwrap();
        let mut said = String::new();
        for words in [&[][..], &["-t"], &["--no-prefix"], &["-o", "json"]] {
            let args: LogsArgs = read(words).unwrap();
            for colored in [false, true] {
                let shown = Shown { colored, ..Shown::new(&args, home.path(), &there) };
                let wanted = select(home.path(), &there, &[]).unwrap();
                let mut merged = Merged::open(home.path(), wanted, LogWish::default()).unwrap();
                while let Some((service, record)) = merged.next().unwrap() {
                    said += &shown.line(service, &record).unwrap().replace('\x1b', "^[");
                }
            }
        }
        insta::assert_snapshot!(said);
    }

    #[test]
    fn times_and_numbers_are_read() {
        let args: LogsArgs =
            read(&["-f", "-n", "20", "--since", "2026-03-01T09:00:00+01:00", "web"]).unwrap();
        assert_eq!((args.tail, args.since.unwrap().to_string().as_str()), (20, "2026-03-01T08:00:00Z"));
        assert_eq!(read::<LogsArgs>(&["--tail", "all"]).unwrap().tail, usize::MAX);
        for bad in [["--since", "5"], ["--since", "yesterday"], ["--tail", "-1"], ["--tail", "x"]] {
            assert!(read::<LogsArgs>(&bad).is_err(), "{bad:?}");
        }
    }
}
