//! What a workflow is going to do, task by task, in words: out of its document, which has been read without an error.

use serde::Serialize;
use serde_json::Value;
use tulle_model::json_pointer::push_token;

/// A task.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    pub name: String,
    /// Where it stands in the document: a JSON pointer, as errors and histories name it.
    pub reference: String,
    /// `call`, `for`, …
    pub task: &'static str,
    /// What it does, in words.
    pub does: String,
    /// Only where this holds.
    #[serde(rename = "if", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Where it goes on, if not with the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Of a `switch`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<Case>,
    /// The tasks in it: of a `fork` its branches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Of a `try`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch: Option<Caught>,
}

/// A case of a `switch`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    pub name: String,
    /// `None`: if no other one is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    pub then: String,
}

/// What becomes of errors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Caught {
    /// Which of them, and how it is tried again.
    pub does: String,
    #[serde(skip)]
    pub is_retried: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}

/// All tasks of a workflow's document.
pub fn steps(document: &Value) -> Vec<Step> {
    DocumentReader { document }.list(&document["do"], "/do")
}

struct DocumentReader<'d> {
    document: &'d Value,
}

impl DocumentReader<'_> {
    fn list(&self, tasks: &Value, at: &str) -> Vec<Step> {
        let items = tasks.as_array().into_iter().flatten().enumerate();
        let named = items.filter_map(|(index, item)| Some((index, item.as_object()?.iter().next()?)));
        named
            .map(|(index, (name, task))| self.step(name, task, &below(&format!("{at}/{index}"), name)))
            .collect()
    }

    fn step(&self, name: &str, task: &Value, reference: &str) -> Step {
        let own = |field: &str| task.get(field).map(expression);
        let step = Step {
            name: name.to_owned(),
            reference: reference.to_owned(),
            condition: own("if"),
            then: own("then").filter(|then| then != "continue"),
            timeout: task.get("timeout").map(|timeout| self.timeout(timeout)),
            ..Step::default()
        };
        let inner = |field: &str| self.list(&task[field], &format!("{reference}/{field}"));
        let has = |field: &str| task.get(field).is_some();
        match () {
            () if has("call") => self.call(task, step),
            () if has("set") => Step { task: "set", does: names(&task["set"]), ..step },
            () if has("switch") => Step { task: "switch", cases: cases(&task["switch"]), ..step },
            () if has("for") => Step { task: "for", does: turns(task), steps: inner("do"), ..step },
            () if has("fork") => {
                let does = match task["fork"]["compete"].as_bool() {
                    Some(true) => "at once, until the first is done",
                    _ => "at once",
                };
                let branches = self.list(&task["fork"]["branches"], &format!("{reference}/fork/branches"));
                Step { task: "fork", does: does.to_owned(), steps: branches, ..step }
            }
            () if has("try") => {
                let handler = self.list(&task["catch"]["do"], &format!("{reference}/catch/do"));
                let is_retried = task["catch"].get("retry").is_some();
                let catch = Caught { does: self.caught(&task["catch"]), is_retried, steps: handler };
                Step { task: "try", steps: inner("try"), catch: Some(catch), ..step }
            }
            () if has("raise") => Step { task: "raise", does: self.error(&task["raise"]["error"]), ..step },
            () if has("wait") => Step { task: "wait", does: duration(&task["wait"]), ..step },
            () => Step { task: "do", steps: inner("do"), ..step },
        }
    }

    fn call(&self, task: &Value, step: Step) -> Step {
        let name = task["call"].as_str().unwrap_or_default();
        if name == "http" {
            let with = &task["with"];
            let endpoint = with["endpoint"].get("uri").unwrap_or(&with["endpoint"]);
            let method = with["method"].as_str().unwrap_or_default().to_uppercase();
            let does = format!("{method} {}", expression(endpoint));
            return Step { task: "call", does, ..step };
        }
        let function = &self.document["use"]["functions"][name];
        let reference = below("/use/functions", name);
        let steps = vec![self.step(name, function, &reference)];
        Step { task: "call", does: format!("function {name}"), steps, ..step }
    }

    fn timeout(&self, timeout: &Value) -> String {
        let timeout = match timeout.as_str() {
            Some(name) => &self.document["use"]["timeouts"][name],
            None => timeout,
        };
        duration(&timeout["after"])
    }

    fn error(&self, error: &Value) -> String {
        let error = match error.as_str() {
            Some(name) => &self.document["use"]["errors"][name],
            None => error,
        };
        let parts = ["status", "type", "title"].iter().filter_map(|field| error.get(field)).map(expression);
        parts.collect::<Vec<_>>().join(" ")
    }

    fn caught(&self, catch: &Value) -> String {
        let mut words = Vec::new();
        let with = catch["errors"]["with"].as_object().into_iter().flatten();
        let filter: Vec<_> = with.map(|(field, value)| format!("{field} {}", expression(value))).collect();
        words.push(match filter.is_empty() {
            true => "any error".to_owned(),
            false => format!("errors with {}", filter.join(", ")),
        });
        let conditions = [("when", "when"), ("exceptWhen", "except when")];
        for (field, word) in conditions {
            words.extend(catch.get(field).map(|code| format!("{word} {}", expression(code))));
        }
        let retry = match catch["retry"].as_str() {
            Some(name) => &self.document["use"]["retries"][name],
            None => &catch["retry"],
        };
        if retry.is_object() {
            words.push(format!("tried again{}", retried(retry)));
        }
        words.join(", ")
    }
}

/// How it is tried again: ` 3 times, 1s apart, twice as long each time, for 1m at most`.
fn retried(retry: &Value) -> String {
    let mut words = String::new();
    if let Some(count) = retry.pointer("/limit/attempt/count") {
        words += &match count.as_u64() {
            Some(1) => " once".to_owned(),
            _ => format!(" {count} times"),
        };
    }
    words.extend(retry.get("delay").map(|delay| format!(", {} apart", duration(delay))));
    match &retry["backoff"] {
        backoff if backoff.get("exponential").is_some() => words += ", twice as long each time",
        backoff if backoff.get("linear").is_some() => words += ", longer each time",
        _ => {}
    }
    words.extend(retry.pointer("/limit/duration").map(|limit| format!(", for {} at most", duration(limit))));
    words
}

fn cases(switch: &Value) -> Vec<Case> {
    let items = switch.as_array().into_iter().flatten();
    let named = items.filter_map(|item| item.as_object()?.iter().next());
    let case = |(name, case): (&String, &Value)| Case {
        name: name.clone(),
        when: case.get("when").map(expression),
        then: case["then"].as_str().unwrap_or("continue").to_owned(),
    };
    named.map(case).collect()
}

fn turns(task: &Value) -> String {
    let each = task["for"]["each"].as_str().unwrap_or("item");
    let mut does = format!("each {each} in {}", expression(&task["for"]["in"]));
    does.extend(task.get("while").map(|code| format!(" while {}", expression(code))));
    does
}

/// The names of the fields, or the expression that gives them.
fn names(set: &Value) -> String {
    match set.as_object() {
        Some(fields) => fields.keys().cloned().collect::<Vec<_>>().join(", "),
        None => expression(set),
    }
}

/// A text as it is, an expression without `${ }`, any other value as JSON.
fn expression(value: &Value) -> String {
    let Some(text) = value.as_str() else { return value.to_string() };
    let text = text.trim();
    let code = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    code.unwrap_or(text).trim().to_owned()
}

/// `1m 5s`, `PT5S` as it is.
fn duration(value: &Value) -> String {
    let Some(fields) = value.as_object() else { return expression(value) };
    let units = [("days", "d"), ("hours", "h"), ("minutes", "m"), ("seconds", "s"), ("milliseconds", "ms")];
    let parts =
        units.iter().filter_map(|(field, unit)| Some(format!("{}{unit}", expression(fields.get(*field)?))));
    parts.collect::<Vec<_>>().join(" ")
}

/// Where the field of that name is of what stands there.
fn below(reference: &str, name: &str) -> String {
    let mut reference = reference.to_owned();
    push_token(&mut reference, name);
    reference
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A workflow with every kind of task.
    pub const ALL: &str = include_str!("all.yaml");

    pub fn all() -> Value {
        let mut documents = tulle_model::document::parse(ALL).unwrap();
        documents.remove(0).value["spec"]["workflow"].take()
    }

    #[test]
    fn every_task_stands_where_the_core_has_it() {
        let document = all();
        let workflow = tulle_model::flow::parse(&document).unwrap();
        let mut named = Vec::new();
        fn walk(steps: &[Step], named: &mut Vec<(String, String)>) {
            for step in steps {
                named.push((step.reference.clone(), step.name.clone()));
                walk(&step.steps, named);
                walk(step.catch.as_ref().map(|catch| &*catch.steps).unwrap_or_default(), named);
            }
        }
        walk(&steps(&document), &mut named);
        named.sort();
        named.dedup();
        let mut known: Vec<_> =
            workflow.tasks.iter().map(|task| (task.reference.to_string(), task.name.to_string())).collect();
        known.sort();
        known.dedup();
        assert_eq!(named, known);
    }
}
