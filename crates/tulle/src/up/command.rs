//! Command lines: split into words, and filled in for a replica.

/// Splits a line as a shell does, with quotes and backslashes and nothing else: no shell runs it.
pub fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' => loop {
                match characters.next() {
                    Some('\'') => {
                        word.get_or_insert_default();
                        break;
                    }
                    Some(other) => word.get_or_insert_default().push(other),
                    None => return Err("a quote (') is not closed"),
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
                        None => return Err("a quote (\") is not closed"),
                    },
                    Some(other) => word.get_or_insert_default().push(other),
                    None => return Err("a quote (\") is not closed"),
                }
            },
            '\\' => match characters.next() {
                Some(quoted) => word.get_or_insert_default().push(quoted),
                None => return Err("there is nothing after the last \\"),
            },
            space if space.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Replaces `${NAME}` by the value of that name; what is not known stays as it is, for a shell.
pub fn fill(text: &str, values: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let after = &rest[start + 2..];
        let value = after.find('}').and_then(|end| {
            let value = values.iter().find(|(name, _)| *name == after[..end])?;
            Some((value, end))
        });
        match value {
            Some(((_, value), end)) => {
                out.push_str(value);
                rest = &after[end + 1..];
            }
            None => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out + rest
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
    }

    #[test]
    fn only_known_names_are_filled_in() {
        let values = [("PORT".to_owned(), "80".to_owned())];
        assert_eq!(fill("x${PORT}y${HOME} ${", &values), "x80y${HOME} ${");
    }
}
