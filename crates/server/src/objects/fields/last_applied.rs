//! Client-side apply and server-side apply of one object, by `kubectl`.
//!
//! Client-side apply remembers its config in an annotation. A server-side apply by kubectl may take
//! over what that annotation says and nobody has changed since; and it brings the annotation up to
//! date, so that the next client-side apply compares with what was really applied last.

use serde_json::Value;
use tulle_model::registry::Kind;
use tulle_model::{schema, validate};

use super::set::FieldSet;
use super::typed::{self, Difference, SchemaPart};
use crate::objects::{Part, metadata};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Only for its applies; others may use another name to be left alone.
const MANAGER: &str = "kubectl";
/// How kubectl calls itself when it applies from its own side.
pub(super) const CLIENT_SIDE_MANAGER: &str = "kubectl-client-side-apply";

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
}

/// The fields that `manager` may take over from others.
pub(super) fn may_take_over(kind: &Kind, current: &Value, manager: &str) -> FieldSet {
    let config = annotation(current).filter(|_| manager == MANAGER);
    let Some(mut config) = config.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return FieldSet::default();
    };
    validate::default_object(kind, &mut config);
    let schema = SchemaPart::new(schema::schema(kind));
    let config = super::managers::managed(kind, &config, Part::Object);
    let live = super::managers::managed(kind, current, Part::Object);
    let mut fields = typed::fields(&config, schema).children;
    fields.subtract(&Difference::between(&config, &live, schema).changed);
    fields
}

/// Brings the annotation up to date, if there is one.
pub(super) fn refresh(object: &mut Value, config: &Value, manager: &str) {
    if manager != MANAGER || annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = metadata::of(&mut config).get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    if let Some(Value::Object(annotations)) = metadata::of(object).get_mut("annotations") {
        annotations.insert(ANNOTATION.to_owned(), format!("{config}\n").into());
    }
}
