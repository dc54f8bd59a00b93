//! What is to become a tulle.yaml, and how that is written.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::scalar::{block, flow, flow_list, json};

/// A file, and what could not be taken over into it: a line each, which begins with the field.
#[derive(Default)]
pub struct Draft {
    /// The file that it comes from.
    pub from: String,
    pub name: Option<String>,
    pub services: Vec<DraftService>,
    pub notes: Vec<String>,
}

#[derive(Default)]
pub struct DraftService {
    pub name: String,
    /// Lines above its command.
    pub comments: Vec<String>,
    pub command: DraftCommand,
    pub ports: Vec<DraftPort>,
    /// Ports of this host, and the Service's that each leads to where there are several.
    pub publish: Vec<(u16, Option<u16>)>,
    pub replicas: Option<String>,
    pub profiles: Vec<String>,
    pub depends_on: Vec<(String, Condition)>,
    pub env_files: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub directory: Option<String>,
    pub probe: Option<DraftProbe>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub restart: Option<&'static str>,
    pub stop_timeout: Option<String>,
    pub stop_signal: Option<String>,
    pub memory: Option<String>,
    pub cpu: Option<String>,
    /// Those with `x-`.
    pub others: Vec<(String, Value)>,
}

pub enum DraftCommand {
    Line(String),
    Words(Vec<String>),
    /// There is none: a stand-in says so when it runs. This is what it stands in for.
    Missing(String),
}

impl Default for DraftCommand {
    fn default() -> Self {
        Self::Words(Vec::new())
    }
}

pub struct DraftPort {
    pub name: Option<String>,
    /// The Service's, as it is written: a number, or with a variable in it.
    pub port: String,
    /// Where the process listens, where that is not the same.
    pub listens_at: Option<u16>,
    pub protocol: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Ready,
    Completed,
}

#[derive(Default)]
pub struct DraftProbe {
    pub exec: Vec<String>,
    /// `interval`, `timeout`, `failures`, `startup`, as they are written.
    pub timing: Vec<(&'static str, String)>,
}

impl Draft {
    /// Says what could not be taken over.
    pub fn note(&mut self, field: &str, why: &str) {
        self.notes.push(format!("{field}: {why}"));
    }

    pub fn to_yaml(&self) -> String {
        let mut out =
            format!("# Made of {} by `tulle init`. All fields are in docs/up.md.\n", one_line(&self.from));
        if let Some(name) = &self.name {
            let _ = writeln!(out, "name: {}", block(name));
        }
        out.push_str("services:\n");
        for service in &self.services {
            service.write(&mut out);
        }
        out
    }

    /// Gives each service a name that can be one, and that no other one has. Returns it.
    pub fn free_name(&mut self, wanted: &str, taken: &mut BTreeSet<String>) -> String {
        const LONGEST: usize = 50;
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let name: String = wanted
            .to_ascii_lowercase()
            .chars()
            .map(|c| if is_good(c) { c } else { '-' })
            .take(LONGEST)
            .collect();
        // Services' names begin with a letter.
        let name = name.trim_matches('-');
        let mut name = match name.chars().next() {
            Some(first) if first.is_ascii_lowercase() => name.to_owned(),
            _ => format!("s-{name}").trim_end_matches('-').to_owned(),
        };
        while taken.contains(&name) {
            name.push_str("-2");
        }
        if name != wanted {
            self.note(
                wanted,
                &format!("is called `{name}`, as names are those of DNS: who calls it needs that one"),
            );
        }
        taken.insert(name.clone());
        name
    }
}

impl DraftService {
    fn write(&self, out: &mut String) {
        let _ = writeln!(out, "  {}:", self.name);
        for comment in &self.comments {
            let _ = writeln!(out, "    # {}", one_line(comment));
        }
        let mut line = |name: &str, value: String| {
            // What has lines of its own begins below its name.
            let space = if value.starts_with('\n') { "" } else { " " };
            let _ = writeln!(out, "    {name}:{space}{value}");
        };
        match &self.command {
            DraftCommand::Line(text) => line("command", block(text)),
            DraftCommand::Words(words) => line("command", flow_list(words)),
            DraftCommand::Missing(what) => {
                let says = format!("{}: fill in its command in tulle.yaml, for {what}", self.name);
                let words = ["sh", "-c", &format!("echo {} >&2; exec sleep infinity", quoted(&says))];
                line("command", flow_list(&words));
            }
        }
        if let [only] = self.ports.as_slice()
            && let Some(short) = only.short()
        {
            line("port", block(&short));
        } else if !self.ports.is_empty() {
            let ports: Vec<_> = self.ports.iter().map(|port| format!("\n    - {}", port.long())).collect();
            line("ports", ports.concat());
        }
        let published = self.publish.iter().map(|(port, to)| match to {
            Some(to) => format!("{{port: {port}, to: {to}}}"),
            None => port.to_string(),
        });
        match published.collect::<Vec<_>>().as_slice() {
            [] => {}
            [only] => line("publish", only.clone()),
            several => line("publish", format!("[{}]", several.join(", "))),
        }
        let mut text = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                line(name, block(value));
            }
        };
        text("replicas", &self.replicas);
        text("directory", &self.directory);
        text("user", &self.user);
        text("group", &self.group);
        text("restart", &self.restart.map(str::to_owned));
        text("stopTimeout", &self.stop_timeout);
        text("stopSignal", &self.stop_signal);
        let limits = [("memory", &self.memory), ("cpu", &self.cpu)];
        let limits: Vec<_> = limits
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}: {}", flow(value.as_ref()?))))
            .collect();
        if !limits.is_empty() {
            line("limits", format!("{{{}}}", limits.join(", ")));
        }
        for (name, values) in [("profiles", &self.profiles), ("envFile", &self.env_files)] {
            if !values.is_empty() {
                line(name, flow_list(values));
            }
        }
        if !self.depends_on.is_empty() {
            line("dependsOn", dependencies(&self.depends_on));
        }
        if !self.environment.is_empty() {
            let variables = self.environment.iter();
            let variables =
                variables.map(|(name, value)| format!("\n      {}: {}", block(name), block(value)));
            line("environment", variables.collect());
        }
        if let Some(probe) = &self.probe {
            let timing = probe.timing.iter().map(|(name, value)| format!("\n      {name}: {}", block(value)));
            line("probe", format!("\n      exec: {}{}", flow_list(&probe.exec), timing.collect::<String>()));
        }
        for (name, value) in &self.others {
            line(&block(name), json(value));
        }
    }
}

/// A list, or where it matters an object with what each is waited for.
fn dependencies(services: &[(String, Condition)]) -> String {
    if services.iter().all(|(_, condition)| *condition == Condition::Ready) {
        let names: Vec<_> = services.iter().map(|(name, _)| name).collect();
        return flow_list(&names);
    }
    let word = |condition| if condition == Condition::Ready { "ready" } else { "completed" };
    let each: Vec<_> =
        services.iter().map(|(name, condition)| format!("{name}: {}", word(*condition))).collect();
    format!("{{{}}}", each.join(", "))
}

impl DraftPort {
    fn short(&self) -> Option<String> {
        let protocol = self.protocol.as_ref();
        match (self.listens_at, protocol) {
            (None, None) => Some(self.port.clone()),
            (None, Some(protocol)) => Some(format!("{}/{protocol}", self.port)),
            (Some(_), _) => None,
        }
    }

    fn long(&self) -> String {
        let name = self.name.as_ref().map(|name| format!("name: {}, ", flow(name)));
        let listens_at = self.listens_at.map(|port| format!(", targetPort: {port}"));
        let protocol = self.protocol.as_ref().map(|protocol| format!(", appProtocol: {}", flow(protocol)));
        format!(
            "{{{}port: {}{}{}}}",
            name.unwrap_or_default(),
            flow(&self.port),
            listens_at.unwrap_or_default(),
            protocol.unwrap_or_default()
        )
    }
}

/// A comment ends with its line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A word of a shell's line, in a text into which nothing is put.
fn quoted(text: &str) -> String {
    let text = one_line(text);
    match text.contains(['"', '\\', '`', '$']) {
        true => format!("'{}'", text.replace('\'', "'\\''").replace('$', "$$")),
        false => format!("\"{text}\""),
    }
}
