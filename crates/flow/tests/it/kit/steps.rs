//! What the steps of a scenario mean: those of the conformance kit (its ctk/README.md), and a few more in its style about services, Secrets
//! and time.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tulle_flow::evaluator::Evaluator;
use tulle_model::document;
use tulle_model::flow::run::{RunPhase, RunStepKind};
use tulle_model::flow::unsupported::Unsupported;
use tulle_model::flow::{self, duration};

use super::driver::{self, Outcome, World};
use super::gherkin::{Scenario, Step};
use super::services::{Elsewhere, Reply, Service};

/// What has become of a scenario.
#[derive(Debug)]
pub enum Fate {
    Passes,
    /// It needs what comes later, and is refused for that.
    NotForUs(String),
    Fails(String),
}

/// Parts of the DSL that the kit asks for, and that come later.
const LATER: [Unsupported; 5] = [
    Unsupported::Emit,
    Unsupported::Listen,
    Unsupported::Schedule,
    Unsupported::CallGrpc,
    Unsupported::CallOpenApi,
];

/// The field `Authorization` by username and password (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Carries out a scenario.
pub async fn carry_out(scenario: &Scenario, elsewhere: Elsewhere, evaluator: &Evaluator) -> Fate {
    let mut stage = Stage {
        definition: Value::Null,
        world: World {
            input: json!({}),
            secrets: json!({}),
            services: Vec::new(),
            elsewhere,
            cancelled: None,
            has_one_runner: false,
        },
        ended: None,
    };
    for step in &scenario.steps {
        match stage.carry_out(step, evaluator).await {
            Ok(()) => {}
            Err(why) if stage.ended.is_none() && LATER.iter().any(|later| why == later.message()) => {
                return Fate::NotForUs(why);
            }
            Err(why) => return Fate::Fails(format!("line {}: {}: {why}", step.line, step.text)),
        }
    }
    match stage.ended {
        Some(_) => Fate::Passes,
        None => Fate::Fails("no step executes the workflow".to_owned()),
    }
}

struct Stage {
    definition: Value,
    world: World,
    ended: Option<Outcome>,
}

impl Stage {
    async fn carry_out(&mut self, step: &Step, evaluator: &Evaluator) -> Result<(), String> {
        let text = step.text.as_str();
        let value = step.document.as_deref().map(yaml).transpose()?;
        if let Some(ended) = &self.ended {
            return holds(ended, text, value.as_ref());
        }
        match text {
            "a workflow with definition:" => self.definition = value.ok_or("it says no definition")?,
            "the workflow input is:" => self.world.input = value.ok_or("it says no input")?,
            "the runner stays the same" => self.world.has_one_runner = true,
            "the workflow is executed" => self.execute(evaluator).await?,
            _ => {
                if let Some(after) = text.strip_prefix("the workflow is executed and cancelled after ") {
                    self.world.cancelled = Some(millis(after)?);
                    return self.execute(evaluator).await;
                }
                if let Some(name) = between(text, "the secret ", " is:") {
                    self.world.secrets[name] = value.ok_or("it says no keys")?;
                    return Ok(());
                }
                let service = text.strip_prefix("the service ").and_then(|text| text.split_once(" answers "));
                let (uri, answer) = service.ok_or("there is no such step")?;
                let (method, reply) = reply(answer, value.as_ref())?;
                let is = |service: &&mut Service| service.uri == uri && service.method == method;
                match self.world.services.iter_mut().find(is) {
                    Some(service) => service.replies.push(reply),
                    None => self.world.services.push(Service {
                        method: method.to_owned(),
                        uri: uri.to_owned(),
                        replies: vec![reply],
                    }),
                }
            }
        }
        Ok(())
    }

    async fn execute(&mut self, evaluator: &Evaluator) -> Result<(), String> {
        let workflow = flow::parse(&self.definition).map_err(|errors| {
            let messages: Vec<_> = errors.iter().map(|error| error.message.as_str()).collect();
            match messages.iter().find(|message| LATER.iter().any(|later| **message == later.message())) {
                Some(later) => (*later).to_owned(),
                None => {
                    let all =
                        errors.iter().map(|error| format!("{} {}", error.path.pointer(), error.message));
                    format!("the definition is refused: {}", all.collect::<Vec<_>>().join("; "))
                }
            }
        })?;
        self.ended = Some(driver::run(workflow, &self.world, evaluator).await?);
        Ok(())
    }
}

/// `POST`, `POST with status 503`, or `POST as follows` with a description.
fn reply<'t>(answer: &'t str, value: Option<&Value>) -> Result<(&'t str, Reply), String> {
    let answer = answer.strip_suffix(':').unwrap_or(answer);
    if let Some(method) = answer.strip_suffix(" as follows") {
        return Ok((method, Reply::described(value.ok_or("it says no answer")?)?));
    }
    let (method, status) = match answer.split_once(" with status ") {
        Some((method, status)) => (method, status.parse().map_err(|_| "the status is none")?),
        None => (answer, 200),
    };
    Ok((method, Reply::json(status, value)?))
}

/// Whether what a step says of a run that is over is so.
fn holds(ended: &Outcome, text: &str, value: Option<&Value>) -> Result<(), String> {
    if let Some(text) = text.strip_prefix("the workflow output should have ") {
        return output_has(ended, text, value);
    }
    if let Some(text) = text.strip_prefix("the workflow should ") {
        return of_the_run(ended, text, value);
    }
    if let Some((uri, text)) =
        text.strip_prefix("the service ").and_then(|text| text.split_once(" should have been "))
    {
        return of_the_service(ended, uri, text, value);
    }
    let (task, text) = text.split_once(" should ").ok_or("there is no such step")?;
    of_the_task(ended, task, text, value)
}

fn of_the_run(ended: &Outcome, text: &str, value: Option<&Value>) -> Result<(), String> {
    let shown = || match &ended.phase {
        RunPhase::Completed(output) => format!("it completes with {output}"),
        RunPhase::Faulted(fault) => format!("it faults with {}", fault.value()),
        other => format!("it is {other:?}"),
    };
    let took = ended.took;
    if let Some(secret) = text.strip_prefix("keep nothing of ") {
        let is_kept = ended.kept.contains(secret);
        return if is_kept { Err(format!("it is in {}", ended.kept)) } else { Ok(()) };
    }
    match (text, &ended.phase, value) {
        ("complete", RunPhase::Completed(_), None) | ("fault", RunPhase::Faulted(_), None) => Ok(()),
        ("cancel", RunPhase::Cancelled, None) => Ok(()),
        ("complete with output:", RunPhase::Completed(output), Some(value)) if **output == *value => Ok(()),
        ("fault with error:", RunPhase::Faulted(fault), Some(value)) => has(&fault.value(), value),
        (text, ..) if text.starts_with("take from ") => {
            let (from, to) = text["take from ".len()..].split_once(" to ").ok_or("it says no times")?;
            let fits = (millis(from)?..=millis(to)?).contains(&took);
            fits.then_some(()).ok_or(format!("it takes {took} ms"))
        }
        (text, ..) if text.starts_with("take ") => {
            let expected = millis(&text["take ".len()..])?;
            (took == expected).then_some(()).ok_or(format!("it takes {took} ms"))
        }
        _ => Err(shown()),
    }
}

fn output_has(ended: &Outcome, text: &str, value: Option<&Value>) -> Result<(), String> {
    let RunPhase::Completed(output) = &ended.phase else { return of_the_run(ended, "complete", None) };
    let names = || text.split('\'').skip(1).step_by(2);
    let found = |name: &str| {
        let found = name.split('.').try_fold(&**output, |value, field| value.get(field));
        found.ok_or(format!("there is no {name} in {output}"))
    };
    if text.starts_with("properties ") {
        return names().try_for_each(|name| found(name).map(drop));
    }
    let name = names().next().ok_or("it names no property")?;
    let property = found(name)?;
    if let Some(value) = value {
        return (property == value).then_some(()).ok_or(format!("it is {property}"));
    }
    let count = text.split_once(" containing ").and_then(|(_, text)| text.strip_suffix(" items"));
    let count: usize = count.and_then(|count| count.parse().ok()).ok_or("there is no such step")?;
    let has = property.as_array().map_or(0, Vec::len);
    (has == count).then_some(()).ok_or(format!("it has {has}"))
}

fn of_the_service(ended: &Outcome, uri: &str, text: &str, value: Option<&Value>) -> Result<(), String> {
    let sent: Vec<_> = ended.sent.iter().filter(|sent| sent.request.uri == *uri).collect();
    let asked: Vec<_> = ended.sent.iter().map(|sent| sent.request.uri.to_string()).collect();
    if let Some(times) = text.strip_prefix("asked ").and_then(|text| text.split_once(" time")) {
        let times: usize = times.0.parse().map_err(|_| "it says no number")?;
        return (sent.len() == times).then_some(()).ok_or(format!("these were asked: {asked:?}"));
    }
    if text == "asked after:" {
        let times: Vec<_> = sent.iter().map(|sent| sent.at - driver::STARTED).collect();
        let expected = value.and_then(Value::as_array).ok_or("it says no times")?;
        let expected: Vec<_> = expected
            .iter()
            .map(|after| millis(after.as_str().unwrap_or_default()))
            .collect::<Result<_, _>>()?;
        return (times == expected).then_some(()).ok_or(format!("it was asked after {times:?} ms"));
    }
    if text != "sent:" {
        return Err("there is no such step".to_owned());
    }
    let request = &sent.last().ok_or(format!("these were asked: {asked:?}"))?.request;
    let body = String::from_utf8_lossy(&request.body);
    let headers = request.headers.iter().map(|(name, value)| {
        (name.to_string(), Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned()))
    });
    let headers: serde_json::Map<_, _> = headers.collect();
    let is = json!({
        "method": request.method.as_str(),
        "headers": headers,
        "body": serde_json::from_str::<Value>(&body).unwrap_or_default(),
        "text": body,
    });
    has(&is, value.ok_or("it says no request")?)
}

fn of_the_task(ended: &Outcome, task: &str, text: &str, value: Option<&Value>) -> Result<(), String> {
    let name = |step: &tulle_model::flow::run::RunStep| ended.workflow.task(step.task).name.clone();
    let mut began: Vec<Arc<str>> = Vec::new();
    let mut last = None;
    for step in &ended.steps {
        match &step.what {
            RunStepKind::Began { .. } => began.push(name(step)),
            RunStepKind::Skipped => drop(began.pop()),
            _ => {}
        }
        if *name(step) == *task {
            last = Some(&step.what);
        }
    }
    let first = |of: &str| began.iter().position(|name| **name == *of).ok_or(format!("{of} did not run"));
    let order = |holds: bool| holds.then_some(()).ok_or(format!("they ran so: {began:?}"));
    if let Some(other) = text.strip_prefix("run before ") {
        return order(first(task)? < first(other)?);
    }
    if let Some(other) = text.strip_prefix("run after ") {
        return order(first(task)? > first(other)?);
    }
    match (text, last, value) {
        ("run first", ..) => order(began.first().is_some_and(|name| **name == *task)),
        ("run last", ..) => order(began.last().is_some_and(|name| **name == *task)),
        ("be skipped", Some(RunStepKind::Skipped), None) => Ok(()),
        ("cancel", Some(RunStepKind::Stopped), None) => Ok(()),
        ("complete", Some(RunStepKind::Ended { .. }), None) => Ok(()),
        ("fault", Some(RunStepKind::Faulted { .. }), None) => Ok(()),
        ("complete with output:", Some(RunStepKind::Ended { output }), Some(value)) if **output == *value => {
            Ok(())
        }
        ("fault with error:", Some(RunStepKind::Faulted { fault }), Some(value)) => {
            has(&fault.value(), value)
        }
        _ => Err(format!("the last of it was {last:?}")),
    }
}

/// Whether a value has these fields, and what these have; null: it does not have it. A text that ends in `…` says how it begins.
fn has(is: &Value, expected: &Value) -> Result<(), String> {
    match (is, expected) {
        (Value::Object(is), Value::Object(expected)) => expected.iter().try_for_each(|(name, expected)| {
            has(is.get(name).unwrap_or(&Value::Null), expected).map_err(|why| format!("{name}: {why}"))
        }),
        (Value::String(is), Value::String(expected))
            if expected.strip_suffix('…').is_some_and(|start| is.starts_with(start)) =>
        {
            Ok(())
        }
        _ => (is == expected).then_some(()).ok_or(format!("it is {is}")),
    }
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    text.strip_prefix(before)?.strip_suffix(after)
}

fn millis(text: &str) -> Result<u64, String> {
    Ok(duration::read(&text.into())?.as_millis() as u64)
}

fn yaml(text: &str) -> Result<Value, String> {
    let documents = document::parse(text).map_err(|why| format!("the text is no YAML: {why:?}"))?;
    match &documents[..] {
        // Null is left out.
        [] => Ok(Value::Null),
        [document] => Ok(document.value.clone()),
        _ => Err("the text is not one document".to_owned()),
    }
}
