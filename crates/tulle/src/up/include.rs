//! The files that make up one `tulle.yaml`: itself, and those that `include` names, each with what stands in them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tulle_model::document::Document;
use tulle_model::validate::FieldPath;

use super::env_file;
use super::surroundings::Lookup;
use crate::diagnostic::{Diagnostic, Diagnostics, Source};
use crate::manifest::{self, UP_FILE};

/// How deep files may include others.
const DEEPEST: usize = 16;

/// How many files may make up one.
const MOST: usize = 100;

/// One file.
pub struct FilePart {
    pub source: Arc<Source>,
    pub file: PathBuf,
    /// Commands run there, and paths are relative to it.
    pub folder: PathBuf,
    /// What says what is to run.
    pub document: Document,
    /// The resources behind it.
    pub resources: Vec<Document>,
}

impl FilePart {
    /// The files that it is made of, whether they are there or not: itself, `.env` beside it, and those of `envFile`.
    pub fn files(&self) -> Vec<PathBuf> {
        let named = self.services().filter_map(|(_, service)| service.get("envFile"));
        let named = named.flat_map(|files| match files {
            Value::Array(files) => files.as_slice(),
            one => std::slice::from_ref(one),
        });
        let named = named.filter_map(Value::as_str).map(|file| self.folder.join(file));
        [self.file.clone(), self.folder.join(".env")].into_iter().chain(named).collect()
    }

    pub fn services(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.document.value.get("services").and_then(Value::as_object).into_iter().flatten()
    }
}

/// The file and what it includes, itself first; nothing where it describes nothing.
pub fn parts(
    source: Source,
    file: PathBuf,
    folder: PathBuf,
    surroundings: &Lookup,
    diagnostics: &mut Diagnostics,
) -> Vec<FilePart> {
    let mut reading = Reading { surroundings, diagnostics, parts: Vec::new(), seen: vec![real(&file)] };
    reading.part(Arc::new(source), file, folder, &mut Vec::new());
    reading.parts
}

struct Reading<'a> {
    surroundings: &'a Lookup,
    diagnostics: &'a mut Diagnostics,
    parts: Vec<FilePart>,
    /// All files that were met, by their real names: one that is included twice is there once.
    seen: Vec<PathBuf>,
}

/// A file that is being read: its real name, and how it was named.
type Above = (PathBuf, String);

impl Reading<'_> {
    fn part(&mut self, source: Arc<Source>, file: PathBuf, folder: PathBuf, above: &mut Vec<Above>) {
        let mut documents = manifest::documents(&source, self.diagnostics).into_iter();
        let Some(mut document) = documents.next() else {
            if self.diagnostics.is_empty() {
                let title = format!("{} is empty", source.name);
                let help = "it says under `services:` what is to run";
                self.diagnostics.push(Diagnostic::new(title).help(help));
            }
            return;
        };
        self.surroundings.prepare_file(&source, &mut document, &[&folder], self.diagnostics);
        let included = included(&document);
        let resources = documents.collect();
        let part = FilePart {
            source: source.clone(),
            file: file.clone(),
            folder: folder.clone(),
            document,
            resources,
        };
        self.parts.push(part);
        above.push((real(&file), source.name.clone()));
        for (path, place) in included {
            let problem = self.include(&folder.join(&path), &file, above);
            if let Err(problem) = problem {
                let diagnostic = Diagnostic::new(format!("include: {}", problem.0));
                self.diagnostics.push(diagnostic.at(&source, place, problem.1));
            }
        }
        above.pop();
    }

    fn include(
        &mut self,
        path: &Path,
        by: &Path,
        above: &mut Vec<Above>,
    ) -> Result<(), (String, &'static str)> {
        let file = if path.is_dir() { path.join(UP_FILE) } else { path.to_owned() };
        let real = real(&file);
        if let Some(at) = above.iter().position(|(above, _)| *above == real) {
            let names = above[at..].iter().map(|(_, name)| name.as_str());
            let circle: Vec<_> = names.chain([above[at].1.as_str()]).collect();
            return Err((format!("files include each other: {}", circle.join(" → ")), "leave this out"));
        }
        if self.seen.contains(&real) {
            return Ok(());
        }
        if above.len() >= DEEPEST || self.seen.len() >= MOST {
            let message = format!("more than {DEEPEST} files in a row, or {MOST} in all");
            return Err((message, "name the files in one place"));
        }
        self.seen.push(real);
        let source = env_file::read(&file, by).map_err(|message| (message, "named here"))?;
        let folder = file.parent().map(Path::to_owned).unwrap_or_default();
        self.part(Arc::new(source), file, folder, above);
        Ok(())
    }
}

/// What is wrong with the list itself is said where the other fields are read.
fn included(document: &Document) -> Vec<(String, Range<usize>)> {
    let items = document.value.get("include").and_then(Value::as_array);
    let place =
        |index: usize| document.nearest(&FieldPath::root().field("include").index(index)).head.range();
    let named = items.into_iter().flatten().enumerate();
    named.filter_map(|(index, item)| Some((item.as_str()?.to_owned(), place(index)))).collect()
}

fn real(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}
