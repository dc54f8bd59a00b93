//! Reads `tulle.yaml` with the files that it includes and its resources, and holds them against each other.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tulle_model::document::Document;
use tulle_model::name::{ServiceName, dns_label_problem};
use tulle_model::registry::KindId;

use super::config::{Config, FIELDS, Sources, in_order, service};
use super::field::{Field, Reader};
use super::include::{self, FilePart};
use super::profiles::Profiles;
use super::publish::find_taken;
use super::service_ports::find_shared_ports;
use super::surroundings::Lookup;
use crate::diagnostic::{Diagnostic, Diagnostics, Source};
use crate::exit::Result;
use crate::manifest::{self, UP_FILE};

/// Reads the file in `path`, or at it, with the services of these profiles. All that is wrong comes in one report.
pub fn load(path: &Path, profiles: &Profiles) -> Result<Config> {
    let file = if path.is_dir() { path.join(UP_FILE) } else { path.to_owned() };
    let folder = file.parent().map(Path::to_owned).unwrap_or_default();
    let folder = std::path::absolute(if folder.as_os_str().is_empty() { ".".into() } else { folder })?;
    let mut diagnostics = Diagnostics::default();
    let config = match manifest::read(&file) {
        Ok(source) => {
            let surroundings = Lookup::of_process();
            read(source, (&file, folder), &surroundings, profiles, &mut diagnostics)
        }
        Err(diagnostic) => {
            let help = format!("`tulle up DIR` runs what DIR/{UP_FILE} describes");
            diagnostics.push(diagnostic.help(help));
            Ok(None)
        }
    };
    diagnostics.into_result()?;
    config?.ok_or_else(|| crate::exit::Failure::input(format!("{} describes nothing", file.display())))
}

pub fn read(
    source: Source,
    (file, folder): (&Path, PathBuf),
    surroundings: &Lookup,
    profiles: &Profiles,
    diagnostics: &mut Diagnostics,
) -> Result<Option<Config>> {
    let mut parts = include::parts(source, file.to_owned(), folder, surroundings, diagnostics);
    let runs = |service: &Value| profiles.runs(service);
    let prepared = surroundings.prepare(&mut parts, runs, diagnostics);
    let found = RefCell::new(std::mem::take(diagnostics));
    let config = config(&parts, profiles, &prepared.incomplete, &found);
    *diagnostics = found.into_inner();
    let Some((mut config, patterns)) = config else { return Ok(None) };
    config.sources.files = parts.iter().flat_map(FilePart::files).collect();
    if diagnostics.is_empty() {
        profiles.check(parts.iter().flat_map(FilePart::services).map(|(_, service)| service))?;
    }
    let mut set = manifest::ManifestSet::default();
    let describes_none = parts.iter().all(|part| nothing_runs(&part.document));
    let first = parts.first().map(|part| {
        let place = part.document.value_span("/services").unwrap_or_else(|| part.document.span());
        (part.source.clone(), place.range())
    });
    for part in parts {
        for document in part.resources {
            set.add(&part.source, document, false, diagnostics);
        }
    }
    for Pattern { folder, pattern, source, place } in patterns {
        config.sources.patterns.push((folder.clone(), pattern.clone()));
        for file in super::files::matching(&folder, &pattern) {
            match manifest::read(&file) {
                Ok(source) => {
                    let source = Arc::new(source);
                    for document in manifest::documents(&source, diagnostics) {
                        set.add(&source, document, false, diagnostics);
                    }
                }
                Err(diagnostic) => diagnostics.push(diagnostic.at(&source, place.clone(), "named here")),
            }
        }
    }
    set.default_namespace(&config.namespace);
    config.skipped = set.skipped_note();
    if let Some((source, place)) = first
        && describes_none
        && set.manifests.is_empty()
        && diagnostics.is_empty()
    {
        let title = "services: there is none, and no resource either: there is nothing to run";
        let diagnostic = Diagnostic::new(title).at(&source, place, "such as web: {command: ./web}");
        diagnostics
            .push(diagnostic.help("`tulle server` and `tulle node` are a mesh without services of its own"));
    }
    config.resources = set.manifests;
    let called = config.called();
    let missing = prepared.awaited.into_iter().filter(|awaited| !called.contains(&awaited.name));
    missing.for_each(|awaited| diagnostics.push(awaited.into_problem()));
    super::check::check_documents(&config, diagnostics);
    manifest::find_duplicates(&config.resources, diagnostics);
    let known = |kind: KindId, name: &ServiceName| {
        if kind == KindId::Service { config.ports_of(name) } else { None }
    };
    let help = "what a route refers to must be in this file, or in its resources";
    manifest::check_references(&config.resources, known, Some(help), diagnostics);
    Ok(Some(config))
}

/// Whether the file says outright that there are no services.
fn nothing_runs(document: &Document) -> bool {
    document.value["services"].as_object().is_some_and(serde_json::Map::is_empty)
}

/// Files of resources that a file names, and where it does.
struct Pattern {
    folder: PathBuf,
    pattern: String,
    source: Arc<Source>,
    place: std::ops::Range<usize>,
}

/// What the first of the files describes, with what the others add.
fn config(
    parts: &[FilePart],
    profiles: &Profiles,
    incomplete: &HashSet<String>,
    diagnostics: &RefCell<Diagnostics>,
) -> Option<(Config, Vec<Pattern>)> {
    let parts_of = parts.iter().map(|part| (&part.source, &part.document));
    let readers: Vec<_> =
        parts_of.map(|(source, document)| Reader { source, document, diagnostics }).collect();
    // Of a service that does not run now, and lacks something, nothing can be said.
    let ignored = RefCell::default();
    let lenient: Vec<_> = readers.iter().map(|reader| Reader { diagnostics: &ignored, ..*reader }).collect();
    let root = Field::root(readers.first()?);
    let mut patterns = Vec::new();
    let (mut running, mut resting) = (Vec::new(), Vec::new());
    let mut fields: HashMap<String, Field<'_>> = HashMap::new();
    let mut included = HashMap::new();
    for ((part, reader), lenient) in parts.iter().zip(&readers).zip(&lenient) {
        let file = Field::root(reader);
        if !file.is_object_of(FIELDS, &[], "services: {web: {command: ./web}}") {
            continue;
        }
        if let Some(field) = file.get("services") {
            for (name, field) in field.entries("web: {command: ./web}") {
                if let Some(problem) = dns_label_problem(name) {
                    field.wrong_field(&format!("`{name}` is no name: it {problem}"), "a name is expected");
                }
                if let Some(first) = fields.get(name) {
                    field.given_twice(first);
                    continue;
                }
                fields.insert(name.to_owned(), field.clone());
                let runs = profiles.runs(field.value);
                let field = match runs || !incomplete.contains(name) {
                    true => field,
                    false => Field { reader: lenient, ..field },
                };
                let mut service = service(name, &field, &part.folder);
                if !std::ptr::eq(part, &parts[0]) {
                    included.insert(name.to_owned(), part.file.clone());
                    if let Some(service) = &mut service {
                        let directory = service.directory.take().unwrap_or_default();
                        service.directory = Some(part.folder.join(directory));
                    }
                }
                if runs { running.extend(service) } else { resting.extend(service) }
            }
        }
        for item in file.get("resources").map(|f| f.items("[routes/*.yaml]")).unwrap_or_default() {
            if let Some(pattern) = item.text() {
                let folder = part.folder.clone();
                if super::files::matching(&folder, &pattern).is_empty() {
                    let message = format!("there is no file `{pattern}` in {}", folder.display());
                    item.wrong(&message, "no such file");
                }
                let place = item.reader.document.nearest(&item.path).head.range();
                patterns.push(Pattern { folder, pattern, source: part.source.clone(), place });
            }
        }
        for item in file.get("include").map(|f| f.items("[other/tulle.yaml]")).unwrap_or_default() {
            item.text();
        }
    }
    if !root.value.is_object() {
        return None;
    }
    if root.get("services").is_none() {
        root.wrong("it has no services", "`services:` says what is to run");
    }
    let namespace = namespace(&readers);
    find_shared_ports(&running, &fields);
    find_taken(&running, &fields);
    if let Some(namespace) = &namespace {
        super::check::check(&running, namespace, &fields);
    }
    super::profiles::check_dependencies(&running, &fields);
    let services = in_order(running, &fields);
    let folder = parts[0].folder.clone();
    let folder_name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let config = Config {
        name: root.get("name").and_then(|f| f.text()).unwrap_or(folder_name),
        folder,
        file: parts[0].file.clone(),
        included,
        namespace: namespace?,
        services,
        resting,
        resources: Vec::new(),
        elsewhere: Vec::new(),
        skipped: None,
        sources: Sources::default(),
    };
    Some((config, patterns))
}

/// That of the first file; the others may only say the same.
fn namespace(readers: &[Reader<'_>]) -> Option<String> {
    let mut namespaces = readers.iter().map(|reader| Field::root(reader).get("namespace"));
    let namespace = namespaces.next()?.map_or_else(|| Some("default".to_owned()), |field| field.label())?;
    for field in namespaces.flatten() {
        if field.label().is_some_and(|other| other != namespace) {
            field.wrong(&format!("it is `{namespace}` in the file that includes this one"), "leave it out");
        }
    }
    Some(namespace)
}
