//! Events: what happened to objects (core/v1; [`crate::kinds`] has one form of it, as `events.k8s.io/v1` shows
//! the same under other names: [`as_events_v1`]).

mod columns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::id::KindId;
use super::kind::{CORE, Kind};
use super::meta::ObjectMeta;
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    short_names: &["ev"],
    has_status: false,
    ..Kind::new(
        KindId::Event,
        CORE,
        ("Event", "EventList"),
        ("events", "event"),
        "Something that happened to an object; it is gone an hour after it happened last.",
        derived::<Event>,
        columns::TABLE,
    )
};

const EVENTS: (&str, &str) = ("events.k8s.io", "v1");

/// What the registry lists.
pub(crate) const KIND_V1: Kind = Kind {
    short_names: &["ev"],
    has_status: false,
    ..Kind::new(
        KindId::EventV1,
        EVENTS,
        ("Event", "EventList"),
        ("events", "event"),
        "Something that happened to an object; it is gone an hour after it happened last.",
        derived::<EventV1>,
        columns::TABLE,
    )
};

/// Something that happened to an object, and how often.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    /// The group and version of the kind.
    pub api_version: String,
    /// The kind of the object.
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// What the event is about.
    pub involved_object: ObjectReference,
    /// Why, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `Normal` or `Warning`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Normal", "Warning"]))]
    pub type_: Option<String>,
    /// How often it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// When it happened first (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_timestamp: Option<String>,
    /// When it happened last (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_timestamp: Option<String>,
    /// When it happened first, in microseconds (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_time: Option<String>,
    /// How often it happened since, and when last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<Value>,
    /// What was done about the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Another object that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<ObjectReference>,
    /// Who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<EventSource>,
    /// Who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reporting_component: Option<String>,
    /// Which instance of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reporting_instance: Option<String>,
}

/// An object, by its names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// Its group and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// A part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_path: Option<String>,
}

/// Who saw what happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EventSource {
    /// The part of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The host of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// The same as `events.k8s.io/v1` names it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EventV1 {
    /// The group and version of the kind.
    pub api_version: String,
    /// The kind of the object.
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// What the event is about.
    pub regarding: ObjectReference,
    /// Why, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// `Normal` or `Warning`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// When it happened first (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_time: Option<String>,
    /// How often it happened, and when last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<Value>,
    /// What was done about the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Another object that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<ObjectReference>,
    /// Who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reporting_controller: Option<String>,
    /// Which instance of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reporting_instance: Option<String>,
    /// As `count` of core/v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated_count: Option<i64>,
    /// As `firstTimestamp` of core/v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated_first_timestamp: Option<String>,
    /// As `lastTimestamp` of core/v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated_last_timestamp: Option<String>,
    /// As `source` of core/v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated_source: Option<EventSource>,
}

/// The fields that have another name in events.k8s.io/v1.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("source", "deprecatedSource"),
];

/// An event of core/v1 as events.k8s.io/v1 shows it.
pub fn as_events_v1(event: Value) -> Value {
    let Value::Object(fields) = event else { return event };
    let renamed = fields.into_iter().map(|(name, value)| {
        let new = RENAMED.iter().find(|(old, _)| *old == name).map(|(_, new)| (*new).to_owned());
        (new.unwrap_or(name), value)
    });
    let mut renamed: Map<String, Value> = renamed.collect();
    renamed.insert("apiVersion".to_owned(), json!("events.k8s.io/v1"));
    Value::Object(renamed)
}

/// When an event happened last: RFC 3339.
pub fn last_time(event: &Value) -> Option<&str> {
    let fields = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ];
    fields.iter().find_map(|field| event.pointer(field)?.as_str())
}
