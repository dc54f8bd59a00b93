//! The evaluation of simple expressions. What it makes and looks at is counted; where that is much, or where only jaq knows what comes of
//! it, it gives up, and an evaluator is asked.

use std::cmp::Ordering;

use jaq_core::ops::{Cmp, Math};
use serde_json::{Map, Number, Value};

use super::numbers::{self, Computed, Numeric};
use super::simple::Tree;
use super::{EvaluationReason, Excerpt, Given, NESTING};
use crate::json_bounds::{is_deeper, is_within};

/// How many bytes, about, an evaluation may copy and compare for each byte that its value may have.
const WORK: usize = 16;

/// A value on its way.
#[derive(Clone)]
enum Cell<'v> {
    /// Of what was given.
    Given(&'v Value),
    Made(Value),
    /// A float that was computed. It is an integer in the end where it is a whole number, and not before.
    Float(f64),
}

enum Stop {
    /// An evaluator has to be asked.
    Elsewhere,
    Failed(String),
}

type Running<T> = Result<T, Stop>;

fn failed<T>(message: String) -> Running<T> {
    Err(Stop::Failed(message))
}

impl Tree {
    pub(super) fn evaluate(&self, given: Given<'_>) -> Option<Result<Value, EvaluationReason>> {
        let mut evaluation = Evaluation { given, work: given.largest.saturating_mul(WORK) };
        let value = match evaluation.run(self, &Cell::Given(given.input)) {
            Ok(Cell::Given(value)) => match fits(value, given.largest) {
                Ok(()) => return Some(Ok(value.clone())),
                Err(reason) => return Some(Err(reason)),
            },
            Ok(Cell::Made(value)) => value,
            Ok(Cell::Float(float)) => computed(float)?,
            Err(Stop::Elsewhere) => return None,
            Err(Stop::Failed(message)) => return Some(Err(EvaluationReason::Failed(message))),
        };
        Some(fits(&value, given.largest).map(|()| value))
    }
}

/// What is left of a float at the end. `None` for what JSON has no numbers for.
fn computed(float: f64) -> Option<Value> {
    let integer = float as i64;
    match is_whole(float) {
        true => Some(integer.into()),
        false => Number::from_f64(float).map(Value::Number),
    }
}

/// Whether it is an integer that a float holds exactly; negative zero is none.
fn is_whole(float: f64) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    float.trunc() == float && float.abs() <= EXACT && !(float == 0.0 && float.is_sign_negative())
}

/// Whether a value may be what an expression gives, with so many bytes of JSON, and no deeper than [`NESTING`].
///
/// # Errors
/// Which of the two it is not.
pub fn fits(value: &Value, largest: usize) -> Result<(), EvaluationReason> {
    if is_deeper(value, NESTING) {
        return Err(EvaluationReason::Depth(NESTING));
    }
    if !is_within(value, largest) {
        return Err(EvaluationReason::Size(largest));
    }
    Ok(())
}

struct Evaluation<'v> {
    given: Given<'v>,
    /// How many more bytes it may copy and compare.
    work: usize,
}

impl<'v> Evaluation<'v> {
    fn charge(&mut self, work: usize) -> Running<()> {
        self.work = self.work.checked_sub(work).ok_or(Stop::Elsewhere)?;
        Ok(())
    }

    /// As many bytes, about, as there are in a value.
    fn charge_for(&mut self, value: &Value) -> Running<()> {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => self.charge(8),
            Value::String(text) => self.charge(text.len() + 8),
            Value::Array(items) => {
                self.charge(16)?;
                items.iter().try_for_each(|item| self.charge_for(item))
            }
            Value::Object(fields) => {
                self.charge(16)?;
                fields.iter().try_for_each(|(key, field)| {
                    self.charge(key.len() + 16)?;
                    self.charge_for(field)
                })
            }
        }
    }

    fn copied(&mut self, value: &Value) -> Running<Value> {
        self.charge_for(value)?;
        Ok(value.clone())
    }

    /// As a part of something made: what jaq knows to be computed is known no longer.
    fn owned(&mut self, cell: Cell<'v>) -> Running<Value> {
        match cell {
            Cell::Given(value) => self.copied(value),
            Cell::Made(value) => Ok(value),
            Cell::Float(float) if is_whole(float) => Err(Stop::Elsewhere),
            Cell::Float(float) => Number::from_f64(float).map(Value::Number).ok_or(Stop::Elsewhere),
        }
    }

    fn run(&mut self, tree: &'v Tree, input: &Cell<'v>) -> Running<Cell<'v>> {
        match tree {
            Tree::Input => match input {
                Cell::Made(value) => Ok(Cell::Made(self.copied(value)?)),
                cell => Ok(cell.clone()),
            },
            Tree::Variable(name) => Ok(Cell::Given(self.given.variables.get(name))),
            Tree::Constant(value) => Ok(Cell::Given(value)),
            Tree::Now => Ok(Cell::Float(self.given.now)),
            Tree::Path(root, keys) => self.path(root, keys, input),
            Tree::Array(items) => {
                let mut array = Vec::with_capacity(items.len());
                for item in items {
                    let item = self.run(item, input)?;
                    array.push(self.owned(item)?);
                }
                Ok(Cell::Made(array.into()))
            }
            Tree::Object(entries) => self.object(entries, input),
            Tree::Text(parts) => self.text(parts, input),
            Tree::Negative(tree) => {
                let cell = self.run(tree, input)?;
                negative(cell)
            }
            Tree::Arithmetic(left, operator, right) => {
                let left = self.run(left, input)?;
                let right = self.run(right, input)?;
                self.arithmetic(left, *operator, right)
            }
            Tree::Comparison(left, operator, right) => {
                let left = self.run(left, input)?;
                let right = self.run(right, input)?;
                let order = self.compare(&left, &right)?;
                let holds = match operator {
                    Cmp::Lt => order.is_lt(),
                    Cmp::Le => order.is_le(),
                    Cmp::Gt => order.is_gt(),
                    Cmp::Ge => order.is_ge(),
                    Cmp::Eq => order.is_eq(),
                    Cmp::Ne => order.is_ne(),
                };
                Ok(Cell::Made(holds.into()))
            }
            Tree::And(left, right) => {
                let holds = self.run(left, input)?.is_true() && self.run(right, input)?.is_true();
                Ok(Cell::Made(holds.into()))
            }
            Tree::Or(left, right) => {
                let holds = self.run(left, input)?.is_true() || self.run(right, input)?.is_true();
                Ok(Cell::Made(holds.into()))
            }
            Tree::Alternative(left, right) => {
                let left = self.run(left, input)?;
                if left.is_true() { Ok(left) } else { self.run(right, input) }
            }
            Tree::Pipe(left, right) => {
                let left = self.run(left, input)?;
                self.run(right, &left)
            }
            Tree::Choice(parts) => {
                let [condition, then, otherwise] = &**parts;
                let holds = self.run(condition, input)?.is_true();
                self.run(if holds { then } else { otherwise }, input)
            }
            Tree::Not => Ok(Cell::Made((!input.is_true()).into())),
            Tree::Length => self.length(input),
            Tree::ToText => {
                let mut text = String::new();
                self.write(&mut text, input)?;
                Ok(Cell::Made(text.into()))
            }
        }
    }

    #[inline(never)]
    fn path(&mut self, root: &'v Tree, keys: &'v [Tree], input: &Cell<'v>) -> Running<Cell<'v>> {
        // What is made already is not copied for a part of it.
        let made;
        let root = match root {
            Tree::Input => input,
            root => {
                made = self.run(root, input)?;
                &made
            }
        };
        match root {
            Cell::Given(value) => {
                let mut value = *value;
                for key in keys {
                    let key = self.run(key, input)?;
                    value = step(value, &key)?;
                }
                Ok(Cell::Given(value))
            }
            Cell::Made(value) => {
                let mut value = value;
                for key in keys {
                    let key = self.run(key, input)?;
                    value = step(value, &key)?;
                }
                Ok(Cell::Made(self.copied(value)?))
            }
            Cell::Float(float) => failed(format!("cannot index {float} with a key")),
        }
    }

    #[inline(never)]
    fn object(&mut self, entries: &'v [(Tree, Tree)], input: &Cell<'v>) -> Running<Cell<'v>> {
        let mut object = Map::new();
        for (key, value) in entries {
            let key = match self.run(key, input)? {
                Cell::Given(Value::String(key)) => key.clone(),
                Cell::Made(Value::String(key)) => key,
                // jaq has such objects, and JSON does not.
                _ => return Err(Stop::Elsewhere),
            };
            self.charge(key.len())?;
            let value = self.run(value, input)?;
            object.insert(key, self.owned(value)?);
        }
        Ok(Cell::Made(object.into()))
    }

    #[inline(never)]
    fn text(&mut self, parts: &'v [Tree], input: &Cell<'v>) -> Running<Cell<'v>> {
        let mut text = String::new();
        for part in parts {
            let part = self.run(part, input)?;
            self.write(&mut text, &part)?;
        }
        Ok(Cell::Made(text.into()))
    }

    fn write(&mut self, text: &mut String, cell: &Cell<'v>) -> Running<()> {
        match cell.value() {
            Some(Value::Null) => text.push_str("null"),
            Some(Value::Bool(truth)) => text.push_str(if *truth { "true" } else { "false" }),
            Some(Value::String(other)) => {
                self.charge(other.len())?;
                text.push_str(other);
            }
            Some(Value::Number(number)) if number.is_i64() => text.push_str(&number.to_string()),
            // How jaq writes floats and what has parts is its own affair.
            _ => return Err(Stop::Elsewhere),
        }
        Ok(())
    }

    fn length(&mut self, input: &Cell<'v>) -> Running<Cell<'v>> {
        let length = match input.value() {
            Some(Value::Null) => 0,
            Some(Value::String(text)) => {
                self.charge(text.len())?;
                text.chars().count()
            }
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(fields)) => fields.len(),
            Some(Value::Bool(truth)) => return failed(format!("{truth} has no length")),
            Some(Value::Number(_)) | None => return Err(Stop::Elsewhere),
        };
        Ok(Cell::Made(length.into()))
    }

    fn compare(&mut self, left: &Cell<'v>, right: &Cell<'v>) -> Running<Ordering> {
        // A float stands for a number of JSON here, which compares the same.
        let float = |cell: &Cell<'v>| match cell {
            Cell::Float(float) => Number::from_f64(*float).map(Value::Number).ok_or(Stop::Elsewhere),
            _ => Ok(Value::Null),
        };
        let (float_left, float_right) = (float(left)?, float(right)?);
        let left = left.value().unwrap_or(&float_left);
        let right = right.value().unwrap_or(&float_right);
        if matches!(left, Value::Array(_) | Value::Object(_) | Value::String(_)) && same_kind(left, right) {
            self.charge_for(left)?;
            self.charge_for(right)?;
        }
        numbers::compare(left, right).ok_or(Stop::Elsewhere)
    }

    #[inline(never)]
    fn arithmetic(&mut self, left: Cell<'v>, operator: Math, right: Cell<'v>) -> Running<Cell<'v>> {
        if let (Some(left), Some(right)) = (left.number()?, right.number()?) {
            return match left.compute(operator, right) {
                Computed::Number(Numeric::Integer(integer)) => Ok(Cell::Made(integer.into())),
                Computed::Number(Numeric::Float(float)) => Ok(Cell::Float(float)),
                Computed::Beyond => Err(Stop::Elsewhere),
                Computed::DivisionByZero => failed("cannot divide by zero".to_owned()),
            };
        }
        match (left.value(), operator, right.value()) {
            (Some(Value::Null), Math::Add, _) => Ok(right),
            (_, Math::Add, Some(Value::Null)) => Ok(left),
            (Some(Value::String(_)), Math::Add, Some(Value::String(end))) => {
                self.charge(end.len())?;
                let Value::String(mut text) = self.owned(left)? else { return Err(Stop::Elsewhere) };
                text.push_str(end);
                Ok(Cell::Made(text.into()))
            }
            (Some(Value::Array(_)), Math::Add, Some(Value::Array(_))) => {
                let (Value::Array(mut left), Value::Array(right)) = (self.owned(left)?, self.owned(right)?)
                else {
                    return Err(Stop::Elsewhere);
                };
                left.extend(right);
                Ok(Cell::Made(left.into()))
            }
            (Some(Value::Object(_)), Math::Add, Some(Value::Object(_))) => {
                let (Value::Object(mut left), Value::Object(right)) = (self.owned(left)?, self.owned(right)?)
                else {
                    return Err(Stop::Elsewhere);
                };
                left.extend(right);
                Ok(Cell::Made(left.into()))
            }
            // The difference of arrays, repeated and split texts, objects put into one another.
            (Some(Value::Array(_)), Math::Sub, Some(Value::Array(_))) => Err(Stop::Elsewhere),
            (Some(Value::String(_)), Math::Mul | Math::Div, _) => Err(Stop::Elsewhere),
            (_, Math::Mul, Some(Value::String(_))) => Err(Stop::Elsewhere),
            (Some(Value::Object(_)), Math::Mul, Some(Value::Object(_))) => Err(Stop::Elsewhere),
            _ => {
                let operator = operator.as_str();
                failed(format!("cannot calculate {} {operator} {}", left.shown(), right.shown()))
            }
        }
    }
}

impl Cell<'_> {
    /// `None` for a float that was computed.
    fn value(&self) -> Option<&Value> {
        match self {
            Self::Given(value) => Some(value),
            Self::Made(value) => Some(value),
            Self::Float(_) => None,
        }
    }

    fn is_true(&self) -> bool {
        !matches!(self.value(), Some(Value::Null | Value::Bool(false)))
    }

    fn number(&self) -> Running<Option<Numeric>> {
        match (self, self.value()) {
            (Self::Float(float), _) => Ok(Some(Numeric::Float(*float))),
            (_, Some(Value::Number(number))) => Numeric::of(number).map(Some).ok_or(Stop::Elsewhere),
            _ => Ok(None),
        }
    }

    /// For an error: a value may be large.
    fn shown(&self) -> String {
        match (self, self.value()) {
            (_, Some(Value::String(text))) => format!("{:?}", Excerpt(text).to_string()),
            (_, Some(Value::Array(_))) => "an array".to_owned(),
            (_, Some(Value::Object(_))) => "an object".to_owned(),
            (_, Some(value)) => value.to_string(),
            (Self::Float(float), None) => float.to_string(),
            (_, None) => String::new(),
        }
    }
}

fn same_kind(left: &Value, right: &Value) -> bool {
    std::mem::discriminant(left) == std::mem::discriminant(right)
}

fn negative(cell: Cell<'_>) -> Running<Cell<'_>> {
    match (&cell, cell.number()?) {
        (Cell::Float(float), _) => Ok(Cell::Float(-float)),
        (_, Some(Numeric::Integer(integer))) => {
            Ok(Cell::Made(integer.checked_neg().ok_or(Stop::Elsewhere)?.into()))
        }
        // A float that is written down or given stays one.
        (_, Some(Numeric::Float(float))) => {
            Number::from_f64(-float).map(|number| Cell::Made(Value::Number(number))).ok_or(Stop::Elsewhere)
        }
        (_, None) => failed(format!("cannot use {} as a number", cell.shown())),
    }
}

/// What is at a key.
fn step<'x>(value: &'x Value, key: &Cell<'_>) -> Running<&'x Value> {
    Ok(match (value, key.value()) {
        (Value::Null, _) => &Value::Null,
        (Value::Object(fields), Some(Value::String(key))) => fields.get(key).unwrap_or(&Value::Null),
        // No object of JSON has another key.
        (Value::Object(_), _) => &Value::Null,
        (Value::Array(items), Some(Value::Number(index))) if !index.is_f64() => {
            let index = match index.as_i64() {
                Some(index) if index < 0 => items.len().checked_sub(index.unsigned_abs() as usize),
                Some(index) => usize::try_from(index).ok(),
                None => None,
            };
            index.and_then(|index| items.get(index)).unwrap_or(&Value::Null)
        }
        // Where one array is in the other, and slices.
        (Value::Array(_), Some(Value::Array(_) | Value::Object(_))) => return Err(Stop::Elsewhere),
        (Value::String(_), Some(Value::Object(_))) => return Err(Stop::Elsewhere),
        (value, _) => {
            let what = Cell::Given(value).shown();
            return failed(format!("cannot index {what} with {}", key.shown()));
        }
    })
}
