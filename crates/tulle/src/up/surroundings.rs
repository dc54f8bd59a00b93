//! What texts of `tulle.yaml` find: the environment of `tulle`, `.env` beside the file, and what files of a service's own say.
//! It is put in before the fields are read, so that every one of them may be said this way.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value};
use tulle_model::document::Document;
use tulle_model::validate::FieldPath;
use tulle_model::validate::suggest::did_you_mean;

use super::env_file::{self, Given};
use super::include::FilePart;
use super::interpolate::{self, Meaning, Problem, ProblemKind, Use, expand};
use super::{command, own_names};
use crate::diagnostic::{Diagnostic, Diagnostics, Source};

/// The file beside `tulle.yaml` that texts find variables in.
const ENV_FILE: &str = ".env";

/// How many bytes may be put in, in all.
const MOST: usize = 16 << 20;

/// What looks variables up.
pub struct Lookup {
    shell: fn(&str) -> Option<String>,
    /// By the folder that they are in; read when the first name is looked for there.
    files: RefCell<HashMap<PathBuf, Rc<BTreeMap<String, String>>>>,
    put_in: Cell<usize>,
}

/// Names of a Service that a text refers to by its variables: whether there is one is known once the resources are read.
pub struct Awaited {
    pub name: String,
    problem: Diagnostic,
}

impl Awaited {
    pub fn into_problem(self) -> Diagnostic {
        self.problem
    }
}

/// What came of the services of a file.
#[derive(Default)]
pub struct Prepared {
    pub awaited: Vec<Awaited>,
    /// Those that do not run now, and lack something.
    pub incomplete: HashSet<String>,
}

/// The variables that a file says, as far as it can be read.
pub fn variables(path: &Path) -> BTreeMap<String, String> {
    let Ok(source) = env_file::read(path, path) else { return BTreeMap::new() };
    let (source, mut ignored) = (Arc::new(source), Diagnostics::default());
    Lookup::of_process().variables(&source, &Purpose::Final, &[], &mut ignored)
}

impl Lookup {
    pub fn new(shell: fn(&str) -> Option<String>) -> Self {
        Self { shell, files: RefCell::default(), put_in: Cell::new(0) }
    }

    pub fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    /// Puts what is known into the fields of the file that are about no service.
    pub fn prepare_file(
        &self,
        source: &Arc<Source>,
        document: &mut Document,
        folders: &[&Path],
        diagnostics: &mut Diagnostics,
    ) {
        let mut value = std::mem::take(&mut document.value);
        let mut walk = Walk::new(self, source, document, folders, diagnostics);
        for name in ["name", "namespace", "resources", "include"] {
            if let Some(field) = value.get_mut(name) {
                walk.value(field, &FieldPath::root().field(name), &Purpose::Final);
            }
        }
        document.value = value;
    }

    /// Puts what is known into the services of all files, the first of which includes the others. `runs` says which of them do.
    pub fn prepare(
        &self,
        parts: &mut [FilePart],
        runs: impl Fn(&Value) -> bool,
        diagnostics: &mut Diagnostics,
    ) -> Prepared {
        let (running, all) = {
            let called = |service: &Value| ["port", "ports"].iter().any(|name| !service[*name].is_null());
            let services =
                || parts.iter().flat_map(FilePart::services).filter(|(_, service)| called(service));
            let running = services().filter(|(_, service)| runs(service));
            let names = |(name, _): (&String, &Value)| own_names::as_variable(name);
            (running.map(names).collect(), services().map(names).collect())
        };
        let Some(root) = parts.first().map(|part| part.folder.clone()) else { return Prepared::default() };
        let mut prepared = Prepared::default();
        for part in parts {
            let this = self.prepare_services(part, &root, (&running, &all), &runs, diagnostics);
            prepared.awaited.extend(this.awaited);
            prepared.incomplete.extend(this.incomplete);
        }
        prepared
    }

    /// `names` are the services that can be called, where those run that do, and where all do.
    fn prepare_services(
        &self,
        part: &mut FilePart,
        root: &Path,
        names: (&HashSet<String>, &HashSet<String>),
        runs: impl Fn(&Value) -> bool,
        diagnostics: &mut Diagnostics,
    ) -> Prepared {
        let mut prepared = Prepared::default();
        let mut value = std::mem::take(&mut part.document.value);
        let folders: &[&Path] = if *root == part.folder { &[root] } else { &[root, &part.folder] };
        // Those that run come first: what is wrong with a file that all read is said there.
        let services = value.get_mut("services").and_then(Value::as_object_mut).into_iter().flatten();
        let (running, others): (Vec<_>, Vec<_>) = services.partition(|(_, service)| runs(service));
        let running = running.into_iter().map(|service| (service, true));
        for ((name, service), runs) in running.chain(others.into_iter().map(|service| (service, false))) {
            let mut ignored = Diagnostics::default();
            let said = if runs { &mut *diagnostics } else { &mut ignored };
            let mut walk = Walk::new(self, &part.source, &part.document, folders, said);
            let names = if runs { names.0 } else { names.1 };
            walk.service(service, &FieldPath::root().field("services").field(name.clone()), part, names);
            let mut awaited = walk.awaited;
            if runs {
                prepared.awaited.append(&mut awaited);
            } else if !ignored.is_empty() {
                prepared.incomplete.insert(name.clone());
            }
        }
        part.document.value = value;
        prepared
    }

    /// The value of a name: that of the environment, or of the `.env` in the first of the folders that has one.
    fn find(&self, name: &str, folders: &[&Path], diagnostics: &mut Diagnostics) -> Option<String> {
        let found = (self.shell)(name)
            .or_else(|| folders.iter().find_map(|folder| self.file(folder, diagnostics).get(name).cloned()));
        self.put_in.set(self.put_in.get() + found.as_ref().map_or(0, String::len));
        found
    }

    fn file(&self, folder: &Path, diagnostics: &mut Diagnostics) -> Rc<BTreeMap<String, String>> {
        if let Some(known) = self.files.borrow().get(folder) {
            return known.clone();
        }
        let path = folder.join(ENV_FILE);
        let mut values = BTreeMap::new();
        if path.exists() {
            let beside = folder.join(crate::manifest::UP_FILE);
            match env_file::read(&path, if beside.exists() { &beside } else { folder }) {
                Ok(source) => values = self.variables(&Arc::new(source), &Purpose::Final, &[], diagnostics),
                Err(message) => diagnostics.push(Diagnostic::new(message)),
            }
        }
        let values = Rc::new(values);
        self.files.borrow_mut().insert(folder.to_owned(), values.clone());
        values
    }

    /// The variables of a file, each with what is before it put in.
    fn variables(
        &self,
        source: &Arc<Source>,
        purpose: &Purpose<'_>,
        folders: &[&Path],
        diagnostics: &mut Diagnostics,
    ) -> BTreeMap<String, String> {
        let (variables, wrong) = env_file::parse(&source.text);
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for variable in variables {
            let value = match variable.value {
                Given::Literal(text) => interpolate::literal(&text, purpose.used()),
                Given::Inherited => match (self.shell)(&variable.name) {
                    Some(text) => interpolate::literal(&text, purpose.used()),
                    None => continue,
                },
                Given::Text(text) => {
                    let before = |name: &str| (self.shell)(name).or_else(|| values.get(name).cloned());
                    let mut lookup = |name: &str, has_operator| match purpose.own(name, has_operator) {
                        true => Some(Meaning::Own),
                        false => {
                            before(name).or_else(|| self.find(name, folders, diagnostics)).map(Meaning::Text)
                        }
                    };
                    let (value, problems) = self.expand(&text, purpose.used(), &mut lookup);
                    for problem in problems {
                        let place = narrowed(&source.text, variable.place.clone(), &problem.start);
                        let (title, label) = wording(&problem.kind, purpose);
                        let title = format!("{}: {title}", variable.name);
                        diagnostics.push(Diagnostic::new(title).at(source, place, label));
                    }
                    value
                }
            };
            values.insert(variable.name, value);
        }
        if let Some(wrong) = wrong {
            let label = "`tulle` reads such files as others do";
            diagnostics.push(Diagnostic::new(wrong.message).at(source, wrong.place, label));
        }
        values
    }

    fn expand(
        &self,
        text: &str,
        used: Use,
        lookup: &mut dyn FnMut(&str, bool) -> Option<Meaning>,
    ) -> (String, Vec<Problem>) {
        if self.put_in.get() > MOST {
            let problem = Problem { kind: ProblemKind::TooLong, start: "$".to_owned() };
            return (text.to_owned(), vec![problem]);
        }
        let (out, problems) = expand(text, used, lookup);
        self.put_in.set(self.put_in.get() + out.len());
        (out, problems)
    }
}

/// What becomes of a text.
enum Purpose<'a> {
    /// It is what it says.
    Final,
    /// The node puts in Tulle's own names when it starts a process.
    Filled(&'a own_names::OwnNames<'a>),
}

impl Purpose<'_> {
    fn used(&self) -> Use {
        if matches!(self, Self::Final) { Use::Final } else { Use::Filled }
    }

    fn own(&self, name: &str, has_operator: bool) -> bool {
        match self {
            Self::Final => false,
            Self::Filled(names) => names.has(name, has_operator),
        }
    }
}

/// Goes over the texts of a document.
struct Walk<'a, 'd> {
    surroundings: &'a Lookup,
    source: &'a Arc<Source>,
    document: &'a Document,
    folders: &'a [&'a Path],
    diagnostics: &'d mut Diagnostics,
    /// Where something was said already: what an anchor stands for is in several places.
    said: HashSet<usize>,
    awaited: Vec<Awaited>,
}

impl<'a, 'd> Walk<'a, 'd> {
    fn new(
        surroundings: &'a Lookup,
        source: &'a Arc<Source>,
        document: &'a Document,
        folders: &'a [&'a Path],
        diagnostics: &'d mut Diagnostics,
    ) -> Self {
        let (said, awaited) = (HashSet::new(), Vec::new());
        Self { surroundings, source, document, folders, diagnostics, said, awaited }
    }

    fn service(&mut self, service: &mut Value, path: &FieldPath, part: &FilePart, names: &HashSet<String>) {
        let Some(fields) = service.as_object_mut() else { return };
        let is_filled =
            |name: &str| matches!(name, "command" | "environment" | "probe" | "liveness" | "init");
        for (name, value) in fields.iter_mut().filter(|(name, _)| !is_filled(name) && !name.starts_with("x-"))
        {
            self.value(value, &path.field(name.clone()), &Purpose::Final);
        }
        let mut own = own_names::OwnNames::of(fields, names);
        let from_files = self.env_files(fields, path, part, &own);
        for name in ["command", "environment"] {
            if let Some(value) = fields.get_mut(name) {
                // `environment` that is a text is wrong anyway.
                self.line(value, &path.field(name), &Purpose::Filled(&own));
            }
        }
        if !from_files.is_empty() {
            let environment = fields.entry("environment").or_insert(Value::Null);
            if environment.is_null() {
                *environment = Value::Object(Map::new());
            }
            // What is said in the file itself counts.
            for (name, value) in from_files {
                if let Some(environment) = environment.as_object_mut() {
                    environment.entry(name).or_insert(Value::String(value));
                }
            }
        }
        own.add_environment(fields);
        if let Some(commands) = fields.get_mut("init").and_then(Value::as_array_mut) {
            for (index, command) in commands.iter_mut().enumerate() {
                self.line(command, &path.field("init").index(index), &Purpose::Filled(&own));
            }
        }
        for probe in ["probe", "liveness"] {
            let path = path.field(probe);
            for (name, value) in fields.get_mut(probe).and_then(Value::as_object_mut).into_iter().flatten() {
                match name.as_str() {
                    "exec" => self.line(value, &path.field("exec"), &Purpose::Filled(&own)),
                    _ => self.value(value, &path.field(name.clone()), &Purpose::Final),
                }
            }
        }
    }

    /// The variables of the files that `envFile` names; later ones count.
    fn env_files(
        &mut self,
        fields: &Map<String, Value>,
        path: &FieldPath,
        part: &FilePart,
        own: &own_names::OwnNames<'_>,
    ) -> BTreeMap<String, String> {
        let path = path.field("envFile");
        let files: Vec<_> = match fields.get("envFile") {
            Some(Value::String(file)) => vec![(file.as_str(), path)],
            Some(Value::Array(files)) => {
                let files = files.iter().enumerate();
                files.filter_map(|(at, file)| Some((file.as_str()?, path.index(at)))).collect()
            }
            _ => Vec::new(),
        };
        let mut variables = BTreeMap::new();
        for (file, path) in files {
            match env_file::read(&part.folder.join(file), &part.file) {
                Ok(source) => {
                    let purpose = Purpose::Filled(own);
                    let source = Arc::new(source);
                    let found =
                        self.surroundings.variables(&source, &purpose, self.folders, self.diagnostics);
                    variables.extend(found);
                }
                Err(message) => {
                    let place = self.document.nearest(&path).head.range();
                    let diagnostic = Diagnostic::new(format!("{path}: {message}"));
                    self.diagnostics.push(diagnostic.at(
                        self.source,
                        place,
                        "a file of variables is expected",
                    ));
                }
            }
        }
        variables
    }

    /// Of a command that is a line its words: what is put in stays in its word, whatever it is. What is wrong with the line is said
    /// where it is read.
    fn line(&mut self, value: &mut Value, path: &FieldPath, purpose: &Purpose<'_>) {
        match value.as_str().filter(|line| line.contains('$')).map(command::split) {
            None => self.value(value, path, purpose),
            Some(Err(_)) => {}
            Some(Ok(words)) => {
                let words = words.iter().map(|word| self.text(word, path, purpose));
                *value = words.collect::<Vec<_>>().into();
            }
        }
    }

    fn value(&mut self, value: &mut Value, path: &FieldPath, purpose: &Purpose<'_>) {
        match value {
            Value::String(text) if text.contains('$') => *text = self.text(text, path, purpose),
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.value(item, &path.index(index), purpose);
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut().filter(|(name, _)| !name.starts_with("x-")) {
                    self.value(field, &path.field(name.clone()), purpose);
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str, path: &FieldPath, purpose: &Purpose<'_>) -> String {
        let (surroundings, folders) = (self.surroundings, self.folders);
        let diagnostics = &mut *self.diagnostics;
        let mut lookup = |name: &str, has_operator| match purpose.own(name, has_operator) {
            true => Some(Meaning::Own),
            false => surroundings.find(name, folders, diagnostics).map(Meaning::Text),
        };
        let (out, problems) = surroundings.expand(text, purpose.used(), &mut lookup);
        for problem in problems {
            self.report(&problem, path, purpose);
        }
        out
    }

    fn report(&mut self, problem: &Problem, path: &FieldPath, purpose: &Purpose<'_>) {
        let whole = self.document.nearest(path).value.range();
        let place = narrowed(&self.source.text, whole, &problem.start);
        if !self.said.insert(place.start) {
            return;
        }
        let (title, label) = wording(&problem.kind, purpose);
        let mut diagnostic = Diagnostic::new(format!("{path}: {title}")).at(self.source, place, label);
        let ProblemKind::Unset(name) = &problem.kind else {
            return self.diagnostics.push(diagnostic);
        };
        let files: Vec<_> =
            self.folders.iter().map(|folder| folder.join(ENV_FILE).display().to_string()).collect();
        let help =
            format!("it is looked for in the environment of `tulle`, then in {}", files.join(", then in "));
        diagnostic = diagnostic.help(help);
        match own_names::service_of(name).filter(|_| purpose.used() == Use::Filled) {
            Some(name) => self.awaited.push(Awaited { name: name.to_owned(), problem: diagnostic }),
            None => self.diagnostics.push(diagnostic),
        }
    }
}

/// The reference itself, where the text has it as it is read.
fn narrowed(text: &str, place: Range<usize>, start: &str) -> Range<usize> {
    let Some(shown) = text.get(place.clone()) else { return place };
    let begins = |at: &usize| {
        let after = &shown[at + start.len()..];
        !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    };
    let Some(at) = shown.match_indices(start).map(|(at, _)| at).find(begins) else { return place };
    let inside = &shown[at + start.len().min(2)..];
    let end = interpolate::closing(inside).map_or(at + start.len(), |end| at + 2 + end + 1);
    place.start + at..place.start + end.min(shown.len())
}

fn wording(kind: &ProblemKind, purpose: &Purpose<'_>) -> (String, String) {
    match kind {
        ProblemKind::Unset(name) => {
            let hint = match purpose {
                Purpose::Filled(own) => did_you_mean(name, own.suggestions()),
                Purpose::Final if own_names::is_own(name) => {
                    "; Tulle's own names are known in `command`, `environment` and `exec`".to_owned()
                }
                Purpose::Final => String::new(),
            };
            let without_port = matches!(purpose, Purpose::Filled(_)) && own_names::is_port(name);
            let hint = if without_port && hint.is_empty() { "; the service has no such port" } else { &hint };
            (
                format!("`{name}` is set nowhere{hint}"),
                format!("`${{{name}:-default}}` does without; `$${{{name}}}` is a shell's"),
            )
        }
        ProblemKind::Demanded(name, message) if message.is_empty() => {
            (format!("`{name}` is not set"), "it has to be".to_owned())
        }
        ProblemKind::Demanded(name, message) => {
            (format!("`{name}` is not set: {message}"), "it has to be".to_owned())
        }
        ProblemKind::Malformed(what) => (what.clone(), "`${NAME}` is expected; `$$` is a `$`".to_owned()),
        ProblemKind::TooDeep => ("defaults are nested too deep".to_owned(), "16 levels at most".to_owned()),
        ProblemKind::TooLong => (
            "too much is put in here".to_owned(),
            format!("{} KiB at most, and {} MiB in all", interpolate::LONGEST >> 10, MOST >> 20),
        ),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::config::{Check, Config};
    use super::super::profiles::Profiles;

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn load(folder: &TempDir) -> Result<Config, String> {
        super::super::load(folder.path(), &Profiles::default())
            .map_err(|failure| anstream::adapter::strip_str(&failure.to_string()).to_string())
    }

    #[track_caller]
    fn wrong(files: &[(&str, &str)], expected: &[&str]) {
        let said = load(&folder(files)).err().unwrap_or_default();
        assert!(expected.iter().all(|expected| said.contains(expected)), "{expected:?} in {said}");
    }

    #[test]
    fn texts_find_the_environment_then_the_file_beside() {
        let yaml = "namespace: ${NS:-shop}
x-log: &log {LOG: \"${LEVEL}\"}
services:
  web:
    command: ./web --title \"${TITLE}\" --port ${PORT} --api ${API_SERVICE_HOST} --path ${PATH:+there} ${N:-a b}
    port: ${WEB_PORT}
    replicas: ${COUNT:-2}
    environment: {<<: *log, TEXT: '$${PORT} costs $5', HOME_OF: \"${HOME}\", NUMBER: 022}
    probe: {exec: 'sh -c \"./check ${LOG} $$1\"', timeout: \"${T:-3s}\"}
    labels: {tier: \"${TIER-front}\"}
    x-note: ${NOT_READ}
  api: {command: ['sh', '-c', 'exec ./api $PORT'], port: 9000}
";
        let env = "# of the whole project\nTITLE='It''s'\nLEVEL=debug\nWEB_PORT=8080\nPATH=/nowhere\nexport URL=\"http://${LEVEL}\"\n";
        let env = env.replace("It''s", "two words; $X");
        let config = load(&folder(&[("tulle.yaml", yaml), (".env", &env)])).unwrap();
        assert_eq!(config.namespace, "shop");
        let web = &config.services[config.services.iter().position(|s| s.name == "web").unwrap()];
        assert_eq!(
            web.command,
            [
                "./web",
                "--title",
                "two words; $X",
                "--port",
                "${PORT}",
                "--api",
                "${API_SERVICE_HOST}",
                "--path",
                "there",
                "a b"
            ]
        );
        assert_eq!((web.ports[0].port, web.replicas), (8080, 2));
        let variable = |name: &str| web.environment[name].as_str();
        assert_eq!(
            [variable("LOG"), variable("TEXT"), variable("HOME_OF"), variable("NUMBER")],
            ["debug", "${$}{PORT} costs $5", "${HOME}", "022"]
        );
        let probe = web.probe.as_ref().unwrap();
        assert_eq!(probe.check, Check::Exec(["sh", "-c", "./check ${LOG} $1"].map(str::to_owned).to_vec()));
        assert_eq!(probe.timeout, Some(std::time::Duration::from_secs(3)));
        assert_eq!(web.labels["tier"], "front");
    }

    #[test]
    fn what_is_set_nowhere_is_wrong_in_its_line() {
        for (fields, expected) in [
            (
                "command: ./web ${NOWHERE_SET}",
                &["services.a.command: `NOWHERE_SET` is set nowhere", ":3:20"][..],
            ),
            (
                "command: x\n    environment: {A: \"b ${NOWHERE_SET}\"}",
                &["services.a.environment.A: `NOWHERE_SET`", ":4:25"],
            ),
            ("command: x ${PORT}", &["`PORT` is set nowhere; the service has no such port"]),
            ("command: x ${PROT}\n    port: 80", &["`PROT` is set nowhere; did you mean `PORT`?"]),
            ("command: x ${B_SERVICE_HOST}", &["`B_SERVICE_HOST` is set nowhere"]),
            ("command: x\n    directory: ${SERVICE}", &["Tulle's own names are known in `command`"]),
            ("command: x ${N:?say it in .env}", &["`N` is not set: say it in .env"]),
            ("command: [sh, -c, 'echo ${x%y}']", &["`${x%y}` is no reference", "`$$` is a `$`", ":3:29"]),
            ("command: x\n    port: ${P:-99999}", &["99999 is not allowed"]),
            ("command: x\n    port: ${P:-http}", &["it is a text, a whole number"]),
        ] {
            let yaml = format!("services:\n  a:\n    {fields}\n");
            wrong(&[("tulle.yaml", &yaml)], expected);
        }
        // What an anchor stands for is said once.
        let yaml = "x-a: &a\n  A: ${NOWHERE_SET}\nservices:\n  a: {command: x, environment: *a}\n  b: {command: x, environment: {<<: *a}}\n";
        wrong(&[("tulle.yaml", yaml)], &["services.b.environment.A: `NOWHERE_SET`", "tulle.yaml:2:6"]);
        // Of documents' Services there are variables, too.
        let service =
            "---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 80}]}\n";
        let yaml = format!("services:\n  a: {{command: 'x ${{B_SERVICE_HOST}}'}}\n{service}");
        assert!(load(&folder(&[("tulle.yaml", &yaml)])).is_ok());
    }

    #[test]
    fn files_of_variables_are_read() {
        let yaml = "services:\n  a:\n    command: x\n    port: 80\n    envFile: [a.env, b/b.env]\n    environment: {C: own}\n  \
                    b: {command: x, envFile: a.env}\n";
        let a = "A=1\nB=http://localhost:${PORT:-81}\nC='${PORT}'\n";
        let files = [("tulle.yaml", yaml), ("a.env", a), ("b/b.env", "A=2\nD=$${X} ${A}\n")];
        let config = load(&folder(&files)).unwrap();
        let shown = |index: usize| {
            let variables = config.services[index].environment.iter();
            variables.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(shown(0), ["A=2", "B=http://localhost:${PORT}", "C=own", "D=${$}{X} 2"]);
        assert_eq!(shown(1), ["A=1", "B=http://localhost:81", "C=${$}{PORT}"]);
        wrong(&files[..2], &["services.a.envFile[1]: cannot read", "b/b.env", "tulle.yaml:5:22"]);
        let bad = [files[0], files[1], ("b/b.env", "A=2\nno variable\n")];
        wrong(&bad, &["`NAME=value` is expected", "b/b.env:2:1"]);
        wrong(
            &[files[0], files[1], ("b/b.env", "A=2\nB=${NOWHERE_SET}\n")],
            &["B: `NOWHERE_SET`", "b/b.env:2:3"],
        );
        wrong(
            &[("tulle.yaml", "services: {a: {command: 'x ${A}'}}"), (".env", "A='1\n")],
            &["not closed", ".env:1:3"],
        );
        wrong(
            &[("tulle.yaml", "services: {a: {command: x, envFile: {a: b}}}")],
            &["services.a.envFile: it is an object"],
        );
        // Nobody asks what is in a file that nobody needs.
        assert!(load(&folder(&[("tulle.yaml", "services: {a: {command: x}}"), (".env", "'")])).is_ok());
    }

    #[test]
    fn root_reads_nothing_out_to_who_cannot() {
        use std::os::unix::fs::{PermissionsExt, chown};
        if !tulle_sys::is_root() {
            return;
        }
        let files = [
            ("tulle.yaml", "include: [b.yaml]\nservices: {a: {command: 'x ${A}', envFile: a.env}}"),
            ("a.env", "A=1"),
            (".env", "A=1"),
            ("b.yaml", "services: {}"),
        ];
        let folder = folder(&files);
        let path = |name: &str| folder.path().join(name);
        chown(path("tulle.yaml"), Some(65_534), None).unwrap();
        assert!(load(&folder).is_ok());
        for (name, _) in &files[1..] {
            let mode = |mode| {
                std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
            };
            mode(0o600);
            let said = load(&folder).err().unwrap_or_default();
            assert!(said.contains("is not for who owns") && !said.contains("A=1"), "{name}: {said}");
            chown(path(name), Some(65_534), None).unwrap();
            assert!(load(&folder).is_ok());
        }
    }

    #[test]
    fn what_is_put_in_is_bounded() {
        let mut env = "A=x23456789\n".to_owned();
        for (last, next) in ('A'..='X').zip('B'..) {
            env += &format!("{next}=${{{last}}}${{{last}}}${{{last}}}\n");
        }
        wrong(
            &[("tulle.yaml", "services: {a: {command: 'x ${Y}'}}"), (".env", &env)],
            &["too much is put in"],
        );
    }

    #[test]
    fn profiles_choose_what_runs() {
        let yaml = "services:\n  a: {command: x, port: 80}\n  b: {command: 'x ${NOWHERE_SET}', port: '${NOWHERE_SET}', profiles: [debug, all]}\n  \
                    c: {command: x, profiles: [all], port: 80}\n";
        let folder = folder(&[("tulle.yaml", yaml)]);
        let names = |config: Config| config.services.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(load(&folder).unwrap()), ["a"]);
        wrong(
            &[("tulle.yaml", "services: {a: {command: x, profiles: [a b]}}")],
            &["`a b` is no name of a profile"],
        );
        wrong(&[("tulle.yaml", "services: {a: {command: x, profiles: b}}")], &["it is a text, a list"]);
        // What is wrong otherwise is said of those that rest, too.
        wrong(
            &[("tulle.yaml", "services: {a: {comand: x, profiles: [b]}}")],
            &["services.a.comand: there is no such field"],
        );
        wrong(
            &[(
                "tulle.yaml",
                "services:\n  a: {command: x, dependsOn: [b]}\n  b: {command: x, profiles: [c]}\n",
            )],
            &["services.a.dependsOn[0]: `b` does not run: none of its profiles (c) is chosen", ":2:31"],
        );
    }

    #[test]
    fn files_include_others() {
        let yaml = "include: [shop/tulle.yaml, bank]\nservices:\n  web: {command: x, dependsOn: [cart]}\n";
        let cart = "name: cart\nservices:\n  cart: {command: ./cart, port: 80, envFile: a.env, environment: {B: \"${B} ${C}\"}}\n  db: {command: x, directory: data}\n\
                    resources: [*.yaml]\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n";
        let cart = &cart.replace("[*.yaml]", "['r*.yaml']");
        let files = [
            ("tulle.yaml", yaml),
            (".env", "B=root"),
            ("shop/tulle.yaml", cart),
            ("shop/a.env", "A=1"),
            ("shop/.env", "B=own\nC=own"),
            ("shop/data/x", ""),
            ("shop/routes.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: m}\n"),
            ("bank/tulle.yaml", "include: [../shop/tulle.yaml]\nservices: {bank: {command: x}}\n"),
        ];
        let folder = folder(&files);
        let config = load(&folder).unwrap();
        let service = |name: &str| config.services.iter().find(|s| s.name == name).unwrap();
        let shop = std::path::absolute(folder.path()).unwrap().join("shop");
        assert_eq!(service("cart").directory.as_deref(), Some(shop.join("").as_path()));
        assert_eq!(service("db").directory, Some(shop.join("data")));
        assert_eq!(service("web").directory, None);
        let variables = &service("cart").environment;
        assert_eq!((variables["A"].as_str(), variables["B"].as_str()), ("1", "root own"));
        assert_eq!((config.services.len(), config.resources.len()), (4, 2));
        assert_eq!(config.included["cart"], shop.join("tulle.yaml"));

        let included = |text: &str, expected: &[&str]| {
            wrong(
                &[("tulle.yaml", yaml), ("bank/tulle.yaml", "services: {}"), ("shop/tulle.yaml", text)],
                expected,
            );
        };
        included(
            "services: {cart: {command: x}, web: {command: x}}",
            &["services.web: it is described twice", "/tulle.yaml:3", "shop/tulle.yaml:1:"],
        );
        included(
            "include: [../tulle.yaml]",
            &["include: files include each other: ", "shop/tulle.yaml → ", "shop/tulle.yaml:1:11"],
        );
        included("include: [tulle.yaml]\nservices: {cart: {command: x}}", &["files include each other"]);
        included("include: [none.yaml]", &["include: cannot read", "none.yaml"]);
        included(
            "namespace: other\nservices: {cart: {command: x}}",
            &["namespace: it is `default` in the file that includes"],
        );
        included(
            "services: {cart: {comand: x}}",
            &["services.cart.comand: there is no such field", "shop/tulle.yaml:1:"],
        );
        wrong(&[("tulle.yaml", "include: x\nservices: {}")], &["include: it is a text, a list"]);
    }
}
