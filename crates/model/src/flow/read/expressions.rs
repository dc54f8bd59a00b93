//! Texts that are expressions, and values with expressions in them: what they may name where they stand.

use serde_json::{Map, Value};

use super::Reader;
use super::surroundings::{ExpressionPlace, Surroundings, VARIABLES};
use super::variables::variables;
use crate::flow::expression::{Expression, Template};
use crate::validate::field::{Code, Field, Read, Unreadable, shown};
use crate::validate::suggest::did_you_mean;

/// Whether a text is an expression as a whole (workflow.yaml, runtimeExpression).
pub(super) fn is_expression(text: &str) -> bool {
    text.trim().strip_prefix("${").is_some_and(|rest| rest.ends_with('}'))
}

/// Whether a text begins as an expression, and nothing in it could be the end of one.
fn is_unclosed(text: &str) -> bool {
    text.trim_start().starts_with("${") && !text.contains('}')
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
        // What is there elsewhere is known, so that it is said why it is not there here.
        let expression = match Expression::parse(text, &known(around)) {
            Ok(expression) => expression,
            Err(problem) => {
                // What is offered for a name that is nowhere can be used here.
                let offered = Expression::parse(text, &there(place, around)).err();
                let offered = offered.filter(|offered| offered.at == problem.at);
                return self.invalid(field, offered.unwrap_or(problem).message);
            }
        };
        self.check_variables(field, &expression, place, around)?;
        Ok(expression)
    }

    /// A value in which texts are expressions that have `${ }` around them.
    pub(super) fn template(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<Template> {
        self.check_texts(field, place, around)?;
        self.parse_template(field, field.value, around)
    }

    /// The same, where a text as a whole is an expression by itself: `from` and `as`.
    pub(super) fn template_or_expression(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<Template> {
        if !field.value.is_string() {
            self.object(field)?;
            return self.template(field, place, around);
        }
        let expression = self.expression(field, place, around)?;
        // A comment would take the brace with it.
        let enclosed = Value::from(format!("${{{}\n}}", expression.text()));
        self.parse_template(field, &enclosed, around)
    }

    /// A template of an object with the values of these fields, which stand at several places.
    pub(super) fn template_of(
        &mut self,
        fields: &[(&'static str, Field<'_>)],
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<Template> {
        for (_, field) in fields {
            self.check_texts(field, place, around)?;
        }
        let object: Map<_, _> =
            fields.iter().map(|(name, field)| ((*name).to_owned(), field.value.clone())).collect();
        // Each by itself is right.
        Template::parse(&Value::Object(object), &known(around)).map_err(|_| Unreadable)
    }

    fn parse_template(&mut self, field: &Field<'_>, value: &Value, around: &Surroundings) -> Read<Template> {
        // Its expressions are right by themselves: what is left is how deep it is.
        Template::parse(value, &known(around)).or_else(|problem| self.invalid(field, problem.message))
    }

    fn check_texts(&mut self, field: &Field<'_>, place: ExpressionPlace, around: &Surroundings) -> Read<()> {
        match field.value {
            Value::String(text) if is_expression(text) => self.expression(field, place, around).map(drop),
            Value::String(text) if is_unclosed(text) => {
                let message = format!(
                    "{} begins an expression that has no end: close it with `}}`; the text itself is written `${{ \"…\" }}`",
                    shown(field.value)
                );
                self.invalid(field, message)
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    self.check_texts(&Field { path: field.path.index(index), value }, place, around)?;
                }
                Ok(())
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let field = Field { path: field.path.field(name.clone()), value };
                    self.check_texts(&field, place, around)?;
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
        expression: &Expression,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<()> {
        for name in expression.variables_used() {
            if place.variables().contains(&name) || around.variables().any(|known| known == name) {
                continue;
            }
            let problem = match name {
                "secrets" if around.has_secrets => {
                    for secret in variables(expression.text()).into_iter().filter(|found| found.name == name) {
                        self.check_secret(field, secret.field)?;
                    }
                    continue;
                }
                "secrets" => "`$secrets` can be used in `with` and `authentication` of `call: http` and in its `input.from`: elsewhere it would be kept with the run (a function names it in its own call)"
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

/// The variables that there are at this place.
fn there(place: ExpressionPlace, around: &Surroundings) -> Vec<&str> {
    let secrets = around.has_secrets.then_some("secrets");
    place.variables().iter().copied().chain(secrets).chain(around.variables()).collect()
}

/// The variables that there are at some place of a document, and those around this one.
fn known(around: &Surroundings) -> Vec<&str> {
    VARIABLES.into_iter().chain(around.variables()).collect()
}
