//! `tulle flow history`: what became of each task of a run.

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tulle_model::flow::fault::Fault;
use tulle_model::flow::scope::Millis;
use tulle_model::legible::legible;
use tulle_server::timestamp::at_millis;

use super::gone_through::{CallOfTask, HistoryPart, RunHistory, TaskOfRun, TaskState, WentBack, WholeRun};
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
        let last = task.calls.last();
        let call = last.map(|call| &call.made);
        let took = task.ended.map(|ended| span(ended.saturating_sub(task.started)));
        let mut cells = vec![
            format!("{:indent$}{}", "", task.name, indent = 2 * task.depth),
            task.state.word().to_owned(),
            span(task.started.saturating_sub(history.info.started)),
            took.unwrap_or_else(|| "-".to_owned()),
            task.attempts.to_string(),
            call.map_or_else(String::new, |call| format!("{} {}", call.method, call.endpoint)),
            // That of an earlier attempt is not that of the call under way.
            last.filter(|_| task.state != TaskState::Calling).map_or_else(String::new, status),
        ];
        if is_wide {
            let output = task.output.as_ref().map(ToString::to_string);
            let trace = call.and_then(|call| call.trace.as_deref()).unwrap_or_default();
            let input = task.input.as_ref().map(ToString::to_string);
            cells.extend([input.unwrap_or_default(), output.unwrap_or_default(), trace.to_owned()]);
        }
        table.row(cells.into_iter().map(Cell::from));
    }
    let mut text = format!("{}\n", heading(&history.run));
    text.extend(times(&history.run).map(|times| times + "\n"));
    let why = run_error(&history.run);
    text.extend(why.as_ref().map(|why| format!("error: {}\n", legible(why))));
    if let Some(output) = history.run["status"].get("output").filter(|_| is_wide) {
        text += &format!("output: {}\n", legible(&output.to_string()));
    }
    for WentBack { at, to } in history.retries() {
        text += &format!(
            "retried at {} from where it was at {}: calls in between that are not made again are shown as undone\n",
            at_millis(at),
            at_millis(to)
        );
    }
    if !tasks.is_empty() {
        text += &table.render();
    }
    let failed = tasks.iter().filter(|task| !task.state.is_over() || task.output.is_none());
    for (task, error) in failed.filter_map(|task| Some((task, sentence(task.error.as_ref()?)))) {
        // The run's is above, and says where it comes from.
        if why.as_ref() != Some(&error) {
            text += &format!("{}: {}\n", legible(&task.name), legible(&error));
        }
    }
    text
}

/// What was answered; nothing where there was no connection.
pub fn status(call: &CallOfTask) -> String {
    match call.made.status {
        Some(status) if call.cut_off => format!("cut off ({status})"),
        Some(status) => status.to_string(),
        None if call.cut_off => "cut off".to_owned(),
        None => String::new(),
    }
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

/// `started 2026-01-01T00:00:01.000Z, ended 2026-01-01T00:00:02.500Z`; `None`: it has not begun.
fn times(run: &Value) -> Option<String> {
    let status = |field: &str| run["status"][field].as_str();
    let mut times = format!("started {}", status("startedAt")?);
    times.extend(status("endedAt").map(|ended| format!(", ended {ended}")));
    Some(legible(&times).into_owned())
}

/// Why it has faulted: also where no task has, as its input is not as its schema says.
fn run_error(run: &Value) -> Option<String> {
    let error = run["status"].get("error")?;
    // What another version writes is shown as it is.
    let said = serde_json::from_value::<Fault>(error.clone()).map(|fault| sentence(&fault));
    Some(said.unwrap_or_else(|_| error.to_string()))
}

/// `503 Communication Error: no such host (/do/0/pay)`: one line, also where the detail is the body of an answer, which has several.
pub fn sentence(fault: &Fault) -> String {
    let detail = fault.detail.as_deref().map(in_one_line).filter(|detail| !detail.is_empty());
    let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{} {}{detail} ({})", fault.status, in_one_line(&fault.title), in_one_line(&fault.instance))
}

fn in_one_line(text: &str) -> String {
    let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
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
    use super::super::gone_through::tests::{RESERVE, answered, history, history_of, retried, whole};
    use super::*;

    #[tokio::test]
    async fn a_history_is_a_table() {
        let history = history().await;
        let tasks = history.tasks().await;
        insta::assert_snapshot!(render(&history, &tasks, true));
    }

    #[tokio::test]
    async fn a_retry_hides_no_call() {
        let history = retried().await;
        insta::assert_snapshot!(render(&history, &history.tasks().await, false));
    }

    #[tokio::test]
    async fn the_times_of_a_run_are_in_its_heading() {
        let mut whole = whole();
        whole["run"]["status"] = json!({ "state": "Cancelled", "startedAt": "1970-01-01T00:00:01.000Z", "endedAt": "1970-01-01T00:00:09.500Z" });
        let history = history_of(whole.clone()).await;
        let text = render(&history, &history.tasks().await, false);
        assert_eq!(
            text.lines().nth(1),
            Some("started 1970-01-01T00:00:01.000Z, ended 1970-01-01T00:00:09.500Z")
        );
        (whole["entries"], whole["run"]["status"]) = (json!([]), json!({ "state": "Queued", "entries": 0 }));
        let queued = history_of(whole).await;
        let text = render(&queued, &queued.tasks().await, false);
        assert_eq!(text, "run r1 of Flow shop/order: Queued, started by ann, calls as orders\n");
    }

    #[tokio::test]
    async fn why_a_run_faulted_is_in_its_heading() {
        let mut whole = whole();
        let error = json!({
            "type": "https://serverlessworkflow.io/spec/1.0.0/errors/validation", "status": 400,
            "title": "Validation Error", "detail": "input: /n is not of type\n\"string\"", "instance": "/",
        });
        whole["entries"] = json!([]);
        whole["run"]["status"] =
            json!({ "state": "Faulted", "startedAt": "1970-01-01T00:00:01.000Z", "error": error });
        let history = history_of(whole.clone()).await;
        for is_wide in [false, true] {
            let text = render(&history, &history.tasks().await, is_wide);
            let why = "error: 400 Validation Error: input: /n is not of type \"string\" (/)";
            assert_eq!(text.lines().filter(|line| *line == why).count(), 1, "{text}");
        }
        // A task's own is not said twice.
        let fault = whole_fault();
        whole["entries"] = json!([
            self::whole()["entries"][0].clone(),
            self::whole()["entries"][1].clone(),
            answered(2020, 2, RESERVE, json!({ "Err": fault }), 503),
        ]);
        whole["run"]["status"]["error"] = fault;
        let history = history_of(whole).await;
        let text = render(&history, &history.tasks().await, false);
        assert_eq!(text.matches("503 Communication Error").count(), 1, "{text}");
    }

    fn whole_fault() -> Value {
        whole()["entries"][0]["event"]["Answered"]["result"]["Err"].clone()
    }

    #[tokio::test]
    async fn what_came_of_a_run_is_shown_where_there_is_room() {
        let mut whole = whole();
        whole["run"]["status"] = json!({ "state": "Completed", "output": { "paid": true } });
        let history = history_of(whole).await;
        let tasks = history.tasks().await;
        assert!(render(&history, &tasks, true).contains("\noutput: {\"paid\":true}\n"));
        assert!(!render(&history, &tasks, false).contains("paid"));
    }

    #[test]
    fn an_error_is_one_line() {
        let fault = |detail: &str| Fault {
            detail: Some(detail.into()),
            ..serde_json::from_value(
                json!({ "type": "t", "status": 503, "title": "Down", "instance": "/do/0/a" }),
            )
            .unwrap()
        };
        assert_eq!(sentence(&fault("no host\r\n\n  is up\n")), "503 Down: no host is up (/do/0/a)");
        assert_eq!(sentence(&fault("\n")), "503 Down (/do/0/a)");
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
