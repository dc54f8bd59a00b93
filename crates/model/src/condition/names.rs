//! What a condition may say, checked once when it is read; and its variables put in by one name each.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, operators};
use cel::objects::{Key, Map};
use cel::{IdedExpr, Value};
use http::HeaderName;
use regex::RegexBuilder;
use serde_json::{Map as JsonObject, Value as Json};

use super::Asks;

/// What the names of headers begin with, as they are put in.
pub(super) const HEADER: &str = "request.headers.";
/// The same of whether a header is there.
pub(super) const HEADER_THERE: &str = "request.headers?";

/// The variables, by what they are fields of.
const VARIABLES: [(&str, &[&str]); 4] = [
    ("request", &["method", "path", "host", HEADERS]),
    ("source", &["principal", "trustDomain", "namespace", "serviceAccount", "address"]),
    ("destination", &["port"]),
    ("jwt", &["issuer", "claims"]),
];
const HEADERS: &str = "headers";

/// Functions that a condition may call, beside operators.
const FUNCTIONS: [&str; 8] =
    ["size", "contains", "startsWith", "endsWith", MATCHES, "string", "int", "double"];
const MATCHES: &str = "matches";

/// Operators; all but the last give numbers, texts, lists or what is in these.
const OPERATORS: [&str; 8] = [
    operators::CONDITIONAL,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::NEGATE,
    operators::INDEX,
];

/// Operators and functions that give true or false.
const TRUTHS: [&str; 15] = [
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::IN,
    operators::NOT_STRICTLY_FALSE,
    "contains",
    "startsWith",
    "endsWith",
    MATCHES,
];

/// Checks an expression. Returns it with its variables by their names, and what it asks for.
///
/// # Errors
/// What is wrong with it, as a part of a sentence.
pub(super) fn put_in(mut expression: IdedExpr) -> Result<(IdedExpr, Asks), String> {
    let mut walk = Walk::default();
    walk.visit(&mut expression)?;
    if !may_be_truth(&expression.expr) {
        return Err("is no condition: it gives neither true nor false".to_owned());
    }
    Ok((expression, walk.asks))
}

/// Whether it could give true or false. What is in claims is not known before.
fn may_be_truth(expression: &Expr) -> bool {
    match expression {
        Expr::Literal(literal) => matches!(literal, LiteralValue::Boolean(_)),
        Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
            call.args[1..].iter().all(|branch| may_be_truth(&branch.expr))
        }
        Expr::Call(call) => TRUTHS.contains(&&*call.func_name) || call.func_name == operators::INDEX,
        // Those that make lists begin with one.
        Expr::Comprehension(of) => !matches!(of.accu_init.expr, Expr::List(_)),
        Expr::Ident(name) => name.starts_with(HEADER_THERE),
        Expr::Select(_) => true,
        _ => false,
    }
}

/// A pattern is made anew each time it is asked: how many a condition may have, and how large one may be when it is made.
const MOST_PATTERNS: usize = 2;
const PATTERN_SIZE: usize = 32 << 10;

#[derive(Default)]
struct Walk {
    asks: Asks,
    patterns: usize,
    /// The variables of the loop that this is in.
    bound: Vec<String>,
}

impl Walk {
    fn visit(&mut self, expression: &mut IdedExpr) -> Result<(), String> {
        if let Some(name) = self.variable(&expression.expr)? {
            expression.expr = Expr::Ident(name);
            return Ok(());
        }
        match &mut expression.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if self.bound.contains(name) => Ok(()),
            Expr::Ident(name) => Err(unknown(name)),
            Expr::Select(select) => {
                self.visit(&mut select.operand)?;
                match &select.operand.expr {
                    // Only claims have fields.
                    Expr::Ident(name) if name.contains('.') && name != "jwt.claims" => {
                        Err(format!("asks `{name}` for a field, `{}`, and it has none", select.field))
                    }
                    _ => Ok(()),
                }
            }
            Expr::Call(call) => self.visit_call(call),
            Expr::List(list) => list.elements.iter_mut().try_for_each(|element| self.visit(element)),
            Expr::Comprehension(of) => self.visit_loop(of),
            Expr::Map(_) | Expr::Struct(_) => {
                Err("makes a map or a message, which conditions may not".to_owned())
            }
            Expr::Unspecified => Err("is empty".to_owned()),
        }
    }

    fn visit_call(&mut self, call: &mut CallExpr) -> Result<(), String> {
        let name = &*call.func_name;
        let is_known = [&FUNCTIONS[..], &OPERATORS, &TRUTHS].iter().any(|known| known.contains(&name));
        if !is_known {
            return Err(format!(
                "calls `{name}`, which conditions may not: they have {}",
                FUNCTIONS.join(", ")
            ));
        }
        if name == MATCHES {
            if !self.bound.is_empty() {
                return Err("has `matches` within a loop, where it would be made anew each time".to_owned());
            }
            let pattern = call.args.last().and_then(|argument| literal(&argument.expr));
            let pattern = pattern.ok_or("has a pattern for `matches` that is not written in it")?;
            self.patterns += 1;
            if self.patterns > MOST_PATTERNS {
                return Err(format!("has `matches` more than {MOST_PATTERNS} times"));
            }
            RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).build().map_err(|error| {
                let why = error.to_string();
                format!("has a pattern that cannot be read: {}", why.lines().last().unwrap_or_default())
            })?;
        }
        call.target.iter_mut().try_for_each(|target| self.visit(target))?;
        call.args.iter_mut().try_for_each(|argument| self.visit(argument))
    }

    fn visit_loop(&mut self, of: &mut ComprehensionExpr) -> Result<(), String> {
        if !self.bound.is_empty() {
            return Err("has a loop (`all`, `exists`, `map`, `filter`) within another".to_owned());
        }
        let variables = std::iter::once(&of.iter_var).chain(&of.iter_var2).chain([&of.accu_var]);
        self.bound.extend(variables.cloned());
        if let Some((taken, _)) =
            VARIABLES.iter().find(|(name, _)| self.bound.iter().any(|bound| bound == name))
        {
            return Err(format!("names the variable of a loop `{taken}`, which means something else"));
        }
        let parts =
            [&mut of.iter_range, &mut of.accu_init, &mut of.loop_cond, &mut of.loop_step, &mut of.result];
        parts.into_iter().try_for_each(|part| self.visit(part))?;
        self.bound.clear();
        Ok(())
    }

    /// The name of the variable that the expression is, if it is one.
    fn variable(&mut self, expression: &Expr) -> Result<Option<String>, String> {
        match expression {
            Expr::Select(select) => {
                if self.is_headers(&select.operand.expr) {
                    return self.header(&select.field, select.test).map(Some);
                }
                let Expr::Ident(of) = &select.operand.expr else { return Ok(None) };
                if self.bound.contains(of) {
                    return Ok(None);
                }
                self.field(of, &select.field, select.test).map(Some)
            }
            Expr::Call(call) if call.func_name == operators::INDEX && self.is_headers(&call.args[0].expr) => {
                self.header(literal(&call.args[1].expr).ok_or(ONE_HEADER)?, false).map(Some)
            }
            Expr::Call(call) if call.func_name == operators::IN && self.is_headers(&call.args[1].expr) => {
                self.header(literal(&call.args[0].expr).ok_or(ONE_HEADER)?, true).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn is_headers(&self, expression: &Expr) -> bool {
        matches!(expression, Expr::Select(select)
            if select.field == HEADERS && !select.test
                && matches!(&select.operand.expr, Expr::Ident(of) if of == "request"))
    }

    fn field(&mut self, of: &str, field: &str, test: bool) -> Result<String, String> {
        let known = VARIABLES.iter().find(|(name, _)| *name == of).ok_or_else(|| unknown(of))?;
        if !known.1.contains(&field) {
            return Err(format!("asks for `{of}.{field}`: there are {}", fields(known)));
        }
        if field == HEADERS {
            return Err(ONE_HEADER.to_owned());
        }
        if test {
            return Err(format!("asks whether there is `{of}.{field}`, which there always is"));
        }
        self.asks.request |= matches!(of, "request" | "jwt");
        self.asks.path |= field == "path";
        self.asks.host |= field == "host";
        self.asks.address |= field == "address";
        self.asks.token |= of == "jwt";
        Ok(format!("{of}.{field}"))
    }

    fn header(&mut self, name: &str, is_there: bool) -> Result<String, String> {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("asks for the header `{name}`: write it in lower case"));
        }
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("asks for the header {name:?}, which is no name of one"))?;
        self.asks.request = true;
        if !self.asks.headers.contains(&header) {
            self.asks.headers.push(header);
        }
        Ok(format!("{}{name}", if is_there { HEADER_THERE } else { HEADER }))
    }
}

const ONE_HEADER: &str =
    "asks for all headers: name one, as in `request.headers['x-team']` or `'x-team' in request.headers`";

fn literal(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn fields((of, fields): &(&str, &[&str])) -> String {
    let names: Vec<_> = fields.iter().map(|field| format!("`{of}.{field}`")).collect();
    names.join(", ")
}

fn unknown(name: &str) -> String {
    let known: Vec<_> = VARIABLES.iter().map(fields).collect();
    format!("asks for `{name}`: there are {}", known.join(", "))
}

/// Claims, as values of the language.
pub(super) fn of_json_object(object: &JsonObject<String, Json>) -> Value {
    let entries = object.iter().map(|(name, value)| (Key::from(name.as_str()), of_json(value)));
    Value::Map(Map { map: entries.collect::<std::collections::HashMap<_, _>>().into() })
}

fn of_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::UInt(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(values) => Value::List(values.iter().map(of_json).collect::<Vec<_>>().into()),
        Json::Object(object) => of_json_object(object),
    }
}
