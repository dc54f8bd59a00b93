//! The code in the text of a Rust file.

/// The text without comments and literals; every line is in its place.
pub fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['/', '"', '\'']) {
        code.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match rest.as_bytes() {
            [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
            [b'"', ..] if is_raw(&code) => {
                let hashes = code.len() - code.trim_end_matches('#').len();
                let end = format!("\"{}", "#".repeat(hashes));
                rest[1..].find(&end).map_or(rest.len(), |at| 1 + at + end.len())
            }
            [b'"', ..] => closing(rest, '"'),
            [b'\'', b'\\', ..] => closing(rest, '\''),
            // A character, or the name of a lifetime.
            [b'\'', ..] if rest.chars().nth(2) == Some('\'') => {
                rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at)
            }
            _ => {
                code.push_str(&rest[..1]);
                1
            }
        };
        code.extend(rest[..length].matches('\n'));
        rest = &rest[length..];
    }
    code.push_str(rest);
    code
}

/// Whether a raw literal begins after this code.
fn is_raw(code: &str) -> bool {
    let before = code.trim_end_matches('#');
    before.ends_with('r') && !before.ends_with("ar") || before.ends_with("br")
}

/// How long a literal is that `quote` opens and closes.
fn closing(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        for (text, left) in [
            ("a // b\nc", "a \nc"),
            ("a(\"b\\\"c\", d)", "a(, d)"),
            ("a(r#\"b\"c\"#, br\"d\")", "a(r#, br)"),
            ("a('\"', '\\'', 'b')", "a(, , )"),
            ("fn a<'b>(c: &'b str)", "fn a<'b>(c: &'b str)"),
            ("a(\"b\nc\") d", "a(\n) d"),
        ] {
            assert_eq!(code(text), left, "{text}");
        }
    }
}
