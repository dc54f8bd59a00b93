//! A compose file: services of containers. What is about processes is taken over, what is about containers is named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};
use tulle_model::document::Document;

use super::compose_fields::{program_of, reason};
use super::compose_ports::{Taken, point_to_own_ports, resolver, take};
use super::draft::{Condition, Draft, DraftCommand, DraftProbe, DraftService};
use super::{Places, compose_limits, procfile};
use crate::diagnostic::{Diagnostics, Source};
use crate::exit::{Failure, Result};
use crate::manifest;
use crate::units::parse_duration;
use crate::up::split;

/// Fields of the file itself that are not services.
const OF_FILE: &[(&str, &str)] = &[
    ("volumes", "processes see the files of this machine"),
    ("networks", "services reach each other by their names; AuthorizationPolicies say who may enter whom"),
    ("secrets", "processes read files of this machine, or variables"),
    ("configs", "processes read files of this machine, or variables"),
    ("include", "make a tulle.yaml of each with `tulle init --from`, and name those in `include`"),
    ("models", "what docker compose itself starts is none of ours"),
];

/// How often a service may extend one that extends another.
const MOST_EXTENDED: usize = 8;

pub fn draft(source: Source, places: &Places) -> Result<Draft> {
    let source = Arc::new(source);
    let mut diagnostics = Diagnostics::default();
    let documents = manifest::documents(&source, &mut diagnostics);
    diagnostics.into_result()?;
    let Some(document) = documents.into_iter().next() else {
        return Err(Failure::input(format!("{} is empty", source.name)));
    };
    let mut draft = Draft { from: places.name.clone(), ..Draft::default() };
    draft.name = document.value["name"].as_str().map(braced).filter(|name| !name.contains('$'));
    let services = document.value["services"].as_object().cloned().unwrap_or_default();
    let mut taken = BTreeSet::new();
    let names: BTreeMap<String, String> =
        services.keys().map(|name| (name.clone(), draft.free_name(name, &mut taken))).collect();
    let variables = places.variables();
    let resolve = resolver(&variables);
    let file = Compose {
        source: &source,
        document: &document,
        places,
        names,
        services: &services,
        resolve: &resolve,
    };
    let mut ports = Taken::new();
    for name in file.in_order() {
        file.service(name, &mut ports, &mut draft);
    }
    for (name, why) in OF_FILE.iter().filter(|(name, _)| !document.value[*name].is_null()) {
        draft.note(name, &format!("not taken over: {why}"));
    }
    Ok(draft)
}

struct Compose<'a> {
    source: &'a Source,
    document: &'a Document,
    places: &'a Places,
    /// What each of its services is called here.
    names: BTreeMap<String, String>,
    services: &'a Map<String, Value>,
    resolve: &'a dyn Fn(&str) -> Option<String>,
}

impl Compose<'_> {
    /// The services as the file has them.
    fn in_order(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.services.keys().map(String::as_str).collect();
        names.sort_by_key(|name| {
            self.document.key_span(&pointer(&["services", name])).map_or(0, |key| key.start)
        });
        names
    }

    fn service(&self, of_file: &str, ports: &mut Taken, draft: &mut Draft) {
        let mut service = DraftService { name: self.names[of_file].clone(), ..DraftService::default() };
        let name = service.name.clone();
        let fields = self.extended(of_file, draft);
        let at = |field: &str| format!("{name}.{field}");
        for field in fields.keys() {
            if let Some(why) = reason(field) {
                draft.note(&at(field), &format!("not taken over: {why}"));
            } else if field.starts_with("x-") {
                service.others.push((field.clone(), fields[field].clone()));
            }
        }
        let fields = Value::Object(fields);
        take(&fields, &mut service, ports, self.resolve, draft);
        self.command(&fields, &mut service, draft);
        self.variables(of_file, &fields, &mut service, draft);
        self.dependencies(&fields, &mut service, draft);
        service.probe = probe(&fields["healthcheck"], &service, draft);
        service.replicas = text(&fields["deploy"]["replicas"]).or_else(|| text(&fields["scale"]));
        service.profiles = texts(&fields["profiles"]);
        compose_limits::take(&fields, &mut service, draft);
        for part in fields["deploy"].as_object().into_iter().flat_map(Map::keys) {
            if !matches!(part.as_str(), "replicas" | "restart_policy" | "mode" | "resources") {
                let why = "not taken over: processes have no places of their own";
                draft.note(&at(&format!("deploy.{part}")), why);
            }
        }
        if let Some(user) = text(&fields["user"]) {
            let (user, group) =
                user.rsplit_once(':').filter(|(_, group)| !group.contains('}')).unwrap_or((&user, ""));
            service.user = Some(user.to_owned());
            service.group = Some(group.to_owned()).filter(|group| !group.is_empty());
            draft.note(
                &at("user"),
                &format!("`{user}` has to be a user of this machine, and `up` to run as root"),
            );
        }
        endings(&fields, &mut service);
        draft.services.push(service);
    }

    /// The fields of a service, with those of what it extends in this file.
    fn extended(&self, name: &str, draft: &mut Draft) -> Map<String, Value> {
        let own =
            |name: &str| self.services.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut fields = own(name);
        for _ in 0..MOST_EXTENDED {
            let Some(extends) = fields.remove("extends") else { break };
            let base = extends.as_str().or(extends["service"].as_str()).unwrap_or_default();
            if !extends["file"].is_null() || !self.services.contains_key(base) {
                let why = "not taken over: what it extends is in another file";
                draft.note(&format!("{}.extends", self.names[name]), why);
                break;
            }
            for (field, value) in own(base) {
                match (fields.get_mut(&field), value) {
                    // What depends on others is not handed down.
                    _ if field == "depends_on" => {}
                    (None, value) => _ = fields.insert(field, value),
                    (Some(Value::Object(own)), Value::Object(base)) => {
                        for (name, value) in base {
                            own.entry(name).or_insert(value);
                        }
                    }
                    _ => {}
                }
            }
        }
        fields.remove("extends");
        fields
    }

    fn command(&self, fields: &Value, service: &mut DraftService, draft: &mut Draft) {
        let image = text(&fields["image"]);
        let context = text(&fields["build"]).or_else(|| text(&fields["build"]["context"]));
        let entrypoint = words(&fields["entrypoint"]);
        let command = words(&fields["command"]);
        let what = match (&image, &context) {
            (_, Some(context)) => format!("the image built in {context}"),
            (Some(image), None) => format!("the image {image}"),
            (None, None) => "this service".to_owned(),
        };
        let field = if context.is_some() { "build" } else { "image" };
        let place = format!("{}.{field}", service.name);
        let is_whole = |words: &Vec<String>| {
            words.first().is_some_and(|first| !first.starts_with('-') && !first.is_empty())
        };
        let whole: Vec<_> = entrypoint.iter().flatten().chain(command.iter().flatten()).cloned().collect();
        // Words that begin with an option are for a program that the image names.
        if is_whole(&whole) {
            let line = fields["command"].as_str().filter(|_| entrypoint.is_none()).map(braced);
            service.command = match line.filter(|line| split(line).is_ok() && !line.contains('\n')) {
                Some(line) => DraftCommand::Line(line),
                None => DraftCommand::Words(whole),
            };
            draft.note(&place, &format!("{what} is not taken over: its program has to be on this machine"));
        } else {
            let mut hint = format!("Fill in what {what} runs");
            let known = image.as_deref().and_then(program_of).filter(|_| context.is_none());
            if let Some(known) = known {
                hint.push_str(&format!(", such as: {known}"));
            }
            service.comments.push(hint);
            for said in context.as_deref().map(|context| self.dockerfile(context, fields)).unwrap_or_default()
            {
                service.comments.push(format!("Its Dockerfile has: {said}"));
            }
            if !whole.is_empty() {
                service.comments.push(format!("The compose file gives it: {}", whole.join(" ")));
            }
            service.command = DraftCommand::Missing(what.clone());
            match image.is_some() || context.is_some() {
                true => draft.note(
                    &place,
                    &format!("{what} is not taken over: fill in `command`, which is a stand-in now"),
                ),
                false => draft.note(
                    &format!("{}.command", service.name),
                    "there is none: fill it in, it is a stand-in now",
                ),
            }
        }
        let is_folder = |path: &std::path::Path| path.is_dir();
        let built = context.as_deref().and_then(|context| self.places.existing(context, is_folder));
        let working = text(&fields["working_dir"]);
        let relative = working.as_deref().filter(|path| !path.starts_with('/'));
        let given = relative.and_then(|path| self.places.existing(path, is_folder));
        service.directory = given.or(built).filter(|path| !path.is_empty());
        if let Some(working) =
            working.as_ref().filter(|path| relative.is_none() || service.directory.is_none() && *path != ".")
        {
            let instead =
                service.directory.as_ref().map(|path| format!("; `directory` is {path}")).unwrap_or_default();
            draft.note(
                &format!("{}.working_dir", service.name),
                &format!("{working} is a folder of the image{instead}"),
            );
        }
    }

    /// What a Dockerfile says of what runs.
    fn dockerfile(&self, context: &str, fields: &Value) -> Vec<String> {
        let name = text(&fields["build"]["dockerfile"]).unwrap_or_else(|| "Dockerfile".to_owned());
        let Some(source) = self.places.source(&format!("{context}/{name}")) else { return Vec::new() };
        let last = |word: &str| {
            let mut lines = source.text.lines().map(str::trim).rev();
            lines
                .find(|line| line.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)))
                .map(str::to_owned)
        };
        [last("ENTRYPOINT "), last("CMD ")].into_iter().flatten().collect()
    }

    fn variables(&self, of_file: &str, fields: &Value, service: &mut DraftService, draft: &mut Draft) {
        let place = |field: &str| format!("{}.{field}", service.name);
        let env_files = match &fields["env_file"] {
            Value::Array(files) => files.iter().collect(),
            Value::Null => Vec::new(),
            one => vec![one],
        };
        for file in env_files {
            let Some(path) = text(file).or_else(|| text(&file["path"])) else { continue };
            match self.places.existing(&path, |path| path.is_file()) {
                Some(path) => service.env_files.push(path),
                None => draft.note(&place("env_file"), &format!("{path} is not there, and left out")),
            }
        }
        let given: Vec<(String, String)> = match &fields["environment"] {
            Value::Object(variables) => {
                let pointer = |name: &str| pointer(&["services", of_file, "environment", name]);
                let value = |(name, value): (&String, &Value)| match value {
                    Value::String(text) => Some((name.clone(), braced(text))),
                    Value::Number(_) | Value::Bool(_) => {
                        Some((name.clone(), self.written(&pointer(name), value)))
                    }
                    // It is that of who runs it, which is inherited.
                    _ => None,
                };
                let mut variables: Vec<_> = variables.iter().filter_map(value).collect();
                variables.sort_by_key(|(name, _)| {
                    self.document.key_span(&pointer(name)).map_or(0, |key| key.start)
                });
                variables
            }
            Value::Array(variables) => {
                let pair =
                    |item: &Value| item.as_str()?.split_once('=').map(|(n, v)| (n.to_owned(), braced(v)));
                variables.iter().filter_map(pair).collect()
            }
            _ => Vec::new(),
        };
        for (name, value) in given {
            let own =
                service.ports.first().is_some_and(|port| port.port == value || port.listens_at.is_some());
            if name == "PORT" && own && value.chars().all(|c| c.is_ascii_digit()) {
                draft.note(
                    &place("environment.PORT"),
                    "left out: `up` gives the process the port that it has here",
                );
            } else if name.is_empty() || name.contains('\0') {
                draft.note(&place("environment"), "a variable without a name is left out");
            } else if !service.environment.iter().any(|(other, _)| *other == name) {
                service.environment.push((name, value));
            }
        }
    }

    /// A number or truth value as it is written: `022`, `1.50`.
    fn written(&self, pointer: &str, value: &Value) -> String {
        let place = self.document.value_span(pointer).and_then(|span| self.source.text.get(span.range()));
        let same = |text: &&str| {
            let read = tulle_model::document::parse(text).ok().and_then(|mut documents| documents.pop());
            read.is_some_and(|document| document.value == *value)
        };
        place.map(str::trim).filter(same).map_or_else(|| value.to_string(), str::to_owned)
    }

    fn dependencies(&self, fields: &Value, service: &mut DraftService, draft: &mut Draft) {
        let place = format!("{}.depends_on", service.name);
        let needed: Vec<(String, &str)> = match &fields["depends_on"] {
            Value::Object(needed) => {
                let condition = |value: &'_ Value| match value["condition"].as_str() {
                    Some("service_completed_successfully") => "completed",
                    _ => "ready",
                };
                needed.iter().map(|(name, value)| (name.clone(), condition(value))).collect()
            }
            list => texts(list).into_iter().map(|name| (name, "ready")).collect(),
        };
        for (name, condition) in needed {
            let Some(known) = self.names.get(&name) else {
                draft.note(&place, &format!("there is no service {name}"));
                continue;
            };
            match condition {
                "completed" => service.depends_on.push((known.clone(), Condition::Completed)),
                _ => service.depends_on.push((known.clone(), Condition::Ready)),
            }
        }
    }
}

fn probe(check: &Value, service: &DraftService, draft: &mut Draft) -> Option<DraftProbe> {
    let place = format!("{}.healthcheck", service.name);
    if check.is_null() || check["disable"] == true {
        return None;
    }
    let mut exec = match &check["test"] {
        Value::String(line) => shell(line),
        Value::Array(_) => {
            let mut words = texts(&check["test"]);
            match words.first().map(String::as_str) {
                Some("CMD") => words.split_off(1),
                Some("CMD-SHELL") => shell(&words.split_off(1).join(" ")),
                _ => return None,
            }
        }
        _ => Vec::new(),
    };
    if exec.first().is_none_or(String::is_empty) {
        draft.note(&place, "not taken over: its command is the image's");
        return None;
    }
    point_to_own_ports(&mut exec, &service.ports);
    let mut probe = DraftProbe { exec, ..DraftProbe::default() };
    for (name, field) in [("interval", "interval"), ("timeout", "timeout"), ("startup", "start_period")] {
        let Some(time) = text(&check[field]) else { continue };
        match parse_duration(&time) {
            Ok(given) if given.is_zero() => {}
            Ok(_) => probe.timing.push((name, time)),
            Err(_) if time.contains('$') => probe.timing.push((name, time)),
            Err(why) => draft.note(&format!("{place}.{field}"), &format!("not taken over: {why}")),
        }
    }
    if let Some(retries) = text(&check["retries"]).filter(|retries| retries != "0") {
        probe.timing.push(("failures", retries));
    }
    Some(probe)
}

/// A line that a shell runs.
fn shell(line: &str) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), procfile::with_exec(&braced(line))]
}

/// What becomes of processes that end, and how they are ended.
fn endings(fields: &Value, service: &mut DraftService) {
    let policy = text(&fields["restart"]).or_else(|| text(&fields["deploy"]["restart_policy"]["condition"]));
    let restart = match policy.as_deref().map(|policy| policy.split(':').next().unwrap_or_default()) {
        Some("no" | "none" | "false") => Some("never"),
        Some("on-failure") => Some("on-failure"),
        // They are started again anyway.
        _ => None,
    };
    service.restart = restart;
    service.stop_timeout = text(&fields["stop_grace_period"]);
    service.stop_signal = text(&fields["stop_signal"]);
}

/// A text, or what YAML reads as a number.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(braced(text)),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        _ => None,
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(text).collect()
}

/// The words of a command; `None` where there is none.
fn words(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(_) => Some(texts(value)),
        Value::String(line) => {
            let line = braced(line);
            Some(split(&line).unwrap_or_else(|_| vec!["sh".to_owned(), "-c".to_owned(), line]))
        }
        _ => None,
    }
}

/// Compose puts in what follows a `$` without braces, too.
fn braced(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let length = match after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            true => after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()),
            false => 0,
        };
        rest = match length {
            0 if after.starts_with('$') => {
                out.push_str("$$");
                &after[1..]
            }
            0 => {
                out.push('$');
                after
            }
            length => {
                out.push_str(&format!("${{{}}}", &after[..length]));
                &after[length..]
            }
        };
    }
    out + rest
}

/// A JSON pointer.
fn pointer(names: &[&str]) -> String {
    let escaped = names.iter().map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1")));
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compose_puts_in_is_put_in_here() {
        for (text, expected) in [
            ("$A/${B}-$$C $1 $", "${A}/${B}-$$C $1 $"),
            ("${A:-$B}", "${A:-${B}}"),
            ("$A$B", "${A}${B}"),
            ("$$$A", "$$${A}"),
            ("ä$ä", "ä$ä"),
        ] {
            assert_eq!(braced(text), expected);
        }
    }
}
