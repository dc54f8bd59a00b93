//! Runs the proxies under callgrind and counts what a fixed number of requests costs them.
//!
//! A figure must be the same on a busy machine. What would make it another:
//! - who is on when. Valgrind lets one thread go on at a time, and gives way at system calls. Who goes on
//!   then is settled, too: all processes share one core, and as batch jobs (`chrt --batch`) none is
//!   interrupted by one that it wakes, so a worker goes on until it has nothing to do. Without this,
//!   gRPC calls differed by up to 0.8 % from run to run, with it by 0.1 %;
//! - start-up, handshakes, growing tables and buffers: requests before the window are not counted.
//!
//! Seeds of hash tables, ports and clocks are left as they are: what they change is within those 0.1 %.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::application;
use crate::client::Client;
use crate::kind::Kind;
use crate::rules::Rules;

/// Requests before the window, and in it.
const WARM_UP: u64 = 100;
const COUNTED: u64 = 300;

pub fn run(out: &Path, kinds: &[Kind]) -> Result<()> {
    let kinds = if kinds.is_empty() { Kind::value_variants() } else { kinds };
    let cases = kinds.iter().map(|kind| (kind.name(), kind.name(), *kind, Rules::NoRoute));
    measure_all(out, cases)
}

/// The same for one kind under different rules.
pub fn rules(out: &Path, rules: &[Rules]) -> Result<()> {
    let rules = if rules.is_empty() { Rules::value_variants() } else { rules };
    let of = |rules: &Rules| (rules.name(), format!("rules-{}", rules.name()), Kind::Http1OneNode, *rules);
    measure_all(out, rules.iter().map(of))
}

/// Each with its name, and that of the file of its profile.
fn measure_all(out: &Path, cases: impl Iterator<Item = (String, String, Kind, Rules)>) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    share_one_core().context("the process cannot be bound to one core")?;
    for (name, file, kind, rules) in cases {
        let instructions = measure(kind, rules, &out.join(file)).with_context(|| name.clone())?;
        println!("{name} {instructions}");
    }
    Ok(())
}

/// Binds this process and its children to the first core that it may use.
fn share_one_core() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(first.context("there is none")?)?;
    Ok(sched_setaffinity(this, &one)?)
}

/// The instructions of one request.
fn measure(kind: Kind, rules: Rules, profile: &Path) -> Result<u64> {
    let application = application::start(kind)?;
    let mut command = callgrind(profile)?;
    command.args(["proxies", "--kind", &kind.name(), "--rules", &rules.name()]);
    command.args(["--application", &application.to_string()]);
    let mut proxies = Proxies::start(&mut command)?;
    let entry = proxies.line()?.parse().context("the proxies say no address")?;
    let mut client = Client::new(kind, entry)?;
    for _ in 0..WARM_UP {
        client.request()?;
    }
    proxies.edge_of_window()?;
    for _ in 0..COUNTED {
        client.request()?;
    }
    proxies.edge_of_window()?;
    drop(client);
    proxies.end()?;
    // The first part is what came before the window, the last what came after it.
    let window = part(profile, 2);
    let counted = total(&window).with_context(|| window.display().to_string())?;
    std::fs::rename(&window, profile.with_extension("callgrind"))?;
    for other in [part(profile, 1), profile.to_owned()] {
        let _ = std::fs::remove_file(other);
    }
    Ok(counted / COUNTED)
}

/// The command that runs this program again, counted.
fn callgrind(profile: &Path) -> Result<Command> {
    let mut command = Command::new("chrt");
    command.args(["--batch", "0", "valgrind", "--tool=callgrind", "--quiet", "--fair-sched=yes"]);
    command.arg("--dump-before=*edge_of_window*");
    command.arg(format!("--callgrind-out-file={}", profile.display()));
    command.arg(std::env::current_exe()?);
    Ok(command)
}

fn part(profile: &Path, number: u32) -> PathBuf {
    profile.with_extension(number.to_string())
}

/// The line `totals: N` of what callgrind wrote.
fn total(profile: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(profile)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).context("no total")?;
    Ok(total.trim().parse()?)
}

/// The counted process.
struct Proxies {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Proxies {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("chrt (util-linux) could not be started")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, input, output })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "the proxies have ended");
        Ok(line.trim_end().to_owned())
    }

    fn edge_of_window(&mut self) -> Result<()> {
        self.input.as_mut().context("no input")?.write_all(b"\n")?;
        self.line().map(drop)
    }

    fn end(&mut self) -> Result<()> {
        self.input = None;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the proxies end with {status}");
        }
        Ok(())
    }
}

impl Drop for Proxies {
    /// A failure in between leaves nothing behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
