//! The `tulle` binary: one file a command.

mod client;
#[cfg(test)]
mod command_line;
mod commands;
mod completion;
mod diagnostic;
#[cfg(test)]
mod documented;
mod exit;
mod fake_service;
mod foreign;
mod harmless;
mod home;
mod limits;
mod manifest;
mod mesh_objects;
mod no_node;
mod output;
mod printer;
mod room;
mod selection;
mod service_manager;
mod signals;
mod terminal;
mod units;
mod up;
mod watching;

use std::io::IsTerminal;
use std::panic::resume_unwind;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::exit::{EXIT_CODES, Result};
use crate::printer::{LAST_WORDS, Printer};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A service mesh in one binary
#[derive(Parser)]
#[command(name = "tulle", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    /// Say more on stderr (twice: even more); RUST_LOG sets it finely
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole mesh on this machine, as DIR/tulle.yaml says
    Up(up::UpArgs),
    /// Show the processes of the running `tulle up`, and what is wrong with those that are not well
    Ps(commands::services::PsArgs),
    /// Start services of the running `tulle up` that were stopped
    Start(commands::services::ServicesArgs),
    /// Drain and stop services of the running `tulle up`, until they are started again
    Stop(commands::services::ServicesArgs),
    /// Drain services of the running `tulle up` and start them anew, one process at a time
    Restart(commands::services::ServicesArgs),
    /// Set how many processes services of the running `tulle up` have
    Scale(commands::services::ScaleArgs),
    /// Open a service of the running `tulle up` in a browser
    Open(commands::open::OpenArgs),
    /// Run a command as a process of a service of the running `tulle up` does
    Exec(commands::exec::ExecArgs),
    /// Follow what the running `tulle up` says; Ctrl-C leaves it running
    Attach(commands::logs::AttachArgs),
    /// Stop the running `tulle up`
    Down(commands::services::DownArgs),
    /// Run a process as a workload of this host's node
    Run(commands::run::RunArgs),
    /// Run the control plane
    Server(commands::server::ServerArgs),
    /// Run this host's part of a mesh
    Node(commands::node::NodeArgs),
    /// List objects
    Get(commands::get::GetArgs),
    /// Show all about objects
    Describe(commands::describe::DescribeArgs),
    /// Make the mesh have what files describe
    Apply(commands::apply::ApplyArgs),
    /// Show what `apply` would change
    Diff(commands::diff::DiffArgs),
    /// Remove objects
    Delete(commands::delete::DeleteArgs),
    /// Share the traffic of a Service out among Services, and show how each fares
    Split(commands::split::SplitArgs),
    /// Show what becomes of a request, and which field of which object decides
    Explain(commands::explain::ExplainArgs),
    /// Say who may enter what, and which policy decides
    Auth(commands::auth::AuthArgs),
    /// Make policies of the traffic seen, and say what a change of policies would change
    Policy(commands::policy::PolicyArgs),
    /// Show workflows, and start and follow their runs
    Flow(commands::flow::FlowArgs),
    /// Write a first tulle.yaml, of a compose file or a Procfile where there is one
    Init(commands::init::InitArgs),
    /// Look for errors in files, with no server
    Validate(commands::validate::ValidateArgs),
    /// Print a JSON Schema of a file, for editors
    Schema(commands::schema::SchemaArgs),
    /// Show nodes, services and workloads: what is ready, and why the rest is not
    Status(commands::status::StatusArgs),
    /// Show what the services of `tulle up` have said
    Logs(commands::logs::LogsArgs),
    /// Show who calls whom
    Edges(commands::edges::EdgesArgs),
    /// Let nodes join
    Token(commands::token::TokenArgs),
    /// Make people and tools known to the API
    User(commands::user::UserArgs),
    /// Show who changed what, and who was refused
    Audit(commands::audit::AuditArgs),
    /// Show what an object was, who changed it and when
    History(commands::history::HistoryArgs),
    /// Make an object what it was
    Rollback(commands::history::RollbackArgs),
    /// Serve HTTP and gRPC, and call others: a service to try a mesh with
    FakeService(fake_service::FakeServiceArgs),
    /// Print the version
    Version,
    /// Print completions for a shell
    #[command(after_help = "\
In bash, such as in ~/.bashrc: source <(tulle completions bash)
In zsh, in ~/.zshrc, after compinit: source <(tulle completions zsh)
In fish, in ~/.config/fish/config.fish: tulle completions fish | source

Names of objects, namespaces and services are asked of the mesh that runs.")]
    Completions {
        /// The shell to print them for
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    // Nobody types this one. It is started by a runner of flows, with little memory, and needs nothing of what follows.
    if std::env::args_os().nth(1).is_some_and(|command| command == tulle_flow::evaluator::COMMAND) {
        return tulle_flow::serving::serve();
    }
    // Every TLS connection and every key of this process uses this provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    completion::answer();
    let command = Cli::command().mut_subcommands(|command| exit::with_codes(command, ""));
    let matches = command.try_get_matches().unwrap_or_else(|error| foreign::explained(error).exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    log(cli.verbose);
    let outcome = run(cli.command);
    if let Some(log) = LazyLock::get(&LOG) {
        log.finish(LAST_WORDS);
    }
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn log(verbose: u8) {
    // Access logs are asked for in the configuration.
    let default = ["warn,tulle::access=info", "info,tulle=debug", "debug"][usize::from(verbose).min(2)];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(color);
    subscriber.with_writer(|| LogLine(&LOG)).init();
}

/// Where the log goes: threads that serve traffic write it, too, and must not wait for its reader.
static LOG: LazyLock<Printer> = LazyLock::new(|| Printer::new(std::io::stderr()));

/// Takes one line of the log.
struct LogLine<'p>(&'p Printer);

impl std::io::Write for LogLine<'_> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.print(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One thread is enough for everything but the mesh itself.
fn small_runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// For server and node; the data path has threads of its own.
fn control_runtime() -> Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(threads).thread_name("tulle-control").enable_all().build()?)
}

fn run(command: Command) -> Result<ExitCode> {
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    let small =
        |future: std::pin::Pin<Box<dyn Future<Output = Result<()>>>>| done(small_runtime()?.block_on(future));
    if matches!(command, Command::Up(_) | Command::Server(_) | Command::Node(_))
        && let Err(error) = tulle_sys::descriptors::raise()
    {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    match command {
        Command::Up(args) => {
            let runtime = control_runtime()?;
            // Not on this thread, which would be woken up by another one each time.
            done(
                runtime
                    .block_on(runtime.spawn(up::run(args)))
                    .unwrap_or_else(|e| resume_unwind(e.into_panic())),
            )
        }
        Command::Ps(args) => small(Box::pin(commands::services::ps(args))),
        Command::Start(args) => small(Box::pin(commands::services::start(args))),
        Command::Stop(args) => small(Box::pin(commands::services::stop(args))),
        Command::Restart(args) => small(Box::pin(commands::services::restart(args))),
        Command::Scale(args) => small(Box::pin(commands::services::scale(args))),
        Command::Open(args) => small(Box::pin(commands::open::run(args))),
        Command::Exec(args) => small_runtime()?.block_on(commands::exec::run(args)),
        Command::Attach(args) => small(Box::pin(commands::logs::attach(args))),
        Command::Down(args) => small(Box::pin(commands::services::down(args))),
        Command::Run(args) => small_runtime()?.block_on(commands::run::run(args)),
        Command::Server(args) => done(control_runtime()?.block_on(commands::server::run(args))),
        Command::Node(args) => done(control_runtime()?.block_on(commands::node::run(args))),
        Command::Version => done(output::print(&format!("tulle {}\n", env!("CARGO_PKG_VERSION")))),
        Command::Completions { shell } => done(output::print(&completion::script(shell)?)),
        Command::Get(args) => small(Box::pin(commands::get::run(args))),
        Command::Describe(args) => small(Box::pin(commands::describe::run(args))),
        Command::Apply(args) => small(Box::pin(commands::apply::run(args))),
        Command::Diff(args) => {
            let differs = small_runtime()?.block_on(commands::diff::run(args));
            // 1 says that there is a difference.
            let differs = differs.map_err(|failure| match failure.exit {
                exit::Exit::Failure => failure.exit(exit::Exit::Input),
                _ => failure,
            });
            Ok(ExitCode::from(u8::from(differs?)))
        }
        Command::Delete(args) => small(Box::pin(commands::delete::run(args))),
        Command::Split(args) => small(Box::pin(commands::split::run(args))),
        Command::Explain(args) => small(Box::pin(commands::explain::run(args))),
        Command::Auth(args) => {
            let may = small_runtime()?.block_on(commands::auth::run(args))?;
            // 1 says that it may not.
            Ok(ExitCode::from(u8::from(!may)))
        }
        Command::Policy(args) => {
            let found = small_runtime()?.block_on(commands::policy::run(args))?;
            // 1 says that something would change.
            let changes = matches!(found, commands::policy::Found::Impact(true));
            Ok(ExitCode::from(u8::from(changes)))
        }
        Command::Flow(args) => small(Box::pin(commands::flow::run(args))),
        Command::Init(args) => done(commands::init::run(&args)),
        Command::Validate(args) => done(commands::validate::run(args)),
        Command::Schema(args) => done(commands::schema::run(&args)),
        Command::Status(args) => small(Box::pin(commands::status::run(args))),
        Command::Logs(args) => done(commands::logs::run(args)),
        Command::Edges(args) => small(Box::pin(commands::edges::run(args))),
        Command::Token(args) => small(Box::pin(commands::token::run(args))),
        Command::User(args) => small(Box::pin(commands::user::run(args))),
        Command::Audit(args) => small(Box::pin(commands::audit::run(args))),
        Command::History(args) => small(Box::pin(commands::history::history(args))),
        Command::Rollback(args) => small(Box::pin(commands::history::rollback(args))),
        Command::FakeService(args) => done(small_runtime()?.block_on(fake_service::run(args))),
    }
}
