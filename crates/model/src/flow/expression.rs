//! Runtime expressions of workflows (Serverless Workflow DSL, "Runtime expressions"): jq, as jaq has it, in strict mode.
//!
//! Whatever an expression costs before it runs is bounded when it is read: its text, and how much stands within one another.
//! What it costs to run is bounded only for expressions that neither loop nor call themselves: paths, constants, constructions,
//! comparisons, logic, arithmetic, choices and pipes of those. These have a form of their own here ([`simple`]) and are evaluated at once,
//! in time and memory that are bounded, with what jaq would give. All others are for a process that can be killed (the
//! crate `tulle-flow`), as is what is costly or rare in the simple ones, such as numbers beyond 64 bits.
//!
//! Where an expression gives nothing (`empty`), its value is null; where it gives several, it is an array of them, as in the DSL's
//! SDK for Java, which drops nothing (that for Go takes the first; the DSL does not say). Where jaq computes a
//! float that is a whole number, as in `6 / 2`, the value is an integer, as with jq itself: services that are given `3.0` may refuse it.

mod bounds;
mod evaluation;
mod functions;
mod names;
mod numbers;
mod simple;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jaq_core::load::lex::{self, Lexer, Token};
use jaq_core::load::parse::{self, Parser};
use jaq_core::load::span;
use serde_json::Value;
use thiserror::Error;

pub use self::bounds::OPERATORS;
pub use self::evaluation::fits;
pub use self::functions::FUNCTIONS;
use self::simple::Tree;
pub use self::template::{Template, TemplateValues};

/// The longest text of an expression, in bytes.
pub const LONGEST: usize = 64 << 10;

/// How many brackets of an expression, and arrays and objects of a value, may stand within one another.
pub const NESTING: usize = 100;

/// The largest value that an expression may give where nothing else is said, in bytes of JSON.
pub const LARGEST: usize = 256 << 10;

/// An expression that can be evaluated.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    variables: Arc<BTreeSet<Box<str>>>,
    simple: Option<Arc<Tree>>,
}

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ExpressionProblem {
    /// Where in a [`Template`] the expression is (JSON pointer, RFC 6901).
    pub pointer: String,
    /// Which byte of the field's text it is about.
    pub at: usize,
    pub message: String,
}

impl ExpressionProblem {
    fn at(at: usize, message: String) -> Self {
        Self { pointer: String::new(), at, message }
    }
}

/// Why an expression gave no value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the expression `{}` {reason}", Excerpt(expression))]
pub struct EvaluationError {
    pub expression: Arc<str>,
    pub reason: EvaluationReason,
}

/// What became of an evaluation that gave no value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvaluationReason {
    /// In the words of jaq, which may quote what the expression was given.
    #[error("failed: {0}")]
    Failed(String),
    #[error("was stopped after {} ms of computing; it may not need more than that", .0.as_millis())]
    Time(Duration),
    #[error("was stopped: it may not use more than {} MiB of memory", .0 >> 20)]
    Memory(usize),
    #[error("was stopped: it calls itself too often before it is done")]
    Recursion,
    #[error("gives a value with more than {0} arrays and objects within one another")]
    Depth(usize),
    #[error("gives a value of more than {0} bytes")]
    Size(usize),
    #[error("is given a value with more than {0} arrays and objects within one another")]
    InputDepth(usize),
    #[error("is given values of more than {0} bytes")]
    Input(usize),
    /// It may be asked again.
    #[error("was not evaluated: {0} others wait already")]
    Busy(usize),
    /// It may be asked again.
    #[error("was not evaluated: {0}")]
    Unavailable(String),
}

impl EvaluationError {
    pub fn new(expression: &Expression, reason: EvaluationReason) -> Self {
        Self { expression: expression.text.clone(), reason }
    }

    /// Whether it says nothing about the expression, which may go well another time.
    pub fn is_transient(&self) -> bool {
        self.reason.is_transient()
    }
}

impl EvaluationReason {
    /// Whether it may go well another time.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Unavailable(_))
    }
}

/// The beginning of a text that may be long.
struct Excerpt<'t>(&'t str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{}…", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}

/// The values of variables, by name without `$`. One that has none is null.
#[derive(Debug, Clone, Default)]
pub struct Variables<'v>(Vec<(&'v str, &'v Value)>);

impl<'v> Variables<'v> {
    pub fn new() -> Self {
        Self::default()
    }

    /// With another one; the last of a name counts.
    #[must_use]
    pub fn with(mut self, name: &'v str, value: &'v Value) -> Self {
        self.0.push((name, value));
        self
    }

    pub fn get(&self, name: &str) -> &'v Value {
        let found = self.0.iter().rev().find(|(known, _)| *known == name);
        found.map_or(&Value::Null, |(_, value)| value)
    }
}

/// What an expression is evaluated with.
#[derive(Debug, Clone, Copy)]
pub struct Given<'v> {
    /// What `.` is.
    pub input: &'v Value,
    pub variables: &'v Variables<'v>,
    /// What `now` is, in seconds since 1970.
    pub now: f64,
    /// The largest value that it may give, in bytes of JSON: [`LARGEST`] mostly.
    pub largest: usize,
}

impl Expression {
    /// The expression of a field that takes nothing else (`when`, `in`, `from`, `as`, `if`, `while`): it may stand within `${ }`.
    /// `variables` are those that exist there, without `$`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, variables: &[&str]) -> Result<Self, ExpressionProblem> {
        let inner = in_braces(text).unwrap_or(text);
        let offset = span(text, inner).start;
        Self::of(inner, variables).map_err(|problem| ExpressionProblem { at: offset + problem.at, ..problem })
    }

    /// The expression that a value of the document is, if it is one: in strict mode a text that stands within `${ }` as a whole. One that
    /// has `${ }` somewhere inside of it is a text.
    pub fn parse_strict(text: &str, variables: &[&str]) -> Option<Result<Self, ExpressionProblem>> {
        in_braces(text)?;
        Some(Self::parse(text, variables))
    }

    fn of(text: &str, variables: &[&str]) -> Result<Self, ExpressionProblem> {
        if text.len() > LONGEST {
            return Err(ExpressionProblem::at(0, format!("an expression has at most {LONGEST} bytes")));
        }
        if text.trim().is_empty() {
            return Err(ExpressionProblem::at(
                0,
                "an expression is empty; `.` is what it is given".to_owned(),
            ));
        }
        bounds::brackets(text)?;
        let tokens = Lexer::new(text).lex().map_err(|errors| unreadable(text, &errors))?;
        if bounds::weight(&tokens, false) > OPERATORS {
            let what = format!("more than {OPERATORS} operators, signs and words stand within one another");
            return Err(ExpressionProblem::at(0, what));
        }
        if let Some(Token(word @ ("import" | "include" | "module"), _)) = tokens.first() {
            let what = format!("there is no `{word}`: an expression reads no files, so there are no modules");
            return Err(ExpressionProblem::at(span(text, word).start, what));
        }
        let term = Parser::new(&tokens).parse(Parser::term).map_err(|errors| ungrammatical(text, &errors))?;
        let variables = names::resolve(text, &term, variables)?;
        let simple = Tree::of(&term).map(Arc::new);
        Ok(Self { text: text.trim().into(), variables: Arc::new(variables), simple })
    }

    /// Its text, without `${ }`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The variables from outside that it uses, without `$`.
    pub fn variables_used(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|name| &**name)
    }

    /// Whether it is evaluated here, rare cases apart.
    pub fn is_simple(&self) -> bool {
        self.simple.is_some()
    }

    /// Its value, where that is to be had here in bounded time and memory. `None`: an evaluator has to be asked, always for
    /// what is not simple, and for simple ones where it takes more, or numbers and texts that only jaq knows how to write.
    pub fn evaluate_simple(&self, given: Given<'_>) -> Option<Result<Value, EvaluationError>> {
        let outcome = self.simple.as_ref()?.evaluate(given)?;
        Some(outcome.map_err(|reason| EvaluationError::new(self, reason)))
    }
}

/// The rest is made of the text and the place.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.variables == other.variables
    }
}

impl Eq for Expression {}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

/// What stands within `${ }`.
fn in_braces(text: &str) -> Option<&str> {
    text.trim().strip_prefix("${")?.strip_suffix('}')
}

fn unreadable(text: &str, errors: &[lex::Error<&str>]) -> ExpressionProblem {
    let (expected, found) = match errors.first() {
        Some((expected, found)) => (expected, *found),
        None => return ExpressionProblem::at(0, "it cannot be read".to_owned()),
    };
    let expected = match expected {
        lex::Expect::Digit => "a digit",
        lex::Expect::Ident => "a name",
        lex::Expect::Escape => "an escape that JSON has",
        lex::Expect::Unicode => "four hexadecimal digits of a character",
        _ => "an operator, or the end",
    };
    expects(text, expected, found)
}

fn ungrammatical(text: &str, errors: &[parse::TError<'_, &str>]) -> ExpressionProblem {
    let (expected, found) = match errors.first() {
        Some((expected, found)) => (expected, Token::opt_as_str(*found, text)),
        None => return ExpressionProblem::at(0, "it cannot be read".to_owned()),
    };
    let expected = match expected {
        parse::Expect::Just("") | parse::Expect::Nothing => "an operator, or the end",
        parse::Expect::Just(word) => return expects(text, &format!("`{word}`"), found),
        parse::Expect::Var => "a variable",
        parse::Expect::Pattern => "a variable or a pattern of some",
        parse::Expect::ElseOrEnd => "`elif`, `else` or `end`",
        parse::Expect::CommaOrRBrack => "a comma or `]`",
        parse::Expect::CommaOrRBrace => "a comma or `}`",
        parse::Expect::SemicolonOrRParen => "`;` or `)`",
        parse::Expect::Term => "a value",
        parse::Expect::Key | parse::Expect::Ident => "a name",
        parse::Expect::Arg => "the name of an argument",
        parse::Expect::Str => "a text in quotes",
        other => other.as_str(),
    };
    expects(text, expected, found)
}

fn expects(text: &str, expected: &str, found: &str) -> ExpressionProblem {
    let there = match found.lines().next() {
        Some(line) => format!("there is `{}`", Excerpt(line.trim_end())),
        None => "it ends".to_owned(),
    };
    ExpressionProblem::at(span(text, found).start, format!("jq expects {expected} here, where {there}"))
}
