//! `tulle.yaml`: what `tulle up` starts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tulle_model::name::ServiceName;
use tulle_model::validate::OfferedPort;
use tulle_node::supervise::Restart;
use tulle_node::workloads::UpstreamService;
use tulle_sys::cgroup_limits::Limits;
use tulle_sys::run_as::RunAs;

use super::field::Field;
use super::probe::probe;
pub use super::probe::{Check, Probe};
use super::publish::{Publish, publish};
pub use super::service_ports::Port;
use super::service_ports::ports;
use super::{check, command, limits, profiles};
use crate::exit::{Exit, Failure, Result};
use crate::manifest::Manifest;

/// What is to run.
pub struct Config {
    /// The folder of the file: commands run there, and paths are relative to it.
    pub folder: PathBuf,
    /// The file itself.
    pub file: PathBuf,
    pub name: String,
    pub namespace: String,
    /// Each after those that it depends on.
    pub services: Vec<Service>,
    /// Those that none of the chosen profiles has run.
    pub resting: Vec<Service>,
    /// The files of the services that other files describe, by name.
    pub included: HashMap<String, PathBuf>,
    pub resources: Vec<Manifest>,
    /// What else there is to call in the namespace, where the server is elsewhere.
    pub elsewhere: Vec<UpstreamService>,
    /// A line on resources of Kubernetes' own kinds, which mean nothing here.
    pub skipped: Option<String>,
    /// The files that this was read from, and where more may come.
    pub sources: Sources,
}

/// Where a description comes from: what is looked at for changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    pub files: Vec<PathBuf>,
    /// Of `resources`, each with the folder that it is relative to.
    pub patterns: Vec<(PathBuf, String)>,
}

impl Config {
    /// The ports of a Service, where it is one of ours, whether it runs or not.
    pub fn ports_of(&self, name: &ServiceName) -> Option<Vec<OfferedPort>> {
        let service = self.services.iter().chain(&self.resting).find(|s| s.name == *name.name)?;
        let offered =
            |port: &Port| OfferedPort { number: port.port, name: port.name.clone().unwrap_or_default() };
        (*name.namespace == self.namespace).then(|| service.ports.iter().map(offered).collect())
    }

    /// Has the names of all processes say which host they are of.
    ///
    /// # Errors
    /// Names the first that would be no name of a workload.
    pub fn on_host(&mut self, host: &str) -> Result<()> {
        for service in self.services.iter_mut().chain(&mut self.resting) {
            service.host = Some(host.to_owned());
            let too_long =
                check::names(service).find(|name| tulle_model::name::dns_label_problem(name).is_some());
            if let Some(name) = too_long {
                return Err(Failure::input(format!(
                    "`{name}` would be the name of a process, and is too long"
                ))
                .help("a shorter name for the service, or for this host: --name NAME"));
            }
        }
        Ok(())
    }

    /// Whether a service of that name runs.
    pub fn has(&self, name: &str) -> bool {
        self.services.iter().any(|service| service.name == name)
    }

    /// Has these services run alone, with all that they depend on.
    ///
    /// # Errors
    /// Names the first that there is not.
    pub fn choose(&mut self, names: &BTreeSet<String>) -> Result<()> {
        if let Some(name) = names.iter().find(|name| !self.services.iter().any(|s| s.name == **name)) {
            let rests = self.resting.iter().any(|s| s.name == *name);
            let known: Vec<_> = self.services.iter().map(|s| s.name.as_str()).collect();
            return Err(match rests {
                true => Failure::new(format!("`{name}` runs with none of the chosen profiles"))
                    .exit(Exit::Input)
                    .help("`--profile NAME` chooses one"),
                false => unknown_service(name, &known),
            });
        }
        let mut wanted = names.clone();
        // Each comes after those that it depends on.
        for service in self.services.iter().rev() {
            if wanted.contains(&service.name) {
                wanted.extend(service.depends_on.iter().map(|d| d.service.clone()));
            }
        }
        let (chosen, others) = self.services.drain(..).partition(|s| wanted.contains(&s.name));
        self.services = chosen;
        self.resting.extend::<Vec<_>>(others);
        Ok(())
    }

    /// What processes find in their variables, as these have it in their names.
    pub fn called(&self) -> HashSet<String> {
        let served = self.services.iter().filter(|service| !service.ports.is_empty());
        let ours = served.map(|service| service.name.as_str());
        let in_namespace = |d: &&Manifest| d.namespace() == Some(self.namespace.as_str()) && d.is_called();
        let described = self.resources.iter().filter(in_namespace).map(Manifest::name);
        ours.chain(described).map(super::own_names::as_variable).collect()
    }
}

/// What to say of a name that is none of the services.
pub fn unknown_service(name: &str, known: &[&str]) -> Failure {
    let hint = tulle_model::validate::suggest::did_you_mean(name, known.iter().copied());
    let failure = Failure::new(format!("there is no service `{name}`{hint}")).exit(Exit::NotFound);
    failure.help(format!("there are: {}", known.join(", ")))
}

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: String,
    pub command: Vec<String>,
    pub ports: Vec<Port>,
    /// Where the outside of the mesh reaches them.
    pub publish: Vec<Publish>,
    pub replicas: u32,
    /// The host whose processes these are, where the mesh has others.
    pub host: Option<String>,
    /// Whether the name of its first process has a number as those of the others.
    pub is_numbered: bool,
    pub environment: BTreeMap<String, String>,
    /// Relative to the folder of the file.
    pub directory: Option<PathBuf>,
    pub probe: Option<Probe>,
    /// A process that fails it is replaced.
    pub liveness: Option<Probe>,
    /// Commands that end well, one after another, before its processes start.
    pub init: Vec<Vec<String>>,
    pub depends_on: Vec<Dependency>,
    pub restart: Restart,
    /// Files and folders whose changes restart it.
    pub watch: Vec<PathBuf>,
    pub stop_timeout: Duration,
    /// What its processes are asked to stop by. `None`: SIGTERM.
    pub stop_signal: Option<Signal>,
    /// What each of its processes may take.
    pub limits: Limits,
    pub service_account: String,
    /// By name or number.
    pub user: Option<String>,
    pub group: Option<String>,
    /// Who that is on this host, once it is known.
    pub run_as: Option<RunAs>,
    pub labels: BTreeMap<String, String>,
    /// Of the Service.
    pub annotations: BTreeMap<String, String>,
}

impl Service {
    /// The label by which its Service finds its workloads.
    pub fn app(&self) -> &str {
        self.labels.get("app").unwrap_or(&self.name)
    }
}

/// A service that another one needs before it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Dependency {
    pub service: String,
    pub until: Until,
}

/// How far what is depended on has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It takes traffic; what is to end has ended well.
    Ready,
    /// It has ended well.
    Completed,
}

/// How long a service may take to finish what is in flight, and again to end, where it says nothing of it.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub const FIELDS: &[&str] = &["name", "namespace", "services", "resources", "include"];

pub const SERVICE_FIELDS: &[&str] = &[
    "command",
    "port",
    "ports",
    "publish",
    "replicas",
    "environment",
    "directory",
    "probe",
    "liveness",
    "init",
    "dependsOn",
    "restart",
    "stopTimeout",
    "stopSignal",
    "limits",
    "serviceAccount",
    "user",
    "group",
    "labels",
    "annotations",
    "envFile",
    "watch",
    "profiles",
];

/// What other tools have instead.
const FOREIGN_FIELDS: &[(&str, &str)] = &[
    ("args", "they belong to `command`"),
    ("build", "`command` runs what is built already"),
    ("cmd", "did you mean `command`?"),
    ("cpus", "did you mean `limits: {cpu: 500m}`?"),
    ("cwd", "did you mean `directory`?"),
    ("entrypoint", "did you mean `command`?"),
    ("env", "did you mean `environment`?"),
    ("env_file", "did you mean `envFile`?"),
    ("expose", "did you mean `port`?"),
    ("health_check", "did you mean `probe`?"),
    ("healthcheck", "did you mean `probe`?"),
    ("image", "`command` runs a program of this machine, no image"),
    ("mem_limit", "did you mean `limits: {memory: 512Mi}`?"),
    ("readinessProbe", "did you mean `probe`?"),
    ("livenessProbe", "did you mean `liveness`?"),
    ("startupProbe", "`probe` has it: `probe: {startup: 60s}`"),
    ("initContainers", "did you mean `init`?"),
    ("resources", "did you mean `limits: {memory: 512Mi, cpu: 500m}`?"),
    ("stop_grace_period", "did you mean `stopTimeout`?"),
    ("stop_signal", "did you mean `stopSignal`?"),
    ("depends_on", "did you mean `dependsOn`?"),
    ("scale", "did you mean `replicas`?"),
    ("workdir", "did you mean `directory`?"),
    ("working_dir", "did you mean `directory`?"),
];

pub fn service(name: &str, field: &Field<'_>, folder: &Path) -> Option<Service> {
    if !field.is_object_of(SERVICE_FIELDS, FOREIGN_FIELDS, "{command: ./web, port: 8080}") {
        return None;
    }
    let command = match field.get("command") {
        Some(field) => words(&field),
        None => {
            field.wrong_field("it has no command", "`command:` says what to run");
            None
        }
    };
    let directory = field.get("directory").and_then(|f| {
        let directory = PathBuf::from(f.text()?);
        if !folder.join(&directory).is_dir() {
            let shown = folder.join(&directory);
            f.wrong(&format!("there is no folder {}", shown.display()), "no such folder");
        }
        Some(directory)
    });
    profiles::check_names(field);
    // What is in the files was put into `environment`.
    if let Some(files) = field.get("envFile").filter(|files| !files.value.is_string()) {
        files.items("[a.env]").iter().for_each(|file| _ = file.text());
    }
    let depends_on = field.get("dependsOn").map(|f| dependencies(&f)).unwrap_or_default();
    let ports = ports(field);
    let restart = field.get("restart").and_then(|f| restart(&f)).unwrap_or(Restart::Always);
    if let Some(liveness) = field.get("liveness").filter(|_| restart == Restart::Never) {
        liveness
            .wrong_field("`restart: never` starts no other process in its place", "leave out one of the two");
    }
    let replicas = field.get("replicas").and_then(|f| f.number(0, 1000)).map_or(1, |n| n as u32);
    Some(Service {
        name: name.to_owned(),
        // What is missing has been said; the rest is checked all the same.
        command: command.unwrap_or_default(),
        probe: field.get("probe").and_then(|f| probe(&f, &ports)),
        liveness: field.get("liveness").and_then(|f| probe(&f, &ports)),
        init: field
            .get("init")
            .map(|f| f.items("[./migrate]").iter().filter_map(words).collect())
            .unwrap_or_default(),
        publish: field.get("publish").map(|f| publish(&f, &ports)).unwrap_or_default(),
        ports,
        replicas,
        host: None,
        is_numbered: replicas > 1,
        environment: field.get("environment").map(|f| environment(&f)).unwrap_or_default(),
        directory,
        depends_on: depends_on.into_iter().map(|(dependency, _)| dependency).collect(),
        watch: field.get("watch").map(|f| watched(&f, folder)).unwrap_or_default(),
        restart,
        stop_timeout: field.get("stopTimeout").and_then(|f| f.duration()).unwrap_or(STOP_TIMEOUT),
        stop_signal: field.get("stopSignal").and_then(|f| signal(&f)),
        limits: field.get("limits").map(|f| limits::read(&f)).unwrap_or_default(),
        service_account: field
            .get("serviceAccount")
            .map_or_else(|| Some(name.to_owned()), |f| f.label())
            .unwrap_or_default(),
        user: field.get("user").and_then(|f| f.scalar()),
        group: field.get("group").and_then(|f| f.scalar()),
        run_as: None,
        labels: field.get("labels").map(|f| map(&f.entries("{tier: front}"))).unwrap_or_default(),
        annotations: field
            .get("annotations")
            .map(|f| map(&f.entries("{tulle.dev/half-close-timeout: 1m}")))
            .unwrap_or_default(),
    })
}

/// `[api]`, or `{api: ready, migrate: completed}`: each with the field that names it.
fn dependencies<'a>(field: &Field<'a>) -> Vec<(Dependency, Field<'a>)> {
    if !field.value.is_object() {
        let named = |item: Field<'a>| {
            let service = item.text()?;
            Some((Dependency { service, until: Until::Ready }, item))
        };
        return field.items("[api], or {migrate: completed}").into_iter().filter_map(named).collect();
    }
    let entries = field.entries("{migrate: completed}").into_iter();
    let condition = |(name, item): (&str, Field<'a>)| {
        let until = item.one_of(&[("ready", Until::Ready), ("completed", Until::Completed)])?;
        Some((Dependency { service: name.to_owned(), until }, item))
    };
    entries.filter_map(condition).collect()
}

/// Files and folders that are there, relative to the file.
fn watched(field: &Field<'_>, folder: &Path) -> Vec<PathBuf> {
    let there = |item: Field<'_>| {
        let path = folder.join(item.text()?);
        if !path.exists() {
            item.wrong(&format!("there is no file or folder {}", path.display()), "no such file or folder");
        }
        Some(path)
    };
    field.items("[src/]").into_iter().filter_map(there).collect()
}

fn restart(field: &Field<'_>) -> Option<Restart> {
    field.one_of(&[
        ("always", Restart::Always),
        ("on-failure", Restart::OnFailure),
        ("never", Restart::Never),
    ])
}

/// `SIGINT`, or `INT`.
fn signal(field: &Field<'_>) -> Option<Signal> {
    let text = field.text()?.to_ascii_uppercase();
    let name = if text.starts_with("SIG") { text.clone() } else { format!("SIG{text}") };
    match name.parse() {
        Ok(Signal::SIGSTOP | Signal::SIGCONT | Signal::SIGCHLD) | Err(_) => {
            field.wrong(
                &format!("`{text}` is no signal that ends a process"),
                "such as SIGINT, SIGQUIT, SIGTERM",
            );
            None
        }
        Ok(signal) => Some(signal),
    }
}

/// The words of a command.
pub fn words(field: &Field<'_>) -> Option<Vec<String>> {
    let words = if field.value.is_array() {
        field.items("[./web]").iter().map(Field::scalar).collect::<Option<Vec<_>>>()?
    } else {
        match command::split(&field.text()?) {
            Ok(words) => words,
            Err(why) => {
                field.wrong(&why, "a command is expected");
                return None;
            }
        }
    };
    if words.first().is_none_or(String::is_empty) {
        field.wrong("it is empty", "a command is expected");
        return None;
    }
    Some(words)
}

fn map(entries: &[(&str, Field<'_>)]) -> BTreeMap<String, String> {
    entries.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.scalar()?))).collect()
}

fn environment(field: &Field<'_>) -> BTreeMap<String, String> {
    let entries = field.entries("{LOG: info}");
    for (name, field) in &entries {
        if name.is_empty() || name.contains(['=', '\0']) {
            field.wrong_field("this is no name of a variable", "no = is allowed in it");
        }
    }
    map(&entries)
}

/// The services, each after those that it depends on; otherwise as in the file.
pub fn in_order(services: Vec<Service>, fields: &HashMap<String, Field<'_>>) -> Vec<Service> {
    let names: Vec<_> = services.iter().map(|s| s.name.clone()).collect();
    let wrong = |service: &Service, name: &str, message: &str, expected: &str| {
        let Some(list) = fields[&service.name].get("dependsOn") else { return };
        let item = match list.value.is_object() {
            true => list.entries("").into_iter().find(|(key, _)| *key == name).map(|(_, item)| item),
            false => list.items("").into_iter().find(|item| item.value == name),
        };
        if let Some(item) = item {
            item.wrong(message, expected);
        }
    };
    for service in &services {
        for dependency in &service.depends_on {
            let of = services.iter().find(|other| other.name == dependency.service);
            if dependency.until == Until::Completed && of.is_some_and(|of| of.restart == Restart::Always) {
                let message =
                    format!("`{}` never completes: it is started again when it ends", dependency.service);
                wrong(service, &dependency.service, &message, "it needs `restart: on-failure`, or `never`");
            }
        }
        let names_of = service.depends_on.iter().map(|d| &d.service);
        for name in names_of.filter(|name| !fields.contains_key(*name)) {
            let known = names.iter().map(String::as_str);
            let hint = tulle_model::validate::suggest::did_you_mean(name, known);
            wrong(
                service,
                name,
                &format!("there is no service `{name}`{hint}"),
                "one of the services is expected",
            );
        }
    }
    let mut ordered: Vec<Service> = Vec::new();
    let mut waiting = services;
    loop {
        let ready = waiting.iter().position(|service| {
            let is_ordered = |name: &String| ordered.iter().any(|o| o.name == *name);
            service.depends_on.iter().all(|d| !names.contains(&d.service) || is_ordered(&d.service))
        });
        match ready {
            Some(index) => ordered.push(waiting.remove(index)),
            None => break,
        }
    }
    if let Some(cycle) = find_cycle(&waiting) {
        let first = &waiting[waiting.iter().position(|s| s.name == cycle[0]).unwrap_or(0)];
        let next = cycle.get(1).unwrap_or(&cycle[0]);
        let path = format!("{} → {}", cycle.join(" → "), cycle[0]);
        wrong(first, next, &format!("services wait for each other: {path}"), "none of them could ever start");
    }
    ordered.extend(waiting);
    ordered
}

/// A circle among services none of which can start.
fn find_cycle(waiting: &[Service]) -> Option<Vec<String>> {
    let mut path: Vec<&Service> = vec![waiting.first()?];
    loop {
        let last = path[path.len() - 1];
        let next = last.depends_on.iter().find_map(|d| waiting.iter().find(|s| s.name == d.service))?;
        if let Some(start) = path.iter().position(|s| s.name == next.name) {
            return Some(path[start..].iter().map(|s| s.name.clone()).collect());
        }
        path.push(next);
    }
}

/// What a text says, for tests of what is made of it.
#[cfg(test)]
pub fn of_text(text: &str) -> crate::exit::Result<Config> {
    use super::profiles::Profiles;
    use super::surroundings::Lookup;
    use crate::diagnostic::{Diagnostics, Source};
    use crate::manifest::UP_FILE;

    let source = Source { name: UP_FILE.to_owned(), text: text.to_owned() };
    let mut diagnostics = Diagnostics::default();
    let (file, surroundings) = ((Path::new(UP_FILE), ".".into()), Lookup::new(|_| None));
    let config = super::load::read(source, file, &surroundings, &Profiles::default(), &mut diagnostics);
    diagnostics.into_result()?;
    config?.ok_or_else(|| crate::exit::Failure::input("it describes nothing"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::probe::PROBE_FIELDS;
    use super::super::profiles::Profiles;
    use super::super::publish::PUBLISH_FIELDS;
    use super::super::service_ports::PORT_FIELDS;
    use super::super::surroundings::Lookup;
    use super::of_text as read;
    use super::*;
    use crate::diagnostic::{Diagnostics, Source};
    use crate::manifest::{self, UP_FILE};

    /// The table of docs/up.md that begins with `| HEADER |`.
    fn documented(header: &str) -> Vec<String> {
        let text = include_str!("../../../../docs/up.md");
        let rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {header} |")));
        let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.split('`').nth(1).unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn the_documentation_has_every_field() {
        for (header, fields) in [
            ("field of the file", FIELDS),
            ("field of a service", SERVICE_FIELDS),
            ("field of a port", PORT_FIELDS),
            ("field of a published port", PUBLISH_FIELDS),
            ("field of a probe", PROBE_FIELDS),
        ] {
            let mut documented = documented(header);
            documented.sort();
            let mut fields: Vec<_> = fields.to_vec();
            fields.sort_unstable();
            assert_eq!(documented, fields, "`{header}` in docs/up.md");
        }
    }

    #[test]
    fn the_examples_of_the_documentation_are_good() {
        let text = include_str!("../../../../docs/up.md");
        let mut count = 0;
        for example in text.split("```yaml\n").skip(1) {
            let example = example.split("\n```").next().unwrap();
            // Folders, and files, are not there.
            let lines = example.lines().filter(|l| !l.contains("directory:") && !l.starts_with("resources:"));
            let example: Vec<_> = lines.take_while(|line| *line != "---").collect();
            read(&example.join("\n")).unwrap();
            count += 1;
        }
        assert!(count > 0);
    }

    #[test]
    fn a_short_port_may_say_what_it_speaks() {
        let ports = |field: &str| {
            let config = read(&format!("services:\n  a:\n    command: x\n    {field}\n"));
            config.map(|config| {
                let ports = config.services[0].ports.iter();
                ports
                    .map(|p| {
                        (p.name.clone().unwrap_or_default(), p.port, p.target_port, p.app_protocol.clone())
                    })
                    .collect::<Vec<_>>()
            })
        };
        let grpc = Some("grpc".to_owned());
        assert_eq!(ports("port: 8080/grpc").unwrap(), [(String::new(), 8080, 8080, grpc.clone())]);
        assert_eq!(ports("port: 8080").unwrap(), [(String::new(), 8080, 8080, None)]);
        assert_eq!(
            ports("ports: [80/http, 81]").unwrap(),
            [("port-80".to_owned(), 80, 80, Some("http".to_owned())), ("port-81".to_owned(), 81, 81, None)]
        );
        assert_eq!(
            ports("ports: [{port: 80/grpc, targetPort: 81}]").unwrap(),
            [(String::new(), 80, 81, grpc.clone())]
        );
        assert_eq!(ports("ports: [{port: 80, appProtocol: grpc}]").unwrap(), [(String::new(), 80, 80, grpc)]);
        for (bad, why) in [
            ("port: 8080/htpp", "did you mean `http`"),
            ("port: 8080/udp", "TCP alone"),
            ("port: 80800/http", "`80800` is no port"),
            ("port: x/http", "`x` is no port"),
            ("port: 8080/", "is no protocol"),
            ("port: {port: 8080, protocol: grpc}", "`ports: "),
            ("ports: [{port: 80, protocol: grpc}]", "did you mean `appProtocol`"),
            ("ports: [{port: 80/http, appProtocol: grpc}]", "says `http` already"),
            ("ports: [80, 80/http]", "has port 80 already"),
            ("ports: [{name: a, port: 80}, {name: a, port: 81}]", "a port named `a` already"),
        ] {
            let said = ports(bad).unwrap_err().to_string();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn what_the_mesh_would_not_take_is_wrong_in_the_file() {
        let said = |services: &str| read(&format!("services:\n{services}")).err().map(|e| e.to_string());
        let long = "a".repeat(63);
        for (services, why) in [
            ("  a: {command: x, labels: {'a b': c}}", "services.a.labels.a b: `a b` is no key"),
            ("  a: {command: x, labels: {tier: 'a b'}}", "services.a.labels.tier: `a b` is no value"),
            ("  a: {command: x, port: 53}", "services.a.port: 53 is not supported"),
            ("  a: {command: x, ports: [80, 53]}", "services.a.ports[1]: 53 is not supported"),
            ("  a: {command: x, ports: [{port: 53, targetPort: 5353}]}", "services.a.ports[0]: 53 is not"),
            ("  9a: {command: x, port: 80}", "services.9a: `9a` is no name for Service objects"),
            (
                "  a: {command: x, port: 80, annotations: {tulle.dev/x: y}}",
                "annotations.tulle.dev/x: `tulle.dev/x` means",
            ),
            (
                "  a: {command: x, port: 80, annotations: {tulle.dev/preserve-header-case: web}}",
                "annotations.tulle.dev/preserve-header-case: `web` is no TCP port",
            ),
            (
                &format!("  {long}: {{command: x, replicas: 2, port: 80}}"),
                "is no name for Workload objects: it must be at most 63",
            ),
            (
                "  a: {command: x, replicas: 2}\n  a-1: {command: x}",
                "services.a: `a-1`, the name of one of its processes",
            ),
            (
                "  a: {command: x, labels: {app: b}}\n  b: {command: x, port: 80}",
                "services.a.labels.app: `b` is the label",
            ),
            (
                "  a: {command: x, port: 80, labels: {app: c}}\n  b: {command: x, labels: {app: c}}",
                "services.a.labels.app: `c` is the label of `b`",
            ),
        ] {
            let said = said(services).unwrap_or_default();
            assert!(said.contains(why), "{services}: {said:?}");
        }
        for good in [
            "  9a: {command: x}",
            "  a: {command: x, replicas: 2}\n  a-2: {command: x}",
            "  a: {command: x, port: 80, labels: {app: c, tier: front}}\n  b: {command: x, labels: {app: d}}",
            "  a: {command: x, labels: {app: c}}\n  b: {command: x, labels: {app: c}}",
            "  a: {command: x, replicas: 0, labels: {tier: front}}",
        ] {
            assert_eq!(said(good), None, "{good}");
        }
        // Nor an object twice; one that describes the Service itself is taken for it.
        let service =
            "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
        let twice = format!("  a: {{command: x, port: 80}}\n{service}{service}");
        assert!(said(&twice).unwrap_or_default().contains("Service default/a is described twice"));
        assert_eq!(said(&format!("  a: {{command: x, port: 80}}\n{service}")), None);
    }

    #[test]
    fn what_a_probe_could_never_ask_for_is_wrong_in_the_file() {
        let said = |path: &str| {
            let file = format!("services:\n  a: {{command: x, port: 80, probe: {{http: {path}}}}}\n");
            read(&file).err().map(|e| e.to_string())
        };
        for path in ["'/a b'", "' /a'", "a", "''", "\"/a\\tb\"", "\"/a\\n\"", "'/<a>'", "http://a/b"] {
            let said = said(path).unwrap_or_default();
            assert!(said.contains("services.a.probe.http: `"), "{path}: {said}");
        }
        for path in ["/", "/a%20b?c=d&e", "'/a:b'", "/ä", "//a"] {
            assert_eq!(said(path), None, "{path}");
        }
    }

    #[test]
    fn a_file_describes_something() {
        let document = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n";
        let foreign = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: n}\n";
        for nothing in ["services: {}\n".to_owned(), format!("services: {{}}\n{foreign}")] {
            let failure = read(&nothing).err().unwrap();
            assert!(failure.to_string().contains("there is nothing to run"), "{failure}");
            assert_eq!(failure.exit, crate::exit::Exit::Input);
        }
        assert!(read("services:\n").is_err() && read("name: x\n").is_err());
        assert!(read(&format!("services: {{}}\n{document}")).is_ok());
    }

    #[test]
    fn documents_that_up_could_not_keep_to_are_wrong_in_the_file() {
        let said = |document: &str| {
            let file = format!("services:\n  web: {{command: x, port: 80, replicas: 2}}\n---\n{document}\n");
            read(&file).err().map(|e| (e.exit, e.to_string()))
        };
        let mesh = |spec: &str| {
            format!("apiVersion: tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {spec}")
        };
        let tulle = |kind: &str, metadata: &str, spec: &str| {
            format!("apiVersion: tulle.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}")
        };
        let node = tulle("Node", "{name: n1}", "{}");
        let service = |metadata: &str| {
            format!("apiVersion: v1\nkind: Service\nmetadata: {metadata}\nspec: {{ports: [{{port: 80}}]}}")
        };
        let workload = |name: &str| tulle("Workload", &format!("{{name: {name}}}"), "{address: 127.0.0.1}");
        let generated = service("{generateName: a-}");
        for (document, why) in [
            (node.clone(), "kind: nodes are not created: they join with a token"),
            (
                format!("apiVersion: v1\nkind: List\nitems:\n- {}", node.replace('\n', "\n  ")),
                "nodes are not",
            ),
            (
                "apiVersion: events.k8s.io/v1\nkind: Event\nmetadata: {name: e}".to_owned(),
                "events of events.k8s.io/v1 can only be read",
            ),
            (mesh("{trustDomain: other.local}"), "spec.trustDomain: it is `mesh.local`"),
            (mesh("{trustDomain: 'no domain'}"), "is no trust domain"),
            (service("{}"), "metadata.name: is missing"),
            (service("{name: ''}"), "metadata.name: is missing"),
            (generated.clone(), "metadata.name: it is missing"),
            (service("{name: '', generateName: a-}"), "metadata.name: it is missing"),
            (workload("web-1"), "metadata.name: `web-1` is the name of a process of `web`"),
        ] {
            let (exit, said) = said(&document).unwrap_or((crate::exit::Exit::Failure, String::new()));
            assert!(said.contains(why), "{document}: {said}");
            assert_eq!(exit, crate::exit::Exit::Input, "{document}");
        }
        let twice = said(&format!("{generated}\n---\n{generated}")).unwrap().1;
        assert!(!twice.contains("described twice"), "{twice}");
        for good in [mesh("{trustDomain: mesh.local, egress: {policy: Deny}}"), mesh("{}"), workload("web-2")]
        {
            assert_eq!(said(&good).map(|(_, said)| said), None, "{good}");
        }
    }

    #[test]
    fn a_service_finds_its_workloads_by_their_label() {
        let config = read(
            "services:\n  a: {command: x, port: 80, labels: {app: shop}}\n  b: {command: x, port: 81}\n",
        );
        let selectors = config
            .unwrap()
            .services
            .iter()
            .map(|service| {
                super::super::objects::service(service, "default")["spec"]["selector"]["app"].clone()
            })
            .collect::<Vec<_>>();
        assert_eq!(selectors, ["shop", "b"]);
    }

    /// What is wrong with a text can be said of any text. The one target that libFuzzer cannot link: docs/fuzzing.md.
    fn files(input: &[u8]) {
        let Ok(text) = String::from_utf8(input.to_vec()) else { return };
        let mut diagnostics = Diagnostics::default();
        let (file, surroundings) = (Path::new("/nowhere/tulle.yaml"), Lookup::new(|_| None));
        let source = Source { name: UP_FILE.to_owned(), text: text.clone() };
        let at = (file, "/nowhere".into());
        let config =
            super::super::load::read(source, at, &surroundings, &Profiles::default(), &mut diagnostics);
        let source = Arc::new(Source { name: UP_FILE.to_owned(), text });
        if let Some(config) = config.ok().flatten().filter(|_| diagnostics.is_empty()) {
            let names: std::collections::BTreeSet<_> = config.services.iter().map(|s| &s.name).collect();
            assert_eq!(names.len(), config.services.len());
        }
        assert_eq!(diagnostics.is_empty(), diagnostics.render().is_empty());
        let mut diagnostics = Diagnostics::default();
        let mut set = manifest::ManifestSet::default();
        for document in manifest::documents(&source, &mut diagnostics) {
            set.add(&source, document, true, &mut diagnostics);
        }
        assert_eq!(diagnostics.is_empty(), diagnostics.render().is_empty());
    }

    #[test]
    fn what_is_wrong_can_be_said_of_any_text() {
        tulle_fuzz::check("files", files);
    }
}
