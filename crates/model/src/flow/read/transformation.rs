//! `input`, `output` and `export`, with their schemas.

use std::sync::Arc;

use super::Reader;
use super::surroundings::{ExpressionPlace, Surroundings};
use crate::flow::unsupported::Unsupported;
use crate::flow::workflow::{SchemaSource, Transformation};
use crate::validate::field::{Field, Read};

impl Reader<'_> {
    /// `name`: the field with the template, `from` or `as`.
    pub(super) fn transformation(
        &mut self,
        field: &Field<'_>,
        name: &'static str,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<Transformation> {
        let known = self.fields(field, &["schema", name])?;
        let plain = around.without_secrets();
        let schema = self.optional(field, "schema", |reader, field| reader.schema(field, place, &plain));
        let template =
            self.optional(field, name, |reader, field| reader.template_or_expression(field, place, around));
        known?;
        Ok(Transformation { schema: schema?, template: template? })
    }

    fn schema(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<SchemaSource> {
        let known = self.fields(field, &["format", "document", "resource"])?;
        let format = self.optional(field, "format", |reader, field| {
            let text = reader.text(field)?;
            // With a version perhaps, which the schema says of itself (`$schema`).
            match text.split_once(':').map_or(text, |(format, _)| format) {
                "json" => Ok(()),
                _ => reader.unsupported(field, Unsupported::SchemaFormat),
            }
        });
        let source = match (field.get("document"), field.get("resource")) {
            (Some(_), Some(resource)) => {
                self.invalid(&resource, "cannot be beside `document`: a schema is at one place")
            }
            (Some(document), None) if document.value.is_boolean() || document.value.is_object() => {
                Ok(SchemaSource::Inline(Arc::new(document.value.clone())))
            }
            (Some(document), None) => self.invalid(&document, "is no JSON Schema: expected an object"),
            (None, Some(resource)) => self.external_resource(&resource, place, around).map(SchemaSource::At),
            (None, None) => {
                self.missing(field.path.field("document"), "the schema, or `resource`: where it is to be had")
            }
        };
        known?;
        format?;
        source
    }
}
