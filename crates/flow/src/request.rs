//! What an evaluator is asked: a frame with its length before it, in the same byte order as the machine, as both ends are one binary.

use std::io::{self, Write};

use serde_json::Value;
use tulle_model::flow::expression::{EvaluationReason, Expression, Given, NESTING};
use tulle_model::json_bounds::is_deeper;

/// How much an expression may be given, with its text and the variables that it uses, in bytes.
pub(crate) const MOST_GIVEN: usize = 4 << 20;

/// The largest frame: names may come to the last value.
pub(crate) const LARGEST_FRAME: usize = MOST_GIVEN + (64 << 10);

/// What a frame asks for, as the evaluator reads it.
pub(crate) enum Asked<'f> {
    Value(Request<'f>),
    Check(Check<'f>),
}

const VALUE: u8 = b'v';
const CHECK: u8 = b'c';

/// Whether a value is as a schema says; both are JSON.
pub(crate) struct Check<'f> {
    pub(crate) schema: &'f str,
    pub(crate) value: &'f [u8],
}

/// What an expression gives.
pub(crate) struct Request<'f> {
    pub(crate) largest: usize,
    pub(crate) now: f64,
    pub(crate) text: &'f str,
    /// JSON
    pub(crate) input: &'f [u8],
    /// Name without `$`, and JSON
    pub(crate) variables: Vec<(&'f str, &'f [u8])>,
}

/// The whole frame.
///
/// # Errors
/// Where what is given is too large, or too deep.
pub(crate) fn encode(expression: &Expression, given: Given<'_>) -> Result<Vec<u8>, EvaluationReason> {
    let mut frame = Frame(vec![0, 0, 0, 0, VALUE]);
    frame.number(given.largest);
    frame.0.extend_from_slice(&given.now.to_ne_bytes());
    frame.bytes(expression.text().as_bytes());
    frame.value(given.input)?;
    for name in expression.variables_used() {
        frame.bytes(name.as_bytes());
        frame.value(given.variables.get(name))?;
    }
    Ok(frame.finish())
}

/// The same, to have a value held against a schema.
///
/// # Errors
/// As those of [`encode`].
pub(crate) fn encode_check(schema: &Value, value: &Value) -> Result<Vec<u8>, EvaluationReason> {
    let mut frame = Frame(vec![0, 0, 0, 0, CHECK]);
    frame.value(schema)?;
    frame.value(value)?;
    Ok(frame.finish())
}

struct Frame(Vec<u8>);

impl Frame {
    fn finish(self) -> Vec<u8> {
        let Self(mut frame) = self;
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_ne_bytes());
        frame
    }

    fn number(&mut self, number: usize) {
        self.0.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_ne_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn value(&mut self, value: &Value) -> Result<(), EvaluationReason> {
        if is_deeper(value, NESTING) {
            return Err(EvaluationReason::InputDepth(NESTING));
        }
        let length = self.0.len();
        self.number(0);
        serde_json::to_writer(&mut *self, value).map_err(|_| EvaluationReason::Input(MOST_GIVEN))?;
        let written = (self.0.len() - length - 4) as u32;
        self.0[length..length + 4].copy_from_slice(&written.to_ne_bytes());
        Ok(())
    }
}

impl Write for Frame {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_GIVEN {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes a frame apart, without the length before it. `None` where it is none.
pub(crate) fn decode(frame: &[u8]) -> Option<Asked<'_>> {
    let (kind, mut rest) = frame.split_first()?;
    match *kind {
        CHECK => {
            let schema = str::from_utf8(bytes(&mut rest)?).ok()?;
            Some(Asked::Check(Check { schema, value: bytes(&mut rest)? }))
        }
        VALUE => {
            let largest = number(&mut rest)?;
            let (now, after) = rest.split_first_chunk()?;
            rest = after;
            let text = str::from_utf8(bytes(&mut rest)?).ok()?;
            let input = bytes(&mut rest)?;
            let mut variables = Vec::new();
            while !rest.is_empty() {
                variables.push((str::from_utf8(bytes(&mut rest)?).ok()?, bytes(&mut rest)?));
            }
            Some(Asked::Value(Request { largest, now: f64::from_ne_bytes(*now), text, input, variables }))
        }
        _ => None,
    }
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_ne_bytes(*number) as usize)
}

fn bytes<'f>(rest: &mut &'f [u8]) -> Option<&'f [u8]> {
    let length = number(rest)?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}
