//! `tulle flow runs`: which runs there are; and what is done to one.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};
use tulle_model::flow::workflow::Workflow;
use tulle_model::legible::legible;
use tulle_model::name::NamespacedName;
use tulle_model::registry::KindId;

use super::RUNS;
use super::gone_through::TaskState;
use super::history::fetch;
use crate::client::{Client, ClientArgs, JSON, Query, resource};
use crate::commands::get::ScopeArgs;
use crate::exit::{Failure, Result};
use crate::output::{Cell, ReportFormat, Table, note, print, print_json, print_yaml};
use crate::selection::object_name;
use crate::units::parse_duration;

#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Only those of this Flow
    #[arg(value_name = "[NAMESPACE/]FLOW")]
    flow: Option<String>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Only those in this state (repeatable)
    #[arg(long, value_enum, value_name = "STATE", ignore_case = true)]
    state: Vec<ShownState>,
    /// Only those that began no longer ago than that, such as 1h
    #[arg(long, value_name = "AGE", value_parser = parse_duration)]
    since: Option<Duration>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// As `status.state` of a FlowRun has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShownState {
    Queued,
    Running,
    Waiting,
    Suspended,
    Completed,
    Faulted,
    Cancelled,
}

/// One run.
#[derive(Debug, Args)]
pub struct OneRunArgs {
    /// The run, as `tulle flow runs` names it
    #[arg(value_name = "[NAMESPACE/]RUN")]
    run: String,
    /// The namespace [default: that of the kubeconfig, or `default`]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    #[command(flatten)]
    one: OneRunArgs,
    /// The task to begin with: its name, where one task has it, or its path in the workflow (`/do/0/pay`)
    #[arg(long, value_name = "TASK")]
    from: String,
}

impl OneRunArgs {
    /// The run, and who is asked about it.
    pub fn read(&self) -> Result<(NamespacedName, Client)> {
        let client = self.client.client()?;
        let namespace = self.namespace.as_deref().unwrap_or(client.namespace());
        Ok((object_name(&self.run, namespace), client))
    }
}

/// Where the API has a run, or what is done to it.
pub fn path(run: &NamespacedName, action: Option<&str>) -> String {
    let path = resource(RUNS.kind(), Some(&run.namespace), Some(&run.name));
    match action {
        Some(action) => format!("{path}/{action}"),
        None => path,
    }
}

pub async fn list(args: RunsArgs) -> Result<()> {
    let client = args.client.client()?;
    let (namespace, flow) = match &args.flow {
        Some(flow) => flow_in(flow, &args.scope)?,
        None => (None, ""),
    };
    let namespace = namespace.or_else(|| args.scope.namespace(&client));
    let flow = (!flow.is_empty()).then_some(flow);
    let label = flow.map(|flow| format!("{}={flow}", tulle_model::kinds::flow::FLOW_LABEL));
    let path = Query::new(resource(RUNS.kind(), namespace, None)).set_if("labelSelector", label.as_deref());
    // Several states are looked for here.
    let state = match args.state.as_slice() {
        [one] => Some(format!("status.state={one:?}")),
        _ => None,
    };
    let path = path.set_if("fieldSelector", state.as_deref());
    let mut answer = client.get(&path.finish(), JSON).await?;
    let now = Timestamp::now();
    let runs = match answer["items"].take() {
        Value::Array(runs) => runs,
        _ => Vec::new(),
    };
    let mut runs: Vec<_> =
        runs.into_iter().filter(|run| is_wanted(run, &args.state, args.since, now)).collect();
    sort_by_age(&mut runs);
    match args.output {
        ReportFormat::Json => return print_json(&json!({ "runs": runs })),
        ReportFormat::Yaml => return print_yaml(&json!({ "runs": runs })),
        ReportFormat::Table | ReportFormat::Wide => {}
    }
    if runs.is_empty() {
        if let Some(namespace) = namespace {
            client.require_namespace(namespace).await?;
        }
        if let (Some(flow), Some(namespace)) = (flow, namespace) {
            // One that is not there has no runs for another reason.
            client.get(&resource(KindId::Flow.kind(), Some(namespace), Some(flow)), JSON).await?;
        }
        note("No runs found");
        return Ok(());
    }
    let kind = RUNS.kind();
    let is_wide = args.output == ReportFormat::Wide;
    let shown = |priority: i32| is_wide || priority == 0;
    let mut header: Vec<_> = Vec::new();
    if args.scope.all_namespaces {
        header.push("NAMESPACE".to_owned());
    }
    header.extend(kind.columns().iter().filter(|c| shown(c.priority)).map(|c| c.name.to_uppercase()));
    let mut table = Table::new(header);
    for run in &runs {
        let namespace = run["metadata"]["namespace"].as_str().unwrap_or_default();
        let cells = kind.row(run, now).into_iter().zip(kind.columns()).filter(|(_, c)| shown(c.priority));
        let cells = cells.map(|(cell, _)| Cell::from(cell.as_str().unwrap_or_default()));
        table.row(args.scope.all_namespaces.then(|| Cell::from(namespace)).into_iter().chain(cells));
    }
    print(&table.render())
}

/// What `[NAMESPACE/]FLOW` names: the namespace only where it says so. The flags may say nothing else.
fn flow_in<'f>(text: &'f str, scope: &ScopeArgs) -> Result<(Option<&'f str>, &'f str)> {
    let (namespace, flow) = match text.split_once('/') {
        Some((namespace, flow)) => (Some(namespace), flow),
        None => (None, text),
    };
    if flow.is_empty() || flow.contains('/') || namespace == Some("") {
        return Err(Failure::input(format!("`{text}` is not of the form [NAMESPACE/]FLOW")));
    }
    let other = match &scope.namespace {
        Some(other) if namespace.is_some_and(|namespace| namespace != other) => format!("-n {other}"),
        None if namespace.is_some() && scope.all_namespaces => "-A".to_owned(),
        _ => return Ok((namespace, flow)),
    };
    Err(Failure::input(format!("{other} and `{text}` say two different namespaces"))
        .help("leave one of them out"))
}

/// The youngest first. One that waits for its turn has no time of its own as yet, but when it was made, to the second; those of one
/// second are told apart by their names, which are made in this order.
fn sort_by_age(runs: &mut [Value]) {
    runs.sort_by_cached_key(|run| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let made = &run["metadata"];
        let began = run["status"].get("startedAt").unwrap_or(&made["creationTimestamp"]);
        std::cmp::Reverse((text(began), text(&made["name"])))
    });
}

fn is_wanted(run: &Value, states: &[ShownState], since: Option<Duration>, now: Timestamp) -> bool {
    let state = run["status"]["state"].as_str().unwrap_or_default();
    let is_in = |wanted: &ShownState| format!("{wanted:?}") == state;
    let began = run["metadata"]["creationTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let age = began.map(|began| now.duration_since(began));
    let is_young = |limit: Duration| age.is_none_or(|age| age.is_negative() || age.unsigned_abs() <= limit);
    (states.is_empty() || states.iter().any(is_in)) && since.is_none_or(is_young)
}

/// `suspend`, `resume` or `cancel`.
pub async fn act(args: OneRunArgs, action: &'static str) -> Result<()> {
    let (run, client) = args.read()?;
    let answer = client.post(&path(&run, Some(action)), &json!({})).await?;
    told(&run, action, &answer)
}

pub async fn retry(args: RetryArgs) -> Result<()> {
    let (run, client) = args.one.read()?;
    let history = fetch(&client, &run).await?;
    let from = reference(&history.workflow, &args.from)?;
    let mut tasks = history.tasks().await;
    tasks.retain(|task| task.state != TaskState::Undone);
    if !tasks.iter().any(|task| *task.reference == *from) {
        let names: Vec<_> = tasks.iter().map(|task| &*task.name).collect();
        return Err(Failure::input(format!("--from: the run has not come to {from} as yet"))
            .help(format!("it has begun: {}", names.join(", "))));
    }
    let answer = client.post(&path(&run, Some("retry")), &json!({ "from": from })).await?;
    told(&run, "retry", &answer)
}

/// Where the one task of that name stands; of a path, that path.
fn reference(workflow: &Workflow, name: &str) -> Result<String> {
    if let Some(task) = without_turn(workflow, name) {
        return Err(Failure::input(format!(
            "--from: `{name}` is a turn of a loop: a retry goes on from where the task was begun last, and names it without the turn"
        ))
        .help(format!("--from {task}")));
    }
    if name.starts_with('/') {
        return Ok(name.to_owned());
    }
    let mut found: Vec<_> = workflow.tasks.iter().filter(|task| *task.name == *name).collect();
    found.sort_by(|a, b| a.reference.cmp(&b.reference));
    found.dedup_by(|a, b| a.reference == b.reference);
    match found.as_slice() {
        [one] => Ok(one.reference.to_string()),
        [] => {
            let names = workflow.tasks.iter().map(|task| &*task.name);
            let hint = tulle_model::validate::suggest::did_you_mean(name, names);
            Err(Failure::input(format!("--from: the run's workflow has no task `{name}`{hint}")))
        }
        several => {
            let places: Vec<_> = several.iter().map(|task| &*task.reference).collect();
            Err(Failure::input(format!("--from: several tasks are called `{name}`"))
                .help(format!("say which one: {}", places.join(", "))))
        }
    }
}

/// The task that is meant by what histories call it in a turn of a loop (`pack[2]`); `None`: there is no turn in it.
fn without_turn<'n>(workflow: &Workflow, name: &'n str) -> Option<&'n str> {
    let is_task =
        |name: &str| workflow.tasks.iter().any(|task| *task.name == *name || *task.reference == *name);
    if is_task(name) {
        return None;
    }
    // Names may have such characters in them, too: the longest is meant.
    let turns = name.rmatch_indices(['[', '~', '@']);
    turns.map(|(at, _)| &name[..at]).find(|task| is_task(task))
}

fn told(run: &NamespacedName, action: &str, answer: &Value) -> Result<()> {
    let state = answer["status"]["state"].as_str().unwrap_or("Unknown");
    print(&format!("{}: {action} is asked for; it is {}\n", legible(&run.to_string()), legible(state)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_chosen_by_state_and_age() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let run = |state: &str, began: &str| json!({ "metadata": { "creationTimestamp": began }, "status": { "state": state } });
        let young = run("Faulted", "2026-01-01T00:59:00Z");
        let old = run("Completed", "2026-01-01T00:00:00Z");
        let hour = Some(Duration::from_secs(600));
        for (states, since, expected) in [
            (&[][..], None, [true, true]),
            (&[ShownState::Faulted][..], None, [true, false]),
            (&[ShownState::Faulted, ShownState::Completed][..], hour, [true, false]),
            (&[ShownState::Running][..], None, [false, false]),
        ] {
            let wanted = [&young, &old].map(|run| is_wanted(run, states, since, now));
            assert_eq!(wanted, expected, "{states:?} {since:?}");
        }
    }

    #[test]
    fn the_youngest_run_is_the_first() {
        let run = |name: &str, made: &str, began: Option<&str>| json!({ "metadata": { "name": name, "creationTimestamp": made }, "status": { "startedAt": began } });
        let queued = |name: &str, made: &str| {
            let mut run = run(name, made, None);
            run["status"] = json!({ "state": "Queued" });
            run
        };
        let (early, late) = ("2026-01-01T00:00:01Z", "2026-01-01T00:00:09Z");
        let mut runs = vec![
            run("a", early, Some("2026-01-01T00:00:01.500Z")),
            queued("b", early),
            queued("c", late),
            queued("d", late),
            run("e", late, Some("2026-01-01T00:00:09.100Z")),
            run("f", late, Some("2026-01-01T00:00:09.900Z")),
        ];
        sort_by_age(&mut runs);
        let names: Vec<_> = runs.iter().map(|run| run["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["d", "c", "f", "e", "b", "a"]);
    }

    #[test]
    fn a_flow_is_named_with_its_namespace() {
        let scope = |namespace: Option<&str>, all_namespaces| ScopeArgs {
            namespace: namespace.map(str::to_owned),
            all_namespaces,
        };
        for (text, scope, expected) in [
            ("order", scope(None, false), Ok((None, "order"))),
            ("order", scope(Some("shop"), false), Ok((None, "order"))),
            ("order", scope(None, true), Ok((None, "order"))),
            ("shop/order", scope(None, false), Ok((Some("shop"), "order"))),
            ("shop/order", scope(Some("shop"), false), Ok((Some("shop"), "order"))),
            (
                "shop/order",
                scope(Some("b"), false),
                Err("-n b and `shop/order` say two different namespaces"),
            ),
            ("shop/order", scope(None, true), Err("-A and `shop/order` say two different namespaces")),
            ("shop/", scope(None, false), Err("`shop/` is not of the form [NAMESPACE/]FLOW")),
            ("a/b/c", scope(None, false), Err("`a/b/c` is not of the form [NAMESPACE/]FLOW")),
        ] {
            match (flow_in(text, &scope), expected) {
                (Err(failure), Err(expected)) => {
                    assert!(failure.to_string().starts_with(expected), "{failure}")
                }
                (found, expected) => assert_eq!(found.ok(), expected.ok(), "{text} {scope:?}"),
            }
        }
    }

    #[test]
    fn a_turn_of_a_loop_is_no_task() {
        let workflow = json!({
            "document": { "dsl": "1.0.3", "namespace": "a", "name": "b", "version": "0.1.0" },
            "do": [{ "each": { "for": { "in": "[1]" }, "do": [
                { "reserve": { "wait": { "seconds": 1 } } }, { "odd[1]": { "wait": { "seconds": 1 } } },
            ] } }],
        });
        let workflow = tulle_model::flow::parse(&workflow).unwrap();
        let said = |name: &str| reference(&workflow, name).map_err(|failure| failure.to_string());
        let turn = "is a turn of a loop: a retry goes on from where the task was begun last";
        for (name, task) in [
            ("reserve[1]", "reserve"),
            ("odd[1][0]", "odd[1]"),
            ("reserve[1]~2", "reserve"),
            ("/do/0/each/do/0/reserve[1]", "/do/0/each/do/0/reserve"),
        ] {
            let said = said(name).unwrap_err();
            assert!(said.contains(turn) && said.ends_with(&format!("help: --from {task}")), "{said}");
        }
        assert_eq!(said("odd[1]").unwrap(), "/do/0/each/do/1/odd[1]");
        assert_eq!(said("/do/9/none").unwrap(), "/do/9/none");
        assert!(said("reserv[1]").unwrap_err().contains("has no task"));
    }

    #[test]
    fn a_task_is_found_by_its_name() {
        let nap = json!({ "nap": { "wait": { "seconds": 1 } } });
        let workflow = json!({
            "document": { "dsl": "1.0.3", "namespace": "a", "name": "b", "version": "0.1.0" },
            "do": [{ "one": { "do": [nap] } }, { "two": { "do": [nap] } }],
        });
        let workflow = tulle_model::flow::parse(&workflow).unwrap();
        assert_eq!(reference(&workflow, "two").unwrap(), "/do/1/two");
        let said = |name: &str| reference(&workflow, name).unwrap_err().to_string();
        assert!(said("twoo").contains("has no task `twoo`; did you mean `two`?"), "{}", said("twoo"));
        assert!(said("nap").contains("/do/0/one/do/0/nap, /do/1/two/do/0/nap"), "{}", said("nap"));
    }
}
