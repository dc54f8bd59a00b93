//! Errors in files, shown with the line they are in, as a compiler shows them.

use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::exit::{Failure, Result};

/// A text that somebody wrote, and what it is called in messages.
#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    title: String,
    place: Option<Place>,
    help: Vec<String>,
}

#[derive(Debug, Clone)]
struct Place {
    source: Arc<Source>,
    /// In bytes.
    span: Range<usize>,
    label: String,
}

/// More than this many errors are counted, not shown.
const SHOWN: usize = 20;

impl Diagnostic {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), place: None, help: Vec::new() }
    }

    /// Where it is; the label says what is expected there.
    pub fn at(mut self, source: &Arc<Source>, span: Range<usize>, label: impl Into<String>) -> Self {
        let end = source.text.len();
        let (start, stop) = (span.start.min(end), span.end.min(end));
        let span = on_one_line(&source.text, start..stop.max(start));
        self.place = Some(Place { source: source.clone(), span, label: label.into() });
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut group = match &self.place {
            None => Group::with_title(Level::ERROR.primary_title(self.title.as_str())),
            Some(place) => {
                let mut mark = AnnotationKind::Primary.span(place.span.clone());
                if !place.label.is_empty() {
                    mark = mark.label(place.label.as_str());
                }
                let snippet = Snippet::source(place.source.text.as_str())
                    .path(place.source.name.as_str())
                    .annotation(mark);
                Group::with_title(Level::ERROR.primary_title(self.title.as_str())).element(snippet)
            }
        };
        for help in &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

/// A mark that goes over several lines shows where it begins only: the reader looks there.
fn on_one_line(text: &str, span: Range<usize>) -> Range<usize> {
    let end = text[span.clone()].find('\n').map_or(span.end, |at| span.start + at);
    let end = span.start + text[span.start..end].trim_end().len();
    span.start..end
}

/// All that is wrong, in the order in which it was found.
#[derive(Debug, Default)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With colours; who prints it takes them out where they are not wanted.
    pub fn render(&self) -> String {
        let renderer = Renderer::styled();
        let mut parts: Vec<_> = self.0.iter().take(SHOWN).map(|d| d.render(&renderer)).collect();
        if self.0.len() > SHOWN {
            parts.push(format!("… and {} more", self.0.len() - SHOWN));
        }
        parts.join("\n\n")
    }

    /// Success where nothing is wrong.
    pub fn into_result(self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let count = match self.0.len() {
            1 => "1 error".to_owned(),
            n => format!("{n} errors"),
        };
        Err(Failure::report(format!("{}\n\n{count}; nothing was changed", self.render())))
    }
}
