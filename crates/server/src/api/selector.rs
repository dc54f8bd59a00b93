//! Label and field selectors (Kubernetes' syntax).

use serde_json::Value;
use tulle_model::registry::{Kind, KindId};

use super::path::Query;
use super::status::Failure;

/// Which objects a list or a watch shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(Field, bool, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    Exists,
    NotExists,
    In(Vec<String>),
    NotIn(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// `status.phase`, of namespaces.
    Phase,
    /// Of an event, by its pointer.
    OfEvent(&'static str),
    /// `status.state`, of runs of Flows.
    State,
}

/// The fields by which events are selected, and where they are.
const OF_EVENTS: [(&str, &str); 15] = [
    ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("regarding.kind", "/regarding/kind"),
    ("regarding.name", "/regarding/name"),
    ("regarding.namespace", "/regarding/namespace"),
    ("regarding.uid", "/regarding/uid"),
    ("reason", "/reason"),
    ("reportingComponent", "/reportingComponent"),
    ("source", "/source/component"),
    ("type", "/type"),
];

impl Selector {
    pub(super) fn parse(query: &Query, kind: &Kind) -> Result<Self, Failure> {
        let labels = query.get("labelSelector").map(parse_labels).transpose()?.unwrap_or_default();
        let fields =
            query.get("fieldSelector").map(|text| parse_fields(text, kind)).transpose()?.unwrap_or_default();
        Ok(Self { labels, fields })
    }

    /// Only the object of that name, of those that this one shows.
    pub(super) fn named(mut self, name: &str) -> Self {
        self.fields.push((Field::Name, true, name.to_owned()));
        self
    }

    /// The value that a label has of all that it shows.
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find_map(|requirement| match &requirement.operator {
            Operator::In(values) if requirement.key == key && values.len() == 1 => Some(values[0].as_str()),
            _ => None,
        })
    }

    /// Whether it shows all objects.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let metadata = object.get("metadata");
        let label = |key: &str| metadata?.get("labels")?.get(key)?.as_str();
        let labels = self.labels.iter().all(|requirement| {
            let value = label(&requirement.key);
            match &requirement.operator {
                Operator::Exists => value.is_some(),
                Operator::NotExists => value.is_none(),
                Operator::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
                Operator::NotIn(values) => !value.is_some_and(|value| values.iter().any(|v| v == value)),
            }
        });
        labels
            && self.fields.iter().all(|(field, equal, wanted)| {
                let pointer = match field {
                    Field::Name => "/metadata/name",
                    Field::Namespace => "/metadata/namespace",
                    Field::Phase => "/status/phase",
                    Field::State => "/status/state",
                    Field::OfEvent(pointer) => pointer,
                };
                let found = object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                (found == wanted) == *equal
            })
    }
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, Failure> {
    split_outside_parentheses(text)
        .into_iter()
        .map(|part| {
            parse_requirement(part).ok_or_else(|| {
                Failure::bad_request(format!(
                    "unable to parse requirement \"{part}\" of the label selector: expected key, !key, key=value, key!=value, key in (a, b) or key notin (a, b)"
                ))
            })
        })
        .collect()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (index, char) in text.char_indices() {
        match char {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

fn parse_requirement(part: &str) -> Option<Requirement> {
    let requirement = |key: &str, operator| {
        let key = key.trim();
        let valid = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        valid.then(|| Requirement { key: key.to_owned(), operator })
    };
    let value = |text: &str| {
        let text = text.trim();
        let valid = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        valid.then(|| text.to_owned())
    };
    if let Some(key) = part.strip_prefix('!') {
        return requirement(key, Operator::NotExists);
    }
    if let Some(list) = part.strip_suffix(')') {
        let (head, list) = list.split_once('(')?;
        let values = list.split(',').map(value).collect::<Option<Vec<_>>>()?;
        let (key, word) = head.trim().rsplit_once(char::is_whitespace)?;
        return match word {
            "in" => requirement(key, Operator::In(values)),
            "notin" => requirement(key, Operator::NotIn(values)),
            _ => None,
        };
    }
    if let Some((key, text)) = part.split_once("!=") {
        return requirement(key, Operator::NotIn(vec![value(text)?]));
    }
    if let Some((key, text)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return requirement(key, Operator::In(vec![value(text)?]));
    }
    requirement(part, Operator::Exists)
}

fn parse_fields(text: &str, kind: &Kind) -> Result<Vec<(Field, bool, String)>, Failure> {
    text.split(',')
        .map(|part| {
            let split = part
                .split_once("!=")
                .map(|(field, value)| (field, false, value))
                .or_else(|| part.split_once("==").map(|(field, value)| (field, true, value)))
                .or_else(|| part.split_once('=').map(|(field, value)| (field, true, value)));
            let Some((field, equal, value)) = split else {
                return Err(Failure::bad_request(format!(
                    "invalid field selector \"{part}\": expected field=value or field!=value"
                )));
            };
            let field = match field.trim() {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                "status.phase" => Field::Phase,
                "status.state" if kind.id == KindId::FlowRun => Field::State,
                other if let Some(pointer) = of_event(other, kind) => Field::OfEvent(pointer),
                other => {
                    return Err(Failure::bad_request(format!(
                        "field label not supported: {other} (supported: metadata.name, metadata.namespace, status.phase)"
                    )));
                }
            };
            Ok((field, equal, value.trim().to_owned()))
        })
        .collect()
}

fn of_event(field: &str, kind: &Kind) -> Option<&'static str> {
    let is_event = matches!(kind.id, KindId::Event | KindId::EventV1);
    OF_EVENTS.iter().find(|(name, _)| is_event && *name == field).map(|(_, pointer)| *pointer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(labels: &str, fields: &str) -> bool {
        let encode = |text: &str| text.replace('%', "%25").replace('=', "%3D").replace(' ', "%20");
        let query = format!("labelSelector={}&fieldSelector={}", encode(labels), encode(fields));
        let object = json!({
            "metadata": { "name": "c", "namespace": "shop", "labels": { "app": "c", "example.com/tier": "back" } }
        });
        Selector::parse(&Query::parse(Some(&query)), KindId::Service.kind()).unwrap().matches(&object)
    }

    #[test]
    fn selects_by_labels() {
        for matching in [
            "",
            "app",
            "app=c",
            "app==c",
            "app!=d",
            "other!=d",
            "!other",
            "app in (b, c)",
            "app notin (d),example.com/tier=back",
        ] {
            assert!(selects(matching, ""), "{matching}");
        }
        for other in ["other", "app=d", "!app", "app notin (c)", "app in (d),app", "other in (c)"] {
            assert!(!selects(other, ""), "{other}");
        }
        for invalid in ["app in c", "=c", "app=(", "a b"] {
            assert!(parse_labels(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn selects_by_fields() {
        assert!(selects("", "metadata.name=c,metadata.namespace!=default"));
        assert!(!selects("", "metadata.name!=c"));
        for kind in [KindId::Service, KindId::Event] {
            assert!(parse_fields("spec.type=x", kind.kind()).is_err());
        }
        assert!(parse_fields("involvedObject.name=x", KindId::Service.kind()).is_err());
        let event = json!({ "involvedObject": { "name": "c" }, "type": "Warning" });
        let query =
            Query::parse(Some("fieldSelector=involvedObject.name%3Dc,type%3DWarning,involvedObject.uid%3D"));
        assert!(Selector::parse(&query, KindId::Event.kind()).unwrap().matches(&event));
    }
}
