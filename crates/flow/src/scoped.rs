//! Expressions and templates, with what is known where they stand.

use std::sync::Arc;

use serde_json::Value;
use tulle_model::flow::expression::{
    EvaluationError, EvaluationReason, Expression, Given, Template, Variables,
};
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::scope::Scope;

use crate::evaluator::Evaluator;

/// Why there is no value.
#[derive(Debug)]
pub enum Unanswered {
    /// The task that asks fails with it.
    Fault(Fault),
    /// Nothing is said of what was asked: it may be asked again.
    Later(EvaluationReason),
    /// The schema is elsewhere: who has fetched it goes on with [`crate::schema::check`].
    Elsewhere,
}

/// An evaluator, at one place of a run.
pub struct Scoped<'s> {
    evaluator: &'s Evaluator,
    scope: &'s Scope,
    /// By name and key, those that the workflow lists.
    secrets: &'s Arc<Value>,
    authorization: Option<Arc<Value>>,
}

impl<'s> Scoped<'s> {
    /// `secrets`: what `$secrets` is, an object of objects of texts.
    pub fn new(evaluator: &'s Evaluator, scope: &'s Scope, secrets: &'s Arc<Value>) -> Self {
        Self { evaluator, scope, secrets, authorization: None }
    }

    /// The same place, where it is known what the call says to be by.
    #[must_use]
    pub fn with_authorization(&self, authorization: Value) -> Self {
        let Self { evaluator, scope, secrets, .. } = *self;
        Self { evaluator, scope, secrets, authorization: Some(Arc::new(authorization)) }
    }

    pub fn scope(&self) -> &'s Scope {
        self.scope
    }

    /// What is in a Secret; `None` where it is not known.
    pub fn secret(&self, name: &str) -> Option<&'s Value> {
        self.secrets.get(name)
    }

    /// What an expression gives.
    ///
    /// # Errors
    /// Why it gives nothing.
    pub async fn expression(&self, expression: &Expression) -> Result<Value, Unanswered> {
        let values = self.values(expression.variables_used());
        let variables = variables(&values);
        Ok(self.evaluator.evaluate(expression, self.given(&variables)).await?)
    }

    /// What a template becomes.
    ///
    /// # Errors
    /// Why one of its expressions gives nothing.
    pub async fn template(&self, template: &Template) -> Result<Value, Unanswered> {
        let expressions = template.expressions();
        let values = self.values(expressions.iter().flat_map(|expression| expression.variables_used()));
        let variables = variables(&values);
        Ok(self.evaluator.evaluate_template(template, self.given(&variables)).await?)
    }

    /// Of these names, each that has a value: some are costly, so that they are made for who asks.
    fn values<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<(&'n str, Arc<Value>)> {
        let mut values: Vec<(&str, Arc<Value>)> = Vec::new();
        for name in names {
            if values.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let value = match name {
                "secrets" => Some(self.secrets.clone()),
                "authorization" => self.authorization.clone(),
                name => self.scope.variable(name),
            };
            values.extend(value.map(|value| (name, value)));
        }
        values
    }

    fn given<'v>(&'v self, variables: &'v Variables<'v>) -> Given<'v> {
        Given {
            input: &self.scope.on,
            variables,
            now: self.scope.now as f64 / 1_000.0,
            largest: self.scope.run.most_bytes,
        }
    }
}

fn variables<'v>(values: &'v [(&'v str, Arc<Value>)]) -> Variables<'v> {
    values.iter().fold(Variables::new(), |variables, (name, value)| variables.with(name, value))
}

impl From<EvaluationError> for Unanswered {
    fn from(error: EvaluationError) -> Self {
        match error.is_transient() {
            true => Self::Later(error.reason),
            false => Self::Fault(FaultKind::Expression.fault(error.to_string())),
        }
    }
}

impl From<Fault> for Unanswered {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
