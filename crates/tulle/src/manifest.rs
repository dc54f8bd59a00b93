//! Objects as files describe them, checked as far as that needs no server.

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::Value;
use tulle_model::compile;
use tulle_model::document::{self, Document};
use tulle_model::kubernetes::{self, Meaning};
use tulle_model::name::ServiceName;
use tulle_model::registry::{self, Kind, KindId};
use tulle_model::validate::{self, Code, FieldError, OfferedPort};

use crate::diagnostic::{Diagnostic, Diagnostics, Source};
use crate::exit::Result;

#[derive(Debug, Args)]
pub struct FileArgs {
    /// A file, a folder (its *.yaml, *.yml and *.json), or - for stdin (repeatable)
    #[arg(short, long, value_name = "PATH")]
    pub filename: Vec<PathBuf>,
    /// Folders in folders, too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Refuse objects of Kubernetes' own kinds that mean nothing here (Deployment, ServiceAccount), too: they are
    /// skipped otherwise
    #[arg(long)]
    pub strict: bool,
}

/// The file in the folder that `tulle up` is given: it says what is to run, and no other command takes it for objects.
pub const UP_FILE: &str = "tulle.yaml";

/// A larger file is no manifest.
const LARGEST_FILE: u64 = 16 << 20;

/// One object, and where it comes from.
#[derive(Clone)]
pub struct Manifest {
    pub kind: &'static Kind,
    pub value: Value,
    source: Arc<Source>,
    document: Arc<Document>,
    /// Where it is in the document: in `items` of a List.
    prefix: String,
}

impl Manifest {
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// `None` where it names none, in whatever way.
    pub fn namespace(&self) -> Option<&str> {
        self.value["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty())
    }

    /// Whether it gives the mesh a name that is called: that of a Service, or of a Flow with a trigger.
    pub fn is_called(&self) -> bool {
        let has_ports = |ports: Vec<OfferedPort>| self.kind.id == KindId::Service || !ports.is_empty();
        validate::offered_ports(self.kind.id, &self.value).is_some_and(has_ports)
    }

    /// The file that it is in, however that was named.
    pub fn file(&self) -> Option<PathBuf> {
        std::fs::canonicalize(&self.source.name).ok()
    }

    /// `HTTPRoute shop/split`
    pub fn describe(&self) -> String {
        match self.namespace() {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name()),
            None => format!("{} {}", self.kind, self.name()),
        }
    }

    /// Something is wrong at the field, or near where it should be.
    pub fn diagnostic(&self, title: impl Into<String>, pointer: &str, label: &str) -> Diagnostic {
        let mut pointer = format!("{}{pointer}", self.prefix);
        let span = loop {
            if let Some(location) = self.document.location(&pointer) {
                break location.head;
            }
            let Some(end) = pointer.rfind('/') else { break self.document.span() };
            pointer.truncate(end);
        };
        Diagnostic::new(title).at(&self.source, span.range(), label)
    }

    fn field_error(&self, error: &FieldError) -> Diagnostic {
        Diagnostic::new(error.to_string()).at(&self.source, self.span(error), label(error.code))
    }

    fn span(&self, error: &FieldError) -> Range<usize> {
        if self.prefix.is_empty() {
            return self.document.span_of(error).range();
        }
        let mut pointer = format!("{}{}", self.prefix, error.path.pointer());
        loop {
            if let Some(location) = self.document.location(&pointer) {
                return location.key.unwrap_or(location.head).range();
            }
            let Some(end) = pointer.rfind('/') else { return self.document.span().range() };
            pointer.truncate(end);
        }
    }
}

/// A few words at the mark; the title says the rest.
fn label(code: Code) -> &'static str {
    match code {
        Code::Required => "something is missing here",
        Code::Invalid => "not a value that it can have",
        Code::NotSupported => "not supported",
        Code::Unknown => "unknown field",
        Code::Duplicate => "given twice",
        Code::TypeInvalid => "wrong type",
        Code::TooLong => "too long",
        Code::TooMany => "too many",
        Code::Forbidden => "not allowed here",
        Code::NotFound => "does not exist",
    }
}

/// What files describe.
#[derive(Default)]
pub struct ManifestSet {
    pub manifests: Vec<Manifest>,
    /// Objects of Kubernetes' own kinds that mean nothing here, as kubectl names them:
    /// `deployment.apps/cart`.
    pub skipped: Vec<String>,
}

impl ManifestSet {
    /// Puts objects that name no namespace into `namespace`.
    pub fn default_namespace(&mut self, namespace: &str) {
        for manifest in self.manifests.iter_mut().filter(|m| m.kind.namespaced) {
            put_into_namespace(&mut manifest.value, namespace);
        }
    }

    /// Whether all are different objects, now that the namespace of each is known.
    ///
    /// # Errors
    /// Where one is described twice.
    pub fn check_duplicates(&self) -> Result<()> {
        let mut diagnostics = Diagnostics::default();
        find_duplicates(&self.manifests, &mut diagnostics);
        diagnostics.into_result()
    }

    /// Takes in the object of a document, or those of a List; checked. Whether what means nothing here is
    /// skipped, or wrong as well (`strict`).
    pub fn add(
        &mut self,
        source: &Arc<Source>,
        document: Document,
        strict: bool,
        diagnostics: &mut Diagnostics,
    ) {
        let document = Arc::new(document);
        let mut values = Vec::new();
        flatten(&document.value, String::new(), &mut values);
        for (prefix, value) in values {
            match skipped(&value).filter(|_| !strict) {
                Some(name) => self.skipped.push(name),
                None => self.manifests.extend(object(source, &document, prefix, value, diagnostics)),
            }
        }
    }

    /// A line on what was skipped; `None` where nothing was.
    pub fn skipped_note(&self) -> Option<String> {
        let objects = match self.skipped.len() {
            0 => return None,
            1 => "1 object was skipped: its kind is".to_owned(),
            count => format!("{count} objects were skipped: their kinds are"),
        };
        Some(format!("{objects} of Kubernetes, and without meaning here (--strict refuses that)"))
    }
}

/// The object, or those of a list and of lists in it, each with its pointer in the document.
fn flatten(value: &Value, pointer: String, objects: &mut Vec<(String, Value)>) {
    let Some(items) = items_of(value) else {
        objects.push((pointer, value.clone()));
        return;
    };
    for (index, item) in items.enumerate() {
        flatten(&item, format!("{pointer}/items/{index}"), objects);
    }
}

/// The objects of a list: a `List`, or one of a kind (`ServiceList`), whose items may leave out what the list says, as
/// what the API answers does.
fn items_of(list: &Value) -> Option<impl Iterator<Item = Value>> {
    let (version, kind) = (list["apiVersion"].as_str()?, list["kind"].as_str()?);
    let of_kind = kind.strip_suffix("List")?;
    Some(list["items"].as_array()?.iter().map(move |item| {
        let mut item = item.clone();
        if let Some(fields) = item.as_object_mut().filter(|_| !of_kind.is_empty()) {
            fields.entry("apiVersion").or_insert_with(|| version.into());
            fields.entry("kind").or_insert_with(|| of_kind.into());
        }
        item
    }))
}

/// The name of an object that is not for us, though its kind is none that somebody made up.
fn skipped(value: &Value) -> Option<String> {
    let (version, kind) = (value["apiVersion"].as_str()?, value["kind"].as_str()?);
    if kubernetes::meaning(version, kind) != Some(Meaning::Nothing) {
        return None;
    }
    let group = version.rsplit_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
    let metadata = &value["metadata"];
    let name = metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or("<no name>");
    Some(format!("{}{group}/{name}", kind.to_ascii_lowercase()))
}

fn put_into_namespace(object: &mut Value, namespace: &str) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        let given = metadata.get("namespace").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
        if !given {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
    }
}

/// Reads and checks all files; all that is wrong in any of them comes in one report.
pub fn load(args: &FileArgs) -> Result<ManifestSet> {
    let mut diagnostics = Diagnostics::default();
    let mut set = ManifestSet::default();
    for path in &args.filename {
        let mut files = Vec::new();
        expand(path, args.recursive, &mut files, &mut diagnostics);
        for file in files {
            match read(&file) {
                Ok(source) => {
                    let source = Arc::new(source);
                    for document in documents(&source, &mut diagnostics) {
                        set.add(&source, document, args.strict, &mut diagnostics);
                    }
                }
                Err(diagnostic) => diagnostics.push(diagnostic),
            }
        }
    }
    find_duplicates(&set.manifests, &mut diagnostics);
    if set.manifests.is_empty() && set.skipped.is_empty() && diagnostics.is_empty() {
        let name = |path: &PathBuf| {
            if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() }
        };
        let names: Vec<_> = args.filename.iter().map(name).collect();
        let mut diagnostic = Diagnostic::new(format!("there is no object in {}", names.join(", ")));
        for folder in args.filename.iter().filter(|path| path.join(UP_FILE).is_file()) {
            let file = folder.join(UP_FILE).display().to_string();
            diagnostic = diagnostic.help(format!("{file} is no file of objects: {}", of_up(&file)));
        }
        if !args.recursive && args.filename.iter().any(|path| has_folders(path)) {
            diagnostic = diagnostic.help("-R looks into folders in folders, too");
        }
        diagnostics.push(diagnostic);
    }
    diagnostics.into_result()?;
    Ok(set)
}

/// Whether a folder has files of objects, beside its tulle.yaml.
pub fn has_files(folder: &Path, recursive: bool) -> bool {
    let mut files = Vec::new();
    expand(folder, recursive, &mut files, &mut Diagnostics::default());
    folder.is_dir() && !files.is_empty()
}

fn expand(path: &Path, recursive: bool, files: &mut Vec<PathBuf>, diagnostics: &mut Diagnostics) {
    if !path.is_dir() {
        files.push(path.to_owned());
        return;
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            diagnostics.push(unreadable(path, &error));
            return;
        }
    };
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    for file in found {
        let known = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if file.is_dir() {
            if recursive {
                expand(&file, recursive, files, diagnostics);
            }
        } else if known && file.file_name().is_some_and(|name| name != UP_FILE) {
            files.push(file);
        }
    }
}

fn has_folders(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| entry.path().is_dir()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::new(format!("cannot read {}: {error}", path.display()))
}

/// Reads a file that should hold YAML or JSON.
pub fn read(path: &Path) -> Result<Source, Diagnostic> {
    let (name, bytes) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(LARGEST_FILE + 1).read_to_end(&mut bytes);
        read.map_err(|e| unreadable(path, &e))?;
        ("<stdin>".to_owned(), bytes)
    } else {
        let metadata = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a folder" } else { "no regular file" };
            return Err(Diagnostic::new(format!("cannot read {}: it is {what}", path.display())));
        }
        let file = std::fs::File::open(path).map_err(|e| unreadable(path, &e))?;
        let mut bytes = Vec::new();
        file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(|e| unreadable(path, &e))?;
        (path.display().to_string(), bytes)
    };
    if bytes.len() as u64 > LARGEST_FILE {
        let most = LARGEST_FILE >> 20;
        return Err(Diagnostic::new(format!("{name} is larger than {most} MiB: it is no manifest")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..valid].iter().filter(|&&b| b == b'\n').count();
            Err(Diagnostic::new(format!("{name}:{line}: this is no text in UTF-8"))
                .help("a manifest is a text in YAML or JSON"))
        }
    }
}

/// The documents of a text; none where it is no YAML.
pub fn documents(source: &Arc<Source>, diagnostics: &mut Diagnostics) -> Vec<Document> {
    match document::parse(&source.text) {
        Ok(documents) => documents,
        Err(error) => {
            let label = "the reading ends here";
            let diagnostic = Diagnostic::new(error.message).at(source, error.span.range(), label);
            let line = source.text[..error.span.range().start.min(source.text.len())].lines().next_back();
            let in_flow = line.is_some_and(|line| line.contains("${") && line.contains(['{', '[']));
            diagnostics.push(match in_flow {
                true => diagnostic.help("within { } and [ ], a text with ${…} needs quotes: [\"${A}\"]"),
                false => diagnostic,
            });
            Vec::new()
        }
    }
}

fn object(
    source: &Arc<Source>,
    document: &Arc<Document>,
    prefix: String,
    value: Value,
    diagnostics: &mut Diagnostics,
) -> Option<Manifest> {
    // A stand-in kind until the real one is known.
    let kind = registry::of_object(&value);
    let stand_in = kind.unwrap_or(&registry::KINDS[0]);
    let manifest =
        Manifest { kind: stand_in, value, source: source.clone(), document: document.clone(), prefix };
    if kind.is_none() {
        diagnostics.push(no_kind(&manifest));
        return None;
    }
    let mut errors = validate::unknown_fields(manifest.kind, &manifest.value);
    errors.extend(validate::validate(manifest.kind, &manifest.value));
    for error in &errors {
        diagnostics.push(manifest.field_error(error));
    }
    let unnamed = errors.is_empty() && manifest.name().is_empty();
    if unnamed {
        let title =
            "metadata.name: it is missing: without one, nobody knows afterwards which object is meant";
        diagnostics.push(
            manifest
                .diagnostic(title, "/metadata/generateName", "not a name yet")
                .help("`kubectl create -f` makes objects with names that are made up (generateName)"),
        );
    }
    (errors.is_empty() && !unnamed).then_some(manifest)
}

fn no_kind(manifest: &Manifest) -> Diagnostic {
    let value = &manifest.value;
    let (version, kind) = (value["apiVersion"].as_str(), value["kind"].as_str());
    if !value.is_object() {
        return manifest
            .diagnostic("an object is expected here", "", "no object")
            .help("an object begins with apiVersion: and kind:");
    }
    match (version, kind) {
        (Some(version), Some(kind)) => {
            let title = format!("no matches for kind \"{kind}\" in version \"{version}\"");
            let help = match kubernetes::meaning(version, kind) {
                Some(Meaning::Nothing) => {
                    "it is Kubernetes' own, and means nothing here: without --strict it is skipped".to_owned()
                }
                Some(Meaning::Traffic(advice)) => {
                    format!("{kind} is Kubernetes' own, and no kind of Tulle: {advice}")
                }
                None => known(version),
            };
            let is_kind = registry::KINDS.iter().any(|k| k.kind == kind);
            let pointer = if is_kind { "/apiVersion" } else { "/kind" };
            let meant = kubernetes::probably_meant(version, kind)
                .filter(|_| kubernetes::meaning(version, kind).is_none());
            let label = meant.map_or("unknown kind".to_owned(), |meant| format!("did you mean {meant}?"));
            manifest.diagnostic(title, pointer, &label).help(help)
        }
        (None, None) if value.get("services").is_some() => manifest
            .diagnostic("these are services that `tulle up` runs, and no objects", "/services", "no object")
            .help(of_up(&manifest.source.name)),
        (None, kind) => manifest
            .diagnostic("apiVersion: it is missing", "", "an object says what it is")
            .help(kind.map_or_else(|| known(""), versions_of)),
        (version, None) => manifest
            .diagnostic("kind: it is missing", "", "an object says what it is")
            .help(known(version.unwrap_or_default())),
    }
}

/// What to do with a file of `tulle up`.
fn of_up(file: &str) -> String {
    let path = Path::new(file);
    if path.file_name().is_none_or(|name| name != UP_FILE) {
        return format!("the name of such a file is {UP_FILE}, and `tulle up FOLDER` takes it");
    }
    let folder = match path.parent().map(Path::display).map(|folder| folder.to_string()) {
        Some(folder) if !folder.is_empty() => format!(" {folder}"),
        _ => String::new(),
    };
    format!("`tulle up{folder}` runs them, `tulle validate{folder}` checks the file")
}

/// In which versions there is a kind.
fn versions_of(kind: &str) -> String {
    let served: Vec<_> = registry::KINDS.iter().filter(|k| k.kind == kind).map(Kind::api_version).collect();
    if let Some(version) = served.first() {
        return format!("of {kind} it is `{version}`");
    }
    match kubernetes::probably_meant("", kind) {
        Some(meant) => format!("did you mean {meant}?"),
        None => known(""),
    }
}

/// The kinds that one may have meant: those of the group, or all.
fn known(api_version: &str) -> String {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let of_group: Vec<_> = registry::KINDS.iter().filter(|k| k.group == group && !group.is_empty()).collect();
    let all = || registry::KINDS.iter().filter(|k| !k.is_view()).collect();
    let kinds = if of_group.is_empty() { all() } else { of_group };
    let names: Vec<_> = kinds.iter().map(|k| format!("{} ({})", k.kind, k.api_version())).collect();
    format!("kinds: {}", names.join(", "))
}

/// Says which objects are there twice, and which want one name of the mesh.
pub fn find_duplicates(manifests: &[Manifest], diagnostics: &mut Diagnostics) {
    let mut seen: HashMap<_, &Manifest> = HashMap::new();
    let mut named: HashMap<_, &Manifest> = HashMap::new();
    for manifest in manifests {
        let key = (manifest.kind.id, manifest.namespace(), manifest.name());
        let (_, namespace, name) = key;
        let mut wrong = |title: String, label: &str, first: &Manifest| {
            let line = first.document.location(&first.prefix).map_or(1, |l| l.head.line);
            let there = format!("the first one is at {}:{line}", first.source.name);
            diagnostics.push(manifest.diagnostic(title, "/metadata/name", label).help(there));
        };
        if let Some(first) = seen.get(&key) {
            wrong(format!("metadata.name: {} is described twice", manifest.describe()), "given twice", first);
            continue;
        }
        seen.insert(key, manifest);
        if manifest.is_called()
            && let Some(first) = named.insert((namespace, name), manifest)
        {
            let title =
                format!("metadata.name: {} has the name of {}", manifest.describe(), first.describe());
            wrong(title, "a name of the mesh is one object's", first);
        }
    }
}

/// Adds what routes refer to and is neither among the manifests nor `known`; to missing Services and Flows, `missing`
/// as help. Without it the manifests are only a part, and what is not there is nobody's fault.
pub fn check_references(
    manifests: &[Manifest],
    known: impl Fn(KindId, &ServiceName) -> Option<Vec<OfferedPort>>,
    missing: Option<&str>,
    diagnostics: &mut Diagnostics,
) {
    let objects: Vec<(&Kind, &Value)> = manifests.iter().map(|m| (m.kind, &m.value)).collect();
    for (index, error) in validate::check_references(&objects, known) {
        let names_it = error.code == Code::NotFound && error.path.pointer().ends_with("/name");
        let diagnostic = manifests[index].field_error(&error);
        match missing {
            Some(help) if names_it => diagnostics.push(diagnostic.help(help)),
            None if names_it => {}
            _ => diagnostics.push(diagnostic),
        }
    }
}

/// Warns of what nothing comes of in routes: parents, and matches that no request reaches; see [`check_references`].
pub fn find_idle(
    manifests: &[Manifest],
    known: impl Fn(&ServiceName) -> Option<Vec<OfferedPort>>,
    warnings: &mut Diagnostics,
) {
    let objects: Vec<(&Kind, &Value)> = manifests.iter().map(|m| (m.kind, &m.value)).collect();
    for (index, field, why) in compile::find_idle(&objects, known) {
        let manifest = &manifests[index];
        let title = format!("{}: {field}: {why}", manifest.describe());
        warnings.push(manifest.diagnostic(title, &field.pointer(), "nothing comes of it").into_warning());
    }
}

/// Warns of what is valid, and nothing good comes of: what the API warns of.
pub fn find_ignored(manifests: &[Manifest], warnings: &mut Diagnostics) {
    for manifest in manifests {
        for warning in validate::warnings(manifest.kind, &manifest.value) {
            let title = format!("{}: {} {}", manifest.describe(), warning.path, warning.message);
            let label = "valid, and to be looked at";
            warnings.push(manifest.diagnostic(title, &warning.path.pointer(), label).into_warning());
        }
    }
}

/// The kinds of what a route refers to, each with the namespace.
pub fn referred_to(manifest: &Manifest) -> Vec<(KindId, String)> {
    let own = manifest.namespace().unwrap_or("default");
    let spec = &manifest.value["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut references = list(&spec["parentRefs"]);
    references.extend(list(&spec["rules"]).iter().flat_map(|rule| list(&rule["backendRefs"])));
    let namespace = |r: &Value| r["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or(own).to_owned();
    let kind = |r: &Value| if r["kind"] == "Flow" { KindId::Flow } else { KindId::Service };
    references.iter().map(|reference| (kind(reference), namespace(reference))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kind namespace/name` of the objects of a text, and what was wrong with it.
    fn read(text: &str) -> (Vec<String>, String) {
        let source = Arc::new(Source { name: "a.yaml".to_owned(), text: text.to_owned() });
        let (mut set, mut diagnostics) = (ManifestSet::default(), Diagnostics::default());
        for document in documents(&source, &mut diagnostics) {
            set.add(&source, document, false, &mut diagnostics);
        }
        let wrong = diagnostics.into_result().err().map(|failure| failure.to_string()).unwrap_or_default();
        (set.manifests.iter().map(Manifest::describe).chain(set.skipped).collect(), wrong)
    }

    #[test]
    fn an_object_has_a_name() {
        for metadata in ["{generateName: c-}", "{}", "{name: '', generateName: c-}"] {
            let (objects, wrong) = read(&format!(
                "{{apiVersion: v1, kind: Service, metadata: {metadata}, spec: {{ports: [{{port: 80}}]}}}}"
            ));
            assert!(objects.is_empty() && wrong.contains("metadata.name"), "{metadata}: {objects:?} {wrong}");
        }
        let (objects, wrong) = read(
            "{apiVersion: v1, kind: Service, metadata: {name: c, namespace: ''}, spec: {ports: [{port: 80}]}}",
        );
        assert_eq!((objects, &*wrong), (vec!["Service c".to_owned()], ""));
    }

    #[test]
    fn lists_of_a_kind_are_lists() {
        let service = "{metadata: {name: c}, spec: {ports: [{port: 80}]}}";
        let whole = "{apiVersion: v1, kind: Namespace, metadata: {name: n}}";
        let (objects, wrong) =
            read(&format!("{{apiVersion: v1, kind: ServiceList, items: [{service}, {whole}]}}"));
        assert_eq!((objects, &*wrong), (vec!["Service c".to_owned(), "Namespace n".to_owned()], ""));
        let list = "{apiVersion: apps/v1, kind: DeploymentList, items: [{metadata: {name: d}}]}";
        assert_eq!(read(list), (vec!["deployment.apps/d".to_owned()], String::new()));
        let inner =
            format!("{{apiVersion: v1, kind: List, items: [{whole}, {{kind: List, apiVersion: v1}}]}}");
        let (objects, wrong) = read(&format!("{{apiVersion: v1, kind: List, items: [{inner}, {whole}]}}"));
        assert_eq!(objects, ["Namespace n", "Namespace n"]);
        assert!(wrong.contains("no matches for kind \"List\""), "{wrong}");
        let (_, wrong) = read(&format!("{{apiVersion: v1, kind: List, items: [{service}]}}"));
        assert!(wrong.contains("apiVersion: it is missing"), "{wrong}");
        let (_, wrong) = read(&format!("{{apiVersion: v1, kind: ServiceLits, items: [{service}]}}"));
        assert!(wrong.contains("no matches for kind"), "{wrong}");
        let (_, wrong) = read("{apiVersion: v1, kind: ServiceList}");
        assert!(wrong.contains("did you mean Service in v1"), "{wrong}");
    }
}
