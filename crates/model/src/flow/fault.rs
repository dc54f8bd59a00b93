//! What ends a task, and its run where nobody catches it: problem details (RFC 9457) with the types of the DSL
//! (dsl-reference.md, "Standard error types").

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::workflow::ErrorFilter;

const STANDARD: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/";
/// As the conformance kit spells them. Nothing is raised under these names.
const OF_THE_KIT: &str = "https://serverlessworkflow.io/dsl/errors/types/";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    pub status: u16,
    pub title: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Arc<str>>,
    /// What has raised it: a JSON pointer into the workflow.
    pub instance: Arc<str>,
}

/// The standard types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    Configuration,
    Validation,
    Expression,
    Authentication,
    Authorization,
    Timeout,
    Communication,
    Runtime,
}

impl FaultKind {
    fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Validation => "validation",
            Self::Expression => "expression",
            Self::Authentication => "authentication",
            Self::Authorization => "authorization",
            Self::Timeout => "timeout",
            Self::Communication => "communication",
            Self::Runtime => "runtime",
        }
    }

    /// What it has where no better one is known.
    fn status(self) -> u16 {
        match self {
            Self::Configuration | Self::Validation | Self::Expression => 400,
            Self::Authentication => 401,
            Self::Authorization => 403,
            Self::Timeout => 408,
            Self::Communication | Self::Runtime => 500,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Configuration => "Configuration Error",
            Self::Validation => "Validation Error",
            Self::Expression => "Expression Error",
            Self::Authentication => "Authentication Error",
            Self::Authorization => "Authorization Error",
            Self::Timeout => "Timeout Error",
            Self::Communication => "Communication Error",
            Self::Runtime => "Runtime Error",
        }
    }

    /// Who knows where it comes from sets `instance`.
    pub fn fault(self, detail: impl Into<Arc<str>>) -> Fault {
        Fault {
            kind: format!("{STANDARD}{}", self.name()).into(),
            status: self.status(),
            title: self.title().into(),
            detail: Some(detail.into()),
            instance: "".into(),
        }
    }
}

impl Fault {
    /// The value of the variable that a `catch` gives it.
    pub fn value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// An error as a `raise` evaluates to. `Err` says what is wrong with it.
    pub fn raised(fields: &Value, reference: &Arc<str>) -> Result<Self, String> {
        let text = |field: &str| match &fields[field] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(Arc::from(text.as_str()))),
            other => Err(format!("the error's {field} is {other}, not a text")),
        };
        let kind = text("type")?.ok_or("the error has no type")?;
        let status = fields["status"].as_u64().filter(|status| (100..=599).contains(status));
        let status = status.ok_or_else(|| {
            format!("the error's status is {}, not a number from 100 to 599", fields["status"])
        })?;
        Ok(Self {
            kind,
            // Bounded above.
            status: status as u16,
            title: text("title")?.unwrap_or_else(|| "".into()),
            detail: text("detail")?,
            instance: text("instance")?.unwrap_or_else(|| reference.clone()),
        })
    }
}

impl ErrorFilter {
    /// Whether an error is one of these.
    pub fn matches(&self, fault: &Fault) -> bool {
        let same = |asked: &Option<Arc<str>>, has: &str| asked.as_deref().is_none_or(|asked| asked == has);
        self.kind.as_deref().is_none_or(|asked| is_kind(&fault.kind, asked))
            && self.status.is_none_or(|status| status == fault.status)
            && same(&self.instance, &fault.instance)
            && same(&self.title, &fault.title)
            && same(&self.detail, fault.detail.as_deref().unwrap_or_default())
    }
}

fn is_kind(kind: &str, asked: &str) -> bool {
    let alias = || Some(kind.strip_prefix(STANDARD)? == asked.strip_prefix(OF_THE_KIT)?);
    kind == asked || alias().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_know_the_kits_spelling() {
        let fault = Fault { status: 404, ..FaultKind::Communication.fault("no such pet") };
        let filter =
            |kind: &str, status| ErrorFilter { kind: Some(kind.into()), status, ..Default::default() };
        for (kind, status, expected) in [
            ("https://serverlessworkflow.io/spec/1.0.0/errors/communication", None, true),
            ("https://serverlessworkflow.io/dsl/errors/types/communication", Some(404), true),
            ("https://serverlessworkflow.io/dsl/errors/types/communication", Some(503), false),
            ("https://serverlessworkflow.io/dsl/errors/types/timeout", None, false),
            ("communication", None, false),
        ] {
            assert_eq!(filter(kind, status).matches(&fault), expected, "{kind} {status:?}");
        }
        // Its own spelling is what an author raises, and no other one.
        let raised = Fault { kind: format!("{OF_THE_KIT}timeout").into(), ..fault };
        assert!(!filter(&format!("{STANDARD}timeout"), None).matches(&raised));
    }

    #[test]
    fn an_error_that_is_raised_has_a_type_and_a_status() {
        let reference: Arc<str> = "/do/0/fail".into();
        let raised = |fields: Value| Fault::raised(&fields, &reference);
        let fault = raised(json!({ "type": "https://e.test/x", "status": 409, "title": "No" })).unwrap();
        assert_eq!((fault.status, &*fault.instance, fault.detail.as_deref()), (409, "/do/0/fail", None));
        assert_eq!(fault.value()["type"], "https://e.test/x");
        for (fields, expected) in [
            (json!({ "status": 400 }), "has no type"),
            (json!({ "type": "x" }), "status is null"),
            (json!({ "type": "x", "status": 99 }), "from 100 to 599"),
            (json!({ "type": "x", "status": 400, "title": [] }), "title is []"),
            (json!("x"), "has no type"),
        ] {
            let error = raised(fields.clone()).unwrap_err();
            assert!(error.contains(expected), "{fields}: {error}");
        }
    }
}
