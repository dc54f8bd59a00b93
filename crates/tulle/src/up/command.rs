//! Command lines: split into words, and filled in for a replica.

use std::str::Chars;

use super::interpolate::closing;

/// Splits a line as a shell does, with quotes and backslashes and nothing else: no shell runs it.
/// What only a shell would understand is refused where it is not quoted.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '$' && reference(characters.as_str()).is_some() {
            let word = word.get_or_insert_default();
            word.push(character);
            characters = take_reference(characters, word);
            continue;
        }
        needs_no_shell(character, characters.as_str(), word.is_none())?;
        match character {
            '\'' => loop {
                match characters.next() {
                    Some('\'') => {
                        word.get_or_insert_default();
                        break;
                    }
                    Some(other) => word.get_or_insert_default().push(other),
                    None => return Err("a quote (') is not closed".to_owned()),
                }
            },
            '"' => loop {
                match characters.next() {
                    Some('"') => {
                        word.get_or_insert_default();
                        break;
                    }
                    Some('\\') => match characters.next() {
                        Some(quoted @ ('"' | '\\' | '$')) => word.get_or_insert_default().push(quoted),
                        Some(other) => word.get_or_insert_default().extend(['\\', other]),
                        None => return Err("a quote (\") is not closed".to_owned()),
                    },
                    Some(other) => {
                        let word = word.get_or_insert_default();
                        word.push(other);
                        if other == '$' {
                            characters = take_reference(characters, word);
                        }
                    }
                    None => return Err("a quote (\") is not closed".to_owned()),
                }
            },
            '\\' => match characters.next() {
                Some(quoted) => word.get_or_insert_default().push(quoted),
                None => return Err("there is nothing after the last \\".to_owned()),
            },
            space if space.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Takes over what belongs to the `$` that was read: what is put in there is a part of the word, whatever it is.
fn take_reference<'t>(rest: Chars<'t>, word: &mut String) -> Chars<'t> {
    let Some(reference) = reference(rest.as_str()) else { return rest };
    word.push_str(reference);
    rest.as_str()[reference.len()..].chars()
}

/// What belongs to a `$` before the text: a reference with all that stands in its braces, or another `$`.
fn reference(rest: &str) -> Option<&str> {
    match rest.as_bytes().first()? {
        b'$' => Some(&rest[..1]),
        b'{' => Some(&rest[..1 + closing(&rest[1..])? + 1]),
        _ => None,
    }
}

/// Whether an unquoted character, with what follows it, means nothing to a shell that we do not do.
fn needs_no_shell(character: char, rest: &str, starts_word: bool) -> Result<(), String> {
    let name = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
    match character {
        '$' if name > 0 => {
            let name = &rest[..name];
            Err(format!("`${name}` is not filled in, as no shell runs the line; `${{{name}}}` is"))
        }
        '&' | '|' | ';' | '<' | '>' if starts_word || character == ';' && rest.starts_with([' ', '\n']) => {
            Err(format!("`{character}` needs a shell: [sh, -c, '…'] runs one"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_a_shell_does() {
        let split = |line| super::split(line).unwrap();
        assert_eq!(split("python3 -m http.server ${PORT}"), ["python3", "-m", "http.server", "${PORT}"]);
        assert_eq!(
            split(r#"sh -c 'echo "a b"; x' "c\"d" e\ f '' "#),
            ["sh", "-c", "echo \"a b\"; x", "c\"d", "e f", ""]
        );
        assert!(
            super::split("a 'b").is_err() && super::split("a \"b").is_err() && super::split("a\\").is_err()
        );
        assert!(split("  ").is_empty());
        // What stands in braces is one, and put in later.
        assert_eq!(
            split(r#"a ${B:-c "d} "x ${B:-"e" f}" $${g h} '${i j}' $$K"#),
            ["a", "${B:-c \"d}", "x ${B:-\"e\" f}", "$${g", "h}", "${i j}", "$$K"]
        );
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for line in ["cd a && ./b", "a | b", "a > b", "a; b", "a $PORT", "a --port=$PORT", "a &"] {
            assert!(split(line).is_err(), "{line}");
        }
        for line in ["a http://b/?c=1&d=2", "sh -c 'a $PORT; b && c | d'", "a \"$B\" \\$C '>' $ ${D}"] {
            assert!(split(line).is_ok(), "{line}");
        }
    }
}
