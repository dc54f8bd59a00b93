//! The functions of jaq that are written in jq. Of these, an expression is compiled with those that it can come to: with all, it would take
//! a millisecond and 100 KB.

use std::collections::BTreeSet;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::path::Part;

/// Functions of jaq that read the environment and the clock, write, stop the process, or go by the host's time zone; and what is
/// made of them.
pub(crate) const LEFT_OUT: &[&str] = &[
    "env",
    "now",
    "halt",
    "halt_error",
    "debug",
    "debug_empty",
    "stderr",
    "stderr_empty",
    "localtime",
    "strflocaltime",
];

/// The variable that `now` is: it comes with each request.
pub(crate) const NOW: &str = "$__now__";

pub(crate) struct Library {
    /// With what each calls. Each calls only itself and those before it.
    definitions: Vec<(Def, Vec<&'static str>)>,
}

impl Library {
    pub(crate) fn new() -> Self {
        let all = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let now = jaq_core::load::parse("def now: $__now__;", |parser| parser.defs()).unwrap_or_default();
        let definitions = all.filter(|definition| !LEFT_OUT.contains(&definition.name)).chain(now);
        let definitions = definitions.map(|definition| {
            let mut calls = Vec::new();
            called(&definition.body, &mut calls);
            (definition, calls)
        });
        Self { definitions: definitions.collect() }
    }

    /// What an expression may come to, and perhaps more: whatever has the name of a word in it.
    pub(crate) fn of(&self, text: &str) -> Vec<Def> {
        let mut wanted: BTreeSet<&str> =
            text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '@')).collect();
        let mut needed = Vec::new();
        for (definition, calls) in self.definitions.iter().rev() {
            if wanted.contains(definition.name) {
                needed.push(definition.clone());
                wanted.extend(calls);
            }
        }
        needed.reverse();
        needed
    }

    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.definitions.iter().map(|(definition, _)| definition.name)
    }
}

/// Adds the names of functions that a term calls.
fn called(term: &Term<&'static str>, calls: &mut Vec<&'static str>) {
    match term {
        Term::Id | Term::Recurse | Term::Num(_) | Term::Break(_) | Term::Var(_) | Term::Arr(None) => {}
        Term::Str(format, parts) => {
            calls.extend(format);
            for part in parts {
                if let StrPart::Term(term) = part {
                    called(term, calls);
                }
            }
        }
        Term::Arr(Some(term)) | Term::Neg(term) | Term::Label(_, term) => called(term, calls),
        Term::Obj(entries) => {
            for (key, value) in entries {
                called(key, calls);
                value.iter().for_each(|value| called(value, calls));
            }
        }
        Term::BinOp(left, operator, right) => {
            called(left, calls);
            if let BinaryOp::Pipe(Some(pattern)) = operator {
                called_by_pattern(pattern, calls);
            }
            called(right, calls);
        }
        Term::Fold(_, values, pattern, arguments) => {
            called(values, calls);
            called_by_pattern(pattern, calls);
            arguments.iter().for_each(|argument| called(argument, calls));
        }
        Term::TryCatch(term, catch) => {
            called(term, calls);
            catch.iter().for_each(|catch| called(catch, calls));
        }
        Term::IfThenElse(branches, otherwise) => {
            for (condition, then) in branches {
                called(condition, calls);
                called(then, calls);
            }
            otherwise.iter().for_each(|otherwise| called(otherwise, calls));
        }
        Term::Def(definitions, term) => {
            definitions.iter().for_each(|definition| called(&definition.body, calls));
            called(term, calls);
        }
        Term::Call(name, arguments) => {
            calls.push(name);
            arguments.iter().for_each(|argument| called(argument, calls));
        }
        Term::Path(term, path) => {
            called(term, calls);
            for (part, _) in &path.0 {
                match part {
                    Part::Index(index) => called(index, calls),
                    Part::Range(from, to) => from.iter().chain(to).for_each(|bound| called(bound, calls)),
                }
            }
        }
    }
}

fn called_by_pattern(pattern: &Pattern<&'static str>, calls: &mut Vec<&'static str>) {
    match pattern {
        Pattern::Var(_) => {}
        Pattern::Arr(items) => items.iter().for_each(|item| called_by_pattern(item, calls)),
        Pattern::Obj(fields) => {
            for (key, value) in fields {
                called(key, calls);
                called_by_pattern(value, calls);
            }
        }
    }
}
