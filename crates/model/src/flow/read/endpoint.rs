//! Endpoints and their URIs.

use serde_json::Value;

use super::Reader;
use super::expressions::is_expression;
use super::surroundings::{ExpressionPlace, Surroundings};
use crate::flow::unsupported::Unsupported;
use crate::flow::workflow::{CallEndpoint, Uri, UriTemplate};
use crate::validate::field::{Code, Field, Read, Unreadable, shown};
use crate::validate::structure::mismatch;

impl Reader<'_> {
    /// A URI, or that and who one has to say to be.
    pub(super) fn endpoint(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<CallEndpoint> {
        match field.value {
            Value::String(_) => {
                Ok(CallEndpoint { uri: self.uri(field, place, around)?, authentication: None })
            }
            Value::Object(_) => {
                let known = self.fields(field, &["uri", "authentication"])?;
                let about = "where it is, e.g. `http://orders/{id}`";
                let uri =
                    self.required(field, ("uri", about), |reader, field| reader.uri(field, place, around));
                let authentication = self
                    .optional(field, "authentication", |reader, field| reader.authentication(field, around));
                known?;
                Ok(CallEndpoint { uri: uri?, authentication: authentication? })
            }
            other => {
                let message = mismatch("a URI, or an object with `uri`", other);
                self.problem(field, Code::TypeInvalid, message);
                Err(Unreadable)
            }
        }
    }

    /// What is to be had elsewhere.
    pub(super) fn external_resource(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<CallEndpoint> {
        let known = self.fields(field, &["name", "endpoint"])?;
        let name = self.optional(field, "name", |reader, field| reader.text(field).map(drop));
        let endpoint = self.required(field, ("endpoint", "where it is"), |reader, field| {
            reader.endpoint(field, place, around)
        });
        known?;
        name?;
        endpoint
    }

    fn uri(&mut self, field: &Field<'_>, place: ExpressionPlace, around: &Surroundings) -> Read<Uri> {
        if is_expression(self.text(field)?) {
            return self.expression(field, place, around).map(Uri::Expression);
        }
        self.uri_template(field).map(Uri::Template)
    }

    pub(super) fn uri_template(&mut self, field: &Field<'_>) -> Read<UriTemplate> {
        let text = self.text(field)?;
        match scheme(text) {
            Some("http" | "https") => {}
            Some("file") => return self.unsupported(field, Unsupported::FileUri),
            Some(_) => return self.unsupported(field, Unsupported::OtherScheme),
            None if text.starts_with("file:") => return self.unsupported(field, Unsupported::FileUri),
            None => {
                let message =
                    format!("{} is no URI: expected e.g. `http://orders/{{id}}`", shown(field.value));
                return self.invalid(field, message);
            }
        }
        UriTemplate::parse(text).or_else(|problem| self.invalid(field, problem))
    }

    /// A URI that nothing is sent to, or an expression: the type of an error.
    pub(super) fn uri_or_expression(&mut self, field: &Field<'_>) -> Read<()> {
        let text = self.text(field)?;
        if is_expression(text) || scheme(text).is_some() {
            return Ok(());
        }
        let message =
            format!("{} is no URI: expected e.g. `https://example.com/errors/sold-out`", shown(field.value));
        self.invalid(field, message)
    }
}

/// By the pattern of the DSL's schema: `^[A-Za-z][A-Za-z0-9+\-.]*://.*`.
fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once("://")?;
    let good = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(good)).then_some(scheme)
}
