//! `tulle flow history`: what became of each task of a run.

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tulle_model::flow::fault::Fault;
use tulle_model::flow::scope::Millis;
use tulle_model::legible::legible;

use super::gone_through::{HistoryPart, RunHistory, TaskOfRun, WholeRun};
use super::runs::{OneRunArgs, path};
use crate::client::{Client, JSON, Query};
use crate::exit::{Failure, Result};
use crate::output::{Cell, ReportFormat, Table, print, print_json, print_yaml};
use tulle_model::name::NamespacedName;

#[derive(Debug, Args)]
pub struct RunHistoryArgs {
    #[command(flatten)]
    one: OneRunArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
}

pub async fn run(args: RunHistoryArgs) -> Result<()> {
    let (run, client) = args.one.read()?;
    let history = fetch(&client, &run).await?;
    let tasks = history.tasks().await;
    match args.output {
        ReportFormat::Json => print_json(&json!({ "run": history.run, "tasks": tasks })),
        ReportFormat::Yaml => print_yaml(&json!({ "run": history.run, "tasks": tasks })),
        ReportFormat::Table => print(&render(&history, &tasks, false)),
        ReportFormat::Wide => print(&render(&history, &tasks, true)),
    }
}

/// All that is known of a run.
pub async fn fetch(client: &Client, run: &NamespacedName) -> Result<RunHistory> {
    let whole: WholeRun = read(client.get(&path(run, Some("history")), JSON).await?)?;
    let has_more = whole.part.more;
    let mut history = RunHistory::new(whole).await?;
    if has_more {
        fetch_more(client, run, &mut history).await?;
    }
    Ok(history)
}

/// What has come of a run since its history was read.
pub async fn fetch_more(client: &Client, run: &NamespacedName, history: &mut RunHistory) -> Result<()> {
    loop {
        let path = Query::new(path(run, Some("history"))).set("first", &history.entries().to_string());
        let part: HistoryPart = read(client.get(&path.finish(), JSON).await?)?;
        let has_more = part.more;
        history.add(part).await?;
        if !has_more {
            return Ok(());
        }
    }
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<T> {
    let misunderstood = |error| {
        Failure::new(format!("the server's answer is not understood: {error}"))
            .help("is it of another version?")
    };
    serde_json::from_value(answer).map_err(misunderstood)
}

fn render(history: &RunHistory, tasks: &[TaskOfRun], is_wide: bool) -> String {
    let mut header = vec!["TASK", "STATE", "AFTER", "TOOK", "TRIES", "CALL", "STATUS"];
    if is_wide {
        header.extend(["INPUT", "OUTPUT", "TRACE"]);
    }
    let mut table = Table::new(header);
    for task in tasks {
        let call = task.calls.last().map(|call| &call.made);
        let took = task.ended.map(|ended| span(ended.saturating_sub(task.started)));
        let mut cells = vec![
            format!("{:indent$}{}", "", task.name, indent = 2 * task.depth),
            task.state.word().to_owned(),
            span(task.started.saturating_sub(history.info.started)),
            took.unwrap_or_else(|| "-".to_owned()),
            task.attempts.to_string(),
            call.map_or_else(String::new, |call| format!("{} {}", call.method, call.endpoint)),
            call.and_then(|call| call.status).map_or_else(String::new, |status| status.to_string()),
        ];
        if is_wide {
            let output = task.output.as_ref().map(ToString::to_string);
            let trace = call.and_then(|call| call.trace.as_deref()).unwrap_or_default();
            cells.extend([task.input.to_string(), output.unwrap_or_default(), trace.to_owned()]);
        }
        table.row(cells.into_iter().map(Cell::from));
    }
    let mut text = format!("{}\n{}", heading(&history.run), table.render());
    let failed = tasks.iter().filter(|task| !task.state.is_over() || task.output.is_none());
    for (task, error) in failed.filter_map(|task| Some((task, task.error.as_ref()?))) {
        text += &format!("{}: {}\n", legible(&task.name), legible(&sentence(error)));
    }
    text
}

/// `run r1 of Flow shop/order: Completed, started by ann, calls as orders`
fn heading(run: &Value) -> String {
    let text = |pointer: &str| run.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut heading = format!(
        "run {} of Flow {}/{}: {}",
        text("/metadata/name"),
        text("/metadata/namespace"),
        text("/spec/flow"),
        text("/status/state")
    );
    for (pointer, words) in [
        ("/spec/caller", "started by"),
        ("/spec/serviceAccount", "calls as"),
        ("/status/waitsUntil", "until"),
    ] {
        if !text(pointer).is_empty() {
            heading += &format!(", {words} {}", text(pointer));
        }
    }
    legible(&heading).into_owned()
}

/// `503 Communication Error: no such host (/do/0/pay)`
pub fn sentence(fault: &Fault) -> String {
    let detail = fault.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{} {}{detail} ({})", fault.status, fault.title, fault.instance)
}

/// `12ms`, `1.5s`, `3m20s`
pub fn span(millis: Millis) -> String {
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{}.{}s", millis / 1_000, millis % 1_000 / 100),
        _ => tulle_model::columns::duration(i64::try_from(millis / 1_000).unwrap_or(i64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::gone_through::tests::history;
    use super::*;

    #[tokio::test]
    async fn a_history_is_a_table() {
        let history = history().await;
        let tasks = history.tasks().await;
        insta::assert_snapshot!(render(&history, &tasks, true));
    }

    #[test]
    fn spans_are_as_exact_as_they_are_long() {
        for (millis, expected) in
            [(0, "0ms"), (999, "999ms"), (1_500, "1.5s"), (59_999, "59.9s"), (200_000, "3m20s")]
        {
            assert_eq!(span(millis), expected);
        }
    }
}
