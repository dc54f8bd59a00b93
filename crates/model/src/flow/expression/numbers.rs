//! Numbers as jaq has them: integers and floats are apart, and what is computed of two integers is one, but for quotients.

use std::cmp::Ordering;

use jaq_core::ops::Math;
use serde_json::Value;

#[derive(Clone, Copy)]
pub(super) enum Numeric {
    Integer(i64),
    Float(f64),
}

/// What comes of arithmetic.
pub(super) enum Computed {
    Number(Numeric),
    /// Only jaq has numbers for it: integers beyond 64 bits, infinity, what is no number.
    Beyond,
    DivisionByZero,
}

impl Numeric {
    /// `None` for integers beyond 63 bits.
    pub(super) fn of(number: &serde_json::Number) -> Option<Self> {
        match number.as_i64() {
            Some(integer) => Some(Self::Integer(integer)),
            None => number.is_f64().then(|| number.as_f64()).flatten().map(Self::Float),
        }
    }

    fn float(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Float(float) => float,
        }
    }

    pub(super) fn compute(self, operator: Math, other: Self) -> Computed {
        let computed = match (self, operator, other) {
            (Self::Integer(left), Math::Add, Self::Integer(right)) => {
                left.checked_add(right).map(Self::Integer)
            }
            (Self::Integer(left), Math::Sub, Self::Integer(right)) => {
                left.checked_sub(right).map(Self::Integer)
            }
            (Self::Integer(left), Math::Mul, Self::Integer(right)) => {
                left.checked_mul(right).map(Self::Integer)
            }
            (Self::Integer(_), Math::Rem, Self::Integer(0)) => return Computed::DivisionByZero,
            (Self::Integer(left), Math::Rem, Self::Integer(right)) => {
                Some(Self::Integer(left.checked_rem(right).unwrap_or(0)))
            }
            (left, operator, right) => {
                let float: f64 = operator.run(left.float(), right.float());
                float.is_finite().then_some(Self::Float(float))
            }
        };
        computed.map_or(Computed::Beyond, Computed::Number)
    }

    pub(super) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Integer(left), Self::Integer(right)) => left.cmp(&right),
            // Zero and its negative are the same; nothing here is not a number.
            (left, right) => {
                let (left, right) = (left.float(), right.float());
                if left == 0.0 && right == 0.0 { Ordering::Equal } else { left.total_cmp(&right) }
            }
        }
    }
}

/// The order of values (jq's manual, `sort`). `None` where numbers are too large for this.
pub(super) fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    Some(match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Number(left), Value::Number(right)) => Numeric::of(left)?.compare(Numeric::of(right)?),
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => {
            in_order(left.iter(), right.iter())?.then(left.len().cmp(&right.len()))
        }
        (Value::Object(left), Value::Object(right)) => {
            // By keys first, as lists, and then by values in the order of keys.
            let keys = left.keys().cmp(right.keys());
            if keys.is_eq() { in_order(left.values(), right.values())? } else { keys }
        }
        (left, right) => rank(left).cmp(&rank(right)),
    })
}

fn in_order<'v>(
    left: impl Iterator<Item = &'v Value>,
    right: impl Iterator<Item = &'v Value>,
) -> Option<Ordering> {
    for (left, right) in left.zip(right) {
        let order = compare(left, right)?;
        if order.is_ne() {
            return Some(order);
        }
    }
    Some(Ordering::Equal)
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}
