//! Which variables a text of jq names.

/// A `$name`, the field that follows it (`$secrets.mail`, `$secrets["mail"]`), and that of this one, if it has to be there
/// (`$secrets.mail.token`).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable<'t> {
    pub(super) name: &'t str,
    pub(super) field: Option<&'t str>,
    pub(super) key: Option<&'t str>,
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
                    let taken = code.get(at..).and_then(field);
                    let needed = |(_, behind): &(_, &str)| {
                        !["//", "?"].iter().any(|may| behind.trim_start().starts_with(may))
                    };
                    let key = taken.and_then(|(_, behind)| field(behind)).filter(needed);
                    found.push(Variable {
                        name,
                        field: taken.map(|taken| taken.0),
                        key: key.map(|key| key.0),
                    });
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

/// What is taken of a value that ends there, where that is a name; and what is behind it.
fn field(code: &str) -> Option<(&str, &str)> {
    let rest = code.trim_start();
    let rest = match rest.strip_prefix('.') {
        Some(rest) => rest.trim_start(),
        None if rest.starts_with('[') => rest,
        None => return None,
    };
    if let Some(rest) = rest.strip_prefix('[') {
        let (name, behind) = quoted(rest.trim_start())?;
        return Some((name, behind.trim_start().strip_prefix(']').unwrap_or(behind)));
    }
    let plain =
        || Some(word(rest, 0)).filter(|name| !name.is_empty()).map(|name| (name, &rest[name.len()..]));
    quoted(rest).or_else(plain)
}

/// A text that is plain, and what is behind it.
fn quoted(code: &str) -> Option<(&str, &str)> {
    code.strip_prefix('"')?.split_once('"').filter(|(name, _)| !name.contains('\\'))
}

/// The keys of Secrets that code takes (`$secrets.mail.token`), each with the Secret's name; without those that it says to be missing
/// perhaps (`$secrets.mail.token // "none"`, `$secrets.mail.token?`).
pub fn secret_keys(code: &str) -> Vec<(&str, &str)> {
    let of_secrets = variables(code).into_iter().filter(|variable| variable.name == "secrets");
    of_secrets.filter_map(|variable| Some((variable.field?, variable.key?))).collect()
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
            let found: Vec<_> = variables(code).iter().map(|found| (found.name, found.field)).collect();
            assert_eq!(found, expected, "{code}");
        }
    }

    #[test]
    fn keys_of_secrets_are_found() {
        for (code, expected) in [
            ("$secrets.mail.token", &[("mail", "token")][..]),
            ("$secrets[\"api-key\"].key + $secrets . a . [ \"b\" ]", &[("api-key", "key"), ("a", "b")]),
            ("\"Bearer \\($secrets.mail[\"tok\"])\"", &[("mail", "tok")]),
            ("$secrets.mail.\"to ken\" | length", &[("mail", "to ken")]),
            ("\"http://\" + $secrets.a.b", &[("a", "b")]),
            ("$secrets.mail.token // \"none\"", &[]),
            ("$secrets.mail[\"token\"]?", &[]),
            ("$secrets.mail", &[]),
            ("$secrets.mail | .token", &[]),
            ("$secrets.mail[.name]", &[]),
            ("$secrets | keys", &[]),
            ("$input.mail.token", &[]),
            ("$secrets.mail.", &[]),
            ("$secrets.mail[\"", &[]),
        ] {
            assert_eq!(secret_keys(code), expected, "{code}");
        }
    }
}
