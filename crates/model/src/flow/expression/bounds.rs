//! How much of a text stands within one another. Whatever reads, checks, compiles or drops an expression goes down by calling
//! itself; these bounds, which are looked at before, keep it within the stack of a thread.

use jaq_core::load::lex::{StrPart, Tok, Token};

use super::{ExpressionProblem, NESTING};

/// How many operators, signs and words like `if` or `try` may stand within one another, brackets counted: `1 + 2 + 3` is one more
/// than `1 + 2`. Fields of an object are apart from one another.
pub const OPERATORS: usize = 250;

/// Looks at brackets and quotes alone, as the lexer does: it calls itself for each.
pub(super) fn brackets(text: &str) -> Result<(), ExpressionProblem> {
    let bytes = text.as_bytes();
    // What closes each, and where it was opened.
    let mut open: Vec<(u8, usize)> = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let quoted = open.last().is_some_and(|(closer, _)| *closer == b'"');
        match byte {
            b'"' if quoted => drop(open.pop()),
            b'\\' if quoted => match bytes.get(at + 1) {
                Some(b'(') => {
                    at += 1;
                    open.push((b')', at));
                }
                Some(b'\\' | b'/' | b'"' | b'b' | b'f' | b'n' | b'r' | b't' | b'u') => at += 1,
                // No escape: what follows is read as if it stood there alone.
                _ => {}
            },
            _ if quoted => {}
            b'"' => open.push((b'"', at)),
            b'(' => open.push((b')', at)),
            b'[' => open.push((b']', at)),
            b'{' => open.push((b'}', at)),
            b')' | b']' | b'}' => match open.pop() {
                Some((closer, _)) if closer == *byte => {}
                Some((closer, opened)) => {
                    let there = char::from(bytes[opened]);
                    let wanted = char::from(closer);
                    let what =
                        format!("`{there}` is closed by `{}` and not by `{wanted}`", char::from(*byte));
                    return Err(ExpressionProblem::at(at, what));
                }
                None => {
                    return Err(ExpressionProblem::at(at, format!("`{}` closes nothing", char::from(*byte))));
                }
            },
            b'#' => at = comment_end(bytes, at + 1),
            _ => {}
        }
        if open.len() > NESTING && open.iter().filter(|(closer, _)| *closer != b'"').count() > NESTING {
            return Err(ExpressionProblem::at(
                at,
                format!("more than {NESTING} brackets stand within one another"),
            ));
        }
        at += 1;
    }
    match open.last() {
        Some((b'"', opened)) => {
            Err(ExpressionProblem::at(*opened, "the string that begins here has no end".to_owned()))
        }
        Some((closer, opened)) => {
            let (there, closer) = (char::from(bytes[*opened]), char::from(*closer));
            Err(ExpressionProblem::at(*opened, format!("`{there}` is closed by no `{closer}`")))
        }
        None => Ok(()),
    }
}

/// Where the line ends that a comment takes up; it goes on in the next where a line ends with an odd number of backslashes
/// (jq's manual, "Comments").
fn comment_end(bytes: &[u8], mut start: usize) -> usize {
    loop {
        let length = bytes[start..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - start);
        let line = &bytes[start..start + length];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let goes_on = line.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
        if !goes_on || start + length >= bytes.len() {
            return start + length;
        }
        start += length + 1;
    }
}

/// How much stands within one another in a list of tokens at most: the parser takes one step down for each operator and for
/// each word that begins something, or fewer.
pub(super) fn weight(tokens: &[Token<&str>], of_object: bool) -> usize {
    let (mut here, mut most, mut within) = (0, 0, 0);
    // These take up whatever follows, commas included.
    let mut takes_commas = false;
    for Token(text, token) in tokens {
        match token {
            Tok::Block(tokens) => within = within.max(weight(tokens, text.starts_with('{'))),
            Tok::Str(parts) => {
                for part in parts {
                    if let StrPart::Term(Token(_, Tok::Block(tokens))) = part {
                        within = within.max(weight(tokens, false));
                    }
                }
            }
            Tok::Sym => match *text {
                "," if of_object && !takes_commas => {
                    most = most.max(here);
                    here = 0;
                }
                ":" | ";" => {}
                text if text.starts_with('.') => {}
                _ => here += 1,
            },
            Tok::Word => match *text {
                "if" | "def" | "label" => {
                    here += 1;
                    takes_commas = true;
                }
                "try" | "catch" | "reduce" | "foreach" | "as" | "and" | "or" => here += 1,
                _ => {}
            },
            Tok::Var | Tok::Fmt | Tok::Num => {}
        }
    }
    most.max(here) + within + 1
}
