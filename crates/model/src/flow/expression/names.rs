//! What the names in an expression stand for: functions, variables and labels, its own and those that are there.

use std::collections::{BTreeSet, HashMap};

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::load::span;
use jaq_core::path::{Part, Path};

use super::ExpressionProblem;
use super::functions::{FUNCTIONS, arities, refusal};
use crate::validate::suggest::did_you_mean;

/// Looks every name up, and gives the variables from outside that are used, without their `$`.
pub(super) fn resolve<'a>(
    text: &'a str,
    term: &Term<&'a str>,
    variables: &[&str],
) -> Result<BTreeSet<Box<str>>, ExpressionProblem> {
    let mut names = Names { text, variables, bound: HashMap::new(), used: BTreeSet::new() };
    names.term(term)?;
    Ok(names.used)
}

/// What an expression binds itself.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
enum OwnName<'a> {
    Variable(&'a str),
    Function(&'a str, usize),
    Label(&'a str),
}

struct Names<'a, 'v> {
    text: &'a str,
    variables: &'v [&'v str],
    /// And by how many of those around this place.
    bound: HashMap<OwnName<'a>, u32>,
    used: BTreeSet<Box<str>>,
}

type NamesKnown = Result<(), ExpressionProblem>;

impl<'a> Names<'a, '_> {
    fn problem(&self, name: &'a str, message: String) -> ExpressionProblem {
        ExpressionProblem::at(span(self.text, name).start, message)
    }

    fn bind(&mut self, bound: OwnName<'a>) {
        *self.bound.entry(bound).or_default() += 1;
    }

    fn unbind(&mut self, bound: OwnName<'a>) {
        if let Some(count) = self.bound.get_mut(&bound) {
            *count -= 1;
        }
    }

    fn is_bound(&self, bound: OwnName<'a>) -> bool {
        self.bound.get(&bound).is_some_and(|count| *count > 0)
    }

    fn term(&mut self, term: &Term<&'a str>) -> NamesKnown {
        match term {
            Term::Id | Term::Recurse | Term::Num(_) | Term::Arr(None) => Ok(()),
            Term::Str(format, parts) => self.string(*format, parts),
            Term::Arr(Some(term)) | Term::Neg(term) => self.term(term),
            Term::Obj(entries) => entries.iter().try_for_each(|(key, value)| {
                self.term(key)?;
                value.as_ref().map_or(Ok(()), |value| self.term(value))
            }),
            Term::BinOp(left, operator, right) => self.operation(left, operator, right),
            Term::Label(label, term) => {
                self.bind(OwnName::Label(label));
                self.term(term)?;
                self.unbind(OwnName::Label(label));
                Ok(())
            }
            Term::Break(label) if self.is_bound(OwnName::Label(label)) => Ok(()),
            Term::Break(label) => {
                Err(self.problem(label, format!("there is no `label {label}` around this")))
            }
            Term::Fold(name, values, pattern, arguments) => self.fold(name, values, pattern, arguments),
            Term::TryCatch(term, catch) => {
                self.term(term)?;
                catch.as_ref().map_or(Ok(()), |catch| self.term(catch))
            }
            Term::IfThenElse(branches, otherwise) => {
                for (condition, then) in branches {
                    self.term(condition)?;
                    self.term(then)?;
                }
                otherwise.as_ref().map_or(Ok(()), |otherwise| self.term(otherwise))
            }
            Term::Def(definitions, term) => self.definitions(definitions, term),
            Term::Call(name, arguments) => {
                self.function(name, arguments.len())?;
                arguments.iter().try_for_each(|argument| self.term(argument))
            }
            Term::Var(name) => self.variable(name),
            Term::Path(term, path) => self.path(term, path),
        }
    }

    #[inline(never)]
    fn string(&mut self, format: Option<&'a str>, parts: &[StrPart<&'a str, Term<&'a str>>]) -> NamesKnown {
        if let Some(format) = format {
            self.function(format, 0)?;
        }
        parts.iter().try_for_each(|part| match part {
            StrPart::Term(term) => self.term(term),
            StrPart::Str(_) | StrPart::Char(_) => Ok(()),
        })
    }

    #[inline(never)]
    fn path(&mut self, term: &Term<&'a str>, path: &Path<Term<&'a str>>) -> NamesKnown {
        self.term(term)?;
        path.0.iter().try_for_each(|(part, _)| match part {
            Part::Index(index) => self.term(index),
            Part::Range(from, to) => from.iter().chain(to).try_for_each(|bound| self.term(bound)),
        })
    }

    #[inline(never)]
    fn operation(
        &mut self,
        left: &Term<&'a str>,
        operator: &BinaryOp<&'a str>,
        right: &Term<&'a str>,
    ) -> NamesKnown {
        self.term(left)?;
        match operator {
            BinaryOp::Pipe(Some(pattern)) => self.with_pattern(pattern, |names| names.term(right)),
            _ => self.term(right),
        }
    }

    /// `reduce` and `foreach`.
    #[inline(never)]
    fn fold(
        &mut self,
        name: &'a str,
        values: &Term<&'a str>,
        pattern: &Pattern<&'a str>,
        arguments: &[Term<&'a str>],
    ) -> NamesKnown {
        let (fits, takes) = match name {
            "reduce" => (arguments.len() == 2, "two: (START; UPDATE)"),
            _ => (matches!(arguments.len(), 2 | 3), "two or three: (START; UPDATE; RESULT)"),
        };
        if !fits {
            return Err(self.problem(name, format!("`{name}` takes {takes}")));
        }
        self.term(values)?;
        self.term(&arguments[0])?;
        self.with_pattern(pattern, |names| arguments[1..].iter().try_for_each(|term| names.term(term)))
    }

    fn with_pattern(
        &mut self,
        pattern: &Pattern<&'a str>,
        within: impl FnOnce(&mut Self) -> NamesKnown,
    ) -> NamesKnown {
        let mut bound = Vec::new();
        self.pattern(pattern, &mut bound)?;
        bound.iter().for_each(|name| self.bind(OwnName::Variable(name)));
        within(self)?;
        bound.iter().for_each(|name| self.unbind(OwnName::Variable(name)));
        Ok(())
    }

    /// Keys in a pattern see nothing of what it binds.
    fn pattern(&mut self, pattern: &Pattern<&'a str>, bound: &mut Vec<&'a str>) -> NamesKnown {
        match pattern {
            Pattern::Var(name) => {
                bound.push(name);
                Ok(())
            }
            Pattern::Arr(items) => items.iter().try_for_each(|item| self.pattern(item, bound)),
            Pattern::Obj(fields) => fields.iter().try_for_each(|(key, value)| {
                self.term(key)?;
                self.pattern(value, bound)
            }),
        }
    }

    #[inline(never)]
    fn definitions(&mut self, definitions: &[Def<&'a str>], term: &Term<&'a str>) -> NamesKnown {
        for definition in definitions {
            let own = OwnName::Function(definition.name, definition.args.len());
            let arguments = || {
                definition.args.iter().map(|name| match name.starts_with('$') {
                    true => OwnName::Variable(name),
                    false => OwnName::Function(name, 0),
                })
            };
            self.bind(own);
            arguments().for_each(|argument| self.bind(argument));
            self.term(&definition.body)?;
            arguments().for_each(|argument| self.unbind(argument));
        }
        self.term(term)?;
        for definition in definitions {
            self.unbind(OwnName::Function(definition.name, definition.args.len()));
        }
        Ok(())
    }

    #[inline(never)]
    fn function(&mut self, name: &'a str, arity: usize) -> NamesKnown {
        if self.is_bound(OwnName::Function(name, arity)) {
            return Ok(());
        }
        if name.contains("::") {
            return Err(self.problem(name, format!("there is no `{name}`: an expression has no modules")));
        }
        let message = match arities(name) {
            Some(arities) if arities.contains(&arity) => return Ok(()),
            Some(arities) => {
                let counts: Vec<_> = arities.iter().map(usize::to_string).collect();
                format!("`{name}` takes {} arguments, and not {arity}", counts.join(" or "))
            }
            None => match refusal(name) {
                Some(reason) => format!("there is no function `{name}`: {reason}"),
                None => {
                    let known = FUNCTIONS.iter().map(|(name, _)| *name);
                    let own =
                        self.bound.iter().filter(|(_, count)| **count > 0).filter_map(
                            |(bound, _)| match bound {
                                OwnName::Function(name, _) => Some(*name),
                                OwnName::Variable(_) | OwnName::Label(_) => None,
                            },
                        );
                    format!("there is no function `{name}`{}", did_you_mean(name, known.chain(own)))
                }
            },
        };
        Err(self.problem(name, message))
    }

    #[inline(never)]
    fn variable(&mut self, name: &'a str) -> NamesKnown {
        if self.is_bound(OwnName::Variable(name)) {
            return Ok(());
        }
        let bare = name.trim_start_matches('$');
        if self.variables.contains(&bare) {
            self.used.insert(bare.into());
            return Ok(());
        }
        let message = match refusal(name) {
            Some(reason) => format!("there is no variable `{name}`: {reason}"),
            None => {
                let known: Vec<_> = self.variables.iter().map(|name| format!("${name}")).collect();
                let meant = did_you_mean(name, known.iter().map(String::as_str));
                match meant.is_empty() {
                    true if known.is_empty() => format!("there is no variable `{name}`: here are none"),
                    true => format!("there is no variable `{name}`: here are {}", known.join(", ")),
                    false => format!("there is no variable `{name}`{meant}"),
                }
            }
        };
        Err(self.problem(name, message))
    }
}
