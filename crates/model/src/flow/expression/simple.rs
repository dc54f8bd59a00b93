//! The form of simple expressions: of what gives exactly one value, and looks at each part at most once.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Term};
use jaq_core::ops::{Cmp, Math};
use jaq_core::path::{Opt, Part};
use serde_json::{Number, Value};

pub(super) enum Tree {
    /// `.`
    Input,
    /// `$name`
    Variable(Box<str>),
    Constant(Value),
    /// `now`
    Now,
    /// `.a[0]`, and the same of another value
    Path(Box<Tree>, Vec<Tree>),
    Array(Vec<Tree>),
    /// Keys and values
    Object(Vec<(Tree, Tree)>),
    /// A text in parts, those that are put into it included
    Text(Vec<Tree>),
    Negative(Box<Tree>),
    Arithmetic(Box<Tree>, Math, Box<Tree>),
    Comparison(Box<Tree>, Cmp, Box<Tree>),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
    /// `a // b`
    Alternative(Box<Tree>, Box<Tree>),
    Pipe(Box<Tree>, Box<Tree>),
    /// `if a then b else c end`
    Choice(Box<[Tree; 3]>),
    /// `not`
    Not,
    /// `length`
    Length,
    /// `tostring`
    ToText,
}

impl Tree {
    /// That of an expression whose names are all known, if it is simple.
    pub(super) fn of(term: &Term<&str>) -> Option<Self> {
        Some(match term {
            Term::Id => Self::Input,
            Term::Num(text) => Self::Constant(number(text)?),
            Term::Str(None, parts) => text(parts)?,
            Term::Arr(None) => Self::Array(Vec::new()),
            Term::Arr(Some(items)) => Self::Array(self::items(items)?),
            Term::Obj(entries) => Self::Object(
                entries.iter().map(|(key, value)| entry(key, value.as_ref())).collect::<Option<_>>()?,
            ),
            Term::Neg(term) => Self::Negative(boxed(term)?),
            Term::BinOp(left, operator, right) => operation(left, operator, right)?,
            Term::IfThenElse(branches, otherwise) => {
                let otherwise = otherwise.as_ref().map_or(Some(Self::Input), |term| Self::of(term))?;
                branches.iter().rev().try_fold(otherwise, |otherwise, (condition, then)| {
                    Some(Self::Choice(Box::new([Self::of(condition)?, Self::of(then)?, otherwise])))
                })?
            }
            Term::Call(name, arguments) if arguments.is_empty() => match *name {
                "null" => Self::Constant(Value::Null),
                "true" => Self::Constant(Value::Bool(true)),
                "false" => Self::Constant(Value::Bool(false)),
                "not" => Self::Not,
                "now" => Self::Now,
                "length" => Self::Length,
                "tostring" => Self::ToText,
                _ => return None,
            },
            Term::Var(name) => Self::Variable(name[1..].into()),
            Term::Path(root, path) => {
                let keys = path.0.iter().map(|part| match part {
                    (Part::Index(key), Opt::Essential) => Self::of(key),
                    _ => None,
                });
                let keys = keys.collect::<Option<_>>()?;
                Self::Path(boxed(root)?, keys)
            }
            // Functions of its own are under the names of those above only where it has any: then it is not simple.
            Term::Recurse | Term::Str(Some(_), _) | Term::Label(..) | Term::Break(_) | Term::Fold(..) => {
                return None;
            }
            Term::TryCatch(..) | Term::Def(..) | Term::Call(..) => return None,
        })
    }
}

fn boxed(term: &Term<&str>) -> Option<Box<Tree>> {
    Tree::of(term).map(Box::new)
}

fn number(text: &str) -> Option<Value> {
    if let Ok(number) = text.parse::<i64>() {
        return Some(number.into());
    }
    // More digits than 64 bits hold are exact in jaq.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Number::from_f64(text.parse().ok()?).map(Value::Number)
}

#[inline(never)]
fn text(parts: &[StrPart<&str, Term<&str>>]) -> Option<Tree> {
    let mut pieces = Vec::new();
    let mut fixed = String::new();
    for part in parts {
        match part {
            StrPart::Str(text) => fixed.push_str(text),
            StrPart::Char(character) => fixed.push(*character),
            StrPart::Term(term) => {
                if !fixed.is_empty() {
                    pieces.push(Tree::Constant(std::mem::take(&mut fixed).into()));
                }
                pieces.push(Tree::of(term)?);
            }
        }
    }
    if pieces.is_empty() {
        return Some(Tree::Constant(fixed.into()));
    }
    if !fixed.is_empty() {
        pieces.push(Tree::Constant(fixed.into()));
    }
    Some(Tree::Text(pieces))
}

/// `a, b, c` within `[ ]`.
#[inline(never)]
fn items(mut term: &Term<&str>) -> Option<Vec<Tree>> {
    let mut items = Vec::new();
    while let Term::BinOp(left, BinaryOp::Comma, right) = term {
        items.push(Tree::of(right)?);
        term = left;
    }
    items.push(Tree::of(term)?);
    items.reverse();
    Some(items)
}

#[inline(never)]
fn entry(key: &Term<&str>, value: Option<&Term<&str>>) -> Option<(Tree, Tree)> {
    Some(match (key, value) {
        (key, Some(value)) => (Tree::of(key)?, Tree::of(value)?),
        // `{$name}`
        (Term::Var(name), None) => (Tree::Constant(name[1..].into()), Tree::Variable(name[1..].into())),
        // `{name}`: its key and where it is in the input.
        (key, None) => (Tree::of(key)?, Tree::Path(Box::new(Tree::Input), vec![Tree::of(key)?])),
    })
}

#[inline(never)]
fn operation(left: &Term<&str>, operator: &BinaryOp<&str>, right: &Term<&str>) -> Option<Tree> {
    let made = match operator {
        BinaryOp::Pipe(None) => Tree::Pipe,
        BinaryOp::Alt => Tree::Alternative,
        BinaryOp::And => Tree::And,
        BinaryOp::Or => Tree::Or,
        BinaryOp::Math(operator) => {
            return Some(Tree::Arithmetic(boxed(left)?, *operator, boxed(right)?));
        }
        BinaryOp::Cmp(operator) => return Some(Tree::Comparison(boxed(left)?, *operator, boxed(right)?)),
        BinaryOp::Pipe(Some(_)) | BinaryOp::Comma | BinaryOp::Assign | BinaryOp::Update => return None,
        BinaryOp::UpdateMath(_) | BinaryOp::UpdateAlt => return None,
    };
    Some(made(boxed(left)?, boxed(right)?))
}
