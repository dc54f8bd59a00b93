//! TemplateValues of a document in which texts are expressions.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::evaluation::fits;
use super::{EvaluationError, EvaluationReason, Expression, ExpressionProblem, Given};
use crate::json_bounds::room_after;
use crate::json_pointer::push_token;

/// How deep a template may be: expressions in it may give what is as deep again, and the whole is looked at then.
const DEEPEST: usize = super::NESTING;

/// A value in which texts that stand within `${ }` as a whole are expressions; all others, names of fields included, are what they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Arc<Mold>);

/// What the expressions of a template give, one after the other: together they are no larger than the whole may be.
#[derive(Debug)]
pub struct TemplateValues {
    all: Vec<Value>,
    left: usize,
    largest: usize,
}

#[derive(Debug, PartialEq)]
enum Mold {
    /// Without an expression in it.
    Constant(Value),
    Expression(Expression),
    Array(Vec<Mold>),
    Object(Vec<(String, Mold)>),
}

impl Template {
    /// `variables` are those that exist there, without `$`.
    ///
    /// # Errors
    /// What is wrong with the first expression that is none, with a pointer to it.
    pub fn parse(value: &Value, variables: &[&str]) -> Result<Self, ExpressionProblem> {
        Ok(Self(Arc::new(mold(value, variables, &mut String::new(), DEEPEST)?)))
    }

    /// What it is, where there is no expression in it.
    pub fn constant(&self) -> Option<&Value> {
        match &*self.0 {
            Mold::Constant(value) => Some(value),
            _ => None,
        }
    }

    pub fn is_constant(&self) -> bool {
        self.constant().is_some()
    }

    /// Its expressions, in the order of the fields.
    pub fn expressions(&self) -> Vec<&Expression> {
        let mut found = Vec::new();
        collect(&self.0, &mut found);
        found
    }

    /// Whether one of its expressions uses that variable.
    pub fn uses(&self, variable: &str) -> bool {
        uses(&self.0, variable)
    }

    /// With `values` in the places of [`expressions`](Self::expressions), in that order. Where there are too few, null.
    pub fn fill(&self, values: impl IntoIterator<Item = Value>) -> Value {
        fill(&self.0, &mut values.into_iter())
    }

    /// With what its expressions give. `None`: an evaluator has to be asked for one of them.
    pub fn evaluate_simple(&self, given: Given<'_>) -> Option<Result<Value, EvaluationError>> {
        if let Some(value) = self.constant() {
            return Some(Ok(value.clone()));
        }
        let expressions = self.expressions();
        let mut values = TemplateValues::new(given.largest);
        for expression in &expressions {
            let value = expression.evaluate_simple(given)?;
            if let Err(error) = value.and_then(|value| values.push(expression, value)) {
                return Some(Err(error));
            }
        }
        Some(self.whole(values))
    }

    /// [`fill`](Self::fill), where the whole may be as large as it is.
    ///
    /// # Errors
    /// Where it is too large or too deep; of one expression, as there is at least one in what is not constant.
    pub fn whole(&self, values: TemplateValues) -> Result<Value, EvaluationError> {
        let value = self.fill(values.all);
        match (fits(&value, values.largest), self.expressions().first()) {
            (Err(reason), Some(expression)) => Err(EvaluationError::new(expression, reason)),
            _ => Ok(value),
        }
    }
}

impl TemplateValues {
    /// Those of a whole that may be as large as that.
    pub fn new(largest: usize) -> Self {
        Self { all: Vec::new(), left: largest, largest }
    }

    /// The next.
    ///
    /// # Errors
    /// There is no room for it beside the others.
    pub fn push(&mut self, expression: &Expression, value: Value) -> Result<(), EvaluationError> {
        let left = room_after(&value, self.left);
        let too_large = || EvaluationError::new(expression, EvaluationReason::Size(self.largest));
        self.left = left.ok_or_else(too_large)?;
        self.all.push(value);
        Ok(())
    }
}

fn mold(
    value: &Value,
    variables: &[&str],
    pointer: &mut String,
    deeper: usize,
) -> Result<Mold, ExpressionProblem> {
    if deeper == 0 && (value.is_array() || value.is_object()) {
        let message = format!("more than {DEEPEST} arrays and objects stand within one another");
        return Err(ExpressionProblem { pointer: pointer.clone(), at: 0, message });
    }
    let outer = pointer.len();
    let molded = match value {
        Value::String(text) => match Expression::parse_strict(text, variables) {
            Some(Ok(expression)) => Mold::Expression(expression),
            Some(Err(problem)) => return Err(ExpressionProblem { pointer: pointer.clone(), ..problem }),
            None => Mold::Constant(value.clone()),
        },
        Value::Array(items) => {
            let mut molds = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                pointer.push_str(&format!("/{index}"));
                molds.push(mold(item, variables, pointer, deeper - 1)?);
                pointer.truncate(outer);
            }
            match molds.iter().all(|mold| matches!(mold, Mold::Constant(_))) {
                true => Mold::Constant(value.clone()),
                false => Mold::Array(molds),
            }
        }
        Value::Object(fields) => {
            let mut molds = Vec::with_capacity(fields.len());
            for (name, field) in fields {
                push_token(pointer, name);
                molds.push((name.clone(), mold(field, variables, pointer, deeper - 1)?));
                pointer.truncate(outer);
            }
            match molds.iter().all(|(_, mold)| matches!(mold, Mold::Constant(_))) {
                true => Mold::Constant(value.clone()),
                false => Mold::Object(molds),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Mold::Constant(value.clone()),
    };
    Ok(molded)
}

fn collect<'t>(mold: &'t Mold, found: &mut Vec<&'t Expression>) {
    match mold {
        Mold::Constant(_) => {}
        Mold::Expression(expression) => found.push(expression),
        Mold::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Mold::Object(fields) => fields.iter().for_each(|(_, field)| collect(field, found)),
    }
}

fn uses(mold: &Mold, variable: &str) -> bool {
    match mold {
        Mold::Constant(_) => false,
        Mold::Expression(expression) => expression.variables_used().any(|used| used == variable),
        Mold::Array(items) => items.iter().any(|item| uses(item, variable)),
        Mold::Object(fields) => fields.iter().any(|(_, field)| uses(field, variable)),
    }
}

fn fill(mold: &Mold, values: &mut impl Iterator<Item = Value>) -> Value {
    match mold {
        Mold::Constant(value) => value.clone(),
        Mold::Expression(_) => values.next().unwrap_or_default(),
        Mold::Array(items) => items.iter().map(|item| fill(item, values)).collect(),
        Mold::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| (name.clone(), fill(field, values)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}
