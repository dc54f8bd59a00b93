//! Texts that are expressions, and values with expressions in them: what they may name where they stand.

use serde_json::{Map, Value};

use super::Reader;
use super::surroundings::{ExpressionPlace, Surroundings, VARIABLES};
use super::variables::variables;
use crate::flow::expression::{Expression, Template};
use crate::validate::field::{Code, Field, Read, Unreadable};
use crate::validate::suggest::did_you_mean;

/// Whether a text is an expression as a whole (workflow.yaml, runtimeExpression).
pub(super) fn is_expression(text: &str) -> bool {
    text.trim().strip_prefix("${").is_some_and(|rest| rest.ends_with('}'))
}

/// The expression of a text. Names are those of the variables that there are.
fn expression(text: &str, names: &[&str]) -> Result<Expression, String> {
    Expression::parse(text, names).map_err(|e| e.message)
}

/// The template of a value; a problem comes with the place in the value, as a JSON pointer.
fn template(value: &Value, names: &[&str]) -> Result<Template, (String, String)> {
    Template::parse(value, names).map_err(|e| (e.pointer, e.message))
}

impl Reader<'_> {
    /// A text that is an expression, with `${ }` around it or without.
    pub(super) fn expression(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<Expression> {
        let text = self.text(field)?;
        self.check_variables(field, text, place, around)?;
        expression(text, &names(place, around)).or_else(|problem| self.invalid(field, problem))
    }

    /// A value in which texts are expressions that have `${ }` around them.
    pub(super) fn template(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<Template> {
        self.check_texts(field, place, around)?;
        self.parse_template(field, place, around)
    }

    /// The same, where a text as a whole is an expression by itself: `from` and `as`.
    pub(super) fn template_or_expression(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<Template> {
        let Value::String(text) = field.value else {
            self.object(field)?;
            return self.template(field, place, around);
        };
        self.check_variables(field, text, place, around)?;
        if is_expression(text) {
            return self.parse_template(field, place, around);
        }
        let enclosed = Value::from(format!("${{ {text} }}"));
        self.parse_template(&Field { path: field.path.clone(), value: &enclosed }, place, around)
    }

    /// A template of an object with the values of these fields, which stand at several places.
    pub(super) fn template_of(
        &mut self,
        fields: &[(&'static str, Field<'_>)],
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<Template> {
        for (_, field) in fields {
            self.template(field, place, around)?;
        }
        let object: Map<_, _> =
            fields.iter().map(|(name, field)| ((*name).to_owned(), field.value.clone())).collect();
        // Each by itself is right.
        template(&Value::Object(object), &names(place, around)).map_err(|_| Unreadable)
    }

    fn parse_template(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<Template> {
        template(field.value, &names(place, around)).or_else(|(pointer, problem)| {
            let within = at(field, &pointer).unwrap_or_else(|| field.clone());
            self.invalid(&within, problem)
        })
    }

    fn check_texts(&mut self, field: &Field<'_>, place: ExpressionPlace, around: &Surroundings) -> Read<()> {
        match field.value {
            Value::String(text) if is_expression(text) => self.check_variables(field, text, place, around),
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    self.check_texts(&Field { path: field.path.index(index), value }, place, around)?;
                }
                Ok(())
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.check_texts(&Field { path: field.path.field(name.clone()), value }, place, around)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Says of variables that every document has whether they are there at this place, and of secrets whether the document has them.
    fn check_variables(
        &mut self,
        field: &Field<'_>,
        code: &str,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<()> {
        for variable in variables(code.trim_start().trim_start_matches("${")) {
            if !VARIABLES.contains(&variable.name) || place.variables().contains(&variable.name) {
                continue;
            }
            if variable.name == "secrets" && around.has_secrets {
                self.check_secret(field, variable.field)?;
                continue;
            }
            let problem = match variable.name {
                "secrets" => "`$secrets` can be used in `with` and `authentication` of calls and in their `input.from`: elsewhere it would be kept with the run"
                    .to_owned(),
                "authorization" => "`$authorization` can be used in `with` of `call: http`: elsewhere it would be kept with the run"
                    .to_owned(),
                name => {
                    let there: Vec<_> = place.variables().iter().map(|name| format!("`${name}`")).collect();
                    format!("`${name}` is not there in {}: {} are", place.name(), there.join(", "))
                }
            };
            self.problem(field, Code::Forbidden, problem);
            return Err(Unreadable);
        }
        Ok(())
    }

    fn check_secret(&mut self, field: &Field<'_>, name: Option<&str>) -> Read<()> {
        let known = &self.reusable.secrets;
        let problem = match name {
            _ if known.is_empty() => "`use.secrets` lists no Secret: `$secrets` is empty".to_owned(),
            Some(name) if !known.iter().any(|known| **known == *name) => {
                let hint = did_you_mean(name, known.iter().map(|known| &**known));
                format!("`use.secrets` does not list `{name}`{hint}")
            }
            _ => return Ok(()),
        };
        self.problem(field, Code::NotFound, problem);
        Err(Unreadable)
    }
}

/// The variables that there are.
fn names(place: ExpressionPlace, around: &Surroundings) -> Vec<&str> {
    let secrets = around.has_secrets.then_some("secrets");
    place.variables().iter().copied().chain(secrets).chain(around.variables()).collect()
}

/// What a JSON pointer leads to from there.
fn at<'f>(field: &Field<'f>, pointer: &str) -> Option<Field<'f>> {
    let mut found = field.clone();
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        found = match found.value {
            Value::Array(items) => {
                let index = token.parse().ok()?;
                Field { path: found.path.index(index), value: items.get(index)? }
            }
            Value::Object(fields) => {
                Field { path: found.path.field(token.clone()), value: fields.get(&token)? }
            }
            _ => return None,
        };
    }
    Some(found)
}
