//! The top of a document: what it is called, and what holds for the workflow as a whole.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::Reader;
use super::surroundings::{ExpressionPlace, Surroundings};
use crate::flow::unsupported::Unsupported;
use crate::flow::workflow::Workflow;
use crate::name::dns_label_problem;
use crate::validate::field::{Code, Field, Read, Unreadable, shown};

/// The versions of the DSL that are read.
const VERSIONS: [&str; 4] = ["1.0.0", "1.0.1", "1.0.2", "1.0.3"];

/// semver.org, section 2; as in the schema of the DSL.
static SEMVER: LazyLock<Regex> = LazyLock::new(|| {
    let number = r"(0|[1-9]\d*)";
    let word = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)";
    let pattern = format!(
        r"(?-u)^{number}\.{number}\.{number}(-{word}(\.{word})*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$"
    );
    Regex::new(&pattern).expect("it is a pattern")
});

/// What a document says of itself.
struct Heading {
    name: Arc<str>,
    version: Arc<str>,
}

impl Reader<'_> {
    pub(super) fn workflow(&mut self, document: &Field<'_>) -> Read<Workflow> {
        const KNOWN: [&str; 8] =
            ["document", "input", "use", "do", "timeout", "output", "schedule", "evaluate"];
        let known = self.fields(document, &KNOWN)?;
        let about = "says what the workflow is called, and in which version of the DSL it is written";
        let heading = self.required(document, ("document", about), Self::heading);
        let schedule = self.optional(document, "schedule", |reader, field| {
            reader.unsupported::<()>(field, Unsupported::Schedule)
        });
        let evaluate = self.optional(document, "evaluate", Self::evaluate);
        let reusable = self.optional(document, "use", Self::reusable);
        let around = Surroundings::default();
        let input = self.optional(document, "input", |reader, field| {
            reader.transformation(field, "from", ExpressionPlace::WorkflowInput, &around)
        });
        let output = self.optional(document, "output", |reader, field| {
            reader.transformation(field, "as", ExpressionPlace::WorkflowOutput, &around)
        });
        let timeout = self.optional(document, "timeout", |reader, field| {
            reader.timeout_or_reference(field, ExpressionPlace::WorkflowTimeout, &around)
        });
        let about = "the tasks that the workflow consists of";
        let steps = self.required(document, ("do", about), |reader, field| reader.task_list(field, &around));
        let functions = self.functions(document);
        self.unused_retries();
        self.check_calls();
        known?;
        schedule?;
        evaluate?;
        reusable?;
        functions?;
        let heading = heading?;
        Ok(Workflow {
            name: heading.name,
            version: heading.version,
            definition: Arc::new(document.value.clone()),
            input: input?.unwrap_or_default(),
            output: output?.unwrap_or_default(),
            timeout: timeout?,
            secrets: std::mem::take(&mut self.reusable.secrets),
            steps: steps?,
            tasks: std::mem::take(&mut self.tasks).into_iter().collect::<Option<_>>().ok_or(Unreadable)?,
        })
    }

    fn heading(&mut self, heading: &Field<'_>) -> Read<Heading> {
        const KNOWN: [&str; 8] =
            ["dsl", "namespace", "name", "version", "title", "summary", "tags", "metadata"];
        let known = self.fields(heading, &KNOWN)?;
        let about = "the version of the DSL, e.g. `1.0.3`";
        let dsl = self.required(heading, ("dsl", about), |reader, field| {
            let text = reader.text(field)?;
            if VERSIONS.contains(&text) {
                return Ok(());
            }
            let problem = if SEMVER.is_match(text) { "is another version" } else { "is no version" };
            let message = format!("{} {problem}: expected `1.0.0` to `1.0.3`", shown(field.value));
            reader.problem(field, Code::NotSupported, message);
            Err(Unreadable)
        });
        let about = "groups workflows; it need not be the namespace of the Flow";
        let namespace = self.required(heading, ("namespace", about), Self::word_of_dns);
        let name = self.required(heading, ("name", "what the workflow is called"), Self::word_of_dns);
        let about = "the version of the workflow, e.g. `0.1.0`";
        let version = self.required(heading, ("version", about), |reader, field| {
            let text = reader.text(field)?;
            if SEMVER.is_match(text) {
                return Ok(text.into());
            }
            reader.invalid(field, format!("{} is no version (semver.org), e.g. `0.1.0`", shown(field.value)))
        });
        let mut others = Ok(());
        for name in ["title", "summary"] {
            others = others
                .and(self.optional(heading, name, |reader, field| reader.text(field).map(drop)))
                .map(drop);
        }
        for name in ["tags", "metadata"] {
            others = others
                .and(self.optional(heading, name, |reader, field| reader.object(field).map(drop)))
                .map(drop);
        }
        known?;
        dsl?;
        namespace?;
        others?;
        Ok(Heading { name: name?, version: version? })
    }

    /// A name as the schema has it: as a label of DNS, but in letters of either case.
    fn word_of_dns(&mut self, field: &Field<'_>) -> Read<Arc<str>> {
        let text = self.text(field)?;
        match dns_label_problem(&text.to_ascii_lowercase()) {
            None => Ok(text.into()),
            Some(_) => {
                let message = format!(
                    "{} is no name: expected 1 to 63 letters, digits and `-`, with a letter or digit at both ends",
                    shown(field.value)
                );
                self.invalid(field, message)
            }
        }
    }

    fn evaluate(&mut self, field: &Field<'_>) -> Read<()> {
        let known = self.fields(field, &["language", "mode"])?;
        let language = self.optional(field, "language", |reader, field| match reader.text(field)? {
            "jq" => Ok(()),
            _ => reader.unsupported(field, Unsupported::OtherLanguage),
        });
        let mode = self.optional(field, "mode", |reader, field| {
            match reader.word(field, &[("strict", true), ("loose", false)])? {
                true => Ok(()),
                false => reader.unsupported(field, Unsupported::LooseMode),
            }
        });
        known?;
        language?;
        mode?;
        Ok(())
    }
}
