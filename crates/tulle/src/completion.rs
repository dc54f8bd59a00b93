//! What shells offer at a tab: commands, options, kinds, and what there is in the mesh that runs. That is asked for at
//! this moment; where it does not answer at once, nothing of it is offered, and nothing said.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Command, CommandFactory};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use tulle_model::registry::{self, Kind, KindId};

use crate::client::{Client, JSON, resource};
use crate::exit::{Failure, Result};
use crate::home::HomeArgs;
use crate::up::{UpClient, log};

/// How long the mesh may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// With it, a shell's script says that this is a question about a command line. Another one than other tools' `COMPLETE`: who
/// has that in his environment wants to run `tulle` all the same.
const VARIABLE: &str = "TULLE_COMPLETE";

/// What an argument is to name.
#[derive(Clone, Copy)]
enum Named {
    Namespace,
    /// `KIND[,KIND…] NAME…`, or `KIND/NAME…`
    Objects,
    /// `KIND/NAME`
    Object,
    /// A service of `tulle up`.
    Service,
    /// One whose processes are to be counted: `web=`
    Scaled,
    /// One, or one of its processes.
    Process,
    /// The same, or one that has run.
    Logged,
    Of(KindId),
}

/// By the names of command and argument, `*` for all commands.
const ARGUMENTS: &[(&str, &str, Named)] = &[
    ("*", "namespace", Named::Namespace),
    ("get", "objects", Named::Objects),
    ("describe", "objects", Named::Objects),
    ("delete", "objects", Named::Objects),
    ("history", "object", Named::Object),
    ("rollback", "object", Named::Object),
    ("ps", "services", Named::Service),
    ("start", "services", Named::Service),
    ("stop", "services", Named::Service),
    ("restart", "services", Named::Service),
    ("scale", "services", Named::Scaled),
    ("open", "service", Named::Service),
    ("up", "services", Named::Service),
    ("exec", "name", Named::Process),
    ("attach", "names", Named::Process),
    ("logs", "names", Named::Logged),
    ("split", "service", Named::Of(KindId::Service)),
    ("explain", "from", Named::Of(KindId::Workload)),
    ("check", "from", Named::Of(KindId::Workload)),
    ("show", "flow", Named::Of(KindId::Flow)),
    ("run", "flow", Named::Of(KindId::Flow)),
    ("runs", "flow", Named::Of(KindId::Flow)),
    ("history", "run", Named::Of(KindId::FlowRun)),
    ("suspend", "run", Named::Of(KindId::FlowRun)),
    ("resume", "run", Named::Of(KindId::FlowRun)),
    ("cancel", "run", Named::Of(KindId::FlowRun)),
    ("retry", "run", Named::Of(KindId::FlowRun)),
];

/// Answers a shell and ends, where one asks.
pub fn answer() {
    CompleteEnv::with_factory(|| taught(crate::Cli::command())).var(VARIABLE).complete();
}

/// What a shell has to read to ask.
pub fn script(shell: clap_complete::Shell) -> Result<String> {
    let shells = Shells::builtins();
    let asks = shells.completer(&shell.to_string());
    let asks = asks.ok_or_else(|| Failure::input(format!("there are no completions for {shell}")))?;
    // As it was called: what is no command of the shell is asked where it is.
    let own = std::env::args_os().next().map(PathBuf::from).filter(|own| own.components().count() > 1);
    let own = own.and_then(|own| std::path::absolute(own).ok()).unwrap_or_else(|| "tulle".into());
    let mut script = Vec::new();
    asks.write_registration(VARIABLE, "tulle", "tulle", &own.to_string_lossy(), &mut script)?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The command with what its arguments name.
fn taught(command: Command) -> Command {
    let of = command.get_name().to_owned();
    let named = move |argument: &str| {
        let mut all = ARGUMENTS.iter().filter(|(command, _, _)| *command == "*" || *command == of);
        all.find(|(_, id, _)| *id == argument).map(|(_, _, named)| *named)
    };
    let command = command.mut_args(|argument| match named(argument.get_id().as_str()) {
        Some(named) => argument.add(ArgValueCompleter::new(move |current: &OsStr| offered(named, current))),
        None => argument,
    });
    command.mut_subcommands(taught)
}

fn offered(named: Named, current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let Ok(runtime) = crate::small_runtime() else { return Vec::new() };
    let Some(line) = TypedLine::read(words_before()) else { return Vec::new() };
    let asking = async { tokio::time::timeout(DEADLINE, line.candidates(named, current)).await };
    let mut all = runtime.block_on(asking).ok().flatten().unwrap_or_default();
    all.retain(|candidate| candidate.starts_with(current));
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(CompletionCandidate::new).collect()
}

/// What stands before the word that is being typed, as the scripts of clap_complete say it.
fn words_before() -> Vec<OsString> {
    let mut words: Vec<_> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
    // Without it, it is the last one.
    words.truncate(index.unwrap_or(words.len().saturating_sub(1)));
    words
}

/// What has been typed before.
struct TypedLine {
    /// Of the innermost command.
    matches: ArgMatches,
}

impl TypedLine {
    fn read(words: Vec<OsString>) -> Option<Self> {
        let mut matches = crate::Cli::command().ignore_errors(true).try_get_matches_from(words).ok()?;
        while let Some((_, inner)) = matches.remove_subcommand() {
            matches = inner;
        }
        Some(Self { matches })
    }

    async fn candidates(&self, named: Named, current: &str) -> Option<Vec<String>> {
        match named {
            Named::Namespace => self.names(KindId::Namespace.kind()).await,
            Named::Of(id) => self.names(id.kind()).await,
            Named::Objects | Named::Object => self.objects(current, matches!(named, Named::Object)).await,
            Named::Service => self.processes(|service, _| vec![service]).await,
            Named::Scaled => self.processes(|service, _| vec![service + "="]).await,
            Named::Process => self.processes(|service, process| vec![service, process]).await,
            Named::Logged => match self.processes(|service, process| vec![service, process]).await {
                Some(running) => Some(running),
                None => log::files::services(&log::files::folder(&self.home()?)).ok(),
            },
        }
    }

    async fn objects(&self, current: &str, is_one_word: bool) -> Option<Vec<String>> {
        if let Some((kind, _)) = current.split_once('/') {
            let names = self.names(registry::by_name(kind)?).await?;
            return Some(names.into_iter().map(|name| format!("{kind}/{name}")).collect());
        }
        let words = self.matches.try_get_many::<String>("objects").ok().flatten();
        match words.into_iter().flatten().collect::<Vec<_>>().as_slice() {
            [first, ..] if !is_one_word => {
                let mut names = Vec::new();
                for kind in first.split(',').filter_map(registry::by_name) {
                    names.extend(self.names(kind).await.unwrap_or_default());
                }
                Some(names)
            }
            _ => {
                let before = current.rsplit_once(',').map(|(before, _)| format!("{before},"));
                let before = before.unwrap_or_default();
                let after = if is_one_word { "/" } else { "" };
                Some(registry::names().map(|kind| format!("{before}{kind}{after}")).collect())
            }
        }
    }

    /// The names of a kind's objects, in the namespace that is meant.
    async fn names(&self, kind: &Kind) -> Option<Vec<String>> {
        let client = self.client()?;
        let namespace = self.matches.try_get_one::<String>("namespace").ok().flatten();
        let namespace = namespace.map_or(client.namespace(), String::as_str);
        let list = client.get(&resource(kind, Some(namespace), None), JSON).await.ok()?;
        let items = list["items"].as_array()?.iter();
        Some(items.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// What is made of each process of the running `tulle up`, by its service and its own name.
    async fn processes(&self, offer: impl Fn(String, String) -> Vec<String>) -> Option<Vec<String>> {
        let status = UpClient::new(&self.home()?).status_aside().await?;
        let processes = status.processes.into_iter();
        Some(processes.flat_map(|process| offer(process.service, process.name)).collect())
    }

    fn client(&self) -> Option<Client> {
        let named = self.matches.try_get_one::<PathBuf>("kubeconfig").ok().flatten();
        let path = named.cloned().or_else(|| Some(self.home()?.join("kubeconfig")))?;
        Client::from_kubeconfig(&path, named.is_none()).ok()
    }

    fn home(&self) -> Option<PathBuf> {
        let home = self.matches.try_get_one::<PathBuf>("home").ok().flatten();
        let home = home.cloned().or_else(|| std::env::var_os("TULLE_HOME").map(PathBuf::from));
        HomeArgs::of(home).path().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &Command, found: &mut Vec<(String, String)>) {
        let of = |argument: &clap::Arg| (command.get_name().to_owned(), argument.get_id().to_string());
        found.extend(command.get_arguments().map(of));
        command.get_subcommands().for_each(|inner| arguments(inner, found));
    }

    #[test]
    fn arguments_that_are_completed_are_there() {
        let mut all = Vec::new();
        arguments(&crate::Cli::command(), &mut all);
        for (command, argument, _) in ARGUMENTS {
            let is_it = |(of, id): &(String, String)| id == argument && (*command == "*" || of == command);
            assert!(all.iter().any(is_it), "{command} {argument}");
        }
    }

    fn read(words: &str) -> TypedLine {
        TypedLine::read(words.split(' ').map(Into::into).collect()).unwrap()
    }

    #[test]
    fn a_line_that_is_not_complete_is_read() {
        for words in
            ["get --home /x -n", "get --home /x services -o", "scale --home /x", "flow runs --home /x"]
        {
            assert_eq!(read(&format!("tulle {words}")).home(), Some("/x".into()), "{words}");
        }
    }

    #[tokio::test]
    async fn kinds_are_offered_without_a_mesh() {
        let offered = async |words: &str, named, current: &str| {
            let line = read(words);
            line.candidates(named, current).await.unwrap_or_default()
        };
        let kinds = offered("tulle get", Named::Objects, "ser").await;
        assert!(kinds.iter().any(|kind| kind == "services"), "{kinds:?}");
        let kinds = offered("tulle get", Named::Objects, "svc,http").await;
        assert!(kinds.iter().any(|kind| kind == "svc,httproutes"), "{kinds:?}");
        let kinds = offered("tulle history", Named::Object, "http").await;
        assert!(kinds.iter().any(|kind| kind == "httproutes/"), "{kinds:?}");
        let nowhere = "tulle get --home /nowhere services";
        assert_eq!(offered(nowhere, Named::Objects, "").await, Vec::<String>::new());
        assert_eq!(offered("tulle ps --home /nowhere", Named::Service, "").await, Vec::<String>::new());
    }
}
