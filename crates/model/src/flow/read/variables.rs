//! Which variables a text of jq names.

/// A `$name`, and the field that follows it: `$secrets.token`, `$secrets["token"]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable<'t> {
    pub(super) name: &'t str,
    pub(super) field: Option<&'t str>,
}

/// Those that stand in code: not in comments, nor in texts, but in what is interpolated into texts. The text need not be valid.
pub(super) fn variables(code: &str) -> Vec<Variable<'_>> {
    let (mut found, mut at) = (Vec::new(), 0);
    // Of each text that it is within, how many parentheses are open in what is interpolated.
    let (mut texts, mut in_text) = (Vec::new(), false);
    while let Some(&byte) = code.as_bytes().get(at) {
        at += 1;
        match byte {
            b'\\' if in_text => {
                if code.as_bytes().get(at) == Some(&b'(') {
                    texts.push(0_usize);
                    in_text = false;
                }
                at += 1;
            }
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'#' => at += code.as_bytes()[at..].iter().position(|b| *b == b'\n').unwrap_or(code.len() - at),
            b'(' => {
                if let Some(open) = texts.last_mut() {
                    *open += 1;
                }
            }
            b')' => match texts.last_mut() {
                Some(0) => {
                    texts.pop();
                    in_text = true;
                }
                Some(open) => *open -= 1,
                None => {}
            },
            b'$' => {
                let name = word(code, at);
                at += name.len();
                if !name.is_empty() {
                    found.push(Variable { name, field: field(code, at) });
                }
            }
            _ => {}
        }
    }
    found
}

/// The name that begins there; empty where none does.
fn word(code: &str, at: usize) -> &str {
    let rest = code.get(at..).unwrap_or_default();
    if rest.starts_with(|c: char| c.is_ascii_digit()) {
        return "";
    }
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    &rest[..end]
}

/// What is taken of a variable that ends there, where that is a name.
fn field(code: &str, at: usize) -> Option<&str> {
    let rest = code.get(at..)?.trim_start();
    let quoted = |rest: &'_ str| {
        let (name, _) = rest.strip_prefix('"')?.split_once('"')?;
        (!name.contains('\\')).then_some(name.len())
    };
    if let Some(rest) = rest.strip_prefix('[') {
        let rest = rest.trim_start();
        return quoted(rest).map(|length| &rest[1..=length]);
    }
    let rest = rest.strip_prefix('.')?.trim_start();
    if rest.starts_with('[') {
        return field(rest, 0);
    }
    if let Some(length) = quoted(rest) {
        return Some(&rest[1..=length]);
    }
    Some(word(rest, 0)).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_where_code_is() {
        for (code, expected) in [
            (".a + $input", &[("input", None)][..]),
            ("$secrets.token", &[("secrets", Some("token"))]),
            ("$secrets[\"a-b\"].c", &[("secrets", Some("a-b"))]),
            ("$secrets.\"a-b\"", &[("secrets", Some("a-b"))]),
            ("$secrets.[\"x\"]", &[("secrets", Some("x"))]),
            ("$secrets[$input]", &[("secrets", None), ("input", None)]),
            ("$secrets|keys", &[("secrets", None)]),
            ("\"$input \\\" $x\" + $y", &[("y", None)]),
            ("\"a \\($input + (1 + ($x))) $no\" | $z", &[("input", None), ("x", None), ("z", None)]),
            ("\"a \\(\"b \\($deep)\") $no\"", &[("deep", None)]),
            ("1 # $no\n + $yes", &[("yes", None)]),
            ("# $no", &[]),
            ("$", &[]),
            ("$1", &[]),
            (")\"$no", &[]),
            ("\"\\", &[]),
            ("$ü $a", &[("a", None)]),
            ("$a[", &[("a", None)]),
            ("$a.", &[("a", None)]),
            ("$a[\"", &[("a", None)]),
        ] {
            let expected: Vec<_> = expected.iter().map(|&(name, field)| Variable { name, field }).collect();
            assert_eq!(variables(code), expected, "{code}");
        }
    }
}
