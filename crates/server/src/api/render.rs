//! Objects and lists in the form that the client wants: whole, as rows of a table, or their metadata.

use jiff::Timestamp;
use serde_json::{Value, json};
use tulle_model::registry::Kind;

use super::accept::AnswerForm;
use super::path::Query;
use super::status::Failure;

/// The form of an answer, and what goes into the rows of tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rendering {
    pub(super) form: AnswerForm,
    include: Include,
}

/// What a row carries of its object (the parameter `includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Rendering {
    pub(super) fn new(form: AnswerForm, query: &Query) -> Result<Self, Failure> {
        let include = match query.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::Nothing,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(Failure::bad_request(format!(
                    "includeObject must be None, Metadata or Object, not \"{other}\""
                )));
            }
        };
        Ok(Self { form, include })
    }

    /// One object.
    pub(super) fn object(&self, kind: &Kind, object: Value) -> Value {
        match self.form {
            AnswerForm::Table => {
                let version = object["metadata"]["resourceVersion"].clone();
                self.table(kind, &[object], json!({ "resourceVersion": version }), true)
            }
            AnswerForm::Metadata => metadata_only(&object),
            AnswerForm::Objects | AnswerForm::Discovery(_) => object,
        }
    }

    /// An object in an event of a watch; only the first table of a watch says what its columns are.
    pub(super) fn event(&self, kind: &Kind, object: &Value, first: bool) -> Value {
        match self.form {
            AnswerForm::Table => {
                let version = object["metadata"]["resourceVersion"].clone();
                let objects = std::slice::from_ref(object);
                self.table(kind, objects, json!({ "resourceVersion": version }), first)
            }
            AnswerForm::Metadata => metadata_only(object),
            AnswerForm::Objects | AnswerForm::Discovery(_) => object.clone(),
        }
    }

    /// A bookmark: an object of the kind with nothing but a version.
    pub(super) fn bookmark(&self, kind: &Kind, metadata: Value) -> Value {
        match self.form {
            AnswerForm::Table => self.table(kind, &[], metadata, false),
            AnswerForm::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            }),
            AnswerForm::Objects | AnswerForm::Discovery(_) => {
                json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata })
            }
        }
    }

    /// A list.
    pub(super) fn list(&self, kind: &Kind, items: Vec<Value>, metadata: Value) -> Value {
        match self.form {
            AnswerForm::Table => self.table(kind, &items, metadata, true),
            AnswerForm::Metadata => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items.iter().map(metadata_only).collect::<Vec<_>>(),
            }),
            AnswerForm::Objects | AnswerForm::Discovery(_) => json!({
                "kind": kind.list_kind,
                "apiVersion": kind.api_version(),
                "metadata": metadata,
                "items": items,
            }),
        }
    }

    fn table(&self, kind: &Kind, objects: &[Value], metadata: Value, columns: bool) -> Value {
        let now = Timestamp::now();
        let rows: Vec<Value> = objects
            .iter()
            .map(|object| {
                let mut row = json!({ "cells": kind.row(object, now) });
                match self.include {
                    Include::Nothing => {}
                    Include::Metadata => row["object"] = metadata_only(object),
                    Include::Object => row["object"] = object.clone(),
                }
                row
            })
            .collect();
        let definitions: Vec<Value> = kind
            .columns()
            .iter()
            .filter(|_| columns)
            .map(|column| {
                json!({
                    "name": column.name,
                    "type": column.type_,
                    "format": column.format,
                    "description": column.description,
                    "priority": column.priority,
                })
            })
            .collect();
        json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "columnDefinitions": definitions,
            "rows": rows,
        })
    }
}

fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}
