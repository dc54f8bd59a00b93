//! `tulle flow run`: starts a run, and looks on until it is over.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};
use tulle_model::flow::expression::NESTING;
use tulle_model::flow::fault::Fault;
use tulle_model::json_bounds::is_text_deeper;
use tulle_model::legible::legible;
use tulle_model::name::NamespacedName;
use tulle_model::registry::KindId;

use super::gone_through::{RunHistory, TaskOfRun, TaskState};
use super::history::{fetch, fetch_more, sentence, span, status};
use crate::client::{Client, ClientArgs, resource};
use crate::exit::{Exit, Failure, Result};
use crate::output::{note, print, print_json};
use crate::selection::object_name;

/// How often it is looked at, from a run that has just begun to one that takes long.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_AT_MOST: Duration = Duration::from_secs(1);
/// As shells have it of a command that SIGINT ended.
const INTERRUPTED: i32 = 130;
/// A larger input no run takes.
const LARGEST_INPUT: u64 = 1 << 20;

#[derive(Debug, Args)]
pub struct FlowRunArgs {
    /// The Flow
    #[arg(value_name = "[NAMESPACE/]FLOW")]
    flow: String,
    /// The input: JSON, @FILE, or - for stdin [default: null]
    #[arg(short, long, value_name = "JSON")]
    data: Option<String>,
    /// A name for the run: asked for again under the same one, it is not started twice
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,
    /// Print the name of the run, and do not wait for its end
    #[arg(long)]
    no_wait: bool,
    /// The namespace [default: that of the kubeconfig, or `default`]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: FlowRunArgs) -> Result<()> {
    let input = input(args.data.as_deref())?;
    let client = args.client.client()?;
    let flow = object_name(&args.flow, args.namespace.as_deref().unwrap_or(client.namespace()));
    let mut body = json!({ "input": input });
    if let Some(id) = args.id {
        body["id"] = id.into();
    }
    let flow_path = resource(KindId::Flow.kind(), Some(&flow.namespace), Some(&flow.name));
    let begun = client.post(&format!("{flow_path}/run"), &body).await?;
    let name = begun["metadata"]["name"].as_str().unwrap_or_default();
    let run = NamespacedName::new(&*flow.namespace, name);
    if args.no_wait {
        return print(&format!("{}\n", legible(name)));
    }
    note(&format!("run {}", legible(name)));
    let Some(ended) = unless_interrupted(&run, look_on(&client, &run), interrupted()).await? else {
        note(&goes_on(&run));
        std::process::exit(INTERRUPTED);
    };
    match ended["status"]["state"].as_str() {
        Some("Completed") => print_json(&ended["status"]["output"]),
        Some("Faulted") => {
            let fault: Option<Fault> = serde_json::from_value(ended["status"]["error"].clone()).ok();
            let why = fault.map_or_else(|| "it faulted".to_owned(), |fault| sentence(&fault));
            Err(Failure::new(format!("run {name} faulted: {why}"))
                .help(format!("`tulle flow history {name} -n {}` shows each task", run.namespace)))
        }
        _ => Err(Failure::new(format!("run {name} was cancelled"))),
    }
}

/// The input that is meant.
fn input(data: Option<&str>) -> Result<Value> {
    let Some(data) = data else { return Ok(Value::Null) };
    let read = |mut from: Box<dyn Read>, what: &str| {
        let mut text = String::new();
        let failed = |error: std::io::Error| Failure::input(format!("{what} cannot be read: {error}"));
        from.by_ref().take(LARGEST_INPUT + 1).read_to_string(&mut text).map_err(failed)?;
        match text.len() as u64 > LARGEST_INPUT {
            true => Err(Failure::input(format!("{what} is larger than {} KiB", LARGEST_INPUT >> 10))),
            false => Ok(text),
        }
    };
    let (text, what) = match (data, data.strip_prefix('@')) {
        ("-", _) => {
            (read(Box::new(std::io::stdin()), "the standard input")?, "the standard input".to_owned())
        }
        (_, Some(file)) => {
            let opened = std::fs::File::open(file)
                .map_err(|error| Failure::input(format!("{file} cannot be read: {error}")))?;
            (read(Box::new(opened), file)?, file.to_owned())
        }
        (text, None) => (text.to_owned(), "--data".to_owned()),
    };
    if is_text_deeper(text.as_bytes(), NESTING) {
        let message = format!("{what} has more than {NESTING} arrays and objects within one another");
        return Err(Failure::input(message));
    }
    serde_json::from_str(&text).map_err(|error| {
        Failure::input(format!("{what} is no JSON: {error}"))
            .help("of a file, write -d @FILE; a text needs quotes: -d '\"a\"'")
    })
}

/// What is looked for, or `None` where somebody has had enough. Whoever fails to look on is told that the run goes on.
async fn unless_interrupted(
    run: &NamespacedName,
    looking: impl Future<Output = Result<Value>>,
    interrupted: impl Future<Output = ()>,
) -> Result<Option<Value>> {
    let looked = tokio::select! {
        looked = looking => looked,
        () = interrupted => return Ok(None),
    };
    match looked {
        Ok(ended) => Ok(Some(ended)),
        // Somebody has forgotten it.
        Err(failure) if failure.exit == Exit::NotFound => Err(failure),
        Err(failure) => Err(failure.help(goes_on(run))),
    }
}

fn goes_on(run: &NamespacedName) -> String {
    let (name, namespace) = (legible(&run.name), legible(&run.namespace));
    format!("the run goes on: `tulle flow history {name} -n {namespace}` shows it")
}

/// Waits for Ctrl-C.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler it ends the process, as it does by default.
        std::future::pending().await
    }
}

/// Says what it goes through until it is over.
async fn look_on(client: &Client, run: &NamespacedName) -> Result<Value> {
    let mut history = fetch(client, run).await?;
    let mut told = Told::default();
    let mut pause = LOOK_FIRST;
    loop {
        if told.is_news(&history.run) {
            told.news(&history, &history.tasks().await).iter().for_each(|line| note(line));
            pause = LOOK_FIRST;
        }
        if history.is_over() {
            return Ok(history.run);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_AT_MOST);
        fetch_more(client, run, &mut history).await?;
    }
}

/// What was said already.
#[derive(Default)]
struct Told {
    /// State and number of entries.
    status: Option<(Value, Value)>,
    tasks: HashMap<Arc<str>, (TaskState, u32)>,
    errors: HashSet<String>,
}

impl Told {
    fn is_news(&mut self, run: &Value) -> bool {
        let now = Some((run["status"]["state"].clone(), run["status"]["entries"].clone()));
        let is_new = self.status != now;
        self.status = now;
        is_new
    }

    /// What is new of the tasks: a line each, in the order in which it happened.
    fn news(&mut self, history: &RunHistory, tasks: &[TaskOfRun]) -> Vec<String> {
        let mut changed: Vec<_> = tasks.iter().filter(|task| self.is_changed(task)).collect();
        changed.sort_by_key(|task| task.changed);
        let mut lines = Vec::new();
        for task in changed {
            let at = task.changed.0.saturating_sub(history.info.started);
            let indent = 2 * task.depth;
            let mut line = format!("{:>8}  {:indent$}{} {}", span(at), "", task.name, described(task));
            let error = task.error.as_ref().filter(|_| task.state != TaskState::Done).map(sentence);
            // What is around a task faults with it: once is enough.
            if let Some(error) = error.filter(|error| self.errors.insert(error.clone())) {
                line += &format!(" ({error})");
            }
            lines.push(legible(&line).into_owned());
        }
        lines
    }

    fn is_changed(&mut self, task: &TaskOfRun) -> bool {
        let now = (task.state, task.attempts);
        self.tasks.insert(task.path.clone(), now) != Some(now)
    }
}

fn described(task: &TaskOfRun) -> String {
    let mut words = task.state.word().to_owned();
    if let Some(ended) = task.ended.filter(|_| !matches!(task.state, TaskState::Skipped | TaskState::Undone))
    {
        words += &format!(" in {}", span(ended.saturating_sub(task.started)));
    }
    if let Some(call) = task.calls.last().filter(|_| task.state.is_over()) {
        words += &format!(", {} {}", call.made.method, call.made.endpoint);
        let status = status(call);
        words.extend((!status.is_empty()).then(|| format!(": {status}")));
    }
    if task.attempts > 1 {
        words += &format!(", attempt {}", task.attempts);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::gone_through::tests::{RESERVE, answered, history, history_of, whole};
    use super::*;

    #[test]
    fn inputs_are_json() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("order.json");
        std::fs::write(&file, "{\"n\": 1}").unwrap();
        let of_file = format!("@{}", file.display());
        assert_eq!(input(Some(&of_file)).unwrap(), json!({ "n": 1 }));
        assert_eq!((input(None).unwrap(), input(Some("[1]")).unwrap()), (Value::Null, json!([1])));
        for (data, expected) in [("{n: 1}", "--data is no JSON"), ("@/nowhere", "/nowhere cannot be read")] {
            let said = input(Some(data)).unwrap_err().to_string();
            assert!(said.contains(expected), "{data}: {said}");
        }
        std::fs::write(&file, " ".repeat((LARGEST_INPUT + 1) as usize)).unwrap();
        assert!(input(Some(&of_file)).unwrap_err().to_string().contains("is larger than 1024 KiB"));
    }

    #[tokio::test]
    async fn an_error_is_told_in_full_once() {
        let mut whole = whole();
        let entries = whole["entries"].as_array_mut().unwrap();
        let fault = entries[0]["event"]["Answered"]["result"].clone();
        entries.truncate(2);
        entries.push(answered(2020, 2, RESERVE, fault, 503));
        whole["run"]["status"]["state"] = "Faulted".into();
        let history = history_of(whole).await;
        let lines = Told::default().news(&history, &history.tasks().await);
        assert_eq!(
            lines,
            [
                "    1.0s    reserve faulted in 1.0s, GET http://stock/: 503, attempt 2 (503 Communication Error (/do/0/safe/try/0/reserve))",
                "    1.0s  safe faulted in 1.0s",
            ]
        );
    }

    #[tokio::test]
    async fn a_run_goes_on_whoever_looks_on() {
        use std::future::{pending, ready};
        let run = NamespacedName::new("shop", "r1");
        let told = async |exit| {
            let lost = ready(Err(Failure::new("lost").exit(exit)));
            unless_interrupted(&run, lost, pending()).await.unwrap_err().to_string()
        };
        let goes_on = "the run goes on: `tulle flow history r1 -n shop` shows it";
        assert_eq!(told(Exit::Unreachable).await, format!("lost\nhelp: {goes_on}"));
        assert_eq!(told(Exit::NotFound).await, "lost");
        assert_eq!(unless_interrupted(&run, pending(), ready(())).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_new_is_said_once() {
        let history = history().await;
        let tasks = history.tasks().await;
        let mut told = Told::default();
        insta::assert_snapshot!(told.news(&history, &tasks).join("\n"));
        assert_eq!(told.news(&history, &tasks), [""; 0]);
        let run = |entries: u32| json!({ "status": { "state": "Running", "entries": entries } });
        assert_eq!([run(1), run(1), run(2)].map(|run| told.is_news(&run)), [true, false, true]);
    }
}
