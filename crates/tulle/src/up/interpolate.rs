//! `${NAME}` in texts of `tulle.yaml`, and what may stand in its place: `${NAME:-default}`, `${NAME:?message}`,
//! `${NAME:+instead}`, each without the colon where an empty value counts as one. `$$` is a `$`; `$NAME` without braces is a shell's.

/// What a name stands for.
pub enum Meaning {
    /// One of Tulle's own, which the node puts in when it starts the process.
    Own,
    Text(String),
}

/// What was wrong with a reference.
#[derive(Debug, PartialEq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// What the reference begins with in the text, to find it: `${NAME`.
    pub start: String,
}

#[derive(Debug, PartialEq)]
pub enum ProblemKind {
    Unset(String),
    /// `${NAME:?message}`
    Demanded(String, String),
    /// No reference at all.
    Malformed(String),
    TooDeep,
    TooLong,
}

/// How deep defaults may stand in defaults.
const DEEPEST: usize = 16;

/// How long a text may become.
pub const LONGEST: usize = 1 << 20;

/// Whether the node fills in Tulle's own names of the result: what merely looks like them is kept from it then.
#[derive(Clone, Copy, PartialEq)]
pub enum Use {
    Filled,
    Final,
}

/// Puts in what names stand for. `lookup` is told whether the reference says what to do without a value. What cannot be
/// put in stays as it is.
pub fn expand(
    text: &str,
    purpose: Use,
    lookup: &mut dyn FnMut(&str, bool) -> Option<Meaning>,
) -> (String, Vec<Problem>) {
    let mut expansion = Expansion { purpose, lookup, problems: Vec::new() };
    let mut out = String::with_capacity(text.len());
    expansion.text(text, &mut out, 0);
    (out, expansion.problems)
}

/// A text that is to stay what it is, whoever fills it in.
pub fn literal(text: &str, purpose: Use) -> String {
    if purpose == Use::Final {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        // What follows the text may begin with a brace, too.
        match (character, characters.peek()) {
            ('$', None | Some('{')) => out.push_str("${$}"),
            _ => out.push(character),
        }
    }
    out
}

struct Expansion<'a> {
    purpose: Use,
    lookup: &'a mut dyn FnMut(&str, bool) -> Option<Meaning>,
    problems: Vec<Problem>,
}

impl Expansion<'_> {
    fn text(&mut self, text: &str, out: &mut String, depth: usize) {
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix('$') {
                match self.purpose {
                    Use::Filled if after.starts_with('{') => out.push_str("${$}"),
                    _ => out.push('$'),
                }
                rest = after.strip_prefix('{').map_or(after, |rest| {
                    out.push('{');
                    rest
                });
            } else if let Some(inside) = after.strip_prefix('{') {
                match closing(inside) {
                    Some(end) if depth < DEEPEST => {
                        self.reference(&inside[..end], out, depth);
                        rest = &inside[end + 1..];
                    }
                    found => {
                        let kind = match found {
                            Some(_) => ProblemKind::TooDeep,
                            None => ProblemKind::Malformed(format!("`${{{}` has no `}}`", shortened(inside))),
                        };
                        self.problems.push(Problem { kind, start: "${".to_owned() });
                        out.push_str("${");
                        rest = inside;
                    }
                }
            } else {
                out.push('$');
                rest = after;
            }
            if out.len() > LONGEST {
                self.problems.push(Problem { kind: ProblemKind::TooLong, start: "$".to_owned() });
                return;
            }
        }
        out.push_str(rest);
    }

    /// What stands between the braces.
    fn reference(&mut self, inside: &str, out: &mut String, depth: usize) {
        let (name, rest) = inside.split_at(name_length(inside));
        let start = format!("${{{name}");
        let (operator, word) = match rest.strip_prefix(':') {
            Some(word) if word.starts_with(['-', '?', '+']) => word.split_at(1),
            None if rest.starts_with(['-', '?', '+']) => rest.split_at(1),
            _ => ("", rest),
        };
        if name.is_empty() || operator.is_empty() && !rest.is_empty() {
            let what = format!("`${{{}}}` is no reference to a variable", shortened(inside));
            self.problems.push(Problem { kind: ProblemKind::Malformed(what), start });
            out.push_str(&format!("${{{inside}}}"));
            return;
        }
        let empty_counts = !rest.starts_with(':');
        let found = (self.lookup)(name, !operator.is_empty());
        let found = found.filter(|found| match found {
            Meaning::Own => true,
            Meaning::Text(text) => empty_counts || operator.is_empty() || !text.is_empty(),
        });
        match (operator, found) {
            ("+", Some(_)) | ("-", None) => self.text(word, out, depth + 1),
            ("+", None) => {}
            (_, Some(Meaning::Own)) => out.push_str(&format!("${{{name}}}")),
            (_, Some(Meaning::Text(text))) => out.push_str(&literal(&text, self.purpose)),
            (operator, None) => {
                let kind = match operator {
                    "?" => ProblemKind::Demanded(name.to_owned(), word.to_owned()),
                    _ => ProblemKind::Unset(name.to_owned()),
                };
                self.problems.push(Problem { kind, start });
                out.push_str(&format!("${{{inside}}}"));
            }
        }
    }
}

/// Where the brace is that closes a reference; there may be references in it.
pub fn closing(inside: &str) -> Option<usize> {
    let mut open = 0;
    let mut at = 0;
    while let Some(found) = inside[at..].find(['$', '}']) {
        at += found;
        let rest = &inside[at..];
        if rest.starts_with("${") {
            open += 1;
            at += 2;
        } else if rest.starts_with("$$") {
            at += 2;
        } else if rest.starts_with('}') && open == 0 {
            return Some(at);
        } else {
            open -= usize::from(rest.starts_with('}'));
            at += 1;
        }
    }
    None
}

/// The length of the name that a text begins with.
pub fn name_length(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

fn shortened(text: &str) -> String {
    const MOST: usize = 24;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= MOST && line.len() == text.len() {
        return line.to_owned();
    }
    line.chars().take(MOST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str, _: bool) -> Option<Meaning> {
        match name {
            "PORT" => Some(Meaning::Own),
            "A" => Some(Meaning::Text("a b".to_owned())),
            "EMPTY" => Some(Meaning::Text(String::new())),
            "TRICK" => Some(Meaning::Text("${PORT}$".to_owned())),
            _ => None,
        }
    }

    #[test]
    fn references_are_those_of_compose_files() {
        for (text, expected) in [
            ("x${A}y", "xa by"),
            ("${A:-d}${EMPTY:-d}${EMPTY-d}${N:-d}${N-d}", "a bddd"),
            ("${A:+i}${EMPTY:+i}${EMPTY+i}${N+i}", "ii"),
            ("${A:?m}${EMPTY?m}", "a b"),
            ("${N:-${M:-x${A}}}", "xa b"),
            ("${N:-}", ""),
            ("${PORT}:${PORT:-80}", "${PORT}:${PORT}"),
            ("$A $ $(ls) $1 a$", "$A $ $(ls) $1 a$"),
            ("$$A $$$$ $$(ls)", "$A $$ $(ls)"),
            ("${N:-$${A}}", "${A}"),
        ] {
            assert_eq!(expand(text, Use::Final, &mut lookup), (expected.to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn what_looks_like_a_name_of_ours_is_kept_from_who_fills_it_in() {
        for (text, expected) in [
            ("$${PORT} $$PORT", "${$}{PORT} $PORT"),
            ("${TRICK}", "${$}{PORT}${$}"),
            ("${PORT}", "${PORT}"),
            ("${TRICK}{PORT}", "${$}{PORT}${$}{PORT}"),
        ] {
            assert_eq!(expand(text, Use::Filled, &mut lookup), (expected.to_owned(), vec![]), "{text}");
        }
        let values = [("$".to_owned(), "$".to_owned()), ("PORT".to_owned(), "80".to_owned())];
        assert_eq!(tulle_node::workloads::fill("${$}{PORT} ${$}{$} ${PORT}", &values), "${PORT} ${$} 80");
    }

    #[test]
    fn what_cannot_be_put_in_is_said_and_stays() {
        let problems = |text: &str| {
            let (out, problems) = expand(text, Use::Final, &mut lookup);
            assert_eq!(out, text);
            problems.into_iter().map(|problem| problem.kind).collect::<Vec<_>>()
        };
        assert_eq!(problems("${N}"), [ProblemKind::Unset("N".to_owned())]);
        assert_eq!(
            problems("${EMPTY:?say it}"),
            [ProblemKind::Demanded("EMPTY".to_owned(), "say it".to_owned())]
        );
        for malformed in
            ["${", "${}", "${1}", "${A", "${A:x}", "${A%%b}", "${#A}", "${!A}", "${a.b}", "${A:}"]
        {
            assert!(matches!(problems(malformed)[..], [ProblemKind::Malformed(_)]), "{malformed}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(100), "}".repeat(100));
        let (_, problems) = expand(&deep, Use::Final, &mut lookup);
        assert!(problems.iter().any(|problem| problem.kind == ProblemKind::TooDeep));
    }

    #[test]
    fn any_text_is_read() {
        for text in ["${${A}}", "}${{}}$", "${A:-}}", "$$$${$$", "ä${ä}", "${A:-ä}"] {
            expand(text, Use::Filled, &mut lookup);
        }
    }
}
