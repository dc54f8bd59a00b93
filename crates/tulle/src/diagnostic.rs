//! Errors in files, shown with the line they are in, as a compiler shows them.

use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::exit::{Failure, Result};
use crate::terminal;

/// A text that somebody wrote, and what it is called in messages.
#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// One thing that is wrong, or of no use.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    is_warning: bool,
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
        Self { is_warning: false, title: title.into(), place: None, help: Vec::new() }
    }

    /// That nothing fails for it.
    pub fn into_warning(self) -> Self {
        Self { is_warning: true, ..self }
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

    /// For a terminal of that width; `None`: as wide as it is.
    fn render(&self, room: Option<usize>) -> String {
        let mut renderer = Renderer::styled();
        if let Some(room) = room {
            renderer = renderer.term_width(room);
        }
        let level = if self.is_warning { Level::WARNING } else { Level::ERROR };
        let title = level.primary_title(self.title.as_str());
        let label_fits =
            self.place.as_ref().is_none_or(|place| place.columns() <= room.unwrap_or(usize::MAX));
        let mut group = match &self.place {
            None => Group::with_title(title),
            Some(place) => {
                let mut mark = AnnotationKind::Primary.span(place.span.clone());
                if !place.label.is_empty() && label_fits {
                    mark = mark.label(place.label.as_str());
                }
                let snippet = Snippet::source(place.source.text.as_str())
                    .path(place.source.name.as_str())
                    .annotation(mark);
                Group::with_title(title).element(snippet)
            }
        };
        // What has no room beside its mark stands below.
        let label = self.place.iter().filter(|_| !label_fits).map(|place| &place.label);
        for help in label.chain(&self.help) {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let text = renderer.render(&[group]).to_string();
        let lines = text.lines().map(|line| {
            let plain = anstream::adapter::strip_str(line).to_string();
            match plain.trim_start() {
                start if start.starts_with("= help: ") => {
                    terminal::wrap(line, room, plain.len() - start.len() + "= help: ".len())
                }
                start if start.starts_with("error") || start.starts_with("warning") => {
                    terminal::wrap(line, room, 2)
                }
                _ => line.to_owned(),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Place {
    /// How far right the label ends that is shown behind its mark.
    fn columns(&self) -> usize {
        let text = &self.source.text;
        let start = text[..self.span.start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[..start].matches('\n').count() + 1;
        let gutter = line.to_string().len() + " | ".len();
        let mark = terminal::columns(&text[start..self.span.start])
            + terminal::columns(&text[self.span.clone()]).max(1);
        gutter + mark + 1 + terminal::columns(&self.label)
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
        let room = terminal::width(std::io::stderr());
        let mut parts: Vec<_> = self.0.iter().take(SHOWN).map(|d| d.render(room)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_fit_their_terminal() {
        let text = "services:\n  a:\n    a-field-that-there-is-not: 1\n";
        let source = Arc::new(Source { name: "tulle.yaml".to_owned(), text: text.to_owned() });
        let at = text.find("a-field").expect("it is there");
        let long =
            "one of command, port, ports, replicas, environment, directory, probe, dependsOn is expected";
        let diagnostic = Diagnostic::new("services.a.a-field-that-there-is-not: there is no such field; did you mean it?")
            .at(&source, at..at + 25, long)
            .help("all fields are in docs/up.md, each with its type, its default and what it is good for, in tables");
        for width in [60, 80] {
            let shown = diagnostic.render(Some(width));
            let shown = anstream::adapter::strip_str(&shown).to_string();
            assert!(shown.lines().all(|line| terminal::columns(line) <= width), "{shown}");
            let words: Vec<_> = shown.split_whitespace().collect();
            assert!(
                words.join(" ").contains("did you mean it?") && shown.contains("= help: one of command"),
                "{shown}"
            );
        }
        assert!(diagnostic.render(None).contains(long));
    }
}
